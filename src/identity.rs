//! Who is calling: turns a credential into a [`Principal`], from the headers alone and before any body is read.
//!
//! Owns: API keys `dw_ID_SECRET`. The ID is the first twelve hex digits of the SHA-256 of the secret, so a key is found
//! without comparing secrets; the whole hash is then compared in constant time.
//!
//! INVARIANT: nothing a caller says of itself (client name, `_meta`, forwarding headers) makes it somebody.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::config::{Agent, Config};
use crate::error::{Code, Error};
use crate::seal::{hex, random, sha256};
use crate::state::{State, StateError, StoredKey};

/// Keys of which a record of a reload says each that they are new or out.
const MAX_CHANGES: usize = 16;

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// As policy rows name it: `agent:NAME`.
    pub id: Arc<str>,
    /// The public id of its key, or how it came in without one: `anonymous`, `stdio`, `admin`.
    pub credential: Arc<str>,
}

impl Principal {
    /// An agent that comes in by a way that needs no key, such as this machine's standard input.
    pub fn local(agent: &str, way: &str) -> Self {
        Self { id: format!("agent:{agent}").into(), credential: way.into() }
    }

    /// Somebody whose credential was refused; no row can name it.
    pub fn unknown() -> Self {
        Self { id: "unauthenticated".into(), credential: "none".into() }
    }

    /// The agent's bare name.
    pub fn name(&self) -> &str {
        self.id.strip_prefix("agent:").unwrap_or(&self.id)
    }
}

/// What a caller shows.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The peer of the connection.
    pub peer: IpAddr,
    /// Whether a header says that somebody forwarded the request.
    pub forwarded: bool,
}

/// Whom an address stands for where addresses are counted.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        // A customer has at least a /64, and so as many addresses as it likes.
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Every credential that is let in.
#[derive(Debug, Default)]
pub struct Identity {
    keys: HashMap<Arc<str>, (Arc<str>, [u8; 32])>,
    anonymous: Option<Principal>,
    agents: usize,
}

impl Identity {
    /// Reads the keys of the file and of the state database. A revoked key is not among them.
    ///
    /// # Errors
    /// The database's.
    pub fn load(config: &Config, state: &State) -> Result<Self, StateError> {
        let mut keys = HashMap::new();
        for agent in &config.agents {
            if let Some(hash) = hash_of(agent) {
                keys.insert(id_of(&hash).into(), (agent_id(&agent.name), hash));
            }
        }
        for key in state.keys()?.into_iter().filter(|key| key.revoked.is_none()) {
            keys.insert(key.id.into(), (agent_id(&key.agent), key.hash));
        }
        let anonymous = config.identity.anonymous.as_ref().map(|who| Principal::local(&who.agent, "anonymous"));
        let named = config.agents.iter().map(|agent| agent_id(&agent.name));
        let agents: HashSet<Arc<str>> =
            named.chain(keys.values().map(|(agent, _)| Arc::clone(agent))).chain(anonymous.iter().map(|who| Arc::clone(&who.id))).collect();
        Ok(Self { agents: agents.len(), keys, anonymous })
    }

    /// Who shows these credentials.
    ///
    /// # Errors
    /// `unauthenticated`, in words that do not tell an unknown key from a wrong one.
    pub fn authenticate(&self, shown: &Credentials<'_>) -> Result<Principal, Error> {
        let Some(header) = shown.authorization else { return self.keyless(shown) };
        let known = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).and_then(|(_, key)| {
            let (id, secret) = key.trim().strip_prefix("dw_")?.split_once('_')?;
            let (id, (agent, hash)) = self.keys.get_key_value(id)?;
            bool::from(sha256(secret.as_bytes()).ct_eq(hash)).then(|| Principal { id: Arc::clone(agent), credential: Arc::clone(id) })
        });
        known.ok_or_else(|| Error::new(Code::Unauthenticated, "the API key is not one of this gateway, or has been revoked"))
    }

    /// Whether there is nobody whom one agent could crowd out.
    pub fn has_one_agent(&self) -> bool {
        self.agents <= 1
    }

    /// Whether the principal would still be let in: its key has not been revoked since.
    pub fn holds(&self, principal: &Principal) -> bool {
        match &*principal.credential {
            "stdio" | "admin" => true,
            "anonymous" => self.anonymous.is_some(),
            id => self.keys.contains_key(id),
        }
    }

    /// What differs from an earlier one, in words for the record; empty when everybody is let in as before.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let keyless = (self.anonymous != before.anonymous).then(|| match &self.anonymous {
            Some(who) => format!("callers without a key are {}", who.id),
            None => "callers without a key are refused".to_owned(),
        });
        let words = |id: &str, agent: &str, what: &str| format!("key {id} of {agent} {what}");
        let new = self.keys.iter().filter(|(id, key)| before.keys.get(*id) != Some(key)).map(|(id, (agent, _))| words(id, agent, "is new"));
        let out = before.keys.iter().filter(|(id, key)| self.keys.get(*id) != Some(key)).map(|(id, (agent, _))| words(id, agent, "is out"));
        let mut keys: Vec<String> = new.chain(out).collect();
        keys.sort_unstable();
        let more = keys.len().saturating_sub(MAX_CHANGES);
        keys.truncate(MAX_CHANGES);
        keyless.into_iter().chain(keys).chain((more > 0).then(|| format!("{more} more keys"))).collect()
    }

    fn keyless(&self, shown: &Credentials<'_>) -> Result<Principal, Error> {
        let missing = || Error::new(Code::Unauthenticated, "no API key was sent");
        let anonymous = self.anonymous.as_ref().ok_or_else(missing)?;
        if shown.forwarded {
            return Err(Error::new(Code::Unauthenticated, "a forwarded request needs an API key"));
        }
        if shown.peer.to_canonical().is_loopback() { Ok(anonymous.clone()) } else { Err(missing()) }
    }
}

fn agent_id(name: &str) -> Arc<str> {
    format!("agent:{name}").into()
}

fn id_of(hash: &[u8; 32]) -> String {
    hex(hash).chars().take(12).collect()
}

/// The public ids of the keys that the configuration holds, each with its agent's name.
pub fn configured(config: &Config) -> Vec<(&str, String)> {
    config.agents.iter().filter_map(|agent| Some((agent.name.as_str(), id_of(&hash_of(agent)?)))).collect()
}

fn hash_of(agent: &Agent) -> Option<[u8; 32]> {
    unhex(agent.key_hash.as_deref()?.strip_prefix("sha256:")?)
}

/// A new key: its text, to be shown once, and what is stored of it; `None` when the machine gives no randomness.
pub fn new_key(agent: &str, now: String) -> Option<(String, StoredKey)> {
    let mut secret = [0; 32];
    random(&mut secret).ok()?;
    let secret = hex(&secret);
    let hash = sha256(secret.as_bytes());
    let id = id_of(&hash);
    Some((format!("dw_{id}_{secret}"), StoredKey { id, agent: agent.to_owned(), hash, created: now, revoked: None }))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}
