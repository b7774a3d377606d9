//! `audit timeline`: a run as a tree.
//!
//! A line for each call says first how it ended; what stands under it is what is recorded of it, in words, and the calls that others made while it ran.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json, value::RawValue};

use super::stats::duration;
use super::{Asking, Error};
use crate::audit::record::{Kind, Record, Stored};
use crate::audit::timeline::{Call, Step, Timeline, tree};
use crate::cli::table::{safe, word};
use crate::policy::{DEFAULT_DENY, DENIED_BY_RULE};

/// Prints the story of a run, a trace, a session or a call.
pub(super) fn run(asking: &Asking<'_>, id: &str, out: &mut dyn Write) -> Result<u8, Error> {
    let Some(timeline) = asking.logs.timeline(id).map_err(|error| asking.unreadable(error))? else {
        return Err(Error::Nothing(format!(": nothing is recorded of a run, trace, session or call `{}`", safe(id))));
    };
    if asking.print.json {
        return Ok(json_tree(id, &timeline, out).map(|()| 0)?);
    }
    head(asking, id, &timeline, out)?;
    let begun = timeline.calls().map(Call::begun).min().unwrap_or(0);
    let mut page = Page { out, begun, agent: timeline.calls().find_map(Call::agent).map(str::to_owned) };
    let many = timeline.traces.len() > 1;
    for (at, (trace, calls)) in timeline.traces.iter().enumerate() {
        let steps = tree(calls);
        if !many {
            page.steps("", &steps)?;
            continue;
        }
        let name = trace.as_deref().map_or_else(|| "without a trace".to_owned(), |trace| format!("trace {}", word(trace)));
        let below = page.branch("", at + 1 == timeline.traces.len(), &name)?;
        page.steps(&below, &steps)?;
    }
    if timeline.is_cut {
        writeln!(out, "and more: this shows the first records only; see `doorward audit find --run` and `doorward audit export`")?;
    }
    Ok(0)
}

/// What a reader wants to know first: how many calls, what went wrong, who, and when.
fn head(asking: &Asking<'_>, id: &str, timeline: &Timeline, out: &mut dyn Write) -> io::Result<()> {
    let calls: Vec<&Call> = timeline.calls().collect();
    let begun = calls.iter().map(|call| call.begun()).min().unwrap_or(0);
    let ended = calls.iter().map(|call| call.ended()).max().unwrap_or(begun);
    let refused = calls.iter().filter(|call| call.is_refused()).count();
    let mut line = format!("{} {}  {} calls, {refused} refused", timeline.of.as_str(), word(id), calls.len());
    let unknown = calls.iter().filter(|call| call.is_unknown()).count();
    if unknown > 0 {
        let _to_a_string = write!(line, ", {unknown} of which nobody knows whether they happened");
    }
    writeln!(out, "{line}, {}, from {}", duration(micros(begun, ended)), asking.print.instant(begun))?;
    let mut told = Vec::new();
    for who in calls.iter().filter_map(|call| call.asked()).map(who) {
        if !told.contains(&who) && told.len() < MAX_TOLD {
            writeln!(out, "{who}")?;
            told.push(who);
        }
    }
    Ok(())
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
        ("policy", &record.policy_version),
    ] {
        if let Some(value) = value {
            let _to_a_string = write!(who, ", {name} {}", word(value));
        }
    }
    who
}

/// Where the tree goes.
struct Page<'o> {
    out: &'o mut dyn Write,
    /// The time that all others are told from.
    begun: i64,
    /// Whose story it mostly is: only others are named at their calls.
    agent: Option<String>,
}

