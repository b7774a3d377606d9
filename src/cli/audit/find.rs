//! `audit find`: its arguments and what they select.

use std::io::Write;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::time::time;
use super::{Asking, Error};
use crate::audit::find::Filter;
use crate::audit::record::{DECISIONS, Kind};
use crate::error::Code;

/// What `find` looks for.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Find {
    /// Not before: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// The tool, prompt or resource; may end in `*`.
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// The decision, for example `deny`.
    #[arg(long, value_name = "WORD", value_parser = DECISIONS)]
    pub decision: Option<String>,
    /// The error code, for example `policy_denied`.
    #[arg(long, value_name = "CODE", value_parser = code)]
    pub code: Option<String>,
    /// The run.
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// The upstream.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// The kind of record, for example `refusal`.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<Kind>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// Begin with the oldest record that fits, not so that the newest are kept.
    #[arg(long)]
    pub oldest: bool,
}

/// Prints the records that fit.
pub(super) fn run(asking: &Asking<'_>, asked: &Find, out: &mut dyn Write) -> Result<u8, Error> {
    let mut answer = asking.logs.find(&filter(asked, Timestamp::now(), &asking.print.zone)?).map_err(|error| asking.unreadable(error))?;
    if !asked.oldest {
        answer.records.reverse();
    }
    asking.print.records(out, &answer, true)?;
    Ok(0)
}

fn filter(asked: &Find, now: Timestamp, zone: &TimeZone) -> Result<Filter, Error> {
    let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now, zone)).transpose();
    Ok(Filter {
        since: at(&asked.since)?,
        until: at(&asked.until)?,
        agent: asked.agent.clone(),
        target: asked.tool.clone(),
        decision: asked.decision.clone(),
        code: asked.code.clone(),
        run: asked.run.clone(),
        upstream: asked.upstream.clone(),
        kind: asked.kind,
        call_id: None,
        limit: Some(asked.limit),
        newest_first: !asked.oldest,
    })
}

fn kind(word: &str) -> Result<Kind, String> {
    let words = || Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    Kind::from_word(word).ok_or_else(|| format!("use one of {}", words()))
}

fn code(word: &str) -> Result<String, String> {
    let known = Code::ALL.iter().any(|code| code.facts().code == word);
    if known { Ok(word.to_owned()) } else { Err("`doorward errors` lists the codes".to_owned()) }
}
