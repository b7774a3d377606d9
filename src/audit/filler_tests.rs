//! Tests of the filler: turns as they come, and the thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::audit::index::Index;
use crate::audit::index::tests::{answers_are_those_of_the_log, write};

fn source(dir: &Path) -> Source {
    Source { dir: dir.to_owned(), records: Box::new(|| 0), indexed: Indexed::default(), spare_bytes: 0 }
}

/// A log and the beginning of its index, without which a small log has none.
fn begun(seed: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", seed, 3, 150);
    drop(Index::open(dir.path()).unwrap());
    dir
}

/// Turns until all is in: how much one takes in is a matter of the machine.
fn turned(source: &Source) -> u64 {
    let turns = std::iter::repeat_with(|| source.turn().unwrap());
    let mut taken = 0;
    for Filled { records, is_done } in turns {
        taken += records;
        if is_done {
            break;
        }
    }
    taken
}

fn standing(source: &Source) -> Standing {
    source.indexed.standing().borrow().clone()
}

#[test]
fn a_turn_takes_in_what_is_there_and_the_next_what_has_come() {
    let dir = begun(1);
    let source = source(dir.path());
    turned(&source);
    // The newest segment is written yet, and its few records make no chunk.
    assert_eq!(standing(&source), Standing { records: 300, failing: None });
    write(dir.path(), "main", 1, 5, 150);
    assert_eq!(turned(&source), 300);
    assert_eq!(standing(&source).records, 600);
    let mut logs = Logs::in_dir(dir.path()).unwrap();
    assert_eq!(logs.with_index(dir.path(), None, &mut |_| {}).unwrap().records, 0, "nothing is left for who asks");
    answers_are_those_of_the_log(dir.path(), &logs, 1);
}

#[test]
fn a_small_log_gets_no_index() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "main", 2, 3, 150);
    let source = source(dir.path());
    assert_eq!(source.turn().unwrap(), Filled { records: 0, is_done: true });
    assert!(!Index::file(dir.path()).exists());
}

#[test]
fn an_index_that_was_deleted_or_spoiled_between_two_turns_is_made_again() {
    let dir = begun(3);
    let source = source(dir.path());
    source.turn().unwrap();
    write(dir.path(), "main", 3, 4, 150);
    let (file, mut journal) = (Index::file(dir.path()), Index::file(dir.path()).into_os_string());
    journal.push("-wal");
    std::fs::write(&journal, b"of nobody").unwrap();
    std::fs::remove_file(&file).unwrap();
    // Alone it would be a small log without an index.
    std::fs::write(&file, b"").unwrap();
    assert_eq!(source.turn().unwrap(), Filled { records: 450, is_done: true });
    std::fs::write(&file, b"no database").unwrap();
    assert_eq!(source.turn().unwrap(), Filled { records: 450, is_done: true });
    let mut logs = Logs::in_dir(dir.path()).unwrap();
    logs.with_index(dir.path(), None, &mut |_| {}).unwrap();
    answers_are_those_of_the_log(dir.path(), &logs, 3);
}

#[test]
fn the_last_space_is_the_logs_and_the_reason_is_shown_until_it_goes_on() {
    let dir = begun(4);
    let mut source = source(dir.path());
    source.turn().unwrap();
    write(dir.path(), "main", 4, 5, 150);
    source.spare_bytes = u64::MAX;
    let before = std::fs::metadata(Index::file(dir.path())).unwrap().len();
    let why = source.turn().unwrap_err();
    source.indexed.fails(why.to_string());
    assert!(standing(&source).failing.unwrap().contains("MiB are free"));
    assert_eq!((standing(&source).records, std::fs::metadata(Index::file(dir.path())).unwrap().len()), (300, before));
    source.spare_bytes = 0;
    source.turn().unwrap();
    assert_eq!(standing(&source), Standing { records: 600, failing: None });
}

#[test]
fn while_another_fills_it_the_filler_waits_and_that_is_no_fault() {
    let dir = begun(5);
    let source = source(dir.path());
    let held = crate::audit::index::tests::held(dir.path());
    assert_eq!(source.turn().unwrap(), Filled { records: 0, is_done: false });
    assert_eq!(standing(&source).failing, None);
    drop(held);
    assert_eq!(source.turn().unwrap().records, 300);
}

#[test]
fn a_burst_is_left_alone_until_its_end_or_until_too_much_has_come() {
    let chunk = CHUNK as u64;
    assert!(!is_due(0, 0, chunk - 1), "no chunk yet");
    assert!(is_due(0, chunk, chunk + BURST - 1), "a chunk, and it is quiet");
    assert!(!is_due(0, chunk, chunk + BURST), "a chunk, in a burst");
    assert!(!is_due(0, FAR - 1 - BURST, FAR - 1));
    assert!(is_due(0, FAR - BURST, FAR), "a burst without an end");
    assert!(!is_due(9, 9, 3), "a log that begins anew");
}

#[tokio::test]
async fn the_thread_fills_as_the_log_grows_and_ends_with_its_handle() {
    let dir = begun(6);
    let grown = Arc::new(AtomicU64::new(450));
    let seen = Arc::clone(&grown);
    let indexed = Indexed::default();
    let mut standing = indexed.standing();
    let records = Box::new(move || seen.load(Ordering::Relaxed));
    let filler = Filler::start(Source { records, indexed, ..source(dir.path()) }).unwrap();
    standing.wait_for(|standing| standing.records == 300).await.unwrap();
    write(dir.path(), "main", 6, 5, 150);
    grown.fetch_add(CHUNK as u64, Ordering::Relaxed);
    standing.wait_for(|standing| standing.records == 600).await.unwrap();
    drop(filler);
    // The thread lets go of where it shows its standing.
    assert!(standing.wait_for(|_| false).await.is_err());
}