impl Page<'_> {
    /// One line of the tree; what stands before the lines under it.
    fn branch(&mut self, stem: &str, is_last: bool, text: &str) -> io::Result<String> {
        let (branch, below) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
        writeln!(self.out, "{stem}{branch} {text}")?;
        Ok(format!("{stem}{below}"))
    }

    fn steps(&mut self, stem: &str, steps: &[Step<'_>]) -> io::Result<()> {
        for (at, step) in steps.iter().enumerate() {
            let is_last = at + 1 == steps.len();
            match step {
                Step::Span { id, steps } => {
                    let begun = steps.first().map_or(self.begun, Step::begun);
                    let text = format!("{} span {} of the agent, {} calls", self.after(begun), word(id), steps.len());
                    let below = self.branch(stem, is_last, &text)?;
                    self.steps(&below, steps)?;
                }
                Step::Call { call, during } => {
                    let text = self.call(call);
                    let below = self.branch(stem, is_last, &text)?;
                    for (number, stored) in call.records.iter().enumerate() {
                        let is_last = number + 1 == call.records.len() && during.is_empty();
                        let text = format!("{} {}", self.after(stored.unix_nanos()), part(stored));
                        self.branch(&below, is_last, &text)?;
                    }
                    if !during.is_empty() {
                        let below = self.branch(&below, true, "while it ran:")?;
                        self.steps(&below, during)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn after(&self, time: i64) -> String {
        format!("+{:.3}s", time.saturating_sub(self.begun) as f64 / 1e9)
    }

    /// A call in a line: what, how it ended, who decided, how long it took.
    fn call(&self, call: &Call) -> String {
        let Some(asked) = call.asked() else { return String::new() };
        let record = &asked.record;
        let what = record.target.as_deref().or(record.subject.as_deref()).or(record.method.as_deref()).unwrap_or(record.kind.as_str());
        let mut line = format!("{} {}", self.after(call.begun()), word(what));
        let mut say = |text: String| {
            let _to_a_string = write!(line, "  {text}");
        };
        let end = call.end().map(|stored| &stored.record);
        match end {
            Some(end) if call.is_refused() => say(refusal(end)),
            Some(end) => {
                say(decision(record));
                say(ending(end));
            }
            None if call.attempts() > 0 => {
                say(decision(record));
                say("NO END IS RECORDED: it may have happened".to_owned());
            }
            None => {}
        }
        if call.attempts() > 1 {
            say(format!("in {} attempts", call.attempts()));
        }
        if let Some(took) = end.and_then(|end| end.duration_us) {
            say(format!("in {}", duration(took)));
        }
        if let Some(other) = call.agent().filter(|agent| self.agent.as_deref() != Some(agent)) {
            say(format!("by agent {}", word(other)));
        }
        if let Some(id) = &call.id {
            say(format!("call={}", word(id)));
        }
        line
    }
}

/// What was decided, and by which rules.
fn decision(record: &Record<'_>) -> String {
    let rules = if record.rule_ids.is_empty() { String::new() } else { format!(" by {}", word(&record.rule_ids.join(","))) };
    format!("{}{rules}", word(record.decision.as_deref().unwrap_or("-")))
}

/// Why a call was not made.
fn refusal(end: &Record<'_>) -> String {
    let code = word(end.code.as_deref().or(end.decision.as_deref()).unwrap_or("-"));
    let part = |name: &str, value: Option<String>| value.filter(|value| !value.is_empty()).map(|value| format!("{name}{}", word(&value)));
    let reason = match end.reason.as_deref() {
        // The rules say it.
        Some(DENIED_BY_RULE) => None,
        Some(DEFAULT_DENY) => Some(": no rule allows it".to_owned()),
        reason => part(": ", reason.map(str::to_owned)),
    };
    let parts = [
        part(" by ", Some(end.rule_ids.join(","))),
        part(" by limit ", end.limit.as_deref().map(str::to_owned)),
        reason,
        part(", nearest ", Some(end.near_rules.join(","))),
        part(" ×", end.count.filter(|count| *count > 1).map(|count| count.to_string())),
    ];
    format!("REFUSED {code}{}", parts.into_iter().flatten().collect::<String>())
}

/// How a call that was made ended: what is not well stands out.
fn ending(end: &Record<'_>) -> String {
    let outcome = end.outcome.as_deref().or(end.code.as_deref()).unwrap_or("-");
    let effect = end.effect.as_deref().map(|effect| format!(" (effect {})", word(effect))).unwrap_or_default();
    match outcome {
        "ok" | "input_required" => format!("{outcome}{effect}"),
        "unresolved" => format!("UNRESOLVED{effect}: it may have happened"),
        _ => {
            let code = end.code.as_deref().map(|code| format!(" {}", word(code))).unwrap_or_default();
            format!("{}{code}{effect}", word(outcome).to_uppercase())
        }
    }
}

/// One record of a call, in words.
fn part(stored: &Stored) -> String {
    let record = &stored.record;
    let mut line = match record.kind {
        Kind::Intent => "forwarded".to_owned(),
        Kind::Outcome => "ended".to_owned(),
        Kind::Refusal => "refused".to_owned(),
        kind => [Some(kind.as_str()), record.action.as_deref()].into_iter().flatten().map(word).collect::<Vec<_>>().join(" "),
    };
    if record.kind != Kind::Intent && record.kind != Kind::Refusal {
        for (name, value) in [("", &record.outcome), ("effect ", &record.effect), ("", &record.code)] {
            if let Some(value) = value {
                let _to_a_string = write!(line, " {name}{}", word(value));
            }
        }
    }
    let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(word);
    let words = |name: &str, all: &[std::borrow::Cow<'_, str>]| (!all.is_empty()).then(|| format!("{name}{}", word(&all.join(","))));
    let facts = [
        text(&record.actor).map(|actor| format!("by {actor}")),
        text(&record.subject),
        text(&record.replay_of).map(|call| format!("the result of {call}")),
        record.attempt.map(|attempt| format!("attempt {attempt}")),
        words("answers ", &record.answers),
        text(&record.tier).filter(|_| record.kind == Kind::Intent),
        words("", &record.labels),
        record.cost.filter(|cost| *cost != 1).map(|cost| format!("cost {cost}")),
        text(&record.args_hash).map(|hash| format!("arguments {hash}")),
        record.queue_us.map(|waited| format!("waited {}", duration(waited))),
        record.upstream_us.map(|took| format!("the server took {}", duration(took))),
        record.result_bytes.map(|bytes| format!("{} of {bytes} bytes", if record.kind == Kind::Outcome { "a result" } else { "a text" })),
        record.retry_after_ms.map(|wait| format!("told to wait {}", duration(wait.saturating_mul(1_000)))),
        words("broken ", &record.details),
        record.span_id.as_deref().map(|span| format!("span {}", word(span))),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    if !facts.is_empty() {
        let _to_a_string = write!(line, ": {}", facts.join(", "));
    }
    let _to_a_string = write!(line, " [{}:{}]", word(&stored.origin), stored.seq);
    // A sentence, and so the last: whatever it quotes, nothing of ours stands behind it.
    if let Some(note) = &record.note {
        let _to_a_string = write!(line, " \"{}\"", safe(note).replace('"', "\\\""));
    }
    line
}

fn json_tree(id: &str, timeline: &Timeline, out: &mut dyn Write) -> io::Result<()> {
    let traces: Vec<Value> = timeline
        .traces
        .iter()
        .map(|(trace, calls)| json!({ "trace": trace, "calls": calls.iter().map(json_call).collect::<Vec<_>>(), "tree": json_steps(&tree(calls)) }))
        .collect();
    writeln!(out, "{}", json!({ "id": id, "of": timeline.of.as_str(), "traces": traces, "cut": timeline.is_cut }))
}

fn json_call(call: &Call) -> Value {
    let (asked, end) = (call.asked().map(|stored| &stored.record), call.end().map(|stored| &stored.record));
    let records: Vec<&RawValue> = call.records.iter().filter_map(|stored| serde_json::from_str(&stored.line).ok()).collect();
    json!({
        "call": call.id, "begun": crate::clock::rfc3339(call.begun()), "attempts": call.attempts(), "span": call.span(),
        "target": asked.and_then(|record| record.target.clone()), "agent": asked.and_then(|record| record.agent.clone()),
        "decision": asked.and_then(|record| record.decision.clone()), "rules": asked.map(|record| record.rule_ids.clone()),
        "outcome": end.and_then(|record| record.outcome.clone()), "code": end.and_then(|record| record.code.clone()),
        "effect": end.and_then(|record| record.effect.clone()), "duration_us": end.and_then(|record| record.duration_us),
        "records": records,
    })
}

/// How the calls hang together, by their ids.
fn json_steps(steps: &[Step<'_>]) -> Vec<Value> {
    let step = |step: &Step<'_>| match step {
        Step::Span { id, steps } => json!({ "span": id, "calls": json_steps(steps) }),
        Step::Call { call, during } => json!({ "call": call.id, "during": json_steps(during) }),
    };
    steps.iter().map(step).collect()
}

/// Lines about who at the head.
const MAX_TOLD: usize = 4;
