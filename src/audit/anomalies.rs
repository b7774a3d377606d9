//! What an agent does that it does not usually do, each with the records that show it.
//!
//! The recent time is compared with what came before it. The rules are simple and their bounds are constants here, so that a reader can
//! follow each finding; none of them is proof.
//!
//! Owns: the rules. Leaves to others: reading (`find`).

mod cost;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

pub use self::cost::Budget;
use self::cost::Costs;
use super::find::Logs;
use super::index::Wanted;
use super::index::column::{Columns, Number, Words};
use super::row::Field;
use super::stats::{End, Event, Events, HOUR};

/// Something unusual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// `new_tool`, `error_jump`, `repeated_calls`, `refusal_burst`, `unusual_hour`, `volume`, `cost` or `cost_budget`.
    pub kind: &'static str,
    /// Whose.
    pub agent: String,
    /// The tool, where it is about one.
    pub target: Option<String>,
    /// What is unusual, in a sentence.
    pub what: String,
    /// When it began, in nanoseconds since 1970.
    pub at: i64,
    /// Records that show it, as (origin, number); the first few.
    pub evidence: Vec<(String, u64)>,
}

/// Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What came before is not looked at.
    pub baseline: i64,
    /// What comes from here on is judged.
    pub since: i64,
    /// What comes from here on is not looked at.
    pub until: Option<i64>,
}

/// Fewest calls in the time before for it to say what is usual.
const ENOUGH: u64 = 50;
/// Fewest calls for a rate of errors to mean anything.
const ENOUGH_ENDS: u64 = 20;
/// A jump: so many times the usual rate, and at least this share.
const ERROR_FACTOR: f64 = 3.0;
const ERROR_SHARE: f64 = 0.2;
/// The same call so often in ten minutes is a loop.
const REPEATED: u64 = 10;
const REPEATED_WITHIN: i64 = HOUR / 6;
/// So many refusals in a minute are a burst.
const BURST: u64 = 20;
const MINUTE: i64 = HOUR / 60;
/// So many times the busiest hour before, and at least so many calls.
const VOLUME_FACTOR: u64 = 3;
const VOLUME: u64 = 100;
/// Fewest days in which an agent was at work for its hours to be known.
const ENOUGH_DAYS: usize = 5;
/// Records named for each finding.
const EVIDENCE: usize = 5;
/// Different calls that are watched for repetition; beyond them new ones are not.
const MAX_CALLS: usize = 1 << 20;

/// A count and the first records of it.
#[derive(Clone, Debug, Default)]
struct Seen {
    count: u64,
    at: i64,
    evidence: Vec<(String, u64)>,
}

impl Seen {
    fn add(&mut self, count: u64, at: i64, origin: &str, seq: u64) {
        if self.count == 0 {
            self.at = at;
        }
        self.count += count;
        if self.evidence.len() < EVIDENCE {
            self.evidence.push((origin.to_owned(), seq));
        }
    }
}

#[derive(Clone, Debug, Default)]
struct OfTarget {
    calls_before: u64,
    ends_before: u64,
    errors_before: u64,
    calls: Seen,
    ends: u64,
    errors: Seen,
}

#[derive(Clone, Debug, Default)]
struct OfAgent {
    /// By the number of the target's name.
    targets: HashMap<usize, OfTarget, BuildHasherDefault<Spread>>,
    calls_before: u64,
    /// By hour of the day, UTC.
    hours_before: [u64; 24],
    days_before: std::collections::BTreeSet<i64>,
    hour: (i64, u64),
    busiest_before: u64,
    hours: BTreeMap<i64, Seen>,
    refusals: BTreeMap<i64, Seen>,
    costs: Costs,
}

/// Names, numbered: there are millions of records, and few names in them.
#[derive(Default)]
struct Names {
    known: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.known.get(name) {
            return *number;
        }
        self.names.push(name.to_owned());
        self.known.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }

    fn name(&self, number: usize) -> &str {
        self.names.get(number).map_or("-", String::as_str)
    }
}

/// Spreads numbers of our own; no stranger chooses them, and there are millions of records.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, number: usize) {
        // Knuth's multiplier, 2^64 divided by the golden ratio: neighbours differ in the high bits too.
        self.0 = (self.0.rotate_left(5) ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The numbers of a column's first values, each looked up once.
struct Numbered<'c> {
    column: Option<&'c Words>,
    numbers: Vec<Option<usize>>,
}

impl<'c> Numbered<'c> {
    fn of(columns: &'c Columns, field: Field) -> Self {
        let column = columns.words.get(&field);
        Self { column, numbers: vec![None; column.map_or(1, |column| column.words.len().max(1))] }
    }

    fn number(&mut self, row: usize, names: &mut Names) -> usize {
        let code = self.column.map_or(0, |column| column.code(row));
        let name = self.column.and_then(|column| column.first(row)).unwrap_or("-");
        match self.numbers.get_mut(code) {
            Some(known) => *known.get_or_insert_with(|| names.number(name)),
            None => names.number(name),
        }
    }
}

