//! What all agents share, one of them cannot have all of.

use crate::support::asking::{asked, call, forms, site};

#[tokio::test]
async fn one_agent_cannot_hold_every_process_that_may_ask() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    for _ in 0..3 {
        asked(&gateway.client(), "ask", &forms()).await;
    }

    let refused = gateway.client().send(&call("ask", &forms())).await;

    assert_eq!(refused.told(), "concurrency_limited none");
    assert!(refused.error()["retry_after_ms"].is_u64());
    site.recorded("outcome", "code", "concurrency_limited").await;
    asked(&gateway.other(), "ask", &forms()).await;
}
