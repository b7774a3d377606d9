//! What is refused by its head alone is told in the form of every error, recorded and counted.

use serde_json::json;

use crate::support::{Ask, Serving, Site, Upstream, until};

fn echo() -> Ask {
    Ask::call("up__echo", json!({}))
}

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_header_bytes: 8192");
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

#[tokio::test]
async fn a_page_that_rebinds_its_name_is_on_record() {
    let (upstream, site, mut gateway) = gateway().await;
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "rebound.example:8808")] {
        let answer = gateway.client().send(&echo().having(name, value)).await;
        assert_eq!(answer.wire(), (403, -31005, "origin_not_allowed".to_owned()), "{name}");
        assert!(!answer.text().contains(value), "{}", answer.text());
        let id = answer.error()["invocation"].as_str().unwrap().to_owned();
        let record = site.recorded("refusal", "call_id", &id).await;
        assert_eq!((&record["code"], &record["agent"]), (&json!("origin_not_allowed"), &json!("unauthenticated")));
        assert!(record["note"].as_str().unwrap().contains(value) && record["peer"].is_string(), "{record}");
    }
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_calls_total{outcome=\"origin_not_allowed\"} 2"), "{metrics}");
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn a_flood_of_foreign_pages_is_recorded_by_its_number() {
    let (_upstream, site, gateway) = gateway().await;
    for _ in 0..40 {
        gateway.nobody().send(&echo().with("Origin", "https://evil.example")).await;
    }
    until("40 refusals", async || {
        let counted: u64 = site.of_kind("coalesced").iter().filter_map(|record| record["count"].as_u64()).sum();
        (site.of_kind("refusal").len() as u64 + counted == 40 && counted > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_that_asks_for_what_is_not_served_is_on_record() {
    let (upstream, site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let deaf = session.ask("ping", &json!({})).having("Accept", "text/html");
    let stream = Ask { verb: "GET".to_owned(), body: Vec::new(), ..deaf.clone() };
    for (ask, wire) in [
        (echo().having("Content-Type", "text/plain"), (415, -32600, "malformed_request")),
        (echo().without("Content-Type"), (415, -32600, "malformed_request")),
        (echo().having("Accept", "text/html"), (406, -32600, "malformed_request")),
        (stream, (406, -32600, "malformed_request")),
        (echo().with("X-Big", &"x".repeat(9_000)), (431, -31004, "payload_too_large")),
    ] {
        let answer = gateway.client().send(&ask).await;
        assert_eq!(answer.wire(), (wire.0, wire.1, wire.2.to_owned()), "{ask:?}");
        site.recorded("refusal", "call_id", answer.error()["invocation"].as_str().unwrap()).await;
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn headers_that_are_never_read_to_their_end_are_on_record() {
    let (_upstream, site, gateway) = gateway().await;
    assert_eq!(gateway.client().send(&echo().with("X-Big", &"x".repeat(40_000))).await.status, 431);
    let record = site.recorded("refusal", "code", "payload_too_large").await;
    assert_eq!(record["agent"], "unauthenticated");
}
