//! Arguments as a person is shown them before saying yes: every value whole, and no letter that moves, hides or turns others.
//!
//! INVARIANT: two different arguments are never shown alike: what is escaped stands behind a backslash, and JSON writes one of its own twice.

use std::fmt::Write;

use super::table::safe;
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node, Value};

/// What the arguments came through already.
const LIMITS: Limits = Limits { depth: 128, nodes: 10_000_000 };

/// One line of text: control characters and those without a shape are written out, and so are letters of scripts that run from right to left,
/// since a terminal turns what stands beside them.
pub(super) fn plain(text: &str) -> String {
    escaped(&safe(text), runs_left)
}

/// JSON text, a member or an item a line. Where some letter is beyond ASCII, which can look like another, all of it follows once more in ASCII.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    match json::parse(text.as_bytes(), LIMITS) {
        Ok(node) => write(&node, 1, &mut out),
        Err(_) => out.push_str(&plain(text)),
    }
    let mut lines = format!("  {out}\n");
    if !text.is_ascii() {
        let _to_a_string = writeln!(lines, "in ASCII\n  {}", escaped(&plain(text), |letter| !letter.is_ascii()));
    }
    lines
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        if hidden(letter) {
            out.extend(letter.escape_unicode())
        } else {
            out.push(letter)
        }
        out
    })
}

/// Blocks of letters of the bidirectional classes R and AL (Unicode 16, DerivedBidiClass), unassigned places among them.
fn runs_left(letter: char) -> bool {
    matches!(letter,
        '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
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
