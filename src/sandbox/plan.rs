//! A confinement, made ready for the process that it is for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::grants::{self, Grant, Source};
use super::guard::Ground;
use super::links::{self, Settled};
use super::program;
use crate::catalog::sandbox::{Level, Network};
use crate::catalog::transport::Command;

/// What a process confines itself to, and which program it then becomes. It travels as JSON, as an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The program, as it was found: links are not followed, since programs may look at the name they are called by.
    pub(super) program: PathBuf,
    pub(super) grants: Vec<Grant>,
    /// What is not granted though it was named, and why.
    #[serde(skip)]
    pub(super) withheld: Vec<String>,
    /// What is cut out of grants that nobody wrote down.
    pub(super) guarded: Vec<PathBuf>,
    /// Folders that are made before anything is confined.
    pub(super) made: Vec<PathBuf>,
    pub(super) network: Network,
    pub(super) unix_sockets: bool,
    pub(super) memory_mb: u64,
    pub(super) files: u64,
    pub(super) processes: u64,
    pub(super) cpu_s: u64,
    pub(super) minimum: Level,
}

impl Plan {
    /// The plan for a command in this environment; `None` where the manifest says `sandbox: none`.
    ///
    /// # Errors
    /// When there is no such program, or a grant that was written down leads by a link that the server may have made.
    pub fn of(command: &Command, ground: &Ground, environment: &BTreeMap<String, OsString>) -> io::Result<Option<Self>> {
        let Some(granted) = command.sandbox.grants() else { return Ok(None) };
        let program = program_of(command, ground, environment)?;
        let cwd = grants::cwd(command, &ground.base);
        let Settled { grants, withheld } = links::settled(grants::all(command, &program, ground, environment)).map_err(io::Error::other)?;
        Ok(Some(Self {
            grants,
            withheld,
            program,
            guarded: ground.guarded().map(Path::to_owned).collect(),
            made: if command.command == "self" { grants::of_demo(command, &cwd) } else { Vec::new() },
            network: granted.network.clone(),
            unix_sockets: granted.unix_sockets,
            memory_mb: granted.memory_mb.value(),
            files: granted.files.value(),
            processes: granted.processes.value(),
            cpu_s: granted.cpu_s.value(),
            minimum: granted.minimum,
        }))
    }

    /// What is enforced of a plan that opens nothing, to see what a kernel can do.
    pub(super) fn closed() -> Self {
        Self {
            program: PathBuf::new(),
            grants: Vec::new(),
            withheld: Vec::new(),
            guarded: Vec::new(),
            made: Vec::new(),
            network: Network::None,
            unix_sockets: false,
            memory_mb: 0,
            files: 0,
            processes: 0,
            cpu_s: 0,
            minimum: Level::Off,
        }
    }

    /// Adds a folder that is the process's own.
    #[must_use]
    pub fn with_own(mut self, folder: &Path) -> Self {
        self.grants.push(Grant::own(folder.to_owned()));
        self
    }

    /// Most memory of all its processes, in MiB, and most of its processes and threads.
    pub fn bounds(&self) -> (u64, u64) {
        (self.memory_mb, self.processes)
    }

    /// The program and what runs it, links followed.
    pub fn programs(&self, environment: &BTreeMap<String, OsString>) -> Vec<PathBuf> {
        let path = environment.get("PATH").map(OsString::as_os_str);
        let chain = program::chain(&self.program, Path::new("/"), path);
        chain.into_iter().map(|file| file.canonicalize().unwrap_or(file)).collect()
    }

    /// What is not granted though an argument or a program names it: each path, and why.
    pub fn withheld(&self) -> &[String] {
        &self.withheld
    }

    /// What is granted beside what every program has, in words: where links lead elsewhere, with what they lead to.
    pub fn granted(&self) -> String {
        let told = |grant: &Grant| match &grant.leads_to {
            Some(real) => format!("{} -> {}", grant.path.display(), real.display()),
            None => grant.path.display().to_string(),
        };
        let list = |write: bool| {
            let of = self.grants.iter().filter(|grant| grant.write == write && grant.source != Source::Usual);
            of.map(told).collect::<Vec<_>>().join(" ")
        };
        let said = |what: &str, list: String| if list.is_empty() { String::new() } else { format!("; {what} {list}") };
        let (reads, writes, not) = (list(false), list(true), self.withheld.join(", "));
        format!("network {}{}{}{}", self.network, said("reads", reads), said("writes", writes), said("not granted:", not))
    }
}

/// The program that a command means.
fn program_of(command: &Command, ground: &Ground, environment: &BTreeMap<String, OsString>) -> io::Result<PathBuf> {
    if command.command == "self" {
        return std::env::current_exe();
    }
    let path = environment.get("PATH").map(OsString::as_os_str);
    let found = program::resolved(&command.command, &ground.base, path);
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such program"))
}

/// A folder for the temporary files of one process, removed with this value.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes one that nobody else may enter, among the temporary files of the machine.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make() -> io::Result<Self> {
        // Without links: whoever may write where it is made cannot lead its grant elsewhere.
        let folder = std::env::temp_dir().canonicalize()?.join(format!("doorward-{}", uuid::Uuid::now_v7().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, folder = %self.0.display(), "temporary files of a tool server stay");
        }
    }
}
