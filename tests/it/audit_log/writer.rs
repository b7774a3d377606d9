use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::Storage;
use doorward::audit::{AppendError, Durability, Kind, Log, OpenError, Options, Position};
use doorward::clock::Clock;

use super::support::{NONE, NOW, append, intent, last_segment, open, options, outcome, records, sound, try_open, vouched};

#[tokio::test]
async fn what_is_appended_is_there_in_order_and_the_chain_holds() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let first = append(&log, &intent(1), Durability::Write).await.unwrap();
    let second = append(&log, &intent(2), Durability::Sync).await.unwrap();
    log.hand_over(log.encode(&outcome(1, first))).unwrap();
    append(&log, &outcome(2, second), Durability::Sync).await.unwrap();
    let kinds: Vec<_> = records(&disk).iter().map(|stored| stored.record.kind).collect();
    assert_eq!(kinds, [Kind::Lifecycle, Kind::Intent, Kind::Intent, Kind::Outcome, Kind::Outcome]);
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn one_sync_serves_all_that_wait() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let before = disk.counts();
    let mut waiting: Vec<_> = (0..64).map(|call| Box::pin(log.append(log.encode(&intent(call)), Durability::Sync))).collect();
    for append in &mut waiting {
        assert!(append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    log.tick();
    for append in waiting {
        append.await.unwrap();
    }
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
}

/// A log whose newest sync has made a checkpoint due, and a caller who came during that sync: who waits for the next, beside which it is stored.
async fn with_note_and_sync_held(disk: &SimulatedDisk) -> (Log, tokio::task::JoinHandle<Result<Position, AppendError>>) {
    let clock = Clock::fixed(NOW);
    // Syncs are held for as long as the test takes, however busy the machine is.
    let log = try_open(disk, Options { has_thread: true, clock: clock.clone(), deadline_ms: 600_000, ..options() }).unwrap().0;
    // The seal of what was before and the first checkpoint are done with.
    log.append(log.encode(&intent(0)), Durability::Sync).await.unwrap();
    until(async || log.health().covered > 0).await;
    disk.faults(|faults| faults.hold_syncs = true);
    clock.set(NOW + 20_000_000_000);
    let caller = |call: u64| {
        let log = log.clone();
        tokio::spawn(async move { log.append(log.encode(&intent(call)), Durability::Sync).await })
    };
    let first = caller(1);
    held(disk, 1).await;
    let later = caller(2);
    let joined = async || log.health().waiting > 0;
    until(joined).await;
    disk.let_one_through();
    first.await.unwrap().unwrap();
    held(disk, 2).await;
    (log, later)
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), so).await.expect("it comes to that");
}

async fn held(disk: &SimulatedDisk, count: u64) {
    until(async || disk.counts().held == count).await;
}

#[tokio::test]
async fn a_checkpoint_is_stored_beside_the_sync_that_somebody_waits_for() {
    let disk = SimulatedDisk::new();
    let (log, later) = with_note_and_sync_held(&disk).await;
    let before = vouched(&disk).unwrap().size;

    disk.let_all_through();

    later.await.unwrap().unwrap();
    until(async || log.health().covered >= 3).await;
    assert_eq!((before, vouched(&disk).unwrap().size), (1, 3));
    disk.faults(|faults| faults.hold_syncs = false);
    drop(log);
}

#[tokio::test]
async fn whichever_of_the_two_a_power_loss_leaves_the_next_start_goes_on() {
    for seed in 0..24 {
        let disk = SimulatedDisk::new();
        let (log, later) = with_note_and_sync_held(&disk).await;
        if seed % 3 > 0 {
            disk.let_one_through();
        }
        disk.power_loss(seed);
        drop((log, later));

        let log = open(&disk);

        assert!(records(&disk).len() >= 3, "what was acknowledged is there");
        log.close("done").await.unwrap();
        sound(&disk);
        vouched(&disk).unwrap();
    }
}

