//! How often the calls of one upstream may be sent again: a part of the calls that it gets, so that retries never become a load of their
//! own on a server that is in trouble.
//!
//! INVARIANT: over any time there are at most [`MOST`] retries and the given part of the calls.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Retries that can be saved up.
const MOST: u32 = 10;
/// What a retry costs; a call earns its part of it.
const RETRY: u32 = 100;

/// A bucket of retries, filled by calls.
#[derive(Debug)]
pub(super) struct Budget {
    /// What a call earns, in hundredths of a retry.
    percent: u32,
    left: AtomicU32,
    made: AtomicU64,
    refused: AtomicU64,
}

/// How often calls were sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// Since the upstream was started.
    pub made: u64,
    /// How often the budget did not allow it.
    pub refused: u64,
    /// How many there may be now.
    pub left: u32,
}

impl Budget {
    /// A full bucket, into which each call puts so many hundredths; with 0 there are no retries.
    pub(super) fn new(percent: u32) -> Self {
        let left = if percent == 0 { 0 } else { MOST * RETRY };
        Self { percent, left: AtomicU32::new(left), made: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// A call was made.
    pub(super) fn earn(&self) {
        // Nearly always full, and then a call costs no more than a look.
        if self.left.load(Ordering::Relaxed) < MOST * RETRY {
            let more = |left: u32| Some((left + self.percent).min(MOST * RETRY));
            let _before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// Takes one retry, where there is one.
    pub(super) fn spend(&self) -> bool {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(RETRY)).is_ok();
        if spent { &self.made } else { &self.refused }.fetch_add(1, Ordering::Relaxed);
        spent
    }

    /// How it stands.
    pub(super) fn retries(&self) -> Retries {
        let (made, refused) = (self.made.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        Retries { made, refused, left: self.left.load(Ordering::Relaxed) / RETRY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_the_calls_and_what_was_saved_up() {
        let budget = Budget::new(10);
        let retried = (0..1_000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        let retried = retried.count() as u64;
        assert!((100..=110).contains(&retried), "{retried}");
        assert_eq!(budget.retries(), Retries { made: retried, refused: 1_000 - retried, left: 0 });
    }

    #[test]
    fn without_a_part_there_is_none() {
        let budget = Budget::new(0);
        budget.earn();
        assert!(!budget.spend());
    }
}
