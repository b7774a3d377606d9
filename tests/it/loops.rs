//! An agent that goes round in circles is told, slowed and stopped; one that works, waits or polls is not.

use serde_json::{Value, json};

use crate::approvals::{approve, pay, site_of, wanted};
use crate::support::upstream::text;
use crate::support::{Answer, Ask, Does, Serving, Site, Upstream, until};

/// The rules of the shipped file, since they are left out here.
const SHIPPED: &str = "limits: []\nrequests: { per_agent: 100000/s, failures_per_peer: 1000/s }\n";

async fn site() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits(SHIPPED);
    (upstream, site)
}

fn rules(rows: &str) -> String {
    format!("{SHIPPED}loops:\n{rows}")
}

async fn call(gateway: &Serving, tool: &str, text: &str) -> Answer {
    gateway.client().call(tool, json!({ "text": text })).await
}

/// The codes of so many calls.
async fn codes(gateway: &Serving, tool: &str, texts: &[&str]) -> Vec<String> {
    let mut codes = Vec::new();
    for text in texts {
        codes.push(call(gateway, tool, text).await.code());
    }
    codes
}

/// Puts another `limits.yaml` in force.
async fn reload(site: &Site, text: &str) {
    let version = async || site.run(&["status", "--json"]).await.json()["policy_version"].clone();
    let before = version().await;
    site.write("policies/limits.yaml", text);
    until("another version", async || (version().await != before).then_some(())).await;
}

fn warnings(answer: &Answer) -> Value {
    answer.result()["_meta"]["dev.doorward/warnings"].clone()
}

#[tokio::test]
async fn the_fifth_call_of_the_same_is_refused_and_says_what_repeats() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, "up__save", &["canary-loop-71"; 4]).await, ["ok"; 4]);

    let refused = call(&gateway, "up__save", "canary-loop-71").await;

    let error = refused.error();
    assert_eq!(
        (error["code"].as_str(), error["rules"][0].as_str(), error["effect"].as_str()),
        (Some("loop_detected"), Some("P1"), Some("none"))
    );
    let told = &error["loop"];
    assert_eq!((&told["what"], &told["target"], &told["times"]), (&json!("same_call"), &json!("up__save"), &json!(4)));
    let wait = error["retry_after_ms"].as_u64().unwrap();
    assert!(wait <= 30_000 && error["retryable"] == true && told["wait_ms"] == wait, "{error}");
    assert!(
        told["since"].as_str().unwrap().ends_with('Z') && error["suggestion"].as_str().unwrap().contains("change the arguments"),
        "{error}"
    );
    assert!(!refused.text().contains("canary-loop-71"));
    assert_eq!(upstream.calls().len(), 4);
    let refusal = site.recorded("refusal", "code", "loop_detected").await;
    assert_eq!((&refusal["limit"], &refusal["decision"], &refusal["retry_after_ms"]), (&json!("P1"), &json!("limit"), &json!(wait)));
    assert_eq!(call(&gateway, "up__save", "another").await.code(), "ok", "another call is another matter");
}

