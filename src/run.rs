//! What an agent has met and how often it has called, before the call at hand: the labels of what it called, and counts.
//!
//! Owns: whose labels are whose, how long they count, and what is kept in memory of them. Leaves to others: keeping them (`state`), what
//! follows from them (`policy`).
//!
//! INVARIANT: a label is met before the call that brings it leaves: whatever an agent sends after it has read something is decided with
//! that label, over whichever connection, session or process.
//! INVARIANT: a run id that an agent chooses changes nothing: it tells runs apart only of agents whose ids somebody else chooses.
//! INVARIANT: a call that is of no labelled target, and asks about nothing, takes no lock and asks no database.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalog::Label;
use crate::clock::Clock;
use crate::config;
use crate::identity::Principal;
use crate::state::{Counting, Met, MetReader, Note, State, StateError, Whose};

/// What is known in memory of whom, at most; beyond it the database is asked again.
const MAX_KNOWN: usize = 16_384;
/// A label is stored for a part more than the window, so that one that is met again and again is stored again only now and then.
const SLACK: i64 = 8;

/// What all agents have met.
#[derive(Debug)]
pub struct Runs {
    state: Arc<State>,
    reader: MetReader,
    clock: Clock,
    bounds: config::Labels,
    known: Mutex<Known>,
}

/// What has been stored of whom, so that it need not be stored again.
#[derive(Debug, Default)]
struct Known {
    /// Of exactly these, not of who knows what they know: what an agent has heard of in one run is not stored for its others.
    met: HashMap<Whose, Vec<Met>>,
    /// The latest time at which something was stored. A clock that has gone back since may have let the database forget.
    latest: i64,
}

/// It cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// A call that goes on, and what it leaves behind.
#[derive(Clone, Debug)]
pub struct Leaves {
    note: Note,
}

/// What came of noting it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is stored: the labels before and after it.
    Labels(Vec<String>, Vec<String>),
    /// A count that the decision stands on has changed since.
    Changed,
}

impl Runs {
    /// Those that the database has.
    ///
    /// # Errors
    /// The database's.
    pub fn open(state: &Arc<State>, clock: Clock, bounds: config::Labels) -> Result<Self, StateError> {
        Ok(Self { reader: state.met_reader()?, state: Arc::clone(state), clock, bounds, known: Mutex::default() })
    }

    /// What the principal has met before this call, which says that it belongs to `run`. `is_agent` tells whether a name is an agent's.
    /// Nothing is looked for before it is asked about.
    pub fn before<'b>(&'b self, principal: &'b Principal, run: Option<&'b str>, is_agent: &'b dyn Fn(&str) -> bool) -> Before<'b> {
        Before::new(Source::Kept { runs: self, principal, run, is_agent })
    }

    /// Everyone who gets to know what this call brings: the agent, and in a delegation those that it acts for.
    fn whose(&self, principal: &Principal, run: Option<&str>, is_agent: &dyn Fn(&str) -> bool) -> Vec<Whose> {
        let token = principal.token.as_ref();
        let actors = token.iter().flat_map(|token| &token.actors).map(|actor| format!("agent:{actor}"));
        // A person does not carry text from one agent to another; an agent that a token was made for does.
        let subject = token.and_then(|token| token.on_behalf_of.as_deref()).map(|subject| format!("agent:{subject}"));
        let subject = subject.filter(|subject| is_agent(subject));
        // A run that an agent chooses, and may choose otherwise, says nothing of those that it acts for either.
        let keeps_runs = |agent: &str| self.keeps_runs(agent);
        let run = run.filter(|_| keeps_runs(&principal.id));
        let mut whose: Vec<Whose> = Vec::new();
        for agent in std::iter::once(principal.id.to_string()).chain(actors).chain(subject) {
            if whose.iter().any(|known| *known.agent == *agent) {
                continue;
            }
            let run = run.filter(|_| keeps_runs(&agent)).map(Box::from);
            whose.push(Whose { agent: agent.into(), run });
        }
        whose
    }

