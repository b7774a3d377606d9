//! What an `o` row asks for: conditions of a permission that the path keeps after the decision.
//!
//! Owns: the words of the column, and what they mean. Leaves to others: keeping them (`limit`, `approval`, `audit`, `inspect`), and which
//! of them this build can keep (`gateway`, whose load refuses the rest).
//! INVARIANT: an obligation never permits anything: it is there beside a permit, and only there.

use std::fmt;
use std::sync::Arc;

use super::rule::RuleId;
use super::suggest::did_you_mean;
use crate::config::{Rate, check_name};

/// What an effect column of an `o` row may say.
const WORDS: [&str; 8] =
    ["approve:ROLE", "approve:user", "redact:/POINTER", "redact", "record_payload", "dry_run", "limit:N/PERIOD", "waive:toxic-flow"];
/// The rule that a row can lift.
const WAIVABLE: &str = "toxic-flow";
/// Most people that one row may ask to approve.
const MAX_PEOPLE: u8 = 5;

/// What has to be done beside the call, or before it. Obligations of several rows add up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obligation {
    /// `approve:ROLE`, `approve:ROLE*N`: so many people who have the role say yes to this call first.
    Approve {
        /// The role of people, as `people` of the configuration gives it.
        role: Arc<str>,
        /// How many of them: 1 to 5.
        people: u8,
    },
    /// `approve:user`: the agent's user says yes, through the agent's client. Never takes the place of a role's yes.
    ApproveUser,
    /// `redact:POINTER`: the agent does not get this field of a tool's result; `redact`: nor anything else of it.
    Redact(Arc<str>),
    /// `record_payload`: arguments and result are kept, sealed, beside the record.
    RecordPayload,
    /// `dry_run`: the call is checked, decided and recorded, and not made.
    DryRun,
    /// `limit:N/PERIOD`: each agent may make so many of the calls that the row is about.
    Limit(Rate),
    /// `waive:toxic-flow`: the built-in rule is lifted (`flow`). The one that asks for less, so its row reads as an allow does.
    Waive,
}

impl Obligation {
    /// The obligation that the word asks for.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn parse(word: &str) -> Result<Self, (String, String)> {
        match word.split_once(':') {
            None => match word {
                "redact" => Ok(Self::Redact("".into())),
                "record_payload" => Ok(Self::RecordPayload),
                "dry_run" => Ok(Self::DryRun),
                "approve" => Err(("`approve` does not say whose yes is needed".into(), "write `approve:ROLE` or `approve:user`".into())),
                "waive" => Err(("`waive` does not say which rule is lifted".into(), format!("write `waive:{WAIVABLE}`"))),
                "limit" => Err(("`limit` does not say how many".into(), "write `limit:N/s`, `limit:N/min` or `limit:N/h`".into())),
                other => Err(unknown(other)),
            },
            Some(("approve", whom)) => approve(whom),
            Some(("waive", WAIVABLE)) => Ok(Self::Waive),
            Some(("waive", other)) => Err((format!("`{other}` is no rule that a row can lift"), format!("write `waive:{WAIVABLE}`"))),
            Some(("limit", rate)) => match Rate::parse(rate) {
                Some(rate) => Ok(Self::Limit(rate)),
                None => Err((format!("`{rate}` is not a rate"), "write `limit:N/s`, `limit:N/min` or `limit:N/h`".into())),
            },
            Some(("redact", pointer)) => redact(pointer),
            Some((word @ ("record_payload" | "dry_run"), rest)) => {
                Err((format!("`{word}` takes nothing, and `:{rest}` stands behind it"), format!("write `{word}`")))
            }
            Some((other, _)) => Err(unknown(other)),
        }
    }

    /// Whether it keeps the call itself from being made.
    pub fn is_dry_run(&self) -> bool {
        matches!(self, Self::DryRun)
    }

    /// The word before the colon: what kind it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Approve { .. } | Self::ApproveUser => "approve",
            Self::Redact(_) => "redact",
            Self::RecordPayload => "record_payload",
            Self::DryRun => "dry_run",
            Self::Limit(_) => "limit",
            Self::Waive => "waive",
        }
    }
}

fn unknown(word: &str) -> (String, String) {
    let kinds = ["approve", "redact", "record_payload", "dry_run", "limit", "waive"];
    (format!("`{word}` is not an obligation"), did_you_mean(word, kinds, format!("write `{}`", WORDS.join("`, `"))))
}

