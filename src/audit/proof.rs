//! The proof that one record is in a log: all that somebody needs who has neither the log nor the other records, but the log's key.
//!
//! One line of JSON:
//! ```text
//! {"doorward_proof":1,"index":41,"path":"BASE64","checkpoint":"doorward/main\n1234\n…\n","record":{"agent":"demo", … ,"v":1}}
//! ```
//! `index` is the record's `seq` less the record that is leaf 0; `path` the hashes of RFC 6962's audit path, one after the other, the leaf's sibling
//! first; `checkpoint` a signed note. `record` is the record's body as it was hashed, byte for byte, and the last field: it goes from after
//! `,"record":` to the last `}` of the line, without that.
//!
//! It holds where the note is signed by the key, `SHA-256(0x00 ‖ record)` leads along the path to the root, and the record's `seq` and `origin` are
//! those of the place and the log.
//!
//! Owns: making and checking one. Leaves to others: which key to believe.

use std::fmt;
use std::io::{self, BufRead, BufReader};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chain::{Line, leaf};
use super::checkpoint::Checkpoint;
use super::note::{Note, NoteError, VerifyingKey, open};
use super::storage::{Storage, segments};
use super::tree::{Hash, Span, Tree, is_included};
use super::trust::{Notes, parse_peaks};

/// Longest proof that is read, in bytes: a record of the largest size and some room.
pub const MAX_PROOF_BYTES: usize = 64 << 20;

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The record is not in the log.
    #[error("there is no record {0} in this log")]
    Nothing(u64),
    /// Nothing that is signed covers it yet.
    #[error("record {0} is not signed yet; that takes ten seconds at most while the gateway runs, else the next start does it")]
    Unsigned(u64),
    /// What is signed is not what is there.
    #[error("what is signed about record {0} is not what is in the log; see `doorward audit verify`")]
    Unsound(u64),
    /// The log cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The proof of a record, as one line without its line feed.
///
/// Reads the record's segment alone, where the one before it left a seal.
///
/// # Errors
/// See [`ProveError`].
pub fn prove(storage: &dyn Storage, notes: &Notes, seq: u64) -> Result<String, ProveError> {
    let all = segments(storage)?;
    let own = all.iter().rposition(|(first, _)| *first <= seq).ok_or(ProveError::Nothing(seq))?;
    let covers = |note: &&String| statement(note).is_some_and(|read| read.first <= seq && read.last().is_some_and(|last| seq <= last));
    let sealed = notes.seals.range(all[own].0..).map(|(_, note)| note);
    let note = sealed.chain(&notes.checkpoint).find(covers).ok_or(ProveError::Unsigned(seq))?;
    let signed = statement(note).ok_or(ProveError::Unsigned(seq))?;
    let (begin, before) =
        (0..=own).rev().find_map(|at| Some((at, tree_before(notes, all[at].0, signed.first)?))).ok_or(ProveError::Unsound(seq))?;
    let (span, body) = read(storage, &all[begin..], before, &signed, seq)?;
    let index = seq - signed.first;
    let path = span.inclusion(index, signed.size).ok_or(ProveError::Unsound(seq))?;
    let body = body.ok_or(ProveError::Nothing(seq))?;
    if !is_included(leaf(&body), index, signed.size, &path, signed.root) {
        return Err(ProveError::Unsound(seq));
    }
    let path: Vec<u8> = path.iter().flat_map(|hash| hash.0).collect();
    let note = serde_json::to_string(note).map_err(io::Error::other)?;
    let body = String::from_utf8(body).map_err(|_no_text| ProveError::Unsound(seq))?;
    Ok(format!(r#"{{"doorward_proof":1,"index":{index},"path":"{}","checkpoint":{note},"record":{body}}}}}"#, STANDARD.encode(path)))
}

fn statement(note: &str) -> Option<Checkpoint> {
    Checkpoint::parse(Note::parse(note).ok()?.unchecked_text())
}

/// The tree that the segment with this first record goes on with; `None` where it is not known.
fn tree_before(notes: &Notes, segment: u64, first: u64) -> Option<Tree> {
    if segment == first {
        return Some(Tree::new());
    }
    let (before, note) = notes.seals.range(..segment).next_back()?;
    let seal = statement(note).filter(|seal| seal.first == first && seal.last().is_some_and(|last| last + 1 == segment))?;
    let (_, tree) = parse_peaks(notes.peaks.get(before)?, seal.size)?;
    Some(tree).filter(|tree| tree.root() == seal.root)
}

/// The leaves up to the last one that is signed, and the record's body without its closing brace.
fn read(
    storage: &dyn Storage,
    segments: &[(u64, String)],
    before: Tree,
    signed: &Checkpoint,
    seq: u64,
) -> Result<(Span, Option<Vec<u8>>), ProveError> {
    let (mut span, mut body) = (Span::new(before), None);
    for (_, name) in segments {
        let mut from = BufReader::with_capacity(BLOCK, storage.read(name, 0)?);
        let mut text = Vec::new();
        while span.size() < signed.size && from.read_until(b'\n', &mut text)? > 0 {
            let line =
                text.strip_suffix(b"\n").and_then(Line::split).filter(|line| line.seq.checked_sub(signed.first) == Some(span.size()));
            let line = line.ok_or(ProveError::Unsound(seq))?;
            span.push(leaf(line.open_body));
            if line.seq == seq {
                body = Some(line.open_body.to_vec());
            }
            text.clear();
        }
    }
    Ok((span, body))
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is not one.
    #[error("it is not a proof of this form")]
    Form,
    /// The checkpoint is not the key's.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] NoteError),
    /// The record says that it stands somewhere else.
    #[error("the record's number or log is not that of the place it is proved for")]
    Place,
    /// The record is not under the root.
    #[error("the record is not the one that was signed")]
    Record,
}

/// A record that is proved to be in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The record's number.
    pub seq: u64,
    /// The record's body.
    pub record: String,
    /// What was signed.
    pub checkpoint: Checkpoint,
}

impl fmt::Display for Proved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "record {} is in the log `{}`, as signed over {} records", self.seq, self.checkpoint.name, self.checkpoint.size)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    doorward_proof: u32,
    index: u64,
    path: String,
    checkpoint: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// What a record says of its place.
