//! How often and how much: the limits, loop rules and budgets of `policies/limits.yaml`, asked before a call goes on.
//!
//! Owns: the file, the buckets, what is counted of loops and budgets, the exact time after which a refused call can succeed. Leaves to others: who may call at
//! all (`policy`), what is done in the places that `slots` counts (`upstream`, `listen`), what the refusal looks like (`gateway`).
//! INVARIANT: every matching limit admits a call or none is charged for it.
//! INVARIANT: memory is bounded: buckets by `max_keys` a limit, a loop rule and a budget, and a name that is not in the catalogue makes no bucket.

mod admit;
mod bucket;
mod budget;
pub mod bulkhead;
mod digest;
mod file;
pub mod flood;
mod loops;
pub mod slots;
mod span;
mod timeline;
mod usage;
mod written;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use admit::{Admission, Refusal, admit, count_failure, screen};
pub use bucket::Time;
pub use budget::{Exhausted, Figure, Standing};
pub use file::{Floods, schema};
pub use loops::{LoopStanding, Repeats, When};
pub use usage::{Charge, Coming, Ended, Spared, Warned};

use crate::catalog::tier::Tier;
use crate::clock::Moment;
use crate::config::{Fault, Rate, read_text};
use crate::identity::network;
use crate::policy::{Names, Obligation, Obliged, Pattern, Rows, RuleId, TargetFacts, TargetIndex};
use crate::state::{State, StateError};
use bucket::{Buckets, Empty, SWEEP_EVERY};
use file::{File, Per};
use usage::Usage;

/// The file that is in force where a folder has none.
pub const SHIPPED: &str = include_str!("../../policies/limits.yaml");

/// An agent as limits count it: ask [`Limits::agent`] once, when its name is known. Holds across reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentKey(u64);

/// A limit that did not admit a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRefusal {
    /// The limit's id; `requests.per_agent` and `requests.failures_per_peer` for those.
    pub limit_id: Arc<str>,
    /// After this time, in milliseconds, every limit admits the call if nobody else comes first.
    pub retry_after_ms: u64,
}

impl fmt::Display for LimitRefusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "limit `{}` is reached; free again in {} ms", self.limit_id, self.retry_after_ms)
    }
}

/// What makes two limits of two files the same, so that the buckets carry over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    id: Arc<str>,
    per: Vec<Per>,
    interval: Duration,
    burst: NonZeroU32,
    max_keys: usize,
    /// Whether a row of the policy asks for it, so that no limit of the file is taken for it.
    of_row: bool,
}

#[derive(Clone, Debug)]
struct Limit {
    identity: Identity,
    pattern: Pattern,
    /// What stands for the target in a key when the catalogue does not list it.
    unlisted: u64,
    buckets: Arc<Buckets>,
}

impl Limit {
    fn new(identity: Identity, pattern: Pattern, hasher: &RandomState, time: &Time) -> Self {
        let buckets = Buckets::new(identity.interval, identity.burst, identity.max_keys, time);
        Self { unlisted: hasher.hash_one(pattern.to_string()), identity, pattern, buckets: Arc::new(buckets) }
    }

    /// The bucket of a call: what the limit counts apart, and nothing else.
    fn key(&self, agent: AgentKey, target: Option<u64>) -> u64 {
        let target = target.unwrap_or(self.unlisted);
        let part = |per| self.identity.per.contains(&per);
        // Both are outputs of a keyed hash, so nobody can choose names whose sums meet.
        u64::from(part(Per::Agent)).wrapping_mul(agent.0).wrapping_add(u64::from(part(Per::Target)).wrapping_mul(target.rotate_left(32)))
    }

    fn refusal(&self, empty: Empty) -> LimitRefusal {
        let wait = match empty {
            Empty::Until(wait) => wait,
            Empty::NoRoom => SWEEP_EVERY,
        };
        let retry_after_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        LimitRefusal { limit_id: Arc::clone(&self.identity.id), retry_after_ms }
    }
}

/// All limits, for one catalogue.
#[derive(Debug)]
pub struct Limits {
    /// In the order in which they are asked: the narrowest first.
    limits: Vec<Limit>,
    /// Those that `o` rows of the policy ask for.
    of_rows: HashMap<RuleId, Limit>,
    /// Which limits match each target, as a position in `lists`; and the target's part of a key.
    of_target: Vec<(u32, u64)>,
    lists: Vec<Box<[u32]>>,
    per_agent: Limit,
    failures_per_peer: Limit,
    /// One bucket for all addresses that find no room above.
    other_peers: Limit,
    usage: Usage,
    floods: Floods,
    hasher: RandomState,
    time: Time,
    text: String,
}

