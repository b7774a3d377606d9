//! kill -9: a process of its own writes a log on the real disk, and ends itself at a named point or at any moment, without a word to anybody.
//!
//! The points are in the storage that the log is given and in the callers here, so nothing of them is in the product.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doorward::audit::disk::Disk;
use doorward::audit::simulated::Random;
use doorward::audit::storage::{SegmentFile, Storage};
use doorward::audit::{Durability, Log, Options};
use rustix::process::{Signal, getpid, kill_process};

use super::world::{World, intent, options, outcome, refusal, violations};
use super::{Row, rows_of};

/// Where the process ends.
const POINTS: [(&str, &str, u64); 7] = [
    ("before_write", "kill -9 before the write", 30),
    ("after_write", "kill -9 between write and sync", 30),
    ("after_sync", "kill -9 after the sync, before anybody is woken", 30),
    ("after_forward", "kill -9 after the call was forwarded", 30),
    ("before_outcome", "kill -9 before the outcome", 30),
    ("after_note", "kill -9 between two steps of a seal or a checkpoint", 30),
    ("any_moment", "kill -9 at any moment", 50),
];
/// Lives of one log: each but the first begins with what a kill left, and may be killed in that too.
const LIVES: u64 = 4;
const CALLERS: u64 = 6;
/// A process that is not killed by then is a fault of the test.
const CALLS: u64 = 2_000;

pub fn rows() -> impl Iterator<Item = Row> {
    POINTS.into_iter().map(|(point, fault, rounds)| rows_of(fault, rounds.div_ceil(LIVES), LIVES, |seed| lives(point, seed)))
}

fn lives(point: &str, seed: u64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(seed ^ 0x6b69_6c6c);
    let mut wrong = Vec::new();
    for life in 0..LIVES {
        let at = 1 + random.below(if point == "any_moment" { 400 } else { 60 });
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fault_table::kills::the_process_that_is_killed", "--ignored"])
            .envs([("DOORWARD_FAULT_FOLDER", folder.path().as_os_str()), ("DOORWARD_FAULT_POINT", point.as_ref())])
            .envs([("DOORWARD_FAULT_AT", at.to_string()), ("DOORWARD_FAULT_LIFE", life.to_string())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if status.signal() != Some(Signal::KILL.as_raw()) {
            wrong.push(format!("life {life} at {at} ended with {status} and not by the kill"));
        }
    }
    let disk = Disk::open(folder.path(), &folder.path().join("keys"), "main").unwrap();
    drop(Log::open(options(), Arc::new(disk.clone())).unwrap());
    let lines = |name: &str| -> Vec<String> {
        std::fs::read_to_string(folder.path().join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    let world = World { received: lines("received").into_iter().collect(), refused: lines("refused").into_iter().collect() };
    wrong.extend(violations(&disk, &world));
    wrong
}

/// Where and when this process ends itself.
struct Fate {
    point: String,
    left: AtomicU64,
}

impl Fate {
    fn passes(&self, point: &str) {
        if self.point == point && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            die();
        }
    }
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
    // Signals of a process to itself arrive before it goes on, but other threads may.
    loop {
        std::thread::park();
    }
}

#[derive(Clone)]
struct Mortal {
    disk: Disk,
    fate: Arc<Fate>,
}

impl Storage for Mortal {
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
        Ok(Arc::new(MortalFile { file: self.disk.create(name)?, fate: Arc::clone(&self.fate) }))
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
    passes_notes_on!(self, self.disk, |work| {
        work()?;
        self.fate.passes("after_note");
        Ok(())
    });
}

struct MortalFile {
    file: Arc<dyn SegmentFile>,
    fate: Arc<Fate>,
}

impl SegmentFile for MortalFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fate.passes("before_write");
        let taken = self.file.append(bytes)?;
        self.fate.passes("after_write");
        Ok(taken)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        self.fate.passes("after_sync");
        Ok(())
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn size_at(&self, name: &str) -> io::Result<Option<u64>> {
        self.file.size_at(name)
    }
}

/// A journal of somebody else: each line is there as soon as it is written.
struct Journal(File);

impl Journal {
    fn open(folder: &Path, name: &str) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap())
    }

    fn notes(&self, call: &str) {
        (&self.0).write_all(format!("{call}\n").as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the table starts it as a process of its own"]
async fn the_process_that_is_killed() {
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let Some(folder) = std::env::var_os("DOORWARD_FAULT_FOLDER") else { return };
    let (folder, at) = (Path::new(&folder).to_owned(), said("DOORWARD_FAULT_AT").parse::<u64>().unwrap());
    let fate = Arc::new(Fate { point: said("DOORWARD_FAULT_POINT"), left: AtomicU64::new(at) });
    if fate.point == "any_moment" {
        std::thread::spawn(move || {
            (0..at * 10_000).for_each(|_| std::hint::spin_loop());
            die();
        });
    }
    let disk = Mortal { disk: Disk::open(&folder, &folder.join("keys"), "main").unwrap(), fate: Arc::clone(&fate) };
    let options = Options { has_thread: true, segment_max_bytes: 16 << 10, ..options() };
    let log = Log::open(options, Arc::new(disk)).unwrap().0;
    let (received, refused) = (Arc::new(Journal::open(&folder, "received")), Arc::new(Journal::open(&folder, "refused")));
    let life = said("DOORWARD_FAULT_LIFE");
    let callers = (0..CALLERS).map(|caller| {
        let (log, fate, received, refused, life) = (log.clone(), fate.clone(), received.clone(), refused.clone(), life.clone());
        tokio::spawn(async move {
            let durability = if caller % 2 == 0 { Durability::Sync } else { Durability::Write };
            for call in 0..CALLS {
                let call = format!("{life}-{caller}-{call}");
                if log.append(log.encode(&refusal(&call)), Durability::Write).await.is_ok() {
                    refused.notes(&call);
                }
                let Ok(stored) = log.append(log.encode(&intent(&call)), durability).await else { continue };
                received.notes(&call);
                fate.passes("after_forward");
                tokio::task::yield_now().await;
                fate.passes("before_outcome");
                let end = log.encode(&outcome(&call, stored.seq));
                let _kept = if caller % 3 == 0 { log.append(end, Durability::Sync).await.map(drop) } else { log.hand_over(end) };
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    if fate.point == "any_moment" {
        die();
    }
}
