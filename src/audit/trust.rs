//! What vouches for a log: the notes beside its segments, anchors kept elsewhere, and keys that the asker trusts.
//!
//! An anchor file holds checkpoints as they were sent out, oldest or newest first, of one log or several, in either form or both:
//! ```text
//! doorward/main                    a note as it is: its lines, the empty line, its signatures; the next may follow at once
//! 1234
//! …
//! Nov 21 10:00:00 gate doorward[71]: {"checkpoint":"doorward/main\n1234\n…\n"}      or a line with the note as one JSON string in it
//! ```
//! All other lines are passed over.
//!
//! Owns: reading these, the keys of a log's segments, and whether each note is signed by the key it must be signed by. Leaves to others: whether
//! what is signed is true of the records (`verify`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chain::{Chain, Line, MAX_SEQ};
use super::checkpoint::{Certificate, Checkpoint};
use super::note::{MAX_NOTE_BYTES, Note, NoteError, VerifyingKey};
use super::storage::{CHECKPOINT, ROOT, SEALS, Storage, present};
use super::tree::{Hash, Tree};

/// The notes that stand beside a log's segments, as they were found: nothing of them is believed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The final checkpoint of each sealed segment, by the segment's first record.
    pub seals: BTreeMap<u64, String>,
    /// The tree at each seal, likewise.
    pub peaks: BTreeMap<u64, String>,
    /// The newest checkpoint.
    pub checkpoint: Option<String>,
    /// The operator's word for the log's key.
    pub certificate: Option<String>,
}

impl Notes {
    /// The notes beside these segments.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn of(storage: &dyn Storage) -> io::Result<Self> {
        let text = |name: &str| storage.note(name).map(|bytes| bytes.map(text));
        let mut notes = Self { checkpoint: text(CHECKPOINT)?, certificate: text(ROOT)?, ..Self::default() };
        for name in storage.seals()? {
            let Some((digits, kind)) = name.split_once('.') else { continue };
            let Some(first) = digits.parse().ok().filter(|first| digits.len() == 20 && *first <= MAX_SEQ) else { continue };
            let Some(content) = text(&format!("{SEALS}{name}"))? else { continue };
            match kind {
                "note" => drop(notes.seals.insert(first, content)),
                "peaks" => drop(notes.peaks.insert(first, content)),
                _ => {}
            }
        }
        Ok(notes)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A file's text; what is no text, or too long for a note, is kept as what cannot be one.
fn text(bytes: Vec<u8>) -> String {
    if bytes.len() > MAX_NOTE_BYTES { String::new() } else { String::from_utf8(bytes).unwrap_or_default() }
}

/// A checkpoint that was kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where it was kept.
    pub file: String,
    /// The line it begins on, from 1.
    pub line: u64,
    /// The note.
    pub note: String,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// The anchors in a file's text, in the forms above.
pub fn anchors(file: &str, text: &str) -> Vec<Anchor> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_end = line.starts_with(SIGNED) && !lines.get(at + 1).is_some_and(|next| next.starts_with(SIGNED));
        if is_end {
            found.extend(note_ending_at(file, &lines[..=at]));
        } else if let Some(note) = json_note(line) {
            found.extend(anchor(file, at as u64 + 1, note));
        }
    }
    found
}

/// The note that ends with the last of these lines.
fn note_ending_at(file: &str, lines: &[&str]) -> Option<Anchor> {
    let gap = lines.iter().rposition(|line| !line.starts_with(SIGNED))?;
    let begins = |lines_of_text: usize| gap.checked_sub(lines_of_text);
    TEXT_LINES.filter_map(begins).find_map(|begin| anchor(file, begin as u64 + 1, lines[begin..].concat()))
}

fn anchor(file: &str, line: u64, note: String) -> Option<Anchor> {
    let checkpoint = Checkpoint::parse(Note::parse(&note).ok()?.unchecked_text())?;
    Some(Anchor { file: file.to_owned(), line, note, checkpoint })
}

