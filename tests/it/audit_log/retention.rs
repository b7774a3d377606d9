//! Segments past their time go, with a record, and the log goes on.

use doorward::audit::chain::Chain;
use doorward::audit::retention::{Expired, PruneError};
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::{Storage, peaks_name, seal_name};
use doorward::audit::{Durability, Kind, Log, OpenError, Options, Record};
use doorward::clock::Clock;
use tokio::sync::watch;

use super::support::{NOW, append, checked, intent, open, options, outcome, records, try_open};

const DAY: i64 = 86_400;
const SECOND: i64 = 1_000_000_000;

/// A log with a segment for each of these days, two calls in each.
async fn of_days(disk: &SimulatedDisk, days: i64) -> (Log, Clock) {
    let clock = Clock::fixed(NOW);
    let (log, _) = try_open(disk, Options { clock: clock.clone(), segment_max_age_ms: u64::MAX, ..options() }).unwrap();
    for day in 0..days {
        clock.set(NOW + day * DAY * SECOND);
        for call in 0..2_u64 {
            let seq = append(&log, &intent(call), Durability::Sync).await.unwrap();
            append(&log, &outcome(call, seq), Durability::Write).await.unwrap();
        }
        log.rotate();
        for _ in 0..8 {
            log.tick();
        }
    }
    (log, clock)
}

/// Prunes, while the log without a thread gets its rounds, and an anchor holds so many records for ever.
async fn prune(log: &Log, before: i64, anchored: u64) -> Result<Vec<Expired>, PruneError> {
    prune_while(|| true, log, before, anchored).await
}

/// The same, with rounds only as long as this holds.
async fn prune_while(is_served: impl Fn() -> bool, log: &Log, before: i64, anchored: u64) -> Result<Vec<Expired>, PruneError> {
    let (_anchor, mut anchored) = watch::channel(anchored);
    let rounds = async {
        loop {
            if is_served() {
                log.tick();
            }
            // Passes only where the clock stands still: then a wait comes to its end.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        biased;
        gone = log.prune(before, &mut anchored) => gone,
        () = rounds => unreachable!("rounds do not end"),
    }
}

fn segments(disk: &SimulatedDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(".jsonl")).collect()
}

/// How many records say that a segment is to go.
fn said(disk: &SimulatedDisk) -> usize {
    records(disk).iter().filter(|stored| stored.record.action.as_deref() == Some("prune")).count()
}

