//! What is asked of people about one call: the rows that ask, what the approval is bound to, and what they are shown.
//!
//! INVARIANT: nothing that the agent says about its call is among it: only who it is, what would run, and with which arguments.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::USER;
use crate::identity::People;
use crate::invocation::Invocation;
use crate::limit::Admission;
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::json::{self, Limits};
use crate::policy::Obligation;
use crate::seal::sha256;

/// Longest canonical arguments that somebody is asked about, in bytes: nobody reviews more.
const MAX_ARGUMENTS: usize = 256 << 10;

/// The same where the agent's user is asked, whose client shows one message.
const MAX_FOR_USER: usize = 16 << 10;

/// One row that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The row's id.
    pub rule: String,
    /// Whose yes; `None` for the agent's own user.
    pub role: Option<String>,
    /// How many people.
    pub people: usize,
}

/// Who has not said yes yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The row's id.
    pub rule: String,
    /// Whose yes; `None` for the agent's own user.
    pub role: Option<String>,
    /// How many more.
    pub more: usize,
}

impl fmt::Display for Lack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.role, self.more) {
            (None, _) => out.write_str("the agent's user"),
            (Some(role), 1) => write!(out, "a person with the role `{role}`"),
            (Some(role), more) => write!(out, "{more} people with the role `{role}`"),
        }
    }
}

impl Ask {
    /// Reads `O1 approve:oncall*2`, as records have it; `None` for what asks nobody.
    pub fn parse(text: &str) -> Option<Self> {
        let (rule, word) = text.split_once(' ')?;
        Self::of(rule, &Obligation::parse(word).ok()?)
    }

    fn of(rule: &str, obligation: &Obligation) -> Option<Self> {
        let (role, people) = match obligation {
            Obligation::Approve { role, people } => (Some(role.to_string()), usize::from(*people)),
            Obligation::ApproveUser => (None, 1),
            _ => return None,
        };
        Some(Self { rule: rule.to_owned(), role, people })
    }

    /// Whether this person's yes counts for it.
    pub fn counts(&self, who: &str, people: &People) -> bool {
        match &self.role {
            None => who == USER,
            Some(role) => people.named(who).is_some_and(|person| person.has(role)),
        }
    }

    /// How many have yet to say yes, of those who can today: who has lost the role since does not count.
    pub fn lacks(&self, yes: &[String], people: &People) -> Option<Lack> {
        let said = yes.iter().filter(|who| self.counts(who, people)).count();
        let more = self.people.checked_sub(said).filter(|more| *more > 0)?;
        Some(Lack { rule: self.rule.clone(), role: self.role.clone(), more })
    }
}

/// What people are shown of a call beside its arguments, and its records say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Who calls: `agent:NAME`.
    pub principal: String,
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
    /// The upstream's id.
    pub upstream: String,
    /// Its tier.
    pub tier: String,
    /// The hash of its reviewed definition; empty for prompts and resources.
    pub definition: String,
    /// The policy's version.
    pub policy: String,
    /// The rows that allow it.
    pub rules: Vec<String>,
    /// The rows that ask: `O1 approve:oncall` each.
    pub asks: Vec<String>,
    /// The request that asked first.
    pub call: String,
}

impl Facts {
    /// The rows that ask.
    pub fn asks(&self) -> Vec<Ask> {
        self.asks.iter().filter_map(|text| Ask::parse(text)).collect()
    }

    /// The agent's bare name.
    pub fn agent(&self) -> &str {
        self.principal.strip_prefix("agent:").unwrap_or(&self.principal)
    }
}

/// One call that needs a yes.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The invocation.
    pub call: Uuid,
    /// Whether the request goes on with an invocation that an earlier one has begun, by a state that only the gateway can have made.
    pub goes_on: bool,
    /// The hash of all that the approval is bound to.
    pub binding: [u8; 32],
    /// The rows that ask: one at least.
    pub asks: Vec<Ask>,
    /// What people are shown beside the arguments.
    pub facts: Facts,
    /// The canonical arguments, which are what is shown and what runs; with the context of a completion, and the answers to what the server has
    /// asked, where the call brings some.
    pub arguments: Vec<u8>,
}

