//! What a collector of traces is told of a call: one span for the call, and one below it for each stage that it came to.
//!
//! Owns: which calls are told of, the ids of their spans, what waits to be sent. Leaves to others: what a call has to tell (`audit::trail`), and
//! the collector (`trace::otlp`, where it is built in).
//!
//! INVARIANT: no argument, no result, and no name that a caller made up is in a span: `audit::trail::spans` says what is.
//! INVARIANT: a call never waits for a collector: what there is no room for is dropped and counted.

mod context;
#[cfg(feature = "otel")]
mod otlp;

use std::sync::Mutex;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

pub use self::context::Context;
#[cfg(feature = "otel")]
pub use self::otlp::Exporter;
use crate::config::Otlp;
use crate::telemetry::Exported;

/// The bits of an invocation's id that are drawn for each: those before them count within a millisecond, so that ids sort (RFC 9562, 6.2).
const RANDOM: u64 = (1 << 32) - 1;

/// A stage of the request path, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Which target is meant.
    Resolve,
    /// Whether the agent sees it, and its schema takes the arguments.
    Validate,
    /// Freezes and the policy.
    Decide,
    /// Limits.
    Admit,
    /// Whether it is a repeat; the wait for the one that it repeats.
    Replay,
    /// Whether a person has to say yes.
    Approve,
    /// The wait for the connection and a place, and the breakers.
    Reserve,
    /// What the agent meets by it, and what it uses up.
    Gather,
    /// The record before.
    Intent,
    /// The tool server, with all attempts.
    Forward,
    /// What it answered.
    Inspect,
    /// The record after.
    Outcome,
}

impl Stage {
    /// The name of its span.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Validate => "validate",
            Self::Decide => "decide",
            Self::Admit => "admit",
            Self::Replay => "replay",
            Self::Approve => "approve",
            Self::Reserve => "reserve",
            Self::Gather => "gather",
            Self::Intent => "intent",
            Self::Forward => "forward",
            Self::Inspect => "inspect",
            Self::Outcome => "outcome",
        }
    }

    /// Its span's id below a call's.
    pub fn id(self, call: u64) -> u64 {
        call ^ (self as u64 + 1)
    }
}

/// Where the spans of a call stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The trace: the agent's, or else the invocation's id.
    pub trace: u128,
    /// The agent's span around the call.
    pub parent: Option<u64>,
    /// The call's own span.
    pub call: u64,
}

/// When a call that is told of came to which stage.
#[derive(Debug)]
pub struct Marks {
    ids: Ids,
    stages: Vec<(Stage, Instant)>,
}

impl Marks {
    /// Notes that the stage begins, and the one before it ends. None is entered twice, so what comes again is part of the first.
    pub fn enter(&mut self, stage: Stage) {
        if self.stages.last().is_none_or(|(last, _)| *last < stage) {
            self.stages.push((stage, Instant::now()));
        }
    }

    /// Where the spans stand.
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// The stages and their beginnings.
    pub fn stages(&self) -> &[(Stage, Instant)] {
        &self.stages
    }

    /// The `traceparent` for the tool server, in quotes: its span stands below that of the stage *forward*.
    pub fn onward(&self) -> Box<str> {
        format!("\"00-{:032x}-{:016x}-01\"", self.ids.trace, Stage::Forward.id(self.ids.call)).into()
    }
}

/// What is told of one call.
#[derive(Clone, Debug)]
pub struct Told {
    /// Where its spans stand.
    pub ids: Ids,
    /// The name of its span.
    pub name: String,
    /// When it began and ended, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// What is known of it.
    pub attributes: Vec<(&'static str, String)>,
    /// How it failed.
    pub error: Option<&'static str>,
    /// At which stage, where it did.
    pub failed: Option<Stage>,
    /// The stages that it came to, each with its time.
    pub stages: Vec<(Stage, u64, u64)>,
}

/// The way of calls to the collector, where there is one.
#[derive(Debug, Default)]
pub struct Traces(Option<Way>);

#[derive(Debug)]
struct Way {
    follow_parent: bool,
    /// Of so many calls in 2^32.
    share: u64,
    send: mpsc::Sender<Told>,
    counts: Exported,
    /// Until the exporter takes it.
    received: Mutex<Option<mpsc::Receiver<Told>>>,
}

impl Traces {
    /// As the operator chose; nothing is sent before an exporter takes it from here.
    pub fn new(otlp: Option<&Otlp>, counts: Exported) -> Self {
        Self(otlp.map(|otlp| {
            let (send, received) = mpsc::channel(otlp.max_waiting.size());
            // Shares are no more exact than this.
            let share = (otlp.ratio.value() * (RANDOM + 1) as f64) as u64;
            Way { follow_parent: otlp.follow_parent, share, send, counts, received: Mutex::new(Some(received)) }
        }))
    }

