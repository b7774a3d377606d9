//! What a trail tells a collector of traces: the one place where spans are made.
//!
//! INVARIANT: a span holds what the operator named, what MCP names, and numbers. Of what an agent sends there is its trace, its span, the
//! revision that it speaks, and the request's id; no name that the catalog does not have, no URI, no argument, and no result.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Audit, Recorded, Trail};
use crate::catalog::Kind;
use crate::error::Error;
use crate::mcp::messages::Method;
use crate::mcp::respond::Ending;
use crate::policy::DEFAULT_DENY;
use crate::trace::{Context, Marks, Stage, Told, Traces};

/// Characters of a request's id that a span keeps.
const MAX_ID: usize = 64;

impl Trail<'_> {
    /// Notes that a stage of the path begins. Costs nothing where no collector is told of the call.
    pub fn enters(&mut self, stage: Stage) {
        if let Some(marks) = &mut self.marks {
            marks.enter(stage);
        }
    }

    /// How long the call waited for its server and its record, and how long since then it was with the server; where it came so far.
    pub fn parts(&self) -> Option<(Duration, Duration)> {
        let ((_, since), waits) = (self.intent?, self.waits?);
        Some((since.saturating_duration_since(waits), since.elapsed()))
    }

    /// What goes on to the tool server as the place in the trace.
    pub(super) fn onward(&self) -> Option<Box<str>> {
        self.marks.as_deref().map(Marks::onward)
    }

    fn told(&self, marks: &Marks, outcome: &Result<Ending, Error>, now: (Instant, i64)) -> Told {
        let at = |instant: Instant| {
            let ago = i64::try_from(now.0.saturating_duration_since(instant).as_nanos()).unwrap_or(i64::MAX);
            u64::try_from(now.1.saturating_sub(ago)).unwrap_or(0)
        };
        let ends = marks.stages().iter().skip(1).map(|(_, began)| *began).chain([now.0]);
        let stages = marks.stages().iter().zip(ends).map(|((stage, began), ended)| (*stage, at(*began), at(ended)));
        let tool = self.tool.filter(|tool| tool.kind == Kind::Tool && tool.index.is_some());
        let name = tool.map_or_else(|| self.method.to_owned(), |tool| format!("{} {}", self.method, tool.name));
        let error = match outcome {
            Ok(ending) if ending.is_error() => Some("tool_error"),
            Ok(_) => None,
            Err(error) => Some(error.facts().code),
        };
        let stages: Vec<_> = stages.collect();
        // What comes after the failed stage is the record of it; that a tool has failed, its server has said.
        let last = stages.iter().rev().map(|(stage, ..)| *stage).find(|stage| *stage != Stage::Outcome);
        let failed = if outcome.is_ok() { Some(Stage::Forward) } else { last };
        Told {
            ids: marks.ids(),
            name,
            time: (at(self.started), at(now.0)),
            attributes: self.attributes(outcome, error),
            error,
            failed,
            stages,
        }
    }

    /// The names are OpenTelemetry's for MCP and GenAI where it has one, and ours else.
    fn attributes(&self, outcome: &Result<Ending, Error>, error: Option<&'static str>) -> Vec<(&'static str, String)> {
        let mut all = vec![("mcp.method.name", self.method.to_owned())];
        let mut add = |key, value: Option<String>| all.extend(value.map(|value| (key, value)));
        add("jsonrpc.request.id", self.jsonrpc_id.map(|id| id.as_json().trim_matches('"').chars().take(MAX_ID).collect()));
        add("mcp.protocol.version", self.caller.revision.map(|revision| revision.as_str().to_owned()));
        add("network.transport", Some(if self.caller.transport == "http" { "tcp" } else { "pipe" }.to_owned()));
        add("error.type", error.map(str::to_owned));
        if let Some(tool) = self.tool {
            if tool.kind == Kind::Tool && tool.index.is_some() {
                add("gen_ai.tool.name", Some(tool.name.to_string()));
                add("gen_ai.operation.name", (self.method == Method::CallTool.as_str()).then(|| "execute_tool".to_owned()));
            }
            add("doorward.upstream", Some(tool.upstream_id.to_string()));
            add("doorward.tier", Some(tool.tier.as_str().to_owned()));
        }
        add("doorward.invocation", Some(self.id_text.clone()));
        add("doorward.agent", Some(self.caller.principal.name().to_owned()));
        add("doorward.policy_version", Some(self.policy_version.to_owned()));
        // Those that refused it, or else those that permitted it. Where no rule permits it, an error names such as nearly would have.
        let refused = outcome.as_ref().err().filter(|error| error.reason() != Some(DEFAULT_DENY)).map_or(&[][..], Error::rule_ids);
        let permitted = || self.rules.iter().map(|rule| rule.as_str()).collect();
        let rules: Vec<&str> = if refused.is_empty() { permitted() } else { refused.iter().map(String::as_str).collect() };
        add("doorward.rules", (!rules.is_empty()).then(|| rules.join(",")));
        add("doorward.attempts", (self.intent.is_some()).then(|| self.attempt.to_string()));
        add("doorward.effect", outcome.as_ref().err().map(|error| error.effect().as_str().to_owned()));
        all
    }
}

impl Recorded<'_> {
    /// The `traceparent` that goes on in place of the agent's, in quotes, where a collector is told of the call.
    pub fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }
}

impl Audit {
    /// Tells a collector of calls, where there is one.
    #[must_use]
    pub fn telling(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// The way to the collector of traces.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Marks the stages of a request that can be a call, if a collector is told of it.
    pub(super) fn traced(&self, id: Uuid, method: &str, context: Option<Context<'_>>) -> Option<Box<Marks>> {
        Method::parse(method).and_then(|_| self.traces.begin(id, context))
    }

    /// Tells a collector of the closed trail.
    pub(super) fn tell(&self, trail: &Trail<'_>, outcome: &Result<Ending, Error>) {
        if let Some(marks) = &trail.marks {
            self.traces.tell(trail.told(marks, outcome, (Instant::now(), self.clock.unix_nanos())));
        }
    }
}
