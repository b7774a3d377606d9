//! Calls of a legacy server that may ask something: they run on while nobody waits for them, and are taken up again.
//!
//! Owns: the call under way, its open questions, and the names by which a later request finds it. Leaves to others: who may
//! take it up (`gateway`), which process or session it has (`pool`, `http_link`).
//! INVARIANT: a name is good once; whoever takes a call up or ends it, is the only one who does.
//! INVARIANT: a call that nobody holds any more is cancelled at its server.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::asking::{Asker, Question};
use super::http::Once;
use super::inbound::LIMITS;
use super::link::Link;
use super::pool::{self, Lease};
use super::request::{Exchange, Forwarded, Notice, Part, Patience, Reply, Request, Sent};
use super::{Core, Slot, Upstream, apart, bounded, elicit, wire};
use crate::error::{Code, Effect, Error};
use crate::mcp::canonical::write_string;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json;
use crate::mcp::log_level::LogLevel;
use crate::mcp::revision::{Era, Revision};
use crate::seal;

/// Calls of one upstream that wait for answers, and how many of them may be one agent's.
const MAX_PARKED: (usize, usize) = (256, 16);
/// Questions of one call that wait to be looked at, and progress that waits to be passed on.
const MAX_WAITING: usize = 16;
/// JSON-RPC's number for a request that failed here.
const FAILED: i32 = -32603;

/// The calls that wait, by name.
#[derive(Debug, Default)]
pub(super) struct Parks(Mutex<HashMap<Box<str>, Parked>>);

#[derive(Debug)]
struct Parked {
    agent: Arc<str>,
    call: Call,
}

/// What one round of a call is waited for with.
pub(super) struct Round<'r> {
    pub(super) revision: Revision,
    pub(super) agent: &'r Arc<str>,
    pub(super) cancel: &'r CancellationToken,
    pub(super) patience: Patience,
    pub(super) tell: &'r (dyn Fn(&Notice) + Send + Sync),
}

/// A call under way. Dropped, it is cancelled.
#[derive(Debug)]
struct Call {
    upstream: Upstream,
    link: Link,
    questions: mpsc::Receiver<Question>,
    notices: mpsc::Receiver<Notice>,
    reply: oneshot::Receiver<Result<Reply, Error>>,
    /// Shown to the agent and not answered yet, by the key that it was shown under.
    asked: BTreeMap<String, (Question, Bytes)>,
    keys: u32,
    tag: u128,
    sent: Sent,
    idempotent: bool,
    max_result_bytes: usize,
    _stop: DropGuard,
}

impl Upstream {
    /// The revision of a legacy server that may ask for some of `wanted`, while it is connected.
    pub(super) fn legacy_to_ask(&self, wanted: Capabilities) -> Option<Revision> {
        if wanted.is_empty() {
            return None;
        }
        let live = self.0.live.load_full()?;
        let version = live.version;
        // One stream of HTTP+SSE carries all calls, and a question on it does not say which one it belongs to.
        let is_shared = matches!(live.link, Link::OldSse(_));
        let may = version.era() == Era::Legacy && !is_shared && !wanted.intersect(Capabilities::known_to(version)).is_empty();
        may.then_some(version)
    }

    /// Forwards a request during which the server may ask something, until it is answered or the first question comes.
    ///
    /// # Errors
    /// As [`Upstream::call`], and `concurrency_limited` when too many calls wait already.
    pub(super) async fn converse(&self, slot: &Slot, request: Request<'_>, round: Round<'_>) -> Result<Forwarded, Error> {
        let Some(live) = self.0.live.load_full() else { return Err(self.unavailable(std::time::Duration::from_secs(1))) };
        let lease = match &live.link {
            Link::Stdio(_) => {
                let share = self.0.spec.share_of_processes(slot.only_agent);
                // Where principals have processes of their own, so have they these.
                let whose = apart::bounds(&self.0.spec.way).map_or_else(|| Arc::clone(round.agent), |_| request.session_key.into());
                Some(pool::lease(&self.0, &live.link, (&whose, share), request.capabilities).await?)
            }
            Link::Http(_) | Link::OldSse(_) => None,
        };
        let link = lease.as_ref().map_or_else(|| live.link.clone(), |lease| Link::Stdio(Arc::clone(&lease.link)));
        let (call, name) = (Call::start(self, link, lease, &request), request.name);
        let outcome = call.go_on(round).await;
        // A call that waits has taught the breaker nothing.
        match &outcome {
            Ok(Forwarded::Answered(_)) => self.learn(slot, name, Ok(())),
            Ok(Forwarded::Parked(..)) => {}
            Err(error) => self.learn(slot, name, Err(error)),
        }
        outcome
    }

