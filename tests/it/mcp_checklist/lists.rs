//! Items of the checklist about lists: cursors, order, caching, names; and about what prompts and resources are asked for.

use serde_json::{Value, json};

use crate::support::stream::Stream;
use crate::support::{Ask, Client, Does, Serving, Site, Upstream};

const ROWS: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n\
    p, R2, agent:demo, prompt:up__*, read, -, allow\n\
    p, R3, agent:demo, resource:up:file:///notes/*, read, -, allow\n";

/// A gateway in front of it, once it is connected: a call waits for that.
async fn connected(site: &Site) -> Serving {
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    gateway
}

async fn list(client: &Client, method: &str) -> Value {
    client.send(&Ask::modern(method, json!({}))).await.result()
}

fn each(list: &Value, array: &str, member: &str) -> Vec<String> {
    list[array].as_array().unwrap().iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
}

async fn read(client: &Client, uri: &str) -> crate::support::Answer {
    client.send(&Ask::modern("resources/read", json!({ "uri": uri }))).await
}

#[tokio::test]
async fn prompts_and_resources_obey_policy_limits_and_audit() {
    let upstream = Upstream::offering().await;
    let rows = format!("{ROWS}p, D1, agent:demo, prompt:up__bare, any, -, deny\n");
    let site =
        Site::of(&upstream).policy(&rows).limits("limits:\n  - { id: L1, per: [agent], of: \"prompt:up__*\", rate: 1/h, burst: 1 }\n");
    let gateway = connected(&site).await;
    let client = gateway.client();

    let get = Ask::modern("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "Ada" } }));
    let got = client.send(&get).await;
    assert_eq!(got.result()["messages"][0]["content"]["resource"]["uri"], "dw+up+file:///notes/a", "{}", got.text());
    assert_eq!(upstream.asked("prompts/get")[0]["params"]["name"], "greet");
    assert_eq!(
        client.send(&Ask::modern("prompts/get", json!({ "name": "up__bare" }))).await.wire(),
        (200, -31010, "policy_denied".to_owned())
    );
    assert_eq!(client.send(&get).await.code(), "rate_limited");
    assert_eq!(upstream.asked("prompts/get").len(), 1);

    let answer = read(&client, "dw+up+file:///notes/a").await.result();
    assert_eq!((&answer["contents"][0]["uri"], &answer["contents"][0]["text"]), (&json!("dw+up+file:///notes/a"), &json!("hello")));
    assert_eq!(upstream.asked("resources/read")[0]["params"]["uri"], "file:///notes/a");
    assert_eq!(read(&client, "dw+up+file:///keys/k").await.code(), "tool_not_found");
    assert_eq!(read(&gateway.other(), "dw+up+file:///notes/a").await.code(), "tool_not_found");
    assert_eq!(upstream.asked("resources/read").len(), 1);

    assert_eq!(site.ends(3).await, ["ok done", "ok done", "ok done"]);
    let intents: Vec<Value> =
        site.of_kind("intent").into_iter().map(|intent| json!([intent["method"], intent["target"], intent["tier"]])).collect();
    assert_eq!(intents[1], json!(["prompts/get", "prompt:up__greet", "read"]));
    assert_eq!(intents[2], json!(["resources/read", "resource:up:file:///notes/a", "read"]));
    site.recorded("refusal", "target", "prompt:up__bare").await;
    site.recorded("refusal", "target", "resource:up:file:///keys/k").await;
}

#[tokio::test]
async fn a_deny_on_a_resource_holds_however_its_uri_is_spelled() {
    let upstream = Upstream::offering().await;
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\n\
        p, R2, agent:demo, resource:up:*, read, -, allow\n\
        p, D1, agent:demo, resource:up:file:///notes/a, any, -, deny\n\
        p, D2, agent:demo, resource:up:web://site/keys/*, any, -, deny\n";
    let site = Site::of(&upstream).policy(rows);
    let gateway = connected(&site).await;
    let client = gateway.client();
    let files =
        ["file:///notes/a", "FILE:///notes/a", "file:///notes/%61", "file://localhost/notes/a", "file:/notes/a", "file:////notes//a"];
    let more =
        ["file:///notes/a?x", "file:///notes/a#x", "file:///notes%2Fa", "file:///notes/%2561", "file://other/notes/a", r"file:///notes\a"];
    let web = [
        "web://site/keys/k",
        "WEB://SITE/keys/k",
        "web://site/%6beys/k",
        "web://user@site/keys/k",
        "web://site//keys/k",
        "web://site./keys/k",
    ];
    let denied: Vec<String> = files.into_iter().chain(more).chain(web).map(|own| format!("dw+up+{own}")).collect();
    for uri in &denied {
        let read = read(&client, uri).await;
        assert_eq!(read.code(), "policy_denied", "{uri}: {}", read.text());
    }
    assert_eq!(upstream.asked("resources/read").len(), 0);
    let mut watched =
        Stream::open(&client, &Ask::modern("subscriptions/listen", json!({ "notifications": { "resourceSubscriptions": denied } }))).await;
    assert_eq!(watched.message().await["params"]["notifications"], json!({}), "nothing of it may be watched");
    // What only resembles it is let through as it was written.
    for own in ["file:///notes/b", "file:///Notes/a", "web://site/key", "web://site:1/keys/k", "FILE:///notes/%62"] {
        assert_ne!(read(&client, &format!("dw+up+{own}")).await.code(), "policy_denied", "{own}");
        assert_eq!(upstream.asked("resources/read").last().unwrap()["params"]["uri"], own);
    }
}

#[tokio::test]
async fn another_spelling_of_a_uri_comes_with_no_tokens_of_its_own() {
    let upstream = Upstream::offering().await;
    let limits = "limits:\n  - { id: L1, per: [agent], of: \"resource:up:file:///notes/a\", rate: 2/h, burst: 2 }\n";
    let rows = ROWS.replace("resource:up:file:///notes/*", "resource:up:*");
    let site = Site::of(&upstream).policy(&rows).limits(limits);
    let gateway = connected(&site).await;
    let client = gateway.client();
    for own in ["file:///notes/a", "FILE:///notes//a"] {
        assert_ne!(read(&client, &format!("dw+up+{own}")).await.code(), "rate_limited", "{own}");
    }
    for own in ["file:///notes/a", "file:///notes/%61", "file:////notes/a"] {
        assert_eq!(read(&client, &format!("dw+up+{own}")).await.code(), "rate_limited", "{own}");
    }
}

#[tokio::test]
async fn an_allow_on_a_resource_does_not_reach_what_only_a_lenient_server_takes_for_it() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let client = gateway.client();
    for own in ["file:///notes%2Fa", "file://other/notes/a", r"file:///notes\a", "file:////notes/a"] {
        assert_eq!(read(&client, &format!("dw+up+{own}")).await.code(), "tool_not_found", "{own}");
    }
    assert_eq!(upstream.asked("resources/read").len(), 0);
    // The same resource for everybody, so one that the row means.
    for own in ["FILE:///notes/a", "file://localhost/notes/a", "file:///%6eotes/a"] {
        assert_ne!(read(&client, &format!("dw+up+{own}")).await.code(), "tool_not_found", "{own}");
    }
    assert_eq!(upstream.asked("resources/read").len(), 3);
}

