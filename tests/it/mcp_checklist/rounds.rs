//! Calls that need more than one request: who may be asked what, and what an answer is good for.

use serde_json::{Value, json};

use crate::support::asking::{
    OverHttp, accepts, again, asked, call, declaring, forms, got, in_front_of, journal, questions, relaying, said, site, site_of,
};
use crate::support::stream::Stream;
use crate::support::{Answer, Ask, Client, Does, Site, Upstream, until};

#[tokio::test]
async fn a_modern_agent_answers_what_a_server_on_pipes_asks() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();

    let first = asked(&client, "ask", &forms()).await;
    let question = &first["inputRequests"]["q1"];
    assert_eq!((&question["method"], &question["params"]["message"]), (&"elicitation/create".into(), &"[up asks] Which branch?".into()));
    let answers = json!({ "q1": accepts(&json!({ "branch": "main" })) });
    let answer = client.send(&again("ask", &forms(), &first, &answers)).await;

    assert_eq!(said(&answer), r#"[{"action":"accept","content":{"branch":"main"}}]"#);
}

#[tokio::test]
async fn a_parked_call_has_one_intent_and_one_outcome() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "twice", &forms()).await;
    let second = questions(&client.send(&again("twice", &forms(), &first, &json!({ "q1": accepts(&json!({})) }))).await);
    let answer = client.send(&again("twice", &forms(), &second, &json!({ "q2": accepts(&json!({ "sure": true })) }))).await;
    assert!(said(&answer).contains("sure"));

    assert_eq!(site.ends(1).await, ["ok done"]);
    let records = site.records();
    let call = &records.iter().find(|record| record["kind"] == "intent").unwrap()["call_id"];
    let of_call: Vec<_> = records.iter().filter(|record| &record["call_id"] == call).collect();
    let told: Vec<_> = of_call.iter().map(|record| record.get("action").unwrap_or(&record["kind"]).as_str().unwrap_or_default()).collect();
    assert_eq!(told, ["intent", "asked", "answered", "asked", "answered", "outcome"]);
    assert_eq!(of_call[1]["note"], "asks q1 elicitation/create");
    assert_eq!((&of_call[2]["attempt"], &of_call[4]["attempt"], &of_call[5]["attempt"]), (&json!(2), &json!(3), &json!(3)));
    assert!(!Value::from(records.clone()).to_string().contains("Which branch"));
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn n33_missing_answers_are_asked_for_again_and_extra_ones_ignored() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "both", &forms()).await;
    assert_eq!(first["inputRequests"].as_object().unwrap().len(), 2);
    let one = json!({ "q1": accepts(&json!({ "branch": "a" })), "other": { "action": "cancel" } });
    let second = questions(&client.send(&again("both", &forms(), &first, &one)).await);
    assert_eq!(second["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["q2"]);

    let rest = json!({ "q2": accepts(&json!({ "name": "b" })), "q1": { "action": "cancel" } });
    let answer = client.send(&again("both", &forms(), &second, &rest)).await;

    assert_eq!(said(&answer), r#"[{"action":"accept","content":{"branch":"a"}},{"action":"accept","content":{"name":"b"}}]"#);
}

#[tokio::test]
async fn n31_only_what_the_request_declares_is_asked() {
    let site = site("elicitation, roots", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    // Nothing is declared, or something else than what the server asks for.
    for (tool, capabilities) in [("ask", json!({})), ("roots", forms()), ("url", forms()), ("ask", json!({ "roots": {} }))] {
        let answer = client.send(&call(tool, &capabilities)).await;
        assert_eq!(said(&answer), "[-32601]", "{tool} {capabilities}");
    }
    for (tool, capabilities) in [("roots", json!({ "roots": {} })), ("url", json!({ "elicitation": { "url": {} } }))] {
        let first = asked(&client, tool, &capabilities).await;
        assert!(first["inputRequests"]["q1"]["params"].get("elicitationId").is_none(), "{first}");
    }
    let declared: Vec<_> = journal(&site).into_iter().filter_map(|(_, message)| message.pointer("/params/capabilities").cloned()).collect();
    assert!(declared.contains(&json!({ "elicitation": { "url": {} } })), "{declared:?}");
}

#[tokio::test]
async fn a_question_nobody_may_ask_is_refused_and_recorded() {
    let site = site("", "");
    let gateway = site.serve().await;
    let answer = gateway.client().send(&call("ask", &forms())).await;
    assert_eq!(said(&answer), "[-32601]");
    let asked = site.recorded("late", "upstream", "up").await;
    let intent = &site.of_kind("intent")[0];
    assert_eq!((&asked["call_id"], asked["note"].as_str().unwrap().contains("elicitation/create")), (&intent["call_id"], true));
}

#[tokio::test]
async fn a_form_that_asks_for_a_password_is_refused() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let answer = gateway.client().send(&call("secret", &forms())).await;
    assert_eq!(said(&answer), r#"[{"action":"cancel"}]"#);
    assert!(site.recorded("late", "upstream", "up").await["note"].as_str().unwrap().contains("secret"));
}

#[tokio::test]
async fn n32_a_state_is_good_once_for_one_agent_and_one_call() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "ask", &forms()).await;
    let answers = json!({ "q1": accepts(&json!({ "branch": "main" })) });
    let good = again("ask", &forms(), &first, &answers);
    let mut forged = first.clone();
    let state = first["requestState"].as_str().unwrap();
    forged["requestState"] = format!("{}{}", if state.starts_with('A') { "B" } else { "A" }, &state[1..]).into();

    let refused = [
        ("forged", client.send(&again("ask", &forms(), &forged, &answers)).await),
        ("another call", client.send(&again("twice", &forms(), &first, &answers)).await),
        ("other arguments", client.send(&good.clone().saying("\"arguments\":{}", "\"arguments\":{\"a\":1}")).await),
        ("another agent", gateway.other().send(&good).await),
    ];
    let words: Vec<_> = refused.iter().map(|(_, answer)| answer.error()["message"].clone()).collect();
    for (what, answer) in &refused {
        assert_eq!((answer.code().as_str(), answer.error()["effect"].as_str()), ("state_invalid", Some("none")), "{what}");
    }
    assert!(words.iter().all(|word| *word == words[0]), "told apart: {words:?}");
    assert_eq!(client.send(&good).await.code(), "ok");
    assert_eq!(client.send(&good).await.code(), "state_invalid");
    assert_eq!(site.ends(1).await, ["ok done"]);
}

#[tokio::test]
async fn a_park_expires_and_the_server_is_told() {
    let site = site("elicitation", "interaction_timeout_ms: 1000");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "stays", &forms()).await;

    assert_eq!(site.ends(1).await, ["interaction_lost unknown"]);
    got(&site, "the answer that nobody answers", |message| message["result"]["action"] == "cancel").await;
    got(&site, "the cancellation", |message| message["method"] == "notifications/cancelled").await;
    let late = client.send(&again("stays", &forms(), &first, &json!({ "q1": accepts(&json!({})) }))).await;
    assert_eq!(late.told(), "interaction_lost unknown");
}

