//! One client's requests and the check of every answer.
//!
//! A request is a template whose number is written anew for each call. The first answer is parsed and checked in full; a later
//! one that equals it, its own number put in, is right too, and any other is parsed. So a check of 59 KB costs a comparison.
//! INVARIANT: no answer counts unless its status, id and content are what was asked for.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Era, Result,
    tools::{ECHO, ECHO_LARGE, ECHO_STREAM},
    wire::Frame,
};

/// Where a client connects, and as whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Always loopback; the path is `/mcp`.
    pub address: SocketAddr,
    /// Bearer key, for a gateway that wants one.
    pub key: Option<String>,
    /// What the peer puts before the upstream's tool names.
    pub prefix: String,
}

/// What a client asks, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Ask {
    /// `tools/call`, a few bytes each way.
    Echo,
    /// `tools/call` with a result of 16 KiB.
    Large,
    /// `tools/call` that the upstream answers with an event stream.
    Stream,
    /// `tools/list`.
    List,
}

/// A numbered request, written again and again, and what its answer must be.
pub struct Exchange {
    ask: Ask,
    tools: usize,
    number: u64,
    request: Numbered,
    right: Option<Numbered>,
}

impl Exchange {
    /// Prepares the requests of one connection, numbered from `first` on, to a peer with that many tools.
    pub fn new(peer: &Peer, era: Era, ask: Ask, session: Option<&str>, tools: usize, first: u64) -> Exchange {
        let (method, mut params) = match tool(ask) {
            Some(tool) => {
                let arguments = json!({ "text": text(first) });
                ("tools/call", json!({ "name": format!("{}{tool}", peer.prefix), "arguments": arguments }))
            }
            None => ("tools/list", json!({})),
        };
        let mut fields = String::new();
        if era == Era::Modern {
            fields = format!("Mcp-Method: {method}\r\n");
            if let Some(name) = params["name"].as_str() {
                fields += &format!("Mcp-Name: {name}\r\n");
            }
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": era.version(), "io.modelcontextprotocol/clientCapabilities": {}
            });
        }
        let body = json!({ "jsonrpc": "2.0", "id": first, "method": method, "params": params });
        let request = Numbered::new(post(peer, era, session, &fields, &body), first);
        Exchange { ask, tools, number: first - 1, request, right: None }
    }

    /// The next request.
    pub fn request(&mut self) -> &[u8] {
        self.number += 1;
        self.request.renumber(self.number);
        &self.request.bytes
    }

    /// Fails unless this is the right answer to the last request.
    pub fn check(&mut self, answer: &Frame<'_>) -> Result<()> {
        if !answer.line().starts_with(b"HTTP/1.1 200 ") {
            return Err(shown("an HTTP error", answer).into());
        }
        let message = answer.message()?;
        if let Some(right) = self.right.as_mut().filter(|right| right.bytes.len() == message.len()) {
            right.renumber(self.number);
            if right.bytes == message {
                return Ok(());
            }
        }
        let parsed: Value = serde_json::from_slice(message)?;
        self.fault(&parsed).map_or(Ok(()), |fault| Err(shown(fault, answer)))?;
        self.right = Some(Numbered::new(message.to_vec(), self.number));
        Ok(())
    }

    fn fault(&self, message: &Value) -> Option<&'static str> {
        let result = &message["result"];
        let text = text(self.number);
        match self.ask {
            _ if message["id"] != self.number => Some("another id"),
            _ if !message["error"].is_null() || result["isError"] == true => Some("an error"),
            Ask::List if result["tools"].as_array().is_none_or(|tools| tools.len() != self.tools) => Some("another number of tools"),
            Ask::List => None,
            _ => {
                let said = result["content"][0]["text"].as_str().unwrap_or_default();
                let whole = if self.ask == Ask::Large { said.starts_with(&text) && said.len() > 16_000 } else { said == text };
                (!whole).then_some("another text")
            }
        }
    }
}

/// The handshake of the legacy era: `initialize`, to which the answer names the session.
pub fn initialize(peer: &Peer) -> Vec<u8> {
    let params = json!({
        "protocolVersion": Era::Legacy.version(), "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" }
    });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    post(peer, Era::Legacy, None, "", &body)
}

/// Its end, which is answered with 202.
pub fn initialized(peer: &Peer, session: Option<&str>) -> Vec<u8> {
    post(peer, Era::Legacy, session, "", &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
}

/// A session's stream, which stays open.
pub fn stream(peer: &Peer, session: &str) -> Vec<u8> {
    request("GET", peer, Era::Legacy, Some(session), "", "")
}

/// The end of a session.
pub fn delete(peer: &Peer, session: &str) -> Vec<u8> {
    request("DELETE", peer, Era::Legacy, Some(session), "", "")
}

/// An answer that was not the right one, cut to a readable length.
pub fn shown(fault: &str, answer: &Frame<'_>) -> String {
    let bytes = [answer.head, b"\n", &answer.body].concat();
    format!("wrong answer: {fault}:\n{}", String::from_utf8_lossy(&bytes[..bytes.len().min(1500)]))
}

fn tool(ask: Ask) -> Option<&'static str> {
    match ask {
        Ask::Echo => Some(ECHO),
        Ask::Large => Some(ECHO_LARGE),
        Ask::Stream => Some(ECHO_STREAM),
        Ask::List => None,
    }
}

fn text(number: u64) -> String {
    format!("call {number}")
}

fn post(peer: &Peer, era: Era, session: Option<&str>, fields: &str, body: &Value) -> Vec<u8> {
    let fields = format!("Content-Type: application/json\r\n{fields}");
    request("POST", peer, era, session, &fields, &body.to_string())
}

fn request(method: &str, peer: &Peer, era: Era, session: Option<&str>, fields: &str, body: &str) -> Vec<u8> {
    let mut head = format!("{method} /mcp HTTP/1.1\r\nHost: {}\r\nAccept: application/json, text/event-stream\r\n", peer.address);
    head += &format!("MCP-Protocol-Version: {}\r\n{fields}", era.version());
    if let Some(key) = &peer.key {
        head += &format!("Authorization: Bearer {key}\r\n");
    }
    if let Some(session) = session {
        head += &format!("Mcp-Session-Id: {session}\r\n");
    }
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Bytes in which one number stands at known places. All numbers of a run have ten digits.
struct Numbered {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Numbered {
    fn new(bytes: Vec<u8>, number: u64) -> Numbered {
        let digits = number.to_string();
        let places = bytes.windows(digits.len()).enumerate().filter(|(_, window)| *window == digits.as_bytes());
        Numbered { places: places.map(|(place, _)| place).collect(), bytes }
    }

    fn renumber(&mut self, number: u64) {
        let digits = number.to_string();
        for place in &self.places {
            self.bytes[*place..place + digits.len()].copy_from_slice(digits.as_bytes());
        }
    }
}
