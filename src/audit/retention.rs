//! What is old enough goes: whole sealed segments, oldest first, each with a record before it goes, and its payloads. Its seal and peaks stay, so
//! that the tree over all that follows can still be checked.
//!
//! Owns: which segments may go, and their end. Leaves to others: how old is old enough, and what anchors hold (`anchor`).
//!
//! INVARIANT: no segment goes whose last record no anchor covers, in which a call is open, or that is one of the two newest.

use std::io;
use std::sync::Arc;

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
    /// The disk reported an error.
    #[error("a segment cannot be removed: {0}")]
    Io(#[from] io::Error),
}

impl Log {
    /// Removes the segments that were sealed before `before`, in seconds since 1970, and whose records all are among the first `anchored`;
    /// which these were.
    ///
    /// # Errors
    /// See [`PruneError`]. What went until then has its record.
    pub async fn prune(&self, before: i64, anchored: u64) -> Result<Vec<Expired>, PruneError> {
        let core = self.core();
        let search = Arc::clone(&core);
        let found = tokio::task::spawn_blocking(move || search.expired(before, anchored)).await.map_err(io::Error::other)??;
        for segment in &found {
            let record = Record {
                actor: Some("retention".into()),
                action: Some("prune".into()),
                subject: Some(segment.name.as_str().into()),
                count: Some(segment.last - segment.first + 1),
                note: Some(format!("records {} to {}", segment.first, segment.last).into()),
                ..Record::new(Kind::Lifecycle)
            };
            self.append(self.encode(&record), Durability::Sync).await?;
            let (core, segment) = (Arc::clone(&core), segment.clone());
            tokio::task::spawn_blocking(move || core.remove(&segment)).await.map_err(io::Error::other)??;
        }
        Ok(found)
    }
}

impl Core {
    /// The segments that may go, oldest first. Waits for whoever writes just now: not for a runtime's worker.
    fn expired(&self, before: i64, anchored: u64) -> io::Result<Vec<Expired>> {
        let all = segments(&*self.storage)?;
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

    /// Its payloads go first: a segment that is there tells which they are.
    fn remove(&self, segment: &Expired) -> io::Result<()> {
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

/// A start takes the tree up from the peaks of the segment before the last.
const NEWEST_KEPT: usize = 2;
const DAY_NANOS: i64 = 86_400_000_000_000;
