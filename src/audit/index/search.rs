//! Searching the index: which records may fit, and their columns.
//!
//! A question goes through the marks of a field first, which lie side by side for all chunks: so most chunks are passed over at the speed
//! of reading a few bytes of each, also where nothing is found at all.
//!
//! Owns: reading as little as a question needs. Leaves to others: the lines themselves (`find`).

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, OptionalExtension, params};

use super::column::{
    Columns, Ids, Number, SHARES, Words, admitted, hash, holding, rows_of, share, unpack_codes, unpack_i64, unpack_ids, unpack_u32,
    unpack_words,
};
use super::fill::{TIMES, chunk_of, mark, number_slot, part};
use super::{Chunk, Index, IndexError};
use crate::audit::filter::{Filter, Wish};
use crate::audit::row::{Field, Form};

/// Which columns are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Fields.
    pub fields: &'a [Field],
    /// Numbers.
    pub numbers: &'a [Number],
}

/// Whether a search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// With the next chunk.
    On,
    /// Enough was found.
    Enough,
}

/// What the marks say of a chunk.
#[derive(Default)]
struct Near {
    /// The records that have the hashes; all where none was asked for.
    rows: Option<Vec<u16>>,
    /// Of fields with words: which of them fit, where not all do.
    words: Vec<(Field, Vec<bool>)>,
}

