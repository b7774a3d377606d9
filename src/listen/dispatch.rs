//! What each message does, whatever transport it came by. Requests that name a target take the gateway's path, others are
//! answered in `methods`.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::asks::Back;
use super::buffers::{Buffers, Taken};
use super::methods::is_offered;
use super::rounds::{self, Asked};
use super::session::Negotiated;
use super::{Service, admission};
use crate::error::{Code, Error};
use crate::gateway::{Answer, Gateway, needed_scopes};
use crate::invocation::Caller;
use crate::limit::slots::Full;
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Downstream, Method, Request};
use crate::mcp::respond::{self, Ending};
use crate::mcp::revision::Revision;

/// A client of 2025-11-25 opens the pages that an error with this number names; in a result it would not find them.
const PAGES_FIRST: i32 = -32042;

/// One message on its way through dispatch.
pub struct Turn<'t> {
    /// The service.
    pub service: &'t Service,
    /// The snapshot that serves this message.
    pub gateway: &'t Gateway,
    /// Who sent it.
    pub caller: &'t Caller,
    /// The message's revision.
    pub revision: Revision,
    /// The conversation whose calls a `notifications/cancelled` can name.
    pub conversation: Option<&'t Arc<str>>,
    /// The message's bytes.
    pub text: &'t [u8],
    /// What only one era has.
    pub side: Side<'t>,
    /// Where answers are held that the agent has not taken; a pipe has one agent, and holds one at a time.
    pub buffers: Option<&'t Arc<Buffers>>,
    /// Back to the agent.
    pub downstream: &'t dyn Downstream,
    /// Ends when the agent cancels.
    pub cancel: &'t CancellationToken,
}

