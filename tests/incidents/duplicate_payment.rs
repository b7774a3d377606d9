//! A customer was charged twice: which calls carried the invoice, were they the same call, and what shows that to the bank?

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
    assert!(gateway.stop().await.0.success());

    let carried = lines(&site, "doorward audit find --value TEXT --tool TOOL", &[("TEXT", "INV-2026-17"), ("TOOL", "up__pay")]).await;
    let hash = carried[0]["args_hash"].as_str().unwrap().to_owned();
    let packed = lines(&site, "doorward audit pack --args-hash HASH --out FILE", &[("HASH", &hash), ("FILE", "bank.tar")]).await;

    assert_eq!(carried.len(), 2, "{carried:?}");
    assert_ne!(carried[0]["call_id"], carried[1]["call_id"], "two calls, not one told twice");
    assert_eq!(packed[0]["records"], json!(4), "two calls with the same arguments, each with its end: {packed:?}");
    assert_eq!((&packed[0]["tools"], &packed[0]["not_proved"]), (&json!(1), &json!([])), "{packed:?}");
    let begun = site.of_kind("lifecycle").into_iter().find(|record| record["origin"] == "main").unwrap();
    let key = begun["log_key"].as_str().unwrap().to_owned();
    let bank = site.run(&["audit", "verify", "--pack", "bank.tar", "--key", &key]).await;
    assert_eq!((bank.code, bank.out.starts_with("holds: 4 of 4 records")), (0, true), "{bank:?}");
    assert!(!site.records().iter().any(|record| record.to_string().contains("INV-2026-17")), "the value is nowhere in the log");
}
