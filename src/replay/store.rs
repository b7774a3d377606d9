//! What is kept of named calls, and what a repeat finds: by the database alone, but for the calls that this process is making right now.
//!
//! Blocks where it asks the database: not for a runtime's worker.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::found::{Ended, Evidence, Found, Free, Left, Stored, Unkept};
use super::named::{By, Named};
use super::packed::{packed, unpacked};
use crate::clock::Clock;
use crate::config;
use crate::invocation::Invocation;
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::respond::CallResult;
use crate::seal::{Seal, hex};
use crate::state::{BegunReplay, NewReplay, ReplayEnd, ReplayStands, Room, State, StateError, StoredReplay};

/// Calls that wait for answers and are known in memory.
const MAX_ASKING: usize = 65_536;
/// How a call is answered that was asked without a state.
const STATELESS: &str = "stateless";
/// No call is known.
const NEVER: i64 = i64::MAX;

/// All named calls.
#[derive(Debug)]
pub struct Replays {
    state: Arc<State>,
    seal: Arc<Seal>,
    clock: Clock,
    bounds: config::Idempotency,
    /// The log that this process writes: no other process does.
    origin: String,
    flights: Mutex<HashMap<[u8; 32], Flight>>,
    waiting: Arc<Slots>,
    /// The calls of this process that wait for their agents' answers.
    asking: Mutex<HashSet<Box<str>>>,
    /// The upstreams that may have calls which are told apart by their arguments alone.
    loose: Mutex<HashSet<Box<str>>>,
    /// Held while that changes together with the database.
    loosening: Mutex<()>,
    /// When the next call's time is over, in seconds since 1970, as far as this process knows.
    due: AtomicI64,
}

/// A call of this process between its claim and its end.
#[derive(Debug)]
struct Flight {
    contents: [u8; 32],
    call: Box<str>,
    over: watch::Receiver<()>,
}

/// Whoever holds it may make the call of its name; dropped, the next one may.
#[derive(Debug)]
pub struct Claimed {
    replays: Arc<Replays>,
    name: [u8; 32],
    _over: watch::Sender<()>,
}

/// What came of claiming a name.
#[derive(Debug)]
pub enum Claim {
    /// It is the caller's.
    Held(Claimed),
    /// Another call of this process has it: its invocation, and what ends with its claim.
    Taken(Box<str>, watch::Receiver<()>),
    /// Another call of this process has it, with other contents.
    Other(Box<str>),
}

/// A named call that is no repeat, until it ends.
#[derive(Debug)]
pub struct Held {
    named: Arc<Named>,
    /// Whether its row is in the database.
    has_left: bool,
    free: Free,
    _claimed: Claimed,
}

impl Held {
    /// The call's name.
    pub fn named(&self) -> &Arc<Named> {
        &self.named
    }

    /// How it was found.
    pub fn free(&self) -> &Free {
        &self.free
    }

    /// Whether its row is in the database, so that its end has to be.
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// Notes that its row is in the database.
    pub fn leaves(&mut self) {
        self.has_left = true;
    }

    pub(super) fn is_for(&self, invocation: &Invocation<'_>) -> bool {
        *self.named.call == *invocation.id.to_string()
    }
}

impl Replays {
    /// How long after its interaction timeout the answers to a call's questions are taken, in seconds, at most.
    pub const ANSWERS_S: i64 = 900;

    /// Those of a state database. What an earlier process with this log was making has an end that nobody knows.
    ///
    /// # Errors
    /// The database's.
    pub fn open(state: Arc<State>, seal: Arc<Seal>, clock: Clock, bounds: config::Idempotency, origin: &str) -> Result<Self, StateError> {
        state.abandon_replays(origin)?;
        let due = AtomicI64::new(state.forget_replays(clock.unix_seconds())?.unwrap_or(NEVER));
        let loose = state.loose_replays()?.into_iter().map(String::into_boxed_str).collect();
        let waiting = Arc::new(Slots::new(bounds.max_waiting.size()));
        let (flights, loose, origin) = (Mutex::default(), Mutex::new(loose), origin.to_owned());
        let (asking, loosening) = (Mutex::default(), Mutex::default());
        Ok(Self { state, seal, clock, bounds, origin, flights, waiting, asking, loose, loosening, due })
    }

