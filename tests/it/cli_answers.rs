//! What the command line says where there is nothing to show or to do.

use serde_json::{Value, json};

use crate::support::{Site, Upstream, until};

#[tokio::test]
async fn a_refusal_that_was_only_counted_can_be_found_by_its_time() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let mut id = Value::Null;
    for _ in 0..20 {
        id = gateway.client().call("up__nothing", json!({})).await.error()["invocation"].clone();
    }
    until("the count", async || (!site.of_kind("coalesced").is_empty()).then_some(())).await;

    let done = site.run(&["audit", "show", id.as_str().unwrap()]).await;

    let told = &done.err;
    assert_eq!((done.code, told.contains("counted")), (1, true), "{done:?}");
    let (_, command) = told.split_once("`doorward ").unwrap();
    let words: Vec<_> = command.split_once('`').unwrap().0.split(' ').collect();
    let found = site.run(&words).await;
    assert!(found.out.contains("coalesced") && found.out.contains("tool_not_found"), "{words:?}: {found:?}");
}

#[tokio::test]
async fn whatever_is_shown_or_not_a_program_gets_one_json_document() {
    let site = Site::of_demo();
    let lock = site.path("tool-manifests/demo.lock.json");
    let none = site.run(&["--json", "audit", "show", "zzz"]).await;
    assert_eq!((none.code, &none.json()["exit"]), (1, &json!(1)), "{none:?}");
    assert!(!none.err.contains("counted"), "no id of a call: {none:?}");

    let nothing = site.run(&["--json", "tools", "approve", "demo"]).await;
    assert_eq!((nothing.code, nothing.json()), (0, json!([])));
    assert!(site.run(&["tools", "approve", "demo"]).await.out.contains("nothing to approve"));
    let kept = site.run(&["--json", "tools", "pin"]).await.json();
    assert_eq!((&kept[0]["upstream"], &kept[0]["pinned"]), (&json!("demo"), &Value::Null), "{kept}");
    std::fs::remove_file(&lock).unwrap();
    let approved = site.run(&["--json", "tools", "approve", "demo", "list_notes"]).await.json();
    assert_eq!(approved, json!([{ "upstream": "demo", "tool": "list_notes" }]));
    let pinned = site.run(&["--json", "tools", "pin", "--again"]).await.json();
    assert!(pinned[0]["pinned"].as_u64().unwrap() > 1 && lock.exists(), "{pinned}");
}

#[tokio::test]
async fn a_call_of_an_agent_that_there_is_not_says_who_there_is_and_leaves_nothing() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    assert_eq!(site.run(&["agent", "add", "bot"]).await.code, 0);
    let records = site.records().len();

    let done = site.run(&["call", "up__echo", "text=a", "--as", "nosuch"]).await;

    let told = "doorward: there is no agent `nosuch`; there are `bot`, `demo`, `local`, `other`\n  help: call as one of them, or make it with \
        `doorward agent add nosuch` and give it a role in policy.csv: g, agent:nosuch, role:ROLE\n";
    assert_eq!((done.code, done.err.as_str(), site.records().len()), (2, told, records));
    // Without a right it is an agent all the same, and is told what the gateway says.
    let other = site.run(&["call", "up__echo", "text=a", "--as", "other"]).await;
    assert!(other.code == 3 || other.err.contains("tool_not_found"), "{other:?}");
}
