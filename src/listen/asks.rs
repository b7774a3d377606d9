//! Questions to agents of the handshake revisions that wait for their answer.
//!
//! INVARIANT: an answer is taken only in the conversation that was asked, so nobody answers for somebody else.
//! INVARIANT: one agent has no more than its share of the questions under way.
//! INVARIANT: nothing that serves an agent of 2026-07-28 is a [`Back`]: such an agent is sent no request (2026-07-28, basic).

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::oneshot;

use super::stream::notification;
use crate::error::{Code, Effect, Error};
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::jsonrpc::{Id, Message};
use crate::seal::random;

/// Questions under way in the whole gateway, and how many of them may be for one agent. A call has as many as its server asks.
const MAX_UNDER_WAY: (usize, usize) = (1_024, 512);
/// Numbers up to here are exact in every JSON reader (RFC 8259, section 6).
const EXACT: u64 = (1 << 53) - 1;

/// A way to send an agent of a handshake revision what it has to answer.
pub trait Back: Send + Sync {
    /// Sends a message; `false` when this agent cannot be reached.
    fn send(&self, message: Bytes) -> bool;
}

/// The result's JSON text; `None` when the agent answered with an error.
pub type Reply = Option<Bytes>;

/// All questions under way.
#[derive(Debug)]
pub struct Asks {
    waiting: DashMap<(Arc<str>, u64), oneshot::Sender<Reply>>,
    places: Arc<Slots>,
}

impl Default for Asks {
    fn default() -> Self {
        Self { waiting: DashMap::new(), places: Arc::new(Slots::new(MAX_UNDER_WAY.0)) }
    }
}

impl Asks {
    /// A question to this agent, to be sent by `back` under an id of its own: random, because another instance may ask in the
    /// same session.
    ///
    /// # Errors
    /// `overloaded` when too many wait already, `concurrency_limited` when too many of this agent do, `internal` without
    /// randomness. The tool server has had the call by then.
    pub fn begin<'a>(&'a self, agent: &Arc<str>, conversation: &Arc<str>, back: &'a dyn Back) -> Result<Pending<'a>, Error> {
        let place = self.places.take(agent, MAX_UNDER_WAY.1).map_err(full)?;
        let mut bytes = [0; 8];
        let failed = |_| Error::new(Code::Internal, "no id for a question could be made").after_effect(Effect::Unknown, false);
        random(&mut bytes).map_err(failed)?;
        let key = (Arc::clone(conversation), u64::from_le_bytes(bytes) & EXACT);
        let (sender, reply) = oneshot::channel();
        self.waiting.insert(key.clone(), sender);
        Ok(Pending { asks: self, back, key, reply, _place: place })
    }

    /// Hands over an agent's message if it is an answer that somebody waits for; `text` is what it was parsed from.
    pub fn answered(&self, conversation: &Arc<str>, message: &Message<'_, '_>, text: &[u8]) -> bool {
        match message {
            // Answers are objects (JSON-RPC leaves it open, MCP does not): anything else is none.
            Message::Result { id, result } => {
                self.take(conversation, id, result.is_object().then(|| Bytes::copy_from_slice(result.text(text))))
            }
            Message::Failure { id: Some(id), .. } => self.take(conversation, id, None),
            _ => false,
        }
    }

    fn take(&self, conversation: &Arc<str>, id: &Id, reply: Reply) -> bool {
        let id = id.as_json().parse::<u64>().ok();
        let asked = id.and_then(|id| self.waiting.remove(&(Arc::clone(conversation), id)));
        asked.is_some_and(|(_, sender)| sender.send(reply).is_ok())
    }
}

fn full(full: Full) -> Error {
    let error = match full {
        Full::All => Error::new(Code::Overloaded, "too many questions to agents wait for their answer"),
        Full::Agent => Error::new(Code::ConcurrencyLimited, "too many questions to this agent wait for their answer"),
    };
    // Sent again, the call would be made a second time.
    error.after_effect(Effect::Unknown, false).suggest("answer what the agent was asked; check what the call did before sending it again")
}

/// A question that waits for its answer. Dropped before that, it is withdrawn.
pub struct Pending<'a> {
    asks: &'a Asks,
    back: &'a dyn Back,
    key: (Arc<str>, u64),
    reply: oneshot::Receiver<Reply>,
    _place: Place,
}

impl Pending<'_> {
    /// The id that the agent answers under.
    pub fn id(&self) -> u64 {
        self.key.1
    }

    /// Waits for the answer.
    pub async fn reply(&mut self) -> Reply {
        (&mut self.reply).await.unwrap_or_default()
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.asks.waiting.remove(&self.key).is_some() {
            let params = format!("{{\"requestId\":{}}}", self.key.1);
            self.back.send(notification("notifications/cancelled", params.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<Bytes>>);

    impl Back for Sent {
        fn send(&self, message: Bytes) -> bool {
            self.0.lock().is_ok_and(|mut sent| {
                sent.push(message);
                true
            })
        }
    }

    #[tokio::test]
    async fn an_answer_counts_in_its_own_conversation_and_once() {
        let (asks, sent) = (Asks::default(), Sent::default());
        let (own, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let mut pending = asks.begin(&"agent:a".into(), &own, &sent).unwrap();
        let id = Id::number(pending.id());
        assert!(!asks.take(&other, &id, None));
        assert!(asks.take(&own, &id, Some(Bytes::from_static(b"{}"))));
        assert!(!asks.take(&own, &id, None));
        assert_eq!(pending.reply().await.as_deref(), Some(b"{}".as_slice()));
        drop(pending);
        assert!(sent.0.lock().unwrap().is_empty(), "what is answered is not withdrawn");
    }

    #[test]
    fn a_question_that_is_given_up_is_withdrawn_and_forgotten() {
        let (asks, sent) = (Asks::default(), Sent::default());
        let pending = asks.begin(&"agent:a".into(), &"one".into(), &sent).unwrap();
        let id = pending.id();
        drop(pending);
        let told = String::from_utf8(sent.0.lock().unwrap()[0].to_vec()).unwrap();
        assert!(told.contains("notifications/cancelled") && told.contains(&id.to_string()), "{told}");
        assert!(asks.waiting.is_empty());
    }
}
