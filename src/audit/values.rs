//! The keys that values are hashed under: one for each month, and all of them kept.
//!
//! `FOLDER/values-YYYY-MM.key` is the key of that month in UTC, made by whichever process first needs it; `values.key` is the one key of
//! installations that have not turned theirs yet. A value's hash names its key, so equal values show as equal for a month and no longer, and a
//! guess is found under every key of [`all`]. Whoever removes a key makes what was hashed under it unguessable for good.
//!
//! Owns: which key is in use, and its turn. Leaves to others: hashing (`redact`), and recording the turn (`trail`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::{ArcSwap, Guard};

use super::redact::ValueKey;
use crate::clock::rfc3339;
use crate::seal::{self, KEY_BYTES};

/// The key in use, and where the next ones come from.
#[derive(Debug)]
pub struct ValueKeys {
    current: ArcSwap<ValueKey>,
    /// `None` for a key that stays.
    folder: Option<PathBuf>,
    turn: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The month of the key in use, as far as it is known.
    month: String,
    /// The month whose key could not be had, once that was told.
    failed: String,
}

/// One key was followed by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turned {
    /// The id of the one that was in use.
    pub before: String,
    /// The id of the one that is.
    pub after: String,
    /// Its file.
    pub file: String,
}

impl ValueKeys {
    /// Takes the newest key of the folder, or makes the month's where there is none. [`ValueKeys::turn`] goes on from there.
    ///
    /// # Errors
    /// What the file system says, or that a file is no key.
    pub fn open(folder: &Path, unix_nanos: i64) -> io::Result<Self> {
        let newest = files(folder)?.into_iter().next_back();
        let file = newest.unwrap_or_else(|| file_of(&month_of(unix_nanos)));
        let current = ArcSwap::from_pointee(ValueKey::new(&seal::key(folder, &file)?));
        let month = file.strip_prefix("values-").and_then(|rest| rest.strip_suffix(".key")).unwrap_or_default().to_owned();
        Ok(Self { current, folder: Some(folder.to_owned()), turn: Mutex::new(Turn { month, failed: String::new() }) })
    }

    /// The key in use.
    pub fn current(&self) -> Guard<Arc<ValueKey>> {
        self.current.load()
    }

    /// Takes the key of the month that it is now, if that is another. Cheap when it is not.
    ///
    /// # Errors
    /// The month's key cannot be had: the one in use stays, and that is told once.
    pub fn turn(&self, unix_nanos: i64) -> io::Result<Option<Turned>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let month = month_of(unix_nanos);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.month == month {
            return Ok(None);
        }
        let file = file_of(&month);
        match seal::key(folder, &file) {
            Ok(key) => {
                let next = ValueKey::new(&key);
                let turned = Turned { before: self.current.load().id().to_owned(), after: next.id().to_owned(), file };
                self.current.store(Arc::new(next));
                *turn = Turn { month, failed: String::new() };
                Ok(Some(turned))
            }
            Err(_) if turn.failed == month => Ok(None),
            Err(error) => {
                turn.failed = month;
                Err(error)
            }
        }
    }
}

impl From<ValueKey> for ValueKeys {
    /// One key that stays.
    fn from(key: ValueKey) -> Self {
        Self { current: ArcSwap::from_pointee(key), folder: None, turn: Mutex::default() }
    }
}

/// Every key that was ever used and is still there, the oldest first: what a guess is hashed under. Nothing is made.
///
/// # Errors
/// The folder or a key cannot be read; a folder that is not there has no keys.
pub fn all(folder: &Path) -> io::Result<Vec<ValueKey>> {
    let read = |file: String| {
        let path = folder.join(file);
        let key = fs::read(&path)?;
        let key = <[u8; KEY_BYTES]>::try_from(key).map_err(|_| io::Error::other(format!("{} is no key", path.display())))?;
        Ok(ValueKey::new(&key))
    };
    files(folder)?.into_iter().map(read).collect()
}

/// The names of the keys in the folder, the oldest first.
fn files(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix("values").and_then(|rest| rest.strip_suffix(".key"));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            names.push(name);
        }
    }
    // The one of before there were months is the oldest.
    names.sort_by(|one, other| (one != FIRST).cmp(&(other != FIRST)).then_with(|| one.cmp(other)));
    Ok(names)
}

/// The month in UTC, as `2026-11`.
pub(super) fn month_of(unix_nanos: i64) -> String {
    rfc3339(unix_nanos).chars().take("2026-11".len()).collect()
}

fn file_of(month: &str) -> String {
    format!("values-{month}.key")
}

const FIRST: &str = "values.key";

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T10:00:00Z.
    const NOVEMBER: i64 = 1_795_255_200_000_000_000;
    const MONTH: i64 = 30 * 86_400_000_000_000;

    #[test]
    fn a_new_month_has_a_key_of_its_own_and_the_old_ones_find_what_they_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ValueKeys::open(folder.path(), NOVEMBER).unwrap();
        assert_eq!(keys.turn(NOVEMBER + 1).unwrap(), None);
        let november = keys.current().hash(b"\"alice\"");
        let turned = keys.turn(NOVEMBER + MONTH).unwrap().unwrap();
        let december = keys.current().hash(b"\"alice\"");
        assert_ne!(november, december);
        assert_eq!(turned.file, "values-2026-12.key");
        assert!(november.contains(&format!(":{}:", turned.before)) && december.contains(&format!(":{}:", turned.after)));
        let guesses: Vec<_> = all(folder.path()).unwrap().iter().map(|key| key.hash(b"\"alice\"")).collect();
        assert_eq!(guesses, [november, december]);
    }

    #[test]
    fn a_restart_goes_on_with_the_key_that_was_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let hash = |keys: &ValueKeys| keys.current().hash(b"1");
        let first = ValueKeys::open(folder.path(), NOVEMBER).unwrap();
        let second = ValueKeys::open(folder.path(), NOVEMBER + 1).unwrap();
        assert_eq!((hash(&first), second.turn(NOVEMBER).unwrap()), (hash(&second), None));
    }

    #[test]
    fn the_one_key_of_an_older_installation_is_followed_by_the_months_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let old = ValueKey::new(&seal::key(folder.path(), "values.key").unwrap());
        let keys = ValueKeys::open(folder.path(), NOVEMBER).unwrap();
        assert_eq!(keys.current().id(), old.id());
        assert_eq!(keys.turn(NOVEMBER).unwrap().unwrap().before, old.id());
        assert_eq!(all(folder.path()).unwrap()[0].id(), old.id());
    }

    #[test]
    fn without_the_months_key_the_one_in_use_stays_and_that_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ValueKeys::open(folder.path(), NOVEMBER).unwrap();
        fs::write(folder.path().join("values-2026-12.key"), "short").unwrap();
        let before = keys.current().id().to_owned();
        assert!(keys.turn(NOVEMBER + MONTH).is_err());
        assert_eq!(keys.turn(NOVEMBER + MONTH).unwrap(), None);
        assert_eq!(keys.current().id(), before);
    }
}
