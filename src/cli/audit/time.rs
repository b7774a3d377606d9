//! The forms of time in questions.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::Error;

/// A time in nanoseconds since 1970, from RFC 3339, from a date in `zone` (its first moment) or from how long before `now`.
pub(in crate::cli) fn time(text: &str, now: Timestamp, zone: &TimeZone) -> Result<i64, Error> {
    let wrong = || Error::Time(text.to_owned());
    let ago = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count: i64 = digits.parse().ok().filter(|count| (0..=1_000_000).contains(count))?;
        let span = match unit {
            "s" => count.seconds(),
            "m" => count.minutes(),
            "h" => count.hours(),
            "d" => (count * 24).hours(),
            _ => return None,
        };
        now.checked_sub(span).ok()
    };
    // The length keeps out a date with a time and no zone, of which only the date would be read.
    let day = || text.parse::<Date>().ok().filter(|_| text.len() == "2026-11-21".len())?.to_zoned(zone.clone()).ok();
    let at = text.parse::<Timestamp>().ok().or_else(ago).or_else(|| Some(day()?.timestamp())).ok_or_else(wrong)?;
    i64::try_from(at.as_nanosecond()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_dates_or_how_long_ago() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let shown = |text: &str| time(text, now, &TimeZone::fixed(jiff::tz::offset(1))).map(crate::clock::rfc3339).ok();
        assert_eq!(shown("2026-11-21T09:00:00+01:00").as_deref(), Some("2026-11-21T08:00:00.000000000Z"));
        assert_eq!(shown("15m").as_deref(), Some("2026-11-21T09:45:00.000000000Z"));
        assert_eq!(shown("2d").as_deref(), Some("2026-11-19T10:00:00.000000000Z"));
        assert_eq!(shown("2026-11-20").as_deref(), Some("2026-11-19T23:00:00.000000000Z"));
        for wrong in ["2026-11-20T10:00", "2026-13-01", "", "m", "-1h", "1 h", "yesterday", "1é", "99999999999999999999d"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
