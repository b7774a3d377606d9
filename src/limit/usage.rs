//! What is counted of calls beyond their rates: loops and budgets, for one catalogue.
//!
//! Owns: which rules and budgets a call is asked about, under which keys, and that all let it on or none counts it. Leaves to `loops` and
//! `budget` what each says.

mod waiting;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::budget::{self, Budget, Charged, Exhausted, Spent, Standing, Wish};
use super::digest;
use super::file::Read;
use super::loops::{self, Call, Counts, How, Loop, LoopStanding, Repeats};
use super::timeline::Timeline;
use super::written::{Results, at};
use super::{AgentKey, Time};
use crate::catalog::Target;
use crate::catalog::tier::Tier;
use crate::clock::Moment;
use crate::config::Fault;
use crate::identity::Principal;
use crate::invocation::Invocation;
use crate::mcp::messages::Method;
use crate::policy::suggest::did_you_mean;
use crate::policy::{Rows, TargetFacts};
use crate::state::{Spending, State, StateError};

/// What stands in a key for what a call does not have.
const NONE: &str = "-";
/// The role that everybody has.
const ANY: &str = "role:any";

/// All loop rules and budgets.
#[derive(Debug)]
pub(super) struct Usage {
    loops: Vec<Loop>,
    budgets: Vec<Held>,
    /// In the order of the catalogue.
    of_target: Vec<Of>,
    timeline: Arc<Timeline>,
    max_keys: usize,
}

/// A budget, and whose it is.
#[derive(Debug)]
struct Held {
    budget: Budget,
    /// The subject as written, with its place.
    whom: Option<(Box<str>, Fault)>,
    /// The agents that it is for, once the roles are known; `None` for everybody.
    agents: Option<HashSet<Box<str>>>,
}

/// What a target's calls are asked about.
#[derive(Debug, Default)]
struct Of {
    /// A bit for each loop rule.
    loops: u64,
    budgets: Box<[u32]>,
    name: u64,
}

/// How a call comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coming<'c> {
    /// Its run, where somebody else than the agent chooses it.
    pub run: Option<&'c str>,
    /// Whether it goes on with a call that was counted already.
    pub goes_on: bool,
}

/// What is nearly too much of a call that went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warned {
    /// It repeats others.
    Repeats(Repeats),
    /// A budget is nearly used up.
    Budget(Standing),
}

impl fmt::Display for Warned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeats(Repeats { rule, when, times, .. }) => write!(out, "{rule} {} {times}", when.as_str()),
            Self::Budget(Standing { budget, figure, percent, .. }) => write!(out, "{budget} {} {percent}%", figure.as_str()),
        }
    }
}

/// Why a call may not go on now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spared {
    /// It repeats others.
    Loop(Repeats),
    /// A budget is used up.
    Budget(Exhausted),
}

/// What was counted of a call that goes on: to be told how it ended, by [`super::Limits::ended`].
#[derive(Clone, Debug)]
pub struct Charge<'d> {
    target: &'d Target,
    call: Option<(Call, u64)>,
    /// A bit for each loop rule that covers the target.
    covering: u64,
    budgets: Vec<(u32, Charged)>,
    warned: Vec<Warned>,
    goes_on: bool,
    /// Whether it waits for another call, and is counted for no loop.
    waits: bool,
}

impl Charge<'_> {
    /// What its agent is to be told.
    pub fn warned(&self) -> &[Warned] {
        &self.warned
    }
}

/// How a call has ended that left.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'r> {
    /// Its result, where there is one; else the code that it ended with. `None` where its server asks.
    pub result: Option<&'r [u8]>,
    /// Whether it failed.
    pub failed: bool,
    /// The size of its result.
    pub result_bytes: u64,
    /// How long its server took.
    pub took: Duration,
}

impl Usage {
    pub fn new(read: &mut Read, time: &Time) -> Self {
        let timeline = Arc::new(Timeline::new(time));
        let max_keys = read.file.max_keys.size();
        let loops = std::mem::take(&mut read.loops).into_iter().map(|(row, pattern, except)| {
            let identity = loops::Identity {
                id: row.id.value.as_str().into(),
                when: row.when,
                window_ms: row.window.ms(),
                any_result: row.results == Results::Any,
                max_keys,
            };
            Loop { identity, pattern, except, steps: row.steps(), tiers: row.tiers, counts: Arc::new(Counts::default()) }
        });
        let loops = loops.collect();
        let budgets = std::mem::take(&mut read.budgets).into_iter().map(|(row, pattern)| {
            let totals = row.totals();
            let mut per = row.per;
            per.sort_unstable();
            let spent = Arc::new(Spent::new(row.window, max_keys, &timeline));
            let identity = budget::Identity { id: row.id.value.as_str().into(), per, window: row.window };
            let whom = row.whom.filter(|whom| whom.value != ANY).map(|whom| {
                let message = format!("`{}` has no role of the policy's `g` rows, so nobody has this budget", whom.value);
                (Box::from(whom.value.as_str()), at(&read.path, &whom, message))
            });
            Held { budget: Budget { identity, pattern, totals, spent }, whom, agents: None }
        });
        let budgets = budgets.collect();
        Self { loops, budgets, of_target: Vec::new(), timeline, max_keys }
    }

