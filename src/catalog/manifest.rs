//! `tool-manifests/NAME.yaml`: what people write of one tool server, as checked types.
//!
//! Leaves to `lock` what the server said of itself and people have reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::label::{Label, MAX_LABELS, MAX_TEAM_LABELS};
use super::objective::{self, Burn, Goal, OnBurn};
use super::tier::Tier;
use super::transport::Transport;
use crate::config::{Bound, Fault, fault_at, is_scope, parse_yaml, read_text};
use crate::mcp::capabilities::Capabilities;
use crate::schema::Formats;

/// One upstream: how to reach it, and what each of its tools may do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its id: `[a-z0-9-]{1,32}`. A tool's public name is `ID__TOOL`.
    pub upstream: String,
    /// How it is reached.
    pub transport: Transport,
    /// `none` gives tools their own names; only where this is the one upstream. Default `upstream`.
    #[serde(default)]
    pub prefix: Prefix,
    /// What the server may ask an agent while a call is under way: `elicitation`, `sampling`, `roots`. Default none.
    #[serde(default)]
    pub may_ask: Vec<Ask>,
    /// What holds for every tool that does not say otherwise.
    #[serde(default)]
    pub defaults: Defaults,
    /// The prompts of the server.
    #[serde(default)]
    pub prompts: Offered,
    /// The resources of the server.
    #[serde(default)]
    pub resources: Offered,
    /// The tools that may be called, by the server's own name. What is not named here is not callable.
    #[serde(default)]
    pub tools: BTreeMap<String, ToolEntry>,
}

/// How public names are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// `UPSTREAM__TOOL`.
    #[default]
    Upstream,
    /// `TOOL`; policies, limits and records name `UPSTREAM__TOOL` all the same. Only for a single upstream.
    None,
}

/// What a server may ask an agent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What the person at the agent has to say.
    Elicitation,
    /// What the agent's model has to say.
    Sampling,
    /// The folders that the agent works in.
    Roots,
}

impl Ask {
    fn capabilities(self) -> Capabilities {
        match self {
            Self::Elicitation => Capabilities::ELICIT_FORM.union(Capabilities::ELICIT_URL),
            Self::Sampling => Capabilities::SAMPLING.union(Capabilities::SAMPLING_TOOLS).union(Capabilities::SAMPLING_CONTEXT),
            Self::Roots => Capabilities::ROOTS,
        }
    }
}

