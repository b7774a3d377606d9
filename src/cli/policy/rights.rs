//! `doorward policy matrix` and `doorward policy diff`: who may do what at a glance, and what an edit changes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::json;

use super::{Files, loaded};
use crate::catalog::tier::Tier;
use crate::cli::{Context, Failure, table};
use crate::policy::compare::{Change, Held, Right, change};
use crate::policy::{ANY, Policy};

/// Differences that are printed one by one; the counts are of all.
const MAX_SHOWN: usize = 200;

/// Arguments of `doorward policy matrix`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward policy matrix\n  doorward policy matrix --agents --json\n\nallow: always. when: under a condition. +: something is asked for beside it. deny: a row says so. -: no row allows it."
)]
pub struct MatrixArgs {
    /// The agents too, not only the roles.
    #[arg(long)]
    agents: bool,
}

/// Arguments of `doorward policy diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward policy diff policies.new\n  doorward policy diff policies policies.new --json\n\nBoth are compiled for the tools of today, and every role, every agent and every tool is compared. Exit codes: 0 nobody may do more that is irreversible, 2 a fault in a file, 3 somebody may."
)]
pub struct DiffArgs {
    /// The folder before; or, where it is the only one, the folder after, which is then held against the one that is configured.
    from: PathBuf,
    /// The folder after.
    to: Option<PathBuf>,
}

/// Prints who may do what.
pub fn matrix(context: &Context, args: &MatrixArgs) -> Result<u8, Failure> {
    let Files { catalog, policy, .. } = Files::load(context)?;
    let subjects: Vec<&str> = policy.subjects().filter(|subject| args.agents || subject.starts_with("role:")).collect();
    let rows: Vec<Held<'_>> = subjects.iter().map(|subject| policy.rows_of(subject)).collect();
    let cell = |rows: &Held<'_>, name: &str, tier: Tier| match policy.right(rows, name, tier) {
        None if rows.is_about(name, tier) => "deny".to_owned(),
        None => "-".to_owned(),
        Some(right) => format!("{}{}", if right.is_conditional() { "when" } else { "allow" }, if right.asks() { "+" } else { "" }),
    };
    let lines = catalog.tools().iter().map(|tool| (&*tool.policy_name, tool.tier));
    if context.json {
        let told = |rows: &Held<'_>, name: &str, tier: Tier| policy.right(rows, name, tier).map(|right| right.told());
        let lines: Vec<_> = lines
            .map(|(name, tier)| {
                let cells: BTreeMap<&str, _> =
                    subjects.iter().zip(&rows).map(|(subject, rows)| (*subject, told(rows, name, tier))).collect();
                json!({ "target": name, "tier": tier.as_str(), "rights": cells })
            })
            .collect();
        println!("{}", json!({ "policy_version": policy.version(), "targets": lines }));
        return Ok(0);
    }
    let head: Vec<&str> = ["TARGET", "TIER"].into_iter().chain(subjects.iter().copied()).collect();
    let lines = lines.map(|(name, tier)| {
        let cells = rows.iter().map(|rows| cell(rows, name, tier));
        [name.to_owned(), tier.as_str().to_owned()].into_iter().chain(cells).collect()
    });
    print!("{}", table::render(&head, &lines.collect::<Vec<_>>()));
    Ok(0)
}

/// One right that differs.
struct Difference<'p> {
    subject: &'p str,
    target: &'p str,
    tier: Tier,
    change: Change,
    was: Option<Right>,
    is: Option<Right>,
}

/// Compares and prints.
pub fn diff(context: &Context, args: &DiffArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let (from, to) = match &args.to {
        Some(to) => (args.from.clone(), to.clone()),
        None => (config.policies.as_ref().to_owned(), args.from.clone()),
    };
    let (before, after) = (loaded(&config, &from)?, loaded(&config, &to)?);
    let targets: Vec<(&str, Tier)> = after.catalog.tools().iter().map(|tool| (&*tool.policy_name, tool.tier)).collect();
    let found = differences(&before.policy, &after.policy, &targets);
    let limits = before.limits.text() != after.limits.text();
    let others = of_others(&before.policy) != of_others(&after.policy);
    let rows = differing(&before.policy, &after.policy);
    let more = found.iter().filter(|found| found.tier == Tier::Irreversible && found.change.may_permit_more()).count();
    if context.json {
        let told = |right: &Option<Right>| right.as_ref().map(|right| json!({ "right": right.told(), "rules": ids(right) }));
        let list = found.iter().map(|found| {
            json!({ "subject": found.subject, "target": found.target, "tier": found.tier.as_str(), "change": found.change.as_str(),
                "was": told(&found.was), "is": told(&found.is) })
        });
        let list: Vec<_> = list.collect();
        println!(
            "{}",
            json!({ "from": before.policy.version(), "to": after.policy.version(), "rights": list, "limits_differ": limits, "prompts_or_resources_differ": others,
                "rows": { "removed": rows.0, "added": rows.1 }, "more_irreversible": more })
        );
    } else {
        print!("{}{}", told_rows(&rows), told(&found, (limits, others), more));
    }
    Ok(if more > 0 { 3 } else { 0 })
}

