//! `doorward schema`: JSON Schemas of the files that people write, for editors and for CI, and of the records that they read.

use clap::ValueEnum;

use super::Failure;
use crate::audit;
use crate::catalog::manifest::Manifest;
use crate::config::Config;

/// Arguments of `doorward schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward schema config > doorward.schema.json")]
pub struct Args {
    /// Which file.
    file: File,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum File {
    /// doorward.yaml
    Config,
    /// tool-manifests/NAME.yaml
    Manifest,
    /// policies/conditions.yaml
    Conditions,
    /// policies/limits.yaml
    Limits,
    /// One line of var/audit/ORIGIN/segments/*.jsonl
    Audit,
}

/// Prints the schema.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let schema = match args.file {
        File::Config => schemars::schema_for!(Config).to_value(),
        File::Manifest => schemars::schema_for!(Manifest).to_value(),
        File::Conditions => crate::policy::condition::schema(),
        File::Limits => crate::limit::schema(),
        File::Audit => audit::schema::line(),
    };
    println!("{}", serde_json::to_string_pretty(&schema).map_err(Failure::other)?);
    Ok(0)
}
