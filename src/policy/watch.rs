//! Watches folders that people edit, and says when what stands in them has changed.
//!
//! Owns: when to look. Leaves to others: reading the files, and what to do (`gateway` builds another snapshot).
//! Editors and configuration systems replace files by rename and folders by symlink, so a watch on a file goes blind; here
//! each folder and its parent are watched, events only say *look*, and what counts is the hash of the contents.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::config::{Fault, read_text};

/// What to watch, and how patiently.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The folders; not what is below them.
    pub folders: Vec<PathBuf>,
    /// The endings of files that count, without the dot.
    pub endings: Vec<String>,
    /// Quiet time after an event before the files are read. Default 100 ms.
    pub debounce: Duration,
    /// A look without any event this often, for file systems that send none. Default 10 s.
    pub look_every: Duration,
}

impl Watched {
    /// These folders with the files that Doorward reads in them: `csv`, `yaml`, `conf`, `json` and `sig`.
    pub fn folders(folders: Vec<PathBuf>) -> Self {
        let endings = ["csv", "yaml", "conf", "json", "sig"].map(str::to_owned).into();
        Self { folders, endings, debounce: Duration::from_millis(100), look_every: Duration::from_secs(10) }
    }

    /// The hash of all that counts: names and contents. What cannot be read counts as absent.
    fn fingerprint(&self) -> Vec<u8> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> = entries.filter(|path| self.counts(path)).collect();
            files.sort_unstable();
            part(folder.as_os_str().as_encoded_bytes());
            for file in files {
                if let Ok(content) = read_text(&file) {
                    part(file.as_os_str().as_encoded_bytes());
                    part(content.as_bytes());
                }
            }
        }
        context.finish().as_ref().to_vec()
    }

    /// Keeps account of the files that somebody writes, and tells whether none is left: another file's end must not enforce half
    /// of one. A writer that never closes its file is not waited for longer than until the next look.
    fn all_closed(&self, event: &notify::Event, written: &mut HashSet<PathBuf>) -> bool {
        for path in event.paths.iter().filter(|path| self.counts(path) && path.parent().is_some_and(|parent| self.holds(parent))) {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => written.insert(path.clone()),
                // Somebody reads it; we do, for one.
                EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => false,
                _ => written.remove(path),
            };
        }
        written.is_empty()
    }

    fn holds(&self, folder: &Path) -> bool {
        // Events name files absolutely.
        self.folders.iter().any(|watched| std::path::absolute(watched).is_ok_and(|watched| watched == folder))
    }

    fn counts(&self, path: &Path) -> bool {
        path.extension().and_then(OsStr::to_str).is_some_and(|ending| self.endings.iter().any(|counts| counts == ending))
    }
}

/// Why a reload is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The contents differ from those seen last.
    Content,
    /// Somebody asked, with [`Watch::trigger`]; the contents may be the same.
    Asked,
}

/// Why a look is taken.
enum Due {
    Asked,
    Event,
    Look,
}

enum Signal {
    Look,
    Ask,
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    signals: mpsc::Sender<Signal>,
    changes: mpsc::Receiver<Changed>,
}

impl Watch {
    /// Begins to watch. What stands there now is the base; call inside a tokio runtime.
    ///
    /// # Errors
    /// When a folder cannot be watched, for instance because it is not there.
    pub fn start(watched: Watched) -> Result<Self, Fault> {
        // One waiting signal of each kind says all: to look again is to see everything that happened.
        let (signals, inbox) = mpsc::channel(64);
        let (sender, changes) = mpsc::channel(1);
        let events = signals.downgrade();
        let (mut written, files) = (HashSet::new(), watched.clone());
        let handler = move |event: notify::Result<notify::Event>| {
            let is_due = event.map_or(true, |event| files.all_closed(&event, &mut written) && is_finished(&event));
            if let Some(signals) = events.upgrade().filter(|_| is_due) {
                // Full means that a look is due anyway.
                let _ = signals.try_send(Signal::Look);
            }
        };
        let mut watcher =
            notify::recommended_watcher(handler).map_err(|error| Fault::file(Path::new(""), format!("no file watcher: {error}")))?;
        for folder in &watched.folders {
            attach(&mut watcher, folder).map_err(|error| Fault::file(folder, format!("cannot be watched: {error}")))?;
        }
        // Taken before the first event can be missed: a change from here on differs from it.
        let base = watched.fingerprint();
        tokio::spawn(follow(watched, watcher, inbox, sender, base));
        Ok(Self { signals, changes })
    }

    /// Waits for the next change; `None` when the watch has ended. Changes that come while nobody waits are told as one.
    pub async fn changed(&mut self) -> Option<Changed> {
        self.changes.recv().await
    }

    /// Asks for a reload whatever the contents are, as SIGHUP does.
    pub fn trigger(&self) {
        // Full means that signals are waiting already.
        let _ = self.signals.try_send(Signal::Ask);
    }

