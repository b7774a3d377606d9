//! `audit erase`: destroys the keys of a subject's payloads, on record before it is done.
//!
//! INVARIANT: the record names every key before the first of them is destroyed, so that what is gone is explained whenever this is cut off.

use std::io::Write;
use std::path::Path;

use clap::Args as ClapArgs;
use jiff::civil::Date;
use serde_json::json;

use super::Error;
use super::print::json_line;
use super::verify::count;
use crate::audit::payload::{Found, destroy, keys_of};
use crate::cli::table::safe;
use crate::cli::{Context, block_on, person};
use crate::listen::admin::Deed;

/// Whose payloads to erase.
#[derive(ClapArgs, Clone, Debug)]
pub struct Erase {
    /// The subject, as records have it: in `on_behalf_of`, or else in `principal`, such as `agent:NAME`.
    #[arg(long, value_name = "SUBJECT")]
    pub subject: String,
    /// Only what was kept in the months before this one (in UTC), as YYYY-MM, or as a date, whose month stays.
    #[arg(long, value_name = "MONTH", value_parser = month)]
    pub before: Option<String>,
    /// Why, in a few words for the record.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

fn month(text: &str) -> Result<String, &'static str> {
    let day = if text.len() == "2026-11".len() { format!("{text}-01") } else { text.to_owned() };
    let sound = day.len() == "2026-11-01".len() && day.parse::<Date>().is_ok();
    day.get(.."2026-11".len()).filter(|_| sound).map(str::to_owned).ok_or("not a month: write it as 2026-11")
}

/// Words that explain something.
pub(super) fn reason(text: &str) -> Result<String, &'static str> {
    let length = text.trim().chars().count();
    if (1..=MAX_REASON).contains(&length) { Ok(text.trim().to_owned()) } else { Err("write why, in 1 to 500 characters") }
}

/// Records, then destroys.
pub(super) fn run(asked: &Erase, dir: &Path, context: Option<&Context>, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let unreadable = |source| Error::unreadable(dir, source);
    let found = keys_of(dir, &asked.subject, asked.before.as_deref()).map_err(unreadable)?;
    if found.is_empty() {
        let before = asked.before.as_ref().map(|month| format!(" before {month}")).unwrap_or_default();
        return Err(Error::NoSubject(format!("{}`{before}", safe(&asked.subject))));
    }
    let mut gone = 0;
    for some in found.chunks(KEYS_IN_RECORD) {
        let deed = Deed {
            action: "payload_erase".to_owned(),
            subject: asked.subject.clone(),
            reason: Some(asked.reason.clone()),
            payload_keys: some.iter().map(|key| key.id.clone()).collect(),
            ..Deed::default()
        };
        record(context, deed)?;
        gone += destroy(dir, some).map_err(|source| Error::Unerased { dir: dir.display().to_string(), source })?;
    }
    let keys = found.len();
    if json {
        let months: std::collections::BTreeSet<&str> = found.iter().map(|key: &Found| key.month.as_str()).collect();
        json_line(out, &json!({ "subject": asked.subject, "keys": keys, "payloads": gone, "months": months }))?;
    } else {
        let stays = asked.before.as_ref().map(|month| format!("; what was kept in {month} and later stays")).unwrap_or_default();
        let (keys, gone, whose) = (count(keys as u64, "key"), count(gone as u64, "payload"), safe(&asked.subject));
        writeln!(out, "erased {keys} of {whose}, and {gone} that had been sealed with them{stays}")?;
        writeln!(out, "That is on record. Copies of `payloads/` in backups are not reached from here.")?;
    }
    Ok(0)
}

/// Puts on record what a person is about to do.
pub(super) fn record(context: Option<&Context>, deed: Deed) -> Result<(), Error> {
    let config = context.and_then(|context| context.config().ok());
    let config = config.ok_or_else(|| Error::Unrecorded("there is no configuration to tell where; see --config".to_owned()))?;
    let recorded = block_on(async { Ok(person::record_deed(&config, deed).await) });
    recorded.unwrap_or_else(|_no_runtime| Err("this machine gives no threads".to_owned())).map_err(Error::Unrecorded)
}

/// Longest reason in characters.
const MAX_REASON: usize = 500;
/// Keys that one record names.
const KEYS_IN_RECORD: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_said_by_itself_or_by_a_date_in_it() {
        assert_eq!([month("2026-11"), month("2026-11-30")], [Ok("2026-11".to_owned()), Ok("2026-11".to_owned())]);
        for wrong in ["2026-13", "2026", "2026-11-31", "november", "2026-1-1é"] {
            assert!(month(wrong).is_err(), "{wrong}");
        }
    }
}
