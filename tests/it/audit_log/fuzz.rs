//! A start on whatever bytes an earlier life may have left: it takes the log or refuses it, and what it takes is sound from there on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::storage::Storage;
use doorward::audit::{Durability, Log, OpenError, Options};

use super::support::{append, intent, open, options, outcome, sound, try_open};
use crate::audit_evidence::fuzz::mutate;

/// Two sealed segments and one that a kill left.
async fn killed() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let log = open(&disk);
    for call in 0..9 {
        let seq = append(&log, &intent(call), Durability::Sync).await.unwrap();
        append(&log, &outcome(call, seq), Durability::Write).await.unwrap();
        if call % 3 == 2 && call < 8 {
            log.rotate();
            (0..8).for_each(|_| log.tick());
        }
    }
    disk.kill();
    drop(log);
    disk
}

/// Changes one of the files, notes or names.
fn meddle(disk: &SimulatedDisk, random: &mut Random) {
    let (files, notes) = (disk.list().unwrap(), disk.note_names());
    let at = random.below((files.len() + notes.len()) as u64) as usize;
    if let Some(name) = files.get(at) {
        let mut bytes = disk.content(name);
        mutate(&mut bytes, random);
        let edges = ["18446744073709551615.jsonl", "00000000000000000000.jsonl", name];
        disk.put(edges[random.below(12).min(2) as usize], &bytes);
    } else {
        let name = &notes[at - files.len()];
        let mut bytes = disk.note(name).unwrap().unwrap();
        mutate(&mut bytes, random);
        let edges = ["seals/18446744073709551615.note", "seals/18446744073709551615.peaks", name];
        disk.put_note(edges[random.below(12).min(2) as usize], &bytes).unwrap();
    }
}

fn start(disk: &SimulatedDisk, accept_damage: bool) -> Result<Log, OpenError> {
    try_open(disk, Options { accept_damage, ..options() }).map(|(log, _)| log)
}

#[tokio::test]
async fn a_start_on_any_bytes_takes_the_log_or_refuses_it() {
    let rounds = std::env::var("DOORWARD_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..rounds {
        let (disk, mut random) = (killed().await, Random(seed));
        meddle(&disk, &mut random);
        let started = catch_unwind(AssertUnwindSafe(|| start(&disk, false))).unwrap_or_else(|_| panic!("seed {seed}: the start panicked"));
        match started {
            Ok(log) => {
                taken += 1;
                drop(log);
            }
            Err(OpenError::Damaged { .. }) => {
                refused += 1;
                let again = catch_unwind(AssertUnwindSafe(|| start(&disk, true))).unwrap_or_else(|_| panic!("seed {seed}: it panicked"));
                drop(again.unwrap_or_else(|error| panic!("seed {seed}: damage was accepted, and: {error}")));
                drop(start(&disk, false).unwrap_or_else(|error| panic!("seed {seed}: after accepted damage: {error}")));
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(taken > rounds / 20 && refused > rounds / 4, "{taken} taken, {refused} refused");
    // What was not meddled with is taken as it is.
    let disk = killed().await;
    drop(start(&disk, false).unwrap());
    assert_eq!(sound(&disk), super::support::NONE);
}
