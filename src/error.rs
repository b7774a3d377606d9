//! Everything that an agent may be told went wrong, and the one table that says what each of it means.
//!
//! Owns: the codes, their facts (category, JSON-RPC number, HTTP status, exit code, retryable), and the public words.
//! Leaves to others: how an error is put on the wire (`mcp::respond`), and faults of an operator's file (`config::Fault`).
//!
//! INVARIANT: a code is never reused and its number never changes; `tests/golden/errors.txt` holds the table.
//! INVARIANT: nothing in a public text comes from an argument, a result or a credential.

mod words;

use std::borrow::Cow;
use std::fmt;

pub use self::words::{Category, Effect, Origin};

/// When a call that ended this way may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will end the same way.
    Never,
    /// Nothing was done: the same call may be sent again.
    Safe,
    /// Only when the manifest declares the tool idempotent: it may have run.
    IfIdempotent,
}

/// What follows from a code alone.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The stable name, snake case.
    pub code: &'static str,
    /// The group.
    pub category: Category,
    /// The JSON-RPC error number, standard or MCP's where one exists, else of the block -31000 to -31099.
    pub jsonrpc: i32,
    /// The HTTP status where the error is not an MCP result (modern revision; 200 rides in the body).
    pub http: u16,
    /// The exit code of a command that ended so.
    pub exit: u8,
    /// Whether sending the same again can help.
    pub retry: Retry,
    /// What the agent can do next: one imperative line.
    pub suggestion: &'static str,
}

/// One broken rule of a schema, without the value that broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// JSON Pointer (RFC 6901) to the value.
    pub pointer: String,
    /// The schema keyword that it breaks.
    pub keyword: String,
    /// What the schema expects there.
    pub expected: String,
    /// What kind of value stands there.
    pub got: String,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $category:ident, $rpc:literal, $http:literal, exit $exit:literal, $retry:ident, $suggestion:literal; )+) => {
        /// The stable codes of every refusal and failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $( $(#[$doc])* $name, )+ }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[ $( Code::$name, )+ ];

            /// What follows from the code. One arm a code: a new one does not compile until it is decided.
            pub fn facts(self) -> Facts {
                match self { $( Code::$name => Facts {
                    code: $code, category: Category::$category, jsonrpc: $rpc, http: $http, exit: $exit,
                    retry: Retry::$retry, suggestion: $suggestion,
                }, )+ }
            }
        }
    };
}

