//! A server's JSON-RPC error, in the words and numbers of the agent's revision.
//!
//! INVARIANT: a number that the agent's revision does not have, or gives to somebody else, is not passed on.

use crate::error::{Code, Effect, Error};
use crate::invocation::Invocation;
use crate::mcp::canonical::write_string;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{Node, Value};
use crate::mcp::messages::Method;
use crate::mcp::revision::Revision;
use crate::upstream::input_request;

/// Characters of a server's message that are passed on.
const MAX_MESSAGE: usize = 300;

/// What the error comes to. Its number tells whether the server got as far as running the target, unless that is known to have
/// `begun`.
pub(super) fn refused(error: &Node<'_>, text: &[u8], invocation: &Invocation<'_>, begun: bool) -> Error {
    let number = error.get("code").and_then(|code| match code.value {
        Value::Number(digits) => digits.parse::<i64>().ok(),
        _ => None,
    });
    let words = error.get("message").and_then(Node::as_str).unwrap_or_default();
    let words: String = words.chars().filter(|letter| !letter.is_control()).take(MAX_MESSAGE).collect();
    let effect = match (number, invocation.method) {
        _ if begun => Effect::Unknown,
        (Some(-32700 | -32600 | -32601 | -32602 | -32022 | -32021 | -32020), _) => Effect::None,
        (Some(-32002), Method::ReadResource) => Effect::None,
        _ => Effect::Unknown,
    };
    let idempotent = invocation.target.is_idempotent();
    let of = |code, message: String| Error::new(code, message).from_upstream().after_effect(effect, idempotent);
    let named = || of(Code::UpstreamError, format!("the tool server answered with an error: {words}"));
    let refusal = match (number, invocation.method) {
        (Some(-32602 | -32002), Method::ReadResource) => {
            named().wire(no_resource(invocation), 200).data("uri", quoted(&invocation.target.name))
        }
        (Some(-32602), Method::GetPrompt | Method::Complete) => named().wire(-32602, 200),
        (Some(-32021), _) => {
            let required = error.pointer("/data/requiredCapabilities").filter(|node| node.is_object());
            let required = required.map_or("{}".to_owned(), |node| String::from_utf8_lossy(node.text(text)).into_owned());
            lacks(invocation, of(Code::ClientCapabilityMissing, format!("the tool server needs more of the client: {words}")), required)
        }
        (Some(-32022 | -32020), _) => of(Code::UpstreamProtocolError, format!("the tool server refused the gateway's request: {words}")),
        (Some(-32042), _) => return elsewhere(error, text, invocation, named()),
        // Numbers that the protocol or nobody owns: to an agent they would mean something else.
        (Some(-32099..=-32000), _) => named().wire(-32603, 200),
        _ => named(),
    };
    let data = format!("{{\"code\":{},\"message\":{}}}", number.unwrap_or_default(), quoted(&words));
    refusal.data("upstream", data)
}

fn is_modern(invocation: &Invocation<'_>) -> bool {
    invocation.caller.revision.is_none_or(Revision::is_modern)
}

fn no_resource(invocation: &Invocation<'_>) -> i32 {
    if is_modern(invocation) { -32602 } else { -32002 }
}

/// The modern revision has a number for it; a client of the others can do nothing about it.
fn lacks(invocation: &Invocation<'_>, error: Error, required: String) -> Error {
    let error = error.data("requiredCapabilities", required);
    if is_modern(invocation) { error } else { error.wire(-32603, 200) }
}

/// A server of 2025-11-25 wants a page visited first. Only clients of its own revision know this answer.
fn elsewhere(error: &Node<'_>, text: &[u8], invocation: &Invocation<'_>, relayed: Error) -> Error {
    let may_ask = invocation.caller.capabilities.intersect(invocation.target.may_ask).contains(Capabilities::ELICIT_URL);
    match invocation.caller.revision {
        Some(Revision::V2025_11_25) if may_ask => match pages(error, text, invocation) {
            Ok(pages) => relayed.wire(-32042, 200).data("elicitations", pages),
            Err(why) => Error::new(Code::UpstreamProtocolError, "the tool server asks for what no agent may be asked")
                .from_upstream()
                .after_effect(relayed.effect(), invocation.target.is_idempotent())
                .operator(why),
        },
        Some(revision) if !revision.is_modern() => Error::new(Code::BridgeUnsupported, "the tool server wants a page visited first")
            .from_upstream()
            .after_effect(relayed.effect(), invocation.target.is_idempotent()),
        _ => Error::new(Code::ClientCapabilityMissing, "the tool server wants a page visited first")
            .from_upstream()
            .after_effect(relayed.effect(), invocation.target.is_idempotent())
            .data("requiredCapabilities", "{\"elicitation\":{\"url\":{}}}".to_owned()),
    }
}

/// The pages, held to what every question is held to.
fn pages(error: &Node<'_>, text: &[u8], invocation: &Invocation<'_>) -> Result<String, &'static str> {
    const QUESTION: &[u8] = br#"{"method":"elicitation/create","params":"#;
    let mut out = b"[".to_vec();
    for page in error.pointer("/data/elicitations").map(Node::items).unwrap_or_default() {
        let shown = input_request(&invocation.target.upstream_id, Revision::V2025_11_25, "elicitation/create", page.text(text))?;
        let params = shown.strip_prefix(QUESTION).and_then(|rest| rest.strip_suffix(b"}")).ok_or("it is no question")?;
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(params);
    }
    out.push(b']');
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_string(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
