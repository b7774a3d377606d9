//! An HTTP answer that is either one JSON body or an event stream, decided as late as possible.
//!
//! INVARIANT: the head is held until the first notification or keep-alive is due, since a refusal may need a status.
//! INVARIANT: what waits to be sent is bounded: beyond it the oldest progress is dropped, the answer never is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::asks::Back;
use super::conduct::{PIECE, Sending};
use super::patience::{Stage, Staged};
use crate::mcp::framing::one_line;
use crate::mcp::messages::Downstream;
use crate::mcp::revision::Revision;

/// Notifications of one call that wait to be sent.
const MAX_WAITING: usize = 64;

/// Work that ends whoever waits for it: dropped early, it goes on in a task of its own.
///
/// Polled where it is waited for, because a task for each message would cost a wake-up of another thread.
pub struct Enduring<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tasks: TaskTracker,
    _counted: TaskTrackerToken,
}

impl<T: Send + 'static> Enduring<T> {
    /// Work that `tasks` counts until it ends.
    pub fn new(tasks: &TaskTracker, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), tasks: tasks.clone(), _counted: tasks.token() }
    }
}

impl<T: Send + 'static> Future for Enduring<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let ended = work.as_mut().poll(context);
        if ended.is_ready() {
            self.work = None;
        }
        ended
    }
}

impl<T: Send + 'static> Drop for Enduring<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.work.take(), tokio::runtime::Handle::try_current()) {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

/// A response body.
pub struct Answer {
    content: Content,
    way: Way,
}

enum Content {
    /// All of it.
    Whole(Option<Bytes>),
    /// Events as they come; ends with its sender.
    Events(mpsc::Receiver<Bytes>),
}

/// Who waits until the answer is gone.
enum Way {
    Nobody,
    /// The connection, for its next request.
    Alone {
        _until: Until,
    },
    /// Who looks whether the client takes it.
    Among(Sending),
}

/// The end of an answer: its connection waits for the next request.
struct Until(Arc<Staged>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.enter(Stage::Idle);
    }
}

impl Answer {
    /// A body of these bytes.
    pub fn whole(body: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(Some(body.into()).filter(|body| !body.is_empty())), way: Way::Nobody }
    }

    /// A body of events as they come.
    pub fn events(events: mpsc::Receiver<Bytes>) -> Self {
        Self { content: Content::Events(events), way: Way::Nobody }
    }

    /// The only answer of its connection until it is gone.
    pub fn alone(self, stage: Arc<Staged>) -> Self {
        Self { way: Way::Alone { _until: Until(stage) }, ..self }
    }

    /// One of several answers of a connection.
    pub fn among(self, sending: Sending) -> Self {
        Self { way: Way::Among(sending), ..self }
    }

    /// The events that it is to send; `None` where all of it is there.
    #[cfg(test)]
    pub fn into_events(self) -> Option<mpsc::Receiver<Bytes>> {
        if let Content::Events(events) = self.content { Some(events) } else { None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { content, way } = self.get_mut();
        let polled = match (&mut *content, &*way) {
            (Content::Whole(Some(body)), Way::Among(_)) if body.len() > PIECE => Poll::Ready(Some(body.split_to(PIECE))),
            (Content::Whole(body), _) => Poll::Ready(body.take()),
            (Content::Events(events), _) => events.poll_recv(context),
        };
        if let Way::Among(sending) = way {
            // It is asked for more only once the client has room for that.
            sending.moves(matches!(polled, Poll::Ready(Some(_))));
        }
        polled.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.content {
            Content::Whole(body) => http_body::SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Content::Events(_) => http_body::SizeHint::default(),
        }
    }
}

/// One message as an event.
pub fn event(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    out.extend_from_slice(&one_line(message.to_vec()));
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// The way back to an agent on HTTP.
pub struct HttpDownstream {
    streams: bool,
    cancel: CancellationToken,
    waiting: Mutex<VecDeque<Said>>,
    arrived: Notify,
    session: OnceLock<(Arc<str>, Revision)>,
}

/// What is said before the answer.
#[derive(Debug)]
pub struct Said {
    /// The message.
    pub message: Bytes,
    /// Whether the call waits for what is said to it; anything else may be left out.
    pub is_question: bool,
}

/// The way to ask an agent of a handshake revision on HTTP.
pub struct HandshakeDownstream<'d>(&'d HttpDownstream);

impl Back for HandshakeDownstream<'_> {
    fn send(&self, message: Bytes) -> bool {
        self.0.streams && {
            self.0.push(message, true);
            true
        }
    }
}

impl HttpDownstream {
    /// For a client that takes event streams, or one that does not and hears only the answer.
    pub fn new(streams: bool, cancel: CancellationToken) -> Self {
        Self { streams, cancel, waiting: Mutex::default(), arrived: Notify::new(), session: OnceLock::new() }
    }

    /// Serves an agent of a handshake revision from now on, in its session if there is one yet.
    pub fn of_handshake(&self, session: Option<&Arc<str>>, revision: Revision) -> HandshakeDownstream<'_> {
        if let Some(session) = session {
            let _ = self.session.set((Arc::clone(session), revision));
        }
        HandshakeDownstream(self)
    }

    /// The session that the message belongs to, once that is known.
    pub fn session(&self) -> Option<&(Arc<str>, Revision)> {
        self.session.get()
    }

    /// Whether the client takes event streams.
    pub fn streams(&self) -> bool {
        self.streams
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Said>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Questions are bounded where they are asked; of everything else the oldest gives way.
    fn push(&self, message: Bytes, is_question: bool) {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING
            && let Some(oldest) = waiting.iter().position(|waiting| !waiting.is_question)
        {
            waiting.remove(oldest);
        }
        waiting.push_back(Said { message, is_question });
        drop(waiting);
        self.arrived.notify_one();
    }

    /// What is said next, when there is something.
    pub async fn next(&self) -> Said {
        loop {
            let arrived = self.arrived.notified();
            if let Some(waiting) = self.waiting().pop_front() {
                return waiting;
            }
            arrived.await;
        }
    }

    /// What waits now.
    pub fn rest(&self) -> impl Iterator<Item = Said> {
        std::mem::take(&mut *self.waiting()).into_iter()
    }
}

impl Downstream for HttpDownstream {
    fn notify(&self, method: &str, params: &[u8]) {
        if self.streams {
            self.push(notification(method, params), false);
        }
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }
}

/// A notification's JSON text.
pub fn notification(method: &str, params: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(params.len() + method.len() + 48);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\",\"params\":");
    out.extend_from_slice(params);
    out.push(b'}');
    out.into()
}
