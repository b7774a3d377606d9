//! The real disk: `DIR/ORIGIN/segments/`, with the notes, `payloads/` and the lock beside it, and the keys in a folder of their own, `KEYS/ORIGIN.key`.
//!
//! Owns: modes (0700 folders, 0600 files), the lock, and that changes of a folder are durable. Leaves to others: the rest.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statvfs};
use zeroize::Zeroizing;

use super::storage::{SEALS, SegmentFile, Slot, Storage};

/// The folder of one origin on a real disk.
#[derive(Clone, Debug)]
pub struct Disk {
    home: PathBuf,
    segments: PathBuf,
    payloads: PathBuf,
    /// The present and the next private key; none for readers.
    keys: Option<[PathBuf; 2]>,
}

impl Disk {
    /// The origin's folder below `dir`, and the folder `keys` of the origins' private keys, made if they are not there.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn open(dir: &Path, keys: &Path, origin: &str) -> io::Result<Self> {
        let disk = Self::existing(dir, origin);
        for folder in [&disk.segments, &disk.home.join(SEALS), keys] {
            if !folder.is_dir() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                for folder in folder.ancestors().skip(1).take(3).filter(|folder| folder.is_dir()) {
                    sync_folder(folder)?;
                }
            }
        }
        Ok(Self { keys: Some(["key", "key.next"].map(|ending| keys.join(format!("{origin}.{ending}")))), ..disk })
    }

    /// The origin's folder below `dir`, for reading; nothing is made, and no private key is at hand.
    pub fn existing(dir: &Path, origin: &str) -> Self {
        let home = dir.join(origin);
        Self { segments: home.join("segments"), payloads: home.join(PAYLOADS), home, keys: None }
    }

    fn lock_file(&self) -> PathBuf {
        self.home.join("lock")
    }

    fn key_file(&self, slot: Slot) -> io::Result<&Path> {
        let [present, next] = self.keys.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(match slot {
            Slot::Present => present,
            Slot::Next => next,
        })
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A small file's bytes; `None` where it is not there. Of one that is not small only the beginning, which is no note and no key.
fn read_whole(file: &Path) -> io::Result<Option<Vec<u8>>> {
    read_up_to(file, MAX_SMALL_BYTES)
}

fn read_up_to(file: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match open_regular(file).and_then(|file| file.take(longest).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file to read it. A pipe in its place would be waited for without end.
fn open_regular(file: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(file)?;
    if opened.metadata()?.is_file() { Ok(opened) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file")) }
}

/// The names in a folder, sorted; none where it is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                names.extend(entry?.file_name().into_string().ok());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort_unstable();
    Ok(names)
}

/// Overwrites a file with NUL bytes where it lies; one that is not there is overwritten already.
fn overwrite(file: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    (&file).write_all(&vec![0; len])?;
    file.sync_all()
}

/// Makes the file anew with these bytes, durable but for its name.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    out.write_all(bytes)?;
    out.sync_all()
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
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.lock_file())?;
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
        let Ok(file) = File::open(self.lock_file()) else { return false };
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
        let mut file = open_regular(&self.segments.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(self.segments.join(name))?;
        sync_folder(&self.segments)?;
        let ours = file.metadata()?;
        Ok(Arc::new(OpenSegment { file, id: (ours.dev(), ours.ino()), folder: self.segments.clone() }))
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
        sync_folder(&self.segments)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.segments.join(name))?;
        sync_folder(&self.segments)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let facts = statvfs(&self.segments)?;
        // What is left to users other than root.
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn note(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        read_whole(&self.home.join(name))
    }

    fn put_note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.home.join(name);
        // Left by a crash, it is made anew.
        let partial = self.home.join(format!("{name}.partial"));
        write_whole(&partial, bytes)?;
        fs::rename(&partial, &file)?;
        file.parent().map_or(Ok(()), sync_folder)
    }

    fn seals(&self) -> io::Result<Vec<String>> {
        // A log of an older version has no such folder.
        names(&self.home.join(SEALS))
    }

    fn key(&self, slot: Slot) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(read_whole(self.key_file(slot)?)?.map(Zeroizing::new))
    }

    fn put_next_key(&self, bytes: &[u8]) -> io::Result<()> {
        let file = self.key_file(Slot::Next)?;
        write_whole(file, bytes)?;
        file.parent().map_or(Ok(()), sync_folder)
    }

    fn erase_key(&self) -> io::Result<()> {
        overwrite(self.key_file(Slot::Present)?)
    }

    fn promote_key(&self) -> io::Result<()> {
        let (next, present) = (self.key_file(Slot::Next)?, self.key_file(Slot::Present)?);
        fs::rename(next, present)?;
        present.parent().map_or(Ok(()), sync_folder)
    }

    fn payloads(&self) -> io::Result<Vec<String>> {
        // Made with the first of them.
        names(&self.payloads)
    }

    fn payload(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        read_up_to(&self.payloads.join(name), MAX_PAYLOAD_BYTES)
    }

    fn put_payload(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.payloads.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.payloads)?;
            sync_folder(&self.home)?;
        }
        let path = self.payloads.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_folder(&self.payloads)) {
            drop(fs::remove_file(&path));
            return Err(error);
        }
        Ok(())
    }

    fn remove_payloads(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            match fs::remove_file(self.payloads.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.payloads.is_dir() { sync_folder(&self.payloads) } else { Ok(()) }
    }

    fn erase_payload(&self, name: &str) -> io::Result<()> {
        overwrite(&self.payloads.join(name))?;
        self.remove_payloads(&[name.to_owned()])
    }
}

