//! What is too often is refused with the exact wait, and no refusal is lost.

use serde_json::{Value, json};

use crate::support::{Ask, Site, Upstream, until};

const ONE_AN_HOUR: &str = "limits: [ { id: L1, per: [agent, target], of: up__save, rate: 1/h } ]\n";

#[tokio::test]
async fn a_call_too_many_is_told_which_limit_it_was_and_when_to_come_again() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits(ONE_AN_HOUR);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");

    let answer = gateway.client().call("up__save", json!({})).await;

    assert_eq!(answer.told(), "rate_limited none");
    let error = answer.error();
    assert_eq!((&error["rules"], &error["retryable"]), (&json!(["L1"]), &json!(true)));
    assert!((3_500_000..=3_600_000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "another tool has a bucket of its own");
    assert_eq!(upstream.calls().len(), 2);
    assert_eq!(site.recorded("refusal", "code", "rate_limited").await["decision"], "limit");
}

#[tokio::test]
async fn a_reload_forgives_nothing() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits(ONE_AN_HOUR);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");

    site.write("policies/policy.csv", "p, R9, agent:demo, up__*, reversible, -, allow\n");
    site.recorded("policy_change", "action", "reload").await;

    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "rate_limited");
}

#[tokio::test]
async fn what_is_not_valid_or_not_allowed_is_not_charged() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits("limits: [ { id: L1, per: [agent], of: \"*\", rate: 1/h } ]\n");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({ "amount": -1 })).await.code(), "invalid_arguments");
    assert_eq!(gateway.client().call("up__nothing", json!({})).await.code(), "tool_not_found");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "rate_limited");
}

#[tokio::test]
async fn every_refusal_of_a_flood_is_recorded_or_counted() {
    let upstream = Upstream::start().await;
    let site =
        Site::of(&upstream).limits("floods: { first: 3, window_ms: 100 }\nrequests: { per_agent: 100000/s, failures_per_peer: 1000/s }\n");
    let gateway = site.serve().await;
    for _ in 0..60 {
        assert_eq!(gateway.client().call("up__nothing", json!({})).await.code(), "tool_not_found");
    }

    until("60 refusals", async || (refusals(&site, "tool_not_found") == 60).then_some(())).await;

    let (status, ..) = gateway.stop().await;
    assert!(status.success());
    assert_eq!(refusals(&site, "tool_not_found"), 60, "nothing is counted twice at the end");
    assert!(site.of_kind("refusal").len() < 60);
}

#[tokio::test]
async fn what_was_counted_is_stored_when_the_gateway_stops() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits("floods: { first: 1, window_ms: 60000 }\n");
    let gateway = site.serve().await;
    for _ in 0..25 {
        gateway.client().call("up__nothing", json!({})).await;
    }
    gateway.stop().await;
    assert_eq!(refusals(&site, "tool_not_found"), 25);
    let coalesced = &site.of_kind("coalesced")[0];
    assert_eq!((&coalesced["agent"], &coalesced["target"]), (&json!("demo"), &json!("(no tool of the catalog)")));
}

fn refusals(site: &Site, code: &str) -> u64 {
    let of = |record: &Value| (record["code"] == code).then(|| record["count"].as_u64().unwrap_or(1));
    site.records().iter().filter(|record| ["refusal", "coalesced"].contains(&record["kind"].as_str().unwrap())).filter_map(of).sum()
}

#[tokio::test]
async fn an_agent_that_floods_is_turned_away_before_it_is_read() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits("requests: { per_agent: 1/h, failures_per_peer: 5/s }\n");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");

    let answer = gateway.client().call("up__echo", json!({})).await;

    assert_eq!((answer.status, answer.told().as_str()), (429, "rate_limited none"));
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 3_000);
    assert_eq!(answer.error()["rules"], json!(["requests.per_agent"]));
    assert_eq!(gateway.other().call("up__echo", json!({})).await.status, 200);
}

#[tokio::test]
async fn each_message_of_a_batch_counts_as_a_request() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits("requests: { per_agent: 5/s, failures_per_peer: 5/s }\nlimits: []\n");
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-03-26", json!({})).await;
    let call = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "up__echo", "arguments": {} } });
    let batch: Vec<Value> = (1..=40).map(call).collect();

    let answer = session.client.send(&session.post(&json!(batch))).await;

    let answers: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    let is_limited = |answer: &&Value| answer.pointer("/result/_meta/dev.doorward~1error/code") == Some(&json!("rate_limited"));
    let limited = answers.iter().filter(is_limited).count();
    assert!(limited >= 30, "{limited} of {}: {answers:?}", answers.len());
    assert_eq!((answers.len(), upstream.calls().len()), (40, 40 - limited));
    assert_eq!(answers[39]["result"]["_meta"]["dev.doorward/error"]["rules"], json!(["requests.per_agent"]));
}

#[tokio::test]
async fn calls_beyond_the_servers_places_are_refused_and_others_go_on() {
    let upstream = Upstream::start().await;
    let other = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "concurrency: 1").upstream("two", &other);
    let site = site.policy("p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, two__*, reversible, -, allow\n");
    let gateway = site.serve().await;
    let go = tokio_util::sync::CancellationToken::new();
    upstream.does("save", crate::support::Does::Waits(go.clone()));
    let first = gateway.client().open(&crate::support::Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;

    assert_eq!(gateway.client().call("up__echo", json!({})).await.told(), "concurrency_limited none");
    assert_eq!(gateway.client().call("two__echo", json!({})).await.code(), "ok");

    go.cancel();
    assert_eq!(first.answer().await.code(), "ok");
    until("a free place", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
}

#[tokio::test]
async fn calls_that_an_agent_has_left_running_take_no_more_than_its_share_of_a_server() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "concurrency: 4").policy("p, R1, role:any, up__*, reversible, -, allow\n");
    let gateway = site.serve().await;
    upstream.does("save", crate::support::Does::Hangs);
    let session = gateway.client().initialize("2025-11-25").await;
    for call in 1..=3 {
        let open = gateway.client().open(&session.call("up__save", &json!({}))).await;
        upstream.got(call).await;
        // The handshake revisions do not cancel by hanging up.
        drop(open);
    }

    let refused = gateway.client().call("up__echo", json!({})).await;

    assert_eq!(refused.told(), "concurrency_limited none");
    assert_eq!((&refused.error()["retryable"], &refused.error()["retry_after_ms"]), (&json!(true), &json!(1_000)));
    assert_eq!(gateway.other().call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn names_that_a_caller_makes_up_are_one_flood_and_stay_short() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for number in 0..30 {
        let method = format!("{}{number}", "m".repeat(50_000));
        gateway.client().send(&Ask::modern(&method, json!({}))).await;
        gateway.client().call(&format!("up__{number}"), json!({})).await;
    }
    gateway.stop().await;

    let bytes: usize = site.records().iter().map(|record| record.to_string().len()).sum();
    assert!(bytes < 60_000, "{bytes} bytes of records");
    let counted: u64 = site.of_kind("coalesced").iter().filter_map(|record| record["count"].as_u64()).sum();
    assert_eq!(counted as usize + site.of_kind("refusal").len(), 60);
}
