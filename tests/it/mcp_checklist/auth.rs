//! Items of the checklist about authorization, on both sides of the gateway.

use serde_json::json;

use crate::support::asking::{call, in_front_of, journal, kept, program, said};
use crate::support::issuer::RESOURCE;
use crate::support::{Ask, Does, Issuer, Site, Upstream};

/// The part of a key that must not be known to anybody else.
fn secret<'s>(site: &'s Site, agent: &str) -> &'s str {
    site.key(agent).rsplit_once('_').unwrap().1
}

/// A GET of a path, without a credential.
fn path(path: &str) -> Ask {
    Ask { path: path.to_owned(), ..Ask::bare("GET") }
}

fn with_token(ask: Ask, token: &str) -> Ask {
    ask.with("Authorization", &format!("Bearer {token}"))
}

const METADATA: &str = "https://gateway.example/.well-known/oauth-protected-resource/mcp";

#[tokio::test]
async fn n60_metadata_says_for_whom_and_by_whom_tokens_are_made() {
    let issuer = Issuer::start().await;
    let site = Site::empty().config(&issuer.entry(", scopes: [tools]"));
    let gateway = site.serve().await;
    for place in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let answer = gateway.nobody().send(&path(place)).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{place}");
        let expected = json!({
            "resource": RESOURCE, "authorization_servers": [issuer.url()], "scopes_supported": ["tools"],
            "bearer_methods_supported": ["header"], "resource_name": "Doorward",
        });
        assert_eq!(answer.json(), expected, "{place}");
        let rebound = gateway.nobody().send(&path(place).with("Host", "evil.example")).await;
        assert_eq!(rebound.status, 403, "a web page that took a name of ours gets nothing");
    }
    assert_eq!(gateway.nobody().send(&path("/.well-known/oauth-protected-resource/other")).await.status, 404);
}

#[tokio::test]
async fn n60_metadata_stands_where_its_challenge_says_behind_another_path_too() {
    let issuer = Issuer::start().await;
    // A proxy in front knows it by `/inner`; agents know nothing of that.
    let site = Site::empty().listen("path: /inner").config(&issuer.entry(""));
    let gateway = site.serve().await;
    for place in ["", "/mcp", "/inner"] {
        let answer = gateway.nobody().send(&path(&format!("/.well-known/oauth-protected-resource{place}"))).await;
        assert_eq!((answer.status, answer.json()["resource"].as_str()), (200, Some(RESOURCE)), "{place}");
    }
    assert_eq!(gateway.nobody().send(&path("/.well-known/oauth-protected-resource/other")).await.status, 404);
    let asked = Ask { path: "/inner".to_owned(), ..Ask::modern("tools/list", json!({})) };
    let challenge = gateway.nobody().send(&asked).await.header("www-authenticate").unwrap().to_owned();
    assert!(challenge.contains(METADATA), "{challenge}");
}

#[tokio::test]
async fn n60_a_request_without_a_token_is_told_where_one_is_made() {
    let issuer = Issuer::start().await;
    let site = Site::empty().config(&issuer.entry(", scopes: [tools]"));
    let gateway = site.serve().await;
    let asks = [Ask::modern("tools/list", json!({})), Ask::bare("GET"), Ask::bare("DELETE").with("Mcp-Session-Id", "x")];
    for ask in asks {
        let none = gateway.nobody().send(&ask).await;
        let expected = format!("Bearer resource_metadata=\"{METADATA}\", scope=\"tools\"");
        assert_eq!((none.status, none.header("www-authenticate")), (401, Some(expected.as_str())));
        let wrong = gateway.nobody().send(&with_token(ask, &issuer.token(&json!({ "exp": 1 })))).await;
        let expected = format!("Bearer error=\"invalid_token\", resource_metadata=\"{METADATA}\", scope=\"tools\"");
        assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some(expected.as_str())));
    }
    let asked = Ask { path: format!("/mcp?access_token={}", issuer.token(&json!({}))), ..Ask::modern("tools/list", json!({})) };
    assert_eq!(gateway.nobody().send(&asked).await.status, 401, "a token in the query is none");
}

