//! Processes that a tool server left behind: they become the gateway's own children, so that the admin socket still knows
//! where they came from, and none stays a zombie.
//!
//! A process that forks twice and lets its parent end is adopted by the nearest subreaper above it; without this that would
//! be the first process of the machine, and the way back to the gateway would be lost.

use std::collections::HashSet;

use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

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
}

fn children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}
