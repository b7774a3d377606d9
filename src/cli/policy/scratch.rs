//! A folder in that of the state, for files that are only to be loaded.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A folder that goes with its value.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one, readable by its owner alone. One that a process of this number left behind goes first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make(state: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = state.join(format!("policies.{}.partial", std::process::id()));
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_for_the_next = std::fs::remove_dir_all(&self.0);
    }
}
