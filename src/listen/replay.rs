//! What was sent on the stream of a call, for a client of a handshake revision that lost it and takes it up again with
//! `Last-Event-ID` (2025-11-25, transports, "Resumability and Redelivery").
//!
//! INVARIANT: a stream is taken up only in the session that it belongs to, and nothing of another stream comes on it.
//! INVARIANT: what is kept is bounded, for one stream, for one agent and for all; a stream that lost an event is not taken up across
//! the gap.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Notify;

use crate::limit::slots::{Place, Slots};
use crate::mcp::framing::one_line;
use crate::seal::random;

/// Streams that are kept at once, and how many of them may be one agent's; further ones are not kept, and have no event ids.
const MAX_STREAMS: (usize, usize) = (1_024, 512);
/// What is kept of one stream.
const MAX_EVENTS: usize = 64;
const MAX_STREAM_BYTES: usize = 256 << 10;
/// What is kept of all, and of one agent's.
const MAX_BYTES: (usize, usize) = (16 << 20, 8 << 20);
/// How long a stream is kept after its end.
const KEPT: Duration = Duration::from_secs(60);

/// The streams that can be taken up.
#[derive(Clone, Debug, Default)]
pub struct Replays(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    streams: DashMap<u64, Arc<Log>>,
    places: Arc<Slots>,
    bytes: AtomicUsize,
    /// What is kept of each agent that has a stream.
    of_agents: Mutex<HashMap<Arc<str>, Weak<AtomicUsize>>>,
}

impl Default for Inner {
    fn default() -> Self {
        let places = Arc::new(Slots::new(MAX_STREAMS.0));
        Self { streams: DashMap::new(), places, bytes: AtomicUsize::new(0), of_agents: Mutex::default() }
    }
}

impl Inner {
    /// The count of what is kept of an agent.
    fn of_agent(&self, agent: &Arc<str>) -> Arc<AtomicUsize> {
        let mut all = self.of_agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(agent).and_then(Weak::upgrade) {
            return own;
        }
        // So there are never more than there are agents with streams, and the one that comes now.
        all.retain(|_, own| own.strong_count() > 0);
        let own = Arc::default();
        all.insert(Arc::clone(agent), Arc::downgrade(&own));
        own
    }
}

#[derive(Debug)]
struct Log {
    session: Arc<str>,
    kept: Mutex<Kept>,
    changed: Notify,
    /// What is kept of its agent's streams, in bytes.
    own: Arc<AtomicUsize>,
    _place: Place,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Bytes>,
    /// The number of the first event that is kept.
    first: u64,
    bytes: usize,
    has_ended: bool,
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes next on a stream that is taken up.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Event(Bytes),
    Later,
    /// The stream has ended, or what comes next is not kept any more.
    Nothing,
}

impl Replays {
    /// Begins to keep a stream of this session, which is this agent's; `None` where there is no room, or none of the agent's is left.
    pub fn begin(&self, agent: &Arc<str>, session: &Arc<str>) -> Option<Recording> {
        let place = self.0.places.take(agent, MAX_STREAMS.1).ok()?;
        let mut id = [0; 8];
        random(&mut id).ok()?;
        let (id, own) = (u64::from_le_bytes(id), self.0.of_agent(agent));
        let log = Log { session: Arc::clone(session), kept: Mutex::default(), changed: Notify::new(), own, _place: place };
        let log = Arc::new(log);
        self.0.streams.insert(id, Arc::clone(&log));
        Some(Recording { replays: self.clone(), id, log })
    }

    /// What followed the event of this id; `None` where the session has no such stream, or it is not kept so far back.
    pub fn take_up(&self, session: &str, last_event: &str) -> Option<Playback> {
        let (stream, number) = last_event.split_once('.')?;
        let stream = u64::from_str_radix(stream, 16).ok()?;
        let next = number.parse::<u64>().ok()?.checked_add(1)?;
        let log = self.0.streams.get(&stream).filter(|log| *log.session == *session).map(|log| Arc::clone(&log))?;
        let is_kept = {
            let kept = log.kept();
            (kept.first..=kept.first + kept.events.len() as u64).contains(&next)
        };
        is_kept.then_some(Playback { log, next })
    }

