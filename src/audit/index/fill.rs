//! Filling the index behind the log.
//!
//! Owns: which lines make a chunk, and what is stored of one. Leaves to others: what the columns look like (`column`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use rusqlite::{Transaction, params};
use tokio::time::Instant;

use super::column::{Builder, CHUNK, Columns, Number, SHARES, pack_codes, pack_i64, pack_ids, pack_u32, pack_words, share};
use super::{CHUNK_BITS, Chunk, Index, IndexError, PART_BITS, hold};
use crate::audit::record::Kind;
use crate::audit::row::Row;
use crate::audit::storage::{Storage, segments};

/// What came of filling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Records that were taken in.
    pub records: u64,
    /// Whether all that makes whole chunks is in.
    pub is_done: bool,
}

impl Index {
    /// Forgets what is no longer in the logs and takes in what has come since the last time, for no longer than `budget`; nothing when another
    /// process does it.
    ///
    /// # Errors
    /// [`IndexError`]: the questions are to read the log.
    pub fn fill(
        &mut self,
        logs: &[(String, std::sync::Arc<dyn Storage>)],
        budget: Option<Duration>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Filled, IndexError> {
        let Some(_held) = hold(&self.dir)? else {
            for (origin, storage) in logs {
                self.look_away(origin, &**storage)?;
            }
            return Ok(Filled::default());
        };
        // Another may have filled it since it was read, or made it anew.
        self.reopen_if_gone()?;
        self.load()?;
        for (origin, storage) in logs {
            self.agree(origin, &**storage)?;
        }
        let mut filled = Filled { records: 0, is_done: true };
        let until = budget.map(|budget| Instant::now() + budget);
        for (origin, storage) in logs {
            let all = segments(&**storage)?;
            let (segment, offset) = self.cursor(origin).unwrap_or((0, 0));
            let mut batch = Vec::new();
            for (at, (first_seq, name)) in all.iter().enumerate().filter(|(_, (first_seq, _))| *first_seq >= segment) {
                let is_last = at + 1 == all.len();
                let from = if *first_seq == segment { offset } else { 0 };
                let mut part = Segment { first_seq: *first_seq, name, at: from, left: usize::MAX };
                if is_last {
                    part.left = whole_chunks(&**storage, name, from)?;
                }
                while let Some(taken) = part.chunk(&**storage, is_last)? {
                    filled.records += taken.chunk.rows as u64;
                    batch.push(taken);
                    let is_over = until.is_some_and(|until| Instant::now() >= until);
                    if batch.len() == BATCH || is_over {
                        self.store(origin, std::mem::take(&mut batch))?;
                        progress(filled.records);
                    }
                    if is_over {
                        return Ok(Filled { is_done: false, ..filled });
                    }
                }
            }
            self.store(origin, batch)?;
        }
        Ok(filled)
    }

    /// Stores chunks in one transaction, so that what belongs together is written together.
    fn store(&mut self, origin: &str, batch: Vec<Taken>) -> Result<(), IndexError> {
        let change = self.database.transaction()?;
        let mut stored = Vec::with_capacity(batch.len());
        // In the order of their ids: each field's chunks lie side by side.
        let mut marks: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        for Taken { mut chunk, columns, open, ended } in batch {
            chunk.id = insert_chunk(&change, origin, &chunk)?;
            insert_parts(&change, chunk.id, &columns)?;
            marks_of(chunk.id, &columns, &mut marks);
            for (intent, end) in ended {
                change
                    .prepare_cached("UPDATE open SET ended = ?3 WHERE origin = ?1 AND seq = ?2 AND ended IS NULL")?
                    .execute(params![origin, intent, end])?;
            }
            for seq in open {
                change
                    .prepare_cached("INSERT OR REPLACE INTO open (origin, seq, ended) VALUES (?1, ?2, NULL)")?
                    .execute(params![origin, seq])?;
            }
            stored.push(chunk);
        }
        let mut insert = change.prepare_cached("INSERT INTO mark (id, bytes) VALUES (?1, ?2)")?;
        for (id, bytes) in marks {
            insert.execute(params![id, bytes])?;
        }
        drop(insert);
        change.commit()?;
        self.chunks.entry(origin.to_owned()).or_default().append(&mut stored);
        Ok(())
    }
}

fn insert_chunk(change: &Transaction<'_>, origin: &str, chunk: &Chunk) -> rusqlite::Result<i64> {
    let mut insert = change.prepare_cached(
        "INSERT INTO chunk (origin, segment, first_seq, rows, start, last, stop, from_time, to_time, unreadable, chain) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    insert.insert(params![
        origin,
        chunk.segment,
        chunk.first_seq,
        chunk.rows,
        chunk.start,
        chunk.last,
        chunk.end,
        chunk.from_time,
        chunk.to_time,
        chunk.unreadable,
        chunk.chain
    ])
}