#[tokio::test]
async fn n60_the_audience_is_looked_at_in_each_request() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let site = Site::of(&upstream).config(&issuer.entry(""));
    let gateway = site.serve().await;
    let (ours, theirs) = (issuer.token(&json!({})), issuer.token(&json!({ "aud": "https://other.example/mcp" })));
    let session = crate::support::Client::new(gateway.address, Some(ours.clone())).initialize("2025-11-25").await;
    for (token, status) in [(&ours, 200), (&theirs, 401), (&ours, 200)] {
        let asks = [Ask::call("up__echo", json!({})), session.call("up__echo", &json!({})), session.ask("ping", &json!({}))];
        for ask in asks {
            let answer = gateway.nobody().send(&with_token(ask, token)).await;
            assert_eq!(answer.status, status, "a session is no credential");
        }
    }
    assert_eq!(upstream.calls().len(), 4);
}

#[tokio::test]
async fn n60_without_a_trusted_issuer_nothing_is_otherwise() {
    let site = Site::empty();
    let gateway = site.serve().await;
    for place in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        assert_eq!(gateway.nobody().send(&path(place)).await.status, 404);
    }
    let answer = gateway.nobody().send(&Ask::modern("tools/list", json!({}))).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"doorward\"")));
}

#[tokio::test]
async fn n61_a_missing_scope_is_403_with_all_scopes_of_the_operation() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let tools =
        "tools:\n  echo: { tier: read }\n  save: { tier: reversible, scope: files.write }\n  pay: { tier: irreversible, scope: pay }\n";
    let site = Site::of(&upstream).config(&issuer.entry(", scopes: [tools]"));
    let rows = "p, R1, agent:demo, up__echo, read, -, allow\np, R2, agent:demo, up__save, reversible, -, allow\n";
    let site = site.policy(rows).manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url()));
    let gateway = site.serve().await;
    let token = |scope: &str| issuer.token(&json!({ "scope": scope }));
    let client = |scope: &str| crate::support::Client::new(gateway.address, Some(token(scope)));
    let session = client("tools").initialize("2025-06-18").await;
    let modern = Ask::call("up__save", json!({}));
    let legacy = session.call("up__save", &json!({}));
    let both = "tools files.write";
    for (ask, scope, needed) in [
        (&modern, "", both),
        (&modern, "tools", both),
        (&modern, "files.write", both),
        (&modern, "files.write.all TOOLS", both),
        (&legacy, "tools", both),
        // Without the header there is nothing yet that could tell which tool is meant.
        (&legacy, "", "tools"),
        (&Ask::call("up__pay", json!({})), "", "tools"),
    ] {
        let answer = gateway.nobody().send(&with_token(ask.clone(), &token(scope))).await;
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{needed}\", resource_metadata=\"{METADATA}\"");
        assert_eq!(answer.wire(), (403, -31001, "insufficient_scope".to_owned()), "{scope}");
        assert_eq!((answer.header("www-authenticate"), &answer.json()["error"]["data"]["scope"]), (Some(&*challenge), &json!(needed)));
    }
    assert!(upstream.calls().is_empty());
    site.recorded("refusal", "code", "insufficient_scope").await;
    for ask in [modern, legacy, Ask::call("up__echo", json!({}))] {
        assert_eq!(gateway.nobody().send(&with_token(ask, &token(both))).await.code(), "ok");
    }
    assert_eq!(client("tools").call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok", "keys have no scopes");
    assert_eq!(client("tools").call("up__pay", json!({})).await.code(), "tool_not_found", "what may not be known of has no scope");
}

#[tokio::test]
async fn n62_a_server_on_http_gets_nothing_of_an_agents_token() {
    let upstream = Upstream::offering().await;
    let rows = "p, R1, agent:demo, *, reversible, -, allow\np, R2, agent:other, *, reversible, -, allow\n";
    let issuer = Issuer::start().await;
    let site = Site::of(&upstream).policy(rows).config(&issuer.entry(""));
    let gateway = site.serve().await;
    let token = issuer.token(&json!({ "sub": "alice" }));
    let with_token = crate::support::Client::new(gateway.address, Some(token.clone()));
    for client in [gateway.client(), gateway.other(), with_token] {
        assert_eq!(client.call("up__echo", json!({})).await.code(), "ok");
        assert_eq!(client.send(&Ask::modern("prompts/get", json!({ "name": "up__bare" }))).await.code(), "ok");
        let session = client.initialize("2025-11-25").await;
        assert_eq!(client.send(&session.call("up__echo", &json!({}))).await.code(), "ok");
    }

    let journal = upstream.journal();
    assert!(journal.iter().all(|received| received.headers.get("authorization").is_none()), "the manifest gives no credential");
    let all = format!("{journal:?}");
    assert!(all.contains("tools/call") && all.contains("prompts/get"));
    for agent in ["demo", "other"] {
        assert!(!all.contains(secret(&site, agent)), "{agent}: {all}");
    }
    assert!(token.split('.').all(|part| !all.contains(part)), "{all}");
}

