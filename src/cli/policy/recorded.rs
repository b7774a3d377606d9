//! `doorward policy explain --record`: a decision on record, with the rows that made it, and what the policy in force says of the same call.

use std::path::Path;

use serde_json::{Value, json};

use super::{Files, logs};
use crate::audit::find::Asked;
use crate::audit::kept::{Kept, Sort};
use crate::audit::record::{Record, Stored};
use crate::catalog::tier::Tier;
use crate::cli::audit::asked;
use crate::cli::table::{render, safe};
use crate::cli::{Context, Failure};
use crate::policy::past::{Past, Said};

/// Which rows say what of a call.
struct Side {
    version: String,
    verdict: String,
    permits: bool,
    /// The rules that permit it.
    rules: Vec<String>,
    /// The rows and what became of each; `None` where the policy was not kept.
    rows: Option<Vec<(Said, String)>>,
}

/// Explains and prints.
pub(super) fn run(context: &Context, what: &str) -> Result<u8, Failure> {
    let config = context.config()?;
    let found = logs(&config)?.show(&asked(what)).map_err(Failure::other)?;
    // A call of several rounds has several intents: the one asked for, or the first.
    let is_asked = |stored: &&Stored| match asked(what) {
        Asked::Place(_, seq) => stored.seq == seq,
        Asked::Call(_) => true,
    };
    let decided = || found.records.iter().filter(|stored| stored.record.decision.is_some());
    let stored = decided().find(is_asked).or_else(|| decided().next());
    let stored = stored.ok_or_else(|| Failure::Usage(format!("`{}` is no call on which anything was decided", safe(what))))?;
    let record = &stored.record;
    let (Some(agent), Some(target)) = (record.agent.as_deref(), record.target.as_deref()) else {
        return Err(Failure::Usage(format!("`{}` names no agent and target", safe(what))));
    };
    let files = Files::load(context)?;
    let tier = record.tier.as_deref().and_then(Tier::parse);
    let (then, now) = (then(record, config.audit.dir.as_ref(), (agent, target, tier)), now(&files, agent, target, tier));
    if context.json {
        println!(
            "{}",
            json!({ "origin": stored.origin, "seq": stored.seq, "call_id": record.call_id, "time": stored.time, "agent": agent, "target": target,
                "tier": record.tier, "then": told_json(&then), "now": told_json(&now) })
        );
    } else {
        let tier = record.tier.as_deref().map(|tier| format!(" ({tier})")).unwrap_or_default();
        println!("{}:{} at {}: agent:{} at {}{tier}", stored.origin, stored.seq, stored.time, safe(agent), safe(target));
        print!("then: {}now:  {}", told(&then), told(&now));
    }
    Ok(if then.permits == now.permits && then.rules == now.rules { 0 } else { 3 })
}

fn then(record: &Record<'_>, audit: &Path, (agent, target, tier): (&str, &str, Option<Tier>)) -> Side {
    let version = record.policy_version.as_deref().unwrap_or_default();
    let past = Kept::in_dir(audit).find(Sort::Policy, version).and_then(|bundle| Past::read(&bundle));
    let conditions: Value = record.conditions.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let decides = |rule: &str| {
        record.rule_ids.iter().any(|id| id == rule) || record.obligations.iter().any(|obliged| obliged.split(' ').next() == Some(rule))
    };
    let rows = past.map(|past| {
        let result = |said: &Said| {
            let truth = said.condition.as_deref().and_then(|name| conditions.get(name)).and_then(Value::as_str);
            match truth {
                _ if decides(&said.rule) => "decided".to_owned(),
                _ if said.through.is_empty() => "about others".to_owned(),
                _ if !said.tier.1 => "about other tiers".to_owned(),
                Some(truth) => format!("{} was {truth}", said.condition.as_deref().unwrap_or_default()),
                None => "overruled".to_owned(),
            }
        };
        past.rows_about(agent, target, tier).into_iter().map(|said| (said.clone(), result(&said))).collect()
    });
    let decision = record.decision.as_deref().unwrap_or_default();
    // A limit refuses what the policy permits.
    let permits = matches!(decision, "allow" | "needs_approval" | "limit");
    let ids = record.rule_ids.join(", ");
    let obligations = record.obligations.join(", ");
    let code = record.code.as_deref().unwrap_or(decision);
    let verdict = match (permits, ids.is_empty(), obligations.is_empty()) {
        _ if record.limit.is_some() => format!("{code} by {}", record.limit.as_deref().unwrap_or_default()),
        (true, _, true) => format!("allowed by {ids}"),
        (true, _, false) => format!("allowed by {ids}, with {obligations}"),
        (false, false, _) => format!("{code} by {ids}"),
        (false, true, _) => code.to_owned(),
    };
    let rules = if permits { record.rule_ids.iter().map(ToString::to_string).collect() } else { Vec::new() };
    Side { version: version.to_owned(), verdict, permits, rules, rows }
}

