//! Numbers by their digits, however many: compared exactly, never as doubles.

use std::cmp::Ordering;

/// The value of a number in one way only: its digits without zeros at either end, and the place of the first. Zero has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: String,
    first: i64,
}

impl Decimal {
    /// The number of a JSON text; `None` for what is no JSON number, and where the exponent is beyond all reason.
    pub fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let negative = mantissa.starts_with('-');
        let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let signless = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !plain(whole) || !plain(fraction) || !plain(signless) || whole.len() > 1 && whole.starts_with('0') {
            return None;
        }
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let zeros = all.len() - digits.len();
        let digits = digits.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { negative: false, digits, first: 0 });
        }
        let first = exponent.parse::<i64>().ok()?.checked_add(i64::try_from(whole.len()).ok()?)?.checked_sub(i64::try_from(zeros).ok()?)?;
        Some(Self { negative, digits, first })
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Without zeros at the end, one text that begins the other is the smaller.
            (false, false) => self.first.cmp(&other.first).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_order_whatever_their_spelling() {
        let rising = [
            "-1e400",
            "-100.1",
            "-100",
            "-0.01",
            "-1e-5000",
            "0",
            "1e-5000",
            "0.0999999999999999999999999999",
            "1e-1",
            "1",
            "1.0000000000000000000000000001",
            "2",
            "9",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e400",
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                assert_eq!(Decimal::of(one).unwrap().cmp(&Decimal::of(other).unwrap()), at.cmp(&other_at), "{one} {other}");
            }
        }
        for (one, same) in [("1", "1.0"), ("100", "1e2"), ("-0", "0.000"), ("0e99", "0"), ("12.50", "1.25E+1"), ("-5", "-50e-1")] {
            assert_eq!(Decimal::of(one), Decimal::of(same));
        }
        for no in ["", "-", "+1", "01", ".5", "5.", "1e", "0x1", "1_0", "1e99999999999999999999", "NaN", " 1"] {
            assert_eq!(Decimal::of(no), None, "{no}");
        }
    }
}
