//! What a command is granted: what its manifest says, what its arguments name, and what every program needs.
//!
//! Leaves to others: whether a grant is refused (`guard`), how it is enforced (`files`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::guard::{self, Ground};
use super::program;
use crate::catalog::sandbox::{Arguments, Sandbox};
use crate::catalog::transport::Command;

/// One path that a process may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// As it was named, and without links where it leads nowhere else.
    pub(super) path: PathBuf,
    /// Where links in it lead, once that is settled.
    pub(super) leads_to: Option<PathBuf>,
    /// Files that said so, such as a script its interpreter.
    #[serde(skip)]
    pub(super) taken_from: Vec<PathBuf>,
    /// Whether it may be changed too.
    pub(super) write: bool,
    pub(super) source: Source,
}

/// Why a path is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// Every program needs it. It may be missing, and what is guarded is cut out of it.
    Usual,
    /// An argument names it, or it is where the command runs; likewise.
    Named,
    /// Somebody wrote it down: it has to be there, and what reaches something guarded by now is not started.
    Written,
    /// Doorward made it for this very process: it is granted whole.
    Own,
}

/// A path that a manifest grants in so many words, and where it does.
pub(super) struct Written {
    pub(super) pointer: Vec<String>,
    pub(super) path: PathBuf,
}

/// What programs read of the machine: their libraries, the certificates and names of the network, time zones, and what the kernel tells. Of
/// `/etc` only what holds no secret.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/machine-info",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Of the home folder: where package runners keep programs, and what git is told. No credentials.
const OF_HOME: &[&str] = &[
    ".npm",
    ".nvm/versions",
    ".volta",
    ".bun",
    ".deno",
    ".pyenv",
    ".asdf",
    ".rustup/toolchains",
    ".cargo/bin",
    ".local/bin",
    ".local/lib",
    ".local/pipx",
    ".local/share/uv",
    ".local/share/pnpm",
    ".local/share/fnm",
    ".local/share/mise",
    ".cache/uv",
    ".cache/pip",
    ".cache/deno",
    ".cache/pnpm",
    ".cache/node",
    ".gitconfig",
    ".config/git/config",
    ".config/git/ignore",
    ".config/git/attributes",
];

/// What is written to by every program, and belongs to nobody.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What Doorward's own demo server reads: its libraries, and what the kernel tells.
const OF_DEMO: &[&str] =
    &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime", "/proc", "/sys/fs/cgroup"];

impl Grant {
    /// One that every program has.
    pub(super) fn new(path: PathBuf, write: bool) -> Self {
        Self { path, leads_to: None, taken_from: Vec::new(), write, source: Source::Usual }
    }

    fn usual(path: impl Into<PathBuf>, write: bool) -> Self {
        Self::new(path.into(), write)
    }

    fn named(path: PathBuf, write: bool) -> Self {
        Self { source: Source::Named, ..Self::new(path, write) }
    }

    pub(super) fn own(path: PathBuf) -> Self {
        Self { source: Source::Own, ..Self::new(path, true) }
    }

    /// What is opened.
    pub(super) fn target(&self) -> &Path {
        self.leads_to.as_deref().unwrap_or(&self.path)
    }
}

/// The home folder that the process is told.
fn home(environment: &BTreeMap<String, OsString>) -> Option<&Path> {
    environment.get("HOME").map(Path::new).filter(|home| home.is_absolute())
}

/// Doorward's own home folder, which is what manifests mean: that of a process may be named by its manifest too.
fn here() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

/// A path of a manifest.
fn expanded(path: &Path, base: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => base.join(path),
    }
}

/// The paths that arguments name: the place of the argument, and the path, which exists. Values of `--name=PATH` count too.
fn named(command: &Command, cwd: &Path) -> Vec<(usize, PathBuf)> {
    let value = |word: &str| match word.starts_with('-') {
        true => word.split_once('=').map(|(_, value)| value.to_owned()),
        false => Some(word.to_owned()),
    };
    let words = command.args.iter().enumerate().filter_map(|(at, word)| Some((at, value(word)?)));
    words.filter(|(_, word)| !word.is_empty()).map(|(at, word)| (at, cwd.join(word))).filter(|(_, path)| path.exists()).collect()
}

fn grants_arguments(command: &Command) -> bool {
    command.command != "self" && command.sandbox.grants().is_some_and(|grants| grants.arguments == Arguments::Grant)
}

/// Where the command runs.
pub(super) fn cwd(command: &Command, base: &Path) -> PathBuf {
    command.cwd.as_ref().map_or_else(|| base.to_owned(), |cwd| base.join(cwd))
}

