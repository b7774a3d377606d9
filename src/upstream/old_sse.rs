//! The link to a server on HTTP+SSE (2024-11-05): one stream brings everything, and each of our messages is a POST.
//!
//! Owns: the stream, its endpoint, and our ids. Leaves to others: who waits for which answer (`pending`), and when a server is
//! taken for one of these (`handshake`).
//! INVARIANT: messages go to the origin of the configured URL and nowhere else, whatever the server names as its endpoint.
//! INVARIANT: a stream is a session: with it go all calls under way, and their effect is unknown. None is sent again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answer::{self, Events, Fault, Kind};
use super::asking::{self, Question};
use super::http::{Client, Once, Unanswered};
use super::inbound::{self, Inbound};
use super::pace::{Flooded, Said};
use super::pending::{Answer, Owner, Pending};
use super::request::{ANSWERED, Exchange, Outcome, Part, Reply, Sent};
use super::salvage;
use super::shared::Shared;
use super::wire;
use crate::error::{Code, Effect, Error};
use crate::fetch::chain;
use crate::mcp::log_level::LogLevel;
use crate::mcp::revision::{Era, Revision};

/// How long a message that nobody waits for may take.
const SIDE: Duration = Duration::from_secs(2);
/// Longest endpoint, in bytes.
const MAX_ENDPOINT: usize = 8 * 1024;

/// A link to one stream.
#[derive(Debug)]
pub(super) struct OldSseLink {
    shared: Arc<Shared>,
    client: Client,
    endpoint: Uri,
    version: OnceLock<Revision>,
    next_id: AtomicU64,
    pending: Pending,
    gone: CancellationToken,
    why: OnceLock<String>,
}

impl OldSseLink {
    /// Opens the stream and waits for its first event, which names the endpoint.
    ///
    /// # Errors
    /// When there is no such stream; the text is for the operator.
    pub(super) async fn open(client: Client, shared: &Arc<Shared>) -> Result<Arc<Self>, String> {
        let mut headers = client.headers().clone();
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = client.send(Method::GET, headers, Once::default()).await.map_err(|error| chain(&error))?;
        let status = response.status();
        if !status.is_success() || answer::kind(&response) != Kind::Stream {
            return Err(format!("the server has no stream of HTTP+SSE (HTTP {status})"));
        }
        let mut events = Events::new(response.into_body(), shared);
        let first = events.any().await.map_err(|fault| format!("the stream broke: {fault:?}"))?.ok_or("the stream ended at once")?;
        if first.kind.as_deref() != Some(b"endpoint") {
            return Err("the stream does not begin with an `endpoint`".to_owned());
        }
        let endpoint = resolve(client.uri(), &first.data).ok_or("the server names an endpoint that is not on its own origin")?;
        let link = Arc::new(Self {
            shared: Arc::clone(shared),
            client,
            endpoint,
            version: OnceLock::new(),
            next_id: AtomicU64::new(1),
            pending: Pending::default(),
            gone: shared.stop.child_token(),
            why: OnceLock::new(),
        });
        shared.tasks.spawn(Arc::clone(&link).read(events));
        Ok(link)
    }

