//! `doorward demo-server` as its clients meet it: over two in-memory pipes, message by message.
//!
//! No test waits for time to pass: a slow call is one that would take minutes, and what is asserted is that others end before it.

use doorward::demo::{Options, serve};
use serde_json::{Value, json};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines};
use tokio::task::JoinHandle;

const MODERN: &str = "2026-07-28";
const TOOLS: [&str; 8] =
    ["list_notes", "read_note", "search_notes", "write_note", "append_note", "delete_note", "share_note", "index_notes"];
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// A call of minutes.
fn endless() -> Value {
    json!({ "steps": 100, "delay_ms": 5000 })
}

fn options_in(home: &Path) -> Options {
    Options { drain: Duration::from_secs(60), ..Options::new(&home.join("notes"), &home.join("outbox")) }
}

/// A client of one server, which speaks the revision that it was connected with.
struct Client {
    revision: &'static str,
    next_id: i64,
    to_server: Option<DuplexStream>,
    from_server: Lines<BufReader<DuplexStream>>,
    serving: JoinHandle<std::io::Result<()>>,
    home: TempDir,
}

impl Client {
    /// A client that has said nothing yet, in front of an empty folder.
    fn silent(revision: &'static str) -> Self {
        Self::at(revision, tempfile::tempdir().unwrap())
    }

    fn at(revision: &'static str, home: TempDir) -> Self {
        let options = options_in(home.path());
        Self::with(revision, home, options)
    }

    fn with(revision: &'static str, home: TempDir, options: Options) -> Self {
        let (to_server, reader) = tokio::io::duplex(4096);
        let (writer, from_server) = tokio::io::duplex(4096);
        let serving = tokio::spawn(serve(reader, writer, options));
        let from_server = BufReader::new(from_server).lines();
        Self { revision, next_id: 0, to_server: Some(to_server), from_server, serving, home }
    }

    /// A client that is ready to work.
    async fn connected(revision: &'static str) -> Self {
        let mut client = Self::silent(revision);
        if revision != MODERN {
            let params = json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
            assert_eq!(client.ask("initialize", params).await["result"]["protocolVersion"], revision);
            client.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        }
        client
    }

