//! How often tools work, against how often they have to: error budgets, how fast they burn, and which burn too fast.
//!
//! Owns: the counts of each tool with an objective, and the verdict. Leaves to `gateway`: which ends are a tool's failures, and what follows.
//!
//! INVARIANT: memory is bounded: a tool has as many counts after a year as after a day, and only tools with an objective are counted.
//! INVARIANT: a verdict changes to *burning* at a failure, and back at a look, at most once a minute: nobody is told of flutter.

mod ring;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::ring::Ring;
use crate::catalog::Target;
use crate::catalog::objective::{Objective, OnBurn};
use crate::clock::Clock;
use crate::state::{State, StateError, StoredCount};

/// The windows of the burn rate, in minutes.
const WINDOWS: (usize, usize) = (60, 360);
/// Parts that an objective's window is counted in.
const PARTS: i64 = 120;
/// Fewer failures than this never burn too fast: of few calls one is a large share.
const LEAST_FAILURES: u64 = 5;

/// All tools with an objective that were called. Cheap to ask.
pub struct Objectives {
    clock: Clock,
    /// By the tools' names in policies.
    all: Mutex<HashMap<Box<str>, Arc<Kept>>>,
    /// What an earlier process has left, until its tool is called or asked about.
    left: Mutex<HashMap<Box<str>, Vec<StoredCount>>>,
    looked: AtomicI64,
}

/// One tool.
struct Kept {
    objective: Objective,
    counts: Mutex<Counts>,
    is_burning: AtomicBool,
    slow: Arc<Semaphore>,
}

struct Counts {
    minutes: Ring,
    window: Ring,
    is_new: bool,
}

/// How a tool stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its name in policies.
    pub tool: String,
    /// Its objective.
    pub objective: Objective,
    /// Its calls in the window, and those of them that failed.
    pub calls: (u64, u64),
    /// How fast the budget burns over the last hour, and over the last six: at 1 it is used up at the end of the window.
    pub burns: (f64, f64),
    /// The share of the budget that is left; below 0 where it is overdrawn.
    pub left: f64,
    /// Whether it burns too fast.
    pub is_burning: bool,
}

/// Leave for a call of a tool that is slowed down. Given back when dropped.
pub type Turn = OwnedSemaphorePermit;

impl Objectives {
    /// With the counts that an earlier process has left.
    ///
    /// # Errors
    /// The database's.
    pub fn open(state: &State, clock: Clock) -> Result<Self, StateError> {
        let mut left: HashMap<Box<str>, Vec<StoredCount>> = HashMap::new();
        for (tool, count) in state.counts()? {
            left.entry(tool.into()).or_default().push(count);
        }
        Ok(Self { clock, all: Mutex::default(), left: Mutex::new(left), looked: AtomicI64::new(0) })
    }

    /// Counts a call of the tool that worked, or failed. How it stands, where it has just begun to burn too fast.
    pub fn count(&self, target: &Target, is_good: bool) -> Option<Standing> {
        let kept = self.kept(target)?;
        let now = self.clock.unix_seconds();
        {
            let mut counts = lock(&kept.counts);
            counts.minutes.add(now, is_good, 1);
            counts.window.add(now, is_good, 1);
            counts.is_new = true;
        }
        if is_good || kept.objective.on_burn.is_none() || kept.is_burning.load(Ordering::Relaxed) {
            return None;
        }
        let standing = kept.standing(&target.policy_name, now);
        (standing.burns_too_fast() && !kept.is_burning.swap(true, Ordering::Relaxed)).then_some(Standing { is_burning: true, ..standing })
    }

    /// What follows for a call of the tool now, beside that people are told.
    pub fn follows(&self, target: &Target) -> Option<OnBurn> {
        let on_burn = target.objective.as_ref()?.on_burn.as_ref()?;
        self.kept(target)?.is_burning.load(Ordering::Relaxed).then(|| on_burn.clone())
    }

