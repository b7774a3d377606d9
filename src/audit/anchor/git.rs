//! Checkpoints as commits: whoever has fetched the repository holds every one that was made before.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::Checkpoint;
use crate::config::GitAnchor;

/// Writes the newest checkpoint of an origin to its file, commits it alone, and pushes where a remote is named.
///
/// # Errors
/// The file's, or what `git` said. A commit that could not be pushed goes with the next push.
pub(super) async fn commit(to: &GitAnchor, covers: &Checkpoint, note: &str) -> io::Result<()> {
    let name = format!("{}.note", covers.name.replace('/', "-"));
    tokio::fs::write(to.dir.join(&name), note).await?;
    git(&to.dir, &["add", "--", &name]).await?;
    // Nothing to commit after a push that failed: then only the push is left.
    if git(&to.dir, &["diff", "--cached", "--quiet", "--", &name]).await.is_err() {
        let message = format!("{} {}", covers.name, covers.last().unwrap_or(0));
        git(&to.dir, &["commit", "--quiet", "--no-gpg-sign", "--message", &message, "--", &name]).await?;
    }
    match &to.push {
        Some(remote) => git(&to.dir, &["push", "--quiet", remote, "HEAD"]).await,
        None => Ok(()),
    }
}

async fn git(dir: &Path, words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=doorward", "-c", "user.email=doorward@localhost"]).args(words);
    // Nobody is there to be asked for a password.
    command.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = command.output().await?;
    if done.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&done.stderr).trim().chars().take(MAX_SAID).collect();
    Err(io::Error::other(format!("git {}: {}", words.first().unwrap_or(&""), if said.is_empty() { done.status.to_string() } else { said })))
}

const MAX_SAID: usize = 300;
