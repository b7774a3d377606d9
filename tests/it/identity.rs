//! Who is let in: keys, their end, and those without one.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{Ask, Site, Upstream};

fn echo() -> Ask {
    Ask::call("up__echo", json!({}))
}

const ANONYMOUS: &str = "identity: { anonymous: { agent: demo, from: loopback } }";

#[tokio::test]
async fn a_credential_that_is_not_a_key_of_ours_is_401() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let key = site.key("demo");
    let (id, secret) = key.strip_prefix("dw_").unwrap().split_once('_').unwrap();
    for shown in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {key}"),
        key.to_owned(),
        format!("Bearer dw_{id}_"),
        format!("Bearer dw_{id}_{}", "0".repeat(64)),
        format!("Bearer dw_000000000000_{secret}"),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {key}0"),
        format!("Bearer {}", key.to_uppercase()),
    ] {
        let answer = gateway.nobody().send(&echo().with("Authorization", &shown)).await;
        assert_eq!((answer.status, answer.told().as_str()), (401, "unauthenticated none"), "{shown}");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
    }
    assert_eq!(gateway.nobody().send(&echo()).await.status, 401);
    assert_eq!(gateway.nobody().send(&echo().with("Authorization", &format!("bearer  {key}"))).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_unknown_and_a_wrong_key_are_told_the_same() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let (known, unknown) =
        (site.key("demo").replace(|letter: char| letter.is_ascii_digit(), "0"), format!("dw_000000000000_{}", "0".repeat(64)));
    let mut told = Vec::new();
    for key in [&known, &unknown] {
        let mut error = gateway.nobody().send(&echo().with("Authorization", &format!("Bearer {key}"))).await.error();
        error.as_object_mut().unwrap().remove("invocation");
        told.push(error);
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn without_a_key_the_answer_comes_before_the_body() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let unfinished = echo().with("Content-Length", "1000000").body("");

    let answer = gateway.nobody().open(&unfinished).await.answer().await;

    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"));
}

#[tokio::test]
async fn the_keyless_are_let_in_only_from_here_and_only_in_person() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config(ANONYMOUS);
    let gateway = site.serve().await;
    assert_eq!(gateway.nobody().send(&echo()).await.code(), "ok");
    for header in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"] {
        let answer = gateway.nobody().send(&echo().with(header, "127.0.0.1")).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{header}");
    }
    assert_eq!(gateway.client().send(&echo().with("X-Forwarded-For", "10.0.0.1")).await.code(), "ok");
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn a_credential_that_cannot_be_read_is_not_the_same_as_none() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config(ANONYMOUS);
    let gateway = site.serve().await;
    let twice = echo().with("Authorization", "Bearer dw_a_b").with("Authorization", "Bearer dw_a_b");
    for ask in [echo().with("Authorization", "Bearer dw_a_b"), twice, echo().with("Authorization", "Bearer d\u{fc}")] {
        assert_eq!(gateway.nobody().send(&ask).await.status, 401, "{:?}", ask.headers);
    }
    assert!(upstream.calls().is_empty());
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_while_the_gateway_runs() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let added = site.run(&["--json", "agent", "add", "demo"]).await.json();
    let ask = echo().with("Authorization", &format!("Bearer {}", added["key"].as_str().unwrap()));
    assert_eq!(gateway.nobody().send(&ask).await.code(), "ok");

    assert_eq!(site.run(&["agent", "revoke", "demo"]).await.code, 0);

    assert_eq!(gateway.nobody().send(&ask).await.status, 401);
    assert_eq!(gateway.client().send(&echo()).await.code(), "ok", "a key of the file is not the database's");
    site.recorded("person", "action", "agent_revoke").await;
}

#[tokio::test]
async fn a_key_that_is_revoked_while_a_fault_stands_in_the_policy_is_refused_too() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let added = site.run(&["--json", "agent", "add", "demo"]).await.json();
    let ask = echo().with("Authorization", &format!("Bearer {}", added["key"].as_str().unwrap()));
    site.write("policies/policy.csv", "nonsense\n");
    assert_eq!(gateway.nobody().send(&ask).await.code(), "ok");

    site.run(&["agent", "revoke", "demo"]).await;

    assert_eq!(gateway.nobody().send(&ask).await.status, 401);
}

#[tokio::test]
async fn a_rotated_key_takes_the_place_of_the_others() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let shown = async |verb: &str| {
        let made = site.run(&["--json", "agent", verb, "demo"]).await.json();
        echo().with("Authorization", &format!("Bearer {}", made["key"].as_str().unwrap()))
    };
    let old = shown("add").await;
    let new = shown("rotate").await;
    assert_eq!(gateway.nobody().send(&old).await.status, 401);
    assert_eq!(gateway.nobody().send(&new).await.code(), "ok");
    let listed = site.run(&["agent", "list"]).await;
    assert!(listed.out.contains("demo") && !listed.out.contains("dw_"), "{}", listed.out);
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_and_whoever_has_a_key_is_not() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).limits("requests: { per_agent: 1000/s, failures_per_peer: 3/h }\n");
    let gateway = site.serve().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.nobody().send(&echo()).await.status);
    }
    assert_eq!(statuses, [401, 429, 429], "a burst of one, as the rate gives less than one in a second");
    assert_eq!(gateway.client().send(&echo()).await.code(), "ok");
}

#[tokio::test]
async fn plaintext_beyond_this_machine_is_refused_at_the_start() {
    for address in ["0.0.0.0:0", "\"[::]:0\""] {
        let site = Site::empty().address(address);
        let done = site.run(&["serve"]).await;
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.err.contains("reachable from other machines") && done.err.contains("listen.tls"), "{}", done.err);
    }
}

#[tokio::test]
async fn with_a_certificate_the_same_path_is_served_over_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).address("0.0.0.0:0").listen("tls: { certificate: cert.pem, key: key.pem }");
    site.write("cert.pem", &made.cert.pem());
    site.write("key.pem", &made.signing_key.serialize_pem());
    let gateway = site.serve().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let socket = TcpStream::connect(("127.0.0.1", gateway.address.port())).await.unwrap();
    let socket = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();

    let answer = gateway.client().open_on(socket, &echo()).await.answer().await;

    assert_eq!(answer.code(), "ok");
    assert!(gateway.said().contains("listening on https://"));
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_nothing() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("tls: { certificate: cert.pem, key: key.pem }");
    site.write("cert.pem", &made.cert.pem());
    site.write("key.pem", &made.signing_key.serialize_pem());
    let gateway = site.serve().await;
    let rest = gateway.client().open(&echo()).await.rest().await;
    assert!(!rest.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&rest));
    assert!(upstream.calls().is_empty());
}
