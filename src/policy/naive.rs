//! The rows' meaning a third time, straight from the definition: every row, every call, nothing prepared.
//!
//! Too slow for any use but one: tests hold the table and Casbin against it.

use super::condition::Truth;
use super::obligation::{Obligation, Obliged};
use super::outcome::Decision;
use super::rule::{ANY, Rows, RuleEffect, RuleId};
use crate::catalog::tier::Tier;

/// Whether `principal` is, or inherits, `subject`.
pub fn has(rows: &Rows, principal: &str, subject: &str) -> bool {
    let step = |grant: &super::rule::Grant| &*grant.member == principal && has(rows, &grant.role, subject);
    principal == subject || subject == ANY || rows.grants.iter().any(step)
}

/// The decision of the rows for one call, when each condition comes to what `truth` says of its name.
pub fn decide(rows: &Rows, principal: &str, target: &str, tier: Tier, truth: &dyn Fn(&str) -> Truth) -> Decision<'static> {
    let (mut allows, mut denies, mut obligations) = (Vec::<RuleId>::new(), Vec::new(), Vec::new());
    for rule in rows.rules.iter().filter(|rule| has(rows, principal, &rule.subject) && rule.covers(target, tier)) {
        let counts = match (&rule.when, &rule.effect) {
            (None, _) => true,
            (Some(when), RuleEffect::Allow | RuleEffect::Oblige(Obligation::Waive)) => truth(&when.name) == Ok(true),
            (Some(when), RuleEffect::Deny | RuleEffect::Oblige(_)) => truth(&when.name) != Ok(false),
        };
        if !counts {
            continue;
        }
        let id = rule.id.clone();
        match &rule.effect {
            RuleEffect::Allow => allows.push(id),
            RuleEffect::Deny => denies.push(id),
            RuleEffect::Oblige(obligation) => obligations.push(Obliged { rule: id, obligation: obligation.clone() }),
        }
    }
    Decision::of(allows.into(), denies.into(), obligations.into())
}

/// Whether some allow names the target, whatever its tier.
pub fn sees(rows: &Rows, principal: &str, target: &str) -> bool {
    let names = |rule: &super::rule::Rule| rule.effect == RuleEffect::Allow && rule.pattern.matches(target);
    rows.rules.iter().any(|rule| names(rule) && has(rows, principal, &rule.subject))
}
