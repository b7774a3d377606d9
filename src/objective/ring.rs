//! Counts by time: of the last so many parts of equal length, and no others.

use crate::state::StoredCount;

/// Good and failed calls of each part.
pub(super) struct Ring {
    /// Seconds that a part has.
    width: i64,
    /// The number of the newest part, counted from 1970.
    newest: i64,
    parts: Box<[(u32, u32)]>,
}

impl Ring {
    pub(super) fn new(width: i64, parts: usize) -> Self {
        Self { width: width.max(1), newest: i64::MIN, parts: vec![(0, 0); parts.max(1)].into() }
    }

    /// Counts so many at a time. What is older than all parts is left out; a clock that was set back counts in the newest.
    pub(super) fn add(&mut self, at: i64, is_good: bool, calls: u32) {
        let (number, length) = (at.div_euclid(self.width), self.parts.len() as i64);
        if self.newest == i64::MIN {
            self.newest = number;
        }
        if number > self.newest {
            let first = (number - length).max(self.newest) + 1;
            (first..=number).for_each(|gone| *self.part(gone) = (0, 0));
            self.newest = number;
        }
        let part = self.part(self.newest);
        let count = if is_good { &mut part.0 } else { &mut part.1 };
        *count = count.saturating_add(calls);
    }

    fn part(&mut self, number: i64) -> &mut (u32, u32) {
        let at = usize::try_from(number.rem_euclid(self.parts.len() as i64)).unwrap_or(0);
        &mut self.parts[at]
    }

    /// The parts that have calls, the oldest first, with their numbers.
    fn counted(&self) -> impl Iterator<Item = (i64, (u32, u32))> {
        let length = self.parts.len() as i64;
        let first = if self.newest == i64::MIN { 1 } else { self.newest - length + 1 };
        let last = if self.newest == i64::MIN { 0 } else { self.newest };
        (first..=last).filter_map(move |number| {
            let at = usize::try_from(number.rem_euclid(length)).ok()?;
            self.parts.get(at).filter(|part| **part != (0, 0)).map(|part| (number, *part))
        })
    }

    /// Good and failed calls of the last so many parts before `now`, that of `now` among them.
    pub(super) fn sum(&self, now: i64, parts: usize) -> (u64, u64) {
        let number = now.div_euclid(self.width).max(self.newest);
        let since = number.saturating_sub(parts as i64);
        let counted = self.counted().filter(|(number, _)| *number > since);
        counted.fold((0, 0), |sum, (_, part)| (sum.0 + u64::from(part.0), sum.1 + u64::from(part.1)))
    }

    /// What is stored of it.
    pub(super) fn rows(&self, is_window: bool) -> impl Iterator<Item = StoredCount> {
        self.counted().map(move |(number, (good, failed))| StoredCount { is_window, at: number * self.width, good, failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_until_it_is_too_old() {
        let mut ring = Ring::new(60, 3);
        assert_eq!(ring.sum(1_000, 3), (0, 0));
        ring.add(600, true, 1);
        ring.add(659, false, 2);
        ring.add(660, true, 1);
        assert_eq!((ring.sum(660, 3), ring.sum(660, 1)), ((2, 2), (1, 0)));
        assert_eq!((ring.sum(779, 3), ring.sum(780, 3), ring.sum(10_000, 3)), ((2, 2), (1, 0), (0, 0)));
        ring.add(780, false, 1);
        assert_eq!(ring.sum(780, 3), (1, 1));
        ring.add(100_000, true, 1);
        assert_eq!(ring.sum(100_000, 3), (1, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut ring = Ring::new(60, 3);
        ring.add(6_000, false, 1);
        ring.add(60, false, 1);
        assert_eq!((ring.sum(60, 3), ring.sum(6_000, 1)), ((0, 2), (0, 2)));
    }

    #[test]
    fn what_is_stored_comes_back() {
        let mut ring = Ring::new(60, 5);
        for minute in 0..9 {
            ring.add(minute * 60, minute % 2 == 0, 1);
        }
        let mut again = Ring::new(60, 5);
        for row in ring.rows(false) {
            again.add(row.at, true, row.good);
            again.add(row.at, false, row.failed);
        }
        assert_eq!((again.sum(480, 5), again.sum(480, 2)), (ring.sum(480, 5), ring.sum(480, 2)));
    }
}
