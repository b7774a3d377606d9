//! `doorward agent`: API keys. A key is shown once; only the hash of its secret is kept.

use clap::Subcommand;

use super::{Context, Failure, table};
use crate::clock::{Clock, rfc3339};
use crate::config::check_name;
use crate::identity::new_key;
use crate::listen::admin::{self, Command};
use crate::seal::hex;
use crate::state::{State, StoredKey};

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
    /// List the keys, without their secrets.
    #[command(after_help = "Example:\n  doorward agent list --json")]
    List,
    /// Make a new key and revoke the agent's others.
    #[command(after_help = "Example:\n  doorward agent rotate triage-bot")]
    Rotate {
        /// The agent's name.
        name: String,
    },
    /// Revoke all of an agent's keys; a running gateway refuses them at once.
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
    let (action, subject) = match verb {
        Verb::List => return list(context, &state),
        Verb::Add { name, .. } | Verb::Rotate { name } => {
            let (key, stored) = make(name)?;
            state.add_key(&stored).map_err(Failure::other)?;
            let rotated = matches!(verb, Verb::Rotate { .. });
            if rotated {
                state.revoke_keys(name, Some(&stored.id), &now).map_err(Failure::other)?;
            }
            show_key(context, name, &key, &stored);
            (if rotated { "agent_rotate" } else { "agent_add" }, format!("{name} {}", stored.id))
        }
        Verb::Revoke { name } => {
            let revoked = state.revoke_keys(name, None, &now).map_err(Failure::other)?;
            if revoked == 0 {
                return Err(Failure::Usage(format!("`{}` has no key that is not revoked yet", table::safe(name))));
            }
            if context.json {
                println!("{}", serde_json::json!({ "agent": name, "revoked": revoked }));
            } else {
                println!("revoked {revoked} key{} of {name}", if revoked == 1 { "" } else { "s" });
            }
            ("agent_revoke", name.clone())
        }
    };
    drop(state);
    super::tools::record(&config, action, &subject).await?;
    admin::ask(config.state.as_ref(), &Command::Reload).await?;
    Ok(0)
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
    println!("  key_hash   {hash}");
}

fn list(context: &Context, state: &State) -> Result<u8, Failure> {
    let keys = state.keys().map_err(Failure::other)?;
    if context.json {
        println!("{}", serde_json::to_string(&keys).map_err(Failure::other)?);
        return Ok(0);
    }
    let row = |key: &StoredKey| {
        vec![key.agent.clone(), key.id.clone(), key.created.clone(), key.revoked.clone().unwrap_or_else(|| "-".to_owned())]
    };
    print!("{}", table::render(&["AGENT", "KEY", "CREATED", "REVOKED"], &keys.iter().map(row).collect::<Vec<_>>()));
    Ok(0)
}
