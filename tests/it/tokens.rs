//! Access tokens of an authorization server: which are taken, which are not, and what becomes of the keys they are checked with.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac::{HMAC_SHA256, HMAC_SHA384, HMAC_SHA512};
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::seal::random;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::support::issuer::{RESOURCE, Signer, encoded, now, with};
use crate::support::stream::Stream;
use crate::support::{Answer, Ask, Issuer, Serving, Site, Upstream, until};

fn bearer(token: &str) -> Ask {
    Ask::call("up__echo", json!({})).with("Authorization", &format!("Bearer {token}"))
}

async fn shown(gateway: &Serving, token: &str) -> Answer {
    gateway.nobody().send(&bearer(token)).await
}

/// A gateway that takes the tokens of an authorization server.
async fn trusting(more: &str) -> (Issuer, Upstream, Site, Serving) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let site = Site::of(&upstream).config(&issuer.entry(more));
    let gateway = site.serve().await;
    (issuer, upstream, site, gateway)
}

#[tokio::test]
async fn a_token_of_a_known_issuer_is_the_agent_that_it_names() {
    let (issuer, upstream, site, gateway) = trusting("").await;
    let actors = json!({ "sub": "planner", "act": { "sub": "front-desk" } });
    let token = issuer.token(&json!({ "sub": "alice@example.org", "act": actors }));

    assert_eq!(shown(&gateway, &token).await.code(), "ok");
    assert_eq!(shown(&gateway, &token).await.code(), "ok", "as it is remembered");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "keys go on beside tokens");

    let record = site.recorded("intent", "on_behalf_of", "alice@example.org").await;
    assert_eq!((&record["agent"], &record["actors"]), (&json!("demo"), &json!(["planner", "front-desk"])));
    assert!(record["credential_id"].as_str().unwrap().starts_with("jwt:"), "{record}");
    let ends = site.recorded("outcome", "on_behalf_of", "alice@example.org").await;
    assert_eq!(ends["outcome"], "ok");
    assert_eq!(upstream.calls().len(), 3);
}

#[tokio::test]
async fn the_agent_is_named_by_the_claim_that_the_entry_says() {
    let (issuer, _upstream, _site, gateway) = trusting(", agent_claim: robot").await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({ "robot": "demo", "client_id": "x" }))).await.code(), "ok");
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.status, 401, "no other claim is taken in its place");
    let (issuer, _upstream, _site, gateway) = trusting("").await;
    for (claims, status) in [
        (json!({ "client_id": null, "azp": "demo", "sub": "x" }), 200),
        (json!({ "client_id": null, "sub": "demo" }), 200),
        (json!({ "client_id": "x", "azp": "demo", "sub": "demo" }), 401),
    ] {
        assert_eq!(shown(&gateway, &issuer.token(&claims)).await.status, status, "{claims}");
    }
}

/// What it is, the token, and what is wrong with it as the record says.
type Forged = (&'static str, String, &'static str);

