//! Items of the checklist about HTTP headers and statuses.

use serde_json::{Value, json};

use crate::support::{Ask, Serving, Site, Upstream};

const VERSION: &str = "MCP-Protocol-Version";
const MISMATCH: (u16, i64, &str) = (400, -32020, "header_mismatch");
const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n\
    p, R2, agent:demo, prompt:up__*, read, -, allow\n\
    p, R3, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::offering().await;
    upstream.redefine(|tools| {
        let properties = &mut tools[0]["inputSchema"]["properties"];
        properties["amount"]["x-mcp-header"] = json!("Amount");
        properties["where"] = json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    });
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");
    (upstream, site, gateway)
}

async fn mismatches(gateway: &Serving, asks: impl IntoIterator<Item = Ask>) {
    for ask in asks {
        let answer = gateway.client().send(&ask).await;
        let (status, number, code) = answer.wire();
        assert_eq!((status, number, code.as_str()), MISMATCH, "{:?} {}", ask.headers, answer.text());
        assert_eq!(answer.json()["id"], ask.id());
    }
}

fn read() -> Ask {
    Ask::modern("resources/read", json!({ "uri": "dw+up+file:///notes/a" }))
}

fn get() -> Ask {
    Ask::modern("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "a" } }))
}

#[tokio::test]
async fn n05_a_version_in_the_header_is_the_version_in_the_body() {
    let (_upstream, _site, gateway) = gateway().await;
    mismatches(
        &gateway,
        [read().having(VERSION, "2025-11-25"), get().having(VERSION, "2031-01-01"), read().saying("2026-07-28", "2031-01-01")],
    )
    .await;
}

#[tokio::test]
async fn n06_no_standard_header_may_be_missing() {
    let (_upstream, _site, gateway) = gateway().await;
    let missing = [VERSION, "Mcp-Method", "Mcp-Name"];
    mismatches(&gateway, missing.into_iter().flat_map(|name| [read().without(name), get().without(name)])).await;
    assert_eq!(gateway.client().send(&Ask::modern("prompts/list", json!({}))).await.code(), "ok", "a list names nothing");
}

#[tokio::test]
async fn n07_values_are_compared_letter_by_letter_and_names_are_not() {
    let (_upstream, _site, gateway) = gateway().await;
    mismatches(&gateway, [read().having("Mcp-Method", "Resources/read"), get().having("Mcp-Name", "up__Greet")]).await;
    let taken = read().without("Mcp-Method").with("mCP-mETHOD", " \tresources/read ");
    assert_eq!(gateway.client().send(&taken).await.code(), "ok");
}

#[tokio::test]
async fn n08_a_wrapped_name_is_unwrapped_before_it_is_compared() {
    let (_upstream, _site, gateway) = gateway().await;
    let wrapped = |text: &str| get().having("Mcp-Name", text);
    assert_eq!(gateway.client().send(&wrapped("=?base64?dXBfX2dyZWV0?=")).await.code(), "ok");
    let unsound =
        ["=?base64?dXBfX2dyZWV?=", "=?base64?dXBfX2dyZWV0", "=?BASE64?dXBfX2dyZWV0?=", "=?base64?dXBf_2dyZWV0?=", "=?base64?/w==?="];
    mismatches(&gateway, unsound.map(wrapped)).await;
    let public = read().having("Mcp-Name", "file:///notes/a");
    mismatches(&gateway, [public]).await;
}

fn echo(arguments: Value) -> Ask {
    Ask::call("up__echo", arguments)
}

#[tokio::test]
async fn n09_a_declared_parameters_header_says_what_the_body_says() {
    let (upstream, _site, gateway) = gateway().await;
    let both = echo(json!({ "amount": 5, "where": { "region": "eu" } }));
    let sent = both.clone().with("Mcp-Param-Amount", "5").with("mcp-param-region", "=?base64?ZXU=?=");
    assert_eq!(gateway.client().send(&sent).await.code(), "ok");
    let before = upstream.calls().len();
    mismatches(
        &gateway,
        [
            both.clone(),
            both.clone().with("Mcp-Param-Amount", "5"),
            sent.clone().having("Mcp-Param-Amount", "6"),
            sent.clone().with("Mcp-Param-Amount", "5"),
            sent.having("mcp-param-region", "=?base64?Z?="),
        ],
    )
    .await;
    assert_eq!(upstream.calls().len(), before);
}

#[tokio::test]
async fn n10_what_is_absent_has_no_header_and_numbers_are_compared_as_numbers() {
    let (_upstream, _site, gateway) = gateway().await;
    let absent = [json!({}), json!({ "where": {} }), json!({ "text": "a" })];
    for arguments in &absent {
        assert_eq!(gateway.client().send(&echo(arguments.clone())).await.code(), "ok", "{arguments}");
    }
    mismatches(&gateway, absent.map(|arguments| echo(arguments).with("Mcp-Param-Region", "eu"))).await;
    let number = Ask::call_with_text("up__echo", "{\"amount\":42.0}").with("Mcp-Param-Amount", "42");
    assert_eq!(gateway.client().send(&number).await.code(), "ok");
}
