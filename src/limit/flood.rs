//! Floods of refusals: the first few are recorded one by one, the rest as one record with their number.
//!
//! Owns: what is counted instead of recorded, and for how long. Leaves to others: writing the records (`audit`).
//! INVARIANT: every refusal is recorded or counted, and every count comes out of [`Coalescer::drain`] once.
//! INVARIANT: at most `max_keys` agents-codes-targets and as many agents are told apart; those beyond share one count.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use super::Floods;
use crate::error::Code;

/// What is to be done with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write a record of its own.
    Record,
    /// It is counted; its record comes from [`Coalescer::drain`].
    Count,
}

/// Whose flood it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source<'a> {
    /// An agent, or what stands for a caller nobody knows.
    Agent(&'a str),
    /// A tool server.
    Upstream(&'a str),
}

impl<'a> Source<'a> {
    fn agent(self) -> Option<&'a str> {
        if let Self::Agent(name) = self { Some(name) } else { None }
    }

    fn upstream(self) -> Option<&'a str> {
        if let Self::Upstream(id) = self { Some(id) } else { None }
    }
}

/// Refusals that were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coalesced {
    /// The agent, or what stands for a caller nobody knows; `None` where it is a tool server's, or too many were refused to tell
    /// them apart.
    pub agent: Option<Box<str>>,
    /// The tool server, where it is one's.
    pub upstream: Option<Box<str>>,
    /// The code; `None` when the agent's refusals were too many to tell apart.
    pub code: Option<Code>,
    /// The target; `None` as with the code.
    pub target: Option<Box<str>>,
    /// What the first of them was, in the caller's words: its reason or invocation id.
    pub first: Box<str>,
    /// When the first of them came, in nanoseconds since 1970.
    pub from_unix_nanos: i64,
    /// When the last of them came.
    pub to_unix_nanos: i64,
    /// How many they are.
    pub count: u64,
}

#[derive(Debug)]
struct Window {
    began: i64,
    recorded: u64,
    counted: Option<Coalesced>,
}

#[derive(Debug, Default)]
struct State {
    windows: HashMap<u64, Window>,
    /// Counts whose window ended before anybody drained it.
    ended: Vec<Coalesced>,
}

/// Tells floods from single refusals.
#[derive(Debug)]
pub struct Coalescer {
    first: u64,
    window_nanos: i64,
    max_keys: usize,
    hasher: RandomState,
    state: Mutex<State>,
}

impl Coalescer {
    /// One that records and counts as the file says, and tells `max_keys` sources apart.
    pub fn new(floods: Floods, max_keys: usize) -> Self {
        let window_nanos = i64::try_from(floods.window_ms.value()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self { first: floods.first.value(), window_nanos, max_keys, hasher: RandomState::new(), state: Mutex::default() }
    }

    /// Takes note of a refusal. `reason` is kept of the first that is only counted.
    pub fn note(&self, unix_nanos: i64, agent: &str, code: Code, target: &str, reason: &str) -> Verdict {
        self.note_many(unix_nanos, Source::Agent(agent), (code, target), reason, 1)
    }

    /// Takes note of several that were counted before; the record of them, if it is to be written, says how many.
    pub fn note_many(&self, unix_nanos: i64, source: Source<'_>, (code, target): (Code, &str), reason: &str, count: u64) -> Verdict {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = self.hasher.hash_one((source, code, target));
        let (room, more) = (state.windows.len() < self.max_keys, state.windows.len() < 2 * self.max_keys);
        let by_source = self.hasher.hash_one(source);
        let (key, source, code, target) = match (state.windows.contains_key(&whole) || room, state.windows.contains_key(&by_source) || more)
        {
            (true, _) => (whole, Some(source), Some(code), Some(target)),
            (false, true) => (by_source, Some(source), None, None),
            (false, false) => (0, None, None, None),
        };
        let State { windows, ended } = &mut *state;
        let window = windows.entry(key).or_insert(Window { began: unix_nanos, recorded: 0, counted: None });
        // When nobody drains, a window goes on instead of filling memory.
        let over = unix_nanos.saturating_sub(window.began) >= self.window_nanos;
        if over && (window.counted.is_none() || ended.len() < self.max_keys) {
            ended.extend(window.counted.take());
            *window = Window { began: unix_nanos, recorded: 0, counted: None };
        }
        if window.recorded < self.first {
            window.recorded += 1;
            return Verdict::Record;
        }
        let counted = window.counted.get_or_insert_with(|| Coalesced {
            agent: source.and_then(Source::agent).map(Into::into),
            upstream: source.and_then(Source::upstream).map(Into::into),
            code,
            target: target.map(Into::into),
            first: reason.into(),
            from_unix_nanos: unix_nanos,
            to_unix_nanos: unix_nanos,
            count: 0,
        });
        counted.count = counted.count.saturating_add(count);
        counted.to_unix_nanos = counted.to_unix_nanos.max(unix_nanos);
        Verdict::Count
    }

    /// The counts whose window has ended by then, oldest first; for a task that runs every window, and with `i64::MAX` at stop.
    pub fn drain(&self, unix_nanos: i64) -> Vec<Coalesced> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::mem::take(&mut state.ended);
        state.windows.retain(|_, window| {
            let over = unix_nanos.saturating_sub(window.began) >= self.window_nanos;
            if over {
                out.extend(window.counted.take());
            }
            !over
        });
        out.sort_by_key(|counted| counted.from_unix_nanos);
        out
    }
}
