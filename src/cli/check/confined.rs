//! How servers on pipes will be confined, as far as can be told without starting them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::super::table;
use crate::catalog::Catalog;
use crate::catalog::transport::{Command, Transport};
use crate::sandbox::{Enforced, Ground, Level, Plan, available};

/// One server on pipes.
pub(super) struct Confined {
    upstream: String,
    minimum: Level,
    granted: Result<String, String>,
    /// The package runner that has no network.
    runner: Option<String>,
}

/// All of them, and what this machine enforces.
pub(super) fn all(catalog: &Catalog, ground: &Ground) -> (Vec<Confined>, Enforced) {
    let commands = catalog.sources().iter().filter_map(|source| match &source.manifest.transport {
        Transport::Stdio(command) => Some((source.manifest.upstream.clone(), command)),
        Transport::Http(_) => None,
    });
    let confined: Vec<Confined> = commands.map(|(upstream, command)| confined(upstream, command, ground)).collect();
    let enforced = if confined.is_empty() { Enforced::off() } else { available() };
    (confined, enforced)
}

fn confined(upstream: String, command: &Command, ground: &Ground) -> Confined {
    let environment: BTreeMap<String, OsString> =
        ["PATH", "HOME"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?))).collect();
    let granted = match Plan::of(command, ground, &environment) {
        Ok(Some(plan)) => Ok(plan.granted()),
        Ok(None) => Ok("everything: `sandbox: none`".to_owned()),
        Err(error) => Err(format!("`{}`: {error}", command.command)),
    };
    let minimum = command.sandbox.grants().map_or(Level::Off, |grants| grants.minimum);
    let runner = command.runner_without_network().map(str::to_owned);
    Confined { upstream, minimum, granted, runner }
}

/// For people; nothing where no server is on pipes.
pub(super) fn told(confined: &[Confined], enforced: &Enforced) -> String {
    if confined.is_empty() {
        return String::new();
    }
    let row = |one: &Confined| {
        let granted = one.granted.clone().unwrap_or_else(|why| format!("cannot be started: {why}"));
        vec![one.upstream.clone(), one.minimum.to_string(), granted]
    };
    let rows: Vec<_> = confined.iter().map(row).collect();
    format!("\nthis machine enforces sandboxes at the level {enforced}\n{}", table::render(&["PROCESS OF", "MINIMUM", "GRANTED"], &rows))
}

/// What an operator should know.
pub(super) fn warnings(confined: &[Confined], enforced: &Enforced) -> Vec<String> {
    let too_low = confined.iter().filter(|one| one.minimum > enforced.level).map(|one| {
        format!(
            "{} will not be started: it asks for `sandbox: {{ minimum: {} }}`, and this machine has {}",
            one.upstream, one.minimum, enforced.level
        )
    });
    let missing = confined.iter().filter_map(|one| Some(format!("{} cannot be started: {}", one.upstream, one.granted.as_ref().err()?)));
    let offline = confined.iter().filter_map(|one| {
        let runner = one.runner.as_deref()?;
        Some(format!(
            "{} is started by `{runner}` without a network, and will hardly start: grant one, or name the installed program; see docs/sandbox.md",
            one.upstream
        ))
    });
    too_low.chain(missing).chain(offline).collect()
}

/// For programs.
pub(super) fn json(confined: &[Confined], enforced: &Enforced) -> serde_json::Value {
    let one = |one: &Confined| serde_json::json!({ "upstream": one.upstream, "minimum": one.minimum, "granted": one.granted.as_ref().ok(), "error": one.granted.as_ref().err() });
    serde_json::json!({
        "level": enforced.level, "landlock": enforced.landlock, "lacks": enforced.lacks, "processes": confined.iter().map(one).collect::<Vec<_>>(),
    })
}
