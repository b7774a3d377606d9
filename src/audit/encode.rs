//! A record's canonical bytes: RFC 8785 (sorted keys, least escapes, no spaces), integers from 2^53 up as strings, times as RFC 3339 strings.
//!
//! Owns: the order and form of fields. Leaves to others: `seq`, which the writer fills in, and `chain` (`chain`).
//!
//! INVARIANT: no record holds a NUL or a line feed.

use std::borrow::Cow;

use super::record::{Kind, Record, Text, VERSION};
use crate::clock::{self, Moment};
use crate::mcp::canonical::write_string;

/// A record's bytes but for its `seq` and `chain`: made by the caller, outside the log's lock.
#[derive(Clone, Debug)]
pub struct Entry {
    bytes: Vec<u8>,
    seq_at: usize,
    kind: Kind,
    intent_seq: Option<u64>,
}

impl Entry {
    /// The line up to the digits of `seq`.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.seq_at]
    }

    /// The line after the digits of `seq`, up to where `chain` goes; the object is still open.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[self.seq_at..]
    }

    /// What the record reports.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The intent that this outcome ends.
    pub fn intent_seq(&self) -> Option<u64> {
        self.intent_seq
    }

    /// The size of the line to come, at most.
    pub fn line_bytes(&self) -> u64 {
        // 20 digits of seq, 76 of the chain field, the line feed.
        self.bytes.len() as u64 + 97
    }
}

impl Record<'_> {
    /// The record's canonical bytes for this origin and time.
    pub fn encode(&self, origin: &str, now: Moment) -> Entry {
        // Holds all but records with large arguments: one allocation, of a size that glibc keeps at hand (up to 1,032 bytes).
        let mut fields = Fields(Vec::with_capacity(1_000.max(2 * self.args.as_ref().map_or(0, |args| args.len()))));
        self.fields_before_seq(&mut fields, origin, now);
        fields.key("seq");
        let seq_at = fields.0.len();
        self.fields_after_seq(&mut fields, now);
        // Each field was written with a comma before it; the first comma is where the object opens.
        fields.0[0] = b'{';
        Entry { bytes: fields.0, seq_at, kind: self.kind, intent_seq: self.intent_seq }
    }

    fn fields_before_seq(&self, out: &mut Fields, origin: &str, now: Moment) {
        out.text("action", &self.action);
        out.text("actor", &self.actor);
        out.list("actors", &self.actors);
        out.text("after", &self.after);
        out.text("agent", &self.agent);
        out.list("answers", &self.answers);
        out.text("approval_id", &self.approval_id);
        out.json("args", &self.args);
        out.number("args_bytes", self.args_bytes);
        out.text("args_hash", &self.args_hash);
        out.number("attempt", self.attempt);
        out.text("before", &self.before);
        if let Some(boot) = now.boot_id.filter(|_| self.kind == Kind::Lifecycle) {
            out.word("boot_id", boot);
        }
        out.number("bytes", self.bytes);
        out.text("call_id", &self.call_id);
        out.text("client", &self.client);
        out.text("code", &self.code);
        out.json("conditions", &self.conditions);
        out.number("cost", self.cost);
        out.number("count", self.count);
        out.text("credential_id", &self.credential_id);
        out.text("decision", &self.decision);
        out.list("details", &self.details);
        out.number("duration_us", self.duration_us);
        out.text("effect", &self.effect);
        out.text("idempotency_key", &self.idempotency_key);
        out.number("intent_seq", self.intent_seq);
        out.text("jsonrpc_id", &self.jsonrpc_id);
        out.word("kind", self.kind.as_str());
        out.list("labels", &self.labels);
        out.list("labels_after", &self.labels_after);
        out.list("labels_before", &self.labels_before);
        out.text("limit", &self.limit);
        out.text("log_key", &self.log_key);
        out.number("message_bytes", self.message_bytes);
        out.text("message_hash", &self.message_hash);
        out.text("method", &self.method);
        out.number("mono_us", Some(now.boot_micros));
        out.list("near_rules", &self.near_rules);
        out.text("note", &self.note);
        out.list("obligations", &self.obligations);
        out.text("on_behalf_of", &self.on_behalf_of);
        out.number("open_from", self.open_from);
        out.list("openers", &self.openers);
        out.word("origin", origin);
        out.text("outcome", &self.outcome);
        out.text("payload", &self.payload);
        out.list("payload_keys", &self.payload_keys);
        out.text("peer", &self.peer);
        out.text("policy_version", &self.policy_version);
        out.text("principal", &self.principal);
        out.text("protocol_version", &self.protocol_version);
        out.number("queue_us", self.queue_us);
        out.text("reason", &self.reason);
        out.text("replay_of", &self.replay_of);
        out.number("result_bytes", self.result_bytes);
        out.text("result_hash", &self.result_hash);
        out.number("retry_after_ms", self.retry_after_ms);
        out.list("rule_ids", &self.rule_ids);
        out.text("run", &self.run);
        out.flag("schema_ok", self.schema_ok);
    }

    fn fields_after_seq(&self, out: &mut Fields, now: Moment) {
        out.text("session", &self.session);
        out.text("sha256", &self.sha256);
        out.text("shadow", &self.shadow);
        out.text("span_id", &self.span_id);
        out.text("subject", &self.subject);
        out.text("target", &self.target);
        out.list("targets", &self.targets);
        out.text("tier", &self.tier);
        out.flag("tier_claimed", self.tier_claimed.then_some(true));
        out.word("time", &clock::rfc3339(now.unix_nanos));
        out.text("tool_def_hash", &self.tool_def_hash);
        out.text("trace_id", &self.trace_id);
        out.text("transport", &self.transport);
        out.text("upstream", &self.upstream);
        out.number("upstream_us", self.upstream_us);
        out.number("v", Some(VERSION));
        out.text("waiver", &self.waiver);
        out.list("warnings", &self.warnings);
        out.number("window_us", self.window_us);
    }
}