codes! {
    /// No credential, or one that is not known.
    Unauthenticated = "unauthenticated", Authentication, -31000, 401, exit 3, Never,
        "send an API key of this gateway as `Authorization: Bearer dw_...`; an operator makes one with `doorward agent add`";
    /// The credential lacks a scope.
    InsufficientScope = "insufficient_scope", Authentication, -31001, 403, exit 3, Never,
        "ask for a token that has the scopes named in the challenge";
    /// The `Origin` or the `Host` is not one of those allowed: mostly a web page that was not asked for.
    OriginNotAllowed = "origin_not_allowed", Authentication, -31005, 403, exit 3, Never,
        "connect from a program, by a loopback name; an operator allows others in `listen.allowed_origins` and `listen.allowed_hosts`";
    /// The bytes are not one sound JSON-RPC message.
    MalformedRequest = "malformed_request", Request, -32600, 400, exit 2, Never,
        "send one JSON-RPC 2.0 message as the protocol describes it";
    /// The method does not exist here, or not in this revision.
    MethodNotFound = "method_not_found", Request, -32601, 404, exit 2, Never,
        "call a method that `server/discover` or the `initialize` result advertises";
    /// A header is missing or differs from the body (2026-07-28, streamable HTTP, server validation).
    HeaderMismatch = "header_mismatch", Request, -32020, 400, exit 2, Never,
        "send `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` with the values of the body";
    /// The protocol revision is not served.
    UnsupportedVersion = "unsupported_version", Request, -32022, 400, exit 2, Never,
        "use one of the revisions in `data.supported`";
    /// The session is unknown, expired, ended or somebody else's.
    SessionInvalid = "session_invalid", Request, -31002, 404, exit 2, Safe,
        "send `initialize` again without a session id";
    /// State or a cursor that this gateway did not give out, or no longer accepts.
    StateInvalid = "state_invalid", Request, -32602, 400, exit 2, Never,
        "start the request or the listing again from the beginning";
    /// No such tool for this agent.
    ToolNotFound = "tool_not_found", Request, -32602, 200, exit 3, Never,
        "list the tools and call one of them by its exact name";
    /// The arguments break the tool's reviewed schema.
    InvalidArguments = "invalid_arguments", Request, -32602, 200, exit 2, Never,
        "correct the arguments named in `details` and call again";
    /// The tool needs something that the client did not declare (2026-07-28, basic).
    ClientCapabilityMissing = "client_capability_missing", Request, -32021, 400, exit 2, Never,
        "call from a client that declares the capabilities in `data.requiredCapabilities`";
    /// The two protocol revisions cannot express this.
    BridgeUnsupported = "bridge_unsupported", Request, -31003, 200, exit 2, Never,
        "use a client of a newer revision for this tool";
    /// The message is larger than the gateway takes.
    PayloadTooLarge = "payload_too_large", Request, -31004, 413, exit 2, Never,
        "send less in one call";
    /// The idempotency key names a call with other arguments, or of another definition of the tool.
    IdempotencyKeyReused = "idempotency_key_reused", Request, -31006, 200, exit 2, Never,
        "give each call an idempotency key of its own; send the earlier call unchanged to get its result";
    /// A rule forbids it, or none allows it.
    PolicyDenied = "policy_denied", Policy, -31010, 200, exit 3, Never,
        "do not repeat the call; use another tool, or ask the operator for the right named in `rules`";
    /// The definition was never reviewed, or no longer matches the review.
    ToolWithheld = "tool_withheld", Policy, -31011, 200, exit 3, Never,
        "use another tool; an operator reviews this one with `doorward tools diff` and `doorward tools approve`";
    /// A person has stopped this agent, tool or server for now.
    Frozen = "frozen", Policy, -31012, 200, exit 3, Never,
        "stop; an operator has frozen this and will lift it";
    /// The policy permits it and only tries it out: the call was not made.
    DryRun = "dry_run", Policy, -31013, 200, exit 3, Never,
        "do not take the call for done and do not repeat it; an operator lets it run by taking out the rows named in `rules`";
    /// A person has to approve this very call.
    ApprovalRequired = "approval_required", Approval, -31020, 200, exit 4, Safe,
        "wait for the approval, then send the same call again";
    /// A person said no.
    ApprovalDenied = "approval_denied", Approval, -31021, 200, exit 3, Never,
        "do not repeat the call; tell the user that it was not approved";
    /// Nobody decided in time.
    ApprovalExpired = "approval_expired", Approval, -31022, 200, exit 4, Safe,
        "send the call again to ask for a new approval";
    /// A rate limit of `limits.yaml`.
    RateLimited = "rate_limited", Capacity, -31030, 200, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again";
    /// A budget of `limits.yaml` is used up. With `retry_after_ms`, the same call may be sent again after it.
    BudgetExhausted = "budget_exhausted", Capacity, -31031, 200, exit 4, Never,
        "finish without this tool; the budget is used up";
    /// The same call again and again, or another loop of `limits.yaml`. With `retry_after_ms`, the same call may be sent again after it.
    LoopDetected = "loop_detected", Capacity, -31032, 200, exit 4, Never,
        "change the arguments or the approach; repeating the call will not help";
    /// Too many calls to this server at once.
    ConcurrencyLimited = "concurrency_limited", Capacity, -31033, 200, exit 4, Safe,
        "wait until an earlier call has ended, then send the same call again";
    /// The gateway has more work than it takes on.
    Overloaded = "overloaded", Capacity, -31034, 503, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again";
    /// The gateway is stopping.
    ShuttingDown = "shutting_down", Capacity, -31035, 503, exit 4, Safe,
        "connect again in a moment and send the same call";
    /// The server is not connected.
    UpstreamUnavailable = "upstream_unavailable", Upstream, -31040, 200, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again, or go on without this server";
    /// The server failed too often just now.
    CircuitOpen = "circuit_open", Upstream, -31041, 200, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again";
    /// No answer in time.
    UpstreamTimeout = "upstream_timeout", Upstream, -31042, 200, exit 4, IfIdempotent,
        "check whether the call took effect before sending it again";
    /// The answer was not MCP.
    UpstreamProtocolError = "upstream_protocol_error", Upstream, -31043, 200, exit 5, IfIdempotent,
        "check whether the call took effect; report the server to its operator";
    /// The connection broke with the call under way.
    UpstreamDisconnected = "upstream_disconnected", Upstream, -31044, 200, exit 4, IfIdempotent,
        "check whether the call took effect before sending it again";
    /// The server answered with a JSON-RPC error of its own.
    UpstreamError = "upstream_error", Upstream, -31045, 200, exit 5, IfIdempotent,
        "read the server's message; the call was refused or failed there";
    /// A question from the server to the user was lost on the way.
    InteractionLost = "interaction_lost", Upstream, -31046, 200, exit 4, IfIdempotent,
        "check whether the call took effect before sending it again";
    /// Nobody can say whether it happened.
    OutcomeUnknown = "outcome_unknown", Upstream, -31047, 200, exit 5, IfIdempotent,
        "check whether the call took effect before sending it again";
    /// The result is larger than the manifest allows.
    ResultTooLarge = "result_too_large", Content, -31050, 200, exit 5, Never,
        "ask for less: narrow the query or read a part";
    /// The result breaks the tool's own output schema.
    ResultInvalid = "result_invalid", Content, -31051, 200, exit 5, Never,
        "do not use the result; report the server to its operator";
    /// Inspection withheld the result.
    ResultBlocked = "result_blocked", Content, -31052, 200, exit 5, Never,
        "go on without the result; an operator can look at it";
    /// The same call is still running, or waits for the agent's answers.
    DuplicateInFlight = "duplicate_in_flight", Capacity, -31060, 200, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again to get the result of the first";
    /// The agent or its client gave up.
    Cancelled = "cancelled", Request, -31061, 200, exit 4, IfIdempotent,
        "if `effect` is not `none`, check what the tool did before sending the call again";
    /// The record could not be stored, so nothing was done.
    AuditUnavailable = "audit_unavailable", Internal, -31062, 503, exit 4, Safe,
        "wait for `retry_after_ms`, then send the same call again; an operator has to look at the audit volume";
    /// A fault of Doorward.
    Internal = "internal", Internal, -32603, 500, exit 1, Never,
        "report the invocation id to the operator";
}

