//! What happens to a message that is no call yet: who sent it, whether it is let in, and the record where it is not.

use std::net::IpAddr;

use super::{Answer, Gateway};
use crate::audit::trail::Trail;
use crate::error::{Code, Error};
use crate::identity::{Credentials, Principal, Shown};
use crate::invocation::Caller;
use crate::limit;
use crate::mcp::canonical::write_string;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::Meta;
use crate::telemetry::{Ended, Listening};

impl Gateway {
    /// Who shows these credentials. Stands before the body is read.
    ///
    /// # Errors
    /// `unauthenticated`; `upstream_unavailable` for a token whose issuer's keys are not there.
    pub async fn authenticate(&self, shown: &Credentials<'_>) -> Result<Principal, Error> {
        let shown = self.shared.identity.load().authenticate(shown)?;
        match shown {
            Shown::Known(principal) => Ok(principal),
            // Boxed, since it is rare and would make the state of every request larger.
            Shown::Token(token) => Box::pin(self.accept(token)).await,
        }
    }

    async fn accept(&self, token: &str) -> Result<Principal, Error> {
        let identity = self.shared.identity.load_full();
        identity.accept(token).await
    }

    /// Spends a token of the agent's messages, before one is read.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn screen(&self, principal: &Principal) -> Result<(), Error> {
        limit::screen(&self.limits, principal)
    }

    /// Whether a token has the scopes that every request needs, before one is read. `tool` gives the one that a header names,
    /// so that the refusal can name the scopes of the whole operation.
    ///
    /// # Errors
    /// `insufficient_scope`.
    pub fn entitled<'t>(&self, principal: &Principal, tool: impl FnOnce() -> Option<&'t str>) -> Result<(), Error> {
        has_scopes(principal, None).map_err(|error| {
            let target = tool().and_then(|name| self.catalog.tool(self.catalog.find(name)?));
            let seen = target.filter(|target| target.index.is_some_and(|index| self.policy.sees(self.policy.class(&principal.id), index)));
            has_scopes(principal, seen.and_then(|target| target.scope.as_deref())).err().unwrap_or(error)
        })
    }

    /// Counts a failed credential against its address.
    ///
    /// # Errors
    /// `rate_limited` once it has failed too often.
    pub fn count_failure(&self, peer: IpAddr) -> Result<(), Error> {
        limit::count_failure(&self.limits, peer)
    }

    /// Counts a connection that the gateway has closed. It is no message, so there is no record of it.
    pub fn connection_ended(&self, why: Ended) {
        self.shared.telemetry.connection_ended(why);
    }

    /// What the listener has in hand, for metrics.
    pub fn listens(&self, load: Listening) {
        self.shared.telemetry.listens(load);
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

/// The scopes of its entry and of the target, as far as a token shows who calls. API keys have none and need none.
pub(super) fn has_scopes(principal: &Principal, target: Option<&str>) -> Result<(), Error> {
    let Some(scopes) = principal.token.as_ref().and_then(|token| token.lacks(target)) else { return Ok(()) };
    let mut quoted = Vec::new();
    write_string(&scopes, &mut quoted);
    let error = Error::new(Code::InsufficientScope, "the access token lacks a scope that this needs");
    Err(error.data(SCOPE, String::from_utf8_lossy(&quoted).into_owned()))
}

/// The scopes that a refusal says are needed, in quotes.
pub fn needed_scopes(error: &Error) -> Option<&str> {
    error.data_members().iter().find(|(member, _)| *member == SCOPE).map(|(_, scopes)| scopes.as_str())
}

/// The member of an error's data that names scopes.
const SCOPE: &str = "scope";
