//! A tool server on pipes that misbehaves on purpose: how is said by its arguments and by the tool that is called.
//!
//! `modern` and `legacy` choose the era; `silent` is legacy and drops what it does not know; `slow` is modern and answers
//! nothing before it has been asked twice; `fragile` is legacy and ends over an unknown method; `stubborn` is modern and
//! ignores SIGTERM and the end of its input; a `+` behind it says that there are prompts and resources too. A second argument
//! names more tools to list, and has each call answered as text, so that it can be told through a gateway; `park PORT` only waits, on a connection that ends with it.
//! With `FAULT` and `KEPT` in its environment, the tools `act` and `look` do what `faults` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is part of a test")]

use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::process::{Command, exit};

use serde_json::{Value, json};

#[path = "stdio_faults.rs"]
mod faults;

use faults::Fault;

fn main() {
    let fault = Fault::of_environment();
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode == "park" {
        let _connection = connect(&std::env::args().nth(2).unwrap_or_default());
        park();
    }
    let mut server =
        Server { mode: mode.clone(), seen: Vec::new(), held: Vec::new(), listens: Value::Null, changed: false, prompts: 1, ill: 0, fault };
    if mode == "stubborn" {
        ignore_sigterm();
    }
    eprintln!("ready \u{1b}[31mred");
    for line in std::io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line.expect("a line")) else { exit(3) };
        server.message(&message);
    }
    if mode == "stubborn" {
        park();
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

fn connect(port: &str) -> TcpStream {
    TcpStream::connect(format!("127.0.0.1:{port}")).expect("a listening test")
}

fn ignore_sigterm() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    std::mem::forget(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler"));
    std::mem::forget(runtime);
}

struct Server {
    mode: String,
    seen: Vec<String>,
    held: Vec<Value>,
    /// Id of the request to listen.
    listens: Value,
    changed: bool,
    /// Number of the one prompt.
    prompts: u32,
    /// Calls that `ill` has left without an answer.
    ill: u32,
    /// What `act` and `look` do.
    fault: Option<Fault>,
}

impl Server {
    fn modern(&self) -> bool {
        ["modern", "modern+", "slow", "stubborn"].contains(&self.mode.as_str())
    }

    fn message(&mut self, message: &Value) {
        let (id, method) = (&message["id"], message["method"].as_str().unwrap_or("answer"));
        self.seen.push(method.to_owned());
        match method {
            "server/discover" if self.mode == "slow" => self.held.push(id.clone()),
            "server/discover" if self.modern() => discovered(id, &self.capabilities()),
            "server/discover" if self.mode == "silent" => {}
            "server/discover" if self.mode == "fragile" => exit(4),
            "initialize" if self.mode == "slow" => {
                self.held.drain(..).for_each(|id| discovered(&id, &json!({"tools": {"listChanged": true}})));
                say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}));
            }
            "initialize" if !self.modern() => result(
                id,
                &json!({"protocolVersion": "2025-06-18",
                "capabilities": self.capabilities(), "serverInfo": {"name": "stdio", "version": "1"}}),
            ),
            "prompts/list" => result(id, &json!({"prompts": [{"name": format!("p{}", self.prompts)}]})),
            "logging/setLevel" => result(id, &json!({})),
            "resources/list" => result(id, &json!({"resources": [{"uri": "a:b", "name": "b"}]})),
            "resources/subscribe" | "resources/unsubscribe" => {
                result(id, &json!({}));
                updated("a:not-watched");
                updated(message["params"]["uri"].as_str().unwrap_or_default());
            }
            "tools/list" => self.list(id),
            "tools/call" => match self.fault.as_ref().filter(|_| ["act", "look"].iter().any(|tool| message["params"]["name"] == *tool)) {
                Some(fault) => fault.call(id, &message["params"]),
                None => self.call(id, &message["params"]),
            },
            "notifications/cancelled" => self.cancelled(&message["params"]["requestId"]),
            "subscriptions/listen" => {
                self.listens = id.clone();
                let uris = &message["params"]["notifications"]["resourceSubscriptions"];
                uris.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(updated);
            }
            "answer" => self.answered(message),
            method if method.starts_with("notifications/") => {}
            _ => say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})),
        }
    }

    fn capabilities(&self) -> Value {
        let tools = json!({"listChanged": true});
        match self.mode.ends_with('+') {
            true => json!({"tools": tools, "logging": {}, "prompts": {"listChanged": true}, "resources": {"subscribe": true}}),
            false => json!({"tools": tools}),
        }
    }

    fn list(&self, id: &Value) {
        let mut tools = vec![json!({"name": "echo", "inputSchema": {"type": "object"}})];
        let more = std::env::args().nth(2).unwrap_or_default();
        for name in more.split(',').filter(|name| !name.is_empty()) {
            let mut tool = json!({"name": name, "inputSchema": {"type": "object"}});
            if ["act", "look"].contains(&name) {
                tool["outputSchema"] = json!({"type": "object", "properties": {"n": {"type": "string"}}});
            }
            tools.push(tool);
        }
        if self.changed {
            tools.push(json!({"name": "new", "inputSchema": {"type": "object"}}));
        }
        result(id, &json!({"tools": tools}));
    }

    fn call(&mut self, id: &Value, params: &Value) {
        match params["name"].as_str().unwrap_or_default() {
            "die" => exit(5),
            "die_answering" => {
                said(id, &json!({"said": "last words"}));
                exit(0)
            }
            "long_line" => say(&json!("x".repeat(200_000))),
            "junk" => {
                println!("Welcome!\n\n{{\"half\":\n[1,2]\n\u{1b}[2J");
                said(id, &json!({"said": "after junk"}));
            }
            "unreadable" => unreadable(id, params["arguments"]["how"].as_str().unwrap_or_default()),
            "never" => self.held.push(id.clone()),
            "ill" if self.ill < 5 => self.ill += 1,
            "wrong_id" => said(&json!(900_001), &json!({})),
            "twice" => (0..2).for_each(|_| said(id, &json!({}))),
            "progress" => {
                let token = &params["_meta"]["progressToken"];
                progress(token, 1);
                said(id, &json!({"token_is_id": token == id}));
            }
            "ask" => {
                self.held.push(id.clone());
                say(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
                say(&json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {}}));
            }
            "change" => {
                self.changed = true;
                say(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
                said(id, &json!({}));
            }
            "change_prompts" => {
                self.prompts += 1;
                say(&json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}));
                said(id, &json!({}));
            }
            "progressing" => progressing(params["_meta"]["progressToken"].clone()),
            "log" => log(id, params),
            "hang_up" => {
                let params = json!({"requestId": self.listens});
                say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}));
                result(&self.listens, &json!({"resultType": "complete"}));
                said(id, &json!({}));
            }
            "late_progress" => {
                said(id, &json!({}));
                (1..4).for_each(|done| progress(&params["_meta"]["progressToken"], done));
            }
            "flood" => flood(id),
            "babble" => {
                (0..20_000).for_each(|_| write(b"{\"not\": \"mcp\"}"));
                said(id, &json!({}));
            }
            "huge" => say(&json!({"jsonrpc": "2.0", "id": id, "result": {"text": "x".repeat(50_000_000)}})),
            "seen" => said(id, &json!(self.seen)),
            "environment" => said(id, &json!(std::env::vars().map(|(name, _)| name).collect::<Vec<_>>())),
            "grandchild" => {
                let port = params["arguments"]["port"].to_string();
                std::mem::forget(connect(&port));
                std::mem::forget(Command::new(std::env::current_exe().expect("a path")).args(["park", &port]).spawn().expect("a child"));
                said(id, &json!({}));
            }
            "deaf" => {
                said(id, &json!({}));
                park()
            }
            _ => said(id, params),
        }
    }

    fn cancelled(&mut self, id: &Value) {
        // Late, as if the cancellation had crossed the answer.
        if self.held.contains(id) {
            said(id, &json!({"said": "too late"}));
        }
    }

    fn answered(&mut self, message: &Value) {
        if message["id"] == "s" {
            let asked = self.held.pop().unwrap_or_default();
            said(&asked, &json!({"refused_with": message["error"]["code"]}));
        } else if message["result"] != json!({}) {
            exit(6);
        }
    }
}

