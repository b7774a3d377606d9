//! The check of a whole log against its chain, with nothing but the files.
//!
//! It finds a changed byte, and a line that was dropped, repeated, moved or put in, and a segment that is missing before the last, and names the
//! record. Without an anchor it cannot find a tail cut at the end of a line, nor a log that somebody wrote anew from some record on:
//! [`Report::unseen`] says so. A log that is being written may be checked; its last, unfinished line is left alone.
//!
//! Owns: the judgement. Leaves to others: the format (`chain`), and what a start makes of damage (`recovery`).

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::chain::{Chain, Line};
use super::disk::{self, Disk};
use super::storage::{Storage, segments};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose log.
    pub origin: String,
    /// The record that should stand there, where that is known.
    pub seq: Option<u64>,
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.origin)?;
        if let Some(seq) = self.seq {
            write!(out, " record {seq}")?;
        }
        write!(out, " ({}:{}): {}", self.file, self.line, self.what)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose log.
    pub origin: String,
    /// Lines read.
    pub records: u64,
    /// Segments read.
    pub segments: u64,
    /// The last record and the chain after it: what to note down elsewhere as an anchor.
    pub head: Option<(u64, String)>,
    /// What is wrong; empty when all holds. At most 1,000.
    pub findings: Vec<Finding>,
    /// Torn ends that earlier starts set aside.
    pub torn: Vec<String>,
    /// Whether some process is writing the log.
    pub is_live: bool,
}

impl Report {
    /// Whether the chain holds.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// What this check cannot see.
    pub fn unseen(&self) -> &'static str {
        "without an anchor outside this folder, records cut off at the very end and a log rewritten by somebody who knows the format cannot be seen; \
         compare the last record and chain with a copy kept elsewhere"
    }
}

/// Checks all origins in `dir`.
///
/// # Errors
/// A folder or file cannot be read.
pub fn verify_all(dir: &Path) -> io::Result<Vec<Report>> {
    disk::origins(dir)?.iter().map(|origin| verify(&Disk::existing(dir, origin), origin)).collect()
}

/// Checks the log of one origin.
///
/// # Errors
/// A file cannot be read.
pub fn verify(storage: &dyn Storage, origin: &str) -> io::Result<Report> {
    let report = Check::new(storage, origin).run()?;
    let is_last = |finding: &Finding| segments(storage).is_ok_and(|all| all.last().is_none_or(|(_, name)| *name == finding.file));
    if report.is_live && report.findings.last().is_some_and(is_last) {
        // A write that failed is taken back: a reader in the midst of it sees lines that never were. What is there twice is there.
        return Check::new(storage, origin).run();
    }
    Ok(report)
}

struct Check<'a> {
    storage: &'a dyn Storage,
    report: Report,
    /// The `seq` that comes next; unknown at the start of a log whose beginning is not there.
    next_seq: Option<u64>,
    /// The chains that the next line may follow: none when it cannot be known, two when the line before was changed in its body or its chain.
    before: Vec<Chain>,
    head: Option<(u64, Chain)>,
}

impl<'a> Check<'a> {
    fn new(storage: &'a dyn Storage, origin: &str) -> Self {
        let report = Report { origin: origin.to_owned(), is_live: storage.is_locked(), ..Report::default() };
        Self { storage, report, next_seq: Some(1), before: vec![Chain::first(origin)], head: None }
    }

    fn run(mut self) -> io::Result<Report> {
        let all = segments(self.storage)?;
        let last = all.len();
        self.report.torn = self.storage.list()?.into_iter().filter(|name| name.contains(".torn")).collect();
        for (at, (first_seq, name)) in all.iter().enumerate() {
            self.report.segments += 1;
            self.segment(*first_seq, name, at + 1 == last)?;
        }
        self.report.head = self.head.map(|(seq, chain)| (seq, chain.to_hex()));
        Ok(self.report)
    }

    fn segment(&mut self, first_seq: u64, name: &str, is_last: bool) -> io::Result<()> {
        let mut from = BufReader::with_capacity(BLOCK, self.storage.read(name, 0)?);
        let (mut text, mut number) = (Vec::with_capacity(1024), 0);
        while from.read_until(b'\n', &mut text)? > 0 {
            number += 1;
            match text.strip_suffix(b"\n") {
                Some(whole) => {
                    if number == 1 && Line::split(whole).is_some_and(|line| line.seq != first_seq) {
                        self.blame(Some(first_seq), name, number, "the file's name is not the number of its first record".to_owned());
                    }
                    self.line(whole, name, number);
                }
                // The writer has not finished it.
                None if is_last && self.report.is_live => {}
                None => self.blame(self.next_seq, name, number, "the last line is torn; the next start sets it aside".to_owned()),
            }
            text.clear();
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8], name: &str, number: u64) {
        self.report.records += 1;
        let Some(line) = Line::split(text) else {
            self.blame(self.next_seq, name, number, "the line is not a record".to_owned());
            self.next_seq = self.next_seq.map(|seq| seq + 1);
            self.before.clear();
            return;
        };
        let expected = self.next_seq.unwrap_or(line.seq);
        if line.seq < expected {
            return self.blame(
                Some(line.seq),
                name,
                number,
                format!("the record stands here again or too late, after record {}", expected - 1),
            );
        }
        let mut computed = self.before.first().map(|before| before.after(line.open_body));
        if line.seq > expected {
            let missing = if line.seq - expected == 1 {
                format!("record {expected} is")
            } else {
                format!("records {expected} to {} are", line.seq - 1)
            };
            self.blame(Some(line.seq), name, number, format!("{missing} missing before this one"));
            computed = None;
        } else if computed.is_some_and(|computed| computed != line.chain)
            && !self.before.iter().skip(1).any(|before| before.after(line.open_body) == line.chain)
        {
            self.blame(Some(line.seq), name, number, "the record was changed, or the one before it was".to_owned());
        } else {
            computed = None;
        }
        self.before.clear();
        self.before.push(line.chain);
        self.before.extend(computed);
        self.next_seq = Some(line.seq + 1);
        self.head = Some((line.seq, line.chain));
    }

    fn blame(&mut self, seq: Option<u64>, file: &str, line: u64, what: String) {
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding { origin: self.report.origin.clone(), seq, file: file.to_owned(), line, what });
        }
    }
}

const BLOCK: usize = 1 << 18;
const MAX_FINDINGS: usize = 1_000;