    async fn send(&mut self, line: impl Display) {
        self.to_server.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Sends a request without waiting, and answers its id.
    async fn begin(&mut self, method: &str, mut params: Value) -> i64 {
        self.next_id += 1;
        if self.revision == MODERN {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let id = self.next_id;
        self.send(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        id
    }

    async fn begin_call(&mut self, tool: &str, arguments: Value) -> i64 {
        self.begin("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    async fn receive(&mut self) -> Value {
        self.try_receive().await.unwrap()
    }

    async fn try_receive(&mut self) -> Option<Value> {
        let line = self.from_server.next_line().await.unwrap()?;
        let message: Value = serde_json::from_str(&line).unwrap();
        assert!(message.is_array() || message["jsonrpc"] == "2.0", "not MCP: {line}");
        Some(message)
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        let answer = self.receive().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Calls a tool; answers its text, `Err` when it is an error.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<String, String> {
        let id = self.begin_call(tool, arguments).await;
        let answer = self.receive().await;
        assert_eq!(answer["id"], id, "{answer}");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap().to_owned();
        if answer["result"]["isError"] == true { Err(text) } else { Ok(text) }
    }

    /// Ends the input; answers all that still came, and whether the server ended well.
    async fn finish(mut self) -> (Vec<Value>, std::io::Result<()>) {
        self.to_server = None;
        let mut rest = Vec::new();
        while let Some(message) = self.try_receive().await {
            rest.push(message);
        }
        (rest, self.serving.await.unwrap())
    }

    fn notes(&self) -> PathBuf {
        self.home.path().join("notes")
    }
}

#[tokio::test]
async fn every_revision_lists_and_calls() {
    for revision in LEGACY.into_iter().chain([MODERN]) {
        let mut client = Client::connected(revision).await;
        let tools = client.ask("tools/list", json!({})).await["result"]["tools"].clone();
        assert_eq!(tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect::<Vec<_>>(), TOOLS);
        let listed = client.call("list_notes", json!({})).await.unwrap();
        for name in ["welcome", "groceries", "ideas"] {
            assert!(listed.contains(name), "{revision}: {listed}");
        }
        let (rest, ended) = client.finish().await;
        assert!(rest.is_empty() && ended.is_ok(), "{revision}: {rest:?} {ended:?}");
    }
}

#[tokio::test]
async fn discovery_and_results_have_their_modern_members() {
    let mut client = Client::silent(MODERN);
    let discovered = client.ask("server/discover", json!({})).await;
    let listed = client.ask("tools/list", json!({})).await;
    let called = client.ask("tools/call", json!({ "name": "list_notes" })).await;
    let refused = client.ask("tools/call", json!({ "name": "read_note", "arguments": {} })).await;

    assert_eq!(discovered["result"]["supportedVersions"], json!([MODERN]));
    assert_eq!(discovered["result"]["capabilities"], json!({ "tools": {} }));
    for answer in [&discovered, &listed, &called, &refused] {
        assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
        assert_eq!(answer["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "doorward-demo", "{answer}");
    }
    for answer in [&discovered, &listed] {
        assert!(answer["result"]["ttlMs"].is_u64() && answer["result"]["cacheScope"] == "public", "{answer}");
    }
    assert_eq!(refused["result"]["isError"], true);
}

#[tokio::test]
async fn a_modern_request_must_describe_itself() {
    let mut client = Client::silent(LEGACY[0]); // adds no `_meta` of its own
    let with = |meta: Value| json!({ "_meta": meta });
    let (version, capabilities) = ("io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities");

    let bare = client.ask("server/discover", json!({})).await;
    let incapable = client.ask("tools/list", with(json!({ version: MODERN }))).await;
    let unknown = client.ask("tools/list", with(json!({ version: "2031-01-01", capabilities: {} }))).await;
    let removed = client.ask("ping", with(json!({ version: MODERN, capabilities: {} }))).await;
    let handshake = client.ask("initialize", with(json!({ version: MODERN, capabilities: {} }))).await;

    assert_eq!((&bare["error"]["code"], &incapable["error"]["code"]), (&json!(-32602), &json!(-32602)));
    assert_eq!(unknown["error"]["code"], -32022);
    assert_eq!(unknown["error"]["data"], json!({ "supported": [MODERN], "requested": "2031-01-01" }));
    assert_eq!((&removed["error"]["code"], &handshake["error"]["code"]), (&json!(-32601), &json!(-32601)));
}

#[tokio::test]
async fn both_eras_mix_on_one_pipe() {
    let mut client = Client::connected("2025-06-18").await;
    client.revision = MODERN;
    assert_eq!(client.ask("tools/list", json!({})).await["result"]["resultType"], "complete");
    client.revision = "2025-06-18";
    assert!(client.ask("tools/list", json!({})).await["result"].get("resultType").is_none());
}

#[tokio::test]
async fn the_handshake_comes_first_and_settles_on_a_known_revision() {
    let mut client = Client::silent(LEGACY[3]);
    assert_eq!(client.ask("tools/list", json!({})).await["error"]["code"], -32602);
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    let agreed = client.ask("initialize", json!({ "protocolVersion": MODERN, "capabilities": {} })).await;
    assert_eq!(agreed["result"]["protocolVersion"], "2025-11-25", "the newest that has a handshake");
}

#[tokio::test]
async fn older_revisions_get_no_members_that_they_do_not_know() {
    for (revision, annotations, title_and_output) in
        [("2024-11-05", false, false), ("2025-03-26", true, false), ("2025-06-18", true, true), ("2025-11-25", true, true)]
    {
        let mut client = Client::connected(revision).await;
        let tool = client.ask("tools/list", json!({})).await["result"]["tools"][0].clone();
        let called = client.ask("tools/call", json!({ "name": "list_notes" })).await;
        assert_eq!(tool.get("annotations").is_some(), annotations, "{revision}");
        assert_eq!(tool.get("title").is_some(), title_and_output, "{revision}");
        assert_eq!(tool.get("outputSchema").is_some(), title_and_output, "{revision}");
        assert_eq!(called["result"].get("structuredContent").is_some(), title_and_output, "{revision}");
    }
}

#[tokio::test]
async fn structured_results_fit_their_output_schemas() {
    let mut client = Client::connected(MODERN).await;
    let listed = client.ask("tools/list", json!({})).await;
    for (tool, arguments) in
        [("list_notes", json!({})), ("read_note", json!({ "name": "ideas" })), ("search_notes", json!({ "query": "BREAD", "limit": 1 }))]
    {
        let definition = listed["result"]["tools"].as_array().unwrap().iter().find(|one| one["name"] == tool).unwrap();
        let schema = jsonschema::draft202012::new(&definition["outputSchema"]).unwrap();
        let answer = client.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await;
        assert!(schema.is_valid(&answer["result"]["structuredContent"]), "{answer}");
    }
}

#[tokio::test]
async fn a_note_lives_from_writing_to_deletion() {
    let mut client = Client::connected(MODERN).await;
    assert!(client.call("write_note", json!({ "name": "plan", "text": "one" })).await.unwrap().contains("Created"));
    client.call("append_note", json!({ "name": "plan", "text": "two" })).await.unwrap();
    assert_eq!(client.call("read_note", json!({ "name": "plan" })).await.unwrap(), "one\ntwo");
    assert!(client.call("search_notes", json!({ "query": "TWO" })).await.unwrap().contains(r#""line":2"#));
    assert!(client.call("write_note", json!({ "name": "plan", "text": "new" })).await.unwrap().contains("Replaced"));
    client.call("delete_note", json!({ "name": "plan" })).await.unwrap();
    for tool in ["read_note", "delete_note"] {
        assert!(client.call(tool, json!({ "name": "plan" })).await.unwrap_err().contains("list_notes"), "{tool} tells the way out");
    }
    assert!(client.call("append_note", json!({ "name": "plan", "text": "x" })).await.is_err(), "append makes no note");
}

#[tokio::test]
async fn every_share_leaves_a_copy_of_its_own() {
    let mut client = Client::connected(MODERN).await;
    for _ in 0..2 {
        client.call("share_note", json!({ "name": "ideas", "recipient": "sam@example.com" })).await.unwrap();
    }
    let mut copies: Vec<_> = fs::read_dir(client.home.path().join("outbox")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    copies.sort();
    assert_eq!(copies, ["000001 sam@example.com ideas.md", "000002 sam@example.com ideas.md"]);
    assert!(client.call("share_note", json!({ "name": "ideas", "recipient": "../sam" })).await.is_err());
}

#[tokio::test]
async fn the_first_notes_come_into_an_empty_folder_only() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("notes")).unwrap();
    fs::write(home.path().join("notes/mine.md"), "mine").unwrap();
    let listed = Client::at(MODERN, home).call("list_notes", json!({})).await.unwrap();
    assert!(listed.contains("mine") && !listed.contains("welcome"), "{listed}");
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let mut client = Client::connected(MODERN).await;
    client.call("list_notes", json!({})).await.unwrap();
    fs::write(client.home.path().join("secret.md"), "secret").unwrap();
    let absolute = client.home.path().join("secret").display().to_string();
    let names = [
        "../secret",
        "..",
        ".",
        "",
        "/etc/passwd",
        &absolute,
        "a/../../secret",
        "..\\secret",
        "a\0b",
        "a\nb",
        ".hidden",
        "%2e%2e%2fsecret",
        "ｅ",
    ];
    for name in names {
        for (tool, arguments) in [
            ("read_note", json!({ "name": name })),
            ("write_note", json!({ "name": name, "text": "x" })),
            ("append_note", json!({ "name": name, "text": "x" })),
            ("delete_note", json!({ "name": name })),
            ("share_note", json!({ "name": name, "recipient": "sam" })),
            ("share_note", json!({ "name": "welcome", "recipient": name })),
        ] {
            assert!(client.call(tool, arguments).await.is_err(), "{tool} {name:?}");
        }
    }
    assert_eq!(fs::read_to_string(client.home.path().join("secret.md")).unwrap(), "secret");
    assert_eq!(fs::read_dir(client.home.path()).unwrap().count(), 3, "notes, outbox, secret.md");
}

#[tokio::test]
async fn no_link_is_followed() {
    let mut client = Client::connected(MODERN).await;
    client.call("list_notes", json!({})).await.unwrap();
    let secret = client.home.path().join("secret.txt");
    fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, client.notes().join("link.md")).unwrap();
    fs::create_dir(client.notes().join("folder.md")).unwrap();

    assert!(!client.call("list_notes", json!({})).await.unwrap().contains("link"));
    assert!(!client.call("search_notes", json!({ "query": "secret" })).await.unwrap().contains("link"));
    for name in ["link", "folder"] {
        for (tool, arguments) in [
            ("read_note", json!({ "name": name })),
            ("append_note", json!({ "name": name, "text": "x" })),
            ("delete_note", json!({ "name": name })),
            ("share_note", json!({ "name": name, "recipient": "sam" })),
        ] {
            assert!(client.call(tool, arguments).await.is_err(), "{tool} {name}");
        }
    }
    client.call("write_note", json!({ "name": "link", "text": "mine" })).await.unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "the link was replaced, not followed");
}

#[tokio::test]
async fn sizes_are_bounded() {
    let mut client = Client::connected(MODERN).await;
    let half = "é".repeat(65_536); // 128 KiB
    client.call("write_note", json!({ "name": "big", "text": half })).await.unwrap();
    assert!(client.call("append_note", json!({ "name": "big", "text": format!("{half}x") })).await.unwrap_err().contains("262144"));
    assert!(client.call("write_note", json!({ "name": "big", "text": "é".repeat(131_073) })).await.unwrap_err().contains("262144"));
    assert_eq!(client.call("read_note", json!({ "name": "big" })).await.unwrap(), half, "a refused write changes nothing");

    for number in 0..995 {
        fs::write(client.notes().join(format!("n{number}.md")), "").unwrap();
    }
    assert!(client.call("write_note", json!({ "name": "last", "text": "x" })).await.is_ok());
    assert!(client.call("write_note", json!({ "name": "one too many", "text": "x" })).await.unwrap_err().contains("1000"));
    assert!(client.call("write_note", json!({ "name": "last", "text": "replaced" })).await.is_ok(), "what is there may change");
}

#[tokio::test]
async fn argument_errors_are_results_and_protocol_errors_are_not() {
    for revision in [LEGACY[0], LEGACY[3], MODERN] {
        let mut client = Client::connected(revision).await;
        for (tool, arguments) in [
            ("read_note", json!({})),
            ("read_note", json!({ "name": 7 })),
            ("list_notes", json!({ "extra": true })),
            ("search_notes", json!({ "query": "x", "limit": 0 })),
            ("index_notes", json!({ "steps": 1.5 })),
        ] {
            let text = client.call(tool, arguments).await.unwrap_err();
            assert!(text.contains(tool) && text.contains("inputSchema"), "{text}");
        }
        for (method, params, code) in [
            ("tools/call", json!({ "name": "no_such_tool", "arguments": {} }), -32602),
            ("tools/call", json!({ "name": "list_notes", "arguments": [] }), -32602),
            ("tools/call", json!({ "arguments": {} }), -32602),
            ("tools/list", json!({ "cursor": "2" }), -32602),
            ("resources/list", json!({}), -32601),
        ] {
            assert_eq!(client.ask(method, params).await["error"]["code"], code, "{revision} {method}");
        }
    }
}

#[tokio::test]
async fn broken_messages_are_answered_and_survived() {
    let mut client = Client::connected("2025-11-25").await;
    let too_long = format!("\"{}\"", "x".repeat(3 * 1024 * 1024));
    for (line, code, id) in [
        ("{", -32700, None),
        ("7", -32600, None),
        ("[]", -32600, None),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600, None),
        (r#"{"jsonrpc":"1.0","id":5,"method":"ping"}"#, -32600, Some(5)),
        (r#"{"jsonrpc":"2.0","id":5}"#, -32600, Some(5)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, None),
        (r#"{"jsonrpc":"2.0","id":5,"method":"ping","params":[]}"#, -32602, Some(5)),
        (&too_long, -32600, None),
    ] {
        client.send(line).await;
        let answer = client.receive().await;
        assert_eq!(answer["error"]["code"], code, "{line:.60}");
        assert_eq!(answer.get("id").and_then(Value::as_i64), id, "{line:.60}");
    }
    client.send("").await;
    client.send(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#).await;
    client.send(r#"{"jsonrpc":"2.0","method":"notifications/unknown"}"#).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}), "still there");
}

#[tokio::test]
async fn one_revision_takes_arrays() {
    let mut client = Client::connected("2025-03-26").await;
    let ping = |id: &str| json!({ "jsonrpc": "2.0", "id": id, "method": "ping" });
    let read =
        json!({ "jsonrpc": "2.0", "id": "r", "method": "tools/call", "params": { "name": "read_note", "arguments": { "name": "ideas" } } });
    client.send(json!([ping("a"), { "jsonrpc": "2.0", "method": "notifications/x" }, read, ping("b")])).await;
    let answers = client.receive().await;
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|answer| answer["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "r", "b"]);
}

#[tokio::test]
async fn progress_comes_before_the_answer_and_only_when_asked_for() {
    for revision in ["2024-11-05", "2025-11-25", MODERN] {
        let mut client = Client::connected(revision).await;
        let arguments = json!({ "steps": 3, "delay_ms": 0 });
        let params = json!({ "name": "index_notes", "arguments": arguments, "_meta": { "progressToken": "p" } });
        let id = client.begin("tools/call", params).await;
        for step in 1..=3 {
            let progress = client.receive().await;
            assert_eq!(progress["method"], "notifications/progress", "{revision}");
            let params = &progress["params"];
            assert_eq!((&params["progressToken"], &params["progress"], &params["total"]), (&json!("p"), &json!(step), &json!(3)));
            assert_eq!(params.get("message").is_some(), revision != "2024-11-05");
        }
        assert_eq!(client.receive().await["id"], id);
        assert!(client.call("index_notes", json!({ "steps": 3, "delay_ms": 0 })).await.unwrap().contains("3 steps"), "and nothing before");
    }
}

#[tokio::test]
async fn a_slow_call_holds_up_no_other() {
    let mut client = Client::connected(MODERN).await;
    for _ in 0..10 {
        client.begin_call("index_notes", endless()).await;
    }
    assert!(client.call("list_notes", json!({})).await.is_ok(), "answered while they run");
}

#[tokio::test]
async fn a_cancelled_call_ends_at_once_and_unanswered() {
    for revision in ["2024-11-05", MODERN] {
        let mut client = Client::connected(revision).await;
        let slow = client.begin_call("index_notes", endless()).await;
        client.call("list_notes", json!({})).await.unwrap();
        client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": slow } })).await;
        let (rest, ended) = client.finish().await;
        assert!(rest.is_empty() && ended.is_ok(), "{rest:?}");
    }
}

#[tokio::test]
async fn calls_under_way_are_bounded_and_have_ids_of_their_own() {
    let mut client = Client::connected(MODERN).await;
    let slow = client.begin_call("index_notes", endless()).await;
    client.next_id = slow - 1;
    assert_eq!(client.ask("tools/call", json!({ "name": "list_notes" })).await["error"]["code"], -32600);
    for _ in 1..64 {
        client.begin_call("index_notes", endless()).await;
    }
    assert_eq!(client.ask("tools/call", json!({ "name": "list_notes" })).await["error"]["code"], -32603);
}

#[tokio::test]
async fn the_end_of_input_lets_calls_end() {
    let mut client = Client::connected(MODERN).await;
    let soon = client.begin_call("index_notes", json!({ "steps": 2, "delay_ms": 20 })).await;
    // An id as text is another id, so this cancels nothing.
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": soon.to_string() } })).await;
    let (rest, ended) = client.finish().await;
    assert_eq!((ended.is_ok(), rest.len(), &rest[0]["id"]), (true, 1, &json!(soon)));
}

#[tokio::test]
async fn the_end_of_input_waits_for_no_call_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let options = Options { drain: Duration::ZERO, ..options_in(home.path()) };
    let mut client = Client::with(MODERN, home, options);
    client.begin_call("index_notes", endless()).await;
    let (rest, ended) = client.finish().await;
    assert!(rest.is_empty() && ended.is_ok());
}

#[tokio::test]
async fn two_servers_on_one_folder_lose_no_line() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_path_buf();
    let mut client = Client::at(MODERN, home);
    client.call("write_note", json!({ "name": "log", "text": "" })).await.unwrap();
    let mut second = Client::with(MODERN, tempfile::tempdir().unwrap(), options_in(&path));
    for number in 0..20 {
        client.begin_call("append_note", json!({ "name": "log", "text": format!("a{number}") })).await;
        second.begin_call("append_note", json!({ "name": "log", "text": format!("b{number}") })).await;
    }
    for _ in 0..20 {
        client.receive().await;
        second.receive().await;
    }
    assert_eq!(fs::read_to_string(path.join("notes/log.md")).unwrap().lines().count(), 40);
}
