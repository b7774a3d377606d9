//! Starting while everything else is down, stopping while calls run, and what operators see meanwhile.

use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::serving::address_after;
use crate::support::{Ask, Does, Site, Upstream, until};

#[tokio::test]
async fn it_serves_at_once_while_a_server_does_not_even_answer() {
    // Connections are taken by the system and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::start().await;
    let transport = format!("transport: {{ http: {{ url: \"http://{}/mcp\" }} }}\n", silent.local_addr().unwrap());
    let manifest = format!("{transport}defaults: {{ connect_grace_ms: 100 }}\ntools:\n  save: {{ tier: reversible }}\n");
    let site = Site::of(&upstream).manifest("slow", &manifest).pinned("slow", &upstream.tools());
    let site = site.policy("p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, slow__*, reversible, -, allow\n");
    let mut gateway = site.serve().await;

    assert!(gateway.client().tools().await.contains(&"slow__save".to_owned()));
    assert_eq!(gateway.client().call("slow__save", json!({})).await.told(), "upstream_unavailable none");
    assert_eq!(gateway.client().call("up__save", json!({})).await.code(), "ok");
    assert_eq!(gateway.console("/readyz").await.0, 200);
    assert!(gateway.stop().await.0.success());
}

#[tokio::test]
async fn a_running_call_finishes_before_the_process_ends() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let mut gateway = site.serve().await;
    let open = gateway.client().open(&Ask::call("up__save", json!({ "text": "x".repeat(300_000) }))).await;
    upstream.got(1).await;

    gateway.signal(Signal::TERM);
    gateway.says("stopping: running calls may finish").await;
    go.cancel();
    let answer = open.answer().await;
    let (status, ..) = gateway.ended().await;

    assert_eq!((answer.code().as_str(), status.code()), ("ok", Some(0)));
    assert!(answer.body.len() > 300_000);
    assert_eq!(site.ends(1).await, ["ok done"]);
    assert_eq!(site.records().last().unwrap()["action"], "stop");
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cancelled_with_a_record() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("drain_timeout_ms: 100");
    upstream.does("save", Does::Hangs);
    let gateway = site.serve().await;
    let open = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;

    let (status, ..) = gateway.stop().await;

    assert!(status.success());
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
    assert_eq!(open.answer().await.code(), "cancelled");
}

#[tokio::test]
async fn while_it_stops_nothing_new_is_begun() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("stdio: { agent: demo }");
    let go = CancellationToken::new();
    upstream.does("save", Does::Waits(go.clone()));
    let mut gateway = site.serve().await;
    let open = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;

    gateway.signal(Signal::TERM);
    gateway.says("stopping: running calls may finish").await;

    until("not ready", async || (gateway.console("/readyz").await.0 == 503).then_some(())).await;
    assert_eq!(gateway.console("/healthz").await.0, 200);
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err(), "no new connection is taken");
    go.cancel();
    assert_eq!(open.answer().await.code(), "ok");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_call_whose_gateway_dies_is_told_that_its_effect_is_unknown() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    upstream.does("save", Does::Hangs);
    for (calls, args) in [&["call", "up__save", "--as", "demo"][..], &["--json", "call", "up__save", "--as", "demo"]].iter().enumerate() {
        let gateway = site.serve().await;
        let dies = async {
            upstream.got(calls + 1).await;
            gateway.kill().await;
        };

        let (done, ()) = tokio::join!(site.run(args), dies);

        let (told, unknown) = (format!("{}{}", done.out, done.err), ["effect      unknown", "\"effect\":\"unknown\""][calls]);
        assert_eq!((done.code, told.contains("outcome_unknown"), told.contains(unknown)), (5, true, true), "{done:?}");
    }
}

#[tokio::test]
async fn sighup_reads_everything_again() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.signal(Signal::HUP);
    let reload = site.recorded("policy_change", "actor", "SIGHUP").await;
    assert_eq!(reload["action"], "reload");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn the_console_tells_health_and_metrics_and_only_to_this_machine() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;
    gateway.client().call("up__echo", json!({})).await;
    gateway.client().call("up__nothing", json!({})).await;
    assert_eq!(gateway.console("/healthz").await, (200, "alive\n".to_owned()));
    assert_eq!(gateway.console("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(gateway.console("/other").await.0, 404);
    let (status, metrics) = gateway.console("/metrics").await;
    assert!(status == 200 && metrics.ends_with("# EOF\n") && metrics.contains("tool_not_found"), "{metrics}");
}

#[tokio::test]
async fn those_who_ask_the_console_for_nothing_keep_nobody_from_it() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let mut gateway = site.serve().await;
    let text = gateway.says("health and metrics at ").await;
    let address = address_after(&text, "health and metrics at ");

    // One after the other they would take up to five seconds for each 32 of them.
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /h").await.unwrap();
        silent.push(socket);
    }

    assert_eq!(gateway.console("/healthz").await, (200, "alive\n".to_owned()));
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_is_refused_in_words() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;

    let second = site.run(&["serve"]).await;

    assert_ne!(second.code, 0);
    assert!(second.err.contains("another") || second.err.contains("in use") || second.err.contains("running"), "{}", second.err);
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert_eq!(site.run(&["--json", "audit", "verify"]).await.code, 0);
}

#[tokio::test]
async fn after_a_kill_the_next_start_takes_over() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    gateway.kill().await;
    assert!(site.path("var/doorward.sock").exists(), "the socket of the dead is left behind");

    let gateway = site.serve().await;

    assert_eq!(site.run(&["call", "up__echo", "--as", "demo"]).await.code, 0);
    assert_eq!(site.recorded("intent", "origin", "main").await["transport"], "admin");
    gateway.stop().await;
    assert!(!site.path("var/doorward.sock").exists());
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_wrong_file_are_told_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::empty().address(&taken.local_addr().unwrap().to_string());
    let done = site.run(&["serve"]).await;
    assert_eq!((done.code, done.err.contains("listen.http")), (1, true), "{done:?}");
    for (lines, place) in [("nonsense: 1", "doorward.yaml:"), ("audit: { durability: { read: maybe } }", "doorward.yaml:")] {
        let done = Site::empty().config(lines).run(&["serve"]).await;
        assert_eq!((done.code, done.err.contains(place)), (2, true), "{done:?}");
    }
    let elsewhere = site.run(&["serve", "--config", "nowhere.yaml"]).await;
    assert_eq!((elsewhere.code, elsewhere.err.contains("there is no such file")), (2, true), "{elsewhere:?}");
}

#[tokio::test]
async fn a_child_server_ends_with_the_gateway_however_it_ends() {
    let site = Site::of_demo();
    for kills in [false, true] {
        let gateway = site.serve().await;
        assert_eq!(gateway.client().call("demo__list_notes", json!({})).await.code(), "ok");
        let child = children(&site);
        assert_eq!(child.len(), 1, "{child:?}");
        if kills {
            gateway.signal(Signal::KILL)
        } else {
            gateway.signal(Signal::TERM)
        }
        drop(gateway.ended().await);
        until("the end of the child", async || children(&site).is_empty().then_some(())).await;
    }
}

/// The processes that run in the site's folder as demo servers.
fn children(site: &Site) -> Vec<String> {
    let folder = site.path("").canonicalize().unwrap();
    let here = |path: &std::path::Path| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == folder);
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let lines = processes.filter(|path| here(path)).filter_map(|path| std::fs::read_to_string(path.join("cmdline")).ok());
    lines.filter(|line| line.contains("demo-server")).collect()
}
