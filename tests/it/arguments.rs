//! What was validated is what is forwarded, byte for byte, and what is not valid goes nowhere.

use serde_json::{Value, json};

use crate::support::{Ask, Serving, Site, Upstream};

async fn gateway() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

/// Arguments that two readers could read differently, or that are no JSON.
const AMBIGUOUS: [&str; 10] = [
    r#"{"text":"a","text":"b"}"#,
    r#"{"text":"a","\u0074ext":"b"}"#,
    r#"{"deep":{"a":1,"a":1}}"#,
    r#"{"text":"\ud800"}"#,
    r#"{"text":"\u0000\udc00"}"#,
    r#"{"amount":01}"#,
    r#"{"amount":+1}"#,
    r#"{"amount":NaN}"#,
    r#"{"amount":1,}"#,
    r#"{'text':'a'}"#,
];

#[tokio::test]
async fn ambiguous_json_is_refused_whole_over_http() {
    let (upstream, site, gateway) = gateway().await;
    for arguments in AMBIGUOUS.into_iter().chain(["{\"text\":\"a\nb\"}"]) {
        let answer = gateway.client().send(&Ask::call_with_text("up__echo", arguments)).await;
        assert_eq!(answer.wire(), (400, -32700, "malformed_request".to_owned()), "{arguments}");
        assert_eq!(answer.error()["effect"], "none");
    }
    assert!(upstream.calls().is_empty());
    assert!(site.of_kind("intent").is_empty());
}

