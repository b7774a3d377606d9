//! What the writer's thread does: the work that may take long, in rounds, and the sleep between them.
//!
//! A round repairs, flushes what was handed over, makes one sync for all who wait for one, signs a checkpoint where one is due, rotates, and does one
//! step of a seal. Where many wait, a second thread makes the sync, and what comes meanwhile is written: the next sync begins as soon as this one has
//! ended, and not after all of that was hashed. A checkpoint is stored beside the next sync, where somebody waits for that already: whoever came just
//! after a sync began waits for two, and not for the note between them as well. The thread sleeps until it is wanted, or until a checkpoint or a rotation
//! is due; where all records are covered it sleeps through.
//!
//! Owns: when. Leaves to others: how (`writer`, `repair`, `notary`).
//!
//! INVARIANT: a checkpoint is signed only over records that a sync since they were written has made durable.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::notary::Notary;
use super::queue::{Gate, Sleep};
use super::storage::SegmentFile;
use super::writer::{Core, Tail};

impl Core {
    /// One round of what the thread does: repair, flush, one sync for all who wait, checkpoint, rotation, a step of a seal.
    pub(super) fn work(&self) {
        let mut notary = self.notary();
        let gate = self.queue().gate;
        if gate.is_closed() && gate != Gate::Stopped && !self.repair(&mut notary, gate) {
            return;
        }
        let (rotates, is_old, vouches, seals) = self.wanted();
        let mut tail = self.tail();
        if gate == Gate::Full {
            self.recheck_space(&mut tail);
        }
        self.drain(&mut tail, None);
        let is_due = !tail.awaiting.is_empty();
        drop(tail);
        if is_due || rotates || is_old || vouches {
            self.sync(&mut notary, vouches);
        } else if let Some(unstored) = notary.take_unstored() {
            self.store_checkpoint(&mut notary, unstored);
        }
        if rotates || is_old {
            self.rotate(&mut notary, rotates);
        }
        if seals {
            self.seal_on(&mut notary);
        }
        self.drain_pressing();
    }

    /// What is to be done in this round: a rotation that was asked for, one by age, a checkpoint, a step of a seal.
    fn wanted(&self) -> (bool, bool, bool, bool) {
        let now = self.options.clock.unix_nanos();
        let mut queue = self.queue();
        (queue.wants_sync, queue.wants_note) = (false, false);
        let is_old = now >= queue.rotate_at;
        if is_old {
            queue.rotate_at = self.rotation_due();
        }
        let vouches = queue.is_checkpoint_due(now);
        (std::mem::take(&mut queue.wants_rotation), is_old, vouches, std::mem::take(&mut queue.wants_seal))
    }

    /// One sync, outside the lock, for all whose records are written by now; then a checkpoint over them, if wanted.
    fn sync(&self, notary: &mut Notary, vouches: bool) {
        let mut tail = self.tail();
        let (file, up_to, segment) = (Arc::clone(&tail.file), tail.next_seq, tail.first_seq);
        let many = tail.awaiting.len() >= MANY;
        let vouches = vouches && !tail.is_distrusted && !tail.is_astray;
        notary.take(&mut tail.leaves);
        if vouches {
            (tail.due_from, tail.asked_at) = (up_to + 1, self.options.clock.unix_nanos());
            self.queue().checkpoint_at = None;
        }
        drop(tail);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let synced = match notary.take_unstored() {
            Some(unstored) => self.sync_beside(file, || self.store_checkpoint(notary, unstored)),
            None if many => self.sync_beside(file, || {}),
            None => file.sync(),
        };
        let mut tail = self.tail();
        match synced {
            Ok(()) => self.acknowledge(&mut tail, up_to),
            Err(error) => return self.sync_failed(&mut tail, &error),
        }
        let is_awaited = !tail.awaiting.is_empty();
        drop(tail);
        notary.fold();
        if vouches {
            self.vouch(notary, segment, is_awaited);
        }
    }

    /// Signs a checkpoint over all that is durable. It is stored at once, but where somebody waits for the next sync already: then beside that.
    fn vouch(&self, notary: &mut Notary, segment: u64, is_awaited: bool) {
        // A segment's key signs nothing before the segment that it follows has its seal: so who looks on can tell one that is still to come from
        // one that was taken away.
        let signed = self.finish_sealing(notary).and_then(|()| notary.prepare(segment, self.options.clock.unix_seconds()));
        if let Err(error) = signed {
            return self.checkpoint_failed(&error);
        }
        let mut queue = self.queue();
        queue.wants_note = self.options.has_thread && (is_awaited || queue.wants_sync);
        let is_later = queue.wants_note;
        drop(queue);
        if !is_later && let Some(unstored) = notary.take_unstored() {
            self.store_checkpoint(notary, unstored);
        }
    }

