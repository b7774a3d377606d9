//! The stage *forward* of the path: a recorded call in, the server's answer out.
//!
//! INVARIANT: what is sent is what was recorded: name, arguments and id come out of the [`Recorded`] proof.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::park::Round;
use super::{Forwarded, Notice, Part, Patience, Reply, Request, Resume, Revision, Sent, Slot, Upstream};
use crate::audit::trail::Recorded;
use crate::catalog::Target;
use crate::error::Error;
use crate::invocation::{Caller, Invocation};
use crate::mcp::canonical::write_string;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::Node;
use crate::mcp::messages::{self as mcp, Downstream, Kind, Method, TIMEOUT};

/// The member of `_meta` that says where in a trace a call is (W3C Trace Context). Not its state and its baggage, which hold any text.
const TRACE: &str = "traceparent";
/// Progress of one call that waits to be passed on; a faster server's is dropped.
const MAX_NOTICES: usize = 16;
/// Headers of an agent that no schema names and that are passed on.
const MAX_UNKNOWN_HEADERS: usize = 16;

/// What a call came with, and where its answer goes.
#[derive(Clone, Copy)]
pub struct Asked<'a, 'd> {
    /// The agent's request.
    pub request: &'a mcp::Request<'d, 'd>,
    /// The bytes that it was read from.
    pub message: &'a [u8],
    /// What it goes on with, where it is not the first of its call.
    pub resume: Option<&'a Resume<'a>>,
    /// The way back.
    pub downstream: &'a dyn Downstream,
}

impl Upstream {
    /// Sends a recorded call to its server and waits for the answer, until `deadline` at most, or the agent's cancellation.
    ///
    /// # Errors
    /// What failed on the way, and whether the call may have taken effect.
    pub async fn forward(&self, recorded: &Recorded<'_>, slot: Slot, asked: Asked<'_, '_>, deadline: Instant) -> Result<Forwarded, Error> {
        let Asked { request: asked, message, resume, downstream } = asked;
        let (invocation, sent) = (recorded.invocation(), Sent::default());
        let target = invocation.target;
        // Only `completion/complete` has one, and an empty text takes no memory.
        let reference = match invocation.method {
            Method::Complete => reference(target.kind, &target.own_name),
            _ => Vec::new(),
        };
        let (arguments, whose) = (invocation.arguments.text(), invocation.caller.principal.bound());
        // What nobody was shown, and no condition has looked at, does not go along.
        let is_lifted = recorded.permit().is_lifted_by_conditions();
        let is_bare = is_lifted || recorded.was_approved();
        let (members, len) = members(invocation.method, &target.own_name, &reference, arguments, invocation.context.filter(|_| !is_lifted));
        let mut relayed = relayed(recorded, asked, message, is_bare);
        let left = self.left(asked, deadline);
        relayed.extend(left.as_ref().map(|left| (TIMEOUT, left.as_bytes())));
        // Of a result that is redacted, nothing else may tell: no progress, no message and no question, which a server words as it likes.
        let is_open = !recorded.permit().redacts();
        let token = asked.meta.progress_token().filter(|_| is_open);
        // Nor is there a question where the answers would not go on.
        let wanted = if is_open && !is_lifted { wanted(invocation) } else { Capabilities::default() };
        let headers = param_headers(target, asked, is_bare);
        let log_level = invocation.caller.log_level.filter(|_| is_open && self.offers().is_some_and(|offers| offers.logging));
        let patience = patience(target, asked, deadline);
        let listens = token.is_some() || log_level.is_some() || patience.first_byte.is_some() || patience.silence.is_some();
        let (notices, mut told) = listens.then(|| mpsc::channel(MAX_NOTICES)).unzip();
        let request = Request {
            method: invocation.method.as_str(),
            name: &target.own_name,
            members: members.get(..len).unwrap_or_default(),
            retry: resume,
            capabilities: wanted,
            meta: &relayed,
            headers: &headers,
            session_key: &whose,
            notices: notices.as_ref(),
            log_level,
            cancel: downstream.cancelled(),
            patience,
            max_result_bytes: target.max_result_bytes,
            idempotent: target.is_idempotent(),
            tag: invocation.id.as_u128(),
            sent: &sent,
        };
        let tell = |notice: &Notice| {
            if matches!(notice, Notice::Progress(_)) {
                sent.progresses();
            }
            if is_open {
                pass_on(notice, token, message, downstream)
            }
        };
        if let Some(name) = resume.and_then(|resume| resume.parked) {
            let round = round(invocation.caller, &request, &tell);
            return Box::pin(self.take_up(name, resume.and_then(|resume| resume.responses), round)).await;
        }
        if self.needs_task(target.task) {
            return Box::pin(self.run_task(&slot, request)).await.map(Forwarded::Answered);
        }
        if let Some(version) = self.legacy_to_ask(wanted) {
            let request = Request { capabilities: wanted.intersect(Capabilities::known_to(version)), retry: None, ..request };
            return Box::pin(self.converse(&slot, request, round(invocation.caller, &request, &tell))).await;
        }
        let call = pin!(self.call(&slot, request));
        let reply = match told.as_mut() {
            None => call.await,
            Some(told) => hearing(call, told, &tell).await,
        };
        reply.map(Forwarded::Answered)
    }
}

