//! Conditions on the path: what an agent is told, what the record says, and an edit of `conditions.yaml` while the gateway runs.

use serde_json::json;

use crate::support::{Serving, Site, Upstream, until};

const ROWS: &str = "p, R1, agent:demo, up__save, reversible, drafts, allow\np, R2, agent:demo, up__echo, reversible, -, allow\n\
    p, D1, role:any, up__echo, any, shouts, deny\n";
const CONDITIONS: &str =
    "conditions:\n  drafts: { argument: /text, prefix: draft- }\n  shouts: { argument: /text, regex: \"[A-Z]+\", missing: false }\n";

async fn site(upstream: &Upstream) -> (Site, Serving) {
    let site = Site::of(upstream).policy(ROWS);
    site.write("policies/conditions.yaml", CONDITIONS);
    let gateway = site.serve().await;
    (site, gateway)
}

#[tokio::test]
async fn a_refusal_names_the_rule_and_its_condition_and_never_the_value() {
    let upstream = Upstream::start().await;
    let (site, gateway) = site(&upstream).await;

    let answer = gateway.client().call("up__save", json!({ "text": "sekrit-plan" })).await;

    assert_eq!(answer.told(), "policy_denied none");
    let said = answer.error().to_string();
    assert!(said.contains("R1 allows `up__save` when `drafts`, which does not hold"), "{said}");
    assert!(!said.contains("sekrit"), "{said}");
    let refusal = site.recorded("refusal", "code", "policy_denied").await;
    assert_eq!((&refusal["conditions"], &refusal["near_rules"]), (&json!({ "drafts": "false" }), &json!(["R1"])));
    assert!(upstream.calls().is_empty());

    let missing = gateway.client().call("up__save", json!({})).await.error().to_string();
    assert!(missing.contains("when `drafts`, which cannot be told: the argument is missing"), "{missing}");
    let denied = gateway.client().call("up__echo", json!({ "text": "SEKRIT" })).await.error().to_string();
    assert!(denied.contains("rule `D1` (when `shouts`) denies `up__echo`") && !denied.contains("SEKRIT"), "{denied}");
}

#[tokio::test]
async fn a_call_that_goes_on_has_its_conditions_on_record() {
    let upstream = Upstream::start().await;
    let (site, gateway) = site(&upstream).await;

    assert_eq!(gateway.client().call("up__save", json!({ "text": "draft-1" })).await.code(), "ok");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");

    let intents = site.of_kind("intent");
    assert_eq!(intents[0]["conditions"], json!({ "drafts": "true" }));
    assert_eq!(intents[1]["conditions"], json!({ "shouts": "false" }));
    assert_eq!(gateway.client().tools().await, ["up__echo", "up__save"], "a list shows what some arguments could be allowed to do");
}

#[tokio::test]
async fn an_edit_of_the_conditions_is_in_force_as_a_whole_or_not_at_all() {
    let upstream = Upstream::start().await;
    let (site, mut gateway) = site(&upstream).await;
    let code = async |gateway: &Serving, text: &str| gateway.client().call("up__save", json!({ "text": text })).await.code();
    assert_eq!(code(&gateway, "note-1").await, "policy_denied");
    let before = site.recorded("refusal", "code", "policy_denied").await["policy_version"].clone();

    site.write("policies/conditions.yaml", &CONDITIONS.replace("draft-", "note-"));
    until("the new condition", async || (code(&gateway, "note-1").await == "ok").then_some(())).await;
    assert_ne!(site.of_kind("intent")[0]["policy_version"], before);
    assert_eq!(code(&gateway, "draft-1").await, "policy_denied");

    site.write("policies/conditions.yaml", &CONDITIONS.replace("prefix: draft-", "prefixes: x"));
    let said = gateway.says("what was in force before stays in force").await;
    assert!(said.contains("conditions.yaml:2:"), "{said}");
    assert_eq!(code(&gateway, "note-1").await, "ok");

    site.write("policies/conditions.yaml", "");
    let said = gateway.says("there is no condition").await;
    assert!(said.contains("policy.csv:1:"), "{said}");
    assert_eq!(code(&gateway, "note-1").await, "ok");
}
