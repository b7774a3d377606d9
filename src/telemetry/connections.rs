//! What is told of agents' connections.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::one;

/// Why the gateway closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its address held its share of them.
    OverShare,
    /// It said nothing at all.
    Silent,
    /// The headers of a request took too long.
    SlowHead,
    /// No further request came.
    Idle,
    /// Its client took nothing of what was sent to it.
    NotTaken,
    /// Its client took back too many requests of HTTP/2.
    TakenBack,
    /// Its client broke the rules of HTTP/2, or was not there when asked.
    Protocol,
}

impl Ended {
    const ALL: [Self; 7] = [Self::OverShare, Self::Silent, Self::SlowHead, Self::Idle, Self::NotTaken, Self::TakenBack, Self::Protocol];

    fn as_str(self) -> &'static str {
        match self {
            Self::OverShare => "over_share",
            Self::Silent => "silent",
            Self::SlowHead => "slow_head",
            Self::Idle => "idle",
            Self::NotTaken => "not_taken",
            Self::TakenBack => "taken_back",
            Self::Protocol => "protocol",
        }
    }
}

/// What the listener has in hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listening {
    /// Open connections.
    pub connections: u64,
    /// Calls that have a place.
    pub calls: u64,
    /// Bytes of messages that are held.
    pub buffered_bytes: u64,
}

/// What is told of the listener.
const LISTENING: [(&str, &str); 3] = [
    ("connections", "Open connections of agents"),
    ("calls_under_way", "Calls that have one of `listen.max_concurrent_calls`"),
    ("buffered_bytes", "Bytes of messages that are held, of `listen.max_buffered_bytes`"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    why: &'static str,
}

/// What is counted of them.
#[derive(Debug)]
pub(super) struct Connections {
    refused: Counter,
    /// In the order of [`Ended::ALL`].
    ended: Vec<Counter>,
    /// In the order of [`LISTENING`].
    load: [Gauge<u64, AtomicU64>; LISTENING.len()],
}

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let refused = one(registry, "connections_refused", "Connections closed at once because their address held its share of them");
        let ended: Family<Reason, Counter> = one(registry, "connections_ended", "Connections that the gateway closed, by why");
        let ended = Ended::ALL.iter().map(|why| ended.get_or_create(&Reason { why: why.as_str() }).clone()).collect();
        Self { refused, ended, load: LISTENING.map(|(name, help)| one(registry, name, help)) }
    }

    pub(super) fn ended(&self, why: Ended) {
        if why == Ended::OverShare {
            self.refused.inc();
        }
        if let Some(counter) = Ended::ALL.iter().position(|known| *known == why).and_then(|at| self.ended.get(at)) {
            counter.inc();
        }
    }

    pub(super) fn load(&self, load: Listening) {
        for (gauge, number) in self.load.iter().zip([load.connections, load.calls, load.buffered_bytes]) {
            gauge.set(number);
        }
    }
}
