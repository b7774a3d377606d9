//! What of a budget the database has, and what it does not have yet.
//!
//! INVARIANT: what is spent while a batch is being stored is in the next one: amounts move from fresh to kept only as far as they were sent.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;

use super::{BETWEEN, Budget, Called, Purse, SUMS, Spent};
use crate::state::{Spent as Row, SpentTarget};

impl Spent {
    /// Whether the database lacks something.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
    }

    /// What the database does not have yet, under the budget's name there; it is taken for kept once [`Spent::kept`] says so.
    pub fn unkept(&self, budget: &str) -> (Vec<Row>, Vec<SpentTarget>) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        if !self.is_dirty.swap(false, Ordering::Relaxed) {
            return (rows, targets);
        }
        for purse in self.purses.iter().filter(|purse| purse.is_dirty) {
            let key = purse.name.to_string();
            let fresh = purse.slices.iter().filter(|slice| slice.fresh != [0; SUMS]);
            rows.extend(fresh.map(|slice| Row { budget: budget.to_owned(), key: key.clone(), slice: slice.number, sums: slice.fresh }));
            let called = purse.targets.iter().filter(|called| !called.is_kept);
            targets.extend(called.map(|called| SpentTarget {
                budget: budget.to_owned(),
                key: key.clone(),
                target: called.name.to_string(),
                slice: called.number,
            }));
        }
        (rows, targets)
    }

    /// The database has what was `sent` now, and says what is `stored` of the same keys in all, of other processes too. What came meanwhile
    /// stays fresh.
    pub fn kept(&self, hasher: &RandomState, (sent, called): (&[Row], &[SpentTarget]), stored: &[Row]) {
        for row in sent {
            let Some(mut purse) = self.purses.get_mut(&Budget::hash(hasher, row.key.split(BETWEEN))) else { continue };
            let slice = purse.slice(row.slice);
            slice.fresh.iter_mut().zip(row.sums).for_each(|(fresh, sent)| *fresh = fresh.saturating_sub(sent));
            purse.is_dirty = purse.slices.iter().any(|slice| slice.fresh != [0; SUMS]);
        }
        for row in stored {
            if let Some(mut purse) = self.purses.get_mut(&Budget::hash(hasher, row.key.split(BETWEEN))) {
                purse.slice(row.slice).kept = row.sums;
            }
        }
        for target in called {
            let Some(mut purse) = self.purses.get_mut(&Budget::hash(hasher, target.key.split(BETWEEN))) else { continue };
            let called = purse.targets.iter_mut().find(|called| *called.name == *target.target && called.number == target.slice);
            if let Some(called) = called {
                called.is_kept = true;
            }
        }
    }

    /// It could not be stored: it is tried again.
    pub fn not_kept(&self) {
        self.is_dirty.store(true, Ordering::Relaxed);
    }

    /// Takes over what the database has, at the start; and the targets that other processes have called.
    pub fn restore(&self, hasher: &RandomState, rows: &[Row], targets: &[SpentTarget]) {
        let oldest = self.oldest(self.timeline.now_ms());
        let named = |key: &str| {
            let hash = Budget::hash(hasher, key.split(BETWEEN));
            self.purses.entry(hash).or_insert_with(|| {
                self.keys.fetch_add(1, Ordering::Relaxed);
                Purse { name: key.into(), ..Purse::default() }
            })
        };
        for row in rows.iter().filter(|row| row.slice >= oldest) {
            named(&row.key).slice(row.slice).kept = row.sums;
        }
        for target in targets.iter().filter(|target| target.slice >= oldest) {
            let (hash, mut purse) = (hasher.hash_one(target.target.as_str()), named(&target.key));
            match purse.targets.iter_mut().find(|called| called.hash == hash) {
                Some(called) => called.number = called.number.max(target.slice),
                None => {
                    let name = target.target.as_str().into();
                    purse.targets.push(Called { hash, name, number: target.slice, uses: 0, is_kept: true });
                }
            }
        }
        self.is_restored.store(true, Ordering::Relaxed);
    }
}
