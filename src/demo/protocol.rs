//! The wire forms of both eras: which one a request is of, and what an answer looks like in it.
//!
//! Owns: envelopes, revisions, error codes. Leaves to others: the order of things (`session`), and what the tools say (`call`).
//!
//! INVARIANT: the era is that of the request, never of the process: both may be mixed on one pipe (2026-07-28, transports, stdio).

use serde_json::{Map, Value, json};

/// The revision without handshake.
pub(super) const MODERN: &str = "2026-07-28";
/// The revisions with one, oldest first. As texts they sort by age, which the comparisons below rely on.
pub(super) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The only revision whose messages may come as an array.
pub(super) const WITH_BATCHES: &str = LEGACY[1];

const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";
const INSTRUCTIONS: &str =
    "A folder of notes. Call list_notes first; names are case-sensitive. share_note and delete_note cannot be undone.";
// The tools are built in: nothing changes while the process lives. An hour, so that an upgrade is noticed the same day.
const TTL_MS: u64 = 3_600_000;

pub(super) const PARSE_ERROR: i64 = -32_700;
pub(super) const INVALID_REQUEST: i64 = -32_600;
pub(super) const METHOD_NOT_FOUND: i64 = -32_601;
pub(super) const INVALID_PARAMS: i64 = -32_602;
pub(super) const INTERNAL: i64 = -32_603;
pub(super) const UNSUPPORTED_VERSION: i64 = -32_022;

/// How a request wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// Stateless; the request carries all there is to know.
    Modern,
    /// Within the handshake of this process, in the revision it agreed on; `None` before one.
    Legacy(Option<&'static str>),
}

/// One message from the client, its envelope sound.
pub(super) enum Incoming {
    Request {
        id: Value,
        method: String,
        params: Map<String, Value>,
    },
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// An answer: this server asks nothing, so there is nothing that it could answer.
    Response,
}

/// A JSON-RPC error on its way out.
#[derive(Debug)]
pub(super) struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// As a message; `None` when no id could be read, and then the member is left out, as the schema has no null.
    pub(super) fn message(self, id: Option<Value>) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        let mut message = json!({ "jsonrpc": "2.0", "error": error });
        if let Some(id) = id {
            message["id"] = id;
        }
        message
    }
}

impl Incoming {
    /// Checks the envelope. The error comes with the id where one could be read.
    pub(super) fn read(message: Value) -> Result<Self, (Option<Value>, RpcError)> {
        let Value::Object(mut message) = message else {
            return Err((None, RpcError::new(INVALID_REQUEST, "a message is a JSON object")));
        };
        let id = message.remove("id");
        let is_id = |id: &Value| id.is_string() || id.is_i64() || id.is_u64();
        let known_id = id.clone().filter(is_id);
        let invalid = |text: &str| Err((known_id.clone(), RpcError::new(INVALID_REQUEST, text)));
        if message.get("jsonrpc") != Some(&json!("2.0")) {
            return invalid("`jsonrpc` must be \"2.0\"");
        }
        let Some(method) = message.remove("method") else {
            let is_response = message.contains_key("result") || message.contains_key("error");
            return if is_response { Ok(Self::Response) } else { invalid("`method` is missing") };
        };
        let Value::String(method) = method else { return invalid("`method` must be a string") };
        let params = match message.remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err((known_id, RpcError::new(INVALID_PARAMS, "`params` must be an object"))),
        };
        match id {
            None => Ok(Self::Notification { method, params }),
            Some(id) if is_id(&id) => Ok(Self::Request { id, method, params }),
            Some(_) => invalid("`id` must be a string or a whole number"),
        }
    }
}

impl Era {
    /// The era of a request, by its `_meta`; `agreed` is what a handshake of this process settled on.
    pub(super) fn of(method: &str, params: &Map<String, Value>, agreed: Option<&'static str>) -> Result<Self, RpcError> {
        let meta = params.get("_meta").and_then(Value::as_object);
        let Some(version) = meta.and_then(|meta| meta.get(VERSION_KEY)) else {
            // Only the modern era has this method: say what it misses, rather than that it does not exist.
            let is_modern_method = method == "server/discover";
            return if is_modern_method { Err(missing(VERSION_KEY)) } else { Ok(Self::Legacy(agreed)) };
        };
        let Some(version) = version.as_str() else { return Err(missing(VERSION_KEY)) };
        if !meta.and_then(|meta| meta.get(CAPABILITIES_KEY)).is_some_and(Value::is_object) {
            return Err(missing(CAPABILITIES_KEY));
        }
        if version == MODERN {
            return Ok(Self::Modern);
        }
        let data = json!({ "supported": [MODERN], "requested": version });
        Err(RpcError { code: UNSUPPORTED_VERSION, message: "protocol version not supported".to_owned(), data: Some(data) })
    }

