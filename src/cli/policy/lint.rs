//! `doorward policy lint`: rows that do nothing, reach too far, or name what is not there.

use serde_json::json;

use super::Files;
use crate::cli::{Context, Failure};
use crate::policy::Warning;

/// Arguments of `doorward policy lint`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy lint --allow over-broad\n\nExit codes: 0 nothing is odd, 2 a fault in a file, 3 something is odd."
)]
pub struct Args {
    /// Kinds of oddities that are no failure, as they stand in brackets behind each.
    #[arg(long, value_name = "KIND")]
    allow: Vec<String>,
}

/// Looks and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let Files { policy, warnings, .. } = Files::load(context)?;
    let is_allowed = |warning: &&Warning| args.allow.iter().any(|kind| kind == warning.lint.as_str());
    let (allowed, odd): (Vec<_>, Vec<_>) = warnings.iter().partition(is_allowed);
    if context.json {
        let told = |warning: &&Warning| {
            let fault = &warning.fault;
            json!({ "kind": warning.lint.as_str(), "file": fault.file, "line": fault.line, "column": fault.column, "message": fault.message, "help": fault.help,
                "allowed": is_allowed(warning) })
        };
        println!("{}", json!({ "policy_version": policy.version(), "odd": odd.iter().chain(&allowed).map(told).collect::<Vec<_>>() }));
    } else {
        odd.iter().for_each(|warning| println!("{warning}"));
        println!("{} odd, {} allowed; {} rows", odd.len(), allowed.len(), policy.rows().rules.len());
    }
    Ok(if odd.is_empty() { 0 } else { 3 })
}
