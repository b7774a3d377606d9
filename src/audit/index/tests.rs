//! Tests of the index: whatever it says, answers are those of the log.

use std::fs;
use std::path::Path;

use super::*;
use crate::audit::chain::Chain;
use crate::audit::filter::Filter;
use crate::audit::find::Logs;
use crate::audit::record::{Kind, Record, Stored};
use crate::audit::row::Field;
use crate::clock::Moment;

const SECOND: i64 = 1_000_000_000;

/// A source of numbers that repeats.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A log of some segments with calls, refusals and gaps in time, written as the gateway writes.
pub(in crate::audit) fn write(dir: &Path, origin: &str, seed: u64, segments: u64, each: u64) {
    let folder = dir.join(origin).join("segments");
    fs::create_dir_all(&folder).unwrap();
    let (mut dice, mut chain, mut seq, mut open) = (Dice(seed), Chain::first(origin), 1, Vec::new());
    for _ in 0..segments {
        let (mut out, first) = (Vec::new(), seq);
        for _ in 0..each {
            let agent = format!("agent-{}", dice.below(5));
            let record = match dice.below(4) {
                0 => {
                    let record = Record {
                        agent: Some(agent.into()),
                        call_id: Some(format!("call-{seq}").into()),
                        run: Some(format!("run-{}", dice.below(30)).into()),
                        target: Some(format!("up__tool_{}", dice.below(9)).into()),
                        args: Some(format!("{{\"to\":\"hmac:{}\"}}", dice.below(40)).into()),
                        rule_ids: vec![format!("R{}", dice.below(3)).into()],
                        labels: [&["private"][..], &["outward"], &[]][(seq % 3) as usize].iter().map(|label| (*label).into()).collect(),
                        labels_before: ["private", "untrusted"].into_iter().take((seq / 3 % 3) as usize).map(Into::into).collect(),
                        labels_after: ["outward", "private"].into_iter().take((seq / 9 % 3) as usize).map(Into::into).collect(),
                        obligations: (0..dice.below(3)).map(|at| format!("O{at} limit:{}/h", 1 + seq % 2).into()).collect(),
                        ..Record::new(Kind::Intent)
                    };
                    open.push(seq);
                    record
                }
                1 if !open.is_empty() => {
                    let intent = open.swap_remove(dice.below(open.len() as u64) as usize);
                    let outcome = ["ok", "tool_error", "unresolved"][dice.below(3) as usize];
                    let call = Some(format!("call-{intent}").into());
                    Record { intent_seq: Some(intent), call_id: call, outcome: Some(outcome.into()), ..Record::new(Kind::Outcome) }
                }
                2 => Record {
                    agent: Some(agent.into()),
                    decision: Some("deny".into()),
                    code: Some("policy_denied".into()),
                    target: Some(format!("a \"name\"\u{1f}\n{}", dice.below(20)).into()),
                    ..Record::new(Kind::Refusal)
                },
                _ => Record { targets: vec!["resource:up:a".into(), "resource:up:b".into()], ..Record::new(Kind::Watch) },
            };
            let unix_nanos = (1_000 + seq as i64 - dice.below(20) as i64) * SECOND;
            let moment = Moment { unix_nanos, boot_micros: seq, boot_id: None };
            (chain, _) = chain.seal(&record.encode(origin, moment), seq, &mut out);
            seq += 1;
        }
        fs::write(folder.join(segment_name(first)), out).unwrap();
    }
}

