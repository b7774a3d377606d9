//! JSON-RPC 2.0 framing: which of the four kinds of message a document is, and its parts.
//!
//! INVARIANT: a message has a `jsonrpc` of exactly `"2.0"`; an id is a string or a whole number, never null; a request
//! has a method, a response has a result or an error and not both; `params` is an object or absent (MCP asks for it).

use std::fmt;

use super::json::{Node, Value};
use crate::error::{Code, Error};

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
        Value::String(text) if text.len() <= 1024 => {
            let mut out = Vec::with_capacity(text.len() + 2);
            super::canonical::write_string(text, &mut out);
            Ok(Some(Id(String::from_utf8_lossy(&out).into())))
        }
        _ => Err(malformed("`id` is not a whole number or a string of at most 1024 bytes")),
    }
}

fn malformed(message: &'static str) -> Error {
    Error::new(Code::MalformedRequest, message)
}
