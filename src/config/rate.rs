//! A rate as operators' files have it: so many in a second, a minute or an hour.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;

/// The most that a rate's number may be.
pub const MAX_COUNT: u32 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
}

/// So many in a second, a minute or an hour: `N/s`, `N/min` or `N/h`, N from 1 to 1000000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    count: u32,
    unit: Unit,
}

impl Rate {
    /// So many in a second.
    pub const fn per_second(count: u32) -> Self {
        Self { count, unit: Unit::Second }
    }

    /// The rate of a text; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let unit = match unit {
            "s" => Unit::Second,
            "min" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return None,
        };
        let plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| plain && (1..=MAX_COUNT).contains(count))?;
        Some(Self { count, unit })
    }

    /// The time in which one more may come.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.seconds().into()) / self.count
    }

    /// What the rate gives in a second, at least 1.
    pub fn burst(self) -> NonZeroU32 {
        NonZeroU32::new(self.count / self.seconds()).unwrap_or(NonZeroU32::MIN)
    }

    /// The number before the slash.
    pub fn count(self) -> u32 {
        self.count
    }

    fn seconds(self) -> u32 {
        match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "min",
            Unit::Hour => "h",
        };
        write!(out, "{}/{unit}", self.count)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("`{}` is not a rate: write N/s, N/min or N/h with N from 1 to {MAX_COUNT}", text.escape_default()))
        })
    }
}
