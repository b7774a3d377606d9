//! Times in words of `limits.yaml`: `30s`, `10min`, `24h`, `7d`.

use std::fmt;

use serde::Deserialize;
use serde::de::Error as _;

/// Longest time of the file, in seconds.
const LONGEST_S: u64 = 366 * 86_400;

/// A time of at least a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Span(u64);

impl Span {
    /// So many seconds.
    #[cfg(test)]
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// In milliseconds.
    pub fn ms(self) -> u64 {
        self.0 * 1_000
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
        let unit = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        let seconds = count.parse::<u64>().ok()?.checked_mul(unit)?;
        (1..=LONGEST_S).contains(&seconds).then_some(Self(seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
        let (unit, word) = units.into_iter().find(|(unit, _)| self.0.is_multiple_of(*unit)).unwrap_or((1, "s"));
        write!(out, "{}{word}", self.0 / unit)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{}` is not a time: write {FORMS}", text.escape_default())))
    }
}

const FORMS: &str = "`30s`, `10min`, `24h` or `7d`, up to `366d`";

/// How long a budget counts what was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Window {
    /// So long.
    Last(Span),
    /// For good.
    Ever,
}

impl fmt::Display for Window {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(span) => span.fmt(out),
            Self::Ever => out.write_str("ever"),
        }
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let window = if text == "ever" { Some(Self::Ever) } else { Span::parse(&text).filter(|span| span.0 >= 60).map(Self::Last) };
        window.ok_or_else(|| {
            D::Error::custom(format!(
                "`{}` is not a window: write `10min`, `24h`, `30d` or the like from `60s` on, or `ever`",
                text.escape_default()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_whole_number_and_a_unit() {
        let shown = |text: &str| Span::parse(text).map(|span| (span.ms(), span.to_string()));
        assert_eq!(shown("90s"), Some((90_000, "90s".to_owned())));
        assert_eq!(shown("120min"), Some((7_200_000, "2h".to_owned())));
        assert_eq!(shown("366d"), Some((366 * 86_400_000, "366d".to_owned())));
        for wrong in ["", "s", "5", "0s", "367d", "5m", "-5s", "+5s", "5 s", "99999999999999999999s", "18446744073709551615d", "é5s"] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
    }
}
