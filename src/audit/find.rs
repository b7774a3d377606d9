//! Questions to the logs: find, show, tail, and which calls nobody knows the end of.
//!
//! All origins are read and merged by time; within one origin `seq` is the order, and the clock may have been set back. The index says where
//! to look, where there is one; what it does not know yet is read from the segments. Lines that are not records are counted, not hidden: `verify` says what is wrong with them.
//!
//! Owns: what a question means. Leaves to others: how an answer looks (`cli::audit`), and whether the log is sound (`verify`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Line;
use super::disk::{self, Disk};
use super::filter::Filter;
use super::index::column::Columns;
use super::index::{Chunk, Filled, Go, Index, IndexError, Wanted, from_log};
use super::lines::{self, after, rows};
use super::record::{Kind, Stored};
use super::row::{Field, Row};
use super::storage::{Storage, segments};

/// The records that answer a question.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The records, in the order asked for.
    pub records: Vec<Stored>,
    /// Lines that are not records.
    pub unreadable: u64,
}

/// What is asked to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All records of an invocation.
    Call(String),
    /// The record of this place, in this origin or in any, and all of its invocation.
    Place(Option<String>, u64),
}

/// What is known of a call without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The process that made it still runs: it may end yet.
    Running,
    /// The process is gone; the next start will say `unresolved`.
    Abandoned,
    /// A start found it without an end: it may have happened.
    Unresolved,
}

impl Standing {
    /// The word for a reader.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Abandoned => "abandoned",
            Self::Unresolved => "unresolved",
        }
    }
}

/// The logs that questions go to.
pub struct Logs {
    logs: Vec<(String, Arc<dyn Storage>)>,
    index: Option<Index>,
}

