//! The rows of `policy.csv` as types: rules, obligations, grants, and what they match.
//!
//! Owns: what a target pattern and a tier bound cover. Leaves to others: the text (`read`), who has which role (`roles`).
//! INVARIANT: a value of these types came through the strict reader, so later code never meets an unknown word.

use std::fmt;
use std::sync::Arc;

use super::condition::{ConditionId, Truth};
use super::obligation::Obligation;
use crate::catalog::tier::Tier;

/// The role that every principal has.
pub const ANY: &str = "role:any";

/// The id of a rule, cheap to clone: what the record, the error and the review name. Sorts in the order of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    line: u32,
    id: Arc<str>,
}

impl RuleId {
    /// The id that stands in this line.
    pub(super) fn new(line: u32, id: &str) -> Self {
        Self { line, id: id.into() }
    }

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.id)
    }
}

/// What a matching rule says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleEffect {
    /// The call may go on, unless a deny matches too.
    Allow,
    /// The call is refused, whatever allows it.
    Deny,
    /// An `o` row: a call that goes on has this to it. Never allows, and never takes a deny back.
    Oblige(Obligation),
}

impl RuleEffect {
    /// Whether a row with this effect counts when its condition comes to this: what cannot be told does not allow or lift anything, does
    /// deny, does oblige.
    pub fn counts(&self, truth: Truth) -> bool {
        if self.gives() { truth == Ok(true) } else { truth != Ok(false) }
    }

    /// Whether the row gives something: an allow, and a row that lifts a rule. Its tier is a ceiling.
    pub fn gives(&self) -> bool {
        matches!(self, Self::Allow | Self::Oblige(Obligation::Waive))
    }

    /// The obligation of an `o` row.
    pub fn obligation(&self) -> Option<&Obligation> {
        match self {
            Self::Oblige(obligation) => Some(obligation),
            Self::Allow | Self::Deny => None,
        }
    }
}

impl fmt::Display for RuleEffect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => out.write_str("allow"),
            Self::Deny => out.write_str("deny"),
            Self::Oblige(obligation) => write!(out, "{obligation}"),
        }
    }
}

/// The tiers a rule reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TierBound {
    /// On an allow, and a row that lifts a rule: this tier and those below.
    UpTo(Tier),
    /// On a deny and an `o` row: this tier and those above.
    From(Tier),
    /// On a deny and an `o` row: every tier.
    Any,
}

impl TierBound {
    /// Whether a tool of this tier is within.
    pub fn covers(self, tier: Tier) -> bool {
        match self {
            Self::UpTo(ceiling) => tier <= ceiling,
            Self::From(floor) => tier >= floor,
            Self::Any => true,
        }
    }

    /// The word in the row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpTo(tier) | Self::From(tier) => tier.as_str(),
            Self::Any => "any",
        }
    }
}

/// The targets a rule names: one, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    wildcard: bool,
}

impl Pattern {
    /// The pattern of a text in which `*` can only stand at the end, as the reader has made sure.
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(stem) => Self { text: stem.into(), wildcard: true },
            None => Self { text: text.into(), wildcard: false },
        }
    }

    /// Whether the target's name is covered. Byte by byte, so no name can split a character.
    pub fn matches(&self, target: &str) -> bool {
        if self.wildcard { target.as_bytes().starts_with(self.text.as_bytes()) } else { target == &*self.text }
    }

    /// Whether everything that `other` covers is covered.
    pub fn contains(&self, other: &Self) -> bool {
        if self.wildcard { other.text.as_bytes().starts_with(self.text.as_bytes()) } else { self == other }
    }

    /// The text before the `*`, or the whole of it.
    pub fn stem(&self) -> &str {
        &self.text
    }

    /// Whether a `*` stands at the end.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.text, if self.wildcard { "*" } else { "" })
    }
}

/// Where a row stands in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column of each field, from 1; 0 where the row has no such field.
    pub columns: [u32; 7],
}

/// The condition of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct When {
    /// Which one of the policy's conditions.
    pub id: ConditionId,
    /// Its name.
    pub name: Arc<str>,
}

/// A `p` row, or an `o` row.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its id, unique in the file.
    pub id: RuleId,
    /// The agent or role it is about: `agent:NAME` or `role:NAME`.
    pub subject: Box<str>,
    /// The targets it is about.
    pub pattern: Pattern,
    /// The tiers it is about.
    pub bound: TierBound,
    /// When it counts; `None` for always.
    pub when: Option<When>,
    /// What it says.
    pub effect: RuleEffect,
    /// Where it stands.
    pub at: Place,
}

impl Rule {
    /// Whether the rule is about this target at this tier; whose call it is, is the roles' matter.
    pub fn covers(&self, target: &str, tier: Tier) -> bool {
        self.bound.covers(tier) && self.pattern.matches(target)
    }

    /// Whether the row counts at this target and tier, when conditions come to what `truth` says of them.
    pub fn counts(&self, target: &str, tier: Tier, truth: impl FnOnce(&When) -> Truth) -> bool {
        self.covers(target, tier) && self.when.as_ref().is_none_or(|when| self.effect.counts(truth(when)))
    }

    /// The kind of the row: `p` or `o`.
    pub fn kind(&self) -> &'static str {
        if self.effect.obligation().is_some() { "o" } else { "p" }
    }

    /// The fields behind the kind, in the order of the model's `p`.
    pub fn fields(&self) -> [String; 6] {
        let condition = self.when.as_ref().map_or("-", |when| &when.name).to_owned();
        let tier = self.bound.as_str().to_owned();
        [self.id.to_string(), self.subject.to_string(), self.pattern.to_string(), tier, condition, self.effect.to_string()]
    }
}

/// A `g` row.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The agent or role that gets the role.
    pub member: Box<str>,
    /// The role.
    pub role: Box<str>,
    /// Where it stands.
    pub at: Place,
}

/// A whole `policy.csv`, in the order of its rows.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The `p` rows and the `o` rows.
    pub rules: Vec<Rule>,
    /// The `g` rows.
    pub grants: Vec<Grant>,
}
