//! Every intent has exactly one end, whatever became of its call, and the end tells the truth about the effect.

use serde_json::json;

use crate::support::upstream::text;
use crate::support::{Ask, Does, Site, Upstream};

async fn end_of(tool: &str, does: Does, defaults: &str) -> String {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, defaults);
    upstream.does(tool, does);
    let gateway = site.serve().await;
    let answer = gateway.client().call(&format!("up__{tool}"), json!({})).await;
    let ends = site.ends(1).await;
    let (status, ..) = gateway.stop().await;
    assert!(status.success());
    assert_eq!(site.ends(1).await, ends, "nothing is added at the stop");
    let outcome = &site.of_kind("outcome")[0];
    assert_eq!(outcome["call_id"], site.of_kind("intent")[0]["call_id"]);
    assert!(site.of_kind("refusal").is_empty());
    format!("{} -> {}", answer.code(), ends[0])
}

#[tokio::test]
async fn a_result() {
    assert_eq!(end_of("save", Does::Echo, "").await, "ok -> ok done");
}

#[tokio::test]
async fn an_error_of_the_tool_itself() {
    let mut failed = text("it did not work");
    failed["isError"] = true.into();
    assert_eq!(end_of("save", Does::Result(failed), "").await, "tool_error -> tool_error done");
}

#[tokio::test]
async fn an_error_of_the_protocol() {
    assert_eq!(end_of("save", Does::Error(-32603, "no"), "").await, "upstream_error -> upstream_error unknown");
    assert_eq!(end_of("save", Does::Error(-32602, "no"), "").await, "upstream_error -> upstream_error none");
}

#[tokio::test]
async fn a_timeout() {
    assert_eq!(end_of("save", Does::Hangs, "timeout_ms: 50").await, "upstream_timeout -> upstream_timeout unknown");
}

#[tokio::test]
async fn a_result_that_is_too_large() {
    let large = Does::Result(text(&"x".repeat(3_000)));
    assert_eq!(end_of("save", large, "max_result_bytes: 1024").await, "result_too_large -> result_too_large done");
}

#[tokio::test]
async fn a_result_that_breaks_the_tools_own_schema() {
    for result in [json!({ "content": [], "structuredContent": { "count": "many" } }), text("no structure at all")] {
        assert_eq!(end_of("typed", Does::Result(result), "").await, "result_invalid -> result_invalid done");
    }
    let sound = json!({ "content": [], "structuredContent": { "count": 3 } });
    assert_eq!(end_of("typed", Does::Result(sound), "").await, "ok -> ok done");
}

#[tokio::test]
async fn an_error_of_a_tool_with_a_schema_needs_no_structure() {
    let failed = json!({ "content": [], "isError": true });
    assert_eq!(end_of("typed", Does::Result(failed), "").await, "tool_error -> tool_error done");
}

#[tokio::test]
async fn a_broken_connection_and_nonsense() {
    assert_eq!(end_of("save", Does::Disconnects, "").await, "upstream_disconnected -> upstream_disconnected unknown");
    assert_eq!(end_of("save", Does::Says("?"), "").await, "upstream_protocol_error -> upstream_protocol_error unknown");
}

#[tokio::test]
async fn an_irreversible_call() {
    assert_eq!(end_of("pay", Does::Echo, "").await, "ok -> ok done");
    assert_eq!(end_of("pay", Does::Hangs, "timeout_ms: 50").await, "upstream_timeout -> upstream_timeout unknown");
}

#[tokio::test]
async fn many_at_once() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "concurrency: 64, concurrency_per_agent: 64");
    let gateway = site.serve().await;
    let calls: Vec<_> = (0..64)
        .map(|number| {
            let client = gateway.client();
            tokio::spawn(async move { client.send(&Ask::call("up__save", json!({ "number": number }))).await.code() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
    assert_eq!(site.ends(64).await, ["ok done"; 64]);
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}
