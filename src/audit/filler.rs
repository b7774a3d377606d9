//! Keeps the index behind a log that is being written, so that a question finds it nearly complete.
//!
//! A thread of its own, of low priority, works in turns: each opens the index anew, takes in some chunks, and ends within a bound; then it rests for as
//! long as it worked, or until enough records have come. In a burst of calls it leaves the machine to them, until it is far behind; questions read
//! the rest from the log. So a call does not feel it, and an index that was deleted, replaced or is filled by somebody else meanwhile is nothing
//! special.
//!
//! Owns: when the gateway fills the index, and how that stands. Leaves to others: filling (`index`), and answers, which need no index.
//!
//! INVARIANT: the last bytes of the volume are the log's: below a bound the index does not grow.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::find::Logs;
use super::index::column::CHUNK;
use super::index::{Filled, IndexError};

/// How the index stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Records of all logs that it knows.
    pub records: u64,
    /// Why it does not get further; `None` while it does.
    pub failing: Option<String>,
}

/// Shows how the index stands to whoever asks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Indexed(Arc<watch::Sender<Standing>>);

impl Indexed {
    /// How the index stands, now and as it changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }

    fn is_at(&self, records: u64) {
        let before = self.0.send_replace(Standing { records, failing: None });
        if before.failing.is_some() {
            tracing::info!(records, "the index of the audit log is filled again");
        }
    }

    /// Says why once, however often it is tried again.
    fn fails(&self, why: String) {
        let is_new = self.0.borrow().failing.as_ref() != Some(&why);
        if is_new {
            tracing::warn!(why, "the index of the audit log is not filled; questions read the log instead, which takes longer");
            self.0.send_modify(|standing| standing.failing = Some(why));
        }
    }
}

/// Whose logs are filled in, and how.
pub struct Source {
    /// The folder of the logs.
    pub dir: PathBuf,
    /// How many records the log of this process has.
    pub records: Box<dyn Fn() -> u64 + Send>,
    /// Where it shows how the index stands.
    pub indexed: Indexed,
    /// Free space on the volume below which the index does not grow, in bytes.
    pub spare_bytes: u64,
}

/// Why a turn came to nothing.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the logs cannot be read: {0}")]
    Logs(#[from] std::io::Error),
    #[error("less than {} MiB are free on the volume", .0 >> 20)]
    Space(u64),
}

/// The thread; it ends with its handle, after the turn that is under way.
pub struct Filler(Arc<Ending>);

#[derive(Default)]
struct Ending {
    is_over: Mutex<bool>,
    told: Condvar,
}

impl Ending {
    /// Rests; whether the end has come.
    fn rest(&self, pause: Duration) -> bool {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        *self.told.wait_timeout_while(is_over, pause, |is_over| !*is_over).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        *self.0.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.told.notify_all();
    }
}

impl Filler {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(source: Source) -> std::io::Result<Self> {
        let ending = Arc::new(Ending::default());
        let seen = Arc::clone(&ending);
        std::thread::Builder::new().name("audit-index".to_owned()).spawn(move || {
            // Of this thread alone, on Linux. Without it the pauses still bound what a call can feel.
            let _may_stay = rustix::process::nice(NICE);
            source.run(&seen);
        })?;
        Ok(Self(ending))
    }
}

impl Source {
    fn run(&self, ending: &Ending) {
        let mut was_behind = false;
        let mut is_told = false;
        loop {
            let (began, records) = (Instant::now(), (self.records)());
            let turn = self.turn();
            was_behind |= turn.as_ref().is_ok_and(|filled| filled.records > 0);
            let is_over = match turn {
                Ok(Filled { is_done: true, .. }) => {
                    // Once: from then on it is never far behind.
                    if was_behind && !std::mem::replace(&mut is_told, true) {
                        tracing::info!(records = self.indexed.0.borrow().records, "the index of the audit log has caught up");
                    }
                    self.rest_until_grown(ending, records)
                }
                // Another process fills it.
                Ok(Filled { records: 0, .. }) | Err(Why::Index(IndexError::Busy)) => ending.rest(LOOK_EVERY),
                Ok(_) => ending.rest(began.elapsed()),
                Err(why) => {
                    self.indexed.fails(why.to_string());
                    ending.rest(AFTER_FAILURE)
                }
            };
            if is_over {
                return;
            }
        }
    }

    /// Rests until there is something to take in, or for long; whether the end has come.
    fn rest_until_grown(&self, ending: &Ending, known: u64) -> bool {
        let (began, mut before) = (Instant::now(), known);
        loop {
            if ending.rest(LOOK_EVERY) {
                return true;
            }
            let now = (self.records)();
            if is_due(known, before, now) || began.elapsed() >= LONG {
                return false;
            }
            before = now;
        }
    }

    fn turn(&self) -> Result<Filled, Why> {
        let mut logs = Logs::in_dir(&self.dir)?;
        if !logs.is_worth_an_index(&self.dir) {
            return Ok(Filled { records: 0, is_done: true });
        }
        if let Some((_, storage)) = logs.origins().next()
            && storage.free_bytes()? < self.spare_bytes
        {
            return Err(Why::Space(self.spare_bytes));
        }
        let filled = logs.with_index(&self.dir, Some(TURN), &mut |_| {})?;
        logs.notes().iter().for_each(|note| tracing::warn!("{note}"));
        self.indexed.is_at(logs.indexed());
        Ok(filled)
    }
}

/// Whether a log that had `known` records when the index took them in, `before` at the last look and has `now` is to be looked into: there is a
/// chunk and no burst, or too much has come to wait for its end.
fn is_due(known: u64, before: u64, now: u64) -> bool {
    let (behind, grown) = (now.saturating_sub(known), now.saturating_sub(before));
    behind >= FAR || (behind >= CHUNK as u64 && grown < BURST)
}

/// The free space that is left to the log, in bytes: four times what it keeps for the ends of running calls.
pub const SPARE_BYTES: u64 = 256 << 20;
/// How long a turn takes in chunks: it ends with the one that is under way then.
const TURN: Duration = Duration::from_millis(100);
/// How often the log is looked at, which costs next to nothing while it does not grow.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A burst: so many records or more from one look to the next, some thousand calls a second.
const BURST: u64 = 2_000;
/// So many records are taken in whatever the machine does: what is stored in one transaction. A question that finds as many waiting reads them in
/// 0.4 s.
const FAR: u64 = 16 * CHUNK as u64;
/// Between two turns, though this process wrote nothing: others may have, and segments may be gone.
const LONG: Duration = Duration::from_secs(600);
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// The lowest of priorities but one.
const NICE: i32 = 18;

#[cfg(test)]
#[path = "filler_tests.rs"]
mod tests;
