//! `doorward policy history` and `rollback`: which policies were in force, and the way back to one of them.
//!
//! Leaves to others: keeping the files (`gateway::bundles`), whether they load (the loader itself).
//!
//! INVARIANT: what is put back is what had that version: its rows, conditions and limits are compared with the bundle that the version is the hash of.

use std::path::Path;

use serde_json::{Value, json};

use super::scratch::Scratch;
use super::shadow::PROMOTE;
use super::{loaded, reload};
use crate::audit::filter::Filter;
use crate::audit::find::Logs;
use crate::audit::kept::{Kept, Sort};
use crate::audit::record::{Kind, Stored};
use crate::audit::row::Field;
use crate::cli::{Context, Failure, block_on, person, table};
use crate::config::Config;
use crate::gateway::Loaded;
use crate::gateway::bundles::{Bundles, Files};
use crate::gateway::signed::vouched;
use crate::listen::admin::Deed;
use crate::policy::written;

/// Arguments of `doorward policy history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward policy history --limit 5")]
pub struct HistoryArgs {
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Arguments of `doorward policy rollback`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy rollback sha256:1f2e3d4c5b6a --reason 'ticket 17'\n\nThe cases in tests/ stay as they are. Exit codes: 0 it is in force or will be at the next start, 2 a fault in a file, 1 anything else."
)]
pub struct RollbackArgs {
    /// The version, as `doorward policy history` shows it, or its beginning.
    #[arg(value_parser = beginning)]
    version: String,
    /// Why, in a few words for the record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A version or the beginning of one, with or without `sha256:`.
fn beginning(text: &str) -> Result<String, &'static str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_sound = (LEAST..=64).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_sound { Ok(format!("sha256:{hex}")) } else { Err("write at least 8 digits of a version that `doorward policy history` shows") }
}

/// One line of the history.
struct Change {
    stored: Stored,
    /// What came into force, or stayed so.
    version: String,
    what: &'static str,
}

/// Looks in the logs and prints.
pub fn history(context: &Context, args: &HistoryArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let changes = changes(config.audit.dir.as_ref())?;
    let bundles = Bundles::in_state(config.state.as_ref());
    let shown = changes.iter().rev().take(args.limit);
    let is_kept = |change: &Change| bundles.find(&change.version).is_ok_and(|found| !found.is_empty());
    if context.json {
        for change in shown {
            println!("{}", told(change, is_kept(change)));
        }
        return Ok(0);
    }
    let row = |change: &Change| {
        let Stored { time, origin, seq, record, .. } = &change.stored;
        let since = time.get(..19).map(|time| format!("{time}Z")).unwrap_or_default();
        let by = record.actor.as_deref().unwrap_or("-").to_owned();
        let files = if is_kept(change) { "kept" } else { "-" }.to_owned();
        vec![since, short(&change.version).to_owned(), change.what.to_owned(), by, format!("{origin}:{seq}"), files]
    };
    let rows: Vec<_> = shown.map(row).collect();
    print!("{}", table::render(&["SINCE", "VERSION", "WHAT", "BY", "RECORD", "FILES"], &rows));
    Ok(0)
}

fn told(change: &Change, is_kept: bool) -> Value {
    let record = &change.stored.record;
    json!({ "time": change.stored.time, "version": change.version, "what": change.what, "by": record.actor, "before": record.before,
        "note": record.note, "origin": change.stored.origin, "seq": change.stored.seq, "kept": is_kept })
}

/// Everything on record that has to do with which policy is in force, the oldest first.
fn changes(dir: &Path) -> Result<Vec<Change>, Failure> {
    let mut logs = Logs::in_dir(dir).map_err(|error| Failure::Other(format!("{}: {error}", dir.display())))?;
    if logs.is_worth_an_index(dir) {
        // The log alone has all answers.
        let _ = logs.with_index(dir, None, &mut |_| {});
    }
    let actions = ["start", "reload", "reload_refused", ROLLBACK, PROMOTE].map(str::to_owned).to_vec();
    let found = logs.find(&Filter::default().and_any(Field::Action, actions)).map_err(Failure::other)?;
    Ok(found.records.into_iter().filter_map(change).collect())
}

