//! What MCP's messages carry, in every revision: the parts of a request that a gateway must understand, and no others.
//!
//! INVARIANT: what is not understood is relayed as it came; what is hop-local (the keys of `io.modelcontextprotocol/` and
//! the progress token) is never relayed.

use std::time::Duration;

use tokio::time::Instant;

use super::capabilities::Capabilities;
use super::json::{Node, Value};
use super::jsonrpc::MAX_ID_BYTES;
use super::log_level::LogLevel;
use crate::error::{Code, Error};
use crate::trace::Context;

/// The prefix of our own `_meta` keys.
pub const VENDOR: &str = "dev.doorward/";
/// Our key for how long the sender of a request waits for its answer, in milliseconds.
pub const TIMEOUT: &str = "dev.doorward/timeoutMs";
/// The longest such time that is looked at, in milliseconds: a day. The operator's bounds are shorter.
const MAX_TIMEOUT_MS: u64 = 86_400_000;
/// Longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Longest `requestState` that is looked at, in bytes; ours are shorter.
const MAX_STATE_BYTES: usize = 128 << 10;

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

    /// What the agent says in this request that it can be asked for.
    pub fn capabilities(self) -> Capabilities {
        Capabilities::of(self.get("io.modelcontextprotocol/clientCapabilities"))
    }

    /// The least severe log message that the agent wants of this request.
    pub fn log_level(self) -> Option<LogLevel> {
        self.get("io.modelcontextprotocol/logLevel").and_then(Node::as_str).and_then(LogLevel::parse)
    }

    /// The trace that the agent is in, and its span around the request.
    pub fn trace(self) -> Option<Context<'d>> {
        self.get("traceparent").and_then(Node::as_str).and_then(Context::parse)
    }

    /// The run that the agent says the call belongs to; groups records and proves nothing.
    pub fn run(self) -> Option<&'d str> {
        self.get("dev.doorward/run").and_then(Node::as_str).filter(|run| run.len() <= 128)
    }

    /// How long the agent waits for the answer, as it says: a whole number of milliseconds. What is none counts for nothing.
    pub fn timeout(self) -> Option<Duration> {
        timeout(self.get(TIMEOUT).and_then(Node::as_u64)?)
    }

    /// The key by which the agent tells the call from others: a repeat has the same.
    ///
    /// # Errors
    /// `malformed_request` for what is no text of 1 to [`MAX_KEY_BYTES`] bytes: taken for none, a repeat would run again.
    pub fn idempotency_key(self) -> Result<Option<&'d str>, Error> {
        let Some(node) = self.get("dev.doorward/idempotencyKey") else { return Ok(None) };
        let key = node.as_str().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
        let wrong = || invalid_params("`dev.doorward/idempotencyKey` is not a text of 1 to 255 bytes");
        key.map(Some).ok_or_else(wrong)
    }

    /// The members that go on to the next hop, with the text that they were parsed from.
    pub fn relayed<'t>(self, text: &'t [u8]) -> Vec<(&'d str, &'t [u8])> {
        let members = self.0.map(Node::members).unwrap_or_default();
        let relayed = members.iter().filter(|member| !is_hop_local(&member.key));
        relayed.map(|member| (member.key.as_ref(), member.node.text(text))).collect()
    }
}

/// So many milliseconds as a time that somebody may wait.
pub fn timeout(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.min(MAX_TIMEOUT_MS)))
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

/// What a request can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tool, by name.
    Tool,
    /// A prompt, by name.
    Prompt,
    /// A resource, by URI.
    Resource,
}

/// The lists of a server that change, and of which agents are told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feed {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list` and `resources/templates/list`.
    Resources,
}

/// What a server can do, as far as agents use it: the parts of its `capabilities` that a gateway passes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Tools.
    pub tools: bool,
    /// Prompts.
    pub prompts: bool,
    /// Resources, and templates of them.
    pub resources: bool,
    /// Watching single resources.
    pub subscribe: bool,
    /// Completion of arguments.
    pub completions: bool,
    /// Log messages.
    pub logging: bool,
}

