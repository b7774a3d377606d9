//! How a server is asked to tell of changes: `subscriptions/listen`, or a session's own stream and `resources/subscribe`.
//!
//! Leaves to others: what is watched (`watch`), and what a message means (`inbound`).
//! INVARIANT: a server that offers no stream is not asked again over the same link; the periodic listing still finds changes.
//! INVARIANT: while one stream takes the place of another, one of the two is always read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::{sleep, timeout};

use super::answer::{self, Events, Kind};
use super::backoff::Backoff;
use super::headers;
use super::http::Once;
use super::http_link::HttpLink;
use super::inbound::{self, Greeting, Tells};
use super::link::Link;
use super::pace::{Flooded, Said};
use super::request::{Exchange, Part, Sent};
use super::session::Place;
use super::shared::Shared;
use super::stdio::StdioLink;
use super::watch::Uris;
use super::wire;
use crate::mcp::canonical::write_string;
use crate::mcp::revision::{Era, Revision};

/// The first and the longest wait between two streams.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a server may take to say that it listens, and to subscribe to one resource.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Has the server tell of changes until the link is gone.
pub(super) fn listen(shared: &Arc<Shared>, link: &Link, greeting: &Greeting) {
    let (tells, version) = (greeting.tells, greeting.version);
    if tells == Tells::default() {
        return;
    }
    let (shared, link, tasks) = (Arc::clone(shared), link.clone(), shared.tasks.clone());
    tasks.spawn(async move {
        let listening = async {
            match (&link, version.era()) {
                (Link::Http(link), _) => streams(link, version, tells).await,
                (Link::Stdio(link), Era::Modern) => requests(&shared, link, tells).await,
                // What these tell comes unasked, but for what is watched.
                (Link::Stdio(_), Era::Legacy) | (Link::OldSse(_), _) if tells.watched => match subscribe(&shared, &link).await {},
                (Link::Stdio(_), Era::Legacy) | (Link::OldSse(_), _) => {}
            }
        };
        tokio::select! { () = listening => {}, _ = link.lost() => {} }
    });
}

