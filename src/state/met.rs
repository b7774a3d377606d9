//! What agents have met, and which calls are counted, as the database keeps it.
//!
//! INVARIANT: what is forgotten before its time, since there are too many runs or agents, counts for all runs of its agent, or for everybody.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::{DATABASE, State, StateError};

/// The step that adds them. An empty run is the agent as a whole.
pub(super) const TABLES: &str = "CREATE TABLE met (agent TEXT NOT NULL, run TEXT NOT NULL, label TEXT NOT NULL, until INTEGER NOT NULL,
       PRIMARY KEY (agent, run, label)) WITHOUT ROWID;
     CREATE TABLE made (number INTEGER PRIMARY KEY, agent TEXT NOT NULL, of TEXT NOT NULL, at INTEGER NOT NULL);
     CREATE INDEX made_of ON made (agent, of, at);";

/// Whoever has met what counts for everybody.
const EVERYBODY: &str = "*";
/// Calls of one agent that are kept of each counted pattern: as many as a condition can ask about.
pub const MAX_MADE: u64 = 10_000;
/// How long a call is counted at most, in seconds.
pub const MAX_WITHIN_S: u64 = 86_400;
/// How long what does not count any more is kept, in seconds: a clock that goes forward for less, and back, makes nobody forget.
const KEPT_S: u64 = 86_400;

/// Whose labels they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The agent, as `agent:NAME`.
    pub agent: Box<str>,
    /// The run, where its id is trusted; `None` for the agent as a whole.
    pub run: Option<Box<str>>,
}

/// One label that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Its word.
    pub label: String,
    /// From when on it does not count any more, in seconds since 1970.
    pub until: i64,
}

/// What was told of one count when the call was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counting {
    /// The pattern of the calls.
    pub of: Box<str>,
    /// How many of them.
    pub calls: u64,
    /// Of the last so many seconds.
    pub within_s: u64,
    /// Whether there were fewer.
    pub is_below: bool,
}

/// What a call that goes on leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Who meets the labels.
    pub whose: Vec<Whose>,
    /// The labels, by their words.
    pub labels: Vec<String>,
    /// From when on they do not count any more.
    pub until: i64,
    /// Who is counted.
    pub agent: Box<str>,
    /// The patterns that count the call.
    pub counted: Vec<Box<str>>,
    /// What the decision stands on.
    pub stands_on: Vec<Counting>,
    /// In seconds since 1970.
    pub now: i64,
}

/// A connection of its own for looking: one that waits for the disk must not hold a decision up.
#[derive(Debug)]
pub struct MetReader {
    database: Mutex<Connection>,
}

impl MetReader {
    /// What these have met that counts still, and how long: each label once.
    ///
    /// # Errors
    /// The database's.
    pub fn met(&self, whose: &[Whose], now: i64) -> Result<Vec<Met>, StateError> {
        met(&self.database.lock().unwrap_or_else(PoisonError::into_inner), whose, now)
    }

    /// How many of the calls of this pattern the agent has made since then.
    ///
    /// # Errors
    /// The database's.
    pub fn made(&self, agent: &str, of: &str, since: i64) -> Result<u64, StateError> {
        made(&self.database.lock().unwrap_or_else(PoisonError::into_inner), agent, of, since)
    }
}