    /// A handle that can ask from elsewhere, such as a signal's task.
    pub fn asker(&self) -> Asker {
        Asker(self.signals.downgrade())
    }
}

/// Asks a [`Watch`] for a reload.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::WeakSender<Signal>);

impl Asker {
    /// See [`Watch::trigger`].
    pub fn trigger(&self) {
        if let Some(signals) = self.0.upgrade() {
            let _ = signals.try_send(Signal::Ask);
        }
    }
}

/// Whether the event says that something is whole: a writer has closed its file, or a name has changed. Reading is an event
/// too, and our own; and what a writer has open is not to be enforced half written.
fn is_finished(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(kind) => !matches!(kind, ModifyKind::Data(_)),
        // A regular file is closed later; a link or a folder is there at once.
        EventKind::Create(_) => event.paths.iter().any(|path| !path.symlink_metadata().is_ok_and(|found| found.is_file())),
        _ => true,
    }
}

/// Watches the folder, and its parent, where a rename or a new symlink replaces the folder itself.
fn attach(watcher: &mut RecommendedWatcher, folder: &Path) -> notify::Result<()> {
    let whole = std::fs::canonicalize(folder)?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    let named = if folder.is_absolute() { folder.to_owned() } else { std::env::current_dir()?.join(folder) };
    for parent in [named.parent(), whole.parent()].into_iter().flatten() {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    Ok(())
}

async fn follow(
    watched: Watched,
    mut watcher: RecommendedWatcher,
    mut inbox: mpsc::Receiver<Signal>,
    changes: mpsc::Sender<Changed>,
    base: Vec<u8>,
) {
    let watched = std::sync::Arc::new(watched);
    let (mut seen, mut unsure) = (base, None);
    loop {
        let Ok(why) = settle(&watched, &mut inbox).await else { return };
        for folder in &watched.folders {
            // A replaced folder is another inode: the old watch would see nothing more. Failing is no end: it may come back.
            let _ = watcher.unwatch(folder);
            if let Err(error) = attach(&mut watcher, folder) {
                tracing::warn!(folder = %folder.display(), %error, "a watched folder cannot be watched; looking at intervals");
            }
        }
        let reader = std::sync::Arc::clone(&watched);
        let Ok(now) = tokio::task::spawn_blocking(move || reader.fingerprint()).await else { return };
        let change = match (why, now != seen) {
            (Due::Asked, _) => Changed::Asked,
            (_, false) => continue,
            (Due::Event, true) => Changed::Content,
            // Nobody said that the writing has ended: it counts when it has not moved from one look to the next.
            (Due::Look, true) if unsure.as_ref() == Some(&now) => Changed::Content,
            (Due::Look, true) => {
                unsure = Some(now);
                continue;
            }
        };
        seen = now;
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

/// Waits for a signal or the next look, then until it is quiet; says why. An error when the watch is gone.
async fn settle(watched: &Watched, inbox: &mut mpsc::Receiver<Signal>) -> Result<Due, ()> {
    let mut due = match timeout_at(Instant::now() + watched.look_every, inbox.recv()).await {
        Ok(None) => return Err(()),
        Ok(Some(Signal::Ask)) => Due::Asked,
        Ok(Some(Signal::Look)) => Due::Event,
        Err(_) => return Ok(Due::Look),
    };
    // A file that never comes to rest must not put a reload off for ever.
    let latest = Instant::now() + watched.debounce * 10;
    loop {
        match timeout_at((Instant::now() + watched.debounce).min(latest), inbox.recv()).await {
            Ok(None) => return Err(()),
            Ok(Some(Signal::Ask)) => due = Due::Asked,
            Ok(Some(Signal::Look)) => {}
            Err(_) => return Ok(due),
        }
        if Instant::now() >= latest {
            return Ok(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    #[test]
    fn a_file_that_is_half_written_is_waited_for_whoever_reads_it_meanwhile() {
        let watched = Watched::folders(vec![PathBuf::from("/p")]);
        let mut written = HashSet::new();
        let mut after = |kind: EventKind, path: &str| watched.all_closed(&Event::new(kind).add_path(path.into()), &mut written);
        let close = |mode| EventKind::Access(AccessKind::Close(mode));
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(after(EventKind::Create(CreateKind::File), "/p/policy.csv"));
        assert!(!after(write, "/p/policy.csv"));
        for by_readers in
            [EventKind::Access(AccessKind::Open(AccessMode::Any)), EventKind::Access(AccessKind::Read), close(AccessMode::Read)]
        {
            assert!(!after(by_readers, "/p/policy.csv"), "{by_readers:?}");
        }
        assert!(!after(close(AccessMode::Write), "/p/roles.csv"), "another file's end");
        assert!(after(close(AccessMode::Write), "/p/policy.csv"));
        assert!(!after(write, "/p/policy.csv"));
        assert!(after(EventKind::Remove(RemoveKind::File), "/p/policy.csv"));
        assert!(after(write, "/p/policy.csv~") && after(write, "/p/below/policy.csv"), "files that do not count");
    }
}
