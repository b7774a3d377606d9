//! `audit verify`: what the check of the chains found.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::Error;
use super::print::json_line;
use crate::audit::verify::{Finding, Report, verify_all};
use crate::cli::table::safe;

/// Checks all logs; the exit code says whether they are sound.
pub(super) fn run(dir: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let unreadable = |source| Error::unreadable(dir, source);
    let reports = if dir.try_exists().map_err(unreadable)? { verify_all(dir).map_err(unreadable)? } else { Vec::new() };
    // A log begins with the record of its first start.
    if reports.iter().all(|report| report.records == 0) {
        return Err(Error::NoLog(dir.display().to_string()));
    }
    print(out, json, &reports)?;
    Ok(if reports.iter().all(Report::is_sound) { 0 } else { EXIT_DAMAGED })
}

fn print(out: &mut dyn Write, json: bool, reports: &[Report]) -> io::Result<()> {
    if json {
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

/// A refusal by the check, as other refusals exit.
const EXIT_DAMAGED: u8 = 3;
