//! The table, the index, Casbin and the definition (`naive`) at the same random calls of random policies.
//!
//! `DOORWARD_POLICY_CASES` is the number of calls (20,000 where nothing is said), `DOORWARD_POLICY_SEED` where they begin: the same number means the
//! same calls on every machine.

use std::cell::{Cell, RefCell};
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::*;
use crate::policy::{Options, TargetFacts, naive};

/// Calls that one random policy is asked about.
const CALLS: usize = 40;
/// Names that meet in patterns, of which not all are in the catalogue.
const NAMES: [&str; 12] = [
    "demo__read_note",
    "demo__read",
    "demo__re",
    "demo__write_note",
    "demo__write_notes",
    "github__merge",
    "github__merge_all",
    "github__",
    "prompt:demo__ask",
    "resource:demo:note://a",
    "resource:demo:note://é",
    "other__x",
];
const LISTED: [(&str, Tier); 5] = [
    ("demo__read_note", Tier::Read),
    ("demo__write_note", Tier::Reversible),
    ("demo__write_notes", Tier::Read),
    ("github__merge", Tier::Irreversible),
    ("github__merge_all", Tier::Reversible),
];
const TIERS: [Tier; 3] = [Tier::Read, Tier::Reversible, Tier::Irreversible];
const CONDITIONS: &str =
    "conditions:\n  a: { argument: /x, eq: 1 }\n  b: { argument: /y, eq: 1 }\n  c: { argument: /z, eq: 1 }\n  d: { argument: /w, eq: 1 }\n";

