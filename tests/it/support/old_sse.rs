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

struct Shared {
    endpoint: String,
    /// The stream, while one is open.
    stream: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    seen: Mutex<Vec<String>>,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared { endpoint: endpoint.to_owned(), stream: Mutex::default(), seen: Mutex::default() };
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

    /// Its one tool of which a definition is worth pinning, and two more.
    pub fn tools() -> Vec<Value> {
        ["echo", "die", "tell"].map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).to_vec()
    }

    /// Each request and message that it got: `GET /sse`, `POST /sse`, or a method.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let (path, body) = (parts.uri.path().to_owned(), body.collect().await?.to_bytes());
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
                self.message(&message);
                Ok(status(202))
            }
            (method, path) => {
                note(format!("{method} {path}"));
                Ok(status(405))
            }
        }
    }

    fn message(&self, message: &Value) {
        let result = match (message["method"].as_str().unwrap_or_default(), message["params"]["name"].as_str()) {
            ("initialize", _) => json!({
                "protocolVersion": "2024-11-05", "serverInfo": { "name": "old", "version": "1" },
                "capabilities": { "tools": {}, "resources": { "subscribe": true } },
            }),
            ("tools/list", _) => json!({ "tools": Self::tools() }),
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