/// Looks for what is unusual.
struct Watch {
    times: Times,
    budget: Option<Budget>,
    /// The names of agents, and with the same numbers what they did.
    names: Names,
    agents: Vec<OfAgent>,
    targets: Names,
    same: HashMap<(u32, i64), (String, String, Seen)>,
}

impl Logs {
    /// What agents did from `times.since` on that they did not do before, and where one spent more than the budget, if one is stated.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn anomalies(&self, times: Times, agent: Option<&str>, budget: Option<Budget>) -> io::Result<Vec<Anomaly>> {
        let (names, targets) = (Names::default(), Names::default());
        let mut watch = Watch { times, budget, names, agents: Vec::new(), targets, same: HashMap::new() };
        let before = [Field::Kind, Field::Outcome, Field::Agent, Field::Target];
        let wanted = Wanted { fields: &before, numbers: &[Number::Count, Number::Cost] };
        self.columns(Some(times.baseline), Some(times.since), wanted, |origin, first, columns| {
            watch.take(origin, first, columns, agent, true)
        })?;
        let recent = [Field::Kind, Field::Outcome, Field::Agent, Field::Target, Field::Arguments];
        let wanted = Wanted { fields: &recent, numbers: &[Number::Count, Number::Cost] };
        self.columns(Some(times.since), times.until, wanted, |origin, first, columns| watch.take(origin, first, columns, agent, false))?;
        Ok(watch.findings())
    }
}

impl Watch {
    fn take(&mut self, origin: &str, first_seq: u64, columns: &Columns, only: Option<&str>, is_before: bool) {
        let events = Events::of(columns);
        let Some(agents) = columns.words.get(&Field::Agent) else { return };
        let (mut names, mut targets) = (Numbered::of(columns, Field::Agent), Numbered::of(columns, Field::Target));
        let costs = columns.numbers.get(&Number::Cost).map_or(&[][..], Vec::as_slice);
        let mut hashes = vec![None; columns.rows];
        for (hash, row) in columns.ids.get(&Field::Arguments).into_iter().flatten() {
            if let Some(place) = hashes.get_mut(usize::from(*row)) {
                *place = Some(*hash);
            }
        }
        for (row, time) in columns.times.iter().enumerate() {
            let is_mine = if is_before {
                (self.times.baseline..self.times.since).contains(time)
            } else {
                *time >= self.times.since && self.times.until.is_none_or(|until| *time < until)
            };
            let Some(name) = agents.first(row).filter(|name| is_mine && only.is_none_or(|only| only == *name)) else { continue };
            let Some(event) = events.at(row) else { continue };
            let seq = first_seq + row as u64;
            let number = names.number(row, &mut self.names);
            if self.agents.len() <= number {
                self.agents.resize_with(number + 1, OfAgent::default);
            }
            let Some(agent) = self.agents.get_mut(number) else { continue };
            // Names that were never called are many, and say nothing here.
            let target = if matches!(event, Event::Refused(_)) { 0 } else { targets.number(row, &mut self.targets) };
            let cost = costs.get(row).map_or(0, |cost| u64::from(*cost));
            if event == Event::Call && is_before {
                agent.costs.before(cost, *time);
            } else if event == Event::Call {
                agent.costs.now(cost, *time, origin, seq);
            }
            if is_before {
                agent.before(event, target, *time);
            } else {
                agent.now(event, target, *time, origin, seq);
                if let (Event::Call, Some(hash)) = (event, hashes.get(row).copied().flatten()) {
                    let target = self.targets.name(target).to_owned();
                    self.repeated(hash, *time, name, &target, origin, seq);
                }
            }
        }
    }

    fn repeated(&mut self, hash: u32, time: i64, agent: &str, target: &str, origin: &str, seq: u64) {
        // The agent and the tool belong to what is the same.
        let key = (
            hash ^ super::index::column::hash(agent).rotate_left(7) ^ super::index::column::hash(target),
            time.div_euclid(REPEATED_WITHIN),
        );
        if self.same.len() < MAX_CALLS || self.same.contains_key(&key) {
            let (_, _, seen) = self.same.entry(key).or_insert_with(|| (agent.to_owned(), target.to_owned(), Seen::default()));
            seen.add(1, time, origin, seq);
        }
    }

    fn findings(self) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (number, agent) in self.agents.into_iter().enumerate() {
            agent.findings(self.names.name(number), &self.targets, self.budget, &mut found);
        }
        for (agent, target, seen) in self.same.into_values().filter(|(_, _, seen)| seen.count >= REPEATED) {
            let what = format!("called `{target}` {} times with the same arguments within ten minutes", seen.count);
            found.push(Anomaly { kind: "repeated_calls", agent, target: Some(target), what, at: seen.at, evidence: seen.evidence });
        }
        found.sort_by(|one, other| (one.at, one.kind, &one.agent, &one.target).cmp(&(other.at, other.kind, &other.agent, &other.target)));
        found
    }
}

