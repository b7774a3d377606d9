//! What is spent, and that the time told after which a call can come again is the true one. Time stands still until moved.

use std::time::Duration;

use proptest::prelude::*;

use super::super::Time;
use super::super::span::Span;
use super::*;
use crate::state::Spent as Row;

/// Ten minutes in sixtieths of ten seconds.
const WINDOW: Window = Window::Last(Span::seconds(600));
const SLICE: u64 = 10_000;

fn budget(time: &Time, window: Window, totals: [Option<u64>; 5]) -> Budget {
    let timeline = Arc::new(Timeline::new(time));
    let identity = Identity { id: "B".into(), per: vec![Per::Agent], window };
    Budget { identity, pattern: Pattern::new("*"), totals, spent: Arc::new(Spent::new(window, 100, &timeline)) }
}

fn pass(time: &Time, ms: u64) {
    time.advance(Duration::from_millis(ms));
}

struct Asking {
    hasher: RandomState,
    budget: Budget,
}

impl Asking {
    fn new(budget: Budget) -> Self {
        Self { hasher: RandomState::new(), budget }
    }

    fn charge(&self, agent: &str, target: &str, cost: u64) -> Result<(Charged, Vec<Standing>), Exhausted> {
        let mut told = Vec::new();
        let wish = Wish { cost, target: (self.hasher.hash_one(target), target) };
        self.budget.charge(&self.hasher, [agent].into_iter(), wish, &mut told).map(|charged| (charged, told))
    }

    /// `yes`, or `calls after 5000`, or `cost never`.
    fn told(&self, agent: &str, target: &str, cost: u64) -> String {
        match self.charge(agent, target, cost) {
            Ok(_) => "yes".to_owned(),
            Err(Exhausted { standing, retry_after_ms: Some(wait) }) => format!("{} after {wait}", standing.figure.as_str()),
            Err(Exhausted { standing, retry_after_ms: None }) => format!("{} never", standing.figure.as_str()),
        }
    }
}

#[test]
fn calls_are_counted_until_they_have_left_the_window_and_the_wait_is_exact() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [Some(3), None, None, None, None]));
    pass(&time, 5_000);
    assert_eq!(asking.told("a", "x", 1), "yes");
    pass(&time, SLICE);
    assert_eq!([asking.told("a", "x", 1), asking.told("a", "y", 1)], ["yes", "yes"]);
    // The first was made in the first slice, which has left 61 slices after its beginning.
    assert_eq!(asking.told("a", "x", 1), format!("calls after {}", 61 * SLICE - 15_000));
    assert_eq!(asking.told("b", "x", 1), "yes", "another has an amount of its own");
    pass(&time, 61 * SLICE - 15_000 - 1);
    assert_eq!(asking.told("a", "x", 1), "calls after 1");
    pass(&time, 1);
    assert_eq!([asking.told("a", "x", 1), asking.told("a", "x", 1)], ["yes".to_owned(), format!("calls after {SLICE}")]);
}

#[test]
fn what_is_dearer_than_all_of_it_never_comes_and_what_counts_for_good_neither() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [None, Some(10), None, None, None]));
    assert_eq!(asking.told("a", "x", 11), "cost never");
    assert_eq!([asking.told("a", "x", 8), asking.told("a", "x", 3), asking.told("a", "x", 2)], ["yes", "cost after 610000", "yes"]);
    let ever = Asking::new(budget(&time, Window::Ever, [Some(1), None, None, None, None]));
    assert_eq!(ever.told("a", "x", 0), "yes");
    pass(&time, 1_000_000_000);
    assert_eq!(ever.told("a", "x", 0), "calls never");
}

#[test]
fn bytes_and_seconds_are_added_when_they_are_known() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [None, None, Some(100), Some(2_000_000), None]));
    let (charged, _) = asking.charge("a", "x", 1).unwrap();
    asking.budget.ended(charged.key, 99, 1_999_000);
    let (_, told) = asking.charge("a", "x", 1).unwrap();
    let told: Vec<_> = told.iter().map(|told| (told.figure, told.used, told.of, told.percent, told.is_urgent())).collect();
    assert_eq!(told, [(Figure::ResultBytes, 99, 100, 99, true), (Figure::Seconds, 1, 2, 99, true)]);
    asking.budget.ended(charged.key, 50, 0);
    assert_eq!(asking.told("a", "x", 1), "result_bytes after 610000");
    asking.budget.ended(charged.key, 0, 1_000);
    assert_eq!(asking.budget.purses()[0].1.percent, 149);
}

#[test]
fn a_target_counts_once_and_frees_its_place_when_it_was_not_called_for_a_window() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [None, None, None, None, Some(2)]));
    let told = |target: &str| asking.told("a", target, 1);
    assert_eq!([told("x"), told("y"), told("x"), told("z")], ["yes", "yes", "yes", "distinct_targets after 610000"]);
    pass(&time, 5 * SLICE);
    assert_eq!(told("x"), "yes");
    pass(&time, 56 * SLICE);
    assert_eq!([told("z"), told("y")], ["yes".to_owned(), format!("distinct_targets after {}", 5 * SLICE)]);
}

