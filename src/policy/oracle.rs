//! Casbin, asked so that none of its pitfalls can speak: own matchers that cannot panic, rows put in directly instead of
//! through its CSV reader, no cache, no empty policy, no reload, and a thread of its own whose panic is an answer.
//!
//! Leaves to others: what to ask (`equivalence`). INVARIANT: never on the request path.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use casbin::function_map::{OperatorFunction, dynamic_to_str};
use casbin::{CoreApi, DefaultEffector, DefaultModel, EffectKind, Effector, EffectorStream, Enforcer, NullAdapter};

use super::MODEL;
use super::rule::{Grant, Pattern, Rule, RuleEffect, RuleId};
use crate::catalog::tier::Tier;

/// A question to which the table and Casbin have different answers, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub(super) String);

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the policy was compiled wrongly and is not used; please report this: {}", self.0)
    }
}

impl std::error::Error for Difference {}

/// Runs a check on a thread of its own with a runtime of its own: Casbin is built by `async` functions, and may panic.
pub(super) fn apart<T: Send>(check: impl FnOnce(&mut Oracle) -> Result<T, Difference> + Send) -> Result<T, Difference> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| Difference(format!("no runtime: {error}")))?;
        let mut oracle = runtime.block_on(Oracle::new()).map_err(|error| Difference(format!("Casbin refuses the model: {error}")))?;
        check(&mut oracle)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("policy-oracle".to_owned()).spawn_scoped(scope, run);
        let thread = thread.map_err(|error| Difference(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Difference("Casbin panicked".to_owned())))
    })
}

/// What Casbin says to a call, and which of the rows that it holds match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub permit: bool,
    pub allows: Vec<RuleId>,
    pub denies: Vec<RuleId>,
    /// The `o` rows that match, whether or not the call may go on.
    pub obliges: Vec<RuleId>,
}

/// Casbin twice: the `p` rows, and the `o` rows as if they were denies, or allows where they lift a rule. An `o` row matches where a deny (or an
/// allow) of the same columns would, and the second enforcer's verdict is not asked for, so that it never meets the first one's.
pub(super) struct Oracle {
    rules: Pass,
    obligations: Pass,
}

/// An enforcer of the shipped model that also tells which rows decided.
struct Pass {
    enforcer: Enforcer,
    effects: Arc<Mutex<Vec<EffectKind>>>,
    /// The rules it holds, in the order of their rows.
    held: Vec<RuleId>,
}

impl Oracle {
    async fn new() -> casbin::Result<Self> {
        Ok(Self { rules: Pass::new().await?, obligations: Pass::new().await? })
    }

    /// Replaces the rows.
    pub fn hold<'a>(&mut self, rules: &[&Rule], grants: impl Iterator<Item = &'a Grant> + Clone) -> Result<(), Difference> {
        let (obligations, rules): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| rule.effect.obligation().is_some());
        self.obligations.hold(&obligations, grants.clone())?;
        self.rules.hold(&rules, grants)
    }

    /// Whether it holds the row, of either kind.
    pub fn holds(&self, rule: &RuleId) -> bool {
        [&self.rules, &self.obligations].iter().any(|pass| pass.held.binary_search(rule).is_ok())
    }

    pub fn ask(&self, principal: &str, target: &str, tier: Tier, names: &Names) -> Result<Answer, Difference> {
        let (permit, allows, denies) = self.rules.ask(principal, target, tier, names)?;
        let (_, lifting, mut obliges) = self.obligations.ask(principal, target, tier, names)?;
        obliges.extend(lifting);
        obliges.sort_unstable();
        Ok(Answer { permit, allows, denies, obliges })
    }
}

impl Pass {
    async fn new() -> casbin::Result<Self> {
        let model = DefaultModel::from_str(MODEL).await?;
        let mut enforcer = Enforcer::new_raw(model, NullAdapter).await?;
        let effects = Arc::new(Mutex::new(Vec::new()));
        enforcer.set_effector(Box::new(Recorder(Arc::clone(&effects))));
        // Casbin's own `keyMatch` cuts names at byte offsets and panics inside a character; these compare bytes.
        enforcer.add_function(
            "targetMatch",
            OperatorFunction::Arg2(|target, pattern| target_match(&dynamic_to_str(&target), &dynamic_to_str(&pattern)).into()),
        );
        enforcer.add_function(
            "tierOk",
            OperatorFunction::Arg3(|tier, bound, effect| {
                tier_ok(&dynamic_to_str(&tier), &dynamic_to_str(&bound), &dynamic_to_str(&effect)).into()
            }),
        );
        enforcer.add_function(
            "condOk",
            OperatorFunction::Arg4(|sure, maybe, condition, effect| {
                let [sure, maybe, condition, effect] = [&sure, &maybe, &condition, &effect].map(dynamic_to_str);
                condition_ok(&sure, &maybe, &condition, &effect).into()
            }),
        );
        Ok(Self { enforcer, effects, held: Vec::new() })
    }

