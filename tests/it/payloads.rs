//! Arguments and results that are kept sealed: kept before the call, opened by people together and on record, and erased for good.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use doorward::audit::chain::Line;
use doorward::audit::disk::Disk;
use doorward::audit::{Durability, Kind, Log, Options, Record};
use doorward::clock::Clock;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::site::Done;
use crate::support::{Ask, Does, Site, Upstream, until};

const SECRET: &str = "canary-payload-5150";
const WORDS: &str = "canary-result-5151";

/// Makes keys for these people, and the configuration that names them as openers; `more` are members of `payloads`.
async fn with_openers(site: Site, names: &[&str], more: &str) -> Site {
    let (mut people, mut openers) = (String::new(), Vec::new());
    for name in names {
        let done = site.run(&["--json", "audit", "keygen", "--opener", name, "--out", &format!("{name}.key")]).await;
        assert_eq!(done.code, 0, "{done:?}");
        let key = done.json()["payload_key"].as_str().unwrap().to_owned();
        people += &format!("  - {{ name: {name}, payload_key: \"{key}\" }}\n");
        openers.push(*name);
    }
    site.config(&format!("people:\n{people}audit: {{ payloads: {{ openers: [{}]{more} }} }}", openers.join(", ")))
}

/// An upstream whose `save` is recorded with its payload.
async fn site(more: &str) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = demanding(Site::of(&upstream), &upstream);
    let site = with_openers(site, &["alice", "bob", "carol"], more).await;
    (upstream, site)
}

fn demanding(site: Site, upstream: &Upstream) -> Site {
    let tools = "tools:\n  echo: { tier: read }\n  save: { tier: reversible, record_payload: true }\n";
    site.manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url()))
}

async fn reveal(site: &Site, what: &str, more: &[&str]) -> Done {
    site.run(&[&["audit", "reveal", what, "--reason", "ticket 17"], more].concat()).await
}

/// The intent that has a payload, as `ORIGIN:SEQ`.
fn intent(site: &Site) -> String {
    let intent = site.of_kind("intent").into_iter().find(|record| record.get("payload").is_some()).unwrap();
    format!("{}:{}", intent["origin"].as_str().unwrap(), intent["seq"])
}