fn approve(whom: &str) -> Result<Obligation, (String, String)> {
    const FORMS: &str = "write `approve:ROLE`, `approve:ROLE*2` for two people, or `approve:user`";
    let (role, people) = whom.split_once('*').map_or((whom, None), |(role, people)| (role, Some(people)));
    if role == "user" {
        let one = "`approve:user` asks the agent's own user, who is one".to_owned();
        return if people.is_none() { Ok(Obligation::ApproveUser) } else { Err((one, "write `approve:user`".into())) };
    }
    check_name(role).map_err(|message| (message, FORMS.to_owned()))?;
    // One spelling each: `*1` and `*02` would be second ones.
    let people = match people.map(|people| (people, people.parse::<u8>())) {
        None => 1,
        Some((text, Ok(number @ 2..=MAX_PEOPLE))) if text.len() == 1 => number,
        Some((text, _)) => return Err((format!("`*{text}` is not a number of people from 2 to {MAX_PEOPLE}"), FORMS.to_owned())),
    };
    Ok(Obligation::Approve { role: role.into(), people })
}

/// RFC 6901, as far as a column can hold it; `*` stands for every element or member.
fn redact(pointer: &str) -> Result<Obligation, (String, String)> {
    let is_letter = |letter: char| letter.is_ascii_graphic() && !matches!(letter, ',' | '"');
    let is_escape = |after: &str| after.starts_with(['0', '1']);
    if pointer.starts_with('/') && pointer.chars().all(is_letter) && pointer.split('~').skip(1).all(is_escape) {
        return Ok(Obligation::Redact(pointer.into()));
    }
    Err((
        format!("`{pointer}` is not a JSON Pointer"),
        "write `redact:/FIELD`, with `*` for every element, or `redact` for the whole result".into(),
    ))
}

impl fmt::Display for Obligation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approve { role, people: 1 } => write!(out, "approve:{role}"),
            Self::Approve { role, people } => write!(out, "approve:{role}*{people}"),
            Self::ApproveUser => out.write_str("approve:user"),
            Self::Limit(rate) => write!(out, "limit:{rate}"),
            Self::Waive => write!(out, "waive:{WAIVABLE}"),
            Self::Redact(pointer) if !pointer.is_empty() => write!(out, "redact:{pointer}"),
            Self::Redact(_) | Self::RecordPayload | Self::DryRun => out.write_str(self.kind()),
        }
    }
}

/// An obligation and the row that makes it. Sorts in the order of rows; prints as `O1 approve:oncall`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obliged {
    /// The row.
    pub rule: RuleId,
    /// What it asks for.
    pub obligation: Obligation,
}

impl Obliged {
    /// What no row asks for, under a name that stands behind all rows.
    pub fn built_in(rule: &str, obligation: Obligation) -> Self {
        Self { rule: RuleId::new(u32::MAX, rule), obligation }
    }
}

impl fmt::Display for Obliged {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.rule, self.obligation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_printed_as_it_is_written() {
        for word in [
            "approve:oncall",
            "approve:oncall*2",
            "approve:user",
            "redact",
            "redact:/rows/*/e~1mail",
            "record_payload",
            "dry_run",
            "limit:3/min",
            "limit:1/s",
            "limit:5/h",
            "waive:toxic-flow",
        ] {
            assert_eq!(Obligation::parse(word).map(|obligation| obligation.to_string()), Ok(word.to_owned()));
        }
    }

    #[test]
    fn what_is_no_obligation_is_told_with_the_right_word() {
        let table = [
            ("aprove:oncall", "`aprove` is not an obligation", "did you mean `approve`?"),
            ("allow", "`allow` is not an obligation", "write `approve:ROLE`"),
            ("approve", "`approve` does not say", "write `approve:ROLE` or"),
            ("approve:", "`` is not a name", "write `approve:ROLE`, "),
            ("approve:On-Call", "`On-Call` is not a name", "write `approve:ROLE`, "),
            ("approve:oncall*1", "`*1` is not a number of people", "write `approve:ROLE`, "),
            ("approve:oncall*02", "`*02` is not a number of people", "write `approve:ROLE`, "),
            ("approve:oncall*300", "`*300` is not a number of people", "write `approve:ROLE`, "),
            ("approve:user*2", "`approve:user` asks the agent's own user", "write `approve:user`"),
            ("redact:args", "`args` is not a JSON Pointer", "write `redact:/FIELD`"),
            ("redact:", "`` is not a JSON Pointer", "write `redact:/FIELD`"),
            ("redact:/a~2", "`/a~2` is not a JSON Pointer", "write `redact:/FIELD`"),
            ("dry_run:/a", "`dry_run` takes nothing", "write `dry_run`"),
            ("limit:3", "`3` is not a rate", "write `limit:N/s`"),
            ("limit:0/min", "`0/min` is not a rate", "write `limit:N/s`"),
            ("limit", "`limit` does not say", "write `limit:N/s`"),
            ("waive", "`waive` does not say", "write `waive:toxic-flow`"),
            ("waive:all", "`all` is no rule", "write `waive:toxic-flow`"),
        ];
        for (word, message, help) in table {
            let (told, helped) = Obligation::parse(word).expect_err(word);
            assert!(told.starts_with(message) && helped.starts_with(help), "{word}: {told}; {helped}");
        }
    }
}
