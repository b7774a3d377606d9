//! One archive with all that somebody outside needs to check some records without the gateway, the log or the other records.
//!
//! ```text
//! doorward-pack/README.txt                       what this is, and the command that checks it
//! doorward-pack/SHA256SUMS                       `HEX  NAME` for every file but itself, sorted by name
//! doorward-pack/pack.json                        what was asked for, what is proved and what is not, the keys
//! doorward-pack/record.schema.json               the JSON Schema of a record
//! doorward-pack/verify_audit.py                  the check, without any code of the gateway
//! doorward-pack/records/ORIGIN.jsonl             the records as stored lines, by number
//! doorward-pack/proofs/ORIGIN/SEQ.proof          the proof of each, SEQ in 20 digits
//! doorward-pack/log/ORIGIN/root.note             the operator's word for the key of a segment, where there is one
//! doorward-pack/log/ORIGIN/checkpoint.note       what was signed last
//! doorward-pack/log/ORIGIN/seals/FIRST.note      what was signed at the end of each segment up to the newest that a proof needs
//! doorward-pack/kept/policy-HEX.jsonl            the policies that the records name, as they were
//! doorward-pack/kept/tool-HEX.json               the definitions of the tools that were called, as they were reviewed
//! ```
//! The archive is an uncompressed POSIX tar. The same log and the same records make the same bytes: entries are sorted, belong to nobody, and have the
//! time of the newest record.
//!
//! Owns: what goes in, and the form. Leaves to others: which records (`filter`), making proofs (`proof`), checking an archive ([`check`]).
//!
//! INVARIANT: nothing is read for it but segments, notes and what is kept by hash: no key that signs or hashes and no payload can get in.

pub mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chain::Line;
use super::disk::{self, Disk};
use super::find::Logs;
use super::kept::{Kept, Sort};
use super::lines;
use super::note::VerifyingKey;
use super::proof::{Made, ProveError, prove_all};
use super::record::Stored;
use super::storage::{CHECKPOINT, ROOT, Storage, seal_name};
use super::trust::{Notes, key_of};
use crate::seal::{hex, sha256};

/// What every name in an archive begins with.
pub const FOLDER: &str = "doorward-pack/";
const SUMS: &str = "SHA256SUMS";
const ABOUT: &str = "pack.json";

/// What the archive says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The version of the form.
    pub doorward_pack: u32,
    /// The program that made it.
    pub made_by: String,
    /// What was asked for, in words of the command line.
    pub selected: String,
    /// The logs that the records are from.
    pub logs: Vec<OfLog>,
    /// The operator's root key as the packer knows it. Whoever checks must have it from elsewhere.
    pub root_key: Option<String>,
    /// Records that are here without a proof.
    pub not_proved: Vec<Unproved>,
    /// Hashes of policies and tool definitions that records name and that are not kept.
    pub not_kept: Vec<String>,
}

/// The records of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfLog {
    /// The log.
    pub origin: String,
    /// How many records.
    pub records: u64,
    /// The number of the first.
    pub from_seq: u64,
    /// The number of the last.
    pub to_seq: u64,
    /// By the first record of a segment, the key that it names.
    pub keys: BTreeMap<u64, String>,
}

/// A record without a proof, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unproved {
    /// Its log.
    pub origin: String,
    /// Its number.
    pub seq: u64,
    /// Why there is none.
    pub why: String,
    /// Whether one can be had later: it is not signed yet.
    pub is_pending: bool,
}

/// An archive that is ready to be written.
#[derive(Clone, Debug)]
pub struct Pack {
    /// What it says of itself.
    pub about: About,
    /// How many records.
    pub records: u64,
    /// How many policies and tool definitions.
    pub kept: [usize; 2],
    files: BTreeMap<String, Vec<u8>>,
    /// The time of the newest record, in seconds since 1970.
    time: u64,
}

