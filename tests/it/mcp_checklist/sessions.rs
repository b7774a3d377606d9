//! Items of the checklist about sessions of the handshake revisions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::message;
use crate::support::{Ask, Client, Does, Serving, Session, Site, Upstream};

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

fn call(id: u64, tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": {} } })
}

#[tokio::test]
async fn n52_a_batch_is_taken_from_2025_03_26_and_from_nobody_else() {
    let (upstream, _site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-03-26", json!({})).await;
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let begin = json!({ "jsonrpc": "2.0", "id": 9, "method": "initialize", "params": { "protocolVersion": "2025-03-26" } });
    let batch = json!([call(1, "up__echo"), note, call(2, "up__save"), { "jsonrpc": "2.0", "id": 3, "method": "ping" }, begin, 5]);

    let answer = session.client.send(&session.post(&batch)).await;

    let answers: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    let ids: Vec<_> = answers.iter().map(|answer| answer.get("id").and_then(Value::as_u64)).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3), Some(9), None], "{answers:?}");
    assert!(
        answers[..3].iter().all(|answer| answer["result"].is_object())
            && answers[3..].iter().all(|answer| answer["error"]["code"] == -32600)
    );
    assert_eq!((answer.header("mcp-session-id"), upstream.calls().len()), (None, 2));
    let notes = session.client.send(&session.post(&json!([note, note]))).await;
    assert_eq!((notes.status, notes.body.len()), (202, 0));
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let other = gateway.client().begin(revision, json!({})).await;
        assert_eq!(other.client.send(&other.post(&batch)).await.wire(), (400, -32600, "malformed_request".to_owned()), "{revision}");
    }
    for refused in [json!([]), Value::Array(vec![call(1, "up__echo"); 65])] {
        assert_eq!(session.client.send(&session.post(&refused)).await.status, 400);
    }
    let modern: Value = serde_json::from_slice(&Ask::call("up__echo", json!({})).body).unwrap();
    let modern = Ask::call("up__echo", json!({})).body(json!([modern]).to_string());
    assert_eq!(session.client.send(&modern.with("Mcp-Session-Id", &session.id)).await.status, 400);
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn n52_a_batch_on_a_pipe_is_answered_in_one_line() {
    let (_upstream, site, _gateway) = gateway().await;
    let site = site.config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    let batch = json!([call(1, "up__echo"), { "jsonrpc": "2.0", "id": 2, "method": "ping" }]).to_string();
    pipe.line(&batch).await;
    assert_eq!(pipe.answer().await["error"]["code"], -32600, "nothing is agreed on yet");
    pipe.legacy("initialize", json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {} })).await;
    pipe.line(&batch).await;
    let answers = pipe.answer().await;
    assert_eq!((&answers[0]["id"], &answers[1]), (&json!(1), &json!({ "jsonrpc": "2.0", "id": 2, "result": {} })), "{answers}");
}

#[tokio::test]
async fn n53_initialize_gives_what_was_asked_for_or_the_newest_with_a_handshake() {
    let (_upstream, _site, gateway) = gateway().await;
    let served = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"].map(|revision| (revision, revision));
    for (asked, given) in served.into_iter().chain([("2026-07-28", "2025-11-25"), ("1999-01-01", "2025-11-25")]) {
        assert_eq!(gateway.client().initialize(asked).await.revision, given, "{asked}");
    }
}

#[tokio::test]
async fn n54_a_session_id_is_asked_for_known_and_somebodys_own() {
    let (upstream, _site, gateway) = gateway().await;
    let session = gateway.client().begin("2025-11-25", json!({ "roots": {}, "elicitation": { "url": {} } })).await;
    let listed = Ask::post(message("tools/list", &json!({})).to_string()).with("MCP-Protocol-Version", "2025-11-25");
    assert_eq!(gateway.client().send(&listed).await.status, 400);
    let forged = Session { id: format!("{}A", session.id), ..session.clone() };
    for (client, session) in [(gateway.client(), &forged), (gateway.other(), &session)] {
        for ask in [session.ask("ping", &json!({})), session.get(), Ask::bare("DELETE").with("Mcp-Session-Id", &session.id)] {
            assert_eq!(client.send(&ask).await.status, 404, "{ask:?}");
        }
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn n66_a_pipe_carries_mcp_and_nothing_else() {
    let (_upstream, site, _gateway) = gateway().await;
    let site = site.config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    pipe.line("not JSON").await;
    assert_eq!(pipe.answer().await["error"]["code"], -32700);
    let run = json!({ "name": "up__echo", "arguments": {}, "command": "touch", "args": ["ran"] });
    assert!(pipe.modern("tools/call", run).await["result"].is_object());
    let (status, rest, _) = pipe.leave().await;
    assert!(status.success() && rest.is_empty() && !site.path("ran").exists(), "{rest:?}");
}

/// Sends every other connection to each of two addresses.
async fn balanced(addresses: [std::net::SocketAddr; 2]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, turn) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let to = addresses[turn.fetch_add(1, Ordering::Relaxed) % 2];
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn two_instances_with_one_key_serve_one_session() {
    let upstream = Upstream::start().await;
    let (one, other) = (Site::of(&upstream), Site::of(&upstream));
    let first = one.serve().await;
    first.stop().await;
    for file in ["doorward.yaml", "var/keys"] {
        copy(&one.path(file), &other.path(file));
    }
    let (left, right) = (one.serve().await, other.serve().await);
    upstream.does("save", Does::Echo);
    let client = Client::new(balanced([left.address, right.address]).await, Some(one.key("demo").to_owned()));
    let session = client.begin("2025-06-18", json!({})).await;
    for _ in 0..4 {
        assert_eq!(session.client.send(&session.call("up__save", &json!({ "text": "a" }))).await.code(), "ok");
    }
    for site in [&one, &other] {
        assert_eq!(site.ends(2).await, ["ok done", "ok done"]);
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}
