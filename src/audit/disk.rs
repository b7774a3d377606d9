//! The real disk: `DIR/ORIGIN/segments/`, with the lock beside it.
//!
//! Owns: modes (0700 folders, 0600 files), the lock, and that changes of a folder are durable. Leaves to others: the rest.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statvfs};

use super::storage::{SegmentFile, Storage};

/// The folder of one origin on a real disk.
#[derive(Clone, Debug)]
pub struct Disk {
    lock: PathBuf,
    segments: PathBuf,
}

impl Disk {
    /// The origin's folder below `dir`, made if it is not there.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn open(dir: &Path, origin: &str) -> io::Result<Self> {
        let disk = Self::existing(dir, origin);
        if !disk.segments.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&disk.segments)?;
            for folder in disk.segments.ancestors().skip(1).take(3).filter(|folder| folder.is_dir()) {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(disk)
    }

    /// The origin's folder below `dir`, for reading; nothing is made.
    pub fn existing(dir: &Path, origin: &str) -> Self {
        let home = dir.join(origin);
        Self { lock: home.join("lock"), segments: home.join("segments") }
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.segments)?.sync_all()
    }
}

/// The origins that have a folder in `dir`, sorted.
///
/// # Errors
/// `dir` cannot be read.
pub fn origins(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A log of which only its notes are left was taken away, and that must be told.
        if ["segments", "seals", "checkpoint.note"].iter().any(|part| entry.path().join(part).exists()) {
            found.extend(entry.file_name().into_string().ok());
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Storage for Disk {
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.lock)?;
        // A reader that asks whether the log is live holds the lock for an instant: look again before giving up.
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Box::new(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn is_locked(&self) -> bool {
        let Ok(file) = File::open(&self.lock) else { return false };
        matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.segments)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.segments.join(name))?.len())
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(self.segments.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(self.segments.join(name))?;
        self.sync_folder()?;
        Ok(Arc::new(OpenSegment { file, folder: self.segments.clone() }))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.segments.join(name))?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.segments.join(name))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.segments.join(from), self.segments.join(to))?;
        self.sync_folder()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.segments.join(name))?;
        self.sync_folder()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let facts = statvfs(&self.segments)?;
        // What is left to users other than root.
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

struct OpenSegment {
    file: File,
    folder: PathBuf,
}

impl SegmentFile for OpenSegment {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size_at(&self, name: &str) -> io::Result<Option<u64>> {
        let (ours, there) = (self.file.metadata()?, fs::symlink_metadata(self.folder.join(name)));
        match there {
            Ok(there) => Ok(((ours.dev(), ours.ino()) == (there.dev(), there.ino())).then_some(there.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folders_are_private_and_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), "main").unwrap();
        disk.create("a").unwrap();
        let _held = disk.lock().unwrap().unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("main"), mode("main/segments")), (0o700, 0o700));
        assert_eq!((mode("main/segments/a"), mode("main/lock")), (0o600, 0o600));
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), "main").unwrap();
        let held = disk.lock().unwrap();
        assert!(held.is_some() && disk.is_locked());
        assert!(disk.lock().unwrap().is_none());
        drop(held);
        assert!(!disk.is_locked() && disk.lock().unwrap().is_some());
    }

    #[test]
    fn a_taken_back_append_leaves_no_hole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), "main").unwrap();
        let file = disk.create("a").unwrap();
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        file.truncate(3).unwrap();
        file.append(b"six").unwrap();
        let mut text = String::new();
        disk.read("a", 0).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "onesix");
    }
}
