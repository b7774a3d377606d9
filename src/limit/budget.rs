//! Budgets: how much may be spent within a window, by whom together, and what of it is spent.
//!
//! Owns: the amounts and what is left of them. Leaves to others: who is charged (`Limits`), keeping them on the disk (`state`), the words for
//! the agent (`gateway`).
//!
//! A window slides in sixtieths: what was spent counts for the window and at most a sixtieth more, and the time told after which a call can
//! come again is exact. Calls, cost units and targets are charged when a call is let on, so that no two share the last one; bytes and seconds
//! when it has ended, so that calls under way together may go beyond them once.
//!
//! INVARIANT: a call that is refused, or never left, is charged nothing.
//! INVARIANT: time here never goes back, whatever is done to the wall clock: see [`Timeline`].
//! INVARIANT: memory is bounded: keys by `max_keys` a budget, each with 62 slices at most and as many targets as the budget allows.

mod keeping;

use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::loops::Hashed;
use super::span::Window;
use super::timeline::Timeline;
use crate::policy::Pattern;

/// Parts of a window that leave it one by one.
const SLICES: u64 = 60;
/// What stands between the parts of a key.
const BETWEEN: char = '\u{1f}';
/// From which share on an agent is told, in percent.
const WARNS: u64 = 70;
/// From which share on it is told to come to an end.
const URGES: u64 = 85;
/// The figures but for distinct targets, as they stand in a slice.
const SUMS: usize = 4;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Calls that left.
    Calls,
    /// Cost units of the manifest.
    Cost,
    /// Bytes of results.
    ResultBytes,
    /// Seconds that tool servers took.
    Seconds,
    /// Different targets.
    DistinctTargets,
}

impl Figure {
    /// All of them; the first four are sums.
    pub const ALL: [Self; 5] = [Self::Calls, Self::Cost, Self::ResultBytes, Self::Seconds, Self::DistinctTargets];

    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Cost => "cost",
            Self::ResultBytes => "result_bytes",
            Self::Seconds => "seconds",
            Self::DistinctTargets => "distinct_targets",
        }
    }

    /// Amounts are kept in units of which so many are one of the file.
    pub(super) fn scale(self) -> u64 {
        if self == Self::Seconds { 1_000_000 } else { 1 }
    }
}

/// What makes two budgets of two files the same, so that what is spent carries over, and outlives the process. The amounts are not among it:
/// who raises one forgives nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub id: Arc<str>,
    pub per: Vec<Per>,
    pub window: Window,
}

impl Identity {
    /// The name in the database.
    pub fn kept_as(&self) -> String {
        let per: Vec<&str> = self.per.iter().map(|per| per.as_str()).collect();
        format!("{} [{}] {}", self.id, per.join(","), self.window)
    }
}

/// What has an amount of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Per {
    Agent,
    Target,
    Tenant,
    User,
    Run,
}

impl Per {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Target => "target",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Run => "run",
        }
    }
}

/// One budget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub identity: Identity,
    pub pattern: Pattern,
    /// In the order of [`Figure::ALL`], in the units in which they are kept.
    pub totals: [Option<u64>; 5],
    pub spent: Arc<Spent>,
}

/// What is asked of a budget for one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'c> {
    pub cost: u64,
    /// The target's hash and name.
    pub target: (u64, &'c str),
}

/// A figure of a budget as an agent is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The budget.
    pub budget: Arc<str>,
    /// The figure.
    pub figure: Figure,
    /// What is spent of it, in the units of the file.
    pub used: u64,
    /// Of how much; 0 where the budget has no room for another key.
    pub of: u64,
    /// The share, in percent.
    pub percent: u64,
}

impl Standing {
    /// Whether so little is left that the agent had better come to an end.
    pub fn is_urgent(&self) -> bool {
        self.percent >= URGES
    }
}

/// A budget that does not let a call on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Which figure of which budget.
    pub standing: Standing,
    /// After this time, in milliseconds, it does if nobody else comes first; `None` for never.
    pub retry_after_ms: Option<u64>,
}

/// What was spent within a sixtieth of the window.
#[derive(Clone, Debug, Default)]
struct Slice {
    number: u64,
    /// What the database has, of this process and of others.
    kept: [i64; SUMS],
    /// What it does not have yet.
    fresh: [i64; SUMS],
}