/// The first JSON string in the line that is a note. Nobody can know where a string begins in a line of unknown form, so each quote is tried.
fn json_note(line: &str) -> Option<String> {
    let quotes = line.match_indices('"').take(MAX_QUOTES);
    let string = |at: usize| serde_json::Deserializer::from_str(&line[at..]).into_iter::<String>().next()?.ok();
    quotes.filter_map(|(at, _)| string(at)).find(|text| Note::parse(text).is_ok())
}

/// What the asker knows from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Checkpoints kept elsewhere; those of other logs are passed over.
    pub anchors: Vec<Anchor>,
    /// The operator's root key.
    pub root_key: Option<VerifyingKey>,
    /// Whether the root key may have said nothing of a log other than `main`: those of single commands come and go.
    pub spares_others: bool,
    /// Keys of logs.
    pub keys: Vec<VerifyingKey>,
}

impl Trust {
    /// The anchors of this origin.
    pub fn anchors_of<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = &'a Anchor> {
        self.anchors.iter().filter(move |anchor| is_of(&anchor.checkpoint.name, origin))
    }
}

/// Whether a log's name, `NAME/ORIGIN`, is that of this origin.
fn is_of(name: &str, origin: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(_, last)| last == origin)
}

/// Where a claim comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The seal of the segment with this first record.
    Seal(u64),
    /// `checkpoint.note`.
    Newest,
    /// An anchor.
    Anchor,
}

/// A checkpoint about the log, to be held against its records.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) source: Source,
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) checkpoint: Checkpoint,
    /// What is wrong with its signature or form.
    pub(super) fault: Option<String>,
    /// Whether its signature was checked.
    pub(super) is_signed: bool,
    /// Whether its key is one that the asker trusts, or follows from one.
    pub(super) is_vouched: bool,
}

impl Claim {
    /// Checks its signature: by the key of its segment, or where nobody knows that, by one that the asker trusts.
    fn check(&mut self, note: &Note<'_>, key: Option<&VerifyingKey>, trusted: &[VerifyingKey]) {
        let Some(key) = key.or_else(|| trusted.iter().find(|key| note.text(key).is_ok())) else { return };
        self.is_signed = true;
        self.fault = match note.text(key) {
            Ok(_) if key.name() != self.checkpoint.name => Some("its key is that of another log".to_owned()),
            Ok(_) => None,
            Err(NoteError::Unsigned) => Some("it is not signed by the key of its segment".to_owned()),
            Err(fault) => Some(fault.to_string()),
        };
        self.is_vouched = trusted.contains(key);
    }
}

/// Something wrong that no record shows.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) seq: Option<u64>,
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) what: String,
}

/// All that vouches for one log, its signatures checked.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// By the last record they cover.
    pub(super) claims: Vec<Claim>,
    /// What is wrong with keys and files as such.
    pub(super) faults: Vec<Fault>,
    /// The records that begin a tree, but for record 1.
    pub(super) starts: BTreeSet<u64>,
    /// The last record that something signed covers.
    pub(super) signed_to: u64,
    /// The key of each segment that has one, by the segment's first record.
    keys: BTreeMap<u64, VerifyingKey>,
    /// The segments whose keys the asker trusts, or follow from one that is.
    vouched: BTreeSet<u64>,
}

impl Evidence {
    /// Gathers and checks; `declared` are the keys that the first records of segments name.
    pub(super) fn of(origin: &str, notes: &Notes, trust: &Trust, declared: &BTreeMap<u64, (String, String)>) -> Self {
        let mut all = Self::default();
        all.read(origin, notes, trust);
        all.declare(origin, declared);
        let certified = all.certificate(origin, notes, trust);
        all.check_signatures(notes, trust, declared);
        all.vouch(origin, trust, certified);
        all.claims.sort_by_key(|claim| claim.checkpoint.last());
        let signed = all.claims.iter().filter(|claim| claim.is_signed && claim.fault.is_none());
        all.signed_to = signed.filter_map(|claim| claim.checkpoint.last()).max().unwrap_or(0);
        all.starts = all
            .claims
            .iter()
            .filter(|claim| claim.fault.is_none())
            .map(|claim| claim.checkpoint.first)
            .filter(|first| *first > 1)
            .collect();
        all
    }

