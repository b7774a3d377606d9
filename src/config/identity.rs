//! `identity` of `doorward.yaml`: how agents are known that show no API key.
//!
//! INVARIANT: no algorithm is offered that signs and verifies with the same key, so a public key is never taken for a secret.

use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bound, Listen, check_name};
use crate::fetch;

/// How agents without a key are known.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Lets callers without a credential in as one agent; `null` for nobody.
    pub anonymous: Option<Anonymous>,
    /// What access tokens for this gateway name as their audience (RFC 8707): the URL that agents connect to, `https://…` or
    /// on loopback `http://…`, without a slash at its end. Default: what `listen` comes to, where that is one address.
    pub resource: Option<String>,
    /// The authorization servers whose access tokens are taken beside API keys. Default none.
    pub jwt: Vec<Jwt>,
}

/// The keyless agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// The agent's name.
    pub agent: String,
    /// From where: only `loopback`; a request with forwarding headers is never let in.
    pub from: Peers,
}

/// Where a keyless agent may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// This machine.
    Loopback,
}

/// One authorization server whose signed access tokens (RFC 9068) are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The `iss` of its tokens, letter for letter: an https URL, or http on loopback.
    pub issuer: String,
    /// The `aud` that its tokens must have. Default: `identity.resource`.
    #[serde(default)]
    pub audience: Option<String>,
    /// Its public keys.
    pub jwks: Jwks,
    /// The algorithms that it may sign with. Default: all of them.
    #[serde(default = "Algorithm::all")]
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the agent. Default: `client_id`, else `azp`, else `sub`.
    #[serde(default)]
    pub agent_claim: Option<String>,
    /// The agents that its tokens may name, so that a server for some of them cannot speak for the others. Default: every one that is
    /// known here.
    #[serde(default)]
    pub agents: Option<Vec<String>>,
    /// Scopes that each of its tokens must have, whatever is asked. Default none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// How far its clock and ours may differ, in seconds: 0 to 300, default 30.
    #[serde(default)]
    pub leeway_s: Bound<30, 0, 300>,
}

/// Where a key set (RFC 7517) comes from: a file or a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// A JSON file, read at the start and with each reload.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// An https URL, or http on loopback, as the server's metadata names in `jwks_uri`.
    #[serde(default)]
    pub url: Option<String>,
    /// How often the URL is looked at, in seconds: 10 to 86400, default 600. A token with an unknown key has it looked at at once,
    /// but at most every 10 s.
    #[serde(default)]
    pub refresh_s: Bound<600, 10, 86_400>,
    /// How long keys from the URL are used while it cannot be read, in seconds: 1 to 2592000, default 86400. Then its tokens are
    /// refused.
    #[serde(default)]
    pub keep_s: Bound<86_400, 1, 2_592_000>,
}

/// An asymmetric signature algorithm (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// ECDSA with P-256.
    ES256,
    /// ECDSA with P-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// RSA-PSS with SHA-256.
    PS256,
    /// RSA-PSS with SHA-384.
    PS384,
    /// RSA-PSS with SHA-512.
    PS512,
    /// RSA with SHA-256.
    RS256,
    /// RSA with SHA-384.
    RS384,
    /// RSA with SHA-512.
    RS512,
}

impl Algorithm {
    fn all() -> Vec<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        vec![ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512]
    }

    /// The word in a token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
        }
    }
}

/// What is wrong in `identity`, and with which member.
pub(super) struct Wrong {
    member: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: &'static str,
}

impl Wrong {
    /// The member's path in the file.
    pub fn path(&self) -> Vec<&str> {
        std::iter::once("identity").chain(self.member.iter().map(String::as_str)).collect()
    }
}

impl Identity {
    /// The URL by which tokens name this gateway; `None` where neither the file nor the listener's address says it.
    pub fn resource(&self, listen: &Listen) -> Option<String> {
        let derived = || {
            let scheme = if listen.tls.is_some() { "https" } else { "http" };
            let is_one = listen.http.port() != 0 && !listen.http.ip().is_unspecified();
            is_one.then(|| format!("{scheme}://{}{}", listen.http, listen.path.trim_end_matches('/')))
        };
        self.resource.clone().or_else(derived)
    }

    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn check(&self, listen: &Listen) -> Result<(), Wrong> {
        let wrong = |member: &[&str], message: String, help| {
            Err(Wrong { member: member.iter().map(|part| (*part).to_owned()).collect(), message, help })
        };
        if let Some(who) = &self.anonymous
            && let Err(message) = check_name(&who.agent)
        {
            return wrong(&["anonymous", "agent"], message, "name one of `agents`");
        }
        if let Some(resource) = &self.resource
            && let Err(message) = is_canonical(resource)
        {
            return wrong(&["resource"], message, "write the URL that agents connect to, such as `https://tools.example/mcp`");
        }
        if !self.jwt.is_empty() && self.resource(listen).is_none() {
            let message = "`identity.jwt` needs `identity.resource`: `listen.http` is not one address that tokens could name".to_owned();
            return wrong(&["jwt"], message, "write the URL that agents connect to under `identity.resource`");
        }
        for (at, jwt) in self.jwt.iter().enumerate() {
            let number = at.to_string();
            if let Err(message) = fetch::parse(&jwt.issuer) {
                return wrong(&["jwt", &number, "issuer"], message, "write the `iss` of its tokens");
            }
            if self.jwt.iter().take(at).any(|other| other.issuer == jwt.issuer) {
                let message = format!("two entries have the issuer `{}`", jwt.issuer);
                return wrong(&["jwt", &number, "issuer"], message, "keep one of them");
            }
            let file_or_url = match (&jwt.jwks.file, &jwt.jwks.url) {
                (Some(_), None) => Ok(()),
                (None, Some(url)) => fetch::parse(url).map(drop),
                _ => Err("`jwks` is neither one file nor one URL".to_owned()),
            };
            if let Err(message) = file_or_url {
                return wrong(&["jwt", &number, "jwks"], message, "write `jwks: { url: https://… }` or `jwks: { file: keys.json }`");
            }
            if jwt.algorithms.is_empty() {
                return wrong(&["jwt", &number, "algorithms"], "no algorithm is allowed".to_owned(), "name one, or leave it out");
            }
            if let Some(Err(message)) = jwt.agents.iter().flatten().map(|agent| check_name(agent)).find(Result::is_err) {
                return wrong(&["jwt", &number, "agents"], message, "name agents as `agents` does");
            }
            if let Some(bad) = jwt.scopes.iter().find(|scope| !is_scope(scope)) {
                let message = format!("`{}` is not one scope", bad.escape_default());
                return wrong(&["jwt", &number, "scopes"], message, "write each scope by itself, without spaces or quotes");
            }
        }
        Ok(())
    }
}

/// Whether it is one scope (RFC 6749, 3.3).
pub fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Whether it is the form of a resource that clients compare (RFC 8707; MCP, "Canonical Server URI").
fn is_canonical(resource: &str) -> Result<(), String> {
    let uri: Uri = fetch::parse(resource)?;
    let origin_is_lower = resource.split('/').take(3).all(|part| !part.bytes().any(|byte| byte.is_ascii_uppercase()));
    // What goes into a header between quotes.
    let plain = resource.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>".contains(&byte));
    match (resource.ends_with('/'), uri.query(), origin_is_lower && plain) {
        (false, None, true) => Ok(()),
        (true, _, _) => Err(format!("`{resource}` ends with a slash")),
        (_, Some(_), _) => Err(format!("`{resource}` has a query")),
        (_, _, false) => Err(format!("`{}` is not in the form that clients compare", resource.escape_default())),
    }
}