/// Tokens whose signature, header or form must not be taken.
fn unproved(issuer: &Issuer) -> Vec<Forged> {
    let (kid, signer) = issuer.signer();
    let (header, claims) = (issuer.header(), issuer.claims());
    let of = |other: Value| issuer.token(&other);
    let headed = |other: Value| signer.sign(&with(header.clone(), &other), &claims);
    let sound = of(json!({}));
    let (message, signature) = sound.rsplit_once('.').unwrap();
    let unsigned = |algorithm: &str| format!("{}.{}.", encoded(json!({ "alg": algorithm }).to_string()), encoded(claims.to_string()));
    let hmac = |secret: &[u8]| {
        let message = format!("{}.{}", encoded(json!({ "alg": "HS256", "kid": kid }).to_string()), encoded(claims.to_string()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", encoded(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    };
    let public = signer.public(&kid);
    let point =
        [4].into_iter().chain(["x", "y"].into_iter().flat_map(|part| URL_SAFE_NO_PAD.decode(public[part].as_str().unwrap()).unwrap()));
    let stranger = Signer::p256();
    let own_key = json!({ "alg": "ES256", "jwk": stranger.public("k1"), "kid": "k1", "jku": "http://127.0.0.1:1/jwks" });
    vec![
        ("no algorithm", unsigned("none"), "its algorithm is not allowed"),
        ("no algorithm, spelt otherwise", unsigned("nOnE"), "its algorithm is not allowed"),
        ("the signature left out", format!("{message}."), "its signature is wrong"),
        ("the public key as an HMAC secret", hmac(&point.collect::<Vec<_>>()), "its algorithm is not allowed"),
        ("the key set as an HMAC secret", hmac(public.to_string().as_bytes()), "its algorithm is not allowed"),
        ("an empty HMAC secret", hmac(b""), "its algorithm is not allowed"),
        ("another algorithm than the key's", headed(json!({ "alg": "RS256" })), "its issuer has no such key"),
        ("an algorithm that does not exist", headed(json!({ "alg": "ES257" })), "its algorithm is not allowed"),
        ("a key of a stranger under the issuer's name", stranger.sign(&header, &claims), "its signature is wrong"),
        ("a key that the token brings along", stranger.sign(&own_key, &claims), "its signature is wrong"),
        ("an unknown key", headed(json!({ "kid": "k9" })), "its issuer has no such key"),
        ("a path as the key's name", headed(json!({ "kid": "../../../../etc/passwd" })), "its issuer has no such key"),
        ("a key's name with a null byte", headed(json!({ "kid": "k1\u{0}" })), "a claim cannot be read"),
        ("a key's name that is a list", headed(json!({ "kid": ["k1"] })), "a claim cannot be read"),
        ("a list of algorithms", headed(json!({ "alg": ["ES256", "none"] })), "a claim cannot be read"),
        (
            "a certificate that the token brings along",
            stranger.sign(&with(header.clone(), &json!({ "x5u": "http://127.0.0.1:1/x", "x5c": [encoded("x")] })), &claims),
            "its signature is wrong",
        ),
        (
            "two algorithms",
            signer.sign_text(&format!("{{\"alg\":\"none\",{}", &header.to_string()[1..]), &claims.to_string()),
            "its header or its claims are not one JSON object",
        ),
        ("an encrypted one", format!("{sound}.{}.{}", encoded("x"), encoded("y")), "it is neither an API key nor a signed token"),
        (
            "the signature of another token",
            format!("{message}.{}", of(json!({ "jti": "2" })).rsplit_once('.').unwrap().1),
            "its signature is wrong",
        ),
        (
            "other claims under a sound signature",
            format!(
                "{}.{}.{signature}",
                encoded(header.to_string()),
                encoded(with(claims.clone(), &json!({ "client_id": "other" })).to_string())
            ),
            "its signature is wrong",
        ),
        (
            "a header that must be understood",
            headed(json!({ "crit": ["b64"], "b64": false })),
            "its header says that it must be understood otherwise",
        ),
        ("a token of another kind", headed(json!({ "typ": "logout+jwt" })), "it is a token of another kind"),
        ("two parts", message.to_owned(), "it is neither an API key nor a signed token"),
        ("four parts", format!("{sound}.x"), "it is neither an API key nor a signed token"),
        ("padding", format!("{message}.{signature}=="), "its signature is wrong"),
        ("no token at all", "x".to_owned(), "it is neither an API key nor a signed token"),
        ("one as long as a book", format!("{sound}{}", "A".repeat(20_000)), "it is longer than a token may be"),
    ]
}

/// Tokens with a sound signature under claims that must not be taken.
fn unfit(issuer: &Issuer) -> Vec<Forged> {
    let of = |other: Value| issuer.token(&other);
    let doubled = issuer.claims().to_string().replacen('{', "{\"aud\":\"https://other.example\",", 1);
    let doubled = issuer.signer().1.sign_text(&issuer.header().to_string(), &doubled);
    vec![
        ("another issuer", of(json!({ "iss": "https://other.example" })), "its issuer is not one of `identity.jwt`"),
        ("the issuer with a slash", of(json!({ "iss": format!("{}/", issuer.url()) })), "its issuer is not one of `identity.jwt`"),
        ("no issuer", of(json!({ "iss": null })), "it names no issuer"),
        ("another audience", of(json!({ "aud": "https://other.example/mcp" })), "its audience is not this gateway"),
        ("an audience that begins as ours", of(json!({ "aud": format!("{RESOURCE}.evil.example") })), "its audience is not this gateway"),
        ("the origin as the audience", of(json!({ "aud": "https://gateway.example" })), "its audience is not this gateway"),
        ("no audience", of(json!({ "aud": null })), "its audience is not this gateway"),
        ("an empty list of audiences", of(json!({ "aud": [] })), "its audience is not this gateway"),
        ("the audience twice", doubled, "its header or its claims are not one JSON object"),
        ("expired", of(json!({ "exp": now() - 31 })), "it has expired"),
        ("no end", of(json!({ "exp": null })), "it never expires"),
        ("an end in words", of(json!({ "exp": "9999999999" })), "a time in it cannot be read"),
        ("an end beyond all times", of(json!({ "exp": 1e300 })), "a time in it cannot be read"),
        ("not valid yet", of(json!({ "nbf": now() + 90 })), "it is not valid yet"),
        ("an agent that is not known", of(json!({ "client_id": "stranger" })), "the agent that it names is not known"),
        ("an agent with a role's name", of(json!({ "client_id": "role:admin" })), "the agent that it names is not known"),
        ("no agent", of(json!({ "client_id": null, "sub": null })), "it names no agent"),
        ("a person with a line break", of(json!({ "sub": "a\nb" })), "a claim cannot be read"),
        (
            "bound to a key of its sender",
            of(json!({ "cnf": { "jkt": "x" } })),
            "it is bound to a key of its sender, which is not checked here",
        ),
    ]
}

#[tokio::test]
async fn a_forged_token_is_401_and_the_record_says_why() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    // Each refusal in a record of its own.
    let limits = "requests: { per_agent: 1000/s, failures_per_peer: 1000/s }\nfloods: { first: 1000 }\n";
    let site = Site::of(&upstream).limits(limits).config(&issuer.entry(""));
    let gateway = site.serve().await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok", "the table would prove nothing");
    let mut told = Vec::new();
    for (what, token, why) in unproved(&issuer).into_iter().chain(unfit(&issuer)) {
        let answer = shown(&gateway, &token).await;
        let mut error = answer.error();
        assert_eq!((answer.status, error["code"].as_str()), (401, Some("unauthenticated")), "{what}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\", resource_metadata="), "{what}: {challenge}");
        let invocation = error.as_object_mut().unwrap().remove("invocation").unwrap();
        let record = site.recorded("refusal", "call_id", invocation.as_str().unwrap()).await;
        assert_eq!(record["note"], format!("a token was refused: {why}"), "{what}");
        told.push(error);
    }
    assert!(told.len() >= 30 && told.iter().all(|error| *error == told[0]), "one answer for every fault: {told:?}");
    assert_eq!(upstream.calls().len(), 1);
}

/// What somebody could take for a secret who knows the public half of an RSA key.
fn as_secrets(signer: &Signer) -> Vec<Vec<u8>> {
    let Signer::Rsa(key) = signer else { panic!("no RSA key") };
    let public = signer.public("k1");
    let pem = |label: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let (pkcs1, spki) = (key.public_key().as_ref(), spki.as_ref());
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    let texts = [pem("PUBLIC KEY", spki), pem("PUBLIC KEY", spki).trim().to_owned(), pem("RSA PUBLIC KEY", pkcs1), public.to_string()];
    let texts = texts.into_iter().chain([public["n"].as_str().unwrap().to_owned()]).map(String::into_bytes);
    [spki.to_vec(), pkcs1.to_vec(), modulus].into_iter().chain(texts).collect()
}

#[tokio::test]
async fn the_public_half_of_an_rsa_key_is_never_a_secret() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    issuer.rotate("k1", Signer::rsa());
    let limits = "requests: { per_agent: 1000/s, failures_per_peer: 1000/s }\n";
    let site = Site::of(&upstream).limits(limits).config(&issuer.entry(""));
    let gateway = site.serve().await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok");
    let (signer, claims) = (issuer.signer().1, encoded(issuer.claims().to_string()));
    for secret in as_secrets(&signer) {
        for (word, algorithm) in [("HS256", HMAC_SHA256), ("HS384", HMAC_SHA384), ("HS512", HMAC_SHA512), ("RS256", HMAC_SHA256)] {
            let message = format!("{}.{claims}", encoded(json!({ "alg": word, "typ": "JWT", "kid": "k1" }).to_string()));
            let signature = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(algorithm, &secret), message.as_bytes());
            let token = format!("{message}.{}", encoded(signature));
            assert_eq!(shown(&gateway, &token).await.status, 401, "{word} with {} bytes", secret.len());
        }
    }
    // One of the same family: the set says which algorithm the key is for.
    let claimed = signer.sign(&with(issuer.header(), &json!({ "alg": "PS256" })), &issuer.claims());
    assert_eq!(shown(&gateway, &claimed).await.status, 401);
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_server_for_some_agents_does_not_speak_for_the_others() {
    let (issuer, upstream, site, gateway) = trusting(", agents: [demo]").await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok");
    let answer = shown(&gateway, &issuer.token(&json!({ "client_id": "other" }))).await;
    assert_eq!((answer.status, answer.error()["message"].as_str()), (401, Some("the access token is not accepted here")));
    let record = site.recorded("refusal", "code", "unauthenticated").await;
    assert_eq!(record["note"], "a token was refused: its issuer does not speak for the agent that it names");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn whoever_comes_with_a_new_key_waits_until_the_set_is_there_and_strangers_have_it_fetched_once() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let limits = "requests: { per_agent: 1000/s, failures_per_peer: 1000/s }\n";
    let site = Site::of(&upstream).limits(limits).config(&issuer.entry(""));
    let gateway = site.serve().await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok");
    let fetched = issuer.asked("/jwks").len();
    issuer.rotate("k2", Signer::p256());
    let go = issuer.hold();
    let send = |token: String| {
        let client = gateway.nobody();
        tokio::spawn(async move { client.send(&bearer(&token)).await.status })
    };
    let mut ours: Vec<_> = vec![send(issuer.token(&json!({ "jti": "0" })))];
    issuer.got("/jwks", fetched + 1).await;
    ours.extend((1..8).map(|number| send(issuer.token(&json!({ "jti": number.to_string() })))));
    let (_, signer) = issuer.signer();
    let stranger = |number: u32| signer.sign(&with(issuer.header(), &json!({ "kid": format!("x{number}") })), &issuer.claims());
    let strangers: Vec<_> = (0..40).map(|number| send(stranger(number))).collect();
    // Whoever is refused without waiting has been by now.
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");

    go.cancel();

    for one in ours {
        assert_eq!(one.await.unwrap(), 200);
    }
    for one in strangers {
        assert_eq!(one.await.unwrap(), 401);
    }
    assert_eq!(issuer.asked("/jwks").len(), fetched + 1);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let site = Site::of(&upstream).config(&issuer.entry(", leeway_s: 0"));
    let gateway = site.serve().await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok", "the first list is no change");
    let token = issuer.token(&json!({ "exp": now() + 3 }));
    let client = crate::support::Client::new(gateway.address, Some(token.clone()));
    let session = client.begin("2025-06-18", json!({})).await;
    let stream = Stream::open(&client, &session.get()).await;
    let listen = Ask::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listening = Stream::open(&client, &listen).await;
    assert_eq!(listening.message().await["method"], "notifications/subscriptions/acknowledged");
    until("the end of the token", async || (shown(&gateway, &token).await.status == 401).then_some(())).await;

    site.write("policies/policy.csv", "p, R9, agent:demo, up__*, reversible, -, allow\n");

    let told: Vec<Value> = [stream.rest().await, listening.rest().await].concat();
    assert!(told.iter().all(|message| message["method"] != "notifications/tools/list_changed"), "{told:?}");
}

