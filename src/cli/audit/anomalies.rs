//! `audit anomalies`: what agents do that they do not usually do.

use std::io::Write;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::json;

use super::time::time;
use super::{Asking, Error};
use crate::audit::anomalies::{Anomaly, Budget, Times};
use crate::cli::table::{safe, word};

/// What is judged, and against what.
#[derive(ClapArgs, Clone, Debug)]
pub struct Judged {
    /// From when on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub since: String,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// What is usual is told by so many days before.
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    pub baseline: u16,
    /// Also tell of agents that spent more cost units than this within --cost-window; manifests say what a call costs.
    #[arg(long, value_name = "UNITS")]
    pub cost_budget: Option<u64>,
    /// The time that --cost-budget is for, in minutes.
    #[arg(long, default_value_t = 60, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=43_200))]
    pub cost_window: u32,
    /// Of this agent only.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
}

/// Prints what is unusual.
pub(super) fn run(asking: &Asking<'_>, asked: &Judged, out: &mut dyn Write) -> Result<u8, Error> {
    let now = Timestamp::now();
    let at = |text: &str| time(text, now, &asking.print.zone);
    let since = at(&asked.since)?;
    let until = asked.until.as_deref().map(at).transpose()?;
    let times = Times { baseline: since.saturating_sub(i64::from(asked.baseline) * DAY), since, until };
    let budget = asked.cost_budget.map(|units| Budget { units, minutes: asked.cost_window });
    let found = asking.logs.anomalies(times, asked.agent.as_deref(), budget).map_err(|error| asking.unreadable(error))?;
    if found.is_empty() && !asking.print.json {
        writeln!(out, "nothing unusual since {}", asking.print.instant(since))?;
    }
    for anomaly in &found {
        let Anomaly { kind, agent, target, what, at, evidence } = anomaly;
        if asking.print.json {
            let evidence: Vec<_> = evidence.iter().map(|(origin, seq)| json!({ "origin": origin, "seq": seq })).collect();
            let line = json!({
                "kind": kind, "agent": agent, "target": target, "what": what, "time": crate::clock::rfc3339(*at), "evidence": evidence
            });
            writeln!(out, "{line}")?;
            continue;
        }
        let records: Vec<_> = evidence.iter().map(|(origin, seq)| format!("{}:{seq}", word(origin))).collect();
        writeln!(out, "{} {:<14} {} {}; records {}", asking.print.instant(*at), kind, word(agent), safe(what), records.join(" "))?;
    }
    Ok(0)
}

const DAY: i64 = 86_400_000_000_000;
