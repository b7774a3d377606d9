//! Anomalies over small logs made for the purpose.

use super::*;
use crate::audit::chain::Chain;
use crate::audit::record::{Kind, Record};
use crate::clock::Moment;

const DAY: i64 = 24 * HOUR;
const TODAY: i64 = 20_000 * DAY;

/// A log of these records, each at its time.
fn of(records: Vec<(i64, Record<'_>)>) -> (tempfile::TempDir, Logs) {
    let dir = tempfile::tempdir().unwrap();
    let (mut chain, mut out) = (Chain::first("main"), Vec::new());
    for (number, (unix_nanos, record)) in records.iter().enumerate() {
        let moment = Moment { unix_nanos: *unix_nanos, boot_micros: 1, boot_id: None };
        (chain, _) = chain.seal(&record.encode("main", moment), number as u64 + 1, &mut out);
    }
    let folder = dir.path().join("main/segments");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("00000000000000000001.jsonl"), out).unwrap();
    let logs = Logs::in_dir(dir.path()).unwrap();
    (dir, logs)
}

fn call(target: &'static str, arguments: u64) -> Record<'static> {
    let args_hash = Some(format!("hmac:ab12:{arguments}").into());
    let cost = Some(if target == "up__train" { 50 } else { 1 });
    Record { agent: Some("bot".into()), target: Some(target.into()), args_hash, cost, ..Record::new(Kind::Intent) }
}

fn end(target: &'static str, outcome: &'static str) -> Record<'static> {
    Record { agent: Some("bot".into()), target: Some(target.into()), outcome: Some(outcome.into()), ..Record::new(Kind::Outcome) }
}

/// Ten days of usual work: ten calls between 9:00 and 9:59, all of which end well.
fn usual() -> Vec<(i64, Record<'static>)> {
    let days = (1..=10).rev().flat_map(|day| (0..10).map(move |minute| TODAY - day * DAY + 9 * HOUR + minute * MINUTE));
    days.enumerate().flat_map(|(number, at)| [(at, call("up__read", number as u64)), (at + 1, end("up__read", "ok"))]).collect()
}

fn found(today: Vec<(i64, Record<'static>)>) -> Vec<Anomaly> {
    let (_dir, logs) = of(usual().into_iter().chain(today).collect());
    logs.anomalies(Times { baseline: TODAY - 30 * DAY, since: TODAY, until: None }, None, Some(BUDGET)).unwrap()
}

fn kinds(found: &[Anomaly]) -> Vec<&str> {
    found.iter().map(|anomaly| anomaly.kind).collect()
}

const NINE: i64 = TODAY + 9 * HOUR;

const BUDGET: Budget = Budget { units: 200, minutes: 30 };

/// Costly calls among the usual ones, and so many today, a quarter of an hour from each other, the first ten minutes before ten.
fn costly(today: i64) -> Vec<Anomaly> {
    let before = (1..=10).map(|day| (TODAY - day * DAY + 9 * HOUR + 30 * MINUTE, call("up__train", 2_000 + day as u64)));
    let now = (0..today).map(|number| (NINE + (50 + number * 15) * MINUTE, call("up__train", 3_000 + number as u64)));
    let mut records: Vec<_> = usual().into_iter().chain(before).chain(now).collect();
    records.sort_by_key(|(at, _)| *at);
    let (_dir, logs) = of(records);
    logs.anomalies(Times { baseline: TODAY - 30 * DAY, since: TODAY, until: None }, None, Some(Budget { units: 99, minutes: 30 })).unwrap()
}

#[test]
fn more_than_the_budget_within_any_such_time_is_told_and_less_is_not() {
    assert_eq!(costly(1), []);
    let told = costly(2);
    assert_eq!((kinds(&told), told[0].at), (vec!["cost_budget"], NINE + 50 * MINUTE), "across the hour");
    assert!(told[0].what.contains("100 cost units within 30 minutes, over the budget of 99"), "{told:?}");
    assert_eq!(told[0].evidence.len(), 2);
}

#[test]
fn an_hour_far_costlier_than_any_before_is_told_where_it_is_not_told_as_a_volume() {
    let many = |target, count: i64| (0..count).map(move |number| (NINE + number * MINUTE / 3, call(target, 4_000 + number as u64)));
    let told = found(many("up__train", 3).collect());
    assert_eq!(kinds(&told), ["cost", "new_tool"]);
    assert!(told[0].what.contains("150 cost units within an hour; its costliest hour before had 10"), "{told:?}");
    assert_eq!(kinds(&found(many("up__read", 120).collect())), ["volume"]);
}

#[test]
fn usual_work_is_not_told() {
    let today = (0..9).flat_map(|number| [(NINE + number, call("up__read", 900 + number as u64)), (NINE + number, end("up__read", "ok"))]);
    assert_eq!(found(today.collect()), []);
}

#[test]
fn a_tool_never_called_before_is_told_with_its_calls() {
    let told = found(vec![(NINE, call("up__pay", 1)), (NINE + 1, call("up__pay", 2))]);
    assert_eq!((kinds(&told), told[0].target.as_deref()), (vec!["new_tool"], Some("up__pay")));
    assert_eq!(told[0].evidence, [("main".to_owned(), 201), ("main".to_owned(), 202)]);
    assert_eq!(told[0].at, NINE);
}

#[test]
fn a_jump_of_errors_is_told_and_a_few_errors_are_not() {
    let today = |wrong: i64| (0..30).map(move |number| (NINE + number, end("up__read", if number < wrong { "tool_error" } else { "ok" })));
    let told = found(today(15).collect());
    assert_eq!(kinds(&told), ["error_jump"]);
    assert!(told[0].what.contains("50 %") && told[0].evidence.len() == EVIDENCE, "{told:?}");
    assert_eq!(found(today(3).collect()), []);
}

#[test]
fn the_same_call_again_and_again_is_told_and_different_ones_are_not() {
    let today =
        |same: bool| (0..12).map(move |number| (NINE + number * MINUTE / 4, call("up__read", if same { 5 } else { 500 + number as u64 })));
    assert_eq!(kinds(&found(today(true).collect())), ["repeated_calls"]);
    assert_eq!(found(today(false).collect()), []);
}

#[test]
fn calls_that_are_alike_are_not_taken_together_across_agents_or_tools() {
    let half = |agent: u64, target| {
        let record = Record { agent: Some(format!("bot-{agent}").into()), ..call(target, 5) };
        std::iter::repeat_n(record, REPEATED as usize / 2).map(|record| (NINE, record))
    };
    let today = (0..400).flat_map(|agent| half(agent, "up__read").chain(half(agent, "up__list")));
    assert!(!kinds(&found(today.collect())).contains(&"repeated_calls"));
}

#[test]
fn a_burst_of_refusals_is_told_counting_those_of_a_flood() {
    let flood = |count| Record { agent: Some("bot".into()), count: Some(count), ..Record::new(Kind::Coalesced) };
    let told = found(vec![(NINE, flood(500))]);
    assert_eq!(kinds(&told), ["refusal_burst"]);
    assert!(told[0].what.contains("500"), "{told:?}");
    assert_eq!(found(vec![(NINE, flood(3))]), []);
}

#[test]
fn an_hour_in_which_it_never_worked_and_a_volume_that_it_never_had_are_told() {
    assert_eq!(kinds(&found(vec![(TODAY + 3 * HOUR, call("up__read", 700))])), ["unusual_hour"]);
    let many = (0..120).map(|number| (NINE + number * MINUTE / 3, call("up__read", 1_000 + number as u64)));
    assert_eq!(kinds(&found(many.collect())), ["volume"]);
}
