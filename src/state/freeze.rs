//! Freezes as the database keeps them: what is stopped, why, until when.

use rusqlite::{Row, params};

use super::{State, StateError};

/// What somebody has stopped for a while. What is not said covers all: a freeze of an agent alone stops whatever it calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredFreeze {
    /// Its number, from 1; 0 before it is stored.
    pub number: i64,
    /// The agent's bare name.
    pub agent: Option<String>,
    /// A target's name in the policy, or the beginning of such names with `*` behind it.
    pub tool: Option<String>,
    /// The run, as the agent says.
    pub run: Option<String>,
    /// A JSON Pointer into the arguments, and the value there as text.
    pub holds: Option<(String, String)>,
    /// Whether calls that are under way end too.
    pub ends_running: bool,
    /// Why, in the person's words.
    pub reason: String,
    /// Who made it, such as `uid:1000`.
    pub made_by: String,
    /// When it was made, RFC 3339.
    pub made: String,
    /// When it ends by itself, in seconds since 1970; none where somebody has to lift it.
    pub until: Option<i64>,
    /// When somebody lifted it, RFC 3339.
    pub lifted: Option<String>,
}

/// The step that adds them.
pub(super) const TABLE: &str = "CREATE TABLE freeze (number INTEGER PRIMARY KEY, agent TEXT, tool TEXT, run TEXT, pointer TEXT, value TEXT, \
     ends_running INTEGER NOT NULL, reason TEXT NOT NULL, made_by TEXT NOT NULL, made TEXT NOT NULL, until INTEGER, lifted TEXT);";

impl State {
    /// Stores a freeze, and says its number.
    ///
    /// # Errors
    /// The database's.
    pub fn add_freeze(&self, freeze: &StoredFreeze) -> Result<i64, StateError> {
        let database = self.database();
        let (pointer, value) = freeze.holds.as_ref().map(|(pointer, value)| (pointer, value)).unzip();
        database.execute(
            "INSERT INTO freeze (agent, tool, run, pointer, value, ends_running, reason, made_by, made, until) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                freeze.agent,
                freeze.tool,
                freeze.run,
                pointer,
                value,
                freeze.ends_running,
                freeze.reason,
                freeze.made_by,
                freeze.made,
                freeze.until
            ],
        )?;
        Ok(database.last_insert_rowid())
    }

    /// Lifts a freeze that is in force at `seconds` since 1970. Whether it was.
    ///
    /// # Errors
    /// The database's.
    pub fn lift_freeze(&self, number: i64, now: &str, seconds: i64) -> Result<bool, StateError> {
        let sql = "UPDATE freeze SET lifted = ?1 WHERE number = ?2 AND lifted IS NULL AND (until IS NULL OR until > ?3)";
        Ok(self.database().execute(sql, params![now, number, seconds])? > 0)
    }

    /// All freezes that were ever made, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub fn freezes(&self) -> Result<Vec<StoredFreeze>, StateError> {
        let database = self.database();
        let mut query = database.prepare(
            "SELECT number, agent, tool, run, pointer, value, ends_running, reason, made_by, made, until, lifted FROM freeze ORDER BY number",
        )?;
        let rows = query.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A number that is another one after each change that another process has made.
    ///
    /// # Errors
    /// The database's.
    pub fn version_of_others(&self) -> Result<i64, StateError> {
        Ok(self.database().query_row("PRAGMA data_version", [], |row| row.get(0))?)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredFreeze> {
    let pointer: Option<String> = row.get(4)?;
    let value: Option<String> = row.get(5)?;
    Ok(StoredFreeze {
        number: row.get(0)?,
        agent: row.get(1)?,
        tool: row.get(2)?,
        run: row.get(3)?,
        holds: pointer.zip(value),
        ends_running: row.get(6)?,
        reason: row.get(7)?,
        made_by: row.get(8)?,
        made: row.get(9)?,
        until: row.get(10)?,
        lifted: row.get(11)?,
    })
}
