//! Holds the table against Casbin: the same questions to both, and the same answers with the same rules, or no load.
//!
//! Casbin costs about 2 µs a row and question, so big policies are asked in parts: one class of principals and a few dozen
//! of its rows at a time. That loses nothing, because a row matches or not whatever other rows there are: the table names all
//! deciding rows, and those of them that Casbin holds must be just those that it names.

#[cfg(test)]
mod random;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::condition::{ConditionId, Truth, Unclear};
use super::oracle::{Answer, Difference, Names, Oracle, apart};
use super::roles::SubjectId;
use super::rule::{Grant, Pattern, Rule, RuleId};
use super::table::ClassId;
use super::{Decision, Policy, TargetIndex};
use crate::catalog::tier::Tier;

/// A principal that no row can name: everyone whom the rows leave out.
const NOBODY: &str = "agent:?";
/// About what one row costs Casbin at one question.
const ROW_COST: Duration = Duration::from_micros(2);
/// Rows of one subject that Casbin holds at once where it cannot hold all.
const PART: usize = 48;

/// How much of the table was held against Casbin, and agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equivalence {
    /// Questions asked.
    pub asked: u64,
    /// Whether these were all: every principal, or every class of them, at every target.
    pub complete: bool,
}

impl Equivalence {
    /// Asks every question when `budget` is likely to suffice; else parts of the rows at the ends of what they cover, in an
    /// order that `seed` shuffles, until the budget is used up.
    ///
    /// # Errors
    /// The first difference; also when Casbin fails or panics.
    pub fn check(policy: &Policy, budget: Duration, seed: u64) -> Result<Self, Difference> {
        // Six made-up names stand beside every row.
        let states = states(policy.rows.rules.iter(), policy).len();
        let questions = (policy.table.principals().count() + 1) * (policy.targets.len() + 6 * policy.rows.rules.len()) * states;
        let looks = questions.saturating_mul(policy.rows.rules.len() + 8);
        if u32::try_from(looks).is_ok_and(|looks| ROW_COST * looks <= budget) {
            return apart(|oracle| everything(policy, oracle));
        }
        let deadline = Instant::now() + budget;
        apart(|oracle| in_parts(policy, oracle, Some((deadline, Random(seed)))))
    }

    /// Asks every class at every target, however long it takes.
    ///
    /// # Errors
    /// The first difference; also when Casbin fails or panics.
    pub fn exhaustive(policy: &Policy) -> Result<Self, Difference> {
        apart(|oracle| in_parts(policy, oracle, None))
    }
}

/// Every principal, at every target and every made-up name, with all rows in one enforcer.
fn everything(policy: &Policy, oracle: &mut Oracle) -> Result<Equivalence, Difference> {
    oracle.hold(&policy.rows.rules.iter().collect::<Vec<_>>(), policy.rows.grants.iter())?;
    let (states, mut asked) = (states(policy.rows.rules.iter(), policy), 0);
    for (principal, class) in policy.table.principals().chain([(NOBODY, ClassId(0))]) {
        for question in listed(policy).chain(policy.rows.rules.iter().flat_map(|rule| beside(&rule.pattern))) {
            for state in &states {
                compare(policy, oracle, (principal, class), &question, state)?;
                asked += 1;
            }
        }
    }
    Ok(Equivalence { asked, complete: true })
}

/// Rows of one class, and one principal of it.
struct Part<'a> {
    principal: &'a str,
    class: ClassId,
    rules: Vec<&'a Rule>,
}

fn in_parts(policy: &Policy, oracle: &mut Oracle, mut limit: Option<(Instant, Random)>) -> Result<Equivalence, Difference> {
    let cut = Cut::new(policy);
    let mut places = match &mut limit {
        Some((_, random)) => cut.one_class_each(random),
        None => cut.every_class(),
    };
    if let Some((_, random)) = &mut limit {
        random.shuffle(&mut places);
    }
    let grants = GrantsOf::new(policy);
    let mut done = Equivalence { asked: 0, complete: limit.is_none() };
    for (turn, place) in places.iter().enumerate() {
        let part = cut.part(policy, *place);
        let mut questions: Vec<Question<'_>> = part.rules.iter().flat_map(|rule| ends(policy, &rule.pattern)).collect();
        let mut share = None;
        match &mut limit {
            Some((deadline, random)) => {
                random.shuffle(&mut questions);
                // What is left is shared by the parts that are left, but no part is begun for less than a few questions.
                let now = Instant::now();
                if now >= *deadline {
                    return Ok(done);
                }
                share = Some(now + (deadline.saturating_duration_since(now) / (places.len() - turn) as u32).max(Duration::from_millis(1)));
            }
            None => questions.extend(listed(policy)),
        }
        oracle.hold(&part.rules, grants.of(policy, part.principal))?;
        let mut states = states(part.rules.iter().copied(), policy);
        if let Some((_, random)) = &mut limit {
            random.shuffle(&mut states);
        }
        for (question, state) in states.iter().flat_map(|state| questions.iter().map(move |question| (question, state))) {
            compare(policy, oracle, (part.principal, part.class), question, state)?;
            done.asked += 1;
            if share.is_some_and(|share| Instant::now() >= share) {
                break;
            }
        }
    }
    Ok(done)
}