/// The rows that are about prompts and resources too, of which the catalog cannot know each.
fn of_others(policy: &Policy) -> Vec<[String; 6]> {
    let is_other = |stem: &str| stem.is_empty() || stem.starts_with("prompt:") || stem.starts_with("resource:");
    policy.rows().rules.iter().filter(|rule| is_other(rule.pattern.stem())).map(|rule| rule.fields()).collect()
}

/// The rows that only one of two policies has, as lines of its file: an edit may change names and order without any right.
fn differing(before: &Policy, after: &Policy) -> (Vec<String>, Vec<String>) {
    let (was, is) = (lines(before), lines(after));
    let without = |lines: &[String], other: &[String]| {
        let other: BTreeSet<&String> = other.iter().collect();
        lines.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>()
    };
    (without(&was, &is), without(&is, &was))
}

fn lines(policy: &Policy) -> Vec<String> {
    let rules = policy.rows().rules.iter().map(|rule| format!("{}, {}", rule.kind(), rule.fields().join(", ")));
    let grants = policy.rows().grants.iter().map(|grant| format!("g, {}, {}", grant.member, grant.role));
    rules.chain(grants).collect()
}

fn told_rows((removed, added): &(Vec<String>, Vec<String>)) -> String {
    let shown = |sign: char, rows: &[String]| rows.iter().take(MAX_SHOWN).map(|row| format!("{sign} {row}\n")).collect::<String>();
    format!("{}{}", shown('-', removed), shown('+', added))
}

fn ids(right: &Right) -> Vec<&str> {
    right.rules().iter().map(|rule| rule.as_str()).collect()
}

fn told(found: &[Difference<'_>], (limits, others): (bool, bool), more: usize) -> String {
    let word = |right: &Option<Right>| {
        right.as_ref().map_or_else(|| "-".to_owned(), |right| format!("{} ({})", right.told(), ids(right).join(", ")))
    };
    let row = |found: &Difference<'_>| {
        let words = [found.change.as_str(), found.subject, found.target, found.tier.as_str()].map(str::to_owned);
        words.into_iter().chain([word(&found.was), word(&found.is)]).collect::<Vec<_>>()
    };
    let mut out = String::new();
    if !found.is_empty() {
        let rows: Vec<_> = found.iter().take(MAX_SHOWN).map(row).collect();
        out += &table::render(&["CHANGE", "WHO", "TARGET", "TIER", "WAS", "IS"], &rows);
    }
    if found.len() > MAX_SHOWN {
        out += &format!("and {} more; --json lists all\n", found.len() - MAX_SHOWN);
    }
    if limits {
        out += "limits.yaml differs\n";
    }
    if others {
        out += "rows about prompts or resources differ, which are not compared one by one\n";
    }
    let count = |wanted: Change| found.iter().filter(|found| found.change == wanted).count();
    let all = [Change::Gained, Change::Widened, Change::Changed, Change::Narrowed, Change::Lost];
    let counts = all.map(|change| format!("{} {}", count(change), change.as_str())).join(", ");
    format!("{out}rights: {counts}; {more} of them may permit more that is irreversible\n")
}

/// The first right of which more is permitted after than before, in words.
pub(super) fn more(before: &Policy, after: &Policy, targets: &[(&str, Tier)]) -> Option<String> {
    let found = differences(before, after, targets);
    let more = found.iter().find(|found| found.change.may_permit_more())?;
    Some(format!("{} {} {}", more.subject, more.change.as_str(), more.target))
}

