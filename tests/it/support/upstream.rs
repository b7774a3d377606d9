//! A tool server in the test's own process, on HTTP and of 2026-07-28: it does what it is told, and writes down what it got.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::soon;

/// What it does with a call.
#[derive(Clone, Debug, Default)]
pub enum Does {
    /// Answers with its arguments as text.
    #[default]
    Echo,
    /// Answers with this result.
    Result(Value),
    /// Answers with a JSON-RPC error.
    Error(i64, &'static str),
    /// Answers with this result until the request brings answers or a state; then like `Echo`.
    Asks(Value),
    /// Answers with these bytes in place of a message.
    Says(&'static str),
    /// Answers with this text as the result, white space and all.
    Spells(String),
    /// Answers with this status, and nothing else.
    Status(u16),
    /// Never answers.
    Hangs,
    /// Answers once this is cancelled.
    Waits(CancellationToken),
    /// Tells of progress, and never answers.
    Progress,
    /// Sends these notifications, and answers once this is cancelled. The words TOKEN and ID become the request's progress token
    /// and its id.
    Tells(Vec<Value>, CancellationToken),
    /// Closes the connection in place of an answer.
    Disconnects,
    /// Does this with the next call, and from then on like `Echo`.
    Once(Box<Does>),
}

/// One HTTP request that it got.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: String,
    pub method: String,
}

impl Received {
    /// The message.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

struct Shared {
    tools: Mutex<Vec<Value>>,
    does: Mutex<HashMap<String, Does>>,
    /// The access token without which everything is 401.
    wants: Mutex<Option<String>>,
    journal: watch::Sender<Vec<Received>>,
    abandoned: watch::Sender<usize>,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// `echo` reads, `save` changes, `pay` cannot be undone, `typed` promises a count.
fn definitions() -> Vec<Value> {
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object", "properties": { "text": { "type": "string" } } } });
    let mut typed = tool("typed");
    typed["outputSchema"] = json!({ "type": "object", "required": ["count"], "properties": { "count": { "type": "integer" } } });
    let mut strict = tool("echo");
    strict["inputSchema"]["properties"]["amount"] = json!({ "type": "integer", "minimum": 0 });
    vec![strict, tool("save"), tool("pay"), typed]
}

impl Upstream {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    /// Starts it at an address that was free a moment ago.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Shared {
            tools: Mutex::new(definitions()),
            does: Mutex::default(),
            wants: Mutex::default(),
            journal: watch::Sender::new(Vec::new()),
            abandoned: watch::Sender::new(0),
        };
        let upstream = Self { shared: Arc::new(shared), address: listener.local_addr().unwrap() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let upstream = serving.clone();
                let service = service_fn(move |request| upstream.clone().answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        upstream
    }

    /// One that has a prompt, a resource, a template and completion too.
    pub async fn offering() -> Self {
        let upstream = Self::start().await;
        let list = |member: &str, items: Value| {
            Does::Result(json!({ member: items, "resultType": "complete", "ttlMs": 0, "cacheScope": "public" }))
        };
        let prompt = json!({ "name": "greet", "title": "Greeting", "arguments": [{ "name": "who", "required": true }, { "name": "how" }] });
        upstream.does("prompts/list", list("prompts", json!([prompt, { "name": "bare" }])));
        let resources = json!([{ "uri": "file:///notes/b", "name": "b" }, { "uri": "file:///notes/a", "name": "a" }, { "uri": "file:///keys/k", "name": "k" }]);
        upstream.does("resources/list", list("resources", resources));
        let templates =
            json!([{ "uriTemplate": "file:///notes/{name}", "name": "note" }, { "uriTemplate": "file:///keys/{name}", "name": "key" }]);
        upstream.does("resources/templates/list", list("resourceTemplates", templates));
        let said = json!({ "role": "user", "content": { "type": "resource", "resource": { "uri": "file:///notes/a", "text": "hi" } } });
        upstream.does("prompts/get", Does::Result(json!({ "messages": [said], "resultType": "complete" })));
        let read = json!({ "contents": [{ "uri": "file:///notes/a", "text": "hello" }], "resultType": "complete", "ttlMs": 70, "cacheScope": "public" });
        upstream.does("resources/read", Does::Result(read));
        let completion = json!({ "values": ["ada", "alan"], "total": 2 });
        upstream.does("completion/complete", Does::Result(json!({ "completion": completion, "resultType": "complete" })));
        upstream
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// What it does with calls of this tool from now on, or with requests of this method; it has the capabilities of those.
    pub fn does(&self, tool: &str, does: Does) {
        self.shared.does.lock().unwrap().insert(tool.to_owned(), does);
    }

    /// Takes no request without this access token from now on.
    pub fn wants(&self, token: &str) {
        *self.shared.wants.lock().unwrap() = Some(token.to_owned());
    }

    /// Its tools.
    pub fn tools(&self) -> Vec<Value> {
        self.shared.tools.lock().unwrap().clone()
    }

    /// Describes its tools otherwise from now on.
    pub fn redefine(&self, change: impl FnOnce(&mut Vec<Value>)) {
        change(&mut self.shared.tools.lock().unwrap());
    }

    /// The calls that it got.
    pub fn calls(&self) -> Vec<Received> {
        self.shared.journal.borrow().iter().filter(|received| received.method == "tools/call").cloned().collect()
    }

    /// The requests of one method that it got.
    pub fn asked(&self, method: &str) -> Vec<Value> {
        self.journal().iter().filter(|received| received.method == method).map(Received::json).collect()
    }

    /// Everything that it got.
    pub fn journal(&self) -> Vec<Received> {
        self.shared.journal.borrow().clone()
    }

    /// Waits until it got so many calls.
    pub async fn got(&self, calls: usize) -> Vec<Received> {
        let mut journal = self.shared.journal.subscribe();
        let enough = |all: &Vec<Received>| all.iter().filter(|received| received.method == "tools/call").count() >= calls;
        drop(soon("a call at the upstream", journal.wait_for(enough)).await.unwrap());
        self.calls()
    }

    /// Waits until so many of its answers are not wanted any more.
    pub async fn abandoned(&self, calls: usize) {
        let mut abandoned = self.shared.abandoned.subscribe();
        drop(soon("a hang-up", abandoned.wait_for(|count| *count >= calls)).await.unwrap());
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, std::io::Error> {
        let (parts, body) = request.into_parts();
        if parts.method == http::Method::GET && parts.uri.path().starts_with("/.well-known/") {
            return Ok(match self.shared.does.lock().unwrap().get(parts.uri.path()) {
                Some(Does::Result(document)) => json_response(document.clone()),
                _ => whole(StatusCode::NOT_FOUND, Bytes::new()),
            });
        }
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        let message: Value = serde_json::from_str(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let received = Received { headers: parts.headers, body, method: method.clone() };
        let wanted = self.shared.wants.lock().unwrap().as_ref().map(|token| format!("Bearer {token}"));
        let is_open = wanted.is_none_or(|wanted| received.headers.get("authorization").is_some_and(|shown| *shown == *wanted));
        self.shared.journal.send_modify(|journal| journal.push(received));
        if !is_open {
            return Ok(whole(StatusCode::UNAUTHORIZED, Bytes::new()));
        }
        let result = match method.as_str() {
            "server/discover" => json!({
                "supportedVersions": ["2026-07-28"], "capabilities": self.capabilities(), "resultType": "complete",
                "ttlMs": 0, "cacheScope": "private",
            }),
            "tools/list" => json!({ "tools": self.tools(), "resultType": "complete", "ttlMs": 0, "cacheScope": "private" }),
            "tools/call" => return self.call(&message).await,
            other if self.serves(other) => return self.act(other, &message).await,
            _ => return Ok(json_response(json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32601, "message": "no" } }))),
        };
        Ok(json_response(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })))
    }

