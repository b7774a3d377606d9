//! `tools/list`: what a principal may call, as bytes that are made once for each set of roles.
//!
//! INVARIANT: a tool is listed exactly when some arguments could be allowed and its definition is reviewed; a list never
//! waits for an upstream.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;

use super::{Gateway, Shared};
use crate::catalog::{Catalog, Standing, Target};
use crate::identity::Principal;
use crate::mcp::revision::Revision;
use crate::policy::{ClassId, Policy};

/// Sets of roles whose list is kept; a policy has few.
const MAX_LISTS: usize = 1_024;
/// Tools that a wrong name is compared with.
const MAX_COMPARED: usize = 4_096;

/// The lists by set of roles and by era, each with the catalog's generation that it was made in.
#[derive(Debug, Default)]
pub(super) struct Listings(DashMap<(ClassId, bool), (u64, Bytes)>);

impl Gateway {
    /// The `tools` array's JSON text for this principal, as the revision has it.
    pub fn list(&self, principal: &Principal, revision: Revision) -> Bytes {
        let class = self.policy.class(&principal.id);
        let (generation, key) = (self.catalog.generation(), (class, revision.is_modern()));
        if let Some(known) = self.listings.0.get(&key).filter(|known| known.0 == generation) {
            return known.1.clone();
        }
        let mut out = vec![b'['];
        for tool in self.listed(class) {
            if out.len() > 1 {
                out.push(b',');
            }
            let legacy = tool.listed_legacy.as_ref().filter(|_| !revision.is_modern());
            out.extend_from_slice(legacy.unwrap_or(&tool.listed));
        }
        out.push(b']');
        let list = Bytes::from(out);
        if self.listings.0.len() < MAX_LISTS {
            self.listings.0.insert(key, (generation, list.clone()));
        }
        list
    }

    fn listed(&self, class: ClassId) -> impl Iterator<Item = &Target> {
        self.catalog.tools().iter().filter(move |tool| {
            let allowed = tool.index.is_some_and(|index| self.policy.lists(class, index));
            allowed && matches!(self.catalog.standing(tool), Standing::Reviewed | Standing::Unconfirmed)
        })
    }

    /// The listed tool whose name is most like this one, if one is like it at all.
    pub(super) fn resembling(&self, principal: &Principal, name: &str) -> Option<&str> {
        let class = self.policy.class(&principal.id);
        if name.len() > 128 {
            return None;
        }
        let scored = self.listed(class).take(MAX_COMPARED).map(|tool| (strsim::jaro_winkler(name, &tool.name), &*tool.name));
        scored.filter(|(score, _)| *score > 0.85).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, name)| name)
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What carries over between snapshots.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
