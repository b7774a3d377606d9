//! Ten incidents, made to happen against a real gateway, each answered by the commands that `docs/responders.md` gives for it.

mod duplicate_payment;
mod exfiltration;
mod forged_approval;
mod insider_policy_edit;
mod missing_segment;
mod poisoned_result;
mod rug_pull;
mod runaway_loop;
mod silent_upstream;
mod stolen_key;

use serde_json::Value;

use crate::support::site::{Done, shipped};
use crate::support::{Ask, Site};

/// Runs a command of the responders' page, its placeholders filled in. It must stand there as it is here.
async fn ask(site: &Site, command: &str, fill: &[(&str, &str)], json: bool) -> Done {
    let page = std::fs::read_to_string(shipped("docs/responders.md")).unwrap();
    assert!(page.contains(&format!("`{command}`")), "docs/responders.md lacks `{command}`");
    let filled = |word: &str| fill.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value).to_owned();
    let words: Vec<String> = command.split(' ').skip(1).map(filled).chain(json.then(|| "--json".to_owned())).collect();
    site.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// What a command says to people; it must end well.
async fn told(site: &Site, command: &str, fill: &[(&str, &str)]) -> String {
    let done = ask(site, command, fill, false).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out
}

/// What a command says to programs, line by line.
async fn lines(site: &Site, command: &str, fill: &[(&str, &str)]) -> Vec<Value> {
    let done = ask(site, command, fill, true).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A call that says which run it belongs to.
fn in_run(run: &str, tool: &str, arguments: Value) -> Ask {
    let params = serde_json::json!({ "name": tool, "arguments": arguments, "_meta": { "dev.doorward/run": run } });
    Ask::modern("tools/call", params)
}