/// Where a part begins: a class, one of its subjects, and the first of that subject's rows.
type PartPlace = (ClassId, SubjectId, usize);

/// The rows of each subject by pattern, so that rows about the same targets meet; and who has them.
struct Cut<'a> {
    rules: Vec<Vec<&'a Rule>>,
    classes: Vec<Vec<ClassId>>,
    /// A principal of each class.
    members: Vec<&'a str>,
}

impl<'a> Cut<'a> {
    fn new(policy: &'a Policy) -> Self {
        let subjects = policy.roles.all().count();
        let mut cut = Self {
            rules: vec![Vec::new(); subjects],
            classes: vec![Vec::new(); subjects],
            members: vec![NOBODY; policy.table.class_count()],
        };
        for rule in &policy.rows.rules {
            cut.rules[policy.roles.id(&rule.subject).unwrap_or(0) as usize].push(rule);
        }
        cut.rules.iter_mut().for_each(|rules| rules.sort_unstable_by_key(|rule| (rule.pattern.stem(), rule.at.line)));
        for (name, class) in policy.table.principals() {
            cut.members[class.0 as usize] = name;
        }
        for class in (0..cut.members.len() as u32).map(ClassId) {
            policy.table.subjects(class).iter().for_each(|id| cut.classes[*id as usize].push(class));
        }
        cut
    }

    fn starts(&self, subject: SubjectId) -> impl Iterator<Item = usize> {
        (0..self.rules[subject as usize].len().max(1)).step_by(PART)
    }

    /// Every part of every class.
    fn every_class(&self) -> Vec<PartPlace> {
        let of = |(subject, classes): (SubjectId, &Vec<ClassId>)| -> Vec<PartPlace> {
            classes.iter().flat_map(|class| self.starts(subject).map(|start| (*class, subject, start))).collect()
        };
        (0..).zip(&self.classes).flat_map(of).collect()
    }

    /// Every part once, for one of the classes that have it.
    fn one_class_each(&self, random: &mut Random) -> Vec<PartPlace> {
        let subjects = (0..).zip(&self.classes).filter(|(_, classes)| !classes.is_empty());
        let parts = subjects.flat_map(|(subject, classes)| self.starts(subject).map(move |start| (subject, classes, start)));
        parts.map(|(subject, classes, start)| (classes[random.below(classes.len())], subject, start)).collect()
    }

    /// The rows of a part: up to 48 of its subject, and a few about the same names of each other subject of the class.
    fn part(&self, policy: &Policy, (class, subject, start): PartPlace) -> Part<'a> {
        let own = &self.rules[subject as usize];
        let mut rules = own[start..own.len().min(start + PART)].to_vec();
        let stem = rules.first().map_or("", |rule| rule.pattern.stem());
        for other in policy.table.subjects(class).iter().filter(|other| **other != subject) {
            let others = &self.rules[*other as usize];
            let near = others.partition_point(|rule| rule.pattern.stem() < stem).saturating_sub(4);
            rules.extend(others[near..].iter().take(8));
        }
        rules.sort_unstable_by_key(|rule| rule.at.line);
        Part { principal: self.members[class.0 as usize], class, rules }
    }
}

/// The grants of each member.
struct GrantsOf(Vec<Vec<u32>>);

impl GrantsOf {
    fn new(policy: &Policy) -> Self {
        let mut of = vec![Vec::new(); policy.roles.all().count()];
        for (number, grant) in (0..).zip(&policy.rows.grants) {
            of[policy.roles.id(&grant.member).unwrap_or(0) as usize].push(number);
        }
        Self(of)
    }

    /// All grants on the ways up from a principal.
    fn of<'a>(&'a self, policy: &'a Policy, principal: &str) -> impl Iterator<Item = &'a Grant> + Clone + use<'a> {
        let closure = policy.roles.closure(policy.roles.id(principal).unwrap_or(0));
        closure.into_iter().flat_map(|id| &self.0[id as usize]).map(|number| &policy.rows.grants[*number as usize])
    }
}

