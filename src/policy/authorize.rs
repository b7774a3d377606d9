//! The stage *decide* of the path: an invocation in, a [`Permit`] or the refusal out.

use super::{Decision, Obliged, Policy, RuleId};
use crate::error::{Code, Error};
use crate::invocation::Invocation;

/// The reason of a refusal by a rule.
pub const DENIED_BY_RULE: &str = "denied_by_rule";
/// The reason of a refusal because no rule allows it: its rules are the near misses.
pub const DEFAULT_DENY: &str = "default_deny";
/// Near misses that a refusal tells.
const MAX_NEAR: usize = 3;

/// Proof that the policy permits a call, with the rules that say so and what they ask for beside it. Only [`Policy::authorize`] makes one.
#[derive(Debug)]
pub struct Permit<'d> {
    invocation: Invocation<'d>,
    rules: Vec<RuleId>,
    obligations: Vec<Obliged>,
}

impl<'d> Permit<'d> {
    /// The call that is permitted.
    pub fn invocation(&self) -> &Invocation<'d> {
        &self.invocation
    }

    /// The rules that permit it.
    pub fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    /// What has to be done beside the call, in the order of the rows that ask for it.
    pub fn obligations(&self) -> &[Obliged] {
        &self.obligations
    }
}

impl Policy {
    /// Decides about a call.
    ///
    /// # Errors
    /// `policy_denied` with the rules that deny, or with what the nearest allows lack when none allows.
    pub fn authorize<'d>(&self, invocation: Invocation<'d>) -> Result<Permit<'d>, Error> {
        let class = self.class(&invocation.caller.principal.id);
        let target = invocation.target;
        let name = &target.name;
        let decision = match target.index {
            Some(index) => self.decide(class, index),
            None => self.decide_by_names(class, target.policy_names(), target.tier),
        };
        match decision {
            Decision::Permit { rules, obligations } => {
                Ok(Permit { invocation, rules: rules.into_owned(), obligations: obligations.into_owned() })
            }
            Decision::Deny { rules } if !rules.is_empty() => {
                let named = rules.iter().map(|rule| format!("`{}`", rule.as_str())).collect::<Vec<_>>().join(", ");
                let message = format!("rule {named} denies `{name}`");
                Err(denied(message, rules.iter().map(|rule| rule.as_str().to_owned()).collect()).because(DENIED_BY_RULE))
            }
            Decision::Deny { .. } => {
                let near = self.nearest_by_name(class, &target.policy_name, target.tier);
                let told = near.iter().take(MAX_NEAR).map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let told = if told.is_empty() { String::new() } else { format!(": {told}") };
                let rules = near.iter().take(MAX_NEAR).map(|near| near.rule.as_str().to_owned()).collect();
                Err(denied(format!("no rule allows `{name}`{told}"), rules).because(DEFAULT_DENY))
            }
        }
    }
}

fn denied(message: String, rules: Vec<String>) -> Error {
    Error::new(Code::PolicyDenied, message).rules(rules)
}
