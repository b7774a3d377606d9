//! `doorward policy shadow` and `promote`: a candidate that decides beside the policy in force, what it would have done, and how it comes into force.
//!
//! A candidate is a folder, or a single row: the files in force with that row. Both are files in the state folder.
//!
//! Leaves to others: deciding beside (`gateway`), putting files in their place ([`Files`]), where a row goes ([`Edit`]).
//!
//! INVARIANT: what is promoted is what decided beside: its files are those in the state folder, and they load.
//! INVARIANT: a row that is promoted changes that row: where the files in force have changed since, it begins anew.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::row::{self, Edit};
use super::{loaded, logs, reload, span};
use crate::audit::filter::Filter;
use crate::audit::record::{Record, Stored};
use crate::audit::row::Field;
use crate::cli::{Context, Failure, block_on, person, table};
use crate::clock::rfc3339;
use crate::config::{Config, read_text};
use crate::gateway::Loaded;
use crate::gateway::bundles::Files;
use crate::gateway::shadow::folder;
use crate::gateway::signed::vouched;
use crate::listen::admin::Deed;

/// Arguments of `doorward policy shadow`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward policy shadow policies.new\n  doorward policy shadow --row 'p, R9, role:writer, demo__delete_note, irreversible, -, allow'\n  doorward policy shadow --since 1d\n  doorward policy shadow --stop\n\nWithout a folder or a row, tells what the candidate said of the calls on record. Exit codes: 0 done, or it decides as the policy in force, 2 a fault in a file, 3 it decides otherwise."
)]
pub struct ShadowArgs {
    /// The folder of the candidate: from now on it decides beside the policy in force, without effect.
    folder: Option<PathBuf>,
    /// One row instead: the candidate is the policy in force with it, in the place of the row with its id or else at the end.
    #[arg(long, value_name = "ROW", value_parser = row::parse, conflicts_with = "folder")]
    row: Option<String>,
    /// No candidate any more.
    #[arg(long, conflicts_with_all = ["folder", "row"])]
    stop: bool,
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["folder", "row", "stop"])]
    since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["folder", "row", "stop"])]
    until: Option<String>,
}

/// Arguments of `doorward policy promote`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy promote --reason 'review 31'\n\nA folder takes the place of all files in force. A row is written to policy.csv, where the rest stays as it is. `doorward policy rollback` is the way back."
)]
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

/// What decides beside, or is to.
#[derive(Clone)]
struct Candidate {
    files: Files,
    /// Where it is the policy in force with this row.
    row: Option<String>,
}

impl Candidate {
    /// The one in the state folder, where there is one.
    fn kept(config: &Config) -> Option<Self> {
        let folder = folder(config.state.as_ref());
        let files = Files::read(&folder).ok().filter(|files| !files.is_empty())?;
        Some(Self { files, row: read_text(&folder.join(ROW)).ok() })
    }

    /// Puts a candidate into the state folder, or takes it away.
    fn put(candidate: Option<&Self>, config: &Config) -> Result<(), Failure> {
        let folder = folder(config.state.as_ref());
        let gone = |removed: std::io::Result<()>| match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // Cut off anywhere, files that another row stands beside are left at worst, and do not fit it.
        let write = |candidate: &Self| {
            std::fs::create_dir_all(&folder)?;
            candidate.row.as_ref().map_or(Ok(()), |row| std::fs::write(folder.join(ROW), row))?;
            candidate.files.restore(&folder)?;
            if candidate.row.is_none() { gone(std::fs::remove_file(folder.join(ROW))) } else { Ok(()) }
        };
        let done = candidate.map_or_else(|| gone(std::fs::remove_dir_all(&folder)), write);
        done.map_err(|error| Failure::Other(format!("{}: {error}", folder.display())))
    }

    /// Whether it is still the policy in force with its row; true of a folder, which stands by itself.
    fn fits(&self, config: &Config) -> Result<bool, Failure> {
        let Some(row) = &self.row else { return Ok(true) };
        let now = Edit::of(Files::read(config.policies.as_ref())?, row);
        Ok(now.is_ok_and(|edit| edit.files.say_the_same(&self.files)))
    }
}

/// Begins, ends, or tells.
pub fn shadow(context: &Context, args: &ShadowArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    match (&args.folder, &args.row) {
        (Some(folder), _) => {
            let ready = loaded(&config, folder)?;
            begin(context, &config, &ready, &Candidate { files: Files::read(folder)?, row: None })
        }
        (None, Some(row)) => {
            let edit = Edit::of(Files::read(config.policies.as_ref())?, row)?;
            let ready = edit.load(&config)?;
            if !context.json {
                print!("{}", edit.told(row));
            }
            begin(context, &config, &ready, &Candidate { files: edit.files, row: Some(row.clone()) })
        }
        (None, None) if args.stop => end(context, &config),
        (None, None) => report(context, &config, args),
    }
}