#[tokio::test]
async fn a_changed_bit_is_never_taken() {
    let (issuer, upstream, _site, gateway) = trusting("").await;
    let token = issuer.token(&json!({}));
    assert_eq!(shown(&gateway, &token).await.code(), "ok");
    let mut seed = [0; 32];
    random(&mut seed).unwrap();
    println!("seed {seed:?}");
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let strategy = (0..token.len(), "[A-Za-z0-9_.-]");
    for _ in 0..300 {
        let (at, letter): (usize, String) = strategy.new_tree(&mut runner).unwrap().current();
        let mut other = token.clone();
        other.replace_range(at..=at, &letter);
        let status = shown(&gateway, &other).await.status;
        assert_eq!(status, if other == token { 200 } else { 401 }, "letter {at} as {letter}: {other}");
    }
    assert!(!upstream.calls().is_empty());
}

#[tokio::test]
async fn a_clock_that_is_a_little_off_does_no_harm() {
    let (issuer, _upstream, _site, gateway) = trusting("").await;
    for claims in
        [json!({ "exp": now() - 5 }), json!({ "nbf": now() + 20 }), json!({ "exp": now() + 60, "aud": ["https://x.example", RESOURCE] })]
    {
        assert_eq!(shown(&gateway, &issuer.token(&claims)).await.code(), "ok", "{claims}");
    }
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_it_has_expired() {
    let (issuer, _upstream, _site, gateway) = trusting(", leeway_s: 0").await;
    let token = issuer.token(&json!({ "exp": now() + 2 }));
    assert_eq!(shown(&gateway, &token).await.code(), "ok");
    until("the end of the token", async || (shown(&gateway, &token).await.status == 401).then_some(())).await;
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_is_forgotten() {
    let (issuer, _upstream, _site, gateway) = trusting("").await;
    let old = issuer.token(&json!({}));
    assert_eq!(shown(&gateway, &old).await.code(), "ok");
    issuer.rotate("k2", Signer::rsa());

    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.code(), "ok");

    assert_eq!(shown(&gateway, &old).await.status, 401, "its key is gone, remembered or not");
    let fetched = issuer.asked("/jwks").len();
    for kid in ["k3", "k4", "k5"] {
        issuer.rotate(kid, Signer::p256());
        assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.status, 401);
    }
    assert_eq!(issuer.asked("/jwks").len(), fetched, "strangers' keys have the set fetched only now and then");
}

