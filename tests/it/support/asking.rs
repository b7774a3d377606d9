//! A tool server that asks while it works, and an agent of 2026-07-28 that answers by sending its call again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::upstream::Frames;
use super::{Answer, Ask, Client, Does, Site, Upstream, until};

/// The tools of `asking_server`.
const TOOLS: [&str; 10] = ["ask", "pages", "stays", "twice", "both", "secret", "roots", "url", "echo", "slow"];

/// Their definitions.
pub fn definitions() -> [Value; 10] {
    TOOLS.map(|name| match name {
        "slow" => json!({ "name": name, "inputSchema": { "type": "object" }, "execution": { "taskSupport": "required" } }),
        name => json!({ "name": name, "inputSchema": { "type": "object" } }),
    })
}

/// The program of `asking_server`.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/asking_server");
    assert!(program.exists(), "{} is missing: run the tests without a target filter, or build the examples", program.display());
    program
}

/// A site in front of `asking_server` on pipes, which may ask for what `may_ask` lists; `defaults` are members of `defaults`.
pub fn site(may_ask: &str, defaults: &str) -> Site {
    site_of(may_ask, defaults, "")
}

/// The same with a word for the server.
pub fn site_of(may_ask: &str, defaults: &str, mode: &str) -> Site {
    let site = Site::empty();
    let transport = json!({ "stdio": { "command": program(), "args": [kept(&site), mode], "sandbox": { "write": ["work"] } } });
    in_front_of(site, &transport, may_ask, defaults)
}

/// The journal that a server of the site keeps, in a folder that it can be granted.
pub fn kept(site: &Site) -> PathBuf {
    std::fs::create_dir_all(site.path("work")).unwrap();
    site.path("work/journal")
}

/// A server whose first process is deaf after the handshake and one list, and does not end, so that only who writes finds out: `work/journal.deaf`
/// and `work/journal.left` say when. The next one begins with `then`, a line of shell.
pub fn deaf_at_first(site: &Site, then: &str) -> Value {
    let shell = r#"
        if ! mkdir "$1.first" 2>/dev/null; then THEN exec "$0" "$1"; fi
        exec 3<&0 0</dev/null
        { sed -u 4q <&3; exec 3<&-; : > "$1.deaf"; } | "$0" "$1" 3<&- &
        exec 3<&-
        : > "$1.left"
        wait
        exec sleep 600
    "#;
    let shell = shell.replace("THEN", then);
    json!({ "stdio": { "command": "/bin/sh", "args": ["-c", shell, program(), kept(site)], "sandbox": { "write": ["work"] } } })
}

/// Waits until the first process of such a server is deaf.
pub async fn is_deaf(site: &Site) {
    let is_there = |name: &str| site.path(name).exists();
    until("the end of the input", async || (is_there("work/journal.deaf") && is_there("work/journal.left")).then_some(())).await;
}

/// A site in front of a server with the tools of `asking_server`.
pub fn in_front_of(site: Site, transport: &Value, may_ask: &str, defaults: &str) -> Site {
    let tools: String = TOOLS.map(|tool| format!("  {tool}: {{ tier: reversible }}\n")).concat();
    let manifest = format!("transport: {transport}\nmay_ask: [{may_ask}]\ndefaults: {{ {defaults} }}\ntools:\n{tools}");
    let definitions = definitions();
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:other, up__*, reversible, -, allow\n";
    site.manifest("up", &manifest).pinned("up", &definitions).policy(rows)
}

/// A modern server that answers calls of `save` with this, and may ask for anything.
pub async fn relaying(result: Value) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Asks(result));
    let transport = json!({ "http": { "url": upstream.url() } });
    let manifest = format!("transport: {transport}\nmay_ask: [elicitation, sampling, roots]\ntools:\n  save: {{ tier: reversible }}\n");
    let site = Site::of(&upstream).manifest("up", &manifest);
    (upstream, site.policy("p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:other, up__*, reversible, -, allow\n"))
}

/// What the server got, after the number of its process.
pub fn journal(site: &Site) -> Vec<(u32, Value)> {
    let text = std::fs::read_to_string(kept(site)).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.split_once(' '));
    lines.map(|(process, message)| (process.parse().unwrap(), serde_json::from_str(message).unwrap())).collect()
}

/// Waits until the server got a message that is looked for.
pub async fn got(site: &Site, what: &str, look: impl Fn(&Value) -> bool) -> Value {
    until(what, async || journal(site).into_iter().map(|(_, message)| message).find(&look)).await
}

/// A call of a client that declares `capabilities`.
pub fn call(tool: &str, capabilities: &Value) -> Ask {
    sent(json!({ "name": format!("up__{tool}"), "arguments": {} }), capabilities)
}

fn sent(params: Value, capabilities: &Value) -> Ask {
    declaring(Ask::modern("tools/call", params), capabilities)
}

