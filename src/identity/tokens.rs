//! Access tokens of authorization servers (RFC 9068): which are accepted, as whom, and what those without one are told.
//!
//! Owns: the checks of a token, what is remembered of those that passed, the metadata of this gateway as a protected resource
//! (RFC 9728) and its challenges (RFC 6750). Leaves to others: where keys come from (`keys`), what an agent may do (`policy`).
//!
//! INVARIANT: a token is accepted for its own issuer's key, algorithm, audience and time, each looked at in every request.
//! INVARIANT: a token's text is in no record, log, error or request upstream; what names it is a part of its hash.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dashmap::DashMap;
use http::Uri;

use super::keys::{Keys, Missing};
use super::{Principal, agent_id};
use crate::clock::Clock;
use crate::config::{Algorithm, Config, Fault, Jwks, Jwt, check_name};
use crate::error::{Code, Error};
use crate::fetch;
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Node, Value};
use crate::seal::{hex, sha256};

/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// What a token's two documents may hold.
const LIMITS: json::Limits = json::Limits { depth: 16, nodes: 2_048 };
/// Longest name in a claim, in bytes.
const MAX_NAME: usize = 256;
/// Most actors of a delegation.
const MAX_ACTORS: usize = 8;
/// Accepted tokens that are remembered: some hundred bytes each. Only tokens that passed every check take a place.
const MAX_REMEMBERED: usize = 8_192;
/// The claims that may name the agent, in this order.
pub(super) const AGENT_CLAIMS: [&str; 3] = ["client_id", "azp", "sub"];
/// Where the metadata of a protected resource stands (RFC 9728, 3).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What an accepted token says beside the agent's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// For whom the agent acts, where that is not itself.
    pub on_behalf_of: Option<Box<str>>,
    /// Who acts for whom, the last one first (RFC 8693, `act`).
    pub actors: Vec<Box<str>>,
    scopes: Vec<Box<str>>,
    /// The entry under which it was accepted.
    entry: Arc<Jwt>,
    key: [u8; 32],
    /// In seconds since 1970, the leeway added.
    expires: i64,
}

impl Token {
    /// The authorization server that issued it.
    pub fn issuer(&self) -> &str {
        &self.entry.issuer
    }

    /// Whether it grants the scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| &**own == scope)
    }

    /// The scopes of this operation that it lacks some of; none where it lacks none. `target` is what the target asks for.
    pub fn lacks(&self, target: Option<&str>) -> Option<String> {
        let all = self.entry.scopes.iter().map(String::as_str).chain(target);
        let has = |scope: &str| self.scopes.iter().any(|own| &**own == scope);
        let mut needed: Vec<&str> = Vec::new();
        all.for_each(|scope| {
            if !needed.contains(&scope) {
                needed.push(scope);
            }
        });
        (!needed.iter().all(|scope| has(scope))).then(|| needed.join(" "))
    }
}

/// Why a token is refused, for the operator.
type Refusal = &'static str;

/// What its header and claims say, before anything is proved.
struct Claims {
    issuer: String,
    kid: Option<String>,
    algorithm: Algorithm,
    agent: String,
    token: Token,
}

#[derive(Debug)]
struct Issuer {
    entry: Arc<Jwt>,
    audience: String,
    keys: Arc<Keys>,
}

/// Everything that decides on tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    issuers: Vec<Issuer>,
    accepted: DashMap<[u8; 32], Principal>,
    clock: Clock,
    metadata: Bytes,
    /// The URL of the metadata.
    located: String,
    /// The path of this gateway as agents know it, which a proxy in front may have from elsewhere.
    path: String,
    /// The scopes that every token needs, each once.
    scopes: String,
}

impl Tokens {
    /// What `identity.jwt` comes to; `None` where it is empty. Keys that are fetched carry over from `before`. A key file that cannot
    /// be read lets nobody in and is a fault.
    pub(super) fn load(config: &Config, before: Option<&Self>) -> (Option<Self>, Vec<Fault>) {
        let (entries, mut faults) = (&config.identity.jwt, Vec::new());
        let resource = match config.identity.resource(&config.listen) {
            Some(resource) if !entries.is_empty() => resource,
            _ => return (None, faults),
        };
        // Taken without asking, by the crate's features, as long as nobody switches another on.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let carried = |source: &Jwks| {
            let same = |issuer: &&Issuer| source.url.is_some() && issuer.keys.source() == source;
            before.and_then(|before| before.issuers.iter().find(same)).map(|issuer| Arc::clone(&issuer.keys))
        };
        let issuers: Vec<_> = entries
            .iter()
            .map(|entry| {
                let source = &entry.jwks;
                let keys = carried(source).or_else(|| Some(Keys::of_url(source, fetch::parse(source.url.as_deref()?).ok()?)));
                let keys = keys.unwrap_or_else(|| {
                    let read = source.file.as_deref().map(|file| Keys::of_file(source, file));
                    read.unwrap_or_else(|| Ok(Keys::none(source))).unwrap_or_else(|fault| {
                        faults.push(fault);
                        Keys::none(source)
                    })
                });
                let audience = entry.audience.clone().unwrap_or_else(|| resource.clone());
                Issuer { entry: Arc::new(entry.clone()), audience, keys }
            })
            .collect();
        let mut scopes: Vec<&str> = entries.iter().flat_map(|entry| &entry.scopes).map(String::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let tokens = Self {
            metadata: metadata(&resource, entries, &scopes),
            located: located(&resource),
            path: path(&resource),
            scopes: scopes.join(" "),
            issuers,
            accepted: DashMap::new(),
            clock: Clock::system(),
        };
        (Some(tokens), faults)
    }

