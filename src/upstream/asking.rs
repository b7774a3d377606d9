//! What a server asks of us while it works: a person's answer, a model's, the agent's folders.
//!
//! Owns: to whom a question goes, and the answer where it goes to nobody. Leaves to others: waiting for what the agent says.
//! INVARIANT: a question that was not declared, or that belongs to no single call, is refused and reported; nobody sees it.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::request::Sent;
use super::session::Place;
use super::shared::Shared;
use super::wire;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Limits};
use crate::mcp::jsonrpc::Id;
use crate::mcp::revision::Era;

/// Bounds of a question's parameters. An agent parses them once more.
const LIMITS: Limits = Limits { depth: 64, nodes: 100_000 };
/// JSON-RPC's number for a method that is not there.
const NO_SUCH_METHOD: i32 = -32601;

/// Where the questions of one call go, and which may be asked.
#[derive(Debug)]
pub(super) struct Asker {
    /// What the server was told that it may ask for.
    pub(super) declared: Capabilities,
    pub(super) questions: mpsc::Sender<Question>,
}

/// A server's request to whoever called it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The server's id.
    pub(super) id: Id,
    pub(super) method: String,
    /// JSON text; empty where there are none.
    pub(super) params: Bytes,
    /// The session that it came in, over HTTP.
    pub(super) place: Option<Place>,
}

/// Takes a server's request that came while `call` was under way, where that is known. Gives what to send back, unless
/// somebody is asked.
pub(super) fn take(shared: &Shared, era: Era, asked: Question, asker: Option<&Asker>, call: Option<u128>) -> Option<Vec<u8>> {
    if era == Era::Legacy && asked.method == "ping" {
        return Some(wire::result(&asked.id, b"{}"));
    }
    let (id, method) = (asked.id.clone(), asked.method.clone());
    if let Some(asker) = asker.filter(|asker| era == Era::Legacy && may_ask(&asked, asker.declared))
        && asker.questions.try_send(asked).is_ok()
    {
        return None;
    }
    if method != "ping" {
        shared.refused(&method, call);
    }
    // A modern server asks nothing, and no client answers one (2026-07-28, basic).
    (era == Era::Legacy).then(|| wire::refusal(&id, NO_SUCH_METHOD, "method not found"))
}

/// A server that asks something has begun to work on the request. A `ping` is about the connection.
pub(super) fn begins(sent: &Sent, method: &str) {
    if method != "ping" {
        sent.asked();
    }
}

fn may_ask(asked: &Question, declared: Capabilities) -> bool {
    let params = if asked.params.is_empty() { b"{}".as_slice() } else { &asked.params };
    let needed = json::parse(params, LIMITS).ok().and_then(|params| Capabilities::needs(&asked.method, Some(&params)));
    needed.is_some_and(|needed| declared.contains(needed))
}
