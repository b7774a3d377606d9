//! Budgets: what is spent is counted once, by whom it is for, outlives a restart, and is told before it is used up.

use serde_json::{Value, json};

use crate::support::asking::{accepts, again, asked, forms, relaying};
use crate::support::{Answer, Ask, Issuer, Serving, Site, Upstream, until};

fn limits(rows: &str) -> String {
    format!("limits: []\nloops: []\nrequests: {{ per_agent: 100000/s, failures_per_peer: 1000/s }}\nbudgets:\n{rows}")
}

async fn site(rows: &str) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits(&limits(rows));
    (upstream, site)
}

async fn call(gateway: &Serving, tool: &str) -> Answer {
    gateway.client().call(tool, json!({ "text": "a" })).await
}

async fn codes(gateway: &Serving, tools: &[&str]) -> Vec<String> {
    let mut codes = Vec::new();
    for tool in tools {
        codes.push(call(gateway, tool).await.code());
    }
    codes
}

/// The fullest figure of each key of the budgets, as `KEY FIGURE USED/OF`.
async fn spent(site: &Site) -> Vec<String> {
    let status = site.run(&["status", "--json"]).await.json();
    let shown = |row: &Value| format!("{} {} {}/{}", row["key"].as_str().unwrap(), row["figure"].as_str().unwrap(), row["used"], row["of"]);
    status["budgets"].as_array().unwrap().iter().map(shown).collect()
}

#[tokio::test]
async fn what_is_used_up_is_refused_with_the_figure_and_the_wait_and_only_what_left_is_charged() {
    let (upstream, site) = site("  - { id: B1, per: [agent], of: \"up__*\", calls: 3, window: 1h }\n").await;
    let gateway = site.serve().await;
    for _ in 0..4 {
        assert_eq!(gateway.client().call("up__save", json!({ "text": 1 })).await.code(), "invalid_arguments");
    }
    assert_eq!(gateway.client().call("up__pay", json!({ "text": "a" })).await.code(), "ok");
    assert_eq!(codes(&gateway, &["up__save", "up__echo"]).await, ["ok", "ok"]);

    let refused = call(&gateway, "up__save").await.error();

    assert_eq!((&refused["code"], &refused["rules"], &refused["effect"]), (&json!("budget_exhausted"), &json!(["B1"]), &json!("none")));
    let budget = &refused["budget"];
    assert_eq!(
        (&budget["figure"], &budget["used"], &budget["of"], &budget["again"]),
        (&json!("calls"), &json!(3), &json!(3), &json!("later"))
    );
    let wait = refused["retry_after_ms"].as_u64().unwrap();
    assert!((3_500_000..=3_660_000).contains(&wait) && refused["retryable"] == true, "{refused}");
    assert_eq!(upstream.calls().len(), 3);
    let refusal = site.recorded("refusal", "code", "budget_exhausted").await;
    assert_eq!((&refusal["limit"], &refusal["retry_after_ms"], &refusal["decision"]), (&json!("B1"), &json!(wait), &json!("limit")));
    assert_eq!(spent(&site).await, ["agent:demo calls 3/3"], "a refused call is charged nothing");
}

