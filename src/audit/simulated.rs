//! A disk in memory for tests: it can lose power, be full, be held, or fail. It is public because `tests/` uses it; no program does.
//!
//! What was appended is in the cache at once and on the platter after a sync. [`SimulatedDisk::kill`] ends the process: the cache stays.
//! [`SimulatedDisk::power_loss`] keeps of the unsynced appends what a seed says: a prefix torn at 512 bytes, any sectors in any order
//! (what is lost before kept bytes reads as NUL), all, or none. Changes of the folder, notes and keys are durable at once, as `Storage`
//! promises; so is a payload, which is empty until then. [`Faults::crash_after`] ends the process between any two changes.
//!
//! Owns: the faults. INVARIANT: the same seed and the same calls give the same disk.

mod held;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use self::held::{Held, OpenFile};
pub use self::random::Random;
use super::storage::{SEALS, SegmentFile, Slot, Storage};

/// A disk that lives as long as its last clone.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
    /// The life of the process that uses it; none for whoever looks on.
    life: Option<u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Content>,
    notes: BTreeMap<String, Vec<u8>>,
    payloads: BTreeMap<String, Vec<u8>>,
    keys: BTreeMap<&'static str, Vec<u8>>,
    /// Grows with each crash: what an earlier process still holds is dead.
    life: u64,
    locked: bool,
    faults: Faults,
    counts: Counts,
    /// Those that are held and may not go on yet, in the order in which they came.
    waiting: BTreeSet<u64>,
    /// How many were held so far.
    came: u64,
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
    /// So many more changes are made, of a file, a note, a key or a name; with the next one the process ends before it is made.
    pub crash_after: Option<u64>,
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

    /// The disk as the process sees it that starts now: of no use after a crash.
    pub fn process(&self) -> Arc<dyn Storage> {
        Arc::new(Self { shared: Arc::clone(&self.shared), life: Some(self.state().life) })
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
        self.shared.changed.notify_all();
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Waits until some append or sync is held.
    pub fn wait_until_held(&self) {
        let mut state = self.state();
        while state.counts.held == 0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the append or sync go on that is held longest while the others stay, and waits until it does.
    pub fn let_one_through(&self) {
        self.let_through(|waiting| {
            waiting.pop_first();
        });
    }

    /// Lets all that are held now go on at once, and waits until they do.
    pub fn let_all_through(&self) {
        self.let_through(BTreeSet::clear);
    }

    fn let_through(&self, choose: impl FnOnce(&mut BTreeSet<u64>)) {
        let mut state = self.state();
        choose(&mut state.waiting);
        self.shared.changed.notify_all();
        while state.counts.held > state.waiting.len() as u64 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many bytes all files hold.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// A file as a reader sees it; empty where it is not there.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.state().files.get(name).map(|file| file.cached.clone()).unwrap_or_default()
    }

    /// The names of all notes, sorted.
    pub fn note_names(&self) -> Vec<String> {
        self.state().notes.keys().cloned().collect()
    }

    /// Takes a note away: the hand of an intruder.
    pub fn remove_note(&self, name: &str) {
        self.state().notes.remove(name);
    }

    /// Takes both keys away: the hand of an intruder.
    pub fn remove_keys(&self) {
        self.state().keys.clear();
    }

    /// Puts a file there, durably: the hand of an intruder.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let file = Content { cached: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        self.state().files.insert(name.to_owned(), file);
    }

    /// Ends the process that holds the disk. What it appended stays; what it still does fails.
    pub fn kill(&self) {
        self.state().end_process();
        self.shared.changed.notify_all();
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
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a process that has not ended.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        self.life.map_or(Ok(()), |life| state.alive(life))?;
        Ok(state)
    }

    /// The state, for one change.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        self.life.map_or(Ok(()), |life| state.step(life))?;
        Ok(state)
    }

    /// The state, for one change that is durable when it returns.
    fn durable_change(&self, bytes: usize) -> io::Result<MutexGuard<'_, State>> {
        drop(self.alive()?);
        let life = self.life.unwrap_or_else(|| self.state().life);
        let mut state = self.unheld(life, |faults| faults.hold_syncs)?;
        self.life.map_or(Ok(()), |life| state.step(life))?;
        if let Some(kind) = state.faults.write.or(state.faults.sync) {
            return Err(kind.into());
        }
        let room = state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
        if bytes as u64 > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(state) }
    }

    /// The state, once nothing holds this sort of work; fails when the process has ended meanwhile.
    fn unheld(&self, life: u64, is_held: impl Fn(&Faults) -> bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let number = state.came;
        state.came += 1;
        state.counts.held += 1;
        state.waiting.insert(number);
        self.shared.changed.notify_all();
        while is_held(&state.faults) && state.life == life && state.waiting.contains(&number) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.remove(&number);
        state.counts.held -= 1;
        self.shared.changed.notify_all();
        state.alive(life)?;
        Ok(state)
    }
}

