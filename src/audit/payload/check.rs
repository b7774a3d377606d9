//! What `verify` says of the files that records name.
//!
//! A file that is there must be the recorded one. One that is not there was erased, or went with its segment, and a record says so; else that is told
//! like a record that is missing.
//!
//! Owns: that judgement. Leaves to others: reading the records (`verify`), and which erasures are on record (`removal`).

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::chain::Line;
use super::super::storage::Storage;
use super::{Erasure, Reference};

/// How the files stand that records name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Payloads and data keys that are as recorded.
    pub sound: u64,
    /// Those that were erased, and a record says so.
    pub erased: u64,
    /// Those that went with the segment of their record, which retention was about to remove.
    pub pruned: u64,
    /// The others that are not there. No more than some thousand are listed.
    pub(in crate::audit) missing: Vec<Missing>,
    /// Missing data keys with which a payload is sealed that is there, by id.
    needed: HashSet<String>,
    /// The records of erasures for which nobody vouches whom the asker trusts.
    pub(in crate::audit) unvouched: BTreeSet<String>,
    keys: HashSet<String>,
}

/// A file that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Missing {
    pub(in crate::audit) seq: u64,
    /// The segment of its record, and the line there.
    pub(in crate::audit) segment: String,
    pub(in crate::audit) line: u64,
    pub(in crate::audit) file: Reference,
}

impl Sealed {
    /// Looks at the file that a record names; what is wrong with it.
    pub(in crate::audit) fn look(&mut self, storage: &dyn Storage, line: &Line<'_>, segment: &str, number: u64) -> Option<String> {
        let file = Reference::parse(line.payload()?)?;
        match storage.payload(&file.file) {
            Ok(Some(bytes)) if file.is_of(&bytes) => {
                self.sound += 1;
                if self.keys.contains(file.key()) {
                    self.needed.insert(file.key().to_owned());
                }
                None
            }
            Ok(Some(_)) => Some(format!("the file {} that it names was changed", file.file)),
            Ok(None) => {
                if self.missing.len() < MAX_MISSING {
                    if file.is_key() {
                        self.keys.insert(file.key().to_owned());
                    }
                    self.missing.push(Missing { seq: line.seq, segment: segment.to_owned(), line: number, file });
                }
                None
            }
            Err(error) => Some(format!("the file {} that it names cannot be read: {error}", file.file)),
        }
    }

    /// Leaves out what retention explains: it removes payloads right before their segment, up to the one that begins with this record.
    pub(in crate::audit) fn explain_pruned(&mut self, pruned: u64) {
        let before = self.missing.len();
        self.missing
            .retain(|missing| missing.segment.get(..20).and_then(|first| first.parse().ok()).is_none_or(|first: u64| first > pruned));
        self.pruned += (before - self.missing.len()) as u64;
    }

    /// What is missing and was of use: retention destroys the keys with which nothing is sealed any more.
    pub(in crate::audit) fn wanting(&self) -> impl Iterator<Item = &Missing> {
        self.missing.iter().filter(|missing| !missing.file.is_key() || self.needed.contains(missing.file.key()))
    }

    /// Leaves out what an erasure explains.
    pub(in crate::audit) fn explain_erased(&mut self, erasures: &[Erasure]) {
        let of_key: HashMap<&str, &Erasure> =
            erasures.iter().flat_map(|erasure| erasure.keys.iter().map(move |key| (key.as_str(), erasure))).collect();
        let before = self.missing.len();
        let unvouched = &mut self.unvouched;
        self.missing.retain(|missing| {
            let erasure = of_key.get(missing.file.key());
            unvouched.extend(erasure.filter(|erasure| !erasure.is_vouched).map(|erasure| erasure.record.clone()));
            erasure.is_none()
        });
        self.erased += (before - self.missing.len()) as u64;
    }
}

const MAX_MISSING: usize = 4_096;
