//! `doorward policy test` and `doorward policy explain`: what a policy decides, told before a call is made.

use serde_json::json;

use crate::support::Site;

const ROWS: &str = "p, R1, role:writer, demo__*, reversible, -, allow\np, R2, role:writer, demo__write_note, reversible, drafts, allow\n\
    p, D1, role:any, demo__append_note, any, -, deny\no, O1, agent:demo, demo__write_note, any, long, limit:5/min\n\
    p, R3, role:other, demo__delete_note, irreversible, -, allow\ng, agent:demo, role:writer\ng, agent:local, role:other\n";
const CONDITIONS: &str = "conditions:\n  drafts: { argument: /name, prefix: draft- }\n  long: { not: { argument: /text, max_len: 4 } }\n";

fn site(cases: &str) -> Site {
    let site = Site::of_demo().policy(ROWS);
    site.write("policies/conditions.yaml", CONDITIONS);
    std::fs::create_dir(site.path("policies/tests")).unwrap();
    site.write("policies/tests/a.yaml", cases);
    site
}

const GOOD: &str = "cases:
  - { agent: demo, call: demo__write_note, with: { name: draft-1, text: long enough }, expect: allow, rules: [R1, R2], obligations: [limit:5/min] }
  - { agent: demo, call: demo__write_note, with: { name: todo, text: milk }, expect: allow, rules: [R1], obligations: [] }
  - { agent: demo, call: demo__append_note, with: { name: todo, text: milk }, expect: deny, rules: [D1] }
  - { agent: demo, call: demo__delete_note, with: { name: todo }, expect: deny, rules: [] }
  - { agent: local, call: demo__delete_note, with: { name: todo }, expect: allow }
";

#[tokio::test]
async fn cases_that_are_decided_as_asked_and_cover_every_row_pass() {
    let done = site(GOOD).run(&["policy", "test"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "5 cases, 0 decided otherwise, 0 rows without a case\n"), "{done:?}");
}

#[tokio::test]
async fn a_case_that_is_decided_otherwise_is_told_with_what_was_decided() {
    for (from, to, told) in [
        ("rules: [R1, R2]", "rules: [R1]", "allowed by R1, R2, with O1 limit:5/min; asked for: allowed by R1"),
        ("obligations: []", "obligations: [redact]", "allowed by R1; asked for: allowed by R1, with redact"),
        ("expect: deny, rules: [D1]", "expect: allow", "denied by D1; asked for: allowed"),
        ("expect: deny, rules: []", "expect: allow", "denied: no rule allows it; asked for: allowed"),
        ("with: { name: todo }, expect: deny", "with: { nom: todo }, expect: deny", "the arguments do not match the tool's schema"),
    ] {
        let site = site(&GOOD.replacen(from, to, 1));
        let done = site.run(&["policy", "test", "--uncovered-ok"]).await;
        assert_eq!(done.code, 3, "{to}: {done:?}");
        assert!(done.out.contains("tests/a.yaml:") && done.out.contains(told) && done.out.contains("1 decided otherwise"), "{done:?}");
    }
}

#[tokio::test]
async fn a_row_that_decides_no_case_is_told_and_junit_has_both() {
    let site = site(&GOOD.replace("  - { agent: local", "#").replace("rules: [D1]", "rules: [D2]"));
    let done = site.run(&["policy", "test", "--junit", "out.xml"]).await;
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.out.contains("R3: no case is decided by this row\n4 cases, 1 decided otherwise, 1 rows without a case"), "{done:?}");
    let xml = std::fs::read_to_string(site.path("out.xml")).unwrap();
    assert!(xml.contains("<testsuite name=\"doorward policy\" tests=\"5\" failures=\"2\">"), "{xml}");
    assert!(xml.contains("<failure message=\"denied by D1; asked for: denied by D2\"/>"), "{xml}");
    assert!(xml.contains("<testcase name=\"R3 decides a case\" classname=\"coverage\">"), "{xml}");
    let json = site.run(&["--json", "policy", "test"]).await.json();
    assert_eq!((&json["failed"], &json["uncovered"]), (&json!(1), &json!(["R3"])));
}