#[tokio::test]
async fn the_slot_is_free_while_a_person_thinks() {
    let site = site("elicitation", "concurrency: 1");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "ask", &forms()).await;

    assert_eq!(client.call("up__echo", json!({})).await.code(), "ok");
    // Beside the one that waits, and in a process of its own: its answer is nobody else's.
    let second = asked(&client, "ask", &forms()).await;

    for (asked, branch) in [(&second, "second"), (&first, "first")] {
        let answer = client.send(&again("ask", &forms(), asked, &json!({ "q1": accepts(&json!({ "branch": branch })) }))).await;
        assert!(said(&answer).contains(branch));
    }
    let processes: std::collections::HashSet<_> = journal(&site).into_iter().map(|(process, _)| process).collect();
    assert_eq!(processes.len(), 3);
    // Both are free now, and the next call needs no third.
    asked_again(&client, &site).await;
}

async fn asked_again(client: &crate::support::Client, site: &crate::support::Site) {
    asked(client, "ask", &forms()).await;
    let processes: std::collections::HashSet<_> = journal(site).into_iter().map(|(process, _)| process).collect();
    assert_eq!(processes.len(), 3);
}

#[tokio::test]
async fn a_retry_is_decided_anew() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "ask", &forms()).await;
    let good = again("ask", &forms(), &first, &json!({ "q1": accepts(&json!({ "branch": "main" })) }));

    let deny = "p, R1, agent:demo, up__*, reversible, -, allow\np, D1, agent:demo, up__ask, any, -, deny\n";
    site.write("policies/policy.csv", deny);
    until("the denial", async || (client.send(&call("ask", &forms())).await.code() == "policy_denied").then_some(())).await;
    assert_eq!(client.send(&good).await.told(), "policy_denied none");
    assert_eq!(site.of_kind("refusal").last().unwrap()["call_id"], site.of_kind("intent")[0]["call_id"]);

    site.write("policies/policy.csv", "p, R1, agent:demo, up__*, reversible, -, allow\n");
    let answered = until("the state is still good", async || {
        let answer = client.send(&good).await;
        (answer.code() != "policy_denied").then_some(answer)
    });
    assert!(said(&answered.await).contains("main"));
}

