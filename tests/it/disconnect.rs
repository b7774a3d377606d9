//! An agent that hangs up: in 2026-07-28 that cancels its call, in the handshake revisions it does not.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Ask, Does, Site, Upstream};

#[tokio::test]
async fn a_modern_client_that_hangs_up_cancels_its_call_upstream() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    let open = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;

    drop(open);

    upstream.abandoned(1).await;
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
    assert_eq!(site.of_kind("outcome")[0]["outcome"], "cancelled");
}

#[tokio::test]
async fn a_modern_client_that_leaves_its_stream_cancels_too() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Progress);
    let gateway = site.serve().await;
    let params = json!({ "name": "up__save", "arguments": {}, "_meta": { "progressToken": 7 } });
    let mut open = gateway.client().open(&Ask::modern("tools/call", params)).await;
    open.head().await;
    open.chunk().await.unwrap();

    drop(open);

    upstream.abandoned(1).await;
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
}

#[tokio::test]
async fn a_legacy_client_that_hangs_up_leaves_its_call_running() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let gateway = site.serve().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let open = gateway.client().open(&session.call("up__save", &json!({}))).await;
    upstream.got(1).await;

    drop(open);
    // Whatever the hang-up did has happened when a later request has been answered.
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    go.cancel();

    assert_eq!(site.ends(2).await, ["ok done", "ok done"]);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_midst_of_its_body_has_called_nothing() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let whole = Ask::call("up__save", json!({}));
    let half = whole.clone().with("Content-Length", &whole.body.len().to_string()).body(&whole.body[..whole.body.len() / 2]);

    drop(gateway.client().open(&half).await);

    assert_eq!(site.recorded("refusal", "note", "the body broke off").await["code"], "malformed_request");
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn one_that_hangs_up_disturbs_no_other() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let gateway = site.serve().await;
    let stays = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    let leaves = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(2).await;

    drop(leaves);
    upstream.abandoned(1).await;
    go.cancel();

    assert_eq!(stays.answer().await.code(), "ok");
    let mut ends = site.ends(2).await;
    ends.sort();
    assert_eq!(ends, ["cancelled unknown", "ok done"]);
}
