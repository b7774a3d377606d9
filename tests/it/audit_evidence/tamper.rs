//! Random tamperings, each found and the first wrong place named; what is younger than the newest anchor is told as not seen.
//!
//! `DOORWARD_TAMPERINGS` sets how many, `DOORWARD_SEED` from where; the table is printed with `--nocapture`.

use std::collections::BTreeMap;

use doorward::audit::chain::{Chain, Line};
use doorward::audit::simulated::Random;
use doorward::audit::verify::{Asked, Report};
use doorward::audit::{Kind, Record};
use doorward::clock::Clock;
use proptest::prelude::*;

use super::maker::{Files, Maker, root_key, sealed, segment, signer};
use super::sound::{check, folder, trust};

/// What somebody does to a log.
const KINDS: [&str; 15] = [
    "a bit turned",
    "a byte changed",
    "a line dropped",
    "a line doubled",
    "two lines swapped",
    "a line moved to another segment",
    "a line put in from another log",
    "the chain made anew after a change",
    "the tail cut at a line",
    "the tail cut in a line",
    "an old copy of all files restored",
    "all signed anew with another key",
    "a note changed",
    "a note taken away",
    "segments taken away, recorded unsigned",
];

/// What must be told.
#[derive(Debug, PartialEq)]
enum Due {
    /// The record named first, or one of these: some record of which one is wrong.
    Records(u64, u64),
    /// The file named first.
    File(String),
    /// Nothing, but that what came after the newest anchor cannot be seen.
    Unseen,
}

/// The log, what it was at each moment of its life, and what the asker knows.
struct Scene {
    made: Files,
    copies: Vec<Files>,
    /// The last record that the newest anchor covers.
    anchored: u64,
}

impl Scene {
    fn new() -> Self {
        let mut copies = Vec::new();
        let mut made = Maker::new("main", "owner");
        made.certify(&root_key());
        for step in [11, 0, 4, 0, 13, 0, 12, 0, 2, 0, 9, 0] {
            match copies.len() {
                1 | 7 | 11 => drop(made.checkpoint()),
                3 | 5 | 9 => drop(made.rotate()),
                _ => drop(made.records(step)),
            }
            copies.push(made.made.clone());
        }
        for _ in 0..5 {
            made.records(1);
            copies.push(made.made.clone());
        }
        assert_eq!(made.made, sealed("owner").made, "another way to the same log");
        Self { made: made.made, copies, anchored: 55 }
    }
}

fn pick<T: Clone>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len() as u64) as usize].clone()
}

/// All lines in order, each with its segment.
fn lines(files: &Files) -> Vec<(String, String)> {
    let of = |path: String| {
        let text = String::from_utf8_lossy(&files.files[&path]).into_owned();
        text.split_inclusive('\n').map(|line| (path.clone(), line.to_owned())).collect::<Vec<_>>()
    };
    files.segments().into_iter().flat_map(of).collect()
}

fn with_lines(files: &Files, lines: &[(String, String)]) -> Files {
    let mut made = files.clone();
    made.files.retain(|path, _| !path.starts_with("segments/"));
    for (path, line) in lines {
        made.files.entry(path.clone()).or_default().extend_from_slice(line.as_bytes());
    }
    made
}

/// The first record that does not stand where it stood.
fn first_difference(before: &Files, after: &Files) -> u64 {
    // Each byte with where it is: a line may be moved to the next file and to the same place of the log.
    let bytes = |files: &Files| {
        let of = |(at, path): (usize, String)| files.files[&path].iter().map(|byte| (at, *byte)).collect::<Vec<_>>();
        files.segments().into_iter().enumerate().flat_map(of).collect::<Vec<_>>()
    };
    let (before, after) = (bytes(before), bytes(after));
    let at = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    before[..at].iter().filter(|(_, byte)| *byte == b'\n').count() as u64 + 1
}

