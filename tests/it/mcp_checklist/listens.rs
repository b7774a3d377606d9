//! Items of the checklist about what an agent is told of without asking each time: subscriptions, sessions' streams, levels.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::stream::Stream;
use crate::support::{Ask, Client, Does, Serving, Site, Upstream, until};

const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n\
    p, R2, agent:demo, prompt:up__*, read, -, allow\n\
    p, R3, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

async fn gateway() -> (Upstream, Site, Serving) {
    gateway_with(updates(&[])).await
}

async fn gateway_with(listens: Does) -> (Upstream, Site, Serving) {
    let upstream = Upstream::offering().await;
    upstream.does("subscriptions/listen", listens);
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "a call waits for the connection");
    (upstream, site, gateway)
}

/// Another rule: every list may be another.
fn edit(site: &Site) {
    site.write("policies/policy.csv", &format!("{ROWS}p, R9, agent:other, up__echo, read, -, allow\n"));
}

fn listen(filter: Value) -> Ask {
    Ask::modern("subscriptions/listen", json!({ "notifications": filter }))
}

async fn open(client: &Client, filter: Value) -> (Stream, Value, Value) {
    let ask = listen(filter);
    let mut stream = Stream::open(client, &ask).await;
    let first = stream.message().await;
    (stream, first, ask.id())
}

#[tokio::test]
async fn n26_the_acknowledgement_comes_first_and_names_what_is_honoured() {
    let (_upstream, _site, gateway) = gateway().await;
    let all = json!({ "toolsListChanged": true, "promptsListChanged": false, "resourcesListChanged": true, "nonsense": true,
        "resourceSubscriptions": ["dw+up+file:///notes/a", "dw+up+file:///keys/k", "dw+none+x:y", "file:///notes/a"] });
    let (_stream, first, id) = open(&gateway.client(), all).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let honoured = json!({ "toolsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": ["dw+up+file:///notes/a"] });
    assert_eq!(first["params"]["notifications"], honoured);
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
}

#[tokio::test]
async fn n27_every_notification_has_the_listens_id_and_was_asked_for() {
    let (_upstream, site, gateway) = gateway().await;
    let (mut prompts, _, number) = open(&gateway.client(), json!({ "promptsListChanged": true })).await;
    let by_name = listen(json!({ "toolsListChanged": true }));
    let by_name = by_name.clone().saying(&format!("\"id\":{}", by_name.id()), "\"id\":\"s-1\"");
    let mut tools = Stream::open(&gateway.client(), &by_name).await;
    tools.message().await;
    edit(&site);
    for (stream, method, id) in
        [(&mut prompts, "notifications/prompts/list_changed", number), (&mut tools, "notifications/tools/list_changed", json!("s-1"))]
    {
        let told = stream.message().await;
        assert_eq!((told["method"].as_str(), &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]), (Some(method), &id));
    }
}

#[tokio::test]
async fn n28_a_listen_ends_with_a_complete_result() {
    let (_upstream, _site, gateway) = gateway().await;
    let (stream, _, id) = open(&gateway.client(), json!({ "toolsListChanged": true })).await;
    let (rest, _) = tokio::join!(stream.rest(), gateway.stop());
    let last = rest.last().unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&id, &json!("complete")), "{rest:?}");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
}

