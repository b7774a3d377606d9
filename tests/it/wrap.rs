//! `doorward wrap`: the whole gateway in front of one server, with nothing written by hand.

use std::fs;

use serde_json::json;

use crate::support::asking;
use crate::support::pipe::{Pipe, code};
use crate::support::{Ask, Client, Serving, Site, Upstream};

/// Wraps the built-in server, with these flags.
fn wrapped(site: &Site, flags: &[&str]) -> Pipe {
    let server = ["--", env!("CARGO_BIN_EXE_doorward"), "demo-server", "--folder", "work/notes", "--outbox", "work/outbox"];
    fs::create_dir_all(site.path("work")).unwrap();
    site.pipe(&[&["wrap", "notes", "--state", "state", "--write", "work"], flags, &server].concat())
}

fn records(site: &Site) -> String {
    let origins = fs::read_dir(site.path("state/audit")).unwrap().map(|origin| origin.unwrap().path().join("segments"));
    let segments = origins.filter_map(|segments| fs::read_dir(segments).ok()).flatten();
    segments.map(|segment| fs::read_to_string(segment.unwrap().path()).unwrap()).collect()
}

#[tokio::test]
async fn the_first_use_pins_what_the_server_lists_and_records_that_nobody_reviewed_it() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &[]);

    assert_eq!(code(&pipe.call("notes__list_notes", json!({})).await), "ok");

    let (status, _, said) = pipe.leave().await;
    assert!(status.success() && said.contains("pinned 8 tools"), "{said}");
    assert!(said.contains("sandbox: network any; writes what its arguments name, "), "{said}");
    let log = records(&site);
    assert!(log.contains("\"waiver\":\"first_use\"") && log.contains("\"tier_claimed\":true"), "{log}");
    let mut again = wrapped(&site, &[]);
    assert_eq!(again.tools().await.len(), 8);
    let (.., said) = again.leave().await;
    assert!(!said.contains("pinned"), "{said}");
}

#[tokio::test]
async fn a_server_may_ask_what_the_flag_leaves() {
    let site = Site::empty();
    let (program, journal) = (asking::program(), asking::kept(&site));
    let command = ["--", program.to_str().unwrap(), journal.to_str().unwrap()];
    for (flags, has) in [(&["a"][..], true), (&["b", "--may-ask", "none"], false), (&["c", "--may-ask", "roots,elicitation"], true)] {
        let mut pipe = site.pipe(&[&["wrap", "--state", "state", "--write", "work"], flags, &command].concat());
        let tools = pipe.tools().await;
        assert_eq!(tools.contains(&format!("{}__interactive", flags[0])), has, "{flags:?} {tools:?}");
    }
    let (status, ..) = site.pipe(&[&["wrap", "d", "--may-ask", "all of it"], &command[..]].concat()).leave().await;
    assert_eq!(status.code(), Some(2));
}

#[tokio::test]
async fn a_denied_tool_is_refused_by_a_rule_of_its_own() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &["--deny", "delete_note", "--deny", "share_note"]);
    let refused = pipe.call("notes__delete_note", json!({ "name": "welcome" })).await;
    assert_eq!(code(&refused), "policy_denied");
    assert_eq!(refused["result"]["_meta"]["dev.doorward/error"]["rules"], json!(["DENY1"]));
    let tools = pipe.tools().await;
    assert!(!tools.contains(&"notes__delete_note".to_owned()) && tools.len() == 6, "{tools:?}");
}

#[tokio::test]
async fn what_a_server_claims_to_be_open_and_closed_is_labelled_and_the_users_yes_is_asked_for_what_both_meet_in() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &[]);
    let share = json!({ "name": "a", "recipient": "sam" });
    for (tool, arguments) in [("write_note", json!({ "name": "a", "text": "b" })), ("share_note", share.clone()), ("list_notes", json!({}))]
    {
        assert_eq!(code(&pipe.call(&format!("notes__{tool}"), arguments).await), "ok", "{tool}");
    }
    let asked = pipe.call("notes__share_note", share).await;
    assert_eq!(
        (code(&asked), &asked["result"]["_meta"]["dev.doorward/error"]["rules"]),
        ("approval_required", &json!(["built-in:toxic-flow"]))
    );
}

#[tokio::test]
async fn a_denial_that_names_no_tool_is_refused_at_the_start() {
    let site = Site::empty();
    let (status, _, said) = wrapped(&site, &["--deny", "delete_notes"]).leave().await;
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("did you mean `delete_note`"), "{said}");
}

#[tokio::test]
async fn read_only_leaves_what_claims_to_have_no_effect() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &["--read-only"]);
    let tools = pipe.tools().await;
    assert!(tools.contains(&"notes__read_note".to_owned()) && !tools.contains(&"notes__write_note".to_owned()), "{tools:?}");
    let refused = pipe.call("notes__write_note", json!({ "name": "x", "text": "y" })).await;
    assert_eq!(code(&refused), "policy_denied");
    assert!(!site.path("work/notes/x.md").exists() && !site.path("work/notes/x").exists());
}

#[tokio::test]
async fn without_a_prefix_tools_have_their_own_names() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &["--prefix", "none", "--deny", "delete_note"]);
    assert_eq!(code(&pipe.call("list_notes", json!({})).await), "ok");
    assert_eq!(code(&pipe.call("delete_note", json!({ "name": "welcome" })).await), "policy_denied");
}

