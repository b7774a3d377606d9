//! What rows of the policy keep from an agent (`redact:POINTER`): fields of a result, and all that could carry them past that.
//!
//! Owns: which part of a tool's result is relayed under such rows, and what stands in place of the rest. Leaves to `upstream` that nothing but
//! the result comes (no progress, no log message, no question), and to `inspect` the look at the result itself.
//!
//! INVARIANT: what is relayed is made anew out of the one value that the pointers were applied to; nothing beside it is copied.
//! INVARIANT: a result in which the fields cannot be told, or cannot be masked as its output schema demands, is withheld.

use std::borrow::Cow;

use bytes::Bytes;

use super::LIMITS;
use crate::error::{Code, Effect, Error};
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Node, Value};
use crate::policy::{Obligation, Obliged};
use crate::schema::Schema;

/// The rows about one call.
pub(super) struct Redaction<'p>(Vec<(String, Vec<Cow<'p, str>>)>);

/// What takes a field's place: the words where the schema lets them, else `null`, else nothing at all.
const WAYS: [Way; 3] = [Way::Words, Way::Null, Way::Gone];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Words,
    Null,
    Gone,
}

impl<'p> Redaction<'p> {
    /// Of these obligations; `None` where none of them redacts, as of nearly every call.
    pub fn of(obligations: &'p [Obliged]) -> Option<Self> {
        let rows = obligations.iter().filter_map(|obliged| match &obliged.obligation {
            Obligation::Redact(pointer) => Some((format!("[redacted by {}]", obliged.rule), steps(pointer))),
            _ => None,
        });
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then_some(Self(rows))
    }

    /// The result that is relayed in place of this one, whose text is `text`.
    ///
    /// # Errors
    /// `result_blocked`: the call has run.
    pub fn apply(&self, result: &Node<'_>, text: &[u8], output: Option<&Schema>) -> Result<Bytes, Error> {
        let is_error = result.get("isError").and_then(Node::as_bool) == Some(true);
        if let Some((words, _)) = self.0.iter().find(|(_, path)| path.is_empty()) {
            let must_have = output.is_some() && !is_error;
            return if must_have {
                Err(blocked("the result must not leave, and its output schema wants one"))
            } else {
                Ok(relayed(words, None, is_error))
            };
        }
        let structured = result.get("structuredContent");
        let mut value = match structured {
            Some(node) => node.text(text).to_vec(),
            None => only_json(result)?.as_bytes().to_vec(),
        };
        // A failed call's structure is not held to the schema.
        let schema = output.filter(|_| structured.is_some() && !is_error);
        for (words, path) in &self.0 {
            value = masked(&value, path, words, schema)?;
        }
        let value = String::from_utf8_lossy(&value);
        Ok(relayed(&value, structured.map(|_| &*value), is_error))
    }
}

/// The names and places on the way to a field (RFC 6901).
fn steps(pointer: &str) -> Vec<Cow<'_, str>> {
    let plain = |step: &str| Cow::Owned(step.replace("~1", "/").replace("~0", "~"));
    pointer.split('/').skip(1).map(|step| if step.contains('~') { plain(step) } else { Cow::Borrowed(step) }).collect()
}

