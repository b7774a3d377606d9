//! The index of the logs: a SQLite file beside them, made from them, which may be deleted at any time.
//!
//! It is filled behind the log by the gateway (`filler`) and by those who ask, never by the request path, in chunks of records that are complete;
//! what comes after the last chunk is read from the log, so that no answer is stale. Answers are lines of the log: the index only says where
//! to look, and what it says is looked at again.
//!
//! What one record holds lies in the table `part`, chunk by chunk; which words and hashes a chunk has at all lies in `mark`, field by field, since
//! most questions find nothing in most chunks.
//!
//! Owns: the file, its schema, and whether it still agrees with the log. Leaves to others: its columns (`column`), how it is filled (`fill`) and
//! searched (`search`).
//!
//! INVARIANT: one process changes it at a time, and only the file that has the name then; who cannot, reads the log instead.
//! INVARIANT: a chunk lies in one segment, and its records have consecutive numbers. Its number is never given again.

pub mod column;
mod fill;
mod search;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, params};
use rustix::fs::{FlockOperation, flock};

use column::SHARES;
use fill::mark;

use super::row::{Field, Row};
use super::storage::{Storage, segment_name, segments};

pub use fill::Filled;
pub(super) use fill::from_log;
pub use search::{Go, Wanted};

/// Why the index cannot be used. Whoever asked reads the log instead.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file, the folder or a log.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// Another process fills it, and it has to be made anew first.
    #[error("another process is filling the index")]
    Busy,
    /// The index says what it could not have been told.
    #[error("the index is not whole")]
    Broken,
}

/// Some thousand records of one segment that the index knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub(super) id: i64,
    /// The number of the segment's first record.
    pub segment: u64,
    /// The number of the chunk's first record; the others follow it.
    pub first_seq: u64,
    /// How many records.
    pub rows: usize,
    /// Where its first line begins in the segment, in bytes.
    pub start: u64,
    /// Where its last line begins.
    pub last: u64,
    /// Where the lines after it begin; the segment's size when nothing comes after it.
    pub end: u64,
    /// The time of its earliest record.
    pub from_time: i64,
    /// The time of its latest record.
    pub to_time: i64,
    /// Lines that are no records.
    pub unreadable: u64,
    /// The chain of its last record.
    pub chain: String,
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    database: Connection,
    /// Which file that is.
    file: Option<Identity>,
    dir: PathBuf,
    chunks: BTreeMap<String, Vec<Chunk>>,
    notes: Vec<String>,
}

