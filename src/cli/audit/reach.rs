//! `audit reach`: what an agent could call by the policies that were in force, against what it did call.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::time::time;
use super::{Asking, Error, Home};
use crate::audit::kept::Kept;
use crate::audit::reach::{InForce, Reach as Found, Reached, Whose};
use crate::catalog::Live;
use crate::cli::Failure;
use crate::cli::table::{render, safe, word};
use crate::clock::rfc3339;
use crate::gateway::{Folders, Loaded, Plan};
use crate::identity::People;
use crate::policy::Decision;
use crate::policy::past::{Stood, told};
use crate::schema::Schemas;

/// Whose reach, and over what time.
#[derive(ClapArgs, Clone, Debug)]
pub struct Reach {
    /// The agent.
    pub agent: String,
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only what it could call or has called.
    #[arg(long)]
    pub open: bool,
}

/// What the files of today say, which stands in for what was not kept.
struct Today {
    version: String,
    stood: Vec<Stood>,
    labels: HashMap<String, Vec<String>>,
}

/// Prints what the agent could and did do. Conditions of rules on arguments are not evaluated: what some arguments allow counts as open.
pub(super) fn run(asking: &Asking<'_>, home: &Home, asked: &Reach, out: &mut dyn Write) -> Result<u8, Error> {
    let now = Timestamp::now();
    let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now, &asking.print.zone)).transpose();
    let whose = Whose { agent: &asked.agent, since: at(&asked.since)?, until: at(&asked.until)? };
    let today = present(home, &asked.agent);
    let stood = today.as_ref().map_or(&[][..], |today| &today.stood);
    let mut found = asking.logs.reach(&Kept::in_dir(asking.dir), whose, stood).map_err(|error| asking.unreadable(error))?;
    let is_kept = !found.policies.is_empty() && found.policies.iter().all(|policy| policy.is_kept);
    let today = match today {
        // Something has to stand in, and nothing is there.
        Err(error) if !is_kept => return Err(error),
        today => today.ok(),
    };
    if found.policies.is_empty() {
        today.iter().flat_map(|today| &today.stood).for_each(|stood| found.stands(stood));
    }
    let labels = today.map(|today| (today.version, today.labels)).unwrap_or_default();
    let mut rows: Vec<(&String, &Reached)> =
        found.targets.iter().filter(|(_, row)| !asked.open || !row.open.is_empty() || row.called.calls > 0).collect();
    rows.sort_by_key(|(name, row)| (row.open.is_empty(), std::cmp::Reverse(row.called.calls), (*name).clone()));
    if asking.print.json {
        return Ok(programs(&found, &asked.agent, &rows, &labels, out).map(|()| 0)?);
    }
    people(asking, &found, &rows, &labels, out).map(|()| 0)
}

type Labels = (String, HashMap<String, Vec<String>>);

fn labels_of<'l>(name: &str, row: &'l Reached, (_, today): &'l Labels) -> &'l [String] {
    row.labels.as_ref().or_else(|| today.get(name)).map_or(&[], Vec::as_slice)
}

fn programs(found: &Found, agent: &str, rows: &[(&String, &Reached)], labels: &Labels, out: &mut dyn Write) -> std::io::Result<()> {
    let policy = |policy: &InForce| {
        let (from, to) = (rfc3339(policy.from), policy.to.map(rfc3339));
        json!({ "version": policy.version, "origin": policy.origin, "from": from, "to": to, "kept": policy.is_kept })
    };
    let row = |(name, row): &(&String, &Reached)| {
        let open: Vec<Value> =
            row.open.iter().map(|open| json!({ "from": rfc3339(open.from), "to": open.to.map(rfc3339), "why": open.why })).collect();
        json!({
            "target": name, "tier": row.tier, "labels": labels_of(name, row, labels), "could": !row.open.is_empty(), "always": row.is_always,
            "open": open, "shut": row.shut, "drifted": row.drifted.map(rfc3339), "calls": row.called.calls, "refused": row.called.refused,
        })
    };
    let (policies, targets) = (found.policies.iter().map(policy).collect::<Vec<_>>(), rows.iter().map(row).collect::<Vec<_>>());
    writeln!(out, "{}", json!({ "agent": agent, "policies": policies, "today": labels.0, "targets": targets }))
}

