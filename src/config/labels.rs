//! `labels` of `doorward.yaml`: what follows from the labels of what an agent has called, and for how long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payloads::Wrong;
use super::{Bound, Config, check_name};

/// Most people that the built-in rule may ask, as rows may.
const MAX_PEOPLE: usize = 5;
/// Most agents whose run ids are trusted.
const MAX_RUNS_OF: usize = 1_024;

/// What an agent has met, and what follows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Labels {
    /// What becomes of a call that leaves the trust domain (label `outward`) or cannot be undone (tier `irreversible`) after its agent has
    /// met both `private` and `untrusted`: `approve:ROLE`, `approve:ROLE*N` or `approve:user`, as in rows of policy.csv; `deny`; or `off`.
    /// A row can deny such a call too, or lift the rule (`waive:toxic-flow`). Default `deny`.
    pub toxic_flow: ToxicFlow,
    /// How long a label that an agent has met counts, in seconds since it met it last: 60 to 2592000, default 28800. At least as long as an
    /// agent keeps what it has read; up to an eighth more.
    pub window_s: Bound<28_800, 60, 2_592_000>,
    /// The agents whose run ids (`dev.doorward/run`) somebody else than the agent chooses, such as an orchestrator: what one run has met says
    /// nothing of another, and loops and budgets count each by itself. Of all others a new run id changes nothing. Default none.
    pub runs_of: Vec<String>,
    /// Runs of one agent that are told apart: 1 to 65536, default 1024. At the bound the labels of the oldest count for all runs of the agent.
    pub max_runs: Bound<1_024, 1, 65_536>,
    /// Agents, and those that they act for, that are told apart: 16 to 1000000, default 10000. At the bound the labels of the oldest count for
    /// everybody.
    pub max_agents: Bound<10_000, 16, 1_000_000>,
}

/// The word for what the built-in rule does: sound, once it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ToxicFlow(String);

impl ToxicFlow {
    /// The word, as checked.
    ///
    /// # Errors
    /// What to write.
    pub fn parse(word: &str) -> Result<Self, String> {
        let sound = match word.split_once(':') {
            None => matches!(word, "deny" | "off"),
            Some(("approve", whom)) => match whom.split_once('*') {
                None => check_name(whom).is_ok(),
                Some((role, people)) => {
                    role != "user" && check_name(role).is_ok() && matches!(people.parse(), Ok(2..=MAX_PEOPLE)) && people.len() == 1
                }
            },
            Some(_) => false,
        };
        let help = "write `approve:ROLE`, `approve:ROLE*2` for two people, `approve:user`, `deny` or `off`";
        if sound { Ok(Self(word.to_owned())) } else { Err(format!("`{}` is nothing that can follow: {help}", word.escape_default())) }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The role that it asks, and how many people who have it.
    fn role(&self) -> Option<(&str, usize)> {
        let whom = self.0.strip_prefix("approve:").filter(|whom| *whom != "user")?;
        let (role, people) = whom.split_once('*').unwrap_or((whom, "1"));
        Some((role, people.parse().unwrap_or(MAX_PEOPLE)))
    }
}

impl Default for ToxicFlow {
    /// Nobody is known who could approve, so nobody is asked.
    fn default() -> Self {
        Self("deny".to_owned())
    }
}

impl<'de> Deserialize<'de> for ToxicFlow {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ToxicFlow {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ToxicFlow".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(deny|off|approve:[a-z0-9-]{1,64}(\\*[2-5])?)$", "default": "deny" })
    }
}

impl Config {
    /// Refuses a rule that asks people who are not there, and run ids of names that no agent has.
    pub(super) fn check_labels(&self) -> Result<(), Wrong> {
        let wrong = |path: &[&str], message: String, help| {
            let path = ["labels"].iter().chain(path).map(|part| (*part).to_owned()).collect();
            Err(Wrong { path, message, help })
        };
        if let Some((role, needed)) = self.labels.toxic_flow.role() {
            let has = self.people.iter().filter(|person| person.key_hash.is_some() && person.roles.iter().any(|own| own == role)).count();
            if has < needed {
                let message =
                    format!("`{}` cannot be kept: {has} of `people` have the role `{role}` and a key", self.labels.toxic_flow.as_str());
                let help = "give the role to people who have a `key_hash`: `doorward approvals keygen NAME --out FILE` makes one";
                return wrong(&["toxic_flow"], message, help);
            }
        }
        if self.labels.runs_of.len() > MAX_RUNS_OF {
            return wrong(&["runs_of"], format!("there are more than {MAX_RUNS_OF} agents"), "name fewer");
        }
        for (at, name) in self.labels.runs_of.iter().enumerate() {
            if let Err(message) = check_name(name) {
                return wrong(&["runs_of", &at.to_string()], message, "name an agent as `agents` does");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_does_what_a_row_can_ask_for_or_nothing() {
        for word in ["deny", "off", "approve:oncall", "approve:oncall*2", "approve:user"] {
            assert_eq!(ToxicFlow::parse(word).map(|flow| flow.as_str().to_owned()), Ok(word.to_owned()));
        }
        for word in
            ["", "allow", "approve", "approve:", "approve:On-call", "approve:user*2", "approve:oncall*1", "approve:oncall*02", "limit:1/s"]
        {
            assert!(ToxicFlow::parse(word).is_err(), "{word}");
        }
    }
}
