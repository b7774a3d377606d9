//! One record: what it reports and the names of its fields.
//!
//! Owns: the fields, and reading a line back. Leaves to others: writing it (`encode`), its place in the chain (`chain`).
//!
//! INVARIANT: only `args` may hold an object, and it sorts before `intent_seq`, `kind`, `open_from` and `seq`; so the last `,"seq":` of a line is
//! the record's own, and readers need no parser for these.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Deserializer;

use super::chain::MAX_SEQ;
use super::schema;

/// What a record reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call that is about to be forwarded.
    Intent,
    /// The end of an intent.
    Outcome,
    /// A call or message that was not forwarded.
    Refusal,
    /// A call that goes on under the intent that it has: its server `asked` something, its agent `answered`, or it was `resent`.
    Round,
    /// A repeat that was answered with the stored result of an earlier call: nothing was forwarded.
    Replay,
    /// What becomes of a call that needs a person's yes: `requested`, `asked`, `approved`, `denied`, `refused`, `expired`, `used`, `shown`;
    /// and what the webhook was told of it: `told`, `not_told`.
    Approval,
    /// The policy, its conditions or its limits changed.
    PolicyChange,
    /// A manifest or a lock changed, or a tool's live definition did.
    CatalogChange,
    /// The operator's file changed.
    ConfigChange,
    /// The log or the gateway started, stopped, rotated, or took up work again, or the wall clock was set.
    #[default]
    Lifecycle,
    /// What a start or a repair found on the disk and set aside.
    Recovery,
    /// Many refusals of one sort in one record.
    Coalesced,
    /// An answer that came after its call had ended.
    Late,
    /// What a person did.
    Person,
    /// What an agent may be told of without asking each time, or may be no more.
    Watch,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: &'static [Kind] = &[
        Self::Intent,
        Self::Outcome,
        Self::Refusal,
        Self::Round,
        Self::Replay,
        Self::Approval,
        Self::PolicyChange,
        Self::CatalogChange,
        Self::ConfigChange,
        Self::Lifecycle,
        Self::Recovery,
        Self::Coalesced,
        Self::Late,
        Self::Person,
        Self::Watch,
    ];

    /// The word in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Refusal => "refusal",
            Self::Round => "round",
            Self::Replay => "replay",
            Self::Approval => "approval",
            Self::PolicyChange => "policy_change",
            Self::CatalogChange => "catalog_change",
            Self::ConfigChange => "config_change",
            Self::Lifecycle => "lifecycle",
            Self::Recovery => "recovery",
            Self::Coalesced => "coalesced",
            Self::Late => "late",
            Self::Person => "person",
            Self::Watch => "watch",
        }
    }

    /// The kind of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// Whether the record may use the room that is kept for running calls, and is never dropped by a refusal.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Outcome | Self::Late | Self::Lifecycle | Self::Recovery)
    }
}

/// The words of `decision`.
pub const DECISIONS: [&str; 6] = ["allow", "deny", "limit", "invalid", "needs_approval", "unavailable"];
/// The words of `outcome`.
pub const OUTCOMES: [&str; 9] =
    ["ok", "tool_error", "upstream_error", "timed_out", "cancelled", "failed", "input_required", "not_forwarded", "unresolved"];
/// The words of `effect`.
pub const EFFECTS: [&str; 3] = ["none", "unknown", "done"];

/// A text that may be absent.
pub type Text<'a> = Option<Cow<'a, str>>;

