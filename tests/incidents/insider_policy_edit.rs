//! Somebody let an agent do more for a while, and took it back: when, and what was done meanwhile?

use serde_json::json;

use super::{lines, told};
use crate::support::{Site, Upstream, until};

const USUAL: &str = "p, R1, agent:demo, up__echo, read, -, allow\n";

#[tokio::test]
async fn what_was_done_under_the_edited_policy_is_found_by_its_version() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(USUAL);
    let gateway = site.serve().await;
    let opens = async || gateway.other().tools().await.contains(&"up__pay".to_owned());
    assert!(!opens().await);
    site.write("policies/policy.csv", &format!("{USUAL}p, X9, agent:other, up__pay, irreversible, -, allow\n"));
    until("the edit in force", async || opens().await.then_some(())).await;
    assert_eq!(gateway.other().call("up__pay", json!({ "text": "insider" })).await.code(), "ok");
    site.write("policies/policy.csv", USUAL);
    until("the edit taken back", async || (!opens().await).then_some(())).await;
    site.ends(1).await;

    let changes = lines(&site, "doorward audit find --kind policy_change --since 1d", &[]).await;
    let edited = changes[0]["note"].as_str().unwrap().to_owned();
    let done = lines(&site, "doorward audit find --policy VERSION --decision allow", &[("VERSION", &edited)]).await;

    assert_eq!(changes.iter().filter(|record| record["action"] == "reload").count(), 2, "there and back: {changes:?}");
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!((&done[0]["agent"], &done[0]["target"], &done[0]["rule_ids"]), (&json!("other"), &json!("up__pay"), &json!(["X9"])));
    let reach = told(&site, "doorward audit reach AGENT --since 1d --open", &[("AGENT", "other")]).await;
    let row = reach.lines().find(|row| row.starts_with("up__pay")).unwrap_or_else(|| panic!("{reach}"));
    assert_eq!(row.split_whitespace().collect::<Vec<_>>()[3..], ["at", "times", "X9", "1", "0"], "{reach}");
    assert!(reach.lines().any(|line| line.starts_with("at times: up__pay by X9, 20") && line.contains(" to 20")), "{reach}");
    assert!(reach.lines().any(|line| line.contains(&edited) && line.contains(" in main, 20")) && !reach.contains("NOT KEPT"), "{reach}");
}