impl Limits {
    /// Reads `limits.yaml` of the folder; without one, the shipped file is in force.
    ///
    /// # Errors
    /// Every fault of the file with its place.
    pub fn load(folder: &Path, names: &Names<'_>, time: &Time) -> Result<Self, Vec<Fault>> {
        let file = folder.join("limits.yaml");
        match read_text(&file) {
            Ok(text) => Self::parse(&file, &text, names, time),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::parse(&file, SHIPPED, names, time),
            Err(error) => Err(vec![Fault::file(&file, format!("cannot be read: {error}"))]),
        }
    }

    /// Reads the text of a `limits.yaml`.
    ///
    /// # Errors
    /// Every fault of the text with its place.
    pub fn parse(file: &Path, text: &str, names: &Names<'_>, time: &Time) -> Result<Self, Vec<Fault>> {
        let mut read = File::read(file, text, names)?;
        let usage = Usage::new(&mut read, time);
        let (read, patterns) = (read.file, read.patterns);
        let (hasher, max_keys) = (RandomState::new(), read.max_keys.size());
        let identity = |id: &str, per: &[Per], rate: Rate, burst: Option<file::Burst>| {
            let mut per = per.to_vec();
            per.sort_unstable();
            Identity {
                id: id.into(),
                per,
                interval: rate.interval(),
                burst: burst.map_or(rate.burst(), |burst| burst.0),
                max_keys,
                of_row: false,
            }
        };
        let limit = |identity, pattern| Limit::new(identity, pattern, &hasher, time);
        let rows = read.limits.iter().zip(patterns);
        let mut limits: Vec<Limit> =
            rows.map(|(row, pattern)| limit(identity(&row.id.value, &row.per, row.rate, row.burst), pattern)).collect();
        // An agent's own limits stand before those it shares, so that its flood is stopped before it takes from others.
        limits.sort_by_key(|limit| {
            let shared = !limit.identity.per.contains(&Per::Agent);
            (
                shared,
                std::cmp::Reverse(limit.identity.per.len()),
                limit.pattern.is_wildcard(),
                std::cmp::Reverse(limit.pattern.stem().len()),
            )
        });
        let request = |id, per: &[Per], rate| limit(identity(id, per, rate, None), Pattern::new("*"));
        let mut made = Self {
            per_agent: request("requests.per_agent", &[Per::Agent], read.requests.per_agent),
            failures_per_peer: request("requests.failures_per_peer", &[Per::Agent], read.requests.failures_per_peer),
            other_peers: request("requests.failures_per_peer", &[], read.requests.failures_per_peer),
            limits,
            of_rows: HashMap::new(),
            of_target: Vec::new(),
            lists: Vec::new(),
            usage,
            floods: read.floods,
            hasher,
            time: time.clone(),
            text: text.to_owned(),
        };
        made.match_targets(names.targets);
        Ok(made)
    }

