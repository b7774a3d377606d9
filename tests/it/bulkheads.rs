//! A server's calls that find no place wait for one, within bounds, and the agents have their turns.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::client::Open;
use crate::support::{Ask, Client, Does, Serving, Site, Upstream, until};

const BOTH: &str = "p, R1, role:any, up__*, reversible, -, allow\n";

/// A server with one place, which `save` holds until the token is cancelled.
async fn one_place(defaults: &str) -> (Upstream, Site, CancellationToken) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, &format!("concurrency: 1, {defaults}")).policy(BOTH);
    let go_on = CancellationToken::new();
    upstream.does("save", Does::Waits(go_on.clone()));
    (upstream, site, go_on)
}

async fn begin(client: &Client, text: &str) -> Open {
    client.open(&Ask::call("up__save", json!({ "text": text }))).await
}

/// Waits until so many calls wait for a place.
async fn waiting(site: &Site, calls: u64) {
    until("the calls in the queue", async || {
        let status = site.run(&["status", "--json"]).await.json();
        (status["upstreams"][0]["waiting"] == calls).then_some(())
    })
    .await;
}

/// The texts that the server was called with, in order.
fn order(upstream: &Upstream) -> Vec<String> {
    let text = |call: Value| call["params"]["arguments"]["text"].as_str().unwrap_or_default().to_owned();
    upstream.calls().iter().map(|call| text(call.json())).collect()
}

#[tokio::test]
async fn one_agents_hundred_waiting_calls_delay_another_agent_by_one_turn() {
    let (upstream, site, go_on) = one_place("queue: 200, queue_per_agent: 150, queue_timeout_ms: 60000").await;
    let gateway = site.serve().await;
    let mut calls = vec![begin(&gateway.client(), "first").await];
    upstream.got(1).await;
    for _ in 0..100 {
        calls.push(begin(&gateway.client(), "many").await);
    }
    waiting(&site, 100).await;
    for _ in 0..3 {
        calls.push(begin(&gateway.other(), "other").await);
    }
    waiting(&site, 103).await;

    go_on.cancel();
    for call in calls {
        assert_eq!(call.answer().await.code(), "ok");
    }

    let order = order(&upstream);
    let places: Vec<_> = order.iter().enumerate().filter(|(_, text)| *text == "other").map(|(at, _)| at).collect();
    assert_eq!(places, [2, 4, 6], "turn and turn about: {order:?}");
    assert_eq!(order.len(), 104);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (upstream, site, go_on) = one_place("queue: 3, queue_per_agent: 2, queue_timeout_ms: 60000").await;
    let mut gateway = site.serve().await;
    let mut calls = vec![begin(&gateway.client(), "").await];
    upstream.got(1).await;
    for _ in 0..2 {
        calls.push(begin(&gateway.client(), "").await);
    }
    waiting(&site, 2).await;

    let own = gateway.client().call("up__save", json!({})).await;
    assert_eq!(own.told(), "concurrency_limited none");
    assert!(own.error()["retry_after_ms"].is_u64() && own.text().contains("this agent"), "{}", own.text());
    calls.push(begin(&gateway.other(), "").await);
    waiting(&site, 3).await;
    assert_eq!(gateway.other().call("up__save", json!({})).await.told(), "concurrency_limited none");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_upstream_calls_waiting{upstream=\"up\"} 3"), "{metrics}");
    assert!(metrics.contains("doorward_upstream_calls{upstream=\"up\"} 1"), "{metrics}");

    go_on.cancel();
    for call in calls {
        assert_eq!(call.answer().await.code(), "ok");
    }
    assert_eq!(site.ends(4).await, ["ok done"; 4], "what is refused has no intent");
}

#[tokio::test]
async fn a_queue_of_none_refuses_at_once() {
    let (upstream, site, _) = one_place("queue: 0").await;
    let gateway = site.serve().await;
    let _first = begin(&gateway.client(), "").await;
    upstream.got(1).await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.told(), "concurrency_limited none");
}

#[tokio::test]
async fn nobody_waits_longer_than_the_operator_or_the_agent_says() {
    for (defaults, timeout) in [("queue_timeout_ms: 50", None), ("queue_timeout_ms: 600000", Some(50))] {
        let (upstream, site, _) = one_place(defaults).await;
        let gateway = site.serve().await;
        let _first = begin(&gateway.client(), "").await;
        upstream.got(1).await;
        let meta = timeout.map_or(json!({}), |timeout| json!({ "dev.doorward/timeoutMs": timeout }));

        let answer = gateway.client().send(&Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": meta }))).await;

        assert_eq!(answer.told(), "concurrency_limited none", "{defaults}");
        assert_eq!(upstream.calls().len(), 1);
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_leaves_the_queue() {
    let (upstream, site, go_on) = one_place("queue_timeout_ms: 600000").await;
    let gateway = site.serve().await;
    let first = begin(&gateway.client(), "first").await;
    upstream.got(1).await;
    let second = begin(&gateway.client(), "second").await;
    waiting(&site, 1).await;

    drop(second);

    waiting(&site, 0).await;
    let refused = site.recorded("refusal", "code", "cancelled").await;
    assert_eq!(refused["effect"], "none");
    go_on.cancel();
    assert_eq!(first.answer().await.code(), "ok");
    assert_eq!(order(&upstream), ["first"]);
}

#[tokio::test]
async fn one_servers_full_places_leave_other_servers_alone() {
    let (upstream, site, _) = one_place("queue: 0").await;
    let other = Upstream::start().await;
    let rows = format!("{BOTH}p, R2, role:any, two__*, reversible, -, allow\n");
    let site = site.upstream("two", &other).policy(&rows);
    let gateway: Serving = site.serve().await;
    let _first = begin(&gateway.client(), "").await;
    upstream.got(1).await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "concurrency_limited");
    for _ in 0..20 {
        assert_eq!(gateway.client().call("two__save", json!({})).await.code(), "ok");
    }
}