fn payloads(site: &Site) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(site.path("var/audit/main/payloads")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_a_call_said_and_got_is_sealed_and_two_people_open_it_together_on_record() {
    let (upstream, site) = site("").await;
    upstream.does("save", Does::Result(json!({ "content": [{ "type": "text", "text": WORDS }] })));
    let gateway = site.serve().await;
    let text = format!("{{\"text\":\"{SECRET}\u{9b}31m\",  \"more\":9007199254740993}}");
    assert_eq!(gateway.client().send(&Ask::call_with_text("up__save", &text)).await.code(), "ok");
    site.ends(1).await;

    for canary in [SECRET, WORDS] {
        assert_eq!(site.holding(canary), Vec::<PathBuf>::new());
    }
    let files = payloads(&site);
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().permissions().mode() & 0o777 == 0o600));
    assert!(!files.iter().any(|file| file.to_string_lossy().contains("demo")), "{files:?}");

    let keys = ["--key", "alice.key", "--key", "bob.key"];
    let done = reveal(&site, &intent(&site), &keys).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains(SECRET) && done.out.contains(WORDS) && done.out.contains("9007199254740993"), "{done:?}");
    assert!(!done.out.contains('\u{9b}') && done.out.contains("alice and bob"), "{done:?}");
    let call = site.of_kind("intent")[0]["call_id"].as_str().unwrap().to_owned();
    let record = site.recorded("person", "action", "reveal").await;
    assert_eq!((record["openers"].clone(), record["note"].clone()), (json!(["alice", "bob"]), json!("ticket 17")));
    assert_eq!((record["subject"].as_str(), record["call_id"].as_str()), (Some(&*intent(&site)), Some(&*call)));

    let raw = site.run(&[&["--json", "audit", "reveal", &call, "--reason", "x"], &keys[..]].concat()).await;
    assert!(raw.out.contains(&text), "{raw:?}");
    let told = raw.json();
    assert_eq!(told["payloads"][1]["payload"]["result"]["content"][0]["text"], WORDS, "{told}");
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn one_person_opens_nothing_alone_and_a_strangers_key_nothing_at_all() {
    let (_upstream, site) = site("").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    assert_eq!(site.run(&["audit", "keygen", "--opener", "mallory", "--out", "mallory.key"]).await.code, 0);
    let intent = intent(&site);

    let alone = reveal(&site, &intent, &["--key", "alice.key"]).await;
    assert_eq!((alone.code, alone.err.contains("2 of alice, bob, carol")), (3, true), "{alone:?}");
    let twice = reveal(&site, &intent, &["--key", "alice.key", "--key", "alice.key"]).await;
    assert_eq!((twice.code, twice.err.contains("only the key of alice")), (3, true), "{twice:?}");
    let stranger = reveal(&site, &intent, &["--key", "alice.key", "--key", "mallory.key"]).await;
    assert_eq!((stranger.code, stranger.err.contains("`mallory.key` is the key of none")), (3, true), "{stranger:?}");
    let no_key = reveal(&site, &intent, &["--key", "doorward.yaml"]).await;
    assert_eq!((no_key.code, no_key.err.contains("no private key")), (2, true), "{no_key:?}");

    for done in [alone, twice, stranger, no_key] {
        assert!(!done.out.contains(SECRET) && !done.err.contains(SECRET), "{done:?}");
    }
    assert!(site.of_kind("person").iter().all(|record| record["action"] != "reveal"));
    // Each attempt with keys is on record, and what it failed by.
    let refused: Vec<_> = site.of_kind("person").into_iter().filter(|record| record["action"] == "reveal_refused").collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    for (record, why) in refused.iter().zip(["2 of alice, bob, carol", "only the key of alice", "`mallory.key` is the key of none"]) {
        let note = record["note"].as_str().unwrap();
        assert!(note.starts_with("ticket 17; refused: ") && note.contains(why), "{record}");
        assert_eq!((&record["subject"], &record["call_id"]), (&json!(intent), &site.of_kind("intent")[0]["call_id"]));
    }
    let share = reveal(&site, &intent, &["--key", "mallory.key", "--share-to", "x.share"]).await;
    assert_eq!((share.code, site.path("x.share").exists()), (3, false), "{share:?}");
    assert_eq!(site.of_kind("person").iter().filter(|record| record["action"] == "reveal_refused").count(), 4);
}

#[tokio::test]
async fn two_people_at_two_machines_open_one_call_with_a_share_that_opens_no_other() {
    let (_upstream, site) = site("").await;
    let gateway = site.serve().await;
    for text in [SECRET, "another"] {
        gateway.client().call("up__save", json!({ "text": text })).await;
    }
    site.ends(2).await;
    let intents: Vec<_> = site.of_kind("intent").iter().map(|record| format!("main:{}", record["seq"])).collect();

    let shared = reveal(&site, &intents[0], &["--key", "alice.key", "--share-to", "42.share"]).await;
    assert_eq!(shared.code, 0, "{shared:?}");
    assert!(!shared.out.contains(SECRET) && !fs::read_to_string(site.path("42.share")).unwrap().contains(SECRET), "{shared:?}");
    assert_eq!(site.recorded("person", "action", "reveal_share").await["openers"], json!(["alice"]));
    let again = reveal(&site, &intents[0], &["--key", "alice.key", "--share-to", "42.share"]).await;
    assert_eq!((again.code, again.err.contains("cannot be written")), (1, true), "{again:?}");

    let done = reveal(&site, &intents[0], &["--key", "bob.key", "--share", "42.share"]).await;
    assert_eq!((done.code, done.out.contains(SECRET)), (0, true), "{done:?}");
    assert_eq!(site.recorded("person", "action", "reveal").await["openers"], json!(["alice", "bob"]));
    let other = reveal(&site, &intents[1], &["--key", "bob.key", "--share", "42.share"]).await;
    assert_eq!((other.code, other.out.contains("another")), (3, false), "{other:?}");
    // To whom it was not sealed it is of no use.
    let alone = reveal(&site, &intents[0], &["--key", "alice.key", "--share", "42.share"]).await;
    assert_eq!((alone.code, alone.out.contains(SECRET)), (3, false), "{alone:?}");
}

