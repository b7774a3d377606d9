//! The story of a run: its calls in order, each with all that is recorded of it.
//!
//! Owns: what belongs to a run, a trace, a session or a call, and how its parts hang together. Leaves to others: how it looks (`cli::audit`).

use std::collections::BTreeMap;
use std::io;

use super::filter::Filter;
use super::find::{Answer, Logs};
use super::record::{Kind, Stored};
use super::row::Field;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A run.
    Run,
    /// A trace.
    Trace,
    /// A session.
    Session,
    /// One call.
    Call,
}

impl Of {
    /// The word for a reader.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Trace => "trace",
            Self::Session => "session",
            Self::Call => "call",
        }
    }
}

/// The calls of a run.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// What the id that was asked for names.
    pub of: Of,
    /// The calls by trace, in the order of their beginnings; those without one together.
    pub traces: Vec<(Option<String>, Vec<Call>)>,
    /// Whether there is more than is shown.
    pub is_cut: bool,
}

/// One call and its records, in order.
#[derive(Clone, Debug)]
pub struct Call {
    /// The invocation's id.
    pub id: Option<String>,
    /// What is recorded of it.
    pub records: Vec<Stored>,
}

impl Call {
    /// The record that tells most of what was asked: the intent, else the first.
    pub fn asked(&self) -> Option<&Stored> {
        self.records.iter().find(|stored| stored.record.kind == Kind::Intent).or(self.records.first())
    }

    /// The record of its end: the last outcome or refusal.
    pub fn end(&self) -> Option<&Stored> {
        self.records.iter().rfind(|stored| matches!(stored.record.kind, Kind::Outcome | Kind::Refusal | Kind::Coalesced))
    }

    /// How many requests went to the upstream.
    pub fn attempts(&self) -> usize {
        self.records.iter().filter(|stored| stored.record.kind == Kind::Intent).count()
    }

    /// When it began, in nanoseconds since 1970.
    pub fn begun(&self) -> i64 {
        self.records.first().map_or(0, Stored::unix_nanos)
    }
}

impl Timeline {
    /// All calls, in the order of their beginnings within each trace.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.traces.iter().flat_map(|(_, calls)| calls)
    }
}

impl Logs {
    /// The story of the run of this id, else of the trace, the session or the call; `None` when nothing is recorded under it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn timeline(&self, id: &str) -> io::Result<Option<Timeline>> {
        let named = [(Of::Run, Field::Run), (Of::Trace, Field::Trace), (Of::Session, Field::Session), (Of::Call, Field::Call)];
        for (of, field) in named {
            let filter = Filter { limit: Some(MAX_RECORDS), ..Filter::default().and(field, Some(id)) };
            let found = self.find(&filter)?;
            if !found.records.is_empty() {
                return self.story(of, found).map(Some);
            }
        }
        Ok(None)
    }

    fn story(&self, of: Of, found: Answer) -> io::Result<Timeline> {
        let is_cut = found.records.len() >= MAX_RECORDS;
        let since = found.records.first().map(|stored| stored.unix_nanos().saturating_sub(CLOCK_STEP));
        let mut ids: Vec<String> = found.records.iter().filter_map(|stored| stored.record.call_id.as_deref().map(str::to_owned)).collect();
        ids.sort_unstable();
        ids.dedup();
        // Not every record of a call says its trace or run: its id brings the others.
        let rest = match ids.is_empty() {
            true => Answer::default(),
            false => self.find(&Filter { since, limit: Some(2 * MAX_RECORDS), ..Filter::default().and_any(Field::Call, ids) })?,
        };
        let mut records: BTreeMap<(String, u64), Stored> = BTreeMap::new();
        for stored in found.records.into_iter().chain(rest.records) {
            records.insert((stored.origin.clone(), stored.seq), stored);
        }
        let mut calls: BTreeMap<(Option<String>, u64), Call> = BTreeMap::new();
        for ((_, seq), stored) in records {
            let id = stored.record.call_id.as_deref().map(str::to_owned);
            // What is no call stands for itself.
            let key = (id.clone(), if id.is_some() { 0 } else { seq });
            calls.entry(key).or_insert_with(|| Call { id, records: Vec::new() }).records.push(stored);
        }
        let mut calls: Vec<Call> = calls.into_values().collect();
        calls.iter_mut().for_each(|call| call.records.sort_by_key(|stored| (stored.unix_nanos(), stored.seq)));
        calls.sort_by_key(Call::begun);
        let mut traces: Vec<(Option<String>, Vec<Call>)> = Vec::new();
        for call in calls {
            let trace = call.records.iter().find_map(|stored| stored.record.trace_id.as_deref().map(str::to_owned));
            match traces.iter_mut().find(|(known, _)| *known == trace) {
                Some((_, calls)) => calls.push(call),
                None => traces.push((trace, vec![call])),
            }
        }
        Ok(Timeline { of, traces, is_cut })
    }
}

/// Most records of a story.
const MAX_RECORDS: usize = 10_000;
/// A clock that was set back by less than this hides no record.
const CLOCK_STEP: i64 = 3_600_000_000_000;
