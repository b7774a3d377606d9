//! Some thousand records as columns: what the index stores of them instead of their lines.
//!
//! A field with few different values is a list of these and a number for each record; one with nearly as many values as records is a list of
//! hashes, sorted, each with the record it is in. Numbers stand as they are.
//!
//! Owns: the layout, in memory and as bytes. Leaves to others: where the bytes are kept (`index`).

use std::collections::HashMap;

use crate::audit::filter::Wish;
use crate::audit::row::{Field, Form, Row, values};

/// Most records in a chunk: a question reads one column of a chunk in some microseconds, and the newest records, which fill no chunk yet, from the log.
pub const CHUNK: usize = 8_192;
/// Hashes are kept in so many shares, so that a question reads one of them.
pub const SHARES: usize = 16;

/// What a chunk keeps as a number for each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// Where the line begins, in bytes from the first line of the chunk.
    Offset,
    /// How long the call took, in microseconds; 0 where nothing is said.
    Duration,
    /// How long the upstream took, in microseconds.
    Upstream,
    /// How many events the record stands for; 0 where nothing is said.
    Count,
    /// What the call costs; 0 where nothing is said.
    Cost,
}

impl Number {
    /// Every number.
    pub const ALL: [Self; 5] = [Self::Offset, Self::Duration, Self::Upstream, Self::Count, Self::Cost];

    /// The number that a name in a line stands for.
    fn of_key(key: &str) -> Option<Self> {
        match key {
            "duration_us" => Some(Self::Duration),
            "upstream_us" => Some(Self::Upstream),
            "count" => Some(Self::Count),
            "cost" => Some(Self::Cost),
            _ => None,
        }
    }
}

/// A field with few different values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The different values; a record may have none or many, so each is a list.
    pub words: Vec<Vec<String>>,
    /// For each record its number in `words`; empty when all have the first.
    pub codes: Vec<u16>,
}

impl Words {
    /// The number of a record's value; 0 where the column is empty.
    pub fn code(&self, row: usize) -> usize {
        self.codes.get(row).map_or(0, |code| usize::from(*code))
    }

    /// A record's values.
    pub fn values(&self, row: usize) -> &[String] {
        self.words.get(self.code(row)).map_or(&[], Vec::as_slice)
    }

    /// A record's first value.
    pub fn first(&self, row: usize) -> Option<&str> {
        self.values(row).first().map(String::as_str)
    }
}

/// A field with nearly as many values as records: (hash, record), sorted.
pub type Ids = Vec<(u32, u16)>;

/// The columns of a chunk, or those of them that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// How many records.
    pub rows: usize,
    /// When each was made, in nanoseconds since 1970.
    pub times: Vec<i64>,
    /// Fields with few different values; one that no record has is left out.
    pub words: HashMap<Field, Words>,
    /// Fields with many.
    pub ids: HashMap<Field, Ids>,
    /// Numbers; what is 0 in all records is left out.
    pub numbers: HashMap<Number, Vec<u32>>,
}

/// Takes records in until they are a chunk.
#[derive(Debug)]
pub struct Builder {
    rows: usize,
    times: Vec<i64>,
    numbers: [Vec<u32>; Number::ALL.len()],
    /// By the field's place in [`Field::ALL`]; those with hashes are not used.
    words: Vec<Coded>,
    /// The same the other way round.
    ids: Vec<Ids>,
}

/// Lengths that are told apart among recent texts.
const RECENT: usize = 8;

/// A column of words that grows.
#[derive(Debug, Default)]
struct Coded {
    /// The number of the value that has this JSON text.
    known: HashMap<String, u16>,
    /// Texts of records before, by their length, and their numbers: mostly one of them comes again, and a comparison costs less than a hash.
    recent: [Option<(String, u16)>; RECENT],
    column: Words,
}

impl Default for Builder {
    fn default() -> Self {
        let fields = Field::ALL.len();
        Self {
            rows: 0,
            times: Vec::new(),
            numbers: [const { Vec::new() }; Number::ALL.len()],
            words: (0..fields).map(|_| Coded::default()).collect(),
            ids: vec![Ids::new(); fields],
        }
    }
}

