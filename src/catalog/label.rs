//! Labels: what a call does to the flow of data, in the operator's words.
//!
//! Owns: the words, and their bounds. Leaves to others: what an agent has met (`run`), and what follows from it (`policy`).

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check_name;
use crate::mcp::json::Node;

/// Most labels of one target.
pub const MAX_LABELS: usize = 16;
/// Most different labels of a team's own in all manifests.
pub const MAX_TEAM_LABELS: usize = 64;
/// Longest name of a team's own label, without what stands before it.
const MAX_NAME: usize = 32;
/// What a team's own label begins with: a slip in one of the three words must not become a label that nothing asks about.
const TEAM: &str = "team:";

/// What a call does to the flow of data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// Reads what must not leave.
    Private,
    /// Brings text of strangers.
    Untrusted,
    /// Leaves the trust domain.
    Outward,
    /// `team:NAME`: what a team's own conditions ask about.
    Team(Arc<str>),
}

impl Label {
    /// The label of this word.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(word: &str) -> Result<Self, String> {
        let forms = "write `private`, `untrusted`, `outward`, or `team:NAME` for one of your own";
        match word {
            "private" => Ok(Self::Private),
            "untrusted" => Ok(Self::Untrusted),
            "outward" => Ok(Self::Outward),
            _ => match word.strip_prefix(TEAM) {
                Some(name) if name.len() <= MAX_NAME && check_name(name).is_ok() => Ok(Self::Team(word.into())),
                Some(_) => Err(format!("`{}` is not a label: a name is 1 to {MAX_NAME} of `a-z`, `0-9` and `-`", word.escape_default())),
                None => Err(format!("`{}` is not a label: {forms}", word.escape_default())),
            },
        }
    }

    /// The word in manifests, conditions and records.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Private => "private",
            Self::Untrusted => "untrusted",
            Self::Outward => "outward",
            Self::Team(word) => word,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl std::str::FromStr for Label {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Self::parse(word)
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Label {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Label".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(private|untrusted|outward|team:[a-z0-9-]{1,32})$" })
    }
}

/// The labels that a tool's annotations claim, for `wrap`, where nobody has said anything else. What is open to the world, which a tool is
/// that says nothing (`openWorldHint` of MCP, whose default is true), brings text of strangers and may take text out; what is closed reads
/// what is one's own.
pub fn claimed_labels(definition: &Node<'_>) -> Vec<Label> {
    let hint = definition.get("annotations").and_then(|hints| hints.get("openWorldHint")).and_then(Node::as_bool);
    if hint == Some(false) { vec![Label::Private] } else { vec![Label::Untrusted, Label::Outward] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_of_three_or_says_that_it_is_the_teams_own() {
        for word in ["private", "untrusted", "outward", "team:customer-data"] {
            assert_eq!(Label::parse(word).map(|label| label.to_string()), Ok(word.to_owned()));
        }
        for (word, told) in [
            ("privat", "`privat` is not a label: write `private`"),
            ("Private", "`Private` is not a label"),
            ("customer-data", "`customer-data` is not a label: write"),
            ("team:", "`team:` is not a label: a name is 1 to 32"),
            ("team:Customer", "`team:Customer` is not a label: a name is"),
            ("team:123456789012345678901234567890123", "is not a label: a name is"),
        ] {
            let said = Label::parse(word).expect_err(word);
            assert!(said.contains(told), "{word}: {said}");
        }
    }
}