    /// Begins to mark the stages of a message's call, if a collector is told of it.
    pub fn begin(&self, id: Uuid, context: Option<Context<'_>>) -> Option<Box<Marks>> {
        let way = self.0.as_ref()?;
        let call = id.as_u64_pair().1;
        let is_told = match context.filter(|_| way.follow_parent) {
            Some(context) => context.is_sampled,
            None => call & RANDOM < way.share,
        };
        let ids = Ids { trace: context.map_or(id.as_u128(), Context::trace_id), parent: context.map(Context::span_id), call };
        is_told.then(|| Box::new(Marks { ids, stages: vec![(Stage::Resolve, Instant::now())] }))
    }

    /// Hands a call over. Never waits.
    pub fn tell(&self, told: Told) {
        if let Some(way) = &self.0
            && way.send.try_send(told).is_err()
        {
            way.counts.dropped.inc();
        }
    }

    /// What is sent from here, for the one who exports it; once.
    pub fn received(&self) -> Option<(mpsc::Receiver<Told>, Exported)> {
        let way = self.0.as_ref()?;
        let received = way.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        Some((received, way.counts.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_yaml;
    use crate::telemetry::Telemetry;

    fn traces(more: &str) -> Traces {
        let yaml = format!("{{ endpoint: \"http://127.0.0.1:4318/v1/traces\", {more} }}");
        let otlp: Otlp = parse_yaml(std::path::Path::new("doorward.yaml"), &yaml).unwrap();
        Traces::new(Some(&otlp), Telemetry::default().exported())
    }

    fn context(flags: &'static str) -> Option<Context<'static>> {
        Context::parse(match flags {
            "01" => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            _ => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        })
    }

    #[test]
    fn the_agents_flag_decides_or_else_the_share() {
        let is_told = |traces: &Traces, context| traces.begin(Uuid::now_v7(), context).is_some();
        let (all, none, deaf) = (traces(""), traces("ratio: 0"), traces("ratio: 0, follow_parent: false"));
        for (traces, agent, told) in [
            (&all, None, true),
            (&all, Some("00"), false),
            (&none, None, false),
            (&none, Some("01"), true),
            (&deaf, Some("01"), false),
            (&Traces::default(), Some("01"), false),
        ] {
            assert_eq!(is_told(traces, agent.and_then(context)), told, "{traces:?} {agent:?}");
        }
        let tenth = traces("ratio: 0.1");
        let told = (0..20_000).filter(|_| is_told(&tenth, None)).count();
        // Six standard deviations of 42 around 2,000.
        assert!((1_745..=2_255).contains(&told), "{told} of 20,000");
    }

    #[test]
    fn a_trace_goes_on_below_the_agents_span_and_the_servers_below_the_stage() {
        let id = Uuid::now_v7();
        let marks = traces("").begin(id, context("01")).unwrap();
        assert_eq!((marks.ids().trace, marks.ids().parent), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331)));
        let onward = marks.onward();
        let onward = Context::parse(onward.trim_matches('"')).unwrap();
        assert_eq!((onward.trace, onward.is_sampled), ("0af7651916cd43dd8448eb211c80319c", true));
        assert_eq!(onward.span_id(), Stage::Forward.id(marks.ids().call));
        assert_eq!(traces("").begin(id, None).unwrap().ids().trace, id.as_u128());
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped_and_counted() {
        let yaml = "{ endpoint: \"http://127.0.0.1:4318/v1/traces\", max_waiting: 2 }";
        let otlp: Otlp = parse_yaml(std::path::Path::new("doorward.yaml"), yaml).unwrap();
        let counts = Telemetry::default().exported();
        let traces = Traces::new(Some(&otlp), counts.clone());
        let ids = traces.begin(Uuid::now_v7(), None).unwrap().ids();
        let told = Told { ids, name: String::new(), time: (0, 0), attributes: Vec::new(), error: None, failed: None, stages: Vec::new() };
        for _ in 0..5 {
            traces.tell(told.clone());
        }
        assert_eq!(counts.dropped.get(), 3);
    }
}
