//! What goes wrong with machines, disks and clocks, again and again, and what must hold after it. One command prints the table:
//!
//! ```text
//! cargo test --test it fault_table -- --nocapture
//! DOORWARD_FAULTS=50 cargo test --release --test it fault_table -- --nocapture        fifty times as many rounds
//! ```
//! The invariant each time: what a tool server received is in the intents, every intent has exactly one end, the chain verifies, and
//! each refusal that an agent was told of is there. `DOORWARD_FAULT_SEED` makes other schedules, `DOORWARD_FAULT_ROW` runs only the rows whose name
//! holds these words.

/// What a disk around another passes on as it is: notes and keys, each change through `step`.
macro_rules! passes_notes_on {
    ($this:ident, $inner:expr, |$work:ident| $step:expr) => {
        fn note(&$this, name: &str) -> std::io::Result<Option<Vec<u8>>> {
            $inner.note(name)
        }
        fn put_note(&$this, name: &str, bytes: &[u8]) -> std::io::Result<()> {
            let $work = || $inner.put_note(name, bytes);
            $step
        }
        fn seals(&$this) -> std::io::Result<Vec<String>> {
            $inner.seals()
        }
        fn key(&$this, slot: doorward::audit::storage::Slot) -> std::io::Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
            $inner.key(slot)
        }
        fn put_next_key(&$this, bytes: &[u8]) -> std::io::Result<()> {
            let $work = || $inner.put_next_key(bytes);
            $step
        }
        fn erase_key(&$this) -> std::io::Result<()> {
            let $work = || $inner.erase_key();
            $step
        }
        fn promote_key(&$this) -> std::io::Result<()> {
            let $work = || $inner.promote_key();
            $step
        }
        fn payloads(&$this) -> std::io::Result<Vec<String>> {
            $inner.payloads()
        }
        fn payload(&$this, name: &str) -> std::io::Result<Option<Vec<u8>>> {
            $inner.payload(name)
        }
        fn put_payload(&$this, name: &str, bytes: &[u8]) -> std::io::Result<()> {
            let $work = || $inner.put_payload(name, bytes);
            $step
        }
        fn remove_payloads(&$this, names: &[String]) -> std::io::Result<()> {
            let $work = || $inner.remove_payloads(names);
            $step
        }
        fn erase_payload(&$this, name: &str) -> std::io::Result<()> {
            let $work = || $inner.erase_payload(name);
            $step
        }
    };
}

mod broken;
mod disks;
mod kills;
mod slow;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One line of the table, which is printed as soon as it is there.
pub struct Row {
    violations: Vec<String>,
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Runs a round for each number below `rounds` (times what the environment says) on all cores. A round says what does not hold after it.
fn row(fault: &'static str, rounds: u64, round: impl Fn(u64) -> Vec<String> + Sync) -> Row {
    rows_of(fault, rounds, 1, round)
}

/// The same where one round is of so many `parts` that each count.
fn rows_of(fault: &'static str, rounds: u64, parts: u64, round: impl Fn(u64) -> Vec<String> + Sync) -> Row {
    if std::env::var("DOORWARD_FAULT_ROW").is_ok_and(|wanted| !fault.contains(&wanted)) {
        return Row { violations: Vec::new() };
    }
    let rounds = rounds * number("DOORWARD_FAULTS", 1);
    let first = number("DOORWARD_FAULT_SEED", 0);
    let since = Instant::now();
    let (next, violations) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < rounds) {
            let seed = first.wrapping_add(at);
            let found = catch_unwind(AssertUnwindSafe(|| round(seed))).unwrap_or_else(|_| vec!["the round panicked".to_owned()]);
            let mut violations = violations.lock().unwrap_or_else(PoisonError::into_inner);
            violations.extend(found.into_iter().map(|what| format!("{fault}, seed {seed}: {what}")));
        }
    };
    std::thread::scope(|scope| {
        let others = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8)) - 1;
        (0..others).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let violations = violations.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{fault:<58} {:>8} {:>10} {:>6.1} s", rounds * parts, violations.len(), since.elapsed().as_secs_f32());
    Row { violations }
}

/// A runtime for one round, with a clock that stands still.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

#[test]
fn fault_table() {
    println!("\n{:<58} {:>8} {:>10} {:>8}", "fault", "rounds", "violations", "took");
    let rows: Vec<Row> = kills::rows().chain(disks::rows()).chain(slow::rows()).chain(broken::rows()).collect();
    let found: Vec<_> = rows.iter().flat_map(|row| &row.violations).take(20).collect();
    assert!(found.is_empty(), "{found:#?}");
}
