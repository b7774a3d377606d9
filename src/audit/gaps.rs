//! Which records are missing between the segments of a log, told by the first and the last record of each: at once, however long the log is.
//!
//! Owns: that look. Leaves to others: the check of every record (`verify`), which this is not.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::chain::{Chain, Line, leaf};
use super::disk::{self, Disk};
use super::lines;
use super::report::{Report, missing};
use super::storage::{Storage, segments};
use super::trust::{Evidence, Notes, Trust};

/// Looks at the ends of all segments in `dir`, of all logs or of one.
///
/// # Errors
/// A folder or file cannot be read.
pub fn gaps(dir: &Path, origin: Option<&str>) -> io::Result<Vec<Report>> {
    let origins = disk::origins(dir)?.into_iter().filter(|known| origin.is_none_or(|origin| origin == known));
    origins.map(|origin| look(&Disk::existing(dir, &origin), &origin)).collect()
}

fn look(storage: &dyn Storage, origin: &str) -> io::Result<Report> {
    let mut report = Report { origin: origin.to_owned(), is_live: storage.is_locked(), is_outline: true, ..Report::default() };
    // Before the segments: what it vouches for is there by then.
    let notes = Notes::of(storage)?;
    let evidence = Evidence::of(origin, &notes, &Trust::default(), &BTreeMap::new());
    let mut before: Option<(u64, Chain)> = None;
    for (first_seq, name) in segments(storage)? {
        report.segments += 1;
        match before {
            None if first_seq > 1 && evidence.seal_before(first_seq).is_some() => report.pruned = Some(first_seq - 1),
            None if first_seq > 1 => report.blame(Some(1), &name, 1, missing(1, first_seq)),
            Some((last, _)) if first_seq > last + 1 => report.blame(Some(last + 1), &name, 1, missing(last + 1, first_seq)),
            Some((last, _)) if first_seq <= last => {
                report.blame(Some(first_seq), &name, 1, format!("record {first_seq} stands here, again or too late, after record {last}"))
            }
            _ => {}
        }
        let first = first_line(storage, &name)?;
        let Some(line) = Line::split(&first).filter(|line| line.seq == first_seq) else {
            // One that is being begun has none yet.
            if !(report.is_live && first.is_empty()) {
                report.blame(Some(first_seq), &name, 1, "its first line is not the record that its name says".to_owned());
            }
            continue;
        };
        if before.is_some_and(|(last, chain)| last + 1 == first_seq && chain.link(leaf(line.open_body)) != line.chain) {
            report.blame(Some(first_seq), &name, 1, "the record was changed, or the one before it was".to_owned());
        }
        let last = lines::last(storage, &name, 1)?.pop();
        let (seq, chain) = last.as_deref().and_then(Line::split).map_or((first_seq, line.chain), |line| (line.seq, line.chain));
        report.records += seq.saturating_sub(first_seq) + 1;
        report.head = Some((seq, chain.to_hex()));
        before = Some((seq, chain));
    }
    let end = before.map_or(0, |(seq, _)| seq);
    for claim in evidence.claims.iter().filter(|claim| claim.checkpoint.last().is_some_and(|last| last > end)) {
        let what = format!("it covers the records up to {}, and they end before that", claim.checkpoint.last().unwrap_or_default());
        report.blame(Some(end + 1), &claim.file, claim.line, what);
    }
    Ok(report)
}

/// The first whole line of a segment, without its line feed; empty where there is none.
fn first_line(storage: &dyn Storage, name: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    BufReader::new(storage.read(name, 0)?.take(MAX_LINE_BYTES)).read_until(b'\n', &mut text)?;
    Ok(if text.pop() == Some(b'\n') { text } else { Vec::new() })
}

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::index::tests::write;

    /// What is told of a log of four segments after some meddling.
    fn told(meddle: impl FnOnce(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "main", 1, 4, 50);
        meddle(&dir.path().join("main/segments"));
        let report = gaps(dir.path(), None).unwrap().pop().unwrap();
        assert!(report.unseen()[0].contains("only the first and the last record"));
        report.findings.iter().map(|finding| format!("{}: {}", finding.seq.unwrap(), finding.what)).collect()
    }

    fn segment(folder: &Path, first: u64) -> std::path::PathBuf {
        folder.join(format!("{first:020}.jsonl"))
    }

    #[test]
    fn a_whole_log_has_no_gap_and_one_segment_less_is_named() {
        assert_eq!(told(|_| {}), [""; 0]);
        assert_eq!(
            told(|folder| fs::remove_file(segment(folder, 51)).unwrap()),
            ["51: records 51 to 100 are missing: record 101 stands here"]
        );
        assert_eq!(told(|folder| fs::remove_file(segment(folder, 1)).unwrap()), ["1: records 1 to 50 are missing: record 51 stands here"]);
    }

    #[test]
    fn lines_that_are_gone_at_an_end_and_a_changed_end_are_told() {
        let without_last = |folder: &Path| {
            let text = fs::read_to_string(segment(folder, 51)).unwrap();
            fs::write(segment(folder, 51), &text[..text.trim_end().rfind('\n').unwrap() + 1]).unwrap();
        };
        assert_eq!(told(without_last), ["100: record 100 is missing: record 101 stands here"]);
        let without_first = |folder: &Path| {
            let text = fs::read_to_string(segment(folder, 101)).unwrap();
            fs::write(segment(folder, 101), &text[text.find('\n').unwrap() + 1..]).unwrap();
        };
        assert_eq!(told(without_first)[0], "101: its first line is not the record that its name says");
        let changed = |folder: &Path| {
            let text = fs::read_to_string(segment(folder, 51)).unwrap();
            fs::write(segment(folder, 51), text.replacen("\"kind\":", "\"kinds\":", 1)).unwrap();
        };
        assert_eq!(told(changed), ["51: the record was changed, or the one before it was"]);
    }
}
