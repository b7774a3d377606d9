//! What the notes and keys of a log say, at a start, of what must be there; and where in that the last life ended.
//!
//! A start that finds fewer records than a checkpoint covers, or others, or notes or a key without their segments, is not the next of a crash: it is
//! told as damage. What crashes leave, `s` being the last segment that holds a record:
//! ```text
//! key of s = present key                   `s` was being written                                  seal it with that key
//! key of s = next key                      died before the seal of the segment before was done    do that first; so too at the very first start
//! `s` has a seal, its next = present key   stopped, or died before there was a segment after it   go on with that key
//! `s` has a seal, its next = next key      died while it stopped                                  make that key the present one first
//! no key of s, no key, no note             a log of an older version                              its tree is computed from all its segments
//! no segment, no present key, no note      the first start, or it died before it stored a record  begin
//! ```
//! The first present key is there only after a record was durable and covered by a checkpoint, so a present key without a segment or a checkpoint
//! means that these were taken away. So it is where the key of `s` is the present one, and the segment before it has not its whole seal; and where a
//! segment is gone, and the record that says so is not covered by a checkpoint: retention removes nothing before.
//!
//! Owns: that judgement. Leaves to others: reading segments (`recovery`), acting on it while the log runs (`notary`).

use std::io;

use super::chain::Chain;
use super::checkpoint::Checkpoint;
use super::notary::{End, Sealing, sign};
use super::note::{Note, Signer, VerifyingKey};
use super::storage::{CHECKPOINT, Slot, Storage, numbered, peaks_name, seal_name, segment_name};
use super::tree::{Hash, Tree};
use super::trust::{key_of, parse_peaks};

/// What is wrong, and where.
pub(super) struct Fault {
    pub(super) place: String,
    pub(super) what: String,
}

impl Fault {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// Where the reading of leaves begins.
pub(super) struct Base {
    /// The first segment whose leaves are to be read, as a place in the list of segments.
    pub(super) at: usize,
    /// The tree and chain before it; none where the log or its tree begins there.
    pub(super) end: Option<End>,
}

/// The notes and keys as they are.
pub(super) struct Evidence {
    /// The newest checkpoint and its text.
    pub(super) newest: Option<(String, Checkpoint)>,
    /// The segments that have a seal.
    seals: Vec<u64>,
    present: Option<Signer>,
    has_present: bool,
    next: Option<Signer>,
    /// The record that is leaf 0.
    pub(super) first: u64,
}

impl Evidence {
    /// Reads the small files. A checkpoint that is none is a fault.
    pub(super) fn read(storage: &dyn Storage, all: &[(u64, String)]) -> io::Result<(Self, Option<Fault>)> {
        let (mut newest, mut fault) = (None, None);
        if let Some(bytes) = storage.note(CHECKPOINT)? {
            newest = parse(&bytes);
            if newest.is_none() {
                fault = Some(Fault::new(CHECKPOINT, "it is not a checkpoint"));
            }
        }
        let key = |slot| -> io::Result<(bool, Option<Signer>)> {
            let bytes = storage.key(slot)?;
            let read = |bytes: &[u8]| Signer::from_private_text(std::str::from_utf8(bytes).ok()?).ok();
            Ok((bytes.is_some(), bytes.and_then(|bytes| read(&bytes))))
        };
        let ((has_present, present), (_, next)) = (key(Slot::Present)?, key(Slot::Next)?);
        let seals = numbered(storage.seals()?, ".note").into_iter().map(|(segment, _)| segment).collect();
        let begin = all.first().map_or(1, |(segment, _)| *segment);
        let first = newest.as_ref().map_or(begin, |(_, newest): &(String, Checkpoint)| newest.first);
        Ok((Self { newest, seals, present, has_present, next, first }, fault))
    }

    /// Where to begin: after the newest segment, but for the last, whose tree is stored.
    pub(super) fn base(&self, storage: &dyn Storage, all: &[(u64, String)]) -> io::Result<Base> {
        for at in (1..all.len()).rev() {
            let (segment, after) = (all[at - 1].0, all[at].0);
            let Some(size) = after.checked_sub(self.first).filter(|_| segment >= self.first) else { break };
            let Some((chain, tree)) = peaks_of(storage, segment, size)? else { continue };
            let end = End { segment, tree, chain };
            if self.agrees(storage, &end)? {
                return Ok(Base { at, end: Some(end) });
            }
        }
        Ok(Base { at: all.partition_point(|(segment, _)| *segment < self.first), end: None })
    }

    /// Whether the seal of the segment vouches for these peaks. A segment of an older version has none: the next checkpoint vouches for it.
    fn agrees(&self, storage: &dyn Storage, end: &End) -> io::Result<bool> {
        Ok(match key_of(storage, end.segment)? {
            None => true,
            Some(_) => seal_of(storage, end.segment)?
                .is_some_and(|seal| seal.first == self.first && seal.size == end.tree.size() && seal.root == end.tree.root()),
        })
    }

