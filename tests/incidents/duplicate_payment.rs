//! A customer was charged twice: which calls carried the invoice, and were they the same call?

use serde_json::json;

use super::lines;
use crate::support::{Site, Upstream};

#[tokio::test]
async fn both_payments_are_found_by_a_value_that_was_never_stored() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for invoice in ["INV-2026-17", "INV-2026-18", "INV-2026-17"] {
        assert_eq!(gateway.client().call("up__pay", json!({ "text": invoice })).await.code(), "ok");
    }
    site.ends(3).await;

    let carried = lines(&site, "doorward audit find --value TEXT --tool TOOL", &[("TEXT", "INV-2026-17"), ("TOOL", "up__pay")]).await;
    let hash = carried[0]["args_hash"].as_str().unwrap().to_owned();
    let same = lines(&site, "doorward audit find --args-hash HASH", &[("HASH", &hash)]).await;

    assert_eq!(carried.len(), 2, "{carried:?}");
    assert_ne!(carried[0]["call_id"], carried[1]["call_id"], "two calls, not one told twice");
    let places = |records: &[serde_json::Value]| records.iter().map(|record| record["seq"].clone()).collect::<Vec<_>>();
    assert_eq!(places(&same), places(&carried), "with the same arguments");
    assert!(!site.records().iter().any(|record| record.to_string().contains("INV-2026-17")), "the value is nowhere in the log");
}