    /// Tells which revision was agreed on, and the server that we are ready.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(super) async fn agreed(&self, version: Revision) -> Result<(), String> {
        let _ = self.version.set(version);
        let sent = self.send(Once::plain(wire::INITIALIZED.to_vec())).await.map_err(|error| chain(&error))?;
        if sent.is_success() { Ok(()) } else { Err(format!("the server refuses `notifications/initialized` (HTTP {sent})")) }
    }

    /// Ends the link with what holds the returned guard.
    pub(super) fn closer(&self) -> DropGuard {
        self.gone.clone().drop_guard()
    }

    /// Ends the link; the server sees its stream closed.
    pub(super) fn close(&self) {
        self.gone.cancel();
    }

    /// Whether it takes no calls any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Waits until the link is gone and says why.
    pub(super) async fn lost(&self) -> String {
        self.gone.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| "stopped".to_owned())
    }

    /// Sends the request and waits for its answer. Dropped before that, the request is withdrawn or cancelled.
    ///
    /// # Errors
    /// When the stream is gone first, the server does not take the request, or the answer cannot be read.
    pub(super) async fn exchange(self: &Arc<Self>, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, mut answered) = oneshot::channel();
        let Some(_call) = self.enlist(id, exchange, answer) else { return Err(self.broke(exchange)) };
        let posting = self.send(Once::marked(wire::request(exchange, id), exchange.sent));
        let answer = tokio::select! {
            biased;
            // It may be on the stream before the POST has ended.
            answer = &mut answered => answer,
            posted = posting => {
                self.taken(posted, exchange)?;
                answered.await
            }
        };
        match answer {
            Ok(Ok((body, outcome))) => {
                let version = self.version.get().copied().unwrap_or(Revision::NEWEST_LEGACY);
                Ok(Reply { body, version, outcome, begun: false, is_5xx: false })
            }
            Ok(Err(fault)) => Err(exchange.fault(Code::UpstreamProtocolError, "the answer is not MCP").operator(fault.0)),
            Err(_) => Err(self.broke(exchange)),
        }
    }

    /// Tells the server which log messages are wanted; nobody waits for its answer.
    pub(super) fn set_level(self: &Arc<Self>, level: LogLevel) {
        let (sent, members) = (Sent::default(), [("level", Part::Text(level.as_str()))]);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.pending.disregard(id);
        self.notify(wire::request(&Exchange::own(Era::Legacy, "logging/setLevel", &members, &sent), id));
    }

    async fn send(&self, body: Once) -> Result<http::StatusCode, Unanswered> {
        let headers = self.client.headers().clone();
        Ok(self.client.send_to(self.endpoint.clone(), Method::POST, headers, body).await?.status())
    }

    /// What the server says to a POST: any 2xx is a yes.
    fn taken(&self, posted: Result<http::StatusCode, Unanswered>, exchange: &Exchange<'_>) -> Result<(), Error> {
        let status = posted.map_err(|error| {
            exchange.broke(Code::UpstreamDisconnected, "the connection broke before the request was taken").operator(chain(&error))
        })?;
        match status.as_u16() {
            200..=299 => Ok(()),
            401 | 403 => Err(exchange.refused("the tool server refuses the gateway's credential").operator(status)),
            429 => Err(exchange.refused("the tool server asks for fewer requests")),
            500..=599 => Err(exchange.fault(Code::UpstreamUnavailable, "the tool server failed").operator(status)),
            _ => {
                let error = exchange.fault(Code::UpstreamProtocolError, "the tool server does not take the request");
                Err(error.operator(status).because(ANSWERED))
            }
        }
    }

    fn broke(&self, exchange: &Exchange<'_>) -> Error {
        let error = exchange.broke(Code::UpstreamDisconnected, "the tool server's stream ended before the answer");
        self.why.get().into_iter().fold(error, Error::operator)
    }

    fn enlist(self: &Arc<Self>, id: u64, exchange: &Exchange<'_>, answer: oneshot::Sender<Answer>) -> Option<Call> {
        // A handshake must not be cancelled (2025-11-25, cancellation).
        let cancels = exchange.method != "initialize";
        self.pending.enlist(id, exchange, answer).then(|| Call { link: Arc::clone(self), id, sent: exchange.sent.clone(), cancels })
    }

    async fn read(self: Arc<Self>, mut events: Events) {
        let reading = async {
            loop {
                match events.next().await {
                    Ok(Some(data)) => {
                        let said = self.event(&data);
                        if let Err(Flooded(reason)) = events.pace.after(said, &data, self.version.get().is_some()).await {
                            return reason;
                        }
                    }
                    Ok(None) => return "the stream has ended".to_owned(),
                    Err(Fault::TooLong) => return format!("an event is longer than {} bytes", self.shared.max_message_bytes),
                    Err(fault) => return format!("the stream broke: {fault:?}"),
                }
            }
        };
        if let Some(why) = self.gone.run_until_cancelled(reading).await {
            let _ = self.why.set(why);
        }
        self.gone.cancel();
        drop(self.pending.close());
    }

    fn event(self: &Arc<Self>, data: &Bytes) -> Said {
        let mut awaited = 0;
        let read = inbound::read(data, self.version.get().copied(), |message| awaited += u32::from(self.message(data, message)));
        let fault = match read {
            Ok(messages) => return Said::Unasked(messages - awaited),
            Err(fault) => fault,
        };
        if let Some(id) = salvage::answered(data) {
            return if self.pending.answer(&self.shared, id, Err(fault)) { Said::Unasked(0) } else { Said::Unusable };
        }
        tracing::debug!(upstream = %self.shared.id, fault = %fault.0, "an event of the tool server is not MCP and was left out");
        Said::Unusable
    }

    /// Takes in a message; tells whether a call waited for it.
    fn message(self: &Arc<Self>, data: &Bytes, message: Inbound) -> bool {
        match message {
            Inbound::Answer { id: Some(id), outcome } => return self.pending.answer(&self.shared, id, Ok((data.clone(), outcome))),
            Inbound::Progress { id, params } => self.pending.progress(id, params),
            Inbound::Log { level, params } => self.pending.log(level, params),
            Inbound::ListChanged => self.shared.changed.notify_one(),
            Inbound::Updated(uri) => self.shared.watched.updated(&uri),
            Inbound::Asked { id, method, params } => {
                let (call, asker) = self.pending.only_asker(&method);
                let asked = Question { id, method, params: params.unwrap_or_default(), place: None };
                if let Some(answer) = asking::take(&self.shared, Era::Legacy, asked, asker.as_deref(), call) {
                    self.notify(answer);
                }
            }
            Inbound::Answer { id: None, outcome: Outcome::Result(_) } => self.shared.unasked(),
            Inbound::Answer { id: None, .. } | Inbound::Cancelled(_) | Inbound::Other => {}
        }
        false
    }

    /// Posts a notification or an answer; nobody waits for it.
    pub(super) fn notify(self: &Arc<Self>, message: Vec<u8>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Ok(room) = Arc::clone(&self.shared.side).try_acquire_owned() else {
            return tracing::warn!(upstream = %self.shared.id, "a message to the tool server was left out: too many are under way");
        };
        let link = Arc::clone(self);
        let post = async move {
            let _ = tokio::time::timeout(SIDE, link.send(Once::plain(message))).await;
            drop(room);
        };
        self.shared.tasks.spawn_on(post, &runtime);
    }
}

