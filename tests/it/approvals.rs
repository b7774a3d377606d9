//! Calls that wait for a person's yes: asked for, given by the right people for this very call, used once, and on record all the way.

use std::path::PathBuf;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::asking::{accepts, declaring, forms, questions};
use crate::support::site::Done;
use crate::support::stream::Stream;
use crate::support::{Answer, Ask, Does, Issuer, Serving, Site, Upstream, until};

const SECRET: &str = "canary-approval-6160";
const ALLOW: &str = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__pay, irreversible, -, allow\n";

/// Adds people with a key each, in `NAME.key`, as `(name, members)`.
pub async fn with_people(site: Site, people: &[(&str, &str)], more: &str) -> Site {
    let mut lines = String::new();
    for (name, members) in people {
        let made = site.run(&["--json", "approvals", "keygen", name, "--out", &format!("{name}.key")]).await;
        assert_eq!(made.code, 0, "{made:?}");
        lines += &format!("  - {{ name: {name}, key_hash: {}, {members} }}\n", made.json()["key_hash"]);
    }
    site.config(&format!("people:\n{lines}{more}"))
}

/// `up__pay` needs what the row says; alice and bob are on call, carol is not.
pub async fn site_of(upstream: &Upstream, obligation: &str, more: &str) -> Site {
    let site = Site::of(upstream).policy(&format!("{ALLOW}o, O1, role:any, up__pay, any, -, {obligation}\n"));
    with_people(site, &[("alice", "roles: [oncall]"), ("bob", "roles: [oncall]"), ("carol", "roles: [dba]")], more).await
}

async fn site() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", "").await;
    (upstream, site)
}

pub async fn pay(gateway: &Serving, text: &str) -> Answer {
    gateway.client().call("up__pay", json!({ "text": text })).await
}

/// The approval that the call waits for.
pub fn wanted(answer: &Answer) -> String {
    assert_eq!(answer.told(), "approval_required none", "{}", answer.text());
    answer.error()["approval"]["id"].as_str().unwrap().to_owned()
}

pub async fn says(site: &Site, word: &str, id: &str, who: &str) -> Done {
    site.run(&["approvals", word, id, "--key", &format!("{who}.key"), "--reason", "ticket 17"]).await
}

pub async fn approve(site: &Site, id: &str, who: &str) {
    let done = says(site, "approve", id, who).await;
    assert_eq!(done.code, 0, "{done:?}");
}

/// Actions of an approval on record, each with who acted.
pub fn steps(site: &Site, id: &str) -> Vec<String> {
    let of_it = site.of_kind("approval").into_iter().filter(|record| record["approval_id"] == id);
    of_it.map(|record| format!("{} {}", record["action"].as_str().unwrap(), record["actor"].as_str().unwrap_or("-"))).collect()
}

/// Lets the time of every open approval run out.
pub fn time_passes(site: &Site) {
    let database = Connection::open(site.path("var/state.db")).unwrap();
    assert!(database.execute("UPDATE approval SET expires = 1 WHERE standing = 'open'", []).unwrap() > 0);
}

