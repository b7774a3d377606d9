//! Open files: as many as a gateway's connections need beside its own.
//!
//! Without room for them, who opens connections would keep the audit log from its next segment.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open beside agents' connections: the log, the database, and the pipes and connections of tool servers.
const BESIDE: u64 = 512;

/// Raises the soft limit of this process as far as it is needed and allowed; a sentence for the operator where that is too little.
pub(super) fn raise(connections: u64) -> Option<String> {
    let (limit, wanted) = (getrlimit(Resource::Nofile), connections + BESIDE);
    let soft = limit.current.filter(|soft| *soft < wanted)?;
    let raised = limit.maximum.map_or(wanted, |hard| hard.min(wanted)).max(soft);
    let is_set = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok();
    let may = if is_set { raised } else { soft };
    (may < wanted).then(|| {
        format!(
            "this process may open {may} files, and `listen.max_connections: {connections}` with its own needs {wanted}: raise the limit (`ulimit -n`, \
             `LimitNOFILE=`), or lower `max_connections`"
        )
    })
}
