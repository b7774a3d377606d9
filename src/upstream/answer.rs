//! The answer to one POST: a JSON body, or an event stream that holds it among other messages.
//!
//! Leaves to others: what an HTTP status means without a message (`http_link`).
//! INVARIANT: nothing longer than the limit is kept; a stream is read no further than its answer, but for a short look at
//! its end, which is what lets the connection be used again.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::inbound::{self, Inbound};
use super::pace::Pace;
use super::request::{Outcome, Reply};
use super::shared::Shared;
use super::sse;
use crate::mcp::revision::Revision;

/// Longest body that is read of an HTTP error, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long, and how many bytes, to read a stream on behind its answer.
const TAIL: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// Why a body gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection broke.
    Broken(String),
    /// The stream ended without the answer.
    Ended,
    /// Longer than the limit.
    TooLong,
    /// Not MCP, or an answer to something else.
    Protocol(String),
}

/// What kind of body an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Stream,
    Other,
}

/// Tells by `Content-Type`.
pub(super) fn kind(response: &Response<Incoming>) -> Kind {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    match media {
        _ if media.eq_ignore_ascii_case("application/json") => Kind::Json,
        _ if media.eq_ignore_ascii_case("text/event-stream") => Kind::Stream,
        _ => Kind::Other,
    }
}

/// Reads a whole body.
pub(super) async fn whole(mut body: Incoming, limit: usize) -> Result<Bytes, Fault> {
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(Fault::TooLong);
    }
    // Nearly every answer is one frame, and then nothing is copied.
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Fault::Broken(error.to_string()))?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(Fault::TooLong);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        rest.extend_from_slice(&std::mem::take(&mut first));
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The answer to `id` in a JSON body.
pub(super) fn in_json(body: Bytes, id: u64, version: Revision) -> Result<Reply, Fault> {
    let mut found = None;
    let read = inbound::read(&body, Some(version), |message| {
        if let Inbound::Answer { id: theirs, outcome } = message
            && theirs == Some(id)
        {
            found.get_or_insert(outcome);
        }
    });
    read.map_err(|fault| Fault::Protocol(fault.0))?;
    let outcome = found.ok_or_else(|| Fault::Protocol("the answer has another id".to_owned()))?;
    Ok(Reply { body, version, outcome, begun: false, is_5xx: false })
}

/// The JSON-RPC error in the body of an HTTP error, where there is one: its id is ours or, as where the server could not
/// read it, none.
pub(super) async fn in_error(response: Response<Incoming>, id: u64, version: Revision) -> Option<Reply> {
    if kind(&response) != Kind::Json {
        return None;
    }
    let is_5xx = response.status().is_server_error();
    let body = whole(response.into_body(), MAX_ERROR_BYTES).await.ok()?;
    let mut found = None;
    let read = inbound::read(&body, Some(version), |message| {
        if let Inbound::Answer { id: theirs, outcome: outcome @ Outcome::Failure(_) } = message
            && theirs.is_none_or(|theirs| theirs == id)
        {
            found = Some(outcome);
        }
    });
    read.ok()?;
    Some(Reply { outcome: found?, body, version, begun: false, is_5xx })
}

/// The events of a stream.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    parser: sse::Parser,
    /// To be told of each event by whoever reads them; comments it is told of here.
    pub(super) pace: Pace,
}

impl Events {
    pub(super) fn new(body: Incoming, shared: &Shared) -> Self {
        Self { body, parser: sse::Parser::new(shared.max_message_bytes), pace: Pace::new(&shared.id) }
    }

    /// How long the server wants us to wait before the next stream.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.parser.retry_ms.map(Duration::from_millis)
    }

    /// The id of the last event that had one.
    pub(super) fn last_id(&self) -> Option<Bytes> {
        self.parser.last_id.clone().filter(|id| !id.is_empty())
    }

    /// The events that follow these, out of another body.
    pub(super) fn rest(&self, body: Incoming) -> Self {
        Self { body, parser: self.parser.resumed(), pace: self.pace.clone() }
    }

    /// The data of the next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(event) = self.any().await? {
            if event.kind.is_none_or(|kind| kind.is_empty() || kind == "message") {
                return Ok(Some(event.data));
            }
            self.pace.idle(1).await;
        }
        Ok(None)
    }

    /// The next event, of whatever kind; `None` at the end.
    pub(super) async fn any(&mut self) -> Result<Option<sse::Event>, Fault> {
        loop {
            if let Some(event) = self.parser.event().map_err(|_| Fault::TooLong)? {
                return Ok(Some(event));
            }
            self.pace.idle(std::mem::take(&mut self.parser.idle)).await;
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(|error| Fault::Broken(error.to_string()))?.into_data() {
                self.parser.push(&data);
            }
        }
    }

    /// Reads on to the end, for a while; tells whether the request was answered a second time.
    pub(super) async fn tail(mut self, id: u64, version: Revision) -> bool {
        let (mut doubled, mut read) = (false, 0);
        let reading = async {
            while let Ok(Some(data)) = self.next().await {
                let _ = inbound::read(&data, Some(version), |message| {
                    doubled |= matches!(message, Inbound::Answer { id: theirs, .. } if theirs == Some(id));
                });
                read += data.len();
                if read > TAIL.1 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(TAIL.0, reading).await;
        doubled
    }
}
