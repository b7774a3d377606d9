//! What an agent could have called over a time, by the policies that were in force then, against what it did call.
//!
//! Which policy was in force when is told by the records of starts, stops and reloads. A process that writes none, such as `doorward call`, is known by
//! the policy that its records name, from the first of them to the last. What a policy said is told by the bundle that was kept of it; where it was
//! not kept, what the asker has stands in for it, and that is said.
//!
//! Owns: when what was in force. Leaves to others: what a policy says (`policy::past`), what is in force today, how all this looks (`cli::audit`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::filter::Filter;
use super::find::Logs;
use super::index::Wanted;
use super::kept::{Kept, Sort};
use super::record::{Kind, Stored};
use super::row::Field;
use super::stats::Tally;
use crate::policy::past::{Past, Stood};

/// A policy and when it was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The log that says so.
    pub origin: String,
    /// The policy's version.
    pub version: String,
    /// From when on, in nanoseconds since 1970.
    pub from: i64,
    /// Until when; `None` where no end is recorded.
    pub to: Option<i64>,
    /// Whether its bundle is kept. If not, what stands in for it is not what was in force.
    pub is_kept: bool,
}

/// A time, in nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// From when on.
    pub from: i64,
    /// Until when; `None` where no end is recorded.
    pub to: Option<i64>,
    /// The rules that opened it.
    pub why: String,
}

/// What it comes to for one target.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// Its tier, where a policy or the asker knows it.
    pub tier: Option<String>,
    /// Its labels, as records of the time have them; `None` where none does.
    pub labels: Option<Vec<String>>,
    /// When it was open, in order.
    pub open: Vec<Open>,
    /// Whether it was open all the time.
    pub is_always: bool,
    /// Why it was not open, where it was not.
    pub shut: Option<String>,
    /// When its live definition was first found to be another than the reviewed one, and its calls refused.
    pub drifted: Option<i64>,
    /// What the agent did with it.
    pub called: Tally,
}

/// What an agent could do and did.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// The policies that were in force, in the order of their beginnings.
    pub policies: Vec<InForce>,
    /// By target.
    pub targets: BTreeMap<String, Reached>,
}

/// Whose reach, and over what time, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The agent.
    pub agent: &'a str,
    /// Not before.
    pub since: Option<i64>,
    /// Before.
    pub until: Option<i64>,
}