#[tokio::test]
async fn a_faulty_case_is_refused_with_its_place() {
    for (case, told) in [
        ("{ agent: demo, call: demo__write_nte, expect: allow }", "a.yaml:2:5: there is no target `demo__write_nte`"),
        ("{ agent: Demo, call: demo__write_note, expect: allow }", "a.yaml:2:5: `Demo` is not a name"),
        ("{ agent: demo, call: demo__write_note, expect: permit }", "a.yaml:2:"),
        ("{ agent: demo, call: demo__write_note, expect: allow, at: noon }", "`noon` is not an RFC 3339 time"),
        ("{ agent: demo, call: demo__write_note, expect: allow, with: [1] }", "`with` is no object"),
    ] {
        let done = site(&format!("cases:\n  - {case}\n")).run(&["policy", "test"]).await;
        assert_eq!(done.code, 2, "{case}: {done:?}");
        assert!(done.err.contains(told), "{case}: {done:?}");
    }
}

#[tokio::test]
async fn an_explanation_has_the_row_its_way_and_what_became_of_the_others() {
    let site = site(GOOD);
    let done = site.run(&["policy", "explain", "demo__write_note", "name=todo", "text=long enough", "--as", "demo"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let lines: Vec<Vec<&str>> =
        done.out.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["agent:demo at demo__write_note (reversible): allowed by R1, with O1 limit:5/min"]);
    assert_eq!(lines[2], ["R1", "agent:demo > role:writer", "reversible", "-", "allow", "decides"]);
    assert_eq!(lines[3], ["O1", "agent:demo", "any", "long: true", "limit:5/min", "decides"]);
    assert_eq!(lines[4], ["R2", "agent:demo > role:writer", "reversible", "drafts: false", "allow", "its condition does not hold"]);

    let denied = site.run(&["policy", "explain", "demo__delete_note", "name=todo", "--as", "demo"]).await;
    assert_eq!(denied.code, 3);
    assert!(denied.out.starts_with("agent:demo at demo__delete_note (irreversible): denied: no rule allows it\n"), "{denied:?}");
    assert!(
        denied.out.contains("about other tiers") && denied.out.contains("(role:other)") && denied.out.contains("about others"),
        "{denied:?}"
    );

    let overruled = site.run(&["--json", "policy", "explain", "demo__append_note", "--as", "demo"]).await;
    let rows = &overruled.json()["rows"];
    assert_eq!(
        (&rows[0]["rule"], &rows[0]["result"], &rows[0]["through"]),
        (&json!("D1"), &json!("decides"), &json!(["agent:demo", "role:any"]))
    );
    assert_eq!((&rows[1]["rule"], &rows[1]["result"]), (&json!("R1"), &json!("overruled")));

    let unclear = site.run(&["--json", "policy", "explain", "demo__write_note", "text=x", "--as", "demo"]).await.json();
    let condition = unclear["rows"].as_array().unwrap().iter().find(|row| row["rule"] == "R2").unwrap()["condition"].clone();
    assert_eq!(condition, json!({ "name": "drafts", "truth": "error", "why": "the argument is missing" }));
    assert_eq!(site.run(&["policy", "explain", "demo__nothing", "--as", "demo"]).await.code, 2);
}

#[tokio::test]
async fn a_call_on_record_is_the_same_today_where_nothing_has_changed_that_bears_on_it() {
    let site = site(GOOD);
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("demo__write_note", json!({ "name": "todo", "text": "milk" })).await.code(), "ok");
    gateway.stop().await;
    let seq = site.of_kind("intent")[0]["seq"].to_string();
    let explained = async || site.run(&["policy", "explain", "--record", &seq]).await;

    let done = explained().await;

    assert_eq!(done.code, 0, "one row did not count then, and does not now: {done:?}");
    assert_eq!(done.out.matches("allowed by R1 (sha256:").count(), 2, "{done:?}");
    assert_eq!(done.out.matches("drafts was false").count(), 2, "{done:?}");
    // Under another name it is the same condition, and other text is another.
    site.write("policies/conditions.yaml", &CONDITIONS.replace("drafts:", "sketches:"));
    site.write("policies/policy.csv", &ROWS.replace("drafts", "sketches"));
    let renamed = explained().await;
    assert!(renamed.code == 0 && renamed.out.contains("sketches was false"), "{renamed:?}");
    site.write("policies/conditions.yaml", &CONDITIONS.replace("max_len: 4", "max_len: 3"));
    site.write("policies/policy.csv", ROWS);
    let other = explained().await;
    assert!(other.code == 3 && other.out.contains("now:  allowed by R1, R2: with limit:5/min when long (sha256:"), "{other:?}");
    assert!(other.out.contains("hangs on the call"), "{other:?}");
}

