//! `doorward policy shadow` and `promote`: a candidate that decides beside the policy in force, what it would have done, and how it comes into force.
//!
//! Leaves to others: deciding beside (`gateway`), putting files in their place ([`Files`]).
//!
//! INVARIANT: what is promoted is what decided beside: its files are those in the state folder, and they load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{loaded, logs, reload, span};
use crate::audit::filter::Filter;
use crate::audit::record::{Record, Stored};
use crate::audit::row::Field;
use crate::cli::{Context, Failure, block_on, person, table};
use crate::clock::rfc3339;
use crate::config::Config;
use crate::gateway::Loaded;
use crate::gateway::bundles::Files;
use crate::gateway::shadow::folder;
use crate::gateway::signed::vouched;
use crate::listen::admin::Deed;

/// Arguments of `doorward policy shadow`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward policy shadow policies.new\n  doorward policy shadow --since 1d\n  doorward policy shadow --stop\n\nWithout a folder, tells what the candidate said of the calls on record. Exit codes: 0 done, or it decides as the policy in force, 2 a fault in a file, 3 it decides otherwise."
)]
pub struct ShadowArgs {
    /// The folder of the candidate: from now on it decides beside the policy in force, without effect.
    folder: Option<PathBuf>,
    /// No candidate any more.
    #[arg(long, conflicts_with = "folder")]
    stop: bool,
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["folder", "stop"])]
    since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["folder", "stop"])]
    until: Option<String>,
}

/// Arguments of `doorward policy promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward policy promote --reason 'review 31'\n\n`doorward policy rollback` is the way back.")]
pub struct PromoteArgs {
    /// Why, in a few words for the record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A decision and what the candidate says of the same call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    principal: String,
    target: String,
    was: String,
    says: String,
}

/// Begins, ends, or tells.
pub fn shadow(context: &Context, args: &ShadowArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    match &args.folder {
        Some(candidate) => begin(context, &config, candidate),
        None if args.stop => end(context, &config),
        None => report(context, &config, args),
    }
}

fn begin(context: &Context, config: &Config, candidate: &Path) -> Result<u8, Failure> {
    let ready = loaded(config, candidate)?;
    let version = ready.policy.version().to_owned();
    let files = Files::read(candidate)?;
    tell_limits(config, &ready)?;
    let before = Files::read(&folder(config.state.as_ref())).ok().filter(|files| !files.is_empty());
    let deed = Deed { action: BEGIN.to_owned(), subject: version.clone(), ..Deed::default() };
    let runs = block_on(async {
        person::record_deed(config, deed).await.map_err(person::undone)?;
        put(config, Some(&files))?;
        let reloaded = reload(config).await;
        if reloaded.is_err() {
            // What decides nothing must not be promoted.
            put(config, before.as_ref())?;
        }
        reloaded
    })?;
    match context.json {
        true => println!("{}", json!({ "version": version, "running": runs.is_some() })),
        false if runs.is_some() => println!("{version} decides beside the policy in force from now on, without effect"),
        false => println!("no gateway runs; from the next start on {version} decides beside the policy in force, without effect"),
    }
    Ok(0)
}

fn end(context: &Context, config: &Config) -> Result<u8, Failure> {
    let deed = Deed { action: "policy_shadow_stop".to_owned(), subject: "shadow".to_owned(), ..Deed::default() };
    let runs = block_on(async {
        person::record_deed(config, deed).await.map_err(person::undone)?;
        put(config, None)?;
        reload(config).await
    })?;
    match context.json {
        true => println!("{}", json!({ "version": Value::Null, "running": runs.is_some() })),
        false => println!("no candidate decides beside the policy in force"),
    }
    Ok(0)
}

/// Puts the candidate's files into the state folder, or takes them away.
fn put(config: &Config, files: Option<&Files>) -> Result<(), Failure> {
    let folder = folder(config.state.as_ref());
    let done = match files {
        Some(files) => std::fs::create_dir_all(&folder).and_then(|()| files.restore(&folder)),
        None if folder.exists() => std::fs::remove_dir_all(&folder),
        None => Ok(()),
    };
    done.map_err(|error| Failure::Other(format!("{}: {error}", folder.display())))
}

