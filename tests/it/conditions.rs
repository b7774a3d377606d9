//! Conditions of rows: what each kind answers, what the loader refuses and where, and that attacks on ordinary conditions fail.

use std::path::Path;

use doorward::catalog::Label;
use doorward::clock::Clock;
use doorward::config::parse_yaml;
use doorward::identity::Principal;
use doorward::mcp::json::{self, Limits};
use doorward::policy::condition::word;
use doorward::policy::{Conditions, Facts, Truth};
use doorward::run::Before;

const TEMPLATES: &str = include_str!("../policies/templates/conditions.yaml");
const ATTACKS: &str = include_str!("../policies/templates/attacks.txt");

fn parse(text: &str) -> Conditions {
    Conditions::parse(Path::new("conditions.yaml"), text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

/// What a condition comes to for arguments, in full words for what is unclear.
fn truth(conditions: &Conditions, name: &str, arguments: &str, clock: &Clock) -> Truth {
    let node = json::parse(arguments.as_bytes(), Limits::default()).unwrap_or_else(|error| panic!("{error}: {arguments}"));
    let has_role = |role: &str| role == "role:oncall";
    let principal = Principal::local("triage-bot", "stdio");
    let before = Before::given(&[Label::Private], vec![("mail__*".to_owned(), 3)]);
    let facts = Facts { arguments: Some(&node), principal: &principal, has_role: &has_role, clock, before: &before };
    conditions.evaluate(conditions.id(name).unwrap_or_else(|| panic!("no condition {name}")), &facts)
}

/// The word for what one condition comes to.
fn answer(body: &str, arguments: &str) -> &'static str {
    word(truth(&parse(&format!("conditions:\n  c: {body}\n")), "c", arguments, &Clock::fixed(0)))
}

fn faults(text: &str) -> Vec<String> {
    let faults = Conditions::parse(Path::new("conditions.yaml"), text).expect_err(text);
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn attacks_on_ordinary_conditions_never_come_to_true() {
    let conditions = parse(TEMPLATES);
    let lines = ATTACKS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut attacks, mut wrong) = (0, Vec::new());
    for line in lines {
        let [name, expected, arguments] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let found = truth(&conditions, name, arguments, &Clock::fixed(0));
        attacks += usize::from(expected != "true");
        if word(found) != expected {
            wrong.push(format!("{line}\n    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(attacks >= 200, "{attacks}");
}

#[test]
fn three_answers_are_joined_as_three_answers_are() {
    let (yes, no, unclear) = ("{ argument: /t, eq: 1 }", "{ argument: /t, eq: 2 }", "{ argument: /missing, eq: 1 }");
    let of = |body: &str| answer(body, r#"{"t":1}"#);
    for (body, expected) in [
        (format!("{{ all: [{yes}, {yes}] }}"), "true"),
        (format!("{{ all: [{yes}, {unclear}] }}"), "error"),
        (format!("{{ all: [{unclear}, {no}] }}"), "false"),
        (format!("{{ any: [{no}, {no}] }}"), "false"),
        (format!("{{ any: [{unclear}, {no}] }}"), "error"),
        (format!("{{ any: [{unclear}, {yes}] }}"), "true"),
        (format!("{{ not: {yes} }}"), "false"),
        (format!("{{ not: {no} }}"), "true"),
        (format!("{{ not: {unclear} }}"), "error"),
        (format!("{{ not: {{ any: [{{ not: {yes} }}, {no}] }} }}"), "true"),
    ] {
        assert_eq!(of(&body), expected, "{body}");
    }
}

#[test]
fn values_are_compared_with_their_kinds_and_digits() {
    for (body, arguments, expected) in [
        ("{ argument: /x, eq: prod }", r#"{"x":"prod"}"#, "true"),
        ("{ argument: /x, eq: prod }", r#"{"x":"Prod"}"#, "false"),
        ("{ argument: /x, eq: prod, ignore_case: true }", r#"{"x":"PROD"}"#, "true"),
        ("{ argument: /x, eq: 5 }", r#"{"x":5.0}"#, "true"),
        ("{ argument: /x, eq: 5 }", r#"{"x":"5"}"#, "error"),
        ("{ argument: /x, eq: \"5\" }", r#"{"x":"5"}"#, "true"),
        ("{ argument: /x, eq: \"5\" }", r#"{"x":5}"#, "error"),
        ("{ argument: /x, eq: 9007199254740993 }", r#"{"x":9007199254740992}"#, "false"),
        ("{ argument: /x, eq: 9007199254740993 }", r#"{"x":9007199254740993}"#, "true"),
        ("{ argument: /x, eq: 0.1000000000000000055 }", r#"{"x":0.1}"#, "false"),
        ("{ argument: /x, eq: 0.1000000000000000055 }", r#"{"x":0.1000000000000000055}"#, "true"),
        ("{ argument: /x, eq: 123456789012345678901234567890 }", r#"{"x":123456789012345678901234567890}"#, "true"),
        ("{ argument: /x, eq: 123456789012345678901234567890 }", r#"{"x":123456789012345678901234567891}"#, "false"),
        ("{ argument: /x, eq: true }", r#"{"x":true}"#, "true"),
        ("{ argument: /x, eq: true }", r#"{"x":"true"}"#, "error"),
        ("{ argument: /x, eq: null }", r#"{"x":null}"#, "true"),
        ("{ argument: /x, eq: null }", r#"{"x":"a"}"#, "false"),
        ("{ argument: /x, in: [a, 1, true] }", r#"{"x":1e0}"#, "true"),
        ("{ argument: /x, in: [a, 1] }", r#"{"x":"b"}"#, "error"),
        ("{ argument: /x, in: [a, null] }", r#"{"x":["a"]}"#, "error"),
        ("{ argument: /x, range: { above: 0, below: 1 } }", r#"{"x":0}"#, "false"),
        ("{ argument: /x, range: { above: 0, below: 1 } }", r#"{"x":0.999999999999999999999999}"#, "true"),
        ("{ argument: /x, range: { above: 0, below: 1 } }", r#"{"x":1.000000000000000000000}"#, "false"),
        ("{ argument: /x, range: { max: 9007199254740993 } }", r#"{"x":9007199254740994}"#, "false"),
        ("{ argument: /x, prefix: [a/, b/] }", r#"{"x":"b/1"}"#, "true"),
        ("{ argument: /x, prefix: A/, ignore_case: true }", r#"{"x":"a/1"}"#, "true"),
        ("{ argument: /x, glob: [\"**/*.md\"] }", r#"{"x":"a/b/c.md"}"#, "true"),
        ("{ argument: /x, glob: \"*.md\" }", r#"{"x":"a/c.md"}"#, "false"),
        ("{ argument: /x, regex: \"a|ab\" }", r#"{"x":"ab"}"#, "true"),
        ("{ argument: /x, regex: \".*drop.*\", ignore_case: true }", "{\"x\":\"a\\nDROP\\nb\"}", "true"),
        ("{ argument: /x, max_len: 3 }", r#"{"x":[1,2,3]}"#, "true"),
        ("{ argument: /x, max_len: 3 }", r#"{"x":[1,2,3,4]}"#, "false"),
        ("{ argument: /a~1b/c~0d, eq: 1 }", r#"{"a/b":{"c~d":1}}"#, "true"),
        ("{ argument: /list/1, eq: 2 }", r#"{"list":[1,2]}"#, "true"),
        ("{ argument: /list/01, eq: 2, missing: false }", r#"{"list":[1,2]}"#, "false"),
        ("{ argument: /host, cidr: 10.0.0.0/8, names: false }", r#"{"host":"db.internal"}"#, "false"),
        ("{ principal: agent, in: [triage-bot, other] }", "{}", "true"),
        ("{ principal: agent, eq: other }", "{}", "false"),
        ("{ principal: on_behalf_of, eq: alice }", "{}", "error"),
        ("{ principal: on_behalf_of, eq: alice, missing: false }", "{}", "false"),
        ("{ role: role:oncall }", "{}", "true"),
        ("{ role: role:other }", "{}", "false"),
        ("{ scope: tools.write }", "{}", "false"),
        ("{ label: private }", "{}", "true"),
        ("{ label: untrusted }", "{}", "false"),
        ("{ label: \"team:customer-data\" }", "{}", "false"),
        ("{ all: [{ label: private }, { not: { label: untrusted } }] }", "{}", "true"),
        ("{ count_below: { calls: 4, of: \"mail__*\", within_s: 3600 } }", "{}", "true"),
        ("{ count_below: { calls: 3, of: \"mail__*\", within_s: 3600 } }", "{}", "false"),
        ("{ count_below: { calls: 1, of: mail__send, within_s: 60 } }", "{}", "true"),
    ] {
        assert_eq!(answer(body, arguments), expected, "{body} {arguments}");
    }
}

#[test]
fn every_element_or_one_is_said_and_an_empty_array_is_missing() {
    for (elements, arguments, expected) in [
        ("all", r#"{"to":[{"env":"prod"},{"env":"prod"}]}"#, "true"),
        ("all", r#"{"to":[{"env":"prod"},{"env":"dev"}]}"#, "false"),
        ("any", r#"{"to":[{"env":"dev"},{"env":"prod"}]}"#, "true"),
        ("any", r#"{"to":[{"env":"dev"},{"env":"dev"}]}"#, "false"),
        ("all", r#"{"to":[{"env":"prod"},{}]}"#, "error"),
        ("all", r#"{"to":[{"env":"dev"},{}]}"#, "false"),
        ("any", r#"{"to":[{"env":"dev"},{}]}"#, "error"),
        ("any", r#"{"to":[{"env":"prod"},{"env":5}]}"#, "true"),
        ("all", r#"{"to":[]}"#, "error"),
        ("any", r#"{"to":[]}"#, "error"),
        ("all", r#"{"to":{"env":"prod"}}"#, "error"),
        ("all", "{}", "error"),
    ] {
        let body = format!("{{ argument: /to/*/env, eq: prod, elements: {elements} }}");
        assert_eq!(answer(&body, arguments), expected, "{elements} {arguments}");
    }
    assert_eq!(answer("{ argument: /to/*, eq: prod, missing: true }", "{}"), "true");
    assert_eq!(answer("{ argument: /to/*, eq: prod, missing: false }", r#"{"to":[]}"#), "false");
}

#[test]
fn a_window_is_open_in_its_zone_and_over_midnight() {
    let conditions = parse(
        "conditions:\n  office: { time_window: { days: [mon, tue, wed, thu, fri], from: \"08:00\", to: \"18:00\", zone: Europe/Berlin } }\n  \
         night: { time_window: { days: [sat], from: \"22:00\", to: \"06:00\" } }\n  sunday: { time_window: { days: [sun] } }\n",
    );
    let at = |time: &str| Clock::fixed(i64::try_from(time.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap());
    for (name, time, expected) in [
        // Berlin is two hours ahead in summer and one in winter.
        ("office", "2026-07-03T06:00:00Z", "true"),
        ("office", "2026-07-03T05:59:59Z", "false"),
        ("office", "2026-07-03T16:00:00Z", "false"),
        ("office", "2026-01-02T06:30:00Z", "false"),
        ("office", "2026-01-02T16:59:59Z", "true"),
        ("office", "2026-07-04T10:00:00Z", "false"),
        ("night", "2026-07-04T22:00:00Z", "true"),
        ("night", "2026-07-05T05:59:59Z", "true"),
        ("night", "2026-07-05T06:00:00Z", "false"),
        ("night", "2026-07-04T05:00:00Z", "false"),
        ("night", "2026-07-05T22:30:00Z", "false"),
        ("sunday", "2026-07-05T00:00:00Z", "true"),
        ("sunday", "2026-07-05T23:59:59Z", "true"),
        ("sunday", "2026-07-06T00:00:00Z", "false"),
    ] {
        assert_eq!(word(truth(&conditions, name, "{}", &at(time))), expected, "{name} {time}");
    }
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_place() {
    let table = [
        ("{ argument: /x, equals: 1 }", "unknown field `equals`"),
        ("{ argument: /x }", "nothing is tested here"),
        ("{ argument: /x, eq: 1, prefix: a }", "`eq` and `prefix` stand side by side"),
        ("{ eq: 1 }", "it is not said what is tested"),
        ("{ argument: x, eq: 1 }", "`x` is not a pointer"),
        ("{ argument: /a~2, eq: 1 }", "`/a~2` is not a pointer"),
        ("{ argument: /x, principal: agent, eq: 1 }", "`argument` and `principal` stand side by side"),
        ("{ principal: agnet, eq: a }", "`agnet` is nothing that is known of a principal\n  help: did you mean `agent`?"),
        ("{ argument: /x, eq: 1, schemes: [https] }", "`schemes` means nothing beside `eq`"),
        ("{ argument: /x, eq: 1, elements: any }", "`elements` is for a pointer with a `*`"),
        ("{ argument: /x, eq: 0x10 }", "the value can be read in more than one way"),
        ("{ argument: /x, eq: .5 }", "the value can be read in more than one way"),
        ("{ argument: /x, eq: 1_000 }", "the value can be read in more than one way"),
        ("{ argument: /x, eq: yes }", "the value can be read in more than one way"),
        ("{ argument: /x, eq: ~ }", "the value can be read in more than one way"),
        ("{ argument: /x, in: [] }", "the list has 0 entries"),
        ("{ argument: /x, prefix: \"\" }", "an empty text stands for everything"),
        ("{ argument: /x, prefix: [] }", "the list is empty"),
        ("{ argument: /x, glob: \"a[\" }", "`a[` is not a pattern"),
        ("{ argument: /x, regex: \"a(\" }", "`a(` is not a regular expression"),
        ("{ argument: /x, regex: \"a)|(b\" }", "`a)|(b` is not a regular expression"),
        ("{ argument: /x, regex: \"(?x)a #\" }", "`(?x)a #` is not a regular expression"),
        ("{ argument: /x, regex: \"(a{1000}){1000}\" }", "`(a{1000}){1000}` is not a regular expression"),
        ("{ argument: /x, regex: \"(a)\\\\1\" }", "is not a regular expression"),
        ("{ argument: /x, range: {} }", "`range` has no bound"),
        ("{ argument: /x, range: { min: a } }", "a bound of `range` is a number"),
        ("{ argument: /x, range: { min: 2, max: 1 } }", "no number is within this `range`"),
        ("{ argument: /x, path_within: workspace }", "`workspace`: it is not an absolute path"),
        ("{ argument: /x, path_within: /srv/../etc }", "`/srv/../etc` is not a plain absolute path"),
        ("{ argument: /x, path_within: /srv/ }", "`/srv/` is not a plain absolute path"),
        ("{ argument: /x, path_within: /srv, relative_to: a }", "`a`: it is not an absolute path"),
        ("{ argument: /x, url_host_in: \"https://a.example\" }", "is not a host"),
        ("{ argument: /x, url_host_in: \"a.example:443\" }", "is not a host"),
        ("{ argument: /x, url_host_in: \"*\" }", "is not a host"),
        ("{ argument: /x, url_host_in: \"*.1.2.3.4\" }", "is not a host"),
        ("{ argument: /x, url_host_in: a.example, schemes: [file] }", "`file` is not a scheme with a host"),
        ("{ argument: /x, cidr: 10.0.0.1/8 }", "`10.0.0.1/8` has bits behind its length: write `10.0.0.0/8`"),
        ("{ argument: /x, cidr: ten }", "`ten` is not a network"),
        ("{ argument: /x, sql: { database: oracle9, kinds: [select] } }", "`oracle9` is not a database"),
        ("{ argument: /x, sql: { database: postgres, kinds: [read] } }", "`read` is not a kind of statement"),
        ("{ argument: /x, sql: { database: postgres, kinds: [] } }", "`kinds` is empty"),
        ("{ argument: /x, sql: { database: postgres, kinds: [select], tables: [\"a; b\"] } }", "`a; b` is not a table"),
        ("{ time_window: { days: [monday] } }", "`monday` is not a day"),
        ("{ time_window: { from: \"8:00\", to: \"18:00\" } }", "`8:00` is not a time of day"),
        ("{ time_window: { from: \"25:00\", to: \"18:00\" } }", "`25:00` is not a time of day"),
        ("{ time_window: { from: \"08:00\" } }", "a window has both `from` and `to`, or neither"),
        ("{ time_window: { zone: Europe/Atlantis } }", "there is no time zone `Europe/Atlantis`"),
        ("{ role: oncall }", "`oncall` is not a role"),
        ("{ role: role:any }", "everyone has `role:any`"),
        ("{ all: [] }", "the list is empty"),
    ];
    for (body, expected) in table {
        let found = faults(&format!("conditions:\n  c: {body}\n"));
        assert_eq!(found.len(), 1, "{body}: {found:?}");
        assert!(
            found[0].starts_with("conditions.yaml:2:") && found[0].contains(expected),
            "{body}\nfound    {}\nexpected {expected}",
            found[0]
        );
    }
    let deep = format!("{}{{ role: role:a }}{}", "{ not: ".repeat(8), " }".repeat(8));
    assert!(faults(&format!("conditions:\n  c: {deep}\n"))[0].contains("nested over more than 8 steps"));
    assert!(faults("conditions:\n  Prod: { role: role:a }\n")[0].contains("`Prod` is not a name of a condition"));
    assert!(faults("conditions:\n  a1: { role: role:a }\n  al: { role: role:a }\n")[0].contains("`al` looks like `a1`"));
    assert!(faults("conditions:\n  a: { role: role:a }\n  a: { role: role:b }\n")[0].contains("a"));
    assert!(faults("rules: {}\n")[0].contains("unknown field `rules`"));
}

#[test]
fn what_is_wrong_with_what_an_agent_did_before_is_told() {
    for (body, told) in [
        ("{ label: privat }", "`privat` is not a label: write `private`, `untrusted`, `outward`"),
        ("{ label: private, argument: /x }", "`argument` means nothing beside `label`"),
        ("{ count_below: { calls: 5 } }", "missing field"),
        ("{ count_below: { calls: 0, of: mail__send, within_s: 60 } }", "0 calls within 60 seconds are not counted"),
        ("{ count_below: { calls: 5, of: mail__send, within_s: 86401 } }", "5 calls within 86401 seconds are not counted"),
        ("{ count_below: { calls: 5, of: \"ma*il\", within_s: 60 } }", "`ma*il` has a `*` that is not at the end"),
    ] {
        let found = faults(&format!("conditions:\n  c: {body}\n"));
        assert!(found.len() == 1 && found[0].contains(told), "{body}: {found:?}");
    }
}

#[test]
fn editors_are_given_a_schema_that_takes_what_the_loader_takes() {
    let schema = doorward::policy::condition::schema();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let value = |text: &str| parse_yaml::<serde_json::Value>(Path::new("conditions.yaml"), text).unwrap();
    let shipped = include_str!("../../policies/conditions.yaml").replace("  # ", "  ");
    for text in [TEMPLATES, &shipped] {
        let found: Vec<String> = validator.iter_errors(&value(text)).map(|error| error.to_string()).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    for body in ["{ argument: /x, equals: 1 }", "{ argument: /x, range: {} }", "{ all: [] }", "{ principal: agnet, eq: a }"] {
        let text = format!("conditions:\n  c: {body}\n");
        assert!(!validator.is_valid(&value(&text)) && !faults(&text).is_empty(), "{body}");
    }
}

#[test]
fn an_empty_file_has_no_conditions() {
    for text in ["", "# nothing\n", "conditions: {}\n", "conditions:\n"] {
        assert!(parse(text).is_empty(), "{text:?}");
    }
}

#[test]
fn hostile_texts_end_soon_and_on_the_safe_side() {
    let conditions = parse(TEMPLATES);
    let clock = Clock::fixed(0);
    let of = |name: &str, key: &str, value: &str| {
        let quoted = serde_json::to_string(value).unwrap();
        truth(&conditions, name, &format!("{{\"{key}\":{quoted}}}"), &clock)
    };
    for text in [
        "(".repeat(100_000),
        format!("SELECT {}1", "(".repeat(10_000)),
        format!("SELECT 1{}", "+1".repeat(30_000)),
        format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(4_000)),
        format!("SELECT {}1", "NOT ".repeat(10_000)),
        format!("SELECT {}1", "- ".repeat(30_000)),
        "SELECT 1;".repeat(7_000),
    ] {
        assert_ne!(of("reads_orders", "query", &text), Ok(true), "{}", &text[..20]);
    }
    let long = format!("SELECT id FROM orders WHERE id IN ({})", (0..5_000).map(|id| id.to_string()).collect::<Vec<_>>().join(","));
    assert_eq!(of("reads_orders", "query", &long), Ok(true), "a long list is no deep tree");
    for path in [format!("/srv/workspace/{}", "../".repeat(50_000)), "%25".repeat(5_000), "/".repeat(100_000)] {
        assert_ne!(of("in_workspace", "path", &path), Ok(true));
    }
    assert_ne!(of("our_api", "url", &format!("https://{}api.example.com/", "a.".repeat(50_000))), Ok(true));
    assert_eq!(of("ticket", "ticket", &"A".repeat(1_000_000)), Ok(false));
}
