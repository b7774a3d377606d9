//! The built-in rule: what leaves the trust domain or cannot be undone, after private data and text of strangers have met.
//!
//! Owns: which calls it is about, and what becomes of them. Leaves to others: what an agent has met (`run`), and asking people (`approval`).
//!
//! Whoever can put text before an agent can tell it what to do; whatever the text says, private data goes nowhere that way. No rows are
//! needed for it, and none can be forgotten. A row can deny such a call too, or lift the rule for it by name.
//!
//! INVARIANT: where it cannot be told what an agent has met, it has met both.

use super::authorize::DENIED_BY_RULE;
use super::condition::Truth;
use super::obligation::{Obligation, Obliged};
use super::rule::RuleId;
use super::{Decision, Policy, Unclear};
use crate::catalog::tier::Tier;
use crate::catalog::{Label, Target};
use crate::config::ToxicFlow;
use crate::error::{Code, Error};
use crate::run::Before;

/// The id of the rule in decisions, errors and records. No row can have it: their ids have no colon.
pub const TOXIC_FLOW: &str = "built-in:toxic-flow";

/// What becomes of the calls that the rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// People have to say yes.
    Ask(Obligation),
    /// They are refused.
    Deny,
    /// Nothing: the rule is off.
    Off,
}

impl Default for Flow {
    fn default() -> Self {
        Self::of(&ToxicFlow::default())
    }
}

impl Flow {
    /// What the configuration says.
    pub fn of(word: &ToxicFlow) -> Self {
        Self::read(word.as_str())
    }

    /// What this word says, of the configuration or of a bundle; one that is not known denies.
    pub(super) fn read(word: &str) -> Self {
        match (word, Obligation::parse(word)) {
            ("off", _) => Self::Off,
            (_, Ok(ask @ (Obligation::Approve { .. } | Obligation::ApproveUser))) => Self::Ask(ask),
            _ => Self::Deny,
        }
    }

    /// The word of the configuration.
    pub fn told(&self) -> String {
        match self {
            Self::Ask(ask) => ask.to_string(),
            Self::Deny => "deny".to_owned(),
            Self::Off => "off".to_owned(),
        }
    }
}

/// Whether the rule is about calls of such a target.
pub fn is_guarded(tier: Tier, labels: &[Label]) -> bool {
    tier == Tier::Irreversible || labels.contains(&Label::Outward)
}

/// The rule's id, behind those of all rows.
pub(super) fn id() -> RuleId {
    RuleId::new(u32::MAX, TOXIC_FLOW)
}

/// Whether private data and text of strangers have met.
pub(super) fn is_toxic(before: &Before<'_>) -> Truth {
    let met = |label| before.has(&label).map_err(|_| Unclear("it cannot be read what the agent did before"));
    match (met(Label::Private), met(Label::Untrusted)) {
        (Ok(false), _) | (_, Ok(false)) => Ok(false),
        (Err(why), _) | (_, Err(why)) => Err(why),
        _ => Ok(true),
    }
}

impl Policy {
    /// What the built-in rule makes of a decision about a target with these labels. Nothing is looked for where it cannot matter.
    pub(super) fn with_flow<'a>(&self, decision: Decision<'a>, (tier, labels): (Tier, &[Label]), before: &Before<'_>) -> Decision<'a> {
        if self.flow == Flow::Off || !is_guarded(tier, labels) || !decision.is_permit() || is_waived(&decision) {
            return decision;
        }
        if is_toxic(before) == Ok(false) {
            return decision;
        }
        match (decision, &self.flow) {
            (Decision::Permit { rules, mut obligations }, Flow::Ask(ask)) => {
                obligations.to_mut().push(Obliged { rule: id(), obligation: ask.clone() });
                Decision::Permit { rules, obligations }
            }
            (Decision::Permit { .. }, Flow::Deny) => Decision::Deny { rules: vec![id()].into() },
            (decision, _) => decision,
        }
    }

    /// Whether the rule would bear on a call that is permitted so, and is lifted by rows that have conditions alone. These have looked at its arguments,
    /// and not at what else an agent can send along. A row without a condition trusts the tool with whatever comes.
    pub(super) fn lifts_by_conditions(&self, obligations: &[Obliged], (tier, labels): (Tier, &[Label]), before: &Before<'_>) -> bool {
        let lifting = || obligations.iter().filter(|obliged| obliged.obligation == Obligation::Waive);
        let is_conditional = |obliged: &Obliged| self.row(&obliged.rule).is_some_and(|row| row.when.is_some());
        let bears = self.flow != Flow::Off && is_guarded(tier, labels) && lifting().next().is_some();
        bears && lifting().all(is_conditional) && is_toxic(before) != Ok(false)
    }

    /// Whether the built-in rule may come to bear on calls of a target.
    pub fn guards(&self, target: &Target) -> bool {
        self.flow != Flow::Off && self.can_be_toxic() && is_guarded(target.tier, &target.labels)
    }

    /// What becomes of calls that the built-in rule is about.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Whether anything in the catalogue brings private data, and anything text of strangers: else the rule never comes to bear.
    pub fn can_be_toxic(&self) -> bool {
        [Label::Private, Label::Untrusted].iter().all(|label| self.brought.contains(label))
    }

    /// The labels of a target of the catalogue, by its name.
    pub fn labels(&self, target: &str) -> &[Label] {
        self.target(target).and_then(|target| self.labels.get(target.0 as usize)).map_or(&[], |labels| labels)
    }
}

/// Whether a row lifts the rule for the call.
pub(super) fn is_waived(decision: &Decision<'_>) -> bool {
    decision.obligations().iter().any(|obliged| obliged.obligation == Obligation::Waive)
}

/// What an agent is told whose call the rule refuses.
pub(super) fn refusal(target: &str) -> Error {
    let message = format!("`{target}` goes out or cannot be undone, and the agent has met private data and text of strangers");
    let error = Error::new(Code::PolicyDenied, message).rules(vec![TOXIC_FLOW.to_owned()]).because(DENIED_BY_RULE);
    error.suggest("do not repeat the call; tell the user that it has to be made by hand, or by an agent that has read neither")
}
