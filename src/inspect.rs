//! What comes back from a tool server before an agent sees it: the shape that MCP asks for, the tool's own output schema,
//! and the URIs by which the agent can come back to the same server.
//!
//! INVARIANT: where a row redacts, no word of the server reaches the agent but the result that is made anew (`redact`).
//! INVARIANT: a result that breaks the reviewed output schema is not passed off as good; the error says that the call ran.

mod edit;
mod redact;
mod refused;

use bytes::Bytes;

use self::edit::Edits;
use self::redact::Redaction;
use crate::audit::trail::Recorded;
use crate::error::{Code, Effect, Error};
use crate::invocation::Invocation;
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node, Value};
use crate::mcp::messages::{Method, is_hop_local};
use crate::mcp::respond::{Cache, CallResult, Ending, Questions};
use crate::schema::Schema;
use crate::upstream::{Outcome, Reply};

/// Bounds of a reply's document; its size is bounded by the manifest.
const LIMITS: Limits = Limits { depth: 96, nodes: 2_000_000 };

/// Takes the answer to a call, checks it and cuts out what is relayed.
///
/// # Errors
/// What the server's JSON-RPC error comes to, `upstream_protocol_error` for what is no result of the method, `result_invalid`
/// for a structured result that breaks `output`, `result_blocked` for what cannot be redacted as a row wants it.
pub fn inspect(reply: &Reply, recorded: &Recorded<'_>, output: Option<&Schema>) -> Result<Ending, Error> {
    let (Outcome::Result(span) | Outcome::Failure(span)) = &reply.outcome;
    let (text, invocation) = (reply.body.slice(span.clone()), recorded.invocation());
    let Some(redaction) = Redaction::of(recorded.permit().obligations()) else { return relayed(reply, text, invocation, output) };
    // First held to what every result is held to: masks must not pass a broken one off as good.
    match relayed(reply, text.clone(), invocation, output) {
        Err(error) => Err(without_words(&error, invocation)),
        Ok(Ending::Asks(_)) => {
            Err(redact::blocked("the tool server asks in a call whose result is redacted").after_effect(Effect::Unknown, false))
        }
        Ok(Ending::Complete(_)) if invocation.method != Method::CallTool => Err(redact::blocked("only results of tools can be redacted")),
        Ok(Ending::Complete(_)) => {
            let result = json::parse(&text, LIMITS).map_err(|error| unsound(invocation, "the result is not sound JSON").operator(error))?;
            let text = redaction.apply(&result, &text, output)?;
            let made = Reply { outcome: Outcome::Result(0..text.len()), body: text.clone(), ..reply.clone() };
            relayed(&made, text, invocation, output)
        }
    }
}

/// The same failure without what the server says of it.
fn without_words(error: &Error, invocation: &Invocation<'_>) -> Error {
    let told = Error::new(error.code(), "the tool server did not answer with a result that can be relayed").from_upstream();
    told.after_effect(error.effect(), invocation.target.is_idempotent())
}

fn relayed(reply: &Reply, text: Bytes, invocation: &Invocation<'_>, output: Option<&Schema>) -> Result<Ending, Error> {
    let parsed = json::parse(&text, LIMITS);
    let result = &parsed.map_err(|error| unsound(invocation, "the tool server's answer is not sound JSON").operator(error))?;
    if matches!(reply.outcome, Outcome::Failure(_)) {
        return Err(refused::refused(result, &text, invocation, reply.begun));
    }
    if !result.is_object() {
        return Err(unsound(invocation, "the result is not an object"));
    }
    // Before 2026-07-28 a result has no type: a server of those revisions has done the call, and to ask again would be to call again.
    match result.get("resultType").filter(|_| reply.version.is_modern()).map(Node::as_str) {
        None | Some(Some("complete")) => {}
        Some(Some("input_required")) => return asks(&text, result, invocation).map(Ending::Asks),
        Some(_) => return Err(unsound(invocation, "the tool server answered with a result type that this gateway does not know")),
    }
    has_its_shape(invocation, result)?;
    let is_error = invocation.method == Method::CallTool && result.get("isError").and_then(Node::as_bool).unwrap_or(false);
    if let Some(schema) = output.filter(|_| !is_error) {
        conforms(schema, result)?;
    }
    let cache = (invocation.method == Method::ReadResource).then(|| Cache { ttl_ms: ttl(result), public: false });
    Ok(Ending::Complete(CallResult { is_error, cache, ..cut(&text, result, &Edits::of(invocation, result)) }))
}