#[tokio::test]
async fn a_budget_for_good_says_never_and_a_call_that_cannot_leave_costs_nothing() {
    let (upstream, site) = site("  - { id: B1, per: [], of: \"*\", calls: 1, window: ever }\n").await;
    let gone = Upstream::start().await;
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, gone__*, reversible, -, allow\n";
    let nowhere = "transport: { http: { url: \"http://127.0.0.1:1/mcp\" } }\ndefaults: { connect_grace_ms: 50, connect_timeout_ms: 50 }\ntools:\n  echo: { tier: read }\n";
    let site = site.manifest("gone", nowhere).pinned("gone", &gone.tools()).policy(rows);
    let gateway = site.serve().await;
    for _ in 0..3 {
        assert_eq!(call(&gateway, "gone__echo").await.told(), "upstream_unavailable none");
    }
    assert_eq!(codes(&gateway, &["up__echo"]).await, ["ok"]);
    let refused = call(&gateway, "up__echo").await.error();
    assert_eq!(
        (&refused["budget"]["again"], &refused["retry_after_ms"], &refused["retryable"]),
        (&json!("never"), &Value::Null, &json!(false))
    );
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn every_figure_is_counted_by_whom_it_is_for() {
    let upstream = Upstream::start().await;
    let tools = "tools:\n  echo: { tier: read, cost: 3 }\n  save: { tier: reversible }\n  pay: { tier: irreversible }\n";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url());
    let rows = "  - { id: COST, per: [agent, target], of: \"up__*\", cost: 8, window: 24h }\n  - { id: SIZE, for: \"role:writer\", per: [], of: up__save, result_bytes: 50, window: 24h }\n  - { id: WIDE, for: \"agent:demo\", per: [tenant], of: \"*\", distinct_targets: 2, window: 24h }\n";
    let policy = "p, R1, role:any, up__*, irreversible, -, allow\ng, agent:other, role:editor\ng, role:editor, role:writer\n";
    let policy = policy.replace(
        "p, R1, role:any, up__*, irreversible, -, allow\n",
        "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__pay, irreversible, -, allow\n",
    );
    let site = Site::of(&upstream).manifest("up", &manifest).limits(&limits(rows)).policy(&policy);
    let gateway = site.serve().await;
    // Two calls cost 6 of 8, and a third would cost 9.
    assert_eq!(codes(&gateway, &["up__echo"; 3]).await, ["ok", "ok", "budget_exhausted"]);
    assert_eq!(
        call(&gateway, "up__echo").await.error()["budget"],
        json!({ "id": "COST", "figure": "cost", "used": 6, "of": 8, "again": "later" })
    );
    let other = async |tool: &str| gateway.other().call(tool, json!({ "text": "a" })).await;
    assert_eq!(other("up__echo").await.code(), "ok", "of another agent");
    // Whoever writes by way of another role shares the bytes; who does not is not asked.
    assert_eq!(codes(&gateway, &["up__save"; 3]).await, ["ok"; 3]);
    assert_eq!(other("up__save").await.code(), "ok");
    let told = other("up__save").await;
    assert_eq!((told.code().as_str(), &told.error()["rules"]), ("budget_exhausted", &json!(["SIZE"])), "{}", told.text());
    let told = call(&gateway, "up__pay").await.error();
    assert_eq!((&told["rules"], &told["budget"]["figure"]), (&json!(["WIDE"]), &json!("distinct_targets")));
    assert_eq!(other("up__pay").await.code(), "ok");
    let checked = site.run(&["check"]).await.out;
    let row = checked.lines().find(|line| line.starts_with("up__save")).unwrap();
    assert!(row.contains("COST SIZE WIDE"), "{row}");
}

#[tokio::test]
async fn what_a_call_has_come_to_is_charged_when_it_has_ended() {
    let (_upstream, site) = site("  - { id: B1, per: [agent], of: \"*\", seconds: 600, result_bytes: 1000, window: 24h }\n").await;
    let gateway = site.serve().await;
    let result = call(&gateway, "up__echo").await;
    assert_eq!(result.code(), "ok");
    gateway.stop().await;
    let database = rusqlite::Connection::open(site.path("var/state.db")).unwrap();
    let sql = "SELECT result_bytes, took_us FROM spent";
    let (bytes, took): (u64, u64) = database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let outcome = &site.of_kind("outcome")[0];
    assert_eq!(Some(bytes), outcome["result_bytes"].as_u64());
    assert!((1..=outcome["duration_us"].as_u64().unwrap() + 1_000_000).contains(&took), "{took} {outcome}");
}

