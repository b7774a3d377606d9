//! The decision table: rows and targets compiled so that a decision does not look at rows.
//!
//! Each subject that has rules has a line of cells, one for each target; a decision is two array look-ups for each subject
//! of the principal's closure, however many rows, targets and principals there are. A line for each *principal* would save
//! a few nanoseconds and multiply rows by principals: 10 million cells that all differ, where this has thousands.
//! Lines are cut into chunks of 64 targets and equal chunks are stored once, so what a subject does not reach costs nothing.
//!
//! A row with a condition is kept beside the cell's decision, and only such rows are looked at while a call is decided.
//!
//! Owns: classes of principals, cells, compilation. Leaves to others: names that the catalogue does not list (`index`).
//! INVARIANT: an index of another table, or none at all, finds the default deny.

use std::borrow::Cow;
use std::collections::HashMap;

use super::condition::ConditionId;
use super::obligation::Obliged;
use super::outcome::{Decision, gather};
use super::roles::{Roles, SubjectId};
use super::rule::{Rule, RuleEffect, RuleId};
use crate::catalog::TargetIndex;
use crate::catalog::tier::Tier;

const CHUNK: usize = 64;
type Cells = [u32; CHUNK];

/// Bounds of one table: a gigabyte of cells, and as much of rule lists. Past them the load is refused.
const MAX_CHUNKS: usize = 4 << 20;
const MAX_RULES_HELD: usize = 64 << 20;

/// What the policy has to know of a target.
#[derive(Clone, Copy, Debug)]
pub struct TargetFacts<'a> {
    /// The public name: `UPSTREAM__TOOL`, `prompt:UPSTREAM__NAME` or a resource's.
    pub name: &'a str,
    /// What it may leave behind.
    pub tier: Tier,
}

/// Principals with the same rules; only the policy that gave it out understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassId(pub(super) u32);

/// Why no table was made.
#[derive(Debug)]
pub(super) struct TooLarge;

/// What the rules of one subject say at one target.
#[derive(Debug)]
struct Outcome {
    /// The deciding rules, rising: denies when there are any, else allows.
    rules: Box<[RuleId]>,
    denies: bool,
    /// Some allow names the target, whatever its tier.
    seen: bool,
    /// What the matching `o` rows ask for, rising; left out where there are denies.
    obligations: Box<[Obliged]>,
    /// Rows that count under a condition; only denies where there are unconditional ones.
    conditional: Box<[Conditional]>,
}

/// A row that counts under a condition.
#[derive(Debug)]
struct Conditional {
    rule: RuleId,
    effect: RuleEffect,
    condition: ConditionId,
}

/// Whether a row with this effect and condition counts.
pub(super) type Counts<'c> = &'c mut dyn FnMut(&RuleEffect, ConditionId) -> bool;

/// The subjects of a class, and which of them have a line.
#[derive(Debug)]
struct Class {
    subjects: Box<[SubjectId]>,
    lines: Box<[u32]>,
}

/// What is found for a decision so far: allows, denies, obligations.
type Found<'f, 'a> = (&'f mut Cow<'a, [RuleId]>, &'f mut Cow<'a, [RuleId]>, &'f mut Cow<'a, [Obliged]>);

#[derive(Debug)]
pub(super) struct Table {
    /// Chunk numbers, `width` a line.
    chunk_of: Vec<u32>,
    width: usize,
    chunks: Vec<Cells>,
    /// Cell 0 is no outcome: nothing is said.
    outcomes: Vec<Outcome>,
    classes: Vec<Class>,
    of_principal: HashMap<Box<str>, ClassId>,
}

