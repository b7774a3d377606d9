//! Who is calling: turns a credential into a [`Principal`], from the headers alone and before any body is read.
//!
//! Owns: API keys `dw_ID_SECRET`. The ID is the first twelve hex digits of the SHA-256 of the secret, so a key is found
//! without comparing secrets; the whole hash is then compared in constant time. Leaves access tokens to `tokens`.
//!
//! INVARIANT: nothing a caller says of itself (client name, `_meta`, forwarding headers) makes it somebody.

mod keys;
mod people;
mod tokens;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use subtle::ConstantTimeEq;

pub use self::people::{Approver, People};
use self::tokens::Tokens;
pub use self::tokens::{Token, WELL_KNOWN};
use crate::config::{Agent, Config, Fault};
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
    /// The public id of its key, `jwt:` and a part of its token's hash, or how it came in without either: `anonymous`, `stdio`,
    /// `admin`.
    pub credential: Arc<str>,
    /// What its access token says, where it came with one.
    pub token: Option<Arc<Token>>,
}

impl Principal {
    /// An agent that comes in by a way that needs no key, such as this machine's standard input.
    pub fn local(agent: &str, way: &str) -> Self {
        Self { id: format!("agent:{agent}").into(), credential: way.into(), token: None }
    }

    /// Somebody whose credential was refused; no row can name it.
    pub fn unknown() -> Self {
        Self { id: "unauthenticated".into(), credential: "none".into(), token: None }
    }

    /// The agent's bare name.
    pub fn name(&self) -> &str {
        self.id.strip_prefix("agent:").unwrap_or(&self.id)
    }

    /// Whom a session or a state that is handed out belongs to: the agent, and the person that it acts for.
    pub fn bound(&self) -> Cow<'_, str> {
        tokens::bound(self)
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

/// Who shows a credential, as far as that is known at once.
#[derive(Debug)]
pub enum Shown<'a> {
    /// This one.
    Known(Principal),
    /// An access token that was not seen before: see [`Identity::accept`].
    Token(&'a str),
}

/// Every credential that is let in.
#[derive(Debug, Default)]
pub struct Identity {
    keys: HashMap<Arc<str>, (Arc<str>, [u8; 32])>,
    anonymous: Option<Principal>,
    /// Those of the file and of the state database, whom a token can name.
    agents: HashSet<Arc<str>>,
    tokens: Option<Tokens>,
    people: People,
}

impl Identity {
    /// Reads the keys of the file and of the state database. A revoked key is not among them. What was fetched of key sets carries
    /// over from `before`. The faults are of key files, whose issuers let nobody in.
    ///
    /// # Errors
    /// The database's.
    pub fn load(config: &Config, state: &State, before: Option<&Self>) -> Result<(Self, Vec<Fault>), StateError> {
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
        let agents = named.chain(keys.values().map(|(agent, _)| Arc::clone(agent))).collect();
        let (tokens, faults) = Tokens::load(config, before.and_then(|before| before.tokens.as_ref()));
        Ok((Self { agents, keys, anonymous, tokens, people: People::of(config) }, faults))
    }

