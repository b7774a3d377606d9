//! One target, which is mostly a tool: what its server says, what its operator says, and how it stands.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::label::Label;
use super::lock::{Definition, DefinitionHash, LIMITS};
use super::manifest::{Defaults, Idempotency, Prefix, ToolEntry, Treatment, Window};
use super::objective::Objective;
use super::param_header::{Found, ParamHeader};
use super::tier::Tier;
use super::{Source, TargetIndex};
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Member, Node};
pub use crate::mcp::messages::Kind;
use crate::schema::{Formats, Schema, SchemaFault, SchemaHash, Schemas};
use crate::seal::{hex, sha256};

/// Up to this many tools, every schema is compiled at load (some 10 µs each); beyond it, at the first call.
pub(super) const EAGER_SCHEMAS: usize = 512;

/// Whether a tool may be called now, as far as reviews go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The live definition is the reviewed one.
    Reviewed,
    /// Its server has not been heard of yet: listed from the lock, and a call waits.
    Unconfirmed,
    /// The live definition differs from the reviewed one.
    Drifted,
    /// The server no longer lists it.
    Gone,
    /// It is in the manifest, and nobody has pinned its definition.
    NotPinned,
    /// It is pinned, and the manifest does not name it.
    NotInManifest,
    /// A schema of it does not compile.
    Schema(String),
}

impl fmt::Display for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reviewed => out.write_str("reviewed"),
            Self::Unconfirmed => out.write_str("not confirmed: its server is not connected yet"),
            Self::Drifted => out.write_str("withheld: its definition differs from the reviewed one"),
            Self::Gone => out.write_str("withheld: its server no longer lists it"),
            Self::NotPinned => out.write_str("withheld: its definition was never pinned"),
            Self::NotInManifest => out.write_str("withheld: the manifest does not name it"),
            Self::Schema(fault) => write!(out, "withheld: {fault}"),
        }
    }
}

impl Standing {
    /// The word of a record for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reviewed => "reviewed",
            Self::Unconfirmed => "not_confirmed",
            Self::Drifted => "drifted",
            Self::Gone => "not_listed",
            Self::NotPinned => "not_pinned",
            Self::NotInManifest => "not_in_manifest",
            Self::Schema(_) => "schema_does_not_compile",
        }
    }
}

/// A schema that may not be compiled yet.
#[derive(Clone, Debug)]
pub struct SchemaText {
    hash: SchemaHash,
    text: Box<[u8]>,
}

impl SchemaText {
    fn new(schema: &Node<'_>) -> Self {
        let mut text = Vec::new();
        write_canonical(schema, &mut text);
        Self::of(text)
    }

    pub(super) fn of(text: Vec<u8>) -> Self {
        Self { hash: sha256(&text), text: text.into() }
    }

    /// The compiled schema.
    ///
    /// # Errors
    /// Why it does not compile.
    pub fn compiled(&self, schemas: &Schemas, formats: Formats) -> Result<Arc<Schema>, SchemaFault> {
        schemas.get(self.hash, &self.text, formats)
    }
}

/// A tool's compiled schemas.
#[derive(Debug)]
pub struct ToolSchemas {
    /// Of its arguments.
    pub input: Arc<Schema>,
    /// Of its structured result, where it declares one.
    pub output: Option<Arc<Schema>>,
}

/// Whether a tool's definition lets a call go on as a task (`execution.taskSupport` of 2025-11-25).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskSupport {
    /// It does not.
    #[default]
    Forbidden,
    /// It may.
    Optional,
    /// It is called in no other way.
    Required,
}

