//! Power loss on a disk that drops, tears and reorders; a disk that is full at every byte; two that start at once; a clock that is set.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use doorward::audit::disk::Disk;
use doorward::audit::find::read_all;
use doorward::audit::record::Record;
use doorward::audit::redact::ValueKey;
use doorward::audit::simulated::{Random, SimulatedDisk};
use doorward::audit::storage::{SegmentFile, Storage};
use doorward::audit::trail::Audit;
use doorward::audit::{AppendError, Durability, Log, OpenError, Options};
use doorward::clock::Clock;
use doorward::config::DurabilityByTier;

use super::world::{World, intent, options, outcome, refusal, violations};
use super::{Row, row, run};

pub fn rows() -> impl Iterator<Item = Row> {
    [
        row("power loss or kill at any step: dropped, torn, reordered", 10_000, |seed| run(schedule(seed))),
        row("a full disk, at every 16th byte of 64 KiB or so", 1 << 12, |at| run(full(at.wrapping_mul(STRIDE) % (1 << 16)))),
        row("two that start at once", 200, |_| two_starters()),
        row("the clock is set back and forward", 200, |seed| run(clock_steps(seed))),
    ]
    .into_iter()
}

/// Odd, so that sixteen times as many rounds (`DOORWARD_FAULTS=16`) are every budget once.
const STRIDE: u64 = 4_099;

/// A disk whose machine or process ends at some step.
#[derive(Clone)]
struct Doomed {
    disk: SimulatedDisk,
    process: Arc<dyn Storage>,
    seed: u64,
    left: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Doomed {
    /// One step of work. The crash comes before it or after it, and in either case nobody hears of it.
    fn step<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(io::Error::other("the process has ended"));
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return work();
        }
        let mut random = Random(self.seed);
        if random.below(2) == 0 {
            let _nobody_hears = work();
        }
        self.crash(&mut random);
        Err(io::Error::other("the process has ended"))
    }

    fn crash(&self, random: &mut Random) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            match self.is_power_loss() {
                true => self.disk.power_loss(random.below(u64::MAX)),
                false => self.disk.kill(),
            }
        }
    }

    fn is_power_loss(&self) -> bool {
        !self.seed.is_multiple_of(3)
    }

    fn runs(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

impl Storage for Doomed {
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.process.lock()
    }
    fn is_locked(&self) -> bool {
        self.process.is_locked()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.process.list()
    }
    fn size(&self, name: &str) -> io::Result<u64> {
        self.process.size(name)
    }
    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        self.process.read(name, offset)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let file = self.step(|| self.process.create(name))?;
        Ok(Arc::new(DoomedFile { disk: self.clone(), file }))
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.step(|| self.process.truncate(name, len))
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.step(|| self.process.sync(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(|| self.process.rename(from, to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(|| self.process.remove(name))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.process.free_bytes()
    }
    passes_notes_on!(self, self.process, |work| self.step(work));
}

struct DoomedFile {
    disk: Doomed,
    file: Arc<dyn SegmentFile>,
}

impl SegmentFile for DoomedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.step(|| self.file.append(bytes))
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.step(|| self.file.sync())
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.step(|| self.file.truncate(len))
    }
    fn size_at(&self, name: &str) -> io::Result<Option<u64>> {
        self.file.size_at(name)
    }
}

/// Appends, giving a log without a thread the round of work that it needs.
pub async fn append(log: &Log, record: &Record<'_>, durability: Durability) -> Result<u64, AppendError> {
    let (appended, ()) = tokio::join!(log.append(log.encode(record), durability), async { log.tick() });
    appended.map(|position| position.seq)
}

/// Some lives of one log, each ended by a crash at a step that the seed chooses: also in the midst of a start.
async fn schedule(seed: u64) -> Vec<String> {
    let (disk, mut random, mut world, mut durable) = (SimulatedDisk::new(), Random(seed), World::default(), World::default());
    for life in 0..1 + random.below(3) {
        let doomed = Doomed {
            disk: disk.clone(),
            process: disk.process(),
            seed: random.below(u64::MAX),
            left: Arc::new(AtomicU64::new(1 + random.below(40))),
            is_over: Arc::default(),
        };
        let options = Options { segment_max_bytes: 600 + random.below(4_000), ..options() };
        match Log::open(options, Arc::new(doomed.clone())) {
            Ok((log, _)) => {
                // What a kill left in the cache is made durable by a start that comes to its end.
                durable = world.clone();
                load(&log, life, &doomed, &mut random, &mut world, &mut durable).await;
            }
            Err(error) if doomed.runs() => return vec![format!("life {life} does not start: {error}")],
            Err(_crashed) => {}
        }
        doomed.crash(&mut random);
        if doomed.is_power_loss() {
            world = durable.clone();
        }
    }
    let recovered = Log::open(options(), Arc::new(disk.clone()));
    match recovered {
        Ok(_) => violations(&disk, &world),
        Err(error) => vec![format!("it does not start again: {error}")],
    }
}

/// Calls until the crash; `durable` is what must survive also the loss of power.
async fn load(log: &Log, life: u64, doomed: &Doomed, random: &mut Random, world: &mut World, durable: &mut World) {
    let mut running = Vec::new();
    for call in 0..14 {
        let call = format!("{life}-{call}");
        let durability = if random.below(2) == 0 { Durability::Sync } else { Durability::Write };
        if random.below(3) == 0 {
            let told = append(log, &refusal(&call), durability).await.is_ok() && doomed.runs();
            note(&call, told, durability, &mut world.refused, &mut durable.refused);
            continue;
        }
        let stored = append(log, &intent(&call), durability).await;
        note(&call, stored.is_ok() && doomed.runs(), durability, &mut world.received, &mut durable.received);
        running.extend(stored.map(|seq| (call, seq)));
        if random.below(3) != 0 && !running.is_empty() {
            let (call, seq) = running.swap_remove(random.below(running.len() as u64) as usize);
            let _kept = match random.below(3) {
                0 => log.hand_over(log.encode(&outcome(&call, seq))).is_ok(),
                1 => append(log, &outcome(&call, seq), Durability::Write).await.is_ok(),
                _ => append(log, &outcome(&call, seq), Durability::Sync).await.is_ok(),
            };
        }
        if random.below(12) == 0 {
            log.rotate();
        }
        if !doomed.runs() {
            return;
        }
    }
}

fn note(call: &str, told: bool, durability: Durability, all: &mut BTreeSet<String>, durable: &mut BTreeSet<String>) {
    if told {
        all.insert(call.to_owned());
        if durability == Durability::Sync {
            durable.insert(call.to_owned());
        }
    }
}

/// As many calls as fit, each with large arguments: those that were taken end, those that were refused leave nothing, and all goes on once
/// there is space again.
async fn full(budget: u64) -> Vec<String> {
    let (disk, mut world, mut wrong) = (SimulatedDisk::new(), World::default(), Vec::new());
    let log = Log::open(options(), Arc::new(disk.clone())).unwrap().0;
    let capacity = disk.used() + budget;
    disk.faults(|faults| faults.capacity = Some(capacity));
    let args = format!("{{\"text\":\"{}\"}}", "x".repeat(6_000));
    let mut running = Vec::new();
    for call in 0..12 {
        let call = format!("c{call}");
        let record = Record { args: Some(args.as_str().into()), ..intent(&call) };
        match log.append(log.encode(&record), Durability::Write).await {
            Ok(stored) => {
                world.received.insert(call.clone());
                running.push((call, stored.seq));
            }
            Err(AppendError::NoSpace) => {}
            Err(error) => wrong.push(format!("{call} was refused for another reason: {error}")),
        }
    }
    for (call, seq) in running {
        if let Err(error) = log.append(log.encode(&outcome(&call, seq)), Durability::Write).await {
            wrong.push(format!("{call} could not end: {error}"));
        }
    }
    disk.faults(|faults| faults.capacity = None);
    log.tick();
    match append(&log, &intent("after"), Durability::Write).await {
        Ok(seq) => drop(append(&log, &outcome("after", seq), Durability::Write).await),
        Err(error) => wrong.push(format!("no call is taken although there is space again: {error}")),
    }
    wrong.extend(violations(&disk, &world));
    wrong
}

fn two_starters() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path(), &folder.path().join("keys"), "main").unwrap();
    let barrier = Barrier::new(2);
    let start = || {
        barrier.wait();
        let started = Log::open(options(), Arc::new(disk.clone()));
        // Neither lets go before both have tried.
        barrier.wait();
        match started {
            Ok(_) => "started",
            Err(OpenError::InUse { .. }) => "in use",
            Err(_) => "failed",
        }
    };
    let mut told = std::thread::scope(|scope| {
        let other = scope.spawn(start);
        [start(), other.join().unwrap()]
    });
    told.sort_unstable();
    let mut wrong = violations(&disk, &World::default());
    if told != ["in use", "started"] {
        wrong.push(format!("{told:?}"));
    }
    wrong
}

