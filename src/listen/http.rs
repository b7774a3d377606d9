//! Streamable HTTP towards agents, both eras on one endpoint.
//!
//! Owns: connections, the order of the checks before a message is understood, and the form of the answer.
//!
//! INVARIANT: who calls is known from the headers before a byte of the body is read.
//! INVARIANT: a call runs in a task of its own: a departing client ends a modern call with a record, and leaves a call of a
//! handshake revision running (2025-11-25, transports, "Sending Messages").

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::dispatch::{Turn, Wire};
use super::places::Places;
use super::stream::{Answer, Enduring, HttpDownstream, event};
use super::{Service, headers};
use crate::error::{Code, Error};
use crate::gateway::{self, Gateway};
use crate::identity::{Credentials, Principal};
use crate::invocation::Caller;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::jsonrpc::{Id, Message, message};
use crate::mcp::messages::Meta;
use crate::mcp::respond;
use crate::mcp::revision::Revision;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = headers::VERSION;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// A stream says that it lives at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Accepts connections until the service stops, then lets the open ones finish.
pub async fn serve(service: Service, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let places = Places::new(service.bounds());
    loop {
        let Some(free) = places.free().await else { return };
        let accepted = tokio::select! {
            () = service.stopping().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: the backlog keeps until one is free again.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = places.take(free, peer.ip()) else {
            tracing::debug!(%peer, "the address holds its share of the connections");
            continue;
        };
        let _ = socket.set_nodelay(true);
        // The kernel knows what the peer has taken. A timer on writes would only see that the send buffer has room again,
        // which takes megabytes with a fast peer, and would cut off one that reads slowly.
        let patience = u32::try_from(service.bounds().write_timeout_ms.value()).unwrap_or(u32::MAX);
        if let Err(error) = set_tcp_user_timeout(&socket, patience) {
            tracing::warn!(%peer, %error, "a connection without a write deadline was closed");
            continue;
        }
        let local = socket.local_addr().unwrap_or(service.bounds().http);
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            let patience = Duration::from_millis(service.bounds().header_timeout_ms.value());
            match tls {
                None => connection(service, socket, peer, local).await,
                Some(tls) => match tokio::time::timeout(patience, tls.accept(socket)).await {
                    Ok(Ok(socket)) => connection(service, socket, peer, local).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
                },
            }
            drop(place);
        });
    }
}

async fn connection(service: Service, socket: impl AsyncRead + AsyncWrite + Unpin + 'static, peer: SocketAddr, local: SocketAddr) {
    let stopping = service.stopping().clone();
    let bounds = service.bounds();
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(bounds.header_timeout_ms.value()))
        .max_buf_size(bounds.max_header_bytes.size().max(8192));
    let peer_text: Arc<str> = peer.to_string().into();
    let respond = service_fn(move |request| {
        let fault = ambiguous(&request);
        let exchange = Exchange { service: service.clone(), peer, peer_text: Arc::clone(&peer_text), local };
        async move {
            Ok::<_, std::convert::Infallible>(match fault {
                Some(fault) => last(plain(StatusCode::BAD_REQUEST, fault)),
                None => exchange.answer(request).await,
            })
        }
    });
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(socket), respond));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// What a proxy in front may have understood otherwise (RFC 9112, 3.2).
fn ambiguous(request: &Request<Incoming>) -> Option<&'static str> {
    let hosts = request.headers().get_all(HOST).iter().count();
    (hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11)).then_some("send one `Host`\n")
}

/// One HTTP request.
struct Exchange {
    service: Service,
    peer: SocketAddr,
    peer_text: Arc<str>,
    local: SocketAddr,
}