impl Index {
    /// Shows the records of these chunks that may fit, as places in each, in order; the chunks from the last on where the newest come first.
    /// A line has the last word.
    ///
    /// # Errors
    /// [`IndexError`], and what `show` says.
    pub fn search<'c>(
        &self,
        chunks: &'c [Chunk],
        filter: &Filter,
        mut show: impl FnMut(&'c Chunk, &[u16]) -> Result<Go, IndexError>,
    ) -> Result<(), IndexError> {
        let mut order: Vec<&Chunk> =
            chunks.iter().filter(|chunk| chunk.rows > 0 && filter.overlaps(chunk.from_time, chunk.to_time)).collect();
        if filter.newest_first {
            order.reverse();
        }
        // What is asked for is often near: the first look is at few chunks.
        let (mut rest, mut count) = (&order[..], FIRST_BATCH);
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(count.min(rest.len()));
            let mut near = self.near(batch, filter)?;
            for chunk in batch {
                let Some(near) = near.remove(&chunk.id) else { continue };
                let rows = self.rows(chunk, filter, near)?;
                if !rows.is_empty() && show(chunk, &rows)? == Go::Enough {
                    return Ok(());
                }
            }
            (rest, count) = (later, (count * 2).min(LARGEST_BATCH));
        }
        Ok(())
    }

    /// Which of these chunks may hold records that fit.
    fn near(&self, batch: &[&Chunk], filter: &Filter) -> Result<BTreeMap<i64, Near>, IndexError> {
        let mut near: BTreeMap<i64, Near> = batch.iter().map(|chunk| (chunk.id, Near::default())).collect();
        // Hashes first: they leave few chunks to look at.
        let (ids, words): (Vec<&Wish>, Vec<&Wish>) = filter.wishes.iter().partition(|wish| wish.field.form() == Form::Ids);
        for wish in ids {
            near = self.with_id(near, wish)?;
        }
        for wish in words {
            near = self.with_word(near, wish)?;
        }
        Ok(near)
    }

    fn with_id(&self, mut near: BTreeMap<i64, Near>, wish: &Wish) -> Result<BTreeMap<i64, Near>, IndexError> {
        let mut hashes: Vec<u32> = wish.any_of.iter().map(|value| hash(value)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut found: BTreeMap<i64, Vec<u16>> = BTreeMap::new();
        for number in 0..SHARES {
            let of_share: Vec<u32> = hashes.iter().copied().filter(|hash| share(*hash) == number).collect();
            if of_share.is_empty() {
                continue;
            }
            self.marks(wish.field, number, &near, |chunk, bytes| {
                let mut rows = Vec::new();
                of_share.iter().for_each(|hash| rows_of(bytes, *hash, &mut rows));
                if !rows.is_empty() {
                    found.entry(chunk).or_default().append(&mut rows);
                }
                Ok(())
            })?;
        }
        let mut kept = BTreeMap::new();
        for (chunk, mut rows) in found {
            rows.sort_unstable();
            rows.dedup();
            let Some(mut near) = near.remove(&chunk) else { continue };
            if let Some(others) = &near.rows {
                rows.retain(|row| others.binary_search(row).is_ok());
            }
            near.rows = Some(rows);
            kept.insert(chunk, near);
        }
        kept.retain(|_, near: &mut Near| near.rows.as_ref().is_none_or(|rows| !rows.is_empty()));
        Ok(kept)
    }

    fn with_word(&self, mut near: BTreeMap<i64, Near>, wish: &Wish) -> Result<BTreeMap<i64, Near>, IndexError> {
        let mut found: Vec<(i64, Vec<bool>)> = Vec::new();
        self.marks(wish.field, 0, &near, |chunk, bytes| {
            let admitted = admitted(bytes, wish).ok_or(IndexError::Broken)?;
            if !admitted.is_empty() {
                found.push((chunk, admitted));
            }
            Ok(())
        })?;
        let mut kept = BTreeMap::new();
        for (chunk, admitted) in found {
            let Some(mut near) = near.remove(&chunk) else { continue };
            if admitted.contains(&false) {
                near.words.push((wish.field, admitted));
            }
            kept.insert(chunk, near);
        }
        Ok(kept)
    }

    /// Shows the marks of a field in these chunks.
    fn marks(
        &self,
        field: Field,
        share: usize,
        near: &BTreeMap<i64, Near>,
        mut show: impl FnMut(i64, &[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let Some(((first, _), (last, _))) = near.first_key_value().zip(near.last_key_value()) else { return Ok(()) };
        let mut query = self.database.prepare_cached("SELECT id, bytes FROM mark WHERE id >= ?1 AND id <= ?2")?;
        let mut found = query.query(params![mark(field as usize, share, *first), mark(field as usize, share, *last)])?;
        while let Some(row) = found.next()? {
            let chunk = chunk_of(row.get(0)?);
            // Other logs have chunks between these.
            if near.contains_key(&chunk) {
                show(chunk, row.get_ref(1)?.as_blob().map_err(|_| IndexError::Broken)?)?;
            }
        }
        Ok(())
    }

    fn rows(&self, chunk: &Chunk, filter: &Filter, near: Near) -> Result<Vec<u16>, IndexError> {
        let mut rows = near.rows;
        for (field, admitted) in near.words {
            let codes = self.part(chunk.id, field as usize)?.unwrap_or_default();
            rows = Some(holding(&codes, &admitted, rows));
            if rows.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Vec::new());
            }
        }
        let mut rows = rows.unwrap_or_else(|| (0..chunk.rows as u16).collect());
        let is_inside = filter.since.is_none_or(|since| chunk.from_time >= since) && filter.until.is_none_or(|until| chunk.to_time < until);
        if !is_inside && !rows.is_empty() {
            let times = self.times(chunk)?;
            rows.retain(|row| times.get(usize::from(*row)).is_some_and(|time| filter.is_timely(*time)));
        }
        Ok(rows)
    }

    /// The columns of a chunk that a question needs; the times always.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn columns(&self, chunk: &Chunk, wanted: Wanted<'_>) -> Result<Columns, IndexError> {
        let mut columns = Columns { rows: chunk.rows, times: self.times(chunk)?, ..Columns::default() };
        for field in wanted.fields {
            match field.form() {
                Form::Words => {
                    if let Some(packed) = self.mark(*field, 0, chunk)? {
                        let words = unpack_words(&packed).ok_or(IndexError::Broken)?;
                        let codes = self.part(chunk.id, *field as usize)?.map(|bytes| unpack_codes(&bytes, words.len()));
                        columns.words.insert(*field, Words { words, codes: codes.unwrap_or_default() });
                    }
                }
                Form::Ids => drop(columns.ids.insert(*field, self.ids(chunk, *field)?)),
            }
        }
        for number in wanted.numbers {
            if let Some(bytes) = self.part(chunk.id, number_slot(*number))? {
                columns.numbers.insert(*number, unpack_u32(&bytes));
            }
        }
        Ok(columns)
    }

    fn ids(&self, chunk: &Chunk, field: Field) -> Result<Ids, IndexError> {
        let mut ids = Vec::new();
        for number in 0..SHARES {
            ids.extend(self.mark(field, number, chunk)?.map(|bytes| unpack_ids(&bytes)).unwrap_or_default());
        }
        Ok(ids)
    }

    fn times(&self, chunk: &Chunk) -> Result<Vec<i64>, IndexError> {
        let bytes = self.part(chunk.id, TIMES)?.ok_or(IndexError::Broken)?;
        Some(unpack_i64(&bytes)).filter(|times| times.len() == chunk.rows).ok_or(IndexError::Broken)
    }

    /// Where the lines of a chunk begin, in bytes from its start.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn offsets(&self, chunk: &Chunk) -> Result<Vec<u32>, IndexError> {
        // A chunk of one line has only the offset 0, which is not stored.
        Ok(self.part(chunk.id, number_slot(Number::Offset))?.map_or_else(|| vec![0; chunk.rows], |bytes| unpack_u32(&bytes)))
    }

    /// The intents of an origin without an end, as far as the index knows the log.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open_intents(&self, origin: &str) -> Result<Vec<u64>, IndexError> {
        let mut query = self.database.prepare_cached("SELECT seq FROM open WHERE origin = ?1 AND ended IS NULL ORDER BY seq")?;
        Ok(query.query_map([origin], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    fn part(&self, chunk: i64, slot: usize) -> Result<Option<Vec<u8>>, IndexError> {
        blob(self.database.prepare_cached("SELECT bytes FROM part WHERE id = ?1")?, part(chunk, slot))
    }

    fn mark(&self, field: Field, share: usize, chunk: &Chunk) -> Result<Option<Vec<u8>>, IndexError> {
        blob(self.database.prepare_cached("SELECT bytes FROM mark WHERE id = ?1")?, mark(field as usize, share, chunk.id))
    }
}

fn blob(mut query: CachedStatement<'_>, id: i64) -> Result<Option<Vec<u8>>, IndexError> {
    Ok(query.query_row([id], |row| row.get(0)).optional()?)
}

/// Chunks that are looked at together: at first, and at most.
const FIRST_BATCH: usize = 4;
const LARGEST_BATCH: usize = 512;
