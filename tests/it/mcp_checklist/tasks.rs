//! Tasks: what an agent sees of them, which is nothing, and tools that cannot be called in any other way.

use serde_json::{Value, json};

use crate::support::asking::{call, forms, got, journal, said, site};
use crate::support::{Ask, Does, Site, Upstream};

#[tokio::test]
async fn a_tool_that_is_only_called_as_a_task_works_for_every_agent() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    for ask in [call("slow", &json!({})), call("slow", &forms())] {
        assert_eq!(said(&gateway.client().send(&ask).await), r#""done as a task""#);
    }
    let session = gateway.client().initialize("2025-06-18").await;
    let answer = gateway.client().send(&session.call("up__slow", &json!({}))).await;
    assert_eq!(answer.result()["content"][0]["text"], r#""done as a task""#);
    assert_eq!(site.ends(3).await, ["ok done"; 3]);
    let methods: Vec<_> = journal(&site).into_iter().map(|(_, message)| message["method"].clone()).collect();
    assert!(!methods.contains(&"tasks/cancel".into()), "{methods:?}");
}

#[tokio::test]
async fn a_task_that_nobody_waits_for_is_cancelled() {
    let site = site("", "timeout_ms: 300");
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__slow", json!({ "never": true })).await;
    assert_eq!(answer.error()["effect"], "unknown");
    let cancelled = got(&site, "the cancellation", |message| message["method"] == "tasks/cancel").await;
    assert_eq!(cancelled["params"]["taskId"], "never");
}

#[tokio::test]
async fn a_task_whose_result_is_refused_may_have_done_its_work() {
    let site = site("", "");
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__slow", json!({ "failing": true })).await;
    assert_eq!((answer.told().as_str(), &answer.error()["retryable"]), ("upstream_error unknown", &json!(false)));
    assert_eq!(site.ends(1).await, ["upstream_error unknown"]);
    let asked = journal(&site).into_iter().filter(|(_, message)| message["method"] == "tasks/result").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn n67_no_agent_reaches_a_task() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let answer = gateway.client().send(&Ask::modern(method, json!({ "taskId": "t1" })).with("Mcp-Name", "t1")).await;
        assert_eq!(answer.wire(), (404, -32601, "method_not_found".to_owned()), "{method}");
    }
    assert!(upstream.journal().iter().all(|received| !received.method.starts_with("tasks/")));
}

#[tokio::test]
async fn n68_a_task_is_no_result_and_its_old_methods_are_gone() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(json!({ "resultType": "task", "taskId": "t1", "status": "working" })));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__save", json!({})).await;
    assert_eq!(answer.told(), "upstream_protocol_error unknown");
    assert!(!answer.text().contains("t1"), "{}", answer.text());
    let sent: Value = upstream.calls()[0].json();
    assert_eq!(sent["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
    for method in ["tasks/result", "tasks/list"] {
        assert_eq!(gateway.client().send(&Ask::modern(method, json!({}))).await.wire().1, -32601, "{method}");
    }
}
