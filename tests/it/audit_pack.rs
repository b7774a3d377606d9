//! `doorward audit pack`: what somebody outside is given, what checks it, and what must never be in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use doorward::seal::{hex, sha256};
use serde_json::{Value, json};

use crate::support::site::Done;
use crate::support::{Ask, Site, Upstream};

const SECRET: &str = "canary-argument-4711";

/// A log of two segments, each of whose keys the operator's root key vouches for, and the root key.
async fn written() -> (Upstream, Site, String) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let root = site.run(&["--json", "audit", "keygen", "--out", "root.key"]).await.json()["root_key"].as_str().unwrap().to_owned();
    let site = site.config(&format!("audit: {{ root_key: \"{root}\" }}"));
    let gateway = site.serve().await;
    assert_eq!(site.run(&["audit", "certify", "--root", "root.key"]).await.code, 0);
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    gateway.client().call("up__admin", json!({})).await;
    gateway.other().call("up__echo", json!({})).await;
    site.ends(1).await;
    assert!(gateway.stop().await.0.success());
    let gateway = site.serve().await;
    gateway.client().call("up__pay", json!({ "text": SECRET })).await;
    site.ends(2).await;
    assert!(gateway.stop().await.0.success());
    (upstream, site, root)
}

async fn pack(site: &Site, words: &[&str]) -> Done {
    site.run(&[&["--json", "audit", "pack"], words].concat()).await
}

async fn checked(site: &Site, words: &[&str]) -> (i32, Value) {
    let done = site.run(&[&["--json", "audit", "verify", "--pack"], words].concat()).await;
    (done.code, if done.code == 2 { Value::Null } else { done.json() })
}

/// What is in an archive, by name.
fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive).unwrap()).entries().unwrap() {
        let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        let name = entry.path().unwrap().to_str().unwrap().strip_prefix("doorward-pack/").unwrap().to_owned();
        all.insert(name, bytes);
    }
    all
}

/// An archive with these files, its sums made anew.
fn forged(archive: &Path, mut files: BTreeMap<String, Vec<u8>>) {
    files.remove("SHA256SUMS");
    let sums: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", hex(&sha256(bytes)))).collect();
    files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    // As text, since a path would be put in order.
    let mut out = tar::Builder::new(fs::File::create(archive).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let name = format!("doorward-pack/{name}");
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        out.append(&header, &bytes[..]).unwrap();
    }
    out.finish().unwrap();
}

fn changed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{text} lacks {from}");
    text.replacen(from, to, 1).into_bytes()
}

