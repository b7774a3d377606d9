//! Numbers that cannot be compared with a schema's: integers of 64 bits are compared by their digits, all others as doubles, and each goes
//! on with all of its digits.
//!
//! INVARIANT: what a double prints as, in its shortest form, is never refused; nor is an integer, unless it has more than 64 bits and what
//! the schema compares it with could not be told from it.
//! INVARIANT: a schema whose own numbers are not compared as what they say does not compile.

use crate::error::Detail;
use crate::mcp::decimal::Decimal;
use crate::mcp::json::{Node, Value};

/// So many significant digits every double holds, as long as it is neither huge nor tiny.
const SAFE_DIGITS: usize = 15;

/// The least integer of 64 bits, `i64::MIN`.
const LEAST: f64 = -9_223_372_036_854_775_808.0;

/// What a schema compares integers of more than 64 bits with.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Something that a double nearby could change in any case.
    closely: bool,
    /// Its own numbers of that size. Between one of them and what it is compared with there is no other double, so that the order of the two is
    /// that of their doubles unless these are equal.
    with: Vec<f64>,
}

impl Compared {
    /// Looks through a schema.
    pub(super) fn by(schema: &Node<'_>) -> Self {
        let mut found = Self::default();
        found.look(schema);
        found
    }

    fn look(&mut self, node: &Node<'_>) {
        match &node.value {
            Value::Number(digits) => self.with.extend(digits.parse::<f64>().ok().filter(|double| double.abs() >= -LEAST)),
            Value::Array(items) => items.iter().for_each(|item| self.look(item)),
            Value::Object(members) => members.iter().for_each(|member| {
                // Two that are equal as doubles would be taken for the same, and a multiple is one or is not with every digit.
                self.closely |= matches!(&*member.key, "multipleOf" | "divisibleBy" | "uniqueItems");
                self.look(&member.node);
            }),
            _ => {}
        }
    }

    /// Whether an integer that no double says could be taken for what the schema compares it with.
    fn confuses(&self, text: &str) -> bool {
        self.closely || text.parse::<f64>().is_ok_and(|double| self.with.contains(&double))
    }
}

/// The first number of the value that cannot be compared as what it is, by a schema that compares these.
pub(super) fn inexact(node: &Node<'_>, compared: &Compared) -> Option<Detail> {
    let is_sound = |text: &str| is_exact(text) && (is_comparable(text) || !compared.confuses(text));
    first(node, &is_sound).map(|pointer| Detail {
        pointer,
        keyword: "type".to_owned(),
        expected: "an integer, or a number that a double holds".to_owned(),
        got: "a number with more digits than can be compared exactly".to_owned(),
    })
}

/// Where a schema has a number that would be compared as another one, wherever that is: what is a constant and what is a mere default
/// depends on the dialect, and such a number is a mistake anywhere.
pub(super) fn incomparable(schema: &Node<'_>) -> Option<String> {
    first(schema, &is_comparable)
}

/// The place of the first number that is not sound, as a JSON Pointer.
fn first(node: &Node<'_>, is_sound: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut place = Vec::new();
    let pointer = |place: &[String]| place.iter().rev().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect();
    find(node, is_sound, &mut place).then(|| pointer(&place))
}

/// Whether there is one; `place` is then where, the innermost part first.
fn find(node: &Node<'_>, is_sound: &dyn Fn(&str) -> bool, place: &mut Vec<String>) -> bool {
    match &node.value {
        Value::Number(digits) => !is_sound(digits),
        Value::Array(items) => match items.iter().position(|item| find(item, is_sound, place)) {
            Some(at) => {
                place.push(at.to_string());
                true
            }
            None => false,
        },
        Value::Object(members) => match members.iter().find(|member| find(&member.node, is_sound, place)) {
            Some(member) => {
                place.push(member.key.to_string());
                true
            }
            None => false,
        },
        _ => false,
    }
}

/// Whether it is an integer, or a double says the same.
fn is_exact(text: &str) -> bool {
    let has_exponent = text.contains(['e', 'E']);
    // One byte is the point.
    if !has_exponent && (text.len() <= SAFE_DIGITS + 1 || !text.contains('.')) {
        return true;
    }
    is_shortest(text)
}

/// Whether it is an integer of 64 bits, or a double says the same.
fn is_comparable(text: &str) -> bool {
    if text.contains(['.', 'e', 'E']) {
        return is_exact(text);
    }
    let is_double = || {
        let Ok(double) = text.parse::<f64>() else { return false };
        // The least integer of 64 bits is a double too, and would be equal to what rounds to it.
        format!("{double:.0}") == text || (double != LEAST && is_shortest(text))
    };
    text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() || is_double()
}

/// Whether its digits are those of the shortest form of a double.
fn is_shortest(text: &str) -> bool {
    let Some(written) = Decimal::of(text) else { return false };
    let Ok(double) = text.parse::<f64>() else { return false };
    if Decimal::of(&format!("{double:e}")).is_some_and(|shortest| shortest == written) {
        return true;
    }
    // Where two shortest forms are equally near, printers differ: ours takes one, JavaScript and Python the even one.
    serde_json::to_string(&double).is_ok_and(|even| Decimal::of(&even) == Some(written))
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

    #[test]
    fn an_integer_of_more_than_64_bits_is_comparable_only_as_the_double_that_it_is() {
        for text in [
            "0",
            "-9223372036854775808",
            "18446744073709551615",
            "9007199254740993",
            "18446744073709551616",
            "18446744073709552000",
            "100000000000000000000",
            "1e21",
            "1.5",
        ] {
            assert!(is_comparable(text), "{text}");
        }
        for text in [
            "100000000000000000001",
            "-9223372036854775809",
            "-9223372036854776000",
            "123456789012345678901234567890",
            "1e400",
            "1.00000000000000001",
        ] {
            assert!(!is_comparable(text), "{text}");
        }
    }
}
