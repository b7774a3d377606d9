//! The link to a server on Streamable HTTP, in both eras: one POST a request.
//!
//! Owns: sessions' opening and end, and what an HTTP status means. Leaves to others: the bytes of messages (`wire`), protocol
//! headers (`headers`), the body of an answer (`answer`), streams that tell of changes (`listen`).
//! INVARIANT: a request is sent a second time only after a 404 to its session id or a 401 to an access token, which say that it was not
//! processed (2025-11-25, transports, session management; RFC 9110, 15.5.2), and then once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Events, Fault, Kind};
use super::asking::{self, Asker, Question};
use super::era::{self, UNSUPPORTED_VERSION};
use super::headers::{self, SESSION_ID};
use super::http::{Client, Once};
use super::inbound::{self, Inbound};
use super::oauth::Tokens;
use super::pace::Said;
use super::request::{ANSWERED, Exchange, Notice, OWN_SESSION, Outcome, Part, Reply, Sent, is_wanted};
use super::resume::{self, Tries};
use super::session::{Place, Session, Sessions};
use super::shared::Shared;
use super::wire;
use crate::error::{Code, Effect, Error};
use crate::fetch::chain;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::log_level::LogLevel;
use crate::mcp::revision::{Era, Revision};

/// How long a notification or the end of a session may take.
const SIDE: Duration = Duration::from_secs(2);

/// A link to one endpoint.
#[derive(Debug)]
pub(super) struct HttpLink {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) gone: CancellationToken,
    /// Legacy servers only.
    sessions: Sessions,
    next_id: AtomicU64,
    /// `initialize` was refused as by a server that takes no POST here.
    pub(super) takes_no_post: AtomicBool,
}

/// The answer to one POST before anything is concluded from it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) reply: Option<Reply>,
    session: Option<HeaderValue>,
    retry_after_ms: Option<u64>,
}

/// One POST of a request.
#[derive(Clone, Copy)]
struct Post<'a> {
    exchange: &'a Exchange<'a>,
    id: u64,
    version: Revision,
    /// The session that it belongs to; legacy only.
    place: Option<&'a Place>,
}

/// What came on the stream of a request.
enum Heard {
    /// The answer to it.
    Answer(Outcome),
    /// Something else.
    Aside(Said),
}

impl HttpLink {
    /// A link that says nothing yet.
    pub(super) fn new(client: Client, shared: &Arc<Shared>) -> Arc<Self> {
        let gone = shared.stop.child_token();
        let (sessions, next_id, takes_no_post) = (Sessions::default(), AtomicU64::new(1), AtomicBool::new(false));
        Arc::new(Self { shared: Arc::clone(shared), client, gone, sessions, next_id, takes_no_post })
    }

    /// An id that was not used before.
    pub(super) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends the request and waits for its answer. Dropped before that, the request is cancelled in its era's way.
    ///
    /// # Errors
    /// When there is no answer; the effect says whether anything had left.
    pub(super) async fn exchange(self: &Arc<Self>, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        match exchange.era {
            // Dropping the stream is the cancellation here (2026-07-28, streamable HTTP).
            Era::Modern => {
                let answered = self.modern(exchange).await?;
                self.verdict(answered, exchange)
            }
            Era::Legacy => self.legacy(exchange).await,
        }
    }

    /// One modern POST, and whatever came back.
    pub(super) async fn modern(self: &Arc<Self>, exchange: &Exchange<'_>) -> Result<Answered, Error> {
        let headers = headers::modern(self.client.headers(), exchange)?;
        self.post(Post { exchange, id: self.id(), version: Revision::NEWEST, place: None }, headers).await
    }

