//! Conditions of rows: named, typed tests of a call's arguments, of who calls and of the time, with three answers.
//!
//! Owns: what a condition is, and what it comes to for a call. Leaves to `file` the text of `conditions.yaml`, to the modules below how
//! paths, hosts and SQL are read, and to `table` what the answers make of rows.
//!
//! INVARIANT: an answer is true, false, or none at all ([`Unclear`]). An unclear condition does not allow, does deny, and does oblige, so
//! whatever cannot be read for certain falls to the safe side.
//! INVARIANT: nothing that is said of an answer holds a value.

mod file;
mod host;
mod path;
mod pointer;
mod schema;
mod sql;
mod value;
mod window;
mod written;

use std::fmt;

pub use pointer::Pointer;
pub use schema::schema;

use super::rule::Pattern;
use crate::catalog::Label;
use crate::clock::Clock;
use crate::identity::Principal;
use crate::mcp::json::Node;
use crate::run::{Before, Unknown};
use value::Test;
use window::Window;
pub use written::spelled;

/// A condition by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionId(pub(super) u32);

/// What a condition comes to.
pub type Truth = Result<bool, Unclear>;

/// Why a condition cannot be told to be true or false. The words may be told to an agent: they name no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear(pub &'static str);

impl fmt::Display for Unclear {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// The word of records: `true`, `false` or `error`.
pub fn word(truth: Truth) -> &'static str {
    match truth {
        Ok(true) => "true",
        Ok(false) => "false",
        Err(_) => "error",
    }
}

/// What conditions may read of a call.
#[derive(Clone, Copy)]
pub struct Facts<'f> {
    /// The arguments as they were parsed; `None` for a call without any.
    pub arguments: Option<&'f Node<'f>>,
    /// Who calls.
    pub principal: &'f Principal,
    /// Whether the principal has a role.
    pub has_role: &'f dyn Fn(&str) -> bool,
    /// The time.
    pub clock: &'f Clock,
    /// What the agent has met and made before.
    pub before: &'f Before<'f>,
}

/// A condition that was read from the file.
#[derive(Debug)]
pub struct Condition {
    /// Its name in rows, records and errors.
    pub name: Box<str>,
    /// Where it stands: line and column.
    pub at: (u64, u64),
    /// What it says, as canonical JSON: part of the policy's version.
    pub canonical: String,
    expression: Expression,
}

/// All conditions of a policy.
#[derive(Debug, Default)]
pub struct Conditions {
    list: Vec<Condition>,
}

impl Conditions {
    /// The conditions, in file order.
    pub fn all(&self) -> impl Iterator<Item = (ConditionId, &Condition)> {
        (0..).map(ConditionId).zip(&self.list)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The condition of that name.
    pub fn id(&self, name: &str) -> Option<ConditionId> {
        self.all().find(|(_, condition)| &*condition.name == name).map(|(id, _)| id)
    }

    /// A condition; `None` for one of another policy.
    pub fn get(&self, id: ConditionId) -> Option<&Condition> {
        self.list.get(id.0 as usize)
    }

    /// The name of a condition; empty for one of another policy.
    pub fn name(&self, id: ConditionId) -> &str {
        self.list.get(id.0 as usize).map_or("", |condition| &condition.name)
    }

    /// What a condition comes to.
    pub fn evaluate(&self, id: ConditionId, facts: &Facts<'_>) -> Truth {
        let condition = self.list.get(id.0 as usize).ok_or(Unclear("there is no such condition"))?;
        condition.expression.evaluate(facts)
    }
}

impl Condition {
    /// The roles that it asks for.
    pub fn roles(&self) -> Vec<&str> {
        let mut roles = Vec::new();
        self.expression.each(true, &mut |leaf, _| {
            if let Expression::Role(role) = leaf {
                roles.push(&**role);
            }
        });
        roles
    }

    /// The labels that it asks for.
    pub fn labels(&self) -> Vec<&Label> {
        let mut labels = Vec::new();
        self.expression.each(true, &mut |leaf, _| {
            if let Expression::Label(label) = leaf {
                labels.push(label);
            }
        });
        labels
    }

    /// The calls that it has to be counted for.
    pub fn counted(&self) -> Vec<&Pattern> {
        let mut counted = Vec::new();
        self.expression.each(true, &mut |leaf, _| {
            if let Expression::Below(count) = leaf {
                counted.push(&count.of);
            }
        });
        counted
    }

