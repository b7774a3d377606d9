//! Tool servers that do not answer, or not as they should: what the agent is told of the effect, and that others go on.

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use crate::support::{Does, Serving, Site, Upstream, until};

const ALL: &str = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, two__*, reversible, -, allow\np, R3, agent:demo, up__pay, irreversible, -, allow\n";

/// A server at an address that refuses connections, for as long as the socket is kept.
fn dead() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/mcp", socket.local_addr().unwrap());
    (socket, url)
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_nobody_knows_whether_it_acted() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 100");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__save", json!({})).await;

    assert_eq!(answer.told(), "upstream_timeout unknown");
    assert_eq!((&answer.error()["retryable"], &answer.error()["origin"]), (&json!(false), &json!("upstream")));
    assert_eq!(site.ends(1).await, ["upstream_timeout unknown"]);
    assert_eq!(site.of_kind("outcome")[0]["outcome"], "timed_out");
    upstream.abandoned(1).await;
}

#[tokio::test]
async fn a_read_that_timed_out_may_be_sent_again() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 100");
    upstream.does("echo", Does::Hangs);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__echo", json!({})).await;
    assert_eq!(answer.told(), "upstream_timeout unknown");
    assert_eq!(answer.error()["retryable"], true);
}

#[tokio::test]
async fn a_dead_server_costs_its_own_tools_only() {
    let upstream = Upstream::start().await;
    let (_socket, url) = dead();
    let manifest = format!(
        "transport: {{ http: {{ url: \"{url}\" }} }}\ndefaults: {{ connect_grace_ms: 2000 }}\ntools:\n  save: {{ tier: reversible }}\n"
    );
    let site = Site::empty().upstream("up", &upstream).manifest("two", &manifest).pinned("two", &upstream.tools()).policy(ALL);
    let gateway = site.serve().await;

    let answer = gateway.client().call("two__save", json!({})).await;

    assert_eq!(answer.told(), "upstream_unavailable none");
    assert_eq!(answer.error()["retryable"], true);
    assert!(answer.error()["retry_after_ms"].as_u64().is_some());
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");
    assert_eq!(site.ends(1).await, ["ok done"], "what never left has no intent");
    assert!(gateway.client().tools().await.contains(&"two__save".to_owned()), "it is listed from the lock");
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_midst_leaves_the_effect_unknown() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Disconnects);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__save", json!({})).await;
    assert_eq!(answer.told(), "upstream_disconnected unknown");
    assert_eq!(upstream.calls().len(), 1, "a call is never sent twice");
    assert_eq!(site.ends(1).await, ["upstream_disconnected unknown"]);
}

#[tokio::test]
async fn what_is_no_answer_is_told_as_such() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for (does, told) in [
        (Does::Says("nonsense"), "upstream_protocol_error unknown"),
        (Does::Says(r#"{"jsonrpc":"2.0","id":999999,"result":{"content":[]}}"#), "upstream_protocol_error unknown"),
        (Does::Says(""), "upstream_protocol_error unknown"),
        (Does::Result(json!([])), "upstream_protocol_error unknown"),
        (Does::Result(json!({ "content": "text" })), "upstream_protocol_error unknown"),
        (Does::Result(json!({ "content": [], "resultType": "strange" })), "upstream_protocol_error unknown"),
        (Does::Error(-32603, "broken"), "upstream_error unknown"),
        (Does::Error(-32602, "no such thing"), "upstream_error none"),
        (Does::Status(500), "upstream_unavailable unknown"),
        (Does::Status(403), "upstream_unavailable none"),
    ] {
        upstream.does("save", does.clone());
        // A server that failed is asked again whether it is there before the next call goes out.
        let answer = settled(&gateway).await;
        assert_eq!(answer, told, "{does:?}");
    }
}

/// What the call is told, once the server is connected and the breaker lets it through.
async fn settled(gateway: &Serving) -> String {
    until("an answer of the server", async || {
        let answer = gateway.client().call("up__save", json!({})).await;
        let from_here = ["circuit_open", "the tool server `up` is not connected"];
        let text = answer.text();
        (!from_here.iter().any(|words| text.contains(words))).then(|| answer.told())
    })
    .await
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_left_alone_for_a_while() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 20");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;

    let open = until("an open circuit", async || {
        let answer = gateway.client().call("up__save", json!({})).await;
        (answer.code() == "circuit_open").then_some(answer)
    });
    let open = open.await;

    assert_eq!(open.told(), "circuit_open none");
    assert!(open.error()["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0));
    let reached = upstream.calls().len();
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "circuit_open");
    assert_eq!(upstream.calls().len(), reached);
}

#[tokio::test]
async fn results_beyond_the_manifests_bound_are_not_delivered() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "max_result_bytes: 1024");
    upstream.does("save", Does::Result(crate::support::upstream::text(&"x".repeat(5_000))));
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__save", json!({})).await;
    assert_eq!(answer.told(), "result_too_large done");
    assert!(!answer.text().contains("xxx"));
}

#[tokio::test]
async fn progress_reaches_the_agent_under_its_own_token() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 300");
    upstream.does("save", Does::Progress);
    let gateway = site.serve().await;
    let meta = json!({ "progressToken": "mine" });
    let ask = crate::support::Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": meta }));

    let mut open = gateway.client().open(&ask).await;

    assert_eq!(open.head().await.header("content-type"), Some("text/event-stream"));
    let first = open.chunk().await.unwrap();
    let progress: Value = serde_json::from_str(first.split("data: ").nth(1).unwrap().trim()).unwrap();
    assert_eq!((&progress["params"]["progressToken"], &progress["params"]["progress"]), (&json!("mine"), &json!(1)));
    let last = open.chunk().await.unwrap();
    assert!(last.contains("upstream_timeout"), "{last}");
    assert_eq!(open.chunk().await, None);
}

#[tokio::test]
async fn progress_that_comes_with_the_answer_is_not_lost() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let at_once = CancellationToken::new();
    at_once.cancel();
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1 } });
    upstream.does("save", Does::Tells(vec![progress], at_once));
    let gateway = site.serve().await;
    let meta = json!({ "progressToken": "mine" });
    let ask = crate::support::Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": meta }));

    let text = gateway.client().send(&ask).await.text();

    let said: Vec<Value> =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(said.len(), 2, "{text}");
    assert_eq!(said[0]["params"]["progressToken"], "mine");
    assert_eq!(said[1]["id"], ask.id());
}

#[tokio::test]
async fn a_server_that_comes_back_is_connected_again() {
    let (socket, url) = dead();
    let upstream = Upstream::start().await;
    let manifest = format!("transport: {{ http: {{ url: \"{url}\" }} }}\ntools:\n  save: {{ tier: reversible }}\n");
    let site =
        Site::empty().manifest("up", &manifest).pinned("up", &upstream.tools()).policy(&format!("{}\n", ALL.lines().next().unwrap()));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "upstream_unavailable");

    let address = socket.local_addr().unwrap();
    drop(socket);
    let back = Upstream::at(address).await;

    until("the connection", async || (gateway.client().call("up__save", json!({})).await.code() == "ok").then_some(())).await;
    assert!(!back.calls().is_empty());
}