fn questions(dice: &mut Dice) -> Vec<Filter> {
    let of = |field, value: String| Filter::default().and(field, Some(value));
    let mut all = vec![
        Filter::default(),
        of(Field::Agent, format!("agent-{}", dice.below(6))),
        of(Field::Run, format!("run-{}", dice.below(32))),
        of(Field::Value, format!("hmac:{}", dice.below(44))),
        of(Field::Target, "up__tool_1*".to_owned()),
        of(Field::Target, "a \"name\"\u{1f}\n7".to_owned()),
        of(Field::Target, "resource:up:b".to_owned()),
        of(Field::Outcome, "tool_error".to_owned()),
        of(Field::Rule, "R1".to_owned()).and(Field::Agent, Some("agent-1")).and(Field::Target, Some("up__tool_2")),
        of(Field::Rule, "O1".to_owned()),
        of(Field::Rule, "O".to_owned()),
        of(Field::Label, "private".to_owned()),
        of(Field::Met, "private".to_owned()),
        of(Field::Met, "outward".to_owned()).and(Field::Label, Some("private")),
        of(Field::Met, "team:none".to_owned()),
        of(Field::Call, format!("call-{}", dice.below(900))),
        Filter::default().and_any(Field::Run, vec!["run-1".to_owned(), "run-2".to_owned(), "no".to_owned()]),
        of(Field::Kind, "watch".to_owned()),
        of(Field::Tier, "read".to_owned()),
        of(Field::Target, "nothing__*".to_owned()),
        of(Field::Target, "a*".to_owned()).and(Field::Agent, Some(format!("agent-{}", dice.below(6)))),
        of(Field::Run, format!("run-{}", dice.below(30))).and(Field::Value, Some(format!("hmac:{}", dice.below(40)))),
        of(Field::Outcome, "ok".to_owned()).and(Field::Kind, Some("outcome")).and(Field::Call, Some(format!("call-{}", dice.below(300)))),
        of(Field::Kind, "refusal".to_owned()).and(Field::Outcome, Some("ok")),
        Filter::default().and_any(Field::Call, (0..50).map(|_| format!("call-{}", dice.below(700))).collect()),
    ];
    for filter in &mut all {
        let since = (1_000 + dice.below(1_200) as i64) * SECOND;
        filter.newest_first = dice.below(2) == 0;
        match dice.below(3) {
            0 => filter.since = Some(since),
            1 => (filter.since, filter.until) = (Some(since), Some(since + 200 * SECOND)),
            _ => {}
        }
    }
    all
}

fn disk(dir: &Path) -> std::sync::Arc<dyn Storage> {
    std::sync::Arc::new(crate::audit::disk::Disk::existing(dir, "main"))
}

fn places(found: &[Stored]) -> Vec<(String, u64)> {
    found.iter().map(|stored| (stored.origin.clone(), stored.seq)).collect()
}

/// The right to fill, as another process has it.
pub(in crate::audit) fn held(dir: &Path) -> File {
    hold(dir).unwrap().unwrap()
}

fn indexed(dir: &Path) -> Logs {
    let mut logs = Logs::in_dir(dir).unwrap();
    assert!(logs.with_index(dir, None, &mut |_| {}).unwrap().is_done);
    logs
}

pub(in crate::audit) fn answers_are_those_of_the_log(dir: &Path, logs: &Logs, seed: u64) {
    let plain = Logs::in_dir(dir).unwrap();
    for filter in questions(&mut Dice(seed)) {
        assert_eq!(places(&logs.find(&filter).unwrap().records), places(&plain.find(&filter).unwrap().records), "seed {seed}: {filter:?}");
        let lines = |logs: &Logs| {
            let mut lines: Vec<Vec<u8>> = Vec::new();
            logs.each(&filter, |line| lines.push(line.to_vec())).unwrap();
            lines
        };
        assert!(lines(logs) == lines(&plain), "seed {seed}: {filter:?}");
    }
    for agent in [None, Some("agent-1")] {
        let told = |logs: &Logs| format!("{:?}", logs.stats(None, None, agent).unwrap().agents.sorted());
        assert_eq!(told(logs), told(&plain), "seed {seed}");
    }
    let told = |logs: &Logs| logs.unresolved().unwrap().iter().map(|(stored, _)| stored.seq).collect::<Vec<_>>();
    assert_eq!(told(logs), told(&plain), "seed {seed}");
}

#[test]
fn answers_are_the_same_with_and_without_it() {
    for seed in 1..6 {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "main", seed, 5, 150);
        write(dir.path(), "local-1", seed + 100, 3, 90);
        let logs = indexed(dir.path());
        answers_are_those_of_the_log(dir.path(), &logs, seed);
        assert!(logs.notes().is_empty());
    }
    for (seed, segments, each) in [(21, 30, 12), (22, 60, 4)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "main", seed, segments, each);
        write(dir.path(), "local-1", seed + 100, segments, each);
        answers_are_those_of_the_log(dir.path(), &indexed(dir.path()), seed);
    }
}

#[test]
fn answers_are_the_same_where_a_segment_has_more_records_than_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 23, 1, column::CHUNK as u64 + 100);
    let (plain, logs) = (Logs::in_dir(dir.path()).unwrap(), indexed(dir.path()));
    assert_eq!(logs.indexed(), column::CHUNK as u64);
    for filter in questions(&mut Dice(23)).into_iter().skip(1).step_by(4) {
        assert_eq!(places(&logs.find(&filter).unwrap().records), places(&plain.find(&filter).unwrap().records), "{filter:?}");
    }
}