    /// Whether the time of some may be over since the last look.
    pub fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) <= self.now()
    }

    /// Forgets calls whose time is over, with what is sealed of them.
    ///
    /// # Errors
    /// The database's.
    pub fn forget(&self) -> Result<(), StateError> {
        // Before the look: one that comes meanwhile counts.
        self.due.store(NEVER, Ordering::Relaxed);
        if let Some(next) = self.state.forget_replays(self.now())? {
            self.due.fetch_min(next, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What bounds them.
    pub fn bounds(&self) -> &config::Idempotency {
        &self.bounds
    }

    /// Claims the call's name, or says who has it.
    pub fn claim(self: &Arc<Self>, named: &Named) -> Claim {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&named.name) {
            let call = flight.call.clone();
            return if flight.contents == named.contents { Claim::Taken(call, flight.over.clone()) } else { Claim::Other(call) };
        }
        let (sender, over) = watch::channel(());
        flights.insert(named.name, Flight { contents: named.contents, call: named.call.clone(), over });
        Claim::Held(Claimed { replays: Arc::clone(self), name: named.name, _over: sender })
    }

    /// A place to wait for another call's end; a quarter of them may be one agent's.
    ///
    /// # Errors
    /// Whose bound is reached.
    pub fn wait(&self, agent: &Arc<str>) -> Result<Place, Full> {
        self.waiting.take(agent, self.bounds.max_waiting.size().div_ceil(4))
    }

    /// What there is for a call.
    ///
    /// # Errors
    /// The database's.
    pub fn look(&self, named: &Named) -> Result<Found, StateError> {
        match self.state.replay(&named.name, self.now())? {
            None => Ok(Found::Free(Free::default())),
            Some(row) => self.found(row, named),
        }
    }

    fn found(&self, row: StoredReplay, named: &Named) -> Result<Found, StateError> {
        let evidence = evidence(&row);
        if row.contents != named.contents {
            return Ok(Found::Other(evidence));
        }
        let is_open = matches!(row.stands, ReplayStands::Runs | ReplayStands::Asks);
        Ok(match row.stands {
            // The invocation of a request that goes on is that of the first one.
            _ if is_open && *row.call == *named.call => Found::Free(Free { continues: true, over: None }),
            ReplayStands::Runs if row.lasts > self.now() => Found::Runs(evidence),
            // Nothing in such answers says whose they are but the key; the server has ended what it had begun.
            ReplayStands::Asks if row.lasts > self.now() && named.answers && row.code.as_deref() == Some(STATELESS) => {
                Found::Free(Free { continues: false, over: Some(row.call.into()) })
            }
            ReplayStands::Asks if row.lasts > self.now() => Found::Asks(evidence),
            ReplayStands::Done => match self.opened(&row, named) {
                Some((redactions, result)) if named.redactions.is_empty() || named.redactions.join("\n") == redactions => {
                    Found::Done(Box::new(Stored { evidence, result }))
                }
                Some(_) => Found::Redacted(evidence),
                None => Found::Unkept(evidence),
            },
            _ if named.is_harmless && row.told => Found::Free(Free { continues: false, over: Some(row.call.into()) }),
            _ => {
                if named.is_harmless {
                    self.state.tell_replay(&named.name, &row.call)?;
                }
                Found::Unknown(evidence)
            }
        })
    }

    /// Takes a call whose name is claimed for its own, as it was found.
    pub fn hold(named: Arc<Named>, free: Free, claimed: Claimed) -> Held {
        Held { named, has_left: false, free, _claimed: claimed }
    }

    /// Puts the row of a call into the database that is about to leave.
    ///
    /// # Errors
    /// The database's.
    pub fn leave(&self, named: &Named, free: &Free) -> Result<Left, StateError> {
        let now = self.now();
        let lasts = now.saturating_add(named.lasts_s);
        lock(&self.asking).remove(&named.call);
        if free.continues && self.state.resume_replay(&named.name, &named.call, lasts)? {
            return Ok(Left::Gone);
        }
        let new = NewReplay {
            name: &named.name,
            contents: &named.contents,
            call: &named.call,
            origin: &self.origin,
            agent: &named.agent,
            target: &named.target,
            upstream: &named.upstream,
            by_arguments: named.by == By::Arguments,
            over: free.over.as_deref(),
            now,
            lasts,
            expires: lasts.max(now.saturating_add(named.window_s)),
        };
        self.due.fetch_min(new.expires, Ordering::Relaxed);
        let bounds = (self.bounds.max_calls.value(), self.bounds.max_calls_per_agent.value());
        let begun = if new.by_arguments {
            let _alone = lock(&self.loosening);
            lock(&self.loose).insert(named.upstream.clone());
            self.state.begin_replay(&new, bounds)?
        } else {
            self.state.begin_replay(&new, bounds)?
        };
        Ok(match begun {
            BegunReplay::New => Left::Gone,
            BegunReplay::Known(row) => Left::Meanwhile(self.found(*row, named)?),
            BegunReplay::Full => Left::Full(Full::All),
            BegunReplay::FullForAgent => Left::Full(Full::Agent),
        })
    }

    /// Ends a call whose row is in the database; why a repeat will not get its result, where that is so.
    ///
    /// # Errors
    /// The database's: the row stays, and after a while nobody knows how the call ended.
    pub fn end(&self, named: &Named, free: &Free, ended: &Ended) -> Result<Option<Unkept>, StateError> {
        match ended {
            // What an earlier request of it has done is not known.
            Ended::Nothing if free.continues => self.asks(named, None),
            Ended::Nothing => self.ends(named, ReplayEnd::Free).map(|_| None),
            Ended::Asks { with_state } => self.asks(named, (!with_state).then_some(STATELESS)),
            Ended::Unknown(code, told) => self.ends(named, ReplayEnd::Unknown(code, *told)).map(|_| None),
            // A tool that failed may do better the next time, and it does no harm to ask it.
            Ended::Failed(_) if named.is_harmless => self.ends(named, ReplayEnd::Free).map(|_| None),
            Ended::Result(result) if named.is_harmless && result.is_error => self.ends(named, ReplayEnd::Free).map(|_| None),
            Ended::Failed(code) => self.ends(named, ReplayEnd::Done(Err(code))).map(|_| None),
            Ended::Result(result) => self.keep(named, result),
        }
    }

    fn asks(&self, named: &Named, how: Option<&str>) -> Result<Option<Unkept>, StateError> {
        let mut asking = lock(&self.asking);
        if asking.len() >= MAX_ASKING {
            // Those that nobody answers end with their time.
            asking.clear();
        }
        asking.insert(named.call.clone());
        drop(asking);
        self.ends(named, ReplayEnd::Asks(self.now().saturating_add(named.asks_s), how)).map(|_| None)
    }

    fn keep(&self, named: &Named, result: &CallResult) -> Result<Option<Unkept>, StateError> {
        let plain = packed(&named.redactions.join("\n"), result);
        let is_small = plain.len() as u64 <= self.bounds.max_result_bytes.value();
        let sealed = is_small.then(|| self.seal.seal(&purpose(named, &named.call), &plain)).flatten();
        let unkept = match &sealed {
            Some(sealed) if self.ends(named, ReplayEnd::Done(Ok(sealed)))? == Room::Kept => return Ok(None),
            Some(_) => Unkept::NoRoom,
            None => {
                self.ends(named, ReplayEnd::Done(Err(Unkept::TooLarge.as_str())))?;
                Unkept::TooLarge
            }
        };
        if named.is_harmless {
            // Better again than not at all.
            self.ends(named, ReplayEnd::Free)?;
        }
        Ok(Some(unkept))
    }

    fn ends(&self, named: &Named, end: ReplayEnd<'_>) -> Result<Room, StateError> {
        let now = self.now();
        let bounds = (self.bounds.max_bytes.value(), self.bounds.max_bytes_per_agent.value());
        self.due.fetch_min(now.saturating_add(named.window_s), Ordering::Relaxed);
        self.state.end_replay((&named.name, &named.call), end, (now, now.saturating_add(named.window_s)), bounds)
    }

    /// Whether a call waits for its agent's answers here, as far as that is known. It does not any more then.
    pub fn was_asking(&self, call: &str) -> bool {
        lock(&self.asking).remove(call)
    }

    /// Says of a call that was asked something that it ended without an answer.
    ///
    /// # Errors
    /// The database's.
    pub fn lose(&self, call: &str, code: &str) -> Result<(), StateError> {
        self.state.lose_replay(call, code, self.now())
    }

    /// Whether something else that changes this upstream has to void what is stored of it.
    pub fn is_loose(&self, upstream: &str) -> bool {
        lock(&self.loose).contains(upstream)
    }

    /// Forgets the results of calls of this upstream that are told apart by their arguments alone.
    ///
    /// # Errors
    /// The database's.
    pub fn void(&self, upstream: &str) -> Result<(), StateError> {
        let _alone = lock(&self.loosening);
        self.state.void_replays(upstream)?;
        lock(&self.loose).remove(upstream);
        Ok(())
    }

    fn opened(&self, row: &StoredReplay, named: &Named) -> Option<(String, CallResult)> {
        unpacked(&self.seal.open_within(&purpose(named, &row.call), row.sealed.as_deref()?, usize::MAX)?)
    }

    fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        lock(&self.replays.flights).remove(&self.name);
    }
}