/// Tells of progress for ever.
fn progressing(token: Value) {
    std::thread::spawn(move || {
        for done in 1.. {
            progress(&token, done);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
}

fn log(id: &Value, params: &Value) {
    for level in ["debug", "error"] {
        say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": level, "data": "x"}}));
    }
    said(id, &json!({"logLevel": params["_meta"]["io.modelcontextprotocol/logLevel"]}));
}

fn flood(id: &Value) {
    for _ in 0..3_000 {
        say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}));
        say(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
        updated("a:b");
    }
    said(id, &json!({}));
}

fn progress(token: &Value, done: u32) {
    say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": done}}));
}

fn updated(uri: &str) {
    say(&json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}));
}

fn discovered(id: &Value, capabilities: &Value) {
    result(
        id,
        &json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
        "instructions": "be kind", "ttlMs": 0, "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "stdio", "version": "1"}}}),
    );
}

fn result(id: &Value, result: &Value) {
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
}

/// The answer to a call.
fn said(id: &Value, value: &Value) {
    match std::env::args().nth(2) {
        Some(_) => result(id, &json!({"content": [{"type": "text", "text": value.to_string()}]})),
        None => result(id, value),
    }
}

/// An answer that a strict reader refuses before it comes to the result.
fn unreadable(id: &Value, how: &str) {
    let line = match how {
        "doubled" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"more":{{"a":1,"a":2}}}}"#).into_bytes(),
        "deep" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}{}}}"#, "[".repeat(1000), "]".repeat(1000)).into_bytes(),
        "cut off" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"text":"one"#).into_bytes(),
        "without result" => format!(r#"{{"jsonrpc":"2.0","id":{id}}}"#).into_bytes(),
        _ => [format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"more":""#).as_bytes(), b"\xff\"}"].concat(),
    };
    write(&line);
}

fn say(message: &Value) {
    write(message.to_string().as_bytes());
}

fn write(line: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}
