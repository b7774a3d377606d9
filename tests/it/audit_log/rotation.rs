//! Segments that end, their seals and their keys, and a crash between any two steps of that.

use doorward::audit::disk::Disk;
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::{Slot, Storage, peaks_name, seal_name};
use doorward::audit::{Durability, Log, Options};
use doorward::clock::Clock;

use super::support::{NONE, NOW, append, checked, intent, last_segment, open, options, outcome, records, sound, try_open, vouched};

const HOUR: i64 = 3_600_000_000_000;

/// A life with calls, two rotations, a checkpoint and a stop. Whatever fails, it goes on to its end.
async fn life(disk: &SimulatedDisk) {
    let clock = Clock::fixed(NOW);
    let Ok((log, _)) = try_open(disk, Options { clock: clock.clone(), deadline_ms: 1, ..options() }) else { return };
    for call in 0..6_u64 {
        if let Ok(seq) = append(&log, &intent(call), Durability::Sync).await {
            let _ended = append(&log, &outcome(call, seq), Durability::Write).await;
        }
        if call % 2 == 1 {
            log.rotate();
        }
        for _ in 0..call {
            log.tick();
        }
        if call == 4 {
            clock.set(NOW + HOUR);
        }
    }
    let _stopped = log.close("done").await;
}

/// Whether the process got to its end.
fn has_ended(disk: &SimulatedDisk) -> bool {
    let mut left = None;
    disk.faults(|faults| left = faults.crash_after.take());
    left.is_some()
}

#[tokio::test]
async fn after_a_crash_between_any_two_changes_of_the_disk_the_next_start_is_clean() {
    for lives_before in 0..2 {
        for crash in 0.. {
            assert!(crash < 500, "the life does not end");
            let disk = SimulatedDisk::new();
            for _ in 0..lives_before {
                life(&disk).await;
            }
            disk.faults(|faults| faults.crash_after = Some(crash));
            life(&disk).await;
            if has_ended(&disk) {
                assert!(crash > 40, "only {crash} changes");
                break;
            }
            if crash % 2 == 0 {
                disk.power_loss(crash);
            }
            let (log, _) = try_open(&disk, options()).unwrap_or_else(|error| panic!("{lives_before} lives, crash after {crash}: {error}"));
            assert_eq!(sound(&disk), NONE, "crash after {crash}");
            log.close("done").await.unwrap();
            all_sealed(&disk);
        }
    }
}

/// Every segment has its seal and its peaks, and the newest covers all records.
fn all_sealed(disk: &SimulatedDisk) {
    let newest = vouched(disk).unwrap();
    assert_eq!((newest.first, newest.size), (1, records(disk).len() as u64));
    for name in disk.list().unwrap().into_iter().filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned)) {
        let segment = name.parse().unwrap();
        assert!(disk.note(&seal_name(segment)).unwrap().is_some(), "{name} has no seal");
        assert!(disk.note(&peaks_name(segment)).unwrap().is_some(), "{name} has no peaks");
    }
    assert!(disk.key(Slot::Next).unwrap().is_none());
}

#[tokio::test]
async fn a_crash_while_a_crash_is_recovered_from_is_recovered_from() {
    for crash in 0..60 {
        let disk = SimulatedDisk::new();
        life(&disk).await;
        disk.faults(|faults| faults.crash_after = Some(crash));
        life(&disk).await;
        for again in [3, 1, 4, 1, 5, 9, 2, 6] {
            disk.power_loss(crash + again);
            disk.faults(|faults| faults.crash_after = Some(again));
            life(&disk).await;
        }
        disk.power_loss(crash);
        drop(open(&disk));
        assert_eq!(sound(&disk), NONE, "crash after {crash}");
        all_sealed(&disk);
    }
}

#[tokio::test]
async fn a_segment_that_is_old_enough_ends_and_one_with_nothing_in_it_does_not() {
    let disk = SimulatedDisk::new();
    let clock = Clock::fixed(NOW);
    let log = try_open(&disk, Options { clock: clock.clone(), segment_max_age_ms: 3_600_000, ..options() }).unwrap().0;
    clock.set(NOW + HOUR);
    log.tick();
    assert_eq!(disk.list().unwrap().len(), 1, "it holds but its first record");
    append(&log, &intent(1), Durability::Write).await.unwrap();
    clock.set(NOW + 2 * HOUR - 1);
    log.tick();
    assert_eq!(disk.list().unwrap().len(), 1);
    clock.set(NOW + 2 * HOUR);
    log.tick();
    assert_eq!(last_segment(&disk), "00000000000000000003.jsonl");
}

