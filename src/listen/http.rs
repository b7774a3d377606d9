//! Streamable HTTP towards agents, both eras on one endpoint.
//!
//! Owns: who is let in, and the order of the checks before a message is understood (`exchange`) and answered (`streaming`). Leaves to others: what a
//! connection may cost (`connection`).
//!
//! INVARIANT: who calls is known from the headers before a byte of the body is read.
//! INVARIANT: a call runs in a task of its own: a departing client ends a modern call with a record, and leaves a call of a
//! handshake revision running (2025-11-25, transports, "Sending Messages").

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::buffers::Unread;
use super::stream::Answer;
use super::workers::Workers;
use super::{Service, admission, connection, headers, streaming};
use crate::error::{Code, Error};
use crate::gateway::{Gateway, needed_scopes};
use crate::identity::{Credentials, Principal, WELL_KNOWN};
use crate::invocation::Caller;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::respond;
use crate::mcp::revision::Revision;
use crate::telemetry::Ended;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const VERSION: HeaderName = headers::VERSION;
/// Characters of an `Origin` or a `Host` that a record keeps.
const MAX_PLACE: usize = 120;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Accepts connections until the service stops, then lets the open ones finish.
pub async fn serve(service: Service, listener: TcpListener, tls: Option<TlsAcceptor>, workers: Workers) {
    let places = &service.0.places;
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
            service.gateway().connection_ended(Ended::OverShare);
            places.turned_away(peer.ip());
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
        // Its events are to wake the worker that serves it.
        let Ok(socket) = socket.into_std() else { continue };
        let (service, tls) = (service.clone(), tls.clone());
        workers.spawn(async move {
            let Ok(socket) = TcpStream::from_std(socket) else { return };
            connection::serve(service, socket, tls, peer, local).await;
            drop(place);
        });
    }
}

/// Whether the request says once to whom it goes; another proxy may have understood it otherwise (RFC 9112, 3.2; RFC 9113, 8.3.1). From here on
/// that stands in `Host`, whatever the protocol.
fn has_one_host(head: &mut Parts) -> bool {
    let hosts = head.headers.get_all(HOST).iter().count();
    let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2).map(|authority| authority.as_str());
    match (hosts, authority) {
        (0, Some(authority)) => HeaderValue::from_str(authority).is_ok_and(|authority| head.headers.insert(HOST, authority).is_none()),
        (1, Some(authority)) => head.headers.get(HOST).is_some_and(|host| host == authority),
        (hosts, None) => hosts == 1 || (hosts == 0 && head.version < Version::HTTP_11),
        (_, Some(_)) => false,
    }
}

fn unaccepted(message: &'static str, suggestion: &'static str) -> Error {
    Error::new(Code::MalformedRequest, message).wire(-32600, 406).suggest(suggestion)
}

pub(super) fn large_head() -> Error {
    Error::new(Code::PayloadTooLarge, "the headers are larger than the gateway takes")
        .wire(-31004, 431)
        .suggest("send fewer or shorter headers")
}

/// Says to the operator where the request says that it comes from, and to whom: the page, and the name that led here.
fn foreign(headers: &HeaderMap) -> Error {
    let said = |name: &HeaderName| match headers.get(name) {
        Some(value) => value.as_bytes().escape_ascii().to_string().chars().take(MAX_PLACE).collect(),
        None => "-".to_owned(),
    };
    Error::new(Code::OriginNotAllowed, "the `Origin` or `Host` of the request is not one of those allowed").operator(format_args!(
        "Origin {}, Host {}",
        said(&ORIGIN),
        said(&HOST)
    ))
}

/// One HTTP request.
#[derive(Clone)]
pub(super) struct Exchange {
    pub service: Service,
    peer: SocketAddr,
    peer_text: Arc<str>,
    local: SocketAddr,
}

impl Exchange {
    /// Requests of a connection between these two.
    pub(super) fn new(service: Service, peer: SocketAddr, local: SocketAddr) -> Self {
        Self { service, peer, peer_text: peer.to_string().into(), local }
    }

    /// Who sends them.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Counts why their connection ended.
    pub(super) fn ended(&self, why: Ended) {
        self.service.gateway().connection_ended(why);
    }

