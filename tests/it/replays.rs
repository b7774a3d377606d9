//! Repeats of calls: what was done once is not done again, its result is given again, and what nobody knows is told as that.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::asking::{accepts, declaring, forms, relaying};
use crate::support::records::ends;
use crate::support::upstream::text;
use crate::support::{Answer, Ask, Client, Does, Serving, Site, Upstream, until};

const SECRET: &str = "canary-replay-3391";
const ALLOW: &str = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__pay, irreversible, -, allow\n";

/// In front of the upstream; `tools` are lines of the manifest, `config` members of `idempotency`.
fn site_of(upstream: &Upstream, tools: &str, config: &str) -> Site {
    let manifest = format!(
        "transport: {{ http: {{ url: \"{}\" }} }}\ndefaults: {{ concurrency: 256, concurrency_per_agent: 256 }}\ntools:\n{tools}",
        upstream.url()
    );
    let site = Site::of(upstream).manifest("up", &manifest).policy(ALLOW);
    if config.is_empty() { site } else { site.config(&format!("idempotency: {{ {config} }}")) }
}

const PLAIN: &str = "  echo: { tier: read }\n  save: { tier: reversible, fields: { /text: keyed } }\n  pay: { tier: irreversible }\n";

async fn site() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "");
    (upstream, site)
}

/// A call with a key.
fn keyed(tool: &str, key: &str, arguments: Value) -> Ask {
    Ask::modern("tools/call", json!({ "name": tool, "arguments": arguments, "_meta": { "dev.doorward/idempotencyKey": key } }))
}

async fn save(client: &Client, key: &str, words: &str) -> Answer {
    client.send(&keyed("up__save", key, json!({ "text": words }))).await
}

/// The invocation whose stored result it is; none for a result of a call.
fn replayed(answer: &Answer) -> Option<String> {
    answer.result().pointer("/_meta/dev.doorward~1replayed/invocation").and_then(Value::as_str).map(str::to_owned)
}