fn change(stored: Stored) -> Option<Change> {
    let record = &stored.record;
    let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let (version, what) = match (record.kind, record.action.as_deref()?) {
        (Kind::Lifecycle, "start") => (text(&record.after)?, "start"),
        (Kind::PolicyChange, "reload") if record.before == record.after => return None,
        (Kind::PolicyChange, "reload") => (text(&record.after)?, "reload"),
        (Kind::PolicyChange, "reload_refused") => (text(&record.before)?, "edit refused, this stays"),
        (Kind::Person, PROMOTE) => (text(&record.subject)?, "promotion of this"),
        (Kind::Person, ROLLBACK) => (text(&record.subject)?, "rollback to this"),
        _ => return None,
    };
    Some(Change { version, what, stored })
}

/// Puts the files of a version back.
pub fn rollback(context: &Context, args: &RollbackArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let (version, files) = kept(&config, &args.version)?;
    let candidate = checked(&config, &version, &files)?;
    let deed = Deed { action: ROLLBACK.to_owned(), subject: version.clone(), reason: args.reason.clone(), ..Deed::default() };
    let now = block_on(async {
        person::record_deed(&config, deed).await.map_err(person::undone)?;
        let policies: &Path = config.policies.as_ref();
        files.restore(policies).map_err(|error| Failure::Other(format!("{}: {error}; do it again", policies.display())))?;
        reload(&config).await
    })?;
    if context.json {
        println!("{}", json!({ "version": version, "policy_version": candidate, "in_force": now.is_some() }));
        return Ok(0);
    }
    println!("the files of {} stand in {} again", short(&version), AsRef::<Path>::as_ref(&config.policies).display());
    if candidate != version {
        println!("tools have changed since, so the version is another: {}", short(&candidate));
    }
    match now {
        Some(now) => println!("in force: {}", short(&now)),
        None => println!("no gateway runs; the next start takes them up"),
    }
    Ok(0)
}

/// The one version that begins so, with its files.
fn kept(config: &Config, version: &str) -> Result<(String, Files), Failure> {
    let found = Bundles::in_state(config.state.as_ref()).find(version).map_err(Failure::other)?;
    match <[_; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(none) if none.is_empty() => {
            Err(Failure::Other(format!("the files of `{version}` are not kept; `doorward policy history` shows those that are")))
        }
        Err(_many) => Err(Failure::Other(format!("several versions begin with `{version}`: write more of it"))),
    }
}

/// The version that these files have today, if they load, are those that had the version, and are signed by whoever has to.
fn checked(config: &Config, version: &str, files: &Files) -> Result<String, Failure> {
    let folder = Scratch::make(config.state.as_ref()).map_err(Failure::other)?;
    files.write(folder.path()).map_err(Failure::other)?;
    let Loaded { policy, limits, .. } = loaded(config, folder.path())?;
    let of_files = policy.written(limits.text());
    let bundle = Kept::in_dir(config.audit.dir.as_ref()).find(Sort::Policy, version);
    let Some(bundle) = bundle else {
        return Err(Failure::Other(format!(
            "the bundle of {version} is not beside the audit log, so nobody can tell whether these are its files"
        )));
    };
    if written(&bundle) != of_files {
        return Err(Failure::Other(format!(
            "the files that are kept for {version} are not those that it was made of: somebody has changed them"
        )));
    }
    vouched(folder.path(), &config.policy, &of_files)?;
    Ok(policy.version().to_owned())
}

/// Enough of a version to tell it from others.
fn short(version: &str) -> &str {
    version.get(.."sha256:".len() + SHOWN).unwrap_or(version)
}

/// The action of a rollback's record.
const ROLLBACK: &str = "policy_rollback";
/// Digits of a version that must be written.
const LEAST: usize = 8;
/// Digits of a version that are shown.
const SHOWN: usize = 16;
