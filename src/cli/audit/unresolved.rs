//! `audit unresolved`: calls whose end nobody knows.

use std::io::{self, Write};

use serde::Serialize;

use super::print::{Printer, json_line};
use super::{Asking, Error};
use crate::audit::find::Standing;
use crate::audit::record::Stored;

/// Prints the calls that have no known end.
pub(super) fn run(asking: &Asking<'_>, out: &mut dyn Write) -> Result<u8, Error> {
    let found = asking.logs.unresolved().map_err(|error| asking.unreadable(error))?;
    print(&asking.print, out, &found)?;
    Ok(0)
}

fn print(print: &Printer, out: &mut dyn Write, found: &[(Stored, Standing)]) -> io::Result<()> {
    if found.is_empty() && !print.json {
        return writeln!(out, "every call has ended");
    }
    for (stored, standing) in found {
        if print.json {
            let record: &serde_json::value::RawValue = serde_json::from_str(&stored.line)?;
            json_line(out, &StandingLine { standing: standing.as_str(), record })?;
        } else {
            writeln!(out, "{:<11} {}", standing.as_str(), print.row(stored))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct StandingLine<'a> {
    standing: &'static str,
    record: &'a serde_json::value::RawValue,
}