/// The chain of every line made anew, so that only signatures show what was changed.
fn chained_anew(lines: &mut [(String, String)]) {
    let mut chain = Chain::first("main");
    for (_, text) in lines {
        let body = Line::split(text.trim_end().as_bytes()).unwrap().open_body.to_vec();
        chain = chain.after(&body);
        *text = format!("{},\"chain\":\"{}\"}}\n", String::from_utf8(body).unwrap(), chain.to_hex());
    }
}

/// The claims of the scene end at these records.
const CLAIMS: [u64; 6] = [12, 16, 30, 43, 45, 55];

fn tamper(scene: &Scene, kind: usize, random: &mut Random) -> (Files, Due) {
    match kind {
        0..=1 => bytes_changed(scene, kind, random),
        2..=7 => lines_moved(scene, kind, random),
        8..=9 => tail_cut(scene, kind == 9, random),
        10..=11 => another_log(scene, kind, random),
        14 => front_taken_away(scene, random),
        _ => note_changed(scene, kind, random),
    }
}

/// What was changed, and that the first wrong place is due.
fn placed(scene: &Scene, made: Files) -> (Files, Due) {
    let first = first_difference(&scene.made, &made);
    (made, Due::Records(first, first))
}

fn bytes_changed(scene: &Scene, kind: usize, random: &mut Random) -> (Files, Due) {
    let mut made = scene.made.clone();
    let file = made.files.get_mut(&pick(random, &scene.made.segments())).unwrap();
    let at = random.below(file.len() as u64) as usize;
    file[at] ^= if kind == 0 { 1 << random.below(8) } else { 1 + random.below(255) as u8 };
    placed(scene, made)
}

fn lines_moved(scene: &Scene, kind: usize, random: &mut Random) -> (Files, Due) {
    let mut lines = lines(&scene.made);
    let count = lines.len() as u64;
    let at = random.below(count) as usize;
    let place = |made: Files| placed(scene, made);
    match kind {
        2 => {
            // The last line dropped is a tail cut.
            lines.remove(at.min(lines.len() - 2));
            place(with_lines(&scene.made, &lines))
        }
        3 => {
            let line = lines[at].clone();
            lines.insert(at, line);
            let made = with_lines(&scene.made, &lines);
            (made, Due::Records(at as u64 + 2, at as u64 + 2))
        }
        4 => {
            let other = (at + 1 + random.below(count - 1) as usize) % lines.len();
            let (one, two) = (lines[at].1.clone(), lines[other].1.clone());
            (lines[at].1, lines[other].1) = (two, one);
            place(with_lines(&scene.made, &lines))
        }
        5 => {
            let (from, line) = lines.remove(at);
            let others: Vec<usize> = (0..lines.len()).filter(|to| lines[*to].0 != from).collect();
            let to = pick(random, &others);
            lines.insert(to, (lines[to].0.clone(), line));
            place(with_lines(&scene.made, &lines))
        }
        6 => {
            let mut other = Maker::new("main", "other");
            other.records(count);
            let theirs = String::from_utf8(other.made.files[&segment(1)].clone()).unwrap();
            let line = theirs.split_inclusive('\n').nth(at.max(1)).unwrap().to_owned();
            if random.below(2) == 0 {
                lines[at].1 = line;
            } else {
                lines.insert(at, (lines[at].0.clone(), line));
            }
            place(with_lines(&scene.made, &lines))
        }
        _ => {
            let at = at.min(scene.anchored as usize - 1);
            lines[at].1 = lines[at].1.replacen("2026-11-21T10:", "2026-11-21T11:", 1);
            chained_anew(&mut lines);
            let bad = at as u64 + 1;
            let until = *CLAIMS.iter().find(|last| **last >= bad).unwrap();
            let from = CLAIMS.iter().rev().find(|last| **last < bad).map_or(1, |last| last + 1);
            (with_lines(&scene.made, &lines), Due::Records(from, until))
        }
    }
}

