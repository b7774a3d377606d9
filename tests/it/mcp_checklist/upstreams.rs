//! Items of the checklist about what is sent to tool servers and taken from them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use self::http_server::{Answer, Asked, End, Server};
use crate::support::old_sse::OldServer;
use crate::support::pipe::code;
use crate::support::{Ask, Does, Site, Upstream, until};

#[path = "../../support/http_server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
pub mod http_server;

type Seen<T> = Arc<Mutex<Vec<T>>>;

fn echo_list() -> Value {
    json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] })
}

const POLICY: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n";

/// A server in front of which a gateway is to stand, with these of its tools.
pub fn in_front_of(transport: &Value, tools: &[&str], defaults: &str) -> Site {
    let definitions: Vec<Value> = tools.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect();
    let tiers: String = tools.iter().map(|name| format!("  {name}: {{ tier: read }}\n")).collect();
    let manifest = format!("transport: {transport}\ndefaults: {{ {defaults} }}\ntools:\n{tiers}");
    Site::empty().manifest("up", &manifest).pinned("up", &definitions).policy(POLICY)
}

/// The program of the server on pipes that misbehaves on purpose.
pub fn stdio_server() -> PathBuf {
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/stdio_server");
    assert!(program.exists(), "{} is missing: run the tests without a target filter, or build the examples", program.display());
    program
}

/// This server, in this mode.
pub fn on_pipes(mode: &str, tools: &[&str], defaults: &str) -> Site {
    in_front_of(&json!({ "stdio": { "command": stdio_server(), "args": [mode, tools.join(",")] } }), tools, defaults)
}

/// The methods that the server on pipes has seen.
async fn seen(client: &crate::support::Client) -> Vec<String> {
    let answer = client.call("up__seen", json!({})).await;
    serde_json::from_str(answer.result()["content"][0]["text"].as_str().unwrap()).unwrap()
}

fn fine(asked: &Asked) -> Answer {
    Answer::json(200, &asked.result(&json!({ "content": [] })))
}

#[tokio::test]
async fn n19_a_result_without_a_type_is_complete_and_of_an_unknown_type_is_invalid() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    upstream.does("echo", Does::Result(json!({ "content": [] })));
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    upstream.does("echo", Does::Result(json!({ "content": [], "resultType": "surprise" })));
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "upstream_protocol_error");
}

#[tokio::test]
async fn n19_a_result_of_a_legacy_server_has_no_type_and_asks_for_nothing() {
    let result = json!({ "content": [], "resultType": "input_required", "requestState": "theirs" });
    let server = Server::legacy(move |asked| Answer::json(200, &asked.result(&result))).await;
    let site = in_front_of(&server.transport(), &["echo"], "");
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__echo", json!({})).await;
    assert_eq!((answer.code().as_str(), &answer.result()["resultType"]), ("ok", &json!("complete")), "{}", answer.text());
}