    async fn legacy(self: &Arc<Self>, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        let mut resent = false;
        loop {
            let place = self.place(exchange.session_key, exchange.capabilities).await.map_err(|error| no_session(&error))?;
            let Some(session) = place.get() else { return Err(exchange.broke(Code::UpstreamDisconnected, "the session was lost")) };
            if let Some(level) = exchange.log_level.filter(|level| session.greeting.offers.logging && session.level.lowers(*level)) {
                // Boxed, since it is rare and would make the state of every call larger.
                Box::pin(self.set_level(&place, session, level)).await;
            }
            let mut call = LegacyCall { link: self, place: &place, id: self.id(), sent: exchange.sent, answered: false };
            let post = Post { exchange, id: call.id, version: session.greeting.version, place: Some(&place) };
            let answered = self.post(post, headers::legacy(self.client.headers(), session)).await?;
            call.answered = true;
            let gone = session.id.is_some() && matches!(answered.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
            if gone {
                self.sessions.forget(exchange.session_key, &place);
            }
            // Some servers say 400 of a session that is gone. That guarantees nothing, so only the next call is spared it.
            if !gone || answered.status == StatusCode::BAD_REQUEST {
                return self.verdict(answered, exchange);
            }
            exchange.sent.unprocessed();
            if std::mem::replace(&mut resent, true) {
                return Err(exchange.refused("the tool server ends each session at once"));
            }
        }
    }

    /// Tells a server which log messages are wanted in a session. One that refuses sends what it likes.
    async fn set_level(self: &Arc<Self>, place: &Place, session: &Session, level: LogLevel) {
        let (sent, members) = (Sent::default(), [("level", Part::Text(level.as_str()))]);
        let exchange = Exchange::own(Era::Legacy, "logging/setLevel", &members, &sent);
        let post = Post { exchange: &exchange, id: self.id(), version: session.greeting.version, place: Some(place) };
        let _ = tokio::time::timeout(SIDE, self.post(post, headers::legacy(self.client.headers(), session))).await;
    }

    /// Our own session. It declares all that may ever be asked, since some servers list only what they can use.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) async fn own_place(self: &Arc<Self>) -> Result<Place, Error> {
        self.place(OWN_SESSION, self.shared.may_ask).await
    }

    /// The open session of `key`, which declared `capabilities` when it was opened: they are part of the key.
    ///
    /// # Errors
    /// When it cannot be opened, or too many are in use.
    async fn place(self: &Arc<Self>, key: &str, capabilities: Capabilities) -> Result<Place, Error> {
        let Some((place, evicted)) = self.sessions.take(key) else {
            return Err(Error::new(Code::ConcurrencyLimited, "too many sessions with the tool server are in use"));
        };
        evicted.into_iter().for_each(|place| self.end(place));
        // Boxed, since it is rare and would make the state of every call larger.
        place.get_or_try_init(|| Box::pin(self.open(capabilities))).await?;
        Ok(place)
    }

    async fn open(self: &Arc<Self>, capabilities: Capabilities) -> Result<Session, Error> {
        let (sent, declared) = (Sent::default(), wire::declared(capabilities));
        let members = wire::initialize_members(&declared);
        let exchange = Exchange::own(Era::Legacy, "initialize", &members, &sent);
        let post = Post { exchange: &exchange, id: self.id(), version: Revision::NEWEST_LEGACY, place: None };
        let answered = self.post(post, self.client.headers().clone()).await?;
        let code = answered.reply.as_ref().filter(|reply| !reply.is_result()).map(|reply| inbound::refusal(reply.text()).code);
        self.takes_no_post.store(era::may_be_old_sse(answered.status.as_u16(), code), Ordering::Relaxed);
        let id = answered.session.clone().filter(|id| id.as_bytes().iter().all(|byte| (0x21..=0x7e).contains(byte)));
        let reply = self.verdict(answered, &exchange)?;
        let Outcome::Result(span) = reply.outcome.clone() else {
            let refusal = inbound::refusal(reply.text());
            let detail = format!("error {}: {}", refusal.code, refusal.message);
            return Err(exchange.fault(Code::UpstreamProtocolError, "the tool server refuses `initialize`").operator(detail));
        };
        let greeting = inbound::greeting(&reply.body, span, Era::Legacy).map_err(|_| {
            exchange.fault(Code::UpstreamProtocolError, "the tool server answers `initialize` with no revision that we speak")
        })?;
        let session = Session { id, greeting, level: Arc::default() };
        let body = Once::plain(wire::INITIALIZED.to_vec());
        let accepted = self.client.send(Method::POST, headers::legacy(self.client.headers(), &session), body).await;
        match accepted {
            Ok(response) if response.status().is_success() => Ok(session),
            Ok(response) => Err(exchange
                .fault(Code::UpstreamProtocolError, "the tool server refuses `notifications/initialized`")
                .operator(response.status())),
            Err(error) => Err(exchange.fault(Code::UpstreamDisconnected, "the connection broke").operator(chain(&error))),
        }
    }