/// The number of a column in the table of parts, where all columns of a chunk lie side by side.
pub(super) fn part(chunk: i64, slot: usize) -> i64 {
    (chunk << PART_BITS) | slot as i64
}

/// The number of a field's words or hashes in the table of marks, where those of all chunks lie side by side.
pub(super) fn mark(slot: usize, share: usize, chunk: i64) -> i64 {
    (((slot << 4) | share) as i64) << CHUNK_BITS | chunk
}

/// The chunk of a mark.
pub(super) fn chunk_of(mark: i64) -> i64 {
    mark & ((1 << CHUNK_BITS) - 1)
}

/// The slot of a number; a field's is its own.
pub(super) fn number_slot(number: Number) -> usize {
    128 + number as usize
}

pub(super) const TIMES: usize = 160;

fn insert_parts(change: &Transaction<'_>, chunk: i64, columns: &Columns) -> rusqlite::Result<()> {
    let mut all: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for (field, column) in &columns.words {
        if !column.codes.is_empty() {
            all.insert(part(chunk, *field as usize), pack_codes(column));
        }
    }
    for (number, column) in &columns.numbers {
        all.insert(part(chunk, number_slot(*number)), pack_u32(column));
    }
    all.insert(part(chunk, TIMES), pack_i64(&columns.times));
    let mut insert = change.prepare_cached("INSERT INTO part (id, bytes) VALUES (?1, ?2)")?;
    for (id, bytes) in all {
        insert.execute(params![id, bytes])?;
    }
    Ok(())
}

fn marks_of(chunk: i64, columns: &Columns, out: &mut BTreeMap<i64, Vec<u8>>) {
    for (field, column) in &columns.words {
        out.insert(mark(*field as usize, 0, chunk), pack_words(&column.words));
    }
    for (field, ids) in &columns.ids {
        let mut rest = &ids[..];
        for number in 0..SHARES {
            let (of_share, others) = rest.split_at(rest.partition_point(|(hash, _)| share(*hash) <= number));
            if !of_share.is_empty() {
                out.insert(mark(*field as usize, number, chunk), pack_ids(of_share));
            }
            rest = others;
        }
    }
}

/// A chunk that is ready to be stored.
pub(super) struct Taken {
    pub chunk: Chunk,
    pub columns: Columns,
    /// Intents whose end is not in the chunk.
    open: BTreeSet<u64>,
    /// Intents of earlier chunks that end in this one, and where.
    ended: Vec<(u64, u64)>,
}

/// A segment that is being read.
pub(super) struct Segment<'a> {
    pub first_seq: u64,
    pub name: &'a str,
    /// How far, in bytes.
    pub at: u64,
    /// How many more lines are to be taken.
    pub left: usize,
}

