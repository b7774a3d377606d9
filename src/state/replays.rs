//! Calls that are told apart by a key or by their arguments, as rows: what a repeat of one is answered with.
//!
//! Owns: each change as one transaction, so that of two who begin the same call, in one process or in two, one does. Leaves to `replay`:
//! what makes two calls the same, and what a repeat is told.
//! INVARIANT: a row is there before its call's intent, and goes only when nothing was done, its time is over, a person releases it, or, where a
//! repeat does no harm, something else has changed what it answers.
//! INVARIANT: rows and bytes are bounded for each agent and in all; triggers keep the sums, so no change can forget them.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{State, StateError};

/// The step that adds them.
pub(super) const TABLES: &str =
    "CREATE TABLE replay (name BLOB PRIMARY KEY, contents BLOB NOT NULL, standing TEXT NOT NULL, call TEXT NOT NULL,
       origin TEXT NOT NULL, agent TEXT NOT NULL, target TEXT NOT NULL, upstream TEXT NOT NULL, by_arguments INTEGER NOT NULL,
       began INTEGER NOT NULL, lasts INTEGER NOT NULL, expires INTEGER NOT NULL, ended INTEGER, code TEXT, sealed TEXT,
       bytes INTEGER NOT NULL DEFAULT 0, voided INTEGER NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0);
     CREATE INDEX replay_call ON replay (call);
     CREATE INDEX replay_expires ON replay (expires);
     CREATE INDEX replay_loose ON replay (upstream) WHERE by_arguments = 1;
     CREATE INDEX replay_loose_of ON replay (agent, ended) WHERE by_arguments = 1;
     CREATE TABLE replay_room (agent TEXT PRIMARY KEY, calls INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
     CREATE TRIGGER replay_comes AFTER INSERT ON replay BEGIN
       INSERT OR IGNORE INTO replay_room (agent, calls, bytes) VALUES (new.agent, 0, 0), ('', 0, 0);
       UPDATE replay_room SET calls = calls + 1, bytes = bytes + new.bytes WHERE agent IN (new.agent, '');
     END;
     CREATE TRIGGER replay_grows AFTER UPDATE OF bytes ON replay BEGIN
       UPDATE replay_room SET bytes = bytes - old.bytes + new.bytes WHERE agent IN (new.agent, '');
     END;
     CREATE TRIGGER replay_goes AFTER DELETE ON replay BEGIN
       UPDATE replay_room SET calls = calls - 1, bytes = bytes - old.bytes WHERE agent IN (old.agent, '');
       DELETE FROM replay_room WHERE agent = old.agent AND calls <= 0;
     END;";

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStands {
    /// Its call is about to leave, or runs.
    Runs,
    /// Its call waits for an agent's answers.
    Asks,
    /// Its call has ended, and it is known how.
    Done,
    /// Nobody knows how its call has ended.
    Unknown,
}

impl ReplayStands {
    /// The word in the database and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Asks => "asks",
            Self::Done => "done",
            Self::Unknown => "unknown",
        }
    }

    fn of(word: &str) -> Self {
        // What no release has written may have acted.
        [Self::Runs, Self::Asks, Self::Done].into_iter().find(|stands| stands.as_str() == word).unwrap_or(Self::Unknown)
    }
}

/// A call that is about to leave.
#[derive(Clone, Copy, Debug)]
pub struct NewReplay<'a> {
    /// The hash of whose call it is, of what, and by which key.
    pub name: &'a [u8; 32],
    /// The hash of what the key stands for: definition and arguments.
    pub contents: &'a [u8; 32],
    /// The invocation.
    pub call: &'a str,
    /// The log that its process writes.
    pub origin: &'a str,
    /// Who calls.
    pub agent: &'a str,
    /// The target's name in policies.
    pub target: &'a str,
    /// The upstream's id.
    pub upstream: &'a str,
    /// Whether it is told apart by its arguments alone: another change at its upstream voids what it answers.
    pub by_arguments: bool,
    /// The invocation whose row it may take the place of.
    pub over: Option<&'a str>,
    /// In seconds since 1970.
    pub now: i64,
    /// When it must have ended, in seconds since 1970.
    pub lasts: i64,
    /// How long the row is known, in seconds since 1970.
    pub expires: i64,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReplay {
    /// The hash of whose call it is, of what, and by which key.
    pub name: Vec<u8>,
    /// The hash of what the key stands for.
    pub contents: Vec<u8>,
    /// How it stands.
    pub stands: ReplayStands,
    /// The invocation.
    pub call: String,
    /// The log that its process writes.
    pub origin: String,
    /// Who called.
    pub agent: String,
    /// The target's name in policies.
    pub target: String,
    /// When it was about to leave, in seconds since 1970.
    pub began: i64,
    /// When it must have ended, in seconds since 1970.
    pub lasts: i64,
    /// Until when the row is known, in seconds since 1970.
    pub expires: i64,
    /// When it ended, in seconds since 1970.
    pub ended: Option<i64>,
    /// The error code that it ended with, or why its result is not kept.
    pub code: Option<String>,
    /// The result, sealed.
    pub sealed: Option<String>,
    /// Whether a repeat was told that nobody knows how it ended.
    pub told: bool,
}

