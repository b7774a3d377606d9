//! Sessions of the handshake revisions over HTTP: how they begin, whose they are, and how they end.

use base64::Engine;
use serde_json::json;

use crate::support::client::message;
use crate::support::{Ask, Does, Serving, Site, Upstream};

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

#[tokio::test]
async fn every_handshake_revision_is_negotiated_and_calls() {
    let (_upstream, site, gateway) = gateway().await;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = gateway.client().initialize(revision).await;
        assert_eq!(session.revision, revision);

        let answer = gateway.client().send(&session.call("up__echo", &json!({ "text": "a" }))).await;

        assert_eq!(answer.code(), "ok", "{revision}");
        assert_eq!(answer.result().get("resultType"), None, "{revision}");
        site.recorded("intent", "protocol_version", revision).await;
    }
}

#[tokio::test]
async fn a_revision_that_is_not_served_becomes_the_newest_with_a_handshake() {
    let (_upstream, _site, gateway) = gateway().await;
    for asked in ["2031-01-01", "2026-07-28", "1.0"] {
        assert_eq!(gateway.client().initialize(asked).await.revision, "2025-11-25", "{asked}");
    }
    let answer = gateway.client().send(&Ask::post(message("initialize", &json!({})).to_string())).await;
    assert_eq!((answer.json()["error"]["code"].as_i64(), answer.header("mcp-session-id")), (Some(-32602), None));
}

#[tokio::test]
async fn a_session_id_is_visible_and_never_the_same() {
    let (_upstream, _site, gateway) = gateway().await;
    let one = gateway.client().initialize("2025-11-25").await.id;
    let other = gateway.client().initialize("2025-11-25").await.id;
    assert!(one.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{one}");
    assert_ne!(one, other);
}

#[tokio::test]
async fn a_session_is_of_no_use_to_another_agent() {
    let (upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;

    let stolen = gateway.other().send(&session.call("up__echo", &json!({}))).await;
    let keyless = gateway.nobody().send(&session.call("up__echo", &json!({}))).await;

    assert_eq!((stolen.status, stolen.code().as_str()), (404, "session_invalid"));
    assert_eq!((keyless.status, keyless.code().as_str()), (401, "unauthenticated"));
    let ended = Ask::bare("DELETE").with("Mcp-Session-Id", &session.id);
    assert_eq!(gateway.other().send(&ended).await.status, 404);
    assert_eq!(gateway.client().send(&session.call("up__echo", &json!({}))).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_ended_session_stays_ended() {
    let (_upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let end = Ask::bare("DELETE").with("Mcp-Session-Id", &session.id);

    assert_eq!(gateway.client().send(&end).await.status, 204);

    let answer = session.send("ping", &json!({})).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "session_invalid"));
    assert_eq!(gateway.client().send(&end).await.status, 404);
}

#[tokio::test]
async fn no_bit_of_a_session_id_can_be_forged() {
    let (_upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let sealed = engine.decode(&session.id).expect("the id is base64url");
    for bit in (0..sealed.len() * 8).step_by(7) {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let forged = crate::support::Session { id: engine.encode(forged), ..session.clone() };
        let answer = forged.send("ping", &json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "session_invalid"), "bit {bit}");
    }
    for id in ["", "x", &session.id[1..], &format!("{}A", session.id)] {
        let answer = crate::support::Session { id: id.to_owned(), ..session.clone() }.send("ping", &json!({})).await;
        assert_eq!(answer.status, 404, "{id}");
    }
}

#[tokio::test]
async fn a_session_outlives_a_restart_of_the_gateway() {
    let (_upstream, site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-06-18").await;
    gateway.stop().await;
    let gateway = site.serve().await;
    let session = crate::support::Session { client: gateway.client(), ..session };
    assert_eq!(session.send("ping", &json!({})).await.code(), "ok");
}

#[tokio::test]
async fn an_id_is_one_calls_alone_within_its_conversation_while_it_runs() {
    let (upstream, _site, gateway) = gateway().await;
    let go = tokio_util::sync::CancellationToken::new();
    upstream.does("save", crate::support::Does::Waits(go.clone()));
    let (session, other) = (gateway.client().initialize("2025-11-25").await, gateway.client().initialize("2025-11-25").await);
    let call = |tool: &str| json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool, "arguments": {} } });
    let first = gateway.client().open(&session.post(&call("up__save"))).await;
    upstream.got(1).await;

    let second = gateway.client().send(&session.post(&call("up__echo"))).await;

    assert_eq!((second.json()["id"].as_u64(), second.told().as_str()), (Some(7), "malformed_request none"));
    assert_eq!(gateway.client().send(&other.post(&call("up__echo"))).await.code(), "ok", "another conversation has its own ids");
    go.cancel();
    assert_eq!(first.answer().await.code(), "ok");
    assert_eq!(gateway.client().send(&session.post(&call("up__echo"))).await.code(), "ok", "the call has ended");
    assert_eq!(upstream.calls().len(), 3);
}

#[tokio::test]
async fn without_a_session_a_legacy_request_is_400() {
    let (_upstream, _site, gateway) = gateway().await;
    for version in [None, Some("2025-03-26"), Some("2025-06-18"), Some("2025-11-25")] {
        let ask = Ask::post(message("tools/list", &json!({})).to_string());
        let ask = version.map_or(ask.clone(), |version| ask.with("MCP-Protocol-Version", version));
        let answer = gateway.client().send(&ask).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "session_invalid"), "{version:?}");
    }
}

