//! A client that reads an event stream message by message, and answers what it is asked.

use serde_json::{Value, json};

use super::client::{Ask, Client, Open, Session, message};

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: Option<String>,
    pub data: String,
}

impl Event {
    /// Its message.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An event stream under way. Dropping it hangs up.
pub struct Stream {
    open: Open,
    text: String,
}

impl Stream {
    /// Sends, and expects a stream.
    pub async fn open(client: &Client, ask: &Ask) -> Self {
        let mut open = client.open(ask).await;
        let head = open.head().await;
        let kind = head.header("content-type").unwrap_or_default().to_owned();
        assert!(head.status == 200 && kind.starts_with("text/event-stream"), "no stream: {head:?}");
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "a proxy in front would hold the events back");
        Self { open, text: String::new() }
    }

    /// The next event that is no comment; `None` at the end.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let event = field("data: ").map(|data| Event { id: field("id: "), data });
                self.text = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let chunk = self.open.chunk().await?;
            self.text.push_str(&chunk);
        }
    }

    /// The next message; an event without data has none.
    pub async fn message(&mut self) -> Value {
        loop {
            let event = self.event().await.expect("the stream has ended");
            if !event.data.is_empty() {
                return event.json();
            }
        }
    }

    /// Waits for a message of this method.
    pub async fn told(&mut self, method: &str) -> Value {
        loop {
            let message = self.message().await;
            if message["method"] == method {
                return message;
            }
        }
    }

    /// The messages that are still to come.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(event) = self.event().await {
            if !event.data.is_empty() {
                rest.push(event.json());
            }
        }
        rest
    }
}

impl Client {
    /// Begins a session with these capabilities.
    pub async fn begin(&self, revision: &str, capabilities: Value) -> Session {
        let params = json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": { "name": "it", "version": "1" } });
        let answer = self.send(&Ask::post(message("initialize", &params).to_string())).await;
        let id = answer.header("mcp-session-id").unwrap_or_else(|| panic!("no session: {answer:?}")).to_owned();
        Session { client: self.clone(), id, revision: revision.to_owned() }
    }
}

impl Session {
    /// The GET of the session's stream.
    pub fn get(&self) -> Ask {
        let ask = Ask::bare("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", &self.id);
        ask.with("MCP-Protocol-Version", &self.revision)
    }

    /// Answers a question with this result.
    pub async fn answers(&self, question: &Value, result: Value) -> u16 {
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        self.client.send(&self.post(&answer)).await.status
    }
}