    /// Replaces the rows. Straight into the model: Casbin's CSV reader would skip what it does not understand.
    fn hold<'a>(&mut self, rules: &[&Rule], grants: impl Iterator<Item = &'a Grant>) -> Result<(), Difference> {
        let lost = |what: &str| Difference(format!("Casbin did not take {what}"));
        let model = self.enforcer.get_mut_model();
        model.clear_policy();
        for rule in rules {
            let mut fields = rule.fields();
            if rule.effect.obligation().is_some() {
                fields[5] = if rule.effect.gives() { RuleEffect::Allow } else { RuleEffect::Deny }.to_string();
            }
            if !model.add_policy("p", "p", fields.into()) {
                return Err(lost(rule.id.as_str()));
            }
        }
        for grant in grants {
            if !model.add_policy("g", "g", vec![grant.member.to_string(), grant.role.to_string()]) {
                return Err(lost(&format!("the grant of {} to {}", grant.role, grant.member)));
            }
        }
        self.held = rules.iter().map(|rule| rule.id.clone()).collect();
        self.enforcer.build_role_links().map_err(|error| Difference(format!("Casbin refuses the roles: {error}")))
    }

    /// The verdict, and the rows that allow and that deny.
    fn ask(&self, principal: &str, target: &str, tier: Tier, names: &Names) -> Result<(bool, Vec<RuleId>, Vec<RuleId>), Difference> {
        // Without rows Casbin asks its matcher about empty strings and may allow; without rows nobody is allowed anything.
        if self.held.is_empty() || principal.is_empty() || target.is_empty() {
            return Ok((false, Vec::new(), Vec::new()));
        }
        let permit = self.enforcer.enforce((principal, target, tier.as_str(), names.sure.as_str(), names.maybe.as_str()));
        let permit =
            permit.map_err(|error| Difference(format!("Casbin fails at `{principal}` and `{}`: {error}", target.escape_default())))?;
        let effects = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |kind| self.held.iter().zip(effects.iter()).filter(|(_, effect)| **effect == kind).map(|(id, _)| id.clone()).collect();
        Ok((permit, of(EffectKind::Allow), of(EffectKind::Deny)))
    }
}

fn target_match(target: &str, pattern: &str) -> bool {
    !target.is_empty() && !pattern.is_empty() && Pattern::new(pattern).matches(target)
}

fn tier_ok(tier: &str, bound: &str, effect: &str) -> bool {
    match (Tier::parse(tier), Tier::parse(bound), effect) {
        (Some(tier), Some(ceiling), "allow") => tier <= ceiling,
        (Some(tier), Some(floor), "deny") => tier >= floor,
        (Some(_), None, "deny") => bound == "any",
        _ => false,
    }
}

/// The names of the conditions that are true, and of those that may be, each between bars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub sure: String,
    pub maybe: String,
}

fn condition_ok(sure: &str, maybe: &str, condition: &str, effect: &str) -> bool {
    let barred = format!("|{condition}|");
    match effect {
        _ if condition == "-" => true,
        "allow" => sure.contains(&barred),
        "deny" => maybe.contains(&barred),
        _ => false,
    }
}

/// Lets Casbin's own effector decide, and keeps each row's effect beside it: without Casbin's `explain` feature nothing else
/// tells which rows matched, and that one is silent about a default deny.
struct Recorder(Arc<Mutex<Vec<EffectKind>>>);

struct Recording {
    casbin: Box<dyn EffectorStream>,
    decided: bool,
    effects: Arc<Mutex<Vec<EffectKind>>>,
}

impl Effector for Recorder {
    fn new_stream(&self, expr: &str, cap: usize) -> Box<dyn EffectorStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Box::new(Recording { casbin: DefaultEffector.new_stream(expr, cap), decided: false, effects: Arc::clone(&self.0) })
    }
}

impl EffectorStream for Recording {
    fn next(&self) -> bool {
        self.casbin.next()
    }

    /// Goes on after the decision, so that every row is seen.
    fn push_effect(&mut self, effect: EffectKind) -> bool {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner).push(effect);
        if !self.decided {
            self.decided = self.casbin.push_effect(effect);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let result: Result<(), Difference> = apart(|_| panic!("as Casbin might"));
        assert_eq!(result, Err(Difference("Casbin panicked".to_owned())));
    }
}