/// The value with what the path leads to masked, in the first way that leaves it as the schema wants it.
fn masked(value: &[u8], path: &[Cow<'_, str>], words: &str, schema: Option<&Schema>) -> Result<Vec<u8>, Error> {
    let node = json::parse(value, LIMITS).map_err(|error| blocked("the result cannot be read to be redacted").operator(error))?;
    for way in WAYS {
        let mut out = Vec::with_capacity(value.len());
        write(&node, value, path, (way, words), &mut out);
        let conforms = |schema: &Schema| json::parse(&out, LIMITS).is_ok_and(|node| schema.check(&node).is_ok());
        if schema.is_none_or(conforms) {
            return Ok(out);
        }
    }
    Err(blocked("the result has a field that must not leave, and that its output schema does not let be masked or left out"))
}

/// Writes a value with all that the path leads to masked; says whether there is anything left of it.
fn write(node: &Node<'_>, text: &[u8], path: &[Cow<'_, str>], mask: (Way, &str), out: &mut Vec<u8>) -> bool {
    let Some((step, rest)) = path.split_first() else {
        match mask {
            (Way::Words, words) => write_string(words, out),
            (Way::Null, _) => out.extend_from_slice(b"null"),
            (Way::Gone, _) => return false,
        }
        return true;
    };
    let inside = |is_meant: bool, node: &Node<'_>, out: &mut Vec<u8>| {
        if is_meant {
            return write(node, text, rest, mask, out);
        }
        out.extend_from_slice(node.text(text));
        true
    };
    match &node.value {
        Value::Object(members) => {
            let write_member = |member: &json::Member<'_>, out: &mut Vec<u8>| {
                write_string(&member.key, out);
                out.push(b':');
                inside(step == "*" || *step == member.key, &member.node, out)
            };
            between(b"{}", members, write_member, out);
        }
        Value::Array(items) => {
            let mut at = 0_usize;
            let write_item = |item: &Node<'_>, out: &mut Vec<u8>| {
                at += 1;
                inside(step == "*" || *step == (at - 1).to_string(), item, out)
            };
            between(b"[]", items, write_item, out);
        }
        _ => out.extend_from_slice(node.text(text)),
    }
    true
}

/// Writes what is left of all, between brackets and with commas.
fn between<T>(brackets: &[u8; 2], all: &[T], mut write_one: impl FnMut(&T, &mut Vec<u8>) -> bool, out: &mut Vec<u8>) {
    out.push(brackets[0]);
    let mut is_first = true;
    for one in all {
        let start = out.len();
        if !is_first {
            out.push(b',');
        }
        match write_one(one, out) {
            true => is_first = false,
            false => out.truncate(start),
        }
    }
    out.push(brackets[1]);
}

/// The text of a result that has no structure of its own: one block, and in it JSON that has members to point to.
fn only_json<'n>(result: &'n Node<'_>) -> Result<&'n str, Error> {
    let text = match result.get("content").map(Node::items) {
        Some([block]) if block.get("type").and_then(Node::as_str) == Some("text") => block.get("text").and_then(Node::as_str),
        _ => None,
    };
    let has_members = |text: &&str| {
        let node = json::parse(text.as_bytes(), LIMITS);
        node.is_ok_and(|node| matches!(node.value, Value::Object(_) | Value::Array(_)))
    };
    text.filter(has_members).ok_or_else(|| blocked("the result has a field that must not leave, and no structure to find it by"))
}

/// A result with this text, and this structure where it has one.
fn relayed(text: &str, structured: Option<&str>, is_error: bool) -> Bytes {
    let mut out = br#"{"content":[{"type":"text","text":"#.to_vec();
    write_string(text, &mut out);
    out.extend_from_slice(b"}]");
    if let Some(structured) = structured {
        out.extend_from_slice(b",\"structuredContent\":");
        out.extend_from_slice(structured.as_bytes());
    }
    out.extend_from_slice(if is_error { b",\"isError\":true}" } else { b"}" });
    out.into()
}