impl Offers {
    /// All of them.
    pub const ALL: Self = Self { tools: true, prompts: true, resources: true, subscribe: true, completions: true, logging: true };

    /// Of a server's `capabilities`. Completion had no capability in 2024-11-05: what completes then is the server's to say.
    pub fn of(capabilities: &Node<'_>, has_completions: bool) -> Self {
        // An object; but what says `true` means it too.
        let has = |key| capabilities.get(key).is_some_and(|node| node.is_object() || node.as_bool() == Some(true));
        let subscribe = capabilities.pointer("/resources/subscribe").and_then(Node::as_bool) == Some(true);
        Self {
            tools: has("tools"),
            prompts: has("prompts"),
            resources: has("resources"),
            subscribe,
            completions: has("completions") || has_completions,
            logging: has("logging"),
        }
    }

    /// What either can do.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            tools: self.tools || other.tools,
            prompts: self.prompts || other.prompts,
            resources: self.resources || other.resources,
            subscribe: self.subscribe || other.subscribe,
            completions: self.completions || other.completions,
            logging: self.logging || other.logging,
        }
    }
}

/// The requests that name a target and take the gateway's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `tools/call`.
    CallTool,
    /// `prompts/get`.
    GetPrompt,
    /// `resources/read`.
    ReadResource,
    /// `completion/complete`.
    Complete,
}

impl Method {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallTool => "tools/call",
            Self::GetPrompt => "prompts/get",
            Self::ReadResource => "resources/read",
            Self::Complete => "completion/complete",
        }
    }

    /// The method of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::CallTool, Self::GetPrompt, Self::ReadResource, Self::Complete].into_iter().find(|method| method.as_str() == name)
    }
}

/// A request that takes the gateway's path, as the agent put it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'d, 'a> {
    /// What is asked.
    pub method: Method,
    /// What `name` names; for `completion/complete`, what the values are for.
    pub kind: Kind,
    /// The public name of the tool or prompt, or the URI of the resource or template.
    pub name: &'d str,
    /// The arguments, an object; absent means none. The `argument` of `completion/complete`.
    pub arguments: Option<&'d Node<'a>>,
    /// The `context` of `completion/complete`, an object.
    pub context: Option<&'d Node<'a>>,
    /// Its `_meta`.
    pub meta: Meta<'d, 'a>,
    /// What it adds when it is sent again with answers.
    pub retry: Option<Retry<'d>>,
    /// When the agent gives it up, as it says; counted from when the request was read.
    pub deadline: Option<Instant>,
    /// The `Mcp-Param-*` headers that it came with: NAME in lower case, and the decoded value. `None` where there are no such
    /// headers: on pipes, and before 2026-07-28.
    pub param_headers: Option<&'d [(Box<str>, Box<str>)]>,
}

/// What a request carries when it answers the questions of an `input_required` result (2026-07-28).
#[derive(Clone, Copy, Debug)]
pub struct Retry<'d> {
    /// The JSON text of `inputResponses`: an object of objects.
    pub responses: Option<&'d [u8]>,
    /// `requestState`, which means nothing to whoever did not make it.
    pub state: Option<&'d str>,
}

