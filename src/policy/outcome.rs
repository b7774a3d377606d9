//! What rules make of a call: the decision with its reasons.

use std::borrow::Cow;

use super::rule::RuleId;

/// A decision with the rules that make it, in the order of their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The call may go on: these rules allow it and none denies it.
    Permit {
        /// Every matching allow.
        rules: Cow<'a, [RuleId]>,
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

    /// Decides: a deny always wins, and without an allow the answer is no.
    pub fn of(allows: Cow<'a, [RuleId]>, denies: Cow<'a, [RuleId]>) -> Self {
        match (denies.is_empty(), allows.is_empty()) {
            (false, _) => Self::Deny { rules: denies },
            (true, true) => Self::DEFAULT,
            (true, false) => Self::Permit { rules: allows },
        }
    }

    /// Whether the call may go on.
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit { .. })
    }

    /// The rules that decided; none for the default deny.
    pub fn rules(&self) -> &[RuleId] {
        match self {
            Self::Permit { rules } | Self::Deny { rules } => rules,
        }
    }
}

/// Adds rules of another subject. Nearly always one subject decides alone, and then nothing is copied.
pub(super) fn gather<'a>(rules: &mut Cow<'a, [RuleId]>, more: &'a [RuleId]) {
    if rules.is_empty() {
        *rules = Cow::Borrowed(more);
    } else {
        let merged = rules.to_mut();
        merged.extend_from_slice(more);
        merged.sort_unstable();
    }
}