impl Index {
    /// Opens the index of the logs in `dir`; makes it anew where it is broken, of another version, or none of ours.
    ///
    /// # Errors
    /// [`IndexError`]: nothing is lost, the questions can do without.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let (database, note) = match connect(dir) {
            Ok(database) => (database, None),
            Err(reason) => {
                let Some(_held) = hold(dir)? else { return Err(IndexError::Busy) };
                // Another may have mended it while this one waited.
                match connect(dir) {
                    Ok(database) => (database, None),
                    Err(_) => (anew(dir)?, reason.map(|reason| format!("{reason}, and is made anew"))),
                }
            }
        };
        let file = identity(dir);
        let mut index = Self { database, file, dir: dir.to_owned(), chunks: BTreeMap::new(), notes: note.into_iter().collect() };
        index.load()?;
        Ok(index)
    }

    /// The file of the index of the logs in `dir`.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(DATABASE)
    }

    /// Deletes the index of the logs in `dir`; whether there was one.
    ///
    /// # Errors
    /// [`IndexError::Busy`] when another process fills it, or what the file system says.
    pub fn delete(dir: &Path) -> Result<bool, IndexError> {
        let Some(_held) = hold(dir)? else { return Err(IndexError::Busy) };
        Ok(remove(dir)?)
    }

    /// What a reader should be told: that the index was made anew, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many records it knows.
    pub fn records(&self) -> u64 {
        self.chunks.values().flatten().map(|chunk| chunk.rows as u64).sum()
    }

    /// The chunks of an origin, in order.
    pub fn chunks(&self, origin: &str) -> &[Chunk] {
        self.chunks.get(origin).map_or(&[], Vec::as_slice)
    }

    /// Where the index of an origin ends: the segment and the offset in it of what is to be read from the log.
    pub fn cursor(&self, origin: &str) -> Option<(u64, u64)> {
        self.chunks(origin).last().map(|chunk| (chunk.segment, chunk.end))
    }

    fn load(&mut self) -> Result<(), IndexError> {
        let mut query = self.database.prepare(
            "SELECT origin, id, segment, first_seq, rows, start, last, stop, from_time, to_time, unreadable, chain FROM chunk ORDER BY origin, segment, start, id",
        )?;
        let mut found = query.query([])?;
        self.chunks.clear();
        while let Some(row) = found.next()? {
            let chunk = Chunk {
                id: row.get(1)?,
                segment: row.get(2)?,
                first_seq: row.get(3)?,
                rows: row.get(4)?,
                start: row.get(5)?,
                last: row.get(6)?,
                end: row.get(7)?,
                from_time: row.get(8)?,
                to_time: row.get(9)?,
                unreadable: row.get(10)?,
                chain: row.get(11)?,
            };
            self.chunks.entry(row.get(0)?).or_default().push(chunk);
        }
        Ok(())
    }

    /// Opens the file anew where it was deleted or replaced since; only for who may change it.
    fn reopen_if_gone(&mut self) -> Result<(), IndexError> {
        if self.file.is_none() || identity(&self.dir) != self.file {
            self.database = connect(&self.dir).or_else(|_| anew(&self.dir))?;
            self.file = identity(&self.dir);
        }
        Ok(())
    }

    /// What the index knows of an origin and is no longer so, and the first segment that is not as it says.
    fn stale(&self, origin: &str, storage: &dyn Storage) -> io::Result<(Vec<Chunk>, Option<u64>)> {
        let there = segments(storage)?;
        let chunks = self.chunks(origin);
        let first = there.first().map_or(u64::MAX, |(seq, _)| *seq);
        // Retention takes segments away at the front.
        let kept_from = chunks.partition_point(|chunk| chunk.segment < first);
        let kept = chunks.get(kept_from..).unwrap_or_default();
        let wrong = disagreeing(storage, &there, kept)?;
        let is_gone = |chunk: &&Chunk| chunk.segment < first || wrong.is_some_and(|wrong| chunk.segment >= wrong);
        Ok((chunks.iter().filter(is_gone).cloned().collect(), wrong))
    }

    /// Compares what the index knows of an origin with its segments, and forgets what is no longer so; only for who may change it.
    fn agree(&mut self, origin: &str, storage: &dyn Storage) -> Result<(), IndexError> {
        let (gone, wrong) = self.stale(origin, storage)?;
        if let Some(segment) = wrong {
            self.notes.push(format!(
                "the index did not agree with segment {segment} of `{origin}` and is made anew from there: the log was changed, or a write was \
                 taken back; see `doorward audit verify`"
            ));
        } else if !gone.is_empty() {
            self.notes.push(format!("the first segments of `{origin}` are no longer there, and the index has forgotten them"));
        }
        self.forget(origin, &gone)
    }

    /// The same for who may not change it: what is no longer there is only not looked at. Of a log that was changed, calls may have lost their ends, and
    /// the index would not know.
    fn look_away(&mut self, origin: &str, storage: &dyn Storage) -> Result<(), IndexError> {
        let (gone, wrong) = self.stale(origin, storage)?;
        if wrong.is_some() {
            return Err(IndexError::Busy);
        }
        self.drop_chunks(origin, &gone);
        Ok(())
    }

    fn forget(&mut self, origin: &str, gone: &[Chunk]) -> Result<(), IndexError> {
        if gone.is_empty() {
            return Ok(());
        }
        let change = self.database.transaction()?;
        let mut unmark = change.prepare_cached("DELETE FROM mark WHERE id = ?1")?;
        for chunk in gone {
            let (from, until) = (chunk.first_seq, chunk.first_seq + chunk.rows as u64);
            change.execute("DELETE FROM chunk WHERE id = ?1", [chunk.id])?;
            change.execute("DELETE FROM part WHERE id >= ?1 AND id < ?2", [chunk.id << PART_BITS, (chunk.id + 1) << PART_BITS])?;
            for (field, share) in Field::ALL.into_iter().flat_map(|field| (0..SHARES).map(move |share| (field, share))) {
                unmark.execute([mark(field as usize, share, chunk.id)])?;
            }
            change.execute("DELETE FROM open WHERE origin = ?1 AND seq >= ?2 AND seq < ?3", params![origin, from, until])?;
            change
                .execute("UPDATE open SET ended = NULL WHERE origin = ?1 AND ended >= ?2 AND ended < ?3", params![origin, from, until])?;
        }
        drop(unmark);
        change.commit()?;
        self.drop_chunks(origin, gone);
        Ok(())
    }

    fn drop_chunks(&mut self, origin: &str, gone: &[Chunk]) {
        let gone: std::collections::BTreeSet<i64> = gone.iter().map(|chunk| chunk.id).collect();
        if let Some(chunks) = self.chunks.get_mut(origin) {
            chunks.retain(|chunk| !gone.contains(&chunk.id));
        }
    }
}

/// The first segment in which the log is not what these chunks say: one was put in, taken out, cut or made longer, or ends in another record.
fn disagreeing(storage: &dyn Storage, there: &[(u64, String)], chunks: &[Chunk]) -> io::Result<Option<u64>> {
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for chunk in chunks {
        match ends.last_mut().filter(|(segment, _)| *segment == chunk.segment) {
            Some((_, end)) => *end = chunk.end,
            None => ends.push((chunk.segment, chunk.end)),
        }
    }
    for (at, (segment, end)) in ends.iter().enumerate() {
        let Some((_, name)) = there.get(at).filter(|(seq, _)| seq == segment) else { return Ok(Some(*segment)) };
        let size = storage.size(name)?;
        if size < *end || (size > *end && at + 1 < ends.len()) {
            return Ok(Some(*segment));
        }
    }
    Ok(chunks.last().filter(|last| !stands(storage, last)).map(|last| last.segment))
}

