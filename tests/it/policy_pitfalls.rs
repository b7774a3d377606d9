//! What Casbin does, and what Doorward does in its place. One test for each pitfall of `casbin` 2.20 that is known to us; where
//! it is cheap, the test shows the pitfall in Casbin itself first, so that we learn when an upgrade closes it.

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use casbin::function_map::key_match;
use casbin::{CoreApi, DefaultModel, Enforcer, MemoryAdapter, NullAdapter, StringAdapter};
use doorward::catalog::tier::Tier;
use doorward::config::Fault;
use doorward::policy::{Equivalence, MODEL, Options, Policy, TargetFacts};

const TARGETS: [TargetFacts<'static>; 3] = [
    TargetFacts { name: "demo__read_note", tier: Tier::Read },
    TargetFacts { name: "demo__write_note", tier: Tier::Reversible },
    TargetFacts { name: "demo__delete_note", tier: Tier::Irreversible },
];

/// A plain model of the kind in Casbin's own examples.
const PLAIN: &str = "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act, eft\n[role_definition]\ng = _, _\n\
    [policy_effect]\ne = some(where (p.eft == allow)) && !some(where (p.eft == deny))\n[matchers]\nm = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && r.act == p.act\n";

fn parse(text: &str) -> Result<Policy, Vec<Fault>> {
    let options = Options { upstreams: vec!["demo".into()], ..Options::default() };
    Policy::parse(Path::new("policy.csv"), text, &TARGETS, &options).map(|(policy, _)| policy)
}

fn permits(policy: &Policy, principal: &str, target: &str) -> bool {
    policy.decide(policy.class(principal), policy.target(target).unwrap()).is_permit()
}

fn refused(text: &str) -> bool {
    parse(text).is_err()
}

async fn casbin(model: &str, rows: &'static str) -> Enforcer {
    Enforcer::new(DefaultModel::from_str(model).await.unwrap(), StringAdapter::new(rows)).await.unwrap()
}

/// Runs what is expected to panic, without its message on the terminal.
fn panics(run: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    // The hook is the whole process's: one at a time.
    static HOOK: Mutex<()> = Mutex::new(());
    let _alone = HOOK.lock().unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(run);
    std::panic::set_hook(hook);
    result.is_err()
}

// The fourteen of the policy reference.

#[test]
fn pitfall_01_cost_does_not_grow_with_the_rows() {
    // Not timed: what grows with the rows would have to look at them. One outcome a cell, whatever the number of rows.
    let rows =
        |count: usize| (0..count).map(|row| format!("p, R{row}, agent:a{row}, demo__read_note, read, -, allow\n")).collect::<String>();
    let (few, many) = (parse(&rows(10)).unwrap(), parse(&rows(2_000)).unwrap());
    assert_eq!(few.decide(few.class("agent:a9"), few.target("demo__read_note").unwrap()).rules().len(), 1);
    assert_eq!(many.decide(many.class("agent:a1999"), many.target("demo__read_note").unwrap()).rules().len(), 1);
    // Each class holds one chunk number; the chunks differ by the id of the row that allows.
    assert!(many.size().0 <= 2_010 * (4 + 256));
}

#[test]
fn pitfall_02_a_name_with_long_characters_is_no_panic() {
    assert!(panics(|| assert!(!key_match("aé-tool", "ab*"))), "casbin's keyMatch no longer panics");
    let policy = parse("p, R1, role:any, demo__*, read, -, allow\np, D1, role:any, resource:demo:ab*, any, -, deny\n").unwrap();
    let class = policy.class("agent:é");
    for name in ["resource:demo:aé-tool", "é", "demo_é", "demo__é", ""] {
        assert_eq!(policy.decide_by_name(class, name, Tier::Read).is_permit(), name.starts_with("demo__"), "{name}");
    }
    assert!(Equivalence::exhaustive(&policy).is_ok(), "the oracle asks such names too");
}

#[tokio::test]
async fn pitfall_03_a_misspelt_deny_is_refused() {
    let lost = casbin(PLAIN, "p, a, x, read, allow\np, a, x, read, Deny").await;
    assert!(lost.enforce(("a", "x", "read")).unwrap(), "casbin no longer ignores `Deny`");
    for effect in ["Deny", "dney", "DENY", "deny.", "denied"] {
        assert!(refused(&format!("p, R1, role:any, demo__*, read, -, allow\np, D1, role:any, *, any, -, {effect}\n")));
    }
}

#[tokio::test]
async fn pitfall_04_bad_rows_do_not_vanish() {
    let lost = casbin(PLAIN, "p, a, x, read, allow\nq, a, x, read, deny\nP, a, x, read, deny\njunk").await;
    assert!(lost.enforce(("a", "x", "read")).unwrap(), "casbin no longer skips unknown rows");
    for row in [
        "q, D1, role:any, *, any, -, deny",
        "P, D1, role:any, *, any, -, deny",
        "junk",
        "p, D1, role:any, *, any, deny",
        "p2, D1, role:any, *, any, -, deny",
    ] {
        assert!(refused(&format!("p, R1, role:any, demo__*, read, -, allow\n{row}\n")), "{row}");
    }
}

