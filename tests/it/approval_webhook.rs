//! A webhook tells people of calls that wait: signed, again and again until it is taken, also after a restart; and it only tells.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::approvals::{approve, pay, says, site_of, steps, time_passes, wanted};
use crate::support::{Site, Upstream, soon, until};

const SECRET: &str = "canary-webhook-3301";
/// What it signs with.
const KEY: [u8; 32] = [9; 32];

fn secret() -> String {
    format!("whsec_{}", STANDARD.encode(KEY))
}

/// One message that it got.
#[derive(Clone, Debug)]
struct Got {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Checks it as a library of Standard Webhooks does.
    fn verified(self, key: &[u8]) -> Self {
        let signed = format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let is_signed = self.header("webhook-signature").split(' ').any(|signature| {
            let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
        });
        assert!(is_signed, "{self:?}");
        self
    }
}

/// Where messages go. It answers with the next of these statuses, and then with 204; with none before it is let go on.
struct Receiver {
    address: SocketAddr,
    statuses: Mutex<Vec<u16>>,
    got: watch::Sender<Vec<Got>>,
    goes_on: CancellationToken,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Arc<Self> {
        let receiver = Self::at(([127, 0, 0, 1], 0).into(), statuses).await;
        receiver.goes_on.cancel();
        receiver
    }

    /// One that takes its time.
    async fn at(address: SocketAddr, statuses: &[u16]) -> Arc<Self> {
        let listener = TcpListener::bind(address).await.unwrap();
        let statuses = Mutex::new(statuses.iter().rev().copied().collect());
        let address = listener.local_addr().unwrap();
        let receiver = Arc::new(Self { address, statuses, got: watch::Sender::default(), goes_on: CancellationToken::new() });
        let serving = Arc::clone(&receiver);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let receiver = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&receiver).take(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        receiver
    }

    async fn take(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let path = format!("{} {}", head.method, head.uri.path());
        self.got.send_modify(|got| got.push(Got { path, headers: head.headers, body }));
        self.goes_on.cancelled().await;
        let status = self.statuses.lock().unwrap().pop().unwrap_or(204);
        let answer = Response::builder().status(status).header("location", format!("http://{}/elsewhere", self.address));
        // What it says is nobody's yes.
        Ok(answer.body(Full::from(if status == 204 { "" } else { "{\"approved\":true,\"decision\":\"allow\"}" })).unwrap())
    }

    /// Waits for so many messages, each signed.
    async fn got(&self, messages: usize) -> Vec<Got> {
        let mut got = self.got.subscribe();
        drop(soon("a message", got.wait_for(|got| got.len() >= messages)).await.unwrap());
        self.got.borrow().iter().cloned().map(|got| got.verified(&KEY)).collect()
    }

    fn config(&self, members: &str) -> String {
        webhook(self.address, members)
    }
}

fn webhook(address: SocketAddr, members: &str) -> String {
    format!("approvals: {{ webhook: {{ url: \"http://{address}/T0/hook\", secret: {{ from_env: HOOK_SECRET }}{members} }} }}\n")
}

/// A site whose `up__pay` waits for somebody on call, and that tells this receiver.
async fn told(receiver: &Receiver, members: &str) -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", &receiver.config(members)).await.env("HOOK_SECRET", &secret());
    (upstream, site)
}

/// Records of what was told, in order: step, action and note.
fn tellings(site: &Site, id: &str) -> Vec<[String; 3]> {
    let of_it = site.of_kind("approval").into_iter().filter(|record| record["approval_id"] == id && record["actor"] == "doorward");
    of_it.map(|record| ["subject", "action", "note"].map(|key| record[key].as_str().unwrap_or("-").to_owned())).collect()
}

