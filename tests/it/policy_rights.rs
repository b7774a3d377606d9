//! `doorward policy lint`, `matrix` and `diff`: what an edit of the policy changes, told before it is in force.

use serde_json::json;

use crate::support::Site;

const ROWS: &str = "p, R1, role:writer, demo__*, reversible, -, allow\np, R2, role:any, demo__list_notes, read, -, allow\n\
    p, D1, role:any, demo__append_note, any, long, deny\ng, agent:demo, role:writer\n";
const CONDITIONS: &str = "conditions:\n  long: { not: { argument: /text, max_len: 4 } }\n";

fn site() -> Site {
    let site = Site::of_demo().policy(ROWS);
    site.write("policies/conditions.yaml", CONDITIONS);
    std::fs::create_dir(site.path("new")).unwrap();
    site.write("new/conditions.yaml", CONDITIONS);
    site
}

fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn the_matrix_has_each_tool_and_what_each_role_may_do_with_it() {
    let site = site();
    let done = site.run(&["policy", "matrix"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let lines: Vec<_> = done.out.lines().map(cells).collect();
    assert_eq!(lines[0], ["TARGET", "TIER", "role:any", "role:writer"]);
    let line = |name: &str| lines.iter().find(|line| line[0] == name).unwrap()[1..].to_vec();
    assert_eq!(line("demo__list_notes"), ["read", "allow", "allow"]);
    assert_eq!(line("demo__append_note"), ["reversible", "deny", "when"]);
    assert_eq!(line("demo__delete_note"), ["irreversible", "-", "-"]);
    let json = site.run(&["--json", "policy", "matrix", "--agents"]).await.json();
    let append = json["targets"].as_array().unwrap().iter().find(|line| line["target"] == "demo__append_note").unwrap().clone();
    assert_eq!(append["rights"], json!({ "agent:demo": "allow, unless long", "role:any": null, "role:writer": "allow, unless long" }));
}

#[tokio::test]
async fn an_edit_that_permits_more_that_is_irreversible_is_told_and_fails() {
    let site = site();
    let rows = ROWS.replace("role:any, demo__list_notes", "role:writer, demo__list_notes");
    let rows = format!("{rows}p, R4, role:writer, demo__delete_note, irreversible, -, allow\n");
    site.write("new/policy.csv", &rows);

    let done = site.run(&["policy", "diff", "new"]).await;

    assert_eq!(done.code, 3, "{done:?}");
    let lines: Vec<_> = done.out.lines().map(cells).collect();
    assert_eq!(lines[0], ["- p, R2, role:any, demo__list_notes, read, -, allow"]);
    assert_eq!(lines[1], ["+ p, R2, role:writer, demo__list_notes, read, -, allow"]);
    assert_eq!(lines[3], ["CHANGE", "WHO", "TARGET", "TIER", "WAS", "IS"]);
    assert_eq!(lines[4], ["gained", "role:writer", "demo__delete_note", "irreversible", "-", "allow (R4)"]);
    assert!(lines.contains(&vec!["lost", "role:any", "demo__list_notes", "read", "allow (R2)", "-"]), "{done:?}");
    assert!(!done.out.contains("agent:demo"), "what it has through its role is told of the role: {done:?}");
    assert!(
        done.out.ends_with("rights: 1 gained, 0 widened, 0 changed, 0 narrowed, 1 lost; 1 of them may permit more that is irreversible\n"),
        "{done:?}"
    );

    let back = site.run(&["policy", "diff", "new", "policies"]).await;
    assert!(back.code == 0 && back.out.contains("rights: 1 gained, 0 widened, 0 changed, 0 narrowed, 1 lost"), "{back:?}");
}

#[tokio::test]
async fn a_condition_that_says_otherwise_and_an_agent_that_gets_a_role_are_told() {
    let site = site();
    site.write("new/conditions.yaml", &CONDITIONS.replace('4', "9"));
    site.write("new/policy.csv", &format!("{ROWS}g, agent:other, role:writer\no, O1, agent:demo, demo__write_note, any, -, limit:5/min\n"));
    let json = site.run(&["--json", "policy", "diff", "new"]).await.json();
    let told: Vec<_> = json["rights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|right| {
            let words = ["change", "subject", "target"].map(|word| right[word].as_str().unwrap().to_owned());
            words.join(" ")
        })
        .collect();
    assert!(told.contains(&"changed role:writer demo__append_note".to_owned()), "{told:?}");
    assert!(told.contains(&"gained agent:other demo__write_note".to_owned()), "{told:?}");
    assert!(told.contains(&"narrowed agent:demo demo__write_note".to_owned()), "{told:?}");
    assert_eq!(json["more_irreversible"], 0);
    let same = site.run(&["policy", "diff", "policies", "policies"]).await;
    assert_eq!(
        (same.code, same.out.as_str()),
        (0, "rights: 0 gained, 0 widened, 0 changed, 0 narrowed, 0 lost; 0 of them may permit more that is irreversible\n")
    );
    site.write("new/policy.csv", "p, R1\n");
    assert_eq!(site.run(&["policy", "diff", "new"]).await.code, 2);
}

#[tokio::test]
async fn lint_tells_odd_rows_and_fails_unless_they_are_allowed() {
    let site = site();
    assert_eq!(site.run(&["policy", "lint"]).await.code, 0);
    site.write("policies/policy.csv", &format!("{ROWS}p, R3, role:writer, demo__read_note, read, -, allow\n"));
    let done = site.run(&["policy", "lint"]).await;
    assert!(done.code == 3 && done.out.contains("policy.csv:5:") && done.out.contains("[redundant]"), "{done:?}");
    assert!(done.out.ends_with("1 odd, 0 allowed; 4 rows\n"), "{done:?}");
    let json = site.run(&["--json", "policy", "lint", "--allow", "redundant"]).await;
    assert_eq!((json.code, &json.json()["odd"][0]["kind"], &json.json()["odd"][0]["allowed"]), (0, &json!("redundant"), &json!(true)));
}

#[tokio::test]
async fn a_candidate_is_held_against_the_calls_on_record() {
    let site = site();
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("demo__list_notes", json!({})).await.code(), "ok");
    assert_eq!(client.call("demo__list_notes", json!({})).await.code(), "ok");
    assert_eq!(client.call("demo__write_note", json!({ "name": "a", "text": "b" })).await.code(), "ok");
    assert_eq!(client.call("demo__append_note", json!({ "name": "a", "text": "b" })).await.code(), "ok");
    assert_eq!(client.call("demo__append_note", json!({ "name": "a", "text": "too long" })).await.code(), "policy_denied");
    assert_eq!(site.run(&["freeze", "add", "--tool", "demo__read_note", "--reason", "r"]).await.code, 0);
    assert_eq!(client.call("demo__read_note", json!({ "name": "a" })).await.code(), "frozen", "of which the policy says nothing");
    gateway.stop().await;
    let same = site.run(&["policy", "replay", "--policy", "policies"]).await;
    assert_eq!(
        (same.code, same.out.as_str()),
        (0, "calls: 5 decided as they were, 0 otherwise, 0 that hang on conditions, 0 of targets that are no more\n")
    );

    site.write("new/conditions.yaml", &CONDITIONS.replace('4', "2"));
    let rows = ROWS.replace("R1, role:writer, demo__*", "R1, role:writer, demo__append_note").replace("R2, role:any", "R2, agent:other");
    site.write(
        "new/policy.csv",
        &format!(
            "{rows}p, R3, role:writer, demo__write_note, reversible, -, allow\no, O1, role:any, demo__write_note, any, -, limit:5/min\n"
        ),
    );
    let done = site.run(&["policy", "replay", "--since", "1h", "--policy", "new"]).await;

    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.out.contains("would be denied"), "{done:?}");
    assert!(done.out.contains("would be allowed, and more is asked for") && done.out.contains("hangs on conditions"), "{done:?}");
    assert!(
        done.out.ends_with("calls: 0 decided as they were, 3 otherwise, 2 that hang on conditions, 0 of targets that are no more\n"),
        "{done:?}"
    );
    let json = site.run(&["--json", "policy", "replay", "--policy", "new"]).await.json();
    let list = json["decisions"].as_array().unwrap().iter().find(|one| one["target"] == "demo__list_notes").unwrap().clone();
    assert_eq!((&list["was"], &list["verdict"], &list["calls"]), (&json!("allowed"), &json!("would be denied"), &json!(2)));
}