#[tokio::test]
async fn an_issuer_that_is_down_locks_nobody_out_for_a_while() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let url = issuer.url();
    let entry = format!("{{ issuer: \"{url}\", jwks: {{ url: \"{url}/jwks\", keep_s: 3 }} }}");
    let site = Site::of(&upstream).config(&format!("identity: {{ resource: \"{RESOURCE}\", jwt: [{entry}] }}"));
    let gateway = site.serve().await;
    let token = issuer.token(&json!({}));
    assert_eq!(shown(&gateway, &token).await.code(), "ok");
    issuer.fail(true);
    assert_eq!(shown(&gateway, &issuer.token(&json!({ "jti": "2" }))).await.code(), "ok");

    let refused = until("the keys are too old", async || Some(shown(&gateway, &token).await).filter(|answer| answer.status != 200)).await;

    assert_eq!((refused.status, refused.code().as_str()), (503, "upstream_unavailable"));
    assert!(refused.header("retry-after").is_some() && refused.header("www-authenticate").is_none());
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "keys need no issuer");
}

#[tokio::test]
async fn keys_can_stand_in_a_file() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let entry = format!("{{ issuer: \"{}\", jwks: {{ file: keys.json }} }}", issuer.url());
    let site = Site::of(&upstream).config(&format!("identity: {{ resource: \"{RESOURCE}\", jwt: [{entry}] }}"));
    let missing = site.run(&["serve"]).await;
    assert!(missing.code != 0 && missing.err.contains("keys.json"), "{missing:?}");
    site.write("keys.json", &json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "k1" }] }).to_string());
    let secret = site.run(&["serve"]).await;
    assert!(secret.code != 0 && secret.err.contains("no public key"), "{secret:?}");
    site.write("keys.json", &issuer.keys().to_string());
    let mut gateway = site.serve().await;
    let token = issuer.token(&json!({}));
    assert_eq!(shown(&gateway, &token).await.code(), "ok");

    site.write("keys.json", "nonsense");
    gateway.signal(rustix::process::Signal::HUP);
    gateway.says("keys.json").await;

    assert_eq!(shown(&gateway, &token).await.status, 503, "keys that cannot be read let nobody in");
    assert!(issuer.asked("/jwks").is_empty());
}

