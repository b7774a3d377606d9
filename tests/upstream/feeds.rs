//! What a server lists beside its tools, and what it tells of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use doorward::mcp::messages::Offers;
use doorward::upstream::{Definition, Event, Listing};
use serde_json::{Value, json};

use crate::http_server::{Answer, Asked, End, Server};
use crate::{Fixture, names, spec};

/// A modern server that can do all of this; the rest is the script's.
fn offering(capabilities: Value, rest: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> impl Future<Output = Server> {
    Server::start(move |asked| match asked.method() {
        "server/discover" => Answer::json(
            200,
            &asked.result(&json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"})),
        ),
        _ => rest(asked),
    })
}

fn everything() -> Value {
    json!({"tools": {}, "prompts": {"listChanged": true}, "resources": {"subscribe": true}, "completions": {}, "logging": {}})
}

/// The lists of a server that has one of each; its prompts come on two pages.
fn lists(asked: &Asked) -> Answer {
    let result = match (asked.method(), asked.body["params"]["cursor"].as_str()) {
        ("tools/list", _) => json!({"tools": [{"name": "t"}]}),
        ("prompts/list", None) => json!({"prompts": [{"name": "p", "x": 1.0}], "nextCursor": "2"}),
        ("prompts/list", Some("2")) => json!({"prompts": [{"name": "q"}]}),
        ("resources/list", _) => json!({"resources": [{"uri": "file:///a", "name": "a"}]}),
        ("resources/templates/list", _) => json!({"resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "f"}]}),
        _ => return Answer::json(200, &asked.error(-32601, &json!(null))),
    };
    Answer::json(200, &asked.result(&result))
}

fn own(list: &[Definition]) -> Vec<&str> {
    list.iter().map(|item| item.name.as_str()).collect()
}

fn all(listing: &Listing) -> [Vec<&str>; 4] {
    [&listing.tools, &listing.prompts, &listing.resources, &listing.templates].map(|list| own(list))
}

#[tokio::test]
async fn every_list_that_a_server_offers_is_taken() {
    let server = offering(everything(), lists).await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    let listing = fixture.listing().await;
    assert_eq!(all(&listing), [vec!["t"], vec!["p", "q"], vec!["file:///a"], vec!["file:///{path}"]]);
    assert_eq!(listing.prompts[0].json, r#"{"name":"p","x":1.0}"#);
    assert_eq!((listing.offers, fixture.upstream.offers()), (Offers::ALL, Some(Offers::ALL)));
}

#[tokio::test]
async fn what_a_server_does_not_offer_is_not_asked_for() {
    let server = offering(json!({"resources": {}}), lists).await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(all(&fixture.listing().await), [vec![], vec![], vec!["file:///a"], vec!["file:///{path}"]]);
    assert!(server.all("tools/list").is_empty() && server.all("prompts/list").is_empty());
}

#[tokio::test]
async fn a_list_that_fails_does_not_fail_the_others() {
    let server = offering(everything(), |asked| match asked.method() {
        "prompts/list" => Answer::json(200, &asked.error(-32000, &json!(null))),
        "resources/templates/list" => Answer::json(200, &asked.error(-32601, &json!(null))),
        _ => lists(asked),
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(all(&fixture.listing().await), [vec!["t"], vec![], vec!["file:///a"], vec![]]);
}

#[tokio::test]
async fn a_changed_list_is_told_though_the_tools_are_the_same_and_one_that_fails_stays() {
    let asked_for = AtomicUsize::new(0);
    let server = offering(everything(), move |asked| match asked.method() {
        "subscriptions/listen" => Answer::events(&[json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"})], End::Open),
        "prompts/list" => match asked_for.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::json(200, &asked.result(&json!({"prompts": [{"name": "old"}]}))),
            _ => Answer::json(200, &asked.result(&json!({"prompts": [{"name": "new"}]}))),
        },
        "resources/list" if asked.body["id"].as_u64() > Some(6) => Answer::status(500),
        _ => lists(asked),
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    assert_eq!(own(&fixture.listing().await.prompts), ["old"]);
    let again = fixture.listing().await;
    assert_eq!((names(&again), own(&again.prompts), own(&again.resources)), (vec!["t".to_owned()], vec!["new"], vec!["file:///a"]));
}

fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

/// The next resource that is said to have changed.
async fn news(fixture: &mut Fixture) -> String {
    let Event::Updated { uri } = fixture.event().await else { panic!("not updated") };
    uri
}

fn acknowledged() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}})
}

#[tokio::test]
async fn a_modern_server_is_asked_anew_when_another_resource_is_watched() {
    let mut server = offering(json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}}), |asked| {
        let uris = asked.body["params"]["notifications"]["resourceSubscriptions"].as_array().cloned().unwrap_or_default();
        let told = uris.iter().filter_map(Value::as_str).chain(["a:not-watched"]).map(updated);
        match asked.method() {
            "subscriptions/listen" => Answer::events(&std::iter::once(acknowledged()).chain(told).collect::<Vec<_>>(), End::Open),
            _ => lists(asked),
        }
    })
    .await;
    let mut fixture = Fixture::connected(spec(&server.transport())).await;
    let one = fixture.upstream.watch(&"agent:a".into(), "a:one").unwrap();
    assert_eq!(news(&mut fixture).await, "a:one");
    let _two = fixture.upstream.watch(&"agent:a".into(), "a:two").unwrap();
    let mut both = [news(&mut fixture).await, news(&mut fixture).await];
    both.sort_unstable();
    assert_eq!(both, ["a:one", "a:two"]);
    // The stream that was replaced is closed, and so the one before it was.
    crate::soon(server.closed.recv()).await.unwrap();
    drop(one);
    let filters: Vec<_> = server.all("subscriptions/listen").iter().map(|asked| asked.body["params"]["notifications"].clone()).collect();
    assert_eq!(filters.last().unwrap(), &json!({"toolsListChanged": true, "resourceSubscriptions": ["a:one", "a:two"]}));
}

#[tokio::test]
async fn a_legacy_server_is_subscribed_to_what_is_watched() {
    let sessions = std::sync::Mutex::new(0);
    let server = Server::start(move |asked| match asked.method() {
        _ if asked.http == "GET" => Answer::events(&[updated("a:not-watched"), updated("a:one")], End::Open),
        "initialize" => {
            let capabilities = json!({"resources": {"subscribe": true}});
            let result =
                json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "old", "version": "1"}});
            Answer::json(200, &asked.result(&result)).with("mcp-session-id", "s")
        }
        "resources/subscribe" => Answer::json(200, &asked.result(&json!({}))),
        "resources/list" | "resources/templates/list" => lists(asked),
        _ => crate::http_server::legacy(asked, &sessions).unwrap(),
    })
    .await;
    let fixture = Fixture::start(spec(&server.transport()));
    let watch = fixture.upstream.watch(&"agent:a".into(), "a:one").unwrap();
    let mut fixture = fixture;
    assert_eq!(news(&mut fixture).await, "a:one");
    while server.all("resources/subscribe").is_empty() {
        tokio::task::yield_now().await;
    }
    let asked = server.all("resources/subscribe").remove(0);
    assert_eq!((asked.header("mcp-session-id"), &asked.body["params"]), ("s", &json!({"uri": "a:one"})));
    drop(watch);
}