/// What can be called: a tool of the catalog, or a prompt or resource that is made a target for one call.
#[derive(Debug)]
pub struct Target {
    /// Which of them.
    pub kind: Kind,
    /// Its place in the catalog and in the policy's table; only tools have one, all others are decided by name.
    pub index: Option<TargetIndex>,
    /// Its public name; the public URI of a resource.
    pub name: Box<str>,
    /// `UPSTREAM__TOOL`, `prompt:UPSTREAM__PROMPT` or `resource:UPSTREAM:URI`: its name in policies, limits and records,
    /// whatever its public name.
    pub policy_name: Box<str>,
    /// The same with the plain spelling of a resource's URI, where that differs: rules must permit both.
    pub plain_name: Option<Box<str>>,
    /// The server's own name; the server's own URI of a resource.
    pub own_name: Box<str>,
    /// Its upstream's place in the catalog.
    pub upstream: usize,
    /// Its upstream's id.
    pub upstream_id: Box<str>,
    /// The harm it can do: the operator's word, raised where the server's own annotations say more.
    pub tier: Tier,
    /// Whether the tier was taken from annotations alone.
    pub tier_claimed: bool,
    /// The operator's tier, where the annotations raised it.
    pub raised_from: Option<Tier>,
    /// The flow of its data.
    pub labels: Vec<Label>,
    /// How argument values are stored, longest pointer first.
    pub fields: Vec<(String, Treatment)>,
    /// Whether arguments and results are kept sealed, whatever the policy says.
    pub record_payload: bool,
    /// Every member name that the reviewed input schema or a field rule has, at whatever depth, sorted.
    pub argument_names: Vec<Box<str>>,
    /// What makes two calls the same.
    pub idempotency: Idempotency,
    /// How long a repeat is known, in seconds, where the manifest says so.
    pub idempotency_window_s: Option<u64>,
    /// Whether its calls change what its server answered to calls that are told apart by their arguments alone.
    pub voids_repeats: bool,
    /// A tool that undoes this one.
    pub compensation: Option<String>,
    /// Cost units of one call.
    pub cost: u64,
    /// The scope that an access token needs for it.
    pub scope: Option<Box<str>>,
    /// What the server may ask the agent while the call is under way.
    pub may_ask: Capabilities,
    /// The arguments that go into headers too.
    pub headers: Vec<ParamHeader>,
    /// Whether a call may go on as a task.
    pub task: TaskSupport,
    /// Longest wait for a result, or for progress where a call can last longer, in milliseconds.
    pub timeout_ms: u64,
    /// Longest time of a call whatever progress it makes, in milliseconds; at least `timeout_ms`.
    pub max_timeout_ms: u64,
    /// Longest wait for the beginning of an answer, in milliseconds, where that is bounded by itself.
    pub first_byte_timeout_ms: Option<u64>,
    /// Longest wait for a place among the calls under way, in milliseconds.
    pub queue_timeout_ms: u64,
    /// How often a call may be sent again.
    pub retries: u32,
    /// Longest wait for the answers to all its questions, in milliseconds.
    pub interaction_timeout_ms: u64,
    /// Longest wait for the connection, in milliseconds.
    pub connect_grace_ms: u64,
    /// Largest result in bytes.
    pub max_result_bytes: usize,
    /// Whether formats refuse.
    pub formats: Formats,
    /// How often it has to work.
    pub objective: Option<Box<Objective>>,
    /// The reviewed definition's hash.
    pub hash: DefinitionHash,
    /// `sha256:` and the hash in hex, as records have it.
    pub hash_text: Box<str>,
    /// The reviewed definition under the public name, as `tools/list` shows it.
    pub listed: Bytes,
    /// The same for the handshake revisions, where it differs: they have no output schema but of `type: object`, and their
    /// clients refuse a whole list over another.
    pub listed_legacy: Option<Bytes>,
    /// Why it is withheld whatever its server says.
    pub withheld: Option<Standing>,
    /// Whether the upstream's names are public as they are.
    pub prefix: Prefix,
    pub(super) input: Option<SchemaText>,
    pub(super) output: Option<SchemaText>,
}

/// All tools that the manifest or the lock of an upstream names.
pub(super) fn of_source(index: usize, source: &Source) -> Vec<Target> {
    let manifest = &source.manifest;
    let names = manifest.tools.keys().chain(source.lock.tools.keys().filter(|name| !manifest.tools.contains_key(*name)));
    names.map(|name| tool(index, source, name)).collect()
}

