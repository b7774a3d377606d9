//! `doorward agent`: API keys. A key is shown once; only the hash of its secret is kept.
//!
//! INVARIANT: no key is stored or shown that is not on record, so a process which the gateway refuses makes none.

use clap::Subcommand;

use super::{Context, Failure, person, table};
use crate::clock::{Clock, rfc3339};
use crate::config::{Config, check_name};
use crate::identity::{configured, new_key};
use crate::listen::admin::{self, Command};
use crate::policy::suggest::did_you_mean;
use crate::seal::hex;
use crate::state::{State, StateError, StoredKey};

/// The verbs of `doorward agent`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an agent's first key, or a further one.
    #[command(after_help = "Example:\n  doorward agent add triage-bot")]
    Add {
        /// The agent's name, as policy rows name it: `agent:NAME`.
        name: String,
        /// Store nothing; print the key and the `key_hash` for `doorward.yaml`.
        #[arg(long)]
        print_hash: bool,
    },
    /// List the keys, without their secrets, and where each is kept.
    #[command(after_help = "Example:\n  doorward agent list --json")]
    List,
    /// Make a new key and revoke the agent's others in the state database.
    #[command(after_help = "Example:\n  doorward agent rotate triage-bot")]
    Rotate {
        /// The agent's name.
        name: String,
    },
    /// Revoke all of an agent's keys in the state database; a running gateway refuses them at once.
    #[command(after_help = "Example:\n  doorward agent revoke triage-bot")]
    Revoke {
        /// The agent's name.
        name: String,
    },
}

/// Carries the verb out.
pub async fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    let config = context.config()?;
    let now = rfc3339(Clock::system().unix_nanos());
    let make = |name: &str| {
        check_name(name).map_err(Failure::Usage)?;
        new_key(name, now.clone()).ok_or_else(|| Failure::Other("this machine gives no randomness".to_owned()))
    };
    if let Verb::Add { name, print_hash: true } = verb {
        let (key, stored) = make(name)?;
        show_key(context, name, &key, &stored);
        return Ok(0);
    }
    let state = State::open(config.state.as_ref()).map_err(Failure::other)?;
    match verb {
        Verb::List => list(context, &config, &state),
        Verb::Add { name, .. } => {
            let (key, stored) = make(name)?;
            person::record(&config, "agent_add", &format!("{name} {}", stored.id)).await.map_err(person::undone)?;
            state.add_key(&stored).map_err(not_stored)?;
            show_key(context, name, &key, &stored);
            Ok(in_force(&config).await)
        }
        Verb::Rotate { name } => {
            let (key, stored) = make(name)?;
            let kept = in_database(context, &config, &state, name)?;
            person::record(&config, "agent_rotate", &format!("{name} {}", stored.id)).await.map_err(person::undone)?;
            state.replace_keys(&stored).map_err(not_stored)?;
            show_key(context, name, &key, &stored);
            kept.iter().for_each(|line| eprintln!("doorward: {line}"));
            Ok(in_force(&config).await)
        }
        Verb::Revoke { name } => revoke(context, &config, &state, name, &now).await,
    }
}

fn not_stored(error: StateError) -> Failure {
    Failure::Other(format!("the key is recorded and was not stored: {error}"))
}

/// Has a running gateway read the keys again. What was done is done: where that fails it is said, and the exit code tells.
async fn in_force(config: &Config) -> u8 {
    match admin::ask(config.state.as_ref(), &Command::Reload).await {
        Ok(_) => 0,
        Err(error) => {
            eprintln!("doorward: a gateway that runs goes by the keys of before until it reads them again (SIGHUP): {error}");
            1
        }
    }
}

