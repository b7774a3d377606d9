//! Calls that need more than one request of the agent: the tool server asks, the agent answers by sending the request again.
//!
//! Owns: what a request that comes again goes on with, and what the agent is given to send it by. Leaves to `upstream` the
//! asking, and to `listen` agents that are asked in other ways.
//!
//! Two kinds of call have rounds. A modern server has ended its request with the questions, so each round is a call of its
//! own under the same id. A legacy server still waits: its call is one intent and one outcome, with a record for each round.
//!
//! INVARIANT: a state is good once, for the same principal and the same call, until it expires; whatever is wrong with one
//! is told in the same words. Each round is decided anew.
//! INVARIANT: a call that waits ends once: with the round that takes it up, when it expires, or when the gateway stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{Answer, Gateway, Shared};
use crate::audit::trail::{Open, Recorded, Trail};
use crate::error::{Code, Effect, Error};
use crate::invocation::{Caller, Invocation};
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Request, Retry};
use crate::mcp::respond::{Ending, Questions};
use crate::mcp::revision::Revision;
use crate::seal::{Seal, random, sha256};
use crate::upstream::{self, Outcome, Reply, Resume, Upstream};

/// What a state is sealed for.
const PURPOSE: &str = "round";
/// The first byte of a state's plain text.
const VERSION: u8 = 1;
/// How long the state of a modern server's question is good, in seconds. A waiting call has the manifest's limit.
const RELAYED_SECONDS: i64 = 600;
/// Longest state of a server that is taken along, in bytes.
const MAX_INNER: usize = 64 << 10;
/// Longest sealed state that is looked at: the longest inner one with what stands before it, in Base64.
const MAX_SEALED: usize = 96 << 10;
/// Used states that are remembered until they expire, and how many of them may be one agent's.
const MAX_USED: (usize, usize) = (65_536, 32_768);
/// JSON-RPC's number for a call that a person has to visit pages for first (2025-11-25, elicitation).
const PAGES_FIRST: &str = "-32042";
/// Bounds of the questions and arguments that are read here.
const LIMITS: Limits = Limits { depth: 96, nodes: 1_000_000 };

/// What the rounds of all calls share.
pub struct Rounds {
    /// Used states.
    used: Mutex<HashMap<[u8; 16], Used>>,
    places: Arc<Slots>,
    /// Calls that wait for answers, by invocation. `upstream` bounds them, and how many are one agent's.
    waiting: Mutex<HashMap<Uuid, Waiting>>,
}

/// A state that is not good any more.
struct Used {
    /// When it would not have been good any more anyway, in seconds since 1970.
    expires: i64,
    _place: Place,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { used: Mutex::default(), places: Arc::new(Slots::new(MAX_USED.0)), waiting: Mutex::default() }
    }
}

/// A call that waits: its intent has no end yet.
struct Waiting {
    open: Open,
    upstream: Upstream,
    name: Box<str>,
}

/// What an earlier round left for this one.
#[derive(Debug)]
pub(super) struct Round {
    /// The invocation that goes on, and which request of it this is.
    id: Uuid,
    attempt: u32,
    nonce: [u8; 16],
    expires: i64,
    /// The name of the call that waits.
    parked: Option<Box<str>>,
    /// The server's own state, a JSON string.
    inner: Option<Vec<u8>>,
    /// The approval that the agent's user was asked about; nothing of the answer goes on to the server.
    pub(super) approval: Option<Box<str>>,
}

/// Whose question a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A server's that has ended its request.
    Relayed = 0,
    /// A server's that still waits.
    Parked = 1,
    /// Our own, about an approval.
    Approval = 2,
}

impl Round {
    /// The invocation that this request goes on with.
    pub(super) fn goes_on<'d>(&self, trail: &mut Trail<'_>, invocation: Invocation<'d>) -> Invocation<'d> {
        trail.continues(self.id, self.attempt);
        Invocation { id: self.id, ..invocation }
    }
}

impl Rounds {
    fn used(&self) -> MutexGuard<'_, HashMap<[u8; 16], Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the agent has used a state.
    fn use_up(&self, agent: &Arc<str>, round: &Round, now: i64) -> Result<(), Error> {
        let mut used = self.used();
        if used.contains_key(&round.nonce) {
            return Err(foreign());
        }
        let place = self.places.take(agent, MAX_USED.1).or_else(|_| {
            used.retain(|_, used| used.expires >= now);
            self.places.take(agent, MAX_USED.1).map_err(full)
        })?;
        used.insert(round.nonce, Used { expires: round.expires, _place: place });
        Ok(())
    }