/// The endpoint that a server names, against the URL of its stream (RFC 3986, 5.2); `None` where it is on another origin, or no
/// address at all.
fn resolve(base: &Uri, named: &[u8]) -> Option<Uri> {
    let named = std::str::from_utf8(named).ok()?.trim();
    let named = named.split('#').next().filter(|named| !named.is_empty() && named.len() <= MAX_ENDPOINT)?;
    let path = base.path_and_query().map_or("/", PathAndQuery::path);
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let absolute = match named {
        _ if named.starts_with("//") => format!("{}:{named}", base.scheme_str()?),
        _ if named.starts_with('/') => format!("{}://{}{named}", base.scheme_str()?, base.authority()?),
        _ if named.starts_with('?') => format!("{}://{}{path}{named}", base.scheme_str()?, base.authority()?),
        _ if has_scheme(named) => named.to_owned(),
        _ => format!("{}://{}{folder}/{}", base.scheme_str()?, base.authority()?, named.trim_start_matches("./")),
    };
    let uri: Uri = absolute.parse().ok()?;
    (origin(&uri)? == origin(base)? && !uri.authority()?.as_str().contains('@')).then_some(uri)
}

fn has_scheme(named: &str) -> bool {
    let before = named.split(['/', '?']).next().unwrap_or_default();
    before.contains(':')
}

fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((scheme, host, uri.port_u16().unwrap_or(usual)))
}

/// A call under way. Its end without an answer is told to the server.
struct Call {
    link: Arc<OldSseLink>,
    id: u64,
    sent: Sent,
    cancels: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let unanswered = matches!(self.link.pending.take(self.id), Owner::Waiting(_));
        if unanswered && self.sent.settle() == Effect::Unknown && self.cancels {
            self.link.notify(wire::cancelled(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(named: &str) -> Option<String> {
        resolve(&"http://localhost:9/a/sse?x=1".parse().unwrap(), named.as_bytes()).map(|uri| uri.to_string())
    }

    #[test]
    fn an_endpoint_is_resolved_against_the_stream() {
        for (named, uri) in [
            ("/messages?s=1", "http://localhost:9/messages?s=1"),
            ("messages?s=a/b:c", "http://localhost:9/a/messages?s=a/b:c"),
            ("?s=1", "http://localhost:9/a/sse?s=1"),
            ("http://LOCALHOST:9/m#part", "http://LOCALHOST:9/m"),
            ("//localhost:9/m", "http://localhost:9/m"),
        ] {
            assert_eq!(resolved(named).as_deref(), Some(uri), "{named}");
        }
    }

    #[test]
    fn an_endpoint_on_another_origin_is_none() {
        for named in [
            "",
            "#x",
            "http://localhost/m",
            "https://localhost:9/m",
            "http://127.0.0.1:9/m",
            "//evil.example:9/m",
            "http://me@localhost:9/m",
            "http://localhost:9@evil.example/m",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "/a b",
        ] {
            assert_eq!(resolved(named), None, "{named}");
        }
    }
}
