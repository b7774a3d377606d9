//! `slo` of a manifest: how often a tool has to work, and what follows where its error budget burns too fast.
//!
//! Owns: the words, and what they come to for one tool. Leaves to `objective` the counting, and to `gateway` what follows.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::manifest::{Defaults, Manifest, ToolEntry};
use crate::config::check_name;

/// Calls out of which shares are told.
const ALL: u32 = 100_000;
/// The least share that an objective may ask for, of [`ALL`].
const LEAST: u32 = 50_000;
/// The longest window, in days.
const MAX_DAYS: u32 = 90;

/// What share of calls has to work, over how many days: `99.5%/30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slo {
    /// Of 100,000 calls.
    good: u32,
    days: u32,
}

impl Slo {
    /// Reads one; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (percent, days) = text.strip_suffix('d')?.split_once("%/")?;
        let days = whole(days)?;
        let (before, behind) = percent.split_once('.').unwrap_or((percent, "0"));
        let is_short = (1..=3).contains(&behind.len());
        let scale = 10_u32.pow(3_u32.checked_sub(u32::try_from(behind.len()).ok()?)?);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok())?;
        let good = whole(before)?.checked_mul(ALL / 100)?.checked_add(digits(behind)?.checked_mul(scale)?)?;
        (is_short && (LEAST..ALL).contains(&good) && (1..=MAX_DAYS).contains(&days)).then_some(Self { good, days })
    }

    /// The share that has to work.
    pub fn good(self) -> f64 {
        f64::from(self.good) / f64::from(ALL)
    }

    /// The share that may fail: never 0.
    pub fn allowed(self) -> f64 {
        f64::from(ALL - self.good) / f64::from(ALL)
    }

    /// The window in seconds.
    pub fn seconds(self) -> i64 {
        i64::from(self.days) * 86_400
    }
}

/// A number without a sign or a zero in front.
fn whole(text: &str) -> Option<u32> {
    (text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')).then(|| text.parse().ok())?
}

impl fmt::Display for Slo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, rest) = (self.good / 1_000, self.good % 1_000);
        match rest {
            0 => write!(out, "{percent}%/{}d", self.days),
            rest => write!(out, "{percent}.{}%/{}d", format!("{rest:03}").trim_end_matches('0'), self.days),
        }
    }
}

/// An objective, or `none` where the default is not to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// None.
    None,
    /// This.
    Slo(Slo),
}

impl Goal {
    fn slo(self) -> Option<Slo> {
        match self {
            Self::None => None,
            Self::Slo(slo) => Some(slo),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_str("none"),
            Self::Slo(slo) => out.collect_str(slo),
        }
    }
}

impl<'de> Deserialize<'de> for Goal {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let wrong = || {
            let text = text.escape_default();
            D::Error::custom(format!("`{text}` is no objective: write `99.5%/30d` (50% to 99.999%, 1 to {MAX_DAYS} days), or `none`"))
        };
        if text == "none" { Ok(Self::None) } else { Slo::parse(&text).map(Self::Slo).ok_or_else(wrong) }
    }
}

impl JsonSchema for Goal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Slo".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(none|[5-9][0-9](\\.[0-9]{1,3})?%/[1-9][0-9]?d)$" })
    }
}

/// What follows while an error budget burns too fast. That it does is logged and recorded whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnBurn {
    /// Nothing else.
    Alert,
    /// The tool is called by a quarter of its server's `concurrency` at once.
    Slow,
    /// A person with this role says yes to each call.
    Approve(Arc<str>),
}

impl fmt::Display for OnBurn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert => out.write_str("alert"),
            Self::Slow => out.write_str("slow"),
            Self::Approve(role) => write!(out, "approve:{role}"),
        }
    }
}

impl Serialize for OnBurn {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnBurn {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        const FORMS: &str = "write `alert`, `slow` or `approve:ROLE`";
        let text = String::deserialize(input)?;
        match (text.as_str(), text.strip_prefix("approve:")) {
            ("alert", _) => Ok(Self::Alert),
            ("slow", _) => Ok(Self::Slow),
            ("approve", _) => Err(D::Error::custom(format!("`approve` does not say whose yes is needed: {FORMS}"))),
            (_, Some(role)) => match check_name(role) {
                Ok(()) => Ok(Self::Approve(role.into())),
                Err(why) => Err(D::Error::custom(why)),
            },
            _ => Err(D::Error::custom(format!("`{}` is nothing that could follow: {FORMS}", text.escape_default()))),
        }
    }
}

impl JsonSchema for OnBurn {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OnBurn".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(alert|slow|approve:[a-z0-9-]{1,64})$" })
    }
}

