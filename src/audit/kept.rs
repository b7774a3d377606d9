//! What records name by a hash: the policies that were in force, and the definitions of the tools that were called.
//!
//! One file for each in `kept/`, named by what it is and its SHA-256. So a record's `policy_version` or `tool_def_hash` leads to the very bytes,
//! whoever changed the policy or the lock since, and `sha256sum` tells whether they are those.
//!
//! Owns: the folder. Leaves to others: what the bytes mean.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::seal::{hex, sha256};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A policy's bundle, lines of canonical JSON; a record's `policy_version`.
    Policy,
    /// A tool's reviewed definition, canonical JSON; a record's `tool_def_hash`.
    Tool,
}

impl Sort {
    /// The name of the file with the bytes of this hash, in 64 hexadecimal digits.
    pub fn file(self, hex: &str) -> String {
        match self {
            Self::Policy => format!("policy-{hex}.jsonl"),
            Self::Tool => format!("tool-{hex}.json"),
        }
    }
}

/// The folder of what is kept, beside the origins.
#[derive(Clone, Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// The folder in that of the log; it is made with the first file.
    pub fn in_dir(audit: &Path) -> Self {
        Self(audit.join(FOLDER))
    }

    /// Keeps these bytes, unless they are there already.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, sort: Sort, bytes: &[u8]) -> io::Result<()> {
        let name = sort.file(&hex(&sha256(bytes)));
        let file = self.0.join(&name);
        if file.try_exists()? {
            return Ok(());
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let partial = self.0.join(format!("{name}.{}.partial", std::process::id()));
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        io::Write::write_all(&mut out, bytes)?;
        out.sync_all()?;
        std::fs::rename(&partial, file)
    }

    /// The bytes of this hash, as a record names it: `sha256:` and 64 digits. `None` where they are not kept, or are other bytes by now.
    pub fn find(&self, sort: Sort, hash: &str) -> Option<Vec<u8>> {
        let hash = hash.strip_prefix("sha256:").filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let bytes = std::fs::read(self.0.join(sort.file(hash))).ok()?;
        (hex(&sha256(&bytes)) == hash).then_some(bytes)
    }
}

/// No origin can have this name: origins have a `segments` folder.
const FOLDER: &str = "kept";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_by_the_hash_that_a_record_names_and_others_are_not_taken_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::in_dir(dir.path());
        kept.keep(Sort::Tool, b"{}").unwrap();
        kept.keep(Sort::Tool, b"{}").unwrap();
        let hash = format!("sha256:{}", hex(&sha256(b"{}")));
        assert_eq!(kept.find(Sort::Tool, &hash).as_deref(), Some(&b"{}"[..]));
        assert_eq!((kept.find(Sort::Policy, &hash), kept.find(Sort::Tool, "sha256:../../x")), (None, None));
        std::fs::write(dir.path().join("kept").join(Sort::Tool.file(&hash["sha256:".len()..])), "{ }").unwrap();
        assert_eq!(kept.find(Sort::Tool, &hash), None);
    }
}
