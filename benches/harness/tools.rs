//! The tools that the upstream serves: three that are called, and as many realistic others as asked for.
//!
//! Fifty-two of them make a list of about 59 KB, which is what a handful of real servers add up to.

use serde_json::{Value, json};

/// Answers with its text.
pub const ECHO: &str = "echo";
/// Answers with its text padded to 16 KiB.
pub const ECHO_LARGE: &str = "echo_large";
/// Answers with its text in an event stream.
pub const ECHO_STREAM: &str = "echo_stream";
/// How many tools a usual run serves.
pub const USUAL: usize = 52;

/// The name of the tool at `index`.
pub fn name(index: usize) -> String {
    match index {
        0 => ECHO.into(),
        1 => ECHO_LARGE.into(),
        2 => ECHO_STREAM.into(),
        _ => {
            let (verb, noun) = (VERBS[index % VERBS.len()], NOUNS[index / VERBS.len() % NOUNS.len()]);
            let lap = index / (VERBS.len() * NOUNS.len());
            if lap == 0 { format!("{verb}_{noun}") } else { format!("{verb}_{noun}_{lap}") }
        }
    }
}

/// The definition of the tool at `index`, as `tools/list` gives it.
pub fn definition(index: usize) -> Value {
    let name = name(index);
    if index < 3 {
        return echo(&name);
    }
    let noun = NOUNS[index / VERBS.len() % NOUNS.len()];
    json!({
        "name": name,
        "title": name.replace('_', " "),
        "description": format!("Works on the {noun} records of the workspace that match the given filter. Results are sorted by the \
            time of their last change, newest first, and never include records that the caller's team cannot see. Ask again with a narrower \
            filter where the answer says that there are more."),
        "inputSchema": filter(noun),
        "annotations": { "readOnlyHint": true, "openWorldHint": false }
    })
}

fn echo(name: &str) -> Value {
    json!({
        "name": name,
        "description": "Answers with the text it was given.",
        "inputSchema": {
            "type": "object",
            "properties": { "text": { "type": "string", "minLength": 1, "maxLength": 4096, "description": "What to answer." } },
            "required": ["text"],
            "additionalProperties": false
        },
        "annotations": { "readOnlyHint": true, "idempotentHint": true }
    })
}

fn filter(noun: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            "workspace": { "type": "string", "pattern": "^[a-z0-9-]{1,40}$", "description": "The workspace, by its short name." },
            format!("{noun}_id"): { "type": "string", "format": "uuid", "description": format!("One {noun}, where only one is meant.") },
            "state": { "type": "string", "enum": ["open", "waiting", "closed", "archived"], "default": "open" },
            "labels": { "type": "array", "items": { "type": "string", "maxLength": 50 }, "maxItems": 20, "uniqueItems": true },
            "changed": {
                "type": "object",
                "properties": { "after": { "type": "string", "format": "date-time" }, "before": { "type": "string", "format": "date-time" } },
                "additionalProperties": false
            },
            "limit": { "type": "integer", "minimum": 1, "maximum": 200, "default": 50, "description": "How many records at most." }
        },
        "required": ["workspace"],
        "additionalProperties": false
    })
}

const VERBS: [&str; 8] = ["list", "search", "describe", "count", "compare", "export", "summarize", "trace"];
const NOUNS: [&str; 12] = [
    "ticket",
    "customer",
    "invoice",
    "deployment",
    "incident",
    "repository",
    "document",
    "calendar_event",
    "contract",
    "shipment",
    "experiment",
    "alert",
];
