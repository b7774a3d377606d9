//! Tools and servers that keep failing are left alone for a while, and nothing else is.

use serde_json::{Value, json};

use crate::mcp_checklist::upstreams::on_pipes;
use crate::support::{Does, Serving, Site, Upstream, until};

/// How the upstream `up` stands, as `doorward status --json` says.
async fn standing(site: &Site) -> Value {
    let done = site.run(&["status", "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.json()["upstreams"][0].clone()
}

/// Calls until the call is refused by an open breaker; what came before.
async fn until_open(gateway: &Serving, tool: &str) -> Vec<String> {
    let mut codes = Vec::new();
    for _ in 0..20 {
        let answer = gateway.client().call(tool, json!({})).await;
        if answer.code() == "circuit_open" {
            assert_eq!(answer.told(), "circuit_open none");
            assert!(answer.error()["retry_after_ms"].as_u64().is_some_and(|wait| (1..=60_000).contains(&wait)), "{}", answer.text());
            return codes;
        }
        codes.push(answer.code());
    }
    panic!("the breaker does not open: {codes:?}");
}

/// Calls until the call goes well, which it does once the breaker has let one through.
async fn until_well(gateway: &Serving, tool: &str) {
    until("a call that goes well", async || (gateway.client().call(tool, json!({})).await.code() == "ok").then_some(())).await;
}

#[tokio::test]
async fn a_tool_that_fails_is_left_alone_within_five_calls_and_its_neighbours_go_on() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 50");
    upstream.does("save", Does::Hangs);
    let mut gateway = site.serve().await;

    assert_eq!(until_open(&gateway, "up__save").await, ["upstream_timeout"; 5]);

    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 6, "what is refused does not reach the server");
    let up = standing(&site).await;
    assert_eq!((&up["breaker"]["state"], &up["tools"][0]["tool"]), (&json!("closed"), &json!("up__save")), "{up}");
    assert_eq!(up["tools"][0]["breaker"]["state"], "open", "{up}");
    let shown = site.run(&["status"]).await;
    assert!(shown.out.lines().any(|line| line.starts_with("up__save") && line.contains("open")), "{shown:?}");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_tool_breaker{tool=\"up__save\"} 2"), "{metrics}");
    assert!(metrics.contains("doorward_upstream_breaker{upstream=\"up\"} 0"), "{metrics}");

    upstream.does("save", Does::Echo);
    until_well(&gateway, "up__save").await;
    assert_eq!(standing(&site).await["tools"], json!([]));
    let refusals = site.of_kind("refusal");
    assert!(!refusals.is_empty() && refusals.iter().all(|refusal| refusal["code"] == "circuit_open"), "{refusals:?}");
}

#[tokio::test]
async fn the_same_holds_on_pipes() {
    let site = on_pipes("modern", &["ill", "echo"], "timeout_ms: 50");
    let gateway = site.serve().await;
    assert_eq!(until_open(&gateway, "up__ill").await, ["upstream_timeout"; 5]);
    assert_eq!(standing(&site).await["tools"][0]["tool"], "up__ill");
    until_well(&gateway, "up__ill").await;
    assert_eq!(standing(&site).await["tools"], json!([]));
}

#[tokio::test]
async fn an_open_breaker_refuses_before_anybody_waits_for_a_connection() {
    let site = on_pipes("modern", &["die"], "connect_grace_ms: 60000, retries: 0");
    let gateway = site.serve().await;
    // After the fifth end the server is started again only when the breaker has let somebody try.
    assert_eq!(until_open(&gateway, "up__die").await, ["upstream_disconnected"; 5]);
}

#[tokio::test]
async fn a_server_at_which_every_tool_fails_is_left_alone() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "retries: 0");
    ["echo", "save", "pay"].into_iter().for_each(|tool| upstream.does(tool, Does::Disconnects));
    let gateway = site.serve().await;

    for tool in ["up__echo", "up__save", "up__pay", "up__echo", "up__save"] {
        assert_eq!(gateway.client().call(tool, json!({})).await.told(), "upstream_disconnected unknown", "{tool}");
    }

    assert_eq!(gateway.client().call("up__typed", json!({})).await.told(), "circuit_open none");
    let up = standing(&site).await;
    assert!(up["breaker"]["state"] == "open" && up["breaker"]["retry_in_ms"].is_u64(), "{up}");
    ["echo", "save", "pay"].into_iter().for_each(|tool| upstream.does(tool, Does::Echo));
    until_well(&gateway, "up__echo").await;
    assert_eq!(standing(&site).await["breaker"]["state"], "closed");
}

#[tokio::test]
async fn answers_and_refusals_of_a_server_trip_nothing() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let mut failed = crate::support::upstream::text("it did not work");
    failed["isError"] = true.into();
    for does in [
        Does::Result(failed),
        Does::Error(-32602, "no"),
        Does::Error(-32603, "no"),
        Does::Status(400),
        Does::Status(404),
        Does::Status(429),
    ] {
        upstream.does("save", does.clone());
        for _ in 0..6 {
            assert_ne!(gateway.client().call("up__save", json!({})).await.code(), "circuit_open", "{does:?}");
        }
    }
    for _ in 0..6 {
        assert_eq!(gateway.client().call("up__echo", json!({ "amount": -1 })).await.code(), "invalid_arguments");
    }
    let up = standing(&site).await;
    assert_eq!((&up["breaker"]["failures"], &up["tools"]), (&json!(0), &json!([])), "{up}");
}

#[tokio::test]
async fn an_agent_in_a_hurry_opens_no_breaker() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 600000");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    for _ in 0..8 {
        let ask = crate::support::Ask::call("up__save", json!({})).with("Doorward-Timeout-Ms", "50");
        // On a slow machine the time may be over before the call goes out, which is told as it is.
        let code = gateway.client().send(&ask).await.code();
        assert!(["upstream_timeout", "upstream_unavailable"].contains(&&*code), "{code}");
    }
    let up = standing(&site).await;
    assert_eq!((&up["breaker"]["failures"], &up["tools"]), (&json!(0), &json!([])), "{up}");
}

#[tokio::test]
async fn a_probe_whose_caller_goes_away_lets_the_next_one_try() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 50");
    upstream.does("save", Does::Status(500));
    let gateway = site.serve().await;
    until_open(&gateway, "up__save").await;
    let before = upstream.calls().len();
    let site = site.defaults(&upstream, "timeout_ms: 60000");
    gateway.signal(rustix::process::Signal::HUP);
    until("the reload", async || site.of_kind("policy_change").into_iter().find(|record| record["actor"] == "SIGHUP")).await;
    upstream.does("save", Does::Hangs);

    let call = crate::support::Ask::call("up__save", json!({}));
    let probe = until("a probe at the server", async || {
        let probe = gateway.client().open(&call).await;
        let is_there = until_asked(&upstream, before + 1).await;
        is_there.then_some(probe)
    });
    let probe = probe.await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "circuit_open", "one probe only");
    drop(probe);
    upstream.abandoned(1).await;

    upstream.does("save", Does::Echo);
    until_well(&gateway, "up__save").await;
}

/// Whether the server gets so many calls in the next moment.
async fn until_asked(upstream: &Upstream, calls: usize) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(200), upstream.got(calls)).await.is_ok()
}

#[tokio::test]
async fn status_says_where_no_gateway_runs() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let done = site.run(&["status"]).await;
    assert!(done.code == 1 && done.err.contains("no gateway runs on"), "{done:?}");
}
