//! What a person does with files or keys: on record before it is done.
//!
//! Leaves to others: what is done. Whoever revokes does so even where nothing can be recorded.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use crate::audit::disk::Disk;
use crate::audit::log::{Durability, Log, Options};
use crate::audit::record::{Kind, Record};
use crate::audit::storage::Storage;
use crate::config::Config;
use crate::listen::admin::{self, Command, Deed};

/// Stores the record through the running gateway, or in a log of this process's own where none runs.
///
/// A socket that nobody answers on is no proof of that: a tool server, which the socket refuses, could have removed it. The log
/// tells, since one process holds it.
///
/// # Errors
/// Why it is not recorded, in words; it must not be done then.
pub(super) async fn record(config: &Config, action: &str, subject: &str) -> Result<(), String> {
    record_deed(config, Deed { action: action.to_owned(), subject: subject.to_owned(), ..Deed::default() }).await
}

/// The same, of which there is more to say.
///
/// # Errors
/// Why it is not recorded, in words; it must not be done then.
pub(super) async fn record_deed(config: &Config, deed: Deed) -> Result<(), String> {
    let did = Command::Did(deed.clone());
    match admin::ask(config.state.as_ref(), &did).await {
        Ok(Some(answer)) if answer.contains("\"recorded\":true") => match deed.destroys() && !answer.contains("\"signed\":true") {
            false => Ok(()),
            true => Err(UNSIGNED.to_owned()),
        },
        Ok(Some(answer)) => Err(reason(&answer)),
        Ok(None) if Disk::existing(config.audit.dir.as_ref(), "main").is_locked() => {
            Err("a gateway holds the audit log and does not answer on its socket; it may be starting or stopping".to_owned())
        }
        Ok(None) => record_here(config, &deed).await,
        Err(error) => Err(error.to_string()),
    }
}

/// What the gateway's answer says of it.
fn reason(answer: &str) -> String {
    let told = serde_json::from_str::<serde_json::Value>(answer).ok();
    told.and_then(|told| Some(told.get("error")?.as_str()?.to_owned())).unwrap_or_else(|| answer.trim().to_owned())
}

/// What a person did, as a record says it.
pub(super) fn recorded(deed: &Deed, actor: String) -> Record<'_> {
    let texts = |texts: &'_ [String]| texts.iter().map(|text| Cow::Owned(text.clone())).collect();
    Record {
        actor: Some(actor.into()),
        action: Some(deed.action.as_str().into()),
        subject: Some(deed.subject.as_str().into()),
        call_id: deed.call_id.as_deref().map(Cow::Borrowed),
        note: deed.reason.as_deref().map(Cow::Borrowed),
        openers: texts(&deed.openers),
        payload_keys: texts(&deed.payload_keys),
        ..Record::new(Kind::Person)
    }
}

async fn record_here(config: &Config, deed: &Deed) -> Result<(), String> {
    let dir: &Path = config.audit.dir.as_ref();
    let options = Options { name: config.audit.name.as_str().to_owned(), ..Options::default() };
    let (log, _) = Log::open_first_free(&options, dir, &config.log_keys(), "local").map_err(|error| error.to_string())?;
    let entry = log.encode(&recorded(deed, format!("uid:{}", rustix::process::getuid().as_raw())));
    let stored = log.append(entry, Durability::Sync).await.map_err(|error| error.to_string())?;
    let may_go = !deed.destroys() || log.signed(stored.seq, PATIENCE).await;
    // What is recorded is recorded, whatever becomes of the record of the stop.
    let _ = log.close("done").await;
    if may_go { Ok(()) } else { Err(UNSIGNED.to_owned()) }
}

/// Stores what a person did and, where something goes after it, waits for a signed checkpoint over that record.
pub(super) async fn store(log: &Log, deed: &Deed, actor: String) -> serde_json::Value {
    match log.append(log.encode(&recorded(deed, actor)), Durability::Sync).await {
        Ok(stored) if deed.destroys() => serde_json::json!({ "recorded": true, "signed": log.signed(stored.seq, PATIENCE).await }),
        Ok(_) => serde_json::json!({ "recorded": true }),
        Err(error) => serde_json::json!({ "error": error.to_string() }),
    }
}

/// A failure of something that was not done because it could not be recorded.
pub(super) fn undone(why: impl std::fmt::Display) -> super::Failure {
    super::Failure::Other(format!("not recorded, so nothing was done: {why}"))
}

/// A checkpoint that is asked for takes a sync and a file: so long only where the disk fails.
const PATIENCE: Duration = Duration::from_secs(10);
const UNSIGNED: &str =
    "a record of it is stored that no signed checkpoint covers yet, and without one it is no more than anybody could have written";
