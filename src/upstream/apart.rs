//! Processes of a server on pipes that are one principal's each: `isolation: principal`.
//!
//! The main process of such a server is only asked what it offers; every call goes to the process of whoever makes it.
//! INVARIANT: a process is found only under the key of the principal that it was started for.
//! INVARIANT: there are at most as many as the manifest says; one with a call under way is never given up for another.
//! INVARIANT: a process gets no call while its tools are not known to be those of the main one: they are compared when it starts,
//! when it has said since that they changed, and as often as the main one is listed anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::DropGuard;

use super::backoff::Backoff;
use super::era::Dialect;
use super::handshake;
use super::link::Link;
use super::pool::compare;
use super::supervise::{RECONNECT, RELIST};
use super::{Core, Way};
use crate::catalog::transport::{Command, Isolation};
use crate::error::{Code, Error};
use crate::mcp::revision::Revision;

/// When an agent may ask again for a process, in milliseconds. A guess: nobody knows when a call ends.
const FULL_RETRY_MS: u64 = 1_000;

/// The processes of one upstream, by the key of their principal.
#[derive(Debug, Default)]
pub(super) struct Apart(Mutex<HashMap<Box<str>, Entry>>);

#[derive(Debug)]
struct Entry {
    process: Arc<OnceCell<Open>>,
    /// Held by each call under way.
    busy: Arc<()>,
    used: Instant,
    /// When the process is started again at the earliest, and how the wait grows: a server that ends at once is not started in a tight circle.
    rest: (Instant, Backoff),
}

#[derive(Debug)]
struct Open {
    link: Link,
    version: Revision,
    compared: Mutex<Instant>,
    began: Instant,
    _closer: DropGuard,
}

/// A process, for one call.
#[derive(Debug)]
pub(super) struct Own {
    process: Arc<OnceCell<Open>>,
    _busy: Arc<()>,
}

impl Own {
    /// The way to it, and what it speaks.
    pub(super) fn link(&self) -> Option<(&Link, Revision)> {
        self.process.get().map(|open| (&open.link, open.version))
    }
}

impl Apart {
    fn entries(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The principal's place, made where there is none; that of another who has not used it for longest makes way.
    fn take(&self, key: &str, most: usize) -> Result<Own, Taken> {
        let mut entries = self.entries();
        if !entries.contains_key(key) && entries.len() >= most {
            let free = entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.busy) == 1);
            let oldest = free.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            entries.remove(&oldest.ok_or(Taken::Full)?);
        }
        let now = Instant::now();
        let entry = entries.entry(key.into()).or_insert_with(|| Entry {
            process: Arc::default(),
            busy: Arc::default(),
            used: now,
            rest: (now, Backoff::new(RECONNECT.0, RECONNECT.1)),
        });
        if let Some(open) = entry.process.get().filter(|open| open.link.is_gone()) {
            entry.rest.0 = now + entry.rest.1.after(open.began.elapsed());
            entry.process = Arc::default();
        }
        if entry.process.get().is_none() && entry.rest.0 > now {
            return Err(Taken::Rests(entry.rest.0 - now));
        }
        entry.used = now;
        Ok(Own { process: Arc::clone(&entry.process), _busy: Arc::clone(&entry.busy) })
    }

    /// Has the next attempt wait, after one that failed.
    fn failed(&self, key: &str) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.rest.0 = Instant::now() + entry.rest.1.step();
        }
    }

    /// Gives up what nobody has used for so long, and what has ended.
    fn sweep(&self, idle: Duration) {
        self.entries().retain(|_, entry| Arc::strong_count(&entry.busy) > 1 || entry.used.elapsed() < idle);
    }

    /// Gives the process of this key up, so that the next call starts another.
    fn drop_process(&self, key: &str) {
        self.entries().remove(key);
    }
}

enum Taken {
    Full,
    Rests(Duration),
}

/// The bounds of a server whose principals have processes of their own: how many at once, and how long an unused one is kept.
pub(super) fn bounds(way: &Way) -> Option<(&Command, usize, Duration)> {
    match way {
        Way::Stdio(command) if command.isolation == Isolation::Principal => {
            Some((command, command.max_processes.size(), Duration::from_secs(command.idle_s.value())))
        }
        Way::Stdio(_) | Way::Http(..) => None,
    }
}