#[tokio::test]
async fn stock_tools_open_it_and_the_records_in_it_are_the_lines_of_the_log() {
    let (_upstream, site, root) = written().await;
    let done = pack(&site, &["--agent", "demo", "--out", "incident.tar"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let said = done.json();
    assert_eq!((&said["records"], &said["policies"], &said["tools"]), (&json!(5), &json!(1), &json!(2)), "{said}");
    assert_eq!((&said["not_proved"], &said["not_kept"], &said["recorded"]), (&json!([]), &json!([]), &json!(true)), "{said}");
    let sum = hex(&sha256(&fs::read(site.path("incident.tar")).unwrap()));
    assert_eq!(said["sha256"], json!(sum));

    let stock = |words: &[&str], at: &str| Command::new(words[0]).args(&words[1..]).current_dir(site.path(at)).output().unwrap();
    let opened = stock(&["tar", "xf", "incident.tar"], ".");
    assert!(opened.status.success() && opened.stderr.is_empty(), "{opened:?}");
    let sums = stock(&["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], "doorward-pack");
    assert!(sums.status.success(), "{sums:?}");
    let found = files(&site.path("incident.tar"));
    let lines = fs::read_dir(site.path("var/audit/main/segments")).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let mut lines: Vec<String> = lines.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.retain(|line| line.contains("\"agent\":\"demo\""));
    lines.sort_by_key(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64());
    let packed = String::from_utf8(found["records/main.jsonl"].clone()).unwrap();
    assert_eq!(packed.lines().collect::<Vec<_>>(), lines);
    let proofs = found.keys().filter(|name| name.starts_with("proofs/main/")).count();
    assert_eq!(proofs, 5);
    let policy = found.iter().find(|(name, _)| name.starts_with("kept/policy-")).unwrap();
    assert!(String::from_utf8_lossy(policy.1).contains(r#"["p","R2","agent:demo","up__pay","irreversible","-","allow"]"#));
    assert_eq!(found["verify_audit.py"], fs::read(crate::support::site::shipped("tools/verify_audit.py")).unwrap());
    let readme = String::from_utf8(found["README.txt"].clone()).unwrap();
    for words in ["5 of its records; each of them has a proof", "--agent demo", "main: 5 from", &root, "python3 verify_audit.py"] {
        assert!(readme.contains(words), "{words} in {readme}");
    }
    assert!(readme.lines().count() <= 60, "one page");
    let person = site.recorded("person", "action", "audit_pack").await;
    let subject = person["subject"].as_str().unwrap();
    assert!(subject.starts_with("5 records: --agent demo; sha256:") && subject.ends_with(&sum), "{subject}");
}

#[tokio::test]
async fn it_holds_by_the_root_key_or_by_the_keys_of_its_segments_and_by_no_other() {
    let (_upstream, site, root) = written().await;
    assert_eq!(pack(&site, &["--agent", "demo", "--out", "incident.tar"]).await.code, 0);
    let about: Value = serde_json::from_slice(&files(&site.path("incident.tar"))["pack.json"]).unwrap();
    let keys: Vec<&str> = about["logs"][0]["keys"].as_object().unwrap().values().map(|key| key.as_str().unwrap()).collect();
    assert_eq!(keys.len(), 2, "{about}");

    let (code, said) = checked(&site, &["incident.tar"]).await;
    assert_eq!((code, &said["holds"], &said["proved"]), (0, &json!(true), &json!(5)), "by the configuration's root key: {said}");
    let elsewhere = ["--config", "nowhere.yaml"];
    let bare = site.run(&[&elsewhere[..], &["audit", "verify", "--pack", "incident.tar"]].concat()).await;
    assert_eq!((bare.code, bare.err.contains("not from it")), (2, true), "{bare:?}");
    for trusted in [&["--root-key", &root][..], &["--key", keys[0]], &["--key", keys[0], "--key", keys[1]]] {
        let words = [&elsewhere[..], &["audit", "verify", "--pack", "incident.tar"], trusted].concat();
        let done = site.run(&words).await;
        assert_eq!((done.code, done.out.starts_with("holds: 5 of 5")), (0, true), "{trusted:?}: {done:?}");
    }
    // The newer key says nothing of what was signed before it.
    let (code, said) = checked(&site, &["incident.tar", "--root-key", keys[1], "--key", keys[1]]).await;
    assert_eq!((code, &said["holds"]), (3, &json!(false)), "{said}");
    let other = site.run(&["--json", "audit", "keygen", "--out", "other.key"]).await.json()["root_key"].as_str().unwrap().to_owned();
    let (code, said) = checked(&site, &["incident.tar", "--root-key", &other]).await;
    assert_eq!((code, &said["proved"]), (3, &json!(0)), "{said}");
}

#[tokio::test]
async fn whatever_is_changed_in_it_is_found_also_where_the_sums_are_made_anew() {
    let (_upstream, site, _root) = written().await;
    assert_eq!(pack(&site, &["--agent", "demo", "--out", "incident.tar"]).await.code, 0);
    let whole = files(&site.path("incident.tar"));
    let verdict = async |files: BTreeMap<String, Vec<u8>>| {
        forged(&site.path("forged.tar"), files);
        let (code, said) = checked(&site, &["forged.tar"]).await;
        (code, said["findings"].as_array().unwrap().iter().map(|what| what.as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(verdict(whole.clone()).await, (0, vec![]));
    let proof = whole.keys().find(|name| name.starts_with("proofs/")).unwrap().clone();
    let policy = whole.keys().find(|name| name.starts_with("kept/policy-")).unwrap().clone();
    let records = "records/main.jsonl".to_owned();
    let lines = String::from_utf8(whole[&records].clone()).unwrap();
    let first_gone = lines.split_once('\n').unwrap().1.as_bytes().to_vec();
    let twice = lines.lines().chain(lines.lines().last()).map(|line| format!("{line}\n")).collect::<String>().into_bytes();
    let backwards = lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
    let [about, readme, verifier, schema] = ["pack.json", "README.txt", "verify_audit.py", "record.schema.json"].map(str::to_owned);
    let cases: [(&str, &String, Option<Vec<u8>>, &str); 12] = [
        ("a record twice", &records, Some(twice), "it stands behind record"),
        ("records in another order", &records, Some(backwards), "it stands behind record"),
        (
            "its own counts",
            &about,
            Some(changed(&whole[&about], "\"from_seq\": ", "\"from_seq\": 1")),
            "it does not name the records that are here",
        ),
        ("its text", &readme, Some(b"demo paid twice\n".to_vec()), "not the one that every archive of this version has"),
        ("its verifier", &verifier, Some(b"print('holds')\n".to_vec()), "not the one that every archive of this version has"),
        ("its schema", &schema, None, "not the one that every archive of this version has"),
        ("a record", &records, Some(changed(&whole[&records], "\"demo\"", "\"Demo\"")), "not the record that its proof is about"),
        ("a record gone", &records, Some(first_gone), "its record is missing"),
        ("a proof gone", &proof, None, "it has no proof"),
        ("a proof", &proof, Some(changed(&whole[&proof], "\"seq\":", "\"seq\":1")), "record"),
        ("a policy", &policy, Some(changed(&whole[&policy], "up__pay", "up__pax")), "is here with other bytes"),
        ("a policy gone", &policy, None, "is missing"),
    ];
    for (what, name, bytes, told) in cases {
        let mut files = whole.clone();
        match bytes {
            Some(bytes) => drop(files.insert(name.clone(), bytes)),
            None => drop(files.remove(name)),
        }
        let (code, findings) = verdict(files).await;
        assert_eq!((code, findings.iter().any(|finding| finding.contains(told))), (3, true), "{what}: {findings:?}");
    }
    // A record that the archive itself says is not proved is not one that holds.
    let mut files = whole.clone();
    let unproved = r#""not_proved": [{"origin":"main","seq":9,"why":"x","is_pending":false}]"#;
    files.insert("pack.json".to_owned(), changed(&whole["pack.json"], "\"not_proved\": []", unproved));
    let (code, findings) = verdict(files).await;
    assert!(code == 3 && findings.len() == 1 && findings[0].starts_with("README.txt"), "the text tells of it too: {findings:?}");
    // A second spelling would be unpacked over the file that was checked.
    for name in ["./records/main.jsonl", "/records/main.jsonl", "x/../records/main.jsonl", "records/Main.jsonl", "evidence.txt"] {
        let mut files = whole.clone();
        files.insert(name.to_owned(), whole[&records].clone());
        forged(&site.path("forged.tar"), files);
        let done = site.run(&["audit", "verify", "--pack", "forged.tar"]).await;
        assert!(done.code != 0 && done.err.contains("does not belong in it"), "{name}: {done:?}");
    }
    // And with the sums as they were, any byte of any file.
    let bytes = fs::read(site.path("incident.tar")).unwrap();
    let at = bytes.windows(11).position(|window| window == b"What is her").unwrap();
    fs::write(site.path("forged.tar"), [&bytes[..at], b"w", &bytes[at + 1..]].concat()).unwrap();
    let (code, said) = checked(&site, &["forged.tar"]).await;
    assert_eq!((code, said["findings"][0].as_str()), (3, Some("README.txt: it is not the file that was packed")));
}

#[tokio::test]
async fn no_key_and_no_value_that_is_not_stored_in_clear_gets_into_it() {
    let (_upstream, site, _root) = written().await;
    let value = ["--value", SECRET, "--out", "value.tar"];
    assert_eq!(pack(&site, &value).await.json()["records"], json!(4), "found though it was never stored");
    assert_eq!(pack(&site, &["--out", "all.tar"]).await.code, 0);
    let mut canaries = vec![SECRET.as_bytes().to_vec(), site.key("demo").as_bytes().to_vec(), site.key("other").as_bytes().to_vec()];
    let private = fs::read_to_string(site.path("root.key")).unwrap();
    canaries.push(private.trim().splitn(5, '+').last().unwrap().as_bytes().to_vec());
    let mut keys = 0;
    for folder in ["var/keys", "var/log-keys"] {
        let files = Command::new("find").args([folder, "-type", "f"]).current_dir(site.path(".")).output().unwrap().stdout;
        for file in String::from_utf8(files).unwrap().lines() {
            let bytes = fs::read(site.path(file)).unwrap();
            // A key that was used up lies there as zeros.
            if bytes.iter().any(|byte| *byte != 0) {
                keys += 1;
                canaries.extend([hex(&bytes).into_bytes(), STANDARD_NO_PAD.encode(&bytes).into_bytes(), bytes]);
            }
        }
    }
    assert!(keys >= 4, "keys of values and seals, and of the logs: {keys}");
    for archive in ["value.tar", "all.tar"] {
        let bytes = fs::read(site.path(archive)).unwrap();
        for canary in &canaries {
            assert!(!bytes.windows(canary.len()).any(|window| window == canary), "{} in {archive}", String::from_utf8_lossy(canary));
        }
    }
    let packed = site.records().into_iter().filter(|record| record["action"] == "audit_pack").collect::<Vec<_>>();
    assert!(packed.len() == 2 && packed.iter().all(|record| !record.to_string().contains(SECRET)), "{packed:?}");
}

#[tokio::test]
async fn a_call_comes_whole_unless_just_what_fits_is_asked_for() {
    let (_upstream, site, _root) = written().await;
    let intent = site.of_kind("intent")[0].clone();
    let (call, seq) = (intent["call_id"].as_str().unwrap(), intent["seq"].to_string());
    let records = async |words: &[&str], out: &str| pack(&site, &[words, &["--out", out]].concat()).await.json()["records"].clone();
    assert_eq!(records(&["--kind", "intent", "--tool", "up__save"], "1.tar").await, json!(2));
    assert_eq!(records(&["--kind", "intent", "--tool", "up__save", "--exactly"], "2.tar").await, json!(1));
    assert_eq!(records(&["--call", call], "3.tar").await, json!(2));
    assert_eq!(records(&["--seq", &seq], "4.tar").await, json!(1));
    assert_eq!(records(&["--seq", &format!("main:1-{seq}")], "5.tar").await, intent["seq"]);
    for archive in ["1.tar", "2.tar", "3.tar", "4.tar", "5.tar"] {
        assert_eq!(checked(&site, &[archive]).await.0, 0, "{archive}");
    }
    for (words, code, told) in [
        (&["--agent", "nobody", "--out", "6.tar"][..], 1, "nothing to pack"),
        (&["--seq", "900", "--out", "6.tar"], 1, "nothing to pack"),
        (&["--limit", "3", "--out", "6.tar"], 2, "more than 3 records"),
        (&["--seq", "1", "--agent", "demo", "--out", "6.tar"], 2, "--seq names records"),
        (&["--out", "1.tar"], 2, "not written over"),
        (&["--seq", "x", "--out", "6.tar"], 2, "--seq"),
    ] {
        let done = pack(&site, words).await;
        assert_eq!((done.code, done.err.contains(told)), (code, true), "{words:?}: {done:?}");
    }
    assert!(!site.path("6.tar").exists());
}

#[tokio::test]
async fn the_same_records_of_the_same_log_make_the_same_bytes_and_a_copy_is_not_written_to() {
    let (_upstream, site, _root) = written().await;
    let before = fs::read_dir(site.path("var/audit")).unwrap().count();
    let copied = Command::new("cp").args(["-r", "var/audit", "copy"]).current_dir(site.path(".")).status().unwrap();
    assert!(copied.success());
    for archive in ["1.tar", "2.tar"] {
        let done = site.run(&["--json", "audit", "--dir", "copy", "pack", "--agent", "demo", "--out", archive]).await;
        assert_eq!((done.code, &done.json()["recorded"]), (0, &json!(false)), "{done:?}");
    }
    assert!(fs::read(site.path("1.tar")).unwrap() == fs::read(site.path("2.tar")).unwrap());
    assert_eq!(fs::read_dir(site.path("copy")).unwrap().count(), before);
    // The log's own folder is known under any name.
    let own = site.path("var/../var/audit").display().to_string();
    let done = site.run(&["--json", "audit", "--dir", &own, "pack", "--agent", "demo", "--out", "3.tar"]).await;
    assert_eq!((done.code, &done.json()["recorded"]), (0, &json!(true)), "{done:?}");
}

#[tokio::test]
async fn what_is_young_is_waited_for_until_it_is_signed_while_the_gateway_runs() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.client().send(&Ask::call("up__save", json!({}))).await;
    site.ends(1).await;
    let done = pack(&site, &["--agent", "demo", "--out", "young.tar"]).await;
    assert_eq!((done.code, &done.json()["records"], &done.json()["not_proved"]), (0, &json!(2), &json!([])), "{done:?}");
    site.recorded("person", "action", "audit_pack").await;
}

#[tokio::test]
async fn of_a_log_that_was_changed_it_says_which_records_have_no_proof() {
    let (_upstream, site, _root) = written().await;
    let site = site.meddled_with();
    let file = site.path("var/audit/main/segments/00000000000000000001.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"up__admin\"", "\"up__admix\"", 1)).unwrap();
    let done = pack(&site, &["--agent", "demo", "--out", "changed.tar"]).await;
    let said = done.json();
    assert_eq!((done.code, &said["records"], said["not_proved"].as_array().unwrap().len()), (3, &json!(5), 3), "{said}");
    assert!(said["not_proved"][0]["why"].as_str().unwrap().contains("is not what is in the log"), "{said}");
    let readme = String::from_utf8(files(&site.path("changed.tar"))["README.txt"].clone()).unwrap();
    assert!(readme.contains("3 of them have NO proof"), "{readme}");
    let (code, said) = checked(&site, &["changed.tar"]).await;
    assert_eq!((code, &said["proved"]), (3, &json!(2)), "{said}");
}

#[tokio::test]
async fn a_policy_that_was_taken_back_is_packed_as_it_was() {
    let upstream = Upstream::start().await;
    let usual = "p, R1, agent:demo, up__echo, read, -, allow\n";
    let site = Site::of(&upstream).policy(usual);
    let gateway = site.serve().await;
    site.write("policies/policy.csv", &format!("{usual}p, X9, agent:demo, up__pay, irreversible, -, allow\n"));
    site.recorded("policy_change", "action", "reload").await;
    assert_eq!(gateway.client().call("up__pay", json!({})).await.code(), "ok");
    site.write("policies/policy.csv", usual);
    crate::support::until("taken back", async || (site.of_kind("policy_change").len() == 2).then_some(())).await;
    site.ends(1).await;
    assert!(gateway.stop().await.0.success());

    assert_eq!(pack(&site, &["--tool", "up__pay", "--out", "then.tar"]).await.code, 0);

    let version = site.of_kind("intent")[0]["policy_version"].as_str().unwrap().to_owned();
    let found = files(&site.path("then.tar"));
    let policies: Vec<_> = found.iter().filter(|(name, _)| name.starts_with("kept/policy-")).collect();
    let [(name, bytes)] = policies.as_slice() else { panic!("{:?}", found.keys()) };
    assert_eq!(**name, format!("kept/policy-{}.jsonl", version.trim_start_matches("sha256:")));
    assert!(String::from_utf8_lossy(bytes).contains("\"X9\"") && hex(&sha256(bytes)) == version.trim_start_matches("sha256:"));
}

#[tokio::test]
async fn what_was_not_kept_is_said() {
    let (_upstream, site, root) = written().await;
    fs::remove_dir_all(site.path("var/audit/kept")).unwrap();
    let said = pack(&site, &["--agent", "demo", "--out", "bare.tar"]).await.json();
    assert_eq!((&said["policies"], said["not_kept"].as_array().unwrap().len()), (&json!(0), 3), "{said}");
    assert_eq!(checked(&site, &["bare.tar", "--root-key", &root]).await.0, 0);
}
