//! Where the log's checkpoints go besides its own disk.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bound, FromEnv};
use crate::fetch;

/// A place that keeps checkpoints of the audit log, so that a log that was cut or written anew can be told by what stands there.
///
/// The best place is one that whoever can write to the log's disk cannot change.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Anchor {
    /// A file on another volume; checkpoints are appended.
    File(FileAnchor),
    /// The system's log, or that of another machine.
    Syslog(SyslogAnchor),
    /// A line of standard output, for a collector; of standard error where standard output carries MCP.
    Stdout(StdoutAnchor),
    /// `PUT URL/NAME/ORIGIN/RECORDS` with `If-None-Match: *`, as object stores with a retention lock take it.
    Put(PutAnchor),
    /// A commit in a git repository.
    Git(GitAnchor),
}

/// A file on another volume.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileAnchor {
    /// The file; it is made where it is not yet, its folder is not.
    pub path: PathBuf,
    /// Shortest time between two checkpoints, in seconds: 1 to 86400, default 10.
    #[serde(default)]
    pub every_s: Every,
}

/// The system's log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyslogAnchor {
    /// The path of a local socket, or `HOST:PORT` for RFC 5424 over UDP. Default `/dev/log`.
    #[serde(default = "dev_log")]
    pub to: String,
    /// Shortest time between two checkpoints, in seconds: 1 to 86400, default 10.
    #[serde(default)]
    pub every_s: Every,
}

fn dev_log() -> String {
    "/dev/log".to_owned()
}

/// Lines of standard output.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdoutAnchor {
    /// Shortest time between two checkpoints, in seconds: 1 to 86400, default 10.
    pub every_s: Every,
}

/// An HTTP server that keeps what is put there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAnchor {
    /// The address that names are appended to; https, or http on this machine.
    pub url: String,
    /// The environment variable that holds a bearer token for it.
    #[serde(default)]
    pub bearer: Option<FromEnv>,
    /// Shortest time between two checkpoints, in seconds: 1 to 86400, default 10.
    #[serde(default)]
    pub every_s: Every,
}

/// A git repository.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitAnchor {
    /// The repository's folder, with a work tree that nobody else works in.
    pub dir: PathBuf,
    /// The remote that each commit is pushed to. Without one nothing leaves this machine.
    #[serde(default)]
    pub push: Option<String>,
    /// Shortest time between two commits, in seconds: 1 to 86400, default 300.
    #[serde(default)]
    pub every_s: Bound<300, 1, 86_400>,
}

/// Seconds between two checkpoints that an anchor is given.
pub type Every = Bound<10, 1, 86_400>;

impl Anchor {
    /// Shortest time between two checkpoints, in seconds.
    pub fn every_s(&self) -> u64 {
        match self {
            Self::File(FileAnchor { every_s, .. })
            | Self::Syslog(SyslogAnchor { every_s, .. })
            | Self::Stdout(StdoutAnchor { every_s })
            | Self::Put(PutAnchor { every_s, .. }) => every_s.value(),
            Self::Git(GitAnchor { every_s, .. }) => every_s.value(),
        }
    }

    /// Says what can be seen to be wrong without trying it.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Put(PutAnchor { url, .. }) => fetch::parse(url).map(drop),
            Self::Syslog(SyslogAnchor { to, .. }) if !to.starts_with('/') && !to.contains(':') => {
                Err(format!("`{}` is neither the path of a socket nor HOST:PORT", to.escape_default()))
            }
            Self::File(_) | Self::Syslog(_) | Self::Stdout(_) | Self::Git(_) => Ok(()),
        }
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        match self {
            Self::File(FileAnchor { path, .. }) | Self::Git(GitAnchor { dir: path, .. }) => *path = folder.join(&*path),
            Self::Syslog(_) | Self::Stdout(_) | Self::Put(_) => {}
        }
    }
}

/// The name in logs and metrics: what it is, and where.
impl fmt::Display for Anchor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(FileAnchor { path, .. }) => write!(out, "file {}", path.display()),
            Self::Syslog(SyslogAnchor { to, .. }) => write!(out, "syslog {to}"),
            Self::Stdout(_) => out.write_str("stdout"),
            Self::Put(PutAnchor { url, .. }) => write!(out, "put {url}"),
            Self::Git(GitAnchor { dir, .. }) => write!(out, "git {}", dir.display()),
        }
    }
}
