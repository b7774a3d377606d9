//! Checkpoints reach places that the log's disk is not, and a place that fails holds nothing up.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorward::audit::checkpoint::Checkpoint;
use doorward::audit::note::Note;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixDatagram};

use crate::support::{Site, Upstream, soon, until};

fn covered(note: &str) -> u64 {
    let note = Note::parse(note).unwrap();
    Checkpoint::parse(note.unchecked_text()).unwrap().last().unwrap()
}

async fn with_anchor(anchor: &str) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config(&format!("audit: {{ anchors: [ {{ {anchor} }} ] }}"));
    (upstream, site)
}

fn last_record(site: &Site) -> u64 {
    site.records().last().unwrap()["seq"].as_u64().unwrap()
}

/// A server that keeps what is put there, and answers with the status it is told; one that is told `false` keeps nothing.
struct Store {
    address: std::net::SocketAddr,
    got: Arc<Mutex<Vec<(String, HeaderMap, String)>>>,
    status: Arc<Mutex<StatusCode>>,
    keeps: Arc<AtomicBool>,
}

impl Store {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(StatusCode::CREATED)));
        let keeps = Arc::new(AtomicBool::new(true));
        let (all, says, may_keep) = (Arc::clone(&got), Arc::clone(&status), Arc::clone(&keeps));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (all, says, may_keep) = (Arc::clone(&all), Arc::clone(&says), Arc::clone(&may_keep));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (all, says, may_keep) = (Arc::clone(&all), Arc::clone(&says), Arc::clone(&may_keep));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                        let mut response = Response::new(Full::new(Bytes::new()));
                        *response.status_mut() = *says.lock().unwrap();
                        if head.method == http::Method::GET {
                            let wanted = format!("PUT {}", head.uri.path());
                            let is_it = |(name, ..): &&(String, HeaderMap, String)| name.is_empty() || *name == wanted;
                            let kept = all.lock().unwrap().iter().find(is_it).map(|(_, _, body)| body.clone());
                            *response.status_mut() = if kept.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                            *response.body_mut() = Full::new(Bytes::from(kept.unwrap_or_default()));
                        } else if may_keep.load(Ordering::Relaxed) {
                            all.lock().unwrap().push((format!("{} {}", head.method, head.uri.path()), head.headers, body));
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self { address, got, status, keeps }
    }

    fn says(&self, status: StatusCode) {
        *self.status.lock().unwrap() = status;
    }

    fn got(&self) -> Vec<(String, HeaderMap, String)> {
        self.got.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_stop_leaves_the_whole_log_covered_in_a_file_on_another_volume() {
    let (_upstream, site) = with_anchor("file: { path: elsewhere/anchors }").await;
    std::fs::create_dir(site.path("elsewhere")).unwrap();
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert!(gateway.stop().await.0.success());

    let notes = std::fs::read_to_string(site.path("elsewhere/anchors")).unwrap();
    let last = notes.rfind("doorward/main\n").map(|at| notes[at..].trim_end()).unwrap();
    assert_eq!(covered(&format!("{last}\n")), last_record(&site));
    let standing: Value = serde_json::from_str(&std::fs::read_to_string(site.path("var/audit/main/anchored.json")).unwrap()).unwrap();
    let (name, standing) = standing.as_object().unwrap().iter().next().unwrap();
    assert!(name.starts_with("file ") && name.ends_with("elsewhere/anchors"), "{name}");
    assert_eq!(standing["records"], last_record(&site));
}

#[tokio::test]
async fn each_checkpoint_is_put_under_a_name_of_its_own_with_the_token_and_replaces_nothing() {
    let store = Store::start().await;
    let (_upstream, site) =
        with_anchor(&format!("put: {{ url: \"http://{}/evidence/\", bearer: {{ from_env: STORE_TOKEN }} }}", store.address)).await;
    let site = site.env("STORE_TOKEN", "s3cret");
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert!(gateway.stop().await.0.success());

    let all = store.got();
    let (request, headers, note) = all.last().unwrap();
    assert_eq!(*request, format!("PUT /evidence/doorward/main/{:020}", last_record(&site)));
    assert_eq!((headers["if-none-match"].to_str().unwrap(), headers["authorization"].to_str().unwrap()), ("*", "Bearer s3cret"));
    assert_eq!(covered(note), last_record(&site));
}

#[tokio::test]
async fn a_store_that_fails_is_said_once_and_holds_up_no_call_and_no_stop() {
    let store = Store::start().await;
    store.says(StatusCode::SERVICE_UNAVAILABLE);
    let (_upstream, site) = with_anchor(&format!("put: {{ url: \"http://{}\" }}", store.address)).await;
    let mut gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let said = gateway.says("a checkpoint could not be anchored").await;
    assert!(said.contains("503"), "{said}");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_audit_anchored_records{anchor=\"put http://"), "{metrics}");
    assert!(gateway.stop().await.0.success());
}

