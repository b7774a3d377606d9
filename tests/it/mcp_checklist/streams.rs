//! Items of the checklist about streams of one request and their end.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::stream::Stream;
use crate::support::{Ask, Does, Serving, Session, Site, Upstream};

const MAY_ASK: &str = "may_ask: [elicitation, sampling, roots]\n\
    tools:\n  echo: { tier: read }\n  save: { tier: reversible }\n  pay: { tier: irreversible }\n  typed: { tier: read }\n";

/// A tool server of 2026-07-28 that asks before it saves.
async fn asking(questions: Value) -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let asks = json!({ "resultType": "input_required", "inputRequests": questions, "requestState": "theirs" });
    upstream.does("save", Does::Result(asks));
    let site = Site::of(&upstream).manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{MAY_ASK}", upstream.url()));
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

fn form() -> Value {
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } } });
    json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "how many?", "requestedSchema": schema } })
}

/// A call that the agent is asked about, and the question.
async fn asked(session: &Session) -> (Stream, Value) {
    let mut stream = Stream::open(&session.client, &session.call("up__save", &json!({ "text": "x" }))).await;
    let question = stream.message().await;
    (stream, question)
}

#[tokio::test]
async fn n20_an_agent_with_a_handshake_is_asked_and_a_modern_one_never() {
    let (upstream, site, gateway) = asking(json!({ "q": form() })).await;
    let modern = Ask::call("up__save", json!({})).saying("clientCapabilities\":{}", "clientCapabilities\":{\"elicitation\":{}}");
    let told = gateway.client().send(&modern).await;
    assert_eq!(told.result()["resultType"], "input_required", "{}", told.text());
    assert!(!told.text().contains("\"method\":\"elicitation/create\",\"id\""), "{}", told.text());

    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let (stream, question) = asked(&session).await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    assert!(question["params"]["message"].as_str().unwrap().contains("how many?") && question["id"].is_u64(), "{question}");
    upstream.does("save", Does::Echo);
    assert_eq!(session.answers(&question, json!({ "action": "accept", "content": { "n": 3 } })).await, 202);

    let rest = stream.rest().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(rest[0]["result"]["content"][0]["text"].as_str().unwrap().contains('x'), "{rest:?}");
    let last = upstream.calls().pop().unwrap().json();
    assert_eq!(last["params"]["inputResponses"], json!({ "q": { "action": "accept", "content": { "n": 3 } } }));
    assert_eq!(last["params"]["requestState"], "theirs");
    assert_eq!(session.answers(&question, json!({ "action": "decline" })).await, 400, "nobody waits any more");
    site.recorded("outcome", "outcome", "input_required").await;
}

#[tokio::test]
async fn n20_an_agent_on_a_pipe_is_asked_too() {
    let (upstream, site, _gateway) = asking(json!({ "a": form(), "b": { "method": "roots/list", "params": {} } })).await;
    let site = site.config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    let declared = json!({ "protocolVersion": "2025-06-18", "capabilities": { "elicitation": {}, "roots": {} }, "clientInfo": {} });
    pipe.legacy("initialize", declared).await;
    let call = json!({ "jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": { "name": "up__save", "arguments": {} } });
    pipe.line(&call.to_string()).await;
    let (form, roots) = (pipe.answer().await, pipe.answer().await);
    assert_eq!((&form["method"], &roots["method"]), (&json!("elicitation/create"), &json!("roots/list")));
    assert_eq!(form["params"].get("mode"), None, "2025-06-18 has no modes");
    upstream.does("save", Does::Echo);
    for (question, result) in [(roots, json!({ "roots": [] })), (form, json!({ "action": "decline" }))] {
        pipe.line(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }).to_string()).await;
    }
    assert_eq!(pipe.answer().await["id"], "c");
    let last = upstream.calls().pop().unwrap().json();
    assert_eq!(last["params"]["inputResponses"], json!({ "a": { "action": "decline" }, "b": { "roots": [] } }));
}

#[tokio::test]
async fn an_agent_that_takes_no_stream_is_told_that_it_cannot_be_asked() {
    let (_upstream, site, gateway) = asking(json!({ "q": form() })).await;
    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let deaf = session.call("up__save", &json!({})).having("Accept", "application/json");
    let answer = gateway.client().send(&deaf).await;
    assert_eq!((answer.status, answer.told().as_str()), (200, "client_capability_missing unknown"), "{}", answer.text());
    assert_eq!(answer.result()["isError"], true);
    site.recorded("refusal", "code", "client_capability_missing").await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_ends_what_needs_an_answer() {
    let sampling = json!({ "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 5 } });
    let (_upstream, _site, gateway) = asking(json!({ "q": sampling })).await;
    let session = gateway.client().begin("2025-11-25", json!({ "sampling": {} })).await;
    let (stream, question) = asked(&session).await;
    assert_eq!(question["method"], "sampling/createMessage");
    let refusal = json!({ "jsonrpc": "2.0", "id": question["id"], "error": { "code": -1, "message": "rejected" } });
    assert_eq!(gateway.client().send(&session.post(&refusal)).await.status, 202);
    let rest = stream.rest().await;
    assert_eq!(rest[0]["result"]["_meta"]["dev.doorward/error"]["code"], "interaction_lost", "{rest:?}");
}

#[tokio::test]
async fn a_call_is_given_up_while_its_agent_is_asked() {
    let (_upstream, _site, gateway) = asking(json!({ "q": form() })).await;
    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let call = session.call("up__save", &json!({}));
    let mut stream = Stream::open(&session.client, &call).await;
    let question = stream.message().await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call.id() } });
    gateway.client().send(&session.post(&cancel)).await;
    let rest = stream.rest().await;
    let withdrawn =
        rest.iter().any(|message| message["method"] == "notifications/cancelled" && message["params"]["requestId"] == question["id"]);
    assert!(withdrawn, "{rest:?}");
    assert_eq!(session.answers(&question, json!({ "action": "accept" })).await, 400);
}

