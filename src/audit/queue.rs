//! What waits for the tail, and the gate.
//!
//! Owns: the order of arrival, who is told what, and that no end of a call is ever thrown away. Leaves to others: writing (`writer`).
//!
//! INVARIANT: an item leaves the queue by being written, by being refused with its waiter told, or by its waiter's own withdrawal.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::encode::{Entry, push_digits};
use super::log::{AppendError, Durability};
use super::record::{Kind, Stored};
use super::rounds::{CHECKPOINT_AGE, MANY};
use super::writer::Core;

/// Whether records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Only ends are taken until there is space.
    Full,
    /// A waiter's deadline passed.
    Stalled,
    /// The disk reported an error.
    Failed,
    /// The file that is written is not the log's any more.
    Astray,
    Stopped,
}

impl Gate {
    pub(super) fn is_closed(self) -> bool {
        matches!(self, Self::Stalled | Self::Failed | Self::Astray | Self::Stopped)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Full => "no space",
            Self::Stalled => "a record was not durable in time",
            Self::Failed => "the disk reported an error",
            Self::Astray => "the file of the log was removed, replaced or changed by somebody else",
            Self::Stopped => "stopped",
        }
    }
}

/// What a waiter is told. The entry comes back, so that an acknowledgement nobody hears can still be ended.
pub(super) type Told = Result<Acked, AppendError>;

/// A record that is in the chain.
pub(super) struct Acked {
    pub(super) seq: u64,
    pub(super) entry: Entry,
}

pub(super) enum Teller {
    /// Handed over.
    Nobody,
    /// The caller that holds the tail.
    Here,
    Waiter(Waiter),
}

pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) durability: Durability,
    pub(super) tell: oneshot::Sender<Told>,
}

pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) teller: Teller,
}

pub(super) struct Queue {
    pub(super) items: Vec<Item>,
    /// Items whose waiter wants only a write: any caller that lets the tail go must look at them.
    pub(super) pressing: usize,
    pub(super) wants_sync: bool,
    pub(super) wants_rotation: bool,
    /// A segment that has ended waits for its seal.
    pub(super) wants_seal: bool,
    /// A checkpoint is signed, and stored in the next round.
    pub(super) wants_note: bool,
    /// When a checkpoint is due, in nanoseconds since 1970; none while all records are covered.
    pub(super) checkpoint_at: Option<i64>,
    /// When the present segment is old enough, in the same unit.
    pub(super) rotate_at: i64,
    pub(super) sleep: Sleep,
    /// What came of the sync that ran beside the thread, until that has seen it.
    pub(super) synced: Option<io::Result<()>>,
    pub(super) gate: Gate,
    /// Since the gate last left `Open`.
    pub(super) refused: u64,
    pub(super) next_ticket: u64,
}

/// What the writer's thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    Awake,
    /// With a timer: it looks at what was handed over soon, unasked. A wake for each of them would cost more than the write.
    Light,
    /// For the sync that runs beside it: it writes meanwhile what has come, but not each record by itself.
    Beside,
    Deep,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            pressing: 0,
            wants_sync: false,
            wants_rotation: false,
            wants_seal: false,
            wants_note: false,
            checkpoint_at: None,
            rotate_at: i64::MAX,
            sleep: Sleep::Awake,
            synced: None,
            gate: Gate::Open,
            refused: 0,
            next_ticket: 0,
        }
    }
}

impl Queue {
    /// Whether somebody asked for something that the thread does.
    pub(super) fn is_wanted(&self) -> bool {
        self.pressing > 0 || self.wants_sync || self.wants_rotation || self.wants_seal || self.wants_note
    }

    /// Whether records have waited long enough for a checkpoint; also where the clock was set back, since how long is then unknown.
    pub(super) fn is_checkpoint_due(&self, now: i64) -> bool {
        self.checkpoint_at.is_some_and(|at| now >= at || at - now > CHECKPOINT_AGE)
    }

    /// How long the thread may sleep when nobody wakes it.
    pub(super) fn pause(&self, now: i64) -> Duration {
        let next = self.checkpoint_at.map_or(self.rotate_at, |at| at.min(self.rotate_at));
        Duration::from_nanos(u64::try_from(next.saturating_sub(now)).unwrap_or(0))
    }
}