fn tail_cut(scene: &Scene, is_torn: bool, random: &mut Random) -> (Files, Due) {
    let mut lines = lines(&scene.made);
    let at = random.below(lines.len() as u64) as usize;
    let (path, line) = lines[at].clone();
    lines.truncate(at);
    if is_torn {
        let ends: Vec<usize> = line.char_indices().map(|(end, _)| end).skip(1).collect();
        lines.push((path, line[..pick(random, &ends)].to_owned()));
    }
    let lost = at as u64 + 1;
    let is_seen = is_torn || lost <= scene.anchored;
    (with_lines(&scene.made, &lines), if is_seen { Due::Records(lost, lost) } else { Due::Unseen })
}

fn another_log(scene: &Scene, kind: usize, random: &mut Random) -> (Files, Due) {
    if kind == 10 {
        let made = pick(random, &scene.copies);
        let last = lines(&made).len() as u64;
        return (made, if last < scene.anchored { Due::Records(last + 1, last + 1) } else { Due::Unseen });
    }
    let mut made = sealed(&format!("thief {}", random.below(1 << 30))).made;
    if random.below(2) == 0 {
        // Only the notes: the records still name the owner's keys.
        for path in scene.made.segments() {
            made.files.insert(path.clone(), scene.made.files[&path].clone());
        }
        return (made, Due::Records(1, 60));
    }
    (made, Due::Records(1, 1))
}

/// Somebody with the disk and not the key puts a record of a removal behind the last one, and removes what it names.
fn front_taken_away(scene: &Scene, random: &mut Random) -> (Files, Due) {
    let mut made = scene.made.clone();
    let all = made.segments();
    let gone = 1 + random.below(3) as usize;
    let (_, last) = lines(&made).pop().unwrap();
    let last = Line::split(last.trim_end().as_bytes()).unwrap();
    let name = all[gone - 1].strip_prefix("segments/").unwrap();
    let record = Record { action: Some("prune".into()), subject: Some(name.into()), ..Record::new(Kind::Lifecycle) };
    let entry = record.encode("main", Clock::fixed(1_795_255_300_000_000_000).now());
    last.chain.seal(&entry, last.seq + 1, made.files.get_mut(&all[3]).unwrap());
    all[..gone].iter().for_each(|path| drop(made.files.remove(path)));
    (made, Due::Records(1, 1))
}

fn note_changed(scene: &Scene, kind: usize, random: &mut Random) -> (Files, Due) {
    let mut made = scene.made.clone();
    let path = pick(random, &notes(&made));
    if kind == 12 {
        let file = made.files.get_mut(&path).unwrap();
        let at = random.below(file.len() as u64) as usize;
        file[at] ^= 1 + random.below(255) as u8;
    } else {
        made.files.remove(&path);
    }
    (made, Due::File(path))
}

fn notes(files: &Files) -> Vec<String> {
    files.files.keys().filter(|path| !path.starts_with("segments/")).cloned().collect()
}

