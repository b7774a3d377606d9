//! What a process holds of the simulated disk: a segment that it writes, and the lock.

use std::io;

use super::SimulatedDisk;
use crate::audit::storage::SegmentFile;

pub(super) struct OpenFile {
    pub(super) disk: SimulatedDisk,
    pub(super) name: String,
    pub(super) life: u64,
}

impl SegmentFile for OpenFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.unheld(self.life, |faults| faults.hold_writes)?;
        state.step(self.life)?;
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
        state.step(self.life)?;
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
        state.step(self.life)?;
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

pub(super) struct Held {
    pub(super) disk: SimulatedDisk,
    pub(super) life: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // After a crash the lock is already another's, or nobody's.
        state.locked &= state.life != self.life;
    }
}
