//! Least privilege from use: what each allow of a policy could be narrowed to, so that it still permits what was used of it.
//!
//! Owns: which rows and grants go, and what comes in their place. Leaves to others: what was used (`audit::decisions`), the patch (`cli`).
//!
//! Denies, obligations and conditions stay as they are. A role keeps what at least half of its known agents used; `role:any` only what all of them
//! did.
//!
//! INVARIANT: what comes in the place of a row permits nothing that the row did not: the same or fewer agents, targets and tiers, under the same
//! condition.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::rule::{ANY, Pattern, Rule, RuleEffect, RuleId, TierBound};
use super::suggest::skeleton;
use super::{Policy, parse_pattern};
use crate::catalog::tier::Tier;

/// The rows that may come in the place of one, for one subject; a wildcard of which more was used stays.
const MAX_ROWS: usize = 40;

/// Characters of a row's id in those of the rows in its place: an id has 64 at most.
const MAX_STEM: usize = 52;

/// What was used.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// Agents that are known beside those that rows name or that used something: `agent:NAME`.
    pub agents: BTreeSet<String>,
    /// Who used what: `agent:NAME` and the target's name in rows.
    pub pairs: BTreeSet<(String, String)>,
}

/// What becomes of a row.
#[derive(Debug)]
pub struct Narrowing<'p> {
    /// The line of the row, from 1.
    pub line: u32,
    /// The row's id; a grant has none.
    pub rule: Option<RuleId>,
    /// The rows in its place, as lines of the file; none where it goes.
    pub rows: Vec<String>,
    /// Known agents that it reaches, and how many of them used it.
    pub agents: (usize, usize),
    /// Targets that it reaches, and how many of them were used through it.
    pub targets: (usize, usize),
    /// Roles and agents that have rows in its place and had none.
    gaining: Vec<&'p str>,
}

/// Pairs of a known agent and a tool that are permitted, always or under conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// How many are permitted.
    pub permitted: usize,
    /// How many of these were used.
    pub used: usize,
}

impl Policy {
    fn agents<'p>(&'p self, used: &'p Used) -> BTreeSet<&'p str> {
        let named = self.subjects().filter(|subject| subject.starts_with("agent:"));
        named.chain(used.agents.iter().map(|agent| &**agent)).chain(used.pairs.iter().map(|(agent, _)| &**agent)).collect()
    }

    /// How many pairs of agent and tool are permitted, and how many were used.
    pub fn pairs(&self, used: &Used) -> Pairs {
        let mut pairs = Pairs::default();
        for agent in self.agents(used) {
            let held = self.rows_of(agent);
            for (target, _) in self.targets.iter().filter(|(target, tier)| self.right(&held, target, *tier).is_some()) {
                pairs.permitted += 1;
                pairs.used += usize::from(used.pairs.contains(&(agent.to_owned(), target.to_string())));
            }
        }
        pairs
    }