#[tokio::test]
async fn people_elsewhere_are_told_what_waits_and_what_became_of_it_without_any_argument() {
    let receiver = Receiver::start(&[200, 200]).await;
    let (upstream, site) = told(&receiver, "").await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, SECRET).await);
    let asked = &receiver.got(1).await[0];
    let body = asked.json();
    assert_eq!((asked.path.as_str(), asked.header("content-type")), ("POST /T0/hook", "application/json"));
    assert_eq!((&body["type"], &body["gateway"]), (&json!("approval.requested"), &json!("doorward")));
    let shown = site.run(&["--json", "approvals", "show", &id]).await.json();
    let mut expected = shown.clone();
    assert!(expected["arguments"].to_string().contains(SECRET) && body["timestamp"].as_str() >= shown["requested"].as_str(), "{body}");
    ["arguments", "webhook"].iter().for_each(|member| drop(expected.as_object_mut().unwrap().remove(*member)));
    assert_eq!(body["data"], expected);

    assert_eq!(wanted(&pay(&gateway, SECRET).await), id, "nothing that a receiver answers is a yes");
    approve(&site, &id, "alice").await;
    let approved = receiver.got(2).await[1].json();
    assert_eq!(
        (&approved["type"], &approved["data"]["standing"], &approved["data"]["yes"]),
        (&json!("approval.approved"), &json!("approved"), &json!(["alice"]))
    );
    assert_eq!(pay(&gateway, SECRET).await.code(), "ok");
    let denied = wanted(&pay(&gateway, SECRET).await);
    receiver.got(3).await;
    assert_eq!(says(&site, "deny", &denied, "bob").await.code, 0);
    assert_eq!(receiver.got(4).await[3].json()["data"]["ended_by"], "bob");
    let late = wanted(&pay(&gateway, "other").await);
    receiver.got(5).await;
    time_passes(&site);
    assert_eq!(site.run(&["approvals", "list"]).await.code, 0);
    let all = receiver.got(6).await;

    let ids: Vec<&str> = all.iter().map(|got| got.header("webhook-id")).collect();
    let expected =
        [(&id, "requested"), (&id, "approved"), (&denied, "requested"), (&denied, "denied"), (&late, "requested"), (&late, "expired")];
    assert_eq!(ids, expected.map(|(id, step)| format!("{id}-{step}")));
    assert!(all.iter().all(|got| !got.body.contains(SECRET) && got.json()["data"].get("arguments").is_none()));
    until("the last record", async || (tellings(&site, &late).len() == 2).then_some(())).await;
    let host = receiver.address.to_string();
    assert_eq!(tellings(&site, &id), ["requested", "approved"].map(|step| [step.into(), "told".into(), format!("{host} took it")]));
    assert_eq!(
        steps(&site, &id).into_iter().filter(|step| !step.starts_with("shown")).collect::<Vec<_>>(),
        ["requested -", "told doorward", "approved alice", "told doorward", "used -"]
    );
    let listed = site.run(&["approvals", "list", "--all"]).await;
    assert!(
        listed.out.contains("approved: told") && listed.out.contains("denied: told") && listed.out.contains("expired: told"),
        "{listed:?}"
    );
    assert_eq!((upstream.calls().len(), site.run(&["audit", "verify"]).await.code), (1, 0));
}

#[tokio::test]
async fn the_arguments_go_along_where_the_operator_says_so_and_while_the_call_waits() {
    let receiver = Receiver::start(&[]).await;
    let upstream = Upstream::start().await;
    let config = receiver.config(", arguments: all").replace("from_env: HOOK_SECRET", "file: hook.secret");
    let site = site_of(&upstream, "approve:oncall", &config).await;
    // Two keys: one takes the place of the other.
    site.write("hook.secret", &format!("whsec_{}\n{}\n", STANDARD.encode([1; 24]), secret()));
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, SECRET).await);
    let asked = receiver.got(1).await[0].clone();
    assert_eq!(asked.json()["data"]["arguments"], json!({ "text": SECRET }));
    asked.verified(&[1; 24]);
    assert_eq!(says(&site, "deny", &id, "bob").await.code, 0);
    let denied = receiver.got(2).await[1].clone();
    assert!(!denied.body.contains(SECRET), "{denied:?}");
}

#[tokio::test]
async fn a_message_that_is_not_taken_is_sent_again_under_its_id_and_holds_no_call_up() {
    let receiver = Receiver::at(([127, 0, 0, 1], 0).into(), &[500, 302]).await;
    let (_upstream, site) = told(&receiver, "").await;
    let gateway = site.serve().await;
    let id = wanted(&pay(&gateway, SECRET).await);
    receiver.got(1).await;
    // It has not answered, and calls go on.
    assert_eq!(wanted(&pay(&gateway, SECRET).await), id);
    receiver.goes_on.cancel();
    let failing = until("the failure", async || {
        let shown = site.run(&["--json", "approvals", "list"]).await.json()[0]["webhook"][0].clone();
        shown["failing"].is_string().then_some(shown)
    });
    assert_eq!(failing.await["failing"], "the server answered 500");
    let all = receiver.got(3).await;
    assert!(all.iter().all(|got| got.path == "POST /T0/hook" && got.header("webhook-id") == format!("{id}-requested")), "{all:?}");
    until("the record", async || (tellings(&site, &id).len() == 2).then_some(())).await;
    let host = receiver.address;
    assert_eq!(
        tellings(&site, &id),
        [
            ["requested".into(), "not_told".into(), format!("{host} did not take it, and it is tried again: the server answered 500")],
            ["requested".into(), "told".into(), format!("{host} took it, at the 3. try")],
        ]
    );
    let shown = site.run(&["--json", "approvals", "list"]).await.json()[0]["webhook"].clone();
    assert_eq!((&shown[0]["tries"], &shown[0]["failing"], &shown[0]["is_owed"]), (&json!(3), &Value::Null, &json!(false)), "{shown}");
    assert!(shown[0]["taken"].is_string(), "{shown}");
}

