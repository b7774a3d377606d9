//! Sums over the logs: who calls what, how it ends, how long it takes.
//!
//! Owns: what is counted as what. Leaves to others: reading (`find`), and how sums look (`cli::audit`).

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::find::Logs;
use super::index::Wanted;
use super::index::column::{Columns, Number, Words};
use super::record::Kind;
use super::row::Field;

/// Times, counted in classes that are at most 6 % wide.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    fn add(&mut self, micros: u32) {
        let class = class(micros);
        if self.0.len() <= class {
            self.0.resize(class + 1, 0);
        }
        if let Some(count) = self.0.get_mut(class) {
            *count += 1;
        }
    }

    /// The time in microseconds that this share of the calls did not exceed, to about 6 %; `None` when none was timed.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all: u64 = self.0.iter().sum();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(upper)
    }
}

/// 16 classes for each power of two; below 16 each microsecond is its own.
fn class(micros: u32) -> usize {
    let power = 31 - micros.max(1).leading_zeros();
    if power < 4 { micros as usize } else { ((power - 3) * 16 + (micros >> (power - 4) & 15)) as usize }
}

fn upper(class: usize) -> u64 {
    let (power, part) = (class / 16, class as u64 % 16);
    if power == 0 { class as u64 } else { ((16 + part + 1) << (power - 1)) - 1 }
}

/// What became of calls.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that were forwarded.
    pub calls: u64,
    /// Of these, how many ended well.
    pub ok: u64,
    /// How many ended with the tool's own error.
    pub tool_errors: u64,
    /// How many failed, timed out, or were cancelled.
    pub failed: u64,
    /// How many a crash cut off.
    pub unresolved: u64,
    /// Calls and messages that were refused, those of floods counted each.
    pub refused: u64,
    /// How long ended calls took.
    pub latencies: Latencies,
}

impl Tally {
    /// Of the calls that ended, the share that did not end well, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        let wrong = self.tool_errors + self.failed + self.unresolved;
        wrong as f64 / (self.ok + wrong).max(1) as f64
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::Call => self.calls += 1,
            Event::Refused(count) => self.refused += count,
            Event::End(end, micros) => {
                *match end {
                    End::Ok => &mut self.ok,
                    End::ToolError => &mut self.tool_errors,
                    End::Failed => &mut self.failed,
                    End::Unresolved => &mut self.unresolved,
                } += 1;
                if micros > 0 {
                    self.latencies.add(micros);
                }
            }
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Ok,
    ToolError,
    Failed,
    Unresolved,
}

/// What a record adds to the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Call,
    End(End, u32),
    Refused(u64),
}

/// Tells what the records of a chunk add.
pub(super) struct Events<'c> {
    kind: Option<&'c Words>,
    outcome: Option<&'c Words>,
    kinds: Vec<Option<Kind>>,
    ends: Vec<Option<End>>,
    durations: &'c [u32],
    counts: &'c [u32],
}

impl<'c> Events<'c> {
    /// Of columns with the fields `Kind` and `Outcome`, and, where they matter, the numbers `Duration` and `Count`.
    pub fn of(columns: &'c Columns) -> Self {
        let (kind, outcome) = (columns.words.get(&Field::Kind), columns.words.get(&Field::Outcome));
        let words = |column: Option<&'c Words>| column.map_or(&[][..], |column| &column.words[..]);
        let kinds = words(kind).iter().map(|word| word.first().and_then(|word| Kind::from_word(word))).collect();
        let end = |word: &str| match word {
            "ok" => Some(End::Ok),
            "tool_error" => Some(End::ToolError),
            "unresolved" => Some(End::Unresolved),
            // The call goes on with answers.
            "input_required" => None,
            _ => Some(End::Failed),
        };
        let ends = words(outcome).iter().map(|word| word.first().and_then(|word| end(word))).collect();
        let numbers = |number| columns.numbers.get(&number).map_or(&[][..], Vec::as_slice);
        Self { kind, outcome, kinds, ends, durations: numbers(Number::Duration), counts: numbers(Number::Count) }
    }

    pub fn at(&self, row: usize) -> Option<Event> {
        let number = |numbers: &[u32]| numbers.get(row).copied().unwrap_or_default();
        match self.kinds.get(self.kind?.code(row)).copied().flatten()? {
            Kind::Intent => Some(Event::Call),
            Kind::Refusal => Some(Event::Refused(1)),
            Kind::Coalesced => Some(Event::Refused(u64::from(number(self.counts)))),
            Kind::Outcome => {
                let end = self.ends.get(self.outcome?.code(row)).copied().flatten()?;
                Some(Event::End(end, number(self.durations)))
            }
            _ => None,
        }
    }
}

/// Tallies by name. Names that agents make up are many: beyond a bound they share one.
#[derive(Clone, Debug, Default)]
pub struct Named {
    names: HashMap<String, usize>,
    tallies: Vec<(String, Tally)>,
}

impl Named {
    fn slot(&mut self, name: &str) -> usize {
        if let Some(slot) = self.names.get(name) {
            return *slot;
        }
        let name = if self.tallies.len() >= MAX_NAMES { OTHERS } else { name };
        *self.names.entry(name.to_owned()).or_insert_with(|| {
            self.tallies.push((name.to_owned(), Tally::default()));
            self.tallies.len() - 1
        })
    }

    fn slots(&mut self, columns: &Columns, field: Field) -> Vec<Option<usize>> {
        let words = columns.words.get(&field).map_or(&[][..], |column| &column.words[..]);
        words.iter().map(|word| word.first().map(|word| self.slot(word))).collect()
    }