/// What came of a call that wants to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BegunReplay {
    /// It may.
    New,
    /// The same call, or another with its key, was there before.
    Known(Box<StoredReplay>),
    /// As many calls are known as may be.
    Full,
    /// As many of this agent are known as may be.
    FullForAgent,
}

/// How a call has ended, or goes on.
#[derive(Clone, Copy, Debug)]
pub enum ReplayEnd<'a> {
    /// Nothing was done: its key is free.
    Free,
    /// It waits for answers, and must have ended by then; with a word about how it is answered.
    Asks(i64, Option<&'a str>),
    /// Nobody knows; with the code that its agent was told, and whether a repeat need not be told again.
    Unknown(&'a str, bool),
    /// With this sealed result, or for want of one with a code or why it is not kept.
    Done(Result<&'a str, &'a str>),
}

/// Whether there was room for a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It is stored, or there is nothing to store.
    Kept,
    /// There was none: the row stands without it.
    None,
}

const COLUMNS: &str = "name, contents, standing, call, origin, agent, target, began, lasts, expires, ended, code, sealed, told";
/// What rows are of calls whose end nobody knows, at the time `?2`.
const LOST: &str = "(standing = 'unknown' OR (standing <> 'done' AND lasts <= ?2))";
/// Rows that make room at once.
const MAX_ROOM: u32 = 64;
/// Rows that are shown at once, the newest first.
const MAX_LISTED: u32 = 1_000;

impl State {
    /// The row of that name, if its time is not over.
    ///
    /// # Errors
    /// The database's.
    pub fn replay(&self, name: &[u8; 32], now: i64) -> Result<Option<StoredReplay>, StateError> {
        one(&self.database(), name, now)
    }

