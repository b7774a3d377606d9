//! A policy: rows, then `=====`, conditions, then `=====`, arguments of a call. Whatever it says, the table decides as the rows say, what no row
//! allows is denied, and a deny wins.

use std::path::Path;

use doorward::catalog::Label;
use doorward::catalog::tier::Tier;
use doorward::clock::Clock;
use doorward::identity::Principal;
use doorward::mcp::json::{Limits, parse};
use doorward::policy::{Facts, Options, Policy, RuleEffect, TargetFacts, Truth, Unclear, naive};
use doorward::run::Before;

use super::halves;

const TARGETS: [TargetFacts<'static>; 3] = [
    TargetFacts { name: "demo__read_note", tier: Tier::Read },
    TargetFacts { name: "demo__write_note", tier: Tier::Reversible },
    TargetFacts { name: "mail__send", tier: Tier::Irreversible },
];
/// More is left to others: the definition that the table is held against looks at every way from an agent to a role.
const MOST_GRANTS: usize = 24;

/// Checks a policy.
pub fn check(data: &[u8]) {
    let (rows, rest) = halves(data);
    let (conditions, arguments) = halves(rest);
    let (Ok(rows), Ok(conditions)) = (std::str::from_utf8(rows), std::str::from_utf8(conditions)) else { return };
    let options = Options { upstreams: vec!["demo".into(), "mail".into()], conditions: conditions.into(), ..Options::default() };
    let policy = match read(rows, &options) {
        Ok(policy) => policy,
        Err(faults) => return assert!(!faults.is_empty(), "it is refused for nothing"),
    };
    assert_eq!(read(rows, &options).expect("it was taken before").version(), policy.version());
    if policy.rows().grants.len() <= MOST_GRANTS {
        decides_as_written(&policy);
    }
    let denying = format!("{rows}\np, ZZ-all, role:any, *, any, -, deny\n");
    if let Ok(denied) = read(&denying, &options) {
        let class = denied.class("agent:demo");
        assert!(TARGETS.iter().all(|target| !denied.could(class, denied.target(target.name).expect("a target")).is_permit()));
    }
    comes_to_the_same(&policy, arguments);
}

fn read(rows: &str, options: &Options) -> Result<Policy, Vec<doorward::config::Fault>> {
    Policy::parse(Path::new("policy.csv"), rows, &TARGETS, options).map(|(policy, _)| policy)
}

fn decides_as_written(policy: &Policy) {
    let rows = policy.rows();
    let unclear = |_: &str| -> Truth { Err(Unclear("it was not asked")) };
    let has_allow = rows.rules.iter().any(|rule| rule.effect == RuleEffect::Allow);
    let members = rows.grants.iter().map(|grant| &*grant.member).filter(|member| member.starts_with("agent:")).take(3);
    for principal in ["agent:demo", "agent:nobody"].into_iter().chain(members) {
        let class = policy.class(principal);
        for target in &TARGETS {
            let expected = naive::decide(rows, principal, target.name, target.tier, &unclear);
            let decision = policy.decide(class, policy.target(target.name).expect("a target"));
            assert_eq!(decision, expected, "{principal} and {}", target.name);
            assert_eq!(policy.decide_by_name(class, target.name, target.tier), expected, "{principal} and {}, by name", target.name);
            assert!(has_allow || !decision.is_permit());
        }
    }
}

/// What conditions come to for a call is the same twice, and the other way round under `not`, but for what is unclear.
fn comes_to_the_same(policy: &Policy, arguments: &[u8]) {
    let arguments = parse(arguments, Limits { depth: 16, nodes: 200 }).ok();
    let (principal, clock) = (Principal::local("demo", "stdio"), Clock::fixed(1_795_255_200_000_000_000));
    let before = Before::given(&[Label::Private], vec![("mail__*".to_owned(), 3)]);
    let has_role = |role: &str| role == "role:oncall";
    let facts = Facts { arguments: arguments.as_ref(), principal: &principal, has_role: &has_role, clock: &clock, before: &before };
    for (id, condition) in policy.conditions().all() {
        let first = policy.conditions().evaluate(id, &facts);
        assert_eq!(policy.conditions().evaluate(id, &facts), first, "{}", condition.name);
    }
}