#[tokio::test]
async fn n23_a_call_that_timed_out_is_cancelled_at_the_server_and_a_handshake_is_not() {
    for mode in ["modern", "legacy"] {
        let site = on_pipes(mode, &["never", "seen"], "timeout_ms: 200");
        let gateway = site.serve().await;
        assert_eq!(gateway.client().call("up__never", json!({})).await.told(), "upstream_timeout unknown", "{mode}");
        let seen = seen(&gateway.client()).await;
        assert_eq!(seen.iter().filter(|method| *method == "notifications/cancelled").count(), 1, "{mode}: {seen:?}");
    }
    // It answers the first question only after the second: neither may be cancelled.
    let site = on_pipes("slow", &["seen"], "");
    let gateway = site.serve().await;
    let seen = seen(&gateway.client()).await;
    assert!(!seen.contains(&"notifications/cancelled".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn n24_progress_does_not_put_off_the_longest_time() {
    let site = on_pipes("legacy", &["progressing"], "timeout_ms: 300");
    let gateway = site.serve().await;
    let params = json!({ "name": "up__progressing", "arguments": {}, "_meta": { "progressToken": 7 } });
    let text = gateway.client().send(&Ask::modern("tools/call", params)).await.text();
    assert!(text.contains("notifications/progress") && text.contains("upstream_timeout"), "{text}");
}

#[tokio::test]
async fn n29_a_server_that_comes_back_is_asked_to_listen_again() {
    let site = on_pipes("modern+", &["die", "seen"], "");
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("up__die", json!({})).await.told(), "upstream_disconnected unknown");
    // A process sees only what is said to itself.
    until("the listen request", async || {
        let answer = client.call("up__seen", json!({})).await;
        (answer.code() == "ok" && answer.text().contains("subscriptions/listen")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn n50_two_calls_under_one_id_and_token_are_two_at_the_server() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let params = |text| json!({ "name": "up__echo", "arguments": { "text": text }, "_meta": { "progressToken": "t" } });
    let same = |text| {
        let ask = Ask::modern("tools/call", params(text));
        let (from, to) = (format!("\"id\":{}", ask.id()), "\"id\":\"same\"".to_owned());
        ask.saying(&from, &to)
    };
    let (first, second) = (same("one"), same("two"));
    let client = gateway.client();
    let (one, two) = tokio::join!(client.send(&first), client.send(&second));
    assert!(one.result().to_string().contains("one") && two.result().to_string().contains("two"));
    assert_eq!((&one.json()["id"], &two.json()["id"]), (&json!("same"), &json!("same")));
    let sent: Vec<Value> = upstream.calls().iter().map(crate::support::upstream::Received::json).collect();
    assert_ne!(sent[0]["id"], sent[1]["id"]);
    assert_ne!(sent[0]["params"]["_meta"]["progressToken"], sent[1]["params"]["_meta"]["progressToken"]);
}

#[tokio::test]
async fn n51_progress_after_the_end_of_a_call_reaches_nobody() {
    let site = on_pipes("legacy", &["late_progress", "seen"], "").policy("p, R1, agent:local, up__*, reversible, -, allow\n");
    let mut pipe = site.pipe(&["stdio"]);
    let params = json!({ "name": "up__late_progress", "arguments": {}, "_meta": { "progressToken": 7 } });
    let ended = pipe.modern("tools/call", params).await;
    assert_eq!(code(&ended), "ok", "{ended}");
    let next = pipe.call("up__seen", json!({})).await;
    assert!(next.get("result").is_some(), "{next}");
    assert_eq!(pipe.leave().await.1, Vec::<String>::new());
}

#[tokio::test]
async fn n55_a_session_that_is_gone_is_opened_again_and_the_call_sent_once_more() {
    let server = Server::legacy(|asked| match asked.header("mcp-session-id") {
        "s2" => Answer::status(404),
        _ => fine(asked),
    })
    .await;
    let site = in_front_of(&server.transport(), &["echo"], "");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let sessions: Vec<String> = server.calls().iter().map(|call| call.header("mcp-session-id").to_owned()).collect();
    assert_eq!(sessions, ["s2", "s3"]);
}

#[tokio::test]
async fn n55_a_stream_that_breaks_before_its_answer_is_taken_up_where_it_broke() {
    let asked_for = Arc::new(Mutex::new(Value::Null));
    let call = Arc::clone(&asked_for);
    let sessions = Mutex::new(0);
    let stream = |text: String| Answer::Http {
        status: 200,
        headers: vec![("content-type", "text/event-stream".to_owned())],
        chunks: vec![text],
        end: End::Whole,
    };
    let server = Server::start(move |asked| match (asked.http.as_str(), asked.header("last-event-id")) {
        ("GET", "") => Answer::status(405),
        // A first time the answer is not there yet; the next wait is the one that was asked for.
        ("GET", "e1") => stream("id: e2\nretry: 20\ndata:\n\n".to_owned()),
        ("GET", _) => {
            let answer = json!({ "jsonrpc": "2.0", "id": call.lock().unwrap().clone(), "result": { "content": [] } });
            stream(format!("id: e3\ndata: {answer}\n\n"))
        }
        _ => http_server::legacy(asked, &sessions).unwrap_or_else(|| {
            *call.lock().unwrap() = asked.body["id"].clone();
            stream("id: e1\nretry: 10\ndata:\n\n".to_owned())
        }),
    })
    .await;
    let site = in_front_of(&server.transport(), &["echo"], "");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(server.calls().len(), 1, "the call is not sent again");
    let resumed: Vec<String> = server.asked.lock().unwrap().iter().map(|asked| asked.header("last-event-id").to_owned()).collect();
    assert!(resumed.contains(&"e1".to_owned()) && resumed.contains(&"e2".to_owned()), "{resumed:?}");
}

#[tokio::test]
async fn n56_a_server_on_pipes_is_asked_first_whether_it_is_modern() {
    for (mode, era) in [("modern", "tools/list"), ("legacy", "initialize"), ("silent", "initialize")] {
        let site = on_pipes(mode, &["seen"], "");
        let gateway = site.serve().await;
        assert_eq!(seen(&gateway.client()).await[..2], ["server/discover", era], "{mode}");
    }
}

#[tokio::test]
async fn n57_a_modern_refusal_is_not_taken_for_a_legacy_server() {
    for code in [-32020, -32021, -32022] {
        let server = Server::start(move |asked| Answer::json(400, &asked.error(code, &json!({ "supported": ["2031-01-01"] })))).await;
        let site = in_front_of(&server.transport(), &["echo"], "connect_grace_ms: 100");
        let gateway = site.serve().await;
        assert_eq!(gateway.client().call("up__echo", json!({})).await.told(), "upstream_unavailable none");
        assert!(!server.all("server/discover").is_empty() && server.all("initialize").is_empty(), "{code}");
        assert!(server.asked.lock().unwrap().iter().all(|asked| asked.http == "POST"), "{code}: nor for one on HTTP+SSE");
    }
}

#[tokio::test]
async fn log_messages_of_a_server_reach_who_asked_for_them_and_no_less_severe_ones() {
    for mode in ["legacy+", "modern+"] {
        let site = on_pipes(mode, &["log", "seen"], "");
        let gateway = site.serve().await;
        let client = gateway.client();
        let quiet = client.call("up__log", json!({})).await;
        assert!(!quiet.text().contains("notifications/message"), "{mode}: {}", quiet.text());

        let params = json!({ "name": "up__log", "arguments": {}, "_meta": { "io.modelcontextprotocol/logLevel": "warning" } });
        let text = client.send(&Ask::modern("tools/call", params)).await.text();
        assert!(text.contains(r#""level":"error""#) && !text.contains(r#""level":"debug""#), "{mode}: {text}");
        assert_eq!(text.contains("warning"), mode == "modern+", "{mode}: {text}");
        let told = seen(&client).await.iter().filter(|method| *method == "logging/setLevel").count();
        assert_eq!(told, usize::from(mode == "legacy+"), "{mode}");
    }
}

#[tokio::test]
async fn n59_a_ping_of_a_server_is_answered_while_it_works() {
    let site = on_pipes("legacy", &["ask", "seen"], "");
    let gateway = site.serve().await;
    // It ends over any other answer, and answers the call only when it was answered itself.
    assert_eq!(gateway.client().call("up__ask", json!({})).await.code(), "ok");
    assert_eq!(seen(&gateway.client()).await.iter().filter(|method| *method == "answer").count(), 2);
}

/// A server on HTTP+SSE behind a gateway, all of whose tools may be called.
fn old(server: &OldServer) -> Site {
    let tools = "tools:\n  echo: { tier: read }\n  die: { tier: reversible }\n  tell: { tier: read }\n";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", server.url());
    Site::empty().manifest("up", &manifest).pinned("up", &OldServer::tools()).policy(POLICY)
}

#[tokio::test]
async fn n58_a_server_that_refuses_post_with_405_is_reached_on_http_and_sse() {
    let server = OldServer::start().await;
    let site = old(&server);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__echo", json!({ "a": 1 })).await;
    assert_eq!((answer.code().as_str(), &answer.result()["content"][0]["text"]), ("ok", &json!(r#"{"a":1}"#)));

    let lost = gateway.client().call("up__die", json!({})).await;
    assert_eq!(lost.told(), "upstream_disconnected unknown");
    until("the stream comes back", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
    gateway.kill().await;

    // The next gateway on the same folder does not ask what it knows.
    let before = server.seen().len();
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(server.seen()[before], "GET /sse");
}