/// Bounds of an upstream's calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Longest wait for a result, in milliseconds: 1 to 3600000, default 30000. Then `upstream_timeout`.
    pub timeout_ms: Bound<30_000, 1, 3_600_000>,
    /// Where it is longer than `timeout_ms`: each progress that the server tells lets a call wait for `timeout_ms` once more, and no call
    /// lasts longer than this, in milliseconds: 1 to 86400000. By default progress changes nothing.
    pub max_timeout_ms: Option<Bound<600_000, 1, 86_400_000>>,
    /// Longest wait for the beginning of an answer, in milliseconds: 1 to 3600000. Over HTTP its head, on pipes progress or the answer
    /// itself. Default `timeout_ms`. Then `upstream_timeout`.
    pub first_byte_timeout_ms: Option<Bound<10_000, 1, 3_600_000>>,
    /// Longest time for a connection to be made, with its handshake, and for one page of a list, in milliseconds: 10 to 600000, default
    /// 30000.
    pub connect_timeout_ms: Bound<30_000, 10, 600_000>,
    /// Longest wait for the server to be connected before a call fails, in milliseconds: 0 to 60000, default 5000.
    pub connect_grace_ms: Bound<5_000, 0, 60_000>,
    /// Longest wait for an agent's answers to a server's questions, in milliseconds: 1000 to 3600000, default 600000.
    pub interaction_timeout_ms: Bound<600_000, 1_000, 3_600_000>,
    /// Largest result in bytes: 256 to 268435456, default 1048576. Then `result_too_large`.
    pub max_result_bytes: Bound<1_048_576, 256, 268_435_456>,
    /// Calls at once: 1 to 65536, default 16. Further ones wait.
    pub concurrency: Bound<16, 1, 65_536>,
    /// How many of them may be one agent's: 1 to 65536. By default three quarters of `concurrency`, or all where only one agent
    /// is known; it bounds the processes that an agent holds while it is asked something, too. Its further calls wait.
    pub concurrency_per_agent: Option<Bound<12, 1, 65_536>>,
    /// Calls that wait for a place: 0 to 65536, default 64. Places go to the agents in turn. Further calls are `concurrency_limited` at
    /// once, all of them with 0.
    pub queue: Bound<64, 0, 65_536>,
    /// How many of them may be one agent's: 0 to 65536. By default three quarters of `queue`, or all where only one agent is known.
    pub queue_per_agent: Option<Bound<48, 0, 65_536>>,
    /// Longest wait for a place, in milliseconds: 0 to 600000, default 5000. Then `concurrency_limited`.
    pub queue_timeout_ms: Bound<5_000, 0, 600_000>,
    /// How often a call is sent again that has failed in a way that may pass: 0 to 5, default 1. Only where nothing of it had left, or the
    /// tool is `read` or declares its `idempotency`, and within `timeout_ms` and the budget.
    pub retries: Bound<1, 0, 5>,
    /// How many of a hundred calls may be sent again: 0 to 100, default 10. Up to ten are saved up.
    pub retry_budget_percent: Bound<10, 0, 100>,
    /// Whether `format` in schemas refuses or annotates. Default `assert`.
    pub formats: Formats,
    /// What all that the server has does to the flow of data: tools, prompts and resources. Default nothing.
    pub labels: Vec<Label>,
    /// How long a repeat of a call is answered with its stored result, in seconds from its end: 1 to 2592000. Default 86400; 600 where calls are
    /// told apart by their arguments alone.
    pub idempotency_window_s: Option<Window>,
    /// How often each tool has to work, such as `99.5%/30d`: so many of a hundred calls, over so many days. Default none: then none is counted.
    pub slo: Option<Goal>,
    /// Whether a result by which a tool itself says that it failed (`isError`) counts as a failure of it. Default false: mostly it says what the
    /// agent did wrong.
    pub slo_tool_errors: bool,
    /// What follows while an error budget burns too fast, beside a warning and a record: `alert` (nothing else), `slow` (a quarter of
    /// `concurrency`) or `approve:ROLE` (a person says yes to each call). By default the burn rate is only shown.
    pub on_burn: Option<OnBurn>,
    /// What is too fast.
    pub burn: Burn,
}

/// How long a repeat is known, in seconds.
pub type Window = Bound<86_400, 1, 2_592_000>;

/// What the operator says of all prompts, or of all resources.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Offered {
    /// What they do to the flow of data, in place of the default; `[]` for nothing.
    pub labels: Option<Vec<Label>>,
}

/// Cost units of one call: 0 to 1000000, default 1. What a unit is worth is the operator's to say.
pub type Cost = Bound<1, 0, 1_000_000>;