    /// Finds the limits of each target once, so that a call looks at no others.
    fn match_targets(&mut self, targets: &[TargetFacts<'_>]) {
        let mut known: HashMap<Box<[u32]>, u32> = HashMap::new();
        for target in targets {
            let list = self.matching(target.name);
            let next = self.lists.len() as u32;
            let number = *known.entry(list.clone()).or_insert(next);
            if number == next {
                self.lists.push(list);
            }
            self.of_target.push((number, self.hasher.hash_one(target.name)));
        }
        self.usage.match_targets(targets, &self.hasher);
    }

    fn matching(&self, target: &str) -> Box<[u32]> {
        (0..).zip(&self.limits).filter(|(_, limit)| limit.pattern.matches(target)).map(|(number, _)| number).collect()
    }

    /// Takes over the buckets of `previous` where a limit has not changed, so that a reload forgives nothing.
    #[must_use]
    pub fn carrying(mut self, previous: &Self, targets: &[TargetFacts<'_>]) -> Self {
        self.hasher = previous.hasher.clone();
        self.time = previous.time.clone();
        let old: HashMap<&Identity, &Limit> = previous.every().map(|limit| (&limit.identity, limit)).collect();
        let requests = [&mut self.per_agent, &mut self.failures_per_peer, &mut self.other_peers];
        for limit in self.limits.iter_mut().chain(self.of_rows.values_mut()).chain(requests) {
            limit.unlisted = self.hasher.hash_one(limit.pattern.to_string());
            if let Some(same) = old.get(&limit.identity) {
                limit.buckets = Arc::clone(&same.buckets);
            }
        }
        self.usage.carry(&previous.usage);
        self.of_target.clear();
        self.lists.clear();
        self.match_targets(targets);
        self
    }

    /// Adds the limits that `o` rows of the policy ask for: each agent has a bucket for each such row, as large as the row's number. Whom a
    /// budget is for follows from the `g` rows.
    #[must_use]
    pub fn with_rows(mut self, rows: &Rows) -> Self {
        for rule in &rows.rules {
            let Some(Obligation::Limit(rate)) = rule.effect.obligation() else { continue };
            let burst = NonZeroU32::new(rate.count()).unwrap_or(NonZeroU32::MIN);
            let max_keys = self.per_agent.identity.max_keys;
            let (id, interval) = (rule.id.as_str().into(), rate.interval());
            let identity = Identity { id, per: vec![Per::Agent], interval, burst, max_keys, of_row: true };
            self.of_rows.insert(rule.id.clone(), Limit::new(identity, rule.pattern.clone(), &self.hasher, &self.time));
        }
        self.usage.resolve(rows);
        self
    }

    fn every(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().chain(self.of_rows.values()).chain([&self.per_agent, &self.failures_per_peer, &self.other_peers])
    }

    /// The agent's key.
    pub fn agent(&self, name: &str) -> AgentKey {
        AgentKey(self.hasher.hash_one(name))
    }

    /// Charges every limit that matches the call, or none of them.
    ///
    /// # Errors
    /// The limit that is longest in admitting the call, and when all would.
    pub fn admit(&self, agent: AgentKey, target: TargetIndex) -> Result<(), LimitRefusal> {
        self.admit_obliged(agent, target, &[])
    }

    /// [`Limits::admit`], with the limits that the call's obligations ask for.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub fn admit_obliged(&self, agent: AgentKey, target: TargetIndex, obligations: &[Obliged]) -> Result<(), LimitRefusal> {
        match self.of_target.get(target.0 as usize) {
            Some((list, key)) => self.charge(self.lists.get(*list as usize).map_or(&[], |list| list), obligations, agent, Some(*key)),
            // An index of another catalogue: nothing is known of the target, so every limit counts.
            None => self.charge(&(0..self.limits.len() as u32).collect::<Vec<_>>(), obligations, agent, None),
        }
    }

    /// [`Limits::admit_obliged`] for a target that the catalogue does not list, such as one resource; slower. All such targets of an
    /// agent share a bucket a limit: an agent that invents names makes no more of them.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub fn admit_by_name(&self, agent: AgentKey, target: &str, obligations: &[Obliged]) -> Result<(), LimitRefusal> {
        self.charge(&self.matching(target), obligations, agent, None)
    }

    fn charge(&self, list: &[u32], obligations: &[Obliged], agent: AgentKey, target: Option<u64>) -> Result<(), LimitRefusal> {
        // An agent's own, so before those that it may share.
        let of_rows = || obligations.iter().filter_map(|obliged| self.of_rows.get(&obliged.rule));
        let limits = || of_rows().chain(list.iter().map(|number| &self.limits[*number as usize]));
        for (charged, limit) in limits().enumerate() {
            let Err(empty) = limit.buckets.spend(limit.key(agent, target)) else { continue };
            limits().take(charged).for_each(|earlier| earlier.buckets.give_back(earlier.key(agent, target)));
            // The ones behind may take longer: a wait that ends at the next refusal would be a lie.
            let behind =
                limits().skip(charged + 1).filter_map(|later| Some(later.refusal(later.buckets.look(later.key(agent, target)).err()?)));
            let first = limit.refusal(empty);
            return Err(behind.fold(first, |worst, next| if next.retry_after_ms > worst.retry_after_ms { next } else { worst }));
        }
        Ok(())
    }

    /// Takes a call out of the loops that it was counted for while it waits for the one that it repeats.
    pub fn waits(&self, charge: &mut Charge<'_>) {
        self.usage.waits(charge);
    }

    /// Counts one again that has waited, and goes on by itself.
    ///
    /// # Errors
    /// The loop that it would go on with.
    pub fn goes_on(&self, charge: &mut Charge<'_>) -> Result<(), Spared> {
        self.usage.goes_on(charge)
    }

