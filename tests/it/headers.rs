//! What HTTP must say beside the body in 2026-07-28, and what it is answered when it does not (streamable HTTP, "Server
//! Validation" and "Status codes").

use serde_json::{Value, json};

use crate::support::{Ask, Serving, Site, Upstream};

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

fn echo() -> Ask {
    Ask::call("up__echo", json!({}))
}

const VERSION: &str = "MCP-Protocol-Version";
const MISMATCH: (u16, i64, &str) = (400, -32020, "header_mismatch");
const MALFORMED: (u16, i64, &str) = (400, -32602, "malformed_request");
const UNSUPPORTED: (u16, i64, &str) = (400, -32022, "unsupported_version");

#[tokio::test]
async fn a_header_that_is_missing_or_differs_from_the_body_refuses() {
    let (upstream, _site, gateway) = gateway().await;
    for ask in [
        echo().without(VERSION),
        echo().without("Mcp-Method"),
        echo().without("Mcp-Name"),
        echo().having("Mcp-Method", "TOOLS/CALL"),
        echo().having("Mcp-Method", "tools/list"),
        echo().having("Mcp-Name", "up__Echo"),
        echo().having("Mcp-Name", "up__save"),
        echo().with("Mcp-Name", "up__echo"),
        echo().having("Mcp-Name", "=?base64?dXBfX2VjaG8?="),
        echo().having("Mcp-Name", "=?base64?!!!!?="),
        echo().having("Mcp-Name", "=?BASE64?dXBfX2VjaG8=?="),
        echo().having("Mcp-Name", "=?base64?dXBfX2VjaG8="),
        echo().having(VERSION, "2025-11-25"),
        echo().having(VERSION, "2031-01-01"),
        echo().saying("2026-07-28", "2031-01-01"),
    ] {
        let answer = gateway.client().send(&ask).await;
        let (status, number, code) = answer.wire();
        assert_eq!((status, number, code.as_str()), MISMATCH, "{:?}", ask.headers);
        assert_eq!(answer.json()["id"], ask.id());
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn header_names_in_any_case_padded_values_and_sentinels_are_taken() {
    let (upstream, _site, gateway) = gateway().await;
    for ask in [
        echo(),
        echo().without("Mcp-Method").with("mCP-mETHOD", "tools/call"),
        echo().having("Mcp-Name", " \t up__echo \t"),
        echo().having("Mcp-Name", "=?base64?dXBfX2VjaG8=?="),
        echo().with("Mcp-Param-Unknown", "anything"),
        echo().with("Last-Event-ID", "7"),
    ] {
        assert_eq!(gateway.client().send(&ask).await.code(), "ok", "{:?}", ask.headers);
    }
    assert_eq!(upstream.calls().len(), 6);
}

#[tokio::test]
async fn what_each_request_has_to_say_of_itself_is_asked_for_first() {
    let (_upstream, _site, gateway) = gateway().await;
    let whole = echo();
    let without_meta = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "up__echo" } });
    for ask in [
        whole.clone().body(without_meta.to_string()),
        whole.clone().without("Mcp-Method").body(without_meta.to_string()),
        whole.clone().having(VERSION, "2031-01-01").body(without_meta.to_string()),
        whole.clone().saying("protocolVersion\":\"2026-07-28\"", "protocolVersion\":7"),
        whole.clone().saying("io.modelcontextprotocol/clientCapabilities", "capabilities"),
        whole.clone().saying("Capabilities\":{}", "Capabilities\":[]"),
    ] {
        let (status, number, code) = gateway.client().send(&ask).await.wire();
        assert_eq!((status, number, code.as_str()), MALFORMED, "{}", String::from_utf8_lossy(&ask.body));
    }
}

