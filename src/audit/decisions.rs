//! What the policy has decided of whom, counted: enough to hold another policy against what really was asked.

use std::collections::BTreeMap;
use std::io;

use super::find::Logs;
use super::index::Wanted;
use super::row::Field;

/// A decision of the policy about a target, whatever it was called with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decided {
    /// Who called: `agent:NAME`.
    pub principal: String,
    /// The target's name in the policy, or what was asked for where there was no such target.
    pub target: String,
    /// The target's tier then; empty where it was not known.
    pub tier: String,
    /// Whether it was permitted.
    pub permitted: bool,
}

/// How often something was, and when, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: i64,
    /// The last time.
    pub last: i64,
}

/// The codes of refusals that the policy decides. What is withheld or frozen is refused whatever it says.
const OF_POLICY: [&str; 2] = ["policy_denied", "tool_not_found"];

impl Logs {
    /// The decisions of a time: permits have an intent or wait for a person, denials have a refusal. What was refused for other reasons tells
    /// nothing of the policy, and of a flood of refusals only the first ones are told.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn decisions(&self, since: Option<i64>, until: Option<i64>) -> io::Result<BTreeMap<Decided, Times>> {
        let mut all: BTreeMap<Decided, Times> = BTreeMap::new();
        let wanted = Wanted { fields: &[Field::Principal, Field::Target, Field::Tier, Field::Decision, Field::Code], numbers: &[] };
        self.columns(since, until, wanted, |_, _, columns| {
            let word = |field, row| columns.words.get(&field).and_then(|words| words.first(row));
            let within = |time: i64| since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until);
            for (row, time) in columns.times.iter().copied().enumerate().filter(|(_, time)| within(*time)) {
                let permitted = match word(Field::Decision, row) {
                    // The policy permits what waits for a person.
                    Some("allow" | "needs_approval") => true,
                    Some("deny") if word(Field::Code, row).is_some_and(|code| OF_POLICY.contains(&code)) => false,
                    _ => continue,
                };
                let (Some(principal), Some(target)) = (word(Field::Principal, row), word(Field::Target, row)) else { continue };
                let tier = word(Field::Tier, row).unwrap_or_default().to_owned();
                let decided = Decided { principal: principal.to_owned(), target: target.to_owned(), tier, permitted };
                let times = all.entry(decided).or_insert(Times { count: 0, first: time, last: time });
                *times = Times { count: times.count + 1, first: times.first.min(time), last: times.last.max(time) };
            }
        })?;
        Ok(all)
    }
}
