//! Payloads on a simulated disk: crashes between any two changes, a full disk, a disk that hangs, and who can open what.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::super::chain::Line;
use super::super::find::read_all;
use super::super::log::{AppendError, Durability, Log, Options};
use super::super::record::{Kind, Record, Stored};
use super::super::simulated::{Random, SimulatedDisk};
use super::super::storage::Storage;
use super::super::verify::{Asked, Report, verify, verify_all};
use super::*;
use crate::clock::Clock;
use crate::config::Openers;

/// 2026-11-21T10:00:00Z.
const NOW: i64 = 1_795_255_200_000_000_000;
const PLAIN: &[u8] = br#"{"arguments":{"text":"canary"}}"#;

/// People with a key each.
struct People(Vec<PersonKey>);

impl People {
    fn new(count: usize) -> Self {
        Self((0..count).map(|at| PersonKey::generate(&format!("{at}.key")).unwrap()).collect())
    }

    fn payloads(&self, quorum: usize) -> Arc<Payloads> {
        let people = self.0.iter().enumerate().map(|(at, person)| (format!("p{at}"), person.public())).collect();
        Arc::new(Payloads::new(Openers { people, quorum, max_bytes: 1 << 20 }).unwrap())
    }

    fn keyring(&self, which: &[usize]) -> Keyring {
        let copy = |at: &usize| PersonKey::parse(&self.0[*at].file, &self.0[*at].text("p")).unwrap();
        Keyring { keys: which.iter().map(copy).collect(), shares: Vec::new() }
    }
}

fn open(disk: &SimulatedDisk) -> Log {
    let options = Options {
        clock: Clock::fixed(NOW),
        has_thread: false,
        reserve_bytes: 0,
        outcome_room_bytes: 64,
        deadline_ms: 50,
        ..Options::default()
    };
    Log::open(Options { space_check_ms: 0, ..options }, disk.process()).unwrap().0
}

fn place(call: u64, kind: Kind) -> Place {
    Place { subject: "agent:demo".to_owned(), call_id: format!("c{call}"), kind }
}

async fn store(payloads: &Arc<Payloads>, log: &Log, call: u64, kind: Kind) -> Result<Reference, StoreError> {
    payloads.store(log, place(call, kind), Zeroizing::new(PLAIN.to_vec())).await
}

async fn append(log: &Log, record: &Record<'_>) -> Result<u64, AppendError> {
    let (appended, ()) = tokio::join!(log.append(log.encode(record), Durability::Sync), async { log.tick() });
    appended.map(|position| position.seq)
}

/// A call with both its payloads and its records, as the path makes them.
async fn call(payloads: &Arc<Payloads>, log: &Log, number: u64) -> Option<()> {
    let record = |kind, kept: &Reference| Record {
        call_id: Some(format!("c{number}").into()),
        payload: Some(Cow::Owned(kept.to_string())),
        ..Record::new(kind)
    };
    let kept = store(payloads, log, number, Kind::Intent).await.ok()?;
    let seq = append(log, &record(Kind::Intent, &kept)).await.ok()?;
    let kept = store(payloads, log, number, Kind::Outcome).await.ok()?;
    append(log, &Record { intent_seq: Some(seq), ..record(Kind::Outcome, &kept) }).await.ok().map(drop)
}

fn with_payloads(disk: &SimulatedDisk) -> Vec<Stored> {
    let is_payload = |stored: &Stored| stored.record.payload.is_some() && stored.record.kind != Kind::Lifecycle;
    read_all(disk).unwrap().into_iter().filter(is_payload).collect()
}

