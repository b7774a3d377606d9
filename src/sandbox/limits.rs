//! What a process may use up, and the powers of an administrator that it loses.

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::plan::Plan;

/// Processes and threads that a user may have beside those that ran at the start, for each that one server may have. The kernel counts all of a
/// user together, so that its limit can only be the last resort against one that multiplies faster than it is looked at.
const NPROC_FOR_EACH: u64 = 4;
/// The least of them.
const MIN_NPROC: u64 = 1_024;

/// The powers of root that a server keeps: those over files of others, which are bounded by what it may open. All that change the machine, reach
/// into other processes or lift limits go.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Sets the limits of the calling process. What is lower already stays.
///
/// # Errors
/// What the kernel says, in words.
pub(super) fn set(plan: &Plan) -> Result<(), String> {
    let mut limits = vec![
        // What it can write to. Its address space is no measure: engines of JavaScript reserve far more than they use.
        (Resource::Data, plan.memory_mb << 20),
        (Resource::Nofile, plan.files),
        (Resource::Cpu, plan.cpu_s),
        // A core has the secrets of its process in it.
        (Resource::Core, 0),
    ];
    if !geteuid().is_root() {
        limits.push((Resource::Nproc, running().saturating_add((plan.processes * NPROC_FOR_EACH).max(MIN_NPROC))));
    }
    for (resource, most) in limits {
        let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| format!("the limit {resource:?} of {most} cannot be set: {error}"))?;
    }
    Ok(())
}

/// Gives up, for good and for all that comes of the process, what only root has.
///
/// # Errors
/// What the kernel says, in words.
pub(super) fn disarm() -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    for capability in CapabilitySet::all().iter().filter(|one| !KEPT.contains(*one)) {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know it; or the process cannot give anything up, because it has nothing to give.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(format!("{capability:?} cannot be given up: {error}")),
        }
    }
    Ok(())
}

/// Processes and threads of this user that run now, as far as they can be counted.
fn running() -> u64 {
    let own = geteuid().as_raw();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_own = |folder: &std::path::Path| std::fs::metadata(folder).is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == own);
    let tasks = processes.map(|entry| entry.path().join("task")).filter(|tasks| is_own(tasks));
    tasks.map(|tasks| std::fs::read_dir(tasks).map_or(0, |tasks| tasks.count() as u64)).sum()
}