impl Logs {
    /// What an agent could have called and did call. `today` stands in for what was not kept.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn reach(&self, kept: &Kept, whose: Whose<'_>, today: &[Stood]) -> io::Result<Reach> {
        let mut reach = Reach { policies: self.in_force(whose.since, whose.until)?, ..Reach::default() };
        let mut known: HashMap<String, Option<Vec<Stood>>> = HashMap::new();
        for policy in &mut reach.policies {
            let read = || Some(Past::read(&kept.find(Sort::Policy, &policy.version)?)?.of_agent(whose.agent));
            let stood = known.entry(policy.version.clone()).or_insert_with(read);
            policy.is_kept = stood.is_some();
            let time = (whose.since.map_or(policy.from, |since| since.max(policy.from)), earlier(policy.to, whose.until));
            for stood in stood.as_deref().unwrap_or(today) {
                reach.targets.entry(stood.target.clone()).or_default().take(stood, time);
            }
        }
        let spans = reach.policies.len();
        reach.targets.values_mut().for_each(|reached| reached.settle(spans));
        self.done(whose, &mut reach)?;
        Ok(reach)
    }

    /// The policies that were in force at some moment of a time.
    fn in_force(&self, since: Option<i64>, until: Option<i64>) -> io::Result<Vec<InForce>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let kinds = words(&[Kind::Lifecycle.as_str(), Kind::PolicyChange.as_str()]);
        let turns = Filter::default().and_any(Field::Action, words(&["start", "reload", "stop"])).and_any(Field::Kind, kinds);
        let mut turns = self.find(&Filter { until, ..turns })?.records;
        turns.sort_by(|one, other| (&one.origin, one.seq).cmp(&(&other.origin, other.seq)));
        let mut all: Vec<InForce> = Vec::new();
        turns.iter().for_each(|turn| turned(&mut all, turn));
        let told: HashSet<_> = all.iter().map(|policy| (policy.origin.clone(), policy.version.clone())).collect();
        let mut named: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        let wanted = Wanted { fields: &[Field::Policy], numbers: &[] };
        self.columns(since, until, wanted, |origin, _, columns| {
            let Some(policies) = columns.words.get(&Field::Policy) else { return };
            for (row, time) in columns.times.iter().enumerate().filter(|(_, time)| is_within(**time, since, until)) {
                let Some(version) = policies.first(row) else { continue };
                match named.get_mut(&(origin.to_owned(), version.to_owned())) {
                    Some((first, last)) => (*first, *last) = ((*first).min(*time), (*last).max(*time)),
                    None => drop(named.insert((origin.to_owned(), version.to_owned()), (*time, *time))),
                }
            }
        })?;
        let silent = named.into_iter().filter(|(key, _)| !told.contains(key));
        all.extend(silent.map(|((origin, version), (from, to))| InForce { origin, version, from, to: Some(to), is_kept: false }));
        all.retain(|policy| {
            until.is_none_or(|until| policy.from < until) && since.is_none_or(|since| policy.to.is_none_or(|to| to > since))
        });
        all.sort_by(|one, other| (one.from, &one.origin).cmp(&(other.from, &other.origin)));
        Ok(all)
    }

    /// What the agent did, and what befell the tools.
    fn done(&self, whose: Whose<'_>, reach: &mut Reach) -> io::Result<()> {
        let stats = self.stats(whose.since, whose.until, Some(whose.agent))?;
        for (target, tally) in stats.targets.sorted() {
            reach.targets.entry(target.clone()).or_default().called = tally.clone();
        }
        let wanted = Wanted { fields: &[Field::Target, Field::Label], numbers: &[] };
        self.columns(whose.since, whose.until, wanted, |_, _, columns| {
            let Some(targets) = columns.words.get(&Field::Target) else { return };
            let labels = columns.words.get(&Field::Label);
            let pairs = columns.times.iter().enumerate().filter(|(_, time)| is_within(**time, whose.since, whose.until));
            let pairs: BTreeMap<_, _> = pairs
                .map(|(row, _)| (targets.code(row), labels.map_or(&[][..], |labels| labels.values(row))))
                .filter(|(_, labels)| !labels.is_empty())
                .collect();
            for (target, labels) in pairs {
                let name = targets.words.get(target).and_then(|words| words.first());
                if let Some(reached) = name.and_then(|name| reach.targets.get_mut(name)) {
                    reached.labels = Some(labels.to_vec());
                }
            }
        })?;
        let drifts = Filter { since: whose.since, until: whose.until, ..Filter::default().and(Field::Action, Some("drift")) };
        for stored in self.find(&drifts)?.records {
            if let Some(reached) = stored.record.target.as_deref().and_then(|target| reach.targets.get_mut(target)) {
                reached.drifted = reached.drifted.or(Some(stored.unix_nanos()));
            }
        }
        Ok(())
    }
}

impl Reach {
    /// Takes what is so today for a time of which nothing is recorded.
    pub fn stands(&mut self, stood: &Stood) {
        let reached = self.targets.entry(stood.target.clone()).or_default();
        reached.take(stood, (0, None));
        reached.is_always = stood.could;
    }
}

impl Reached {
    fn take(&mut self, stood: &Stood, (from, to): (i64, Option<i64>)) {
        self.tier = Some(stood.tier.as_str().to_owned());
        if stood.could {
            self.open.push(Open { from, to, why: stood.why.clone() });
        } else {
            self.shut = Some(stood.why.clone());
        }
    }

    /// Joins times that touch or overlap.
    fn settle(&mut self, spans: usize) {
        self.is_always = !self.open.is_empty() && self.open.len() == spans;
        let mut joined: Vec<Open> = Vec::new();
        for open in self.open.drain(..) {
            match joined.last_mut().filter(|last| last.why == open.why && last.to.is_none_or(|to| open.from <= to)) {
                Some(last) => last.to = last.to.zip(open.to).map(|(one, other)| one.max(other)),
                None => joined.push(open),
            }
        }
        self.open = joined;
    }
}

/// Takes a record of a start, a stop or a reload into account; those of a log come in its order.
fn turned(all: &mut Vec<InForce>, turn: &Stored) {
    let now = turn.unix_nanos();
    let last = all.last_mut().filter(|last| last.origin == turn.origin && last.to.is_none());
    let version = turn.record.after.as_deref();
    match (turn.record.action.as_deref(), version, last) {
        (Some("stop"), _, Some(last)) => last.to = Some(now),
        (Some("stop"), _, None) | (_, None, _) => {}
        (_, Some(version), Some(last)) if last.version == version => {}
        (_, Some(version), last) => {
            if let Some(last) = last {
                last.to = Some(now);
            }
            let (origin, version) = (turn.origin.clone(), version.to_owned());
            all.push(InForce { origin, version, from: now, to: None, is_kept: false });
        }
    }
}

fn is_within(time: i64, since: Option<i64>, until: Option<i64>) -> bool {
    since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
}

fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}
