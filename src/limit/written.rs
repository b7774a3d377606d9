//! The sections `loops` and `budgets` of `limits.yaml` as types, and what is wrong with a row of them.

use std::path::Path;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Value, json};
use serde_saphyr::Spanned;

use super::budget::{Figure, Per};
use super::loops::{Steps, When};
use super::span::{Span, Window};
use crate::catalog::tier::Tier;
use crate::config::{Fault, check_name};

/// Most loop rules of a file: which of them a call counts for stands in one word.
pub(super) const MAX_LOOPS: usize = 64;
/// Most repeats that a rule counts to.
const MAX_TIMES: u32 = 1_000_000;
/// Highest amount of a budget.
const MAX_AMOUNT: u64 = 1_000_000_000_000_000;
/// Most different targets of a budget: each is remembered.
const MAX_TARGETS: u64 = 10_000;

/// One loop rule as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoopRow {
    pub id: Spanned<String>,
    pub of: Spanned<String>,
    #[serde(default)]
    pub except: Vec<Spanned<String>>,
    #[serde(default)]
    pub tiers: Vec<Tier>,
    pub when: When,
    #[serde(default)]
    pub results: Results,
    pub warn: Option<Times>,
    pub slow: Option<Times>,
    pub pause: Option<Span>,
    pub block: Option<Times>,
    pub window: Span,
}

/// Which results leave the same call the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Results {
    #[default]
    Same,
    Any,
}

/// The how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Times(u32);

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let times = u64::deserialize(input)?;
        let bound = u32::try_from(times).ok().filter(|times| (2..=MAX_TIMES).contains(times));
        bound.map(Self).ok_or_else(|| D::Error::custom(format!("{times} is out of bounds: 2 to {MAX_TIMES}")))
    }
}

impl LoopRow {
    pub fn steps(&self) -> Steps {
        let times = |step: Option<Times>| step.map(|times| times.0);
        let pause_ms = self.pause.map_or(0, Span::ms);
        Steps { warn: times(self.warn), slow: times(self.slow), pause_ms, block: times(self.block) }
    }

    /// What is wrong with it beyond its words.
    pub fn fault(&self, file: &Path) -> Option<Fault> {
        let id = &self.id.value;
        let steps = [self.warn, self.slow, self.block];
        let in_order = steps.iter().flatten().is_sorted_by(|one, other| one < other);
        let (message, help) = match () {
            () if steps.iter().all(Option::is_none) => {
                (format!("`{id}` does nothing"), "say from which repeat on: `warn: 3`, `slow: 5` with `pause: 30s`, or `block: 5`")
            }
            () if !in_order => (format!("the steps of `{id}` are not in order"), "warn earlier than slow, and slow earlier than block"),
            () if self.slow.is_some() != self.pause.is_some() => {
                (format!("`slow` and `pause` of `{id}` belong together"), "write both, such as `slow: 5, pause: 30s`, or none")
            }
            () if self.pause.is_some_and(|pause| pause > self.window) => {
                (format!("the pause of `{id}` is longer than its window"), "a repeat after the window is none: lengthen the window")
            }
            () if self.when != When::SameCall && self.results == Results::Any => {
                (format!("`results` of `{id}` has no meaning"), "it is for `when: same_call` alone")
            }
            () if self.when == When::Alternation && steps.iter().flatten().any(|times| times.0 < 4) => {
                (format!("`{id}` counts to fewer than 4"), "A-B-A-B are four calls: write 4 or more")
            }
            () => return None,
        };
        Some(at(file, &self.id, message).help(help))
    }
}

/// One budget as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRow {
    pub id: Spanned<String>,
    pub per: Vec<Per>,
    pub of: Spanned<String>,
    #[serde(rename = "for")]
    pub whom: Option<Spanned<String>>,
    pub calls: Option<Amount>,
    pub cost: Option<Amount>,
    pub result_bytes: Option<Amount>,
    pub seconds: Option<Amount>,
    pub distinct_targets: Option<Amount>,
    pub window: Window,
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount(u64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let amount = u64::deserialize(input)?;
        match (1..=MAX_AMOUNT).contains(&amount) {
            true => Ok(Self(amount)),
            false => Err(D::Error::custom(format!("{amount} is out of bounds: 1 to {MAX_AMOUNT}"))),
        }
    }
}

impl BudgetRow {
    /// In the order of [`Figure::ALL`], in the units in which they are kept.
    pub fn totals(&self) -> [Option<u64>; 5] {
        let scaled = |amount: Option<Amount>, figure: Figure| amount.map(|amount| amount.0.saturating_mul(figure.scale()));
        let [calls, cost, bytes, seconds, targets] = Figure::ALL;
        [
            scaled(self.calls, calls),
            scaled(self.cost, cost),
            scaled(self.result_bytes, bytes),
            scaled(self.seconds, seconds),
            scaled(self.distinct_targets, targets),
        ]
    }