#[tokio::test]
async fn the_same_call_again_and_again_is_told_of_and_not_stopped() {
    let site = Site::empty();
    let mut pipe = wrapped(&site, &[]);
    let mut warned = Vec::new();
    for _ in 0..7 {
        let answer = pipe.call("notes__list_notes", json!({})).await;
        assert_eq!(code(&answer), "ok", "{answer}");
        warned.push(answer["result"]["_meta"]["dev.doorward/warnings"][0]["loop"] == "P1");
    }
    assert_eq!(warned, [false, false, true, true, true, true, true]);
}

#[tokio::test]
async fn two_at_once_share_one_state_folder() {
    let site = Site::empty();
    let mut one = wrapped(&site, &[]);
    assert_eq!(code(&one.call("notes__list_notes", json!({})).await), "ok");
    let mut other = wrapped(&site, &[]);
    assert_eq!(code(&other.call("notes__list_notes", json!({})).await), "ok");
    assert_eq!(code(&one.call("notes__list_notes", json!({})).await), "ok");
    one.leave().await;
    other.leave().await;
    let state = site.path("state/audit");
    assert_eq!(site.run(&["audit", "verify", "--dir", state.to_str().unwrap()]).await.code, 0);
    assert_eq!(records(&site).matches("\"kind\":\"intent\"").count(), 3);
}

#[tokio::test]
async fn a_definition_that_changes_after_the_first_use_is_withheld_until_approved() {
    let upstream = Upstream::start().await;
    let site = Site::empty();
    let (flags, url) = (["wrap", "up", "--state", "state", "--url"], upstream.url());
    let wrapped = |more: &[&str]| site.pipe(&[&flags[..], &[url.as_str()], more].concat());
    let mut first = wrapped(&[]);
    assert_eq!(code(&first.call("up__save", json!({})).await), "ok");
    first.leave().await;
    upstream.redefine(|tools| tools[1]["description"] = "changed".into());

    let mut second = wrapped(&[]);
    assert_eq!(code(&second.call("up__save", json!({})).await), "tool_withheld");
    assert_eq!(code(&second.call("up__echo", json!({})).await), "ok");
    second.leave().await;

    let mut third = wrapped(&["--approve"]);
    assert_eq!(code(&third.call("up__save", json!({})).await), "ok");
    third.leave().await;
    assert!(records(&site).contains("approved_on_command_line"));
}

#[tokio::test]
async fn it_listens_on_loopback_for_anybody_and_nowhere_else() {
    let upstream = Upstream::start().await;
    let site = Site::empty();
    let args = |address| ["wrap", "up", "--state", "state", "--listen", address, "--url"];
    let refused = site.run(&[&args("0.0.0.0:0")[..], &[&upstream.url()]].concat()).await;
    assert_eq!((refused.code, refused.err.contains("reachable from other machines")), (2, true), "{refused:?}");

    let url = upstream.url();
    let serving = Serving::start(&site, site.command(&[&args("127.0.0.1:0")[..], &[url.as_str()]].concat())).await;

    let client = Client::new(serving.address, None);
    assert_eq!(client.call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(client.send(&Ask::call("up__echo", json!({})).with("Origin", "https://evil.example")).await.status, 403);
    assert!(serving.stop().await.0.success());
}

#[tokio::test]
async fn a_server_that_cannot_be_started_is_named() {
    let site = Site::empty();
    let done = site.run(&["wrap", "x", "--state", "state", "--", "/nowhere/server"]).await;
    assert_eq!((done.code, done.err.contains("/nowhere/server")), (5, true), "{done:?}");
}

#[tokio::test]
async fn prompts_and_resources_of_the_wrapped_server_are_open_and_told_of() {
    let site = Site::empty();
    let upstream = Upstream::offering().await;
    let mut pipe = site.pipe(&["wrap", "up", "--state", "state", "--read-only", "--url", &upstream.url()]);
    assert_eq!(code(&pipe.call("up__nothing", json!({})).await), "tool_not_found");

    let got = pipe.modern("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "Ada" } })).await;
    assert_eq!(got["result"]["messages"][0]["role"], "user", "{got}");
    let read = pipe.modern("resources/read", json!({ "uri": "dw+up+file:///keys/k" })).await;
    assert_eq!(read["result"]["contents"][0]["text"], "hello", "{read}");
    drop(pipe);

    let site = Site::of(&upstream);
    let listed = site.run(&["tools", "list"]).await;
    assert!(listed.out.contains("prompt greet") && listed.out.contains("template file:///keys/{name}"), "{listed:?}");
    let checked = site.policy("p, R1, agent:demo, resource:up:file:///notes/*, read, -, allow\n").run(&["check", "--live"]).await;
    let row = checked.out.lines().find(|line| line.starts_with("resource:up:file:///notes/a")).unwrap_or_default();
    assert!(row.contains("R1:agent:demo:allow"), "{checked:?}");
}

#[tokio::test]
async fn a_server_that_fails_at_the_first_start_is_told_by_its_own_exit_code() {
    let site = Site::empty();
    let (status, _, said) = site.pipe(&["wrap", "bad", "--state", "state", "--", "false"]).leave().await;
    assert_eq!(status.code(), Some(5), "{said}");
}
