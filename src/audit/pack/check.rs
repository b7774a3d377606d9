//! The check of an archive: every record against its proof, every proof against a key that is vouched for, every file against its hash.
//!
//! Owns: the judgement of an archive. Leaves to others: single proofs (`proof`), who vouches for which key (`trust`).
//!
//! INVARIANT: nothing is unpacked, and nothing that the archive says of itself is believed but for what is signed.
//! INVARIANT: what somebody reads after unpacking is what was checked: no file but those of the form, no line twice, no order but theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::{ABOUT, About, FOLDER, SUMS, Unproved, explanations, hashes, maker};
use crate::audit::chain::Line;
use crate::audit::proof::{check as check_proof, claimed};
use crate::audit::record::Stored;
use crate::audit::storage::{CHECKPOINT, ROOT, SEALS, numbered};
use crate::audit::trust::{Evidence, Notes, Trust};
use crate::config::check_name;
use crate::seal::{hex, sha256};

/// Largest archive that is read, in bytes.
pub const MAX_PACK_BYTES: u64 = 2 << 30;

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records that are here.
    pub records: u64,
    /// Of these, how many are proved.
    pub proved: u64,
    /// The logs they are from.
    pub logs: Vec<String>,
    /// What is wrong.
    pub findings: Vec<String>,
    /// What the archive itself says has no proof.
    pub not_proved: Vec<Unproved>,
    /// What could not be looked at, and takes nothing from the proofs.
    pub notes: Vec<String>,
}

impl Checked {
    /// Whether every record is what was signed, and every file what was packed.
    pub fn holds(&self) -> bool {
        self.findings.is_empty() && self.not_proved.is_empty() && self.records > 0
    }
}

/// Checks an archive against what the asker knows from elsewhere: keys of logs, or the operator's root key.
///
/// # Errors
/// It cannot be read as an archive of this form at all.
pub fn check(archive: impl Read, trust: &Trust) -> io::Result<Checked> {
    let files = read(archive)?;
    let about: About =
        serde_json::from_slice(files.get(ABOUT).map_or(&[], Vec::as_slice)).map_err(|error| wrong(&format!("{ABOUT}: {error}")))?;
    if about.doorward_pack != 1 {
        return Err(wrong("it is of another version"));
    }
    let mut check = Check { files: &files, about: &about, trust, seen: BTreeSet::new(), checked: Checked::default() };
    check.sums();
    for (name, lines) in files.range(RECORDS.to_owned()..).take_while(|(name, _)| name.starts_with(RECORDS)) {
        check.records(name, lines);
    }
    check.surplus();
    check.told()?;
    check.checked.not_proved.clone_from(&about.not_proved);
    Ok(check.checked)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The files by their names within the folder.
fn read(archive: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive.take(MAX_PACK_BYTES)).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_not_text| wrong("a name in it is no text"))?;
        let inside = name.strip_prefix(FOLDER).filter(|inside| entry.header().entry_type().is_file() && belongs(inside));
        let inside = inside.ok_or_else(|| wrong(&format!("`{}` does not belong in it", name.escape_default())))?.to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if files.insert(inside, bytes).is_some() {
            return Err(wrong(&format!("`{}` is in it twice", name.escape_default())));
        }
    }
    Ok(files)
}

/// Whether a name is one of the form. Another spelling of such a name would be unpacked over the file that was checked.
fn belongs(name: &str) -> bool {
    let digits = |text: &str, suffix: &str| {
        text.strip_suffix(suffix).is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let hash = |text: &str, prefix: &str, suffix: &str| {
        let hex = text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    };
    let is_origin = |text: &str| check_name(text).is_ok();
    match name.split('/').collect::<Vec<_>>().as_slice() {
        ["README.txt" | "verify_audit.py" | "record.schema.json"] => true,
        [name] => [ABOUT, SUMS].contains(name),
        ["records", name] => name.strip_suffix(".jsonl").is_some_and(is_origin),
        ["kept", name] => hash(name, "policy-", ".jsonl") || hash(name, "tool-", ".json"),
        ["proofs", origin, name] => is_origin(origin) && digits(name, ".proof"),
        ["log", origin, name] => is_origin(origin) && [ROOT, CHECKPOINT].contains(name),
        ["log", origin, seals, name] => is_origin(origin) && SEALS.strip_suffix('/') == Some(seals) && digits(name, ".note"),
        _ => false,
    }
}

struct Check<'a> {
    files: &'a BTreeMap<String, Vec<u8>>,
    about: &'a About,
    trust: &'a Trust,
    /// The proofs that belong to a record.
    seen: BTreeSet<String>,
    checked: Checked,
}