    /// Every allow and grant that permits more than was used, in the order of the file.
    pub fn narrowed<'p>(&'p self, used: &'p Used) -> Vec<Narrowing<'p>> {
        let mut ids: HashSet<String> = self.rows.rules.iter().map(|rule| skeleton(rule.id.as_str())).collect();
        // A row that another one comes to is not written twice.
        let mut said: HashSet<[String; 4]> = self.rows.rules.iter().map(row_key).collect();
        let allows = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Allow);
        let mut all: Vec<Narrowing<'_>> = allows.filter_map(|rule| self.narrow(rule, used, &mut ids, &mut said)).collect();
        let gaining: HashSet<&str> = all.iter().flat_map(|narrowing| narrowing.gaining.iter().copied()).collect();
        all.extend(self.unused_grants(used, &gaining));
        all.sort_by_key(|narrowing| narrowing.line);
        all
    }

    fn narrow<'p>(
        &'p self,
        rule: &'p Rule,
        used: &'p Used,
        ids: &mut HashSet<String>,
        said: &mut HashSet<[String; 4]>,
    ) -> Option<Narrowing<'p>> {
        let reach = self.reach(rule, used);
        let mut by_subject: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (target, agents) in &reach.used {
            for subject in self.subjects_for(rule, agents, &reach.agents) {
                by_subject.entry(subject).or_default().insert(target);
            }
        }
        let gaining = by_subject.keys().filter(|subject| **subject != &*rule.subject).copied().collect();
        let mut places: Vec<[String; 3]> = Vec::new();
        for (subject, targets) in by_subject {
            places.extend(reach.patterns(rule, &targets).into_iter().map(|(pattern, bound)| [subject.to_owned(), pattern, bound]));
        }
        let condition = rule.when.as_ref().map_or("-", |when| &when.name);
        let own = [rule.subject.to_string(), rule.pattern.to_string(), rule.bound.as_str().to_owned()];
        // Somebody needs all of it, so it stays, and what others need is in it.
        if places.contains(&own) {
            return None;
        }
        places.retain(|[subject, target, tier]| said.insert([subject, target, tier, condition].map(str::to_owned)));
        let single = places.len() == 1;
        let row = |[subject, target, tier]: [String; 3]| {
            let id = if single { rule.id.to_string() } else { next_id(&rule.id, ids) };
            format!("p, {id}, {subject}, {target}, {tier}, {condition}, allow")
        };
        let active: BTreeSet<&str> = reach.used.values().flatten().copied().collect();
        Some(Narrowing {
            line: rule.at.line,
            rule: Some(rule.id.clone()),
            rows: places.into_iter().map(row).collect(),
            agents: (reach.agents.len(), active.len()),
            targets: (reach.covered.len(), reach.used.len()),
            gaining,
        })
    }

    /// The agents that used what a row allows of its one target.
    pub(super) fn agents_using<'p>(&'p self, rule: &'p Rule, used: &'p Used) -> BTreeSet<&'p str> {
        self.reach(rule, used).used.into_values().flatten().collect()
    }

    fn reach<'p>(&'p self, rule: &'p Rule, used: &'p Used) -> Reach<'p> {
        let holds = |agent: &str| agent == &*rule.subject || &*rule.subject == ANY || self.roles.has(agent, &rule.subject);
        let agents: BTreeSet<&str> = self.agents(used).into_iter().filter(|agent| holds(agent)).collect();
        let tools = self.targets.iter().filter(|(target, tier)| rule.covers(target, *tier)).map(|(target, tier)| (&**target, *tier));
        let mut covered: BTreeMap<&str, Tier> = tools.collect();
        let mut by_target: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (agent, target) in used.pairs.iter().filter(|(agent, _)| agents.contains(&**agent)) {
            // The catalogue lists tools alone; a prompt and a resource is reached at the tier `read`.
            if is_other(target) && rule.covers(target, Tier::Read) {
                covered.insert(target, Tier::Read);
            }
            if covered.contains_key(&**target) {
                by_target.entry(target).or_default().insert(agent);
            }
        }
        Reach { agents, covered, used: by_target }
    }

    /// Who may have the right to a target that these agents used: the subject itself, roles that have it, or the agents one by one.
    fn subjects_for<'p>(&'p self, rule: &'p Rule, users: &BTreeSet<&'p str>, all: &BTreeSet<&'p str>) -> Vec<&'p str> {
        let is_enough = if &*rule.subject == ANY { users.len() == all.len() } else { users.len() * 2 >= all.len() };
        if is_enough {
            return vec![&rule.subject];
        }
        let inherits = |role: &str| &*rule.subject == ANY || self.roles.has(role, &rule.subject);
        let roles = self.subjects().filter(|subject| subject.starts_with("role:") && *subject != ANY && **subject != *rule.subject);
        let members = |role: &str| all.iter().filter(|agent| self.roles.has(agent, role)).copied().collect::<BTreeSet<&str>>();
        let roles: Vec<(&str, BTreeSet<&str>)> = roles.filter(|role| inherits(role)).map(|role| (role, members(role))).collect();
        let (mut left, mut chosen) = (users.clone(), Vec::new());
        loop {
            let gain = |members: &BTreeSet<&str>| members.intersection(&left).count();
            let suits = |members: &BTreeSet<&str>| members.intersection(users).count() * 2 >= members.len() && gain(members) > 0;
            let best = roles.iter().filter(|(_, members)| suits(members));
            // The role that serves most of those left; among equals the one with the fewest others.
            let Some((role, members)) = best.max_by_key(|(_, members)| (gain(members), std::cmp::Reverse(members.len()))) else { break };
            chosen.push(*role);
            left.retain(|agent| !members.contains(agent));
        }
        chosen.extend(left);
        chosen
    }

    /// Grants of roles to agents that used nothing through them. A role with denies or obligations, or that a condition asks for, stays: without it
    /// more would be permitted; and one that gets rows now, since they are for its agents.
    fn unused_grants<'p>(&'p self, used: &'p Used, gaining: &HashSet<&str>) -> Vec<Narrowing<'p>> {
        let asked: HashSet<&str> = self.conditions.all().flat_map(|(_, condition)| condition.roles()).collect();
        let unused = self.rows.grants.iter().filter(|grant| {
            let through: HashSet<u32> = self.roles.id(&grant.role).map_or_else(Vec::new, |id| self.roles.closure(id)).into_iter().collect();
            let through = |role: &str| role != ANY && self.roles.id(role).is_some_and(|id| through.contains(&id));
            let mut rules = self.rows.rules.iter().filter(|rule| through(&rule.subject)).peekable();
            let is_used = |rule: &Rule| self.reach(rule, used).used.values().any(|agents| agents.contains(&*grant.member));
            grant.member.starts_with("agent:")
                && rules.peek().is_some()
                && rules.all(|rule| rule.effect == RuleEffect::Allow && !is_used(rule))
                && !asked.iter().chain(gaining).any(|role| through(role))
        });
        unused
            .map(|grant| Narrowing {
                line: grant.at.line,
                rule: None,
                rows: Vec::new(),
                agents: (1, 0),
                targets: (0, 0),
                gaining: Vec::new(),
            })
            .collect()
    }
}