/// The invocation that a refused repeat is of.
fn earlier(answer: &Answer) -> String {
    answer.error()["earlier"]["invocation"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

fn database(site: &Site, sql: &str) {
    assert!(Connection::open(site.path("var/state.db")).unwrap().execute(sql, []).unwrap() > 0, "{sql}");
}

/// What the upstream was told to do, by the text of the call.
fn effects(upstream: &Upstream) -> BTreeMap<String, usize> {
    let mut effects = BTreeMap::new();
    for call in upstream.calls() {
        *effects.entry(call.json()["params"]["arguments"]["text"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    effects
}

#[tokio::test]
async fn a_repeat_gets_the_stored_result_across_a_restart_and_is_on_record() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let first = save(&gateway.client(), SECRET, SECRET).await;
    assert_eq!((first.code(), replayed(&first)), ("ok".to_owned(), None));
    let again = save(&gateway.client(), SECRET, SECRET).await;
    gateway.kill().await;
    let gateway = site.serve().await;
    let later = gateway
        .client()
        .send(
            &keyed("up__save", SECRET, json!({})).saying("\"arguments\":{}", &format!("\"arguments\":{{ \"te\\u0078t\" : \"{SECRET}\" }}")),
        )
        .await;

    site.ends(1).await;
    let intent = site.of_kind("intent")[0].clone();
    let call = intent["call_id"].as_str().unwrap().to_owned();
    for repeat in [&again, &later] {
        assert_eq!((repeat.result()["content"].clone(), replayed(repeat)), (first.result()["content"].clone(), Some(call.clone())));
    }
    assert_eq!(upstream.calls().len(), 1);
    assert!(!upstream.calls()[0].body.contains("idempotencyKey"), "the key is ours");
    let records = site.of_kind("replay");
    let outcome = site.of_kind("outcome")[0].clone();
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(
            (&record["replay_of"], &record["decision"], &record["outcome"], &record["effect"]),
            (&json!(call), &json!("allow"), &json!("ok"), &json!("none"))
        );
        assert_eq!(
            (&record["idempotency_key"], &record["args_hash"], &record["result_hash"]),
            (&intent["idempotency_key"], &intent["args_hash"], &outcome["result_hash"])
        );
        assert_eq!((&record["agent"], &record["rule_ids"]), (&json!("demo"), &json!(["R1"])));
        assert_ne!(record["call_id"], intent["call_id"]);
    }
    assert!(intent["idempotency_key"].as_str().unwrap().starts_with("hmac:"), "{intent}");
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
    let shown = site.run(&["audit", "show", &call]).await;
    assert!(shown.code == 0 && shown.out.contains("replay"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_at_once_one_acts_and_all_get_its_result() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "wait_ms: 60000");
    let gateway = site.serve().await;
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let client = gateway.client();
        calls.spawn(async move { save(&client, "k", "once").await });
    }
    upstream.got(1).await;
    go.cancel();
    let answers = calls.join_all().await;
    let given = answers.iter().filter(|answer| replayed(answer).is_some()).count();
    assert!(answers.iter().all(|answer| answer.code() == "ok"));
    assert_eq!((upstream.calls().len(), given, site.ends(1).await), (1, 99, vec!["ok done".to_owned()]));
    until("a record of each", async || (site.of_kind("replay").len() == 99).then_some(())).await;
}

#[tokio::test]
async fn a_repeat_of_what_still_runs_waits_so_long_and_no_longer() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "wait_ms: 0");
    let gateway = site.serve().await;
    upstream.does("save", Does::Hangs);
    let first = gateway.client().open(&keyed("up__save", "k", json!({ "text": "once" }))).await;
    upstream.got(1).await;
    let told = save(&gateway.client(), "k", "once").await;
    assert_eq!(
        (told.told(), told.error()["retryable"].clone(), told.error()["retry_after_ms"].clone()),
        ("duplicate_in_flight none".to_owned(), json!(true), json!(1000))
    );
    assert_eq!(earlier(&told), site.of_kind("intent")[0]["call_id"].as_str().unwrap());
    assert_eq!(save(&gateway.client(), "k", "other").await.told(), "idempotency_key_reused none");
    drop(first);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn repeats_that_wait_for_the_same_call_are_no_loop() {
    let upstream = Upstream::start().await;
    let limits = "limits: []\nloops: [{ id: P, of: \"*\", when: same_call, block: 3, window: 10min }]\n";
    let site = site_of(&upstream, PLAIN, "wait_ms: 1000").limits(limits);
    let gateway = site.serve().await;
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let mut calls = JoinSet::new();
    let client = gateway.client();
    calls.spawn(async move { save(&client, "k", "once").await });
    upstream.got(1).await;
    let mut repeats = JoinSet::new();
    for _ in 0..12 {
        let client = gateway.client();
        repeats.spawn(async move { save(&client, "k", "once").await.told() });
    }

    let told = repeats.join_all().await;

    assert_eq!(told, ["duplicate_in_flight none"; 12]);
    go.cancel();
    assert_eq!(calls.join_all().await[0].code(), "ok");
    assert!(replayed(&save(&gateway.client(), "k", "once").await).is_some());
    // What is a call of its own counts: the third is refused.
    let mut codes = Vec::new();
    for key in ["l", "m"] {
        codes.push(save(&gateway.client(), key, "once").await.code());
    }
    assert_eq!((codes, upstream.calls().len()), (vec!["ok".to_owned(), "loop_detected".to_owned()], 2));
}

#[tokio::test]
async fn a_call_with_a_key_outlives_the_connection_of_its_agent() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let first = gateway.client().open(&keyed("up__save", "k", json!({ "text": "once" }))).await;
    // One without a key ends with its connection, and after it in the order of the socket's loss.
    let other = gateway.client().open(&Ask::call("up__save", json!({ "text": "gone" }))).await;
    upstream.got(2).await;
    drop(first);
    drop(other);
    upstream.abandoned(1).await;
    let client = gateway.client();
    let repeat = tokio::spawn(async move { save(&client, "k", "once").await });
    go.cancel();
    assert!(replayed(&repeat.await.unwrap()).is_some());
    assert_eq!(effects(&upstream).get("once"), Some(&1));
    let mut ends = site.ends(2).await;
    ends.sort();
    assert_eq!(ends, ["cancelled unknown", "ok done"]);
}

#[tokio::test]
async fn a_key_stands_for_one_call_of_one_agent() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    assert_eq!(save(&gateway.client(), "k", "mine").await.code(), "ok");
    let other = save(&gateway.client(), "k", "others").await;
    assert_eq!((other.told(), other.error()["retryable"].clone()), ("idempotency_key_reused none".to_owned(), json!(false)));
    assert_eq!(earlier(&other), site.of_kind("intent")[0]["call_id"].as_str().unwrap());
    // Another agent's key is another key, and so is that of a call of another tool.
    let theirs = save(&gateway.other(), "k", "mine").await;
    assert_eq!((theirs.code(), replayed(&theirs)), ("ok".to_owned(), None));
    let paid = gateway.client().send(&keyed("up__pay", "k", json!({ "text": "mine" }))).await;
    assert_eq!((paid.code(), replayed(&paid)), ("ok".to_owned(), None));
    assert_eq!(upstream.calls().len(), 3);
    for key in [json!(""), json!(5), json!("x".repeat(256)), Value::Null] {
        let ask =
            Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": { "dev.doorward/idempotencyKey": key } }));
        assert_eq!(gateway.client().send(&ask).await.code(), "malformed_request", "{key}");
    }
    assert_eq!(upstream.calls().len(), 3);
}