impl Segment<'_> {
    /// The next records as a chunk; `None` at the segment's end. Of a live segment nothing is taken to be its end.
    pub fn chunk(&mut self, storage: &dyn Storage, is_live: bool) -> io::Result<Option<Taken>> {
        let mut from = BufReader::with_capacity(BLOCK, storage.read(self.name, self.at)?);
        let mut builder = Builder::default();
        let mut chunk = Chunk {
            id: 0,
            segment: self.first_seq,
            first_seq: 0,
            rows: 0,
            start: self.at,
            last: self.at,
            end: self.at,
            from_time: i64::MAX,
            to_time: i64::MIN,
            unreadable: 0,
            chain: String::new(),
        };
        let (mut open, mut ended, mut text) = (BTreeSet::new(), Vec::new(), Vec::new());
        while self.left > 0 && builder.rows() < CHUNK {
            text.clear();
            from.read_until(b'\n', &mut text)?;
            let Some(line) = text.strip_suffix(b"\n") else {
                // A torn end belongs to the segment that it ends; a live one is not ended.
                if !is_live {
                    chunk.end += text.len() as u64;
                }
                break;
            };
            let offset = chunk.end - chunk.start;
            match Row::parse(line) {
                Some(row) if builder.rows() == 0 || row.seq() == chunk.first_seq + builder.rows() as u64 => {
                    // Beyond 4 GiB an offset has no place: the chunk ends before.
                    let Ok(offset) = u32::try_from(offset) else { break };
                    if builder.rows() == 0 {
                        chunk.first_seq = row.seq();
                    }
                    note_ends(&row, &mut open, &mut ended);
                    builder.push(&row, offset);
                    chunk.last = chunk.end;
                    chunk.chain.clear();
                    chunk.chain.push_str(&row.text("chain").unwrap_or_default());
                }
                Some(_) => break,
                None => chunk.unreadable += 1,
            }
            self.left -= 1;
            chunk.end += text.len() as u64;
        }
        if chunk.end == self.at {
            return Ok(None);
        }
        self.at = chunk.end;
        chunk.rows = builder.rows();
        let columns = builder.finish();
        chunk.from_time = columns.times.iter().copied().min().unwrap_or(i64::MAX);
        chunk.to_time = columns.times.iter().copied().max().unwrap_or(i64::MIN);
        Ok(Some(Taken { chunk, columns, open, ended }))
    }
}

fn note_ends(row: &Row<'_>, open: &mut BTreeSet<u64>, ended: &mut Vec<(u64, u64)>) {
    match (row.text("kind").and_then(|kind| Kind::from_word(&kind)), row.number("intent_seq")) {
        (Some(Kind::Intent), _) => drop(open.insert(row.seq())),
        (Some(Kind::Outcome), Some(intent)) if !open.remove(&intent) => ended.push((intent, row.seq())),
        _ => {}
    }
}

/// Shows what stands in a log from a place on as columns, the last of them perhaps short.
///
/// # Errors
/// A file cannot be read.
pub(in crate::audit) fn from_log(storage: &dyn Storage, place: (u64, u64), mut show: impl FnMut(&Chunk, &Columns)) -> io::Result<()> {
    for (first_seq, name) in segments(storage)?.iter().filter(|(first_seq, _)| *first_seq >= place.0) {
        let at = if *first_seq == place.0 { place.1 } else { 0 };
        let mut part = Segment { first_seq: *first_seq, name, at, left: usize::MAX };
        while let Some(taken) = part.chunk(storage, true)? {
            show(&taken.chunk, &taken.columns);
        }
    }
    Ok(())
}

/// How many of the lines from `offset` on make whole chunks.
fn whole_chunks(storage: &dyn Storage, name: &str, offset: u64) -> io::Result<usize> {
    let mut from = BufReader::with_capacity(BLOCK, storage.read(name, offset)?);
    let mut lines = 0;
    loop {
        let block = from.fill_buf()?;
        if block.is_empty() {
            return Ok(lines / CHUNK * CHUNK);
        }
        lines += memchr::memchr_iter(b'\n', block).count();
        let read = block.len();
        from.consume(read);
    }
}

const BLOCK: usize = 1 << 18;
/// Chunks that are stored at a time, where many come: some 16 MiB in memory.
const BATCH: usize = 16;
