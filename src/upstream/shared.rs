//! What one upstream tells the gateway, and what its parts share to do so.
//!
//! INVARIANT: a reader never waits for whoever reads the reports. What it reports is kept until then, at most [`MAX_TOLD`] of a sort
//! one by one and the rest by number, and is one event: a server that does much takes no more room than others.
//! `Listed` and `Lost` are waited for, by the task that has nothing else to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::era::Dialect;
use super::watch::Watched;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::messages::Offers;
use crate::mcp::revision::Revision;
use crate::sandbox::Started;

/// An event and where it happened.
#[derive(Debug)]
pub struct Report {
    /// The upstream's id.
    pub upstream: Arc<str>,
    /// What happened.
    pub event: Event,
}

/// What happens to an upstream beside its calls.
#[derive(Debug)]
pub enum Event {
    /// Its lists were taken: after each connection, and again when they may have changed.
    Listed {
        /// The lists and the server's own words.
        listing: Box<Listing>,
        /// To be answered when the definitions were compared with the lock: before that no call is forwarded over a new
        /// connection. Dropped unanswered, the connection is given up.
        compared: oneshot::Sender<()>,
    },
    /// The connection is gone, and calls under way have failed, or none could be made; it is tried again.
    Lost {
        /// Why, for the operator.
        reason: String,
    },
    /// Answers to calls that had ended, or second ones.
    Late {
        /// The calls' [`super::Request::tag`]s.
        calls: Arc<Tally<u128>>,
    },
    /// A server asked us for something that we do not do, and was refused.
    Refused {
        /// What it asked for.
        requests: Arc<Tally<Asking>>,
    },
    /// A server answered what it was never asked.
    Unasked {
        /// How often.
        answers: Arc<Tally<()>>,
    },
    /// A process of it was started: the main one, or one more.
    Started(Arc<Started>),
    /// A resource that we watch has changed.
    Updated {
        /// The server's own URI.
        uri: String,
    },
}

/// A request of a server that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The method.
    pub method: String,
    /// The [`super::Request::tag`] of the call that it asked for, where that is known.
    pub call: Option<u128>,
}

/// What a server has done of one sort while the report of it waits to be read: it may do the same ten thousand times a second, and
/// the reports of all upstreams wait in one channel.
#[derive(Debug)]
pub struct Tally<T>(Mutex<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    first: Vec<T>,
    more: u64,
    is_reported: bool,
}

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(Mutex::new(Inner { first: Vec::new(), more: 0, is_reported: false }))
    }
}

impl<T> Tally<T> {
    /// What was noted since the last time: the first ones, and how many more.
    pub fn take(&self) -> (Vec<T>, u64) {
        let mut inner = self.inner();
        inner.is_reported = false;
        (std::mem::take(&mut inner.first), std::mem::take(&mut inner.more))
    }

    /// Takes note of one; whether that is to be reported, since no report waits.
    fn note(&self, one: T) -> bool {
        let mut inner = self.inner();
        if inner.first.len() < MAX_TOLD {
            inner.first.push(one);
        } else {
            inner.more = inner.more.saturating_add(1);
        }
        !std::mem::replace(&mut inner.is_reported, true)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a server lists and says of itself.
#[derive(Clone, Debug)]
pub struct Listing {
    /// All tools, in the server's order.
    pub tools: Vec<Definition>,
    /// All prompts, in the server's order.
    pub prompts: Vec<Definition>,
    /// All resources, in the server's order; their name is the URI.
    pub resources: Vec<Definition>,
    /// All templates of resources, in the server's order; their name is the URI template.
    pub templates: Vec<Definition>,
    /// The revision.
    pub version: Revision,
    /// What the server speaks, which is worth remembering.
    pub dialect: Dialect,
    /// The server's `Implementation`, as JSON text.
    pub server_info: Option<Bytes>,
    /// How the server wants to be used. Words of a stranger: not for a model unread.
    pub instructions: Option<String>,
    /// What the server can do.
    pub offers: Offers,
}

/// One tool, prompt, resource or template as the server defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The server's own name of it.
    pub name: String,
    /// The whole definition, JSON text as received.
    pub json: Bytes,
}

/// So many of one sort are told one by one while their report waits.
const MAX_TOLD: usize = 16;
/// Longest method that is reported; a stranger chooses it.
const MAX_METHOD: usize = 128;
/// Notifications and answers to the server under way at once over HTTP; further ones are left out.
const MAX_SIDE_POSTS: usize = 64;

/// What the parts of one upstream share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: Arc<str>,
    pub(super) max_message_bytes: usize,
    /// What the server may ever ask an agent for.
    pub(super) may_ask: Capabilities,
    /// The lists may have changed.
    pub(super) changed: Notify,
    /// A call met something that a connected server does not do: look whether it still is.
    pub(super) suspect: Notify,
    /// All tasks of the upstream; `stop` waits for them.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// The process is to end sooner than it would be asked to.
    pub(super) hurry: CancellationToken,
    pub(super) side: Arc<Semaphore>,
    pub(super) watched: Watched,
    /// The process that was started last.
    pub(super) started: ArcSwapOption<Started>,
    late: Arc<Tally<u128>>,
    refused: Arc<Tally<Asking>>,
    unasked: Arc<Tally<()>>,
    events: mpsc::Sender<Report>,
}

