//! What is counted when a call has ended: for the metrics, and against the objective of its tool.
//!
//! Owns: which ends are a tool's failures. Leaves to `objective` the counts.
//!
//! A tool fails where its server cannot be reached, is too slow, breaks off, answers what is no MCP or breaks the tool's own promise, and where its
//! breaker is open because of that. What the agent did wrong, what the policy, a limit or a person refused, and what the agent itself gave up
//! counts neither way: no tool would work better for it.

use super::{Assembly, Gateway, Shared};
use crate::audit::record::{Kind, Record};
use crate::audit::trail::Trail;
use crate::catalog::Target;
use crate::catalog::objective::{Objective, OnBurn};
use crate::error::{Code, Effect, Error};
use crate::mcp::respond::Ending;
use crate::objective::{Standing, Turn};
use crate::policy::{Obligation, Obliged, Permit};
use crate::upstream::is_impatient;

/// The rule of an obligation that an objective makes, in records and errors.
const RULE: &str = "objective";
/// When a call of a tool that is slowed down may come again, in milliseconds. A guess: nobody knows when another ends.
const SLOWED_RETRY_MS: u64 = 1_000;

impl Shared {
    /// Counts the end of a call.
    pub(super) fn ended(&self, trail: &Trail<'_>, outcome: &Result<Ending, Error>) {
        let ending = outcome.as_ref().map(Ending::is_error).map_err(Error::code);
        self.telemetry.call_ended(ending, trail.elapsed(), trail.parts());
        let Some((target, objective)) = trail.target().and_then(|target| Some((target, target.objective.as_deref()?))) else { return };
        // A repeat that gets a stored result says nothing of its tool.
        let is_good = match outcome {
            Ok(_) if !trail.is_recorded() => None,
            outcome => worked(objective, outcome),
        };
        if let Some(standing) = is_good.and_then(|is_good| self.objectives.count(target, is_good)) {
            self.note_burn(&standing);
        }
    }

    fn note_burn(&self, standing: &Standing) {
        let Standing { tool, objective, burns, left, is_burning, .. } = standing;
        let on_burn = objective.on_burn.as_ref().map(ToString::to_string).unwrap_or_default();
        let note = format!(
            "objective {}: burn rate {:.1} over 1 h and {:.1} over 6 h, {:.0} % of the budget left; {on_burn}",
            objective.slo,
            burns.0,
            burns.1,
            left * 100.0
        );
        let action = if *is_burning { "budget_burning" } else { "budget_recovered" };
        match is_burning {
            true => tracing::warn!(tool, "the error budget of the tool burns too fast: {note}"),
            false => tracing::info!(tool, "the error budget of the tool burns too fast no more: {note}"),
        }
        self.audit.note(&Record {
            actor: Some("doorward".into()),
            action: Some(action.into()),
            target: Some(tool.clone().into()),
            note: Some(note.into()),
            ..Record::new(Kind::Lifecycle)
        });
    }

    /// Leave for a call of a tool that is slowed down, where it is.
    ///
    /// # Errors
    /// `concurrency_limited` where as many calls are under way as it is slowed down to.
    pub(super) fn turn(&self, target: &Target) -> Result<Option<Turn>, Error> {
        if target.objective.is_none() {
            return Ok(None);
        }
        self.objectives.turn(target).map_err(|most| {
            let message = format!("`{}` fails more often than its objective allows, and is called {most} at a time", target.name);
            Error::new(Code::ConcurrencyLimited, message).retry_after_ms(SLOWED_RETRY_MS)
        })
    }
}

impl Gateway {
    /// The permit, with a person's yes beside it where the tool fails too often and its manifest says so.
    pub(super) fn burdened<'d>(&self, permit: Permit<'d>) -> Permit<'d> {
        let target = permit.invocation().target;
        match target.objective.as_ref().and_then(|_| self.shared.objectives.follows(target)) {
            Some(OnBurn::Approve(role)) => permit.also(Obliged::built_in(RULE, Obligation::Approve { role, people: 1 })),
            _ => permit,
        }
    }

    /// How each tool with an objective stands.
    pub fn objectives(&self) -> Vec<Standing> {
        self.shared.objectives.standings(self.catalog.tools().iter())
    }
}

impl Assembly {
    /// Looks which error budgets have begun to burn too fast, or ceased to. To be called every second or so; looks once a minute.
    pub fn look_at_objectives(&self, gateway: &Gateway) {
        let changed = self.shared().objectives.look(gateway.catalog().tools().iter());
        changed.iter().for_each(|standing| self.shared().note_burn(standing));
    }

    /// Stores what was counted since the last time, where it may block.
    pub async fn store_objectives(&self) {
        let (shared, state) = (std::sync::Arc::clone(self.shared()), self.state_for_later());
        let stored = tokio::task::spawn_blocking(move || shared.objectives.store(&state)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(%error, "the counts of error budgets could not be stored, and are kept for later");
        }
    }
}

/// Whether the tool has worked; `None` where the end says nothing of it.
fn worked(objective: &Objective, outcome: &Result<Ending, Error>) -> Option<bool> {
    let error = match outcome {
        Ok(Ending::Complete(result)) => return Some(!(result.is_error && objective.counts_tool_errors)),
        // It goes on, and is counted when it ends.
        Ok(Ending::Asks(_)) => return None,
        Err(error) => error,
    };
    match error.code() {
        _ if is_impatient(error) => None,
        Code::UpstreamUnavailable
        | Code::UpstreamTimeout
        | Code::UpstreamProtocolError
        | Code::UpstreamDisconnected
        | Code::CircuitOpen
        | Code::ResultInvalid => Some(false),
        // A server that refuses what it was asked for has done nothing; one that fails at it may have done anything.
        Code::UpstreamError if error.effect() != Effect::None => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::objective::{Burn, Slo};
    use crate::mcp::respond::CallResult;

    fn objective(counts_tool_errors: bool) -> Objective {
        let slo = Slo::parse("99%/30d").unwrap();
        Objective { slo, counts_tool_errors, on_burn: None, burn: Burn::default(), slow_to: 1 }
    }

    #[test]
    fn only_what_the_tool_can_help_counts_against_it() {
        let failing = [
            "upstream_unavailable",
            "upstream_timeout",
            "upstream_protocol_error",
            "upstream_disconnected",
            "circuit_open",
            "result_invalid",
            "upstream_error",
        ];
        for code in Code::ALL {
            let error = Error::new(*code, "").after_effect(Effect::Unknown, false);
            let expected = failing.contains(&code.facts().code).then_some(false);
            assert_eq!(worked(&objective(true), &Err(error)), expected, "{code:?}");
        }
        assert_eq!(worked(&objective(true), &Err(Error::new(Code::UpstreamError, "it refused"))), None);
    }

    #[test]
    fn what_a_tool_says_of_itself_counts_where_the_manifest_says_so() {
        let said = |is_error| Ok(Ending::Complete(CallResult { is_error, ..CallResult::default() }));
        assert_eq!((worked(&objective(false), &said(true)), worked(&objective(true), &said(true))), (Some(true), Some(false)));
        assert_eq!(worked(&objective(true), &said(false)), Some(true));
    }
}
