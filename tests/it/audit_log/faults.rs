//! A disk that is full, stuck or broken.

use std::io::ErrorKind;
use std::task::{Context, Waker};

use doorward::audit::disk::Disk;
use doorward::audit::find::read_all;
use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::storage::Storage;
use doorward::audit::verify::verify;
use doorward::audit::{AppendError, Durability, Kind, Log, OpenError, Options};

use super::support::{NONE, append, intent, open, options, outcome, records, sound, try_open};

fn impatient(disk: &SimulatedDisk) -> Log {
    try_open(disk, Options { deadline_ms: 1, ..options() }).unwrap().0
}

#[tokio::test]
async fn at_every_budget_refused_calls_leave_nothing_and_running_calls_end() {
    for budget in 0..8_192_u64 {
        let disk = SimulatedDisk::new();
        let log = open(&disk);
        let capacity = disk.used() + budget;
        disk.faults(|faults| faults.capacity = Some(capacity));
        let mut running = Vec::new();
        for call in 0..12 {
            match append(&log, &intent(call), Durability::Write).await {
                Ok(seq) => running.push((call, seq)),
                Err(error) => assert_eq!(error, AppendError::NoSpace, "budget {budget}"),
            }
        }
        assert!(disk.content("00000000000000000001.jsonl").ends_with(b"\n"), "budget {budget}: half a line");
        for (call, seq) in running {
            append(&log, &outcome(call, seq), Durability::Write).await.unwrap_or_else(|error| panic!("budget {budget}: {error}"));
        }
        assert_eq!(sound(&disk), NONE, "budget {budget}");
    }
}

#[tokio::test]
async fn a_start_on_a_full_disk_fails_cleanly_at_every_budget() {
    for budget in 0..1_024 {
        let disk = SimulatedDisk::new();
        append(&open(&disk), &intent(1), Durability::Sync).await.unwrap();
        disk.kill();
        let capacity = disk.used() + budget;
        disk.faults(|faults| faults.capacity = Some(capacity));
        let started = try_open(&disk, options()).map(drop);
        assert!(matches!(started, Ok(()) | Err(OpenError::Io { .. })), "budget {budget}");
        disk.faults(|faults| faults.capacity = None);
        let _log = open(&disk);
        assert_eq!(sound(&disk), NONE, "budget {budget}");
    }
}

#[tokio::test]
async fn when_the_disk_lies_about_its_space_a_short_write_leaves_no_half_line() {
    for budget in 0..700 {
        let disk = SimulatedDisk::new();
        // Looked at once, before the space is gone.
        let log = try_open(&disk, Options { space_check_ms: u64::MAX, ..options() }).unwrap().0;
        let seq = append(&log, &intent(1), Durability::Write).await.unwrap();
        let capacity = disk.used() + budget;
        disk.faults(|faults| faults.capacity = Some(capacity));
        log.hand_over(log.encode(&outcome(1, seq))).unwrap();
        let refused = append(&log, &intent(2), Durability::Write).await;
        assert!(disk.content("00000000000000000001.jsonl").ends_with(b"\n"), "budget {budget}");
        disk.faults(|faults| faults.capacity = None);
        log.tick();
        assert_eq!(sound(&disk).len(), usize::from(refused.is_ok()), "budget {budget}: the end that was kept is there");
    }
}

#[tokio::test]
async fn calls_are_taken_again_when_space_returns_and_the_refused_are_counted() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let capacity = disk.used();
    disk.faults(|faults| faults.capacity = Some(capacity));
    assert_eq!(append(&log, &intent(1), Durability::Write).await, Err(AppendError::NoSpace));
    assert!(!log.is_open());
    disk.faults(|faults| faults.capacity = None);
    log.tick();
    assert!(log.is_open());
    append(&log, &intent(2), Durability::Write).await.unwrap();
    let returned = records(&disk).into_iter().find(|stored| stored.record.action.as_deref() == Some("space_returned")).unwrap();
    assert_eq!(returned.record.count, Some(1));
}

