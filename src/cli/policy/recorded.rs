//! `doorward policy explain --record`: a decision on record, with the rows that made it, and what the policy in force says of the same call.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::explain::verdict;
use super::{Files, logs};
use crate::audit::find::Asked;
use crate::audit::kept::{Kept, Sort};
use crate::audit::record::{Record, Stored};
use crate::catalog::Label;
use crate::catalog::tier::Tier;
use crate::cli::audit::asked;
use crate::cli::table::{render, safe};
use crate::cli::{Context, Failure};
use crate::policy::again::Known;
use crate::policy::compare::{Right, change};
use crate::policy::condition::word;
use crate::policy::past::{Past, Said, whole};
use crate::policy::{Flow, Policy, TOXIC_FLOW, Unclear, is_guarded};

/// Which rows say what of a call.
struct Side {
    version: String,
    verdict: String,
    permits: bool,
    /// The rules that permit it.
    rules: Vec<String>,
    /// What is asked for beside it.
    obligations: Vec<String>,
    /// The rows and what became of each; `None` where the policy was not kept.
    rows: Option<Vec<(Said, String)>>,
}

impl Side {
    fn decides_as(&self, other: &Self) -> bool {
        self.permits == other.permits && self.rules == other.rules && self.obligations == other.obligations
    }
}

/// The call that was decided: who called what.
#[derive(Clone, Copy)]
struct Call<'r> {
    agent: &'r str,
    principal: &'r str,
    target: &'r str,
    tier: Option<Tier>,
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
    let principal = format!("agent:{agent}");
    let call = Call { agent, principal: &principal, target, tier: record.tier.as_deref().and_then(Tier::parse) };
    let audit: &Path = config.audit.dir.as_ref();
    let bundle = Kept::in_dir(audit).find(Sort::Policy, record.policy_version.as_deref().unwrap_or_default());
    let by = bundle.as_ref().and_then(|bundle| whole(bundle, &files.catalog.brought()));
    let then = then(record, bundle.as_deref(), call);
    let (now, is_same) = now(&files, (record, &then, by.as_ref()), call);
    if context.json {
        println!(
            "{}",
            json!({ "origin": stored.origin, "seq": stored.seq, "call_id": record.call_id, "time": stored.time, "agent": agent, "target": target,
                "tier": record.tier, "then": told_json(&then), "now": told_json(&now), "same": is_same })
        );
    } else {
        let tier = record.tier.as_deref().map(|tier| format!(" ({tier})")).unwrap_or_default();
        println!("{}:{} at {}: agent:{} at {}{tier}", stored.origin, stored.seq, stored.time, safe(agent), safe(target));
        print!("then: {}now:  {}", told(&then), told(&now));
    }
    Ok(if is_same { 0 } else { 3 })
}