#[tokio::test]
async fn whatever_change_a_process_ends_at_no_record_lacks_its_payload_and_no_payload_its_record() {
    let people = People::new(2);
    let mut crashed = 0;
    for step in 0..200 {
        let disk = SimulatedDisk::new();
        let payloads = people.payloads(2);
        let log = open(&disk);
        disk.faults(|faults| faults.crash_after = Some(step));
        let mut is_over = false;
        for number in 0..2 {
            is_over |= call(&payloads, &log, number).await.is_none();
            if number == 0 {
                log.rotate();
                log.tick();
            }
        }
        if step % 2 == 0 {
            disk.power_loss(step)
        } else {
            disk.kill()
        }
        crashed += u32::from(is_over);
        drop(log);

        drop(open(&disk));

        let report = verify(&disk, "main").unwrap();
        assert!(report.is_sound(), "{step}: {:?}", report.findings);
        let named = read_all(&disk).unwrap();
        let named: Vec<_> = named.iter().filter_map(|stored| Reference::parse(stored.record.payload.as_deref()?)).collect();
        let orphans: Vec<_> = disk.payloads().unwrap().into_iter().filter(|file| named.iter().all(|one| one.file != *file)).collect();
        // What a torn end may have named is left alone.
        let is_torn = disk.list().unwrap().iter().any(|name| name.contains(".torn"));
        assert!(orphans.is_empty() || is_torn, "{step}: {orphans:?}");
        for stored in with_payloads(&disk) {
            let opened = Payload::of(&disk, &stored).unwrap().unwrap().open(&people.keyring(&[0, 1])).unwrap();
            assert_eq!(*opened.plain, PLAIN, "{step}");
        }
    }
    assert!((16..200).contains(&crashed), "{crashed}: the script is longer or shorter than the steps");
}