/// The process of the principal with this key; started where there is none.
///
/// # Errors
/// `concurrency_limited` when all others are busy, `upstream_unavailable` when none can be started now, `tool_withheld` when it describes its tools
/// otherwise than the main one, whose definitions are the reviewed ones. Nothing was sent.
pub(super) async fn own(core: &Arc<Core>, main: &Link, key: &str) -> Result<Option<Own>, Error> {
    let Some((command, most, idle)) = bounds(&core.spec.way) else { return Ok(None) };
    let own = core.apart.take(key, most).map_err(|taken| match taken {
        Taken::Full => {
            let message = format!("all processes of `{}` are busy with calls of others", core.spec.id);
            Error::new(Code::ConcurrencyLimited, message).retry_after_ms(FULL_RETRY_MS)
        }
        Taken::Rests(wait) => unavailable(core, "the last one has ended just now".to_owned(), wait),
    })?;
    let opened = own.process.get_or_try_init(|| open(core, main, command)).await;
    match opened {
        Err(error) => {
            core.apart.failed(key);
            Err(error)
        }
        Ok(open) => {
            if let Err(error) = still_alike(core, main, open).await {
                core.apart.drop_process(key);
                return Err(error);
            }
            keep_for(core, idle);
            Ok(Some(own))
        }
    }
}

fn unavailable(core: &Core, reason: String, wait: Duration) -> Error {
    let error = Error::new(Code::UpstreamUnavailable, format!("no process of `{}` of its own can be started", core.spec.id));
    error.from_upstream().retry_after_ms(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)).operator(reason)
}

async fn open(core: &Core, main: &Link, command: &Command) -> Result<Open, Error> {
    let memory = match main {
        Link::Stdio(link) => link.version().map(|version| if version.is_modern() { Dialect::Modern } else { Dialect::Legacy }),
        Link::Http(_) | Link::OldSse(_) => None,
    };
    let silence = if memory == Some(Dialect::Modern) { core.spec.connect_timeout() } else { core.spec.probe_timeout() };
    let opening = handshake::stdio(command, &core.spec.launch, &core.shared, memory, silence, core.shared.may_ask);
    let opened = timeout(core.spec.connect_timeout(), opening).await;
    let opened = opened.map_err(|_| "the server did not answer in time".to_owned()).and_then(|opened| opened.map_err(|error| error.reason));
    let opened = opened.map_err(|reason| unavailable(core, reason, RECONNECT.0))?;
    if let Link::Stdio(link) = &opened.link {
        compare(core, main, link).await?;
    }
    let (version, now) = (opened.greeting.version, Instant::now());
    Ok(Open { link: opened.link, version, compared: Mutex::new(now), began: now, _closer: opened.closer })
}

/// Compares the tools again where that is due.
async fn still_alike(core: &Core, main: &Link, open: &Open) -> Result<(), Error> {
    let Link::Stdio(link) = &open.link else { return Ok(()) };
    let compared = || open.compared.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = link.says_changed() || compared().elapsed() >= RELIST;
    if is_due {
        compare(core, main, link).await?;
        *compared() = Instant::now();
    }
    Ok(())
}

/// Looks, once nobody may have used a process for so long, whether that is so.
fn keep_for(core: &Arc<Core>, idle: Duration) {
    if core.sweeping.swap(true, std::sync::atomic::Ordering::AcqRel) {
        return;
    }
    let waiting = Arc::clone(core);
    core.shared.tasks.spawn(async move {
        let stop = waiting.shared.stop.clone();
        while stop.run_until_cancelled(sleep(idle)).await.is_some() {
            waiting.apart.sweep(idle);
        }
        waiting.apart.entries().clear();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_makes_way_and_a_busy_one_never() {
        let apart = Apart::default();
        let busy = apart.take("a", 2).ok().unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(apart.take("b", 2).ok().unwrap());
        let third = apart.take("c", 2).ok().unwrap();
        assert!(matches!(apart.take("d", 2), Err(Taken::Full)));
        assert!(Arc::ptr_eq(&busy.process, &apart.take("a", 2).ok().unwrap().process));
        drop(third);
        tokio::time::advance(Duration::from_secs(60)).await;
        apart.sweep(Duration::from_secs(60));
        assert_eq!(apart.entries().keys().map(|key| &**key).collect::<Vec<_>>(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_start_that_failed_the_next_waits_and_the_wait_grows() {
        let apart = Apart::default();
        drop(apart.take("a", 1).ok().unwrap());
        let mut waits = Vec::new();
        for _ in 0..3 {
            apart.failed("a");
            let Err(Taken::Rests(wait)) = apart.take("a", 1) else { panic!("it does not rest") };
            waits.push(wait);
            tokio::time::advance(wait).await;
            assert!(apart.take("a", 1).is_ok());
        }
        assert!(waits[2] > waits[0], "{waits:?}");
    }
}
