//! `doorward freeze`: stops agents, tools, runs or values for a while, whatever the policy says.
//!
//! INVARIANT: nothing is lifted that is not on record. What is stopped is stopped even where that cannot be recorded.

use std::path::Path;

use clap::Subcommand;

use super::{Context, Failure, person, table};
use crate::clock::{Clock, rfc3339};
use crate::config::{Config, check_name};
use crate::freeze::name;
use crate::listen::admin::{self, Command, Deed};
use crate::policy::condition::Pointer;
use crate::policy::parse_pattern;
use crate::state::{State, StoredFreeze};

/// Longest reason, run or value, in bytes.
const MAX_TEXT: usize = 1_024;
/// Longest run that an agent can name, in bytes; one that is longer is none.
const MAX_RUN: usize = 128;
/// Longest time of a freeze with an end, in seconds: ten years.
const MAX_SECONDS: i64 = 10 * 366 * 86_400;

/// The verbs of `doorward freeze`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Stop what all of these describe, within a second, until its time is over or it is lifted.
    #[command(
        after_help = "Examples:\n  doorward freeze add --agent triage-bot --end-running --reason \"key found in a paste\"\n  doorward freeze add --tool 'github__*' --for 2h --reason \"vendor incident\"\n  doorward freeze add --tool bank__pay --where /to=DE02 --reason \"fraud case 7\"\n\nAt least one of --agent, --tool, --run and --where says what is stopped; several mean a call that all of them describe."
    )]
    Add(Add),
    /// List the freezes that are in force.
    #[command(after_help = "Example:\n  doorward freeze list --json")]
    List {
        /// Also those that are over or were lifted.
        #[arg(long)]
        all: bool,
    },
    /// Let what a freeze stops go on again.
    #[command(after_help = "Example:\n  doorward freeze lift 3 --reason \"key rotated\"")]
    Lift {
        /// Its number, as `freeze list` shows it.
        #[arg(value_parser = number)]
        number: i64,
        /// Why, for the record.
        #[arg(long)]
        reason: Option<String>,
    },
}

/// What is stopped.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// Calls of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Calls of this target, as policy rows name it; `*` at its end covers all names that begin so.
    #[arg(long)]
    tool: Option<String>,
    /// Calls that the agent says are of this run. An agent can say another: stop the agent where it may lie.
    #[arg(long)]
    run: Option<String>,
    /// Calls whose argument at this JSON Pointer is this value, such as `/repo=acme/site`; `*` is every element of an array. A list or an object at
    /// the place is covered too, since the value may be in it. Other spellings of a text are not.
    #[arg(long = "where", value_name = "POINTER=VALUE", value_parser = pointed)]
    holds: Option<(String, String)>,
    /// How long, such as `30m`, `2h` or `7d`. Without it, until somebody lifts it.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    lasts: Option<i64>,
    /// End such calls that are under way too; what they have done by then is not known.
    #[arg(long)]
    end_running: bool,
    /// Why, for the record and for `freeze list`.
    #[arg(long)]
    reason: String,
}