/// Waits for the reply, and tells what comes before it.
async fn hearing(
    mut call: Pin<&mut impl Future<Output = Result<Reply, Error>>>,
    told: &mut mpsc::Receiver<Notice>,
    tell: &(dyn Fn(&Notice) + Send + Sync),
) -> Result<Reply, Error> {
    loop {
        tokio::select! {
            biased;
            Some(notice) = told.recv() => tell(&notice),
            reply = &mut call => {
                while let Ok(notice) = told.try_recv() {
                    tell(&notice);
                }
                return reply;
            }
        }
    }
}

impl Upstream {
    /// What is left of the time, in milliseconds, for a server that can read it: a modern one, or any where the agent has said how much
    /// it has. Legacy servers are used to requests without `_meta`.
    fn left(&self, asked: &mcp::Request<'_, '_>, deadline: Instant) -> Option<String> {
        let is_modern = || self.0.live.load().as_ref().is_some_and(|live| live.version.is_modern());
        let wanted = asked.deadline.is_some() || is_modern();
        wanted.then(|| deadline.saturating_duration_since(Instant::now()).as_millis().to_string())
    }
}

/// The members of `_meta` that go on: those of the agent, or where it `is_bare` only its place in a trace; and ours in place of that where a
/// collector is told of the call, so that the server's spans stand below ours.
fn relayed<'r>(recorded: &'r Recorded<'_>, asked: &mcp::Request<'r, 'r>, message: &'r [u8], is_bare: bool) -> Vec<(&'r str, &'r [u8])> {
    let mut relayed = asked.meta.relayed(message);
    if is_bare {
        // Traces differ each time, and no server acts on them.
        relayed.retain(|(key, _)| *key == TRACE);
    }
    if let Some(trace) = recorded.trace() {
        relayed.retain(|(key, _)| *key != TRACE);
        relayed.push((TRACE, trace.as_bytes()));
    }
    relayed
}

/// How long the answer to a call of the target is waited for.
fn patience(target: &Target, asked: &mcp::Request<'_, '_>, deadline: Instant) -> Patience {
    let is_agents = asked.deadline.is_some_and(|theirs| theirs <= deadline);
    let whole = Patience { is_agents, ..Patience::until(deadline) };
    let can_last = target.max_timeout_ms > target.timeout_ms;
    if !can_last && target.first_byte_timeout_ms.is_none() {
        return whole;
    }
    let (now, ms) = (Instant::now(), Duration::from_millis);
    let first_byte = target.first_byte_timeout_ms.map(|wait| now + ms(wait));
    Patience { first_byte, silence: can_last.then(|| (now, ms(target.timeout_ms))), ..whole }
}

