//! The calls that wait for a yes: what becomes of each, by the database alone.
//!
//! INVARIANT: what is not open, or too late, or lacks a yes, is never given; whoever spends what is given is alone with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use uuid::Uuid;

use super::webhook::Step;
use super::{Asked, Facts, Lack};
use crate::clock::Clock;
use crate::config;
use crate::identity::{Approver, People};
use crate::invocation::Invocation;
use crate::seal::{Seal, hex, random};
use crate::state::{Begun, NewApproval, Owed, Stands, State, StateError, StoredApproval};

/// Who says yes where the agent's own user does: no name of a person.
pub const USER: &str = "*user";
/// How long a row is known after its end, in seconds.
const REMEMBERED: i64 = 86_400;
/// No row is open.
const NEVER: i64 = i64::MAX;

/// All calls that wait.
#[derive(Debug)]
pub struct Approvals {
    pub(super) state: Arc<State>,
    seal: Arc<Seal>,
    clock: Clock,
    pub(super) bounds: config::Approvals,
    /// When the next one will be too late, in seconds since 1970, as far as this process knows.
    due: AtomicI64,
    /// The version of the policy that is in force; `None` where this process decides no calls.
    policy: ArcSwapOption<String>,
    /// Something more is to be told.
    pub(super) owed: Notify,
}

/// An approval that is there for one call.
#[derive(Clone, Debug)]
pub struct Given {
    id: Box<str>,
    call: Uuid,
    used: bool,
}

impl Given {
    /// Its name among people.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether an earlier request of the same call has used it up.
    pub fn is_used(&self) -> bool {
        self.used
    }

    pub(super) fn is_for(&self, invocation: &Invocation<'_>) -> bool {
        self.call == invocation.id
    }
}

/// A call that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name among people.
    pub id: String,
    /// Whether it begins to wait with this request.
    pub is_new: bool,
    /// Whose yes is missing.
    pub lacks: Vec<Lack>,
    /// From when on it is too late, in seconds since 1970.
    pub expires: i64,
}

/// What there is for a call.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A yes of everybody who has to say it.
    Given(Given),
    /// It waits.
    Waits(Waiting),
    /// A person said no.
    Denied(String),
    /// Too late; with the facts where nobody has noticed before.
    Expired(String, Option<Box<Facts>>),
    /// As many calls wait as may.
    Full,
    /// As many of this agent wait as may.
    FullForAgent,
}

/// A row as somebody looks at it.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The row.
    pub row: StoredApproval,
    /// What people are shown of the call.
    pub facts: Facts,
    /// Whose yes is missing today.
    pub lacks: Vec<Lack>,
    /// Whether it was asked for under another policy than the one in force, and so counts for no call.
    pub is_stale: bool,
    /// What people elsewhere were told of it, and are to be told.
    pub messages: Vec<Owed>,
}

impl Looked {
    /// `waiting`, `approved`, `of another policy`, or how it ended.
    pub fn word(&self) -> &'static str {
        match (self.row.stands, self.lacks.is_empty()) {
            (Stands::Open, _) if self.is_stale => "of another policy",
            (Stands::Open, false) => "waiting",
            (Stands::Open, true) => "approved",
            (ended, _) => ended.as_str(),
        }
    }
}

/// Why somebody's word does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such approval.
    Unknown,
    /// It is not open any more: how it ended.
    Ended(&'static str),
    /// The policy has changed since it was asked for.
    OtherPolicy,
    /// The call is made by or for this person.
    Requester,
    /// No row that asks names a role of theirs; those that it names.
    Role(Vec<String>),
    /// They have said yes already, or everybody has.
    Already,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => out.write_str("there is no such approval; `doorward approvals list` lists those that wait"),
            Self::Ended(how) => write!(out, "it is {how}, and nothing can be decided about it any more"),
            Self::OtherPolicy => {
                out.write_str("the policy has changed since it was asked for, so it counts for no call; one that is made now asks anew")
            }
            Self::Requester => out.write_str("the call is made by or for this person, and somebody else has to decide"),
            Self::Role(roles) if roles.is_empty() => out.write_str("only the agent's own user can say yes, through the agent's client"),
            Self::Role(roles) => write!(out, "it takes a person with the role `{}`", roles.join("` or `")),
            Self::Already => out.write_str("this person has said yes already, or nobody else has to"),
        }
    }
}

impl Approvals {
    /// Those of a state database.
    pub fn new(state: Arc<State>, seal: Arc<Seal>, clock: Clock, bounds: config::Approvals) -> Self {
        Self { state, seal, clock, bounds, due: AtomicI64::new(0), policy: ArcSwapOption::empty(), owed: Notify::new() }
    }