#[tokio::test]
async fn kill_minus_nine_while_parked_leaves_it_unresolved() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    asked(&gateway.client(), "ask", &forms()).await;
    gateway.kill().await;
    let _next = site.serve().await;
    assert_eq!(site.ends(1).await, ["outcome_unknown unknown"]);
}

#[tokio::test]
async fn a_stop_ends_what_waits() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    asked(&gateway.client(), "ask", &forms()).await;
    assert!(gateway.stop().await.0.success());
    assert_eq!(site.ends(1).await, ["interaction_lost unknown"]);
}

#[tokio::test]
async fn progress_of_a_later_round_has_the_token_of_that_round() {
    let site = site("elicitation", "").config("stdio: { agent: demo }");
    let mut client = site.pipe(&["stdio"]);
    let mut state = json!({});
    for (token, key) in [("one", "q1"), ("two", "q2")] {
        let answers = json!({ "q1": accepts(&json!({})) });
        let ask = if token == "one" { call("twice", &forms()) } else { again("twice", &forms(), &state, &answers) };
        let ask = ask.saying("\"_meta\":{", &format!("\"_meta\":{{\"progressToken\":\"{token}\","));
        client.line(&String::from_utf8(ask.body).unwrap()).await;

        let progress = client.answer().await;
        assert_eq!((&progress["method"], &progress["params"]["progressToken"]), (&"notifications/progress".into(), &token.into()));
        state = client.answer().await["result"].take();
        assert!(state["inputRequests"].get(key).is_some(), "{state}");
    }
}

#[tokio::test]
async fn a_question_over_http_belongs_to_the_call_on_whose_stream_it_came() {
    let server = OverHttp::start().await;
    let site = in_front_of(Site::empty(), &server.transport(), "elicitation", "");
    let gateway = site.serve().await;
    let (demo, other) = (gateway.client(), gateway.other());
    let first = asked(&demo, "ask", &forms()).await;
    let second = asked(&demo, "ask", &forms()).await;
    let others = asked(&other, "ask", &forms()).await;

    for (client, asked, branch) in [(&other, &others, "others"), (&demo, &second, "second"), (&demo, &first, "first")] {
        let answer = client.send(&again("ask", &forms(), asked, &json!({ "q1": accepts(&json!({ "branch": branch })) }))).await;
        assert!(said(&answer).contains(branch), "{}", answer.text());
    }
    // Nobody can be asked in this call, so it goes into a session that has not declared it.
    assert_eq!(said(&demo.call("up__ask", json!({})).await), "null");
    let sessions: Vec<_> = server.got("tools/call").into_iter().map(|(session, _)| session).collect();
    assert!(sessions[0] == sessions[1] && sessions[1] != sessions[2], "{sessions:?}");
    assert_ne!(sessions[0], sessions[3]);
    assert_eq!(site.ends(4).await, ["ok done"; 4]);
}

fn wants(inner: Option<&str>) -> Value {
    let schema = json!({ "type": "object", "properties": { "branch": { "type": "string" } } });
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "Which?", "requestedSchema": schema } });
    let mut result = json!({ "resultType": "input_required", "inputRequests": { "theirs": question } });
    if let Some(inner) = inner {
        result["requestState"] = inner.into();
    }
    result
}