fn tool(index: usize, source: &Source, own_name: &str) -> Target {
    let (manifest, defaults) = (&source.manifest, &source.manifest.defaults);
    let entry = manifest.tools.get(own_name);
    let definition = source.lock.tools.get(own_name);
    let node = definition.and_then(Definition::node);
    let declared = entry.map_or(Tier::Irreversible, |entry| entry.tier);
    let tier = node.as_ref().map_or(declared, |node| raised(declared, node));
    let policy_name = format!("{}__{own_name}", manifest.upstream);
    let name = super::public_name(manifest.prefix, &manifest.upstream, own_name);
    let withheld = match (entry, definition) {
        (None, _) => Some(Standing::NotInManifest),
        (_, None) => Some(Standing::NotPinned),
        _ => None,
    };
    let params = node.as_ref().and_then(|node| node.get("inputSchema")).map(Found::of).unwrap_or_default();
    let repaired = definition.and_then(|definition| params.repaired(&definition.text));
    if repaired.is_some() {
        tracing::warn!(tool = policy_name, "an unsound `x-mcp-header` of the input schema is not published");
    }
    let published = match &repaired {
        Some(text) => json::parse(text, LIMITS).ok(),
        None => node.clone(),
    };
    let (timeout_ms, max_timeout_ms, first_byte_timeout_ms) = times(entry, defaults);
    let schema = |member: &str| node.as_ref().and_then(|node| node.get(member)).map(SchemaText::new);
    Target {
        kind: Kind::Tool,
        index: None,
        listed: published.as_ref().map(|node| renamed(node, &name, true)).unwrap_or_default(),
        listed_legacy: published.as_ref().filter(|node| !has_legacy_output(node)).map(|node| renamed(node, &name, false)),
        name: name.into(),
        policy_name: policy_name.into(),
        plain_name: None,
        own_name: own_name.into(),
        upstream: index,
        upstream_id: manifest.upstream.as_str().into(),
        tier,
        tier_claimed: source.claimed,
        raised_from: (tier != declared).then_some(declared),
        labels: manifest.labels_of(own_name).to_vec(),
        argument_names: argument_names(node.as_ref().and_then(|node| node.get("inputSchema")), entry),
        fields: fields(entry),
        record_payload: entry.is_some_and(|entry| entry.record_payload),
        idempotency: entry.map(|entry| entry.idempotency.clone()).unwrap_or_default(),
        idempotency_window_s: entry.and_then(|entry| entry.idempotency_window_s).or(defaults.idempotency_window_s).map(Window::value),
        voids_repeats: tier != Tier::Read && manifest.tools.values().any(|entry| entry.idempotency == Idempotency::ByArguments),
        compensation: entry.and_then(|entry| entry.compensation.clone()),
        cost: entry.map(|entry| entry.cost).unwrap_or_default().value(),
        scope: entry.and_then(|entry| entry.scope.as_deref()).map(Box::from),
        may_ask: manifest.may_ask(),
        headers: params.headers,
        task: node.as_ref().map(task_support).unwrap_or_default(),
        timeout_ms,
        max_timeout_ms,
        first_byte_timeout_ms,
        queue_timeout_ms: defaults.queue_timeout_ms.value(),
        retries: entry.and_then(|entry| entry.retries).unwrap_or(defaults.retries).size() as u32,
        interaction_timeout_ms: defaults.interaction_timeout_ms.value(),
        connect_grace_ms: defaults.connect_grace_ms.value(),
        max_result_bytes: entry.and_then(|entry| entry.max_result_bytes).unwrap_or(defaults.max_result_bytes).size(),
        formats: entry.and_then(|entry| entry.formats).unwrap_or(defaults.formats),
        objective: entry.and_then(|entry| Objective::of(entry, defaults)).map(Box::new),
        hash: definition.map(|definition| definition.hash).unwrap_or_default(),
        hash_text: definition.map(|definition| format!("sha256:{}", hex(&definition.hash))).unwrap_or_default().into(),
        withheld,
        prefix: manifest.prefix,
        input: schema("inputSchema"),
        output: schema("outputSchema"),
    }
}

/// How long a call waits for its result, how long it lasts at most, and how long it waits for the beginning of its answer.
fn times(entry: Option<&ToolEntry>, defaults: &Defaults) -> (u64, u64, Option<u64>) {
    let timeout = entry.and_then(|entry| entry.timeout_ms).unwrap_or(defaults.timeout_ms).value();
    let max = entry.and_then(|entry| entry.max_timeout_ms).or(defaults.max_timeout_ms).map_or(0, |max| max.value());
    let first_byte = entry.and_then(|entry| entry.first_byte_timeout_ms).or(defaults.first_byte_timeout_ms);
    (timeout, max.max(timeout), first_byte.map(|wait| wait.value()))
}

fn task_support(definition: &Node<'_>) -> TaskSupport {
    match definition.pointer("/execution/taskSupport").and_then(Node::as_str) {
        Some("optional") => TaskSupport::Optional,
        Some("required") => TaskSupport::Required,
        _ => TaskSupport::Forbidden,
    }
}

