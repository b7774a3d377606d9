//! What people stop for a while is stopped, whatever the policy says, and goes on when it is lifted or its time is over.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::stream::Stream;
use crate::support::{Ask, Does, Serving, Site, Upstream, until};

const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\np, R4, agent:demo, up__pay, irreversible, -, allow\np, R2, agent:other, up__*, reversible, -, allow\n\
    p, R3, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "a call waits for the connection");
    (upstream, site, gateway)
}

async fn freeze(site: &Site, args: &[&str]) -> Value {
    let all: Vec<&str> = ["freeze", "add", "--json", "--reason", "case 7"].iter().chain(args).copied().collect();
    let done = site.run(&all).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.json()
}

fn is_over(record: &Value) -> bool {
    record["action"] == "freeze_expired" && record["subject"] == "freeze:1"
}

async fn code(gateway: &Serving, tool: &str, arguments: Value) -> String {
    gateway.client().call(tool, arguments).await.code()
}

#[tokio::test]
async fn a_frozen_agent_calls_nothing_until_it_is_lifted_and_others_go_on() {
    let (upstream, site, gateway) = gateway().await;
    let seen = upstream.asked("tools/call").len();

    let told = freeze(&site, &["--agent", "demo"]).await;

    assert_eq!((&told["freeze"], &told["recorded"]), (&json!("freeze:1"), &json!(true)));
    let answer = gateway.client().call("up__echo", json!({})).await;
    assert_eq!(
        (answer.code().as_str(), &answer.error()["rules"], &answer.error()["retryable"]),
        ("frozen", &json!(["freeze:1"]), &json!(false))
    );
    assert!(!answer.text().contains("case 7"), "the reason is for people: {}", answer.text());
    let read = Ask::modern("resources/read", json!({ "uri": "dw+up+file:///notes/a" }));
    let read = gateway.client().send(&read).await;
    assert!(read.text().contains("\"frozen\""), "{}", read.text());
    assert_eq!(upstream.asked("tools/call").len(), seen);
    assert_eq!(gateway.other().call("up__echo", json!({})).await.code(), "ok");

    assert_eq!(site.run(&["freeze", "lift", "1", "--reason", "solved"]).await.code, 0);

    assert_eq!(code(&gateway, "up__echo", json!({})).await, "ok");
    assert_eq!(site.run(&["freeze", "lift", "1"]).await.code, 2, "it is lifted already");
    let people: Vec<_> = site.of_kind("person").iter().map(|record| (record["action"].clone(), record["note"].clone())).collect();
    assert_eq!(people, [(json!("freeze_add"), json!("case 7")), (json!("freeze_lift"), json!("solved"))]);
    let refused = site.of_kind("refusal");
    assert!(refused.iter().all(|record| record["code"] == "frozen" && record["rule_ids"] == json!(["freeze:1"])), "{refused:?}");
}

#[tokio::test]
async fn a_freeze_covers_what_all_its_parts_describe_and_nothing_else() {
    let (_upstream, site, gateway) = gateway().await;
    freeze(&site, &["--tool", "up__s*", "--where", "/text=1.50"]).await;

    let calls = [("up__save", json!({ "text": "1.50" })), ("up__save", json!({ "text": "1.5" })), ("up__save", json!({}))];
    let mut codes = Vec::new();
    for (tool, arguments) in calls {
        codes.push(code(&gateway, tool, arguments).await);
    }
    assert_eq!(codes, ["frozen", "ok", "ok"]);
    assert_eq!(code(&gateway, "up__echo", json!({ "text": "1.50" })).await, "ok");
}

#[tokio::test]
async fn what_a_server_may_find_the_value_in_is_covered_too() {
    let (_upstream, site, gateway) = gateway().await;
    freeze(&site, &["--tool", "up__echo", "--where", "/to=DE02"]).await;
    freeze(&site, &["--tool", "up__echo", "--where", "/list/*=x"]).await;

    for (arguments, wanted) in [
        (json!({ "to": ["DE02"] }), "frozen"),
        (json!({ "to": { "iban": "DE02" } }), "frozen"),
        (json!({ "list": ["a", "x"] }), "frozen"),
        (json!({ "to": "DE03", "list": ["a"] }), "ok"),
    ] {
        assert_eq!(code(&gateway, "up__echo", arguments.clone()).await, wanted, "{arguments}");
    }
}

