//! `audit export`: records for other systems, oldest first, as many as there are.

use std::io::Write;

use clap::{Args as ClapArgs, ValueEnum};

use super::find::Wanted;
use super::{Asking, Error};
use crate::audit::export::Form;
use crate::audit::record::Stored;

/// What is exported, and how.
#[derive(ClapArgs, Clone, Debug)]
pub struct Export {
    /// The form.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    pub format: Format,
    /// Which records.
    #[command(flatten)]
    pub wanted: Wanted,
}

/// The forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line: leaf, origin, seq and the record as stored.
    Ndjson,
    /// Comma-separated values, safe for spreadsheets.
    Csv,
    /// OCSF 1.4.0, API Activity (class 6003).
    Ocsf,
    /// ArcSight Common Event Format.
    Cef,
}

/// Writes the records.
pub(super) fn run(asking: &Asking<'_>, asked: &Export, out: &mut dyn Write) -> Result<u8, Error> {
    let form = match asked.format {
        Format::Ndjson => Form::Ndjson,
        Format::Csv => Form::Csv,
        Format::Ocsf => Form::Ocsf,
        Format::Cef => Form::Cef,
    };
    let filter = asked.wanted.filter(asking)?;
    if let Some(head) = form.head() {
        writeln!(out, "{head}")?;
    }
    let (mut unreadable, mut failed) = (0_u64, None);
    let each = |line: &[u8]| match Stored::parse(line).and_then(|stored| form.line(&stored)) {
        Some(line) => failed = writeln!(out, "{line}").err().or(failed.take()),
        None => unreadable += 1,
    };
    asking.logs.each(&filter, each).map_err(|error| asking.unreadable(error))?;
    if unreadable > 0 {
        eprintln!("note: {unreadable} lines are not records and were left out; see `doorward audit verify`");
    }
    failed.map_or(Ok(0), |error| Err(error.into()))
}
