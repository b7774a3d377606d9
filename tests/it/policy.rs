//! The policy: what loads, what is refused and where, what is decided and why, and that three evaluators agree.

use std::path::Path;
use std::time::Duration;

use doorward::catalog::tier::Tier;
use doorward::config::Fault;
use doorward::policy::{Decision, Equivalence, Lint, Options, Policy, TargetFacts, Unclear, Warning, naive};
use proptest::prelude::*;

const SHIPPED: &str = include_str!("../../policies/policy.csv");
const TARGETS: [TargetFacts<'static>; 10] = [
    fact("demo__list_notes", Tier::Read),
    fact("demo__read_note", Tier::Read),
    fact("demo__write_note", Tier::Reversible),
    fact("demo__delete_note", Tier::Irreversible),
    fact("demo__share_note", Tier::Irreversible),
    fact("github__get_issue", Tier::Read),
    fact("github__create_issue", Tier::Reversible),
    fact("github__merge", Tier::Irreversible),
    fact("prompt:demo__summarise", Tier::Read),
    fact("resource:demo:note://a", Tier::Read),
];

const fn fact(name: &'static str, tier: Tier) -> TargetFacts<'static> {
    TargetFacts { name, tier }
}

fn options() -> Options {
    Options {
        upstreams: vec!["demo".into(), "github".into()],
        agents: Some(vec!["demo".into(), "local".into(), "triage-bot".into()]),
        ..Options::default()
    }
}

fn parse(text: &str) -> Result<(Policy, Vec<Warning>), Vec<Fault>> {
    Policy::parse(Path::new("policy.csv"), text, &TARGETS, &options())
}

fn policy(text: &str) -> Policy {
    parse(text).unwrap_or_else(|faults| panic!("{faults:?}")).0
}

/// The one fault of a text, as the operator reads it.
fn fault(text: &str) -> String {
    let faults = parse(text).expect_err("the text is refused");
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].to_string()
}

fn lints(text: &str) -> Vec<Lint> {
    parse(text).unwrap().1.iter().map(|warning| warning.lint).collect()
}

