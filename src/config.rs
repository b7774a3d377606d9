//! The file an operator writes, `doorward.yaml`: plain data with a doc line per field, and [`Fault`], the one form in
//! which anything wrong with any file of the operator's is told.
//!
//! Leaves to others: manifests (`catalog::manifest`), rows and limits (`policy`, `limit`), and what the values mean.
//! INVARIANT: unknown keys are refused; every path is resolved against the folder of the file.

mod anchor;
mod audit;
mod bound;
mod guarded;
mod idempotency;
mod identity;
mod labels;
mod listen;
mod payloads;
mod people;
mod place;
mod rate;
mod settled;
mod signed;
mod telemetry;
mod webhook;

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::anchor::{Anchor, Every, FileAnchor, GitAnchor, PutAnchor, StdoutAnchor, SyslogAnchor};
pub use self::audit::{Audit, Durability, DurabilityByTier};
pub use self::bound::{Bound, KeyText, LogName};
pub use self::guarded::Guarded;
pub use self::idempotency::Idempotency;
pub use self::identity::{Algorithm, Anonymous, Identity, Jwks, Jwt, Peers, is_scope};
pub use self::labels::{Labels, ToxicFlow};
pub use self::listen::{Http2, Listen, Tls};
pub use self::payloads::{OpenerKey, Openers, Payloads};
pub use self::people::{Approvals, Person};
pub use self::place::fault_at;
pub use self::rate::{MAX_COUNT, Rate};
pub use self::signed::Signed;
pub use self::telemetry::{Otlp, Ratio, Telemetry};
pub use self::webhook::{Along, Secret, Webhook};

