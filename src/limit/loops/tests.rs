//! Loops against a naive reading of the whole history, and what is too odd for that.

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 1_000;
const PAUSE: u64 = 100;

fn rule(when: When, steps: Steps) -> Loop {
    Loop {
        identity: Identity { id: "P".into(), when, window_ms: WINDOW, any_result: false, max_keys: 100 },
        pattern: Pattern::new("*"),
        except: Vec::new(),
        tiers: Vec::new(),
        steps,
        counts: Arc::new(Counts::default()),
    }
}

fn slow(warn: u32, slow: u32) -> Steps {
    Steps { warn: Some(warn), slow: Some(slow), pause_ms: PAUSE, block: None }
}

fn call(who: u64, call: u64) -> Call {
    // Spread like the outputs of a hash, and two calls to a target.
    let spread = |number: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Call { who: spread(who), call: spread(call + 100), target: spread(call / 2 + 200) }
}

fn ends(result: u64) -> How {
    How { result: Some(result), failed: result == 0 }
}

/// Makes the call, and says what became of it: `pass`, `warn 3`, `slow 50` or `block`.
fn make(rule: &Loop, call: Call, how: Option<How>, now: u64) -> String {
    match rule.enter(call, now) {
        Err(Repeats { wait_ms: Some(wait), .. }) => format!("slow {wait}"),
        Err(_) => "block".to_owned(),
        Ok(warned) => {
            match how {
                Some(how) => rule.ended(call, how, true, now),
                None => rule.take_back(call, now),
            }
            warned.map_or_else(|| "pass".to_owned(), |warned| format!("warn {}", warned.times))
        }
    }
}

/// A call that left.
#[derive(Clone, Copy, Debug)]
struct Made {
    call: Call,
    result: u64,
    at: u64,
}

/// The how manieth of a loop a call would be, and when the one before was, by looking at everything that its agent has ever made.
fn naive(when: When, history: &[Made], call: Call, now: u64) -> (u32, u64) {
    let own = history.iter().rev().filter(|made| made.call.who == call.who);
    let mut row: Vec<Made> = match when {
        When::SameCall => own.filter(|made| made.call.call == call.call).copied().collect(),
        When::Failures => own.filter(|made| made.call.target == call.target).copied().collect(),
        When::SameResult | When::Alternation => own.copied().collect(),
    };
    // Newest first, up to the first gap.
    let mut later = now;
    let in_window = |made: &Made| {
        let gap = later - made.at;
        later = made.at;
        gap <= WINDOW
    };
    row = row.into_iter().take_while(in_window).collect();
    let Some(newest) = row.first().copied() else { return (1, 0) };
    let times = match when {
        When::SameCall => row.iter().take_while(|made| made.result == newest.result).count(),
        When::Failures => row.iter().take_while(|made| made.result == 0).count(),
        When::SameResult if newest.call.target != call.target || newest.call == call => 0,
        When::SameResult => {
            let same: Vec<_> = row.iter().take_while(|made| made.call.target == call.target && made.result == newest.result).collect();
            1 + same.windows(2).filter(|pair| pair[0].call != pair[1].call).count()
        }
        When::Alternation if row.len() >= 2 && row[1].call == call && newest.call != call => in_turn_length(&row),
        When::Alternation => 0,
    };
    (u32::try_from(times).unwrap() + 1, newest.at)
}

/// How many of the newest calls are two in turn, each with the result that it had.
fn in_turn_length(row: &[Made]) -> usize {
    let mut length = 2;
    while let Some(next) = row.get(length) {
        let (same, between) = (row[length - 2], row[length - 1]);
        if next.call != same.call || next.result != same.result || next.call == between.call {
            break;
        }
        length += 1;
    }
    length
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64, u64, u64, bool)>> {
    let gaps = prop_oneof![Just(0), Just(1), Just(PAUSE - 1), Just(PAUSE), Just(WINDOW / 2), Just(WINDOW), Just(WINDOW + 1)];
    // Few of each, so that loops come about.
    let step = (
        0..2_u64,
        prop_oneof![3 => 0..2_u64, 1 => 2..4_u64],
        prop_oneof![4 => Just(0), 1 => Just(1_u64)],
        gaps,
        proptest::bool::weighted(0.85),
    );
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_the_whole_history_says(steps in steps(), when in 0..4_usize) {
        let when = [When::SameCall, When::SameResult, When::Alternation, When::Failures][when];
        let (rule, mut history, mut now) = (rule(when, slow(3, 5)), Vec::new(), 5_000);
        for (who, number, result, gap, leaves) in steps {
            now += gap;
            let made = call(who, number);
            let (times, last) = naive(when, &history, made, now);
            let expected = match times {
                5.. if now - last < PAUSE => format!("slow {}", PAUSE - (now - last)),
                3.. => format!("warn {times}"),
                _ => "pass".to_owned(),
            };
            let told = make(&rule, made, leaves.then(|| ends(result)), now);
            prop_assert_eq!(&told, &expected, "{:?} {:?} at {}", when, history, now);
            if leaves && !told.starts_with("slow") {
                history.push(Made { call: made, result, at: now });
            }
        }
    }
}