    /// Finds what each target's calls are asked about, once.
    pub fn match_targets(&mut self, targets: &[TargetFacts<'_>], hasher: &RandomState) {
        let of = targets.iter().map(|target| Of {
            loops: self.loops_over(target.name, target.tier).fold(0, |bits, number| bits | 1 << number),
            budgets: self.budgets_over(target.name).collect(),
            name: hasher.hash_one(target.name),
        });
        self.of_target = of.collect();
    }

    fn loops_over(&self, target: &str, tier: Tier) -> impl Iterator<Item = u32> {
        (0..).zip(&self.loops).filter(move |(_, rule)| rule.covers(target, tier)).map(|(number, _)| number)
    }

    fn budgets_over(&self, target: &str) -> impl Iterator<Item = u32> {
        (0..).zip(&self.budgets).filter(move |(_, held)| held.budget.pattern.matches(target)).map(|(number, _)| number)
    }

    /// The ids of the loop rules and of the budgets that a target's calls are asked about.
    pub fn ids_for(&self, target: &str, tier: Tier) -> (Vec<&str>, Vec<&str>) {
        let loops = self.loops_over(target, tier).map(|number| &*self.loops[number as usize].identity.id);
        let budgets = self.budgets_over(target).map(|number| &*self.budgets[number as usize].budget.identity.id);
        (loops.collect(), budgets.collect())
    }

    /// Takes over what was counted where a rule has not changed.
    pub fn carry(&mut self, previous: &Self) {
        self.timeline = Arc::clone(&previous.timeline);
        for rule in &mut self.loops {
            if let Some(same) = previous.loops.iter().find(|other| other.identity == rule.identity) {
                rule.counts = Arc::clone(&same.counts);
            }
        }
        for Held { budget, .. } in &mut self.budgets {
            let same = previous.budgets.iter().find(|other| other.budget.identity == budget.identity);
            budget.spent = match same {
                Some(same) => Arc::clone(&same.budget.spent),
                None => Arc::new(Spent::new(budget.identity.window, self.max_keys, &self.timeline)),
            };
        }
    }

    /// Finds whom each budget is for.
    pub fn resolve(&mut self, rows: &Rows) {
        for held in &mut self.budgets {
            let Some((subject, _)) = &held.whom else { continue };
            let (mut members, mut agents, mut at) = (vec![subject.clone()], HashSet::new(), 0);
            while let Some(member) = members.get(at).cloned() {
                for grant in rows.grants.iter().filter(|grant| grant.role == member) {
                    if !members.contains(&grant.member) {
                        members.push(grant.member.clone());
                    }
                }
                at += 1;
            }
            agents.extend(members.into_iter().filter(|member| member.starts_with("agent:")));
            held.agents = Some(agents);
        }
    }

    /// The budgets that are for a role that nobody can have.
    pub fn for_nobody(&self, rows: &Rows) -> Vec<Fault> {
        let roles =
            || rows.grants.iter().flat_map(|grant| [&*grant.role, &*grant.member]).chain(rows.rules.iter().map(|rule| &*rule.subject));
        let unknown = self
            .budgets
            .iter()
            .filter_map(|held| held.whom.as_ref())
            .filter(|(subject, _)| subject.starts_with("role:") && !roles().any(|role| *role == **subject));
        let help =
            |subject: &str| did_you_mean(subject, roles().filter(|name| name.starts_with("role:")), "name a role of policy.csv".to_owned());
        unknown.map(|(subject, fault)| fault.clone().help(help(subject))).collect()
    }

    /// Counts a call of an agent for every rule and budget that it is asked about, or for none.
    ///
    /// # Errors
    /// The loop that it would go on with, or the budget that lets it on last.
    pub fn enter<'d>(
        &self,
        agent: AgentKey,
        invocation: &Invocation<'d>,
        coming: Coming<'_>,
        hasher: &RandomState,
    ) -> Result<Option<Charge<'d>>, Spared> {
        let target = invocation.target;
        let of = target.index.and_then(|index| self.of_target.get(index.0 as usize));
        let by_name: Box<[u32]>;
        let plain = target.policy_names().last().unwrap_or_default();
        let numbers = match of {
            Some(of) => &of.budgets,
            // Another spelling does not come with a budget of its own.
            None => {
                by_name = self.budgets_over(plain).collect();
                &by_name
            }
        };
        let covering = of.map_or(0, |of| of.loops);
        if numbers.is_empty() && self.loops.is_empty() {
            return Ok(None);
        }
        let (goes_on, waits) = (coming.goes_on, false);
        let mut charge = Charge { target, call: None, covering, budgets: Vec::new(), warned: Vec::new(), goes_on, waits };
        if let Some(of) = of.filter(|_| !coming.goes_on && invocation.method == Method::CallTool && !self.loops.is_empty()) {
            let who = coming.run.map_or(agent.0, |run| agent.0.wrapping_add(hasher.hash_one(run)));
            let call = Call { who, call: digest::call(hasher, of.name, invocation.arguments.node()), target: of.name };
            charge.call = Some((call, self.timeline.now_ms()));
            self.enter_loops(&mut charge)?;
        }
        if let Err(exhausted) = self.charge(&mut charge, numbers, (&invocation.caller.principal, coming.run), of.map(|of| of.name), hasher)
        {
            self.take_back(&charge);
            return Err(Spared::Budget(exhausted));
        }
        Ok(Some(charge))
    }

    fn enter_loops(&self, charge: &mut Charge<'_>) -> Result<(), Spared> {
        let Some((call, now)) = charge.call else { return Ok(()) };
        let mut refused: Option<Repeats> = None;
        let mut entered = 0;
        for number in bits(charge.covering) {
            match self.loops[number].enter(call, now) {
                Ok(warned) => {
                    entered |= 1_u64 << number;
                    charge.warned.extend(warned.map(Warned::Repeats));
                }
                Err(repeats) => {
                    let longer = |other: &Repeats| repeats.wait_ms.unwrap_or(u64::MAX) > other.wait_ms.unwrap_or(u64::MAX);
                    if refused.as_ref().is_none_or(longer) {
                        refused = Some(repeats);
                    }
                }
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        bits(entered).for_each(|number| self.loops[number].take_back(call, now));
        Err(Spared::Loop(refused))
    }

    fn charge(
        &self,
        charge: &mut Charge<'_>,
        numbers: &[u32],
        (principal, run): (&Principal, Option<&str>),
        target_hash: Option<u64>,
        hasher: &RandomState,
    ) -> Result<(), Exhausted> {
        let mut worst: Option<Exhausted> = None;
        let mut told = Vec::new();
        for number in numbers {
            let held = &self.budgets[*number as usize];
            if held.agents.as_ref().is_some_and(|agents| !agents.contains(&*principal.id)) {
                continue;
            }
            let budget = &held.budget;
            let pattern: String;
            let name = match target_hash {
                Some(_) => &*charge.target.policy_name,
                // What the catalogue does not list counts as one.
                None => {
                    pattern = budget.pattern.to_string();
                    &pattern
                }
            };
            let token = principal.token.as_ref();
            let parts = budget.identity.per.iter().map(|per| match per {
                budget::Per::Agent => &*principal.id,
                budget::Per::Target => name,
                budget::Per::Tenant => token.map_or(NONE, |token| token.issuer()),
                budget::Per::User => token.and_then(|token| token.on_behalf_of.as_deref()).unwrap_or(NONE),
                budget::Per::Run => run.unwrap_or(NONE),
            });
            if charge.goes_on {
                charge.budgets.push((*number, budget.known(hasher, parts)));
                continue;
            }
            let plain = charge.target.policy_names().last().unwrap_or_default();
            let wish = Wish { cost: charge.target.cost, target: (target_hash.unwrap_or_else(|| hasher.hash_one(plain)), plain) };
            match budget.charge(hasher, parts, wish, &mut told) {
                Ok(charged) => charge.budgets.push((*number, charged)),
                Err(exhausted) => {
                    let longer =
                        |other: &Exhausted| exhausted.retry_after_ms.unwrap_or(u64::MAX) > other.retry_after_ms.unwrap_or(u64::MAX);
                    if worst.as_ref().is_none_or(longer) {
                        worst = Some(exhausted);
                    }
                }
            }
        }
        charge.warned.extend(told.into_iter().map(Warned::Budget));
        worst.map_or(Ok(()), Err)
    }

    /// Takes back a call that never left.
    pub fn take_back(&self, charge: &Charge<'_>) {
        if let Some((call, entered)) = charge.call.filter(|_| !charge.waits) {
            bits(charge.covering).for_each(|number| self.loops[number].take_back(call, entered));
        }
        if !charge.goes_on {
            for (number, charged) in &charge.budgets {
                self.budgets[*number as usize].budget.take_back(*charged, charge.target.cost);
            }
        }
    }

    /// Takes in how a call ended that left.
    pub fn ended(&self, charge: &Charge<'_>, ended: Ended<'_>, hasher: &RandomState) {
        if let Some((call, _)) = charge.call {
            let result = ended.result.map(|result| hasher.hash_one((result, ended.failed)));
            let (how, now) = (How { result, failed: ended.failed }, self.timeline.now_ms());
            for (number, rule) in self.loops.iter().enumerate() {
                rule.ended(call, how, charge.covering & 1 << number != 0, now);
            }
        }
        let took_us = u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX);
        for (number, charged) in &charge.budgets {
            self.budgets[*number as usize].budget.ended(charged.key, ended.result_bytes, took_us);
        }
    }

    /// Forgets what counts no more.
    pub fn sweep(&self) {
        let now = self.timeline.now_ms();
        self.loops.iter().for_each(|rule| rule.sweep(now));
        self.budgets.iter().for_each(|held| held.budget.sweep(now));
    }

    /// What each loop rule has done.
    pub fn loops(&self) -> Vec<LoopStanding> {
        self.loops.iter().map(Loop::standing).collect()
    }

    /// Each budget's keys with their fullest figure, the fullest first.
    pub fn budgets(&self) -> Vec<(String, Standing)> {
        let mut all: Vec<_> = self.budgets.iter().flat_map(|held| held.budget.purses()).collect();
        all.sort_by_key(|(_, standing)| std::cmp::Reverse(standing.percent));
        all
    }

    /// Each loop rule and budget with the calls that it warned of and those that it refused, since the start.
    pub fn counts(&self) -> Vec<(String, u64, u64)> {
        let loops = self.loops.iter().map(Loop::standing).map(|rule| (rule.rule, rule.warned, rule.slowed + rule.blocked));
        let budgets = self.budgets.iter().map(|held| (held.budget.identity.id.to_string(), held.budget.counts()));
        loops.chain(budgets.map(|(id, (warned, refused))| (id, warned, refused))).collect()
    }

    /// Takes over what the database has of budgets that have nothing yet.
    ///
    /// # Errors
    /// The database's.
    pub fn restore(&self, state: &State, now: &Moment, hasher: &RandomState) -> Result<(), StateError> {
        let new = || self.budgets.iter().filter(|held| !held.budget.spent.is_restored.load(Ordering::Relaxed));
        if new().next().is_none() {
            return Ok(());
        }
        let ((sums, targets), at) = state.spent()?;
        if let Some(at) = at {
            self.timeline.go_on(&at, now);
        }
        for Held { budget, .. } in new() {
            let name = budget.identity.kept_as();
            let sums: Vec<_> = sums.iter().filter(|row| row.budget == name).cloned().collect();
            let targets: Vec<_> = targets.iter().filter(|row| row.budget == name).cloned().collect();
            budget.spent.restore(hasher, &sums, &targets);
        }
        let is_known = |name: &String| self.budgets.iter().any(|held| held.budget.identity.kept_as() == *name);
        let mut gone: Vec<String> = sums.into_iter().map(|row| row.budget).filter(|name| !is_known(name)).collect();
        gone.sort_unstable();
        gone.dedup();
        if gone.is_empty() { Ok(()) } else { state.forget_spent(&gone) }
    }

    /// Whether the database lacks something.
    pub fn has_unkept(&self) -> bool {
        self.budgets.iter().any(|held| held.budget.spent.is_dirty())
    }

    /// Stores what the database does not have yet. Blocks: not for a runtime's worker. One at a time.
    ///
    /// # Errors
    /// The database's: it is tried again the next time.
    pub fn store(&self, state: &State, now: &Moment, hasher: &RandomState) -> Result<(), StateError> {
        let _turn = self.timeline.turn();
        let mut spending = Spending { at: self.timeline.kept(now), ..Spending::default() };
        let mut sent = Vec::new();
        for Held { budget, .. } in &self.budgets {
            let name = budget.identity.kept_as();
            let (sums, targets) = budget.spent.unkept(&name);
            if !sums.is_empty() || !targets.is_empty() {
                spending.sums.extend(sums.iter().cloned());
                spending.targets.extend(targets.iter().cloned());
                spending.oldest.push((name.clone(), budget.spent.oldest_now()));
                sent.push((budget, name, sums, targets));
            }
        }
        if sent.is_empty() {
            return Ok(());
        }
        let stored = state.spend(&spending).inspect_err(|_| sent.iter().for_each(|(budget, ..)| budget.spent.not_kept()));
        let (sums, targets) = stored?;
        for (budget, name, own, called) in &sent {
            let of: Vec<_> = sums.iter().filter(|row| row.budget == *name).cloned().collect();
            let others: Vec<_> = targets.iter().filter(|row| row.budget == *name).cloned().collect();
            budget.spent.kept(hasher, (own, called), &of);
            budget.spent.restore(hasher, &[], &others);
        }
        Ok(())
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let number = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(number)
    })
}
