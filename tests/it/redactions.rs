//! Fields of results that a row keeps from an agent: masked wherever the result says them, and carried past that by nothing else.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::asking::{call, forms, relaying};
use crate::support::upstream::text;
use crate::support::{Answer, Ask, Does, Site, Upstream};

const SECRET: &str = "canary-redact-8180";
const ALLOW: &str = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, prompt:up__*, read, -, allow\n";

/// `demo` does not get `/rows/*/mail` of what `up__save` brings.
fn site_of(upstream: &Upstream) -> Site {
    Site::of(upstream).policy(&format!("{ALLOW}o, O1, agent:demo, up__save, any, -, redact:/rows/*/mail\n"))
}

/// A result with the secret wherever a server could put it.
fn telling() -> Value {
    let rows = json!({ "rows": [{ "id": 1, "mail": SECRET }, { "id": 2 }], "n": 5 });
    json!({ "content": [{ "type": "text", "text": rows.to_string() }, { "type": "text", "text": SECRET }], "structuredContent": rows,
        "_meta": { "theirs": SECRET }, "more": SECRET })
}

/// What the agent gets when `up__save` does this.
async fn gets(does: Does) -> (Answer, Site) {
    let upstream = Upstream::start().await;
    upstream.does("save", does);
    let site = site_of(&upstream);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__save", json!({})).await;
    site.ends(1).await;
    assert!(!answer.text().contains(SECRET), "{}", answer.text());
    (answer, site)
}

#[tokio::test]
async fn a_field_is_masked_in_the_structure_and_in_the_text_that_repeats_it() {
    let (answer, site) = gets(Does::Result(telling())).await;
    let masked = json!({ "rows": [{ "id": 1, "mail": "[redacted by O1]" }, { "id": 2 }], "n": 5 });
    let result = answer.result();
    assert_eq!((&result["structuredContent"], &result["more"], &result["_meta"]["theirs"]), (&masked, &Value::Null, &Value::Null));
    let [block] = &result["content"].as_array().unwrap()[..] else { panic!("{result}") };
    assert_eq!(serde_json::from_str::<Value>(block["text"].as_str().unwrap()).unwrap(), masked);
    assert_eq!(site.of_kind("intent")[0]["obligations"], json!(["O1 redact:/rows/*/mail"]));
    assert_eq!(site.ends(1).await, ["ok done"]);
}

#[tokio::test]
async fn an_agent_that_the_row_does_not_name_gets_the_result_as_it_is() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(telling()));
    let site = site_of(&upstream);
    let gateway = site.serve().await;
    let other = gateway.other().call("up__save", json!({})).await;
    assert_eq!((&other.result()["structuredContent"], &other.result()["more"]), (&telling()["structuredContent"], &json!(SECRET)));
    // The record's hash is of what was relayed: the two differ.
    gateway.client().call("up__save", json!({})).await;
    site.ends(2).await;
    let hashes: Vec<_> = site.of_kind("outcome").iter().map(|end| end["result_hash"].clone()).collect();
    assert_ne!(hashes[0], hashes[1]);
}

