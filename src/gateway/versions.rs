//! What is in force, part by part: so that a record of a change says what was before and what is now.

use std::collections::BTreeMap;

use super::Gateway;
use crate::catalog::Source;
use crate::config::Config;
use crate::seal::{hex, sha256};

/// The version of every part of a snapshot that people write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The policy's, as each record has it.
    pub policy: String,
    /// Of each upstream's manifest and lock.
    catalog: BTreeMap<String, [[u8; 32]; 2]>,
}

impl Versions {
    /// Those of a snapshot.
    pub fn of(gateway: &Gateway) -> Self {
        let sources = gateway.catalog().sources().iter();
        let catalog = sources.map(|source| (source.manifest.upstream.clone(), [manifest(source), lock(source)])).collect();
        Self { policy: gateway.policy().version().to_owned(), catalog }
    }

    /// The hash of all manifests and locks.
    pub fn catalog(&self) -> String {
        let mut all = Vec::new();
        for (upstream, parts) in &self.catalog {
            all.extend_from_slice(&(upstream.len() as u64).to_be_bytes());
            all.extend_from_slice(upstream.as_bytes());
            parts.iter().for_each(|hash| all.extend_from_slice(hash));
        }
        format!("sha256:{}", hex(&sha256(&all)))
    }

    /// Which manifests and locks are other than they were.
    pub fn catalog_changes(&self, before: &Self) -> Vec<String> {
        let all: std::collections::BTreeSet<&String> = before.catalog.keys().chain(self.catalog.keys()).collect();
        let changed = |upstream: &String| match (before.catalog.get(upstream), self.catalog.get(upstream)) {
            (Some(was), Some(is)) if was == is => None,
            (Some([was, _]), Some([is, _])) if was == is => Some(format!("{upstream}: lock")),
            (Some([_, was]), Some([_, is])) if was == is => Some(format!("{upstream}: manifest")),
            (Some(_), Some(_)) => Some(format!("{upstream}: manifest and lock")),
            (None, _) => Some(format!("{upstream}: added")),
            (_, None) => Some(format!("{upstream}: removed")),
        };
        all.into_iter().filter_map(changed).collect()
    }
}

/// The version of the operator's file: the hash of what it says, defaults included, so that two that mean the same have the same.
pub fn config_version(config: &Config) -> String {
    format!("sha256:{}", hex(&sha256(&serde_json::to_vec(config).unwrap_or_default())))
}

fn manifest(source: &Source) -> [u8; 32] {
    sha256(&serde_json::to_vec(&*source.manifest).unwrap_or_default())
}

fn lock(source: &Source) -> [u8; 32] {
    // A definition's hash is of its canonical text, its name included.
    let hashes: Vec<u8> = source.lock.tools.values().flat_map(|definition| definition.hash).collect();
    sha256(&hashes)
}
