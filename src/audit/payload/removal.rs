//! The end of payloads: what a crash left without a record, what retention takes with its segment, and what people erase.
//!
//! Whoever erases a subject destroys its data keys. The records and their hashes stay, so chain, tree and proofs do; the sealed files go too, though
//! nobody could open them any more.
//!
//! Owns: what goes, and which records explain that. Leaves to others: that it is on record, and signed, first (`retention`, `cli`).
//!
//! INVARIANT: a record that no signed checkpoint covers explains nothing: whoever can write to the disk could have appended it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use super::super::chain::Line;
use super::super::disk::Disk;
use super::super::filter::Filter;
use super::super::find::{Logs, origins};
use super::super::lines;
use super::super::record::Stored;
use super::super::row::Field;
use super::super::storage::{Storage, segments};
use super::super::trust::{Trust, signed_to};
use super::data_key::KeyFile;
use super::{KEY_ENDING, Reference, key_id, made_at};

/// A record that says which data keys were destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Where it stands, as `ORIGIN:SEQ`.
    pub record: String,
    /// When it was made, as written.
    pub time: String,
    /// Who erased.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The ids of the keys.
    pub keys: Vec<String>,
    /// Whether somebody vouches for it whom the asker trusts.
    pub is_vouched: bool,
}

/// A data key of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose log it is beside.
    pub origin: String,
    /// Its file.
    pub file: String,
    /// Its id.
    pub id: String,
    /// The month that it was used in.
    pub month: String,
}

/// Every erasure on record that something signed covers, the oldest first; `trust` says who vouches for what is signed.
///
/// # Errors
/// A log cannot be read.
pub fn erasures(logs: &Logs, trust: &Trust) -> io::Result<Vec<Erasure>> {
    let filter = Filter::default().and(Field::Kind, Some("person")).and(Field::Action, Some(ERASE));
    let records = logs.find(&filter)?.records;
    // Read after the records: a running gateway may have signed more by now, and never less.
    let mut signed = HashMap::new();
    for (origin, storage) in logs.origins().filter(|(origin, _)| records.iter().any(|stored| stored.origin == *origin)) {
        signed.insert(origin.to_owned(), signed_to(storage, origin, trust)?);
    }
    let erasure = |stored: Stored| {
        let (signed_to, vouched_to) = signed.get(&stored.origin).copied().unwrap_or_default();
        (stored.seq <= signed_to).then(|| Erasure {
            record: format!("{}:{}", stored.origin, stored.seq),
            time: stored.time,
            actor: stored.record.actor.unwrap_or_default().into_owned(),
            reason: stored.record.note.unwrap_or_default().into_owned(),
            keys: stored.record.payload_keys.into_iter().map(Cow::into_owned).collect(),
            is_vouched: stored.seq <= vouched_to,
        })
    };
    Ok(records.into_iter().filter_map(erasure).collect())
}

/// The data keys of a subject in all logs of `dir`; with `before`, only those of earlier months than this one.
///
/// # Errors
/// A folder or file cannot be read.
pub fn keys_of(dir: &Path, subject: &str, before: Option<&str>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for origin in origins(dir)? {
        let disk = Disk::existing(dir, &origin);
        for file in disk.payloads()?.into_iter().filter(|file| file.ends_with(KEY_ENDING)) {
            let Some(key) = disk.payload(&file)?.as_deref().and_then(KeyFile::parse) else { continue };
            if key.subject == subject && before.is_none_or(|before| key.month.as_str() < before) {
                found.push(Found { origin: origin.clone(), file, id: key.id, month: key.month });
            }
        }
    }
    Ok(found)
}

/// Destroys these keys, and removes what is sealed with them; how many payloads that was.
///
/// # Errors
/// A file cannot be overwritten or removed.
pub fn destroy(dir: &Path, keys: &[Found]) -> io::Result<usize> {
    let mut gone = 0;
    for origin in keys.iter().map(|key| key.origin.as_str()).collect::<std::collections::BTreeSet<_>>() {
        let disk = Disk::existing(dir, origin);
        let ours = || keys.iter().filter(|key| key.origin == origin);
        ours().try_for_each(|key| disk.erase_payload(&key.file))?;
        let ids: HashSet<&str> = ours().map(|key| key.id.as_str()).collect();
        let sealed: Vec<String> = disk.payloads()?.into_iter().filter(|file| key_id(file).is_some_and(|id| ids.contains(id))).collect();
        disk.remove_payloads(&sealed)?;
        gone += sealed.len();
    }
    Ok(gone)
}

/// The files that the records of a segment name.
pub(in crate::audit) fn named_in(storage: &dyn Storage, segment: &str) -> io::Result<Vec<Reference>> {
    let mut named = Vec::new();
    lines::each(storage, segment, 0, |line| {
        // Most lines are told by a search.
        if lines::contains(line, ",\"payload\":\"") {
            named.extend(Line::split(line).and_then(|line| Reference::parse(line.payload()?)));
        }
    })?;
    Ok(named)
}

/// Removes the payloads of a segment that is about to go.
pub(in crate::audit) fn remove_of(storage: &dyn Storage, segment: &str) -> io::Result<()> {
    let payloads: Vec<String> = named_in(storage, segment)?.into_iter().filter(|one| !one.is_key()).map(|one| one.file).collect();
    if payloads.is_empty() { Ok(()) } else { storage.remove_payloads(&payloads) }
}

/// Destroys the data keys that were made before `seq`, of months before `month`, with which nothing is sealed any more: nothing ever will be.
pub(in crate::audit) fn sweep_keys(storage: &dyn Storage, seq: u64, month: &str) -> io::Result<()> {
    let all = storage.payloads()?;
    let used: HashSet<&str> = all.iter().filter(|file| !file.ends_with(KEY_ENDING)).filter_map(|file| key_id(file)).collect();
    let is_old = |file: &&String| file.ends_with(KEY_ENDING) && made_at(file).is_some_and(|at| at < seq);
    for file in all.iter().filter(is_old).filter(|file| key_id(file).is_some_and(|id| !used.contains(id))) {
        let key = storage.payload(file)?.as_deref().and_then(KeyFile::parse);
        if key.is_some_and(|key| key.month.as_str() < month) {
            storage.erase_payload(file)?;
        }
    }
    Ok(())
}

/// Removes what the last life stored and did not come to name in a record. Where a segment's end is torn nothing is removed: it may be named there.
pub(in crate::audit) fn remove_orphans(storage: &dyn Storage, is_torn: bool) -> io::Result<()> {
    let all = storage.payloads()?;
    if all.is_empty() || is_torn {
        return Ok(());
    }
    // Each start begins a segment, so that of the last life is the one before; it may have begun one at its very end.
    let segments = segments(storage)?;
    let last = segments.get(segments.len().saturating_sub(SEGMENTS_SEARCHED)..).unwrap_or_default();
    let from = last.first().map_or(1, |(first, _)| *first);
    let recent: Vec<String> = all.into_iter().filter(|file| made_at(file).is_some_and(|at| at >= from)).collect();
    if recent.is_empty() {
        return Ok(());
    }
    let mut named = HashSet::new();
    for (_, segment) in last {
        named.extend(named_in(storage, segment)?.into_iter().map(|one| one.file));
    }
    let orphans: Vec<String> = recent.into_iter().filter(|file| !named.contains(file)).collect();
    storage.remove_payloads(&orphans)
}

/// The action of an erasure's record.
const ERASE: &str = "payload_erase";
const SEGMENTS_SEARCHED: usize = 3;