impl Logs {
    /// All origins in `dir`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn in_dir(dir: &Path) -> io::Result<Self> {
        let with_disk = |origin: String| {
            let disk: Arc<dyn Storage> = Arc::new(Disk::existing(dir, &origin));
            (origin, disk)
        };
        Ok(Self::of(origins(dir)?.into_iter().map(with_disk).collect()))
    }

    /// These logs, by origin.
    pub fn of(logs: Vec<(String, Arc<dyn Storage>)>) -> Self {
        Self { logs, index: None }
    }

    /// Whether there is an index of the logs in `dir`, or the logs are long enough for one.
    pub fn is_worth_an_index(&self, dir: &Path) -> bool {
        let size = |storage: &dyn Storage| segments(storage).ok()?.iter().map(|(_, name)| storage.size(name).ok()).sum::<Option<u64>>();
        Index::file(dir).exists() || self.origins().filter_map(|(_, storage)| size(storage)).sum::<u64>() > SMALL
    }

    /// Takes the index of the logs in `dir` to hand and brings it up to date, for no longer than `budget`. Without one, or where it is
    /// behind, questions read the log.
    ///
    /// # Errors
    /// [`IndexError`]: the questions can do without.
    pub fn with_index(&mut self, dir: &Path, budget: Option<Duration>, progress: &mut dyn FnMut(u64)) -> Result<Filled, IndexError> {
        let mut index = Index::open(dir)?;
        let filled = index.fill(&self.logs, budget, progress)?;
        self.index = Some(index);
        Ok(filled)
    }

    /// How many records the index knows.
    pub fn indexed(&self) -> u64 {
        self.index.as_ref().map_or(0, Index::records)
    }

    /// What a reader should be told of the index.
    pub fn notes(&self) -> &[String] {
        self.index.as_ref().map_or(&[], Index::notes)
    }

    /// The logs by origin.
    pub fn origins(&self) -> impl Iterator<Item = (&str, &dyn Storage)> {
        self.logs.iter().map(|(origin, storage)| (&**origin, &**storage))
    }

    /// The records that a filter admits.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn find(&self, filter: &Filter) -> io::Result<Answer> {
        let mut answer = Answer::default();
        for (origin, storage) in self.origins() {
            let limit = filter.limit.unwrap_or(usize::MAX);
            let mut found = Found { filter, limit, answer: Answer::default() };
            match self.index.as_ref().map(|index| found.known(index, storage, origin)) {
                Some(Ok(())) => {}
                Some(Err(IndexError::Disk(error))) => return Err(error),
                // The log knows all that the index does.
                None | Some(Err(_)) => {
                    found.answer = Answer::default();
                    found.scan(storage, None)?;
                }
            }
            answer.records.append(&mut found.answer.records);
            answer.unreadable += found.answer.unreadable;
        }
        in_time_order(&mut answer.records);
        if filter.newest_first {
            answer.records.reverse();
        }
        answer.records.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok(answer)
    }

    /// Shows the line of every record that a filter admits, each log in its own order, whatever the filter's limit says.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn each(&self, filter: &Filter, mut show: impl FnMut(&[u8])) -> io::Result<()> {
        let needles = filter.needles();
        let in_order = Filter { newest_first: false, ..filter.clone() };
        for (origin, storage) in self.origins() {
            let mut show = |line: &[u8]| {
                if Row::parse(line).is_some_and(|row| filter.admits(&row)) {
                    show(line);
                }
            };
            let chunks = self.index.as_ref().map_or(&[][..], |index| index.chunks(origin));
            let mut from = (0, 0);
            if let Some(index) = &self.index {
                let searched = index.search(chunks, &in_order, |chunk, places| {
                    // Read before it is shown: what fails here is read from the log once more.
                    let offsets = index.offsets(chunk)?;
                    rows(storage, chunk, &offsets, places, &mut show)?;
                    from = (chunk.segment, chunk.end);
                    Ok(Go::On)
                });
                match searched {
                    Ok(()) => from = index.cursor(origin).unwrap_or_default(),
                    Err(IndexError::Disk(error)) => return Err(error),
                    // From the last chunk on that was shown: the log knows all that the index does.
                    Err(_) => {}
                }
            }
            after(storage, from, |line| {
                if needles.iter().all(|needle| lines::contains(line, needle)) {
                    show(line);
                }
            })?;
        }
        Ok(())
    }

    /// All records of one invocation, in their order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn show(&self, asked: &Asked) -> io::Result<Answer> {
        let (origin, seq) = match asked {
            Asked::Call(id) => return self.find(&Filter::default().and(Field::Call, Some(id))),
            Asked::Place(origin, seq) => (origin, *seq),
        };
        let mut answer = Answer::default();
        for (name, storage) in self.origins().filter(|(name, _)| origin.as_deref().is_none_or(|origin| origin == *name)) {
            let Some(found) = self.at(name, storage, BTreeSet::from([seq]))?.remove(&seq) else { continue };
            match &found.record.call_id {
                Some(id) => answer.records.extend(self.show(&Asked::Call(id.to_string()))?.records),
                None => answer.records.push(found),
            }
        }
        in_time_order(&mut answer.records);
        answer.records.dedup_by(|one, other| (one.seq, &one.origin) == (other.seq, &other.origin));
        Ok(answer)
    }

    /// The last `count` records, oldest first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tail(&self, count: usize) -> io::Result<Answer> {
        let mut answer = Answer::default();
        for (_, storage) in self.origins() {
            let mut missing = count;
            for (_, name) in segments(storage)?.iter().rev() {
                let before = missing;
                for line in lines::last(storage, name, missing)? {
                    missing = missing.saturating_sub(1);
                    match Stored::parse(&line) {
                        Some(stored) => answer.records.push(stored),
                        None => answer.unreadable += 1,
                    }
                }
                if missing == 0 || before == 0 {
                    break;
                }
            }
        }
        in_time_order(&mut answer.records);
        let surplus = answer.records.len().saturating_sub(count);
        answer.records.drain(..surplus);
        Ok(answer)
    }

    /// Calls whose end nobody knows, and calls that still run; oldest first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn unresolved(&self) -> io::Result<Vec<(Stored, Standing)>> {
        let mut found = Vec::new();
        for (origin, storage) in self.origins() {
            // Asked before reading: a process that ends meanwhile leaves calls that look like running ones, not the other way round.
            let standing = if storage.is_locked() { Standing::Running } else { Standing::Abandoned };
            let mut calls = match self.index.as_ref().map(|index| Calls::known(index, storage, origin)) {
                Some(Ok(calls)) => calls,
                Some(Err(IndexError::Disk(error))) => return Err(error),
                None | Some(Err(_)) => Calls::default(),
            };
            after(storage, calls.read_from, |text| calls.line(text))?;
            let wanted = calls.lost.iter().map(|(intent, _)| *intent).chain(calls.open.iter().copied()).collect();
            let mut intents = self.at(origin, storage, wanted)?;
            for (intent, end) in &calls.lost {
                let told = intents.remove(intent).or_else(|| Stored::parse(end));
                found.extend(told.map(|stored| (stored, Standing::Unresolved)));
            }
            found.extend(calls.open.iter().filter_map(|seq| Some((intents.remove(seq)?, standing))));
        }
        found.sort_by_key(|(stored, _)| (stored.unix_nanos(), stored.seq));
        Ok(found)
    }

    /// The records of these places, as far as they are there.
    fn at(&self, origin: &str, storage: &dyn Storage, seqs: BTreeSet<u64>) -> io::Result<BTreeMap<u64, Stored>> {
        let mut found = BTreeMap::new();
        let chunks = self.index.as_ref().map_or(&[][..], |index| index.chunks(origin));
        for (index, chunk) in self.index.iter().flat_map(|index| chunks.iter().map(move |chunk| (index, chunk))) {
            let of_chunk = seqs.range(chunk.first_seq..chunk.first_seq + chunk.rows as u64);
            let places: Vec<u16> = of_chunk.map(|seq| (seq - chunk.first_seq) as u16).collect();
            if !places.is_empty()
                && let Ok(offsets) = index.offsets(chunk)
            {
                rows(storage, chunk, &offsets, &places, |line| {
                    if let Some(stored) = Stored::parse(line) {
                        found.insert(stored.seq, stored);
                    }
                })?;
            }
        }
        for seq in seqs {
            if !found.contains_key(&seq)
                && let Some(stored) = lines::at(storage, seq)?
            {
                found.insert(seq, stored);
            }
        }
        Ok(found)
    }

    /// Shows the columns of all records in a time, in the order of each log: what the index knows from there, the rest from the log.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn columns(
        &self,
        since: Option<i64>,
        until: Option<i64>,
        wanted: Wanted<'_>,
        mut show: impl FnMut(&str, u64, &Columns),
    ) -> io::Result<()> {
        let time = Filter { since, until, ..Filter::default() };
        for (origin, storage) in self.origins() {
            let mut from = (0, 0);
            if let Some(index) = &self.index {
                for chunk in index.chunks(origin) {
                    if time.overlaps(chunk.from_time, chunk.to_time) {
                        let Ok(columns) = index.columns(chunk, wanted) else { break };
                        show(origin, chunk.first_seq, &columns);
                    }
                    from = (chunk.segment, chunk.end);
                }
            }
            from_log(storage, from, |chunk, columns| {
                if time.overlaps(chunk.from_time, chunk.to_time) {
                    show(origin, chunk.first_seq, columns);
                }
            })?;
        }
        Ok(())
    }
}

