//! An edit of the policy is in force while the gateway runs, as a whole or not at all.

use doorward::audit::kept::Sort;
use serde_json::{Value, json};

use crate::support::{Serving, Site, Upstream, until};

const ALLOW: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n";

async fn code(gateway: &Serving) -> String {
    gateway.client().call("up__echo", json!({})).await.code()
}

async fn becomes(gateway: &Serving, wanted: &str) {
    until(&format!("the answer {wanted}"), async || (code(gateway).await == wanted).then_some(())).await;
}

#[tokio::test]
async fn a_new_row_allows_while_the_gateway_runs_and_is_recorded() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy("");
    let gateway = site.serve().await;
    assert_eq!(code(&gateway).await, "tool_not_found");
    let before = site.recorded("refusal", "code", "tool_not_found").await["policy_version"].clone();

    site.write("policies/policy.csv", ALLOW);
    becomes(&gateway, "ok").await;

    let reload = site.recorded("policy_change", "action", "reload").await;
    let after = &site.of_kind("intent")[0]["policy_version"];
    assert_ne!(*after, before);
    assert_eq!(reload["note"], *after);
    assert_eq!(gateway.client().tools().await, ["up__echo", "up__save", "up__typed"]);
}

#[tokio::test]
async fn a_removed_row_is_gone_as_soon() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let gateway = site.serve().await;
    assert_eq!(code(&gateway).await, "ok");
    site.write("policies/policy.csv", "# nothing\n");
    becomes(&gateway, "tool_not_found").await;
    assert!(gateway.client().tools().await.is_empty());
}

#[tokio::test]
async fn a_broken_edit_leaves_the_old_policy_and_says_where() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let mut gateway = site.serve().await;

    site.write("policies/policy.csv", &format!("{ALLOW}p, R2, agent:demo, up__save, reversible, -, permit\n"));

    let said = gateway.says("what was in force before stays in force").await;
    assert!(said.contains("policy.csv:2:45"), "{said}");
    assert_eq!(code(&gateway).await, "ok");
    let refused = site.recorded("policy_change", "action", "reload_refused").await;
    assert!(refused["note"].as_str().unwrap().contains("policy.csv:2:"), "{refused}");
    site.write("policies/policy.csv", "");
    becomes(&gateway, "tool_not_found").await;
}

#[tokio::test]
async fn an_obligation_that_cannot_be_kept_is_refused_where_it_stands() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let mut gateway = site.serve().await;

    site.write("policies/policy.csv", &format!("{ALLOW}o, O1, role:any, prompt:up__*, any, -, redact\n"));

    let said = gateway.says("what was in force before stays in force").await;
    assert!(said.contains("policy.csv:2:40: `redact` cannot be kept: a prompt has no fields that a pointer could name"), "{said}");
    assert_eq!(code(&gateway).await, "ok");
}

#[tokio::test]
async fn a_fault_in_the_limits_keeps_the_policy_too() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let mut gateway = site.serve().await;

    site.write("policies/limits.yaml", "limits:\n  - { id: L1, per: [agent], of: \"*\", rate: often }\n");

    let said = gateway.says("what was in force before stays in force").await;
    assert!(said.contains("limits.yaml:2:"), "{said}");
    assert_eq!(code(&gateway).await, "ok");
}

#[tokio::test]
async fn a_manifest_that_appears_brings_its_tools() {
    let upstream = Upstream::start().await;
    let site = Site::empty();
    let gateway = site.serve().await;
    assert!(gateway.client().tools().await.is_empty());

    let site = site.upstream("up", &upstream).policy(ALLOW);

    becomes(&gateway, "ok").await;
    std::fs::remove_file(site.path("tool-manifests/up.yaml")).unwrap();
    // The rows name an upstream that is gone, which is a fault: they go with it.
    site.write("policies/policy.csv", "");
    becomes(&gateway, "tool_not_found").await;
}

