//! What one call gathers for the record, and the two records it leaves.
//!
//! INVARIANT: [`Recorded`], which forwarding takes, is made only here and only when the intent is stored.
//! INVARIANT: a trail is closed exactly once: by the outcome of its intent, or by a refusal where there was none.

mod answers;
mod approvals;
mod counted;
mod floods;
mod notes;
mod parked;
mod payloads;
mod refused;
mod replays;
mod resent;
mod spans;
mod steps;
mod watches;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

pub use self::approvals::approval_record;
use self::notes::truths;
pub use self::parked::Open;
use self::refused::ending;
use self::steps::Steps;
pub use self::watches::Watched;
use super::encode::Entry;
use super::log::{AppendError, Durability, Log};
use super::payload::Payloads;
use super::record::{Kind, Record};
use super::redact::{self, Declared, ValueKey};
use super::values::ValueKeys;
use crate::approval::Cleared;
use crate::catalog::Target;
use crate::catalog::label::Label;
use crate::catalog::tier::Tier;
use crate::clock::Clock;
use crate::config::{self, DurabilityByTier};
use crate::error::{Code, Effect, Error};
use crate::invocation::{Caller, Invocation};
use crate::limit::flood::Coalescer;
use crate::limit::{Charge, Floods};
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::Meta;
use crate::mcp::respond::Ending;
use crate::policy::{Obliged, Permit, RuleId};
use crate::replay::Held;
use crate::trace::{Context, Marks, Stage, Traces};

/// Characters of a name that a caller chose which a record keeps.
const MAX_NAME: usize = 128;
/// Sources of refusals that are told apart; beyond them the floods of an agent share one count.
const MAX_FLOODS: usize = 4_096;

/// The log as the path uses it.
pub struct Audit {
    log: Log,
    keys: ValueKeys,
    durability: DurabilityByTier,
    payloads: Option<Arc<Payloads>>,
    floods: Coalescer,
    clock: Clock,
    steps: Steps,
    traces: Traces,
}

/// Proof that a call's intent is stored. Only [`Audit::intent`] makes one, and [`Audit::round`] for a call that goes on:
///
/// ```compile_fail,E0451
/// fn forged(cleared: doorward::approval::Cleared<'_>) -> doorward::audit::trail::Recorded<'_> {
///     doorward::audit::trail::Recorded { cleared, seq: 1, met: Vec::new(), trace: None }
/// }
/// ```
#[derive(Debug)]
pub struct Recorded<'d> {
    cleared: Cleared<'d>,
    seq: u64,
    met: Vec<String>,
    trace: Option<Box<str>>,
}

impl<'d> Recorded<'d> {
    /// The call that was recorded.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.cleared.invocation()
    }

    /// The policy's permit for it.
    pub fn permit(&self) -> &Permit<'d> {
        self.cleared.permit()
    }

    /// Whether somebody had to approve the call.
    pub fn was_approved(&self) -> bool {
        self.cleared.was_approved()
    }

    /// The labels that the agent has met with the call, as its record says.
    pub fn met(&self) -> &[String] {
        &self.met
    }

    /// The place of the intent in the log.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// What one message has told of itself so far.
#[derive(Debug)]
pub struct Trail<'d> {
    id: Uuid,
    id_text: String,
    started: Instant,
    caller: &'d Caller,
    method: &'d str,
    jsonrpc_id: Option<&'d Id>,
    run: Option<&'d str>,
    trace: Option<Context<'d>>,
    /// Its stages, where a collector is told of the call.
    marks: Option<Box<Marks>>,
    /// The caller's idempotency key.
    key: Option<&'d str>,
    named: Option<&'d str>,
    tool: Option<&'d Target>,
    arguments: Option<(&'d Node<'d>, usize)>,
    valid: bool,
    promises: bool,
    answers: Option<&'d [u8]>,
    unread: Option<&'d [u8]>,
    rules: Vec<RuleId>,
    obligations: Vec<Obliged>,
    conditions: Option<String>,
    /// The labels that the agent had met before, and has met with this call, as far as it was looked at.
    met: (Vec<String>, Vec<String>),
    /// The version of the policy that decides beside, and what it says.
    shadow: Option<String>,
    policy_version: &'d str,
    waits: Option<Instant>,
    intent: Option<(u64, Instant)>,
    attempt: u32,
    parked: bool,
    /// The approval that it waits for, or was made with.
    approval: Option<Box<str>>,
    /// What is kept sealed of this message, where the call's payloads are.
    payload: Option<Box<str>>,
    /// The name that the call holds, where it has one.
    held: Option<Box<Held>>,
    /// What was counted of the call, to be told how it ended.
    charge: Option<Charge<'d>>,
    /// What its agent is warned of.
    warnings: Vec<String>,
}

