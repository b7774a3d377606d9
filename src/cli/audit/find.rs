//! `audit find`: its arguments and what they select.

use std::io::Write;

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::time::time;
use super::{Asking, Error};
use crate::audit::filter::Filter;
use crate::audit::guess;
use crate::audit::record::{DECISIONS, Kind};
use crate::audit::row::Field;
use crate::error::Code;

/// Which records are wanted: those that fit all that is said.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Wanted {
    /// Not before: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// For whom the agent acted.
    #[arg(long, value_name = "NAME")]
    pub on_behalf_of: Option<String>,
    /// The run.
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// The trace.
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// The session.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// The call, by its invocation id.
    #[arg(long, value_name = "ID")]
    pub call: Option<String>,
    /// The upstream.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// The tool, prompt or resource; may end in `*`.
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// The tier: read, reversible or irreversible.
    #[arg(long, value_parser = ["read", "reversible", "irreversible"])]
    pub tier: Option<String>,
    /// The decision, for example `deny`.
    #[arg(long, value_name = "WORD", value_parser = DECISIONS)]
    pub decision: Option<String>,
    /// The error code, for example `policy_denied`.
    #[arg(long, value_name = "CODE", value_parser = code)]
    pub code: Option<String>,
    /// A rule that decided, or a row that asked for something beside it.
    #[arg(long, value_name = "ID")]
    pub rule: Option<String>,
    /// The policy that was in force.
    #[arg(long, value_name = "VERSION")]
    pub policy: Option<String>,
    /// A label of what was called: private, untrusted, outward or `team:NAME`.
    #[arg(long, value_name = "WORD")]
    pub label: Option<String>,
    /// A label that the agent had met, before the call or by it.
    #[arg(long, value_name = "WORD")]
    pub met: Option<String>,
    /// How the call ended, for example `timed_out`.
    #[arg(long, value_name = "WORD")]
    pub outcome: Option<String>,
    /// What is known of the side effect: none, unknown or done.
    #[arg(long, value_parser = ["none", "unknown", "done"])]
    pub effect: Option<String>,
    /// The kind of record, for example `refusal`.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<Kind>,
    /// The credential, as a record names it.
    #[arg(long, value_name = "ID")]
    pub credential: Option<String>,
    /// The person who acted.
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// A value among the arguments, as text or as JSON. It need not have been stored: its keyed hash is looked for.
    #[arg(long, value_name = "TEXT")]
    pub value: Option<String>,
    /// The keyed hash of all arguments: who made the same call?
    #[arg(long, value_name = "HASH")]
    pub args_hash: Option<String>,
}

/// What `find` looks for.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Find {
    /// Which records.
    #[command(flatten)]
    pub wanted: Wanted,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// Begin with the oldest record that fits, not so that the newest are kept.
    #[arg(long)]
    pub oldest: bool,
}

/// Prints the records that fit.
pub(super) fn run(asking: &Asking<'_>, asked: &Find, out: &mut dyn Write) -> Result<u8, Error> {
    let filter = Filter { limit: Some(asked.limit), newest_first: !asked.oldest, ..asked.wanted.filter(asking)? };
    let mut answer = asking.logs.find(&filter).map_err(|error| asking.unreadable(error))?;
    if !asked.oldest {
        answer.records.reverse();
    }
    asking.print.records(out, &answer, true)?;
    Ok(0)
}

impl Wanted {
    /// The filter that says the same.
    pub(super) fn filter(&self, asking: &Asking<'_>) -> Result<Filter, Error> {
        let now = Timestamp::now();
        let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now, &asking.print.zone)).transpose();
        let filter = Filter { since: at(&self.since)?, until: at(&self.until)?, ..Filter::default() };
        let filter = filter
            .and(Field::Agent, self.agent.as_deref())
            .and(Field::OnBehalfOf, self.on_behalf_of.as_deref())
            .and(Field::Run, self.run.as_deref())
            .and(Field::Trace, self.trace.as_deref())
            .and(Field::Session, self.session.as_deref())
            .and(Field::Call, self.call.as_deref())
            .and(Field::Upstream, self.upstream.as_deref())
            .and(Field::Target, self.tool.as_deref())
            .and(Field::Tier, self.tier.as_deref())
            .and(Field::Decision, self.decision.as_deref())
            .and(Field::Code, self.code.as_deref())
            .and(Field::Rule, self.rule.as_deref())
            .and(Field::Policy, self.policy.as_deref())
            .and(Field::Label, self.label.as_deref())
            .and(Field::Met, self.met.as_deref())
            .and(Field::Outcome, self.outcome.as_deref())
            .and(Field::Effect, self.effect.as_deref())
            .and(Field::Kind, self.kind.map(Kind::as_str))
            .and(Field::Credential, self.credential.as_deref())
            .and(Field::Actor, self.actor.as_deref())
            .and(Field::Arguments, self.args_hash.as_deref());
        match &self.value {
            Some(value) => Ok(filter.and_any(Field::Value, guess::forms(value, &asking.value_keys()?))),
            None => Ok(filter),
        }
    }
}

/// A filter in words of the command line. A value that is looked for is not told: it may be a secret.
pub(super) fn told(filter: &Filter) -> Vec<String> {
    let times = [("--since", filter.since), ("--until", filter.until)];
    let times = times.into_iter().filter_map(|(flag, time)| Some(format!("{flag} {}", crate::clock::rfc3339(time?))));
    let wishes = filter.wishes.iter().map(|wish| match flag(wish.field) {
        "--value" => "--value, whose text is not told".to_owned(),
        flag => format!("{flag} {}", wish.any_of.join(",")),
    });
    times.chain(wishes).collect()
}

fn flag(field: Field) -> &'static str {
    match field {
        Field::Agent => "--agent",
        Field::OnBehalfOf => "--on-behalf-of",
        Field::Run => "--run",
        Field::Trace => "--trace",
        Field::Session => "--session",
        Field::Call => "--call",
        Field::Upstream => "--upstream",
        Field::Target => "--tool",
        Field::Tier => "--tier",
        Field::Decision => "--decision",
        Field::Code => "--code",
        Field::Rule => "--rule",
        Field::Policy => "--policy",
        Field::Label => "--label",
        Field::Met => "--met",
        Field::Outcome => "--outcome",
        Field::Effect => "--effect",
        Field::Kind => "--kind",
        Field::Credential => "--credential",
        Field::Actor => "--actor",
        Field::Arguments => "--args-hash",
        // No argument asks for these, or for a value by its text.
        Field::Principal | Field::Reason | Field::Limit | Field::Action | Field::Value => "--value",
    }
}

fn kind(word: &str) -> Result<Kind, String> {
    let words = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    Kind::from_word(word).ok_or_else(|| format!("use one of {}", words()))
}

fn code(word: &str) -> Result<String, String> {
    let known = Code::ALL.iter().any(|code| code.facts().code == word);
    if known { Ok(word.to_owned()) } else { Err("`doorward errors` lists the codes".to_owned()) }
}
