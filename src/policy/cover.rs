//! Which rows could ask for what was seen of the arguments (`seen`), and the conditions that would say so.
//!
//! Only allows that name one target get such a condition: what a row on many asks of their arguments stops those that have no such argument. A row's
//! own condition stays, and the new one is asked beside it (`all`).
//!
//! INVARIANT: a row with its new condition permits nothing that it did not: what it asked before it still asks.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::condition::spelled;
use super::narrow::Used;
use super::rule::{Rule, RuleEffect, RuleId};
use super::seen::{Cover, Plain, Seen};
use super::suggest::skeleton;
use super::{Conditions, Policy};

/// A row that gets a condition.
#[derive(Debug)]
pub struct Covered {
    /// The row.
    pub rule: RuleId,
    /// Its line, from 1, and the column of its condition, from 1.
    pub at: (u32, u32),
    /// The condition that it has; a dash for none.
    pub was: String,
    /// The name of the new one.
    pub name: String,
    /// What that says, as a flow mapping of `conditions.yaml`.
    pub says: String,
    /// What it rests on, by field.
    pub covers: Vec<Cover>,
    /// The target, and how many agents called it through the row.
    pub called: (String, usize),
}

/// Why a field of a target has no condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uncovered {
    /// The target.
    pub target: String,
    /// The field.
    pub pointer: String,
    /// Why, in words.
    pub why: String,
}

impl Policy {
    /// The rows that could ask for what was seen, in the order of the file, and the fields that stay as they are. `fields` has the fields of each
    /// target that records have in clear.
    pub fn covered(&self, used: &Used, seen: &Seen, fields: &BTreeMap<String, Vec<Plain>>) -> (Vec<Covered>, BTreeSet<Uncovered>) {
        let (mut rows, mut left) = (Vec::new(), BTreeSet::new());
        let mut names: HashSet<String> = self.conditions.all().map(|(_, condition)| looks(&condition.name)).collect();
        let allows = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Allow && !rule.pattern.is_wildcard());
        for rule in allows {
            let target = rule.pattern.stem();
            let Some(plain) = fields.get(target) else { continue };
            let agents = self.agents_using(rule, used);
            if agents.is_empty() {
                continue;
            }
            let mut covers = Vec::new();
            for plain in plain {
                match seen.of(&agents, target, &plain.pointer).cover(plain) {
                    Ok(cover) if self.asks_already(rule, &cover) => {}
                    Ok(cover) => covers.push(cover),
                    Err(why) => drop(left.insert(Uncovered { target: target.to_owned(), pointer: plain.pointer.clone(), why })),
                }
            }
            if !covers.is_empty() {
                rows.extend(self.with_covers(rule, covers, &mut names, agents.len()));
            }
        }
        (rows, left)
    }

    fn with_covers(&self, rule: &Rule, covers: Vec<Cover>, names: &mut HashSet<String>, agents: usize) -> Option<Covered> {
        // A row never loses what it asks: where that cannot be written once more, it stays as it is.
        let own = match &rule.when {
            None => None,
            Some(when) => Some(spelled(&self.conditions.get(when.id)?.canonical)?),
        };
        let parts: Vec<String> = own.into_iter().chain(covers.iter().map(|cover| cover.test.clone())).collect();
        let says = match parts.as_slice() {
            [one] => one.clone(),
            some => format!("{{ all: [{}] }}", some.join(", ")),
        };
        let plain: String =
            rule.id.as_str().to_ascii_lowercase().chars().map(|found| if found.is_ascii_alphanumeric() { found } else { '_' }).collect();
        let stem: String = format!("seen_{plain}").chars().take(MAX_STEM).collect();
        let numbered = (2..).map(|number: u32| format!("{stem}_{number}"));
        let name = std::iter::once(stem.clone()).chain(numbered).find(|name| names.insert(looks(name))).unwrap_or(stem.clone());
        Some(Covered {
            rule: rule.id.clone(),
            at: (rule.at.line, rule.at.columns[5]),
            was: rule.when.as_ref().map_or("-".to_owned(), |when| when.name.to_string()),
            name,
            says,
            covers,
            called: (rule.pattern.to_string(), agents),
        })
    }

    /// Whether the row's condition asks for as much already, or for more.
    fn asks_already(&self, rule: &Rule, cover: &Cover) -> bool {
        let Some(own) = rule.when.as_ref().and_then(|when| self.conditions.get(when.id)) else { return false };
        let text = format!("conditions:\n  seen: {}\n", cover.test);
        let new = Conditions::parse(std::path::Path::new("conditions.yaml"), &text);
        let new = new.ok().and_then(|conditions| Some(conditions.get(conditions.id("seen")?)?.canonical.clone()));
        let read = |canonical: &str| serde_json::from_str::<Value>(canonical).ok();
        new.and_then(|new| Some(asks_as_much(&read(&own.canonical)?, &read(&new)?))).unwrap_or(false)
    }
}