/// Whom and what a rule reaches, and who used which of it.
struct Reach<'p> {
    agents: BTreeSet<&'p str>,
    covered: BTreeMap<&'p str, Tier>,
    used: BTreeMap<&'p str, BTreeSet<&'p str>>,
}

impl Reach<'_> {
    /// The targets and tiers of the rows that a subject needs for these targets.
    fn patterns(&self, rule: &Rule, targets: &BTreeSet<&str>) -> BTreeSet<(String, String)> {
        let tier = |target: &str| self.covered.get(target).copied().unwrap_or(Tier::Read);
        let lowest = |targets: &mut dyn Iterator<Item = &str>| targets.map(tier).max().unwrap_or(Tier::Read);
        let whole = |targets: &mut dyn Iterator<Item = &str>| (rule.pattern.to_string(), ceiling(rule.bound, lowest(targets)));
        if targets.len() == self.covered.len() && !targets.iter().any(|target| is_other(target)) {
            return [whole(&mut self.covered.keys().copied())].into();
        }
        let row = |target: &&str| match part(&rule.pattern, target) {
            part if part == rule.pattern.to_string() => whole(&mut targets.iter().copied()),
            part => (part, ceiling(rule.bound, tier(target))),
        };
        let rows: BTreeSet<_> = targets.iter().map(row).collect();
        if rows.len() > MAX_ROWS { [whole(&mut targets.iter().copied())].into() } else { rows }
    }
}

/// The tier that is enough, and is no higher than it was.
fn ceiling(bound: TierBound, needed: Tier) -> String {
    match bound {
        TierBound::UpTo(tier) => tier.min(needed).as_str().to_owned(),
        TierBound::From(_) | TierBound::Any => bound.as_str().to_owned(),
    }
}

/// What the row of an allow says, without its id and its effect.
fn row_key(rule: &Rule) -> [String; 4] {
    let [_, subject, target, tier, condition, _] = rule.fields();
    [subject, target, tier, condition]
}

/// The part of a pattern that a used target needs: its name, or for a resource the folder that it stands in, since the next one has another address.
fn part(pattern: &Pattern, target: &str) -> String {
    // Not every name that a server gives can stand in a row.
    let stands = |text: &str| parse_pattern(text).is_ok() && !text.contains([',', '#', '"', '\'', '`']) && text.is_ascii();
    if !pattern.is_wildcard() || !target.starts_with("resource:") {
        return if stands(target) { target.to_owned() } else { pattern.to_string() };
    }
    let folder = target.rfind('/').map(|at| &target[..=at]).filter(|folder| !folder.ends_with("://"));
    let of_upstream = target.match_indices(':').nth(1).map(|(at, _)| &target[..=at]);
    let fits = folder.into_iter().chain(of_upstream).filter(|stem| stem.starts_with(pattern.stem())).map(|stem| format!("{stem}*"));
    fits.into_iter().find(|text| stands(text)).unwrap_or_else(|| pattern.to_string())
}

