//! What people answer to the questions of tool servers is in the record, and no word of it in clear.

use serde_json::{Value, json};

use crate::support::Site;
use crate::support::asking::{accepts, again, asked, forms, relaying, site};
use crate::support::stream::Stream;

const PIN: &str = "4711-secret";

/// What the records of one kind say was answered, all of it.
fn answered(site: &Site, kind: &str) -> Vec<String> {
    let words = |record: &Value| record["answers"].as_array().cloned().unwrap_or_default();
    let answers = site.of_kind(kind).iter().flat_map(words).map(|answer| answer.as_str().unwrap().to_owned()).collect();
    assert!(!Value::from(site.records()).to_string().contains(PIN), "an answer stands in clear");
    answers
}

#[tokio::test]
async fn what_a_person_answers_to_a_waiting_call_is_on_record() {
    let site = site("elicitation", "");
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "both", &forms()).await;
    let answers = json!({ "q1": accepts(&json!({ "branch": PIN })), "q2": { "action": "decline" }, PIN: { "action": PIN } });

    gateway.client().send(&again("both", &forms(), &first, &answers)).await;

    assert_eq!(site.ends(1).await, ["ok done"]);
    let answers = answered(&site, "round");
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("hmac:")).count(), 1, "a key that nobody made: {answers:?}");
    assert!(answers.iter().any(|answer| answer.starts_with("q1 accept hmac:")), "{answers:?}");
    assert!(answers.contains(&"q2 decline".to_owned()), "{answers:?}");
    assert_eq!(site.recorded("round", "action", "asked").await["note"], "asks q1 elicitation/create, q2 elicitation/create");
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

fn asks() -> Value {
    let schema = json!({ "type": "object", "properties": { "branch": { "type": "string" } } });
    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "Which?", "requestedSchema": schema } });
    json!({ "resultType": "input_required", "inputRequests": { "theirs": question }, "requestState": "s" })
}

#[tokio::test]
async fn an_answer_that_begins_a_call_anew_is_in_its_intent_or_its_refusal() {
    let (_upstream, site) = relaying(asks()).await;
    let gateway = site.serve().await;
    let first = asked(&gateway.client(), "save", &forms()).await;
    let responses = json!({ "theirs": accepts(&json!({ "branch": PIN })) });

    for code in ["ok", "state_invalid"] {
        assert_eq!(gateway.client().send(&again("save", &forms(), &first, &responses)).await.code(), code);
    }

    site.recorded("refusal", "code", "state_invalid").await;
    let (intent, refusal) = (answered(&site, "intent"), answered(&site, "refusal"));
    assert!(intent.len() == 1 && intent[0].contains(" accept hmac:"), "{intent:?}");
    assert_eq!(intent, refusal, "the same answer shows as the same");
    let note = site.recorded("outcome", "outcome", "input_required").await["note"].clone();
    assert!(note.as_str().unwrap().contains(intent[0].split(' ').next().unwrap()), "the question can be found again: {note}");
}

#[tokio::test]
async fn what_an_agent_with_a_handshake_answers_is_on_record() {
    let (_upstream, site) = relaying(asks()).await;
    let gateway = site.serve().await;
    let session = gateway.client().begin("2025-11-25", forms()).await;
    let mut stream = Stream::open(&session.client, &session.call("up__save", &json!({}))).await;
    let question = stream.message().await;

    session.answers(&question, json!({ "action": "decline", "content": { "branch": PIN } })).await;

    stream.rest().await;
    let answers = answered(&site, "intent");
    assert!(answers.len() == 1 && answers[0].contains(" decline hmac:"), "{answers:?}");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_told_and_recorded_under_its_own_id() {
    let mut asks = asks();
    asks["inputRequests"]["z"] = json!({ "method": "roots/list", "params": {} });
    let (_upstream, relayed) = relaying(asks).await;
    let waiting = site("elicitation, roots", "");
    for (site, tool, records) in
        [(&relayed, "save", ["intent", "outcome", "refusal"].as_slice()), (&waiting, "roots", &["intent", "round", "outcome", "refusal"])]
    {
        let gateway = site.serve().await;
        let session = gateway.client().begin("2025-11-25", json!({ "elicitation": {}, "roots": {} })).await;
        let mut stream = Stream::open(&session.client, &session.call(&format!("up__{tool}"), &json!({}))).await;
        if tool == "save" {
            session.answers(&stream.message().await, json!({ "action": "decline" })).await;
        }
        let question = stream.message().await;
        let error = json!({ "jsonrpc": "2.0", "id": question["id"], "error": { "code": -32603, "message": "no folders" } });
        session.client.send(&session.post(&error)).await;

        let told = stream.rest().await.pop().unwrap()["result"]["_meta"]["dev.doorward/error"].clone();

        assert_eq!((&told["code"], &told["effect"]), (&json!("interaction_lost"), &json!("unknown")));
        let of_call: Vec<_> = site.records().into_iter().filter(|record| record["call_id"] == told["invocation"]).collect();
        let kinds: Vec<_> = of_call.iter().map(|record| record["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, records, "{tool}");
        assert_eq!(of_call.last().unwrap()["target"], format!("up__{tool}"));
    }
    let answers = answered(&relayed, "refusal");
    assert!(answers.len() == 1 && answers[0].ends_with(" decline"), "what was answered before counts: {answers:?}");
}
