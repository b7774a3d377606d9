//! Arguments as a person is shown them before saying yes: every value whole, and no letter that moves, hides or turns others.
//!
//! INVARIANT: two different arguments are never shown alike: what is escaped stands behind a backslash, and JSON writes one of its own twice.

use std::fmt::Write;

use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node, Value};
use crate::mcp::plain::{plain, written};

/// What the arguments came through already.
const LIMITS: Limits = Limits { depth: 128, nodes: 10_000_000 };

/// JSON text, a member or an item a line. Where some letter is beyond ASCII, which can look like another, all of it follows once more in ASCII.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    match json::parse(text.as_bytes(), LIMITS) {
        Ok(node) => write(&node, 1, &mut out),
        Err(_) => out.push_str(&plain(text)),
    }
    let mut lines = format!("  {out}\n");
    if !text.is_ascii() {
        let _to_a_string = writeln!(lines, "in ASCII\n  {}", written(&plain(text), |letter| !letter.is_ascii()));
    }
    lines
}

/// Lines of arguments that fit on a screen.
const ON_A_SCREEN: usize = 40;
/// Letters of a value that stand for the whole of it.
const IN_SHORT: usize = 60;

/// The members in a line each, for those who see only the end of what is long; empty for what is short.
pub(super) fn in_short(text: &str, shown: &str) -> String {
    if shown.lines().count() <= ON_A_SCREEN && text.len() <= ON_A_SCREEN * IN_SHORT {
        return String::new();
    }
    let mut out = format!("in short: {} bytes of arguments, whole above\n", text.len());
    let node = json::parse(text.as_bytes(), LIMITS);
    let members = node.iter().filter_map(|node| if let Value::Object(members) = &node.value { Some(members) } else { None }).flatten();
    for (at, member) in members.enumerate() {
        if at == ON_A_SCREEN {
            out.push_str("  and more\n");
            break;
        }
        let _to_a_string = writeln!(out, "  {}: {}", cut(quoted(&member.key)), brief(&member.node));
    }
    out
}

fn brief(node: &Node<'_>) -> String {
    match &node.value {
        Value::Object(members) if !members.is_empty() => format!("an object of {}", members.len()),
        Value::Array(items) if !items.is_empty() => format!("a list of {}", items.len()),
        _ => {
            let mut out = String::new();
            write(node, 0, &mut out);
            cut(out)
        }
    }
}

/// The beginning of what is long, and how long it is.
fn cut(text: String) -> String {
    match text.char_indices().nth(IN_SHORT) {
        None => text,
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
    }
}

fn write(node: &Node<'_>, depth: usize, out: &mut String) {
    let line = |depth: usize| format!("\n  {}", "  ".repeat(depth));
    match &node.value {
        Value::Object(members) if !members.is_empty() => {
            out.push('{');
            for (at, member) in members.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                out.push_str(&line(depth));
                out.push_str(&quoted(&member.key));
                out.push_str(": ");
                write(&member.node, depth + 1, out);
            }
            out.push_str(&line(depth - 1));
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                out.push_str(&line(depth));
                write(item, depth + 1, out);
            }
            out.push_str(&line(depth - 1));
            out.push(']');
        }
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Number(digits) => out.push_str(digits),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Null => out.push_str("null"),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
    }
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_string(text, &mut out);
    plain(&String::from_utf8_lossy(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ends_with_its_members_in_short() {
        let text = format!(r#"{{"amount":1000000,"to":"DE02","note":"{}","lines":[{}1]}}"#, "x".repeat(200), "1,".repeat(500));
        let short = in_short(&text, &shown(&text));
        let note = format!("  \"note\": \"{}... (202 bytes)", "x".repeat(59));
        let wanted = ["  \"amount\": 1000000", "  \"to\": \"DE02\"", &note, "  \"lines\": a list of 501"];
        assert_eq!(short.lines().skip(1).collect::<Vec<_>>(), wanted);
        assert_eq!(in_short(r#"{"a":1}"#, &shown(r#"{"a":1}"#)), "");
    }

    #[test]
    fn what_is_shown_is_all_of_it_and_nothing_moves() {
        let text = r#"{"amount":10.0,"to":["a\u001b[2J","pay\u202Egnp.exe","\u05d0 5"],"x":{},"y":"\\u{202e}"}"#;
        let shown = shown(text);
        let head = "  {\n    \"amount\": 10.0,\n    \"to\": [\n      \"a\\u001b[2J\",\n      \"pay\\u{202e}gnp.exe\",\n      \"\\u{5d0} 5\"\n    ],\n    \"x\": {},\n    \"y\": \"\\\\u{202e}\"\n  }\n";
        assert_eq!(shown, head);
        assert!(!shown.chars().any(|letter| (letter.is_control() && letter != '\n') || !letter.is_ascii()));
    }

    #[test]
    fn letters_that_look_like_others_are_told_in_ascii_too() {
        let shown = shown("{\"to\":\"p\u{430}ypal\"}");
        assert!(shown.contains("p\u{430}ypal") && shown.ends_with("in ASCII\n  {\"to\":\"p\\u{430}ypal\"}\n"), "{shown}");
    }
}