/// Something wrong in a file of the operator's, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as the operator names it.
    pub file: PathBuf,
    /// Line from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Column from 1; 0 when the whole line is meant.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Fault {
    /// A fault of the whole file.
    pub fn file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), help: None }
    }

    /// A fault at a place.
    pub fn at(file: &Path, line: u64, column: u64, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, column, message: message.into(), help: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file.display())?;
        if self.line > 0 {
            write!(out, ":{}", self.line)?;
            if self.column > 0 {
                write!(out, ":{}", self.column)?;
            }
        }
        write!(out, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(out, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// `doorward.yaml`. Every field may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where agents connect, and what one connection or message may cost.
    pub listen: Listen,
    /// Health and metrics, for operators.
    pub console: Console,
    /// `doorward stdio`.
    pub stdio: Stdio,
    /// The agents whose keys are kept in this file; `doorward agent add` keeps them in the state database instead.
    pub agents: Vec<Agent>,
    /// The people who may act on the gateway.
    pub people: Vec<Person>,
    /// What waits for people.
    pub approvals: Approvals,
    /// What is kept of calls so that a repeat does not act again.
    pub idempotency: Idempotency,
    /// What follows from the labels of what an agent has called.
    pub labels: Labels,
    /// How agents are known that show no API key.
    pub identity: Identity,
    /// Folder of one manifest and one lock per upstream. Default `tool-manifests`.
    pub manifests: Folder<Manifests>,
    /// Folder of the policy's files. Default `policies`.
    pub policies: Folder<Policies>,
    /// Whose signatures these files need.
    pub policy: Signed,
    /// Folder for keys, the state database and the admin socket; mode 0700. Default `var`.
    pub state: Folder<State>,
    /// The audit log.
    pub audit: Audit,
    /// What is told to collectors of traces.
    pub telemetry: Telemetry,
    /// The file that all this was read from; none where it was made for one command.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the file and resolves its paths against its folder.
    ///
    /// # Errors
    /// A [`Fault`] with line and column for what cannot be read, and for an address, a name or a hash that cannot be served.
    pub fn load(file: &Path) -> Result<Self, Fault> {
        let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
        let mut config: Self = parse_yaml(file, &text)?;
        config.resolve(file.parent().unwrap_or(Path::new("")));
        config.file = Some(file.to_owned());
        config.check(file, &text)?;
        Ok(config)
    }

    /// Makes every path absolute or relative to where the process runs, as `folder` is.
    pub fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.manifests.path, &mut self.policies.path, &mut self.state.path, &mut self.audit.dir.path] {
            *path = folder.join(&*path);
        }
        self.audit.anchors.iter_mut().for_each(|anchor| anchor.resolve(folder));
        self.approvals.webhook.iter_mut().for_each(|to| to.resolve(folder));
        if let Some(tls) = &mut self.listen.tls {
            tls.certificate = folder.join(&tls.certificate);
            tls.key = folder.join(&tls.key);
        }
        self.identity.jwt.iter_mut().filter_map(|jwt| jwt.jwks.file.as_mut()).for_each(|file| *file = folder.join(&*file));
    }

    /// Where the private keys of the audit log are: not among the keys that are backed up, or shared by gateways with one front.
    pub fn log_keys(&self) -> PathBuf {
        self.state.path.join("log-keys")
    }

    fn check(&self, file: &Path, text: &str) -> Result<(), Fault> {
        let fault = |path: &[&str], message: String| fault_at(file, text, path, message);
        if !self.listen.http.ip().is_loopback() && self.listen.tls.is_none() {
            let message = format!("`listen.http: {}` is reachable from other machines, and there is no `listen.tls`", self.listen.http);
            let help = "listen on 127.0.0.1, or name a certificate and a key under `listen.tls`";
            return Err(fault(&["listen", "http"], message).help(help));
        }
        if let Some(console) = self.console.http.filter(|address| !address.ip().is_loopback()) {
            let message = format!("`console.http: {console}` is reachable from other machines");
            return Err(fault(&["console", "http"], message).help("the console is for this machine only: use 127.0.0.1"));
        }
        if !self.listen.path.starts_with('/') {
            return Err(fault(&["listen", "path"], "`listen.path` must begin with `/`".to_owned()));
        }
        if let Some(at) = self.listen.allowed_origins.iter().position(|origin| !is_origin(origin)) {
            let message =
                format!("`listen.allowed_origins` has `{}`, which no browser sends", self.listen.allowed_origins[at].escape_default());
            let help = "write `https://HOST` or `https://HOST:PORT`: lower case, no path, and no port where it is the scheme's own";
            return Err(fault(&["listen", "allowed_origins", &at.to_string()], message).help(help));
        }
        let agents = self.agents.iter().map(|agent| (&agent.name, &agent.key_hash)).enumerate();
        let people = self.people.iter().map(|person| (&person.name, &person.key_hash)).enumerate();
        let all = agents.map(|agent| ("agents", agent)).chain(people.map(|person| ("people", person)));
        for (list, (at, (name, hash))) in all {
            let at = at.to_string();
            check_name(name).map_err(|message| fault(&[list, &at, "name"], message))?;
            let sound = |hash: &String| hash.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_lower_hex));
            if hash.as_ref().is_some_and(|hash| !sound(hash)) {
                let message = format!("the `key_hash` of `{name}` is not `sha256:` and 64 lower-case hex digits");
                let help = match list {
                    "people" => "`doorward approvals keygen NAME --out FILE` makes a key and its hash",
                    _ => "`doorward agent add NAME --print-hash` makes a key and its hash",
                };
                return Err(fault(&[list, &at, "key_hash"], message).help(help));
            }
        }
        for (at, anchor) in self.audit.anchors.iter().enumerate() {
            anchor.check().map_err(|message| fault(&["audit", "anchors", &at.to_string()], message))?;
        }
        self.check_people()
            .and_then(|()| self.check_openers())
            .and_then(|()| self.check_signed())
            .and_then(|()| self.check_labels())
            .and_then(|()| self.check_webhook())
            .and_then(|()| self.check_telemetry())
            .map_err(|wrong| {
                let path: Vec<&str> = wrong.path.iter().map(String::as_str).collect();
                fault(&path, wrong.message.clone()).help(wrong.help)
            })?;
        check_name(&self.stdio.agent).map_err(|message| fault(&["stdio", "agent"], message))?;
        self.identity.check(&self.listen).map_err(|wrong| fault(&wrong.path(), wrong.message.clone()).help(wrong.help))?;
        Ok(())
    }
}