#[test]
fn a_call_that_never_left_is_charged_nothing() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [Some(2), Some(9), None, None, Some(1)]));
    for _ in 0..5 {
        let (charged, _) = asking.charge("a", "x", 9).unwrap();
        asking.budget.take_back(charged, 9);
    }
    assert_eq!(asking.told("a", "y", 9), "yes", "nor a target");
    assert_eq!(asking.told("a", "y", 1), "cost after 610000", "and once charged, it is");
}

#[test]
fn the_agent_is_told_from_70_percent_on() {
    let asking = Asking::new(budget(&Time::standing(), WINDOW, [Some(20), None, None, None, None]));
    let told: Vec<_> = (0..20).map(|_| asking.charge("a", "x", 1).unwrap().1).collect();
    let first = told.iter().position(|told| !told.is_empty());
    let urgent = told.iter().position(|told| told.iter().any(Standing::is_urgent));
    assert_eq!((first, urgent, asking.budget.counts()), (Some(13), Some(16), (7, 0)), "the 14th of 20 is 70 %, the 17th 85 %");
}

#[test]
fn the_number_of_keys_is_bounded_and_a_newcomer_waits() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [Some(5), None, None, None, None]));
    (0..100).for_each(|agent| assert_eq!(asking.told(&agent.to_string(), "x", 1), "yes"));
    assert_eq!([asking.told("new", "x", 1), asking.told("7", "x", 1)], ["calls after 1000", "yes"]);
    let (sums, targets) = asking.budget.spent.unkept("B");
    asking.budget.spent.kept(&asking.hasher, (&sums, &targets), &sums);
    pass(&time, 62 * SLICE);
    assert_eq!(asking.told("new", "x", 1), "yes", "what was kept and counts no more has made room");
}

#[test]
fn what_was_kept_comes_back_and_what_others_spent_counts_too() {
    let time = Time::standing();
    let spender = Asking::new(budget(&time, WINDOW, [Some(5), Some(100), None, None, Some(2)]));
    assert_eq!([spender.told("a", "x", 7), spender.told("a", "y", 7)], ["yes", "yes"]);
    let (sums, targets) = spender.budget.spent.unkept("B");
    assert_eq!((sums.len(), sums[0].sums, targets.len()), (1, [2, 14, 0, 0], 2));

    let other = Asking::new(budget(&time, WINDOW, [Some(5), Some(100), None, None, Some(2)]));
    other.budget.spent.restore(&other.hasher, &sums, &targets);
    assert_eq!([other.told("a", "z", 1), other.told("a", "x", 1)], ["distinct_targets after 610000", "yes"]);

    // Meanwhile a third process has stored two more, and this one spends while its batch is under way.
    let (sent, called) = other.budget.spent.unkept("B");
    assert_eq!(sent[0].sums, [1, 1, 0, 0], "only what is new");
    assert_eq!(other.told("a", "y", 1), "yes");
    let stored = [Row { sums: [4, 40, 0, 0], ..sent[0].clone() }];
    other.budget.spent.kept(&other.hasher, (&sent, &called), &stored);
    assert_eq!(other.told("a", "x", 1), "calls after 610000");
    assert_eq!(other.budget.spent.unkept("B").0[0].sums, [1, 1, 0, 0], "what came meanwhile goes with the next batch");
}

proptest! {
    /// Against a list of every call: none is let on too early, and each at the time that was told.
    #[test]
    fn no_more_than_the_total_is_let_on_in_any_window(gaps in proptest::collection::vec(0..120_000_u64, 1..80), total in 1..6_u64) {
        let time = Time::standing();
        let asking = Asking::new(budget(&time, WINDOW, [Some(total), None, None, None, None]));
        let (mut made, mut now): (Vec<u64>, u64) = (Vec::new(), 0);
        for gap in gaps {
            pass(&time, gap);
            now += gap;
            let of_window = made.iter().filter(|at| now - **at <= 600_000).count() as u64;
            match asking.charge("a", "x", 1) {
                Ok(_) => {
                    prop_assert!(of_window < total, "{of_window} of {total} within the window");
                    made.push(now);
                }
                Err(exhausted) => {
                    let wait = exhausted.retry_after_ms.unwrap();
                    prop_assert!(wait > 0 && wait <= 610_000);
                    pass(&time, wait - 1);
                    prop_assert!(asking.charge("a", "x", 1).is_err(), "a millisecond too early");
                    pass(&time, 1);
                    prop_assert!(asking.charge("a", "x", 1).is_ok(), "at the time that was told");
                    now += wait;
                    made.push(now);
                }
            }
        }
    }
}

#[test]
fn keys_of_which_nothing_counts_are_forgotten_by_a_sweep_though_nobody_needs_the_room() {
    let time = Time::standing();
    let asking = Asking::new(budget(&time, WINDOW, [Some(1), None, None, None, None]));
    let keys = || (asking.budget.spent.purses.len(), asking.budget.spent.keys.load(Ordering::Relaxed));
    let sweep = || asking.budget.sweep(asking.budget.spent.timeline.now_ms());
    assert_eq!(asking.told("a", "x", 1), "yes");
    pass(&time, 60 * SLICE);
    assert_eq!(asking.told("b", "x", 1), "yes");
    sweep();
    assert_eq!(keys(), (2, 2), "the first still counts");
    pass(&time, SLICE);
    sweep();
    assert_eq!(keys(), (1, 1));
    assert_eq!(asking.told("a", "x", 1), "yes");
    assert_eq!(asking.told("b", "x", 1), format!("calls after {}", 60 * SLICE));
}