impl Table {
    pub fn compile(rules: &[Rule], roles: &Roles, targets: &[TargetFacts<'_>]) -> Result<Self, TooLarge> {
        let mut of_subject: Vec<Vec<u32>> = vec![Vec::new(); roles.all().count()];
        for (number, rule) in (0..).zip(rules) {
            if let Some(subject) = roles.id(&rule.subject) {
                of_subject[subject as usize].push(number);
            }
        }
        let mut compiler = Compiler::new(rules, targets);
        let mut line_of = vec![None; of_subject.len()];
        for (line, own) in line_of.iter_mut().zip(&of_subject).filter(|(_, own)| !own.is_empty()) {
            *line = Some(compiler.line(own)?);
        }
        let mut table = compiler.table;
        // Class 0: everyone whom no row names.
        let mut known = HashMap::new();
        table.class(&mut known, vec![0], &line_of);
        for (subject, name) in roles.all().filter(|(_, name)| name.starts_with("agent:")) {
            let mut subjects = roles.closure(subject);
            // Who has no rules of its own differs in nothing from others with its roles.
            subjects.retain(|id| *id == 0 || line_of[*id as usize].is_some());
            let class = table.class(&mut known, subjects, &line_of);
            table.of_principal.insert(name.into(), class);
        }
        Ok(table)
    }

    fn class(&mut self, known: &mut HashMap<Vec<SubjectId>, ClassId>, subjects: Vec<SubjectId>, line_of: &[Option<u32>]) -> ClassId {
        if let Some(class) = known.get(&subjects) {
            return *class;
        }
        let class = ClassId(self.classes.len() as u32);
        let lines = subjects.iter().filter_map(|id| line_of[*id as usize]).collect();
        self.classes.push(Class { subjects: subjects.as_slice().into(), lines });
        known.insert(subjects, class);
        class
    }

    pub fn class_of(&self, principal: &str) -> ClassId {
        self.of_principal.get(principal).copied().unwrap_or(ClassId(0))
    }

    /// The subjects of a class that have rules, and `role:any`; sorted.
    pub fn subjects(&self, class: ClassId) -> &[SubjectId] {
        self.classes.get(class.0 as usize).map_or(&[0], |class| &class.subjects)
    }

    pub fn class_count(&self) -> usize {
        self.classes.len()
    }

    pub fn principals(&self) -> impl Iterator<Item = (&str, ClassId)> {
        self.of_principal.iter().map(|(name, class)| (&**name, *class))
    }

    pub fn decide(&self, class: ClassId, target: TargetIndex, counts: Counts<'_>) -> Decision<'_> {
        let (mut allows, mut denies) = (Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..]));
        let (mut obligations, mut depends) = (Cow::Borrowed(&[][..]), false);
        for outcome in self.outcomes(class, target) {
            depends |= !outcome.conditional.is_empty();
            gather(&mut obligations, &outcome.obligations);
            match (outcome.denies, outcome.rules.is_empty()) {
                (_, true) => {}
                (true, false) => gather(&mut denies, &outcome.rules),
                (false, false) => gather(&mut allows, &outcome.rules),
            }
        }
        if depends {
            self.add_conditional(class, target, counts, (&mut allows, &mut denies, &mut obligations));
        }
        Decision::of(allows, denies, obligations)
    }

    /// Adds the rows whose conditions hold: denies first, and the others only as far as they can still matter.
    fn add_conditional(&self, class: ClassId, target: TargetIndex, counts: Counts<'_>, (allows, denies, obligations): Found<'_, '_>) {
        let rows = || self.outcomes(class, target).flat_map(|outcome| &outcome.conditional);
        for row in rows().filter(|row| row.effect == RuleEffect::Deny) {
            if counts(&row.effect, row.condition) {
                denies.to_mut().push(row.rule.clone());
            }
        }
        if !denies.is_empty() {
            return denies.to_mut().sort_unstable();
        }
        for row in rows().filter(|row| row.effect == RuleEffect::Allow) {
            if counts(&row.effect, row.condition) {
                allows.to_mut().push(row.rule.clone());
            }
        }
        if allows.is_empty() {
            return;
        }
        allows.to_mut().sort_unstable();
        for (row, obligation) in rows().filter_map(|row| Some((row, row.effect.obligation()?))) {
            if counts(&row.effect, row.condition) {
                obligations.to_mut().push(Obliged { rule: row.rule.clone(), obligation: obligation.clone() });
            }
        }
        obligations.to_mut().sort_unstable();
    }

