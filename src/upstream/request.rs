//! One request as the gateway hands it over, its answer as the server gave it, and whether its first byte has left.
//!
//! Leaves to others: the bytes on the wire (`wire`), and the way there (`http`, `stdio`).
//! INVARIANT: a request that was withdrawn before its first byte left is never written; so `effect: none` is the truth.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::asking::Asker;
use crate::error::{Code, Effect, Error};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::log_level::LogLevel;
use crate::mcp::revision::{Era, Revision};

/// The reason of an error that a server has answered with, by an HTTP status below 500: it lives, and does not want the request.
pub(super) const ANSWERED: &str = "answered_by_status";

/// The reason of an error that the agent's own deadline brought about: it says nothing of the server.
pub(super) const IMPATIENT: &str = "agents_own_deadline";

/// One call of a target on a tool server.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method: `tools/call`, `prompts/get`, `resources/read`.
    pub method: &'a str,
    /// The server's own name of the target, or its URI: what `Mcp-Name` says (2026-07-28, streamable HTTP).
    pub name: &'a str,
    /// The members of `params`; raw ones are forwarded as they are.
    pub members: &'a [(&'a str, Part<'a>)],
    /// What the agent answers, and the state that the server wants back with it (2026-07-28).
    pub retry: Option<&'a Resume<'a>>,
    /// What the server is told that it may ask for: nothing else than what can be answered.
    pub capabilities: Capabilities,
    /// Members of `_meta` to relay: name and JSON text. The protocol's own (`io.modelcontextprotocol/…`, `progressToken`)
    /// are left out: they are between the server and us.
    pub meta: &'a [(&'a str, &'a [u8])],
    /// The `Mcp-Param-NAME` headers: NAME and value (2026-07-28, streamable HTTP).
    pub headers: &'a [(Box<str>, Box<str>)],
    /// Who calls. Sessions of legacy HTTP servers are kept per key and never shared.
    pub session_key: &'a str,
    /// Where progress and log messages go; dropped where it is full or absent.
    pub notices: Option<&'a mpsc::Sender<Notice>>,
    /// The least severe log message wanted; none where absent.
    pub log_level: Option<LogLevel>,
    /// Ends the call when the agent has given up.
    pub cancel: &'a CancellationToken,
    /// How long the answer is waited for.
    pub patience: Patience,
    /// Longest result, in bytes of JSON text.
    pub max_result_bytes: usize,
    /// Whether the manifest declares that calling twice is calling once.
    pub idempotent: bool,
    /// Comes back in [`super::Event::Late`] when an answer arrives after the call has ended.
    pub tag: u128,
    /// Tells whether the first byte has left; the caller keeps a clone, for when the call is abandoned.
    pub sent: &'a Sent,
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Whatever comes: the call has lasted too long then.
    pub deadline: Instant,
    /// Whether that is the agent's own deadline, which is shorter than the operator's.
    pub is_agents: bool,
    /// When the answer must have begun: the head of an HTTP answer, or progress.
    pub first_byte: Option<Instant>,
    /// Since when nothing has come, and how long that may be, where progress lets a call last longer.
    pub silence: Option<(Instant, Duration)>,
}

impl Patience {
    /// Until then, whether anything comes meanwhile or not.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, is_agents: false, first_byte: None, silence: None }
    }

    /// When it is over, as far as the server has been heard of by now.
    pub(super) fn over(&self, sent: &Sent) -> Instant {
        let first_byte = self.first_byte.filter(|_| !sent.has_head());
        let silence = self.silence.map(|(since, silence)| sent.last_sign().unwrap_or(since) + silence);
        [first_byte, silence].into_iter().flatten().fold(self.deadline, Instant::min)
    }

    /// The same error, where the agent's own deadline is the reason, as one that says nothing of the server.
    pub(super) fn blamed(&self, error: Error) -> Error {
        if self.is_agents && self.deadline <= Instant::now() { error.because(IMPATIENT) } else { error }
    }

    /// Waits until it is over.
    pub(super) async fn ends(&self, sent: &Sent) {
        loop {
            let over = self.over(sent);
            sleep_until(over).await;
            // Signs of the server may have put it off meanwhile.
            if self.over(sent) <= over {
                return;
            }
        }
    }
}

/// What a server tells while a call is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The `params` of `notifications/progress` without `progressToken`, a JSON object.
    Progress(Bytes),
    /// The `params` of `notifications/message`, a JSON object.
    Log(Bytes),
}

