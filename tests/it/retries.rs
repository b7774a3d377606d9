//! A call is sent a second time only where that does nothing twice, within bounds, and with a record.

use serde_json::{Value, json};

use crate::support::{Does, Serving, Site, Upstream};

async fn told(gateway: &Serving, tool: &str) -> String {
    told_of(gateway, tool, "").await
}

async fn told_of(gateway: &Serving, tool: &str, text: &str) -> String {
    let answer = gateway.client().call(tool, json!({ "text": text })).await;
    if answer.code() == "ok" { "ok".to_owned() } else { answer.told() }
}

/// The further attempts that are on record.
fn resent(site: &Site) -> Vec<Value> {
    site.of_kind("round").into_iter().filter(|record| record["action"] == "resent").collect()
}

async fn retries(site: &Site) -> Value {
    site.run(&["status", "--json"]).await.json()["upstreams"][0]["retries"].clone()
}

#[tokio::test]
async fn a_read_whose_connection_is_lost_is_sent_once_more_on_record() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("echo", Does::Once(Box::new(Does::Disconnects)));
    let gateway = site.serve().await;

    assert_eq!(told(&gateway, "up__echo").await, "ok");

    assert_eq!(upstream.calls().len(), 2);
    assert_eq!(site.ends(1).await, ["ok done"]);
    let (intent, again, outcome) = (&site.of_kind("intent")[0], &resent(&site)[0], &site.of_kind("outcome")[0]);
    assert_eq!((&again["attempt"], &again["code"], &again["effect"]), (&json!(2), &json!("upstream_disconnected"), &json!("unknown")));
    assert_eq!((&again["intent_seq"], &again["call_id"], &outcome["attempt"]), (&intent["seq"], &intent["call_id"], &json!(2)));
    assert_eq!(retries(&site).await["made"], 1);
}

#[tokio::test]
async fn what_may_have_acted_is_sent_again_only_where_that_is_declared_harmless() {
    let upstream = Upstream::start().await;
    let tools = "tools:\n  save: { tier: reversible }\n  pay: { tier: reversible, idempotency: by_arguments }\n  echo: { tier: read, retries: 0 }\n";
    let transport = format!("transport: {{ http: {{ url: \"{}\" }} }}\n", upstream.url());
    let site = Site::of(&upstream).manifest("up", &(transport + tools));
    let gateway = site.serve().await;
    for (tool, does, expected, calls) in [
        ("save", Does::Disconnects, "upstream_disconnected unknown", 1),
        ("save", Does::Status(503), "upstream_unavailable unknown", 1),
        ("pay", Does::Disconnects, "ok", 2),
        ("pay", Does::Status(503), "ok", 2),
        ("pay", Does::Says("nonsense"), "upstream_protocol_error unknown", 1),
        ("pay", Does::Status(404), "upstream_protocol_error unknown", 1),
        ("pay", Does::Error(-32603, "no"), "upstream_error unknown", 1),
        ("echo", Does::Disconnects, "upstream_disconnected unknown", 1),
    ] {
        let before = upstream.calls().len();
        upstream.does(tool, Does::Once(Box::new(does.clone())));
        // Each another call: a repeat of one that was answered is not made at all.
        assert_eq!(told_of(&gateway, &format!("up__{tool}"), &format!("{does:?}")).await, expected, "{tool} {does:?}");
        assert_eq!(upstream.calls().len() - before, calls, "{tool} {does:?}");
    }
    assert_eq!(resent(&site).len(), 2);
}

#[tokio::test]
async fn a_call_that_fails_again_tells_the_truth_about_the_effect() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "retries: 2");
    upstream.does("echo", Does::Disconnects);
    let gateway = site.serve().await;
    assert_eq!(told(&gateway, "up__echo").await, "upstream_disconnected unknown");
    assert_eq!((upstream.calls().len(), resent(&site).len()), (3, 2));
    assert_eq!(site.ends(1).await, ["upstream_disconnected unknown"]);
}

#[tokio::test]
async fn retries_are_a_part_of_the_calls() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "retry_budget_percent: 0");
    upstream.does("echo", Does::Once(Box::new(Does::Disconnects)));
    let gateway = site.serve().await;
    assert_eq!(told(&gateway, "up__echo").await, "upstream_disconnected unknown");
    assert_eq!((upstream.calls().len(), resent(&site).len()), (1, 0));
    assert_eq!(retries(&site).await, json!({ "made": 0, "refused": 1, "left": 0 }));
}

#[tokio::test]
async fn no_effect_happens_twice_under_lost_connections() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for number in 0..40 {
        if number % 3 == 0 {
            upstream.does("save", Does::Once(Box::new(Does::Disconnects)));
        }
        let answer = gateway.client().call("up__save", json!({ "text": number.to_string() })).await;
        let expected = if number % 3 == 0 { "upstream_disconnected" } else { "ok" };
        assert_eq!(answer.code(), expected, "{number}: {}", answer.text());
    }
    let effects: Vec<_> = upstream.calls().iter().map(|call| call.json()["params"]["arguments"]["text"].clone()).collect();
    assert_eq!(effects, (0..40).map(|number| json!(number.to_string())).collect::<Vec<_>>(), "each once");
    site.ends(40).await;
}