/// What the policy in force says, as far as it can be told without the arguments, of which records have little in clear.
fn now(files: &Files, agent: &str, target: &str, tier: Option<Tier>) -> Side {
    let known = files.target(target).map(|(_, tier, _)| tier);
    let policy = &files.policy;
    let right = known.and_then(|tier| policy.right(&policy.rows_of(&format!("agent:{agent}")), target, tier));
    let result = |said: &Said| match () {
        () if said.through.is_empty() => "about others".to_owned(),
        () if !said.tier.1 => "about other tiers".to_owned(),
        () if said.condition.is_some() => "hangs on the call".to_owned(),
        () if right.is_none() && said.effect != "deny" => "overruled".to_owned(),
        () => "decides".to_owned(),
    };
    let rows = policy.said_about(agent, target, known.or(tier)).into_iter().map(|said| (said.clone(), result(&said))).collect();
    let verdict = match (&right, known) {
        (_, None) => "there is no such target".to_owned(),
        (None, _) => "denied".to_owned(),
        (Some(right), _) => {
            let ids = right.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>().join(", ");
            let more = right.told();
            if more == "allow" { format!("allowed by {ids}") } else { format!("allowed by {ids}: {}", more.trim_start_matches("allow, ")) }
        }
    };
    let rules = right.iter().flat_map(|right| right.rules()).map(ToString::to_string).collect();
    Side { version: policy.version().to_owned(), verdict, permits: right.is_some(), rules, rows: Some(rows) }
}

fn told(side: &Side) -> String {
    let version = if side.version.is_empty() { "no policy" } else { &side.version };
    let head = format!("{} ({})\n", safe(&side.verdict), safe(version));
    let row = |(said, result): &(Said, String)| {
        let through = if said.through.is_empty() { format!("({})", said.subject) } else { said.through.join(" > ") };
        let condition = said.condition.clone().unwrap_or_else(|| "-".to_owned());
        vec![said.rule.clone(), through, said.tier.0.clone(), condition, said.effect.clone(), result.clone()]
    };
    match &side.rows {
        None => format!("{head}its rows were not kept\n"),
        Some(rows) if rows.is_empty() => format!("{head}no row is about it\n"),
        Some(rows) => {
            let rows: Vec<_> = rows.iter().map(row).collect();
            format!("{head}{}", render(&["RULE", "THROUGH", "TIER", "CONDITION", "EFFECT", "RESULT"], &rows))
        }
    }
}

fn told_json(side: &Side) -> Value {
    let row = |(said, result): &(Said, String)| {
        json!({ "rule": said.rule, "subject": said.subject, "through": said.through, "tier": said.tier.0, "condition": said.condition, "effect": said.effect,
            "result": result })
    };
    let rows = side.rows.as_ref().map(|rows| rows.iter().map(row).collect::<Vec<_>>());
    json!({ "policy_version": side.version, "permits": side.permits, "verdict": side.verdict, "rows": rows })
}
