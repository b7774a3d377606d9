//! The life of one upstream: connect, list, watch, and all over again when it is lost.
//!
//! Leaves to others: the handshake, the listing, and what a new list means (the gateway answers `Listed`).
//! INVARIANT: a connection takes calls only after the gateway has compared its tools with the lock.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::era::Dialect;
use super::handshake::{self, NotOpened, Opened};
use super::inbound::Greeting;
use super::link::Link;
use super::listing::{self, Rest, Unlisted};
use super::request::Level;
use super::shared::{Definition, Event, Listing};
use super::{Core, Live, State, Way, listen};

/// The first and the longest wait before a new connection.
pub(super) const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long after a hint all is listed again: a server that registers ten tools tells so ten times.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// How often all is listed without a hint.
pub(super) const RELIST: Duration = Duration::from_secs(300);

/// Runs until the upstream is stopped.
pub(super) async fn run(core: Arc<Core>) {
    let stop = core.shared.stop.clone();
    stop.run_until_cancelled(live(&core)).await;
    core.state.send_replace(State::Stopped);
    if let Some(live) = core.live.swap(None) {
        live.link.close();
    }
}

async fn live(core: &Core) {
    let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
    let mut memory = core.spec.remembered;
    loop {
        core.state.send_replace(State::Connecting);
        let connected = Instant::now();
        let reason = match connect(core, memory).await {
            Ok((opened, known)) => {
                memory = Some(opened.dialect);
                serve(core, opened, known).await
            }
            Err(refused) => {
                memory = refused.memory;
                refused.reason
            }
        };
        if core.shared.stop.is_cancelled() {
            return;
        }
        let retry_in = backoff.after(connected.elapsed());
        tracing::warn!(upstream = %core.shared.id, %reason, ?retry_in, "the tool server is not connected");
        core.state.send_replace(State::Failed { reason: reason.clone(), retry_in });
        core.shared.announce(Event::Lost { reason }).await;
        sleep(retry_in).await;
    }
}

/// A connection whose tools were listed and compared, and what it listed.
async fn connect(core: &Core, memory: Option<Dialect>) -> Result<(Opened, Known), NotOpened> {
    let connect = core.spec.connect_timeout();
    let opening = async {
        match &core.spec.way {
            Way::Http(address, endpoint) => handshake::http(address, endpoint, &core.shared, memory, connect, core.spec.concurrency).await,
            Way::Stdio(command) => {
                let silence = if memory == Some(Dialect::Modern) { connect } else { core.spec.probe_timeout() };
                handshake::stdio(command, &core.spec.launch, &core.shared, memory, silence, core.shared.may_ask).await
            }
        }
    };
    let opened = timeout(connect, opening).await.map_err(|_| NotOpened::from(silent(&core.spec.way)))??;
    let learnt = Some(opened.dialect);
    let listed = list(core, &opened.link, (&opened.greeting, opened.dialect), Known::default()).await;
    let known = listed.map_err(|(Unlisted::Unreachable(reason) | Unlisted::Refused(reason))| NotOpened { reason, memory: learnt })?;
    Ok((opened, known))
}

/// Why a server has not answered, as far as can be guessed.
fn silent(way: &Way) -> String {
    let runner = match way {
        Way::Stdio(command) => command.runner_without_network(),
        Way::Http(..) => None,
    };
    let guess = runner.map(|runner| format!("; `{runner}` has no network in its sandbox, and may want to fetch something"));
    format!("the server did not answer in time{}", guess.unwrap_or_default())
}

/// What was listed last.
#[derive(Clone, Debug, Default)]
struct Known {
    /// None before the first listing of a connection.
    print: Option<Fingerprint>,
    rest: Rest,
}

/// SHA-256 of all lists: what has not changed is not worth comparing again.
type Fingerprint = [u8; 32];

fn fingerprint(tools: &[Definition], rest: &Rest) -> Fingerprint {
    let mut hash = digest::Context::new(&digest::SHA256);
    for list in [tools, &rest.prompts, &rest.resources, &rest.templates] {
        hash.update(&list.len().to_le_bytes());
        for item in list {
            hash.update(&item.json.len().to_le_bytes());
            hash.update(&item.json);
        }
    }
    let mut out = [0; 32];
    out.iter_mut().zip(hash.finish().as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

/// Lists all and, unless it is what is `known`, waits until the gateway has compared the tools.
async fn list(core: &Core, link: &Link, (greeting, dialect): (&Greeting, Dialect), known: Known) -> Result<Known, Unlisted> {
    let page = core.spec.connect_timeout();
    let (tools, rest) = listing::all(&core.shared.id, link, greeting, page, known.rest).await?;
    // The server was just looked at: a list of the rest that fails again and again must not have it looked at without an end.
    std::pin::pin!(core.shared.suspect.notified()).as_mut().enable();
    let found = fingerprint(&tools, &rest);
    let now = Known { print: Some(found), rest };
    if known.print == now.print {
        return Ok(now);
    }
    let Rest { prompts, resources, templates } = now.rest.clone();
    let listing = Listing {
        tools,
        prompts,
        resources,
        templates,
        version: greeting.version,
        dialect,
        server_info: greeting.server_info.clone(),
        instructions: greeting.instructions.clone(),
        offers: greeting.offers,
    };
    let (compared, done) = oneshot::channel();
    core.shared.announce(Event::Listed { listing: Box::new(listing), compared }).await;
    match timeout(page, done).await {
        Ok(Ok(())) => Ok(now),
        _ => Err(Unlisted::Refused("the tools were not compared with the lock".to_owned())),
    }
}

/// Takes calls until the connection is lost; says why it was.
async fn serve(core: &Core, opened: Opened, known: Known) -> String {
    let Opened { link, closer, greeting, dialect } = opened;
    let version = greeting.version;
    core.live.store(Some(Arc::new(Live { link: link.clone(), version, level: Level::default() })));
    core.offers.store(Some(Arc::new(greeting.offers)));
    core.state.send_replace(State::Connected { version });
    tracing::info!(upstream = %core.shared.id, %version, "the tool server is connected");
    listen::listen(&core.shared, &link, &greeting);
    let reason = watch(core, &link, (&greeting, dialect), known).await;
    core.live.store(None);
    link.close();
    drop(closer);
    reason
}

async fn watch(core: &Core, link: &Link, known_as: (&Greeting, Dialect), mut known: Known) -> String {
    let mut next = Instant::now() + RELIST;
    loop {
        let hint = async {
            tokio::select! {
                () = core.shared.changed.notified() => {}
                () = core.shared.suspect.notified() => {}
                () = sleep_until(next) => return,
            }
            sleep(DEBOUNCE).await;
        };
        tokio::select! {
            reason = link.lost() => return reason,
            () = hint => {}
        }
        next = Instant::now() + RELIST;
        if let Link::Http(link) = link {
            link.sweep();
        }
        let listed = tokio::select! {
            reason = link.lost() => return reason,
            listed = list(core, link, known_as, known.clone()) => listed,
        };
        match (listed, link) {
            (Err(Unlisted::Unreachable(reason)), Link::Http(_)) => return reason,
            // A process may be busy with a call, and ending it would end the call: its own end is what counts.
            (Err(Unlisted::Unreachable(reason) | Unlisted::Refused(reason)), _) => {
                tracing::warn!(upstream = %core.shared.id, %reason, "the tool server could not be asked again for its lists");
            }
            (Ok(found), _) => known = found,
        }
    }
}