impl State {
    /// A connection that looks at what agents have met.
    ///
    /// # Errors
    /// The database's.
    pub fn met_reader(&self) -> Result<MetReader, StateError> {
        let database = Connection::open_with_flags(self.folder.join(DATABASE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        database.busy_timeout(Duration::from_secs(1))?;
        Ok(MetReader { database: Mutex::new(database) })
    }

    /// Stores what a call leaves behind, in bounds of so many agents and runs of one agent, and gives all that those of the note have met
    /// before it. Nothing is stored, and `None` given, where a count that the decision stands on has changed since.
    ///
    /// # Errors
    /// The database's.
    pub fn note(&self, note: &Note, (agents, runs): (u64, u64)) -> Result<Option<Vec<Met>>, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for counting in &note.stands_on {
            let since = note.now.saturating_sub_unsigned(counting.within_s);
            if (made(&transaction, &note.agent, &counting.of, since)? < counting.calls) != counting.is_below {
                return Ok(None);
            }
        }
        let before = met(&transaction, &note.whose, note.now)?;
        for of in &note.counted {
            count(&transaction, &note.agent, of, note.now)?;
        }
        if !note.labels.is_empty() {
            let late = note.now.saturating_sub_unsigned(KEPT_S);
            transaction.prepare_cached("DELETE FROM met WHERE until <= ?1")?.execute([late])?;
        }
        for whose in note.whose.iter().filter(|_| !note.labels.is_empty()) {
            make_room(&transaction, whose, (agents, runs))?;
            for label in &note.labels {
                meet(&transaction, whose, label, note.until)?;
            }
        }
        transaction.commit()?;
        Ok(Some(before))
    }
}

fn met(database: &Connection, whose: &[Whose], now: i64) -> Result<Vec<Met>, StateError> {
    // Whose run is not told apart may have heard of every run of the agent.
    let sql = "SELECT label, until FROM met WHERE agent = ?1 AND until > ?2 AND (?3 IS NULL OR run IN ('', ?3))";
    let mut query = database.prepare_cached(sql)?;
    let mut all: Vec<Met> = Vec::new();
    let asked = whose.iter().map(|whose| (&*whose.agent, whose.run.as_deref())).chain([(EVERYBODY, None)]);
    for (agent, run) in asked {
        for found in query.query_map(params![agent, now, run], |row| Ok(Met { label: row.get(0)?, until: row.get(1)? }))? {
            let found = found?;
            match all.iter_mut().find(|known| known.label == found.label) {
                Some(known) => known.until = known.until.max(found.until),
                None => all.push(found),
            }
        }
    }
    Ok(all)
}

fn made(database: &Connection, agent: &str, of: &str, since: i64) -> Result<u64, StateError> {
    let sql = "SELECT count(*) FROM made WHERE agent = ?1 AND of = ?2 AND at > ?3";
    Ok(database.prepare_cached(sql)?.query_row(params![agent, of, since], |row| row.get(0))?)
}

fn count(transaction: &Transaction<'_>, agent: &str, of: &str, now: i64) -> Result<(), StateError> {
    transaction.prepare_cached("INSERT INTO made (agent, of, at) VALUES (?1, ?2, ?3)")?.execute(params![agent, of, now])?;
    let late = now.saturating_sub_unsigned(MAX_WITHIN_S);
    transaction.prepare_cached("DELETE FROM made WHERE agent = ?1 AND of = ?2 AND at <= ?3")?.execute(params![agent, of, late])?;
    let surplus =
        "DELETE FROM made WHERE number IN (SELECT number FROM made WHERE agent = ?1 AND of = ?2 ORDER BY at DESC LIMIT 100 OFFSET ?3)";
    transaction.prepare_cached(surplus)?.execute(params![agent, of, MAX_MADE])?;
    Ok(())
}

fn meet(transaction: &Transaction<'_>, whose: &Whose, label: &str, until: i64) -> Result<(), StateError> {
    let sql = "INSERT INTO met (agent, run, label, until) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (agent, run, label) DO UPDATE SET until = max(until, excluded.until)";
    transaction.prepare_cached(sql)?.execute(params![whose.agent, whose.run.as_deref().unwrap_or_default(), label, until])?;
    Ok(())
}

/// Makes room for one more run of the agent, or one more agent.
fn make_room(transaction: &Transaction<'_>, whose: &Whose, (agents, runs): (u64, u64)) -> Result<(), StateError> {
    let is_known = "SELECT EXISTS (SELECT 1 FROM met WHERE agent = ?1)";
    let is_known: bool = transaction.prepare_cached(is_known)?.query_row([&*whose.agent], |row| row.get(0))?;
    let others: u64 = match is_known {
        true => 0,
        false => transaction.query_row("SELECT count(DISTINCT agent) FROM met WHERE agent <> ?1", [EVERYBODY], |row| row.get(0))?,
    };
    if others >= agents {
        let oldest = "SELECT agent FROM met WHERE agent <> ?1 GROUP BY agent ORDER BY max(until) LIMIT 1";
        let oldest: String = transaction.query_row(oldest, [EVERYBODY], |row| row.get(0))?;
        merge(transaction, EVERYBODY, (&oldest, None))?;
    }
    let Some(run) = whose.run.as_deref() else { return Ok(()) };
    let other = "FROM met WHERE agent = ?1 AND run <> '' AND run <> ?2";
    let other_runs: u64 =
        transaction.query_row(&format!("SELECT count(DISTINCT run) {other}"), params![whose.agent, run], |row| row.get(0))?;
    if other_runs >= runs {
        let oldest = format!("SELECT run {other} GROUP BY run ORDER BY max(until) LIMIT 1");
        let oldest: String = transaction.query_row(&oldest, params![whose.agent, run], |row| row.get(0))?;
        merge(transaction, &whose.agent, (&whose.agent, Some(&oldest)))?;
    }
    Ok(())
}

/// Lets the labels of one run, or of all that an agent has met, count for a wider one as a whole.
fn merge(transaction: &Transaction<'_>, into: &str, (agent, run): (&str, Option<&str>)) -> Result<(), StateError> {
    let copy = "INSERT INTO met (agent, run, label, until)
         SELECT ?1, '', label, max(until) FROM met WHERE agent = ?2 AND (?3 IS NULL OR run = ?3) GROUP BY label
         ON CONFLICT (agent, run, label) DO UPDATE SET until = max(until, excluded.until)";
    transaction.execute(copy, params![into, agent, run])?;
    transaction.execute("DELETE FROM met WHERE agent = ?1 AND (?2 IS NULL OR run = ?2)", params![agent, run])?;
    Ok(())
}
