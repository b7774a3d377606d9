//! What is old enough goes: whole sealed segments with their payloads, oldest first, each with a record before it goes. That record is signed at
//! once, and an anchor has it before anything is removed: so whoever holds the disk and not the key cannot take segments away and write the record
//! for it. Seals and peaks stay, so that the tree over all that follows can still be checked.
//!
//! A crash after the record removes nothing; the next life records it again.
//!
//! Owns: which segments may go, and their end. Leaves to others: how old is old enough, and what anchors hold (`anchor`).
//!
//! INVARIANT: no segment goes whose last record, or the record of whose removal, is not both signed and at an anchor; none in which a call is open;
//! none of the two newest.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::checkpoint::Checkpoint;
use super::log::{AppendError, Durability, Log};
use super::note::Note;
use super::payload::removal::{remove_of, sweep_keys};
use super::record::{Kind, Record};
use super::storage::{seal_name, segments};
use super::values::month_of;
use super::writer::Core;

/// A sealed segment that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The file's name.
    pub name: String,
    /// Its first record.
    pub first: u64,
    /// Its last record.
    pub last: u64,
    /// When it was sealed, in seconds since 1970; no record in it is younger, by the clock of then.
    pub sealed: i64,
}

/// Why nothing, or nothing more, was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The removal could not be recorded.
    #[error("the removal of a segment could not be recorded: {0}")]
    Record(#[from] AppendError),
    /// The records of the removals, up to the one with this `seq`, did not reach an anchor in time.
    #[error("no anchor has taken a checkpoint over record {0} yet, which says what is to go")]
    Unanchored(u64),
    /// The disk reported an error.
    #[error("a segment cannot be removed: {0}")]
    Io(#[from] io::Error),
}

impl Log {
    /// Removes the segments that were sealed before `before`, in seconds since 1970, and whose records all are among those that `anchored` says
    /// an anchor has; which these were. Waits ten minutes at most until the records that say so are signed and anchored too.
    ///
    /// # Errors
    /// See [`PruneError`]. After `Unanchored` nothing is gone; a later call in this life does not record it again.
    pub async fn prune(&self, before: i64, anchored: &mut watch::Receiver<u64>) -> Result<Vec<Expired>, PruneError> {
        let core = self.core();
        let (search, anchored_by_now) = (Arc::clone(&core), *anchored.borrow());
        let found = tokio::task::spawn_blocking(move || search.expired(before, anchored_by_now)).await.map_err(io::Error::other)??;
        if found.is_empty() {
            return Ok(found);
        }
        for segment in &found {
            if segment.first > core.announced().segment {
                let seq = self.append(self.encode(&segment.removal()), Durability::Sync).await?.seq;
                *core.announced() = Announced { segment: segment.first, seq };
            }
        }
        let said = core.announced().seq;
        let all = async { self.signed(said, PATIENCE).await && anchored.wait_for(|anchored| *anchored >= said).await.is_ok() };
        if !tokio::time::timeout(PATIENCE, all).await.unwrap_or(false) {
            return Err(PruneError::Unanchored(said));
        }
        let remove = move || found.iter().try_for_each(|segment| core.remove(segment)).map(|()| found);
        tokio::task::spawn_blocking(remove).await.map_err(io::Error::other)?.map_err(PruneError::Io)
    }

    /// Asks for a checkpoint and waits, no longer than `patience`, until one covers this record; whether it does. What is to be destroyed goes only
    /// after that: a record that nobody signed could be anybody's, and explains nothing.
    pub async fn signed(&self, seq: u64, patience: Duration) -> bool {
        let core = self.core();
        core.ask_checkpoint();
        let mut newest = self.checkpoints();
        let covers = newest.wait_for(|_| core.covered.load(Ordering::Relaxed) >= seq);
        tokio::time::timeout(patience, covers).await.is_ok_and(|covered| covered.is_ok())
    }
}

impl Expired {
    fn removal(&self) -> Record<'_> {
        Record {
            actor: Some("retention".into()),
            action: Some("prune".into()),
            subject: Some(self.name.as_str().into()),
            count: Some(self.last - self.first + 1),
            note: Some(format!("records {} to {}", self.first, self.last).into()),
            ..Record::new(Kind::Lifecycle)
        }
    }
}

/// How far this life has recorded what goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    /// The newest segment that a record names, and so each older one; 0 for none.
    segment: u64,
    /// That record.
    seq: u64,
}

impl Core {
    fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segments that may go, oldest first. Waits for whoever writes just now: not for a runtime's worker.
    fn expired(&self, before: i64, anchored: u64) -> io::Result<Vec<Expired>> {
        let all = segments(&*self.storage)?;
        // How far anchors have come is read from a file at a start; anybody can write it who holds the disk.
        let anchored = anchored.min(self.covered.load(Ordering::Relaxed));
        let open_from = self.tail().open.first().copied().unwrap_or(u64::MAX);
        let old = all.len().saturating_sub(NEWEST_KEPT);
        let mut found = Vec::new();
        for (first, name) in all.into_iter().take(old) {
            let Some(seal) = self.seal(first)? else { break };
            let Some(last) = seal.last().filter(|last| *last <= anchored && *last < open_from && seal.time < before) else { break };
            found.push(Expired { name, first, last, sealed: seal.time });
        }
        Ok(found)
    }

    /// Removes a segment, unless the log was closed: then its files are another process's. Its payloads go first: a segment that is there tells
    /// which they are.
    fn remove(&self, segment: &Expired) -> io::Result<()> {
        let held = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().ok_or_else(|| io::Error::other("the log was closed meanwhile"))?;
        remove_of(&*self.storage, &segment.name)?;
        self.storage.remove(&segment.name)?;
        // A call that began in a month may end its sealing a little later.
        let month = month_of(self.options.clock.unix_nanos().saturating_sub(DAY_NANOS));
        sweep_keys(&*self.storage, segment.first, &month)
    }

    fn seal(&self, segment: u64) -> io::Result<Option<Checkpoint>> {
        let text = self.storage.note(&seal_name(segment))?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.and_then(|text| Checkpoint::parse(Note::parse(&text).ok()?.unchecked_text())))
    }
}

/// For a checkpoint, and for an anchor that takes one every five minutes, to have what says that segments go.
const PATIENCE: Duration = Duration::from_secs(600);
/// A start takes the tree up from the peaks of the segment before the last.
const NEWEST_KEPT: usize = 2;
const DAY_NANOS: i64 = 86_400_000_000_000;
