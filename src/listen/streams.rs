//! What a session of a handshake revision keeps in memory while it lasts: its open stream, its log level, what it watches.
//!
//! INVARIANT: one agent has no more than its share of the sessions that keep anything.
//! INVARIANT: a session that has none of these costs nothing here; its id is all that there is of it.

use std::sync::Arc;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::gateway::{Change, Gateway, Watchable, Watching};
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::log_level::LogLevel;
use crate::upstream::{Watch, is_within};

/// Sessions that keep anything, and how many of them may be one agent's.
const MAX_SESSIONS: (usize, usize) = (10_000, 5_000);
/// Why everything ends that is watched when the gateway does.
pub const STOPS: &str = "the gateway stops";
/// Resources that one session watches.
pub const MAX_WATCHED: usize = 256;

/// Sessions by name.
pub struct Streams {
    live: DashMap<Arc<str>, Live>,
    places: Arc<Slots>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { live: DashMap::new(), places: Arc::new(Slots::new(MAX_SESSIONS.0)) }
    }
}

struct Live {
    /// Cancelled when the session ends.
    open: Option<CancellationToken>,
    level: Option<LogLevel>,
    watched: Vec<(Watched, Option<Watching>)>,
    expires: i64,
    _place: Place,
}

/// A resource that somebody is told of.
pub struct Watched {
    upstream: Arc<str>,
    uri: Arc<str>,
    watch: Watch,
}

impl Watched {
    /// A resource, watched for an agent as long as this is kept.
    ///
    /// # Errors
    /// `concurrency_limited` when too much of the upstream is watched.
    pub fn new(agent: &Arc<str>, resource: &Watchable) -> Result<Self, Error> {
        let Watchable { upstream, own, .. } = resource;
        Ok(Self { upstream: upstream.id().into(), uri: own.as_str().into(), watch: upstream.watch(agent, own)? })
    }

    /// Waits until the server knows that it is to tell of the resource, some seconds at most.
    pub fn known(&self) -> impl Future<Output = ()> + Send + use<> {
        self.watch.known()
    }

    /// Whether the change is of this resource, or of a part of it (2025-11-25, resources, "Subscriptions").
    pub fn is_of(&self, change: &Change) -> bool {
        match change {
            Change::Updated { upstream, uri } => *upstream == self.upstream && is_within(uri, &self.uri),
            Change::List(_) => false,
        }
    }
}

impl Streams {
    /// The least severe log message that the session wants; `None` where it has not said.
    pub fn level(&self, session: &str) -> Option<LogLevel> {
        self.live.get(session).and_then(|live| live.level)
    }

    /// Keeps the level.
    ///
    /// # Errors
    /// `overloaded` or `concurrency_limited`: see [`Streams::watch`].
    pub fn set_level(&self, session: &Arc<str>, lasts: Lasts<'_>, level: LogLevel) -> Result<(), Error> {
        self.with(session, lasts, |live| live.level = Some(level))
    }

    /// Whether the session watches the resource already.
    pub fn watches(&self, session: &str, resource: &Watchable) -> bool {
        let is_it = |watched: &Watched| *watched.upstream == *resource.upstream.id() && *watched.uri == *resource.own;
        self.live.get(session).is_some_and(|live| live.watched.iter().any(|(watched, _)| is_it(watched)))
    }

    /// Watches a resource; one that is watched already stays as it is.
    ///
    /// # Errors
    /// `overloaded` when the session or all of them keep too much, `concurrency_limited` when the agent's do.
    pub fn watch(&self, session: &Arc<str>, lasts: Lasts<'_>, watched: Watched, mut recorded: Option<Watching>) -> Result<(), Error> {
        self.with(session, lasts, |live| {
            if live.watched.iter().any(|(known, _)| known.upstream == watched.upstream && known.uri == watched.uri) {
                return Ok(());
            }
            if live.watched.len() >= MAX_WATCHED {
                return Err(Error::new(Code::Overloaded, format!("a session watches {MAX_WATCHED} resources at most")));
            }
            recorded.iter_mut().for_each(|recorded| recorded.ends("the session has ended"));
            live.watched.push((watched, recorded));
            Ok(())
        })?
    }

    /// Watches it no longer.
    pub fn unwatch(&self, session: &str, upstream: &str, uri: &str) {
        if let Some(mut live) = self.live.get_mut(session) {
            live.watched.retain_mut(|(known, recorded)| {
                let stays = *known.upstream != *upstream || *known.uri != *uri;
                if let (false, Some(recorded)) = (stays, recorded) {
                    recorded.ends("the agent has ended it");
                }
                stays
            });
        }
    }

    /// Whether the session is told of this change: of every list, and of the resources that it watches.
    pub fn wants(&self, session: &str, change: &Change) -> bool {
        let watches = || self.live.get(session).is_some_and(|live| live.watched.iter().any(|(watched, _)| watched.is_of(change)));
        matches!(change, Change::List(_)) || watches()
    }

    /// Opens the session's one stream; `Ok(None)` while it has one.
    ///
    /// # Errors
    /// `overloaded` or `concurrency_limited`: see [`Streams::watch`].
    pub fn open(self: &Arc<Self>, session: &Arc<str>, lasts: Lasts<'_>) -> Result<Option<Open>, Error> {
        let ended = CancellationToken::new();
        let opened = self.with(session, lasts, |live| {
            let is_free = live.open.is_none();
            if is_free {
                live.open = Some(ended.clone());
            }
            is_free
        })?;
        Ok(opened.then(|| Open { streams: Arc::clone(self), session: Arc::clone(session), ended }))
    }

