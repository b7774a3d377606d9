//! A tool server's process: its environment, its group and its end.
//!
//! Leaves to others: what goes through its pipes (`stdio`, `words`), how it is confined (`sandbox`), what it uses up (`usage`).
//! INVARIANT: no shell, no variable that the manifest does not name beside [`INHERITED`].
//! INVARIANT: a server that is to be confined gets no byte before the process has said how it is.
//! INVARIANT: when a [`Process`] is dropped, for whatever reason, its whole group is killed. Only when Doorward itself is
//! killed can a group outlive it; its servers then read the end of their input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::usage;
use super::words::{Secrets, printable};
use crate::catalog::transport::{Command, Variable};
use crate::sandbox::{self, Enforced, Ground, Plan, Started, Temporary, Word};

/// Variables that every server gets.
pub(super) const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// How long a server may take to end by itself once its input is closed, and again after SIGTERM. Both together are less than
/// the four seconds after which clients of ours kill us, and so leave our servers behind.
const GRACE: Duration = Duration::from_millis(1_500);
/// The same when we have been told to end.
const HURRIED: Duration = Duration::from_millis(300);
/// Longest word of a process about its own confinement, in bytes.
const MAX_WORD: u64 = 64 * 1024;

/// A running server.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
    /// Removed once the process has ended.
    _temporary: Option<Temporary>,
}

/// Its pipes.
pub(super) type Pipes = (ChildStdin, ChildStdout, BufReader<ChildStderr>);

/// A process that was started, and what is known of it.
pub(super) struct Begun {
    pub(super) process: Process,
    pub(super) pipes: Pipes,
    pub(super) started: Started,
    /// What must not stand in a log.
    pub(super) secrets: Secrets,
    /// Most memory in MiB, and most processes and threads, that it may use.
    pub(super) bounds: Option<(u64, u64)>,
}

impl Process {
    /// Starts the command, confined as its manifest says.
    ///
    /// # Errors
    /// When a variable is missing, the program cannot be started, or the least confinement cannot be had; the text is for the operator.
    pub(super) async fn start(command: &Command, ground: &Ground, way_in: &Path) -> Result<Begun, String> {
        let cannot = |error: io::Error| format!("`{}` cannot be started: {error}", command.command);
        let mut environment = environment(command).map_err(cannot)?;
        let secrets = Secrets::of(command, &environment);
        let plan = Plan::of(command, ground, &environment).map_err(cannot)?;
        let (programs, granted) = plan.as_ref().map(|plan| (plan.programs(&environment), plan.granted())).unzip();
        let withheld = plan.as_ref().map(|plan| plan.withheld().to_owned()).unwrap_or_default();
        let temporary = plan.as_ref().map(|_| Temporary::make()).transpose().map_err(cannot)?;
        if let Some(temporary) = &temporary {
            environment.insert("TMPDIR".to_owned(), temporary.path().into());
        }
        let plan = plan.zip(temporary.as_ref()).map(|(plan, temporary)| plan.with_own(temporary.path()));
        let mut child = match &plan {
            Some(plan) => confined(way_in, plan).map_err(cannot)?,
            None => tokio::process::Command::new(program(&command.command, &ground.base).map_err(cannot)?),
        };
        let mut child = child
            // `self` is Doorward's own binary as its demo server.
            .args((command.command == "self").then_some("demo-server"))
            .args(&command.args)
            .env_clear()
            .envs(&environment)
            .current_dir(command.cwd.as_ref().map_or_else(|| ground.base.clone(), |cwd| ground.base.join(cwd)))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(format!("`{}` has no pipes", command.command));
        };
        let process = Self { child, group, _temporary: temporary };
        let mut stderr = BufReader::new(stderr);
        let enforced = match &plan {
            Some(_) => heard(&mut stderr).await.map_err(|reason| format!("`{}` is not started: {reason}", command.command))?,
            None => Enforced::off(),
        };
        let started = Started {
            programs: programs.unwrap_or_else(|| unconfined(command, ground, &environment)),
            enforced,
            granted: granted.unwrap_or_default(),
            withheld,
        };
        Ok(Begun { process, pipes: (stdin, stdout, stderr), started, secrets, bounds: plan.as_ref().map(Plan::bounds) })
    }

    /// The number of the process, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
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

    /// Ends the group at once, and whoever has left it: it has used up more than it may.
    pub(super) async fn kill(mut self) {
        self.end_family();
        let _ = self.child.wait().await;
    }

    /// Kills the group, and what the server has started beside it. The group first: in it nobody is born meanwhile.
    fn end_family(&self) {
        let family = self.child.id().map(usage::family).unwrap_or_default();
        self.group.signal(Signal::KILL);
        for process in family.into_iter().filter_map(|process| Pid::from_raw(i32::try_from(process).ok()?)) {
            let _ = kill_process(process, Signal::KILL);
        }
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

/// This binary as the way into a confinement: what comes behind goes to the server.
fn confined(way_in: &Path, plan: &Plan) -> io::Result<tokio::process::Command> {
    let plan = serde_json::to_string(plan).map_err(io::Error::other)?;
    let mut command = tokio::process::Command::new(way_in);
    command.arg0("doorward").args([sandbox::VERB, &plan]);
    Ok(command)
}

/// What a process says of its confinement, before it becomes the server.
async fn heard(stderr: &mut BufReader<ChildStderr>) -> Result<Enforced, String> {
    let mut line = Vec::new();
    let read = stderr.take(MAX_WORD).read_until(b'\n', &mut line).await;
    match (read, serde_json::from_slice(&line)) {
        (Ok(_), Ok(Word::Confined(enforced))) => Ok(enforced),
        (Ok(_), Ok(Word::Refused(reason))) => Err(reason),
        (Err(error), _) => Err(format!("it cannot be heard how it is confined: {error}")),
        (Ok(_), Err(_)) => Err(format!("it does not say how it is confined, but `{}`", printable(line.get(..200).unwrap_or(&line)))),
    }
}

/// The program of a command that is not confined, for the record.
fn unconfined(command: &Command, ground: &Ground, environment: &BTreeMap<String, OsString>) -> Vec<PathBuf> {
    let path = environment.get("PATH").map(OsString::as_os_str);
    let found = match command.command.as_str() {
        "self" => std::env::current_exe().ok(),
        name => sandbox::resolved(name, &ground.base, path),
    };
    found.into_iter().map(|file| file.canonicalize().unwrap_or(file)).collect()
}

fn environment(command: &Command) -> io::Result<BTreeMap<String, OsString>> {
    let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    let mut all: BTreeMap<String, OsString> = inherited.collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_has_only_what_the_manifest_names() {
        let command: Command = serde_json::from_str(r#"{"command":"x","env":{"A":"b","CARGO_MANIFEST_DIR":"inherit"}}"#).unwrap();
        let names: Vec<String> = environment(&command).unwrap().into_keys().collect();
        assert!(names.iter().all(|name| INHERITED.contains(&name.as_str()) || name == "A" || name == "CARGO_MANIFEST_DIR"), "{names:?}");
        let missing: Command = serde_json::from_str(r#"{"command":"x","env":{"A":{"from_env":"DOORWARD_NO_SUCH"}}}"#).unwrap();
        assert!(environment(&missing).is_err());
    }
}