/// A request of a client that declares `capabilities`.
pub fn declaring(ask: Ask, capabilities: &Value) -> Ask {
    let none = "\"io.modelcontextprotocol/clientCapabilities\":{}";
    ask.saying(none, &format!("\"io.modelcontextprotocol/clientCapabilities\":{capabilities}"))
}

/// The same call with answers, and the state of `asked`.
pub fn again(tool: &str, capabilities: &Value, asked: &Value, responses: &Value) -> Ask {
    let mut params = json!({ "name": format!("up__{tool}"), "arguments": {}, "inputResponses": responses });
    if let Some(state) = asked.get("requestState") {
        params["requestState"] = state.clone();
    }
    sent(params, capabilities)
}

/// A person that accepts with this content.
pub fn accepts(content: &Value) -> Value {
    json!({ "action": "accept", "content": content })
}

/// Forms, and nothing else.
pub fn forms() -> Value {
    json!({ "elicitation": {} })
}

/// Calls, and gets the questions.
pub async fn asked(client: &Client, tool: &str, capabilities: &Value) -> Value {
    questions(&client.send(&call(tool, capabilities)).await)
}

/// The questions of an answer.
pub fn questions(answer: &Answer) -> Value {
    let result = answer.result();
    assert_eq!(result["resultType"], "input_required", "{result}");
    result
}

/// The text of a result.
pub fn said(answer: &Answer) -> String {
    let result = answer.result();
    assert_eq!(result["resultType"], "complete", "{result}");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// A legacy server on HTTP whose every call asks for a branch on its own stream, and says what was answered.
pub struct OverHttp {
    address: SocketAddr,
    /// The method, the session and the body of each request that it got.
    journal: Arc<Mutex<Vec<(String, String, Value)>>>,
    answers: Arc<Mutex<HashMap<String, mpsc::Sender<Bytes>>>>,
}

impl OverHttp {
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), journal: Arc::default(), answers: Arc::default() };
        let server = Arc::new(server);
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&server).take(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        server
    }

    pub fn transport(&self) -> Value {
        json!({ "http": { "url": format!("http://{}/mcp", self.address) } })
    }

    /// What it got of this method: session and message.
    pub fn got(&self, method: &str) -> Vec<(String, Value)> {
        let journal = self.journal.lock().unwrap();
        journal.iter().filter(|(_, _, body)| body["method"] == method).map(|(_, session, body)| (session.clone(), body.clone())).collect()
    }

    async fn take(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Frames>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let session = parts.headers.get("mcp-session-id").map_or("", |value| value.to_str().unwrap()).to_owned();
        let sessions = {
            let mut journal = self.journal.lock().unwrap();
            journal.push((parts.method.to_string(), session, message.clone()));
            journal.len()
        };
        let id = &message["id"];
        let reply = |result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result });
        let info = json!({ "name": "http", "version": "1" });
        let tools = json!({ "tools": definitions() });
        let greeting = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": info });
        let response = Response::builder().header("mcp-session-id", format!("s{sessions}"));
        let (send, events) = mpsc::channel(4);
        let (status, kind) = match message["method"].as_str() {
            Some("initialize") => (200, send_json(&send, &reply(greeting)).await),
            Some("tools/list") => (200, send_json(&send, &reply(tools)).await),
            Some("tools/call") => {
                let question = json!({ "message": "Which branch?", "requestedSchema": { "type": "object", "properties": { "branch": { "type": "string" } } } });
                let key = format!("ask:{id}");
                let asked = json!({ "jsonrpc": "2.0", "id": key, "method": "elicitation/create", "params": question });
                send.send(format!("data: {asked}\n\n").into()).await.unwrap();
                self.answers.lock().unwrap().insert(key, send.clone());
                (200, "text/event-stream")
            }
            Some("server/discover") => (400, "text/plain"),
            Some(_) => (202, "text/plain"),
            None => {
                let waiting = id.as_str().and_then(|key| self.answers.lock().unwrap().remove(key));
                if let (Some(waiting), Some(key)) = (waiting, id.as_str()) {
                    let call: Value = serde_json::from_str(key.strip_prefix("ask:").unwrap()).unwrap();
                    let text = json!({ "content": [{ "type": "text", "text": message["result"].to_string() }] });
                    let done = json!({ "jsonrpc": "2.0", "id": call, "result": text });
                    let _ = waiting.send(format!("data: {done}\n\n").into()).await;
                }
                (if parts.method == "POST" { 202 } else { 405 }, "text/plain")
            }
        };
        Ok(response.status(status).header("content-type", kind).body(Frames(events)).unwrap())
    }
}

async fn send_json(to: &mpsc::Sender<Bytes>, message: &Value) -> &'static str {
    to.send(message.to_string().into()).await.unwrap();
    "application/json"
}
