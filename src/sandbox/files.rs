//! Which files a process may open, and which ports it may use: Landlock.
//!
//! INVARIANT: a path that nobody wrote down is granted only as far as nothing guarded is in it; links in it are left out, since a rule would
//! stand for what they lead to.

use std::fs::read_dir;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::grants::{Grant, Source};
use super::plan::Plan;
use crate::catalog::sandbox::Network;

/// The newest access rights that are handled; older kernels handle what they know of them. With `unix_sockets` those of before local
/// sockets were among them.
const NEWEST: (ABI, ABI) = (ABI::V9, ABI::V8);
/// Paths that one plan may come to when guarded ones are cut out.
const MAX_PATHS: usize = 20_000;

/// Confines the calling thread, and what becomes of it. Returns the ABI that is in force, 0 for none.
///
/// # Errors
/// What was granted and is not there, and what the kernel says; in words.
pub(super) fn confine(plan: &Plan) -> Result<u8, String> {
    let newest = if plan.unix_sockets { NEWEST.1 } else { NEWEST.0 };
    let said = |error: landlock::RulesetError| format!("Landlock: {error}");
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))
        .and_then(|rules| rules.scope(Scope::from_all(newest)))
        .map_err(said)?;
    if plan.network != Network::Any {
        rules = rules.handle_access(AccessNet::from_all(ABI::V4)).map_err(said)?;
    }
    let mut rules = rules.create().map_err(said)?;
    for grant in &plan.grants {
        rules = add(rules, grant, &plan.guarded, newest)?;
    }
    if let Network::Ports(ports) = &plan.network {
        let connect = ports.connect.iter().map(|port| NetPort::new(*port, AccessNet::ConnectTcp));
        let bind = ports.bind.iter().map(|port| NetPort::new(*port, AccessNet::BindTcp));
        for port in connect.chain(bind) {
            rules = rules.add_rule(port).map_err(said)?;
        }
    }
    let status = rules.restrict_self().map_err(said)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => Ok(0),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u8),
    }
}

fn add(mut rules: RulesetCreated, grant: &Grant, guarded: &[PathBuf], newest: ABI) -> Result<RulesetCreated, String> {
    let unopened = |path: &Path, error: io::Error| format!("`{}` is granted, and cannot be opened: {error}", path.display());
    let is_demanded = matches!(grant.source, Source::Written | Source::Own);
    let target = grant.target();
    let paths = match grant.source {
        // It was fine when the manifest was read; since then a link may have come to lead elsewhere.
        Source::Written if guarded.iter().any(|one| one.starts_with(target) || target.starts_with(one)) => {
            return Err(format!("`{}` is granted, and leads to what no tool server may reach", grant.path.display()));
        }
        Source::Written | Source::Own => vec![target.to_owned()],
        Source::Usual | Source::Named => cut(target, guarded),
    };
    for path in paths {
        let (opened, is_folder) = match opened(&path) {
            Ok(found) => found,
            Err(error) if is_demanded => return Err(unopened(&path, error.into())),
            Err(_) => continue,
        };
        let rights = if is_folder { rights(grant.write, newest) } else { rights(grant.write, newest) & AccessFs::from_file(newest) };
        rules = rules.add_rule(PathBeneath::new(&opened, rights)).map_err(|error| format!("Landlock: {}: {error}", path.display()))?;
    }
    Ok(rules)
}

/// What stands at a path that has no links in it, and whether that is a folder. A link that has come into it meanwhile is an error: other
/// processes of the same server may still run.
fn opened(path: &Path) -> rustix::io::Result<(OwnedFd, bool)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // A kernel or container without this call (Linux 5.6) has no Landlock either (5.13), so nothing comes of what is opened.
        Err(Errno::NOSYS | Errno::PERM) => openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty())?,
        opened => opened?,
    };
    let is_folder = FileType::from_raw_mode(fstat(&opened)?.st_mode).is_dir();
    Ok((opened, is_folder))
}

/// No device can be made, whatever is granted, and no local socket where those are not.
fn rights(write: bool, newest: ABI) -> BitFlags<AccessFs> {
    let never = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::ResolveUnix;
    if write { AccessFs::from_all(newest) & !never } else { AccessFs::from_read(newest) }
}

/// What is left of a path when guarded ones are cut out: itself, some of what is in it, or nothing.
fn cut(path: &Path, guarded: &[PathBuf]) -> Vec<PathBuf> {
    let (mut kept, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(path) = open.pop() {
        if kept.len() >= MAX_PATHS || guarded.iter().any(|one| path.starts_with(one)) {
            continue;
        }
        if !guarded.iter().any(|one| one.starts_with(&path)) {
            kept.push(path);
            continue;
        }
        let inside = read_dir(&path).into_iter().flatten().flatten();
        open.extend(inside.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink())).map(|entry| entry.path()));
    }
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_guarded_is_cut_out_and_links_to_it_too() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for folder in ["a/b/var/audit", "a/b/beside", "a/c", "d"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("a/file"), "").unwrap();
        symlink(at("a/b/var"), at("a/link")).unwrap();
        let guarded = [at("a/b/var")];
        assert_eq!(cut(home.path(), &guarded), [at("a/b/beside"), at("a/c"), at("a/file"), at("d")]);
        assert_eq!(cut(&at("a/b/var/audit"), &guarded), Vec::<PathBuf>::new());
        assert_eq!(cut(&at("a/b/beside"), &guarded), [at("a/b/beside")]);
        assert_eq!(cut(&at("a/b/var"), &guarded), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_written_grant_that_has_come_to_lead_to_what_is_guarded_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("var")).unwrap();
        symlink(home.path().join("var"), home.path().join("work")).unwrap();
        let (path, guarded) = (home.path().join("work"), [home.path().join("var")]);
        let leads_to = Some(home.path().join("var"));
        let rules = || Ruleset::default().handle_access(AccessFs::from_all(NEWEST.0)).unwrap().create().unwrap();
        for (source, is_refused) in [(Source::Written, true), (Source::Named, false), (Source::Own, false)] {
            let grant = Grant { source, leads_to: leads_to.clone(), ..Grant::new(path.clone(), true) };
            assert_eq!(add(rules(), &grant, &guarded, NEWEST.0).is_err(), is_refused, "{source:?}");
        }
    }

    #[test]
    fn a_link_that_has_come_into_a_settled_path_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("secret/deep")).unwrap();
        fs::write(at("secret/file"), "").unwrap();
        symlink(at("secret"), at("link")).unwrap();
        for (path, is_folder) in
            [("secret", Some(true)), ("secret/file", Some(false)), ("link", None), ("link/deep", None), ("link/file", None)]
        {
            assert_eq!(opened(&at(path)).ok().map(|(_, is_folder)| is_folder), is_folder, "{path}");
        }
        let rules = || Ruleset::default().handle_access(AccessFs::from_all(NEWEST.0)).unwrap().create().unwrap();
        let grant = Grant { source: Source::Written, ..Grant::new(at("link/deep"), true) };
        assert!(add(rules(), &grant, &[], NEWEST.0).is_err());
    }

    #[test]
    fn no_grant_makes_devices() {
        assert!(!rights(true, NEWEST.0).intersects(AccessFs::MakeChar | AccessFs::MakeBlock));
        assert!(!rights(false, NEWEST.0).intersects(AccessFs::from_write(NEWEST.0)));
    }
}
