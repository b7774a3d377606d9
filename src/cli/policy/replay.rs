//! `doorward policy replay`: what a candidate policy would have decided of the calls that are on record.

use std::path::PathBuf;

use serde_json::json;

use super::{loaded, logs, span};
use crate::audit::decisions::{Decided, Times};
use crate::catalog::tier::Tier;
use crate::cli::{Context, Failure, table};
use crate::clock::rfc3339;
use crate::gateway::Loaded;
use crate::policy::Policy;
use crate::policy::compare::{Right, change};

/// Arguments of `doorward policy replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy replay --since 7d --policy policies.new\n\nNothing is called. Exit codes: 0 every call would be decided as it was, 2 a fault in a file, 3 some would not, or it cannot be told."
)]
pub struct Args {
    /// The folder of the candidate.
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// What the candidate says of a recorded decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Denied,
    Allowed,
    /// It asks for more than the policy in force.
    Asks,
    /// It asks for less.
    AsksLess,
    /// It hangs on the arguments, of which records have only what is declared plain, or on what the agent did before.
    Undecidable,
    /// There is no such target today, so neither policy says anything of it.
    Unknown,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Denied => "would be denied",
            Self::Allowed => "would be allowed",
            Self::Asks => "would be allowed, and more is asked for",
            Self::AsksLess => "would be allowed, and less is asked for",
            Self::Undecidable => "hangs on conditions",
            Self::Unknown => "no such target today",
        }
    }
}

/// Replays and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let (since, until) = span(args.since.as_deref(), args.until.as_deref())?;
    let (today, candidate) = (loaded(&config, config.policies.as_ref())?, loaded(&config, &args.policy)?);
    let decisions = logs(&config)?.decisions(since, until).map_err(Failure::other)?;
    let told: Vec<(&Decided, &Times, Verdict, String)> = decisions
        .iter()
        .map(|(decided, times)| {
            let (verdict, by) = verdict(&today, &candidate.policy, decided);
            (decided, times, verdict, by)
        })
        .collect();
    let calls = |wanted: &[Verdict]| {
        told.iter().filter(|(_, _, verdict, _)| wanted.contains(verdict)).map(|(_, times, ..)| times.count).sum::<u64>()
    };
    let (changed, unclear) =
        (calls(&[Verdict::Denied, Verdict::Allowed, Verdict::Asks, Verdict::AsksLess]), calls(&[Verdict::Undecidable]));
    let (same, unknown) = (calls(&[Verdict::Same]), calls(&[Verdict::Unknown]));
    let differing = || told.iter().filter(|(_, _, verdict, _)| !matches!(verdict, Verdict::Same | Verdict::Unknown));
    let was = |decided: &Decided| if decided.permitted { "allowed" } else { "denied" };
    if context.json {
        let list = differing().map(|(decided, times, verdict, by)| {
            json!({ "principal": decided.principal, "target": decided.target, "tier": decided.tier, "was": was(decided), "verdict": verdict.as_str(),
                "by": by, "calls": times.count, "first": rfc3339(times.first), "last": rfc3339(times.last) })
        });
        let list: Vec<_> = list.collect();
        let counts = json!({ "same": same, "changed": changed, "undecidable": unclear, "unknown": unknown });
        println!("{}", json!({ "from": today.policy.version(), "to": candidate.policy.version(), "decisions": list, "calls": counts }));
    } else {
        let row = |(decided, times, verdict, by): &(&Decided, &Times, Verdict, String)| {
            let words =
                [decided.principal.as_str(), decided.target.as_str(), was(decided), verdict.as_str(), by.as_str()].map(str::to_owned);
            words.into_iter().chain([times.count.to_string(), rfc3339(times.last)]).collect::<Vec<_>>()
        };
        let rows: Vec<_> = differing().map(row).collect();
        if !rows.is_empty() {
            print!("{}", table::render(&["WHO", "TARGET", "WAS", "NOW", "BY", "CALLS", "LAST"], &rows));
        }
        println!(
            "calls: {same} decided as they were, {changed} otherwise, {unclear} that hang on conditions, {unknown} of targets that are no more"
        );
    }
    Ok(if changed + unclear > 0 { 3 } else { 0 })
}

fn verdict(today: &Loaded, candidate: &Policy, decided: &Decided) -> (Verdict, String) {
    let known = today.catalog.tools().iter().find(|tool| *tool.policy_name == *decided.target).map(|tool| tool.tier);
    let named = || decided.target.starts_with("prompt:") || decided.target.starts_with("resource:");
    let Some(tier) = known.or_else(|| named().then_some(Tier::Read)) else { return (Verdict::Unknown, String::new()) };
    let right = |policy: &Policy| policy.right(&policy.rows_of(&decided.principal), &decided.target, tier);
    let (was, is) = (right(&today.policy), right(candidate));
    let by = |right: &Option<Right>| {
        right.as_ref().map_or_else(String::new, |right| right.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>().join(", "))
    };
    let says = by(&is);
    let verdict = match (&is, decided.permitted) {
        (None, true) => Verdict::Denied,
        (None, false) => Verdict::Same,
        (Some(right), _) if right.is_conditional() => match change(was.as_ref(), is.as_ref()) {
            None => Verdict::Same,
            Some(_) => Verdict::Undecidable,
        },
        (Some(_), false) => Verdict::Allowed,
        (Some(right), true) if right.asks() && !was.as_ref().is_some_and(|was| was.asks_all_of(right)) => Verdict::Asks,
        (Some(right), true) if was.as_ref().is_some_and(|was| !right.asks_all_of(was)) => Verdict::AsksLess,
        (Some(_), true) => Verdict::Same,
    };
    (verdict, says)
}
