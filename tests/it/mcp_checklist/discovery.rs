//! What a server says of itself, and which requests it takes: items 1 to 4 and 15 to 18.

use serde_json::{Value, json};

use crate::support::client::message;
use crate::support::{Ask, Serving, Site, Upstream, until};

const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n\
    p, R2, agent:demo, prompt:up__*, read, -, allow\n\
    p, R3, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

async fn offering() -> (Upstream, Site, Serving) {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

async fn discovered(gateway: &Serving) -> Value {
    gateway.client().send(&Ask::modern("server/discover", json!({}))).await.result()
}

/// Until a server is connected nobody knows what it has.
async fn settled(gateway: &Serving) -> Value {
    let look = async || Some(discovered(gateway).await).filter(|found| found["capabilities"].get("logging").is_none());
    until("the server's capabilities", look).await
}

#[tokio::test]
async fn n01_discover_says_what_there_is_and_no_more() {
    let (_upstream, _site, gateway) = offering().await;
    let found = settled(&gateway).await;
    assert_eq!(found["supportedVersions"], json!(["2026-07-28"]));
    let capabilities: Vec<_> = found["capabilities"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(capabilities, ["completions", "prompts", "resources", "tools"]);
    assert!(found["ttlMs"].is_u64() && found["cacheScope"].is_string(), "{found}");
    assert_eq!(found["resultType"], "complete");
    let session = gateway.client().begin("2025-11-25", json!({})).await;
    for method in ["prompts/list", "resources/list", "resources/templates/list"] {
        assert_eq!(session.send(method, &json!({})).await.code(), "ok", "{method}");
        assert_eq!(gateway.client().send(&Ask::modern(method, json!({}))).await.code(), "ok", "{method}");
    }
}

#[tokio::test]
async fn n02_a_request_that_does_not_describe_itself_is_refused_by_its_id() {
    let (_upstream, _site, gateway) = offering().await;
    for missing in ["protocolVersion", "clientCapabilities"] {
        let ask = Ask::modern("prompts/list", json!({}));
        let mut message: Value = serde_json::from_slice(&ask.body).unwrap();
        message["params"]["_meta"].as_object_mut().unwrap().remove(&format!("io.modelcontextprotocol/{missing}"));
        let answer = gateway.client().send(&ask.clone().body(message.to_string())).await;
        assert_eq!(answer.wire(), (400, -32602, "malformed_request".to_owned()), "{missing}");
        assert_eq!(answer.json()["id"], message["id"]);
    }
}

#[tokio::test]
async fn n03_nobody_has_to_say_what_program_it_is() {
    let (_upstream, _site, gateway) = offering().await;
    let ask = Ask::modern("prompts/list", json!({}));
    assert!(!String::from_utf8(ask.body.clone()).unwrap().contains("clientInfo"));
    assert_eq!(gateway.client().send(&ask).await.code(), "ok");
}

#[tokio::test]
async fn n04_an_unknown_revision_is_told_the_known_ones() {
    let (_upstream, _site, gateway) = offering().await;
    let ask = Ask::modern("server/discover", json!({})).having("MCP-Protocol-Version", "2031-01-01").saying("2026-07-28", "2031-01-01");
    let answer = gateway.client().send(&ask).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(-32022)));
    let data = answer.json()["error"]["data"].clone();
    assert_eq!((&data["supported"], &data["requested"]), (&json!(["2026-07-28"]), &json!("2031-01-01")));
    assert_eq!(data["supported"], discovered(&gateway).await["supportedVersions"]);
}

#[tokio::test]
async fn n15_removed_methods_and_those_of_absent_capabilities_are_404() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    settled(&gateway).await;
    let removed = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/result", "no/such"];
    let absent = [
        ("prompts/list", json!({})),
        ("resources/templates/list", json!({})),
        ("prompts/get", json!({ "name": "up__greet" })),
        ("resources/read", json!({ "uri": "dw+up+file:///notes/a" })),
        ("completion/complete", json!({ "ref": { "type": "ref/prompt", "name": "a" }, "argument": { "name": "a", "value": "" } })),
    ];
    for (method, params) in removed.into_iter().map(|method| (method, json!({}))).chain(absent) {
        let answer = gateway.client().send(&Ask::modern(method, params)).await;
        assert_eq!(answer.wire(), (404, -32601, "method_not_found".to_owned()), "{method}");
    }
}

#[tokio::test]
async fn n16_a_modern_request_has_no_session_and_no_past() {
    let (_upstream, _site, gateway) = offering().await;
    for verb in ["GET", "DELETE"] {
        assert_eq!(gateway.client().send(&Ask::bare(verb)).await.status, 405, "{verb}");
    }
    let ask = Ask::modern("prompts/list", json!({})).with("Mcp-Session-Id", "nonsense").with("Last-Event-ID", "0.0");
    let answer = gateway.client().send(&ask).await;
    assert_eq!((answer.code().as_str(), answer.header("mcp-session-id")), ("ok", None));
}

#[tokio::test]
async fn n17_a_foreign_origin_is_403_on_every_verb() {
    let (_upstream, _site, gateway) = offering().await;
    let session = gateway.client().begin("2025-11-25", json!({})).await;
    for ask in [Ask::modern("server/discover", json!({})), session.get(), session.ask("prompts/list", &json!({}))] {
        assert_eq!(gateway.client().send(&ask.clone().with("Origin", "https://evil.example")).await.status, 403, "{ask:?}");
        assert_eq!(gateway.client().send(&ask.with("Host", "evil.example")).await.status, 403);
    }
}

#[tokio::test]
async fn n18_every_modern_result_has_a_type_and_no_legacy_one_does() {
    let (_upstream, _site, gateway) = offering().await;
    settled(&gateway).await;
    let session = gateway.client().begin("2025-11-25", json!({})).await;
    let argument = json!({ "ref": { "type": "ref/prompt", "name": "up__greet" }, "argument": { "name": "who", "value": "a" } });
    let requests = [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("tools/call", json!({ "name": "up__echo", "arguments": { "text": 1 } })),
        ("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "a" } })),
        ("resources/read", json!({ "uri": "dw+up+file:///notes/a" })),
        ("completion/complete", argument),
    ];
    for (method, params) in requests {
        let modern = gateway.client().send(&Ask::modern(method, params.clone())).await.json();
        let legacy = gateway.client().send(&session.post(&message(method, &params))).await.json();
        assert_eq!(modern.get("result").map(|result| &result["resultType"]), Some(&json!("complete")), "{method}: {modern}");
        assert!(legacy["result"].is_object() && legacy["result"].get("resultType").is_none(), "{method}: {legacy}");
    }
}
