//! The questions to a policy: what is decided about a target, who sees it, what a list shows, and what came near.
//!
//! INVARIANT: the same rows decide whether a target is in the catalogue, and then in the table, or is known by its name only.

use super::condition::ConditionId;
use super::index::{Ask, Near};
use super::obligation::Obliged;
use super::rule::{Rule, RuleEffect};
use super::table::{ClassId, Counts};
use super::{Decision, Policy, TargetIndex, Truth, Unclear};
use crate::catalog::tier::Tier;

/// Whether a row counts where nobody can ask its condition: on the safe side.
fn unasked(effect: &RuleEffect, _: ConditionId) -> bool {
    effect.counts(Err(Unclear("it was not asked")))
}

/// Whether a row counts for some call: an allow may, and no deny need.
fn favourable(effect: &RuleEffect, _: ConditionId) -> bool {
    *effect == RuleEffect::Allow
}

impl Policy {
    /// The decision for a target of the catalogue, as far as it does not hang on conditions: none of them allows, each denies and obliges.
    pub fn decide(&self, class: ClassId, target: TargetIndex) -> Decision<'_> {
        self.table.decide(class, target, &mut unasked)
    }

    /// The decision for a target of the catalogue, where `truth` tells what a condition comes to. It is asked only for those that can matter,
    /// denies first.
    pub fn decide_when(&self, class: ClassId, target: TargetIndex, truth: &mut dyn FnMut(ConditionId) -> Truth) -> Decision<'_> {
        self.table.decide(class, target, &mut |effect, condition| effect.counts(truth(condition)))
    }

    /// The best that some call may come to: every condition of an allow holds, and none of another row.
    pub fn could(&self, class: ClassId, target: TargetIndex) -> Decision<'_> {
        self.table.decide(class, target, &mut favourable)
    }

    /// [`Policy::decide`] for a target that the catalogue does not list, such as one resource; slower.
    pub fn decide_by_name(&self, class: ClassId, target: &str, tier: Tier) -> Decision<'static> {
        self.by_name(class, target, tier, &mut unasked)
    }

    /// [`Policy::decide_when`] for a target that the catalogue does not list, under each of its names: what one of them is denied, all are,
    /// and obligations add up.
    pub fn decide_names_when<'n>(
        &self,
        class: ClassId,
        names: impl IntoIterator<Item = &'n str>,
        tier: Tier,
        truth: &mut dyn FnMut(ConditionId) -> Truth,
    ) -> Decision<'static> {
        self.by_names(class, names, tier, &mut |effect, condition| effect.counts(truth(condition)))
    }

    /// [`Policy::could`] for a target that the catalogue does not list, under each of its names.
    pub fn could_by_names<'n>(&self, class: ClassId, names: impl IntoIterator<Item = &'n str>, tier: Tier) -> Decision<'static> {
        self.by_names(class, names, tier, &mut favourable)
    }

    /// The decision for a target by its names, where `counts` tells whether a row with a condition counts.
    pub(super) fn by_names<'n>(
        &self,
        class: ClassId,
        names: impl IntoIterator<Item = &'n str>,
        tier: Tier,
        counts: Counts<'_>,
    ) -> Decision<'static> {
        let decisions = names.into_iter().map(|name| self.by_name(class, name, tier, counts));
        decisions.reduce(Decision::and).unwrap_or(Decision::DEFAULT)
    }

    pub(super) fn by_name(&self, class: ClassId, target: &str, tier: Tier, counts: Counts<'_>) -> Decision<'static> {
        let about = self.index.about(self.table.subjects(class), target);
        let rules: Vec<&Rule> =
            about.iter().map(|number| &self.rows.rules[*number as usize]).filter(|rule| rule.bound.covers(tier)).collect();
        let mut counting = |kind: fn(&RuleEffect) -> bool| -> Vec<&Rule> {
            let rules = rules.iter().filter(|rule| kind(&rule.effect));
            rules.filter(|rule| rule.when.as_ref().is_none_or(|when| counts(&rule.effect, when.id))).copied().collect()
        };
        let ids = |rules: Vec<&Rule>| rules.iter().map(|rule| rule.id.clone()).collect::<Vec<_>>();
        // Conditions are asked in the same order as in the table, and no more of them.
        let denies = ids(counting(|effect| *effect == RuleEffect::Deny));
        let allows = if denies.is_empty() { ids(counting(|effect| *effect == RuleEffect::Allow)) } else { Vec::new() };
        let obliging = if allows.is_empty() { Vec::new() } else { counting(|effect| effect.obligation().is_some()) };
        let obliged = |rule: &&Rule| Some(Obliged { rule: rule.id.clone(), obligation: rule.effect.obligation()?.clone() });
        Decision::of(allows.into(), denies.into(), obliging.iter().filter_map(obliged).collect::<Vec<_>>().into())
    }

    /// Whether some allow names the target for the class, whatever its tier or condition: only then may it be told that it exists.
    pub fn sees(&self, class: ClassId, target: TargetIndex) -> bool {
        self.table.sees(class, target)
    }

    /// [`Policy::sees`] for a target that the catalogue does not list.
    pub fn sees_by_name(&self, class: ClassId, target: &str) -> bool {
        let about = self.index.about(self.table.subjects(class), target);
        about.iter().any(|number| self.rows.rules[*number as usize].effect == RuleEffect::Allow)
    }

    /// Whether a list shows the target: some arguments could be allowed.
    pub fn lists(&self, class: ClassId, target: TargetIndex) -> bool {
        self.could(class, target).is_permit()
    }

    /// Whether some target whose name begins with `stem` could be allowed: what a template of names may be shown for.
    pub fn lists_some(&self, class: ClassId, stem: &str, tier: Tier) -> bool {
        let subjects = self.table.subjects(class);
        let concerned = |rule: &&Rule| {
            let known = || self.roles.id(&rule.subject).is_some_and(|id| subjects.binary_search(&id).is_ok());
            rule.bound.covers(tier) && known()
        };
        let every = |rule: &&Rule| rule.pattern.is_wildcard() && stem.starts_with(rule.pattern.stem());
        let some = |rule: &&Rule| every(rule) || rule.pattern.stem().starts_with(stem);
        let mut allows = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Allow);
        let mut denies = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Deny && rule.when.is_none());
        allows.any(|rule| some(&rule) && concerned(&rule)) && !denies.any(|rule| every(&rule) && concerned(&rule))
    }

    /// For a default deny: the class's allows that name the target and stop below its tier, or at a condition. May be told to the agent.
    pub fn nearest(&self, class: ClassId, target: TargetIndex) -> Vec<Near> {
        let Some((name, tier)) = self.targets.get(target.0 as usize) else { return Vec::new() };
        self.nearest_by_name(class, name, *tier, &mut |_| None)
    }

    /// [`Policy::nearest`] for a target that the catalogue need not list, with what its conditions come to.
    pub(super) fn nearest_by_name(&self, class: ClassId, target: &str, tier: Tier, truth: &mut Ask<'_>) -> Vec<Near> {
        self.index.short_of(&self.rows.rules, self.table.subjects(class), (target, tier), truth)
    }

    /// The first allows, at most `limit`, that let others use the target. For operators only.
    pub fn allowed_to_others(&self, class: ClassId, target: TargetIndex, limit: usize) -> Vec<Near> {
        let Some((name, tier)) = self.targets.get(target.0 as usize) else { return Vec::new() };
        self.index.for_others(&self.rows.rules, self.table.subjects(class), name, *tier, limit)
    }
}
