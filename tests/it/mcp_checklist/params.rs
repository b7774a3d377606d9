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