impl Shared {
    pub(super) fn new(
        id: &str,
        max_message_bytes: usize,
        may_ask: Capabilities,
        events: mpsc::Sender<Report>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            id: id.into(),
            max_message_bytes,
            may_ask,
            changed: Notify::new(),
            suspect: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
            hurry: CancellationToken::new(),
            side: Arc::new(Semaphore::new(MAX_SIDE_POSTS)),
            watched: Watched::default(),
            started: ArcSwapOption::empty(),
            late: Arc::default(),
            refused: Arc::default(),
            unasked: Arc::default(),
            events,
        }
    }

    /// Reports without waiting. There is one such event of each sort at most, so a full channel can be waited for elsewhere.
    fn report(&self, event: Event) {
        let report = Report { upstream: Arc::clone(&self.id), event };
        let (Err(mpsc::error::TrySendError::Full(report)), Ok(runtime)) = (self.events.try_send(report), Handle::try_current()) else {
            return;
        };
        let (events, stop) = (self.events.clone(), self.stop.clone());
        self.tasks.spawn_on(async move { drop(stop.run_until_cancelled(events.send(report)).await) }, &runtime);
    }

    /// Reports, waiting for room; false when nobody reads any more.
    pub(super) async fn announce(&self, event: Event) -> bool {
        self.events.send(Report { upstream: Arc::clone(&self.id), event }).await.is_ok()
    }

    /// Notes and reports that a process was started.
    pub(super) async fn has_started(&self, started: Started) {
        let started = Arc::new(started);
        tracing::info!(upstream = %self.id, sandbox = %started.enforced, granted = %started.granted, "the tool server is started");
        for path in &started.withheld {
            tracing::warn!(upstream = %self.id, "not granted: {path}; where it is meant, grant it by its own path");
        }
        self.started.store(Some(Arc::clone(&started)));
        self.announce(Event::Started(started)).await;
    }

    pub(super) fn late(&self, tag: Option<u128>) {
        if tag.is_some_and(|tag| self.late.note(tag)) {
            self.report(Event::Late { calls: Arc::clone(&self.late) });
        }
    }

    /// The server answered what it was never asked.
    pub(super) fn unasked(&self) {
        if self.unasked.note(()) {
            self.report(Event::Unasked { answers: Arc::clone(&self.unasked) });
        }
    }

    pub(super) fn refused(&self, method: &str, call: Option<u128>) {
        let method = method.chars().take(MAX_METHOD).flat_map(char::escape_debug).collect();
        if self.refused.note(Asking { method, call }) {
            self.report(Event::Refused { requests: Arc::clone(&self.refused) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_much_takes_no_room_from_the_reports_of_others() {
        let (events, mut read) = mpsc::channel(2);
        let of = |id| Shared::new(id, 1, Capabilities::default(), events.clone(), CancellationToken::new());
        let (flood, other) = (of("flood"), of("other"));
        for call in 0..10_000 {
            flood.late(Some(call));
            flood.refused("ping", Some(call));
        }
        other.late(Some(7));
        other.refused("x/y", None);

        let mut told = Vec::new();
        for _ in 0..4 {
            let Report { upstream, event } = read.recv().await.unwrap();
            let (first, more) = match event {
                Event::Late { calls } => calls.take(),
                Event::Refused { requests } => {
                    let (first, more) = requests.take();
                    (first.iter().map(|asking| asking.call.unwrap_or_default()).collect(), more)
                }
                _ => panic!("another event"),
            };
            told.push((upstream.to_string(), first.len() as u64 + more, first[0]));
        }
        told.sort();
        let all = [("flood", 10_000, 0), ("flood", 10_000, 0), ("other", 1, 0), ("other", 1, 7)];
        assert_eq!(told, all.map(|(upstream, number, first)| (upstream.to_owned(), number, first)));
    }
}
