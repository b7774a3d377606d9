//! Everything that speaks to tool servers: one [`Upstream`] for each manifest.
//!
//! Owns: connections and their return, the eras of the protocol, processes, sessions, the breakers and the slots.
//! Leaves to others: who may call (`policy`), whether a definition is the reviewed one (`catalog`), what a result may say.
//!
//! INVARIANT: an error tells the truth about its effect. `none` means that no byte of the request was, or ever will be, written.
//! INVARIANT: a request is sent twice only where the protocol guarantees that the first was not processed (`http_link`).
//! INVARIANT: everything that waits or grows is bounded, and no lock is held across an await.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tokio::sync::watch as latest;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::catalog::transport::{Command, Endpoint, Transport};
use crate::error::{Code, Effect, Error};
use crate::limit::bulkhead::{Bulkhead, Room};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::log_level::LogLevel;
use crate::mcp::messages::Offers;
use crate::sandbox::{Ground, Started};

mod answer;
mod apart;
mod asking;
mod backoff;
mod breaker;
mod breakers;
mod budget;
mod child;
mod elicit;
mod era;
mod forward;
mod handshake;
mod headers;
mod http;
mod http_link;
mod inbound;
mod link;
mod listen;
mod listing;
mod oauth;
mod old_sse;
mod pace;
mod park;
mod pending;
mod pool;
mod request;
mod reserve;
mod resume;
mod salvage;
mod session;
mod shared;
pub mod sse;
mod stdio;
mod supervise;
mod tasks;
mod usage;
mod watch;
mod wire;
mod words;

pub use crate::mcp::revision::{Era, Revision};
pub use backoff::Backoff;
pub use breaker::Standing;
pub use breakers::{is_impatient, may_pass};
pub use budget::Retries;
pub use elicit::input_request;
pub use era::Dialect;
pub use forward::Asked;
pub use park::lost;
pub use request::{Forwarded, Notice, Outcome, Part, Patience, Reply, Request, Resume, Sent};
pub use reserve::{Load, Slot, Wanted};
pub use shared::{Asking, Definition, Event, Listing, Report, Tally};

pub use watch::{Watch, is_within};

use apart::{Apart, Own};
use breakers::Breakers;
use budget::Budget;
use link::Link;
use park::Parks;
use pool::Pool;
use request::{Exchange, Level};
use shared::Shared;

/// How one tool server is reached, and what a connection and its calls may cost.
#[derive(Clone, Debug)]
pub struct Spec {
    id: String,
    way: Way,
    /// How its processes are started.
    pub launch: Launch,
    /// Longest time for a connection with its handshake, and for one page of a list, in milliseconds. Default 30000.
    pub connect_timeout_ms: u64,
    /// How long a server on pipes may leave `server/discover` unanswered before `initialize` is tried, in milliseconds.
    /// Default 1500.
    pub probe_timeout_ms: u64,
    /// Longest message of the server, in bytes. Default 16777216.
    pub max_message_bytes: usize,
    /// Calls under way at once; further ones wait. Default 16.
    pub concurrency: usize,
    /// How many of them may be one agent's. By default three quarters, so that calls which nobody waits for any more cannot take
    /// every place, or all where the gateway knows a single agent.
    pub per_agent: Option<usize>,
    /// Calls that wait for a place; further ones are refused. Default 64.
    pub queue: usize,
    /// How many of them may be one agent's, by default likewise.
    pub queue_per_agent: Option<usize>,
    /// How many of a hundred calls may be sent again. Default 10.
    pub retry_percent: u32,
    /// What it may ask an agent for while a call is under way. Default nothing.
    pub may_ask: Capabilities,
    /// What the server spoke when it was last connected, which spares a legacy one the probe. A wrong one costs one attempt.
    pub remembered: Option<Dialect>,
}