    /// What is wrong with it beyond its words.
    pub fn fault(&self, file: &Path) -> Option<Fault> {
        let id = &self.id.value;
        let totals = self.totals();
        let mut per = self.per.clone();
        per.sort_unstable();
        per.dedup();
        if totals.iter().all(Option::is_none) {
            let help = "write one or more of `calls`, `cost`, `result_bytes`, `seconds` and `distinct_targets`";
            return Some(at(file, &self.id, format!("`{id}` has no amount")).help(help));
        }
        if per.len() != self.per.len() {
            return Some(at(file, &self.id, format!("`per` of `{id}` says the same twice")).help("name each once"));
        }
        if self.distinct_targets.is_some_and(|targets| targets.0 > MAX_TARGETS) {
            return Some(at(file, &self.id, format!("`{id}` counts more targets than {MAX_TARGETS}")).help("each is remembered: lower it"));
        }
        if self.distinct_targets.is_some() && self.per.contains(&Per::Target) {
            return Some(at(file, &self.id, format!("`{id}` counts the targets of each target")).help("leave `target` out of `per`"));
        }
        let whom = self.whom.as_ref()?;
        let name = whom.value.strip_prefix("agent:").or_else(|| whom.value.strip_prefix("role:"));
        if name.is_some_and(|name| check_name(name).is_ok()) {
            return None;
        }
        let message = format!("`{}` is nobody that a budget can be for", whom.value.escape_default());
        Some(at(file, whom, message).help("write `agent:NAME` or `role:NAME`"))
    }
}

/// A fault at a text of the file.
pub(super) fn at(file: &Path, of: &Spanned<String>, message: String) -> Fault {
    Fault::at(file, of.referenced.line(), of.referenced.column(), message)
}

/// The JSON Schema of `loops`.
pub(super) fn loops_schema() -> Value {
    let times = |what: &str| json!({ "type": "integer", "minimum": 2, "maximum": MAX_TIMES, "description": what });
    let span = |what: &str| json!({ "type": "string", "pattern": "^[0-9]+(s|min|h|d)$", "description": what });
    json!({ "type": "array", "maxItems": MAX_LOOPS, "description": "left out, those of the shipped file; [] for none", "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["id", "of", "when", "window"],
        "properties": {
            "id": { "type": "string", "description": "its name in errors and records" },
            "of": { "type": "string", "description": "a target, or a prefix and a star" },
            "except": { "type": "array", "items": { "type": "string" }, "description": "targets that it leaves alone" },
            "tiers": { "type": "array", "items": { "enum": ["read", "reversible", "irreversible"] }, "description": "left out or empty, all" },
            "when": { "enum": ["same_call", "same_result", "alternation", "failures"], "description": "what is counted" },
            "results": { "enum": ["same", "any"], "default": "same", "description": "whether another result ends a loop of the same call" },
            "warn": times("the repeat from which on the agent is told"),
            "slow": times("the repeat from which on it has to wait for `pause`"),
            "pause": span("the wait after the call before"),
            "block": times("the repeat from which on it is refused until it was left alone for `window`"),
            "window": span("a repeat that comes later after the one before is none"),
        },
    } })
}

/// The JSON Schema of `budgets`.
pub(super) fn budgets_schema() -> Value {
    let amount = |what: &str| json!({ "type": "integer", "minimum": 1, "maximum": MAX_AMOUNT, "description": what });
    json!({ "type": "array", "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["id", "per", "of", "window"],
        "properties": {
            "id": { "type": "string", "description": "its name in errors and records" },
            "per": { "type": "array", "uniqueItems": true, "items": { "enum": ["agent", "target", "tenant", "user", "run"] },
                "description": "what has an amount of its own" },
            "of": { "type": "string", "description": "a target, or a prefix and a star" },
            "for": { "type": "string", "pattern": "^(agent|role):", "description": "whose calls it counts; left out, everybody's" },
            "calls": amount("calls that left"),
            "cost": amount("cost units, by the `cost` of manifests"),
            "result_bytes": amount("bytes of results"),
            "seconds": amount("seconds that tool servers took"),
            "distinct_targets": { "type": "integer", "minimum": 1, "maximum": MAX_TARGETS, "description": "different targets" },
            "window": { "type": "string", "pattern": "^([0-9]+(s|min|h|d)|ever)$", "description": "how long what was spent counts" },
        },
    } })
}