impl State {
    fn used(&self) -> u64 {
        let files = self.files.values().map(|file| file.cached.len());
        let small = self.notes.values().chain(self.keys.values()).chain(self.payloads.values()).map(Vec::len);
        files.chain(small).map(|bytes| bytes as u64).sum()
    }

    fn end_process(&mut self) {
        self.life += 1;
        self.locked = false;
        self.faults = Faults { capacity: self.faults.capacity, ..Faults::default() };
    }

    /// Counts a change of this process, which may be where it ends.
    fn step(&mut self, life: u64) -> io::Result<()> {
        self.alive(life)?;
        match &mut self.faults.crash_after {
            Some(0) => self.end_process(),
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive(life)
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
        let mut state = self.alive()?;
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
        Ok(self.alive()?.files.keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.alive()?.file(name)?.cached.len() as u64)
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut bytes = io::Cursor::new(self.alive()?.file(name)?.cached.clone());
        bytes.set_position(offset);
        Ok(Box::new(bytes))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let mut state = self.change()?;
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
        let mut state = self.change()?;
        if let Some(kind) = state.faults.truncate {
            return Err(kind.into());
        }
        let file = state.file(name)?;
        file.cut(len as usize);
        file.sync();
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        drop(self.alive()?);
        let life = self.life.unwrap_or_else(|| self.state().life);
        let mut state = self.unheld(life, |faults| faults.hold_syncs)?;
        self.life.map_or(Ok(()), |life| state.step(life))?;
        if let Some(kind) = state.faults.sync {
            return Err(kind.into());
        }
        state.file(name)?.sync();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.change()?;
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change()?.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.alive()?;
        Ok(state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn note(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.alive()?.notes.get(name).cloned())
    }

    fn put_note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.durable_change(bytes.len())?.notes.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn seals(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.notes.keys().filter_map(|name| name.strip_prefix(SEALS)).map(str::to_owned).collect())
    }

    fn key(&self, slot: Slot) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.alive()?.keys.get(key_name(slot)).cloned().map(Zeroizing::new))
    }

    fn put_next_key(&self, bytes: &[u8]) -> io::Result<()> {
        self.durable_change(bytes.len())?.keys.insert(key_name(Slot::Next), bytes.to_vec());
        Ok(())
    }

    fn erase_key(&self) -> io::Result<()> {
        if let Some(key) = self.durable_change(0)?.keys.get_mut(key_name(Slot::Present)) {
            key.fill(0);
        }
        Ok(())
    }

    fn promote_key(&self) -> io::Result<()> {
        let mut state = self.durable_change(0)?;
        let next = state.keys.remove(key_name(Slot::Next)).ok_or(io::ErrorKind::NotFound)?;
        state.keys.insert(key_name(Slot::Present), next);
        Ok(())
    }

    fn payloads(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.payloads.keys().cloned().collect())
    }

    fn payload(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.alive()?.payloads.get(name).cloned())
    }

    fn put_payload(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.change()?;
        if state.payloads.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.payloads.insert(name.to_owned(), Vec::new());
        drop(state);
        let put = self.durable_change(bytes.len()).map(|mut state| drop(state.payloads.insert(name.to_owned(), bytes.to_vec())));
        put.inspect_err(|_| drop(self.change().map(|mut state| state.payloads.remove(name))))
    }

    fn remove_payloads(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            self.change()?.payloads.remove(name);
        }
        Ok(())
    }

    fn erase_payload(&self, name: &str) -> io::Result<()> {
        if let Some(payload) = self.change()?.payloads.get_mut(name) {
            payload.fill(0);
        }
        self.remove_payloads(&[name.to_owned()])
    }
}

fn key_name(slot: Slot) -> &'static str {
    match slot {
        Slot::Present => "key",
        Slot::Next => "key.next",
    }
}

const SECTOR: usize = 512;