/// What the operator says of one tool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// The harm that it can do.
    pub tier: Tier,
    /// What it does to the flow of data, in place of the default: `private`, `untrusted`, `outward`, `team:NAME`; `[]` for nothing.
    #[serde(default)]
    pub labels: Option<Vec<Label>>,
    /// How argument values are stored in records, by JSON Pointer; `keyed` where nothing is said.
    #[serde(default)]
    pub fields: BTreeMap<String, Treatment>,
    /// Whether arguments and results are kept whole beside the audit log, sealed to `audit.payloads.openers`. A policy row can ask for it too; the
    /// two add up. Default false.
    #[serde(default)]
    pub record_payload: bool,
    /// Which calls are the same call, a repeat of which does no harm: `none`, `by_arguments` (equal arguments) or `key:POINTER` (equal values at that
    /// place of the arguments, such as `key:/order`). A repeat is answered with the stored result. Default `none`.
    #[serde(default)]
    pub idempotency: Idempotency,
    /// In place of the default, in seconds.
    #[serde(default)]
    pub idempotency_window_s: Option<Window>,
    /// The public name of a tool that undoes this one; an agent is told of it where a call of this one failed after it may have taken effect.
    #[serde(default)]
    pub compensation: Option<String>,
    /// The scope that an agent's access token needs for it, such as `files.write`; API keys have no scopes. Default none.
    #[serde(default)]
    pub scope: Option<String>,
    /// Cost units of one call. Default 1.
    #[serde(default)]
    pub cost: Cost,
    /// In place of the default, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<Bound<30_000, 1, 3_600_000>>,
    /// In place of the default, in milliseconds.
    #[serde(default)]
    pub max_timeout_ms: Option<Bound<600_000, 1, 86_400_000>>,
    /// In place of the default, in milliseconds.
    #[serde(default)]
    pub first_byte_timeout_ms: Option<Bound<10_000, 1, 3_600_000>>,
    /// In place of the default.
    #[serde(default)]
    pub retries: Option<Bound<1, 0, 5>>,
    /// In place of the default, in bytes.
    #[serde(default)]
    pub max_result_bytes: Option<Bound<1_048_576, 256, 268_435_456>>,
    /// In place of the default.
    #[serde(default)]
    pub formats: Option<Formats>,
    /// In place of the default; `none` for none.
    #[serde(default)]
    pub slo: Option<Goal>,
    /// In place of the default.
    #[serde(default)]
    pub slo_tool_errors: Option<bool>,
    /// In place of the default.
    #[serde(default)]
    pub on_burn: Option<OnBurn>,
    /// In place of the default.
    #[serde(default)]
    pub burn: Option<Burn>,
}

/// How a value is stored in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// As it is.
    Plain,
    /// As a keyed hash: equal values show as equal, and nothing else.
    Keyed,
    /// Its type and length.
    Class,
    /// Not at all.
    Drop,
}

/// What makes two calls the same call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: each call acts.
    #[default]
    None,
    /// Equal arguments.
    ByArguments,
    /// The value at a JSON Pointer.
    Key(String),
}

impl Serialize for Idempotency {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_str("none"),
            Self::ByArguments => out.serialize_str("by_arguments"),
            Self::Key(pointer) => out.serialize_str(&format!("key:{pointer}")),
        }
    }
}

impl<'de> Deserialize<'de> for Idempotency {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let word = String::deserialize(input)?;
        match (word.as_str(), word.strip_prefix("key:")) {
            ("none", _) => Ok(Self::None),
            ("by_arguments", _) => Ok(Self::ByArguments),
            (_, Some(pointer)) if pointer.starts_with('/') => Ok(Self::Key(pointer.to_owned())),
            _ => Err(serde::de::Error::custom(format!("`{word}` is not `none`, `by_arguments` or `key:/POINTER`"))),
        }
    }
}

impl JsonSchema for Idempotency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Idempotency".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(none|by_arguments|key:/.*)$", "default": "none" })
    }
}

impl Manifest {
    /// The capabilities that `may_ask` comes to.
    pub fn may_ask(&self) -> Capabilities {
        self.may_ask.iter().fold(Capabilities::default(), |set, ask| set.union(ask.capabilities()))
    }

    /// The labels of a tool.
    pub fn labels_of(&self, tool: &str) -> &[Label] {
        self.tools.get(tool).map_or(&[], |entry| entry.labels.as_ref().unwrap_or(&self.defaults.labels))
    }

    /// The labels of prompts.
    pub fn prompt_labels(&self) -> &[Label] {
        self.prompts.labels.as_ref().unwrap_or(&self.defaults.labels)
    }

    /// The labels of resources.
    pub fn resource_labels(&self) -> &[Label] {
        self.resources.labels.as_ref().unwrap_or(&self.defaults.labels)
    }

    /// Every list of labels, and where it stands.
    fn label_lists(&self) -> impl Iterator<Item = (Vec<&str>, &[Label])> {
        let offered = [("prompts", &self.prompts), ("resources", &self.resources)];
        let offered = offered.into_iter().filter_map(|(kind, offered)| Some((vec![kind, "labels"], offered.labels.as_deref()?)));
        let tools = self.tools.iter().filter_map(|(tool, entry)| Some((vec!["tools", tool, "labels"], entry.labels.as_deref()?)));
        std::iter::once((vec!["defaults", "labels"], &*self.defaults.labels)).chain(offered).chain(tools)
    }

