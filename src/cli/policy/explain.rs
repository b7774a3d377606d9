//! `doorward policy explain`: one call, and the rows about it.

use serde_json::json;

use super::{Files, recorded};
use crate::catalog::Label;
use crate::cli::{Context, Failure, call, table};
use crate::clock::Clock;
use crate::config::check_name;
use crate::identity::Principal;
use crate::mcp::json::{self, Limits};
use crate::policy::condition::word;
use crate::policy::{Call, Decision, Explanation, Finding};
use crate::run::Before;

/// Arguments of `doorward policy explain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward policy explain demo__write_note name=todo text=milk --as demo\n  doorward policy explain demo__delete_note --as demo\n  doorward policy explain demo__share_note name=todo --as demo --met private --met untrusted\n  doorward policy explain --record 42\n\nNothing is called. Arguments are written as for `doorward call`."
)]
pub struct Args {
    /// The tool, or a prompt or resource as rows name it.
    #[arg(required_unless_present = "record")]
    target: Option<String>,
    /// The arguments: `key=text` or `key:=JSON`.
    arguments: Vec<String>,
    /// The agent that would call.
    #[arg(long = "as", value_name = "AGENT", required_unless_present = "record")]
    agent: Option<String>,
    /// When it would call, as an RFC 3339 time. Default now.
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    /// A label that the agent has met before: `private`, `untrusted`, `outward`, `team:NAME`; may be repeated. Default none.
    #[arg(long, value_name = "LABEL")]
    met: Vec<Label>,
    /// How many calls it has made before of those that a condition counts, as `OF=N`; may be repeated. Default none.
    #[arg(long, value_name = "OF=N", value_parser = made)]
    made: Vec<(String, u64)>,
    /// A call on record instead, then and now: `SEQ`, `ORIGIN/SEQ` or its id, as for `doorward audit show`.
    #[arg(long, value_name = "RECORD", conflicts_with_all = ["target", "arguments", "agent", "at", "met", "made"])]
    record: Option<String>,
}

fn made(text: &str) -> Result<(String, u64), String> {
    let parts = text.rsplit_once('=').and_then(|(of, made)| Some((of.to_owned(), made.parse().ok()?)));
    parts.ok_or_else(|| "write OF=N, such as `mail__*=3`".to_owned())
}

/// Explains and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let (target, agent) = match (&args.record, &args.target, &args.agent) {
        (Some(record), ..) => return recorded::run(context, record),
        (None, Some(target), Some(agent)) => (target, agent),
        (None, ..) => return Err(Failure::Usage("a target and `--as AGENT`, or `--record RECORD`".to_owned())),
    };
    check_name(agent).map_err(Failure::Usage)?;
    let files = Files::load(context)?;
    let (target, tier, labels) =
        files.target(target).ok_or_else(|| Failure::Usage(format!("there is no target `{}`", table::safe(target))))?;
    let text = call::together(&args.arguments)?;
    let arguments = json::parse(text.as_bytes(), Limits::default()).map_err(|error| Failure::Usage(error.to_string()))?;
    let clock = clock(args.at);
    let principal = Principal::local(agent, "admin");
    let before = Before::given(&args.met, args.made.clone());
    let call = Call { principal: &principal, target, tier, labels, before: &before, arguments: Some(&arguments), clock: &clock };
    let explanation = files.policy.explain(&call);
    if context.json {
        println!("{}", json(&explanation, target, files.policy.version()));
    } else {
        print!("{}", told(&explanation, agent, target, tier.as_str()));
    }
    Ok(if explanation.decision.is_permit() { 0 } else { 3 })
}

/// A clock that stands at the time, or the machine's.
pub(super) fn clock(at: Option<jiff::Timestamp>) -> Clock {
    at.map_or_else(Clock::system, |at| Clock::fixed(i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)))
}

/// `allowed by R1, with O1 limit:5/min`, `denied by D1`, `denied: no rule allows it`.
pub(super) fn verdict(decision: &Decision<'_>) -> String {
    let rules = decision.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>().join(", ");
    let obligations = decision.obligations().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (decision.is_permit(), rules.is_empty(), obligations.is_empty()) {
        (true, _, true) => format!("allowed by {rules}"),
        (true, _, false) => format!("allowed by {rules}, with {obligations}"),
        (false, false, _) => format!("denied by {rules}"),
        (false, true, _) => "denied: no rule allows it".to_owned(),
    }
}

fn told(explanation: &Explanation, agent: &str, target: &str, tier: &str) -> String {
    let rows: Vec<Vec<String>> = explanation.rows.iter().map(row).collect();
    let head = format!("agent:{agent} at {} ({tier}): {}\n", table::safe(target), verdict(&explanation.decision));
    match rows.is_empty() {
        true => format!("{head}no row is about it\n"),
        false => format!("{head}{}", table::render(&["RULE", "THROUGH", "TIER", "CONDITION", "EFFECT", "RESULT"], &rows)),
    }
}

fn row(row: &Finding) -> Vec<String> {
    let through = if row.through.is_empty() { format!("({})", row.subject) } else { row.through.join(" > ") };
    let condition = row.when.as_ref().map(|(name, truth)| match truth {
        Err(why) => format!("{name}: {why}"),
        known => format!("{name}: {}", word(*known)),
    });
    let (id, effect) = (row.rule.to_string(), row.effect.to_string());
    vec![id, through, row.bound.as_str().to_owned(), condition.unwrap_or_else(|| "-".to_owned()), effect, row.standing.as_str().to_owned()]
}

fn json(explanation: &Explanation, target: &str, version: &str) -> serde_json::Value {
    let decision = &explanation.decision;
    let rows = explanation.rows.iter().map(|row| {
        json!({
            "rule": row.rule.as_str(), "subject": row.subject, "through": row.through, "tier": row.bound.as_str(),
            "condition": row.when.as_ref().map(|(name, truth)| json!({ "name": name, "truth": word(*truth), "why": truth.err().map(|why| why.0) })),
            "effect": row.effect.to_string(), "result": row.standing.as_str(),
        })
    });
    json!({
        "target": target, "decision": if decision.is_permit() { "allow" } else { "deny" },
        "rules": decision.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>(),
        "obligations": decision.obligations().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(), "policy_version": version,
    })
}