    /// What a state says; `None` where it is not ours, not of this call, over, or used.
    fn opened(&self, seal: &Seal, state: &str, binding: &[u8; 32], now: i64) -> Option<Round> {
        let plain = seal.open_within(PURPOSE, state, MAX_SEALED)?;
        Round::read(&plain, binding).filter(|round| round.expires >= now && !self.used().contains_key(&round.nonce))
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call of that id, if it waits under that name; it is the caller's to end then.
    fn take(&self, id: Uuid, name: &str) -> Option<Waiting> {
        let mut waiting = self.waiting();
        if waiting.get(&id).is_some_and(|waiting| *waiting.name == *name) { waiting.remove(&id) } else { None }
    }
}

/// Opens the state that the request brings; boxed, since nearly every call has none. Stands before the decision: each round
/// is decided anew.
///
/// # Errors
/// `state_invalid`, whatever is wrong with it.
pub(super) fn open(shared: &Shared, invocation: &Invocation<'_>, retry: Option<Retry<'_>>) -> Result<Option<Box<Round>>, Error> {
    let Some(state) = retry.and_then(|retry| retry.state) else { return Ok(None) };
    let round = shared.rounds.opened(&shared.seal, state, &binding(invocation), shared.audit.clock().unix_seconds());
    round.map(|round| Some(Box::new(round))).ok_or_else(foreign)
}

/// Uses the state up, so that nobody sends it a second time, and gives the intent that goes on where the call still waits.
/// Stands right before the record, so that a round which is refused for want of room may be sent again.
///
/// # Errors
/// `state_invalid` when it has been used, `interaction_lost` when the call does not wait any more, `overloaded` and
/// `concurrency_limited` when all agents, or this one, have used too many.
pub(super) fn spend(shared: &Shared, agent: &Arc<str>, round: Option<&Round>) -> Result<Option<Open>, Error> {
    let Some(round) = round else { return Ok(None) };
    shared.rounds.use_up(agent, round, shared.audit.clock().unix_seconds())?;
    match &round.parked {
        None => Ok(None),
        Some(name) => shared.rounds.take(round.id, name).map(|waiting| Some(waiting.open)).ok_or_else(upstream::lost),
    }
}

/// What goes on to the tool server with the request: the answers, and the state that the server itself has given.
pub(super) fn resume<'r>(round: Option<&'r Round>, retry: Option<Retry<'r>>) -> Option<Resume<'r>> {
    let retry = retry.filter(|_| round.is_none_or(|round| round.approval.is_none()))?;
    let (parked, state) = round.map_or((None, None), |round| (round.parked.as_deref(), round.inner.as_deref()));
    Some(Resume { responses: retry.responses, state, parked })
}

/// The pages that a legacy server wants a person to visit before it takes the call, where its agent can be asked to
/// (-32042, 2025-11-25). The answer is the call once more: the server keeps nothing of this one but what the person did.
pub(super) fn pages(recorded: &Recorded<'_>, reply: &Reply) -> Option<Questions> {
    let invocation = recorded.invocation();
    let is_modern = invocation.caller.revision.is_some_and(Revision::is_modern);
    if !matches!(reply.outcome, Outcome::Failure(_))
        || recorded.permit().redacts()
        || !is_modern
        || !offered(invocation).contains(Capabilities::ELICIT_URL)
    {
        return None;
    }
    let error = json::parse(reply.text(), LIMITS).ok()?;
    match &error.get("code")?.value {
        json::Value::Number(PAGES_FIRST) => {}
        _ => return None,
    }
    let pages = error.pointer("/data/elicitations").map(Node::items).filter(|pages| !pages.is_empty())?;
    let mut requests = b"{".to_vec();
    for (at, page) in pages.iter().enumerate() {
        let separator = if at == 0 { "" } else { "," };
        requests.extend_from_slice(format!("{separator}\"q{}\":{{\"method\":\"elicitation/create\",\"params\":", at + 1).as_bytes());
        requests.extend_from_slice(page.text(reply.text()));
        requests.push(b'}');
    }
    requests.push(b'}');
    // The state is ours alone, and empty: it ties the next request to this one.
    Some(Questions { requests: requests.into(), state: Some(Bytes::from_static(b"\"\"")), running: false, own: false })
}

/// What the agent has declared and the manifest lets the server ask.
fn offered(invocation: &Invocation<'_>) -> Capabilities {
    let (caller, target) = (invocation.caller, invocation.target);
    let known = Capabilities::known_to(caller.revision.unwrap_or(Revision::NEWEST));
    caller.capabilities.intersect(target.may_ask).intersect(known)
}

/// Looks at what a server asks by its result, and puts our own state into it. A server that gives none gets none back: its
/// questions are answered by a call of its own.
///
/// # Errors
/// `client_capability_missing` for what the agent did not declare, `result_blocked` for what nobody should see, and
/// `upstream_protocol_error` for what is no question.
pub(super) fn wrap(shared: &Shared, trail: &Trail<'_>, invocation: &Invocation<'_>, ending: Ending) -> Result<Ending, Error> {
    let Ending::Asks(questions) = ending else { return Ok(ending) };
    let requests = checked(invocation, &questions.requests)?;
    let state = match &questions.state {
        Some(inner) if inner.len() > MAX_INNER => return Err(unsound("the state of the tool server's question is too long")),
        Some(inner) => {
            let expires = shared.audit.clock().unix_seconds() + RELAYED_SECONDS;
            Some(sealed(shared, trail, invocation, expires, inner, Of::Relayed)?)
        }
        None => None,
    };
    Ok(Ending::Asks(Questions { requests, state, running: false, own: false }))
}

/// Keeps a call that waits at its server until the agent has answered, or the manifest's limit is over.
///
/// # Errors
/// `internal` when the machine gives no randomness.
pub(super) fn park<'d>(
    shared: &Arc<Shared>,
    trail: &mut Trail<'d>,
    invocation: &Invocation<'d>,
    upstream: &Upstream,
    (name, requests): (Box<str>, Bytes),
) -> Result<Ending, Error> {
    let patience = Duration::from_millis(invocation.target.interaction_timeout_ms);
    // Who answers too late is told that the call was lost, not that the state is none of ours.
    let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX).saturating_add(RELAYED_SECONDS);
    let expires = shared.audit.clock().unix_seconds().saturating_add(seconds);
    let state = sealed(shared, trail, invocation, expires, name.as_bytes(), Of::Parked).inspect_err(|_| upstream.end_parked(&name))?;
    let Some(open) = trail.park() else { return Err(unsound("the call waits without a record")) };
    shared.rounds.waiting().insert(invocation.id, Waiting { open, upstream: upstream.clone(), name: name.clone() });
    let (shared, id, upstream) = (Arc::clone(shared), invocation.id, upstream.clone());
    tokio::spawn(async move {
        tokio::time::sleep(patience).await;
        if let Some(waiting) = shared.rounds.take(id, &name) {
            shared.audit.end(waiting.open).await;
            shared.lose(id.to_string(), Code::InteractionLost).await;
        }
        upstream.end_parked(&name);
    });
    Ok(Ending::Asks(Questions { requests, state: Some(state), running: true, own: false }))
}