impl Exchange {
    async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let gateway = self.service.gateway();
        let (parts, body) = request.into_parts();
        if parts.uri.path() != self.service.bounds().path {
            return plain(StatusCode::NOT_FOUND, "there is nothing here; MCP is served at another path\n");
        }
        if headers::bytes(&parts.headers) > self.service.bounds().max_header_bytes.size() {
            return plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are larger than the gateway takes\n");
        }
        if !headers::is_from_allowed_place(&parts.headers, self.service.bounds(), self.local) {
            return plain(StatusCode::FORBIDDEN, "the `Origin` or `Host` of the request is not one of those allowed\n");
        }
        let principal = match self.who(&gateway, &parts.headers).await {
            Ok(principal) => principal,
            Err(refusal) => return refusal,
        };
        match parts.method {
            Method::POST => self.post(gateway, principal, parts.headers, body).await,
            Method::DELETE if parts.headers.contains_key(SESSION) => self.end_session(&parts.headers, &principal),
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "send MCP messages with POST\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
                response
            }
        }
    }

    /// Authentication and the request limits, which need no body.
    async fn who(&self, gateway: &Gateway, headers: &HeaderMap) -> Result<Principal, Response<Answer>> {
        let shown = Credentials {
            // What cannot be read is a wrong credential, and not the absence of one.
            authorization: headers::text(headers, &AUTHORIZATION).or(headers.contains_key(AUTHORIZATION).then_some("")),
            peer: self.peer.ip(),
            // Only asked of callers without a key, so only looked up for them.
            forwarded: !headers.contains_key(AUTHORIZATION) && headers::is_forwarded(headers),
        };
        let (who, error, status) = match gateway.authenticate(&shown) {
            Ok(principal) => match gateway.screen(&principal) {
                Ok(()) => return Ok(principal),
                Err(error) => (principal, error, StatusCode::TOO_MANY_REQUESTS),
            },
            // One that shares an address with somebody who guesses does not suffer: only failures are counted.
            Err(error) => match gateway.count_failure(self.peer.ip()) {
                Ok(()) => (Principal::unknown(), error, StatusCode::UNAUTHORIZED),
                Err(limited) => (Principal::unknown(), limited, StatusCode::TOO_MANY_REQUESTS),
            },
        };
        let caller = self.caller(who, headers);
        Err(self.refusal(gateway, &caller, error, status).await)
    }

    fn caller(&self, principal: Principal, headers: &HeaderMap) -> Caller {
        let revision = headers::text(headers, &VERSION).and_then(Revision::parse);
        Caller {
            principal,
            transport: "http",
            revision,
            client: None,
            capabilities: Capabilities::default(),
            log_level: None,
            peer: Some(Arc::clone(&self.peer_text)),
            session: None,
        }
    }

    /// Records a refusal that came before any message was understood.
    async fn refusal(&self, gateway: &Gateway, caller: &Caller, error: Error, status: StatusCode) -> Response<Answer> {
        let answer = gateway.refuse(caller, "http", None, error).await;
        let Err(error) = answer.outcome else { return plain(status, "") };
        let mut response = json(status, respond::error(None, &error, &answer.invocation));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"doorward\""));
        }
        if let Some(wait) = error.wait_ms() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000)));
        }
        response
    }

    fn end_session(&self, headers: &HeaderMap, principal: &Principal) -> Response<Answer> {
        let sessions = &self.service.0.sessions;
        match headers::text(headers, &SESSION).and_then(|id| sessions.open(id, principal).ok()) {
            Some(session) => {
                sessions.end(&session);
                plain(StatusCode::NO_CONTENT, "")
            }
            None => plain(StatusCode::NOT_FOUND, "there is no such session\n"),
        }
    }

    async fn post(self, gateway: Arc<Gateway>, principal: Principal, headers: HeaderMap, body: Incoming) -> Response<Answer> {
        let caller = self.caller(principal, &headers);
        if !headers::is_json(&headers) {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`\n");
        }
        if headers::is_encoded(&headers) {
            return self.encoded(&gateway, &caller).await;
        }
        if !headers::accepts(&headers, "application/json") {
            return plain(StatusCode::NOT_ACCEPTABLE, "send `Accept: application/json, text/event-stream`\n");
        }
        let bounds = self.service.bounds();
        let patience = Duration::from_millis(bounds.body_timeout_ms.value());
        let collected = Limited::new(body, bounds.max_body_bytes.size()).collect();
        let (error, status) = match tokio::time::timeout(patience, collected).await {
            Ok(Ok(collected)) => return self.run(gateway, caller, headers, collected.to_bytes()).await,
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let limit = bounds.max_body_bytes.value();
                let error = Error::new(Code::PayloadTooLarge, format!("the body has more than {limit} bytes"));
                (error, StatusCode::PAYLOAD_TOO_LARGE)
            }
            Ok(Err(_)) => (Error::new(Code::MalformedRequest, "the body broke off"), StatusCode::BAD_REQUEST),
            Err(_) => (Error::new(Code::MalformedRequest, "the body took too long"), StatusCode::REQUEST_TIMEOUT),
        };
        self.refusal(&gateway, &caller, error, status).await
    }

    async fn encoded(&self, gateway: &Gateway, caller: &Caller) -> Response<Answer> {
        let error = Error::new(Code::MalformedRequest, "the body has a `Content-Encoding`, and the gateway reads none")
            .suggest("send the body as it is, without `Content-Encoding`");
        let mut response = self.refusal(gateway, caller, error, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        response
    }

    /// Runs the message to its end, whether or not the client waits for it, and answers when the first of these is there: its answer, or something to stream.
    async fn run(self, gateway: Arc<Gateway>, caller: Caller, headers: HeaderMap, body: Bytes) -> Response<Answer> {
        let modern = caller.revision.is_some_and(Revision::is_modern);
        let cancel = self.service.0.give_up.child_token();
        let streams = headers::accepts(&headers, "text/event-stream");
        let downstream = Arc::new(HttpDownstream::new(streams, cancel.clone()));
        // Hanging up is how a modern client cancels.
        let hung_up = modern.then(|| cancel.clone().drop_guard());
        let tasks = self.service.0.tasks.clone();
        let back = Arc::clone(&downstream);
        let mut running =
            Enduring::new(&tasks, async move { Exchange::message(&self, &gateway, caller, &headers, &body, &back, &cancel).await });
        let response = tokio::select! {
            biased;
            outgoing = &mut running => outgoing.whole(),
            first = downstream.next(), if streams => return stream(event(&first), running, downstream, hung_up),
            () = tokio::time::sleep(KEEP_ALIVE), if streams => return stream(Bytes::from_static(b": working\n\n"), running, downstream, hung_up),
        };
        if let Some(guard) = hung_up {
            guard.disarm();
        }
        response
    }

    /// Understands one message and answers it.
    async fn message(
        &self,
        gateway: &Gateway,
        mut caller: Caller,
        headers: &HeaderMap,
        body: &Bytes,
        downstream: &HttpDownstream,
        cancel: &CancellationToken,
    ) -> Outgoing {
        let bounds = self.service.bounds();
        let limits = Limits { depth: bounds.max_depth.size(), nodes: bounds.max_nodes.size() };
        let document = match json::parse(body, limits) {
            Ok(document) => document,
            Err(fault) => {
                let error = Error::new(Code::MalformedRequest, format!("the body cannot be read: {fault}")).wire(-32700, 400);
                return self.unread(gateway, &caller, error).await;
            }
        };
        let message = match message(&document) {
            Ok(message) => message,
            Err(error) => return self.unread(gateway, &caller, error).await,
        };
        let settled = self.settle(&mut caller, headers, &message);
        let (id, method, params) = match &message {
            Message::Request { id, method, params } => (Some(id), *method, *params),
            Message::Notification { method, params } => (None, *method, *params),
            // No request of ours is ever sent to an agent on this transport.
            Message::Result { .. } | Message::Failure { .. } => {
                return self.unread(gateway, &caller, Error::new(Code::MalformedRequest, "no answer was asked for")).await;
            }
        };
        let (revision, conversation) = match settled {
            Ok(settled) => settled,
            Err(error) => return Outgoing::refusal(id, gateway.refuse(&caller, method, id, error).await),
        };
        let turn = Turn {
            service: &self.service,
            gateway,
            caller: &caller,
            revision,
            conversation: conversation.as_ref(),
            text: body,
            downstream,
            cancel,
        };
        match id {
            None => match turn.notification(method, params).await {
                None => Outgoing { status: StatusCode::ACCEPTED, body: Bytes::new(), session: None },
                Some(refused) => Outgoing::refusal(None, refused),
            },
            Some(id) => self.outgoing(turn.request(id, method, params).await, &caller),
        }
    }

    fn outgoing(&self, wire: Wire, caller: &Caller) -> Outgoing {
        let begun = wire.negotiated.map(|(revision, client)| self.service.0.sessions.begin(&caller.principal, revision, client.as_deref()));
        match begun.transpose() {
            Ok(session) => Outgoing { status: StatusCode::from_u16(wire.status).unwrap_or(StatusCode::OK), body: wire.body, session },
            Err(error) => Outgoing { status: StatusCode::INTERNAL_SERVER_ERROR, body: respond::error(None, &error, ""), session: None },
        }
    }

    async fn unread(&self, gateway: &Gateway, caller: &Caller, error: Error) -> Outgoing {
        Outgoing::refusal(None, gateway.refuse(caller, "unread", None, error).await)
    }

    /// Which revision the message is of, and which conversation it belongs to (`mcp-for-gateways`: evidence in order).
    fn settle(&self, caller: &mut Caller, headers: &HeaderMap, message: &Message<'_, '_>) -> Result<(Revision, Option<Arc<str>>), Error> {
        let (method, params, is_request) = match message {
            Message::Request { method, params, .. } => (*method, *params, true),
            Message::Notification { method, params } => (*method, *params, false),
            _ => return Ok((Revision::NEWEST, None)),
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
            return Ok((revision, None));
        }
        if method == "initialize" {
            return Ok((Revision::NEWEST_LEGACY, None));
        }
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
        caller.session = Some(Arc::clone(&session.name));
        Ok((session.revision, Some(session.name)))
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

/// A finished answer.
struct Outgoing {
    status: StatusCode,
    body: Bytes,
    session: Option<String>,
}

impl Outgoing {
    /// A refusal as the JSON-RPC error that it is, with its own status.
    fn refusal(id: Option<&Id>, refused: gateway::Answer) -> Self {
        let error = refused.outcome.err();
        let status = error.as_ref().and_then(|error| StatusCode::from_u16(error.http()).ok()).unwrap_or(StatusCode::BAD_REQUEST);
        let body = error.map(|error| respond::error(id, &error, &refused.invocation)).unwrap_or_default();
        Self { status, body, session: None }
    }

    fn whole(self) -> Response<Answer> {
        let mut response = if self.body.is_empty() { plain(self.status, "") } else { json(self.status, self.body) };
        if let Some(session) = self.session.and_then(|session| HeaderValue::from_str(&session).ok()) {
            response.headers_mut().insert(SESSION, session);
        }
        response
    }
}

/// An answer that begins before its call has ended.
fn stream(
    first: Bytes,
    mut running: Enduring<Outgoing>,
    downstream: Arc<HttpDownstream>,
    hung_up: Option<tokio_util::sync::DropGuard>,
) -> Response<Answer> {
    let (events, body) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut next = first;
        loop {
            // The client is gone when nobody receives: a modern call is then cancelled by its guard.
            if events.send(next).await.is_err() {
                return;
            }
            next = tokio::select! {
                biased;
                message = downstream.next() => event(&message),
                outgoing = &mut running => {
                    for message in downstream.rest() {
                        let _ = events.send(event(&message)).await;
                    }
                    let _ = events.send(event(&outgoing.body)).await;
                    hung_up.map(tokio_util::sync::DropGuard::disarm);
                    return;
                }
                () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(b": working\n\n"),
                () = events.closed() => return,
            };
        }
    });
    let mut response = Response::new(Answer::Events(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// An answer after which the connection is closed.
fn last(mut response: Response<Answer>) -> Response<Answer> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer in words, for what is no MCP message.
pub fn plain(status: StatusCode, text: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    if !text.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