    fn read(&mut self, origin: &str, notes: &Notes, trust: &Trust) {
        for (first, note) in &notes.seals {
            self.claim(origin, Source::Seal(*first), (&seal_file(*first, "note"), 1), note);
        }
        if let Some(note) = &notes.checkpoint {
            self.claim(origin, Source::Newest, ("checkpoint.note", 1), note);
        }
        for anchor in trust.anchors_of(origin) {
            self.claim(origin, Source::Anchor, (&anchor.file, anchor.line), &anchor.note);
        }
    }

    fn claim(&mut self, origin: &str, source: Source, (file, line): (&str, u64), note: &str) {
        let named = match source {
            Source::Seal(first) => Some(first),
            Source::Newest | Source::Anchor => None,
        };
        let read = Note::parse(note).ok().and_then(|note| Checkpoint::parse(note.unchecked_text()));
        let Some(checkpoint) = read else { return self.blame(named, file, "it is not a signed checkpoint".to_owned()) };
        if !is_of(&checkpoint.name, origin) || named.is_some_and(|first| first != checkpoint.segment || checkpoint.next.is_none()) {
            return self.blame(
                named,
                file,
                format!("it is a checkpoint of something else: `{}`, segment {}", checkpoint.name, checkpoint.segment),
            );
        }
        let claim = Claim { source, file: file.to_owned(), line, checkpoint, fault: None, is_signed: false, is_vouched: false };
        self.claims.push(claim);
    }

    /// Takes the keys that the first records of segments name.
    fn declare(&mut self, origin: &str, declared: &BTreeMap<u64, (String, String)>) {
        for (first, (file, key)) in declared {
            match key.parse::<VerifyingKey>() {
                Ok(key) if is_of(key.name(), origin) => drop(self.keys.insert(*first, key)),
                _ => self.blame(Some(*first), file, "the segment's first record names no key of this log".to_owned()),
            }
        }
    }

    /// The segment that the operator's root key vouches for.
    fn certificate(&mut self, origin: &str, notes: &Notes, trust: &Trust) -> Option<u64> {
        let root_key = trust.root_key.as_ref()?;
        let read = |note: &str| -> Result<Certificate, String> {
            let text = Note::parse(note).and_then(|note| note.text(root_key)).map_err(|fault| fault.to_string())?;
            Certificate::parse(text)
                .filter(|read| is_of(&read.name, origin))
                .ok_or_else(|| "it is a certificate of something else".to_owned())
        };
        let Some(note) = &notes.certificate else {
            if origin == "main" || !trust.spares_others {
                self.blame(None, ROOT, "it is missing, so the root key vouches for nothing; see `doorward audit certify`".to_owned());
            }
            return None;
        };
        match read(note) {
            Ok(certificate) => {
                let known = self.keys.entry(certificate.segment).or_insert_with(|| certificate.key.clone());
                if *known == certificate.key {
                    return Some(certificate.segment);
                }
                self.blame(Some(certificate.segment), ROOT, "the segment has another key than the root key vouches for".to_owned());
            }
            Err(what) => self.blame(None, ROOT, what),
        }
        None
    }