async fn saved(client: &Client, asked: &Value) -> crate::support::Answer {
    client.send(&again("save", &forms(), asked, &json!({ "theirs": accepts(&json!({ "branch": "main" })) }))).await
}

#[tokio::test]
async fn n34_the_servers_state_comes_back_to_it_unchanged_under_a_new_id() {
    let inner = "s\u{e9}\"\\ {}";
    let (upstream, site) = relaying(wants(Some(inner))).await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "save", &forms()).await;
    assert_eq!(first["inputRequests"]["theirs"]["params"]["message"], "[up asks] Which?");
    assert!(!first["requestState"].as_str().unwrap().contains("{}"));
    assert_eq!(saved(&client, &first).await.code(), "ok");

    let calls: Vec<_> = upstream.calls().iter().map(|call| call.json()).collect();
    assert_eq!((&calls[1]["params"]["requestState"], calls.len()), (&inner.into(), 2));
    assert_eq!(calls[1]["params"]["inputResponses"], json!({ "theirs": accepts(&json!({ "branch": "main" })) }));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    let declared = &calls[0]["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    assert_eq!(declared, &json!({ "elicitation": { "form": {} } }));
    // Each round has its own intent and outcome, under one id.
    assert_eq!(site.ends(2).await, ["input_required unknown", "ok done"]);
    let intents = site.of_kind("intent");
    assert_eq!((&intents[0]["call_id"], &intents[1]["attempt"]), (&intents[1]["call_id"], &json!(2)));
    // Used up, and nobody else's.
    assert_eq!(saved(&client, &first).await.code(), "state_invalid");
    let second = asked(&client, "save", &forms()).await;
    assert_eq!(saved(&gateway.other(), &second).await.code(), "state_invalid");
    assert_eq!(upstream.calls().len(), 3);
}

#[tokio::test]
async fn a_state_of_ours_in_a_servers_mouth_is_only_its_words() {
    let (upstream, site) = relaying(wants(Some("theirs"))).await;
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    let stolen = first["requestState"].as_str().unwrap();
    // The server gives out as its own what it was never given, to another agent.
    upstream.does("save", Does::Asks(wants(Some(stolen))));
    let second = asked(&gateway.other(), "save", &forms()).await;
    assert_ne!(second["requestState"], first["requestState"]);

    assert_eq!(saved(&gateway.other(), &first).await.code(), "state_invalid", "it is no way into the first agent's call");
    assert_eq!(saved(&gateway.other(), &second).await.code(), "ok");

    assert_eq!(
        upstream.calls().last().unwrap().json()["params"]["requestState"],
        stolen,
        "it goes back as it came, and opens nothing here"
    );
    assert_eq!(saved(&gateway.client(), &first).await.code(), "ok", "and the first agent's call is not used up");
}

#[tokio::test]
async fn n34_a_server_without_a_state_gets_none() {
    let (upstream, site) = relaying(wants(None)).await;
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    assert!(first.get("requestState").is_none(), "{first}");
    assert_eq!(saved(&gateway.client(), &first).await.code(), "ok");
    let call = upstream.calls()[1].json();
    assert!(call["params"].get("requestState").is_none() && call["params"]["inputResponses"].is_object(), "{call}");
}

#[tokio::test]
async fn n30_questions_come_only_where_the_protocol_has_them() {
    let (upstream, site) = relaying(json!({ "resultType": "input_required" })).await;
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.send(&call("save", &forms())).await.told(), "upstream_protocol_error unknown");
    // A state alone is a server that wants to be asked again.
    upstream.does("save", Does::Asks(json!({ "resultType": "input_required", "requestState": "later" })));
    let first = asked(&client, "save", &forms()).await;
    assert_eq!(first["inputRequests"], json!({}));
    assert_eq!(saved(&client, &first).await.code(), "ok");
    upstream.does("save", Does::Asks(json!({ "resultType": "input_required", "inputRequests": { "a": { "method": "tools/call" } } })));
    assert_eq!(client.send(&call("save", &forms())).await.told(), "upstream_protocol_error unknown");
}

#[tokio::test]
async fn n46_a_call_that_brings_answers_is_never_answered_from_memory() {
    let (upstream, site) = relaying(wants(None)).await;
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    for calls in 2..4 {
        assert_eq!(saved(&gateway.client(), &first).await.code(), "ok");
        assert_eq!(upstream.calls().len(), calls);
    }
}

