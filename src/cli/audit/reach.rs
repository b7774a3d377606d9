//! `audit reach`: what an agent could call by the files in force, against what it did call.

use std::io::Write;
use std::sync::Arc;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::json;

use super::time::time;
use super::{Asking, Error, Home};
use crate::audit::stats::Tally;
use crate::catalog::Live;
use crate::cli::Failure;
use crate::cli::table::render;
use crate::gateway::{Folders, Loaded, Plan};
use crate::policy::{Decision, RuleId};
use crate::schema::Schemas;

/// Whose reach, and since when.
#[derive(ClapArgs, Clone, Debug)]
pub struct Reach {
    /// The agent.
    pub agent: String,
    /// What it called is counted from here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what it can call or has called.
    #[arg(long)]
    pub open: bool,
}

/// What it comes to for one tool.
struct Row {
    target: String,
    tier: String,
    labels: Vec<String>,
    could: bool,
    why: String,
    called: Tally,
}

/// Prints what the agent could and did do. Conditions of rules on arguments are not evaluated: what some arguments allow counts as open.
pub(super) fn run(asking: &Asking<'_>, home: &Home, asked: &Reach, out: &mut dyn Write) -> Result<u8, Error> {
    let now = Timestamp::now();
    let since = asked.since.as_deref().map(|text| time(text, now, &asking.print.zone)).transpose()?;
    let stats = asking.logs.stats(since, None, Some(&asked.agent)).map_err(|error| asking.unreadable(error))?;
    let (version, mut rows) = present(home, &asked.agent)?;
    for (target, tally) in stats.targets.sorted() {
        match rows.iter_mut().find(|row| row.target == *target) {
            Some(row) => row.called = tally.clone(),
            None => rows.push(Row {
                target: target.clone(),
                tier: "-".to_owned(),
                labels: Vec::new(),
                could: false,
                why: "not among the tools now".to_owned(),
                called: tally.clone(),
            }),
        }
    }
    rows.retain(|row| !asked.open || row.could || row.called.calls > 0);
    rows.sort_by_key(|row| (!row.could, std::cmp::Reverse(row.called.calls), row.target.clone()));
    let others: Vec<&String> = stats.policies.keys().filter(|recorded| **recorded != version).collect();
    if asking.print.json {
        let row = |row: &Row| {
            json!({
                "target": row.target, "tier": row.tier, "labels": row.labels, "could": row.could, "why": row.why, "calls": row.called.calls,
                "refused": row.called.refused
            })
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        writeln!(out, "{}", json!({ "agent": asked.agent, "policy_version": version, "other_policies": others, "targets": rows }))?;
        return Ok(0);
    }
    let cells = rows.iter().map(|row| {
        let could = if row.could { "yes" } else { "no" };
        let labels = if row.labels.is_empty() { "-".to_owned() } else { row.labels.join(" ") };
        let (calls, refused) = (row.called.calls.to_string(), row.called.refused.to_string());
        vec![row.target.clone(), row.tier.clone(), labels, could.to_owned(), row.why.clone(), calls, refused]
    });
    write!(out, "{}", render(&["TARGET", "TIER", "LABELS", "COULD", "WHY", "CALLED", "REFUSED"], &cells.collect::<Vec<_>>()))?;
    let unused = rows.iter().filter(|row| row.could && row.called.calls == 0).count();
    writeln!(out, "{} open to it, {unused} of them never called", rows.iter().filter(|row| row.could).count())?;
    writeln!(out, "by the policy in force now, {version}")?;
    if !others.is_empty() {
        writeln!(
            out,
            "CAUTION: {} records were made under {} other policies, by which it could call other things then; the newest of them are found with\n  \
             doorward audit find --kind policy_change",
            others.iter().filter_map(|other| stats.policies.get(*other)).sum::<u64>(),
            others.len()
        )?;
    }
    Ok(0)
}

/// The version of the policy in force, and what it and the tools' standing say of the agent.
fn present(home: &Home, agent: &str) -> Result<(String, Vec<Row>), Error> {
    let context = home.context.as_ref().ok_or_else(|| Error::Files("no configuration was given".to_owned()))?;
    let config = context.config().map_err(|failure| Error::Files(told(failure)))?;
    let schemas = Schemas::default();
    let Loaded { catalog, policy, .. } =
        Folders::of(&config).load(&|_| Arc::new(Live::default()), &schemas, None).map_err(|faults| Error::Files(told(faults.into())))?;
    let class = policy.class(&format!("agent:{agent}"));
    let rules = |rules: &[RuleId]| rules.iter().map(RuleId::as_str).collect::<Vec<_>>().join(" ");
    let rows = catalog.tools().iter().map(|tool| {
        let decision = policy.target(&tool.policy_name).map_or(Decision::DEFAULT, |target| policy.could(class, target));
        let (could, why) = match (&tool.withheld, &decision) {
            (Some(standing), _) => (false, standing.to_string()),
            (None, Decision::Permit { rules: by, .. }) => (true, rules(by)),
            (None, Decision::Deny { rules: by }) if by.is_empty() => (false, "no rule allows it".to_owned()),
            (None, Decision::Deny { rules: by }) => (false, format!("denied by {}", rules(by))),
        };
        let labels = tool.labels.iter().filter_map(|label| Some(serde_json::to_value(label).ok()?.as_str()?.to_owned())).collect();
        Row { target: tool.policy_name.to_string(), tier: tool.tier.to_string(), labels, could, why, called: Tally::default() }
    });
    Ok((policy.version().to_owned(), rows.collect()))
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Faults(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Failure::Usage(text) | Failure::Upstream(text) | Failure::Other(text) => text,
        Failure::Refused(error) => error.to_string(),
    }
}
