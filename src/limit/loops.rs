//! Loops: an agent that makes the same call again and again, goes to and fro between two, gets the same answer to whatever it asks, or fails
//! and fails.
//!
//! Owns: what a repeat is, when a loop has ended, and what becomes of the next call. Leaves to others: which calls are asked about (`Limits`),
//! the words for the agent (`gateway`).
//!
//! A loop ends with time (a repeat that comes later than the window after the one before it is none), and with news: the same call that gets
//! another result has moved something, and a tool that works again has not failed in a row. Another call in between ends only what is counted
//! in a row, so that a cycle of many calls is found too.
//!
//! INVARIANT: only calls that left are counted; one that was refused behind this, waits for a person or was answered with a stored result is
//! taken back.
//! INVARIANT: memory is bounded: beyond `max_keys` of a rule a newcomer is not watched.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use serde::Deserialize;

use crate::catalog::tier::Tier;
use crate::policy::Pattern;

/// What a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The same tool with the same arguments and, unless the rule says otherwise, the same result.
    SameCall,
    /// The same tool with other arguments each time, and always the same result; no other tool in between.
    SameResult,
    /// Two calls in turn, each with the result that it had before; no third in between.
    Alternation,
    /// Calls of one tool that all failed.
    Failures,
}

impl When {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameCall => "same_call",
            Self::SameResult => "same_result",
            Self::Alternation => "alternation",
            Self::Failures => "failures",
        }
    }

    /// Whether a call of anything else ends it.
    fn is_in_a_row(self) -> bool {
        matches!(self, Self::SameResult | Self::Alternation)
    }
}

/// A call as it is compared: all three are outputs of a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The agent, and its run where that is trusted.
    pub who: u64,
    /// The target with its arguments.
    pub call: u64,
    /// The target.
    pub target: u64,
}

/// How a call ended that had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// What stands for its result; `None` where there is none: its server asks, or somebody has stopped it.
    pub result: Option<u64>,
    /// Whether it failed.
    pub failed: bool,
}

/// From which repeat on what is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// The call goes on, and its agent is told.
    pub warn: Option<u32>,
    /// It has to wait for `pause_ms` after the one before.
    pub slow: Option<u32>,
    pub pause_ms: u64,
    /// It is refused until the agent has left it alone for a window.
    pub block: Option<u32>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Warn,
    /// It may come again after so many milliseconds.
    Slow(u64),
    Block,
}

impl Steps {
    fn judge(&self, times: u32, since_last_ms: u64) -> Verdict {
        let reached = |step: Option<u32>| step.is_some_and(|step| times >= step);
        match () {
            () if reached(self.block) => Verdict::Block,
            () if reached(self.slow) && since_last_ms < self.pause_ms => Verdict::Slow(self.pause_ms - since_last_ms),
            () if reached(self.warn) || reached(self.slow) => Verdict::Warn,
            () => Verdict::Pass,
        }
    }

    /// The repeat that is refused first.
    fn refused_at(&self) -> Option<u32> {
        self.slow.into_iter().chain(self.block).min()
    }
}

/// What is known of one loop, or of what may become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    times: u32,
    first_ms: u64,
    last_ms: u64,
    /// `last_ms` before the newest was counted, so that it can be taken back.
    prior_ms: u64,
    target: u64,
    last: Option<u64>,
    before: Option<u64>,
    result: Option<u64>,
    result_before: Option<u64>,
}

/// What makes two rules of two files the same, so that what they have counted carries over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub id: Arc<str>,
    pub when: When,
    pub window_ms: u64,
    /// Whether the same call counts with whatever result.
    pub any_result: bool,
    pub max_keys: usize,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub identity: Identity,
    pub pattern: Pattern,
    pub except: Vec<Pattern>,
    /// None for all.
    pub tiers: Vec<Tier>,
    pub steps: Steps,
    pub counts: Arc<Counts>,
}

/// What one rule has counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    streaks: DashMap<u64, Streak, BuildHasherDefault<Hashed>>,
    keys: AtomicUsize,
    swept_ms: AtomicU64,
    warned: AtomicU64,
    slowed: AtomicU64,
    blocked: AtomicU64,
}

/// A call that a rule lets on with a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// The rule.
    pub rule: Arc<str>,
    /// What it counts.
    pub when: When,
    /// The how manieth it is.
    pub times: u32,
    /// Since when, in milliseconds before now.
    pub since_ms: u64,
    /// The repeat that is refused.
    pub refused_at: Option<u32>,
    /// Of one that is refused: after how many milliseconds it may come again. `None` where it has to be left alone for a window.
    pub wait_ms: Option<u64>,
    /// The window, in milliseconds.
    pub window_ms: u64,
}