/// Whether a chunk's last record stands where the index says, with the same chain.
fn stands(storage: &dyn Storage, chunk: &Chunk) -> bool {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        storage.read(&segment_name(chunk.segment), chunk.last)?.take(chunk.end.saturating_sub(chunk.last)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let Ok(bytes) = read() else { return false };
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let last_seq = (chunk.first_seq + chunk.rows as u64).saturating_sub(1);
    chunk.rows == 0 || Row::parse(line).is_some_and(|row| row.seq() == last_seq && row.text("chain").unwrap_or_default() == chunk.chain)
}

/// The database, if it is there and ours; else why it is not, where that is worth telling.
fn connect(dir: &Path) -> Result<Connection, Option<String>> {
    if !Index::file(dir).exists() {
        return Err(None);
    }
    let told = |error: rusqlite::Error| Some(format!("the index cannot be read ({error})"));
    let before = identity(dir);
    let database = Connection::open(Index::file(dir)).map_err(told)?;
    database.busy_timeout(BUSY).map_err(told)?;
    let number = |name: &str| database.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(told);
    match (number("application_id")?, number("user_version")?) {
        (APPLICATION, VERSION) => {}
        (APPLICATION, _) => return Err(Some("the index is of another version".to_owned())),
        _ => return Err(Some("the index is none of ours".to_owned())),
    }
    database.query_row("SELECT count(*) FROM chunk", [], |row| row.get::<_, i64>(0)).map_err(told)?;
    tune(&database).map_err(told)?;
    // Replaced meanwhile, it may have been read together with the other file's journal.
    if identity(dir) == before { Ok(database) } else { Err(None) }
}

/// Which file has the name at the moment.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(dir: &Path) -> Option<Identity> {
    let file = fs::metadata(Index::file(dir)).ok()?;
    Some((file.dev(), file.ino(), file.created().ok()))
}

// Pages are copied, not mapped: a map of a file that somebody cuts short would end the gateway, and marks lie side by side.
fn tune(database: &Connection) -> rusqlite::Result<()> {
    // A power loss may cost the newest chunks, and must not leave what looks whole and is not.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    database.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
    database.pragma_update(None, "cache_size", -CACHE_KIB)
}

fn anew(dir: &Path) -> Result<Connection, IndexError> {
    remove(dir)?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(Index::file(dir))?;
    let database = Connection::open(Index::file(dir))?;
    database.busy_timeout(BUSY)?;
    database.pragma_update(None, "page_size", PAGE)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    tune(&database)?;
    database.execute_batch(SCHEMA)?;
    database.pragma_update(None, "application_id", APPLICATION)?;
    database.pragma_update(None, "user_version", VERSION)?;
    Ok(database)
}

fn remove(dir: &Path) -> io::Result<bool> {
    let mut was_there = false;
    // The database first: without it the others say nothing, and it would say something wrong without them.
    for name in ["", "-wal", "-shm"] {
        match fs::remove_file(dir.join(format!("{DATABASE}{name}"))) {
            Ok(()) => was_there = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(was_there)
}

/// The right to change the index; `None` when another process has it.
fn hold(dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(LOCK))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const SCHEMA: &str = "
    CREATE TABLE chunk (
        id INTEGER PRIMARY KEY AUTOINCREMENT, origin TEXT NOT NULL, segment INTEGER NOT NULL, first_seq INTEGER NOT NULL, rows INTEGER NOT NULL,
        start INTEGER NOT NULL, last INTEGER NOT NULL, stop INTEGER NOT NULL, from_time INTEGER NOT NULL, to_time INTEGER NOT NULL,
        unreadable INTEGER NOT NULL, chain TEXT NOT NULL);
    CREATE TABLE part (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE mark (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE open (origin TEXT NOT NULL, seq INTEGER NOT NULL, ended INTEGER, PRIMARY KEY (origin, seq)) WITHOUT ROWID;";

const DATABASE: &str = "index.db";
const LOCK: &str = "index.lock";
/// `Door`, as SQLite's header has it.
const APPLICATION: i64 = 0x446f_6f72;
/// Counted up with every change of the schema, of the columns' layout or of the fields: an older index is made anew.
const VERSION: i64 = 5;
const PAGE: i64 = 16_384;
const CACHE_KIB: i64 = 16_384;
const BUSY: std::time::Duration = std::time::Duration::from_secs(2);
/// Bits of a part's id below the chunk's, for the column.
const PART_BITS: i64 = 8;
/// Bits of a mark's id for the chunk; above it are 4 for the share of its hashes and 8 for the field.
const CHUNK_BITS: i64 = 40;
/// What the journal of changes keeps of the disk when it was longer.
const JOURNAL_BYTES: i64 = 16 << 20;

#[cfg(test)]
pub(super) mod tests;