fn fields(entry: Option<&ToolEntry>) -> Vec<(String, Treatment)> {
    let mut fields: Vec<_> = entry.map(|entry| entry.fields.clone().into_iter().collect()).unwrap_or_default();
    fields.sort_by_key(|(pointer, _): &(String, Treatment)| std::cmp::Reverse(pointer.len()));
    fields
}

fn argument_names(schema: Option<&Node<'_>>, entry: Option<&ToolEntry>) -> Vec<Box<str>> {
    let rules = entry.iter().flat_map(|entry| entry.fields.keys()).flat_map(|pointer| pointer.split('/').skip(1));
    let mut names: Vec<Box<str>> = rules.map(|name| name.replace("~1", "/").replace("~0", "~").into()).collect();
    if let Some(schema) = schema {
        property_names(schema, &mut names);
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Wherever `properties` stand: a schema may describe a part of the arguments far from its root, as under `$defs`.
fn property_names(schema: &Node<'_>, names: &mut Vec<Box<str>>) {
    for member in schema.members() {
        if member.key == "properties" {
            names.extend(member.node.members().iter().map(|property| Box::from(&*property.key)));
        }
        property_names(&member.node, names);
    }
    schema.items().iter().for_each(|item| property_names(item, names));
}

/// A server that says of its tool what a `read` tool is not raises the tier. It never lowers one, and it does not overrule
/// an operator who has declared that a change can be undone.
fn raised(declared: Tier, definition: &Node<'_>) -> Tier {
    let hint = |name| definition.get("annotations").and_then(|hints| hints.get(name)).and_then(Node::as_bool);
    match (declared, hint("readOnlyHint"), hint("destructiveHint")) {
        (Tier::Read, Some(false) | None, Some(true)) => Tier::Irreversible,
        (Tier::Read, Some(false), _) => Tier::Reversible,
        _ => declared,
    }
}

/// The tier that annotations claim, for `wrap`, where nobody has said anything else.
pub fn claimed_tier(definition: &Node<'_>) -> Tier {
    let hint = |name| definition.get("annotations").and_then(|hints| hints.get(name)).and_then(Node::as_bool);
    match (hint("readOnlyHint"), hint("destructiveHint")) {
        (Some(true), _) => Tier::Read,
        (_, Some(false)) => Tier::Reversible,
        _ => Tier::Irreversible,
    }
}

fn has_legacy_output(definition: &Node<'_>) -> bool {
    definition.get("outputSchema").is_none_or(|schema| schema.get("type").and_then(Node::as_str) == Some("object"))
}

/// What agents are shown. Whether a call becomes a task is between the gateway and the server, so `execution` is left out:
/// clients would call a tool that demands tasks in a way that is not served here, or not at all.
fn renamed(definition: &Node<'_>, name: &str, with_output: bool) -> Bytes {
    let mut out = Vec::new();
    let shown = |member: &&Member<'_>| member.key != "execution" && (with_output || member.key != "outputSchema");
    for member in definition.members().iter().filter(shown) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        write_string(&member.key, &mut out);
        out.push(b':');
        if member.key == "name" {
            write_string(name, &mut out);
        } else {
            write_canonical(&member.node, &mut out);
        }
    }
    out.push(b'}');
    out.into()
}

impl Target {
    /// The compiled schemas of input and output. Both, because a call whose result cannot be checked is not made.
    ///
    /// # Errors
    /// Why there are none: the tool is withheld then.
    pub fn schemas(&self, schemas: &Schemas) -> Result<ToolSchemas, Standing> {
        let compile = |text: &SchemaText| text.compiled(schemas, self.formats).map_err(|fault| Standing::Schema(fault.to_string()));
        let input = compile(self.input.as_ref().ok_or(Standing::NotPinned)?)?;
        Ok(ToolSchemas { input, output: self.output.as_ref().map(compile).transpose()? })
    }

    /// The names by which rules know it.
    pub fn policy_names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.policy_name), self.plain_name.as_ref()].into_iter().flatten().map(|name| &**name)
    }

    /// Whether sending the same call twice is declared harmless.
    pub fn is_idempotent(&self) -> bool {
        self.idempotency != Idempotency::None || self.tier == Tier::Read
    }

    /// Compiles the schemas now, and withholds the tool where one does not compile.
    pub(super) fn compile(&mut self, schemas: &Schemas) {
        if self.withheld.is_none() {
            self.withheld = self.schemas(schemas).err();
        }
    }
}
