//! What a tool server and the processes that it started use up together.
//!
//! The kernel bounds each process by itself, and the processes of a user all together; what a group may have can only be looked at. Who is faster
//! than a look meets the kernel's own limits.

use std::time::Duration;

use tokio::time::sleep;

/// How often is looked.
const LOOKS: Duration = Duration::from_millis(250);
/// Processes that are looked at; more than that is more than any bound.
const MAX_SEEN: usize = 100_000;

/// Waits until the processes from `root` on use more than `memory_mb` of memory, or are more than `tasks` with their threads; says which.
pub(super) async fn excess(root: Option<u32>, bounds: Option<(u64, u64)>) -> String {
    let (Some(root), Some((memory_mb, tasks))) = (root, bounds) else { return std::future::pending().await };
    loop {
        sleep(LOOKS).await;
        let used = used(root, tasks);
        if used.tasks > tasks {
            return format!("it has more than {tasks} processes and threads (`sandbox.processes`)");
        }
        if used.memory_kb > memory_mb << 10 {
            return format!("it uses more than {memory_mb} MiB of memory (`sandbox.memory_mb`)");
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Used {
    tasks: u64,
    memory_kb: u64,
}

/// The processes from `root` on, itself among them: also those that have left its group.
pub(super) fn family(root: u32) -> Vec<u32> {
    let (mut all, mut next) = (vec![root], 0);
    while let Some(process) = all.get(next).copied().filter(|_| next < MAX_SEEN) {
        next += 1;
        for task in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// What is used now; once there are more than `enough` tasks, no more are counted.
fn used(root: u32, enough: u64) -> Used {
    let (mut used, mut open, mut seen) = (Used::default(), vec![root], 0);
    while let Some(process) = open.pop() {
        seen += 1;
        if used.tasks > enough || seen > MAX_SEEN {
            break;
        }
        for task in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            used.tasks += 1;
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        used.memory_kb = used.memory_kb.saturating_add(memory_kb(process));
    }
    used
}

/// Memory that is the process's own or shared with others, without mapped files.
fn memory_kb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let of = |line: &str| line.split_ascii_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    status.lines().filter(|line| line.starts_with("RssAnon:") || line.starts_with("RssShmem:")).filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted_with_its_children() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let all = used(std::process::id(), u64::MAX);
        let one = used(child.id(), u64::MAX);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(one.tasks, 1);
        assert!(all.tasks > one.tasks && all.memory_kb > one.memory_kb && one.memory_kb > 0, "{all:?} {one:?}");
        assert_eq!(used(child.id(), u64::MAX), Used::default());
    }
}