#[tokio::test]
async fn a_call_waits_for_a_persons_yes_runs_once_and_leaves_every_step_on_record() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let first = pay(&gateway, SECRET).await;
    let id = wanted(&first);
    let error = first.error();
    assert!(
        error["message"].as_str().unwrap().contains(&id) && error["suggestion"].as_str().unwrap().contains("the very same call"),
        "{error}"
    );
    assert_eq!(
        (&error["rules"], &error["retryable"], &error["approval"]["waits_for"]),
        (&json!(["O1"]), &json!(true), &json!(["a person with the role `oncall`"]))
    );
    assert_eq!(wanted(&pay(&gateway, SECRET).await), id, "asking again does not pile up");
    assert_eq!((upstream.calls().len(), site.holding(SECRET)), (0, Vec::new()));

    let listed = site.run(&["--json", "approvals", "list"]).await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"], &listed[0]["standing"]), (1, &json!(id), &json!("waiting")));
    let shown = site.run(&["approvals", "show", &id]).await;
    for words in
        [SECRET, "agent:demo", "up__pay (irreversible)", "sha256:", "O1 approve:oncall", "R2", "waiting for a person with the role"]
    {
        assert!(shown.code == 0 && shown.out.contains(words), "{words}: {shown:?}");
    }
    approve(&site, &id, "alice").await;
    // Other spellings of the same arguments are the same.
    let spelled = format!("{{ \"text\" : \"\\u0063{}\" }}", &SECRET[1..]);
    assert_eq!(gateway.client().send(&Ask::call_with_text("up__pay", &spelled)).await.code(), "ok");
    let second = wanted(&pay(&gateway, SECRET).await);
    assert_ne!(second, id, "it is good once");
    assert_eq!(upstream.calls().len(), 1);

    site.ends(1).await;
    assert_eq!(
        steps(&site, &id),
        ["requested -", &format!("shown uid:{}", rustix::process::getuid().as_raw()), "approved alice", "used -"]
    );
    let intent = &site.of_kind("intent")[0];
    assert_eq!((&intent["approval_id"], &intent["obligations"]), (&json!(id), &json!(["O1 approve:oncall"])));
    let used = site.of_kind("approval").into_iter().find(|record| record["action"] == "used").unwrap();
    assert!(used["seq"].as_u64() < intent["seq"].as_u64() && used["call_id"] == intent["call_id"], "{used}");
    let refusal = &site.of_kind("refusal")[0];
    assert_eq!(
        (&refusal["decision"], &refusal["approval_id"], &refusal["rule_ids"]),
        (&json!("needs_approval"), &json!(id), &json!(["R2"]))
    );
    let approved = site.recorded("approval", "action", "approved").await;
    assert_eq!((&approved["note"], &approved["after"], &approved["agent"]), (&json!("ticket 17"), &json!("approved"), &json!("demo")));
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn an_approval_is_good_for_no_other_arguments_and_no_other_agent() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "5 to bob").await);
    approve(&site, &id, "alice").await;
    for text in [r#"{"text":"50 to bob"}"#, r#"{"text":"5 to bob","more":1}"#, r#"{"text":"5 to bob","more":1.0}"#, "{}"] {
        assert_ne!(wanted(&gateway.client().send(&Ask::call_with_text("up__pay", text)).await), id, "{text}");
    }
    assert_ne!(wanted(&gateway.other().call("up__pay", json!({ "text": "5 to bob" })).await), id);
    assert_eq!((upstream.calls().len(), pay(&gateway, "5 to bob").await.code()), (0, "ok".to_owned()));
}

#[tokio::test]
async fn nothing_goes_along_with_an_approved_call_that_nobody_was_shown() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let traced = "\"_meta\":{\"traceparent\":\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\",\"tracestate\":\"a=all\",\"acme/act_as\":\"root\",";
    let ask = || Ask::call("up__pay", json!({ "text": "a" }));
    let id = wanted(&gateway.client().send(&ask()).await);
    approve(&site, &id, "alice").await;

    let answers = "\"inputResponses\":{\"q\":{\"action\":\"accept\",\"content\":{\"all\":true}}},\"_meta\":{";
    let unasked = gateway.client().send(&ask().saying("\"_meta\":{", answers)).await;
    assert_eq!((unasked.code().as_str(), upstream.calls().len()), ("state_invalid", 0), "{}", unasked.text());
    assert_eq!(gateway.client().send(&ask().saying("\"_meta\":{", traced)).await.code(), "ok");

    let sent = upstream.asked("tools/call").pop().unwrap()["params"]["_meta"].clone();
    assert!(sent["traceparent"].is_string() && sent["acme/act_as"].is_null() && sent["tracestate"].is_null(), "{sent}");
    assert_eq!(gateway.client().send(&Ask::call("up__echo", json!({})).saying("\"_meta\":{", traced)).await.code(), "ok");
    let sent = upstream.asked("tools/call").pop().unwrap()["params"]["_meta"].clone();
    assert_eq!(sent["acme/act_as"], "root", "what nobody has to approve goes along as it came");
}

