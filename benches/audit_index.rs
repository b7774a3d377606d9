//! Large, realistic audit logs, and what questions to them cost.
//!
//! `cargo bench --bench audit_index -- generate --records 1000000 --out FOLDER` writes one; `measure` asks every question of it, and `incidents` runs
//! the commands that a responder begins with.
//! `benches/README.md` explains the figures. A figure is never a failure; a wrong answer is.

#[path = "audit_index/generate.rs"]
mod generate;
#[path = "audit_index/incidents.rs"]
mod incidents;
#[path = "audit_index/measure.rs"]
mod measure;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Writes large audit logs and measures questions to them.
#[derive(Parser)]
#[command(name = "cargo bench --bench audit_index --")]
struct Options {
    /// Given by `cargo bench`, and not by `cargo test`, which should not wait for this.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Writes a log into FOLDER/audit, and the key of its values into FOLDER/keys.
    Generate {
        /// How many records.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// Over how many days, ending today.
        #[arg(long, default_value_t = 30)]
        days: u64,
        /// The same seed writes the same log on the same day.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The folder; it is made, and must have no log.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes the index of a generated log anew and asks every question of it; writes the log first where there is none.
    Measure {
        /// How many records, where the log is written.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// The folder of the log; a temporary one otherwise.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Keep the index that is there.
        #[arg(long)]
        keep: bool,
    },
    /// Checks all records of a generated log against its chain; writes the log first where there is none.
    Verify {
        /// How many records, where the log is written.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// The folder of the log.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Runs the commands of the ten incidents over a generated log; writes the log first where there is none.
    Incidents {
        /// How many records, where the log is written.
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// The folder of the log.
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.verb {
        None if !options.bench => Ok(()),
        None => measure::run(1_000_000, None, false),
        Some(Verb::Generate { records, days, seed, out }) => generate::run(records, days, seed, &out),
        Some(Verb::Measure { records, dir, keep }) => measure::run(records, dir, keep),
        Some(Verb::Verify { records, dir }) => measure::verify(records, &dir),
        Some(Verb::Incidents { records, dir }) => incidents::run(records, &dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