#[tokio::test]
async fn a_store_that_says_yes_and_keeps_nothing_is_found_out() {
    let store = Store::start().await;
    store.keeps.store(false, Ordering::Relaxed);
    let (_upstream, site) = with_anchor(&format!("put: {{ url: \"http://{}\" }}", store.address)).await;
    let mut gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let said = gateway.says("a checkpoint could not be anchored").await;
    assert!(said.contains("does not have it") && said.contains("404"), "{said}");
    let metrics = gateway.console("/metrics").await.1;
    let held = metrics.lines().find(|line| line.starts_with("doorward_audit_anchored_records{anchor=\"put http://")).unwrap();
    assert!(held.ends_with(" 0"), "{held}");
    assert!(gateway.stop().await.0.success());
}

#[tokio::test]
async fn a_store_that_never_answers_holds_up_no_call_and_no_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_upstream, site) = with_anchor(&format!("put: {{ url: \"http://{}\" }}", listener.local_addr().unwrap())).await;
    let gateway = site.serve().await;
    // Taken, and never read.
    let _held = soon("a connection", listener.accept()).await.unwrap();
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let (status, said, _) = gateway.stop().await;
    assert!(status.success() && said.contains("an anchor did not take the last checkpoint in time"), "{said}");
    assert_eq!(site.records().last().unwrap()["action"], "stop");
}

#[tokio::test]
async fn a_systems_log_that_is_not_there_is_said_once() {
    let (_upstream, site) = with_anchor("syslog: { to: /no/such/socket, every_s: 1 }").await;
    let mut gateway = site.serve().await;
    let said = gateway.says("a checkpoint could not be anchored").await;
    assert!(said.contains("syslog /no/such/socket"), "{said}");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert!(gateway.stop().await.0.success());
}

#[tokio::test]
async fn a_volume_that_hangs_holds_up_no_call_and_no_stop() {
    let (_upstream, site) = with_anchor("file: { path: pipe, every_s: 1 }").await;
    // Opening a pipe that nobody reads waits for ever.
    assert!(Command::new("mkfifo").arg(site.path("pipe")).status().unwrap().success());
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let (status, said, _) = gateway.stop().await;
    assert!(status.success() && said.contains("an anchor did not take the last checkpoint in time"), "{said}");
    assert_eq!(site.records().last().unwrap()["action"], "stop");
}

#[tokio::test]
async fn another_checkpoint_where_ours_belongs_is_not_taken_for_it() {
    let store = Store::start().await;
    store.got.lock().unwrap().push((String::new(), HeaderMap::new(), "of another log".to_owned()));
    store.says(StatusCode::PRECONDITION_FAILED);
    let (_upstream, site) = with_anchor(&format!("put: {{ url: \"http://{}\" }}", store.address)).await;
    let mut gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let said = gateway.says("a checkpoint could not be anchored").await;
    assert!(said.contains("another checkpoint"), "{said}");
}

#[tokio::test]
async fn a_line_for_the_systems_log_and_for_a_collector_holds_the_whole_note() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let socket = UnixDatagram::bind(site.path("log.sock")).unwrap();
    let to = site.path("log.sock");
    let site = site.config(&format!("audit: {{ anchors: [ {{ syslog: {{ to: {} }} }}, {{ stdout: {{}} }} ] }}", to.display()));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let (status, _, out) = gateway.stop().await;
    assert!(status.success());

    let of = |line: &str| -> u64 {
        let line: Value = serde_json::from_str(&line[line.find("{\"checkpoint\"").unwrap()..]).unwrap();
        covered(line["checkpoint"].as_str().unwrap())
    };
    let mut line = vec![0; 4096];
    let size = soon("a datagram", socket.recv(&mut line)).await.unwrap();
    let line = String::from_utf8(line[..size].to_vec()).unwrap();
    assert!(line.starts_with("<109>doorward["), "{line}");
    assert!(of(&line) > 0);
    let printed = out.lines().rfind(|line| line.contains("\"checkpoint\"")).unwrap();
    assert_eq!(of(printed), last_record(&site));
}