/// Puts our own question about an approval to the agent's user, in whichever way its revision has.
///
/// # Errors
/// `internal` when the machine gives no randomness.
pub(super) fn ask(
    shared: &Shared,
    trail: &Trail<'_>,
    invocation: &Invocation<'_>,
    (approval, expires): (&str, i64),
    requests: Bytes,
) -> Result<Ending, Error> {
    let state = sealed(shared, trail, invocation, expires, approval.as_bytes(), Of::Approval);
    let state = state.map_err(|error| error.after_effect(Effect::None, true))?;
    Ok(Ending::Asks(Questions { requests, state: Some(state), running: false, own: true }))
}

impl Shared {
    /// Ends every call that waits for an agent's answer, each with its record: nobody can answer any more.
    pub async fn end_waiting(&self) {
        let waiting = std::mem::take(&mut *self.rounds.waiting());
        for (id, waiting) in waiting {
            waiting.upstream.end_parked(&waiting.name);
            self.audit.end(waiting.open).await;
            self.lose(id.to_string(), Code::InteractionLost).await;
        }
    }
}

impl Gateway {
    /// Ends the invocation, which waits for answers that do not come: at its server too, should it wait there. Why is recorded
    /// and told under the same id, so that the agent is named what the log has of the call, with the answers that the request has so far.
    pub async fn give_up(&self, caller: &Caller, id: &Id, request: &Request<'_, '_>, invocation: &str, error: Error) -> Answer {
        let waited = Uuid::parse_str(invocation).ok();
        let waiting = waited.and_then(|waited| self.shared.rounds.waiting().remove(&waited));
        if let Some(waiting) = waiting {
            waiting.upstream.end_parked(&waiting.name);
            self.shared.audit.end(waiting.open).await;
        }
        let mut trail = self.shared.audit.trail(caller, request.method.as_str(), Some(id), request.meta, self.policy.version());
        trail.asked_for(request.name);
        trail.answered(request.retry);
        if let Some(waited) = waited {
            trail.continues(waited, 1);
            self.shared.lose(waited.to_string(), error.code()).await;
        }
        self.shared.telemetry.refused(error.code());
        let outcome = Err(error);
        self.shared.audit.close(&trail, &outcome).await;
        Answer { invocation: trail.id_text().to_owned(), outcome }
    }
}

