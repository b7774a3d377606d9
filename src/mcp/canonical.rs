//! The canonical text of a value: what is hashed, compared and stored.
//!
//! INVARIANT: two texts have the same canonical form exactly when they differ only in white space, escapes and the order
//! of members. It is RFC 8785 but for numbers, whose digits are kept: a rounded number must not hash like another.

use super::json::{Member, Node, Value};

/// Writes the canonical form: no space, members sorted by UTF-16 code units, RFC 8785's escapes, numbers as written.
pub fn write_canonical(node: &Node<'_>, out: &mut Vec<u8>) {
    match &node.value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(digits) => out.extend_from_slice(digits.as_bytes()),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => write_members(members, out),
    }
}

fn write_members(members: &[Member<'_>], out: &mut Vec<u8>) {
    let mut first = true;
    out.push(b'{');
    in_order(members, |member| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_string(&member.key, out);
        out.push(b':');
        write_canonical(&member.node, out);
    });
    out.push(b'}');
}

/// Visits the members in the order of their names' UTF-16 code units. Most objects are small or sorted already.
pub fn in_order<'m, 'a>(members: &'m [Member<'a>], mut visit: impl FnMut(&'m Member<'a>)) {
    let before = |one: &Member<'_>, other: &Member<'_>| match one.key.is_ascii() && other.key.is_ascii() {
        true => one.key.as_bytes().cmp(other.key.as_bytes()),
        false => one.key.encode_utf16().cmp(other.key.encode_utf16()),
    };
    if members.is_sorted_by(|one, other| before(one, other).is_le()) {
        return members.iter().for_each(visit);
    }
    let mut sorted: Vec<&Member<'_>> = members.iter().collect();
    sorted.sort_by(|one, other| before(one, other));
    sorted.into_iter().for_each(&mut visit);
}

/// Writes a JSON string with no more escapes than RFC 8785 asks for.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // A loop without an early exit works on many bytes at once, and nearly every text needs no escape.
    if !text.bytes().fold(false, |found, byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\')) {
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    let mut plain = 0;
    for (index, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(text.as_bytes().get(plain..index).unwrap_or_default());
        plain = index + 1;
        if short > 0 {
            out.extend_from_slice(&[b'\\', short]);
        } else {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes().get(plain..).unwrap_or_default());
    out.push(b'"');
}