/// Records under a clock that is set again and again: their order is that of `seq`, and each step is told.
async fn clock_steps(seed: u64) -> Vec<String> {
    let (mut random, clock, disk) = (Random(seed), Clock::fixed(1_795_255_200_000_000_000), SimulatedDisk::new());
    let log = Log::open(Options { clock: clock.clone(), ..options() }, Arc::new(disk.clone())).unwrap().0;
    let audit = Audit::new(log.clone(), ValueKey::new(&[7; 32]), DurabilityByTier::default(), clock.clone());
    let (mut world, mut steps) = (World::default(), 0);
    for call in 0..20 {
        let call = format!("c{call}");
        clock.pass(Duration::from_millis(random.below(5_000)));
        if random.below(3) == 0 {
            let by = 1_000_000_000 + random.below(86_400_000_000_000) as i64;
            clock.set(clock.unix_nanos() + if random.below(2) == 0 { by } else { -by });
            steps += 1;
        }
        audit.store_counted();
        let seq = append(&log, &intent(&call), Durability::Sync).await.unwrap();
        world.received.insert(call.clone());
        append(&log, &outcome(&call, seq), Durability::Write).await.unwrap();
    }
    log.tick();
    let mut wrong = violations(&disk, &world);
    let records = read_all(&disk).unwrap();
    let told = records.iter().filter(|stored| stored.record.action.as_deref() == Some("clock_step")).count();
    if told != steps {
        wrong.push(format!("{steps} steps of the clock, {told} records of them"));
    }
    if !records.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].mono_us <= pair[1].mono_us) {
        wrong.push("the time since boot does not grow with the place".to_owned());
    }
    wrong
}
