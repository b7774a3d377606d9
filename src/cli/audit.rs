//! `doorward audit`: the responder's questions to the logs, a file for each verb.
//!
//! Owns: the arguments and why a question has no answer. Leaves to others: what a question means (`audit::find`, `audit::verify`).
//!
//! INVARIANT: nothing that came from outside stands in a row unescaped: a record may hold what an attacker chose. With `--json`
//! a record is the stored line, byte for byte.

mod anomalies;
mod erase;
mod export;
mod find;
mod index;
mod keys;
mod pack;
mod print;
mod prove;
mod reach;
mod reveal;
mod show;
mod stats;
mod tail;
mod time;
mod timeline;
mod unresolved;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use jiff::tz::TimeZone;

pub use self::show::asked;
pub(super) use self::time::time;
use crate::audit::find::Logs;
use crate::audit::index::IndexError;
use crate::audit::redact::ValueKey;
use crate::audit::values;
use crate::cli::{Context, table};
use anomalies::Judged;
use erase::Erase;
use export::Export;
use find::Find;
use keys::{Certify, Keygen};
use pack::Pack;
use print::Printer;
use prove::Prove;
use reach::Reach;
use reveal::Reveal;
use stats::Sums;
use verify::Verify;

/// Asks the audit log.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = "Example:\n  doorward audit tail -n 20")]
pub struct Args {
    /// The folder of the logs, instead of the configured one.
    #[arg(long, global = true, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// The folder of the value keys, instead of the configured one, or of `keys` beside the folder that --dir names.
    #[arg(long, global = true, value_name = "PATH")]
    pub keys: Option<PathBuf>,
    /// The question.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The questions.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// The newest records, oldest first.
    #[command(after_help = "Example:\n  doorward audit tail -n 50 -f")]
    Tail {
        /// How many.
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
        count: usize,
        /// Go on with new records as they come.
        #[arg(short, long)]
        follow: bool,
    },
    /// Records by time, agent, tool and more; the newest ones, oldest first.
    #[command(
        after_help = "Examples:\n  doorward audit find --since 2h --agent demo --decision deny\n  doorward audit find --value alice@example.com"
    )]
    Find(Box<Find>),
    /// All records of one call, with every field.
    #[command(after_help = "Example:\n  doorward audit show main:42")]
    Show {
        /// The invocation id, or a record's number, alone or as ORIGIN:NUMBER.
        what: String,
    },
    /// Checks that no record was changed, dropped, moved or put in. Exit code 3 when one was.
    #[command(after_help = "Example:\n  doorward audit verify --anchor /mnt/anchors/doorward.notes --since-anchor")]
    Verify(Box<Verify>),
    /// Makes an operator's root key, which vouches for logs and is kept off their machine; or a person's key that opens payloads.
    #[command(after_help = "Examples:\n  doorward audit keygen --out root.key\n  doorward audit keygen --opener alice --out alice.key")]
    Keygen(Keygen),
    /// Vouches with a root key for the key that the log has now. `audit verify` then finds a log that was signed anew with other keys.
    #[command(after_help = "Example:\n  doorward audit certify --root /mnt/offline/root.key")]
    Certify(Certify),
    /// The proof that one record is in the log, for somebody who has neither the log nor the other records.
    #[command(after_help = "Example:\n  doorward audit prove 42 --out record-42.proof")]
    Prove(Prove),
    /// Opens what was kept sealed of a call, its arguments and its result, and puts that on record.
    #[command(
        after_help = "Examples:\n  doorward audit reveal main:42 --key alice.key --key bob.key --reason 'ticket 17'\n  doorward audit reveal main:42 --key alice.key --share-to 42.share --reason 'ticket 17'\n  doorward audit reveal main:42 --key bob.key --share 42.share --reason 'ticket 17'"
    )]
    Reveal(Reveal),
    /// Destroys the keys of what was kept sealed of a subject, for good, and puts that on record.
    #[command(after_help = "Example:\n  doorward audit erase --subject agent:triage-bot --before 2026-10 --reason 'ticket 18'")]
    Erase(Erase),
    /// Calls whose end nobody knows, and calls that still run.
    #[command(after_help = "Example:\n  doorward audit unresolved --json")]
    Unresolved,
    /// The whole story of a run, a trace, a session or a call, as a tree with times, decisions and ends.
    #[command(after_help = "Example:\n  doorward audit timeline run-7f3a")]
    Timeline {
        /// The id of a run, a trace, a session or a call.
        id: String,
    },
    /// Who calls what, how it ends and how long it takes, with a chart.
    #[command(after_help = "Example:\n  doorward audit stats --since 7d")]
    Stats(Sums),
    /// What an agent could call by the policies that were in force then, against what it did call.
    #[command(after_help = "Example:\n  doorward audit reach triage-bot --since 30d --open")]
    Reach(Reach),
    /// What agents did lately that they do not usually do, each with the records that show it.
    #[command(after_help = "Example:\n  doorward audit anomalies --since 1d --cost-budget 500")]
    Anomalies(Judged),
    /// Records for other systems: NDJSON, CSV, OCSF or CEF, oldest first, each with what proves it.
    #[command(after_help = "Example:\n  doorward audit export --format ocsf --since 1d > events.json")]
    Export(Box<Export>),
    /// Records for somebody outside: one archive with them, their proofs, policies and tool definitions as they were, and what checks all that.
    #[command(
        after_help = "Examples:\n  doorward audit pack --run run-7f3a --out incident.tar\n  doorward audit pack --seq 41-60 --exactly --out records.tar\n  doorward audit verify --pack incident.tar --root-key KEY\n\nAll that `find` takes selects; the other records of the same calls come along. Exit code 3 where the log is not what was signed, 4 where a record is not signed yet: the archive is written and says which."
    )]
    Pack(Box<Pack>),
    /// Completes the index of the logs, which questions otherwise do bit by bit. It may be deleted at any time.
    #[command(after_help = "Example:\n  doorward audit index --rebuild")]
    Index {
        /// Make it anew from the logs.
        #[arg(long)]
        rebuild: bool,
    },
}