/// A call: who, the place of its target in [`LISTED`] and [`NAMES`] together, the tier of a name that is not listed, and what the conditions come to.
type Asked = (&'static str, usize, Tier, [Truth; 4]);

fn rows() -> impl Strategy<Value = String> {
    let subject = select(vec!["agent:a", "agent:b", "agent:c", "role:r", "role:s", "role:t", "role:u", "role:any"]);
    let obligations = ["redact", "dry_run", "approve:oncall", "limit:3/min", "waive:toxic-flow"];
    let effect = select([&["allow"; 10][..], &["deny"], &obligations].concat());
    let tier = select(vec!["read", "reversible", "irreversible", "any"]);
    let when = select(vec!["-", "-", "-", "-", "-", "a", "b", "c", "d"]);
    let rule = (subject, select(NAMES.to_vec()), any::<prop::sample::Index>(), any::<bool>(), tier, when, effect);
    let grants = [
        "agent:a, role:r",
        "agent:a, role:s",
        "agent:b, role:s",
        "agent:b, role:u",
        "role:r, role:s",
        "role:s, role:t",
        "role:r, role:t",
        "role:u, role:r",
        "agent:c, role:any",
    ];
    let grants = prop::sample::subsequence(grants.to_vec(), 0..grants.len());
    (prop::collection::vec(rule, 0..24), grants).prop_map(|(rules, grants)| {
        let mut bodies = std::collections::BTreeSet::new();
        for (subject, name, end, is_wide, tier, when, effect) in rules {
            // A pattern ends anywhere in a name that it begins like, but at no boundary within a character.
            let is_whole = !is_wide && name.is_ascii() && !name.ends_with("__");
            // Nor within an upstream's name, which a row names whole or not at all.
            let least = name.find("__").map_or("resource:demo:".len(), |at| at + 2);
            let end = if is_whole { name.len() } else { least + end.index(name.len() + 1 - least) };
            let stem = match name.is_ascii() {
                true if is_wide && end == name.len() => "",
                true => &name[..end],
                false => "resource:demo:note://",
            };
            let (pattern, gives) = (format!("{stem}{}", if is_whole { "" } else { "*" }), matches!(effect, "allow" | "waive:toxic-flow"));
            let tier = match (gives, tier) {
                (true, "any") => "reversible",
                (true, "irreversible") if !is_whole => "reversible",
                (_, tier) => tier,
            };
            let kind = if matches!(effect, "allow" | "deny") { "p" } else { "o" };
            bodies.insert((kind, format!("{subject}, {pattern}, {tier}, {when}, {effect}")));
        }
        let rules = bodies.iter().enumerate().map(|(number, (kind, body))| format!("{kind}, R{}, {body}\n", number + 2));
        rules.chain(grants.iter().map(|grant| format!("g, {grant}\n"))).collect()
    })
}

fn calls() -> impl Strategy<Value = Vec<Asked>> {
    let truth = || select(vec![Ok(false), Ok(true), UNASKED]);
    let who = select(vec!["agent:a", "agent:a", "agent:b", "agent:c", "agent:z"]);
    let place = prop_oneof![0..LISTED.len(), 0..LISTED.len() + NAMES.len()];
    prop::collection::vec((who, place, select(TIERS.to_vec()), [truth(), truth(), truth(), truth()]), CALLS)
}

/// Asks all four whether it is permitted, and says where they differ.
fn ask(policy: &Policy, oracle: &Oracle, (principal, place, tier, truths): &Asked) -> Result<bool, Difference> {
    let listed = LISTED.get(*place).copied();
    let (target, tier) = listed.unwrap_or_else(|| (NAMES[place - LISTED.len()], *tier));
    let question = Question { target: target.into(), tier, index: listed.and_then(|(name, _)| policy.target(name)) };
    let state = State::new(policy, policy.conditions.all().map(|(id, _)| id).zip(*truths).collect());
    let class = policy.class(principal);
    compare(policy, oracle, (principal, class), &question, &state)?;
    let truth = |name: &str| policy.conditions.id(name).map_or(UNASKED, |id| state.truth(id));
    let (ours, meant) = (
        policy.by_name(class, target, tier, &mut |effect, id| effect.counts(state.truth(id))),
        naive::decide(&policy.rows, principal, target, tier, &truth),
    );
    if ours == meant {
        Ok(ours.is_permit())
    } else {
        Err(Difference(format!("`{principal}` at `{target}` ({tier}): the definition says {meant:?}, the index {ours:?}")))
    }
}

#[test]
fn the_table_casbin_and_the_definition_agree_on_random_calls() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (wanted, seed) = (number("DOORWARD_POLICY_CASES", 20_000), number("DOORWARD_POLICY_SEED", 1));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: u32::try_from(wanted.div_ceil(CALLS as u64)).unwrap(), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));

    let agreed = apart(|oracle| {
        let (oracle, asked, permitted) = (RefCell::new(oracle), Cell::new(0_u64), Cell::new(0_u64));
        let run = runner.run(&(rows(), calls()), |(text, calls)| {
            let targets = LISTED.map(|(name, tier)| TargetFacts { name, tier });
            let upstreams = ["demo", "github", "other"].map(str::to_owned).into();
            let options = Options { upstreams, conditions: CONDITIONS.to_owned(), ..Options::default() };
            let policy = Policy::parse(Path::new("policy.csv"), &text, &targets, &options);
            let policy = policy.map_err(|faults| TestCaseError::fail(format!("{faults:?}")))?.0;
            let failed = |difference: Difference| TestCaseError::fail(difference.to_string());
            let mut oracle = oracle.borrow_mut();
            oracle.hold(&policy.rows.rules.iter().collect::<Vec<_>>(), policy.rows.grants.iter()).map_err(failed)?;
            for call in &calls {
                let is_permitted = ask(&policy, &oracle, call).map_err(failed)?;
                asked.set(asked.get() + 1);
                permitted.set(permitted.get() + u64::from(is_permitted));
            }
            Ok(())
        });
        run.map_err(|error| Difference(error.to_string())).map(|()| (asked.get(), permitted.get()))
    });

    let (asked, permitted) = agreed.unwrap();
    assert!(asked >= wanted && permitted * 10 > asked, "{asked} asked, {permitted} permitted");
}
