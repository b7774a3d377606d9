//! Sessions of the handshake revisions over HTTP, without a store: the session id is the sealed state.
//!
//! INVARIANT: an id proves nothing about who sends it: it is bound to the principal that began the session, who must
//! authenticate on every request.

use std::sync::Arc;

use dashmap::DashMap;

use super::streams::Lasts;
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::revision::Revision;
use crate::seal::hex;
use crate::seal::{Seal, random};

// The number goes up with the form of what is sealed, so that an id of another form is one that is not known.
const PURPOSE: &str = "session2";
/// Ended sessions that are remembered until they would have expired. At the bound the oldest knowledge goes first.
const MAX_ENDED: usize = 65_536;

/// One session, as its id says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The negotiated revision.
    pub revision: Revision,
    /// What the client called itself.
    pub client: Option<String>,
    /// What it has declared that it can be asked for.
    pub capabilities: Capabilities,
    /// Its short name in records and for its calls in flight.
    pub name: Arc<str>,
    /// When it ends, in seconds since 1970.
    pub expires: i64,
}

/// What `initialize` settles for all that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The revision.
    pub revision: Revision,
    /// What the client called itself.
    pub client: Option<String>,
    /// What it has declared, as far as the revision knows it.
    pub capabilities: Capabilities,
}

/// Opens and makes session ids.
pub struct Sessions {
    seal: Arc<Seal>,
    clock: Clock,
    seconds: u64,
    ended: DashMap<Arc<str>, i64>,
}

impl Sessions {
    /// Sessions that last so many seconds.
    pub fn new(seal: Arc<Seal>, clock: Clock, seconds: u64) -> Self {
        Self { seal, clock, seconds, ended: DashMap::new() }
    }

    /// A new session's id.
    ///
    /// # Errors
    /// `internal` when the machine gives no randomness.
    pub fn begin(&self, principal: &Principal, settled: &Negotiated) -> Result<String, Error> {
        let fault = || Error::new(Code::Internal, "no session could be made");
        let mut name = [0; 8];
        random(&mut name).map_err(|_| fault())?;
        let expires = self.clock.unix_seconds().saturating_add(i64::try_from(self.seconds).unwrap_or(i64::MAX));
        let client: String = settled.client.iter().flat_map(|client| client.chars()).filter(|letter| *letter != '\n').collect();
        let (revision, bits) = (settled.revision.as_str(), settled.capabilities.bits());
        let plain = format!("{revision}\n{}\n{expires}\n{}\n{bits}\n{client}", principal.bound(), hex(&name));
        self.seal.seal(PURPOSE, plain.as_bytes()).ok_or_else(fault)
    }

    /// The session of this id, if it is this principal's and has neither expired nor ended.
    ///
    /// # Errors
    /// `session_invalid`, without saying why.
    pub fn open(&self, id: &str, principal: &Principal) -> Result<Session, Error> {
        let session = self.unsealed(id, principal).filter(|session| self.lasts(session));
        session.ok_or_else(|| Error::new(Code::SessionInvalid, "the session is not known, or has ended"))
    }

    /// Whether the session has neither expired nor ended.
    pub fn lasts(&self, session: &Session) -> bool {
        session.expires > self.clock.unix_seconds() && !self.ended.contains_key(&session.name)
    }

    /// How long what a session of this agent keeps is kept.
    pub fn lasting<'s>(&'s self, agent: &'s Arc<str>) -> Lasts<'s> {
        Lasts { agent, clock: &self.clock, seconds: self.seconds }
    }

    fn unsealed(&self, id: &str, principal: &Principal) -> Option<Session> {
        let plain = self.seal.open(PURPOSE, id)?;
        let mut fields = std::str::from_utf8(&plain).ok()?.splitn(6, '\n');
        let revision = Revision::parse(fields.next()?)?;
        let bound = fields.next()? == principal.bound();
        let expires = fields.next()?.parse().ok()?;
        let name = fields.next()?.into();
        let capabilities = Capabilities::from_bits(fields.next()?.parse().ok()?);
        let client = Some(fields.next()?.to_owned()).filter(|client| !client.is_empty());
        bound.then_some(Session { revision, client, capabilities, name, expires })
    }

    /// Ends a session: its id is refused from now on by this process.
    pub fn end(&self, session: &Session) {
        if self.ended.len() >= MAX_ENDED {
            let now = self.clock.unix_seconds();
            self.ended.retain(|_, expires| *expires > now);
            if self.ended.len() >= MAX_ENDED {
                self.ended.clear();
            }
        }
        self.ended.insert(Arc::clone(&session.name), session.expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_session_ends_with_its_time_and_is_one_agents_alone() {
        let clock = Clock::fixed(1_000_000_000_000);
        let sessions = Sessions::new(Arc::new(Seal::new(&[7; 32]).unwrap()), clock.clone(), 60);
        let (one, other) = (Principal::local("a", "stdio"), Principal::local("b", "stdio"));
        let settled = Negotiated { revision: Revision::V2025_11_25, client: None, capabilities: Capabilities::default() };
        let id = sessions.begin(&one, &settled).unwrap();
        clock.pass(Duration::from_secs(59));
        assert_eq!(sessions.open(&id, &one).unwrap().revision, Revision::V2025_11_25);
        let foreign = sessions.open(&id, &other).unwrap_err();

        clock.pass(Duration::from_secs(1));

        let expired = sessions.open(&id, &one).unwrap_err();
        assert_eq!((expired.code(), expired.to_string()), (Code::SessionInvalid, foreign.to_string()), "told alike");
    }
}
