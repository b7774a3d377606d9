//! Times of the week in a time zone.

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

use super::{Truth, Unclear};
use crate::clock::Clock;

/// Days of the week and a time of day, from its first minute to before its last.
#[derive(Debug)]
pub(super) struct Window {
    /// The days on which it begins; every day where there are none.
    days: Vec<Weekday>,
    from: Time,
    /// Not within any more. Before `from` it is on the day after.
    to: Time,
    zone: TimeZone,
}

impl Window {
    /// The window of a file. `to` may be `24:00`; both left out is the whole day.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(days: &[String], from: Option<&str>, to: Option<&str>, zone: Option<&str>) -> Result<Self, String> {
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) => (time(from)?, time(if to == "24:00" { "00:00" } else { to })?),
            (None, None) => (Time::midnight(), Time::midnight()),
            _ => return Err("a window has both `from` and `to`, or neither".to_owned()),
        };
        let given = days.iter().map(|day| weekday(day)).collect::<Result<Vec<_>, _>>()?;
        if from == to && from != Time::midnight() {
            return Err(format!("from {from} to {to} is no time at all"));
        }
        let zone = zone.unwrap_or("UTC");
        let known = TimeZone::get(zone);
        let zone = known
            .map_err(|_| format!("there is no time zone `{}` on this machine: write one such as `Europe/Berlin`", zone.escape_default()))?;
        Ok(Self { days: given, from, to, zone })
    }

    /// Whether it is now.
    pub fn contains(&self, clock: &Clock) -> Truth {
        let now = Timestamp::from_nanosecond(i128::from(clock.unix_nanos())).map_err(|_| Unclear("the clock cannot be read"))?;
        let local = self.zone.to_datetime(now);
        let (time, today) = (local.time(), local.date().weekday());
        let on = |day: Weekday| self.days.is_empty() || self.days.contains(&day);
        Ok(if self.from < self.to {
            self.from <= time && time < self.to && on(today)
        } else {
            // Over midnight: its second part belongs to the day on which it began.
            self.from <= time && on(today) || time < self.to && on(today.previous())
        })
    }
}

fn time(text: &str) -> Result<Time, String> {
    let digits = text.bytes().enumerate().all(|(at, byte)| if at == 2 { byte == b':' } else { byte.is_ascii_digit() });
    let told = || format!("`{}` is not a time of day: write `08:00` in quotes", text.escape_default());
    if text.len() != 5 || !digits {
        return Err(told());
    }
    text.parse::<Time>().map_err(|_| told())
}

fn weekday(text: &str) -> Result<Weekday, String> {
    const DAYS: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    let found = DAYS.iter().find(|(name, _)| *name == text).map(|(_, day)| *day);
    found.ok_or_else(|| format!("`{}` is not a day: write `mon`, `tue`, `wed`, `thu`, `fri`, `sat` or `sun`", text.escape_default()))
}
