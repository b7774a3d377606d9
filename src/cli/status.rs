//! `doorward status`: how a running gateway stands.

use serde_json::Value;

use super::{Context, Failure, table};
use crate::listen::admin::{self, Command};

/// Arguments of `doorward status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward status\n\nExit code 4 where no gateway runs on this configuration's state folder.")]
pub struct Args {}

/// Nobody answers.
const EXIT_NOT_RUNNING: u8 = 4;

/// Asks and prints.
pub async fn run(context: &Context, _: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let Some(answer) = admin::ask(config.state.as_ref(), &Command::Status).await? else {
        eprintln!("doorward: no gateway runs on {}", AsRef::<std::path::Path>::as_ref(&config.state).display());
        return Ok(EXIT_NOT_RUNNING);
    };
    if context.json {
        print!("{answer}");
        return Ok(0);
    }
    let status: Value = serde_json::from_str(&answer).map_err(|error| Failure::Other(format!("the gateway's answer: {error}")))?;
    print!("{}", told(&status));
    Ok(0)
}

fn told(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let audit = &status["audit"];
    let log = if audit["open"] == true { "takes records" } else { "takes no records: no call goes through" };
    let rows: Vec<Vec<String>> =
        status["upstreams"].as_array().into_iter().flatten().map(|row| vec![text(&row[0]), text(&row[1])]).collect();
    let mut out = format!(
        "policy {}\ncalls under way {}, freezes {}\naudit log {log}, {} records\n\n",
        text(&status["policy_version"]),
        status["calls_under_way"],
        status["freezes"],
        audit["records"]
    );
    out += &table::render(&["UPSTREAM", "STATE"], &rows);
    let processes: Vec<Vec<String>> = status["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| ["upstream", "program", "sandbox", "granted"].map(|field| text(&one[field])).to_vec())
        .collect();
    if !processes.is_empty() {
        out += "\n";
        out += &table::render(&["PROCESS OF", "PROGRAM", "SANDBOX", "GRANTED"], &processes);
    }
    out
}
