//! What one HTTP message is, which revision it is of, and what is answered.
//!
//! INVARIANT: a message of a handshake revision is understood only within a session of the principal who sent it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::buffers::Taken;
use super::dispatch::{Side, Turn, Wire};
use super::headers::ParamHeaders;
use super::http::{Exchange, SESSION, VERSION, json, plain, step_up};
use super::stream::{Answer, HttpDownstream};
use super::subscribe::{self, Listening};
use super::{headers, level};
use crate::error::{Code, Error};
use crate::gateway::{self, Gateway};
use crate::invocation::Caller;
use crate::mcp::json::{self, Node, Value};
use crate::mcp::jsonrpc::{Id, Message, message};
use crate::mcp::messages::{Downstream, Meta};
use crate::mcp::respond;
use crate::mcp::revision::Revision;

impl Exchange {
    /// Understands one message and answers it.
    pub(super) async fn message(
        &self,
        gateway: Arc<Gateway>,
        mut caller: Caller,
        headers: &HeaderMap,
        body: &Bytes,
        downstream: &HttpDownstream,
        cancel: &CancellationToken,
    ) -> Outgoing {
        let document = match json::parse(body, self.service.limits()) {
            Ok(document) => document,
            Err(fault) => {
                let error = Error::new(Code::MalformedRequest, format!("the body cannot be read: {fault}")).wire(-32700, 400);
                return self.unread(&gateway, &caller, body, error).await;
            }
        };
        if let Value::Array(items) = &document.value {
            return Box::pin(self.batch(&gateway, caller, headers, items, body, downstream)).await;
        }
        let message = match message(&document) {
            Ok(message) => message,
            Err(error) => return self.unread(&gateway, &caller, body, error).await,
        };
        let settled = self.settle(&mut caller, headers, &message);
        let (id, method, params) = match &message {
            Message::Request { id, method, params } => (Some(id), *method, *params),
            Message::Notification { method, params } => (None, *method, *params),
            Message::Result { .. } | Message::Failure { .. } => {
                return match settled.and_then(|settled| self.answered(&settled, &message, body)) {
                    Ok(()) => Outgoing::accepted(),
                    Err(error) => self.unread(&gateway, &caller, body, error).await,
                };
            }
        };
        let settled = match settled {
            Ok(settled) => settled,
            Err(error) => return Outgoing::refusal(id, gateway.refuse(&caller, method, id, error).await),
        };
        if let (true, Some(id), subscribe::METHOD) = (settled.revision.is_modern(), id, method) {
            // It stays open, and a snapshot must not stay with it.
            drop(gateway);
            return Box::pin(self.listen(&caller, id, params, downstream, cancel)).await;
        }
        let (revision, conversation) = (settled.revision, settled.conversation.as_ref());
        let back = (!revision.is_modern()).then(|| downstream.of_handshake(conversation, revision));
        let turn = Turn {
            service: &self.service,
            gateway: &gateway,
            caller: &caller,
            revision,
            conversation,
            side: back.as_ref().map_or(Side::Modern(Some(&settled.params)), |back| Side::Handshake(back)),
            text: body,
            buffers: Some(self.service.buffers()),
            downstream,
            cancel,
        };
        match id {
            None => match turn.notification(method, params).await {
                None => Outgoing::accepted(),
                Some(refused) => Outgoing::refusal(None, refused),
            },
            Some(id) => self.outgoing(turn.request(id, method, params).await, &caller),
        }
    }

    async fn listen(
        &self,
        caller: &Caller,
        id: &Id,
        params: Option<&Node<'_>>,
        downstream: &HttpDownstream,
        cancel: &CancellationToken,
    ) -> Outgoing {
        if !downstream.streams() {
            let error = Error::new(Code::MalformedRequest, "the client takes no event stream, and a subscription is nothing else")
                .wire(-32600, 406)
                .suggest("send `Accept: application/json, text/event-stream`");
            return Outgoing::refusal(Some(id), self.service.gateway().refuse(caller, subscribe::METHOD, Some(id), error).await);
        }
        let listening = Listening { service: &self.service, caller, id, downstream, cancel };
        match listening.run(params).await {
            Ok(body) => Outgoing { status: StatusCode::OK, body, session: None, challenge: None, taken: None },
            Err(refused) => Outgoing::refusal(Some(id), refused),
        }
    }