#[tokio::test]
async fn a_token_holds_only_as_long_as_its_agent_and_its_entry() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let rows = "p, R1, role:any, up__*, reversible, -, allow\n";
    let site = Site::of(&upstream).policy(rows).config(&issuer.entry(""));
    let mut gateway = site.serve().await;
    site.run(&["agent", "add", "bot"]).await;
    let (bot, demo) = (issuer.token(&json!({ "client_id": "bot" })), issuer.token(&json!({})));
    assert_eq!((shown(&gateway, &bot).await.code(), shown(&gateway, &demo).await.code()), ("ok".into(), "ok".into()));

    site.run(&["agent", "revoke", "bot"]).await;
    assert_eq!((shown(&gateway, &bot).await.status, shown(&gateway, &demo).await.status), (401, 200));

    let text = std::fs::read_to_string(site.path("doorward.yaml")).unwrap();
    site.write("doorward.yaml", text.split("identity:").next().unwrap());
    gateway.signal(rustix::process::Signal::HUP);
    gateway.says("are refused").await;
    assert_eq!(shown(&gateway, &demo).await.status, 401);
    let words = format!("tokens of {} are refused", issuer.url());
    let told = async || site.of_kind("policy_change").iter().find(|record| record["note"].as_str().unwrap().contains(&words)).cloned();
    assert_eq!(until("the record of the reload", told).await["subject"], "identity");
}