/// Whether a log message is to be passed on, given the least severe that is wanted.
pub(super) fn is_wanted(level: Option<LogLevel>, least: Option<LogLevel>) -> bool {
    level.zip(least).is_some_and(|(level, least)| level >= least)
}

/// The least severe log message that a server was told to send, in one session.
#[derive(Debug)]
pub(super) struct Level(AtomicU8);

impl Default for Level {
    fn default() -> Self {
        Self(AtomicU8::new(u8::MAX))
    }
}

impl Level {
    /// Whether the server has to be told, since it sends none as little severe as that; from then on it counts as told.
    pub(super) fn lowers(&self, level: LogLevel) -> bool {
        self.0.fetch_min(level as u8, Ordering::Relaxed) > level as u8
    }
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The JSON-RPC message as it was received, or the transmission that it stands in.
    pub body: Bytes,
    /// The revision that the server speaks: what the result's shape follows.
    pub version: Revision,
    /// Which answer it is, and where in `body`.
    pub outcome: Outcome,
    /// Whether the server had asked something before: then it had begun, whatever the number of its error says.
    pub begun: bool,
    /// Whether it came with an HTTP status from 500 on: the server speaks MCP, and says that it failed.
    pub is_5xx: bool,
}

/// How a request has gone on so far.
#[derive(Clone, Debug)]
pub enum Forwarded {
    /// It was answered.
    Answered(Reply),
    /// The server asks something, and its call waits: the name of the call, and the JSON text of `inputRequests`.
    Parked(Box<str>, Bytes),
}

/// The two answers of JSON-RPC, as spans of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The value of `result`.
    Result(Range<usize>),
    /// The value of `error`, an object.
    Failure(Range<usize>),
}

impl Reply {
    /// Whether it is a result.
    pub(super) fn is_result(&self) -> bool {
        matches!(self.outcome, Outcome::Result(_))
    }

    /// The JSON text of the result or the error object.
    pub fn text(&self) -> &[u8] {
        let (Outcome::Result(span) | Outcome::Failure(span)) = &self.outcome;
        self.body.get(span.clone()).unwrap_or_default()
    }
}

/// Whether the first byte of a request has left, and whether its server has asked something since. Clones tell of the same request.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<Way>);

