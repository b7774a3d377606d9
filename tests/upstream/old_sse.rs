//! Servers on HTTP+SSE (2024-11-05).

use doorward::upstream::{Dialect, Event, Revision};
use serde_json::{Value, json};

use crate::old_server::OldServer;
use crate::{Fixture, names, spec, told};

fn transport(server: &OldServer) -> Value {
    json!({"http": {"url": server.url()}})
}

#[tokio::test]
async fn a_server_that_takes_no_post_is_spoken_to_on_its_stream_and_remembered() {
    let server = OldServer::start().await;
    let mut fixture = Fixture::connected(spec(&transport(&server))).await;
    let listing = fixture.listing().await;
    assert_eq!((listing.version, listing.dialect), (Revision::V2024_11_05, Dialect::LegacySse));
    assert_eq!(names(&listing), ["echo", "die", "tell"]);
    assert_eq!(fixture.call("echo").await.unwrap()["content"][0]["text"], r#"{"n":1.0}"#);
    assert_eq!(server.seen()[..5], ["POST /sse", "POST /sse", "GET /sse", "initialize", "notifications/initialized"]);

    let server = OldServer::start().await;
    let mut spec = spec(&transport(&server));
    spec.remembered = Some(Dialect::LegacySse);
    Fixture::connected(spec).await.call("echo").await.unwrap();
    assert_eq!(server.seen()[0], "GET /sse");
}

#[tokio::test]
async fn a_stream_that_ends_leaves_its_calls_unknown_and_is_opened_again() {
    let server = OldServer::start().await;
    let mut fixture = Fixture::connected(spec(&transport(&server))).await;
    let error = fixture.call("die").await.unwrap_err();
    assert_eq!((told(&error), error.is_retryable()), (("upstream_disconnected", "unknown"), false));
    assert!(matches!(fixture.event().await, Event::Lost { .. }));
    for _ in 0..2 {
        fixture.listing().await;
    }
    while fixture.upstream.ready(std::time::Duration::from_secs(30)).await.is_err() {
        tokio::task::yield_now().await;
    }
    fixture.call("echo").await.unwrap();
    assert_eq!(server.seen().iter().filter(|what| *what == "tools/call").count(), 2, "nothing is sent again");
}

#[tokio::test]
async fn a_stream_of_something_else_is_given_up_with_the_reason() {
    let server = OldServer::start().await;
    let mut fixture = Fixture::connected(spec(&transport(&server))).await;
    assert_eq!(told(&fixture.call("babble").await.unwrap_err()), ("upstream_disconnected", "unknown"));
    let Event::Lost { reason } = fixture.event().await else { panic!("not lost") };
    assert!(reason.contains("more than 10000 lines"), "{reason}");
}

#[tokio::test]
async fn an_endpoint_beyond_the_origin_is_never_posted_to() {
    let elsewhere = OldServer::start().await;
    let server = OldServer::naming(&elsewhere.url().replace("/sse", "/messages")).await;
    let fixture = Fixture::start(spec(&transport(&server)));
    let reason = fixture.failure().await;
    assert!(reason.contains("not on its own origin"), "{reason}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn what_is_watched_is_subscribed_to_on_the_stream() {
    let server = OldServer::start().await;
    let mut fixture = Fixture::connected(spec(&transport(&server))).await;
    let _watch = fixture.upstream.watch(&"agent:a".into(), "a:b").unwrap();
    fixture.call("tell").await.unwrap();
    let Event::Updated { uri } = fixture.event().await else { panic!("not updated") };
    assert_eq!(uri, "a:b");
    while !server.seen().iter().any(|what| what == "resources/subscribe") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_that_was_cancelled_before_it_left_never_leaves_on_a_stream() {
    let server = OldServer::start().await;
    let fixture = Fixture::connected(spec(&transport(&server))).await;
    // Nothing is left of a request that was withdrawn before it was posted.
    let call = crate::Call::of("echo");
    call.cancel.cancel();
    assert_eq!(told(&call.send(&fixture.upstream).await.unwrap_err()), ("cancelled", "none"));
    assert!(!server.seen().iter().any(|what| what == "tools/call"));
}
