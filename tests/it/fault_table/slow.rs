//! A disk whose sync takes long, or for ever: nobody waits beyond the deadline, what waits is bounded, and nothing is done unrecorded.
//!
//! The log's own thread does the syncs; time stands, and passes only while one of them is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::{AppendError, Durability, Log, Options};
use tokio::time::Instant;

use super::world::{World, intent, options, outcome, violations};
use super::{Row, row, run};

const DEADLINE: Duration = Duration::from_secs(2);
const CALLERS: u64 = 32;
const CALLS: u64 = 4;

pub fn rows() -> impl Iterator<Item = Row> {
    [
        row("a sync takes 50 ms", 20, |seed| run(round(seed, Some(Duration::from_millis(50))))),
        row("a sync takes 1 s", 20, |seed| run(round(seed, Some(Duration::from_secs(1))))),
        row("a sync takes for ever", 20, |seed| run(round(seed, None))),
    ]
    .into_iter()
}

/// What one caller saw.
struct Seen {
    received: Vec<String>,
    longest: Duration,
    wrong: Vec<String>,
}

async fn round(seed: u64, sync: Option<Duration>) -> Vec<String> {
    let disk = SimulatedDisk::new();
    let log = Log::open(Options { has_thread: true, deadline_ms: 2_000, ..options() }, Arc::new(disk.clone())).unwrap().0;
    disk.faults(|faults| faults.hold_syncs = true);
    let waiting = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..CALLERS).map(|caller| tokio::spawn(calls(log.clone(), Arc::clone(&waiting), seed, caller))).collect();
    let mut world = World::default();
    let mut wrong = Vec::new();
    // A runtime that is busy lets no time pass by itself.
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        let is_syncing = disk.counts().held > 0;
        if is_syncing {
            for _ in 0..8 {
                tokio::time::advance(sync.unwrap_or(DEADLINE) / 8).await;
            }
            if sync.is_some() {
                disk.let_one_through();
            }
        } else if waiting.load(Ordering::Relaxed) == 0 {
            // Until somebody comes; then the sync begins at that moment.
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::task::yield_now().await;
    }
    for caller in callers {
        let seen = caller.await.unwrap();
        world.received.extend(seen.received);
        wrong.extend(seen.wrong);
        if seen.longest > DEADLINE + Duration::from_millis(100) {
            wrong.push(format!("somebody waited {:?}", seen.longest));
        }
    }
    if log.health().waiting > CALLERS {
        wrong.push(format!("{} records wait", log.health().waiting));
    }
    if sync.is_none() && !world.received.is_empty() {
        wrong.push("something was done although nothing was ever synced".to_owned());
    }
    if sync.is_some_and(|sync| sync * 2 < DEADLINE) && world.received.len() as u64 != CALLERS * CALLS {
        wrong.push(format!("{} of {} calls were taken", world.received.len(), CALLERS * CALLS));
    }
    disk.power_loss(seed);
    drop(log);
    let _recovered = Log::open(options(), Arc::new(disk.clone())).unwrap();
    wrong.extend(violations(&disk, &world));
    wrong
}

async fn calls(log: Log, waiting: Arc<AtomicU64>, seed: u64, caller: u64) -> Seen {
    let mut random = Random(seed << 16 | caller);
    let mut seen = Seen { received: Vec::new(), longest: Duration::ZERO, wrong: Vec::new() };
    for call in 0..CALLS {
        let call = format!("{caller}-{call}");
        tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        let since = Instant::now();
        waiting.fetch_add(1, Ordering::Relaxed);
        let stored = log.append(log.encode(&intent(&call)), Durability::Sync).await;
        waiting.fetch_sub(1, Ordering::Relaxed);
        seen.longest = seen.longest.max(since.elapsed());
        match stored {
            Ok(stored) => {
                seen.received.push(call.clone());
                let _kept = log.hand_over(log.encode(&outcome(&call, stored.seq)));
            }
            Err(AppendError::Deadline | AppendError::Closed) => {}
            Err(error) => seen.wrong.push(format!("{call} was refused for another reason: {error}")),
        }
    }
    seen
}