#[tokio::test]
async fn a_freeze_outlives_the_gateway_and_ends_by_itself() {
    let (_upstream, site, gateway) = gateway().await;
    gateway.stop().await;
    let done = site.run(&["freeze", "add", "--tool", "up__echo", "--for", "3h", "--reason", "r"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let gateway = site.serve().await;
    assert_eq!(code(&gateway, "up__echo", json!({})).await, "frozen");

    let database = rusqlite::Connection::open(site.path("var/state.db")).unwrap();
    database.execute("UPDATE freeze SET until = 1", []).unwrap();

    until("the end of the freeze", async || (code(&gateway, "up__echo", json!({})).await == "ok").then_some(())).await;
    let over = until("the record of its end", async || Some(site.of_kind("lifecycle")).filter(|all| all.iter().any(is_over))).await;
    assert_eq!(over.iter().filter(|record| is_over(record)).count(), 1);
    let listed = site.run(&["freeze", "list", "--all", "--json"]).await.json();
    assert_eq!((&listed[0]["standing"], &listed[0]["tool"]), (&json!("over"), &json!("up__echo")));
    assert_eq!(site.run(&["freeze", "list"]).await.out, "nothing is frozen\n");
}

#[tokio::test]
async fn a_call_under_way_ends_where_the_freeze_says_so_and_its_effect_is_unknown() {
    let (upstream, site, gateway) = gateway().await;
    upstream.does("save", Does::Waits(CancellationToken::new()));
    upstream.does("pay", Does::Waits(CancellationToken::new()));
    let client = gateway.client();
    let save = tokio::spawn(async move { client.call("up__save", json!({})).await });
    let client = gateway.client();
    let pay = tokio::spawn(async move { client.call("up__pay", json!({})).await });
    until("both calls to be there", async || (upstream.asked("tools/call").len() >= 3).then_some(())).await;

    freeze(&site, &["--tool", "up__pay"]).await;
    freeze(&site, &["--tool", "up__save", "--end-running"]).await;

    assert_eq!(save.await.unwrap().told(), "frozen unknown");
    upstream.abandoned(1).await;
    assert!(!pay.is_finished(), "nobody has asked for its end");
    let end = &site.of_kind("outcome")[1];
    assert_eq!((&end["outcome"], &end["code"], &end["effect"]), (&json!("cancelled"), &json!("frozen"), &json!("unknown")));
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
    pay.abort();
}

#[tokio::test]
async fn a_frozen_agent_is_told_of_nothing_either() {
    let (_upstream, site, gateway) = gateway().await;
    let ask = Ask::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listen = Stream::open(&gateway.client(), &ask).await;
    listen.message().await;

    freeze(&site, &["--agent", "demo"]).await;
    site.write("policies/policy.csv", &format!("{ROWS}p, R9, agent:third, up__echo, read, -, allow\n"));

    let rest = listen.rest().await;
    assert!(rest.iter().all(|message| message["method"].is_null()), "only the end is told: {rest:?}");
    let again = gateway.client().send(&ask).await;
    assert!(again.text().contains("\"frozen\""), "{}", again.text());
}

#[tokio::test]
async fn what_describes_nothing_is_refused_in_words() {
    let (_upstream, site, _gateway) = gateway().await;
    let long = "r".repeat(129);
    let wrong: [(&[&str], &str); 9] = [
        (&["--run", "", "--reason", "r"], "a run 1 to 128"),
        (&["--run", &long, "--reason", "r"], "a run 1 to 128"),
        (&["--where", "/a~2=1", "--reason", "r"], "written `~0`"),
        (&["--reason", "r"], "--agent"),
        (&["--agent", "demo"], "--reason"),
        (&["--agent", "demo", "--reason", " "], "a reason has"),
        (&["--tool", "up__*x", "--reason", "r"], "`*` that is not at the end"),
        (&["--where", "text=1", "--reason", "r"], "begins with `/`"),
        (&["--agent", "demo", "--for", "soon", "--reason", "r"], "such as `30m`"),
    ];
    for (args, told) in wrong {
        let all: Vec<&str> = ["freeze", "add"].iter().chain(args).copied().collect();
        let done = site.run(&all).await;
        assert!(done.code == 2 && done.err.contains(told), "{args:?}: {done:?}");
    }
    let odd = site.run(&["freeze", "add", "--tool", "down__*", "--reason", "r"]).await;
    assert!(odd.code == 0 && odd.err.contains("no tool of the catalog"), "{odd:?}");
    let odd = site.run(&["freeze", "add", "--agent", "dmeo", "--reason", "r"]).await;
    assert!(odd.code == 0 && odd.err.contains("no agent of this name"), "{odd:?}");
}

#[tokio::test]
async fn a_freeze_that_the_gateway_does_not_have_is_no_success() {
    let (_upstream, site, gateway) = gateway().await;
    for file in ["var/state.db", "var/state.db-wal", "var/state.db-shm"] {
        let _ = std::fs::remove_file(site.path(file));
    }
    let done = site.run(&["freeze", "add", "--agent", "demo", "--reason", "r"]).await;
    assert!(done.code == 1 && done.err.contains("NOT IN FORCE"), "{done:?}");
    gateway.stop().await;
    let later = site.run(&["freeze", "add", "--agent", "demo", "--reason", "r"]).await;
    assert!(later.code == 0 && later.err.contains("no gateway runs on"), "{later:?}");
}

#[tokio::test]
async fn the_responders_page_freezes_as_it_says() {
    let site = Site::of_demo();
    let _gateway = site.serve().await;
    let page = std::fs::read_to_string(crate::support::site::shipped("docs/responders.md")).unwrap();
    let lines: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("$ doorward freeze ")).collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        // The words of a shell, as far as the page quotes them.
        let parts = line.split(['"', '\'']).enumerate();
        let words: Vec<&str> =
            parts.flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect();
        let all: Vec<&str> = ["freeze"].into_iter().chain(words).collect();
        let done = site.run(&all).await;
        assert_eq!(done.code, 0, "{line}: {done:?}");
    }
    let listed = site.run(&["freeze", "list", "--json"]).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
}