#[tokio::test]
async fn a_key_does_not_outlive_the_definition_that_it_was_used_for() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    assert_eq!(save(&gateway.client(), "k", "once").await.code(), "ok");
    gateway.stop().await;
    upstream.redefine(|tools| tools.iter_mut().find(|tool| tool["name"] == "save").unwrap()["description"] = "otherwise".into());
    assert_eq!(site.run(&["tools", "approve", "up", "save"]).await.code, 0);
    let gateway = site.serve().await;
    assert_eq!(save(&gateway.client(), "k", "once").await.told(), "idempotency_key_reused none");
    assert_eq!((save(&gateway.client(), "k2", "once").await.code(), upstream.calls().len()), ("ok".to_owned(), 2));
}

#[tokio::test]
async fn what_nobody_knows_is_told_and_not_made_again() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    upstream.does("save", Does::Disconnects);
    let first = save(&gateway.client(), "k", "once").await;
    assert_eq!(first.told(), "upstream_disconnected unknown");
    upstream.does("save", Does::Echo);
    for _ in 0..3 {
        let told = save(&gateway.client(), "k", "once").await;
        assert_eq!((told.told(), told.error()["retryable"].clone()), ("outcome_unknown unknown".to_owned(), json!(false)));
        let evidence = &told.error()["earlier"];
        assert_eq!(
            (evidence["invocation"].clone(), evidence["code"].clone()),
            (first.error()["invocation"].clone(), json!("upstream_disconnected"))
        );
        assert!(
            evidence["began"].as_str().unwrap().ends_with('Z')
                && told.error()["suggestion"].as_str().unwrap().contains("doorward replays release"),
            "{evidence}"
        );
    }
    assert_eq!((upstream.calls().len(), save(&gateway.client(), "k2", "once").await.code()), (1, "ok".to_owned()));
}

/// Makes a call, and kills the gateway before the upstream has answered.
async fn killed(upstream: &Upstream, site: &Site, ask: &Ask) -> Serving {
    let gateway = site.serve().await;
    upstream.does("save", Does::Hangs);
    let calls = upstream.calls().len();
    let open = gateway.client().open(ask).await;
    upstream.got(calls + 1).await;
    gateway.kill().await;
    drop(open);
    upstream.does("save", Does::Echo);
    site.serve().await
}

#[tokio::test]
async fn after_a_crash_a_repeat_is_told_the_evidence_until_a_person_releases_it() {
    let (upstream, site) = site().await;
    let gateway = killed(&upstream, &site, &keyed("up__save", "k", json!({ "text": "once" }))).await;
    let told = save(&gateway.client(), "k", "once").await;
    assert_eq!((told.told(), told.error()["earlier"]["code"].clone()), ("outcome_unknown unknown".to_owned(), Value::Null));
    assert_eq!(save(&gateway.client(), "k", "once").await.code(), "outcome_unknown");
    let call = earlier(&told);
    let unresolved = site.run(&["--json", "audit", "unresolved"]).await;
    assert!(unresolved.out.contains(&call), "{unresolved:?}");
    let listed = site.run(&["--json", "replays", "list"]).await.json();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["invocation"], &listed[0]["standing"], &listed[0]["agent"], &listed[0]["target"]),
        (1, &json!(call), &json!("unknown"), &json!("agent:demo"), &json!("up__save"))
    );

    assert_eq!(site.run(&["replays", "release", "no-such", "--reason", "x"]).await.code, 2);
    assert_eq!(upstream.calls().len(), 1);
    let done = site.run(&["replays", "release", &call, "--reason", "looked at it"]).await;
    assert!(done.code == 0 && done.out.contains("up__save of agent:demo"), "{done:?}");
    let deed = site.recorded("person", "action", "replay_release").await;
    assert_eq!(
        (&deed["call_id"], &deed["note"], &deed["subject"]),
        (&json!(call), &json!("looked at it"), &json!("up__save of agent:demo"))
    );
    let again = save(&gateway.client(), "k", "once").await;
    assert_eq!((again.code(), replayed(&again), upstream.calls().len()), ("ok".to_owned(), None, 2));
    assert!(replayed(&save(&gateway.client(), "k", "once").await).is_some());
    assert_eq!(site.run(&["replays", "release", &call, "--reason", "x"]).await.code, 2, "what has ended is not released");
}