impl Builder {
    /// How many records it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes in the record whose line begins at `offset` of the chunk.
    pub fn push(&mut self, row: &Row<'_>, offset: u32) {
        // A chunk has at most 2^13 records.
        let at = self.rows as u16;
        let mut numbers = [0; Number::ALL.len()];
        numbers[Number::Offset as usize] = offset;
        let mut words = [Members::default(); Field::ALL.len()];
        // One pass: what a record lacks, which is most, costs nothing.
        for (key, raw) in row.members() {
            if let Some(number) = Number::of_key(key) {
                numbers[number as usize] = raw.trim_matches('"').parse().map_or(0, |value: u64| u32::try_from(value).unwrap_or(u32::MAX));
            }
            for field in Field::of_key(key) {
                match field.form() {
                    Form::Words => {
                        let members = &mut words[*field as usize];
                        members.first.get_or_insert((key, raw));
                        members.count += 1;
                    }
                    Form::Ids => {
                        let ids = &mut self.ids[*field as usize];
                        values(key, raw, &mut |value| ids.push((hash(value), at)));
                    }
                }
            }
        }
        self.times.push(row.unix_nanos());
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.push(number);
        }
        for ((field, coded), members) in Field::ALL.into_iter().zip(&mut self.words).zip(words) {
            coded.push(row, field, members, self.rows);
        }
        self.rows += 1;
    }

    /// The finished columns.
    pub fn finish(self) -> Columns {
        let mut columns = Columns { rows: self.rows, times: self.times, ..Columns::default() };
        for (field, coded) in Field::ALL.into_iter().zip(self.words) {
            let mut column = coded.column;
            if column.words.iter().any(|values| !values.is_empty()) {
                if column.words.len() == 1 {
                    column.codes.clear();
                }
                columns.words.insert(field, column);
            }
        }
        for (field, mut ids) in Field::ALL.into_iter().zip(self.ids) {
            if !ids.is_empty() {
                ids.sort_unstable();
                ids.dedup();
                columns.ids.insert(field, ids);
            }
        }
        for (number, column) in Number::ALL.into_iter().zip(self.numbers) {
            if column.iter().any(|value| *value != 0) {
                columns.numbers.insert(number, column);
            }
        }
        columns
    }
}

/// The members of one line that a field is made of.
#[derive(Clone, Copy, Default)]
struct Members<'a> {
    first: Option<(&'a str, &'a str)>,
    count: usize,
}

impl Coded {
    fn push(&mut self, row: &Row<'_>, field: Field, members: Members<'_>, rows_before: usize) {
        let Some((key, raw)) = members.first else {
            // A field that no record has had yet needs no number.
            if !self.column.words.is_empty() {
                let none = self.code("", |_| {});
                self.column.codes.push(none);
            }
            return;
        };
        if self.column.words.is_empty() && rows_before > 0 {
            let none = self.code("", |_| {});
            self.column.codes.resize(rows_before, none);
        }
        let code = if members.count == 1 {
            self.code(raw, |show| values(key, raw, show))
        } else {
            // Two names, or a line that somebody made: what a reader of the line would see. No JSON text in a line has a line feed.
            let texts: Vec<_> = field.keys().iter().map(|key| row.raw(key).unwrap_or_default()).collect();
            self.code(&texts.join("\n"), |show| row.each(field, show))
        };
        self.column.codes.push(code);
    }

    fn code(&mut self, text: &str, values: impl FnOnce(&mut dyn FnMut(&str))) -> u16 {
        let recent = &mut self.recent[text.len() % RECENT];
        if let Some((known, code)) = recent
            && known == text
        {
            return *code;
        }
        if let Some(code) = self.known.get(text).copied() {
            let (known, number) = recent.get_or_insert_default();
            known.clear();
            known.push_str(text);
            *number = code;
            return code;
        }
        let mut all = Vec::new();
        values(&mut |value| all.push(value.to_owned()));
        // At most one a record and one for none, and so below 2^14.
        let code = self.column.words.len() as u16;
        self.column.words.push(all);
        self.known.insert(text.to_owned(), code);
        code
    }
}