    /// Leave for one call of a tool that is slowed down; `None` where it is not.
    ///
    /// # Errors
    /// How many calls it is slowed down to, where as many are under way.
    pub fn turn(&self, target: &Target) -> Result<Option<Turn>, usize> {
        match (self.follows(target), self.kept(target)) {
            (Some(OnBurn::Slow), Some(kept)) => Arc::clone(&kept.slow).try_acquire_owned().map(Some).map_err(|_| kept.objective.slow_to),
            _ => Ok(None),
        }
    }

    /// Looks at each of these tools, once a minute: those that have begun to burn too fast, or ceased to.
    pub fn look<'t>(&self, tools: impl Iterator<Item = &'t Target>) -> Vec<Standing> {
        let now = self.clock.unix_seconds();
        let minute = now.div_euclid(60);
        if self.looked.swap(minute, Ordering::Relaxed) == minute {
            return Vec::new();
        }
        let acting = tools.filter(|tool| tool.objective.as_ref().is_some_and(|objective| objective.on_burn.is_some()));
        let changed = acting.filter_map(|tool| {
            let (kept, mut standing) = self.looked_at(tool, now)?;
            standing.is_burning = standing.burns_too_fast();
            (kept.is_burning.swap(standing.is_burning, Ordering::Relaxed) != standing.is_burning).then_some(standing)
        });
        changed.collect()
    }

    /// How each of these tools stands that has an objective.
    pub fn standings<'t>(&self, tools: impl Iterator<Item = &'t Target>) -> Vec<Standing> {
        let now = self.clock.unix_seconds();
        tools.filter_map(|tool| self.looked_at(tool, now)).map(|(_, standing)| standing).collect()
    }

    fn looked_at(&self, target: &Target, now: i64) -> Option<(Arc<Kept>, Standing)> {
        let kept = self.kept(target)?;
        let standing = kept.standing(&target.policy_name, now);
        Some((kept, standing))
    }

    /// Stores what is new, each tool whole.
    ///
    /// # Errors
    /// The database's; what is new stays so.
    pub fn store(&self, state: &State) -> Result<(), StateError> {
        let all: Vec<_> = lock(&self.all).iter().map(|(tool, kept)| (tool.clone(), Arc::clone(kept))).collect();
        let new = all.iter().filter_map(|(tool, kept)| {
            let mut counts = lock(&kept.counts);
            std::mem::take(&mut counts.is_new).then(|| (&**tool, counts.minutes.rows(false).chain(counts.window.rows(true)).collect()))
        });
        let new: Vec<(&str, Vec<StoredCount>)> = new.collect();
        let stored = if new.is_empty() { Ok(()) } else { state.keep_counts(&new) };
        if stored.is_err() {
            all.iter()
                .filter(|(tool, _)| new.iter().any(|(name, _)| **name == **tool))
                .for_each(|(_, kept)| lock(&kept.counts).is_new = true);
        }
        stored
    }

    /// The counts of a tool that has an objective. Another one than it had begins with the same counts.
    fn kept(&self, target: &Target) -> Option<Arc<Kept>> {
        let objective = target.objective.as_deref()?;
        let mut all = lock(&self.all);
        let known = all.get(&target.policy_name);
        if let Some(kept) = known.filter(|kept| kept.objective == *objective) {
            return Some(Arc::clone(kept));
        }
        let rows = match known {
            Some(kept) => {
                let counts = lock(&kept.counts);
                counts.minutes.rows(false).chain(counts.window.rows(true)).collect()
            }
            None => lock(&self.left).remove(&target.policy_name).unwrap_or_default(),
        };
        let kept = Arc::new(Kept::new(objective, &rows));
        all.insert(target.policy_name.clone(), Arc::clone(&kept));
        Some(kept)
    }
}

