//! How often a tool has to work: counted by the ends that it can help, shown, kept across a restart, and followed by what its manifest says.

use rusqlite::Connection;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::approvals::{approve, wanted, with_people};
use crate::support::{Does, Serving, Site, Upstream, until};

/// What a server says that has failed inside; it opens no breaker.
const FAILS: Does = Does::Error(-32603, "it broke");

/// In front of the upstream, with these members of `save`'s entry and of the defaults.
fn site(upstream: &Upstream, save: &str, defaults: &str) -> Site {
    let tools = format!("  echo: {{ tier: read }}\n  save: {{ tier: reversible, {save} }}\n");
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\ndefaults: {{ {defaults} }}\ntools:\n{tools}", upstream.url());
    Site::of(upstream).manifest("up", &manifest)
}

async fn save(gateway: &Serving) -> String {
    gateway.client().call("up__save", json!({ "text": "x" })).await.code()
}

/// Lets `save` fail five times, which uses its budget up.
async fn burn(upstream: &Upstream, gateway: &Serving) {
    upstream.does("save", FAILS);
    for _ in 0..5 {
        assert_eq!(save(gateway).await, "upstream_error");
    }
    upstream.does("save", Does::Echo);
}

/// How the tools with an objective stand, as `doorward status --json` says.
async fn standings(site: &Site) -> Vec<Value> {
    let done = site.run(&["status", "--json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.json()["objectives"].as_array().unwrap().clone()
}

fn told(site: &Site) -> Vec<Value> {
    let is_budgets = |record: &Value| record["action"].as_str().is_some_and(|action| action.starts_with("budget_"));
    site.of_kind("lifecycle").into_iter().filter(is_budgets).collect()
}

#[tokio::test]
async fn a_budget_that_burns_too_fast_is_logged_recorded_and_shown_once() {
    let upstream = Upstream::start().await;
    let site = site(&upstream, "on_burn: alert", "slo: 99.5%/30d");
    let mut gateway = site.serve().await;
    for _ in 0..5 {
        assert_eq!(save(&gateway).await, "ok");
    }
    // What the agent did wrong, and what a tool says of itself, is no failure of it.
    let mut no = crate::support::upstream::text("no such page");
    no["isError"] = true.into();
    upstream.does("save", Does::Result(no));
    assert_eq!(save(&gateway).await, "tool_error");
    assert_eq!(gateway.client().call("up__save", json!({ "text": 1 })).await.code(), "invalid_arguments");
    assert_eq!(standings(&site).await[1]["failed"], 0);
    burn(&upstream, &gateway).await;
    assert_eq!(save(&gateway).await, "ok", "nothing else follows");

    let (said, records) = (gateway.says("burns too fast").await, told(&site));
    assert!(said.contains("up__save"), "{said}");
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((&records[0]["action"], &records[0]["target"]), (&json!("budget_burning"), &json!("up__save")));
    assert!(records[0]["note"].as_str().unwrap().starts_with("objective 99.5%/30d: burn rate 90.9 over 1 h"), "{records:?}");
    let all = standings(&site).await;
    let of = all.iter().find(|of| of["tool"] == "up__save").unwrap();
    assert_eq!((&of["slo"], &of["calls"], &of["failed"], &of["burning"]), (&json!("99.5%/30d"), &json!(12), &json!(5), &json!(true)));
    let shown = site.run(&["status"]).await.out;
    assert!(shown.lines().any(|line| line.starts_with("up__save") && line.contains("BURNS TOO FAST: alert")), "{shown}");
    let metrics = gateway.console("/metrics").await.1;
    for line in [
        "doorward_slo_burning{tool=\"up__save\"} 1.0",
        "doorward_slo_burning{tool=\"up__echo\"} 0.0",
        "doorward_slo_target_ratio{tool=\"up__save\"} 0.995",
        "doorward_slo_burn_rate{tool=\"up__save\",window=\"1h\"} 83.3",
        "doorward_slo_budget_left_ratio{tool=\"up__save\"} -82.3",
        "doorward_slo_burn_rate{tool=\"up__echo\",window=\"6h\"} 0.0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_tool_that_is_slowed_down_is_called_one_at_a_time() {
    let upstream = Upstream::start().await;
    let site = site(&upstream, "slo: 99.5%/30d, on_burn: slow", "concurrency: 4");
    let gateway = site.serve().await;
    burn(&upstream, &gateway).await;
    let goes_on = CancellationToken::new();
    upstream.does("save", Does::Waits(goes_on.clone()));
    let before = upstream.calls().len();

    let client = gateway.client();
    let first = tokio::spawn(async move { client.call("up__save", json!({})).await.code() });
    upstream.got(before + 1).await;
    let answer = gateway.client().call("up__save", json!({})).await;

    assert_eq!(answer.told(), "concurrency_limited none");
    assert!(answer.text().contains("fails more often than its objective allows, and is called 1 at a time"), "{}", answer.text());
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "its neighbour is not");
    goes_on.cancel();
    assert_eq!(first.await.unwrap(), "ok");
    assert_eq!(save(&gateway).await, "ok", "the place is given back");
}

#[tokio::test]
async fn a_tool_that_fails_too_often_needs_a_persons_yes() {
    let upstream = Upstream::start().await;
    let site = site(&upstream, "slo: 99.5%/30d, on_burn: \"approve:oncall\"", "");
    let site = with_people(site, &[("alice", "roles: [oncall]")], "").await;
    let gateway = site.serve().await;
    assert_eq!(save(&gateway).await, "ok");
    burn(&upstream, &gateway).await;

    let call = async || gateway.client().call("up__save", json!({ "text": "x" })).await;
    let answer = call().await;
    let id = wanted(&answer);
    assert_eq!(answer.error()["rules"], json!(["objective"]));
    approve(&site, &id, "alice").await;
    assert_eq!(call().await.code(), "ok");

    let intents = site.of_kind("intent");
    assert_eq!((&intents[0]["obligations"], &intents[6]["obligations"]), (&Value::Null, &json!(["objective approve:oncall"])));
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "its neighbour needs none");
}

#[tokio::test]
async fn a_restart_forgives_nothing_and_time_does() {
    let upstream = Upstream::start().await;
    let site = site(&upstream, "slo: 99.5%/30d, on_burn: slow", "concurrency: 4");
    let gateway = site.serve().await;
    burn(&upstream, &gateway).await;
    gateway.stop().await;

    let gateway = site.serve().await;
    let burning = async || until("a look", async || standings(&site).await.iter().any(|of| of["burning"] == true).then_some(())).await;
    burning().await;
    assert_eq!(standings(&site).await[0]["failed"], 5);
    gateway.stop().await;
    let database = Connection::open(site.path("var/state.db")).unwrap();
    assert!(database.execute("UPDATE objective SET at = at - 7 * 3600", []).unwrap() > 0);
    drop(database);

    let gateway = site.serve().await;
    let of = standings(&site).await[0].clone();
    assert_eq!((&of["burn_rate_1h"], &of["burn_rate_6h"], &of["failed"]), (&json!(0.0), &json!(0.0), &json!(5)), "{of}");
    assert!(of["budget_left"].as_f64().unwrap() < 0.0, "{of}");
    assert_eq!(save(&gateway).await, "ok");
    assert_eq!(standings(&site).await[0]["burning"], false);
}

#[tokio::test]
async fn an_objective_that_means_nothing_is_refused_with_its_place() {
    let upstream = Upstream::start().await;
    for (save, defaults, place, words) in [
        ("slo: 99.5", "", "up.yaml:6:", "`99.5` is no objective: write `99.5%/30d`"),
        ("slo: 100%/30d", "", "up.yaml:6:", "`100%/30d` is no objective"),
        ("slo: 99%/30d, on_burn: approve", "", "up.yaml:6:", "`approve` does not say whose yes is needed"),
        ("slo: 99%/30d, on_burn: stop", "", "up.yaml:6:", "`stop` is nothing that could follow"),
        ("slo: 99%/30d, on_burn: \"approve:dba\"", "", "up.yaml:6:", "`approve:dba` cannot be kept: nobody with a key has the role `dba`"),
        ("", "slo: 99%/30d, on_burn: \"approve:dba\"", "up.yaml:3:", "nobody with a key has the role `dba`"),
        ("on_burn: alert", "", "up.yaml:6:", "`on_burn` of `save` says nothing without an `slo`"),
        ("slo: none, burn: { over_1h: 2 }", "slo: 99%/30d", "up.yaml:6:", "`burn` of `save` says nothing without an `slo`"),
        ("slo: 75%/30d, on_burn: slow", "", "up.yaml:6:", "with `slo: 75%/30d` the burn rate of `save` is never above 4.0"),
        ("slo: 99%/30d, burn: { over_1h: 0 }", "", "up.yaml:6:", "a burn rate is out of bounds"),
        ("slo: 99%/30d, burn: { over_2h: 3 }", "", "up.yaml:6:", "unknown field `over_2h`"),
    ] {
        let done = site(&upstream, save, defaults).run(&["check"]).await;
        assert!(done.code == 2 && done.err.contains(words) && done.err.contains(place), "{save} {defaults}: {done:?}");
    }
}