    pub fn sees(&self, class: ClassId, target: TargetIndex) -> bool {
        self.outcomes(class, target).any(|outcome| outcome.seen)
    }

    #[inline]
    fn outcomes(&self, class: ClassId, target: TargetIndex) -> impl Iterator<Item = &Outcome> {
        let (block, place) = (target.0 as usize / CHUNK, target.0 as usize % CHUNK);
        let lines = self.classes.get(class.0 as usize).filter(|_| block < self.width).map_or(&[][..], |class| &class.lines);
        lines.iter().filter_map(move |line| {
            let chunk = *self.chunk_of.get(*line as usize * self.width + block)?;
            let cell = self.chunks.get(chunk as usize)?[place];
            self.outcomes.get((cell as usize).checked_sub(1)?)
        })
    }

    /// Bytes that the cells take, for the operator's figures.
    pub fn cell_bytes(&self) -> usize {
        self.chunk_of.len() * size_of::<u32>() + self.chunks.len() * size_of::<Cells>()
    }
}

/// A table under construction.
struct Compiler<'a> {
    rules: &'a [Rule],
    /// Target positions in the order of their names: what a pattern covers is then one range.
    sorted: Vec<u32>,
    tiers: Vec<Tier>,
    /// The range of `sorted` that each rule's pattern covers.
    ranges: Vec<(u32, u32)>,
    table: Table,
    chunk_numbers: HashMap<Cells, u32>,
    /// Rule ids held by the outcomes in all.
    held: usize,
    /// The cells of the line at hand, and which of its chunks are not empty any more.
    cells: Vec<Cells>,
    touched: Vec<bool>,
}

