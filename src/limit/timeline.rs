//! The time that budgets and loops count in: it goes on across restarts, and never back.
//!
//! Within a process it is the machine's monotonic time, so a wall clock that is set changes nothing. Across a restart it goes on by the time
//! since boot, or after a reboot by the wall clock, of which a step back counts for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock as _, Reference};
use governor::nanos::Nanos;

use super::Time;
use crate::clock::Moment;
use crate::state::SpentAt;

/// Milliseconds since a state folder first kept budgets; since the start where none does.
#[derive(Debug)]
pub(super) struct Timeline {
    time: Time,
    began: Nanos,
    base_ms: AtomicU64,
    /// Held while a batch is being stored: what is under way is not sent twice.
    storing: Mutex<()>,
}

impl Timeline {
    /// Begins now, at nothing.
    pub fn new(time: &Time) -> Self {
        Self { time: time.clone(), began: time.now(), base_ms: AtomicU64::new(0), storing: Mutex::default() }
    }

    /// The turn to store.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.storing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time.
    pub fn now_ms(&self) -> u64 {
        let passed = self.time.now().duration_since(self.began).as_u64() / 1_000_000;
        self.base_ms.load(Ordering::Relaxed).saturating_add(passed)
    }

    /// Goes on from what was kept; never back.
    pub fn go_on(&self, kept: &SpentAt, now: &Moment) {
        let at = kept.at_ms.saturating_add(since(kept, now));
        self.base_ms.fetch_add(at.saturating_sub(self.now_ms()), Ordering::Relaxed);
    }

    /// What is to be kept of it.
    pub fn kept(&self, now: &Moment) -> SpentAt {
        SpentAt { at_ms: self.now_ms(), unix_nanos: now.unix_nanos, boot_micros: now.boot_micros, boot_id: now.boot_id.map(str::to_owned) }
    }
}

/// The milliseconds since it was kept.
fn since(kept: &SpentAt, now: &Moment) -> u64 {
    match (&kept.boot_id, now.boot_id) {
        (Some(then), Some(boot)) if then == boot => now.boot_micros.saturating_sub(kept.boot_micros) / 1_000,
        _ => now.unix_nanos.saturating_sub(kept.unix_nanos).max(0).unsigned_abs() / 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(unix_s: i64, boot_s: u64, boot_id: Option<&'static str>) -> Moment {
        Moment { unix_nanos: unix_s * 1_000_000_000, boot_micros: boot_s * 1_000_000, boot_id }
    }

    #[test]
    fn a_clock_that_is_set_back_or_forward_changes_nothing_within_one_boot() {
        let kept = SpentAt { at_ms: 5_000, unix_nanos: 1_000_000_000_000, boot_micros: 70_000_000, boot_id: Some("a".to_owned()) };
        for unix_s in [0, 1_000, 9_999_999] {
            let line = Timeline::new(&Time::standing());
            line.go_on(&kept, &moment(unix_s, 72, Some("a")));
            assert_eq!(line.now_ms(), 7_000);
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_and_a_step_back_does_not() {
        let kept = SpentAt { at_ms: 5_000, unix_nanos: 1_000_000_000_000, boot_micros: 70_000_000, boot_id: Some("a".to_owned()) };
        for (unix_s, at) in [(1_030, 35_000), (10, 5_000)] {
            let line = Timeline::new(&Time::standing());
            line.go_on(&kept, &moment(unix_s, 1, Some("b")));
            assert_eq!(line.now_ms(), at);
        }
    }

    #[test]
    fn it_goes_on_and_never_back() {
        let time = Time::standing();
        let line = Timeline::new(&time);
        time.advance(Duration::from_secs(60));
        assert_eq!(line.now_ms(), 60_000);
        let kept = SpentAt { at_ms: 10, ..SpentAt::default() };
        line.go_on(&kept, &moment(0, 0, None));
        assert_eq!(line.now_ms(), 60_000);
    }
}
