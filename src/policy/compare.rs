//! What somebody may do at a target whatever it is called with, and how two policies differ in that: for people who review an edit.
//!
//! Read from the rows and not from the decision table, so that a role can be asked about like an agent.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Policy;
use super::condition::ConditionId;
use super::cover::parts;
use super::flow::{Flow, TOXIC_FLOW, is_guarded};
use super::obligation::Obligation;
use super::rule::{ANY, Rule, RuleEffect, RuleId};
use crate::catalog::tier::Tier;

/// When the built-in rule comes to bear.
const AFTER: &str = "private and untrusted";
/// Conditions by what they say, with their names.
type Named = BTreeMap<String, Box<str>>;

/// A right at a target: it is permitted, under conditions or not.
#[derive(Clone, Debug, Default)]
pub struct Right {
    /// One of these has to hold; none are needed where it is empty.
    when: Named,
    /// None of these may hold.
    unless: Named,
    /// What is asked for beside it, by what it says and under which condition, with words for that.
    asks: BTreeMap<String, String>,
    /// Where one of these holds, the built-in rule asks for nothing.
    lifted: Named,
    /// The rows that allow it, rising.
    rules: Vec<RuleId>,
}

/// How a right differs between two policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// There was none.
    Gained,
    /// It is permitted more often, or less is asked for.
    Widened,
    /// Neither more nor less often, as far as can be told: some of both.
    Changed,
    /// It is permitted less often, or more is asked for.
    Narrowed,
    /// There is none any more.
    Lost,
}

impl Change {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Widened => "widened",
            Self::Changed => "changed",
            Self::Narrowed => "narrowed",
            Self::Lost => "lost",
        }
    }

    /// Whether something may be permitted now that was not.
    pub fn may_permit_more(self) -> bool {
        matches!(self, Self::Gained | Self::Widened | Self::Changed)
    }
}

impl Right {
    /// In a word or a few: `allow`, `when a or b`, `unless c`, `with approve:oncall`.
    pub fn told(&self) -> String {
        let names = |named: &Named| named.values().map(|name| &**name).collect::<Vec<_>>().join(" or ");
        let mut parts = vec![if self.when.is_empty() { "allow".to_owned() } else { format!("when {}", names(&self.when)) }];
        if !self.unless.is_empty() {
            parts.push(format!("unless {}", names(&self.unless)));
        }
        if !self.asks.is_empty() {
            parts.push(format!("with {}", self.asks.values().map(String::as_str).collect::<Vec<_>>().join(", ")));
        }
        if !self.lifted.is_empty() {
            parts.push(format!("without {TOXIC_FLOW} when {}", names(&self.lifted)));
        }
        parts.join(", ")
    }

    /// Whether it depends on what the call is.
    pub fn is_conditional(&self) -> bool {
        !self.when.is_empty() || !self.unless.is_empty()
    }

    /// Whether something is asked for beside it.
    pub fn asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Whether it asks for all that another right does.
    pub fn asks_all_of(&self, other: &Self) -> bool {
        other.asks.keys().all(|asked| self.asks.contains_key(asked))
    }

    /// The rows that allow it.
    pub fn rules(&self) -> &[RuleId] {
        &self.rules
    }
}

/// How a right has changed; `None` where it permits and asks for the same, whichever rows say so.
pub fn change(was: Option<&Right>, is: Option<&Right>) -> Option<Change> {
    let (was, is) = match (was, is) {
        (None, None) => return None,
        (None, Some(_)) => return Some(Change::Gained),
        (Some(_), None) => return Some(Change::Lost),
        (Some(was), Some(is)) => (was, is),
    };
    let keys = |named: &Named| named.keys().cloned().collect::<BTreeSet<String>>();
    // No condition at all permits more than any condition does.
    let when = match (was.when.is_empty(), is.when.is_empty()) {
        (true, true) => None,
        (false, true) => Some(Change::Widened),
        (true, false) => Some(Change::Narrowed),
        (false, false) => one_of(&keys(&was.when), &keys(&is.when)),
    };
    let unless = more_is(Change::Narrowed, &keys(&was.unless), &keys(&is.unless));
    let asked = |right: &Right| right.asks.keys().cloned().collect::<BTreeSet<String>>();
    let asks = more_is(Change::Narrowed, &asked(was), &asked(is));
    let lifted = more_is(Change::Widened, &keys(&was.lifted), &keys(&is.lifted));
    [when, unless, asks, lifted].into_iter().flatten().reduce(|one, other| if one == other { one } else { Change::Changed })
}

