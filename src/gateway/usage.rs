//! The stage *admit* of the path, and its other end: what a call repeats and spends is counted before it goes on, and what it came to is added
//! when it has ended.
//!
//! Owns: the words for an agent that is stopped or warned, and what counts as an end. Leaves to `limit` the counting, and to `audit` the record.
//!
//! INVARIANT: every call that is counted is told of here once, whatever became of it; one that never left is taken back.

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::Gateway;
use super::assembly::Assembly;
use super::replaying::push_meta;
use super::rounds::Round;
use crate::audit::trail::Trail;
use crate::clock::{Clock, rfc3339};
use crate::error::{Code, Effect, Error};
use crate::limit::{self, Admission, Coming, Ended, Exhausted, Limits, Refusal, Repeats, Spared, Standing, Warned, When};
use crate::mcp::messages::Request;
use crate::mcp::respond::Ending;
use crate::policy::Permit;
use crate::state::State;

impl Gateway {
    /// Lets a call on that is not too often made, repeats no other too often, and can be paid for.
    ///
    /// # Errors
    /// `rate_limited`, `loop_detected`, `budget_exhausted`.
    pub(super) fn admit<'d>(
        &self,
        trail: &mut Trail<'d>,
        permit: Permit<'d>,
        request: &Request<'_, '_>,
        round: Option<&Round>,
    ) -> Result<Admission<'d>, Error> {
        let invocation = *permit.invocation();
        let run = self.shared.runs.trusted(&invocation.caller.principal, request.meta.run());
        // What answers our own question has not been let on yet; what answers a server's has.
        let goes_on = round.is_some_and(|round| round.approval.is_none());
        let admitted = limit::admit(&self.limits, permit, Coming { run, goes_on });
        let (admission, charge) = admitted.map_err(|refusal| match refusal {
            Refusal::Rate(error) => error,
            Refusal::Spared(spared) => self.spared(&invocation.target.name, &spared),
        })?;
        trail.charged(charge);
        Ok(admission)
    }

    /// A repeat waits for the call that it repeats: meanwhile it is in no loop.
    pub(super) fn waits(&self, trail: &mut Trail<'_>) {
        let Some(mut charge) = trail.take_charge() else { return };
        self.limits.waits(&mut charge);
        trail.charged(Some(charge));
    }

    /// It is no repeat after all, and goes on.
    ///
    /// # Errors
    /// `loop_detected`.
    pub(super) fn goes_on(&self, trail: &mut Trail<'_>, target: &str) -> Result<(), Error> {
        let Some(mut charge) = trail.take_charge() else { return Ok(()) };
        let counted = self.limits.goes_on(&mut charge);
        trail.charged(Some(charge));
        counted.map_err(|spared| self.spared(target, &spared))
    }

    fn spared(&self, target: &str, spared: &Spared) -> Error {
        match spared {
            Spared::Loop(repeats) => looped(target, repeats, self.shared.audit.clock().unix_nanos()),
            Spared::Budget(exhausted) => used_up(exhausted),
        }
    }

    /// Tells what the call has come to, and its agent of what it will not be able to do for long.
    pub(super) fn count_end(&self, trail: &mut Trail<'_>, outcome: &mut Result<Ending, Error>) {
        let Some(charge) = trail.take_charge() else { return };
        let took = trail.at_server();
        // Stored is not left: what found no way out is none of its server's calls.
        let left = took.filter(|_| !matches!(outcome, Err(error) if error.effect() == Effect::None));
        let ended = left.map(|took| match outcome {
            Ok(Ending::Complete(result)) => {
                Ended { result: Some(&result.members), failed: result.is_error, result_bytes: result.members.len() as u64, took }
            }
            Ok(Ending::Asks(_)) => Ended { result: None, failed: false, result_bytes: 0, took },
            // Who stops a call says nothing of how it goes.
            Err(error) if matches!(error.code(), Code::Cancelled | Code::Frozen) => {
                Ended { result: None, failed: false, result_bytes: 0, took }
            }
            Err(error) => Ended { result: Some(error.facts().code.as_bytes()), failed: true, result_bytes: 0, took },
        });
        self.limits.ended(&charge, ended);
        if let (Ok(Ending::Complete(result)), false) = (outcome, charge.warned().is_empty() || left.is_none()) {
            let warnings: Vec<Value> = charge.warned().iter().map(warning).collect();
            push_meta(result, "dev.doorward/warnings", &Value::from(warnings).to_string());
        }
    }
}

impl Assembly {
    /// The limits with what the database has of their budgets. Where it cannot be read, they begin anew.
    pub(super) fn restored(&self, limits: Limits) -> Limits {
        if let Err(error) = limits.restore(self.state(), &self.shared().audit.clock().now()) {
            tracing::error!(%error, "what was spent of budgets cannot be read: they begin anew");
        }
        limits
    }