    /// A successful answer to `id`.
    pub(super) fn answer(self, id: Value, mut result: Map<String, Value>) -> Value {
        if self == Self::Modern {
            result.insert("resultType".to_owned(), json!("complete"));
            result.insert("_meta".to_owned(), json!({ SERVER_INFO_KEY: server_info() }));
        }
        json!({ "jsonrpc": "2.0", "id": id, "result": result })
    }

    /// The body of `tools/list`: the definitions, without the members that the revision does not know.
    pub(super) fn tools_list(self, definitions: &[Value]) -> Map<String, Value> {
        let tools: Vec<Value> = definitions.iter().map(|tool| self.definition(tool.clone())).collect();
        let mut result = body(json!({ "tools": tools }));
        self.mark_cacheable(&mut result);
        result
    }

    /// The body of `tools/call` for what the tool said.
    pub(super) fn call_result(self, text: &str, structured: Option<Value>) -> Map<String, Value> {
        let mut result = body(json!({ "content": [{ "type": "text", "text": text }] }));
        if let Some(structured) = structured.filter(|_| self.knows_since("2025-06-18")) {
            result.insert("structuredContent".to_owned(), structured);
        }
        result
    }

    /// The parameters of a progress notification.
    pub(super) fn progress(self, token: &Value, done: usize, total: usize, message: &str) -> Value {
        let mut params = json!({ "progressToken": token, "progress": done, "total": total });
        if self.knows_since("2025-03-26") {
            params["message"] = json!(message);
        }
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
    }

    fn definition(self, mut tool: Value) -> Value {
        if let Some(members) = tool.as_object_mut() {
            for (member, since) in [("annotations", "2025-03-26"), ("title", "2025-06-18"), ("outputSchema", "2025-06-18")] {
                if !self.knows_since(since) {
                    members.remove(member);
                }
            }
        }
        tool
    }

    fn mark_cacheable(self, result: &mut Map<String, Value>) {
        if self == Self::Modern {
            result.insert("ttlMs".to_owned(), json!(TTL_MS));
            result.insert("cacheScope".to_owned(), json!("public"));
        }
    }

    fn knows_since(self, revision: &str) -> bool {
        match self {
            Self::Modern => true,
            Self::Legacy(agreed) => agreed.is_some_and(|agreed| agreed >= revision),
        }
    }
}

/// The body of `server/discover`.
pub(super) fn discovery() -> Map<String, Value> {
    let mut result = body(json!({ "supportedVersions": [MODERN], "capabilities": { "tools": {} }, "instructions": INSTRUCTIONS }));
    Era::Modern.mark_cacheable(&mut result);
    result
}

/// The revision that `initialize` settles on: the one asked for, else our newest that has a handshake (2025-11-25, lifecycle).
pub(super) fn agree(params: &Map<String, Value>) -> &'static str {
    let asked = params.get("protocolVersion").and_then(Value::as_str);
    LEGACY.into_iter().find(|known| Some(*known) == asked).unwrap_or(LEGACY[LEGACY.len() - 1])
}

/// The body of `initialize`.
pub(super) fn handshake(agreed: &str) -> Map<String, Value> {
    let mut info = server_info();
    if let Some(info) = info.as_object_mut().filter(|_| agreed < "2025-06-18") {
        info.remove("title");
    }
    body(json!({ "protocolVersion": agreed, "capabilities": { "tools": {} }, "serverInfo": info, "instructions": INSTRUCTIONS }))
}

/// The body of `tools/call` for what went wrong in a way that the agent can do something about.
pub(super) fn call_failure(text: &str) -> Map<String, Value> {
    body(json!({ "content": [{ "type": "text", "text": text }], "isError": true }))
}

fn missing(key: &str) -> RpcError {
    RpcError::new(INVALID_PARAMS, format!("`params._meta` lacks a sound `{key}`"))
}

fn server_info() -> Value {
    json!({ "name": "doorward-demo", "title": "Doorward's demo notes", "version": env!("CARGO_PKG_VERSION") })
}

fn body(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