/// The headers that repeat arguments: those of the schema made of the arguments as they are forwarded, then those that it does
/// not name, as the agent sent them (2026-07-28, streamable HTTP), unless nobody has looked at them who should. Nearly every call has none.
fn param_headers(target: &Target, asked: &mcp::Request<'_, '_>, is_bare: bool) -> Vec<(Box<str>, Box<str>)> {
    let known = target.headers.iter().filter_map(|header| Some((header.name.clone(), header.value(asked.arguments)?.into())));
    let is_known = |name: &str| target.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let others = asked.param_headers.unwrap_or_default().iter().filter(|(name, _)| !is_known(name));
    let most = if is_bare { 0 } else { MAX_UNKNOWN_HEADERS };
    known.chain(others.take(most).cloned()).collect()
}

/// What the server may be told that it can ask this agent for.
fn wanted(invocation: &Invocation<'_>) -> Capabilities {
    let (caller, target) = (invocation.caller, invocation.target);
    let known = Capabilities::known_to(caller.revision.unwrap_or(Revision::NEWEST));
    caller.capabilities.intersect(target.may_ask).intersect(known)
}

fn round<'r>(caller: &'r Caller, request: &Request<'r>, tell: &'r (dyn Fn(&Notice) + Send + Sync)) -> Round<'r> {
    let revision = caller.revision.unwrap_or(Revision::NEWEST);
    Round { revision, agent: &caller.principal.id, cancel: request.cancel, patience: request.patience, tell }
}

/// The members of `params`, and how many there are.
fn members<'a>(
    method: Method,
    name: &'a str,
    reference: &'a [u8],
    arguments: &'a [u8],
    context: Option<&'a [u8]>,
) -> ([(&'static str, Part<'a>); 3], usize) {
    let unused = ("", Part::Raw(b""));
    match method {
        Method::CallTool | Method::GetPrompt => ([("name", Part::Text(name)), ("arguments", Part::Raw(arguments)), unused], 2),
        Method::ReadResource => ([("uri", Part::Text(name)), unused, unused], 1),
        Method::Complete => {
            let context_member = ("context", Part::Raw(context.unwrap_or_default()));
            ([("ref", Part::Raw(reference)), ("argument", Part::Raw(arguments)), context_member], 2 + usize::from(context.is_some()))
        }
    }
}

/// The `ref` of `completion/complete`.
fn reference(kind: Kind, name: &str) -> Vec<u8> {
    let mut out = match kind {
        Kind::Resource => br#"{"type":"ref/resource","uri":"#.to_vec(),
        Kind::Prompt | Kind::Tool => br#"{"type":"ref/prompt","name":"#.to_vec(),
    };
    write_string(name, &mut out);
    out.push(b'}');
    out
}

/// Passes a log message on as it is, and progress under the agent's own token, where it has one.
fn pass_on(notice: &Notice, token: Option<&Node<'_>>, message: &[u8], downstream: &dyn Downstream) {
    let params = match notice {
        Notice::Progress(params) => params,
        Notice::Log(params) => return downstream.notify("notifications/message", params),
    };
    let (Some(token), Some(rest)) = (token, params.strip_prefix(b"{")) else { return };
    let mut out = Vec::with_capacity(params.len() + 64);
    out.extend_from_slice(b"{\"progressToken\":");
    out.extend_from_slice(token.text(message));
    if !rest.starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(rest);
    downstream.notify("notifications/progress", &out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(method: Method, context: Option<&[u8]>) -> Vec<&'static str> {
        let (members, used) = members(method, "n", b"{}", b"{}", context);
        members[..used].iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn each_method_has_its_own_members() {
        assert_eq!(names(Method::GetPrompt, None), ["name", "arguments"]);
        assert_eq!(names(Method::ReadResource, None), ["uri"]);
        assert_eq!(names(Method::Complete, None), ["ref", "argument"]);
        assert_eq!(names(Method::Complete, Some(b"{}")), ["ref", "argument", "context"]);
        assert_eq!(reference(Kind::Resource, "x:\"{y}"), br#"{"type":"ref/resource","uri":"x:\"{y}"}"#);
    }
}
