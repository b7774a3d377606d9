//! What grants lead to, links followed, and which of them are not followed: those that the server itself may have put there.
//!
//! A grant is looked up anew at each start, so what stood in a folder that a server writes would else say what its next process opens.
//!
//! INVARIANT: nothing in what a server may write decides what it is granted: no link there, and no script there that names what runs it.
//! INVARIANT: what is settled has no link in its path any more, and is opened without following one (`files`): what changes after this look
//! takes a grant away at most.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::grants::{Grant, Source};

/// Links that one path may go by, as for the kernel.
const MAX_LINKS: usize = 40;

/// What is left of the grants that were wanted.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) grants: Vec<Grant>,
    /// Paths that are not granted, and why, in words.
    pub(super) withheld: Vec<String>,
}

/// A grant that is looked at.
struct Wanted {
    grant: Grant,
    /// Where it leads; `None` where nothing is.
    real: Option<PathBuf>,
    /// What decides that: the links on the way, and the files that it was taken from. Their folders have no links in them.
    by: Vec<PathBuf>,
}

impl Wanted {
    fn of(grant: Grant) -> Self {
        // To be told without `./`.
        let grant = Grant { path: grant.path.components().collect(), ..grant };
        let found = way(&grant.path).and_then(|(real, mut by)| {
            for file in &grant.taken_from {
                let (file, links) = way(file)?;
                by.extend(links);
                by.push(file);
            }
            Ok((real, by))
        });
        let (real, by) = found.map_or((None, Vec::new()), |(real, by)| (Some(real), by));
        Self { grant, real, by }
    }

    fn root(&self) -> Option<&Path> {
        self.real.as_deref().filter(|_| self.grant.write)
    }

    /// What decides it that lies in one of these, and in which.
    fn within(&self, roots: &[PathBuf]) -> Option<(PathBuf, PathBuf)> {
        let lies = |one: &PathBuf| Some((one.clone(), roots.iter().find(|root| one.starts_with(root))?.clone()));
        self.by.iter().find_map(lies)
    }
}

/// Follows the links of grants, except those in what other grants, of the same server, let it write.
///
/// # Errors
/// When somebody wrote a grant down that leads by such a link; in words.
pub(super) fn settled(wanted: Vec<Grant>) -> Result<Settled, String> {
    let (mut writes, reads): (Vec<Wanted>, Vec<Wanted>) = wanted.into_iter().map(Wanted::of).partition(|one| one.grant.write);
    let (mut settled, mut roots, mut missed) = (Settled::default(), Vec::new(), Vec::new());
    while !writes.is_empty() {
        let others: Vec<PathBuf> = writes.iter().filter_map(Wanted::root).map(Path::to_owned).collect();
        // First those that are decided already. Where each hangs on another, nobody's word goes before what was written down.
        let next = writes
            .iter()
            .position(|one| one.within(&roots).is_some() || one.within(&others).is_none())
            .or_else(|| writes.iter().position(|one| one.grant.source != Source::Written))
            .unwrap_or(0);
        let one = writes.remove(next);
        match one.within(&roots).or_else(|| one.within(&others)) {
            Some(by) => missed.push(refused(one, by)?),
            None => {
                roots.extend(one.root().map(Path::to_owned));
                settled.grants.extend(kept(one));
            }
        }
    }
    for one in reads {
        match one.within(&roots) {
            Some(by) => missed.push(refused(one, by)?),
            None => settled.grants.extend(kept(one)),
        }
    }
    // What other grants open anyway is not missed.
    let is_open = |real: &Path| settled.grants.iter().any(|grant| real.starts_with(grant.target()));
    missed.retain(|(one, _)| one.grant.source != Source::Usual || one.real.as_deref().is_some_and(|real| !is_open(real)));
    settled.withheld = missed.into_iter().map(|(_, why)| why).collect();
    settled.withheld.dedup();
    Ok(settled)
}

/// A grant that leads by what the server may have put there, and why it is none; an error where it was written down.
fn refused(one: Wanted, (by, root): (PathBuf, PathBuf)) -> Result<(Wanted, String), String> {
    let (path, real) = (one.grant.path.display(), one.real.as_deref().unwrap_or(&one.grant.path).display());
    let (by, root) = (by.display(), root.display());
    match one.grant.source {
        Source::Written => Err(format!(
            "`{path}` is granted, and leads to `{real}` by the link `{by}`, which stands in `{root}`, where the server may write: remove \
             the link, or grant what is meant by its own path"
        )),
        _ => {
            let why = format!("`{path}` leads to `{real}` by `{by}`, which stands in `{root}`, where the server may write");
            Ok((one, why))
        }
    }
}

/// The grant with where it leads. What is not there stays only where it is demanded, and is told by who opens it.
fn kept(one: Wanted) -> Option<Grant> {
    let Wanted { grant, real, by } = one;
    match real {
        Some(real) if by.is_empty() => Some(Grant { path: real, ..grant }),
        Some(real) => Some(Grant { leads_to: Some(real).filter(|real| *real != grant.path), ..grant }),
        None => Some(grant).filter(|grant| matches!(grant.source, Source::Written | Source::Own)),
    }
}

/// Where a path leads, and the links that it goes by, each with the links of its folder followed.
fn way(path: &Path) -> io::Result<(PathBuf, Vec<PathBuf>)> {
    let (mut at, mut links) = (PathBuf::from("/"), Vec::new());
    let mut rest = last_first(&std::path::absolute(path)?);
    while let Some(name) = rest.pop() {
        if name == "/" {
            at = PathBuf::from("/");
        } else if name == ".." {
            at.pop();
        } else if name != "." {
            let found = at.join(&name);
            if !found.symlink_metadata()?.is_symlink() {
                at = found;
                continue;
            }
            if links.len() == MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            rest.extend(last_first(&found.read_link()?));
            links.push(found);
        }
    }
    Ok((at, links))
}

