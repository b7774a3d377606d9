//! The writer: one queue, one tail, and whoever holds the tail writes for all who wait.
//!
//! Callers put records in the queue. Whoever gets the tail without waiting takes the whole queue, seals each record into the chain and makes
//! one write of them: for `Write` durability that is mostly the caller itself, which saves a hop to a thread. A caller that finds the tail
//! taken waits without blocking; the holder looks again after letting go, so nobody is left behind. Where several calls are under way, a caller
//! steps back once before it tries: all that are ready by then share its write. The writer's thread (`rounds`) does what may take
//! long: one sync for all who wait for one, rotation, repair, and the flush of what was handed over.
//!
//! Owns: order, chain, group commit, space. Leaves to others: who waits (`queue`), new segments and repair (`repair`).
//!
//! INVARIANT: `seq` and chain advance only when the bytes are in the file; a failed write takes the half line back.
//! INVARIANT: locks are taken tail before queue, and no caller ever blocks on the tail: it may be held through slow work.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::chain::Chain;
use super::encode::Entry;
use super::log::{AppendError, Durability, Health, Options};
use super::notary::Notary;
use super::queue::{Acked, Gate, Item, Queue, Teller, Waiter};
use super::record::{Kind, Record};
use super::retention::Announced;
use super::storage::{SegmentFile, Storage, append_all};
use super::tree::Hash;

/// The end of the log. Fields that `repair` and `recovery` set are open to them.
pub(super) struct Tail {
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) name: String,
    pub(super) first_seq: u64,
    /// The chain before the segment's first record.
    pub(super) chain_before: Chain,
    pub(super) next_seq: u64,
    pub(super) chain: Chain,
    pub(super) len: u64,
    /// Intents without an end.
    pub(super) open: BTreeSet<u64>,
    /// A sync failed or half a line could not be taken back: what this file holds on the platter is unknown.
    pub(super) is_distrusted: bool,
    /// The file was removed, replaced or changed by somebody else.
    pub(super) is_astray: bool,
    pub(super) awaiting: Vec<(Acked, Waiter)>,
    pub(super) batch: Vec<Item>,
    pub(super) sealed: Vec<Item>,
    pub(super) lines: Vec<u8>,
    /// The leaves of `sealed`.
    fresh: Vec<Hash>,
    /// The leaves of records in the file that the notary has not taken yet.
    pub(super) leaves: Vec<Hash>,
    /// From this `next_seq` on somebody must see to it that a checkpoint becomes due.
    pub(super) due_from: u64,
    /// When the newest checkpoint was asked for, in nanoseconds since 1970.
    pub(super) asked_at: i64,
    answer: Option<Result<u64, AppendError>>,
    free: u64,
    free_at: Option<Instant>,
}

impl Tail {
    pub(super) fn new(file: Arc<dyn SegmentFile>, first_seq: u64, chain: Chain, open: BTreeSet<u64>) -> Self {
        Self {
            file,
            name: String::new(),
            first_seq,
            chain_before: chain,
            next_seq: first_seq,
            chain,
            len: 0,
            open,
            is_distrusted: false,
            is_astray: false,
            awaiting: Vec::new(),
            batch: Vec::new(),
            sealed: Vec::new(),
            lines: Vec::with_capacity(4096),
            fresh: Vec::new(),
            leaves: Vec::new(),
            due_from: first_seq + 1,
            asked_at: 0,
            answer: None,
            free: 0,
            free_at: None,
        }
    }
}

