//! A broken rule in words: what the schema expects, and what kind of value stands there.
//!
//! INVARIANT: words about the value tell its type and size, never the value; what comes from the schema is cut to a bound.

use jsonschema::JsonType;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value as Owned;

use crate::mcp::json::{Node, Value};

/// Characters of a schema's own words that are told.
const MAX_WORDS: usize = 200;
/// Unexpected members that are named, and characters of each name.
const NAMES: (usize, usize) = (3, 64);

/// What the rule expects.
pub(super) fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Type { kind: TypeKind::Single(of) } => a_type(*of).to_owned(),
        Kind::Type { kind: TypeKind::Multiple(of) } => of.iter().map(a_type).collect::<Vec<_>>().join(" or "),
        Kind::Required { property } => format!("a member {}", words(property)),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => "no members but those that the schema names".to_owned(),
        Kind::UnevaluatedItems { .. } => "no items but those that the schema describes".to_owned(),
        Kind::Enum { options } => format!("one of {}", words(options)),
        Kind::Constant { expected_value } => words(expected_value),
        Kind::Minimum { limit } => format!("a number of at least {}", words(limit)),
        Kind::ExclusiveMinimum { limit } => format!("a number above {}", words(limit)),
        Kind::Maximum { limit } => format!("a number of at most {}", words(limit)),
        Kind::ExclusiveMaximum { limit } => format!("a number below {}", words(limit)),
        Kind::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("a string of at least {}", many(*limit, "character")),
        Kind::MaxLength { limit } => format!("a string of at most {}", many(*limit, "character")),
        Kind::MinItems { limit } => format!("an array of at least {}", many(*limit, "item")),
        Kind::MaxItems { limit } => format!("an array of at most {}", many(*limit, "item")),
        Kind::AdditionalItems { limit } => format!("an array of at most {}", many(*limit as u64, "item")),
        Kind::MinProperties { limit } => format!("an object of at least {}", many(*limit, "member")),
        Kind::MaxProperties { limit } => format!("an object of at most {}", many(*limit, "member")),
        Kind::UniqueItems => "items that all differ".to_owned(),
        Kind::Pattern { pattern } => format!("a string that matches `{}`", cut(pattern, MAX_WORDS)),
        Kind::Format { format } => format!("a string of the format `{}`", cut(format, MAX_WORDS)),
        Kind::FalseSchema => "no value at all".to_owned(),
        Kind::AnyOf { .. } => "a value that one of the schemas in `anyOf` admits".to_owned(),
        Kind::OneOfNotValid { .. } | Kind::OneOfMultipleValid { .. } => {
            "a value that exactly one of the schemas in `oneOf` admits".to_owned()
        }
        // The rest says nothing more than its keyword.
        other => format!("what `{}` of the schema asks for", cut(other.keyword(), MAX_WORDS)),
    }
}

/// What stands there instead.
pub(super) fn got(kind: &Kind, value: Option<&Node<'_>>) -> String {
    match kind {
        Kind::Required { .. } => "no such member".to_owned(),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let names: Vec<_> = unexpected.iter().take(NAMES.0).map(|name| format!("`{}`", cut(name, NAMES.1))).collect();
            let more = unexpected.len().saturating_sub(NAMES.0);
            if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
        }
        Kind::OneOfMultipleValid { .. } => "a value that several of them admit".to_owned(),
        _ => value.map(class).unwrap_or_default(),
    }
}

fn a_type(of: JsonType) -> &'static str {
    match of {
        JsonType::Null => "null",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Number => "a number",
        JsonType::String => "a string",
        JsonType::Array => "an array",
        JsonType::Object => "an object",
    }
}

fn class(node: &Node<'_>) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(digits) if digits.contains(['.', 'e', 'E']) => "a number that is not written as an integer".to_owned(),
        Value::Number(_) => "an integer".to_owned(),
        Value::String(text) => format!("a string of {}", many(text.chars().count() as u64, "character")),
        Value::Array(items) => format!("an array of {}", many(items.len() as u64, "item")),
        Value::Object(members) => format!("an object of {}", many(members.len() as u64, "member")),
    }
}

fn many(count: u64, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// A value of the schema, as JSON.
fn words(value: &Owned) -> String {
    cut(&value.to_string(), MAX_WORDS)
}

fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
