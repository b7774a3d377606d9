//! Which obligations of `o` rows the path keeps. One that it does not keep refuses the load, so that nobody believes in a row that does
//! nothing.

use std::path::Path;

use crate::config::Fault;
use crate::policy::{Obligation, Policy};

/// Why nothing on the path keeps an obligation yet; `None` where it is kept.
fn unkept(obligation: &Obligation) -> Option<&'static str> {
    match obligation {
        Obligation::Approve { .. } | Obligation::ApproveUser => Some("approvals come"),
        Obligation::Redact => Some("redaction of results comes"),
        Obligation::DryRun => Some("dry runs come"),
        Obligation::Limit(_) | Obligation::RecordPayload => None,
    }
}

/// Refuses what cannot be kept.
///
/// # Errors
/// A fault at each such row, up to 50.
pub(super) fn refuse_unkept(file: &Path, policy: &Policy) -> Result<(), Vec<Fault>> {
    let faults = policy.rows().rules.iter().filter_map(|rule| {
        let obligation = rule.effect.obligation()?;
        let message = format!("`{obligation}` cannot be kept yet: {} with a later release", unkept(obligation)?);
        let help = "remove the row; where the call must not run without it, write a deny instead";
        Some(Fault::at(file, rule.at.line.into(), rule.at.columns[6].into(), message).help(help))
    });
    let faults: Vec<Fault> = faults.take(50).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
