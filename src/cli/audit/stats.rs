//! `audit stats`: sums, percentiles and a small chart.

use std::io::Write;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::time::time;
use super::{Asking, Error};
use crate::audit::stats::{HOUR, Named, Stats, Tally};
use crate::cli::table::render;

/// What the sums are over.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Sums {
    /// Not before: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Of this agent only.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// How many agents and tools are listed.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub top: usize,
}

/// Prints the sums.
pub(super) fn run(asking: &Asking<'_>, asked: &Sums, out: &mut dyn Write) -> Result<u8, Error> {
    let now = Timestamp::now();
    let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now, &asking.print.zone)).transpose();
    let stats =
        asking.logs.stats(at(&asked.since)?, at(&asked.until)?, asked.agent.as_deref()).map_err(|error| asking.unreadable(error))?;
    if asking.print.json {
        writeln!(out, "{}", as_json(&stats, asked.top))?;
        return Ok(0);
    }
    let Some((first, last)) = stats.span else {
        writeln!(out, "no records")?;
        return Ok(0);
    };
    let Tally { calls, ok, tool_errors, failed, unresolved, refused, .. } = stats.total;
    writeln!(out, "{} records, {} to {}", stats.records, asking.print.instant(first), asking.print.instant(last))?;
    writeln!(out, "{calls} calls: {ok} ok, {tool_errors} tool errors, {failed} failed, {unresolved} unresolved; {refused} refused")?;
    for (head, named) in [("AGENT", &stats.agents), ("TARGET", &stats.targets), ("UPSTREAM", &stats.upstreams)] {
        writeln!(out, "\n{}", table(head, named, asked.top).trim_end())?;
    }
    if !stats.refusals.is_empty() {
        let mut codes: Vec<_> = stats.refusals.iter().collect();
        codes.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), (*code).clone()));
        let rows: Vec<_> = codes.into_iter().map(|(code, count)| vec![code.clone(), count.to_string()]).collect();
        writeln!(out, "\n{}", render(&["REFUSED WITH", "COUNT"], &rows).trim_end())?;
    }
    writeln!(out, "\n{}", chart(asking, &stats).trim_end())?;
    Ok(0)
}

fn table(head: &str, named: &Named, top: usize) -> String {
    let micros = |tally: &Tally, share| tally.latencies.quantile(share).map_or_else(|| "-".to_owned(), duration);
    let row = |(name, tally): &(String, Tally)| {
        vec![
            name.clone(),
            tally.calls.to_string(),
            format!("{:.1} %", tally.error_rate() * 100.0),
            tally.refused.to_string(),
            micros(tally, 0.5),
            micros(tally, 0.9),
            micros(tally, 0.99),
        ]
    };
    let sorted = named.sorted();
    let mut rows: Vec<_> = sorted.iter().take(top).map(|named| row(named)).collect();
    if let Some(more) = sorted.len().checked_sub(top).filter(|more| *more > 0) {
        rows.push(vec![format!("and {more} more, see --top")]);
    }
    render(&[head, "CALLS", "ERRORS", "REFUSED", "P50", "P90", "P99"], &rows)
}

/// A duration in the unit that reads best.
pub(super) fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// A bar for each hour, or for each day where there are many hours.
fn chart(asking: &Asking<'_>, stats: &Stats) -> String {
    let hours = stats.hours.keys().next().zip(stats.hours.keys().next_back()).map_or(0, |(first, last)| last - first + 1);
    let (step, name) = if hours <= MAX_BARS { (1, "HOUR") } else { (24, "DAY (UTC)") };
    let mut bars = std::collections::BTreeMap::new();
    for (hour, (calls, refused)) in &stats.hours {
        let bar: &mut (u64, u64) = bars.entry(hour.div_euclid(step) * step).or_default();
        *bar = (bar.0 + calls, bar.1 + refused);
    }
    let most = bars.values().map(|(calls, _)| *calls).max().unwrap_or(1).max(1);
    let skipped = bars.len().saturating_sub(MAX_BARS as usize);
    let rows: Vec<_> = bars
        .iter()
        .skip(skipped)
        .map(|(hour, (calls, refused))| {
            let when = asking.print.instant(hour * HOUR);
            let when = when.get(..if step == 1 { 16 } else { 10 }).unwrap_or(&when).to_owned();
            vec![when, calls.to_string(), refused.to_string(), bar(*calls, most)]
        })
        .collect();
    render(&[name, "CALLS", "REFUSED", ""], &rows)
}

fn bar(calls: u64, most: u64) -> String {
    let eighths = (calls * 8 * BAR_WIDTH).div_ceil(most);
    let mut bar = "█".repeat((eighths / 8) as usize);
    bar.extend(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get((eighths % 8) as usize).copied());
    bar
}

fn as_json(stats: &Stats, top: usize) -> Value {
    let tally = |tally: &Tally| {
        json!({
            "calls": tally.calls, "ok": tally.ok, "tool_errors": tally.tool_errors, "failed": tally.failed, "unresolved": tally.unresolved,
            "refused": tally.refused, "error_rate": tally.error_rate(), "p50_us": tally.latencies.quantile(0.5),
            "p90_us": tally.latencies.quantile(0.9), "p99_us": tally.latencies.quantile(0.99),
        })
    };
    let named = |named: &Named| {
        let one = |(name, of): &(String, Tally)| {
            let mut value = tally(of);
            value["name"] = Value::String(name.clone());
            value
        };
        named.sorted().into_iter().take(top).map(one).collect::<Vec<_>>()
    };
    let time = |nanos: i64| crate::clock::rfc3339(nanos);
    let hours: Vec<_> = stats
        .hours
        .iter()
        .map(|(hour, (calls, refused))| json!({ "hour": time(hour * HOUR), "calls": calls, "refused": refused }))
        .collect();
    json!({
        "records": stats.records, "first": stats.span.map(|span| time(span.0)), "last": stats.span.map(|span| time(span.1)),
        "total": tally(&stats.total), "agents": named(&stats.agents), "targets": named(&stats.targets), "upstreams": named(&stats.upstreams),
        "refusals": stats.refusals, "hours": hours,
    })
}

const MAX_BARS: i64 = 48;
const BAR_WIDTH: u64 = 40;
