//! The rows indexed by pattern: which of them are about a name that no table knows, and who is near a refused one.
//!
//! A question costs a look-up for each length of pattern and each subject of the class, however many rows there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::condition::Truth;
use super::roles::{Roles, SubjectId};
use super::rule::{Pattern, Rule, RuleEffect, RuleId, TierBound, When};
use crate::catalog::tier::Tier;

/// A rule that nearly allowed a refused call, and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// The rule.
    pub rule: RuleId,
    /// The targets it names.
    pub pattern: Pattern,
    /// What keeps it from allowing the call.
    pub lacks: Lack,
}

/// What keeps an allow from allowing a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The target's tier is above the rule's ceiling.
    Tier {
        /// The rule's.
        ceiling: Tier,
        /// The target's.
        tier: Tier,
    },
    /// The rule's condition does not hold.
    Condition {
        /// Its name.
        name: Arc<str>,
        /// What it comes to; `None` where nobody has asked it.
        truth: Option<Truth>,
    },
    /// The rule is about a subject that the principal is not. For operators: an agent is not told of others' rights.
    Subject(Box<str>),
}

impl fmt::Display for Near {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lacks {
            Lack::Tier { ceiling, tier } => write!(out, "{} allows `{}` up to `{ceiling}`; this one is `{tier}`", self.rule, self.pattern),
            Lack::Condition { name, truth: None } => write!(out, "{} allows `{}` when `{name}`", self.rule, self.pattern),
            Lack::Condition { name, truth: Some(Err(why)) } => {
                write!(out, "{} allows `{}` when `{name}`, which cannot be told: {why}", self.rule, self.pattern)
            }
            Lack::Condition { name, .. } => write!(out, "{} allows `{}` when `{name}`, which does not hold", self.rule, self.pattern),
            Lack::Subject(subject) => write!(out, "{} allows `{}` to `{subject}`", self.rule, self.pattern),
        }
    }
}

/// What a condition comes to, where that can be asked.
pub(super) type Ask<'a> = dyn FnMut(&When) -> Option<Truth> + 'a;

/// Rows by pattern.
#[derive(Debug)]
pub(super) struct Index {
    exact: HashMap<Box<[u8]>, Vec<(SubjectId, u32)>>,
    prefixes: HashMap<Box<[u8]>, Vec<(SubjectId, u32)>>,
    /// The lengths of prefixes that occur, rising.
    lengths: Vec<usize>,
}

impl Index {
    pub fn new(rules: &[Rule], roles: &Roles) -> Self {
        let (mut exact, mut prefixes) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (number, rule) in (0..).zip(rules) {
            let stem: Box<[u8]> = rule.pattern.stem().as_bytes().into();
            let rows = if rule.pattern.is_wildcard() { prefixes.entry(stem) } else { exact.entry(stem) };
            rows.or_default().extend(roles.id(&rule.subject).map(|subject| (subject, number)));
        }
        exact.values_mut().chain(prefixes.values_mut()).for_each(|rows| rows.sort_unstable());
        let mut lengths: Vec<usize> = prefixes.keys().map(|stem| stem.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self { exact, prefixes, lengths }
    }

    /// The rows, rising, that are about `target` and about one of the subjects (sorted); whatever their tier.
    pub fn about(&self, subjects: &[SubjectId], target: &str) -> Vec<u32> {
        let mut found: Vec<u32> = Vec::new();
        for rows in self.patterns(target) {
            for subject in subjects {
                let start = rows.partition_point(|(other, _)| other < subject);
                found.extend(rows[start..].iter().take_while(|(other, _)| other == subject).map(|(_, number)| *number));
            }
        }
        found.sort_unstable();
        found
    }

    /// The row lists of every pattern that covers `target`.
    // By bytes: a length that falls into the middle of a character of an attacker's name just finds nothing.
    fn patterns(&self, target: &str) -> impl Iterator<Item = &[(SubjectId, u32)]> {
        let bytes = target.as_bytes();
        let prefixes = self.lengths.iter().map_while(|length| bytes.get(..*length)).filter_map(|stem| self.prefixes.get(stem));
        prefixes.chain(self.exact.get(bytes)).map(Vec::as_slice)
    }

    /// The allows of these subjects that name `target` and stop below its tier, or at a condition; what that comes to, `truth` says.
    pub fn short_of(&self, rules: &[Rule], subjects: &[SubjectId], (target, tier): (&str, Tier), truth: &mut Ask<'_>) -> Vec<Near> {
        let near = self.about(subjects, target).into_iter().filter_map(|number| {
            let rule = &rules[number as usize];
            let lacks = match (&rule.effect, rule.bound, &rule.when) {
                (RuleEffect::Allow, TierBound::UpTo(ceiling), _) if ceiling < tier => Lack::Tier { ceiling, tier },
                (RuleEffect::Allow, _, Some(when)) => Lack::Condition { name: Arc::clone(&when.name), truth: truth(when) },
                _ => return None,
            };
            Some(Near { rule: rule.id.clone(), pattern: rule.pattern.clone(), lacks })
        });
        near.collect()
    }

    /// The first allows, at most `limit`, that would let somebody else do it.
    pub fn for_others(&self, rules: &[Rule], subjects: &[SubjectId], target: &str, tier: Tier, limit: usize) -> Vec<Near> {
        let others = self.patterns(target).flatten().filter(|(subject, _)| subjects.binary_search(subject).is_err());
        let allows = others.map(|(_, number)| *number).filter(|number| {
            let rule = &rules[*number as usize];
            rule.effect == RuleEffect::Allow && rule.bound.covers(tier)
        });
        let mut numbers: Vec<u32> = allows.collect();
        numbers.sort_unstable();
        let near = numbers.into_iter().take(limit).map(|number| {
            let rule = &rules[number as usize];
            Near { rule: rule.id.clone(), pattern: rule.pattern.clone(), lacks: Lack::Subject(rule.subject.clone()) }
        });
        near.collect()
    }
}