#[tokio::test]
async fn a_session_of_one_person_is_not_another_persons() {
    let (issuer, _upstream, _site, gateway) = trusting("").await;
    let client = |person: &str| crate::support::Client::new(gateway.address, Some(issuer.token(&json!({ "sub": person }))));
    let session = client("alice").initialize("2025-11-25").await;
    assert_eq!(session.send("ping", &json!({})).await.status, 200);

    let stolen = client("bob").send(&session.ask("ping", &json!({}))).await;

    assert_eq!((stolen.status, stolen.code().as_str()), (404, "session_invalid"));
}

#[tokio::test]
async fn no_part_of_a_token_gets_anywhere() {
    let (issuer, upstream, site, gateway) = trusting("").await;
    let sound = issuer.token(&json!({ "jti": "sound" }));
    let expired = issuer.token(&json!({ "exp": 1 }));
    assert_eq!(shown(&gateway, &sound).await.code(), "ok");
    let refused = shown(&gateway, &expired).await;
    site.recorded("refusal", "code", "unauthenticated").await;
    site.recorded("outcome", "outcome", "ok").await;

    let records = format!("{:?}", site.records());
    let (_, said, out) = gateway.stop().await;

    for token in [&sound, &expired] {
        for part in token.split('.').skip(1) {
            for (place, text) in [
                ("record", &records),
                ("log", &said),
                ("out", &out),
                ("error", &refused.text()),
                ("upstream", &format!("{:?}", upstream.journal())),
            ] {
                assert!(!text.contains(part), "{place}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_set_that_never_ends_or_redirects_is_none() {
    let (issuer, _upstream, mut gateway) = {
        let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
        issuer.answers("/jwks", 200, json!({ "keys": [issuer.keys()["keys"][0]], "more": "x".repeat(300 * 1024) }));
        let site = Site::of(&upstream).config(&issuer.entry(""));
        let gateway = site.serve().await;
        (issuer, (upstream, site), gateway)
    };
    gateway.says("cannot be fetched").await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.status, 503);
    issuer.answers("/jwks", 302, issuer.keys());
    issuer.got("/jwks", 2).await;
    assert_eq!(shown(&gateway, &issuer.token(&json!({}))).await.status, 503);
}

#[tokio::test]
async fn check_shows_whose_tokens_are_taken_with_which_keys() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::start().await);
    let site = Site::of(&upstream).config(&issuer.entry(", scopes: [tools], agent_claim: robot"));
    let done = site.run(&["check", "--live"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    for words in [&*issuer.url(), RESOURCE, "robot", "tools", "k1 (ES256)"] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    issuer.fail(true);
    let done = site.run(&["check", "--live"]).await;
    assert!(done.out.contains("warning: ") && done.out.contains("cannot be fetched: HTTP 503"), "{}", done.out);
    let listed = site.run(&["--json", "check", "--offline"]).await.json();
    assert_eq!((&listed["issuers"][0]["issuer"], &listed["issuers"][0]["keys"]), (&json!(issuer.url()), &Value::Null));
}

#[tokio::test]
async fn an_entry_that_could_let_the_wrong_in_is_refused_with_its_place() {
    let entry =
        |members: &str| format!("identity:\n  resource: {RESOURCE}\n  jwt:\n    - {{ issuer: \"https://as.example\", {members} }}\n");
    let url = "jwks: { url: \"https://as.example/jwks\" }";
    for (text, place) in [
        (format!("identity:\n  jwt: [{{ issuer: \"https://as.example\", {url} }}]\n"), "`identity.jwt` needs `identity.resource`"),
        (entry(url).replace(RESOURCE, "http://gateway.example/mcp"), "is plaintext beyond this machine"),
        (entry(url).replace(RESOURCE, &format!("{RESOURCE}/")), "ends with a slash"),
        (entry(url).replace("https://as.example\"", "http://as.example\""), "is plaintext beyond this machine"),
        (entry("jwks: { url: \"http://as.example/jwks\" }"), "is plaintext beyond this machine"),
        (entry("jwks: {}"), "neither one file nor one URL"),
        (entry("jwks: { url: \"https://as.example/jwks\", file: keys.json }"), "neither one file nor one URL"),
        (entry(&format!("{url}, algorithms: [HS256]")), "HS256"),
        (entry(&format!("{url}, algorithms: [none]")), "none"),
        (entry(&format!("{url}, algorithms: []")), "no algorithm is allowed"),
        (entry(&format!("{url}, scopes: [\"a b\"]")), "is not one scope"),
        (entry(&format!("{url}, agents: [\"role:admin\"]")), "role:admin"),
        (entry(&format!("{url}, leeway_s: 3600")), "out of bounds"),
        (entry(&format!("{url} }}\n    - {{ issuer: \"https://as.example\", {url}")), "two entries have the issuer"),
    ] {
        let done = Site::empty().config(&text).run(&["check", "--offline"]).await;
        assert_eq!(done.code, 2, "{text}: {done:?}");
        assert!(done.err.contains(place) && done.err.contains("doorward.yaml:"), "{text}: {}", done.err);
    }
}

/// The YAML of the documentation in which this word stands.
fn documented(word: &str) -> String {
    let text = std::fs::read_to_string(crate::support::site::shipped("docs/operators.md")).unwrap();
    let mut blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(word)).unwrap().to_owned()
}

#[tokio::test]
async fn the_examples_of_the_documentation_are_sound() {
    let issuer = Issuer::start().await;
    let site = Site::empty();
    site.write("doorward.yaml", &documented("  jwt:"));
    site.write("ci-keys.json", &issuer.keys().to_string());
    site.write("tool-manifests/tickets.yaml", &documented("oauth:"));
    let done = site.run(&["--json", "check", "--offline"]).await;
    assert_eq!((done.code, done.err.as_str()), (3, ""), "its tool is not pinned, and nothing else is wrong: {done:?}");
    let issuers = &done.json()["issuers"];
    assert_eq!((&issuers[0]["issuer"], &issuers[1]["keys"]), (&json!("https://login.example"), &json!(["k1 (ES256)"])));
}
