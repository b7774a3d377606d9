//! Items of the checklist about what is sent to tool servers and taken from them.

use serde_json::json;

use crate::support::old_sse::OldServer;
use crate::support::{Site, until};

const POLICY: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n";

/// A server on HTTP+SSE behind a gateway, all of whose tools may be called.
fn old(server: &OldServer) -> Site {
    let tools = "tools:\n  echo: { tier: read }\n  die: { tier: reversible }\n  tell: { tier: read }\n";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", server.url());
    Site::empty().manifest("up", &manifest).pinned("up", &OldServer::tools()).policy(POLICY)
}

#[tokio::test]
async fn n58_a_server_that_refuses_post_with_405_is_reached_on_http_and_sse() {
    let server = OldServer::start().await;
    let site = old(&server);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__echo", json!({ "a": 1 })).await;
    assert_eq!((answer.code().as_str(), &answer.result()["content"][0]["text"]), ("ok", &json!(r#"{"a":1}"#)));

    let lost = gateway.client().call("up__die", json!({})).await;
    assert_eq!(lost.told(), "upstream_disconnected unknown");
    until("the stream comes back", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
    drop(gateway);

    // The next gateway on the same folder does not ask what it knows.
    let before = server.seen().len();
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(server.seen()[before], "GET /sse");
}