/// Packs these records of the logs in `dir`: each once, in whatever order they come.
///
/// # Errors
/// A log cannot be read.
pub fn pack(dir: &Path, records: Vec<Stored>, selected: String, root_key: Option<&VerifyingKey>) -> io::Result<Pack> {
    let about = About { doorward_pack: 1, made_by: maker(), selected, root_key: root_key.map(ToString::to_string), ..About::default() };
    let time = records.iter().map(Stored::unix_nanos).max().unwrap_or(0).div_euclid(1_000_000_000);
    let mut pack = Pack { about, records: 0, kept: [0; 2], files: BTreeMap::new(), time: u64::try_from(time).unwrap_or(0) };
    let known = disk::origins(dir)?;
    let mut by_log: BTreeMap<String, BTreeMap<u64, Stored>> = BTreeMap::new();
    for stored in records {
        // A line can say anything of where it is from; a folder is only looked into where there is a log.
        if known.contains(&stored.origin) {
            by_log.entry(stored.origin.clone()).or_default().insert(stored.seq, stored);
        } else {
            let why = "it says that it is of a log that is not there, and was left out".to_owned();
            pack.about.not_proved.push(Unproved { origin: stored.origin, seq: stored.seq, why, is_pending: false });
        }
    }
    for (origin, records) in &by_log {
        pack.log(&Disk::existing(dir, origin), origin, records)?;
    }
    pack.named_by_hash(&Kept::in_dir(dir), by_log.values().flat_map(BTreeMap::values));
    pack.explained()?;
    Ok(pack)
}

/// The records of one log with these numbers, at most `most`; none where there is no such log.
///
/// # Errors
/// A file cannot be read.
pub fn numbered(logs: &Logs, origin: &str, numbers: RangeInclusive<u64>, most: usize) -> io::Result<Vec<Stored>> {
    let Some((_, storage)) = logs.origins().find(|(name, _)| *name == origin) else { return Ok(Vec::new()) };
    lines::range(storage, numbers, most)
}

impl Pack {
    fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.to_owned(), bytes.into());
    }

    fn log(&mut self, disk: &dyn Storage, origin: &str, records: &BTreeMap<u64, Stored>) -> io::Result<()> {
        // Whatever is signed meanwhile covers what was read before.
        let notes = Notes::of(disk)?;
        let lines: String = records.values().flat_map(|stored| [stored.line.as_str(), "\n"]).collect();
        self.put(&format!("records/{origin}.jsonl"), lines);
        let seqs: Vec<u64> = records.keys().copied().collect();
        let mut of_log = OfLog { origin: origin.to_owned(), records: seqs.len() as u64, ..OfLog::default() };
        (of_log.from_seq, of_log.to_seq) = seqs.first().copied().zip(seqs.last().copied()).unwrap_or_default();
        self.records += of_log.records;
        let mut segments = BTreeSet::new();
        for ((seq, stored), proof) in records.iter().zip(prove_all(disk, &notes, &seqs)?) {
            let proof = proof.and_then(|made| if is_about(&made, stored) { Ok(made) } else { Err(ProveError::Unsound(*seq)) });
            match proof {
                Ok(made) => {
                    segments.insert(made.checkpoint.segment);
                    self.put(&format!("proofs/{origin}/{seq:020}.proof"), format!("{}\n", made.line));
                }
                Err(why) => self.about.not_proved.push(Unproved {
                    origin: origin.to_owned(),
                    seq: *seq,
                    is_pending: matches!(why, ProveError::Unsigned(_)),
                    why: why.to_string(),
                }),
            }
        }
        let newest = segments.last().copied().unwrap_or_default();
        for segment in segments {
            of_log.keys.extend(key_of(disk, segment)?.map(|key| (segment, key.to_string())));
        }
        let single = [(ROOT, &notes.certificate), (CHECKPOINT, &notes.checkpoint)];
        for (name, note) in single.into_iter().filter_map(|(name, note)| Some((name, note.as_ref()?))) {
            self.put(&format!("log/{origin}/{name}"), note.as_bytes());
        }
        for (first, note) in notes.seals.range(..=newest) {
            self.put(&format!("log/{origin}/{}", seal_name(*first)), note.as_bytes());
        }
        self.about.logs.push(of_log);
        Ok(())
    }

    /// The policies and definitions that the records name.
    fn named_by_hash<'r>(&mut self, kept: &Kept, records: impl Iterator<Item = &'r Stored>) {
        let named: BTreeSet<(bool, String)> = records.flat_map(hashes).collect();
        for (is_tool, hash) in named {
            let sort = if is_tool { Sort::Tool } else { Sort::Policy };
            match kept.find(sort, &hash) {
                Some(bytes) => {
                    self.kept[usize::from(is_tool)] += 1;
                    self.put(&format!("kept/{}", sort.file(hash.trim_start_matches("sha256:"))), bytes);
                }
                None => self.about.not_kept.push(format!("{} {hash}", if is_tool { "tool" } else { "policy" })),
            }
        }
    }

    /// What tells a stranger what all this is, and lets him check it.
    fn explained(&mut self) -> io::Result<()> {
        for (name, bytes) in explanations(&self.about, self.records)? {
            self.put(name, bytes);
        }
        self.put(ABOUT, pretty(&self.about)?);
        let sums: String = self.files.iter().map(|(name, bytes)| format!("{}  {name}\n", hex(&sha256(bytes)))).collect();
        self.put(SUMS, sums);
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("{FOLDER}{name}"))?;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(self.time);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            archive.append(&header, &**bytes)?;
        }
        archive.finish()
    }
}

