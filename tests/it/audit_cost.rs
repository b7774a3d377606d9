//! What calls cost: in each intent as the manifest has it then, and told where an agent spends too much.

use serde_json::{Value, json};

use crate::support::{Site, Upstream};

#[tokio::test]
async fn an_intent_has_the_cost_of_its_tool_and_who_is_over_a_budget_is_told_with_the_records() {
    let upstream = Upstream::start().await;
    let tools = "tools:\n  echo: { tier: read, cost: 0 }\n  save: { tier: reversible }\n  pay: { tier: irreversible, cost: 50 }\n";
    let site = Site::of(&upstream).manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url()));
    let gateway = site.serve().await;
    for tool in ["up__pay", "up__echo", "up__save", "up__pay"] {
        assert_eq!(gateway.client().call(tool, json!({ "text": tool })).await.code(), "ok");
    }
    assert_eq!(gateway.other().call("up__pay", json!({})).await.code(), "tool_not_found");
    site.ends(4).await;

    let intents = site.of_kind("intent");
    let costs: Vec<_> = intents.iter().map(|intent| intent["cost"].as_u64().unwrap()).collect();
    let anomalies = async |budget: &str| {
        let done = site.run(&["--json", "audit", "anomalies", "--since", "1h", "--cost-budget", budget]).await;
        assert_eq!(done.code, 0, "{done:?}");
        done.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let (over, within) = (anomalies("100").await, anomalies("101").await);

    assert_eq!(costs, [50, 0, 1, 50]);
    assert_eq!(within, Vec::<Value>::new(), "what was refused costs nothing");
    let [told] = over.as_slice() else { panic!("{over:?}") };
    assert_eq!((&told["kind"], &told["agent"]), (&json!("cost_budget"), &json!("demo")));
    assert!(told["what"].as_str().unwrap().contains("spent 101 cost units within 60 minutes, over the budget of 100"), "{told}");
    let places: Vec<_> = [0, 2, 3].iter().map(|at| json!({ "origin": "main", "seq": intents[*at]["seq"] })).collect();
    assert_eq!(told["evidence"], json!(places));
}
