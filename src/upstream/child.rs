//! A tool server's process: its environment, its group, its end, and what it writes to standard error.
//!
//! Leaves to others: what goes through its pipes (`stdio`).
//! INVARIANT: no shell, no variable that the manifest does not name beside [`INHERITED`].
//! INVARIANT: when a [`Process`] is dropped, for whatever reason, its whole group is killed. Only when Doorward itself is
//! killed can a group outlive it; its servers then read the end of their input.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::catalog::transport::{Command, Variable};

/// Variables that every server gets.
pub(super) const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// How long a server may take to end by itself once its input is closed, and again after SIGTERM. Both together are less than
/// the four seconds after which clients of ours kill us, and so leave our servers behind.
const GRACE: Duration = Duration::from_millis(1_500);
/// The same when we have been told to end.
const HURRIED: Duration = Duration::from_millis(300);
/// Longest line of standard error in the log, in bytes; the rest of it is left out.
const MAX_LOG_LINE: usize = 4096;
/// Lines of standard error in the log per second; the rest is counted.
const MAX_LOG_RATE: u32 = 20;

/// A running server.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
}

/// Its pipes.
pub(super) type Pipes = (ChildStdin, ChildStdout, ChildStderr);

impl Process {
    /// Starts the command; relative paths are resolved against `base`.
    ///
    /// # Errors
    /// When a variable is missing, or the program cannot be started.
    pub(super) fn start(command: &Command, base: &Path) -> io::Result<(Self, Pipes)> {
        let base = std::path::absolute(if base.as_os_str().is_empty() { Path::new(".") } else { base })?;
        let mut child = tokio::process::Command::new(program(&command.command, &base)?)
            // `self` is Doorward's own binary as its demo server.
            .args((command.command == "self").then_some("demo-server"))
            .args(&command.args)
            .env_clear()
            .envs(environment(command)?)
            .current_dir(command.cwd.as_ref().map_or_else(|| base.clone(), |cwd| base.join(cwd)))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((Self { child, group }, (stdin, stdout, stderr))),
            _ => Err(io::Error::other("the process has no pipes")),
        }
    }

    /// Waits until the server itself has ended; its group may live on.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends the group: its input is closed already; time to end, SIGTERM, time, SIGKILL.
    pub(super) async fn end(mut self, hurry: &CancellationToken) {
        if !self.ends_soon(hurry).await {
            self.group.signal(Signal::TERM);
            if !self.ends_soon(hurry).await {
                tracing::warn!("a tool server ignores SIGTERM and is killed");
            }
        }
        // What the server itself started may still run, so the group is killed in any case.
        self.group.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }

    async fn ends_soon(&mut self, hurry: &CancellationToken) -> bool {
        let hurried = async {
            hurry.cancelled().await;
            sleep(HURRIED).await;
        };
        tokio::select! {
            _ = self.child.wait() => true,
            () = sleep(GRACE) => false,
            () = hurried => false,
        }
    }
}

/// A process group that ends with this value.
// The group's number stays taken while a member lives. When none does, the signal finds nobody: the number could only be
// given out again after the system has gone once through all of them.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn program(name: &str, base: &Path) -> io::Result<PathBuf> {
    match name {
        "self" => std::env::current_exe(),
        path if path.contains('/') => Ok(base.join(path)),
        name => Ok(PathBuf::from(name)),
    }
}

fn environment(command: &Command) -> io::Result<Vec<(String, OsString)>> {
    let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    let mut all: Vec<(String, OsString)> = inherited.collect();
    for (name, variable) in &command.env {
        let value = match variable {
            Variable::Literal(text) => Some(OsString::from(text)),
            Variable::Inherit(_) => std::env::var_os(name),
            Variable::FromEnv(from) => Some(variable_of_ours(&from.from_env)?),
        };
        all.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(all)
}

/// The value of a variable that a manifest says is set.
pub(super) fn variable_of_ours(name: &str) -> io::Result<OsString> {
    std::env::var_os(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the environment variable `{name}` is not set")))
}

/// Puts standard error into the log, line by line, until it ends.
pub(super) async fn log(upstream: Arc<str>, stderr: ChildStderr) {
    let mut reader = BufReader::with_capacity(MAX_LOG_LINE, stderr);
    let (mut line, mut cut) = (Vec::new(), false);
    let mut rate = Rate { since: Instant::now(), lines: 0 };
    loop {
        let Ok(chunk) = reader.fill_buf().await else { return };
        if chunk.is_empty() {
            return;
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let text = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        let room = MAX_LOG_LINE.saturating_sub(line.len());
        line.extend(text.iter().take(room));
        cut |= text.len() > room;
        let taken = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(taken);
        if end.is_some() {
            rate.line(&upstream, &line, cut);
            line.clear();
            cut = false;
        }
    }
}

struct Rate {
    since: Instant,
    lines: u32,
}

impl Rate {
    fn line(&mut self, upstream: &str, line: &[u8], cut: bool) {
        if self.since.elapsed() >= Duration::from_secs(1) {
            let left_out = self.lines.saturating_sub(MAX_LOG_RATE);
            if left_out > 0 {
                tracing::warn!(upstream, left_out, "lines of a tool server's standard error are left out");
            }
            *self = Self { since: Instant::now(), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= MAX_LOG_RATE {
            tracing::info!(upstream, cut, stderr = %printable(line));
        }
    }
}

/// Text of a stranger with every control character escaped: it must not steer a terminal or forge a line of the log.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().flat_map(|char| if char.is_control() { char.escape_default().collect::<Vec<_>>() } else { vec![char] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_log() {
        assert_eq!(printable(b"a\x1b[2Jb\r\x00\xffc"), "a\\u{1b}[2Jb\\r\\u{0}\u{fffd}c");
    }

    #[test]
    fn an_environment_has_only_what_the_manifest_names() {
        let command: Command = serde_json::from_str(r#"{"command":"x","env":{"A":"b","CARGO_MANIFEST_DIR":"inherit"}}"#).unwrap();
        let names: Vec<String> = environment(&command).unwrap().into_iter().map(|(name, _)| name).collect();
        assert!(names.iter().all(|name| INHERITED.contains(&name.as_str()) || name == "A" || name == "CARGO_MANIFEST_DIR"), "{names:?}");
        let missing: Command = serde_json::from_str(r#"{"command":"x","env":{"A":{"from_env":"DOORWARD_NO_SUCH"}}}"#).unwrap();
        assert!(environment(&missing).is_err());
    }
}