/// The files that are the same in every archive, or follow from what it says of itself.
fn explanations(about: &About, records: u64) -> io::Result<[(&'static str, Vec<u8>); 3]> {
    let schema = pretty(&super::schema::line())?;
    Ok([("verify_audit.py", VERIFIER.into()), ("record.schema.json", schema), ("README.txt", readme(about, records).into_bytes())])
}

fn readme(about: &About, records: u64) -> String {
    let logs = about.logs.iter().map(|log| format!("  {}: {} from {} to {}", log.origin, log.records, log.from_seq, log.to_seq));
    let proved = match about.not_proved.len() {
        0 => "each of them has a proof".to_owned(),
        count => format!("{count} of them have NO proof, see `not_proved` in pack.json: anybody could have written these"),
    };
    let keys = about.logs.iter().flat_map(|log| log.keys.values());
    README
        .replace("{records}", &records.to_string())
        .replace("{proved}", &proved)
        .replace("{selected}", &about.selected)
        .replace("{logs}", &logs.collect::<Vec<_>>().join("\n"))
        .replace("{root_key}", about.root_key.as_deref().unwrap_or("none that the packer knows of"))
        .replace("{keys}", &keys.map(|key| format!("  {key}")).collect::<Vec<_>>().join("\n"))
}

/// The program that makes archives, by name and version.
fn maker() -> String {
    format!("doorward {}", env!("CARGO_PKG_VERSION"))
}

/// Whether a proof is about this very line: one may stand in a log under the number of another.
fn is_about(made: &Made, stored: &Stored) -> bool {
    let body = Line::split(stored.line.as_bytes()).map(|line| line.open_body);
    body.is_some_and(|body| made.line.as_bytes().strip_suffix(b"}}").is_some_and(|line| line.ends_with(body)))
}

/// The hashes that a record names, each with whether it is a tool's.
fn hashes(stored: &Stored) -> impl Iterator<Item = (bool, String)> {
    let record = &stored.record;
    let policy = record.policy_version.as_deref().map(|hash| (false, hash.to_owned()));
    policy.into_iter().chain(record.tool_def_hash.as_deref().map(|hash| (true, hash.to_owned())))
}

fn pretty(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// The check that needs no gateway.
const VERIFIER: &str = include_str!("../../tools/verify_audit.py");
const README: &str = include_str!("pack/readme.txt");
