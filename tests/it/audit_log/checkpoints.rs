//! What is signed, when, and what a start makes of it.

use doorward::audit::checkpoint::Checkpoint;
use doorward::audit::note::Note;
use doorward::audit::record::{Kind, Record};
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::{CHECKPOINT, Storage, peaks_name, seal_name};
use doorward::audit::{Durability, Log, OpenError, Options};
use doorward::clock::Clock;

use super::support::{NONE, NOW, append, intent, open, options, outcome, records, sound, try_open, vouched};

const MILLISECOND: i64 = 1_000_000;
const FIRST: &str = "00000000000000000001.jsonl";

fn with_clock(disk: &SimulatedDisk) -> (Log, Clock) {
    let clock = Clock::fixed(NOW);
    (try_open(disk, Options { clock: clock.clone(), ..options() }).unwrap().0, clock)
}

async fn calls(log: &Log, count: u64) {
    for call in 0..count {
        let seq = append(log, &intent(call), Durability::Write).await.unwrap();
        append(log, &outcome(call, seq), Durability::Write).await.unwrap();
    }
}

/// A stopped log of some records.
async fn stopped(count: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    calls(&log, count).await;
    log.close("done").await.unwrap();
    disk
}

fn damage(disk: &SimulatedDisk) -> String {
    match try_open(disk, options()) {
        Err(OpenError::Damaged { place, what, .. }) => format!("{place}: {what}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the damage was not noticed"),
    }
}

/// Damage is accepted once; the next start finds none.
fn accept(disk: &SimulatedDisk) {
    let (log, opened) = try_open(disk, Options { accept_damage: true, ..options() }).unwrap();
    assert!(!opened.damage.is_empty());
    drop(log);
    disk.kill();
    drop(open(disk));
    vouched(disk).unwrap();
}

#[tokio::test]
async fn ten_seconds_after_the_first_uncovered_record_a_checkpoint_covers_it() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    clock.set(NOW + 10_000 * MILLISECOND);
    log.tick();
    calls(&log, 1).await;
    let before = vouched(&disk).unwrap();
    clock.set(NOW + 19_999 * MILLISECOND);
    log.tick();
    assert_eq!(vouched(&disk).unwrap(), before);
    clock.set(NOW + 20_000 * MILLISECOND);
    log.tick();
    let after = vouched(&disk).unwrap();
    assert_eq!((before.size, after.size, after.time), (1, 3, NOW / 1_000_000_000 + 20));
    assert_eq!((log.health().covered, log.health().covered_at), (3, NOW + 20_000 * MILLISECOND));
}

#[tokio::test]
async fn where_nothing_new_came_nothing_is_signed() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    calls(&log, 1).await;
    clock.set(NOW + 10_000 * MILLISECOND);
    log.tick();
    let (before, syncs) = (disk.note(CHECKPOINT).unwrap(), disk.counts().syncs);
    for hour in 1..20 {
        clock.set(NOW + hour * 3_600_000 * MILLISECOND);
        log.tick();
    }
    assert_eq!((disk.note(CHECKPOINT).unwrap(), disk.counts().syncs), (before, syncs));
}

#[tokio::test]
async fn a_thousand_records_do_not_wait_but_no_two_checkpoints_come_within_a_quarter_of_a_second() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    calls(&log, 499).await;
    assert_eq!(vouched(&disk).unwrap().size, 1);
    calls(&log, 1).await;
    log.tick();
    assert!(vouched(&disk).unwrap().size >= 1_000);
    let before = vouched(&disk).unwrap();
    calls(&log, 600).await;
    log.tick();
    assert_eq!(vouched(&disk).unwrap(), before);
    clock.set(NOW + 250 * MILLISECOND);
    log.tick();
    assert_eq!(vouched(&disk).unwrap().size, log.health().records);
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_no_checkpoint_up() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    calls(&log, 1).await;
    clock.set(NOW - 3_600_000 * MILLISECOND);
    log.tick();
    assert_eq!(vouched(&disk).unwrap().size, 3);
}