#[tokio::test]
async fn a_question_is_answered_in_its_own_session_only() {
    let (upstream, _site, gateway) = asking(json!({ "q": form() })).await;
    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let other = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let (stream, question) = asked(&session).await;
    assert_eq!(other.answers(&question, json!({ "action": "accept" })).await, 400);
    upstream.does("save", Does::Echo);
    assert_eq!(session.answers(&question, json!({ "action": "decline" })).await, 202);
    assert_eq!(stream.rest().await.len(), 1);
    assert_eq!(upstream.calls().pop().unwrap().json()["params"]["inputResponses"]["q"]["action"], "decline");
}

fn progress() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1 } })
}

fn with_progress(session: &Session) -> Ask {
    session.ask("tools/call", &json!({ "name": "up__save", "arguments": {}, "_meta": { "progressToken": 7 } }))
}

fn log(level: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": level, "data": "words" } })
}

#[tokio::test]
async fn n25_a_modern_request_without_a_level_is_told_no_log_message() {
    let (upstream, go) = (Upstream::start().await, CancellationToken::new());
    go.cancel();
    upstream.does("logging/setLevel", Does::Echo);
    upstream.does("save", Does::Tells(vec![log("emergency"), log("info"), progress()], go));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let told = async |meta: Value| {
        let ask = Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": meta }));
        let text = gateway.client().send(&ask).await.text();
        let messages = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap());
        let word = |message: Value| message["params"]["level"].as_str().or(message["method"].as_str()).unwrap_or("answer").to_owned();
        messages.map(word).collect::<Vec<_>>()
    };

    let quiet = ["notifications/progress", "answer"];
    assert_eq!(told(json!({ "progressToken": 7 })).await, quiet);
    let level = |level: &str| json!({ "progressToken": 7, "io.modelcontextprotocol/logLevel": level });
    assert_eq!(told(level("error")).await, ["emergency", "notifications/progress", "answer"]);
    assert_eq!(told(level("everything")).await, quiet, "no such level");
    assert_eq!(told(json!({ "progressToken": 7 })).await, quiet, "one request's level is not the next one's");
}

#[tokio::test]
async fn n21_a_modern_client_that_hangs_up_has_cancelled() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Tells(vec![progress()], CancellationToken::new()));
    let gateway = site.serve().await;
    let ask = Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": { "progressToken": 7 } }));
    let mut stream = Stream::open(&gateway.client(), &ask).await;
    let event = stream.event().await.unwrap();
    assert_eq!((event.json()["method"].as_str(), event.id), (Some("notifications/progress"), None));
    drop(stream);
    upstream.abandoned(1).await;
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
}

#[tokio::test]
async fn n22_a_stream_is_taken_up_where_it_broke() {
    let (upstream, go) = (Upstream::start().await, CancellationToken::new());
    let site = Site::of(&upstream);
    upstream.does("save", Does::Tells(vec![progress()], go.clone()));
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", json!({})).await;
    let call = with_progress(&session);
    let mut stream = Stream::open(&session.client, &call).await;
    let (primed, first) = (stream.event().await.unwrap(), stream.event().await.unwrap());
    assert_eq!(primed.data, "", "an id to come back with comes first");
    drop(stream);
    go.cancel();
    assert_eq!(site.ends(1).await, ["ok done"], "hanging up is not cancelling");

    let again = session.get().with("Last-Event-ID", first.id.as_deref().unwrap());
    let rest = Stream::open(&session.client, &again).await.rest().await;
    assert_eq!((rest.len(), &rest[0]["id"]), (1, &call.id()));
    let all = session.get().with("Last-Event-ID", primed.id.as_deref().unwrap());
    assert_eq!(Stream::open(&session.client, &all).await.rest().await.len(), 2);
}

#[tokio::test]
async fn a_stream_of_another_session_is_not_taken_up() {
    let (upstream, go) = (Upstream::start().await, CancellationToken::new());
    let site = Site::of(&upstream);
    upstream.does("save", Does::Tells(vec![progress()], go.clone()));
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-06-18", json!({})).await;
    let mut stream = Stream::open(&session.client, &with_progress(&session)).await;
    let id = stream.event().await.unwrap().id.unwrap();
    let other = gateway.client().begin("2025-06-18", json!({})).await;
    for session in [&other, &session] {
        let status = gateway.other().send(&session.get().with("Last-Event-ID", &id)).await.status;
        assert_eq!(status, 404, "a session of somebody else");
    }
    for unknown in [id.as_str(), "0.0", "", "x"] {
        assert_eq!(other.client.send(&other.get().with("Last-Event-ID", unknown)).await.status, 400, "{unknown}");
    }
    go.cancel();
    assert_eq!(stream.rest().await.len(), 1);
}