/// How the processes of a server are started: in which folder, without reaching what, and by which way into their confinement.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The folder, and what may not be reached.
    pub ground: Arc<Ground>,
    /// Doorward's binary. By default the file that this process runs, also where another stands under its name by now.
    pub way_in: PathBuf,
}

impl Launch {
    /// In this folder.
    pub fn new(ground: Arc<Ground>) -> Self {
        Self { ground, way_in: PathBuf::from("/proc/self/exe") }
    }
}

/// A transport, checked.
#[derive(Clone, Debug)]
enum Way {
    Http(http::Address, Box<Endpoint>),
    Stdio(Command),
}

/// A transport that cannot be used; the text is for the operator.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadTransport(String);

impl Spec {
    /// The defaults for a server. Relative paths of a command are resolved against the ground's folder, and it runs there.
    ///
    /// # Errors
    /// [`BadTransport`] for a URL that is not https (or http on this machine), or has a user name or a fragment.
    pub fn new(id: &str, transport: &Transport, ground: Arc<Ground>) -> Result<Self, BadTransport> {
        let way = match transport {
            Transport::Http(endpoint) => {
                let address = http::Address::parse(endpoint, &ground.base).map_err(BadTransport)?;
                Way::Http(address, Box::new(endpoint.clone()))
            }
            Transport::Stdio(command) => Way::Stdio(command.clone()),
        };
        Ok(Self {
            id: id.to_owned(),
            way,
            launch: Launch::new(ground),
            connect_timeout_ms: 30_000,
            probe_timeout_ms: 1_500,
            max_message_bytes: 16 * 1024 * 1024,
            concurrency: 16,
            per_agent: None,
            queue: 64,
            queue_per_agent: None,
            retry_percent: 10,
            may_ask: Capabilities::default(),
            remembered: None,
        })
    }

    fn share(&self, only_agent: bool) -> Room {
        Room {
            places: self.per_agent.unwrap_or(usual_share(self.concurrency, only_agent)),
            queue: self.queue_per_agent.unwrap_or(usual_share(self.queue, only_agent)),
        }
    }

    /// How many of the processes that may ask something can be one agent's: never more than of its calls.
    fn share_of_processes(&self, only_agent: bool) -> usize {
        usual_share(pool::MAX_PROCESSES, only_agent).min(self.per_agent.unwrap_or(usize::MAX))
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    fn probe_timeout(&self) -> Duration {
        Duration::from_millis(self.probe_timeout_ms)
    }
}

/// Three quarters, so that the others have something left; everything where there are no others.
fn usual_share(whole: usize, only_agent: bool) -> usize {
    if only_agent { whole } else { whole - whole / 4 }
}

/// Whether a server takes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A connection is being made.
    Connecting,
    /// It takes calls.
    Connected {
        /// The revision that was agreed on.
        version: Revision,
    },
    /// It does not, and the next attempt is some time away.
    Failed {
        /// Why, for the operator.
        reason: String,
        /// The wait from when it failed.
        retry_in: Duration,
    },
    /// It never will again.
    Stopped,
}

impl State {
    /// Whether it takes calls.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => out.write_str("connecting"),
            Self::Connected { version } => write!(out, "connected, {}", version.as_str()),
            Self::Failed { reason, retry_in } => write!(out, "failed: {reason}; tried again after {} ms", retry_in.as_millis()),
            Self::Stopped => out.write_str("stopped"),
        }
    }
}

/// One tool server. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Core>);

#[derive(Debug)]
struct Core {
    spec: Spec,
    shared: Arc<Shared>,
    state: latest::Sender<State>,
    live: ArcSwapOption<Live>,
    /// What the server said of itself when it was last connected.
    offers: ArcSwapOption<Offers>,
    breakers: Breakers,
    bulkhead: Arc<Bulkhead>,
    budget: Budget,
    parks: Parks,
    pool: Pool,
    apart: Apart,
    /// Whether unused processes of principals are looked for.
    sweeping: AtomicBool,
}

