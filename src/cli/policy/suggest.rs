//! `doorward policy suggest`: a patch that takes back what nobody used.
//!
//! Leaves to `policy::narrow` what goes; here it is weighed against the policy in force before it is shown: a patch that permitted more would be none.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use similar::TextDiff;

use super::rights::more;
use super::{loaded, logs, span};
use crate::audit::decisions::{Decided, Times};
use crate::catalog::tier::Tier;
use crate::cli::{Context, Failure};
use crate::clock::rfc3339;
use crate::config::{Config, read_text};
use crate::gateway::{Folders, Loaded};
use crate::policy::narrow::{Narrowing, Pairs, Used};
use crate::policy::{Flow, Options, Policy};

/// Nanoseconds in a week: what is used once a week is not seen in less.
const WEEK: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Arguments of `doorward policy suggest`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy suggest --since 30d > least.patch\n  patch -p0 < least.patch\n\nA role keeps what half of its agents used. Nothing is changed by itself. Exit codes: 0 done, with or without a patch, 2 a fault in a file."
)]
pub struct Args {
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// What was used, and when.
#[derive(Default)]
struct Evidence {
    used: Used,
    calls: u64,
    time: Option<(i64, i64)>,
}

/// Looks and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let (since, until) = span(args.since.as_deref(), args.until.as_deref())?;
    let mut evidence = Evidence::default();
    for (decided, times) in logs(&config)?.decisions(since, until).map_err(Failure::other)? {
        evidence.take(decided, times);
    }
    let agents = Folders::of(&config).known().unwrap_or_default();
    evidence.used.agents = agents.into_iter().map(|agent| format!("agent:{agent}")).collect();
    let today = loaded(&config, config.policies.as_ref())?;
    let file = config.policies.as_ref().join("policy.csv");
    let text = read_text(&file).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    let changes = if evidence.calls == 0 { Vec::new() } else { today.policy.narrowed(&evidence.used) };
    let edited = edited(&text, &changes);
    let candidate = candidate(&config, &today, &file, &edited)?;
    let targets: Vec<(&str, Tier)> = today.catalog.tools().iter().map(|tool| (&*tool.policy_name, tool.tier)).collect();
    if let Some(more) = more(&today.policy, &candidate, &targets) {
        return Err(Failure::Other(format!("no suggestion: it would permit more than today ({more})")));
    }
    let pairs = (today.policy.pairs(&evidence.used), candidate.pairs(&evidence.used));
    let patch = TextDiff::from_lines(&text, &edited).unified_diff().header(&file.to_string_lossy(), &file.to_string_lossy()).to_string();
    if context.json {
        let list: Vec<_> = changes.iter().map(told_json).collect();
        let time = evidence.time.map(|(first, last)| json!({ "first": rfc3339(first), "last": rfc3339(last) }));
        let counts = |pairs: Pairs| json!({ "permitted": pairs.permitted, "used": pairs.used });
        println!(
            "{}",
            json!({ "policy_version": today.policy.version(), "calls": evidence.calls, "time": time, "changes": list, "today": counts(pairs.0),
                "then": counts(pairs.1), "patch": patch })
        );
        return Ok(0);
    }
    print!("{}{patch}", told(&evidence, &changes, pairs));
    Ok(0)
}

impl Evidence {
    fn take(&mut self, decided: Decided, times: Times) {
        if decided.permitted {
            self.used.pairs.insert((decided.principal, decided.target));
            self.calls += times.count;
        }
        let (first, last) = self.time.unwrap_or((times.first, times.last));
        self.time = Some((first.min(times.first), last.max(times.last)));
    }
}

/// The file with other rows in the places of some.
fn edited(text: &str, changes: &[Narrowing<'_>]) -> String {
    let mut out = String::new();
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        match changes.iter().find(|change| change.line == number) {
            None => out.push_str(line),
            Some(change) => out.extend(change.rows.iter().flat_map(|row| [row, "\n"])),
        }
    }
    out
}

/// The policy that the edited file is, read as the gateway reads it.
fn candidate(config: &Config, today: &Loaded, file: &Path, text: &str) -> Result<Policy, Failure> {
    let conditions = config.policies.as_ref().join("conditions.yaml");
    let upstreams = today.catalog.sources().iter().map(|source| source.manifest.upstream.clone()).collect();
    let options = Options {
        upstreams,
        conditions: read_text(&conditions).unwrap_or_default(),
        limits: today.limits.text().to_owned(),
        labels: today.catalog.tools().iter().map(|tool| tool.labels.clone()).collect(),
        brought: today.catalog.brought(),
        flow: Flow::of(&config.labels.toxic_flow),
        ..Options::default()
    };
    Ok(Policy::parse(file, text, &crate::gateway::targets(&today.catalog), &options)?.0)
}

fn told_json(change: &Narrowing<'_>) -> serde_json::Value {
    json!({ "line": change.line, "rule": change.rule.as_ref().map(|rule| rule.as_str()), "rows": change.rows,
        "agents": { "reached": change.agents.0, "used": change.agents.1 }, "targets": { "reached": change.targets.0, "used": change.targets.1 } })
}

/// The evidence, in lines that a patch may have before its first file.
fn told(evidence: &Evidence, changes: &[Narrowing<'_>], (today, then): (Pairs, Pairs)) -> String {
    let Some((first, last)) = evidence.time.filter(|_| evidence.calls > 0) else {
        return "# No permitted call is on record for this time: nothing can be told of what is used.\n".to_owned();
    };
    let mut out = format!("# {} permitted calls from {} to {}.\n", evidence.calls, rfc3339(first), rfc3339(last));
    if last - first < WEEK {
        out += "# That is less than a week: what is needed once a week or a month may not have been seen.\n";
    }
    for change in changes {
        let becomes = if change.rows.is_empty() { "goes" } else { "is narrowed" };
        let line = change.line;
        let _ = match &change.rule {
            None => writeln!(out, "# line {line}: the grant goes: nothing that the role permits was used through it."),
            Some(rule) if change.targets.1 == 0 => {
                writeln!(out, "# {rule} (line {line}) goes: none of its {} agents used it.", change.agents.0)
            }
            Some(rule) => {
                let ((agents, active), (targets, used)) = (change.agents, change.targets);
                writeln!(out, "# {rule} (line {line}) {becomes}: {active} of {agents} agents used {used} of {targets} targets of it.")
            }
        };
    }
    if changes.is_empty() {
        out += "# Every allow and every grant was used as far as it reaches.\n";
    }
    let _ = writeln!(
        out,
        "# Pairs of agent and tool: {} permitted today and {} with this, {} used.",
        today.permitted, then.permitted, today.used
    );
    out
}
