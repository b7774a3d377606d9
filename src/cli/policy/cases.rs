//! `doorward policy test`: the cases of `policies/tests/*.yaml`, each a call and what is to be decided about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use serde_saphyr::Spanned;

use super::Files;
use super::explain::{clock, verdict};
use crate::catalog::Label;
use crate::cli::{Context, Failure, table};
use crate::config::{Fault, check_name, parse_yaml, read_text};
use crate::identity::Principal;
use crate::mcp::json::{self, Limits, Node};
use crate::policy::{Call, Decision};
use crate::run::Before;

/// Arguments of `doorward policy test`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy test --junit policy.xml\n\nA case:\n  cases:\n    - { agent: demo, call: demo__write_note, with: { name: todo, text: milk }, expect: allow, rules: [R1] }\n\nExit codes: 0 all is decided as asked and every row decides a case, 2 a fault in a file, 3 a case is decided otherwise or a row decides none."
)]
pub struct Args {
    /// The files; without any, all of policies/tests.
    files: Vec<PathBuf>,
    /// Write the results as JUnit XML too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Rows that decide no case are no failure.
    #[arg(long)]
    uncovered_ok: bool,
}

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaseFile {
    cases: Vec<Spanned<Case>>,
}

/// One call, and what is to be decided about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    #[serde(default)]
    name: Option<String>,
    agent: String,
    call: String,
    /// The arguments: a mapping, or JSON in a text where digits matter that a double does not hold.
    #[serde(default)]
    with: Option<serde_json::Value>,
    /// An RFC 3339 time; without one, 2026-01-01T00:00:00Z, so that a case does not turn with the clock.
    #[serde(default)]
    at: Option<String>,
    /// The labels that the agent has met before.
    #[serde(default)]
    met: Vec<Label>,
    /// How many calls it has made before, by the `of` of a condition that counts them; all of them within its time.
    #[serde(default)]
    made: BTreeMap<String, u64>,
    expect: Expected,
    /// The rules that decide, all of them; not looked at where left out.
    #[serde(default)]
    rules: Option<Vec<String>>,
    /// The obligations, all of them, without their rows; not looked at where left out.
    #[serde(default)]
    obligations: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Allow,
    Deny,
}

/// How one case went.
struct Outcome {
    place: String,
    name: String,
    /// What was decided otherwise.
    wrong: Option<String>,
    rules: Vec<String>,
}

/// Decides and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let files = Files::load(context)?;
    let named = if args.files.is_empty() { shipped(context)? } else { args.files.clone() };
    let mut outcomes = Vec::new();
    for file in &named {
        let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
        let read: CaseFile = parse_yaml(file, &text)?;
        for case in &read.cases {
            outcomes.push(decided(&files, file, case)?);
        }
    }
    let reached: BTreeSet<&str> = outcomes.iter().flat_map(|outcome| &outcome.rules).map(String::as_str).collect();
    let rows = files.policy.rows().rules.iter().map(|rule| rule.id.as_str());
    let uncovered: Vec<&str> = rows.filter(|rule| !reached.contains(rule)).collect();
    if let Some(file) = &args.junit {
        std::fs::write(file, junit(&outcomes, &uncovered)).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    }
    let failed = outcomes.iter().filter(|outcome| outcome.wrong.is_some()).count();
    if context.json {
        let cases: Vec<_> = outcomes
            .iter()
            .map(|outcome| json!({ "at": outcome.place, "name": outcome.name, "wrong": outcome.wrong, "rules": outcome.rules }))
            .collect();
        println!("{}", json!({ "cases": cases, "failed": failed, "uncovered": uncovered, "policy_version": files.policy.version() }));
    } else {
        for outcome in &outcomes {
            if let Some(wrong) = &outcome.wrong {
                println!("{}: {}: {}", outcome.place, table::safe(&outcome.name), table::safe(wrong));
            }
        }
        uncovered.iter().for_each(|rule| println!("{rule}: no case is decided by this row"));
        println!("{} cases, {failed} decided otherwise, {} rows without a case", outcomes.len(), uncovered.len());
    }
    Ok(if failed > 0 || !uncovered.is_empty() && !args.uncovered_ok { 3 } else { 0 })
}

/// The files of `policies/tests`, by name.
fn shipped(context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let folder = AsRef::<Path>::as_ref(&context.config()?.policies).join("tests");
    let read = std::fs::read_dir(&folder).map_err(|error| Failure::Usage(format!("{}: {error}", folder.display())))?;
    let mut files: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    Ok(files)
}

