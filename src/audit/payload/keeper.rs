//! Which data key is in use, and a payload's way to the disk before its record.
//!
//! Owns: the keys in memory, and how long a call waits for its payload. Leaves to others: the files' form (`data_key`), and the record (`trail`).
//!
//! INVARIANT: a key seals only while its file is on the disk, so that nothing is sealed that can never be opened, and an erased key is gone.
//! INVARIANT: at most [`MAX_AT_ONCE`] threads wait for the disk here.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::log::{AppendError, Log};
use super::super::record::{Kind, Record};
use super::super::values::month_of;
use super::super::writer::Core;
use super::data_key::DataKey;
use super::{Reference, bound_to};
use crate::config::Openers;
use crate::seal::{hex, random};

/// Keeps payloads beside one log.
pub struct Payloads {
    openers: Openers,
    keys: Mutex<Keys>,
    places: Arc<Semaphore>,
}

/// The keys in use by subject, each with when it was used last.
#[derive(Default)]
struct Keys {
    by_subject: HashMap<String, (Arc<DataKey>, u64)>,
    uses: u64,
}

/// Payloads cannot be sealed to these people.
#[derive(Debug, thiserror::Error)]
#[error("payloads cannot be sealed to `audit.payloads.openers`: is each `payload_key` one that `doorward audit keygen --opener` printed?")]
pub struct Unsealable;

/// Why a payload is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is larger than the operator lets one be.
    #[error("it has more than {0} bytes, which `audit.payloads.max_bytes` says is the most")]
    TooLarge(usize),
    /// The disk does not take it.
    #[error(transparent)]
    Disk(#[from] AppendError),
    /// The machine gives no randomness.
    #[error("the machine gives no randomness")]
    NoRandomness,
}

impl StoreError {
    /// The word in a record.
    pub(in crate::audit) fn word(self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Disk(AppendError::NoSpace) => "no_space",
            Self::Disk(_) | Self::NoRandomness => "failed",
        }
    }
}

/// Whose payload, and of which record.
pub(in crate::audit) struct Place {
    pub(in crate::audit) subject: String,
    pub(in crate::audit) call_id: String,
    pub(in crate::audit) kind: Kind,
}

impl Payloads {
    /// Seals to these people.
    ///
    /// # Errors
    /// One of their keys is none.
    pub fn new(openers: Openers) -> Result<Self, Unsealable> {
        DataKey::make(&openers, "", "", "", 0).ok_or(Unsealable)?;
        Ok(Self { openers, keys: Mutex::default(), places: Arc::new(Semaphore::new(MAX_AT_ONCE)) })
    }

