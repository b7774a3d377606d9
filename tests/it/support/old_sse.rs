//! A tool server on HTTP+SSE, the transport of 2024-11-05: `GET /sse` opens the stream, and messages are posted to what it names.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What it does over a message.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends this on the stream, as it is.
    Says(String),
    /// Sends this a byte at a time.
    Drips(String),
    /// Sends this again and again.
    Repeats(String),
    /// Ends the stream.
    Ends,
    /// Answers the POST with this status, whatever else it does.
    Status(u16),
    /// Never answers the POST.
    Hangs,
    /// Closes the connection of the POST.
    Closes,
}

/// What it does over a message, where that is not the usual.
type Script = dyn Fn(&Value) -> Option<Vec<Act>> + Send + Sync;

struct Shared {
    endpoint: String,
    tools: Vec<Value>,
    script: Box<Script>,
    /// The stream, while one is open.
    stream: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    seen: Mutex<Vec<String>>,
    calls: Mutex<Vec<Value>>,
}

/// The server. Its tools: `echo`; `die` ends the stream in place of an answer; `babble` says what is no message; `tell` says first that `a:b` has changed.
#[derive(Clone)]
pub struct OldServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl OldServer {
    /// Starts it on a free port. It names `/messages` as its endpoint.
    pub async fn start() -> Self {
        Self::naming("/messages?session=1").await
    }

    /// Starts it with another endpoint.
    pub async fn naming(endpoint: &str) -> Self {
        Self::with(endpoint, Self::tools(), Box::new(|_| None)).await
    }

    /// Starts it with other tools and a script.
    pub async fn acting(tools: Vec<Value>, script: impl Fn(&Value) -> Option<Vec<Act>> + Send + Sync + 'static) -> Self {
        Self::with("/messages?session=1", tools, Box::new(script)).await
    }

    async fn with(endpoint: &str, tools: Vec<Value>, script: Box<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (endpoint, stream, seen, calls) = (endpoint.to_owned(), Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Shared { endpoint, tools, script, stream, seen, calls };
        let server = Self { shared: Arc::new(shared), address: listener.local_addr().unwrap() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        server
    }

    /// Where its stream is.
    pub fn url(&self) -> String {
        format!("http://{}/sse", self.address)
    }

    /// The address of all of it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its one tool of which a definition is worth pinning, and two more.
    pub fn tools() -> Vec<Value> {
        ["echo", "die", "tell"].map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).to_vec()
    }

    /// Each request and message that it got: `GET /sse`, `POST /sse`, or a method.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The calls that it got.
    pub fn calls(&self) -> Vec<Value> {
        self.shared.calls.lock().unwrap().clone()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let (path, body) = (parts.uri.path().to_owned(), body.collect().await.map_err(std::io::Error::other)?.to_bytes());
        let note = |what: String| self.shared.seen.lock().unwrap().push(what);
        match (&parts.method, path.as_str()) {
            (&Method::GET, "/sse") => {
                note("GET /sse".to_owned());
                let (stream, receive) = mpsc::unbounded_channel();
                let _ = stream.send(format!("event: endpoint\ndata: {}\n\n", self.shared.endpoint).into());
                *self.shared.stream.lock().unwrap() = Some(stream);
                let response = Response::builder().header("content-type", "text/event-stream");
                Ok(response.body(UnsyncBoxBody::new(Frames(receive))).unwrap())
            }
            (&Method::POST, "/messages") => {
                let message: Value = serde_json::from_slice(&body).unwrap();
                note(message["method"].as_str().unwrap_or("answer").to_owned());
                if message["method"] == "tools/call" {
                    self.shared.calls.lock().unwrap().push(message.clone());
                }
                match (self.shared.script)(&message) {
                    Some(acts) => return self.act(acts).await,
                    None => self.message(&message),
                }
                Ok(status(202))
            }
            (method, path) => {
                note(format!("{method} {path}"));
                Ok(status(405))
            }
        }
    }

    async fn act(&self, acts: Vec<Act>) -> Result<Response<Body>, std::io::Error> {
        let mut code = 202;
        for act in acts {
            match act {
                Act::Says(text) => self.send(text),
                Act::Drips(text) => drop(tokio::spawn(self.clone().repeat(text.chars().map(String::from).collect(), false))),
                Act::Repeats(text) => drop(tokio::spawn(self.clone().repeat(vec![text], true))),
                Act::Ends => drop(self.shared.stream.lock().unwrap().take()),
                Act::Status(status) => code = status,
                Act::Hangs => std::future::pending().await,
                Act::Closes => return Err(std::io::Error::other("closed, as scripted")),
            }
        }
        Ok(status(code))
    }

    /// Sends these one after the other, a moment apart, as long as this stream is the one that is open.
    async fn repeat(self, texts: Vec<String>, for_ever: bool) {
        let stream = self.shared.stream.lock().unwrap().clone();
        let Some(stream) = stream.map(|stream| stream.downgrade()) else { return };
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(10));
        loop {
            for text in &texts {
                pace.tick().await;
                let Some(stream) = stream.upgrade() else { return };
                if stream.send(text.clone().into()).is_err() {
                    return;
                }
            }
            if !for_ever {
                return;
            }
        }
    }

    fn message(&self, message: &Value) {
        let result = match (message["method"].as_str().unwrap_or_default(), message["params"]["name"].as_str()) {
            ("initialize", _) => json!({
                "protocolVersion": "2024-11-05", "serverInfo": { "name": "old", "version": "1" },
                "capabilities": { "tools": {}, "resources": { "subscribe": true } },
            }),
            ("tools/list", _) => json!({ "tools": self.shared.tools }),
            ("resources/list", _) => json!({ "resources": [] }),
            ("resources/subscribe", _) => json!({}),
            ("tools/call", Some("die")) => return drop(self.shared.stream.lock().unwrap().take()),
            ("tools/call", Some("babble")) => return self.send("data: y\n\n".repeat(11_000)),
            ("tools/call", name) => {
                if name == Some("tell") {
                    self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "a:b" } }));
                }
                let arguments = &message["params"]["arguments"];
                if let Some(id) = arguments.get("answers") {
                    self.say(&json!({ "jsonrpc": "2.0", "id": id, "result": {} }));
                }
                json!({ "content": [{ "type": "text", "text": arguments.to_string() }] })
            }
            (method, _) if method.starts_with("notifications/") => return,
            _ => return self.say(&json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32601, "message": "no" } })),
        };
        self.say(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
    }

    fn say(&self, message: &Value) {
        self.send(format!(": alive\n\nevent: other\ndata: x\n\nevent: message\ndata: {message}\n\n"));
    }

    fn send(&self, events: String) {
        if let Some(stream) = &*self.shared.stream.lock().unwrap() {
            let _ = stream.send(events.into());
        }
    }
}

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(UnsyncBoxBody::new(Empty::new())).unwrap()
}

/// A body of what comes through the channel.
struct Frames(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