/// One thing to ask: a target of the catalogue, or a name that is not in it.
struct Question<'a> {
    target: Cow<'a, str>,
    tier: Tier,
    index: Option<TargetIndex>,
}

fn listed(policy: &Policy) -> impl Iterator<Item = Question<'_>> {
    (0..policy.targets.len() as u32).map(|position| at(policy, position))
}

fn at(policy: &Policy, position: u32) -> Question<'_> {
    let (name, tier) = &policy.targets[position as usize];
    Question { target: Cow::Borrowed(name), tier: *tier, index: Some(TargetIndex(position)) }
}

/// The first and last target that a pattern covers, their neighbours outside, and made-up names.
fn ends<'a>(policy: &'a Policy, pattern: &Pattern) -> Vec<Question<'a>> {
    let name = |position: &u32| &*policy.targets[*position as usize].0;
    let low = policy.sorted.partition_point(|position| name(position) < pattern.stem());
    let high = low + policy.sorted[low..].partition_point(|position| pattern.matches(name(position)));
    let positions = [low.wrapping_sub(1), low, high.wrapping_sub(1), high];
    let listed = positions.into_iter().filter_map(|place| policy.sorted.get(place)).map(|position| at(policy, *position));
    listed.chain(beside(pattern)).collect()
}

/// Names just within and just without a pattern, with a character of several bytes where Casbin's own matcher panics; at
/// every tier.
fn beside<'a>(pattern: &Pattern) -> impl Iterator<Item = Question<'a>> + use<'a> {
    let stem = pattern.stem().to_owned();
    let mut shorter = stem.clone();
    shorter.pop();
    let names = [format!("{stem}é"), format!("{shorter}é-")];
    names.into_iter().flat_map(|name| Tier::ALL.map(|tier| Question { target: Cow::Owned(name.clone()), tier, index: None }))
}

/// What the conditions come to in one question.
struct State {
    /// Of those that are not here, nobody asks.
    truths: Vec<(ConditionId, Truth)>,
    names: Names,
}

impl State {
    fn new(policy: &Policy, truths: Vec<(ConditionId, Truth)>) -> Self {
        let names = |counts: fn(Truth) -> bool| {
            let names = truths.iter().filter(|(_, truth)| counts(*truth)).map(|(id, _)| format!("{}|", policy.conditions.name(*id)));
            format!("|{}", names.collect::<String>())
        };
        Self { names: Names { sure: names(|truth| truth == Ok(true)), maybe: names(|truth| truth != Ok(false)) }, truths }
    }

    fn truth(&self, condition: ConditionId) -> Truth {
        self.truths.iter().find(|(known, _)| *known == condition).map_or(UNASKED, |(_, truth)| *truth)
    }
}

const UNASKED: Truth = Err(Unclear("it was not asked"));
/// Random states beside the regular ones.
const RANDOM_STATES: usize = 8;

/// The states of the conditions that these rows name: none true, all true, all unclear, each alone true, each alone unclear, and some at
/// random. Without conditions there is one.
fn states<'r>(rules: impl Iterator<Item = &'r Rule>, policy: &Policy) -> Vec<State> {
    let mut named: Vec<ConditionId> = rules.filter_map(|rule| rule.when.as_ref()).map(|when| when.id).collect();
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        return vec![State::new(policy, Vec::new())];
    }
    let state = |truth: &mut dyn FnMut(ConditionId) -> Truth| State::new(policy, named.iter().map(|id| (*id, truth(*id))).collect());
    let mut states: Vec<State> = [Ok(false), Ok(true), UNASKED].into_iter().map(|truth| state(&mut |_| truth)).collect();
    for alone in &named {
        for truth in [Ok(true), UNASKED] {
            states.push(state(&mut |id| if id == *alone { truth } else { Ok(false) }));
        }
    }
    let mut random = Random(named.len() as u64);
    let truths = [Ok(false), Ok(true), UNASKED];
    states.extend((0..RANDOM_STATES).map(|_| state(&mut |_| truths[random.below(truths.len())])));
    states
}

