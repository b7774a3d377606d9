//! The files of the policies that were in force, kept for the way back.
//!
//! One file for each in `policies/` of the state folder, named by the version that records have in `policy_version`. It holds the texts as people
//! wrote them, comments included; what of them decides is in the version, so whoever goes back can tell whether they are those
//! ([`crate::policy::written`]).
//!
//! Owns: which files a policy is made of, what is kept of them, and how they take the place of others. Leaves to others: whether they may
//! (`cli`), and what they mean (`policy`, `limit`).
//!
//! INVARIANT: where files are being put back, nothing is loaded: all of them count, or none.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::signed::SIGNATURES;
use crate::config::{Fault, read_text};

/// The files that a policy is made of, by name, with their texts. One that is not there is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Files(BTreeMap<String, String>);

impl Files {
    /// Those in a folder, as they are now. What cannot be read is left out: whoever loads it tells of that.
    ///
    /// # Errors
    /// Files are being put back there.
    pub fn read(folder: &Path) -> Result<Self, Fault> {
        let marker = folder.join(MARKER);
        if marker.exists() {
            let help = "run `doorward policy rollback VERSION` again; until then what was in force stays in force";
            return Err(Fault::file(&marker, "a rollback is under way here, or was cut off").help(help));
        }
        let read = |name: &&str| Some(((*name).to_owned(), read_text(&folder.join(name)).ok()?));
        Ok(Self(NAMES.iter().filter_map(read).collect()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of one of them.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The same files, one of them with another text. Whoever vouched for them did not vouch for that, so the signatures go.
    #[must_use]
    pub fn with(mut self, name: &str, text: String) -> Self {
        self.0.remove(SIGNATURES);
        self.0.insert(name.to_owned(), text);
        self
    }

    /// Whether they are the same, whoever has signed them.
    pub fn say_the_same(&self, other: &Self) -> bool {
        let unsigned = |files: &Self| {
            files.0.iter().filter(|(name, _)| *name != SIGNATURES).map(|(name, text)| (name.clone(), text.clone())).collect::<Vec<_>>()
        };
        unsigned(self) == unsigned(other)
    }

    /// Writes them to a folder that has none of them.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        self.0.iter().filter(|(name, _)| NAMES.contains(&name.as_str())).try_for_each(|(name, text)| whole(&folder.join(name), text))
    }

    /// Puts them in the place of those in a folder: all of them, or, where that is cut off, what nobody loads.
    ///
    /// # Errors
    /// What the file system says; nothing in the folder is loaded until it was done again.
    pub fn restore(&self, folder: &Path) -> io::Result<()> {
        whole(&folder.join(MARKER), "")?;
        sync(folder)?;
        for name in NAMES {
            let file = folder.join(name);
            match self.0.get(name) {
                Some(text) => whole(&file, text)?,
                None => remove(&file)?,
            }
        }
        sync(folder)?;
        remove(&folder.join(MARKER))?;
        sync(folder)
    }
}

/// The folder of what is kept.
#[derive(Clone, Debug)]
pub struct Bundles(PathBuf);

/// A kept file.
#[derive(Serialize, Deserialize)]
struct Kept {
    doorward_policy_files: u8,
    version: String,
    files: Files,
}

impl Bundles {
    /// The folder in that of the state; it is made with the first file.
    pub fn in_state(state: &Path) -> Self {
        Self(state.join("policies"))
    }

    /// Keeps the files of the policy that has come into force, as the newest, and lets go of the oldest beyond [`MOST`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, version: &str, files: &Files) -> io::Result<()> {
        let Some(name) = name(version).filter(|_| !files.is_empty()) else { return Ok(()) };
        let file = self.0.join(name);
        let kept = Kept { doorward_policy_files: 1, version: version.to_owned(), files: files.clone() };
        let text = serde_json::to_string(&kept).map_err(io::Error::other)?;
        if fs::read(&file).is_ok_and(|there| there == text.as_bytes()) {
            return File::options().write(true).open(&file)?.set_modified(SystemTime::now());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        whole(&file, &text)?;
        let mut all: Vec<_> = self.all()?.into_iter().filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file))).collect();
        all.sort();
        let surplus = all.len().saturating_sub(MOST);
        all.into_iter().take(surplus).try_for_each(|(_, file)| remove(&file))
    }

    /// The versions that are kept and begin so, with their files.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn find(&self, version: &str) -> io::Result<Vec<(String, Files)>> {
        let read = |file: PathBuf| -> Option<Kept> {
            let kept: Kept = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            (kept.doorward_policy_files == 1 && file.file_name()?.to_str()? == name(&kept.version)?).then_some(kept)
        };
        let kept = self.all()?.into_iter().filter_map(read);
        Ok(kept.filter(|kept| kept.version.starts_with(version)).map(|kept| (kept.version, kept.files)).collect())
    }

    fn all(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => {
                let files = entries?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
                Ok(files.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "json")).collect())
            }
        }
    }
}

/// The name of the file of a version; none where it is no version.
fn name(version: &str) -> Option<String> {
    let hex = version.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| format!("{hex}.json"))
}

/// Makes the file anew: whole, or as it was before.
fn whole(file: &Path, text: &str) -> io::Result<()> {
    let partial = file.with_added_extension("partial");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    // A policy's file is read by whoever could read the one before.
    if let Ok(before) = fs::metadata(file) {
        out.set_permissions(before.permissions())?;
    }
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&partial, file)
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What decides, and who vouches for it. The cases in `tests/` decide nothing.
const NAMES: [&str; 4] = ["policy.csv", "conditions.yaml", "limits.yaml", SIGNATURES];
/// Stands in the folder while its files are replaced. It has an ending that the watch passes over.
const MARKER: &str = "rollback.partial";
/// How many policies are kept.
pub const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Files {
        Files(BTreeMap::from([("policy.csv".to_owned(), text.to_owned())]))
    }

    fn version(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    #[test]
    fn the_newest_are_kept_and_one_that_comes_back_into_force_is_new_again() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::in_state(dir.path());
        let aged = |number: usize| {
            let file = dir.path().join("policies").join(name(&version(number)).unwrap());
            let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            File::options().write(true).open(file).unwrap().set_modified(then).unwrap();
        };
        for number in 0..MOST {
            bundles.keep(&version(number), &files(&format!("# {number}\n"))).unwrap();
            aged(number);
        }
        bundles.keep(&version(0), &files("# 0\n")).unwrap();
        bundles.keep(&version(MOST), &files("# new\n")).unwrap();
        let is_kept = |number: usize| bundles.find(&version(number)).unwrap().len();
        assert_eq!([0, 1, 2, MOST].map(is_kept), [1, 0, 1, 1]);
    }

    #[test]
    fn files_are_put_back_as_a_whole_and_nothing_is_loaded_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("policy.csv"), "# new\n").unwrap();
        fs::write(dir.path().join("limits.yaml"), "limits: []\n").unwrap();
        files("# old\n").restore(dir.path()).unwrap();
        assert_eq!(Files::read(dir.path()).unwrap(), files("# old\n"));
        fs::write(dir.path().join(MARKER), "").unwrap();
        assert!(Files::read(dir.path()).unwrap_err().to_string().contains("rollback"));
    }
}
