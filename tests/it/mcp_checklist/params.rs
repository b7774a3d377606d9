//! Items of the checklist about `Mcp-Param-*` headers.

use serde_json::{Value, json};

use crate::support::{Ask, Site, Upstream};

/// An upstream whose tool `echo` has these properties.
async fn with(properties: Value) -> Upstream {
    let upstream = Upstream::start().await;
    upstream.redefine(|tools| tools[0]["inputSchema"]["properties"] = properties);
    upstream
}

async fn published(upstream: &Upstream) -> Value {
    let site = Site::of(upstream);
    let gateway = site.serve().await;
    gateway.client().send(&Ask::modern("tools/list", json!({}))).await.result()["tools"][0].clone()
}

#[tokio::test]
async fn n12_an_unsound_annotation_is_not_published_and_the_tool_stays() {
    let upstream = with(json!({
        "region": { "type": "string", "x-mcp-header": "Region" },
        "amount": { "type": "number", "x-mcp-header": "Amount" },
        "list": { "type": "array", "items": { "type": "string", "x-mcp-header": "Item" } },
    }))
    .await;
    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;

    let tools = gateway.client().send(&Ask::modern("tools/list", json!({}))).await.result()["tools"].clone();

    assert_eq!((tools.as_array().unwrap().len(), &tools[0]["name"]), (4, &json!("up__echo")));
    let expected = json!({
        "region": { "type": "string", "x-mcp-header": "Region" },
        "amount": { "type": "number" },
        "list": { "type": "array", "items": { "type": "string" } },
    });
    assert_eq!(tools[0]["inputSchema"]["properties"], expected);
    assert!(gateway.says("x-mcp-header").await.contains("up__echo"));
}

#[tokio::test]
async fn n13_annotations_of_nested_properties_are_kept() {
    let nested = json!({ "at": { "type": "object", "properties": { "zone": { "type": "integer", "x-mcp-header": "Zone" } } } });
    let upstream = with(nested.clone()).await;
    assert_eq!(published(&upstream).await["inputSchema"]["properties"], nested);
}

#[tokio::test]
async fn n14_a_server_gets_the_headers_of_what_is_forwarded() {
    let upstream = with(json!({
        "region": { "type": "string", "x-mcp-header": "Region" },
        "at": { "type": "object", "properties": { "zone": { "type": "integer", "x-mcp-header": "Zone" } } },
        "absent": { "type": "string", "x-mcp-header": "Absent" },
    }))
    .await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let ask = Ask::call("up__echo", json!({ "region": "zürich", "at": { "zone": 7 } }));
    let ask = ask.with("Mcp-Param-Region", "=?base64?esO8cmljaA==?=").with("Mcp-Param-Zone", "7");
    assert_eq!(gateway.client().send(&ask).await.code(), "ok");

    let headers = &upstream.calls()[0].headers;
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("mcp-method"), header("mcp-name")), (Some("tools/call"), Some("echo")));
    assert_eq!((header("mcp-param-region"), header("mcp-param-zone")), (Some("=?base64?esO8cmljaA==?="), Some("7")));
    assert_eq!(header("mcp-param-absent"), None);
}

#[tokio::test]
async fn n11_headers_that_no_schema_names_go_on_as_they_came() {
    let upstream = with(json!({ "region": { "type": "string", "x-mcp-header": "Region" } })).await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let ask = Ask::call("up__echo", json!({ "region": "eu" })).with("Mcp-Param-Region", "eu").with("Mcp-Param-Shard", "=?base64?w7w=?=");
    let ask = ask.with("mcp-param-tenant", "\t two  words ").with("Mcp-Parameter", "7").with("X-Tenant", "other");
    assert_eq!(gateway.client().send(&ask).await.code(), "ok");

    let call = &upstream.calls()[0];
    let header = |name: &str| call.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("mcp-param-shard"), header("mcp-param-tenant")), (Some("=?base64?w7w=?="), Some("two  words")));
    assert_eq!((header("mcp-param-region"), call.headers.get_all("mcp-param-region").iter().count()), (Some("eu"), 1));
    // What is no parameter stays here, and a parameter that no schema names is no argument.
    assert_eq!((header("mcp-parameter"), header("x-tenant")), (None, None));
    assert_eq!(call.json()["params"]["arguments"], json!({ "region": "eu" }));
}
