//! The streams on which an HTTP server tells that its tools have changed: `subscriptions/listen`, or a session's GET.
//!
//! INVARIANT: a server that offers none is not asked again over the same link; the periodic listing still finds changes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::answer::{self, Events, Kind};
use super::backoff::Backoff;
use super::headers;
use super::http::Once;
use super::http_link::HttpLink;
use super::inbound;
use super::request::{Exchange, Part, Sent};
use super::session::Place;
use super::wire;
use crate::mcp::revision::{Era, Revision};

/// The first and the longest wait between two streams.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Listens until the link is closed.
pub(super) fn listen(link: &Arc<HttpLink>, version: Revision) {
    let (link, gone) = (Arc::clone(link), link.gone.clone());
    let tasks = link.shared.tasks.clone();
    tasks.spawn(async move {
        gone.run_until_cancelled(again_and_again(&link, version)).await;
    });
}

async fn again_and_again(link: &Arc<HttpLink>, version: Revision) {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        let Some(asked) = once(link, version).await else { return };
        tokio::time::sleep(backoff.step().max(asked.min(AGAIN.1))).await;
        // What happened between two streams was told to nobody.
        link.shared.changed.notify_one();
    }
}

/// One stream to its end: how long the server wants us to wait; `None` when it offers no stream.
async fn once(link: &Arc<HttpLink>, version: Revision) -> Option<Duration> {
    let (place, method, headers, body) = match version.era() {
        Era::Modern => modern(link)?,
        Era::Legacy => legacy(link).await?,
    };
    let Ok(response) = link.client.send(method, headers, body).await else { return Some(Duration::ZERO) };
    let status = response.status();
    if status.is_server_error() || (place.is_some() && status == http::StatusCode::NOT_FOUND) {
        return Some(Duration::ZERO);
    }
    if !status.is_success() || answer::kind(&response) != Kind::Stream {
        return None;
    }
    let mut events = Events::new(response.into_body(), link.shared.max_message_bytes);
    while let Ok(Some(data)) = events.next().await {
        let _ = inbound::read(&data, Some(version), |message| link.aside(message, place.as_ref()));
    }
    Some(events.retry().unwrap_or_default())
}

type Stream = (Option<Place>, Method, HeaderMap, Once);

fn modern(link: &HttpLink) -> Option<Stream> {
    let sent = Sent::default();
    let members = [("notifications", Part::Raw(br#"{"toolsListChanged":true}"#))];
    let exchange = Exchange::own(Era::Modern, "subscriptions/listen", &members, &sent);
    let body = Once::plain(wire::request(&exchange, link.id()));
    Some((None, Method::POST, headers::modern(link.client.headers(), &exchange).ok()?, body))
}

async fn legacy(link: &Arc<HttpLink>) -> Option<Stream> {
    let place = link.own_place().await.ok()?;
    let headers = headers::legacy_stream(link.client.headers(), place.get()?);
    Some((Some(place), Method::GET, headers, Once::default()))
}
