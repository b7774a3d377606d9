//! Where signed checkpoints go besides the log's own disk, so that records cut off or a log written anew can be told later.
//!
//! Each anchor has a task of its own that sees only the newest checkpoint: a slow anchor skips those between, and none holds up the log
//! or a call. What fails is tried again with growing pauses, said once in the program's log, and shown in metrics. How far each anchor has come stands
//! beside the segments in `anchored.json`; retention asks it.
//!
//! Owns: delivery and its bounds. Leaves to others: making checkpoints (`writer`), and comparing anchors with the log (`verify`).

mod git;
mod put;
mod syslog;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::checkpoint::Checkpoint;
use super::note::Note;
use crate::clock::Clock;
use crate::config::Anchor;

/// How one anchor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Records that the newest checkpoint it holds covers.
    pub records: u64,
    /// When it took that, in nanoseconds since 1970; 0 for never.
    pub at: i64,
    /// Why the last attempt failed; `None` after a good one.
    #[serde(skip)]
    pub failing: Option<String>,
}

/// What every anchor of one origin holds.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    all: Arc<Mutex<BTreeMap<String, Standing>>>,
    /// Records that at least one anchor has a checkpoint for.
    anchored: Arc<watch::Sender<u64>>,
    /// Whoever writes the file: one at a time, and each what is so by then, so that no older standing is written over a newer.
    file: Arc<Mutex<()>>,
}

impl Standings {
    /// Each anchor by its name.
    pub fn all(&self) -> BTreeMap<String, Standing> {
        self.lock().clone()
    }