    /// Takes up a call that waits, with the agent's `responses`, an object by the keys of the questions.
    ///
    /// # Errors
    /// `interaction_lost` when the call does not wait any more, else as [`Upstream::call`].
    pub(super) async fn take_up(&self, name: &str, responses: Option<&[u8]>, round: Round<'_>) -> Result<Forwarded, Error> {
        let parked = self.0.parks.all().remove(name);
        let mut call = parked.filter(|parked| parked.agent == *round.agent).map(|parked| parked.call).ok_or_else(lost)?;
        call.answer(responses);
        if !call.asked.is_empty() {
            return call.park(round.agent);
        }
        call.go_on(round).await
    }

    /// Ends a call that waits, if it still does: its server is told that nobody answers, and that the call is not wanted.
    pub fn end_parked(&self, name: &str) {
        let Some(mut parked) = self.0.parks.all().remove(name) else { return };
        let asked = std::mem::take(&mut parked.call.asked);
        asked.into_values().for_each(|(question, _)| parked.call.dismiss(&question));
    }
}

/// The error of a call whose questions can no longer be answered.
pub fn lost() -> Error {
    Error::new(Code::InteractionLost, "the call does not wait for these answers any more").after_effect(Effect::Unknown, false)
}

impl Parks {
    fn all(&self) -> MutexGuard<'_, HashMap<Box<str>, Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that outlives the message which brought it.
struct Owned {
    method: String,
    name: String,
    members: Vec<(String, OwnedPart)>,
    meta: Vec<(String, Vec<u8>)>,
    session_key: String,
    log_level: Option<LogLevel>,
}

enum OwnedPart {
    Text(String),
    Raw(Vec<u8>),
}

impl OwnedPart {
    fn borrowed(&self) -> Part<'_> {
        match self {
            Self::Text(text) => Part::Text(text),
            Self::Raw(raw) => Part::Raw(raw),
        }
    }
}

impl Owned {
    fn of(request: &Request<'_>) -> Self {
        let part = |part: &Part<'_>| match part {
            Part::Text(text) => OwnedPart::Text((*text).to_owned()),
            Part::Raw(raw) => OwnedPart::Raw(raw.to_vec()),
        };
        Self {
            method: request.method.to_owned(),
            name: request.name.to_owned(),
            members: request.members.iter().map(|(key, member)| ((*key).to_owned(), part(member))).collect(),
            meta: request.meta.iter().map(|(key, raw)| ((*key).to_owned(), raw.to_vec())).collect(),
            // A session has one set of capabilities for all of its life.
            session_key: format!("{}\u{1f}{}", request.session_key, request.capabilities.bits()),
            log_level: request.log_level,
        }
    }
}

impl Call {
    fn start(upstream: &Upstream, link: Link, lease: Option<Lease>, request: &Request<'_>) -> Self {
        let (ask, questions) = mpsc::channel(MAX_WAITING);
        let (tell, notices) = mpsc::channel(MAX_WAITING);
        let (answer, reply) = oneshot::channel();
        let (owned, sent, stop) = (Owned::of(request), request.sent.clone(), CancellationToken::new());
        let asker = Arc::new(Asker { declared: request.capabilities, questions: ask });
        let (capabilities, idempotent, tag) = (request.capabilities, request.idempotent, request.tag);
        let (on, marked, stopped) = (link.clone(), sent.clone(), stop.clone());
        upstream.0.shared.tasks.spawn(async move {
            let members: Vec<_> = owned.members.iter().map(|(key, member)| (key.as_str(), member.borrowed())).collect();
            let meta: Vec<_> = owned.meta.iter().map(|(key, raw)| (key.as_str(), raw.as_slice())).collect();
            let exchange = Exchange {
                name: Some(&owned.name),
                meta: &meta,
                session_key: &owned.session_key,
                notices: Some(&tell),
                log_level: owned.log_level,
                capabilities,
                asker: Some(&asker),
                idempotent,
                tag: Some(tag),
                ..Exchange::own(Era::Legacy, &owned.method, &members, &marked)
            };
            if let Some(reply) = stopped.run_until_cancelled(on.exchange(&exchange)).await {
                // Before the agent hears of it, since its next call may follow at once.
                if let Some(lease) = lease.filter(|_| reply.is_ok()) {
                    lease.keep();
                }
                let _ = answer.send(reply);
            }
        });
        Self {
            upstream: upstream.clone(),
            link,
            questions,
            notices,
            reply,
            asked: BTreeMap::new(),
            keys: 0,
            tag: request.tag,
            sent,
            idempotent,
            max_result_bytes: request.max_result_bytes,
            _stop: stop.drop_guard(),
        }
    }

