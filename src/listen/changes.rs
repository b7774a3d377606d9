//! What a listener is told of: changes of lists and resources, gathered for a moment and decided anew for each listener.
//!
//! INVARIANT: whether a principal may know of a change is asked of the snapshot that is in force when it is told.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::Service;
use crate::gateway::Change;
use crate::identity::Principal;
use crate::mcp::messages::Feed;

/// Changes within this time are told together, the same one once.
const GATHERED: Duration = Duration::from_millis(100);
/// Changes that are gathered at most; a server that has more to tell is told of in several rounds.
const MAX_GATHERED: usize = 256;
/// All lists.
pub const LISTS: [Feed; 3] = [Feed::Tools, Feed::Prompts, Feed::Resources];

/// The changes that come from now on.
pub struct Changes {
    changes: Receiver<Change>,
    gathered: Vec<Change>,
    due: Instant,
}

impl Changes {
    /// Of all upstreams of the service.
    pub fn of(service: &Service) -> Self {
        Self { changes: service.gateway().shared().changes.subscribe(), gathered: Vec::new(), due: Instant::now() }
    }

    /// The next changes. Nothing is lost when it is not waited for to the end.
    pub async fn next(&mut self) -> Vec<Change> {
        if self.gathered.is_empty() {
            self.gather().await;
            self.due = Instant::now() + GATHERED;
        }
        while self.gathered.len() < MAX_GATHERED {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.due) => break,
                () = self.gather() => {}
            }
        }
        std::mem::take(&mut self.gathered)
    }

    async fn gather(&mut self) {
        match self.changes.recv().await {
            Ok(change) => self.note(change),
            // Nobody knows what was missed, so everything may be another.
            Err(RecvError::Lagged(_)) => LISTS.map(Change::List).into_iter().for_each(|change| self.note(change)),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    fn note(&mut self, change: Change) {
        if !self.gathered.contains(&change) {
            self.gathered.push(change);
        }
    }
}

/// The notification's method and parameters, where the principal may know of the change now.
pub fn told(service: &Service, principal: &Principal, change: &Change) -> Option<(&'static str, Bytes)> {
    let method = match change {
        Change::List(Feed::Tools) => "notifications/tools/list_changed",
        Change::List(Feed::Prompts) => "notifications/prompts/list_changed",
        Change::List(Feed::Resources) => "notifications/resources/list_changed",
        Change::Updated { .. } => "notifications/resources/updated",
    };
    Some((method, service.gateway().shows(principal, change)?))
}

/// Why the principal is told of nothing any more, where that is so.
pub fn kept_out(service: &Service, principal: &Principal) -> Option<&'static str> {
    service.gateway().kept_out(principal)
}