#[test]
fn of_the_newest_and_of_the_oldest_as_many_come_as_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 3, 5, 150);
    let logs = indexed(dir.path());
    let all = logs.find(&Filter::default().and(Field::Kind, Some("intent"))).unwrap().records;
    let some = |newest_first| Filter { limit: Some(7), newest_first, ..Filter::default().and(Field::Kind, Some("intent")) };
    let seqs = |found: &[Stored]| {
        let mut seqs: Vec<u64> = found.iter().map(|stored| stored.seq).collect();
        seqs.sort_unstable();
        seqs
    };
    let all = seqs(&all);
    assert_eq!(seqs(&logs.find(&some(false)).unwrap().records), all[..7]);
    assert_eq!(seqs(&logs.find(&some(true)).unwrap().records), all[all.len() - 7..]);
}

#[test]
fn what_comes_after_it_was_filled_is_found_before_and_after_it_is_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 5, 3, 150);
    drop(indexed(dir.path()));
    let before = Index::open(dir.path()).unwrap().cursor("main");
    write(dir.path(), "main", 5, 6, 150);
    let mut stale = Logs::in_dir(dir.path()).unwrap();
    let held = hold(dir.path()).unwrap();
    assert!(!stale.with_index(dir.path(), None, &mut |_| {}).unwrap().is_done, "another process fills it");
    answers_are_those_of_the_log(dir.path(), &stale, 5);
    drop(held);
    let logs = indexed(dir.path());
    answers_are_those_of_the_log(dir.path(), &logs, 5);
    assert!(Index::open(dir.path()).unwrap().cursor("main") > before);
}

#[test]
fn what_is_no_index_of_ours_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 7, 4, 150);
    drop(indexed(dir.path()));
    let file = Index::file(dir.path());
    let version = |version: i64| Connection::open(&file).unwrap().pragma_update(None, "user_version", version).unwrap();
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("cannot be read", &|| fs::write(&file, b"not a database, whatever its name is").unwrap()),
        ("of another version", &|| version(VERSION + 1)),
        ("none of ours", &|| Connection::open(&file).unwrap().pragma_update(None, "application_id", 7).unwrap()),
        ("cannot be read", &|| Connection::open(&file).unwrap().execute_batch("DROP TABLE chunk").unwrap()),
        ("", &|| drop(fs::write(&file, b""))),
    ];
    for (told, spoil) in spoil {
        spoil();
        let logs = indexed(dir.path());
        assert!(logs.notes().iter().any(|note| note.contains(told) && note.contains("made anew")), "{told}: {:?}", logs.notes());
        answers_are_those_of_the_log(dir.path(), &logs, 7);
        assert!(!Index::open(dir.path()).unwrap().chunks("main").is_empty());
    }
}

#[test]
fn a_log_that_was_changed_behind_its_back_is_taken_in_again_and_told() {
    let segment = |dir: &Path, number: u64| dir.join("main/segments").join(segment_name(1 + number * 150));
    type Change<'c> = (&'c str, &'c dyn Fn(&Path));
    let change: [Change; 4] = [
        ("cut", &|dir| {
            let text = fs::read_to_string(segment(dir, 1)).unwrap();
            fs::write(segment(dir, 1), &text[..text[..text.len() / 2].rfind('\n').unwrap() + 1]).unwrap();
        }),
        ("taken out", &|dir| fs::remove_file(segment(dir, 1)).unwrap()),
        ("longer", &|dir| {
            let text = fs::read_to_string(segment(dir, 1)).unwrap();
            fs::write(segment(dir, 1), format!("{text}{{}}\n")).unwrap();
        }),
        ("another end", &|dir| {
            let text = fs::read_to_string(segment(dir, 2)).unwrap();
            let last = text.trim_end().rfind('\n').unwrap();
            fs::write(
                segment(dir, 2),
                format!("{}{}", &text[..last], text[last..].replace("\"chain\":\"", "\"chain\":\"0").replace("0\"}", "\"}")),
            )
            .unwrap();
        }),
    ];
    for (name, change) in change {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "main", 9, 4, 150);
        drop(indexed(dir.path()));
        change(dir.path());
        let logs = indexed(dir.path());
        answers_are_those_of_the_log(dir.path(), &logs, 9);
        if name != "another end" {
            assert!(logs.notes().iter().any(|note| note.contains("segment 151") && note.contains("verify")), "{name}: {:?}", logs.notes());
        }
        assert!(indexed(dir.path()).notes().is_empty(), "{name}: told once");
    }
}