    /// Lets a call leave: its row is there from now on, within these bounds for all and for its agent.
    ///
    /// # Errors
    /// The database's.
    pub fn begin_replay(&self, new: &NewReplay<'_>, (all, per_agent): (u64, u64)) -> Result<BegunReplay, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.prepare_cached("DELETE FROM replay WHERE expires <= ?1")?.execute([new.now])?;
        if let Some(known) = one(&transaction, new.name, new.now)? {
            if new.over != Some(known.call.as_str()) {
                return Ok(BegunReplay::Known(Box::new(known)));
            }
            transaction.execute("DELETE FROM replay WHERE name = ?1", [new.name.as_slice()])?;
        }
        if new.by_arguments {
            void(&transaction, new.upstream)?;
        }
        make_room(&transaction, new.agent, (all, per_agent))?;
        let ((of_all, _), (of_agent, _)) = (taken(&transaction, "")?, taken(&transaction, new.agent)?);
        if of_agent >= per_agent {
            return Ok(BegunReplay::FullForAgent);
        }
        if of_all >= all {
            return Ok(BegunReplay::Full);
        }
        let sql =
            "INSERT INTO replay (name, contents, standing, call, origin, agent, target, upstream, by_arguments, began, lasts, expires)
             VALUES (?1, ?2, 'runs', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        transaction.prepare_cached(sql)?.execute(params![
            new.name,
            new.contents,
            new.call,
            new.origin,
            new.agent,
            new.target,
            new.upstream,
            new.by_arguments,
            new.now,
            new.lasts,
            new.expires
        ])?;
        transaction.commit()?;
        Ok(BegunReplay::New)
    }

    /// Notes that a call which had asked goes on with answers, and must have ended by then; whether it is there still.
    ///
    /// # Errors
    /// The database's.
    pub fn resume_replay(&self, name: &[u8; 32], call: &str, lasts: i64) -> Result<bool, StateError> {
        let sql = "UPDATE replay SET standing = 'runs', lasts = ?3, expires = max(expires, ?3) WHERE name = ?1 AND call = ?2
             AND standing IN ('asks', 'runs')";
        Ok(self.database().prepare_cached(sql)?.execute(params![name, call, lasts])? > 0)
    }

    /// Ends a call, or lets it wait for answers. A result is stored within these bounds in bytes for all and for its agent, and known until
    /// `expires`. What was voided while it ran is forgotten.
    ///
    /// # Errors
    /// The database's.
    pub fn end_replay(
        &self,
        (name, call): (&[u8; 32], &str),
        end: ReplayEnd<'_>,
        (now, expires): (i64, i64),
        (all, per_agent): (u64, u64),
    ) -> Result<Room, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let own = "name = ?1 AND call = ?2";
        let mut room = Room::Kept;
        match end {
            ReplayEnd::Free => {
                transaction.execute(&format!("DELETE FROM replay WHERE {own}"), params![name, call])?;
            }
            ReplayEnd::Asks(lasts, how) => {
                let sql = format!("UPDATE replay SET standing = 'asks', lasts = ?3, expires = max(expires, ?3), code = ?4 WHERE {own}");
                transaction.execute(&sql, params![name, call, lasts, how])?;
            }
            ReplayEnd::Unknown(code, told) => {
                let sql = format!("UPDATE replay SET standing = 'unknown', ended = ?3, code = ?4, told = ?5, expires = ?6 WHERE {own}");
                transaction.execute(&sql, params![name, call, now, code, told, expires])?;
            }
            ReplayEnd::Done(result) => {
                transaction.execute(&format!("DELETE FROM replay WHERE {own} AND voided = 1"), params![name, call])?;
                let agent: Option<String> = transaction
                    .query_row(&format!("SELECT agent FROM replay WHERE {own}"), params![name, call], |row| row.get(0))
                    .optional()?;
                let Some(agent) = agent else {
                    transaction.commit()?;
                    return Ok(Room::Kept);
                };
                let (mut sealed, code) = (result.ok(), result.err());
                let size = sealed.map_or(0, |text| text.len() as u64);
                let ((_, of_all), (_, of_agent)) = (taken(&transaction, "")?, taken(&transaction, &agent)?);
                if of_all.saturating_add(size) > all || of_agent.saturating_add(size) > per_agent {
                    (sealed, room) = (None, Room::None);
                }
                let (size, code) = if room == Room::None { (0, Some(NO_ROOM)) } else { (size, code) };
                let sql = format!(
                    "UPDATE replay SET standing = 'done', ended = ?3, code = ?4, sealed = ?5, bytes = ?6, expires = ?7 WHERE {own}"
                );
                transaction.execute(&sql, params![name, call, now, code, sealed, size, expires])?;
            }
        }
        transaction.commit()?;
        Ok(room)
    }