impl OfAgent {
    fn before(&mut self, event: Event, target: usize, time: i64) {
        match event {
            Event::Call => {
                self.calls_before += 1;
                let hour = time.div_euclid(HOUR);
                if let Some(count) = self.hours_before.get_mut(hour.rem_euclid(24) as usize) {
                    *count += 1;
                }
                if self.hour.0 != hour {
                    self.hour = (hour, 0);
                    self.days_before.insert(hour.div_euclid(24));
                }
                self.hour.1 += 1;
                self.busiest_before = self.busiest_before.max(self.hour.1);
                self.targets.entry(target).or_default().calls_before += 1;
            }
            Event::End(end, _) => {
                let target = self.targets.entry(target).or_default();
                target.ends_before += 1;
                target.errors_before += u64::from(end != End::Ok);
            }
            Event::Refused(_) => {}
        }
    }

    fn now(&mut self, event: Event, target: usize, time: i64, origin: &str, seq: u64) {
        match event {
            Event::Call => {
                self.hours.entry(time.div_euclid(HOUR)).or_default().add(1, time, origin, seq);
                self.targets.entry(target).or_default().calls.add(1, time, origin, seq);
            }
            Event::End(end, _) => {
                let target = self.targets.entry(target).or_default();
                target.ends += 1;
                if end != End::Ok {
                    target.errors.add(1, time, origin, seq);
                }
            }
            Event::Refused(count) => self.refusals.entry(time.div_euclid(MINUTE)).or_default().add(count, time, origin, seq),
        }
    }

    fn findings(self, name: &str, targets: &Names, budget: Option<Budget>, found: &mut Vec<Anomaly>) {
        let mut say = |kind, target: Option<&str>, what, seen: &Seen| {
            let (agent, target, evidence) = (name.to_owned(), target.map(str::to_owned), seen.evidence.clone());
            found.push(Anomaly { kind, agent, target, what, at: seen.at, evidence });
        };
        for (target, of) in self.targets.iter().map(|(number, of)| (targets.name(*number), of)) {
            if self.calls_before >= ENOUGH && of.calls_before == 0 && of.calls.count > 0 {
                let what = format!(
                    "called `{target}` for the first time, {} times; none of its {} calls before was to it",
                    of.calls.count, self.calls_before
                );
                say("new_tool", Some(target), what, &of.calls);
            }
            let rate = |errors: u64, ends: u64| errors as f64 / ends.max(1) as f64;
            let (now, before) = (rate(of.errors.count, of.ends), rate(of.errors_before, of.ends_before));
            if of.ends >= ENOUGH_ENDS && of.ends_before >= ENOUGH_ENDS && now >= ERROR_SHARE && now >= before * ERROR_FACTOR {
                let what = format!(
                    "`{target}` went wrong in {:.0} % of its calls ({} of {}), {:.1} % before",
                    now * 100.0,
                    of.errors.count,
                    of.ends,
                    before * 100.0
                );
                say("error_jump", Some(target), what, &of.errors);
            }
        }
        for burst in self.refusals.values().filter(|seen| seen.count >= BURST) {
            say("refusal_burst", None, format!("was refused {} times within a minute", burst.count), burst);
        }
        if let Some(over) = budget.and_then(|budget| self.costs.over_budget(budget)) {
            say("cost_budget", None, over.what, &over.seen);
        }
        let is_known = self.calls_before >= ENOUGH && self.days_before.len() >= ENOUGH_DAYS;
        let is_volume = |seen: &Seen| seen.count >= VOLUME && seen.count > VOLUME_FACTOR * self.busiest_before;
        // What more calls than ever cost is told as more calls than ever.
        let is_told = |hour: &i64| self.hours.get(hour).is_some_and(is_volume);
        for (_, over) in self.costs.over_habit().filter(|(hour, _)| is_known && !is_told(hour)) {
            say("cost", None, over.what, &over.seen);
        }
        for (hour, seen) in &self.hours {
            let of_day = hour.rem_euclid(24) as usize;
            let near = [(of_day + 23) % 24, of_day, (of_day + 1) % 24];
            if is_known && near.iter().all(|hour| self.hours_before.get(*hour) == Some(&0)) {
                let what = format!("made {} calls between {of_day}:00 and {of_day}:59 UTC, when it was never at work before", seen.count);
                say("unusual_hour", None, what, seen);
            }
            if is_known && is_volume(seen) {
                let what = format!("made {} calls within an hour; its busiest hour before had {}", seen.count, self.busiest_before);
                say("volume", None, what, seen);
            }
        }
    }
}

#[cfg(test)]
mod tests;
