//! The index behind a running gateway: filled unasked, and nothing that a call or an answer needs.

use std::fs;

use doorward::audit::chain::Chain;
use doorward::audit::index::column::CHUNK;
use doorward::audit::{Kind, Record};
use doorward::clock::Moment;
use serde_json::json;

use crate::support::{Site, Upstream};

/// Another log beside the gateway's, long enough to be worth an index, and a little longer than a chunk of it.
fn with_long_log(site: &Site) {
    let segments = site.path("var/audit/local-9/segments");
    fs::create_dir_all(&segments).unwrap();
    let (mut chain, mut out) = (Chain::first("local-9"), Vec::new());
    let note = "a record that is as long as those of calls are, ".repeat(20);
    for seq in 1..=CHUNK as u64 + 100 {
        let actor = if seq % 1_000 == 0 { "rarely" } else { "often" };
        let record = Record { actor: Some(actor.into()), note: Some(note.as_str().into()), ..Record::new(Kind::Person) };
        let moment = Moment { unix_nanos: 1_795_255_200_000_000_000 + seq as i64, boot_micros: seq, boot_id: None };
        (chain, _) = chain.seal(&record.encode("local-9", moment), seq, &mut out);
    }
    fs::write(segments.join("00000000000000000001.jsonl"), out).unwrap();
}

async fn found(site: &Site, actor: &str) -> usize {
    let done = site.run(&["--json", "audit", "find", "--actor", actor]).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out.lines().count()
}

#[tokio::test]
async fn a_gateway_fills_the_index_unasked_and_does_without_it() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).meddled_with();
    with_long_log(&site);
    let mut gateway = site.serve().await;
    gateway.says("the index of the audit log has caught up").await;
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains(&format!("doorward_audit_records_indexed {CHUNK}")), "{metrics}");
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        // The journal is there only while somebody has the index open.
        let _may_be_gone = fs::remove_file(site.path("var/audit").join(file));
    }
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "as before" })).await.code(), "ok");
    assert_eq!((found(&site, "rarely").await, found(&site, "nobody").await), (8, 0));
    assert!(!gateway.said().contains("is not filled"), "{}", gateway.said());
    gateway.stop().await;
}

#[tokio::test]
async fn an_index_that_cannot_be_filled_is_told_once_and_neither_calls_nor_answers_need_it() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).meddled_with();
    with_long_log(&site);
    fs::create_dir(site.path("var/audit/index.db")).unwrap();
    let mut gateway = site.serve().await;
    gateway.says("the index of the audit log is not filled").await;
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "as before" })).await.code(), "ok");
    assert_eq!(found(&site, "rarely").await, 8);
    gateway.stop().await;
}