    /// How many leaves the newest checkpoint covers, for a look at the root there.
    pub(super) fn covered(&self) -> Option<u64> {
        self.newest.as_ref().map(|(_, newest)| newest.size)
    }

    /// The first record that can follow what the notes speak of.
    pub(super) fn next_seq(&self) -> u64 {
        let covered = self.newest.as_ref().and_then(|(_, newest)| newest.last()).unwrap_or(0);
        covered.max(self.seals.last().copied().unwrap_or(0)) + 1
    }

    /// What is wrong with the records that were read: the last ends, oldest first, and the root at the size that the checkpoint covers.
    pub(super) fn fault(
        &self,
        storage: &dyn Storage,
        all: &[(u64, String)],
        ends: &[End],
        root: Option<Hash>,
    ) -> io::Result<Option<Fault>> {
        let is_there = |segment: u64| all.binary_search_by_key(&segment, |(there, _)| *there).is_ok();
        // Those before the oldest segment are past their time: whether all of them were, `verify` says.
        let oldest = all.first().map_or(self.first, |(oldest, _)| self.first.max(*oldest));
        if let Some(missing) = self.seals.iter().find(|segment| **segment >= oldest && !is_there(**segment)) {
            return Ok(Some(Fault::new(segment_name(*missing), "the segment is not there, but its seal is")));
        }
        let Some(last) = ends.last() else {
            let is_left = self.has_present || self.newest.is_some();
            return Ok(
                is_left.then(|| Fault::new(segment_name(self.first), "there is no record, but the log's key or a checkpoint is there"))
            );
        };
        let Some((text, newest)) = &self.newest else {
            return Ok(self.has_present.then(|| Fault::new(CHECKPOINT, "it is gone, and the log's key is there")));
        };
        if newest.size > last.tree.size() {
            let (to, until) = (newest.last().unwrap_or(0), self.first + last.tree.size() - 1);
            let what = format!("a checkpoint covers the records up to {to}, and the log ends with record {until}");
            return Ok(Some(Fault::new(segment_name(last.segment), what)));
        }
        if root.is_some_and(|root| root != newest.root) {
            let what = format!("the records up to {} are not those that the checkpoint covers", newest.last().unwrap_or(0));
            return Ok(Some(Fault::new(CHECKPOINT, what)));
        }
        let is_signed = match is_there(newest.segment).then(|| key_of(storage, newest.segment)).transpose()?.flatten() {
            Some(key) => Note::parse(text).is_ok_and(|note| note.text(&key).is_ok()),
            None => false,
        };
        Ok((!is_signed).then(|| Fault::new(CHECKPOINT, format!("it is not signed with the key of segment {}", newest.segment))))
    }

    /// Who vouches from here on, and what of the last life is to be completed before.
    pub(super) fn standing(mut self, storage: &dyn Storage, ends: &[End], time: i64) -> io::Result<Result<(Standing, Unfinished), Fault>> {
        let Some(last) = ends.last() else { return Ok(Ok((Standing::New(None), Unfinished::default()))) };
        let Some(key) = key_of(storage, last.segment)? else {
            if self.has_present || self.newest.is_some() || !self.seals.is_empty() {
                return Ok(Err(Fault::new(segment_name(last.segment), "its first record names no key, but the log has had one")));
            }
            return Ok(Ok((Standing::New(Some(last.clone())), Unfinished::default())));
        };
        if is(&self.next, &key) {
            return self.promote(storage, ends, &key, time);
        }
        let seal = seal_of(storage, last.segment)?;
        let succession = seal.as_ref().and_then(|seal| seal.next.clone());
        let is_next = succession.as_ref().is_some_and(|succession| is(&self.next, succession));
        if !is_next && let Some(present) = self.present.take_if(|present| *present.key() == key) {
            return Ok(match self.unsealed(storage, ends)? {
                Some(fault) => Err(fault),
                None => Ok((Standing::Writing(present), Unfinished::default())),
            });
        }
        let (Some(seal), Some(succession)) = (seal, succession) else {
            let what = "it is gone or another, and so is the private key with which it could be made again";
            return Ok(Err(if self.has_present { Fault::new(seal_name(last.segment), what) } else { gone() }));
        };
        if seal.size != last.tree.size() || seal.root != last.tree.root() || seal.first != self.first {
            return Ok(Err(Fault::new(segment_name(last.segment), "its records are not those that its seal covers")));
        }
        let mut unfinished = Unfinished::default();
        if is_next {
            unfinished.sealing = Some(Sealing::without_note(last));
            self.present = self.next.take();
        }
        let present = self.present.take_if(|present| *present.key() == succession);
        Ok(present.map(|present| (Standing::Sealed(present), unfinished)).ok_or_else(gone))
    }

