//! What an HTTP server of each era is sent, and how it is told apart.

use doorward::mcp::log_level::LogLevel;
use doorward::upstream::{Dialect, Era, Event, Notice, Revision};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http_server::{Answer, Asked, End, Server, modern};
use crate::{Call, Fixture, names, spec};

fn echo(asked: &Asked) -> Answer {
    Answer::json(200, &asked.result(&asked.body["params"]["arguments"]))
}

#[tokio::test]
async fn a_modern_server_gets_the_headers_the_meta_and_the_very_bytes_of_the_arguments() {
    let server = Server::modern(echo).await;
    let fixture = Fixture::connected(spec(&server.transport())).await;
    let reply = Call::of("naïve tool").send(&fixture.upstream).await.unwrap();
    assert_eq!((reply.text(), reply.version), (b"{\"n\":1.0}".as_slice(), Revision::V2026_07_28));
    let call = server.calls().remove(0);
    assert!(call.text.contains(r#""arguments":{ "n": 1.0 }"#), "{}", call.text);
    assert_eq!(call.header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(call.header("mcp-method"), "tools/call");
    assert_eq!(call.header("mcp-name"), "=?base64?bmHDr3ZlIHRvb2w=?=");
    assert_eq!(call.header("mcp-param-region"), "eu");
    assert_eq!(call.header("accept"), "application/json, text/event-stream");
    assert_eq!(call.header("mcp-session-id"), "");
    let meta = &call.body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "doorward");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
    assert_eq!(meta["traceparent"], "00-1-2-01");
    assert!(server.all("initialize").is_empty());
}

#[tokio::test]
async fn each_principal_has_a_legacy_session_of_its_own_and_all_are_ended() {
    let server = Server::legacy(echo).await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(fixture.listing().await.version.era(), Era::Legacy);
    for principal in ["agent:a", "agent:b", "agent:a"] {
        Call { principal, ..Call::of("echo") }.send(&fixture.upstream).await.unwrap();
    }
    let calls = server.calls();
    assert_eq!(calls.iter().map(|call| call.header("mcp-session-id")).collect::<Vec<_>>(), ["s2", "s3", "s2"]);
    assert_eq!(calls[0].header("mcp-protocol-version"), "2025-11-25");
    assert_eq!(calls[0].body["params"]["_meta"], json!({"traceparent": "00-1-2-01"}));
    assert_eq!(server.all("initialize")[0].body["params"]["capabilities"], json!({}));
    fixture.upstream.stop().await;
    let asked = server.asked.lock().unwrap().clone();
    let mut ended: Vec<_> = asked.iter().filter(|asked| asked.http == "DELETE").map(|asked| asked.header("mcp-session-id")).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["s1", "s2", "s3"]);
}

fn told_on_the_way(asked: &Asked) -> Answer {
    let token = &asked.body["params"]["_meta"]["progressToken"];
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 0.5}});
    let other = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 999, "progress": 1}});
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    Answer::events(&[progress, other, log, asked.result(&json!({"said": "done"}))], End::Whole)
}