fn unsound(invocation: &Invocation<'_>, what: &'static str) -> Error {
    let error = Error::new(Code::UpstreamProtocolError, what).from_upstream();
    error.after_effect(Effect::Unknown, invocation.target.is_idempotent())
}

/// What each method's result cannot be without.
fn has_its_shape(invocation: &Invocation<'_>, result: &Node<'_>) -> Result<(), Error> {
    let is_array = |node: Option<&Node<'_>>| node.is_some_and(|node| matches!(node.value, Value::Array(_)));
    let (has, lacks) = match invocation.method {
        Method::CallTool => (is_array(result.get("content")), "the result has no `content` array"),
        Method::GetPrompt => (is_array(result.get("messages")), "the result has no `messages` array"),
        Method::ReadResource => (is_array(result.get("contents")), "the result has no `contents` array"),
        Method::Complete => (is_array(result.pointer("/completion/values")), "the result has no `completion.values` array"),
    };
    if has { Ok(()) } else { Err(unsound(invocation, lacks)) }
}

/// Questions in place of a result, from a server that was told that it may ask.
fn asks(text: &Bytes, result: &Node<'_>, invocation: &Invocation<'_>) -> Result<Questions, Error> {
    let requests = result.get("inputRequests").filter(|requests| requests.is_object() && !requests.members().is_empty());
    let state = result.get("requestState").filter(|state| state.as_str().is_some());
    if invocation.method == Method::Complete || (requests.is_none() && state.is_none()) {
        return Err(unsound(invocation, "the tool server asks for input in a way that the protocol does not have"));
    }
    let slice = |node: &Node<'_>| text.slice(node.span());
    Ok(Questions { requests: requests.map_or(Bytes::from_static(b"{}"), slice), state: state.map(slice), running: false, own: false })
}

fn conforms(schema: &Schema, result: &Node<'_>) -> Result<(), Error> {
    let invalid = |message: &'static str| Error::new(Code::ResultInvalid, message).from_upstream().after_effect(Effect::Done, false);
    let structured =
        result.get("structuredContent").ok_or_else(|| invalid("the result lacks the `structuredContent` that the tool declares"))?;
    schema.check(structured).map_err(|details| invalid("the result does not match the tool's output schema").details(details))
}

/// How long the server says that the result holds; a negative time is none.
fn ttl(result: &Node<'_>) -> u32 {
    result.get("ttlMs").and_then(Node::as_u64).map_or(0, |ttl| u32::try_from(ttl).unwrap_or(u32::MAX))
}

fn cut(message: &Bytes, result: &Node<'_>, edits: &Edits) -> CallResult {
    let ours = |key: &str| matches!(key, "resultType" | "ttlMs" | "cacheScope" | "_meta");
    let whole = result.members();
    // Up to 2025-11-25 this is an object, and clients of those revisions refuse the whole result over anything else.
    let newest = |member: &json::Member<'_>| member.key == "structuredContent" && !member.node.is_object();
    let newer = join(message, whole.iter().filter(|member| newest(member)), edits, 0);
    let members = if !edits.is_empty() || whole.iter().any(|member| ours(&member.key) || newest(member)) {
        join(message, whole.iter().filter(|member| !ours(&member.key) && !newest(member)), edits, result.span().len())
    } else {
        // Nothing to take out: the inside of the object is relayed as it stands, without a copy.
        let span = result.span();
        message.slice(span.start + 1..span.end - 1)
    };
    let relayed = result.get("_meta").map(Node::members).unwrap_or_default();
    let meta = join(message, relayed.iter().filter(|member| !is_hop_local(&member.key)), edits, 0);
    CallResult { members, newer, meta, is_error: false, cache: None }
}

fn join<'m, 'a: 'm>(message: &Bytes, members: impl Iterator<Item = &'m json::Member<'a>>, edits: &Edits, bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes);
    for member in members {
        if !out.is_empty() {
            out.push(b',');
        }
        write_string(&member.key, &mut out);
        out.push(b':');
        edits.write(message, member.node.span(), &mut out);
    }
    out.into()
}