#[tokio::test]
async fn a_list_shows_what_may_be_used_under_public_names() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let client = gateway.client();

    let prompts = list(&client, "prompts/list").await;
    assert_eq!(each(&prompts, "prompts", "name"), ["up__greet", "up__bare"]);
    assert_eq!((&prompts["prompts"][0]["title"], &prompts["prompts"][0]["arguments"][0]["name"]), (&json!("Greeting"), &json!("who")));
    let resources = list(&client, "resources/list").await;
    assert_eq!(each(&resources, "resources", "uri"), ["dw+up+file:///notes/b", "dw+up+file:///notes/a"]);
    let templates = list(&client, "resources/templates/list").await;
    assert_eq!(each(&templates, "resourceTemplates", "uriTemplate"), ["dw+up+file:///notes/{name}"]);
    for (method, member) in
        [("prompts/list", "prompts"), ("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")]
    {
        assert_eq!(list(&gateway.other(), method).await[member], json!([]), "{method}");
    }
}

#[tokio::test]
async fn without_a_prefix_names_and_uris_are_the_servers_own() {
    let upstream = Upstream::offering().await;
    let transport =
        format!("transport: {{ http: {{ url: \"{}\" }} }}\nprefix: none\ntools: {{ echo: {{ tier: read }} }}\n", upstream.url());
    let site = Site::of(&upstream).manifest("up", &transport).policy(ROWS);
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("echo", json!({})).await.code(), "ok");

    assert_eq!(each(&list(&client, "prompts/list").await, "prompts", "name"), ["greet", "bare"]);
    assert_eq!(each(&list(&client, "resources/list").await, "resources", "uri"), ["file:///notes/b", "file:///notes/a"]);
    assert_eq!(read(&client, "file:///notes/a").await.result()["contents"][0]["uri"], "file:///notes/a");
    assert_eq!(read(&client, "file:///keys/k").await.code(), "tool_not_found");
}