    async fn call(self, message: &Value) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, std::io::Error> {
        let tool = message["params"]["name"].as_str().unwrap_or_default();
        self.act(tool, message).await
    }

    fn serves(&self, method: &str) -> bool {
        self.shared.does.lock().unwrap().contains_key(method)
    }

    fn capabilities(&self) -> Value {
        let mut has = json!({ "tools": {} });
        for (capability, method) in [
            ("prompts", "prompts/list"),
            ("resources", "resources/list"),
            ("completions", "completion/complete"),
            ("logging", "logging/setLevel"),
        ] {
            if self.serves(method) {
                has[capability] = if capability == "resources" { json!({ "subscribe": true }) } else { json!({}) };
            }
        }
        has
    }

    async fn act(self, name: &str, message: &Value) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, std::io::Error> {
        let mut does = self.shared.does.lock().unwrap().get(name).cloned().unwrap_or_default();
        if let Does::Once(first) = does {
            self.does(name, Does::Echo);
            does = *first;
        }
        let guard = Abandoned(Some(self.shared.abandoned.clone()));
        let reply = |body: Value| {
            let mut message = json!({ "jsonrpc": "2.0", "id": message["id"] });
            message.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            Ok(json_response(message))
        };
        let echo = || json!({ "result": text(&message["params"]["arguments"].to_string()) });
        let answer = match does {
            Does::Echo | Does::Once(_) => reply(echo()),
            Does::Result(result) => reply(json!({ "result": result })),
            Does::Asks(_) if ["inputResponses", "requestState"].iter().any(|member| message["params"].get(member).is_some()) => {
                reply(echo())
            }
            Does::Asks(result) => reply(json!({ "result": result })),
            Does::Error(code, words) => reply(json!({ "error": { "code": code, "message": words } })),
            Does::Says(bytes) => Ok(whole(StatusCode::OK, bytes.into())),
            Does::Spells(result) => {
                let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}", message["id"]);
                Ok(whole(StatusCode::OK, text.into()))
            }
            Does::Status(status) => Ok(whole(StatusCode::from_u16(status).unwrap(), Bytes::new())),
            Does::Hangs => std::future::pending().await,
            Does::Waits(until) => {
                until.cancelled().await;
                reply(echo())
            }
            Does::Progress => return Ok(progress(message, guard)),
            Does::Tells(notes, until) => {
                let mut answer = json!({ "jsonrpc": "2.0", "id": message["id"] });
                answer.as_object_mut().unwrap().extend(echo().as_object().unwrap().clone());
                return Ok(tells(message, notes, until, answer, guard));
            }
            Does::Disconnects => Err(std::io::Error::other("as told")),
        };
        guard.kept();
        answer
    }
}

