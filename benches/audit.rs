//! What a record costs: CPU, throughput behind a slow sync, how long an intent waits, and what a write adds on the real disk.
//!
//! `cargo bench --bench audit`; `benches/README.md` explains the figures. A figure is never a failure; a record that is refused is.

#![allow(clippy::expect_used, reason = "a bench that cannot go on ends")]

mod audit_disk;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use audit_disk::Memory;
use clap::Parser;
use doorward::audit::disk::Disk;
use doorward::audit::record::Record;
use doorward::audit::redact::{Declared, ValueKey, view};
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::{Durability, Kind, Log, Options};
use doorward::catalog::manifest::Treatment;
use doorward::mcp::json::{Limits, parse};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;

/// Measures the audit log by itself.
#[derive(Parser)]
#[command(name = "cargo bench --bench audit --")]
struct Arguments {
    /// Records whose CPU is measured.
    #[arg(long, default_value_t = 400_000)]
    records: u64,
    /// Where the real disk's figures are taken.
    #[arg(long, default_value = "target")]
    folder: std::path::PathBuf,
    /// Only the CPU of a record, for a profiler.
    #[arg(long)]
    cpu: bool,
    /// Given by `cargo bench`, and not by `cargo test`, which should not wait for this.
    #[arg(long, hide = true)]
    bench: bool,
}

const ARGUMENTS: &str = r#"{"path":"notes/2026/plan.md","text":"a line of some fifty letters for a note of no use","count":3}"#;
/// One sync of the disk that group commit is measured on: what `fdatasync` took on a common cloud volume.
const SYNC: Duration = Duration::from_millis(4);
/// In real time: for a thread that was woken to begin what it does.
const TO_BEGIN: Duration = Duration::from_micros(500);

fn main() {
    let options = Arguments::parse();
    if !options.bench {
        return;
    }
    println!("{:<66} {:>12} {:>14}", "figure", "measured", "bar");
    cpu(options.records);
    if options.cpu {
        return;
    }
    for callers in [64, 256, 1_024] {
        throughput(callers);
    }
    for callers in [1, 4, 16, 64, 256] {
        wait(callers);
    }
    for callers in [1, 16] {
        real_write(&options.folder, callers);
    }
}

fn line(figure: &str, measured: &str, bar: &str) {
    println!("{figure:<66} {measured:>12} {bar:>14}");
}

fn log_options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

/// An intent as the request path makes one: the arguments parsed before, shown and hashed here.
fn intent<'a>(view: &'a doorward::audit::redact::View) -> Record<'a> {
    let text = |text: &'static str| Some(text.into());
    Record {
        call_id: text("01a20016-59db-75d4-b7e2-e7f087fe44ca"),
        principal: text("agent:demo"),
        agent: text("demo"),
        target: text("files__write_file"),
        upstream: text("files"),
        tier: text("reversible"),
        jsonrpc_id: text("16"),
        method: text("tools/call"),
        credential_id: text("9af109b859a7"),
        client: text("inspector/1.0"),
        peer: text("127.0.0.1:55732"),
        transport: text("http"),
        protocol_version: text("2026-07-28"),
        policy_version: text("sha256:d01cdc2877ca1efb36067c877c80beca09b2ec812908df2585008cf05a1d7d1b"),
        tool_def_hash: text("sha256:39c1fb671d696faa50435ea696a05f14526acf7e57fdd377b5283b123a0d255a"),
        rule_ids: vec!["R1".into()],
        args: Some(view.text.as_str().into()),
        args_hash: Some(view.digest.as_str().into()),
        args_bytes: Some(ARGUMENTS.len() as u64),
        decision: text("allow"),
        ..Record::new(Kind::Intent)
    }
}

fn outcome(intent_seq: u64) -> Record<'static> {
    let text = |text: &'static str| Some(text.into());
    Record {
        call_id: text("01a20016-59db-75d4-b7e2-e7f087fe44ca"),
        principal: text("agent:demo"),
        agent: text("demo"),
        target: text("files__write_file"),
        upstream: text("files"),
        tier: text("reversible"),
        intent_seq: Some(intent_seq),
        outcome: text("ok"),
        effect: text("done"),
        duration_us: Some(812),
        upstream_us: Some(700),
        result_bytes: Some(420),
        result_hash: text("hmac:e918:39f2300f5ed44a09898965d9b14d37f2"),
        ..Record::new(Kind::Outcome)
    }
}

/// Stores one call: the intent is waited for, the outcome handed over.
async fn call(log: &Log, key: &ValueKey, durability: Durability) -> Duration {
    let node = parse(ARGUMENTS.as_bytes(), Limits::default()).expect("the arguments are sound");
    let names = ["count".into(), "path".into(), "text".into()];
    let fields = [("/path".to_owned(), Treatment::Plain)];
    let shown = view(Some(&node), Declared { fields: &fields, names: &names, are_valid: true }, key);
    let since = tokio::time::Instant::now();
    let stored = log.append(log.encode(&intent(&shown)), durability).await.expect("the intent is stored");
    let waited = since.elapsed();
    log.hand_over(log.encode(&outcome(stored.seq))).expect("the outcome is taken");
    waited
}

fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

fn cpu(records: u64) {
    let (log, _) = Log::open(log_options(), Arc::new(Memory::new(Duration::ZERO))).expect("the log opens");
    let key = ValueKey::new(&[7; 32]);
    let before = cpu_time();
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(async {
        for _ in 0..records / 2 {
            call(&log, &key, Durability::Write).await;
        }
    });
    let each = (cpu_time() - before).as_secs_f64() * 1e6 / records as f64;
    line("CPU of a record", &format!("{each:.2} us"), "5 us");
}

fn throughput(callers: u64) {
    let (log, _) = Log::open(log_options(), Arc::new(Memory::new(SYNC))).expect("the log opens");
    let (began, calls) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let length = Duration::from_secs(2);
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime").block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (log, calls) = (log.clone(), Arc::clone(&calls));
                tokio::spawn(async move {
                    let key = ValueKey::new(&[7; 32]);
                    while began.elapsed() < length {
                        call(&log, &key, Durability::Sync).await;
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a caller ends");
        }
    });
    let records = 2.0 * calls.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    let bar = if callers >= 256 { "50000/s" } else { "" };
    line(&format!("records a second, one sync takes 4 ms, {callers} callers"), &format!("{records:.0}/s"), bar);
}

/// The longest wait of an intent in syncs. Time stands, and passes only while a sync is under way, so what is counted is what the log makes
/// of it and not what the machine does beside.
fn wait(callers: u64) {
    let disk = SimulatedDisk::new();
    let (log, _) = Log::open(log_options(), Arc::new(disk.clone())).expect("the log opens");
    disk.faults(|faults| faults.hold_syncs = true);
    let waits = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime").block_on(async {
        let waiting = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (log, waiting) = (log.clone(), Arc::clone(&waiting));
                tokio::spawn(async move {
                    let (key, mut waits) = (ValueKey::new(&[7; 32]), Vec::new());
                    for at in 0..8_u32 {
                        let pause = (caller as u32).wrapping_mul(2_654_435_761).wrapping_add(at.wrapping_mul(40_503)) % 64;
                        tokio::time::sleep(SYNC * pause / 64).await;
                        waiting.fetch_add(1, Ordering::Relaxed);
                        waits.push(call(&log, &key, Durability::Sync).await);
                        waiting.fetch_sub(1, Ordering::Relaxed);
                    }
                    waits
                })
            })
            .collect();
        while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
            let is_syncing = disk.counts().held > 0;
            if is_syncing {
                // What is done beside that sync takes no time of its own, if it begins now.
                std::thread::sleep(TO_BEGIN);
                for _ in 0..64 {
                    tokio::time::advance(SYNC / 64).await;
                }
                disk.let_all_through();
            } else if waiting.load(Ordering::Relaxed) == 0 {
                // Until somebody comes; then the sync begins at that moment.
                tokio::time::advance(SYNC / 64).await;
            }
            tokio::task::yield_now().await;
        }
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.expect("a caller ends"));
        }
        waits
    });
    disk.faults(|faults| faults.hold_syncs = false);
    let in_syncs = |wait: Duration| wait.as_secs_f64() / SYNC.as_secs_f64();
    let mean = waits.iter().copied().map(in_syncs).sum::<f64>() / waits.len() as f64;
    let longest = waits.into_iter().map(in_syncs).fold(0.0, f64::max);
    line(&format!("longest wait of an intent in syncs, {callers} callers (mean {mean:.2})"), &format!("{longest:.2}"), "2.10");
}

fn real_write(folder: &Path, callers: u64) {
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let disk = Disk::open(folder.path(), &folder.path().join("keys"), "main").expect("a disk");
    let (log, _) = Log::open(log_options(), Arc::new(disk)).expect("the log opens");
    let mut waits = Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime").block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let log = log.clone();
                tokio::spawn(async move {
                    let (key, mut waits) = (ValueKey::new(&[7; 32]), Vec::new());
                    for _ in 0..20_000 / callers {
                        waits.push(call(&log, &key, Durability::Write).await);
                    }
                    waits
                })
            })
            .collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.expect("a caller ends"));
        }
        waits
    });
    waits.sort_unstable();
    let micros = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let bar = if callers == 1 { "30 us" } else { "" };
    let p99 = micros(0.99);
    line(&format!("`write` adds to an intent at p50, {callers} callers (p99 {p99:.0} us)"), &format!("{:.1} us", micros(0.5)), bar);
}
