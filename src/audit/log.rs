//! The log's handle: append, hand over, and whether the gate is open.
//!
//! Owns: what a caller sees, and the deadline of one that waits. Leaves to others: the order and the file (`writer`), repair (`repair`),
//! and what a start finds (`recovery`).
//!
//! INVARIANT: a caller that was told of a failure, or left before it was told anything, has no open intent in the chain: it was
//! taken out of the queue, or the log ends it itself with `not_forwarded`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::disk::Disk;
use super::encode::Entry;
use super::queue::{Gate, Told};
use super::record::{Kind, Record, Stored};
use super::recovery;
use super::storage::Storage;
use super::writer::Core;
use crate::clock::Clock;

/// How the log behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose log it is; in every record and in the first chain.
    pub origin: String,
    /// Before the origin in the name of the log's keys and checkpoints: 1 to 64 of `A-Za-z0-9._-`.
    pub name: String,
    /// Where records get their time from.
    pub clock: Clock,
    /// Longest wait for one record, in milliseconds. Then the gate closes.
    pub deadline_ms: u64,
    /// A segment that has grown to this size is followed by the next, in bytes.
    pub segment_max_bytes: u64,
    /// A segment of this age that holds more than its first record is followed by the next, in milliseconds.
    pub segment_max_age_ms: u64,
    /// Free space that only the ends of running calls may use, in bytes.
    pub reserve_bytes: u64,
    /// Free space that each running call keeps for its end on top of the reserve, in bytes.
    pub outcome_room_bytes: u64,
    /// How long a look at the free space is good for, in milliseconds.
    pub space_check_ms: u64,
    /// How many records may wait for the disk before a hand-over is refused.
    pub backlog_max: usize,
    /// Starts although the chain is broken before its tail, and records that.
    pub accept_damage: bool,
    /// Whether the log has a thread of its own. Without one nothing is synced, flushed or repaired but by [`Log::tick`]; for tests.
    pub has_thread: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            origin: "main".to_owned(),
            name: "doorward".to_owned(),
            clock: Clock::system(),
            deadline_ms: 2_000,
            segment_max_bytes: 64 << 20,
            segment_max_age_ms: 24 * 3_600_000,
            reserve_bytes: 64 << 20,
            outcome_room_bytes: 4 << 10,
            space_check_ms: 1_000,
            backlog_max: 1 << 16,
            accept_damage: false,
            has_thread: true,
        }
    }
}

impl Options {
    /// The name of the log's keys and checkpoints.
    pub fn key_name(&self) -> String {
        format!("{}/{}", self.name, self.origin)
    }
}

/// What a record must survive before its caller goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process.
    Write,
    /// Power loss.
    Sync,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its place in the origin's log, from 1.
    pub seq: u64,
}

/// Why a record was not acknowledged. Each means `audit_unavailable` to an agent.
///
/// An intent or a refusal that failed is not in the log, or is followed by its end. An `outcome` or `late` record that failed is kept and
/// written as soon as that is possible, so it must not be appended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The gate is closed since an earlier fault, or the log was stopped.
    #[error("the audit log is closed since an earlier fault")]
    Closed,
    /// What is free is kept for the ends of running calls.
    #[error("the audit volume is full but for the space that running calls need")]
    NoSpace,
    /// The record was not durable in time.
    #[error("the audit volume did not store the record in time")]
    Deadline,
    /// The disk reported an error.
    #[error("the audit volume failed: {0}")]
    Io(std::io::ErrorKind),
    /// Too many records wait for the disk.
    #[error("too many records wait for the audit volume")]
    Backlog,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes this log.
    #[error("the audit log `{origin}` is in use by another process: does a gateway run with this configuration already?")]
    InUse {
        /// Whose log.
        origin: String,
    },
    /// The chain is broken before its tail, or what a note or a key speaks of is not there: no crash does that.
    #[error("the audit log `{origin}` is damaged at {place}: {what}; keep a copy, then start with --accept-damage to go on after it")]
    Damaged {
        /// Whose log.
        origin: String,
        /// File and line.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The disk reported an error.
    #[error("the audit log `{origin}` cannot be opened: {source}")]
    Io {
        /// Whose log.
        origin: String,
        /// What the disk reported.
        source: std::io::Error,
    },
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Torn ends that were set aside.
    pub torn: Vec<Torn>,
    /// Damage that was accepted.
    pub damage: Vec<String>,
    /// Intents without an end; each has got an `unresolved` one.
    pub unresolved: Vec<Stored>,
}

