//! A disk that reports errors: on sync, on write, half way through a write, for a signal, or for being read-only from now on.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doorward::audit::simulated::{Faults, Random, SimulatedDisk};
use doorward::audit::storage::{SegmentFile, Storage};
use doorward::audit::{Durability, Log, Options};

use super::disks::append;
use super::world::{World, intent, options, outcome, refusal, violations};
use super::{Row, row, run};

const ROUNDS: u64 = 300;

pub fn rows() -> impl Iterator<Item = Row> {
    let broken = |fault: &'static str, breaks: fn(&mut Faults, &mut Random)| row(fault, ROUNDS, move |seed| run(round(seed, breaks)));
    [
        broken("EIO on sync", |faults, _| faults.sync = Some(ErrorKind::Other)),
        broken("EIO on write", |faults, _| faults.write = Some(ErrorKind::Other)),
        broken("a short write, then EIO", |faults, random| faults.short_write = Some(1 + random.below(600) as usize)),
        broken("half a line that cannot be taken back", |faults, random| {
            (faults.short_write, faults.truncate) = (Some(1 + random.below(600) as usize), Some(ErrorKind::Other));
        }),
        broken("read-only from now on", |faults, _| {
            let kind = Some(ErrorKind::ReadOnlyFilesystem);
            (faults.write, faults.sync, faults.truncate) = (kind, kind, kind);
        }),
        row("EINTR and short writes without an error", ROUNDS, |seed| run(interrupted(seed))),
    ]
    .into_iter()
}

/// Calls on a disk that breaks and heals; what it broke is repaired without a restart, and then the power goes.
async fn round(seed: u64, breaks: fn(&mut Faults, &mut Random)) -> Vec<String> {
    let (mut random, disk, mut world) = (Random(seed), SimulatedDisk::new(), World::default());
    let log = Log::open(Options { segment_max_bytes: 4_000, ..options() }, Arc::new(disk.clone())).unwrap().0;
    calls(&log, &disk, breaks, &mut random, &mut world).await;
    disk.faults(|faults| *faults = Faults::default());
    log.tick();
    log.tick();
    let mut wrong = Vec::new();
    if !log.is_open() {
        wrong.push("the log did not repair itself".to_owned());
    }
    match append(&log, &intent("after"), Durability::Sync).await {
        Ok(seq) => drop(append(&log, &outcome("after", seq), Durability::Sync).await),
        Err(error) => wrong.push(format!("no call is taken after the repair: {error}")),
    }
    disk.power_loss(seed);
    drop(log);
    let _recovered = Log::open(options(), Arc::new(disk.clone())).unwrap();
    wrong.extend(violations(&disk, &world));
    wrong
}

async fn calls(log: &Log, disk: &SimulatedDisk, breaks: fn(&mut Faults, &mut Random), random: &mut Random, world: &mut World) {
    let mut running = Vec::new();
    for call in 0..24 {
        let call = format!("c{call}");
        disk.faults(|faults| {
            *faults = Faults::default();
            if random.below(3) == 0 {
                breaks(faults, random);
            }
        });
        if random.below(4) == 0 {
            if append(log, &refusal(&call), Durability::Sync).await.is_ok() {
                world.refused.insert(call);
            }
            continue;
        }
        if let Ok(seq) = append(log, &intent(&call), Durability::Sync).await {
            world.received.insert(call.clone());
            running.push((call, seq));
        }
        if let Some((call, seq)) = running.pop().filter(|_| random.below(2) == 0) {
            let durability = if random.below(2) == 0 { Durability::Write } else { Durability::Sync };
            // An end that could not be written is kept and written later.
            let _kept = append(log, &outcome(&call, seq), durability).await;
        }
        if random.below(10) == 0 {
            log.rotate();
        }
    }
}

/// A disk whose every second write is interrupted before it begins, and whose others take less than they were given.
struct Interrupting {
    disk: Arc<dyn Storage>,
    writes: Arc<AtomicU64>,
    seed: u64,
}

impl Storage for Interrupting {
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.disk.lock()
    }
    fn is_locked(&self) -> bool {
        self.disk.is_locked()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn size(&self, name: &str) -> io::Result<u64> {
        self.disk.size(name)
    }
    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        self.disk.read(name, offset)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(InterruptingFile { file: self.disk.create(name)?, writes: Arc::clone(&self.writes), seed: self.seed }))
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.disk.truncate(name, len)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
    passes_notes_on!(self, self.disk, |work| work());
}

struct InterruptingFile {
    file: Arc<dyn SegmentFile>,
    writes: Arc<AtomicU64>,
    seed: u64,
}

impl SegmentFile for InterruptingFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.writes.fetch_add(1, Ordering::Relaxed);
        if at.is_multiple_of(2) {
            return Err(ErrorKind::Interrupted.into());
        }
        let taken = 1 + Random(self.seed ^ at).below(bytes.len() as u64) as usize;
        self.file.append(&bytes[..taken])
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn size_at(&self, name: &str) -> io::Result<Option<u64>> {
        self.file.size_at(name)
    }
}

async fn interrupted(seed: u64) -> Vec<String> {
    let (mut world, disk) = (World::default(), SimulatedDisk::new());
    let storage = Interrupting { disk: disk.process(), writes: Arc::default(), seed };
    let log = Log::open(Options { segment_max_bytes: 4_000, ..options() }, Arc::new(storage)).unwrap().0;
    let mut wrong = Vec::new();
    for call in 0..12 {
        let call = format!("c{call}");
        let Ok(seq) = append(&log, &intent(&call), Durability::Sync).await else {
            wrong.push(format!("{call} was refused"));
            continue;
        };
        world.received.insert(call.clone());
        wrong.extend(append(&log, &outcome(&call, seq), Durability::Write).await.err().map(|error| error.to_string()));
    }
    wrong.extend(violations(&disk, &world));
    wrong
}
