//! Tools of 2025-11-25 that are called in no other way than as a task: the call makes one, and its result is fetched.
//!
//! Leaves to others: which tools these are (`catalog`). No agent sees the task: what it gets is the result of its call.
//! INVARIANT: a task that nobody waits for any more is cancelled at its server.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::inbound::LIMITS;
use super::link::Link;
use super::request::{Exchange, Outcome, Part, Patience, Reply, Request, Sent};
use super::{Core, Slot, Upstream};
use crate::catalog::TaskSupport;
use crate::error::{Code, Effect, Error};
use crate::mcp::json::{self, Node};
use crate::mcp::revision::{Era, Revision};

/// The shortest and the longest wait before a task is looked at again, in milliseconds, whatever its server asks for.
const POLL_MS: (u64, u64) = (50, 5_000);
/// The wait where the server asks for none, in milliseconds.
const POLL_DEFAULT_MS: u64 = 500;
/// How long the cancellation of a task may take.
const CANCELLING: Duration = Duration::from_secs(2);

/// A task as its server tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Task {
    id: String,
    is_over: bool,
    poll: Duration,
}

impl Task {
    /// Reads a `Task` object; `None` where it is none.
    fn of(node: &Node<'_>) -> Option<Self> {
        let string = |key| node.get(key).and_then(Node::as_str);
        let poll = node.get("pollInterval").and_then(Node::as_u64).unwrap_or(POLL_DEFAULT_MS);
        Some(Self {
            id: string("taskId")?.to_owned(),
            is_over: matches!(string("status")?, "completed" | "failed" | "cancelled"),
            poll: Duration::from_millis(poll.clamp(POLL_MS.0, POLL_MS.1)),
        })
    }

    /// The task of a reply, under `task` or as the result itself.
    fn in_reply(reply: &Reply) -> Option<Self> {
        let node = json::parse(reply.text(), LIMITS).ok().filter(|_| matches!(reply.outcome, Outcome::Result(_)))?;
        Self::of(node.get("task").unwrap_or(&node))
    }
}

impl Upstream {
    /// Whether a call of such a tool has to be a task with the server as it is connected now.
    pub(super) fn needs_task(&self, support: TaskSupport) -> bool {
        let version = || self.0.live.load().as_ref().map(|live| live.version);
        support == TaskSupport::Required && version() == Some(Revision::V2025_11_25)
    }

    /// Calls a tool as a task, waits for its end and fetches the result.
    ///
    /// # Errors
    /// As [`Upstream::call`].
    pub(super) async fn run_task(&self, slot: &Slot, request: Request<'_>) -> Result<Reply, Error> {
        let members: Vec<_> = request.members.iter().copied().chain([("task", Part::Raw(b"{}"))]).collect();
        let created = self.call(slot, Request { members: &members, ..request }).await?;
        // An error, or a result at once: it is looked at like that of any call.
        let Some(mut task) = Task::in_reply(&created) else { return Ok(created) };
        let unwanted = Unwanted { core: &self.0, id: task.id.clone(), session_key: request.session_key };
        // What fails from here on fails after the server has begun.
        let begun = |error: Error| error.after_effect(Effect::Unknown, request.idempotent);
        while !task.is_over {
            tokio::select! {
                () = request.cancel.cancelled() => {
                    return Err(begun(Error::new(Code::Cancelled, "the call was cancelled").from_upstream()));
                }
                () = sleep(task.poll) => {}
            }
            let reply = self.of_task(slot, request, "tasks/get", &unwanted.id).await.map_err(begun)?;
            task = match Task::in_reply(&reply) {
                Some(found) if found.id == unwanted.id => found,
                _ => return Err(begun(Error::new(Code::UpstreamProtocolError, "the tool server lost the call's task").from_upstream())),
            };
        }
        let reply = self.of_task(slot, request, "tasks/result", &unwanted.id).await.map_err(begun)?;
        unwanted.ended();
        match reply.outcome {
            Outcome::Result(_) => Ok(reply),
            // Whatever its number says of this request, the task before it ran.
            Outcome::Failure(_) => {
                Err(begun(Error::new(Code::UpstreamError, "the tool server does not give the result of the call's task").from_upstream()))
            }
        }
    }

    async fn of_task(&self, slot: &Slot, request: Request<'_>, method: &str, id: &str) -> Result<Reply, Error> {
        let (members, sent) = ([("taskId", Part::Text(id))], Sent::default());
        // Its answer began with the task; each look at it is bounded by the deadline alone.
        let patience = Patience { first_byte: None, silence: None, ..request.patience };
        self.call(slot, Request { method, members: &members, meta: &[], headers: &[], notices: None, sent: &sent, patience, ..request })
            .await
    }
}

/// A task that is cancelled when this is dropped.
struct Unwanted<'t> {
    core: &'t Core,
    id: String,
    session_key: &'t str,
}

impl Unwanted<'_> {
    fn ended(mut self) {
        self.id.clear();
    }
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        let (Ok(runtime), Some(live)) = (tokio::runtime::Handle::try_current(), self.core.live.load_full()) else { return };
        if self.id.is_empty() {
            return;
        }
        let (id, session_key, link): (_, _, Link) = (std::mem::take(&mut self.id), self.session_key.to_owned(), live.link.clone());
        let cancelling = async move {
            let (members, sent) = ([("taskId", Part::Text(&id))], Sent::default());
            let exchange = Exchange { session_key: &session_key, ..Exchange::own(Era::Legacy, "tasks/cancel", &members, &sent) };
            let _ = timeout(CANCELLING, link.exchange(&exchange)).await;
        };
        self.core.shared.tasks.spawn_on(cancelling, &runtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Option<Task> {
        Task::of(&json::parse(text.as_bytes(), LIMITS).unwrap())
    }

    #[test]
    fn a_server_cannot_make_us_ask_all_the_time_or_never() {
        let poll = |interval: &str| task(&format!(r#"{{"taskId":"t","status":"working"{interval}}}"#)).unwrap().poll.as_millis();
        assert_eq!((poll(r#","pollInterval":0"#), poll(r#","pollInterval":999999999"#), poll("")), (50, 5_000, 500));
        assert_eq!(task(r#"{"content":[]}"#), None);
    }

    #[test]
    fn a_task_that_wants_input_is_not_over() {
        let over = |status: &str| task(&format!(r#"{{"taskId":"t","status":"{status}"}}"#)).unwrap().is_over;
        assert!(!over("working") && !over("input_required") && over("completed") && over("failed") && over("cancelled"));
    }
}
