//! What an agent's calls cost, against a budget that somebody states and against its own habit.
//!
//! Owns: the two rules. Leaves to others: what a unit is worth (the manifests say what a call costs), and what is usual in other ways.

use std::collections::BTreeMap;

use super::{EVIDENCE, MINUTE, Seen};
use crate::audit::stats::HOUR;

/// What an agent may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Cost units, as manifests have them.
    pub units: u64,
    /// Within so many minutes, wherever they begin; at least 1.
    pub minutes: u32,
}

/// So many times the costliest hour before, and at least so many units.
const COST_FACTOR: u64 = 3;
const COST: u64 = 100;

/// What one agent has spent.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs {
    hour: (i64, u64),
    costliest_before: u64,
    minutes: BTreeMap<i64, Seen>,
}

/// A time in which too much was spent.
pub(super) struct Overrun {
    pub seen: Seen,
    pub what: String,
}

impl Costs {
    pub fn before(&mut self, cost: u64, time: i64) {
        let hour = time.div_euclid(HOUR);
        if self.hour.0 != hour {
            self.hour = (hour, 0);
        }
        self.hour.1 += cost;
        self.costliest_before = self.costliest_before.max(self.hour.1);
    }

    pub fn now(&mut self, cost: u64, time: i64, origin: &str, seq: u64) {
        if cost > 0 {
            self.minutes.entry(time.div_euclid(MINUTE)).or_default().add(cost, time, origin, seq);
        }
    }

    /// The minutes in which most was spent, where that is more than the budget.
    pub fn over_budget(&self, budget: Budget) -> Option<Overrun> {
        let length = i64::from(budget.minutes.max(1));
        let spent = |begin: i64| self.minutes.range(begin..begin + length).map(|(_, seen)| seen.count).sum::<u64>();
        // A window in which most is spent begins with a minute in which something is.
        let worst = self.minutes.keys().rev().copied().max_by_key(|begin| spent(*begin))?;
        let seen = together(self.minutes.range(worst..worst + length).map(|(_, seen)| seen));
        let what = format!("spent {} cost units within {length} minutes, over the budget of {}", seen.count, budget.units);
        (seen.count > budget.units).then_some(Overrun { seen, what })
    }

    /// The hours that cost far more than any before; none where nothing is known of what calls cost then.
    pub fn over_habit(&self) -> impl Iterator<Item = (i64, Overrun)> {
        let usual = self.costliest_before;
        let mut hours: BTreeMap<i64, Vec<&Seen>> = BTreeMap::new();
        for (minute, seen) in &self.minutes {
            hours.entry(minute.div_euclid(HOUR / MINUTE)).or_default().push(seen);
        }
        hours.into_iter().filter_map(move |(hour, seen)| {
            let seen = together(seen.into_iter());
            let what = format!("spent {} cost units within an hour; its costliest hour before had {usual}", seen.count);
            (usual > 0 && seen.count >= COST && seen.count > COST_FACTOR * usual).then_some((hour, Overrun { seen, what }))
        })
    }
}

fn together<'s>(parts: impl Iterator<Item = &'s Seen>) -> Seen {
    let mut all = Seen::default();
    for part in parts {
        if all.count == 0 {
            all.at = part.at;
        }
        all.count += part.count;
        let room = EVIDENCE.saturating_sub(all.evidence.len());
        all.evidence.extend(part.evidence.iter().take(room).cloned());
    }
    all
}