#[tokio::test]
async fn without_space_for_another_the_present_segment_goes_on_and_ends_later() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    append(&log, &intent(1), Durability::Write).await.unwrap();
    let capacity = disk.used() + 6_000;
    disk.faults(|faults| faults.capacity = Some(capacity));
    log.rotate();
    log.tick();
    append(&log, &intent(2), Durability::Write).await.unwrap();
    assert_eq!(disk.list().unwrap().len(), 1);
    disk.faults(|faults| faults.capacity = None);
    log.rotate();
    (0..5).for_each(|_| log.tick());
    assert_eq!(last_segment(&disk), "00000000000000000004.jsonl");
    assert!(disk.note(&seal_name(1)).unwrap().is_some() && disk.note(&peaks_name(1)).unwrap().is_some());
    assert_eq!(sound(&disk), [2, 3]);
}

#[tokio::test]
async fn the_private_key_of_a_segment_that_has_ended_is_nowhere_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let disk = std::sync::Arc::new(Disk::open(dir.path(), &keys, "main").unwrap());
    let log = Log::open(options(), disk.clone()).unwrap().0;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(disk.key(Slot::Present).unwrap().unwrap().to_vec());
        append(&log, &intent(1), Durability::Write).await.unwrap();
        log.rotate();
        (0..5).for_each(|_| log.tick());
    }
    old.push(disk.key(Slot::Present).unwrap().unwrap().to_vec());
    log.close("done").await.unwrap();
    let files: Vec<_> = std::fs::read_dir(&keys).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files, [keys.join("main.key")]);
    let left = std::fs::read(&files[0]).unwrap();
    for key in &old {
        // The secret part, as it is written.
        let secret = key.splitn(5, |byte| *byte == b'+').nth(4).unwrap();
        assert!(secret.len() == 44 && !left.windows(secret.len()).any(|window| window == secret));
    }
    old.sort_unstable();
    old.dedup();
    assert_eq!(old.len(), 4, "each segment had its own");
}

#[tokio::test]
async fn what_a_crash_between_any_two_changes_leaves_is_no_damage_to_who_looks_before_the_next_start() {
    let mut unsealed = 0;
    for crash in 0.. {
        let disk = SimulatedDisk::new();
        life(&disk).await;
        disk.faults(|faults| faults.crash_after = Some(crash));
        life(&disk).await;
        let report = checked(&disk);
        assert_eq!(report.findings, [], "crash after {crash}");
        if let Some(last) = report.unsealed {
            unsealed += 1;
            assert!(report.unseen().iter().any(|told| told.contains(&format!("ends with record {last}"))), "{:#?}", report.unseen());
        }
        if has_ended(&disk) {
            assert_eq!(report.unsealed, None);
            break;
        }
    }
    // Between the first record of a segment and the seal of the one before, and between that and its peaks: two rotations, a start and a stop.
    assert!(unsealed >= 6, "{unsealed}");
}

#[tokio::test]
async fn a_seal_that_was_there_and_was_taken_away_is_missed() {
    let disk = SimulatedDisk::new();
    life(&disk).await;
    life(&disk).await;
    let segments: Vec<u64> = disk.list().unwrap().iter().map(|name| name.strip_suffix(".jsonl").unwrap().parse().unwrap()).collect();
    for segment in &segments {
        for name in [seal_name(*segment), peaks_name(*segment)] {
            let kept = disk.note(&name).unwrap().unwrap();
            disk.remove_note(&name);
            // That of the last one too: after a stop it is the newest checkpoint besides.
            let found = checked(&disk).findings;
            assert_eq!(found.iter().map(|finding| finding.file.as_str()).collect::<Vec<_>>(), [name.as_str()]);
            disk.put_note(&name, &kept).unwrap();
        }
    }
    assert!(segments.len() > 5 && checked(&disk).is_sound());
}

#[tokio::test]
async fn nothing_is_signed_under_the_key_of_a_segment_before_the_one_before_it_has_its_seal() {
    for crash in 0..9 {
        let disk = SimulatedDisk::new();
        let clock = Clock::fixed(NOW);
        let log = try_open(&disk, Options { clock: clock.clone(), ..options() }).unwrap().0;
        append(&log, &intent(1), Durability::Write).await.unwrap();
        log.rotate();
        log.tick();
        assert_eq!(disk.list().unwrap().len(), 2);
        // A checkpoint is due in the same round as the first step of the seal.
        clock.set(NOW + HOUR);
        disk.faults(|faults| faults.crash_after = Some(crash));
        (0..4).for_each(|_| log.tick());
        assert_eq!(checked(&disk).findings, [], "crash after {crash}");
    }
}
