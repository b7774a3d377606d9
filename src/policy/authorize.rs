//! The stage *decide* of the path: an invocation in, a [`Permit`] or the refusal out.
//!
//! INVARIANT: a condition is asked at most once a call, and what it came to is what the record says.

use super::condition::{ConditionId, Facts, word};
use super::flow;
use super::{ClassId, Decision, Obligation, Obliged, Policy, Rule, RuleId, Truth};
use crate::catalog::Label;
use crate::catalog::tier::Tier;
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::invocation::Invocation;
use crate::mcp::json::Node;
use crate::run::Before;
use crate::state::Counting;

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
    conditions: Vec<(String, &'static str)>,
    counted: Vec<Box<str>>,
    stands_on: Vec<Counting>,
    is_lifted: bool,
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

    /// The same with one obligation more, which no row asks for.
    #[must_use]
    pub fn also(mut self, obliged: Obliged) -> Self {
        self.obligations.push(obliged);
        self
    }

    /// Whether the call is only tried out: nothing of it may leave.
    pub fn is_dry_run(&self) -> bool {
        self.obligations.iter().any(|obliged| obliged.obligation.is_dry_run())
    }

    /// Whether some of the result is kept from the agent, so that nothing comes beside it.
    pub fn redacts(&self) -> bool {
        self.obligations.iter().any(|obliged| matches!(obliged.obligation, Obligation::Redact(_)))
    }

    /// Whether the built-in rule would bear on the call and rows lift it by their conditions: what those have not looked at must not go along.
    pub fn is_lifted_by_conditions(&self) -> bool {
        self.is_lifted
    }

    /// What the conditions that were asked came to, by their names: `true`, `false` or `error`.
    pub fn conditions(&self) -> &[(String, &'static str)] {
        &self.conditions
    }

    /// The patterns that count the call, once it goes on, and the counts that the permission stands on.
    pub fn counts(&self) -> (&[Box<str>], &[Counting]) {
        (&self.counted, &self.stands_on)
    }
}

/// The conditions of one call: each is asked when it is needed, once.
struct Asked<'p> {
    policy: &'p Policy,
    principal: &'p Principal,
    clock: &'p Clock,
    before: &'p Before<'p>,
    arguments: Option<&'p Node<'p>>,
    known: Vec<(ConditionId, Truth)>,
}

impl<'p> Asked<'p> {
    fn truth(&mut self, condition: ConditionId) -> Truth {
        if let Some((_, truth)) = self.known.iter().find(|(known, _)| *known == condition) {
            return *truth;
        }
        let has_role = |role: &str| self.policy.roles.has(&self.principal.id, role);
        let facts =
            Facts { arguments: self.arguments, principal: self.principal, has_role: &has_role, clock: self.clock, before: self.before };
        let truth = self.policy.conditions.evaluate(condition, &facts);
        self.known.push((condition, truth));
        truth
    }

    /// What they came to, by name.
    fn told(&self) -> Vec<(String, &'static str)> {
        let mut told: Vec<_> =
            self.known.iter().map(|(condition, truth)| (self.policy.conditions.name(*condition).to_owned(), word(*truth))).collect();
        told.sort_unstable();
        told
    }
}

