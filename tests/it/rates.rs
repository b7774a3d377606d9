//! Limits: what is admitted, who is named when it is not, and that the told wait is the true one. Time stands still until moved.

use std::path::Path;
use std::time::Duration;

use doorward::catalog::tier::Tier;
use doorward::error::Code;
use doorward::limit::flood::{Coalescer, Verdict};
use doorward::limit::{Floods, LimitRefusal, Limits, SHIPPED, Time};
use doorward::policy::{Names, TargetFacts, TargetIndex};
use proptest::prelude::*;

const TARGETS: [TargetFacts<'static>; 3] = [
    TargetFacts { name: "demo__read_note", tier: Tier::Read },
    TargetFacts { name: "github__create_issue", tier: Tier::Reversible },
    TargetFacts { name: "github__merge", tier: Tier::Irreversible },
];
const READ: TargetIndex = TargetIndex(0);
const CREATE: TargetIndex = TargetIndex(1);
const MERGE: TargetIndex = TargetIndex(2);

fn upstreams() -> Vec<String> {
    vec!["demo".into(), "github".into()]
}

fn parse(text: &str, time: &Time) -> Result<Limits, Vec<String>> {
    let upstreams = upstreams();
    let names = Names { upstreams: &upstreams, agents: None, targets: &TARGETS };
    Limits::parse(Path::new("limits.yaml"), text, &names, time).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn limits(rows: &str, time: &Time) -> Limits {
    parse(&format!("limits:\n{rows}"), time).unwrap()
}

/// The refusal as `L1 after 50`, or `yes`.
fn told(answer: Result<(), LimitRefusal>) -> String {
    answer.map_or_else(|refusal| format!("{} after {}", refusal.limit_id, refusal.retry_after_ms), |()| "yes".to_owned())
}

fn take(limits: &Limits, agent: &str, target: TargetIndex, times: usize) {
    for _ in 0..times {
        limits.admit(limits.agent(agent), target).unwrap();
    }
}

#[test]
fn the_shipped_limits_load_and_admit_a_burst_of_a_hundred() {
    let time = Time::standing();
    let limits = parse(SHIPPED, &time).unwrap();
    take(&limits, "a", READ, 100);
    assert_eq!(told(limits.admit(limits.agent("a"), READ)), "L1 after 20");
    assert_eq!(told(limits.admit(limits.agent("b"), READ)), "yes");
    let folder = tempfile::tempdir().unwrap();
    let upstreams = upstreams();
    let names = Names { upstreams: &upstreams, agents: None, targets: &TARGETS };
    assert_eq!(Limits::load(folder.path(), &names, &time).unwrap().text(), SHIPPED);
}

#[test]
fn what_a_limit_counts_apart_has_a_bucket_of_its_own() {
    let rows = "  - { id: A, per: [agent], of: \"*\", rate: 100/s, burst: 5 }\n  - { id: T, per: [target], of: \"github__*\", rate: 100/s, burst: 3 }\n  - { id: B, per: [agent, target], of: github__merge, rate: 1/min }\n";
    let limits = limits(rows, &Time::standing());
    take(&limits, "a", MERGE, 1);
    assert_eq!(told(limits.admit(limits.agent("a"), MERGE)), "B after 60000");
    take(&limits, "b", MERGE, 1);
    take(&limits, "c", MERGE, 1);
    assert_eq!(told(limits.admit(limits.agent("d"), MERGE)), "T after 10");
    take(&limits, "d", CREATE, 3);
    take(&limits, "d", READ, 2);
    assert_eq!(told(limits.admit(limits.agent("d"), READ)), "A after 10");
    assert_eq!(limits.ids_for("github__merge").collect::<Vec<_>>(), ["B", "A", "T"]);
}

#[test]
fn a_refused_call_is_charged_nowhere() {
    let rows = "  - { id: A, per: [agent], of: \"*\", rate: 1/s, burst: 2 }\n  - { id: T, per: [], of: \"*\", rate: 1/h, burst: 3 }\n  - { id: B, per: [agent, target], of: \"*\", rate: 1/s, burst: 50 }\n";
    let limits = limits(rows, &Time::standing());
    take(&limits, "a", READ, 2);
    // The flood of `a` ends at its own limit and takes nothing of the total.
    (0..100).for_each(|_| assert_eq!(told(limits.admit(limits.agent("a"), READ)), "A after 1000"));
    take(&limits, "b", READ, 1);
    // Now the total refuses; what `b` paid to the limits before it comes back.
    (0..100).for_each(|_| assert_eq!(told(limits.admit(limits.agent("b"), READ)), "T after 3600000"));
    assert_eq!(told(limits.admit(limits.agent("c"), MERGE)), "T after 3600000");
}

#[test]
fn the_wait_is_that_of_the_limit_that_is_longest_in_admitting() {
    let rows = "  - { id: A, per: [agent], of: \"*\", rate: 10/s, burst: 1 }\n  - { id: T, per: [], of: \"*\", rate: 1/min, burst: 1 }\n";
    let limits = limits(rows, &Time::standing());
    take(&limits, "a", READ, 1);
    assert_eq!(told(limits.admit(limits.agent("a"), READ)), "T after 60000");
}

#[test]
fn targets_outside_the_catalogue_share_a_bucket_and_make_no_more() {
    let limits = limits("  - { id: B, per: [agent, target], of: \"*\", rate: 1/s, burst: 3 }\n", &Time::standing());
    let agent = limits.agent("a");
    for name in ["resource:demo:1", "resource:demo:2", "resource:demo:3"] {
        limits.admit_by_name(agent, name, &[]).unwrap();
    }
    assert_eq!(told(limits.admit_by_name(agent, "resource:demo:4", &[])), "B after 1000");
    assert_eq!(limits.keys(), 1);
    assert_eq!(told(limits.admit(agent, READ)), "yes");
    assert_eq!(told(limits.admit(agent, TargetIndex(99))), "B after 1000", "an index of another catalogue is limited too");
}

#[test]
fn a_burst_left_out_is_what_a_second_gives() {
    for (rate, burst) in [("7/s", 7), ("120/min", 2), ("30/min", 1), ("5/h", 1)] {
        let limits = limits(&format!("  - {{ id: A, per: [], of: \"*\", rate: {rate} }}\n"), &Time::standing());
        take(&limits, "a", READ, burst);
        assert!(limits.admit(limits.agent("a"), READ).is_err(), "{rate}");
    }
}

#[test]
fn a_reload_forgives_nothing_and_a_changed_limit_begins_anew() {
    let time = Time::standing();
    let row = |id: &str, burst: usize| format!("  - {{ id: {id}, per: [agent], of: \"*\", rate: 1/h, burst: {burst} }}\n");
    let before = limits(&row("A", 2), &time);
    take(&before, "a", READ, 2);
    let agent = before.agent("a");
    let same = limits(&[row("A", 2), row("B", 9)].concat(), &time).carrying(&before, &TARGETS);
    assert_eq!(told(same.admit(agent, READ)), "A after 3600000");
    assert_eq!(same.agent("a"), agent, "keys hold across reloads");
    let other = limits(&row("A", 3), &time).carrying(&same, &TARGETS);
    assert_eq!(told(other.admit(agent, READ)), "yes");
}

#[test]
fn newcomers_at_the_bound_are_refused_until_others_have_been_idle() {
    let time = Time::standing();
    let limits = parse("limits:\n  - { id: A, per: [agent], of: \"*\", rate: 1/s, burst: 1 }\nmax_keys: 16\n", &time).unwrap();
    for agent in 0..16 {
        take(&limits, &format!("a{agent}"), READ, 1);
    }
    assert_eq!(told(limits.admit(limits.agent("new"), READ)), "A after 1000");
    assert_eq!(limits.keys(), 16);
    assert_eq!(told(limits.admit(limits.agent("a0"), READ)), "A after 1000", "those inside are limited as ever");
    time.advance(Duration::from_secs(1));
    assert_eq!(told(limits.admit(limits.agent("new"), READ)), "yes");
    assert_eq!(limits.keys(), 1);
    time.advance(Duration::from_secs(1));
    limits.sweep();
    assert_eq!(limits.keys(), 0);
}

#[test]
fn messages_of_an_agent_are_limited_before_they_are_parsed() {
    let time = Time::standing();
    let limits = parse("requests: { per_agent: 3/s }", &time).unwrap();
    let agent = limits.agent("a");
    (0..3).for_each(|_| limits.request(agent).unwrap());
    assert_eq!(told(limits.request(agent)), "requests.per_agent after 334");
    assert_eq!(told(limits.request(limits.agent("b"))), "yes");
}

#[test]
fn failed_credentials_count_against_their_network() {
    let limits = parse("requests: { failures_per_peer: 2/s }", &Time::standing()).unwrap();
    let [one, neighbour, other, four, mapped] =
        ["2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"].map(|peer| peer.parse().unwrap());
    limits.peer_failed(one);
    assert_eq!(told(limits.peer(neighbour)), "yes");
    limits.peer_failed(neighbour);
    assert_eq!(told(limits.peer(one)), "requests.failures_per_peer after 500");
    assert_eq!(told(limits.peer(other)), "yes");
    (0..2).for_each(|_| limits.peer_failed(mapped));
    assert!(limits.peer(four).is_err(), "a mapped address is the same peer");
}

#[test]
fn addresses_beyond_the_bound_share_one_bucket() {
    let limits = parse("requests: { failures_per_peer: 1/h }\nmax_keys: 16\n", &Time::standing()).unwrap();
    let peer = |number: u32| std::net::IpAddr::from(number.to_be_bytes());
    (0..16).for_each(|number| limits.peer_failed(peer(number)));
    assert_eq!(told(limits.peer(peer(100))), "yes");
    limits.peer_failed(peer(100));
    assert!(limits.peer(peer(101)).is_err(), "the newcomers' bucket is empty");
    assert_eq!(limits.keys(), 17);
}

#[test]
fn every_fault_has_its_place() {
    let row = |row: &str| format!("limits:\n  - {{ {row} }}\n");
    let table = [
        (row("id: A, per: [], of: \"*\", rate: 5/m"), "limits.yaml:2:38: `5/m` is not a rate"),
        (row("id: A, per: [], of: \"*\", rate: 0/s"), "limits.yaml:2:38: `0/s` is not a rate"),
        (row("id: A, per: [], of: \"*\", rate: +5/s"), "limits.yaml:2:38: `+5/s` is not a rate"),
        (row("id: A, per: [], of: \"*\", rate: 5/s, burst: 0"), "limits.yaml:2:50: 0 is out of bounds"),
        (row("id: A, per: [], of: \"*\", rate: 1/h, burst: 10000"), "limits.yaml:2:11: `A` takes longer than a year to fill"),
        (row("id: A, per: [], of: \"demi__*\", rate: 5/s"), "limits.yaml:2:27: there is no upstream `demi`\n  help: did you mean `demo`?"),
        (row("id: A, per: [], of: \"d*o__x\", rate: 5/s"), "limits.yaml:2:27: `d*o__x` has a `*` that is not at the end"),
        (row("id: \"A B\", per: [], of: \"*\", rate: 5/s"), "limits.yaml:2:11: `A B` is not an id"),
        (row("id: A, per: [agent, agent], of: \"*\", rate: 5/s"), "limits.yaml:2:11: `per` of `A` says the same twice"),
        (
            row("id: A, per: [], of: \"*\", rate: 5/s }\n  - { id: a, per: [], of: \"*\", rate: 5/s"),
            "limits.yaml:3:11: the id `a` is taken, or looks like another (`A`)",
        ),
        ("max_keys: 1\n".to_owned(), "limits.yaml:1:11: 1 is out of bounds"),
    ];
    for (text, expected) in table {
        let faults = parse(&text, &Time::standing()).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{text}{faults:?}");
    }
    assert!(parse("limit: []", &Time::standing()).is_err());
    assert!(parse(&row("id: A, per: [session], of: \"*\", rate: 5/s"), &Time::standing()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_call_after_the_told_wait_is_admitted_and_one_before_it_is_not(
        rates in prop::collection::vec((1_u32..500, prop::sample::select(vec!["s", "min"]), 1_u32..20), 1..4),
        steps in prop::collection::vec(0_u64..40, 1..60),
    ) {
        let time = Time::standing();
        let rows = rates.iter().enumerate().map(|(id, (count, unit, burst))| format!("  - {{ id: L{id}x, per: [], of: \"*\", rate: {count}/{unit}, burst: {burst} }}\n"));
        let limits = limits(&rows.collect::<String>(), &time);
        for step in steps {
            time.advance(Duration::from_millis(step));
            if let Err(refusal) = limits.admit(limits.agent("a"), READ) {
                time.advance(Duration::from_millis(refusal.retry_after_ms - 1));
                prop_assert!(limits.admit(limits.agent("a"), READ).is_err());
                time.advance(Duration::from_millis(1));
                prop_assert_eq!(limits.admit(limits.agent("a"), READ), Ok(()));
            }
        }
    }

    #[test]
    fn many_at_once_never_get_more_than_the_burst(burst in 1_usize..200) {
        let limits = limits(&format!("  - {{ id: A, per: [], of: \"*\", rate: 1/h, burst: {burst} }}\n"), &Time::standing());
        let admitted: usize = std::thread::scope(|scope| {
            let count = || (0..100).filter(|_| limits.admit(limits.agent("a"), READ).is_ok()).count();
            let threads = [(); 4].map(|()| scope.spawn(count));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        prop_assert_eq!(admitted, burst.min(400));
    }

    #[test]
    fn every_refusal_is_recorded_or_counted(notes in prop::collection::vec((0_usize..6, 0_usize..3, 0_i64..900), 0..300)) {
        let coalescer = Coalescer::new(Floods::default(), 4);
        let (mut now, mut recorded, mut counted) = (0, 0_u64, 0_u64);
        for (agent, target, step) in &notes {
            now += step * 1_000_000;
            match coalescer.note(now, ["a", "b", "c", "d", "e", "f"][*agent], Code::PolicyDenied, ["x", "y", "z"][*target], "why") {
                Verdict::Record | Verdict::Last => recorded += 1,
                Verdict::Count => {}
            }
            if step % 7 == 0 {
                counted += coalescer.drain(now).iter().map(|drained| drained.count).sum::<u64>();
            }
        }
        counted += coalescer.drain(i64::MAX).iter().map(|drained| drained.count).sum::<u64>();
        prop_assert_eq!(recorded + counted, notes.len() as u64);
        prop_assert!(coalescer.drain(i64::MAX).is_empty());
    }
}

#[test]
fn a_flood_is_five_records_and_one_with_the_number_of_the_rest() {
    let coalescer = Coalescer::new(Floods::default(), 100);
    let note = |now: i64, agent: &str| coalescer.note(now, agent, Code::PolicyDenied, "demo__x", &format!("at {now}"));
    assert!((0..4).all(|now| note(now, "a") == Verdict::Record) && note(4, "a") == Verdict::Last);
    assert!((5..1000).all(|now| note(now, "a") == Verdict::Count));
    assert_eq!(note(999, "b"), Verdict::Record, "another agent's refusals are its own");
    assert_eq!(coalescer.drain(999_999_999), []);
    let drained = coalescer.drain(1_000_000_000);
    assert_eq!(drained.len(), 1);
    assert_eq!((drained[0].count, &*drained[0].first, drained[0].from_unix_nanos, drained[0].to_unix_nanos), (995, "at 5", 5, 999));
    assert_eq!(
        (drained[0].agent.as_deref(), drained[0].code, drained[0].target.as_deref()),
        (Some("a"), Some(Code::PolicyDenied), Some("demo__x"))
    );
    assert_eq!(note(1_000_000_001, "a"), Verdict::Record, "a new window records again");
}

#[test]
fn invented_targets_fall_into_one_count_an_agent_and_code_and_agents_beyond_all_bounds_into_one() {
    let coalescer = Coalescer::new(Floods::default(), 16);
    let note = |agent: &str, code: Code, target: &str| coalescer.note(1, agent, code, target, "why");
    // An agent's share is two windows; what it does beyond that is told apart by its code.
    (0..2).for_each(|target| assert_eq!(note("a", Code::ToolNotFound, &format!("t{target}")), Verdict::Record));
    (2..1000).for_each(|target| assert_eq!(note("a", Code::ToolNotFound, &format!("t{target}")) != Verdict::Count, target < 7));
    (0..20).for_each(|target| assert_eq!(note("a", Code::PolicyDenied, &format!("t{target}")) != Verdict::Count, target < 5));
    // The others have theirs all the same: 16 windows for whole sorts, up to 32 for codes, up to 48 for agents, and five records of all the rest.
    let recorded = (0..1000).filter(|agent| note(&format!("x{agent}"), Code::PolicyDenied, "t") != Verdict::Count).count();
    assert_eq!(recorded, 48 - 4 + 5);
    let drained = coalescer.drain(i64::MAX);
    let of = |agent: Option<&str>, code: Option<Code>| {
        let found: Vec<_> = drained.iter().filter(|counted| (counted.agent.as_deref(), counted.code) == (agent, code)).collect();
        (found.len(), found.iter().map(|counted| counted.count).sum::<u64>())
    };
    assert_eq!(of(Some("a"), Some(Code::ToolNotFound)), (1, 993));
    assert_eq!(of(Some("a"), Some(Code::PolicyDenied)), (1, 15));
    assert_eq!(of(None, None), (1, 1000 - 44 - 5));
    assert_eq!(drained.len(), 3);
    assert_eq!(note("a", Code::ToolNotFound, "t"), Verdict::Record, "shares are given back");
}

#[test]
fn a_clock_that_is_set_back_ends_a_window() {
    let coalescer = Coalescer::new(Floods::default(), 16);
    let note = |now: i64| coalescer.note(now, "a", Code::PolicyDenied, "t", "why");
    let hour = 3_600_000_000_000;
    assert_eq!((0..9).filter(|_| note(hour) == Verdict::Count).count(), 4);
    // Two threads may look at the clock in another order than they come here.
    assert_eq!(note(hour - 1_000), Verdict::Count);
    assert_eq!(note(5), Verdict::Record);
    assert_eq!(coalescer.drain(6).iter().map(|counted| counted.count).collect::<Vec<_>>(), [5]);
    assert_eq!((0..9).filter(|_| note(hour) == Verdict::Count).count(), 4);
    assert_eq!(coalescer.drain(7).len(), 1, "not only in an hour");
}
