//! One limit's buckets: governor's GCRA over a store of our own, which can also only look, and give back.
//!
//! INVARIANT: a limit holds at most its bound of buckets; a newcomer beyond it is refused, never waved through.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use governor::clock::{Clock, FakeRelativeClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

/// Where limits take their time from: the machine, or a test.
#[derive(Clone, Debug)]
pub struct Time(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Since when. Not governor's default clock, which spins for up to 200 ms when it begins, to learn how fast the processor counts.
    Machine(Instant),
    Test(FakeRelativeClock),
}

impl Time {
    /// The machine's monotonic time.
    pub fn machine() -> Self {
        Self(Source::Machine(Instant::now()))
    }

    /// Time that stands still until [`Time::advance`]; clones share it.
    pub fn standing() -> Self {
        Self(Source::Test(FakeRelativeClock::default()))
    }

    /// Moves standing time on; the machine's is left alone.
    pub fn advance(&self, by: Duration) {
        if let Source::Test(clock) = &self.0 {
            clock.advance(by);
        }
    }
}

impl Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match &self.0 {
            Source::Machine(start) => start.elapsed().into(),
            Source::Test(clock) => clock.now(),
        }
    }
}

/// Whose bucket, and whether to take from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ask {
    key: u64,
    spend: bool,
}

/// When each bucket is empty (GCRA's theoretical arrival time), in nanoseconds since the limit began.
#[derive(Debug)]
struct Store {
    buckets: DashMap<u64, AtomicU64>,
    count: AtomicUsize,
    max_keys: usize,
}

/// What governor is told of a bucket that is not there and may not be made: taken for a century. The file's bounds keep
/// every real wait below a year.
const NO_ROOM: u64 = 100 * 365 * 86_400 * 1_000_000_000;

#[derive(Clone, Debug)]
struct Shared(Arc<Store>);

impl StateStore for Shared {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if let Some(bucket) = self.0.buckets.get(&ask.key) {
            return update(&bucket, ask.spend, measure);
        }
        if !ask.spend {
            return measure(None).map(|(answer, _)| answer);
        }
        if self.0.count.load(Ordering::Relaxed) >= self.0.max_keys {
            return measure(Some(Nanos::new(NO_ROOM))).map(|(answer, _)| answer);
        }
        let bucket = self.0.buckets.entry(ask.key).or_insert_with(|| {
            self.0.count.fetch_add(1, Ordering::Relaxed);
            AtomicU64::new(0)
        });
        update(&bucket, true, measure)
    }
}

fn update<T, E>(bucket: &AtomicU64, spend: bool, measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>) -> Result<T, E> {
    let mut was = bucket.load(Ordering::Acquire);
    loop {
        let (answer, next) = measure((was > 0).then(|| Nanos::new(was)))?;
        if !spend {
            return Ok(answer);
        }
        match bucket.compare_exchange_weak(was, next.as_u64(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => return Ok(answer),
            Err(other) => was = other,
        }
    }
}

/// Why a bucket did not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// It will, after this time.
    Until(Duration),
    /// There is no room for another bucket.
    NoRoom,
}

/// All buckets of one limit.
#[derive(Debug)]
pub(super) struct Buckets {
    limiter: RateLimiter<Ask, Shared, Time, NoOpMiddleware<Nanos>>,
    store: Shared,
    interval: Duration,
    time: Time,
    began: Nanos,
    swept: AtomicU64,
}

const NEVER: u64 = u64::MAX;
/// Shortest time between two sweeps that newcomers bring about, so that a flood of them costs little.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Buckets {
    pub fn new(interval: Duration, burst: NonZeroU32, max_keys: usize, time: &Time) -> Self {
        let store = Shared(Arc::new(Store { buckets: DashMap::new(), count: AtomicUsize::new(0), max_keys }));
        // An interval is at least a microsecond, so the quota exists; `per_second(1)` is never reached.
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
        let began = time.now();
        Self {
            limiter: RateLimiter::new(quota, store.clone(), time.clone()),
            store,
            interval,
            time: time.clone(),
            began,
            swept: AtomicU64::new(NEVER),
        }
    }

    /// Takes one, or says when.
    pub fn spend(&self, key: u64) -> Result<(), Empty> {
        match self.ask(Ask { key, spend: true }) {
            Err(Empty::NoRoom) if self.sweep_if_due() => self.ask(Ask { key, spend: true }),
            answer => answer,
        }
    }

    /// Says whether one could be taken, or when.
    pub fn look(&self, key: u64) -> Result<(), Empty> {
        self.ask(Ask { key, spend: false })
    }

    fn ask(&self, ask: Ask) -> Result<(), Empty> {
        let until = match self.limiter.check_key(&ask) {
            Ok(()) => return Ok(()),
            Err(until) => until.wait_time_from(self.time.now()),
        };
        if until.as_nanos() > u128::from(NO_ROOM / 2) { Err(Empty::NoRoom) } else { Err(Empty::Until(until)) }
    }

    /// Gives one back that was taken for a call which another limit then refused.
    pub fn give_back(&self, key: u64) {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.store.0.buckets.get(&key) {
            let mut was = bucket.load(Ordering::Acquire);
            while let Err(other) = bucket.compare_exchange_weak(was, was.saturating_sub(interval), Ordering::Release, Ordering::Acquire) {
                was = other;
            }
        }
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.store.0.count.load(Ordering::Relaxed)
    }

    /// Whether a newcomer would find no room.
    pub fn is_full_for(&self, key: u64) -> bool {
        self.len() >= self.store.0.max_keys && !self.store.0.buckets.contains_key(&key)
    }

    fn sweep_if_due(&self) -> bool {
        let now = self.time.now().as_u64();
        let last = self.swept.load(Ordering::Relaxed);
        let due = last == NEVER || now.saturating_sub(last) >= SWEEP_EVERY.as_nanos() as u64;
        let mine = due && self.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            self.sweep();
        }
        mine
    }

    /// Drops the buckets that are full again: a new one would be the same.
    pub fn sweep(&self) {
        let now = self.time.now().duration_since(self.began).as_u64();
        let before = self.len();
        let mut dropped = 0;
        self.store.0.buckets.retain(|_, full_at| {
            let keep = full_at.load(Ordering::Relaxed) > now;
            dropped += usize::from(!keep);
            keep
        });
        self.store.0.count.fetch_sub(dropped, Ordering::Relaxed);
        if dropped > before / 2 {
            self.store.0.buckets.shrink_to_fit();
        }
    }
}
