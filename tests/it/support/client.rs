//! An MCP client on raw HTTP: it can say anything, in any order, and stop in the middle.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::soon;

/// The stateless revision.
pub const MODERN: &str = "2026-07-28";

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One HTTP request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub verb: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Ask {
    /// A POST of these bytes, with the headers that every POST has.
    pub fn post(body: impl Into<Vec<u8>>) -> Self {
        let plain = Self { verb: "POST".to_owned(), path: "/mcp".to_owned(), headers: Vec::new(), body: body.into() };
        plain.with("Content-Type", "application/json").with("Accept", "application/json, text/event-stream")
    }

    /// A request without a body.
    pub fn bare(verb: &str) -> Self {
        Self { verb: verb.to_owned(), path: "/mcp".to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// A request of 2026-07-28 with everything that one has to have.
    pub fn modern(method: &str, mut params: Value) -> Self {
        let meta = params.as_object_mut().unwrap().entry("_meta").or_insert_with(|| json!({}));
        meta["io.modelcontextprotocol/protocolVersion"] = MODERN.into();
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let message = message(method, &params);
        let ask = Self::post(message.to_string()).with("MCP-Protocol-Version", MODERN).with("Mcp-Method", method);
        match params.get("name").or(params.get("uri")).and_then(Value::as_str) {
            Some(name) => ask.with("Mcp-Name", name),
            None => ask,
        }
    }

    /// A modern `tools/call`.
    pub fn call(tool: &str, arguments: Value) -> Self {
        Self::modern("tools/call", json!({ "name": tool, "arguments": arguments }))
    }

    /// A modern `tools/call` whose arguments are this text, byte for byte.
    pub fn call_with_text(tool: &str, arguments: &str) -> Self {
        let ask = Self::call(tool, json!("ARGUMENTS"));
        let body = String::from_utf8(ask.body.clone()).unwrap().replace("\"ARGUMENTS\"", arguments);
        ask.body(body)
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// With another value of a header.
    pub fn having(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// With another body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With a part of the body replaced.
    pub fn saying(self, from: &str, to: &str) -> Self {
        let body = String::from_utf8(self.body.clone()).unwrap();
        assert!(body.contains(from), "{body} lacks {from}");
        self.body(body.replace(from, to))
    }

    /// The id of the message.
    pub fn id(&self) -> Value {
        serde_json::from_slice::<Value>(&self.body).unwrap()["id"].clone()
    }

    fn bytes(&self) -> Vec<u8> {
        self.on_wire(true)
    }

    /// What is sent; `is_last` on its connection, or not.
    pub fn on_wire(&self, is_last: bool) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.verb, self.path);
        let has = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !has("host") {
            head += "Host: localhost\r\n";
        }
        if !has("content-length") && self.verb == "POST" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        self.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let end: &[u8] = if is_last { b"Connection: close\r\n\r\n" } else { b"\r\n" };
        [head.as_bytes(), end, &self.body].concat()
    }
}

/// A JSON-RPC request with an id of its own.
pub fn message(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": NEXT_ID.fetch_add(1, Ordering::Relaxed), "method": method, "params": params })
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body's text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON-RPC message, whether it came alone or at the end of a stream.
    pub fn json(&self) -> Value {
        let text = self.text();
        let stream = self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let text = if stream { text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap_or("") } else { &text };
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {} {text:?}", self.status))
    }

    /// The result object.
    pub fn result(&self) -> Value {
        let json = self.json();
        json.get("result").unwrap_or_else(|| panic!("no result: {json}")).clone()
    }

    /// The body of a refusal or failure, wherever it stands.
    pub fn error(&self) -> Value {
        let json = self.json();
        let body = json.pointer("/error/data").or_else(|| json.pointer("/result/_meta/dev.doorward~1error"));
        body.unwrap_or_else(|| panic!("no error: {json}")).clone()
    }

    /// The code of a refusal or failure; `ok` or `tool_error` for a result.
    pub fn code(&self) -> String {
        let json = self.json();
        match json.get("result").filter(|result| result.pointer("/_meta/dev.doorward~1error").is_none()) {
            Some(result) if result["isError"] == true => "tool_error".to_owned(),
            Some(_) => "ok".to_owned(),
            None => self.error()["code"].as_str().unwrap().to_owned(),
        }
    }

    /// `code effect` of a failure.
    pub fn told(&self) -> String {
        format!("{} {}", self.code(), self.error()["effect"].as_str().unwrap())
    }

    /// The HTTP status, the JSON-RPC number and the code.
    pub fn wire(&self) -> (u16, i64, String) {
        (self.status, self.json()["error"]["code"].as_i64().unwrap_or(0), self.code())
    }
}

/// Somebody at an address, with or without a key.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    key: Option<String>,
}

impl Client {
    /// With a key, or without.
    pub fn new(address: SocketAddr, key: Option<String>) -> Self {
        Self { address, key }
    }

    /// Where it connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same request with the client's key, if it has one and the request has none.
    pub fn signed(&self, ask: &Ask) -> Ask {
        match &self.key {
            Some(key) if !ask.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) => {
                ask.clone().with("Authorization", &format!("Bearer {key}"))
            }
            _ => ask.clone(),
        }
    }

    /// Sends and does not wait.
    pub async fn open(&self, ask: &Ask) -> Open {
        let socket = soon("a connection", TcpStream::connect(self.address)).await.unwrap();
        self.open_on(socket, ask).await
    }

    /// Sends on a connection that is there.
    pub async fn open_on(&self, socket: impl Socket + 'static, ask: &Ask) -> Open {
        let mut socket: Pin<Box<dyn Socket>> = Box::pin(socket);
        // A gateway that answers before it has read everything may have closed its side.
        let _ = socket.write_all(&self.signed(ask).bytes()).await;
        let _ = socket.flush().await;
        Open { socket: BufReader::new(socket) }
    }

    /// Says these bytes on a connection of its own, and nothing else.
    pub async fn say(&self, text: &str) -> Open {
        let mut socket = soon("a connection", TcpStream::connect(self.address)).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        Open { socket: BufReader::new(Box::pin(socket)) }
    }

    /// Says these bytes on a connection that is there, and nothing else.
    pub async fn say_on(&self, socket: impl Socket + 'static, text: &str) -> Open {
        let mut socket: Pin<Box<dyn Socket>> = Box::pin(socket);
        let _ = socket.write_all(text.as_bytes()).await;
        Open { socket: BufReader::new(socket) }
    }

    /// Sends on a connection of its own, if there is anybody to connect to.
    pub async fn try_open(&self, ask: &Ask) -> std::io::Result<TcpStream> {
        let mut socket = TcpStream::connect(self.address).await?;
        socket.write_all(&self.signed(ask).bytes()).await?;
        Ok(socket)
    }

    /// Sends, and waits for the whole answer.
    pub async fn send(&self, ask: &Ask) -> Answer {
        self.open(ask).await.answer().await
    }

    /// A modern `tools/call`.
    pub async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.send(&Ask::call(tool, arguments)).await
    }

    /// The names that `tools/list` gives.
    pub async fn tools(&self) -> Vec<String> {
        let list = self.send(&Ask::modern("tools/list", json!({}))).await.result();
        list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Begins a session by asking for this revision.
    pub async fn initialize(&self, revision: &str) -> Session {
        let client = json!({ "name": "it", "version": "1" });
        let params = json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": client });
        let answer = self.send(&Ask::post(message("initialize", &params).to_string())).await;
        let id = answer.header("mcp-session-id").unwrap_or_else(|| panic!("no session: {answer:?}")).to_owned();
        let revision = answer.result()["protocolVersion"].as_str().unwrap().to_owned();
        Session { client: self.clone(), id, revision }
    }
}

