//! The first words with a server: which era it is of, and what it says of itself.
//!
//! Leaves to others: the rules (`era`), the transports (`stdio`, `http_link`, `old_sse`).
//! INVARIANT: a legacy server is sent nothing but `server/discover` before `initialize` has succeeded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::DropGuard;

use super::Launch;
use super::era::{self, Dialect, Next, Probe};
use super::http::{Address, Client};
use super::http_link::{Answered, HttpLink};
use super::inbound::{self, Greeting};
use super::link::Link;
use super::listing::explain;
use super::old_sse::OldSseLink;
use super::request::{Exchange, Outcome, Reply, Sent};
use super::shared::Shared;
use super::stdio::StdioLink;
use super::wire;
use crate::catalog::transport::{Command, Endpoint};
use crate::error::{Code, Error};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::revision::{Era, Revision};

/// A link whose server has introduced itself. It is closed with the guard.
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) greeting: Greeting,
    /// What to take the server for next time.
    pub(super) dialect: Dialect,
    pub(super) closer: DropGuard,
}

/// No link.
#[derive(Debug)]
pub(super) struct NotOpened {
    /// Why, for the operator.
    pub(super) reason: String,
    /// What to take the server for next time.
    pub(super) memory: Option<Dialect>,
}

impl From<String> for NotOpened {
    /// Nothing was learnt about the era: the next attempt asks.
    fn from(reason: String) -> Self {
        Self { reason, memory: None }
    }
}

impl From<&Error> for NotOpened {
    fn from(error: &Error) -> Self {
        Self::from(explain(error))
    }
}

/// Starts a server on pipes. `silence` is how long it may leave a probe unanswered before it is taken for a legacy one, which
/// is then told of `capabilities`.
pub(super) async fn stdio(
    command: &Command,
    launch: &Launch,
    shared: &Arc<Shared>,
    memory: Option<Dialect>,
    silence: Duration,
    capabilities: Capabilities,
) -> Result<Opened, NotOpened> {
    let link = StdioLink::open(command, launch, shared).await?;
    let closer = link.closer();
    let whole = Link::Stdio(Arc::clone(&link));
    let greeting = match memory {
        Some(Dialect::Legacy | Dialect::LegacySse) => initialize(&whole, capabilities).await?,
        Some(Dialect::Modern) | None => discover(&whole, silence, capabilities).await?,
    };
    link.agreed(greeting.version);
    if greeting.version.era() == Era::Legacy {
        link.notify(wire::INITIALIZED.to_vec());
    }
    let dialect = of_era(greeting.version.era());
    Ok(Opened { link: whole, greeting, dialect, closer })
}

fn of_era(era: Era) -> Dialect {
    match era {
        Era::Modern => Dialect::Modern,
        Era::Legacy => Dialect::Legacy,
    }
}

async fn discover(link: &Link, silence: Duration, capabilities: Capabilities) -> Result<Greeting, NotOpened> {
    let sent = Sent::default();
    let exchange = Exchange::own(Era::Modern, "server/discover", &[], &sent);
    let mut discovered = std::pin::pin!(link.exchange(&exchange));
    // A server that ends over an unknown method is a legacy one; the next process is spared the question.
    let ended = |error: &Error| NotOpened { reason: explain(error), memory: Some(Dialect::Legacy) };
    match timeout(silence, &mut discovered).await {
        Ok(Ok(reply)) => match era::after_message(&probe(&reply)) {
            Next::Modern => modern(&reply),
            Next::Initialize => initialize(link, capabilities).await,
            Next::Fail(reason) => Err(reason.into()),
        },
        Ok(Err(error)) => Err(ended(&error)),
        // Legacy servers may drop what they do not know, so silence is an answer on pipes. But it may also be a modern server
        // that is slow to start: from now on both questions stand.
        Err(_) => {
            let mut initialized = std::pin::pin!(initialize(link, capabilities));
            tokio::select! {
                greeting = &mut initialized => match greeting {
                    Ok(greeting) => Ok(greeting),
                    Err(refused) => discovered.await.ok().and_then(|reply| if_modern(&reply)).ok_or(refused),
                },
                reply = &mut discovered => match if_modern(&reply.map_err(|error| ended(&error))?) {
                    Some(greeting) => Ok(greeting),
                    None => initialized.await,
                },
            }
        }
    }
}

fn if_modern(reply: &Reply) -> Option<Greeting> {
    if era::after_message(&probe(reply)) == Next::Modern { modern(reply).ok() } else { None }
}

fn modern(reply: &Reply) -> Result<Greeting, NotOpened> {
    match &reply.outcome {
        Outcome::Result(span) => inbound::greeting(&reply.body, span.clone(), Era::Modern)
            .map_err(|_| NotOpened::from("the answer to `server/discover` cannot be read".to_owned())),
        // It refused the version that it names itself.
        Outcome::Failure(_) => Err("the server refuses the revision that it says it speaks".to_owned().into()),
    }
}