#[tokio::test]
async fn an_approval_is_good_under_the_policy_that_asked_for_it_only() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    approve(&site, &id, "alice").await;
    let rows = std::fs::read_to_string(site.path("policies/policy.csv")).unwrap();
    site.write("policies/policy.csv", &format!("{rows}p, D9, agent:nobody, up__echo, any, -, deny\n"));
    site.recorded("policy_change", "action", "reload").await;
    assert_ne!(wanted(&pay(&gateway, "a").await), id);
    let listed = site.run(&["--json", "approvals", "list"]).await.json();
    let standing = listed.as_array().unwrap().iter().find(|one| one["id"] == *id).unwrap()["standing"].clone();
    assert_eq!(standing, "of another policy", "{listed}");
    let late = says(&site, "deny", &id, "bob").await;
    assert!(late.code == 3 && late.err.contains("the policy has changed since it was asked for"), "{late:?}");
    site.write("policies/policy.csv", &rows);
    until("the old policy", async || (pay(&gateway, "a").await.code() == "ok").then_some(())).await;
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_approval_is_good_for_the_definition_that_was_shown_only() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    approve(&site, &id, "alice").await;
    gateway.stop().await;
    upstream.redefine(|tools| tools.iter_mut().find(|tool| tool["name"] == "pay").unwrap()["description"] = "otherwise".into());
    assert_eq!(site.run(&["tools", "approve", "up", "pay"]).await.code, 0);
    let gateway = site.serve().await;
    assert_ne!(wanted(&pay(&gateway, "a").await), id);
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn what_waits_and_what_is_approved_outlive_the_gateway() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, SECRET).await);
    gateway.kill().await;
    let gateway = site.serve().await;
    assert_eq!(wanted(&pay(&gateway, SECRET).await), id);
    assert!(site.run(&["approvals", "show", &id]).await.out.contains(SECRET));
    approve(&site, &id, "bob").await;
    gateway.kill().await;
    let gateway = site.serve().await;
    assert_eq!(pay(&gateway, SECRET).await.code(), "ok");
    gateway.kill().await;
    let gateway = site.serve().await;
    assert_ne!(wanted(&pay(&gateway, SECRET).await), id);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_no_is_told_and_its_arguments_are_gone() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    // Who has said yes may think again, and so may somebody else.
    approve(&site, &id, "alice").await;
    let done = says(&site, "deny", &id, "bob").await;
    assert!(done.code == 0 && done.out.contains("bob says no to up__pay of agent:demo"), "{done:?}");
    let told = pay(&gateway, "a").await;
    assert_eq!(
        (told.told(), &told.error()["approval"]["id"], &told.error()["retryable"]),
        ("approval_denied none".to_owned(), &json!(id), &json!(false))
    );
    assert_eq!(steps(&site, &id), ["requested -", "approved alice", "denied bob"]);
    let shown = site.run(&["--json", "approvals", "show", &id]).await.json();
    assert_eq!((&shown["standing"], shown.get("arguments"), &shown["ended_by"]), (&json!("denied"), None, &json!("bob")));
    let again = says(&site, "approve", &id, "alice").await;
    assert_eq!((again.code, again.err.contains("it is denied")), (3, true), "{again:?}");
    assert!(upstream.calls().is_empty());
    assert_eq!(site.run(&["audit", "find", "--code", "approval_denied"]).await.code, 0);
}

