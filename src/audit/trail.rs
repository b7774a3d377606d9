//! What one call gathers for the record, and the two records it leaves.
//!
//! INVARIANT: [`Recorded`], which forwarding takes, is made only here and only when the intent is stored.
//! INVARIANT: a trail is closed exactly once: by the outcome of its intent, or by a refusal where there was none.

mod answers;
mod parked;
mod watches;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use uuid::Uuid;

pub use self::parked::Open;
pub use self::watches::Watched;
use super::encode::Entry;
use super::log::{AppendError, Durability, Log};
use super::record::{Kind, Record};
use super::redact::{self, Declared, ValueKey};
use crate::approval::Cleared;
use crate::catalog::manifest::Label;
use crate::catalog::tier::Tier;
use crate::catalog::{self, Target};
use crate::clock::Clock;
use crate::config::{self, DurabilityByTier};
use crate::error::{Category, Code, Effect, Error};
use crate::invocation::{Caller, Invocation};
use crate::limit::Floods;
use crate::limit::flood::{Coalesced, Coalescer, Source, Verdict};
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Meta, Retry};
use crate::mcp::respond::Ending;
use crate::policy::RuleId;

/// Characters of a name that a caller chose which a record keeps.
const MAX_NAME: usize = 128;
/// Sources of refusals that are told apart; beyond them the floods of an agent share one count.
const MAX_FLOODS: usize = 4_096;

/// The log as the path uses it.
pub struct Audit {
    log: Log,
    key: ValueKey,
    durability: DurabilityByTier,
    floods: ArcSwap<Coalescer>,
    clock: Clock,
}

/// Proof that a call's intent is stored. Only [`Audit::intent`] makes one, and [`Audit::round`] for a call that goes on:
///
/// ```compile_fail,E0451
/// fn forged(cleared: doorward::approval::Cleared<'_>) -> doorward::audit::trail::Recorded<'_> {
///     doorward::audit::trail::Recorded { cleared, seq: 1 }
/// }
/// ```
#[derive(Debug)]
pub struct Recorded<'d> {
    cleared: Cleared<'d>,
    seq: u64,
}

impl<'d> Recorded<'d> {
    /// The call that was recorded.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.cleared.invocation()
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
    trace: Option<&'d str>,
    named: Option<&'d str>,
    tool: Option<&'d Target>,
    arguments: Option<(&'d Node<'d>, usize)>,
    valid: bool,
    answers: Option<&'d [u8]>,
    rules: Vec<RuleId>,
    policy_version: &'d str,
    intent: Option<(u64, Instant)>,
    attempt: u32,
    parked: bool,
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

    /// Notes the name that the agent asked for.
    pub fn asked_for(&mut self, name: &'d str) {
        self.named = Some(name);
    }

    /// Notes the tool that the name resolved to, and what it is called with.
    pub fn resolved(&mut self, tool: &'d Target, arguments: Option<&'d Node<'d>>) {
        self.tool = Some(tool);
        self.arguments = arguments.map(|node| (node, node.span().len()));
    }

    /// Notes that the tool's schema accepts the arguments.
    pub fn validated(&mut self) {
        self.valid = true;
    }

    /// Notes what the agent answers to what a server has asked.
    pub fn answered(&mut self, retry: Option<Retry<'d>>) {
        self.answers = retry.and_then(|retry| retry.responses);
    }