#[tokio::test]
async fn what_is_erased_is_gone_for_good_and_the_log_stays_sound() {
    let (_upstream, site) = site(", quorum: 1").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    let first = intent(&site);
    let wrong = site.run(&["audit", "erase", "--subject", "agent:nobody", "--reason", "x"]).await;
    assert_eq!((wrong.code, wrong.err.contains("`agent:nobody`")), (1, true), "{wrong:?}");
    let early = site.run(&["audit", "erase", "--subject", "agent:demo", "--before", "2020-01", "--reason", "x"]).await;
    assert_eq!((early.code, early.err.contains("before 2020-01")), (1, true), "{early:?}");
    let kept: Vec<_> = payloads(&site).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    assert_eq!(kept.len(), 3);

    let done = site.run(&["--json", "audit", "erase", "--subject", "agent:demo", "--reason", "article 17"]).await;
    assert_eq!((done.code, done.json()["keys"].as_u64(), done.json()["payloads"].as_u64()), (0, Some(1), Some(2)), "{done:?}");
    assert_eq!(payloads(&site), Vec::<PathBuf>::new());
    let record = site.recorded("person", "action", "payload_erase").await;
    assert_eq!((&record["subject"], record["payload_keys"].as_array().unwrap().len()), (&json!("agent:demo"), 1));

    let told = reveal(&site, &first, &["--key", "carol.key"]).await;
    let place = format!("main:{}", record["seq"]);
    assert_eq!(
        (told.code, told.err.contains(&place) && told.err.contains("erased") && told.err.contains("article 17")),
        (3, true),
        "{told:?}"
    );
    // Where an erasure was cut off, it holds all the same, and is done again.
    kept.iter().for_each(|(bytes, file)| fs::write(file, bytes).unwrap());
    let told = reveal(&site, &first, &["--key", "carol.key"]).await;
    assert_eq!((told.code, told.err.contains("erase again") && !told.out.contains(SECRET)), (3, true), "{told:?}");
    let done = site.run(&["audit", "erase", "--subject", "agent:demo", "--reason", "once more"]).await;
    assert_eq!((done.code, payloads(&site)), (0, Vec::new()), "{done:?}");
    // The gateway does not go on with a key that nobody has any more.
    gateway.client().call("up__save", json!({ "text": "after" })).await;
    site.ends(2).await;
    let seq = site.of_kind("intent")[1]["seq"].clone();
    let later = reveal(&site, &format!("main:{seq}"), &["--key", "carol.key"]).await;
    assert_eq!((later.code, later.out.contains("after")), (0, true), "{later:?}");
    let verified = site.run(&["--json", "audit", "verify"]).await;
    let payloads = &verified.json()[0]["payloads"];
    assert_eq!((verified.code, payloads.clone()), (0, json!({ "sound": 3, "erased": 3, "pruned": 0 })), "{verified:?}");
    assert!(gateway.stop().await.0.success());
    let proof = first.trim_start_matches("main:");
    assert_eq!(site.run(&["audit", "prove", proof]).await.code, 0);
}