    /// Which authorization servers' tokens are taken otherwise than before, in words.
    pub(super) fn changes(now: Option<&Self>, before: Option<&Self>) -> Vec<String> {
        let entries = |tokens: Option<&Self>| tokens.iter().flat_map(|tokens| &tokens.issuers).map(|one| Arc::clone(&one.entry)).collect();
        let (now, before): (Vec<Arc<Jwt>>, Vec<Arc<Jwt>>) = (entries(now), entries(before));
        let named = |entry: &&Arc<Jwt>, all: &[Arc<Jwt>]| all.iter().any(|other| other.issuer == entry.issuer);
        let new = now.iter().filter(|entry| !before.contains(entry)).map(|entry| {
            let how = if named(&entry, &before) { "otherwise" } else { "now" };
            format!("tokens of {} are taken {how}", entry.issuer)
        });
        let out = before.iter().filter(|entry| !named(entry, &now)).map(|entry| format!("tokens of {} are refused", entry.issuer));
        new.chain(out).collect()
    }

    /// The metadata of this gateway as a protected resource, which stands at the well-known place of this path.
    pub(super) fn metadata(&self, path: &str) -> Option<&Bytes> {
        (path.is_empty() || path == self.path).then_some(&self.metadata)
    }

    /// The challenge for a request without a token, or with one that is refused.
    pub(super) fn challenge(&self, was_shown: bool) -> String {
        let error = if was_shown { "error=\"invalid_token\", " } else { "" };
        let scope = if self.scopes.is_empty() { String::new() } else { format!(", scope=\"{}\"", self.scopes) };
        format!("Bearer {error}resource_metadata=\"{}\"{scope}", self.located)
    }

