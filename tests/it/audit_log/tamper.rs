//! What a reader with nothing but the files finds.

use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::storage::Storage;
use doorward::audit::verify::{Report, verify};
use doorward::audit::{Durability, Options};

use super::support::{append, intent, options, outcome, try_open};

const FIRST: &str = "00000000000000000001.jsonl";

/// A closed log of some segments.
async fn log() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let log = try_open(&disk, Options { segment_max_bytes: 2_000, ..options() }).unwrap().0;
    for call in 0..12 {
        let seq = append(&log, &intent(call), Durability::Write).await.unwrap();
        append(&log, &outcome(call, seq), Durability::Write).await.unwrap();
    }
    log.close("done").await.unwrap();
    disk
}

fn lines(disk: &SimulatedDisk, name: &str) -> Vec<Vec<u8>> {
    disk.content(name).split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn check(disk: &SimulatedDisk, name: &str, lines: &[Vec<u8>]) -> Report {
    disk.put(name, &lines.concat());
    verify(disk, "main").unwrap()
}

fn seqs(report: &Report) -> Vec<Option<u64>> {
    report.findings.iter().map(|finding| finding.seq).collect()
}

#[tokio::test]
async fn an_untouched_log_is_sound() {
    let report = verify(&log().await, "main").unwrap();
    assert!(report.is_sound() && report.segments > 2 && !report.is_live);
    assert_eq!(report.head.unwrap().0, report.records);
}

#[tokio::test]
async fn any_changed_byte_is_found() {
    let disk = log().await;
    let names: Vec<String> = disk.list().unwrap();
    let mut random = Random(1);
    for _ in 0..3_000 {
        let name = &names[random.below(names.len() as u64) as usize];
        let before = disk.content(name);
        let mut after = before.clone();
        after[random.below(before.len() as u64) as usize] ^= 1 << random.below(8);
        disk.put(name, &after);
        assert!(!verify(&disk, "main").unwrap().is_sound());
        disk.put(name, &before);
    }
}

#[tokio::test]
async fn a_changed_field_names_its_record_and_line() {
    let disk = log().await;
    let mut all = lines(&disk, FIRST);
    all[2] = String::from_utf8(all[2].clone()).unwrap().replace("\"c0\"", "\"c7\"").into_bytes();
    let report = check(&disk, FIRST, &all);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].to_string(), format!("main record 3 ({FIRST}:3): the record was changed, or the one before it was"));
}

#[tokio::test]
async fn a_changed_chain_names_its_record_alone() {
    let disk = log().await;
    let mut all = lines(&disk, FIRST);
    let at = all[2].len() - 10;
    all[2][at] = if all[2][at] == b'0' { b'1' } else { b'0' };
    assert_eq!(seqs(&check(&disk, FIRST, &all)), [Some(3)]);
}

#[tokio::test]
async fn a_dropped_line_is_named() {
    let disk = log().await;
    let mut all = lines(&disk, FIRST);
    all.remove(2);
    let report = check(&disk, FIRST, &all);
    assert_eq!(seqs(&report), [Some(3)]);
    assert_eq!(report.findings[0].what, "record 3 is missing: record 4 stands here");
}

#[tokio::test]
async fn a_swapped_pair_is_named() {
    let disk = log().await;
    let mut all = lines(&disk, FIRST);
    all.swap(1, 2);
    assert_eq!(seqs(&check(&disk, FIRST, &all)), [Some(2), Some(4)]);
}

#[tokio::test]
async fn an_inserted_line_is_named() {
    let disk = log().await;
    let mut all = lines(&disk, FIRST);
    all.insert(3, all[1].clone());
    assert_eq!(seqs(&check(&disk, FIRST, &all)), [Some(4)]);
}

#[tokio::test]
async fn a_missing_segment_is_named_even_the_first() {
    for missing in [0, 1] {
        let disk = log().await;
        disk.remove(&disk.list().unwrap()[missing]).unwrap();
        let report = verify(&disk, "main").unwrap();
        assert_eq!(report.findings.len(), 1);
        assert!(report.findings[0].what.contains("missing: record"));
    }
}

#[tokio::test]
async fn a_segment_of_another_origin_does_not_fit() {
    let disk = log().await;
    assert_eq!(seqs(&verify(&disk, "other").unwrap()), [Some(1)]);
}

#[tokio::test]
async fn a_cut_tail_cannot_be_seen_and_the_report_says_so() {
    let disk = log().await;
    let last = disk.list().unwrap().pop().unwrap();
    let mut all = lines(&disk, &last);
    all.pop();
    let report = check(&disk, &last, &all);
    assert!(report.is_sound() && report.unseen()[0].contains("cut off at the very end"));
}

#[tokio::test]
async fn the_unfinished_line_of_a_live_log_is_left_alone() {
    let disk = log().await;
    let last = disk.list().unwrap().pop().unwrap();
    disk.put(&last, &[&disk.content(&last)[..], b"{\"half"].concat());
    assert_eq!(verify(&disk, "main").unwrap().findings.len(), 1);
    let _held = disk.lock().unwrap().unwrap();
    assert!(verify(&disk, "main").unwrap().is_sound());
}