    /// Forgets the streams of a session that has ended.
    pub fn end(&self, session: &str) {
        let ended: Vec<u64> = self.0.streams.iter().filter(|log| *log.session == *session).map(|log| *log.key()).collect();
        ended.into_iter().for_each(|id| self.forget(id));
    }

    fn forget(&self, id: u64) {
        if let Some((_, log)) = self.0.streams.remove(&id) {
            let mut kept = log.kept();
            let freed = std::mem::take(&mut kept.bytes);
            kept.first += kept.events.len() as u64;
            kept.events.clear();
            kept.has_ended = true;
            drop(kept);
            self.0.bytes.fetch_sub(freed, Ordering::Relaxed);
            log.own.fetch_sub(freed, Ordering::Relaxed);
            log.changed.notify_waiters();
        }
    }
}

/// A stream that is being kept. It ends when this is dropped, and is forgotten a while later.
#[derive(Debug)]
pub struct Recording {
    replays: Replays,
    id: u64,
    log: Arc<Log>,
}

impl Recording {
    /// Keeps a message as the next event, and gives the event.
    pub fn event(&self, message: &[u8]) -> Bytes {
        let mut kept = self.log.kept();
        let number = kept.first + kept.events.len() as u64;
        let mut out = format!("id: {:016x}.{number}\n", self.id).into_bytes();
        // Without data an event only tells its id.
        out.extend_from_slice(if message.is_empty() { b"data: " } else { b"event: message\ndata: " });
        out.extend_from_slice(&one_line(message.to_vec()));
        out.extend_from_slice(b"\n\n");
        let event = Bytes::from(out);
        if kept.has_ended {
            // Its session has ended: nobody comes back for it, and what was counted now would never be taken off.
            return event;
        }
        kept.bytes += event.len();
        kept.events.push_back(event.clone());
        let mut all = self.replays.0.bytes.fetch_add(event.len(), Ordering::Relaxed) + event.len();
        let mut own = self.log.own.fetch_add(event.len(), Ordering::Relaxed) + event.len();
        while kept.events.len() > MAX_EVENTS || kept.bytes > MAX_STREAM_BYTES || all > MAX_BYTES.0 || own > MAX_BYTES.1 {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.first += 1;
            kept.bytes -= oldest.len();
            all = self.replays.0.bytes.fetch_sub(oldest.len(), Ordering::Relaxed) - oldest.len();
            own = self.log.own.fetch_sub(oldest.len(), Ordering::Relaxed) - oldest.len();
        }
        drop(kept);
        self.log.changed.notify_waiters();
        event
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.log.kept().has_ended = true;
        self.log.changed.notify_waiters();
        let (replays, id) = (self.replays.clone(), self.id);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(KEPT).await;
                replays.forget(id);
            })),
            Err(_) => replays.forget(id),
        }
    }
}

/// A stream that was taken up.
#[derive(Debug)]
pub struct Playback {
    log: Arc<Log>,
    next: u64,
}