#[tokio::test]
async fn an_agent_that_cannot_find_what_is_not_there_is_stopped_at_the_fifth() {
    let (upstream, site) = site().await;
    upstream.does("echo", Does::Result(text("[]")));
    let gateway = site.serve().await;
    let asked: Vec<String> = (0..277).map(|prefix| format!("m365-inbox-{prefix}")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let told = codes(&gateway, "up__echo", &asked).await;
    assert_eq!(told[..4], ["ok"; 4]);
    assert!(told[4..].iter().all(|code| code == "loop_detected"), "{told:?}");
    assert_eq!(upstream.calls().len(), 4);
    assert_eq!(call(&gateway, "up__echo", "m365").await.error()["loop"]["what"], "same_result");
    // Another tool in between, and it may look again.
    assert_eq!(codes(&gateway, "up__save", &["found nothing"]).await, ["ok"]);
    assert_eq!(codes(&gateway, "up__echo", &["once more"]).await, ["ok"]);
}

#[tokio::test]
async fn the_agent_is_warned_at_the_third_in_the_result_the_record_and_the_metrics() {
    let (_upstream, site) = site().await;
    let mut gateway = site.serve().await;
    let client = gateway.client();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(warnings(&client.call("up__save", json!({ "text": "a" })).await));
    }
    assert!(told[..2].iter().all(Value::is_null), "{told:?}");
    assert_eq!((&told[2][0]["loop"], &told[2][0]["times"], &told[2][0]["refused_at"]), (&json!("P1"), &json!(3), &json!(5)));
    site.ends(3).await;
    let intents = site.of_kind("intent");
    assert_eq!((&intents[1]["warnings"], &intents[2]["warnings"]), (&Value::Null, &json!(["P1 same_call 3"])));
    let session = client.initialize("2025-06-18").await;
    let answer = client.send(&session.call("up__save", &json!({ "text": "a" }))).await;
    assert_eq!(warnings(&answer)[0]["times"], 4, "in every revision");
    assert_eq!(codes(&gateway, "up__save", &["a"]).await, ["loop_detected"]);
    let (_, metrics) = gateway.console("/metrics").await;
    for line in ["doorward_limit_warned{rule=\"P1\"} 2", "doorward_limit_refused{rule=\"P1\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = site.run(&["status"]).await;
    assert!(status.out.lines().any(|line| line.split_whitespace().eq(["P1", "same_call", "2", "1", "0"])), "{}", status.out);
}

#[tokio::test]
async fn news_ends_a_loop_so_that_polling_goes_on() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    for done in 0..12 {
        upstream.does("echo", Does::Result(text(&format!("{} % done", done / 3))));
        assert_eq!(call(&gateway, "up__echo", "job 7").await.code(), "ok", "{done}");
    }
}

#[tokio::test]
async fn two_calls_in_turn_are_stopped_at_the_sixth() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let mut told = Vec::new();
    for turn in 0..6 {
        let (tool, text) = if turn % 2 == 0 { ("up__save", "a") } else { ("up__echo", "b") };
        told.push(call(&gateway, tool, text).await.code());
    }
    assert_eq!(told, ["ok", "ok", "ok", "ok", "ok", "loop_detected"]);
    assert_eq!(upstream.calls().len(), 5);
}

#[tokio::test]
async fn failures_in_a_row_are_stopped_whatever_the_arguments() {
    let upstream = Upstream::start().await;
    let row = "  - { id: F, of: \"up__save\", when: failures, block: 3, window: 10min }\n";
    let site = Site::of(&upstream).limits(&rules(row));
    let failing = || upstream.does("save", Does::Result(json!({ "content": [], "isError": true, "resultType": "complete" })));
    failing();
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, "up__save", &["a"]).await, ["tool_error"]);
    upstream.does("save", Does::Echo);
    assert_eq!(codes(&gateway, "up__save", &["b"]).await, ["ok"]);
    failing();
    assert_eq!(codes(&gateway, "up__save", &["c", "d", "e"]).await, ["tool_error", "tool_error", "loop_detected"]);
    let refused = call(&gateway, "up__save", "f").await.error();
    assert_eq!(
        (&refused["retryable"], &refused["retry_after_ms"], &refused["loop"]["what"]),
        (&json!(false), &Value::Null, &json!("failures"))
    );
    assert_eq!(codes(&gateway, "up__echo", &["a"]).await, ["ok"], "another tool works");
}

#[tokio::test]
async fn a_call_that_its_agent_stops_is_neither_a_failure_nor_a_success() {
    let upstream = Upstream::start().await;
    let row = "  - { id: F, of: \"up__save\", when: failures, block: 4, window: 10min }\n";
    let site = Site::of(&upstream).limits(&rules(row));
    let gateway = site.serve().await;
    let stopped = async |before: usize| {
        upstream.does("save", Does::Hangs);
        let hangs = gateway.client().open(&Ask::call("up__save", json!({ "text": "x" }))).await;
        upstream.got(before + 1).await;
        drop(hangs);
        site.ends(before + 1).await;
        upstream.does("save", Does::Result(json!({ "content": [], "isError": true, "resultType": "complete" })));
    };
    stopped(0).await;
    stopped(1).await;
    assert_eq!(codes(&gateway, "up__save", &["a", "b"]).await, ["tool_error", "tool_error"]);

    stopped(4).await;

    assert_eq!(codes(&gateway, "up__save", &["c", "d"]).await, ["tool_error", "loop_detected"]);
}

