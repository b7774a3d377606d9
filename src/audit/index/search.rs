//! Searching the index: which records of a chunk may fit, and their columns.
//!
//! Owns: reading as little as a question needs. Leaves to others: the lines themselves (`find`).

use rusqlite::{CachedStatement, OptionalExtension};

use super::column::{
    Columns, Ids, Number, SHARES, Words, hash, rows_of, share, unpack_codes, unpack_i64, unpack_ids, unpack_u32, unpack_words,
};
use super::fill::{TIMES, field_slot, number_slot, part};
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

impl Index {
    /// The records of a chunk that may fit, as places in it, in order. A line has the last word.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn rows(&self, chunk: &Chunk, filter: &Filter) -> Result<Vec<u16>, IndexError> {
        if chunk.rows == 0 || !filter.overlaps(chunk.from_time, chunk.to_time) {
            return Ok(Vec::new());
        }
        let mut rows: Option<Vec<u16>> = None;
        // Hashes first: they leave few records to look at.
        let (ids, words): (Vec<&Wish>, Vec<&Wish>) = filter.wishes.iter().partition(|wish| wish.field.form() == Form::Ids);
        for wish in ids {
            let found = self.with_id(chunk, wish)?;
            rows = Some(match rows {
                Some(rows) => rows.into_iter().filter(|row| found.binary_search(row).is_ok()).collect(),
                None => found,
            });
            if rows.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Vec::new());
            }
        }
        for wish in words {
            let Some(admitted) = self.with_word(chunk, wish)? else { continue };
            rows = Some(match rows {
                Some(rows) => rows.into_iter().filter(|row| admitted.holds(usize::from(*row))).collect(),
                None => admitted.all(chunk.rows),
            });
            if rows.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Vec::new());
            }
        }
        let mut rows = rows.unwrap_or_else(|| (0..chunk.rows as u16).collect());
        let is_inside = filter.since.is_none_or(|since| chunk.from_time >= since) && filter.until.is_none_or(|until| chunk.to_time < until);
        if !is_inside {
            let times = self.times(chunk)?;
            rows.retain(|row| times.get(usize::from(*row)).is_some_and(|time| filter.is_timely(*time)));
        }
        Ok(rows)
    }

    fn with_id(&self, chunk: &Chunk, wish: &Wish) -> Result<Vec<u16>, IndexError> {
        let hashes: Vec<u32> = wish.any_of.iter().map(|value| hash(value)).collect();
        let mut found = Vec::new();
        for number in 0..SHARES {
            let mut of_share = hashes.iter().filter(|hash| share(**hash) == number).peekable();
            if of_share.peek().is_some()
                && let Some(bytes) = self.codes(part(chunk.id, field_slot(wish.field), number))?
            {
                of_share.for_each(|hash| rows_of(&bytes, *hash, &mut found));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// `None` when every record of the chunk fits.
    fn with_word(&self, chunk: &Chunk, wish: &Wish) -> Result<Option<Admitted>, IndexError> {
        let id = part(chunk.id, field_slot(wish.field), 0);
        let Some(packed) = self.words(id)? else { return Ok(Some(Admitted::default())) };
        let words = unpack_words(&packed).ok_or(IndexError::Broken)?;
        let admitted: Vec<bool> = words.iter().map(|values| values.iter().any(|value| wish.admits(value))).collect();
        if admitted.iter().all(|admitted| *admitted) {
            return Ok(None);
        }
        if !admitted.contains(&true) {
            return Ok(Some(Admitted::default()));
        }
        let codes = unpack_codes(&self.codes(id)?.unwrap_or_default(), words.len());
        Ok(Some(Admitted { words: admitted, codes }))
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
                    let id = part(chunk.id, field_slot(*field), 0);
                    if let Some(packed) = self.words(id)? {
                        let words = unpack_words(&packed).ok_or(IndexError::Broken)?;
                        let codes = unpack_codes(&self.codes(id)?.unwrap_or_default(), words.len());
                        columns.words.insert(*field, Words { words, codes });
                    }
                }
                Form::Ids => drop(columns.ids.insert(*field, self.ids(chunk, *field)?)),
            }
        }
        for number in wanted.numbers {
            if let Some(bytes) = self.codes(part(chunk.id, number_slot(*number), 0))? {
                columns.numbers.insert(*number, unpack_u32(&bytes));
            }
        }
        Ok(columns)
    }

    fn ids(&self, chunk: &Chunk, field: Field) -> Result<Ids, IndexError> {
        let mut ids = Vec::new();
        for number in 0..SHARES {
            ids.extend(self.codes(part(chunk.id, field_slot(field), number))?.map(|bytes| unpack_ids(&bytes)).unwrap_or_default());
        }
        Ok(ids)
    }

    fn times(&self, chunk: &Chunk) -> Result<Vec<i64>, IndexError> {
        let bytes = self.codes(part(chunk.id, TIMES, 0))?.ok_or(IndexError::Broken)?;
        Some(unpack_i64(&bytes)).filter(|times| times.len() == chunk.rows).ok_or(IndexError::Broken)
    }

    /// Where the lines of a chunk begin, in bytes from its start.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn offsets(&self, chunk: &Chunk) -> Result<Vec<u32>, IndexError> {
        // A chunk of one line has only the offset 0, which is not stored.
        Ok(self.codes(part(chunk.id, number_slot(Number::Offset), 0))?.map_or_else(|| vec![0; chunk.rows], |bytes| unpack_u32(&bytes)))
    }

    /// The intents of an origin without an end, as far as the index knows the log.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open_intents(&self, origin: &str) -> Result<Vec<u64>, IndexError> {
        let mut query = self.database.prepare_cached("SELECT seq FROM open WHERE origin = ?1 AND ended IS NULL ORDER BY seq")?;
        Ok(query.query_map([origin], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    fn words(&self, id: i64) -> Result<Option<Vec<u8>>, IndexError> {
        blob(self.database.prepare_cached("SELECT words FROM part WHERE id = ?1")?, id)
    }

    fn codes(&self, id: i64) -> Result<Option<Vec<u8>>, IndexError> {
        blob(self.database.prepare_cached("SELECT codes FROM part WHERE id = ?1")?, id)
    }
}

fn blob(mut query: CachedStatement<'_>, id: i64) -> Result<Option<Vec<u8>>, IndexError> {
    Ok(query.query_row([id], |row| row.get::<_, Option<Vec<u8>>>(0)).optional()?.flatten())
}

/// Which words of a column fit; nothing does by default.
#[derive(Default)]
struct Admitted {
    words: Vec<bool>,
    codes: Vec<u16>,
}

impl Admitted {
    fn holds(&self, row: usize) -> bool {
        self.codes.get(row).and_then(|code| self.words.get(usize::from(*code))).copied().unwrap_or(false)
    }

    fn all(&self, rows: usize) -> Vec<u16> {
        (0..rows.min(self.codes.len())).filter(|row| self.holds(*row)).map(|row| row as u16).collect()
    }
}