impl Kept {
    fn new(objective: &Objective, rows: &[StoredCount]) -> Self {
        let mut counts =
            Counts { minutes: Ring::new(60, WINDOWS.1), window: Ring::new(objective.slo.seconds() / PARTS, PARTS as usize), is_new: false };
        for row in rows {
            let ring = if row.is_window { &mut counts.window } else { &mut counts.minutes };
            ring.add(row.at, true, row.good);
            ring.add(row.at, false, row.failed);
        }
        let slow = Arc::new(Semaphore::new(objective.slow_to));
        Self { objective: objective.clone(), counts: Mutex::new(counts), is_burning: AtomicBool::new(false), slow }
    }

    fn standing(&self, tool: &str, now: i64) -> Standing {
        let counts = lock(&self.counts);
        let allowed = self.objective.slo.allowed();
        let share = |(good, failed): (u64, u64)| if failed == 0 { 0.0 } else { failed as f64 / (good + failed) as f64 };
        let burn = |minutes| share(counts.minutes.sum(now, minutes)) / allowed;
        let (good, failed) = counts.window.sum(now, PARTS as usize);
        Standing {
            tool: tool.to_owned(),
            objective: self.objective.clone(),
            calls: (good + failed, failed),
            burns: (burn(WINDOWS.0), burn(WINDOWS.1)),
            left: 1.0 - share((good, failed)) / allowed,
            is_burning: self.is_burning.load(Ordering::Relaxed),
        }
        .with_few(counts.minutes.sum(now, WINDOWS.1).1)
    }
}

impl Standing {
    /// Too few failures are no rate at all.
    fn with_few(self, failures: u64) -> Self {
        if failures < LEAST_FAILURES { Self { burns: (0.0, 0.0), ..self } } else { self }
    }