    /// Forgets calls whose time is over, with what is sealed of them; when the next one's will be.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_replays(&self, now: i64) -> Result<Option<i64>, StateError> {
        let database = self.database();
        database.prepare_cached("DELETE FROM replay WHERE expires <= ?1")?.execute([now])?;
        Ok(database.prepare_cached("SELECT min(expires) FROM replay")?.query_row([], |row| row.get(0))?)
    }

    /// Notes that a repeat was told that nobody knows how this call ended.
    ///
    /// # Errors
    /// The database's.
    pub fn tell_replay(&self, name: &[u8; 32], call: &str) -> Result<(), StateError> {
        self.database().execute("UPDATE replay SET told = 1 WHERE name = ?1 AND call = ?2", params![name, call])?;
        Ok(())
    }

    /// Forgets what calls of this upstream answer that are told apart by their arguments alone: something else is about to change it.
    ///
    /// # Errors
    /// The database's.
    pub fn void_replays(&self, upstream: &str) -> Result<(), StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        void(&transaction, upstream)?;
        transaction.commit()?;
        Ok(())
    }

    /// The upstreams that have calls which are told apart by their arguments alone.
    ///
    /// # Errors
    /// The database's.
    pub fn loose_replays(&self) -> Result<Vec<String>, StateError> {
        let database = self.database();
        let mut query = database.prepare("SELECT DISTINCT upstream FROM replay WHERE by_arguments = 1")?;
        let names = query.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Says of the calls of an earlier process with this log that nobody knows how they ended. Those that wait for answers cannot be answered
    /// any more where their server waited with them; all others can.
    ///
    /// # Errors
    /// The database's.
    pub fn abandon_replays(&self, origin: &str) -> Result<(), StateError> {
        self.database().execute("UPDATE replay SET standing = 'unknown' WHERE origin = ?1 AND standing = 'runs'", [origin])?;
        Ok(())
    }

    /// Says of a call that was asked something that it ended without an answer; its agent was told this code.
    ///
    /// # Errors
    /// The database's.
    pub fn lose_replay(&self, call: &str, code: &str, now: i64) -> Result<(), StateError> {
        let sql = "UPDATE replay SET standing = 'unknown', ended = ?3, code = ?2 WHERE call = ?1 AND standing IN ('asks', 'runs')";
        self.database().prepare_cached(sql)?.execute(params![call, code, now])?;
        Ok(())
    }

    /// Forgets a call whose end nobody knows, so that a repeat of it runs; the row as it was.
    ///
    /// # Errors
    /// The database's.
    pub fn release_replay(&self, call: &str, now: i64) -> Result<Option<StoredReplay>, StateError> {
        let sql = format!("DELETE FROM replay WHERE call = ?1 AND {LOST} RETURNING {COLUMNS}");
        Ok(self.database().query_row(&sql, params![call, now], read).optional()?)
    }

    /// The rows whose end nobody knows, or all; the newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn replays(&self, all: bool, now: i64) -> Result<Vec<StoredReplay>, StateError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM replay WHERE (?1 OR {LOST}) AND expires > ?2 ORDER BY began DESC, rowid DESC LIMIT {MAX_LISTED}"
        );
        let database = self.database();
        let mut query = database.prepare(&sql)?;
        let rows = query.query_map(params![all, now], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Why a result is not kept for which there is no room.
pub(super) const NO_ROOM: &str = "no_room";

fn one(database: &Connection, name: &[u8; 32], now: i64) -> Result<Option<StoredReplay>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM replay WHERE name = ?1 AND expires > ?2");
    Ok(database.prepare_cached(&sql)?.query_row(params![name, now], read).optional()?)
}

/// How many calls of an agent are known, and the bytes of their results; of all for no agent.
fn taken(database: &Connection, agent: &str) -> Result<(u64, u64), StateError> {
    let sql = "SELECT calls, bytes FROM replay_room WHERE agent = ?1";
    let found = database.prepare_cached(sql)?.query_row([agent], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or_default())
}

fn void(transaction: &Transaction<'_>, upstream: &str) -> Result<(), StateError> {
    let sql = "DELETE FROM replay WHERE upstream = ?1 AND by_arguments = 1 AND standing = 'done'";
    transaction.prepare_cached(sql)?.execute([upstream])?;
    let sql = "UPDATE replay SET voided = 1 WHERE upstream = ?1 AND by_arguments = 1 AND standing IN ('runs', 'asks')";
    transaction.prepare_cached(sql)?.execute([upstream])?;
    Ok(())
}

/// Forgets the oldest results of calls a repeat of which does no harm, where there is no place for one more call: first the agent's own.
fn make_room(transaction: &Transaction<'_>, agent: &str, (all, per_agent): (u64, u64)) -> Result<(), StateError> {
    let oldest = |of: &str| {
        format!(
            "DELETE FROM replay WHERE name IN (SELECT name FROM replay WHERE by_arguments = 1 AND {of} AND standing = 'done' ORDER BY ended LIMIT {MAX_ROOM})"
        )
    };
    if taken(transaction, agent)?.0 >= per_agent {
        transaction.execute(&oldest("agent = ?1"), [agent])?;
    }
    if taken(transaction, "")?.0 >= all {
        transaction.execute(&oldest("1 = 1"), [])?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredReplay> {
    let standing: String = row.get(2)?;
    Ok(StoredReplay {
        name: row.get(0)?,
        contents: row.get(1)?,
        stands: ReplayStands::of(&standing),
        call: row.get(3)?,
        origin: row.get(4)?,
        agent: row.get(5)?,
        target: row.get(6)?,
        began: row.get(7)?,
        lasts: row.get(8)?,
        expires: row.get(9)?,
        ended: row.get(10)?,
        code: row.get(11)?,
        sealed: row.get(12)?,
        told: row.get(13)?,
    })
}