#[tokio::test]
async fn what_was_not_told_is_told_after_a_restart_and_what_waits_no_more_is_not() {
    let down = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = down.local_addr().unwrap();
    drop(down);
    let upstream = Upstream::start().await;
    let site = site_of(&upstream, "approve:oncall", &webhook(address, "")).await.env("HOOK_SECRET", &secret());
    let gateway = site.serve().await;
    let (waits, used, lost) = (wanted(&pay(&gateway, "a").await), wanted(&pay(&gateway, "b").await), wanted(&pay(&gateway, "c").await));
    for id in [&waits, &used, &lost] {
        until("a failure", async || tellings(&site, id).pop().filter(|last| last[1] == "not_told")).await;
    }
    approve(&site, &used, "alice").await;
    assert_eq!(pay(&gateway, "b").await.code(), "ok");
    gateway.kill().await;
    // As a process leaves it that ends between the record and the note.
    let database = Connection::open(site.path("var/state.db")).unwrap();
    assert_eq!(database.execute("DELETE FROM webhook WHERE approval = ?1", [&lost]).unwrap(), 1);
    drop(database);

    let receiver = Receiver::at(address, &[]).await;
    receiver.goes_on.cancel();
    let gateway = site.serve().await;
    let mut ids: Vec<String> = receiver.got(3).await.iter().map(|got| got.header("webhook-id").to_owned()).collect();
    ids.sort();
    let mut expected = [format!("{waits}-requested"), format!("{used}-approved"), format!("{lost}-requested")];
    expected.sort();
    assert_eq!(ids, expected);
    let given_up = until("the end", async || tellings(&site, &used).into_iter().find(|one| one[2].starts_with("given up"))).await;
    assert!(given_up[2].starts_with("given up: the call waits no more; the last try: no connection"), "{given_up:?}");
    gateway.stop().await;
    assert_eq!(receiver.got(3).await.len(), 3);
}

#[tokio::test]
async fn the_oldest_of_too_many_messages_is_given_up() {
    let receiver = Receiver::start(&[500; 16]).await;
    let (_upstream, site) = told(&receiver, ", max_waiting: 1").await;
    let gateway = site.serve().await;
    let first = wanted(&pay(&gateway, "a").await);
    until("a failure", async || tellings(&site, &first).pop()).await;
    wanted(&pay(&gateway, "b").await);
    let last = until("the end", async || tellings(&site, &first).into_iter().nth(1)).await;
    assert_eq!(last, ["requested", "not_told", "given up: too many messages wait; the last try: the server answered 500"]);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_signed_for_or_is_not_safe_stops_the_start_and_tells_no_secret() {
    let upstream = Upstream::start().await;
    let address = "127.0.0.1:9".parse().unwrap();
    let unset = site_of(&upstream, "approve:oncall", &webhook(address, "")).await;
    for verb in [&["check"][..], &["serve"]] {
        let done = unset.run(verb).await;
        assert!(
            done.code == 2 && done.err.contains("approvals.webhook.secret: the environment variable `HOOK_SECRET` is not set"),
            "{done:?}"
        );
    }
    let done = unset.env("HOOK_SECRET", SECRET).run(&["check"]).await;
    assert!(done.code == 2 && done.err.contains("`whsec_` and the Base64 of 24 to 64") && !done.err.contains(SECRET), "{done:?}");
    let beyond = webhook(address, "").replace("127.0.0.1:9", "hooks.example");
    let done = site_of(&upstream, "approve:oncall", &beyond).await.run(&["check"]).await;
    assert!(done.code == 2 && done.err.contains("is plaintext beyond this machine") && done.err.contains("doorward.yaml:"), "{done:?}");
}