    /// The challenge for a token that lacks a scope of the operation.
    pub(super) fn step_up(&self, scopes: &str) -> String {
        format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\", resource_metadata=\"{}\"", self.located)
    }

    /// Whose token this is, where it was accepted before and still would be.
    pub(super) fn remembered(&self, token: &str) -> Option<Principal> {
        let hash = sha256(token.as_bytes());
        let known = self.accepted.get(&hash)?;
        if known.token.as_ref().is_some_and(|token| self.holds(token)) {
            return Some(known.clone());
        }
        drop(known);
        self.accepted.remove(&hash);
        None
    }

    /// Whether an accepted token still would be: its entry, its key, its time.
    pub(super) fn holds(&self, token: &Token) -> bool {
        let same = |issuer: &&Issuer| Arc::ptr_eq(&issuer.entry, &token.entry) || issuer.entry == token.entry;
        token.expires > self.clock.unix_seconds() && self.issuers.iter().find(same).is_some_and(|issuer| issuer.keys.hold(&token.key))
    }

    /// Checks a token and remembers whose it is.
    ///
    /// # Errors
    /// `unauthenticated`, in the same words whatever is wrong; `upstream_unavailable` where there are no keys to check it with.
    pub(super) async fn accept(&self, token: &str, agents: &HashSet<Arc<str>>) -> Result<Principal, Error> {
        let claims = self.claims(token).map_err(refused)?;
        let issuer = self.issuer(&claims.issuer).map_err(refused)?;
        let key = issuer.keys.find(claims.kid.as_deref(), claims.algorithm).await.map_err(|missing| match missing {
            Missing::Unknown => refused("its issuer has no such key"),
            Missing::Unavailable => unavailable(),
        })?;
        let (message, signature) = token.rsplit_once('.').unwrap_or_default();
        if !key.verifies(signature, message.as_bytes(), claims.algorithm) {
            return Err(refused("its signature is wrong"));
        }
        let id = check_name(&claims.agent).ok().and_then(|()| agents.get(&*agent_id(&claims.agent)));
        let id = id.ok_or_else(|| refused("the agent that it names is not known"))?;
        if issuer.entry.agents.as_ref().is_some_and(|named| !named.contains(&claims.agent)) {
            return Err(refused("its issuer does not speak for the agent that it names"));
        }
        let hash = sha256(token.as_bytes());
        let credential = format!("jwt:{}", hex(hash.get(..16).unwrap_or_default()));
        let token = Token { key: *key.print(), ..claims.token };
        let principal = Principal { id: Arc::clone(id), credential: credential.into(), token: Some(Arc::new(token)) };
        self.remember(hash, principal.clone());
        Ok(principal)
    }

    fn remember(&self, hash: [u8; 32], principal: Principal) {
        if self.accepted.len() >= MAX_REMEMBERED {
            self.accepted.retain(|_, known| known.token.as_ref().is_some_and(|token| self.holds(token)));
            if self.accepted.len() >= MAX_REMEMBERED {
                self.accepted.clear();
            }
        }
        self.accepted.insert(hash, principal);
    }

    fn issuer(&self, name: &str) -> Result<&Issuer, Refusal> {
        self.issuers.iter().find(|issuer| issuer.entry.issuer == name).ok_or("its issuer is not one of `identity.jwt`")
    }

    /// Reads a token and checks everything but its signature and its agent.
    fn claims(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err("it is longer than a token may be");
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("it is neither an API key nor a signed token");
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "it is not Base64url");
        let (header, payload) = (decode(header)?, decode(payload)?);
        let parse = |text| json::parse(text, LIMITS).ok().filter(Node::is_object).ok_or("its header or its claims are not one JSON object");
        let (header, claims) = (parse(&header)?, parse(&payload)?);
        let name = text(&claims, "iss")?.ok_or("it names no issuer")?;
        let issuer = self.issuer(&name)?;
        let (algorithm, kid) = signed_by(&header, &issuer.entry)?;
        let audience = |node: &Node<'_>| node.as_str() == Some(&issuer.audience);
        let is_ours = claims.get("aud").is_some_and(|named| audience(named) || named.items().iter().any(audience));
        if !is_ours {
            return Err("its audience is not this gateway");
        }
        let expires = self.within_its_time(&claims, &issuer.entry)?;
        if claims.get("cnf").is_some() {
            return Err("it is bound to a key of its sender, which is not checked here");
        }
        let agent = agent(&claims, &issuer.entry)?;
        let subject = text(&claims, "sub")?.filter(|subject| *subject != agent);
        let token = Token {
            on_behalf_of: subject.map(|subject| subject.as_str().into()),
            actors: actors(&claims)?,
            scopes: scopes(&claims)?,
            entry: Arc::clone(&issuer.entry),
            key: [0; 32],
            expires,
        };
        Ok(Claims { issuer: name, kid, algorithm, agent, token })
    }

    /// When it expires, the leeway added.
    fn within_its_time(&self, claims: &Node<'_>, entry: &Jwt) -> Result<i64, Refusal> {
        let (now, leeway) = (self.clock.unix_seconds(), i64::try_from(entry.leeway_s.value()).unwrap_or(0));
        let expires = time(claims, "exp")?.ok_or("it never expires")?.saturating_add(leeway);
        if expires <= now {
            return Err("it has expired");
        }
        match time(claims, "nbf")? {
            Some(begins) if begins > now.saturating_add(leeway) => Err("it is not valid yet"),
            _ => Ok(expires),
        }
    }
}

fn refused(reason: Refusal) -> Error {
    Error::new(Code::Unauthenticated, "the access token is not accepted here")
        .suggest("get a new token for this gateway from an authorization server that its resource metadata names")
        .operator(format_args!("a token was refused: {reason}"))
}

fn unavailable() -> Error {
    Error::new(Code::UpstreamUnavailable, "the access token cannot be checked now")
        .wire(-31040, 503)
        .retry_after_ms(5_000)
        .suggest("wait for `retry_after_ms`, then send the same request again")
        .operator("the keys of the token's issuer are not there, or are too old")
}

/// The algorithm and the key's name. What a token itself brings along as a key is never looked at.
fn signed_by(header: &Node<'_>, entry: &Jwt) -> Result<(Algorithm, Option<String>), Refusal> {
    if header.get("crit").is_some() {
        return Err("its header says that it must be understood otherwise");
    }
    let kind = text(header, "typ")?.unwrap_or_default().to_ascii_lowercase();
    if !matches!(kind.strip_prefix("application/").unwrap_or(&kind), "" | "jwt" | "at+jwt") {
        return Err("it is a token of another kind");
    }
    let word = text(header, "alg")?.ok_or("it names no algorithm")?;
    let algorithm = entry.algorithms.iter().copied().find(|algorithm| algorithm.as_str() == word);
    Ok((algorithm.ok_or("its algorithm is not allowed")?, text(header, "kid")?))
}

