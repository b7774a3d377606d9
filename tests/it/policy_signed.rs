//! Policies that need signatures before they come into force.

use std::fs;

use serde_json::json;

use crate::support::{Serving, Site, Upstream, until};

const ALLOW: &str = "p, R1, agent:demo, up__*, reversible, -, allow\n";
const DENY: &str = "p, D1, agent:demo, up__*, any, -, deny\n";

async fn code(gateway: &Serving) -> String {
    gateway.client().call("up__echo", json!({})).await.code()
}

async fn becomes(gateway: &Serving, wanted: &str) {
    until(&format!("the answer {wanted}"), async || (code(gateway).await == wanted).then_some(())).await;
}

/// Makes a key for each, and the configuration that asks for their signatures.
async fn signed(site: Site, names: &[&str]) -> Site {
    let mut keys = Vec::new();
    for name in names {
        let done = site.run(&["--json", "policy", "keygen", name, "--out", &format!("{name}.key")]).await;
        assert_eq!(done.code, 0, "{done:?}");
        keys.push(format!("\"{}\"", done.json()["key"].as_str().unwrap()));
    }
    site.config(&format!("policy: {{ signed_by: [{}], signatures: {} }}", keys.join(", "), names.len()))
}

async fn sign(site: &Site, name: &str) {
    let done = site.run(&["policy", "sign", "--key", &format!("{name}.key")]).await;
    assert_eq!(done.code, 0, "{done:?}");
}

#[tokio::test]
async fn only_what_both_have_signed_comes_into_force() {
    let upstream = Upstream::start().await;
    let site = signed(Site::of(&upstream).policy(ALLOW), &["alice", "bob"]).await;
    let unsigned = site.run(&["check"]).await;
    assert_eq!((unsigned.code, unsigned.err.contains("the policy is not signed")), (2, true), "{unsigned:?}");
    sign(&site, "alice").await;
    let one = site.run(&["check"]).await;
    assert_eq!((one.code, one.err.contains("1, and 2 are needed")), (2, true), "{one:?}");
    sign(&site, "bob").await;
    // Twice is no third.
    sign(&site, "alice").await;
    let (signatures, gateway) = (fs::read_to_string(site.path("policies/bundle.sig")).unwrap(), site.serve().await);
    assert_eq!((signatures.lines().count(), code(&gateway).await), (5, "ok".to_owned()), "{signatures}");

    site.write("policies/policy.csv", DENY);
    let refused = site.recorded("policy_change", "action", "reload_refused").await;
    assert!(refused["note"].as_str().unwrap().contains("another policy than the one that is here now"), "{refused}");
    assert_eq!(code(&gateway).await, "ok", "the running policy stays");
    // The signature of a key that nobody named counts for nothing, and who looks on needs none.
    assert_eq!(site.run(&["policy", "keygen", "mallory", "--out", "mallory.key"]).await.code, 0);
    for name in ["mallory", "bob"] {
        sign(&site, name).await;
    }
    assert_eq!((site.run(&["check"]).await.code, site.run(&["policy", "matrix"]).await.code), (2, 0));
    assert_eq!(code(&gateway).await, "ok");
    sign(&site, "alice").await;
    becomes(&gateway, "tool_not_found").await;
    // A row that only looks different is the same policy; another tier of a tool is no edit of it.
    site.write("policies/policy.csv", &format!("# a word about it\n{DENY}"));
    assert_eq!(site.run(&["check"]).await.code, 0);
}
