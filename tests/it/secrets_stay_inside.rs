//! Canaries: what must not leave is looked for in everything that leaves.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Ask, Does, Serving, Site, Upstream};

const TOKEN: &str = "canary-upstream-token-4711";
const VALUE: &str = "canary-argument-value-4712";
const WORDS: &str = "canary-upstream-words-4713";
const RESULT: &str = "canary-result-4714";

fn all_files(folder: &Path, out: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_files(&path, out);
        } else if let Ok(bytes) = fs::read(&path) {
            out.push((path.display().to_string(), bytes));
        }
    }
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

fn with_token(site: Site, upstream: &Upstream) -> Site {
    let http = format!("http: {{ url: \"{}\", auth: {{ bearer: {{ from_env: UP_TOKEN }} }} }}", upstream.url());
    let manifest = format!(
        "transport: {{ {http} }}\ndefaults: {{ timeout_ms: 500 }}\ntools:\n  echo: {{ tier: read }}\n  save: {{ tier: reversible }}\n  typed: {{ tier: read }}\n"
    );
    site.manifest("up", &manifest).env("UP_TOKEN", TOKEN)
}

/// Makes the gateway fail and refuse in every way that has a canary near it.
async fn provoke(gateway: &Serving, upstream: &Upstream) {
    let client = gateway.client();
    for does in [
        Does::Echo,
        Does::Error(-32603, WORDS),
        Does::Says(WORDS),
        Does::Result(json!({ "content": [], "structuredContent": { "count": RESULT } })),
        Does::Result(json!({ "content": RESULT })),
        Does::Disconnects,
    ] {
        upstream.does("typed", does);
        client.call("up__typed", json!({ "text": VALUE, "more": { "deep": [VALUE, 4712] } })).await;
    }
    client.call("up__echo", json!({ "text": VALUE, "amount": VALUE })).await;
    client.call("up__save", json!({ "text": VALUE })).await;
    client.send(&Ask::call_with_text("up__save", &format!("{{\"text\":\"{VALUE}\",\"text\":\"{VALUE}\"}}"))).await;
    gateway.nobody().send(&Ask::call("up__save", json!({})).with("Authorization", "Bearer dw_canary-4715_canary-4715")).await;
}

#[tokio::test]
async fn no_canary_gets_into_logs_metrics_or_files() {
    let upstream = Upstream::start().await;
    let site = with_token(Site::of(&upstream), &upstream).env("DOORWARD_LOG", "debug");
    let mut gateway = site.serve().await;
    provoke(&gateway, &upstream).await;
    let metrics = gateway.console("/metrics").await.1;
    let (_, said, out) = gateway.stop().await;
    let mut places = Vec::new();
    all_files(&site.path("var"), &mut places);
    assert!(places.iter().any(|(name, bytes)| name.ends_with(".jsonl") && holds(bytes, "\"kind\":\"outcome\"")));
    places.extend([("stderr", said), ("stdout", out), ("metrics", metrics)].map(|(name, text)| (name.to_owned(), text.into_bytes())));

    let secret = site.key("demo").rsplit_once('_').unwrap().1;
    for (place, bytes) in &places {
        for canary in [TOKEN, VALUE, WORDS, RESULT, secret, "canary-4715"] {
            assert!(!holds(bytes, canary), "{canary} in {place}: {}", String::from_utf8_lossy(bytes));
        }
    }
}

#[tokio::test]
async fn no_canary_gets_into_answers_but_what_the_tool_itself_said() {
    let upstream = Upstream::start().await;
    let site = with_token(Site::of(&upstream), &upstream);
    let gateway = site.serve().await;
    for does in [Does::Says(WORDS), Does::Result(json!({ "content": RESULT })), Does::Disconnects, Does::Status(500)] {
        upstream.does("typed", does.clone());
        let answer = gateway.client().call("up__typed", json!({ "text": VALUE })).await;
        for canary in [TOKEN, VALUE, WORDS, RESULT, site.key("demo")] {
            assert!(!answer.text().contains(canary), "{does:?}: {}", answer.text());
        }
    }
    upstream.does("echo", Does::Error(-32603, WORDS));
    let answer = gateway.client().call("up__echo", json!({})).await;
    if answer.code() == "upstream_error" {
        assert_eq!(answer.error()["upstream"]["message"], WORDS, "the server's words are marked as the server's");
    }
}