impl Playback {
    /// The next event, once there is one; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        let log = Arc::clone(&self.log);
        loop {
            let mut changed = std::pin::pin!(log.changed.notified());
            // Counted as waiting before the look, so that nothing is missed between the two.
            changed.as_mut().enable();
            match self.look() {
                Next::Event(event) => {
                    self.next += 1;
                    return Some(event);
                }
                Next::Nothing => return None,
                Next::Later => changed.await,
            }
        }
    }

    fn look(&self) -> Next {
        let kept = self.log.kept();
        let Some(at) = self.next.checked_sub(kept.first) else { return Next::Nothing };
        match usize::try_from(at).ok().and_then(|at| kept.events.get(at)) {
            Some(event) => Next::Event(event.clone()),
            None if kept.has_ended => Next::Nothing,
            None => Next::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(event: &Bytes) -> String {
        let text = String::from_utf8(event.to_vec()).unwrap();
        text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_stream_is_taken_up_behind_the_event_and_only_in_its_session() {
        let replays = Replays::default();
        let recording = replays.begin(&"agent:a".into(), &"own".into()).unwrap();
        let (first, second) = (recording.event(b"{}"), recording.event(b"[]"));
        assert!(replays.take_up("other", &id(&first)).is_none());
        assert!(replays.take_up("own", "0.0").is_none());
        let mut playback = replays.take_up("own", &id(&first)).unwrap();
        assert_eq!(playback.next().await, Some(second));
        let third = recording.event(b"3");
        assert_eq!(playback.next().await, Some(third));
        drop(recording);
        assert_eq!(playback.next().await, None);
    }

    #[test]
    fn a_stream_whose_session_has_ended_keeps_nothing() {
        let replays = Replays::default();
        let recording = replays.begin(&"agent:a".into(), &"own".into()).unwrap();
        replays.end("own");
        recording.event(b"{}");
        assert_eq!(replays.0.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_message_on_many_lines_is_one_event() {
        let event = Replays::default().begin(&"agent:a".into(), &"own".into()).unwrap().event(b"{\n\n}\r");
        assert!(event.ends_with(b"\ndata: {  } \n\n"), "{event:?}");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_a_gap_is_no_continuation() {
        let replays = Replays::default();
        let recording = replays.begin(&"agent:a".into(), &"own".into()).unwrap();
        let first = recording.event(b"{}");
        for _ in 0..=MAX_EVENTS {
            recording.event(b"{}");
        }
        assert!(replays.take_up("own", &id(&first)).is_none(), "the second event is gone");
        assert_eq!(recording.log.kept().events.len(), MAX_EVENTS);
        let last = recording.event(&vec![b' '; MAX_STREAM_BYTES]);
        assert_eq!((recording.log.kept().bytes, replays.0.bytes.load(Ordering::Relaxed)), (0, 0));
        assert!(replays.take_up("own", &id(&last)).is_some(), "whoever has the last event misses nothing");
    }

    #[test]
    fn one_agents_streams_leave_room_for_those_of_others() {
        let (replays, one, other) = (Replays::default(), "agent:a".into(), "agent:b".into());
        let mut streams: Vec<_> = (0..MAX_STREAMS.1).map(|_| replays.begin(&one, &"own".into()).unwrap()).collect();
        assert!(replays.begin(&one, &"own".into()).is_none());
        for stream in &streams {
            stream.event(&vec![b' '; MAX_STREAM_BYTES / 2]);
        }
        let kept = streams[0].log.own.load(Ordering::Relaxed);
        assert!(kept > MAX_BYTES.1 / 2 && kept <= MAX_BYTES.1, "{kept}");

        let theirs = replays.begin(&other, &"other".into()).unwrap();
        let first = theirs.event(b"{}");
        theirs.event(&vec![b' '; MAX_STREAM_BYTES / 2]);

        assert!(replays.take_up("other", &id(&first)).is_some(), "what follows its first event is kept");
        streams.pop();
        replays.end("own");
        drop(streams);
        assert!(replays.begin(&one, &"own".into()).is_some());
        drop(theirs);
        let agents = replays.0.of_agents.lock().unwrap();
        assert!(agents.len() <= 2 && replays.0.bytes.load(Ordering::Relaxed) == 0, "{agents:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_stream_is_forgotten_after_a_while() {
        let replays = Replays::default();
        let recording = replays.begin(&"agent:a".into(), &"own".into()).unwrap();
        let event = recording.event(b"{}");
        drop(recording);
        assert!(replays.take_up("own", &id(&event)).is_some());
        tokio::time::sleep(KEPT * 2).await;
        assert!(replays.take_up("own", &id(&event)).is_none() && replays.0.streams.is_empty());
        assert_eq!(replays.0.bytes.load(Ordering::Relaxed), 0);
    }
}
