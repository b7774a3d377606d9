//! What is shipped works as it is: files load, examples parse, commands in the documentation run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use doorward::catalog::manifest::Manifest;
use doorward::catalog::tier::Tier;
use doorward::config::{Config, parse_yaml};
use doorward::limit::{Limits, Time};
use doorward::policy::{Conditions, Names, Options, Policy, TargetFacts};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::site::shipped;
use crate::support::soon;

const TOOLS: [(&str, Tier); 8] = [
    ("demo__append_note", Tier::Reversible),
    ("demo__delete_note", Tier::Irreversible),
    ("demo__index_notes", Tier::Read),
    ("demo__list_notes", Tier::Read),
    ("demo__read_note", Tier::Read),
    ("demo__search_notes", Tier::Read),
    ("demo__share_note", Tier::Irreversible),
    ("demo__write_note", Tier::Reversible),
];

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(shipped("docs")).unwrap().map(|page| page.unwrap().path());
    let mut pages: Vec<_> = docs.filter(|page| page.extension().is_some_and(|ending| ending == "md")).collect();
    pages.push(shipped("README.md"));
    pages.sort();
    pages
}

/// The fenced blocks of a page in one language, each with its line.
fn fences(page: &Path, language: &str) -> Vec<(usize, String)> {
    let text = fs::read_to_string(page).unwrap();
    let (mut found, mut open) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some((kind.to_owned(), number + 1, String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, _, block)), None) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is not closed", page.display());
    found.into_iter().filter(|(kind, ..)| kind == language).map(|(_, line, block)| (line, block)).collect()
}

/// A copy of what is shipped, and of the binary under its name.
fn copy() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::copy(shipped("doorward.yaml"), home.path().join("doorward.yaml")).unwrap();
    for folder in ["policies", "tool-manifests"] {
        fs::create_dir(home.path().join(folder)).unwrap();
        for file in fs::read_dir(shipped(folder)).unwrap().map(|file| file.unwrap()).filter(|file| file.path().is_file()) {
            fs::copy(file.path(), home.path().join(folder).join(file.file_name())).unwrap();
        }
    }
    fs::create_dir(home.path().join("policies/tests")).unwrap();
    fs::copy(shipped("policies/tests/notes.yaml"), home.path().join("policies/tests/notes.yaml")).unwrap();
    fs::create_dir(home.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_doorward"), home.path().join("bin/doorward")).unwrap();
    home
}

/// Runs a line as a shell would in the copy; its exit code, and what it said.
async fn shell(home: &TempDir, line: &str) -> (i32, String) {
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(home.path()).env("PATH", path).env_remove("DOORWARD_CONFIG").env("HOME", home.path());
    let output = soon(line, shell.stdin(Stdio::null()).kill_on_drop(true).output()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}

#[tokio::test]
async fn the_shipped_folders_load_without_a_warning() {
    let home = copy();
    let (code, said) = shell(&home, "doorward check").await;
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("warning") && said.contains("8 tools, 0 withheld"), "{said}");
    assert_eq!(shell(&home, "doorward tools diff").await.0, 0, "the committed lock is what the built-in server says");
}

#[tokio::test]
async fn the_shipped_policy_reads_and_writes_notes_and_stops_there() {
    let home = copy();
    for (line, wanted) in [
        ("doorward call demo__list_notes --as demo", 0),
        ("doorward call demo__write_note name=todo text=milk --as demo", 0),
        ("doorward call demo__read_note name=todo --as local", 0),
        ("doorward call demo__delete_note name=todo --as demo", 3),
        ("doorward call demo__list_notes --as stranger", 2),
    ] {
        let (code, said) = shell(&home, line).await;
        assert_eq!(code, wanted, "{line}: {said}");
    }
    let (_, tail) = shell(&home, "doorward audit tail").await;
    assert!(tail.contains("demo__delete_note") && tail.contains("policy_denied"), "{tail}");
    assert_eq!(shell(&home, "doorward audit verify").await.0, 0);
}