#[tokio::test]
async fn an_answer_under_way_keeps_the_policy_that_it_began_with() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let gateway = site.serve().await;
    let go = tokio_util::sync::CancellationToken::new();
    upstream.does("save", crate::support::Does::Waits(go.clone()));
    let open = gateway.client().open(&crate::support::Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;

    site.write("policies/policy.csv", "");
    becomes(&gateway, "tool_not_found").await;
    go.cancel();

    assert_eq!(open.answer().await.code(), "ok");
}

/// How often the policy changes under load; `DOORWARD_RELOADS` says otherwise.
fn reloads() -> usize {
    std::env::var("DOORWARD_RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[tokio::test]
async fn under_load_each_call_is_decided_by_the_policy_before_or_by_the_one_after() {
    const ROWS: [&str; 2] = [
        "p, R1, agent:demo, up__*, reversible, -, allow\np, D1, role:any, up__save, any, -, deny\n",
        "p, R2, agent:demo, up__*, reversible, -, allow\np, D2, role:any, up__echo, any, -, deny\n",
    ];
    let upstream = Upstream::start().await;
    let limits = "limits: []\nloops: []\nrequests: { per_agent: 1000000/s, failures_per_peer: 1000000/s }\n";
    let site = Site::of(&upstream).policy(ROWS[0]).limits(limits);
    let gateway = site.serve().await;
    let done = tokio_util::sync::CancellationToken::new();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (client, done) = (gateway.client(), done.clone());
            tokio::spawn(async move {
                while !done.is_cancelled() {
                    client.call("up__echo", json!({})).await;
                    client.call("up__save", json!({})).await;
                }
            })
        })
        .collect();

    for round in 1..=reloads() {
        site.write("policies/policy.csv", ROWS[round % 2]);
        gateway.signal(rustix::process::Signal::HUP);
        becomes(&gateway, if round % 2 == 0 { "ok" } else { "policy_denied" }).await;
    }
    done.cancel();
    for caller in callers {
        caller.await.unwrap();
    }

    let records = site.records();
    let versions: std::collections::BTreeSet<&str> = records.iter().filter_map(|record| record["policy_version"].as_str()).collect();
    assert_eq!(versions.len(), 2, "{versions:?}");
    let first = records.iter().find_map(|record| record["policy_version"].as_str()).unwrap();
    let decided = records.iter().filter(|record| record["decision"].is_string() && record["code"] != "rate_limited");
    let mut counts = [0, 0];
    for record in decided {
        let is_first = record["policy_version"] == *first;
        let wanted = match (is_first, record["target"].as_str().unwrap()) {
            (true, "up__echo") => ("intent", "R1"),
            (true, _) => ("refusal", "D1"),
            (false, "up__save") => ("intent", "R2"),
            (false, _) => ("refusal", "D2"),
        };
        assert_eq!((record["kind"].as_str().unwrap(), record["rule_ids"][0].as_str().unwrap()), wanted, "{record}");
        counts[usize::from(is_first)] += 1;
    }
    assert!(counts.iter().all(|count| *count >= reloads() / 2), "{counts:?}");
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_enforced() {
    use std::io::Write;
    let upstream = Upstream::start().await;
    let deny = "p, D1, agent:demo, up__echo, any, -, deny\n";
    let site = Site::of(&upstream).policy(&format!("{ALLOW}{deny}"));
    let gateway = site.serve().await;

    // A writer truncates, writes a first half that ends a line, and is slow with the rest: several times as slow as the
    // watcher is patient.
    let mut writer = std::fs::File::create(site.path("policies/policy.csv")).unwrap();
    writer.write_all(ALLOW.as_bytes()).unwrap();
    // Another file that is saved meanwhile says nothing of this one.
    std::fs::write(site.path("policies/notes.yaml.txt"), "nothing").unwrap();
    std::fs::write(site.path("tool-manifests/notes.json"), "{}").unwrap();
    std::fs::remove_file(site.path("tool-manifests/notes.json")).unwrap();
    let begun = std::time::Instant::now();
    until("the slow half", async || {
        assert_eq!(code(&gateway).await, "policy_denied", "half a file is in force");
        (begun.elapsed() > std::time::Duration::from_millis(500)).then_some(())
    })
    .await;
    writer.write_all(deny.replace("D1", "D2").as_bytes()).unwrap();
    drop(writer);

    let rules = async || gateway.client().call("up__echo", json!({})).await.error()["rules"].clone();
    until("the whole file", async || (rules().await == json!(["D2"])).then_some(())).await;
    // It is in force a moment before it is on record.
    site.recorded("policy_change", "action", "reload").await;
    assert_eq!(site.of_kind("policy_change").len(), 1, "one reload, of the whole file");
}

#[tokio::test]
async fn a_device_in_place_of_the_policy_is_not_read() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let mut gateway = site.serve().await;
    let file = site.path("policies/policy.csv");
    std::os::unix::fs::symlink("/dev/zero", site.path("device")).unwrap();
    std::fs::rename(site.path("device"), &file).unwrap();

    let said = gateway.says("what was in force before stays in force").await;

    assert!(said.contains("it is not a regular file"), "{said}");
    assert_eq!(code(&gateway).await, "ok");
    let check = site.run(&["check", "--offline"]).await;
    assert_eq!((check.code, check.err.contains("it is not a regular file")), (2, true), "{check:?}");
}

