//! What MCP's messages carry, in every revision: the parts of a request that a gateway must understand, and no others.
//!
//! INVARIANT: what is not understood is relayed as it came; what is hop-local (the keys of `io.modelcontextprotocol/` and
//! the progress token) is never relayed.

use super::json::{Node, Value};
use crate::error::{Code, Error};

/// The prefix of our own `_meta` keys.
pub const VENDOR: &str = "dev.doorward/";

/// A request's `params._meta`.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'d, 'a>(Option<&'d Node<'a>>);

impl<'d, 'a> Meta<'d, 'a> {
    /// Of these `params`.
    pub fn of(params: Option<&'d Node<'a>>) -> Self {
        Self(params.and_then(|params| params.get("_meta")))
    }

    /// The value of a key.
    pub fn get(self, key: &str) -> Option<&'d Node<'a>> {
        self.0.and_then(|meta| meta.get(key))
    }

    /// The revision's name that a modern request describes itself by.
    pub fn protocol_version(self) -> Option<&'d str> {
        self.get("io.modelcontextprotocol/protocolVersion").and_then(Node::as_str)
    }

    /// Whether the request describes itself as a modern one.
    pub fn is_modern(self) -> bool {
        self.get("io.modelcontextprotocol/protocolVersion").is_some()
    }

    /// The token under which the agent wants to hear of progress: a string or a whole number.
    pub fn progress_token(self) -> Option<&'d Node<'a>> {
        self.get("progressToken").filter(|token| matches!(token.value, Value::String(_) | Value::Number(_)))
    }

    /// What the client program calls itself: a claim.
    pub fn client(self) -> Option<String> {
        self.get("io.modelcontextprotocol/clientInfo").map(client_name)
    }

    /// The trace that the agent is in: the second field of a W3C `traceparent`.
    pub fn trace_id(self) -> Option<&'d str> {
        let field = self.get("traceparent").and_then(Node::as_str)?.split('-').nth(1)?;
        Some(field).filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The run that the agent says the call belongs to; groups records and proves nothing.
    pub fn run(self) -> Option<&'d str> {
        self.get("dev.doorward/run").and_then(Node::as_str).filter(|run| run.len() <= 128)
    }

    /// The members that go on to the next hop, with the text that they were parsed from.
    pub fn relayed<'t>(self, text: &'t [u8]) -> Vec<(&'d str, &'t [u8])> {
        let members = self.0.map(Node::members).unwrap_or_default();
        let relayed = members.iter().filter(|member| !is_hop_local(&member.key));
        relayed.map(|member| (member.key.as_ref(), member.node.text(text))).collect()
    }
}

/// Whether a `_meta` key means something to one hop only.
pub fn is_hop_local(key: &str) -> bool {
    key == "progressToken" || key.starts_with("io.modelcontextprotocol/") || key.starts_with(VENDOR)
}

/// `name/version` of an `Implementation` object, bounded, for records and logs.
pub fn client_name(info: &Node<'_>) -> String {
    let part = |key| info.get(key).and_then(Node::as_str).unwrap_or("?").chars().take(64).collect::<String>();
    format!("{}/{}", part("name"), part("version"))
}

/// A `tools/call` request.
#[derive(Clone, Copy, Debug)]
pub struct CallTool<'d, 'a> {
    /// The public name.
    pub name: &'d str,
    /// The arguments; absent means none.
    pub arguments: Option<&'d Node<'a>>,
    /// Its `_meta`.
    pub meta: Meta<'d, 'a>,
}

impl<'d, 'a> CallTool<'d, 'a> {
    /// Reads the parameters.
    ///
    /// # Errors
    /// `malformed_request` with -32602 when the name is missing or the arguments are no object.
    pub fn read(params: Option<&'d Node<'a>>) -> Result<Self, Error> {
        let name = params.and_then(|params| params.get("name")).and_then(Node::as_str);
        let name = name.ok_or_else(|| invalid_params("`params.name` is missing or not a string"))?;
        let arguments = params.and_then(|params| params.get("arguments"));
        if arguments.is_some_and(|arguments| !arguments.is_object()) {
            return Err(invalid_params("`params.arguments` is not an object"));
        }
        Ok(Self { name, arguments, meta: Meta::of(params) })
    }
}

/// Parameters that do not have the method's shape: -32602, in a body that HTTP calls a success.
pub fn invalid_params(message: &'static str) -> Error {
    Error::new(Code::MalformedRequest, message).wire(-32602, 200)
}

/// Where a call's progress and questions go back to the agent. Held by the path, made by `listen`.
pub trait Downstream: Send + Sync {
    /// Sends the agent a notification about its own request: `params` is JSON text.
    fn notify(&self, method: &str, params: &[u8]);

    /// Ends when the agent no longer wants the answer.
    fn cancelled(&self) -> &tokio_util::sync::CancellationToken;
}