#[tokio::test]
async fn what_the_manifest_calls_harmless_runs_again_after_a_crash_once_somebody_was_told() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "  save: { tier: reversible, idempotency: by_arguments }\n", "");
    let gateway = killed(&upstream, &site, &Ask::call("up__save", json!({ "text": "once" }))).await;
    let client = gateway.client();
    let told = client.call("up__save", json!({ "text": "once" })).await;
    assert_eq!(
        (told.told(), told.error()["retryable"].clone(), upstream.calls().len()),
        ("outcome_unknown unknown".to_owned(), json!(true), 1)
    );
    let again = client.call("up__save", json!({ "text": "once" })).await;
    assert_eq!((again.code(), replayed(&again), upstream.calls().len()), ("ok".to_owned(), None, 2));
    assert!(replayed(&client.call("up__save", json!({ "text": "once" })).await).is_some());
    // An error that says so has told it already.
    upstream.does("save", Does::Disconnects);
    let lost = client.call("up__save", json!({ "text": "twice" })).await;
    assert_eq!((lost.told(), lost.error()["retryable"].clone()), ("upstream_disconnected unknown".to_owned(), json!(true)));
    upstream.does("save", Does::Echo);
    assert_eq!(client.call("up__save", json!({ "text": "twice" })).await.code(), "ok");
}

#[tokio::test]
async fn the_end_of_its_time_frees_a_key() {
    let (upstream, site) = site().await;
    let gateway = killed(&upstream, &site, &keyed("up__save", "lost", json!({ "text": "lost" }))).await;
    assert_eq!(save(&gateway.client(), "k", "once").await.code(), "ok");
    database(&site, "UPDATE replay SET expires = 1");
    for (key, words) in [("k", "once"), ("lost", "lost")] {
        let again = save(&gateway.client(), key, words).await;
        assert_eq!((again.code(), replayed(&again)), ("ok".to_owned(), None), "{key}");
    }
    assert_eq!(effects(&upstream), BTreeMap::from([("lost".to_owned(), 2), ("once".to_owned(), 2)]));
}

#[tokio::test]
async fn how_a_call_failed_decides_what_a_repeat_gets() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let mut failed = text("it did not work");
    failed["isError"] = true.into();
    let large = Does::Result(text(&"x".repeat(2_000_000)));
    for (key, does, first, second, calls) in [
        ("a", Does::Result(failed), "tool_error", "tool_error", 1),
        ("b", Does::Error(-32602, "no"), "upstream_error none", "ok", 2),
        ("c", Does::Error(-32603, "no"), "upstream_error unknown", "outcome_unknown unknown", 1),
        ("d", large, "result_too_large done", "result_too_large done", 1),
    ] {
        let told = |answer: &Answer| {
            if answer.json().pointer("/result/_meta/dev.doorward~1error").is_some() { answer.told() } else { answer.code() }
        };
        upstream.does("save", does);
        let before = upstream.calls().len();
        let answer = save(&client, key, "x").await;
        assert_eq!(told(&answer), first, "{key}");
        upstream.does("save", Does::Echo);
        let again = save(&client, key, "x").await;
        assert_eq!((told(&again).as_str(), upstream.calls().len() - before), (second, calls), "{key}: {}", again.text());
    }
}

#[tokio::test]
async fn a_result_that_is_not_kept_is_said_so_and_its_call_is_not_made_again() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "max_result_bytes: 200, max_bytes_per_agent: 400");
    let gateway = site.serve().await;
    let client = gateway.client();
    let why = |answer: &Answer| answer.result().pointer("/_meta/dev.doorward~1idempotency").cloned();
    assert_eq!(why(&save(&client, "small", "x").await), None);
    let large = save(&client, "large", &"x".repeat(300)).await;
    assert_eq!(why(&large), Some(json!({ "kept": false, "why": "too_large" })));
    let told = save(&client, "large", &"x".repeat(300)).await;
    assert_eq!(
        (told.told(), told.error()["retryable"].clone(), told.error()["earlier"]["code"].clone()),
        ("result_too_large done".to_owned(), json!(false), json!("too_large"))
    );
    let answers = [save(&client, "n1", "x").await, save(&client, "n2", "x").await, save(&client, "n3", "x").await];
    assert_eq!(why(&answers[2]), Some(json!({ "kept": false, "why": "no_room" })), "{answers:?}");
    assert_eq!(save(&client, "n3", "x").await.told(), "result_too_large done");
    // The room of one agent is not another's.
    assert_eq!(why(&save(&gateway.other(), "n1", "x").await), None);
    assert!(replayed(&save(&client, "small", "x").await).is_some());
    assert_eq!(upstream.calls().len(), 6);
}