/// The texts of `policy.csv` and `conditions.yaml` with these conditions: a line each behind those that there are, in the form that these have. `None`
/// where the texts are not those that the rows were read from.
pub fn written(rows: &str, conditions: Option<&str>, covered: &[Covered]) -> Option<(String, String)> {
    let is_begun = |text: &&str| text.lines().any(|line| line.starts_with(BEGINNING));
    let mut more = match conditions.filter(is_begun) {
        Some(text) => text.to_owned(),
        None => format!("{}{BEGINNING}\n", conditions.unwrap_or_default()),
    };
    if !more.ends_with('\n') {
        more.push('\n');
    }
    let inside = more.lines().skip_while(|line| !line.starts_with(BEGINNING)).skip(1);
    let first = inside.filter(|line| !line.trim_start().starts_with('#')).find(|line| line.starts_with(' '));
    let indent = first.map_or(2, |line| line.len() - line.trim_start().len());
    let mut lines: Vec<String> = rows.split_inclusive('\n').map(str::to_owned).collect();
    for row in covered {
        more += &format!("{:indent$}{}: {}\n", "", row.name, row.says);
        let line = lines.get_mut(row.at.0.checked_sub(1)? as usize)?;
        let (before, condition) = line.split_at_checked(row.at.1.checked_sub(1)? as usize)?;
        *line = format!("{before}{}{}", row.name, condition.strip_prefix(&*row.was)?);
    }
    Some((lines.concat(), more))
}

/// The parts of a condition's canonical text, where it asks for all of some.
pub(super) fn parts(canonical: &str) -> Vec<&str> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct All<'a> {
        #[serde(borrow)]
        all: Vec<&'a RawValue>,
    }
    serde_json::from_str::<All<'_>>(canonical).map_or_else(|_| Vec::new(), |all| all.all.into_iter().map(RawValue::get).collect())
}

/// Whether a condition lets nothing pass that a test of one field does not.
fn asks_as_much(own: &Value, test: &Value) -> bool {
    if let Some(parts) = own.get("all").and_then(Value::as_array) {
        return parts.iter().any(|part| asks_as_much(part, test));
    }
    let (Some((kind, values)), Some((of_test, permitted))) = (listed(own), listed(test)) else { return own == test };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is_within = |value: &Value| {
        permitted.iter().any(|permitted| match kind {
            "prefix" => text(value).starts_with(&text(permitted)),
            "path_within" => value == permitted || text(value).starts_with(&format!("{}/", text(permitted))),
            _ => value == permitted,
        })
    };
    kind == of_test && own.get("argument") == test.get("argument") && values.iter().all(is_within)
}

/// The kind and the values of a test that lists what passes, and says nothing else.
fn listed(condition: &Value) -> Option<(&'static str, Vec<Value>)> {
    let members = condition.as_object().filter(|members| members.len() == 2 && members.contains_key("argument"))?;
    let kinds = [("eq", "in"), ("in", "in"), ("prefix", "prefix"), ("path_within", "path_within"), ("url_host_in", "url_host_in")];
    let (values, kind) = kinds.into_iter().find_map(|(name, kind)| Some((members.get(name)?, kind)))?;
    Some((kind, values.as_array().cloned().unwrap_or_else(|| vec![values.clone()])))
}

/// What a condition's name looks like: two that look alike are refused.
fn looks(name: &str) -> String {
    skeleton(name).replace('-', "_")
}