#[tokio::test]
async fn nobody_in_time_is_told_once_and_then_it_is_asked_anew() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    time_passes(&site);
    let late = says(&site, "approve", &id, "alice").await;
    assert_eq!((late.code, late.err.contains("it is expired")), (3, true), "{late:?}");
    assert_eq!(pay(&gateway, "a").await.told(), "approval_expired none");
    let second = wanted(&pay(&gateway, "a").await);
    // An approval that nobody uses expires too.
    approve(&site, &second, "alice").await;
    time_passes(&site);
    assert_eq!(site.run(&["--json", "approvals", "list"]).await.json(), json!([]));
    assert_eq!(pay(&gateway, "a").await.told(), "approval_expired none");
    assert_ne!(wanted(&pay(&gateway, "a").await), second);
    assert_eq!(steps(&site, &second)[1..], ["approved alice", "expired -"]);
    let shown = site.run(&["--json", "approvals", "show", &second]).await.json();
    assert_eq!((&shown["standing"], shown.get("arguments")), (&json!("expired"), None));
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn neither_the_requester_nor_an_agent_nor_another_role_can_approve() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", "").await;
    let site = {
        let yaml = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
        let made = site.run(&["--json", "approvals", "keygen", "demo", "--out", "demo.key"]).await.json();
        let own = format!("people:\n  - {{ name: demo, roles: [oncall], key_hash: {} }}\n", made["key_hash"]);
        site.write("doorward.yaml", &yaml.replacen("people:\n", &own, 1));
        site
    };
    site.write("agent.key", site.key("other"));
    site.write("stranger.key", "dw_000000000000_00");
    site.write("no.key", "hello");
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    for (who, code, words) in [
        ("demo", 3, "made by or for this person"),
        ("carol", 3, "a person with the role `oncall`"),
        ("agent", 3, "no person of `people`, or an agent's"),
        ("stranger", 3, "no person of `people`, or an agent's"),
        ("no", 2, "holds no key"),
        ("absent", 2, "absent.key"),
    ] {
        for word in ["approve", "deny"] {
            let done = says(&site, word, &id, who).await;
            assert_eq!((done.code, done.err.contains(words)), (code, true), "{who}: {done:?}");
        }
    }
    assert_eq!(says(&site, "approve", "ap-0000000000", "alice").await.code, 3);
    assert_eq!(wanted(&pay(&gateway, "a").await), id);
    let steps = steps(&site, &id);
    assert_eq!(steps[..3], ["requested -", "refused demo", "refused demo"], "{steps:?}");
    assert!(steps.contains(&"refused carol".to_owned()) && steps.contains(&"refused -".to_owned()), "{steps:?}");
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn two_people_are_two_and_one_who_leaves_does_not_count_any_more() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall*2", "").await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    let first = says(&site, "approve", &id, "alice").await;
    assert!(first.code == 0 && first.out.contains("still waits for a person with the role `oncall`"), "{first:?}");
    let twice = says(&site, "approve", &id, "alice").await;
    assert_eq!((twice.code, twice.err.contains("has said yes already")), (3, true), "{twice:?}");
    let waits = pay(&gateway, "a").await;
    assert_eq!((wanted(&waits), &waits.error()["approval"]["waits_for"]), (id.clone(), &json!(["a person with the role `oncall`"])));
    approve(&site, &id, "bob").await;

    let yaml = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    site.write("doorward.yaml", &yaml.replacen("name: bob", "name: bobby", 1));
    gateway.signal(Signal::HUP);
    site.recorded("config_change", "actor", "SIGHUP").await;
    assert_eq!(wanted(&pay(&gateway, "a").await), id, "a yes of somebody who is out");
    site.write("doorward.yaml", &yaml);
    gateway.signal(Signal::HUP);
    until("bob again", async || (pay(&gateway, "a").await.code() == "ok").then_some(())).await;
    assert_eq!(upstream.calls().len(), 1);
    assert_eq!(steps(&site, &id), ["requested -", "approved alice", "refused alice", "approved bob", "used -"]);
}

#[tokio::test]
async fn of_many_identical_calls_with_one_approval_one_runs() {
    let (upstream, site) = site().await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    approve(&site, &id, "alice").await;
    let go = CancellationToken::new();
    upstream.does("pay", Does::Waits(go.clone()));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let client = gateway.client();
            tokio::spawn(async move { client.call("up__pay", json!({ "text": "a" })).await.code() })
        })
        .collect();
    upstream.got(1).await;
    go.cancel();
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap());
    }
    codes.sort();
    assert_eq!(
        (codes.iter().filter(|code| *code == "ok").count(), codes[0].as_str(), codes[6].as_str()),
        (1, "approval_required", "approval_required")
    );
    assert_eq!((upstream.calls().len(), site.ends(1).await), (1, vec!["ok done".to_owned()]));
}

#[tokio::test]
async fn a_refusal_for_want_of_room_does_not_cost_the_approval() {
    let (upstream, site) = site().await;
    let site = site.defaults(&upstream, "concurrency: 1");
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, "a").await);
    approve(&site, &id, "alice").await;
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let client = gateway.client();
    let other = tokio::spawn(async move { client.call("up__save", json!({})).await.code() });
    upstream.got(1).await;
    assert_eq!(pay(&gateway, "a").await.code(), "concurrency_limited");
    go.cancel();
    assert_eq!(other.await.unwrap(), "ok");
    assert_eq!(pay(&gateway, "a").await.code(), "ok");
}

