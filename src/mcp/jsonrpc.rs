//! JSON-RPC 2.0 framing: which of the four kinds of message a document is, and its parts.
//!
//! INVARIANT: a message has a `jsonrpc` of exactly `"2.0"`; an id is a string or a whole number, never null; a request
//! has a method, a response has a result or an error and not both; `params` is an object or absent (MCP asks for it).

use std::fmt;
use std::ops::Range;

use super::json::{Node, Value};
use crate::error::{Code, Error};

/// Longest id, and longest progress token, in bytes: a peer chooses it, and it comes back in each message about the request.
pub const MAX_ID_BYTES: usize = 1024;

/// A request's id, as JSON text: `7` and `"7"` are different ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// An id that this gateway mints.
    pub fn number(value: u64) -> Self {
        Self(value.to_string().into())
    }

    /// The id that a value is, such as `params.requestId`.
    pub fn of(node: &Node<'_>) -> Option<Self> {
        id(node).ok().flatten()
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// One JSON-RPC message, borrowed from its document.
#[derive(Clone, Debug)]
pub enum Message<'d, 'a> {
    /// Wants an answer.
    Request {
        /// The sender's id.
        id: Id,
        /// The method.
        method: &'d str,
        /// The parameters, an object.
        params: Option<&'d Node<'a>>,
    },
    /// Wants none.
    Notification {
        /// The method.
        method: &'d str,
        /// The parameters, an object.
        params: Option<&'d Node<'a>>,
    },
    /// The answer to a request of ours.
    Result {
        /// Our id.
        id: Id,
        /// The result.
        result: &'d Node<'a>,
    },
    /// The refusal of a request of ours; the id is absent when the peer could not read it.
    Failure {
        /// Our id.
        id: Option<Id>,
        /// The error object.
        error: &'d Node<'a>,
    },
}

/// Tells which message the document is.
///
/// # Errors
/// `malformed_request` for everything that is not exactly one JSON-RPC 2.0 message.
pub fn message<'d, 'a>(document: &'d Node<'a>) -> Result<Message<'d, 'a>, Error> {
    if !document.is_object() {
        return Err(malformed("the message is not a JSON object"));
    }
    if document.get("jsonrpc").and_then(Node::as_str) != Some("2.0") {
        return Err(malformed("`jsonrpc` is not `\"2.0\"`"));
    }
    let id = document.get("id").map(id).transpose()?;
    let Some(method) = document.get("method") else { return response(document, id.flatten()) };
    let method = method.as_str().ok_or_else(|| malformed("`method` is not a string"))?;
    if document.get("result").is_some() || document.get("error").is_some() {
        return Err(malformed("a message has a `method` or a `result` or an `error`"));
    }
    let params = document.get("params");
    if params.is_some_and(|params| !params.is_object()) {
        return Err(malformed("`params` is not an object"));
    }
    match id {
        Some(Some(id)) => Ok(Message::Request { id, method, params }),
        Some(None) => Err(malformed("`id` is null")),
        None => Ok(Message::Notification { method, params }),
    }
}

fn response<'d, 'a>(document: &'d Node<'a>, id: Option<Id>) -> Result<Message<'d, 'a>, Error> {
    match (document.get("result"), document.get("error"), id) {
        (Some(result), None, Some(id)) => Ok(Message::Result { id, result }),
        (None, Some(error), id) if error.is_object() => Ok(Message::Failure { id, error }),
        _ => Err(malformed("the message has neither a `method` nor a sound `result` or `error`")),
    }
}

/// The id; `Ok(None)` for null.
fn id(node: &Node<'_>) -> Result<Option<Id>, Error> {
    match &node.value {
        Value::Null => Ok(None),
        Value::Number(digits) if digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => Ok(Some(Id((*digits).into()))),
        Value::String(text) if text.len() <= MAX_ID_BYTES => {
            let mut out = Vec::with_capacity(text.len() + 2);
            super::canonical::write_string(text, &mut out);
            Ok(Some(Id(String::from_utf8_lossy(&out).into())))
        }
        _ => Err(malformed("`id` is not a whole number or a string of at most 1024 bytes")),
    }
}

/// The id and the span of `result` of an answer that consists of `jsonrpc`, a whole number as `id`, and an object as `result`;
/// `None` where the text is anything else, and must be parsed to be understood.
///
/// The span is balanced and no more: whoever reads it parses it, and refuses what is unsound then. This spares the envelope of
/// a result a parse of its own.
pub fn plain_result(text: &[u8]) -> Option<(u64, Range<usize>)> {
    let (mut rest, mut version, mut id, mut result) = (after(text, b"{")?, false, None, None);
    loop {
        if let Some(value) = after(rest, b"\"jsonrpc\"").filter(|_| !std::mem::replace(&mut version, true)) {
            rest = after(after(value, b":")?, b"\"2.0\"")?;
        } else if let Some(value) = after(rest, b"\"id\"").filter(|_| id.is_none()) {
            let digits = after(value, b":")?;
            let length = digits.iter().position(|byte| !byte.is_ascii_digit()).filter(|length| *length <= 20)?;
            let (digits, behind) = digits.split_at(length);
            // JSON has no leading zeros.
            id = Some(std::str::from_utf8(digits).ok().filter(|id| *id == "0" || !id.starts_with('0'))?.parse().ok()?);
            rest = behind;
        } else {
            let object = after(after(rest, b"\"result\"").filter(|_| result.is_none())?, b":")?;
            let (start, length) = (text.len() - object.len(), object_length(object)?);
            result = Some(start..start + length);
            rest = &object[length..];
        }
        match spaced(rest).split_first()? {
            (b',', behind) => rest = behind,
            (b'}', behind) if spaced(behind).is_empty() && version => return id.zip(result),
            _ => return None,
        }
    }
}

/// What stands behind `token` and the white space around it.
fn after<'t>(text: &'t [u8], token: &[u8]) -> Option<&'t [u8]> {
    Some(spaced(spaced(text).strip_prefix(token)?))
}