fn people(asking: &Asking<'_>, found: &Found, rows: &[(&String, &Reached)], labels: &Labels, out: &mut dyn Write) -> Result<(), Error> {
    let instant = |at: i64| asking.print.instant(at);
    let span = |from: i64, to: Option<i64>| match to {
        Some(to) => format!("{} to {}", instant(from), instant(to)),
        None => format!("from {}", instant(from)),
    };
    let cells = rows.iter().map(|(name, row)| {
        let could = match (row.open.is_empty(), row.is_always) {
            (true, _) => "no",
            (false, true) => "yes",
            (false, false) => "at times",
        };
        let reasons = if row.open.is_empty() { row.shut.iter().cloned().collect() } else { by(row) };
        let labels = labels_of(name, row, labels).join(" ");
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let why = if row.tier.is_none() { "not among the tools then".to_owned() } else { reasons.join(", ") };
        let (calls, refused) = (row.called.calls.to_string(), row.called.refused.to_string());
        vec![(*name).clone(), dash(row.tier.clone().unwrap_or_default()), dash(labels), could.to_owned(), why, calls, refused]
    });
    write!(out, "{}", render(&["TARGET", "TIER", "LABELS", "COULD", "WHY", "CALLED", "REFUSED"], &cells.collect::<Vec<_>>()))?;
    let open = rows.iter().filter(|(_, row)| !row.open.is_empty());
    writeln!(out, "{} open to it, {} of them never called", open.clone().count(), open.filter(|(_, row)| row.called.calls == 0).count())?;
    for (name, row) in rows.iter().filter(|(_, row)| !row.is_always) {
        for open in &row.open {
            writeln!(out, "at times: {} by {}, {}", safe(name), safe(&open.why), span(open.from, open.to))?;
        }
    }
    for (name, at) in rows.iter().filter_map(|(name, row)| Some((name, row.drifted?))) {
        writeln!(out, "withheld: {}, whose definition was found changed at {}", safe(name), instant(at))?;
    }
    if found.policies.is_empty() {
        writeln!(out, "by the files of today, {}: nothing is recorded of that time", labels.0)?;
        return Ok(());
    }
    writeln!(out, "by the policies that were in force:")?;
    for policy in &found.policies {
        let note = if policy.is_kept { "" } else { "; NOT KEPT, so the files of today stand in for it" };
        writeln!(out, "  {} in {}, {}{note}", word(&policy.version), word(&policy.origin), span(policy.from, policy.to))?;
    }
    if found.policies.iter().any(|policy| !policy.is_kept) {
        writeln!(out, "CAUTION: by a policy that was not kept the agent could have called other things than this says")?;
    }
    Ok(())
}

/// The rules that opened a target, each once.
fn by(row: &Reached) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for open in &row.open {
        if !all.contains(&open.why) {
            all.push(open.why.clone());
        }
    }
    all
}

/// What the policy in force now and the tools' standing say of the agent.
fn present(home: &Home, agent: &str) -> Result<Today, Error> {
    let context = home.context.as_ref().ok_or_else(|| Error::Files("no configuration was given".to_owned()))?;
    let config = context.config().map_err(|failure| Error::Files(why(failure)))?;
    let schemas = Schemas::default();
    let Loaded { catalog, policy, .. } = Folders::of(&config)
        .unsigned()
        .load(&|_| Arc::new(Live::default()), &schemas, None, &People::of(&config))
        .map_err(|faults| Error::Files(why(faults.into())))?;
    let class = policy.class(&format!("agent:{agent}"));
    let mut labels = HashMap::new();
    let stood = catalog.tools().iter().map(|tool| {
        labels.insert(tool.policy_name.to_string(), tool.labels.iter().map(|label| label.as_str().to_owned()).collect());
        let decision = policy.target(&tool.policy_name).map_or(Decision::DEFAULT, |target| policy.could(class, target));
        let (could, why) = match &tool.withheld {
            Some(standing) => (false, standing.to_string()),
            None => told(&decision, ToString::to_string),
        };
        Stood { target: tool.policy_name.to_string(), tier: tool.tier, could, why }
    });
    let stood = stood.collect();
    Ok(Today { version: policy.version().to_owned(), stood, labels })
}

fn why(failure: Failure) -> String {
    match failure {
        Failure::Faults(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Failure::Usage(text) | Failure::Upstream(text) | Failure::Sealed(text) | Failure::Other(text) => text,
        Failure::Refused(error) => error.to_string(),
    }
}