    /// Sends one request and reads its answer.
    async fn post(self: &Arc<Self>, post: Post<'_>, headers: HeaderMap) -> Result<Answered, Error> {
        let Post { exchange, id, version, .. } = post;
        let response = match self.client.tokens() {
            None => self.sent(exchange, id, headers).await?,
            // Boxed, since it would make the state of every call larger.
            Some(tokens) => Box::pin(self.signed(tokens, exchange, id, headers)).await?,
        };
        exchange.sent.heads();
        let status = response.status();
        let session = response.headers().get(SESSION_ID).cloned();
        let retry_after_ms = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let retry_after_ms = retry_after_ms.map(|seconds| seconds.saturating_mul(1000));
        let reply = if status.is_success() { self.read(response, post).await? } else { answer::in_error(response, id, version).await };
        Ok(Answered { status, reply, session, retry_after_ms })
    }

    async fn sent(&self, exchange: &Exchange<'_>, id: u64, headers: HeaderMap) -> Result<Response<Incoming>, Error> {
        let body = Once::marked(wire::request(exchange, id), exchange.sent);
        self.client.send(Method::POST, headers, body).await.map_err(|error| {
            self.shared.suspect.notify_one();
            exchange.broke(Code::UpstreamDisconnected, "the connection broke before the answer").operator(chain(&error))
        })
    }

    /// Sends a request with an access token, and once more with a new one where the server says 401: it has then done nothing (RFC 9110,
    /// 15.5.2).
    async fn signed(&self, tokens: &Tokens, exchange: &Exchange<'_>, id: u64, mut headers: HeaderMap) -> Result<Response<Incoming>, Error> {
        let without = |why: String| {
            let error = Error::new(Code::UpstreamUnavailable, "the gateway has no access token for the tool server");
            error.from_upstream().retry_after_ms(2_000).operator(why)
        };
        let number = tokens.sign(&mut headers).await.map_err(without)?;
        let first = self.sent(exchange, id, headers.clone()).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        if !tokens.refused(number, first.headers()) {
            return Ok(first);
        }
        exchange.sent.unprocessed();
        tokens.sign(&mut headers).await.map_err(without)?;
        self.sent(exchange, id, headers).await
    }

    async fn read(self: &Arc<Self>, response: Response<Incoming>, post: Post<'_>) -> Result<Option<Reply>, Error> {
        let Post { exchange, id, version, .. } = post;
        let limit = self.shared.max_message_bytes;
        let read = match answer::kind(&response) {
            Kind::Json => answer::whole(response.into_body(), limit).await.and_then(|body| answer::in_json(body, id, version)),
            Kind::Stream => self.stream(Events::new(response.into_body(), &self.shared), post).await,
            Kind::Other => return Ok(None),
        };
        read.map(Some).map_err(|fault| match fault {
            Fault::Broken(detail) => exchange.fault(Code::UpstreamDisconnected, "the connection broke during the answer").operator(detail),
            Fault::Ended => exchange.fault(Code::UpstreamDisconnected, "the tool server ended the stream before the answer"),
            Fault::TooLong => exchange.fault(Code::ResultTooLarge, "the answer is larger than the gateway takes"),
            Fault::Protocol(detail) => exchange.fault(Code::UpstreamProtocolError, "the answer is not MCP").operator(detail),
        })
    }

    async fn stream(self: &Arc<Self>, mut events: Events, post: Post<'_>) -> Result<Reply, Fault> {
        loop {
            let data = match (events.next().await, post.place) {
                (Ok(Some(data)), _) => data,
                // Boxed, since it is rare and would make the state of every call larger.
                (Ok(None), Some(place)) => return Box::pin(self.resumed(events, post, place, Fault::Ended)).await,
                (Err(fault @ Fault::Broken(_)), Some(place)) => return Box::pin(self.resumed(events, post, place, fault)).await,
                (Ok(None), None) => return Err(Fault::Ended),
                (Err(fault), _) => return Err(fault),
            };
            match self.heard(&data, post)? {
                Heard::Answer(outcome) => return Ok(self.answered(data, outcome, events, post)),
                Heard::Aside(said) => drop(events.pace.after(said, &data, true).await),
            }
        }
    }