    /// Checks who signed what. A seal that is signed names the next segment's key, which must be what that segment's first record says.
    fn check_signatures(&mut self, notes: &Notes, trust: &Trust, declared: &BTreeMap<u64, (String, String)>) {
        let anchors: BTreeMap<_, _> =
            trust.anchors.iter().map(|anchor| ((anchor.file.as_str(), anchor.line), anchor.note.as_str())).collect();
        // The seals come first, in order, so that the key of each is known from the one before.
        self.claims.sort_by_key(|claim| (claim.source == Source::Anchor, claim.checkpoint.segment));
        for at in 0..self.claims.len() {
            let claim = &mut self.claims[at];
            let note = match claim.source {
                Source::Seal(first) => notes.seals.get(&first).map(String::as_str),
                Source::Newest => notes.checkpoint.as_deref(),
                Source::Anchor => anchors.get(&(claim.file.as_str(), claim.line)).copied(),
            };
            let Some(note) = note.and_then(|note| Note::parse(note).ok()) else { continue };
            claim.check(&note, self.keys.get(&claim.checkpoint.segment), &trust.keys);
            let Some((next, key)) = successor(claim).filter(|_| claim.source != Source::Anchor && claim.fault.is_none()) else { continue };
            let known = self.keys.entry(next).or_insert_with(|| key.clone());
            if *known != key {
                let what = "the segment's key is not the one that the seal before it names".to_owned();
                self.blame(Some(next), &declared.get(&next).map_or_else(String::new, |(file, _)| file.clone()), what);
            }
        }
    }

    /// Follows trust from segment to segment: who is trusted names the next.
    fn vouch(&mut self, origin: &str, trust: &Trust, certified: Option<u64>) {
        let ours: Vec<_> = trust.keys.iter().filter(|key| is_of(key.name(), origin)).collect();
        let mut vouched: BTreeSet<u64> = self.keys.iter().filter(|(_, key)| ours.contains(key)).map(|(first, _)| *first).collect();
        let is_used = !vouched.is_empty() || self.claims.iter().any(|claim| claim.is_vouched && claim.fault.is_none());
        if !ours.is_empty() && !is_used {
            self.blame(None, "", "no segment of this log has a key that was given".to_owned());
        }
        vouched.extend(certified);
        let mut seals: Vec<_> =
            self.claims.iter().filter(|claim| claim.source != Source::Anchor && claim.fault.is_none() && claim.is_signed).collect();
        seals.sort_by_key(|claim| claim.checkpoint.segment);
        for seal in seals {
            if let Some((next, _)) = successor(seal).filter(|_| vouched.contains(&seal.checkpoint.segment)) {
                vouched.insert(next);
            }
        }
        for claim in &mut self.claims {
            claim.is_vouched |= vouched.contains(&claim.checkpoint.segment);
        }
        self.vouched = vouched;
    }

    /// The key of a segment, where it is one that the asker trusts or follows from one.
    pub(super) fn vouched_key(&self, segment: u64) -> Option<&VerifyingKey> {
        self.keys.get(&segment).filter(|_| self.vouched.contains(&segment))
    }

    /// The seal that ends right before this record, if it is sound in itself.
    pub(super) fn seal_before(&self, seq: u64) -> Option<&Claim> {
        self.claims
            .iter()
            .find(|claim| matches!(claim.source, Source::Seal(_)) && claim.checkpoint.last().is_some_and(|last| last + 1 == seq))
    }

    /// How far something is signed besides the segment's own seal in its place; that seal known from elsewhere reaches one further than its last
    /// record, since it was whole before it went there. `None` where nothing is signed.
    pub(super) fn reached(&self, segment: u64) -> Option<u64> {
        let is_other = |claim: &&Claim| !matches!(claim.source, Source::Seal(first) if first == segment);
        let is_seal = |checkpoint: &Checkpoint| checkpoint.next.is_some() && checkpoint.segment == segment;
        let reach = |claim: &Claim| Some(claim.checkpoint.last()? + u64::from(is_seal(&claim.checkpoint)));
        self.claims.iter().filter(is_other).filter_map(reach).max()
    }

    /// Whether the segment has a key, so that a seal must end it.
    pub(super) fn has_key(&self, segment: u64) -> bool {
        self.keys.contains_key(&segment)
    }

    fn blame(&mut self, seq: Option<u64>, file: &str, what: String) {
        self.faults.push(Fault { seq, file: file.to_owned(), line: 1, what });
    }
}

/// The segment that follows a seal, and the key it must have.
fn successor(claim: &Claim) -> Option<(u64, VerifyingKey)> {
    Some((claim.checkpoint.last()?.checked_add(1)?, claim.checkpoint.next.clone()?))
}

