//! An HTTP tool server in this process whose every answer is scripted by the test.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Interval, interval};

use super::{Seen, echo_list};

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub http: Method,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Asked {
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
    /// The answer with that result.
    pub fn result(&self, result: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result})
    }
    /// The answer with that error.
    pub fn error(&self, code: i64, data: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "error": {"code": code, "message": "no", "data": data}})
    }
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The connection breaks.
    Broken,
    /// It never does.
    Open,
    /// It is whole, and each chunk lets wait for a moment.
    Slow,
    /// The last chunk comes again and again, a moment apart.
    Endless,
}

/// The moment.
pub const MOMENT: Duration = Duration::from_millis(10);

/// What the server does.
pub enum Answer {
    /// The connection is closed without a word.
    Nothing,
    /// No answer ever comes.
    Silence,
    /// An answer.
    Http { status: u16, headers: Vec<(&'static str, String)>, chunks: Vec<String>, end: End },
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self::Http { status, headers: Vec::new(), chunks: Vec::new(), end: End::Whole }
    }
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self::Http { status, headers, chunks: vec![body.to_string()], end: End::Whole }
    }
    pub fn events(messages: &[Value], end: End) -> Self {
        let chunks = messages.iter().map(|message| format!(": keep\r\nevent: message\r\ndata: {message}\r\n\r\n")).collect();
        Self::Http { status: 200, headers: vec![("content-type", "text/event-stream; charset=utf-8".to_owned())], chunks, end }
    }
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub asked: Seen<Asked>,
    /// Gets a message each time that an open answer is given up by the client.
    pub closed: mpsc::Receiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::ending(script, |_| {}).await
    }

    /// One whose connections end by being reset, whichever way they do.
    pub async fn resetting(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::ending(script, |stream| stream.set_zero_linger().unwrap()).await
    }

    async fn ending(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static, prepare: fn(&TcpStream)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Seen::default());
        let (closing, closed) = mpsc::channel(64);
        let (script, seen): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                prepare(&stream);
                let (script, seen, closing) = (Arc::clone(&script), Arc::clone(&seen), closing.clone());
                let service = service_fn(move |request| answer(request, Arc::clone(&script), Arc::clone(&seen), closing.clone()));
                connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, asked, closed, task }
    }

    /// A modern server; `call` answers `tools/call`.
    pub async fn modern(call: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(move |asked| modern(asked).unwrap_or_else(|| call(asked))).await
    }

    /// A legacy server with a session for each `initialize`: `s1`, `s2`, …
    pub async fn legacy(call: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let sessions = Mutex::new(0);
        Self::start(move |asked| legacy(asked, &sessions).unwrap_or_else(|| call(asked))).await
    }

    pub fn transport(&self) -> Value {
        json!({"http": {"url": format!("http://{}/mcp", self.address)}})
    }

    pub fn calls(&self) -> Vec<Asked> {
        self.all("tools/call")
    }

    pub fn all(&self, method: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.method() == method).cloned().collect()
    }
}

/// What every modern server says; nothing for a call.
pub fn modern(asked: &Asked) -> Option<Answer> {
    match asked.method() {
        "server/discover" => Some(Answer::json(
            200,
            &asked.result(&json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"})),
        )),
        "tools/list" => Some(Answer::json(200, &asked.result(&echo_list()))),
        _ => None,
    }
}

/// What every legacy server says; nothing for a call.
pub fn legacy(asked: &Asked, sessions: &Mutex<u32>) -> Option<Answer> {
    if asked.http == Method::DELETE {
        return Some(Answer::status(200));
    }
    match asked.method() {
        "initialize" => {
            let mut number = sessions.lock().unwrap();
            *number += 1;
            let result =
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "old", "version": "1"}});
            Some(Answer::json(200, &asked.result(&result)).with("mcp-session-id", &format!("s{number}")))
        }
        "tools/list" => Some(Answer::json(200, &asked.result(&echo_list()))),
        "server/discover" => Some(Answer::status(400)),
        "tools/call" => None,
        _ => Some(Answer::status(202)),
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Script>,
    seen: Seen<Asked>,
    closing: mpsc::Sender<()>,
) -> Result<Response<Scripted>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let text = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    let asked = Asked { http: parts.method, headers: parts.headers, text, body };
    seen.lock().unwrap().push(asked.clone());
    match script(&asked) {
        Answer::Nothing => Err(std::io::Error::other("no answer, as scripted")),
        Answer::Silence => {
            let _closed = OnDrop(closing);
            std::future::pending::<Result<_, _>>().await
        }
        Answer::Http { status, headers, chunks, end } => {
            let closing = (end == End::Open).then_some(OnDrop(closing));
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let chunks = chunks.into_iter().map(Bytes::from).collect();
            let pace = matches!(end, End::Slow | End::Endless).then(|| interval(MOMENT));
            Ok(response.body(Scripted { chunks, end, pace, _closing: closing }).unwrap())
        }
    }
}

struct OnDrop(mpsc::Sender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

struct Scripted {
    chunks: VecDeque<Bytes>,
    end: End,
    pace: Option<Interval>,
    _closing: Option<OnDrop>,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(context));
        }
        match (self.chunks.pop_front(), self.end) {
            (Some(chunk), End::Endless) if self.chunks.is_empty() => {
                self.chunks.push_back(chunk.clone());
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            (Some(chunk), _) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            (None, End::Whole | End::Slow) => Poll::Ready(None),
            (None, End::Broken) => Poll::Ready(Some(Err(std::io::Error::other("broken, as scripted")))),
            (None, End::Open | End::Endless) => Poll::Pending,
        }
    }
}
