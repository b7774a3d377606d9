//! Tests of the record form.

use std::borrow::Cow;

use serde_json::Value;

use crate::clock::Moment;

use super::{Kind, Record, Stored};

#[expect(clippy::too_many_lines, reason = "every field once")]
fn full() -> Record<'static> {
    let text = |word: &str| Some(Cow::Owned(format!("{word} é\u{1}\u{8}\"\\\n𝄞")));
    Record {
        kind: Kind::Intent,
        call_id: text("call"),
        intent_seq: Some(7),
        attempt: Some(1),
        idempotency_key: text("idempotency"),
        jsonrpc_id: text("id"),
        method: text("method"),
        principal: text("principal"),
        agent: text("agent"),
        on_behalf_of: text("behalf"),
        actors: vec!["gateway".into(), "a\"b".into()],
        credential_id: text("credential"),
        client: text("client"),
        peer: text("peer"),
        session: text("session"),
        run: text("run"),
        trace_id: text("trace"),
        span_id: text("span"),
        transport: text("transport"),
        protocol_version: text("protocol"),
        upstream: text("upstream"),
        target: text("target"),
        targets: vec!["a\",\"seq\":1".into(), "b".into()],
        tier: text("tier"),
        tier_claimed: true,
        labels: vec!["private".into()],
        labels_after: vec!["private".into(), "untrusted".into()],
        labels_before: vec!["untrusted".into()],
        tool_def_hash: text("def"),
        args_hash: text("hash"),
        args: Some(r#"{"seq":9,"x":[1,"y"]}"#.into()),
        answers: vec!["q1 accept".into(), "q\"2".into()],
        cost: Some(14),
        args_bytes: Some((1 << 53) - 1),
        message_hash: text("message"),
        message_bytes: Some(11),
        decision: text("decision"),
        reason: text("reason"),
        code: text("code"),
        rule_ids: vec!["R1".into(), "R\"2".into()],
        conditions: Some(r#"{"a":"true","b":"error"}"#.into()),
        near_rules: vec!["R3".into()],
        obligations: vec!["O1 approve:oncall".into(), "O\"2 redact".into()],
        policy_version: text("policy"),
        limit: text("limit"),
        log_key: text("key"),
        replay_of: text("earlier"),
        retry_after_ms: Some(12),
        details: vec!["type /path".into()],
        outcome: text("outcome"),
        effect: text("effect"),
        duration_us: Some(1 << 53),
        queue_us: Some(13),
        upstream_us: Some(u64::MAX),
        result_hash: text("result"),
        result_bytes: Some(0),
        schema_ok: Some(false),
        count: Some(3),
        window_us: Some(4),
        note: text("note"),
        actor: text("actor"),
        action: text("action"),
        subject: text("subject"),
        before: text("before"),
        after: text("after"),
        waiver: text("waiver"),
        warnings: vec!["B1 calls 70%".into()],
        open_from: Some(5),
        bytes: Some(6),
        sha256: text("sha"),
        shadow: text("sha256:00 allow R1"),
        ..of_payloads(text("payload"))
    }
}

/// The fields that tell of what is kept whole, and of an approval.
fn of_payloads(payload: Option<Cow<'static, str>>) -> Record<'static> {
    let payload_keys = vec!["0123456789abcdef".into()];
    let approval_id = Some("ap-0123456789".into());
    Record { approval_id, payload, payload_keys, openers: vec!["alice".into(), "bob".into()], ..Record::default() }
}

fn now() -> Moment {
    Moment { unix_nanos: 1_795_255_200_123_456_789, boot_micros: 86_400_000_001, boot_id: Some("boot") }
}

/// A line with every field of a record, but for what ends it.
pub(in crate::audit) fn full_line() -> String {
    line_of(&full())
}

fn line_of(record: &Record<'_>) -> String {
    let entry = record.encode("main", now());
    format!("{}{}{}}}", std::str::from_utf8(entry.head()).unwrap(), 42, std::str::from_utf8(entry.tail()).unwrap())
}

#[test]
fn every_field_stands_in_canonical_order_with_canonical_escapes() {
    let line = line_of(&full());
    let value: Value = serde_json::from_str(&line).unwrap();
    // `serde_json` keeps keys sorted by bytes, which is UTF-16 order for our ASCII names, and escapes as RFC 8785 does.
    assert_eq!(serde_json::to_string(&value).unwrap(), line);
    assert_eq!(value["seq"], 42);
    assert_eq!(value["v"], 1);
    assert_eq!(value["time"], "2026-11-21T10:00:00.123456789Z");
}

#[test]
fn integers_that_a_double_cannot_hold_are_strings() {
    let value: Value = serde_json::from_str(&line_of(&full())).unwrap();
    assert_eq!(value["args_bytes"], 9_007_199_254_740_991_u64);
    assert_eq!(value["duration_us"], "9007199254740992");
    assert_eq!(value["upstream_us"], "18446744073709551615");
}

#[test]
fn absent_fields_are_left_out() {
    let line = line_of(&Record::new(Kind::Refusal));
    assert_eq!(line, r#"{"kind":"refusal","mono_us":86400000001,"origin":"main","seq":42,"time":"2026-11-21T10:00:00.123456789Z","v":1}"#);
}

#[test]
fn a_line_reads_back_as_the_record_it_was() {
    let read = Stored::parse(line_of(&full()).as_bytes()).unwrap();
    assert_eq!(read.record, full());
    assert_eq!((read.seq, read.origin.as_str()), (42, "main"));
    assert_eq!(read.unix_nanos(), 1_795_255_200_123_456_789);
    assert_eq!((read.mono_us, read.boot_id), (Some(86_400_000_001), None));
}

#[test]
fn a_lifecycle_record_says_which_start_of_the_machine_the_time_since_boot_counts_from() {
    let line = line_of(&Record::new(Kind::Lifecycle));
    assert_eq!(Stored::parse(line.as_bytes()).unwrap().boot_id.as_deref(), Some("boot"));
}

#[test]
fn arguments_that_could_break_the_line_become_a_string() {
    let line = line_of(&Record { args: Some("{\n}".into()), ..Record::new(Kind::Intent) });
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["args"], "{\n}");
}
