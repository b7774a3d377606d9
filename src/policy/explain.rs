//! Why a call is decided as it is: every row about its target, and what became of each.
//!
//! For people who may see everything: an agent is told less (`authorize`).

use super::condition::{ConditionId, Facts};
use super::flow::{self, Flow};
use super::rule::{ANY, Rule, RuleEffect, RuleId, TierBound};
use super::{Decision, Policy, Truth};
use crate::catalog::Label;
use crate::catalog::tier::Tier;
use crate::clock::Clock;
use crate::identity::Principal;
use crate::mcp::json::Node;
use crate::run::Before;

/// A call as the policy sees it.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    /// Who calls.
    pub principal: &'c Principal,
    /// The target's name in rows.
    pub target: &'c str,
    /// The target's tier.
    pub tier: Tier,
    /// The target's labels.
    pub labels: &'c [Label],
    /// What the principal has met and made before.
    pub before: &'c Before<'c>,
    /// The arguments; `None` for none.
    pub arguments: Option<&'c Node<'c>>,
    /// When.
    pub clock: &'c Clock,
}

/// The decision, and what every row about the target has to do with it.
#[derive(Debug)]
pub struct Explanation {
    /// What is decided.
    pub decision: Decision<'static>,
    /// The rows: those that decide first, then those that lose, then those that say nothing of this call; in file order each.
    pub rows: Vec<Finding>,
}

/// A row about the target.
#[derive(Debug)]
pub struct Finding {
    /// The row.
    pub rule: RuleId,
    /// The roles through which the principal has its subject, the principal first; empty where it has not.
    pub through: Vec<Box<str>>,
    /// Its subject.
    pub subject: Box<str>,
    /// Its tier.
    pub bound: TierBound,
    /// Its condition, and what that comes to for this call.
    pub when: Option<(Box<str>, Truth)>,
    /// What it says.
    pub effect: RuleEffect,
    /// What became of it.
    pub standing: Standing,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It decides, or obliges.
    Decides,
    /// It matches, and a deny overrules it; or it obliges, and nothing is permitted.
    Overruled,
    /// A row lifts it.
    Lifted,
    /// Its condition does not hold.
    Condition,
    /// It is about other tiers.
    Tier,
    /// It is about others.
    Subject,
}

impl Standing {
    /// What is said of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decides => "decides",
            Self::Overruled => "overruled",
            Self::Lifted => "lifted",
            Self::Condition => "its condition does not hold",
            Self::Tier => "about other tiers",
            Self::Subject => "about others",
        }
    }
}

impl Policy {
    /// Explains what is decided about a call.
    pub fn explain(&self, call: &Call<'_>) -> Explanation {
        let has_role = |role: &str| self.roles.has(&call.principal.id, role);
        let facts =
            Facts { arguments: call.arguments, principal: call.principal, has_role: &has_role, clock: call.clock, before: call.before };
        let mut truth = |condition: ConditionId| self.conditions.evaluate(condition, &facts);
        let class = self.class(&call.principal.id);
        let by_rows = self.decide_names_when(class, [call.target], call.tier, &mut truth);
        let is_waived = flow::is_waived(&by_rows);
        let decision = self.with_flow(by_rows, (call.tier, call.labels), call.before);
        let about = self.rows.rules.iter().filter(|rule| rule.pattern.matches(call.target));
        let mut rows: Vec<Finding> = about.map(|rule| self.finding(rule, call, &decision, &mut truth)).collect();
        rows.extend(self.built_in(call, &decision, is_waived));
        rows.sort_by_key(|row| row.standing);
        Explanation { decision, rows }
    }

    /// What the built-in rule has to do with it, where the call is one that it is about.
    fn built_in(&self, call: &Call<'_>, decision: &Decision<'_>, is_waived: bool) -> Option<Finding> {
        let effect = match &self.flow {
            Flow::Off => return None,
            Flow::Deny => RuleEffect::Deny,
            Flow::Ask(ask) => RuleEffect::Oblige(ask.clone()),
        };
        let rule = flow::id();
        let truth = flow::is_toxic(call.before);
        let decides = decision.rules().contains(&rule) || decision.obligations().iter().any(|obliged| obliged.rule == rule);
        let standing = match (decides, is_waived, truth) {
            (true, ..) => Standing::Decides,
            (_, true, _) => Standing::Lifted,
            (_, _, Ok(false)) => Standing::Condition,
            _ => Standing::Overruled,
        };
        let finding = Finding {
            rule,
            through: vec![call.principal.id.as_ref().into(), ANY.into()],
            subject: ANY.into(),
            bound: TierBound::Any,
            when: Some(("private and untrusted".into(), truth)),
            effect,
            standing,
        };
        flow::is_guarded(call.tier, call.labels).then_some(finding)
    }

    fn finding(&self, rule: &Rule, call: &Call<'_>, decision: &Decision<'_>, truth: &mut dyn FnMut(ConditionId) -> Truth) -> Finding {
        let through = self.roles.way(&call.principal.id, &rule.subject);
        let when = rule.when.as_ref().map(|when| (Box::from(&*when.name), truth(when.id)));
        let counts = when.as_ref().is_none_or(|(_, truth)| rule.effect.counts(*truth));
        let decides = decision.rules().contains(&rule.id) || decision.obligations().iter().any(|obliged| obliged.rule == rule.id);
        let standing = match (through.is_empty(), rule.bound.covers(call.tier), counts, decides) {
            (_, _, _, true) => Standing::Decides,
            (true, ..) => Standing::Subject,
            (_, false, ..) => Standing::Tier,
            (_, _, false, _) => Standing::Condition,
            _ => Standing::Overruled,
        };
        Finding {
            rule: rule.id.clone(),
            through,
            subject: rule.subject.clone(),
            bound: rule.bound,
            when,
            effect: rule.effect.clone(),
            standing,
        }
    }
}