#[tokio::test]
async fn a_result_without_structure_is_redacted_as_json_or_withheld() {
    let (answer, _) = gets(Does::Result(text(&json!({ "rows": [{ "mail": SECRET }] }).to_string()))).await;
    assert_eq!(answer.result()["content"][0]["text"], r#"{"rows":[{"mail":"[redacted by O1]"}]}"#);
    let two = json!({ "content": [{ "type": "text", "text": "{}" }, { "type": "text", "text": SECRET }] });
    let failed = json!({ "content": [{ "type": "text", "text": SECRET }], "isError": true });
    for result in [text(SECRET), text(&json!(SECRET).to_string()), two, failed] {
        let (answer, site) = gets(Does::Result(result)).await;
        assert_eq!(answer.told(), "result_blocked done");
        assert_eq!(site.ends(1).await, ["result_blocked done"]);
    }
}

#[tokio::test]
async fn an_error_of_the_server_keeps_its_code_and_loses_its_words() {
    let (answer, _) = gets(Does::Error(-32603, SECRET)).await;
    assert_eq!((answer.told(), answer.error().get("upstream")), ("upstream_error unknown".to_owned(), None));
    let (answer, _) = gets(Does::Error(-32602, SECRET)).await;
    assert_eq!(answer.told(), "upstream_error none");
}

#[tokio::test]
async fn no_progress_and_no_question_carries_a_field_past_its_mask() {
    let upstream = Upstream::start().await;
    let go = CancellationToken::new();
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1, "message": SECRET } });
    let log = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "error", "data": SECRET } });
    upstream.does("save", Does::Tells(vec![progress, log], go.clone()));
    let site = site_of(&upstream);
    let gateway = site.serve().await;
    let mut params = json!({ "name": "up__save", "arguments": {} });
    params["_meta"] = json!({ "progressToken": "mine", "io.modelcontextprotocol/logLevel": "debug" });
    go.cancel();
    let ask = Ask::modern("tools/call", params);
    let (kept, told) = (gateway.client().send(&ask).await, gateway.other().send(&ask).await);
    assert_eq!((kept.code(), kept.text().contains(SECRET), told.text().contains(SECRET)), ("ok".to_owned(), false, true));
    assert!(upstream.calls()[0].json().pointer("/params/_meta/progressToken").is_none());

    let question = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": SECRET, "requestedSchema": { "type": "object", "properties": {} } } });
    let (_upstream, site) =
        relaying(json!({ "resultType": "input_required", "inputRequests": { "q": question }, "requestState": "s" })).await;
    let site = site.policy(&format!("{ALLOW}o, O1, agent:demo, up__save, any, -, redact:/a\n"));
    let answer = site.serve().await.client().send(&call("save", &forms())).await;
    assert_eq!((answer.told(), answer.text().contains(SECRET)), ("result_blocked unknown".to_owned(), false));
}

#[tokio::test]
async fn a_field_that_the_output_schema_cannot_spare_keeps_the_result_back() {
    let upstream = Upstream::start().await;
    upstream.does("typed", Does::Result(json!({ "content": [], "structuredContent": { "count": 8180, "note": SECRET } })));
    let row = |pointer: &str| format!("{ALLOW}o, O1, agent:demo, up__typed, any, -, {pointer}\n");
    for (pointer, wanted) in [("redact:/count", "result_blocked done"), ("redact", "result_blocked done")] {
        let site = Site::of(&upstream).policy(&row(pointer));
        let answer = site.serve().await.client().call("up__typed", json!({})).await;
        assert_eq!((answer.told(), answer.text().contains("8180")), (wanted.to_owned(), false), "{pointer}");
    }
    let site = Site::of(&upstream).policy(&row("redact:/note"));
    let answer = site.serve().await.client().call("up__typed", json!({})).await;
    assert_eq!(answer.result()["structuredContent"], json!({ "count": 8180, "note": "[redacted by O1]" }));
}

#[tokio::test]
async fn rows_add_up_for_every_revision_and_the_whole_result_can_be_kept() {
    let upstream = Upstream::offering().await;
    upstream.does("save", Does::Result(json!({ "content": [], "structuredContent": { "a": SECRET, "b": SECRET, "c": 1 } })));
    upstream.does("echo", Does::Result(text(SECRET)));
    let rows = "o, O1, role:any, up__save, any, -, redact:/a\no, O2, role:any, up__*, any, -, redact:/b\no, O3, role:any, up__echo, any, -, redact\n\
                o, O4, role:any, *, read, -, redact:/x\n";
    let site = Site::of(&upstream).policy(&format!("{ALLOW}{rows}"));
    let gateway = site.serve().await;
    for revision in ["2024-11-05", "2025-11-25"] {
        let session = gateway.client().initialize(revision).await;
        let answer = session.client.send(&session.call("up__save", &json!({}))).await;
        assert_eq!(answer.result()["structuredContent"], json!({ "a": "[redacted by O1]", "b": "[redacted by O2]", "c": 1 }), "{revision}");
        let whole = session.client.send(&session.call("up__echo", &json!({}))).await;
        assert_eq!(whole.result()["content"], json!([{ "type": "text", "text": "[redacted by O3]" }]));
    }
    let prompt = Ask::modern("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "ada" } }));
    assert_eq!(gateway.client().send(&prompt).await.told(), "result_blocked done");
    let whole = Site::of(&upstream).policy(&format!("{ALLOW}o, O1, role:any, *, any, -, redact\n"));
    assert_eq!(whole.serve().await.client().send(&prompt).await.told(), "result_blocked done", "nor as a whole");
}
