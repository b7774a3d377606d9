//! `doorward approvals`: calls that wait for a person's yes. What is shown is what will run, and nothing that the agent says about it.
//!
//! INVARIANT: a key is read from a file or standard input, never from the command line, where other users of the machine could read it.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::running::LAST_MESSAGES;
use super::{Context, Failure, arguments, table};
use crate::approval::{Message, Shown};
use crate::audit::disk::Disk;
use crate::audit::storage::Storage;
use crate::clock::{Clock, rfc3339};
use crate::config::{Config, check_name};
use crate::error::Error;
use crate::gateway::{Assembly, Folders, LogOrigin, Shared, Teller, Undone};
use crate::identity::new_key;
use crate::listen::admin::{self, Command, Key};
use crate::mcp::plain::plain;
use crate::sandbox::Ground;
use crate::seal::hex;

/// Longest reason, in characters.
const MAX_REASON: usize = 500;
/// Longest file that could be a key, in bytes.
const MAX_KEY: u64 = 1_024;

/// The verbs of `doorward approvals`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the calls that wait, or that are approved and not made yet.
    #[command(after_help = "Example:\n  doorward approvals list")]
    List {
        /// Also those of the last day that are used, denied or expired.
        #[arg(long)]
        all: bool,
    },
    /// Show one: who calls what, with exactly the arguments that will run. That it was shown is recorded.
    #[command(after_help = "Example:\n  doorward approvals show ap-1f2e3d4c5b")]
    Show {
        /// Its name, as `list` and the agent's error have it.
        id: String,
    },
    /// Say yes, with your key: the very same call may then be made once.
    #[command(after_help = "Example:\n  doorward approvals approve ap-1f2e3d4c5b --key alice.key")]
    Approve(Decide),
    /// Say no, with your key: the very same call is refused.
    #[command(after_help = "Example:\n  doorward approvals deny ap-1f2e3d4c5b --key alice.key --reason 'not on a Friday'")]
    Deny(Decide),
    /// Make a person's key, and the `key_hash` for `people` of doorward.yaml.
    #[command(after_help = "Example:\n  doorward approvals keygen alice --out alice.key")]
    Keygen {
        /// The person's name in `people`.
        name: String,
        /// Where the key goes, readable by its owner alone; must not be there yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// A decision.
#[derive(Debug, clap::Args)]
pub struct Decide {
    /// Its name, as `list` and the agent's error have it.
    id: String,
    /// Your key, as `doorward approvals keygen` wrote it; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", env = "DOORWARD_PERSON_KEY")]
    key: PathBuf,
    /// Why, in a few words for the record.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
}

fn reason(text: &str) -> Result<String, &'static str> {
    let length = text.trim().chars().count();
    if (1..=MAX_REASON).contains(&length) { Ok(text.trim().to_owned()) } else { Err("write why, in 1 to 500 characters") }
}

/// What the gateway answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Approvals(Vec<Shown>),
    Decided { id: String, person: String, standing: String, waits_for: Vec<String>, agent: String, target: String },
    Refused(String),
    Failed(String),
}

/// Carries the verb out.
pub async fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    let command = match verb {
        Verb::Keygen { name, out } => return keygen(context, name, out),
        Verb::List { all } => Command::ApprovalsList { all: *all },
        Verb::Show { id } => Command::ApprovalsShow { id: id.clone() },
        Verb::Approve(decide) => decision(decide, true)?,
        Verb::Deny(decide) => decision(decide, false)?,
    };
    let config = context.config()?;
    let told = match admin::ask(config.state.as_ref(), &command).await? {
        Some(answer) => {
            serde_json::from_str(&answer).map_err(|_| Failure::Other(format!("the gateway answers: {}", table::safe(answer.trim()))))?
        }
        None => here(&config, &command).await?,
    };
    match told {
        Told::Failed(why) => Err(Failure::Other(table::safe(&why))),
        Told::Refused(why) => Err(Failure::Sealed(table::safe(&why))),
        Told::Approvals(all) => show(context, verb, &all),
        Told::Decided { .. } if context.json => print_json(&told),
        Told::Decided { id, person, standing, waits_for, agent, target } => {
            let call = format!("{} of {}", table::safe(&target), table::safe(&agent));
            match (standing.as_str(), waits_for.is_empty()) {
                ("denied", _) => println!("{id}: {person} says no to {call}"),
                (_, true) => println!("{id}: approved by {person}; {call} runs once when the agent sends it again"),
                (_, false) => println!("{id}: {person} says yes to {call}; it still waits for {}", waits_for.join(" and ")),
            }
            Ok(0)
        }
    }
}

