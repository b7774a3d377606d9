//! `telemetry` of `doorward.yaml`: the collector of traces that is told of calls.
//!
//! INVARIANT: what a build cannot do is refused, so that nobody believes in traces that nothing sends.

use std::collections::BTreeMap;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payloads::Wrong;
use super::{Bound, Config, FromEnv};
use crate::fetch;

/// What is told to whom of how calls went, beside the metrics page.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Traces to an OpenTelemetry collector; `null` for none. Needs a build with the feature `otel`.
    pub otlp: Option<Otlp>,
}

/// A collector of traces, and which calls it is told of: OTLP over HTTP with Protobuf. No argument, result or URI is told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Where traces are posted to, with the path, such as `http://127.0.0.1:4318/v1/traces`: https, or http on this machine.
    pub endpoint: String,
    /// Headers of each POST, such as `authorization`, whose values stand in Doorward's environment. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, FromEnv>,
    /// The share of calls that are told of where the agent says nothing: 0 to 1. Default 1.
    #[serde(default)]
    pub ratio: Ratio,
    /// Whether an agent that sends a `traceparent` decides by its flag whether its call is told of. Default true.
    #[serde(default = "yes")]
    pub follow_parent: bool,
    /// Longest time for one POST, in milliseconds: 100 to 10000, default 5000. What fails is tried three times.
    #[serde(default)]
    pub timeout_ms: Bound<5_000, 100, 10_000>,
    /// Calls that wait to be told: 1 to 65536, default 2048. Further ones are dropped and counted, and no call ever waits for a collector.
    #[serde(default)]
    pub max_waiting: Bound<2_048, 1, 65_536>,
}

fn yes() -> bool {
    true
}

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Ratio(f64);

impl Ratio {
    /// The share.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self(1.0)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(input)?;
        if (0.0..=1.0).contains(&share) {
            return Ok(Self(share));
        }
        Err(serde::de::Error::custom(format!("{share} is out of bounds: 0 to 1")))
    }
}

impl JsonSchema for Ratio {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ratio".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 1, "default": 1 })
    }
}

impl Config {
    pub(super) fn check_telemetry(&self) -> Result<(), Wrong> {
        let Some(otlp) = &self.telemetry.otlp else { return Ok(()) };
        let at = |more: &[&str]| ["telemetry", "otlp"].iter().chain(more).map(|part| (*part).to_owned()).collect();
        if cfg!(not(feature = "otel")) {
            let message = "this build sends no traces: it was made without the feature `otel`".to_owned();
            let help = "build with `cargo build --release --features otel`, or take `otlp` out";
            return Err(Wrong { path: at(&[]), message, help });
        }
        if let Err(message) = fetch::parse(&otlp.endpoint) {
            let help = "write `https://HOST/v1/traces`, or `http://127.0.0.1:4318/v1/traces` for a collector on this machine";
            return Err(Wrong { path: at(&["endpoint"]), message, help });
        }
        // What the POST is, is not the operator's to say.
        let own = ["content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection", "accept"];
        let is_header = |name: &str| name.parse::<HeaderName>().is_ok_and(|name| !own.contains(&name.as_str()));
        match otlp.headers.keys().find(|name| !is_header(name)) {
            None => Ok(()),
            Some(name) => Err(Wrong {
                path: at(&["headers", name]),
                message: format!("`{}` is no header that a POST of traces can have", name.escape_default()),
                help: "write the name of a header that the collector asks for, such as `authorization`",
            }),
        }
    }
}
