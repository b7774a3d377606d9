//! Where a command stands: its folder, and what it may not reach from there.
//!
//! INVARIANT: links are followed before anything is compared.

use std::path::{Path, PathBuf};

use super::grants::{self, Written};
use crate::catalog::manifest::Manifest;
use crate::catalog::transport::Transport;
use crate::config::{Config, Fault, Guarded, fault_at, read_text};

/// The folder that relative paths of commands are of, and what no command may reach.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The folder.
    pub base: PathBuf,
    guarded: Vec<Guarded>,
}

impl Ground {
    /// A folder with these, which may not exist yet.
    pub fn new(base: &Path, guarded: Vec<Guarded>) -> Self {
        let base = real(if base.as_os_str().is_empty() { Path::new(".") } else { base });
        Self { base, guarded: guarded.into_iter().map(|one| Guarded { path: real(&one.path), ..one }).collect() }
    }

    /// That of a configuration.
    pub fn of(config: &Config) -> Self {
        let folder = config.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
        Self::new(folder, config.guarded())
    }

    /// What may not be reached.
    pub(super) fn guarded(&self) -> impl Iterator<Item = &Path> {
        self.guarded.iter().map(|one| one.path.as_path())
    }

    /// What a grant of this path would open that may not be: something in it, or what it lies in.
    pub fn reaches(&self, path: &Path) -> Option<&Guarded> {
        let path = real(path);
        self.guarded.iter().find(|one| one.path.starts_with(&path) || path.starts_with(&one.path))
    }
}

/// The path with all its links followed, as far as it exists.
pub(super) fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            return rest.iter().rev().fold(found, |path, name| path.join(name));
        }
        rest.extend(ancestor.file_name());
    }
    path
}

/// The faults of manifests that grant what no tool server may reach.
pub fn refuse<'m>(folder: &Path, manifests: impl Iterator<Item = &'m Manifest>, ground: &Ground) -> Vec<Fault> {
    let mut faults = Vec::new();
    for manifest in manifests {
        let Transport::Stdio(command) = &manifest.transport else { continue };
        let file = folder.join(format!("{}.yaml", manifest.upstream));
        for Written { pointer, path } in grants::written(command, ground) {
            let Some(guarded) = ground.reaches(&path) else { continue };
            let how = if guarded.path.starts_with(real(&path)) { "holds" } else { "lies in" };
            let whole: Vec<&str> = ["transport", "stdio"].into_iter().chain(pointer.iter().map(String::as_str)).collect();
            let message = format!(
                "`{}` grants a folder that {how} {} ({}), which no tool server may reach",
                pointer.join("."),
                guarded.what,
                guarded.path.display()
            );
            let help = match pointer.first().map(String::as_str) {
                Some("args") => "name a folder of its own, or write `sandbox: { arguments: ignore }` where the word is no path",
                Some("cwd") => "give the server a folder of its own, or leave `cwd` out",
                _ => "name the folder that the server needs, and keep it out of Doorward's own",
            };
            faults.push(fault_at(&file, &read_text(&file).unwrap_or_default(), &whole, message).help(help));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_it_lies_in_it_or_leads_to_it_reaches_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir_all(at("var/audit")).unwrap();
        std::fs::create_dir_all(at("work")).unwrap();
        std::os::unix::fs::symlink(at("var"), at("link")).unwrap();
        let ground = Ground::new(home.path(), vec![Guarded::state(&at("var"))]);
        for path in ["", "var", "var/audit", "var/new/deep", "link", "link/audit", "work/../var", "../"] {
            assert!(ground.reaches(&at(path)).is_some(), "{path}");
        }
        for path in ["work", "variable", "work/new"] {
            assert!(ground.reaches(&at(path)).is_none(), "{path}");
        }
    }
}
