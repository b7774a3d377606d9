//! The tests of one value: what it is compared with, and how.

use globset::GlobMatcher;
use regex::Regex;

use super::host::{Hosts, Nets};
use super::path::Roots;
use super::sql::Sql;
use super::{Truth, Unclear, all, any};
use crate::mcp::decimal::Decimal;
use crate::mcp::json::{Node, Value};

/// A value of a file: nothing, a truth, a number with its digits, a text.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Box<str>),
}

/// A test of one value.
#[derive(Debug)]
pub(super) enum Test {
    /// `eq` and `in`: it is one of these.
    OneOf(Box<[Scalar]>, Case),
    /// `prefix`: it begins with one of these.
    Prefix(Box<[Box<str>]>, Case),
    /// `glob`: it is like one of these; a star stops at `/`.
    Glob(Box<[GlobMatcher]>),
    /// `regex`: the whole of it is.
    Regex(Regex),
    /// `range`: it is a number within.
    Range(Range),
    /// `max_len`: a text of at most so many characters, or an array of so many elements.
    MaxLen(usize),
    PathWithin(Roots),
    UrlHostIn(Hosts),
    Cidr(Nets),
    Sql(Sql),
}

/// Whether capital letters are letters of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Counts,
    Ignored,
}

impl Case {
    pub fn fold(self, text: &str) -> String {
        match self {
            Self::Counts => text.to_owned(),
            Self::Ignored => text.to_lowercase(),
        }
    }

    fn same(self, one: &str, other: &str) -> bool {
        one == other || self == Self::Ignored && self.fold(one) == self.fold(other)
    }
}

/// Bounds of a number.
#[derive(Debug, Default)]
pub(super) struct Range {
    pub min: Option<Decimal>,
    pub max: Option<Decimal>,
    pub above: Option<Decimal>,
    pub below: Option<Decimal>,
}

impl Range {
    fn contains(&self, number: &Decimal) -> bool {
        self.min.as_ref().is_none_or(|min| number >= min)
            && self.max.as_ref().is_none_or(|max| number <= max)
            && self.above.as_ref().is_none_or(|above| number > above)
            && self.below.as_ref().is_none_or(|below| number < below)
    }
}

impl Scalar {
    /// Whether the value is this one. A value of another kind is neither it nor surely not it: a server may take `"5"` for 5.
    fn equals(&self, value: &Node<'_>, case: Case) -> Truth {
        match (self, &value.value) {
            (Self::Null, Value::Null) => Ok(true),
            (Self::Null, _) => Ok(false),
            (Self::Bool(one), Value::Bool(other)) => Ok(one == other),
            (Self::Number(one), Value::Number(_)) => Ok(*one == number(value)?),
            (Self::Text(one), Value::String(other)) => Ok(case.same(one, other)),
            _ => Err(Unclear("the argument is of another kind than what it is compared with")),
        }
    }
}

impl Test {
    /// What the test says of a value.
    pub fn passes(&self, value: &Node<'_>) -> Truth {
        match self {
            // Surely none of them only where it is surely none: `in: [5, a]` cannot tell of `"5"`.
            Self::OneOf(scalars, case) => any(scalars.iter().map(|scalar| scalar.equals(value, *case))),
            Self::Prefix(prefixes, case) => {
                let text = case.fold(text(value)?);
                Ok(prefixes.iter().any(|prefix| text.starts_with(&**prefix)))
            }
            Self::Glob(globs) => text(value).map(|text| globs.iter().any(|glob| glob.is_match(text))),
            Self::Regex(regex) => text(value).map(|text| regex.is_match(text)),
            Self::Range(range) => number(value).map(|number| range.contains(&number)),
            Self::MaxLen(most) => match &value.value {
                Value::String(text) => Ok(text.chars().count() <= *most),
                Value::Array(items) => Ok(items.len() <= *most),
                _ => Err(Unclear("the argument has no length")),
            },
            Self::PathWithin(roots) => roots.contain(text(value)?),
            Self::UrlHostIn(hosts) => hosts.contain(text(value)?),
            Self::Cidr(nets) => nets.contain(text(value)?),
            Self::Sql(sql) => sql.permits(text(value)?),
        }
    }
}

impl Test {
    /// Whether it compares what begins like a path as a text, in one of the many spellings that a path has.
    pub fn takes_path_for_text(&self) -> bool {
        match self {
            Self::Prefix(prefixes, _) => prefixes.iter().any(|prefix| prefix.starts_with('/')),
            Self::Glob(globs) => globs.iter().any(|glob| glob.glob().glob().starts_with('/')),
            // Behind what stands around every pattern, and what may stand in front of its first letter.
            Self::Regex(regex) => regex.as_str().trim_start_matches(r"\A").trim_start_matches(['(', '?', ':', '^', '\\']).starts_with('/'),
            _ => false,
        }
    }
}

fn text<'n>(value: &'n Node<'_>) -> Result<&'n str, Unclear> {
    value.as_str().ok_or(Unclear("the argument is no text"))
}

fn number(value: &Node<'_>) -> Result<Decimal, Unclear> {
    let Value::Number(digits) = value.value else { return Err(Unclear("the argument is no number")) };
    Decimal::of(digits).ok_or(Unclear("the argument is no number that can be compared"))
}

/// One answer of several readings of the same value: where they differ, nobody can say which of them the server takes.
pub(super) fn agreed(readings: impl Iterator<Item = Truth>) -> Truth {
    let readings: Vec<Truth> = readings.collect();
    match readings.first() {
        Some(Ok(false)) if readings.iter().all(|truth| *truth == Ok(false)) => Ok(false),
        Some(_) => match all(readings.into_iter()) {
            Ok(false) => Err(Unclear("the argument can be read in more than one way")),
            other => other,
        },
        None => Err(Unclear("the argument cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::{self, Limits};

    fn passes(test: &Test, text: &str) -> Truth {
        test.passes(&json::parse(text.as_bytes(), Limits::default()).unwrap())
    }

    #[test]
    fn none_of_several_kinds_is_said_only_where_each_can_be_told() {
        let mixed = [Scalar::Null, Scalar::Number(Decimal::of("5").unwrap()), Scalar::Text("prod".into())];
        let mixed = Test::OneOf(mixed.into(), Case::Counts);
        for text in ["5.0", "null", "\"prod\""] {
            assert_eq!(passes(&mixed, text), Ok(true), "{text}");
        }
        for text in ["6", "\"5\"", "\"x\"", "\"prod \"", "true", "[5]", "{}"] {
            assert!(passes(&mixed, text).is_err(), "{text}");
        }
        let texts = Test::OneOf([Scalar::Null, Scalar::Text("prod".into())].into(), Case::Counts);
        assert_eq!(passes(&texts, "\"dev\""), Ok(false));
    }
}