#[tokio::test]
async fn an_unknown_revision_is_told_which_are_served() {
    let (_upstream, _site, gateway) = gateway().await;
    let discovered = gateway.client().send(&Ask::modern("server/discover", json!({}))).await.result();
    for version in ["2031-01-01", "2026-07-29", "2025-11-25", "zzz"] {
        let ask = echo().having(VERSION, version).saying("2026-07-28", version);

        let answer = gateway.client().send(&ask).await;

        let (status, number, code) = answer.wire();
        assert_eq!((status, number, code.as_str()), UNSUPPORTED, "{version}");
        assert_eq!(answer.error()["requested"], version);
        assert_eq!(answer.error()["supported"], discovered["supportedVersions"]);
    }
}

#[tokio::test]
async fn a_method_that_is_not_served_is_404_with_its_id() {
    let (_upstream, site, gateway) = gateway().await;
    for method in
        ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/get", "nonsense", "tools/Call", "sampling/createMessage"]
    {
        let ask = Ask::modern(method, json!({}));

        let answer = gateway.client().send(&ask).await;

        assert_eq!(answer.wire(), (404, -32601, "method_not_found".to_owned()), "{method}");
        assert_eq!(answer.json()["id"], ask.id());
        assert_eq!(answer.header("mcp-session-id"), None);
    }
    site.recorded("refusal", "method", "logging/setLevel").await;
}

#[tokio::test]
async fn modern_results_say_what_they_are_and_no_session_is_minted() {
    let (_upstream, _site, gateway) = gateway().await;
    for ask in [
        Ask::modern("server/discover", json!({})),
        Ask::modern("tools/list", json!({})),
        echo(),
        echo().with("Mcp-Session-Id", "anything"),
        Ask::call("up__echo", json!({ "amount": -1 })),
    ] {
        let answer = gateway.client().send(&ask).await;

        assert_eq!((answer.status, answer.header("mcp-session-id")), (200, None));
        let result = answer.result();
        assert_eq!(result["resultType"], "complete");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "doorward");
    }
    for method in ["server/discover", "tools/list"] {
        let result = gateway.client().send(&Ask::modern(method, json!({}))).await.result();
        assert!(result["ttlMs"].as_u64().is_some() && result["cacheScope"].is_string(), "{result}");
    }
}

#[tokio::test]
async fn what_is_no_message_is_400_without_an_id_and_is_recorded() {
    let (_upstream, site, gateway) = gateway().await;
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    for (body, number) in [
        ("{", -32700),
        ("", -32700),
        ("[]", -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (response, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}"#, -32600),
    ] {
        let answer = gateway.client().send(&echo().body(body)).await;
        assert_eq!(answer.wire(), (400, number, "malformed_request".to_owned()), "{body}");
        assert_eq!(answer.json().get("id"), None, "{body}");
    }
    site.recorded("refusal", "code", "malformed_request").await;
}

#[tokio::test]
async fn only_post_is_served_and_only_at_its_path() {
    let (_upstream, _site, gateway) = gateway().await;
    for verb in ["GET", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"] {
        let answer = gateway.client().open(&Ask::bare(verb).with("Accept", "text/event-stream")).await.head().await;
        assert_eq!(answer.status, 405, "{verb}");
        assert!(answer.header("allow").is_some_and(|allowed| allowed.contains("POST")), "{verb}");
    }
    let elsewhere = Ask { path: "/other".to_owned(), ..echo() };
    assert_eq!(gateway.client().send(&elsewhere).await.status, 404);
}

#[tokio::test]
async fn a_foreign_origin_or_host_is_403_whoever_asks() {
    let (upstream, _site, gateway) = gateway().await;
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost.evil.example"),
        ("Origin", "http://127.0.0.1.evil.example:80"),
        ("Host", "evil.example"),
        ("Host", "localhost.evil.example:8808"),
        ("Host", "[::2]:1"),
    ] {
        assert_eq!(gateway.client().send(&echo().with(name, value)).await.status, 403, "{name}: {value}");
        assert_eq!(gateway.nobody().send(&echo().with(name, value)).await.status, 403, "{name}: {value}");
    }
    for (name, value) in [("Origin", "http://localhost:3000"), ("Origin", "http://[::1]"), ("Host", "LOCALHOST:1"), ("Host", "127.0.0.1")] {
        assert_eq!(gateway.client().send(&echo().with(name, value)).await.code(), "ok", "{name}: {value}");
    }
    assert_eq!(upstream.calls().len(), 4);
}