struct Fields(Vec<u8>);

impl Fields {
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    #[inline]
    fn text(&mut self, key: &'static str, value: &Text<'_>) {
        if let Some(value) = value {
            self.word(key, value);
        }
    }

    #[inline]
    fn word(&mut self, key: &'static str, value: &str) {
        self.key(key);
        write_string(value, &mut self.0);
    }

    /// Canonical JSON text as it is. Text that could break the line is stored as a string instead.
    fn json(&mut self, key: &'static str, value: &Text<'_>) {
        let Some(value) = value else { return };
        self.key(key);
        if value.is_empty() || value.bytes().any(|byte| byte < 0x20) {
            write_string(value, &mut self.0);
        } else {
            self.0.extend_from_slice(value.as_bytes());
        }
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: Option<u64>) {
        let Some(value) = value else { return };
        self.key(key);
        if value < MAX_EXACT {
            push_digits(&mut self.0, value);
        } else {
            self.0.push(b'"');
            push_digits(&mut self.0, value);
            self.0.push(b'"');
        }
    }

    #[inline]
    fn flag(&mut self, key: &'static str, value: Option<bool>) {
        if let Some(value) = value {
            self.key(key);
            self.0.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }

    fn list(&mut self, key: &'static str, values: &[Cow<'_, str>]) {
        if values.is_empty() {
            return;
        }
        self.key(key);
        for (index, value) in values.iter().enumerate() {
            self.0.push(if index == 0 { b'[' } else { b',' });
            write_string(value, &mut self.0);
        }
        self.0.push(b']');
    }
}

/// Appends the decimal digits of `value`.
pub(super) fn push_digits(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `bytes` in lower-case hexadecimal.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";
/// 2^53: from here on a double cannot hold every integer (RFC 8785, appendix D).
const MAX_EXACT: u64 = 1 << 53;
