//! Numbers that cannot be compared with a schema's: they are compared as doubles, and go on with all of their digits.
//!
//! INVARIANT: what a double prints as, in its shortest form, is never refused; nor is an integer, whose digits are compared.

use crate::error::Detail;
use crate::mcp::json::{Node, Value};

/// So many significant digits every double holds, as long as it is neither huge nor tiny.
const SAFE_DIGITS: usize = 15;

/// The first number of the value whose digits a double does not hold.
pub(super) fn inexact(node: &Node<'_>) -> Option<Detail> {
    let mut place = Vec::new();
    find(node, &mut place).then(|| Detail {
        pointer: place.iter().rev().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect(),
        keyword: "type".to_owned(),
        expected: "an integer, or a number that a double holds".to_owned(),
        got: "a number with more digits than can be compared exactly".to_owned(),
    })
}

/// Whether there is one; `place` is then where, the innermost part first.
fn find(node: &Node<'_>, place: &mut Vec<String>) -> bool {
    match &node.value {
        Value::Number(digits) => !is_exact(digits),
        Value::Array(items) => match items.iter().position(|item| find(item, place)) {
            Some(at) => {
                place.push(at.to_string());
                true
            }
            None => false,
        },
        Value::Object(members) => match members.iter().find(|member| find(&member.node, place)) {
            Some(member) => {
                place.push(member.key.to_string());
                true
            }
            None => false,
        },
        _ => false,
    }
}

fn is_exact(text: &str) -> bool {
    let has_exponent = text.contains(['e', 'E']);
    // One byte is the point.
    if !has_exponent && (text.len() <= SAFE_DIGITS + 1 || !text.contains('.')) {
        return true;
    }
    let Some(written) = Decimal::of(text) else { return false };
    let Ok(double) = text.parse::<f64>() else { return false };
    if Decimal::of(&format!("{double:e}")).is_some_and(|shortest| shortest == written) {
        return true;
    }
    // Where two shortest forms are equally near, printers differ: ours takes one, JavaScript and Python the even one.
    serde_json::to_string(&double).is_ok_and(|even| Decimal::of(&even) == Some(written))
}

/// The magnitude of a number in one way only: its digits without zeros at either end, and the place of the first. Zero has none.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    digits: String,
    first: i64,
}

impl Decimal {
    /// `None` where the exponent is beyond all reason.
    fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = whole.trim_start_matches('-');
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let zeros = all.len() - digits.len();
        let digits = digits.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { digits, first: 0 });
        }
        let first = exponent.parse::<i64>().ok()?.checked_add(i64::try_from(whole.len()).ok()?)?.checked_sub(i64::try_from(zeros).ok()?)?;
        Some(Self { digits, first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_exact_when_its_double_prints_the_same_digits() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "0e5",
            "0.000000000000000000000",
            "1.5",
            "-1.50e3",
            "100.00000000000000000000",
            "0.1",
            "1E+2",
            "5e-324",
            "1.7976931348623157e308",
            "2.2250738585072014e-308",
            "0.30000000000000004",
            "196365007996282.12",
            "196365007996282.13",
            "123456789012345678901234567890",
            "9007199254740993",
            "0e99999999999999999999",
            "1e21",
        ] {
            assert!(is_exact(text), "{text}");
        }
        for text in [
            "3.0000000000000000000001",
            "100.00000000000000000001",
            "1.00000000000000000000001",
            "9007199254740993.0",
            "1e-400",
            "-1e-324",
            "4e-324",
            "1e-99999999999999999999",
            "0.10000000000000001",
            "9007199254740993e0",
            "0.1000000000000000055511151231257827",
        ] {
            assert!(!is_exact(text), "{text}");
        }
    }
}
