//! The lines of a log: forward, from the end, by place.
//!
//! Owns: reading no more of a segment than is needed. Leaves to others: what is looked for (`find`).

use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;

use super::chain::Line;
use super::index::Chunk;
use super::record::Stored;
use super::storage::{Storage, segment_name, segments};

/// Shows each whole line from `offset` on; how many bytes these lines have.
pub(super) fn each(storage: &dyn Storage, name: &str, offset: u64, mut show: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut from = BufReader::with_capacity(BLOCK, storage.read(name, offset)?);
    let (mut text, mut read) = (Vec::new(), 0);
    loop {
        text.clear();
        if from.read_until(b'\n', &mut text)? == 0 {
            return Ok(read);
        }
        // A line without its end is being written, or is torn.
        let Some(whole) = text.strip_suffix(b"\n") else { return Ok(read) };
        show(whole);
        read += text.len() as u64;
    }
}

/// The last `count` whole lines of a segment, newest first, read from its end.
pub(super) fn last(storage: &dyn Storage, name: &str, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let size = storage.size(name)?;
    let mut window = BLOCK as u64;
    loop {
        let mut bytes = Vec::new();
        storage.read(name, size.saturating_sub(window))?.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(&bytes[..0], |end| &bytes[..end]);
        let is_all = window >= size;
        let mut found: Vec<&[u8]> = whole.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        if !is_all {
            // The first line of the window may have begun before it.
            found.pop();
        }
        if is_all || found.len() >= count {
            return Ok(found.into_iter().take(count).map(<[u8]>::to_vec).collect());
        }
        window *= 4;
    }
}

/// The segments that can hold records of this time and later.
pub(super) fn segments_since(storage: &dyn Storage, since: Option<i64>) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = segments(storage)?.into_iter().map(|(_, name)| name).collect();
    let Some(since) = since else { return Ok(names) };
    // From the end back to the first segment that begins early enough for the clock to have passed `since` in it.
    let mut first = names.len().saturating_sub(1);
    while first > 0 && first_time(storage, &names[first])?.is_none_or(|time| time > since.saturating_sub(CLOCK_STEP)) {
        first -= 1;
    }
    Ok(names.split_off(first))
}

fn first_time(storage: &dyn Storage, name: &str) -> io::Result<Option<i64>> {
    let mut text = Vec::new();
    BufReader::new(storage.read(name, 0)?).read_until(b'\n', &mut text)?;
    Ok(text.strip_suffix(b"\n").and_then(Stored::parse).map(|stored| stored.unix_nanos()))
}

/// The record of this place.
pub(super) fn at(storage: &dyn Storage, seq: u64) -> io::Result<Option<Stored>> {
    let all = segments(storage)?;
    let Some((_, name)) = all.iter().rfind(|(first_seq, _)| *first_seq <= seq) else { return Ok(None) };
    let mut found = None;
    each(storage, name, 0, |text| {
        if found.is_none() && Line::split(text).is_some_and(|line| line.seq == seq) {
            found = Stored::parse(text);
        }
    })?;
    Ok(found)
}

/// The records with these numbers, at most `most` of them.
pub(super) fn range(storage: &dyn Storage, numbers: RangeInclusive<u64>, most: usize) -> io::Result<Vec<Stored>> {
    let all = segments(storage)?;
    let begin = all.iter().rposition(|(first, _)| first <= numbers.start()).unwrap_or(0);
    let mut found = Vec::new();
    for (_, name) in all.iter().skip(begin).take_while(|(first, _)| first <= numbers.end()) {
        each(storage, name, 0, |text| {
            if found.len() < most && Line::split(text).is_some_and(|line| numbers.contains(&line.seq)) {
                found.extend(Stored::parse(text));
            }
        })?;
    }
    Ok(found)
}

/// Whether a line contains a text.
pub(super) fn contains(line: &[u8], text: &str) -> bool {
    memchr::memmem::find(line, text.as_bytes()).is_some()
}

/// The segments from a place on, each with the offset to begin at. A place is the number of a segment's first record, and an offset in it.
pub(super) fn places(storage: &dyn Storage, (segment, offset): (u64, u64)) -> io::Result<Vec<(String, u64)>> {
    let all = segments(storage)?.into_iter().filter(|(first_seq, _)| *first_seq >= segment);
    Ok(all.map(|(first_seq, name)| (name, if first_seq == segment { offset } else { 0 })).collect())
}

/// Shows each whole line from a place on.
pub(super) fn after(storage: &dyn Storage, place: (u64, u64), mut show: impl FnMut(&[u8])) -> io::Result<()> {
    for (name, offset) in places(storage, place)? {
        each(storage, &name, offset, &mut show)?;
    }
    Ok(())
}

/// Shows these lines of a chunk, in order; what stands near each other is read at once. Where the index was changed, it shows what stands there
/// instead, or nothing.
pub(super) fn rows(storage: &dyn Storage, chunk: &Chunk, offsets: &[u32], places: &[u16], mut show: impl FnMut(&[u8])) -> io::Result<()> {
    let begin = |place: u16| offsets.get(usize::from(place)).map(|offset| u64::from(*offset));
    let end = |place: u16| offsets.get(usize::from(place) + 1).map_or(chunk.end.saturating_sub(chunk.start), |offset| u64::from(*offset));
    let name = segment_name(chunk.segment);
    let mut rest = places;
    while let Some(first) = rest.first().copied() {
        let Some(from) = begin(first) else { return Ok(()) };
        let near = rest.iter().take_while(|place| {
            **place == first
                || begin(**place)
                    .is_some_and(|at| at < from.saturating_add(BLOCK as u64) && end(**place) < from.saturating_add(4 * BLOCK as u64))
        });
        let (run, later) = rest.split_at(near.count().max(1));
        let until = run.last().map_or(from, |last| end(*last));
        let mut bytes = Vec::new();
        storage.read(&name, chunk.start.saturating_add(from))?.take(until.saturating_sub(from)).read_to_end(&mut bytes)?;
        for place in run {
            let line = begin(*place).and_then(|at| bytes.get(usize::try_from(at.checked_sub(from)?).ok()?..)).unwrap_or_default();
            show(memchr::memchr(b'\n', line).and_then(|end| line.get(..end)).unwrap_or(line));
        }
        rest = later;
    }
    Ok(())
}

const BLOCK: usize = 1 << 16;
/// A clock that was set back by less than this does not hide records from a question by time.
const CLOCK_STEP: i64 = 3_600_000_000_000;
