//! The stage *reserve* of the path: a place among the calls under way at an upstream, and leave of its breakers.
//!
//! Owns: what a call holds while it is forwarded. Leaves to others: whose turn it is (`limit::bulkhead`), what a failure means
//! (`breakers`).
//! INVARIANT: a call takes the breakers' leave when it has its place, so none of those that wait holds a probe's.
//! INVARIANT: whatever ends a call gives both back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Upstream;
use super::breaker::Standing;
use super::breakers::Leave;
use super::budget::Retries;
use crate::error::{Code, Error};
use crate::limit::bulkhead::{Entered, Place, Wait};
use crate::limit::slots::Full;
use crate::objective::Turn;

/// When an agent may ask again for a place, in milliseconds. A guess: nobody knows when a call ends.
const FULL_RETRY_MS: u64 = 1_000;

/// Leave for one call: a place among those under way, and the breakers' permits. Given back when dropped.
#[derive(Debug)]
pub struct Slot {
    _place: Place,
    leave: Mutex<Option<Leave>>,
    is_tool: bool,
    /// Leave for a tool that is slowed down.
    _turn: Option<Turn>,
    /// Whether no other agent wants anything of the server.
    pub(super) only_agent: bool,
}

/// Who wants a place, for what, and how long they may wait for one.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Whose share of the places and of the queue it comes out of.
    pub agent: &'w Arc<str>,
    /// Whether it is the only agent there is.
    pub only_agent: bool,
    /// The server's own name of the tool; prompts and resources have no breaker of their own.
    pub tool: Option<&'w str>,
    /// How long to wait.
    pub wait: Duration,
    /// When to give up waiting all the same.
    pub deadline: Option<Instant>,
    /// Ends the wait when the agent has given up.
    pub cancel: &'w CancellationToken,
}

/// How busy an upstream is, and what its breakers say.
#[derive(Clone, Debug)]
pub struct Load {
    /// Calls under way.
    pub calls: usize,
    /// As many as there may be.
    pub places: usize,
    /// Calls that wait for a place.
    pub waiting: usize,
    /// As many as may.
    pub queue: usize,
    /// The upstream's own breaker.
    pub breaker: Standing,
    /// The breakers of its tools that have failed and not worked since, by the server's own name.
    pub tools: Vec<(String, Standing)>,
    /// How often calls were sent again.
    pub retries: Retries,
}

impl Slot {
    /// Holds this too, for as long as the call is under way.
    #[must_use]
    pub fn holding(self, turn: Option<Turn>) -> Self {
        Self { _turn: turn, ..self }
    }
}

impl Upstream {
    /// Takes a slot, or waits for one where the agent's and the upstream's queue have room.
    ///
    /// # Errors
    /// `circuit_open` when the server or the tool failed too often just now, `concurrency_limited` when there is no place and no room in
    /// the queue, or none came in time, `cancelled`.
    pub async fn reserve(&self, wanted: Wanted<'_>) -> Result<Slot, Error> {
        let share = self.0.spec.share(wanted.only_agent);
        let place = match self.0.bulkhead.enter(wanted.agent, share) {
            Ok(Entered::Place(place)) => place,
            // Boxed, since it is rare and would make the state of every call larger.
            Ok(Entered::Waits(wait)) => Box::pin(self.wait(wait, wanted)).await?,
            Err(full) => return Err(self.0.breakers.refusal(wanted.tool).unwrap_or_else(|| self.full(full))),
        };
        let leave = self.0.breakers.permit(wanted.tool)?;
        let (leave, is_tool) = (Mutex::new(Some(leave)), wanted.tool.is_some());
        Ok(Slot { _place: place, leave, is_tool, _turn: None, only_agent: wanted.only_agent })
    }

    /// Why no call of the tool would be let in now, not even one that tries: told before anybody waits for a connection.
    pub fn refusal(&self, tool: Option<&str>) -> Option<Error> {
        self.0.breakers.refusal(tool)
    }

    async fn wait(&self, mut wait: Wait, wanted: Wanted<'_>) -> Result<Place, Error> {
        // Nobody waits for a place at a server that takes no call.
        if let Some(refusal) = self.0.breakers.refusal(wanted.tool) {
            return Err(refusal);
        }
        let until = Instant::now() + wanted.wait;
        let until = wanted.deadline.map_or(until, |deadline| deadline.min(until));
        tokio::select! {
            biased;
            () = wanted.cancel.cancelled() => Err(Error::new(Code::Cancelled, "the call was cancelled while it waited for a place")),
            came = timeout_at(until, wait.place()) => match came {
                Ok(Some(place)) => Ok(place),
                Ok(None) | Err(_) => {
                    let message = format!("no place at the tool server `{}` became free in time", self.id());
                    Err(Error::new(Code::ConcurrencyLimited, message).retry_after_ms(FULL_RETRY_MS))
                }
            },
        }
    }

    fn full(&self, full: Full) -> Error {
        let message = match full {
            Full::All => format!("the tool server `{}` has as many calls as it takes at once, and as many wait as may", self.id()),
            Full::Agent => {
                format!("the tool server `{}` has as many calls of this agent as it takes at once, and as many wait as may", self.id())
            }
        };
        Error::new(Code::ConcurrencyLimited, message).retry_after_ms(FULL_RETRY_MS)
    }

    /// How busy it is, and what its breakers say.
    pub fn load(&self) -> Load {
        let ((calls, waiting), spec) = (self.0.bulkhead.depth(), &self.0.spec);
        let (breaker, tools) = (self.0.breakers.standing(), self.0.breakers.of_tools());
        let (places, queue) = (spec.concurrency, spec.queue);
        Load { calls, places, waiting, queue, breaker, tools, retries: self.0.budget.retries() }
    }

    /// Counts a call towards those that may be sent again.
    pub fn earn_retry(&self) {
        self.0.budget.earn();
    }

    /// Whether a call may be sent again now, as far as the budget goes; it is charged then.
    pub fn spend_retry(&self) -> bool {
        self.0.budget.spend()
    }

    /// Tells the breakers how the call of this name went; the first news count.
    pub(super) fn learn(&self, slot: &Slot, name: &str, outcome: Result<(), &Error>) {
        let leave = slot.leave.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(leave) = leave {
            self.0.breakers.learn(leave, slot.is_tool.then_some(name), outcome);
        }
    }
}
