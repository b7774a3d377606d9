//! What `audit verify` and `audit prove` make of what is brought from elsewhere, on logs that a gateway wrote with a file as its anchor.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::site::Done;
use crate::support::{Site, Upstream};

/// A log of two lives, each a sealed segment, and a checkpoint of each in `anchors`; the first record of the second segment.
async fn log() -> (Upstream, Site, u64) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("audit: { anchors: [ { file: { path: anchors } } ] }").meddled_with();
    live(&site).await;
    let second = last_record(&site) + 1;
    live(&site).await;
    (upstream, site, second)
}

async fn live(site: &Site) {
    let gateway = site.serve().await;
    for number in 0..3 {
        assert_eq!(gateway.client().call("up__save", json!({ "number": number })).await.code(), "ok");
    }
    assert!(gateway.stop().await.0.success());
}

fn last_record(site: &Site) -> u64 {
    site.records().last().unwrap()["seq"].as_u64().unwrap()
}

/// The key of the segment that begins with this record.
fn key(site: &Site, first: u64) -> String {
    site.records()[first as usize - 1]["log_key"].as_str().unwrap().to_owned()
}

async fn verify(site: &Site, more: &[&str]) -> (i32, Value) {
    let done = site.run(&[&["--json", "audit", "verify"], more].concat()).await;
    (done.code, done.json()[0].clone())
}

