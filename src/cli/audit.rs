//! `doorward audit`: the responder's questions to the logs.
//!
//! Owns: the arguments, the forms of time, and how answers look. Leaves to others: what a question means (`audit::find`, `audit::verify`).
//!
//! INVARIANT: nothing that came from outside stands in a row unescaped: a record may hold what an attacker chose. With `--json`
//! a record is the stored line, byte for byte.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use crate::audit::find::{Answer, Asked, Filter, Follow, Logs, Standing};
use crate::audit::record::{DECISIONS, Kind, Stored};
use crate::audit::verify::{Finding, Report, verify_all};
use crate::cli::table::{safe, word};
use crate::error::Code;

/// Asks the audit log.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Example:\n  doorward audit tail -n 20")]
pub struct Args {
    /// The folder of the logs, instead of the configured one.
    #[arg(long, global = true, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// The question.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The questions.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// The newest records, oldest first.
    #[command(after_help = "Example:\n  doorward audit tail -n 50 -f")]
    Tail {
        /// How many.
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
        count: usize,
        /// Go on with new records as they come.
        #[arg(short, long)]
        follow: bool,
    },
    /// Records by time, agent, tool and more; the newest ones, oldest first.
    #[command(after_help = "Example:\n  doorward audit find --since 2h --agent demo --decision deny")]
    Find(Box<Find>),
    /// All records of one call, with every field.
    #[command(after_help = "Example:\n  doorward audit show main:42")]
    Show {
        /// The invocation id, or a record's number, alone or as ORIGIN:NUMBER.
        what: String,
    },
    /// Checks that no record was changed, dropped, moved or put in. Exit code 3 when one was.
    #[command(after_help = "Example:\n  doorward audit verify --dir var/audit")]
    Verify,
    /// Calls whose end nobody knows, and calls that still run.
    #[command(after_help = "Example:\n  doorward audit unresolved --json")]
    Unresolved,
}

/// What `find` looks for.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Find {
    /// Not before: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The tool, prompt or resource; may end in `*`.
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// The decision, for example `deny`.
    #[arg(long, value_name = "WORD", value_parser = DECISIONS)]
    pub decision: Option<String>,
    /// The error code, for example `policy_denied`.
    #[arg(long, value_name = "CODE", value_parser = code)]
    pub code: Option<String>,
    /// The run.
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// The upstream.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// The kind of record, for example `refusal`.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<Kind>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// Begin with the oldest record that fits, not so that the newest are kept.
    #[arg(long)]
    pub oldest: bool,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A time is in no known form.
    #[error("`{0}` is not a time; use RFC 3339 (`2026-11-21T10:00:00Z`), a date (`2026-11-21`), or how long ago (`15m`, `1h`, `2d`)")]
    Time(String),
    /// The logs cannot be read.
    #[error("the audit logs in `{dir}` cannot be read: {source}; see --dir")]
    Unreadable {
        /// The folder.
        dir: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// Nothing can be said of a log that is not there: it may have been taken away whole.
    #[error(
        "there is no log in `{0}`, so nothing was checked; before the first start that is as it should be, else see --dir, or the log was taken away"
    )]
    NoLog(String),
    /// Nothing is recorded under the name that was asked for.
    #[error("no such call or record{0}")]
    Nothing(String),
    /// The answer cannot be written.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Answers on `out`; the exit code.
