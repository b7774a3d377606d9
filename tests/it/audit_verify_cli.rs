//! `doorward audit`: what was changed is found and named, and what happened can be asked for.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Ask, Does, Site, Upstream};

/// A log of some calls and refusals, and its one segment.
async fn log() -> (Site, PathBuf) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).meddled_with();
    let gateway = site.serve().await;
    for number in 0..4 {
        gateway.client().call("up__save", json!({ "number": number })).await;
        gateway.client().call("up__nothing", json!({})).await;
    }
    site.ends(4).await;
    gateway.stop().await;
    let segments: Vec<_> = fs::read_dir(site.path("var/audit/main/segments")).unwrap().map(|file| file.unwrap().path()).collect();
    let [segment] = segments.as_slice() else { panic!("{segments:?}") };
    let segment = segment.clone();
    (site, segment)
}

/// The exit code, and the places that were found wrong.
async fn verdict(site: &Site) -> (i32, Vec<Value>) {
    let done = site.run(&["--json", "audit", "verify"]).await;
    let findings = done.json()[0]["findings"].as_array().unwrap().clone();
    (done.code, findings.into_iter().map(|finding| finding["seq"].clone()).collect())
}

#[tokio::test]
async fn an_untouched_log_is_sound_and_its_blind_spot_is_told() {
    let (site, _) = log().await;
    assert_eq!(verdict(&site).await, (0, vec![]));
    let told = site.run(&["audit", "verify"]).await.out;
    assert!(told.contains("main: sound") && told.contains("without an anchor"), "{told}");
}

#[tokio::test]
async fn a_changed_byte_is_found_wherever_it_is() {
    let (site, segment) = log().await;
    let whole = fs::read(&segment).unwrap();
    for at in (5..whole.len()).step_by(whole.len() / 20) {
        let mut changed = whole.clone();
        changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
        fs::write(&segment, &changed).unwrap();
        let record = whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;

        let (code, found) = verdict(&site).await;

        assert_eq!(code, 3, "byte {at}");
        assert!(
            found.iter().any(|seq| seq.as_u64().is_some_and(|seq| seq == record || seq == record + 1)),
            "byte {at} of record {record}: {found:?}"
        );
    }
}

#[tokio::test]
async fn a_dropped_a_repeated_and_a_swapped_line_are_found_and_named() {
    let (site, segment) = log().await;
    let text = fs::read_to_string(&segment).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let dropped = [&lines[..4], &lines[5..]].concat();
    let repeated = [&lines[..5], &lines[4..]].concat();
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    for (name, lines, wanted) in [("dropped", dropped, 5), ("repeated", repeated, 6), ("swapped", swapped, 5)] {
        fs::write(&segment, lines.concat()).unwrap();
        let (code, found) = verdict(&site).await;
        assert_eq!((code, found[0].as_u64()), (3, Some(wanted)), "{name}: {found:?}");
    }
}

#[tokio::test]
async fn a_damaged_log_is_not_written_on() {
    let (site, segment) = log().await;
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("\"demo\"", "\"Demo\"", 1)).unwrap();
    let done = site.run(&["serve"]).await;
    assert_ne!(done.code, 0);
    assert!(done.err.contains("audit"), "{}", done.err);
}

#[tokio::test]
async fn a_log_that_is_being_written_is_sound() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.client().call("up__save", json!({})).await;
    assert_eq!(verdict(&site).await.0, 0);
}

#[tokio::test]
async fn a_call_is_shown_whole_by_the_id_that_the_agent_was_given() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Error(-32603, "no"));
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__save", json!({})).await;
    site.ends(1).await;

    let shown = site.run(&["--json", "audit", "show", answer.error()["invocation"].as_str().unwrap()]).await;

    let kinds: Vec<Value> = shown.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["intent", "outcome"]);
    let place = site.run(&["audit", "show", "main:1"]).await;
    assert_eq!((place.code, place.out.contains("main:1")), (0, true), "{place:?}");
    assert_eq!(site.run(&["audit", "show", "nothing"]).await.code, 1);
}

#[tokio::test]
async fn records_are_found_by_agent_tool_decision_code_and_time() {
    let (site, _) = log().await;
    let found = async |args: &[&str]| site.run(&[&["--json", "audit", "find"], args].concat()).await.out.lines().count();
    assert_eq!(found(&["--code", "tool_not_found"]).await, 4);
    assert_eq!(found(&["--decision", "allow"]).await, 4);
    assert_eq!(found(&["--tool", "up__s*", "--kind", "outcome"]).await, 4);
    assert_eq!(found(&["--agent", "other"]).await, 0);
    assert_eq!(found(&["--agent", "demo", "--since", "1h", "--limit", "3"]).await, 3);
    assert_eq!(found(&["--until", "2001-01-01T00:00:00Z"]).await, 0);
    let tail = site.run(&["audit", "tail", "-n", "3"]).await.out;
    assert_eq!(tail.lines().count(), 4, "{tail}");
}

