//! What of the configuration is settled at the start: listeners, folders and the log are opened once.

use serde_json::Value;

use super::Config;

/// The members of the file that a reload does not take up.
const SETTLED: [&str; 10] = ["listen", "console", "approvals", "labels", "manifests", "policies", "policy", "state", "audit", "telemetry"];

impl Config {
    /// The settled fields that differ from those that the gateway began with, by name.
    pub fn needs_restart(&self, began: &Self) -> Vec<String> {
        let [now, then] = [self, began].map(|config| serde_json::to_value(config).unwrap_or_default());
        let mut differ: Vec<String> = SETTLED.iter().flat_map(|member| differing(member, &now[member], &then[member])).collect();
        let keys = |config: &Self| config.openers().map(|openers| openers.people);
        if keys(self) != keys(began) && !differ.iter().any(|field| field == "audit.payloads") {
            differ.push("people.payload_key".to_owned());
        }
        differ
    }
}

fn differing(name: &str, now: &Value, then: &Value) -> Vec<String> {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            let changed = now.iter().filter(|(field, value)| then.get(*field) != Some(value));
            changed.map(|(field, _)| format!("{name}.{field}")).collect()
        }
        _ if now == then => Vec::new(),
        _ => vec![name.to_owned()],
    }
}