    /// The run that the call says it belongs to, where somebody else than its agent chooses it.
    pub fn trusted<'r>(&self, principal: &Principal, run: Option<&'r str>) -> Option<&'r str> {
        run.filter(|_| self.keeps_runs(&principal.id))
    }

    fn keeps_runs(&self, agent: &str) -> bool {
        agent.strip_prefix("agent:").is_some_and(|name| self.bounds.runs_of.iter().any(|known| known == name))
    }

    /// What a call leaves behind that goes on.
    pub fn leaves(
        &self,
        (principal, run): (&Principal, Option<&str>),
        is_agent: &dyn Fn(&str) -> bool,
        labels: &[Label],
        counts: (&[Box<str>], &[Counting]),
    ) -> Leaves {
        let note = Note {
            whose: self.whose(principal, run, is_agent),
            labels: labels.iter().map(ToString::to_string).collect(),
            agent: Box::from(&*principal.id),
            counted: counts.0.to_vec(),
            stands_on: counts.1.to_vec(),
            ..Note::default()
        };
        Leaves { note }
    }

    /// What is left behind where nothing need be stored: all of it was met a short while ago.
    pub fn known(&self, leaves: &Leaves) -> Option<Noted> {
        let (note, now) = (&leaves.note, self.clock.unix_seconds());
        if !note.counted.is_empty() || !self.lock().has(note, now, now.saturating_add(self.window())) {
            return None;
        }
        // What counted before the call is read, since others may have met something by other ways to the same agents.
        Some(told(&self.reader.met(&note.whose, now).ok()?, now, &note.labels))
    }

    /// Stores what is left behind. Blocks: not for a runtime's worker.
    ///
    /// # Errors
    /// The database's.
    pub fn note(&self, leaves: &Leaves) -> Result<Noted, StateError> {
        let now = self.clock.unix_seconds();
        let until = now.saturating_add(self.window()).saturating_add(self.window() / SLACK);
        let note = Note { now, until, ..leaves.note.clone() };
        let Some(before) = self.state.note(&note, (self.bounds.max_agents.value(), self.bounds.max_runs.value()))? else {
            return Ok(Noted::Changed);
        };
        let noted = told(&before, now, &note.labels);
        self.lock().add(note);
        Ok(noted)
    }

    fn window(&self) -> i64 {
        self.bounds.window_s.value().cast_signed()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether all that this note would store is stored, and counts until then at least.
    fn has(&self, note: &Note, now: i64, until: i64) -> bool {
        let lasts = |met: &[Met], label: &str| met.iter().any(|met| met.label == label && met.until >= until);
        let has_all = |met: &Vec<Met>| note.labels.iter().all(|label| lasts(met, label));
        now >= self.latest && (note.labels.is_empty() || note.whose.iter().all(|whose| self.met.get(whose).is_some_and(has_all)))
    }

    /// This has been stored.
    fn add(&mut self, note: Note) {
        if note.now < self.latest || self.met.len() >= MAX_KNOWN {
            self.met.clear();
        }
        self.latest = note.now;
        if note.labels.is_empty() {
            return;
        }
        for whose in note.whose {
            let met = self.met.entry(whose).or_default();
            met.retain(|met| !note.labels.contains(&met.label));
            met.extend(note.labels.iter().map(|label| Met { label: label.clone(), until: note.until }));
        }
    }
}

/// The labels that count, before and after these are met.
fn told(met: &[Met], now: i64, labels: &[String]) -> Noted {
    let mut before: Vec<String> = met.iter().filter(|met| met.until > now).map(|met| met.label.clone()).collect();
    before.sort_unstable();
    let mut after = before.clone();
    after.extend(labels.iter().cloned());
    after.sort_unstable();
    after.dedup();
    Noted::Labels(before, after)
}