#[tokio::test]
async fn a_host_or_origin_said_twice_is_none_that_is_allowed() {
    let (_upstream, _site, gateway) = gateway().await;
    for (name, one, other) in [
        ("Host", "localhost", "evil.example"),
        ("Host", "evil.example", "evil.example"),
        ("Origin", "http://localhost", "https://evil.example"),
    ] {
        let status = gateway.client().send(&echo().with(name, one).with(name, other)).await.status;
        assert!([400, 403].contains(&status), "{name}: {one}, {other}: {status}");
    }
}

#[tokio::test]
async fn origins_and_hosts_of_the_configuration_are_let_in() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let site = site.listen("allowed_origins: [\"https://app.example\"]").listen("allowed_hosts: [gateway.example]");
    let gateway = site.serve().await;
    let ask = echo().with("Host", "gateway.example").with("Origin", "https://app.example");
    assert_eq!(gateway.client().send(&ask).await.code(), "ok");
    assert_eq!(gateway.client().send(&ask.having("Origin", "https://app.example:444")).await.status, 403);
}

#[tokio::test]
async fn an_origin_is_let_in_by_its_scheme_host_and_port_together() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("allowed_origins: [\"https://app.example\"]");
    let gateway = site.serve().await;
    for origin in [
        "ftp://localhost",
        "chrome-extension://localhost",
        "localhost",
        "://localhost",
        "http:localhost",
        "http://localhost/",
        "http://app.example",
        "https://app.example:444",
        "https://app.example.",
        "https://app.example/",
        "https://user@app.example",
        "",
    ] {
        assert_eq!(gateway.client().send(&echo().with("Origin", origin)).await.status, 403, "{origin}");
    }
    assert_eq!(gateway.client().send(&echo().with("Origin", "https://localhost:3000")).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_origin_that_no_browser_would_send_is_refused_in_the_configuration() {
    for origin in
        ["app.example", "https://app.example/", "HTTPS://app.example", "https://app.example:443", "null", "ftp://app.example", "*"]
    {
        let done = Site::empty().listen(&format!("allowed_origins: [\"{origin}\"]")).run(&["serve"]).await;
        assert_eq!((done.code, done.err.contains("allowed_origins")), (2, true), "{origin}: {done:?}");
    }
}

#[tokio::test]
async fn http_1_1_without_a_host_is_400() {
    let (_upstream, _site, gateway) = gateway().await;
    for (head, status) in [
        ("POST /mcp HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
        ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 400),
        ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 401),
        ("POST /mcp HTTP/1.0\r\nContent-Length: 0\r\n\r\n", 401),
    ] {
        assert_eq!(gateway.nobody().say(head).await.head().await.status, status, "{head}");
    }
}

#[tokio::test]
async fn a_body_in_a_content_coding_is_415_in_words_and_recorded() {
    let (upstream, site, gateway) = gateway().await;
    for coding in ["gzip", "br", "identity, gzip", "x"] {
        let answer = gateway.client().send(&echo().with("Content-Encoding", coding)).await;
        assert_eq!(answer.wire(), (415, -32600, "malformed_request".to_owned()), "{coding}");
        assert_eq!(answer.header("accept-encoding"), Some("identity"));
        assert!(answer.text().contains("Content-Encoding"), "{}", answer.text());
    }
    assert!(upstream.calls().is_empty());
    site.recorded("refusal", "code", "malformed_request").await;
    assert_eq!(gateway.client().send(&echo().with("Content-Encoding", "Identity")).await.code(), "ok");
}