/// What the conditions came to that were asked, by their names.
fn truths(record: &Record<'_>) -> HashMap<String, String> {
    record.conditions.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn then(record: &Record<'_>, bundle: Option<&[u8]>, Call { agent, target, tier, .. }: Call<'_>) -> Side {
    let version = record.policy_version.as_deref().unwrap_or_default();
    let past = bundle.and_then(Past::read);
    let conditions = truths(record);
    let decides = |rule: &str| {
        record.rule_ids.iter().any(|id| id == rule) || record.obligations.iter().any(|obliged| obliged.split(' ').next() == Some(rule))
    };
    let rows = past.map(|past| {
        let result = |said: &Said| {
            let truth = said.condition.as_deref().and_then(|name| conditions.get(name));
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
    let asked = record.obligations.join(", ");
    let code = record.code.as_deref().unwrap_or(decision);
    let verdict = match (permits, ids.is_empty(), asked.is_empty()) {
        _ if record.limit.is_some() => format!("{code} by {}", record.limit.as_deref().unwrap_or_default()),
        (true, _, true) => format!("allowed by {ids}"),
        (true, _, false) => format!("allowed by {ids}, with {asked}"),
        (false, false, _) => format!("{code} by {ids}"),
        (false, true, _) => code.to_owned(),
    };
    let of_permit = |list: &[std::borrow::Cow<'_, str>]| if permits { list.iter().map(ToString::to_string).collect() } else { Vec::new() };
    let (rules, obligations) = (of_permit(&record.rule_ids), of_permit(&record.obligations));
    Side { version: version.to_owned(), verdict, permits, rules, obligations, rows }
}

/// The labels that the agent had met, where the record tells: they were asked for where they could matter, and nobody asked elsewhere.
fn met(record: &Record<'_>, then: &Side, by: Option<&Policy>, Call { target, tier, .. }: Call<'_>) -> Option<Vec<Label>> {
    let met: Vec<Label> = record.labels_before.iter().filter_map(|word| Label::parse(word).ok()).collect();
    let is_lifted = || record.obligations.iter().any(|obliged| obliged.contains("waive:"));
    let was_asked = by.zip(tier).is_some_and(|(by, tier)| {
        let bears = *by.flow() != Flow::Off && is_guarded(tier, by.labels(target)) && then.permits && !is_lifted();
        bears || record.rule_ids.iter().any(|id| id == TOXIC_FLOW)
    });
    (!met.is_empty() || was_asked).then_some(met)
}

/// What the policy in force says of the same call, and whether that is what was said: what conditions came to is on record, and a condition that says
/// the same came to the same. Where it hangs on others, whether the same rows bear on the call.
fn now(files: &Files, (record, then, by): (&Record<'_>, &Side, Option<&Policy>), call: Call<'_>) -> (Side, bool) {
    let Call { agent, principal, target, tier } = call;
    let (policy, known) = (&files.policy, files.target(target));
    let truth = |(name, word): (String, String)| {
        let truth = match word.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Unclear("it could not be told then")),
        };
        (name, truth)
    };
    let knowledge = Known { principal, by, truths: truths(record).into_iter().map(truth).collect(), met: met(record, then, by, call) };
    let again = known.map(|(_, tier, labels)| policy.decide_again(&knowledge, target, (tier, labels)));
    let right = known.and_then(|(_, tier, _)| policy.right(&policy.rows_of(principal), target, tier));
    let decision = again.as_ref().and_then(|again| again.decision.as_ref());
    let decides = |rule: &str| match decision {
        Some(decision) => {
            decision.rules().iter().any(|id| id.as_str() == rule)
                || decision.obligations().iter().any(|obliged| obliged.rule.as_str() == rule)
        }
        None => right.is_some(),
    };
    let result = |said: &Said| {
        let came_to = said.condition.as_ref().and_then(|name| Some((name, again.as_ref()?.truths.get(name)?)));
        match came_to {
            _ if said.through.is_empty() => "about others".to_owned(),
            _ if !said.tier.1 => "about other tiers".to_owned(),
            Some((name, truth)) if !decides(&said.rule) || decision.is_none() => format!("{name} was {}", word(*truth)),
            None if said.condition.is_some() && decision.is_none() => "hangs on the call".to_owned(),
            _ if decides(&said.rule) => "decides".to_owned(),
            _ => "overruled".to_owned(),
        }
    };
    let about = policy.said_about(agent, target, known.map(|(_, tier, _)| tier).or(tier));
    let rows = about.into_iter().map(|said| (said.clone(), result(&said))).collect();
    let mut side = Side {
        version: policy.version().to_owned(),
        verdict: "there is no such target".to_owned(),
        permits: right.is_some(),
        rules: rules_of(right.as_ref()),
        obligations: Vec::new(),
        rows: Some(rows),
    };
    match (decision, &right) {
        (Some(decision), _) => {
            side.verdict = verdict(decision);
            side.permits = decision.is_permit();
            side.rules = if side.permits { decision.rules().iter().map(ToString::to_string).collect() } else { Vec::new() };
            side.obligations = decision.obligations().iter().map(ToString::to_string).collect();
            let is_same = side.decides_as(then);
            (side, is_same)
        }
        (None, Some(right)) => {
            let more = right.told();
            let ids = side.rules.join(", ");
            side.verdict = if more == "allow" {
                format!("allowed by {ids}")
            } else {
                format!("allowed by {ids}: {}", more.trim_start_matches("allow, "))
            };
            let was = by.zip(tier).and_then(|(by, tier)| by.right(&by.rows_of(principal), target, tier));
            let is_same = rules_of(was.as_ref()) == side.rules && change(was.as_ref(), Some(right)).is_none();
            (side, is_same)
        }
        (None, None) => {
            let is_same = !then.permits;
            (side, is_same)
        }
    }
}

fn rules_of(right: Option<&Right>) -> Vec<String> {
    right.iter().flat_map(|right| right.rules()).map(ToString::to_string).collect()
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
