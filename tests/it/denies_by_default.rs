//! Without a rule the answer is no, a deny wins, and the answer says which rule it was.

use serde_json::json;

use crate::support::{Site, Upstream};

#[tokio::test]
async fn without_a_rule_no_tool_exists() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy("");
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__echo", json!({})).await;

    assert_eq!(answer.wire(), (200, -32602, "tool_not_found".to_owned()));
    assert_eq!(gateway.client().tools().await, Vec::<String>::new());
    assert!(upstream.calls().is_empty());
    let refusal = site.recorded("refusal", "code", "tool_not_found").await;
    assert_eq!(refusal["note"], "no rule lets this agent see the tool");
}

#[tokio::test]
async fn what_a_rule_allows_is_called_and_recorded_before_and_after() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__save", json!({ "text": "hello" })).await;

    assert_eq!(answer.result()["content"][0]["text"], r#"{"text":"hello"}"#);
    assert_eq!(site.ends(1).await, ["ok done"]);
    let intent = &site.of_kind("intent")[0];
    assert_eq!((&intent["target"], &intent["agent"]), (&json!("up__save"), &json!("demo")));
    assert_eq!((&intent["rule_ids"], &intent["decision"]), (&json!(["R1"]), &json!("allow")));
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_deny_wins_over_every_allow_and_is_named() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, D1, role:any, up__save, any, -, deny\n";
    let site = site.policy(rows);
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__save", json!({})).await;

    assert_eq!(answer.told(), "policy_denied none");
    assert_eq!(answer.error()["rules"], json!(["D1"]));
    assert_eq!(answer.result()["isError"], true);
    assert!(upstream.calls().is_empty());
    assert_eq!(site.recorded("refusal", "code", "policy_denied").await["rule_ids"], json!(["D1"]));
}

#[tokio::test]
async fn an_allow_reaches_no_higher_than_its_tier() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy("p, R1, agent:demo, up__*, reversible, -, allow\n");
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__pay", json!({})).await;

    assert_eq!(answer.told(), "policy_denied none");
    let listed = gateway.client().tools().await;
    assert!(!listed.contains(&"up__pay".to_owned()) && listed.contains(&"up__save".to_owned()), "{listed:?}");
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn a_rule_for_one_agent_is_none_for_another() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;

    assert_eq!(gateway.other().call("up__echo", json!({})).await.code(), "tool_not_found");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(gateway.other().tools().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_emergency_deny_of_everything_loads_and_holds() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy("p, R1, agent:demo, up__*, reversible, -, allow\np, D0, role:any, *, any, -, deny\n");
    let gateway = site.serve().await;

    for tool in ["up__echo", "up__save", "up__typed"] {
        assert_eq!(gateway.client().call(tool, json!({})).await.told(), "policy_denied none", "{tool}");
    }
    assert!(upstream.calls().is_empty());
}