    /// Answers it.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let gateway = self.service.gateway();
        let (mut parts, body) = request.into_parts();
        if !has_one_host(&mut parts) {
            let error = Error::new(Code::MalformedRequest, "the request does not have one `Host`").suggest("send one `Host`");
            let refusal = self.stranger(&gateway, &parts.headers, error).await;
            return if parts.version < Version::HTTP_2 { last(refusal) } else { refusal };
        }
        if parts.uri.path() != self.service.bounds().path {
            return self.elsewhere(&gateway, &parts);
        }
        let bounds = self.service.bounds();
        if headers::bytes(&parts.headers) > bounds.max_header_bytes.size() || parts.headers.len() > bounds.max_headers.size() {
            return self.stranger(&gateway, &parts.headers, large_head()).await;
        }
        if !headers::is_from_allowed_place(&parts.headers, self.service.bounds(), self.local) {
            return self.stranger(&gateway, &parts.headers, foreign(&parts.headers)).await;
        }
        let principal = match self.who(&gateway, &parts.headers).await {
            Ok(principal) => principal,
            Err(refusal) => return refusal,
        };
        match parts.method {
            Method::POST => self.post(gateway, principal, parts, body).await,
            Method::GET if parts.headers.contains_key(SESSION) => self.stream(&gateway, &parts.headers, principal).await,
            Method::DELETE if parts.headers.contains_key(SESSION) => self.end_session(&parts.headers, &principal),
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "send MCP messages with POST\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
                response
            }
        }
    }

    /// What stands beside the endpoint: the metadata that a client without a token looks for (RFC 9728).
    fn elsewhere(&self, gateway: &Gateway, head: &Parts) -> Response<Answer> {
        let bounds = self.service.bounds();
        // Agents know the gateway by its resource; what stands in front of it may know it by its own path.
        let of = head.uri.path().strip_prefix(WELL_KNOWN).map(|of| if of == bounds.path { "" } else { of });
        let found = of.and_then(|of| gateway.shared().identity.load().metadata(of).cloned());
        match found {
            Some(_) if !headers::is_from_allowed_place(&head.headers, bounds, self.local) => {
                plain(StatusCode::FORBIDDEN, "the `Origin` or `Host` of the request is not one of those allowed\n")
            }
            Some(metadata) if head.method == Method::GET => json(StatusCode::OK, metadata),
            // Neither recorded nor counted: nothing of the gateway stands there that could be refused, and browsers that look
            // for an icon would fill the log.
            _ => plain(StatusCode::NOT_FOUND, "there is nothing here; MCP is served at another path\n"),
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
        let (who, error) = match gateway.authenticate(&shown).await {
            Ok(principal) => match gateway.screen(&principal).and_then(|()| gateway.entitled(&principal, || headers::tool(headers))) {
                Ok(()) => return Ok(principal),
                Err(error) => (principal, error),
            },
            // One that shares an address with somebody who guesses does not suffer: only failures are counted.
            Err(error) => match gateway.count_failure(self.peer.ip()) {
                Ok(()) => (Principal::unknown(), error),
                Err(limited) => (Principal::unknown(), limited),
            },
        };
        let caller = self.caller(who, headers);
        let challenge = match error.code() {
            Code::Unauthenticated => {
                let was_shown = shown.authorization.is_some();
                HeaderValue::from_str(&gateway.shared().identity.load().challenge(was_shown)).ok()
            }
            _ => needed_scopes(&error).and_then(|scopes| step_up(gateway, scopes)),
        };
        let status = StatusCode::from_u16(error.http()).unwrap_or(StatusCode::UNAUTHORIZED);
        let mut response = self.refusal(gateway, &caller, error, status).await;
        challenge.into_iter().for_each(|challenge| drop(response.headers_mut().insert(WWW_AUTHENTICATE, challenge)));
        Err(response)
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
            timeout: headers::timeout(headers),
            trace: headers::trace(headers),
            peer: Some(Arc::clone(&self.peer_text)),
            session: None,
        }
    }

    /// Records the refusal of a head before its credential is looked at.
    pub(super) async fn stranger(&self, gateway: &Gateway, headers: &HeaderMap, error: Error) -> Response<Answer> {
        self.unfit(gateway, &self.caller(Principal::unknown(), headers), error).await
    }

    /// Records a refusal whose error has the status.
    async fn unfit(&self, gateway: &Gateway, caller: &Caller, error: Error) -> Response<Answer> {
        let status = StatusCode::from_u16(error.http()).unwrap_or(StatusCode::BAD_REQUEST);
        self.refusal(gateway, caller, error, status).await
    }

    /// Records a refusal that came before any message was understood.
    async fn refusal(&self, gateway: &Gateway, caller: &Caller, error: Error, status: StatusCode) -> Response<Answer> {
        let answer = gateway.refuse(caller, "http", None, error).await;
        let Err(error) = answer.outcome else { return plain(status, "") };
        let mut response = json(status, respond::error(None, &error, &answer.invocation));
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
                self.service.streams().end(&session.name);
                self.service.replays().end(&session.name);
                plain(StatusCode::NO_CONTENT, "")
            }
            None => plain(StatusCode::NOT_FOUND, "there is no such session\n"),
        }
    }

    /// A session's stream: what followed the last event that the client has, or what changes from now on.
    async fn stream(self, gateway: &Gateway, headers: &HeaderMap, principal: Principal) -> Response<Answer> {
        let sessions = &self.service.0.sessions;
        let Some(session) = headers::text(headers, &SESSION).and_then(|id| sessions.open(id, &principal).ok()) else {
            return plain(StatusCode::NOT_FOUND, "there is no such session\n");
        };
        if !headers::accepts(headers, "text/event-stream") {
            let caller = Caller { session: Some(session.name), ..self.caller(principal, headers) };
            let error = unaccepted("the client takes no event stream", "send `Accept: text/event-stream`");
            return self.unfit(gateway, &caller, error).await;
        }
        if headers::text(headers, &VERSION).is_some_and(|named| named != session.revision.as_str()) {
            return plain(StatusCode::BAD_REQUEST, "`MCP-Protocol-Version` is not the revision that the session began with\n");
        }
        if headers.contains_key(LAST_EVENT) {
            let last = headers::text(headers, &LAST_EVENT).unwrap_or_default();
            return match self.service.replays().take_up(&session.name, last) {
                Some(playback) => streaming::taken_up(playback),
                None => plain(StatusCode::BAD_REQUEST, "what followed this event is not kept\n"),
            };
        }
        match self.service.streams().open(&session.name, sessions.lasting(&principal.id)) {
            Ok(Some(open)) => streaming::standalone(self.service.clone(), principal, session, open),
            Ok(None) => plain(StatusCode::CONFLICT, "the session has a stream already\n"),
            Err(error) => {
                let caller = Caller { session: Some(Arc::clone(&session.name)), ..self.caller(principal, headers) };
                self.refusal(gateway, &caller, error, StatusCode::SERVICE_UNAVAILABLE).await
            }
        }
    }

    async fn post(self, gateway: Arc<Gateway>, principal: Principal, head: Parts, body: Incoming) -> Response<Answer> {
        let Parts { headers, version, .. } = head;
        let caller = self.caller(principal, &headers);
        if let Err(error) = self.service.admits(&caller.principal.id, &headers, &body.size_hint()) {
            return self.refusal(&gateway, &caller, error, StatusCode::SERVICE_UNAVAILABLE).await;
        }
        if !headers::is_json(&headers) {
            let error = Error::new(Code::MalformedRequest, "the body is not declared to be JSON").wire(-32600, 415);
            return self.unfit(&gateway, &caller, error.suggest("send `Content-Type: application/json`")).await;
        }
        if headers::is_encoded(&headers) {
            return self.encoded(&gateway, &caller).await;
        }
        if !headers::accepts(&headers, "application/json") {
            let error = unaccepted("the client takes no JSON", "send `Accept: application/json, text/event-stream`");
            return self.unfit(&gateway, &caller, error).await;
        }
        let bounds = self.service.bounds();
        let patience = Duration::from_millis(bounds.body_timeout_ms.value());
        let is_alone = version < Version::HTTP_2;
        let read = self.service.buffers().read(&caller.principal.id, body, bounds.max_body_bytes.size(), is_alone);
        let (error, status) = match tokio::time::timeout(patience, read).await {
            Ok(Ok(body)) => return self.run(gateway, caller, headers, body).await,
            Ok(Err(Unread::TooLarge)) => {
                let limit = bounds.max_body_bytes.value();
                let error = Error::new(Code::PayloadTooLarge, format!("the body has more than {limit} bytes"));
                (error, StatusCode::PAYLOAD_TOO_LARGE)
            }
            Ok(Err(Unread::Full(full))) => (admission::no_room(full), StatusCode::SERVICE_UNAVAILABLE),
            Ok(Err(Unread::Broken)) => {
                let error = Error::new(Code::MalformedRequest, "the body broke off");
                let mut response = self.refusal(&gateway, &caller, error, StatusCode::BAD_REQUEST).await;
                response.extensions_mut().insert(BrokenOff);
                return response;
            }
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
}

/// Marks the answer to a request whose body broke off.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokenOff;

/// What tells a client to come back with a token that has these scopes, which stand in quotes.
pub(super) fn step_up(gateway: &Gateway, quoted: &str) -> Option<HeaderValue> {
    let challenge = gateway.shared().identity.load().step_up(quoted.trim_matches('"'))?;
    HeaderValue::from_str(&challenge).ok()
}

/// An MCP message as an answer.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Answer> {
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
