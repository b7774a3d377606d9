//! HTTP servers that fail, and whether the error tells the truth about it.

use std::time::Duration;

use serde_json::json;

use crate::http_server::{Answer, Asked, End, Server};
use crate::{Call, Fixture, reserve, spec, told};

/// What a call is told by a modern server that answers so, and how often the server saw it.
async fn fault(call: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> ((&'static str, &'static str), bool, usize) {
    let server = Server::modern(call).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    let error = fixture.call("echo").await.unwrap_err();
    (told(&error), error.is_retryable(), server.calls().len())
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_never_asked_for_again() {
    let disconnected = (("upstream_disconnected", "unknown"), false, 1);
    assert_eq!(fault(|_| Answer::Nothing).await, disconnected);
    let broken =
        |end| Answer::Http { status: 200, headers: vec![("content-type", "application/json".into())], chunks: vec!["{".into()], end };
    assert_eq!(fault(move |_| broken(End::Broken)).await, disconnected);
    assert_eq!(fault(|_| Answer::events(&[], End::Whole)).await, disconnected);
    assert_eq!(fault(|_| Answer::events(&[json!({"jsonrpc": "2.0", "method": "x"})], End::Broken)).await, disconnected);
}

#[tokio::test]
async fn what_is_not_an_answer_is_a_protocol_error() {
    let protocol = (("upstream_protocol_error", "unknown"), false, 1);
    assert_eq!(
        fault(|asked| Answer::json(200, &json!({"jsonrpc": "2.0", "id": asked.body["id"].as_u64().unwrap() + 1, "result": {}}))).await,
        protocol
    );
    assert_eq!(fault(|_| Answer::json(200, &json!(["x"]))).await, protocol);
    assert_eq!(fault(|_| Answer::status(200)).await, protocol);
    assert_eq!(fault(|_| Answer::status(307).with("location", "http://127.0.0.1:1/")).await, protocol);
    assert_eq!(fault(|_| Answer::status(418)).await, protocol);
    assert_eq!(fault(|_| Answer::events(&[json!({"half": true})], End::Open)).await, protocol);
}

#[tokio::test]
async fn a_refusal_before_the_work_has_no_effect_and_a_failing_server_may_have_one() {
    assert_eq!(fault(|_| Answer::status(401)).await, (("upstream_unavailable", "none"), true, 1));
    assert_eq!(fault(|_| Answer::status(429).with("retry-after", "3")).await, (("upstream_unavailable", "none"), true, 1));
    assert_eq!(fault(|_| Answer::status(503)).await, (("upstream_unavailable", "unknown"), false, 1));
    let unsupported = |asked: &Asked| Answer::json(400, &asked.error(-32022, &json!({"supported": ["2025-11-25"]})));
    assert_eq!(fault(unsupported).await, (("upstream_unavailable", "none"), true, 1));
}

#[tokio::test]
async fn an_error_of_the_server_is_its_answer() {
    let server = Server::modern(|asked| Answer::json(404, &asked.error(-32602, &json!(null)))).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(fixture.call("echo").await.unwrap()["code"], -32602);
}

#[tokio::test]
async fn results_beyond_the_limits_are_kept_from_the_agent() {
    let big = |asked: &Asked| Answer::json(200, &asked.result(&json!("x".repeat(300_000))));
    let server = Server::modern(big).await;
    let mut spec = spec(&server.transport());
    spec.max_message_bytes = 400_000;
    let fixture = Fixture::connected(spec).await;
    let error = Call { max_result_bytes: 1000, ..Call::of("echo") }.send(&fixture.upstream).await.unwrap_err();
    assert_eq!(told(&error), ("result_too_large", "done"));

    for stream in [false, true] {
        let huge = move |asked: &Asked| {
            let answer = asked.result(&json!("x".repeat(300_000)));
            if stream { Answer::events(&[answer], End::Whole) } else { Answer::json(200, &answer) }
        };
        let server = Server::modern(huge).await;
        let mut spec = crate::spec(&server.transport());
        spec.max_message_bytes = 100_000;
        let fixture = Fixture::connected(spec).await;
        assert_eq!(told(&fixture.call("echo").await.unwrap_err()), ("result_too_large", "unknown"));
    }
}

#[tokio::test]
async fn a_legacy_session_that_is_gone_is_opened_again_once() {
    let server = Server::legacy(|asked| match asked.header("mcp-session-id") {
        "s2" => Answer::status(404),
        _ => Answer::json(200, &asked.result(&json!({"said": "again"}))),
    })
    .await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(fixture.call("echo").await.unwrap()["said"], "again");
    assert_eq!(server.calls().len(), 2);

    let server = Server::legacy(|asked| match asked.header("mcp-session-id") {
        "s2" => Answer::status(400),
        _ => Answer::json(200, &asked.result(&json!({"said": "again"}))),
    })
    .await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(told(&fixture.call("echo").await.unwrap_err()), ("upstream_protocol_error", "unknown"));
    assert_eq!(fixture.call("echo").await.unwrap()["said"], "again");

    let server = Server::legacy(|_| Answer::status(404)).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(told(&fixture.call("echo").await.unwrap_err()), ("upstream_unavailable", "none"));
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_cancelled_modern_call_closes_its_stream() {
    for open in [|| Answer::Silence, || Answer::events(&[], End::Open)] {
        let mut server = Server::modern(move |_| open()).await;
        let fixture = Fixture::connected(spec(&server.transport())).await;
        let call = Call { limit: Duration::from_millis(50), ..Call::of("echo") };
        assert_eq!(told(&call.send(&fixture.upstream).await.unwrap_err()), ("upstream_timeout", "unknown"));
        crate::soon(server.closed.recv()).await.unwrap();
        assert!(server.all("notifications/cancelled").is_empty());
    }
}

#[tokio::test]
async fn a_cancelled_legacy_call_is_told_to_the_server() {
    let server = Server::legacy(|_| Answer::Silence).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    let call = Call::of("echo");
    let cancelled = async {
        while !call.sent.has_left() || server.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        call.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(call.send(&fixture.upstream), cancelled);
    assert_eq!(told(&outcome.unwrap_err()), ("cancelled", "unknown"));
    fixture.upstream.stop().await;
    let told = server.all("notifications/cancelled").remove(0);
    assert_eq!(told.body["params"]["requestId"], server.calls()[0].body["id"]);
    assert_eq!(told.header("mcp-session-id"), "s2");
}

#[tokio::test]
async fn a_call_that_was_cancelled_before_it_left_never_leaves() {
    let server = Server::modern(|_| Answer::Silence).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    let call = Call::of("echo");
    call.cancel.cancel();
    assert_eq!(told(&call.send(&fixture.upstream).await.unwrap_err()), ("cancelled", "none"));
    assert!(!call.sent.has_left() && server.calls().is_empty());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_says_when_to_try_again() {
    let address = Server::modern(|_| Answer::Silence).await.transport();
    let fixture = Fixture::start(spec(&address));
    fixture.failure().await;
    let error = fixture.upstream.ready(Duration::ZERO).await.unwrap_err();
    assert_eq!(told(&error), ("upstream_unavailable", "none"));
    assert!(error.is_retryable() && error.wait_ms().is_some());
}

#[tokio::test]
async fn a_refused_credential_is_told_to_the_operator() {
    let server = Server::start(|_| Answer::status(401)).await;
    let fixture = Fixture::start(spec(&server.transport()));
    assert!(fixture.failure().await.contains("credential"));
    assert!(server.all("initialize").is_empty());
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_left_alone() {
    let server = Server::modern(|_| Answer::Nothing).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    for _ in 0..5 {
        fixture.call("echo").await.unwrap_err();
        fixture.upstream.ready(Duration::from_secs(30)).await.unwrap();
    }
    let error = reserve(&fixture.upstream, "agent:a", "echo").await.unwrap_err();
    assert_eq!(told(&error), ("circuit_open", "none"));
    assert!(error.wait_ms().is_some() && server.calls().len() == 5);
}

#[tokio::test]
async fn a_full_upstream_refuses_at_once_and_a_dropped_slot_is_free() {
    let server = Server::modern(|_| Answer::Silence).await;
    let mut spec = spec(&server.transport());
    (spec.concurrency, spec.queue) = (1, 0);
    let fixture = Fixture::connected(spec).await;
    let slot = reserve(&fixture.upstream, "agent:a", "echo").await.unwrap();
    assert_eq!(told(&reserve(&fixture.upstream, "agent:a", "echo").await.unwrap_err()), ("concurrency_limited", "none"));
    drop(slot);
    reserve(&fixture.upstream, "agent:a", "echo").await.unwrap();
}