    /// Takes in how a call ended that was let on; `None` where it never left, so that nothing of it counts.
    pub fn ended(&self, charge: &Charge<'_>, ended: Option<Ended<'_>>) {
        match ended {
            Some(ended) => self.usage.ended(charge, ended, &self.hasher),
            None => self.usage.take_back(charge),
        }
    }

    /// What each loop rule has done since the start.
    pub fn loops(&self) -> Vec<LoopStanding> {
        self.usage.loops()
    }

    /// What is spent of each budget: its keys with their fullest figures, the fullest first.
    pub fn budgets(&self) -> Vec<(String, Standing)> {
        self.usage.budgets()
    }

    /// Each loop rule and budget with the calls that it warned of and those that it refused, since the start.
    pub fn counts(&self) -> Vec<(String, u64, u64)> {
        self.usage.counts()
    }

    /// The budgets that are for a role that nobody can have.
    pub fn for_nobody(&self, rows: &Rows) -> Vec<Fault> {
        self.usage.for_nobody(rows)
    }

    /// Takes over what the database has of budgets that have nothing yet.
    ///
    /// # Errors
    /// The database's.
    pub fn restore(&self, state: &State, now: &Moment) -> Result<(), StateError> {
        self.usage.restore(state, now, &self.hasher)
    }

    /// Whether something was spent since the last time.
    pub fn has_unkept(&self) -> bool {
        self.usage.has_unkept()
    }

    /// Stores what was spent since the last time. Blocks: not for a runtime's worker.
    ///
    /// # Errors
    /// The database's: it is tried again the next time.
    pub fn store(&self, state: &State, now: &Moment) -> Result<(), StateError> {
        self.usage.store(state, now, &self.hasher)
    }

    /// Charges one message of an agent, before it is parsed.
    ///
    /// # Errors
    /// `requests.per_agent`, and when it admits the next.
    pub fn request(&self, agent: AgentKey) -> Result<(), LimitRefusal> {
        self.per_agent.buckets.spend(agent.0).map_err(|empty| self.per_agent.refusal(empty))
    }

    /// Whether an address may try a credential again. For callers that are not known: one that shares an address with
    /// somebody who guesses is not to suffer.
    ///
    /// # Errors
    /// `requests.failures_per_peer`, and when it admits the next.
    pub fn peer(&self, peer: IpAddr) -> Result<(), LimitRefusal> {
        let key = self.peer_key(peer);
        let (limit, key) = match self.failures_per_peer.buckets.is_full_for(key) {
            true => (&self.other_peers, 0),
            false => (&self.failures_per_peer, key),
        };
        limit.buckets.look(key).map_err(|empty| limit.refusal(empty))
    }

    /// Counts a failed credential against its address.
    pub fn peer_failed(&self, peer: IpAddr) {
        if self.failures_per_peer.buckets.spend(self.peer_key(peer)) == Err(Empty::NoRoom) {
            // More addresses than buckets: the newcomers share one. It refuses by itself when asked next.
            let _ = self.other_peers.buckets.spend(0);
        }
    }

    fn peer_key(&self, peer: IpAddr) -> u64 {
        self.hasher.hash_one(network(peer))
    }

    /// Drops the buckets that are full again, and what counts no more of loops and budgets; for a task that runs every minute or so.
    pub fn sweep(&self) {
        self.every().for_each(|limit| limit.buckets.sweep());
        self.usage.sweep();
    }

    /// How many buckets there are, for metrics.
    pub fn keys(&self) -> usize {
        self.every().map(|limit| limit.buckets.len()).sum()
    }

    /// The ids of the limits that match a target, in the order in which they are asked.
    pub fn ids_for(&self, target: &str) -> impl Iterator<Item = &str> {
        self.matching(target).into_iter().map(|number| &*self.limits[number as usize].identity.id)
    }

    /// The ids of the loop rules and of the budgets that a target's calls are asked about.
    pub fn counting(&self, target: &str, tier: Tier) -> (Vec<&str>, Vec<&str>) {
        self.usage.ids_for(target, tier)
    }

    /// When repeated refusals become one record.
    pub fn floods(&self) -> Floods {
        self.floods
    }

    /// The text of the file: part of the policy's version.
    pub fn text(&self) -> &str {
        &self.text
    }
}
