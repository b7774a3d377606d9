//! How records look: a row each, or every field.
//!
//! INVARIANT: nothing that came from outside stands in a row unescaped. With `--json` a record is the stored line, byte for byte.

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::audit::find::Answer;
use crate::audit::record::{Kind, Stored};
use crate::cli::table::{safe, word};

/// Prints records for people or for programs.
pub(super) struct Printer {
    pub json: bool,
    pub zone: TimeZone,
}

impl Printer {
    pub fn records(&self, out: &mut dyn Write, answer: &Answer, is_first: bool) -> io::Result<()> {
        if !self.json && is_first {
            if answer.records.is_empty() {
                writeln!(out, "no records")?;
            } else {
                writeln!(out, "{:<29} {:<16} {:<28} {:<16} WHAT HAPPENED", "TIME", "AGENT", "TARGET", "DECISION")?;
            }
        }
        for stored in &answer.records {
            if self.json {
                writeln!(out, "{}", stored.line)?;
            } else {
                writeln!(out, "{}", self.row(stored))?;
            }
        }
        unreadable(out, self.json, answer.unreadable)
    }

    /// One line that a stranger understands: when, who, what, and how it was decided and by which rules.
    pub fn row(&self, stored: &Stored) -> String {
        let record = &stored.record;
        let who = record.agent.as_deref().or(record.actor.as_deref()).unwrap_or("-");
        let what = record
            .target
            .as_deref()
            .or(record.targets.first().map(|first| &**first))
            .or(record.subject.as_deref())
            .or(record.method.as_deref())
            .unwrap_or("-");
        let decision = record.decision.as_deref().or(record.outcome.as_deref()).or(record.action.as_deref()).unwrap_or("-");
        let mut row = format!("{:<29} {:<16} {:<28} {:<16} ", self.time(stored), word(who), word(what), word(decision));
        row.push_str(match record.kind {
            // The record comes before the call: what became of it stands in the record of its end.
            Kind::Intent => "forwarding",
            Kind::Outcome => "ended",
            Kind::Refusal => "refused",
            other => other.as_str(),
        });
        let mut say = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _to_a_string = write!(row, " {name}={}", word(value));
            }
        };
        say("code", record.code.as_deref());
        say("reason", record.reason.as_deref());
        say("rules", (!record.rule_ids.is_empty()).then(|| record.rule_ids.join(",")).as_deref());
        say("conditions", record.conditions.as_deref());
        say("obligations", (!record.obligations.is_empty()).then(|| record.obligations.join(", ")).as_deref());
        say("near", (!record.near_rules.is_empty()).then(|| record.near_rules.join(",")).as_deref());
        say("limit", record.limit.as_deref());
        say("answers", (!record.answers.is_empty()).then(|| record.answers.join(",")).as_deref());
        say("openers", (!record.openers.is_empty()).then(|| record.openers.join(",")).as_deref());
        say("effect", record.effect.as_deref());
        say("targets", (record.targets.len() > 1).then(|| record.targets.join(",")).as_deref());
        say("count", record.count.map(|count| count.to_string()).as_deref());
        say("replay_of", record.replay_of.as_deref());
        say("call", record.call_id.as_deref());
        say("record", Some(&format!("{}:{}", stored.origin, stored.seq)));
        // A sentence, and so the last: whatever it quotes, nothing of ours stands behind it.
        if let Some(note) = &record.note {
            let _to_a_string = write!(row, " note=\"{}\"", safe(note).replace('"', "\\\""));
        }
        row
    }

    pub fn in_full(&self, out: &mut dyn Write, answer: &Answer) -> io::Result<()> {
        for stored in &answer.records {
            if self.json {
                writeln!(out, "{}", stored.line)?;
                continue;
            }
            writeln!(out, "{}:{}  {}  {}", safe(&stored.origin), stored.seq, stored.record.kind.as_str(), self.time(stored))?;
            // Keys of a record are ours; values are not.
            let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&stored.line).unwrap_or_default();
            for (key, value) in fields.iter().filter(|(key, _)| !["origin", "seq", "kind", "time", "v"].contains(&key.as_str())) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                writeln!(out, "  {key:<18} {}", safe(&value))?;
            }
        }
        unreadable(out, self.json, answer.unreadable)
    }

    /// A time in nanoseconds since 1970, as rows show it.
    pub fn instant(&self, unix_nanos: i64) -> String {
        match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string(),
            Err(_) => unix_nanos.to_string(),
        }
    }

    /// Local time with its offset, so that two readers in two places can compare.
    pub fn time(&self, stored: &Stored) -> String {
        match Timestamp::from_nanosecond(i128::from(stored.unix_nanos())) {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string(),
            Err(_) => safe(&stored.time),
        }
    }
}

/// One line of JSON.
pub(super) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

fn unreadable(out: &mut dyn Write, json: bool, count: u64) -> io::Result<()> {
    match (json, count) {
        (_, 0) => Ok(()),
        (true, count) => writeln!(out, "{{\"unreadable_lines\":{count}}}"),
        (false, count) => writeln!(out, "{count} lines are not records; see `doorward audit verify`"),
    }
}