fn decision(decide: &Decide, yes: bool) -> Result<Command, Failure> {
    let unread = |error: std::io::Error| Failure::Usage(format!("the key {}: {error}", decide.key.display()));
    let mut text = Zeroizing::new(String::new());
    if decide.key == Path::new("-") {
        std::io::stdin().lock().take(MAX_KEY).read_to_string(&mut text).map_err(unread)?;
    } else {
        std::fs::File::open(&decide.key).and_then(|file| file.take(MAX_KEY).read_to_string(&mut text)).map_err(unread)?;
    }
    let key = Key::new(text.trim());
    if !key.as_str().starts_with("dw_") {
        return Err(Failure::Usage(format!(
            "{} holds no key: `doorward approvals keygen NAME --out FILE` makes one",
            decide.key.display()
        )));
    }
    Ok(Command::ApprovalsDecide { id: decide.id.clone(), yes, reason: decide.reason.clone(), key })
}

/// The same where no gateway runs: on the state folder, with records in a log of this process's own.
async fn here(config: &Config, command: &Command) -> Result<Told, Failure> {
    if Disk::existing(config.audit.dir.as_ref(), "main").is_locked() {
        let why = "a gateway holds the audit log and does not answer on its socket; it may be starting or stopping";
        return Err(Failure::Other(why.to_owned()));
    }
    let plan = Box::new(Folders::of(config));
    let (assembly, _, _events) = Assembly::open(config, plan, Ground::of(config), LogOrigin::FirstFree).map_err(Failure::other)?;
    let told = told(assembly.shared(), command, &format!("uid:{}", rustix::process::getuid().as_raw())).await;
    if let Some(teller) = Teller::start(assembly.shared(), config.audit.name.as_str()) {
        teller.finish(LAST_MESSAGES).await;
    }
    // What is recorded is recorded, whatever becomes of the record of the stop.
    let _ = assembly.shared().audit.log().clone().close("done").await;
    Ok(told)
}

/// The running gateway's answer, as text, so that arguments keep their digits; `who` is the process that asks.
pub(super) async fn answer(shared: &Arc<Shared>, command: &Command, who: &str) -> String {
    let told = told(shared, command, who).await;
    serde_json::to_string(&told).unwrap_or_else(|error| json!({ "failed": error.to_string() }).to_string())
}

async fn told(shared: &Arc<Shared>, command: &Command, who: &str) -> Told {
    let failed = |error: Error| Told::Failed(error.detail().map_or_else(|| error.to_string(), str::to_owned));
    match command {
        Command::ApprovalsList { all } => match shared.approvals(*all).await {
            Ok(all) => Told::Approvals(all.iter().map(|looked| Shown::of(looked, None)).collect()),
            Err(error) => failed(error),
        },
        Command::ApprovalsShow { id } => match shared.approval(id, who).await {
            Ok(Some((looked, arguments))) => Told::Approvals(vec![Shown::of(&looked, arguments)]),
            Ok(None) => Told::Refused(crate::approval::Refused::Unknown.to_string()),
            Err(error) => failed(error),
        },
        Command::ApprovalsDecide { id, yes, reason, key } => match shared.decide(id, key.as_str(), *yes, reason.as_deref()).await {
            Ok(decided) => {
                let standing = if !yes {
                    "denied"
                } else if decided.lacks.is_empty() {
                    "approved"
                } else {
                    "waiting"
                };
                Told::Decided {
                    id: id.clone(),
                    person: decided.person,
                    standing: standing.to_owned(),
                    waits_for: decided.lacks.iter().map(ToString::to_string).collect(),
                    agent: decided.looked.facts.principal,
                    target: decided.looked.facts.target,
                }
            }
            Err(Undone::NoPerson) => Told::Refused("the key is that of no person of `people`, or an agent's".to_owned()),
            Err(Undone::Refused(why)) => Told::Refused(why.to_string()),
            Err(Undone::Failed(error)) => failed(error),
        },
        _ => Told::Failed("not a question about approvals".to_owned()),
    }
}

fn print_json(value: &impl Serialize) -> Result<u8, Failure> {
    println!("{}", serde_json::to_string(value).map_err(Failure::other)?);
    Ok(0)
}