    /// Reads what an earlier life of the process left in `folder`; empty where nothing can be read. What is said to hold more than the log's
    /// `records` is not believed.
    pub fn read(folder: &Path, records: u64) -> Self {
        let known = std::fs::read(folder.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut known: BTreeMap<String, Standing> = known.unwrap_or_default();
        known.retain(|_, standing| standing.records <= records);
        let read = Self { all: Arc::new(Mutex::new(known)), anchored: Arc::default(), file: Arc::default() };
        read.tell(&read.lock());
        read
    }

    /// Records that at least one anchor has a checkpoint for, and whenever that grows.
    pub fn anchored(&self) -> watch::Receiver<u64> {
        self.anchored.subscribe()
    }

    /// Forgets all but these: what is no anchor any more keeps nothing that could be asked for.
    fn keep(&self, names: &[String]) {
        let mut all = self.lock();
        all.retain(|name, _| names.contains(name));
        self.tell(&all);
    }

    fn tell(&self, all: &BTreeMap<String, Standing>) {
        self.anchored.send_replace(all.values().map(|standing| standing.records).max().unwrap_or(0));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn took(&self, name: &str, records: u64, at: i64, folder: &Path) {
        {
            let mut all = self.lock();
            all.insert(name.to_owned(), Standing { records, at, failing: None });
            self.tell(&all);
        }
        let (standings, file) = (self.clone(), folder.join(FILE));
        let written = tokio::task::spawn_blocking(move || {
            let _alone = standings.file.lock().unwrap_or_else(PoisonError::into_inner);
            let text = serde_json::to_vec(&*standings.lock()).unwrap_or_default();
            replace(&file, &text)
        });
        // Lost, it is only told again: nothing but the age of what may be pruned hangs on it.
        let _ = tokio::time::timeout(PATIENCE, written).await;
    }

    /// Notes a failure; whether it is the first since the last success.
    fn failed(&self, name: &str, why: String) -> bool {
        self.lock().entry(name.to_owned()).or_default().failing.replace(why).is_none()
    }
}

/// The anchors of one log, each with its task.
#[derive(Debug, Default)]
pub struct Anchors {
    tasks: JoinSet<()>,
    last: CancellationToken,
}

/// What a task delivers, and of which log.
#[derive(Clone, Debug)]
pub struct Source {
    /// The newest durable checkpoint.
    pub newest: watch::Receiver<Option<Arc<str>>>,
    /// The folder of the origin.
    pub folder: PathBuf,
    /// What tells when a checkpoint was delivered.
    pub clock: Clock,
    /// Whether standard output is free for an anchor; else its lines go to standard error.
    pub may_print: bool,
    /// Where it is noted how they stand.
    pub standings: Standings,
}

impl Anchors {
    /// Starts a task for each anchor.
    pub fn start(anchors: &[Anchor], source: &Source) -> Self {
        let (mut tasks, last) = (JoinSet::new(), CancellationToken::new());
        let names: Vec<String> = anchors.iter().map(Anchor::to_string).collect();
        source.standings.keep(&names);
        for (to, name) in anchors.iter().zip(names) {
            tasks.spawn(Task { to: to.clone(), name, source: source.clone(), last: last.clone(), writing: None }.run());
        }
        Self { tasks, last }
    }

    /// Gives each anchor the last checkpoint, waits for that at most so long, and ends the tasks.
    pub async fn finish(mut self, patience: Duration) {
        self.last.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("an anchor did not take the last checkpoint in time");
        }
    }
}

struct Task {
    to: Anchor,
    name: String,
    source: Source,
    last: CancellationToken,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Task {
    async fn run(mut self) {
        let (mut given, mut pause): (Option<Arc<str>>, _) = (None, FIRST_PAUSE);
        loop {
            // Asked before the newest is read: what came before the end is delivered.
            let is_last = self.last.is_cancelled();
            let newest = self.source.newest.borrow_and_update().clone();
            let wait = match newest {
                Some(note) if given.as_ref() != Some(&note) => match self.deliver(&note).await {
                    Ok(()) => {
                        (given, pause) = (Some(note), FIRST_PAUSE);
                        Duration::from_secs(self.to.every_s())
                    }
                    Err(why) => {
                        if self.source.standings.failed(&self.name, why.to_string()) {
                            tracing::warn!(anchor = self.name, error = %why, "a checkpoint could not be anchored; it is tried again");
                        }
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        pause
                    }
                },
                _ => Duration::ZERO,
            };
            if is_last {
                return;
            }
            if wait.is_zero() {
                tokio::select! {
                    () = self.last.cancelled() => {}
                    changed = self.source.newest.changed() => if changed.is_err() { return },
                }
            } else {
                tokio::select! {
                    () = self.last.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }

    async fn deliver(&mut self, note: &Arc<str>) -> io::Result<()> {
        // Made by this process a moment ago: whose signature it has is no question here.
        let read = Note::parse(note).ok().and_then(|note| Checkpoint::parse(note.unchecked_text()));
        let covers = read.ok_or_else(|| io::Error::other("the checkpoint cannot be read"))?;
        let done = tokio::time::timeout(PATIENCE, self.hand_over(note, &covers)).await;
        done.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        let now = self.source.clock.unix_nanos();
        self.source.standings.took(&self.name, covers.last().unwrap_or(0), now, &self.source.folder).await;
        Ok(())
    }

    async fn hand_over(&mut self, note: &Arc<str>, covers: &Checkpoint) -> io::Result<()> {
        let (to, note) = (self.to.clone(), Arc::clone(note));
        match to {
            Anchor::File(to) => self.write(move || append(&to.path, &note)).await,
            Anchor::Stdout(_) if self.source.may_print => self.write(move || print(io::stdout().lock(), &note)).await,
            Anchor::Stdout(_) => self.write(move || print(io::stderr().lock(), &note)).await,
            Anchor::Syslog(to) => syslog::send(&to.to, &line(&note)).await,
            Anchor::Put(to) => put::put(&to, covers, &note).await,
            Anchor::Git(to) => {
                let (name, path) = (git::file(covers), to.dir.join(git::file(covers)));
                self.write(move || std::fs::write(path, &*note)).await?;
                git::commit(&to, covers, &name).await
            }
        }
    }

    /// Writes in a thread of its own. A volume or a pipe that hangs keeps that one, and not one more with each attempt.
    async fn write(&mut self, write: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "what it is written to has not answered the attempt before"));
        }
        self.writing.insert(tokio::task::spawn_blocking(write)).await.map_err(io::Error::other)?
    }
}

/// A checkpoint on one line, for what carries lines.
fn line(note: &str) -> String {
    serde_json::json!({ "checkpoint": note }).to_string()
}

fn print(mut out: impl Write, note: &str) -> io::Result<()> {
    // In one write: other lines of the process do not get between.
    out.write_all(format!("{}\n", line(note)).as_bytes())?;
    out.flush()
}

/// Notes in a file, one behind the other with an empty line between, each durable before it counts.
fn append(path: &Path, note: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{note}\n").as_bytes())?;
    file.sync_data()
}

/// Gives a file its whole new text or leaves the old one.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, file)
}

const FILE: &str = "anchored.json";
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