impl Check<'_> {
    fn blame(&mut self, what: String) {
        self.checked.findings.push(what);
    }

    fn sums(&mut self) {
        let text = String::from_utf8_lossy(self.files.get(SUMS).map_or(&[], Vec::as_slice)).into_owned();
        let sums: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once("  ").map(|(sum, name)| (name, sum))).collect();
        for (name, bytes) in self.files.iter().filter(|(name, _)| *name != SUMS) {
            match sums.get(name.as_str()) {
                Some(sum) if **sum == hex(&sha256(bytes)) => {}
                Some(_) => self.blame(format!("{name}: it is not the file that was packed")),
                None => self.blame(format!("{name}: {SUMS} does not name it")),
            }
        }
        for name in sums.keys().filter(|name| !self.files.contains_key(**name)) {
            self.blame(format!("{name}: it is missing"));
        }
    }

    /// The records of one log.
    fn records(&mut self, name: &str, lines: &[u8]) {
        let Some(origin) = name.strip_prefix(RECORDS).and_then(|name| name.strip_suffix(".jsonl")) else {
            return self.blame(format!("{name}: it is no file of records"));
        };
        self.checked.logs.push(origin.to_owned());
        let evidence = self.evidence(origin);
        let before = self.checked.records;
        let (mut first, mut last) = (0, 0);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.checked.records += 1;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if let Some(seq) = Line::split(line).map(|line| line.seq) {
                if seq <= last {
                    self.blame(format!("record {seq} of {origin}: it stands behind record {last}"));
                }
                first = if first == 0 { seq } else { first };
                last = seq;
            }
            match self.record(origin, line, &evidence) {
                Ok(()) => self.checked.proved += 1,
                Err(what) => self.blame(what),
            }
        }
        let found = (self.checked.records - before, first, last);
        if !self.about.logs.iter().any(|log| log.origin == origin && (log.records, log.from_seq, log.to_seq) == found) {
            self.blame(format!("{ABOUT}: of {origin} it does not name the records that are here"));
        }
    }

    /// Who vouches for the keys of a log.
    fn evidence(&mut self, origin: &str) -> Evidence {
        let text = |name: &str| self.files.get(&format!("log/{origin}/{name}")).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let folder = format!("log/{origin}/{SEALS}");
        let names = self.files.range(folder.clone()..).map_while(|(name, _)| name.strip_prefix(&folder).map(str::to_owned)).collect();
        let seals =
            numbered(names, ".note").into_iter().filter_map(|(first, name)| Some((first, text(&format!("{SEALS}{name}"))?))).collect();
        let notes = Notes { seals, checkpoint: text(CHECKPOINT), certificate: text(ROOT), ..Notes::default() };
        let keys = self.about.logs.iter().filter(|log| log.origin == origin).flat_map(|log| &log.keys);
        let declared = keys.map(|(segment, key)| (*segment, (ABOUT.to_owned(), key.clone()))).collect();
        let evidence = Evidence::of(origin, &notes, self.trust, &declared);
        let notes = evidence.claims.iter().filter_map(|claim| Some((claim.file.clone(), claim.fault.clone()?)));
        let faults = evidence.faults.iter().map(|fault| (fault.file.clone(), fault.what.clone()));
        let told: Vec<_> = notes.chain(faults).map(|(file, what)| format!("log/{origin}/{file}: {what}")).collect();
        self.checked.findings.extend(told);
        evidence
    }

    fn record(&mut self, origin: &str, line: &[u8], evidence: &Evidence) -> Result<(), String> {
        let taken = Line::split(line).ok_or_else(|| format!("records/{origin}.jsonl: a line is no record"))?;
        let here = format!("record {} of {origin}", taken.seq);
        let name = format!("proofs/{origin}/{:020}.proof", taken.seq);
        let proof =
            self.files.get(&name).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(|| format!("{here}: it has no proof"))?;
        self.seen.insert(name);
        let signed = claimed(proof).ok_or_else(|| format!("{here}: its proof is none"))?;
        let key = evidence.vouched_key(signed.segment);
        let key = key.or_else(|| self.trust.keys.iter().find(|key| check_proof(proof, key).is_ok()));
        let key = key.ok_or_else(|| format!("{here}: nobody who is trusted vouches for the key that signed it"))?;
        let proved = check_proof(proof, key).map_err(|why| format!("{here}: {why}"))?;
        let is_it = proved.record.as_bytes().strip_suffix(b"}") == Some(taken.open_body)
            && proved.checkpoint.name.rsplit_once('/').is_some_and(|(_, last)| last == origin);
        if !is_it {
            return Err(format!("{here}: it is not the record that its proof is about"));
        }
        self.named(&here, line)
    }

    /// What the record names by a hash is here, or the archive says that it was not kept.
    fn named(&self, here: &str, line: &[u8]) -> Result<(), String> {
        let stored = Stored::parse(line).ok_or_else(|| format!("{here}: it is no record of this version"))?;
        for (is_tool, hash) in hashes(&stored) {
            let (sort, word) =
                if is_tool { (crate::audit::kept::Sort::Tool, "tool") } else { (crate::audit::kept::Sort::Policy, "policy") };
            let digits = hash.trim_start_matches("sha256:");
            match self.files.get(&format!("kept/{}", sort.file(digits))) {
                Some(bytes) if hex(&sha256(bytes)) == digits => {}
                Some(_) => return Err(format!("{here}: the {word} that it names is here with other bytes")),
                None if self.about.not_kept.contains(&format!("{word} {hash}")) => {}
                None => return Err(format!("{here}: the {word} that it names, {hash}, is missing")),
            }
        }
        Ok(())
    }

    /// What a stranger reads and runs first is what every archive has.
    fn told(&mut self) -> io::Result<()> {
        if self.about.made_by != maker() {
            let note = format!(
                "made by {}, not {}: README.txt, verify_audit.py and record.schema.json were not compared",
                self.about.made_by,
                maker()
            );
            self.checked.notes.push(note);
            return Ok(());
        }
        for (name, bytes) in explanations(self.about, self.checked.records)? {
            if self.files.get(name) != Some(&bytes) {
                self.blame(format!("{name}: it is not the one that every archive of this version has"));
            }
        }
        Ok(())
    }

    /// Proofs of records that are not here.
    fn surplus(&mut self) {
        let proofs = self.files.keys().filter(|name| name.starts_with("proofs/") && !self.seen.contains(*name));
        let told: Vec<_> = proofs.map(|name| format!("{name}: its record is missing")).collect();
        self.checked.findings.extend(told);
    }
}

const RECORDS: &str = "records/";
