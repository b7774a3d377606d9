//! The proof that one record is in a log: all that somebody needs who has neither the log nor the other records, but the log's key.
//!
//! One line of JSON:
//! ```text
//! {"doorward_proof":1,"path":"BASE64","checkpoint":"doorward/main\n1234\n…\n","record":{"agent":"demo", … ,"v":1}}
//! ```
//! `path` is the hashes of RFC 6962's audit path, one after the other, the leaf's sibling first; `checkpoint` a signed note. `record` is the record's
//! body as it was hashed, byte for byte, and the last field: it goes from after `,"record":` to the last `}` of the line, without that.
//!
//! It holds where the note is signed by the key, the record's `origin` is the log's, and `SHA-256(0x00 ‖ record)` leads along the path to the root from
//! the leaf that the record's `seq` says it is.
//!
//! Owns: making and checking one. Leaves to others: which key to believe.

use std::collections::{BTreeMap, HashMap, HashSet};
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

/// A proof that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The proof, as one line without its line feed.
    pub line: String,
    /// What it leads to.
    pub checkpoint: Checkpoint,
}

/// The proof of a record, as one line without its line feed.
///
/// Reads the record's segment alone, where the one before it left a seal.
///
/// # Errors
/// See [`ProveError`].
pub fn prove(storage: &dyn Storage, notes: &Notes, seq: u64) -> Result<String, ProveError> {
    prove_all(storage, notes, &[seq])?.pop().unwrap_or(Err(ProveError::Nothing(seq))).map(|made| made.line)
}

/// The proofs of these records, in their order: [`prove`] for many, each segment read once.
///
/// # Errors
/// The log cannot be read. What a single record lacks stands in its place.
pub fn prove_all(storage: &dyn Storage, notes: &Notes, seqs: &[u64]) -> io::Result<Vec<Result<Made, ProveError>>> {
    let all = segments(storage)?;
    let (mut proofs, mut under) = (HashMap::new(), BTreeMap::<&str, Vec<u64>>::new());
    for seq in seqs {
        match note_over(notes, &all, *seq) {
            Ok(note) => under.entry(note).or_default().push(*seq),
            Err(error) => drop(proofs.insert(*seq, Err(error))),
        }
    }
    for (note, seqs) in under {
        match prove_under(storage, notes, &all, note, &seqs) {
            Ok(made) => proofs.extend(seqs.into_iter().zip(made)),
            Err(Lack::Io(error)) => return Err(error),
            Err(Lack::Unsound) => proofs.extend(seqs.into_iter().map(|seq| (seq, Err(ProveError::Unsound(seq))))),
        }
    }
    Ok(seqs.iter().map(|seq| proofs.remove(seq).unwrap_or(Err(ProveError::Nothing(*seq)))).collect())
}

/// The first note that covers a record.
fn note_over<'n>(notes: &'n Notes, all: &[(u64, String)], seq: u64) -> Result<&'n str, ProveError> {
    let (own, _) = all.iter().rfind(|(first, _)| *first <= seq).ok_or(ProveError::Nothing(seq))?;
    let covers = |note: &&String| statement(note).is_some_and(|read| read.first <= seq && read.last().is_some_and(|last| seq <= last));
    let sealed = notes.seals.range(own..).map(|(_, note)| note);
    sealed.chain(&notes.checkpoint).find(covers).map(String::as_str).ok_or(ProveError::Unsigned(seq))
}

/// Why nothing under a note can be proved.
enum Lack {
    Unsound,
    Io(io::Error),
}

impl From<io::Error> for Lack {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Proves records that one note covers.
fn prove_under(
    storage: &dyn Storage,
    notes: &Notes,
    all: &[(u64, String)],
    note: &str,
    seqs: &[u64],
) -> Result<Vec<Result<Made, ProveError>>, Lack> {
    let signed = statement(note).ok_or(Lack::Unsound)?;
    let lowest = seqs.iter().min().copied().unwrap_or(signed.first);
    let own = all.iter().rposition(|(first, _)| *first <= lowest).ok_or(Lack::Unsound)?;
    let begin = (0..=own).rev().find_map(|at| Some((at, tree_before(notes, all[at].0, signed.first)?)));
    let (begin, before) = begin.ok_or(Lack::Unsound)?;
    let (span, mut bodies) = read(storage, &all[begin..], before, &signed, seqs)?;
    let paths = span.inclusions(seqs.iter().map(|seq| seq - signed.first), signed.size);
    let text = serde_json::to_string(note).map_err(io::Error::other)?;
    let proof = |(seq, path): (&u64, Option<Vec<Hash>>)| {
        let (index, path) = (seq - signed.first, path.ok_or(ProveError::Unsound(*seq))?);
        let body = bodies.remove(seq).ok_or(ProveError::Nothing(*seq))?;
        if !is_included(leaf(&body), index, signed.size, &path, signed.root) {
            return Err(ProveError::Unsound(*seq));
        }
        let path: Vec<u8> = path.iter().flat_map(|hash| hash.0).collect();
        let body = String::from_utf8(body).map_err(|_no_text| ProveError::Unsound(*seq))?;
        let path = STANDARD.encode(path);
        let line = format!(r#"{{"doorward_proof":1,"path":"{path}","checkpoint":{text},"record":{body}}}}}"#);
        Ok(Made { line, checkpoint: signed.clone() })
    };
    Ok(seqs.iter().zip(paths).map(proof).collect())
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

/// The leaves up to the last one that is signed, and the bodies of these records without their closing braces.
fn read(
    storage: &dyn Storage,
    segments: &[(u64, String)],
    before: Tree,
    signed: &Checkpoint,
    seqs: &[u64],
) -> Result<(Span, HashMap<u64, Vec<u8>>), Lack> {
    let wanted: HashSet<u64> = seqs.iter().copied().collect();
    let (mut span, mut bodies) = (Span::new(before), HashMap::new());
    for (_, name) in segments {
        let mut from = BufReader::with_capacity(BLOCK, storage.read(name, 0)?);
        let mut text = Vec::new();
        while span.size() < signed.size && from.read_until(b'\n', &mut text)? > 0 {
            let line =
                text.strip_suffix(b"\n").and_then(Line::split).filter(|line| line.seq.checked_sub(signed.first) == Some(span.size()));
            let line = line.ok_or(Lack::Unsound)?;
            span.push(leaf(line.open_body));
            if wanted.contains(&line.seq) {
                bodies.insert(line.seq, line.open_body.to_vec());
            }
            text.clear();
        }
    }
    Ok((span, bodies))
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
    #[error("the record's log or number is none that its checkpoint covers")]
    Place,
    /// The record is not under the root, at least not at its place.
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

/// What a proof says was signed; nothing of it is checked.
pub(super) fn claimed(proof: &str) -> Option<Checkpoint> {
    let written: Written<'_> = serde_json::from_str(proof.trim_end()).ok()?;
    statement(&written.checkpoint)
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
    let is_of_log = checkpoint.name == key.name() && checkpoint.name.rsplit_once('/').is_some_and(|(_, origin)| origin == place.origin);
    let index = place.seq.checked_sub(checkpoint.first).filter(|index| is_of_log && *index < checkpoint.size).ok_or(ProofError::Place)?;
    if !is_included(leaf(body.as_bytes()), index, checkpoint.size, &path, checkpoint.root) {
        return Err(ProofError::Record);
    }
    Ok(Proved { seq: place.seq, record: record.to_owned(), checkpoint })
}

const BLOCK: usize = 1 << 18;
