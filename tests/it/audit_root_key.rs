//! An operator's root key: made, used once on a log, and asked for by every `audit verify`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use doorward::audit::note::{Signer, VerifyingKey};
use serde_json::json;

use crate::support::{Site, Upstream};

/// Makes a root key in this file; its public half.
async fn key(site: &Site, file: &str) -> VerifyingKey {
    let done = site.run(&["--json", "audit", "keygen", "--out", file]).await;
    assert_eq!((done.code, done.json()["file"].as_str()), (0, Some(file)), "{done:?}");
    done.json()["root_key"].as_str().unwrap().parse().unwrap()
}

/// A site whose configuration names the root key in `root.key`.
async fn with_root_key() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let key = key(&site, "root.key").await;
    (upstream, site.config(&format!("audit: {{ root_key: \"{key}\" }}")))
}

/// The exit code, what is wrong, and up to which record the log is vouched for.
async fn verdict(site: &Site, more: &[&str]) -> (i32, String, Option<u64>) {
    let done = site.run(&[&["--json", "audit", "verify", "--origin", "main"], more].concat()).await;
    let said = done.json()[0].clone();
    let wrong = said["findings"].as_array().unwrap().iter().map(|finding| format!("{}: {}", finding["file"], finding["what"])).collect();
    (done.code, wrong, said["vouched"]["last_seq"].as_u64())
}

fn last_record(site: &Site) -> u64 {
    site.records().last().unwrap()["seq"].as_u64().unwrap()
}

#[tokio::test]
async fn a_root_key_is_made_without_a_configuration_for_its_owner_alone_and_replaces_nothing() {
    let site = Site::empty();
    let make = ["--config", "nowhere.yaml", "audit", "keygen", "--out", "my.key", "--name", "ops"];
    let done = site.run(&make).await;
    let key: VerifyingKey = done.out.lines().next().unwrap().parse().unwrap_or_else(|_| panic!("{done:?}"));
    let kept = fs::read_to_string(site.path("my.key")).unwrap();
    assert_eq!(Signer::from_private_text(&kept).unwrap().key(), &key);
    assert_eq!((key.name(), fs::metadata(site.path("my.key")).unwrap().permissions().mode() & 0o777), ("ops", 0o600));
    assert!(!done.out.contains("PRIVATE"), "{done:?}");

    let again = site.run(&make).await;
    assert_eq!((again.code, again.err.contains("`my.key` cannot be written")), (1, true), "{again:?}");
    assert_eq!(fs::read_to_string(site.path("my.key")).unwrap(), kept);
    assert_eq!(site.run(&["audit", "keygen", "--out", "other.key", "--name", "a b"]).await.code, 2);
    assert!(!site.path("other.key").exists());
}

#[tokio::test]
async fn what_the_root_key_has_certified_is_vouched_for_through_all_later_segments() {
    let (_upstream, site) = with_root_key().await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({})).await;
    let (code, wrong, _) = verdict(&site, &[]).await;
    assert_eq!((code, wrong.contains("root.note") && wrong.contains("audit certify")), (3, true), "{wrong}");

    let done = site.run(&["audit", "certify", "--root", "root.key"]).await;

    assert_eq!(done.code, 0, "{done:?}");
    let record = site.recorded("person", "action", "audit_certify").await;
    let key = site.records()[0]["log_key"].as_str().unwrap().to_owned();
    assert!(record["subject"].as_str().unwrap().starts_with(&key) && done.out.contains(&key), "{record} {done:?}");
    assert!(gateway.stop().await.0.success());
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({})).await;
    assert!(gateway.stop().await.0.success());
    assert_eq!(verdict(&site, &[]).await, (0, String::new(), Some(last_record(&site))));
}

#[tokio::test]
async fn another_root_key_and_a_certificate_that_is_gone_are_told() {
    let (_upstream, site) = with_root_key().await;
    let other = key(&site, "other.key").await.to_string();
    let gateway = site.serve().await;
    assert_eq!(site.run(&["audit", "certify", "--root", "root.key"]).await.code, 0);
    assert!(gateway.stop().await.0.success());
    let (code, wrong, vouched) = verdict(&site, &["--root-key", &other]).await;
    assert_eq!((code, wrong.contains("root.note"), vouched), (3, true, None), "{wrong}");
    fs::remove_file(site.path("var/audit/main/root.note")).unwrap();
    let (code, wrong, vouched) = verdict(&site, &[]).await;
    assert_eq!((code, wrong.contains("root.note"), vouched), (3, true, None), "{wrong}");
}

#[tokio::test]
async fn a_log_that_nobody_writes_is_certified_and_the_command_has_its_own_record() {
    let (_upstream, site) = with_root_key().await;
    assert!(site.serve().await.stop().await.0.success());
    assert_eq!(site.run(&["audit", "certify", "--root", "root.key"]).await.code, 0);
    let told = site.run(&["--json", "audit", "find", "--kind", "person"]).await;
    assert!(told.out.contains("audit_certify") && told.out.contains("local-1"), "{told:?}");
    // The command's own log is not one that the operator vouches for.
    let all = site.run(&["audit", "verify"]).await;
    assert_eq!((all.code, all.out.contains("main: sound"), all.out.contains("local-1: sound")), (0, true, true), "{all:?}");
    assert_eq!(verdict(&site, &[]).await, (0, String::new(), Some(last_record(&site))));
}

#[tokio::test]
async fn what_is_no_key_certifies_nothing_and_is_told() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    assert!(site.serve().await.stop().await.0.success());
    site.write("no.key", "not a key\n");
    for (file, code) in [("no.key", 2), ("nowhere.key", 1)] {
        let done = site.run(&["audit", "certify", "--root", file]).await;
        assert_eq!(done.code, code, "{done:?}");
    }
    let key = key(&site, "root.key").await.to_string();
    let early = site.run(&["audit", "certify", "--root", "root.key", "--origin", "other"]).await;
    assert_eq!((early.code, early.err.contains("no key yet")), (2, true), "{early:?}");
    assert!(!site.path("var/audit/main/root.note").exists() && !site.path("var/audit/local-1").exists());

    let hash = key.split('+').nth(1).unwrap();
    let slip = site.config(&format!("audit: {{ root_key: \"{}\" }}", key.replace(hash, "00000000")));
    let done = slip.run(&["audit", "verify"]).await;
    assert_eq!((done.code, done.err.contains("audit.root_key")), (2, true), "{done:?}");
    let done = Site::empty().config("audit: { root_key: some-key }").run(&["check", "--offline"]).await;
    assert_eq!((done.code, done.err.contains("not a public key")), (2, true), "{done:?}");
}