    /// The limits of the snapshot that was built last.
    fn built(&self) -> Option<Arc<Limits>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores what was spent of budgets since the last time, off the runtime's workers. To be called every second or so.
    pub fn keep_spent(&self) {
        let Some(limits) = self.built().filter(|limits| limits.has_unkept()) else { return };
        let (state, clock) = (Arc::clone(self.state()), self.shared().audit.clock().clone());
        let _nobody_waits = tokio::task::spawn_blocking(move || store(&limits, &state, &clock));
    }

    /// The same for the last time.
    pub(super) async fn keep_spent_now(&self) {
        let (Some(limits), state) = (self.built(), Arc::clone(self.state())) else { return };
        let clock = self.shared().audit.clock().clone();
        let _ = tokio::task::spawn_blocking(move || store(&limits, &state, &clock)).await;
    }

    /// Forgets what counts no more of rates, loops and budgets, off the runtime's workers. To be called every minute or so.
    pub fn sweep_limits(&self) {
        let Some(limits) = self.built() else { return };
        let _nobody_waits = tokio::task::spawn_blocking(move || limits.sweep());
    }
}

fn store(limits: &Limits, state: &State, clock: &Clock) {
    if let Err(error) = limits.store(state, &clock.now()) {
        tracing::error!(%error, "what is spent of budgets could not be stored: it counts in memory, and is tried again");
    }
}

/// What repeats, how often and since when; nothing of its arguments.
fn looped(target: &str, repeats: &Repeats, now: i64) -> Error {
    let Repeats { rule, when, times, since_ms, wait_ms, window_ms, .. } = repeats;
    let since = rfc3339(now.saturating_sub(i64::try_from(*since_ms).unwrap_or(0).saturating_mul(1_000_000)));
    let (before, change) = (times.saturating_sub(1), change(*when));
    let message = match when {
        When::SameCall => format!("the same call of `{target}` was made {before} times since {since}"),
        When::SameResult => format!("`{target}` gave the same result to {before} different calls since {since}"),
        When::Alternation => format!("`{target}` and another call were made in turn {before} times since {since}, and nothing has changed"),
        When::Failures => format!("`{target}` has failed {before} times in a row since {since}"),
    };
    let data = json!({
        "rule": &**rule, "what": when.as_str(), "target": target, "times": before, "since": since, "wait_ms": wait_ms, "window_ms": window_ms,
    });
    let error = Error::new(Code::LoopDetected, message).rules(vec![rule.to_string()]).data("loop", data.to_string());
    match wait_ms {
        Some(wait) => {
            error.again_after_ms(*wait).suggest(format!("{change}; if you wait for something, call again after `retry_after_ms`"))
        }
        None => error.suggest(change),
    }
}

fn change(when: When) -> &'static str {
    match when {
        When::SameCall => "use the result that you have, change the arguments or use another tool",
        When::SameResult => "what you look for is not there: use another tool, or report that it was not found",
        When::Alternation => "use the results that you have, and take another step than these two",
        When::Failures => "read the error, change the approach or use another tool",
    }
}

fn used_up(exhausted: &Exhausted) -> Error {
    let Exhausted { standing: Standing { budget, figure, used, of, .. }, retry_after_ms } = exhausted;
    let what = figure.as_str();
    let message = match of {
        0 => format!("budget `{budget}` keeps as many amounts as it may, and none for this caller"),
        _ => format!("budget `{budget}` is used up: {used} of {of} `{what}`"),
    };
    let data = json!({ "id": &**budget, "figure": what, "used": used, "of": of, "again": retry_after_ms.map_or("never", |_| "later") });
    let error = Error::new(Code::BudgetExhausted, message).rules(vec![budget.to_string()]).data("budget", data.to_string());
    match retry_after_ms {
        Some(wait) => error.again_after_ms(*wait).suggest("finish without this tool, or call again after `retry_after_ms`"),
        None => error.suggest("finish without this tool: the budget does not come back by itself"),
    }
}

/// A warning as agents read it.
fn warning(warned: &Warned) -> Value {
    match warned {
        Warned::Repeats(Repeats { rule, when, times, refused_at, .. }) => {
            json!({ "loop": &**rule, "what": when.as_str(), "times": times, "refused_at": refused_at, "suggestion": change(*when) })
        }
        Warned::Budget(standing) => {
            let Standing { budget, figure, used, of, percent } = standing;
            let suggestion = match standing.is_urgent() {
                true => "come to an end: this budget is nearly used up",
                false => "spend the rest of this budget on what matters most",
            };
            json!({ "budget": &**budget, "figure": figure.as_str(), "used": used, "of": of, "percent": percent, "suggestion": suggestion })
        }
    }
}