    /// Seals and stores a payload, as durably as a disk stores anything. A file that comes too late is removed again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::audit) async fn store(
        self: &Arc<Self>,
        log: &Log,
        place: Place,
        plain: Zeroizing<Vec<u8>>,
    ) -> Result<Reference, StoreError> {
        if plain.len() > self.openers.max_bytes {
            return Err(StoreError::TooLarge(self.openers.max_bytes));
        }
        let core = log.core();
        if core.queue().gate.is_closed() {
            return Err(AppendError::Closed.into());
        }
        let deadline = Instant::now() + Duration::from_millis(core.options.deadline_ms);
        let turn = tokio::time::timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await;
        let turn = turn.map_err(|_elapsed| AppendError::Deadline)?.map_err(|_closed| AppendError::Closed)?;
        let (tell, mut told) = oneshot::channel();
        let keeper = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let stored = keeper.store_now(&core, &place, &plain);
            drop(turn);
            if let Err(Ok(unheard)) = tell.send(stored) {
                drop(core.storage.remove_payloads(&[unheard.file]));
            }
        });
        match tokio::time::timeout_at(deadline, &mut told).await {
            Ok(told) => told.unwrap_or(Err(AppendError::Closed.into())),
            Err(_elapsed) => {
                told.close();
                told.try_recv().unwrap_or(Err(AppendError::Deadline.into()))
            }
        }
    }

    fn store_now(&self, core: &Core, place: &Place, plain: &[u8]) -> Result<Reference, StoreError> {
        let key = self.key(core, &place.subject)?;
        let mut random_part = [0; 4];
        random(&mut random_part).map_err(|_| StoreError::NoRandomness)?;
        let file = format!("{:020}-{}-{}", core.next_number(), key.id, hex(&random_part));
        let bound_to = bound_to(&core.options.origin, &place.call_id, place.kind, &file);
        let bytes = key.seal(&bound_to, plain).ok_or(StoreError::NoRandomness)?;
        put(core, &file, &bytes)?;
        Ok(Reference::of(file, &bytes))
    }

    /// The subject's key of this month; a new one where there is none in memory whose file is still there.
    fn key(&self, core: &Core, subject: &str) -> Result<Arc<DataKey>, StoreError> {
        let month = month_of(core.options.clock.unix_nanos());
        let mut keys = self.keys();
        keys.uses += 1;
        let now = keys.uses;
        if let Some((key, used)) = keys.by_subject.get_mut(subject)
            && key.month == month
            && core.storage.payload(&key.file).map_err(failed)?.is_some()
        {
            *used = now;
            return Ok(Arc::clone(key));
        }
        keys.by_subject.remove(subject);
        let made = DataKey::make(&self.openers, &core.options.origin, subject, &month, core.next_number());
        let (key, bytes) = made.ok_or(StoreError::NoRandomness)?;
        put(core, &key.file, &bytes)?;
        self.record(core, subject, &key, &bytes).inspect_err(|_| drop(core.storage.erase_payload(&key.file)))?;
        let key = Arc::new(key);
        keys.keep(subject, &key);
        Ok(key)
    }

    /// Puts on record who can open what is sealed from here on. It stands before the first record that names such a payload.
    fn record(&self, core: &Core, subject: &str, key: &DataKey, bytes: &[u8]) -> Result<(), AppendError> {
        let record = Record {
            action: Some("payload_key".into()),
            subject: Some(subject.into()),
            openers: self.openers.people.iter().map(|(name, _)| name.as_str().into()).collect(),
            payload: Some(Reference::of(key.file.clone(), bytes).to_string().into()),
            count: Some(self.openers.quorum as u64),
            ..Record::new(Kind::Lifecycle)
        };
        core.hand_over(record.encode(&core.options.origin, core.options.clock.now()))
    }

    /// Removes a payload that no record will name.
    pub(in crate::audit) fn discard(&self, log: &Log, reference: &str) {
        let Some(reference) = Reference::parse(reference) else { return };
        let core = log.core();
        tokio::task::spawn_blocking(move || drop(core.storage.remove_payloads(&[reference.file])));
    }

    /// Forgets keys whose files are gone, and those of months that are over. Reads files; cheap where no key is in use.
    pub(in crate::audit) fn forget(self: &Arc<Self>, log: &Log) {
        let Ok(keys) = self.keys.try_lock() else { return };
        if keys.by_subject.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (keeper, core) = (Arc::clone(self), log.core());
        tokio::task::spawn_blocking(move || {
            let month = month_of(core.options.clock.unix_nanos());
            let is_there = |key: &DataKey| !matches!(core.storage.payload(&key.file), Ok(None));
            keeper.keys().by_subject.retain(|_, (key, _)| key.month == month && is_there(key));
        });
    }

    #[cfg(test)]
    pub(super) fn places_free(&self) -> usize {
        self.places.available_permits()
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn keep(&mut self, subject: &str, key: &Arc<DataKey>) {
        if self.by_subject.len() >= MAX_KEYS {
            // Whoever comes again after being forgotten gets another key: that costs a file, and no payload.
            let oldest = self.by_subject.iter().min_by_key(|(_, (_, used))| *used).map(|(subject, _)| subject.clone());
            oldest.and_then(|subject| self.by_subject.remove(&subject));
        }
        self.by_subject.insert(subject.to_owned(), (Arc::clone(key), self.uses));
    }
}

/// Stores a file, unless it needs room that the ends of running calls need.
fn put(core: &Core, file: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let free = core.storage.free_bytes().map_err(failed)?;
    if free < core.room_kept().saturating_add(bytes.len() as u64) {
        return Err(AppendError::NoSpace.into());
    }
    core.storage.put_payload(file, bytes).map_err(failed)
}

fn failed(error: io::Error) -> StoreError {
    StoreError::Disk(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::NoSpace,
        kind => AppendError::Io(kind),
    })
}

/// Payloads that are on their way to the disk at once; further ones wait for their turn.
pub(super) const MAX_AT_ONCE: usize = 16;
/// Subjects whose keys are in memory.
const MAX_KEYS: usize = 1_024;
