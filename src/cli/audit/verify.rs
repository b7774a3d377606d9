//! `audit verify`: what the check of the logs found, and what it could not see.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::print::json_line;
use super::{Error, pack, prove};
use crate::audit::gaps::gaps;
use crate::audit::note::VerifyingKey;
use crate::audit::trust::{Trust, anchors};
use crate::audit::verify::{Asked, Finding, Held, Report, verify_all};
use crate::cli::Context;
use crate::cli::table::safe;

/// What to check, and against what.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Verify {
    /// Only this log.
    #[arg(long, value_name = "NAME")]
    pub origin: Option<String>,
    /// Only from the segment of this record on.
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// Only up to the segment of this record.
    #[arg(long, value_name = "SEQ")]
    pub to: Option<u64>,
    /// Only the first and the last record of each segment: names what is missing between segments at once, and checks nothing else.
    #[arg(long, conflicts_with_all = ["from", "to", "anchors", "root_key", "log_keys", "proof"])]
    pub gaps: bool,
    /// A file with checkpoints that were kept elsewhere; may be given several times.
    #[arg(long = "anchor", value_name = "FILE")]
    pub anchors: Vec<PathBuf>,
    /// Only from the segment on that the newest anchor reaches into.
    #[arg(long, requires = "anchors")]
    pub since_anchor: bool,
    /// The operator's root key: it must vouch for a key of each log. Default: `audit.root_key` of the configuration, for the log `main` and those
    /// others that were certified, unless --dir names other logs.
    #[arg(long, value_name = "VKEY", value_parser = key)]
    pub root_key: Option<VerifyingKey>,
    /// A key that the log of its name must have; may be given several times.
    #[arg(long = "key", value_name = "VKEY", value_parser = key)]
    pub log_keys: Vec<VerifyingKey>,
    /// A proof to check with the one --key, and with nothing else: no log is read.
    #[arg(long, value_name = "FILE", requires = "log_keys", conflicts_with_all = ["origin", "from", "to", "anchors", "root_key"])]
    pub proof: Option<PathBuf>,
    /// An archive of `audit pack` to check with --root-key or --key, and with nothing else: no log is read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["origin", "from", "to", "anchors", "proof"])]
    pub pack: Option<PathBuf>,
}

fn key(text: &str) -> Result<VerifyingKey, String> {
    text.parse().map_err(|wrong| format!("{wrong}"))
}

/// Checks all logs; the exit code says whether they are sound.
pub(super) fn run(asked: &Verify, dir: &Path, context: Option<&Context>, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    if let Some(file) = &asked.proof {
        return prove::verify(file, &asked.log_keys, json, out);
    }
    let unreadable = |source| Error::unreadable(dir, source);
    if asked.from.zip(asked.to).is_some_and(|(from, to)| from > to) {
        return Err(Error::Usage("--from is after --to"));
    }
    let (root_key, spares_others) = match &asked.root_key {
        Some(key) => (Some(key.clone()), false),
        None => (configured(context)?, true),
    };
    if let Some(file) = &asked.pack {
        // Of a log that the root key says nothing of, the records are not vouched for; that is told of each.
        return pack::verify(file, &Trust { root_key, spares_others: true, keys: asked.log_keys.clone(), ..Trust::default() }, json, out);
    }
    let trust = Trust { anchors: read_anchors(&asked.anchors)?, root_key, spares_others, keys: asked.log_keys.clone() };
    let wanted = Asked { origin: asked.origin.clone(), from: asked.from, to: asked.to, since_anchor: asked.since_anchor, trust };
    let reports = match dir.try_exists().map_err(unreadable)? {
        true if asked.gaps => gaps(dir, asked.origin.as_deref()),
        true => verify_all(dir, &wanted),
        false => Ok(Vec::new()),
    };
    let reports = reports.map_err(unreadable)?;
    // A log begins with the record of its first start.
    if reports.iter().all(|report| report.records == 0 && report.is_sound()) {
        return Err(Error::NoLog(dir.display().to_string()));
    }
    print(out, json, &reports)?;
    Ok(if reports.iter().all(Report::is_sound) { 0 } else { EXIT_DAMAGED })
}