impl<'d, 'a> Request<'d, 'a> {
    /// Reads the parameters; `text` is what they were parsed from.
    ///
    /// # Errors
    /// `malformed_request` with -32602 when a member is missing or of another type; `state_invalid` when `requestState` is
    /// none that we could have made.
    pub fn read(method: Method, params: Option<&'d Node<'a>>, text: &'d [u8]) -> Result<Self, Error> {
        let member = |key| params.and_then(|params| params.get(key));
        let string = |key| member(key).and_then(Node::as_str);
        let (kind, name, missing) = match method {
            Method::CallTool => (Kind::Tool, string("name"), "`params.name` is missing or not a string"),
            Method::GetPrompt => (Kind::Prompt, string("name"), "`params.name` is missing or not a string"),
            Method::ReadResource => (Kind::Resource, string("uri"), "`params.uri` is missing or not a string"),
            Method::Complete => referred(member("ref")),
        };
        let name = name.ok_or_else(|| invalid_params(missing))?;
        let (arguments, context) = match method {
            Method::CallTool | Method::GetPrompt => {
                (object(member("arguments")).ok_or_else(|| invalid_params("`params.arguments` is not an object"))?, None)
            }
            Method::ReadResource => (None, None),
            Method::Complete => {
                let argument = member("argument").filter(|argument| argument.is_object());
                let argument = argument.ok_or_else(|| invalid_params("`params.argument` is missing or not an object"))?;
                (Some(argument), object(member("context")).ok_or_else(|| invalid_params("`params.context` is not an object"))?)
            }
        };
        let meta = Meta::of(params);
        let is_long = |token: &Node<'_>| match &token.value {
            Value::String(text) => text.len() > MAX_ID_BYTES,
            _ => token.span().len() > MAX_ID_BYTES,
        };
        if meta.progress_token().is_some_and(is_long) {
            return Err(invalid_params("`params._meta.progressToken` has more than 1024 bytes"));
        }
        // Before 2026-07-28 these two members mean nothing, and nothing is answered by asking again.
        let retry = if meta.is_modern() && method != Method::Complete {
            Retry::read(member("inputResponses"), member("requestState"), text)?
        } else {
            None
        };
        let deadline = meta.timeout().map(|timeout| Instant::now() + timeout);
        Ok(Self { method, kind, name, arguments, context, meta, retry, deadline, param_headers: None })
    }
}

/// The member, if it is an object or absent; the outer `None` where it is anything else.
fn object<'d, 'a>(member: Option<&'d Node<'a>>) -> Option<Option<&'d Node<'a>>> {
    member.is_none_or(Node::is_object).then_some(member)
}

fn referred<'d>(reference: Option<&'d Node<'_>>) -> (Kind, Option<&'d str>, &'static str) {
    let string = |key| reference.and_then(|reference| reference.get(key)).and_then(Node::as_str);
    match string("type") {
        Some("ref/prompt") => (Kind::Prompt, string("name"), "`params.ref.name` is missing or not a string"),
        Some("ref/resource") => (Kind::Resource, string("uri"), "`params.ref.uri` is missing or not a string"),
        _ => (Kind::Prompt, None, "`params.ref.type` is neither `ref/prompt` nor `ref/resource`"),
    }
}