    /// Reads and checks one manifest.
    ///
    /// # Errors
    /// A [`Fault`] with its place.
    pub fn load(file: &Path) -> Result<Self, Fault> {
        let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
        Self::parse(file, &text)
    }

    /// Checks the text of one manifest, whose file is named so.
    ///
    /// # Errors
    /// A [`Fault`] with its place.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Fault> {
        let manifest: Self = parse_yaml(file, text)?;
        let fault = |path: &[&str], message: String| fault_at(file, text, path, message);
        let id = &manifest.upstream;
        let sound = (1..=32).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !sound {
            let message = format!("`upstream: {}` is not an id", id.escape_default());
            return Err(fault(&["upstream"], message).help("write 1 to 32 of `a-z`, `0-9` and `-`"));
        }
        if file.file_stem().is_some_and(|stem| stem != id.as_str()) {
            let message = format!("the file is named otherwise than its `upstream: {id}`");
            return Err(fault(&["upstream"], message).help(format!("name it `{id}.yaml`")));
        }
        for (path, labels) in manifest.label_lists() {
            if labels.len() > MAX_LABELS {
                return Err(fault(&path, format!("there are {} labels: write at most {MAX_LABELS}", labels.len())));
            }
            if let Some(twice) = labels.iter().enumerate().find_map(|(at, label)| labels.get(..at)?.contains(label).then_some(label)) {
                return Err(fault(&path, format!("`{twice}` stands there twice")).help("write each label once"));
            }
        }
        if let Some((at, message, help)) = objective::wrong(&manifest) {
            return Err(fault(&at, message).help(help));
        }
        for (tool, entry) in &manifest.tools {
            if let Some(pointer) = entry.fields.keys().find(|pointer| !pointer.starts_with('/') && !pointer.is_empty()) {
                let message = format!("`{pointer}` in the fields of `{tool}` is not a JSON Pointer");
                return Err(fault(&["tools", tool, "fields", pointer], message).help(format!("write `/{pointer}`")));
            }
            if let Some(scope) = entry.scope.as_ref().filter(|scope| !is_scope(scope)) {
                let message = format!("`{}` of `{tool}` is not one scope", scope.escape_default());
                return Err(fault(&["tools", tool, "scope"], message).help("write one scope, without spaces or quotes"));
            }
        }
        Ok(manifest)
    }
}

/// Every manifest of the folder, sorted by name.
///
/// # Errors
/// All faults, not only the first.
pub fn load_folder(folder: &Path) -> Result<Vec<Manifest>, Vec<Fault>> {
    let entries = std::fs::read_dir(folder).map_err(|error| vec![Fault::file(folder, format!("cannot be read: {error}"))])?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    let (mut manifests, mut faults) = (Vec::new(), Vec::new());
    for file in &files {
        match Manifest::load(file) {
            Ok(manifest) => manifests.push(manifest),
            Err(fault) => faults.push(fault),
        }
    }
    for (index, manifest) in manifests.iter().enumerate() {
        if manifests.iter().take(index).any(|other| other.upstream == manifest.upstream) {
            faults.push(Fault::file(folder, format!("two manifests name the upstream `{}`", manifest.upstream)));
        }
        if manifest.prefix == Prefix::None && manifests.len() > 1 {
            let message = format!("`prefix: none` of `{}` needs it to be the only upstream", manifest.upstream);
            faults.push(Fault::file(folder, message).help("take `prefix: none` out"));
        }
    }
    let labels = manifests.iter().flat_map(Manifest::label_lists).flat_map(|(_, labels)| labels);
    let own: BTreeSet<&Label> = labels.filter(|label| matches!(label, Label::Team(_))).collect();
    if own.len() > MAX_TEAM_LABELS {
        faults.push(Fault::file(folder, format!("the manifests have {} labels of the team's own: at most {MAX_TEAM_LABELS}", own.len())));
    }
    if faults.is_empty() { Ok(manifests) } else { Err(faults) }
}