#[tokio::test]
async fn n62_nor_does_one_on_pipes() {
    let site = Site::empty();
    let (journal_file, program) = (kept(&site), program());
    let shell = format!("env > work/env; exec '{}' '{}'", program.display(), journal_file.display());
    let transport = json!({ "stdio": { "command": "/bin/sh", "args": ["-c", shell, program], "sandbox": { "write": ["work"] } } });
    let site = in_front_of(site, &transport, "", "");
    let gateway = site.serve().await;
    assert_eq!(said(&gateway.client().send(&call("echo", &json!({}))).await), "{}");

    let environment = std::fs::read_to_string(site.path("work/env")).unwrap();
    let all = format!("{:?} {environment}", journal(&site));
    assert!(environment.contains("PATH=") && all.contains("tools/call") && !all.contains(secret(&site, "demo")), "{all}");
}

const SECRET: &str = "client_secret: { from_env: UP_SECRET }";

/// A tool server that takes the token `up-1` alone, and the one who makes it.
async fn guarded() -> (Issuer, Upstream, Site) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.grants("up-1", 600);
    upstream.wants("up-1");
    let site = Site::of(&upstream).env("UP_SECRET", "s3cret").manifest("up", &issuer.opens(&upstream, SECRET));
    (issuer, upstream, site)
}

#[tokio::test]
async fn n62_each_token_request_names_the_server_that_the_token_is_for() {
    let (issuer, upstream, site) = guarded().await;
    let gateway = site.serve().await;
    for _ in 0..3 {
        assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    }

    let asked = issuer.asked("/token");
    let resource = upstream.url().replace(':', "%3A").replace('/', "%2F");
    assert_eq!(asked.len(), 1, "a token is used until it expires");
    assert_eq!(asked[0].body, format!("grant_type=client_credentials&resource={resource}"));
    assert_eq!(asked[0].authorization.as_deref(), Some("Basic Z2F0ZXdheTpzM2NyZXQ="));
    assert!(upstream.journal().iter().all(|received| received.headers["authorization"] == "Bearer up-1"));
}

#[tokio::test]
async fn n62_a_server_that_says_it_is_another_gets_no_token() {
    let (issuer, upstream, site) = guarded().await;
    let path = "/.well-known/oauth-protected-resource/mcp";
    upstream.does(path, Does::Result(json!({ "resource": "https://other.example/mcp", "authorization_servers": [issuer.url()] })));
    let mut gateway = site.serve().await;
    gateway.says("is of another resource").await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "upstream_unavailable");
    assert!(issuer.asked("/token").is_empty() && upstream.journal().is_empty());
}

#[tokio::test]
async fn n63_a_credential_goes_to_its_own_issuer_whoever_the_server_names() {
    let (issuer, upstream, site) = guarded().await;
    let other = Issuer::start().await;
    other.grants("up-1", 600);
    let path = "/.well-known/oauth-protected-resource/mcp";
    upstream.does(path, Does::Result(json!({ "resource": upstream.url(), "authorization_servers": [other.url()] })));
    let mut gateway = site.serve().await;
    gateway.says("does not take its tokens").await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "upstream_unavailable");
    for place in ["/token", "/.well-known/oauth-authorization-server"] {
        assert!(other.asked(place).is_empty() && issuer.asked(place).is_empty(), "{place}");
    }
}

#[tokio::test]
async fn n63_metadata_of_another_issuer_is_not_taken() {
    let (issuer, upstream, site) = guarded().await;
    for issuer_of_it in [json!("https://other.example"), json!(format!("{}/", issuer.url())), json!(null)] {
        let metadata = json!({ "issuer": issuer_of_it, "token_endpoint": format!("{}/token", issuer.url()) });
        issuer.answers("/.well-known/oauth-authorization-server", 200, metadata);
        let mut gateway = site.serve().await;
        gateway.says("is of another issuer").await;
        gateway.kill().await;
    }
    assert!(issuer.asked("/token").is_empty() && upstream.journal().is_empty());
}
