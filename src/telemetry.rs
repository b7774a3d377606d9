//! Metric names and counters, all in one place.
//!
//! INVARIANT: label sets are bounded: codes are ours, upstreams are the operator's; nothing a caller says is a label.

mod connections;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use self::connections::Connections;
pub use self::connections::{Ended, Listening};
use crate::error::Code;

/// Upper bounds of the duration histogram, in seconds.
const DURATIONS: [f64; 12] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// What is told of each upstream now.
const LOADS: [(&str, &str); 3] = [
    ("upstream_calls", "Calls under way at the upstream"),
    ("upstream_calls_waiting", "Calls that wait for a place at the upstream"),
    ("upstream_breaker", "The upstream's own breaker: 0 closed, 1 half open, 2 open"),
];

/// What is counted at each upstream since it was started.
const RETRIES: [(&str, &str); 2] = [
    ("upstream_retries", "Calls sent to the upstream again since it was started"),
    ("upstream_retries_refused", "Calls not sent again since the budget did not allow it"),
];

/// What is told of each loop rule and budget.
const COUNTING: [(&str, &str); 3] = [
    ("limit_warned", "Calls since the start that went on with a warning of the loop rule or budget"),
    ("limit_refused", "Calls since the start that the loop rule or budget refused"),
    ("budget_used_percent", "How much is spent of the budget by who has spent most of it, in percent"),
];

/// The burn rates of each tool with an objective.
const BURNS: (&str, &str) =
    ("slo_burn_rate", "How fast the tool's error budget burns: at 1 it is used up at the end of its window; 0 for fewer than 5 failures");

