//! What an agent can take back once a step of its run has failed: the compensations that manifests name, for calls that took effect or may have.
//!
//! Owns: which calls of a run could be undone, as far as this process remembers, and the words for the agent. Leaves to the agent whether to:
//! the gateway never calls a compensation by itself, and a compensation is a call like any other.
//!
//! INVARIANT: no tool is named that the agent does not see. What is remembered is bounded.
//! INVARIANT: a call that fails for want of sound arguments, or that may be sent again, is not the end of a run: nothing is offered then.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use super::Gateway;
use super::replaying::push_meta;
use super::resolve::is_seen;
use crate::audit::trail::Trail;
use crate::catalog::Standing;
use crate::error::{Category, Effect, Error};
use crate::invocation::Caller;
use crate::mcp::respond::Ending;

/// Runs that are remembered; the one that was not added to for longest goes first.
const MAX_RUNS: usize = 1_024;
/// Calls of one run that are remembered.
const MAX_CALLS: usize = 32;
/// Calls that are told at once, the newest first.
const MAX_TOLD: usize = 8;

/// Calls that could be undone.
#[derive(Debug, Default)]
pub struct Undoable {
    runs: Mutex<Runs>,
    /// How many runs there are, so that nobody waits to find none.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Runs {
    calls: HashMap<Whose, VecDeque<Undo>>,
    /// The runs, the one added to last at the end.
    order: VecDeque<Whose>,
}

/// Whose run: the agent with the person that it acts for, and what it calls the run.
type Whose = (Box<str>, Box<str>);

/// A call that took effect, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Undo {
    tool: Box<str>,
    undoes: Box<str>,
    call: Box<str>,
}

impl Undoable {
    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, whose: Whose, undo: Undo) {
        let mut runs = self.lock();
        runs.order.retain(|known| *known != whose);
        if runs.order.len() >= MAX_RUNS
            && let Some(oldest) = runs.order.pop_front()
        {
            runs.calls.remove(&oldest);
        }
        runs.order.push_back(whose.clone());
        let calls = runs.calls.entry(whose).or_default();
        if calls.len() >= MAX_CALLS {
            calls.pop_front();
        }
        calls.push_back(undo);
        self.count.store(runs.calls.len(), Ordering::Relaxed);
    }

    /// A compensation was called: the newest call that it undoes need not be undone any more.
    fn undone(&self, whose: &Whose, tool: &str) {
        let mut runs = self.lock();
        if let Some(calls) = runs.calls.get_mut(whose)
            && let Some(at) = calls.iter().rposition(|undo| *undo.tool == *tool)
        {
            calls.remove(at);
        }
    }

    /// What could be undone in a run, the newest first.
    fn of(&self, whose: &Whose) -> Vec<Undo> {
        self.lock().calls.get(whose).map(|calls| calls.iter().rev().cloned().collect()).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

impl Gateway {
    /// Remembers a call that could be undone, and tells of those where a step of its run has failed for good.
    pub(super) fn compensate(&self, trail: &Trail<'_>, caller: &Caller, outcome: &mut Result<Ending, Error>) {
        let Some(target) = trail.target() else { return };
        let undoable = &self.shared.undoable;
        if target.compensation.is_none() && undoable.is_empty() {
            return;
        }
        let whose = trail.run().map(|run| (Box::from(&*caller.principal.bound()), Box::from(run)));
        let own = target.compensation.as_deref().map(|tool| Undo {
            tool: tool.into(),
            undoes: target.name.clone(),
            call: trail.id_text().into(),
        });
        let has_failed = match outcome {
            Ok(Ending::Asks(_)) => return,
            Ok(Ending::Complete(result)) => result.is_error,
            Err(error) => is_final(error),
        };
        let may_have_acted = match outcome {
            Err(error) => error.effect() != Effect::None,
            Ok(_) => trail.is_recorded(),
        };
        let earlier = if has_failed { whose.as_ref().map(|whose| undoable.of(whose)).unwrap_or_default() } else { Vec::new() };
        if let Some(whose) = whose.filter(|_| trail.is_recorded()) {
            match own.clone() {
                Some(undo) if may_have_acted => undoable.add(whose, undo),
                _ if !has_failed => undoable.undone(&whose, &target.name),
                _ => {}
            }
        }
        let told: Vec<Undo> = own
            .into_iter()
            .filter(|_| has_failed && may_have_acted)
            .chain(earlier)
            .filter(|undo| self.is_offered(caller, &undo.tool))
            .take(MAX_TOLD)
            .collect();
        if !told.is_empty() {
            tell(&told, outcome);
        }
    }

    fn is_offered(&self, caller: &Caller, name: &str) -> bool {
        let tool = self.catalog.find(name).and_then(|index| self.catalog.tool(index));
        tool.is_some_and(|tool| {
            is_seen(&self.policy, caller, tool) && matches!(self.catalog.standing(tool), Standing::Reviewed | Standing::Unconfirmed)
        })
    }
}

/// Whether an error ends the step: another try of the same will not do.
fn is_final(error: &Error) -> bool {
    !error.is_retryable() && !matches!(error.facts().category, Category::Request | Category::Authentication)
}

fn tell(told: &[Undo], outcome: &mut Result<Ending, Error>) {
    let list: Vec<_> = told.iter().map(|undo| json!({ "tool": undo.tool, "undoes": undo.undoes, "invocation": undo.call })).collect();
    let list = json!(list).to_string();
    match outcome {
        Err(error) => {
            let mut names: Vec<&str> = told.iter().map(|undo| &*undo.tool).collect();
            names.dedup();
            let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let suggestion = format!("{}; to take back what was done, call {names}: see `compensations`", error.suggestion());
            *error = error.clone().suggest(suggestion).data("compensations", list);
        }
        // What the tool itself says of its failure stays as it is.
        Ok(Ending::Complete(result)) => push_meta(result, "dev.doorward/compensations", &list),
        Ok(Ending::Asks(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(number: usize) -> Undo {
        Undo { tool: "up__undo".into(), undoes: "up__do".into(), call: number.to_string().into() }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_was_undone_is_not_told_again() {
        let undoable = Undoable::default();
        let whose = |number: usize| -> Whose { ("agent:a".into(), number.to_string().into()) };
        assert!(undoable.is_empty());
        for number in 0..MAX_RUNS + 5 {
            undoable.add(whose(number), undo(number));
        }
        let bounded = {
            let runs = undoable.lock();
            (runs.calls.len(), runs.order.len())
        };
        assert_eq!((bounded, undoable.of(&whose(4)).len()), ((MAX_RUNS, MAX_RUNS), 0));
        for number in 0..MAX_CALLS + 3 {
            undoable.add(whose(9), undo(number));
        }
        let newest = |count: usize| undo(MAX_CALLS + 2 - count);
        assert_eq!((undoable.of(&whose(9)).len(), &undoable.of(&whose(9))[0]), (MAX_CALLS, &newest(0)));
        undoable.undone(&whose(9), "up__other");
        undoable.undone(&whose(9), "up__undo");
        assert_eq!((undoable.of(&whose(9)).len(), &undoable.of(&whose(9))[0]), (MAX_CALLS - 1, &newest(1)));
    }
}