#[tokio::test]
async fn the_agent_is_warned_at_70_and_85_percent() {
    let (_upstream, site) = site("  - { id: B1, per: [agent], of: \"*\", calls: 20, window: 24h }\n").await;
    let mut gateway = site.serve().await;
    let mut told = Vec::new();
    for _ in 0..17 {
        told.push(call(&gateway, "up__echo").await.result()["_meta"]["dev.doorward/warnings"].clone());
    }
    assert_eq!(told.iter().position(|told| !told.is_null()), Some(13));
    let warned = &told[13][0];
    assert_eq!((&warned["budget"], &warned["used"], &warned["of"], &warned["percent"]), (&json!("B1"), &json!(14), &json!(20), &json!(70)));
    assert!(
        !told[15][0]["suggestion"].to_string().contains("come to an end")
            && told[16][0]["suggestion"].to_string().contains("come to an end")
    );
    site.ends(17).await;
    let warned: Vec<_> =
        site.of_kind("intent").into_iter().filter_map(|intent| intent["warnings"][0].as_str().map(str::to_owned)).collect();
    assert_eq!(warned, ["B1 calls 70%", "B1 calls 75%", "B1 calls 80%", "B1 calls 85%"]);
    let (_, metrics) = gateway.console("/metrics").await;
    for line in ["doorward_limit_warned{rule=\"B1\"} 4", "doorward_budget_used_percent{rule=\"B1\"} 85"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let status = site.run(&["status"]).await.out;
    assert!(status.lines().any(|line| line.split_whitespace().eq(["B1", "agent:demo", "17", "of", "20", "calls", "85", "%"])), "{status}");
}

#[tokio::test]
async fn what_is_spent_outlives_a_restart_and_a_raised_amount_forgives_nothing() {
    let row = |calls: u32| format!("  - {{ id: B1, per: [agent], of: \"*\", calls: {calls}, distinct_targets: 2, window: 24h }}\n");
    let (upstream, site) = site(&row(3)).await;
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, &["up__echo", "up__save"]).await, ["ok", "ok"]);
    let (ended, ..) = gateway.stop().await;
    assert!(ended.success());

    let mut gateway = site.serve().await;
    assert_eq!(spent(&site).await, ["agent:demo distinct_targets 2/2"]);
    assert_eq!(codes(&gateway, &["up__echo", "up__echo"]).await, ["ok", "budget_exhausted"]);
    site.write("policies/limits.yaml", &limits(&row(4)));
    gateway.says("are read again").await;
    assert_eq!(codes(&gateway, &["up__echo", "up__echo"]).await, ["ok", "budget_exhausted"]);
    // Even where the process is killed, a second later.
    let kept = || {
        let database = rusqlite::Connection::open(site.path("var/state.db")).unwrap();
        database.query_row("SELECT sum(calls) FROM spent", [], |row| row.get::<_, Option<i64>>(0)).unwrap()
    };
    until("the batch", async || (kept() == Some(4)).then_some(())).await;
    gateway.kill().await;
    let gateway = site.serve().await;
    assert_eq!(codes(&gateway, &["up__echo"]).await, ["budget_exhausted"]);
    assert_eq!(upstream.calls().len(), 4);
}

#[tokio::test]
async fn a_call_that_goes_on_with_answers_is_counted_once() {
    let wanted = json!({
        "resultType": "input_required", "requestState": "theirs",
        "inputRequests": { "q": { "method": "elicitation/create", "params": {
            "mode": "form", "message": "Which?", "requestedSchema": { "type": "object", "properties": { "branch": { "type": "string" } } },
        } } },
    });
    let (upstream, site) = relaying(wanted).await;
    let rule = "loops:\n  - { id: P, of: \"*\", when: same_call, block: 2, window: 10min }\n";
    let rows = limits("  - { id: B1, per: [agent], of: \"*\", calls: 1, window: 24h }\n").replace("loops: []\n", rule);
    let site = site.limits(&rows);
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    let answers = json!({ "q": accepts(&json!({ "branch": "main" })) });

    assert_eq!(gateway.client().send(&again("save", &forms(), &first, &answers)).await.code(), "ok");

    assert_eq!((upstream.calls().len(), spent(&site).await), (2, vec!["agent:demo calls 1/1".to_owned()]));
    assert_eq!(gateway.client().call("up__save", json!({ "text": "more" })).await.code(), "budget_exhausted");
}

#[tokio::test]
async fn a_run_has_a_budget_of_its_own_only_where_somebody_else_chooses_it() {
    let upstream = Upstream::start().await;
    let row = "  - { id: B1, per: [agent, run], of: \"*\", calls: 1, window: ever }\n";
    for (trusted, expected) in [("runs_of: [demo]", ["ok", "ok", "budget_exhausted"]), ("", ["ok", "budget_exhausted", "budget_exhausted"])]
    {
        let site = Site::of(&upstream).limits(&limits(row)).config(&format!("labels: {{ {trusted} }}"));
        let gateway = site.serve().await;
        let mut told = Vec::new();
        for run in ["one", "two", "one"] {
            let meta = format!("\"_meta\":{{\"dev.doorward/run\":\"{run}\",");
            let ask = Ask::call("up__echo", json!({ "text": "a" })).saying("\"_meta\":{", &meta);
            told.push(gateway.client().send(&ask).await.code());
        }
        assert_eq!(told, expected, "{trusted}");
    }
}