#[tokio::test]
async fn the_version_header_is_the_sessions_own() {
    let (_upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-06-18").await;
    for (version, status) in [("2025-11-25", 400), ("2024-11-05", 400), ("nonsense", 400), ("2025-06-18", 200)] {
        let ask = session.ask("ping", &json!({})).having("MCP-Protocol-Version", version);
        assert_eq!(gateway.client().send(&ask).await.status, status, "{version}");
    }
    let silent = session.ask("ping", &json!({})).without("MCP-Protocol-Version");
    assert_eq!(gateway.client().send(&silent).await.status, 200);
}

#[tokio::test]
async fn notifications_are_202_and_ping_is_answered() {
    let (_upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    for method in ["notifications/initialized", "notifications/roots/list_changed", "notifications/unheard_of"] {
        let note = json!({ "jsonrpc": "2.0", "method": method });
        let answer = gateway.client().send(&session.post(&note)).await;
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{method}");
    }
    assert_eq!(session.send("ping", &json!({})).await.result(), json!({}));
    let unknown = session.send("resources/unheard_of", &json!({})).await;
    assert_eq!(unknown.wire(), (200, -32601, "method_not_found".to_owned()));
}

#[tokio::test]
async fn a_legacy_list_and_a_modern_one_hold_the_same_tools() {
    let (_upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2024-11-05").await;
    let legacy = session.send("tools/list", &json!({})).await.result();
    let modern = gateway.client().send(&Ask::modern("tools/list", json!({}))).await.result();
    assert_eq!(legacy["tools"], modern["tools"]);
    assert_eq!(legacy.as_object().unwrap().len(), 1, "{legacy}");
}

#[tokio::test]
async fn a_call_is_cancelled_by_its_id_and_only_in_its_own_session() {
    let (upstream, site, gateway) = gateway().await;
    upstream.does("save", Does::Hangs);
    let session = gateway.client().initialize("2025-11-25").await;
    let stranger = gateway.client().initialize("2025-11-25").await;
    let call = session.call("up__save", &json!({}));
    let open = gateway.client().open(&call).await;
    upstream.got(1).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call.id() } });

    assert_eq!(gateway.client().send(&stranger.post(&cancel)).await.status, 202);
    assert!(site.of_kind("outcome").is_empty());
    assert_eq!(gateway.client().send(&session.post(&cancel)).await.status, 202);

    upstream.abandoned(1).await;
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
    assert_eq!(open.answer().await.code(), "cancelled");
}