    /// The argument pointers that it reads, and has no answer without.
    pub fn needed_pointers(&self) -> Vec<&Pointer> {
        let mut pointers = Vec::new();
        self.expression.each(true, &mut |leaf, _| {
            if let Expression::Look(Look { source: Source::Argument(pointer), missing: None, .. }) = leaf {
                pointers.push(pointer);
            }
        });
        pointers
    }

    /// Whether it compares a path as a text.
    pub fn takes_path_for_text(&self) -> bool {
        let mut found = false;
        self.expression.each(true, &mut |leaf, _| found |= matches!(leaf, Expression::Look(look) if look.test.takes_path_for_text()));
        found
    }

    /// Whether one more element in an array of the arguments could turn it `to` this answer, whatever the other elements are.
    pub fn turned_by_one_element(&self, to: bool) -> bool {
        let mut found = false;
        self.expression.each(true, &mut |leaf, positive| {
            if let Expression::Look(look) = leaf
                && matches!(&look.source, Source::Argument(pointer) if pointer.has_star())
            {
                found |= (look.every == positive) != to;
            }
        });
        found
    }
}

/// The tree of one condition.
#[derive(Debug)]
enum Expression {
    All(Box<[Expression]>),
    Any(Box<[Expression]>),
    Not(Box<Expression>),
    /// The principal has the role.
    Role(Box<str>),
    /// The principal's access token has the scope.
    Scope(Box<str>),
    Time(Window),
    /// The agent has met the label.
    Label(Label),
    /// The agent has made fewer calls.
    Below(Count),
    Look(Look),
}

/// Calls that are counted.
#[derive(Debug)]
struct Count {
    /// Which ones.
    of: Pattern,
    calls: u64,
    within_s: u64,
}

/// A test of what stands somewhere.
#[derive(Debug)]
struct Look {
    source: Source,
    /// With a star in the pointer: whether every element must pass, or some.
    every: bool,
    /// The answer where nothing stands there.
    missing: Option<bool>,
    test: Test,
}

#[derive(Debug)]
enum Source {
    Argument(Pointer),
    /// The agent's name.
    Agent,
    /// For whom the agent acts.
    OnBehalfOf,
}

impl Expression {
    fn evaluate(&self, facts: &Facts<'_>) -> Truth {
        match self {
            Self::All(parts) => all(parts.iter().map(|part| part.evaluate(facts))),
            Self::Any(parts) => any(parts.iter().map(|part| part.evaluate(facts))),
            Self::Not(part) => part.evaluate(facts).map(|truth| !truth),
            Self::Role(role) => Ok((facts.has_role)(role)),
            Self::Scope(scope) => Ok(facts.principal.token.as_ref().is_some_and(|token| token.has_scope(scope))),
            Self::Time(window) => window.contains(facts.clock),
            Self::Label(label) => facts.before.has(label).map_err(unknown),
            Self::Below(count) => facts.before.is_below(&count.of.to_string(), count.calls, count.within_s).map_err(unknown),
            Self::Look(look) => look.evaluate(facts),
        }
    }

    /// Every leaf, and whether it counts for the condition's truth (`true`) or, under an odd number of `not`, against it.
    fn each<'e>(&'e self, positive: bool, take: &mut dyn FnMut(&'e Self, bool)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each(positive, take)),
            Self::Not(part) => part.each(!positive, take),
            leaf => take(leaf, positive),
        }
    }
}

impl Look {
    fn evaluate(&self, facts: &Facts<'_>) -> Truth {
        let missing = || self.missing.ok_or(Unclear("the argument is missing"));
        let text = |text: &str| self.test.passes(&Node::string(text));
        match &self.source {
            Source::Agent => text(facts.principal.name()),
            Source::OnBehalfOf => match facts.principal.token.as_ref().and_then(|token| token.on_behalf_of.as_deref()) {
                Some(whom) => text(whom),
                None => self.missing.ok_or(Unclear("the agent acts for nobody")),
            },
            Source::Argument(pointer) => {
                let found = pointer.find(facts.arguments)?;
                let truths = found.into_iter().map(|value| value.map_or_else(missing, |value| self.test.passes(value)));
                if self.every { all(truths) } else { any(truths) }
            }
        }
    }
}

fn unknown(_: Unknown) -> Unclear {
    Unclear("it cannot be read what the agent did before")
}

/// False where one is, else unclear where one is, else true.
fn all(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut unclear = None;
    for truth in truths {
        match truth {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => unclear = unclear.or(Some(why)),
        }
    }
    unclear.map_or(Ok(true), Err)
}

/// True where one is, else unclear where one is, else false.
fn any(truths: impl Iterator<Item = Truth>) -> Truth {
    all(truths.map(|truth| truth.map(|truth| !truth))).map(|truth| !truth)
}