/// The fields of a record. What is absent is left out of the line.
///
/// Hashes of values are `hmac:KEYID:HEX`: equal values have equal hashes as long as their key lasts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Record<'a> {
    /// What the record reports.
    pub kind: Kind,
    /// The invocation's id, a UUID of version 7: in every error that the agent is told, and sent along to the tool server.
    pub call_id: Text<'a>,
    /// In an outcome or a round: the `seq` of its intent.
    #[schemars(schema_with = "schema::number")]
    pub intent_seq: Option<u64>,
    /// Which attempt of the call this is, from 1; absent for the first.
    #[schemars(schema_with = "schema::number")]
    pub attempt: Option<u64>,
    /// The hash of the value by which the agent tells this call from others: of the argument that the manifest names, else of its idempotency
    /// key. A call with the same is the same call again.
    #[schemars(extend("pattern" = schema::HASH))]
    pub idempotency_key: Text<'a>,
    /// The JSON text of the request's id.
    pub jsonrpc_id: Text<'a>,
    /// The MCP method; `http` or `unread` for what was refused before a method was known.
    pub method: Text<'a>,
    /// The authenticated identity, such as `agent:demo`.
    pub principal: Text<'a>,
    /// The agent that acts.
    pub agent: Text<'a>,
    /// For whom it acts, if delegated.
    pub on_behalf_of: Text<'a>,
    /// Who acts for whom in a delegation, the last one first, as the access token says.
    pub actors: Vec<Cow<'a, str>>,
    /// Which credential was used; never the credential.
    pub credential_id: Text<'a>,
    /// The client program's own name and version, as it claims.
    pub client: Text<'a>,
    /// The socket address of the peer.
    pub peer: Text<'a>,
    /// The session, shortened.
    pub session: Text<'a>,
    /// The run that groups calls, as the agent says: it proves nothing.
    pub run: Text<'a>,
    /// The trace that the agent sent along: the second field of a W3C `traceparent`.
    #[schemars(extend("pattern" = "^[0-9a-f]{32}$"))]
    pub trace_id: Text<'a>,
    /// The agent's own span around the call: the third field of the `traceparent`.
    #[schemars(extend("pattern" = "^[0-9a-f]{16}$"))]
    pub span_id: Text<'a>,
    /// How the message came: `http`, `stdio` or `admin`.
    pub transport: Text<'a>,
    /// The protocol revision of the agent's side.
    pub protocol_version: Text<'a>,
    /// The upstream's name.
    pub upstream: Text<'a>,
    /// The name of the tool, prompt or resource in policies; what the agent asked for where there is no such thing.
    pub target: Text<'a>,
    /// What is watched: policy names of resources, and methods of lists.
    pub targets: Vec<Cow<'a, str>>,
    /// The target's tier.
    #[schemars(extend("enum" = schema::TIERS))]
    pub tier: Text<'a>,
    /// Whether the tier is only what the server claims; absent where it is the operator's word.
    #[serde(deserialize_with = "flag")]
    pub tier_claimed: bool,
    /// The target's labels: `private`, `untrusted`, `outward`, `team:NAME`.
    pub labels: Vec<Cow<'a, str>>,
    /// In an intent of a target with labels: the labels that the agent has met with this call. As the agent's, they count for a while.
    pub labels_after: Vec<Cow<'a, str>>,
    /// The labels that the agent had met before, where the decision looked at them or the target has some.
    pub labels_before: Vec<Cow<'a, str>>,
    /// The hash of the reviewed definition; prompts and resources have none.
    #[schemars(extend("pattern" = "^sha256:[0-9a-f]{64}$"))]
    pub tool_def_hash: Text<'a>,
    /// The keyed hash of the canonical arguments.
    #[schemars(extend("pattern" = schema::HASH))]
    pub args_hash: Text<'a>,
    /// The arguments by the manifest's field rules: a value in clear, as a string, only where its field is declared `plain`.
    #[serde(deserialize_with = "raw")]
    #[schemars(schema_with = "schema::any")]
    pub args: Text<'a>,
    /// What the agent answers to what the server asked: `QUESTION ACTION HASH` each, the hash keyed.
    pub answers: Vec<Cow<'a, str>>,
    /// The approval that the call waits for, was made with, or that a person decides about: `ap-` and ten hex digits.
    pub approval_id: Text<'a>,
    /// In an intent: what the call costs, in the units of the manifest's `cost`.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub cost: Option<u64>,
    /// The size of the arguments as they came.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub args_bytes: Option<u64>,
    /// The keyed hash of a message that was refused before it was understood.
    #[schemars(extend("pattern" = schema::HASH))]
    pub message_hash: Text<'a>,
    /// The size of that message.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub message_bytes: Option<u64>,
    /// What was decided.
    #[schemars(extend("enum" = DECISIONS))]
    pub decision: Text<'a>,
    /// Why, where the code alone does not tell: `default_deny` when no rule allows it, `denied_by_rule` when one denies it,
    /// `not_visible` when the agent may not know of it, `unknown_name` when there is no such thing, and the like.
    pub reason: Text<'a>,
    /// The error code of a refusal or failure.
    pub code: Text<'a>,
    /// The rules that decided: those that deny, else those that allow. None for a default deny.
    pub rule_ids: Vec<Cow<'a, str>>,
    /// What the conditions that were asked came to, by their names: `true`, `false`, or `error` where it could not be told.
    #[serde(deserialize_with = "raw")]
    #[schemars(schema_with = "schema::truths")]
    pub conditions: Text<'a>,
    /// In a default deny: the rules that come nearest to allowing it.
    pub near_rules: Vec<Cow<'a, str>>,
    /// What the policy asks for beside a call that goes on: `ID OBLIGATION` each, the id that of the `o` row.
    pub obligations: Vec<Cow<'a, str>>,
    /// The policy in force: the hash of its model, rows, targets and limits.
    pub policy_version: Text<'a>,
    /// The limit, the budget or the loop rule that refused.
    pub limit: Text<'a>,
    /// In a replay: the invocation whose stored result was given.
    pub replay_of: Text<'a>,
    /// The wait that the agent was told.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub retry_after_ms: Option<u64>,
    /// What a schema refused: `KEYWORD POINTER` each, with `*` for names that nobody declared; never a value.
    pub details: Vec<Cow<'a, str>>,
    /// How the call ended.
    #[schemars(extend("enum" = OUTCOMES))]
    pub outcome: Text<'a>,
    /// What is known of the side effect.
    #[schemars(extend("enum" = EFFECTS))]
    pub effect: Text<'a>,
    /// How long the call took, from its message to its end.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub duration_us: Option<u64>,
    /// How long it waited before it was forwarded: for the connection, a place at the server, and its intent to be stored.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub queue_us: Option<u64>,
    /// How long the upstream took.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub upstream_us: Option<u64>,
    /// The keyed hash of the result, as it was relayed.
    #[schemars(extend("pattern" = schema::HASH))]
    pub result_hash: Text<'a>,
    /// The size of the result.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub result_bytes: Option<u64>,
    /// Whether the result satisfies the tool's output schema; absent where there is none, or no result.
    pub schema_ok: Option<bool>,
    /// The sealed file with the arguments or the result, as `FILE BYTES sha256:HEX`; in a `payload_key` record the file of a data key. `missing`
    /// and why, where it should have been kept and could not be.
    #[schemars(extend("pattern" = super::payload::PATTERN))]
    pub payload: Text<'a>,
    /// In an erasure: the ids of the data keys that were destroyed.
    pub payload_keys: Vec<Cow<'a, str>>,
    /// Whose keys have opened a payload, or who can open what a data key seals.
    pub openers: Vec<Cow<'a, str>>,
    /// How many events the record stands for.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub count: Option<u64>,
    /// The window of a coalesced record.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub window_us: Option<u64>,
    /// Free words for a reader.
    pub note: Text<'a>,
    /// Who acted: a person, a signal, or the gateway itself.
    pub actor: Text<'a>,
    /// What was done.
    pub action: Text<'a>,
    /// To what it was done.
    pub subject: Text<'a>,
    /// The state before.
    pub before: Text<'a>,
    /// The state after.
    pub after: Text<'a>,
    /// Why a rule was set aside.
    pub waiver: Text<'a>,
    /// What the agent was warned of: `ID FIGURE PERCENT%` of a budget that is nearly used up, `ID LOOP TIMES` of a loop that it may be in.
    pub warnings: Vec<Cow<'a, str>>,
    /// In the first record of a segment: the key that signs checkpoints while it is written, in print.
    pub log_key: Text<'a>,
    /// In the first record of a segment: the smallest `seq` of an intent that has no end yet.
    #[schemars(schema_with = "schema::number")]
    pub open_from: Option<u64>,
    /// In a recovery record: how many bytes were set aside.
    #[serde(deserialize_with = "integer")]
    #[schemars(schema_with = "schema::number")]
    pub bytes: Option<u64>,
    /// In a recovery record: the SHA-256 of these bytes. At the start of a tool server: that of its program.
    #[schemars(extend("pattern" = "^[0-9a-f]{64}$"))]
    pub sha256: Text<'a>,
    /// What the candidate that decides beside the policy in force, without effect, says of the call: its version, and `allow` or `deny` with its
    /// rules and obligations, or `visible` where the policy in force does not even let the agent see the target.
    pub shadow: Text<'a>,
}