    /// Waits for the answer or the next question.
    async fn go_on(mut self, round: Round<'_>) -> Result<Forwarded, Error> {
        // Progress from before belongs to a round that is over.
        while self.notices.try_recv().is_ok() {}
        loop {
            tokio::select! {
                biased;
                () = round.cancel.cancelled() => return Err(self.fault(Code::Cancelled, "the call was cancelled")),
                Some(notice) = self.notices.recv() => (round.tell)(&notice),
                reply = &mut self.reply => {
                    let reply = reply.unwrap_or_else(|_| Err(self.fault(Code::UpstreamDisconnected, "the tool server was stopped")));
                    while let Ok(notice) = self.notices.try_recv() {
                        (round.tell)(&notice);
                    }
                    let begun = self.sent.was_asked();
                    return reply.and_then(|reply| bounded(Reply { begun, ..reply }, self.max_result_bytes)).map(Forwarded::Answered);
                }
                Some(question) = self.questions.recv() => {
                    self.ask(question, round.revision);
                    while let Ok(question) = self.questions.try_recv() {
                        self.ask(question, round.revision);
                    }
                    if !self.asked.is_empty() {
                        return self.park(round.agent);
                    }
                }
                () = round.patience.ends(&self.sent) => {
                    return Err(round.patience.blamed(self.fault(Code::UpstreamTimeout, "the tool server did not answer in time")));
                }
            }
        }
    }

    /// Takes a question in, or dismisses it where nobody should see it.
    fn ask(&mut self, question: Question, revision: Revision) {
        match elicit::input_request(&self.core().shared.id, revision, &question.method, &question.params) {
            Ok(text) => {
                self.keys += 1;
                self.asked.insert(format!("q{}", self.keys), (question, text.into()));
            }
            Err(why) => {
                self.core().shared.refused(&format!("{}: {why}", question.method), Some(self.tag));
                self.dismiss(&question);
            }
        }
    }

    /// Leaves the call to itself until somebody takes it up by the name that comes out.
    fn park(self, agent: &Arc<str>) -> Result<Forwarded, Error> {
        let mut requests = b"{".to_vec();
        for (key, (_, text)) in &self.asked {
            if requests.len() > 1 {
                requests.push(b',');
            }
            write_string(key, &mut requests);
            requests.push(b':');
            requests.extend_from_slice(text);
        }
        requests.push(b'}');
        let mut random = [0; 16];
        let failed = |error: std::io::Error| self.fault(Code::Internal, "the machine gives no randomness").operator(error);
        seal::random(&mut random).map_err(failed)?;
        let name: Box<str> = seal::hex(&random).into();
        let upstream = self.upstream.clone();
        let mut parks = upstream.0.parks.all();
        let own = parks.values().filter(|parked| parked.agent == *agent).count();
        if parks.len() >= MAX_PARKED.0 || own >= MAX_PARKED.1 {
            return Err(self.fault(Code::ConcurrencyLimited, "too many calls wait for answers already"));
        }
        parks.insert(name.clone(), Parked { agent: Arc::clone(agent), call: self });
        Ok(Forwarded::Parked(name, requests.into()))
    }

    /// Gives the server the answers that there are; what nobody asked for is left out.
    fn answer(&mut self, responses: Option<&[u8]>) {
        let Some(text) = responses else { return };
        let Ok(node) = json::parse(text, LIMITS) else { return };
        for member in node.members() {
            if let Some((question, _)) = self.asked.remove(&*member.key) {
                self.say(&question, wire::result(&question.id, member.node.text(text)));
            }
        }
    }

    /// Tells the server that nobody answers.
    fn dismiss(&self, question: &Question) {
        let answer = match question.method.as_str() {
            "elicitation/create" => wire::result(&question.id, br#"{"action":"cancel"}"#),
            _ => wire::refusal(&question.id, FAILED, "nobody answers"),
        };
        self.say(question, answer);
    }

    fn say(&self, question: &Question, message: Vec<u8>) {
        match (&self.link, &question.place) {
            (Link::Stdio(link), _) => link.notify(message),
            (Link::OldSse(link), _) => link.notify(message),
            (Link::Http(link), Some(place)) => link.side(place, http::Method::POST, Once::plain(message)),
            (Link::Http(_), None) => {}
        }
    }

    fn core(&self) -> &Core {
        &self.upstream.0
    }

    fn fault(&self, code: Code, message: &'static str) -> Error {
        Error::new(code, message).from_upstream().after_effect(self.sent.settle(), self.idempotent)
    }
}
