//! Filling the index behind the log.
//!
//! Owns: which lines make a chunk, and what is stored of one. Leaves to others: what the columns look like (`column`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use rusqlite::{Transaction, params};
use tokio::time::Instant;

use super::column::{Builder, CHUNK, Columns, Number, SHARES, pack_codes, pack_i64, pack_ids, pack_u32, pack_words, share};
use super::{Chunk, Index, IndexError, PART_BITS, hold};
use crate::audit::chain::Line;
use crate::audit::record::Kind;
use crate::audit::row::{Field, Row};
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
    /// Takes in what has come since the last time, for no longer than `budget`; nothing when another process does it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn fill(
        &mut self,
        logs: &[(String, std::sync::Arc<dyn Storage>)],
        budget: Option<Duration>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Filled, IndexError> {
        let mut filled = Filled { records: 0, is_done: true };
        let Some(_held) = hold(&self.dir)? else { return Ok(Filled { is_done: false, ..filled }) };
        // Another may have filled it since it was read.
        self.load()?;
        let until = budget.map(|budget| Instant::now() + budget);
        for (origin, storage) in logs {
            let all = segments(&**storage)?;
            let (segment, offset) = self.cursor(origin).unwrap_or((0, 0));
            for (at, (first_seq, name)) in all.iter().enumerate().filter(|(_, (first_seq, _))| *first_seq >= segment) {
                let is_last = at + 1 == all.len();
                let from = if *first_seq == segment { offset } else { 0 };
                let mut part = Segment { first_seq: *first_seq, name, at: from, left: usize::MAX };
                if is_last {
                    part.left = whole_chunks(&**storage, name, from)?;
                }
                while let Some(taken) = part.chunk(&**storage, is_last)? {
                    filled.records += taken.chunk.rows as u64;
                    let stored = self.store(origin, taken)?;
                    self.chunks.entry(origin.clone()).or_default().push(stored);
                    progress(filled.records);
                    if until.is_some_and(|until| Instant::now() >= until) {
                        return Ok(Filled { is_done: false, ..filled });
                    }
                }
            }
        }
        Ok(filled)
    }

    fn store(&mut self, origin: &str, taken: Taken) -> Result<Chunk, IndexError> {
        let Taken { mut chunk, columns, open, ended } = taken;
        let change = self.database.transaction()?;
        change.execute(
            "INSERT INTO chunk (origin, segment, first_seq, rows, start, last, stop, from_time, to_time, unreadable, chain) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
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
            ],
        )?;
        chunk.id = change.last_insert_rowid();
        parts(&change, chunk.id, &columns)?;
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
        change.commit()?;
        Ok(chunk)
    }
}

/// The number of a column's part.
pub(super) fn part(chunk: i64, slot: usize, share: usize) -> i64 {
    (chunk << PART_BITS) | ((slot as i64) << 4) | share as i64
}

/// The slot of a field, of a number, and of the times.
pub(super) fn field_slot(field: Field) -> usize {
    Field::ALL.iter().position(|known| *known == field).unwrap_or_default()
}

pub(super) fn number_slot(number: Number) -> usize {
    128 + Number::ALL.iter().position(|known| *known == number).unwrap_or_default()
}

pub(super) const TIMES: usize = 160;

fn parts(change: &Transaction<'_>, chunk: i64, columns: &Columns) -> rusqlite::Result<()> {
    // In the order of their ids, so that the table only grows at its end.
    let mut all: BTreeMap<i64, (Option<Vec<u8>>, Vec<u8>)> = BTreeMap::new();
    for (field, column) in &columns.words {
        all.insert(part(chunk, field_slot(*field), 0), (Some(pack_words(&column.words)), pack_codes(column)));
    }
    for (field, ids) in &columns.ids {
        for number in 0..SHARES {
            let of_share = ids.iter().filter(|(hash, _)| share(*hash) == number).copied().collect::<Vec<_>>();
            if !of_share.is_empty() {
                all.insert(part(chunk, field_slot(*field), number), (None, pack_ids(&of_share)));
            }
        }
    }
    for (number, column) in &columns.numbers {
        all.insert(part(chunk, number_slot(*number), 0), (None, pack_u32(column)));
    }
    all.insert(part(chunk, TIMES, 0), (None, pack_i64(&columns.times)));
    let mut insert = change.prepare_cached("INSERT INTO part (id, words, codes) VALUES (?1, ?2, ?3)")?;
    for (id, (words, codes)) in all {
        insert.execute(params![id, words, codes])?;
    }
    Ok(())
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
                    if let Some(split) = Line::split(line) {
                        note_ends(&split, &mut open, &mut ended);
                    }
                    builder.push(&row, offset);
                    (chunk.last, chunk.chain) = (chunk.end, row.text("chain").unwrap_or_default().into_owned());
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

fn note_ends(line: &Line<'_>, open: &mut BTreeSet<u64>, ended: &mut Vec<(u64, u64)>) {
    match (line.kind(), line.intent_seq()) {
        (Some(Kind::Intent), _) => drop(open.insert(line.seq)),
        (Some(Kind::Outcome), Some(intent)) if !open.remove(&intent) => ended.push((intent, line.seq)),
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