async fn initialize(link: &Link, capabilities: Capabilities) -> Result<Greeting, NotOpened> {
    let (sent, declared) = (Sent::default(), wire::declared(capabilities));
    let members = wire::initialize_members(&declared);
    let exchange = Exchange::own(Era::Legacy, "initialize", &members, &sent);
    let reply = link.exchange(&exchange).await.map_err(|error| NotOpened::from(&error))?;
    match &reply.outcome {
        Outcome::Result(span) => inbound::greeting(&reply.body, span.clone(), Era::Legacy)
            .map_err(|_| NotOpened::from("the server answers `initialize` with no revision that we speak".to_owned())),
        Outcome::Failure(_) => {
            let refusal = inbound::refusal(reply.text());
            Err(format!("the server refuses `initialize` with error {}: {}", refusal.code, refusal.message).into())
        }
    }
}

/// What a message says in answer to `server/discover`.
fn probe(reply: &Reply) -> Probe {
    match &reply.outcome {
        Outcome::Result(_) => inbound::supported_versions(reply.text()).map_or(Probe::Strange, Probe::Discovered),
        Outcome::Failure(_) => {
            let refusal = inbound::refusal(reply.text());
            Probe::Refused { code: refusal.code, supported: refusal.supported }
        }
    }
}

/// Gets to know a server on HTTP.
pub(super) async fn http(
    address: &Address,
    endpoint: &Endpoint,
    shared: &Arc<Shared>,
    memory: Option<Dialect>,
    connect: Duration,
    idle: usize,
) -> Result<Opened, NotOpened> {
    let client = || Client::new(address, endpoint, connect, idle);
    if memory == Some(Dialect::LegacySse)
        && let Ok(opened) = old_sse(client()?, shared).await
    {
        return Ok(opened);
    }
    let link = HttpLink::new(client()?, shared);
    let closer = link.gone.clone().drop_guard();
    let greeting = match memory {
        Some(Dialect::Legacy) => match own_session(&link).await {
            Ok(greeting) => Ok(greeting),
            Err(_) => probe_http(&link).await,
        },
        Some(Dialect::Modern | Dialect::LegacySse) | None => probe_http(&link).await,
    };
    match greeting {
        Ok(greeting) => {
            let dialect = of_era(greeting.version.era());
            Ok(Opened { link: Link::Http(link), greeting, dialect, closer })
        }
        Err(refused) if link.takes_no_post.load(Ordering::Relaxed) => {
            let also = |other: NotOpened| NotOpened::from(format!("{}; and as HTTP+SSE: {}", refused.reason, other.reason));
            old_sse(client()?, shared).await.map_err(also)
        }
        Err(refused) => Err(refused),
    }
}

/// Gets to know a server on HTTP+SSE (2024-11-05).
async fn old_sse(client: Client, shared: &Arc<Shared>) -> Result<Opened, NotOpened> {
    let link = OldSseLink::open(client, shared).await?;
    let (closer, whole) = (link.closer(), Link::OldSse(Arc::clone(&link)));
    let greeting = initialize(&whole, shared.may_ask).await?;
    link.agreed(greeting.version).await?;
    Ok(Opened { link: whole, greeting, dialect: Dialect::LegacySse, closer })
}

async fn probe_http(link: &Arc<HttpLink>) -> Result<Greeting, NotOpened> {
    let sent = Sent::default();
    let exchange = Exchange::own(Era::Modern, "server/discover", &[], &sent);
    let (found, reply) = match link.modern(&exchange).await {
        Ok(answered) => (http_probe(&answered), answered.reply),
        Err(error) if error.code() == Code::UpstreamProtocolError => (Probe::Strange, None),
        Err(error) => return Err(NotOpened::from(&error)),
    };
    match (era::after_http(&found), reply) {
        (Next::Modern, Some(reply)) => modern(&reply),
        (Next::Fail(reason), _) => Err(reason.into()),
        (Next::Initialize | Next::Modern, _) => own_session(link).await,
    }
}

fn http_probe(answered: &Answered) -> Probe {
    let status = answered.status.as_u16();
    match answered.reply.as_ref().map(probe) {
        // A status that is about the way to the server outranks its body, but for an unknown method, which is an answer.
        Some(found @ Probe::Refused { code: -32601, .. }) if !matches!(status, 401 | 403) => found,
        Some(found) if !matches!(status, 300..=399 | 401 | 403 | 429 | 500..=599) => found,
        _ => Probe::Status(status),
    }
}

async fn own_session(link: &Arc<HttpLink>) -> Result<Greeting, NotOpened> {
    let place = link.own_place().await.map_err(|error| NotOpened::from(&error))?;
    let greeting = place.get().map(|session| session.greeting.clone());
    greeting
        .filter(|greeting| greeting.version.era() == Revision::NEWEST_LEGACY.era())
        .ok_or_else(|| "the session was lost".to_owned().into())
}