#[tokio::test]
async fn a_repository_has_a_commit_of_the_newest_checkpoint_and_its_remote_too() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("audit: { anchors: [ { git: { dir: anchors, push: origin, every_s: 1 } } ] }");
    let git = |words: &[&str]| {
        let done = Command::new("git").args(words).current_dir(site.path("")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    git(&["init", "--quiet", "--bare", "remote"]);
    git(&["clone", "--quiet", "remote", "anchors"]);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    assert!(gateway.stop().await.0.success());

    let note = git(&["-C", "remote", "show", "HEAD:doorward-main.note"]);
    assert_eq!(covered(&note), last_record(&site));
    assert_eq!(git(&["-C", "remote", "log", "-1", "--format=%s"]).trim(), format!("doorward/main {}", last_record(&site)));
}

#[tokio::test]
async fn hooks_of_the_repository_do_not_run_and_a_remote_that_hangs_ends_with_the_gateway() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).config("audit: { anchors: [ { git: { dir: anchors, push: origin, every_s: 1 } } ] }");
    let git = |words: &[&str]| {
        let done = Command::new("git").args(words).current_dir(site.path("")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    git(&["init", "--quiet", "--bare", "remote"]);
    git(&["clone", "--quiet", "remote", "anchors"]);
    assert!(Command::new("mkfifo").arg(site.path("pipe")).status().unwrap().success());
    let hook = |path: &str, does: &str| {
        site.write(path, &format!("#!/bin/sh\n{does}\n"));
        std::fs::set_permissions(site.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    hook("anchors/.git/hooks/pre-commit", "exit 1");
    hook("anchors/.git/hooks/post-commit", &format!("cat {}", site.path("pipe").display()));
    // The remote says who it is, and then waits for ever.
    hook("remote/hooks/pre-receive", &format!("echo $$ > {}; exec cat {}", site.path("hangs").display(), site.path("pipe").display()));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let process = until("the remote", async || std::fs::read_to_string(site.path("hangs")).ok().filter(|text| text.ends_with('\n'))).await;
    assert_eq!(git(&["-C", "anchors", "log", "--format=%s"]).lines().count(), 1);

    let (status, said, _) = gateway.stop().await;

    assert!(status.success() && said.contains("an anchor did not take the last checkpoint in time"), "{said}");
    let process = format!("/proc/{}", process.trim());
    until("its end", async || (!std::path::Path::new(&process).exists()).then_some(())).await;
}

#[tokio::test]
async fn without_an_anchor_a_start_says_what_cannot_be_seen_then() {
    let upstream = Upstream::start().await;
    let mut gateway = Site::of(&upstream).serve().await;
    let said = gateway.says("no anchor").await;
    assert!(said.contains("audit.anchors"), "{said}");
}

#[tokio::test]
async fn an_anchor_that_cannot_be_is_refused_with_its_place() {
    let site = Site::empty().config("audit:\n  anchors:\n    - put: { url: \"http://store.example/x\" }");
    let done = site.run(&["check", "--offline"]).await;
    assert_eq!(done.code, 2);
    assert!(done.err.contains("plaintext beyond this machine") && done.err.contains("doorward.yaml:"), "{done:?}");
}

#[tokio::test]
async fn checkpoints_reach_an_anchor_while_the_gateway_runs() {
    let (_upstream, site) = with_anchor("file: { path: anchors, every_s: 1 }").await;
    let gateway = site.serve().await;
    for _ in 0..600 {
        assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    }
    // A thousand records make one due at once.
    until("a checkpoint", async || std::fs::read_to_string(site.path("anchors")).ok().filter(|notes| !notes.is_empty())).await;
}

#[tokio::test]
async fn the_anchors_of_the_manual_are_taken() {
    let page = std::fs::read_to_string(crate::support::site::shipped("docs/operators.md")).unwrap();
    let example = page.split("```yaml\n").find(|part| part.starts_with("audit:\n  anchors:")).unwrap();
    let site = Site::empty().config(example.split("```").next().unwrap());
    let done = site.run(&["check", "--offline"]).await;
    assert_eq!(done.code, 0, "{done:?}");
}
