//! Calls that the policy only tries out: checked, decided and recorded like any other, and never made.

use serde_json::{Value, json};

use crate::support::asking::{accepts, again, asked, forms, relaying};
use crate::support::{Ask, Serving, Site, Upstream, until};

const SECRET: &str = "canary-dry-7170";
const ALLOW: &str = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__pay, irreversible, -, allow\n\
                     p, R3, role:any, prompt:up__*, read, -, allow\np, R4, role:any, resource:up:*, read, -, allow\n";

fn site_of(upstream: &Upstream, rows: &str) -> Site {
    Site::of(upstream).policy(&format!("{ALLOW}{rows}"))
}

/// Waits until a call of `up__save` ends so, under rows that were written just now.
async fn becomes(gateway: &Serving, wanted: &str) {
    until(wanted, async || (gateway.client().call("up__save", json!({})).await.code() == wanted).then_some(())).await;
}

/// What of an error says that nothing was done, and by whose doing.
fn facts(error: &Value) -> Value {
    json!([error["code"], error["effect"], error["retryable"], error["rules"]])
}

#[tokio::test]
async fn a_dry_run_is_decided_and_recorded_and_nothing_of_it_leaves() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "o, O1, agent:demo, up__*, any, -, dry_run\no, O2, role:any, up__save, any, -, limit:9/min\n");
    let gateway = site.serve().await;

    let answer = gateway.client().call("up__save", json!({ "text": SECRET })).await;

    let (error, result) = (answer.error(), answer.result());
    assert_eq!(facts(&error), json!(["dry_run", "none", false, ["O1"]]));
    let call = json!({ "method": "tools/call", "upstream": "up", "name": "save", "allowed_by": ["R1"], "obligations": ["O2 limit:9/min"] });
    assert_eq!((&error["dry_run"], &result["isError"]), (&call, &json!(true)));
    let told = result["content"][0]["text"].as_str().unwrap();
    assert!(told.contains("`up__save` was permitted, and not called") && told.contains("Nothing was done."), "{told}");
    assert_eq!(gateway.other().call("up__save", json!({ "text": "real" })).await.code(), "ok", "the row names one agent");
    assert_eq!(upstream.calls().len(), 1);

    site.ends(1).await;
    let record = &site.of_kind("refusal")[0];
    assert_eq!(json!([record["code"], record["decision"], record["effect"]]), json!(["dry_run", "allow", "none"]));
    assert_eq!(json!([record["rule_ids"], record["obligations"]]), json!([["R1"], ["O1 dry_run", "O2 limit:9/min"]]));
    assert_eq!((&record["call_id"], record["args_hash"].is_string()), (&error["invocation"], true));
    assert!(!answer.text().contains(SECRET) && !Value::from(site.records()).to_string().contains(SECRET));
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn a_dry_run_meets_every_check_that_a_call_meets() {
    let upstream = Upstream::start().await;
    let rows = "o, O1, role:any, up__*, any, -, dry_run\no, O2, role:any, up__echo, any, -, limit:2/h\np, D1, agent:other, up__save, any, -, deny\n";
    let site = site_of(&upstream, rows);
    let gateway = site.serve().await;
    let client = gateway.client();

    assert_eq!(client.call("up__save", json!({ "text": 5 })).await.code(), "invalid_arguments");
    assert_eq!(client.call("up__nothing", json!({})).await.code(), "tool_not_found");
    assert_eq!(gateway.other().call("up__save", json!({})).await.code(), "policy_denied");
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(client.call("up__echo", json!({})).await.code());
    }
    assert_eq!(told, ["dry_run", "dry_run", "rate_limited"]);
    assert!(client.tools().await.contains(&"up__save".to_owned()), "it is listed as what it will be");
    assert!(upstream.calls().is_empty() && site.of_kind("intent").is_empty());
}

#[tokio::test]
async fn nobody_is_asked_to_approve_a_dry_run() {
    let upstream = Upstream::start().await;
    let rows = "o, O1, role:any, up__pay, any, -, approve:user\no, O2, role:any, up__pay, any, -, dry_run\n";
    let site = site_of(&upstream, rows);
    let gateway = site.serve().await;

    let error = gateway.client().call("up__pay", json!({ "text": "a" })).await.error();

    assert_eq!(facts(&error), json!(["dry_run", "none", false, ["O2"]]));
    assert_eq!(error["dry_run"]["obligations"], json!(["O1 approve:user"]));
    assert!(site.of_kind("approval").is_empty());
    assert_eq!(site.run(&["--json", "approvals", "list"]).await.json(), json!([]));
}

#[tokio::test]
async fn every_dry_run_has_a_record_of_its_own_however_many_there_are() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "o, O1, role:any, up__echo, any, -, dry_run\n");
    let gateway = site.serve().await;
    let client = gateway.client();
    for number in 0..300 {
        assert_eq!(client.call("up__echo", json!({ "text": number.to_string() })).await.code(), "dry_run");
    }
    until("300 records", async || (site.of_kind("refusal").len() == 300).then_some(())).await;
    let (status, ..) = gateway.stop().await;
    assert!(status.success() && site.of_kind("coalesced").is_empty());
}

