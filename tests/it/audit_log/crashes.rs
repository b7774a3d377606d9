//! Seeded schedules: load, crash, recovery, and what must hold after it.

use std::collections::BTreeSet;

use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::storage::Storage;
use doorward::audit::{Durability, Log, OpenError, Options};

use super::support::{NONE, append, intent, last_segment, open, options, outcome, records, sound, try_open};

/// What callers were told is stored.
#[derive(Default)]
struct Told {
    written: BTreeSet<u64>,
    synced: BTreeSet<u64>,
}

/// Some calls: intents of both durabilities, ends handed over, waited for, or not yet come.
async fn load(log: &Log, random: &mut Random, told: &mut Told) {
    let mut running = Vec::new();
    for call in 0..random.below(24) {
        let durability = if random.below(3) == 0 { Durability::Sync } else { Durability::Write };
        let seq = append_by(log, &intent(call), durability, random, told).await;
        running.push((call, seq));
        if random.below(3) != 0 {
            let (call, intent_seq) = running.swap_remove(random.below(running.len() as u64) as usize);
            let end = outcome(call, intent_seq);
            match random.below(3) {
                0 => log.hand_over(log.encode(&end)).unwrap(),
                1 => drop(append_by(log, &end, Durability::Write, random, told).await),
                _ => drop(append_by(log, &end, Durability::Sync, random, told).await),
            }
        }
        if random.below(16) == 0 {
            log.rotate();
        }
    }
}

async fn append_by(log: &Log, record: &doorward::audit::Record<'_>, durability: Durability, random: &mut Random, told: &mut Told) -> u64 {
    let seq = match durability {
        Durability::Write if random.below(2) == 0 => log.append(log.encode(record), durability).await.unwrap().seq,
        _ => append(log, record, durability).await.unwrap(),
    };
    told.written.insert(seq);
    if durability == Durability::Sync {
        told.synced.insert(seq);
    }
    seq
}

async fn schedule(seed: u64) {
    let disk = SimulatedDisk::new();
    let mut random = Random(seed);
    let mut told = Told::default();
    for life in 0..1 + random.below(3) {
        let segment_max_bytes = 600 + random.below(4_000);
        let log = try_open(&disk, Options { segment_max_bytes, ..options() })
            .unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"))
            .0;
        load(&log, &mut random, &mut told).await;
        if random.below(2) == 0 {
            disk.kill();
        } else {
            disk.power_loss(random.below(u64::MAX));
            told.written.clone_from(&told.synced);
        }
        drop(log);
    }
    let _recovered = try_open(&disk, options()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let there: BTreeSet<u64> = records(&disk).iter().map(|stored| stored.seq).collect();
    assert!(told.synced.is_subset(&there), "seed {seed}: a synced record is lost");
    assert!(told.written.is_subset(&there), "seed {seed}: a written record is lost by a kill");
    assert_eq!(sound(&disk), NONE, "seed {seed}: an intent without an end");
}

#[tokio::test]
async fn two_thousand_crashes_lose_nothing_that_was_acknowledged() {
    for seed in 0..2_000 {
        schedule(seed).await;
    }
}

#[tokio::test]
async fn a_torn_tail_is_kept_aside_and_recorded_with_its_hash() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    append(&log, &intent(1), Durability::Sync).await.unwrap();
    disk.kill();
    let name = last_segment(&disk);
    disk.put(&name, &[&disk.content(&name)[..], b"{\"half\":"].concat());
    let (_log, opened) = try_open(&disk, options()).unwrap();
    assert_eq!((opened.torn[0].bytes, opened.unresolved.len()), (8, 1));
    assert_eq!(disk.content(&opened.torn[0].file), b"{\"half\":");
    let record = &records(&disk)[3].record;
    assert_eq!((record.action.as_deref(), record.bytes), (Some("torn_tail"), Some(8)));
    assert_eq!(record.sha256.as_deref(), Some(opened.torn[0].sha256.as_str()));
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn a_call_open_for_many_segments_is_found_by_the_next_start() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    let old = append(&log, &intent(1), Durability::Sync).await.unwrap();
    for call in 2..6 {
        log.rotate();
        let seq = append(&log, &intent(call), Durability::Sync).await.unwrap();
        append(&log, &outcome(call, seq), Durability::Sync).await.unwrap();
    }
    disk.kill();
    let (_log, opened) = try_open(&disk, options()).unwrap();
    assert_eq!(opened.unresolved.iter().map(|intent| intent.seq).collect::<Vec<_>>(), [old]);
    let end = records(&disk).pop().unwrap().record;
    assert_eq!((end.intent_seq, end.call_id.as_deref(), end.target.as_deref()), (Some(old), Some("c1"), Some("demo__write")));
    assert_eq!((end.outcome.as_deref(), end.effect.as_deref()), (Some("unresolved"), Some("unknown")));
}

#[tokio::test]
async fn a_crash_during_recovery_is_recovered_from() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for call in 0..5 {
        append(&log, &intent(call), Durability::Sync).await.unwrap();
    }
    for seed in 0..40 {
        disk.power_loss(seed);
        // Sooner or later in what the start does, and in its stop.
        disk.faults(|faults| faults.crash_after = Some(seed / 2));
        drop(try_open(&disk, options()));
    }
    disk.power_loss(40);
    let _log = open(&disk);
    assert_eq!(sound(&disk), NONE);
}

#[tokio::test]
async fn damage_before_the_tail_refuses_to_start_unless_it_is_accepted_and_recorded() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for call in 0..5 {
        append(&log, &intent(call), Durability::Sync).await.unwrap();
    }
    disk.kill();
    let name = last_segment(&disk);
    disk.put(&name, String::from_utf8(disk.content(&name)).unwrap().replacen("\"c2\"", "\"c9\"", 1).as_bytes());
    let Err(OpenError::Damaged { place, .. }) = try_open(&disk, options()) else { panic!("a changed record was not noticed") };
    assert_eq!(place, format!("{name}:4"));
    let (_log, opened) = try_open(&disk, Options { accept_damage: true, ..options() }).unwrap();
    assert_eq!((opened.damage.len(), opened.unresolved.len()), (1, 5));
    assert!(records(&disk).iter().any(|stored| stored.record.action.as_deref() == Some("accepted_damage")));
    let report = doorward::audit::verify::verify(&disk, "main").unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.seq).collect::<Vec<_>>(), [Some(4)]);
}

#[tokio::test]
async fn a_missing_segment_in_between_refuses_to_start() {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    append(&log, &intent(1), Durability::Sync).await.unwrap();
    for _ in 0..3 {
        log.rotate();
        log.tick();
    }
    disk.kill();
    disk.remove("00000000000000000004.jsonl").unwrap();
    assert!(matches!(try_open(&disk, options()), Err(OpenError::Damaged { .. })));
}