fn at(day: i64) -> i64 {
    NOW / SECOND + day * DAY
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_time_and_anchored_goes_with_a_record_and_leaves_its_seal() {
    let disk = SimulatedDisk::new();
    let (log, _) = of_days(&disk, 6).await;
    let before = segments(&disk);

    let gone = prune(&log, at(3), u64::MAX).await.unwrap();

    assert_eq!(gone.iter().map(|segment| segment.name.clone()).collect::<Vec<_>>(), before[..3]);
    assert_eq!(segments(&disk), before[3..]);
    for segment in &gone {
        assert!(disk.note(&seal_name(segment.first)).unwrap().is_some() && disk.note(&peaks_name(segment.first)).unwrap().is_some());
    }
    let said: Vec<_> = records(&disk).into_iter().filter(|stored| stored.record.action.as_deref() == Some("prune")).collect();
    let named = |at: usize| (said[at].record.subject.as_deref().unwrap().to_owned(), said[at].record.count.unwrap());
    assert_eq!(said.len(), 3);
    assert_eq!(named(0), (before[0].clone(), gone[0].last));
    assert_eq!(named(2), (before[2].clone(), gone[2].last - gone[1].last));
    let report = checked(&disk);
    assert_eq!((report.findings, report.pruned), (vec![], Some(gone[2].last)));
    log.close("done").await.unwrap();
    open(&disk).close("done").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_no_anchor_covers_stays_however_old_it_is() {
    let disk = SimulatedDisk::new();
    let (log, _) = of_days(&disk, 6).await;
    let names = segments(&disk);
    let second: u64 = names[1].strip_suffix(".jsonl").unwrap().parse().unwrap();
    assert!(prune(&log, at(1_000), 0).await.unwrap().is_empty());
    assert!(prune(&log, at(1_000), second - 2).await.unwrap().is_empty());
    // The first may go; but nothing says at the anchor that it is to.
    assert!(matches!(prune(&log, at(1_000), second - 1).await, Err(PruneError::Unanchored(_))));
    assert_eq!(segments(&disk), names);
    assert_eq!(said(&disk), 1);
    assert!(matches!(prune(&log, at(1_000), second - 1).await, Err(PruneError::Unanchored(_))));
    assert_eq!(said(&disk), 1, "what was said once is not said again");
    prune(&log, at(1_000), u64::MAX).await.unwrap();
    assert_eq!(segments(&disk), names[names.len() - 2..]);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_before_the_record_of_it_is_signed() {
    let disk = SimulatedDisk::new();
    let (log, _) = of_days(&disk, 5).await;
    let before = segments(&disk);
    // The round that stores the record is the last one.
    let unsigned = prune_while(|| said(&disk) == 0, &log, at(1), u64::MAX).await;
    assert!(matches!(unsigned, Err(PruneError::Unanchored(_))), "{unsigned:?}");
    assert_eq!((said(&disk), segments(&disk)), (1, before.clone()));
    disk.faults(|faults| faults.write = Some(std::io::ErrorKind::Other));
    assert!(prune(&log, at(2), u64::MAX).await.is_err(), "not even recorded");
    disk.faults(|faults| faults.write = None);
    assert_eq!(segments(&disk), before);
    // Whenever the process ends: what is gone is by a record that is signed.
    for steps in 0..12 {
        let disk = SimulatedDisk::new();
        let (log, _) = of_days(&disk, 5).await;
        disk.faults(|faults| faults.crash_after = Some(steps));
        let _cut_off = prune(&log, at(2), u64::MAX).await;
        assert_eq!(checked(&disk).findings, [], "after {steps} steps");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_refuses_a_log_whose_front_is_gone_by_a_record_that_nothing_signed_covers() {
    let disk = SimulatedDisk::new();
    let (log, _) = of_days(&disk, 5).await;
    let names = segments(&disk);
    // A kill; then somebody with the disk and not the key puts a record behind the last and takes the front away.
    disk.kill();
    drop(log);
    let last = names.last().unwrap();
    let mut lines = disk.content(last);
    let end = records(&disk).last().unwrap().seq;
    let subject = Some(names[0].as_str().into());
    let record = Record { action: Some("prune".into()), subject, ..Record::new(Kind::Lifecycle) };
    let text = String::from_utf8(lines.clone()).unwrap();
    let chain = Chain::from_hex(text.trim_end().rsplit_once("\"chain\":\"").unwrap().1.strip_suffix("\"}").unwrap()).unwrap();
    chain.seal(&record.encode("main", Clock::fixed(NOW).now()), end + 1, &mut lines);
    disk.put(last, &lines);
    disk.remove(&names[0]).unwrap();

    let Err(OpenError::Damaged { place, what, .. }) = try_open(&disk, options()) else { panic!("it was signed, and the theft with it") };

    assert_eq!(place, names[0]);
    assert!(what.contains(&format!("no checkpoint covers record {}", end + 1)), "{what}");
}

#[tokio::test(start_paused = true)]
async fn the_two_newest_segments_and_those_of_an_open_call_stay() {
    let disk = SimulatedDisk::new();
    let (log, clock) = of_days(&disk, 2).await;
    let open_call = append(&log, &intent(9), Durability::Sync).await.unwrap();
    for day in 2..6 {
        clock.set(NOW + day * DAY * SECOND);
        log.rotate();
        for _ in 0..8 {
            log.tick();
        }
    }
    let gone = prune(&log, at(1_000), u64::MAX).await.unwrap();
    assert!(gone.iter().all(|segment| segment.last < open_call) && !gone.is_empty(), "{gone:?}");
    append(&log, &outcome(9, open_call), Durability::Sync).await.unwrap();
    prune(&log, at(1_000), u64::MAX).await.unwrap();
    assert_eq!(segments(&disk).len(), 2);
    log.close("done").await.unwrap();
    open(&disk).close("done").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_record_and_the_removal_removes_later() {
    let disk = SimulatedDisk::new();
    let (log, _) = of_days(&disk, 5).await;
    let before = segments(&disk);
    disk.faults(|faults| faults.crash_after = Some(2));
    let _cut_off = prune(&log, at(2), u64::MAX).await;
    drop(log);
    disk.power_loss(7);
    let (log, _) = try_open(&disk, options()).unwrap();
    let gone = prune(&log, at(2), u64::MAX).await.unwrap();
    assert!(segments(&disk).iter().all(|name| !before[..2].contains(name)), "{gone:?}");
    log.close("done").await.unwrap();
}