/// Every right that differs, the most irreversible first. What an agent has through a role that both policies give it is told of the role alone.
fn differences<'p>(before: &'p Policy, after: &'p Policy, targets: &[(&'p str, Tier)]) -> Vec<Difference<'p>> {
    let subjects: BTreeSet<&str> = before.subjects().chain(after.subjects()).collect();
    let mut found: BTreeMap<&str, Vec<Difference<'p>>> = BTreeMap::new();
    for subject in &subjects {
        let (was, is) = (before.rows_of(subject), after.rows_of(subject));
        let of_subject = targets.iter().filter_map(|(target, tier)| {
            let (was, is) = (before.right(&was, target, *tier), after.right(&is, target, *tier));
            let change = change(was.as_ref(), is.as_ref())?;
            Some(Difference { subject, target, tier: *tier, change, was, is })
        });
        found.insert(subject, of_subject.collect());
    }
    let words = |found: &Difference<'_>| (found.was.as_ref().map(Right::told), found.is.as_ref().map(Right::told));
    let of_role: BTreeSet<_> = found.values().flatten().map(|found| (found.subject, found.target, words(found))).collect();
    let through =
        |subject: &str, role: &str| role != subject && (role == ANY || before.has_role(subject, role) && after.has_role(subject, role));
    let is_told = |found: &Difference<'_>| {
        subjects.iter().any(|role| through(found.subject, role) && of_role.contains(&(*role, found.target, words(found))))
    };
    let mut all: Vec<Difference<'p>> = found.into_values().flatten().collect();
    let told: Vec<bool> = all.iter().map(is_told).collect();
    let mut told = told.into_iter();
    all.retain(|_| !told.next().unwrap_or(false));
    all.sort_by_key(|found| (std::cmp::Reverse(found.tier), found.change, found.subject, found.target));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use proptest::prelude::RngExt;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use super::*;
    use crate::policy::{Options, TargetFacts};

    const SHIPPED: &str = include_str!("../../../policies/policy.csv");
    const TOOLS: [(&str, Tier); 5] = [
        ("demo__list_notes", Tier::Read),
        ("demo__read_note", Tier::Read),
        ("demo__write_note", Tier::Reversible),
        ("demo__delete_note", Tier::Irreversible),
        ("demo__share_note", Tier::Irreversible),
    ];

    fn policy(text: &str) -> Option<Policy> {
        let facts = TOOLS.map(|(name, tier)| TargetFacts { name, tier });
        let options = Options { upstreams: vec!["demo".to_owned()], ..Options::default() };
        Some(Policy::parse(Path::new("policy.csv"), text, &facts, &options).ok()?.0)
    }

    /// What everybody may do by the decision table, which the comparison does not read.
    fn decided(policy: &Policy, agents: &BTreeSet<String>) -> Vec<bool> {
        let of = |agent: &String| TOOLS.map(|(name, _)| policy.decide(policy.class(agent), policy.target(name).unwrap()).is_permit());
        agents.iter().flat_map(of).collect()
    }

    #[test]
    fn a_thousand_edits_of_one_character_are_each_refused_or_shown() {
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let letters: Vec<char> = "abcdefghijklmnopqrstuvwxyz0123456789_-*:,.# ".chars().collect();
        let before = policy(SHIPPED).unwrap();
        let rows: Vec<usize> = SHIPPED.char_indices().filter(|(at, _)| is_row(*at)).map(|(at, _)| at).collect();
        let (mut refused, mut shown, mut changed) = (0, 0, 0);
        for _ in 0..1_000 {
            let at = rows[random.random_range(0..rows.len())];
            let letter = letters[random.random_range(0..letters.len())];
            let mut text = SHIPPED.to_owned();
            match random.random_range(0..3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, letter),
                _ => text.replace_range(at..=at, &letter.to_string()),
            }
            let Some(after) = policy(&text) else {
                refused += 1;
                continue;
            };
            let agents: BTreeSet<String> = before.subjects().chain(after.subjects()).map(str::to_owned).collect();
            let agents = agents.into_iter().filter(|subject| subject.starts_with("agent:")).chain(["agent:new".to_owned()]).collect();
            let rows = differing(&before, &after);
            let found = differences(&before, &after, &TOOLS);
            let is_same = lines(&before) == lines(&after);
            assert_eq!(rows.0.is_empty() && rows.1.is_empty(), is_same, "{text}");
            if decided(&before, &agents) != decided(&after, &agents) {
                changed += 1;
                assert!(!found.is_empty(), "somebody may do what they might not, or the other way round, and it is not told:\n{text}");
            }
            shown += usize::from(!is_same);
        }
        assert!(refused > 300 && shown > 100 && changed > 30, "{refused} refused, {shown} shown, {changed} change a right");
    }

    /// Whether a place is in a row and not in a comment.
    fn is_row(at: usize) -> bool {
        let line = SHIPPED[..at].rfind('\n').map_or(0, |end| end + 1);
        !SHIPPED[line..].starts_with('#') && !SHIPPED[at..].starts_with('\n')
    }
}
