//! The stage *frozen* of the path: what people have stopped for a while, whatever the policy says of it.
//!
//! Owns: which call a freeze covers and when it ends. Leaves to others: keeping freezes (`state`), and who makes them (`cli`).
//!
//! INVARIANT: a freeze refuses and never allows. What is looked for and not there is not covered by it; what is there in another form than a scalar,
//! or under a name that a server may take for it, is.
//! INVARIANT: a call is asked about before anything is spent on it, and once more right before its intent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::{Code, Effect, Error};
use crate::identity::Principal;
use crate::invocation::Invocation;
use crate::mcp::decimal::Decimal;
use crate::mcp::json::{Node, Value};
use crate::policy::Pattern;
use crate::policy::condition::Pointer;
use crate::state::{State, StateError, StoredFreeze};

/// One freeze that is in force until its time.
#[derive(Debug)]
struct Freeze {
    name: String,
    agent: Option<Box<str>>,
    tool: Option<Pattern>,
    run: Option<Box<str>>,
    holds: Option<(Pointer, Box<str>)>,
    ends_running: bool,
    reason: Box<str>,
    until: Option<i64>,
}

/// The freezes of a gateway, as its state database has them.
#[derive(Debug)]
pub struct Freezes {
    now: watch::Sender<Vec<Arc<Freeze>>>,
    /// The database's version that they were read at.
    read_at: AtomicI64,
    clock: Clock,
}

/// The name of a freeze in records and on the command line.
pub fn name(number: i64) -> String {
    format!("freeze:{number}")
}

impl Freeze {
    fn of(stored: StoredFreeze) -> Self {
        Self {
            name: name(stored.number),
            agent: stored.agent.map(Into::into),
            tool: stored.tool.map(|tool| Pattern::new(&tool)),
            run: stored.run.map(Into::into),
            holds: stored.holds.and_then(|(pointer, value)| Some((Pointer::parse(&pointer).ok()?, value.into()))),
            ends_running: stored.ends_running,
            reason: stored.reason.into(),
            until: stored.until,
        }
    }

    fn lasts(&self, seconds: i64) -> bool {
        self.until.is_none_or(|until| seconds < until)
    }

    fn covers(&self, call: &Invocation<'_>, run: Option<&str>) -> bool {
        let is_named = |pattern: &Pattern| call.target.policy_names().any(|name| pattern.matches(name));
        self.agent.as_deref().is_none_or(|agent| agent == call.caller.principal.name())
            && self.tool.as_ref().is_none_or(is_named)
            && self.run.as_deref().is_none_or(|frozen| Some(frozen) == run)
            && self.holds.as_ref().is_none_or(|(pointer, value)| match pointer.find(call.arguments.node()) {
                Ok(found) => found.into_iter().flatten().any(|node| is(node, value)),
                Err(_unclear) => true,
            })
    }

    /// Whether the agent is stopped altogether.
    fn stops(&self, agent: &str) -> bool {
        self.agent.as_deref() == Some(agent) && self.tool.is_none() && self.run.is_none() && self.holds.is_none()
    }

    fn refusal(&self) -> Error {
        let error = Error::new(Code::Frozen, "an operator has stopped this for now").because("frozen");
        error.rules(vec![self.name.clone()]).operator(&self.reason)
    }
}

/// Whether a value is what a person wrote: numbers by their value, every other scalar by its text. A server may find it in a list or an object too.
fn is(node: &Node<'_>, written: &str) -> bool {
    match &node.value {
        Value::String(text) => text == written,
        Value::Number(digits) => Decimal::of(written).is_some_and(|number| Decimal::of(digits) == Some(number)),
        Value::Bool(value) => written == if *value { "true" } else { "false" },
        Value::Null => written == "null",
        Value::Array(_) | Value::Object(_) => true,
    }
}

impl Freezes {
    /// Those that the database has.
    ///
    /// # Errors
    /// The database's.
    pub fn load(state: &State, clock: Clock) -> Result<Self, StateError> {
        let freezes = Self { now: watch::Sender::new(Vec::new()), read_at: AtomicI64::new(0), clock };
        freezes.reload(state)?;
        Ok(freezes)
    }

