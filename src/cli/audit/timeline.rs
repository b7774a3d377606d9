//! `audit timeline`: a run as a tree.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json, value::RawValue};

use super::stats::duration;
use super::{Asking, Error};
use crate::audit::record::{Kind, Stored};
use crate::audit::timeline::{Call, Timeline};
use crate::cli::table::{safe, word};

/// Prints the story of a run, a trace, a session or a call.
pub(super) fn run(asking: &Asking<'_>, id: &str, out: &mut dyn Write) -> Result<u8, Error> {
    let Some(timeline) = asking.logs.timeline(id).map_err(|error| asking.unreadable(error))? else {
        return Err(Error::Nothing(format!(": nothing is recorded of a run, trace, session or call `{}`", safe(id))));
    };
    if asking.print.json {
        return Ok(json_tree(id, &timeline, out).map(|()| 0)?);
    }
    let calls: Vec<&Call> = timeline.calls().collect();
    let begun = calls.iter().map(|call| call.begun()).min().unwrap_or(0);
    let ended = calls.iter().flat_map(|call| &call.records).map(Stored::unix_nanos).max().unwrap_or(begun);
    let refused = calls.iter().filter(|call| call.attempts() == 0 && call.end().is_some()).count();
    writeln!(
        out,
        "{} {}  {} calls, {refused} refused, {}, from {}",
        timeline.of.as_str(),
        word(id),
        calls.len(),
        duration(micros(begun, ended)),
        asking.print.instant(begun)
    )?;
    if let Some(who) = calls.first().and_then(|call| call.asked()).map(who) {
        writeln!(out, "{who}")?;
    }
    let many = timeline.traces.len() > 1;
    for (at, (trace, calls)) in timeline.traces.iter().enumerate() {
        let is_last = at + 1 == timeline.traces.len();
        if many {
            let name = trace.as_deref().map_or_else(|| "without a trace".to_owned(), |trace| format!("trace {}", word(trace)));
            writeln!(out, "{} {name}", if is_last { "└─" } else { "├─" })?;
        }
        let stem = if !many {
            ""
        } else if is_last {
            "   "
        } else {
            "│  "
        };
        for (number, call) in calls.iter().enumerate() {
            tree(out, stem, number + 1 == calls.len(), call, begun)?;
        }
    }
    if timeline.is_cut {
        writeln!(out, "and more: this shows the first records only; see `doorward audit find --run` and `doorward audit export`")?;
    }
    Ok(0)
}

fn micros(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from) / 1_000).unwrap_or(0)
}

fn who(stored: &Stored) -> String {
    let record = &stored.record;
    let mut who = format!("agent {}", word(record.agent.as_deref().unwrap_or("-")));
    for (name, value) in [
        ("for", &record.on_behalf_of),
        ("credential", &record.credential_id),
        ("session", &record.session),
        ("peer", &record.peer),
        ("policy", &record.policy_version),
    ] {
        if let Some(value) = value {
            let _to_a_string = write!(who, ", {name} {}", word(value));
        }
    }
    who
}

fn tree(out: &mut dyn Write, stem: &str, is_last: bool, call: &Call, begun: i64) -> io::Result<()> {
    let (branch, below) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
    let Some(asked) = call.asked() else { return Ok(()) };
    let record = &asked.record;
    let what = record.target.as_deref().or(record.subject.as_deref()).or(record.method.as_deref()).unwrap_or(record.kind.as_str());
    let mut line = format!("{stem}{branch} +{:.3}s {}", seconds(begun, call.begun()), word(what));
    let end = call.end().map(|stored| &stored.record);
    let decision = record.decision.as_deref().or(end.and_then(|end| end.decision.as_deref()));
    let mut say = |text: String| {
        let _to_a_string = write!(line, "  {text}");
    };
    if let Some(decision) = decision {
        let rules = if record.rule_ids.is_empty() { String::new() } else { format!(" by {}", word(&record.rule_ids.join(","))) };
        say(format!("{}{rules}", word(decision)));
    }
    if call.attempts() > 1 {
        say(format!("{} attempts", call.attempts()));
    }
    match end {
        Some(end) => {
            let how = end.outcome.as_deref().or(end.code.as_deref()).unwrap_or("refused");
            let effect = end.effect.as_deref().map(|effect| format!(" (effect {})", word(effect))).unwrap_or_default();
            say(format!("{}{effect}", word(how)));
        }
        None if call.attempts() > 0 => say("no end is recorded".to_owned()),
        None => {}
    }
    if let Some(took) = end.and_then(|end| end.duration_us) {
        say(format!("in {}", duration(took)));
    }
    if let Some(id) = &call.id {
        say(format!("call={}", word(id)));
    }
    writeln!(out, "{line}")?;
    for (number, stored) in call.records.iter().enumerate() {
        let branch = if number + 1 == call.records.len() { "└─" } else { "├─" };
        writeln!(out, "{stem}{below}{branch} {}", part(stored, begun))?;
    }
    Ok(())
}

fn seconds(from: i64, to: i64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

/// One record of a call.
fn part(stored: &Stored, begun: i64) -> String {
    let record = &stored.record;
    let mut line = format!("+{:.3}s {}", seconds(begun, stored.unix_nanos()), record.kind.as_str());
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _to_a_string = write!(line, " {name}={}", word(&value));
        }
    };
    let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    if record.kind != Kind::Intent {
        say("outcome", text(&record.outcome));
        say("effect", text(&record.effect));
    }
    say("action", text(&record.action));
    say("actor", text(&record.actor));
    say("code", text(&record.code));
    say("attempt", record.attempt.map(|attempt| attempt.to_string()));
    say("answers", (!record.answers.is_empty()).then(|| record.answers.join(",")));
    say("tier", text(&record.tier));
    say("took", record.duration_us.map(duration));
    say("upstream", record.upstream_us.map(duration));
    say("args", text(&record.args_hash));
    say("result_bytes", record.result_bytes.map(|bytes| bytes.to_string()));
    say("record", Some(format!("{}:{}", stored.origin, stored.seq)));
    if let Some(note) = &record.note {
        let _to_a_string = write!(line, " note=\"{}\"", safe(note).replace('"', "\\\""));
    }
    line
}

fn json_tree(id: &str, timeline: &Timeline, out: &mut dyn Write) -> io::Result<()> {
    let call = |call: &Call| {
        let (asked, end) = (call.asked().map(|stored| &stored.record), call.end().map(|stored| &stored.record));
        let records: Vec<&RawValue> = call.records.iter().filter_map(|stored| serde_json::from_str(&stored.line).ok()).collect();
        json!({
            "call": call.id, "begun": crate::clock::rfc3339(call.begun()), "attempts": call.attempts(),
            "target": asked.and_then(|record| record.target.clone()), "agent": asked.and_then(|record| record.agent.clone()),
            "decision": asked.and_then(|record| record.decision.clone()), "rules": asked.map(|record| record.rule_ids.clone()),
            "outcome": end.and_then(|record| record.outcome.clone()), "code": end.and_then(|record| record.code.clone()),
            "effect": end.and_then(|record| record.effect.clone()), "duration_us": end.and_then(|record| record.duration_us),
            "records": records,
        })
    };
    let traces: Vec<Value> = timeline
        .traces
        .iter()
        .map(|(trace, calls)| json!({ "trace": trace, "calls": calls.iter().map(call).collect::<Vec<_>>() }))
        .collect();
    writeln!(out, "{}", json!({ "id": id, "of": timeline.of.as_str(), "traces": traces, "cut": timeline.is_cut }))
}
