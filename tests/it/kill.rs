//! The process is killed again and again while calls run: what was done is on record, every intent has one end, and the
//! chain holds.
//!
//! `DOORWARD_KILLS` and `DOORWARD_CALLERS` make it longer and wider.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::support::records::ends;
use crate::support::{Ask, Client, Site, Upstream};

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Calls with ids of its own until nobody answers any more.
async fn caller(client: Client, kill: usize, caller: usize) {
    for call in 0.. {
        let id = format!("{kill}-{caller}-{call}");
        let Ok(mut socket) = client.try_open(&Ask::call("up__save", json!({ "id": id }))).await else { return };
        let mut answer = Vec::new();
        if !socket.read_to_end(&mut answer).await.is_ok_and(|length| length > 0) {
            return;
        }
    }
}

fn site(upstream: &Upstream) -> Site {
    let defaults = "defaults: { concurrency: 1024 }";
    let tools = "tools:\n  save: { tier: reversible, fields: { /id: plain } }\n";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\n{defaults}\n{tools}", upstream.url());
    Site::of(upstream).manifest("up", &manifest)
}

/// The ids that the upstream got, and those that stand in intents.
fn ids(upstream: &Upstream, records: &[Value]) -> (HashSet<String>, HashSet<String>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let got = upstream.calls().iter().map(|call| text(&call.json()["params"]["arguments"]["id"])).collect();
    let intents = records.iter().filter(|record| record["kind"] == "intent").map(|record| text(&record["args"]["id"])).collect();
    (got, intents)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_upstream_got_is_on_record_and_every_intent_has_one_end() {
    let (kills, callers) = (number("DOORWARD_KILLS", 40), number("DOORWARD_CALLERS", 12));
    let upstream = Upstream::start().await;
    let site = site(&upstream);
    for kill in 0..kills {
        let gateway = site.serve().await;
        let calls: JoinSet<()> = (0..callers).map(|number| caller(gateway.client(), kill, number)).collect();
        // A different moment each time, in the midst of the load.
        upstream.got(upstream.calls().len() + 10 + kill % 10 * 7).await;
        gateway.kill().await;
        calls.join_all().await;
    }

    let gateway = site.serve().await;

    let records = site.records();
    let (got, intents) = ids(&upstream, &records);
    assert!(got.is_subset(&intents), "done and not on record: {:?}", got.difference(&intents).collect::<Vec<_>>());
    assert!(got.len() >= kills * 10);
    let several: Vec<_> = ends(&records).into_iter().filter(|(_, ends)| ends.len() != 1).collect();
    assert!(several.is_empty(), "{several:?}");
    let done = site.run(&["audit", "verify"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(gateway.client().call("up__save", json!({ "id": "last" })).await.code(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_was_told_as_done_is_never_unresolved_for_long() {
    let upstream = Upstream::start().await;
    let site = site(&upstream);
    let gateway = site.serve().await;
    let mut told = HashSet::new();
    for number in 0..20 {
        let id = format!("{number}");
        assert_eq!(gateway.client().call("up__save", json!({ "id": id })).await.code(), "ok");
        told.insert(id);
    }
    gateway.kill().await;
    let gateway = site.serve().await;
    let records = site.records();
    let (_, intents) = ids(&upstream, &records);
    assert!(told.is_subset(&intents));
    assert!(ends(&records).values().all(|ends| ends.len() == 1));
    drop(gateway);
}
