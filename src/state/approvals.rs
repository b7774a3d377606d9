//! Calls that wait for a person's yes, as rows: they outlive the process, and whoever spends one is alone with it.
//!
//! Owns: each change as one statement or one transaction, so that of two who want the same, in one process or in two, one wins. Leaves to
//! `approval`: what the facts of a call are, and whether enough people have said yes.
//! INVARIANT: a row is `open` until it is `used`, `denied` or `expired`, and never open again; its sealed arguments go with that.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};

use super::{State, StateError};

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It waits, or may be used.
    Open,
    /// A call was made with it.
    Used,
    /// A person said no.
    Denied,
    /// Nobody decided, or nobody called, in time.
    Expired,
}

impl Stands {
    /// The word in the database and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }

    fn of(word: &str) -> Self {
        // What no release has written is not open.
        [Self::Open, Self::Used, Self::Denied].into_iter().find(|stands| stands.as_str() == word).unwrap_or(Self::Expired)
    }
}

/// A call that begins to wait.
#[derive(Clone, Debug)]
pub struct NewApproval<'a> {
    /// Its name among people.
    pub id: &'a str,
    /// The hash of all that it is bound to.
    pub binding: &'a [u8; 32],
    /// Who calls.
    pub agent: &'a str,
    /// What people are shown of it beside the arguments.
    pub facts: &'a str,
    /// The arguments, sealed.
    pub sealed: &'a str,
    /// In seconds since 1970.
    pub now: i64,
    /// In seconds since 1970.
    pub expires: i64,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredApproval {
    /// Its name among people.
    pub id: String,
    /// The hash of all that it is bound to.
    pub binding: Vec<u8>,
    /// How it stands.
    pub stands: Stands,
    /// What people are shown of it beside the arguments.
    pub facts: String,
    /// The arguments, sealed; `None` once it is not open any more.
    pub sealed: Option<String>,
    /// When it began to wait, in seconds since 1970.
    pub created: i64,
    /// From when on it is too late, in seconds since 1970.
    pub expires: i64,
    /// When it ceased to be open.
    pub ended: Option<i64>,
    /// Who ended it: a person, or the invocation that used it.
    pub ended_by: Option<String>,
    /// Whether the agent was told how it ended.
    pub told: bool,
    /// Who has said yes, the first one first.
    pub yes: Vec<String>,
}

/// What came of a call that wants to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It waits from now on.
    New,
    /// The same call waits already.
    Known(Box<StoredApproval>),
    /// As many wait as may.
    Full,
    /// As many of this agent wait as may.
    FullForAgent,
}

const COLUMNS: &str = "id, binding, standing, facts, sealed, created, expires, ended, ended_by, told";
/// Rows that are shown at once, the newest first.
const MAX_LISTED: u32 = 1_000;

impl State {
    /// The newest row that is bound so.
    ///
    /// # Errors
    /// The database's.
    pub fn approval_bound(&self, binding: &[u8; 32]) -> Result<Option<StoredApproval>, StateError> {
        one(&self.database(), "binding = ?1 ORDER BY rowid DESC LIMIT 1", [binding.as_slice()])
    }

    /// The row that is bound so and that this invocation has used.
    ///
    /// # Errors
    /// The database's.
    pub fn approval_used(&self, binding: &[u8; 32], call: &str) -> Result<Option<StoredApproval>, StateError> {
        one(&self.database(), "binding = ?1 AND standing = 'used' AND ended_by = ?2", params![binding.as_slice(), call])
    }

    /// The row of that name.
    ///
    /// # Errors
    /// The database's.
    pub fn approval(&self, id: &str) -> Result<Option<StoredApproval>, StateError> {
        one(&self.database(), "id = ?1", [id])
    }

