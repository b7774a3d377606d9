//! `audit show`: one call with every field.

use std::io::Write;

use jiff::Timestamp;

use super::{Asking, Error};
use crate::audit::find::Asked;

/// Prints all records of one call.
pub(super) fn run(asking: &Asking<'_>, what: &str, out: &mut dyn Write) -> Result<u8, Error> {
    let answer = asking.logs.show(&asked(what)).map_err(|error| asking.unreadable(error))?;
    if answer.records.is_empty() {
        return Err(Error::Nothing(perhaps(what, answer.unreadable)));
    }
    asking.print.in_full(out, &answer)?;
    Ok(0)
}

/// What is meant by a number, a place or an id.
pub fn asked(what: &str) -> Asked {
    let place = |origin: Option<&str>, seq: &str| Some(Asked::Place(origin.map(str::to_owned), seq.parse().ok()?));
    let found = match what.rsplit_once(':') {
        Some((origin, seq)) => place(Some(origin), seq),
        None => place(None, what),
    };
    found.unwrap_or_else(|| Asked::Call(what.to_owned()))
}

/// Where the call may be although nothing has its id. The id of an invocation tells when it began (RFC 9562, 5.7).
pub(super) fn perhaps(what: &str, unreadable: u64) -> String {
    let damaged =
        if unreadable == 0 { String::new() } else { format!("; {unreadable} lines are not records, see `doorward audit verify`") };
    let begun =
        uuid::Uuid::try_parse(what).ok().and_then(|id| Timestamp::from_second(id.get_timestamp()?.to_unix().0.try_into().ok()?).ok());
    let Some(begun) = begun else { return damaged };
    let find = format!("`doorward audit find --kind coalesced --since {begun} --oldest --limit 20`");
    format!("{damaged}; if it was refused in a flood it was only counted: {find}, with --agent and --code where they are known")
}