fn is_other(target: &str) -> bool {
    target.starts_with("prompt:") || target.starts_with("resource:")
}

/// The next free id behind a rule's: `R1.1`, `R1.2`.
fn next_id(rule: &RuleId, ids: &mut HashSet<String>) -> String {
    let stem: String = rule.as_str().chars().take(MAX_STEM).collect();
    let free = (1..).map(|number: u32| format!("{stem}.{number}")).find(|id| ids.insert(skeleton(id)));
    free.unwrap_or_else(|| rule.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use proptest::prelude::RngExt;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use super::*;
    use crate::policy::compare::change;
    use crate::policy::{Options, TargetFacts};

    fn policy(rows: &str, targets: &[(String, Tier)]) -> Policy {
        let facts: Vec<_> = targets.iter().map(|(name, tier)| TargetFacts { name, tier: *tier }).collect();
        let conditions = "conditions:\n  small: { argument: /n, range: { max: 9 } }\n".to_owned();
        let options = Options { upstreams: vec!["up".to_owned()], conditions, ..Options::default() };
        Policy::parse(Path::new("policy.csv"), rows, &facts, &options).unwrap().0
    }

    fn tools() -> Vec<(String, Tier)> {
        let tools = [("up__read", Tier::Read), ("up__list", Tier::Read), ("up__save", Tier::Reversible), ("up__pay", Tier::Irreversible)];
        tools.map(|(name, tier)| (name.to_owned(), tier)).into()
    }

    fn used(pairs: &[(&str, &str)]) -> Used {
        let pairs = pairs.iter().map(|(agent, target)| (format!("agent:{agent}"), (*target).to_owned()));
        Used { pairs: pairs.collect(), ..Used::default() }
    }

    fn narrowed(rows: &str, pairs: &[(&str, &str)]) -> String {
        let (policy, used) = (policy(rows, &tools()), used(pairs));
        applied(rows, &policy.narrowed(&used))
    }

    fn applied(rows: &str, changes: &[Narrowing<'_>]) -> String {
        let line = |(number, line): (u32, &str)| match changes.iter().find(|change| change.line == number) {
            None => vec![line.to_owned()],
            Some(change) => change.rows.clone(),
        };
        (1..).zip(rows.lines()).flat_map(line).map(|line| line + "\n").collect()
    }

    #[test]
    fn a_wildcard_becomes_the_targets_that_were_used_at_the_tiers_that_they_have() {
        let rows = "p, R1, role:r, up__*, reversible, small, allow\ng, agent:a, role:r\n";
        assert_eq!(narrowed(rows, &[("a", "up__read")]), "p, R1, role:r, up__read, read, small, allow\ng, agent:a, role:r\n");
        let two =
            "p, R1.1, role:r, up__read, read, small, allow\np, R1.2, role:r, up__save, reversible, small, allow\ng, agent:a, role:r\n";
        assert_eq!(narrowed(rows, &[("a", "up__read"), ("a", "up__save")]), two);
        assert_eq!(narrowed(rows, &[("a", "up__read"), ("a", "up__list"), ("a", "up__save")]), rows);
    }

    #[test]
    fn what_nobody_used_goes_and_denies_and_roles_with_denies_stay() {
        let rows = "p, R1, role:r, up__read, read, -, allow\np, D1, role:q, up__pay, any, -, deny\np, R2, role:q, up__list, read, -, allow\n\
            g, agent:a, role:r\ng, agent:b, role:r\ng, agent:a, role:q\n";
        let wanted =
            "p, R1, role:r, up__read, read, -, allow\np, D1, role:q, up__pay, any, -, deny\ng, agent:b, role:r\ng, agent:a, role:q\n";
        assert_eq!(narrowed(rows, &[("b", "up__read")]), wanted);
    }

    #[test]
    fn everyones_right_becomes_that_of_the_roles_whose_agents_used_it() {
        let rows = "p, R1, role:any, up__save, reversible, -, allow\np, D1, role:r, up__pay, any, -, deny\n\
            g, agent:a, role:r\ng, agent:b, role:r\ng, agent:c, role:s\np, R2, role:s, up__read, read, -, allow\n";
        let done = narrowed(rows, &[("a", "up__save"), ("c", "up__read")]);
        assert!(done.starts_with("p, R1, role:r, up__save, reversible, -, allow\n"), "{done}");
    }

    #[test]
    fn a_row_of_which_somebody_needs_all_stays_and_so_does_what_no_row_could_name() {
        let rows = "p, R1, agent:a, resource:up:file:///srv/*, read, -, allow\np, R2, agent:a, prompt:up__*, read, -, allow\n";
        assert_eq!(narrowed(rows, &[("a", "resource:up:file:///srv/1.txt"), ("a", "prompt:up__a, b")]), rows);
    }

    #[test]
    fn resources_keep_the_folder_that_was_read() {
        let rows = "p, R1, agent:a, resource:up:*, read, -, allow\np, R2, agent:a, prompt:up__*, read, -, allow\n";
        let done =
            narrowed(rows, &[("a", "resource:up:file:///srv/a/1.txt"), ("a", "resource:up:file:///srv/a/2.txt"), ("a", "prompt:up__x")]);
        assert_eq!(done, "p, R1, agent:a, resource:up:file:///srv/a/*, read, -, allow\np, R2, agent:a, prompt:up__x, read, -, allow\n");
    }

    /// Traffic of a tight policy under a wide one: most of what is too much goes, and nothing that the tight one permits is missed later.
    #[test]
    fn nine_tenths_of_the_excess_go_and_no_later_call_is_denied() {
        for seed in 0..20_u8 {
            let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
            let tiers = [Tier::Read, Tier::Reversible, Tier::Irreversible];
            let tools: Vec<(String, Tier)> = (0..40).map(|at| (format!("up__tool{at}x"), tiers[at % 3])).collect();
            let mut grants = String::new();
            let mut legitimate: BTreeSet<(String, String)> = BTreeSet::new();
            let wants: Vec<Vec<usize>> = (0..6).map(|_| (0..6).map(|_| random.random_range(0..40)).collect()).collect();
            for agent in 0..18 {
                let role = agent % 6;
                grants += &format!("g, agent:bot{agent}x, role:team{role}x\n");
                legitimate.extend(wants[role].iter().map(|tool| (format!("agent:bot{agent}x"), tools[*tool].0.clone())));
            }
            let each = (0..40).filter(|at| at % 3 == 2).map(|at| format!("p, W{at}x, role:any, up__tool{at}x, irreversible, -, allow\n"));
            // The roles have one row each, or they would be no roles.
            let own = (0..6).map(|role| format!("p, T{role}x, role:team{role}x, up__tool{}x, irreversible, -, allow\n", wants[role][0]));
            let rows =
                format!("p, W, role:any, up__*, reversible, -, allow\n{}{}{grants}", each.collect::<String>(), own.collect::<String>());
            let all: Vec<_> = legitimate.iter().cloned().collect();
            let seen = (0..400).map(|_| all[random.random_range(0..all.len())].clone());
            let used = Used { pairs: seen.collect(), ..Used::default() };
            let wide = policy(&rows, &tools);
            let tight = policy(&applied(&rows, &wide.narrowed(&used)), &tools);

            let excess = |policy: &Policy| policy.pairs(&used).permitted - legitimate.len();
            let (before, after) = (excess(&wide), excess(&tight));
            assert!(after * 10 <= before, "seed {seed}: {after} of {before} are left");
            for (agent, tool) in (0..2_000).map(|_| &all[random.random_range(0..all.len())]) {
                let tier = tools.iter().find(|(name, _)| name == tool).unwrap().1;
                assert!(tight.right(&tight.rows_of(agent), tool, tier).is_some(), "seed {seed}: {agent} is denied {tool}");
            }
            for subject in tight.subjects() {
                let (was, is) = (wide.rows_of(subject), tight.rows_of(subject));
                let more = tools.iter().find(|(tool, tier)| {
                    let change = change(wide.right(&was, tool, *tier).as_ref(), tight.right(&is, tool, *tier).as_ref());
                    change.is_some_and(|change| change.may_permit_more())
                });
                assert!(more.is_none(), "seed {seed}: {subject} may do more: {more:?}");
            }
        }
    }
}
