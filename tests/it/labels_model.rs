//! All orders of labelled calls, of agents, runs, time and restarts, against a model of a few lines: nothing goes out that must not, and
//! nothing else is stopped.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use doorward::catalog::Label;
use doorward::catalog::tier::Tier;
use doorward::clock::Clock;
use doorward::config::{Config, parse_yaml};
use doorward::identity::Principal;
use doorward::policy::{Call, Options, Policy, TOXIC_FLOW, TargetFacts};
use doorward::run::{Noted, Runs};
use doorward::state::State;
use proptest::prelude::*;

/// In seconds, and how much longer a label may count.
const WINDOW: (i64, i64) = (3_600, 450);

const TOOLS: [(&str, Tier, &[Label]); 6] = [
    ("up__plain", Tier::Read, &[]),
    ("up__notes", Tier::Read, &[Label::Private]),
    ("up__inbox", Tier::Read, &[Label::Untrusted]),
    ("up__both", Tier::Read, &[Label::Private, Label::Untrusted]),
    ("up__send", Tier::Reversible, &[Label::Outward]),
    ("up__erase", Tier::Irreversible, &[]),
];
const ROWS: &str = "p, R1, role:any, up__*, reversible, -, allow\np, R2, role:any, up__erase, irreversible, -, allow\n";

