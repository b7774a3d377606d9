//! The file `limits.yaml` as types: strict, with a place for every fault.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use serde_saphyr::Spanned;

use super::SHIPPED;
use super::written::{self, BudgetRow, LoopRow, MAX_LOOPS, at};
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
    /// Left out, those of the shipped file: an agent that goes round in circles is stopped unless somebody has said otherwise.
    loops: Option<Vec<LoopRow>>,
    budgets: Vec<BudgetRow>,
    pub requests: Requests,
    pub floods: Floods,
    pub max_keys: Bound<100_000, 16, 10_000_000>,
}

/// What was read, with the patterns of each row.
#[derive(Debug)]
pub(super) struct Read {
    pub path: PathBuf,
    pub file: File,
    pub patterns: Vec<Pattern>,
    pub loops: Vec<(LoopRow, Pattern, Vec<Pattern>)>,
    pub budgets: Vec<(BudgetRow, Pattern)>,
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
            "loops": written::loops_schema(),
            "budgets": written::budgets_schema(),
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
    /// Reads the text; each row comes with its patterns.
    pub fn read(path: &Path, text: &str, names: &Names<'_>) -> Result<Read, Vec<Fault>> {
        let mut file: Self = parse_yaml(path, text).map_err(|fault| vec![fault])?;
        if file.loops.is_none() {
            let shipped: Self = parse_yaml(path, SHIPPED).map_err(|fault| vec![fault])?;
            file.loops = shipped.loops;
        }
        let mut reader = Reader { path, names, ids: HashMap::new(), faults: Vec::new() };
        let patterns: Vec<_> = file.limits.iter().filter_map(|row| reader.limit(row)).collect();
        let rows = file.loops.take().unwrap_or_default();
        if let Some(beyond) = rows.get(MAX_LOOPS) {
            reader
                .faults
                .push(at(path, &beyond.id, format!("more than {MAX_LOOPS} loop rules")).help("join some, with patterns and `except`"));
        }
        let loops: Vec<_> = rows.into_iter().filter_map(|row| reader.loop_rule(row)).collect();
        let budgets: Vec<_> = std::mem::take(&mut file.budgets).into_iter().filter_map(|row| reader.budget(row)).collect();
        let read = Read { path: path.to_owned(), file, patterns, loops, budgets };
        if reader.faults.is_empty() { Ok(read) } else { Err(reader.faults) }
    }
}

/// Looks at one row after another, and remembers what is wrong.
struct Reader<'r> {
    path: &'r Path,
    names: &'r Names<'r>,
    ids: HashMap<String, String>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn limit(&mut self, row: &Row) -> Option<Pattern> {
        self.id(&row.id);
        let id = &row.id.value;
        if row.per.len() == 2 && row.per[0] == row.per[1] || row.per.len() > 2 {
            let fault = at(self.path, &row.id, format!("`per` of `{id}` says the same twice"));
            self.faults.push(fault.help("write [agent], [target], [agent, target] or []"));
        }
        let burst = row.burst.map_or(row.rate.burst(), |burst| burst.0);
        if row.rate.interval().saturating_mul(burst.get()) > LONGEST {
            let message = format!("`{id}` takes longer than a year to fill: a burst of {burst} at {}", row.rate);
            self.faults.push(at(self.path, &row.id, message).help("lower the burst or raise the rate"));
        }
        self.pattern(&row.of)
    }

    fn loop_rule(&mut self, row: LoopRow) -> Option<(LoopRow, Pattern, Vec<Pattern>)> {
        self.id(&row.id);
        self.faults.extend(row.fault(self.path));
        let except: Vec<_> = row.except.iter().filter_map(|text| self.pattern(text)).collect();
        let pattern = self.pattern(&row.of)?;
        Some((row, pattern, except))
    }

    fn budget(&mut self, row: BudgetRow) -> Option<(BudgetRow, Pattern)> {
        self.id(&row.id);
        self.faults.extend(row.fault(self.path));
        let pattern = self.pattern(&row.of)?;
        Some((row, pattern))
    }

    /// An id names one thing of the whole file, since errors and records name no more.
    fn id(&mut self, written: &Spanned<String>) {
        let id = &written.value;
        let mut fault = |message: String, help| self.faults.push(at(self.path, written, message).help(help));
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if id.is_empty() || id.len() > 64 || !id.bytes().all(sound) {
            fault(format!("`{}` is not an id", id.escape_default()), "write 1 to 64 letters, digits, `-`, `_` or `.`, such as `L1`");
        }
        if id.starts_with("requests.") {
            fault(format!("`{id}` is taken"), "ids that begin with `requests.` name what stands there");
        }
        if let Some(other) = self.ids.insert(skeleton(id), id.clone()) {
            fault(format!("the id `{id}` is taken, or looks like another (`{other}`)"), "give each an id of its own");
        }
    }

    fn pattern(&mut self, written: &Spanned<String>) -> Option<Pattern> {
        match pattern(&written.value, self.names) {
            Ok(pattern) => Some(pattern),
            Err((message, help)) => {
                self.faults.push(at(self.path, written, message).help(help));
                None
            }
        }
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
