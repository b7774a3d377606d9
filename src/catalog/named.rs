//! Prompts and resources as targets of one call: nobody pins them, so each is made when it is named.
//!
//! INVARIANT: such a target has no place in the policy's table: it is seen, decided and limited by its name.

use super::address;
use super::manifest::{Cost, Idempotency};
use super::spelling::Spelling;
use super::target::{Kind, SchemaText, Target, TaskSupport};
use super::tier::Tier;
use super::{Item, Source};
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::messages::Method;
use crate::seal::{hex, sha256};

/// What `resources/read` takes beside the URI.
const NOTHING: &[u8] = br#"{"additionalProperties":false,"type":"object"}"#;
/// What `completion/complete` takes as its `argument`.
const ARGUMENT: &[u8] =
    br#"{"properties":{"name":{"type":"string"},"value":{"type":"string"}},"required":["name","value"],"type":"object"}"#;
/// Longest name of a prompt, in bytes.
const MAX_NAME: usize = 128;
/// Bounds of one definition.
const LIMITS: Limits = Limits { depth: 64, nodes: 20_000 };

/// Whether a prompt's name can stand in rules and records.
pub(super) fn is_prompt_name(own: &str) -> bool {
    !own.is_empty() && own.len() <= MAX_NAME && !own.chars().any(char::is_control)
}

/// `prompt:UPSTREAM__NAME`.
pub fn prompt_policy_name(upstream: &str, own: &str) -> String {
    format!("prompt:{upstream}__{own}")
}

/// `resource:UPSTREAM:TEMPLATE`, as it is written: for what is shown of a template.
pub fn template_policy_name(upstream: &str, own: &str) -> String {
    format!("resource:{upstream}:{own}")
}

/// The names by which rules know one target: all must be permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyNames {
    /// The name in limits and records.
    pub name: Box<str>,
    /// For a resource: the same with the plain spelling of its URI, where that differs.
    pub plain: Option<Box<str>>,
}

impl PolicyNames {
    /// Of a target that has one name.
    pub fn one(name: String) -> Self {
        Self { name: name.into(), plain: None }
    }

    /// `resource:UPSTREAM:URI`, the URI being the server's own, in its spellings; `None` for what is no URI.
    pub fn resource(upstream: &str, own: &str) -> Option<Self> {
        let Spelling { normal, plain } = Spelling::of(own)?;
        let named = |uri: String| format!("resource:{upstream}:{uri}").into();
        Some(Self { name: named(normal), plain: plain.map(named) })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        [Some(&self.name), self.plain.as_ref()].into_iter().flatten().map(|name| &**name)
    }
}

impl Target {
    /// A prompt under its public name. Without its definition the server has not been heard of yet.
    pub fn prompt(at: usize, source: &Source, name: &str, own: &str, definition: Option<&Item>, method: Method) -> Self {
        let node = definition.and_then(|item| json::parse(&item.json, LIMITS).ok());
        let arguments = node.as_ref().and_then(|node| node.get("arguments")).map(Node::items).unwrap_or_default();
        let named = arguments.iter().filter_map(|argument| argument.get("name").and_then(Node::as_str));
        let mut names: Vec<Box<str>> = named.map(Box::from).collect();
        names.sort_unstable();
        names.dedup();
        let input = if method == Method::Complete { ARGUMENT.to_vec() } else { strings(arguments) };
        let policy_names = PolicyNames::one(prompt_policy_name(&source.manifest.upstream, own));
        let hash = definition.map(|item| sha256(&item.json)).unwrap_or_default();
        Self {
            argument_names: if method == Method::Complete { argument_members() } else { names },
            hash_text: definition.map(|_| format!("sha256:{}", hex(&hash))).unwrap_or_default().into(),
            hash,
            ..by_name(Kind::Prompt, at, source, (name, own), policy_names, input)
        }
    }

    /// A resource, or for completion a template, under its public URI; `None` for what is no URI.
    pub fn resource(at: usize, source: &Source, uri: &str, own: &str, method: Method) -> Option<Self> {
        let (input, names) = match method {
            Method::Complete => (ARGUMENT, argument_members()),
            _ => (NOTHING, Vec::new()),
        };
        let policy_names = PolicyNames::resource(&source.manifest.upstream, own)?;
        Some(Self { argument_names: names, ..by_name(Kind::Resource, at, source, (uri, own), policy_names, input.to_vec()) })
    }

    /// The URI of one of the same server's resources, as agents see it.
    pub fn public_uri<'u>(&self, own: &'u str) -> std::borrow::Cow<'u, str> {
        address::public(self.prefix, &self.upstream_id, own)
    }
}

fn argument_members() -> Vec<Box<str>> {
    vec!["name".into(), "value".into()]
}

fn by_name(kind: Kind, at: usize, source: &Source, (name, own): (&str, &str), policy_names: PolicyNames, input: Vec<u8>) -> Target {
    let (manifest, defaults) = (&source.manifest, &source.manifest.defaults);
    Target {
        kind,
        index: None,
        name: name.into(),
        policy_name: policy_names.name,
        plain_name: policy_names.plain,
        own_name: own.into(),
        upstream: at,
        upstream_id: manifest.upstream.as_str().into(),
        tier: Tier::Read,
        tier_claimed: source.claimed,
        raised_from: None,
        labels: if kind == Kind::Prompt { manifest.prompt_labels() } else { manifest.resource_labels() }.to_vec(),
        fields: Vec::new(),
        record_payload: false,
        argument_names: Vec::new(),
        idempotency: Idempotency::None,
        idempotency_window_s: None,
        voids_repeats: false,
        objective: None,
        compensation: None,
        cost: Cost::default().value(),
        scope: None,
        may_ask: manifest.may_ask(),
        headers: Vec::new(),
        task: TaskSupport::Forbidden,
        timeout_ms: defaults.timeout_ms.value(),
        max_timeout_ms: defaults.max_timeout_ms.map_or(0, |max| max.value()).max(defaults.timeout_ms.value()),
        first_byte_timeout_ms: defaults.first_byte_timeout_ms.map(|wait| wait.value()),
        queue_timeout_ms: defaults.queue_timeout_ms.value(),
        retries: defaults.retries.size() as u32,
        interaction_timeout_ms: defaults.interaction_timeout_ms.value(),
        connect_grace_ms: defaults.connect_grace_ms.value(),
        max_result_bytes: defaults.max_result_bytes.size(),
        formats: defaults.formats,
        hash: [0; 32],
        hash_text: "".into(),
        listed: bytes::Bytes::new(),
        listed_legacy: None,
        withheld: None,
        prefix: manifest.prefix,
        input: Some(SchemaText::of(input)),
        output: None,
    }
}

/// The schema of a prompt's arguments: strings, those that the server requires among them.
fn strings(arguments: &[Node<'_>]) -> Vec<u8> {
    let mut out = br#"{"additionalProperties":{"type":"string"},"required":["#.to_vec();
    let required = |argument: &&Node<'_>| argument.get("required").and_then(Node::as_bool) == Some(true);
    let names = arguments.iter().filter(required).filter_map(|argument| argument.get("name").and_then(Node::as_str));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, &mut out);
    }
    out.extend_from_slice(br#"],"type":"object"}"#);
    out
}
