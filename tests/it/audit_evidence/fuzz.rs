//! Whatever bytes lie where the log's files should be, no reader panics: each answers, or says what it cannot read.
//!
//! `DOORWARD_FUZZ` sets how many rounds, `DOORWARD_SEED` from where.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use doorward::audit::anchor::Standings;
use doorward::audit::anomalies::Times;
use doorward::audit::disk::Disk;
use doorward::audit::filter::Filter;
use doorward::audit::find::{Asked as Shown, Logs};
use doorward::audit::index::Index;
use doorward::audit::kept::{Kept, Sort};
use doorward::audit::pack::check::check as check_pack;
use doorward::audit::pack::pack;
use doorward::audit::proof::{check as check_proof, prove};
use doorward::audit::record::Stored;
use doorward::audit::row::Field;
use doorward::audit::simulated::Random;
use doorward::audit::trust::{Notes, anchors};
use doorward::audit::verify::{Asked, verify_all};
use doorward::audit::{Log, Options};
use doorward::clock::Clock;

use super::maker::{Files, root_key, sealed, segment, signer};
use super::sound::trust;

/// What a reader may take for something it is not.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999",
    "\"seq\":18446744073709551615",
    "\"kind\":\"outcome\"",
    "\"kind\":\"lifecycle\"",
    "\"intent_seq\":18446744073709551615",
    "\"open_from\":18446744073709551615",
    "\"log_key\":\"doorward/main+\"",
    "{\"action\":\"prune\",\"kind\":\"lifecycle\",\"subject\":\"18446744073709551615.jsonl\",",
    "\"time\":\"9999-12-31T23:59:60.999999999Z\"",
    "\n\n",
    "\u{2014} ",
    "first 18446744073709551615\n",
    "segment 18446744073709551615\n",
    "chain ",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "\0",
    "\u{1f}\u{feff}\u{1F980}",
];

/// Other bytes in place of these.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let place = |random: &mut Random, bytes: &[u8]| random.below(bytes.len() as u64 + 1) as usize;
        let (from, to) = (place(random, bytes), place(random, bytes));
        let (from, to) = (from.min(to), from.max(to));
        match random.below(8) {
            0 => bytes.iter_mut().skip(from).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => drop(bytes.drain(from..to.min(from + 40))),
            2 => bytes.truncate(from),
            3 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(to..to, copy);
            }
            4 => {
                let noise: Vec<u8> = (0..random.below(60)).map(|_| random.below(256) as u8).collect();
                bytes.splice(from..from, noise);
            }
            5 => {
                let word = WORDS[random.below(WORDS.len() as u64) as usize];
                bytes.splice(from..from, word.bytes());
            }
            6 => another_number(bytes, from, random),
            _ => bytes.iter_mut().take(to).skip(from).for_each(|byte| *byte = random.below(256) as u8),
        }
    }
}