#[tokio::test]
async fn a_stuck_sync_ends_at_the_deadline_and_closes_the_gate_until_it_is_over() {
    let disk = SimulatedDisk::new();
    let log = impatient(&disk);
    disk.faults(|faults| faults.hold_syncs = true);
    let mut waiting = Box::pin(log.append(log.encode(&intent(1)), Durability::Sync));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let writer = std::thread::spawn({
        let log = log.clone();
        move || log.tick()
    });
    disk.wait_until_held();
    assert_eq!(waiting.await, Err(AppendError::Deadline));
    assert_eq!(log.append(log.encode(&intent(2)), Durability::Write).await, Err(AppendError::Closed));
    disk.faults(|faults| faults.hold_syncs = false);
    writer.join().unwrap();
    log.tick();
    assert!(log.is_open());
    assert_eq!(sound(&disk), NONE);
    let said: Vec<_> =
        records(&disk).into_iter().skip(1).map(|stored| (stored.record.kind, stored.record.outcome, stored.record.count)).collect();
    assert_eq!(said, [(Kind::Intent, None, None), (Kind::Lifecycle, None, Some(2)), (Kind::Outcome, Some("not_forwarded".into()), None)]);
}

#[tokio::test]
async fn a_stuck_write_holds_one_caller_and_the_others_are_refused_in_time() {
    let disk = SimulatedDisk::new();
    let log = impatient(&disk);
    disk.faults(|faults| faults.hold_writes = true);
    let stuck = {
        let (log, entry) = (log.clone(), log.encode(&intent(1)));
        std::thread::spawn(move || block_on(log.append(entry, Durability::Write)))
    };
    disk.wait_until_held();
    assert_eq!(log.append(log.encode(&intent(2)), Durability::Write).await, Err(AppendError::Deadline));
    assert_eq!(log.append(log.encode(&intent(3)), Durability::Write).await, Err(AppendError::Closed));
    disk.faults(|faults| faults.hold_writes = false);
    let seq = stuck.join().unwrap().unwrap().seq;
    log.tick();
    assert!(log.is_open());
    assert_eq!(sound(&disk), [seq]);
}

#[tokio::test]
async fn the_thread_repairs_the_log_by_itself() {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { has_thread: true, ..options() }).unwrap().0;
    disk.faults(|faults| faults.sync = Some(ErrorKind::Other));
    assert_eq!(log.append(log.encode(&intent(1)), Durability::Sync).await, Err(AppendError::Io(ErrorKind::Other)));
    disk.faults(|faults| faults.sync = None);
    // The test runner's limit is the only clock.
    while !log.is_open() || log.health().running > 0 {
        std::thread::yield_now();
    }
    assert_eq!(sound(&disk), NONE);
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

#[tokio::test]
async fn a_failed_sync_is_never_taken_for_good() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let before = append(&log, &intent(1), Durability::Write).await.unwrap();
    disk.faults(|faults| faults.sync = Some(ErrorKind::Other));
    assert_eq!(append(&log, &intent(2), Durability::Sync).await, Err(AppendError::Io(ErrorKind::Other)));
    assert!(!log.is_open());
    log.tick();
    assert!(!log.is_open(), "the disk still fails");
    disk.faults(|faults| faults.sync = None);
    log.tick();
    assert!(log.is_open());
    // What was promised as durable after the repair is so, although the old file's pages may be gone.
    append(&log, &outcome(1, before), Durability::Sync).await.unwrap();
    disk.power_loss(7);
    assert_eq!(sound(&disk), NONE);
    assert!(disk.list().unwrap().len() >= 2);
}

#[tokio::test]
async fn a_failed_write_refuses_the_call_and_the_log_repairs_itself() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for short in 0..400 {
        disk.faults(|faults| faults.short_write = Some(1 + short));
        let refused = log.append(log.encode(&intent(9)), Durability::Write).await;
        disk.faults(|faults| (faults.write, faults.short_write) = (None, None));
        log.tick();
        assert!(log.is_open());
        let seq = append(&log, &intent(1), Durability::Write).await.unwrap();
        append(&log, &outcome(1, seq), Durability::Write).await.unwrap();
        assert_eq!(sound(&disk).len(), usize::from(refused.is_ok()), "short by {short}");
        if let Ok(position) = refused {
            append(&log, &outcome(9, position.seq), Durability::Write).await.unwrap();
        }
    }
}

#[tokio::test]
async fn half_a_line_that_cannot_be_taken_back_is_not_in_the_repaired_log() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    disk.faults(|faults| (faults.short_write, faults.truncate) = (Some(40), Some(ErrorKind::Other)));
    assert!(log.append(log.encode(&intent(1)), Durability::Write).await.is_err());
    disk.faults(|faults| *faults = Default::default());
    log.tick();
    let seq = append(&log, &intent(2), Durability::Sync).await.unwrap();
    assert_eq!(sound(&disk), [seq]);
}