/// From which burn rate on a budget burns too fast. A rate of 1 uses the budget up exactly at the end of the window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Burn {
    /// Over the last hour. Default 14.4: two hundredths of a budget of 30 days in an hour.
    #[schemars(range(min = 0.1, max = 1000.0))]
    pub over_1h: f64,
    /// Over the last six hours. Default 6: five hundredths of it in six.
    #[schemars(range(min = 0.1, max = 1000.0))]
    pub over_6h: f64,
}

impl Default for Burn {
    fn default() -> Self {
        Self { over_1h: 14.4, over_6h: 6.0 }
    }
}

/// The objective of one tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// How often it has to work.
    pub slo: Slo,
    /// Whether a result by which the tool itself says that it failed counts as a failure.
    pub counts_tool_errors: bool,
    /// What follows where it fails too often; `None` where that is only shown.
    pub on_burn: Option<OnBurn>,
    /// What is too often.
    pub burn: Burn,
    /// How many of its calls may be under way at once while it is slowed down.
    pub slow_to: usize,
}

impl Objective {
    /// That of a tool, where it has one.
    pub(super) fn of(entry: &ToolEntry, defaults: &Defaults) -> Option<Self> {
        Some(Self {
            slo: entry.slo.or(defaults.slo).and_then(Goal::slo)?,
            counts_tool_errors: entry.slo_tool_errors.unwrap_or(defaults.slo_tool_errors),
            on_burn: entry.on_burn.clone().or_else(|| defaults.on_burn.clone()),
            burn: entry.burn.unwrap_or(defaults.burn),
            slow_to: (defaults.concurrency.size() / 4).max(1),
        })
    }
}

/// What is wrong with the objectives of a manifest: where, what, and what to write.
pub(super) fn wrong(manifest: &Manifest) -> Option<(Vec<&str>, String, &'static str)> {
    let bounds = 0.1..=1000.0;
    let mut burns = manifest.tools.iter().filter_map(|(tool, entry)| Some((vec!["tools", tool], entry.burn?)));
    let own = (vec!["defaults"], manifest.defaults.burn);
    if let Some((mut at, _)) =
        burns.by_ref().chain([own]).find(|(_, burn)| !bounds.contains(&burn.over_1h) || !bounds.contains(&burn.over_6h))
    {
        at.push("burn");
        return Some((at, "a burn rate is out of bounds".to_owned(), "write 0.1 to 1000"));
    }
    for (tool, entry) in &manifest.tools {
        let said =
            [("slo_tool_errors", entry.slo_tool_errors.is_some()), ("on_burn", entry.on_burn.is_some()), ("burn", entry.burn.is_some())];
        let said = said.into_iter().find_map(|(field, is_said)| is_said.then_some(field));
        match (Objective::of(entry, &manifest.defaults), said) {
            (None, Some(field)) => {
                let help = "write an `slo` such as `99.5%/30d` beside it, or take it out";
                return Some((vec!["tools", tool, field], format!("`{field}` of `{tool}` says nothing without an `slo`"), help));
            }
            (Some(of), _) if of.on_burn.is_some() && is_never_reached(&of) => {
                let most = 1.0 / of.slo.allowed();
                let message =
                    format!("with `slo: {}` the burn rate of `{tool}` is never above {most:.1}, so `on_burn` never follows", of.slo);
                let field = if entry.on_burn.is_some() { "on_burn" } else { "slo" };
                let at =
                    if entry.on_burn.is_some() || entry.slo.is_some() { vec!["tools", tool, field] } else { vec!["defaults", "on_burn"] };
                return Some((at, message, "write lower rates under `burn`"));
            }
            _ => {}
        }
    }
    None
}

/// Whether a tool that fails every time does not burn fast enough.
fn is_never_reached(of: &Objective) -> bool {
    let most = 1.0 / of.slo.allowed();
    of.burn.over_1h > most && of.burn.over_6h > most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_is_printed_as_it_is_written() {
        for text in ["99.5%/30d", "99.999%/1d", "50%/90d", "95%/7d", "99.95%/28d"] {
            assert_eq!(Slo::parse(text).map(|slo| slo.to_string()).as_deref(), Some(text));
        }
        let slo = Slo::parse("99.5%/30d").unwrap();
        assert!((slo.allowed() - 0.005).abs() < 1e-9 && (slo.good() - 0.995).abs() < 1e-9);
        assert_eq!(slo.seconds(), 2_592_000);
    }

    #[test]
    fn what_is_no_objective_is_refused() {
        for text in [
            "",
            "99.5",
            "99.5%",
            "99.5%/30",
            "99.5%/30h",
            "100%/30d",
            "49.9%/30d",
            "99.5%/0d",
            "99.5%/91d",
            "99.5%/030d",
            "099%/30d",
            "99.9999%/30d",
            "99.%/30d",
            "+99%/30d",
            "99.5 %/30d",
            "99.+5%/30d",
            "99,5%/30d",
            "99.5%/-1d",
            "4294967295%/1d",
        ] {
            assert_eq!(Slo::parse(text), None, "{text}");
        }
    }
}
