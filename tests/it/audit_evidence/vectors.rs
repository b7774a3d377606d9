//! The logs in tests/vectors/audit, made here from fixed keys and a fixed clock, and what every verifier must say of them.
//!
//! `UPDATE_GOLDEN=1` writes them anew. `tests/interop/audit` holds `tools/verify_audit.py` against the same files.

use std::fs;
use std::path::{Path, PathBuf};

use doorward::audit::chain::{Chain, Line};
use doorward::audit::disk::Disk;
use doorward::audit::proof::{check as check_proof, prove};
use doorward::audit::trust::{Notes, Trust, anchors};
use doorward::audit::verify::Asked;
use serde_json::{Value, json};

use super::maker::{Files, Maker, root_key, seal, segment, signer};
use super::sound::{check, folder};

/// Segments 1 to 5, 6 to 9, and 10 to 13 with a checkpoint at 12.
fn small(owner: &str) -> Maker {
    let mut made = Maker::new("main", owner);
    made.certify(&root_key()).records(3).checkpoint().records(1).rotate().records(3).rotate().records(2).checkpoint().records(1);
    made
}

fn changed(path: &str, change: impl FnOnce(Vec<&str>) -> Vec<String>) -> Files {
    let mut made = small("owner").made;
    let text = String::from_utf8(made.files[path].clone()).unwrap();
    made.files.insert(path.to_owned(), change(text.split_inclusive('\n').collect()).concat().into_bytes());
    made
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// A record changed, and the chain made anew behind it.
fn chained_anew() -> Files {
    let mut made = small("owner").made;
    let mut chain = Chain::first("main");
    for path in made.segments() {
        let text = String::from_utf8(made.files[&path].clone()).unwrap().replacen("notes/7", "notes/8", 1);
        let mut lines = String::new();
        for line in text.lines() {
            let body = Line::split(line.as_bytes()).unwrap().open_body.to_vec();
            chain = chain.after(&body);
            lines.push_str(&format!("{},\"chain\":\"{}\"}}\n", String::from_utf8(body).unwrap(), chain.to_hex()));
        }
        made.files.insert(path, lines.into_bytes());
    }
    made
}

fn without(paths: &[String]) -> Files {
    let mut made = small("owner").made;
    made.files.retain(|path, _| !paths.contains(path));
    made
}

/// A log by name, and whether the anchors of the sound one are known for it, and the root key.
type Case = (&'static str, Files, bool, bool);

fn cases() -> Vec<Case> {
    let mut older = Maker::without_keys("main");
    older.records(3).begin_without_seal();
    older.records(2);
    let mut upgraded = Maker::without_keys("main");
    upgraded.records(3).start_to_sign("owner");
    upgraded.records(2).rotate().records(1).checkpoint();
    let mut all = vec![("sound", small("owner").made, true, true), ("sound_alone", small("owner").made, false, false)];
    all.extend(with_removals());
    all.extend([("older", older.made, false, false), ("upgraded", upgraded.made, false, false)]);
    all.extend(with_half_a_seal());
    all.extend(tampered());
    all
}

/// Logs whose front is gone.
fn with_removals() -> [Case; 6] {
    let pruned_once = || {
        let mut pruned = small("owner");
        pruned.say_pruned(1);
        pruned.checkpoint().remove(1);
        pruned
    };
    let (mut pruned, mut pruned_further, mut without_a_signature) = (pruned_once(), pruned_once(), pruned_once());
    pruned.say_pruned(6);
    pruned.checkpoint().remove(6);
    pruned_further.remove(6);
    without_a_signature.say_pruned(6);
    without_a_signature.remove(6);
    let (mut without_peaks, mut without_a_seal) = (pruned_once().made, pruned.made.clone());
    without_peaks.files.remove(&seal(1, "peaks")).unwrap();
    without_a_seal.files.remove(&seal(1, "note")).unwrap();
    [
        ("pruned", pruned.made, true, true),
        ("pruned_without_peaks", without_peaks, true, true),
        ("pruned_without_a_seal", without_a_seal, true, true),
        ("pruned_without_a_signature", without_a_signature.made, true, true),
        ("pruned_without_a_record", without(&[segment(1)]), true, true),
        ("pruned_further_than_recorded", pruned_further.made, true, true),
    ]
}

/// Logs whose newest seal is not whole: some as a crash leaves them, some robbed.
fn with_half_a_seal() -> [Case; 7] {
    let mut crashed = small("owner");
    crashed.seal(&signer("doorward/main", "next"));
    let mut not_sealed_yet = small("owner");
    not_sealed_yet.rotate_before_the_seal().records(2);
    let mut signed_on_without_seal = small("owner");
    signed_on_without_seal.rotate_before_the_seal().records(2).checkpoint();
    let (mut no_peaks_yet, mut seal_taken, mut peaks_taken) = (crashed.made.clone(), crashed.made.clone(), crashed.made.clone());
    no_peaks_yet.files.remove(&seal(10, "peaks")).unwrap();
    no_peaks_yet.files.insert("checkpoint.note".to_owned(), small("owner").made.files["checkpoint.note"].clone());
    seal_taken.files.remove(&seal(10, "note")).unwrap();
    peaks_taken.files.remove(&seal(10, "peaks")).unwrap();
    let mut newest_seal_gone = small("owner");
    newest_seal_gone.rotate().records(1);
    newest_seal_gone.made.files.retain(|path, _| !path.starts_with("seals/00000000000000000010"));
    [
        ("sealed_and_not_begun", crashed.made, true, true),
        ("begun_and_not_sealed", not_sealed_yet.made, true, true),
        ("sealed_without_peaks", no_peaks_yet, true, true),
        ("seal_gone_that_is_the_checkpoint", seal_taken, true, true),
        ("peaks_gone_of_the_checkpoint", peaks_taken, true, true),
        ("newest_seal_gone", newest_seal_gone.made, true, true),
        ("signed_on_without_seal", signed_on_without_seal.made, true, true),
    ]
}

/// Logs that somebody has changed, and one with accepted damage.
fn tampered() -> Vec<Case> {
    let (first, second, last) = (segment(1), segment(6), segment(10));
    let in_another = |lines: Vec<&str>, from: &str, to: &str| lines.iter().map(|line| line.replace(from, to)).collect();
    let mut begun_anew = small("owner");
    begun_anew.begin_anew().records(2).checkpoint();
    let mut old_copy = Maker::new("main", "owner");
    old_copy.certify(&root_key()).records(3).checkpoint().records(1);
    vec![
        ("changed", changed(&second, |lines| in_another(lines, "notes/7", "notes/9")), true, true),
        ("dropped", changed(&second, |lines| owned(&[&lines[..1], &lines[2..]].concat())), true, true),
        ("doubled", changed(&first, |lines| owned(&[&lines[..3], &lines[2..]].concat())), true, true),
        ("swapped", changed(&first, |lines| owned(&[lines[0], lines[2], lines[1], lines[3], lines[4]])), true, true),
        ("torn", changed(&last, |lines| owned(&[lines[0], lines[1], &lines[2][..40]])), true, true),
        ("cut", changed(&last, |lines| owned(&lines[..2])), true, true),
        ("cut_after_the_anchor", changed(&last, |lines| owned(&lines[..3])), true, true),
        ("segment_gone", without(&[second]), true, true),
        ("chained_anew", chained_anew(), true, true),
        ("old_copy", old_copy.made, true, true),
        ("signed_anew", small("thief").made, true, false),
        ("checkpoint_changed", changed("checkpoint.note", |lines| in_another(lines, "T10", "T11")), true, true),
        ("seal_gone", without(&[seal(6, "note")]), true, true),
        ("checkpoint_gone", without(&["checkpoint.note".to_owned()]), false, true),
        ("root_gone", without(&["root.note".to_owned()]), true, true),
        ("begun_anew", begun_anew.made, false, true),
    ]
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit")
}

/// The anchors in both forms in which they may be kept.
fn anchor_text(made: &Files) -> String {
    let as_lines = |(at, note): (usize, &String)| match at % 2 {
        0 => format!("{note}\n"),
        _ => format!("<134>1 2026-11-21T10:00:00Z gate doorward 71 - - {}\n", json!({ "checkpoint": note })),
    };
    made.anchors.iter().enumerate().map(as_lines).collect()
}

/// What is said of a log, without the words.
fn verdict(dir: &Path, asked: &Asked) -> Value {
    let report = check(dir, asked);
    match report.findings.first() {
        Some(first) => json!({ "verdict": "DAMAGED", "seq": first.seq }),
        None => {
            let last = |held: &Option<doorward::audit::verify::Held>| held.as_ref().map(|held| held.last);
            let held = [("signed", &report.signed), ("vouched", &report.vouched), ("anchored", &report.anchored)];
            let mut said = json!({ "verdict": "sound", "last": report.head.as_ref().map(|(last, _)| *last) });
            for (name, held) in held {
                if let Some(last) = last(held) {
                    said[name] = json!(last);
                }
            }
            if let Some(last) = report.unsealed {
                said["unsealed"] = json!(last);
            }
            said
        }
    }
}

/// Compares with what is committed, or replaces it.
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    assert!(fs::read_to_string(path).is_ok_and(|kept| kept == text), "{} is another; UPDATE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn the_vectors_are_what_is_made_and_judged_here() {
    let known = small("owner").made;
    golden(&home().join("anchors.notes"), &anchor_text(&known));
    let mut all = Vec::new();
    for (name, made, has_anchors, has_root_key) in cases() {
        let dir = folder(&made);
        let found = anchors("anchors.notes", &anchor_text(&known));
        assert_eq!(found.len(), known.anchors.len());
        let root_key = has_root_key.then(|| root_key().key().clone());
        let trust =
            Trust { anchors: if has_anchors { found } else { vec![] }, root_key: root_key.clone(), spares_others: false, keys: vec![] };
        let expected = verdict(dir.path(), &Asked { trust, ..Asked::default() });
        for (path, content) in &made.files {
            golden(&home().join(name).join("main").join(path), std::str::from_utf8(content).unwrap());
        }
        let root_key = root_key.map(|key| key.to_string());
        all.push(json!({ "name": name, "anchors": has_anchors, "root_key": root_key, "expected": expected }));
    }
    let text = serde_json::to_string_pretty(&all).unwrap();
    golden(&home().join("cases.json"), &format!("{text}\n"));
}

#[test]
fn the_proof_among_the_vectors_is_what_is_made_and_holds() {
    let dir = folder(&small("owner").made);
    let proof = prove(&Disk::existing(dir.path(), "main"), &Notes::of(&Disk::existing(dir.path(), "main")).unwrap(), 7).unwrap();
    let key = signer("doorward/main", "owner 6").key().clone();
    golden(&home().join("proof.json"), &format!("{proof}\n"));
    golden(&home().join("proof.key"), &format!("{key}\n"));
    let changed = proof.replacen("notes/7", "notes/8", 1);
    golden(&home().join("proof_changed.json"), &format!("{changed}\n"));
    assert!(check_proof(&proof, &key).is_ok() && check_proof(&changed, &key).is_err());
}

#[test]
fn every_example_of_the_format_is_one_of_the_vectors() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit-format.md")).unwrap();
    let examples: Vec<_> = text.split("<!-- ").skip(1).map(|part| part.split_once(" -->\n").unwrap()).collect();
    assert_eq!(examples.len(), 5);
    for (path, rest) in examples {
        let block = rest.split("```").nth(1).unwrap().split_once('\n').unwrap().1;
        let kept = fs::read_to_string(home().join(path)).unwrap();
        assert!(kept.starts_with(block), "{path}:\n{block}\nis not\n{kept}");
    }
    let root_key = root_key().key().to_string();
    let key = fs::read_to_string(home().join("proof.key")).unwrap();
    assert!(text.contains(&root_key) && text.contains(key.trim()));
}

#[test]
fn the_second_verifier_is_short_enough_to_be_read_in_one_sitting() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/verify_audit.py")).unwrap();
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(text.lines().count() < 250 && longest <= 99, "{} lines, the longest has {longest} characters", text.lines().count());
}
