//! What a freeze means for what is under way already: calls that wait for their server, and agents that are told of changes.

use super::{Gateway, Shared};
use crate::error::Error;
use crate::identity::Principal;
use crate::invocation::Invocation;
use crate::mcp::messages::Request;

impl Shared {
    /// Why a principal is told of nothing, whatever the policy says.
    pub(super) fn kept_out(&self, principal: &Principal) -> Option<&'static str> {
        if !self.identity.load().holds(principal) {
            return Some("the agent's key does not hold any more");
        }
        self.freezes.admit(principal).err().map(|_| "the agent is frozen")
    }
}

impl Gateway {
    /// Why a principal is told of nothing, where that is so.
    pub fn kept_out(&self, principal: &Principal) -> Option<&'static str> {
        self.shared.kept_out(principal)
    }

    /// What comes of a forwarded call, unless a person stops it meanwhile.
    pub(super) async fn unless_frozen<T>(
        &self,
        call: &Invocation<'_>,
        request: &Request<'_, '_>,
        forwarding: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            forwarded = forwarding => forwarded,
            stopped = self.shared.freezes.ended(call, request.meta.run()) => Err(stopped),
        }
    }
}