#[tokio::test]
async fn a_pipe_in_place_of_the_policy_holds_nothing_up() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let mut gateway = site.serve().await;
    let file = site.path("policies/policy.csv");
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(made.success());
    gateway.says("what was in force before stays in force").await;
    assert_eq!(code(&gateway).await, "ok");
    std::fs::remove_file(&file).unwrap();
    site.write("policies/policy.csv", "");
    becomes(&gateway, "tool_not_found").await;
}

#[tokio::test]
async fn a_deny_for_an_agent_that_nobody_knows_is_told_of_and_one_for_a_key_holder_is_not() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy("p, D9, agent:dmeo, up__*, any, -, deny\np, D8, agent:keyed, up__*, any, -, deny\n");
    let told = site.run(&["check", "--offline"]).await;
    assert!(told.out.contains("policy.csv:1:8: there is no agent `dmeo`\n  help: did you mean `demo`?"), "{}", told.out);
    assert!(told.out.contains("policy.csv:2:8: there is no agent `keyed`"), "{}", told.out);
    site.run(&["agent", "add", "keyed"]).await;
    let told = site.run(&["check", "--offline"]).await;
    assert!(told.out.contains("`dmeo`") && !told.out.contains("no agent `keyed`"), "{}", told.out);
}

#[tokio::test]
async fn tools_that_a_manifest_leaves_out_are_counted_and_no_fault() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy("p, R1, agent:demo, up__echo, read, -, allow\n");
    let manifest = std::fs::read_to_string(site.path("tool-manifests/up.yaml")).unwrap();
    let first = manifest.find("\n  echo:").unwrap() + 1;
    let rest = manifest[first..].find('\n').unwrap() + first + 1;
    site.write("tool-manifests/up.yaml", &manifest[..rest]);
    let checked = site.run(&["check", "--offline"]).await;
    assert!(checked.code == 0 && checked.out.contains("4 tools, 0 withheld, 3 that no manifest names"), "{checked:?}");
    let checked = site.run(&["check", "--offline", "--json"]).await;
    assert_eq!((checked.code, &checked.json()["not_in_manifest"]), (0, &json!(3)));
}

#[tokio::test]
async fn a_listing_that_went_well_says_nothing_of_a_lost_server() {
    let upstream = Upstream::offering().await;
    let listed = Site::of(&upstream).run(&["tools", "list"]).await;
    assert!(listed.code == 0 && !listed.err.contains("not connected"), "{listed:?}");
}

#[tokio::test]
async fn a_member_given_twice_in_the_configuration_is_told_in_an_operators_words() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream);
    let config = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    site.write("doorward.yaml", &format!("{config}\npolicies: policies\npolicies: policies\n"));
    let checked = site.run(&["check", "--offline"]).await;
    assert!(
        checked.code == 2 && checked.err.contains("duplicate mapping key: policies") && !checked.err.contains("Options"),
        "{checked:?}"
    );
}