    /// The rows that are open, or all that are still known; the newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn approvals(&self, all: bool) -> Result<Vec<StoredApproval>, StateError> {
        let database = self.database();
        let which = if all { "1 = 1" } else { "standing = 'open'" };
        let mut query =
            database.prepare(&format!("SELECT {COLUMNS} FROM approval WHERE {which} ORDER BY rowid DESC LIMIT {MAX_LISTED}"))?;
        let mut rows = query.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
        for row in &mut rows {
            row.yes = said(&database, &row.id)?;
        }
        Ok(rows)
    }

    /// Lets a call wait, within these bounds for all and for its agent.
    ///
    /// # Errors
    /// The database's.
    pub fn begin_approval(&self, new: &NewApproval<'_>, (all, per_agent): (u64, u64)) -> Result<Begun, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(known) = one(&transaction, "binding = ?1 AND standing = 'open'", [new.binding.as_slice()])? {
            return Ok(Begun::Known(Box::new(known)));
        }
        let open = "SELECT count(*), coalesce(sum(agent = ?1), 0) FROM approval WHERE standing = 'open'";
        let (of_all, of_agent): (u64, u64) = transaction.query_row(open, [new.agent], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if of_agent >= per_agent {
            return Ok(Begun::FullForAgent);
        }
        if of_all >= all {
            return Ok(Begun::Full);
        }
        let sql = "INSERT INTO approval (id, binding, standing, agent, facts, sealed, created, expires) VALUES (?1, ?2, 'open', ?3, ?4, ?5, ?6, ?7)";
        transaction.execute(sql, params![new.id, new.binding, new.agent, new.facts, new.sealed, new.now, new.expires])?;
        transaction.commit()?;
        Ok(Begun::New)
    }

    /// Forgets a row that nobody has heard of yet.
    ///
    /// # Errors
    /// The database's.
    pub fn drop_approval(&self, id: &str) -> Result<(), StateError> {
        self.database().execute("DELETE FROM approval WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Notes who says yes to an open row, and until when it may be used from now on; whether it still was open.
    ///
    /// # Errors
    /// The database's.
    pub fn say_yes(&self, id: &str, who: &str, now: i64, expires: i64) -> Result<bool, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let sql = "UPDATE approval SET expires = max(expires, ?3) WHERE id = ?1 AND standing = 'open' AND expires > ?2";
        if transaction.execute(sql, params![id, now, expires])? == 0 {
            return Ok(false);
        }
        transaction.execute("INSERT OR IGNORE INTO approval_yes (approval, who) VALUES (?1, ?2)", [id, who])?;
        transaction.commit()?;
        Ok(true)
    }

    /// Ends an open row; whether it still was one. One to be used must not be too late.
    ///
    /// # Errors
    /// The database's.
    pub fn end_approval(&self, id: &str, stands: Stands, by: &str, now: i64) -> Result<bool, StateError> {
        let in_time = if stands == Stands::Used { "AND expires > ?4" } else { "" };
        let sql = format!(
            "UPDATE approval SET standing = ?2, ended_by = ?3, ended = ?4, sealed = NULL WHERE id = ?1 AND standing = 'open' {in_time}"
        );
        Ok(self.database().execute(&sql, params![id, stands.as_str(), by, now])? > 0)
    }

    /// Notes that the agent was told how the row ended.
    ///
    /// # Errors
    /// The database's.
    pub fn tell_approval(&self, id: &str) -> Result<(), StateError> {
        self.database().execute("UPDATE approval SET told = 1 WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Ends what is too late, and gives those rows. Forgets what ended before `forget`.
    ///
    /// # Errors
    /// The database's.
    pub fn expire_approvals(&self, now: i64, forget: i64) -> Result<Vec<StoredApproval>, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let expired = {
            let sql = format!(
                "UPDATE approval SET standing = 'expired', ended = ?1, sealed = NULL WHERE standing = 'open' AND expires <= ?1 RETURNING {COLUMNS}"
            );
            let mut query = transaction.prepare(&sql)?;
            let rows = query.query_map([now], read)?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        let gone = "approval IN (SELECT id FROM approval WHERE standing <> 'open' AND ended < ?1)";
        for table in ["approval_yes", "webhook"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE {gone}"), [forget])?;
        }
        transaction.execute("DELETE FROM approval WHERE standing <> 'open' AND ended < ?1", [forget])?;
        transaction.commit()?;
        Ok(expired)
    }

    /// When the next open row will be too late.
    ///
    /// # Errors
    /// The database's.
    pub fn next_expiry(&self) -> Result<Option<i64>, StateError> {
        Ok(self.database().query_row("SELECT min(expires) FROM approval WHERE standing = 'open'", [], |row| row.get(0))?)
    }
}

fn one(database: &rusqlite::Connection, which: &str, values: impl rusqlite::Params) -> Result<Option<StoredApproval>, StateError> {
    let found = database.query_row(&format!("SELECT {COLUMNS} FROM approval WHERE {which}"), values, read).optional()?;
    let Some(mut found) = found else { return Ok(None) };
    found.yes = said(database, &found.id)?;
    Ok(Some(found))
}

fn said(database: &rusqlite::Connection, id: &str) -> Result<Vec<String>, StateError> {
    let mut query = database.prepare_cached("SELECT who FROM approval_yes WHERE approval = ?1 ORDER BY rowid")?;
    let names = query.query_map([id], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredApproval> {
    let standing: String = row.get(2)?;
    Ok(StoredApproval {
        id: row.get(0)?,
        binding: row.get(1)?,
        stands: Stands::of(&standing),
        facts: row.get(3)?,
        sealed: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        ended: row.get(7)?,
        ended_by: row.get(8)?,
        told: row.get(9)?,
        yes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StoredKey;

    #[test]
    fn a_database_of_before_approvals_gets_them_and_keeps_its_keys() {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(home.path()).unwrap();
        let key = StoredKey { id: "k".into(), agent: "demo".into(), hash: [3; 32], created: "2026-11-21T00:00:00Z".into(), revoked: None };
        state.add_key(&key).unwrap();
        state
            .database()
            .execute_batch(
                "DROP TABLE objective; DROP TABLE spent; DROP TABLE spent_target; DROP TABLE spent_at; DROP TABLE replay; DROP TABLE replay_room; DROP TABLE webhook; DROP TABLE met; DROP TABLE made; DROP TABLE approval_yes; DROP TABLE approval; DROP TABLE freeze; PRAGMA user_version = 1",
            )
            .unwrap();
        drop(state);
        let state = State::open(home.path()).unwrap();
        let new = NewApproval { id: "ap-1", binding: &[1; 32], agent: "agent:demo", facts: "{}", sealed: "x", now: 1, expires: 9 };
        assert_eq!(state.begin_approval(&new, (1, 1)).unwrap(), Begun::New);
        assert_eq!((state.keys().unwrap(), state.approvals(false).unwrap().len()), (vec![key], 1));
    }
}
