//! One call that waits as it goes to people and programs: over the socket, as JSON, and in a webhook's message.
//!
//! INVARIANT: nothing that the agent says about its call is among it, and its arguments only where somebody asked for them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Looked, USER};
use crate::clock::rfc3339;
use crate::state::Owed;

/// One call that waits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Its name among people.
    pub id: String,
    /// `waiting`, `approved`, `of another policy`, or how it ended.
    pub standing: String,
    /// Who calls: `agent:NAME`.
    pub agent: String,
    /// For whom.
    pub on_behalf_of: Option<String>,
    /// Who acts for whom in the delegation, the last one first.
    pub actors: Vec<String>,
    /// The MCP method.
    pub method: String,
    /// The target's name in policies.
    pub target: String,
    /// The server's own name for it.
    pub own_name: String,
    /// Its tier.
    pub tier: String,
    /// The hash of its reviewed definition; empty for prompts and resources.
    pub definition: String,
    /// The policy's version.
    pub policy_version: String,
    /// The rows that allow it.
    pub rules: Vec<String>,
    /// The rows that ask: `O1 approve:oncall` each.
    pub asks: Vec<String>,
    /// Who has said yes.
    pub yes: Vec<String>,
    /// Whose yes is missing, in words.
    pub waits_for: Vec<String>,
    /// When it began to wait.
    pub requested: String,
    /// From when on it is too late.
    pub expires: String,
    /// Who ended it: a person, or the invocation that used it.
    pub ended_by: Option<String>,
    /// The invocation that asked first.
    pub call: String,
    /// What the webhook was told of it, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Message>,
    /// The canonical arguments that will run; absent where they are not asked for, or it is not open any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Box<RawValue>>,
}

/// One message of a webhook, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// What became of the call: `requested`, `approved`, `denied` or `expired`.
    pub step: String,
    /// How often it was tried.
    pub tries: u32,
    /// When it was taken.
    pub taken: Option<String>,
    /// Whether it is still tried.
    pub is_owed: bool,
    /// Why the last attempt failed.
    pub failing: Option<String>,
}

impl Shown {
    /// A call as it stands, with its arguments where these are to be shown.
    pub fn of(looked: &Looked, arguments: Option<Vec<u8>>) -> Self {
        let (row, facts) = (&looked.row, looked.facts.clone());
        let arguments = arguments.and_then(|text| RawValue::from_string(String::from_utf8(text).ok()?).ok());
        Self {
            id: row.id.clone(),
            standing: looked.word().to_owned(),
            agent: facts.principal,
            on_behalf_of: facts.on_behalf_of,
            actors: facts.actors,
            method: facts.method,
            target: facts.target,
            own_name: facts.own_name,
            tier: facts.tier,
            definition: facts.definition,
            policy_version: facts.policy,
            rules: facts.rules,
            asks: facts.asks,
            yes: row.yes.iter().map(|who| named(who)).collect(),
            waits_for: looked.lacks.iter().map(ToString::to_string).collect(),
            requested: time(row.created),
            expires: time(row.expires),
            ended_by: row.ended_by.as_deref().map(named),
            call: facts.call,
            webhook: looked.messages.iter().map(Message::of).collect(),
            arguments,
        }
    }
}

impl Message {
    fn of(owed: &Owed) -> Self {
        let Owed { step, tries, due, taken, failing, .. } = owed.clone();
        Self { step, tries, taken: taken.map(time), is_owed: due.is_some(), failing }
    }

    /// In a few words for a table: `denied`, or why nobody was told that yet.
    pub fn in_short(&self) -> String {
        let Self { step, tries, .. } = self;
        match (&self.taken, self.is_owed, &self.failing) {
            (Some(_), ..) => format!("{step}: told"),
            (None, true, Some(why)) => format!("{step}: not yet, {tries} tries: {why}"),
            (None, true, None) => format!("{step}: not yet"),
            (None, false, why) => format!("{step}: not told: {}", why.as_deref().unwrap_or("-")),
        }
    }
}

/// Seconds since 1970 as RFC 3339 has them.
pub(super) fn time(seconds: i64) -> String {
    rfc3339(seconds.saturating_mul(1_000_000_000)).replace(".000000000Z", "Z")
}

fn named(who: &str) -> String {
    if who == USER { "the agent's user (relayed)".to_owned() } else { who.to_owned() }
}