struct OpenSegment {
    file: File,
    /// Device and number of the file, which are its own for as long as it is open: asked for once, and not with each write.
    id: (u64, u64),
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
        match fs::symlink_metadata(self.folder.join(name)) {
            Ok(there) => Ok((self.id == (there.dev(), there.ino())).then_some(there.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Far beyond any note, peaks or key.
const MAX_SMALL_BYTES: u64 = 1 << 20;
/// Beyond the largest payload that can be configured.
const MAX_PAYLOAD_BYTES: u64 = 257 << 20;
/// No file in it shows what it holds.
const PAYLOADS: &str = "payloads";
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folders_are_private_and_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
        disk.create("a").unwrap();
        disk.put_note("seals/a", b"x").unwrap();
        disk.put_next_key(b"x").unwrap();
        disk.put_payload("a", b"x").unwrap();
        let _held = disk.lock().unwrap().unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["main", "main/segments", "main/seals", "main/payloads", "keys"].map(mode), [0o700; 5]);
        assert_eq!(["main/segments/a", "main/seals/a", "main/payloads/a", "main/lock", "keys/main.key.next"].map(mode), [0o600; 5]);
    }

    #[test]
    fn a_payload_is_made_once_and_an_erased_one_is_overwritten_where_it_lay() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
        assert_eq!((disk.payloads().unwrap(), disk.payload("a").unwrap()), (Vec::<String>::new(), None));
        disk.put_payload("a", b"first").unwrap();
        assert_eq!(disk.put_payload("a", b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.payload("a").unwrap().as_deref(), Some(&b"first"[..]));
        fs::hard_link(dir.path().join("main/payloads/a"), dir.path().join("kept")).unwrap();
        disk.erase_payload("a").unwrap();
        assert_eq!((disk.payload("a").unwrap(), fs::read(dir.path().join("kept")).unwrap()), (None, vec![0; 5]));
        disk.erase_payload("a").unwrap();
        disk.remove_payloads(&["a".to_owned()]).unwrap();
    }

    #[test]
    fn a_note_is_replaced_whole_also_after_an_attempt_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
        assert_eq!((disk.note("a").unwrap(), disk.seals().unwrap()), (None, Vec::<String>::new()));
        fs::write(dir.path().join("main/a.partial"), "a longer text that was cut o").unwrap();
        disk.put_note("a", b"one").unwrap();
        disk.put_note("a", b"2").unwrap();
        disk.put_note("seals/b", b"3").unwrap();
        assert_eq!((disk.note("a").unwrap(), disk.seals().unwrap()), (Some(b"2".to_vec()), vec!["b".to_owned()]));
        assert!(!dir.path().join("main/a.partial").exists());
    }

    #[test]
    fn a_key_that_is_followed_by_the_next_is_nowhere_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
        disk.erase_key().unwrap();
        disk.put_next_key(b"first").unwrap();
        disk.promote_key().unwrap();
        let read = |slot| disk.key(slot).unwrap().map(|bytes| bytes.to_vec());
        assert_eq!((read(Slot::Present), read(Slot::Next)), (Some(b"first".to_vec()), None));
        disk.put_next_key(b"second").unwrap();
        // A second name of the file: what it holds is what lies on the disk.
        fs::hard_link(dir.path().join("keys/main.key"), dir.path().join("kept")).unwrap();
        disk.erase_key().unwrap();
        assert_eq!(read(Slot::Present), Some(vec![0; 5]));
        disk.promote_key().unwrap();
        assert_eq!((read(Slot::Present), read(Slot::Next)), (Some(b"second".to_vec()), None));
        assert_eq!(fs::read(dir.path().join("kept")).unwrap(), [0; 5]);
    }

    fn open(dir: &tempfile::TempDir) -> Disk {
        Disk::open(dir.path(), &dir.path().join("keys"), "main").unwrap()
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
        let held = disk.lock().unwrap();
        assert!(held.is_some() && disk.is_locked());
        assert!(disk.lock().unwrap().is_none());
        drop(held);
        assert!(!disk.is_locked() && disk.lock().unwrap().is_some());
    }

    #[test]
    fn a_taken_back_append_leaves_no_hole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir);
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