impl<'d> Retry<'d> {
    fn read(responses: Option<&'d Node<'_>>, state: Option<&'d Node<'_>>, text: &'d [u8]) -> Result<Option<Self>, Error> {
        if responses.is_none() && state.is_none() {
            return Ok(None);
        }
        if responses.is_some_and(|node| !node.is_object() || node.members().iter().any(|member| !member.node.is_object())) {
            return Err(invalid_params("`params.inputResponses` is not an object of objects"));
        }
        let foreign = || Error::new(Code::StateInvalid, "the request state is not one of this gateway");
        let state = state.map(|node| node.as_str().filter(|state| state.len() <= MAX_STATE_BYTES).ok_or_else(foreign)).transpose()?;
        Ok(Some(Self { responses: responses.map(|node| node.text(text)), state }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json;

    fn read<T>(method: Method, params: &str, look: impl FnOnce(Result<Request<'_, '_>, Error>) -> T) -> T {
        let document = json::parse(params.as_bytes(), json::Limits::default()).unwrap();
        look(Request::read(method, Some(&document), params.as_bytes()))
    }

    #[test]
    fn a_capability_is_an_object_or_a_plain_yes() {
        let text = br#"{"tools":true,"prompts":{},"resources":{"subscribe":true},"completions":false,"logging":null}"#;
        let offers = Offers::of(&json::parse(text, json::Limits::default()).unwrap(), false);
        assert_eq!(offers, Offers { completions: false, logging: false, ..Offers::ALL });
    }

    #[test]
    fn what_one_of_several_servers_can_do_the_gateway_can() {
        let text = br#"{"tools":{},"resources":{"subscribe":true},"logging":{}}"#;
        let some = Offers::of(&json::parse(text, json::Limits::default()).unwrap(), false);
        let others = Offers { prompts: true, completions: true, ..Offers::default() };
        assert_eq!((some.union(others), others.union(some)), (Offers::ALL, Offers::ALL));
        assert_eq!(some.union(Offers::default()), some);
    }

    #[test]
    fn a_client_is_named_with_its_version_and_within_bounds() {
        let named = |info: &str| client_name(&json::parse(info.as_bytes(), json::Limits::default()).unwrap());
        assert_eq!(named(r#"{"name":"editor","version":"1.2"}"#), "editor/1.2");
        assert_eq!(named(r#"{"name":5}"#), "?/?");
        assert_eq!(named(&format!(r#"{{"name":"{}","version":"1"}}"#, "ä".repeat(65))), format!("{}/1", "ä".repeat(64)));
    }

    fn refused(method: Method, params: &str) -> (Code, i32) {
        read(method, params, |read| read.map(|_| ()).map_err(|error| (error.code(), error.jsonrpc())).unwrap_err())
    }

    const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

    #[test]
    fn each_method_names_its_target() {
        let named = |method, params: &str| read(method, params, |read| read.map(|read| (read.kind, read.name.to_owned())).unwrap());
        assert_eq!(named(Method::GetPrompt, r#"{"name":"a__p"}"#), (Kind::Prompt, "a__p".to_owned()));
        assert_eq!(named(Method::ReadResource, r#"{"uri":"dw+a+file:///x"}"#), (Kind::Resource, "dw+a+file:///x".to_owned()));
        let complete = r#"{"ref":{"type":"ref/resource","uri":"x:{y}"},"argument":{"name":"y","value":""}}"#;
        assert_eq!(named(Method::Complete, complete), (Kind::Resource, "x:{y}".to_owned()));
        assert_eq!(refused(Method::Complete, r#"{"ref":{"type":"ref/prompt","name":"p"}}"#), (Code::MalformedRequest, -32602));
    }

    #[test]
    fn a_progress_token_may_be_as_long_as_an_id() {
        let with = |token: String| format!(r#"{{"name":"t","_meta":{{"progressToken":{token}}}}}"#);
        for token in [format!("\"{}\"", "t".repeat(MAX_ID_BYTES)), format!("1.{}", "0".repeat(MAX_ID_BYTES - 2))] {
            read(Method::CallTool, &with(token), |read| assert!(read.is_ok()));
        }
        for token in [format!("\"{}\"", "t".repeat(MAX_ID_BYTES + 1)), format!("1.{}", "0".repeat(MAX_ID_BYTES - 1))] {
            assert_eq!(refused(Method::CallTool, &with(token)), (Code::MalformedRequest, -32602));
        }
    }

    #[test]
    fn answers_are_an_object_of_objects_and_a_state_is_a_string() {
        for responses in ["null", "1", "[]", r#"{"q1":null}"#, r#"{"q1":"yes"}"#] {
            let params = format!(r#"{{"name":"t","inputResponses":{responses},{MODERN}}}"#);
            assert_eq!(refused(Method::CallTool, &params), (Code::MalformedRequest, -32602), "{responses}");
        }
        assert_eq!(refused(Method::CallTool, &format!(r#"{{"name":"t","requestState":null,{MODERN}}}"#)).0, Code::StateInvalid);
        let params = format!(r#"{{"name":"t","inputResponses":{{"q1":{{ "a":1.0 }}}},"requestState":"s",{MODERN}}}"#);
        read(Method::CallTool, &params, |read| {
            let retry = read.unwrap().retry.unwrap();
            assert_eq!((retry.responses, retry.state), (Some(br#"{"q1":{ "a":1.0 }}"#.as_slice()), Some("s")));
        });
    }

    #[test]
    fn a_handshake_revision_knows_no_retry() {
        read(Method::CallTool, r#"{"name":"t","inputResponses":5}"#, |read| assert!(read.unwrap().retry.is_none()));
    }
}