impl<'d> Trail<'d> {
    /// The time since the message arrived.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The invocation's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The invocation's id as errors carry it.
    pub fn id_text(&self) -> &str {
        &self.id_text
    }

    /// Whether the intent is stored, so that something may have been done.
    pub fn is_recorded(&self) -> bool {
        self.intent.is_some()
    }

    /// Which request of its invocation this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says that the message goes on with an invocation that an earlier one has begun.
    pub fn continues(&mut self, id: Uuid, attempt: u32) {
        (self.id, self.id_text, self.attempt) = (id, id.to_string(), attempt);
    }

    fn record(&self, kind: Kind) -> Record<'_> {
        let text = Cow::Borrowed::<str>;
        let tool = self.tool;
        Record {
            kind,
            call_id: Some(text(&self.id_text)),
            attempt: (self.attempt > 1).then_some(u64::from(self.attempt)),
            principal: Some(text(&self.caller.principal.id)),
            agent: Some(text(self.caller.principal.name())),
            on_behalf_of: self.caller.principal.token.as_ref().and_then(|token| token.on_behalf_of.as_deref()).map(text),
            target: tool.map(|tool| text(&tool.policy_name)).or(self.named.map(|name| text(beginning(name)))),
            upstream: tool.map(|tool| text(&tool.upstream_id)),
            tier: tool.map(|tool| text(tool.tier.as_str())),
            run: self.run.map(text),
            ..Record::default()
        }
    }

    fn full(&self, kind: Kind, key: &ValueKey) -> Record<'_> {
        let text = Cow::Borrowed::<str>;
        let mut record = self.record(kind);
        record.jsonrpc_id = self.jsonrpc_id.map(|id| text(id.as_json()));
        record.method = Some(text(beginning(self.method)));
        record.credential_id = Some(text(&self.caller.principal.credential));
        record.actors = self.caller.principal.token.iter().flat_map(|token| &token.actors).map(|actor| text(actor)).collect();
        record.client = self.caller.client.as_deref().map(text);
        record.peer = self.caller.peer.as_deref().map(text);
        record.session = self.caller.session.as_deref().map(text);
        record.transport = Some(text(self.caller.transport));
        record.protocol_version = self.caller.revision.map(|revision| text(revision.as_str()));
        record.trace_id = self.trace.map(|context| text(context.trace));
        record.span_id = self.trace.map(|context| text(context.span));
        record.policy_version = Some(text(self.policy_version));
        record.rule_ids = self.rules.iter().map(|rule| text(rule.as_str())).collect();
        record.conditions = self.conditions.as_deref().map(text);
        record.labels_before = self.met.0.iter().map(|label| text(label)).collect();
        record.labels_after = self.met.1.iter().map(|label| text(label)).collect();
        record.obligations = self.obligations.iter().map(|obliged| Cow::Owned(obliged.to_string())).collect();
        record.shadow = self.shadow.as_deref().map(text);
        record.warnings = self.warnings.iter().map(|warning| text(warning)).collect();
        record.payload = self.payload.as_deref().map(text);
        record.approval_id = self.approval.as_deref().map(text);
        record.answers = self.answers.map(|responses| answers::shown(responses, key)).unwrap_or_default();
        if let Some(tool) = self.tool {
            record.tier_claimed = tool.tier_claimed;
            record.labels = tool.labels.iter().map(|label| text(label.as_str())).collect();
            record.idempotency_key = self.idempotency_key(tool, key).map(Cow::Owned);
            record.tool_def_hash = (!tool.hash_text.is_empty()).then(|| text(&tool.hash_text));
            let declared = Declared { fields: &tool.fields, names: &tool.argument_names, are_valid: self.valid };
            let view = redact::view(self.arguments.map(|(node, _)| node), declared, key);
            record.args = Some(Cow::Owned(view.text));
            record.args_hash = Some(Cow::Owned(view.digest));
            record.args_bytes = Some(self.arguments.map_or(0, |(_, bytes)| bytes) as u64);
        }
        record
    }
}