/// The name of what a sealed segment leaves, as it is told.
pub(super) fn seal_file(first: u64, ending: &str) -> String {
    format!("seals/{first:020}.{ending}")
}

/// The chain and the tree at a seal, in the form in which they stand beside it.
pub fn peaks_text(chain: Chain, tree: &Tree) -> String {
    let mut text = format!("chain {}\n", chain.to_hex());
    for peak in tree.peaks() {
        text.push_str(&STANDARD.encode(peak.0));
        text.push('\n');
    }
    text
}

/// The chain and the tree of `size` leaves that have this text; `None` for every other text.
pub fn parse_peaks(text: &str, size: u64) -> Option<(Chain, Tree)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let chain = Chain::from_hex(lines.next()?.strip_prefix("chain ")?)?;
    let peaks: Option<Vec<_>> = lines.take(65).map(|line| Hash::from_slice(&STANDARD.decode(line).ok()?)).collect();
    Some((chain, Tree::from_peaks(size, peaks?)?))
}

/// The key of the segment that is written now or was last, and the segment's first record; `None` where it names no key or there is no segment.
///
/// # Errors
/// A file cannot be read.
pub fn newest_key(storage: &dyn Storage) -> io::Result<Option<(u64, VerifyingKey)>> {
    let last = present(storage)?.pop();
    let keys = declared_keys(storage, last.as_slice())?;
    Ok(keys.into_iter().next().and_then(|(first, (_, key))| Some((first, key.parse().ok()?))))
}

/// The key that the first record of a segment names; `None` where the segment is not there or names none.
///
/// # Errors
/// A file cannot be read.
pub fn key_of(storage: &dyn Storage, segment: u64) -> io::Result<Option<VerifyingKey>> {
    let named: Vec<_> = present(storage)?.into_iter().filter(|(first, _)| *first == segment).collect();
    let keys = declared_keys(storage, &named)?;
    Ok(keys.into_values().next().and_then(|(_, key)| key.parse().ok()))
}

/// The last record of a log that something signed covers, and the last that something covers which is signed by a key that the asker trusts, or by one
/// that follows from it. Whether these records are what was signed, `verify` says.
///
/// # Errors
/// A file cannot be read.
pub(super) fn signed_to(storage: &dyn Storage, origin: &str, trust: &Trust) -> io::Result<(u64, u64)> {
    let notes = Notes::of(storage)?;
    let evidence = Evidence::of(origin, &notes, trust, &declared_keys(storage, &present(storage)?)?);
    let vouched = evidence.claims.iter().filter(|claim| claim.is_vouched && claim.fault.is_none());
    Ok((evidence.signed_to, vouched.filter_map(|claim| claim.checkpoint.last()).max().unwrap_or(0)))
}

/// What the first record of each segment says of its key, by the segment's first record, with the file.
pub(super) fn declared_keys(storage: &dyn Storage, all: &[(u64, String)]) -> io::Result<BTreeMap<u64, (String, String)>> {
    let mut keys = BTreeMap::new();
    for (first, name) in all {
        let mut text = Vec::new();
        BufReader::new(storage.read(name, 0)?.take(FIRST_LINE_BYTES)).read_until(b'\n', &mut text)?;
        let line = text.strip_suffix(b"\n").and_then(Line::split);
        if let Some(key) = line.as_ref().and_then(Line::log_key) {
            keys.insert(*first, (name.clone(), key.to_owned()));
        }
    }
    Ok(keys)
}

/// Before each signature of a note.
const SIGNED: &str = "\u{2014} ";
/// How many lines the text of a checkpoint has.
const TEXT_LINES: std::ops::RangeInclusive<usize> = 5..=7;
/// Longest first record of a segment that is looked at for its key, in bytes.
const FIRST_LINE_BYTES: u64 = 1 << 16;
/// How many quotes of a line are tried.
const MAX_QUOTES: usize = 64;
