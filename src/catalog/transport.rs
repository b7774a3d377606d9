//! How a manifest says that its tool server is reached.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::sandbox::{Isolation, Sandbox};
use crate::config::Bound;
pub use crate::config::FromEnv;

/// One of the ways to a tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transport {
    /// A child process that speaks MCP on its standard input and output.
    Stdio(Command),
    /// Streamable HTTP.
    Http(Endpoint),
}

/// A command, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program, looked up in `PATH` when it has no slash; `self` is Doorward's own binary.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its whole environment beside `PATH`, `HOME`, `LANG`, `TZ` and `TMPDIR`: nothing else is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, Variable>,
    /// Where it runs; the folder of `doorward.yaml` when left out.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// How it is confined: `default`, `none`, or what it may have beside the default. See docs/sandbox.md.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Which calls share a process: `shared` or `principal`. Default `shared`.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub isolation: Isolation,
    /// With `isolation: principal`: processes at once, 1 to 1024, default 8. Then `concurrency_limited`, unless one is idle.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub max_processes: Bound<8, 1, 1_024>,
    /// With `isolation: principal`: how long an unused process is kept, in seconds: 1 to 86400, default 300.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub idle_s: Bound<300, 1, 86_400>,
}

impl Command {
    /// The package runner that starts it, where it is confined without a network: most ask their registry each time, and give up after long.
    pub fn runner_without_network(&self) -> Option<&str> {
        let name = std::path::Path::new(&self.command).file_name()?.to_str()?;
        let is_runner = ["npx", "npm", "pnpm", "pnpx", "yarn", "bunx", "uvx", "uv", "pipx", "deno"].contains(&name);
        let has_none = self.sandbox.grants().is_some_and(|grants| grants.network == super::sandbox::Network::None);
        (is_runner && has_none).then_some(name)
    }
}

// What is as always leaves no trace in what is told apart by its text.
fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One variable of a command's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Variable {
    /// `inherit`: Doorward's own value.
    Inherit(Inherit),
    /// `{ from_env: NAME }`: Doorward's value of another variable.
    FromEnv(FromEnv),
    /// The value itself; for what is not secret.
    Literal(String),
}

/// The word `inherit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inherit {
    /// Doorward's own value.
    Inherit,
}

/// A streamable HTTP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `https://…`, or `http://…` on loopback; no user name, no fragment.
    pub url: String,
    /// The gateway's own credential for this server; an agent's is never sent on.
    #[serde(default)]
    pub auth: Option<Auth>,
}

/// A credential for a tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer(FromEnv),
    /// Access tokens of an authorization server, by the client credentials grant.
    Oauth(OAuth),
}

/// The gateway as an OAuth client of a tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// The authorization server, letter for letter as its metadata says: the credential goes to no other.
    pub issuer: String,
    /// The name under which the gateway is registered there.
    pub client_id: String,
    /// Its secret; either this or `private_key_jwt`.
    #[serde(default)]
    pub client_secret: Option<FromEnv>,
    /// Its key, by which it proves itself without sending a secret (RFC 7523).
    #[serde(default)]
    pub private_key_jwt: Option<PrivateKey>,
    /// The scopes to ask for. Default none: the server's own choice.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// A private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrivateKey {
    /// PEM file (PKCS#8) of an EC (P-256, P-384), Ed25519 or RSA key, from the folder of `doorward.yaml`.
    pub file: PathBuf,
    /// Its name in the key set that is registered there.
    #[serde(default)]
    pub kid: Option<String>,
}