#[tokio::test]
async fn what_is_shown_cannot_deceive() {
    let (_upstream, site) = site().await;
    let gateway = site.serve().await;
    let text = "{\"text\":\"\\u001b[2Jpay \u{202e}evil\u{2066} \u{9b}31m \u{5d0}\",\"digits\":100000000000000000001,\"z\":\"\\r\\n  }\"}";
    let id = wanted(&gateway.client().send(&Ask::call_with_text("up__pay", text)).await);
    let shown = site.run(&["approvals", "show", &id]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    for words in ["\\u001b[2Jpay \\u{202e}evil\\u{2066} \\u{9b}31m \\u{5d0}", "\"digits\": 100000000000000000001", "\\r\\n  }"] {
        assert!(shown.out.contains(words), "{words}: {}", shown.out);
    }
    assert!(!shown.out.chars().any(|letter| letter != '\n' && (letter.is_control() || !letter.is_ascii())), "{:?}", shown.out);
    // Programs get it digit for digit.
    let json = site.run(&["--json", "approvals", "show", &id]).await;
    assert!(json.out.contains("\"digits\":100000000000000000001"), "{json:?}");
    assert_eq!(json.json()["arguments"]["z"], "\r\n  }");
}

#[tokio::test]
async fn one_agent_has_so_many_waiting_calls_and_others_have_room() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", "approvals: { max_pending: 3, max_pending_per_agent: 2 }").await;
    let gateway = site.serve().await;
    for text in ["a", "b"] {
        wanted(&pay(&gateway, text).await);
    }
    assert_eq!(pay(&gateway, "c").await.told(), "concurrency_limited none");
    wanted(&pay(&gateway, "a").await);
    wanted(&gateway.other().call("up__pay", json!({ "text": "a" })).await);
    assert_eq!(gateway.other().call("up__pay", json!({ "text": "b" })).await.told(), "overloaded none");
    let long = "x".repeat(300 << 10);
    assert_eq!(pay(&gateway, &long).await.told(), "payload_too_large none");
}

#[tokio::test]
async fn a_row_that_asks_for_people_who_are_not_there_is_refused() {
    let upstream = Upstream::start().await;
    for (obligation, words) in [
        ("approve:onkall", "nobody with a key has the role `onkall`\n  help: did you mean `oncall`?"),
        ("approve:dba*2", "only carol has the role `dba`"),
        ("approve:oncall*3", "only alice and bob have the role `oncall`"),
    ] {
        let site = site_of(&upstream, obligation, "").await;
        let done = site.run(&["check", "--offline"]).await;
        assert_eq!((done.code, done.err.contains("policy.csv:3:") && done.err.contains(words)), (2, true), "{done:?}");
    }
    let site = site_of(&upstream, "approve:oncall*2", "").await;
    assert_eq!(site.run(&["check", "--offline"]).await.code, 0);
    let explained = site.run(&["policy", "explain", "up__pay", "text=a", "--as", "demo"]).await;
    assert!(explained.code == 0 && explained.out.contains("allowed by R2, with O1 approve:oncall*2"), "{explained:?}");
    site.write(
        "cases.yaml",
        "cases:\n  - { agent: demo, call: up__pay, expect: allow, rules: [R2], obligations: [\"approve:oncall*2\"] }\n",
    );
    assert_eq!(site.run(&["policy", "test", "--uncovered-ok", "cases.yaml"]).await.code, 0);
}

#[tokio::test]
async fn people_with_one_name_or_one_key_are_refused() {
    let site = with_people(Site::empty(), &[("alice", ""), ("bob", "")], "").await;
    let yaml = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    let keys: Vec<&str> = yaml.split("sha256:").skip(1).map(|rest| &rest[..64]).collect();
    let (demo, alice, bob) = (keys[0], keys[2], keys[3]);
    for (text, words) in [
        (yaml.replace("name: bob", "name: alice"), "two people are called `alice`"),
        (yaml.replace(bob, alice), "`bob` has the key of `alice`"),
        (yaml.replace(bob, demo), "`bob` has the key of `demo`"),
        (yaml.replacen("name: alice,", "name: alice, roles: [On Call],", 1), "`On Call` is not a name"),
    ] {
        site.write("doorward.yaml", &text);
        let done = site.run(&["check", "--offline"]).await;
        assert_eq!((done.code, done.err.contains(words)), (2, true), "{words}: {done:?}");
    }
}