#[tokio::test]
async fn a_full_store_refuses_calls_with_a_key_and_forgets_none() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "max_calls_per_agent: 2");
    let gateway = site.serve().await;
    let client = gateway.client();
    for key in ["a", "b"] {
        assert_eq!(save(&client, key, key).await.code(), "ok");
    }
    assert_eq!(save(&client, "c", "c").await.told(), "concurrency_limited none");
    assert_eq!(client.call("up__save", json!({ "text": "free" })).await.code(), "ok");
    assert_eq!(save(&gateway.other(), "c", "theirs").await.code(), "ok");
    for key in ["a", "b"] {
        assert!(replayed(&save(&client, key, key).await).is_some());
    }
    assert_eq!(effects(&upstream).values().max(), Some(&1));
}

#[tokio::test]
async fn equal_arguments_are_a_repeat_until_something_else_changes_there() {
    let upstream = Upstream::start().await;
    let tools = "  echo: { tier: read, idempotency: by_arguments }\n  save: { tier: reversible, idempotency: by_arguments }\n  pay: { tier: irreversible }\n";
    let site = site_of(&upstream, tools, "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let save = async |words: &str| replayed(&client.call("up__save", json!({ "text": words })).await).is_some();
    assert_eq!([save("A").await, save("A").await], [false, true]);
    for _ in 0..2 {
        let read = client.call("up__echo", json!({ "text": "r" })).await;
        assert_eq!((read.code(), replayed(&read)), ("ok".to_owned(), None), "what only reads answers with what is there now");
    }
    assert!(save("A").await, "what only reads changes nothing");
    // A, B, A: the third is no repeat of the first.
    assert_eq!([save("B").await, save("A").await, save("A").await], [false, false, true]);
    assert_eq!(client.call("up__pay", json!({ "text": "p" })).await.code(), "ok");
    assert_eq!([save("A").await, save("A").await], [false, true]);
    gateway.kill().await;
    let gateway = site.serve().await;
    assert_eq!(gateway.other().call("up__pay", json!({ "text": "q" })).await.code(), "ok");
    let again = gateway.client().call("up__save", json!({ "text": "A" })).await;
    assert_eq!((again.code(), replayed(&again)), ("ok".to_owned(), None), "and after a restart, by whomever");
    let other = [gateway.client(), gateway.other()];
    assert!(replayed(&other[0].call("up__save", json!({ "text": "A" })).await).is_some());
    assert_eq!(replayed(&other[1].call("up__save", json!({ "text": "A" })).await), None);
    // Who gives a key tells apart what is meant to be done twice.
    let twice = [
        other[1].send(&keyed("up__save", "1", json!({ "text": "A" }))).await,
        other[1].send(&keyed("up__save", "2", json!({ "text": "A" }))).await,
    ];
    assert!(twice.iter().all(|answer| answer.code() == "ok" && replayed(answer).is_none()));
}

#[tokio::test]
async fn a_key_among_the_arguments_is_forwarded_as_it_is_and_counts_before_the_callers() {
    let upstream = Upstream::start().await;
    upstream
        .redefine(|tools| tools.iter_mut().find(|tool| tool["name"] == "pay").unwrap()["inputSchema"]["properties"]["order"] = json!({}));
    let site = site_of(&upstream, "  pay: { tier: irreversible, idempotency: \"key:/order\" }\n", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = client.send(&Ask::call_with_text("up__pay", r#"{ "order":7,  "text":"x" }"#)).await;
    let again = client.send(&keyed("up__pay", "k", json!({ "text": "x", "order": 7 }))).await;
    assert_eq!((first.code(), replayed(&first), replayed(&again).is_some()), ("ok".to_owned(), None, true));
    assert!(upstream.calls()[0].body.contains(r#""arguments":{ "order":7,  "text":"x" }"#), "{}", upstream.calls()[0].body);
    assert_eq!(client.call("up__pay", json!({ "order": 7, "text": "y" })).await.told(), "idempotency_key_reused none");
    for order in [json!({ "text": "x" }), json!({ "text": "x", "order": null }), json!({ "text": "x", "order": "" })] {
        for _ in 0..2 {
            assert_eq!(replayed(&client.call("up__pay", order.clone()).await), None, "{order}");
        }
    }
    assert_eq!(upstream.calls().len(), 7);
}

#[tokio::test]
async fn who_may_not_call_any_more_gets_no_stored_result_either() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    assert_eq!(save(&gateway.client(), "k", "once").await.code(), "ok");
    assert_eq!(site.run(&["freeze", "add", "--tool", "up__save", "--reason", "x"]).await.code, 0);
    assert_eq!(save(&gateway.client(), "k", "once").await.code(), "frozen");
    assert_eq!(site.run(&["freeze", "lift", "1", "--reason", "x"]).await.code, 0);
    assert!(replayed(&save(&gateway.client(), "k", "once").await).is_some());
    site.write("policies/policy.csv", &format!("{ALLOW}o, O1, agent:demo, up__save, any, -, redact\n"));
    until("the redaction", async || (save(&gateway.client(), "k", "once").await.code() == "result_blocked").then_some(())).await;
    site.write("policies/policy.csv", &format!("{ALLOW}o, O1, agent:demo, up__save, any, -, dry_run\n"));
    until("the dry run", async || (save(&gateway.client(), "k", "once").await.code() == "dry_run").then_some(())).await;
    site.write("policies/policy.csv", &format!("{ALLOW}p, D1, agent:demo, up__save, any, -, deny\n"));
    until("the denial", async || (save(&gateway.client(), "k", "once").await.code() == "policy_denied").then_some(())).await;
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_stored_result_brings_its_labels() {
    let upstream = Upstream::start().await;
    let tools = "  echo: { tier: read, labels: [private] }\n  save: { tier: reversible, labels: [untrusted] }\n  pay: { tier: irreversible, labels: [outward] }\n";
    let site = site_of(&upstream, tools, "").config("labels: { runs_of: [demo] }");
    let gateway = site.serve().await;
    let client = gateway.client();
    let call = |tool: &str, run: &str, key: &str| {
        let meta = json!({ "dev.doorward/run": run, "dev.doorward/idempotencyKey": key });
        Ask::modern("tools/call", json!({ "name": tool, "arguments": { "text": "x" }, "_meta": meta }))
    };
    assert_eq!(client.send(&call("up__echo", "r1", "k")).await.code(), "ok");
    assert_eq!(client.send(&call("up__save", "r2", "s")).await.code(), "ok");
    assert_eq!(client.send(&call("up__pay", "r2", "p")).await.code(), "ok", "nothing private was met in this run");
    assert!(replayed(&client.send(&call("up__echo", "r2", "k")).await).is_some());
    assert_eq!(client.send(&call("up__pay", "r2", "q")).await.code(), "policy_denied");
    let record = &site.of_kind("replay")[0];
    assert_eq!(
        (&record["labels_before"], &record["labels_after"]),
        (&json!(["outward", "untrusted"]), &json!(["outward", "private", "untrusted"]))
    );
}

#[tokio::test]
async fn a_key_belongs_to_the_whole_call_with_its_questions() {
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "sure?", "requestedSchema": { "type": "object", "properties": {} } } });
    let (upstream, site) =
        relaying(json!({ "resultType": "input_required", "inputRequests": { "q": question }, "requestState": "theirs" })).await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let ask = |more: Value| {
        let mut params = json!({ "name": "up__save", "arguments": { "text": "x" }, "_meta": { "dev.doorward/idempotencyKey": "k" } });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        declaring(Ask::modern("tools/call", params), &forms())
    };
    let asked = client.send(&ask(json!({}))).await.result();
    assert_eq!(asked["resultType"], "input_required");
    let told = client.send(&ask(json!({}))).await;
    assert!(
        told.told() == "duplicate_in_flight none" && told.error()["suggestion"].as_str().unwrap().contains("requestState"),
        "{}",
        told.text()
    );
    let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let answers = json!({ "inputResponses": { key: accepts(&json!({})) }, "requestState": asked["requestState"] });
    let without = ask(answers.clone()).saying("\"dev.doorward/idempotencyKey\":\"k\",", "");
    assert_eq!(client.send(&without).await.code(), "state_invalid");
    let answered = client.send(&ask(answers)).await;
    assert_eq!((answered.code(), replayed(&answered)), ("ok".to_owned(), None), "{}", answered.text());
    let again = client.send(&ask(json!({}))).await;
    assert_eq!((again.result()["content"].clone(), replayed(&again).is_some()), (answered.result()["content"].clone(), true));
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn questions_without_a_state_are_answered_under_the_same_key() {
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "sure?", "requestedSchema": { "type": "object", "properties": {} } } });
    let (upstream, site) = relaying(json!({ "resultType": "input_required", "inputRequests": { "q": question } })).await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let ask = |more: Value| {
        let mut params = json!({ "name": "up__save", "arguments": { "text": "x" }, "_meta": { "dev.doorward/idempotencyKey": "k" } });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        declaring(Ask::modern("tools/call", params), &forms())
    };
    let asked = client.send(&ask(json!({}))).await.result();
    assert_eq!((&asked["resultType"], &asked["requestState"]), (&json!("input_required"), &Value::Null));
    assert_eq!(client.send(&ask(json!({}))).await.told(), "duplicate_in_flight none");
    let answered = client.send(&ask(json!({ "inputResponses": { "q": accepts(&json!({})) } }))).await;
    assert_eq!((answered.code(), replayed(&answered)), ("ok".to_owned(), None), "{}", answered.text());
    for more in [json!({}), json!({ "inputResponses": { "q": accepts(&json!({})) } })] {
        assert!(replayed(&client.send(&ask(more)).await).is_some());
    }
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn an_approved_call_is_given_again_without_another_approval() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "").policy(&format!("{ALLOW}o, O1, role:any, up__pay, any, -, approve:oncall\n"));
    let made = site.run(&["--json", "approvals", "keygen", "alice", "--out", "alice.key"]).await.json();
    let site = site.config(&format!("people:\n  - {{ name: alice, roles: [oncall], key_hash: {} }}\n", made["key_hash"]));
    let gateway = site.serve().await;
    let pay = async || gateway.client().send(&keyed("up__pay", "k", json!({ "text": "x" }))).await;
    let waits = pay().await;
    assert_eq!(waits.told(), "approval_required none");
    let id = waits.error()["approval"]["id"].as_str().unwrap().to_owned();
    assert_eq!(site.run(&["approvals", "approve", &id, "--key", "alice.key"]).await.code, 0);
    assert_eq!((pay().await.code(), replayed(&pay().await).is_some(), upstream.calls().len()), ("ok".to_owned(), true, 1));
}