fn show(context: &Context, verb: &Verb, all: &[Shown]) -> Result<u8, Failure> {
    match (verb, all) {
        (Verb::Show { .. }, [one]) if context.json => print_json(one),
        (Verb::Show { .. }, [one]) => {
            print!("{}", in_full(one));
            Ok(0)
        }
        _ if context.json => print_json(&all),
        _ if all.is_empty() => {
            println!("no call waits");
            Ok(0)
        }
        _ => {
            // Only where there is a webhook, or was one a moment ago.
            let has_webhook = all.iter().any(|one| !one.webhook.is_empty());
            let row = |one: &Shown| {
                let waits = if one.standing == "waiting" { one.waits_for.join(" and ") } else { String::new() };
                let told = has_webhook.then(|| one.webhook.last().map(Message::in_short).unwrap_or_default());
                let cells = [&one.id, &one.standing, &one.agent, &one.target, &one.tier, &one.expires, &waits].map(Clone::clone);
                cells.into_iter().chain(told).collect()
            };
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            let head = ["ID", "STANDING", "AGENT", "TARGET", "TIER", "EXPIRES", "WAITS FOR", "WEBHOOK"];
            print!("{}", table::render(head.get(..head.len() - usize::from(!has_webhook)).unwrap_or_default(), &rows));
            Ok(0)
        }
    }
}

/// Everything that a person has to know before saying yes, with nothing that a terminal would obey.
fn in_full(one: &Shown) -> String {
    let list = |all: &[String]| if all.is_empty() { "-".to_owned() } else { all.join(", ") };
    let behalf = one.on_behalf_of.as_ref().map(|whom| format!(" for {whom}")).unwrap_or_default();
    let through = if one.actors.is_empty() { String::new() } else { format!(" through {}", one.actors.join(", ")) };
    let waits = if one.standing == "waiting" { format!(" for {}", one.waits_for.join(" and ")) } else { String::new() };
    let lines = [
        ("approval", one.id.clone()),
        ("standing", format!("{}{waits}", one.standing)),
        ("agent", format!("{}{behalf}{through}", one.agent)),
        ("calls", format!("{} ({})", one.target, one.tier)),
        ("by", format!("{} {}", one.method, one.own_name)),
        ("definition", if one.definition.is_empty() { "-".to_owned() } else { one.definition.clone() }),
        ("asked by", list(&one.asks)),
        ("allowed by", list(&one.rules)),
        ("policy", one.policy_version.clone()),
        ("yes", list(&one.yes)),
        ("requested", one.requested.clone()),
        ("expires", one.expires.clone()),
        ("invocation", one.call.clone()),
    ];
    let told = one.webhook.iter().map(|message| ("webhook", message.in_short()));
    let mut out: String = lines.into_iter().chain(told).map(|(name, value)| format!("{name:<12} {}\n", plain(&value))).collect();
    match &one.arguments {
        Some(text) => {
            let shown = arguments::shown(text.get());
            let short = arguments::in_short(text.get(), &shown);
            out.push_str(&format!("arguments\n{shown}"));
            if !short.is_empty() {
                out.push_str(&format!("{short}{:<12} {} at {}\n", "agent", plain(&one.agent), plain(&one.target)));
            }
        }
        None => out.push_str("arguments    not kept any more\n"),
    }
    out
}

fn keygen(context: &Context, name: &str, out: &Path) -> Result<u8, Failure> {
    check_name(name).map_err(Failure::Usage)?;
    let made = new_key(name, rfc3339(Clock::system().unix_nanos()));
    let (key, stored) = made.ok_or_else(|| Failure::Other("this machine gives no randomness".to_owned()))?;
    let key = Zeroizing::new(key);
    let unwritten = |error: std::io::Error| Failure::Usage(format!("{}: {error}", out.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(unwritten)?;
    file.write_all(key.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all()).map_err(unwritten)?;
    let hash = format!("sha256:{}", hex(&stored.hash));
    if context.json {
        println!("{}", json!({ "name": name, "key_hash": hash, "file": out }));
    } else {
        println!("key_hash: \"{hash}\"\n");
        println!(
            "This is a member of {name} in `people` of doorward.yaml, beside the roles. The key is in {}: {name} alone keeps it.",
            out.display()
        );
    }
    Ok(0)
}