/// The decision as `permit R1 R2` or `deny`.
fn decide(policy: &Policy, principal: &str, target: &str) -> String {
    let decision = policy.decide(policy.class(principal), policy.target(target).unwrap());
    let word = if decision.is_permit() { "permit" } else { "deny" };
    std::iter::once(word).chain(decision.rules().iter().map(|rule| rule.as_str())).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_shipped_policy_loads_without_a_warning() {
    let (policy, warnings) = Policy::load(Path::new("policies"), &TARGETS, &options()).unwrap();
    assert_eq!(warnings, []);
    assert!(policy.version().starts_with("sha256:"));
    assert!(Equivalence::check(&policy, Duration::from_secs(60), 1).unwrap().complete);
}

#[test]
fn the_shipped_policy_stops_at_what_cannot_be_undone() {
    let policy = policy(SHIPPED);
    for agent in ["agent:demo", "agent:local"] {
        assert_eq!(decide(&policy, agent, "demo__write_note"), "permit R1");
        assert_eq!(decide(&policy, agent, "prompt:demo__summarise"), "permit R2");
        assert_eq!(decide(&policy, agent, "demo__delete_note"), "deny");
        assert_eq!(decide(&policy, agent, "demo__share_note"), "deny");
    }
    let class = policy.class("agent:demo");
    let near = policy.nearest(class, policy.target("demo__delete_note").unwrap());
    assert_eq!(near[0].to_string(), "R1 allows `demo__*` up to `reversible`; this one is `irreversible`");
}

#[test]
fn nobody_is_allowed_anything_without_a_row() {
    let policy = policy("");
    assert_eq!(decide(&policy, "agent:demo", "demo__read_note"), "deny");
    assert!(!policy.sees(policy.class("agent:demo"), policy.target("demo__read_note").unwrap()));
    assert_eq!(Equivalence::exhaustive(&policy).map(|checked| checked.complete), Ok(true));
}

#[test]
fn a_deny_wins_and_all_deciding_rows_are_named_in_order() {
    let policy = policy(
        "p, R1, role:any, demo__*, read, -, allow\np, D1, role:any, *, irreversible, -, deny\n\
         p, R2, agent:demo, demo__read_note, read, -, allow\np, D2, agent:demo, demo__list_notes, any, -, deny\n\
         p, R3, agent:demo, demo__share_note, irreversible, -, allow\n",
    );
    assert_eq!(decide(&policy, "agent:demo", "demo__read_note"), "permit R1 R2");
    assert_eq!(decide(&policy, "agent:demo", "demo__list_notes"), "deny D2");
    assert_eq!(decide(&policy, "agent:demo", "demo__share_note"), "deny D1");
    assert_eq!(decide(&policy, "agent:stranger", "demo__list_notes"), "permit R1");
}

#[test]
fn a_target_is_seen_when_some_allow_names_it_whatever_the_tier() {
    let policy = policy("p, R1, agent:demo, demo__*, read, -, allow\np, D1, role:any, demo__read_note, any, -, deny\n");
    let class = policy.class("agent:demo");
    for (target, seen, listed) in [
        ("demo__share_note", true, false),
        ("demo__read_note", true, false),
        ("demo__list_notes", true, true),
        ("github__merge", false, false),
    ] {
        let index = policy.target(target).unwrap();
        assert_eq!((policy.sees(class, index), policy.lists(class, index)), (seen, listed), "{target}");
        assert_eq!(policy.sees_by_name(class, target), seen);
    }
}

#[test]
fn a_resource_outside_the_catalogue_is_decided_by_its_name() {
    let policy =
        policy("p, R1, agent:demo, resource:demo:note://*, read, -, allow\np, D1, role:any, resource:demo:note://secret*, any, -, deny\n");
    let class = policy.class("agent:demo");
    assert!(policy.decide_by_name(class, "resource:demo:note://x", Tier::Read).is_permit());
    assert_eq!(policy.decide_by_name(class, "resource:demo:note://secret/1", Tier::Read).rules()[0].as_str(), "D1");
    assert!(!policy.decide_by_name(class, "resource:demo:file:///etc", Tier::Read).is_permit());
    assert!(!policy.decide_by_name(class, "resource:demo:note:/é", Tier::Read).is_permit());
}

#[test]
fn a_template_is_shown_where_something_that_it_makes_could_be_allowed() {
    let shown = |rows: &str, stem: &str| {
        let policy = policy(rows);
        policy.lists_some(policy.class("agent:a"), stem, Tier::Read)
    };
    let allow = |pattern: &str| format!("p, R1, agent:a, {pattern}, read, -, allow\n");
    for pattern in ["*", "resource:demo:*", "resource:demo:file:///a/*", "resource:demo:file:///a/b/*", "resource:demo:file:///a/b"] {
        assert!(shown(&allow(pattern), "resource:demo:file:///a/"), "{pattern}");
    }
    for pattern in ["resource:demo:file:///b/*", "resource:demo:file:///a", "prompt:demo__*"] {
        assert!(!shown(&allow(pattern), "resource:demo:file:///a/"), "{pattern}");
    }
    let denied = |pattern: &str| format!("{}p, D1, role:any, {pattern}, any, -, deny\n", allow("resource:demo:*"));
    assert!(!shown(&denied("resource:demo:file:///*"), "resource:demo:file:///a/"));
    assert!(shown(&denied("resource:demo:file:///a/b/*"), "resource:demo:file:///a/"));
    assert!(!shown("p, R1, agent:b, resource:demo:*, read, -, allow\n", "resource:demo:file:///a/"));
}

#[test]
fn what_others_may_do_is_told_to_operators() {
    let policy = policy("p, R1, role:triager, github__*, reversible, -, allow\ng, agent:triage-bot, role:triager\n");
    let near = policy.allowed_to_others(policy.class("agent:demo"), policy.target("github__create_issue").unwrap(), 5);
    assert_eq!(near[0].to_string(), "R1 allows `github__*` to `role:triager`");
    assert_eq!(policy.nearest(policy.class("agent:demo"), policy.target("github__create_issue").unwrap()), []);
}

#[test]
fn an_index_of_another_policy_finds_the_default_deny() {
    let small = policy("p, R1, role:any, *, read, -, allow\n");
    let beyond = doorward::policy::TargetIndex(1_000_000);
    assert_eq!(small.decide(small.class("agent:demo"), beyond), Decision::Deny { rules: (&[]).into() });
}

#[test]
fn every_refusal_has_its_place_and_says_what_to_write() {
    let table = [
        ("x, R1, role:any, *, read, -, allow", "policy.csv:1:1: `x` is not a kind of row\n  help: did you mean `g`?"),
        ("P, R1, role:any, *, read, -, allow", "policy.csv:1:1: `P` is not a kind of row\n  help: did you mean `p`?"),
        (
            "p, R1, role:any, *, read, allow",
            "policy.csv:1:27: the row has 6 columns, and `p` takes 7\n  help: write `p, ID, SUBJECT, TARGET, TIER, CONDITION, EFFECT`",
        ),
        ("p, R1, role:any, *, read, -, Allow", "policy.csv:1:30: `Allow` is not an effect\n  help: did you mean `allow`?"),
        ("p, R1, role:any, *, any, -, dney", "policy.csv:1:29: `dney` is not an effect\n  help: did you mean `deny`?"),
        ("p, R1, role:any, *, reed, -, allow", "policy.csv:1:21: `reed` is not a tier\n  help: did you mean `read`?"),
        ("p, R1, roel:x, *, read, -, allow", "policy.csv:1:8: `roel:` cannot stand here\n  help: did you mean `role`?"),
        ("p, R1, Role:x, *, read, -, allow", "policy.csv:1:8: `Role:` cannot stand here\n  help: did you mean `role`?"),
        ("p, R1, x, *, read, -, allow", "policy.csv:1:8: `x` does not say what it is\n  help: write `agent:NAME` or `role:NAME`"),
        (
            "p, , role:x, *, read, -, allow",
            "policy.csv:1:4: the field is empty\n  help: write `p, ID, SUBJECT, TARGET, TIER, CONDITION, EFFECT`",
        ),
        ("p, R1, role:any, de*o__x, read, -, allow", "policy.csv:1:18: `de*o__x` has a `*` that is not at the end"),
        ("p, R1, role:any, dem*, read, -, allow", "policy.csv:1:18: `dem*` ends before its upstream's name does"),
        ("p, R1, role:any, \"demo__x\", read, -, allow", "policy.csv:1:18: `\"`: fields are not quoted\n  help: write the field bare"),
        (
            "p, R1, role:any,\t*, read, -, allow",
            "policy.csv:1:17: there is a control character (U+0009)\n  help: use spaces between fields",
        ),
        ("p, R1, role:аny, *, read, -, allow", "policy.csv:1:13: `а` (U+0430) is not ASCII"),
        ("# harmless \u{202e}wolla", "policy.csv:1:12: there is an invisible character (U+202E)"),
        ("\u{feff}# x", "policy.csv:1:1: the file begins with a byte order mark"),
        ("p, R1, role:any, demo__*, irreversible, -, allow", "policy.csv:1:18: `demo__*` allows every irreversible tool"),
        ("p, R1, role:any, demo__*, any, -, allow", "policy.csv:1:27: `any` is for denies"),
        ("p, R1, role:any, demi__x, any, -, deny", "policy.csv:1:18: there is no upstream `demi`\n  help: did you mean `demo`?"),
        (
            "p, R1, role:any, *, read, office_hours, allow",
            "policy.csv:1:27: there is no condition `office_hours`\n  help: write `-` for always",
        ),
        (
            "o, O1, role:any, *, read, approve:oncall",
            "policy.csv:1:27: the row has 6 columns, and `o` takes 7\n  help: write `o, ID, SUBJECT, TARGET, TIER, CONDITION, OBLIGATION`",
        ),
        ("o, O1, role:any, *, any, -, aprove:oncall", "policy.csv:1:29: `aprove` is not an obligation\n  help: did you mean `approve`?"),
        ("o, O1, role:any, *, any, -, approve:On-Call", "policy.csv:1:29: `On-Call` is not a name"),
        ("o, O1, role:any, *, any, -, limit:5/day", "policy.csv:1:29: `5/day` is not a rate\n  help: write `limit:N/s`"),
        ("o, O1, role:any, *, any, -, deny", "policy.csv:1:29: `deny` is not an obligation\n  help: begin the row with `p`"),
        ("p, R1, role:any, *, read, -, redact", "policy.csv:1:30: `redact` is not an effect\n  help: obligations stand in `o` rows"),
        ("o, O1, role:any, demi__x, any, -, redact", "policy.csv:1:18: there is no upstream `demi`\n  help: did you mean `demo`?"),
        ("o, O1, role:any, *, reed, -, redact", "policy.csv:1:21: `reed` is not a tier\n  help: did you mean `read`?"),
        ("o, O1, roel:x, *, any, -, redact", "policy.csv:1:8: `roel:` cannot stand here\n  help: did you mean `role`?"),
        (
            "o, O1, role:any, up__x, any, -, waive:toxic-flow",
            "policy.csv:1:25: `any` is for denies and obligations: an allow, or a row that lifts",
        ),
        ("o, O1, role:any, *, irreversible, -, waive:toxic-flow", "policy.csv:1:18: `*` lifts the rule for every irreversible tool"),
        ("o, O1, role:any, *, read, -, waive:all", "policy.csv:1:30: `all` is no rule that a row can lift"),
        ("O, O1, role:any, *, any, -, redact", "policy.csv:1:1: `O` is not a kind of row\n  help: did you mean `o`?"),
        ("o, O1, role:any, *, any, office_hours, redact", "policy.csv:1:26: there is no condition `office_hours`"),
        ("g, agent:a, role:b, extra", "policy.csv:1:21: the row has 4 columns, and `g` takes 3"),
        ("g, agent:a, agent:b", "policy.csv:1:13: `agent:` cannot stand here\n  help: write `role:NAME`"),
        ("g, role:any, role:b", "policy.csv:1:4: `role:any` is everyone and cannot be given a role"),
    ];
    for (text, expected) in table {
        let found = fault(text);
        assert!(found.starts_with(expected), "{text}\nfound    {found}\nexpected {expected}");
    }
}

#[test]
fn what_stands_twice_or_looks_alike_is_refused() {
    let row = |id: &str, subject: &str| format!("p, {id}, {subject}, *, read, -, allow\n");
    assert!(
        fault(&[row("R1", "role:a"), row("R1", "role:b")].concat()).starts_with("policy.csv:2:4: the id `R1` is taken (`R1` in line 1)")
    );
    assert!(
        fault(&[row("R1", "role:a"), row("Rl", "role:b")].concat())
            .starts_with("policy.csv:2:4: the id `Rl` looks like another id (`R1` in line 1)")
    );
    assert!(
        fault(&[row("R1", "role:a"), row("R2", "role:a")].concat()).starts_with("policy.csv:2:1: the row says the same as `R1` in line 1")
    );
    assert!(
        fault(&[row("R1", "role:team-1"), row("R2", "role:team-l")].concat())
            .starts_with("policy.csv:2:8: `role:team-l` looks like `role:team-1`")
    );
    assert!(fault("g, agent:a, role:b\ng, agent:a, role:b\n").starts_with("policy.csv:2:1: the row says the same as line 1"));
}

/// The obligations of a decision as `O1 redact, O2 dry_run`.
fn obligations(policy: &Policy, principal: &str, target: &str) -> String {
    let decision = policy.decide(policy.class(principal), policy.target(target).unwrap());
    decision.obligations().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn obligations_add_up_beside_a_permit_and_never_make_one() {
    let policy = policy(
        "o, O1, role:any, *, irreversible, -, approve:oncall*2\no, O2, agent:demo, demo__*, any, -, record_payload\n\
         o, O3, role:writer, demo__write_note, reversible, -, limit:5/min\no, O4, role:any, github__*, any, -, redact\n\
         p, R1, role:writer, demo__*, reversible, -, allow\np, R2, agent:demo, demo__share_note, irreversible, -, allow\n\
         p, D1, role:any, demo__list_notes, any, -, deny\ng, agent:demo, role:writer\n",
    );
    for (principal, target, decided, expected) in [
        ("agent:demo", "demo__read_note", "permit R1", "O2 record_payload"),
        ("agent:demo", "demo__write_note", "permit R1", "O2 record_payload, O3 limit:5/min"),
        ("agent:demo", "demo__share_note", "permit R2", "O1 approve:oncall*2, O2 record_payload"),
        ("agent:demo", "demo__list_notes", "deny D1", ""),
        ("agent:demo", "github__merge", "deny", ""),
        ("agent:other", "demo__read_note", "deny", ""),
    ] {
        assert_eq!((decide(&policy, principal, target).as_str(), obligations(&policy, principal, target).as_str()), (decided, expected));
    }
    assert!(!policy.sees(policy.class("agent:demo"), policy.target("github__merge").unwrap()), "an `o` row shows nothing");
    assert!(Equivalence::check(&policy, Duration::from_secs(60), 1).unwrap().complete);
    assert!(Equivalence::exhaustive(&policy).is_ok());
}

/// With the conditions a, b and c.
fn with_conditions(text: &str) -> Policy {
    let options = Options { conditions: CONDITIONS.into(), ..options() };
    Policy::parse(Path::new("policy.csv"), text, &TARGETS, &options).unwrap_or_else(|faults| panic!("{faults:?}")).0
}

#[test]
fn an_unclear_condition_does_not_allow_does_deny_and_does_oblige() {
    let policy = with_conditions(
        "p, R1, agent:demo, demo__read_note, read, a, allow\np, R2, agent:demo, demo__list_notes, read, -, allow\n\
         p, D1, role:any, demo__list_notes, any, b, deny\no, O1, role:any, *, any, c, redact\n\
         p, R3, role:any, demo__write_note, reversible, -, allow\np, D2, agent:demo, demo__write_note, any, -, deny\n\
         p, D3, role:any, demo__write_note, any, b, deny\n",
    );
    let unclear = Err(Unclear("the argument is missing"));
    let (read, list, write) = ("demo__read_note", "demo__list_notes", "demo__write_note");
    for (target, truths, expected) in [
        (read, [Ok(true), Ok(false), Ok(false)], "permit R1"),
        (read, [Ok(false), Ok(false), Ok(false)], "deny"),
        (read, [unclear, Ok(false), Ok(false)], "deny"),
        (read, [Ok(true), Ok(false), unclear], "permit R1 with O1"),
        (read, [Ok(true), Ok(false), Ok(true)], "permit R1 with O1"),
        (list, [Ok(false), Ok(false), Ok(false)], "permit R2"),
        (list, [Ok(false), Ok(true), Ok(false)], "deny D1"),
        (list, [Ok(false), unclear, Ok(true)], "deny D1"),
        (write, [Ok(false), Ok(false), Ok(true)], "deny D2"),
        (write, [Ok(false), Ok(true), Ok(true)], "deny D2 D3"),
    ] {
        let mut truth = |id| truths[policy.conditions().name(id).as_bytes()[0] as usize - usize::from(b'a')];
        let decision = policy.decide_when(policy.class("agent:demo"), policy.target(target).unwrap(), &mut truth);
        let mut told = vec![if decision.is_permit() { "permit" } else { "deny" }];
        told.extend(decision.rules().iter().map(|rule| rule.as_str()));
        let obliged: Vec<_> = decision.obligations().iter().flat_map(|obliged| ["with", obliged.rule.as_str()]).collect();
        told.extend(obliged);
        assert_eq!(told.join(" "), expected, "{target} {truths:?}");
    }
    let class = policy.class("agent:demo");
    let shown = |target: &str| policy.lists(class, policy.target(target).unwrap());
    assert_eq!([shown(read), shown(list), shown(write)], [true, true, false], "what some arguments could be allowed");
    assert_eq!(policy.nearest(class, policy.target(read).unwrap())[0].to_string(), "R1 allows `demo__read_note` when `a`");
    assert!(Equivalence::check(&policy, Duration::from_secs(60), 1).unwrap().complete);
    assert!(Equivalence::exhaustive(&policy).is_ok());
}

#[test]
fn conditions_are_asked_only_where_they_can_matter() {
    let policy = with_conditions(
        "p, D1, role:any, demo__read_note, any, a, deny\np, R1, role:any, demo__read_note, read, b, allow\n\
         o, O1, role:any, demo__read_note, any, c, redact\np, R2, role:any, demo__list_notes, read, -, allow\n",
    );
    let asked = |target: &str, truths: [bool; 3]| {
        let mut names = String::new();
        let mut truth = |id| {
            let name = policy.conditions().name(id).to_owned();
            names += &name;
            Ok(truths[name.as_bytes()[0] as usize - usize::from(b'a')])
        };
        policy.decide_when(policy.class("agent:demo"), policy.target(target).unwrap(), &mut truth);
        names
    };
    assert_eq!(asked("demo__read_note", [true, true, true]), "a");
    assert_eq!(asked("demo__read_note", [false, false, true]), "ab");
    assert_eq!(asked("demo__read_note", [false, true, true]), "abc");
    assert_eq!(asked("demo__list_notes", [true, true, true]), "");
}

#[test]
fn conditions_are_part_of_the_version_where_a_row_names_them() {
    let version = |row: &str, conditions: &str| {
        let options = Options { conditions: conditions.into(), ..options() };
        Policy::parse(Path::new("p"), row, &TARGETS, &options).unwrap().0.version().to_owned()
    };
    let row = "p, R1, agent:demo, demo__*, read, a, allow\n";
    let base = version(row, CONDITIONS);
    assert_eq!(version(row, &format!("# why\n{CONDITIONS}\n# more\n")), base);
    assert_eq!(version(row, &CONDITIONS.replace("b: { argument: /y, eq: 1 }", "b: { argument: /q, eq: 7 }")), base);
    assert_eq!(version(row, &CONDITIONS.replace("a: { argument: /x, eq: 1 }", "a:\n    argument: /x\n    eq: 1")), base);
    for change in [
        "a: { argument: /x, eq: 2 }",
        "a: { argument: /x, eq: \"1\" }",
        "a: { argument: /w, eq: 1 }",
        "a: { not: { argument: /x, eq: 1 } }",
    ] {
        assert_ne!(version(row, &CONDITIONS.replace("a: { argument: /x, eq: 1 }", change)), base, "{change}");
    }
    assert_ne!(version(&row.replace(", a,", ", b,"), CONDITIONS), base);
}

#[test]
fn odd_and_wrong_conditions_are_told() {
    let told = |rows: &str, conditions: &str| {
        let options = Options { conditions: format!("conditions:\n{conditions}"), ..options() };
        match Policy::parse(Path::new("dir/policy.csv"), rows, &TARGETS, &options) {
            Ok((_, warnings)) => warnings.iter().map(|warning| warning.lint.as_str()).collect::<Vec<_>>().join(" "),
            Err(faults) => faults[0].to_string(),
        }
    };
    let row = |effect: &str, tier: &str| {
        format!("p, R0, agent:demo, demo__list_notes, read, -, allow\np, R1, agent:demo, demo__read_note, {tier}, c, {effect}\n")
    };
    let (allow, deny) = (row("allow", "read"), row("deny", "any"));
    assert_eq!(told(&allow, "  c: { argument: /x, eq: 1 }\n"), "");
    assert!(told(&allow, "  - c\n").contains("expected conditions by name"), "{}", told(&allow, "  - c\n"));
    assert_eq!(told(&allow, "  c: { argument: /x, eq: 1 }\n  d: { argument: /x, eq: 1 }\n"), "unused-condition");
    assert_eq!(told(&allow, "  c: { argument: /x/*, eq: 1 }\n"), "");
    for test in ["glob: /srv/ws/**", "prefix: [a, /srv/ws/]", "regex: /srv/ws/.*", "regex: \"(?:/srv|/tmp)/.*\"", "regex: '^\\/srv'"] {
        assert_eq!(told(&allow, &format!("  c: {{ not: {{ argument: /x, {test} }} }}\n")), "path-as-text", "{test}");
    }
    for test in ["glob: acme/**", "prefix: srv/", "regex: \"[a-z/]*\"", "eq: /srv/ws", "path_within: /srv/ws"] {
        assert_eq!(told(&allow, &format!("  c: {{ argument: /x, {test} }}\n")), "", "{test}");
    }
    assert_eq!(told(&allow, "  c: { argument: /x/*, eq: 1, elements: any }\n"), "turned-by-one-element");
    assert_eq!(told(&deny, "  c: { argument: /x/*, eq: 1 }\n"), "turned-by-one-element");
    assert_eq!(told(&deny, "  c: { argument: /x/*, eq: 1, elements: any }\n"), "");
    assert_eq!(told(&deny, "  c: { not: { argument: /x/*, eq: 1 } }\n"), "");
    assert_eq!(told(&allow, "  c: { not: { argument: /x/*, eq: 1 } }\n"), "turned-by-one-element");
    assert!(
        told(&allow, "  c: { role: role:oncall }\n").starts_with("dir/conditions.yaml:2:6: `c` asks for `role:oncall`, which no row names")
    );
    assert_eq!(told(&format!("{allow}g, agent:demo, role:oncall\n"), "  c: { role: role:oncall }\n"), "");
    assert!(
        told(&allow.replace(", c,", ", cc,"), "  c: { argument: /x, eq: 1 }\n")
            .contains("there is no condition `cc`\n  help: did you mean `c`?")
    );
    let twice = format!("{allow}p, R2, agent:demo, demo__read_note, read, d, allow\n");
    let two = "  c: { argument: /x, eq: 1 }\n  d: { argument: /x, eq: 2 }\n";
    assert_eq!(told(&twice, two), "", "two conditions are two rules");
    assert_eq!(
        told(&format!("{allow}p, R2, agent:demo, demo__read_note, read, -, allow\n"), "  c: { argument: /x, eq: 1 }\n"),
        "redundant"
    );
    assert!(told(&format!("{allow}p, R2, agent:demo, demo__read_note, read, c, allow\n"), two).contains("says the same as `R1`"));
}

#[test]
fn a_condition_on_an_argument_that_no_tool_has_is_told() {
    let told = |row: &str, condition: &str| {
        let mut arguments = vec![vec!["name".into()]; TARGETS.len()];
        arguments[0].clear();
        let options = Options { conditions: format!("conditions:\n  c: {condition}\n"), arguments, ..options() };
        let (_, warnings) = Policy::parse(Path::new("policy.csv"), row, &TARGETS, &options).unwrap();
        warnings.iter().filter(|warning| warning.lint == Lint::UnknownArgument).map(ToString::to_string).collect::<Vec<_>>()
    };
    let allow = "p, R1, agent:demo, demo__read_note, read, c, allow\n";
    assert_eq!(told(allow, "{ argument: /name, eq: a }"), Vec::<String>::new());
    assert_eq!(
        told(allow, "{ argument: /nmae, eq: a }"),
        [
            "policy.csv:1:43: `demo__read_note` has no argument `/nmae`: the row never allows it\n  help: did you mean `name`? [unknown-argument]"
        ]
    );
    assert_eq!(
        told(allow, "{ argument: /other, eq: a, missing: false }"),
        Vec::<String>::new(),
        "it is said what a missing one stands for"
    );
    let wide = told("p, D1, role:any, demo__*, any, c, deny\np, R1, agent:demo, demo__*, read, -, allow\n", "{ argument: /name, eq: a }");
    assert!(wide[0].contains("`demo__list_notes` has no argument `/name`: the row stops every call of it"), "{wide:?}");
}

#[test]
fn an_obligation_on_either_spelling_of_a_resource_holds() {
    let policy = policy(
        "p, R1, role:any, resource:demo:*, read, -, allow\no, O1, role:any, resource:demo:note://a, any, -, record_payload\n\
         o, O2, role:any, resource:demo:*, any, -, redact\n",
    );
    let told = |names: [&str; 2]| {
        let decision = policy.decide_names_when(policy.class("agent:demo"), names, Tier::Read, &mut |_| Ok(false));
        decision.obligations().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(["resource:demo:note://%61", "resource:demo:note://a"]), ["O1 record_payload", "O2 redact"]);
    assert_eq!(told(["resource:demo:note://a", "resource:demo:note://%61"]), ["O1 record_payload", "O2 redact"]);
    assert_eq!(told(["resource:demo:note://b", "resource:demo:note://b"]), ["O2 redact"]);
}

#[test]
fn an_obligation_is_part_of_the_version_and_odd_ones_are_told() {
    let allow = "p, R1, agent:demo, demo__*, read, -, allow\n";
    let with = |row: &str| policy(&format!("{allow}{row}\n")).version().to_owned();
    let versions = ["", "o, O1, agent:demo, demo__*, any, -, redact", "o, O1, agent:demo, demo__*, any, -, dry_run"].map(with);
    assert!(versions[0] != versions[1] && versions[1] != versions[2], "{versions:?}");
    let lints = |row: &str| lints(&format!("{allow}{row}\n"));
    assert_eq!(lints("o, O1, agent:demo, demo__nope, any, -, redact"), [Lint::UnknownTarget]);
    assert_eq!(lints("o, O1, role:any, *, any, -, redact\no, O2, role:any, demo__read_note, any, -, redact"), [Lint::Redundant]);
    assert_eq!(lints("o, O1, role:any, *, any, -, redact\no, O2, role:any, demo__read_note, any, -, dry_run"), []);
    assert_eq!(lints("# o, O1, role:any, *, any, -, redact"), [Lint::CommentedRow]);
    assert_eq!(lints("p, D1, role:any, github__*, any, -, deny\no, O1, role:any, github__merge, any, -, redact"), [Lint::Shadowed]);
    assert!(fault(&format!("{allow}o, R1, role:any, *, any, -, redact")).contains("the id `R1` is taken (`R1` in line 1)"));
    let twice = "o, O1, role:any, *, any, -, redact\no, O2, role:any, *, any, -, redact";
    assert!(fault(twice).starts_with("policy.csv:2:1: the row says the same as `O1` in line 1"));
}

#[test]
fn a_circle_of_roles_is_refused_with_its_way() {
    let found = fault("g, agent:x, role:a\ng, role:a, role:b\ng, role:b, role:c\ng, role:c, role:a\n");
    assert_eq!(
        found,
        "policy.csv:4:4: the roles go round in a circle: role:a -> role:b -> role:c -> role:a\n  help: remove one of these `g` rows"
    );
    assert!(fault("g, role:a, role:a\n").contains("role:a -> role:a"));
}

#[test]
fn roles_nine_steps_away_are_refused_and_eight_are_not() {
    let chain = |steps: usize| {
        let links = (1..steps).map(|step| format!("g, role:s{step}, role:s{}\n", step + 1));
        std::iter::once("g, agent:x, role:s1\n".to_owned()).chain(links).collect::<String>()
    };
    let last = policy(&[chain(8).as_str(), "p, R1, role:s8, demo__*, read, -, allow\n"].concat());
    assert_eq!(decide(&last, "agent:x", "demo__read_note"), "permit R1");
    assert!(Equivalence::check(&last, Duration::from_secs(60), 1).unwrap().complete);
    assert!(fault(&chain(9)).starts_with("policy.csv:1:4: roles are inherited over more than 8 steps"));
}

#[test]
fn odd_rows_load_with_a_warning() {
    let table = [
        ("p, D1, role:any, *, any, -, deny\n", vec![Lint::AllowsNothing]),
        ("p, D1, role:any, *, any, -, deny\np, R1, agent:demo, demo__*, read, -, allow\n", vec![Lint::Shadowed]),
        ("p, R1, agent:demo, demo__*, read, -, allow\np, R2, agent:demo, demo__read_note, read, -, allow\n", vec![Lint::Redundant]),
        ("p, R1, agent:demo, demo__raed_note, read, -, allow\n", vec![Lint::UnknownTarget]),
        ("p, R1, agent:demo, demo__nope_*, read, -, allow\n", vec![Lint::CoversNothing]),
        ("p, R1, agent:demo, demo__merge*, read, -, allow\n", vec![Lint::CoversNothing]),
        ("p, R1, agent:demo, github__merge, read, -, allow\n", vec![Lint::NoSuchTier]),
        // Which addresses there are is the server's to say.
        ("p, R1, agent:demo, resource:demo:note://later, read, -, allow\n", vec![]),
        ("p, R1, agent:demo, resource:demo:later://*, read, -, allow\n", vec![]),
        ("p, R1, role:nobody, demo__*, read, -, allow\n", vec![Lint::UnusedRole]),
        ("p, R1, agent:ghost, demo__*, read, -, allow\n", vec![Lint::UnknownAgent]),
        ("p, R1, agent:demo, *, read, -, allow\n", vec![Lint::OverBroad]),
        ("p, R1, role:any, demo__*, reversible, -, allow\n", vec![Lint::OverBroad]),
        ("p, R1, agent:demo, demo__*, read, -, allow\ng, agent:demo, role:any\n", vec![Lint::GrantsAny]),
        ("p, R1, agent:demo, demo__*, read, -, allow\n#p, R2, agent:demo, demo__merge, any, -, deny\n", vec![Lint::CommentedRow]),
    ];
    for (text, expected) in table {
        assert_eq!(lints(text), expected, "{text}");
    }
}

#[test]
fn another_model_and_half_written_conditions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || Policy::load(folder.path(), &TARGETS, &options()).map(|_| ());
    assert!(load().unwrap_err()[0].message.starts_with("cannot be read"));
    write("policy.csv", SHIPPED);
    assert_eq!(load(), Ok(()));
    write("model.conf", doorward::policy::MODEL);
    assert_eq!(load(), Ok(()));
    write("model.conf", &doorward::policy::MODEL.replace("&& !some", "|| !some"));
    assert_eq!(load().unwrap_err()[0].line, 18);
    write("model.conf", doorward::policy::MODEL);
    write("conditions.yaml", "");
    assert_eq!(load(), Ok(()));
    write("conditions.yaml", "conditions:\n  c: { argument: /x, eq: 1 }\n");
    assert_eq!(load(), Ok(()), "a condition that no row names is odd, and loads");
    write("conditions.yaml", "conditions:\n  c: { argument: /x, equals: 1 }\n");
    assert!(load().unwrap_err()[0].to_string().contains("conditions.yaml:2:"));
}

#[test]
fn the_version_names_all_that_decides_and_nothing_else() {
    let version = |text: &str, options: &Options, targets: &[TargetFacts<'_>]| {
        Policy::parse(Path::new("p"), text, targets, options).unwrap().0.version().to_owned()
    };
    let row = "p, R1, agent:demo, demo__*, read, -, allow\n";
    let base = version(row, &options(), &TARGETS);
    assert_eq!(version(&format!("# why\n\n  {row}"), &options(), &TARGETS), base);
    let mut shuffled = TARGETS;
    shuffled.reverse();
    assert_eq!(version(row, &options(), &shuffled), base);
    assert_ne!(version(&row.replace("R1", "R2"), &options(), &TARGETS), base);
    assert_ne!(version(row, &options(), &TARGETS[1..]), base);
    assert_ne!(version(row, &Options { limits: "limits: []".into(), ..options() }, &TARGETS), base);
    shuffled[0].tier = Tier::Irreversible;
    assert_ne!(version(row, &options(), &shuffled), base);
}

#[test]
fn a_thousand_one_character_edits_never_lose_a_row_in_silence() {
    let shipped = policy(SHIPPED);
    let canonical = |policy: &Policy| {
        format!(
            "{:?}",
            (
                policy.rows().rules.iter().map(|rule| rule.fields()).collect::<Vec<_>>(),
                policy.rows().grants.iter().map(|grant| (grant.member.clone(), grant.role.clone())).collect::<Vec<_>>()
            )
        )
    };
    let edits = (0..SHIPPED.len()).flat_map(|at| ["", "x", ",", "#", "*", "\n"].map(|with| (at, with)));
    let step = SHIPPED.len() * 6 / 1000;
    let (mut refused, mut changed, mut same) = (0, 0, 0);
    for (at, with) in edits.step_by(step.max(1)) {
        let text = format!("{}{with}{}", &SHIPPED[..at], &SHIPPED[at + 1..]);
        match parse(&text) {
            Err(_) => refused += 1,
            Ok((policy, warnings)) if policy.version() != shipped.version() => {
                changed += 1;
                let rows = policy.rows().rules.len() + policy.rows().grants.len();
                let told = warnings.iter().any(|warning| warning.lint == Lint::CommentedRow);
                assert!(rows >= 5 || told, "a row was lost in silence: byte {at} became {with:?}");
            }
            Ok((policy, _)) => {
                same += 1;
                assert_eq!(canonical(&policy), canonical(&shipped), "byte {at} became {with:?}");
            }
        }
    }
    assert!(refused + changed + same >= 1000 && refused > 100 && changed > 10, "{refused} {changed} {same}");
}

const CONDITIONS: &str = "conditions:\n  a: { argument: /x, eq: 1 }\n  b: { argument: /y, eq: 1 }\n  c: { argument: /z, eq: 1 }\n";

/// A policy of a few words, so that rows meet: rules, and grants without a circle.
fn texts() -> impl Strategy<Value = String> {
    let subject = prop::sample::select(vec!["agent:a", "agent:b", "agent:c", "role:r", "role:s", "role:t", "role:any"]);
    let stems =
        ["", "demo__", "demo__re", "demo__read_note", "demo__write_note", "github__", "github__merge", "prompt:", "resource:demo:note://"];
    let target = (prop::sample::select(stems.to_vec()), any::<bool>());
    let tier = prop::sample::select(vec!["read", "reversible", "irreversible", "any"]);
    let effect = prop::sample::select(vec![
        "allow",
        "allow",
        "deny",
        "redact",
        "record_payload",
        "approve:oncall",
        "limit:3/min",
        "waive:toxic-flow",
    ]);
    let when = prop::sample::select(vec!["-", "-", "a", "b", "c"]);
    let rule = (subject, target, tier, when, effect);
    let grant = prop::sample::select(vec![
        ("agent:a", "role:r"),
        ("agent:a", "role:s"),
        ("agent:b", "role:s"),
        ("role:r", "role:s"),
        ("role:s", "role:t"),
        ("role:r", "role:t"),
        ("agent:c", "role:any"),
    ]);
    (prop::collection::vec(rule, 0..9), prop::collection::btree_set(grant, 0..5)).prop_map(|(rules, grants)| {
        let mut bodies = std::collections::BTreeSet::new();
        for (subject, (stem, wildcard), tier, when, effect) in rules {
            let (kind, gives) =
                (if matches!(effect, "allow" | "deny") { "p" } else { "o" }, matches!(effect, "allow" | "waive:toxic-flow"));
            let whole = ["demo__read_note", "demo__write_note", "github__merge"].contains(&stem);
            let star = if wildcard || !whole { "*" } else { "" };
            let tier = match (gives, tier, star) {
                (true, "any", _) | (true, "irreversible", "*") => "reversible",
                (_, tier, _) => tier,
            };
            bodies.insert((kind, format!("{subject}, {stem}{star}, {tier}, {when}, {effect}")));
        }
        let rules = bodies.iter().enumerate().map(|(number, (kind, body))| format!("{kind}, R{}, {body}\n", number + 2));
        rules.chain(grants.iter().map(|(member, role)| format!("g, {member}, {role}\n"))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_index_casbin_and_the_definition_agree(text in texts(), truths in 0..64_u8) {
        let options = Options { conditions: CONDITIONS.into(), ..options() };
        let policy = Policy::parse(Path::new("policy.csv"), &text, &TARGETS, &options).unwrap_or_else(|faults| panic!("{faults:?}")).0;
        let truth = |name: &str| match (truths >> (2 * (name.as_bytes()[0] - b'a'))) & 3 {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Unclear("so it was asked")),
        };
        for principal in ["agent:a", "agent:b", "agent:c", "agent:z"] {
            let class = policy.class(principal);
            for fact in TARGETS {
                let index = policy.target(fact.name).unwrap();
                let expected = naive::decide(policy.rows(), principal, fact.name, fact.tier, &truth);
                let mut asked = |id| truth(policy.conditions().name(id));
                prop_assert_eq!(policy.decide_when(class, index, &mut asked), expected.clone(), "{} at {}", principal, fact.name);
                prop_assert_eq!(policy.decide_names_when(class, [fact.name], fact.tier, &mut asked), expected);
                let unasked = naive::decide(policy.rows(), principal, fact.name, fact.tier, &|_| Err(Unclear("nobody asked")));
                prop_assert_eq!(policy.decide(class, index), unasked);
                // A list shows what some answers permit, where a deny and an allow hang on different conditions.
                let some = (0..8).any(|all: u8| {
                    let truth = |name: &str| Ok(all >> (name.as_bytes()[0] - b'a') & 1 == 1);
                    naive::decide(policy.rows(), principal, fact.name, fact.tier, &truth).is_permit()
                });
                prop_assert!(policy.lists(class, index) || !some, "{} is not shown {}", principal, fact.name);
                prop_assert_eq!(policy.sees(class, index), naive::sees(policy.rows(), principal, fact.name));
            }
        }
        prop_assert!(Equivalence::check(&policy, Duration::from_secs(600), 7).map(|checked| checked.complete).unwrap_or(false));
        prop_assert!(Equivalence::exhaustive(&policy).is_ok());
    }
}

/// 400 policies where `CI` is set, 40 at a desk: each is asked about in some seventeen states of its conditions.
fn cases() -> u32 {
    if std::env::var_os("CI").is_some() { 400 } else { 40 }
}