#[tokio::test]
async fn another_principals_state_is_told_like_a_forged_one() {
    let (_upstream, site) = relaying(wants(Some("theirs"))).await;
    let gateway = site.serve().await;
    let mut first = asked(&gateway.client(), "save", &forms()).await;
    let foreign = saved(&gateway.other(), &first).await.error();
    first["requestState"] = "AAAA".into();
    let forged = saved(&gateway.other(), &first).await.error();
    for member in ["code", "message", "suggestion", "effect", "retryable"] {
        assert_eq!(foreign[member], forged[member], "{member}");
    }
}

#[tokio::test]
async fn pages_to_visit_first_are_questions_too() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let (client, links) = (gateway.client(), json!({ "elicitation": { "url": {} } }));
    let first = asked(&client, "pages", &links).await;
    let page = &first["inputRequests"]["q1"]["params"];
    assert_eq!((&page["url"], page.get("elicitationId")), (&"https://a.example/login".into(), None));
    let answer = client.send(&again("pages", &links, &first, &json!({ "q1": { "action": "accept" } }))).await;
    assert_eq!(said(&answer), r#""visited""#);
    assert_eq!(client.send(&call("pages", &forms())).await.code(), "client_capability_missing");
}

/// What an agent of 2025-11-25 gets whose server wants this page visited first, and may ask for what `may_ask` lists.
async fn page_first(may_ask: &str, link: &str) -> Answer {
    let site = site(may_ask, "");
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": { "form": {}, "url": {} } })).await;
    session.client.send(&session.call("up__pages", &json!({ "link": link }))).await
}

#[tokio::test]
async fn pages_to_visit_first_are_told_to_agents_of_that_revision() {
    let answer = page_first("elicitation", "https://a.example/login").await;
    let pages = &answer.error()["elicitations"];
    assert_eq!(pages.as_array().map(Vec::len), Some(1), "{}", answer.text());
    let told = (&pages[0]["url"], &pages[0]["elicitationId"], &pages[0]["message"]);
    assert_eq!(told, (&json!("https://a.example/login"), &json!("e1"), &json!("[up asks] Log in")));
    // A result would be read by the model, and the client would never open the page (2025-11-25, elicitation).
    assert_eq!(answer.wire(), (200, -32042, "upstream_error".to_owned()));
}

#[tokio::test]
async fn a_page_reaches_no_agent_where_the_server_may_not_ask() {
    let answer = page_first("", "https://a.example/login").await;
    assert_eq!(answer.told(), "bridge_unsupported unknown");
    assert!(!answer.text().contains("a.example"), "{}", answer.text());
}

#[tokio::test]
async fn a_page_whose_link_is_no_plain_one_reaches_no_agent() {
    for link in ["javascript:alert(1)", "https://bank.example@a.example/login", "file:///etc/passwd"] {
        let answer = page_first("elicitation", link).await;
        assert_eq!(answer.told(), "upstream_protocol_error unknown", "{link}");
        assert!(!answer.text().contains(link), "{}", answer.text());
    }
}

#[tokio::test]
async fn prompts_and_resources_ask_as_tools_do() {
    let upstream = Upstream::offering().await;
    for method in ["prompts/get", "resources/read", "completion/complete"] {
        upstream.does(method, Does::Asks(wants(Some("theirs"))));
    }
    let transport = json!({ "http": { "url": upstream.url() } });
    let manifest = format!("transport: {transport}\nmay_ask: [elicitation]\n");
    let rows = "p, R1, agent:demo, prompt:up__*, read, -, allow\np, R2, agent:demo, resource:up:*, read, -, allow\n";
    let site = Site::of(&upstream).manifest("up", &manifest).policy(rows);
    let gateway = site.serve().await;
    let client = gateway.client();
    let ask = async |method: &str, params: Value| client.send(&declaring(Ask::modern(method, params), &forms())).await;
    for (method, params) in [("prompts/get", json!({ "name": "up__bare" })), ("resources/read", json!({ "uri": "dw+up+file:///notes/a" }))]
    {
        questions(&ask(method, params).await);
    }
    let reference = json!({ "ref": { "type": "ref/prompt", "name": "up__bare" }, "argument": { "name": "a", "value": "" } });
    assert_eq!(ask("completion/complete", reference).await.code(), "upstream_protocol_error");
}