/// The calls of one log whose end is not known, or known to be unknown.
#[derive(Default)]
struct Calls {
    /// Intents without an end.
    open: BTreeSet<u64>,
    /// Intents that a start found without an end, and the lines that say so.
    lost: Vec<(u64, Vec<u8>)>,
    /// What was not looked at yet.
    read_from: (u64, u64),
}

impl Calls {
    fn known(index: &Index, storage: &dyn Storage, origin: &str) -> Result<Self, IndexError> {
        let open = index.open_intents(origin)?.into_iter().collect();
        let mut calls = Self { open, lost: Vec::new(), read_from: index.cursor(origin).unwrap_or_default() };
        let lost = Filter::default().and(Field::Outcome, Some(UNRESOLVED));
        index.search(index.chunks(origin), &lost, |chunk, places| {
            rows(storage, chunk, &index.offsets(chunk)?, places, |text| calls.line(text))?;
            Ok(Go::On)
        })?;
        Ok(calls)
    }

    fn line(&mut self, text: &[u8]) {
        let Some(line) = Line::split(text) else { return };
        match (line.kind(), line.intent_seq()) {
            (Some(Kind::Intent), _) => drop(self.open.insert(line.seq)),
            (Some(Kind::Outcome), Some(intent)) => {
                self.open.remove(&intent);
                if memchr::memmem::find(text, b"\"outcome\":\"unresolved\"").is_some() {
                    self.lost.push((intent, text.to_vec()));
                }
            }
            _ => {}
        }
    }
}

