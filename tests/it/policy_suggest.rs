//! `doorward policy suggest`: a patch against what nobody used, from calls that were really made.

use serde_json::json;

use crate::support::{Site, until};

const WIDE: &str = "# Everyone may do all.\np, R1, role:any, demo__*, reversible, -, allow\np, R2, role:any, demo__delete_note, irreversible, -, allow\n\
    p, R3, role:writer, demo__append_note, reversible, -, allow\ng, agent:demo, role:writer\ng, agent:local, role:writer\n";

#[tokio::test]
async fn the_patch_takes_back_what_nobody_used_and_what_was_used_still_works() {
    let site = Site::of_demo().policy(WIDE);
    let none = site.run(&["policy", "suggest"]).await;
    assert_eq!(none.code, 0, "{none:?}");
    assert!(none.out.starts_with("# No permitted call is on record") && !none.out.contains("@@"), "{none:?}");

    let gateway = site.serve().await;
    let client = gateway.client();
    for _ in 0..3 {
        assert_eq!(client.call("demo__list_notes", json!({})).await.code(), "ok");
        assert_eq!(client.call("demo__write_note", json!({ "name": "a", "text": "b" })).await.code(), "ok");
    }
    let done = site.run(&["policy", "suggest"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("# 6 permitted calls from ") && done.out.contains("# That is less than a week"), "{done:?}");
    assert!(done.out.contains("# R2 (line 3) goes: none of its 3 agents used it."), "{done:?}");
    assert!(done.out.contains("# R1 (line 2) is narrowed: 1 of 3 agents used 2 of 6 targets of it."), "{done:?}");
    let json = site.run(&["--json", "policy", "suggest"]).await.json();
    assert!(json["today"]["permitted"].as_u64() > json["then"]["permitted"].as_u64(), "{json}");

    // The one hunk has the whole of this short file.
    let rows = done.out.lines().skip_while(|line| !line.starts_with("@@")).skip(1);
    let rows: String = rows.filter(|line| !line.starts_with('-')).map(|line| format!("{}\n", &line[1..])).collect();
    assert!(rows.starts_with("# Everyone may do all.\np, R1.1, role:writer, demo__list_notes, read, -, allow\n"), "{rows}");
    site.write("policies/policy.csv", &rows);
    let search = async || client.call("demo__search_notes", json!({ "query": "c" })).await.code();
    until("the narrower policy", async || (search().await == "tool_not_found").then_some(())).await;
    assert_eq!(client.call("demo__write_note", json!({ "name": "a", "text": "c" })).await.code(), "ok");
    let again = site.run(&["policy", "suggest", "--since", "1h"]).await;
    assert!(again.out.contains("# line 5: the grant goes: nothing that the role permits was used through it."), "{again:?}");
}

/// The files with the patch in them, as `git apply` writes them: its standing in for `patch` says that the names are right.
fn apply(site: &Site, patch: &str) {
    site.write("least.patch", patch);
    let done = std::process::Command::new("git").args(["apply", "-p0", "least.patch"]).current_dir(site.path("")).output().unwrap();
    assert!(done.status.success(), "{}\n{patch}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn arguments_are_held_to_what_was_seen_and_the_patch_says_what_that_rests_on() {
    let rows = "p, R1, agent:demo, demo__write_note, reversible, -, allow\np, R2, agent:demo, demo__read_note, read, short, allow\n";
    let site = Site::of_demo().policy(rows);
    site.write("policies/conditions.yaml", "conditions:\n    # of names\n    short: { argument: /name, max_len: 8 }\n");
    let gateway = site.serve().await;
    let client = gateway.client();
    let write = async |name: &str| client.call("demo__write_note", json!({ "name": name, "text": "b" })).await.code();
    for at in 0..20 {
        assert_eq!(write(["todo", "log"][at % 2]).await, "ok");
        assert_eq!(client.call("demo__read_note", json!({ "name": "todo" })).await.code(), "ok");
    }

    let done = site.run(&["policy", "suggest"]).await;

    assert_eq!(done.code, 0, "{done:?}");
    let told = "# R1 asks for { argument: \"/name\", in: [\"log\", \"todo\"] }: 20 calls of demo__write_note by 1 agents had 2 different values in /name.";
    assert!(done.out.contains(told), "{done:?}");
    assert!(
        done.out.contains("# Records do not have these in clear, so nothing can be told of them: /text of demo__write_note.\n"),
        "{done:?}"
    );
    assert!(done.out.contains("# To apply it: patch -p0 < least.patch\n--- policies/policy.csv\n+++ policies/policy.csv\n"), "{done:?}");
    apply(&site, &done.out);
    let rows = std::fs::read_to_string(site.path("policies/policy.csv")).unwrap();
    assert!(rows.contains("reversible, seen_r1, allow\n") && rows.contains("read, seen_r2, allow\n"), "{rows}");
    let conditions = std::fs::read_to_string(site.path("policies/conditions.yaml")).unwrap();
    let both = "    seen_r2: { all: [{ argument: \"/name\", max_len: 8 }, { argument: \"/name\", eq: \"todo\" }] }\n";
    assert!(conditions.contains("    # of names\n    short:") && conditions.ends_with(both), "{conditions}");
    until("the conditions", async || (write("other").await == "policy_denied").then_some(())).await;
    assert_eq!(write("todo").await, "ok");
    assert_eq!(client.call("demo__read_note", json!({ "name": "log" })).await.code(), "policy_denied");
    let again = site.run(&["policy", "suggest"]).await;
    assert!(again.code == 0 && !again.out.contains("@@"), "it has nothing more to say: {again:?}");
    let rows_alone = site.run(&["--json", "policy", "suggest", "--no-conditions"]).await.json();
    assert_eq!(rows_alone["conditions"], json!([]));
}

#[tokio::test]
async fn the_patch_names_files_so_that_it_can_be_applied_from_anywhere() {
    let site = Site::of_demo().policy(WIDE);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("demo__list_notes", json!({})).await.code(), "ok");
    let elsewhere = tempfile::tempdir().unwrap();
    let config = site.path("doorward.yaml");
    let mut run = site.command(&["--config", config.to_str().unwrap(), "policy", "suggest"]);
    let done = run.current_dir(elsewhere.path()).output().await.unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    let folder = site.path("").canonicalize().unwrap();
    assert!(out.contains(&format!("# To apply it: patch -d '{}' -p0 < least.patch\n--- policies/policy.csv\n", folder.display())), "{out}");
    apply(&site, &out);
    assert_ne!(std::fs::read_to_string(site.path("policies/policy.csv")).unwrap(), WIDE);
}