/// The hash of a value. Two values with one hash cost a second look at the line, nothing else, so it need not be a strong one.
pub fn hash(value: &str) -> u32 {
    // FNV-1a (64 bits), its halves folded.
    let full = value.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (full >> 32) as u32 ^ full as u32
}

/// The share that a hash is in.
pub fn share(hash: u32) -> usize {
    (hash >> 28) as usize
}

/// The words of a column as bytes.
pub fn pack_words(words: &[Vec<String>]) -> Vec<u8> {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, number: usize| out.extend_from_slice(&(number as u32).to_le_bytes());
    for values in words {
        put(&mut out, values.len());
        for value in values {
            put(&mut out, value.len());
            out.extend_from_slice(value.as_bytes());
        }
    }
    out
}

/// Shows the values of a column word by word, each with its word's number; how many words there are, or `None` where the bytes are not from here.
fn each_value<'b>(mut bytes: &'b [u8], mut show: impl FnMut(usize, &'b str)) -> Option<usize> {
    fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    let number = |bytes: &mut &'b [u8]| Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?) as usize);
    let mut words = 0;
    while !bytes.is_empty() {
        for _ in 0..number(&mut bytes)? {
            let length = number(&mut bytes)?;
            show(words, std::str::from_utf8(take(&mut bytes, length)?).ok()?);
        }
        words += 1;
    }
    Some(words)
}

/// The words of a column again; `None` where the bytes are not from here.
pub fn unpack_words(bytes: &[u8]) -> Option<Vec<Vec<String>>> {
    let mut words: Vec<Vec<String>> = Vec::new();
    let count = each_value(bytes, |word, value| {
        words.resize(word + 1, Vec::new());
        if let Some(values) = words.last_mut() {
            values.push(value.to_owned());
        }
    })?;
    words.resize(count, Vec::new());
    Some(words)
}

/// Which words of a column a wish admits; empty where it admits none, `None` where the bytes are not from here.
pub fn admitted(bytes: &[u8], wish: &Wish) -> Option<Vec<bool>> {
    let mut found = Vec::new();
    let count = each_value(bytes, |word, value| {
        if wish.admits(value) {
            found.resize(word + 1, false);
            if let Some(found) = found.last_mut() {
                *found = true;
            }
        }
    })?;
    if !found.is_empty() {
        found.resize(count, false);
    }
    Some(found)
}

/// The numbers of a column's words as bytes: one each where that is enough.
pub fn pack_codes(column: &Words) -> Vec<u8> {
    if column.words.len() <= 256 {
        column.codes.iter().map(|code| *code as u8).collect()
    } else {
        column.codes.iter().flat_map(|code| code.to_le_bytes()).collect()
    }
}

/// These numbers again.
pub fn unpack_codes(bytes: &[u8], words: usize) -> Vec<u16> {
    if words <= 256 {
        bytes.iter().map(|code| u16::from(*code)).collect()
    } else {
        bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
    }
}

/// Which records, of these or of all, have an admitted word; from what [`pack_codes`] made of a column of as many words.
pub fn holding(bytes: &[u8], admitted: &[bool], among: Option<Vec<u16>>) -> Vec<u16> {
    let is_admitted = |code: u16| admitted.get(usize::from(code)) == Some(&true);
    let (single, pairs) = if admitted.len() <= 256 { (bytes, &[][..]) } else { (&[][..], bytes.as_chunks::<2>().0) };
    let singly = |code: &u8| is_admitted(u16::from(*code));
    let paired = |pair: &[u8; 2]| is_admitted(u16::from_le_bytes(*pair));
    match among {
        Some(mut rows) => {
            let holds = |row: usize| single.get(row).is_some_and(singly) || pairs.get(row).is_some_and(paired);
            rows.retain(|row| holds(usize::from(*row)));
            rows
        }
        None => {
            let one = single.iter().enumerate().filter(|(_, code)| singly(code)).map(|(row, _)| row as u16);
            one.chain(pairs.iter().enumerate().filter(|(_, pair)| paired(pair)).map(|(row, _)| row as u16)).collect()
        }
    }
}

