//! Who waits for which answer on a link that carries many.
//!
//! INVARIANT: each call is taken out exactly once: by its answer, by its end, or by the end of the link.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::asking::{self, Asker};
use super::inbound::NotMcp;
use super::request::{Exchange, Notice, Outcome, Sent, is_wanted};
use super::shared::Shared;
use crate::mcp::log_level::LogLevel;

/// Ended calls that are remembered, so that a late answer is told from an invented one.
const MAX_REMEMBERED: usize = 1024;

/// What a call waits for: the line and what it says, or why it cannot be read.
pub(super) type Answer = Result<(Bytes, Outcome), NotMcp>;

/// A call that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    answer: oneshot::Sender<Answer>,
    notices: Option<mpsc::Sender<Notice>>,
    /// The least severe log message wanted; none where absent.
    log_level: Option<LogLevel>,
    asker: Option<Arc<Asker>>,
    tag: Option<u128>,
    sent: Sent,
}

/// Whose an answer is.
#[derive(Debug)]
pub(super) enum Owner {
    /// A call that waits for it.
    Waiting(Waiter),
    /// A call that has ended, with its tag.
    Ended(Option<u128>),
    /// None that we remember.
    Nobody,
}

/// All calls of one link.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    closed: bool,
    calls: HashMap<u64, Waiter>,
    ended: VecDeque<(u64, Option<u128>)>,
    /// The agent that has called here, as long as there was only one.
    first: Option<Box<str>>,
    has_several: bool,
}

impl Pending {
    /// Has the exchange wait for the answer to `id`; false when the link is gone.
    pub(super) fn enlist(&self, id: u64, exchange: &Exchange<'_>, answer: oneshot::Sender<Answer>) -> bool {
        let (notices, asker, sent) = (exchange.notices.cloned(), exchange.asker.cloned(), exchange.sent.clone());
        self.add(id, exchange.session_key, Waiter { answer, notices, log_level: exchange.log_level, asker, tag: exchange.tag, sent })
    }

    /// `agent` is empty for a request of our own.
    fn add(&self, id: u64, agent: &str, waiter: Waiter) -> bool {
        let mut inner = self.inner();
        if !inner.closed {
            inner.meet(agent);
            inner.calls.insert(id, waiter);
        }
        !inner.closed
    }

    /// Takes out whoever waits for the answer to `id`.
    pub(super) fn take(&self, id: u64) -> Owner {
        let mut inner = self.inner();
        if let Some(waiter) = inner.calls.remove(&id) {
            inner.remember(id, waiter.tag);
            return Owner::Waiting(waiter);
        }
        let ended = inner.ended.iter().find(|(ended, _)| *ended == id);
        ended.map_or(Owner::Nobody, |(_, tag)| Owner::Ended(*tag))
    }

    /// Says that nobody waits for the answer to `id`, a request of our own; it may come all the same.
    pub(super) fn disregard(&self, id: u64) {
        self.inner().remember(id, None);
    }

    /// Hands an answer to the call that waits for it, and reports one that none waits for. Tells whether one did.
    pub(super) fn answer(&self, shared: &Shared, id: u64, answer: Answer) -> bool {
        let owner = self.take(id);
        let waited = matches!(owner, Owner::Waiting(_));
        match owner {
            Owner::Waiting(call) => {
                if call.answer.send(answer).is_err() {
                    shared.late(call.tag);
                }
            }
            Owner::Ended(tag) => shared.late(tag),
            Owner::Nobody => shared.unasked(),
        }
        waited
    }

    /// Passes on the progress of `id`, where somebody wants to know. A call that does not keep up misses some.
    pub(super) fn progress(&self, id: u64, params: Bytes) {
        let notices = self.inner().calls.get(&id).and_then(|call| call.notices.clone());
        if let Some(notices) = notices {
            let _ = notices.try_send(Notice::Progress(params));
        }
    }

    /// Passes on a log message that names no call.
    pub(super) fn log(&self, level: Option<LogLevel>, params: Bytes) {
        if let Some(notices) = self.only_log(level) {
            let _ = notices.try_send(Notice::Log(params));
        }
    }

    /// Where a log message goes that names no call: to one call alone, where no other agent has ever called. A call that has
    /// ended may still be worked on, and what it logs is not for somebody else.
    fn only_log(&self, level: Option<LogLevel>) -> Option<mpsc::Sender<Notice>> {
        let inner = self.inner();
        if inner.has_several {
            return None;
        }
        let mut calls = inner.calls.values();
        match (calls.next(), calls.next()) {
            (Some(call), None) if is_wanted(level, call.log_level) => call.notices.clone(),
            _ => None,
        }
    }

    /// Whose question it is that names no call: only one call alone can have caused it. Where there are several, any of them may have
    /// begun.
    pub(super) fn only_asker(&self, method: &str) -> (Option<u128>, Option<Arc<Asker>>) {
        let inner = self.inner();
        inner.calls.values().for_each(|call| asking::begins(&call.sent, method));
        let mut calls = inner.calls.values();
        match (calls.next(), calls.next()) {
            (Some(call), None) => (call.tag, call.asker.clone()),
            _ => (None, None),
        }
    }

    /// Lets nobody in any more and gives out all that wait: dropping a waiter tells its call.
    pub(super) fn close(&self) -> HashMap<u64, Waiter> {
        let mut inner = self.inner();
        inner.closed = true;
        std::mem::take(&mut inner.calls)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn meet(&mut self, agent: &str) {
        // Our own requests are nobody's.
        if agent.is_empty() || self.has_several {
            return;
        }
        match &self.first {
            None => self.first = Some(agent.into()),
            Some(first) => self.has_several = **first != *agent,
        }
    }

    fn remember(&mut self, id: u64, tag: Option<u128>) {
        if self.ended.len() >= MAX_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((id, tag));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(tag: u128) -> Waiter {
        Waiter { answer: oneshot::channel().0, notices: None, log_level: None, asker: None, tag: Some(tag), sent: Sent::default() }
    }

    #[test]
    fn an_ended_call_is_remembered_for_a_while() {
        let pending = Pending::default();
        for id in 0..=MAX_REMEMBERED as u64 {
            assert!(pending.add(id, "a", waiter(u128::from(id))));
            assert!(matches!(pending.take(id), Owner::Waiting(_)));
        }
        assert!(matches!(pending.take(0), Owner::Nobody));
        assert!(matches!(pending.take(1), Owner::Ended(Some(1))));
    }

    #[test]
    fn a_closed_link_takes_no_calls() {
        let pending = Pending::default();
        pending.add(1, "a", waiter(1));
        assert_eq!(pending.close().len(), 1);
        assert!(!pending.add(2, "a", waiter(2)));
    }

    #[test]
    fn a_log_that_names_no_call_reaches_nobody_once_two_agents_have_called() {
        let (notices, _kept) = mpsc::channel(1);
        let logging = |tag| Waiter { notices: Some(notices.clone()), log_level: Some(LogLevel::Debug), ..waiter(tag) };
        let pending = Pending::default();
        pending.add(1, "", waiter(1));
        drop(pending.take(1));
        pending.add(2, "a", logging(2));
        assert!(pending.only_log(Some(LogLevel::Error)).is_some());
        drop(pending.take(2));
        // What `a` began may still be worked on.
        pending.add(3, "b", logging(3));
        assert!(pending.only_log(Some(LogLevel::Error)).is_none());
    }
}