fn begin(context: &Context, config: &Config, ready: &Loaded, candidate: &Candidate) -> Result<u8, Failure> {
    let version = ready.policy.version().to_owned();
    tell_limits(config, ready)?;
    let before = Candidate::kept(config);
    let row = candidate.row.as_ref().map(|row| format!("row {row}"));
    let deed = Deed { action: BEGIN.to_owned(), subject: version.clone(), reason: row, ..Deed::default() };
    let runs = block_on(async {
        person::record_deed(config, deed).await.map_err(person::undone)?;
        Candidate::put(Some(candidate), config)?;
        let reloaded = reload(config).await;
        if reloaded.is_err() {
            // What decides nothing must not be promoted.
            Candidate::put(before.as_ref(), config)?;
        }
        reloaded
    })?;
    match context.json {
        true => println!("{}", json!({ "version": version, "row": candidate.row, "running": runs.is_some() })),
        false if runs.is_some() => println!("{version} decides beside the policy in force from now on, without effect"),
        false => println!("no gateway runs; from the next start on {version} decides beside the policy in force, without effect"),
    }
    Ok(0)
}

fn end(context: &Context, config: &Config) -> Result<u8, Failure> {
    let deed = Deed { action: "policy_shadow_stop".to_owned(), subject: "shadow".to_owned(), ..Deed::default() };
    let runs = block_on(async {
        person::record_deed(config, deed).await.map_err(person::undone)?;
        Candidate::put(None, config)?;
        reload(config).await
    })?;
    match context.json {
        true => println!("{}", json!({ "version": Value::Null, "running": runs.is_some() })),
        false => println!("no candidate decides beside the policy in force"),
    }
    Ok(0)
}

fn report(context: &Context, config: &Config, args: &ShadowArgs) -> Result<u8, Failure> {
    let (since, until) = span(args.since.as_deref(), args.until.as_deref())?;
    let kept = Candidate::kept(config);
    if let Some(kept) = &kept
        && !kept.fits(config)?
    {
        eprintln!("doorward: {STALE}: what the candidate says otherwise may come from that");
    }
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
    let row = kept.and_then(|kept| kept.row);
    let otherwise: u64 = pairs.values().map(|(calls, _)| calls).sum();
    if context.json {
        let list = pairs.iter().map(|(pair, (calls, last))| {
            json!({ "principal": pair.principal, "target": pair.target, "decided": pair.was, "candidate": pair.says, "calls": calls, "last": rfc3339(*last) })
        });
        let list: Vec<_> = list.collect();
        println!(
            "{}",
            json!({ "candidate": newest, "row": row, "alike": alike, "otherwise": otherwise, "of_other_candidates": of_others, "decisions": list })
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
        let whose = match (newest.as_deref(), &row) {
            (None, _) => "no candidate now".to_owned(),
            (Some(version), None) => version.to_owned(),
            (Some(version), Some(row)) => format!("{version}, with {}", table::safe(row)),
        };
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

/// The file beside those of a candidate that says which row it is about.
const ROW: &str = "row.txt";
/// Why a row's candidate is not promoted.
const STALE: &str = "the policy's files have changed since the row was put beside them";

/// Puts the candidate in the place of the policy in force.
pub fn promote(context: &Context, args: &PromoteArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let folder = folder(config.state.as_ref());
    let Some(candidate) = Candidate::kept(&config).filter(|_| folder.join("policy.csv").exists()) else {
        return Err(Failure::Usage("there is no candidate: `doorward policy shadow DIR` makes one".to_owned()));
    };
    let loaded = loaded(&config, &folder)?;
    if !candidate.fits(&config)? {
        return Err(Failure::Other(format!("{STALE}: `doorward policy shadow --row ROW` begins anew")));
    }
    vouched(&folder, &config.policy, &loaded.policy.written(loaded.limits.text()))?;
    let version = loaded.policy.version().to_owned();
    if !has_decided_beside(&config, &version)? {
        let why = "the candidate's files, or the tools, have changed since it began: `doorward policy shadow` begins anew";
        return Err(Failure::Other(format!("{version} has not decided beside the policy in force: {why}")));
    }
    tell_limits(&config, &loaded)?;
    let row = candidate.row.as_ref().map(|row| format!("row {row}"));
    let reason = args.reason.clone().or(row);
    let deed = Deed { action: PROMOTE.to_owned(), subject: version.clone(), reason, ..Deed::default() };
    let policies: &Path = config.policies.as_ref();
    let runs = block_on(async {
        person::record_deed(&config, deed).await.map_err(person::undone)?;
        candidate.files.restore(policies).map_err(|error| {
            Failure::Other(format!("{}: {error}; `doorward policy rollback` puts back what was in force", policies.display()))
        })?;
        Candidate::put(None, &config)?;
        reload(&config).await
    })?;
    if context.json {
        println!("{}", json!({ "version": version, "row": candidate.row, "running": runs.is_some() }));
        return Ok(0);
    }
    if let Some(row) = &candidate.row {
        println!("{} has the row now: {row}", policies.join("policy.csv").display());
    }
    match runs {
        Some(_) => println!("in force: {version}"),
        None => println!("no gateway runs; the next start takes {version} up"),
    }
    Ok(0)
}
