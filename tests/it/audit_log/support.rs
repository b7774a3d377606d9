//! A log on a simulated disk, and what must hold of any log.

use std::collections::BTreeMap;

use doorward::audit::chain::{Chain, Line, leaf};
use doorward::audit::checkpoint::Checkpoint;
use doorward::audit::find::read_all;
use doorward::audit::note::{Note, VerifyingKey};
use doorward::audit::record::{Record, Stored};
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::storage::{CHECKPOINT, Storage};
use doorward::audit::tree::{Hash, Tree};
use doorward::audit::verify::{Asked, Report, verify, verify_all};
use doorward::audit::{AppendError, Durability, Kind, Log, OpenError, Opened, Options};
use doorward::clock::Clock;

/// When tests begin, in nanoseconds since 1970.
pub const NOW: i64 = 1_795_255_200_000_000_000;

/// Options for tests: time stands, nothing happens but by `tick`.
pub fn options() -> Options {
    Options {
        clock: Clock::fixed(NOW),
        has_thread: false,
        reserve_bytes: 0,
        outcome_room_bytes: 1_024,
        space_check_ms: 0,
        ..Options::default()
    }
}

pub fn try_open(disk: &SimulatedDisk, options: Options) -> Result<(Log, Opened), OpenError> {
    Log::open(options, disk.process())
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

/// Every note is signed by the key that the first record of its segment names, its root is that of the records, and a seal names the chain and
/// the key with which the next segment goes on. The newest checkpoint.
pub fn vouched(disk: &SimulatedDisk) -> Option<Checkpoint> {
    let records = records(disk);
    let leaves: BTreeMap<u64, (Hash, Chain)> = records
        .iter()
        .map(|stored| {
            let line = Line::split(stored.line.as_bytes()).unwrap();
            (stored.seq, (leaf(line.open_body), line.chain))
        })
        .collect();
    let key = |seq: u64| {
        let at = records.binary_search_by_key(&seq, |stored| stored.seq).ok()?;
        records[at].record.log_key.as_ref().map(|key| key.parse::<VerifyingKey>().unwrap())
    };
    let read = |name: &String| {
        let text = String::from_utf8(disk.note(name).unwrap().unwrap()).unwrap();
        let checkpoint = Checkpoint::parse(Note::parse(&text).unwrap().unchecked_text()).unwrap();
        (name.clone(), text, checkpoint)
    };
    let newest = disk.note(CHECKPOINT).unwrap().map(|_| read(&CHECKPOINT.to_owned()).2);
    // What is signed of a tree before the newest speaks of records that may be lost.
    let first = newest.as_ref().map_or(1, |newest| newest.first);
    let notes: Vec<_> = disk.note_names().iter().filter(|name| name.ends_with(".note")).map(read).collect();
    let notes: BTreeMap<(u64, String), _> = notes
        .into_iter()
        .filter(|(_, _, checkpoint)| checkpoint.segment >= first)
        .map(|(name, text, checkpoint)| ((checkpoint.size, name), (text, checkpoint)))
        .collect();
    let mut tree = Tree::new();
    for ((size, name), (text, checkpoint)) in &notes {
        let signed_by = key(checkpoint.segment).unwrap_or_else(|| panic!("{name}: no key\n{text}"));
        Note::parse(text).unwrap().text(&signed_by).unwrap_or_else(|error| panic!("{name}: {error}, {signed_by}\n{text}"));
        (first + tree.size()..first + size).for_each(|seq| tree.push(leaves[&seq].0));
        assert_eq!((tree.root(), first), (checkpoint.root, checkpoint.first), "{name}");
        if let Some(next) = &checkpoint.next {
            assert!(key(checkpoint.last().unwrap() + 1).is_none_or(|key| key == *next), "{name}: another key follows");
        }
    }
    newest
}

/// The chain verifies, what is signed is true, and no intent has more than one end; which intents have none.
pub fn sound(disk: &SimulatedDisk) -> Vec<u64> {
    vouched(disk);
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

/// What `audit verify` says of the log as it lies there, notes and all.
pub fn checked(disk: &SimulatedDisk) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("main");
    for folder in ["segments", "seals"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    for name in disk.list().unwrap() {
        std::fs::write(home.join("segments").join(&name), disk.content(&name)).unwrap();
    }
    for name in disk.note_names() {
        std::fs::write(home.join(&name), disk.note(&name).unwrap().unwrap()).unwrap();
    }
    verify_all(dir.path(), &Asked::default()).unwrap().remove(0)
}