#[tokio::test]
async fn an_erasure_that_nobody_signed_explains_nothing() {
    let (_upstream, site) = site(", quorum: 1").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    assert!(gateway.stop().await.0.success());
    let key = payloads(&site).into_iter().find(|file| file.extension().is_some_and(|ending| ending == "key")).unwrap();
    let id = key.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().to_owned();
    let kept: Vec<_> = payloads(&site).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();

    // Somebody with the disk and not the key says that it was erased.
    let segment = fs::read_dir(site.path("var/audit/main/segments")).unwrap().map(|file| file.unwrap().path()).max().unwrap();
    let sound = fs::read(&segment).unwrap();
    let end = sound.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
    let last = Line::split(end).unwrap();
    let (actor, action) = (Some("uid:0".into()), Some("payload_erase".into()));
    let record = Record { actor, action, payload_keys: vec![id.into()], ..Record::new(Kind::Person) };
    let mut forged = sound.clone();
    last.chain.seal(&record.encode("main", Clock::system().now()), last.seq + 1, &mut forged);
    fs::write(&segment, &forged).unwrap();
    payloads(&site).iter().for_each(|file| fs::remove_file(file).unwrap());

    let verified = site.run(&["audit", "verify"]).await;
    assert_eq!((verified.code, verified.out.contains("no signed record says that it was erased")), (3, true), "{verified:?}");
    kept.iter().for_each(|(bytes, file)| fs::write(file, bytes).unwrap());
    let told = reveal(&site, &intent(&site), &["--key", "carol.key"]).await;
    assert_eq!((told.code, told.out.contains(SECRET)), (0, true), "{told:?}");

    // A real one is signed before anything goes, where no gateway runs too.
    fs::write(&segment, &sound).unwrap();
    let done = site.run(&["audit", "erase", "--subject", "agent:demo", "--reason", "article 17"]).await;
    assert_eq!((done.code, payloads(&site)), (0, Vec::new()), "{done:?}");
    let verified = site.run(&["audit", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[tokio::test]
async fn an_erasure_in_a_log_that_nobody_vouches_for_is_told_to_who_knows_keys() {
    let (_upstream, site) = site(", quorum: 1").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    assert!(gateway.stop().await.0.success());
    let root = site.run(&["--json", "audit", "keygen", "--out", "root.key"]).await.json()["root_key"].as_str().unwrap().to_owned();
    assert_eq!(site.run(&["audit", "certify", "--root", "root.key"]).await.code, 0);
    let key = payloads(&site).into_iter().find(|file| file.extension().is_some_and(|ending| ending == "key")).unwrap();
    let id = key.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().to_owned();

    // Somebody with the disk makes up a log with a key of its own.
    let disk = Disk::open(&site.path("var/audit"), &site.path("elsewhere"), "local-99").unwrap();
    let (log, _) = Log::open(Options { origin: "local-99".to_owned(), ..Options::default() }, Arc::new(disk)).unwrap();
    let (actor, action) = (Some("uid:0".into()), Some("payload_erase".into()));
    let record = Record { actor, action, payload_keys: vec![id.into()], ..Record::new(Kind::Person) };
    log.append(log.encode(&record), Durability::Sync).await.unwrap();
    log.close("done").await.unwrap();
    payloads(&site).iter().for_each(|file| fs::remove_file(file).unwrap());

    let told = site.run(&["audit", "verify", "--origin", "main", "--root-key", &root]).await;
    assert_eq!((told.code, told.out.contains("local-99:2, and no key that was given vouches for what signs that")), (0, true), "{told:?}");
}

#[tokio::test]
async fn a_changed_and_a_missing_payload_are_told_by_verify_and_open_for_nobody() {
    let (_upstream, site) = site(", quorum: 1").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    let intent = site.of_kind("intent")[0].clone();
    let name = intent["payload"].as_str().unwrap().split(' ').next().unwrap().to_owned();
    let (file, what) = (site.path(&format!("var/audit/main/payloads/{name}")), format!("main:{}", intent["seq"]));
    let sound = fs::read(&file).unwrap();
    let mut changed = sound.clone();
    *changed.last_mut().unwrap() ^= 1;

    fs::write(&file, changed).unwrap();
    let told = reveal(&site, &what, &["--key", "bob.key"]).await;
    // The result is sound, so it is shown.
    assert_eq!((told.code, told.out.contains("was changed"), told.out.contains("arguments")), (3, true, false), "{told:?}");
    let verified = site.run(&["audit", "verify"]).await;
    assert_eq!((verified.code, verified.out.contains(&name) && verified.out.contains("was changed")), (3, true), "{verified:?}");

    fs::remove_file(&file).unwrap();
    let verified = site.run(&["--json", "audit", "verify"]).await;
    let finding = &verified.json()[0]["findings"][0];
    assert_eq!((verified.code, &finding["seq"]), (3, &intent["seq"]), "{verified:?}");
    assert!(finding["what"].as_str().unwrap().contains("is gone"), "{finding}");

    fs::write(&file, sound).unwrap();
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
    let key = payloads(&site).into_iter().find(|file| file.extension().is_some_and(|ending| ending == "key")).unwrap();
    fs::rename(&key, site.path("kept.key")).unwrap();
    let told = reveal(&site, &what, &["--key", "bob.key"]).await;
    assert_eq!((told.code, told.err.contains("is not there")), (3, true), "{told:?}");
    let verified = site.run(&["audit", "verify"]).await;
    assert_eq!((verified.code, verified.out.contains("the data key")), (3, true), "{verified:?}");
}

#[tokio::test]
async fn a_call_whose_arguments_cannot_be_kept_is_not_made_and_a_result_that_cannot_is_not_hidden() {
    let (upstream, site) = site(", quorum: 1, max_bytes: 1024").await;
    let gateway = site.serve().await;
    let long = "x".repeat(2_000);
    let refused = gateway.client().call("up__save", json!({ "text": long })).await;
    assert_eq!((refused.code(), upstream.calls().len()), ("payload_too_large".to_owned(), 0), "{}", refused.text());
    assert_eq!(refused.error()["effect"], "none");

    upstream.does("save", Does::Result(json!({ "content": [{ "type": "text", "text": long }] })));
    let answer = gateway.client().call("up__save", json!({ "text": "short" })).await;
    assert_eq!((answer.code(), answer.text().contains(&long)), ("ok".to_owned(), true));
    site.ends(1).await;
    assert_eq!(site.of_kind("outcome")[0]["payload"], "missing too_large");
    let told = reveal(&site, &intent(&site), &["--key", "alice.key"]).await;
    assert_eq!((told.code, told.out.contains("short"), told.out.contains("was not kept: too_large")), (3, true, true), "{told:?}");

    // A file where the folder should be: no payload can be stored there any more.
    fs::rename(site.path("var/audit/main/payloads"), site.path("moved")).unwrap();
    fs::write(site.path("var/audit/main/payloads"), "").unwrap();
    let refused = gateway.client().call("up__save", json!({ "text": "short" })).await;
    assert_eq!((refused.code(), upstream.calls().len()), ("audit_unavailable".to_owned(), 1), "{}", refused.text());
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "short" })).await.code(), "ok", "others go on");
    fs::remove_file(site.path("var/audit/main/payloads")).unwrap();
    fs::rename(site.path("moved"), site.path("var/audit/main/payloads")).unwrap();
    assert_eq!(gateway.client().call("up__save", json!({ "text": "short" })).await.code(), "ok");
    assert!(site.run(&["audit", "verify"]).await.code == 0);
}