/// What it means that one of other conditions is enough now. One that asks for all of some, and for a former one among them, permits no more than that.
fn one_of(was: &BTreeSet<String>, is: &BTreeSet<String>) -> Option<Change> {
    let is_within = |inner: &BTreeSet<String>, outer: &BTreeSet<String>| {
        inner.iter().all(|says| outer.contains(says) || parts_of(says).iter().any(|part| outer.contains(part)))
    };
    match (is_within(is, was), is_within(was, is)) {
        (true, true) => None,
        (true, false) => Some(Change::Narrowed),
        (false, true) => Some(Change::Widened),
        (false, false) => Some(Change::Changed),
    }
}

/// What the parts say of a condition that asks for all of them.
fn parts_of(says: &str) -> Vec<String> {
    // Behind what it says stand the roles that somebody has of those that it asks for.
    let end = says.rfind('}').map_or(says.len(), |at| at + 1);
    let (canonical, roles) = says.split_at(end);
    parts(canonical).into_iter().map(|part| format!("{part}{roles}")).collect()
}

/// What it means that a set has become another, where more elements mean this.
fn more_is(meaning: Change, was: &BTreeSet<String>, is: &BTreeSet<String>) -> Option<Change> {
    let less = if meaning == Change::Widened { Change::Narrowed } else { Change::Widened };
    match (was.is_subset(is), is.is_subset(was)) {
        (true, true) => None,
        (true, false) => Some(meaning),
        (false, true) => Some(less),
        (false, false) => Some(Change::Changed),
    }
}

impl Policy {
    /// Every agent and role that a row names, `role:any` among them.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        self.roles.all().map(|(_, name)| name)
    }

    /// Whether somebody has, or inherits, a role.
    pub fn has_role(&self, subject: &str, role: &str) -> bool {
        self.roles.has(subject, role)
    }

    /// The rows that an agent or role has, its own and those it inherits; whom no row names has those of everyone.
    pub fn rows_of<'p>(&'p self, subject: &'p str) -> Held<'p> {
        let inherited = self.roles.id(subject).map_or_else(Vec::new, |id| self.roles.closure(id));
        let has: HashSet<u32> = inherited.into_iter().chain(self.roles.id(ANY)).collect();
        let rows = self.rows.rules.iter().filter(|rule| self.roles.id(&rule.subject).is_some_and(|id| has.contains(&id)));
        Held { subject, rows: rows.collect() }
    }

    /// The right that these rows give at a target; `None` for none.
    pub fn right(&self, held: &Held<'_>, target: &str, tier: Tier) -> Option<Right> {
        let (mut right, mut always) = (Right::default(), false);
        let mut is_guarded = self.can_be_toxic() && is_guarded(tier, self.labels(target));
        for rule in held.rows.iter().filter(|rule| rule.covers(target, tier)) {
            let condition = rule.when.as_ref().and_then(|when| Some((self.says(when.id, held.subject)?, Box::from(&*when.name))));
            match (&rule.effect, condition) {
                (RuleEffect::Deny, None) => return None,
                (RuleEffect::Deny, Some((says, name))) => drop(right.unless.insert(says, name)),
                (RuleEffect::Allow, condition) => {
                    right.rules.push(rule.id.clone());
                    match condition {
                        None => always = true,
                        Some((says, name)) => drop(right.when.insert(says, name)),
                    }
                }
                (RuleEffect::Oblige(Obligation::Waive), None) => is_guarded = false,
                (RuleEffect::Oblige(Obligation::Waive), Some((says, name))) => drop(right.lifted.insert(says, name)),
                (RuleEffect::Oblige(obligation), None) => drop(right.asks.insert(obligation.to_string(), obligation.to_string())),
                (RuleEffect::Oblige(obligation), Some((says, name))) => {
                    right.asks.insert(format!("{obligation} {says}"), format!("{obligation} when {name}"));
                }
            }
        }
        if always {
            right.when.clear();
        }
        match &self.flow {
            Flow::Deny if is_guarded => drop(right.unless.insert(TOXIC_FLOW.to_owned(), AFTER.into())),
            Flow::Ask(ask) if is_guarded => drop(right.asks.insert(format!("{TOXIC_FLOW} {ask}"), format!("{ask} after {AFTER}"))),
            _ => right.lifted.clear(),
        }
        right.rules.sort_unstable();
        (!right.rules.is_empty()).then_some(right)
    }

    /// What a condition says of somebody: the same text is another condition for whoever has other roles, where it asks for them.
    pub(super) fn says(&self, condition: ConditionId, subject: &str) -> Option<String> {
        let condition = self.conditions.get(condition)?;
        let roles = condition.roles();
        let held: Vec<&str> = roles.into_iter().filter(|role| self.roles.has(subject, role)).collect();
        Some(format!("{} {}", condition.canonical, held.join(" ")))
    }
}

