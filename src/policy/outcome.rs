//! What rules make of a call: the decision with its reasons.

use std::borrow::Cow;

use super::obligation::Obliged;
use super::rule::RuleId;

/// A decision with the rules that make it, in the order of their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The call may go on: these rules allow it and none denies it.
    Permit {
        /// Every matching allow.
        rules: Cow<'a, [RuleId]>,
        /// What every matching `o` row asks for.
        obligations: Cow<'a, [Obliged]>,
    },
    /// The call is refused.
    Deny {
        /// Every matching deny; empty when no rule allows it.
        rules: Cow<'a, [RuleId]>,
    },
}

impl<'a> Decision<'a> {
    /// No rule says anything: no.
    pub const DEFAULT: Self = Self::Deny { rules: Cow::Borrowed(&[]) };

    /// Decides: a deny always wins, and without an allow the answer is no. Obligations count beside a permit only.
    pub fn of(allows: Cow<'a, [RuleId]>, denies: Cow<'a, [RuleId]>, obligations: Cow<'a, [Obliged]>) -> Self {
        match (denies.is_empty(), allows.is_empty()) {
            (false, _) => Self::Deny { rules: denies },
            (true, true) => Self::DEFAULT,
            (true, false) => Self::Permit { rules: allows, obligations },
        }
    }

    /// One decision for two names of the same target: what one of them is denied, both are, and obligations add up.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Permit { rules, mut obligations }, Self::Permit { obligations: more, .. }) => {
                if obligations != more {
                    let all = obligations.to_mut();
                    all.extend(more.into_owned());
                    all.sort_unstable();
                    all.dedup();
                }
                Self::Permit { rules, obligations }
            }
            (denied @ Self::Deny { .. }, _) | (_, denied) => denied,
        }
    }

    /// Whether the call may go on.
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit { .. })
    }

    /// The rules that decided; none for the default deny.
    pub fn rules(&self) -> &[RuleId] {
        match self {
            Self::Permit { rules, .. } | Self::Deny { rules } => rules,
        }
    }

    /// What has to be done beside the call; nothing where it is denied.
    pub fn obligations(&self) -> &[Obliged] {
        match self {
            Self::Permit { obligations, .. } => obligations,
            Self::Deny { .. } => &[],
        }
    }
}

/// Adds what another subject's rows say. Nearly always one subject decides alone, and then nothing is copied.
pub(super) fn gather<'a, T: Clone + Ord>(all: &mut Cow<'a, [T]>, more: &'a [T]) {
    if all.is_empty() {
        *all = Cow::Borrowed(more);
    } else if !more.is_empty() {
        let merged = all.to_mut();
        merged.extend_from_slice(more);
        merged.sort_unstable();
    }
}