/// The first number from here on, replaced by one at an edge.
fn another_number(bytes: &mut Vec<u8>, from: usize, random: &mut Random) {
    let Some(begin) = bytes[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let end = bytes[begin..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |at| begin + at);
    let word = WORDS[random.below(6) as usize];
    bytes.splice(begin..end, word.bytes());
}

/// A folder with a log, its index, what is kept beside it, and how far its anchors have come.
struct Scene {
    made: Files,
    index: Vec<u8>,
    proof: String,
    /// Its archive.
    packed: Vec<u8>,
}

/// Beside the log's own folder.
const KEPT: [(&str, &[u8]); 2] = [("kept/policy-00.jsonl", b"{\"v\":1}\n"), ("kept/tool-00.json", b"{\"name\":\"a\"}")];

impl Scene {
    fn new() -> Self {
        let mut made = sealed("owner");
        made.say_pruned(1);
        let made = made.checkpoint().remove(1).made.clone();
        let dir = tempfile::tempdir().unwrap();
        made.write(&dir.path().join("main"));
        let _filled = Logs::in_dir(dir.path()).unwrap().with_index(dir.path(), None, &mut |_| {}).unwrap();
        let index = std::fs::read(Index::file(dir.path())).unwrap();
        let disk = Disk::existing(dir.path(), "main");
        let proof = prove(&disk, &Notes::of(&disk).unwrap(), 20).unwrap();
        Self { made, index, proof, packed: packed(dir.path()).unwrap() }
    }

    /// The folder with one to three files changed; the index is there now and then.
    fn write(&self, dir: &Path, random: &mut Random) {
        let (mut made, mut index) = (self.made.clone(), self.index.clone());
        made.files.insert("anchored.json".to_owned(), br#"{"file x":{"records":55,"at":1795255200000000000}}"#.to_vec());
        let paths: Vec<String> = made.files.keys().cloned().collect();
        for _ in 0..1 + random.below(3) {
            match random.below(paths.len() as u64 + 2) as usize {
                at if at < paths.len() => made.files.get_mut(&paths[at]).into_iter().for_each(|bytes| mutate(bytes, random)),
                at if at == paths.len() => mutate(&mut index, random),
                _ => {
                    // A name at an edge.
                    let file = made.files.remove(&segment(46)).unwrap_or_default();
                    let name = ["00000000000000000000", "18446744073709551615", "99999999999999999999", "00000000000000000047"];
                    made.files.insert(format!("segments/{}.jsonl", name[random.below(4) as usize]), file.clone());
                    made.files.insert(format!("seals/{}.note", name[random.below(4) as usize]), file);
                }
            }
        }
        made.write(&dir.join("main"));
        std::fs::create_dir_all(dir.join("kept")).unwrap();
        for (path, bytes) in KEPT {
            let mut bytes = bytes.to_vec();
            mutate(&mut bytes, random);
            std::fs::write(dir.join(path), bytes).unwrap();
        }
        if random.below(2) == 0 {
            std::fs::write(Index::file(dir), index).unwrap();
        }
    }
}

/// An archive of the newest records.
fn packed(dir: &Path) -> std::io::Result<Vec<u8>> {
    let (mut archive, records) = (Vec::new(), Logs::in_dir(dir)?.tail(9)?.records);
    pack(dir, records, "--limit 9".to_owned(), None)?.write(&mut archive)?;
    Ok(archive)
}

/// Puts every question to the folder. What comes back is for others: here it has to come back.
fn read_all(dir: &Path, scene: &Scene, random: &mut Random) {
    let mut known = trust(&scene.made);
    let mut text = scene.made.anchors.concat().into_bytes();
    mutate(&mut text, random);
    known.anchors.extend(anchors("anchors.notes", &String::from_utf8_lossy(&text)));
    for asked in [
        Asked::default(),
        Asked { trust: known.clone(), since_anchor: true, ..Asked::default() },
        Asked { trust: known, from: Some(random.below(70)), to: Some(random.below(70)), ..Asked::default() },
    ] {
        let reports = verify_all(dir, &asked);
        reports.into_iter().flatten().for_each(|report| drop((report.unseen(), format!("{report:?}"))));
    }
    for with_index in [false, true] {
        let Ok(mut logs) = Logs::in_dir(dir) else { continue };
        if with_index && logs.with_index(dir, Some(Duration::from_secs(5)), &mut |_| {}).is_err() {
            continue;
        }
        drop(logs.find(&Filter::default()));
        drop(logs.find(&Filter::default().and(Field::Agent, Some("demo")).and(Field::Outcome, Some("ok"))));
        drop(logs.show(&Shown::Place(None, 20)));
        drop((logs.tail(5), logs.unresolved(), logs.timeline("c10"), logs.stats(None, None, None)));
        drop(logs.anomalies(Times { baseline: i64::MIN, since: i64::MAX / 2, until: None }, None, None));
    }
    let disk = Disk::existing(dir, "main");
    if let Ok(notes) = Notes::of(&disk) {
        [1, 20, 46, u64::MAX].into_iter().for_each(|seq| drop(prove(&disk, &notes, seq)));
    }
    let mut proof = scene.proof.clone().into_bytes();
    mutate(&mut proof, random);
    let key = signer("doorward/main", "owner 17").key().clone();
    let proof = String::from_utf8_lossy(&proof);
    // As long as the record and what is signed are the same, so is what is proved.
    if let Ok(proved) = check_proof(&proof, &key) {
        assert_eq!(proved, check_proof(&scene.proof, &key).unwrap());
    }
    drop(packed(dir));
    let mut archive = scene.packed.clone();
    mutate(&mut archive, random);
    drop(check_pack(&*archive, &trust(&scene.made)));
    drop(Standings::read(&dir.join("main"), 60));
    let hash = format!("sha256:{}", "0".repeat(64));
    assert_eq!((Kept::in_dir(dir).find(Sort::Policy, &hash), Kept::in_dir(dir).find(Sort::Tool, &hash)), (None, None));
    start(dir, false);
    start(dir, true);
    drop(verify_all(
        dir,
        &Asked {
            trust: doorward::audit::trust::Trust { root_key: Some(root_key().key().clone()), ..Default::default() },
            ..Asked::default()
        },
    ));
}

/// A start takes the log, or refuses it.
fn start(dir: &Path, accept_damage: bool) {
    let options = Options { accept_damage, has_thread: false, clock: Clock::fixed(1_795_255_400_000_000_000), ..Options::default() };
    let disk = Disk::open(dir, &dir.join("keys"), "main").unwrap();
    drop(Log::open(options, std::sync::Arc::new(disk)));
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn no_bytes_in_place_of_a_file_make_a_reader_panic() {
    let scene = Scene::new();
    let (rounds, first) = (number("DOORWARD_FUZZ", 300), number("DOORWARD_SEED", 1));
    for seed in first..first + rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        scene.write(dir.path(), &mut random);
        let done = catch_unwind(AssertUnwindSafe(|| read_all(dir.path(), &scene, &mut random)));
        assert!(done.is_ok(), "seed {seed}: a reader panicked");
    }
}

#[test]
fn no_line_makes_the_reader_of_records_panic() {
    let line = String::from_utf8(sealed("owner").made.files[&segment(17)].clone()).unwrap().lines().nth(2).unwrap().to_owned();
    for seed in 0..20_000 {
        let (mut random, mut bytes) = (Random(seed), line.clone().into_bytes());
        mutate(&mut bytes, &mut random);
        if let Some(stored) = Stored::parse(&bytes) {
            drop((stored.unix_nanos(), format!("{stored:?}"), stored.row().seq()));
        }
        let _read = doorward::audit::row::Row::parse(&bytes).map(|row| (row.seq(), row.unix_nanos()));
    }
}
