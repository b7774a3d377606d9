//! A candidate decides beside the policy in force, without effect, and comes into force as the files that did.

use serde_json::json;

use crate::support::{Serving, Site};

const ROWS: &str = "p, R1, role:writer, demo__*, reversible, -, allow\ng, agent:demo, role:writer\n";
const CANDIDATE: &str = "p, R1, role:writer, demo__*, read, -, allow\np, R2, role:writer, demo__delete_note, irreversible, -, allow\n\
    p, R3, agent:other, demo__list_notes, read, -, allow\no, O1, role:any, demo__list_notes, any, -, limit:50/min\ng, agent:demo, role:writer\n";

async fn codes(gateway: &Serving) -> [String; 3] {
    let client = gateway.client();
    let list = client.call("demo__list_notes", json!({})).await.code();
    let write = client.call("demo__write_note", json!({ "name": "a", "text": "b" })).await.code();
    [list, write, client.call("demo__delete_note", json!({ "name": "a" })).await.code()]
}

fn site() -> Site {
    let site = Site::of_demo().policy(ROWS);
    std::fs::create_dir(site.path("new")).unwrap();
    site.write("new/policy.csv", CANDIDATE);
    site
}

#[tokio::test]
async fn a_candidate_decides_beside_the_policy_in_force_and_changes_nothing() {
    let site = site();
    let gateway = site.serve().await;
    let before = codes(&gateway).await;

    let begun = site.run(&["--json", "policy", "shadow", "new"]).await.json();

    assert_eq!(begun["running"], true, "{begun}");
    assert_eq!(codes(&gateway).await, before, "what is decided stays as it was");
    let intents = site.of_kind("intent");
    let said: Vec<_> = intents.iter().map(|intent| intent["shadow"].as_str().unwrap_or("-").to_owned()).collect();
    let version = begun["version"].as_str().unwrap();
    let wanted = ["-".to_owned(), "-".to_owned(), format!("{version} allow R1 with O1 limit:50/min"), format!("{version} deny")];
    assert_eq!(said, wanted);
    assert_eq!(site.recorded("refusal", "shadow", &format!("{version} allow R2")).await["code"], "policy_denied");
    assert_eq!(gateway.other().call("demo__list_notes", json!({})).await.code(), "tool_not_found");
    assert_eq!(site.recorded("refusal", "shadow", &format!("{version} visible")).await["code"], "tool_not_found");
    let done = site.run(&["--json", "policy", "shadow"]).await;
    let told = done.json();
    assert_eq!((done.code, &told["alike"], &told["otherwise"]), (3, &json!(0), &json!(4)), "{told}");
    assert!(told["decisions"].as_array().unwrap().iter().any(|one| one["decided"] == "allow R1" && one["candidate"] == "deny"), "{told}");

    assert_eq!(site.run(&["policy", "shadow", "--stop"]).await.code, 0);
    codes(&gateway).await;
    assert_eq!(site.of_kind("intent").last().unwrap().get("shadow"), None);
}

#[tokio::test]
async fn what_is_promoted_is_what_decided_beside() {
    let site = site();
    let gateway = site.serve().await;
    assert_eq!(site.run(&["policy", "promote"]).await.code, 2, "there is no candidate yet");
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 0);
    // Whoever edits the folder afterwards edits no candidate.
    site.write("new/policy.csv", "p, R1, role:any, demo__*, reversible, -, allow\n");

    let done = site.run(&["policy", "promote", "--reason", "review 31"]).await;

    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(codes(&gateway).await, ["ok", "policy_denied", "tool_error"], "it takes and gives; there is no such note");
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), CANDIDATE);
    let people: Vec<_> = site.of_kind("person").iter().map(|record| (record["action"].clone(), record["note"].clone())).collect();
    assert!(people.contains(&(json!("policy_promote"), json!("review 31"))), "{people:?}");
    assert_eq!(site.of_kind("intent").last().unwrap().get("shadow"), None, "and there is no candidate any more");
    let history = site.run(&["--json", "policy", "history"]).await;
    assert!(history.code == 0 && history.out.contains("promotion of this"), "{history:?}");
}

#[tokio::test]
async fn what_has_not_decided_beside_is_not_promoted() {
    let site = site();
    let _gateway = site.serve().await;
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 0);
    site.write("var/shadow/policy.csv", &CANDIDATE.replace("role:writer", "role:any"));
    let done = site.run(&["policy", "promote"]).await;
    assert!(done.code == 1 && done.err.contains("has not decided beside"), "{done:?}");
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), ROWS);
    // Where the policy in force does not load, nothing decides beside it, and nothing is left to promote.
    assert_eq!(site.run(&["policy", "shadow", "--stop"]).await.code, 0);
    site.write("policies/policy.csv", "p, R1\n");
    assert_ne!(site.run(&["policy", "shadow", "new"]).await.code, 0);
    assert_eq!(site.run(&["policy", "promote"]).await.code, 2, "there is no candidate");
}