#[tokio::test]
async fn pitfall_05_another_effect_line_does_not_load() {
    let spaced = MODEL.replace("p.eft == allow))", "p.eft==allow))");
    assert_ne!(spaced, MODEL);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.conf"), spaced).unwrap();
    std::fs::write(folder.path().join("policy.csv"), "").unwrap();
    let faults = Policy::load(folder.path(), &TARGETS, &Options::default()).unwrap_err();
    assert!(faults[0].message.contains("differs from the model"), "{faults:?}");
}

#[test]
fn pitfall_06_no_answer_outlives_its_policy() {
    let rows = "p, R1, agent:a, demo__*, read, -, allow\n";
    let (before, after) = (parse(rows).unwrap(), parse("").unwrap());
    assert!(permits(&before, "agent:a", "demo__read_note"));
    assert!(!permits(&after, "agent:a", "demo__read_note"));
    assert_ne!(before.version(), after.version());
}

#[test]
fn pitfall_07_a_failed_reload_leaves_the_policy_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.csv");
    std::fs::write(&file, "p, R1, agent:a, demo__*, read, -, allow\n").unwrap();
    let options = Options { upstreams: vec!["demo".into()], ..Options::default() };
    let (running, _) = Policy::load(folder.path(), &TARGETS, &options).unwrap();
    std::fs::write(&file, "p, R1, agent:a, demo__*, read, -, alow\n").unwrap();
    assert!(Policy::load(folder.path(), &TARGETS, &options).is_err());
    assert!(permits(&running, "agent:a", "demo__read_note"));
}

#[test]
fn pitfall_08_enforcement_has_no_switch() {
    // The words are put together here so that this file does not find itself.
    let switch = ["enable", "_enforce"].concat();
    let mut open = vec![std::path::PathBuf::from("src")];
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false => assert!(!std::fs::read_to_string(&path).unwrap().contains(&switch), "{}", path.display()),
            }
        }
    }
}

#[test]
fn pitfall_09_rows_hold_no_numbers_for_a_32_bit_script_to_lose() {
    for row in [
        "p, R1, role:any, *, read, amount<3000000000, allow",
        "p, R1, role:any, *, 3000000000, -, allow",
        "p, R1, role:any, *, read, 1, allow",
    ] {
        assert!(refused(row), "{row}");
    }
}

#[test]
fn pitfall_10_rows_are_no_code() {
    assert!(!MODEL.contains("eval"));
    for row in
        ["p, R1, role:any, *, read, true||true, allow", "p, R1, r.sub==x, *, read, -, allow", "p, R1, role:any, eval(x), read, -, allow"]
    {
        assert!(refused(row), "{row}");
    }
}

#[tokio::test]
async fn pitfall_11_cycles_and_deep_roles_are_refused_not_lost() {
    let links = (0..12).map(|step| format!("g, s{step}, s{}\n", step + 1)).collect::<String>();
    let deep = casbin(PLAIN, [links.as_str(), "p, s12, x, read, allow"].concat().leak()).await;
    assert!(!deep.enforce(("s0", "x", "read")).unwrap(), "casbin no longer stops at ten levels");
    let ours = (0..12).map(|step| format!("g, role:s{step}, role:s{}\n", step + 1)).collect::<String>();
    assert!(refused(&ours));
    assert!(refused("g, role:a, role:b\ng, role:b, role:a\n"));
}