    /// A checkpoint cannot be signed or stored: later.
    pub(super) fn checkpoint_failed(&self, error: &io::Error) {
        tracing::warn!(origin = self.options.origin, %error, "the audit log's checkpoint cannot be stored");
        self.try_again();
    }

    /// The same sync on the other thread, and this beside it. Then what comes meanwhile is written: it is not covered by this sync, and nobody is told
    /// that it is.
    fn sync_beside(&self, file: Arc<dyn SegmentFile>, beside: impl FnOnce()) -> io::Result<()> {
        let syncs = self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_sent = syncs.is_some_and(|syncs| syncs.send(Arc::clone(&file)).is_ok());
        beside();
        if !is_sent {
            return file.sync();
        }
        drop(file);
        let mut queue = self.queue();
        loop {
            if let Some(synced) = queue.synced.take() {
                return synced;
            }
            if (queue.items.len() >= MANY || queue.pressing > 0) && !queue.gate.is_closed() {
                drop(queue);
                self.drain(&mut self.tail(), None);
                queue = self.queue();
                continue;
            }
            queue.sleep = Sleep::Beside;
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.sleep = Sleep::Awake;
        }
    }

    /// Starts the thread that syncs beside the writer's; it ends when nobody can send it a file any more.
    fn spawn_beside(core: &Arc<Self>) -> io::Result<()> {
        let (syncs, files) = channel::<Arc<dyn SegmentFile>>();
        let beside = Arc::clone(core);
        std::thread::Builder::new().name("audit-sync".to_owned()).spawn(move || {
            for file in files {
                let synced = file.sync();
                drop(file);
                let mut queue = beside.queue();
                queue.synced = Some(synced);
                beside.ring(&mut queue);
            }
        })?;
        *core.beside.lock().unwrap_or_else(PoisonError::into_inner) = Some(syncs);
        Ok(())
    }

    /// One step of the seal of a segment that has ended; the next follows in another round, so that who waits for a sync does not wait for all.
    fn seal_on(&self, notary: &mut Notary) {
        let was_under_way = notary.is_sealing();
        match self.go_on_sealing(notary) {
            Ok(is_more) => {
                self.queue().wants_seal = is_more;
                if was_under_way && !is_more {
                    // From the first thing that the next key signs on, nobody can take the seal away and be taken for a crash.
                    self.ask_checkpoint();
                }
            }
            Err(error) => {
                tracing::warn!(origin = self.options.origin, %error, "the seal of a segment of the audit log cannot be stored");
                self.try_again();
            }
        }
    }

    /// Makes a checkpoint over all that is in the log by now due at once.
    pub(super) fn ask_checkpoint(&self) {
        let mut queue = self.queue();
        queue.checkpoint_at = Some(self.options.clock.unix_nanos());
        self.ring(&mut queue);
    }

    /// After a note could not be stored.
    fn try_again(&self) {
        let mut queue = self.queue();
        queue.wants_seal = false;
        queue.checkpoint_at = Some(self.options.clock.unix_nanos().saturating_add(NOTE_RETRY));
    }

    /// Records came that no checkpoint covers: sees to it that one becomes due.
    pub(super) fn note_uncovered(&self, tail: &mut Tail) {
        let now = self.options.clock.unix_nanos();
        let mut queue = self.queue();
        let by_age = *queue.checkpoint_at.get_or_insert_with(|| {
            tail.due_from = tail.due_from.saturating_add(CHECKPOINT_RECORDS - 1);
            now.saturating_add(CHECKPOINT_AGE)
        });
        if tail.next_seq >= tail.due_from {
            tail.due_from = u64::MAX;
            queue.checkpoint_at = Some(by_age.min(now.max(tail.asked_at.saturating_add(CHECKPOINT_PAUSE))));
        }
        self.ring(&mut queue);
    }

