//! Items of the checklist about authorization. The gateway asks nobody for a token yet, so what such a request has to name
//! (the other half of item 62) comes with OAuth.

use serde_json::json;

use crate::support::asking::{call, in_front_of, journal, program, said};
use crate::support::{Ask, Site, Upstream};

/// The part of a key that must not be known to anybody else.
fn secret<'s>(site: &'s Site, agent: &str) -> &'s str {
    site.key(agent).rsplit_once('_').unwrap().1
}

#[tokio::test]
async fn n62_a_server_on_http_gets_nothing_of_an_agents_token() {
    let upstream = Upstream::offering().await;
    let rows = "p, R1, agent:demo, *, reversible, -, allow\np, R2, agent:other, *, reversible, -, allow\n";
    let site = Site::of(&upstream).policy(rows);
    let gateway = site.serve().await;
    for client in [gateway.client(), gateway.other()] {
        assert_eq!(client.call("up__echo", json!({})).await.code(), "ok");
        assert_eq!(client.send(&Ask::modern("prompts/get", json!({ "name": "up__bare" }))).await.code(), "ok");
        let session = client.initialize("2025-11-25").await;
        assert_eq!(client.send(&session.call("up__echo", &json!({}))).await.code(), "ok");
    }

    let journal = upstream.journal();
    assert!(journal.iter().all(|received| received.headers.get("authorization").is_none()), "the manifest gives no credential");
    let all = format!("{journal:?}");
    assert!(all.contains("tools/call") && all.contains("prompts/get"));
    for agent in ["demo", "other"] {
        assert!(!all.contains(secret(&site, agent)), "{agent}: {all}");
    }
}

#[tokio::test]
async fn n62_nor_does_one_on_pipes() {
    let site = Site::empty();
    let shell = format!("env > '{}'; exec '{}' '{}'", site.path("env").display(), program().display(), site.path("journal").display());
    let transport = json!({ "stdio": { "command": "/bin/sh", "args": ["-c", shell] } });
    let site = in_front_of(site, &transport, "", "");
    let gateway = site.serve().await;
    assert_eq!(said(&gateway.client().send(&call("echo", &json!({}))).await), "{}");

    let environment = std::fs::read_to_string(site.path("env")).unwrap();
    let all = format!("{:?} {environment}", journal(&site));
    assert!(environment.contains("PATH=") && all.contains("tools/call") && !all.contains(secret(&site, "demo")), "{all}");
}
