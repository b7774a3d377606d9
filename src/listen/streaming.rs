//! Answers on HTTP that begin before their call has ended: when an event stream begins, and what goes on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::buffers::{Buffers, Taken};
use super::changes::{self, Changes};
use super::exchange::Outgoing;
use super::http::Exchange;
use super::replay::{Playback, Recording};
use super::session::Session;
use super::stream::{Answer, Enduring, HttpDownstream, Said, event, notification};
use super::streams::Open;
use super::{Service, headers};
use crate::gateway::Gateway;
use crate::identity::Principal;
use crate::invocation::Caller;
use crate::mcp::revision::Revision;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// A stream says that it lives at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const ALIVE: &[u8] = b": working\n\n";

impl Exchange {
    /// Runs the message to its end, whether or not the client waits for it, and answers when the first of these is there: its
    /// answer, or something to stream.
    pub(super) async fn run(self, gateway: Arc<Gateway>, caller: Caller, headers: HeaderMap, body: Bytes) -> Response<Answer> {
        let modern = caller.revision.is_some_and(Revision::is_modern);
        let (cancel, agent) = (self.service.0.give_up.child_token(), Arc::clone(&caller.principal.id));
        let streams = headers::accepts(&headers, "text/event-stream");
        let downstream = Arc::new(HttpDownstream::new(streams, cancel.clone()));
        // Hanging up is how a modern client cancels.
        let hung_up = modern.then(|| cancel.clone().drop_guard());
        let tasks = self.service.0.tasks.clone();
        let (back, service) = (Arc::clone(&downstream), self.service.clone());
        let mut running =
            // Its state is some 11 KB, and is made where it stays: there is a place for it before there is a state.
            Enduring::new(&tasks, async move {
                let place = Box::new_uninit();
                Box::into_pin(Box::write(place, Exchange::message(&self, gateway, caller, &headers, &body, &back, &cancel))).await
            });
        let first = tokio::select! {
            biased;
            // What was said in the same moment goes before the answer.
            outgoing = &mut running => match downstream.rest().collect::<Vec<_>>() {
                said if said.is_empty() => Err(outgoing.whole()),
                said => Err(events(Answer::whole(with_all(service.buffers(), &agent, said, outgoing)))),
            },
            first = downstream.next(), if streams => Ok(Some(first)),
            () = tokio::time::sleep(KEEP_ALIVE), if streams => Ok(None),
        };
        let response = match first {
            Ok(first) => return stream(&service, &agent, first, Started { running, downstream }, hung_up),
            Err(response) => response,
        };
        if let Some(guard) = hung_up {
            guard.disarm();
        }
        response
    }
}

/// An answer that is there, behind what its call had to say.
fn with_all(buffers: &Arc<Buffers>, agent: &Arc<str>, mut said: Vec<Said>, outgoing: Outgoing) -> Bytes {
    let room = buffers.said(agent, said.iter().map(|said| said.message.len()).sum());
    if room.is_err() {
        said.retain(|said| said.is_question);
    }
    let text: Bytes = said.iter().map(|said| &said.message).chain([&outgoing.body]).flat_map(|message| event(message)).collect();
    Taken::with(Taken::of_all(outgoing.taken.into_iter().chain(room.ok().flatten())), text)
}

/// An answer that begins before its call has ended.
fn stream(service: &Service, agent: &Arc<str>, first: Option<Said>, started: Started, hung_up: Option<DropGuard>) -> Response<Answer> {
    let (events, body) = mpsc::channel(4);
    let session = started.downstream.session().cloned();
    let recording = session.as_ref().and_then(|(name, _)| service.replays().begin(agent, name));
    let counted = (Arc::clone(service.buffers()), Arc::clone(agent));
    let is_primed = session.is_some_and(|(_, revision)| revision >= Revision::V2025_11_25);
    tokio::spawn(async move {
        let out = Out { events, recording, counted };
        if is_primed && let Some(recording) = &out.recording {
            // With an id to come back with, a client has lost nothing whenever the stream breaks.
            let _ = out.events.send(recording.event(b"")).await;
        }
        if out.pump(first, started).await {
            hung_up.map(DropGuard::disarm);
        }
    });
    event_stream(body)
}

/// A call under way, and what it has to say meanwhile.
struct Started {
    running: Enduring<Outgoing>,
    downstream: Arc<HttpDownstream>,
}

struct Out {
    events: mpsc::Sender<Bytes>,
    /// Kept for a client that comes back; there is none for an agent of 2026-07-28, to whom a lost stream is lost.
    recording: Option<Recording>,
    /// What counts large messages, and for whom.
    counted: (Arc<Buffers>, Arc<str>),
}

impl Out {
    /// Sends all that the call says, then its answer; `false` when the client left and nothing is kept for it.
    async fn pump(&self, first: Option<Said>, mut started: Started) -> bool {
        let mut next = first;
        loop {
            let is_there = match next {
                Some(said) => self.say(&said).await,
                None => self.events.send(Bytes::from_static(ALIVE)).await.is_ok(),
            };
            if !is_there && self.recording.is_none() {
                return false;
            }
            next = tokio::select! {
                biased;
                said = started.downstream.next() => Some(said),
                outgoing = &mut started.running => {
                    for said in started.downstream.rest() {
                        self.say(&said).await;
                    }
                    self.send(&outgoing.body, outgoing.taken).await;
                    return true;
                }
                () = tokio::time::sleep(KEEP_ALIVE), if is_there => None,
                () = self.events.closed(), if is_there && self.recording.is_none() => return false,
            };
        }
    }

