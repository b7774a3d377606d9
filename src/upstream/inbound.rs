//! What a server sent, told apart: spans of it.
//!
//! Leaves to others: finding the waiting call (`stdio`, `stream`).
//! INVARIANT: what is not one sound JSON-RPC message is refused whole; of a plain result only the envelope is read here, and the
//! result by whoever asked for it.

use bytes::Bytes;

use super::request::Outcome;
use crate::mcp::json::{self, Node, Value};
use crate::mcp::jsonrpc::{self, Id, Message};
use crate::mcp::log_level::LogLevel;
use crate::mcp::messages::Offers;
use crate::mcp::revision::{Era, Revision};

/// Messages in one array (2025-03-26); more are refused.
const MAX_BATCH: usize = 256;

/// Longest URI of a resource that has changed, in bytes.
const MAX_URI_BYTES: usize = 8 * 1024;

/// A message of a server may be deeper and longer than an agent's: a page of tools is one. About 60 bytes a value while it is
/// being told apart.
pub(super) const LIMITS: json::Limits = json::Limits { depth: 128, nodes: 1_000_000 };

/// One message of a server.
#[derive(Clone, Debug)]
pub(super) enum Inbound {
    /// The answer to the request that we sent under `id`; `None` where the server could not read the id, or it is none of ours.
    Answer {
        /// Our id.
        id: Option<u64>,
        /// What it says.
        outcome: Outcome,
    },
    /// Progress of the request with that id.
    Progress {
        /// Our id, which is the token.
        id: u64,
        /// The parameters without the token.
        params: Bytes,
    },
    /// A log message, an object.
    Log {
        /// How severe it says that it is.
        level: Option<LogLevel>,
        params: Bytes,
    },
    /// One of its lists has changed.
    ListChanged,
    /// A resource has changed: its URI.
    Updated(String),
    /// A request to us.
    Asked {
        /// The server's id.
        id: Id,
        /// Its method.
        method: String,
        /// Its parameters, an object.
        params: Option<Bytes>,
    },
    /// It does not go on with this: its own request (legacy), or ours to listen (2026-07-28).
    Cancelled(Id),
    /// A notification that is of no concern here.
    Other,
}

/// Bytes that are no message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotMcp(pub(super) String);

/// Reads one transmission and hands over each message in it; more than one only where the revision has batches. Gives their
/// number.
pub(super) fn read(body: &Bytes, version: Option<Revision>, mut each: impl FnMut(Inbound)) -> Result<u32, NotMcp> {
    if let Some((id, span)) = jsonrpc::plain_result(body) {
        each(Inbound::Answer { id: Some(id), outcome: Outcome::Result(span) });
        return Ok(1);
    }
    let document = json::parse(body, LIMITS).map_err(|fault| NotMcp(fault.to_string()))?;
    let batches = version.is_some_and(Revision::has_batches);
    match &document.value {
        Value::Array(items) if batches && items.len() <= MAX_BATCH => {
            for item in items {
                each(message(body, item)?);
            }
            Ok(items.len().max(1) as u32)
        }
        _ => {
            each(message(body, &document)?);
            Ok(1)
        }
    }
}

fn message(body: &Bytes, node: &Node<'_>) -> Result<Inbound, NotMcp> {
    Ok(match jsonrpc::message(node).map_err(|error| NotMcp(error.to_string()))? {
        Message::Result { id, result } => Inbound::Answer { id: number(&id), outcome: Outcome::Result(result.span()) },
        Message::Failure { id, error } => Inbound::Answer { id: id.as_ref().and_then(number), outcome: Outcome::Failure(error.span()) },
        Message::Request { id, method, params } => {
            Inbound::Asked { id, method: method.to_owned(), params: params.map(|params| body.slice(params.span())) }
        }
        Message::Notification { method, params } => notification(body, method, params),
    })
}

fn number(id: &Id) -> Option<u64> {
    id.as_json().parse().ok()
}

fn notification(body: &Bytes, method: &str, params: Option<&Node<'_>>) -> Inbound {
    match (method, params) {
        ("notifications/progress", Some(params)) => match params.get("progressToken").and_then(Node::as_u64) {
            Some(id) => Inbound::Progress { id, params: without_token(body, params) },
            None => Inbound::Other,
        },
        ("notifications/message", Some(params)) => {
            let level = params.get("level").and_then(Node::as_str).and_then(LogLevel::parse);
            Inbound::Log { level, params: body.slice(params.span()) }
        }
        ("notifications/tools/list_changed" | "notifications/prompts/list_changed" | "notifications/resources/list_changed", _) => {
            Inbound::ListChanged
        }
        ("notifications/resources/updated", Some(params)) => match params.get("uri").and_then(Node::as_str) {
            Some(uri) if uri.len() <= MAX_URI_BYTES => Inbound::Updated(uri.to_owned()),
            _ => Inbound::Other,
        },
        ("notifications/cancelled", Some(params)) => params.get("requestId").and_then(Id::of).map_or(Inbound::Other, Inbound::Cancelled),
        _ => Inbound::Other,
    }
}

