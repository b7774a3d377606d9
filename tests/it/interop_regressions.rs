//! What the clients and servers of others, and a stranger at a terminal, have found: one test for each.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_doorward");

/// A legacy server in a shell: answers `initialize` and `tools/list`, and what a case says to each call (line `$line`, id `$id`).
pub fn shell_server(tools: &str, on_call: &str) -> Vec<String> {
    let script = format!(
        r#"while read -r line; do
            id=$(printf '%s' "$line" | sed -n 's/^.*"id":\([0-9]*\),"method".*$/\1/p')
            case "$line" in
                *'"method":"initialize"'*) echo '{{"jsonrpc":"2.0","id":'$id',"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"s","version":"1"}}}}}}' ;;
                *'"method":"tools/list"'*) echo '{{"jsonrpc":"2.0","id":'$id',"result":{{"tools":{tools}}}}}' ;;
                *'"method":"tools/call"'*) {on_call} ;;
                *'"method":"server/discover"'*) echo '{{"jsonrpc":"2.0","id":'$id',"error":{{"code":-32601,"message":"no"}}}}' ;;
                *) {{ printf '%s\n' "$line"; }} >&2 ;;
            esac
        done"#
    );
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

const ONE_TOOL: &str = r#"[{"name":"one","inputSchema":{"type":"object"}},{"name":"two","inputSchema":{"type":"object"}}]"#;
const FINE: &str = r#"echo '{"jsonrpc":"2.0","id":'$id',"result":{"content":[{"type":"text","text":"fine"}]}}'"#;

/// `doorward wrap s` as a client has started it.
struct Wrap {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Wrap {
    fn start(state: &Path, options: &[&str], server: &[String]) -> Self {
        let mut command = Command::new(BIN);
        command.args(["wrap", "s", "--state"]).arg(state).args(options).arg("--").args(server);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        // What a list has become may be told in between.
        let answer = std::iter::repeat_with(|| self.receive()).find(|message| message.get("method").is_none()).unwrap();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    fn shake_hands(&mut self) {
        let client = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "it", "version": "1" } });
        assert_eq!(self.ask(1, "initialize", client)["result"]["protocolVersion"], "2025-11-25");
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }

    fn call(&mut self, id: u64, tool: &str) -> Value {
        self.ask(id, "tools/call", json!({ "name": tool, "arguments": {} }))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the end, closes the input where it is open, and answers the exit code with what was said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.process.stderr.take().unwrap(), &mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie is no more than an entry in a table.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[test]
fn a_tool_without_prefix_is_allowed_and_denied_by_its_target() {
    let state = TempDir::new().unwrap();
    let mut wrap = Wrap::start(state.path(), &["--prefix", "none", "--deny", "two", "--deny", "s__two"], &shell_server(ONE_TOOL, FINE));
    wrap.shake_hands();
    let listed = wrap.ask(2, "tools/list", json!({}));
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(wrap.call(3, "one")["result"]["content"][0]["text"], "fine");
    let denied = wrap.call(4, "two");
    assert_eq!(denied["result"]["_meta"]["dev.doorward/error"]["code"], "policy_denied", "{denied}");
    let (code, said) = wrap.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("denied by DENY1"), "{said}");
}

#[test]
fn sigterm_ends_it_with_its_server_though_its_input_stays_open_and_a_call_runs() {
    let state = TempDir::new().unwrap();
    let work = TempDir::new().unwrap();
    let pid_file = work.path().join("pid");
    // It ignores SIGTERM and the end of its input, and never answers a call.
    let mut server = shell_server(ONE_TOOL, ":");
    server[2] = format!("trap '' TERM; echo $$ > {}; {}; while :; do sleep 1; done", pid_file.display(), server[2]);
    let mut wrap = Wrap::start(state.path(), &["--write", work.path().to_str().unwrap()], &server);
    wrap.shake_hands();
    wrap.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "s__one", "arguments": {} } }));
    assert_eq!(wrap.ask(3, "ping", json!({}))["result"], json!({}));
    let before = Instant::now();
    wrap.signal(Signal::TERM);
    let answer = wrap.receive();
    assert_eq!(answer["id"], 2);
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let status = wrap.process.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(!is_alive(&std::fs::read_to_string(pid_file).unwrap()));
}