/// The folders of the demo server, which it makes itself.
pub(super) fn of_demo(command: &Command, cwd: &Path) -> Vec<PathBuf> {
    let after = |flag: &str, usual: &str| {
        let joined = command.args.iter().find_map(|word| word.strip_prefix(flag)?.strip_prefix('='));
        let next = command.args.iter().position(|word| word == flag).and_then(|at| command.args.get(at + 1));
        cwd.join(joined.or(next.map(String::as_str)).unwrap_or(usual))
    };
    vec![after("--folder", "var/notes"), after("--outbox", "var/outbox")]
}

/// Every grant of a manifest's own words.
pub(super) fn written(command: &Command, ground: &Ground) -> Vec<Written> {
    let Sandbox::Confined(grants) = &command.sandbox else { return Vec::new() };
    let here = here();
    let lists = [("read", &grants.read), ("write", &grants.write)];
    let mut all: Vec<Written> = lists
        .into_iter()
        .flat_map(|(list, paths)| paths.iter().enumerate().map(move |(at, path)| (list, at, path)))
        .map(|(list, at, path)| Written {
            pointer: vec!["sandbox".to_owned(), list.to_owned(), at.to_string()],
            path: expanded(path, &ground.base, here.as_deref()),
        })
        .collect();
    let cwd = cwd(command, &ground.base);
    if command.cwd.is_some() {
        all.push(Written { pointer: vec!["cwd".to_owned()], path: cwd.clone() });
    }
    if grants_arguments(command) {
        let folders = named(command, &cwd).into_iter().filter(|(_, path)| path.is_dir());
        all.extend(folders.map(|(at, path)| Written { pointer: vec!["args".to_owned(), at.to_string()], path }));
    }
    all
}

/// Everything that a command is granted, with the program that it means, in this environment.
pub(super) fn all(command: &Command, program: &Path, ground: &Ground, environment: &BTreeMap<String, OsString>) -> Vec<Grant> {
    let Sandbox::Confined(grants) = &command.sandbox else { return Vec::new() };
    let (home, cwd) = (home(environment), cwd(command, &ground.base));
    let mut all: Vec<Grant> = DEVICES.iter().map(|device| Grant::usual(*device, true)).collect();
    if command.command == "self" {
        all.extend(OF_DEMO.iter().map(|path| Grant::usual(*path, false)));
        all.push(Grant::usual(program, false));
        // They may not be there before the process makes them.
        all.extend(of_demo(command, &cwd).into_iter().map(|folder| Grant::own(guard::real(&folder))));
    } else {
        all.extend(SYSTEM.iter().map(|path| Grant::usual(*path, false)));
        all.extend(home.into_iter().flat_map(|home| OF_HOME.iter().map(|name| Grant::usual(home.join(name), false))));
        let path = environment.get("PATH").map(OsString::as_os_str);
        let mut taken_from = Vec::new();
        for file in program::chain(program, &cwd, path) {
            let real = file.canonicalize().unwrap_or_else(|_| file.clone());
            let around = |file: &Path, taken_from: &[PathBuf]| {
                let grant = |folder| Grant { taken_from: taken_from.to_owned(), ..Grant::usual(folder, false) };
                program::surroundings(file, home).into_iter().map(grant).collect::<Vec<_>>()
            };
            all.extend(around(&file, &taken_from));
            // Where it really is hangs on the file itself, which may be a link, and so does what it says of its interpreter.
            taken_from.push(file);
            all.extend(around(&real, &taken_from));
        }
    }
    if grants_arguments(command) {
        for (_, path) in named(command, &cwd) {
            if path.is_dir() {
                all.push(Grant::named(path, true));
            } else {
                all.extend(program::surroundings(&path, home).into_iter().map(|folder| Grant::usual(folder, false)));
                all.push(Grant::named(path, false));
            }
        }
    }
    if command.cwd.is_some() {
        all.push(Grant::named(cwd, false));
    }
    let here = here();
    let written = |path: &PathBuf, write| {
        let path = expanded(path, &ground.base, here.as_deref());
        Grant { source: Source::Written, ..Grant::new(path, write) }
    };
    all.extend(grants.read.iter().map(|path| written(path, false)));
    all.extend(grants.write.iter().map(|path| written(path, true)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_the_home_folder_where_there_is_one() {
        let path = |text: &str, home: Option<&str>| expanded(Path::new(text), Path::new("/base"), home.map(Path::new));
        assert_eq!(path("~/notes", Some("/home/a")), Path::new("/home/a/notes"));
        assert_eq!(path("~", Some("/home/a")), Path::new("/home/a"));
        assert_eq!(path("~b/notes", Some("/home/a")), Path::new("/base/~b/notes"));
        assert_eq!(path("~/notes", None), Path::new("/base/~/notes"));
        assert_eq!(path("notes", Some("/home/a")), Path::new("/base/notes"));
        assert_eq!(path("/srv/notes", Some("/home/a")), Path::new("/srv/notes"));
    }
}
