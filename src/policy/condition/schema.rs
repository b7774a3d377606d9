//! The JSON Schema of `conditions.yaml`, for editors: what `doorward schema conditions` prints.

use serde_json::{Value, json};

/// The file's JSON Schema.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "conditions.yaml",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "conditions": {
                "type": "object",
                "description": "conditions by name; rows of policy.csv name one in their fifth column",
                "propertyNames": { "pattern": "^[a-z][a-z0-9_]{0,63}$" },
                "additionalProperties": { "$ref": "#/$defs/condition" },
            },
        },
        "$defs": { "condition": condition(), "scalar": { "type": ["string", "number", "boolean", "null"] }, "words": words() },
    })
}

fn words() -> Value {
    json!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 }] })
}

fn condition() -> Value {
    let list = json!({ "type": "array", "items": { "$ref": "#/$defs/condition" }, "minItems": 1 });
    let words = |description: &str| json!({ "$ref": "#/$defs/words", "description": description });
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "all": list,
            "any": list,
            "not": { "$ref": "#/$defs/condition" },
            "argument": text("a JSON Pointer into the arguments; a `*` stands for every element of an array"),
            "principal": { "enum": ["agent", "on_behalf_of"], "description": "what is known of who calls, in place of an argument" },
            "missing": { "type": "boolean", "description": "the answer where the argument is missing; without it there is none" },
            "elements": { "enum": ["all", "any"], "default": "all", "description": "which elements of an array must pass" },
            "ignore_case": { "type": "boolean", "default": false },
            "eq": { "$ref": "#/$defs/scalar" },
            "in": { "type": "array", "items": { "$ref": "#/$defs/scalar" }, "minItems": 1 },
            "prefix": words("it begins with one of these"),
            "glob": words("it is like one of these; `*` stops at `/`, and `**` does not"),
            "regex": text("the whole of it matches; a dot stands for a line break too"),
            "range": bounds(),
            "max_len": { "type": "integer", "minimum": 0, "description": "characters of a text, or elements of an array" },
            "path_within": words("absolute folders"),
            "relative_to": text("where a relative path begins; without it a relative path has no answer"),
            "url_host_in": words("hosts, or `*.NAME` for every host under a name"),
            "schemes": { "type": "array", "items": { "enum": ["https", "http", "wss", "ws", "ftp"] }, "default": ["http", "https"] },
            "ports": { "type": "array", "items": { "type": "integer", "minimum": 1, "maximum": 65535 }, "description": "none: any port" },
            "cidr": words("networks, of an address or of a URL's host"),
            "names": { "type": "boolean", "description": "the answer of `cidr` for a name; without it there is none" },
            "sql": sql(),
            "time_window": window(),
            "role": { "type": "string", "pattern": "^role:[a-z0-9-]{1,64}$", "description": "the principal has the role" },
            "scope": text("the principal's access token has the scope"),
            "label": { "type": "string", "pattern": "^(private|untrusted|outward|team:[a-z0-9-]{1,32})$", "description": "the agent has met the label" },
            "count_below": count(),
        },
    })
}

fn count() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["calls", "of", "within_s"],
        "description": "the agent has made fewer of these calls",
        "properties": {
            "calls": { "type": "integer", "minimum": 1, "maximum": 10_000 },
            "of": { "type": "string", "description": "the targets, as in policy.csv" },
            "within_s": { "type": "integer", "minimum": 1, "maximum": 86_400, "description": "of the last so many seconds" },
        },
    })
}

fn bounds() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "minProperties": 1,
        "properties": {
            "min": { "type": "number" }, "max": { "type": "number" },
            "above": { "type": "number", "description": "more than this" }, "below": { "type": "number", "description": "less than this" },
        },
    })
}

fn sql() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["database", "kinds"],
        "properties": {
            "database": { "enum": ["postgres", "mysql", "sqlite", "mssql", "ansi"], "description": "who reads it" },
            "kinds": { "type": "array", "items": { "enum": ["select", "insert", "update", "delete", "merge", "explain"] }, "minItems": 1 },
            "tables": { "type": "array", "items": { "type": "string" }, "description": "the only tables; without it, any" },
            "functions": { "type": "array", "items": { "type": "string" }, "description": "functions beside the harmless ones" },
        },
    })
}

fn window() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "days": { "type": "array", "items": { "enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] }, "description": "none: every day" },
            "from": { "type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$" },
            "to": { "type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$", "description": "not within any more; before `from` it is on the next day" },
            "zone": { "type": "string", "default": "UTC", "description": "a time zone such as Europe/Berlin" },
        },
    })
}