impl Policy {
    /// Decides about a call.
    ///
    /// # Errors
    /// `policy_denied` with the rules that deny, or with what the nearest allows lack when none allows.
    pub fn authorize<'d>(&self, invocation: Invocation<'d>, before: &Before<'_>, clock: &Clock) -> Result<Permit<'d>, Error> {
        let principal = &invocation.caller.principal;
        let class = self.class(&principal.id);
        let target = invocation.target;
        let mut asked = Asked { policy: self, principal, clock, before, arguments: invocation.arguments.node(), known: Vec::new() };
        let decision = match target.index {
            Some(index) => self.decide_when(class, index, &mut |condition| asked.truth(condition)),
            None => self.decide_names_when(class, target.policy_names(), target.tier, &mut |condition| asked.truth(condition)),
        };
        match self.with_flow(decision, (target.tier, &target.labels), before) {
            Decision::Permit { rules, obligations } => {
                let counted = self.counting(target).map(|of| of.to_string().into()).collect();
                let is_lifted = self.lifts_by_conditions(&obligations, (target.tier, &target.labels), before);
                let (conditions, stands_on) = (asked.told(), before.asked_counts());
                let (rules, obligations) = (rules.into_owned(), obligations.into_owned());
                Ok(Permit { invocation, rules, obligations, conditions, counted, stands_on, is_lifted })
            }
            Decision::Deny { rules } if rules.contains(&flow::id()) => Err(flow::refusal(&target.name).conditions(asked.told())),
            Decision::Deny { rules } if !rules.is_empty() => {
                let named = rules.iter().map(|rule| self.denying(rule, &mut asked)).collect::<Vec<_>>().join(", ");
                let message = format!("rule {named} denies `{}`", target.name);
                let rules = rules.iter().map(|rule| rule.as_str().to_owned()).collect();
                Err(denied(message, rules).because(DENIED_BY_RULE).conditions(asked.told()))
            }
            Decision::Deny { .. } => {
                let near = self.nearest_by_name(class, &target.policy_name, target.tier, &mut |when| Some(asked.truth(when.id)));
                let told = near.iter().take(MAX_NEAR).map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let told = if told.is_empty() { String::new() } else { format!(": {told}") };
                let rules = near.iter().take(MAX_NEAR).map(|near| near.rule.as_str().to_owned()).collect();
                Err(denied(format!("no rule allows `{}`{told}", target.name), rules).because(DEFAULT_DENY).conditions(asked.told()))
            }
        }
    }

    /// What it would decide, in words for the record: `allow R1,R2 with O1 approve:oncall`, or `deny D1`. The rules of a default deny are its near
    /// misses, and left out.
    pub fn answer(&self, invocation: Invocation<'_>, before: &Before<'_>, clock: &Clock) -> String {
        let list = |ids: &mut dyn Iterator<Item = String>| ids.collect::<Vec<_>>().join(",");
        match self.authorize(invocation, before, clock) {
            Ok(permit) => {
                let rules = list(&mut permit.rules.iter().map(ToString::to_string));
                match list(&mut permit.obligations.iter().map(ToString::to_string)) {
                    none if none.is_empty() => format!("allow {rules}"),
                    obligations => format!("allow {rules} with {obligations}"),
                }
            }
            Err(error) if error.reason() == Some(DEFAULT_DENY) => "deny".to_owned(),
            Err(error) => format!("deny {}", error.rule_ids().join(",")),
        }
    }

    /// The decision for something without arguments that the catalogue does not list, such as watching a resource; with the built-in rule.
    pub fn decide_bare<'n>(
        &self,
        principal: &Principal,
        (before, clock): (&Before<'_>, &Clock),
        class: ClassId,
        names: impl IntoIterator<Item = &'n str>,
        (tier, labels): (Tier, &[Label]),
    ) -> Decision<'static> {
        let mut asked = Asked { policy: self, principal, clock, before, arguments: None, known: Vec::new() };
        let decision = self.decide_names_when(class, names, tier, &mut |condition| asked.truth(condition));
        self.with_flow(decision, (tier, labels), before)
    }

    /// The row of an id.
    pub(super) fn row(&self, rule: &RuleId) -> Option<&Rule> {
        self.rows.rules.binary_search_by(|row| row.id.cmp(rule)).ok().and_then(|at| self.rows.rules.get(at))
    }

    /// A rule that denies, with the condition that makes it.
    fn denying(&self, rule: &RuleId, asked: &mut Asked<'_>) -> String {
        match self.row(rule).and_then(|row| row.when.as_ref()) {
            None => format!("`{rule}`"),
            Some(when) => match asked.truth(when.id) {
                Err(why) => format!("`{rule}` (when `{}`, which cannot be told: {why})", when.name),
                Ok(_) => format!("`{rule}` (when `{}`)", when.name),
            },
        }
    }
}

fn denied(message: String, rules: Vec<String>) -> Error {
    Error::new(Code::PolicyDenied, message).rules(rules)
}