/// How `conditions.yaml` begins.
const BEGINNING: &str = "conditions:";
/// Characters of a new name before its number; 64 at most are permitted.
const MAX_STEM: usize = 56;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use proptest::prelude::RngExt;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use serde_json::json;

    use super::*;
    use crate::catalog::tier::Tier;
    use crate::clock::Clock;
    use crate::identity::Principal;
    use crate::mcp::json as wire;
    use crate::policy::compare::change;
    use crate::policy::seen::Kind;
    use crate::policy::{Call, Options, TargetFacts};
    use crate::run::Before;

    const TOOLS: [(&str, Tier); 3] = [("up__read", Tier::Read), ("up__save", Tier::Reversible), ("up__pay", Tier::Irreversible)];

    fn policy(rows: &str, conditions: &str) -> Policy {
        let facts = TOOLS.map(|(name, tier)| TargetFacts { name, tier });
        let options = Options { upstreams: vec!["up".to_owned()], conditions: conditions.to_owned(), ..Options::default() };
        Policy::parse(Path::new("policy.csv"), rows, &facts, &options).unwrap().0
    }

    fn fields() -> BTreeMap<String, Vec<Plain>> {
        let plain = |pointer: &str, kind| Plain { pointer: pointer.to_owned(), kind: Some(kind), permitted: None };
        let all = vec![plain("/env", Kind::Text), plain("/path", Kind::Text), plain("/n", Kind::Number)];
        TOOLS.iter().map(|(name, _)| ((*name).to_owned(), all.clone())).collect()
    }

    fn permits(policy: &Policy, agent: &str, (target, tier): (&str, Tier), arguments: &Value) -> bool {
        let text = arguments.to_string();
        let node = wire::parse(text.as_bytes(), wire::Limits::default()).unwrap();
        let (principal, before, clock) = (Principal::local(agent, "test"), Before::nothing(), Clock::system());
        let call = Call { principal: &principal, target, tier, labels: &[], before: &before, arguments: Some(&node), clock: &clock };
        policy.explain(&call).decision.is_permit()
    }

    /// As a record has it: numbers as texts.
    fn recorded(arguments: &Value) -> Value {
        let mut shown = arguments.clone();
        shown["n"] = json!(arguments["n"].to_string());
        shown
    }

    /// What one team does with one tool: some of the environments, files of one folder, and any number.
    struct Habit {
        envs: Vec<&'static str>,
        folder: String,
    }

    impl Habit {
        fn call(&self, random: &mut TestRng) -> Value {
            let env = self.envs[random.random_range(0..self.envs.len())];
            let file = format!("{}/{}/{}", self.folder, random.random_range(0..9), random.random_range(0..99));
            json!({ "env": env, "path": file, "n": random.random_range(0..1_000_000) })
        }
    }

    /// One row for each team and tool, so that each has a habit of its own.
    fn split(rows: &str) -> String {
        let row = |team: usize, (at, (name, tier)): (usize, &(&str, Tier))| {
            let when = if *tier == Tier::Irreversible { "sound" } else { "-" };
            format!("p, S{team}{at}x, role:t{team}, {name}, {}, {when}, allow\n", tier.as_str())
        };
        let teams = (0..2).flat_map(|team| TOOLS.iter().enumerate().map(move |tool| row(team, tool)));
        let others = rows.lines().skip(2).filter(|line| !line.contains(", T")).map(|line| format!("{line}\n"));
        teams.chain(others).collect()
    }

    /// Traffic of a tight policy under a wide one: what was seen is permitted, what follows is, and most of what is too much is not.
    #[test]
    fn nine_tenths_of_the_excess_go_and_no_call_that_was_seen_or_follows_is_denied() {
        let rows = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__pay, irreversible, sound, allow\n\
            p, D1, role:any, up__*, any, odd, deny\np, T0, role:t0, up__read, read, -, allow\np, T1, role:t1, up__read, read, -, allow\n\
            g, agent:a0, role:t0\ng, agent:b0, role:t0\ng, agent:a1, role:t1\ng, agent:b1, role:t1\n";
        let conditions = "conditions:\n    # what is paid\n    sound: { argument: /n, range: { min: 0 } }\n    odd: { argument: /n, range: { below: 0 } }\n";
        for seed in 0..20_u8 {
            let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
            let wide = policy(rows, conditions);
            let habit = |team: usize, tool: usize, random: &mut TestRng| {
                let envs = ["dev", "test", "stage", "prod"].into_iter().cycle().skip(random.random_range(0..4));
                Habit { envs: envs.take(random.random_range(1..4)).collect(), folder: format!("/srv/team{team}/{tool}") }
            };
            let habits: Vec<Vec<Habit>> = (0..2).map(|team| (0..3).map(|tool| habit(team, tool, &mut random)).collect()).collect();
            let a_call = |random: &mut TestRng| {
                let (team, tool) = (random.random_range(0..2), random.random_range(0..3));
                let agent = format!("{}{team}", ["a", "b"][random.random_range(0..2)]);
                (agent, TOOLS[tool], habits[team][tool].call(random))
            };
            let calls: Vec<_> = (0..1_500).map(|_| a_call(&mut random)).collect();
            let (mut used, mut seen) = (Used::default(), Seen::default());
            for (agent, (target, _), arguments) in &calls {
                let principal = format!("agent:{agent}");
                seen.take(&principal, target, Some(&recorded(arguments)), &fields()[*target]);
                used.pairs.insert((principal, (*target).to_owned()));
            }

            let split = split(rows);
            let narrowed = policy(&split, conditions);
            let (covered, left) = narrowed.covered(&used, &seen, &fields());
            let (rows, more) = written(&split, Some(conditions), &covered).unwrap();
            let tight = policy(&rows, &more);

            assert_eq!((covered.len(), covered.iter().map(|row| row.covers.len()).sum::<usize>()), (6, 12), "seed {seed}: {left:?}");
            assert!(left.iter().all(|left| left.pointer == "/n"), "numbers are left alone: {left:?}");
            assert!(more.starts_with(conditions) && rows.lines().count() == split.lines().count(), "{more}{rows}");
            let denied = |calls: &[(String, (&str, Tier), Value)]| {
                calls.iter().filter(|(agent, target, arguments)| !permits(&tight, agent, *target, arguments)).count()
            };
            assert_eq!(denied(&calls), 0, "seed {seed}: a call that was seen");
            let later: Vec<_> = (0..1_000).map(|_| a_call(&mut random)).collect();
            assert_eq!(denied(&later), 0, "seed {seed}: a later call");
            let excess: Vec<_> = later
                .into_iter()
                .map(|(agent, target, mut arguments)| {
                    match random.random_range(0..3) {
                        0 => arguments["path"] = json!("/srv/other/1"),
                        1 => arguments["path"] = json!(format!("{}/../../../../../etc/passwd", arguments["path"].as_str().unwrap())),
                        _ => arguments["env"] = json!("prod "),
                    }
                    (agent, target, arguments)
                })
                .collect();
            assert!(excess.iter().all(|(agent, target, arguments)| permits(&wide, agent, *target, arguments)));
            assert!(denied(&excess) * 10 >= excess.len() * 9, "seed {seed}: {} of {}", denied(&excess), excess.len());
            for subject in tight.subjects() {
                let (was, is) = (narrowed.rows_of(subject), tight.rows_of(subject));
                for (target, tier) in TOOLS {
                    let change = change(narrowed.right(&was, target, tier).as_ref(), tight.right(&is, target, tier).as_ref());
                    assert!(change.is_none_or(|change| !change.may_permit_more()), "seed {seed}: {subject} {target} {change:?}");
                }
            }
            // Asked again it has nothing more to say.
            assert_eq!(tight.covered(&used, &seen, &fields()).0.len(), 0, "seed {seed}");
        }
    }

    #[test]
    fn what_a_row_asks_already_is_not_asked_again_in_other_words() {
        let asks = |own: &str, test: &str| {
            let read = |text: &str| {
                let conditions = Conditions::parse(Path::new("c.yaml"), &format!("conditions:\n  c: {text}\n")).unwrap();
                serde_json::from_str::<Value>(&conditions.all().next().unwrap().1.canonical).unwrap()
            };
            asks_as_much(&read(own), &read(test))
        };
        let of = |test: &str| format!("{{ argument: /x, {test} }}");
        for (own, test, is_enough) in [
            ("in: [a, b]", "in: [a, b, c]", true),
            ("eq: a", "in: [a, b]", true),
            ("in: [a, b]", "eq: a", false),
            ("eq: 5", "in: [\"5\", b]", false),
            ("path_within: /srv/a", "path_within: /srv", true),
            ("path_within: /srv", "path_within: /srv/a", false),
            ("path_within: /srvs", "path_within: /srv", false),
            ("prefix: acme/r", "prefix: acme/", true),
            ("in: [a, b]", "prefix: a", false),
            ("max_len: 3", "eq: a", false),
            ("eq: a, missing: true", "eq: a", false),
        ] {
            assert_eq!(asks(&of(own), &of(test)), is_enough, "{own} and {test}");
        }
        assert!(asks("{ all: [{ label: private }, { argument: /x, eq: a }] }", &of("eq: a")));
        assert!(!asks("{ any: [{ label: private }, { argument: /x, eq: a }] }", &of("eq: a")));
        assert!(!asks("{ argument: /y, eq: a }", &of("eq: a")));
    }

    #[test]
    fn a_row_on_many_targets_and_one_that_nobody_used_stay() {
        let rows = "p, R1, role:any, up__*, reversible, -, allow\np, R2, agent:b, up__read, read, -, allow\n";
        let (mut used, mut seen) = (Used::default(), Seen::default());
        for _ in 0..50 {
            seen.take("agent:a", "up__read", Some(&json!({ "env": "dev", "path": "/a", "n": "1" })), &fields()["up__read"]);
        }
        used.pairs.insert(("agent:a".to_owned(), "up__read".to_owned()));
        assert_eq!(policy(rows, "").covered(&used, &seen, &fields()).0.len(), 0);
    }
}
