//! `audit prove` and `audit verify --proof`: one record, proved to somebody who has neither the log nor the other records.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::Error;
use super::print::json_line;
use super::verify::EXIT_DAMAGED;
use crate::audit::disk::Disk;
use crate::audit::note::VerifyingKey;
use crate::audit::proof::{check, prove};
use crate::audit::trust::Notes;
use crate::cli::table::safe;

/// Which record to prove.
#[derive(ClapArgs, Clone, Debug)]
pub struct Prove {
    /// The record's number.
    pub seq: u64,
    /// The record's log.
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub origin: String,
    /// Where the proof goes, instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Makes the proof.
pub(super) fn run(asked: &Prove, dir: &Path, out: &mut dyn Write) -> Result<u8, Error> {
    let home = dir.join(&asked.origin);
    let disk = Disk::existing(dir, &asked.origin);
    let notes = Notes::of(&disk).map_err(|source| Error::unreadable(&home, source))?;
    let proof = prove(&disk, &notes, asked.seq).map_err(Error::Prove)?;
    match &asked.out {
        None => writeln!(out, "{proof}")?,
        Some(file) => {
            fs::write(file, format!("{proof}\n")).map_err(|source| Error::Unwritten { file: file.display().to_string(), source })?
        }
    }
    Ok(0)
}

/// Checks a proof with a key and nothing else.
pub(super) fn verify(file: &Path, keys: &[VerifyingKey], json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let [key] = keys else { return Err(Error::Usage("a proof is checked with the one key that signed it: --key VKEY")) };
    let text = fs::read_to_string(file).map_err(|source| Error::File { file: file.display().to_string(), source })?;
    let checked = check(&text, key);
    if json {
        let proved = checked.as_ref().ok();
        let why = checked.as_ref().err().map(ToString::to_string);
        let log = proved.map(|proved| proved.checkpoint.name.as_str());
        json_line(out, &Verdict { holds: proved.is_some(), seq: proved.map(|proved| proved.seq), log, why })?;
    } else {
        match &checked {
            Ok(proved) => writeln!(out, "holds: {}\n{}", safe(&proved.to_string()), safe(&proved.record))?,
            Err(why) => writeln!(out, "DOES NOT HOLD: {why}")?,
        }
    }
    Ok(if checked.is_ok() { 0 } else { EXIT_DAMAGED })
}

#[derive(Serialize)]
struct Verdict<'a> {
    holds: bool,
    seq: Option<u64>,
    log: Option<&'a str>,
    why: Option<String>,
}