/// Hashes and their records as bytes.
pub fn pack_ids(ids: &[(u32, u16)]) -> Vec<u8> {
    let hashes = ids.iter().flat_map(|(hash, _)| hash.to_le_bytes());
    hashes.chain(ids.iter().flat_map(|(_, row)| row.to_le_bytes())).collect()
}

/// The records that have a hash, from what [`pack_ids`] made.
pub fn rows_of(bytes: &[u8], wanted: u32, out: &mut Vec<u16>) {
    let count = bytes.len() / 6;
    let Some((hashes, rows)) = bytes.split_at_checked(count * 4) else { return };
    let (hashes, rows) = (hashes.as_chunks::<4>().0, rows.as_chunks::<2>().0);
    let first = hashes.partition_point(|hash| u32::from_le_bytes(*hash) < wanted);
    let found = hashes.iter().zip(rows).skip(first).take_while(|(hash, _)| u32::from_le_bytes(**hash) == wanted);
    out.extend(found.map(|(_, row)| u16::from_le_bytes(*row)));
}

/// All hashes and records of a share.
pub fn unpack_ids(bytes: &[u8]) -> Ids {
    let Some((hashes, rows)) = bytes.split_at_checked(bytes.len() / 6 * 4) else { return Vec::new() };
    let rows = rows.as_chunks::<2>().0.iter().map(|row| u16::from_le_bytes(*row));
    hashes.as_chunks::<4>().0.iter().map(|hash| u32::from_le_bytes(*hash)).zip(rows).collect()
}

/// Numbers as bytes.
pub fn pack_u32(column: &[u32]) -> Vec<u8> {
    column.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// These numbers again.
pub fn unpack_u32(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|value| u32::from_le_bytes(*value)).collect()
}

/// Times as bytes.
pub fn pack_i64(column: &[i64]) -> Vec<u8> {
    column.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// These times again.
pub fn unpack_i64(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|value| i64::from_le_bytes(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let words: Vec<Vec<String>> = (0..300).map(|number| vec![format!("w{number}"), "\u{1f}".to_owned()]).chain([Vec::new()]).collect();
        assert_eq!(unpack_words(&pack_words(&words)).unwrap(), words);
        assert_eq!(unpack_words(b"\x09\0\0\0"), None);
        let wish = |value: &str| Wish { field: Field::Agent, any_of: vec![value.to_owned()] };
        let found = admitted(&pack_words(&words), &wish("w7")).unwrap();
        assert_eq!((found.len(), found.iter().position(|found| *found)), (words.len(), Some(7)));
        assert_eq!((admitted(&pack_words(&words), &wish("w")), admitted(b"\x09\0\0\0", &wish("w7"))), (Some(vec![]), None));
        let codes: Vec<u16> = (0..300).collect();
        let column = Words { words, codes: codes.clone() };
        assert_eq!(unpack_codes(&pack_codes(&column), column.words.len()), codes);
        let admitted: Vec<bool> = (0..column.words.len()).map(|word| word % 100 == 7).collect();
        assert_eq!(holding(&pack_codes(&column), &admitted, None), [7, 107, 207]);
        assert_eq!(holding(&pack_codes(&column), &admitted, Some(vec![6, 107, 299, 9_999])), [107]);
        let few = Words { words: column.words[..3].to_vec(), codes: vec![0, 2, 1, 2] };
        assert_eq!(holding(&pack_codes(&few), &[false, false, true], None), [1, 3]);
        assert_eq!(holding(&pack_codes(&few), &[false, false, true], Some(vec![2, 3])), [3]);
        let ids = vec![(1, 7), (5, 2), (5, 9), (u32::MAX, 0)];
        let (mut found, mut none) = (Vec::new(), Vec::new());
        rows_of(&pack_ids(&ids), 5, &mut found);
        rows_of(&pack_ids(&ids), 6, &mut none);
        assert_eq!((found, none, unpack_ids(&pack_ids(&ids))), (vec![2, 9], vec![], ids));
        assert_eq!(unpack_i64(&pack_i64(&[-1, i64::MAX])), [-1, i64::MAX]);
        assert_eq!(unpack_u32(&pack_u32(&[3, u32::MAX])), [3, u32::MAX]);
    }
}