    fn burns_too_fast(&self) -> bool {
        let Objective { burn, on_burn, .. } = &self.objective;
        on_burn.is_some() && (self.burns.0 >= burn.over_1h || self.burns.1 >= burn.over_6h)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::catalog::lock::Lock;
    use crate::catalog::{Catalog, Source};
    use crate::config::parse_yaml;
    use crate::schema::Schemas;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A catalog of one tool with these members.
    fn catalog(members: &str) -> Catalog {
        let yaml = format!(
            "upstream: up\ntransport: {{ http: {{ url: \"http://127.0.0.1:1/\" }} }}\ntools: {{ a: {{ tier: read, {members} }} }}\n"
        );
        let manifest = Arc::new(parse_yaml(Path::new("up.yaml"), &yaml).unwrap());
        let source = Source { manifest, lock: Arc::new(Lock::default()), live: Arc::default(), claimed: false };
        Catalog::new(vec![source], &Schemas::default())
    }

    fn opened(home: &Path, clock: &Clock) -> (State, Objectives) {
        let state = State::open(home).unwrap();
        let objectives = Objectives::open(&state, clock.clone()).unwrap();
        (state, objectives)
    }

    fn standing(objectives: &Objectives, catalog: &Catalog) -> Standing {
        objectives.standings(catalog.tools().iter()).remove(0)
    }

    #[test]
    fn a_budget_burns_from_the_failure_that_is_too_many_until_its_hour_is_over() {
        let (home, clock) = (tempfile::tempdir().unwrap(), Clock::fixed(1_800_000_000_000_000_000));
        let (_state, objectives) = opened(home.path(), &clock);
        // At 90 % a tool that always fails burns at 10; six hours count for nothing here.
        let catalog = catalog("slo: 90%/30d, on_burn: slow, burn: { over_1h: 5, over_6h: 100 }");
        let tool = &catalog.tools()[0];
        let look = || objectives.look(catalog.tools().iter()).iter().map(|standing| standing.is_burning).collect::<Vec<_>>();
        for _ in 0..6 {
            assert_eq!(objectives.count(tool, true), None);
        }
        // Of ten calls four failed: too few to be a rate.
        for _ in 0..4 {
            assert_eq!(objectives.count(tool, false), None);
        }
        assert_eq!(standing(&objectives, &catalog).burns, (0.0, 0.0));
        // The fifth makes 5 of 11: a burn rate of 4.5. The sixth 6 of 12: 5.
        assert_eq!(objectives.count(tool, false), None);
        assert_eq!((objectives.follows(tool), objectives.turn(tool).unwrap().is_none()), (None, true));
        let told = objectives.count(tool, false).unwrap();
        assert!(told.is_burning && (told.burns.0 - 5.0).abs() < 1e-9 && (told.left + 4.0).abs() < 1e-9, "{told:?}");
        assert_eq!(objectives.count(tool, false), None, "it is told once");
        assert_eq!(objectives.follows(tool), Some(OnBurn::Slow));
        let turns: Vec<_> = (0..4).map(|_| objectives.turn(tool).unwrap().unwrap()).collect();
        assert_eq!(objectives.turn(tool).unwrap_err(), 4, "a quarter of 16");
        drop(turns);
        assert_eq!(look(), [] as [bool; 0]);
        clock.pass(MINUTE * 59);
        assert_eq!((look(), objectives.follows(tool)), (Vec::new(), Some(OnBurn::Slow)));
        clock.pass(MINUTE);
        assert_eq!((look(), objectives.follows(tool)), (vec![false], None));
        let now = standing(&objectives, &catalog);
        assert!(now.burns.0 == 0.0 && now.burns.1 > 5.0 && now.left < 0.0 && now.calls == (13, 7), "{now:?}");
        clock.pass(MINUTE * 60 * 24 * 31);
        let now = standing(&objectives, &catalog);
        assert_eq!((now.calls, now.left), ((0, 0), 1.0));
    }

    #[test]
    fn a_call_that_works_makes_nothing_burn() {
        let (home, clock) = (tempfile::tempdir().unwrap(), Clock::fixed(1_800_000_000_000_000_000));
        let (_state, objectives) = opened(home.path(), &clock);
        let catalog = catalog("slo: 90%/30d, on_burn: slow, burn: { over_1h: 5, over_6h: 100 }");
        let tool = &catalog.tools()[0];
        for _ in 0..20 {
            assert_eq!(objectives.count(tool, true), None);
        }
        clock.pass(MINUTE * 30);
        // Five of 25: a burn rate of 2.
        for _ in 0..5 {
            assert_eq!(objectives.count(tool, false), None);
        }
        // Those that worked are older than an hour now, and five of six are a burn rate of more than 8.
        clock.pass(MINUTE * 31);
        assert_eq!((objectives.count(tool, true), objectives.follows(tool)), (None, None));
        assert!(standing(&objectives, &catalog).burns.0 > 8.0);
        assert!(objectives.count(tool, false).is_some_and(|told| told.is_burning));
    }

    #[test]
    fn a_restart_and_another_objective_forgive_nothing() {
        let (home, clock) = (tempfile::tempdir().unwrap(), Clock::fixed(1_800_000_000_000_000_000));
        let (state, objectives) = opened(home.path(), &clock);
        let before = catalog("slo: 99%/30d");
        for good in [true, false, false, false, false, false] {
            objectives.count(&before.tools()[0], good);
        }
        objectives.store(&state).unwrap();
        let was = standing(&objectives, &before);
        drop(state);

        clock.pass(MINUTE * 30);
        let (state, objectives) = opened(home.path(), &clock);
        assert_eq!(standing(&objectives, &before), was);
        let after = catalog("slo: 99.5%/7d, on_burn: alert");
        let now = standing(&objectives, &after);
        assert!(now.calls == (6, 5) && now.burns.0 > was.burns.0 * 1.9, "{now:?}");
        assert_eq!(objectives.look(after.tools().iter()).len(), 1, "what burned before burns after");
        objectives.count(&after.tools()[0], true);
        objectives.store(&state).unwrap();
        let (_, objectives) = opened(home.path(), &clock);
        assert_eq!(standing(&objectives, &after).calls, (7, 5));
    }
}
