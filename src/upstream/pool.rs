//! Further processes of a legacy server on pipes, for calls during which it may ask something.
//!
//! On pipes a question does not say which call it belongs to, so each of these processes has one call at a time. It belongs
//! to one agent and one set of capabilities, which the handshake has told the server.
//! INVARIANT: there are at most [`MAX_PROCESSES`] beside the main one; a busy one is never given up for another.
//! INVARIANT: a busy one holds a place of its agent, who has a share of them: a person may take long to answer, and nobody
//! else could be asked meanwhile.
//! INVARIANT: a process whose call did not end with an answer gets no other call: a late question would be taken for its own.
//! INVARIANT: a process gets no call while its tools are not known to be those of the main one: they are compared when it starts,
//! when it has said since that they changed, and as often as the main one is listed anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::DropGuard;

use super::era::Dialect;
use super::handshake;
use super::link::Link;
use super::listing::{self, Unlisted};
use super::stdio::StdioLink;
use super::supervise::RELIST;
use super::{Core, Way};
use crate::error::{Code, Error};
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::revision::{Era, Revision};

/// Processes beside the main one.
pub(super) const MAX_PROCESSES: usize = 4;
/// How long an unused process is kept.
const IDLE: Duration = Duration::from_secs(300);
/// How long a process that is given up may read what was last said to it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// When an agent may ask again for a process, in milliseconds. A guess: nobody knows when a person answers.
const FULL_RETRY_MS: u64 = 5_000;

/// The processes of one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    entries: Mutex<Vec<Entry>>,
    places: Arc<Slots>,
}

#[derive(Debug)]
struct Entry {
    agent: Arc<str>,
    declared: Capabilities,
    /// `None` while it is being opened.
    open: Option<Open>,
    /// `None` while it has no call.
    busy: Option<Place>,
    /// When its tools were last compared with the main one's.
    compared: Instant,
    used: Instant,
    number: u64,
}

#[derive(Debug)]
struct Open {
    link: Arc<StdioLink>,
    _closer: DropGuard,
}

/// A process for one call. Dropped, it is given up; see [`Lease::keep`].
#[derive(Debug)]
pub(super) struct Lease {
    core: Arc<Core>,
    number: u64,
    pub(super) link: Arc<StdioLink>,
    kept: bool,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default(), places: Arc::new(Slots::new(MAX_PROCESSES)) }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free process of this agent that was told of these capabilities, and whether its tools are to be compared first; where
    /// there is none, the place comes back.
    fn free(&self, agent: &Arc<str>, declared: Capabilities, place: Place) -> Result<(u64, Arc<StdioLink>, bool), Place> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.busy.is_some() || entry.open.as_ref().is_some_and(|open| !open.link.is_gone()));
        let is_free = |entry: &&mut Entry| entry.busy.is_none() && entry.agent == *agent && entry.declared == declared;
        let Some((entry, link)) = entries.iter_mut().find(is_free).and_then(|entry| {
            let link = Arc::clone(&entry.open.as_ref()?.link);
            Some((entry, link))
        }) else {
            return Err(place);
        };
        entry.busy = Some(place);
        let is_due = link.says_changed() || entry.compared.elapsed() >= RELIST;
        Ok((entry.number, link, is_due))
    }

    /// Notes that the tools of a process were compared just now.
    fn compared(&self, number: u64) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.number == number) {
            entry.compared = Instant::now();
        }
    }

    /// Room for another process; the one unused for longest makes way. There is one: who has a place is not among the busy yet.
    fn make_room(&self, agent: &Arc<str>, declared: Capabilities, place: Place) -> u64 {
        let mut entries = self.entries();
        let unused = entries.iter().enumerate().filter(|(_, entry)| entry.busy.is_none());
        let oldest = unused.min_by_key(|(_, entry)| entry.used).map(|(at, _)| at);
        if let Some(oldest) = oldest.filter(|_| entries.len() >= MAX_PROCESSES) {
            entries.swap_remove(oldest);
        }
        let number = entries.iter().map(|entry| entry.number + 1).max().unwrap_or_default();
        let used = Instant::now();
        entries.push(Entry { agent: Arc::clone(agent), declared, open: None, busy: Some(place), compared: used, used, number });
        number
    }

    fn take(&self, number: u64) -> Option<Entry> {
        let mut entries = self.entries();
        let at = entries.iter().position(|entry| entry.number == number)?;
        Some(entries.swap_remove(at))
    }
}