/// A torn end of a segment that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The file that keeps it.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// How the log is; each field is a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether intents are taken.
    pub is_open: bool,
    /// Records in the log.
    pub records: u64,
    /// Writes so far; fewer than records where they were grouped.
    pub writes: u64,
    /// Syncs so far.
    pub syncs: u64,
    /// Records refused so far.
    pub refused: u64,
    /// Records that wait for the disk.
    pub waiting: u64,
    /// Calls with an intent and no end.
    pub running: u64,
    /// The last record that the newest stored checkpoint covers; 0 where there is none.
    pub covered: u64,
    /// When that checkpoint was stored, in nanoseconds since 1970; 0 where none was since the start.
    pub covered_at: i64,
}

/// The log of one origin. Cheap to clone; dropping the last clone stops the writer, which gives the origin back as soon as it has written what
/// waits. [`Log::close`] also records the stop and waits for that.
#[derive(Clone)]
pub struct Log(Arc<Owner>);

struct Owner {
    core: Arc<Core>,
    /// Resolves when the thread has ended.
    ended: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Log {
    /// Takes the origin, repairs what a crash left, and starts the writer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options, storage: Arc<dyn Storage>) -> Result<(Self, Opened), OpenError> {
        let origin = options.origin.clone();
        let has_thread = options.has_thread;
        let (core, opened) = recovery::open(options, storage)?;
        let core = Arc::new(core);
        let ended = match has_thread {
            true => Some(Core::spawn(&core).map_err(|source| OpenError::Io { origin, source })?),
            false => None,
        };
        Ok((Self(Arc::new(Owner { core, ended: std::sync::Mutex::new(ended) })), opened))
    }

    /// Opens the first of `PREFIX-1`, `PREFIX-2` … in `dir` that no process holds.
    ///
    /// # Errors
    /// See [`OpenError`]; `InUse` when all of the first 1,000 are taken.
    pub fn open_first_free(options: &Options, dir: &Path, keys: &Path, prefix: &str) -> Result<(Self, Opened), OpenError> {
        for number in 1..=ORIGINS_TRIED {
            let origin = format!("{prefix}-{number}");
            let disk = Disk::open(dir, keys, &origin).map_err(|source| OpenError::Io { origin: origin.clone(), source })?;
            match Self::open(Options { origin, ..options.clone() }, Arc::new(disk)) {
                Err(OpenError::InUse { .. }) => {}
                other => return other,
            }
        }
        Err(OpenError::InUse { origin: prefix.to_owned() })
    }

    /// The origin.
    pub fn origin(&self) -> &str {
        &self.0.core.options.origin
    }

    /// The record's bytes for this log, at the log's time. Best done by the caller's own thread, before it waits for anything.
    pub fn encode(&self, record: &Record<'_>) -> Entry {
        record.encode(self.origin(), self.0.core.options.clock.now())
    }

    /// Stores a record and waits until it is as durable as asked.
    ///
    /// For `Write` the caller itself writes, with whatever was handed over before, unless another is writing just now. So a disk that hangs in
    /// write(2) holds that one caller's thread, whatever the deadline; all others are refused in time. `Sync` never blocks a caller's thread.
    ///
    /// # Errors
    /// See [`AppendError`]. After `Deadline` and `Io` the gate is closed until the log has repaired itself.
    pub async fn append(&self, entry: Entry, durability: Durability) -> Result<Position, AppendError> {
        let core = &self.0.core;
        let deadline = Duration::from_millis(core.options.deadline_ms);
        let entry = match durability {
            Durability::Sync => entry,
            Durability::Write if core.is_busy() => {
                let ack = Ack::new(core, core.join(entry, durability)?);
                // Whoever else is ready on this thread joins too, and the first to come back writes for all of them.
                tokio::task::yield_now().await;
                if !ack.is_told() {
                    core.drain_pressing();
                }
                return ack.wait(deadline).await.map(|seq| Position { seq });
            }
            Durability::Write => match core.append_now(entry) {
                Ok(done) => return done.map(|seq| Position { seq }),
                Err(entry) => entry,
            },
        };
        let ack = Ack::new(core, core.join(entry, durability)?);
        // The holder may have let go between the first try and the push: then nobody else would look.
        core.drain_pressing();
        ack.wait(deadline).await.map(|seq| Position { seq })
    }