#[tokio::test]
async fn an_event_stream_gives_progress_and_log_and_then_the_answer_in_both_eras() {
    for server in [Server::modern(told_on_the_way).await, Server::legacy(told_on_the_way).await] {
        let fixture = Fixture::connected(spec(&server.transport())).await;
        let (notices, mut told) = mpsc::channel(8);
        let call = Call { notices: Some(notices), log_level: Some(LogLevel::Info), ..Call::of("echo") };
        assert_eq!(call.send(&fixture.upstream).await.unwrap().text(), br#"{"said":"done"}"#);
        assert_eq!(crate::soon(told.recv()).await, Some(Notice::Progress(r#"{"progress":0.5}"#.into())));
        assert_eq!(crate::soon(told.recv()).await, Some(Notice::Log(r#"{"data":"x","level":"info"}"#.into())));
        assert!(told.try_recv().is_err(), "progress of another request is not ours");
    }
}

#[tokio::test]
async fn a_legacy_server_that_asks_is_answered_and_refused() {
    let server = Server::legacy(|asked| {
        let ping = json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
        let ask = json!({"jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": {}});
        Answer::events(&[ping, ask, asked.result(&json!({}))], End::Whole)
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    fixture.call("echo").await.unwrap();
    let Event::Refused { requests } = fixture.event().await else { panic!("not refused") };
    assert_eq!(requests.take().0[0].method, "elicitation/create");
    fixture.upstream.stop().await;
    let asked = server.asked.lock().unwrap().clone();
    let answers: Vec<&Value> =
        asked.iter().map(|asked| &asked.body).filter(|body| body.get("method").is_none() && body.is_object()).collect();
    assert!(answers.iter().any(|body| body["id"] == "p" && body["result"] == json!({})), "{answers:?}");
    assert!(answers.iter().any(|body| body["id"] == 9 && body["error"]["code"] == -32601), "{answers:?}");
}

#[tokio::test]
async fn an_unknown_method_leads_to_initialize_whatever_its_status() {
    for status in [200, 400, 404, 500] {
        let sessions = std::sync::Mutex::new(0);
        let server = Server::start(move |asked| match asked.method() {
            "server/discover" => Answer::json(status, &asked.error(-32601, &json!(null))),
            _ => crate::http_server::legacy(asked, &sessions).unwrap_or_else(|| echo(asked)),
        })
        .await;
        let fixture = Fixture::connected(spec(&server.transport())).await;
        fixture.call("echo").await.unwrap();
        assert_eq!(server.all("initialize").len(), 2, "HTTP {status}");
    }
}

#[tokio::test]
async fn a_server_that_names_the_modern_revision_is_not_initialized() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let server = Server::start(move |asked| match asked.method() {
        "server/discover" if tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
            Answer::json(400, &asked.error(-32022, &json!({"supported": ["2031-01-01"], "requested": "2026-07-28"})))
        }
        _ => modern(asked).unwrap_or_else(|| echo(asked)),
    })
    .await;
    let fixture = Fixture::start(spec(&server.transport()));
    assert!(fixture.failure().await.contains("no revision"), "{:?}", fixture.upstream.state());
    while fixture.upstream.ready(std::time::Duration::from_secs(30)).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(server.all("initialize").is_empty());
}

#[tokio::test]
async fn a_wrong_memory_of_the_era_is_corrected() {
    for remembered in [Dialect::Legacy, Dialect::LegacySse, Dialect::Modern] {
        let server = if remembered != Dialect::Modern { Server::modern(echo).await } else { Server::legacy(echo).await };
        let mut spec = spec(&server.transport());
        spec.remembered = Some(remembered);
        let mut fixture = Fixture::connected(spec).await;
        assert_ne!(fixture.listing().await.dialect, remembered);
    }
}

#[tokio::test]
async fn tools_are_listed_again_when_the_server_says_so() {
    let lists = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked.method() {
        "server/discover" => Answer::json(
            200,
            &asked.result(&json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {"listChanged": true}}})),
        ),
        "subscriptions/listen" => {
            assert_eq!(asked.body["params"]["notifications"], json!({"toolsListChanged": true}));
            Answer::events(&[json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})], End::Open)
        }
        _ => {
            let number = lists.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Answer::json(200, &asked.result(&json!({"tools": [{"name": format!("t{number}")}]})))
        }
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(names(&fixture.listing().await), ["t0"]);
    assert_eq!(names(&fixture.listing().await), ["t1"]);
}

#[tokio::test]
async fn every_page_is_listed() {
    let server = Server::start(|asked| match (asked.method(), asked.body["params"]["cursor"].as_str()) {
        ("tools/list", None) => Answer::json(200, &asked.result(&json!({"tools": [{"name": "a"}], "nextCursor": "p2"}))),
        ("tools/list", Some("p2")) => Answer::json(200, &asked.result(&json!({"tools": [{"name": "b"}]}))),
        _ => modern(asked).unwrap_or(Answer::status(400)),
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(names(&fixture.listing().await), ["a", "b"]);
}

#[tokio::test]
async fn no_call_is_forwarded_before_the_tools_were_compared() {
    let server = Server::modern(echo).await;
    let fixture = Fixture::start(spec(&server.transport()));
    fixture.compare.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(fixture.failure().await.contains("compared"));
    let error = fixture.call("echo").await.unwrap_err();
    assert_eq!(crate::told(&error), ("upstream_unavailable", "none"));
    assert!(server.calls().is_empty());
}
