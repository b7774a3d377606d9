//! Floods of refusals: the first few are recorded one by one, the rest as one record with their number.
//!
//! Owns: what is counted instead of recorded, and for how long. Leaves to others: writing the records (`audit`).
//! INVARIANT: every refusal is recorded or counted, and every count comes out of [`Coalescer::drain`] once.
//! INVARIANT: at most `max_keys` agents-codes-targets, as many agents-codes and as many agents are told apart; those beyond share one count. No agent
//! has more than an eighth of the first, so none takes from the others what they are told apart by.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Floods;
use crate::error::Code;

/// What is to be done with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write a record of its own.
    Record,
    /// The same, and say in it that those that follow in its window are counted: were the process killed before the count is written, it is
    /// known from this that there may have been more.
    Last,
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
    /// The code; `None` when there were too many agents and codes to tell them apart.
    pub code: Option<Code>,
    /// The target; `None` as with the code, and when the agent's refusals were of too many sorts.
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
    /// The source of whose share it takes.
    of: Option<u64>,
    began: i64,
    recorded: u64,
    counted: Option<Coalesced>,
}

#[derive(Debug, Default)]
struct State {
    /// How many of a window are recorded.
    first: u64,
    window_nanos: i64,
    windows: HashMap<u64, Window>,
    /// How many windows a source has for a code and target each.
    shares: HashMap<u64, usize>,
    /// Counts whose window ended before anybody drained it.
    ended: Vec<Coalesced>,
}

/// A window's key, of whose share it is, and the source, code and target that all in it have.
type Level<'a> = (u64, Option<u64>, Option<Source<'a>>, Option<Code>, Option<&'a str>);

/// Tells floods from single refusals.
#[derive(Debug)]
pub struct Coalescer {
    max_keys: usize,
    hasher: RandomState,
    state: Mutex<State>,
}

impl Coalescer {
    /// One that records and counts as the file says, and tells `max_keys` sources apart.
    pub fn new(floods: Floods, max_keys: usize) -> Self {
        let coalescer = Self { max_keys, hasher: RandomState::new(), state: Mutex::default() };
        coalescer.count_by(floods);
        coalescer
    }

    /// Records and counts in another way from now on; gives what was counted so far.
    pub fn count_by(&self, floods: Floods) -> Vec<Coalesced> {
        let mut state = self.state();
        state.first = floods.first.value();
        state.window_nanos = i64::try_from(floods.window_ms.value()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        state.drain(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a refusal. `reason` is kept of the first that is only counted.
    pub fn note(&self, unix_nanos: i64, agent: &str, code: Code, target: &str, reason: &str) -> Verdict {
        self.note_many(unix_nanos, Source::Agent(agent), (code, target), reason, 1)
    }

    /// Takes note of several that were counted before; the record of them, if it is to be written, says how many.
    pub fn note_many(&self, unix_nanos: i64, source: Source<'_>, (code, target): (Code, &str), reason: &str, count: u64) -> Verdict {
        let mut state = self.state();
        let (key, of, source, code, target) = self.level(&state, source, code, target);
        let State { first, window_nanos, windows, shares, ended } = &mut *state;
        let window = windows.entry(key).or_insert_with(|| {
            if let Some(of) = of {
                *shares.entry(of).or_default() += 1;
            }
            Window { of, began: unix_nanos, recorded: 0, counted: None }
        });
        // When nobody drains, a window goes on instead of filling memory.
        if window.is_over(unix_nanos, *window_nanos) && (window.counted.is_none() || ended.len() < self.max_keys) {
            ended.extend(window.counted.take());
            *window = Window { of, began: unix_nanos, recorded: 0, counted: None };
        }
        if window.recorded < *first {
            window.recorded += 1;
            return if window.recorded == *first { Verdict::Last } else { Verdict::Record };
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

    /// The window that a refusal falls into, of whose share it is, and what is the same of all in it.
    fn level<'a>(&self, state: &State, source: Source<'a>, code: Code, target: &'a str) -> Level<'a> {
        let (whole, of) = (self.hasher.hash_one((1, source, code, target)), self.hasher.hash_one((3, source)));
        let by_code = self.hasher.hash_one((2, source, code));
        let known = |key| state.windows.contains_key(&key);
        let has_share = state.shares.get(&of).is_none_or(|windows| *windows < self.max_keys.div_ceil(SHARES));
        let count = state.windows.len();
        if known(whole) || (count < self.max_keys && has_share) {
            (whole, Some(of), Some(source), Some(code), Some(target))
        } else if known(by_code) || count < 2 * self.max_keys {
            (by_code, None, Some(source), Some(code), None)
        } else if known(of) || count < 3 * self.max_keys {
            (of, None, Some(source), None, None)
        } else {
            (0, None, None, None, None)
        }
    }

    /// The counts whose window has ended by then, oldest first; for a task that runs every window, and with `i64::MAX` at stop.
    pub fn drain(&self, unix_nanos: i64) -> Vec<Coalesced> {
        self.state().drain(unix_nanos)
    }

    /// Takes back a count that could not be stored; the next drain gives it again.
    pub fn put_back(&self, count: Coalesced) {
        let mut state = self.state();
        let same = |known: &&mut Coalesced| known.is_of(&count);
        if let Some(known) = state.ended.iter_mut().find(same) {
            known.add(&count);
        } else if state.ended.len() < 2 * self.max_keys {
            state.ended.push(count);
        } else if let Some(last) = state.ended.last_mut() {
            // Whose it was is lost before its number is.
            (last.agent, last.upstream, last.code, last.target) = (None, None, None, None);
            last.add(&count);
        }
    }
}

impl State {
    fn drain(&mut self, unix_nanos: i64) -> Vec<Coalesced> {
        let mut out = std::mem::take(&mut self.ended);
        let window_nanos = self.window_nanos;
        self.shares.clear();
        self.windows.retain(|_, window| {
            let over = window.is_over(unix_nanos, window_nanos);
            if over {
                out.extend(window.counted.take());
            } else if let Some(of) = window.of {
                *self.shares.entry(of).or_default() += 1;
            }
            !over
        });
        out.sort_by_key(|counted| counted.from_unix_nanos);
        out
    }
}

impl Window {
    /// Whether it has ended; also where the clock was set back, since when it will have is then unknown.
    fn is_over(&self, unix_nanos: i64, window_nanos: i64) -> bool {
        unix_nanos.saturating_sub(self.began).unsigned_abs() >= window_nanos.unsigned_abs()
    }
}

impl Coalesced {
    fn is_of(&self, other: &Self) -> bool {
        (&self.agent, &self.upstream, &self.code, &self.target) == (&other.agent, &other.upstream, &other.code, &other.target)
    }

    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.from_unix_nanos = self.from_unix_nanos.min(other.from_unix_nanos);
        self.to_unix_nanos = self.to_unix_nanos.max(other.to_unix_nanos);
    }
}

/// So many sources can each have as many windows as they like before one has to do with fewer.
const SHARES: usize = 8;