/// What calls go over.
#[derive(Debug)]
struct Live {
    link: Link,
    version: Revision,
    /// The log messages that a legacy server was told to send, where it has a single session.
    level: Level,
}

impl Upstream {
    /// Starts to connect and returns at once. What happens is reported to `events`, which must be read:
    /// see [`Event::Listed`]. The upstream ends with `shutdown`, or with [`Upstream::stop`].
    pub fn start(spec: Spec, events: mpsc::Sender<Report>, shutdown: &CancellationToken) -> Self {
        let shared = Arc::new(Shared::new(&spec.id, spec.max_message_bytes, spec.may_ask, events, shutdown.child_token()));
        let bulkhead = Arc::new(Bulkhead::new(Room { places: spec.concurrency, queue: spec.queue }));
        let (breakers, budget) = (Breakers::new(&shared.id), Budget::new(spec.retry_percent));
        let (state, live, offers) = (latest::Sender::new(State::Connecting), ArcSwapOption::empty(), ArcSwapOption::empty());
        let (parks, pool) = (Parks::default(), Pool::new());
        let core = Arc::new(Core {
            spec,
            shared,
            state,
            live,
            offers,
            breakers,
            bulkhead,
            budget,
            parks,
            pool,
            apart: Apart::default(),
            sweeping: AtomicBool::new(false),
        });
        core.shared.tasks.spawn(supervise::run(Arc::clone(&core)));
        core.shared.tasks.spawn(watch::report(Arc::clone(&core.shared)));
        Self(core)
    }

    /// The upstream's id.
    pub fn id(&self) -> &str {
        &self.0.shared.id
    }

    /// Whether it takes calls now.
    pub fn state(&self) -> State {
        self.0.state.borrow().clone()
    }

    /// What the server can do, as it said when it was last connected; `None` before that.
    pub fn offers(&self) -> Option<Offers> {
        self.0.offers.load().as_deref().copied()
    }

    /// The process that was started last; `None` before the first, and for a server on HTTP.
    pub fn started(&self) -> Option<Arc<Started>> {
        self.0.shared.started.load_full()
    }

    /// Whether a call would have a connection to go over now.
    pub fn takes_calls(&self) -> bool {
        self.0.live.load().as_ref().is_some_and(|live| !live.link.is_gone())
    }

