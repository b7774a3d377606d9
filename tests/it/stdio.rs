//! `doorward stdio`: both eras on one pipe, alone or through the gateway that runs.

use serde_json::json;

use crate::support::client::message;
use crate::support::pipe::code;
use crate::support::{Ask, Does, Site, Upstream, until};

async fn site() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("stdio: { agent: demo }");
    (upstream, site)
}

#[tokio::test]
async fn both_eras_are_spoken_on_one_pipe() {
    let (upstream, site) = site().await;
    let mut pipe = site.pipe(&["stdio"]);
    assert_eq!(pipe.modern("server/discover", json!({})).await["result"]["supportedVersions"], json!(["2026-07-28"]));
    let greeting = pipe.legacy("initialize", json!({ "protocolVersion": "2025-06-18", "capabilities": {} })).await;
    assert_eq!(greeting["result"]["protocolVersion"], "2025-06-18");
    pipe.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;

    let legacy = pipe.legacy("tools/call", json!({ "name": "up__echo", "arguments": {} })).await;
    let modern = pipe.call("up__echo", json!({})).await;

    assert_eq!((code(&legacy), code(&modern)), ("ok", "ok"));
    assert_eq!((legacy["result"].get("resultType"), &modern["result"]["resultType"]), (None, &json!("complete")));
    assert_eq!(pipe.legacy("ping", json!({})).await["result"], json!({}));
    assert_eq!(upstream.calls().len(), 2);
    let (status, rest, _) = pipe.leave().await;
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn before_a_handshake_only_a_ping_and_what_describes_itself_are_answered() {
    let (_upstream, site) = site().await;
    let mut pipe = site.pipe(&["stdio"]);
    assert_eq!(pipe.legacy("ping", json!({})).await["result"], json!({}));
    let early = pipe.legacy("tools/list", json!({})).await;
    assert_eq!((early["error"]["code"].as_i64(), code(&early)), (Some(-32600), "session_invalid"));
    let unknown = String::from_utf8(Ask::call("up__echo", json!({})).saying("2026-07-28", "2031-01-01").body).unwrap();
    pipe.line(&unknown).await;
    assert_eq!(pipe.answer().await["error"]["code"], -32022);
    assert_eq!(pipe.modern("nonsense", json!({})).await["error"]["code"], -32601);
}

#[tokio::test]
async fn a_line_too_long_or_no_message_costs_nothing_but_itself() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("stdio: { agent: demo }").listen("max_line_bytes: 1024");
    let mut pipe = site.pipe(&["stdio"]);
    let long = String::from_utf8(Ask::call("up__echo", json!({ "text": "x".repeat(5_000) })).body).unwrap();
    for (line, wanted) in [(long.as_str(), "payload_too_large"), ("nonsense", "malformed_request"), ("[]", "malformed_request")] {
        pipe.line(line).await;
        assert_eq!(code(&pipe.answer().await), wanted);
    }
    pipe.line("").await;
    pipe.line("   ").await;
    assert_eq!(code(&pipe.call("up__echo", json!({})).await), "ok");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_call_without_an_id_is_recorded_never_made_and_not_answered() {
    let (upstream, site) = site().await;
    let mut pipe = site.pipe(&["stdio"]);
    for _ in 0..40 {
        pipe.line(&json!({ "jsonrpc": "2.0", "method": "tools/call", "params": { "name": "up__save", "arguments": {} } }).to_string())
            .await;
    }

    assert_eq!(pipe.legacy("ping", json!({})).await["result"], json!({}), "a notification is not answered");

    assert_eq!(site.recorded("refusal", "code", "malformed_request").await["method"], "tools/call");
    pipe.leave().await;
    assert!(upstream.calls().is_empty());
    let counted: u64 = site.of_kind("coalesced").iter().filter_map(|record| record["count"].as_u64()).sum();
    assert_eq!(counted as usize + site.of_kind("refusal").len(), 40);
    assert!(counted > 0);
}

#[tokio::test]
async fn a_slow_call_holds_up_no_other_and_is_not_answered_once_it_is_cancelled() {
    let (upstream, site) = site().await;
    upstream.does("save", Does::Hangs);
    let mut pipe = site.pipe(&["stdio"]);
    pipe.legacy("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {} })).await;
    let slow = message("tools/call", &json!({ "name": "up__save", "arguments": {} }));
    pipe.line(&slow.to_string()).await;
    upstream.got(1).await;

    assert_eq!(code(&pipe.call("up__echo", json!({})).await), "ok");
    pipe.line(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": slow["id"] } }).to_string()).await;

    upstream.abandoned(1).await;
    let mut ends = site.ends(2).await;
    ends.sort();
    assert_eq!(ends, ["cancelled unknown", "ok done"]);
    let ping = message("ping", &json!({}));
    pipe.line(&ping.to_string()).await;
    let mut answer = pipe.answer().await;
    while answer.get("method").is_some() {
        // The server's list may be told of as changed at any time.
        answer = pipe.answer().await;
    }
    assert_eq!(answer["id"], ping["id"], "what was cancelled is not answered any more");
}

#[tokio::test]
async fn a_client_that_leaves_still_gets_its_last_answers() {
    let (upstream, site) = site().await;
    let go = tokio_util::sync::CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let mut pipe = site.pipe(&["stdio"]);
    pipe.line(&String::from_utf8(Ask::call("up__save", json!({})).body).unwrap()).await;
    upstream.got(1).await;
    let left = tokio::spawn(pipe.leave());
    go.cancel();

    let (status, rest, said) = left.await.unwrap();

    assert!(status.success(), "{said}");
    assert_eq!(code(&serde_json::from_str(&rest[0]).unwrap()), "ok");
    assert_eq!(site.ends(1).await, ["ok done"]);
}

#[tokio::test]
async fn with_a_gateway_running_calls_go_through_it() {
    let (_upstream, site) = site().await;
    let gateway = site.serve().await;
    let mut pipe = site.pipe(&["stdio"]);

    assert_eq!(code(&pipe.call("up__echo", json!({})).await), "ok");

    let intent = site.recorded("intent", "transport", "stdio").await;
    assert_eq!((&intent["origin"], &intent["agent"]), (&json!("main"), &json!("demo")));
    site.write("policies/policy.csv", "");
    until("the reload", async || (code(&pipe.call("up__echo", json!({})).await) == "tool_not_found").then_some(())).await;
    pipe.leave().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "tool_not_found");
}

#[tokio::test]
async fn without_one_the_same_path_runs_in_the_command_with_a_log_of_its_own() {
    let (_upstream, site) = site().await;
    let (mut one, mut other) = (site.pipe(&["stdio"]), site.pipe(&["stdio"]));
    assert_eq!(code(&one.call("up__save", json!({})).await), "ok");
    assert_eq!(code(&other.call("up__save", json!({})).await), "ok");
    assert_eq!(site.ends(2).await.len(), 2);
    one.leave().await;
    other.leave().await;
    let mut origins: Vec<_> = site.of_kind("intent").into_iter().map(|intent| intent["origin"].as_str().unwrap().to_owned()).collect();
    origins.sort();
    assert_eq!(origins, ["local-1", "local-2"]);
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn call_prints_the_result_and_ends_with_the_codes_exit_code() {
    let (_upstream, site) = site().await;
    let done = site.run(&["call", "up__echo", "text=hello", "amount:=3", "--as", "demo"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "{\"amount\":3,\"text\":\"hello\"}\n"));
    for (args, exit, words) in [
        (&["call", "up__nothing", "--as", "demo"][..], 3, "tool_not_found"),
        (&["call", "up__echo", "amount:=-1", "--as", "demo"], 2, "invalid_arguments"),
        (&["call", "up__echo", "--as", "other"], 3, "tool_not_found"),
        (&["call", "up__echo", "nonsense", "--as", "demo"], 2, "neither"),
    ] {
        let done = site.run(args).await;
        assert_eq!((done.code, done.err.contains(words)), (exit, true), "{args:?}: {done:?}");
    }
    let json = site.run(&["--json", "call", "up__echo", "--arguments-json", "{\"amount\":9007199254740993}", "--as", "demo"]).await.json();
    assert_eq!(json["content"][0]["text"], "{\"amount\":9007199254740993}");
}

#[tokio::test]
async fn what_is_written_for_a_call_is_what_is_sent() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    for (words, told) in [
        (&["where:={\"a\":1,\"a\":2}"][..], "`where:={\"a\":1,\"a\":2}`: a member name occurs twice"),
        (&["text=a", "text=b"], "`text` is given twice"),
        (&["where:=1,\"text\":2"], "bytes after the JSON value"),
        (&["--arguments-json", "{\"text\":\"a\",\"text\":\"b\"}"], "--arguments-json: a member name occurs twice"),
        (&["--arguments-json", "[]"], "not a JSON object"),
    ] {
        let done = site.run(&[&["call", "up__save", "--as", "demo"], words].concat()).await;
        assert_eq!((done.code, done.err.contains(told)), (2, true), "{done:?}");
    }
    assert!(!site.path("var/audit").exists(), "no gateway was asked");

    let done = site.run(&["call", "up__save", "text=a\"b", "n:=1.50", "big:=[12345678901234567890123, 1E2]", "--as", "demo"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let body = &upstream.calls()[0].body;
    assert!(body.contains(r#""arguments":{"text":"a\"b","n":1.50,"big":[12345678901234567890123, 1E2]}"#), "{body}");
}