/// The root key that the configuration names.
fn configured(context: Option<&Context>) -> Result<Option<VerifyingKey>, Error> {
    let text = context.and_then(|context| context.config().ok()?.audit.root_key);
    text.map(|text| text.as_str().parse().map_err(|_wrong| Error::Usage("`audit.root_key` has a slip: its hash is that of another key")))
        .transpose()
}

fn read_anchors(files: &[PathBuf]) -> Result<Vec<crate::audit::trust::Anchor>, Error> {
    let mut all = Vec::new();
    for path in files {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::File { file: file.clone(), source })?;
        let found = anchors(&file, &String::from_utf8_lossy(&bytes));
        if found.is_empty() {
            return Err(Error::NoAnchor(file));
        }
        all.extend(found);
    }
    Ok(all)
}

fn print(out: &mut dyn Write, json: bool, reports: &[Report]) -> io::Result<()> {
    if json {
        return json_line(out, &reports.iter().map(ReportLine::from).collect::<Vec<_>>());
    }
    for report in reports {
        let live = if report.is_live { ", being written" } else { "" };
        let verdict = match (report.is_sound(), report.is_outline) {
            (true, false) => "sound",
            (true, true) => "no gap between segments",
            (false, _) => "DAMAGED",
        };
        writeln!(
            out,
            "{}: {verdict}, {} in {}{live}",
            safe(&report.origin),
            count(report.records, "record"),
            count(report.segments, "segment")
        )?;
        if let Some((seq, chain)) = &report.head {
            writeln!(out, "  last record {seq}, chain {chain}")?;
        }
        for (what, held) in [("signed", &report.signed), ("vouched for", &report.vouched), ("anchored", &report.anchored)] {
            if let Some(held) = held {
                writeln!(out, "  {what} up to record {} ({})", held.last, held.time())?;
            }
        }
        for finding in &report.findings {
            writeln!(out, "  {}", safe(&finding.to_string()))?;
        }
        if let Some(payloads) = payloads(report) {
            writeln!(out, "  payloads and their keys: {payloads}")?;
        }
        for torn in &report.torn {
            writeln!(out, "  set aside by an earlier start: {}", safe(torn))?;
        }
        for unseen in report.unseen() {
            writeln!(out, "  not seen: {}", safe(&unseen))?;
        }
    }
    Ok(())
}

/// How the files stand that records name; `None` where there are none.
fn payloads(report: &Report) -> Option<String> {
    let counts =
        [(report.sealed.sound, "as recorded"), (report.sealed.erased, "erased"), (report.sealed.pruned, "removed with their records")];
    let told: Vec<_> = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

#[derive(Serialize)]
struct ReportLine<'a> {
    origin: &'a str,
    sound: bool,
    records: u64,
    segments: u64,
    live: bool,
    pruned: Option<u64>,
    last_seq: Option<u64>,
    chain: Option<&'a str>,
    signed: Option<HeldLine>,
    vouched: Option<HeldLine>,
    anchored: Option<HeldLine>,
    payloads: PayloadsLine,
    findings: Vec<FindingLine<'a>>,
    torn: &'a [String],
    unseen: Vec<String>,
}

#[derive(Serialize)]
struct PayloadsLine {
    sound: u64,
    erased: u64,
    pruned: u64,
}

#[derive(Serialize)]
struct HeldLine {
    last_seq: u64,
    time: String,
}

impl From<&Held> for HeldLine {
    fn from(held: &Held) -> Self {
        Self { last_seq: held.last, time: held.time() }
    }
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
            pruned: report.pruned,
            last_seq: report.head.as_ref().map(|(seq, _)| *seq),
            chain: report.head.as_ref().map(|(_, chain)| chain.as_str()),
            signed: report.signed.as_ref().map(HeldLine::from),
            vouched: report.vouched.as_ref().map(HeldLine::from),
            anchored: report.anchored.as_ref().map(HeldLine::from),
            payloads: PayloadsLine { sound: report.sealed.sound, erased: report.sealed.erased, pruned: report.sealed.pruned },
            findings: report.findings.iter().map(line).collect(),
            torn: &report.torn,
            unseen: report.unseen(),
        }
    }
}

/// A refusal by the check, as other refusals exit.
pub(super) const EXIT_DAMAGED: u8 = 3;

/// A number and what it is of.
pub(super) fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}