fn is_told(report: &Report, due: &Due) -> bool {
    let first = report.findings.first();
    match due {
        Due::Records(from, to) => first.is_some_and(|found| found.seq.is_some_and(|seq| (*from..=*to).contains(&seq))),
        Due::File(path) => first.is_some_and(|found| found.file == *path),
        Due::Unseen => first.is_none() && report.unseen().iter().any(|unseen| unseen.contains("55")),
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn every_tampering_is_found_and_the_first_wrong_place_is_named() {
    let scene = Scene::new();
    let (rounds, start) = (number("DOORWARD_TAMPERINGS", 420), number("DOORWARD_SEED", 1));
    let dir = folder(&scene.made);
    let asked = Asked { trust: trust(&scene.made), ..Asked::default() };
    let mut table = BTreeMap::<usize, (u64, u64)>::new();
    for seed in start..start + rounds {
        let kind = (seed % KINDS.len() as u64) as usize;
        let (made, due) = tamper(&scene, kind, &mut Random(seed));
        if made == scene.made {
            // Two equal lines swapped, or the newest copy restored: nothing was changed.
            continue;
        }
        made.write(&dir.path().join("main"));

        let report = check(dir.path(), &asked);

        assert!(is_told(&report, &due), "seed {seed}, {}: due {due:?}, told {report:#?}", KINDS[kind]);
        let row = table.entry(kind).or_default();
        if due == Due::Unseen { row.1 += 1 } else { row.0 += 1 }
    }
    println!("{:<36} {:>7} {:>22} {:>7}", "tampering", "found", "younger than an anchor", "missed");
    for (kind, (found, unseen)) in table {
        println!("{:<36} {found:>7} {unseen:>22} {:>7}", KINDS[kind], 0);
    }
}

#[test]
fn a_part_that_is_wrong_from_its_first_record_on_is_told_from_there() {
    let scene = Scene::new();
    let mut lines = lines(&scene.made);
    lines[30].1 = lines[30].1.replacen("2026-11-21T10:", "2026-11-21T11:", 1);
    chained_anew(&mut lines);
    let dir = folder(&with_lines(&scene.made, &lines));
    let report = check(dir.path(), &Asked { from: Some(31), ..Asked::default() });
    assert_eq!((report.findings[0].seq, report.unread), (Some(31), Some(30)));
    assert_eq!(report.findings[0].what, "of the records 31 to 45 at least one is not what was signed");
}

#[test]
fn a_log_signed_anew_by_a_thief_is_found_by_the_root_key_a_key_or_an_anchor_alone_and_told_as_unseen_without() {
    let owner = sealed("owner");
    let thief = sealed("thief").made;
    let dir = folder(&thief);
    let all = trust(&owner.made);
    let mut asked = Asked::default();
    asked.trust.root_key.clone_from(&all.root_key);
    assert_eq!(check(dir.path(), &asked).findings.len(), 0, "the operator was made to certify the thief's key");
    let mut uncertified = thief.clone();
    uncertified.files.insert("root.note".to_owned(), owner.made.files["root.note"].clone());
    uncertified.write(&dir.path().join("main"));
    assert_eq!(check(dir.path(), &asked).findings[0].seq, Some(1));

    asked.trust = Default::default();
    let alone = check(dir.path(), &asked);
    assert!(alone.is_sound() && alone.unseen().iter().any(|unseen| unseen.contains("nobody vouches")), "{:?}", alone.unseen());

    asked.trust.keys = vec![signer("doorward/main", "owner 1").key().clone()];
    assert!(check(dir.path(), &asked).findings[0].what.contains("no segment"));

    asked.trust = doorward::audit::trust::Trust { anchors: all.anchors, ..Default::default() };
    assert_eq!(check(dir.path(), &asked).findings[0].seq, Some(1));
}

#[test]
fn a_log_that_was_emptied_or_taken_away_is_not_taken_for_a_new_one() {
    let made = sealed("owner").made;
    let dir = folder(&made);
    let asked = Asked { trust: trust(&made), ..Asked::default() };
    for kept in ["seals/", "checkpoint.note", "root.note"] {
        let mut left = made.clone();
        left.files.retain(|path, _| path.starts_with(kept));
        left.write(&dir.path().join("main"));
        assert_eq!(check(dir.path(), &asked).findings.last().unwrap().seq, Some(1), "{kept}");
    }
    std::fs::remove_dir_all(dir.path().join("main")).unwrap();
    let gone = check(dir.path(), &asked);
    assert!(gone.findings.iter().all(|finding| finding.what.contains("the log is gone")), "{gone:#?}");
}

proptest! {
    #[test]
    fn bytes_of_any_kind_in_place_of_a_file_are_found_and_never_panic(
        which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut made = sealed("owner").made;
        let paths: Vec<String> = made.files.keys().cloned().collect();
        made.files.insert(which.get(&paths).clone(), bytes);
        let dir = folder(&made);
        let asked = Asked { trust: trust(&made), ..Asked::default() };
        prop_assert!(!check(dir.path(), &asked).is_sound());
    }
}