fn evidence(row: &StoredReplay) -> Evidence {
    let code = row.code.as_deref().filter(|code| *code != STATELESS).map(Box::from);
    Evidence { call: row.call.as_str().into(), began: Some(row.began), ended: row.ended, code }
}

/// What a result is sealed for: this call, and all that its key stands for.
fn purpose(named: &Named, call: &str) -> String {
    format!("replay {} {} {call}", hex(&named.name), hex(&named.contents))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn replays(home: &std::path::Path) -> Arc<Replays> {
        let (state, seal) = (State::open(home).unwrap(), Seal::new(&[1; 32]).unwrap());
        let clock = Clock::fixed(1_800_000_000_000_000_000);
        Arc::new(Replays::open(Arc::new(state), Arc::new(seal), clock, config::Idempotency::default(), "main").unwrap())
    }

    fn named(call: &str, contents: u8) -> Named {
        Named {
            name: [1; 32],
            contents: [contents; 32],
            by: By::Caller,
            is_harmless: false,
            call: call.into(),
            agent: "agent:a".into(),
            target: "up__pay".into(),
            upstream: "up".into(),
            redactions: Vec::new(),
            answers: false,
            window_s: 100,
            lasts_s: 10,
            asks_s: 20,
        }
    }

    fn result(words: &str) -> CallResult {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        CallResult { members: bytes(words), newer: bytes("\"structuredContent\":5"), meta: bytes(""), is_error: true, cache: None }
    }

    #[test]
    fn a_name_is_claimed_by_one_and_its_row_is_seen_from_another_process() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (replays(home.path()), replays(home.path()));
        let Claim::Held(claimed) = one.claim(&named("c1", 1)) else { panic!("somebody has it") };
        assert!(matches!(one.claim(&named("c2", 1)), Claim::Taken(call, _) if &*call == "c1"));
        assert!(matches!(one.claim(&named("c2", 2)), Claim::Other(_)));
        assert!(matches!(one.leave(&named("c1", 1), &Free::default()).unwrap(), Left::Gone));
        assert!(matches!(other.look(&named("c2", 1)).unwrap(), Found::Runs(_)));
        assert!(matches!(other.leave(&named("c2", 1), &Free::default()).unwrap(), Left::Meanwhile(Found::Runs(_))));
        assert_eq!(one.end(&named("c1", 1), &Free::default(), &Ended::Result(result("\"content\":[]"))).unwrap(), None);
        drop(claimed);
        assert!(matches!(one.claim(&named("c3", 1)), Claim::Held(_)));
        let Found::Done(stored) = other.look(&named("c2", 1)).unwrap() else { panic!("it is not there") };
        assert_eq!((&*stored.evidence.call, &stored.result.members[..]), ("c1", &b"\"content\":[]"[..]));
        // A result under rows that redact now was not let out under them.
        let redacted = Named { redactions: vec!["O1 redact".to_owned()], ..named("c2", 1) };
        assert!(matches!(other.look(&redacted).unwrap(), Found::Redacted(_)));
    }

    #[test]
    fn what_is_sealed_goes_with_its_time_without_anybody_asking() {
        let home = tempfile::tempdir().unwrap();
        let replays = replays(home.path());
        assert!(!replays.is_due());
        assert!(matches!(replays.leave(&named("c1", 1), &Free::default()).unwrap(), Left::Gone));
        assert_eq!(replays.end(&named("c1", 1), &Free::default(), &Ended::Result(result("\"content\":[]"))).unwrap(), None);
        let known = |replays: &Replays| replays.state.replays(true, 0).unwrap().len();
        replays.clock.pass(std::time::Duration::from_secs(99));
        replays.forget().unwrap();
        assert_eq!((replays.is_due(), known(&replays)), (false, 1));
        replays.clock.pass(std::time::Duration::from_secs(1));
        assert!(replays.is_due());
        replays.forget().unwrap();
        assert_eq!((replays.is_due(), known(&replays)), (false, 0));
    }

    #[test]
    fn a_call_that_must_have_ended_by_now_is_unknown_wherever_it_ran() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (replays(home.path()), replays(home.path()));
        assert!(matches!(one.leave(&named("c1", 1), &Free::default()).unwrap(), Left::Gone));
        other.clock.pass(std::time::Duration::from_secs(10));
        assert!(matches!(other.look(&named("c2", 1)).unwrap(), Found::Unknown(evidence) if evidence.code.is_none()));
        other.clock.pass(std::time::Duration::from_secs(90));
        assert!(matches!(other.look(&named("c2", 1)).unwrap(), Found::Free(_)));
    }

    #[test]
    fn answers_are_waited_for_until_their_time_and_no_longer() {
        let home = tempfile::tempdir().unwrap();
        let replays = replays(home.path());
        assert!(matches!(replays.leave(&named("c1", 1), &Free::default()).unwrap(), Left::Gone));
        assert_eq!(replays.end(&named("c1", 1), &Free::default(), &Ended::Asks { with_state: true }).unwrap(), None);
        replays.clock.pass(std::time::Duration::from_secs(19));
        assert!(matches!(replays.look(&named("c2", 1)).unwrap(), Found::Asks(_)));
        replays.clock.pass(std::time::Duration::from_secs(1));
        assert!(matches!(replays.look(&named("c2", 1)).unwrap(), Found::Unknown(_)));
    }
}
