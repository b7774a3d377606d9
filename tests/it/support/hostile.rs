//! A tool server that tries to get out, and a gateway in front of it.

use serde_json::{Value, json};

use super::{Serving, Site};

const ATTEMPT: &str = r#"{"name":"attempt","inputSchema":{"type":"object"}}"#;

/// The server.
pub fn program() -> String {
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/hostile_server");
    assert!(program.exists(), "{} is missing: run the tests without a target filter, or build the examples", program.display());
    program.display().to_string()
}

/// In front of it, confined so.
pub fn site(sandbox: &Value) -> Site {
    with(&json!({ "sandbox": sandbox }))
}

/// The same with more members of `stdio`.
pub fn with(more: &Value) -> Site {
    let site = Site::empty();
    std::fs::create_dir_all(site.path("work")).unwrap();
    site.write("beside", "what is beside");
    site.write("work/own", "what is its own");
    let mut stdio = json!({ "command": program() });
    stdio.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let manifest = format!("transport: {}\ntools:\n  attempt: {{ tier: read }}\n", json!({ "stdio": stdio }));
    let rows = "p, R1, agent:demo, up__*, read, -, allow\np, R2, agent:other, up__*, read, -, allow\n";
    site.manifest("up", &manifest).pinned("up", &[serde_json::from_str(ATTEMPT).unwrap()]).policy(rows)
}

/// What it says of an attempt, or the code of the refusal.
pub async fn attempt(gateway: &Serving, what: &str, at: &str) -> String {
    let answer = gateway.client().call("up__attempt", json!({ "what": what, "at": at })).await;
    match answer.code().as_str() {
        "ok" => answer.result()["content"][0]["text"].as_str().unwrap().to_owned(),
        code => code.to_owned(),
    }
}