#[tokio::test]
async fn n28_a_listen_on_a_pipe_is_cancelled_by_its_id_and_ends_with_the_client() {
    let (_upstream, site, _gateway) = gateway().await;
    let site = site.config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    let ask = listen(json!({ "toolsListChanged": true }));
    let body = String::from_utf8(ask.body.clone()).unwrap();
    pipe.line(&body).await;
    assert_eq!(pipe.answer().await["method"], "notifications/subscriptions/acknowledged");
    pipe.line(&body).await;
    assert_eq!(pipe.answer().await["error"]["code"], -32600, "one listen has the id");
    pipe.line(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": ask.id() } }).to_string()).await;
    // The id is free again once the first has ended, of which nothing is told.
    until("the id to be free", async || {
        pipe.line(&body).await;
        (pipe.answer().await["method"] == "notifications/subscriptions/acknowledged").then_some(())
    })
    .await;
    let (status, rest, _) = pipe.leave().await;
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

/// What a server sends on each of its own streams: that these resources have changed.
fn updates(uris: &[&str]) -> Does {
    let about = |method: &str, mut params: Value| {
        params["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": "ID" });
        json!({ "jsonrpc": "2.0", "method": method, "params": params })
    };
    let filter = json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": uris } });
    let mut notes = vec![about("notifications/subscriptions/acknowledged", filter)];
    notes.extend(uris.iter().map(|uri| about("notifications/resources/updated", json!({ "uri": uri }))));
    Does::Tells(notes, CancellationToken::new())
}

#[tokio::test]
async fn a_watched_resource_is_told_of_under_its_public_name() {
    let (upstream, _site, gateway) = gateway_with(updates(&["file:///notes/a"])).await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    let mut stream = Stream::open(&session.client, &session.get()).await;
    session.send("resources/subscribe", &json!({ "uri": "dw+up+file:///notes/a" })).await.result();
    let told = stream.told("notifications/resources/updated").await;
    assert_eq!(told["params"], json!({ "uri": "dw+up+file:///notes/a" }));
    upstream.does("subscriptions/listen", updates(&["file:///notes/b"]));
    let (mut listen, _, id) = open(&gateway.client(), json!({ "resourceSubscriptions": ["dw+up+file:///notes/b"] })).await;
    let told = listen.told("notifications/resources/updated").await;
    let params = json!({ "uri": "dw+up+file:///notes/b", "_meta": { "io.modelcontextprotocol/subscriptionId": id } });
    assert_eq!(told["params"], params);
}

#[tokio::test]
async fn when_a_subscription_is_answered_the_server_knows_of_it() {
    let (upstream, _site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    let known =
        || upstream.asked("subscriptions/listen").last().map(|asked| asked["params"]["notifications"]["resourceSubscriptions"].clone());
    session.send("resources/subscribe", &json!({ "uri": "dw+up+file:///notes/a" })).await.result();
    assert_eq!(known(), Some(json!(["file:///notes/a"])));
    let uris = json!({ "resourceSubscriptions": ["dw+up+file:///notes/b", "dw+up+file:///notes/c"] });
    let (_listen, first, _) = open(&gateway.client(), uris).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(known(), Some(json!(["file:///notes/a", "file:///notes/b", "file:///notes/c"])));
}

#[tokio::test]
async fn a_part_of_a_watched_resource_is_told_of_by_its_own_name() {
    let (_upstream, _site, gateway) = gateway_with(updates(&["file:///notes/a/part", "file:///notes/ab"])).await;
    let (mut listen, ..) = open(&gateway.client(), json!({ "resourceSubscriptions": ["dw+up+file:///notes/a"] })).await;
    assert_eq!(listen.told("notifications/resources/updated").await["params"]["uri"], "dw+up+file:///notes/a/part");
}

#[tokio::test]
async fn an_open_listen_loses_what_a_new_policy_forbids() {
    let (_upstream, site, gateway) = gateway_with(updates(&["file:///notes/a", "file:///notes/b"])).await;
    let both = json!({ "toolsListChanged": true, "resourceSubscriptions": ["dw+up+file:///notes/a", "dw+up+file:///notes/b"] });
    let (mut listen, ..) = open(&gateway.client(), both).await;
    for note in ["a", "b"] {
        assert_eq!(listen.told("notifications/resources/updated").await["params"]["uri"], format!("dw+up+file:///notes/{note}"));
    }
    site.write("policies/policy.csv", &format!("{ROWS}p, D1, agent:demo, resource:up:file:///notes/a, any, -, deny\n"));
    listen.told("notifications/tools/list_changed").await;

    // One more to watch: the server is listened to anew, and says the same again.
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    session.send("resources/subscribe", &json!({ "uri": "dw+up+file:///notes/c" })).await.result();

    assert_eq!(listen.told("notifications/resources/updated").await["params"]["uri"], "dw+up+file:///notes/b");
}

#[tokio::test]
async fn a_listen_that_cannot_be_is_refused() {
    let (_upstream, site, gateway) = gateway().await;
    let answer = gateway.client().send(&Ask::modern("subscriptions/listen", json!({}))).await;
    assert_eq!(answer.wire(), (200, -32602, "malformed_request".to_owned()));
    let deaf = listen(json!({})).having("Accept", "application/json");
    assert_eq!(gateway.client().send(&deaf).await.status, 406);
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Stream::open(&gateway.client(), &listen(json!({}))).await);
    }
    assert_eq!(gateway.client().send(&listen(json!({}))).await.code(), "concurrency_limited");
    site.recorded("refusal", "code", "concurrency_limited").await;
}

#[tokio::test]
async fn a_revoked_key_ends_its_listen() {
    let (_upstream, site, gateway) = gateway().await;
    let (stream, _, _) = open(&gateway.client(), json!({ "toolsListChanged": true })).await;
    let config = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    let without: String = config.lines().filter(|line| !line.contains("name: demo")).map(|line| format!("{line}\n")).collect();
    site.write("doorward.yaml", &without);
    gateway.signal(rustix::process::Signal::HUP);
    let rest = stream.rest().await;
    assert_eq!(rest.last().unwrap()["result"]["resultType"], "complete", "{rest:?}");
}

#[tokio::test]
async fn a_sessions_stream_tells_of_changed_lists_and_is_its_only_one() {
    let (_upstream, site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    let mut stream = Stream::open(&session.client, &session.get()).await;
    assert_eq!(session.client.send(&session.get()).await.status, 409);
    edit(&site);
    for list in ["tools", "prompts", "resources"] {
        assert_eq!(stream.message().await["method"], format!("notifications/{list}/list_changed"));
    }
    let end = Ask::bare("DELETE").with("Mcp-Session-Id", &session.id);
    assert_eq!(session.client.send(&end).await.status, 204);
    assert_eq!(stream.event().await.map(|event| event.data), None, "the stream ends with its session");
    assert_eq!(session.client.send(&session.get()).await.status, 404);
}

#[tokio::test]
async fn an_agent_on_a_pipe_is_told_of_changed_lists() {
    let (_upstream, site, _gateway) = gateway().await;
    let site = site.config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    pipe.legacy("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {} })).await;
    edit(&site);
    assert_eq!(pipe.answer().await["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn a_level_is_one_of_eight_and_a_watched_resource_one_that_may_be_read() {
    let (_upstream, site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-11-25", json!({})).await;
    for uri in ["dw+up+file:///notes/a", "dw+up+file:///notes/never-heard-of"] {
        assert_eq!(session.send("resources/subscribe", &json!({ "uri": uri })).await.result(), json!({}), "{uri}");
        assert_eq!(session.send("resources/unsubscribe", &json!({ "uri": uri })).await.result(), json!({}), "{uri}");
    }
    let hidden = session.send("resources/subscribe", &json!({ "uri": "dw+up+file:///keys/k" })).await;
    assert_ne!(hidden.code(), "ok");
    site.recorded("refusal", "method", "resources/subscribe").await;
    assert_eq!(session.send("resources/subscribe", &json!({})).await.wire().1, -32602);
}