    /// Reads them again; from then on they are in force.
    ///
    /// # Errors
    /// The database's; those of before stay in force.
    pub fn reload(&self, state: &State) -> Result<(), StateError> {
        // Asked before the rows are read: what comes between the two is seen at the next look.
        let version = state.version_of_others()?;
        let seconds = self.clock.unix_seconds();
        let stored = state.freezes()?.into_iter().filter(|stored| stored.lifted.is_none());
        // One that was in force and is over stays until `expire` has told of it.
        let known: Vec<String> = self.now.borrow().iter().map(|freeze| freeze.name.clone()).collect();
        let is_told = |freeze: &Freeze| freeze.lasts(seconds) || known.contains(&freeze.name);
        self.now.send_replace(stored.map(Freeze::of).filter(is_told).map(Arc::new).collect());
        self.read_at.store(version, Ordering::Relaxed);
        Ok(())
    }

    /// Reads them again where another process has changed the database; to be asked every second or so.
    ///
    /// # Errors
    /// The database's; those of before stay in force.
    pub fn look(&self, state: &State) -> Result<(), StateError> {
        if state.version_of_others()? == self.read_at.load(Ordering::Relaxed) { Ok(()) } else { self.reload(state) }
    }

    /// Forgets those whose time is over, and says their names.
    pub fn expire(&self) -> Vec<String> {
        let seconds = self.clock.unix_seconds();
        let mut ended = Vec::new();
        self.now.send_if_modified(|now| {
            ended.extend(now.iter().filter(|freeze| !freeze.lasts(seconds)).map(|freeze| freeze.name.clone()));
            now.retain(|freeze| freeze.lasts(seconds));
            !ended.is_empty()
        });
        ended
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.now.borrow().len()
    }

    /// Whether one is in force.
    pub fn is_in_force(&self, number: i64) -> bool {
        let (name, seconds) = (name(number), self.clock.unix_seconds());
        self.now.borrow().iter().any(|freeze| freeze.name == name && freeze.lasts(seconds))
    }

    /// Which of these targets one covers, whoever calls them and with what.
    pub fn covered<'n>(&self, number: i64, targets: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
        let (now, name) = (self.now.borrow(), name(number));
        let Some(freeze) = now.iter().find(|freeze| freeze.name == name) else { return Vec::new() };
        targets.filter(|target| freeze.tool.as_ref().is_none_or(|pattern| pattern.matches(target))).collect()
    }

    /// Whether the call may go on.
    ///
    /// # Errors
    /// `frozen`.
    pub fn check(&self, call: &Invocation<'_>, run: Option<&str>) -> Result<(), Error> {
        let now = self.now.borrow();
        if now.is_empty() {
            return Ok(());
        }
        let seconds = self.clock.unix_seconds();
        let covering = now.iter().find(|freeze| freeze.lasts(seconds) && freeze.covers(call, run));
        covering.map_or(Ok(()), |freeze| Err(freeze.refusal()))
    }

    /// Waits until a freeze that ends running calls covers this one, which has been forwarded.
    pub async fn ended(&self, call: &Invocation<'_>, run: Option<&str>) -> Error {
        let mut changes = self.now.subscribe();
        loop {
            let covering =
                |freeze: &&Arc<Freeze>| freeze.ends_running && freeze.lasts(self.clock.unix_seconds()) && freeze.covers(call, run);
            if let Some(freeze) = changes.borrow_and_update().iter().find(covering) {
                return freeze.refusal().after_effect(Effect::Unknown, call.target.is_idempotent());
            }
            if changes.changed().await.is_err() {
                // The gateway is gone, and with it whoever could freeze anything.
                return std::future::pending().await;
            }
        }
    }

    /// Whether the agent may be told of anything: it may not where it is stopped altogether.
    ///
    /// # Errors
    /// `frozen`.
    pub fn admit(&self, principal: &Principal) -> Result<(), Error> {
        let now = self.now.borrow();
        if now.is_empty() {
            return Ok(());
        }
        let seconds = self.clock.unix_seconds();
        let stopping = now.iter().find(|freeze| freeze.lasts(seconds) && freeze.stops(principal.name()));
        stopping.map_or(Ok(()), |freeze| Err(freeze.refusal()))
    }
}