    /// Takes the version of the policy that comes into force.
    pub fn decided_by(&self, policy: &str) {
        self.policy.store(Some(Arc::new(policy.to_owned())));
    }

    fn looked(&self, row: StoredApproval, people: &People) -> Result<Looked, StateError> {
        let facts = facts(&row.facts);
        let messages = if self.webhook().is_some() { self.state.messages(&row.id)? } else { Vec::new() };
        let lacks = facts.asks().iter().filter_map(|ask| ask.lacks(&row.yes, people)).collect();
        let is_stale = self.policy.load().as_deref().is_some_and(|policy| *policy != facts.policy);
        Ok(Looked { row, facts, lacks, is_stale, messages })
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }

    fn lifetime(&self) -> i64 {
        i64::try_from(self.bounds.expire_s.value()).unwrap_or(NEVER)
    }

    /// What there is for a call: its approval, or how it stands. A call that nothing is known of begins to wait.
    ///
    /// # Errors
    /// The database's.
    pub fn answer(&self, asked: &Asked, people: &People) -> Result<Option<Answer>, StateError> {
        let now = self.now();
        if asked.goes_on
            && let Some(row) = self.state.approval_used(&asked.binding, &asked.call.to_string())?
        {
            return Ok(Some(Answer::Given(Given { id: row.id.into(), call: asked.call, used: true })));
        }
        if let Some(row) = self.state.approval_bound(&asked.binding)? {
            match row.stands {
                Stands::Open if row.expires > now => return Ok(Some(waits_or_given(row, asked, people))),
                Stands::Open => {
                    let newly = self.state.end_approval(&row.id, Stands::Expired, "time", now)?;
                    self.state.tell_approval(&row.id)?;
                    if newly {
                        self.owe(&row.id, Step::Expired);
                    }
                    return Ok(Some(Answer::Expired(row.id, newly.then(|| Box::new(facts(&row.facts))))));
                }
                Stands::Denied if now < row.ended.unwrap_or(now).saturating_add(self.lifetime()) => {
                    return Ok(Some(Answer::Denied(row.id)));
                }
                Stands::Expired if !row.told => {
                    self.state.tell_approval(&row.id)?;
                    return Ok(Some(Answer::Expired(row.id, None)));
                }
                Stands::Used | Stands::Denied | Stands::Expired => {}
            }
        }
        self.begin(asked, people, now)
    }

    /// `None` where the machine gives no randomness.
    fn begin(&self, asked: &Asked, people: &People, now: i64) -> Result<Option<Answer>, StateError> {
        let mut name = [0; 5];
        if random(&mut name).is_err() {
            return Ok(None);
        }
        let id = format!("ap-{}", hex(&name));
        let Some(sealed) = self.seal.seal(&purpose(&id, &asked.binding), &asked.arguments) else { return Ok(None) };
        let facts = serde_json::to_string(&asked.facts).unwrap_or_default();
        let expires = now.saturating_add(self.lifetime());
        let new =
            NewApproval { id: &id, binding: &asked.binding, agent: &asked.facts.principal, facts: &facts, sealed: &sealed, now, expires };
        let bounds = (self.bounds.max_pending.value(), self.bounds.max_pending_per_agent.value());
        Ok(Some(match self.state.begin_approval(&new, bounds)? {
            Begun::New => {
                self.due.fetch_min(expires, Ordering::Relaxed);
                let lacks = asked.asks.iter().filter_map(|ask| ask.lacks(&[], people)).collect();
                Answer::Waits(Waiting { id, is_new: true, lacks, expires })
            }
            Begun::Known(row) => waits_or_given(*row, asked, people),
            Begun::Full => Answer::Full,
            Begun::FullForAgent => Answer::FullForAgent,
        }))
    }

    /// Forgets a call that began to wait and could not be recorded.
    ///
    /// # Errors
    /// The database's.
    pub fn withdraw(&self, id: &str) -> Result<(), StateError> {
        self.state.drop_approval(id)
    }

    /// Uses the approval up for its call; `None` where somebody else has, or it was denied, or is too late by now.
    ///
    /// # Errors
    /// The database's.
    pub fn spend(&self, given: &Given) -> Result<Option<Spent>, StateError> {
        let spent = self.state.end_approval(&given.id, Stands::Used, &given.call.to_string(), self.now())?;
        Ok(spent.then_some(Spent { call: given.call }))
    }

    /// Those that are open, or all that are still known.
    ///
    /// # Errors
    /// The database's.
    pub fn list(&self, all: bool, people: &People) -> Result<Vec<Looked>, StateError> {
        self.state.approvals(all)?.into_iter().map(|row| self.looked(row, people)).collect()
    }