/// A key that is out must be revocable whatever the log says, so only this is done without a record too.
async fn revoke(context: &Context, config: &Config, state: &State, name: &str, now: &str) -> Result<u8, Failure> {
    let kept = in_database(context, config, state, name)?;
    let recorded = person::record(config, "agent_revoke", name).await;
    let revoked = state.revoke_keys(name, now).map_err(Failure::other)?;
    if context.json {
        println!("{}", serde_json::json!({ "agent": name, "revoked": revoked, "recorded": recorded.is_ok() }));
    } else {
        println!("revoked {revoked} key{} of {name}", if revoked == 1 { "" } else { "s" });
    }
    kept.iter().for_each(|line| eprintln!("doorward: {line}"));
    if let Err(why) = &recorded {
        eprintln!("doorward: revoked, but not recorded: {why}");
    }
    Ok(in_force(config).await.max(u8::from(recorded.is_err())))
}

/// Sees to it that the state database has a key of the agent's that is not revoked, which is all that these verbs can take back.
/// Says which keys the configuration holds beside it.
fn in_database(context: &Context, config: &Config, state: &State, name: &str) -> Result<Vec<String>, Failure> {
    let stored = state.keys().map_err(Failure::other)?;
    let configured = configured(config);
    let stands = |(_, id): &(&str, String)| {
        format!("key {id} of `{name}` is in force: it stands in {}; take its `key_hash` out and send SIGHUP", context.file.display())
    };
    let kept: Vec<String> = configured.iter().filter(|(agent, _)| *agent == name).map(stands).collect();
    if stored.iter().any(|key| key.agent == name && key.revoked.is_none()) {
        return Ok(kept);
    }
    if !kept.is_empty() {
        return Err(Failure::Usage(kept.join("\n")));
    }
    let names = stored.iter().filter(|key| key.revoked.is_none()).map(|key| key.agent.as_str());
    let help = did_you_mean(name, names.chain(configured.iter().map(|(agent, _)| *agent)), "`doorward agent list` lists them");
    Err(Failure::Usage(format!("`{}` has no key that is not revoked yet; {help}", table::safe(name))))
}

fn show_key(context: &Context, name: &str, key: &str, stored: &StoredKey) {
    let hash = format!("sha256:{}", hex(&stored.hash));
    if context.json {
        println!("{}", serde_json::json!({ "agent": name, "id": stored.id, "key": key, "key_hash": hash }));
        return;
    }
    println!("{key}\n");
    println!("This is the key of agent:{name}. It is not shown again.");
    println!("  header     Authorization: Bearer {key}");
    println!("  sees       nothing until a row of policy.csv names it, such as `g, agent:{name}, role:ROLE`");
    println!("  key_hash   {hash}");
}

/// One key of the list, wherever it is kept.
#[derive(serde::Serialize)]
struct Listed<'k> {
    agent: &'k str,
    id: &'k str,
    created: Option<&'k str>,
    revoked: Option<&'k str>,
    kept_in: &'static str,
}

fn list(context: &Context, config: &Config, state: &State) -> Result<u8, Failure> {
    let stored = state.keys().map_err(Failure::other)?;
    let configured = configured(config);
    let in_file = configured.iter().map(|(agent, id)| Listed { agent, id, created: None, revoked: None, kept_in: "configuration" });
    let in_state = stored.iter().map(|key| Listed {
        agent: &key.agent,
        id: &key.id,
        created: Some(&key.created),
        revoked: key.revoked.as_deref(),
        kept_in: "state",
    });
    let keys: Vec<Listed<'_>> = in_file.chain(in_state).collect();
    if context.json {
        println!("{}", serde_json::to_string(&keys).map_err(Failure::other)?);
        return Ok(0);
    }
    let (file, database) = (context.file.display().to_string(), state.folder().join("state.db").display().to_string());
    let row = |key: &Listed<'_>| {
        let words = [key.agent, key.id, key.created.unwrap_or("-"), key.revoked.unwrap_or("-")];
        let place = if key.kept_in == "state" { &database } else { &file };
        words.into_iter().chain([place.as_str()]).map(str::to_owned).collect::<Vec<_>>()
    };
    print!("{}", table::render(&["AGENT", "KEY", "CREATED", "REVOKED", "KEPT IN"], &keys.iter().map(row).collect::<Vec<_>>()));
    Ok(0)
}
