//! `doorward audit timeline`: what hangs together stands together, and what went wrong stands out.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Ask, Does, Site, Upstream};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(span: &str, tool: &str) -> Ask {
    let meta = json!({ "traceparent": format!("00-{TRACE}-{span}-01"), "dev.doorward/run": "ticket-9" });
    Ask::modern("tools/call", json!({ "name": tool, "arguments": {}, "_meta": meta }))
}

/// Two calls of `demo` in one span; one in another, while which `other` made a call; and a refusal.
async fn story() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(
        "p, R1, agent:demo, up__*, reversible, -, allow\np, R3, agent:other, up__echo, read, -, allow\np, D1, role:any, up__pay, any, -, deny\n",
    );
    let gateway = site.serve().await;
    gateway.client().send(&traced("b7ad6b7169203331", "up__echo")).await;
    gateway.client().send(&traced("b7ad6b7169203331", "up__pay")).await;
    let (go, client) = (CancellationToken::new(), gateway.client());
    upstream.does("save", Does::Waits(go.clone()));
    let outer = tokio::spawn(async move { client.send(&traced("00f067aa0ba902b7", "up__save")).await });
    site.recorded("intent", "target", "up__save").await;
    gateway.other().send(&traced("00f067aa0ba902b8", "up__echo")).await;
    site.ends_of(2).await;
    go.cancel();
    assert_eq!(outer.await.unwrap().code(), "ok");
    site.ends(3).await;
    assert!(gateway.stop().await.0.success());
    (upstream, site)
}

impl Site {
    /// Waits until so many calls have ended, whatever others run.
    async fn ends_of(&self, count: usize) {
        crate::support::until("calls with an end", async || (self.of_kind("outcome").len() >= count).then_some(())).await;
    }
}

/// The beginning of each line of the tree, without its branches and time, and how deep it stands.
fn shape(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().filter(|line| line.contains("─ "));
    let shown = lines.map(|line| {
        let (stem, rest) = line.split_once("─ ").unwrap();
        let rest = rest.split_once("s ").filter(|(time, _)| time.starts_with('+')).map_or(rest, |(_, rest)| rest);
        (stem.chars().count() / 3, rest.split(['[', '"']).next().unwrap().split("  ").next().unwrap().trim().to_owned())
    });
    shown.collect()
}

#[tokio::test]
async fn calls_of_one_span_stand_together_and_what_another_agent_did_meanwhile_stands_within() {
    let (_upstream, site) = story().await;
    let done = site.run(&["audit", "timeline", TRACE]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let short: Vec<(usize, String)> =
        shape(&done.out).into_iter().filter(|(_, text)| !text.contains(':') || text == "while it ran:").collect();
    let at = |depth: usize, text: &str| (depth, text.to_owned());
    assert_eq!(
        short,
        [
            at(0, "span b7ad6b7169203331 of the agent, 2 calls"),
            at(1, "up__echo"),
            at(1, "up__pay"),
            at(0, "up__save"),
            at(1, "while it ran:"),
            at(2, "up__echo"),
        ],
        "{}",
        done.out
    );
    let run = site.run(&["audit", "timeline", "ticket-9"]).await;
    assert_eq!(shape(&run.out), shape(&done.out), "{}", run.out);
}

#[tokio::test]
async fn a_refusal_and_its_rule_stand_out_and_every_line_names_its_record() {
    let (_upstream, site) = story().await;
    let told = site.run(&["audit", "timeline", TRACE]).await.out;
    assert!(told.starts_with(&format!("trace {TRACE}  4 calls, 1 refused, ")), "{told}");
    let line = |word: &str| told.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {told}"));
    assert!(line("up__pay").contains("REFUSED policy_denied by D1  in "), "{told}");
    assert!(line("up__save").contains("allow by R1  ok (effect done)  in "), "{told}");
    assert!(line("forwarded").contains("read, arguments hmac:"), "{told}");
    assert!(told.contains("agent demo, credential ") && told.contains("agent other, credential "), "{told}");
    let within = told.lines().rfind(|line| line.contains("up__echo")).unwrap();
    assert!(within.contains("by agent other"), "{told}");
    for (number, record) in site.records().iter().filter(|record| record["trace_id"] == TRACE).enumerate() {
        assert!(told.contains(&format!("[main:{}]", record["seq"])), "{number}: {told}");
    }
}

#[tokio::test]
async fn programs_get_the_calls_and_how_they_hang_together() {
    let (_upstream, site) = story().await;
    let told = site.run(&["--json", "audit", "timeline", TRACE]).await.json();
    let [trace] = told["traces"].as_array().unwrap().as_slice() else { panic!("{told}") };
    let calls = trace["calls"].as_array().unwrap();
    let id = |target: &str, agent: &str| {
        let found = calls.iter().find(|call| call["target"] == target && call["agent"] == agent);
        found.unwrap_or_else(|| panic!("{target}: {told}"))["call"].clone()
    };
    let leaf = |call: Value| json!({ "call": call, "during": [] });
    let together = [leaf(id("up__echo", "demo")), leaf(id("up__pay", "demo"))];
    let within = json!({ "call": id("up__save", "demo"), "during": [leaf(id("up__echo", "other"))] });
    assert_eq!(trace["tree"], json!([{ "span": "b7ad6b7169203331", "calls": together }, within]), "{told}");
    assert_eq!(calls[0]["span"], "b7ad6b7169203331");
}