    /// The busiest first, by calls and refusals.
    pub fn sorted(&self) -> Vec<&(String, Tally)> {
        let mut all: Vec<_> = self.tallies.iter().collect();
        all.sort_by_key(|(name, tally)| (std::cmp::Reverse(tally.calls + tally.refused), name.clone()));
        all
    }
}

/// Sums over a time.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// How many records there are.
    pub records: u64,
    /// The time of the earliest and of the latest, in nanoseconds since 1970.
    pub span: Option<(i64, i64)>,
    /// All calls.
    pub total: Tally,
    /// By agent.
    pub agents: Named,
    /// By tool, prompt or resource.
    pub targets: Named,
    /// By upstream.
    pub upstreams: Named,
    /// Refusals by code.
    pub refusals: BTreeMap<String, u64>,
    /// Records by the policy that was in force, where they say so.
    pub policies: BTreeMap<String, u64>,
    /// Forwarded calls and refusals by hour: hours since 1970.
    pub hours: BTreeMap<i64, (u64, u64)>,
}

impl Logs {
    /// Sums over the records of a time, of all agents or of one.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn stats(&self, since: Option<i64>, until: Option<i64>, agent: Option<&str>) -> io::Result<Stats> {
        let mut stats = Stats::default();
        let fields = [Field::Kind, Field::Outcome, Field::Agent, Field::Target, Field::Upstream, Field::Code, Field::Policy];
        let wanted = Wanted { fields: &fields, numbers: &[Number::Duration, Number::Count] };
        self.columns(since, until, wanted, |_, _, columns| stats.take(columns, since, until, agent))?;
        Ok(stats)
    }
}

impl Stats {
    fn take(&mut self, columns: &Columns, since: Option<i64>, until: Option<i64>, agent: Option<&str>) {
        let events = Events::of(columns);
        let by = [(Field::Agent, &mut self.agents), (Field::Target, &mut self.targets), (Field::Upstream, &mut self.upstreams)];
        let slots = by.map(|(field, named)| named.slots(columns, field));
        let code = |field: Field, row: usize| columns.words.get(&field).map(|column| column.code(row));
        for (row, time) in columns.times.iter().enumerate() {
            if since.is_some_and(|since| *time < since) || until.is_some_and(|until| *time >= until) {
                continue;
            }
            if agent.is_some() && columns.words.get(&Field::Agent).and_then(|column| column.first(row)) != agent {
                continue;
            }
            self.records += 1;
            self.span = Some(self.span.map_or((*time, *time), |(first, last)| (first.min(*time), last.max(*time))));
            if let Some(policy) = columns.words.get(&Field::Policy).and_then(|column| column.first(row)) {
                count(&mut self.policies, policy, 1);
            }
            let Some(event) = events.at(row) else { continue };
            self.total.add(event);
            let named = [(Field::Agent, &mut self.agents), (Field::Target, &mut self.targets), (Field::Upstream, &mut self.upstreams)];
            for ((field, named), slots) in named.into_iter().zip(&slots) {
                let slot = code(field, row).and_then(|code| slots.get(code).copied().flatten());
                if let Some((_, tally)) = slot.and_then(|slot| named.tallies.get_mut(slot)) {
                    tally.add(event);
                }
            }
            let hour = self.hours.entry(time.div_euclid(HOUR)).or_default();
            match event {
                Event::Call => hour.0 += 1,
                Event::Refused(refused) => {
                    hour.1 += refused;
                    let code = columns.words.get(&Field::Code).and_then(|column| column.first(row)).unwrap_or("-");
                    count(&mut self.refusals, code, refused);
                }
                Event::End(..) => {}
            }
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str, more: u64) {
    match counts.get_mut(name) {
        Some(count) => *count += more,
        None => drop(counts.insert(name.to_owned(), more)),
    }
}

/// Nanoseconds of an hour.
pub const HOUR: i64 = 3_600_000_000_000;
const MAX_NAMES: usize = 10_000;
const OTHERS: &str = "(others)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_a_sixteenth() {
        for micros in [0, 1, 15, 16, 17, 1_000, 65_535, 1_000_000, u32::MAX] {
            let mut latencies = Latencies::default();
            latencies.add(micros);
            let told = latencies.quantile(0.5).unwrap();
            assert!(told >= u64::from(micros) && told <= u64::from(micros) + u64::from(micros) / 16, "{micros}: {told}");
        }
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|micros| latencies.add(micros));
        let near = |share, wanted: u64| latencies.quantile(share).unwrap().abs_diff(wanted) <= wanted / 16 + 1;
        assert!(near(0.5, 500) && near(0.9, 900) && near(0.99, 990));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }

    #[test]
    fn the_busiest_come_first_by_calls_and_refusals_together() {
        let mut named = Named::default();
        for (name, calls, refused) in [("both", 1, 1), ("calls", 3, 0), ("refusals", 0, 5), ("a tie", 2, 0)] {
            let slot = named.slot(name);
            (0..calls).for_each(|_| named.tallies[slot].1.add(Event::Call));
            named.tallies[slot].1.add(Event::Refused(refused));
        }
        let order: Vec<&str> = named.sorted().into_iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(order, ["refusals", "calls", "a tie", "both"]);
    }

    #[test]
    fn every_record_is_in_the_sums_of_its_time_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        super::super::index::tests::write(dir.path(), "main", 7, 2, 60);
        let logs = Logs::in_dir(dir.path()).unwrap();
        let sums = |since, until| logs.stats(since, until, None).unwrap();
        let all = sums(None, None);
        let (first, last) = all.span.unwrap();
        let middle = Some(first + (last - first) / 2);
        let (before, after) = (sums(None, middle).records, sums(middle, None).records);
        assert!(before > 0 && after > 0);
        assert_eq!((all.records, before + after, sums(None, Some(first)).records), (120, 120, 0));
    }
}
