//! The JSON Schema of a line: what `doorward schema audit` prints.
//!
//! Owns: the form of a whole line. Leaves to `record` the fields with their words, from which most of this is derived, so that no
//! field is written that the schema does not have.
//!
//! The schema has the version of the records, `v`. Within a version fields may be added, so a reader ignores what it does not know; nothing is
//! ever renamed, taken away or given another meaning without another `v`.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::record::{Record, VERSION};

/// The pattern of a keyed hash: the id of its key, then 128 bits.
pub(super) const HASH: &str = "^hmac:[0-9a-z]+:[0-9a-f]{32}$";
/// The words of `tier`.
pub(super) const TIERS: [&str; 3] = ["read", "reversible", "irreversible"];

/// The schema of a record's line, of JSON Schema 2020-12.
pub fn line() -> Value {
    let derived = schemars::schema_for!(Record<'static>).to_value();
    let mut properties: Map<String, Value> = derived.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    properties.values_mut().for_each(always_there);
    for (name, form) in place() {
        properties.insert(name.to_owned(), form);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of Doorward's audit log",
        "description": "One line of a segment. It is canonical JSON (RFC 8785), but that `chain` comes last; a field that is absent is left out. \
            Integers from 2^53 up are strings of digits. Readers ignore fields that they do not know.",
        "type": "object",
        "properties": properties,
        "required": ["chain", "kind", "mono_us", "origin", "seq", "time", "v"],
        "allOf": said_by().map(|(kind, fields)| json!({
            "if": { "properties": { "kind": { "const": kind } }, "required": ["kind"] },
            "then": { "required": fields },
        })).collect::<Vec<_>>(),
        "$defs": derived.get("$defs"),
    })
}

/// A whole number, in the form that it has in a record.
pub(super) fn number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "integer", "minimum": 0, "maximum": (1_u64 << 53) - 1 },
        { "type": "string", "pattern": "^[0-9]{16,20}$" },
    ] })
}

/// Any JSON.
pub(super) fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "array", "string"] })
}

/// Conditions by name, and what each came to.
pub(super) fn truths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "enum": ["true", "false", "error"] } })
}

/// What the log itself adds to a record.
fn place() -> [(&'static str, Value); 7] {
    let number = |words: &str| json!({ "type": "integer", "minimum": 0, "description": words });
    let text = |pattern: &str, words: &str| json!({ "type": "string", "pattern": pattern, "description": words });
    [
        ("boot_id", text("^[0-9a-f-]{36}$", "In a lifecycle record: which start of the machine `mono_us` counts from.")),
        (
            "chain",
            text(
                "^[0-9a-f]{64}$",
                "What ties the line to all lines before it: SHA-256(0x02, the chain before, SHA-256(0x00, the line without this field)).",
            ),
        ),
        ("mono_us", number("When the record was made, in microseconds since the machine started: it only grows until the next `boot_id`.")),
        ("origin", text("^[^\\u0000-\\u001f]+$", "Whose log it is: `main` is the server's.")),
        ("seq", number("Its place in that log, from 1.")),
        ("time", text("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z$", "When it was made, by the wall clock.")),
        ("v", json!({ "const": VERSION, "description": "The version of this form." })),
    ]
}

/// What a record of a kind never lacks.
fn said_by() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    const SAID: &[(&str, &[&str])] = &[
        (
            "intent",
            &[
                "agent",
                "args",
                "args_bytes",
                "args_hash",
                "call_id",
                "credential_id",
                "decision",
                "method",
                "policy_version",
                "principal",
                "rule_ids",
                "target",
                "tier",
                "transport",
                "upstream",
            ],
        ),
        ("outcome", &["agent", "call_id", "effect", "intent_seq", "outcome", "target"]),
        ("refusal", &["agent", "call_id", "code", "decision", "duration_us", "effect", "method", "principal", "transport"]),
        ("round", &["action", "call_id", "intent_seq"]),
        (
            "replay",
            &[
                "agent",
                "args_hash",
                "call_id",
                "decision",
                "effect",
                "outcome",
                "policy_version",
                "principal",
                "replay_of",
                "target",
                "tier",
            ],
        ),
        ("coalesced", &["count", "window_us"]),
        ("lifecycle", &["action"]),
        ("recovery", &["action"]),
        ("config_change", &["action"]),
        ("catalog_change", &["action"]),
        ("policy_change", &["action", "actor"]),
        ("person", &["action", "actor"]),
        ("watch", &["action", "call_id"]),
    ];
    SAID.iter().copied()
}

/// What may be absent is left out, and never null.
fn always_there(form: &mut Value) {
    let Some(form) = form.as_object_mut() else { return };
    form.remove("default");
    if let Some(types) = form.get_mut("type") {
        let word = types.as_array().and_then(|words| words.iter().find(|word| *word != "null")).cloned();
        *types = word.unwrap_or_else(|| types.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Kind;

    /// The members of the longest line that there can be.
    fn written() -> Vec<String> {
        let line = crate::audit::record::tests::full_line();
        let value: Value = serde_json::from_str(&line).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn it_has_every_field_that_is_written_and_no_other_each_with_its_meaning() {
        let schema = line();
        let known = schema["properties"].as_object().unwrap();
        let mut written = written();
        written.extend(["boot_id".to_owned(), "chain".to_owned()]);
        written.sort();
        let names: Vec<_> = known.keys().cloned().collect();
        assert_eq!(names, written);
        let silent: Vec<_> = known.iter().filter(|(_, form)| form["description"].as_str().is_none_or(str::is_empty)).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn it_is_a_sound_schema_and_has_every_kind() {
        let schema = line();
        jsonschema::meta::validate(&schema).unwrap();
        let words: Vec<_> = schema["$defs"]["Kind"]["oneOf"].as_array().unwrap().iter().map(|kind| kind["const"].clone()).collect();
        assert_eq!(words, Kind::ALL.iter().map(|kind| json!(kind.as_str())).collect::<Vec<_>>());
        let kinds = said_by().map(|(kind, _)| kind);
        assert!(kinds.into_iter().all(|kind| Kind::from_word(kind).is_some()));
    }
}