#[tokio::test]
async fn sizes_and_types_are_checked_before_the_message() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_body_bytes: 1024").listen("max_header_bytes: 8192");
    let gateway = site.serve().await;
    let client = gateway.client();
    let big = Ask::call("up__echo", json!({ "text": "x".repeat(2_000) }));
    assert_eq!(client.send(&big).await.wire(), (413, -31004, "payload_too_large".to_owned()));
    assert_eq!(client.send(&echo().with("X-Big", &"x".repeat(20_000))).await.status, 431);
    assert_eq!(client.send(&echo().having("Content-Type", "text/plain")).await.status, 415);
    assert_eq!(client.send(&echo().without("Content-Type")).await.status, 415);
    assert_eq!(client.send(&echo().having("Accept", "text/html")).await.status, 406);
    assert_eq!(client.send(&echo().having("Content-Type", "application/json; charset=utf-8")).await.code(), "ok");
    assert_eq!(client.send(&echo().having("Accept", "application/json")).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn refusals_of_policy_and_limits_never_look_like_a_legacy_server() {
    let (_upstream, site, gateway) = gateway().await;
    for (tool, arguments) in [("up__nothing", json!({})), ("up__echo", json!({ "amount": "x" }))] {
        assert_eq!(gateway.client().call(tool, arguments).await.status, 200, "{tool}");
    }
    let site = site.policy("p, D0, role:any, *, any, -, deny\np, R1, agent:demo, up__*, reversible, -, allow\n");
    site.recorded("policy_change", "action", "reload").await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_notification_is_accepted_and_answered_with_nothing() {
    let (_upstream, _site, gateway) = gateway().await;
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    let ask = Ask::post(note.to_string()).with(VERSION, "2026-07-28").with("Mcp-Method", "notifications/cancelled");
    let answer = gateway.client().send(&ask).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
}

#[tokio::test]
async fn a_call_without_an_id_is_refused_with_a_record_and_never_made() {
    let (upstream, site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let params = json!({ "name": "up__save", "arguments": {} });
    let note = json!({ "jsonrpc": "2.0", "method": "tools/call", "params": params });
    let whole = Ask::call("up__save", json!({}));
    let without_id = whole.clone().saying(&format!("\"id\":{},", whole.id()), "");
    for ask in [without_id, session.post(&note)] {
        let answer = gateway.client().send(&ask).await;

        assert_eq!(answer.wire(), (400, -32600, "malformed_request".to_owned()));
        assert_eq!((answer.json().get("id"), &answer.error()["effect"]), (None, &json!("none")));
        let refusal = site.recorded("refusal", "call_id", answer.error()["invocation"].as_str().unwrap()).await;
        assert_eq!((&refusal["method"], &refusal["agent"]), (&json!("tools/call"), &json!("demo")));
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn a_cursor_that_was_never_given_out_is_refused() {
    let (_upstream, _site, gateway) = gateway().await;
    let answer = gateway.client().send(&Ask::modern("tools/list", json!({ "cursor": "x" }))).await;
    assert_eq!(answer.wire(), (200, -32602, "state_invalid".to_owned()));
}

#[tokio::test]
async fn the_upstream_gets_headers_of_its_own_hop() {
    let (upstream, _site, gateway) = gateway().await;
    let meta =
        json!({ "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "example.com/kept": 1, "progressToken": "t" });
    let ask = Ask::modern("tools/call", json!({ "name": "up__echo", "arguments": {}, "_meta": meta }));
    gateway.client().send(&ask.with("Cookie", "secret=1").with("Mcp-Session-Id", "theirs")).await;

    let got = &upstream.got(1).await[0];
    let header = |name: &str| got.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("mcp-name").as_deref(), Some("echo"));
    assert_eq!(header("mcp-method").as_deref(), Some("tools/call"));
    assert_eq!(header("mcp-protocol-version").as_deref(), Some("2026-07-28"));
    assert_eq!((header("cookie"), header("authorization"), header("mcp-session-id")), (None, None, None));
    let sent = got.json()["params"]["_meta"].clone();
    assert_eq!(sent["example.com/kept"], 1);
    assert_ne!(sent["progressToken"], Value::from("t"));
}

#[tokio::test]
async fn headers_beyond_the_limit_are_431() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_header_bytes: 8192");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().send(&echo().having("x-filler", &"a".repeat(6_000))).await.status, 200);
    assert_eq!(gateway.client().send(&echo().having("x-filler", &"a".repeat(9_000))).await.status, 431);
    assert_eq!(upstream.calls().len(), 1);
}
