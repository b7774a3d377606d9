//! The record of each start of a tool server on pipes: which program it is, by its hash, and how it is confined.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aws_lc_rs::digest;
use tokio_util::task::TaskTracker;

use super::Shared;
use crate::audit::record::{Kind, Record};
use crate::sandbox::Started;
use crate::seal::hex;

/// What is read of a program at once, in bytes.
const READ_BYTES: usize = 256 << 10;
/// Programs whose hashes are remembered.
const MAX_KNOWN: usize = 256;

/// Which file it is, and what would have changed with its content: device, number, size, and the time of the last change, which nobody
/// can set.
type Print = (u64, u64, u64, i64, i64);

/// Hashes of programs: that of Node takes a third of a second.
static KNOWN: LazyLock<Mutex<HashMap<Print, String>>> = LazyLock::new(Mutex::default);

/// The records that are being made.
#[derive(Debug, Default)]
pub(super) struct Starts(TaskTracker);

impl Starts {
    /// Records that a process was started. The hash is made beside everything else.
    pub(super) fn note(&self, shared: &Arc<Shared>, upstream: &Arc<str>, started: &Arc<Started>) {
        let (shared, upstream, started) = (Arc::clone(shared), Arc::clone(upstream), Arc::clone(started));
        self.0.spawn_blocking(move || shared.audit.note(&record(&upstream, &started)));
    }

    /// Waits until all are made.
    pub(super) async fn finish(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

fn record(upstream: &str, started: &Started) -> Record<'static> {
    let mut programs = started.programs.iter();
    let program = programs.next().map_or(Path::new(""), PathBuf::as_path);
    let runs: Vec<String> = programs.map(|file| format!("{} sha256:{}", file.display(), hashed(file))).collect();
    let by = if runs.is_empty() { String::new() } else { format!("; run by {}", runs.join(", ")) };
    let granted = if started.granted.is_empty() { String::new() } else { format!("; {}", started.granted) };
    Record {
        upstream: Some(upstream.to_owned().into()),
        action: Some("server_start".into()),
        subject: Some(program.display().to_string().into()),
        sha256: Some(hashed(program)).filter(|hash| hash.len() == 64).map(Into::into),
        note: Some(format!("sandbox {}{granted}{by}", started.enforced).into()),
        ..Record::new(Kind::Lifecycle)
    }
}

/// The SHA-256 of a program, or why there is none.
fn hashed(file: &Path) -> String {
    let hash = || -> std::io::Result<String> {
        let mut opened = File::open(file)?;
        let print = print(&opened.metadata()?);
        if let Some(known) = known().get(&print) {
            return Ok(known.clone());
        }
        let (mut hash, mut buffer) = (digest::Context::new(&digest::SHA256), vec![0; READ_BYTES]);
        loop {
            let read = opened.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(buffer.get(..read).unwrap_or_default());
        }
        let hash = hex(hash.finish().as_ref());
        let mut known = known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(print, hash.clone());
        Ok(hash)
    };
    hash().unwrap_or_else(|error| format!("unread ({error})"))
}

fn print(found: &Metadata) -> Print {
    (found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec())
}

fn known() -> std::sync::MutexGuard<'static, HashMap<Print, String>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_changed_has_another_hash() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("program");
        std::fs::write(&file, "one").unwrap();
        let first = hashed(&file);
        assert_eq!((first.as_str(), hashed(&file)), ("7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", first.clone()));
        std::fs::write(&file, "two").unwrap();
        assert_ne!(hashed(&file), first);
        assert!(hashed(&home.path().join("none")).starts_with("unread"));
    }
}