    /// The one of that name.
    ///
    /// # Errors
    /// The database's.
    pub fn look(&self, id: &str, people: &People) -> Result<Option<Looked>, StateError> {
        self.state.approval(id)?.map(|row| self.looked(row, people)).transpose()
    }

    /// The arguments that will run; `None` once it is not open any more, or where the key is another than they were sealed under.
    pub fn arguments(&self, row: &StoredApproval) -> Option<Vec<u8>> {
        let binding = row.binding.as_slice().try_into().ok()?;
        self.seal.open_within(&purpose(&row.id, binding), row.sealed.as_deref()?, usize::MAX)
    }

    /// Whether this person may decide about an approval, and how it stood before.
    ///
    /// # Errors
    /// The database's, and why not.
    pub fn may_decide(&self, id: &str, yes: bool, person: &Approver, people: &People) -> Result<Result<Looked, Refused>, StateError> {
        let Some(looked) = self.look(id, people)? else { return Ok(Err(Refused::Unknown)) };
        let facts = &looked.facts;
        let is_requester = person.is_called(facts.agent())
            || facts.on_behalf_of.as_deref().is_some_and(|name| person.is_called(name))
            || facts.actors.iter().any(|name| person.is_called(name));
        let asks = facts.asks();
        let mut roles: Vec<String> = asks.iter().filter_map(|ask| ask.role.clone()).collect();
        roles.dedup();
        let refused = match looked.row.stands {
            Stands::Open if looked.row.expires <= self.now() => Some(Refused::Ended(Stands::Expired.as_str())),
            Stands::Open if looked.is_stale => Some(Refused::OtherPolicy),
            Stands::Open if is_requester => Some(Refused::Requester),
            Stands::Open if !asks.iter().any(|ask| ask.counts(&person.name, people)) => Some(Refused::Role(roles)),
            Stands::Open if yes && missing(&self.after(&looked, &person.name, people)) == missing(&looked.lacks) => Some(Refused::Already),
            Stands::Open => None,
            ended => Some(Refused::Ended(ended.as_str())),
        };
        Ok(refused.map_or(Ok(looked), Err))
    }

    /// Whose yes is missing once this one has said it.
    pub fn after(&self, looked: &Looked, who: &str, people: &People) -> Vec<Lack> {
        let mut yes = looked.row.yes.clone();
        if !yes.iter().any(|said| said == who) {
            yes.push(who.to_owned());
        }
        looked.facts.asks().iter().filter_map(|ask| ask.lacks(&yes, people)).collect()
    }

    /// Takes somebody's yes, which is on record by then; whether the approval still was open. With the last one it may be used for as long as it
    /// could have waited.
    ///
    /// # Errors
    /// The database's.
    pub fn yes(&self, looked: &Looked, who: &str, is_last: bool) -> Result<bool, StateError> {
        let now = self.now();
        let expires = if is_last { now.saturating_add(self.lifetime()) } else { looked.row.expires };
        let counted = self.state.say_yes(&looked.row.id, who, now, expires)?;
        if counted && is_last {
            self.owe(&looked.row.id, Step::Approved);
        }
        Ok(counted)
    }

    /// Takes somebody's no, which is on record by then; whether the approval still was open.
    ///
    /// # Errors
    /// The database's.
    pub fn no(&self, id: &str, who: &str) -> Result<bool, StateError> {
        let counted = self.state.end_approval(id, Stands::Denied, who, self.now())?;
        if counted {
            self.owe(id, Step::Denied);
        }
        Ok(counted)
    }

    /// Whether some may have become too late since the last look.
    pub fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) <= self.now()
    }

    /// Ends those that are too late by now, and gives them.
    ///
    /// # Errors
    /// The database's.
    pub fn expire(&self) -> Result<Vec<(String, Facts)>, StateError> {
        let now = self.now();
        let gone = self.state.expire_approvals(now, now.saturating_sub(REMEMBERED))?;
        self.due.store(self.state.next_expiry()?.unwrap_or(NEVER), Ordering::Relaxed);
        gone.iter().for_each(|row| self.owe(&row.id, Step::Expired));
        Ok(gone.into_iter().map(|row| (row.id, facts(&row.facts))).collect())
    }
}

/// Proof that an approval was used up for a call.
#[derive(Debug)]
pub struct Spent {
    call: Uuid,
}

impl Spent {
    pub(super) fn is_for(&self, invocation: &Invocation<'_>) -> bool {
        self.call == invocation.id
    }
}

/// How many people are missing in all.
fn missing(lacks: &[Lack]) -> usize {
    lacks.iter().map(|lack| lack.more).sum()
}

fn facts(text: &str) -> Facts {
    serde_json::from_str(text).unwrap_or_default()
}