/// What is told of each tool with an objective, beside its burn rates.
const SLOS: [(&str, &str); 3] = [
    ("slo_target_ratio", "The share of its calls that has to work, of a tool with an objective"),
    ("slo_budget_left_ratio", "The share of the tool's error budget that is left in its window; below 0 where it is overdrawn"),
    ("slo_burning", "1 while the tool's error budget burns faster than its manifest allows"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUpstream {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTool {
    tool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRule {
    rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWindow {
    tool: String,
    window: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnchor {
    anchor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    result: &'static str,
}

/// What became of the calls that a collector of traces is to be told of.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// It took them.
    pub told: Counter,
    /// There was no room for them.
    pub dropped: Counter,
    /// It did not take them.
    pub failed: Counter,
}

/// What is counted. One for a process; carries over between snapshots.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    ok: Counter,
    tool_error: Counter,
    /// In the order of [`Code::ALL`].
    codes: Vec<Counter>,
    duration: Histogram,
    /// Of waiting for the server, and of the server.
    parts: [Histogram; 2],
    exported: Exported,
    connections: Connections,
    running: Gauge,
    audit_open: Gauge,
    audit_records: Gauge<u64, AtomicU64>,
    audit_refused: Counter,
    audit_covered: Gauge<u64, AtomicU64>,
    audit_covered_at: Gauge,
    audit_indexed: Gauge<u64, AtomicU64>,
    webhook_waiting: Gauge<u64, AtomicU64>,
    webhook_failed: Counter,
    connected: Family<OfUpstream, Gauge>,
    /// In the order of [`LOADS`].
    loads: [Family<OfUpstream, Gauge<u64, AtomicU64>>; LOADS.len()],
    /// In the order of [`RETRIES`].
    retries: [Family<OfUpstream, Counter>; RETRIES.len()],
    tool_breakers: Family<OfTool, Gauge<u64, AtomicU64>>,
    /// In the order of [`COUNTING`].
    counting: [Family<OfRule, Gauge<u64, AtomicU64>>; COUNTING.len()],
    burns: Family<OfWindow, Gauge<f64, AtomicU64>>,
    /// In the order of [`SLOS`].
    slos: [Family<OfTool, Gauge<f64, AtomicU64>>; SLOS.len()],
    anchored: Family<OfAnchor, Gauge<u64, AtomicU64>>,
    anchored_at: Family<OfAnchor, Gauge>,
}

/// What is looked up when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Calls with an intent and no end.
    pub running: u64,
    /// Whether the log takes intents.
    pub audit_open: bool,
    /// Records in the log.
    pub audit_records: u64,
    /// Records that could not be stored.
    pub audit_refused: u64,
    /// The last record that the newest checkpoint covers.
    pub audit_covered: u64,
    /// When that checkpoint was stored, in seconds since 1970; 0 where none was since the start.
    pub audit_covered_at: i64,
    /// Records that the index of the logs knows.
    pub audit_indexed: u64,
    /// Messages of calls that wait for people which the webhook has not taken, and attempts that failed since the start.
    pub webhook: (u64, u64),
    /// Each upstream.
    pub upstreams: Vec<OfOneUpstream>,
    /// Each tool with an objective.
    pub objectives: Vec<OfObjective>,
    /// Each anchor of the log: the last record that it covers, and when it took that, in seconds since 1970.
    pub anchors: Vec<(String, u64, i64)>,
    /// Each loop rule and budget: calls that it warned of, and calls that it refused.
    pub counting: Vec<(String, u64, u64)>,
    /// What is spent of budgets, in percent, the fullest first: only the first of each is shown.
    pub budgets: Vec<(String, u64)>,
}

/// What is looked up of one upstream.
#[derive(Clone, Debug, Default)]
pub struct OfOneUpstream {
    /// Its id.
    pub upstream: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Calls under way.
    pub calls: u64,
    /// Calls that wait for a place.
    pub waiting: u64,
    /// Its breaker: 0 closed, 1 half open, 2 open.
    pub breaker: u64,
    /// The breakers of its tools that have failed and not worked since, by the tools' names in policies.
    pub tools: Vec<(String, u64)>,
    /// Calls sent again since it was started.
    pub retries: u64,
    /// Calls not sent again since the budget did not allow it.
    pub retries_refused: u64,
}

/// What is looked up of a tool with an objective.
#[derive(Clone, Debug, Default)]
pub struct OfObjective {
    /// Its name in policies.
    pub tool: String,
    /// The share of calls that has to work.
    pub good: f64,
    /// How fast its error budget burns: over the last hour, and over the last six.
    pub burns: (f64, f64),
    /// The share of the budget that is left.
    pub left: f64,
    /// Whether it burns too fast.
    pub is_burning: bool,
}

fn families<L, M: Default + Metric + TypedMetric, const N: usize>(registry: &mut Registry, named: [(&str, &str); N]) -> [Family<L, M>; N]
where
    L: EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static,
{
    named.map(|(name, help)| {
        let family = Family::default();
        registry.register(name, help, Family::clone(&family));
        family
    })
}

fn one<M: Default + Clone + Metric>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn exported(registry: &mut Registry) -> Exported {
    let help = "Calls for the collector of traces: told, dropped since too many waited, or failed since it did not take them";
    let [sent] = families::<Sent, Counter, 1>(registry, [("trace_calls", help)]);
    let of = |result| sent.get_or_create(&Sent { result }).clone();
    Exported { told: of("told"), dropped: of("dropped"), failed: of("failed") }
}

fn parts(registry: &mut Registry) -> [Histogram; 2] {
    let help = "Time from a call's wait for a place at its server to the stored intent, of calls that were recorded";
    [("call_wait_duration_seconds", help), ("call_upstream_duration_seconds", "Time from the stored intent to the end of the call")].map(
        |(name, help)| {
            let histogram = Histogram::new(DURATIONS);
            registry.register(name, help, histogram.clone());
            histogram
        },
    )
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("doorward");
        let all = &mut registry;
        let calls: Family<Ending, Counter> = one(all, "calls", "Messages answered, by how they ended: ok, tool_error or an error code");
        let of = |outcome| calls.get_or_create(&Ending { outcome }).clone();
        let duration = Histogram::new(DURATIONS);
        all.register("call_duration_seconds", "Time from a tools/call to its answer", duration.clone());
        let help = "The breaker of a tool that has failed and not worked since: 0 closed, 1 half open, 2 open";
        let tool_breakers = one(all, "tool_breaker", help);
        let [burns] = families(all, [BURNS]);
        Self {
            ok: of("ok"),
            tool_error: of("tool_error"),
            codes: Code::ALL.iter().map(|code| of(code.facts().code)).collect(),
            duration,
            parts: parts(all),
            connections: Connections::new(all),
            exported: exported(all),
            running: one(all, "calls_running", "Calls with a stored intent and no outcome yet"),
            audit_open: one(all, "audit_open", "1 while the audit log takes intents"),
            audit_covered_at: one(
                all,
                "audit_checkpoint_timestamp_seconds",
                "When the newest checkpoint was stored; 0 where none was since the start",
            ),
            audit_records: one(all, "audit_records", "Records in the audit log of this process's origin"),
            audit_refused: one(all, "audit_refused", "Records that could not be stored since the start"),
            audit_covered: one(all, "audit_records_covered", "The last record that the newest signed checkpoint covers"),
            audit_indexed: one(all, "audit_records_indexed", "Records of all audit logs that their index knows"),
            webhook_waiting: one(all, "approval_webhook_waiting", "Messages that the webhook of approvals has not taken yet"),
            webhook_failed: one(all, "approval_webhook_failed", "Attempts to tell the webhook of approvals that failed since the start"),
            anchored: one(all, "audit_anchored_records", "The last record that the anchor covers"),
            anchored_at: one(all, "audit_anchored_timestamp_seconds", "When the anchor took its newest checkpoint; 0 for never"),
            connected: one(all, "upstream_connected", "1 while the upstream is connected"),
            loads: families(all, LOADS),
            retries: families(all, RETRIES),
            tool_breakers,
            counting: families(all, COUNTING),
            burns,
            slos: families(all, SLOS),
            registry,
        }
    }
}

impl Telemetry {
    /// Counts a call's end.
    pub fn call_ended(&self, ending: Result<bool, Code>, took: Duration, parts: Option<(Duration, Duration)>) {
        self.duration.observe(took.as_secs_f64());
        if let Some((waited, with_server)) = parts {
            self.parts[0].observe(waited.as_secs_f64());
            self.parts[1].observe(with_server.as_secs_f64());
        }
        match ending {
            Ok(false) => drop(self.ok.inc()),
            Ok(true) => drop(self.tool_error.inc()),
            Err(code) => self.refused(code),
        }
    }

    /// Counts a message that was refused before it was a call.
    pub fn refused(&self, code: Code) {
        if let Some(counter) = Code::ALL.iter().position(|known| *known == code).and_then(|at| self.codes.get(at)) {
            counter.inc();
        }
    }

    /// The counters of what a collector of traces is told.
    pub fn exported(&self) -> Exported {
        self.exported.clone()
    }

    /// Counts a connection that the gateway has closed.
    pub fn connection_ended(&self, why: Ended) {
        self.connections.ended(why);
    }

    /// Notes what the listener has in hand.
    pub fn listens(&self, load: Listening) {
        self.connections.load(load);
    }

    fn load(&self, upstreams: &[OfOneUpstream]) {
        self.connected.clear();
        self.tool_breakers.clear();
        self.loads.iter().for_each(Family::clear);
        self.retries.iter().for_each(Family::clear);
        for of in upstreams {
            let upstream = OfUpstream { upstream: of.upstream.clone() };
            self.connected.get_or_create(&upstream).set(i64::from(of.connected));
            for (load, number) in self.loads.iter().zip([of.calls, of.waiting, of.breaker]) {
                load.get_or_create(&upstream).set(number);
            }
            for (counted, number) in self.retries.iter().zip([of.retries, of.retries_refused]) {
                counted.get_or_create(&upstream).inner().store(number, Ordering::Relaxed);
            }
            for (tool, breaker) in &of.tools {
                self.tool_breakers.get_or_create(&OfTool { tool: tool.clone() }).set(*breaker);
            }
        }
    }

    fn count(&self, readings: &Readings) {
        self.counting.iter().for_each(Family::clear);
        let [warned, refused, used] = &self.counting;
        let of = |rule: &str| OfRule { rule: rule.to_owned() };
        for (rule, times_warned, times_refused) in &readings.counting {
            warned.get_or_create(&of(rule)).set(*times_warned);
            refused.get_or_create(&of(rule)).set(*times_refused);
        }
        for (budget, percent) in readings.budgets.iter().rev() {
            used.get_or_create(&of(budget)).set(*percent);
        }
    }

    fn load_objectives(&self, objectives: &[OfObjective]) {
        self.burns.clear();
        self.slos.iter().for_each(Family::clear);
        for of in objectives {
            for (window, burn) in [("1h", of.burns.0), ("6h", of.burns.1)] {
                self.burns.get_or_create(&OfWindow { tool: of.tool.clone(), window }).set(burn);
            }
            let numbers = [of.good, of.left, f64::from(u8::from(of.is_burning))];
            for (family, number) in self.slos.iter().zip(numbers) {
                family.get_or_create(&OfTool { tool: of.tool.clone() }).set(number);
            }
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self, readings: &Readings) -> String {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.running.set(whole(readings.running));
        self.audit_open.set(i64::from(readings.audit_open));
        self.audit_records.set(readings.audit_records);
        self.audit_refused.inner().store(readings.audit_refused, Ordering::Relaxed);
        self.audit_covered.set(readings.audit_covered);
        self.audit_covered_at.set(readings.audit_covered_at);
        self.audit_indexed.set(readings.audit_indexed);
        self.webhook_waiting.set(readings.webhook.0);
        self.webhook_failed.inner().store(readings.webhook.1, Ordering::Relaxed);
        self.load(&readings.upstreams);
        self.count(readings);
        self.load_objectives(&readings.objectives);
        for (anchor, records, at) in &readings.anchors {
            let anchor = OfAnchor { anchor: anchor.clone() };
            self.anchored.get_or_create(&anchor).set(*records);
            self.anchored_at.get_or_create(&anchor).set(*at);
        }
        let mut out = String::new();
        match encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}