#[test]
fn a_cancelled_request_is_not_answered_and_the_server_hears_of_it() {
    let state = TempDir::new().unwrap();
    let on_call = format!("case \"$line\" in *'\"name\":\"two\"'*) {FINE} ;; esac");
    let mut wrap = Wrap::start(state.path(), &[], &shell_server(ONE_TOOL, &on_call));
    wrap.shake_hands();
    assert_eq!(wrap.call(2, "s__two")["result"]["content"][0]["text"], "fine");
    wrap.send(&json!({ "jsonrpc": "2.0", "id": "slow", "method": "tools/call", "params": { "name": "s__one", "arguments": {} } }));
    // The second answer shows that the first call is on its way: the server reads line by line.
    assert_eq!(wrap.call(3, "s__two")["id"], 3);
    wrap.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "slow" } }));
    assert_eq!(wrap.ask(4, "ping", json!({}))["result"], json!({}));
    assert_eq!(wrap.call(5, "s__two")["id"], 5);
    let (code, said) = wrap.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("notifications/cancelled"), "{said}");
}

#[test]
fn a_server_may_ping_in_the_middle_of_a_call() {
    let state = TempDir::new().unwrap();
    let on_call = format!(
        r#"echo '{{"jsonrpc":"2.0","id":"theirs","method":"ping"}}'; read -r pong; case "$pong" in *'"theirs","result":{{}}'*) {FINE} ;; esac"#
    );
    let mut wrap = Wrap::start(state.path(), &[], &shell_server(ONE_TOOL, &on_call));
    wrap.shake_hands();
    assert_eq!(wrap.call(2, "s__one")["result"]["content"][0]["text"], "fine");
    assert_eq!(wrap.end().0, Some(0));
}

#[test]
fn output_that_only_the_newest_revision_has_does_not_spoil_older_clients() {
    let state = TempDir::new().unwrap();
    let tools = r#"[{"name":"one","inputSchema":{"type":"object"},"outputSchema":{"type":"array"}}]"#;
    let on_call = r#"echo '{"jsonrpc":"2.0","id":'$id',"result":{"content":[{"type":"text","text":"[1]"}],"structuredContent":[1]}}'"#;
    let mut wrap = Wrap::start(state.path(), &[], &shell_server(tools, on_call));
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let listed = wrap.ask(1, "tools/list", json!({ "_meta": meta }));
    assert_eq!(listed["result"]["tools"][0]["outputSchema"]["type"], "array", "{listed}");
    let called = wrap.ask(2, "tools/call", json!({ "_meta": meta, "name": "s__one", "arguments": {} }));
    assert_eq!(called["result"]["structuredContent"], json!([1]), "{called}");
    wrap.shake_hands();
    let listed = wrap.ask(3, "tools/list", json!({}));
    assert_eq!(listed["result"]["tools"][0]["name"], "s__one");
    assert_eq!(listed["result"]["tools"][0].get("outputSchema"), None, "{listed}");
    let called = wrap.call(4, "s__one");
    assert_eq!(called["result"]["content"][0]["text"], "[1]");
    assert_eq!(called["result"].get("structuredContent"), None, "{called}");
}

#[test]
fn a_server_that_does_not_start_is_told_at_once_with_its_own_words() {
    let state = TempDir::new().unwrap();
    let before = Instant::now();
    let server = ["sh", "-c", "echo cannot open the database >&2; exit 3"].map(str::to_owned);
    let (code, said) = Wrap::start(state.path(), &[], &server).end();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("cannot open the database"), "{said}");
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
}

#[test]
fn flags_of_wrap_are_refused_as_flags() {
    let state = TempDir::new().unwrap();
    for (options, told) in
        [(["--rate", "5"], "5/s"), (["--deny", "s__on"], "did you mean `one`"), (["--listen", "0.0.0.0:1"], "doorward serve")]
    {
        let (code, said) = Wrap::start(state.path(), &options, &shell_server(ONE_TOOL, FINE)).end();
        assert_eq!(code, Some(2), "{options:?}: {said}");
        assert!(said.contains(told), "{options:?}: {said}");
    }
}
