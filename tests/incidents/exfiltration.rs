//! A secret has left: through which calls, by whom, in which run?

use serde_json::json;

use super::{in_run, lines, told};
use crate::support::{Site, Upstream};

#[tokio::test]
async fn the_calls_that_carried_a_secret_are_found_and_their_run_is_told() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let secret = "the merger is on May 4";
    for (tool, words) in [("up__echo", "quarterly plan"), ("up__save", secret), ("up__echo", "weather")] {
        assert_eq!(gateway.client().send(&in_run("run-exfil", tool, json!({ "text": words }))).await.code(), "ok");
    }
    site.ends(3).await;

    let carried = lines(&site, "doorward audit find --value TEXT", &[("TEXT", secret)]).await;

    assert_eq!(carried.len(), 1, "{carried:?}");
    assert_eq!((&carried[0]["target"], &carried[0]["agent"]), (&json!("up__save"), &json!("demo")));
    let run = carried[0]["run"].as_str().unwrap().to_owned();
    let story = told(&site, "doorward audit timeline RUN", &[("RUN", &run)]).await;
    assert!(story.contains("3 calls") && story.contains("up__save"), "{story}");
    assert!(!story.contains("merger"), "{story}");
}