#[tokio::test]
async fn without_a_running_gateway_the_same_commands_do_the_same() {
    let (upstream, site) = site().await;
    let call = async || site.run(&["--json", "call", "up__pay", "text=a", "--as", "demo"]).await;
    let first = call().await;
    assert_eq!(first.code, 4, "{first:?}");
    let id = first.json()["_meta"]["dev.doorward/error"]["approval"]["id"].as_str().unwrap().to_owned();
    assert!(site.run(&["approvals", "list"]).await.out.contains(&id));
    approve(&site, &id, "alice").await;
    assert_eq!((call().await.code, upstream.calls().len()), (0, 1));
    assert_eq!(call().await.code, 4);
    let actors: Vec<Value> = site.of_kind("approval").into_iter().filter_map(|record| record.get("actor").cloned()).collect();
    assert_eq!(actors, [json!("alice")]);
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

/// The same call of a client that can ask its user, with an answer to what `asked` asks.
fn asking(text: &str, answer: Option<(&Value, Value)>) -> Ask {
    let mut params = json!({ "name": "up__pay", "arguments": { "text": text } });
    if let Some((asked, response)) = answer {
        params["inputResponses"] = json!({ "q1": response });
        params["requestState"] = asked["requestState"].clone();
    }
    declaring(Ask::modern("tools/call", params), &forms())
}

fn yes() -> Value {
    accepts(&json!({ "approve": true }))
}

#[tokio::test]
async fn the_agents_user_is_asked_in_band_and_the_yes_is_on_record_as_relayed() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:user", "").await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = questions(&client.send(&asking("a\u{202e}b", None)).await);
    let question = &first["inputRequests"]["q1"];
    let message = question["params"]["message"].as_str().unwrap();
    assert_eq!((&question["method"], &question["params"]["mode"]), (&json!("elicitation/create"), &json!("form")));
    assert!(
        message.contains("agent:demo") && message.contains("up__pay (irreversible)") && message.contains("{\"text\":\"a\\u{202e}b\"}"),
        "{message}"
    );
    // Another call's state, no word, and a form that was accepted unfilled are no yes.
    assert_eq!(client.send(&asking("c", Some((&first, yes())))).await.code(), "state_invalid");
    for nothing in [json!({ "action": "cancel" }), json!({ "action": "accept" }), accepts(&json!({ "approve": "true" }))] {
        wanted(&client.send(&asking("a\u{202e}b", Some((&first, nothing)))).await);
    }
    assert!(upstream.calls().is_empty());
    assert_eq!(client.send(&asking("a\u{202e}b", Some((&first, yes())))).await.code(), "ok");
    assert_eq!(client.send(&asking("a\u{202e}b", Some((&first, yes())))).await.code(), "state_invalid");
    let got = upstream.calls()[0].json();
    assert_eq!((upstream.calls().len(), got["params"].get("inputResponses"), got["params"].get("requestState")), (1, None, None));
    questions(&client.send(&asking("a\u{202e}b", None)).await);

    site.ends(1).await;
    let intent = &site.of_kind("intent")[0];
    let id = intent["approval_id"].as_str().unwrap();
    assert_eq!(steps(&site, id), ["requested -", "asked -", "approved user", "used -"]);
    let approved = site.recorded("approval", "action", "approved").await;
    assert_eq!(
        (&approved["note"], &approved["call_id"], &intent["attempt"]),
        (&json!("relayed by the agent's client"), &intent["call_id"], &json!(2))
    );
    assert!(intent["answers"][0].as_str().unwrap().starts_with("q1 accept hmac:"), "{intent}");
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn a_user_of_a_handshake_revision_is_asked_over_the_stream_of_the_call() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:user", "").await;
    let gateway = site.serve().await;
    for revision in ["2025-06-18", "2025-11-25"] {
        let session = gateway.client().begin(revision, forms()).await;
        for (text, answer, code) in [
            ("a", yes(), "ok"),
            ("b", json!({ "action": "decline" }), "approval_denied"),
            ("c", json!({ "action": "cancel" }), "approval_required"),
        ] {
            let text = format!("{text} {revision}");
            let mut stream = Stream::open(&session.client, &session.call("up__pay", &json!({ "text": text }))).await;
            let question = stream.told("elicitation/create").await;
            assert!(question["params"]["message"].as_str().unwrap().contains(&text), "{question}");
            session.answers(&question, answer).await;
            let ended = stream.rest().await.pop().unwrap();
            let told = ended.pointer("/result/_meta/dev.doorward~1error/code").and_then(Value::as_str).unwrap_or("ok");
            assert_eq!(told, code, "{revision}: {ended}");
        }
    }
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn a_users_yes_is_no_persons_and_a_persons_is_no_users() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", "").await;
    let rows = std::fs::read_to_string(site.path("policies/policy.csv")).unwrap();
    site.write("policies/policy.csv", &format!("{rows}o, O2, agent:demo, up__pay, any, -, approve:user\n"));
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = questions(&client.send(&asking("a", None)).await);
    let waits = client.send(&asking("a", Some((&first, yes())))).await;
    let id = wanted(&waits);
    assert_eq!(waits.error()["approval"]["waits_for"], json!(["a person with the role `oncall`"]));
    approve(&site, &id, "alice").await;
    assert_eq!((client.send(&asking("a", None)).await.code(), upstream.calls().len()), ("ok".to_owned(), 1));

    // A client that asks nobody leaves its user's yes missing, whoever else says it.
    let id = wanted(&pay(&gateway, "b").await);
    approve(&site, &id, "alice").await;
    let waits = pay(&gateway, "b").await;
    assert_eq!((wanted(&waits), &waits.error()["approval"]["waits_for"]), (id.clone(), &json!(["the agent's user"])));
    let bob = says(&site, "approve", &id, "bob").await;
    assert_eq!((bob.code, bob.err.contains("nobody else has to")), (3, true), "{bob:?}");
    assert!(site.run(&["approvals", "show", &id]).await.out.contains("waiting for the agent's user"));
    assert_eq!(upstream.calls().len(), 1);
    // A row that asks a role only is not answered in band, whatever comes.
    let forged = json!({ "name": "up__pay", "arguments": { "text": "z" }, "inputResponses": { "q1": yes() } });
    let forged = gateway.other().send(&declaring(Ask::modern("tools/call", forged), &forms())).await;
    assert_eq!((forged.code().as_str(), upstream.calls().len()), ("state_invalid", 1), "{}", forged.text());
}