fn full(full: Full) -> Error {
    let error = match full {
        Full::All => Error::new(Code::Overloaded, "too many questions are being answered"),
        Full::Agent => Error::new(Code::ConcurrencyLimited, "this agent answers too many questions"),
    };
    error.retry_after_ms(1_000)
}

fn foreign() -> Error {
    Error::new(Code::StateInvalid, "the request state is not one of this gateway, for this call, or not good any more").wire(-32602, 200)
}

fn unsound(what: &'static str) -> Error {
    Error::new(Code::UpstreamProtocolError, what).from_upstream().after_effect(Effect::Unknown, false)
}

/// A hash of who calls what with which arguments: a state is good for nothing else.
fn binding(invocation: &Invocation<'_>) -> [u8; 32] {
    let target = invocation.target;
    let mut text = Vec::new();
    // What goes on with a call that has a key has the same key: it is one call under it.
    let key = invocation.key.unwrap_or_default();
    for part in [&*invocation.caller.principal.bound(), invocation.method.as_str(), &target.upstream_id, &target.policy_name, key] {
        write_string(part, &mut text);
    }
    match json::parse(invocation.arguments.text(), LIMITS) {
        Ok(arguments) => write_canonical(&arguments, &mut text),
        Err(_) => text.extend_from_slice(invocation.arguments.text()),
    }
    sha256(&text)
}

fn sealed(shared: &Shared, trail: &Trail<'_>, invocation: &Invocation<'_>, expires: i64, inner: &[u8], of: Of) -> Result<Bytes, Error> {
    let mut nonce = [0; 16];
    let failed = || Error::new(Code::Internal, "the machine gives no randomness").after_effect(Effect::Unknown, false);
    random(&mut nonce).map_err(|error| failed().operator(error))?;
    let mut plain = vec![VERSION, of as u8];
    plain.extend_from_slice(invocation.id.as_bytes());
    plain.extend_from_slice(&(trail.attempt() + 1).to_be_bytes());
    plain.extend_from_slice(&nonce);
    plain.extend_from_slice(&expires.to_be_bytes());
    plain.extend_from_slice(&binding(invocation));
    plain.extend_from_slice(inner);
    let text = shared.seal.seal(PURPOSE, &plain).ok_or_else(failed)?;
    Ok(format!("\"{text}\"").into())
}