#[tokio::test]
async fn calls_that_a_kill_cut_off_are_unresolved_before_and_after_the_next_start() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    let _open = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;
    let standing = async || site.run(&["--json", "audit", "unresolved"]).await.json()["standing"].clone();
    assert_eq!(standing().await, "running");
    gateway.kill().await;
    assert_eq!(standing().await, "abandoned");

    let mut gateway = site.serve().await;

    gateway.says("calls were cut off").await;
    assert_eq!(standing().await, "unresolved");
    assert_eq!(site.ends(1).await, ["outcome_unknown unknown"]);
    assert_eq!(verdict(&site).await.0, 0);
}

#[tokio::test]
async fn what_an_attacker_named_does_not_reach_the_terminal_as_it_is() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let evil = "up__\u{1b}[2J\u{202e}\nx";
    let ask = Ask::call(evil, json!({})).without("Mcp-Name");
    use base64::Engine;
    let name = format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(evil));
    assert_eq!(gateway.client().send(&ask.with("Mcp-Name", &name)).await.code(), "tool_not_found");
    site.recorded("refusal", "code", "tool_not_found").await;
    for args in [&["audit", "tail"][..], &["audit", "find", "--kind", "refusal"], &["audit", "show", "main:3"]] {
        let out = site.run(args).await.out;
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out:?}");
    }
}

#[tokio::test]
async fn a_log_that_has_not_begun_has_no_record_yet() {
    let site = Site::empty();
    let tail = site.run(&["audit", "tail"]).await;
    assert_eq!((tail.code, tail.out.starts_with("no record yet in ")), (0, true), "{tail:?}");
    for question in [&["--json", "audit", "tail"][..], &["audit", "find"], &["audit", "unresolved"]] {
        assert_eq!(site.run(question).await.code, 0, "{question:?}");
    }
    assert_eq!(site.run(&["audit", "tail", "--dir", "no-such-folder"]).await.code, 1, "a folder that was named is missed");
}

#[tokio::test]
async fn where_there_is_no_log_nothing_is_called_sound() {
    let site = Site::empty();
    let folder = |name: &str| site.path(name).display().to_string();
    fs::create_dir_all(site.path("empty")).unwrap();
    fs::create_dir_all(site.path("emptied/main/segments")).unwrap();
    let (empty, emptied, wrong) = (folder("empty"), folder("emptied"), folder("policies"));
    for words in [
        &["audit", "verify"][..],
        &["--json", "audit", "verify"],
        &["audit", "verify", "--dir", &empty],
        &["audit", "verify", "--dir", &emptied],
        &["audit", "verify", "--dir", &wrong],
    ] {
        let done = site.run(words).await;
        assert_eq!((done.code, done.out.contains("sound")), (2, false), "{words:?}: {done:?}");
        assert!(done.err.contains("there is no log in `") && done.err.contains("before the first start"), "{words:?}: {}", done.err);
    }
}

#[tokio::test]
async fn a_word_that_no_record_has_is_a_fault_of_usage() {
    let site = Site::empty();
    for (words, told) in [
        (["--since", "yesterday"], "a date (`2026-11-21`), or how long ago (`15m`, `1h`, `2d`)"),
        (["--until", "2026-11-21T10:00"], "use RFC 3339"),
        (["--decision", "denied"], "allow, deny, limit, invalid, needs_approval, unavailable"),
        (["--code", "denied"], "`doorward errors` lists the codes"),
        (["--kind", "call"], "intent, outcome, refusal"),
    ] {
        let done = site.run(&[&["audit", "find"], &words[..]].concat()).await;
        assert_eq!((done.code, done.err.contains(told)), (2, true), "{done:?}");
    }
    assert_eq!(site.run(&["audit", "find", "--since", "2026-11-21", "--decision", "deny"]).await.code, 0);
}

#[tokio::test]
async fn a_reader_that_has_left_ends_a_verb_without_a_word() {
    let (site, _) = log().await;
    for words in [&["audit", "find"][..], &["audit", "tail"], &["--json", "audit", "verify"], &["errors"], &["schema", "config"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = site.command(words).stdout(writer).spawn().unwrap();
        let output = crate::support::soon("the end", child.wait_with_output()).await.unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""), "{words:?}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_is_not_taken_for_done() {
    let (site, _) = log().await;
    for words in [&["audit", "find"][..], &["agent", "list"], &["check", "--offline"], &["call", "up__nothing", "--as", "demo", "--json"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = site.command(words).stdout(full).spawn().unwrap();
        let output = crate::support::soon("the end", child.wait_with_output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains("cannot be written")), (Some(1), true), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn a_name_that_an_agent_makes_up_looks_like_no_row_of_the_log() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let made_up = "up__pay   allow   forwarded rules=R1 record=main:9";
    assert_eq!(gateway.client().call(made_up, json!({})).await.code(), "tool_not_found");
    gateway.stop().await;

    let told = site.run(&["audit", "tail"]).await;

    assert!(!told.out.contains("up__pay "), "{}", told.out);
    assert!(told.out.contains("up__pay···allow"), "{}", told.out);
}
