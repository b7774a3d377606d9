//! How a client of HTTP/2 behaves on its connection: many requests share one, so the kernel does not see what becomes of each.
//!
//! Owns: what is under way on a connection, since when nothing moves, and what the client takes back. Leaves to others: closing it.
//!
//! INVARIANT: an answer is given to the protocol in pieces of [`PIECE`] bytes, each as the client has made room for it, so it is known here how far
//! the client has taken it, and the protocol's own buffers stay small.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of an answer that are handed on at once.
pub const PIECE: usize = 16 << 10;

/// One connection's conduct.
#[derive(Debug)]
pub struct Conduct {
    began: Instant,
    /// Requests that are worked on.
    working: AtomicUsize,
    /// Answers that are not gone.
    sending: AtomicUsize,
    /// Those of them whose next piece the client has no room for, as far as we know.
    stuck: AtomicUsize,
    /// When something last moved, in milliseconds since it began.
    moved: AtomicU64,
    /// Requests taken back, less those answered.
    taken_back: AtomicUsize,
    most_taken_back: usize,
    too_many: Notify,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misconduct {
    /// Nothing is under way, and nothing was for long.
    Idle,
    /// The client does not take what is sent to it.
    Stuck,
}

impl Conduct {
    /// Of a connection that begins now, whose client may take back so many requests.
    pub fn new(most_taken_back: usize) -> Self {
        Self {
            began: Instant::now(),
            working: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            taken_back: AtomicUsize::new(0),
            most_taken_back,
            too_many: Notify::new(),
        }
    }

    /// Notes that a request came.
    pub fn begin(self: &Arc<Self>) -> Working {
        self.working.fetch_add(1, Ordering::Relaxed);
        self.moves();
        Working { conduct: Arc::clone(self), is_answered: false }
    }

    /// Ends once the client has taken back too many requests.
    pub async fn takes_back_too_much(&self) {
        self.too_many.notified().await;
    }

    /// What is wrong, if anything is. `idle` and `write` are the patience with silence and with an answer that nobody takes.
    pub fn wrong(&self, idle: Duration, write: Duration) -> Option<Misconduct> {
        if self.working.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let since = self.began.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)));
        if self.stuck.load(Ordering::Relaxed) > 0 {
            return (since >= write).then_some(Misconduct::Stuck);
        }
        // A stream that has nothing to say for long is no silence of its client.
        (self.sending.load(Ordering::Relaxed) == 0 && since >= idle).then_some(Misconduct::Idle)
    }

    fn moves(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }
}

/// A request that is worked on. Dropped before it was answered, its client has taken it back.
#[derive(Debug)]
pub struct Working {
    conduct: Arc<Conduct>,
    is_answered: bool,
}

impl Working {
    /// Its answer goes out from now on.
    pub fn answered(mut self) -> Sending {
        self.is_answered = true;
        let back = &self.conduct.taken_back;
        let _ = back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| taken.checked_sub(1));
        self.sending()
    }

    /// Its body broke off: what is said of that reaches nobody, and its client has taken it back.
    pub fn broke_off(self) -> Sending {
        self.sending()
    }

    fn sending(&self) -> Sending {
        self.conduct.sending.fetch_add(1, Ordering::Relaxed);
        self.conduct.stuck.fetch_add(1, Ordering::Relaxed);
        Sending { conduct: Arc::clone(&self.conduct), is_stuck: true }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.conduct.working.fetch_sub(1, Ordering::Relaxed);
        self.conduct.moves();
        if !self.is_answered && self.conduct.taken_back.fetch_add(1, Ordering::Relaxed) >= self.conduct.most_taken_back {
            self.conduct.too_many.notify_one();
        }
    }
}

/// An answer on its way.
#[derive(Debug)]
pub struct Sending {
    conduct: Arc<Conduct>,
    is_stuck: bool,
}

impl Sending {
    /// The client has room, and got a piece of which there are more, or is ready for what is yet to come.
    pub fn moves(&mut self, has_more: bool) {
        self.conduct.moves();
        if self.is_stuck != has_more {
            self.is_stuck = has_more;
            if has_more {
                self.conduct.stuck.fetch_add(1, Ordering::Relaxed)
            } else {
                self.conduct.stuck.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.conduct.sending.fetch_sub(1, Ordering::Relaxed);
        self.conduct.moves();
        if self.is_stuck {
            self.conduct.stuck.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_while_nothing_is_under_way_and_an_answer_while_nobody_takes_it() {
        let conduct = Arc::new(Conduct::new(1));
        let after = async |seconds: u64| {
            advance(Duration::from_secs(seconds)).await;
            conduct.wrong(Duration::from_secs(60), Duration::from_secs(20))
        };
        assert_eq!((after(59).await, after(1).await), (None, Some(Misconduct::Idle)));
        let working = conduct.begin();
        assert_eq!(after(1_000).await, None, "it is worked on");
        let mut sending = working.answered();
        assert_eq!((after(19).await, after(1).await), (None, Some(Misconduct::Stuck)));
        sending.moves(false);
        assert_eq!(after(1_000).await, None, "it has nothing to say");
        sending.moves(true);
        assert_eq!((after(19).await, after(1).await), (None, Some(Misconduct::Stuck)));
        drop(sending);
        assert_eq!((after(59).await, after(1).await), (None, Some(Misconduct::Idle)));
    }
}