impl Round {
    /// What [`sealed`] wrote; `None` where it is for another call.
    fn read(plain: &[u8], binding: &[u8; 32]) -> Option<Self> {
        let mut rest = plain;
        let mut next = |length: usize| {
            let (part, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(part)
        };
        let [VERSION, of] = *next(2)? else { return None };
        let id = Uuid::from_slice(next(16)?).ok()?;
        let attempt = u32::from_be_bytes(next(4)?.try_into().ok()?);
        let nonce = next(16)?.try_into().ok()?;
        let expires = i64::from_be_bytes(next(8)?.try_into().ok()?);
        if next(32)? != binding {
            return None;
        }
        let inner = rest.to_vec();
        let name = |inner| String::from_utf8(inner).ok().map(String::into_boxed_str);
        let (parked, inner, approval) = match of {
            0 => (None, Some(inner), None),
            1 => (Some(name(inner)?), None, None),
            _ => (None, None, Some(name(inner)?)),
        };
        Some(Self { id, attempt, nonce, expires, parked, inner, approval })
    }
}

/// The questions of a server's result as the agent is shown them.
fn checked(invocation: &Invocation<'_>, requests: &[u8]) -> Result<Bytes, Error> {
    let (caller, target) = (invocation.caller, invocation.target);
    let revision = caller.revision.unwrap_or(Revision::NEWEST);
    let declared = offered(invocation);
    let node = json::parse(requests, LIMITS).ok().filter(Node::is_object).ok_or_else(|| unsound("`inputRequests` is not an object"))?;
    let mut out = b"{".to_vec();
    for member in node.members() {
        let method = member.node.get("method").and_then(Node::as_str).unwrap_or_default();
        let params = member.node.get("params");
        let needed = Capabilities::needs(method, params).ok_or_else(|| unsound("the tool server asks for what MCP does not know"))?;
        if !declared.contains(needed) {
            return Err(missing(needed));
        }
        let text = params.map(|params| params.text(requests)).unwrap_or_default();
        let shown = upstream::input_request(&target.upstream_id, revision, method, text).map_err(|why| {
            let error = Error::new(Code::ResultBlocked, "the tool server asks for what nobody should be asked here");
            error.from_upstream().after_effect(Effect::Unknown, false).operator(why)
        })?;
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(&member.key, &mut out);
        out.push(b':');
        out.extend_from_slice(&shown);
    }
    out.push(b'}');
    Ok(out.into())
}

/// The error of a call that needs what the agent did not declare, or the manifest does not let the server ask.
fn missing(needed: Capabilities) -> Error {
    let mut declared = Vec::new();
    needed.write(&mut declared);
    Error::new(Code::ClientCapabilityMissing, "the tool server asks for what it was not offered")
        .from_upstream()
        .after_effect(Effect::Unknown, false)
        .data("requiredCapabilities", String::from_utf8_lossy(&declared).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: usize, expires: i64) -> Round {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        Round { id: Uuid::nil(), attempt: 2, nonce, expires, parked: None, inner: None, approval: None }
    }

    #[test]
    fn a_state_that_is_forged_foreign_expired_or_used_is_none() {
        let (rounds, seal, own) = (Rounds::default(), Seal::new(&[7; 32]).unwrap(), [1; 32]);
        let mut plain = vec![VERSION, 0];
        plain.extend_from_slice(Uuid::nil().as_bytes());
        plain.extend_from_slice(&2_u32.to_be_bytes());
        plain.extend_from_slice(&[9; 16]);
        plain.extend_from_slice(&100_i64.to_be_bytes());
        plain.extend_from_slice(&own);
        plain.extend_from_slice(b"\"theirs\"");
        let state = seal.seal(PURPOSE, &plain).unwrap();
        let opened = |state: &str, binding: &[u8; 32], now| rounds.opened(&seal, state, binding, now).map(|round| round.expires);
        assert_eq!(opened(&state, &own, 100), Some(100));
        assert_eq!(opened(&state, &own, 101), None, "expired");
        assert_eq!(opened(&state, &[2; 32], 100), None, "of another call");
        assert_eq!(opened(&seal.seal("session2", &plain).unwrap(), &own, 100), None, "sealed for something else");
        assert_eq!(opened(&Seal::new(&[8; 32]).unwrap().seal(PURPOSE, &plain).unwrap(), &own, 100), None, "sealed by somebody else");
        let mut forged = state.clone().into_bytes();
        forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
        assert_eq!(opened(std::str::from_utf8(&forged).unwrap(), &own, 100), None, "forged");
        rounds.use_up(&"agent:a".into(), &rounds.opened(&seal, &state, &own, 100).unwrap(), 100).unwrap();
        assert_eq!(opened(&state, &own, 100), None, "used");
    }

    #[test]
    fn one_agents_used_states_leave_room_for_others() {
        let (rounds, one, other) = (Rounds::default(), "agent:a".into(), "agent:b".into());
        for number in 0..MAX_USED.0 / 2 {
            rounds.use_up(&one, &round(number, 10), 5).unwrap();
        }
        assert_eq!(rounds.use_up(&one, &round(70_000, 20), 5).unwrap_err().code(), Code::ConcurrencyLimited);
        rounds.use_up(&other, &round(70_001, 20), 5).unwrap();
        assert_eq!(rounds.use_up(&one, &round(0, 10), 5).unwrap_err().code(), Code::StateInvalid);
        rounds.use_up(&one, &round(70_000, 20), 11).unwrap();
        assert_eq!(rounds.used().len(), 2, "what has expired is forgotten");
    }
}
