//! Which `o` rows the path can keep. One that it cannot refuses the load, so that nobody believes in a row that does nothing.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::objective::OnBurn;
use crate::config::{Fault, fault_at, read_text};
use crate::identity::People;
use crate::policy::suggest::did_you_mean;
use crate::policy::{Obligation, Policy};

/// Refuses what cannot be kept: what there are not enough people for, and the redaction of what has no fields.
///
/// # Errors
/// A fault at each such row, up to 50.
pub(super) fn refuse_unkept(file: &Path, policy: &Policy, people: &People) -> Result<(), Vec<Fault>> {
    let faults = policy.rows().rules.iter().filter_map(|rule| {
        let obligation = rule.effect.obligation()?;
        let (message, help) = match obligation {
            Obligation::Approve { role, people: needed } => nobody(obligation, role, usize::from(*needed), people)?,
            Obligation::Redact(_) => no_tool(obligation, &rule.pattern.to_string())?,
            Obligation::ApproveUser | Obligation::Limit(_) | Obligation::RecordPayload | Obligation::DryRun | Obligation::Waive => {
                return None;
            }
        };
        Some(Fault::at(file, rule.at.line.into(), rule.at.columns[6].into(), message).help(help))
    });
    let faults: Vec<Fault> = faults.take(50).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Refuses objectives that ask people who are not there.
///
/// # Errors
/// A fault in each manifest that has such.
pub(super) fn refuse_unheard(folder: &Path, catalog: &Catalog, people: &People) -> Result<(), Vec<Fault>> {
    let faults = catalog.sources().iter().filter_map(|source| {
        let manifest = &source.manifest;
        let of = |on_burn: &Option<OnBurn>| match on_burn {
            Some(OnBurn::Approve(role)) => nobody(&Obligation::Approve { role: Arc::clone(role), people: 1 }, role, 1, people),
            _ => None,
        };
        let mut tools = manifest.tools.iter().filter_map(|(tool, entry)| Some((vec!["tools", tool, "on_burn"], of(&entry.on_burn)?)));
        let own = of(&manifest.defaults.on_burn).map(|wrong| (vec!["defaults", "on_burn"], wrong));
        let (at, (message, help)) = tools.next().or(own)?;
        let file = folder.join(format!("{}.yaml", manifest.upstream));
        Some(fault_at(&file, &read_text(&file).unwrap_or_default(), &at, message).help(help))
    });
    let faults: Vec<Fault> = faults.collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// What is wrong with a row that redacts what is no tool's result.
fn no_tool(obligation: &Obligation, pattern: &str) -> Option<(String, String)> {
    let kind = ["prompt", "resource"].into_iter().find(|kind| pattern.starts_with(&format!("{kind}:")))?;
    let message = format!("`{obligation}` cannot be kept: a {kind} has no fields that a pointer could name");
    Some((message, "name tools in the row; where a prompt or resource must not be read, write a deny".to_owned()))
}

/// What is wrong with a row that asks for more people than there are, and what to do.
fn nobody(obligation: &Obligation, role: &str, needed: usize, people: &People) -> Option<(String, String)> {
    let names: Vec<&str> = people.having(role).collect();
    let have = match names.as_slice() {
        names if names.len() >= needed => return None,
        [] => "nobody with a key has".to_owned(),
        [name] => format!("only {name} has"),
        names => format!("only {} have", names.join(" and ")),
    };
    let otherwise = format!(
        "give `{role}` to people of `people` in doorward.yaml who have a `key_hash`: `doorward approvals keygen NAME --out FILE` makes one"
    );
    let help = if names.is_empty() { did_you_mean(role, people.roles(), otherwise) } else { otherwise };
    Some((format!("`{obligation}` cannot be kept: {have} the role `{role}`"), help))
}
