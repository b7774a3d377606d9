//! Tests of the record form.

use std::borrow::Cow;

use serde_json::Value;

use super::{Kind, Record, Stored};

fn full() -> Record<'static> {
    let text = |word: &str| Some(Cow::Owned(format!("{word} é\u{1}\u{8}\"\\\n𝄞")));
    Record {
        kind: Kind::Intent,
        call_id: text("call"),
        intent_seq: Some(7),
        attempt: Some(1),
        jsonrpc_id: text("id"),
        method: text("method"),
        principal: text("principal"),
        agent: text("agent"),
        on_behalf_of: text("behalf"),
        credential_id: text("credential"),
        client: text("client"),
        peer: text("peer"),
        session: text("session"),
        run: text("run"),
        trace_id: text("trace"),
        transport: text("transport"),
        protocol_version: text("protocol"),
        upstream: text("upstream"),
        target: text("target"),
        targets: vec!["a\",\"seq\":1".into(), "b".into()],
        tier: text("tier"),
        tier_claimed: true,
        tool_def_hash: text("def"),
        args_hash: text("hash"),
        args: Some(r#"{"seq":9,"x":[1,"y"]}"#.into()),
        answers: vec!["q1 accept".into(), "q\"2".into()],
        args_bytes: Some((1 << 53) - 1),
        decision: text("decision"),
        code: text("code"),
        rule_ids: vec!["R1".into(), "R\"2".into()],
        policy_version: text("policy"),
        limit: text("limit"),
        outcome: text("outcome"),
        effect: text("effect"),
        duration_us: Some(1 << 53),
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
        open_from: Some(5),
        bytes: Some(6),
        sha256: text("sha"),
    }
}

fn line_of(record: &Record<'_>) -> String {
    let entry = record.encode("main", 1_795_255_200_123_456_789);
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
    assert_eq!(line, r#"{"kind":"refusal","origin":"main","seq":42,"time":"2026-11-21T10:00:00.123456789Z","v":1}"#);
}

#[test]
fn a_line_reads_back_as_the_record_it_was() {
    let read = Stored::parse(line_of(&full()).as_bytes()).unwrap();
    assert_eq!(read.record, full());
    assert_eq!((read.seq, read.origin.as_str()), (42, "main"));
    assert_eq!(read.unix_nanos(), 1_795_255_200_123_456_789);
}

#[test]
fn arguments_that_could_break_the_line_become_a_string() {
    let line = line_of(&Record { args: Some("{\n}".into()), ..Record::new(Kind::Intent) });
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["args"], "{\n}");
}