#[tokio::test]
async fn a_server_on_pipes_tells_of_what_is_watched_and_of_its_prompts() {
    for mode in ["modern+", "legacy+"] {
        let mut fixture = Fixture::connected(crate::stdio_servers::server(mode)).await;
        assert_eq!(own(&fixture.listing().await.prompts), ["p1"], "{mode}");
        let _watch = fixture.upstream.watch(&"agent:a".into(), "a:b").unwrap();
        assert_eq!(news(&mut fixture).await, "a:b", "{mode}");
        fixture.call("change_prompts").await.unwrap();
        assert_eq!(own(&fixture.listing().await.prompts), ["p2"], "{mode}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_is_asked_for_again_with_what_is_watched() {
    let streams = AtomicUsize::new(0);
    let server = offering(json!({"resources": {"subscribe": true}}), move |asked| match asked.method() {
        "subscriptions/listen" if streams.fetch_add(1, Ordering::Relaxed) == 0 => Answer::events(&[acknowledged()], End::Broken),
        "subscriptions/listen" => Answer::events(&[acknowledged(), updated("a:one")], End::Open),
        _ => lists(asked),
    })
    .await;
    let fixture = Fixture::start(spec(&server.transport()));
    let _watch = fixture.upstream.watch(&"agent:a".into(), "a:one").unwrap();
    let mut fixture = fixture;
    assert_eq!(news(&mut fixture).await, "a:one");
}

#[tokio::test]
async fn one_agent_cannot_watch_all_that_may_be_watched() {
    let fixture = Fixture::start(spec(&json!({"http": {"url": "http://127.0.0.1:9/mcp"}})));
    let watch = |agent: &str, number: usize| fixture.upstream.watch(&agent.into(), &format!("a:{number}"));
    let mut own: Vec<_> = (0..2_048).map(|number| watch("agent:a", number).unwrap()).collect();

    assert_eq!(watch("agent:a", 2_048).unwrap_err().facts().code, "concurrency_limited");
    let _theirs = watch("agent:b", 2_048).unwrap();

    own.pop();
    assert!(watch("agent:a", 2_049).is_ok());
}