impl Audit {
    /// Writes to `log`; values are hashed under `keys`.
    pub fn new(log: Log, keys: impl Into<ValueKeys>, durability: DurabilityByTier, clock: Clock) -> Self {
        let floods = Coalescer::new(Floods::default(), MAX_FLOODS);
        Self {
            log,
            keys: keys.into(),
            durability,
            payloads: None,
            floods,
            steps: Steps::new(clock.now()),
            clock,
            traces: Traces::default(),
        }
    }

    /// Keeps payloads with these, where a call's are to be kept.
    #[must_use]
    pub fn keeping(self, payloads: Option<Payloads>) -> Self {
        Self { payloads: payloads.map(Arc::new), ..self }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Begins a trail when a message arrives.
    pub fn trail<'d>(
        &self,
        caller: &'d Caller,
        method: &'d str,
        jsonrpc_id: Option<&'d Id>,
        meta: Meta<'d, '_>,
        policy_version: &'d str,
    ) -> Trail<'d> {
        let id = Uuid::now_v7();
        let trace = meta.trace().or_else(|| caller.trace.as_deref().and_then(Context::parse));
        Trail {
            id,
            id_text: id.to_string(),
            started: Instant::now(),
            caller,
            method,
            jsonrpc_id,
            run: meta.run(),
            trace,
            marks: self.traced(id, method, trace),
            key: meta.idempotency_key().ok().flatten(),
            named: None,
            tool: None,
            arguments: None,
            valid: false,
            promises: false,
            answers: None,
            unread: None,
            rules: Vec::new(),
            obligations: Vec::new(),
            conditions: None,
            met: Default::default(),
            shadow: None,
            policy_version,
            waits: None,
            intent: None,
            attempt: 1,
            parked: false,
            approval: None,
            payload: None,
            held: None,
            charge: None,
            warnings: Vec::new(),
        }
    }

    /// Stores the intent, as durably as the tool's tier asks, and only then gives the proof that forwarding takes.
    ///
    /// # Errors
    /// `audit_unavailable` when it could not be stored in time: nothing may be done then.
    pub async fn intent<'d>(&self, trail: &mut Trail<'_>, cleared: Cleared<'d>) -> Result<Recorded<'d>, Error> {
        trail.enters(Stage::Intent);
        if cleared.records_payload() {
            Box::pin(self.keep_arguments(trail, Kind::Intent, cleared.invocation())).await?;
        }
        let stored = self.log.append(self.intent_entry(trail), self.durability_of(cleared.invocation().target)).await;
        let position = stored.map_err(|error| self.unrecorded(trail, error))?;
        trail.intent = Some((position.seq, Instant::now()));
        trail.enters(Stage::Forward);
        Ok(Recorded { cleared, seq: position.seq, met: trail.met.1.clone(), trace: trail.onward() })
    }

    async fn store_end(&self, entry: Entry, is_irreversible: bool) -> Result<(), AppendError> {
        if is_irreversible { self.log.append(entry, Durability::Sync).await.map(drop) } else { self.log.hand_over(entry) }
    }

    // Entries are made outside of what waits: a record held across a wait would make every call's state larger.
    fn intent_entry(&self, trail: &Trail<'_>) -> Entry {
        let mut record = trail.full(Kind::Intent, &self.keys.current());
        record.decision = Some("allow".into());
        record.cost = trail.tool.map(|tool| tool.cost);
        self.log.encode(&record)
    }

    fn durability_of(&self, tool: &Target) -> Durability {
        let plain_read = tool.tier == Tier::Read && !tool.labels.contains(&Label::Private);
        durable(if plain_read { self.durability.read } else { self.durability.other })
    }

    /// Closes the trail of a call: the outcome of its intent, or a refusal where none was stored.
    pub async fn close(&self, trail: &Trail<'_>, outcome: &Result<Ending, Error>) {
        let payload = if trail.payload.is_some() { Box::pin(self.keep_ending(trail, outcome)).await } else { None };
        match (trail.intent, outcome) {
            // The call goes on: its outcome comes with whoever takes it up, or ends it.
            (Some((seq, _)), Ok(Ending::Asks(questions))) if trail.parked => {
                if let Err(error) = self.log.hand_over(self.asked_entry(trail, seq, questions, payload)) {
                    tracing::error!(invocation = trail.id_text, %error, "what was asked could not be stored");
                }
            }
            (Some((seq, since)), _) => self.close_intent(trail, (seq, since), outcome, payload).await,
            (None, Err(error)) => self.refuse(trail, error).await,
            (None, Ok(Ending::Asks(questions))) => self.note_asked(trail, questions),
            // No result comes without an intent, since forwarding takes `Recorded`, but a stored one: its record is there already.
            (None, Ok(Ending::Complete(_))) => {}
        }
        self.tell(trail, outcome);
    }

    fn outcome_entry(
        &self,
        trail: &Trail<'_>,
        (seq, since): (u64, Instant),
        outcome: &Result<Ending, Error>,
        payload: Option<String>,
    ) -> Entry {
        let mut record = trail.record(Kind::Outcome);
        record.payload = payload.map(Cow::Owned);
        record.intent_seq = Some(seq);
        // A call that went on with answers began with its first request.
        record.duration_us = Some(micros(trail.started.min(since)));
        record.upstream_us = Some(micros(since));
        record.queue_us = trail.waits.and_then(|waits| since.checked_duration_since(waits)).map(as_micros);
        match outcome {
            // The server has not said what it did so far, and may go on with the answers.
            Ok(Ending::Asks(questions)) => {
                self.note_questions(&mut record, questions);
                record.outcome = Some("input_required".into());
                record.effect = Some(Effect::Unknown.as_str().into());
            }
            Ok(Ending::Complete(result)) => {
                record.outcome = Some(if result.is_error { "tool_error" } else { "ok" }.into());
                record.effect = Some(Effect::Done.as_str().into());
                record.result_bytes = Some(result.members.len() as u64);
                record.result_hash = Some(self.keys.current().hash(&result.members).into());
                record.schema_ok = (trail.promises && !result.is_error).then_some(true);
            }
            Err(error) => {
                record.outcome = Some(ending(error.code()).into());
                record.code = Some(error.facts().code.into());
                record.effect = Some(error.effect().as_str().into());
                record.schema_ok = (error.code() == Code::ResultInvalid).then_some(false);
                record.note = error.detail().map(|detail| Cow::Owned(detail.chars().take(200).collect()));
            }
        }
        self.log.encode(&record)
    }

    async fn close_intent(&self, trail: &Trail<'_>, intent: (u64, Instant), outcome: &Result<Ending, Error>, payload: Option<String>) {
        let entry = self.outcome_entry(trail, intent, outcome, payload);
        // Reply and record part ways here: a result is never hidden because its record could not be stored. The log has
        // closed its gate by then, so the next call is refused.
        let is_irreversible = trail.tool.is_some_and(|tool| tool.tier == Tier::Irreversible);
        if let Err(error) = self.store_end(entry, is_irreversible).await {
            tracing::error!(invocation = trail.id_text, %error, "the outcome could not be stored");
        }
    }

    /// Stores a record of something that is no call: what a person did, a change of policy, a start or a stop.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn event(&self, record: &Record<'_>) -> Result<(), Error> {
        self.log.append(self.log.encode(record), Durability::Sync).await.map(drop).map_err(unavailable)
    }

    /// Hands over a record that nobody waits for, such as a late reply.
    pub fn note(&self, record: &Record<'_>) {
        if let Err(error) = self.log.hand_over(self.log.encode(record)) {
            tracing::warn!(%error, kind = record.kind.as_str(), "a record could not be stored");
        }
    }

    /// The clock of the records.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn durable(asked: config::Durability) -> Durability {
    match asked {
        config::Durability::Write => Durability::Write,
        config::Durability::Sync => Durability::Sync,
    }
}

fn unavailable(error: AppendError) -> Error {
    Error::new(Code::AuditUnavailable, "the call could not be recorded, so nothing was done").retry_after_ms(1_000).operator(error)
}

/// As much of a name that a caller chose as a record keeps.
fn beginning(name: &str) -> &str {
    name.char_indices().nth(MAX_NAME).map_or(name, |(end, _)| &name[..end])
}

fn micros(since: Instant) -> u64 {
    as_micros(since.elapsed())
}

fn as_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