#[tokio::test]
async fn waiting_for_a_person_is_no_loop() {
    let upstream = Upstream::start().await;
    let row = "  - { id: P, of: \"*\", when: same_call, block: 2, window: 10min }\n";
    let site = site_of(&upstream, "approve:oncall", "").await.limits(&rules(row));
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "once").await);
    for _ in 0..5 {
        assert_eq!(wanted(&pay(&gateway, "once").await), id);
    }
    approve(&site, &id, "alice").await;
    assert_eq!(pay(&gateway, "once").await.code(), "ok");
    assert_eq!(pay(&gateway, "once").await.code(), "loop_detected", "but the second that would be made is one");
}

#[tokio::test]
async fn a_stored_result_is_no_repeat() {
    let upstream = Upstream::start().await;
    let tools = "tools:\n  save: { tier: reversible, idempotency: by_arguments }\n";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url());
    let site = Site::of(&upstream).limits(SHIPPED).manifest("up", &manifest);
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, "up__save", &["a"; 8]).await, ["ok"; 8]);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn runs_are_told_apart_only_where_somebody_else_chooses_them() {
    let upstream = Upstream::start().await;
    let row = "  - { id: P, of: \"*\", when: same_call, block: 2, window: 10min }\n";
    for (trusted, expected) in [("runs_of: [demo]", ["ok", "ok", "loop_detected"]), ("", ["ok", "loop_detected", "loop_detected"])] {
        let site = Site::of(&upstream).limits(&rules(row)).config(&format!("labels: {{ {trusted} }}"));
        let gateway = site.serve().await;
        let mut told = Vec::new();
        for run in ["one", "two", "one"] {
            let meta = format!("\"_meta\":{{\"dev.doorward/run\":\"{run}\",");
            let ask = Ask::call("up__save", json!({ "text": "a" })).saying("\"_meta\":{", &meta);
            told.push(gateway.client().send(&ask).await.code());
        }
        assert_eq!(told, expected, "{trusted}");
    }
}

#[tokio::test]
async fn a_file_can_leave_tools_alone_or_have_no_rules_and_a_reload_forgets_nothing() {
    let upstream = Upstream::start().await;
    let row = |except: &str| {
        format!("  - {{ id: P, of: \"up__*\", except: [{except}], tiers: [reversible], when: same_call, block: 2, window: 10min }}\n")
    };
    let site = Site::of(&upstream).limits(&rules(&row("")));
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, "up__save", &["a", "a"]).await, ["ok", "loop_detected"]);
    assert_eq!(codes(&gateway, "up__echo", &["a"; 3]).await, ["ok"; 3], "not of this tier");
    reload(&site, &rules(&format!("{}  - {{ id: Q, of: \"*\", when: failures, warn: 9, window: 1h }}\n", row("")))).await;
    assert_eq!(codes(&gateway, "up__save", &["a"]).await, ["loop_detected"]);
    reload(&site, &rules(&row("up__save"))).await;
    assert_eq!(codes(&gateway, "up__save", &["a"; 3]).await, ["ok"; 3]);
    reload(&site, &rules(&row(""))).await;
    assert_eq!(codes(&gateway, "up__save", &["a"]).await, ["loop_detected"]);
    reload(&site, &format!("{SHIPPED}loops: []\n")).await;
    assert_eq!(codes(&gateway, "up__save", &["a"; 6]).await, ["ok"; 6]);
}

#[tokio::test]
async fn people_who_call_are_told_of_the_warning_and_of_the_wait() {
    let (_upstream, site) = site().await;
    let _gateway = site.serve().await;
    let again = async || site.run(&["call", "up__save", "text=a", "--as", "demo"]).await;
    assert_eq!(again().await.err, "");
    assert_eq!(again().await.err, "");
    let warned = again().await;
    assert!(warned.code == 0 && warned.err.starts_with("doorward: loop rule P1: same_call 3 times; use the result"), "{warned:?}");
    again().await;

    let refused = again().await;

    assert_eq!(refused.code, 4, "{refused:?}");
    let wait = refused.err.lines().find_map(|line| line.strip_prefix("  again in    ")).unwrap_or_else(|| panic!("{refused:?}"));
    assert!(wait.ends_with(" s"), "{wait}");
}
