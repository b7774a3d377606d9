//! `conditions.yaml` as it is written: plain data. What goes together is checked in `file`, with better words than a parser has.
//!
//! INVARIANT: a number keeps the digits that stand in the file.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use serde_saphyr::Spanned;

use crate::catalog::Label;
use crate::mcp::decimal::Decimal;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub conditions: Named,
}

/// The conditions by name, in file order.
#[derive(Debug, Default)]
pub(super) struct Named(pub Vec<(String, Spanned<Written>)>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Named;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("conditions by name")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Named(members))
            }
            fn visit_unit<E>(self) -> Result<Named, E> {
                Ok(Named::default())
            }
        }
        input.deserialize_any(Members)
    }
}

/// One condition, or one part of one, as written. Which fields go together is checked afterwards, with better words than a parser has.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub all: Option<Vec<Spanned<Written>>>,
    pub any: Option<Vec<Spanned<Written>>>,
    pub not: Option<Box<Spanned<Written>>>,
    pub argument: Option<Spanned<String>>,
    pub principal: Option<Spanned<String>>,
    pub elements: Option<Elements>,
    pub missing: Option<bool>,
    pub ignore_case: Option<bool>,
    #[serde(deserialize_with = "there")]
    pub eq: Option<Spanned<Raw>>,
    pub r#in: Option<Vec<Spanned<Raw>>>,
    pub prefix: Option<Words>,
    pub glob: Option<Words>,
    pub regex: Option<Spanned<String>>,
    pub range: Option<Bounds>,
    pub max_len: Option<u32>,
    pub path_within: Option<Words>,
    pub relative_to: Option<Spanned<String>>,
    pub url_host_in: Option<Words>,
    pub schemes: Option<Vec<String>>,
    pub ports: Option<Vec<u16>>,
    pub cidr: Option<Words>,
    pub names: Option<bool>,
    pub sql: Option<WrittenSql>,
    pub time_window: Option<WrittenWindow>,
    pub role: Option<Spanned<String>>,
    pub scope: Option<Spanned<String>>,
    pub label: Option<Label>,
    pub count_below: Option<WrittenCount>,
}

/// Which elements of an array must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Elements {
    All,
    Any,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bounds {
    pub min: Option<Spanned<Raw>>,
    pub max: Option<Spanned<Raw>>,
    pub above: Option<Spanned<Raw>>,
    pub below: Option<Spanned<Raw>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenSql {
    pub database: Spanned<String>,
    pub kinds: Vec<Spanned<String>>,
    pub tables: Option<Vec<String>>,
    #[serde(default)]
    pub functions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWindow {
    #[serde(default)]
    pub days: Vec<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub zone: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenCount {
    pub calls: u64,
    pub of: Spanned<String>,
    pub within_s: u64,
}

/// A value that stands there, `null` too.
fn there<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Spanned<Raw>>, D::Error> {
    Spanned::deserialize(input).map(Some)
}

/// One text, or a list of them.
#[derive(Debug, Serialize)]
pub(super) struct Words(pub Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Words;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a text or a list of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                Ok(Words(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element::<String>()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        input.deserialize_any(OneOrMany)
    }
}

/// What kind of scalar stands there. The digits of a number are read from the text itself: a YAML reader has made a double of them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Raw {
    Null,
    Bool(bool),
    /// The digits, once they are settled.
    Number(String),
    Text(String),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Raw;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a text, a number, true, false or null")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_bool<E>(self, truth: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(truth))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
                Ok(Raw::Number(String::new()))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
                Ok(Raw::Number(String::new()))
            }
            fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
                Ok(Raw::Number(String::new()))
            }
            fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
                Ok(Raw::Number(String::new()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
                Ok(Raw::Number(String::new()))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Raw, E> {
                if text.len() > 64 << 10 { Err(E::custom("the text is too long")) } else { Ok(Raw::Text(text.to_owned())) }
            }
        }
        input.deserialize_any(AnyScalar)
    }
}

impl Written {
    /// Takes the digits of every number from the text.
    ///
    /// # Errors
    /// The line and column of a value that is not written as JSON would have it, and what is wrong with it.
    pub fn settle(&mut self, text: &str) -> Result<(), (u64, u64, &'static str)> {
        for part in self.all.iter_mut().chain(&mut self.any).flatten().chain(self.not.as_deref_mut()) {
            part.value.settle(text)?;
        }
        let range = self.range.iter_mut().flat_map(|range| [&mut range.min, &mut range.max, &mut range.above, &mut range.below]);
        let single = std::iter::once(&mut self.eq).chain(range).flatten();
        for raw in single.chain(self.r#in.iter_mut().flatten()) {
            let at = (raw.referenced.line(), raw.referenced.column());
            let span = raw.referenced.span();
            let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(from, length)| {
                let from = usize::try_from(from).ok()?;
                text.get(from..from.checked_add(usize::try_from(length).ok()?)?)
            });
            let written = bytes.unwrap_or_default().trim();
            match &mut raw.value {
                Raw::Number(digits) if Decimal::of(written).is_some() => written.clone_into(digits),
                Raw::Number(_) => {
                    return Err((at.0, at.1, "write the number as in JSON, with its digits in place; or quote it, if it is a text"));
                }
                Raw::Bool(_) if !matches!(written, "true" | "false") => {
                    return Err((at.0, at.1, "write `true` or `false`; or quote it, if it is a text"));
                }
                Raw::Null if !matches!(written, "null") => return Err((at.0, at.1, "write `null`; or quote it, if it is a text")),
                _ => {}
            }
        }
        Ok(())
    }

    /// What it says, in one form: canonical JSON without what is left out.
    pub fn canonical(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        strip(&mut value);
        value.to_string()
    }
}

/// What a condition says, once more as it can stand in the file: its canonical text has values by their kind, which nobody writes.
pub fn spelled(canonical: &str) -> Option<String> {
    spell(&serde_json::from_str(canonical).ok()?)
}

fn spell(condition: &serde_json::Value) -> Option<String> {
    let list = |items: &serde_json::Value, spell: fn(&serde_json::Value) -> Option<String>| {
        let items = items.as_array()?.iter().map(spell).collect::<Option<Vec<_>>>()?;
        Some(format!("[{}]", items.join(", ")))
    };
    let members = condition.as_object()?.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "all" | "any" => list(value, spell)?,
            "not" => spell(value)?,
            "eq" => spell_value(value)?,
            "in" => list(value, spell_value)?,
            "range" => {
                let bounds = value.as_object()?.iter().map(|(name, bound)| Some(format!("{name}: {}", spell_value(bound)?)));
                format!("{{ {} }}", bounds.collect::<Option<Vec<_>>>()?.join(", "))
            }
            // JSON is YAML.
            _ => value.to_string(),
        };
        Some(format!("{name}: {value}"))
    });
    Some(format!("{{ {} }}", members.collect::<Option<Vec<_>>>()?.join(", ")))
}

fn spell_value(raw: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match raw {
        Value::String(null) if null == "null" => Some(null.clone()),
        Value::Object(kind) => match kind.iter().next()? {
            (kind, Value::String(digits)) if kind == "number" => Some(digits.clone()),
            (_, value) => Some(value.to_string()),
        },
        _ => None,
    }
}

fn strip(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