impl Verb {
    /// Whether it neither reads nor writes a log, so that it needs no configuration to tell where that is.
    pub fn is_without_a_log(&self) -> bool {
        match self {
            Self::Keygen(_) => true,
            Self::Verify(asked) => asked.proof.is_some() || asked.pack.is_some(),
            _ => false,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A time is in no known form.
    #[error("`{0}` is not a time; use RFC 3339 (`2026-11-21T10:00:00Z`), a date (`2026-11-21`), or how long ago (`15m`, `1h`, `2d`)")]
    Time(String),
    /// The logs cannot be read.
    #[error("the audit logs in `{dir}` cannot be read: {source}; see --dir")]
    Unreadable {
        /// The folder.
        dir: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// The keys of values cannot be read.
    #[error("the value keys in `{dir}` cannot be read: {source}; see --keys")]
    Keys {
        /// The folder.
        dir: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// The files that decide cannot be loaded.
    #[error("what is in force cannot be loaded: {0}")]
    Files(String),
    /// The index cannot be made.
    #[error("the index cannot be made: {0}; the questions do without it")]
    Index(#[from] IndexError),
    /// Nothing can be said of a log that is not there: it may have been taken away whole.
    #[error(
        "there is no log in `{0}`, so nothing was checked; before the first start that is as it should be, else see --dir, or the log was taken away"
    )]
    NoLog(String),
    /// A file that was named cannot be read.
    #[error("`{file}` cannot be read: {source}")]
    File {
        /// The file.
        file: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("`{file}` cannot be written: {source}")]
    Unwritten {
        /// The file.
        file: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// What a person does to a log is on record first.
    #[error("not recorded, so nothing was done: {0}")]
    Unrecorded(String),
    /// What is sealed stays so.
    #[error("{0}")]
    Sealed(String),
    /// Of a subject nothing is kept; ends with the subject and a backtick.
    #[error("no payload is kept of `{0}; a subject is written as in `on_behalf_of` of a record, or else in `principal`")]
    NoSubject(String),
    /// A key or a payload cannot be destroyed.
    #[error("the erasure is on record and was cut off: a file in `{dir}` cannot be removed: {source}; erase again")]
    Unerased {
        /// The folder of the logs.
        dir: String,
        /// What the disk reported.
        source: io::Error,
    },
    /// An anchor file has none.
    #[error("`{0}` holds no anchor: a signed checkpoint as it is, or a line with one as a JSON string")]
    NoAnchor(String),
    /// A record cannot be proved.
    #[error(transparent)]
    Prove(crate::audit::proof::ProveError),
    /// What was asked for cannot be.
    #[error("{0}")]
    Usage(&'static str),
    /// No record fits.
    #[error("no record fits, so there is nothing to pack")]
    NoRecords,
    /// More records fit than may be packed.
    #[error("more than {0} records fit; narrow them down, or see --limit")]
    TooMany(usize),
    /// Nothing is recorded under the name that was asked for.
    #[error("no such call or record{0}")]
    Nothing(String),
    /// The answer cannot be written.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    fn unreadable(dir: &Path, source: io::Error) -> Self {
        Self::Unreadable { dir: dir.display().to_string(), source }
    }
}

/// What every question needs.
struct Asking<'a> {
    dir: &'a Path,
    keys: PathBuf,
    logs: Logs,
    print: Printer,
}

impl Asking<'_> {
    fn unreadable(&self, source: io::Error) -> Error {
        Error::unreadable(self.dir, source)
    }

    /// Takes the index to hand. A small log is read faster than one is opened.
    fn with_index(&mut self) {
        if !self.logs.is_worth_an_index(self.dir) {
            return;
        }
        match self.logs.with_index(self.dir, Some(CATCH_UP), &mut |_| {}) {
            Ok(filled) => {
                self.logs.notes().iter().for_each(|note| eprintln!("note: {}", table::safe(note)));
                if !filled.is_done {
                    eprintln!("note: the index is behind the log, so this takes longer; `doorward audit index` completes it");
                }
            }
            // The log alone has all answers.
            Err(error) => tracing::info!(%error, "the index is not used"),
        }
    }

    /// The keys that values were hashed under.
    fn value_keys(&self) -> Result<Vec<ValueKey>, Error> {
        let keys = values::all(&self.keys).map_err(|source| Error::Keys { dir: self.keys.display().to_string(), source })?;
        if keys.is_empty() {
            eprintln!("note: no value key in `{}`, so a value is found only where it is stored in clear; see --keys", self.keys.display());
        }
        Ok(keys)
    }
}

/// Where the logs and the keys of their values are, as the configuration says.
pub struct Home {
    /// The folder of the logs.
    pub audit: PathBuf,
    /// The folder of the keys.
    pub keys: PathBuf,
    /// Where the files are that are in force.
    pub context: Option<Context>,
}

impl Home {
    /// The logs in `dir`, their keys in the folder `keys` beside it.
    pub fn beside(dir: &Path) -> Self {
        Self { audit: dir.to_owned(), keys: dir.with_file_name("keys"), context: None }
    }
}

/// Answers on `out`; the exit code.
///
/// # Errors
/// See [`Error`].
pub fn run(args: &Args, home: &Home, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let dir = args.dir.as_deref().unwrap_or(&home.audit);
    let unreadable = |source| Error::unreadable(dir, source);
    if args.dir.is_some() {
        // A folder that was named and is not there is a slip; the configured one comes with the first record.
        std::fs::read_dir(dir).map_err(unreadable)?;
    }
    let print = Printer { json, zone: TimeZone::system() };
    let keys = args.keys.clone().unwrap_or_else(|| home.keys.clone());
    let mut asking = Asking { dir, keys, logs: Logs::in_dir(dir).map_err(unreadable)?, print };
    if !matches!(
        args.verb,
        Verb::Tail { .. } | Verb::Verify(_) | Verb::Keygen(_) | Verb::Certify(_) | Verb::Prove(_) | Verb::Erase(_) | Verb::Index { .. }
    ) {
        asking.with_index();
    }
    match &args.verb {
        Verb::Tail { count, follow } => tail::run(&asking, *count, *follow, out),
        Verb::Find(asked) => find::run(&asking, asked, out),
        Verb::Show { what } => show::run(&asking, what, out),
        Verb::Prove(asked) => prove::run(asked, dir, out),
        Verb::Verify(asked) => {
            // Other logs than the configured ones have another operator, for all that is known here.
            let context = home.context.as_ref().filter(|_| args.dir.is_none());
            verify::run(asked, dir, context, json, out)
        }
        Verb::Keygen(asked) => keys::generate(asked, json, out),
        Verb::Certify(asked) => keys::certify(asked, dir, home.context.as_ref(), json, out),
        Verb::Reveal(asked) => reveal::run(&asking, asked, home.context.as_ref(), json, out),
        // Where else logs lie, nothing would tell their readers what is gone.
        Verb::Erase(_) if args.dir.is_some() => Err(Error::Usage("erase works on the logs of the configuration: leave --dir out")),
        Verb::Erase(asked) => erase::run(asked, dir, home.context.as_ref(), json, out),
        Verb::Unresolved => unresolved::run(&asking, out),
        Verb::Timeline { id } => timeline::run(&asking, id, out),
        Verb::Stats(asked) => stats::run(&asking, asked, out),
        Verb::Reach(asked) => reach::run(&asking, home, asked, out),
        Verb::Anomalies(asked) => anomalies::run(&asking, asked, out),
        Verb::Export(asked) => export::run(&asking, asked, out),
        Verb::Pack(asked) => pack::run(&asking, home, asked, out),
        Verb::Index { rebuild } => index::run(asking, *rebuild, out),
    }
}

/// How long a question works on the index before it answers.
const CATCH_UP: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
