//! Servers on pipes: eras, faults, and the end of their processes.

use std::path::PathBuf;
use std::time::Duration;

use doorward::upstream::{Dialect, Event, Notice, Revision, Spec};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::{Call, Fixture, names, spec, told};

pub fn server(mode: &str) -> Spec {
    spec(&json!({"stdio": {"command": program(), "args": [mode], "env": {"GIVEN": "1"}, "sandbox": {"network": "any"}}}))
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples/stdio_server");
    assert!(program.exists(), "{} is missing: run the tests without a target filter, or build the examples", program.display());
    program
}

async fn connected(mode: &str) -> Fixture {
    Fixture::connected(server(mode)).await
}

/// Has the server start a process of its own; a connection to each of the two, which ends with it.
async fn family(fixture: &Fixture) -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Call { arguments: json!({"port": port}).to_string(), ..Call::of("grandchild") }.send(&fixture.upstream).await.unwrap();
    [listener.accept().await.unwrap().0, listener.accept().await.unwrap().0]
}

/// Waits until the process at the other end has ended.
async fn ended(mut process: TcpStream) {
    assert!(matches!(crate::soon(process.read(&mut [0])).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn every_era_is_found_out() {
    let modern = Revision::V2026_07_28;
    for (mode, version) in [("modern", modern), ("slow", modern), ("legacy", Revision::V2025_06_18), ("silent", Revision::V2025_06_18)] {
        let mut fixture = connected(mode).await;
        let listing = fixture.listing().await;
        assert_eq!((listing.version, names(&listing)), (version, vec!["echo".to_owned()]), "{mode}");
        assert_eq!(fixture.call("echo").await.unwrap()["arguments"], json!({"n": 1.0}), "{mode}");
        fixture.upstream.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_over_the_probe_is_spared_it_next_time() {
    let fixture = Fixture::start(server("fragile"));
    fixture.failure().await;
    while fixture.upstream.ready(Duration::from_secs(30)).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.call("seen").await.unwrap(), json!(["initialize", "notifications/initialized", "tools/list", "tools/call"]));
}

#[tokio::test]
async fn a_remembered_legacy_server_is_not_probed() {
    let mut spec = server("legacy");
    spec.remembered = Some(Dialect::Legacy);
    let fixture = Fixture::connected(spec).await;
    assert_eq!(fixture.call("seen").await.unwrap()[0], "initialize");
}

#[tokio::test]
async fn a_wrong_memory_is_corrected() {
    let mut spec = server("modern");
    spec.remembered = Some(Dialect::Legacy);
    let mut fixture = Fixture::start(spec);
    fixture.failure().await;
    assert_eq!(fixture.listing().await.version, Revision::V2026_07_28);
}

#[tokio::test]
async fn a_server_that_dies_with_a_call_leaves_it_unknown_and_comes_back() {
    let mut fixture = connected("modern").await;
    let error = fixture.call("die").await.unwrap_err();
    assert_eq!((told(&error), error.is_retryable()), (("upstream_disconnected", "unknown"), false));
    assert!(matches!(fixture.event().await, Event::Lost { .. }));
    for _ in 0..2 {
        fixture.listing().await;
    }
    while fixture.upstream.ready(Duration::from_secs(30)).await.is_err() {
        tokio::task::yield_now().await;
    }
    fixture.call("echo").await.unwrap();
}

#[tokio::test]
async fn the_last_words_of_a_server_are_heard() {
    let fixture = connected("modern").await;
    assert_eq!(fixture.call("die_answering").await.unwrap()["said"], "last words");
}

#[tokio::test]
async fn a_line_beyond_the_limit_ends_the_connection() {
    let mut spec = server("modern");
    spec.max_message_bytes = 100_000;
    let mut fixture = Fixture::connected(spec).await;
    assert_eq!(told(&fixture.call("long_line").await.unwrap_err()), ("upstream_protocol_error", "unknown"));
    let Event::Lost { reason } = fixture.event().await else { panic!("not lost") };
    assert!(reason.contains("100000 bytes"), "{reason}");
}

#[tokio::test]
async fn lines_that_are_not_mcp_are_left_out() {
    assert_eq!(connected("modern").await.call("junk").await.unwrap()["said"], "after junk");
}

#[tokio::test]
async fn a_server_that_writes_something_else_without_an_end_is_given_up_with_the_reason() {
    let fixture = Fixture::start(spec(&json!({"stdio": {"command": "yes"}})));
    let reason = fixture.failure().await;
    assert!(reason.contains("more than 500 lines at once are no messages; the last begins `y`"), "{reason}");
}

#[tokio::test]
async fn a_server_that_writes_something_else_among_its_messages_is_lost_with_the_reason() {
    let mut fixture = connected("modern").await;
    assert_eq!(told(&fixture.call("babble").await.unwrap_err()), ("upstream_protocol_error", "unknown"));
    let Event::Lost { reason } = fixture.event().await else { panic!("not lost") };
    assert!(reason.contains("more than 10000 lines"), "{reason}");
}

#[tokio::test]
async fn a_server_that_begins_with_some_plain_lines_is_understood() {
    let script = "i=0; while [ $i -lt 400 ]; do echo \"loading $i\"; echo; i=$((i + 2)); done; exec \"$0\" modern";
    let fixture = Fixture::connected(spec(&json!({"stdio": {"command": "sh", "args": ["-c", script, program()]}}))).await;
    assert_eq!(fixture.call("junk").await.unwrap()["said"], "after junk");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_ends_its_call_at_once_and_no_other() {
    let fixture = connected("modern").await;
    let waiting = Call::of("never");
    let unreadable = async {
        for how in ["doubled", "deep", "bad text", "cut off", "without result"] {
            let call = Call { arguments: json!({"how": how}).to_string(), limit: Duration::from_secs(5), ..Call::of("unreadable") };
            assert_eq!(told(&call.send(&fixture.upstream).await.unwrap_err()), ("upstream_protocol_error", "unknown"), "{how}");
            // In between an answer, or the breaker would open.
            fixture.call("echo").await.unwrap();
        }
    };
    tokio::select! {
        _ = waiting.send(&fixture.upstream) => panic!("another call has ended"),
        () = unreadable => {}
    }
}

#[tokio::test]
async fn a_cancelled_call_is_told_and_its_late_answer_is_reported() {
    for mode in ["modern", "legacy"] {
        let mut fixture = connected(mode).await;
        let call = Call { limit: Duration::from_millis(50), ..Call::of("never") };
        assert_eq!(told(&call.send(&fixture.upstream).await.unwrap_err()), ("upstream_timeout", "unknown"));
        let Event::Late { calls } = fixture.event().await else { panic!("not late") };
        assert_eq!(calls.take(), (vec![7], 0), "{mode}");
        assert!(fixture.call("seen").await.unwrap().as_array().unwrap().contains(&json!("notifications/cancelled")));
    }
}

#[tokio::test]
async fn a_second_answer_is_reported_and_changes_nothing() {
    let mut fixture = connected("modern").await;
    fixture.call("twice").await.unwrap();
    let Event::Late { calls } = fixture.event().await else { panic!("not late") };
    assert_eq!(calls.take(), (vec![7], 0));
}

#[tokio::test]
async fn progress_finds_its_call() {
    let fixture = connected("legacy").await;
    let (notices, mut told) = mpsc::channel(8);
    let call = Call { notices: Some(notices), ..Call::of("progress") };
    assert_eq!(call.send(&fixture.upstream).await.unwrap().text(), br#"{"token_is_id":true}"#);
    assert_eq!(crate::soon(told.recv()).await, Some(Notice::Progress(r#"{"progress":1}"#.into())));
}

#[tokio::test]
async fn a_server_that_asks_is_answered_and_refused() {
    let mut fixture = connected("legacy").await;
    assert_eq!(fixture.call("ask").await.unwrap()["refused_with"], -32601);
    let Event::Refused { requests } = fixture.event().await else { panic!("not refused") };
    assert_eq!(requests.take().0[0].method, "sampling/createMessage");
}

#[tokio::test]
async fn changed_tools_are_listed_again() {
    for mode in ["modern", "legacy"] {
        let mut fixture = connected(mode).await;
        fixture.listing().await;
        fixture.call("change").await.unwrap();
        assert_eq!(names(&fixture.listing().await), ["echo", "new"]);
    }
}

#[tokio::test]
async fn a_server_has_only_the_environment_that_it_was_given() {
    let names = connected("modern").await.call("environment").await.unwrap();
    let allowed = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "GIVEN"];
    assert!(names.as_array().unwrap().iter().all(|name| allowed.contains(&name.as_str().unwrap())), "{names}");
    assert!(names.as_array().unwrap().contains(&json!("GIVEN")));
}

#[tokio::test]
async fn a_server_that_reads_no_more_delays_a_call_no_longer_than_its_deadline() {
    let fixture = connected("modern").await;
    fixture.call("deaf").await.unwrap();
    let big = || Call { arguments: format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20)), limit: Duration::from_millis(50), ..Call::of("echo") };
    let (first, second) = (big(), big());
    let (one, other) = tokio::join!(first.send(&fixture.upstream), second.send(&fixture.upstream));
    assert_eq!(told(&one.unwrap_err()), ("upstream_timeout", "unknown"));
    assert_eq!(told(&other.unwrap_err()), ("upstream_unavailable", "none"));
    assert!(!second.sent.has_left());
}

#[tokio::test]
async fn stopping_ends_the_whole_group_of_a_server_that_ignores_everything() {
    let fixture = connected("stubborn").await;
    let processes = family(&fixture).await;
    // The server gives no sign of its end, so only the clock moves on.
    tokio::time::pause();
    fixture.upstream.stop().await;
    tokio::time::resume();
    for process in processes {
        ended(process).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_takes_its_group_with_it() {
    let fixture = connected("modern").await;
    let processes = family(&fixture).await;
    fixture.call("die").await.unwrap_err();
    for process in processes {
        ended(process).await;
    }
}

#[test]
fn a_runtime_that_is_torn_down_takes_the_group_with_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let processes = runtime.block_on(async {
        let fixture = connected("stubborn").await;
        let processes = family(&fixture).await.map(|process| process.into_std().unwrap());
        // Nobody stops it: as after a panic, its tasks are only dropped.
        std::mem::forget(fixture);
        processes
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for process in processes {
            ended(TcpStream::from_std(process).unwrap()).await;
        }
    });
}

#[tokio::test]
async fn calls_under_way_end_when_the_upstream_is_stopped() {
    let fixture = connected("modern").await;
    let call = Call::of("never");
    let stop = async {
        while !call.sent.has_left() {
            tokio::task::yield_now().await;
        }
        fixture.upstream.stop().await;
    };
    let (outcome, ()) = tokio::join!(call.send(&fixture.upstream), stop);
    assert_eq!(told(&outcome.unwrap_err()), ("upstream_disconnected", "unknown"));
}
