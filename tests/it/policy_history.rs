//! Which policy was in force, and the way back to it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Serving, Site, Upstream, until};

const ALLOW: &str = "# as it was\np, R1, agent:demo, up__*, reversible, -, allow\n";
const DENY: &str = "p, D1, agent:demo, up__*, any, -, deny\n";

async fn code(gateway: &Serving) -> String {
    gateway.client().call("up__echo", json!({})).await.code()
}

async fn becomes(gateway: &Serving, wanted: &str) {
    until(&format!("the answer {wanted}"), async || (code(gateway).await == wanted).then_some(())).await;
}

async fn history(site: &Site) -> Vec<Value> {
    let done = site.run(&["--json", "policy", "history"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A gateway whose policy was edited once: the version before, and that it is kept.
async fn edited(site: &Site) -> (Serving, String) {
    let gateway = site.serve().await;
    assert_eq!(code(&gateway).await, "ok");
    let version = history(site).await[0]["version"].as_str().unwrap().to_owned();
    until("the files are kept", async || (history(site).await[0]["kept"] == true).then_some(())).await;
    site.write("policies/policy.csv", DENY);
    becomes(&gateway, "tool_not_found").await;
    (gateway, version)
}

#[tokio::test]
async fn a_policy_that_was_in_force_comes_back_at_once_and_the_history_tells() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let limits = fs::read_to_string(site.path("policies/limits.yaml")).unwrap();
    let (gateway, version) = edited(&site).await;
    site.write("policies/limits.yaml", "limits:\n  - { id: L9, per: [agent], of: \"*\", rate: 1/h }\n");
    site.write("policies/conditions.yaml", "conditions: {}\n");

    let done = site.run(&["--json", "policy", "rollback", &version[..20], "--reason", "ticket 17"]).await;

    assert_eq!((done.code, &done.json()["in_force"], &done.json()["policy_version"]), (0, &json!(true), &json!(version)), "{done:?}");
    assert_eq!(code(&gateway).await, "ok", "at once");
    let now = |file: &str| fs::read_to_string(site.path(&format!("policies/{file}"))).unwrap_or_default();
    assert_eq!((now("policy.csv"), now("limits.yaml"), now("conditions.yaml")), (ALLOW.to_owned(), limits, String::new()));
    let record = site.recorded("person", "action", "policy_rollback").await;
    assert_eq!((&record["subject"], &record["note"]), (&json!(version), &json!("ticket 17")));
    let told = history(&site).await;
    let what: Vec<_> = told.iter().rev().map(|line| line["what"].as_str().unwrap()).collect();
    assert_eq!((what.first(), what.contains(&"rollback to this")), (Some(&"start"), true), "{told:?}");
    assert_eq!((&told[0]["version"], &told[0]["what"]), (&json!(version), &json!("reload")), "{told:?}");
    let shown = site.run(&["policy", "history", "--limit", "1"]).await;
    assert!(shown.out.contains(&version[..23]) && shown.out.contains("kept") && shown.out.lines().count() == 2, "{shown:?}");
}

#[tokio::test]
async fn what_is_not_the_policy_that_it_says_or_does_not_load_is_not_put_back() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let (gateway, version) = edited(&site).await;
    let kept = site.path(&format!("var/policies/{}.json", &version["sha256:".len()..]));
    let sound = fs::read_to_string(&kept).unwrap();

    fs::write(&kept, sound.replace("reversible", "read")).unwrap();
    let changed = site.run(&["policy", "rollback", &version]).await;
    fs::write(&kept, sound.replace(", allow", ", alow")).unwrap();
    let faulty = site.run(&["policy", "rollback", &version]).await;
    let unknown = site.run(&["policy", "rollback", "sha256:00000000"]).await;

    assert_eq!((changed.code, changed.err.contains("somebody has changed them")), (1, true), "{changed:?}");
    assert_eq!((faulty.code, faulty.err.contains("`alow` is not an effect")), (2, true), "{faulty:?}");
    assert_eq!((unknown.code, unknown.err.contains("not kept")), (1, true), "{unknown:?}");
    assert_eq!(fs::read_to_string(site.path("policies/policy.csv")).unwrap(), DENY);
    assert_eq!(code(&gateway).await, "tool_not_found");
    assert!(site.of_kind("person").is_empty());
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_loads_nothing_and_can_be_done_again() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let (gateway, version) = edited(&site).await;
    // Cut off after one of the files.
    site.write("policies/rollback.partial", "");
    site.write("policies/policy.csv", ALLOW);

    let refused = site.recorded("policy_change", "action", "reload_refused").await;

    assert!(refused["note"].as_str().unwrap().contains("rollback.partial"), "{refused}");
    assert_eq!(code(&gateway).await, "tool_not_found", "what was in force stays so");
    let done = site.run(&["policy", "rollback", &version]).await;
    assert_eq!((done.code, code(&gateway).await), (0, "ok".to_owned()), "{done:?}");
    assert!(!site.path("policies/rollback.partial").exists());
}
