//! What an agent with an open stream may watch, and which changes it is told of: decided anew for each of them.

use bytes::Bytes;

use super::{Change, Gateway};
use crate::catalog::tier::Tier;
use crate::catalog::{PolicyNames, address};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::mcp::canonical::write_string;
use crate::upstream::Upstream;

impl Gateway {
    /// The upstream of a resource that the principal may read, and the server's own URI. The caller records a refusal.
    ///
    /// # Errors
    /// `tool_not_found` for a URI that leads nowhere or may not be known of, `policy_denied` for one that may not be read.
    pub fn may_watch(&self, principal: &Principal, uri: &str) -> Result<(Upstream, String), Error> {
        let missing = || Error::new(Code::ToolNotFound, "there is no such resource");
        let (at, own) = self.catalog.own_uri(uri).ok_or_else(missing)?;
        let upstream = self.upstreams.get(at).ok_or_else(missing)?;
        let names = PolicyNames::resource(upstream.id(), own).ok_or_else(missing)?;
        let class = self.policy.class(&principal.id);
        if !self.policy.sees_by_name(class, &names.name) {
            return Err(missing().operator("no rule lets this agent see the resource"));
        }
        match self.policy.decide_by_names(class, names.iter(), Tier::Read).is_permit() {
            true => Ok((upstream.clone(), own.to_owned())),
            false => Err(Error::new(Code::PolicyDenied, "a rule denies this resource")),
        }
    }

    /// The `params` of the notification of a change, where the principal may be told of it.
    pub fn shows(&self, principal: &Principal, change: &Change) -> Option<Bytes> {
        match change {
            Change::List(_) => Some(Bytes::from_static(b"{}")),
            Change::Updated { upstream, uri } => {
                let class = self.policy.class(&principal.id);
                let names = PolicyNames::resource(upstream, uri)?;
                let source = self.catalog.sources().iter().find(|source| source.manifest.upstream == **upstream)?;
                let known = self.policy.decide_by_names(class, names.iter(), Tier::Read).is_permit();
                let mut out = b"{\"uri\":".to_vec();
                write_string(&address::public(source.manifest.prefix, upstream, uri), &mut out);
                out.push(b'}');
                known.then(|| out.into())
            }
        }
    }
}