#[tokio::test]
async fn what_a_server_asks_meanwhile_is_answered_under_an_approval_of_the_answers() {
    let form = json!({ "type": "object", "properties": { "why": { "type": "string" } } });
    let asks = json!({ "q": { "method": "elicitation/create", "params": { "mode": "form", "message": "Why?", "requestedSchema": form } } });
    let upstream = Upstream::start().await;
    upstream.does("pay", Does::Asks(json!({ "resultType": "input_required", "inputRequests": asks, "requestState": "s" })));
    let site = site_of(&upstream, "approve:oncall", "").await;
    let manifest = "may_ask: [elicitation]\ntools:\n  pay: { tier: irreversible }\n";
    let site = site.manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{manifest}", upstream.url()));
    let gateway = site.serve().await;
    let client = gateway.client();
    let id = wanted(&client.send(&asking("a", None)).await);
    approve(&site, &id, "alice").await;
    let first = questions(&client.send(&asking("a", None)).await);
    // Another call of the same kind begins to wait for an approval of its own.
    assert_ne!(wanted(&client.send(&asking("a", None)).await), id);
    let mut again = asking("a", Some((&first, accepts(&json!({ "why": "rent" })))));
    again = again.saying("\"q1\"", "\"q\"");
    let of_answers = wanted(&client.send(&again).await);
    assert_ne!(of_answers, id, "nobody was shown the answers");
    let shown = site.run(&["approvals", "show", &of_answers]).await;
    assert!(shown.out.contains("\"inputResponses\"") && shown.out.contains("\"rent\""), "{shown:?}");
    approve(&site, &of_answers, "alice").await;
    let mut other = asking("a", Some((&first, accepts(&json!({ "why": "SECRET" })))));
    other = other.saying("\"q1\"", "\"q\"");
    assert_ne!(wanted(&client.send(&other).await), of_answers, "a yes for some answers is none for others");
    assert_eq!(client.send(&again).await.code(), "ok");
    site.ends(2).await;
    let used: Vec<_> = site.of_kind("intent").iter().map(|intent| intent["approval_id"].clone()).collect();
    assert_eq!(used, [json!(id), json!(of_answers)]);
    assert_eq!(steps(&site, &id), ["requested -", "approved alice", "used -"]);
}