#[tokio::test]
async fn the_agents_credential_never_reaches_the_upstream_and_the_gateways_does() {
    let upstream = Upstream::start().await;
    let site = with_token(Site::of(&upstream), &upstream);
    let gateway = site.serve().await;
    gateway.client().send(&Ask::call("up__echo", json!({})).with("Proxy-Authorization", "Basic eA==").with("X-Api-Key", "x")).await;
    let session = gateway.client().initialize("2025-11-25").await;
    gateway.client().send(&session.call("up__echo", &json!({}))).await;

    for received in upstream.journal() {
        assert_eq!(received.headers.get("authorization").unwrap(), &format!("Bearer {TOKEN}"));
        for header in ["proxy-authorization", "x-api-key", "cookie", "mcp-session-id"] {
            assert!(received.headers.get(header).is_none(), "{header}");
        }
        assert!(!received.body.contains("dw_"), "{}", received.body);
    }
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn equal_values_show_as_equal_and_plain_fields_as_they_are() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let fields = "fields: { /shown: plain, /kind: class, /gone: drop }";
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\ntools:\n  save: {{ tier: reversible, {fields} }}\n", upstream.url());
    let site = site.manifest("up", &manifest);
    let gateway = site.serve().await;
    for hidden in ["a", "a", "b"] {
        let arguments = json!({ "shown": "clear", "kind": "12345", "gone": VALUE, "hidden": hidden });
        assert_eq!(gateway.client().call("up__save", arguments).await.code(), "ok");
    }
    site.ends(3).await;
    let args: Vec<_> = site.of_kind("intent").into_iter().map(|intent| intent["args"].clone()).collect();
    assert_eq!(args[0]["shown"], "clear");
    assert_eq!(args[0].get("gone"), None, "{}", args[0]);
    assert_eq!((&args[0], args[0] == args[2]), (&args[1], false));
    assert!(!args[0].to_string().contains("12345") && !args[0].to_string().contains(VALUE), "{}", args[0]);
}

#[tokio::test]
async fn what_a_refused_call_nests_in_a_plain_field_is_not_stored() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let transport = format!("transport: {{ http: {{ url: \"{}\" }} }}", upstream.url());
    let site = site.manifest("up", &format!("{transport}\ntools:\n  echo: {{ tier: read, fields: {{ /text: plain }} }}\n"));
    let gateway = site.serve().await;
    for text in [json!({ "text": VALUE }), json!([VALUE])] {
        assert_eq!(gateway.client().call("up__echo", json!({ "text": text })).await.code(), "invalid_arguments");
    }
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "clear", "amount": -1 })).await.code(), "invalid_arguments");
    let refusals = site.of_kind("refusal");
    assert!(!refusals.iter().any(|refusal| refusal.to_string().contains(VALUE)), "{refusals:?}");
    assert_eq!(refusals[2]["args"]["text"], "clear");
}

#[tokio::test]
async fn long_member_names_are_stored_like_values_so_that_records_stay_small() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let arguments: serde_json::Map<_, _> = (0..60).map(|number| (format!("{number}{}", "x".repeat(10_000)), json!(1))).collect();
    assert_eq!(gateway.client().call("up__save", json!(arguments)).await.code(), "ok");
    site.ends(1).await;
    let length = site.of_kind("intent")[0].to_string().len();
    assert!(length < 10_000, "{length}");
}

#[tokio::test]
async fn a_secret_in_a_member_name_is_not_stored() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    for tool in ["up__save", "up__echo"] {
        gateway.client().call(tool, json!({ "text": "a", "amount": 1, VALUE: { "text": "b", VALUE: 1 } })).await;
    }
    gateway.client().call("up__echo", json!({ "amount": "refused", VALUE: 1 })).await;
    site.ends(2).await;

    let records = site.records();
    assert!(records.iter().all(|record| !record.to_string().contains(VALUE)), "{records:?}");
    assert!(site.of_kind("intent").iter().all(|intent| intent["args"].get("text").is_some()));
    assert_eq!(site.of_kind("refusal")[0]["args"].as_object().unwrap().len(), 2);
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn folders_and_files_of_the_state_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.client().call("up__echo", json!({})).await;
    for path in ["var", "var/keys", "var/audit"] {
        let mode = fs::metadata(site.path(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}: {mode:o}");
    }
    let mut files = Vec::new();
    all_files(&site.path("var/keys"), &mut files);
    for (file, _) in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{file}");
    }
    assert_eq!(fs::metadata(site.path("var/doorward.sock")).unwrap().permissions().mode() & 0o777, 0o600);
}