#[tokio::test]
async fn a_call_on_record_is_explained_by_the_rows_that_decided_it_and_by_those_of_today() {
    let site = site(GOOD);
    let gateway = site.serve().await;
    let client = gateway.client();
    assert_eq!(client.call("demo__write_note", json!({ "name": "draft-1", "text": "long enough" })).await.code(), "ok");
    assert_eq!(client.call("demo__append_note", json!({ "name": "a", "text": "b" })).await.code(), "policy_denied");
    gateway.stop().await;
    let intent = site.of_kind("intent")[0].clone();
    let seq = intent["seq"].to_string();
    let refused = site.of_kind("refusal")[0].clone();
    site.write("policies/policy.csv", &ROWS.replace("p, R1, role:writer, demo__*", "p, R9, role:writer, demo__list_notes"));

    let done = site.run(&["policy", "explain", "--record", &seq]).await;

    assert_eq!(done.code, 3, "{done:?}");
    let denied = site.run(&["policy", "explain", "--record", refused["call_id"].as_str().unwrap()]).await;
    assert_eq!(denied.code, 0, "it was denied and is: {denied:?}");
    assert!(done.out.contains("then: allowed by R1, R2, with O1 limit:5/min (sha256:"), "{done:?}");
    assert!(done.out.contains("now:  allowed by R2, with O1 limit:5/min (sha256:"), "{done:?}");
    let json = site.run(&["--json", "policy", "explain", "--record", refused["call_id"].as_str().unwrap()]).await.json();
    assert_eq!((&json["then"]["verdict"], &json["then"]["permits"]), (&json!("policy_denied by D1"), &json!(false)));
    assert_eq!(json["then"]["policy_version"], refused["policy_version"]);
    let results: Vec<_> = json["then"]["rows"].as_array().unwrap().iter().map(|row| (&row["rule"], &row["result"])).collect();
    assert_eq!(results, [(&json!("R1"), &json!("overruled")), (&json!("D1"), &json!("decided"))]);
    assert_eq!((&json["now"]["verdict"], &json["same"]), (&json!("denied by D1"), &json!(true)));
    assert_eq!(site.run(&["policy", "explain", "--record", "99999"]).await.code, 2);
    assert_eq!(site.run(&["policy", "explain"]).await.code, 2);
}