#[tokio::test]
async fn a_uri_is_rewritten_everywhere_it_occurs() {
    let upstream = Upstream::offering().await;
    let links = json!({ "content": [
        { "type": "text", "text": "file:///notes/a" },
        { "type": "resource", "resource": { "uri": "file:///notes/a", "text": "\"uri\":\"file:///notes/a\"" } },
        { "type": "resource_link", "uri": "file:///notes/b", "name": "b", "_meta": { "x": 1.0 } },
        { "type": "resource_link", "uri": "https://example.com/", "name": "web" },
    ], "structuredContent": { "uri": "file:///notes/a" }, "resultType": "complete" });
    upstream.does("echo", Does::Result(links.clone()));
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let client = gateway.client();

    let result = client.call("up__echo", json!({})).await.result();
    let mut expected = links["content"].clone();
    expected[1]["resource"]["uri"] = "dw+up+file:///notes/a".into();
    expected[2]["uri"] = "dw+up+file:///notes/b".into();
    assert_eq!((&result["content"], &result["structuredContent"]), (&expected, &links["structuredContent"]));

    let reference = json!({ "type": "ref/resource", "uri": "dw+up+file:///notes/{name}" });
    let complete = Ask::modern("completion/complete", json!({ "ref": reference, "argument": { "name": "name", "value": "a" } }));
    assert_eq!(client.send(&complete).await.result()["completion"]["values"], json!(["ada", "alan"]));
    assert_eq!(upstream.asked("completion/complete")[0]["params"]["ref"]["uri"], "file:///notes/{name}");
}

#[tokio::test]
async fn a_prefix_rule_cannot_be_walked_out_of() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;

    for uri in ["file:///notes/../keys/k", "file:///notes/%2e%2e/keys/k", "file:///notes/..%2fkeys/k", "file:///notes/%252e%252e/keys/k"] {
        assert_eq!(read(&gateway.client(), &format!("dw+up+{uri}")).await.wire(), (200, -32602, "tool_not_found".to_owned()), "{uri}");
    }
    assert!(upstream.asked("resources/read").is_empty());
}

#[tokio::test]
async fn a_dead_upstream_costs_only_its_own_entries() {
    let upstream = Upstream::offering().await;
    let dead = "transport: { http: { url: \"http://127.0.0.1:1/mcp\" } }\ndefaults: { connect_grace_ms: 0 }\n";
    let site = Site::of(&upstream).manifest("dead", dead).policy(ROWS);
    let gateway = connected(&site).await;

    let prompts = list(&gateway.client(), "prompts/list").await;
    assert_eq!(each(&prompts, "prompts", "name"), ["up__greet", "up__bare"]);
    assert_eq!((&prompts["ttlMs"], &prompts["_meta"]["dev.doorward/unavailable"]), (&json!(0), &json!(["dead"])));
    let rows = format!("{ROWS}p, R9, agent:demo, prompt:dead__*, read, -, allow\n");
    let site = site.policy(&rows);
    gateway.kill().await;
    let gateway = connected(&site).await;
    let get = Ask::modern("prompts/get", json!({ "name": "dead__x" }));
    assert_eq!(gateway.client().send(&get).await.code(), "upstream_unavailable");
}

#[tokio::test]
async fn n45_lists_and_reads_say_how_long_they_hold_and_for_whom() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let client = gateway.client();

    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"] {
        let list = list(&client, method).await;
        assert!(list["ttlMs"].is_u64() && list["resultType"] == "complete", "{method}: {list}");
        assert!(list["cacheScope"] == "private" || method == "server/discover", "{method}: {list}");
    }
    let read = read(&client, "dw+up+file:///notes/a").await.result();
    assert_eq!((&read["ttlMs"], &read["cacheScope"]), (&json!(70), &json!("private")));
    let session = client.initialize("2025-11-25").await;
    let list = session.send("prompts/list", &json!({})).await.result();
    assert_eq!(list.as_object().unwrap().keys().collect::<Vec<_>>(), ["prompts"]);
}

