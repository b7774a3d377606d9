//! `doorward audit reach`: what an agent could call then, by the policies that were in force, and what it called.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Site, Upstream, until};

const USUAL: &str = "p, R1, agent:demo, up__echo, read, -, allow\n";
const OPENED: &str = "p, X9, role:wide, up__pay, irreversible, -, allow\ng, agent:demo, role:wide\n";

/// A site whose policy let `demo` pay for a while, through a role; it never did.
async fn opened_for_a_while() -> (Upstream, Site) {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).policy(USUAL);
    let gateway = site.serve().await;
    gateway.client().call("up__echo", json!({})).await;
    for (rows, reloads) in [(format!("{USUAL}{OPENED}"), 1), (USUAL.to_owned(), 2)] {
        site.write("policies/policy.csv", &rows);
        until("a reload", async || (site.of_kind("policy_change").len() == reloads).then_some(())).await;
    }
    gateway.client().call("up__pay", json!({})).await;
    site.ends(1).await;
    assert!(gateway.stop().await.0.success());
    (upstream, site)
}

async fn reach(site: &Site, more: &[&str]) -> Value {
    let done = site.run(&[&["--json", "audit", "reach", "demo"], more].concat()).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.json()
}

fn target<'v>(reach: &'v Value, name: &str) -> &'v Value {
    reach["targets"].as_array().unwrap().iter().find(|row| row["target"] == name).unwrap_or_else(|| panic!("{name}: {reach}"))
}

#[tokio::test]
async fn what_was_open_for_a_while_is_told_with_its_times_though_nothing_was_called_and_the_files_say_nothing_of_it() {
    let (_upstream, site) = opened_for_a_while().await;
    let told = reach(&site, &[]).await;
    let changes = site.of_kind("policy_change");
    let policies: Vec<_> = told["policies"].as_array().unwrap().iter().map(|policy| policy["version"].clone()).collect();
    assert_eq!(policies, [&changes[0]["before"], &changes[0]["after"], &changes[1]["after"]].map(Clone::clone), "{told}");
    assert!(told["policies"].as_array().unwrap().iter().all(|policy| policy["kept"] == true && policy["to"].is_string()), "{told}");
    let pay = target(&told, "up__pay");
    assert_eq!(
        (&pay["could"], &pay["always"], &pay["calls"], &pay["refused"]),
        (&json!(true), &json!(false), &json!(0), &json!(1)),
        "{pay}"
    );
    assert_eq!(pay["open"], json!([{ "from": changes[0]["time"], "to": changes[1]["time"], "why": "X9" }]), "{pay}");
    let echo = target(&told, "up__echo");
    assert_eq!((&echo["always"], &echo["calls"], echo["open"].as_array().unwrap().len()), (&json!(true), &json!(1), 1), "{echo}");
    let save = target(&told, "up__save");
    assert_eq!((&save["could"], &save["shut"]), (&json!(false), &json!("no rule allows it")), "{save}");
}

#[tokio::test]
async fn only_the_policies_of_the_time_that_is_asked_for_count() {
    let (_upstream, site) = opened_for_a_while().await;
    let changes = site.of_kind("policy_change");
    let at = |number: usize| changes[number]["time"].as_str().unwrap();
    let before = reach(&site, &["--until", at(0)]).await;
    assert_eq!((before["policies"].as_array().unwrap().len(), &target(&before, "up__pay")["could"]), (1, &json!(false)), "{before}");
    let after = reach(&site, &["--since", at(1)]).await;
    assert_eq!((&target(&after, "up__pay")["refused"], &target(&after, "up__echo")["calls"]), (&json!(1), &json!(0)), "{after}");
    let within = reach(&site, &["--since", at(0), "--until", at(1)]).await;
    let versions: Vec<_> = within["policies"].as_array().unwrap().iter().map(|policy| &policy["version"]).collect();
    assert!(versions.contains(&&changes[0]["after"]), "{within}");
    assert_eq!(target(&within, "up__pay")["open"][0]["why"], "X9", "{within}");
}

#[tokio::test]
async fn where_a_policy_is_not_kept_the_files_of_today_stand_in_and_that_is_said() {
    let (_upstream, site) = opened_for_a_while().await;
    let opened = site.of_kind("policy_change")[0]["after"].as_str().unwrap().to_owned();
    fs::remove_file(site.path(&format!("var/audit/kept/policy-{}.jsonl", opened.trim_start_matches("sha256:")))).unwrap();
    let told = site.run(&["audit", "reach", "demo"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    let line = told.out.lines().find(|line| line.contains(&opened)).unwrap_or_else(|| panic!("{told:?}"));
    assert!(line.contains("NOT KEPT, so the files of today stand in for it") && told.out.contains("CAUTION"), "{told:?}");
    assert!(told.out.lines().any(|line| line.starts_with("up__pay") && line.contains("  no  ")), "{told:?}");
    // With nothing to stand in, there is no answer.
    fs::remove_file(site.path("policies/policy.csv")).unwrap();
    let without = site.run(&["audit", "reach", "demo"]).await;
    assert_eq!((without.code, without.err.contains("what is in force cannot be loaded")), (2, true), "{without:?}");
}

#[tokio::test]
async fn what_is_kept_is_enough_where_the_files_are_gone() {
    let (_upstream, site) = opened_for_a_while().await;
    fs::remove_dir_all(site.path("policies")).unwrap();
    let told = reach(&site, &["--open"]).await;
    let open: Vec<_> = told["targets"].as_array().unwrap().iter().map(|row| row["target"].as_str().unwrap()).collect();
    assert_eq!(open, ["up__echo", "up__pay"], "{told}");
}
