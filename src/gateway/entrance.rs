//! What happens to a message that is no call yet: who sent it, whether it is let in, and the record where it is not.

use std::net::IpAddr;

use super::{Answer, Gateway};
use crate::audit::trail::Trail;
use crate::error::Error;
use crate::identity::{Credentials, Principal};
use crate::invocation::Caller;
use crate::limit;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::Meta;

impl Gateway {
    /// Who shows these credentials. Stands before the body is read.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn authenticate(&self, shown: &Credentials<'_>) -> Result<Principal, Error> {
        self.shared.identity.load().authenticate(shown)
    }

    /// Spends a token of the agent's messages, before one is read.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn screen(&self, principal: &Principal) -> Result<(), Error> {
        limit::screen(&self.limits, principal)
    }

    /// Counts a failed credential against its address.
    ///
    /// # Errors
    /// `rate_limited` once it has failed too often.
    pub fn count_failure(&self, peer: IpAddr) -> Result<(), Error> {
        limit::count_failure(&self.limits, peer)
    }

    /// Counts a connection that was closed before it said anything. It is no message, so there is no record of it.
    pub fn connection_refused(&self) {
        self.shared.telemetry.connection_refused();
    }

    /// Records and returns the refusal of a message that is no call, or was refused before it became one.
    pub async fn refuse(&self, caller: &Caller, method: &str, id: Option<&Id>, error: Error) -> Answer {
        self.refused(self.shared.audit.trail(caller, method, id, Meta::of(None), self.policy.version()), error).await
    }

    /// The same for a message that was not understood: its record has the hash and size of the bytes.
    pub async fn unread(&self, caller: &Caller, message: &[u8], error: Error) -> Answer {
        let mut trail = self.shared.audit.trail(caller, "unread", None, Meta::of(None), self.policy.version());
        trail.unread(message);
        self.refused(trail, error).await
    }

    async fn refused(&self, trail: Trail<'_>, error: Error) -> Answer {
        self.shared.telemetry.refused(error.code());
        let outcome = Err(error);
        self.shared.audit.close(&trail, &outcome).await;
        Answer { invocation: trail.id_text().to_owned(), outcome }
    }
}