#[tokio::test]
async fn a_checkpoint_shows_to_those_who_wait_once_it_is_stored() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    let mut checkpoints = log.checkpoints();
    let first = checkpoints.borrow_and_update().clone().unwrap();
    calls(&log, 1).await;
    disk.faults(|faults| faults.write = Some(std::io::ErrorKind::Other));
    clock.set(NOW + 10_000 * MILLISECOND);
    log.tick();
    assert!(!checkpoints.has_changed().unwrap(), "it could not be stored");
    disk.faults(|faults| faults.write = None);
    clock.set(NOW + 11_000 * MILLISECOND);
    log.tick();
    let shown = checkpoints.borrow_and_update().clone().unwrap();
    assert_ne!(shown, first);
    assert_eq!(disk.note(CHECKPOINT).unwrap().unwrap(), shown.as_bytes());
    log.close("done").await.unwrap();
    let seal = Checkpoint::parse(Note::parse(&checkpoints.borrow().clone().unwrap()).unwrap().unchecked_text()).unwrap();
    assert!(seal.next.is_some() && seal.last() == Some(4));
}

#[tokio::test]
async fn nothing_is_signed_that_a_failed_sync_may_have_lost() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    calls(&log, 1).await;
    disk.faults(|faults| faults.sync = Some(std::io::ErrorKind::Other));
    clock.set(NOW + 10_000 * MILLISECOND);
    log.tick();
    disk.power_loss(3);
    drop(log);
    drop(open(&disk));
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn a_log_that_was_emptied_while_no_gateway_ran_is_found() {
    let disk = stopped(3).await;
    for name in disk.list().unwrap() {
        disk.remove(&name).unwrap();
    }
    assert!(damage(&disk).contains("the segment is not there, but its seal is"), "{}", damage(&disk));
    for note in disk.note_names() {
        disk.remove_note(&note);
    }
    assert!(damage(&disk).contains("there is no record, but the log's key"), "{}", damage(&disk));
    accept(&disk);
}

#[tokio::test]
async fn an_emptied_log_of_which_only_the_newest_checkpoint_is_left_is_found() {
    let disk = stopped(3).await;
    for name in disk.list().unwrap() {
        disk.remove(&name).unwrap();
    }
    disk.remove_keys();
    for note in disk.note_names().into_iter().filter(|name| name != CHECKPOINT) {
        disk.remove_note(&note);
    }
    assert!(damage(&disk).contains("there is no record"), "{}", damage(&disk));
    accept(&disk);
    assert!(records(&disk)[0].seq > 8, "no number is given twice");
}

#[tokio::test]
async fn records_cut_off_at_the_end_of_a_line_are_found() {
    for is_stopped in [true, false] {
        let disk = SimulatedDisk::new();
        let (log, clock) = with_clock(&disk);
        calls(&log, 3).await;
        clock.set(NOW + 10_000 * MILLISECOND);
        log.tick();
        if is_stopped {
            log.close("done").await.unwrap();
        } else {
            disk.kill();
        }
        let lines = disk.content(FIRST);
        let kept = lines.split_inclusive(|byte| *byte == b'\n').take(5).collect::<Vec<_>>().concat();
        disk.put(FIRST, &kept);
        let what = damage(&disk);
        assert!(what.contains("a checkpoint covers the records up to") && what.contains("ends with record 5"), "{what}");
        assert_eq!(disk.content(FIRST), kept, "a start that refuses changes nothing");
        accept(&disk);
    }
}

#[tokio::test]
async fn a_log_written_anew_with_a_chain_that_holds_is_found() {
    let disk = stopped(3).await;
    let mut chain = doorward::audit::chain::Chain::first("main");
    let mut anew = Vec::new();
    let log_key = records(&disk)[0].record.log_key.clone();
    for seq in 1..=8 {
        let record = Record { log_key: log_key.clone().filter(|_| seq == 1), ..Record::new(Kind::Lifecycle) };
        chain = chain.seal(&record.encode("main", Clock::fixed(NOW).now()), seq, &mut anew).0;
    }
    disk.put(FIRST, &anew);
    assert!(damage(&disk).contains("are not those"), "{}", damage(&disk));
    accept(&disk);
}

#[tokio::test]
async fn a_segment_that_nothing_got_into_is_no_evidence_and_goes() {
    for empty in ["00000000000000000009.jsonl", "00000000000000000012.jsonl"] {
        let disk = stopped(3).await;
        let before = disk.list().unwrap();
        disk.put(empty, b"");
        let log = open(&disk);
        assert_eq!(disk.list().unwrap(), [before, vec!["00000000000000000009.jsonl".to_owned()]].concat(), "{empty}");
        drop(log);
        assert_eq!(sound(&disk), NONE);
    }
}

