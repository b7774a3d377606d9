//! The circuit breaker of one upstream: after failures in a row, calls are refused for a while; then one may try.
//!
//! Owns: closed, open and half-open. Leaves to others: which failures are transient (`Slot`).
//! INVARIANT: while open or half-open no call gets through but one probe.
//! INVARIANT: a call let in before the breaker last changed does not change it: its news are old.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Backoff;

/// Failures in a row that open the breaker.
const THRESHOLD: u32 = 5;
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
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One probe is under way.
    HalfOpen,
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
        Self(Arc::new(Mutex::new(Inner { state: State::Closed { failures: 0 }, epoch: 0, backoff: Backoff::new(OPEN.0, OPEN.1) })))
    }

    /// Lets a call in, or says how long to wait.
    pub(super) fn permit(&self) -> Result<Permit, Duration> {
        let epoch = self.with(|inner| match inner.state {
            State::Closed { .. } => Ok(inner.epoch),
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

    fn open(&mut self) {
        let until = Instant::now() + self.backoff.step();
        self.change(State::Open { until });
    }

    fn succeeded(&mut self) {
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            State::Open { .. } => {}
            State::HalfOpen => {
                self.backoff.reset();
                self.change(State::Closed { failures: 0 });
            }
        }
    }

    fn failed(&mut self) {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= THRESHOLD {
                    self.open();
                }
            }
            State::Open { .. } => {}
            State::HalfOpen => self.open(),
        }
    }
}

impl Permit {
    /// The server answered.
    pub(super) fn succeeded(self) {
        self.tell(Inner::succeeded);
    }

    /// The call failed in a way that may pass.
    pub(super) fn failed(self) {
        self.tell(Inner::failed);
    }

    fn tell(mut self, news: fn(&mut Inner)) {
        self.told = true;
        let epoch = self.epoch;
        self.breaker.with(|inner| {
            if inner.epoch == epoch {
                news(inner);
            }
        });
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
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        (0..times).for_each(|_| breaker.permit().unwrap().failed());
    }

    #[tokio::test(start_paused = true)]
    async fn breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let breaker = Breaker::new();
        fail(&breaker, THRESHOLD - 1);
        breaker.permit().unwrap().succeeded();
        fail(&breaker, THRESHOLD);
        let wait = breaker.permit().unwrap_err();
        tokio::time::advance(wait).await;
        let probe = breaker.permit().unwrap();
        assert!(breaker.permit().is_err(), "one probe only");
        probe.succeeded();
        fail(&breaker, THRESHOLD - 1);
        assert!(breaker.permit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn breaker_stays_open_after_a_failed_probe() {
        let breaker = Breaker::new();
        fail(&breaker, THRESHOLD);
        tokio::time::advance(OPEN.0).await;
        breaker.permit().unwrap().failed();
        assert!(breaker.permit().is_err());
        tokio::time::advance(OPEN.0 * 2).await;
        assert!(breaker.permit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_probe_makes_room_for_the_next() {
        let breaker = Breaker::new();
        fail(&breaker, THRESHOLD);
        tokio::time::advance(OPEN.0).await;
        drop(breaker.permit().unwrap());
        assert!(breaker.permit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn old_news_do_not_close_an_open_breaker() {
        let breaker = Breaker::new();
        let old = breaker.permit().unwrap();
        fail(&breaker, THRESHOLD);
        old.succeeded();
        assert!(breaker.permit().is_err());
    }
}
