//! What all agents share, one of them cannot have all of.

use serde_json::{Value, json};

use crate::support::asking::{asked, call, forms, relaying, site};
use crate::support::stream::Stream;
use crate::support::{Does, soon};

#[tokio::test]
async fn one_agent_cannot_hold_every_process_that_may_ask() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    for _ in 0..3 {
        asked(&gateway.client(), "ask", &forms()).await;
    }

    let refused = gateway.client().send(&call("ask", &forms())).await;

    assert_eq!(refused.told(), "concurrency_limited none");
    assert!(refused.error()["retry_after_ms"].is_u64());
    site.recorded("outcome", "code", "concurrency_limited").await;
    asked(&gateway.other(), "ask", &forms()).await;
}

/// A result that asks so many questions.
fn questions(number: usize) -> Value {
    let schema = json!({ "type": "object", "properties": { "branch": { "type": "string" } } });
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "Which?", "requestedSchema": schema } });
    let questions: Value = (0..number).map(|number| (number.to_string(), question.clone())).collect();
    json!({ "resultType": "input_required", "inputRequests": questions })
}

#[tokio::test]
async fn one_agent_cannot_be_asked_all_questions_that_may_wait() {
    let (upstream, site) = relaying(questions(512)).await;
    let gateway = site.serve().await;
    let one = gateway.client().begin("2025-11-25", forms()).await;
    let mut waiting = Stream::open(&one.client, &one.call("up__save", &json!({}))).await;
    for _ in 0..512 {
        waiting.message().await;
    }
    upstream.does("save", Does::Asks(questions(1)));

    let refused = soon("the refusal", one.client.send(&one.call("up__save", &json!({})))).await;

    assert_eq!(refused.told(), "concurrency_limited unknown");
    assert_eq!(refused.error()["retryable"], false);
    site.recorded("refusal", "code", "concurrency_limited").await;
    let other = gateway.other().begin("2025-11-25", forms()).await;
    let mut asked = Stream::open(&other.client, &other.call("up__save", &json!({}))).await;
    assert_eq!(asked.message().await["method"], "elicitation/create");
}

#[tokio::test]
async fn a_call_that_waits_for_nobody_keeps_its_place() {
    let later = json!({ "resultType": "input_required", "requestState": "later" });
    let (upstream, site) = relaying(json!({})).await;
    upstream.does("save", Does::Result(later));
    let site = site.listen("max_concurrent_calls: 1");
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", forms()).await;
    let _again_and_again = session.client.open(&session.call("up__save", &json!({}))).await;
    upstream.got(3).await;

    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "overloaded");
}
