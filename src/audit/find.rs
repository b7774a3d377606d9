//! Questions to the logs: find, show, tail, and which calls nobody knows the end of.
//!
//! All origins are read and merged by time; within one origin `seq` is the order, and the clock may have been set back. The index says where
//! to look, where there is one; what it does not know yet is read from the segments. Lines that are not records are counted, not hidden: `verify` says what is wrong with them.
//!
//! Owns: what a question means. Leaves to others: how an answer looks (`cli::audit`), and whether the log is sound (`verify`).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Line;
use super::disk::{self, Disk};
use super::filter::Filter;
use super::index::column::Columns;
use super::index::{Chunk, Filled, Index, IndexError, Wanted, from_log};
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
        for (origin, storage) in &self.logs {
            index.agree(origin, &**storage)?;
        }
        let filled = index.fill(&self.logs, budget, progress)?;
        self.index = Some(index);
        Ok(filled)
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
            let known = self.index.as_ref().map(|index| known(index, storage, origin, &mut found));
            match known {
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
        for (origin, storage) in self.origins() {
            let mut from = (0, 0);
            for chunk in self.index.as_ref().map_or(&[][..], |index| index.chunks(origin)) {
                let Some(index) = &self.index else { break };
                let Ok((places, offsets)) = index.rows(chunk, filter).and_then(|places| Ok((places, index.offsets(chunk)?))) else { break };
                rows(storage, chunk, &offsets, &places, |line| {
                    if Row::parse(line).is_some_and(|row| filter.admits(&row)) {
                        show(line);
                    }
                })?;
                from = (chunk.segment, chunk.end);
            }
            after(storage, from, |line| {
                let is_near = needles.iter().all(|needle| lines::contains(line, needle));
                if is_near && Row::parse(line).is_some_and(|row| filter.admits(&row)) {
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
            let Some(found) = self.at(name, storage, seq)? else { continue };
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
            for (intent, end) in &calls.lost {
                let told = self.at(origin, storage, *intent)?.or_else(|| Stored::parse(end));
                found.extend(told.map(|stored| (stored, Standing::Unresolved)));
            }
            for seq in &calls.open {
                found.extend(self.at(origin, storage, *seq)?.map(|stored| (stored, standing)));
            }
        }
        found.sort_by_key(|(stored, _)| (stored.unix_nanos(), stored.seq));
        Ok(found)
    }

    /// The record of this place.
    fn at(&self, origin: &str, storage: &dyn Storage, seq: u64) -> io::Result<Option<Stored>> {
        let chunks = self.index.as_ref().map_or(&[][..], |index| index.chunks(origin));
        let holds = |chunk: &&Chunk| chunk.first_seq <= seq && seq - chunk.first_seq < chunk.rows as u64;
        if let Some((index, chunk)) = self.index.as_ref().zip(chunks.iter().rfind(holds)) {
            let mut found = None;
            if let Ok(offsets) = index.offsets(chunk) {
                rows(storage, chunk, &offsets, &[(seq - chunk.first_seq) as u16], |line| found = Stored::parse(line))?;
            }
            if found.as_ref().is_some_and(|found| found.seq == seq) {
                return Ok(found);
            }
        }
        lines::at(storage, seq)
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
        for chunk in index.chunks(origin) {
            let places = index.rows(chunk, &lost)?;
            if !places.is_empty() {
                rows(storage, chunk, &index.offsets(chunk)?, &places, |text| calls.line(text))?;
            }
        }
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

    fn chunk(&mut self, index: &Index, storage: &dyn Storage, chunk: &Chunk) -> Result<(), IndexError> {
        if self.filter.overlaps(chunk.from_time, chunk.to_time) {
            self.answer.unreadable += chunk.unreadable;
        }
        let places = index.rows(chunk, self.filter)?;
        if places.is_empty() {
            return Ok(());
        }
        let offsets = index.offsets(chunk)?;
        let mut group = |places: &[u16]| {
            rows(storage, chunk, &offsets, places, |line| {
                // The log may have been changed since: what it says now is the answer.
                let stored = Row::parse(line).filter(|row| self.filter.admits(row)).and_then(|_| Stored::parse(line));
                self.answer.records.extend(stored);
            })?;
            io::Result::Ok(self.answer.records.len() >= self.limit)
        };
        if self.filter.newest_first {
            for places in places.rchunks(GROUP) {
                if group(places)? {
                    break;
                }
            }
        } else {
            for places in places.chunks(GROUP) {
                if group(places)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Looks at what the index knows, and at what it does not know yet.
fn known(index: &Index, storage: &dyn Storage, origin: &str, found: &mut Found<'_>) -> Result<(), IndexError> {
    let (chunks, cursor) = (index.chunks(origin), index.cursor(origin).unwrap_or_default());
    if found.filter.newest_first {
        found.scan(storage, Some(cursor))?;
        for chunk in chunks.iter().rev() {
            if found.is_full() {
                return Ok(());
            }
            found.chunk(index, storage, chunk)?;
        }
        return Ok(());
    }
    for chunk in chunks {
        if found.is_full() {
            return Ok(());
        }
        found.chunk(index, storage, chunk)?;
    }
    if !found.is_full() {
        found.scan(storage, Some(cursor))?;
    }
    Ok(())
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