    /// When a segment that begins now is old enough.
    pub(super) fn rotation_due(&self) -> i64 {
        let age = i64::try_from(self.options.segment_max_age_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        self.options.clock.unix_nanos().saturating_add(age)
    }

    /// Starts the thread; the receiver resolves when it has ended.
    pub(super) fn spawn(core: &Arc<Self>) -> io::Result<oneshot::Receiver<()>> {
        let (ending, ended) = oneshot::channel();
        Self::spawn_beside(core)?;
        let core = Arc::clone(core);
        std::thread::Builder::new().name("audit-writer".to_owned()).spawn(move || {
            while core.wait_for_work() {
                core.work();
            }
            core.finish();
            drop(core.beside.lock().unwrap_or_else(PoisonError::into_inner).take());
            let _nobody_waits = ending.send(());
        })?;
        Ok(ended)
    }

    /// Sleeps until there is something to do; `false` when the log was stopped.
    fn wait_for_work(&self) -> bool {
        let mut busy = false;
        let mut queue = self.queue();
        loop {
            if queue.gate == Gate::Stopped {
                return false;
            }
            if queue.gate != Gate::Open {
                let (woken, _) = self.bell.wait_timeout(queue, REPAIR_PAUSE).unwrap_or_else(PoisonError::into_inner);
                return woken.gate != Gate::Stopped;
            }
            let now = self.options.clock.unix_nanos();
            if queue.is_wanted() || queue.is_checkpoint_due(now) || now >= queue.rotate_at {
                return true;
            }
            if queue.items.is_empty() && !busy {
                queue.sleep = Sleep::Deep;
                let pause = queue.pause(now);
                (queue, _) = self.bell.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner);
                queue.sleep = Sleep::Awake;
                continue;
            }
            // Handed over: the next append takes it along. Only where none came in a whole pause is it flushed from here.
            queue.sleep = Sleep::Light;
            let written = self.writes.load(Ordering::Relaxed);
            let (woken, pause) = self.bell.wait_timeout(queue, FLUSH_PAUSE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.sleep = Sleep::Awake;
            busy = self.writes.load(Ordering::Relaxed) != written;
            if pause.timed_out() && !busy && !queue.items.is_empty() {
                return queue.gate != Gate::Stopped;
            }
        }
    }

    /// Ends the thread after what it does now.
    pub(super) fn stop(&self) {
        self.close_gate(Gate::Stopped);
        let mut queue = self.queue();
        queue.gate = Gate::Stopped;
        drop(queue);
        self.bell.notify_one();
    }

    /// Writes the ends that still wait, makes all durable as far as that goes, and gives the origin back.
    pub(super) fn finish(&self) {
        // Once: a segment is sealed with its own key, which is gone then.
        let Some(guard) = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mut notary = self.notary();
        let mut tail = self.tail();
        if !tail.is_distrusted {
            tail.batch = std::mem::take(&mut self.queue().items);
            if !tail.batch.is_empty() {
                self.store(&mut tail);
            }
            match tail.file.sync() {
                Ok(()) => {
                    self.acknowledge(&mut tail, u64::MAX);
                    self.seal_at_stop(&mut notary, &mut tail);
                }
                Err(error) => self.sync_failed(&mut tail, &error),
            }
        }
        drop(tail);
        drop(guard);
    }

    /// All is durable: seals the segment. Where that fails, or the segment is not where it was, the next start sees to it.
    fn seal_at_stop(&self, notary: &mut Notary, tail: &mut Tail) {
        if tail.is_distrusted || tail.is_astray {
            return;
        }
        notary.take(&mut tail.leaves);
        notary.fold();
        if let Err(error) = self.seal_for_good(notary, tail) {
            tracing::warn!(origin = self.options.origin, %error, "the audit log is left without the seal of its last segment; the next start makes it");
        }
    }
}

/// So many who wait are worth the other thread; and so many records come before they are written beside a sync.
pub(super) const MANY: usize = 16;
/// An outcome that was handed over waits less than two of these for an append to take it along.
const FLUSH_PAUSE: Duration = Duration::from_millis(4);
/// Between two attempts to repair, or looks for space.
const REPAIR_PAUSE: Duration = Duration::from_millis(200);
/// A checkpoint covers a record at the latest so long after it came, in nanoseconds.
pub(super) const CHECKPOINT_AGE: i64 = 10_000_000_000;
/// So many records without one make a checkpoint due at once,
const CHECKPOINT_RECORDS: u64 = 1_000;
/// but not sooner after the last than this, in nanoseconds.
const CHECKPOINT_PAUSE: i64 = 250_000_000;
/// After a note could not be stored, in nanoseconds.
const NOTE_RETRY: i64 = 1_000_000_000;
