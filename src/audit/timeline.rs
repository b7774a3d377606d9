//! The story of a run: its calls in order, each with all that is recorded of it.
//!
//! Owns: what belongs to a run, a trace, a session or a call, and how its parts hang together. Leaves to others: how it looks (`cli::audit`).

use std::collections::{BTreeMap, HashMap};
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

    /// The record of its end: the last outcome, replay or refusal.
    pub fn end(&self) -> Option<&Stored> {
        self.records.iter().rfind(|stored| matches!(stored.record.kind, Kind::Outcome | Kind::Replay | Kind::Refusal | Kind::Coalesced))
    }

    /// How many requests went to the upstream.
    pub fn attempts(&self) -> usize {
        self.records.iter().filter(|stored| stored.record.kind == Kind::Intent).count()
    }

    /// When it began, in nanoseconds since 1970.
    pub fn begun(&self) -> i64 {
        self.records.first().map_or(0, Stored::unix_nanos)
    }

    /// When the last that is recorded of it was.
    pub fn ended(&self) -> i64 {
        self.records.iter().map(Stored::unix_nanos).max().unwrap_or(0)
    }

    /// Whether nothing of it was forwarded.
    pub fn is_refused(&self) -> bool {
        self.attempts() == 0 && self.end().is_some()
    }

    /// Whether nobody knows if it happened, and no one will.
    pub fn is_unknown(&self) -> bool {
        let effect = self.end().and_then(|end| end.record.effect.as_deref());
        self.attempts() > 0 && effect.is_none_or(|effect| effect == "unknown")
    }

    /// Who made it.
    pub fn agent(&self) -> Option<&str> {
        self.records.iter().find_map(|stored| stored.record.agent.as_deref())
    }

    /// The agent's span that it was made in.
    pub fn span(&self) -> Option<&str> {
        self.records.iter().find_map(|stored| stored.record.span_id.as_deref())
    }
}

/// How the calls of a trace hang together.
#[derive(Clone, Debug)]
pub enum Step<'c> {
    /// Several calls that the agent made in one span of its own: the parent id of the `traceparent` that it sent along.
    Span {
        /// The span's id.
        id: &'c str,
        /// What was done in it.
        steps: Vec<Step<'c>>,
    },
    /// One call.
    Call {
        /// The call.
        call: &'c Call,
        /// What other agents did in the same trace while it ran.
        during: Vec<Step<'c>>,
    },
}

impl Step<'_> {
    /// When it began, in nanoseconds since 1970.
    pub fn begun(&self) -> i64 {
        match self {
            Self::Span { steps, .. } => steps.first().map_or(0, Step::begun),
            Self::Call { call, .. } => call.begun(),
        }
    }
}

/// The calls of a trace, in the order of their beginnings, as a tree: by the spans that agents say, else by time. A record tells the agent's span
/// and not that one's parent, so spans stand beside each other.
pub fn tree(calls: &[Call]) -> Vec<Step<'_>> {
    let times: Vec<_> = calls.iter().map(Running::of).collect();
    // By the call that each was made in; the last place is for those made in none.
    let mut within: Vec<Vec<usize>> = vec![Vec::new(); calls.len() + 1];
    for (at, inner) in times.iter().enumerate() {
        // Of the calls that it was made in the one that began last, so that a chain of agents is a chain here.
        let outer = times[..at].iter().rposition(|outer| outer.holds(inner)).unwrap_or(calls.len());
        within[outer].push(at);
    }
    steps(calls, &within, calls.len())
}

/// When a call ran, and whose it was.
struct Running<'c> {
    agent: Option<&'c str>,
    begun: i64,
    ended: i64,
    is_forwarded: bool,
}

impl<'c> Running<'c> {
    fn of(call: &'c Call) -> Self {
        Self { agent: call.agent(), begun: call.begun(), ended: call.ended(), is_forwarded: call.attempts() > 0 }
    }

    /// Whether another agent's call was made while this one ran: a tool that calls tools.
    fn holds(&self, other: &Self) -> bool {
        self.is_forwarded && self.begun < other.begun && other.ended < self.ended && self.agent != other.agent
    }
}

/// The calls made in one.
fn steps<'c>(calls: &'c [Call], within: &[Vec<usize>], outer: usize) -> Vec<Step<'c>> {
    let mut found: Vec<(Option<&str>, Vec<Step<'c>>)> = Vec::new();
    let mut spans: HashMap<&str, usize> = HashMap::new();
    for at in within.get(outer).into_iter().flatten() {
        let Some(call) = calls.get(*at) else { continue };
        let step = Step::Call { call, during: steps(calls, within, *at) };
        let place = call.span().and_then(|span| spans.get(span)).and_then(|place| found.get_mut(*place));
        match place {
            Some((_, together)) => together.push(step),
            None => {
                spans.extend(call.span().map(|span| (span, found.len())));
                found.push((call.span(), vec![step]));
            }
        }
    }
    let joined = found.into_iter().flat_map(|(span, steps)| match span {
        Some(id) if steps.len() > 1 => vec![Step::Span { id, steps }],
        _ => steps,
    });
    joined.collect()
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
