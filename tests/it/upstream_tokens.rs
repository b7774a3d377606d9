//! The gateway as an OAuth client: how it proves itself, when it asks again, and what an operator reads where it gets no token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Does, Issuer, Site, Upstream, until};

const SECRET: &str = "client_secret: { from_env: UP_SECRET }, scopes: [files.read, files.write]";

async fn guarded(more: &str) -> (Issuer, Upstream, Site) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.grants("up-1", 600);
    upstream.wants("up-1");
    let site = Site::of(&upstream).env("UP_SECRET", "s3cret/of+it").manifest("up", &issuer.opens(&upstream, more));
    (issuer, upstream, site)
}

#[tokio::test]
async fn a_token_that_the_server_no_longer_takes_is_followed_by_one_new_one() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    issuer.grants("up-2", 600);
    upstream.wants("up-2");

    assert_eq!(gateway.client().call("up__pay", json!({})).await.code(), "ok");

    let shown: Vec<_> = upstream.calls().iter().map(|call| call.headers["authorization"].to_str().unwrap().to_owned()).collect();
    assert_eq!(shown, ["Bearer up-1", "Bearer up-1", "Bearer up-2"], "one more try");
    assert_eq!(issuer.asked("/token").len(), 2);
    assert_eq!(site.ends(2).await, ["ok done", "ok done"]);
}

#[tokio::test]
async fn a_server_that_takes_no_token_is_not_asked_again_and_again() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    upstream.wants("another");

    let answer = gateway.client().call("up__pay", json!({})).await;

    assert_eq!(answer.told(), "upstream_unavailable none");
    assert_eq!((upstream.calls().len(), issuer.asked("/token").len()), (3, 2));
}

#[tokio::test]
async fn a_server_that_refuses_every_token_does_not_make_us_hammer_its_issuer() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    upstream.wants("another");
    for _ in 0..10 {
        let told = gateway.client().call("up__echo", json!({})).await.told();
        assert!(matches!(&*told, "upstream_unavailable none" | "circuit_open none"), "{told}");
    }
    assert_eq!(issuer.asked("/token").len(), 2, "one in place of the first");
}