/// A session of a handshake revision.
#[derive(Clone, Debug)]
pub struct Session {
    pub client: Client,
    pub id: String,
    pub revision: String,
}

impl Session {
    /// A request in this session.
    pub fn ask(&self, method: &str, params: &Value) -> Ask {
        self.post(&message(method, params))
    }

    /// Any message in this session.
    pub fn post(&self, message: &Value) -> Ask {
        Ask::post(message.to_string()).with("Mcp-Session-Id", &self.id).with("MCP-Protocol-Version", &self.revision)
    }

    /// Sends a request, and waits.
    pub async fn send(&self, method: &str, params: &Value) -> Answer {
        self.client.send(&self.ask(method, params)).await
    }

    /// A `tools/call` in this session.
    pub fn call(&self, tool: &str, arguments: &Value) -> Ask {
        self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }
}

/// A connection's two directions.
pub trait Socket: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Socket for T {}

/// A request under way. Dropping it hangs up.
pub struct Open {
    socket: BufReader<Pin<Box<dyn Socket>>>,
}

impl Open {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon("a line of the answer", self.socket.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The status and the headers.
    pub async fn head(&mut self) -> Answer {
        let status = self.line().await;
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {status:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: Vec::new() }
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub async fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        soon("a chunk", self.socket.read_exact(&mut chunk)).await.unwrap();
        (size > 0).then(|| String::from_utf8_lossy(&chunk[..size]).into_owned())
    }

    /// At most so many of the next bytes; how many there were.
    pub async fn some(&mut self, most: usize) -> usize {
        soon("some bytes", self.socket.read(&mut vec![0; most])).await.unwrap()
    }

    /// All bytes until the other side closes.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = soon("the end", self.socket.read_to_end(&mut rest)).await;
        rest
    }

    /// Says more.
    pub async fn say(&mut self, text: &[u8]) {
        let _ = self.socket.write_all(text).await;
        let _ = self.socket.flush().await;
    }

    /// Everything.
    pub async fn answer(mut self) -> Answer {
        self.next().await
    }

    /// The next answer of the connection.
    pub async fn next(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend_from_slice(chunk.as_bytes());
            }
        } else {
            let mut body = vec![0; answer.header("content-length").map_or(0, |length| length.parse().unwrap())];
            soon("the body", self.socket.read_exact(&mut body)).await.unwrap();
            answer.body = body;
        }
        answer
    }
}
