//! The table of codes, its page, and how typical errors look on the wire. `UPDATE_GOLDEN=1` writes the files anew; the
//! difference is for review, since agents and scripts rely on every number.

use std::fmt::Write;

use doorward::error::{Code, Retry};
use serde_json::{Value, json};

use crate::support::site::shipped;
use crate::support::{Answer, Ask, Does, Site, Upstream};

fn golden(path: &str, text: &str) {
    let file = shipped(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == text, "{path} differs; look at it with UPDATE_GOLDEN=1 and `git diff`");
}

fn retry(code: Code) -> &'static str {
    match code.facts().retry {
        Retry::Never => "never: the same call will end the same way",
        Retry::Safe => "yes: nothing was done",
        Retry::IfIdempotent => "only a tool that the manifest declares idempotent, or one that reads",
    }
}

#[test]
fn no_code_and_no_number_ever_changes() {
    let mut table = String::new();
    for code in Code::ALL {
        let facts = code.facts();
        let (category, retry) = (facts.category.as_str(), format!("{:?}", facts.retry));
        writeln!(table, "{} {category} {} {} exit {} {retry}", facts.code, facts.jsonrpc, facts.http, facts.exit).unwrap();
    }
    golden("tests/golden/errors.txt", &table);
}

#[test]
fn numbers_of_our_own_are_used_once_and_stay_in_their_block() {
    let mut own: Vec<i32> =
        Code::ALL.iter().map(|code| code.facts().jsonrpc).filter(|number| (-31_099..=-31_000).contains(number)).collect();
    let all = own.len();
    own.sort_unstable();
    own.dedup();
    assert_eq!(own.len(), all);
    let standard = [-32_600, -32_601, -32_602, -32_603, -32_020, -32_021, -32_022];
    for code in Code::ALL.iter().filter(|code| !own.contains(&code.facts().jsonrpc)) {
        assert!(standard.contains(&code.facts().jsonrpc), "{code:?}");
    }
}

/// What the source says of each code, in the order of the table.
fn meanings() -> Vec<String> {
    let source = std::fs::read_to_string(shipped("src/error.rs")).unwrap();
    let table = source.split("\ncodes! {").nth(1).unwrap();
    table.lines().filter_map(|line| line.trim().strip_prefix("/// ")).take(Code::ALL.len()).map(str::to_owned).collect()
}

#[test]
fn every_code_has_its_section_in_the_page_that_errors_point_to() {
    let mut page = String::from(
        "# Errors\n\nEvery refusal and failure has one of these codes, on every transport, with the members that \
         [Connecting an agent](agents.md#errors) explains.\nThe JSON-RPC number and the HTTP status are those of a JSON-RPC error; a refused \
         `tools/call` of a sound envelope is a result with\n`isError` and HTTP 200. The exit code is that of `doorward call`. \
         `doorward errors` prints the same table.\n",
    );
    for (code, meaning) in Code::ALL.iter().zip(meanings()) {
        let facts = code.facts();
        let others: String = code.other_statuses().iter().map(|(status, when)| format!("| HTTP {status} | {when} |\n")).collect();
        write!(
            page,
            "\n## {}\n\n{meaning}\n\n| | |\n|---|---|\n| category | `{}` |\n| JSON-RPC, HTTP, exit code | {}, {}, {} |\n{others}| retry | {} |\n| next | {} |\n",
            facts.code,
            facts.category.as_str(),
            facts.jsonrpc,
            facts.http,
            facts.exit,
            retry(*code),
            facts.suggestion
        )
        .unwrap();
    }
    golden("docs/errors.md", &page);
}

#[tokio::test]
async fn the_command_line_prints_every_code() {
    let site = Site::empty();
    let printed = site.run(&["--json", "errors"]).await.json();
    let printed: Vec<&str> = printed.as_array().unwrap().iter().map(|code| code["code"].as_str().unwrap()).collect();
    assert_eq!(printed, Code::ALL.iter().map(|code| code.facts().code).collect::<Vec<_>>());
    let limited = site.run(&["errors", "rate_limited"]).await.out;
    assert!(limited.contains("HTTP        200\n              429: "), "{limited}");
    let wrong = site.run(&["errors", "polcy_denied"]).await;
    assert_eq!((wrong.code, wrong.err.contains("`policy_denied`")), (2, true), "{wrong:?}");
}

/// The body with what differs from run to run taken out.
fn steady(answer: &Answer) -> String {
    let mut json = answer.json();
    if let Some(id) = json.get_mut("id") {
        *id = json!("ID");
    }
    let text = serde_json::to_string_pretty(&json).unwrap();
    text.replace(answer.error()["invocation"].as_str().unwrap(), "INVOCATION")
}

#[tokio::test]
async fn typical_errors_look_on_the_wire_as_they_always_did() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).defaults(&upstream, "timeout_ms: 50");
    let site = site.policy("p, R1, agent:demo, up__*, reversible, -, allow\np, D1, role:any, up__pay, any, -, deny\n");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    let client = gateway.client();
    let session = client.initialize("2025-11-25").await;
    let mut text = String::new();
    for (name, answer) in [
        ("no key", gateway.nobody().call("up__echo", json!({})).await),
        ("a header that differs", client.send(&Ask::call("up__echo", json!({})).having("Mcp-Name", "x")).await),
        ("no such tool", client.call("up__ecko", json!({})).await),
        ("arguments that break the schema", client.call("up__echo", json!({ "amount": -1, "text": 7 })).await),
        ("a rule that forbids", client.call("up__pay", json!({})).await),
        ("no answer in time", client.call("up__save", json!({})).await),
        ("a rule that forbids, in a revision with a handshake", client.send(&session.call("up__pay", &json!({}))).await),
    ] {
        write!(text, "## {name}\nHTTP {}\n{}\n\n", answer.status, steady(&answer)).unwrap();
    }
    golden("tests/golden/wire.txt", &text);
}

#[tokio::test]
async fn every_error_points_to_its_section_and_has_every_member() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let page = std::fs::read_to_string(shipped("docs/errors.md")).unwrap();
    for answer in [gateway.nobody().call("up__echo", json!({})).await, gateway.client().call("up__nothing", json!({})).await] {
        let error = answer.error();
        let section = error["docs"].as_str().unwrap().strip_prefix("docs/errors.md#").unwrap();
        assert!(page.contains(&format!("\n## {section}\n")), "{section}");
        for member in ["code", "category", "message", "suggestion", "effect", "origin", "invocation"] {
            assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {error}");
        }
        assert!(matches!(error["retryable"], Value::Bool(_)));
    }
}
