//! What every line of a log is, whoever wrote it: canonical JSON by a canonicaliser of our own, and valid by the published schema.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// The published schema, without the leave to add fields: a field that it does not have was forgotten in it.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let mut schema = doorward::audit::schema::line();
    schema["additionalProperties"] = json!(false);
    jsonschema::draft202012::new(&schema).unwrap()
});

/// Fails unless the line, given without its line feed, is what every record is. Returns it read.
pub fn sound(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let faults: Vec<_> = SCHEMA.iter_errors(&value).map(|fault| format!("{fault} at `{}`", fault.instance_path())).collect();
    assert!(faults.is_empty(), "the schema refuses a record: {faults:#?}\n{line}");
    let mut body = value.as_object().unwrap().clone();
    let chain = body.remove("chain").unwrap();
    let mut canonical = String::new();
    object(&body, &mut canonical);
    assert_eq!(canonical.pop(), Some('}'));
    canonical.push_str(&format!(",\"chain\":{chain}}}"));
    assert_eq!(canonical, line, "the line is not canonical");
    value
}

/// RFC 8785, section 3.2, for what a record may hold; written from its text and with none of Doorward's code.
pub fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => object(members, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                canonical(item, out);
            }
            out.push(']');
        }
        Value::String(text) => string(text, out),
        // 3.2.2.3: a record holds whole numbers that a double is exact for; all others are strings.
        Value::Number(number) => out.push_str(&number.as_u64().filter(|number| *number < 1 << 53).unwrap().to_string()),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Null => out.push_str("null"),
    }
}

/// 3.2.3: by UTF-16 code units.
fn object(members: &Map<String, Value>, out: &mut String) {
    let mut names: Vec<_> = members.keys().map(|name| (name.encode_utf16().collect::<Vec<_>>(), name)).collect();
    names.sort();
    out.push('{');
    for (at, (_, name)) in names.into_iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        string(name, out);
        out.push(':');
        canonical(&members[name], out);
    }
    out.push('}');
}

/// 3.2.2.2.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
}
