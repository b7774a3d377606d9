//! Sound logs are sound, whatever part of them is read, and what a check did not see is told.

use std::path::Path;

use doorward::audit::trust::{Trust, anchors};
use doorward::audit::verify::{Asked, Report, verify_all};
use doorward::audit::{Kind, Record};
use tempfile::TempDir;

use super::maker::{Files, Maker, root_key, seal, sealed, segment, signer};

pub fn check(dir: &Path, asked: &Asked) -> Report {
    let mut reports = verify_all(dir, asked).unwrap();
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

pub fn folder(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.write(&dir.path().join("main"));
    dir
}

/// What the asker knows of the log: all anchors, and the root key.
pub fn trust(files: &Files) -> Trust {
    let text = files.anchors.concat();
    Trust { anchors: anchors("anchors.notes", &text), root_key: Some(root_key().key().clone()), spares_others: false, keys: vec![] }
}

fn asked(trust: Trust) -> Asked {
    Asked { trust, ..Asked::default() }
}

#[test]
fn a_log_with_seals_is_sound_and_what_is_signed_vouched_for_and_anchored_is_told() {
    let made = sealed("owner").made;
    let dir = folder(&made);
    let report = check(dir.path(), &asked(trust(&made)));
    assert_eq!(report.findings, []);
    let last = |held: &Option<doorward::audit::verify::Held>| held.as_ref().unwrap().last;
    assert_eq!((report.records, report.segments, report.anchors), (60, 4, 6));
    assert_eq!((last(&report.signed), last(&report.vouched), last(&report.anchored)), (55, 55, 55));
    assert_eq!(report.unseen().len(), 2, "{:#?}", report.unseen());
    assert!(report.unseen()[0].contains("after 55") && report.unseen()[0].contains("2026-11-21T10:01:00Z"), "{:#?}", report.unseen());
}

#[test]
fn what_was_not_given_is_told_as_not_seen() {
    let made = sealed("owner").made;
    let dir = folder(&made);
    let unseen = check(dir.path(), &Asked::default()).unseen();
    assert!(unseen[0].contains("without an anchor") && unseen[1].contains("after 55") && unseen[2].contains("--root-key"), "{unseen:#?}");
}

#[test]
fn every_range_is_checked_from_the_seal_before_it() {
    let made = sealed("owner").made;
    let dir = folder(&made);
    let last_records = [16, 30, 45, 60];
    for from in 1..=60 {
        for to in from..=60 {
            let report = check(dir.path(), &Asked { from: Some(from), to: Some(to), ..asked(trust(&made)) });
            assert_eq!(report.findings, [], "{from} to {to}");
            let head = report.head.as_ref().unwrap().0;
            let read_from = head + 1 - report.records;
            assert!(read_from <= from && to <= head && from - read_from < 16 && last_records.contains(&head), "{from} to {to}: {report:?}");
            assert!(report.signed.is_some());
        }
    }
}

#[test]
fn parts_of_a_log_whose_tree_began_anew_are_held_against_their_own_tree() {
    let mut made = Maker::new("main", "owner");
    made.records(7).rotate().records(5).begin_anew().records(3).rotate().records(4).checkpoint();
    let dir = folder(&made.made);
    let report = check(dir.path(), &Asked { from: Some(19), ..Asked::default() });
    assert_eq!((report.findings.as_slice(), report.unread, report.signed.unwrap().last), (&[][..], Some(18), 23));
}

#[test]
fn two_claims_of_one_key_about_the_same_records_cannot_both_be_true_read_or_not() {
    let made = sealed("owner");
    let mut other = Maker::new("main", "owner");
    other.records(14);
    other.append(&Record { action: Some("other".into()), ..Record::new(Kind::Lifecycle) });
    other.rotate();
    let mut known = trust(&made.made);
    known.anchors.extend(trust(&other.made).anchors);
    let dir = folder(&made.made);
    let report = check(dir.path(), &Asked { from: Some(31), ..asked(known) });
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert_eq!((report.findings[0].seq, report.unread), (Some(16), Some(30)));
    assert!(report.findings[0].what.contains("another root than"), "{report:#?}");
}

#[test]
fn since_the_newest_anchor_only_its_segment_and_later_ones_are_read() {
    let mut made = sealed("owner").made;
    made.anchors.truncate(4);
    let dir = folder(&made);
    let report = check(dir.path(), &Asked { since_anchor: true, ..asked(trust(&made)) });
    assert_eq!((report.findings.as_slice(), report.unread, report.anchored.unwrap().last), (&[][..], Some(30), 43));
}

#[test]
fn a_log_of_an_older_version_is_checked_by_its_chain_and_goes_on_with_keys() {
    let mut made = Maker::without_keys("main");
    made.records(7).begin_without_seal();
    made.records(7);
    let dir = folder(&made.made);
    let report = check(dir.path(), &Asked::default());
    assert_eq!((report.findings.as_slice(), report.records, report.unseen().len()), (&[][..], 16, 1));

    made.start_to_sign("owner");
    made.records(4).rotate().records(2).checkpoint();
    made.made.write(&dir.path().join("main"));
    let report = check(dir.path(), &asked(Trust { root_key: None, ..trust(&made.made) }));
    assert_eq!((report.findings.as_slice(), report.anchored.unwrap().last), (&[][..], 24));
}

#[test]
fn a_pruned_log_is_sound_from_the_seal_on() {
    let mut made = sealed("owner");
    made.say_pruned(1);
    made.say_pruned(17);
    let made = made.checkpoint().remove(1).remove(17).made.clone();
    let dir = folder(&made);
    let report = check(dir.path(), &asked(trust(&made)));
    assert_eq!((report.findings.as_slice(), report.pruned, report.records), (&[][..], Some(30), 32));
    assert_eq!(report.vouched.as_ref().unwrap().last, 62);
    assert!(report.unseen()[0].contains("up to 30") && !report.unseen()[0].contains("no anchor"), "{:?}", report.unseen());
    let older = Trust { anchors: trust(&sealed("owner").made).anchors, ..trust(&made) };
    let unseen = check(dir.path(), &asked(older)).unseen();
    assert!(unseen[0].contains("no anchor that was given covers record 62"), "{unseen:?}");

    for (first, last) in [(1, 16), (17, 30)] {
        let mut left = made.clone();
        left.files.remove(&seal(first, "peaks")).unwrap();
        left.write(&dir.path().join("main"));
        let report = check(dir.path(), &asked(trust(&made)));
        assert_eq!((report.findings[0].seq, report.findings[0].file.clone()), (Some(last), seal(first, "peaks")));
    }
    let mut left = made.clone();
    left.files.remove(&seal(1, "note")).unwrap();
    left.write(&dir.path().join("main"));
    let report = check(dir.path(), &asked(trust(&made)));
    assert_eq!((report.findings[0].seq, report.findings[0].file.clone()), (Some(1), seal(1, "note")));
}

#[test]
fn a_segment_that_is_gone_without_a_record_of_its_removal_is_missed() {
    let gone = |made: &mut Maker, removed: &[u64]| {
        removed.iter().for_each(|first| drop(made.made.files.remove(&segment(*first)).unwrap()));
        let found = check(folder(&made.made).path(), &asked(trust(&made.made))).findings;
        found.iter().map(|finding| (finding.seq.unwrap(), finding.file.clone(), finding.what.clone())).collect::<Vec<_>>()
    };
    let missed = |first: u64| {
        let what = "the segment is gone, and no record says that retention removed it".to_owned();
        vec![(first, format!("{first:020}.jsonl"), what)]
    };
    assert_eq!(gone(&mut sealed("owner"), &[1]), missed(1));
    assert_eq!(gone(&mut sealed("owner"), &[1, 17, 31]), missed(1));
    let mut made = sealed("owner");
    made.say_pruned(1);
    assert_eq!(gone(made.checkpoint(), &[1, 17]), missed(17));
    // The record comes before the removal, and an earlier one may have gone with its segment.
    let mut made = sealed("owner");
    made.say_pruned(17);
    made.checkpoint();
    assert_eq!(gone(&mut made, &[1]), []);
    assert_eq!(gone(&mut made, &[17]), []);
    assert_eq!(gone(&mut made, &[31]), missed(31));
    // What an agent says is no such record.
    let mut made = sealed("owner");
    let args = Some(r#"{"action":"prune","kind":"lifecycle","subject":"00000000000000000001.jsonl"}"#.into());
    made.append(&Record { args, ..Record::new(Kind::Intent) });
    assert_eq!(gone(made.checkpoint(), &[1]), missed(1));
}

#[test]
fn a_segment_that_is_gone_by_a_record_which_nobody_signed_is_missed() {
    // Whoever holds the disk and not the key: a record put behind the last one, and the front taken away.
    let mut made = sealed("owner");
    made.say_pruned(17);
    let honest = trust(&made.made);
    made.remove(1).remove(17);
    let dir = folder(&made.made);
    let report = check(dir.path(), &asked(honest));
    let what = "the segment is gone, and the record of its removal is not signed: no gateway removes one before that";
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert_eq!((report.findings[0].seq, report.findings[0].what.as_str()), (Some(1), what));
}

#[test]
fn a_seal_taken_away_is_missed_as_soon_as_it_is_the_newest_checkpoint_or_anything_is_signed_after_it() {
    let first_of = |made: &Maker, gone: &str| {
        let mut left = made.made.clone();
        left.files.remove(gone).unwrap();
        let report = check(folder(&left).path(), &Asked::default());
        (report.findings.first().map(|found| (found.seq.unwrap(), found.file.clone())), report.unsealed)
    };
    // A stop: the last segment's.
    let mut stopped = sealed("owner");
    stopped.seal(&signer("doorward/main", "next"));
    // A rotation of which all is done.
    let mut rotated = sealed("owner");
    rotated.rotate().records(2);
    // The same, and an older checkpoint put back: that is how a crash looks.
    let mut as_crashed = sealed("owner");
    as_crashed.rotate().records(2);
    as_crashed.made.files.insert("checkpoint.note".to_owned(), sealed("owner").made.files["checkpoint.note"].clone());
    for ending in ["note", "peaks"] {
        let gone = seal(46, ending);
        for made in [&stopped, &rotated] {
            assert_eq!(first_of(made, &gone), (Some((60, gone.clone())), None));
        }
        assert_eq!(first_of(&as_crashed, &gone), (None, Some(60)));
    }
    // An anchor has what the disk has not any more.
    let mut left = as_crashed.made.clone();
    left.files.remove(&seal(46, "note")).unwrap();
    let report = check(folder(&left).path(), &asked(trust(&rotated.made)));
    assert_eq!(report.findings[0].file, seal(46, "note"));
}

#[test]
fn a_seal_without_the_next_segment_is_what_a_crash_can_leave() {
    let mut made = Maker::new("main", "owner");
    made.records(7).seal(&signer("doorward/main", "next"));
    let dir = folder(&made.made);
    assert!(check(dir.path(), &asked(Trust { root_key: None, ..trust(&made.made) })).is_sound());
}

#[test]
fn a_tree_that_began_anew_is_told_and_the_rest_is_held_against_it() {
    let mut made = Maker::new("main", "owner");
    made.records(7).rotate().records(5).begin_anew().records(3).checkpoint().records(1);
    let dir = folder(&made.made);
    let report = check(dir.path(), &Asked::default());
    let found: Vec<_> = report.findings.iter().map(|finding| finding.seq).collect();
    assert_eq!((found, report.signed.unwrap().last), (vec![Some(14), Some(15)], 18));
    assert!(report.findings[1].what.contains("new tree"), "{:?}", report.findings);
}
