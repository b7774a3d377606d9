//! Items of the checklist about errors: their numbers, and what an agent of each revision is told.

use serde_json::{Value, json};

use crate::support::{Answer, Ask, Client, Does, Serving, Session, Site, Upstream};

const ROWS: &str = "p, R1, agent:demo, *, reversible, -, allow\n";

async fn connected(site: &Site) -> Serving {
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    gateway
}

async fn modern(client: &Client, method: &str, params: &Value) -> Answer {
    client.send(&Ask::modern(method, params.clone())).await
}

fn number(answer: &Answer) -> i64 {
    answer.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("{}", answer.text()))
}

#[tokio::test]
async fn n36_numbers_of_other_revisions_reach_no_modern_agent() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let get = json!({ "name": "up__bare" });
    let read = json!({ "uri": "dw+up+file:///notes/a" });

    for code in [-32000, -32002, -32019, -32033, -32042, -32099] {
        upstream.does("prompts/get", Does::Error(code, "no"));
        upstream.does("resources/read", Does::Error(code, "no"));
        for answer in [modern(&gateway.client(), "prompts/get", &get).await, modern(&gateway.client(), "resources/read", &read).await] {
            let told = number(&answer);
            assert!(told > -32000 || [-32602, -32603, -32021].contains(&told), "{code} became {told}");
            assert!(![-32002, -32042].contains(&told), "{code} became {told}");
        }
    }
    upstream.does("prompts/get", Does::Error(-32033, "no"));
    let answer = modern(&gateway.client(), "prompts/get", &get).await;
    assert_eq!((number(&answer), &answer.error()["upstream"]["code"]), (-32603, &json!(-32033)));
    upstream.does("prompts/get", Does::Error(-32020, "no"));
    let answer = modern(&gateway.client(), "prompts/get", &get).await;
    assert_eq!(answer.told(), "upstream_protocol_error none");
}

#[tokio::test]
async fn n35_a_missing_capability_is_named_in_an_object_with_400() {
    let upstream = Upstream::offering().await;
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\nmay_ask: [elicitation, sampling, roots]\n", upstream.url());
    let site = Site::of(&upstream).manifest("up", &format!("{manifest}tools:\n  echo: {{ tier: read }}\n")).policy(ROWS);
    let gateway = connected(&site).await;
    let page = json!({ "mode": "url", "message": "Log in", "url": "https://a.example" });
    let form = json!({ "mode": "form", "message": "?", "requestedSchema": { "type": "object", "properties": {} } });
    let asks = |method: &str, params: &Value| {
        let question = json!({ "method": method, "params": params });
        Does::Result(json!({ "resultType": "input_required", "inputRequests": { "q": question } }))
    };
    let sampling = json!({ "messages": [], "maxTokens": 1 });
    for (does, required) in [
        (asks("elicitation/create", &form), json!({ "elicitation": { "form": {} } })),
        (asks("elicitation/create", &page), json!({ "elicitation": { "url": {} } })),
        (asks("sampling/createMessage", &sampling), json!({ "sampling": {} })),
        (asks("roots/list", &json!({})), json!({ "roots": {} })),
        (Does::Error(-32042, "log in"), json!({ "elicitation": { "url": {} } })),
        (Does::Error(-32021, "more"), json!({})),
    ] {
        for (method, name, params) in [
            ("tools/call", "echo", json!({ "name": "up__echo", "arguments": {} })),
            ("prompts/get", "prompts/get", json!({ "name": "up__bare" })),
        ] {
            upstream.does(name, does.clone());
            let answer = modern(&gateway.client(), method, &params).await;
            assert_eq!(answer.wire(), (400, -32021, "client_capability_missing".to_owned()), "{method} {does:?}");
            assert_eq!(answer.json()["error"]["data"]["requiredCapabilities"], required, "{method} {does:?}");
        }
    }
}

