//! Items of the checklist about schemas of arguments and results.

use serde_json::{Value, json};

use crate::support::{Ask, Does, Site, Upstream};

#[tokio::test]
async fn n43_schemas_and_unknown_meta_go_on_as_they_came() {
    let upstream = Upstream::start().await;
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": { "n": { "type": "integer", "x-unit": "cm" } }, "type": "object",
        "properties": { "n": { "$ref": "#/$defs/n" } }, "unevaluatedProperties": false, "com.example/own": [1.50, null, { "é": "ü" }],
    });
    let meta = json!({ "com.example/kept": { "deep": [1.0, "x"] }, "bare": true });
    upstream.redefine(|tools| {
        tools[0]["inputSchema"] = schema.clone();
        tools[0]["_meta"] = meta.clone();
        tools[0]["icons"] = json!([{ "src": "data:," }]);
    });
    upstream.does("echo", Does::Result(json!({ "content": [], "_meta": meta, "resultType": "complete" })));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;

    let tool = gateway.client().send(&Ask::modern("tools/list", json!({}))).await.result()["tools"][0].clone();
    assert_eq!((&tool["inputSchema"], &tool["_meta"], &tool["icons"]), (&schema, &meta, &json!([{ "src": "data:," }])));
    let answer = gateway.client().call("up__echo", json!({ "n": 1 })).await;
    assert_eq!(answer.code(), "ok", "{}", answer.text());
    let result = answer.result();
    for (key, value) in meta.as_object().unwrap() {
        assert_eq!(&result["_meta"][key], value);
    }
    let sent = json!({ "com.example/sent": { "a": 1.0 }, "progressToken": "mine" });
    gateway.client().send(&Ask::modern("tools/call", json!({ "name": "up__echo", "arguments": {}, "_meta": sent }))).await;
    assert_eq!(upstream.calls()[1].json()["params"]["_meta"]["com.example/sent"], sent["com.example/sent"]);
}

#[tokio::test]
async fn n65_what_a_server_or_client_says_of_itself_opens_nothing() {
    let upstream = Upstream::start().await;
    upstream.redefine(|tools| {
        tools[1]["annotations"] = json!({ "readOnlyHint": true, "destructiveHint": false });
        tools[0]["annotations"] = json!({ "readOnlyHint": false, "destructiveHint": true });
    });
    let site = Site::of(&upstream).policy("p, R1, agent:demo, up__*, read, -, allow\n");
    let gateway = site.serve().await;
    let client = json!({ "io.modelcontextprotocol/clientInfo": { "name": "agent:other", "version": "1" } });

    for tool in ["up__save", "up__echo"] {
        let call = Ask::modern("tools/call", json!({ "name": tool, "arguments": {}, "_meta": client.clone() }));
        assert_eq!(gateway.client().send(&call).await.code(), "policy_denied", "{tool}");
    }
    assert_eq!(gateway.client().tools().await, ["up__typed"]);
    let refusal = site.recorded("refusal", "target", "up__save").await;
    assert_eq!((&refusal["tier"], &refusal["agent"]), (&json!("reversible"), &json!("demo")));
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn n69_the_trace_of_the_agent_goes_on_to_the_server() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let trace = json!({ "traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "tracestate": "a=1", "baggage": "k=v" });

    gateway.client().send(&Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": trace }))).await;

    let meta: Value = upstream.calls()[0].json()["params"]["_meta"].clone();
    for (key, value) in trace.as_object().unwrap() {
        assert_eq!(&meta[key], value, "{key}");
    }
    site.ends(1).await;
    assert_eq!(site.of_kind("intent")[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
}
