//! What each method does, whatever transport it came by: a few are answered here, `tools/call` takes the gateway's path.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::error::{Code, Effect, Error};
use crate::gateway::{Answer, Gateway, Listed};
use crate::invocation::Caller;
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Downstream, Method, Request, client_name, invalid_params};
use crate::mcp::respond::{self, Ending};
use crate::mcp::revision::Revision;

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
    /// Back to the agent.
    pub downstream: &'t dyn Downstream,
    /// Ends when the agent cancels.
    pub cancel: &'t CancellationToken,
}

/// An answer on its way out.
pub struct Wire {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC response.
    pub body: Bytes,
    /// What `initialize` settled: the revision, and the client's name.
    pub negotiated: Option<(Revision, Option<String>)>,
}

impl Wire {
    fn ok(body: Bytes) -> Self {
        Self { status: 200, body, negotiated: None }
    }
}

impl Turn<'_> {
    /// Answers a request.
    pub async fn request(&self, id: &Id, method: &str, params: Option<&Node<'_>>) -> Wire {
        if let Some(method) = Method::parse(method) {
            return self.call(id, method, params).await;
        }
        match (self.revision.is_modern(), method) {
            (_, "tools/list") => self.list(id, Listed::Tools, method, params).await,
            (_, "prompts/list") => self.list(id, Listed::Prompts, method, params).await,
            (_, "resources/list") => self.list(id, Listed::Resources, method, params).await,
            (_, "resources/templates/list") => self.list(id, Listed::Templates, method, params).await,
            (true, "server/discover") => Wire::ok(discover(id)),
            (false, "initialize") => self.initialize(id, params).await,
            (false, "ping") => Wire::ok(respond::result(id, &[])),
            _ => self.refuse(id, method, Error::new(Code::MethodNotFound, "the method is not served here")).await,
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
        self.wire(id, method == "tools/call", answer)
    }

    async fn call(&self, id: &Id, method: Method, params: Option<&Node<'_>>) -> Wire {
        // The envelope is not sound, so this is no call yet: a JSON-RPC error.
        let malformed = match method {
            Method::CallTool => "tools/call (malformed)",
            _ => method.as_str(),
        };
        let call = match Request::read(method, params, self.text) {
            Ok(call) => call,
            Err(error) => return self.refuse(id, malformed, error).await,
        };
        let name = method.as_str();
        let Ok(_place) = self.service.0.calls.try_acquire() else {
            let error = Error::new(Code::Overloaded, "the gateway has as many calls under way as it takes").retry_after_ms(100);
            return self.refuse(id, name, error).await;
        };
        if self.service.is_draining() {
            let error = Error::new(Code::ShuttingDown, "the gateway is stopping").retry_after_ms(1_000);
            return self.refuse(id, name, error).await;
        }
        let _listed = match self.conversation.map(|conversation| InFlight::enter(self.service, conversation, id, self.cancel)) {
            Some(None) => {
                let error = Error::new(Code::MalformedRequest, "the id is that of a call which is still under way");
                return self.refuse(id, malformed, error).await;
            }
            listed => listed,
        };
        let answer = self.gateway.call(self.caller, id, &call, self.text, self.downstream).await;
        self.wire(id, method == Method::CallTool, answer)
    }

    fn wire(&self, id: &Id, is_call: bool, answer: Answer) -> Wire {
        match answer.outcome {
            // No agent of these revisions is asked anything yet, and in a result it would not know a question.
            Ok(Ending::Asks(_)) if !self.revision.is_modern() => {
                let error =
                    Error::new(Code::ClientCapabilityMissing, "the tool server asks for input, which is not passed on to this agent");
                Wire::ok(respond::tool_error(
                    id,
                    self.revision,
                    &error.from_upstream().after_effect(Effect::Unknown, false),
                    &answer.invocation,
                ))
            }
            Ok(ending) => Wire::ok(respond::answer(id, self.revision, &ending)),
            // What a model can act on is a result; a name that does not exist is the protocol's -32602.
            Err(error) if is_call && error.code() != Code::ToolNotFound => {
                Wire::ok(respond::tool_error(id, self.revision, &error, &answer.invocation))
            }
            Err(error) => {
                let status = if self.revision.is_modern() { error.http() } else { 200 };
                Wire { status, body: respond::error(Some(id), &error, &answer.invocation), negotiated: None }
            }
        }
    }

    async fn list(&self, id: &Id, what: Listed, method: &str, params: Option<&Node<'_>>) -> Wire {
        let cursor = params.and_then(|params| params.get("cursor"));
        if cursor.is_some_and(|cursor| cursor.as_str().is_none()) {
            return self.refuse(id, method, invalid_params("`params.cursor` is not a string")).await;
        }
        match self.gateway.list(what, self.caller, self.revision, cursor.and_then(Node::as_str)) {
            Ok(page) => {
                Wire::ok(respond::page(id, self.revision, what.member(), &page.items, page.next.as_deref(), page.ttl_ms, &page.unavailable))
            }
            Err(error) => self.refuse(id, method, error).await,
        }
    }

    async fn initialize(&self, id: &Id, params: Option<&Node<'_>>) -> Wire {
        let asked = params.and_then(|params| params.get("protocolVersion")).and_then(Node::as_str);
        let Some(asked) = asked else {
            return self.refuse(id, "initialize", invalid_params("`params.protocolVersion` is missing")).await;
        };
        let revision = Revision::parse(asked).filter(|revision| !revision.is_modern()).unwrap_or(Revision::NEWEST_LEGACY);
        let client = params.and_then(|params| params.get("clientInfo")).map(client_name);
        let head = format!(
            "\"protocolVersion\":\"{}\",\"capabilities\":{{\"tools\":{{}}}},\"serverInfo\":{}",
            revision.as_str(),
            respond::SERVER_INFO
        );
        Wire { status: 200, body: respond::result(id, &[head.as_bytes()]), negotiated: Some((revision, client)) }
    }
}

fn discover(id: &Id) -> Bytes {
    let members = format!(
        "\"supportedVersions\":[\"{}\"],\"capabilities\":{{\"tools\":{{}}}},\"resultType\":\"complete\",\"ttlMs\":3600000,\"cacheScope\":\"public\",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{}}}",
        Revision::NEWEST.as_str(),
        respond::SERVER_INFO
    );
    respond::result(id, &[members.as_bytes()])
}

/// A call's entry among those that can be cancelled by id; leaves with the call.
struct InFlight<'s> {
    service: &'s Service,
    key: (Arc<str>, Id),
}

impl<'s> InFlight<'s> {
    /// `None` when another call of the conversation has this id: a cancellation could not tell them apart.
    fn enter(service: &'s Service, conversation: &Arc<str>, id: &Id, cancel: &CancellationToken) -> Option<Self> {
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