    /// Notes the rules that permitted it.
    pub fn permitted(&mut self, rules: &[RuleId]) {
        self.rules = rules.to_vec();
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
        record.client = self.caller.client.as_deref().map(text);
        record.peer = self.caller.peer.as_deref().map(text);
        record.session = self.caller.session.as_deref().map(text);
        record.transport = Some(text(self.caller.transport));
        record.protocol_version = self.caller.revision.map(|revision| text(revision.as_str()));
        record.trace_id = self.trace.map(text);
        record.policy_version = Some(text(self.policy_version));
        record.rule_ids = self.rules.iter().map(|rule| text(rule.as_str())).collect();
        record.answers = self.answers.map(|responses| answers::shown(responses, key)).unwrap_or_default();
        if let Some(tool) = self.tool {
            record.tier_claimed = tool.tier_claimed;
            record.tool_def_hash = Some(text(&tool.hash_text));
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
    /// Writes to `log`; values are hashed under `key`.
    pub fn new(log: Log, key: ValueKey, durability: DurabilityByTier, clock: Clock) -> Self {
        Self { log, key, durability, floods: ArcSwap::from_pointee(Coalescer::new(Floods::default(), MAX_FLOODS)), clock }
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
        Trail {
            id,
            id_text: id.to_string(),
            started: Instant::now(),
            caller,
            method,
            jsonrpc_id,
            run: meta.run(),
            trace: meta.trace_id(),
            named: None,
            tool: None,
            arguments: None,
            valid: false,
            answers: None,
            rules: Vec::new(),
            policy_version,
            intent: None,
            attempt: 1,
            parked: false,
        }
    }

    /// Stores the intent, as durably as the tool's tier asks, and only then gives the proof that forwarding takes.
    ///
    /// # Errors
    /// `audit_unavailable` when it could not be stored in time: nothing may be done then.
    pub async fn intent<'d>(&self, trail: &mut Trail<'_>, cleared: Cleared<'d>) -> Result<Recorded<'d>, Error> {
        let position =
            self.log.append(self.intent_entry(trail), self.durability_of(cleared.invocation().target)).await.map_err(unavailable)?;
        trail.intent = Some((position.seq, Instant::now()));
        Ok(Recorded { cleared, seq: position.seq })
    }

    async fn store_end(&self, entry: Entry, is_irreversible: bool) -> Result<(), AppendError> {
        if is_irreversible { self.log.append(entry, Durability::Sync).await.map(drop) } else { self.log.hand_over(entry) }
    }

    // Entries are made outside of what waits: a record held across a wait would make every call's state larger.
    fn intent_entry(&self, trail: &Trail<'_>) -> Entry {
        let mut record = trail.full(Kind::Intent, &self.key);
        record.decision = Some("allow".into());
        self.log.encode(&record)
    }

    fn durability_of(&self, tool: &Target) -> Durability {
        let plain_read = tool.tier == Tier::Read && !tool.labels.contains(&Label::Private);
        durable(if plain_read { self.durability.read } else { self.durability.other })
    }

    /// Closes the trail of a call: the outcome of its intent, or a refusal where none was stored.
    pub async fn close(&self, trail: &Trail<'_>, outcome: &Result<Ending, Error>) {
        match (trail.intent, outcome) {
            // The call goes on: its outcome comes with whoever takes it up, or ends it.
            (Some((seq, _)), Ok(Ending::Asks(questions))) if trail.parked => {
                if let Err(error) = self.log.hand_over(self.asked_entry(trail, seq, questions)) {
                    tracing::error!(invocation = trail.id_text, %error, "what was asked could not be stored");
                }
            }
            (Some((seq, since)), _) => self.close_intent(trail, seq, since, outcome).await,
            (None, Err(error)) => self.refuse(trail, error).await,
            // No result comes without an intent: forwarding takes `Recorded`.
            (None, Ok(_)) => {}
        }
    }

    fn outcome_entry(&self, trail: &Trail<'_>, seq: u64, since: Instant, outcome: &Result<Ending, Error>) -> Entry {
        let mut record = trail.record(Kind::Outcome);
        record.intent_seq = Some(seq);
        // A call that went on with answers began with its first request.
        record.duration_us = Some(micros(trail.started.min(since)));
        record.upstream_us = Some(micros(since));
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
                record.result_hash = Some(self.key.hash(&result.members).into());
            }
            Err(error) => {
                record.outcome = Some(ending(error.code()).into());
                record.code = Some(error.facts().code.into());
                record.effect = Some(error.effect().as_str().into());
                record.note = error.detail().map(|detail| Cow::Owned(detail.chars().take(200).collect()));
            }
        }
        self.log.encode(&record)
    }

    async fn close_intent(&self, trail: &Trail<'_>, seq: u64, since: Instant, outcome: &Result<Ending, Error>) {
        let entry = self.outcome_entry(trail, seq, since, outcome);
        // Reply and record part ways here: a result is never hidden because its record could not be stored. The log has
        // closed its gate by then, so the next call is refused.
        let is_irreversible = trail.tool.is_some_and(|tool| tool.tier == Tier::Irreversible);
        if let Err(error) = self.store_end(entry, is_irreversible).await {
            tracing::error!(invocation = trail.id_text, %error, "the outcome could not be stored");
        }
    }

    async fn refuse(&self, trail: &Trail<'_>, error: &Error) {
        // Names that the caller makes up are one flood, however many there are: so are the URIs of one server.
        let made_up = trail.tool.filter(|tool| tool.index.is_none()).map(|tool| match tool.kind {
            catalog::Kind::Resource => format!("resource:{}:*", tool.upstream_id),
            catalog::Kind::Prompt | catalog::Kind::Tool => format!("prompt:{}__*", tool.upstream_id),
        });
        let named = match (&made_up, trail.tool) {
            (Some(names), _) => names.as_str(),
            (None, Some(tool)) => &tool.policy_name,
            (None, None) => "(no tool of the catalog)",
        };
        let verdict = self.floods.load().note(self.clock.unix_nanos(), trail.caller.principal.name(), error.code(), named, &trail.id_text);
        if verdict == Verdict::Count {
            return;
        }
        if let Err(error) = self.log.append(self.refusal_entry(trail, error), Durability::Write).await {
            tracing::warn!(invocation = trail.id_text, %error, "a refusal could not be stored");
        }
    }