#[tokio::test]
async fn a_redirect_takes_the_credential_nowhere() {
    let thief = Issuer::start().await;
    thief.grants("up-1", 600);
    for (path, words) in [("/token", "the token endpoint refuses (HTTP 307"), ("/.well-known/oauth-authorization-server", "HTTP 307")] {
        let (issuer, upstream, site) = guarded(SECRET).await;
        issuer.answers(path, 307, json!({ "to": format!("{}{path}", thief.url()) }));
        let mut gateway = site.serve().await;
        gateway.says(words).await;
        assert!(thief.asked(path).is_empty() && upstream.journal().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_token_no_longer_than_its_own_time() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    issuer.grants("up-1", 1);
    let rest = issuer.opens(&upstream, SECRET) + "defaults: { timeout_ms: 200 }\n";
    let site = site.manifest("up", &rest);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let held = issuer.hold();

    let late = async || Some(gateway.client().call("up__pay", json!({})).await).filter(|answer| answer.code() != "ok");
    let answer = until("the end of the token", late).await;

    assert_eq!(answer.told(), "upstream_unavailable none");
    held.cancel();
    until("a token again", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
}

#[tokio::test]
async fn calls_at_once_share_one_token() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    let gateway = site.serve().await;
    let (one, two, three) = (gateway.client(), gateway.client(), gateway.client());
    let all = tokio::join!(one.call("up__echo", json!({})), two.call("up__echo", json!({})), three.call("up__echo", json!({})));
    assert_eq!([all.0.code(), all.1.code(), all.2.code()], ["ok", "ok", "ok"]);
    assert_eq!((issuer.asked("/token").len(), upstream.calls().len()), (1, 3));
}

#[tokio::test]
async fn a_key_proves_the_gateway_without_a_secret() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.grants("up-1", 600);
    upstream.wants("up-1");
    let key = rcgen::KeyPair::generate().unwrap();
    let site = Site::of(&upstream).manifest("up", &issuer.opens(&upstream, "private_key_jwt: { file: client.pem, kid: g1 }"));
    site.write("client.pem", &key.serialize_pem());
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");

    let asked = &issuer.asked("/token")[0];
    assert_eq!(asked.authorization, None);
    let member = |name: &str| asked.body.split('&').find_map(|part| part.strip_prefix(&format!("{name}="))).unwrap().to_owned();
    assert_eq!(member("client_assertion_type"), "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
    let assertion = member("client_assertion");
    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let parts: Vec<Value> = message.split('.').map(|part| serde_json::from_slice(&decode(part)).unwrap()).collect();
    assert_eq!(parts[0], json!({ "alg": "ES256", "kid": "g1", "typ": "JWT" }));
    assert_eq!((&parts[1]["iss"], &parts[1]["sub"], &parts[1]["aud"]), (&json!("gateway"), &json!("gateway"), &json!(issuer.url())));
    assert_eq!(parts[1]["exp"].as_i64().unwrap() - parts[1]["iat"].as_i64().unwrap(), 60);
    let public = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED, key.public_key_raw());
    public.verify(message.as_bytes(), &decode(signature)).unwrap();
}

#[tokio::test]
async fn an_operator_reads_why_there_is_no_token_and_never_the_secret() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    issuer.answers("/token", 401, json!({ "error": "invalid_client", "error_description": "s3cret/of+it is wrong" }));
    let mut gateway = site.serve().await;
    gateway.says("the token endpoint refuses (HTTP 401, invalid_client)").await;

    let answer = gateway.client().call("up__echo", json!({})).await;

    assert_eq!(answer.told(), "upstream_unavailable none");
    let record = site.recorded("refusal", "code", "upstream_unavailable").await;
    assert!(record["note"].as_str().unwrap().contains("no access token from"), "{record}");
    assert!(issuer.asked("/token")[0].body.ends_with("&scope=files.read%20files.write"));
    let checked = site.run(&["check", "--live"]).await;
    assert!(checked.out.contains("invalid_client"), "{}", checked.out);
    let all = format!("{:?} {} {}", site.records(), gateway.stop().await.1, checked.out);
    assert!(!all.contains("s3cret") && upstream.journal().is_empty(), "{all}");
}

#[tokio::test]
async fn a_grant_that_is_no_bearer_token_is_none() {
    for (grant, words) in [
        (json!({ "access_token": "x", "token_type": "DPoP" }), "gives no bearer token"),
        (json!({ "access_token": "a\nb", "token_type": "Bearer" }), "no token that a header can hold"),
        (json!({ "token_type": "Bearer" }), "no token that a header can hold"),
        (json!({ "access_token": "x".repeat(17_000), "token_type": "Bearer" }), "no token that a header can hold"),
        (json!(null), "gives no bearer token"),
    ] {
        let (issuer, upstream, site) = guarded(SECRET).await;
        issuer.answers("/token", 200, grant.clone());
        let mut gateway = site.serve().await;
        gateway.says(words).await;
        assert!(upstream.journal().is_empty(), "{grant}");
    }
}

#[tokio::test]
async fn the_metadata_of_the_server_may_say_the_same_as_the_manifest() {
    let (issuer, upstream, site) = guarded(SECRET).await;
    let said = json!({ "resource": upstream.url(), "authorization_servers": ["https://x.example", issuer.url()] });
    upstream.does("/.well-known/oauth-protected-resource/mcp", Does::Result(said));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn a_manifest_that_could_send_a_credential_astray_is_a_fault() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let rest = |more: &str| issuer.opens(&upstream, more);
    for (rest, words) in [
        (rest("scopes: []"), "needs either"),
        (rest(&format!("{SECRET}, private_key_jwt: {{ file: k.pem }}")), "needs either"),
        (rest("client_secret: { from_env: X }").replace(&issuer.url(), "http://as.example"), "plaintext beyond this machine"),
        (rest("client_secret: { from_env: X }, scopes: [\"a b\"]"), "is not one scope"),
        (rest("client_secret: plain"), "expected mapping start"),
    ] {
        let site = Site::of(&upstream).manifest("up", &rest);
        let done = site.run(&["serve"]).await;
        assert!(done.code != 0 && done.err.contains(words), "{words}: {done:?}");
    }
}
