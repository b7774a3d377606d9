//! How long a call may take: as the operator says, or less where the agent says so, and the next hop is told.

use serde_json::{Value, json};

use crate::mcp_checklist::upstreams::on_pipes;
use crate::support::{Answer, Ask, Does, Serving, Site, Upstream};

/// A call that says how long its agent waits.
async fn patient(gateway: &Serving, meta: Value) -> Answer {
    let params = json!({ "name": "up__save", "arguments": {}, "_meta": meta });
    gateway.client().send(&Ask::modern("tools/call", params)).await
}

/// What the server was told of the time that is left.
fn left(upstream: &Upstream) -> u64 {
    upstream.calls().last().unwrap().json()["params"]["_meta"]["dev.doorward/timeoutMs"].as_u64().unwrap()
}

#[tokio::test]
async fn an_agents_own_deadline_ends_its_call_where_it_is_shorter() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 600000");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;

    assert_eq!(patient(&gateway, json!({ "dev.doorward/timeoutMs": 300 })).await.told(), "upstream_timeout unknown");
    assert!(left(&upstream) <= 300);
    let ask = Ask::call("up__save", json!({})).with("Doorward-Timeout-Ms", "300");
    assert_eq!(gateway.client().send(&ask).await.told(), "upstream_timeout unknown");
    assert!(left(&upstream) <= 300);
    upstream.abandoned(2).await;
    let session = gateway.client().initialize("2025-06-18").await;
    let params = json!({ "name": "up__save", "arguments": {}, "_meta": { "dev.doorward/timeoutMs": 300 } });
    assert_eq!(session.send("tools/call", &params).await.told(), "upstream_timeout unknown");
}

#[tokio::test]
async fn an_agent_cannot_wait_longer_than_the_operator_says() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 100");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    for timeout in [json!(600_000), json!(u64::MAX), json!(0), json!(-1), json!("soon"), json!(1.5), Value::Null] {
        assert_eq!(patient(&gateway, json!({ "dev.doorward/timeoutMs": timeout })).await.code(), "upstream_timeout", "{timeout}");
        assert!(left(&upstream) <= 100, "{timeout}");
        upstream.does("save", Does::Echo);
        assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");
        upstream.does("save", Does::Hangs);
    }
}

#[tokio::test]
async fn an_agent_waits_for_a_connection_no_longer_than_it_says() {
    let upstream = Upstream::start().await;
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/mcp", nobody.local_addr().unwrap());
    let manifest = format!(
        "transport: {{ http: {{ url: \"{url}\" }} }}\ndefaults: {{ connect_grace_ms: 60000 }}\ntools:\n  save: {{ tier: reversible }}\n"
    );
    let site = Site::of(&upstream).manifest("up", &manifest);
    let gateway = site.serve().await;
    assert_eq!(patient(&gateway, json!({ "dev.doorward/timeoutMs": 200 })).await.told(), "upstream_unavailable none");
    assert!(site.of_kind("intent").is_empty());
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_ends_the_call() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 600000, first_byte_timeout_ms: 100");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.told(), "upstream_timeout unknown");
    site.recorded("outcome", "outcome", "timed_out").await;
}

#[tokio::test]
async fn progress_lets_a_call_last_longer_but_not_for_ever() {
    let site = on_pipes("legacy", &["progressing"], "timeout_ms: 1000, max_timeout_ms: 1500");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__progressing", json!({})).await.told(), "upstream_timeout unknown");
    let outcome = site.recorded("outcome", "outcome", "timed_out").await;
    let took: u64 = outcome["upstream_us"].as_str().map_or_else(|| outcome["upstream_us"].as_u64().unwrap(), |text| text.parse().unwrap());
    assert!(took >= 1_500_000, "{outcome}");
}

#[test]
fn the_manifest_of_the_operators_page_loads() {
    let page = std::fs::read_to_string(crate::support::site::shipped("docs/operators.md")).unwrap();
    let block = page.split("```yaml\n").find(|block| block.starts_with("upstream: reports\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reports.yaml");
    std::fs::write(&file, block.split("```").next().unwrap()).unwrap();
    let manifest = doorward::catalog::manifest::Manifest::load(&file).unwrap();
    let (defaults, build) = (&manifest.defaults, &manifest.tools["build"]);
    assert_eq!((defaults.first_byte_timeout_ms.unwrap().value(), defaults.queue.value(), defaults.retries.value()), (5_000, 64, 1));
    assert_eq!(build.max_timeout_ms.unwrap().value(), 600_000);
}