/// Counts an answer whose reader left.
struct Abandoned(Option<watch::Sender<usize>>);

impl Abandoned {
    fn kept(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(count) = self.0.take() {
            count.send_modify(|count| *count += 1);
        }
    }
}

/// A result of one text.
pub fn text(words: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": words }], "resultType": "complete" })
}

fn json_response(message: Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    whole(StatusCode::OK, message.to_string().into())
}

fn whole(status: StatusCode, body: Bytes) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(UnsyncBoxBody::new(Full::new(body))).unwrap()
}

/// One progress notification, and then silence until the reader leaves.
fn progress(message: &Value, guard: Abandoned) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let token = message.pointer("/params/_meta/progressToken").cloned().unwrap_or_default();
    let params = json!({ "progressToken": token, "progress": 1, "total": 3 });
    let event = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
    let (send, receive) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let _ = send.send(format!("data: {event}\n\n").into()).await;
        send.closed().await;
        drop(guard);
    });
    Response::builder().header("content-type", "text/event-stream").body(UnsyncBoxBody::new(Frames(receive))).unwrap()
}

/// Notifications, and the answer once it is time.
fn tells(
    message: &Value,
    notes: Vec<Value>,
    until: CancellationToken,
    answer: Value,
    guard: Abandoned,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let token = message.pointer("/params/_meta/progressToken").cloned().unwrap_or_default().to_string();
    let id = message["id"].to_string();
    let (send, receive) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let note = |note: &Value| format!("data: {}\n\n", note.to_string().replace("\"TOKEN\"", &token).replace("\"ID\"", &id));
        if until.is_cancelled() {
            // All of it in one piece.
            let said: String = notes.iter().map(note).collect();
            let _ = send.send(format!("{said}data: {answer}\n\n").into()).await;
            return guard.kept();
        }
        for said in &notes {
            let _ = send.send(note(said).into()).await;
        }
        tokio::select! {
            () = until.cancelled() => {}
            () = send.closed() => return drop(guard),
        }
        let _ = send.send(format!("data: {answer}\n\n").into()).await;
        guard.kept();
    });
    Response::builder().header("content-type", "text/event-stream").body(UnsyncBoxBody::new(Frames(receive))).unwrap()
}

/// A body of what comes through the channel.
pub struct Frames(pub mpsc::Receiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