/// What callers and the writer's thread share.
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) storage: Arc<dyn Storage>,
    queue: Mutex<Queue>,
    pub(super) bell: Condvar,
    /// The thread that syncs beside the writer's, where there is one.
    pub(super) beside: Mutex<Option<Sender<Arc<dyn SegmentFile>>>>,
    tail: Mutex<Tail>,
    pub(super) is_open: AtomicBool,
    pub(super) refused: AtomicU64,
    records: AtomicU64,
    running: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) newest: watch::Sender<Option<Arc<str>>>,
    pub(super) covered: AtomicU64,
    pub(super) covered_at: AtomicI64,
    notary: Mutex<Notary>,
    pub(super) announced: Mutex<Announced>,
    pub(super) guard: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl Core {
    pub(super) fn new(
        options: Options,
        storage: Arc<dyn Storage>,
        guard: Box<dyn Send + Sync>,
        tail: Tail,
        notary: Notary,
        newest: Option<String>,
    ) -> Self {
        let core = Self {
            options,
            storage,
            queue: Mutex::new(Queue::new()),
            bell: Condvar::new(),
            beside: Mutex::new(None),
            is_open: AtomicBool::new(true),
            refused: AtomicU64::new(0),
            records: AtomicU64::new(tail.next_seq - 1),
            running: AtomicU64::new(tail.open.len() as u64),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            newest: watch::Sender::new(newest.map(Arc::from)),
            covered: AtomicU64::new(notary.covered_to()),
            covered_at: AtomicI64::new(0),
            notary: Mutex::new(notary),
            announced: Mutex::default(),
            guard: Mutex::new(Some(guard)),
            tail: Mutex::new(tail),
        };
        core.follows(&mut core.tail());
        core
    }

    /// Whether so many calls are under way that others will soon want a write too.
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::Relaxed) > FEW_RUNNING
    }

    /// Writes at once when nobody else is writing; gives the entry back otherwise.
    pub(super) fn append_now(&self, entry: Entry) -> Result<Result<u64, AppendError>, Entry> {
        let Some(mut tail) = self.try_tail().or_else(|| self.try_tail_soon()) else { return Err(entry) };
        self.drain(&mut tail, Some(entry));
        let answer = tail.answer.take();
        drop(tail);
        self.drain_pressing();
        // The answer is set wherever an entry is taken from a batch.
        Ok(answer.unwrap_or(Err(AppendError::Closed)))
    }

    /// Seals and writes all that waits, and `mine` after it; the answer to `mine` is left in the tail.
    pub(super) fn drain(&self, tail: &mut Tail, mine: Option<Entry>) {
        let mut queue = self.queue();
        if queue.gate.is_closed() {
            tail.answer = mine.map(|entry| Err(self.turn_away(&mut queue, entry, AppendError::Closed)));
            return;
        }
        std::mem::swap(&mut queue.items, &mut tail.batch);
        queue.pressing = 0;
        drop(queue);
        tail.batch.extend(mine.map(|entry| Item { entry, teller: Teller::Here }));
        if !tail.batch.is_empty() {
            self.store(tail);
        }
    }

    /// Drains for those that could not get the tail while this caller held it.
    pub(super) fn drain_pressing(&self) {
        // Under a steady stream one caller could be kept busy for all others: after some rounds the thread takes over.
        for _ in 0..ROUNDS_FOR_OTHERS {
            if self.queue().pressing == 0 {
                return;
            }
            let Some(mut tail) = self.try_tail() else { return };
            self.drain(&mut tail, None);
        }
        self.ring(&mut self.queue());
    }

    /// Writes the batch as one. Where that fails nothing of it is in the file; ends are put back, all others are refused.
    pub(super) fn store(&self, tail: &mut Tail) {
        let (mut chain, mut seq, mut running) = (tail.chain, tail.next_seq, tail.open.len() as u64);
        let mut is_full = false;
        tail.lines.clear();
        tail.fresh.clear();
        let mut batch = std::mem::take(&mut tail.batch);
        for item in batch.drain(..) {
            let is_intent = item.entry.kind() == Kind::Intent;
            let wanted = tail.lines.len() as u64 + item.entry.line_bytes();
            if !item.entry.kind().is_kept() && !self.has_room(tail, wanted, running + u64::from(is_intent)) {
                is_full = true;
                self.refuse(tail, item, AppendError::NoSpace);
                continue;
            }
            let (after, leaf) = chain.seal(&item.entry, seq, &mut tail.lines);
            chain = after;
            tail.fresh.push(leaf);
            seq += 1;
            running += u64::from(is_intent);
            tail.sealed.push(item);
        }
        // Given back for its memory; `queue` swaps it for its own.
        tail.batch = batch;
        if is_full {
            self.shut_for_space();
        }
        if tail.sealed.is_empty() {
            return;
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        match append_all(&*tail.file, &tail.lines).and_then(|()| tail.file.size_at(&tail.name)) {
            Ok(Some(size)) if size == tail.len + tail.lines.len() as u64 => self.advance(tail, chain),
            Ok(size) => self.go_astray(tail, size),
            Err(error) => self.take_back(tail, &error),
        }
    }

    /// The batch is in the file.
    fn advance(&self, tail: &mut Tail, chain: Chain) {
        let bytes = tail.lines.len() as u64;
        tail.len += bytes;
        tail.free = tail.free.saturating_sub(bytes);
        tail.chain = chain;
        let mut sealed = std::mem::take(&mut tail.sealed);
        for item in sealed.drain(..) {
            let seq = tail.next_seq;
            tail.next_seq += 1;
            match (item.entry.kind(), item.entry.intent_seq()) {
                (Kind::Intent, _) => drop(tail.open.insert(seq)),
                (Kind::Outcome, Some(intent)) => drop(tail.open.remove(&intent)),
                _ => {}
            }
            let acked = Acked { seq, entry: item.entry };
            match item.teller {
                Teller::Nobody => {}
                Teller::Here => tail.answer = Some(Ok(seq)),
                Teller::Waiter(waiter) if waiter.durability == Durability::Sync => tail.awaiting.push((acked, waiter)),
                Teller::Waiter(waiter) => self.tell(waiter, acked),
            }
        }
        tail.sealed = sealed;
        let Tail { leaves, fresh, .. } = tail;
        leaves.append(fresh);
        if tail.next_seq >= tail.due_from {
            self.note_uncovered(tail);
        }
        self.publish(tail);
        if tail.len >= self.options.segment_max_bytes {
            self.ask_rotation();
        }
    }

    /// The batch is not, or not wholly, in the file: makes it not at all.
    fn take_back(&self, tail: &mut Tail, error: &io::Error) {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero);
        let is_clean = tail.file.truncate(tail.len).is_ok();
        let why = if is_full { AppendError::NoSpace } else { AppendError::Io(error.kind()) };
        let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut tail.sealed).into_iter().partition(|item| item.entry.kind().is_kept());
        let may_retry = is_full && is_clean && !dropped.is_empty() && !kept.is_empty();
        for item in dropped {
            self.refuse(tail, item, why);
        }
        if is_full && is_clean {
            (tail.free, tail.free_at) = (0, Some(Instant::now()));
            self.shut_for_space();
        }
        if may_retry {
            // Without the others the ends may fit. They are fewer now, so this ends.
            tail.batch = kept;
            return self.store(tail);
        }
        let kept = kept.into_iter().map(|item| self.refuse_but_keep(tail, item, why)).collect();
        let later = std::mem::replace(&mut self.queue().items, kept);
        self.queue().items.extend(later);
        if !(is_full && is_clean) {
            tail.is_distrusted = true;
            self.close_gate(Gate::Failed);
        }
    }

    pub(super) fn refuse(&self, tail: &mut Tail, item: Item, why: AppendError) {
        let why = self.count_refusal(&mut self.queue(), why);
        match item.teller {
            Teller::Nobody => {}
            Teller::Here => tail.answer = Some(Err(why)),
            // Whoever has left meanwhile needs no answer: the record never was.
            Teller::Waiter(waiter) => drop(waiter.tell.send(Err(why))),
        }
    }

    pub(super) fn refuse_but_keep(&self, tail: &mut Tail, item: Item, why: AppendError) -> Item {
        let entry = item.entry.clone();
        if !matches!(item.teller, Teller::Nobody) {
            self.refuse(tail, item, why);
        }
        Item { entry, teller: Teller::Nobody }
    }

    /// Acknowledges; where nobody listens any more, an intent is ended.
    fn tell(&self, waiter: Waiter, acked: Acked) {
        if let Err(Ok(unheard)) = waiter.tell.send(Ok(acked)) {
            self.end_unheard(unheard);
        }
    }

    /// Whether `wanted` bytes leave the reserve and room for the end of each running call.
    pub(super) fn has_room(&self, tail: &mut Tail, wanted: u64, running: u64) -> bool {
        let kept = self.options.reserve_bytes.saturating_add(running.saturating_mul(self.options.outcome_room_bytes));
        let now = Instant::now();
        let max_age = Duration::from_millis(self.options.space_check_ms);
        if tail.free_at.is_none_or(|at| now.duration_since(at) >= max_age) {
            // A disk that does not say what is free is taken for full.
            tail.free = self.storage.free_bytes().unwrap_or(0);
            tail.free_at = Some(now);
        }
        tail.free >= wanted.saturating_add(kept)
    }

    /// Tells all waiters below `up_to` that their records are durable.
    pub(super) fn acknowledge(&self, tail: &mut Tail, up_to: u64) {
        let covered = tail.awaiting.iter().take_while(|(acked, _)| acked.seq < up_to).count();
        for (acked, waiter) in tail.awaiting.drain(..covered) {
            self.tell(waiter, acked);
        }
    }

    /// After a failed sync the kernel may have dropped the pages: nobody is told that anything is durable, and the file is not used again.
    pub(super) fn sync_failed(&self, tail: &mut Tail, error: &io::Error) {
        tail.is_distrusted = true;
        for (acked, waiter) in std::mem::take(&mut tail.awaiting) {
            let why = self.count_refusal(&mut self.queue(), AppendError::Io(error.kind()));
            drop(waiter.tell.send(Err(why)));
            self.end_unheard(acked);
        }
        self.close_gate(Gate::Failed);
    }

    /// Opens the gate when there is space again for one more call.
    pub(super) fn recheck_space(&self, tail: &mut Tail) {
        let running = tail.open.len() as u64 + 1;
        if !self.has_room(tail, SPACE_FOR_ONE, running) {
            return;
        }
        let count = self.open_gate();
        let record = Record { action: Some("space_returned".into()), count: Some(count), ..Record::new(Kind::Lifecycle) };
        let entry = record.encode(&self.options.origin, self.options.clock.now());
        // With a full backlog the count is only in the metrics.
        let _in_metrics = self.hand_over(entry);
    }

    /// The number of the next record, or an earlier one: what is stored now stands before a record that comes later.
    pub(super) fn next_number(&self) -> u64 {
        self.records.load(Ordering::Relaxed) + 1
    }

    /// What must stay free for the ends of running calls, in bytes.
    pub(super) fn room_kept(&self) -> u64 {
        let running = self.running.load(Ordering::Relaxed);
        self.options.reserve_bytes.saturating_add(running.saturating_mul(self.options.outcome_room_bytes))
    }

    pub(super) fn health(&self) -> Health {
        Health {
            is_open: self.is_open(),
            records: self.records.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            waiting: self.queue().items.len() as u64,
            running: self.running.load(Ordering::Relaxed),
            covered: self.covered.load(Ordering::Relaxed),
            covered_at: self.covered_at.load(Ordering::Relaxed),
        }
    }

    /// Shows the tail's numbers to those who must not wait for it.
    pub(super) fn publish(&self, tail: &Tail) {
        self.records.store(tail.next_seq - 1, Ordering::Relaxed);
        self.running.store(tail.open.len() as u64, Ordering::Relaxed);
    }

    // A panic while a lock was held leaves plain data that is still sound: positions move only after a write.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before all other locks, and only by whoever does the thread's work.
    pub(super) fn notary(&self) -> MutexGuard<'_, Notary> {
        self.notary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again for about as long as one write takes: a wait that ends in a wake of this task costs more than that.
    fn try_tail_soon(&self) -> Option<MutexGuard<'_, Tail>> {
        (0..LOOKS_FOR_TAIL).find_map(|_| {
            (0..PAUSES_PER_LOOK).for_each(|_| std::hint::spin_loop());
            self.try_tail()
        })
    }

    fn try_tail(&self) -> Option<MutexGuard<'_, Tail>> {
        match self.tail.try_lock() {
            Ok(tail) => Some(tail),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// With 25 to 40 ns a pause: some 4 µs in all. Runs with and without it differed by less than their noise.
const LOOKS_FOR_TAIL: u32 = 32;
const PAUSES_PER_LOOK: u32 = 4;
const ROUNDS_FOR_OTHERS: u32 = 8;
/// Up to this many open calls an append is written at once: the last ends wait for it, so one caller alone leaves one or two.
const FEW_RUNNING: u64 = 2;
/// What must be free, besides the reserve, before intents are taken again.
const SPACE_FOR_ONE: u64 = 4 << 10;
