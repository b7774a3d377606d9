//! Answers on HTTP that begin before their call has ended: when an event stream begins, and what goes on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response};
use tokio::sync::mpsc;

use super::exchange::Outgoing;
use super::headers;
use super::http::Exchange;
use super::stream::{Answer, Enduring, HttpDownstream, event};
use crate::gateway::Gateway;
use crate::invocation::Caller;
use crate::mcp::revision::Revision;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// A stream says that it lives at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Exchange {
    /// Runs the message to its end, whether or not the client waits for it, and answers when the first of these is there: its answer, or something to stream.
    pub(super) async fn run(self, gateway: Arc<Gateway>, caller: Caller, headers: HeaderMap, body: Bytes) -> Response<Answer> {
        let modern = caller.revision.is_some_and(Revision::is_modern);
        let cancel = self.service.0.give_up.child_token();
        let streams = headers::accepts(&headers, "text/event-stream");
        let downstream = Arc::new(HttpDownstream::new(streams, cancel.clone()));
        // Hanging up is how a modern client cancels.
        let hung_up = modern.then(|| cancel.clone().drop_guard());
        let tasks = self.service.0.tasks.clone();
        let back = Arc::clone(&downstream);
        let mut running =
            Enduring::new(&tasks, async move { Exchange::message(&self, &gateway, caller, &headers, &body, &back, &cancel).await });
        let response = tokio::select! {
            biased;
            outgoing = &mut running => outgoing.whole(),
            first = downstream.next(), if streams => return stream(event(&first), running, downstream, hung_up),
            () = tokio::time::sleep(KEEP_ALIVE), if streams => return stream(Bytes::from_static(b": working\n\n"), running, downstream, hung_up),
        };
        if let Some(guard) = hung_up {
            guard.disarm();
        }
        response
    }
}

/// An answer that begins before its call has ended.
fn stream(
    first: Bytes,
    mut running: Enduring<Outgoing>,
    downstream: Arc<HttpDownstream>,
    hung_up: Option<tokio_util::sync::DropGuard>,
) -> Response<Answer> {
    let (events, body) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut next = first;
        loop {
            // The client is gone when nobody receives: a modern call is then cancelled by its guard.
            if events.send(next).await.is_err() {
                return;
            }
            next = tokio::select! {
                biased;
                message = downstream.next() => event(&message),
                outgoing = &mut running => {
                    for message in downstream.rest() {
                        let _ = events.send(event(&message)).await;
                    }
                    let _ = events.send(event(&outgoing.body)).await;
                    hung_up.map(tokio_util::sync::DropGuard::disarm);
                    return;
                }
                () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(b": working\n\n"),
                () = events.closed() => return,
            };
        }
    });
    let mut response = Response::new(Answer::Events(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