impl Asked {
    /// What a call asks for that is decided under `policy`; `None` where its arguments are longer than anybody reviews. `answers` is the JSON text of
    /// what it answers to its server: a yes for the call alone is none for them.
    pub fn of(admission: &Admission<'_>, policy: &str, goes_on: bool, answers: Option<&[u8]>) -> Option<Self> {
        let invocation = admission.invocation();
        let (principal, target) = (&invocation.caller.principal, invocation.target);
        let token = principal.token.as_ref();
        let mut arguments = Vec::new();
        match invocation.arguments.node() {
            Some(node) => write_canonical(node, &mut arguments),
            None => arguments.extend_from_slice(b"{}"),
        }
        // What goes along with them is shown with them.
        let along = [("context", invocation.context), ("inputResponses", answers)];
        let mut along = along.iter().filter_map(|(name, text)| Some((name, (*text)?))).peekable();
        if along.peek().is_some() {
            arguments = [&b"{\"arguments\":"[..], &arguments].concat();
            for (name, text) in along {
                let node = json::parse(text, Limits { depth: 128, nodes: MAX_ARGUMENTS }).ok()?;
                arguments.extend_from_slice(format!(",\"{name}\":").as_bytes());
                write_canonical(&node, &mut arguments);
            }
            arguments.push(b'}');
        }
        let obligations = admission.permit().obligations();
        let asks: Vec<Ask> = obligations.iter().filter_map(|obliged| Ask::of(obliged.rule.as_str(), &obliged.obligation)).collect();
        let longest = if asks.iter().any(|ask| ask.role.is_none()) { MAX_FOR_USER } else { MAX_ARGUMENTS };
        if arguments.len() > longest {
            return None;
        }
        let asking =
            obligations.iter().filter(|obliged| matches!(obliged.obligation, Obligation::Approve { .. } | Obligation::ApproveUser));
        let facts = Facts {
            principal: principal.id.to_string(),
            on_behalf_of: token.and_then(|token| token.on_behalf_of.as_deref()).map(str::to_owned),
            actors: token.iter().flat_map(|token| &token.actors).map(ToString::to_string).collect(),
            method: invocation.method.as_str().to_owned(),
            target: target.policy_name.to_string(),
            own_name: target.own_name.to_string(),
            upstream: target.upstream_id.to_string(),
            tier: target.tier.as_str().to_owned(),
            definition: target.hash_text.to_string(),
            policy: policy.to_owned(),
            rules: admission.permit().rules().iter().map(ToString::to_string).collect(),
            asks: asking.map(ToString::to_string).collect(),
            call: invocation.id.to_string(),
        };
        let binding = binding(invocation, &facts, (&arguments, answers.is_some()));
        Some(Self { call: invocation.id, goes_on: goes_on && answers.is_none(), binding, asks, facts, arguments })
    }
}

/// The hash of all that an approval is good for: JSON texts and lists of them, so that no part can be taken for another.
fn binding(invocation: &Invocation<'_>, facts: &Facts, (arguments, has_answers): (&[u8], bool)) -> [u8; 32] {
    let mut text = Vec::new();
    for part in [
        if has_answers { "doorward approval 1 of answers" } else { "doorward approval 1" },
        &facts.principal,
        facts.on_behalf_of.as_deref().unwrap_or_default(),
        &facts.method,
        &facts.upstream,
        &facts.target,
        &facts.own_name,
        &facts.tier,
        &facts.definition,
        &facts.policy,
    ] {
        write_string(part, &mut text);
    }
    for list in [&facts.actors, &facts.rules, &facts.asks] {
        text.push(b'[');
        list.iter().for_each(|part| write_string(part, &mut text));
        text.push(b']');
    }
    text.extend_from_slice(&sha256(invocation.context.unwrap_or_default()));
    text.extend_from_slice(arguments);
    sha256(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse_yaml};

    #[test]
    fn a_row_counts_different_people_who_have_its_role_today() {
        let hash = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let person =
            |name: &str, roles: &str, letter: &str| format!("{{ name: {name}, roles: [{roles}], key_hash: \"{}\" }}", hash(letter));
        let text = format!("people: [{}, {}, {}]", person("a", "oncall", "1"), person("b", "oncall", "2"), person("c", "dba", "3"));
        let config: Config = parse_yaml(std::path::Path::new("doorward.yaml"), &text).unwrap();
        let people = People::of(&config);
        let lacks = |ask: &str, yes: &[&str]| {
            let yes: Vec<String> = yes.iter().map(|who| (*who).to_owned()).collect();
            Ask::parse(ask).unwrap().lacks(&yes, &people).map(|lack| lack.more)
        };
        assert_eq!(lacks("O1 approve:oncall*2", &[]), Some(2));
        assert_eq!(lacks("O1 approve:oncall*2", &["a", "c", "gone", USER]), Some(1));
        assert_eq!(lacks("O1 approve:oncall*2", &["a", "b"]), None);
        assert_eq!(lacks("O1 approve:user", &["a", "b"]), Some(1), "no person stands for the agent's user");
        assert_eq!(lacks("O1 approve:user", &[USER]), None);
        assert_eq!(Ask::parse("O1 redact"), None);
    }
}
