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
