//! What a hostile or broken peer sends, and what still works after it.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::upstreams::http_server::{Answer, End, Server};
use super::upstreams::{in_front_of, on_pipes};
use crate::support::{Ask, Does, Site, Upstream, until};

#[tokio::test]
async fn two_answers_of_a_server_are_one_to_the_agent_and_recorded() {
    let site = on_pipes("legacy", &["twice"], "");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__twice", json!({})).await.code(), "ok");
    let late = until("a late answer", async || site.of_kind("late").pop()).await;
    assert_eq!(late["call_id"], site.of_kind("intent")[0]["call_id"]);
}

#[tokio::test]
async fn an_answer_under_another_id_is_nobodys() {
    let site = on_pipes("legacy", &["wrong_id", "echo"], "timeout_ms: 500");
    let gateway = site.serve().await;
    let client = gateway.client();
    let (lied, fine) = tokio::join!(client.call("up__wrong_id", json!({})), client.call("up__echo", json!({})));
    assert_eq!((lied.told().as_str(), fine.code().as_str()), ("upstream_timeout unknown", "ok"));
    let late = until("the answer that nobody asked for", async || site.of_kind("late").pop()).await;
    assert!(late["note"].as_str().unwrap().contains("never sent"), "{late}");
    let server = Server::modern(|asked| {
        let mut answer = asked.result(&json!({ "content": [], "resultType": "complete" }));
        if asked.body["params"]["arguments"]["lie"] == true {
            answer["id"] = json!("another");
        }
        Answer::json(200, &answer)
    })
    .await;
    let site = in_front_of(&server.transport(), &["echo"], "");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({ "lie": true })).await.told(), "upstream_protocol_error unknown");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn half_a_json_ends_its_call_and_no_other() {
    let site = on_pipes("legacy", &["unreadable", "junk"], "");
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("up__unreadable", json!({ "how": "cut off" })).await.told(), "upstream_protocol_error unknown");
    assert_eq!(client.call("up__junk", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn fifty_megabytes_of_a_server_are_not_taken_and_it_is_started_anew() {
    let site = on_pipes("legacy", &["huge", "echo"], "");
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("up__huge", json!({})).await.told(), "upstream_protocol_error unknown");
    until("the server again", async || (client.call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
}

#[tokio::test]
async fn an_endless_sse_stream_is_read_no_further_than_the_longest_message() {
    let server = Server::modern(|_| {
        let chunks = std::iter::once("data: ".to_owned()).chain((0..20).map(|_| "x".repeat(1 << 20))).collect();
        Answer::Http { status: 200, headers: vec![("content-type", "text/event-stream".to_owned())], chunks, end: End::Open }
    })
    .await;
    let site = in_front_of(&server.transport(), &["echo"], "");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.told(), "result_too_large unknown");
}

#[tokio::test]
async fn a_stream_that_says_nothing_for_ever_ends_with_the_time_of_its_call() {
    let server = Server::modern(|_| {
        let chunks = (0..1_000).map(|_| ": still here\n\n".to_owned()).collect();
        Answer::Http { status: 200, headers: vec![("content-type", "text/event-stream".to_owned())], chunks, end: End::Open }
    })
    .await;
    let site = in_front_of(&server.transport(), &["echo"], "timeout_ms: 300");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.told(), "upstream_timeout unknown");
    assert_eq!(site.ends(1).await, ["upstream_timeout unknown"]);
}

#[tokio::test]
async fn ten_thousand_notifications_a_second_hold_up_no_answer() {
    let site = on_pipes("legacy", &["flood", "echo"], "timeout_ms: 20000");
    let gateway = site.serve().await;
    let client = gateway.client();
    let call = client.call("up__flood", json!({}));
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().code(), "ok");
    assert_eq!(client.call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn a_progress_token_is_no_longer_than_an_id() {
    let upstream = Upstream::start().await;
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1 } });
    let now = CancellationToken::new();
    now.cancel();
    upstream.does("save", Does::Tells(vec![progress], now));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let told = async |token: &str| {
        let ask = Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": { "progressToken": "TOKEN" } }));
        gateway.client().send(&ask.saying("\"TOKEN\"", token)).await
    };

    for token in [format!("\"{}\"", "x".repeat(1025)), format!("1.{}", "0".repeat(1024))] {
        let answer = told(&token).await;
        assert_eq!(answer.wire(), (200, -32602, "malformed_request".to_owned()), "{}", token.len());
    }
    assert!(upstream.calls().is_empty());
    let longest = format!("\"{}\"", "x".repeat(1024));
    assert!(told(&longest).await.text().contains(&format!("\"progressToken\":{longest}")));
}
