//! One flat folder of files, held open.
//!
//! Owns: reading, replacing and removing a file by its plain name. Leaves to others: which names are good ones.
//!
//! INVARIANT: every operation goes through the open directory handle and follows no symbolic link, so nothing outside the folder is
//! read or written, whatever is put into it while we run.

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

// Hidden, so it is never a note; under the lock there is only one, so a fixed name also cleans up after a crash.
const TEMPORARY: &str = ".doorward-demo.tmp";

/// An open folder.
pub(super) struct Folder(OwnedFd);

/// A regular file in the folder.
pub(super) struct Entry {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) modified_nanos: i64,
}

/// What stands under a name.
pub(super) enum Content {
    Missing,
    /// A link, a folder, a device: not ours to open.
    NotAFile,
    TooLarge,
    Bytes(Vec<u8>),
}

/// The right to change the folder; holders exclude each other, in this process and in others.
pub(super) struct Locked<'a> {
    folder: &'a Folder,
    _lock: OwnedFd,
}

impl Folder {
    /// Opens `path`, and makes it first where it is missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(fs::open(path, flags, Mode::empty())?))
    }

    /// Waits for the right to change the folder. It blocks: not for an async thread.
    pub(super) fn lock(&self) -> io::Result<Locked<'_>> {
        // A handle of its own, because the lock belongs to the open file: two threads that share one would both get it.
        let lock = fs::openat(&self.0, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Locked { folder: self, _lock: lock })
    }

    /// The regular files, by name. Links and folders are left out.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in Dir::read_from(&self.0)? {
            let found = found?;
            let Ok(file) = found.file_name().to_str() else { continue };
            match fs::statat(&self.0, file, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => entries.push(Entry {
                    file: file.to_owned(),
                    bytes: u64::try_from(stat.st_size).unwrap_or(0),
                    modified_nanos: modified_nanos(&stat),
                }),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        entries.sort_by(|one, other| one.file.cmp(&other.file));
        Ok(entries)
    }

    /// The content of `file`, if it is a regular file of at most `limit` bytes.
    pub(super) fn read(&self, file: &str, limit: usize) -> io::Result<Content> {
        // NONBLOCK, so that a pipe put there cannot hang us before we see that it is one.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = match fs::openat(&self.0, file, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(Content::Missing),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Content::NotAFile),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) != FileType::RegularFile {
            return Ok(Content::NotAFile);
        }
        let mut bytes = Vec::new();
        File::from(handle).take(limit as u64 + 1).read_to_end(&mut bytes)?;
        Ok(if bytes.len() > limit { Content::TooLarge } else { Content::Bytes(bytes) })
    }
}

impl Locked<'_> {
    /// Puts `bytes` under `file` in one step: a reader sees the old or the new, never a part.
    pub(super) fn replace(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = &self.folder.0;
        self.remove(TEMPORARY)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut temporary = File::from(fs::openat(folder, TEMPORARY, flags, Mode::RUSR | Mode::WUSR)?);
        temporary.write_all(bytes)?;
        temporary.sync_data()?;
        // A link under the old name is replaced, not followed.
        Ok(fs::renameat(folder, TEMPORARY, folder, file)?)
    }

    /// Removes `file`; false when it was not there.
    pub(super) fn remove(&self, file: &str) -> io::Result<bool> {
        match fs::unlinkat(&self.folder.0, file, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

// The width of the two fields differs between platforms, and so does what clippy thinks of the conversion.
#[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "field types differ between platforms")]
fn modified_nanos(stat: &fs::Stat) -> i64 {
    let seconds = i64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
