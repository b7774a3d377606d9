//! A call on record, decided again by another policy, as far as the record tells what that hangs on.
//!
//! A record has no arguments to ask conditions of, and needs none: it has what each condition came to that was asked. A condition that says the
//! same today came to the same for this call.
//!
//! Leaves to others: which record (`cli`), the policy of then (`past`).
//!
//! INVARIANT: what the record does not tell is not guessed: there is no decision then.

use std::collections::HashMap;

use super::condition::ConditionId;
use super::flow::{Flow, is_guarded, is_waived};
use super::rule::RuleEffect;
use super::{Decision, Policy, Truth};
use crate::catalog::Label;
use crate::catalog::tier::Tier;
use crate::run::Before;

/// What is known of a call that was decided.
#[derive(Debug)]
pub struct Known<'k> {
    /// Who called: `agent:NAME`.
    pub principal: &'k str,
    /// The policy that decided; `None` where it was not kept.
    pub by: Option<&'k Policy>,
    /// What its conditions came to, by their names; those that were not asked are left out.
    pub truths: HashMap<String, Truth>,
    /// The labels that the agent had met; `None` where nobody asked.
    pub met: Option<Vec<Label>>,
}

/// What another policy says of the call.
#[derive(Debug)]
pub struct Again {
    /// What it decides; `None` where that hangs on what is not known.
    pub decision: Option<Decision<'static>>,
    /// What those of its conditions come to, by their names, that are known.
    pub truths: HashMap<String, Truth>,
}

impl Policy {
    /// What it decides of the call at a target of this tier with these labels.
    pub fn decide_again(&self, known: &Known<'_>, target: &str, (tier, labels): (Tier, &[Label])) -> Again {
        let said = |policy: &Policy, name: &str| policy.says(policy.conditions.id(name)?, known.principal);
        let asked = known.truths.iter().filter_map(|(name, truth)| Some((said(known.by?, name)?, *truth)));
        let asked: HashMap<String, Truth> = asked.collect();
        let mut truths = HashMap::new();
        let mut hangs = false;
        let mut counts = |effect: &RuleEffect, condition: ConditionId| {
            match self.says(condition, known.principal).and_then(|says| asked.get(&says)) {
                Some(truth) => {
                    truths.insert(self.conditions.name(condition).to_owned(), *truth);
                    effect.counts(*truth)
                }
                // As well as it may turn out: what is denied then, is denied.
                None => {
                    hangs = true;
                    *effect == RuleEffect::Allow
                }
            }
        };
        let decision = self.by_names(self.class(known.principal), [target], tier, &mut counts);
        let bears = decision.is_permit() && *self.flow() != Flow::Off && is_guarded(tier, labels) && !is_waived(&decision);
        let is_known = !decision.is_permit() || !(hangs || bears && known.met.is_none());
        let before = Before::given(known.met.as_deref().unwrap_or_default(), Vec::new());
        Again { decision: is_known.then(|| self.with_flow(decision, (tier, labels), &before)), truths }
    }
}