/// What stands behind the white space of JSON, which is less than that of ASCII (RFC 8259, section 2).
fn spaced(text: &[u8]) -> &[u8] {
    let length = text.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(text.len());
    &text[length..]
}

/// How long the object is that the text begins with: up to the brace that closes it. Braces in strings do not count.
fn object_length(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        let rest = &text[at..];
        let next = memchr::memchr3(b'"', b'{', b'}', rest).filter(|next| depth > 0 || *next == 0)?;
        at += next + 1;
        match rest[next] {
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            _ => at += string_length(&text[at..])?,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// How long the string is whose opening quote stands before the text, its closing quote included.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let next = memchr::memchr2(b'"', b'\\', &text[at..])?;
        at += next + 1;
        if text[at - 1] == b'"' {
            return Some(at);
        }
        // Whatever is escaped is no quote that ends the string.
        at = (at + 1).min(text.len());
    }
}

fn malformed(message: &'static str) -> Error {
    Error::new(Code::MalformedRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::{self, Limits};

    /// What a whole parse makes of the text.
    fn parsed(text: &str) -> Option<(u64, Range<usize>)> {
        let document = json::parse(text.as_bytes(), Limits::default()).ok()?;
        match message(&document).ok()? {
            Message::Result { id, result } => Some((id.as_json().parse().ok()?, result.span())),
            _ => None,
        }
    }

    #[test]
    fn a_plain_result_is_found_where_a_parse_finds_it() {
        for text in [
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#" { "result" : {"a":[{"b":"}"},"\"}\\"],"c":{}} , "id" : 18446744073709551615 , "jsonrpc" : "2.0" } "#,
            r#"{"id":0,"jsonrpc":"2.0","result":{"text":"\\"}}"#,
        ] {
            assert!(parsed(text).is_some(), "{text}");
            assert_eq!(plain_result(text.as_bytes()), parsed(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_plain_result_is_left_to_the_parser() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"7","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7.0,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":07,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":18446744073709551616,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},}"#,
            r#"{"jsonrpc":"2.0","id":7,"id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{"a":"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{"a":"\"#,
            r#"{"jsonrpc":"2.0","id":7,"result"#,
        ] {
            assert_eq!(plain_result(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn white_space_that_json_does_not_have_is_left_to_the_parser() {
        let parts = ["", "{", "\"jsonrpc\"", ":\"2.0\"", ",\"id\":7", ",\"result\":", "{}", "}", ""];
        for at in 0..parts.len() - 1 {
            for (space, is_json) in [(" \t\r\n", true), ("\u{c}", false)] {
                let text = parts[..=at].concat() + space + parts[at + 1..].concat().as_str();
                assert_eq!(plain_result(text.as_bytes()).is_some(), is_json, "{text:?}");
            }
        }
    }
}