#[test]
fn pitfall_12_matchers_need_no_state() {
    // Casbin's functions capture nothing, so all they know comes in with the request: two policies side by side stay apart.
    let (one, two) = (parse("p, R1, agent:a, demo__*, read, -, allow\n").unwrap(), parse("p, D1, role:any, *, any, -, deny\n").unwrap());
    let threads = [one, two].map(|policy| std::thread::spawn(move || (0..20).all(|_| Equivalence::exhaustive(&policy).is_ok())));
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

#[test]
fn pitfall_13_every_refusal_can_be_explained() {
    let policy = parse("p, R1, agent:a, demo__*, read, -, allow\np, D1, role:any, demo__delete_note, any, -, deny\n").unwrap();
    let class = policy.class("agent:a");
    let denied = policy.decide(class, policy.target("demo__delete_note").unwrap());
    assert_eq!(denied.rules().iter().map(|rule| rule.as_str()).collect::<Vec<_>>(), ["D1"], "the denies, not the allows before them");
    let write = policy.target("demo__write_note").unwrap();
    assert!(policy.decide(class, write).rules().is_empty());
    assert_eq!(policy.nearest(class, write)[0].rule.as_str(), "R1", "a default deny has its nearest miss");
}

#[tokio::test]
async fn pitfall_14_quotes_and_comment_signs_are_not_guessed_at() {
    for row in [
        "p, R1, \"role:any\", *, read, -, allow",
        "p, R1, 'role:any', *, read, -, allow",
        "p, R1, role:any, *, read, -, allow # why",
        "p, R1, role:any, demo__a#b, read, -, allow",
        "p, R1, role:any, \"demo__a, b\", read, -, allow",
    ] {
        assert!(refused(row), "{row}");
    }
    // `#` cuts matcher text in a model file even in a string, so ours has none outside whole-line comments.
    assert!(MODEL.lines().all(|line| line.starts_with('#') || !line.contains('#')));
}

// The six of the library reference.

#[tokio::test]
async fn library_pitfall_1_an_empty_policy_allows_nobody() {
    let model = DefaultModel::from_str(PLAIN).await.unwrap();
    let empty = Enforcer::new(model, MemoryAdapter::default()).await.unwrap();
    assert!(empty.enforce(("", "", "")).unwrap(), "casbin no longer allows empty requests by an empty policy");
    let policy = parse("# nothing\n").unwrap();
    for principal in ["", "agent:", "agent:a", "role:any"] {
        assert!(!permits(&policy, principal, "demo__read_note"));
        assert!(!policy.decide_by_name(policy.class(principal), "", Tier::Read).is_permit());
    }
    assert!(Equivalence::check(&policy, Duration::from_secs(60), 1).is_ok());
}

#[tokio::test]
async fn library_pitfall_2_a_panic_in_casbin_is_contained() {
    // A model that panics at its first decision; Doorward's own oracle runs on a thread of its own and turns that into a fault.
    let broken = PLAIN.replace("p.eft == allow)) &&", "p.eft==allow)) &&");
    let enforcer = Enforcer::new(DefaultModel::from_str(&broken).await.unwrap(), NullAdapter).await.unwrap();
    assert!(panics(std::panic::AssertUnwindSafe(|| drop(enforcer.enforce(("a", "b", "c"))))), "casbin no longer panics here");
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    assert!(!manifest.contains("abort"), "an aborting profile would take the gateway down");
}

#[test]
fn library_pitfall_3_nothing_after_a_star_is_ignored() {
    assert!(key_match("foozzz", "foo*bar"), "casbin no longer ignores what follows a star");
    assert!(refused("p, R1, role:any, demo__foo*bar, read, -, allow"));
    assert!(refused("p, R1, role:any, demo__**, read, -, allow"));
}

#[test]
fn library_pitfall_4_no_cached_enforcer() {
    let source = std::fs::read_to_string("src/policy/oracle.rs").unwrap();
    assert!(!source.contains("CachedEnforcer"));
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    let line = manifest.lines().find(|line| line.starts_with("casbin")).unwrap();
    assert!(line.contains("default-features = false") && !line.contains("cached"), "{line}");
}

#[test]
fn library_pitfall_5_rule_text_never_becomes_script() {
    // Fields reach the script as constants. A target that reads like script is compared, never run.
    for target in ["resource:demo:x:1)+true+targetMatch(r.sub*", "demo__x)||true||targetMatch(r.sub*"] {
        let policy = parse(&format!("p, R1, agent:a, {target}, read, -, allow\n")).expect("odd but harmless");
        assert!(!permits(&policy, "agent:a", "demo__read_note"), "{target}");
        assert!(Equivalence::exhaustive(&policy).is_ok());
    }
}

#[test]
fn a_row_on_a_resource_has_one_spelling_and_another_is_refused_with_it() {
    let told = |target: &str| match parse(&format!("p, R1, agent:a, {target}, read, -, allow\n")) {
        Ok(_) => "taken".to_owned(),
        Err(faults) => faults[0].to_string(),
    };
    for target in ["resource:demo:*", "resource:demo:file:///srv/*", "resource:demo:file:///a%20b", "resource:demo:x://h/a?b=c*"] {
        assert_eq!(told(target), "taken", "{target}");
    }
    for (target, right) in [
        ("resource:demo:FILE:///srv/*", "`resource:demo:file:///srv/*`"),
        ("resource:demo:file:///%73rv/a", "`resource:demo:file:///srv/a`"),
        ("resource:demo:file://localhost/srv/*", "`resource:demo:file:///srv/*`"),
        ("resource:demo:x://h/a%2Fb", "`resource:demo:x://h/a/b`"),
        ("resource:demo:x://h/%2*", "`resource:demo:x://h/*`"),
    ] {
        let told = told(target);
        assert!(told.contains("policy.csv:1:17") && told.contains(&format!("is another spelling of {right}")), "{target}: {told}");
    }
    assert!(told("resource:demo:secret").contains("is no URI that a request could name"));
    assert!(told("resource:demo:file:///a/../b").contains("is no URI that a request could name"));
}

#[test]
fn library_pitfall_6_a_misspelt_effect_never_means_no_opinion() {
    assert!(refused("p, R1, role:any, demo__*, read, -, alow"));
    assert!(refused("p, R1, role:any, demo__*, any, -, dney"));
    assert!(refused("p, R1, role:any, demo__*, read, -,"));
}
