//! The file `limits.yaml` as types: strict, with a place for every fault.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use serde_saphyr::Spanned;

use crate::config::{Bound, Fault, MAX_COUNT, Rate, parse_yaml};
use crate::policy::suggest::{did_you_mean, skeleton};
use crate::policy::{Names, Pattern, parse_pattern, upstream_and_name};

/// The longest that an empty bucket may take to fill, so that no wait is absurd.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub limits: Vec<Row>,
    pub requests: Requests,
    pub floods: Floods,
    pub max_keys: Bound<100_000, 16, 10_000_000>,
}

/// One limit as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub id: Spanned<String>,
    pub per: Vec<Per>,
    pub of: Spanned<String>,
    pub rate: Rate,
    pub burst: Option<Burst>,
}

/// What has a bucket of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Per {
    Agent,
    Target,
}

/// What is limited before anything is parsed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Requests {
    pub per_agent: Rate,
    pub failures_per_peer: Rate,
}

impl Default for Requests {
    fn default() -> Self {
        Self { per_agent: Rate::per_second(200), failures_per_peer: Rate::per_second(5) }
    }
}

/// When repeated refusals become one record.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floods {
    /// Refusals of one agent, code and target recorded one by one in a window: 1 to 1000, default 5.
    pub first: Bound<5, 1, 1_000>,
    /// The window, in milliseconds: 100 to 60000, default 1000.
    pub window_ms: Bound<1_000, 100, 60_000>,
}

/// How many may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst(pub NonZeroU32);

impl<'de> Deserialize<'de> for Burst {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(input)?;
        let burst = u32::try_from(count).ok().filter(|count| *count <= MAX_COUNT).and_then(NonZeroU32::new);
        burst.map(Self).ok_or_else(|| D::Error::custom(format!("{count} is out of bounds: 1 to {MAX_COUNT}")))
    }
}

/// The file's JSON Schema, for editors.
pub fn schema() -> serde_json::Value {
    let rate = serde_json::json!({ "type": "string", "pattern": "^[1-9][0-9]{0,6}/(s|min|h)$", "description": "N/s, N/min or N/h" });
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "limits.yaml",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "limits": { "type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["id", "per", "of", "rate"],
                "properties": {
                    "id": { "type": "string", "description": "its name in errors and records" },
                    "per": { "type": "array", "items": { "enum": ["agent", "target"] }, "description": "what has a bucket of its own" },
                    "of": { "type": "string", "description": "a target, or a prefix and a star" },
                    "rate": rate,
                    "burst": { "type": "integer", "minimum": 1, "maximum": MAX_COUNT },
                },
            } },
            "requests": { "type": "object", "additionalProperties": false, "properties": { "per_agent": rate, "failures_per_peer": rate } },
            "floods": { "type": "object", "additionalProperties": false, "properties": {
                "first": { "type": "integer", "minimum": 1, "maximum": 1000, "default": 5 },
                "window_ms": { "type": "integer", "minimum": 100, "maximum": 60000, "default": 1000 },
            } },
            "max_keys": { "type": "integer", "minimum": 16, "maximum": 10000000, "default": 100000 },
        },
    })
}

impl File {
    /// Reads the text; each limit comes with its pattern.
    pub fn read(file: &Path, text: &str, names: &Names<'_>) -> Result<(Self, Vec<Pattern>), Vec<Fault>> {
        let read: Self = parse_yaml(file, text).map_err(|fault| vec![fault])?;
        let (mut faults, mut patterns, mut ids) = (Vec::new(), Vec::new(), HashMap::new());
        for row in &read.limits {
            let fault = |of: &Spanned<String>, message: String| Fault::at(file, of.referenced.line(), of.referenced.column(), message);
            let id = &row.id.value;
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if id.is_empty() || id.len() > 64 || !id.bytes().all(sound) {
                let message = format!("`{}` is not an id", id.escape_default());
                faults.push(fault(&row.id, message).help("write 1 to 64 letters, digits, `-`, `_` or `.`, such as `L1`"));
            }
            if id.starts_with("requests.") {
                faults.push(fault(&row.id, format!("`{id}` is taken")).help("ids that begin with `requests.` name what stands there"));
            }
            if let Some(other) = ids.insert(skeleton(id), id) {
                faults.push(
                    fault(&row.id, format!("the id `{id}` is taken, or looks like another (`{other}`)"))
                        .help("give the limit an id of its own"),
                );
            }
            if row.per.len() == 2 && row.per[0] == row.per[1] || row.per.len() > 2 {
                faults.push(
                    fault(&row.id, format!("`per` of `{id}` says the same twice")).help("write [agent], [target], [agent, target] or []"),
                );
            }
            let burst = row.burst.map_or(row.rate.burst(), |burst| burst.0);
            if row.rate.interval().saturating_mul(burst.get()) > LONGEST {
                let message = format!("`{id}` takes longer than a year to fill: a burst of {burst} at {}", row.rate);
                faults.push(fault(&row.id, message).help("lower the burst or raise the rate"));
            }
            match pattern(&row.of.value, names) {
                Ok(pattern) => patterns.push(pattern),
                Err((message, help)) => faults.push(fault(&row.of, message).help(help)),
            }
        }
        if faults.is_empty() { Ok((read, patterns)) } else { Err(faults) }
    }
}

/// The pattern of a text, about an upstream that exists: a misspelt limit limits nothing.
fn pattern(text: &str, names: &Names<'_>) -> Result<Pattern, (String, String)> {
    let pattern = parse_pattern(text).map_err(|(message, help)| (message, help.to_owned()))?;
    match upstream_and_name(pattern.stem()) {
        Some((upstream, _)) if !names.upstreams.iter().any(|known| known == upstream) => {
            let otherwise = format!("the upstreams are `{}`", names.upstreams.join("`, `"));
            let help = did_you_mean(upstream, names.upstreams.iter().map(String::as_str), otherwise);
            Err((format!("there is no upstream `{}`", upstream.escape_default()), help))
        }
        _ => Ok(pattern),
    }
}