#[derive(Deserialize)]
struct Place {
    seq: u64,
    origin: String,
}

/// Checks a proof with the log's key and nothing else.
///
/// # Errors
/// See [`ProofError`].
pub fn check(proof: &str, key: &VerifyingKey) -> Result<Proved, ProofError> {
    let text = Some(proof.trim_end()).filter(|text| text.len() <= MAX_PROOF_BYTES).ok_or(ProofError::Form)?;
    let written: Written<'_> = serde_json::from_str(text).map_err(|_form| ProofError::Form)?;
    let record = written.record.get();
    // So that every reader takes the same bytes for the record.
    let is_last = text.split_once(",\"record\":").is_some_and(|(_, rest)| rest.strip_suffix('}') == Some(record));
    let body = record.strip_suffix('}').filter(|_| written.doorward_proof == 1 && is_last).ok_or(ProofError::Form)?;
    let path = STANDARD.decode(&written.path).map_err(|_form| ProofError::Form)?;
    let (hashes, []) = path.as_chunks::<32>() else { return Err(ProofError::Form) };
    let path: Vec<Hash> = hashes.iter().copied().map(Hash).collect();
    let checkpoint = Checkpoint::parse(open(&written.checkpoint, key)?).ok_or(ProofError::Form)?;
    let place: Place = serde_json::from_str(record).map_err(|_form| ProofError::Form)?;
    let is_there = checkpoint.first.checked_add(written.index) == Some(place.seq)
        && checkpoint.name == key.name()
        && checkpoint.name.rsplit_once('/').is_some_and(|(_, origin)| origin == place.origin);
    if !is_there {
        return Err(ProofError::Place);
    }
    if !is_included(leaf(body.as_bytes()), written.index, checkpoint.size, &path, checkpoint.root) {
        return Err(ProofError::Record);
    }
    Ok(Proved { seq: place.seq, record: record.to_owned(), checkpoint })
}

const BLOCK: usize = 1 << 18;