#[tokio::test]
async fn n37_a_resource_that_is_not_there_has_the_number_of_each_revision() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let session: Session = gateway.client().initialize("2025-11-25").await;
    let (here, nowhere) = ("dw+up+file:///gone", "dw+none+file:///gone");

    for code in [-32602, -32002] {
        upstream.does("resources/read", Does::Error(code, "gone"));
        for uri in [here, nowhere] {
            let now = modern(&gateway.client(), "resources/read", &json!({ "uri": uri })).await;
            assert_eq!((number(&now), &now.json()["error"]["data"]["uri"]), (-32602, &json!(uri)));
            let then = session.send("resources/read", &json!({ "uri": uri })).await;
            assert_eq!((number(&then), &then.json()["error"]["data"]["uri"]), (-32002, &json!(uri)));
        }
    }
    upstream.does("prompts/get", Does::Error(-32602, "bad"));
    assert_eq!(number(&session.send("prompts/get", &json!({ "name": "up__bare" })).await), -32602);
}

#[tokio::test]
async fn n39_a_name_that_does_not_exist_is_the_protocols_own_error() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;

    for (method, params) in [
        ("tools/call", json!({ "name": "up__nothing" })),
        ("tools/call", json!({ "name": "greet" })),
        ("prompts/get", json!({ "name": "up__echo" })),
        ("prompts/get", json!({ "name": "greet" })),
        ("resources/read", json!({ "uri": "file:///notes/a" })),
    ] {
        let answer = modern(&gateway.client(), method, &params).await;
        assert_eq!(answer.wire(), (200, -32602, "tool_not_found".to_owned()), "{method} {params}");
    }
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = gateway.client().initialize(revision).await;
        assert_eq!(number(&session.send("tools/call", &json!({ "name": "up__nothing" })).await), -32602, "{revision}");
    }
    assert!(upstream.asked("prompts/get").is_empty() && upstream.asked("resources/read").is_empty());
}

#[tokio::test]
async fn an_answer_of_another_method_is_no_result() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let tool = json!({ "content": [], "resultType": "complete" });
    let asks = json!({ "resultType": "input_required", "inputRequests": { "q": { "method": "roots/list" } } });

    for (result, code) in [(tool, "upstream_protocol_error"), (asks, "client_capability_missing")] {
        for method in ["prompts/get", "resources/read", "completion/complete"] {
            upstream.does(method, Does::Result(result.clone()));
        }
        let reference = json!({ "type": "ref/prompt", "name": "up__bare" });
        for (method, params) in [
            ("prompts/get", json!({ "name": "up__bare" })),
            ("resources/read", json!({ "uri": "dw+up+file:///a" })),
            ("completion/complete", json!({ "ref": reference, "argument": { "name": "a", "value": "" } })),
        ] {
            let answer = modern(&gateway.client(), method, &params).await;
            // A completion has no questions at all, whatever the agent declares.
            let code = if method == "completion/complete" { "upstream_protocol_error" } else { code };
            assert_eq!(answer.told(), format!("{code} unknown"), "{method} {result}");
        }
    }
}

#[tokio::test]
async fn blocks_that_an_older_revision_does_not_have_become_text() {
    let upstream = Upstream::offering().await;
    let link = json!({ "type": "resource_link", "uri": "file:///notes/a", "name": "a", "mimeType": "text/plain" });
    let audio = json!({ "type": "audio", "data": "AAAA", "mimeType": "audio/wav" });
    upstream.does("echo", Does::Result(json!({ "content": [link, audio], "resultType": "complete" })));
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let types = async |revision: &str| {
        let session = gateway.client().initialize(revision).await;
        let content = session.send("tools/call", &json!({ "name": "up__echo", "arguments": {} })).await.result()["content"].clone();
        (content[0]["type"].clone(), content[1]["type"].clone(), content[0]["text"].clone())
    };

    assert_eq!(types("2025-06-18").await, (json!("resource_link"), json!("audio"), Value::Null));
    let told = json!("resource `a`: dw+up+file:///notes/a (text/plain)");
    assert_eq!(types("2025-03-26").await, (json!("text"), json!("audio"), told.clone()));
    assert_eq!(types("2024-11-05").await, (json!("text"), json!("text"), told));
}