#[tokio::test]
async fn every_command_of_the_documentation_runs() {
    for page in pages() {
        let home = copy();
        // The pages speak of a gateway that has been used: there is a log to ask.
        assert_eq!(shell(&home, "doorward call demo__list_notes --as demo").await.0, 0);
        // And of an anchor that has kept a checkpoint of it.
        fs::copy(home.path().join("var/audit/local-1/checkpoint.note"), home.path().join("anchors.notes")).unwrap();
        // And of a candidate of the policy.
        assert_eq!(shell(&home, "cp -r policies policies.new").await.0, 0);
        for (line, block) in fences(&page, "console") {
            for command in block.lines().filter_map(|line| line.strip_prefix("$ ")).filter(|line| line.starts_with("doorward ")) {
                let exit = command.split_once("# exit ").map_or("0", |(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap());
                let (code, said) = shell(&home, command).await;
                assert_eq!(code.to_string(), exit, "{}:{line}: {command}\n{said}", page.display());
            }
        }
    }
}

#[test]
fn every_json_of_the_documentation_parses() {
    for page in pages() {
        for (line, block) in fences(&page, "json") {
            serde_json::from_str::<serde_json::Value>(&block).unwrap_or_else(|error| panic!("{}:{line}: {error}", page.display()));
        }
    }
}

#[test]
fn every_yaml_of_the_documentation_is_what_it_looks_like() {
    let upstreams = ["demo".to_owned()];
    let names = Names { upstreams: &upstreams, agents: None, targets: &[] };
    for page in pages() {
        for (line, block) in fences(&page, "yaml") {
            let first = block.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
            let faults = match first.split(':').next().unwrap_or_default() {
                "upstream" => parse_yaml::<Manifest>(&page, &block).map(drop).map_err(|fault| vec![fault]),
                // Decided below.
                "cases" => Ok(()),
                "conditions" => Conditions::parse(&page, &block).map(drop),
                "limits" | "loops" | "budgets" | "requests" | "floods" => Limits::parse(&page, &block, &names, &Time::standing()).map(drop),
                _ => parse_yaml::<Config>(&page, &block).map(drop).map_err(|fault| vec![fault]),
            };
            faults.unwrap_or_else(|faults| panic!("{}:{line}: {faults:?}", page.display()));
        }
    }
}

#[tokio::test]
async fn every_case_of_the_documentation_is_decided_as_it_says() {
    let home = copy();
    for page in pages() {
        for (line, block) in fences(&page, "yaml").into_iter().filter(|(_, block)| block.starts_with("cases:")) {
            fs::write(home.path().join("cases.yaml"), block).unwrap();
            let (code, said) = shell(&home, "doorward policy test --uncovered-ok cases.yaml").await;
            assert_eq!(code, 0, "{}:{line}: {said}", page.display());
        }
    }
}

#[test]
fn every_example_of_the_shipped_conditions_loads() {
    let text = fs::read_to_string(shipped("policies/conditions.yaml")).unwrap();
    let examples = text.replace("  # ", "  ");
    let conditions = Conditions::parse(Path::new("conditions.yaml"), &examples).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert!(conditions.len() >= 12, "{}", conditions.len());
}

#[test]
fn every_row_of_the_documentation_loads() {
    let targets = TOOLS.map(|(name, tier)| TargetFacts { name, tier });
    let options = Options { upstreams: vec!["demo".into()], ..Options::default() };
    for page in pages() {
        for (line, block) in fences(&page, "csv") {
            let loaded = Policy::parse(&page, &block, &targets, &options);
            loaded.map(drop).unwrap_or_else(|faults| panic!("{}:{line}: {faults:?}", page.display()));
        }
    }
}

#[test]
fn every_link_inside_the_documentation_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found = fs::read_to_string(&target).unwrap_or_else(|error| panic!("{}: {link}: {error}", page.display()));
            let heading = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == section;
            assert!(section.is_empty() || found.lines().any(heading), "{}: {link}", page.display());
        }
    }
}

/// The shipped limits with the budgets that they show.
fn limits_with_budgets() -> String {
    let text = fs::read_to_string(shipped("policies/limits.yaml")).unwrap();
    text.replace("# budgets:", "budgets:").replace("#   - { id: B", "  - { id: B").replace("budgets: []\n", "")
}

/// The limits of a text, for a gateway with one tool.
fn limits(text: &str) -> Result<Limits, String> {
    let upstreams = ["demo".to_owned()];
    let names = Names { upstreams: &upstreams, agents: None, targets: &[TargetFacts { name: "demo__read_note", tier: Tier::Read }] };
    Limits::parse(Path::new("limits.yaml"), text, &names, &Time::standing()).map_err(|faults| format!("{faults:?}"))
}

#[test]
fn editors_are_given_a_schema_of_limits_that_takes_what_the_loader_takes() {
    let schema = doorward::limit::schema();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let value = |text: &str| parse_yaml::<serde_json::Value>(Path::new("limits.yaml"), text).unwrap();
    let found: Vec<String> = validator.iter_errors(&value(&limits_with_budgets())).map(|error| error.to_string()).collect();
    assert!(found.is_empty(), "{found:?}");
    for wrong in [
        "flods: { first: 5 }\n",
        "limits: [{ id: A, per: [agent], of: \"*\", rate: 5/y }]\n",
        "limits: [{ id: A, per: [tool], of: \"*\", rate: 5/s }]\n",
        "loops: [{ id: A, of: \"*\", when: never, block: 2, window: 10min }]\n",
        "budgets: [{ id: A, per: [agent], of: \"*\", calls: 0, window: 24h }]\n",
        "requests: { per_agent: 5 }\n",
        "max_keys: 15\n",
    ] {
        assert!(!validator.is_valid(&value(wrong)) && limits(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_budgets_that_the_shipped_limits_show_load() {
    let target = "demo__read_note";
    let limits = limits(&limits_with_budgets()).unwrap();
    assert_eq!(limits.counting(target, Tier::Read), (vec!["P1", "P3", "P4", "P5"], vec!["B1", "B2"]));
}