    /// Asks of everything that is watched whether it is permitted by this snapshot.
    pub fn look(&self, gateway: &Gateway) {
        for mut live in self.live.iter_mut() {
            live.watched.iter_mut().filter_map(|(_, recorded)| recorded.as_mut()).for_each(|recorded| recorded.look(gateway));
        }
    }

    /// Ends everything that is watched: the gateway stops.
    pub fn watch_no_more(&self) {
        for mut live in self.live.iter_mut() {
            live.watched.iter_mut().filter_map(|(_, recorded)| recorded.as_mut()).for_each(|recorded| recorded.ends(STOPS));
            live.watched.clear();
        }
    }

    /// Forgets the session, and ends its stream.
    pub fn end(&self, session: &str) {
        if let Some((_, live)) = self.live.remove(session)
            && let Some(open) = live.open
        {
            open.cancel();
        }
    }

    fn with<T>(&self, session: &Arc<str>, lasts: Lasts<'_>, change: impl FnOnce(&mut Live) -> T) -> Result<T, Error> {
        let now = lasts.clock.unix_seconds();
        let expires = now.saturating_add(i64::try_from(lasts.seconds).unwrap_or(i64::MAX));
        if let Some(mut live) = self.live.get_mut(session) {
            live.expires = expires;
            return Ok(change(&mut live));
        }
        let place = self.places.take(lasts.agent, MAX_SESSIONS.1).or_else(|_| {
            self.live.retain(|_, live| live.expires > now);
            self.places.take(lasts.agent, MAX_SESSIONS.1).map_err(full)
        })?;
        let new = || Live { open: None, level: None, watched: Vec::new(), expires, _place: place };
        Ok(change(&mut self.live.entry(Arc::clone(session)).or_insert_with(new)))
    }
}

fn full(full: Full) -> Error {
    let error = match full {
        Full::All => Error::new(Code::Overloaded, "too many sessions keep a stream"),
        Full::Agent => Error::new(Code::ConcurrencyLimited, "too many sessions of this agent keep a stream")
            .suggest("end sessions that are not needed any more with DELETE"),
    };
    error.retry_after_ms(1_000)
}

/// Whose a session is, and how long what it keeps may be kept.
#[derive(Clone, Copy)]
pub struct Lasts<'c> {
    /// The agent.
    pub agent: &'c Arc<str>,
    /// The time.
    pub clock: &'c Clock,
    /// From now.
    pub seconds: u64,
}

/// A session's open stream; closed when this is dropped.
pub struct Open {
    streams: Arc<Streams>,
    session: Arc<str>,
    ended: CancellationToken,
}

impl Open {
    /// Waits for the end of the session.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut live) = self.streams.live.get_mut(&self.session) {
            live.open = None;
        }
        self.streams.live.remove_if(&self.session, |_, live| live.open.is_none() && live.level.is_none() && live.watched.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasts<'c>(clock: &'c Clock, agent: &'c Arc<str>) -> Lasts<'c> {
        Lasts { agent, clock, seconds: 60 }
    }

    #[test]
    fn ten_thousand_sessions_cost_nothing_until_they_keep_something() {
        let (streams, clock) = (Streams::default(), Clock::system());
        let agents: [Arc<str>; 3] = ["one", "other", "third"].map(Into::into);
        let keep = |agent: &Arc<str>, session: &str| streams.set_level(&session.into(), lasts(&clock, agent), LogLevel::Error);
        for session in 0..MAX_SESSIONS.0 {
            assert_eq!(streams.level(&session.to_string()), None);
        }
        assert!(streams.live.is_empty());
        for session in 0..MAX_SESSIONS.0 {
            keep(&agents[session % 2], &session.to_string()).unwrap();
        }
        assert_eq!(keep(&agents[2], "more").unwrap_err().code(), Code::Overloaded);
        assert!(keep(&agents[1], "7").is_ok());
        streams.end("8");
        assert!(keep(&agents[2], "more").is_ok());
    }

    #[test]
    fn one_agents_sessions_leave_room_for_others() {
        let (streams, clock) = (Streams::default(), Clock::system());
        let keep = |agent: &str, session: &str| streams.set_level(&session.into(), lasts(&clock, &agent.into()), LogLevel::Error);
        for session in 0..MAX_SESSIONS.0 / 2 {
            keep("one", &session.to_string()).unwrap();
        }
        assert_eq!(keep("one", "more").unwrap_err().code(), Code::ConcurrencyLimited);
        assert!(keep("other", "theirs").is_ok());
        streams.end("0");
        assert!(keep("one", "more").is_ok());
    }

    #[test]
    fn a_session_has_one_stream_at_a_time() {
        let (streams, clock) = (Arc::new(Streams::default()), Clock::system());
        let (name, agent): (Arc<str>, Arc<str>) = ("one".into(), "agent:a".into());
        let open = streams.open(&name, lasts(&clock, &agent)).unwrap();
        assert!(open.is_some() && streams.open(&name, lasts(&clock, &agent)).unwrap().is_none());
        drop(open);
        assert!(streams.live.is_empty());
        let open = streams.open(&name, lasts(&clock, &agent)).unwrap().unwrap();
        streams.end(&name);
        assert!(open.ended.is_cancelled());
    }
}
