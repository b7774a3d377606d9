//! A patch that `patch` takes: what a file is called in it, and how a person applies it.
//!
//! `patch` refuses absolute names and such with `..`, so names are those seen from the working folder, or from the one that the policy's folder
//! stands in.

use std::path::{Path, PathBuf};

use similar::TextDiff;

/// Files of one folder, before and after.
pub struct Patch {
    /// The folder as it is named in the patch.
    shown: PathBuf,
    /// Where the patch has to be applied, if not here.
    from: Option<PathBuf>,
    /// The diffs of the files.
    text: String,
}

impl Patch {
    /// Of files in this folder, for somebody who stands in `here`.
    pub fn of(folder: &Path, here: &Path) -> Self {
        let whole = here.join(folder);
        let plain = whole.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect::<PathBuf>();
        // A link may lead elsewhere, and `..` after one too: what the system says of both is taken.
        let (whole, here) = (plain.canonicalize().unwrap_or(plain), here.canonicalize().unwrap_or(here.to_owned()));
        let (shown, from) = match (whole.strip_prefix(&here), whole.parent(), whole.file_name()) {
            (Ok(inside), ..) if !inside.as_os_str().is_empty() => (inside.to_owned(), None),
            (_, Some(parent), Some(name)) => (PathBuf::from(name), Some(parent.to_owned())),
            _ => (PathBuf::new(), Some(whole.clone())),
        };
        Self { shown, from, text: String::new() }
    }

    /// And this file of it, which had one text, or was not there, and gets another.
    pub fn add(&mut self, name: &str, before: Option<&str>, after: &str) {
        let file = self.shown.join(name).to_string_lossy().into_owned();
        // A tab ends a name with spaces in it.
        let file = if file.contains(' ') { format!("{file}\t") } else { file };
        let old = if before.is_some() { file.as_str() } else { "/dev/null" };
        self.text += &TextDiff::from_lines(before.unwrap_or_default(), after).unified_diff().header(old, &file).to_string();
    }

    /// The command that applies it, where it is in `least.patch`.
    pub fn command(&self) -> String {
        match &self.from {
            None => "patch -p0 < least.patch".to_owned(),
            Some(folder) => format!("patch -d '{}' -p0 < least.patch", folder.display().to_string().replace('\'', r"'\''")),
        }
    }

    /// The diffs; empty where nothing differs.
    pub fn text(&self) -> &str {
        &self.text
    }
}
