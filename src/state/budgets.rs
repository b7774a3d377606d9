//! What is spent of budgets, as the database keeps it: written in batches off the request path, read at the start.
//!
//! INVARIANT: amounts are added, never set: processes of one state folder that spend of the same budget spend together.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::{State, StateError};

/// The step that adds them.
pub(super) const TABLES: &str =
    "CREATE TABLE spent (budget TEXT NOT NULL, key TEXT NOT NULL, slice INTEGER NOT NULL, calls INTEGER NOT NULL,
       cost INTEGER NOT NULL, result_bytes INTEGER NOT NULL, took_us INTEGER NOT NULL, PRIMARY KEY (budget, key, slice)) WITHOUT ROWID;
     CREATE TABLE spent_target (budget TEXT NOT NULL, key TEXT NOT NULL, target TEXT NOT NULL, slice INTEGER NOT NULL,
       PRIMARY KEY (budget, key, target)) WITHOUT ROWID;
     CREATE TABLE spent_at (one INTEGER PRIMARY KEY CHECK (one = 1), at_ms INTEGER NOT NULL, unix_nanos INTEGER NOT NULL,
       boot_micros INTEGER NOT NULL, boot_id TEXT);";

/// What is spent within one part of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The budget.
    pub budget: String,
    /// Whose it is.
    pub key: String,
    /// The part, by its number.
    pub slice: u64,
    /// Calls, cost units, bytes of results and microseconds.
    pub sums: [i64; 4],
}

/// A target that was called, and in which part of the window last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpentTarget {
    /// The budget.
    pub budget: String,
    /// Whose it is.
    pub key: String,
    /// The target's name in policies.
    pub target: String,
    /// The part, by its number.
    pub slice: u64,
}

/// When budgets were stored last, by every clock there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpentAt {
    /// By their own time.
    pub at_ms: u64,
    /// By the wall clock.
    pub unix_nanos: i64,
    /// Since boot.
    pub boot_micros: u64,
    /// Since which boot.
    pub boot_id: Option<String>,
}

/// What is stored at once.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    /// What has been spent since the last time.
    pub sums: Vec<Spent>,
    /// The targets that were called since.
    pub targets: Vec<SpentTarget>,
    /// Each budget, with the first part that counts still.
    pub oldest: Vec<(String, u64)>,
    /// When.
    pub at: SpentAt,
}

/// What is stored.
pub type Kept = (Vec<Spent>, Vec<SpentTarget>);

impl State {
    /// All that is spent, and when it was stored.
    ///
    /// # Errors
    /// The database's.
    pub fn spent(&self) -> Result<(Kept, Option<SpentAt>), StateError> {
        let database = self.database();
        let mut query = database.prepare("SELECT budget, key, slice, calls, cost, result_bytes, took_us FROM spent")?;
        let sums = query.query_map([], row)?.collect::<Result<_, _>>()?;
        let mut query = database.prepare("SELECT budget, key, target, slice FROM spent_target")?;
        let targets = query.query_map([], target)?.collect::<Result<_, _>>()?;
        let sql = "SELECT at_ms, unix_nanos, boot_micros, boot_id FROM spent_at";
        let at = database.query_row(sql, [], |row| {
            Ok(SpentAt { at_ms: row.get(0)?, unix_nanos: row.get(1)?, boot_micros: row.get(2)?, boot_id: row.get(3)? })
        });
        Ok(((sums, targets), at.optional()?))
    }

    /// Adds what was spent, forgets what does not count any more, and gives all that is spent of the same budgets under the same keys.
    ///
    /// # Errors
    /// The database's: nothing is stored then.
    pub fn spend(&self, spending: &Spending) -> Result<Kept, StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        add(&transaction, spending)?;
        for (budget, oldest) in &spending.oldest {
            transaction.execute("DELETE FROM spent WHERE budget = ?1 AND slice < ?2", params![budget, oldest])?;
            transaction.execute("DELETE FROM spent_target WHERE budget = ?1 AND slice < ?2", params![budget, oldest])?;
        }
        let SpentAt { at_ms, unix_nanos, boot_micros, boot_id } = &spending.at;
        let sql = "INSERT OR REPLACE INTO spent_at (one, at_ms, unix_nanos, boot_micros, boot_id) VALUES (1, ?1, ?2, ?3, ?4)";
        transaction.execute(sql, params![at_ms, unix_nanos, boot_micros, boot_id])?;
        let kept = kept(&transaction, spending)?;
        transaction.commit()?;
        Ok(kept)
    }

    /// Forgets what was spent of budgets that are none any more.
    ///
    /// # Errors
    /// The database's.
    pub fn forget_spent(&self, budgets: &[String]) -> Result<(), StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for budget in budgets {
            transaction.execute("DELETE FROM spent WHERE budget = ?1", [budget])?;
            transaction.execute("DELETE FROM spent_target WHERE budget = ?1", [budget])?;
        }
        Ok(transaction.commit()?)
    }
}

