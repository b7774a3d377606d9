//! A disk in memory for tests: it can lose power, be full, be held, or fail. It is public because `tests/` uses it; no program does.
//!
//! What was appended is in the cache at once and on the platter after a sync. [`SimulatedDisk::kill`] ends the process: the cache stays.
//! [`SimulatedDisk::power_loss`] keeps of the unsynced appends what a seed says: a prefix torn at 512 bytes, any sectors in any order
//! (what is lost before kept bytes reads as NUL), all, or none. Changes of the folder are durable at once, as `Storage` promises.
//!
//! Owns: the faults. INVARIANT: the same seed and the same calls give the same disk.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::storage::{SegmentFile, Storage};

/// A disk that lives as long as its last clone.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Content>,
    /// Grows with each crash: what an earlier process still holds is dead.
    life: u64,
    locked: bool,
    faults: Faults,
    counts: Counts,
    /// How many of those that are held may go on.
    passes: u64,
}

#[derive(Clone, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Where each unsynced append began and ended, in order.
    unsynced: Vec<(usize, usize)>,
}

/// What goes wrong from now on.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How many bytes all files together may hold.
    pub capacity: Option<u64>,
    /// Appends fail with this error.
    pub write: Option<io::ErrorKind>,
    /// The next append takes this many bytes and the one after it fails.
    pub short_write: Option<usize>,
    /// Syncs fail with this error, and what they should have made durable never is.
    pub sync: Option<io::ErrorKind>,
    /// Truncations fail with this error.
    pub truncate: Option<io::ErrorKind>,
    /// Appends wait until this is lifted.
    pub hold_writes: bool,
    /// Syncs wait until this is lifted.
    pub hold_syncs: bool,
}

/// What was asked of the disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Appends.
    pub writes: u64,
    /// Syncs of segments.
    pub syncs: u64,
    /// Appends and syncs that wait now.
    pub held: u64,
}