#[test]
fn who_goes_on_trying_does_not_leave_it_alone() {
    let rule = rule(When::SameCall, Steps { block: Some(3), ..Steps::default() });
    let told = |now: u64| make(&rule, call(0, 0), Some(ends(1)), now);
    assert_eq!([told(0), told(1), told(2)], ["pass", "pass", "block"]);
    // Each attempt begins the window anew.
    assert_eq!([told(900), told(1_800), told(2_700)], ["block"; 3]);
    assert_eq!(told(2_700 + WINDOW + 1), "pass");
}

#[test]
fn calls_under_way_together_repeat_each_other() {
    let rule = rule(When::SameCall, slow(2, 3));
    let told: Vec<_> = (0..4).map(|_| rule.enter(call(0, 0), 5).map(|warned| warned.map(|warned| warned.times))).collect();
    assert_eq!(told[..2], [Ok(None), Ok(Some(2))]);
    assert!(told[2..].iter().all(|told| told.as_ref().is_err_and(|repeats| repeats.times == 3 && repeats.wait_ms == Some(PAUSE))));
}

#[test]
fn what_never_left_costs_no_pause() {
    let rule = rule(When::SameCall, slow(2, 3));
    (0..2).for_each(|now| drop(make(&rule, call(0, 0), Some(ends(1)), now)));
    // It waits for a person: each try is taken back, and so is the time of it.
    for now in [PAUSE + 1, PAUSE + 2, PAUSE + 3] {
        assert_eq!(make(&rule, call(0, 0), None, now), "warn 3");
    }
}

#[test]
fn any_result_counts_where_the_rule_says_so() {
    let mut rule = rule(When::SameCall, Steps { block: Some(3), ..Steps::default() });
    rule.identity.any_result = true;
    let told: Vec<_> = (1..4).map(|result| make(&rule, call(0, 0), Some(ends(result)), result)).collect();
    assert_eq!(told, ["pass", "pass", "block"]);
}

#[test]
fn a_call_without_a_result_is_neither_a_failure_nor_a_success() {
    let rule = rule(When::Failures, slow(2, 9));
    let nothing = How { result: None, failed: false };
    let told = |how, now| make(&rule, call(0, 0), Some(how), now);
    assert_eq!([told(nothing, 0), told(ends(0), 1), told(nothing, 2), told(ends(0), 3)], ["pass", "pass", "warn 2", "warn 2"]);
    assert_eq!([told(ends(1), 4), told(ends(0), 5)], ["warn 3", "pass"]);
}

#[test]
fn another_tool_ends_what_is_counted_in_a_row_though_the_rule_is_not_about_it() {
    let rule = rule(When::SameResult, Steps { block: Some(3), ..Steps::default() });
    let told = |number: u64, now: u64| make(&rule, call(0, number), Some(ends(1)), now);
    assert_eq!([told(0, 1), told(1, 2), told(0, 3)], ["pass", "pass", "block"]);
    rule.ended(call(0, 9), ends(1), false, 4);
    assert_eq!(told(0, 5), "pass");
}

#[test]
fn the_number_of_what_is_watched_is_bounded_and_those_inside_are_watched_as_ever() {
    let rule = rule(When::SameCall, Steps { block: Some(2), ..Steps::default() });
    let told = |number: u64, now: u64| make(&rule, call(0, number), Some(ends(1)), now);
    (0..200).for_each(|number| assert_eq!(told(number, 10), "pass"));
    assert_eq!(rule.standing().watched, 100);
    assert_eq!((told(0, 11), told(199, 11)), ("block".to_owned(), "pass".to_owned()));
    // What is over makes room.
    let later = 11 + WINDOW + 1;
    assert_eq!((told(199, later), told(199, later)), ("pass".to_owned(), "block".to_owned()));
    assert_eq!(rule.standing().watched, 1);
}

#[test]
fn what_is_over_is_forgotten_by_a_sweep_though_nobody_needs_the_room() {
    let rule = rule(When::SameCall, Steps { block: Some(2), ..Steps::default() });
    let told = |number: u64, now: u64| make(&rule, call(0, number), Some(ends(1)), now);
    assert_eq!((told(0, 10), told(1, 20)), ("pass".to_owned(), "pass".to_owned()));
    rule.sweep(10 + WINDOW);
    assert_eq!(rule.standing().watched, 2, "the first counts to the end of its window");
    rule.sweep(11 + WINDOW);
    assert_eq!(rule.standing().watched, 1);
    assert_eq!(told(1, 20 + WINDOW), "block");
}
