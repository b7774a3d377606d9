//! The file work of one origin, behind traits that a test can crash, fill, hold or break.
//!
//! Owns: what the log asks of a disk. Leaves to others: what the bytes mean.
//!
//! INVARIANT: when a change of a folder, a length, a note, a key or a payload returns, it survives power loss, and before that the old state does.
//! What `append` wrote survives the process at once, and power loss only after `sync`.

use std::io::{self, Read};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::chain::MAX_SEQ;

/// The files of one origin: its segments, its notes, its payloads, and the private key of the segment that is being written.
pub trait Storage: Send + Sync {
    /// Takes the origin for this process until the guard is dropped; `None` when another holds it.
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// Whether some process, this one included, holds the origin.
    fn is_locked(&self) -> bool;

    /// The names of all files in the folder, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The size of a file in bytes.
    fn size(&self, name: &str) -> io::Result<u64>;

    /// A file's bytes from `offset` on.
    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>>;

    /// Makes a new, empty file; fails where one of this name exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;

    /// Cuts a file to `len` bytes, durably.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;

    /// Makes what is in a file durable.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// How many more bytes fit.
    fn free_bytes(&self) -> io::Result<u64>;

    /// A small file beside the segments; `None` where it is not there. The name may begin with [`SEALS`].
    fn note(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Puts a small file beside the segments: whole, in place of what had the name.
    fn put_note(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// The names of the small files below [`SEALS`], without it, sorted.
    fn seals(&self) -> io::Result<Vec<String>>;

    /// A private key; `None` where it is not there.
    fn key(&self, slot: Slot) -> io::Result<Option<Zeroizing<Vec<u8>>>>;

    /// Stores the next private key, in place of one that was there.
    fn put_next_key(&self, bytes: &[u8]) -> io::Result<()>;

    /// Overwrites the present private key where it lies, as far as the file system lets one do that. Its file stays.
    fn erase_key(&self) -> io::Result<()>;

    /// Makes the next private key the present one.
    fn promote_key(&self) -> io::Result<()>;

    /// The names of the files of payloads, and of the keys that they are sealed with, sorted.
    fn payloads(&self) -> io::Result<Vec<String>>;

    /// A file of them; `None` where it is not there.
    fn payload(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes a new file of them; fails where one of this name exists. A process that ends meanwhile may leave a part of it.
    fn put_payload(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes files of them; those that are not there are removed already.
    fn remove_payloads(&self, names: &[String]) -> io::Result<()>;

    /// Overwrites a file of them where it lies, as far as the file system lets one do that, and removes it.
    fn erase_payload(&self, name: &str) -> io::Result<()>;
}

/// Which of a log's private keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The one that signs.
    Present,
    /// The one that will, from the next segment on.
    Next,
}

/// The newest checkpoint.
pub const CHECKPOINT: &str = "checkpoint.note";
/// The operator's word for the log's key.
pub const ROOT: &str = "root.note";
/// Before the names of what sealed segments leave.
pub const SEALS: &str = "seals/";

/// The final checkpoint of the segment whose first record has this `seq`.
pub fn seal_name(first_seq: u64) -> String {
    format!("{SEALS}{first_seq:020}.note")
}

/// The tree at the end of the segment whose first record has this `seq`.
pub fn peaks_name(first_seq: u64) -> String {
    format!("{SEALS}{first_seq:020}.peaks")
}

/// A segment that is being written. It only grows, but for what [`SegmentFile::truncate`] takes back.
pub trait SegmentFile: Send + Sync {
    /// Appends bytes at the end; may take fewer than given.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until all that was appended before the call would survive power loss.
    fn sync(&self) -> io::Result<()>;

    /// Takes back what was appended after `len`; need not be durable.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// The file's size, if it is still the one of this name in the folder; `None` when it was removed or another is there.
    fn size_at(&self, name: &str) -> io::Result<Option<u64>>;
}

/// Appends all of `bytes`. On an error an unknown part of them is in the file.
pub(super) fn append_all(file: &dyn SegmentFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.append(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => bytes = &bytes[taken.min(bytes.len())..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The name of the segment whose first record has this `seq`.
pub(super) fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.jsonl")
}

/// The segments in the folder as (first seq, name), in order.
pub(super) fn segments(storage: &dyn Storage) -> io::Result<Vec<(u64, String)>> {
    Ok(numbered(storage.list()?, ".jsonl"))
}

/// The same; none where their folder is not there.
pub(super) fn present(storage: &dyn Storage) -> io::Result<Vec<(u64, String)>> {
    match segments(storage) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

/// The files whose names are 20 digits and this ending, as (number, name), in order.
pub(super) fn numbered(names: Vec<String>, ending: &str) -> Vec<(u64, String)> {
    let number = |name: &str| {
        let digits = name.strip_suffix(ending)?;
        let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number| is_number && *number <= MAX_SEQ)
    };
    let mut found: Vec<(u64, String)> = names.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
    found.sort_unstable();
    found
}
