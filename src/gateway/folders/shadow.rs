//! The candidate that decides beside the policy in force, on the same calls and without effect.
//!
//! Its files lie in `shadow/` of the state folder, where `doorward policy shadow DIR` puts them; they are read at every load of the policy.
//!
//! Owns: where the candidate lies, and its loading. Leaves to others: asking it (`gateway::gathering`), and who puts it there (`cli`).
//!
//! INVARIANT: a candidate that does not load decides nothing, and the policy in force stands as if there were none.

use std::path::{Path, PathBuf};

use super::bundles::Files;
use crate::limit::{Limits, Time};
use crate::policy::{Names, Options, Policy};

/// The folder of the candidate's files in that of the state.
pub fn folder(state: &Path) -> PathBuf {
    state.join("shadow")
}

/// The candidate, for the targets and all that `options` says beside the folder; `None` where there is none.
pub(super) fn load(state: &Path, names: &Names<'_>, options: &Options) -> Option<Policy> {
    let folder = folder(state);
    if !folder.join("policy.csv").exists() {
        return None;
    }
    // Files that are half put there are no candidate.
    let whole = Files::read(&folder).map_err(|fault| vec![fault]);
    let loaded = whole.and_then(|_| Limits::load(&folder, names, &Time::machine())).and_then(|limits| {
        let options = Options { limits: limits.text().to_owned(), ..options.clone() };
        Policy::load(&folder, names.targets, &options)
    });
    match loaded {
        Ok((policy, _)) => Some(policy),
        Err(faults) => {
            for fault in faults {
                tracing::error!("the shadow policy does not load, so it decides nothing: {fault}");
            }
            None
        }
    }
}
