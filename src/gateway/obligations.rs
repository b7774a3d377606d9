//! Which obligations of `o` rows the path keeps. One that it does not keep refuses the load, so that nobody believes in a row that does
//! nothing.

use std::path::Path;

use crate::config::Fault;
use crate::identity::People;
use crate::policy::suggest::did_you_mean;
use crate::policy::{Obligation, Policy};

/// Why nothing on the path keeps an obligation yet; `None` where it is kept.
fn unkept(obligation: &Obligation) -> Option<&'static str> {
    match obligation {
        Obligation::Redact => Some("redaction of results comes"),
        Obligation::Approve { .. }
        | Obligation::ApproveUser
        | Obligation::Limit(_)
        | Obligation::RecordPayload
        | Obligation::DryRun
        | Obligation::Waive => None,
    }
}

/// Refuses what cannot be kept: what this build does not know how to, and what there are not enough people for.
///
/// # Errors
/// A fault at each such row, up to 50.
pub(super) fn refuse_unkept(file: &Path, policy: &Policy, people: &People) -> Result<(), Vec<Fault>> {
    let faults = policy.rows().rules.iter().filter_map(|rule| {
        let obligation = rule.effect.obligation()?;
        let (message, help) = match (obligation, unkept(obligation)) {
            (_, Some(why)) => {
                let help = "remove the row; where the call must not run without it, write a deny instead";
                (format!("`{obligation}` cannot be kept yet: {why} with a later release"), help.to_owned())
            }
            (Obligation::Approve { role, people: needed }, None) => nobody(obligation, role, usize::from(*needed), people)?,
            _ => return None,
        };
        Some(Fault::at(file, rule.at.line.into(), rule.at.columns[6].into(), message).help(help))
    });
    let faults: Vec<Fault> = faults.take(50).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
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
