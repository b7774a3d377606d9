//! Somebody else has an agent's key: what was done with it, and what more could have been?

use serde_json::json;

use super::{lines, told};
use crate::support::{Site, Upstream};

#[tokio::test]
async fn every_use_of_a_stolen_key_is_found_and_what_it_still_opens_is_told() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.client().call("up__echo", json!({ "text": "daily work" })).await;
    gateway.other().call("up__echo", json!({})).await;
    assert_eq!(gateway.client().call("up__pay", json!({ "text": "thief" })).await.code(), "ok");
    gateway.client().call("up__admin", json!({})).await;
    site.ends(2).await;
    let credential = site.of_kind("intent")[0]["credential_id"].as_str().unwrap().to_owned();

    let used = lines(&site, "doorward audit find --credential ID --since 1d", &[("ID", &credential)]).await;

    let targets: Vec<_> = used.iter().map(|record| record["target"].as_str().unwrap_or_default()).collect();
    assert_eq!(targets, ["up__echo", "up__pay", "up__admin"]);
    assert!(used.iter().all(|record| record["agent"] == "demo" && record["peer"].as_str().unwrap().starts_with("127.0.0.1:")), "{used:?}");
    let reach = told(&site, "doorward audit reach AGENT --since 1d --open", &[("AGENT", "demo")]).await;
    let row = |target: &str| reach.lines().find(|row| row.starts_with(target)).unwrap_or_else(|| panic!("{target}: {reach}")).to_owned();
    assert!(row("up__save").contains("yes") && row("up__save").contains("R1"), "open and not used: {reach}");
    assert!(row("up__pay").contains("irreversible") && row("up__pay").ends_with("1       0"), "{reach}");
    assert!(reach.contains("4 open to it, 2 of them never called"), "{reach}");
}