#[tokio::test]
async fn what_is_found_wrong_after_reading_is_told_with_its_place() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream);
    let config = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    let lines = config.lines().count();
    site.write("doorward.yaml", &format!("{config}\npeople:\n  - name: Not A Name\n"));
    let checked = site.run(&["check", "--offline"]).await;
    assert!(
        checked.code == 2 && checked.err.contains(&format!("doorward.yaml:{}:11: `Not A Name` is not a name", lines + 3)),
        "{checked:?}"
    );
    site.write("doorward.yaml", &config);
    site.write("tool-manifests/other.yaml", "transport: { http: { url: \"http://127.0.0.1:1\" } }\nupstream: Other\n");
    let checked = site.run(&["check", "--offline"]).await;
    assert!(checked.code == 2 && checked.err.contains("other.yaml:2:11: `upstream: Other` is not an id"), "{checked:?}");
}

#[tokio::test]
async fn the_policy_and_the_definition_that_a_record_names_stay_beside_the_log() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(ALLOW);
    let gateway = site.serve().await;
    assert_eq!(code(&gateway).await, "ok");
    site.write("policies/policy.csv", "p, R7, agent:demo, up__echo, read, -, allow\n");
    let now = site.recorded("policy_change", "action", "reload").await["note"].clone();

    let intent = &site.of_kind("intent")[0];
    let kept = doorward::audit::kept::Kept::in_dir(&site.path("var/audit"));
    let find = async |sort, hash: &Value| {
        let hash = hash.as_str().unwrap();
        until(hash, async || kept.find(sort, hash).map(|bytes| String::from_utf8(bytes).unwrap())).await
    };
    let before = find(Sort::Policy, &intent["policy_version"]).await;
    assert!(before.contains(r#"["p","R1","agent:demo","up__*","reversible","-","allow"]"#), "{before}");
    let after = find(Sort::Policy, &now).await;
    assert!(after.contains(r#"["p","R7","#) && !after.contains(r#"["p","R1","#), "{after}");
    let tool = find(Sort::Tool, &intent["tool_def_hash"]).await;
    assert!(tool.contains(r#""name":"echo""#), "{tool}");
}

#[tokio::test]
async fn a_row_limits_each_agent_and_a_reload_forgives_nothing() {
    let rows = "p, R1, role:any, up__*, reversible, -, allow\no, O1, role:any, up__save, any, -, limit:2/h\n";
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(rows);
    let gateway = site.serve().await;
    let save = async || gateway.client().call("up__save", json!({ "text": "a" })).await;
    assert_eq!([save().await.code(), save().await.code()], ["ok", "ok"]);
    assert_eq!(site.of_kind("intent")[0]["obligations"], json!(["O1 limit:2/h"]));

    let refused = save().await;

    assert_eq!((refused.code().as_str(), &refused.error()["rules"]), ("rate_limited", &json!(["O1"])));
    let record = site.recorded("refusal", "code", "rate_limited").await;
    assert_eq!((&record["limit"], &record["obligations"]), (&json!("O1"), &json!(["O1 limit:2/h"])));
    let found = site.run(&["--json", "audit", "find", "--rule", "O1"]).await;
    assert_eq!((found.code, found.out.lines().count()), (0, 3), "{found:?}");
    assert_eq!(gateway.other().call("up__save", json!({ "text": "a" })).await.code(), "ok", "each agent has its own");
    assert_eq!(code(&gateway).await, "ok", "and other tools are not counted");

    site.write("policies/policy.csv", &format!("{rows}p, R2, agent:nobody, up__echo, read, -, allow\n"));
    site.recorded("policy_change", "action", "reload").await;
    assert_eq!(save().await.code(), "rate_limited");
    assert_eq!(upstream.calls().len(), 4);
}
