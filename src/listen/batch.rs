//! Arrays of messages, which 2025-03-26 alone has (basic, "Batching"): all of it at once, the answers in one array.
//!
//! INVARIANT: a batch begins no session, and each of its messages takes the same way as if it had come alone.
//! INVARIANT: each of its messages spends what a message of its own would have spent of the agent's requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio_util::sync::CancellationToken;

use super::buffers::Taken;
use super::dispatch::{Turn, Wire};
use crate::error::{Code, Error};
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::{Id, Message, message};
use crate::mcp::messages::Downstream;
use crate::mcp::respond;

/// Messages of one batch.
const MAX_MESSAGES: usize = 64;

impl Turn<'_> {
    /// Answers a batch; `None` where none of its messages wants an answer. Where its transport counts requests, the first was
    /// `counted` before the batch was read.
    ///
    /// # Errors
    /// `malformed_request` for an array that is no batch here; it is not recorded yet.
    pub(super) async fn batch(&self, items: &[Node<'_>], counted: bool) -> Result<Option<Wire>, Error> {
        if !self.revision.has_batches() {
            return Err(Error::new(Code::MalformedRequest, "the message is not a JSON object, and only 2025-03-26 has batches"));
        }
        if items.is_empty() || items.len() > MAX_MESSAGES {
            return Err(Error::new(Code::MalformedRequest, format!("a batch has 1 to {MAX_MESSAGES} messages")));
        }
        let screened = |at: usize| if counted && at > 0 { self.gateway.screen(&self.caller.principal) } else { Ok(()) };
        let work = items.iter().enumerate().map(|(at, item)| Box::pin(self.item(item, screened(at))) as Pin<Box<_>>);
        let answers = all(work.collect()).await;
        let (mut out, mut parts) = (Vec::new(), Vec::new());
        for Wire { body, taken, .. } in answers.into_iter().flatten() {
            out.push(if out.is_empty() { b'[' } else { b',' });
            out.extend_from_slice(&body);
            parts.extend(taken);
        }
        if out.is_empty() {
            return Ok(None);
        }
        out.push(b']');
        Ok(Some(Wire { taken: Taken::of_all(parts), ..Wire::ok(out.into()) }))
    }

    async fn item(&self, item: &Node<'_>, screened: Result<(), Error>) -> Option<Wire> {
        let refused = |method: &'static str, error| async move {
            let answer = self.gateway.refuse(self.caller, method, None, error).await;
            answer.outcome.err().map(|error| (error, answer.invocation))
        };
        let said = |id: Option<&Id>, error, invocation: &str| Wire::ok(respond::error(id, &error, invocation));
        let message = match (message(item), screened) {
            // What an agent was asked is waited for, and costs a look into a table.
            (Ok(answer @ (Message::Result { .. } | Message::Failure { .. })), _) => Ok(answer),
            (Ok(Message::Request { id, method, .. }), Err(limited)) => return Some(self.refuse(&id, method, limited).await),
            (Ok(Message::Notification { method, .. }), Err(limited)) => {
                self.gateway.refuse(self.caller, method, None, limited).await;
                return None;
            }
            (message, Ok(())) => message,
            (Err(_), Err(limited)) => Err(limited),
        };
        match message {
            Err(error) => refused("unread", error).await.map(|(error, invocation)| said(None, error, &invocation)),
            Ok(Message::Request { id, method: "initialize", .. }) => {
                let error = Error::new(Code::MalformedRequest, "`initialize` is never part of a batch");
                refused("initialize", error).await.map(|(error, invocation)| said(Some(&id), error, &invocation))
            }
            Ok(Message::Request { id, method, params }) => {
                // Each is cancelled by itself.
                let one = One { batch: self.downstream, cancel: self.cancel.child_token() };
                let turn = Turn { downstream: &one, cancel: &one.cancel, ..*self };
                Some(turn.request(&id, method, params).await)
            }
            Ok(Message::Notification { method, params }) => {
                self.notification(method, params).await;
                None
            }
            Ok(answer @ (Message::Result { .. } | Message::Failure { .. })) => {
                if let Some(conversation) = self.conversation {
                    self.service.asks().answered(conversation, &answer, self.text);
                }
                None
            }
        }
    }
}

/// One message's part of the way back.
struct One<'t> {
    batch: &'t dyn Downstream,
    cancel: CancellationToken,
}

impl Downstream for One<'_> {
    fn notify(&self, method: &str, params: &[u8]) {
        self.batch.notify(method, params);
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }
}

type Work<'w, T> = Pin<Box<dyn Future<Output = T> + Send + 'w>>;

/// Runs all side by side, and gives their results in order.
async fn all<T>(mut work: Vec<Work<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = work.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (work, done) in work.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(result) = work.as_mut().poll(context) {
                *done = Some(result);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