impl Code {
    /// The HTTP statuses that it has beside that of its facts, and when.
    pub fn other_statuses(self) -> &'static [(u16, &'static str)] {
        match self {
            Self::MalformedRequest => &[
                (200, "the parameters of a method"),
                (406, "the client does not accept what would be answered"),
                (408, "the headers or the body took too long"),
                (415, "the body is not declared to be plain JSON"),
            ],
            Self::PayloadTooLarge => &[(431, "the headers")],
            Self::StateInvalid => &[(200, "a cursor, or a `requestState` of a call")],
            Self::ClientCapabilityMissing => &[(200, "to an agent of a revision with a handshake")],
            Self::RateLimited => &[(429, "`requests` of `limits.yaml`, before a message is read")],
            Self::ConcurrencyLimited => &[(503, "the stream of a session, and a message that is not read")],
            Self::UpstreamUnavailable => &[(503, "the keys of an access token's issuer are not there")],
            _ => &[],
        }
    }
}

/// One refusal or failure: its code, and its data. `Display` is public; what only the operator may read is in [`Error::detail`].
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    message: Cow<'static, str>,
    effect: Effect,
    origin: Origin,
    retryable: bool,
    suggestion: Cow<'static, str>,
    retry_after_ms: Option<u64>,
    rules: Vec<String>,
    reason: Option<&'static str>,
    conditions: Vec<(String, &'static str)>,
    details: Vec<Detail>,
    data: Vec<(&'static str, String)>,
    operator: Option<String>,
    jsonrpc: Option<i32>,
    http: Option<u16>,
}

impl Error {
    /// An error of this code. The message is public: lower case, no full stop, names in backticks, no values.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let facts = code.facts();
        Self(Box::new(Inner {
            code,
            message: message.into(),
            effect: Effect::None,
            origin: Origin::Gateway,
            retryable: matches!(facts.retry, Retry::Safe),
            suggestion: Cow::Borrowed(facts.suggestion),
            retry_after_ms: None,
            rules: Vec::new(),
            reason: None,
            conditions: Vec::new(),
            details: Vec::new(),
            data: Vec::new(),
            operator: None,
            jsonrpc: None,
            http: None,
        }))
    }

    /// Says that the call may have happened, or has. A retry is then safe only for an `idempotent` tool.
    #[must_use]
    pub fn after_effect(mut self, effect: Effect, idempotent: bool) -> Self {
        self.0.effect = effect;
        self.0.retryable = match (effect, self.0.code.facts().retry) {
            (_, Retry::Never) => false,
            (Effect::None, _) => true,
            (Effect::Unknown | Effect::Done, _) => idempotent,
        };
        self
    }

    /// Names the tool server as the source.
    #[must_use]
    pub fn from_upstream(mut self) -> Self {
        self.0.origin = Origin::Upstream;
        self
    }

    /// The wait after which a retry can succeed, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(mut self, wait: u64) -> Self {
        self.0.retry_after_ms = Some(wait);
        self
    }

    /// The wait after which the very same call can succeed, in milliseconds, though mostly one that ended in this code cannot.
    #[must_use]
    pub fn again_after_ms(mut self, wait: u64) -> Self {
        self.0.retryable = true;
        self.retry_after_ms(wait)
    }

    /// Why, where the code does not tell: a stable word for the record, never sent.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// The ids of the rules that decided.
    #[must_use]
    pub fn rules(mut self, rules: Vec<String>) -> Self {
        self.0.rules = rules;
        self
    }

    /// What the policy's conditions came to, by their names; for the record.
    #[must_use]
    pub fn conditions(mut self, conditions: Vec<(String, &'static str)>) -> Self {
        self.0.conditions = conditions;
        self
    }

    /// The broken schema rules.
    #[must_use]
    pub fn details(mut self, details: Vec<Detail>) -> Self {
        self.0.details = details;
        self
    }

    /// What to do next, where the code's own line is too general.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<Cow<'static, str>>) -> Self {
        self.0.suggestion = suggestion.into();
        self
    }

    /// A member of JSON-RPC `data` that the protocol prescribes beside our body; `json` is its JSON text.
    #[must_use]
    pub fn data(mut self, member: &'static str, json: String) -> Self {
        self.0.data.push((member, json));
        self
    }

    /// The JSON-RPC number and the HTTP status, where the protocol tells cases of one code apart.
    #[must_use]
    pub fn wire(mut self, jsonrpc: i32, http: u16) -> Self {
        self.0.jsonrpc = Some(jsonrpc);
        self.0.http = Some(http);
        self
    }

    /// What the operator's log may say; never sent.
    #[must_use]
    pub fn operator(mut self, detail: impl fmt::Display) -> Self {
        self.0.operator = Some(detail.to_string());
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }
    /// What follows from the code.
    pub fn facts(&self) -> Facts {
        self.0.code.facts()
    }
    /// The JSON-RPC error number.
    pub fn jsonrpc(&self) -> i32 {
        self.0.jsonrpc.unwrap_or(self.facts().jsonrpc)
    }
    /// The HTTP status where the error is not an MCP result.
    pub fn http(&self) -> u16 {
        self.0.http.unwrap_or(self.facts().http)
    }
    /// What is known about the side effect.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }
    /// Who failed.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }
    /// Whether the same call may be sent again.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
    /// The wait before a retry, in milliseconds.
    pub fn wait_ms(&self) -> Option<u64> {
        self.0.retry_after_ms
    }
    /// The rules that decided.
    pub fn rule_ids(&self) -> &[String] {
        &self.0.rules
    }
    /// What the policy's conditions came to.
    pub fn asked_conditions(&self) -> &[(String, &'static str)] {
        &self.0.conditions
    }
    /// Why, where the code does not tell.
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason
    }
    /// The broken schema rules.
    pub fn schema_details(&self) -> &[Detail] {
        &self.0.details
    }
    /// The agent's next step.
    pub fn suggestion(&self) -> &str {
        &self.0.suggestion
    }
    /// The prescribed members of `data`.
    pub fn data_members(&self) -> &[(&'static str, String)] {
        &self.0.data
    }
    /// The operator's detail.
    pub fn detail(&self) -> Option<&str> {
        self.0.operator.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}
