//! Questions to the logs: find, show, tail, follow, and which calls nobody knows the end of.
//!
//! All origins are read and merged by time; within one origin `seq` is the order, and the clock may have been set back. Reading is straight from the
//! segments. Lines that are not records are counted, not hidden: `verify` says what is wrong with them.
//!
//! Owns: what a question means. Leaves to others: how an answer looks (`cli::audit`), and whether the log is sound (`verify`).

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::Line;
use super::disk::{self, Disk};
use super::record::{Kind, Record, Stored};
use super::storage::{Storage, segments};

/// Which records are asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before, in nanoseconds since 1970.
    pub until: Option<i64>,
    /// The agent.
    pub agent: Option<String>,
    /// The public name of the target, or its beginning and `*`.
    pub target: Option<String>,
    /// The decision.
    pub decision: Option<String>,
    /// The error code.
    pub code: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// The upstream.
    pub upstream: Option<String>,
    /// The kind of record.
    pub kind: Option<Kind>,
    /// The invocation.
    pub call_id: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Whether the newest come first, and the limit keeps these.
    pub newest_first: bool,
}

impl Filter {
    fn admits(&self, stored: &Stored) -> bool {
        let is =
            |asked: &Option<String>, found: &Option<std::borrow::Cow<'_, str>>| asked.is_none() || asked.as_deref() == found.as_deref();
        let Record { agent, target, targets, decision, code, run, upstream, call_id, kind, .. } = &stored.record;
        let is_target = self.target.as_deref().is_none_or(|asked| {
            target.iter().chain(targets).any(|target| match asked.strip_suffix('*') {
                Some(start) => target.starts_with(start),
                None => **target == *asked,
            })
        });
        let is_timely = || {
            let time = stored.unix_nanos();
            self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
        };
        is_target
            && self.kind.is_none_or(|asked| asked == *kind)
            && is(&self.agent, agent)
            && is(&self.decision, decision)
            && is(&self.code, code)
            && is(&self.run, run)
            && is(&self.upstream, upstream)
            && is(&self.call_id, call_id)
            && is_timely()
    }

