//! The confinement of tool servers on pipes: what a server's process may open, reach and use up.
//!
//! A confined server is started by way of this binary: the gateway starts `doorward sandbox-exec PLAN -- ARGUMENTS`, which confines itself, says
//! on standard error what the kernel enforces, and becomes the server ([`enter`]). So nothing has to run between `fork` and `exec`,
//! and no `unsafe` is needed.
//!
//! Owns: what a manifest's grants come to on this machine ([`Plan`]), the kernel's rules, and what is enforced of them
//! ([`Enforced`]). Leaves to others: processes and their pipes (`upstream`), what was granted (`catalog::sandbox`).
//!
//! INVARIANT: what is said to be enforced was set in the very process that becomes the server, and without an error.
//! INVARIANT: nothing that [`Guarded`] names is in what a plan opens: a grant that holds it, or lies in it, is refused at load; what nobody wrote
//! down is cut around it.
//! INVARIANT: no link that a server may have made itself decides what it is granted (`links`).

mod calls;
mod enter;
mod files;
mod grants;
mod guard;
mod limits;
mod links;
mod plan;
mod program;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::catalog::sandbox::Level;
pub use crate::config::Guarded;
pub use enter::{VERB, available, enter};
pub use guard::{Ground, refuse};
pub use plan::{Plan, Temporary};
pub use program::resolved;

/// What is enforced of a plan in a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// How much it is together.
    pub level: Level,
    /// The ABI of Landlock that is in force; 0 where this kernel has none.
    pub landlock: u8,
    /// What the plan says and this kernel cannot enforce, in words.
    pub lacks: Vec<String>,
}

impl Enforced {
    /// What holds where nothing is confined.
    pub fn off() -> Self {
        Self { level: Level::Off, ..Self::default() }
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.level, self.landlock) {
            (Level::Off, _) => return out.write_str("off"),
            (level, 0) => write!(out, "{level} (system calls, limits; no Landlock in this kernel)")?,
            (level, abi) => write!(out, "{level} (Landlock {abi}, system calls, limits)")?,
        }
        if self.lacks.is_empty() { Ok(()) } else { write!(out, "; not enforced: {}", self.lacks.join(", ")) }
    }
}

/// What a confined process says of itself before it becomes the server: one line of JSON on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It is confined so, and becomes the server next.
    Confined(Enforced),
    /// It is not started, for this reason.
    Refused(String),
}

/// A program that was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Where it is, links followed; scripts have their interpreters behind them.
    pub programs: Vec<PathBuf>,
    /// What is enforced of its confinement.
    pub enforced: Enforced,
    /// What it was given beside what every program has, in words.
    pub granted: String,
    /// What it was not given though it was named, each with why.
    pub withheld: Vec<String>,
}