fn report(context: &Context, config: &Config, args: &ShadowArgs) -> Result<u8, Failure> {
    let (since, until) = span(args.since.as_deref(), args.until.as_deref())?;
    let newest = loaded(config, &folder(config.state.as_ref())).ok().map(|loaded| loaded.policy.version().to_owned());
    let mut pairs: BTreeMap<Pair, (u64, i64)> = BTreeMap::new();
    let (mut alike, mut of_others) = (0, 0);
    let logs = logs(config)?;
    let read = logs.each(&Filter { since, until, ..Filter::default() }, |line| {
        let Some(stored) = memchr::memmem::find(line, b",\"shadow\":\"").and_then(|_| Stored::parse(line)) else { return };
        let said = stored.record.shadow.as_deref().and_then(|text| text.split_once(' '));
        let Some((version, says)) = said else { return };
        match decided(&stored.record) {
            // What another candidate said tells nothing of this one.
            _ if newest.as_deref().is_some_and(|newest| newest != version) => of_others += 1,
            was if was == says => alike += 1,
            was => {
                let word = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().unwrap_or("-").to_owned();
                let pair =
                    Pair { principal: word(&stored.record.principal), target: word(&stored.record.target), was, says: says.to_owned() };
                let told = pairs.entry(pair).or_insert((0, stored.unix_nanos()));
                *told = (told.0 + 1, told.1.max(stored.unix_nanos()));
            }
        }
    });
    read.map_err(Failure::other)?;
    let otherwise: u64 = pairs.values().map(|(calls, _)| calls).sum();
    if context.json {
        let list = pairs.iter().map(|(pair, (calls, last))| {
            json!({ "principal": pair.principal, "target": pair.target, "decided": pair.was, "candidate": pair.says, "calls": calls, "last": rfc3339(*last) })
        });
        let list: Vec<_> = list.collect();
        println!(
            "{}",
            json!({ "candidate": newest, "alike": alike, "otherwise": otherwise, "of_other_candidates": of_others, "decisions": list })
        );
    } else {
        let rows: Vec<Vec<String>> = pairs
            .iter()
            .map(|(pair, (calls, last))| {
                let words = [&pair.principal, &pair.target, &pair.was, &pair.says].map(|word| table::safe(word));
                words.into_iter().chain([calls.to_string(), rfc3339(*last)]).collect()
            })
            .collect();
        if !rows.is_empty() {
            print!("{}", table::render(&["WHO", "TARGET", "DECIDED", "CANDIDATE", "CALLS", "LAST"], &rows));
        }
        let whose = newest.as_deref().unwrap_or("no candidate now");
        println!("calls: {alike} decided alike, {otherwise} otherwise ({whose}), {of_others} beside other candidates");
    }
    Ok(if otherwise > 0 { 3 } else { 0 })
}

/// What was decided, in the words of the candidate's answers.
fn decided(record: &Record<'_>) -> String {
    let rules = record.rule_ids.join(",");
    let permits = record.code.is_none() || !matches!(record.code.as_deref(), Some("policy_denied" | "tool_not_found"));
    match (permits, record.obligations.is_empty()) {
        (true, true) => format!("allow {rules}"),
        (true, false) => format!("allow {rules} with {}", record.obligations.join(",")),
        (false, _) if rules.is_empty() => "deny".to_owned(),
        (false, _) => format!("deny {rules}"),
    }
}

/// Says where the limits differ, which a candidate is not asked about and a promotion puts in force.
fn tell_limits(config: &Config, candidate: &Loaded) -> Result<(), Failure> {
    if loaded(config, config.policies.as_ref())?.limits.text() != candidate.limits.text() {
        eprintln!("doorward: limits.yaml differs from the one in force: no limit is tried beside it, and `promote` puts it in force");
    }
    Ok(())
}

/// Whether somebody has had just this decide beside.
fn has_decided_beside(config: &Config, version: &str) -> Result<bool, Failure> {
    let begun = Filter::default().and(Field::Action, Some(BEGIN));
    let found = logs(config)?.find(&begun).map_err(Failure::other)?;
    Ok(found.records.iter().any(|stored| stored.record.subject.as_deref() == Some(version)))
}

/// The action of the record of a candidate.
const BEGIN: &str = "policy_shadow";
/// The action of a promotion's record.
pub(super) const PROMOTE: &str = "policy_promote";

/// Puts the candidate in the place of the policy in force.
pub fn promote(context: &Context, args: &PromoteArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let candidate = folder(config.state.as_ref());
    if !candidate.join("policy.csv").exists() {
        return Err(Failure::Usage("there is no candidate: `doorward policy shadow DIR` makes one".to_owned()));
    }
    let loaded = loaded(&config, &candidate)?;
    vouched(&candidate, &config.policy, &loaded.policy.written(loaded.limits.text()))?;
    let (version, files) = (loaded.policy.version().to_owned(), Files::read(&candidate)?);
    if !has_decided_beside(&config, &version)? {
        let why = "the candidate's files, or the tools, have changed since it began: `doorward policy shadow DIR` begins anew";
        return Err(Failure::Other(format!("{version} has not decided beside the policy in force: {why}")));
    }
    tell_limits(&config, &loaded)?;
    let deed = Deed { action: PROMOTE.to_owned(), subject: version.clone(), reason: args.reason.clone(), ..Deed::default() };
    let runs = block_on(async {
        person::record_deed(&config, deed).await.map_err(person::undone)?;
        let policies: &Path = config.policies.as_ref();
        files.restore(policies).map_err(|error| Failure::Other(format!("{}: {error}; do it again", policies.display())))?;
        put(&config, None)?;
        reload(&config).await
    })?;
    match context.json {
        true => println!("{}", json!({ "version": version, "running": runs.is_some() })),
        false if runs.is_some() => println!("in force: {version}"),
        false => println!("no gateway runs; the next start takes {version} up"),
    }
    Ok(0)
}