impl<'a> Compiler<'a> {
    fn new(rules: &'a [Rule], targets: &[TargetFacts<'_>]) -> Self {
        let sorted = by_name(targets);
        let name = |position: &u32| targets[*position as usize].name.as_bytes();
        let range = |rule: &Rule| {
            let stem = rule.pattern.stem().as_bytes();
            let low = sorted.partition_point(|position| name(position) < stem);
            let covered =
                |position: &u32| if rule.pattern.is_wildcard() { name(position).starts_with(stem) } else { name(position) == stem };
            let high = low + sorted[low..].partition_point(covered);
            (low as u32, high as u32)
        };
        let width = targets.len().div_ceil(CHUNK);
        let (chunk_of, chunks) = (Vec::new(), vec![[0; CHUNK]]);
        Self {
            ranges: rules.iter().map(range).collect(),
            rules,
            tiers: targets.iter().map(|target| target.tier).collect(),
            sorted,
            table: Table { chunk_of, width, chunks, outcomes: Vec::new(), classes: Vec::new(), of_principal: HashMap::new() },
            chunk_numbers: HashMap::from([([0; CHUNK], 0)]),
            held: 0,
            cells: vec![[0; CHUNK]; width],
            touched: vec![false; width],
        }
    }

    /// Adds the line of a subject with these rules (row numbers, rising).
    fn line(&mut self, own: &[u32]) -> Result<u32, TooLarge> {
        self.sweep(own)?;
        let line = self.table.chunk_of.len().checked_div(self.table.width).unwrap_or(0);
        for (cells, touched) in self.cells.iter_mut().zip(&mut self.touched) {
            if !std::mem::take(touched) {
                self.table.chunk_of.push(0);
                continue;
            }
            let next = self.table.chunks.len() as u32;
            let number = *self.chunk_numbers.entry(*cells).or_insert(next);
            if number == next {
                self.table.chunks.push(*cells);
            }
            self.table.chunk_of.push(number);
            *cells = [0; CHUNK];
        }
        if self.table.chunks.len() > MAX_CHUNKS || self.table.chunk_of.len() > MAX_CHUNKS * 16 {
            return Err(TooLarge);
        }
        Ok(line as u32)
    }

    /// Goes over the ranges of the rules in name order; between two of their ends the same rules apply.
    fn sweep(&mut self, own: &[u32]) -> Result<(), TooLarge> {
        let mut starts: Vec<(u32, u32)> = own.iter().map(|rule| (self.ranges[*rule as usize].0, *rule)).collect();
        starts.retain(|(low, rule)| *low < self.ranges[*rule as usize].1);
        starts.sort_unstable();
        let mut ends: Vec<u32> = starts.iter().flat_map(|(low, rule)| [*low, self.ranges[*rule as usize].1]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut starts = starts.into_iter().peekable();
        let mut active: Vec<u32> = Vec::new();
        for pair in ends.windows(2) {
            active.retain(|rule| self.ranges[*rule as usize].1 > pair[0]);
            while let Some((_, rule)) = starts.next_if(|(low, _)| *low == pair[0]) {
                let at = active.partition_point(|other| *other < rule);
                active.insert(at, rule);
            }
            if !active.is_empty() {
                self.segment(&active, pair[0] as usize..pair[1] as usize);
            }
            if self.held > MAX_RULES_HELD {
                return Err(TooLarge);
            }
        }
        Ok(())
    }

    /// Fills the cells of a range of the name order, to whose targets the same rules apply, whatever their tiers.
    fn segment(&mut self, active: &[u32], range: std::ops::Range<usize>) {
        let mut cell_of_tier: [Option<u32>; Tier::ALL.len()] = [None; Tier::ALL.len()];
        for position in range {
            let target = self.sorted[position] as usize;
            let tier = self.tiers[target];
            let cell = match cell_of_tier[tier as usize] {
                Some(cell) => cell,
                None => *cell_of_tier[tier as usize].insert(self.outcome(active, tier)),
            };
            self.cells[target / CHUNK][target % CHUNK] = cell;
            self.touched[target / CHUNK] = true;
        }
    }

    /// The cell of what these rules, all about the same target, say at its tier.
    fn outcome(&mut self, active: &[u32], tier: Tier) -> u32 {
        let every = || active.iter().map(|number| &self.rules[*number as usize]);
        let rules = || every().filter(|rule| rule.when.is_none());
        let deciding = |effect| rules().filter(move |rule| rule.effect == effect && rule.bound.covers(tier)).map(|rule| rule.id.clone());
        let conditional = |rule: &Rule| {
            let condition = rule.when.as_ref().filter(|_| rule.bound.covers(tier))?.id;
            Some(Conditional { rule: rule.id.clone(), effect: rule.effect.clone(), condition })
        };
        let oblige = |rule: &Rule| {
            let obligation = rule.effect.obligation().filter(|_| rule.bound.covers(tier))?.clone();
            Some(Obliged { rule: rule.id.clone(), obligation })
        };
        let seen = every().any(|rule| rule.effect == RuleEffect::Allow);
        let mut decided: Box<[RuleId]> = deciding(RuleEffect::Deny).collect();
        let denies = !decided.is_empty();
        if !denies {
            decided = deciding(RuleEffect::Allow).collect();
        }
        let obligations: Box<[Obliged]> = if denies { Box::default() } else { rules().filter_map(oblige).collect() };
        let still = |row: &Conditional| !denies || row.effect == RuleEffect::Deny;
        let conditional: Box<[Conditional]> = every().filter_map(conditional).filter(still).collect();
        if decided.is_empty() && !seen && obligations.is_empty() && conditional.is_empty() {
            return 0;
        }
        self.held += decided.len() + obligations.len() + conditional.len();
        self.table.outcomes.push(Outcome { rules: decided, denies, seen, obligations, conditional });
        self.table.outcomes.len() as u32
    }
}

/// The positions of the targets in the order of their names.
pub(super) fn by_name(targets: &[TargetFacts<'_>]) -> Vec<u32> {
    let mut sorted: Vec<u32> = (0..targets.len() as u32).collect();
    sorted.sort_unstable_by_key(|position| targets[*position as usize].name);
    sorted
}