/// A target that was called, and when last.
#[derive(Clone, Debug)]
struct Called {
    hash: u64,
    name: Box<str>,
    number: u64,
    /// Calls of this process that stand for it; one that never left takes itself back.
    uses: u64,
    is_kept: bool,
}

/// What is spent under one key.
#[derive(Debug, Default)]
struct Purse {
    /// Its parts, as records and the database have them.
    name: Box<str>,
    slices: VecDeque<Slice>,
    targets: Vec<Called>,
    is_dirty: bool,
}

/// What is spent of one budget.
#[derive(Debug)]
pub(super) struct Spent {
    purses: DashMap<u64, Purse, BuildHasherDefault<Hashed>>,
    keys: AtomicUsize,
    max_keys: usize,
    slice_ms: Option<u64>,
    timeline: Arc<Timeline>,
    is_dirty: AtomicBool,
    pub is_restored: AtomicBool,
    warned: AtomicU64,
    refused: AtomicU64,
}

impl Spent {
    pub fn new(window: Window, max_keys: usize, timeline: &Arc<Timeline>) -> Self {
        let slice_ms = match window {
            Window::Last(span) => Some((span.ms() / SLICES).max(1)),
            Window::Ever => None,
        };
        Self {
            purses: DashMap::default(),
            keys: AtomicUsize::new(0),
            max_keys,
            slice_ms,
            timeline: Arc::clone(timeline),
            is_dirty: AtomicBool::new(false),
            is_restored: AtomicBool::new(false),
            warned: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn number(&self, now: u64) -> u64 {
        self.slice_ms.map_or(0, |slice| now / slice)
    }

    /// The first slice that counts still.
    fn oldest(&self, now: u64) -> u64 {
        if self.slice_ms.is_some() { self.number(now).saturating_sub(SLICES) } else { 0 }
    }

    /// When a slice has left the window; `None` for never.
    fn leaves(&self, number: u64, now: u64) -> Option<u64> {
        self.slice_ms.map(|slice| ((number + SLICES + 1) * slice).saturating_sub(now))
    }
}

impl Purse {
    fn forget(&mut self, oldest: u64) {
        while self.slices.front().is_some_and(|slice| slice.number < oldest) {
            self.slices.pop_front();
        }
        self.targets.retain(|called| called.number >= oldest);
    }

    /// The slice of that number; they are in order.
    fn slice(&mut self, number: u64) -> &mut Slice {
        let at = self.slices.iter().rposition(|slice| slice.number <= number);
        let at = match at {
            Some(at) if self.slices[at].number == number => at,
            other => {
                let at = other.map_or(0, |at| at + 1);
                self.slices.insert(at, Slice { number, ..Slice::default() });
                at
            }
        };
        &mut self.slices[at]
    }

    fn used(&self, figure: Figure) -> u64 {
        match figure {
            Figure::DistinctTargets => self.targets.len() as u64,
            sum => self.slices.iter().map(|slice| slice.sum(sum)).sum::<i64>().max(0).unsigned_abs(),
        }
    }

    fn add(&mut self, number: u64, sums: [i64; SUMS]) {
        let slice = self.slice(number);
        slice.fresh.iter_mut().zip(sums).for_each(|(fresh, more)| *fresh = fresh.saturating_add(more));
        self.is_dirty = true;
    }
}

impl Slice {
    fn sum(&self, figure: Figure) -> i64 {
        let at = figure as usize;
        self.kept.get(at).zip(self.fresh.get(at)).map_or(0, |(kept, fresh)| kept.saturating_add(*fresh))
    }
}

/// What was charged under one key, so that it can be taken back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub key: u64,
    number: u64,
    target: u64,
}

impl Budget {
    /// The key of these parts. Both here and for what comes back from the database.
    fn hash<'p>(hasher: &RandomState, parts: impl Iterator<Item = &'p str>) -> u64 {
        let mut state = hasher.build_hasher();
        parts.for_each(|part| {
            state.write(part.as_bytes());
            state.write_u8(0xff);
        });
        state.finish()
    }

