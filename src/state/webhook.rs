//! What people elsewhere are still to be told about calls that wait, as rows: it outlives the process, and whoever claims a message is alone with
//! it for a while.
//!
//! Owns: each change as one statement. Leaves to `approval`: what is told, and how long it is tried.
//! INVARIANT: of one call each step is told once, and none while an earlier one is owed.

use rusqlite::{Row, params};

use super::{State, StateError};

/// Messages and what came of them; `due` is when it is tried next, and NULL once it is not any more.
pub(super) const TABLE: &str =
    "CREATE TABLE webhook (number INTEGER PRIMARY KEY, approval TEXT NOT NULL, step TEXT NOT NULL, at INTEGER NOT NULL,
       due INTEGER, tries INTEGER NOT NULL DEFAULT 0, taken INTEGER, failing TEXT, UNIQUE (approval, step));
     CREATE INDEX webhook_due ON webhook (due);";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The approval that it is about.
    pub approval: String,
    /// What became of it.
    pub step: String,
    /// Since when it is owed, in seconds since 1970.
    pub at: i64,
    /// How often it was tried, this time too where it is claimed.
    pub tries: u32,
    /// When it is tried next, in seconds since 1970; `None` once it is not any more.
    pub due: Option<i64>,
    /// When it was taken, in seconds since 1970.
    pub taken: Option<i64>,
    /// Why the last attempt failed.
    pub failing: Option<String>,
}

const COLUMNS: &str = "approval, step, at, tries, due, taken, failing";
/// Whether an earlier message about the same approval is owed.
const BEHIND: &str =
    "EXISTS (SELECT 1 FROM webhook AS other WHERE other.approval = one.approval AND other.number < one.number AND other.due IS NOT NULL)";

impl State {
    /// Owes a message from now on; one that was owed before stays as it is.
    ///
    /// # Errors
    /// The database's.
    pub fn owe(&self, approval: &str, step: &str, now: i64) -> Result<(), StateError> {
        let sql = "INSERT OR IGNORE INTO webhook (approval, step, at, due) VALUES (?1, ?2, ?3, ?3)";
        self.database().execute(sql, params![approval, step, now])?;
        Ok(())
    }