#[test]
fn segments_that_retention_took_away_are_forgotten_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 11, 5, 150);
    drop(indexed(dir.path()));
    fs::remove_file(dir.path().join("main/segments").join(segment_name(1))).unwrap();
    let mut logs = Logs::in_dir(dir.path()).unwrap();
    let filled = logs.with_index(dir.path(), None, &mut |_| {}).unwrap();
    assert_eq!((filled.records, filled.is_done), (0, true), "nothing was read again");
    assert!(logs.notes()[0].contains("no longer there"), "{:?}", logs.notes());
    answers_are_those_of_the_log(dir.path(), &logs, 11);
}

#[test]
fn while_another_fills_it_what_retention_took_away_is_not_looked_at_and_a_changed_log_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 12, 5, 150);
    drop(indexed(dir.path()));
    let segments = dir.path().join("main/segments");
    fs::remove_file(segments.join(segment_name(1))).unwrap();
    let held = held(dir.path());
    let mut logs = Logs::in_dir(dir.path()).unwrap();
    assert!(!logs.with_index(dir.path(), None, &mut |_| {}).unwrap().is_done);
    assert!(logs.indexed() == 450 && logs.notes().is_empty());
    answers_are_those_of_the_log(dir.path(), &logs, 12);
    fs::remove_file(segments.join(segment_name(301))).unwrap();
    assert!(matches!(logs.with_index(dir.path(), None, &mut |_| {}), Err(IndexError::Busy)));
    drop(held);
    answers_are_those_of_the_log(dir.path(), &indexed(dir.path()), 12);
}

#[test]
fn a_file_that_was_deleted_or_replaced_after_it_was_opened_is_not_written_to() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "main", 15, 4, 150);
        let mut stale = Index::open(dir.path()).unwrap();
        Index::delete(dir.path()).unwrap();
        if replaced {
            drop(indexed(dir.path()));
        }
        let logs = vec![("main".to_owned(), disk(dir.path()))];
        let taken = stale.fill(&logs, None, &mut |_| {}).unwrap().records;
        assert_eq!(taken, if replaced { 0 } else { 450 });
        assert_eq!(Index::open(dir.path()).unwrap().records(), 450, "what it took in is in the file that has the name");
        answers_are_those_of_the_log(dir.path(), &indexed(dir.path()), 15);
    }
}

#[test]
fn lines_that_are_no_records_are_taken_in_once() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 16, 3, 100);
    let file = dir.path().join("main/segments").join(segment_name(101));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(dir.path().join("main/segments").join(segment_name(150)), "nothing\nnothing\n").unwrap();
    fs::write(&file, format!("nothing\n{text}nothing\n")).unwrap();
    let first = indexed(dir.path()).find(&Filter::default()).unwrap();
    assert_eq!((first.unreadable, first.records.len()), (4, 300));
    let chunks = Index::open(dir.path()).unwrap().chunks("main").to_vec();
    drop(indexed(dir.path()));
    assert_eq!(Index::open(dir.path()).unwrap().chunks("main"), chunks);
}

#[test]
fn a_chunk_that_was_forgotten_leaves_its_number_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 17, 3, 100);
    drop(indexed(dir.path()));
    let last = Index::open(dir.path()).unwrap().chunks("main").last().unwrap().id;
    let file = dir.path().join("main/segments").join(segment_name(101));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.trim_end().rfind('\n').unwrap() + 1]).unwrap();
    drop(indexed(dir.path()));
    let index = Index::open(dir.path()).unwrap();
    assert!(index.chunks("main").last().unwrap().id > last);
    let left: i64 = index.database.query_row("SELECT count(*) FROM mark WHERE id & 1099511627775 = ?1", [last], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_log_that_is_gone_leaves_nothing_in_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 13, 3, 50);
    drop(indexed(dir.path()));
    for file in fs::read_dir(dir.path().join("main/segments")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(indexed(dir.path()).find(&Filter::default()).unwrap().records.is_empty());
    assert!(Index::open(dir.path()).unwrap().chunks("main").is_empty());
}