fn waits_or_given(row: StoredApproval, asked: &Asked, people: &People) -> Answer {
    let lacks: Vec<Lack> = asked.asks.iter().filter_map(|ask| ask.lacks(&row.yes, people)).collect();
    match lacks.is_empty() {
        true => Answer::Given(Given { id: row.id.into(), call: asked.call, used: false }),
        false => Answer::Waits(Waiting { id: row.id, is_new: false, lacks, expires: row.expires }),
    }
}

/// What arguments are sealed for: this approval, and all that it is bound to.
fn purpose(id: &str, binding: &[u8; 32]) -> String {
    format!("approval {id} {}", hex(binding))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::approval::Ask;
    use crate::identity::People;

    fn asked() -> Asked {
        let facts = Facts { asks: vec!["O1 approve:user".to_owned()], principal: "agent:demo".to_owned(), ..Facts::default() };
        let asks = vec![Ask::parse("O1 approve:user").unwrap()];
        Asked { call: Uuid::now_v7(), goes_on: false, binding: [7; 32], asks, facts, arguments: b"{}".to_vec() }
    }

    fn answer(approvals: &Approvals) -> Answer {
        approvals.answer(&asked(), &People::default()).unwrap().unwrap()
    }

    fn waiting(approvals: &Approvals) -> String {
        let Answer::Waits(waiting) = answer(approvals) else { panic!("it does not wait") };
        waiting.id
    }

    fn given(approvals: &Approvals) -> Given {
        let Answer::Given(given) = answer(approvals) else { panic!("it is not given") };
        given
    }

    #[test]
    fn time_runs_out_for_what_waits_and_for_what_is_approved() {
        let home = tempfile::tempdir().unwrap();
        let (clock, seal) = (Clock::fixed(1_800_000_000_000_000_000), Arc::new(Seal::new(&[1; 32]).unwrap()));
        let state = Arc::new(State::open(home.path()).unwrap());
        let approvals = Approvals::new(state, seal, clock.clone(), config::Approvals::default());
        let people = People::default();
        let seconds = Duration::from_secs;

        let first = waiting(&approvals);
        clock.pass(seconds(599));
        assert_eq!(waiting(&approvals), first);
        let looked = approvals.look(&first, &people).unwrap().unwrap();
        assert_eq!(approvals.arguments(&looked.row).as_deref(), Some(b"{}".as_slice()));
        // With the last yes the time begins anew.
        assert!(approvals.yes(&looked, USER, true).unwrap());
        clock.pass(seconds(599));
        let late = given(&approvals);
        clock.pass(seconds(1));
        assert!(approvals.spend(&late).unwrap().is_none(), "it came too late, however early it was looked at");
        assert!(!approvals.yes(&looked, USER, true).unwrap() && approvals.is_due());
        assert!(matches!(answer(&approvals), Answer::Expired(id, Some(_)) if id == first));

        let second = waiting(&approvals);
        assert_ne!(second, first);
        clock.pass(seconds(600));
        assert_eq!(approvals.expire().unwrap().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [second.as_str()]);
        assert!(matches!(answer(&approvals), Answer::Expired(id, None) if id == second));
        let third = approvals.look(&waiting(&approvals), &people).unwrap().unwrap();
        assert!(approvals.yes(&third, USER, true).unwrap());
        let both = (given(&approvals), given(&approvals));
        assert!(approvals.spend(&both.0).unwrap().is_some() && approvals.spend(&both.1).unwrap().is_none(), "it is used once");
        assert_eq!(approvals.arguments(&approvals.look(&third.row.id, &people).unwrap().unwrap().row), None);
    }

    #[test]
    fn of_many_who_hold_it_in_two_processes_one_spends_it() {
        let home = tempfile::tempdir().unwrap();
        let open = || {
            let (state, seal) = (State::open(home.path()).unwrap(), Seal::new(&[1; 32]).unwrap());
            Approvals::new(Arc::new(state), Arc::new(seal), Clock::fixed(1_800_000_000_000_000_000), config::Approvals::default())
        };
        let (one, other) = (open(), open());
        let looked = one.look(&waiting(&one), &People::default()).unwrap().unwrap();
        assert!(other.yes(&looked, USER, true).unwrap());
        let held: Vec<_> = [&one, &other].into_iter().cycle().take(8).map(|approvals| (approvals, given(approvals))).collect();
        let spent: Vec<bool> = std::thread::scope(|scope| {
            let spend = |(approvals, given): &'_ (&Approvals, Given)| approvals.spend(given).unwrap().is_some();
            let threads: Vec<_> = held.iter().map(|held| scope.spawn(move || spend(held))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(spent.into_iter().filter(|spent| *spent).count(), 1);
    }
}