/// The result is there, and stays here.
pub(super) fn blocked(message: &'static str) -> Error {
    Error::new(Code::ResultBlocked, message).from_upstream().after_effect(Effect::Done, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Formats;

    fn applied(pointers: &[&str], result: &str, schema: Option<&str>) -> String {
        let rows = pointers.iter().copied().enumerate();
        let redaction = Redaction(rows.map(|(at, pointer)| (format!("[O{at}]"), steps(pointer))).collect());
        let schema = schema.map(|schema| Schema::compile(schema.as_bytes(), Formats::Assert).unwrap());
        let node = json::parse(result.as_bytes(), LIMITS).unwrap();
        let made = redaction.apply(&node, result.as_bytes(), schema.as_ref());
        made.map_or_else(|error| error.to_string(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// The structure that is left of this one.
    fn left(pointers: &[&str], structure: &str, schema: Option<&str>) -> String {
        let result =
            format!(r#"{{"content":[{{"type":"text","text":"raw"}}],"structuredContent":{structure},"_meta":{{"a":1}},"more":2}}"#);
        let made = applied(pointers, &result, schema);
        let Some((head, left)) = made.split_once(r#","structuredContent":"#) else { return made };
        let left = left.strip_suffix('}').unwrap().to_owned();
        let mut text = Vec::new();
        write_string(&left, &mut text);
        assert_eq!(head, format!(r#"{{"content":[{{"type":"text","text":{}}}]"#, String::from_utf8(text).unwrap()));
        left
    }

    #[test]
    fn each_row_masks_what_it_points_to_and_the_rest_stays_to_the_digit() {
        let structure = r#"{"a":[{"k":1,"n":1.50},{"k":"s"},3],"b":{"x":{},"~/":2},"n":9007199254740993}"#;
        for (pointers, wanted) in [
            (&["/a/*/k"][..], r#"{"a":[{"k":"[O0]","n":1.50},{"k":"[O0]"},3],"b":{"x":{},"~/":2},"n":9007199254740993}"#),
            (&["/a/1", "/b/~0~1"], r#"{"a":[{"k":1,"n":1.50},"[O0]",3],"b":{"x":{},"~/":"[O1]"},"n":9007199254740993}"#),
            (&["/b/*"], r#"{"a":[{"k":1,"n":1.50},{"k":"s"},3],"b":{"x":"[O0]","~/":"[O0]"},"n":9007199254740993}"#),
            (&["/none", "/n/deeper"], structure),
        ] {
            assert_eq!(left(pointers, structure, None), wanted, "{pointers:?}");
        }
    }

    #[test]
    fn a_field_is_masked_as_the_schema_lets_it() {
        let schema = |more: &str| format!(r#"{{"type":"object","required":["n"],"properties":{{"n":{{}},"f":{more}}}}}"#);
        let structure = r#"{"f":7,"n":1}"#;
        assert_eq!(left(&["/f"], structure, Some(&schema("{}"))), r#"{"f":"[O0]","n":1}"#);
        assert_eq!(left(&["/f"], structure, Some(&schema(r#"{"type":["integer","null"]}"#))), r#"{"f":null,"n":1}"#);
        assert_eq!(left(&["/f"], structure, Some(&schema(r#"{"type":"integer"}"#))), r#"{"n":1}"#);
        let needed = r#"{"type":"object","required":["f"],"properties":{"f":{"type":"integer"}}}"#;
        assert!(left(&["/f"], structure, Some(needed)).contains("does not let be masked"));
    }

    #[test]
    fn a_failed_call_is_redacted_whatever_its_output_schema_wants() {
        let needed = Some(r#"{"type":"object","required":["f"],"properties":{"f":{"type":"integer"}}}"#);
        let failed = r#"{"content":[],"structuredContent":{"f":7},"isError":true}"#;
        let masked = r#"{"content":[{"type":"text","text":"{\"f\":\"[O0]\"}"}],"structuredContent":{"f":"[O0]"},"isError":true}"#;
        assert_eq!(applied(&["/f"], failed, needed), masked);
        assert_eq!(applied(&[""], failed, needed), r#"{"content":[{"type":"text","text":"[O0]"}],"isError":true}"#);
    }

    #[test]
    fn a_tilde_in_a_pointer_is_unescaped_once() {
        assert_eq!(left(&["/~01"], r#"{"~1":1,"/":2}"#, None), r#"{"~1":"[O0]","/":2}"#);
    }

    #[test]
    fn without_structure_there_is_one_text_of_json_or_nothing() {
        let of = |content: &str| applied(&["/k"], &format!(r#"{{"content":[{content}],"isError":true}}"#), None);
        let text = r#"{"type":"text","text":"{\"k\":\"s\"}"}"#;
        assert_eq!(of(text), r#"{"content":[{"type":"text","text":"{\"k\":\"[O0]\"}"}],"isError":true}"#);
        for content in ["", r#"{"type":"text","text":"k is s"}"#, r#"{"type":"text","text":"\"s\""}"#, &format!("{text},{text}")] {
            assert!(of(content).contains("no structure to find it by"), "{content}");
        }
        assert_eq!(applied(&["/k", ""], r#"{"content":[5]}"#, None), r#"{"content":[{"type":"text","text":"[O1]"}]}"#);
    }
}