#[tokio::test]
async fn a_full_disk_takes_no_payload_and_keeps_nothing_of_one() {
    let (disk, payloads) = (SimulatedDisk::new(), People::new(2).payloads(2));
    let log = open(&disk);
    // In the third round the key fits, and the payload does not.
    for room in [0, 100, 600, 100] {
        let capacity = Some(disk.used() + room);
        disk.faults(|faults| faults.capacity = capacity);
        assert_eq!(store(&payloads, &log, 1, Kind::Intent).await, Err(StoreError::Disk(AppendError::NoSpace)), "{room}");
        assert!(!disk.payloads().unwrap().iter().any(|file| !file.ends_with(KEY_ENDING)), "{room}");
    }
    disk.faults(|faults| faults.capacity = None);
    store(&payloads, &log, 1, Kind::Intent).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_hangs_is_waited_for_until_the_deadline_and_what_comes_late_goes() {
    let (disk, payloads) = (SimulatedDisk::new(), People::new(1).payloads(1));
    let log = open(&disk);
    store(&payloads, &log, 1, Kind::Intent).await.unwrap();
    let before = disk.payloads().unwrap();
    disk.faults(|faults| faults.hold_syncs = true);
    assert_eq!(store(&payloads, &log, 2, Kind::Intent).await, Err(StoreError::Disk(AppendError::Deadline)));
    disk.faults(|faults| faults.hold_syncs = false);
    // All places are free again once the late one has come and gone.
    while payloads.places_free() < keeper::MAX_AT_ONCE || disk.payloads().unwrap() != before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn any_two_of_three_open_it_and_no_one_alone() {
    let (disk, people) = (SimulatedDisk::new(), People::new(3));
    let payloads = people.payloads(2);
    let log = open(&disk);
    call(&payloads, &log, 1).await.unwrap();
    let stored = with_payloads(&disk).remove(0);
    let payload = Payload::of(&disk, &stored).unwrap().unwrap();
    for pair in [[0, 1], [0, 2], [1, 2], [2, 1]] {
        assert_eq!(*payload.open(&people.keyring(&pair)).unwrap().plain, PLAIN);
    }
    for one in 0..3 {
        assert!(matches!(payload.open(&people.keyring(&[one])), Err(OpenError::Quorum { .. })));
        let mut share = Share::new("main:1".to_owned(), "why".to_owned());
        assert_eq!(share.agree(&payload, &people.keyring(&[one])).unwrap(), [format!("p{one}")]);
        for other in 0..3 {
            let read = Share::parse(&share.text()).unwrap();
            let with = Keyring { shares: vec![read], ..people.keyring(&[other]) };
            assert_eq!(payload.open(&with).is_ok(), other != one, "{one} shares with {other}");
        }
    }
    assert!(matches!(payload.open(&People::new(1).keyring(&[0])), Err(OpenError::WrongKey { .. })));
}

#[tokio::test]
async fn who_agrees_to_one_call_agrees_to_no_other_whatever_file_the_record_names() {
    let (disk, people) = (SimulatedDisk::new(), People::new(2));
    let payloads = people.payloads(2);
    let log = open(&disk);
    call(&payloads, &log, 1).await.unwrap();
    call(&payloads, &log, 2).await.unwrap();
    let intents: Vec<Stored> = with_payloads(&disk).into_iter().filter(|stored| stored.record.kind == Kind::Intent).collect();
    let mut shown = intents[0].clone();
    shown.record.payload.clone_from(&intents[1].record.payload);

    let mut share = Share::new("main:1".to_owned(), "harmless".to_owned());
    share.agree(&Payload::of(&disk, &shown).unwrap().unwrap(), &people.keyring(&[0])).unwrap();

    let with = Keyring { shares: vec![share], ..people.keyring(&[1]) };
    assert!(Payload::of(&disk, &intents[1]).unwrap().unwrap().open(&with).is_err());
}

#[tokio::test]
async fn a_payload_is_not_taken_for_another_and_a_changed_key_opens_nothing() {
    let (disk, people) = (SimulatedDisk::new(), People::new(1));
    let payloads = people.payloads(1);
    let log = open(&disk);
    call(&payloads, &log, 1).await.unwrap();
    let stored = with_payloads(&disk);
    let keyring = people.keyring(&[0]);
    // The same file under another record: the hash fits, the call does not.
    let mut other = stored[0].clone();
    other.record.call_id = Some("c2".into());
    assert!(matches!(Payload::of(&disk, &other).unwrap().unwrap().open(&keyring), Err(OpenError::ChangedKey(_))));
    let mut other = stored[0].clone();
    other.record.kind = Kind::Outcome;
    assert!(Payload::of(&disk, &other).unwrap().unwrap().open(&keyring).is_err());

    let name = disk.payloads().unwrap().into_iter().find(|file| file.ends_with(KEY_ENDING)).unwrap();
    let text = String::from_utf8(disk.payload(&name).unwrap().unwrap()).unwrap();
    disk.remove_payloads(std::slice::from_ref(&name)).unwrap();
    disk.put_payload(&name, text.replace("agent:demo", "agent:none").as_bytes()).unwrap();
    let payload = Payload::of(&disk, &stored[0]).unwrap().unwrap();
    assert!(matches!(payload.open(&keyring), Err(OpenError::ChangedKey(_))));
    let told = verify(&disk, "main").unwrap();
    assert!(told.findings.len() == 1 && told.findings[0].what.contains("was changed"), "{:?}", told.findings);
}

#[tokio::test]
async fn a_key_is_of_one_month_and_one_subject_and_never_used_when_its_file_is_gone() {
    let (disk, payloads) = (SimulatedDisk::new(), People::new(1).payloads(1));
    let clock = Clock::fixed(NOW);
    let options = Options { clock: clock.clone(), has_thread: false, reserve_bytes: 0, ..Options::default() };
    let log = Log::open(options, disk.process()).unwrap().0;
    let kept = async |subject: &str| {
        let place = Place { subject: subject.to_owned(), ..place(1, Kind::Intent) };
        payloads.store(&log, place, Zeroizing::new(PLAIN.to_vec())).await.unwrap()
    };
    let first = kept("agent:demo").await;
    assert_eq!(kept("agent:demo").await.key(), first.key());
    assert_ne!(kept("person").await.key(), first.key());
    let key = disk.payloads().unwrap().into_iter().find(|file| file.ends_with(&format!("{}{KEY_ENDING}", first.key()))).unwrap();
    disk.erase_payload(&key).unwrap();
    let second = kept("agent:demo").await;
    assert_ne!(second.key(), first.key());
    clock.set(NOW + 30 * 86_400_000_000_000);
    assert_ne!(kept("agent:demo").await.key(), second.key());
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_not_stored() {
    let (disk, people) = (SimulatedDisk::new(), People::new(1));
    let openers = Openers { people: vec![("p0".to_owned(), people.0[0].public())], quorum: 1, max_bytes: PLAIN.len() - 1 };
    let payloads = Arc::new(Payloads::new(openers).unwrap());
    assert_eq!(store(&payloads, &open(&disk), 1, Kind::Intent).await, Err(StoreError::TooLarge(PLAIN.len() - 1)));
    assert!(disk.payloads().unwrap().is_empty());
}

/// What `audit verify` says of the log as it lies there.
fn checked(disk: &SimulatedDisk) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("main");
    for folder in ["segments", "seals", "payloads"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    let write = |path: String, bytes: Vec<u8>| std::fs::write(home.join(path), bytes).unwrap();
    disk.list().unwrap().iter().for_each(|name| write(format!("segments/{name}"), disk.content(name)));
    disk.note_names().iter().for_each(|name| write(name.clone(), disk.note(name).unwrap().unwrap()));
    disk.payloads().unwrap().iter().for_each(|name| write(format!("payloads/{name}"), disk.payload(name).unwrap().unwrap()));
    verify_all(dir.path(), &Asked::default()).unwrap().remove(0)
}

/// A log with a segment for each of four months, a call with payloads in each.
async fn of_months(disk: &SimulatedDisk, people: &People) -> Log {
    let (clock, payloads) = (Clock::fixed(NOW), people.payloads(1));
    let options = Options { clock: clock.clone(), has_thread: false, reserve_bytes: 0, deadline_ms: 50, ..Options::default() };
    let log = Log::open(Options { segment_max_age_ms: u64::MAX, ..options }, disk.process()).unwrap().0;
    for month in 0..4 {
        clock.set(NOW + month * 31 * 86_400_000_000_000);
        call(&payloads, &log, month.unsigned_abs()).await.unwrap();
        log.rotate();
        (0..8).for_each(|_| log.tick());
    }
    log
}

/// Prunes all that may go, while the log without a thread gets its rounds.
async fn prune(log: &Log) -> usize {
    let (_anchor, mut anchored) = watch::channel(u64::MAX);
    let rounds = async {
        loop {
            log.tick();
            // Passes only where the clock stands still: then a wait comes to its end.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        biased;
        gone = log.prune(i64::MAX, &mut anchored) => gone.map_or(0, |gone| gone.len()),
        () = rounds => unreachable!("rounds do not end"),
    }
}

#[tokio::test(start_paused = true)]
async fn retention_takes_payloads_with_their_segment_and_then_the_keys_that_seal_nothing() {
    let (disk, people) = (SimulatedDisk::new(), People::new(1));
    let log = of_months(&disk, &people).await;
    let counts = || {
        let (keys, payloads): (Vec<_>, Vec<_>) = disk.payloads().unwrap().into_iter().partition(|file| file.ends_with(KEY_ENDING));
        (keys.len(), payloads.len())
    };
    assert_eq!(counts(), (4, 8));
    assert_eq!(prune(&log).await, 3);
    // The key of the last segment that went goes with the next.
    assert_eq!(counts(), (2, 2));
    let report = checked(&disk);
    assert!(report.is_sound(), "{:?}", report.findings);
    let left = with_payloads(&disk);
    assert_eq!(left.len(), 2);
    assert_eq!(*Payload::of(&disk, &left[0]).unwrap().unwrap().open(&people.keyring(&[0])).unwrap().plain, PLAIN);
}

#[tokio::test(start_paused = true)]
async fn a_retention_that_is_cut_off_anywhere_explains_what_is_gone() {
    let people = People::new(1);
    let mut cut = 0;
    for step in 0..24 {
        let disk = SimulatedDisk::new();
        let log = of_months(&disk, &people).await;
        disk.faults(|faults| faults.crash_after = Some(step));
        cut += usize::from(prune(&log).await < 3);
        disk.kill();
        drop(log);
        let report = checked(&disk);
        assert!(report.is_sound(), "{step}: {:?}", report.findings);
    }
    assert!(cut > 5, "{cut}");
}

#[tokio::test(start_paused = true)]
async fn payloads_that_are_gone_by_a_record_that_nobody_signed_are_told() {
    let (disk, people) = (SimulatedDisk::new(), People::new(1));
    let log = of_months(&disk, &people).await;
    disk.kill();
    drop(log);
    // Somebody with the disk and not the key says that retention was about to take the first segment.
    let names = disk.list().unwrap();
    let (first, last) = (&names[0], names.last().unwrap());
    let end = read_all(&disk).unwrap().pop().unwrap();
    let chain = Line::split(end.line.as_bytes()).unwrap().chain;
    let (action, subject) = (Some("prune".into()), Some(first.as_str().into()));
    let record = Record { action, subject, ..Record::new(Kind::Lifecycle) };
    let mut lines = disk.content(last);
    chain.seal(&record.encode("main", Clock::fixed(NOW).now()), end.seq + 1, &mut lines);
    disk.put(last, &lines);
    removal::remove_of(&disk, first).unwrap();

    let report = checked(&disk);

    let told: Vec<_> = report.findings.iter().map(|finding| finding.what.contains("no signed record says that it was erased")).collect();
    assert_eq!((told, report.sealed.pruned), (vec![true, true], 0), "{:?}", report.findings);
}

#[tokio::test]
async fn no_bytes_in_place_of_a_payload_or_its_key_open_to_anything_else() {
    let (disk, people) = (SimulatedDisk::new(), People::new(2));
    call(&people.payloads(2), &open(&disk), 1).await.unwrap();
    let mut stored = with_payloads(&disk).remove(0);
    let file = Reference::parse(stored.record.payload.as_deref().unwrap()).unwrap().file;
    let key = disk.payloads().unwrap().into_iter().find(|file| file.ends_with(KEY_ENDING)).unwrap();
    let replace = |name: &String, bytes: &[u8]| {
        disk.remove_payloads(std::slice::from_ref(name)).unwrap();
        disk.put_payload(name, bytes).unwrap();
    };
    let mut opened = 0;
    for seed in 0..2_000 {
        let (mut random, name) = (Random(seed), if seed % 2 == 0 { &file } else { &key });
        let whole = disk.payload(name).unwrap().unwrap();
        let mut bytes = whole.clone();
        meddle(&mut bytes, &mut random);
        replace(name, &bytes);
        if name == &file {
            // As if the record named these bytes: nothing but the seal is in the way.
            stored.record.payload = Some(Reference::of(file.clone(), &bytes).to_string().into());
        }
        if let Ok(got) = Payload::of(&disk, &stored).and_then(|payload| payload.unwrap().open(&people.keyring(&[0, 1]))) {
            assert_eq!(*got.plain, PLAIN, "seed {seed}");
            opened += 1;
        }
        replace(name, &whole);
        stored.record.payload = Some(Reference::of(file.clone(), &disk.payload(&file).unwrap().unwrap()).to_string().into());
    }
    assert!((1..1_000).contains(&opened), "{opened}");
}

/// Turns a bit, cuts the end off, drops a few bytes, or puts a word in.
fn meddle(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..bytes.len().min(at + 9))),
        _ => {
            let words = ["[[[[[[[[[[", "18446744073709551616", "-1", "\"\"", "\u{1F980}", "\n", "null", "\\u0000", " "];
            bytes.splice(at..at, words[random.below(words.len() as u64) as usize].bytes());
        }
    }
}