    /// Takes up a legacy stream that broke before its answer, as often as the server lets us.
    async fn resumed(self: &Arc<Self>, mut events: Events, post: Post<'_>, place: &Place, fault: Fault) -> Result<Reply, Fault> {
        let mut tries = Tries::default();
        while let Some(rest) = resume::resume(self, place, &events, &mut tries).await {
            events = rest;
            loop {
                let data = match events.next().await {
                    Ok(Some(data)) => data,
                    Ok(None) | Err(Fault::Broken(_)) => break,
                    Err(fault) => return Err(fault),
                };
                match self.heard(&data, post)? {
                    Heard::Answer(outcome) => return Ok(self.answered(data, outcome, events, post)),
                    Heard::Aside(said) => drop(events.pace.after(said, &data, true).await),
                }
            }
        }
        Err(fault)
    }

    /// Takes in what came on the stream of a request.
    fn heard(self: &Arc<Self>, data: &Bytes, post: Post<'_>) -> Result<Heard, Fault> {
        let Post { exchange, id, version, place } = post;
        let mut found = None;
        let read = inbound::read(data, Some(version), |message| match message {
            Inbound::Answer { id: theirs, outcome } if theirs == Some(id) => {
                found.get_or_insert(outcome);
            }
            Inbound::Progress { id: theirs, params } if theirs == id => tell(exchange, Notice::Progress(params)),
            Inbound::Log { level, params } if is_wanted(level, exchange.log_level) => tell(exchange, Notice::Log(params)),
            Inbound::Asked { id, method, params } => {
                asking::begins(exchange.sent, &method);
                let asked = Question { id, method, params: params.unwrap_or_default(), place: place.cloned() };
                self.asked(asked, exchange.asker, exchange.tag);
            }
            other => self.aside(other, place),
        });
        let messages = read.map_err(|fault| Fault::Protocol(fault.0))?;
        Ok(found.map_or(Heard::Aside(Said::Unasked(messages)), Heard::Answer))
    }

    /// The answer; behind it the stream is read on for a while.
    fn answered(self: &Arc<Self>, body: Bytes, outcome: Outcome, events: Events, post: Post<'_>) -> Reply {
        let Post { exchange, id, version, .. } = post;
        let (shared, tag) = (Arc::clone(&self.shared), exchange.tag);
        self.shared.tasks.spawn(async move {
            if events.tail(id, version).await {
                shared.late(tag);
            }
        });
        Reply { body, version, outcome, begun: false, is_5xx: false }
    }

    /// A message that is not about the request on whose stream it came, or about none.
    pub(super) fn aside(self: &Arc<Self>, message: Inbound, place: Option<&Place>) {
        match message {
            Inbound::ListChanged => self.shared.changed.notify_one(),
            Inbound::Updated(uri) => self.shared.watched.updated(&uri),
            Inbound::Asked { id, method, params } => {
                // A stream that belongs to no call tells nothing of who should be asked.
                self.asked(Question { id, method, params: params.unwrap_or_default(), place: place.cloned() }, None, None);
            }
            // The answer to another request of ours may stand on a stream that was taken up again.
            Inbound::Answer { id: Some(id), .. } if id != 0 && id < self.next_id.load(Ordering::Relaxed) => {}
            Inbound::Answer { id: Some(_), .. } | Inbound::Answer { outcome: Outcome::Result(_), .. } => self.shared.unasked(),
            Inbound::Answer { .. } | Inbound::Progress { .. } | Inbound::Log { .. } | Inbound::Cancelled(_) | Inbound::Other => {}
        }
    }

    fn asked(self: &Arc<Self>, asked: Question, asker: Option<&Arc<Asker>>, call: Option<u128>) {
        let place = asked.place.clone();
        let era = place.as_ref().map_or(Era::Modern, |_| Era::Legacy);
        let answer = asking::take(&self.shared, era, asked, asker.map(|asker| &**asker), call);
        if let (Some(answer), Some(place)) = (answer, place) {
            self.side(&place, Method::POST, Once::plain(answer));
        }
    }

