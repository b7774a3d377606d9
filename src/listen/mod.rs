//! What agents and operators connect to: bytes to MCP and back.
//!
//! Owns: transports, sessions of the handshake revisions, and which revision a message is of. Knows the gateway, and no
//! stage of its path.

pub mod admin;
mod admission;
pub mod asks;
mod batch;
mod buffers;
mod changes;
mod conduct;
mod connection;
pub mod console;
pub mod dispatch;
mod exchange;
pub mod headers;
pub mod http;
mod level;
mod methods;
pub mod orphans;
mod patience;
mod places;
mod replay;
mod rounds;
pub mod session;
pub mod stdio;
mod stream;
mod streaming;
pub mod streams;
mod subscribe;
pub mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::asks::Asks;
use self::buffers::Buffers;
pub use self::connection::ALPN_HTTP2;
use self::places::Places;
use self::replay::Replays;
use self::session::Sessions;
use self::streams::{Lasts, Streams};
use self::subscribe::Subscriptions;
use crate::clock::Clock;
use crate::config::Listen;
use crate::gateway::{Change, Gateway};
use crate::mcp::json::Limits;
use crate::mcp::jsonrpc::Id;
use crate::seal::Seal;
use crate::telemetry::Listening;

/// What all listeners share. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    gateway: ArcSwap<Gateway>,
    buffers: Arc<Buffers>,
    places: Places,
    bounds: Listen,
    sessions: Sessions,
    calls: Arc<Semaphore>,
    in_flight: DashMap<(Arc<str>, Id), CancellationToken>,
    asks: Asks,
    streams: Arc<Streams>,
    replays: Replays,
    subscriptions: Subscriptions,
    tasks: TaskTracker,
    draining: AtomicBool,
    no_new: CancellationToken,
    give_up: CancellationToken,
}

impl Service {
    /// A service in front of the gateway.
    pub fn new(gateway: Arc<Gateway>, bounds: Listen, seal: Arc<Seal>, clock: Clock) -> Self {
        let sessions = Sessions::new(seal, clock, bounds.session_seconds.value());
        Self(Arc::new(Inner {
            calls: Arc::new(Semaphore::new(bounds.max_concurrent_calls.size())),
            buffers: Arc::new(Buffers::new(&bounds)),
            places: Places::new(&bounds),
            gateway: ArcSwap::new(gateway),
            sessions,
            bounds,
            in_flight: DashMap::new(),
            asks: Asks::default(),
            streams: Arc::default(),
            replays: Replays::default(),
            subscriptions: Subscriptions::default(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            no_new: CancellationToken::new(),
            give_up: CancellationToken::new(),
        }))
    }

    /// The snapshot that a message arriving now is served by.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.0.gateway.load_full()
    }

    /// Serves messages that arrive from now on by another snapshot, in which every list may be another.
    pub fn swap(&self, gateway: Arc<Gateway>) {
        let changes = gateway.shared().changes.clone();
        self.0.gateway.store(Arc::clone(&gateway));
        self.0.streams.look(&gateway);
        for feed in changes::LISTS {
            // Without anybody who listens there is nobody to tell.
            let _ = changes.send(Change::List(feed));
        }
    }

    /// The bounds of messages and connections.
    pub fn bounds(&self) -> &Listen {
        &self.0.bounds
    }

    /// The bytes of messages that are held.
    fn buffers(&self) -> &Arc<Buffers> {
        &self.0.buffers
    }

    /// The bounds of one message's JSON.
    fn limits(&self) -> Limits {
        let Listen { max_depth, max_nodes, .. } = &self.0.bounds;
        Limits { depth: max_depth.size(), nodes: max_nodes.size() }
    }

    /// Whether the service is stopping.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Why no call would go through now.
    pub fn unready(&self) -> Option<&'static str> {
        if self.is_draining() { Some("stopping") } else { self.gateway().unready() }
    }

    /// Ends when no new connection is to be taken.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.no_new
    }

    /// Questions to agents that wait for their answer.
    pub fn asks(&self) -> &Asks {
        &self.0.asks
    }

    /// What sessions of the handshake revisions keep.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.0.streams
    }

    fn lasting<'s>(&'s self, agent: &'s Arc<str>) -> Lasts<'s> {
        self.0.sessions.lasting(agent)
    }

    fn replays(&self) -> &Replays {
        &self.0.replays
    }

    fn subscriptions(&self) -> &Subscriptions {
        &self.0.subscriptions
    }

    /// Waits for a place among the calls under way.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.0.calls.acquire().await.ok()
    }

    /// Calls under way.
    pub fn calls_under_way(&self) -> usize {
        self.0.bounds.max_concurrent_calls.size().saturating_sub(self.0.calls.available_permits())
    }

    /// What is in hand.
    pub fn load(&self) -> Listening {
        Listening {
            connections: self.0.places.held() as u64,
            calls: self.calls_under_way() as u64,
            buffered_bytes: self.0.buffers.bytes() as u64,
        }
    }

    /// Takes no new message, waits for the calls under way until `patience` ends, then cancels them and waits for their
    /// records.
    pub async fn drain(&self, patience: impl Future<Output = ()>) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.no_new.cancel();
        self.0.streams.watch_no_more();
        self.0.tasks.close();
        tokio::select! {
            biased;
            () = self.0.tasks.wait() => return,
            () = patience => self.0.give_up.cancel(),
        }
        // A cancelled call still stores its outcome; what does not end by then ends with the process, as `unresolved`.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.0.tasks.wait()).await;
    }
}
