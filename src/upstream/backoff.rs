//! Waits that double, with jitter, so that many gateways do not come back in step.

use std::time::Duration;

/// A series of waits.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait: between half of the step and the whole of it.
    pub fn step(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.longest);
        let mut random = [0_u8; 4];
        // Without random bytes the wait is whole: no jitter is worse than no wait.
        let share = aws_lc_rs::rand::fill(&mut random).map_or(u32::MAX, |()| u32::from_le_bytes(random));
        whole.mul_f64(0.5 + 0.5 * f64::from(share) / f64::from(u32::MAX))
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next wait after something that has held for so long: for longer than the longest wait, and it was well, so the series starts over. What
    /// ends right after each start must not be started in a tight circle.
    pub fn after(&mut self, held: Duration) -> Duration {
        if held > self.longest {
            self.reset();
        }
        self.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for whole in [100, 200, 350, 350] {
            let wait = backoff.step();
            assert!(wait >= Duration::from_millis(whole / 2) && wait <= Duration::from_millis(whole), "{wait:?} of {whole}");
        }
        backoff.reset();
        assert!(backoff.step() <= Duration::from_millis(100));
    }

    #[test]
    fn what_held_for_longer_than_the_longest_wait_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(800));
        for whole in [100, 200, 400, 800, 800] {
            let wait = backoff.after(Duration::from_millis(800));
            assert!(wait >= Duration::from_millis(whole / 2) && wait <= Duration::from_millis(whole), "{wait:?} of {whole}");
        }
        assert!(backoff.after(Duration::from_millis(801)) <= Duration::from_millis(100));
    }
}
