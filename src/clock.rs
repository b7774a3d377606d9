//! Wall time and the time since boot, in one replaceable place. Durations use tokio's time, which tests pause.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Where the time comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Fixed>>);

#[derive(Debug)]
struct Fixed {
    unix_nanos: AtomicI64,
    boot_micros: AtomicU64,
}

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since 1970-01-01T00:00:00Z, as the wall clock has it: it can be set, also back.
    pub unix_nanos: i64,
    /// Microseconds since the machine started, sleep included: this one only grows.
    pub boot_micros: u64,
    /// Which start of the machine that was; `None` where the system does not say.
    pub boot_id: Option<&'static str>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `unix_nanos` until [`Clock::set`] moves it; for tests.
    pub fn fixed(unix_nanos: i64) -> Self {
        Self(Some(Arc::new(Fixed { unix_nanos: AtomicI64::new(unix_nanos), boot_micros: AtomicU64::new(0) })))
    }

    /// Sets a fixed wall clock, forward or back, as somebody who sets the machine's does: no time passes by that.
    pub fn set(&self, unix_nanos: i64) {
        if let Some(fixed) = &self.0 {
            fixed.unix_nanos.store(unix_nanos, Ordering::Relaxed);
        }
    }

    /// Lets time pass on a fixed clock; the machine's is left alone.
    pub fn pass(&self, time: Duration) {
        if let Some(fixed) = &self.0 {
            fixed.unix_nanos.fetch_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX), Ordering::Relaxed);
            fixed.boot_micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Both clocks now.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Some(fixed) => Moment { unix_nanos: self.unix_nanos(), boot_micros: fixed.boot_micros.load(Ordering::Relaxed), boot_id: None },
            None => Moment { unix_nanos: self.unix_nanos(), boot_micros: boot_micros(), boot_id: boot_id() },
        }
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z; 0 before it.
    pub fn unix_nanos(&self) -> i64 {
        match &self.0 {
            Some(fixed) => fixed.unix_nanos.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0),
        }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(&self) -> i64 {
        self.unix_nanos() / 1_000_000_000
    }
}

fn boot_micros() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    u64::try_from(since.tv_sec).unwrap_or(0).saturating_mul(1_000_000) + u64::try_from(since.tv_nsec / 1_000).unwrap_or(0)
}

fn boot_id() -> Option<&'static str> {
    static READ: OnceLock<Option<String>> = OnceLock::new();
    READ.get_or_init(|| Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())).as_deref()
}

/// `unix_nanos` as RFC 3339 in UTC with nanoseconds, the form of records: `2026-11-21T10:00:00.000000000Z`.
pub fn rfc3339(unix_nanos: i64) -> String {
    let seconds = unix_nanos.div_euclid(1_000_000_000);
    let nanos = unix_nanos.rem_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    for (at, width, number) in
        [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, of_day / 3600), (14, 2, of_day / 60 % 60), (17, 2, of_day % 60), (20, 9, nanos)]
    {
        let mut rest = u32::try_from(number).unwrap_or(0);
        for digit in out[at..at + width].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Days since 1970-01-01 as a date of the proleptic Gregorian calendar.
// Written out because it stands on the path of every record, and needs nothing that a calendar library knows.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_calendar_library_over_300_years() {
        for day in (-20_000..100_000).step_by(17) {
            let nanos = day * 86_400_000_000_000 + 45_296_123_456_789;
            let theirs = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            assert_eq!(rfc3339(nanos), format!("{theirs:.9}"));
        }
    }
}
