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
        tools[0]["execution"] = json!({ "taskSupport": "required" });
    });
    upstream.does("echo", Does::Result(json!({ "content": [], "_meta": meta, "resultType": "complete" })));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;

    let tool = gateway.client().send(&Ask::modern("tools/list", json!({}))).await.result()["tools"][0].clone();
    assert_eq!((&tool["inputSchema"], &tool["_meta"], &tool["icons"]), (&schema, &meta, &json!([{ "src": "data:," }])));
    // Tasks are between the gateway and the server.
    assert_eq!(tool.get("execution"), None);
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

/// A site whose tool `echo` has this input schema.
async fn taking(schema: Value) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    upstream.redefine(|tools| tools[0]["inputSchema"] = schema);
    let site = Site::of(&upstream);
    (upstream, site)
}

#[tokio::test]
async fn n38_broken_arguments_are_a_result_that_a_model_can_act_on() {
    let (upstream, site) = taking(json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } })).await;
    let gateway = site.serve().await;

    let modern = gateway.client().call("up__echo", json!({ "n": "one" })).await;
    let session = gateway.client().initialize("2025-06-18").await;
    let legacy = session.client.send(&session.call("up__echo", &json!({ "n": "one" }))).await;
    for answer in [modern, legacy] {
        let result = answer.result();
        assert_eq!((&result["isError"], answer.told().as_str()), (&json!(true), "invalid_arguments none"));
        assert!(result["content"][0]["text"].as_str().unwrap().contains("/n"), "{result}");
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn n40_a_schema_is_2020_12_and_an_unknown_dialect_is_refused() {
    let (_upstream, site) = taking(json!({ "type": "object", "properties": { "a": { "prefixItems": [{ "type": "string" }] } } })).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({ "a": [1] })).await.code(), "invalid_arguments");

    let (_upstream, site) = taking(json!({ "$schema": "https://example.com/dialect", "type": "object" })).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "tool_withheld");
    let record = site.recorded("refusal", "code", "tool_withheld").await;
    assert!(record["note"].as_str().unwrap().contains("https://example.com/dialect"), "{record}");
}

#[tokio::test]
async fn n41_a_reference_out_of_the_schema_is_refused_and_not_fetched() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference = format!("http://{}/schema.json", listener.local_addr().unwrap());
    let (upstream, site) = taking(json!({ "type": "object", "properties": { "a": { "$ref": reference } } })).await;
    let gateway = site.serve().await;

    assert_eq!(gateway.client().call("up__echo", json!({ "a": 1 })).await.code(), "tool_withheld");

    assert!(!gateway.client().tools().await.contains(&"up__echo".to_owned()) && upstream.calls().is_empty());
    let fetched = tokio::select! { biased; fetched = listener.accept() => Some(fetched), () = std::future::ready(()) => None };
    assert!(fetched.is_none());
}

#[tokio::test]
async fn n42_a_schema_beyond_the_bounds_is_refused_and_a_hostile_one_is_quick() {
    let deep = (0..26).fold(json!({ "type": "string" }), |inner, _| json!({ "type": "object", "properties": { "a": inner } }));
    let (_upstream, site) = taking(deep).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "tool_withheld");

    let (_upstream, site) = taking(json!({ "type": "object", "properties": { "a": { "pattern": "^(a+)+$" } } })).await;
    let gateway = site.serve().await;
    let hostile = format!("{}!", "a".repeat(5_000));
    assert_eq!(gateway.client().call("up__echo", json!({ "a": hostile })).await.code(), "invalid_arguments");
}

#[tokio::test]
async fn n44_a_structured_result_is_held_against_the_output_schema() {
    let upstream = Upstream::start().await;
    upstream.redefine(|tools| tools[0]["outputSchema"] = json!({ "type": "array", "items": { "type": "integer" } }));
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let says = async |structured: Value| {
        let result = json!({ "content": [{ "type": "text", "text": "t" }], "structuredContent": structured, "resultType": "complete" });
        upstream.does("echo", Does::Result(result));
        gateway.client().call("up__echo", json!({})).await
    };

    assert_eq!(says(json!([1, 2])).await.result()["structuredContent"], json!([1, 2]));
    for broken in [json!(["a"]), Value::Null, json!({ "a": 1 })] {
        assert_eq!(says(broken).await.told(), "result_invalid done");
    }
    says(json!([1])).await;
    let session = gateway.client().initialize("2025-11-25").await;
    let legacy = session.client.send(&session.call("up__echo", &json!({}))).await.result();
    assert_eq!((&legacy["structuredContent"], &legacy["content"][0]["text"]), (&Value::Null, &json!("t")));
}