impl Core {
    /// Puts a record in the queue for a caller that waits, and will see to it a moment later that it is written.
    pub(super) fn join(&self, entry: Entry, durability: Durability) -> Result<(u64, oneshot::Receiver<Told>), AppendError> {
        let (tell, told) = oneshot::channel();
        let mut queue = self.queue();
        if queue.gate.is_closed() {
            return Err(self.turn_away(&mut queue, entry, AppendError::Closed));
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.items.push(Item { entry, teller: Teller::Waiter(Waiter { ticket, durability, tell }) });
        match durability {
            Durability::Write => queue.pressing += 1,
            Durability::Sync => {
                queue.wants_sync = true;
                if queue.sleep != Sleep::Beside || queue.items.len() >= MANY {
                    self.ring(&mut queue);
                }
            }
        }
        Ok((ticket, told))
    }

    pub(super) fn hand_over(&self, entry: Entry) -> Result<(), AppendError> {
        let mut queue = self.queue();
        if queue.items.len() >= self.options.backlog_max {
            return Err(self.count_refusal(&mut queue, AppendError::Backlog));
        }
        if queue.gate.is_closed() && !entry.kind().is_kept() {
            return Err(self.count_refusal(&mut queue, AppendError::Closed));
        }
        queue.items.push(Item { entry, teller: Teller::Nobody });
        if queue.sleep == Sleep::Deep {
            self.ring(&mut queue);
        }
        Ok(())
    }

    /// Takes back a record that is still in the queue, so that it never was; an end stays. Whether it was there.
    pub(super) fn withdraw(&self, ticket: u64) -> bool {
        let mut queue = self.queue();
        let is_it = |item: &Item| matches!(&item.teller, Teller::Waiter(waiter) if waiter.ticket == ticket);
        let Some(at) = queue.items.iter().position(is_it) else { return false };
        if queue.items[at].entry.kind().is_kept() {
            queue.items[at].teller = Teller::Nobody;
        } else {
            queue.items.remove(at);
        }
        true
    }

    /// Ends an intent that is in the chain although its caller was told of a failure, or was gone.
    pub(super) fn end_unheard(&self, acked: Acked) {
        if acked.entry.kind() != Kind::Intent {
            return;
        }
        let mut line = acked.entry.head().to_vec();
        push_digits(&mut line, acked.seq);
        line.extend_from_slice(acked.entry.tail());
        line.push(b'}');
        // What we encoded parses; were it not so, recovery would still end the intent at the next start.
        let Some(intent) = Stored::parse(&line) else { return };
        let end = intent.end("not_forwarded", "none", Some("audit_unavailable"));
        let entry = end.encode(&self.options.origin, self.options.clock.now());
        let mut queue = self.queue();
        queue.items.push(Item { entry, teller: Teller::Nobody });
        self.ring(&mut queue);
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn ask_rotation(&self) {
        let mut queue = self.queue();
        queue.wants_rotation = true;
        self.ring(&mut queue);
    }

    /// Refuses all that waits but ends, and all that comes, until the writer has repaired what is wrong.
    pub(super) fn close_gate(&self, why: Gate) {
        let mut queue = self.queue();
        if queue.gate.is_closed() {
            return;
        }
        queue.gate = why;
        self.is_open.store(false, Ordering::Release);
        queue.pressing = 0;
        for mut item in std::mem::take(&mut queue.items) {
            if let Teller::Waiter(waiter) = std::mem::replace(&mut item.teller, Teller::Nobody) {
                drop(waiter.tell.send(Err(self.count_refusal(&mut queue, AppendError::Closed))));
            }
            if item.entry.kind().is_kept() {
                queue.items.push(item);
            }
        }
        self.ring(&mut queue);
    }

    /// Opens the gate after a repair; how many were refused meanwhile.
    pub(super) fn open_gate(&self) -> u64 {
        let mut queue = self.queue();
        if queue.gate != Gate::Stopped {
            queue.gate = Gate::Open;
            self.is_open.store(true, Ordering::Release);
        }
        std::mem::take(&mut queue.refused)
    }

    /// Lets only ends through until there is space.
    pub(super) fn shut_for_space(&self) {
        let mut queue = self.queue();
        if queue.gate == Gate::Open {
            queue.gate = Gate::Full;
            self.is_open.store(false, Ordering::Release);
            self.ring(&mut queue);
        }
    }

    /// Tells the caller that its record is not taken; an end is kept all the same.
    pub(super) fn turn_away(&self, queue: &mut Queue, entry: Entry, why: AppendError) -> AppendError {
        if entry.kind().is_kept() {
            queue.items.push(Item { entry, teller: Teller::Nobody });
        }
        self.count_refusal(queue, why)
    }

    pub(super) fn count_refusal(&self, queue: &mut Queue, why: AppendError) -> AppendError {
        queue.refused += 1;
        self.refused.fetch_add(1, Ordering::Relaxed);
        why
    }

    /// Wakes the writer's thread if it sleeps.
    pub(super) fn ring(&self, queue: &mut Queue) {
        if std::mem::replace(&mut queue.sleep, Sleep::Awake) != Sleep::Awake {
            self.bell.notify_one();
        }
    }
}
