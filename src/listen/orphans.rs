//! Processes that a tool server left behind: they become the gateway's own children, so that the admin socket still knows
//! where they came from, and none stays a zombie.
//!
//! A process that forks twice and lets its parent end is adopted by the nearest subreaper above it; without this that would
//! be the first process of the machine, and the way back to the gateway would be lost.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// Ended children that nobody has waited for, as of the last look.
#[derive(Debug, Default)]
pub struct Orphans(HashSet<i32>);

impl Orphans {
    /// Makes this process the one that orphans below it come to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt() -> std::io::Result<Self> {
        set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self::default())
    }

    /// Takes leave of orphans that have ended. Children that the gateway started are waited for by their starter at once, so
    /// what is still a zombie at the second look is nobody's.
    pub fn reap(&mut self) {
        let zombies: HashSet<i32> = children().into_iter().filter(|pid| is_zombie(*pid)).collect();
        for pid in zombies.intersection(&self.0).filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        self.0 = zombies;
    }

    /// Ends what is left when all tool servers have been stopped, and waits for it. Left alone, it would be nobody's child after
    /// a restart, and the admin socket would take it for a person.
    pub fn end(self) {
        // What one of them leaves behind comes to us in turn; the bound is for one that leaves more than we can end.
        for _ in 0..MAX_ROUNDS {
            let left: Vec<Pid> = children().into_iter().filter_map(Pid::from_raw).collect();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
        tracing::warn!("processes that tool servers left behind are still there");
    }
}

/// Generations of processes that are ended at a stop.
const MAX_ROUNDS: usize = 1_000;

fn children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}