impl Record<'_> {
    /// A record of this kind with nothing else in it.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// A line as it stands in a segment, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Whose log it is in.
    pub origin: String,
    /// Its place in that log.
    pub seq: u64,
    /// When it was made, as written.
    pub time: String,
    /// When it was made, in microseconds since the machine started; `None` in logs of before this was recorded.
    pub mono_us: Option<u64>,
    /// Which start of the machine that counts from, where the record says so: each lifecycle record does.
    pub boot_id: Option<String>,
    /// The fields.
    pub record: Record<'static>,
    /// The line itself, without its line feed.
    pub line: String,
}

impl Stored {
    /// Reads one line; `None` where it is not a record of this version.
    pub fn parse(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Place {
            origin: String,
            seq: u64,
            time: String,
            mono_us: Option<u64>,
            boot_id: Option<String>,
            v: u64,
        }
        let text = std::str::from_utf8(line).ok()?;
        let place: Place = serde_json::from_str(text).ok()?;
        let record: Record<'static> = serde_json::from_str(text).ok()?;
        let Place { origin, seq, time, mono_us, boot_id, v } = place;
        (v == VERSION && seq <= MAX_SEQ).then(|| Self { origin, seq, time, mono_us, boot_id, record, line: text.to_owned() })
    }

    /// When the record was made, in nanoseconds since 1970; 0 where the text is not a time.
    pub fn unix_nanos(&self) -> i64 {
        self.time.parse::<jiff::Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok()).unwrap_or(0)
    }

    /// The outcome that ends this intent when nobody else will: it says so in `outcome`, `effect` and `code`.
    pub fn end(&self, outcome: &'static str, effect: &'static str, code: Option<&'static str>) -> Record<'static> {
        let intent = self.record.clone();
        Record {
            kind: Kind::Outcome,
            call_id: intent.call_id,
            intent_seq: Some(self.seq),
            attempt: intent.attempt,
            method: intent.method,
            principal: intent.principal,
            agent: intent.agent,
            on_behalf_of: intent.on_behalf_of,
            session: intent.session,
            run: intent.run,
            upstream: intent.upstream,
            target: intent.target,
            tier: intent.tier,
            tier_claimed: intent.tier_claimed,
            policy_version: intent.policy_version,
            outcome: Some(Cow::Borrowed(outcome)),
            effect: Some(Cow::Borrowed(effect)),
            code: code.map(Cow::Borrowed),
            ..Record::new(Kind::Outcome)
        }
    }
}

fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Digits(String),
    }
    Ok(match Form::deserialize(from)? {
        Form::Number(value) => Some(value),
        Form::Digits(digits) => Some(digits.parse().map_err(serde::de::Error::custom)?),
    })
}

fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    bool::deserialize(from)
}

fn raw<'de, D: Deserializer<'de>>(from: D) -> Result<Text<'static>, D::Error> {
    Ok(Some(Cow::Owned(Box::<serde_json::value::RawValue>::deserialize(from)?.get().to_owned())))
}

/// The version of the record's form.
pub(in crate::audit) const VERSION: u64 = 1;

#[cfg(test)]
#[path = "record_tests.rs"]
pub(super) mod tests;