    /// Answers an array of messages. One that comes in no session has not been agreed on.
    async fn batch(
        &self,
        gateway: &Gateway,
        mut caller: Caller,
        headers: &HeaderMap,
        items: &[Node<'_>],
        body: &Bytes,
        downstream: &HttpDownstream,
    ) -> Outgoing {
        let modern = caller.revision.is_some_and(Revision::is_modern);
        let settled = match self.in_session(&mut caller, headers, None) {
            Ok(settled) if !modern => settled,
            Err(error) if !modern && headers.contains_key(SESSION) => return self.unread(gateway, &caller, body, error).await,
            _ => {
                let error = Error::new(Code::MalformedRequest, "the message is not a JSON object");
                return self.unread(gateway, &caller, body, error).await;
            }
        };
        let back = downstream.of_handshake(settled.conversation.as_ref(), settled.revision);
        let turn = Turn {
            service: &self.service,
            gateway,
            caller: &caller,
            revision: settled.revision,
            conversation: settled.conversation.as_ref(),
            side: Side::Handshake(&back),
            text: body,
            buffers: Some(self.service.buffers()),
            downstream,
            cancel: downstream.cancelled(),
        };
        match turn.batch(items, true).await {
            Ok(Some(wire)) => self.outgoing(wire, &caller),
            Ok(None) => Outgoing::accepted(),
            Err(error) => self.unread(gateway, &caller, body, error).await,
        }
    }

    /// Takes the answer to a question of ours. Only an agent in a session is asked anything.
    fn answered(&self, settled: &Settled, message: &Message<'_, '_>, body: &Bytes) -> Result<(), Error> {
        let taken = settled.conversation.as_ref().is_some_and(|name| self.service.asks().answered(name, message, body));
        if taken { Ok(()) } else { Err(Error::new(Code::MalformedRequest, "no answer was asked for")) }
    }

    fn outgoing(&self, wire: Wire, caller: &Caller) -> Outgoing {
        let challenge = wire.scopes.and_then(|scopes| step_up(&self.service.gateway(), &scopes));
        let begun = wire.negotiated.map(|settled| self.service.0.sessions.begin(&caller.principal, &settled));
        let (status, taken) = (StatusCode::from_u16(wire.status).unwrap_or(StatusCode::OK), wire.taken);
        match begun.transpose() {
            Ok(session) => Outgoing { status, body: wire.body, session, challenge, taken },
            Err(error) => Outgoing {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                body: respond::error(None, &error, ""),
                session: None,
                challenge: None,
                taken: None,
            },
        }
    }

    async fn unread(&self, gateway: &Gateway, caller: &Caller, body: &[u8], error: Error) -> Outgoing {
        Outgoing::refusal(None, gateway.unread(caller, body, error).await)
    }

    /// Which revision the message is of, and which conversation it belongs to (`mcp-for-gateways`: evidence in order).
    fn settle(&self, caller: &mut Caller, headers: &HeaderMap, message: &Message<'_, '_>) -> Result<Settled, Error> {
        let (method, params, is_request) = match message {
            Message::Request { method, params, .. } => (*method, *params, true),
            Message::Notification { method, params } => (*method, *params, false),
            Message::Result { .. } | Message::Failure { .. } => ("", None, false),
        };
        let meta = Meta::of(params);
        let named = headers::text(headers, &VERSION);
        // Revision names are dates, so a later one is greater as text too.
        let modern = meta.is_modern() || named.is_some_and(|named| named >= Revision::NEWEST.as_str());
        if modern {
            caller.client = meta.client();
            caller.capabilities = meta.capabilities();
            caller.log_level = meta.log_level();
            let revision = if is_request { headers::check_modern(Some(headers), method, params)? } else { Revision::NEWEST };
            caller.revision = Some(revision);
            // No other request has such headers (2026-07-28, streamable HTTP).
            let params = if method == "tools/call" { headers::params(headers)? } else { Vec::new() };
            return Ok(Settled { revision, conversation: None, params });
        }
        if method == "initialize" {
            return Ok(Settled { revision: Revision::NEWEST_LEGACY, conversation: None, params: Vec::new() });
        }
        self.in_session(caller, headers, params)
    }

    /// The session that the headers name.
    fn in_session(&self, caller: &mut Caller, headers: &HeaderMap, params: Option<&Node<'_>>) -> Result<Settled, Error> {
        let named = headers::text(headers, &VERSION);
        if !headers.contains_key(SESSION) {
            return Err(no_session(named, params));
        }
        let session = self.service.0.sessions.open(headers::text(headers, &SESSION).unwrap_or_default(), &caller.principal)?;
        if named.is_some_and(|named| Revision::parse(named).is_none_or(|named| named != session.revision)) {
            let message = "the header `MCP-Protocol-Version` is not the revision that the session began with";
            return Err(Error::new(Code::HeaderMismatch, message).wire(-32600, 400));
        }
        caller.revision = Some(session.revision);
        caller.client = session.client;
        caller.capabilities = session.capabilities;
        caller.log_level = Some(self.service.streams().level(&session.name).unwrap_or(level::UNSET));
        caller.session = Some(Arc::clone(&session.name));
        Ok(Settled { revision: session.revision, conversation: Some(session.name), params: Vec::new() })
    }
}

fn no_session(named: Option<&str>, params: Option<&Node<'_>>) -> Error {
    let known = named.is_none_or(|named| Revision::parse(named).is_some());
    if !known && params.is_none_or(|params| params.get("_meta").is_none()) {
        return headers::unsupported(named.unwrap_or_default());
    }
    Error::new(Code::SessionInvalid, "the request belongs to no session and describes itself by no `_meta`")
        .wire(-32600, 400)
        .suggest("send `initialize` first, or the `_meta` and headers that 2026-07-28 asks for")
}

/// What a message's headers and `_meta` say of it.
struct Settled {
    revision: Revision,
    conversation: Option<Arc<str>>,
    /// The `Mcp-Param-*` headers of a call of 2026-07-28.
    params: ParamHeaders,
}

/// A finished answer.
pub(super) struct Outgoing {
    pub status: StatusCode,
    pub body: Bytes,
    session: Option<String>,
    challenge: Option<HeaderValue>,
    /// What is counted for the body.
    pub taken: Option<Taken>,
}

impl Outgoing {
    /// Nothing to say, as after a notification.
    pub(super) fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, body: Bytes::new(), session: None, challenge: None, taken: None }
    }

    /// A refusal as the JSON-RPC error that it is, with its own status.
    fn refusal(id: Option<&Id>, refused: gateway::Answer) -> Self {
        let error = refused.outcome.err();
        let status = error.as_ref().and_then(|error| StatusCode::from_u16(error.http()).ok()).unwrap_or(StatusCode::BAD_REQUEST);
        let body = error.map(|error| respond::error(id, &error, &refused.invocation)).unwrap_or_default();
        Self { status, body, session: None, challenge: None, taken: None }
    }

    pub(super) fn whole(self) -> Response<Answer> {
        let body = Taken::with(self.taken, self.body);
        let mut response = if body.is_empty() { plain(self.status, "") } else { json(self.status, body) };
        if let Some(session) = self.session.and_then(|session| HeaderValue::from_str(&session).ok()) {
            response.headers_mut().insert(SESSION, session);
        }
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
