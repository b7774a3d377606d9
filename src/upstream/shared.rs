//! What one upstream tells the gateway, and what its parts share to do so.
//!
//! INVARIANT: a report from a reader never waits for whoever reads the reports: over the channel's bound it is dropped and
//! logged. `Listed` and `Lost` are waited for, by the task that has nothing else to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::era::Dialect;
use super::watch::Watched;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::messages::Offers;
use crate::mcp::revision::Revision;

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
    /// An answer to a call that had ended, or a second one.
    Late {
        /// The call's [`super::Request::tag`].
        tag: u128,
    },
    /// A server asked us for something that we do not do, and was refused.
    Refused {
        /// The method that it asked for.
        method: String,
        /// The [`super::Request::tag`] of the call that it asked for, where that is known.
        call: Option<u128>,
    },
    /// A server answered what it was never asked.
    Unasked {
        /// How often, since it was last asked for.
        answers: Arc<Tally>,
    },
    /// A resource that we watch has changed.
    Updated {
        /// The server's own URI.
        uri: String,
    },
}

/// A number that grows while the report of it waits to be read: a server may do the same ten thousand times a second, and the
/// reports of all upstreams wait in one channel.
#[derive(Debug, Default)]
pub struct Tally {
    count: AtomicU64,
    is_reported: AtomicBool,
}

impl Tally {
    /// What was counted since the last time.
    pub fn take(&self) -> u64 {
        // In this order: what is counted in between has a report of its own, and perhaps nothing left to tell.
        self.is_reported.store(false, Ordering::SeqCst);
        self.count.swap(0, Ordering::SeqCst)
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
    unasked: Arc<Tally>,
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
            unasked: Arc::default(),
            events,
        }
    }

    /// Reports without waiting; false when it could not.
    pub(super) fn report(&self, event: Event) -> bool {
        let report = Report { upstream: Arc::clone(&self.id), event };
        let sent = self.events.try_send(report);
        if let Err(error) = &sent {
            tracing::debug!(upstream = %self.id, %error, "an event of the upstream could not be reported");
        }
        sent.is_ok()
    }

    /// Reports, waiting for room; false when nobody reads any more.
    pub(super) async fn announce(&self, event: Event) -> bool {
        self.events.send(Report { upstream: Arc::clone(&self.id), event }).await.is_ok()
    }

    pub(super) fn late(&self, tag: Option<u128>) {
        if let Some(tag) = tag {
            self.report(Event::Late { tag });
        }
    }

    /// The server answered what it was never asked.
    pub(super) fn unasked(&self) {
        let answers = &self.unasked;
        answers.count.fetch_add(1, Ordering::SeqCst);
        if !answers.is_reported.swap(true, Ordering::SeqCst) && !self.report(Event::Unasked { answers: Arc::clone(answers) }) {
            // The next one tries again, for both.
            answers.is_reported.store(false, Ordering::SeqCst);
        }
    }

    pub(super) fn refused(&self, method: &str, call: Option<u128>) {
        let method = method.chars().take(MAX_METHOD).flat_map(char::escape_debug).collect();
        self.report(Event::Refused { method, call });
    }
}
