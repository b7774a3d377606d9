//! An HTTP answer that is either one JSON body or an event stream, decided as late as possible.
//!
//! INVARIANT: the head is held until the first notification or keep-alive is due, since a refusal may need a status.
//! INVARIANT: what waits to be sent is bounded: beyond it the oldest progress is dropped, the answer never is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::mcp::messages::Downstream;

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
pub enum Answer {
    /// All of it.
    Whole(Option<Bytes>),
    /// Events as they come; ends with its sender.
    Events(mpsc::Receiver<Bytes>),
}

impl Answer {
    /// A body of these bytes.
    pub fn whole(body: impl Into<Bytes>) -> Self {
        Self::Whole(Some(body.into()).filter(|body| !body.is_empty()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Events(events) => events.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(body) => http_body::SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => http_body::SizeHint::default(),
        }
    }
}

/// One message as an event.
pub fn event(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    out.extend_from_slice(message);
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// The way back to an agent on HTTP.
pub struct HttpDownstream {
    streams: bool,
    cancel: CancellationToken,
    waiting: Mutex<VecDeque<Bytes>>,
    arrived: Notify,
}

impl HttpDownstream {
    /// For a client that takes event streams, or one that does not and hears only the answer.
    pub fn new(streams: bool, cancel: CancellationToken) -> Self {
        Self { streams, cancel, waiting: Mutex::default(), arrived: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next notification, when there is one.
    pub async fn next(&self) -> Bytes {
        loop {
            let arrived = self.arrived.notified();
            if let Some(message) = self.waiting().pop_front() {
                return message;
            }
            arrived.await;
        }
    }

    /// What waits now.
    pub fn rest(&self) -> VecDeque<Bytes> {
        std::mem::take(&mut *self.waiting())
    }
}

impl Downstream for HttpDownstream {
    fn notify(&self, method: &str, params: &[u8]) {
        if !self.streams {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(notification(method, params));
        drop(waiting);
        self.arrived.notify_one();
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
