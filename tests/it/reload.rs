//! What a reload changes, what it leaves to a restart, and what of it is recorded.

use serde_json::{Value, json};

use crate::support::{Ask, Serving, Site, Upstream};
use rustix::process::Signal;

const ANONYMOUS: &str = "identity: { anonymous: { agent: demo, from: loopback } }\n";

/// The configuration as it is, changed.
fn edit(site: &Site, change: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    site.write("doorward.yaml", &change(&text));
}

/// Reads everything again, and gives the record of it.
async fn reloaded(site: &Site, gateway: &Serving, action: &str) -> Value {
    let before = site.of_kind("policy_change").len();
    gateway.signal(Signal::HUP);
    let found = async || site.of_kind("policy_change").into_iter().skip(before).find(|record| record["actor"] == "SIGHUP");
    let record = crate::support::until("the reload", found).await;
    assert_eq!(record["action"], action, "{record}");
    record
}

/// What the record says beside the policy's version or the fault.
fn told(record: &Value) -> &str {
    record["note"].as_str().unwrap().split_once("; ").unwrap().1
}

#[tokio::test]
async fn what_only_a_restart_changes_is_told_by_name() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;
    reloaded(&site, &gateway, "reload").await;
    assert!(!gateway.said().contains("restart"), "{}", gateway.said());
    let more = "state: elsewhere\npolicies: other\naudit: { deadline_ms: 500 }\n";
    std::fs::create_dir(site.path("other")).unwrap();
    edit(&site, |text| {
        text.replace("listen: {", "listen: { max_body_bytes: 1024,").replace("http: 127.0.0.1:0 }\nagents", "http: null }\nagents") + more
    });

    gateway.signal(Signal::HUP);

    let said = gateway.says("restart").await;
    let line = said.lines().find(|line| line.contains("restart")).unwrap();
    for name in ["listen.max_body_bytes", "console.http", "state", "audit.deadline_ms", "policies"] {
        assert!(line.contains("WARN") && line.contains(name), "{name}: {line}");
    }
    assert!(!line.contains("listen.http") && !line.contains("manifests"), "{line}");
}

#[tokio::test]
async fn letting_callers_in_without_a_key_is_on_record() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;
    let plain = reloaded(&site, &gateway, "reload").await;
    assert_eq!(plain.get("subject"), None, "{plain}");
    let closed = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    edit(&site, |text| text.to_owned() + ANONYMOUS);

    let opened = reloaded(&site, &gateway, "reload").await;

    assert_eq!((&opened["subject"], told(&opened)), (&json!("identity"), "callers without a key are agent:demo"));
    assert!(gateway.says("callers without a key are agent:demo").await.contains("WARN"));
    let ask = Ask::call("up__echo", json!({}));
    assert_eq!(gateway.nobody().send(&ask).await.code(), "ok");
    let shut = closed.replace(&key_hash(&closed, "other"), "");
    site.write("doorward.yaml", &shut);
    let record = reloaded(&site, &gateway, "reload").await;
    let id = site.key("other").split('_').nth(1).unwrap();
    assert_eq!(told(&record), format!("callers without a key are refused; key {id} of agent:other is out"));
    assert_eq!(gateway.nobody().send(&ask).await.status, 401);
}

/// The member of the configuration that holds the agent's key.
fn key_hash(text: &str, agent: &str) -> String {
    let line = text.lines().find(|line| line.contains(&format!("name: {agent},"))).unwrap();
    line[line.find(", key_hash").unwrap()..line.rfind(" }").unwrap()].to_owned()
}

#[tokio::test]
async fn what_comes_into_force_beside_a_fault_of_the_policy_is_on_record() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    edit(&site, |text| text.to_owned() + ANONYMOUS);
    site.write("policies/limits.yaml", "nonsense");

    let record = crate::support::until("the reload of the identity", async || {
        gateway.signal(Signal::HUP);
        site.of_kind("policy_change").into_iter().find(|record| record.get("subject").is_some())
    })
    .await;

    assert_eq!(record["action"], "reload_refused");
    assert!(record["note"].as_str().unwrap().ends_with("; callers without a key are agent:demo"), "{record}");
    assert_eq!(gateway.nobody().send(&Ask::call("up__echo", json!({}))).await.code(), "ok");
}

#[tokio::test]
async fn a_key_is_revoked_although_the_configuration_has_a_fault_by_now() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let made = site.run(&["--json", "agent", "add", "demo"]).await.json();
    let ask = Ask::call("up__echo", json!({})).with("Authorization", &format!("Bearer {}", made["key"].as_str().unwrap()));
    assert_eq!(gateway.nobody().send(&ask).await.code(), "ok");
    let sound = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    site.write("sound.yaml", &sound);
    edit(&site, |text| text.to_owned() + "nonsense: 1\n");

    let done = site.run(&["--config", "sound.yaml", "agent", "revoke", "demo"]).await;

    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(gateway.nobody().send(&ask).await.status, 401);
}
