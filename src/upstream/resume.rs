//! A stream of a legacy server that broke before its answer, taken up where it broke.
//!
//! INVARIANT: nothing is asked for again but the rest of the stream: the request itself is never sent a second time for it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use tokio::time::sleep;

use super::answer::{self, Events, Kind};
use super::headers;
use super::http::Once;
use super::http_link::HttpLink;
use super::session::Place;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How often in a row a stream is taken up without an event that is new.
const MOST: u32 = 5;
/// The longest wait that a server may ask for, and the usual one.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));

/// How often a stream was taken up since its last new event.
#[derive(Debug, Default)]
pub(super) struct Tries {
    count: u32,
    last: Option<Bytes>,
}

/// The rest of `broken`; `None` where the server gave its events no ids, or has nothing more. It may take as long as the call has.
pub(super) async fn resume(link: &HttpLink, place: &Place, broken: &Events, tries: &mut Tries) -> Option<Events> {
    let last = broken.last_id()?;
    if tries.last.as_ref() != Some(&last) {
        *tries = Tries { count: 0, last: Some(last.clone()) };
    }
    loop {
        tries.count += 1;
        if tries.count > MOST {
            return None;
        }
        sleep(broken.retry().unwrap_or(WAIT.1).min(WAIT.0)).await;
        let mut headers = headers::legacy_stream(link.client.headers(), place.get()?);
        headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(&last).ok()?);
        // A server that cannot be reached now may be in a moment; one that answers anything else has no such stream.
        let Ok(response) = link.client.send(Method::GET, headers, Once::default()).await else { continue };
        let is_stream = response.status().is_success() && answer::kind(&response) == Kind::Stream;
        return is_stream.then(|| broken.rest(response.into_body()));
    }
}