fn decided(files: &Files, file: &Path, spanned: &Spanned<Case>) -> Result<Outcome, Fault> {
    let case = &spanned.value;
    let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
    let fault = |message: String| Fault::at(file, line, column, message);
    check_name(&case.agent).map_err(fault)?;
    let (target, tier, labels) =
        files.target(&case.call).ok_or_else(|| fault(format!("there is no target `{}`", case.call.escape_default())))?;
    let text = match &case.with {
        None => "{}".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(arguments) => arguments.to_string(),
    };
    let node = json::parse(text.as_bytes(), Limits::default()).map_err(|error| fault(format!("`with`: {error}")))?;
    if !node.is_object() {
        return Err(fault("`with` is no object".to_owned()));
    }
    let at = case.at.as_deref().unwrap_or("2026-01-01T00:00:00Z");
    let at = at.parse().map_err(|_| fault(format!("`{}` is not an RFC 3339 time", at.escape_default())))?;
    let (principal, clock) = (Principal::local(&case.agent, "admin"), clock(Some(at)));
    let made = case.made.iter().map(|(of, made)| (of.clone(), *made)).collect();
    if let Some(of) = case.made.keys().find(|of| !files.policy.counted().any(|known| known.to_string() == **of)) {
        return Err(fault(format!("no row counts calls of `{}`", of.escape_default())));
    }
    let before = Before::given(&case.met, made);
    let call = Call { principal: &principal, target, tier, labels, before: &before, arguments: Some(&node), clock: &clock };
    let decision = files.policy.explain(&call).decision;
    let wrong = invalid(files, &case.call, &node).or_else(|| otherwise(case, &decision));
    let obliging = decision.obligations().iter().map(|obliged| obliged.rule.to_string());
    Ok(Outcome {
        place: format!("{}:{line}:{column}", file.display()),
        name: case.name.clone().unwrap_or_else(|| format!("{} calls {}", case.agent, case.call)),
        wrong,
        rules: decision.rules().iter().map(ToString::to_string).chain(obliging).collect(),
    })
}

/// Why the call would not come as far as the policy.
fn invalid(files: &Files, name: &str, arguments: &Node<'_>) -> Option<String> {
    let tool = files.tool(name)?;
    match tool.schemas(&files.schemas) {
        Err(standing) => Some(format!("the tool is {standing}")),
        Ok(schemas) => schemas.input.check(arguments).err().map(|details| {
            let broken = details.first().map(|detail| format!(": {} at `{}`", detail.keyword, detail.pointer)).unwrap_or_default();
            format!("the arguments do not match the tool's schema{broken}")
        }),
    }
}

fn otherwise(case: &Case, decision: &Decision<'_>) -> Option<String> {
    let sorted = |mut words: Vec<String>| {
        words.sort();
        words
    };
    let permits = decision.is_permit() == (case.expect == Expected::Allow);
    let rules = decision.rules().iter().map(ToString::to_string).collect();
    let same_rules = case.rules.as_ref().is_none_or(|expected| sorted(expected.clone()) == sorted(rules));
    let obligations = decision.obligations().iter().map(|obliged| obliged.obligation.to_string()).collect();
    let same_obligations = case.obligations.as_ref().is_none_or(|expected| sorted(expected.clone()) == sorted(obligations));
    if permits && same_rules && same_obligations {
        return None;
    }
    let expected = if case.expect == Expected::Allow { "allowed" } else { "denied" };
    let by = match case.rules.as_deref() {
        None => String::new(),
        Some([]) => " by no rule".to_owned(),
        Some(rules) => format!(" by {}", rules.join(", ")),
    };
    let with = case.obligations.as_ref().map(|with| format!(", with {}", with.join(", "))).unwrap_or_default();
    Some(format!("{}; asked for: {expected}{by}{with}", verdict(decision)))
}

/// The results as JUnit has them, with the rows that no case reaches as cases of their own.
fn junit(outcomes: &[Outcome], uncovered: &[&str]) -> String {
    let failures = outcomes.iter().filter(|outcome| outcome.wrong.is_some()).count() + uncovered.len();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<testsuite name=\"doorward policy\" tests=\"{}\" failures=\"{failures}\">", outcomes.len() + uncovered.len());
    for outcome in outcomes {
        let (name, place) = (escaped(&outcome.name), escaped(&outcome.place));
        let _ = match &outcome.wrong {
            None => writeln!(out, "  <testcase name=\"{name}\" classname=\"{place}\"/>"),
            Some(wrong) => {
                writeln!(out, "  <testcase name=\"{name}\" classname=\"{place}\"><failure message=\"{}\"/></testcase>", escaped(wrong))
            }
        };
    }
    for rule in uncovered {
        let rule = escaped(rule);
        let failure = "<failure message=\"no case is decided by this row\"/>";
        let _ = writeln!(out, "  <testcase name=\"{rule} decides a case\" classname=\"coverage\">{failure}</testcase>");
    }
    out + "</testsuite>\n"
}

fn escaped(text: &str) -> String {
    table::safe(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