#[tokio::test]
async fn the_end_of_a_call_that_could_not_be_written_is_written_after_the_repair() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let seq = append(&log, &intent(1), Durability::Write).await.unwrap();
    disk.faults(|faults| faults.write = Some(ErrorKind::Other));
    assert!(append(&log, &outcome(1, seq), Durability::Write).await.is_err());
    disk.faults(|faults| faults.write = None);
    log.tick();
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn any_order_of_faults_keeps_the_promise() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let disk = SimulatedDisk::new();
        let log = open(&disk);
        let mut running = Vec::new();
        for call in 0..30 {
            disk.faults(|faults| {
                faults.write = (random.below(8) == 0).then_some(ErrorKind::Other);
                faults.sync = (random.below(6) == 0).then_some(ErrorKind::Other);
                faults.truncate = (random.below(8) == 0).then_some(ErrorKind::Other);
                faults.short_write = (random.below(10) == 0).then(|| random.below(500) as usize + 1);
            });
            let durability = if random.below(2) == 0 { Durability::Write } else { Durability::Sync };
            running.extend(append(&log, &intent(call), durability).await.map(|seq| (call, seq)));
            if let Some((call, seq)) = running.pop().filter(|_| random.below(2) == 0) {
                let _kept = append(&log, &outcome(call, seq), durability).await;
            }
        }
        disk.faults(|faults| *faults = Default::default());
        log.tick();
        log.tick();
        sound(&disk);
        disk.power_loss(seed);
        drop(log);
        let _log = open(&disk);
        assert_eq!(sound(&disk), NONE, "seed {seed}");
    }
}

/// A log on a real disk whose present segment somebody changes between two calls: what the next calls are told, what the log's own record
/// of it says, and what `verify` says afterwards.
async fn meddled_with(meddle: impl FnOnce(&std::path::Path)) -> (Vec<Result<u64, AppendError>>, String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(Disk::open(dir.path(), &dir.path().join("keys"), "main").unwrap());
    let log = Log::open(options(), disk.clone()).unwrap().0;
    let first = append(&log, &intent(1), Durability::Write).await.unwrap();
    log.append(log.encode(&outcome(1, first)), Durability::Write).await.unwrap();
    meddle(&dir.path().join("main/segments/00000000000000000001.jsonl"));
    let mut told = Vec::new();
    for call in 2..5 {
        told.push(log.append(log.encode(&intent(call)), Durability::Write).await.map(|place| place.seq));
        log.tick();
    }
    let records = read_all(&*disk).unwrap();
    let note = records.iter().find_map(|stored| stored.record.note.clone()).unwrap_or_default().into_owned();
    let report = verify(&*disk, "main").unwrap();
    (told, note, report.findings.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn a_log_whose_file_is_taken_away_refuses_and_goes_on_in_another_that_says_so() {
    for replaced in [false, true] {
        let (told, note, findings) = meddled_with(|file| {
            std::fs::rename(file, file.with_extension("1")).unwrap();
            if replaced {
                std::fs::copy(file.with_extension("1"), file).unwrap();
            }
        })
        .await;
        assert_eq!(told, [Err(AppendError::Io(ErrorKind::NotFound)), Ok(5), Ok(6)], "{replaced}");
        assert!(note.contains("removed, replaced or changed by somebody else; it held 3 records, from record 1 on"), "{note}");
        // A copy is as good as the file.
        let missing = "main record 1 (00000000000000000004.jsonl:1): records 1 to 3 are missing: record 4 stands here";
        assert_eq!(findings, if replaced { Vec::new() } else { vec![missing.to_owned()] });
    }
}

#[tokio::test]
async fn a_log_whose_file_is_cut_or_written_to_by_others_refuses_and_goes_on_in_another() {
    let cut = |file: &std::path::Path| std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(20).unwrap();
    let (told, _, findings) = meddled_with(cut).await;
    assert_eq!(told, [Err(AppendError::Io(ErrorKind::NotFound)), Ok(5), Ok(6)]);
    assert!(findings[1].contains("records 1 to 3 are missing: record 4 stands here"), "{findings:?}");
    let written = |file: &std::path::Path| {
        std::io::Write::write_all(&mut std::fs::OpenOptions::new().append(true).open(file).unwrap(), b"{}\n").unwrap()
    };
    let (told, _, findings) = meddled_with(written).await;
    assert_eq!(told, [Err(AppendError::Io(ErrorKind::NotFound)), Ok(5), Ok(6)]);
    assert!(findings[0].contains("the line is not a record"), "{findings:?}");
}