#[tokio::test]
async fn a_seal_that_covers_no_more_than_the_newest_checkpoint_does_not_replace_it() {
    let disk = SimulatedDisk::new();
    let (log, clock) = with_clock(&disk);
    calls(&log, 2).await;
    clock.set(NOW + 10_000 * MILLISECOND);
    log.tick();
    let before = vouched(&disk).unwrap();
    log.rotate();
    for _ in 0..8 {
        log.tick();
        let newest = vouched(&disk).unwrap();
        assert!(newest == before || newest.size > before.size, "{newest:?}");
    }
    assert_eq!((before.size, vouched(&disk).unwrap().size), (5, 6));
}

#[tokio::test]
async fn a_missing_key_and_a_missing_checkpoint_are_found() {
    let disk = stopped(1).await;
    disk.remove_keys();
    assert_eq!(damage(&disk), "keys: the private key that goes with the last segment is gone");
    accept(&disk);
    let disk = stopped(1).await;
    disk.remove_note(CHECKPOINT);
    assert!(damage(&disk).contains("it is gone, and the log's key is there"), "{}", damage(&disk));
    accept(&disk);
}

#[tokio::test]
async fn a_rotation_that_is_done_ends_with_a_checkpoint_under_the_next_key() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    calls(&log, 2).await;
    log.rotate();
    (0..8).for_each(|_| log.tick());
    let newest = vouched(&disk).unwrap();
    assert_eq!((newest.segment, newest.size, newest.next), (6, 6, None));
}

#[tokio::test]
async fn a_seal_that_was_taken_away_is_missed_by_the_next_start() {
    for (gone, is_stopped) in [(seal_name(1), false), (peaks_name(1), false), (seal_name(1), true)] {
        let disk = SimulatedDisk::new();
        let log = open(&disk);
        calls(&log, 2).await;
        let before = disk.note(CHECKPOINT).unwrap().unwrap();
        if is_stopped {
            log.close("done").await.unwrap();
        } else {
            log.rotate();
            (0..8).for_each(|_| log.tick());
            disk.kill();
        }
        disk.remove_note(&gone);
        disk.put_note(CHECKPOINT, &before).unwrap();
        let what = damage(&disk);
        assert!(what.starts_with(&format!("{}: ", seal_name(1))) && what.contains("gone or another"), "{what}");
        accept(&disk);
    }
}

#[tokio::test]
async fn a_checkpoint_that_another_key_signed_is_found() {
    let (disk, other) = (stopped(1).await, stopped(1).await);
    let (text, foreign) = (disk.note(CHECKPOINT).unwrap().unwrap(), other.note(CHECKPOINT).unwrap().unwrap());
    let (text, foreign) = (String::from_utf8(text).unwrap(), String::from_utf8(foreign).unwrap());
    let forged = format!("{}\n\n{}", text.rsplit_once("\n\n").unwrap().0, foreign.rsplit_once("\n\n").unwrap().1);
    disk.put_note(CHECKPOINT, forged.as_bytes()).unwrap();
    assert_eq!(damage(&disk), "checkpoint.note: it is not signed with the key of segment 1");
    disk.put_note(CHECKPOINT, b"nothing").unwrap();
    assert_eq!(damage(&disk), "checkpoint.note: it is not a checkpoint");
}

/// Segments as an older version wrote them.
fn older(disk: &SimulatedDisk) {
    let mut chain = doorward::audit::chain::Chain::first("main");
    for segment in [1, 4] {
        let mut lines = Vec::new();
        for seq in segment..segment + 3 {
            let record = Record { action: Some("start".into()), ..Record::new(Kind::Lifecycle) };
            chain = chain.seal(&record.encode("main", Clock::fixed(NOW).now()), seq, &mut lines).0;
        }
        disk.put(&format!("{segment:020}.jsonl"), &lines);
    }
}

#[tokio::test]
async fn a_log_of_an_older_version_goes_on_and_all_its_records_are_in_the_tree() {
    for crash in 0..12 {
        let disk = SimulatedDisk::new();
        older(&disk);
        disk.faults(|faults| faults.crash_after = Some(crash));
        drop(try_open(&disk, options()));
        disk.power_loss(crash);
        let log = open(&disk);
        calls(&log, 2).await;
        log.close("done").await.unwrap();
        let newest = vouched(&disk).unwrap();
        assert_eq!((newest.first, newest.size), (1, records(&disk).len() as u64), "crash after {crash}");
        drop(open(&disk));
        assert_eq!(sound(&disk), NONE);
    }
}