    /// Who shows these credentials.
    ///
    /// # Errors
    /// `unauthenticated`, in words that do not tell an unknown key from a wrong one.
    pub fn authenticate<'a>(&self, shown: &Credentials<'a>) -> Result<Shown<'a>, Error> {
        let Some(header) = shown.authorization else { return self.keyless(shown).map(Shown::Known) };
        let bearer = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer.filter(|text| !text.starts_with("dw_"))) {
            return Ok(tokens.remembered(token).map_or(Shown::Token(token), Shown::Known));
        }
        let known = bearer.and_then(|key| {
            let (id, secret) = key.strip_prefix("dw_")?.split_once('_')?;
            let (id, (agent, hash)) = self.keys.get_key_value(id)?;
            let principal = || Principal { id: Arc::clone(agent), credential: Arc::clone(id), token: None };
            bool::from(sha256(secret.as_bytes()).ct_eq(hash)).then(principal)
        });
        let unknown = || Error::new(Code::Unauthenticated, "the API key is not one of this gateway, or has been revoked");
        known.map(Shown::Known).ok_or_else(unknown)
    }

    /// Checks an access token.
    ///
    /// # Errors
    /// `unauthenticated`, in the same words whatever is wrong; `upstream_unavailable` where there are no keys to check it with.
    pub async fn accept(&self, token: &str) -> Result<Principal, Error> {
        match &self.tokens {
            Some(tokens) => tokens.accept(token, &self.agents).await,
            None => Err(Error::new(Code::Unauthenticated, "access tokens are not taken here")),
        }
    }

    /// The metadata of this gateway as a protected resource (RFC 9728) at the well-known place of this path; `None` where no tokens are
    /// taken, or the path is another one.
    pub fn metadata(&self, path: &str) -> Option<&Bytes> {
        self.tokens.as_ref().and_then(|tokens| tokens.metadata(path))
    }

    /// What `WWW-Authenticate` says to a request without a credential, or with one that is refused.
    pub fn challenge(&self, was_shown: bool) -> Cow<'static, str> {
        self.tokens.as_ref().map_or(Cow::Borrowed("Bearer realm=\"doorward\""), |tokens| Cow::Owned(tokens.challenge(was_shown)))
    }

    /// What it says to a token that lacks one of these scopes.
    pub fn step_up(&self, scopes: &str) -> Option<String> {
        self.tokens.as_ref().map(|tokens| tokens.step_up(scopes))
    }

    /// Whether an agent has this name, `agent:NAME`.
    pub fn has_agent(&self, id: &str) -> bool {
        self.agents.contains(id)
    }

    /// Whether there is nobody whom one agent could crowd out.
    pub fn has_one_agent(&self) -> bool {
        let keyless = self.anonymous.as_ref().is_some_and(|who| !self.agents.contains(&who.id));
        self.agents.len() + usize::from(keyless) <= 1
    }

    /// Whether the principal would still be let in: its key has not been revoked since, its token has not expired.
    pub fn holds(&self, principal: &Principal) -> bool {
        if let Some(token) = &principal.token {
            return self.agents.contains(&principal.id) && self.tokens.as_ref().is_some_and(|tokens| tokens.holds(token));
        }
        match &*principal.credential {
            "stdio" | "admin" => true,
            "anonymous" => self.anonymous.is_some(),
            id => self.keys.contains_key(id),
        }
    }

    /// Everybody who can approve.
    pub fn people(&self) -> &People {
        &self.people
    }

    /// The person whose key it is; none where it is an agent's too, wherever that one is kept.
    pub fn person(&self, key: &str) -> Option<&Approver> {
        let id = key.strip_prefix("dw_")?.split_once('_')?.0;
        self.people.by_key(key).filter(|_| !self.keys.contains_key(id))
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
        let people = self.people.changes_since(&before.people);
        let mut keys: Vec<String> =
            new.chain(out).chain(people).chain(Tokens::changes(self.tokens.as_ref(), before.tokens.as_ref())).collect();
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

/// An authorization server whose tokens are taken, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The `aud` that they must have.
    pub audience: String,
    /// The claims that name the agent.
    pub agent: String,
    /// The agents that they may name; `None` for all.
    pub agents: Option<Vec<String>>,
    /// The scopes that each of them needs.
    pub scopes: Vec<String>,
    /// The names of its keys, or why there are none; `None` where they were not asked for.
    pub keys: Result<Option<Vec<String>>, Fault>,
}

/// What `identity.jwt` comes to. Key sets at URLs are fetched only with `ask`.
pub async fn trusted(config: &Config, ask: bool) -> Vec<Trusted> {
    let resource = config.identity.resource(&config.listen).unwrap_or_default();
    let mut all = Vec::new();
    for entry in &config.identity.jwt {
        all.push(Trusted {
            issuer: entry.issuer.clone(),
            audience: entry.audience.clone().unwrap_or_else(|| resource.clone()),
            agent: entry.agent_claim.clone().unwrap_or_else(|| tokens::AGENT_CLAIMS.join(", else ")),
            agents: entry.agents.clone(),
            scopes: entry.scopes.clone(),
            keys: keys::names(&entry.jwks, ask).await,
        });
    }
    all
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