#[tokio::test]
async fn a_further_process_that_describes_its_tools_otherwise_gets_no_call() {
    let site = site_of("elicitation", "", "shifty");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(gateway.client().send(&call("ask", &forms())).await.told(), "tool_withheld none");
    let calls = journal(&site).into_iter().filter(|(_, message)| message["method"] == "tools/call").count();
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn a_further_process_that_changes_its_tools_later_gets_no_further_call() {
    let site = site_of("elicitation", "", "turns");
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "ask", &forms()).await;
    let answer = client.send(&again("ask", &forms(), &first, &json!({ "q1": accepts(&json!({ "branch": "main" })) }))).await;
    assert!(said(&answer).contains("main"));

    let refused = client.send(&call("ask", &forms())).await;

    assert_eq!(refused.told(), "tool_withheld none");
    let calls = journal(&site).into_iter().filter(|(_, message)| message["method"] == "tools/call").count();
    assert_eq!(calls, 1);
    site.recorded("outcome", "code", "tool_withheld").await;
}

#[tokio::test]
async fn a_server_that_has_asked_has_begun_whatever_it_says_after() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let client = gateway.client();
    let refusing = |ask: Ask| ask.saying("\"arguments\":{}", "\"arguments\":{\"refuse\":true}");
    let first = questions(&client.send(&refusing(call("ask", &forms()))).await);
    let answers = json!({ "q1": accepts(&json!({ "branch": "main" })) });
    let answer = client.send(&refusing(again("ask", &forms(), &first, &answers))).await;
    assert_eq!((answer.told().as_str(), &answer.error()["retryable"]), ("upstream_error unknown", &json!(false)));
    assert_eq!(site.ends(1).await, ["upstream_error unknown"]);

    // It asked, though nobody was shown it: a form that asks for a secret, and what it was not offered.
    for (tool, declared) in [("secret", forms()), ("ask", json!({}))] {
        assert_eq!(client.send(&refusing(call(tool, &declared))).await.told(), "upstream_error unknown", "{tool}");
    }
    assert_eq!(client.send(&refusing(call("echo", &json!({})))).await.told(), "upstream_error none", "a server that asked nothing");
}

#[tokio::test]
async fn an_answered_question_of_a_modern_server_is_no_call_that_never_was() {
    let (upstream, site) = relaying(wants(Some("theirs"))).await;
    let gateway = site.serve().await;
    let client = gateway.client();
    let first = asked(&client, "save", &forms()).await;
    upstream.does("save", Does::Error(-32602, "no"));
    assert_eq!(saved(&client, &first).await.told(), "upstream_error unknown");
    assert_eq!(client.send(&call("save", &forms())).await.told(), "upstream_error none");
}

#[tokio::test]
async fn an_agent_with_a_handshake_answers_on_the_stream_of_its_call() {
    let site = site("elicitation, roots", "");
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {} })).await;
    let mut stream = Stream::open(&session.client, &session.call("up__ask", &json!({}))).await;
    let question = stream.message().await;
    assert_eq!(question["params"]["message"], "[up asks] Which branch?");
    assert_eq!(session.answers(&question, accepts(&json!({ "branch": "main" }))).await, 202);
    let rest = stream.rest().await;
    assert!(rest[0]["result"]["content"][0]["text"].as_str().unwrap().contains("main"), "{rest:?}");
    assert_eq!(site.ends(1).await, ["ok done"]);
}

#[tokio::test]
async fn a_call_whose_agent_cannot_answer_does_not_wait_on() {
    let site = site("elicitation, roots", "");
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", json!({ "roots": {} })).await;
    let mut stream = Stream::open(&session.client, &session.call("up__roots", &json!({}))).await;
    let question = stream.message().await;
    let error = json!({ "jsonrpc": "2.0", "id": question["id"], "error": { "code": -32603, "message": "no folders" } });
    session.client.send(&session.post(&error)).await;
    assert_eq!(site.ends(1).await, ["interaction_lost unknown"]);
    got(&site, "the news that nobody answers", |message| message["error"]["code"] == -32603).await;
}