const FLOWS: &str = "cases:
  - { agent: demo, call: demo__share_note, with: { name: a, recipient: sam }, met: [private], expect: allow, rules: [R1], obligations: [] }
  - { agent: demo, call: demo__share_note, with: { name: a, recipient: sam }, met: [private, untrusted], expect: deny, rules: [\"built-in:toxic-flow\"] }
  - { agent: demo, call: demo__share_note, with: { name: us-1, recipient: sam }, met: [private, untrusted], expect: allow, obligations: [\"waive:toxic-flow\"] }
  - { agent: demo, call: demo__write_note, with: { name: a, text: b }, made: { demo__write_note: 4 }, met: [private, untrusted], expect: allow, rules: [R2] }
  - { agent: demo, call: demo__write_note, with: { name: a, text: b }, made: { demo__write_note: 5 }, expect: deny, rules: [] }
";

/// `share_note` may be called, and notes are of strangers as well.
fn flows(cases: &str) -> Site {
    let site = site(cases).policy(
        "p, R1, agent:demo, demo__share_note, irreversible, -, allow\np, R2, agent:demo, demo__write_note, reversible, few, allow\n\
         o, O1, role:any, demo__share_note, irreversible, ours, waive:toxic-flow\n",
    );
    let conditions =
        "conditions:\n  few: { count_below: { calls: 5, of: demo__write_note, within_s: 60 } }\n  ours: { argument: /name, prefix: us- }\n";
    site.write("policies/conditions.yaml", conditions);
    let manifest = std::fs::read_to_string(site.path("tool-manifests/demo.yaml")).unwrap();
    site.write(
        "tool-manifests/demo.yaml",
        &manifest.replace("{ tier: read, labels: [private] }", "{ tier: read, labels: [private, untrusted] }"),
    );
    site
}

#[tokio::test]
async fn cases_and_explanations_say_what_the_agent_did_before() {
    let site = flows(FLOWS);
    let done = site.run(&["policy", "test"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "5 cases, 0 decided otherwise, 0 rows without a case\n"), "{done:?}");

    let explain = async |more: &[&str]| {
        let args = [&["policy", "explain", "demo__share_note", "name=a", "--as", "demo"], more].concat();
        site.run(&args).await
    };
    let both = explain(&["--met", "private", "--met", "untrusted"]).await;
    assert!(both.code == 3 && both.out.contains("denied by built-in:toxic-flow"), "{both:?}");
    let line = |out: &str| out.lines().find(|line| line.starts_with("built-in:toxic-flow")).unwrap().to_owned();
    assert!(line(&both.out).contains("private and untrusted: true") && line(&both.out).ends_with("decides"), "{both:?}");
    let neither = explain(&[]).await;
    assert!(neither.code == 0 && line(&neither.out).contains("private and untrusted: false"), "{neither:?}");
    let ours =
        site.run(&["policy", "explain", "demo__share_note", "name=us-1", "--as", "demo", "--met", "private", "--met", "untrusted"]).await;
    assert!(ours.code == 0 && line(&ours.out).ends_with("lifted"), "{ours:?}");
    let many =
        site.run(&["policy", "explain", "demo__write_note", "name=a", "text=b", "--as", "demo", "--made", "demo__write_note=5"]).await;
    assert!(many.code == 3 && many.out.contains("few: false"), "{many:?}");
    assert_eq!(explain(&["--met", "privat"]).await.code, 2);

    let matrix = site.run(&["--json", "policy", "matrix", "--agents"]).await.json();
    let share = matrix["targets"].as_array().unwrap().iter().find(|target| target["target"] == "demo__share_note").unwrap().clone();
    let told = "allow, unless private and untrusted, without built-in:toxic-flow when ours";
    assert_eq!(share["rights"]["agent:demo"], told, "{share}");
}

#[tokio::test]
async fn a_case_about_a_count_that_no_row_asks_for_is_refused() {
    let done = flows(&FLOWS.replace("made: { demo__write_note: 4 }", "made: { \"demo__write_*\": 4 }")).run(&["policy", "test"]).await;
    assert!(done.code == 2 && done.err.contains("no row counts calls of `demo__write_*`"), "{done:?}");
}

#[tokio::test]
async fn labels_that_nothing_brings_and_counts_of_no_upstream_are_told() {
    let site = flows(FLOWS);
    site.write(
        "policies/conditions.yaml",
        "conditions:\n  few: { count_below: { calls: 5, of: demi__write_note, within_s: 60 } }\n  ours: { label: \"team:ours\" }\n",
    );
    let done = site.run(&["policy", "lint"]).await;
    assert!(done.code == 2 && done.err.contains("`few` counts `demi__write_note`, and there is no upstream `demi`"), "{done:?}");
    site.write("policies/conditions.yaml", "conditions:\n  few: { label: private }\n  ours: { label: \"team:ours\" }\n");
    let done = site.run(&["policy", "lint"]).await;
    assert!(done.code == 3 && done.out.contains("`ours` asks for the label `team:ours`, which no manifest gives to anything"), "{done:?}");
}