/// What an agent has met and made before a call: looked for when it is asked about, once.
pub struct Before<'b> {
    source: Source<'b>,
    /// The patterns that have counted the call itself.
    own: &'b [Box<str>],
    labels: OnceCell<Result<Vec<String>, Unknown>>,
    counted: RefCell<Vec<Counting>>,
}

enum Source<'b> {
    /// As the database has it.
    Kept { runs: &'b Runs, principal: &'b Principal, run: Option<&'b str>, is_agent: &'b dyn Fn(&str) -> bool },
    /// As somebody says, who tries a policy.
    Given { labels: Vec<String>, made: Vec<(String, u64)> },
}

impl<'b> Before<'b> {
    fn new(source: Source<'b>) -> Self {
        Self { source, own: &[], labels: OnceCell::new(), counted: RefCell::default() }
    }

    /// What somebody says who tries a policy: these labels, and so many calls of these patterns.
    pub fn given(labels: &[Label], made: Vec<(String, u64)>) -> Self {
        Self::new(Source::Given { labels: labels.iter().map(ToString::to_string).collect(), made })
    }

    /// An agent that has done nothing yet.
    pub fn nothing() -> Self {
        Self::given(&[], Vec::new())
    }

    /// The same for a call that these patterns have counted: it does not stand before itself.
    #[must_use]
    pub fn without(self, own: &'b [Box<str>]) -> Self {
        Self { own, ..self }
    }

    /// The labels that were met and count still.
    ///
    /// # Errors
    /// [`Unknown`] where the database cannot be read.
    pub fn labels(&self) -> Result<&[String], Unknown> {
        self.labels.get_or_init(|| self.look()).as_deref().map_err(|unknown| *unknown)
    }

    /// Whether a label was met that counts still.
    ///
    /// # Errors
    /// [`Unknown`] where the database cannot be read.
    pub fn has(&self, label: &Label) -> Result<bool, Unknown> {
        Ok(self.labels()?.iter().any(|met| met == label.as_str()))
    }

    fn look(&self) -> Result<Vec<String>, Unknown> {
        match &self.source {
            Source::Given { labels, .. } => Ok(labels.clone()),
            Source::Kept { runs, principal, run, is_agent } => {
                let met = runs.reader.met(&runs.whose(principal, *run, is_agent), runs.clock.unix_seconds());
                let met = met.inspect_err(|error| tracing::error!(%error, "it cannot be read what an agent has met"));
                let mut labels: Vec<String> = met.map_err(|_| Unknown)?.into_iter().map(|met| met.label).collect();
                labels.sort_unstable();
                Ok(labels)
            }
        }
    }

    /// Whether fewer than `calls` calls of this pattern were made in the last `within_s` seconds.
    ///
    /// # Errors
    /// [`Unknown`] where the database cannot be read.
    pub fn is_below(&self, of: &str, calls: u64, within_s: u64) -> Result<bool, Unknown> {
        let made = match &self.source {
            Source::Given { made, .. } => made.iter().find(|(pattern, _)| pattern == of).map_or(0, |(_, made)| *made),
            Source::Kept { runs, principal, .. } => {
                let since = runs.clock.unix_seconds().saturating_sub_unsigned(within_s);
                let made = runs.reader.made(&principal.id, of, since);
                made.inspect_err(|error| tracing::error!(%error, "it cannot be read what an agent has called")).map_err(|_| Unknown)?
            }
        };
        let is_below = made.saturating_sub(u64::from(self.own.iter().any(|own| **own == *of))) < calls;
        self.counted.borrow_mut().push(Counting { of: of.into(), calls, within_s, is_below });
        Ok(is_below)
    }

    /// The labels, where somebody has asked for them.
    pub fn asked_labels(&self) -> Option<&[String]> {
        self.labels.get()?.as_deref().ok()
    }

    /// What was told of counts.
    pub fn asked_counts(&self) -> Vec<Counting> {
        self.counted.borrow().clone()
    }
}