    /// Puts a record in the chain's order without waiting; it is written with the next append, or within some 8 ms.
    ///
    /// # Errors
    /// `Closed` for a record that is not an end while the gate is closed; `Backlog` when too many wait.
    pub fn hand_over(&self, entry: Entry) -> Result<(), AppendError> {
        self.0.core.hand_over(entry)
    }

    /// Whether intents are taken.
    pub fn is_open(&self) -> bool {
        self.0.core.is_open()
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        self.0.core.health()
    }

    /// The newest checkpoint as a signed note, also that of an earlier life; `None` where there is none yet. It is stored before it shows here.
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.core.newest.subscribe()
    }

    pub(super) fn core(&self) -> Arc<Core> {
        Arc::clone(&self.0.core)
    }

    /// Asks for a new segment; the writer begins it as soon as the present one is durable.
    pub fn rotate(&self) {
        self.0.core.ask_rotation();
    }

    /// One round of the writer's work; for logs without a thread.
    pub fn tick(&self) {
        self.0.core.work();
    }

    /// Records a stop with its reason, waits until all is durable, and gives the origin back.
    ///
    /// # Errors
    /// The stop could not be recorded; the origin is given back all the same.
    pub async fn close(self, reason: &str) -> Result<(), AppendError> {
        let stop = Record { action: Some("stop".into()), note: Some(reason.into()), ..Record::new(Kind::Lifecycle) };
        let entry = self.encode(&stop);
        let core = &self.0.core;
        let recorded = match core.options.has_thread {
            true => self.append(entry, Durability::Sync).await.map(|_| ()),
            false => core.hand_over(entry),
        };
        core.stop();
        let ending = self.0.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match ending {
            // A disk that hangs must not keep the process from ending.
            Some(ending) => drop(tokio::time::timeout(Duration::from_millis(core.options.deadline_ms), ending).await),
            None => core.finish(),
        }
        recorded
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.core.stop();
        if !self.core.options.has_thread {
            self.core.finish();
        }
    }
}

/// A wait that may end early: by the deadline, or because the caller is dropped.
struct Ack<'a> {
    core: &'a Core,
    ticket: u64,
    told: oneshot::Receiver<Told>,
    is_settled: bool,
}

impl<'a> Ack<'a> {
    fn new(core: &'a Core, (ticket, told): (u64, oneshot::Receiver<Told>)) -> Self {
        Self { core, ticket, told, is_settled: false }
    }

    /// Whether the answer is there, so that waiting for it will not pause.
    fn is_told(&self) -> bool {
        !self.told.is_empty() || self.told.is_terminated()
    }

    async fn wait(mut self, deadline: Duration) -> Result<u64, AppendError> {
        let told = match self.told.try_recv() {
            Ok(told) => told,
            Err(_not_yet) => match tokio::time::timeout(deadline, &mut self.told).await {
                Ok(told) => told.unwrap_or(Err(AppendError::Closed)),
                Err(_elapsed) => self.give_up(),
            },
        };
        self.is_settled = true;
        told.map(|acked| acked.seq)
    }

    fn give_up(&mut self) -> Told {
        if !self.core.withdraw(self.ticket) {
            // From here on a late acknowledgement finds nobody, and whoever sends it ends the intent.
            self.told.close();
            if let Ok(told) = self.told.try_recv() {
                return told;
            }
        }
        let core = self.core;
        let why = core.count_refusal(&mut core.queue(), AppendError::Deadline);
        core.close_gate(Gate::Stalled);
        Err(why)
    }
}

impl Drop for Ack<'_> {
    fn drop(&mut self) {
        if self.is_settled || self.core.withdraw(self.ticket) {
            return;
        }
        self.told.close();
        if let Ok(Ok(acked)) = self.told.try_recv() {
            self.core.end_unheard(acked);
        }
    }
}

const ORIGINS_TRIED: u32 = 1_000;