    fn refusal_entry(&self, trail: &Trail<'_>, error: &Error) -> Entry {
        let facts = error.facts();
        let mut record = trail.full(Kind::Refusal, &self.key);
        record.decision = Some(decision(error).into());
        record.code = Some(facts.code.into());
        record.effect = Some(error.effect().as_str().into());
        record.rule_ids = error.rule_ids().iter().map(|rule| Cow::Borrowed(rule.as_str())).collect();
        record.duration_us = Some(micros(trail.started));
        record.note = Some(error.detail().map_or_else(|| error.to_string(), str::to_owned).chars().take(300).collect::<String>().into());
        self.log.encode(&record)
    }

    /// Stores a record of something that is no call: what a person did, a change of policy, a start or a stop.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn event(&self, record: &Record<'_>) -> Result<(), Error> {
        self.log.append(self.log.encode(record), Durability::Sync).await.map(drop).map_err(unavailable)
    }

    /// Hands over a record of what a tool server did unasked; many of one sort become one with their number.
    pub fn note_upstream(&self, sort: &'static str, record: &Record<'_>) {
        let upstream = record.upstream.as_deref().unwrap_or_default();
        let call = record.call_id.as_deref().unwrap_or_default();
        let (now, count) = (self.clock.unix_nanos(), record.count.unwrap_or(1));
        let verdict = self.floods.load().note_many(now, Source::Upstream(upstream), (Code::UpstreamProtocolError, sort), call, count);
        if verdict == Verdict::Record {
            self.note(record);
        }
    }

    /// Hands over a record that nobody waits for, such as a late reply.
    pub fn note(&self, record: &Record<'_>) {
        if let Err(error) = self.log.hand_over(self.log.encode(record)) {
            tracing::warn!(%error, kind = record.kind.as_str(), "a record could not be stored");
        }
    }

    /// Stores the refusals that were counted in the windows that have ended, one record for each sort.
    pub fn store_counted(&self) {
        self.store_counted_until(self.clock.unix_nanos());
    }

    /// Stores all that was counted: at the stop no window comes to its end any more.
    pub fn store_all_counted(&self) {
        self.store_counted_until(i64::MAX);
    }

    fn store_counted_until(&self, unix_nanos: i64) {
        let drained = self.floods.load().drain(unix_nanos);
        drained.iter().for_each(|flood| self.note_flood(flood));
    }

    /// Counts refusals in another way from now on. What was counted is stored first.
    pub fn count_by(&self, floods: Floods) {
        let old = self.floods.swap(Arc::new(Coalescer::new(floods, MAX_FLOODS)));
        old.drain(i64::MAX).iter().for_each(|flood| self.note_flood(flood));
    }

    fn note_flood(&self, flood: &Coalesced) {
        let words = |text: &Option<Box<str>>| text.as_deref().map(|text| Cow::Owned(text.to_owned()));
        self.note(&Record {
            kind: Kind::Coalesced,
            agent: words(&flood.agent),
            upstream: words(&flood.upstream),
            target: words(&flood.target),
            code: flood.code.map(|code| code.facts().code.into()),
            count: Some(flood.count),
            window_us: u64::try_from((flood.to_unix_nanos - flood.from_unix_nanos) / 1_000).ok(),
            note: (!flood.first.is_empty()).then(|| format!("first counted invocation {}", flood.first).into()),
            ..Record::default()
        });
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
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn decision(error: &Error) -> &'static str {
    match (error.code(), error.facts().category) {
        (Code::RateLimited | Code::BudgetExhausted | Code::LoopDetected, _) => "limit",
        (Code::ApprovalRequired, _) => "needs_approval",
        (_, Category::Policy | Category::Authentication | Category::Approval) | (Code::ToolNotFound, _) => "deny",
        (_, Category::Request) => "invalid",
        _ => "unavailable",
    }
}

fn ending(code: Code) -> &'static str {
    match code {
        Code::UpstreamTimeout => "timed_out",
        Code::Cancelled => "cancelled",
        Code::Internal => "failed",
        _ => "upstream_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::DECISIONS;

    #[test]
    fn every_refusal_has_a_decision_that_can_be_asked_for() {
        for code in Code::ALL {
            assert!(DECISIONS.contains(&decision(&Error::new(*code, ""))), "{code:?}");
        }
    }
}
