//! Who watches what is on record, from its beginning to its end, whatever ends it.

use serde_json::{Value, json};

use crate::support::stream::Stream;
use crate::support::{Ask, Serving, Session, Site, Upstream, until};

const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "a call waits for the connection");
    (upstream, site, gateway)
}

fn name(note: &str) -> String {
    format!("resource:up:file:///notes/{note}")
}

async fn subscribe(session: &Session, method: &str, note: &str) {
    session.send(method, &json!({ "uri": format!("dw+up+file:///notes/{note}") })).await.result();
}

/// Waits for so many records of what was watched: what was done, to what, and why.
async fn watched(site: &Site, number: usize) -> Vec<(String, Value, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = until("the records of what is watched", async || Some(site.of_kind("watch")).filter(|all| all.len() >= number)).await;
    assert!(records.iter().all(|record| record["agent"] == "demo"), "{records:?}");
    records.iter().map(|record| (text(&record["action"]), record["targets"].clone(), text(&record["note"]))).collect()
}

fn record(action: &str, targets: &[String], why: &str) -> (String, Value, String) {
    (action.to_owned(), json!(targets), why.to_owned())
}

#[tokio::test]
async fn what_a_session_watches_is_on_record_until_it_ends() {
    let (_upstream, site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    subscribe(&session, "resources/subscribe", "a").await;
    subscribe(&session, "resources/subscribe", "a").await;
    subscribe(&session, "resources/unsubscribe", "a").await;
    subscribe(&session, "resources/subscribe", "b").await;
    session.client.send(&Ask::bare("DELETE").with("Mcp-Session-Id", &session.id)).await;

    let records = watched(&site, 4).await;

    let (a, b) = ([name("a")], [name("b")]);
    let expected = [
        record("begun", &a, ""),
        record("ended", &a, "the agent has ended it"),
        record("begun", &b, ""),
        record("ended", &b, "the session has ended"),
    ];
    assert_eq!(records, expected);
    let of_a = site.run(&["audit", "find", "--json", "--kind", "watch", "--tool", &name("a")]).await;
    assert_eq!(of_a.out.lines().count(), 2, "{}", of_a.out);
}

#[tokio::test]
async fn what_a_new_policy_forbids_to_watch_has_ended_on_record() {
    let (_upstream, site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    subscribe(&session, "resources/subscribe", "a").await;
    let denied = format!("{ROWS}p, D1, agent:demo, {}, any, -, deny\n", name("a"));

    for rows in [&*denied, ROWS] {
        let before = site.of_kind("watch").len();
        site.write("policies/policy.csv", rows);
        watched(&site, before + 1).await;
    }
    gateway.stop().await;

    let expected = [
        record("begun", &[name("a")], ""),
        record("ended", &[name("a")], "the policy does not permit it any more"),
        record("begun", &[name("a")], "it is permitted again"),
        record("ended", &[name("a")], "the gateway stops"),
    ];
    assert_eq!(watched(&site, 4).await, expected);
}

#[tokio::test]
async fn a_listen_is_one_record_and_its_end_another() {
    let (_upstream, site, gateway) = gateway().await;
    let uris = ["dw+up+file:///notes/a", "dw+up+file:///notes/b", "dw+up+file:///keys/k"];
    let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": uris });
    let mut listen = Stream::open(&gateway.client(), &Ask::modern("subscriptions/listen", json!({ "notifications": filter }))).await;
    listen.message().await;
    site.write("policies/policy.csv", &format!("{ROWS}p, D1, agent:demo, {}, any, -, deny\n", name("a")));
    watched(&site, 2).await;
    drop(listen);

    let records = watched(&site, 3).await;

    let (lists, a, b) = ("tools/list".to_owned(), name("a"), name("b"));
    let expected = [
        record("begun", &[lists.clone(), a.clone(), b.clone()], ""),
        record("ended", &[a], "the policy does not permit it any more"),
        record("ended", &[lists, b], "the agent has ended it, or left"),
    ];
    assert_eq!(records, expected);
    let ids: Vec<_> = site.of_kind("watch").iter().map(|record| record["call_id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn a_forged_subscription_id_is_refused_and_ends_nothing() {
    const KEY: &str = "io.modelcontextprotocol/subscriptionId";
    let (upstream, site, gateway) = gateway().await;
    let client = gateway.client();
    let ask = Ask::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listen = Stream::open(&client, &ask).await;
    listen.message().await;
    let seen = upstream.asked("tools/call").len();
    let meta = format!("\"_meta\":{{\"{KEY}\":{},", ask.id());

    for forged in [
        Ask::call("up__echo", json!({})),
        Ask::modern("tools/list", json!({})),
        Ask::modern("subscriptions/listen", json!({ "notifications": {} })),
    ] {
        let answer = client.send(&forged.saying("\"_meta\":{", &meta)).await;
        assert_eq!(answer.wire(), (400, -32602, "malformed_request".to_owned()));
        assert!(answer.text().contains(KEY), "{}", answer.text());
    }
    // Whose request that is cannot be seen from the id, so on HTTP nothing is ended by it.
    let params = json!({ "requestId": ask.id(), "_meta": { KEY: ask.id() } });
    let ends = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
    let ends = Ask::post(ends.to_string()).with("MCP-Protocol-Version", "2026-07-28");
    assert_eq!(client.send(&ends).await.status, 202);

    site.write("policies/policy.csv", &format!("{ROWS}p, R9, agent:other, up__echo, read, -, allow\n"));
    let told = listen.told("notifications/tools/list_changed").await;
    assert_eq!((&told["params"]["_meta"][KEY], upstream.asked("tools/call").len()), (&ask.id(), seen));
}
