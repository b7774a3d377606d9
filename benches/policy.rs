//! What a decision costs: without conditions at 10 and at 10,000 rows, and with four.
//!
//! `cargo bench --bench policy`. Each figure is the median of 2,000 rounds of 1,000 decisions.

#![allow(clippy::expect_used, reason = "a bench that cannot go on ends")]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use doorward::catalog::tier::Tier;
use doorward::clock::Clock;
use doorward::identity::Principal;
use doorward::mcp::json::{self, Limits};
use doorward::policy::{Facts, Options, Policy, TargetFacts, Unclear};
use doorward::run::Before;

const ROUNDS: usize = 2_000;
const CALLS: u32 = 1_000;
const CONDITIONS: &str = r#"conditions:
  path: { argument: /path, path_within: /srv/workspace }
  amount: { argument: /amount, range: { min: 0, max: 500.10 } }
  ticket: { argument: /ticket, regex: "[A-Z]{2,5}-[0-9]{1,6}" }
  env: { argument: /env, in: [dev, test] }
"#;
const ARGUMENTS: &str = r#"{"path":"/srv/workspace/notes/a.txt","amount":12.50,"ticket":"AB-1234","env":"dev"}"#;

fn median(mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            (0..CALLS).for_each(|_| call());
            began.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn policy(rows: &str, targets: &[TargetFacts<'_>]) -> Policy {
    let options = Options { upstreams: vec!["up".into()], conditions: CONDITIONS.into(), ..Options::default() };
    Policy::parse(Path::new("policy.csv"), rows, targets, &options).expect("the rows are sound").0
}

fn main() {
    let names: Vec<String> = (0..10_000).map(|number| format!("up__tool_{number:05}")).collect();
    let targets: Vec<TargetFacts<'_>> = names.iter().map(|name| TargetFacts { name, tier: Tier::Read }).collect();
    for count in [10, 10_000] {
        let rows: String = (0..count).map(|row| format!("p, R{row}, role:r{}, up__tool_{row:05}, read, -, allow\n", row % 20)).collect();
        let policy = policy(&format!("{rows}g, agent:a, role:r7\n"), &targets);
        let (class, target) = (policy.class("agent:a"), policy.target("up__tool_00007").expect("there is such a target"));
        let time = median(|| {
            black_box(policy.decide_when(black_box(class), black_box(target), &mut |_| Err(Unclear("none"))).is_permit());
        });
        println!("{count:>6} rows, no condition      {time:>8.1} ns");
    }
    let rows = "p, R1, role:any, up__*, read, path, allow\np, D1, role:any, up__*, any, amount, deny\n\
        p, R2, role:any, up__*, read, ticket, allow\no, O1, role:any, up__*, any, env, redact\n";
    let policy = policy(rows, &targets);
    let node = json::parse(ARGUMENTS.as_bytes(), Limits::default()).expect("the arguments are JSON");
    let (clock, principal) = (Clock::system(), Principal::local("a", "bench"));
    let before = Before::nothing();
    let facts = Facts { arguments: Some(&node), principal: &principal, has_role: &|_| false, clock: &clock, before: &before };
    let (class, target) = (policy.class("agent:a"), policy.target("up__tool_00007").expect("there is such a target"));
    for (id, condition) in policy.conditions().all() {
        let time = median(|| {
            let _ = black_box(policy.conditions().evaluate(black_box(id), &facts));
        });
        println!("{:<27} {time:>8.1} ns", format!("condition {}", condition.name));
    }
    // The deny's condition is true, so make it the other way round: not one of the four may end the decision early.
    let time = median(|| {
        let mut truth = |id| {
            let truth = policy.conditions().evaluate(id, &facts);
            if policy.conditions().name(id) == "amount" { truth.map(|truth| !truth) } else { truth }
        };
        black_box(policy.decide_when(black_box(class), black_box(target), &mut truth).is_permit());
    });
    println!("four conditions, one decision {time:>6.1} ns");
}