#[tokio::test]
async fn what_comes_during_a_sync_for_many_is_written_meanwhile_and_told_after_the_next() {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { has_thread: true, ..options() }).unwrap().0;
    disk.faults(|faults| faults.hold_syncs = true);
    let join = |calls: std::ops::Range<u64>| -> Vec<_> {
        let mut waiting: Vec<_> = calls.map(|call| Box::pin(log.append(log.encode(&intent(call)), Durability::Sync))).collect();
        for append in &mut waiting {
            assert!(append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        waiting
    };
    let alone = join(0..1);
    disk.wait_until_held();
    let mut many = join(1..41);
    disk.let_one_through();
    disk.wait_until_held();
    let mut later = join(41..81);
    // The segment's first record, the first caller's, those that the sync is for, and most of the others.
    let written = async {
        while log.health().records < 1 + 1 + 40 + 25 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), written).await.expect("written while the sync is held");
    for append in many.iter_mut().chain(&mut later) {
        assert!(append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    disk.let_one_through();
    for append in alone.into_iter().chain(many) {
        append.await.unwrap();
    }
    disk.wait_until_held();
    for append in &mut later {
        assert!(append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "told before its own sync");
    }
    disk.faults(|faults| faults.hold_syncs = false);
    for append in later {
        append.await.unwrap();
    }
    drop(log);
}

#[tokio::test]
async fn a_handed_over_record_rides_on_the_next_append() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let seq = append(&log, &intent(1), Durability::Write).await.unwrap();
    let before = disk.counts().writes;
    log.hand_over(log.encode(&outcome(1, seq))).unwrap();
    log.append(log.encode(&intent(2)), Durability::Write).await.unwrap();
    assert_eq!(disk.counts().writes - before, 1);
    assert_eq!(sound(&disk), [seq + 2]);
}

#[tokio::test]
async fn calls_that_are_ready_together_share_one_write_once_others_are_under_way() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for call in 0..3 {
        append(&log, &intent(call), Durability::Write).await.unwrap();
    }
    let before = disk.counts().writes;
    let appends: Vec<_> = (3..11)
        .map(|call| {
            let log = log.clone();
            tokio::spawn(async move { log.append(log.encode(&intent(call)), Durability::Write).await.unwrap().seq })
        })
        .collect();
    let mut places = Vec::new();
    for append in appends {
        places.push(append.await.unwrap());
    }
    assert_eq!(disk.counts().writes - before, 1);
    assert_eq!(places, (5..13).collect::<Vec<_>>());
    assert_eq!(records(&disk).len(), 12);
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_shared_write_leaves_no_intent_at_all() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for call in 0..3 {
        append(&log, &intent(call), Durability::Write).await.unwrap();
    }
    {
        let mut unheard = pin!(log.append(log.encode(&intent(3)), Durability::Write));
        assert!(unheard.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let seq = append(&log, &intent(4), Durability::Write).await.unwrap();
    assert_eq!(sound(&disk), [2, 3, 4, seq]);
    assert_eq!(records(&disk).len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_at_once_get_one_place_each_and_one_chain() {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { has_thread: true, segment_max_bytes: 8_192, ..options() }).unwrap().0;
    let callers: Vec<_> = (0..16_u64)
        .map(|caller| {
            let log = log.clone();
            tokio::spawn(async move {
                for call in 0..50 {
                    let durability = if (caller + call) % 5 == 0 { Durability::Sync } else { Durability::Write };
                    let seq = log.append(log.encode(&intent(call)), durability).await.unwrap().seq;
                    log.hand_over(log.encode(&outcome(call, seq))).unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    log.close("done").await.unwrap();
    assert_eq!(sound(&disk), NONE);
    assert_eq!(records(&disk).iter().filter(|stored| stored.record.kind == Kind::Outcome).count(), 800);
    assert!(disk.list().unwrap().len() > 10);
}

#[tokio::test]
async fn a_full_segment_is_followed_by_the_next_and_the_chain_runs_on() {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { segment_max_bytes: 1_500, ..options() }).unwrap().0;
    for call in 0..30 {
        let seq = append(&log, &intent(call), Durability::Write).await.unwrap();
        append(&log, &outcome(call, seq), Durability::Write).await.unwrap();
    }
    let names = disk.list().unwrap();
    assert!(names.len() > 5, "{names:?}");
    assert_eq!(names[0], "00000000000000000001.jsonl");
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn rotation_on_request_begins_a_segment_that_names_the_oldest_open_intent() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let seq = append(&log, &intent(1), Durability::Write).await.unwrap();
    log.rotate();
    log.tick();
    assert_eq!(last_segment(&disk), "00000000000000000003.jsonl");
    assert_eq!(records(&disk)[2].record.open_from, Some(seq));
}

#[tokio::test]
async fn a_second_starter_is_refused() {
    let disk = SimulatedDisk::new();
    let first = open(&disk);
    assert!(matches!(try_open(&disk, options()), Err(OpenError::InUse { .. })));
    drop(first);
    assert!(try_open(&disk, options()).is_ok());
}

#[tokio::test]
async fn a_caller_that_leaves_before_it_is_told_leaves_no_open_intent() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    {
        let mut unheard = pin!(log.append(log.encode(&intent(1)), Durability::Sync));
        assert!(matches!(unheard.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        // Told, but dropped before it looked.
        log.tick();
    }
    log.tick();
    assert_eq!(sound(&disk), NONE);
    assert_eq!(records(&disk)[2].record.outcome.as_deref(), Some("not_forwarded"));
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_write_leaves_no_intent_at_all() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    {
        let mut unheard = pin!(log.append(log.encode(&intent(1)), Durability::Sync));
        assert!(unheard.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    log.tick();
    assert_eq!(records(&disk).len(), 1);
}

#[tokio::test]
async fn a_stop_is_recorded_and_gives_the_origin_back() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let clone = log.clone();
    log.close("told to").await.unwrap();
    assert_eq!(records(&disk)[1].record.action.as_deref(), Some("stop"));
    assert_eq!(clone.append(clone.encode(&intent(1)), Durability::Write).await, Err(AppendError::Closed));
    assert!(try_open(&disk, options()).is_ok());
}

#[tokio::test]
async fn the_thread_flushes_what_was_handed_over() {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { has_thread: true, ..options() }).unwrap().0;
    log.hand_over(log.encode(&outcome(1, 9))).unwrap();
    while log.health().records < 2 {
        std::thread::yield_now();
    }
    assert_eq!(records(&disk).len(), 2);
}

#[tokio::test]
async fn the_same_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let real = Options { has_thread: true, ..Options { reserve_bytes: 0, ..Options::default() } };
    let keys = dir.path().join("keys");
    let (log, _) = Log::open_first_free(&real, dir.path(), &keys, "local").unwrap();
    let (other, _) = Log::open_first_free(&real, dir.path(), &keys, "local").unwrap();
    assert_eq!((log.origin(), other.origin()), ("local-1", "local-2"));
    let seq = log.append(log.encode(&intent(1)), Durability::Sync).await.unwrap().seq;
    log.append(log.encode(&outcome(1, seq)), Durability::Write).await.unwrap();
    log.close("done").await.unwrap();
    let disk = Arc::new(doorward::audit::disk::Disk::existing(dir.path(), "local-1"));
    let report = doorward::audit::verify::verify(&*disk, "local-1").unwrap();
    assert!(report.is_sound() && !report.is_live);
    assert_eq!(report.records, 4);
}
