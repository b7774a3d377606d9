//! How much harm a tool can do.
//!
//! Leaves to others: who sets a tool's tier (`catalog::manifest`) and who may reach it (`policy`).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three tiers, in rising order; the operator says so in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// No effect outside the answer. Prompts and resources have this tier.
    Read,
    /// An effect that another call can undo.
    Reversible,
    /// An effect that cannot be undone, or that leaves the trust domain.
    Irreversible,
}

impl Tier {
    /// Every tier, lowest first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Reversible, Self::Irreversible];

    /// The word in manifests, rows and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Reversible => "reversible",
            Self::Irreversible => "irreversible",
        }
    }

    /// The tier of a word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == word)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
