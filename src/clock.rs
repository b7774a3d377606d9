//! Wall time, in one replaceable place. Durations use tokio's time, which tests pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the wall time comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `unix_nanos` until [`Clock::set`] moves it; for tests.
    pub fn fixed(unix_nanos: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(unix_nanos))))
    }

    /// Moves a fixed clock, forward or back; the machine's clock is left alone.
    pub fn set(&self, unix_nanos: i64) {
        if let Some(time) = &self.0 {
            time.store(unix_nanos, Ordering::Relaxed);
        }
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z; 0 before it.
    pub fn unix_nanos(&self) -> i64 {
        match &self.0 {
            Some(time) => time.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0),
        }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(&self) -> i64 {
        self.unix_nanos() / 1_000_000_000
    }
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