/// A member that is a text of bounded length without control characters; an empty one is none.
fn text(node: &Node<'_>, member: &str) -> Result<Option<String>, Refusal> {
    let Some(value) = node.get(member) else { return Ok(None) };
    let value = value.as_str().filter(|text| text.len() <= MAX_NAME && !text.chars().any(char::is_control));
    value.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty())).ok_or("a claim cannot be read")
}

/// A member that is a number of seconds since 1970, its fraction left out.
fn time(claims: &Node<'_>, member: &str) -> Result<Option<i64>, Refusal> {
    let Some(node) = claims.get(member) else { return Ok(None) };
    let seconds = match node.value {
        Value::Number(digits) => digits.parse::<f64>().ok(),
        _ => None,
    };
    // Beyond the year 10000 nobody means a time.
    let seconds = seconds.map(f64::floor).filter(|seconds| (0.0..253_402_300_800.0).contains(seconds));
    #[allow(clippy::cast_possible_truncation, reason = "the range was just checked")]
    seconds.map(|seconds| Some(seconds as i64)).ok_or("a time in it cannot be read")
}

fn agent(claims: &Node<'_>, entry: &Jwt) -> Result<String, Refusal> {
    let usual = || AGENT_CLAIMS.into_iter().find(|claim| claims.get(claim).is_some());
    let claim = entry.agent_claim.as_deref().or_else(usual).ok_or("it names no agent")?;
    text(claims, claim)?.ok_or("it names no agent")
}

/// The scopes, as one text (RFC 9068) or as a list, which some servers call `scp`.
fn scopes(claims: &Node<'_>) -> Result<Vec<Box<str>>, Refusal> {
    let Some(node) = claims.get("scope").or_else(|| claims.get("scp")) else { return Ok(Vec::new()) };
    match &node.value {
        Value::String(words) => Ok(words.split_ascii_whitespace().map(Box::from).collect()),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(Box::from)).collect::<Option<_>>().ok_or("its scopes cannot be read")
        }
        _ => Err("its scopes cannot be read"),
    }
}

/// The chain of `act`, outermost first.
fn actors(claims: &Node<'_>) -> Result<Vec<Box<str>>, Refusal> {
    let (mut actors, mut next) = (Vec::new(), claims.get("act"));
    while let Some(actor) = next {
        let name = text(actor, "sub")?.or(text(actor, "client_id")?).ok_or("its chain of actors cannot be read")?;
        actors.push(name.into());
        if actors.len() > MAX_ACTORS {
            return Err("its chain of actors is too long");
        }
        next = actor.get("act");
    }
    Ok(actors)
}

/// The URL of the metadata of a resource (RFC 9728, 3.1).
fn located(resource: &str) -> String {
    let uri: Uri = resource.parse().unwrap_or_default();
    let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |authority| authority.as_str()));
    format!("{scheme}://{authority}{WELL_KNOWN}{}", path(resource))
}

fn path(resource: &str) -> String {
    let uri: Uri = resource.parse().unwrap_or_default();
    uri.path().trim_end_matches('/').to_owned()
}

fn metadata(resource: &str, entries: &[Jwt], scopes: &[&str]) -> Bytes {
    let quoted = |text: &str, out: &mut Vec<u8>| write_string(text, out);
    let list = |items: &mut dyn Iterator<Item = &str>, out: &mut Vec<u8>| {
        out.push(b'[');
        for (at, item) in items.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            quoted(item, out);
        }
        out.push(b']');
    };
    let mut out = b"{\"resource\":".to_vec();
    quoted(resource, &mut out);
    out.extend_from_slice(b",\"authorization_servers\":");
    list(&mut entries.iter().map(|entry| entry.issuer.as_str()), &mut out);
    if !scopes.is_empty() {
        out.extend_from_slice(b",\"scopes_supported\":");
        list(&mut scopes.iter().copied(), &mut out);
    }
    out.extend_from_slice(b",\"bearer_methods_supported\":[\"header\"],\"resource_name\":\"Doorward\"}");
    out.into()
}

/// Whom what an agent keeps belongs to: two people behind one agent are two.
pub(super) fn bound(principal: &Principal) -> Cow<'_, str> {
    match principal.token.as_ref().and_then(|token| token.on_behalf_of.as_deref()) {
        Some(person) => Cow::Owned(format!("{} for {person}", principal.id)),
        None => Cow::Borrowed(&principal.id),
    }
}