fn without_token(body: &Bytes, params: &Node<'_>) -> Bytes {
    let mut out = Vec::with_capacity(params.span().len());
    out.push(b'{');
    for member in params.members().iter().filter(|member| member.key != "progressToken") {
        if out.len() > 1 {
            out.push(b',');
        }
        crate::mcp::canonical::write_string(&member.key, &mut out);
        out.push(b':');
        out.extend_from_slice(member.node.text(body));
    }
    out.push(b'}');
    out.into()
}

/// Parts of a JSON-RPC error object that we act on ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) message: String,
    /// `data.supported` of an unsupported version.
    pub(super) supported: Vec<String>,
}

/// Reads an error object; text that is none gives code 0.
pub(super) fn refusal(error: &[u8]) -> Refusal {
    let Ok(node) = json::parse(error, LIMITS) else { return Refusal::default() };
    let code = match node.get("code").map(|code| &code.value) {
        Some(Value::Number(digits)) => digits.parse().unwrap_or(0),
        _ => 0,
    };
    // The text comes from the server and goes to the operator's log: short, and on one line.
    let message = node.get("message").and_then(Node::as_str).unwrap_or_default();
    let message = message.chars().take(200).flat_map(char::escape_debug).collect();
    Refusal { code, message, supported: strings(node.pointer("/data/supported")) }
}

/// The strings of an array.
pub(super) fn strings(node: Option<&Node<'_>>) -> Vec<String> {
    node.map(Node::items).unwrap_or_default().iter().filter_map(Node::as_str).map(str::to_owned).collect()
}

/// What a server says of itself in a `DiscoverResult` or an `InitializeResult`.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) version: Revision,
    pub(super) server_info: Option<Bytes>,
    pub(super) instructions: Option<String>,
    pub(super) offers: Offers,
    pub(super) tells: Tells,
}

/// The changes that a server tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tells {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
    /// Single resources, to whoever subscribes to them.
    pub(super) watched: bool,
}

impl Tells {
    fn of(capabilities: &Node<'_>, offers: Offers) -> Self {
        let says = |pointer| capabilities.pointer(pointer).and_then(Node::as_bool) == Some(true);
        Self {
            tools: says("/tools/listChanged"),
            prompts: says("/prompts/listChanged"),
            resources: says("/resources/listChanged"),
            watched: offers.subscribe,
        }
    }
}

/// Reads the result at `span` of `body` as a greeting. The versions are those of a `DiscoverResult`.
pub(super) fn greeting(body: &Bytes, span: std::ops::Range<usize>, era: Era) -> Result<Greeting, GreetingFault> {
    let text = body.get(span.clone()).unwrap_or_default();
    let node = json::parse(text, LIMITS).map_err(|_| GreetingFault::Strange)?;
    let raw = |node: &Node<'_>| body.slice(span.start + node.span().start..span.start + node.span().end);
    let (version, info) = match era {
        Era::Modern => (Revision::NEWEST, node.get("_meta").and_then(|meta| meta.get("io.modelcontextprotocol/serverInfo"))),
        Era::Legacy => {
            let text = node.get("protocolVersion").and_then(Node::as_str).ok_or(GreetingFault::Strange)?;
            // A modern server has no handshake, so 2026-07-28 is no answer to one.
            let version = Revision::parse(text).filter(|version| version.era() == Era::Legacy).ok_or(GreetingFault::Version)?;
            (version, node.get("serverInfo"))
        }
    };
    let capabilities = node.get("capabilities");
    // Completion had no capability in 2024-11-05.
    let offers = capabilities.map(|node| Offers::of(node, version == Revision::V2024_11_05)).unwrap_or_default();
    Ok(Greeting {
        version,
        server_info: info.map(raw),
        instructions: node.get("instructions").and_then(Node::as_str).map(str::to_owned),
        offers,
        tells: capabilities.map(|node| Tells::of(node, offers)).unwrap_or_default(),
    })
}

/// Why a result is no greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GreetingFault {
    /// Of another shape.
    Strange,
    /// A revision that we do not speak.
    Version,
}

/// `supportedVersions` of a `DiscoverResult`; `None` where the result is none.
pub(super) fn supported_versions(result: &[u8]) -> Option<Vec<String>> {
    let node = json::parse(result, LIMITS).ok()?;
    node.get("supportedVersions").filter(|node| matches!(node.value, Value::Array(_))).map(|node| strings(Some(node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &'static str) -> Inbound {
        let mut found = None;
        read(&Bytes::from_static(text.as_bytes()), None, |inbound| found = Some(inbound)).unwrap();
        found.unwrap()
    }

    #[test]
    fn progress_loses_its_token_and_nothing_else() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0.50,"progressToken":7,"message":"\u0041"}}"#;
        let Inbound::Progress { id: 7, params } = one(text) else { panic!("not progress") };
        assert_eq!(params, r#"{"progress":0.50,"message":"\u0041"}"#);
    }

    #[test]
    fn arrays_are_messages_only_where_the_revision_has_them() {
        let body = Bytes::from_static(br#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":1,"result":{}}]"#);
        assert!(read(&body, Some(Revision::V2025_06_18), |_| {}).is_err());
        let mut count = 0;
        read(&body, Some(Revision::V2025_03_26), |_| count += 1).unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn an_id_that_is_text_is_none_of_ours() {
        assert!(matches!(one(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#), Inbound::Answer { id: None, .. }));
    }
}