    /// What a line must contain to be worth parsing: most of a large log is passed over at the speed of a text search.
    fn needles(&self) -> Vec<String> {
        let exact = [
            ("agent", &self.agent),
            ("call_id", &self.call_id),
            ("code", &self.code),
            ("decision", &self.decision),
            ("run", &self.run),
            ("upstream", &self.upstream),
        ];
        let mut needles: Vec<String> = Vec::new();
        for (key, value) in exact {
            // A value that would be escaped is left to the comparison of parsed records.
            if let Some(value) = value.as_ref().filter(|value| !value.contains(['"', '\\']) && !value.contains(char::is_control)) {
                needles.push(format!("\"{key}\":\"{value}\""));
            }
        }
        needles.extend(self.kind.map(|kind| format!("\"kind\":\"{}\"", kind.as_str())));
        needles
    }
}

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
pub struct Logs(Vec<(String, Arc<dyn Storage>)>);

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
        Ok(Self(origins(dir)?.into_iter().map(with_disk).collect()))
    }

    /// These logs, by origin.
    pub fn of(logs: Vec<(String, Arc<dyn Storage>)>) -> Self {
        Self(logs)
    }

    /// The records that a filter admits.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn find(&self, filter: &Filter) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let needles = filter.needles();
        for (_, storage) in &self.0 {
            let mut names = segments_since(&**storage, filter.since)?;
            if filter.newest_first {
                names.reverse();
            }
            let mut found = 0;
            for name in names {
                let before = answer.records.len();
                lines(&**storage, &name, 0, |line| {
                    if needles.iter().all(|needle| contains(line, needle)) {
                        match Stored::parse(line) {
                            Some(stored) if filter.admits(&stored) => answer.records.push(stored),
                            Some(_) => {}
                            None => answer.unreadable += 1,
                        }
                    }
                })?;
                found += answer.records.len() - before;
                // Earlier segments of this origin hold only what the limit would cut off again.
                if filter.limit.is_some_and(|limit| found >= limit) {
                    break;
                }
            }
        }
        in_time_order(&mut answer.records);
        if filter.newest_first {
            answer.records.reverse();
        }
        answer.records.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok(answer)
    }

    /// All records of one invocation, in their order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn show(&self, asked: &Asked) -> io::Result<Answer> {
        let (origin, seq) = match asked {
            Asked::Call(id) => return self.find(&Filter { call_id: Some(id.clone()), ..Filter::default() }),
            Asked::Place(origin, seq) => (origin, *seq),
        };
        let mut answer = Answer::default();
        for (_, storage) in self.0.iter().filter(|(name, _)| origin.is_none() || origin.as_ref() == Some(name)) {
            let Some(found) = at(&**storage, seq)? else { continue };
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
        for (_, storage) in &self.0 {
            let mut missing = count;
            for (_, name) in segments(&**storage)?.iter().rev() {
                let before = missing;
                for line in last_lines(&**storage, name, missing)? {
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
        for (_, storage) in &self.0 {
            // Asked before reading: a process that ends meanwhile leaves calls that look like running ones, not the other way round.
            let standing = if storage.is_locked() { Standing::Running } else { Standing::Abandoned };
            let mut open: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for (_, name) in segments(&**storage)? {
                lines(&**storage, &name, 0, |text| {
                    let Some(line) = Line::split(text) else { return };
                    match (line.kind(), line.intent_seq()) {
                        (Some(Kind::Intent), _) => drop(open.insert(line.seq, text.to_vec())),
                        (Some(Kind::Outcome), Some(intent)) => {
                            let intent = open.remove(&intent);
                            if contains(text, "\"outcome\":\"unresolved\"") {
                                let told = intent.and_then(|intent| Stored::parse(&intent)).or_else(|| Stored::parse(text));
                                found.extend(told.map(|stored| (stored, Standing::Unresolved)));
                            }
                        }
                        _ => {}
                    }
                })?;
            }
            found.extend(open.values().filter_map(|line| Stored::parse(line)).map(|stored| (stored, standing)));
        }
        found.sort_by_key(|(stored, _)| (stored.unix_nanos(), stored.seq));
        Ok(found)
    }
}

/// All records of one log, in order.
///
/// # Errors
/// A file cannot be read.
pub fn read_all(storage: &dyn Storage) -> io::Result<Vec<Stored>> {
    let mut records = Vec::new();
    for (_, name) in segments(storage)? {
        lines(storage, &name, 0, |line| records.extend(Stored::parse(line)))?;
    }
    Ok(records)
}

/// New records as they come, across rotation and new origins.
pub struct Follow {
    dir: PathBuf,
    /// By origin: the segment that is being read, and how far.
    places: BTreeMap<String, (String, u64)>,
}

impl Follow {
    /// From the present end of all logs in `dir`.
    ///
    /// # Errors
    /// A folder or file cannot be read.
    pub fn from_end(dir: &Path) -> io::Result<Self> {
        let mut places = BTreeMap::new();
        for origin in origins(dir)? {
            let disk = Disk::existing(dir, &origin);
            if let Some((_, name)) = segments(&disk)?.pop() {
                let size = disk.size(&name)?;
                places.insert(origin, (name, size));
            }
        }
        Ok(Self { dir: dir.to_owned(), places })
    }

    /// What has come since the last time.
    ///
    /// # Errors
    /// A folder or file cannot be read.
    pub fn more(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        for origin in origins(&self.dir)? {
            let disk = Disk::existing(&self.dir, &origin);
            // Listed before reading: a segment that has a successor by then is complete.
            let names: Vec<String> = segments(&disk)?.into_iter().map(|(_, name)| name).collect();
            let Some(first) = names.first() else { continue };
            let place = self.places.entry(origin).or_insert_with(|| (first.clone(), 0));
            loop {
                place.1 += lines(&disk, &place.0, place.1, |line| match Stored::parse(line) {
                    Some(stored) => answer.records.push(stored),
                    None => answer.unreadable += 1,
                })?;
                match names.iter().find(|name| **name > place.0) {
                    Some(next) => *place = (next.clone(), 0),
                    None => break,
                }
            }
        }
        in_time_order(&mut answer.records);
        Ok(answer)
    }
}

/// The logs in `dir`; none where there is no such folder yet. (`verify` is told of it: there a folder that is gone is news.)
fn origins(dir: &Path) -> io::Result<Vec<String>> {
    match disk::origins(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

fn in_time_order(records: &mut [Stored]) {
    records.sort_by_cached_key(|stored| (stored.unix_nanos(), stored.origin.clone(), stored.seq));
}

fn contains(line: &[u8], needle: &str) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| line.contains(needle))
}

/// Shows each whole line from `offset` on; how many bytes these lines have.
fn lines(storage: &dyn Storage, name: &str, offset: u64, mut show: impl FnMut(&[u8])) -> io::Result<u64> {
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
fn last_lines(storage: &dyn Storage, name: &str, count: usize) -> io::Result<Vec<Vec<u8>>> {
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
fn segments_since(storage: &dyn Storage, since: Option<i64>) -> io::Result<Vec<String>> {
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
fn at(storage: &dyn Storage, seq: u64) -> io::Result<Option<Stored>> {
    let all = segments(storage)?;
    let Some((_, name)) = all.iter().rfind(|(first_seq, _)| *first_seq <= seq) else { return Ok(None) };
    let mut found = None;
    lines(storage, name, 0, |text| {
        if found.is_none() && Line::split(text).is_some_and(|line| line.seq == seq) {
            found = Stored::parse(text);
        }
    })?;
    Ok(found)
}

const BLOCK: usize = 1 << 16;
/// A clock that was set back by less than this does not hide records from a question by time.
const CLOCK_STEP: i64 = 3_600_000_000_000;