    /// Waits up to `grace` for a connection.
    ///
    /// # Errors
    /// `upstream_unavailable` when there is none by then, or at once when there can be none by then.
    pub async fn ready(&self, grace: Duration) -> Result<(), Error> {
        if self.takes_calls() {
            return Ok(());
        }
        let mut state = self.0.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Connecting => false,
            State::Failed { retry_in, .. } => *retry_in >= grace,
            // A link that has just gone is still called connected, until that is noticed.
            State::Connected { .. } => self.takes_calls(),
            State::Stopped => true,
        });
        if let Ok(Ok(state)) = timeout(grace, settled).await
            && matches!(*state, State::Connected { .. })
        {
            return Ok(());
        }
        match self.state() {
            State::Failed { reason, retry_in } => Err(self.unavailable(retry_in).operator(reason)),
            _ => Err(self.unavailable(Duration::from_secs(1))),
        }
    }

    fn unavailable(&self, wait: Duration) -> Error {
        Error::new(Code::UpstreamUnavailable, format!("the tool server `{}` is not connected", self.id()))
            .from_upstream()
            .retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    /// Forwards one request and waits for its answer, which may be a JSON-RPC error. The breakers learn how it went.
    /// Dropped before that, the request is withdrawn, or cancelled in the era's way.
    ///
    /// # Errors
    /// Codes of the category `upstream`, `result_too_large` and `cancelled`, with what is known about the effect.
    pub async fn call(&self, slot: &Slot, request: Request<'_>) -> Result<Reply, Error> {
        let Some(live) = self.0.live.load_full() else { return Err(self.unavailable(Duration::from_secs(1))) };
        let own = match apart::bounds(&self.0.spec.way) {
            None => None,
            // Boxed, since it is rare and would make the state of every call larger. That somebody's own process does not start teaches the
            // breaker nothing: it is the others' too.
            Some(_) => Box::pin(self.own(&live, &request)).await?,
        };
        let (link, version) = own.as_ref().and_then(Own::link).unwrap_or((&live.link, live.version));
        if let Some(level) = request.log_level {
            self.want_log(&live, level);
        }
        let exchange = Exchange {
            era: version.era(),
            method: request.method,
            members: request.members,
            name: Some(request.name),
            meta: request.meta,
            headers: request.headers,
            session_key: request.session_key,
            notices: request.notices,
            log_level: request.log_level,
            // A legacy server was told at the handshake of what it may ask, and in this session nobody can be asked.
            capabilities: if version.is_modern() { request.capabilities } else { Capabilities::default() },
            retry: request.retry.filter(|_| version.is_modern()),
            asker: None,
            idempotent: request.idempotent,
            tag: Some(request.tag),
            sent: request.sent,
        };
        let outcome = tokio::select! {
            biased;
            () = request.cancel.cancelled() => Err(exchange.fault(Code::Cancelled, "the call was cancelled")),
            outcome = link.exchange(&exchange) => outcome,
            () = request.patience.ends(request.sent) => {
                Err(request.patience.blamed(exchange.broke(Code::UpstreamTimeout, "the tool server did not answer in time")))
            }
        };
        match &outcome {
            Ok(reply) if reply.is_5xx => {
                self.learn(slot, request.name, Err(&exchange.fault(Code::UpstreamUnavailable, "the tool server failed")))
            }
            told => self.learn(slot, request.name, told.as_ref().map(drop)),
        }
        // A request that brings answers goes on with one that the server has begun.
        let begun = request.sent.was_asked() || request.retry.is_some();
        outcome.and_then(|reply| bounded(Reply { begun, ..reply }, request.max_result_bytes))
    }

    /// The process of whoever calls, where each has one: until the call's deadline, or nobody wants it any more.
    async fn own(&self, live: &Live, request: &Request<'_>) -> Result<Option<Own>, Error> {
        tokio::select! {
            biased;
            () = request.cancel.cancelled() => Err(Error::new(Code::Cancelled, "the call was cancelled")),
            own = apart::own(&self.0, &live.link, request.session_key) => own,
            () = tokio::time::sleep_until(request.patience.deadline) => {
                Err(self.unavailable(Duration::from_secs(1)).operator("no process of its own was ready in time"))
            }
        }
    }

    /// Has a legacy server with a single session send such log messages.
    fn want_log(&self, live: &Live, level: LogLevel) {
        if !self.offers().is_some_and(|offers| offers.logging) || live.version.is_modern() {
            return;
        }
        match &live.link {
            Link::Stdio(link) if live.level.lowers(level) => link.set_level(level),
            Link::OldSse(link) if live.level.lowers(level) => link.set_level(level),
            // Over HTTP each session is told by itself.
            Link::Stdio(_) | Link::OldSse(_) | Link::Http(_) => {}
        }
    }

    /// Leaves the server little time to end by itself, from now on.
    pub fn hurry(&self) {
        self.0.shared.hurry.cancel();
    }

    /// Ends the connection, and the process with its group. Does not wait for calls: they end as disconnected.
    pub async fn stop(&self) {
        self.0.shared.stop.cancel();
        self.0.shared.tasks.close();
        self.0.shared.tasks.wait().await;
    }
}

fn bounded(reply: Reply, limit: usize) -> Result<Reply, Error> {
    match &reply.outcome {
        Outcome::Result(span) if span.len() > limit => {
            let message = format!("the result has {} bytes, and {limit} are allowed", span.len());
            Err(Error::new(Code::ResultTooLarge, message).from_upstream().after_effect(Effect::Done, false))
        }
        _ => Ok(reply),
    }
}