/// What one rule has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoopStanding {
    /// The rule.
    pub rule: String,
    /// The word for what it counts.
    pub when: &'static str,
    /// What it watches now.
    pub watched: u64,
    /// Calls that went on with a warning.
    pub warned: u64,
    /// Calls that were told to wait.
    pub slowed: u64,
    /// Calls that were refused until the agent leaves them alone.
    pub blocked: u64,
}

impl Loop {
    /// Whether the rule is about a target.
    pub fn covers(&self, target: &str, tier: Tier) -> bool {
        let has_tier = self.tiers.is_empty() || self.tiers.contains(&tier);
        has_tier && self.pattern.matches(target) && !self.except.iter().any(|pattern| pattern.matches(target))
    }

    fn key(&self, call: Call) -> u64 {
        match self.identity.when {
            When::SameCall => call.who.wrapping_add(call.call.rotate_left(17)),
            When::Failures => call.who.wrapping_add(call.target.rotate_left(17)),
            When::SameResult | When::Alternation => call.who,
        }
    }

    /// The how manieth of a loop this call would be.
    fn times(&self, streak: &Streak, call: Call, now: u64) -> u32 {
        let goes_on = now.saturating_sub(streak.last_ms) <= self.identity.window_ms
            && match self.identity.when {
                When::SameCall | When::Failures => true,
                // The same arguments are another rule's matter.
                When::SameResult => streak.target == call.target && streak.last != Some(call.call),
                When::Alternation => streak.before == Some(call.call) && streak.last != Some(call.call),
            };
        if goes_on { streak.times.saturating_add(1) } else { 1 }
    }

