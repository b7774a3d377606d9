//! What other systems are given of the log, in forms that do not change by accident.

use std::path::Path;

use doorward::audit::chain::Chain;
use doorward::audit::{Kind, Record};
use doorward::clock::Moment;
use serde_json::Value;

use crate::support::Site;
use crate::support::site::shipped;

/// A log that is the same each time: a call, its end, refusals with names that an attacker chose, and what a person did.
fn write(dir: &Path) {
    let full = |kind| Record {
        call_id: Some("01990000-0000-7000-8000-000000000001".into()),
        method: Some("tools/call".into()),
        principal: Some("agent:demo".into()),
        agent: Some("demo".into()),
        credential_id: Some("key:1a2b".into()),
        peer: Some("127.0.0.1:40000".into()),
        run: Some("run-1".into()),
        transport: Some("http".into()),
        upstream: Some("up".into()),
        target: Some("up__save".into()),
        tier: Some("reversible".into()),
        policy_version: Some("sha256:00ff".into()),
        ..Record::new(kind)
    };
    let intent = Record {
        args: Some(r#"{"text":"hmac:ab12:ffeeddccbbaa99887766554433221100"}"#.into()),
        args_hash: Some("hmac:ab12:00112233445566778899aabbccddeeff".into()),
        args_bytes: Some(14),
        decision: Some("allow".into()),
        rule_ids: vec!["R1".into()],
        ..full(Kind::Intent)
    };
    let outcome = Record {
        intent_seq: Some(1),
        outcome: Some("ok".into()),
        effect: Some("done".into()),
        duration_us: Some(12_345),
        upstream_us: Some(12_000),
        ..full(Kind::Outcome)
    };
    let denied = |target: &'static str, note: &'static str| Record {
        target: Some(target.into()),
        decision: Some("deny".into()),
        code: Some("policy_denied".into()),
        effect: Some("none".into()),
        rule_ids: vec!["D1".into(), "D2".into()],
        note: Some(note.into()),
        ..full(Kind::Refusal)
    };
    let person =
        Record { actor: Some("alice".into()), action: Some("pin".into()), subject: Some("up".into()), ..Record::new(Kind::Person) };
    let all = [intent, outcome, denied("=HYPERLINK(\"http://evil\",\"x\")", "a|b=c\\d\r\nCEF:0|x"), denied("@SUM(1)", "-1+2"), person];
    let (mut chain, mut out) = (Chain::first("main"), Vec::new());
    for (number, record) in all.iter().enumerate() {
        let moment = Moment { unix_nanos: 1_795_255_200_000_000_000 + number as i64 * 1_000_000, boot_micros: 7, boot_id: None };
        (chain, _) = chain.seal(&record.encode("main", moment), number as u64 + 1, &mut out);
    }
    let folder = dir.join("main/segments");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("00000000000000000001.jsonl"), out).unwrap();
}

async fn exported(dir: &Path, format: &str, more: &[&str]) -> String {
    let words = ["audit", "export", "--dir", dir.to_str().unwrap(), "--format", format];
    let done = Site::empty().run(&[&words[..], more].concat()).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out
}

#[tokio::test]
async fn every_form_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    for format in ["ndjson", "csv", "ocsf", "cef"] {
        let text = exported(dir.path(), format, &[]).await;
        let file = shipped(&format!("tests/golden/export.{format}"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == text, "{} differs; look at it with UPDATE_GOLDEN=1 and `git diff`", file.display());
        assert_eq!(text.lines().count(), 5 + usize::from(format == "csv"), "one record is one line: {format}");
    }
}

#[tokio::test]
async fn an_exported_event_says_what_proves_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let stored = std::fs::read_to_string(dir.path().join("main/segments/00000000000000000001.jsonl")).unwrap();
    let leaf = |line: &str| {
        let body = format!("{}}}", line.split(",\"chain\":").next().unwrap());
        doorward::seal::hex(&doorward::seal::sha256(&[&[0], body.as_bytes()].concat()))
    };
    for (format, place) in [("ndjson", "/leaf"), ("ocsf", "/unmapped/leaf")] {
        for (event, line) in exported(dir.path(), format, &[]).await.lines().zip(stored.lines()) {
            assert_eq!(serde_json::from_str::<Value>(event).unwrap().pointer(place).unwrap(), &Value::from(leaf(line)), "{format}");
        }
    }
    for format in ["csv", "cef"] {
        let text = exported(dir.path(), format, &["--kind", "intent"]).await;
        assert!(text.contains(&leaf(stored.lines().next().unwrap())) && !text.contains("policy_denied"), "{text}");
    }
}
