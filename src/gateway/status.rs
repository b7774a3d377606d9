//! How the gateway stands: for the console and for `doorward` on the admin socket.

use super::Gateway;
use crate::limit::Limits;
use crate::objective;
use crate::telemetry::{OfObjective, OfOneUpstream, Readings};
use crate::upstream::{Load, Standing, State};

impl Gateway {
    /// Each upstream's id, its state, and how busy it is.
    pub fn loads(&self) -> Vec<(String, State, Load)> {
        self.upstreams.iter().map(|upstream| (upstream.id().to_owned(), upstream.state(), upstream.load())).collect()
    }

    /// The process of each upstream on pipes that was started last: its program, how it is confined, and what it was granted.
    pub fn processes(&self) -> Vec<serde_json::Value> {
        let ids = self.catalog.sources().iter().map(|source| &source.manifest.upstream);
        let started = ids.zip(&self.upstreams).filter_map(|(id, upstream)| Some((id, upstream.started()?)));
        let told = started.map(|(id, started)| {
            let program = started.programs.first().map(|program| program.display().to_string());
            serde_json::json!({
                "upstream": id, "program": program, "sandbox": started.enforced.to_string(), "level": started.enforced.level,
                "granted": started.granted,
            })
        });
        told.collect()
    }

    /// How often and how much: what each loop rule has done, and what is spent of budgets.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All metrics as text.
    pub fn metrics(&self) -> String {
        let health = self.shared.audit.log().health();
        let anchors = self.shared.anchored.all().into_iter().map(|(name, standing)| (name, standing.records, standing.at / 1_000_000_000));
        let told = self.shared.told.now();
        self.shared.telemetry.render(&Readings {
            running: health.running,
            audit_open: health.is_open,
            audit_records: health.records,
            audit_refused: health.refused,
            audit_covered: health.covered,
            audit_covered_at: health.covered_at / 1_000_000_000,
            audit_indexed: self.shared.indexed.standing().borrow().records,
            webhook: (told.waiting, told.failed),
            upstreams: self.loads().into_iter().map(reading).collect(),
            objectives: self.objectives().into_iter().map(of_objective).collect(),
            anchors: anchors.collect(),
            counting: self.limits.counts(),
            budgets: self.limits.budgets().into_iter().map(|(_, standing)| (standing.budget.to_string(), standing.percent)).collect(),
        })
    }

    /// Why no call would go through now, whatever it is.
    pub fn unready(&self) -> Option<&'static str> {
        (!self.shared.audit.log().is_open()).then_some("the audit log takes no intents")
    }
}

fn reading((id, state, load): (String, State, Load)) -> OfOneUpstream {
    let tools = load.tools.iter().map(|(tool, standing)| (format!("{id}__{tool}"), number(*standing)));
    OfOneUpstream {
        connected: state.is_connected(),
        calls: load.calls as u64,
        waiting: load.waiting as u64,
        breaker: number(load.breaker),
        tools: tools.collect(),
        retries: load.retries.made,
        retries_refused: load.retries.refused,
        upstream: id,
    }
}

fn of_objective(standing: objective::Standing) -> OfObjective {
    let objective::Standing { tool, objective, burns, left, is_burning, .. } = standing;
    OfObjective { tool, good: objective.slo.good(), burns, left, is_burning }
}

/// The number of a breaker's state in metrics.
fn number(standing: Standing) -> u64 {
    match standing {
        Standing::Closed { .. } => 0,
        Standing::HalfOpen => 1,
        Standing::Open { .. } => 2,
    }
}