#[tokio::test]
async fn n47_a_cursor_is_this_callers_and_of_this_list() {
    let upstream = Upstream::offering().await;
    let many: Vec<Value> = (0..1_500).map(|number| json!({ "name": format!("p{number}") })).collect();
    upstream.does("prompts/list", Does::Result(json!({ "prompts": many, "resultType": "complete" })));
    let rows = format!("{ROWS}p, R9, agent:other, *, read, -, allow\n");
    let site = Site::of(&upstream).policy(&rows);
    let gateway = connected(&site).await;
    let from = async |client: &Client, cursor: &str| client.send(&Ask::modern("prompts/list", json!({ "cursor": cursor }))).await;

    let first = list(&gateway.client(), "prompts/list").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = from(&gateway.client(), cursor).await.result();
    let names = [each(&first, "prompts", "name"), each(&second, "prompts", "name")].concat();
    assert_eq!(names, (0..1_500).map(|number| format!("up__p{number}")).collect::<Vec<_>>());
    assert_eq!((&second["nextCursor"], &second["cacheScope"]), (&Value::Null, &first["cacheScope"]));
    assert_eq!(each(&from(&gateway.client(), "").await.result(), "prompts", "name").len(), 1_000);
    for wrong in [from(&gateway.client(), "made up").await, from(&gateway.other(), cursor).await] {
        assert_eq!(wrong.wire(), (200, -32602, "state_invalid".to_owned()));
    }
    let elsewhere = gateway.client().send(&Ask::modern("tools/list", json!({ "cursor": cursor }))).await;
    assert_eq!(elsewhere.json()["error"]["code"], -32602);
    let number = gateway.client().send(&Ask::modern("prompts/list", json!({ "cursor": 1 }))).await;
    assert_eq!(number.json()["error"]["code"], -32602);
}

#[tokio::test]
async fn n48_lists_keep_one_order_whoever_asks() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).upstream("aa", &upstream).policy("p, R1, role:any, *, reversible, -, allow\n");
    let gateway = connected(&site).await;
    assert_eq!(gateway.client().call("aa__echo", json!({})).await.code(), "ok");

    for (method, member) in [("tools/list", "tools"), ("prompts/list", "prompts"), ("resources/list", "resources")] {
        let one = list(&gateway.client(), method).await;
        assert_eq!(one[member], list(&gateway.other(), method).await[member], "{method}");
    }
    let prompts = each(&list(&gateway.client(), "prompts/list").await, "prompts", "name");
    assert_eq!(prompts, ["aa__greet", "aa__bare", "up__greet", "up__bare"]);
    let session = gateway.client().initialize("2025-06-18").await;
    assert_eq!(each(&session.send("prompts/list", &json!({})).await.result(), "prompts", "name"), prompts);
}

#[tokio::test]
async fn n64_completions_are_limited_like_calls() {
    let upstream = Upstream::offering().await;
    let limits = "limits:\n  - { id: L1, per: [agent], of: \"prompt:up__greet\", rate: 1/h, burst: 2 }\n";
    let site = Site::of(&upstream).policy(ROWS).limits(limits);
    let gateway = connected(&site).await;
    let reference = json!({ "type": "ref/prompt", "name": "up__greet" });
    let params = json!({ "ref": reference, "argument": { "name": "who", "value": "a" } });
    let complete = async |client: &Client| client.send(&Ask::modern("completion/complete", params.clone())).await;

    assert_eq!(complete(&gateway.client()).await.result()["completion"]["total"], 2);
    assert_eq!(upstream.asked("completion/complete")[0]["params"]["ref"], json!({ "type": "ref/prompt", "name": "greet" }));
    assert_eq!(complete(&gateway.client()).await.code(), "ok");
    let refused = complete(&gateway.client()).await;
    assert_eq!(refused.code(), "rate_limited");
    assert_eq!((&refused.error()["retryable"], refused.error()["retry_after_ms"].as_u64() > Some(0)), (&json!(true), true));
    assert_eq!(complete(&gateway.other()).await.code(), "tool_not_found");
    assert_eq!(upstream.asked("completion/complete").len(), 2);
}

#[tokio::test]
async fn completions_beyond_what_the_protocol_allows_are_cut() {
    let upstream = Upstream::offering().await;
    let values: Vec<String> = (0..130).map(|number| number.to_string()).collect();
    upstream.does("completion/complete", Does::Result(json!({ "completion": { "values": values, "total": 130 } })));
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let session = gateway.client().initialize("2024-11-05").await;

    let reference = json!({ "type": "ref/prompt", "name": "up__greet" });
    let params = json!({ "ref": reference, "argument": { "name": "who", "value": "" } });
    let completion = session.send("completion/complete", &params).await.result()["completion"].clone();
    assert_eq!(completion, json!({ "hasMore": true, "values": values[..100], "total": 130 }));
}