/// The era that the agent is of, with what only that era has.
#[derive(Clone, Copy)]
pub enum Side<'t> {
    /// 2026-07-28: the `Mcp-Param-*` headers, over HTTP.
    Modern(Option<&'t [(Box<str>, Box<str>)]>),
    /// A handshake revision: the way to ask the agent.
    Handshake(&'t dyn Back),
}

/// An answer on its way out.
pub struct Wire {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC response.
    pub body: Bytes,
    /// What `initialize` settled.
    pub negotiated: Option<Negotiated>,
    /// The scopes that a token lacked some of, in quotes.
    pub scopes: Option<String>,
    /// What is counted for it.
    pub taken: Option<Taken>,
}

impl Wire {
    /// A success.
    pub fn ok(body: Bytes) -> Self {
        Self { status: 200, body, negotiated: None, scopes: None, taken: None }
    }
}

impl Turn<'_> {
    /// Answers a request.
    pub async fn request(&self, id: &Id, method: &str, params: Option<&Node<'_>>) -> Wire {
        match Method::parse(method) {
            Some(method) if method == Method::CallTool || is_offered(method, self.gateway.offers()) => self.call(id, method, params).await,
            _ => Box::pin(self.answered_here(id, method, params)).await,
        }
    }

    /// Takes a notification. Those that mean nothing here are ignored, as JSON-RPC asks; a call is refused and recorded,
    /// and the refusal returned for a transport that can tell it.
    pub async fn notification(&self, method: &str, params: Option<&Node<'_>>) -> Option<Answer> {
        match method {
            "notifications/cancelled" => self.cancel(params),
            "tools/call" => {
                let error = Error::new(Code::MalformedRequest, "the call has no `id`, so nobody could be told how it ended")
                    .suggest("send `tools/call` as a request with an `id`");
                return Some(self.gateway.refuse(self.caller, method, None, error).await);
            }
            _ => {}
        }
        None
    }

    fn cancel(&self, params: Option<&Node<'_>>) {
        let id = params.and_then(|params| params.get("requestId")).and_then(Id::of);
        if let (Some(conversation), Some(id)) = (self.conversation, id)
            && let Some(call) = self.service.0.in_flight.get(&(Arc::clone(conversation), id))
        {
            call.cancel();
        }
    }

    /// Records a refusal and puts it into the form that the revision has for it.
    pub async fn refuse(&self, id: &Id, method: &str, error: Error) -> Wire {
        let answer = self.gateway.refuse(self.caller, method, Some(id), error).await;
        self.wire(id, Method::parse(method), answer)
    }

    async fn call(&self, id: &Id, method: Method, params: Option<&Node<'_>>) -> Wire {
        let mut call = match Request::read(method, params, self.text) {
            Ok(call) => call,
            // The envelope is not sound, so this is no call yet: a JSON-RPC error.
            Err(error) => return self.malformed(id, method, error).await,
        };
        if let Side::Modern(headers) = self.side {
            call.param_headers = headers;
        }
        if let Some(timeout) = self.caller.timeout {
            let deadline = Instant::now() + timeout;
            call.deadline = Some(call.deadline.map_or(deadline, |said| said.min(deadline)));
        }
        let Ok(place) = self.service.0.calls.try_acquire() else {
            return self.refuse(id, method.as_str(), admission::no_place()).await;
        };
        if self.service.is_draining() {
            let error = Error::new(Code::ShuttingDown, "the gateway is stopping").retry_after_ms(1_000);
            return self.refuse(id, method.as_str(), error).await;
        }
        let _listed = match self.conversation.map(|conversation| InFlight::enter(self.service, conversation, id, self.cancel)) {
            Some(None) => {
                let error = Error::new(Code::MalformedRequest, "the id is that of a call which is still under way");
                return self.malformed(id, method, error).await;
            }
            listed => listed,
        };
        let mut answer = self.gateway.call(self.caller, id, &call, self.text, self.downstream).await;
        if let (Ok(Ending::Asks(_)), Side::Handshake(back), Some(conversation)) = (&answer.outcome, self.side, self.conversation) {
            answer = Box::pin(rounds::drive(self, Asked { back, conversation, place }, id, &call, answer)).await;
        }
        self.wire(id, Some(method), answer)
    }

    async fn malformed(&self, id: &Id, method: Method, error: Error) -> Wire {
        let recorded = if method == Method::CallTool { "tools/call (malformed)" } else { method.as_str() };
        let answer = self.gateway.refuse(self.caller, recorded, Some(id), error).await;
        self.wire(id, None, answer)
    }

    /// What a model can act on is a result of `tools/call`; what its client has to see to is the protocol's own error.
    fn wire(&self, id: &Id, method: Option<Method>, answer: Answer) -> Wire {
        let error = match answer.outcome {
            Ok(ending) => match self.held(Wire::ok(respond::answer(id, self.revision, &ending))) {
                Ok(wire) => return wire,
                // It has ended as it is recorded; only the agent does not get what came of it.
                Err(full) => admission::undelivered(full, &ending),
            },
            Err(error) => error,
        };
        let modern = self.revision.is_modern();
        let is_protocols = match error.code() {
            Code::ToolNotFound | Code::StateInvalid | Code::HeaderMismatch | Code::InsufficientScope => true,
            Code::ClientCapabilityMissing => modern,
            _ => error.jsonrpc() == PAGES_FIRST,
        };
        if method == Some(Method::CallTool) && !is_protocols {
            return Wire::ok(respond::tool_error(id, self.revision, &error, &answer.invocation));
        }
        let error = if modern { error } else { as_of_old(error, method) };
        let scopes = needed_scopes(&error).map(str::to_owned);
        let status = if modern || scopes.is_some() { error.http() } else { 200 };
        Wire { status, scopes, ..Wire::ok(respond::error(Some(id), &error, &answer.invocation)) }
    }

    /// The answer with what is counted for it.
    ///
    /// # Errors
    /// Why it is not to be held.
    pub(super) fn held(&self, wire: Wire) -> Result<Wire, Full> {
        let agent = &self.caller.principal.id;
        let taken = self.buffers.map_or(Ok(None), |buffers| buffers.answer(agent, wire.body.len()))?;
        Ok(Wire { taken, ..wire })
    }
}

/// The numbers that the handshake revisions have for what 2026-07-28 says otherwise.
fn as_of_old(error: Error, method: Option<Method>) -> Error {
    match (error.code(), method) {
        // A client of theirs cannot declare a capability for one request.
        (Code::ClientCapabilityMissing, _) => error.wire(-32603, 200),
        // 2025-11-25, resources, "Error Handling".
        (_, Some(Method::ReadResource)) if error.jsonrpc() == -32602 && error.data_members().iter().any(|(key, _)| *key == "uri") => {
            error.wire(-32002, 200)
        }
        _ => error,
    }
}

/// A call's entry among those that can be cancelled by id; leaves with the call.
pub(super) struct InFlight<'s> {
    service: &'s Service,
    key: (Arc<str>, Id),
}

impl<'s> InFlight<'s> {
    /// `None` when another call of the conversation has this id: a cancellation could not tell them apart.
    pub(super) fn enter(service: &'s Service, conversation: &Arc<str>, id: &Id, cancel: &CancellationToken) -> Option<Self> {
        let key = (Arc::clone(conversation), id.clone());
        match service.0.in_flight.entry(key.clone()) {
            dashmap::Entry::Occupied(_) => None,
            dashmap::Entry::Vacant(free) => {
                free.insert(cancel.clone());
                Some(Self { service, key })
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.service.0.in_flight.remove(&self.key);
    }
}