    /// What is missing of the seal of the segment before the last, after which alone the last one's key is the present one.
    fn unsealed(&self, storage: &dyn Storage, ends: &[End]) -> io::Result<Option<Fault>> {
        let [before, _] = ends else { return Ok(None) };
        let peaks = peaks_of(storage, before.segment, before.tree.size())?;
        let is_whole = peaks == Some((before.chain, before.tree.clone())) && self.agrees(storage, before)?;
        let has_key = key_of(storage, before.segment)?.is_some();
        Ok((has_key && !is_whole).then(|| Fault::new(seal_name(before.segment), "it, or the tree beside it, is gone or another")))
    }

    /// A segment that is gone although no checkpoint covers the record that says so.
    pub(super) fn removed_unsigned(&self, all: &[(u64, String)], removals: &[(u64, String)]) -> Option<Fault> {
        let covered = self.newest.as_ref().and_then(|(_, newest)| newest.last())?;
        let is_gone = |name: &String| all.iter().all(|(_, there)| there != name);
        let (seq, name) = removals.iter().find(|(seq, name)| *seq > covered && is_gone(name))?;
        Some(Fault::new(name, format!("the segment is gone, and no checkpoint covers record {seq}, which says that it was to go")))
    }

    /// The next key, which is that of the last segment, is to be the present one, once the segment before it is sealed.
    fn promote(
        mut self,
        storage: &dyn Storage,
        ends: &[End],
        key: &VerifyingKey,
        time: i64,
    ) -> io::Result<Result<(Standing, Unfinished), Fault>> {
        let (Some(next), [before @ .., last]) = (self.next.take(), ends) else { return Ok(Err(gone())) };
        let before = match before.last() {
            Some(before) => key_of(storage, before.segment)?.map(|key| (before, key)),
            None => None,
        };
        let sealing = match before {
            None => Sealing::of_nothing(),
            Some((before, its)) => {
                let stored = seal_of(storage, before.segment)?.and_then(|seal| seal.next);
                match &self.present {
                    _ if stored.as_ref() == Some(key) => Sealing::without_note(before),
                    Some(present) if *present.key() == its => Sealing::new(present, self.first, before, key, time)?,
                    _ => return Ok(Err(gone())),
                }
            }
        };
        let newest = if self.newest.is_none() { Some(sign(&next, self.first, &last.tree, last.segment, time, None)?) } else { None };
        Ok(Ok((Standing::Writing(next), Unfinished { newest, sealing: Some(sealing) })))
    }
}

/// What a crash cut off.
#[derive(Default)]
pub(super) struct Unfinished {
    newest: Option<String>,
    sealing: Option<Sealing>,
}

impl Unfinished {
    /// Does it. All that was read must be durable.
    pub(super) fn complete(self, storage: &dyn Storage) -> io::Result<()> {
        if let Some(newest) = self.newest {
            storage.put_note(CHECKPOINT, newest.as_bytes())?;
        }
        self.sealing.map_or(Ok(()), |sealing| sealing.complete(storage))
    }
}

/// Who vouches for what the start writes.
pub(super) enum Standing {
    /// The last segment was being written under this key, and is to be sealed with it.
    Writing(Signer),
    /// The last segment is sealed, and this is the key of the next.
    Sealed(Signer),
    /// Nobody yet. A log of an older version has ended so.
    New(Option<End>),
}

fn is(signer: &Option<Signer>, key: &VerifyingKey) -> bool {
    signer.as_ref().is_some_and(|signer| signer.key() == key)
}

fn gone() -> Fault {
    Fault::new("keys", "the private key that goes with the last segment is gone")
}

fn parse(bytes: &[u8]) -> Option<(String, Checkpoint)> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some((text.to_owned(), Checkpoint::parse(Note::parse(text).ok()?.unchecked_text())?))
}

/// The seal of a segment, if the key of that segment has signed it.
fn seal_of(storage: &dyn Storage, segment: u64) -> io::Result<Option<Checkpoint>> {
    let (Some(key), Some(bytes)) = (key_of(storage, segment)?, storage.note(&seal_name(segment))?) else { return Ok(None) };
    let is_signed = |text: &String| Note::parse(text).is_ok_and(|note| note.text(&key).is_ok());
    Ok(parse(&bytes)
        .filter(|(text, _)| is_signed(text))
        .map(|(_, seal)| seal)
        .filter(|seal| seal.segment == segment && seal.next.is_some()))
}

/// The chain and the tree of so many leaves that stand beside the seal of a segment.
fn peaks_of(storage: &dyn Storage, segment: u64, size: u64) -> io::Result<Option<(Chain, Tree)>> {
    let text = storage.note(&peaks_name(segment))?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| parse_peaks(&text, size)))
}
