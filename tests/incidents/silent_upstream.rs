//! A server stopped answering: which calls may have happened, and nobody knows?

use serde_json::json;

use super::{lines, told};
use crate::support::{Ask, Does, Site, Upstream};

#[tokio::test]
async fn calls_that_may_have_happened_are_told_apart_from_those_that_did_not() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 200");
    upstream.does("pay", Does::Hangs);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__pay", json!({ "text": "slow" })).await.code(), "upstream_timeout");
    site.ends(1).await;
    gateway.stop().await;
    let site = site.defaults(&upstream, "timeout_ms: 60000");
    let gateway = site.serve().await;
    let _open = gateway.client().open(&Ask::call("up__pay", json!({ "text": "cut off" }))).await;
    upstream.got(2).await;
    gateway.kill().await;

    let unknown = lines(&site, "doorward audit find --effect unknown --upstream NAME", &[("NAME", "up")]).await;
    let open = told(&site, "doorward audit unresolved", &[]).await;

    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!((&unknown[0]["target"], &unknown[0]["code"]), (&json!("up__pay"), &json!("upstream_timeout")));
    assert_eq!(open.lines().count(), 1, "{open}");
    assert!(open.starts_with("abandoned ") && open.contains("up__pay"), "{open}");
}