///
/// # Errors
/// See [`Error`].
pub fn run(args: &Args, audit_dir: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let dir = args.dir.as_deref().unwrap_or(audit_dir);
    let unreadable = |source| Error::Unreadable { dir: dir.display().to_string(), source };
    if args.dir.is_some() {
        // A folder that was named and is not there is a slip; the configured one comes with the first record.
        std::fs::read_dir(dir).map_err(unreadable)?;
    }
    let logs = Logs::in_dir(dir).map_err(unreadable)?;
    let print = Printer { json, zone: TimeZone::system() };
    match &args.verb {
        Verb::Tail { count, follow } => {
            // The place is taken before the tail is read: a record may show twice, but none is left out.
            let new = follow.then(|| Follow::from_end(dir)).transpose().map_err(unreadable)?;
            let newest = logs.tail(*count).map_err(unreadable)?;
            if newest.records.is_empty() && newest.unreadable == 0 && *count > 0 && !json {
                writeln!(out, "no record yet in `{}`", dir.display())?;
            } else {
                print.records(out, &newest, true)?;
            }
            new.map_or(Ok(0), |mut new| {
                loop {
                    out.flush()?;
                    std::thread::sleep(FOLLOW_PAUSE);
                    print.records(out, &new.more().map_err(unreadable)?, false)?;
                }
            })
        }
        Verb::Find(asked) => {
            let mut answer = logs.find(&filter(asked, Timestamp::now(), &print.zone)?).map_err(unreadable)?;
            if !asked.oldest {
                answer.records.reverse();
            }
            print.records(out, &answer, true)?;
            Ok(0)
        }
        Verb::Show { what } => {
            let answer = logs.show(&asked(what)).map_err(unreadable)?;
            if answer.records.is_empty() {
                return Err(Error::Nothing(perhaps(what, answer.unreadable)));
            }
            print.in_full(out, &answer)?;
            Ok(0)
        }
        Verb::Verify => {
            let reports = if dir.try_exists().map_err(unreadable)? { verify_all(dir).map_err(unreadable)? } else { Vec::new() };
            // A log begins with the record of its first start.
            if reports.iter().all(|report| report.records == 0) {
                return Err(Error::NoLog(dir.display().to_string()));
            }
            print.reports(out, &reports)?;
            Ok(if reports.iter().all(Report::is_sound) { 0 } else { EXIT_DAMAGED })
        }
        Verb::Unresolved => {
            print.unresolved(out, &logs.unresolved().map_err(unreadable)?)?;
            Ok(0)
        }
    }
}

fn filter(asked: &Find, now: Timestamp, zone: &TimeZone) -> Result<Filter, Error> {
    let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now, zone)).transpose();
    Ok(Filter {
        since: at(&asked.since)?,
        until: at(&asked.until)?,
        agent: asked.agent.clone(),
        target: asked.tool.clone(),
        decision: asked.decision.clone(),
        code: asked.code.clone(),
        run: asked.run.clone(),
        upstream: asked.upstream.clone(),
        kind: asked.kind,
        call_id: None,
        limit: Some(asked.limit),
        newest_first: !asked.oldest,
    })
}

/// A time in nanoseconds since 1970, from RFC 3339, from a date in `zone` (its first moment) or from how long before `now`.
fn time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<i64, Error> {
    let wrong = || Error::Time(text.to_owned());
    let ago = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count: i64 = digits.parse().ok().filter(|count| (0..=1_000_000).contains(count))?;
        let span = match unit {
            "s" => count.seconds(),
            "m" => count.minutes(),
            "h" => count.hours(),
            "d" => (count * 24).hours(),
            _ => return None,
        };
        now.checked_sub(span).ok()
    };
    // The length keeps out a date with a time and no zone, of which only the date would be read.
    let day = || text.parse::<Date>().ok().filter(|_| text.len() == "2026-11-21".len())?.to_zoned(zone.clone()).ok();
    let at = text.parse::<Timestamp>().ok().or_else(ago).or_else(|| Some(day()?.timestamp())).ok_or_else(wrong)?;
    i64::try_from(at.as_nanosecond()).map_err(|_| wrong())
}

fn asked(what: &str) -> Asked {
    let place = |origin: Option<&str>, seq: &str| Some(Asked::Place(origin.map(str::to_owned), seq.parse().ok()?));
    let found = match what.rsplit_once(':') {
        Some((origin, seq)) => place(Some(origin), seq),
        None => place(None, what),
    };
    found.unwrap_or_else(|| Asked::Call(what.to_owned()))
}

/// Where the call may be although nothing has its id. The id of an invocation tells when it began (RFC 9562, 5.7).
fn perhaps(what: &str, unreadable: u64) -> String {
    let damaged =
        if unreadable == 0 { String::new() } else { format!("; {unreadable} lines are not records, see `doorward audit verify`") };
    let begun =
        uuid::Uuid::try_parse(what).ok().and_then(|id| Timestamp::from_second(id.get_timestamp()?.to_unix().0.try_into().ok()?).ok());
    let Some(begun) = begun else { return damaged };
    let find = format!("`doorward audit find --kind coalesced --since {begun} --oldest --limit 20`");
    format!("{damaged}; if it was refused in a flood it was only counted: {find}, with --agent and --code where they are known")
}

fn kind(word: &str) -> Result<Kind, String> {
    let words = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    Kind::from_word(word).ok_or_else(|| format!("use one of {}", words()))
}

fn code(word: &str) -> Result<String, String> {
    let known = Code::ALL.iter().any(|code| code.facts().code == word);
    if known { Ok(word.to_owned()) } else { Err("`doorward errors` lists the codes".to_owned()) }
}