/// What a modern server is asked to tell of; `None` where there is nothing.
fn filter(tells: Tells, uris: &Uris) -> Option<Vec<u8>> {
    let lists = [
        (tells.tools, r#""toolsListChanged":true"#),
        (tells.prompts, r#""promptsListChanged":true"#),
        (tells.resources, r#""resourcesListChanged":true"#),
    ];
    let mut out = Vec::new();
    for (_, member) in lists.into_iter().filter(|(offered, _)| *offered) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(member.as_bytes());
    }
    if tells.watched && !uris.is_empty() {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(br#""resourceSubscriptions":"#);
        for (at, uri) in uris.iter().enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            write_string(uri, &mut out);
        }
        out.push(b']');
    }
    out.push(b'}');
    (out.len() > 1).then_some(out)
}

/// Keeps a modern server on pipes listening to what is watched.
async fn requests(shared: &Shared, link: &StdioLink, tells: Tells) {
    let (mut backoff, mut held) = (Backoff::new(AGAIN.0, AGAIN.1), Uris::new());
    let telling = tells.watched.then(|| shared.watched.telling());
    loop {
        link.listen(filter(tells, &held).as_deref());
        // What follows on the pipe comes to it later.
        telling.iter().for_each(|telling| telling.known(&held));
        tokio::select! {
            wanted = shared.watched.other_than(&held) => held = wanted,
            () = link.unheard.notified() => {
                sleep(backoff.step()).await;
                shared.changed.notify_one();
            }
        }
    }
}

/// Subscribes to what is watched, one resource after another; a server that refuses one is not asked again.
async fn subscribe(shared: &Shared, link: &Link) -> Infallible {
    let (mut held, telling) = (Uris::new(), shared.watched.telling());
    loop {
        let wanted = shared.watched.other_than(&held).await;
        let gone = held.difference(&wanted).map(|uri| ("resources/unsubscribe", uri));
        for (method, uri) in gone.chain(wanted.difference(&held).map(|uri| ("resources/subscribe", uri))) {
            let (sent, members) = (Sent::default(), [("uri", Part::Text(uri))]);
            let exchange = Exchange { capabilities: shared.may_ask, ..Exchange::own(Era::Legacy, method, &members, &sent) };
            if !matches!(timeout(ACKNOWLEDGED, link.exchange(&exchange)).await, Ok(Ok(reply)) if reply.is_result()) {
                tracing::debug!(upstream = %shared.id, method, "the tool server does not do so");
            }
        }
        held = wanted;
        telling.known(&held);
    }
}

async fn streams(link: &Arc<HttpLink>, version: Revision, tells: Tells) {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        let asked = match version.era() {
            Era::Modern => modern(link, tells).await,
            Era::Legacy => legacy(link, version, tells).await,
        };
        let Some(asked) = asked else { return };
        sleep(backoff.step().max(asked.min(AGAIN.1))).await;
        // What happened between two streams was told to nobody.
        link.shared.changed.notify_one();
    }
}

/// What became of asking for a stream.
enum Asked {
    Stream(Box<Events>),
    /// There is nothing to ask for.
    Nothing,
    /// None this time.
    Failed,
    /// None ever.
    Never,
}

/// Listens until a stream ends: how long the server wants us to wait; `None` when it offers none. When other resources are
/// watched, a new stream is asked for, and takes the old one's place.
async fn modern(link: &Arc<HttpLink>, tells: Tells) -> Option<Duration> {
    let watched = &link.shared.watched;
    let telling = tells.watched.then(|| watched.telling());
    let mut held = watched.wanted().0;
    let mut asked = subscription(link, tells, &held).await;
    loop {
        let mut stream = match asked {
            Asked::Stream(events) => Some(events),
            Asked::Nothing => None,
            Asked::Failed => return Some(Duration::ZERO),
            Asked::Never => return None,
        };
        telling.iter().for_each(|telling| telling.known(&held));
        let next = async {
            let wanted = watched.other_than(&held).await;
            (subscription(link, tells, &wanted).await, wanted)
        };
        (asked, held) = tokio::select! {
            ended = read(link, stream.as_deref_mut(), Revision::NEWEST, None) => return Some(ended),
            next = next => next,
        };
    }
}

/// A stream of what is watched, once the server has said that it listens.
async fn subscription(link: &Arc<HttpLink>, tells: Tells, uris: &Uris) -> Asked {
    let Some(filter) = filter(tells, uris) else { return Asked::Nothing };
    let (sent, members) = (Sent::default(), [("notifications", Part::Raw(&filter))]);
    let exchange = Exchange::own(Era::Modern, "subscriptions/listen", &members, &sent);
    let Ok(headers) = headers::modern(link.client.headers(), &exchange) else { return Asked::Never };
    let mut asked = ask(link, Method::POST, headers, Once::plain(wire::request(&exchange, link.id())), false).await;
    if let Asked::Stream(events) = &mut asked
        && let Ok(Ok(Some(data))) = timeout(ACKNOWLEDGED, events.next()).await
    {
        let _ = inbound::read(&data, Some(Revision::NEWEST), |message| link.aside(message, None));
    }
    asked
}

/// Reads the stream of our own session until it ends, and meanwhile subscribes to what is watched.
async fn legacy(link: &Arc<HttpLink>, version: Revision, tells: Tells) -> Option<Duration> {
    let place = link.own_place().await.ok()?;
    let headers = headers::legacy_stream(link.client.headers(), place.get()?);
    let mut events = match ask(link, Method::GET, headers, Once::default(), true).await {
        Asked::Stream(events) => events,
        Asked::Failed => return Some(Duration::ZERO),
        Asked::Nothing | Asked::Never => return None,
    };
    let whole = Link::Http(Arc::clone(link));
    tokio::select! {
        ended = read(link, Some(&mut *events), version, Some(&place)) => Some(ended),
        never = subscribe(&link.shared, &whole), if tells.watched => match never {},
    }
}

async fn ask(link: &HttpLink, method: Method, headers: HeaderMap, body: Once, in_session: bool) -> Asked {
    let Ok(response) = link.client.send(method, headers, body).await else { return Asked::Failed };
    let status = response.status();
    if status.is_server_error() || (in_session && status == http::StatusCode::NOT_FOUND) {
        return Asked::Failed;
    }
    if !status.is_success() || answer::kind(&response) != Kind::Stream {
        return Asked::Never;
    }
    Asked::Stream(Box::new(Events::new(response.into_body(), &link.shared)))
}

/// Reads a stream to its end: how long the server wants us to wait. Without a stream there is no end.
async fn read(link: &Arc<HttpLink>, events: Option<&mut Events>, version: Revision, place: Option<&Place>) -> Duration {
    let Some(events) = events else { return std::future::pending().await };
    while let Ok(Some(data)) = events.next().await {
        let read = inbound::read(&data, Some(version), |message| link.aside(message, place));
        let said = read.map_or(Said::Unusable, Said::Unasked);
        if let Err(Flooded(reason)) = events.pace.after(said, &data, true).await {
            tracing::warn!(upstream = %link.shared.id, reason, "the stream on which the tool server tells of changes is ended");
            break;
        }
    }
    events.retry().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_only_for_what_it_offers() {
        let text = |tells, uris: &[&str]| {
            let uris = uris.iter().map(|uri| Arc::from(*uri)).collect();
            filter(tells, &uris).map(|filter| String::from_utf8(filter).unwrap())
        };
        let (none, all) = (Tells::default(), Tells { tools: true, prompts: true, resources: true, watched: true });
        assert_eq!(text(none, &["a:b"]), None);
        assert_eq!(text(Tells { watched: true, ..none }, &[]), None);
        assert_eq!(text(Tells { prompts: true, ..none }, &["a:b"]).as_deref(), Some(r#"{"promptsListChanged":true}"#));
        let whole =
            r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a:b","a:c\""]}"#;
        assert_eq!(text(all, &["a:b", "a:c\""]).as_deref(), Some(whole));
    }
}
