//! The state database: what must outlive the process and is no file that people write. SQLite, in the state folder.
//!
//! Owns: API keys that `doorward agent add` made, freezes, the protocol era each upstream was last found to speak, calls that wait for a
//! person's yes (`approvals`) and of whom it is to be told (`webhook`), what agents have met (`met`), calls whose repeats must not act again
//! (`replays`), what is spent of budgets (`budgets`), and how often tools failed (`objectives`). But for these, the last left out, it is never on the
//! request path: what a call needs is read into a snapshot.
//!
//! INVARIANT: the database has a schema version; an older one is migrated step by step, a newer one is refused.

mod approvals;
mod budgets;
mod freeze;
mod met;
mod objectives;
mod replays;
mod webhook;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

pub use self::approvals::{Begun, NewApproval, Stands, StoredApproval};
pub use self::budgets::{Kept as KeptSpending, Spending, Spent, SpentAt, SpentTarget};
pub use self::freeze::StoredFreeze;
pub use self::met::{Counting, MAX_MADE, MAX_WITHIN_S, Met, MetReader, Note, Whose};
pub use self::objectives::StoredCount;
pub use self::replays::{BegunReplay, NewReplay, ReplayEnd, ReplayStands, Room, StoredReplay};
pub use self::webhook::Owed;

/// The file in the state folder.
const DATABASE: &str = "state.db";

/// The steps from an empty database to today's; a step is never edited, only followed by another.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE key (id TEXT PRIMARY KEY, agent TEXT NOT NULL, hash BLOB NOT NULL, created TEXT NOT NULL, revoked TEXT);
     CREATE INDEX key_agent ON key (agent);
     CREATE TABLE era (upstream TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, era TEXT NOT NULL);",
    freeze::TABLE,
    "CREATE TABLE approval (id TEXT PRIMARY KEY, binding BLOB NOT NULL, standing TEXT NOT NULL, agent TEXT NOT NULL, facts TEXT NOT NULL,
       sealed TEXT, created INTEGER NOT NULL, expires INTEGER NOT NULL, ended INTEGER, ended_by TEXT, told INTEGER NOT NULL DEFAULT 0);
     CREATE INDEX approval_binding ON approval (binding);
     CREATE UNIQUE INDEX approval_open ON approval (binding) WHERE standing = 'open';
     CREATE INDEX approval_standing ON approval (standing, expires);
     CREATE TABLE approval_yes (approval TEXT NOT NULL, who TEXT NOT NULL, UNIQUE (approval, who));",
    met::TABLES,
    webhook::TABLE,
    replays::TABLES,
    budgets::TABLES,
    objectives::TABLE,
];

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder.
    #[error("the state folder {0}: {1}")]
    Folder(PathBuf, std::io::Error),
    /// The database.
    #[error("the state database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Written by a later release.
    #[error("the state database has version {found}, and this release knows up to {known}")]
    Newer {
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
}

/// One API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The public part of the key.
    pub id: String,
    /// Whose it is.
    pub agent: String,
    /// SHA-256 of the secret part.
    pub hash: [u8; 32],
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it was revoked, RFC 3339.
    pub revoked: Option<String>,
}

/// The open database.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    database: Mutex<Connection>,
}

impl State {
    /// Opens the state folder, makes it (mode 0700) where it is not, and migrates the database.
    ///
    /// # Errors
    /// [`StateError`] when the folder or the database cannot be used.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let fault = |error| StateError::Folder(folder.to_owned(), error);
        for folder in [folder.to_owned(), folder.join("keys")] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(fault)?;
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(fault)?;
        }
        let mut database = Connection::open(folder.join(DATABASE))?;
        database.busy_timeout(std::time::Duration::from_secs(5))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        // What was revoked or used up must not come back after a power loss. Writes are rare: none but approvals', those of what an agent
        // meets for the first time in a while, and those of calls with a key are on a path.
        database.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut database)?;
        Ok(Self { folder: folder.to_owned(), database: Mutex::new(database) })
    }

    /// The agents that a state folder has a key for, also a revoked one. Nothing is made where there is no such folder.
    ///
    /// # Errors
    /// The database's.
    pub fn agents(folder: &Path) -> Result<Vec<String>, StateError> {
        let file = folder.join(DATABASE);
        if !file.exists() {
            return Ok(Vec::new());
        }
        let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut query = database.prepare("SELECT DISTINCT agent FROM key ORDER BY agent")?;
        let names = query.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of keys.
    pub fn keys_folder(&self) -> PathBuf {
        self.folder.join("keys")
    }

    fn database(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Stores a new key.
    ///
    /// # Errors
    /// The database's.
    pub fn add_key(&self, key: &StoredKey) -> Result<(), StateError> {
        add(&self.database(), key)
    }

    /// Stores a new key and revokes the agent's others, or does neither.
    ///
    /// # Errors
    /// The database's.
    pub fn replace_keys(&self, key: &StoredKey) -> Result<(), StateError> {
        let mut database = self.database();
        let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        revoke(&transaction, &key.agent, &key.created)?;
        add(&transaction, key)?;
        Ok(transaction.commit()?)
    }

    /// Revokes all of an agent's keys, and says how many.
    ///
    /// # Errors
    /// The database's.
    pub fn revoke_keys(&self, agent: &str, now: &str) -> Result<usize, StateError> {
        revoke(&self.database(), agent, now)
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub fn keys(&self) -> Result<Vec<StoredKey>, StateError> {
        let database = self.database();
        let mut query = database.prepare("SELECT id, agent, hash, created, revoked FROM key ORDER BY created, id")?;
        let rows = query.query_map([], |row| {
            Ok(StoredKey { id: row.get(0)?, agent: row.get(1)?, hash: row.get(2)?, created: row.get(3)?, revoked: row.get(4)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The era that the upstream was last found to speak, if it is still reached in the same way.
    pub fn era(&self, upstream: &str, fingerprint: &str) -> Option<String> {
        let sql = "SELECT era FROM era WHERE upstream = ?1 AND fingerprint = ?2";
        self.database().query_row(sql, [upstream, fingerprint], |row| row.get(0)).optional().ok().flatten()
    }

    /// Remembers an era.
    ///
    /// # Errors
    /// The database's.
    pub fn remember_era(&self, upstream: &str, fingerprint: &str, era: &str) -> Result<(), StateError> {
        let sql = "INSERT OR REPLACE INTO era (upstream, fingerprint, era) VALUES (?1, ?2, ?3)";
        self.database().execute(sql, [upstream, fingerprint, era])?;
        Ok(())
    }
}

fn add(database: &Connection, key: &StoredKey) -> Result<(), StateError> {
    let sql = "INSERT INTO key (id, agent, hash, created) VALUES (?1, ?2, ?3, ?4)";
    database.execute(sql, params![key.id, key.agent, key.hash, key.created])?;
    Ok(())
}

fn revoke(database: &Connection, agent: &str, now: &str) -> Result<usize, StateError> {
    let sql = "UPDATE key SET revoked = ?1 WHERE agent = ?2 AND revoked IS NULL";
    Ok(database.execute(sql, params![now, agent])?)
}

fn migrate(database: &mut Connection) -> Result<(), StateError> {
    let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let found = version as usize;
    if found > MIGRATIONS.len() {
        return Err(StateError::Newer { found, known: MIGRATIONS.len() });
    }
    if found == MIGRATIONS.len() {
        return Ok(());
    }
    for step in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX))?;
    transaction.commit()?;
    Ok(())
}
