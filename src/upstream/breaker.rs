//! One circuit breaker: after failures in a row, calls are refused for a while; then one may try.
//!
//! Owns: closed, open and half-open. Leaves to others: what it guards, a whole server or one tool (`breakers`), and which failures
//! are transient (`breakers` too).
//! INVARIANT: while open or half-open no call gets through but one probe.
//! INVARIANT: a call let in before the breaker last changed does not change it: its news are old.
//! INVARIANT: failures of one tool alone do not open the breaker of its server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backoff;

/// Failures in a row that open the breaker.
pub(super) const THRESHOLD: u32 = 5;
/// As many of them count as one tool's; with more from elsewhere it is the server.
const MOST_OF_ONE: u32 = 3;
/// The first and the longest time that it stays open.
const OPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A breaker; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Breaker(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    state: State,
    /// Counts the changes of `state`, so that old permits are known.
    epoch: u64,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    Closed(Failures),
    Open {
        until: Instant,
    },
    /// One probe is under way.
    HalfOpen,
}

/// Failures in a row, and whose they are.
#[derive(Debug, Default)]
struct Failures {
    /// Those that are nobody's in particular.
    all: u32,
    /// Those of each source; there are at most [`THRESHOLD`] sources before the breaker opens.
    of: Vec<(u64, u32)>,
}

impl Failures {
    fn add(&mut self, source: Option<u64>) {
        let Some(source) = source else { return self.all += 1 };
        match self.of.iter_mut().find(|(known, _)| *known == source) {
            Some((_, number)) => *number += 1,
            None => self.of.push((source, 1)),
        }
    }

    /// As many as speak against what the breaker guards.
    fn count(&self) -> u32 {
        self.all + self.of.iter().map(|(_, number)| (*number).min(MOST_OF_ONE)).sum::<u32>()
    }

    fn forget(&mut self) {
        self.all = 0;
        self.of.clear();
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Calls go through; so many have failed in a row.
    Closed {
        /// Failures in a row that count.
        failures: u32,
    },
    /// Calls are refused for so long.
    Open {
        /// Until one may try.
        retry_in: Duration,
    },
    /// One call tries.
    HalfOpen,
}

impl Standing {
    /// Its word: `closed`, `open` or `half_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Leave for one call, to be told how the call went. Dropped untold, it changes nothing.
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Breaker,
    epoch: u64,
    told: bool,
}

impl Breaker {
    /// A closed breaker.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { state: State::Closed(Failures::default()), epoch: 0, backoff: Backoff::new(OPEN.0, OPEN.1) })))
    }

    /// Leave for a call that came before there was a breaker: its news count while the breaker has not changed since.
    pub(super) fn first_permit(&self) -> Permit {
        Permit { breaker: self.clone(), epoch: 0, told: false }
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        self.with(|inner| match &inner.state {
            State::Closed(failures) => Standing::Closed { failures: failures.count() },
            State::Open { until } => Standing::Open { retry_in: until.saturating_duration_since(Instant::now()) },
            State::HalfOpen => Standing::HalfOpen,
        })
    }

    /// How long to wait where no call is let in now, not even one that tries.
    pub(super) fn refusal(&self) -> Option<Duration> {
        match self.standing() {
            Standing::Closed { .. } => None,
            Standing::Open { retry_in } => Some(retry_in).filter(|wait| !wait.is_zero()),
            Standing::HalfOpen => Some(OPEN.0),
        }
    }

    /// Lets a call in, or says how long to wait.
    pub(super) fn permit(&self) -> Result<Permit, Duration> {
        let epoch = self.with(|inner| match inner.state {
            State::Closed(_) => Ok(inner.epoch),
            State::Open { until } => {
                let wait = until.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    return Err(wait);
                }
                inner.change(State::HalfOpen);
                Ok(inner.epoch)
            }
            // How long the probe takes is not known; the shortest wait is an honest guess.
            State::HalfOpen => Err(OPEN.0),
        })?;
        Ok(Permit { breaker: self.clone(), epoch, told: false })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic cannot leave a half-made state behind: every change is one assignment.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }

    fn open(&mut self) -> Duration {
        let wait = self.backoff.step();
        self.change(State::Open { until: Instant::now() + wait });
        wait
    }

    fn succeeded(&mut self) -> Changed {
        match &mut self.state {
            State::Closed(failures) => failures.forget(),
            State::Open { .. } => {}
            State::HalfOpen => {
                self.backoff.reset();
                self.change(State::Closed(Failures::default()));
                return Changed::Closed;
            }
        }
        Changed::No
    }

    fn failed(&mut self, source: Option<u64>) -> Changed {
        match &mut self.state {
            State::Closed(failures) => {
                failures.add(source);
                if failures.count() < THRESHOLD {
                    return Changed::No;
                }
            }
            State::Open { .. } => return Changed::No,
            State::HalfOpen => {}
        }
        Changed::Opened(self.open())
    }
}

/// What a call's news did to its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Nothing that shows.
    No,
    /// It lets nobody in for so long.
    Opened(Duration),
    /// It lets everybody in again.
    Closed,
}

impl Permit {
    /// The server answered.
    pub(super) fn succeeded(self) -> Changed {
        self.tell(Inner::succeeded)
    }

    /// The call failed in a way that may pass. `source` is whose failure it may be rather than that of what is guarded.
    pub(super) fn failed(self, source: Option<u64>) -> Changed {
        self.tell(|inner| inner.failed(source))
    }

    fn tell(mut self, news: impl FnOnce(&mut Inner) -> Changed) -> Changed {
        self.told = true;
        let epoch = self.epoch;
        self.breaker.with(|inner| if inner.epoch == epoch { news(inner) } else { Changed::No })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (told, epoch) = (self.told, self.epoch);
        self.breaker.with(|inner| {
            // A probe that learnt nothing leaves the breaker open, and the next call is the probe.
            if !told && inner.epoch == epoch && matches!(inner.state, State::HalfOpen) {
                inner.change(State::Open { until: Instant::now() });
            }
        });
    }
}

#[cfg(test)]
mod tests;