    /// Judges a call before it goes on, and counts it where it has to be counted at once: those that are under way together repeat each other.
    ///
    /// # Errors
    /// What it repeats, where it may not go on now.
    pub fn enter(&self, call: Call, now: u64) -> Result<Option<Repeats>, Repeats> {
        let key = self.key(call);
        let Some(mut streak) = self.counts.streaks.get_mut(&key) else {
            if self.identity.when == When::SameCall {
                let first = Streak { times: 1, first_ms: now, last_ms: now, prior_ms: now, ..Streak::default() };
                self.counts.insert(key, first, &self.identity, now, |streak| streak.times += 1);
            }
            return Ok(None);
        };
        let times = self.times(&streak, call, now);
        let verdict = if times == 1 { Verdict::Pass } else { self.steps.judge(times, now.saturating_sub(streak.last_ms)) };
        let since_ms = now.saturating_sub(streak.first_ms);
        match verdict {
            Verdict::Slow(wait) => {
                self.counts.slowed.fetch_add(1, Ordering::Relaxed);
                return Err(self.repeats(times, since_ms, Some(wait)));
            }
            Verdict::Block => {
                // Who goes on trying does not leave it alone.
                streak.last_ms = now;
                self.counts.blocked.fetch_add(1, Ordering::Relaxed);
                return Err(self.repeats(times, since_ms, None));
            }
            Verdict::Pass | Verdict::Warn => {}
        }
        if self.identity.when == When::SameCall {
            let first_ms = if times == 1 { now } else { streak.first_ms };
            let result = streak.result.filter(|_| times > 1);
            *streak = Streak { times, first_ms, last_ms: now, prior_ms: streak.last_ms, result, ..*streak };
        }
        if verdict == Verdict::Pass {
            return Ok(None);
        }
        self.counts.warned.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.repeats(times, since_ms, None)))
    }

    fn repeats(&self, times: u32, since_ms: u64, wait_ms: Option<u64>) -> Repeats {
        let Identity { id, when, window_ms, .. } = &self.identity;
        let refused_at = self.steps.refused_at();
        Repeats { rule: Arc::clone(id), when: *when, times, since_ms, refused_at, wait_ms, window_ms: *window_ms }
    }

    /// Takes back a call that was let on at `entered` and never left.
    pub fn take_back(&self, call: Call, entered: u64) {
        if self.identity.when != When::SameCall {
            return;
        }
        let key = self.key(call);
        let Some(mut streak) = self.counts.streaks.get_mut(&key) else { return };
        streak.times = streak.times.saturating_sub(1);
        if streak.last_ms == entered {
            streak.last_ms = streak.prior_ms;
        }
        let is_over = streak.times == 0;
        drop(streak);
        if is_over {
            self.counts.remove(key, |streak| streak.times == 0);
        }
    }

    /// Takes in how a call ended that had left, of a target that the rule `covers` or another.
    pub fn ended(&self, call: Call, how: How, covers: bool, now: u64) {
        let key = self.key(call);
        if !covers {
            if self.identity.when.is_in_a_row() {
                self.counts.remove(key, |_| true);
            }
            return;
        }
        match self.identity.when {
            When::SameCall if self.identity.any_result => {}
            When::SameCall => {
                let (Some(result), Some(mut streak)) = (how.result, self.counts.streaks.get_mut(&key)) else { return };
                if streak.result.replace(result).is_some_and(|before| before != result) {
                    (streak.times, streak.first_ms) = (1, streak.last_ms);
                }
            }
            // One that was stopped, or that asks, is no success either.
            When::Failures if how.result.is_none() => {}
            When::Failures if !how.failed => self.counts.remove(key, |_| true),
            When::Failures | When::SameResult | When::Alternation => self.go_on(key, call, how, now),
        }
    }

    fn go_on(&self, key: u64, call: Call, how: How, now: u64) {
        let when = self.identity.when;
        if when != When::Failures && how.result.is_none() {
            return;
        }
        let (target, last, result) = (call.target, Some(call.call), how.result);
        let anew = Streak { times: 1, first_ms: now, last_ms: now, prior_ms: now, target, last, result, ..Streak::default() };
        let Some(mut streak) = self.counts.streaks.get_mut(&key) else {
            return self.counts.insert(key, anew, &self.identity, now, |streak| *streak = anew);
        };
        let old = *streak;
        let times = self.times(&old, call, now);
        *streak = match when {
            When::SameCall => old,
            _ if now.saturating_sub(old.last_ms) > self.identity.window_ms => anew,
            When::Failures if times > 1 => Streak { times, last_ms: now, ..old },
            // The same call with the same result is a repeat, and no news: it neither counts nor ends anything.
            When::SameResult if old.last == Some(call.call) && old.result == how.result => Streak { last_ms: now, ..old },
            When::SameResult if times > 1 && old.result == how.result => Streak { times, last_ms: now, last: Some(call.call), ..old },
            When::Alternation if old.last != Some(call.call) => {
                let (times, first_ms) = match times > 1 && old.result_before == how.result {
                    true => (times, old.first_ms),
                    false => (2, old.last_ms),
                };
                Streak { times, first_ms, before: old.last, result_before: old.result, ..anew }
            }
            When::Failures | When::SameResult | When::Alternation => anew,
        };
    }

    /// What the rule has done since the start.
    pub fn standing(&self) -> LoopStanding {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoopStanding {
            rule: self.identity.id.to_string(),
            when: self.identity.when.as_str(),
            watched: self.counts.keys.load(Ordering::Relaxed) as u64,
            warned: count(&self.counts.warned),
            slowed: count(&self.counts.slowed),
            blocked: count(&self.counts.blocked),
        }
    }

    /// Forgets what is over.
    pub fn sweep(&self, now: u64) {
        self.counts.sweep(now, self.identity.window_ms);
    }
}

impl Counts {
    /// Adds what nobody has, or what another call has added meanwhile in another way.
    fn insert(&self, key: u64, first: Streak, of: &Identity, now: u64, meanwhile: impl FnOnce(&mut Streak)) {
        if self.keys.load(Ordering::Relaxed) >= of.max_keys {
            // At most once a second: a flood of newcomers is to cost little.
            let swept = self.swept_ms.load(Ordering::Relaxed);
            if now.saturating_sub(swept) >= 1_000
                && self.swept_ms.compare_exchange(swept, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                self.sweep(now, of.window_ms);
            }
            if self.keys.load(Ordering::Relaxed) >= of.max_keys {
                return;
            }
        }
        match self.streaks.entry(key) {
            Entry::Occupied(mut other) => meanwhile(other.get_mut()),
            Entry::Vacant(place) => {
                place.insert(first);
                self.keys.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn remove(&self, key: u64, is_over: impl FnOnce(&Streak) -> bool) {
        if self.streaks.remove_if(&key, |_, streak| is_over(streak)).is_some() {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn sweep(&self, now: u64, window_ms: u64) {
        let mut gone = 0;
        self.streaks.retain(|_, streak| {
            let stays = now.saturating_sub(streak.last_ms) <= window_ms;
            gone += usize::from(!stays);
            stays
        });
        let had = self.keys.fetch_sub(gone, Ordering::Relaxed);
        if gone > had / 2 {
            self.streaks.shrink_to_fit();
        }
    }
}

/// Takes a key for its own hash: it is the output of a keyed one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests;