#[tokio::test]
async fn a_candidate_that_does_not_load_is_refused_and_one_that_stops_loading_decides_nothing() {
    let site = site();
    site.write("new/policy.csv", "p, R1\n");
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 2);
    site.write("new/policy.csv", CANDIDATE);
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 0);
    site.write("var/shadow/policy.csv", "p, R1\n");
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway).await[0], "ok");
    assert_eq!(site.of_kind("intent")[0].get("shadow"), None);
}

#[tokio::test]
async fn a_single_row_decides_beside_and_is_the_one_line_that_a_promotion_writes() {
    let site = Site::of_demo().policy(&format!("# who writes\n{ROWS}"));
    let gateway = site.serve().await;
    let row = "p, R9, role:writer, demo__delete_note, irreversible, -, allow";

    let begun = site.run(&["policy", "shadow", "--row", row]).await;

    assert!(begun.code == 0 && begun.out.starts_with(&format!("+ {row}\n")), "{begun:?}");
    assert_eq!(codes(&gateway).await[2], "policy_denied", "it has no effect");
    let told = site.run(&["--json", "policy", "shadow"]).await.json();
    assert_eq!((&told["row"], &told["alike"], &told["otherwise"]), (&json!(row), &json!(2), &json!(1)), "{told}");
    assert_eq!(told["decisions"][0]["candidate"], "allow R9", "{told}");
    let done = site.run(&["policy", "promote"]).await;
    assert!(done.code == 0 && done.out.contains(row), "{done:?}");
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), format!("# who writes\n{ROWS}{row}\n"));
    assert_eq!(codes(&gateway).await[2], "ok");
    let history = site.run(&["--json", "policy", "history"]).await;
    assert!(history.out.contains("promotion of this") && history.out.contains(&format!("\"note\":\"row {row}\"")), "{history:?}");
}

#[tokio::test]
async fn a_row_takes_the_place_of_the_one_with_its_id_and_of_no_later_edit() {
    let site = site();
    let _gateway = site.serve().await;
    let row = "p, R1, role:writer, demo__*, read, -, allow";

    let begun = site.run(&["policy", "shadow", "--row", row]).await;

    assert_eq!(
        begun.out.lines().take(2).collect::<Vec<_>>(),
        ["- p, R1, role:writer, demo__*, reversible, -, allow", &*format!("+ {row}")]
    );
    let edited = format!("{ROWS}p, D1, role:any, demo__share_note, any, -, deny\n");
    site.write("policies/policy.csv", &edited);
    let stale = site.run(&["policy", "promote"]).await;
    assert!(stale.code == 1 && stale.err.contains("have changed since"), "{stale:?}");
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), edited);
    assert_eq!(site.run(&["policy", "shadow", "--row", row]).await.code, 0);
    assert_eq!(site.run(&["policy", "promote"]).await.code, 0);
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), edited.replace("reversible", "read"));
    // A folder after a row is a folder.
    assert_eq!(site.run(&["policy", "shadow", "--row", "g, agent:demo, role:other"]).await.code, 0);
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 0);
    assert_eq!(site.run(&["policy", "promote"]).await.code, 0);
    assert_eq!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), CANDIDATE);
}

#[tokio::test]
async fn a_row_that_does_not_load_says_where_it_would_stand() {
    let site = site();
    let wrong = site.run(&["policy", "shadow", "--row", "p, R9, role:writer, demo__list_notes, read, nightly, allow"]).await;
    assert!(wrong.code == 2 && wrong.err.contains("policy.csv with the row:3:45: there is no condition `nightly`"), "{wrong:?}");
    let same = site.run(&["policy", "shadow", "--row", ROWS.lines().next().unwrap()]).await;
    assert!(same.code == 2 && same.err.contains("already"), "{same:?}");
    assert!(!site.path("var/shadow").exists());
}

#[tokio::test]
async fn what_a_candidate_counts_is_counted_while_it_decides_beside() {
    let site = Site::of_demo().policy(ROWS);
    let condition = "conditions:\n  few: { count_below: { calls: 2, of: demo__list_notes, within_s: 3600 } }\n";
    std::fs::create_dir(site.path("new")).unwrap();
    site.write("new/policy.csv", &ROWS.replace("reversible, -", "reversible, few"));
    site.write("new/conditions.yaml", condition);
    let gateway = site.serve().await;
    let list = async || gateway.client().call("demo__list_notes", json!({})).await.code();
    assert_eq!(list().await, "ok", "it is not counted yet");
    assert_eq!(site.run(&["policy", "shadow", "new"]).await.code, 0);

    for _ in 0..3 {
        assert_eq!(list().await, "ok", "nothing of it has an effect");
    }

    let said = |intent: &serde_json::Value| intent["shadow"].as_str().map(|said| said.split_once(' ').unwrap().1.to_owned());
    let intents = site.of_kind("intent");
    let said: Vec<_> = intents.iter().skip(1).map(|intent| said(intent).unwrap()).collect();
    assert_eq!(said, ["allow R1", "allow R1", "deny"]);
    assert!(intents.iter().all(|intent| intent.get("labels_before").is_none()), "the record is as it would be without it");
    // What was counted beside counts when the candidate comes into force.
    assert_eq!(site.run(&["policy", "promote"]).await.code, 0);
    assert_eq!(list().await, "policy_denied");
}