    /// Sends what the call says. A question goes out in any case, since few of an agent are open at once; anything else only where there is room.
    async fn say(&self, said: &Said) -> bool {
        let (buffers, agent) = &self.counted;
        match buffers.said(agent, said.message.len()) {
            Err(_) if !said.is_question => !self.events.is_closed(),
            room => self.send(&said.message, room.ok().flatten()).await,
        }
    }

    async fn send(&self, message: &[u8], taken: Option<Taken>) -> bool {
        let event = self.recording.as_ref().map_or_else(|| event(message), |recording| recording.event(message));
        self.events.send(Taken::with(taken, event)).await.is_ok()
    }
}

/// The rest of a stream that a client lost.
pub(super) fn taken_up(mut playback: Playback) -> Response<Answer> {
    let (events, body) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = playback.next() => match next {
                    Some(event) => event,
                    None => return,
                },
                () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(ALIVE),
                () = events.closed() => return,
            };
            if events.send(next).await.is_err() {
                return;
            }
        }
    });
    event_stream(body)
}

/// The stream on which a session is told of changes, for as long as both last.
pub(super) fn standalone(service: Service, principal: Principal, session: Session, open: Open) -> Response<Answer> {
    let (events, body) = mpsc::channel(4);
    let mut changes = Changes::of(&service);
    tokio::spawn(async move {
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        loop {
            let changed = tokio::select! {
                () = open.ended() => return,
                () = service.stopping().cancelled() => return,
                () = events.closed() => return,
                changed = changes.next() => changed,
                _ = alive.tick() => Vec::new(),
            };
            // Each time like a new request: the key and the session must still hold.
            if changes::kept_out(&service, &principal).is_some() || !service.0.sessions.lasts(&session) {
                return;
            }
            let wanted = changed.iter().filter(|change| service.streams().wants(&session.name, change));
            let told = wanted.filter_map(|change| changes::told(&service, &principal, change));
            let mut next: Vec<Bytes> = told.map(|(method, params)| event(&notification(method, &params))).collect();
            if changed.is_empty() {
                next.push(Bytes::from_static(ALIVE));
            }
            for event in next {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    });
    event_stream(body)
}

fn event_stream(body: mpsc::Receiver<Bytes>) -> Response<Answer> {
    events(Answer::events(body))
}

fn events(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::Listen;
    use crate::listen::replay::Replays;
    use crate::mcp::messages::Downstream;

    /// The next event, and how long it took to come, in seconds.
    async fn next(events: &mut mpsc::Receiver<Bytes>) -> (Option<Bytes>, u64) {
        let asked = tokio::time::Instant::now();
        let event = events.recv().await;
        (event, asked.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_call_says_every_15_s_that_it_lives_until_its_answer() {
        let downstream = Arc::new(HttpDownstream::new(true, CancellationToken::new()));
        let (ends, ended) = tokio::sync::oneshot::channel();
        let running = Enduring::new(&TaskTracker::new(), async { ended.await.unwrap_or_else(|_| Outgoing::accepted()) });
        let (send, mut events) = mpsc::channel(4);
        let started = Started { running, downstream: Arc::clone(&downstream) };
        let counted = (Arc::new(Buffers::new(&Listen::default())), Arc::from("agent:a"));
        tokio::spawn(async move { Out { events: send, recording: None, counted }.pump(None, started).await });

        let alive = || Some(Bytes::from_static(ALIVE));
        assert_eq!(next(&mut events).await, (alive(), 0), "the silence before the stream began has been 15 s");
        assert_eq!(next(&mut events).await, (alive(), 15));
        downstream.notify("x", b"{}");
        assert_eq!(next(&mut events).await, (Some(event(&notification("x", b"{}"))), 0));
        assert_eq!(next(&mut events).await, (alive(), 15), "counted from what was said last");
        let mut answer = Outgoing::accepted();
        answer.body = Bytes::from_static(b"[]");
        assert!(ends.send(answer).is_ok());
        assert_eq!(next(&mut events).await, (Some(event(b"[]")), 0));
        assert_eq!(next(&mut events).await, (None, 0));
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_left_out_but_questions_and_the_answer() {
        let (buffers, agent) = (Arc::new(Buffers::new(&Listen::default())), Arc::from("agent:a"));
        let _full = buffers.answer(&agent, 64 << 20).unwrap();
        let large = format!("\"{}\"", "x".repeat(20 << 10));
        let said = |is_question| Said { message: large.clone().into(), is_question };
        let mut answer = Outgoing::accepted();
        answer.body = Bytes::from_static(b"[]");
        let expected = [event(large.as_bytes()), event(b"[]")];
        assert_eq!(with_all(&buffers, &agent, vec![said(false), said(true)], answer), expected.concat());

        let downstream = HttpDownstream::new(true, CancellationToken::new());
        downstream.notify("x", large.as_bytes());
        let (send, mut events) = mpsc::channel(4);
        let out = Out { events: send, recording: None, counted: (buffers, agent) };
        assert!(out.say(&downstream.next().await).await, "the stream goes on");
        assert!(out.say(&said(true)).await);
        drop(out);
        assert_eq!((events.recv().await, events.recv().await), (Some(event(large.as_bytes())), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_taken_up_says_so_too() {
        let replays = Replays::default();
        let recording = replays.begin(&"agent:a".into(), &"own".into()).unwrap();
        let first = String::from_utf8(recording.event(b"").to_vec()).unwrap();
        let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        let mut events = taken_up(replays.take_up("own", id).unwrap()).into_body().into_events().unwrap();

        assert_eq!(next(&mut events).await, (Some(Bytes::from_static(ALIVE)), 15));
        assert_eq!(next(&mut events).await, (Some(Bytes::from_static(ALIVE)), 15));
    }
}