#[tokio::test]
async fn an_agent_meets_nothing_by_what_it_only_tries() {
    let upstream = Upstream::start().await;
    let manifest = "tools:\n  echo: { tier: read, labels: [private, untrusted] }\n  pay: { tier: irreversible, labels: [outward] }\n";
    let site = site_of(&upstream, "o, O1, role:any, up__echo, any, -, dry_run\n");
    let site = site.manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{manifest}", upstream.url()));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "a" })).await.code(), "dry_run");
    assert_eq!(gateway.client().call("up__pay", json!({ "text": "a" })).await.code(), "ok");
}

#[tokio::test]
async fn prompts_resources_and_completions_are_tried_out_alike() {
    let upstream = Upstream::offering().await;
    let site = site_of(&upstream, "o, O1, role:any, prompt:up__*, any, -, dry_run\no, O2, role:any, resource:up:*, any, -, dry_run\n");
    let gateway = site.serve().await;
    let completion = json!({ "ref": { "type": "ref/prompt", "name": "up__greet" }, "argument": { "name": "who", "value": "a" } });
    for (method, params, name) in [
        ("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "ada" } }), "greet"),
        ("resources/read", json!({ "uri": "dw+up+file:///notes/a" }), "file:///notes/a"),
        ("completion/complete", completion, "greet"),
    ] {
        let answer = gateway.client().send(&Ask::modern(method, params)).await;
        assert_eq!(answer.wire(), (200, -31_013, "dry_run".to_owned()), "{method}");
        let call = &answer.error()["dry_run"];
        assert_eq!(json!([call["method"], call["upstream"], call["name"]]), json!([method, "up", name]));
        assert!(upstream.asked(method).is_empty(), "{method}");
    }
}

/// The facts in a `tools/call` result of any revision.
fn in_result(message: &Value) -> Value {
    facts(&message["result"]["_meta"]["dev.doorward/error"])
}

#[tokio::test]
async fn a_dry_run_is_one_on_every_way_in_and_for_every_revision() {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "o, O1, role:any, up__*, any, -, dry_run\n");
    let wanted = json!(["dry_run", "none", false, ["O1"]]);
    let gateway: Serving = site.serve().await;
    // Its output schema asks for a count, which nobody could make up.
    assert_eq!(facts(&gateway.client().call("up__typed", json!({})).await.error()), wanted);
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = gateway.client().initialize(revision).await;
        let answer = session.client.send(&session.call("up__save", &json!({ "text": "a" }))).await;
        assert_eq!(in_result(&answer.json()), wanted, "{revision}");
    }
    let mut pipe = site.pipe(&["stdio"]);
    assert_eq!(in_result(&pipe.call("up__save", json!({ "text": "a" })).await), wanted);
    let called = site.run(&["call", "up__save", "text=a", "--as", "demo"]).await;
    assert_eq!(called.code, 3, "{called:?}");
    assert!(called.err.contains("not called: the policy makes a dry run of it") && called.err.contains("O1"), "{called:?}");
    assert!(upstream.calls().is_empty() && site.of_kind("intent").is_empty());
}

#[tokio::test]
async fn a_call_is_made_again_as_soon_as_the_row_is_gone() {
    let upstream = Upstream::start().await;
    let row = "o, O1, role:any, up__*, any, -, dry_run\n";
    let site = site_of(&upstream, row);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "dry_run");
    let first = site.recorded("refusal", "code", "dry_run").await;
    let place = format!("{}:{}", first["origin"].as_str().unwrap(), first["seq"]);
    let told = site.run(&["policy", "explain", "--record", &place]).await;
    assert!(told.out.contains("then: allowed by R1, with O1 dry_run"), "{told:?}");

    site.write("policies/policy.csv", ALLOW);
    becomes(&gateway, "ok").await;
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_call_that_waits_for_answers_goes_no_further_once_it_is_a_dry_run() {
    let schema = json!({ "type": "object", "properties": { "branch": { "type": "string" } } });
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "Which?", "requestedSchema": schema } });
    let asks = json!({ "resultType": "input_required", "inputRequests": { "theirs": question }, "requestState": "s" });
    let (upstream, site) = relaying(asks).await;
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    let rows = std::fs::read_to_string(site.path("policies/policy.csv")).unwrap();
    site.write("policies/policy.csv", &format!("{rows}o, O1, role:any, up__*, any, -, dry_run\n"));
    becomes(&gateway, "dry_run").await;
    let sent = upstream.calls().len();

    let answers = json!({ "theirs": accepts(&json!({ "branch": "main" })) });
    let answer = gateway.client().send(&again("save", &forms(), &first, &answers)).await;

    assert_eq!((answer.told(), upstream.calls().len()), ("dry_run none".to_owned(), sent));
}