/// The records of one log that fit.
struct Found<'f> {
    filter: &'f Filter,
    limit: usize,
    answer: Answer,
}

impl Found<'_> {
    fn is_full(&self) -> bool {
        self.answer.records.len() >= self.limit
    }

    /// Looks at what stands in the log from a place on.
    fn scan(&mut self, storage: &dyn Storage, from: Option<(u64, u64)>) -> io::Result<()> {
        let mut places = match from {
            Some(from) => lines::places(storage, from)?,
            None => lines::segments_since(storage, self.filter.since)?.into_iter().map(|name| (name, 0)).collect(),
        };
        if self.filter.newest_first {
            places.reverse();
        }
        let needles = self.filter.needles();
        for (name, offset) in places {
            // Only what the limit keeps is parsed in full: of a segment's lines the last, or the first.
            let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
            let room = self.limit.saturating_sub(self.answer.records.len());
            lines::each(storage, &name, offset, |line| {
                if (!self.filter.newest_first && kept.len() >= room) || !needles.iter().all(|needle| lines::contains(line, needle)) {
                    return;
                }
                match Row::parse(line) {
                    Some(row) if self.filter.admits(&row) => {
                        kept.push_back(line.to_vec());
                        if kept.len() > room {
                            kept.pop_front();
                        }
                    }
                    Some(_) => {}
                    None => self.answer.unreadable += 1,
                }
            })?;
            self.answer.records.extend(kept.iter().filter_map(|line| Stored::parse(line)));
            if self.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Looks at what the index says of a chunk, in groups, so that no more is read than the limit keeps.
    fn chunk(&mut self, index: &Index, storage: &dyn Storage, chunk: &Chunk, places: &[u16]) -> Result<Go, IndexError> {
        let offsets = index.offsets(chunk)?;
        let groups: Vec<&[u16]> = match self.filter.newest_first {
            true => places.rchunks(GROUP).collect(),
            false => places.chunks(GROUP).collect(),
        };
        for places in groups {
            rows(storage, chunk, &offsets, places, |line| {
                // The log may have been changed since: what it says now is the answer.
                let stored = Row::parse(line).filter(|row| self.filter.admits(row)).and_then(|_| Stored::parse(line));
                self.answer.records.extend(stored);
            })?;
            if self.is_full() {
                return Ok(Go::Enough);
            }
        }
        Ok(Go::On)
    }

    /// Looks at what the index knows, and at what it does not know yet.
    fn known(&mut self, index: &Index, storage: &dyn Storage, origin: &str) -> Result<(), IndexError> {
        let (chunks, cursor) = (index.chunks(origin), index.cursor(origin).unwrap_or_default());
        let of_time = chunks.iter().filter(|chunk| self.filter.overlaps(chunk.from_time, chunk.to_time));
        self.answer.unreadable += of_time.map(|chunk| chunk.unreadable).sum::<u64>();
        if self.filter.newest_first {
            self.scan(storage, Some(cursor))?;
        }
        if !self.is_full() {
            index.search(chunks, self.filter, |chunk, places| self.chunk(index, storage, chunk, places))?;
        }
        if !self.filter.newest_first && !self.is_full() {
            self.scan(storage, Some(cursor))?;
        }
        Ok(())
    }
}

/// All records of one log, in order.
///
/// # Errors
/// A file cannot be read.
pub fn read_all(storage: &dyn Storage) -> io::Result<Vec<Stored>> {
    let mut records = Vec::new();
    for (_, name) in segments(storage)? {
        lines::each(storage, &name, 0, |line| records.extend(Stored::parse(line)))?;
    }
    Ok(records)
}

/// The logs in `dir`; none where there is no such folder yet. (`verify` is told of it: there a folder that is gone is news.)
pub(super) fn origins(dir: &Path) -> io::Result<Vec<String>> {
    match disk::origins(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

pub(super) fn in_time_order(records: &mut [Stored]) {
    records.sort_by_cached_key(|stored| (stored.unix_nanos(), stored.origin.clone(), stored.seq));
}

/// Bytes of logs that are read sooner than an index is opened.
const SMALL: u64 = 8 << 20;
/// Records that are read at a time.
const GROUP: usize = 256;
const UNRESOLVED: &str = "unresolved";