    /// The oldest of the messages that are owed, where there are more than `most`: as many as there are too many.
    ///
    /// # Errors
    /// The database's.
    pub fn surplus(&self, most: u64) -> Result<Vec<Owed>, StateError> {
        let database = self.database();
        let sql = format!("SELECT {COLUMNS} FROM webhook WHERE due IS NOT NULL ORDER BY number DESC LIMIT 1000 OFFSET ?1");
        let mut query = database.prepare_cached(&sql)?;
        let rows = query.query_map([most], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The open rows of which nobody was owed this step: a process that ended too early has left them.
    ///
    /// # Errors
    /// The database's.
    pub fn unowed(&self, step: &str) -> Result<Vec<String>, StateError> {
        let sql =
            "SELECT id FROM approval WHERE standing = 'open' AND id NOT IN (SELECT approval FROM webhook WHERE step = ?1) ORDER BY rowid";
        let database = self.database();
        let mut query = database.prepare(sql)?;
        let ids = query.query_map([step], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// Takes up to so many messages that are due. Until `until` nobody else does, so that one is tried again if this process ends first.
    ///
    /// # Errors
    /// The database's.
    pub fn claim(&self, now: i64, until: i64, most: u32) -> Result<Vec<Owed>, StateError> {
        let sql = format!(
            "UPDATE webhook SET due = ?2, tries = tries + 1 WHERE number IN (
               SELECT number FROM webhook AS one WHERE due <= ?1 AND NOT {BEHIND} ORDER BY due, number LIMIT ?3) RETURNING {COLUMNS}"
        );
        let database = self.database();
        let mut query = database.prepare_cached(&sql)?;
        let rows = query.query_map(params![now, until, most], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a message was taken.
    ///
    /// # Errors
    /// The database's.
    pub fn taken(&self, owed: &Owed, now: i64) -> Result<(), StateError> {
        let sql = "UPDATE webhook SET due = NULL, taken = ?3, failing = NULL WHERE approval = ?1 AND step = ?2";
        self.database().execute(sql, params![owed.approval, owed.step, now])?;
        Ok(())
    }

    /// Notes why a message was not taken, and when it is tried next; never, for `None`.
    ///
    /// # Errors
    /// The database's.
    pub fn not_taken(&self, owed: &Owed, why: &str, due: Option<i64>) -> Result<(), StateError> {
        let sql = "UPDATE webhook SET due = ?3, failing = ?4 WHERE approval = ?1 AND step = ?2";
        self.database().execute(sql, params![owed.approval, owed.step, due, why])?;
        Ok(())
    }

    /// How many messages are owed, and when the next one is due that waits for no other.
    ///
    /// # Errors
    /// The database's.
    pub fn owed(&self) -> Result<(u64, Option<i64>), StateError> {
        let sql = format!("SELECT count(*), min(CASE WHEN {BEHIND} THEN NULL ELSE due END) FROM webhook AS one WHERE due IS NOT NULL");
        Ok(self.database().query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// What was told about an approval and what is to be, the first message first.
    ///
    /// # Errors
    /// The database's.
    pub fn messages(&self, approval: &str) -> Result<Vec<Owed>, StateError> {
        let database = self.database();
        let mut query = database.prepare_cached(&format!("SELECT {COLUMNS} FROM webhook WHERE approval = ?1 ORDER BY number"))?;
        let rows = query.query_map([approval], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Owed> {
    Ok(Owed {
        approval: row.get(0)?,
        step: row.get(1)?,
        at: row.get(2)?,
        tries: row.get(3)?,
        due: row.get(4)?,
        taken: row.get(5)?,
        failing: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_claimed_once_until_its_time_and_in_order() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (State::open(home.path()).unwrap(), State::open(home.path()).unwrap());
        let names = |claimed: Vec<Owed>| claimed.into_iter().map(|owed| format!("{} {}", owed.approval, owed.step)).collect::<Vec<_>>();
        for (approval, step, at) in
            [("ap-1", "requested", 10), ("ap-1", "approved", 11), ("ap-2", "requested", 11), ("ap-1", "requested", 12)]
        {
            one.owe(approval, step, at).unwrap();
        }
        assert_eq!((names(one.surplus(3).unwrap()), names(one.surplus(2).unwrap())), (vec![], vec!["ap-1 requested".to_owned()]));
        assert_eq!(names(other.claim(10, 40, 8).unwrap()), ["ap-1 requested"], "what comes later waits");
        assert_eq!(names(one.claim(12, 40, 8).unwrap()), ["ap-2 requested"], "the first is somebody's, and what is behind it too");
        let first = &one.messages("ap-1").unwrap()[0];
        assert_eq!((first.tries, first.due), (1, Some(40)));

        one.not_taken(first, "the server answered 500", Some(20)).unwrap();
        let again = other.claim(20, 50, 1).unwrap();
        assert_eq!((again[0].tries, again[0].failing.as_deref()), (2, Some("the server answered 500")));
        other.taken(&again[0], 21).unwrap();
        assert_eq!(names(one.claim(21, 50, 8).unwrap()), ["ap-1 approved"]);
        assert_eq!((one.owed().unwrap(), one.messages("ap-1").unwrap()[0].taken), ((2, Some(40)), Some(21)));
        assert_eq!(names(one.claim(40, 70, 8).unwrap()), ["ap-2 requested"], "whoever had it has not said what came of it");
        one.not_taken(&one.messages("ap-2").unwrap()[0], "no", None).unwrap();
        assert_eq!(one.owed().unwrap(), (1, Some(50)));
    }
}