fn change(site: &Site, first: u64, change: impl FnOnce(String) -> String) {
    let file = site.path(&format!("var/audit/main/segments/{first:020}.jsonl"));
    fs::write(&file, change(fs::read_to_string(&file).unwrap())).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn an_anchor_finds_records_cut_off_and_an_old_copy_put_back_which_the_disk_alone_does_not() {
    let (_upstream, site, second) = log().await;
    let last = last_record(&site);
    let (code, said) = verify(&site, &["--anchor", "anchors"]).await;
    assert_eq!((code, &said["anchored"]["last_seq"], &said["last_seq"]), (0, &json!(last), &json!(last)), "{said}");

    // All that the disk held after the first life, put back.
    let (home, kept) = (site.path("var/audit/main"), site.path("kept"));
    copy(&home, &kept);
    for name in ["segments", "seals"] {
        for entry in fs::read_dir(home.join(name)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.file_name().unwrap().to_str().unwrap().starts_with(&format!("{second:020}")) {
                fs::remove_file(entry).unwrap();
            }
        }
    }
    fs::copy(home.join(format!("seals/{:020}.note", 1)), home.join("checkpoint.note")).unwrap();
    assert_eq!(verify(&site, &[]).await.0, 0);
    let (code, said) = verify(&site, &["--anchor", "anchors"]).await;
    assert_eq!((code, &said["findings"][0]["seq"], &said["findings"][0]["file"]), (3, &json!(second), &json!("anchors")), "{said}");

    // The whole log taken away.
    fs::remove_dir_all(&home).unwrap();
    let (code, said) = verify(&site, &["--anchor", "anchors"]).await;
    assert_eq!((code, said["findings"][0]["what"].as_str().unwrap().starts_with("the log is gone")), (3, true), "{said}");
}

#[tokio::test]
async fn a_file_without_an_anchor_is_a_slip_and_not_an_anchor_that_holds() {
    let (_upstream, site, _) = log().await;
    site.write("empty", "no note\n");
    for (file, told) in [("empty", "holds no anchor"), ("nowhere", "cannot be read")] {
        let done = site.run(&["audit", "verify", "--anchor", file]).await;
        assert_eq!((done.code, done.err.contains(told), done.out.as_str()), (1, true, ""), "{done:?}");
    }
}

#[tokio::test]
async fn a_key_noted_down_before_vouches_for_its_segment_and_those_after_it_and_another_for_none() {
    let (_upstream, site, second) = log().await;
    for first in [1, second] {
        let (code, said) = verify(&site, &["--key", &key(&site, first)]).await;
        assert_eq!((code, &said["vouched"]["last_seq"]), (0, &json!(last_record(&site))), "{said}");
    }
    let other = site.run(&["--json", "audit", "keygen", "--out", "thief.key", "--name", "doorward/main"]).await.json();
    let (code, said) = verify(&site, &["--key", other["root_key"].as_str().unwrap()]).await;
    assert_eq!((code, &said["vouched"]), (3, &Value::Null), "{said}");
    assert_eq!(said["findings"][0]["what"], "no segment of this log has a key that was given");
    let none = site.run(&["audit", "verify", "--key", "doorward/main+00000000+AAAA"]).await;
    assert_eq!((none.code, none.err.contains("NAME+HASH+BASE64")), (2, true), "{none:?}");
}

#[tokio::test]
async fn a_range_reads_the_segments_of_its_records_and_says_what_it_left_out() {
    let (_upstream, site, second) = log().await;
    let last = last_record(&site);
    change(&site, 1, |text| text.replacen("\"demo\"", "\"Demo\"", 1));
    let from = second.to_string();

    let (code, said) = verify(&site, &["--from", &from]).await;
    assert_eq!((code, &said["records"], &said["last_seq"]), (0, &json!(last + 1 - second), &json!(last)), "{said}");
    let unread = format!("the records up to {} were not read", second - 1);
    assert!(said["unseen"].as_array().unwrap().contains(&json!(unread)), "{said}");

    change(&site, 1, |text| text.replacen("\"Demo\"", "\"demo\"", 1));
    change(&site, second, |text| text.replacen("\"demo\"", "\"Demo\"", 1));
    let to = (second - 1).to_string();
    let (code, said) = verify(&site, &["--to", &to]).await;
    assert_eq!((code, &said["last_seq"]), (0, &json!(second - 1)), "{said}");
    assert_eq!(verify(&site, &["--from", "2", "--to", &from]).await.0, 3);
    let done = site.run(&["audit", "verify", "--from", "9", "--to", "2"]).await;
    assert_eq!((done.code, done.err.contains("--from is after --to")), (2, true), "{done:?}");
}

#[tokio::test]
async fn since_the_newest_anchor_only_its_segment_is_read() {
    let (_upstream, site, second) = log().await;
    let since = ["--anchor", "anchors", "--since-anchor"];
    change(&site, 1, |text| text.replacen("\"demo\"", "\"Demo\"", 1));
    let (code, said) = verify(&site, &since).await;
    assert_eq!((code, &said["segments"], &said["records"]), (0, &json!(1), &json!(last_record(&site) + 1 - second)), "{said}");
    assert_eq!(verify(&site, &since[..2]).await.0, 3);
    change(&site, second, |text| text.replacen("\"demo\"", "\"Demo\"", 1));
    assert_eq!(verify(&site, &since).await.0, 3);
    assert_eq!(site.run(&["audit", "verify", "--since-anchor"]).await.code, 2);
}

#[tokio::test]
async fn each_record_is_proved_to_somebody_who_has_the_proof_and_the_key_of_its_segment_alone() {
    let (_upstream, site, second) = log().await;
    let stranger = Site::empty();
    let prove = async |key: &str| -> Done { stranger.run(&["--json", "audit", "verify", "--proof", "a.proof", "--key", key]).await };
    for seq in 1..=last_record(&site) {
        let proof = site.run(&["audit", "prove", &seq.to_string()]).await;
        assert_eq!(proof.code, 0, "{proof:?}");
        stranger.write("a.proof", &proof.out);
        let (right, wrong) = if seq < second { (1, second) } else { (second, 1) };
        let held = prove(&key(&site, right)).await;
        assert_eq!((held.code, held.json()), (0, json!({ "holds": true, "seq": seq, "log": "doorward/main", "why": null })));
        assert_eq!(prove(&key(&site, wrong)).await.code, 3);
        stranger.write("a.proof", &proof.out.replacen("\"time\":\"20", "\"time\":\"19", 1));
        assert_eq!(prove(&key(&site, right)).await.code, 3);
    }
}

#[tokio::test]
async fn a_proof_goes_to_a_file_and_what_cannot_be_proved_is_told() {
    let (_upstream, site, _) = log().await;
    let done = site.run(&["audit", "prove", "3", "--origin", "main", "--out", "three.proof"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{done:?}");
    let held = site.run(&["audit", "verify", "--proof", "three.proof", "--key", &key(&site, 1)]).await;
    assert_eq!((held.code, held.out.starts_with("holds: "), held.out.contains("\"seq\":3,")), (0, true, true), "{held:?}");

    assert_eq!(site.run(&["audit", "verify", "--proof", "three.proof"]).await.code, 2);
    assert_eq!(site.run(&["audit", "verify", "--proof", "three.proof", "--key", &key(&site, 1), "--anchor", "anchors"]).await.code, 2);
    let beyond = site.run(&["audit", "prove", "100000"]).await;
    assert_eq!((beyond.code, beyond.out.as_str()), (1, ""), "{beyond:?}");
    let unwritten = site.run(&["audit", "prove", "3", "--out", "no/such/folder"]).await;
    assert_eq!((unwritten.code, unwritten.err.contains("cannot be written")), (1, true), "{unwritten:?}");
    change(&site, 1, |text| text.replacen("\"demo\"", "\"Demo\"", 1));
    assert_eq!(site.run(&["audit", "prove", "3"]).await.code, 1);
}
