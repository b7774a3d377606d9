//! A log on a simulated disk, and what must hold of any log.

use std::collections::BTreeMap;
use std::sync::Arc;

use doorward::audit::find::read_all;
use doorward::audit::record::{Record, Stored};
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::Storage;
use doorward::audit::verify::verify;
use doorward::audit::{AppendError, Durability, Kind, Log, OpenError, Opened, Options};
use doorward::clock::Clock;

/// Options for tests: time stands, nothing happens but by `tick`.
pub fn options() -> Options {
    Options {
        clock: Clock::fixed(1_795_255_200_000_000_000),
        has_thread: false,
        reserve_bytes: 0,
        outcome_room_bytes: 1_024,
        space_check_ms: 0,
        ..Options::default()
    }
}

pub fn try_open(disk: &SimulatedDisk, options: Options) -> Result<(Log, Opened), OpenError> {
    Log::open(options, Arc::new(disk.clone()))
}

pub fn open(disk: &SimulatedDisk) -> Log {
    try_open(disk, options()).unwrap().0
}

pub fn intent(call: u64) -> Record<'static> {
    let args = Some(r#"{"path":"notes/a"}"#.into());
    Record {
        call_id: Some(format!("c{call}").into()),
        agent: Some("demo".into()),
        target: Some("demo__write".into()),
        args,
        ..Record::new(Kind::Intent)
    }
}

pub fn outcome(call: u64, intent_seq: u64) -> Record<'static> {
    let outcome = Some("ok".into());
    Record { call_id: Some(format!("c{call}").into()), intent_seq: Some(intent_seq), outcome, ..Record::new(Kind::Outcome) }
}

/// Appends, giving a log without a thread the round of work that it needs.
pub async fn append(log: &Log, record: &Record<'_>, durability: Durability) -> Result<u64, AppendError> {
    let (appended, ()) = tokio::join!(log.append(log.encode(record), durability), async { log.tick() });
    appended.map(|position| position.seq)
}

pub fn records(disk: &SimulatedDisk) -> Vec<Stored> {
    read_all(disk).unwrap()
}

/// The chain verifies, and no intent has more than one end; which intents have none.
pub fn sound(disk: &SimulatedDisk) -> Vec<u64> {
    let report = verify(disk, "main").unwrap();
    assert!(report.is_sound(), "{:#?}", report.findings);
    let mut ends: BTreeMap<u64, u32> = BTreeMap::new();
    for stored in records(disk) {
        match (stored.record.kind, stored.record.intent_seq) {
            (Kind::Intent, _) => assert_eq!(ends.insert(stored.seq, 0), None),
            (Kind::Outcome, Some(intent)) => *ends.get_mut(&intent).expect("an end without an intent") += 1,
            _ => {}
        }
    }
    assert!(ends.values().all(|count| *count <= 1), "two ends: {ends:?}");
    ends.into_iter().filter(|(_, count)| *count == 0).map(|(seq, _)| seq).collect()
}

/// What is in the last segment, line by line.
pub fn last_segment(disk: &SimulatedDisk) -> String {
    disk.list().unwrap().into_iter().rfind(|name| name.ends_with(".jsonl")).unwrap()
}

/// No open intents.
pub const NONE: [u64; 0] = [];