fn compare(
    policy: &Policy,
    oracle: &Oracle,
    (principal, class): (&str, ClassId),
    question: &Question<'_>,
    state: &State,
) -> Result<(), Difference> {
    let theirs = oracle.ask(principal, &question.target, question.tier, &state.names)?;
    let by_name = policy.by_name(class, &question.target, question.tier, &mut |effect, id| effect.counts(state.truth(id)));
    let ours = question.index.map_or_else(|| by_name.clone(), |index| policy.decide_when(class, index, &mut |id| state.truth(id)));
    if ours == by_name && agree(&ours, &theirs, oracle) {
        return Ok(());
    }
    let words = |permit: bool, rules: &[RuleId], obliges: &[RuleId]| {
        let list = |rules: &[RuleId]| rules.iter().map(RuleId::as_str).collect::<Vec<_>>().join(" ");
        let obliges = if permit && !obliges.is_empty() { format!(" with [{}]", list(obliges)) } else { String::new() };
        format!("{} [{}]{obliges}", if permit { "permit" } else { "deny" }, list(rules))
    };
    let (table, index) =
        (words(ours.is_permit(), ours.rules(), &obliging(&ours)), words(by_name.is_permit(), by_name.rules(), &obliging(&by_name)));
    let casbin = words(theirs.permit, if theirs.permit { &theirs.allows } else { &theirs.denies }, &theirs.obliges);
    let when =
        if state.truths.is_empty() { String::new() } else { format!(" when {} and perhaps {}", state.names.sure, state.names.maybe) };
    let who = format!("`{principal}` at `{}` ({}){when}", question.target.escape_default(), question.tier);
    Err(Difference(format!("{who}: Casbin says {casbin}, the table {table}, the index {index}")))
}

/// Whether Casbin, which holds only some rows, says what the decision, which is made of all, leads to expect.
fn agree(ours: &Decision<'_>, theirs: &Answer, oracle: &Oracle) -> bool {
    let held = |rules: &[RuleId]| -> Vec<RuleId> { rules.iter().filter(|rule| oracle.holds(rule)).cloned().collect() };
    let expected = held(ours.rules());
    let sound = theirs.permit == (theirs.denies.is_empty() && !theirs.allows.is_empty());
    let named = match (ours, ours.rules().is_empty()) {
        (Decision::Permit { .. }, _) => theirs.denies.is_empty() && theirs.allows == expected && theirs.obliges == held(&obliging(ours)),
        // A deny hides the allows beneath it, so those that Casbin names beside it are not compared.
        (Decision::Deny { .. }, false) => theirs.denies == expected,
        (Decision::Deny { .. }, true) => theirs.denies.is_empty() && theirs.allows.is_empty(),
    };
    sound && named
}

/// The rows that oblige.
fn obliging(decision: &Decision<'_>) -> Vec<RuleId> {
    decision.obligations().iter().map(|obliged| obliged.rule.clone()).collect()
}

/// SplitMix64: enough to spread samples, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::RuleEffect;
    use super::super::{Options, TargetFacts};
    use super::*;

    fn policy() -> Policy {
        let targets = [TargetFacts { name: "demo__a", tier: Tier::Read }, TargetFacts { name: "demo__b", tier: Tier::Reversible }];
        let options = Options { upstreams: vec!["demo".into()], ..Options::default() };
        let text =
            "p, R1, role:r, demo__*, reversible, -, allow\np, D1, agent:x, demo__b, any, -, deny\ng, agent:x, role:q\ng, role:q, role:r\n";
        Policy::parse(std::path::Path::new("p"), text, &targets, &options).unwrap().0
    }

    /// Every way of asking: all at once, all in parts, and sampled parts.
    fn ways(policy: &Policy) -> [Result<Equivalence, Difference>; 3] {
        let sampled = apart(|oracle| in_parts(policy, oracle, Some((Instant::now() + Duration::from_secs(60), Random(3)))));
        [Equivalence::check(policy, Duration::from_secs(60), 1), Equivalence::exhaustive(policy), sampled]
    }

    #[test]
    fn a_sound_table_passes_every_way_of_asking() {
        assert_eq!(ways(&policy()).map(|checked| checked.map(|checked| checked.complete)), [Ok(true), Ok(true), Ok(false)]);
    }

    #[test]
    fn a_table_that_lost_a_deny_is_refused() {
        let mut wrong = policy();
        // The table was compiled with D1 as a deny; Casbin gets it as another.
        wrong.rows.rules[1].effect = RuleEffect::Allow;
        for told in ways(&wrong).map(|checked| checked.unwrap_err().to_string()) {
            assert!(told.contains("`agent:x` at `demo__b"), "{told}");
        }
    }

    #[test]
    fn a_table_that_lost_a_role_is_refused() {
        let mut wrong = policy();
        wrong.rows.grants.pop();
        assert!(ways(&wrong)[..2].iter().all(Result::is_err));
    }

    #[test]
    fn a_table_that_allows_too_much_is_refused() {
        let mut wrong = policy();
        wrong.rows.rules.remove(0);
        assert!(Equivalence::check(&wrong, Duration::from_secs(60), 1).is_err());
    }

    #[test]
    fn a_small_budget_asks_less_and_says_so() {
        let checked = Equivalence::check(&policy(), Duration::from_nanos(1), 1).unwrap();
        assert!(!checked.complete);
    }
}