#[tokio::test]
async fn a_person_and_a_tenant_are_who_the_access_token_says() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let rows = "  - { id: USER, per: [user], of: up__save, calls: 1, window: 24h }\n  - { id: TENANT, per: [tenant], of: up__echo, calls: 2, window: 24h }\n";
    let site = Site::of(&upstream).limits(&limits(rows)).config(&issuer.entry(""));
    let gateway = site.serve().await;
    let of = |sub: &str| issuer.token(&json!({ "client_id": "demo", "sub": sub }));
    let call = async |token: &str, tool: &str| {
        let ask = Ask::call(tool, json!({ "text": "a" })).with("Authorization", &format!("Bearer {token}"));
        gateway.nobody().send(&ask).await.code()
    };
    let (alice, bob) = (of("alice@example.org"), of("bob@example.org"));
    assert_eq!([call(&alice, "up__save").await, call(&bob, "up__save").await], ["ok", "ok"]);
    assert_eq!(call(&alice, "up__save").await, "budget_exhausted");
    assert_eq!(
        [call(&alice, "up__echo").await, call(&bob, "up__echo").await, call(&bob, "up__echo").await],
        ["ok", "ok", "budget_exhausted"]
    );
    assert_eq!(codes(&gateway, &["up__echo"]).await, ["ok"], "keys of this gateway are of no issuer");
    let spent = spent(&site).await.join("; ");
    assert!(spent.contains("alice@example.org calls 1/1") && spent.contains(&format!("{} calls 2/2", issuer.url())), "{spent}");
}

#[tokio::test]
async fn what_is_wrong_in_the_file_is_told_with_its_place() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let budget = |row: &str| format!("budgets:\n  - {{ {row} }}\n");
    let rule = |row: &str| format!("loops:\n  - {{ {row} }}\n");
    for (text, expected) in [
        (budget("id: B, per: [agent], of: \"*\", window: 1h"), "limits.yaml:2:11: `B` has no amount"),
        (budget("id: B, per: [agent], of: \"*\", calls: 1, window: 59s"), "limits.yaml:2:55: `59s` is not a window"),
        (budget("id: B, per: [agent], of: \"*\", calls: 0, window: 1h"), "limits.yaml:2:44: 0 is out of bounds"),
        (budget("id: B, per: [agent], of: \"*\", call: 1, window: 1h"), "limits.yaml:2:37: "),
        (budget("id: B, per: [team], of: \"*\", calls: 1, window: 1h"), "limits.yaml:2:20: "),
        (budget("id: B, per: [run, run], of: \"*\", calls: 1, window: 1h"), "limits.yaml:2:11: `per` of `B` says the same twice"),
        (budget("id: B, per: [], of: \"up_*\", calls: 1, window: 1h"), "limits.yaml:2:27: "),
        (
            budget("id: B, for: demo, per: [], of: \"*\", calls: 1, window: 1h"),
            "limits.yaml:2:19: `demo` is nobody that a budget can be for",
        ),
        (budget("id: B, for: \"role:writter\", per: [], of: \"*\", calls: 1, window: 1h"), "limits.yaml:2:19: `role:writter` "),
        (
            budget("id: B, per: [target], of: \"*\", distinct_targets: 1, window: 1h"),
            "limits.yaml:2:11: `B` counts the targets of each target",
        ),
        (rule("id: P, of: \"*\", when: same_call, window: 1h"), "limits.yaml:2:11: `P` does nothing"),
        (rule("id: P, of: \"*\", when: same_call, warn: 5, block: 5, window: 1h"), "limits.yaml:2:11: the steps of `P` are not in order"),
        (rule("id: P, of: \"*\", when: same_call, slow: 5, window: 1h"), "limits.yaml:2:11: `slow` and `pause` of `P` belong together"),
        (rule("id: P, of: \"*\", when: same_call, slow: 5, pause: 2h, window: 1h"), "limits.yaml:2:11: the pause of `P` is longer"),
        (rule("id: P, of: \"*\", when: alternation, warn: 3, window: 1h"), "limits.yaml:2:11: `P` counts to fewer than 4"),
        (rule("id: P, of: \"*\", when: failures, results: any, warn: 3, window: 1h"), "limits.yaml:2:11: `results` of `P` has no meaning"),
        (rule("id: P, of: \"*\", when: same_call, warn: 1, window: 1h"), "limits.yaml:2:46: 1 is out of bounds"),
        (
            rule("id: P, of: \"*\", except: [\"nobody__x\"], when: same_call, warn: 2, window: 1h"),
            "limits.yaml:2:32: there is no upstream `nobody`",
        ),
        (rule("id: P, of: \"*\", when: same_calls, warn: 2, window: 1h"), "limits.yaml:2:29: "),
        (
            format!(
                "limits: [ {{ id: A, per: [], of: \"*\", rate: 1/s }} ]\n{}",
                budget("id: A, per: [], of: \"*\", calls: 1, window: 1h")
            ),
            "limits.yaml:3:11: the id `A` is taken",
        ),
    ] {
        site.write("policies/limits.yaml", &text);
        let checked = site.run(&["check"]).await;
        assert!(checked.code == 2 && checked.err.contains(expected), "{text}{expected}: {checked:?}");
    }
}
