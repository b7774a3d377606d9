//! Checkpoints as commits: whoever has fetched the repository holds every one that was made before.
//!
//! The repository's own hooks do not run: they would run with the gateway's rights, and hold it up.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::Checkpoint;
use crate::config::GitAnchor;

/// The file in which the newest checkpoint of an origin stands.
pub(super) fn file(covers: &Checkpoint) -> String {
    format!("{}.note", covers.name.replace('/', "-"))
}

/// Commits that file alone, and pushes where a remote is named.
///
/// # Errors
/// What `git` said. A commit that could not be pushed goes with the next push.
pub(super) async fn commit(to: &GitAnchor, covers: &Checkpoint, name: &str) -> io::Result<()> {
    git(&to.dir, &["add", "--", name]).await?;
    // Nothing to commit after a push that failed: then only the push is left.
    if git(&to.dir, &["diff", "--cached", "--quiet", "--", name]).await.is_err() {
        let message = format!("{} {}", covers.name, covers.last().unwrap_or(0));
        git(&to.dir, &["commit", "--quiet", "--no-gpg-sign", "--message", &message, "--", name]).await?;
    }
    match &to.push {
        Some(remote) => git(&to.dir, &["push", "--quiet", remote, "HEAD"]).await,
        None => Ok(()),
    }
}

async fn git(dir: &Path, words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=doorward", "-c", "user.email=doorward@localhost", "-c", "core.hooksPath=/dev/null"]);
    // Nobody is there to be asked for a password.
    command.args(words).env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn()?;
    let _ends_with_us = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let done = child.wait_with_output().await?;
    if done.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&done.stderr).trim().chars().take(MAX_SAID).collect();
    Err(io::Error::other(format!("git {}: {}", words.first().unwrap_or(&""), if said.is_empty() { done.status.to_string() } else { said })))
}

/// All processes of one `git`, which end when nobody waits for them any more: also what it has started, and what a remote on this machine has.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // On this `git` takes its locks away; where all had ended, it reaches nobody.
        if kill_process_group(group, Signal::TERM).is_err() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(MERCY).await;
                let _gone_by_now = kill_process_group(group, Signal::KILL);
            });
        }
    }
}

/// For a `git` that was told to end.
const MERCY: Duration = Duration::from_secs(2);
const MAX_SAID: usize = 300;