#[derive(Debug, Default)]
struct Way {
    left: AtomicU8,
    asked: AtomicBool,
    /// Whether the answer has begun.
    head: AtomicBool,
    /// When the server told of progress for the last time.
    sign: Mutex<Option<Instant>>,
}

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Sent {
    /// Whether it has; from then on the effect of a call without an answer is unknown.
    pub fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Acquire) == LEFT
    }

    /// Taken by what writes, right before the first byte. False when the request must not be written.
    pub(super) fn claim(&self) -> bool {
        self.0.left.compare_exchange(WAITING, LEFT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The effect of a call that ends without an answer. Where it is `none`, it stays so: the request is withdrawn.
    pub(super) fn settle(&self) -> Effect {
        match self.0.left.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(WITHDRAWN) => Effect::None,
            Err(_) => Effect::Unknown,
        }
    }

    /// The server asks something while it works on the request.
    pub(super) fn asked(&self) {
        self.0.asked.store(true, Ordering::Release);
    }

    /// Whether it has.
    pub(super) fn was_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// The answer begins.
    pub(super) fn heads(&self) {
        self.0.head.store(true, Ordering::Release);
    }

    fn has_head(&self) -> bool {
        self.0.head.load(Ordering::Acquire)
    }

    /// The server tells of progress.
    pub(super) fn progresses(&self) {
        self.heads();
        *self.0.sign.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last_sign(&self) -> Option<Instant> {
        *self.0.sign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request was not processed, as its server says or as none of it got there: it may be written once more.
    pub(super) fn unprocessed(&self) {
        let _ = self.0.left.compare_exchange(LEFT, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// A member of `params`.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A string.
    Text(&'a str),
    /// JSON text.
    Raw(&'a [u8]),
}

/// What a request goes on with after an `input_required` result (2026-07-28).
#[derive(Clone, Copy, Debug)]
pub struct Resume<'a> {
    /// The JSON text of `inputResponses`.
    pub responses: Option<&'a [u8]>,
    /// `requestState` as a JSON string with its quotes, byte for byte as the server sent it.
    pub state: Option<&'a [u8]>,
    /// The call that waits for the answers, by the name that we gave it; then the request is not sent again.
    pub parked: Option<&'a str>,
}

impl<'a> Resume<'a> {
    /// What there is, as members of `params`.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'static str, &'a [u8])> {
        let members = [("inputResponses", self.responses), ("requestState", self.state)];
        members.into_iter().filter_map(|(name, text)| Some((name, text?)))
    }
}

/// A request on its way over a link: the gateway's, or one of ours (`tools/list`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange<'a> {
    pub(super) era: Era,
    pub(super) method: &'a str,
    pub(super) members: &'a [(&'a str, Part<'a>)],
    /// The value of `Mcp-Name`.
    pub(super) name: Option<&'a str>,
    pub(super) meta: &'a [(&'a str, &'a [u8])],
    pub(super) headers: &'a [(Box<str>, Box<str>)],
    pub(super) session_key: &'a str,
    pub(super) notices: Option<&'a mpsc::Sender<Notice>>,
    pub(super) log_level: Option<LogLevel>,
    pub(super) capabilities: Capabilities,
    pub(super) retry: Option<&'a Resume<'a>>,
    /// Where the server's questions go; none where nobody can be asked.
    pub(super) asker: Option<&'a Arc<Asker>>,
    pub(super) idempotent: bool,
    pub(super) tag: Option<u128>,
    pub(super) sent: &'a Sent,
}

/// The session key of the gateway's own requests; no principal has an empty name.
pub(super) const OWN_SESSION: &str = "";

impl<'a> Exchange<'a> {
    /// A request of our own.
    pub(super) fn own(era: Era, method: &'a str, members: &'a [(&'a str, Part<'a>)], sent: &'a Sent) -> Self {
        Self {
            era,
            method,
            members,
            name: None,
            meta: &[],
            headers: &[],
            session_key: OWN_SESSION,
            notices: None,
            log_level: None,
            capabilities: Capabilities::default(),
            retry: None,
            asker: None,
            idempotent: true,
            tag: None,
            sent,
        }
    }

    /// The error of a call that ends here without an answer.
    pub(super) fn fault(&self, code: Code, message: &'static str) -> Error {
        Error::new(code, message).from_upstream().after_effect(self.sent.settle(), self.idempotent)
    }

    /// Like [`Exchange::fault`], but `upstream_unavailable` when nothing has left.
    pub(super) fn broke(&self, code: Code, message: &'static str) -> Error {
        match self.sent.settle() {
            Effect::None => {
                Error::new(Code::UpstreamUnavailable, "the tool server could not be reached").from_upstream().retry_after_ms(1_000)
            }
            effect => Error::new(code, message).from_upstream().after_effect(effect, self.idempotent),
        }
    }

    /// The error when the server has said that it did not process the request.
    pub(super) fn refused(&self, message: &'static str) -> Error {
        self.sent.unprocessed();
        Error::new(Code::UpstreamUnavailable, message).from_upstream().because(ANSWERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withdrawn_request_is_never_written() {
        let sent = Sent::default();
        assert_eq!(sent.settle(), Effect::None);
        assert!(!sent.claim());
        assert_eq!(sent.settle(), Effect::None);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_puts_the_end_off_but_not_beyond_the_deadline() {
        let (sent, begun, second) = (Sent::default(), Instant::now(), Duration::from_secs(1));
        let (first_byte, silence) = (Some(begun + second), Some((begun, second * 2)));
        let patience = Patience { first_byte, silence, ..Patience::until(begun + second * 5) };
        let telling = async {
            tokio::time::sleep(second / 2).await;
            sent.heads();
            for _ in 0..10 {
                tokio::time::sleep(second).await;
                sent.progresses();
            }
        };
        tokio::select! {
            () = patience.ends(&sent) => {}
            () = telling => panic!("the deadline is past"),
        }
        assert_eq!(begun.elapsed(), second * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_ends_sooner() {
        let (sent, begun, second) = (Sent::default(), Instant::now(), Duration::from_secs(1));
        let patience = Patience { first_byte: Some(begun + second), ..Patience::until(begun + second * 5) };
        patience.ends(&sent).await;
        assert_eq!(begun.elapsed(), second);
        sent.heads();
        patience.ends(&sent).await;
        assert_eq!(begun.elapsed(), second * 5);
    }

    #[test]
    fn a_written_request_has_an_unknown_effect_until_the_server_disowns_it() {
        let sent = Sent::default();
        assert!(sent.claim() && sent.has_left());
        assert_eq!(sent.settle(), Effect::Unknown);
        sent.unprocessed();
        assert!(sent.claim());
    }
}