fn pointed(text: &str) -> Result<(String, String), String> {
    let (pointer, value) = text.split_once('=').ok_or("write POINTER=VALUE, such as /repo=acme/site")?;
    Pointer::parse(pointer)?;
    if value.len() > MAX_TEXT {
        return Err("the value has at most 1024 bytes".to_owned());
    }
    Ok((pointer.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<i64, String> {
    let unit = |unit: &str| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let parts = text.len().checked_sub(1).and_then(|at| text.split_at_checked(at));
    let time = parts.and_then(|(count, of)| count.parse::<u32>().ok().map(i64::from)?.checked_mul(unit(of)?));
    time.filter(|time| (1..=MAX_SECONDS).contains(time)).ok_or_else(|| "write how long, such as `30m`, `2h` or `7d`".to_owned())
}

fn number(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix("freeze:").unwrap_or(text);
    digits.parse::<i64>().ok().filter(|number| *number > 0).ok_or_else(|| "write the number that `doorward freeze list` shows".to_owned())
}

/// Carries the verb out.
pub async fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    let config = context.config()?;
    match verb {
        Verb::Add(what) => add(context, &config, what).await,
        Verb::List { all } => list(context, &config, *all),
        Verb::Lift { number, reason } => lift(context, &config, *number, reason.as_deref()).await,
    }
}

async fn add(context: &Context, config: &Config, what: &Add) -> Result<u8, Failure> {
    well_formed(what)?;
    let now = Clock::system().unix_nanos();
    let mut freeze = StoredFreeze {
        number: 0,
        agent: what.agent.clone(),
        tool: what.tool.clone(),
        run: what.run.clone(),
        holds: what.holds.clone(),
        ends_running: what.end_running,
        reason: what.reason.clone(),
        made_by: format!("uid:{}", rustix::process::getuid().as_raw()),
        made: rfc3339(now),
        until: what.lasts.map(|lasts| now / 1_000_000_000 + lasts),
        lifted: None,
    };
    let state = State::open(config.state.as_ref()).map_err(Failure::other)?;
    freeze.number = state.add_freeze(&freeze).map_err(Failure::other)?;
    let told = in_force(config, freeze.number).await;
    let deed = Deed {
        action: "freeze_add".to_owned(),
        subject: format!("{} {}{}", name(freeze.number), described(&freeze), until(&freeze)),
        reason: Some(freeze.reason.clone()),
        ..Deed::default()
    };
    let recorded = person::record_deed(config, deed).await;
    let running = told.as_ref().ok().and_then(Option::as_ref);
    if context.json {
        let (in_force, tools) = running.map(|told| (told.in_force, told.tools.len())).unzip();
        let name = name(freeze.number);
        println!("{}", serde_json::json!({ "freeze": name, "in_force": in_force, "tools": tools, "recorded": recorded.is_ok() }));
    } else {
        println!("{} stops {}{}", name(freeze.number), described(&freeze), until(&freeze));
    }
    if what.agent.as_ref().is_some_and(|agent| !is_known(config, agent)) {
        eprintln!("doorward: no agent of this name has a key or stands in the configuration");
    }
    let is_in_force = tell(context, &freeze, &told, state.folder());
    if let Err(why) = &recorded {
        eprintln!("doorward: stored, and not recorded: {why}");
    }
    Ok(u8::from(recorded.is_err() || !is_in_force))
}

/// Refuses what describes nothing, or what no call could ever be.
fn well_formed(what: &Add) -> Result<(), Failure> {
    if what.agent.is_none() && what.tool.is_none() && what.run.is_none() && what.holds.is_none() {
        return Err(Failure::Usage("say what is stopped: --agent, --tool, --run, --where, or several of them".to_owned()));
    }
    if let Some(agent) = &what.agent {
        check_name(agent).map_err(Failure::Usage)?;
    }
    if let Some(tool) = &what.tool {
        parse_pattern(tool).map_err(|(wrong, help)| Failure::Usage(format!("{wrong}; {help}")))?;
    }
    let is_no_run = what.run.as_ref().is_some_and(|run| run.is_empty() || run.len() > MAX_RUN);
    if what.reason.trim().is_empty() || what.reason.len() > MAX_TEXT || is_no_run {
        return Err(Failure::Usage("a reason has 1 to 1024 bytes, and a run 1 to 128".to_owned()));
    }
    Ok(())
}

/// Says what a running gateway makes of a freeze; `false` where it runs and does not have it.
fn tell(context: &Context, freeze: &StoredFreeze, told: &Result<Option<Told>, String>, folder: &Path) -> bool {
    let folder = folder.display();
    match told {
        Err(why) => eprintln!("doorward: stored; a gateway that runs takes it over within a second or two, but did not say so: {why}"),
        Ok(None) => eprintln!("doorward: no gateway runs on {folder}; it is in force where one starts there"),
        Ok(Some(Told { in_force: false, .. })) => {
            eprintln!("doorward: STORED, AND NOT IN FORCE: the running gateway does not have it; is {folder} its state folder?");
            return false;
        }
        // What the catalog cannot know each of.
        Ok(Some(_)) if freeze.tool.as_deref().is_some_and(|tool| tool.starts_with("prompt:") || tool.starts_with("resource:")) => {}
        Ok(Some(Told { tools, .. })) if tools.is_empty() => {
            eprintln!("doorward: no tool of the catalog is covered by it; `doorward check` lists their names");
        }
        Ok(Some(_)) if context.json => {}
        Ok(Some(Told { tools, .. })) => {
            println!("in force; it covers {} tool{}", tools.len(), if tools.len() == 1 { "" } else { "s" });
        }
    }
    true
}

/// Whether somebody of this name may call at all, as far as can be told from here.
fn is_known(config: &Config, agent: &str) -> bool {
    let stored = State::agents(config.state.as_ref()).unwrap_or_default();
    let acting = config.identity.anonymous.as_ref().map(|who| &who.agent);
    let named = config.agents.iter().map(|known| &known.name).chain([&config.stdio.agent]).chain(acting);
    named.chain(&stored).any(|known| known == agent)
}

/// What a running gateway says of a freeze.
#[derive(serde::Deserialize)]
struct Told {
    in_force: bool,
    tools: Vec<String>,
}

/// Has a running gateway take the freezes over; `None` where none runs.
async fn in_force(config: &Config, number: i64) -> Result<Option<Told>, String> {
    let answer = admin::ask(config.state.as_ref(), &Command::Freezes { number }).await.map_err(|error| error.to_string())?;
    answer.map(|answer| serde_json::from_str::<Told>(&answer).map_err(|error| error.to_string())).transpose()
}

async fn lift(context: &Context, config: &Config, number: i64, reason: Option<&str>) -> Result<u8, Failure> {
    let state = State::open(config.state.as_ref()).map_err(Failure::other)?;
    let (seconds, now) = (Clock::system().unix_seconds(), rfc3339(Clock::system().unix_nanos()));
    let known = state.freezes().map_err(Failure::other)?.into_iter().find(|freeze| freeze.number == number);
    let freeze = known.filter(|freeze| standing(freeze, seconds) == IN_FORCE);
    let freeze = freeze.ok_or_else(|| Failure::Usage(format!("{} is not in force; `doorward freeze list` says what is", name(number))))?;
    let deed = Deed {
        action: "freeze_lift".to_owned(),
        subject: format!("{} {}", name(number), described(&freeze)),
        reason: reason.map(str::to_owned),
        ..Deed::default()
    };
    person::record_deed(config, deed).await.map_err(person::undone)?;
    if !state.lift_freeze(number, &now, seconds).map_err(Failure::other)? {
        return Err(Failure::Usage(format!("{} has come to its end meanwhile", name(number))));
    }
    let told = in_force(config, number).await;
    match context.json {
        true => println!("{}", serde_json::json!({ "freeze": name(number), "lifted": true })),
        false => println!("{} is lifted", name(number)),
    }
    if let Err(why) = told {
        eprintln!("doorward: a gateway that runs takes it over within a second or two, but did not say so: {why}");
    }
    Ok(0)
}

const IN_FORCE: &str = "in force";

fn standing(freeze: &StoredFreeze, seconds: i64) -> &'static str {
    match (&freeze.lifted, freeze.until) {
        (Some(_), _) => "lifted",
        (None, Some(until)) if until <= seconds => "over",
        _ => IN_FORCE,
    }
}

fn list(context: &Context, config: &Config, all: bool) -> Result<u8, Failure> {
    let state = State::open(config.state.as_ref()).map_err(Failure::other)?;
    let seconds = Clock::system().unix_seconds();
    let freezes = state.freezes().map_err(Failure::other)?;
    let shown: Vec<_> = freezes.iter().filter(|freeze| all || standing(freeze, seconds) == IN_FORCE).collect();
    if context.json {
        let shown: Vec<_> = shown.iter().map(|freeze| as_json(freeze, seconds)).collect();
        println!("{}", serde_json::to_string(&shown).map_err(Failure::other)?);
        return Ok(0);
    }
    if shown.is_empty() {
        println!("nothing is frozen");
        return Ok(0);
    }
    let row = |freeze: &&StoredFreeze| {
        let until = freeze.until.map_or_else(|| "it is lifted".to_owned(), |until| rfc3339(until.saturating_mul(1_000_000_000)));
        let reason = freeze.reason.clone();
        vec![freeze.number.to_string(), standing(freeze, seconds).to_owned(), described(freeze), freeze.made.clone(), until, reason]
    };
    print!("{}", table::render(&["FREEZE", "STANDING", "STOPS", "SINCE", "UNTIL", "REASON"], &shown.iter().map(row).collect::<Vec<_>>()));
    Ok(0)
}

fn as_json(freeze: &StoredFreeze, seconds: i64) -> serde_json::Value {
    let (pointer, value) = freeze.holds.as_ref().map(|(pointer, value)| (pointer, value)).unzip();
    serde_json::json!({
        "freeze": name(freeze.number),
        "standing": standing(freeze, seconds),
        "agent": freeze.agent,
        "tool": freeze.tool,
        "run": freeze.run,
        "where": pointer.map(|pointer| serde_json::json!({ "pointer": pointer, "value": value })),
        "ends_running": freeze.ends_running,
        "reason": freeze.reason,
        "by": freeze.made_by,
        "since": freeze.made,
        "until": freeze.until.map(|until| rfc3339(until.saturating_mul(1_000_000_000))),
        "lifted": freeze.lifted,
    })
}

/// What is stopped, in words. A value may be a secret, and what is said here is recorded: of it only the place is said.
fn described(freeze: &StoredFreeze) -> String {
    let agent = freeze.agent.as_ref().map(|agent| format!("agent:{agent}"));
    let run = freeze.run.as_ref().map(|run| format!("run {run}"));
    let place = freeze.holds.as_ref().map(|(pointer, _)| format!("a value at {pointer}"));
    [agent, freeze.tool.clone(), run, place].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn until(freeze: &StoredFreeze) -> String {
    freeze.until.map_or_else(String::new, |until| format!(" until {}", rfc3339(until.saturating_mul(1_000_000_000))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_freeze_lasts_is_read() {
        assert_eq!([seconds("90s"), seconds("30m"), seconds("2h"), seconds("7d")], [Ok(90), Ok(1_800), Ok(7_200), Ok(604_800)]);
        for wrong in ["", "h", "2", "0s", "-1h", "2w", "1.5h", "99999999999h", "4294967295d", "2é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_stands_behind_the_first_equals_sign() {
        assert_eq!(pointed("/a/b=x=y"), Ok(("/a/b".to_owned(), "x=y".to_owned())));
        assert!(pointed("a=b").is_err() && pointed("/a").is_err());
    }
}
