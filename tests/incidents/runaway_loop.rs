//! An agent is stuck: which, in what, since when?

use serde_json::json;

use super::lines;
use crate::support::{Site, Upstream};

/// What is written of limits; of loops nothing, so that the shipped rules are in force.
const SHIPPED: &str = "limits: []\nrequests: { per_agent: 100000/s, failures_per_peer: 1000/s }\n";

#[tokio::test]
async fn the_loop_is_stopped_at_the_fifth_and_its_refusals_say_which_agent_and_what() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits(SHIPPED);
    let gateway = site.serve().await;
    for _ in 0..40 {
        gateway.client().call("up__save", json!({ "text": "again" })).await;
    }
    site.ends(4).await;

    let found = lines(&site, "doorward audit find --code loop_detected --since 1h", &[]).await;

    assert_eq!(upstream.calls().len(), 4);
    let refusal = found.last().unwrap();
    assert_eq!((&refusal["agent"], &refusal["target"], &refusal["limit"]), (&json!("demo"), &json!("up__save"), &json!("P1")));
    let note = refusal["note"].as_str().unwrap();
    assert!(note.starts_with("the same call of `up__save` was made 4 times since "), "{note}");
    assert!(refusal["args_hash"] == site.of_kind("intent")[0]["args_hash"], "{refusal}");
}

#[tokio::test]
async fn the_loop_that_no_rule_stops_is_told_with_the_records_that_show_it() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for _ in 0..40 {
        gateway.client().call("up__save", json!({ "text": "again" })).await;
    }
    gateway.client().call("up__echo", json!({ "text": "once" })).await;
    site.ends(41).await;

    let unusual = lines(&site, "doorward audit anomalies --since 1h", &[]).await;
    let sums = site.run(&["audit", "stats", "--since", "1h"]).await.out;

    let count =
        |anomaly: &serde_json::Value| anomaly["what"].as_str().unwrap().split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap();
    let loops: Vec<_> = unusual.iter().filter(|anomaly| anomaly["kind"] == "repeated_calls").collect();
    // Ten minutes may end while the loop goes on; then it is told in two parts.
    assert!((1..=2).contains(&loops.len()), "{unusual:?}");
    assert_eq!(loops.iter().map(|anomaly| count(anomaly)).sum::<u64>(), 40);
    assert_eq!((&loops[0]["agent"], &loops[0]["target"]), (&json!("demo"), &json!("up__save")));
    let first = site.of_kind("intent")[0]["seq"].clone();
    assert_eq!(loops[0]["evidence"][0], json!({ "origin": "main", "seq": first }));
    let row = sums.lines().find(|row| row.starts_with("up__save")).unwrap_or_else(|| panic!("{sums}"));
    assert!(row.split_whitespace().nth(1) == Some("40"), "{row}");
}