#[tokio::test]
async fn a_prompts_arguments_are_strings_and_the_required_ones_are_there() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS);
    let gateway = connected(&site).await;
    let get = async |arguments: Value| {
        let params = json!({ "name": "up__greet", "arguments": arguments });
        gateway.client().send(&Ask::modern("prompts/get", params)).await
    };

    assert_eq!(get(json!({})).await.wire(), (200, -32602, "invalid_arguments".to_owned()));
    assert_eq!(get(json!({ "who": 1 })).await.code(), "invalid_arguments");
    assert_eq!(get(json!({ "who": "Ada", "more": "words" })).await.code(), "ok");
    let unknown = gateway.client().send(&Ask::modern("prompts/get", json!({ "name": "up__nothing" }))).await;
    assert_eq!(unknown.wire(), (200, -32602, "tool_not_found".to_owned()));
}

#[tokio::test]
async fn n49_names_carry_the_configured_prefix_and_stay_within_128_characters() {
    let upstream = Upstream::offering().await;
    let long = "t".repeat(126);
    upstream.redefine(|tools| {
        let named = json!({ "name": long, "inputSchema": { "type": "object" } });
        tools.push(named);
    });
    upstream.does(
        "prompts/list",
        Does::Result(json!({ "prompts": [{ "name": long }, { "name": format!("{}x", &long[1..]) }], "resultType": "complete" })),
    );
    let tools = format!(
        "transport: {{ http: {{ url: \"{}\" }} }}\ntools: {{ echo: {{ tier: read }}, {long}: {{ tier: read }} }}\n",
        upstream.url()
    );
    let site = Site::of(&upstream).manifest("up", &tools).policy(ROWS);
    let gateway = connected(&site).await;
    let client = gateway.client();

    let named = client.tools().await;
    assert!(named.iter().all(|name| name.starts_with("up__") && name.len() <= 128), "{named:?}");
    let public = named.iter().find(|name| name.len() > 100).unwrap();
    assert_eq!(client.call(public, json!({})).await.code(), "ok");
    assert_eq!(upstream.calls().last().unwrap().json()["params"]["name"], long);
    let prompts = each(&list(&client, "prompts/list").await, "prompts", "name");
    assert!(prompts[0] != prompts[1] && prompts.iter().all(|name| name.len() <= 128), "{prompts:?}");
    assert_eq!(client.send(&Ask::modern("prompts/get", json!({ "name": prompts[0] }))).await.code(), "ok");
    assert_eq!(upstream.asked("prompts/get")[0]["params"]["name"], long);
    assert!(site.of_kind("intent").iter().any(|intent| intent["method"] == "prompts/get"));
}

#[tokio::test]
async fn n46_what_one_principal_was_given_is_given_to_no_other() {
    let upstream = Upstream::offering().await;
    let rows = format!("{ROWS}p, R9, agent:other, resource:up:file:///keys/*, read, -, allow\n");
    let site = Site::of(&upstream).policy(&rows);
    let gateway = connected(&site).await;
    let (demo, other) = (gateway.client(), gateway.other());

    for _ in 0..2 {
        assert_eq!(read(&demo, "dw+up+file:///notes/a").await.result()["cacheScope"], "private");
        assert_eq!(read(&other, "dw+up+file:///notes/a").await.code(), "tool_not_found");
        assert_eq!(each(&list(&demo, "resources/list").await, "resources", "name"), ["b", "a"]);
        assert_eq!(each(&list(&other, "resources/list").await, "resources", "name"), ["k"]);
    }
    assert_eq!(upstream.asked("resources/read").len(), 2);
}

#[tokio::test]
async fn made_up_uris_are_one_flood_in_the_log() {
    let upstream = Upstream::offering().await;
    let site = Site::of(&upstream).policy(ROWS).limits("floods: { first: 2, window_ms: 60000 }\n");
    let gateway = connected(&site).await;

    for number in 0..12 {
        assert_eq!(read(&gateway.client(), &format!("dw+up+file:///keys/{number}")).await.code(), "tool_not_found");
    }

    gateway.stop().await;
    assert_eq!(site.of_kind("refusal").len(), 2);
    let counted = &site.of_kind("coalesced")[0];
    assert_eq!((&counted["target"], &counted["count"]), (&json!("resource:up:*"), &json!(10)));
}
