//! Which system calls a process may make: seccomp.
//!
//! What runs programs is left alone: threads, children, memory that is written and then executed (as every JIT needs). Refused is what changes
//! the machine, reaches into other processes or past the rules of files, and sockets that were not granted. Calls that are newer than
//! this list, and those of the other ABIs of a processor, do not exist for it.

use std::collections::BTreeMap;

use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, EACCES, ENOSYS, EPERM, SOCK_RAW, SOCK_STREAM};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter, sock_filter};

use super::plan::Plan;
use crate::catalog::sandbox::Network;

/// The newest call that was looked at (`file_setattr`, Linux 6.17). On x86-64 the numbers of x32 lie far above it.
const NEWEST_CALL: u32 = 469;

/// Calls that are refused whatever their arguments are.
const REFUSED: &[libc::c_long] = &[
    // The machine: time, names, power, modules, swap, quotas, the kernel's log.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_nfsservctl,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Mounts and name spaces: another view of the files would have other rules.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Keys of the session, and what has most often been a way into the kernel. `io_uring` would open sockets behind this filter.
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

/// Flags of `clone` that make name spaces.
const NAME_SPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines the calling thread, and what becomes of it; new privileges are out from then on.
///
/// # Errors
/// What the kernel says, in words.
pub(super) fn confine(plan: &Plan) -> Result<(), String> {
    let said = |error: seccompiler::Error| format!("seccomp: {error}");
    let not_there = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply_filter(&unknown()).map_err(said)?;
    for (rules, errno) in [(not_there, ENOSYS), (refused()?, EPERM), (sockets(plan)?, EACCES)] {
        apply_filter(&compiled(rules, errno)?).map_err(said)?;
    }
    Ok(())
}

fn compiled(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, String> {
    let said = |error: seccompiler::BackendError| format!("seccomp: {error}");
    let arch = std::env::consts::ARCH.try_into().map_err(said)?;
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    // It kills what enters by the ABI of another processor, such as `int 0x80`.
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).and_then(TryInto::try_into).map_err(said)
}

/// Calls above the newest number that is known do not exist. Filters of the library only know single numbers.
fn unknown() -> BpfProgram {
    let step = |code: u16, jt: u8, jf: u8, k: u32| sock_filter { code, jt, jf, k };
    let (load, is_greater, end) = (0x20, 0x25, 0x06);
    let refuse: u32 = SeccompAction::Errno(ENOSYS.unsigned_abs()).into();
    vec![step(load, 0, 0, 0), step(is_greater, 0, 1, NEWEST_CALL), step(end, 0, 0, refuse), step(end, 0, 0, SeccompAction::Allow.into())]
}

fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, String> {
    let condition = |(at, op, value): &(u8, SeccompCmpOp, u64)| {
        let length = if matches!(op, MaskedEq(_)) { Qword } else { Dword };
        SeccompCondition::new(*at, length, op.clone(), *value)
    };
    let conditions: Result<Vec<_>, _> = conditions.iter().map(condition).collect();
    conditions.and_then(SeccompRule::new).map_err(|error| format!("seccomp: {error}"))
}

fn refused() -> Result<Rules, String> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let bit = |flag: libc::c_int| u64::from(flag.unsigned_abs());
    let spaces: Result<Vec<_>, _> = NAME_SPACES.iter().map(|flag| rule(&[(0, MaskedEq(bit(*flag)), bit(*flag))])).collect();
    rules.insert(libc::SYS_clone, spaces?);
    // Whoever writes into the input of the terminal that the gateway was started from, types there.
    let terminal = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| rule(&[(1, Eq, request)]));
    rules.insert(libc::SYS_ioctl, terminal.into_iter().collect::<Result<_, _>>()?);
    // Its own limits it may lower; those of another process are none of its business.
    rules.insert(libc::SYS_prlimit64, vec![rule(&[(0, Ne, 0)])?]);
    Ok(rules)
}

/// Sockets that were not granted. Pairs of connected ones are only those of AF_UNIX, and lead nowhere.
fn sockets(plan: &Plan) -> Result<Rules, String> {
    let family = |family: libc::c_int| u64::from(family.unsigned_abs());
    let local = plan.unix_sockets.then_some(AF_UNIX);
    let granted: &[libc::c_int] = match plan.network {
        Network::None => &[],
        Network::Ports(_) => &[AF_INET, AF_INET6],
        Network::Any => &[AF_INET, AF_INET6, AF_NETLINK],
    };
    let others: Vec<_> = granted.iter().copied().chain(local).map(|one| (0, Ne, family(one))).collect();
    // Without a condition every one is refused.
    let mut rules = if others.is_empty() { Vec::new() } else { vec![rule(&others)?] };
    for inet in granted.iter().filter(|one| **one != AF_NETLINK) {
        let of = (0, Eq, family(*inet));
        match plan.network {
            Network::Any => rules.push(rule(&[of, (1, MaskedEq(0xf), family(SOCK_RAW))])?),
            // Of TCP alone: rules of ports know nothing of UDP, nor of TCP over several paths.
            _ => {
                let types = (0..16).filter(|kind| *kind != SOCK_STREAM).map(|kind| rule(&[of.clone(), (1, MaskedEq(0xf), family(kind))]));
                rules.extend(types.collect::<Result<Vec<_>, _>>()?);
                rules.push(rule(&[of, (2, Ne, 0), (2, Ne, family(libc::IPPROTO_TCP))])?);
            }
        }
    }
    Ok(Rules::from([(libc::SYS_socket, rules)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_can_be_compiled_and_loaded_in_a_thread_that_ends_here() {
        let ports = Network::Ports(crate::catalog::sandbox::Ports { connect: vec![443], bind: vec![] });
        for (network, unix_sockets) in [(Network::None, false), (Network::None, true), (ports, false), (Network::Any, true)] {
            let plan = Plan { network, unix_sockets, ..Plan::closed() };
            std::thread::spawn(move || confine(&plan).unwrap()).join().unwrap();
        }
    }

    #[test]
    fn no_number_is_above_the_newest_that_is_known() {
        let numbers = REFUSED.iter().chain(&[libc::SYS_clone3, libc::SYS_socket]);
        assert!(numbers.clone().all(|number| (0..=i64::from(NEWEST_CALL)).contains(number)));
    }
}