    /// Charges a call, or says which figure does not let it on. `told` takes the figures that are nearly used up.
    ///
    /// # Errors
    /// The figure that lets it on last.
    pub fn charge<'p>(
        &self,
        hasher: &RandomState,
        parts: impl Iterator<Item = &'p str> + Clone,
        wish: Wish<'_>,
        told: &mut Vec<Standing>,
    ) -> Result<Charged, Exhausted> {
        let (key, now) = (Self::hash(hasher, parts.clone()), self.spent.timeline.now_ms());
        let (number, oldest) = (self.spent.number(now), self.spent.oldest(now));
        if !self.spent.has_room(key, now) {
            self.spent.refused.fetch_add(1, Ordering::Relaxed);
            let standing = Standing { of: 0, ..self.standing(Figure::Calls, 0) };
            return Err(Exhausted { standing, retry_after_ms: Some(1_000) });
        }
        let mut purse = match self.spent.purses.entry(key) {
            Entry::Occupied(purse) => purse.into_ref(),
            Entry::Vacant(place) => {
                self.spent.keys.fetch_add(1, Ordering::Relaxed);
                let name = parts.collect::<Vec<_>>().join(&BETWEEN.to_string()).into();
                place.insert(Purse { name, ..Purse::default() })
            }
        };
        purse.forget(oldest);
        let short = Figure::ALL.into_iter().filter_map(|figure| self.short(&purse, figure, wish, now));
        if let Some(exhausted) = short.max_by_key(|short| short.retry_after_ms.unwrap_or(u64::MAX)) {
            self.spent.refused.fetch_add(1, Ordering::Relaxed);
            return Err(exhausted);
        }
        let cost = i64::try_from(wish.cost).unwrap_or(i64::MAX);
        purse.add(number, [1, cost, 0, 0]);
        if self.totals[Figure::DistinctTargets as usize].is_some() {
            let (hash, name) = wish.target;
            match purse.targets.iter_mut().find(|called| called.hash == hash) {
                Some(called) => {
                    called.is_kept &= called.number == number;
                    (called.number, called.uses) = (number, called.uses + 1);
                }
                None => purse.targets.push(Called { hash, name: name.into(), number, uses: 1, is_kept: false }),
            }
        }
        self.spent.is_dirty.store(true, Ordering::Relaxed);
        let counted = Figure::ALL.into_iter().filter(|figure| self.totals[*figure as usize].is_some());
        let before = told.len();
        told.extend(counted.map(|figure| self.standing(figure, purse.used(figure))).filter(|standing| standing.percent >= WARNS));
        self.spent.warned.fetch_add(u64::from(told.len() > before), Ordering::Relaxed);
        Ok(Charged { key, number, target: wish.target.0 })
    }

    /// The key of a call that was charged before and goes on: for what more it comes to.
    pub fn known<'p>(&self, hasher: &RandomState, parts: impl Iterator<Item = &'p str>) -> Charged {
        Charged { key: Self::hash(hasher, parts), number: 0, target: 0 }
    }

    /// Why a figure does not let a call on.
    fn short(&self, purse: &Purse, figure: Figure, wish: Wish<'_>, now: u64) -> Option<Exhausted> {
        let total = self.totals[figure as usize]?;
        let used = purse.used(figure);
        let needed = match figure {
            Figure::Cost => wish.cost,
            Figure::DistinctTargets => u64::from(!purse.targets.iter().any(|called| called.hash == wish.target.0)),
            // What it will take nobody knows: there must be some left.
            Figure::Calls | Figure::ResultBytes | Figure::Seconds => 1,
        };
        let over = used.saturating_add(needed).checked_sub(total).filter(|over| *over > 0)?;
        if needed == 0 {
            return None;
        }
        let retry_after_ms = if needed > total { None } else { self.frees(purse, figure, over, now) };
        Some(Exhausted { standing: self.standing(figure, used), retry_after_ms })
    }

    /// When so much of a figure has left the window.
    fn frees(&self, purse: &Purse, figure: Figure, over: u64, now: u64) -> Option<u64> {
        let mut leaving: Vec<(u64, u64)> = match figure {
            Figure::DistinctTargets => purse.targets.iter().map(|called| (called.number, 1)).collect(),
            sum => purse.slices.iter().map(|slice| (slice.number, slice.sum(sum).max(0).unsigned_abs())).collect(),
        };
        leaving.sort_unstable_by_key(|(number, _)| *number);
        let mut freed = 0_u64;
        let last = leaving.into_iter().find(|(_, amount)| {
            freed = freed.saturating_add(*amount);
            freed >= over
        });
        last.and_then(|(number, _)| self.spent.leaves(number, now))
    }

    fn standing(&self, figure: Figure, used: u64) -> Standing {
        let of = self.totals[figure as usize].unwrap_or(0);
        let percent = if of == 0 { 100 } else { u64::try_from(u128::from(used) * 100 / u128::from(of)).unwrap_or(u64::MAX) };
        let scale = figure.scale();
        Standing { budget: Arc::clone(&self.identity.id), figure, used: used / scale, of: of / scale, percent }
    }

    /// Takes back what was charged for a call that never left.
    pub fn take_back(&self, charged: Charged, cost: u64) {
        let Some(mut purse) = self.spent.purses.get_mut(&charged.key) else { return };
        if charged.number < self.spent.oldest(self.spent.timeline.now_ms()) {
            return;
        }
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        purse.add(charged.number, [-1, -cost, 0, 0]);
        if let Some(at) = purse.targets.iter().position(|called| called.hash == charged.target) {
            let called = &mut purse.targets[at];
            called.uses = called.uses.saturating_sub(1);
            // What the database has, another process may have called too.
            if called.uses == 0 && !called.is_kept {
                purse.targets.remove(at);
            }
        }
        self.spent.is_dirty.store(true, Ordering::Relaxed);
    }

    /// Adds what a call has come to.
    pub fn ended(&self, key: u64, result_bytes: u64, took_us: u64) {
        let Some(mut purse) = self.spent.purses.get_mut(&key) else { return };
        let number = self.spent.number(self.spent.timeline.now_ms());
        let amount = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        purse.add(number, [0, 0, amount(result_bytes), amount(took_us)]);
        self.spent.is_dirty.store(true, Ordering::Relaxed);
    }

    /// Forgets keys of which nothing counts any more.
    pub fn sweep(&self, now: u64) {
        self.spent.sweep(now);
    }

    /// Calls that went on with a warning and calls that were refused, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.spent.warned.load(Ordering::Relaxed), self.spent.refused.load(Ordering::Relaxed))
    }

    /// Every key with its fullest figure, the fullest first, in the words of a reader.
    pub fn purses(&self) -> Vec<(String, Standing)> {
        let oldest = self.spent.oldest(self.spent.timeline.now_ms());
        let mut all: Vec<(String, Standing)> = Vec::new();
        for mut purse in self.spent.purses.iter_mut() {
            purse.forget(oldest);
            let figures = Figure::ALL.into_iter().filter(|figure| self.totals[*figure as usize].is_some());
            let fullest = figures.map(|figure| self.standing(figure, purse.used(figure))).max_by_key(|standing| standing.percent);
            if let Some(standing) = fullest.filter(|standing| standing.used > 0) {
                all.push((purse.name.replace(BETWEEN, " "), standing));
            }
        }
        all.sort_by(|one, other| other.1.percent.cmp(&one.1.percent).then_with(|| one.0.cmp(&other.0)));
        all
    }
}

impl Spent {
    fn has_room(&self, key: u64, now: u64) -> bool {
        let is_full = || self.keys.load(Ordering::Relaxed) >= self.max_keys;
        if !is_full() || self.purses.contains_key(&key) {
            return true;
        }
        self.sweep(now);
        !is_full()
    }

    /// Forgets keys of which nothing counts any more.
    fn sweep(&self, now: u64) {
        let (oldest, mut gone) = (self.oldest(now), 0);
        self.purses.retain(|_, purse| {
            purse.forget(oldest);
            let stays = !purse.slices.is_empty() || !purse.targets.is_empty();
            gone += usize::from(!stays);
            stays
        });
        let had = self.keys.fetch_sub(gone, Ordering::Relaxed);
        if gone > had / 2 {
            self.purses.shrink_to_fit();
        }
    }

    /// The first slice that counts still, for the database.
    pub fn oldest_now(&self) -> u64 {
        self.oldest(self.timeline.now_ms())
    }
}

#[cfg(test)]
mod tests;