/// A value that stands in Doorward's environment, so that no secret stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FromEnv {
    /// The variable's name.
    pub from_env: String,
}

/// Whether `name` can name an agent, a person or a role: `[a-z0-9-]{1,64}`.
pub fn check_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Ok(());
    }
    Err(format!("`{}` is not a name: write 1 to 64 of `a-z`, `0-9` and `-`", name.escape_default()))
}

/// Whether it is an origin of the web as browsers write it (RFC 6454, 6.2).
fn is_origin(origin: &str) -> bool {
    let (authority, own_port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, "80"),
        Some(("https", authority)) => (authority, "443"),
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte);
    let number = |port: &str| port != own_port && port.parse().is_ok_and(|number: u16| number.to_string() == port);
    !host.is_empty() && host.bytes().all(letter) && port.is_none_or(number)
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// A folder with a default that its marker names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Folder<D> {
    path: PathBuf,
    #[serde(skip)]
    default: std::marker::PhantomData<D>,
}

/// Names a folder's default path.
pub trait DefaultPath {
    /// The path, relative to the configuration file.
    const PATH: &'static str;
}

macro_rules! folders {
    ($($name:ident = $path:literal),+) => { $(
        #[doc = concat!("Defaults to `", $path, "`.")]
        #[derive(Clone, Debug)]
        pub struct $name;
        impl DefaultPath for $name { const PATH: &'static str = $path; }
    )+ };
}
folders!(Manifests = "tool-manifests", Policies = "policies", State = "var", AuditDir = "var/audit");

impl<D: DefaultPath> Default for Folder<D> {
    fn default() -> Self {
        Self::from(PathBuf::from(D::PATH))
    }
}

impl<D> From<PathBuf> for Folder<D> {
    fn from(path: PathBuf) -> Self {
        Self { path, default: std::marker::PhantomData }
    }
}

impl<D> AsRef<Path> for Folder<D> {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl<D: DefaultPath> JsonSchema for Folder<D> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Path".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "default": D::PATH })
    }
}

/// The operators' listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// Address and port of `/healthz`, `/readyz` and `/metrics`; `null` for none. Loopback only. Default `127.0.0.1:8809`.
    pub http: Option<SocketAddr>,
}

impl Default for Console {
    fn default() -> Self {
        Self { http: Some(SocketAddr::from(([127, 0, 0, 1], 8809))) }
    }
}

/// Clients that start `doorward stdio`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stdio {
    /// The agent that such a client acts for. Default `local`.
    pub agent: String,
}

impl Default for Stdio {
    fn default() -> Self {
        Self { agent: "local".to_owned() }
    }
}

/// One agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name: `[a-z0-9-]{1,64}`; in policy rows `agent:NAME`.
    pub name: String,
    /// `sha256:` and the hex SHA-256 of the secret part of its key; `doorward agent add --print-hash` makes both.
    #[serde(default)]
    pub key_hash: Option<String>,
}

/// Largest file that people write, in bytes: some hundred thousand rows, or ten thousand definitions.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads a text that people write. A pipe, a device or an endless file is refused, so that none can hold a reload up.
///
/// # Errors
/// What the file system says, or that it is no regular file of a bounded size.
pub fn read_text(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if !std::fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let read = std::fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES { Err(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes"))) } else { Ok(text) }
}

/// Reads a YAML file into its type, with line and column in every fault.
pub fn read_yaml<T: DeserializeOwned>(file: &Path) -> Result<T, Fault> {
    let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
    parse_yaml(file, &text)
}

/// Parses YAML text that came from `file`.
pub fn parse_yaml<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Fault> {
    let empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let text = if empty { "{}" } else { text };
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        // The library repeats the place behind its sentence; the fault says it once, in front.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).lines().next().unwrap_or_default();
        // What a programmer could set is no help to an operator.
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message).to_owned();
        Fault::at(file, place.map_or(0, |at| at.line()), place.map_or(0, |at| at.column()), message)
    })
}
