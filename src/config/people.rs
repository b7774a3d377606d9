//! `people` and `approvals` of `doorward.yaml`: who may act on the gateway by hand, and what waits for them.
//!
//! INVARIANT: a key is one person's and no agent's, so that two keys are two people and an agent's key approves nothing.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payloads::Wrong;
use super::{Bound, Config, OpenerKey, Webhook, check_name};

/// One person.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Their name: `[a-z0-9-]{1,64}`.
    pub name: String,
    /// What they may do, as `approve:ROLE` of policy rows names it.
    #[serde(default)]
    pub roles: Vec<String>,
    /// `sha256:` and the hex SHA-256 of the secret part of their key; `doorward approvals keygen NAME --out FILE` makes both.
    #[serde(default)]
    pub key_hash: Option<String>,
    /// What access tokens call them (`sub`), letter for letter: they approve no call that is made on their own behalf. Their name counts
    /// as one.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// The public key that payloads are sealed to where they are one of `audit.payloads.openers`, as `doorward audit keygen --opener` prints it.
    #[serde(default)]
    pub payload_key: Option<OpenerKey>,
}

/// Calls that wait for a person's yes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// How long a call waits for its approval, and how long an approved call may still be made, in seconds: 10 to 86400, default 600. Then
    /// `approval_expired`.
    pub expire_s: Bound<600, 10, 86_400>,
    /// Calls that wait in the whole gateway: 1 to 65536, default 1024. Then `overloaded`.
    pub max_pending: Bound<1_024, 1, 65_536>,
    /// Calls of one agent that wait: 1 to 65536, default 16. Then `concurrency_limited`.
    pub max_pending_per_agent: Bound<16, 1, 65_536>,
    /// Where it is told that a call waits, and what became of it. Default nowhere: people look with `doorward approvals list`.
    pub webhook: Option<Webhook>,
}

impl Config {
    pub(super) fn check_people(&self) -> Result<(), Wrong> {
        let wrong =
            |path: &[&str], message: String, help| Err(Wrong { path: path.iter().map(|part| (*part).to_owned()).collect(), message, help });
        let mut keys: HashMap<&str, &str> = HashMap::new();
        keys.extend(self.agents.iter().filter_map(|agent| Some((agent.key_hash.as_deref()?, agent.name.as_str()))));
        for (at, person) in self.people.iter().enumerate() {
            let (number, name) = (at.to_string(), person.name.as_str());
            if self.people.iter().take(at).any(|other| other.name == name) {
                return wrong(&["people", &number, "name"], format!("two people are called `{name}`"), "give each a name of their own");
            }
            if let Some(Err(message)) = person.roles.iter().map(|role| check_name(role)).find(Result::is_err) {
                return wrong(&["people", &number, "roles"], message, "name roles as `approve:ROLE` of policy rows does");
            }
            if let Some(other) = person.key_hash.as_deref().and_then(|hash| keys.insert(hash, name)) {
                let message = format!("`{name}` has the key of `{other}`");
                return wrong(
                    &["people", &number, "key_hash"],
                    message,
                    "make a key of their own: `doorward approvals keygen NAME --out FILE`",
                );
            }
        }
        Ok(())
    }
}