#[derive(Clone, Debug)]
enum Step {
    /// An agent calls a tool, and says that it is in a run.
    Call {
        agent: usize,
        run: Option<usize>,
        tool: usize,
    },
    /// Time passes, in seconds, or the clock goes back.
    Wait(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let call = (0..3_usize, proptest::option::of(0..5_usize), 0..TOOLS.len());
    prop_oneof![
        8 => call.prop_map(|(agent, run, tool)| Step::Call { agent, run, tool }),
        2 => (1..4_200_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// Only the runs of the last agent are told apart.
const AGENTS: [&str; 3] = ["a", "b", "orchestrated"];

fn policy() -> Policy {
    let targets = TOOLS.map(|(name, tier, _)| TargetFacts { name, tier });
    let options = Options {
        upstreams: vec!["up".to_owned()],
        labels: TOOLS.iter().map(|(_, _, labels)| labels.to_vec()).collect(),
        brought: vec![Label::Private, Label::Untrusted, Label::Outward],
        ..Options::default()
    };
    Policy::parse(Path::new("policy.csv"), ROWS, &targets, &options).unwrap().0
}

/// When each label was met last, by agent and run; and of runs that were forgotten, for want of room, by agent alone.
#[derive(Default)]
struct Model {
    met: HashMap<(usize, Option<usize>, Label), i64>,
}

impl Model {
    /// When what counts for this call was met last.
    fn last(&self, agent: usize, run: Option<usize>, label: &Label) -> Option<i64> {
        let run = run.filter(|_| agent == 2);
        let counts = |(other, met_in, met): &(usize, Option<usize>, Label)| {
            *other == agent && met == label && (run.is_none() || met_in.is_none() || *met_in == run)
        };
        self.met.iter().filter(|(key, _)| counts(key)).map(|(_, at)| *at).max()
    }

    /// Whether the call must be stopped, or `None` where it may be, since labels count for up to an eighth more.
    fn stops(&self, agent: usize, run: Option<usize>, now: i64) -> Option<bool> {
        let ages = [Label::Private, Label::Untrusted].map(|label| self.last(agent, run, &label).map(|at| now - at));
        if ages.iter().all(|age| age.is_some_and(|age| age <= WINDOW.0)) {
            return Some(true);
        }
        // At the very end of its time a label may count or not.
        if ages.iter().any(|age| age.is_none_or(|age| age > WINDOW.0 + WINDOW.1)) { Some(false) } else { None }
    }
}

struct Under {
    home: tempfile::TempDir,
    clock: Clock,
    now: i64,
    runs: Runs,
    policy: Policy,
}

impl Under {
    fn open(home: &tempfile::TempDir, clock: &Clock) -> Runs {
        let config: Config =
            parse_yaml(Path::new("doorward.yaml"), "labels: { window_s: 3600, runs_of: [orchestrated], max_runs: 64 }").unwrap();
        Runs::open(&Arc::new(State::open(home.path()).unwrap()), clock.clone(), config.labels).unwrap()
    }

    fn new() -> Self {
        let (home, clock) = (tempfile::tempdir().unwrap(), Clock::fixed(0));
        let runs = Self::open(&home, &clock);
        Self { home, clock, now: 0, runs, policy: policy() }
    }

    /// Decides and, where the call goes on, lets it bring what it brings; whether it was stopped.
    fn call(&self, agent: usize, run: Option<usize>, tool: usize) -> bool {
        let principal = Principal::local(AGENTS[agent], "stdio");
        let run = run.map(|run| format!("run-{run}"));
        let before = self.runs.before(&principal, run.as_deref(), &|_| false);
        let (target, tier, labels) = TOOLS[tool];
        let call = Call { principal: &principal, target, tier, labels, before: &before, arguments: None, clock: &self.clock };
        let decision = self.policy.explain(&call).decision;
        if !decision.is_permit() {
            assert_eq!(decision.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>(), [TOXIC_FLOW]);
            return true;
        }
        if !labels.is_empty() {
            let leaves = self.runs.leaves((&principal, run.as_deref()), &|_| false, labels, (&[], &[]));
            let noted = self.runs.known(&leaves).unwrap_or_else(|| self.runs.note(&leaves).unwrap());
            assert!(matches!(noted, Noted::Labels(..)));
        }
        false
    }
}

fn run_steps(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut under, mut model) = (Under::new(), Model::default());
    for step in steps {
        match step {
            Step::Wait(seconds) => {
                under.now += seconds;
                under.clock.set(under.now * 1_000_000_000);
            }
            Step::Restart => under.runs = Under::open(&under.home, &under.clock),
            Step::Call { agent, run, tool } => {
                let (name, tier, labels) = TOOLS[*tool];
                let is_guarded = tier == Tier::Irreversible || labels.contains(&Label::Outward);
                let stopped = under.call(*agent, *run, *tool);
                match model.stops(*agent, *run, under.now) {
                    Some(stops) => prop_assert_eq!(stopped, stops && is_guarded, "{} at {}", name, under.now),
                    None => prop_assert!(!stopped || is_guarded),
                }
                if !stopped {
                    let run = run.filter(|_| *agent == 2);
                    model.met.extend(labels.iter().map(|label| ((*agent, run, label.clone()), under.now)));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_of_calls_what_must_stop_stops_and_nothing_else_does(steps in proptest::collection::vec(step(), 1..30)) {
        run_steps(&steps)?;
    }
}

#[test]
fn every_order_of_three_calls_of_one_agent_is_as_in_the_model() {
    // A fresh agent each would need a fresh folder each: time that passes is as good.
    let mut steps = Vec::new();
    for order in 0..TOOLS.len().pow(3) {
        let tools = (0..3).scan(order, |rest, _| Some(std::mem::replace(rest, *rest / TOOLS.len()) % TOOLS.len()));
        steps.extend(tools.map(|tool| Step::Call { agent: 0, run: None, tool }));
        steps.push(Step::Call { agent: 0, run: Some(order % 5), tool: 4 });
        steps.push(Step::Wait(WINDOW.0 + WINDOW.1 + 1));
    }
    run_steps(&steps).unwrap();
}

#[test]
fn what_one_run_has_met_is_met_by_the_agent_itself_only_once_it_calls_so() {
    // A call of no run knows of the first run's text already, and brings it to all runs nevertheless.
    let call = |run, tool| Step::Call { agent: 2, run, tool };
    run_steps(&[call(Some(0), 2), call(None, 1), call(None, 2), call(Some(1), 4)]).unwrap();
}

#[test]
fn a_clock_that_goes_forward_and_back_makes_nobody_forget() {
    for away in [WINDOW.0 * 2, 12 * WINDOW.0, 48 * WINDOW.0] {
        let call = |tool| Step::Call { agent: 0, run: None, tool };
        let other = Step::Call { agent: 1, run: None, tool: 1 };
        let met_again = [call(3), Step::Wait(away), other, Step::Wait(-away), call(3), call(4)];
        run_steps(&met_again).unwrap();
    }
    // For less than a day, even what is not met again is kept.
    let call = |tool| Step::Call { agent: 0, run: None, tool };
    run_steps(&[call(3), Step::Wait(36_000), Step::Call { agent: 1, run: None, tool: 1 }, Step::Wait(-36_000), call(4)]).unwrap();
}

#[test]
fn what_is_forgotten_for_want_of_room_counts_for_more_and_never_for_nobody() {
    let (home, clock) = (tempfile::tempdir().unwrap(), Clock::fixed(0));
    let config: Config =
        parse_yaml(Path::new("doorward.yaml"), "labels: { runs_of: [orchestrated], max_runs: 2, max_agents: 16 }").unwrap();
    let runs = Runs::open(&Arc::new(State::open(home.path()).unwrap()), clock.clone(), config.labels).unwrap();
    let meets = |agent: &str, run: Option<&str>, label: Label| {
        let principal = Principal::local(agent, "stdio");
        runs.note(&runs.leaves((&principal, run), &|_| false, &[label], (&[], &[]))).unwrap();
    };
    let has = |agent: &str, run: Option<&str>, label: Label| {
        let principal = Principal::local(agent, "stdio");
        runs.before(&principal, run, &|_| false).has(&label).unwrap()
    };
    meets("orchestrated", Some("1"), Label::Private);
    assert!(has("orchestrated", Some("1"), Label::Private) && !has("orchestrated", Some("2"), Label::Private));
    assert!(has("orchestrated", None, Label::Private), "a call of no run may know of all");
    for run in ["2", "3"] {
        meets("orchestrated", Some(run), Label::Untrusted);
    }
    for run in ["1", "2", "3", "4"] {
        assert!(has("orchestrated", Some(run), Label::Private), "{run}: the first run was forgotten, and counts for all");
    }
    assert!(!has("other", None, Label::Private));
    clock.set(1_000_000_000);
    for number in 0..16 {
        meets(&format!("a{number}"), None, Label::Untrusted);
    }
    assert!(
        has("other", None, Label::Private) && has("other", None, Label::Untrusted),
        "the first agent was forgotten, and counts for everybody"
    );
}