struct Printer {
    json: bool,
    zone: TimeZone,
}

impl Printer {
    fn records(&self, out: &mut dyn Write, answer: &Answer, is_first: bool) -> io::Result<()> {
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
    fn row(&self, stored: &Stored) -> String {
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
        say("rules", (!record.rule_ids.is_empty()).then(|| record.rule_ids.join(",")).as_deref());
        say("limit", record.limit.as_deref());
        say("answers", (!record.answers.is_empty()).then(|| record.answers.join(",")).as_deref());
        say("effect", record.effect.as_deref());
        say("targets", (record.targets.len() > 1).then(|| record.targets.join(",")).as_deref());
        say("count", record.count.map(|count| count.to_string()).as_deref());
        say("call", record.call_id.as_deref());
        say("record", Some(&format!("{}:{}", stored.origin, stored.seq)));
        // A sentence, and so the last: whatever it quotes, nothing of ours stands behind it.
        if let Some(note) = &record.note {
            let _to_a_string = write!(row, " note=\"{}\"", safe(note).replace('"', "\\\""));
        }
        row
    }

    fn in_full(&self, out: &mut dyn Write, answer: &Answer) -> io::Result<()> {
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

    fn reports(&self, out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
        if self.json {
            return json_line(out, &reports.iter().map(ReportLine::from).collect::<Vec<_>>());
        }
        for report in reports {
            let live = if report.is_live { ", being written" } else { "" };
            let verdict = if report.is_sound() { "sound" } else { "DAMAGED" };
            writeln!(out, "{}: {verdict}, {} records in {} segments{live}", safe(&report.origin), report.records, report.segments)?;
            if let Some((seq, chain)) = &report.head {
                writeln!(out, "  last record {seq}, chain {chain}")?;
            }
            for finding in &report.findings {
                writeln!(out, "  {}", safe(&finding.to_string()))?;
            }
            for torn in &report.torn {
                writeln!(out, "  set aside by an earlier start: {}", safe(torn))?;
            }
        }
        reports.first().map_or(Ok(()), |report| writeln!(out, "note: {}", report.unseen()))
    }

    fn unresolved(&self, out: &mut dyn Write, found: &[(Stored, Standing)]) -> io::Result<()> {
        if found.is_empty() && !self.json {
            return writeln!(out, "every call has ended");
        }
        for (stored, standing) in found {
            if self.json {
                let record: &serde_json::value::RawValue = serde_json::from_str(&stored.line)?;
                json_line(out, &StandingLine { standing: standing.as_str(), record })?;
            } else {
                writeln!(out, "{:<11} {}", standing.as_str(), self.row(stored))?;
            }
        }
        Ok(())
    }

    /// Local time with its offset, so that two readers in two places can compare.
    fn time(&self, stored: &Stored) -> String {
        match Timestamp::from_nanosecond(i128::from(stored.unix_nanos())) {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string(),
            Err(_) => safe(&stored.time),
        }
    }
}

#[derive(Serialize)]
struct StandingLine<'a> {
    standing: &'static str,
    record: &'a serde_json::value::RawValue,
}

#[derive(Serialize)]
struct ReportLine<'a> {
    origin: &'a str,
    sound: bool,
    records: u64,
    segments: u64,
    live: bool,
    last_seq: Option<u64>,
    chain: Option<&'a str>,
    findings: Vec<FindingLine<'a>>,
    torn: &'a [String],
    unseen: &'static str,
}

#[derive(Serialize)]
struct FindingLine<'a> {
    seq: Option<u64>,
    file: &'a str,
    line: u64,
    what: &'a str,
}

impl<'a> From<&'a Report> for ReportLine<'a> {
    fn from(report: &'a Report) -> Self {
        let line = |Finding { seq, file, line, what, .. }: &'a Finding| FindingLine { seq: *seq, file, line: *line, what };
        Self {
            origin: &report.origin,
            sound: report.is_sound(),
            records: report.records,
            segments: report.segments,
            live: report.is_live,
            last_seq: report.head.as_ref().map(|(seq, _)| *seq),
            chain: report.head.as_ref().map(|(_, chain)| chain.as_str()),
            findings: report.findings.iter().map(line).collect(),
            torn: &report.torn,
            unseen: report.unseen(),
        }
    }
}

fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
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

/// A refusal by the check, as other refusals exit.
const EXIT_DAMAGED: u8 = 3;
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
