//! Upstreams against real servers that misbehave on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test may fail it")]

#[path = "upstream/feeds.rs"]
mod feeds;
#[path = "upstream/http_eras.rs"]
mod http_eras;
#[path = "upstream/http_faults.rs"]
mod http_faults;
#[path = "support/http_server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod http_server;
#[path = "upstream/independent.rs"]
mod independent;
#[path = "it/support/old_sse.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod old_server;
#[path = "upstream/old_sse.rs"]
mod old_sse;
#[path = "upstream/stdio_servers.rs"]
mod stdio_servers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::catalog::transport::Transport;
use doorward::error::Error;
use doorward::mcp::capabilities::Capabilities;
use doorward::mcp::log_level::LogLevel;
use doorward::sandbox::Ground;
use doorward::upstream::{Event, Listing, Part, Patience, Reply, Report, Request, Sent, Slot, Spec, State, Upstream, Wanted};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An upstream whose lists are taken as they come, and what else it reports.
struct Fixture {
    upstream: Upstream,
    listings: mpsc::Receiver<Listing>,
    events: mpsc::Receiver<Event>,
    compare: Arc<AtomicBool>,
}

fn spec(transport: &Value) -> Spec {
    let transport: Transport = serde_json::from_value(transport.clone()).unwrap();
    let mut spec = Spec::new("tools", &transport, Arc::new(Ground::new(std::path::Path::new(""), Vec::new()))).unwrap();
    spec.launch.way_in = env!("CARGO_BIN_EXE_doorward").into();
    spec.probe_timeout_ms = 100;
    spec
}

impl Fixture {
    fn start(spec: Spec) -> Self {
        let (reports, mut read) = mpsc::channel::<Report>(64);
        let (listed, listings) = mpsc::channel(64);
        let (other, events) = mpsc::channel(64);
        let compare = Arc::new(AtomicBool::new(true));
        let comparing = Arc::clone(&compare);
        tokio::spawn(async move {
            while let Some(report) = read.recv().await {
                match report.event {
                    Event::Listed { listing, compared } => {
                        if comparing.load(Ordering::Relaxed) {
                            let _ = compared.send(());
                        }
                        let _ = listed.try_send(*listing);
                    }
                    Event::Started(_) => {}
                    event => {
                        let _ = other.try_send(event);
                    }
                }
            }
        });
        Self { upstream: Upstream::start(spec, reports, &CancellationToken::new()), listings, events, compare }
    }

    async fn connected(spec: Spec) -> Self {
        let fixture = Self::start(spec);
        fixture.upstream.ready(Duration::from_secs(30)).await.unwrap();
        fixture
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    async fn listing(&mut self) -> Listing {
        soon(self.listings.recv()).await.unwrap()
    }

    /// The reason of the next failed attempt.
    async fn failure(&self) -> String {
        loop {
            let _ = self.upstream.ready(Duration::ZERO).await;
            if let State::Failed { reason, .. } = self.upstream.state() {
                return reason;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn call(&self, name: &str) -> Result<Value, Error> {
        Call::of(name).send(&self.upstream).await.map(|reply| serde_json::from_slice(reply.text()).unwrap())
    }
}

/// What is waited for comes, or the test fails rather than hangs.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it did not come")
}

/// A call whose every part can be set.
struct Call {
    name: &'static str,
    arguments: String,
    principal: &'static str,
    cancel: CancellationToken,
    limit: Duration,
    notices: Option<mpsc::Sender<doorward::upstream::Notice>>,
    log_level: Option<LogLevel>,
    max_result_bytes: usize,
    sent: Sent,
}

impl Call {
    fn of(name: &str) -> Self {
        Self {
            name: name.to_owned().leak(),
            arguments: "{ \"n\": 1.0 }".to_owned(),
            principal: "agent:a",
            cancel: CancellationToken::new(),
            limit: Duration::from_secs(30),
            notices: None,
            log_level: None,
            max_result_bytes: 1 << 20,
            sent: Sent::default(),
        }
    }

    async fn send(&self, upstream: &Upstream) -> Result<Reply, Error> {
        let slot = reserve(upstream, self.principal, self.name).await?;
        self.send_in(upstream, &slot).await
    }

    async fn send_in(&self, upstream: &Upstream, slot: &Slot) -> Result<Reply, Error> {
        let request = Request {
            method: "tools/call",
            name: self.name,
            members: &[("name", Part::Text(self.name)), ("arguments", Part::Raw(self.arguments.as_bytes()))],
            retry: None,
            capabilities: Capabilities::default(),
            meta: &[("traceparent", b"\"00-1-2-01\"")],
            headers: &[("Region".into(), "eu".into())],
            session_key: self.principal,
            notices: self.notices.as_ref(),
            log_level: self.log_level,
            cancel: &self.cancel,
            patience: Patience::until(Instant::now() + self.limit),
            max_result_bytes: self.max_result_bytes,
            idempotent: false,
            tag: 7,
            sent: &self.sent,
        };
        upstream.call(slot, request).await
    }
}

/// A place for a call of the tool, waited for as long as a test may last.
async fn reserve(upstream: &Upstream, agent: &str, tool: &str) -> Result<Slot, Error> {
    let wait = Duration::from_secs(30);
    let wanted =
        Wanted { agent: &agent.into(), only_agent: true, tool: Some(tool), wait, deadline: None, cancel: &CancellationToken::new() };
    upstream.reserve(wanted).await
}

/// A code and the effect it claims.
fn told(error: &Error) -> (&'static str, &'static str) {
    (error.facts().code, error.effect().as_str())
}

/// What a server was sent, in order.
type Seen<T> = Arc<Mutex<Vec<T>>>;

fn names(listing: &Listing) -> Vec<String> {
    listing.tools.iter().map(|tool| tool.name.clone()).collect()
}

fn echo_list() -> Value {
    json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"})
}