/// A process for one call of the agent, which the server knows to have `declared` and which may have `share` of them.
///
/// # Errors
/// `concurrency_limited` when all are busy, or as many as the agent may have, `upstream_unavailable` when none can be started, `tool_withheld` when it describes
/// its tools otherwise than the main one, whose definitions are the reviewed ones.
pub(super) async fn lease(
    core: &Arc<Core>,
    main: &Link,
    (agent, share): (&Arc<str>, usize),
    declared: Capabilities,
) -> Result<Lease, Error> {
    let place = core.pool.places.take(agent, share).map_err(|full| busy(core, full))?;
    let number = match core.pool.free(agent, declared, place) {
        Ok((number, link, is_due)) => {
            // Dropped where it does not describe its tools alike any more, which gives the process up.
            let lease = Lease { core: Arc::clone(core), number, link, kept: false };
            if is_due {
                compare(core, main, &lease.link).await?;
                core.pool.compared(number);
            }
            return Ok(lease);
        }
        Err(place) => core.pool.make_room(agent, declared, place),
    };
    let opening = Opening { core, number, kept: false };
    let opened = open(core, declared).await.map_err(|reason| unusable(core, reason))?;
    let link = Arc::clone(&opened.link);
    compare(core, main, &link).await?;
    opening.keep(opened);
    Ok(Lease { core: Arc::clone(core), number, link, kept: false })
}

fn unusable(core: &Core, reason: String) -> Error {
    let error = Error::new(Code::UpstreamUnavailable, format!("a further process of `{}` cannot be started", core.spec.id));
    error.from_upstream().retry_after_ms(1_000).operator(reason)
}

/// Lets a process pass only with the tools of the main one.
pub(super) async fn compare(core: &Core, main: &Link, link: &Arc<StdioLink>) -> Result<(), Error> {
    if describes_alike(core, main, &Link::Stdio(Arc::clone(link))).await.map_err(|reason| unusable(core, reason))? {
        return Ok(());
    }
    let what = format!("a further process of `{}` describes its tools otherwise than the reviewed one", core.spec.id);
    Err(Error::new(Code::ToolWithheld, what).from_upstream())
}

fn busy(core: &Core, full: Full) -> Error {
    let whose = match full {
        Full::All => "are busy",
        Full::Agent => "and that this agent may have at once are busy",
    };
    let message = format!("all processes of `{}` that may ask something {whose}", core.spec.id);
    Error::new(Code::ConcurrencyLimited, message).retry_after_ms(FULL_RETRY_MS)
}

/// A process that is being opened; its room is free again when that fails or nobody waits for it any more.
struct Opening<'c> {
    core: &'c Core,
    number: u64,
    kept: bool,
}

impl Opening<'_> {
    fn keep(mut self, open: Open) {
        let mut entries = self.core.pool.entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.open = Some(open);
        }
        drop(entries);
        self.kept = true;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.kept {
            drop(self.core.pool.take(self.number));
        }
    }
}

async fn open(core: &Core, declared: Capabilities) -> Result<Open, String> {
    let Way::Stdio(command) = &core.spec.way else { return Err("it is not on pipes".to_owned()) };
    let opening = handshake::stdio(command, &core.spec.launch, &core.shared, Some(Dialect::Legacy), core.spec.probe_timeout(), declared);
    let opened = timeout(core.spec.connect_timeout(), opening).await.map_err(|_| "the server did not answer in time".to_owned())?;
    let opened = opened.map_err(|error| error.reason)?;
    match opened.link {
        Link::Stdio(link) => Ok(Open { link, _closer: opened.closer }),
        Link::Http(_) | Link::OldSse(_) => Err("it is not on pipes".to_owned()),
    }
}

/// Whether no tool of the main process has another definition in this one: a command such as `npx` may start another version
/// each time. That it lists more or less says only what it was told of its client.
async fn describes_alike(core: &Core, main: &Link, link: &Link) -> Result<bool, String> {
    let page = core.spec.connect_timeout();
    let (here, there) = tokio::join!(listing::tools(link, era(link), page), listing::tools(main, era(main), page));
    let reason = |(Unlisted::Unreachable(reason) | Unlisted::Refused(reason))| reason;
    let here: HashMap<String, Bytes> = here.map_err(reason)?.into_iter().map(|tool| (tool.name, tool.json)).collect();
    Ok(there.map_err(reason)?.iter().all(|tool| here.get(&tool.name).is_none_or(|json| *json == tool.json)))
}

/// What the server at the other end speaks.
fn era(link: &Link) -> Era {
    match link {
        Link::Stdio(link) => link.version().map_or(Era::Legacy, Revision::era),
        Link::Http(_) | Link::OldSse(_) => Era::Legacy,
    }
}

impl Lease {
    /// Keeps the process for another call, and ends it when none comes for a while.
    pub(super) fn keep(mut self) {
        self.kept = true;
        let (core, number, used) = (Arc::clone(&self.core), self.number, Instant::now());
        if let Some(entry) = core.pool.entries().iter_mut().find(|entry| entry.number == number) {
            (entry.busy, entry.used) = (None, used);
        }
        let waiting = Arc::clone(&core);
        core.shared.tasks.spawn(async move {
            if waiting.shared.stop.run_until_cancelled(sleep(IDLE)).await.is_some() {
                waiting.pool.entries().retain(|entry| entry.number != number || entry.busy.is_some() || entry.used != used);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.kept {
            return;
        }
        // It stays busy until the server has had time to read that its call is not wanted any more.
        let (core, number) = (Arc::clone(&self.core), self.number);
        let ending = async move {
            core.shared.stop.run_until_cancelled(sleep(LAST_WORDS)).await;
            drop(core.pool.take(number));
        };
        self.core.shared.tasks.spawn_on(ending, &runtime);
    }
}