impl SimulatedDisk {
    /// An empty, faultless disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
        self.0.changed.notify_all();
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Waits until some append or sync is held.
    pub fn wait_until_held(&self) {
        let mut state = self.state();
        while state.counts.held == 0 {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets one held append or sync go on while the others stay, and waits until it does.
    pub fn let_one_through(&self) {
        let mut state = self.state();
        state.passes += 1;
        self.0.changed.notify_all();
        while state.passes > 0 && state.counts.held > 0 {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.passes = 0;
    }

    /// How many bytes all files hold.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// A file as a reader sees it; empty where it is not there.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.state().files.get(name).map(|file| file.cached.clone()).unwrap_or_default()
    }

    /// Puts a file there, durably: the hand of an intruder.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let file = Content { cached: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        self.state().files.insert(name.to_owned(), file);
    }

    /// Ends the process that holds the disk. What it appended stays; what it still does fails.
    pub fn kill(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locked = false;
        state.faults = Faults { capacity: state.faults.capacity, ..Faults::default() };
        drop(state);
        self.0.changed.notify_all();
    }

    /// Ends the process and the machine. Of what was not synced, `seed` says what is kept.
    pub fn power_loss(&self, seed: u64) {
        self.kill();
        let mut random = Random(seed);
        for file in self.state().files.values_mut() {
            file.lose_power(&mut random);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once nothing holds this sort of work; fails when the process has ended meanwhile.
    fn unheld(&self, life: u64, is_held: impl Fn(&Faults) -> bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.counts.held += 1;
        self.0.changed.notify_all();
        while is_held(&state.faults) && state.life == life && state.passes == 0 {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.passes = state.passes.saturating_sub(1);
        state.counts.held -= 1;
        self.0.changed.notify_all();
        state.alive(life)?;
        Ok(state)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| file.cached.len() as u64).sum()
    }

    fn alive(&self, life: u64) -> io::Result<()> {
        if self.life == life { Ok(()) } else { Err(io::Error::other("the process has ended")) }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Content {
    fn sync(&mut self) {
        self.durable.clone_from(&self.cached);
        self.unsynced.clear();
    }

    fn cut(&mut self, len: usize) {
        self.cached.truncate(len);
        for (start, end) in &mut self.unsynced {
            *start = (*start).min(len);
            *end = (*end).min(len);
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        let mode = random.below(4);
        let torn_at = random.below(self.unsynced.len() as u64 + 1) as usize;
        let (cached, unsynced) = (std::mem::take(&mut self.cached), std::mem::take(&mut self.unsynced));
        for (index, (start, end)) in unsynced.into_iter().enumerate() {
            let mut from = start;
            while from < end {
                let to = end.min((from / SECTOR + 1) * SECTOR);
                let is_kept = match mode {
                    0 => true,
                    1 => index < torn_at || (index == torn_at && random.below(2) == 0),
                    2 => random.below(4) != 0,
                    _ => false,
                };
                if is_kept {
                    self.durable.resize(self.durable.len().max(to), 0);
                    self.durable[from..to].copy_from_slice(&cached[from..to]);
                } else if mode == 1 {
                    break;
                }
                from = to;
            }
        }
        self.cached = self.durable.clone();
    }
}

impl Storage for SimulatedDisk {
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state();
        if state.locked {
            return Ok(None);
        }
        state.locked = true;
        Ok(Some(Box::new(Held { disk: self.clone(), life: state.life })))
    }

    fn is_locked(&self) -> bool {
        self.state().locked
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.state().file(name)?.cached.len() as u64)
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut bytes = io::Cursor::new(self.state().file(name)?.cached.clone());
        bytes.set_position(offset);
        Ok(Box::new(bytes))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let mut state = self.state();
        if let Some(kind) = state.faults.write {
            return Err(kind.into());
        }
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(name.to_owned(), Content::default());
        Ok(Arc::new(OpenFile { disk: self.clone(), name: name.to_owned(), life: state.life }))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if let Some(kind) = state.faults.truncate {
            return Err(kind.into());
        }
        let file = state.file(name)?;
        file.cut(len as usize);
        file.sync();
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let life = self.state().life;
        let mut state = self.unheld(life, |faults| faults.hold_syncs)?;
        if let Some(kind) = state.faults.sync {
            return Err(kind.into());
        }
        state.file(name)?.sync();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

struct OpenFile {
    disk: SimulatedDisk,
    name: String,
    life: u64,
}

impl SegmentFile for OpenFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.unheld(self.life, |faults| faults.hold_writes)?;
        state.counts.writes += 1;
        if let Some(kind) = state.faults.write {
            return Err(kind.into());
        }
        let room = state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
        let mut taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(short) = state.faults.short_write.take() {
            taken = taken.min(short);
            state.faults.write = Some(io::ErrorKind::Other);
        }
        let file = state.file(&self.name)?;
        let start = file.cached.len();
        file.cached.extend_from_slice(&bytes[..taken]);
        file.unsynced.push((start, start + taken));
        Ok(taken)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive(self.life)?;
        state.counts.syncs += 1;
        // What is appended while the sync runs is not covered by it.
        let covered = state.file(&self.name)?.clone();
        drop(state);
        let mut state = self.disk.unheld(self.life, |faults| faults.hold_syncs)?;
        if let Some(kind) = state.faults.sync {
            return Err(kind.into());
        }
        let file = state.file(&self.name)?;
        let appends = covered.unsynced.len().min(file.unsynced.len());
        file.unsynced.drain(..appends);
        file.durable = covered.cached;
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive(self.life)?;
        if let Some(kind) = state.faults.truncate {
            return Err(kind.into());
        }
        state.file(&self.name)?.cut(len as usize);
        Ok(())
    }

    fn size_at(&self, name: &str) -> io::Result<Option<u64>> {
        let state = self.disk.state();
        state.alive(self.life)?;
        Ok(state.files.get(name).map(|file| file.cached.len() as u64))
    }
}

struct Held {
    disk: SimulatedDisk,
    life: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // After a crash the lock is already another's, or nobody's.
        if state.life == self.life {
            state.locked = false;
        }
    }
}

/// SplitMix64: small, seeded, and good enough to pick faults. Public for the tests that draw schedules from the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

const SECTOR: usize = 512;