#[tokio::test]
async fn after_a_restart_people_open_what_was_kept_and_what_no_record_names_is_gone() {
    let (upstream, site) = site("").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    upstream.does("save", Does::Hangs);
    let (client, before) = (gateway.client(), upstream.calls().len());
    let hanging = tokio::spawn(async move { client.try_open(&Ask::call("up__save", json!({ "text": "cut off" }))).await });
    upstream.got(before + 1).await;
    gateway.kill().await;
    drop(hanging);
    // As a kill between a payload and its record leaves it.
    let last = payloads(&site).into_iter().rfind(|file| file.extension().is_none()).unwrap();
    let name = last.file_name().unwrap().to_string_lossy().into_owned();
    let orphan = last.with_file_name(format!("{}00c0ffee", &name[..name.len() - 8]));
    fs::write(&orphan, "half a payl").unwrap();

    upstream.does("save", Does::Echo);
    let gateway = site.serve().await;
    assert!(!orphan.exists() && last.exists());
    assert_eq!(gateway.client().call("up__save", json!({ "text": "later" })).await.code(), "ok");
    site.ends(3).await;
    let keys: Vec<_> = payloads(&site).into_iter().filter(|file| file.extension().is_some()).collect();
    assert_eq!(keys.len(), 2, "the secrets of the first life are nowhere but with people: {keys:?}");
    let what = site.of_kind("intent").iter().map(|record| format!("main:{}", record["seq"])).collect::<Vec<_>>();
    for (what, words) in what.iter().zip([SECRET, "cut off", "later"]) {
        let done = reveal(&site, what, &["--key", "carol.key", "--key", "bob.key"]).await;
        assert_eq!((done.code, done.out.contains(words)), (0, true), "{done:?}");
    }
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn without_openers_nothing_may_demand_payloads_and_a_reload_keeps_what_was_in_force() {
    let upstream = Upstream::start().await;
    let site = demanding(Site::of(&upstream), &upstream);
    let refused = site.run(&["check", "--offline"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    let place = "tool-manifests/up.yaml:5:";
    for words in [place, "`save`", "keygen --opener", "audit: { payloads: { openers:"] {
        assert!(refused.err.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(site.run(&["serve"]).await.code, 2);

    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;
    let site = demanding(site, &upstream);
    gateway.signal(Signal::HUP);
    gateway.says("nobody is configured who could open one").await;
    assert_eq!(gateway.client().call("up__save", json!({ "text": "x" })).await.code(), "ok");
    site.ends(1).await;
    assert_eq!(site.of_kind("intent")[0].get("payload"), None);
}

#[tokio::test]
async fn a_row_of_the_policy_demands_it_of_whom_it_names_and_is_refused_where_nobody_opens() {
    let upstream = Upstream::offering().await;
    let rows = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, prompt:up__*, read, -, allow\n\
                o, O1, agent:demo, up__*, any, -, record_payload\no, O2, agent:demo, prompt:up__*, any, -, record_payload\n";
    let refused = Site::of(&upstream).policy(rows).run(&["check", "--offline"]).await;
    let (first, second) = ("policy.csv:3:35: the row demands that payloads be recorded", "policy.csv:4:42: ");
    assert_eq!((refused.code, refused.err.contains(first), refused.err.contains(second)), (2, true, true), "{refused:?}");

    let site = with_openers(Site::of(&upstream).policy(rows), &["alice"], "").await;
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({ "text": SECRET })).await.code(), "ok");
    assert_eq!(gateway.other().call("up__echo", json!({ "text": "unkept" })).await.code(), "ok");
    let prompt = json!({ "name": "up__greet", "arguments": { "who": "prompted" } });
    let prompted = gateway.client().send(&Ask::modern("prompts/get", prompt)).await;
    site.ends(3).await;
    let kept: Vec<_> = site.of_kind("intent").iter().map(|intent| intent.get("payload").is_some()).collect();
    assert_eq!(kept, [true, false, true], "{}", prompted.text());
    for (call, words) in [(0, SECRET), (2, "prompted")] {
        let what = site.of_kind("intent")[call]["call_id"].as_str().unwrap().to_owned();
        let done = reveal(&site, &what, &["--key", "alice.key"]).await;
        assert_eq!((done.code, done.out.contains(words)), (0, true), "{done:?}");
    }
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn openers_that_cannot_be_are_refused_with_their_place() {
    let site = with_openers(Site::empty(), &["alice"], "").await;
    let yaml = fs::read_to_string(site.path("doorward.yaml")).unwrap();
    let key = yaml.split("payload_key: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let zero = "\"x25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"".to_owned();
    for (people, payloads, words) in [
        (format!("{{ name: alice, payload_key: {key} }}"), "openers: [bob]", "`bob` is not one of `people`"),
        ("{ name: alice }".to_owned(), "openers: [alice]", "`alice` has no `payload_key`"),
        (format!("{{ name: alice, payload_key: {key} }}"), "openers: [alice], quorum: 2", "fewer openers than `quorum`"),
        (format!("{{ name: alice, payload_key: {key} }}, {{ name: bob, payload_key: {key} }}"), "openers: [alice, bob]", "another opener"),
        ("{ name: alice, payload_key: \"x25519:AAAA\" }".to_owned(), "openers: [alice]", "not a key for payloads"),
        (format!("{{ name: alice, payload_key: {zero} }}"), "openers: [alice]", "cannot be sealed to"),
    ] {
        let site = Site::empty().config(&format!("people: [ {people} ]\naudit: {{ payloads: {{ {payloads} }} }}"));
        let done = site.run(&["check", "--offline"]).await;
        assert_eq!((done.code, done.err.contains(words)), (2, true), "{words}: {done:?}");
    }
}

#[tokio::test]
async fn who_opens_is_settled_at_the_start_and_the_record_of_a_reload_says_so() {
    let (_upstream, site) = site("").await;
    let gateway = site.serve().await;
    let yaml = fs::read_to_string(site.path("doorward.yaml")).unwrap();
    let key = yaml.split("payload_key: \"").nth(2).unwrap().split('"').next().unwrap();
    let done = site.run(&["--json", "audit", "keygen", "--opener", "bob", "--out", "new.key"]).await;
    site.write("doorward.yaml", &yaml.replace(key, done.json()["payload_key"].as_str().unwrap()));
    gateway.signal(Signal::HUP);
    let record = site.recorded("config_change", "actor", "SIGHUP").await;
    assert_eq!(record["note"], "in force only after a restart: people.payload_key");
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    let done = reveal(&site, &intent(&site), &["--key", "alice.key", "--key", "bob.key"]).await;
    assert_eq!((done.code, done.out.contains(SECRET)), (0, true), "{done:?}");
}

#[tokio::test]
async fn answers_to_a_servers_questions_are_kept_too() {
    let (upstream, site) = site(", quorum: 1").await;
    let tools = "may_ask: [elicitation]\ntools:\n  save: { tier: reversible, record_payload: true }\n";
    let site = site.manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url()));
    let form = json!({ "type": "object", "properties": { "why": { "type": "string" } } });
    let asks = json!({ "q": { "method": "elicitation/create", "params": { "mode": "form", "message": "canary-question", "requestedSchema": form } } });
    upstream.does("save", Does::Asks(json!({ "resultType": "input_required", "inputRequests": asks, "requestState": "s" })));
    let gateway = site.serve().await;
    let able = |capabilities: &str| format!("\"io.modelcontextprotocol/clientCapabilities\":{capabilities}");
    let ask = |params: Value| Ask::modern("tools/call", params).saying(&able("{}"), &able(r#"{"elicitation":{"form":{}}}"#));
    let first = gateway.client().send(&ask(json!({ "name": "up__save", "arguments": { "text": "a" } }))).await.result();
    let state = first["requestState"].clone();
    assert!(state.is_string(), "{first}");
    let answers = json!({ "q": { "action": "accept", "content": { "why": SECRET } } });
    let again = json!({ "name": "up__save", "arguments": { "text": "a" }, "inputResponses": answers, "requestState": state });
    assert_eq!(gateway.client().send(&ask(again)).await.code(), "ok");
    site.ends(2).await;
    assert_eq!(site.holding(SECRET), Vec::<PathBuf>::new());
    let done = reveal(&site, &intent(&site), &["--key", "alice.key"]).await;
    assert_eq!((done.code, done.out.contains(SECRET), done.out.contains("canary-question")), (0, true, true), "{done:?}");
}

#[tokio::test]
async fn a_reveal_that_cannot_be_recorded_shows_nothing() {
    let (_upstream, site) = site(", quorum: 1").await;
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({ "text": SECRET })).await;
    site.ends(1).await;
    let what = intent(&site);
    // The gateway holds the log, and nobody reaches it.
    fs::remove_file(site.path("var/doorward.sock")).unwrap();
    let done = reveal(&site, &what, &["--key", "alice.key"]).await;
    assert_eq!((done.code, done.err.contains("not recorded, so nothing was done")), (1, true), "{done:?}");
    assert!(!done.out.contains(SECRET), "{done:?}");
    gateway.kill().await;
    let done = reveal(&site, &what, &["--key", "alice.key"]).await;
    assert_eq!((done.code, done.out.contains(SECRET)), (0, true), "{done:?}");
    let record = until("the command's own record", async || site.of_kind("person").into_iter().find(|one| one["action"] == "reveal")).await;
    assert_eq!(record["origin"], "local-1");
}