fn add(transaction: &Transaction<'_>, spending: &Spending) -> Result<(), StateError> {
    let sql = "INSERT INTO spent (budget, key, slice, calls, cost, result_bytes, took_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (budget, key, slice) DO UPDATE SET calls = calls + excluded.calls, cost = cost + excluded.cost,
        result_bytes = result_bytes + excluded.result_bytes, took_us = took_us + excluded.took_us";
    let mut adding = transaction.prepare_cached(sql)?;
    for Spent { budget, key, slice, sums: [calls, cost, bytes, took] } in &spending.sums {
        adding.execute(params![budget, key, slice, calls, cost, bytes, took])?;
    }
    let sql = "INSERT INTO spent_target (budget, key, target, slice) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (budget, key, target) DO UPDATE SET slice = max(slice, excluded.slice)";
    let mut adding = transaction.prepare_cached(sql)?;
    for SpentTarget { budget, key, target, slice } in &spending.targets {
        adding.execute(params![budget, key, target, slice])?;
    }
    Ok(())
}

fn kept(transaction: &Transaction<'_>, spending: &Spending) -> Result<Kept, StateError> {
    let mut keys: Vec<(&str, &str)> = spending.sums.iter().map(|row| (row.budget.as_str(), row.key.as_str())).collect();
    keys.sort_unstable();
    keys.dedup();
    let (mut sums, mut targets) = (Vec::new(), Vec::new());
    let sql = "SELECT budget, key, slice, calls, cost, result_bytes, took_us FROM spent WHERE budget = ?1 AND key = ?2";
    let mut summing = transaction.prepare_cached(sql)?;
    let mut naming = transaction.prepare_cached("SELECT budget, key, target, slice FROM spent_target WHERE budget = ?1 AND key = ?2")?;
    for (budget, key) in keys {
        for found in summing.query_map([budget, key], row)? {
            sums.push(found?);
        }
        for found in naming.query_map([budget, key], target)? {
            targets.push(found?);
        }
    }
    Ok((sums, targets))
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Spent> {
    let sums = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
    Ok(Spent { budget: row.get(0)?, key: row.get(1)?, slice: row.get(2)?, sums })
}

fn target(row: &rusqlite::Row<'_>) -> rusqlite::Result<SpentTarget> {
    Ok(SpentTarget { budget: row.get(0)?, key: row.get(1)?, target: row.get(2)?, slice: row.get(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(slice: u64, sums: [i64; 4]) -> Spent {
        Spent { budget: "B".to_owned(), key: "agent:a".to_owned(), slice, sums }
    }

    fn spending(sums: Vec<Spent>, oldest: u64) -> Spending {
        Spending { sums, oldest: vec![("B".to_owned(), oldest)], ..Spending::default() }
    }

    #[test]
    fn two_processes_spend_together_and_the_old_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (State::open(home.path()).unwrap(), State::open(home.path()).unwrap());
        one.spend(&spending(vec![spent(7, [2, 4, 0, 0])], 0)).unwrap();
        let (sums, _) = other.spend(&spending(vec![spent(7, [1, 1, 50, 9]), spent(8, [1, 0, 0, 0])], 0)).unwrap();
        assert_eq!(sums, [spent(7, [3, 5, 50, 9]), spent(8, [1, 0, 0, 0])]);
        let (sums, _) = one.spend(&spending(vec![spent(8, [-1, 0, 0, 0])], 8)).unwrap();
        assert_eq!(sums, [spent(8, [0, 0, 0, 0])]);
        one.forget_spent(&["B".to_owned()]).unwrap();
        assert_eq!(one.spent().unwrap().0, (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_target_is_kept_with_the_last_part_in_which_it_was_called() {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(home.path()).unwrap();
        let called = |slice| SpentTarget { budget: "B".to_owned(), key: "agent:a".to_owned(), target: "up__x".to_owned(), slice };
        let at = SpentAt { at_ms: 5, unix_nanos: 6, boot_micros: 7, boot_id: Some("b".to_owned()) };
        for slice in [3, 9, 4] {
            let spending = Spending { targets: vec![called(slice)], at: at.clone(), ..spending(vec![spent(slice, [1, 0, 0, 0])], 0) };
            state.spend(&spending).unwrap();
        }
        let ((sums, targets), when) = state.spent().unwrap();
        assert_eq!((sums.len(), targets, when), (3, vec![called(9)], Some(at)));
    }
}