    /// What an answered POST means.
    fn verdict(&self, answered: Answered, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        let Answered { status, reply, retry_after_ms, .. } = answered;
        let late = |error: Error| retry_after_ms.into_iter().fold(error, Error::retry_after_ms);
        match (status.as_u16(), reply) {
            (401 | 403, _) => {
                self.shared.suspect.notify_one();
                Err(exchange.refused("the tool server refuses the gateway's credential").operator(status))
            }
            (_, Some(reply)) => self.look(reply, exchange),
            (429, None) => Err(late(exchange.refused("the tool server asks for fewer requests"))),
            (500..=599, None) => {
                self.shared.suspect.notify_one();
                Err(late(exchange.fault(Code::UpstreamUnavailable, "the tool server failed")).operator(status))
            }
            (200..=299, None) => {
                Err(exchange.fault(Code::UpstreamProtocolError, "the tool server answered without a message").operator(status))
            }
            (300..=399, None) => {
                let error = exchange.fault(Code::UpstreamProtocolError, "the tool server redirects, which is not followed");
                Err(error.operator(status).because(ANSWERED))
            }
            _ => {
                let error = exchange.fault(Code::UpstreamProtocolError, "the tool server answered with an HTTP error");
                Err(error.operator(status).because(ANSWERED))
            }
        }
    }

    /// An unsupported version says that the server is no longer the one that we knew (and that it did nothing).
    fn look(&self, reply: Reply, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        if exchange.era == Era::Modern
            && matches!(reply.outcome, Outcome::Failure(_))
            && inbound::refusal(reply.text()).code == UNSUPPORTED_VERSION
        {
            self.shared.suspect.notify_one();
            return Err(exchange.refused("the tool server no longer speaks the revision that was agreed on"));
        }
        Ok(reply)
    }

    /// Posts a notification or an answer, or ends a session; nobody waits for it.
    pub(super) fn side(self: &Arc<Self>, place: &Place, method: Method, body: Once) {
        let (Ok(runtime), Some(session)) = (tokio::runtime::Handle::try_current(), place.get()) else { return };
        let Ok(room) = Arc::clone(&self.shared.side).try_acquire_owned() else {
            return tracing::warn!(upstream = %self.shared.id, %method, "a message to the tool server was left out: too many are under way");
        };
        let (link, headers) = (Arc::clone(self), headers::legacy(self.client.headers(), session));
        let post = async move {
            let _ = tokio::time::timeout(SIDE, link.client.send(method, headers, body)).await;
            drop(room);
        };
        self.shared.tasks.spawn_on(post, &runtime);
    }

    /// Ends a session that nobody uses.
    fn end(self: &Arc<Self>, place: Place) {
        if place.get().is_some_and(|session| session.id.is_some()) {
            self.side(&place, Method::DELETE, Once::default());
        }
    }

    /// Ends the sessions that nobody has used for a while.
    pub(super) fn sweep(self: &Arc<Self>) {
        self.sessions.idle().into_iter().for_each(|place| self.end(place));
    }

    /// Ends the streams and all sessions.
    pub(super) fn close(self: &Arc<Self>) {
        self.gone.cancel();
        self.sessions.all().into_iter().for_each(|place| self.end(place));
    }
}

fn tell(exchange: &Exchange<'_>, notice: Notice) {
    if let Some(notices) = exchange.notices {
        let _ = notices.try_send(notice);
    }
}

fn no_session(error: &Error) -> Error {
    // The call itself has not left, whatever became of the handshake.
    let code = if error.code() == Code::ConcurrencyLimited { Code::ConcurrencyLimited } else { Code::UpstreamUnavailable };
    let detail = error.detail().unwrap_or_default();
    let told = Error::new(code, "no session could be opened with the tool server").from_upstream().operator(format!("{error}: {detail}"));
    error.reason().into_iter().fold(told, Error::because)
}

/// A legacy call under way; its end without an answer is told to the server, since a disconnect tells nothing.
struct LegacyCall<'l> {
    link: &'l Arc<HttpLink>,
    place: &'l Place,
    id: u64,
    sent: &'l Sent,
    answered: bool,
}

impl Drop for LegacyCall<'_> {
    fn drop(&mut self) {
        if !self.answered && self.sent.settle() == Effect::Unknown {
            self.link.side(self.place, Method::POST, Once::plain(wire::cancelled(self.id)));
        }
    }
}