fn last_first(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|name| name.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    struct Home(tempfile::TempDir);

    impl Home {
        fn of(folders: &[&str]) -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            folders.iter().for_each(|folder| create_dir_all(home.at(folder)).unwrap());
            home
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(path)
        }

        fn link(self, from: &str, to: &str) -> Self {
            symlink(self.at(to), self.at(from)).unwrap();
            self
        }

        fn grant(&self, path: &str, write: bool, source: Source) -> Grant {
            Grant { source, ..Grant::new(self.at(path), write) }
        }

        /// What these come to: what is opened, and how much is withheld.
        fn settled(&self, wanted: &[(&str, bool, Source)]) -> Result<(Vec<PathBuf>, usize), String> {
            let settled = settled(wanted.iter().map(|(path, write, source)| self.grant(path, *write, *source)).collect())?;
            let mut opened: Vec<PathBuf> = settled.grants.iter().map(|grant| grant.target().to_owned()).collect();
            opened.sort();
            Ok((opened, settled.withheld.len()))
        }
    }

    #[test]
    fn a_way_is_what_the_kernel_finds_and_each_link_of_it() {
        let home = Home::of(&["a/b", "c"]).link("a/link", "c").link("c/up", "a/b");
        symlink("../a/./link/../a", home.at("c/round")).unwrap();
        for path in ["a/b", "a/./b/../b", "a/link", "a/link/up", "a/link/../c/round/b", "c/up/.."] {
            assert_eq!(way(&home.at(path)).unwrap().0, home.at(path).canonicalize().unwrap(), "{path}");
        }
        assert_eq!(way(&home.at("a/link/up")).unwrap().1, [home.at("a/link"), home.at("c/up")]);
        assert!(way(&home.at("a/none")).is_err());
        let home = home.link("loop", "loop");
        assert!(way(&home.at("loop")).is_err() && way(&home.at("a/link/none")).is_err());
    }

    #[test]
    fn a_link_in_what_may_be_written_is_not_followed_whatever_the_order() {
        let home = Home::of(&["work/sub", "secret/deep", "else"]).link("work/link", "secret").link("else/far", "work/link");
        let work = ("work", true, Source::Written);
        for path in ["work/link", "work/link/deep", "else/far", "work/sub/../link"] {
            for (write, source) in [(false, Source::Named), (true, Source::Named), (false, Source::Usual)] {
                for wanted in [[work, (path, write, source)], [(path, write, source), work]] {
                    assert_eq!(home.settled(&wanted).unwrap(), (vec![home.at("work")], 1), "{wanted:?}");
                }
            }
            for write in [true, false] {
                let told = home.settled(&[(path, write, Source::Written), work]).unwrap_err();
                assert!(told.contains(&format!("the link `{}`", home.at("work/link").display())), "{told}");
                assert!(told.contains(&format!("stands in `{}`", home.at("work").display())), "{told}");
            }
        }
        assert_eq!(home.settled(&[work, ("work/sub", true, Source::Named)]).unwrap().1, 0);
        // Who writes only a file, or reads a folder, puts no link anywhere.
        assert_eq!(home.settled(&[("work", false, Source::Written), ("work/link", true, Source::Written)]).unwrap().1, 0);
    }

    #[test]
    fn a_link_elsewhere_is_followed_and_told() {
        let home = Home::of(&["real/work", "else"]).link("link", "real").link("else/far", "real/work");
        let grants = ["link/work", "else/far"].map(|path| home.grant(path, true, Source::Written));
        let settled = settled(grants.to_vec()).unwrap();
        for (grant, path) in settled.grants.iter().zip(["link/work", "else/far"]) {
            assert_eq!((&grant.path, grant.leads_to.as_ref()), (&home.at(path), Some(&home.at("real/work"))));
        }
        // What leads into a writable folder from outside of it does so by nobody's doing but the operator's.
        assert_eq!(home.settled(&[("real", true, Source::Written), ("else/far", false, Source::Named)]).unwrap().1, 0);
    }

    #[test]
    fn a_link_to_everything_takes_no_other_grant_away() {
        let home = Home::of(&["real/work"]).link("link", "real").link("real/work/all", "");
        let (work, all) = (("link/work", true, Source::Written), ("link/work/all", true, Source::Named));
        for wanted in [[work, all], [all, work]] {
            assert_eq!(home.settled(&wanted).unwrap(), (vec![home.at("real/work")], 1));
        }
    }

    #[test]
    fn grants_that_hang_on_each_other_are_refused() {
        let home = Home::of(&["a", "b"]).link("a/to", "b").link("b/to", "a");
        assert!(home.settled(&[("a/to", true, Source::Written), ("b/to", true, Source::Written)]).is_err());
        assert_eq!(home.settled(&[("a/to", true, Source::Named), ("b/to", true, Source::Named)]).unwrap().0.len(), 1);
    }

    #[test]
    fn what_a_script_names_that_may_be_written_is_not_granted() {
        let home = Home::of(&["work", "secret", "bin"]);
        for script in ["work/run", "bin/run"] {
            write(home.at(script), "").unwrap();
            let of_script = Grant { taken_from: vec![home.at(script)], ..home.grant("secret", false, Source::Usual) };
            let settled = settled(vec![of_script, home.grant("work", true, Source::Written)]).unwrap();
            assert_eq!(settled.withheld.is_empty(), script == "bin/run", "{settled:?}");
        }
    }
}