#[tokio::test]
async fn nobody_approves_a_call_that_a_token_makes_on_their_own_behalf() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let site = Site::of(&upstream).policy(&format!("{ALLOW}o, O1, role:any, up__pay, any, -, approve:oncall\n"));
    let people = [("alice", "roles: [oncall], subjects: [alice@example.org]"), ("planner", "roles: [oncall]"), ("bob", "roles: [oncall]")];
    let site = with_people(site, &people, "").await.config(&issuer.entry(""));
    let gateway = site.serve().await;
    let call = async |claims: Value| {
        let token = format!("Bearer {}", issuer.token(&claims));
        gateway.nobody().send(&Ask::call("up__pay", json!({ "text": "a" })).with("Authorization", &token)).await
    };
    let for_alice = json!({ "sub": "alice@example.org", "act": { "sub": "planner" } });
    let id = wanted(&call(for_alice.clone()).await);
    for who in ["alice", "planner"] {
        let done = says(&site, "approve", &id, who).await;
        assert_eq!((done.code, done.err.contains("made by or for this person")), (3, true), "{done:?}");
    }
    assert!(site.run(&["approvals", "show", &id]).await.out.contains("agent:demo for alice@example.org through planner"));
    approve(&site, &id, "bob").await;
    for other in [json!({ "sub": "bob@example.org", "act": { "sub": "planner" } }), json!({ "sub": "alice@example.org" }), json!({})] {
        assert_ne!(wanted(&call(other).await), id, "for another chain of principals");
    }
    assert_eq!((call(for_alice).await.code(), upstream.calls().len()), ("ok".to_owned(), 1));
}

#[tokio::test]
async fn the_context_of_a_completion_is_shown_and_is_another_call() {
    let upstream = Upstream::offering().await;
    let rows = "p, R3, role:any, prompt:up__*, read, -, allow\no, O1, role:any, prompt:up__*, any, -, approve:oncall\n";
    let site = Site::of(&upstream).policy(rows);
    let site = with_people(site, &[("alice", "roles: [oncall]")], "").await;
    let mut gateway = site.serve().await;
    // What is asked for before a server has listed its prompts is asked for without their definition.
    gateway.says("the tool server is connected").await;
    let complete = async |context: Value| {
        let reference = json!({ "type": "ref/prompt", "name": "up__greet" });
        let mut params = json!({ "ref": reference, "argument": { "name": "who", "value": "a" } });
        if !context.is_null() {
            params["context"] = json!({ "arguments": context });
        }
        gateway.client().send(&Ask::modern("completion/complete", params)).await
    };
    let wanted = |answer: &Answer| answer.error()["approval"]["id"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned();
    let id = wanted(&complete(json!({ "how": SECRET })).await);
    let bare = wanted(&complete(Value::Null).await);
    assert_ne!(id, bare);
    let shown = site.run(&["--json", "approvals", "show", &id]).await.json();
    assert_eq!(shown["arguments"], json!({ "arguments": { "name": "who", "value": "a" }, "context": { "arguments": { "how": SECRET } } }));
    assert!(site.run(&["approvals", "show", &id]).await.out.contains(SECRET));
    assert_eq!(site.run(&["--json", "approvals", "show", &bare]).await.json()["arguments"], json!({ "name": "who", "value": "a" }));
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
    approve(&site, &id, "alice").await;
    assert_ne!(wanted(&complete(json!({ "how": "otherwise" })).await), id);
    assert_eq!(complete(json!({ "how": SECRET })).await.code(), "ok");
    assert_eq!(upstream.asked("completion/complete").len(), 1);
}
