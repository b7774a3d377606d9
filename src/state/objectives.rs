//! The counts of error budgets, so that a restart forgives nothing. Written in batches, and off the request path.

use rusqlite::params;

use super::{State, StateError};

/// Good and failed calls of a tool by the beginning of a part of time, in seconds since 1970.
pub(super) const TABLE: &str = "CREATE TABLE objective (tool TEXT NOT NULL, window INTEGER NOT NULL, at INTEGER NOT NULL, good INTEGER NOT NULL, \
     failed INTEGER NOT NULL, PRIMARY KEY (tool, window, at)) WITHOUT ROWID;";

/// The calls of one part of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCount {
    /// Whether it is a part of the objective's window, and not a minute.
    pub is_window: bool,
    /// Its beginning, in seconds since 1970.
    pub at: i64,
    /// Calls that worked.
    pub good: u32,
    /// Calls that failed.
    pub failed: u32,
}

impl State {
    /// All counts, the oldest of each tool first.
    ///
    /// # Errors
    /// The database's.
    pub fn counts(&self) -> Result<Vec<(String, StoredCount)>, StateError> {
        let database = self.database();
        let mut query = database.prepare("SELECT tool, window, at, good, failed FROM objective ORDER BY tool, window, at")?;
        let rows = query.query_map([], |row| {
            Ok((row.get(0)?, StoredCount { is_window: row.get(1)?, at: row.get(2)?, good: row.get(3)?, failed: row.get(4)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps these counts in place of those that the tools had.
    ///
    /// # Errors
    /// The database's; nothing has changed then.
    pub fn keep_counts(&self, tools: &[(&str, Vec<StoredCount>)]) -> Result<(), StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut gone = transaction.prepare_cached("DELETE FROM objective WHERE tool = ?1")?;
            let mut kept =
                transaction.prepare_cached("INSERT INTO objective (tool, window, at, good, failed) VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (tool, counts) in tools {
                gone.execute([tool])?;
                for count in counts {
                    kept.execute(params![tool, count.is_window, count.at, count.good, count.failed])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}