#[tokio::test]
async fn agents_of_handshake_revisions_have_keys_too() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let session = gateway.client().initialize("2025-06-18").await;
    let params = json!({ "name": "up__save", "arguments": { "text": "x" }, "_meta": { "dev.doorward/idempotencyKey": "k" } });
    let first = session.send("tools/call", &params).await;
    let again = session.send("tools/call", &params).await;
    assert_eq!((first.code(), replayed(&again).is_some(), upstream.calls().len()), ("ok".to_owned(), true, 1));
    assert_eq!(again.result()["content"], first.result()["content"]);
    assert!(replayed(&save(&gateway.client(), "k", "x").await).is_some(), "and the result is any revision's");
}

/// Sends calls of its own keys, each again and again until it has an end.
async fn caller(client: Client, kill: usize, number: usize) -> Vec<String> {
    let mut begun = Vec::new();
    for call in 0.. {
        let key = format!("{kill}-{number}-{call}");
        begun.push(key.clone());
        for _ in 0..2 {
            let Ok(mut socket) = client.try_open(&keyed("up__save", &key, json!({ "text": key }))).await else { return begun };
            let mut answer = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut answer).await;
            if !read.is_ok_and(|length| length > 0) {
                return begun;
            }
        }
    }
    begun
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_load_no_call_with_a_key_acts_twice() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, PLAIN, "");
    let mut begun = HashSet::new();
    for kill in 0..12 {
        let gateway = site.serve().await;
        let mut calls: JoinSet<Vec<String>> = (0..8).map(|number| caller(gateway.client(), kill, number)).collect();
        upstream.got(upstream.calls().len() + 6 + kill % 5 * 9).await;
        gateway.kill().await;
        while let Some(keys) = calls.join_next().await {
            begun.extend(keys.unwrap());
        }
    }
    let gateway = site.serve().await;
    let before = effects(&upstream);
    let mut told = BTreeMap::<String, usize>::new();
    for key in &begun {
        let answer = save(&gateway.client(), key, key).await;
        let how = if answer.code() == "ok" && replayed(&answer).is_some() { "replayed".to_owned() } else { answer.code() };
        // What runs now had never reached the server; what is unknown or replayed has, or may have.
        assert_eq!(how == "ok", !before.contains_key(key) && how != "outcome_unknown", "{key}: {how}");
        *told.entry(how).or_default() += 1;
    }
    let twice: Vec<_> = effects(&upstream).into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(told["replayed"] > 0 && told.keys().all(|how| ["ok", "replayed", "outcome_unknown"].contains(&how.as_str())), "{told:?}");
    until("every end", async || ends(&site.records()).values().all(|ends| ends.len() == 1).then_some(())).await;
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn a_step_that_fails_is_told_how_to_take_back_what_its_run_has_done() {
    let upstream = Upstream::start().await;
    let site = site_of(
        &upstream,
        "  save: { tier: reversible, compensation: up__pay }\n  pay: { tier: irreversible }\n  echo: { tier: read }\n",
        "",
    );
    let gateway = site.serve().await;
    let client = gateway.client();
    let in_run = |tool: &str, run: &str| {
        Ask::modern("tools/call", json!({ "name": tool, "arguments": { "text": "x" }, "_meta": { "dev.doorward/run": run } }))
    };
    for run in ["r1", "r1", "r2"] {
        assert_eq!(client.send(&in_run("up__save", run)).await.code(), "ok");
    }
    upstream.does("echo", Does::Error(-32603, "no"));
    // Only reading may be sent again, so it is not the end of the run.
    assert_eq!(client.send(&in_run("up__echo", "r1")).await.error()["compensations"], Value::Null);
    site.write("policies/policy.csv", &format!("{ALLOW}p, D1, agent:demo, up__echo, any, -, deny\n"));
    let denied =
        until("the denial", async || Some(client.send(&in_run("up__echo", "r1")).await).filter(|answer| answer.code() == "policy_denied"))
            .await;
    let offered = denied.error()["compensations"].clone();
    let saved: Vec<Value> = site
        .of_kind("intent")
        .iter()
        .filter(|intent| intent["target"] == "up__save" && intent["run"] == "r1")
        .map(|intent| intent["call_id"].clone())
        .collect();
    let undo = |call: &Value| json!({ "tool": "up__pay", "undoes": "up__save", "invocation": call });
    assert_eq!(offered, json!([undo(&saved[1]), undo(&saved[0])]));
    assert!(denied.error()["suggestion"].as_str().unwrap().contains("call `up__pay`"), "{}", denied.text());
    assert_eq!(client.send(&in_run("up__pay", "r1")).await.code(), "ok");
    assert_eq!(client.send(&in_run("up__echo", "r1")).await.error()["compensations"], json!([undo(&saved[0])]));
    assert_eq!(
        gateway.other().send(&in_run("up__echo", "r1")).await.json().pointer("/result/_meta/dev.doorward~1error/compensations"),
        None
    );
    // A call that may have acted names its own, also without a run.
    upstream.does("save", Does::Disconnects);
    let lost = client.call("up__save", json!({ "text": "x" })).await;
    assert_eq!(
        (lost.told(), lost.error()["compensations"][0]["tool"].clone()),
        ("upstream_disconnected unknown".to_owned(), json!("up__pay"))
    );
}

