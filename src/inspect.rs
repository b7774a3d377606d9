//! What comes back from a tool server before an agent sees it: the shape that MCP asks for, and the tool's own output
//! schema.
//!
//! INVARIANT: a result that breaks the reviewed output schema is not passed off as good; the error says that the call ran.

use bytes::Bytes;

use crate::error::{Code, Effect, Error};
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::messages::is_hop_local;
use crate::mcp::respond::{CallResult, Ending};
use crate::schema::Schema;
use crate::upstream::{Outcome, Reply};

/// Bounds of a reply's document; its size is bounded by the manifest.
const LIMITS: Limits = Limits { depth: 96, nodes: 2_000_000 };

/// Takes the answer to a `tools/call`, checks it and cuts out what is relayed.
///
/// # Errors
/// `upstream_error` for a JSON-RPC error, `upstream_protocol_error` for what is no result of `tools/call`, `result_invalid`
/// for a structured result that breaks `output`.
pub fn inspect(reply: &Reply, output: Option<&Schema>, idempotent: bool) -> Result<Ending, Error> {
    let unsound =
        |what: &'static str| Error::new(Code::UpstreamProtocolError, what).from_upstream().after_effect(Effect::Unknown, idempotent);
    let (Outcome::Result(span) | Outcome::Failure(span)) = &reply.outcome;
    let text = reply.body.slice(span.clone());
    let parsed = json::parse(&text, LIMITS);
    let result = &parsed.map_err(|error| unsound("the tool server's answer is not sound JSON").operator(error))?;
    if matches!(reply.outcome, Outcome::Failure(_)) {
        return Err(refused(result, idempotent));
    }
    if !result.is_object() {
        return Err(unsound("the result is not an object"));
    }
    match result.get("resultType").map(Node::as_str) {
        None | Some(Some("complete")) => {}
        Some(Some("input_required")) => {
            return Err(unsound("the tool server asks for input, which this gateway did not offer"));
        }
        Some(_) => return Err(unsound("the tool server answered with a result type that this gateway does not know")),
    }
    if !result.get("content").is_some_and(|content| matches!(content.value, json::Value::Array(_))) {
        return Err(unsound("the result has no `content` array"));
    }
    let is_error = result.get("isError").and_then(Node::as_bool).unwrap_or(false);
    if let Some(schema) = output.filter(|_| !is_error) {
        conforms(schema, result)?;
    }
    Ok(Ending::Complete(cut(&text, result, is_error)))
}

fn conforms(schema: &Schema, result: &Node<'_>) -> Result<(), Error> {
    let invalid = |message: &'static str| Error::new(Code::ResultInvalid, message).from_upstream().after_effect(Effect::Done, false);
    let structured =
        result.get("structuredContent").ok_or_else(|| invalid("the result lacks the `structuredContent` that the tool declares"))?;
    schema.check(structured).map_err(|details| invalid("the result does not match the tool's output schema").details(details))
}

/// A JSON-RPC error of the server. Its number tells whether the server got as far as running the tool.
fn refused(error: &Node<'_>, idempotent: bool) -> Error {
    let number = error.get("code").and_then(|code| match code.value {
        json::Value::Number(digits) => digits.parse::<i64>().ok(),
        _ => None,
    });
    let message: String =
        error.get("message").and_then(Node::as_str).unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
    let mut quoted = Vec::new();
    write_string(&message, &mut quoted);
    let effect = match number {
        Some(-32700 | -32600 | -32601 | -32602 | -32022 | -32021 | -32020) => Effect::None,
        _ => Effect::Unknown,
    };
    let data = format!("{{\"code\":{},\"message\":{}}}", number.unwrap_or_default(), String::from_utf8_lossy(&quoted));
    let refusal = Error::new(Code::UpstreamError, format!("the tool server answered with an error: {message}"));
    refusal.from_upstream().after_effect(effect, idempotent).data("upstream", data)
}

fn cut(message: &Bytes, result: &Node<'_>, is_error: bool) -> CallResult {
    let ours = |key: &str| matches!(key, "resultType" | "ttlMs" | "cacheScope" | "_meta");
    let whole = result.members();
    // Up to 2025-11-25 this is an object, and clients of those revisions refuse the whole result over anything else.
    let newest = |member: &json::Member<'_>| member.key == "structuredContent" && !member.node.is_object();
    let newer = join(message, whole.iter().filter(|member| newest(member)), 0);
    let members = if whole.iter().any(|member| ours(&member.key) || newest(member)) {
        join(message, whole.iter().filter(|member| !ours(&member.key) && !newest(member)), result.span().len())
    } else {
        // Nothing to take out: the inside of the object is relayed as it stands, without a copy.
        let span = result.span();
        message.slice(span.start + 1..span.end - 1)
    };
    let relayed = result.get("_meta").map(Node::members).unwrap_or_default();
    let meta = join(message, relayed.iter().filter(|member| !is_hop_local(&member.key)), 0);
    CallResult { members, newer, meta, is_error, cache: None }
}

fn join<'m, 'a: 'm>(message: &Bytes, members: impl Iterator<Item = &'m json::Member<'a>>, bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes);
    for member in members {
        if !out.is_empty() {
            out.push(b',');
        }
        write_string(&member.key, &mut out);
        out.push(b':');
        out.extend_from_slice(member.node.text(message));
    }
    out.into()
}