#[tokio::test]
async fn ambiguous_json_is_refused_whole_on_a_pipe() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("stdio: { agent: demo }");
    let mut pipe = site.pipe(&["stdio"]);
    for arguments in AMBIGUOUS {
        let ask = Ask::call_with_text("up__echo", arguments);
        pipe.line(&String::from_utf8(ask.body).unwrap()).await;
        let answer = pipe.answer().await;
        assert_eq!(answer["error"]["code"], -32700, "{arguments}");
        assert_eq!(answer["error"]["data"]["code"], "malformed_request");
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused() {
    let (upstream, _site, gateway) = gateway().await;
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf"] {
        let ask = Ask::call_with_text("up__echo", r#"{"text":"@"}"#);
        let at = ask.body.iter().position(|byte| *byte == b'@').unwrap();
        // A byte-order mark is sound inside a string; in front of the message it is not.
        let at = if bytes == b"\xef\xbb\xbf" { 0 } else { at };
        let mut body = ask.body.clone();
        body.splice(at..at, bytes.iter().copied());
        assert_eq!(gateway.client().send(&ask.body(body)).await.code(), "malformed_request", "{bytes:?}");
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn what_breaks_the_schema_is_named_and_its_value_is_not() {
    let (upstream, site, gateway) = gateway().await;
    for (arguments, pointer, keyword, expected, got) in [
        (json!({ "text": 7 }), "/text", "type", "a string", "an integer"),
        (json!({ "text": ["canary-4711"] }), "/text", "type", "a string", "an array of 1 item"),
        (json!({ "amount": -1 }), "/amount", "minimum", "a number of at least 0", "an integer"),
        (json!({ "amount": 1.5 }), "/amount", "type", "an integer", "a number that is not written as an integer"),
        (json!({ "amount": "canary-4711" }), "/amount", "type", "an integer", "a string of 11 characters"),
    ] {
        let answer = gateway.client().call("up__echo", arguments).await;
        assert_eq!(answer.told(), "invalid_arguments none");
        assert_eq!(answer.result()["isError"], true);
        let detail = &answer.error()["details"][0];
        assert_eq!(detail, &json!({ "pointer": pointer, "keyword": keyword, "expected": expected, "got": got }));
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    assert!(upstream.calls().is_empty());
    assert_eq!(site.of_kind("intent").len(), 0);
}

#[tokio::test]
async fn a_number_that_is_compared_as_another_goes_nowhere() {
    let (upstream, site, gateway) = gateway().await;
    for text in
        [r#"{"amount":3.0000000000000000000001}"#, r#"{"other":{"more":0.1000000000000000055511151231257827}}"#, r#"{"tiny":1e-400}"#]
    {
        let answer = gateway.client().send(&Ask::call_with_text("up__echo", text)).await;
        assert_eq!(answer.told(), "invalid_arguments none", "{text}");
        assert_eq!(answer.error()["details"][0]["got"], "a number with more digits than can be compared exactly", "{text}");
    }
    assert!(upstream.calls().is_empty());
    assert_eq!(site.of_kind("intent").len(), 0);
}

#[tokio::test]
async fn whoever_does_not_see_a_tool_learns_nothing_of_its_schema() {
    let (_upstream, _site, gateway) = gateway().await;
    let answer = gateway.other().call("up__echo", json!({ "amount": -1 })).await;
    assert_eq!(answer.code(), "tool_not_found");
    assert_eq!(answer.error().get("details"), None);
}

#[tokio::test]
async fn the_bytes_that_were_validated_are_the_bytes_that_go_on() {
    let (upstream, _site, gateway) = gateway().await;
    let texts = [
        r#"{"amount":9007199254740993}"#,
        r#"{"amount":1.0}"#,
        r#"{"amount":1E2}"#,
        r#"{"amount":123456789012345678901234567890}"#,
        r#"{"other":-0,"more":0.10000000000000000000,"tiny":5e-324}"#,
        r#"{"text":"\u00e9\/\n\ud83d\ude00é"}"#,
        r#"{ "text" : "spaced" ,  "b":null, "a":[ ] }"#,
        r#"{"b":{"$ref":"x","__proto__":1},"a":{"":""}}"#,
        "{}",
    ];
    for (index, text) in texts.into_iter().enumerate() {
        assert_eq!(gateway.client().send(&Ask::call_with_text("up__echo", text)).await.code(), "ok", "{text}");
        let got = upstream.got(index + 1).await;
        assert!(got[index].body.contains(&format!("\"arguments\":{text}")), "{text} became {}", got[index].body);
    }
}

#[tokio::test]
async fn a_call_without_arguments_has_an_empty_object() {
    let (upstream, _site, gateway) = gateway().await;
    let answer = gateway.client().send(&Ask::modern("tools/call", json!({ "name": "up__echo" }))).await;
    assert_eq!(answer.code(), "ok");
    assert_eq!(upstream.got(1).await[0].json()["params"]["arguments"], json!({}));
}

#[tokio::test]
async fn an_envelope_that_is_not_sound_is_an_error_of_the_protocol() {
    let (upstream, _site, gateway) = gateway().await;
    let session = gateway.client().initialize("2025-11-25").await;
    for params in
        [json!({}), json!({ "name": 7 }), json!({ "name": "up__echo", "arguments": [] }), json!({ "name": "up__echo", "arguments": null })]
    {
        let modern =
            gateway.client().send(&Ask::modern("tools/call", params.clone()).without("Mcp-Name").with("Mcp-Name", "up__echo")).await;
        let legacy = session.send("tools/call", &params).await;
        for answer in [modern, legacy] {
            assert_eq!(answer.json()["error"]["code"].as_i64().map(|code| [-32602, -32020].contains(&code)), Some(true), "{params}");
        }
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn depth_and_number_of_values_are_bounded() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_depth: 16").listen("max_nodes: 100");
    let gateway = site.serve().await;
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    let wide = json!({ "x": vec![0; 200] }).to_string();
    for text in [deep, wide] {
        assert_eq!(gateway.client().send(&Ask::call_with_text("up__echo", &text)).await.code(), "malformed_request");
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn an_id_comes_back_as_it_was_written() {
    let (_upstream, _site, gateway) = gateway().await;
    for id in ["7", "\"7\"", "-1", "9007199254740993", "\"a\\\"b\\u00e9\"", "\"\""] {
        let ask = Ask::modern("tools/list", json!({}));
        let own = serde_json::to_string(&ask.id()).unwrap();
        let answer = gateway.client().send(&ask.saying(&format!("\"id\":{own}"), &format!("\"id\":{id}"))).await;
        let (sent, back): (Value, Value) = (serde_json::from_str(id).unwrap(), answer.json()["id"].clone());
        assert_eq!(sent, back);
    }
}