/// The rows that somebody has.
#[derive(Debug)]
pub struct Held<'p> {
    subject: &'p str,
    rows: Vec<&'p Rule>,
}

impl Held<'_> {
    /// Whether some row is about the target at this tier.
    pub fn is_about(&self, target: &str, tier: Tier) -> bool {
        self.rows.iter().any(|rule| rule.covers(target, tier))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use super::*;
    use crate::catalog::Label;
    use crate::policy::{Options, TargetFacts};

    const CONDITIONS: &str = "conditions:\n  small: { argument: /n, range: { max: 5 } }\n  large: { argument: /n, range: { min: 9 } }\n  \
        both: { all: [{ argument: /n, range: { max: 5 } }, { argument: /m, eq: \"}\" }] }\n  \
        either: { any: [{ argument: /n, range: { max: 5 } }, { argument: /m, eq: x }] }\n";

    fn policy(rows: &str) -> Policy {
        policy_with(rows, CONDITIONS)
    }

    fn policy_with(rows: &str, conditions: &str) -> Policy {
        let targets = [TargetFacts { name: "up__read", tier: Tier::Read }, TargetFacts { name: "up__pay", tier: Tier::Irreversible }];
        let options = Options { upstreams: vec!["up".to_owned()], conditions: conditions.to_owned(), ..Options::default() };
        Policy::parse(Path::new("policy.csv"), rows, &targets, &options).unwrap().0
    }

    fn right(rows: &str) -> Option<Right> {
        let policy = policy(rows);
        policy.right(&policy.rows_of("agent:a"), "up__pay", Tier::Irreversible)
    }

    fn between(was: &str, is: &str) -> Option<Change> {
        change(right(was).as_ref(), right(is).as_ref())
    }

    const ALWAYS: &str = "p, R1, agent:a, up__pay, irreversible, -, allow\n";
    const SMALL: &str = "p, R1, agent:a, up__pay, irreversible, small, allow\n";
    const LARGE: &str = "p, R2, agent:a, up__pay, irreversible, large, allow\n";
    const NOT_LARGE: &str = "p, D1, agent:a, up__*, any, large, deny\n";
    const LIMIT: &str = "o, O1, agent:a, up__*, any, -, limit:5/min\n";

    #[test]
    fn what_a_right_has_become_is_told() {
        let none = "p, R1, agent:a, up__*, read, -, allow\n";
        let cases = [
            (none.to_owned(), ALWAYS.to_owned(), Some(Change::Gained)),
            (ALWAYS.to_owned(), format!("{ALWAYS}p, D2, role:any, up__pay, any, -, deny\n"), Some(Change::Lost)),
            (SMALL.to_owned(), ALWAYS.to_owned(), Some(Change::Widened)),
            (SMALL.to_owned(), format!("{SMALL}{LARGE}"), Some(Change::Widened)),
            (ALWAYS.to_owned(), format!("{ALWAYS}{NOT_LARGE}"), Some(Change::Narrowed)),
            (ALWAYS.to_owned(), format!("{ALWAYS}{LIMIT}"), Some(Change::Narrowed)),
            (SMALL.to_owned(), LARGE.to_owned(), Some(Change::Changed)),
            (SMALL.to_owned(), SMALL.replace("small", "both"), Some(Change::Narrowed)),
            (SMALL.replace("small", "both"), SMALL.to_owned(), Some(Change::Widened)),
            (SMALL.to_owned(), SMALL.replace("small", "either"), Some(Change::Changed)),
            (SMALL.to_owned(), format!("{}{LARGE}", SMALL.replace("small", "both")), Some(Change::Changed)),
            (SMALL.to_owned(), format!("{SMALL}{}", LARGE.replace("large", "both")), None),
            (SMALL.to_owned(), format!("{ALWAYS}{LIMIT}"), Some(Change::Changed)),
            (ALWAYS.to_owned(), ALWAYS.replace("R1", "R7"), None),
            (
                ALWAYS.to_owned(),
                format!("{ALWAYS}{SMALL}")
                    .replace("R1, agent:a, up__pay, irreversible, small", "R3, agent:a, up__pay, irreversible, small"),
                None,
            ),
        ];
        for (was, is, expected) in cases {
            assert_eq!(between(&was, &is), expected, "{was}became\n{is}");
        }
    }

    #[test]
    fn the_built_in_rule_is_part_of_a_right_and_lifting_it_widens_that() {
        let targets = [TargetFacts { name: "up__pay", tier: Tier::Irreversible }];
        let right = |rows: &str, flow: Flow| {
            let options = Options {
                upstreams: vec!["up".to_owned()],
                conditions: CONDITIONS.to_owned(),
                brought: vec![Label::Private, Label::Untrusted],
                flow,
                ..Options::default()
            };
            let (policy, _) = Policy::parse(Path::new("policy.csv"), rows, &targets, &options).unwrap();
            policy.right(&policy.rows_of("agent:a"), "up__pay", Tier::Irreversible)
        };
        let ask = || Flow::Ask(Obligation::ApproveUser);
        assert_eq!(right(ALWAYS, Flow::Deny).unwrap().told(), "allow, unless private and untrusted");
        assert_eq!(right(ALWAYS, ask()).unwrap().told(), "allow, with approve:user after private and untrusted");
        assert_eq!(right(ALWAYS, Flow::Off).unwrap().told(), "allow");
        let waived = |when: &str| format!("{ALWAYS}o, O1, agent:a, up__pay, irreversible, {when}, waive:toxic-flow\n");
        let [strict, some, all] = [ALWAYS.to_owned(), waived("small"), waived("-")].map(|rows| right(&rows, ask()));
        assert_eq!(all.as_ref().unwrap().told(), "allow");
        assert!(some.as_ref().unwrap().told().ends_with("without built-in:toxic-flow when small"));
        let changes =
            [(&strict, &some), (&strict, &all), (&some, &strict), (&all, &strict)].map(|(was, is)| change(was.as_ref(), is.as_ref()));
        assert_eq!(changes, [Some(Change::Widened), Some(Change::Widened), Some(Change::Narrowed), Some(Change::Narrowed)]);
    }

    #[test]
    fn what_a_condition_says_counts_and_not_its_name_alone() {
        let asks = format!("{ALWAYS}o, O1, agent:a, up__*, any, small, limit:5/min\n");
        let right = |conditions: &str, rows: &str| {
            let policy = policy_with(rows, conditions);
            policy.right(&policy.rows_of("agent:a"), "up__pay", Tier::Irreversible)
        };
        let other = CONDITIONS.replace("max: 5", "max: 1");
        assert_eq!(change(right(CONDITIONS, &asks).as_ref(), right(&other, &asks).as_ref()), Some(Change::Changed));
        let by_role = "conditions:\n  is_r: { role: role:r }\n";
        let row = "p, R1, role:any, up__pay, irreversible, is_r, allow\np, R2, role:r, up__read, read, -, allow\n";
        let given = format!("{row}g, agent:a, role:r\n");
        assert_eq!(change(right(by_role, row).as_ref(), right(by_role, &given).as_ref()), Some(Change::Changed));
    }

    #[test]
    fn rights_are_inherited_and_everyone_has_those_of_any() {
        let policy = policy(
            "g, agent:a, role:r\ng, role:r, role:s\np, R1, role:s, up__pay, irreversible, -, allow\np, R2, role:any, up__read, read, -, allow\n",
        );
        let pays = |subject: &str| policy.right(&policy.rows_of(subject), "up__pay", Tier::Irreversible).is_some();
        let reads = |subject: &str| policy.right(&policy.rows_of(subject), "up__read", Tier::Read).is_some();
        assert_eq!(["agent:a", "role:r", "role:s", "agent:b"].map(pays), [true, true, true, false]);
        assert_eq!(["agent:a", "role:s", "agent:b", "role:any"].map(reads), [true; 4]);
    }
}