#[tokio::test]
async fn check_tells_of_a_compensation_that_is_no_tool_and_a_key_that_is_no_argument() {
    let upstream = Upstream::start().await;
    let tools = "  save: { tier: reversible, compensation: up__unsave }\n  pay: { tier: irreversible, idempotency: \"key:/order\", compensation: up__echo }\n  echo: { tier: read }\n";
    let site = site_of(&upstream, tools, "");
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    for words in [
        "up.yaml:5:",
        "`compensation: up__unsave` of `up__save` names no tool",
        "`compensation: up__echo` of `up__pay` only reads",
        "`idempotency: key:/order` of `up__pay` is no argument",
    ] {
        assert!(checked.out.contains(words), "{words}: {}", checked.out);
    }
}

#[tokio::test]
async fn a_call_from_the_command_line_has_a_key_where_it_is_given_one() {
    let (upstream, site) = site().await;
    let call = async || site.run(&["call", "up__save", "text=once", "--as", "demo", "--idempotency-key", "k"]).await;
    let first = call().await;
    assert_eq!((first.code, first.err.contains("not called again")), (0, false), "{first:?}");
    let again = call().await;
    assert_eq!((again.code, &again.out, again.err.contains("not called again")), (0, &first.out, true), "{again:?}");
    assert_eq!(upstream.calls().len(), 1);
}
