//! A segment of the audit log: no reader panics over it, what is called sound is a chain, and a start takes it or refuses it.

use doorward::audit::chain::{Chain, Line, leaf};
use doorward::audit::find::read_all;
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::verify::verify;
use doorward::audit::{Log, OpenError, Options};
use doorward::clock::Clock;

/// The first segment of an origin.
const FIRST: &str = "00000000000000000001.jsonl";

/// Checks a segment.
pub fn check(data: &[u8]) {
    let disk = SimulatedDisk::new();
    disk.put(FIRST, data);
    let records = read_all(&disk).expect("a simulated disk can be read");
    let report = verify(&disk, "main").expect("a simulated disk can be read");
    if report.is_sound() {
        is_chain(&records.iter().map(|stored| (stored.seq, &*stored.line)).collect::<Vec<_>>());
    }
    match open(&disk) {
        Ok(log) => drop(log),
        Err(OpenError::Damaged { .. }) => {}
        Err(other) => panic!("{other}"),
    }
    // What a start has taken or left is taken or left by the next one, too.
    if let Ok(log) = open(&disk) {
        drop(log);
        assert!(open(&disk).is_ok(), "a log that was taken is refused");
    }
}

fn open(disk: &SimulatedDisk) -> Result<Log, OpenError> {
    let options = Options {
        clock: Clock::fixed(1_795_255_200_000_000_000),
        has_thread: false,
        reserve_bytes: 0,
        outcome_room_bytes: 1_024,
        space_check_ms: 0,
        ..Options::default()
    };
    Log::open(options, disk.process()).map(|(log, _)| log)
}

/// Each line has the next number and continues the chain of the line before it.
fn is_chain(lines: &[(u64, &str)]) {
    let mut chain: Option<Chain> = None;
    for (number, (seq, line)) in lines.iter().enumerate() {
        let line = Line::split(line.as_bytes()).expect("a line");
        let before = chain.unwrap_or_else(|| Chain::first("main"));
        assert_eq!(*seq, number as u64 + 1, "a sound log has every number");
        assert!(before.link(leaf(line.open_body)) == line.chain, "a sound log is a chain, at {seq}");
        chain = Some(line.chain);
    }
}
