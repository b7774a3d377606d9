//! What a check of a log found, and what it could not see.
//!
//! Owns: the words. Leaves to others: the check (`verify`).

use std::fmt;

use super::payload::Sealed;
use super::trust::{Claim, Source};
use crate::clock::rfc3339;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose log.
    pub origin: String,
    /// The first record that is wrong, or could be, where that is known.
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
        if !self.file.is_empty() {
            write!(out, " ({}:{})", self.file, self.line)?;
        }
        write!(out, ": {}", self.what)
    }
}

/// A checkpoint that the records bear out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The last record that it covers.
    pub last: u64,
    /// When it was made, in seconds since 1970.
    pub time: i64,
}

impl Held {
    /// When it was made, in RFC 3339.
    pub fn time(&self) -> String {
        let text = rfc3339(self.time.saturating_mul(1_000_000_000));
        format!("{}Z", text.get(..19).unwrap_or_default())
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose log.
    pub origin: String,
    /// Lines read; where only the ends of segments were, the records that their numbers speak of.
    pub records: u64,
    /// Segments read.
    pub segments: u64,
    /// The last record before the first that was read, where that is not record 1.
    pub unread: Option<u64>,
    /// The last record of the segments that are missing before the first.
    pub pruned: Option<u64>,
    /// The newest record that says what was removed, where it is signed.
    pub removal: Option<u64>,
    /// The last record of a segment whose seal is still to come, or to be completed.
    pub unsealed: Option<u64>,
    /// The last record and the chain after it: what to note down elsewhere as an anchor.
    pub head: Option<(u64, String)>,
    /// The newest checkpoint that holds.
    pub signed: Option<Held>,
    /// The newest that holds and was signed by a key which the asker trusts, or which follows from one.
    pub vouched: Option<Held>,
    /// The newest anchor that holds.
    pub anchored: Option<Held>,
    /// How many anchors of this log were given.
    pub anchors: u64,
    /// How the payloads stand that records name.
    pub sealed: Sealed,
    /// Whether the log has signed notes.
    pub is_signed: bool,
    /// Whether the asker named keys to trust.
    pub trusts_keys: bool,
    /// What is wrong; empty when all holds. At most 1,000.
    pub findings: Vec<Finding>,
    /// Torn ends that earlier starts set aside.
    pub torn: Vec<String>,
    /// Whether some process is writing the log.
    pub is_live: bool,
    /// Whether only the first and the last record of each segment were read.
    pub is_outline: bool,
}

impl Report {
    /// Whether all that was read holds.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// What this check cannot see, one sentence each.
    pub fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        if self.is_outline {
            unseen.push(ONLY_ENDS.to_owned());
        }
        match (self.pruned, self.unread) {
            (Some(last), _) => {
                let mut what =
                    format!("the records up to {last} are not there any more; their seals are, and nothing else was checked of them");
                let anchored = self.anchored.as_ref().map_or(0, |held| held.last);
                if let Some(removal) = self.removal.filter(|removal| *removal > anchored && self.anchors > 0) {
                    what.push_str(&format!("; no anchor that was given covers record {removal}, which says that they were to go"));
                }
                unseen.push(what);
            }
            (None, Some(last)) => unseen.push(format!("the records up to {last} were not read")),
            (None, None) => {}
        }
        let last = self.head.as_ref().map_or(0, |(last, _)| *last);
        match &self.anchored {
            Some(held) if held.last < last => unseen.push(format!(
                "of the records after {}, which the newest anchor covers ({}), some could have been cut off, and whoever holds the log's key could \
                 have made them anew",
                held.last,
                held.time()
            )),
            Some(held) => unseen.push(format!("whether records after {} ({}) were cut off, since no anchor is newer", held.last, held.time())),
            None if self.anchors > 0 => unseen.push("the anchors that were given bear out nothing that was read".to_owned()),
            None => unseen.push(NO_ANCHOR.to_owned()),
        }
        if self.is_outline {
            return unseen;
        }
        match &self.signed {
            Some(held) if held.last < last => unseen.push(format!("the records after {} are in the chain and not yet signed", held.last)),
            None if self.is_signed => unseen.push("nothing that was read is signed".to_owned()),
            _ => {}
        }
        if let Some(last) = self.unsealed {
            unseen.push(format!(
                "the seal of the segment that ends with record {last} is not complete, as in the midst of a rotation or after a crash there; the next \
                 start completes it, or refuses where the log's key says that it was complete; with all that was signed after it, and no anchor, one \
                 that was taken away looks the same"
            ));
        }
        if self.trusts_keys && !self.sealed.unvouched.is_empty() {
            let records: Vec<_> = self.sealed.unvouched.iter().take(MAX_NAMED).map(String::as_str).collect();
            unseen.push(format!(
                "that payloads were erased is said by {}, and no key that was given vouches for what signs that",
                records.join(", ")
            ));
        }
        if self.is_signed && self.vouched.is_none() {
            let how = if self.trusts_keys { "the keys that were given vouch for nothing that was read" } else { NO_KEY };
            unseen.push(how.to_owned());
        }
        unseen
    }

    /// Adds what is wrong.
    pub(super) fn blame(&mut self, seq: Option<u64>, file: &str, line: u64, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { origin: self.origin.clone(), seq, file: file.to_owned(), line, what });
        }
    }

    /// Adds the files that records name, that are not there, and that nothing explains.
    pub(super) fn blame_missing(&mut self) {
        let wanting: Vec<_> = self.sealed.wanting().cloned().collect();
        for missing in wanting {
            let what = match missing.file.is_key() {
                true => format!("the data key {} is gone, and no signed record says that it was erased", missing.file.key()),
                false => format!("the payload {} is gone, and no signed record says that it was erased", missing.file.file),
            };
            self.blame(Some(missing.seq), &missing.segment, missing.line, what);
        }
    }

    /// Adds what is wrong with a segment before all that was read.
    pub(super) fn blame_first(&mut self, segment: u64, file: &str, what: String) {
        self.findings.insert(0, Finding { origin: self.origin.clone(), seq: Some(segment), file: file.to_owned(), line: 1, what });
        self.findings.truncate(MAX_FINDINGS);
    }

    /// Notes that the records up to `last` bear this claim out.
    pub(super) fn hold(&mut self, last: u64, claim: &Claim) {
        let held = Some(Held { last, time: claim.checkpoint.time });
        if claim.source == Source::Anchor {
            self.anchored.clone_from(&held);
        }
        if claim.is_vouched {
            self.vouched.clone_from(&held);
        }
        if claim.is_signed {
            self.signed = held;
        }
    }
}

/// That the records from one on up to the next that is there are missing.
pub(super) fn missing(from: u64, next: u64) -> String {
    let what = if next - from == 1 { format!("record {from} is") } else { format!("records {from} to {} are", next - 1) };
    format!("{what} missing: record {next} stands here")
}

const ONLY_ENDS: &str = "only the first and the last record of each segment were read: a record between them that was changed, dropped or put in is not \
                         seen; ask without --gaps";
const NO_ANCHOR: &str = "without an anchor outside this folder, records cut off at the very end and a log rewritten by somebody who holds the disk \
                         and the log's key cannot be seen; compare the last record and chain, or the newest checkpoint, with a copy kept elsewhere";
const NO_KEY: &str = "nobody vouches for the log's key: with --root-key or --key, a log signed anew with another key is seen";
const MAX_FINDINGS: usize = 1_000;
/// Most records that one sentence names.
const MAX_NAMED: usize = 5;
