//! `doorward policy suggest`: a patch that takes back what nobody used.
//!
//! Leaves to `policy::narrow` and `policy::cover` what goes; here it is weighed against the policy in force before it is shown: a patch that
//! permitted more would be none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::patch::Patch;
use super::rights::more;
use super::{loaded, logs, span};
use crate::audit::decisions::{Decided, Times};
use crate::audit::filter::Filter;
use crate::audit::find::Logs;
use crate::audit::record::Stored;
use crate::audit::row::Field;
use crate::catalog::Target;
use crate::catalog::tier::Tier;
use crate::cli::table::safe;
use crate::cli::{Context, Failure};
use crate::clock::rfc3339;
use crate::config::{Config, read_text};
use crate::gateway::{Folders, Loaded};
use crate::policy::cover::{Covered, Uncovered, written};
use crate::policy::narrow::{Narrowing, Pairs, Used};
use crate::policy::seen::{Cover, Plain, Seen, plain_fields};
use crate::policy::{Flow, Options, Policy};

/// Nanoseconds in a week: what is used once a week is not seen in less.
const WEEK: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Arguments of `doorward policy suggest`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy suggest --since 30d > least.patch\n  patch -p0 < least.patch\n\nA role keeps what half of its agents used, and arguments are held to what was seen where records have them in clear. Nothing is changed by itself. Exit codes: 0 done, with or without a patch, 2 a fault in a file."
)]
pub struct Args {
    /// From here on: an RFC 3339 time, a date here, or how long ago (`15m`, `1h`, `2d`). Default: all that is recorded.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, in the same forms.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Leave arguments out: rows and grants alone.
    #[arg(long)]
    no_conditions: bool,
}

/// What was used, and when.
#[derive(Default)]
struct Evidence {
    used: Used,
    calls: u64,
    time: Option<(i64, i64)>,
}

/// What is suggested of the arguments.
#[derive(Default)]
struct Arguments {
    rows: Vec<Covered>,
    left: BTreeSet<Uncovered>,
    /// Arguments of used targets that records have in no readable form.
    unreadable: Vec<String>,
    /// Why there is no condition at all, where conditions.yaml is the reason.
    refused: Option<&'static str>,
}

/// The two files, as they are or as they would be.
#[derive(Clone)]
struct Texts {
    rows: String,
    /// `None` where there is no such file.
    conditions: Option<String>,
}

/// Looks and prints.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let (since, until) = span(args.since.as_deref(), args.until.as_deref())?;
    let (mut evidence, logs) = (Evidence::default(), logs(&config)?);
    for (decided, times) in logs.decisions(since, until).map_err(Failure::other)? {
        evidence.take(decided, times);
    }
    let agents = Folders::of(&config).known().unwrap_or_default();
    evidence.used.agents = agents.into_iter().map(|agent| format!("agent:{agent}")).collect();
    let today = loaded(&config, config.policies.as_ref())?;
    let folder: &Path = config.policies.as_ref();
    let file = folder.join("policy.csv");
    let before = Texts {
        rows: read_text(&file).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?,
        conditions: read_text(&folder.join("conditions.yaml")).ok(),
    };
    let changes = if evidence.calls == 0 { Vec::new() } else { today.policy.narrowed(&evidence.used) };
    let mut after = Texts { rows: edited(&before.rows, &changes), ..before.clone() };
    let mut arguments = Arguments::default();
    let mut candidate = candidate(&config, &today, &after)?;
    if !args.no_conditions && evidence.calls > 0 {
        arguments = seen(&logs, (since, until), (&today, &candidate), &evidence.used)?;
        (after, candidate) = with_conditions(&config, &today, (after, candidate), &mut arguments)?;
    }
    let targets: Vec<(&str, Tier)> = today.catalog.tools().iter().map(|tool| (&*tool.policy_name, tool.tier)).collect();
    if let Some(more) = more(&today.policy, &candidate, &targets) {
        return Err(Failure::Other(format!("no suggestion: it would permit more than today ({more})")));
    }
    let pairs = (today.policy.pairs(&evidence.used), candidate.pairs(&evidence.used));
    let here = std::env::current_dir().map_err(Failure::other)?;
    let mut patch = Patch::of(folder, &here);
    patch.add("policy.csv", Some(&before.rows), &after.rows);
    if let Some(conditions) = after.conditions.as_deref().filter(|_| after.conditions != before.conditions) {
        patch.add("conditions.yaml", before.conditions.as_deref(), conditions);
    }
    if context.json {
        let list: Vec<_> = changes.iter().map(told_json).collect();
        let time = evidence.time.map(|(first, last)| json!({ "first": rfc3339(first), "last": rfc3339(last) }));
        let counts = |pairs: Pairs| json!({ "permitted": pairs.permitted, "used": pairs.used });
        println!(
            "{}",
            json!({ "policy_version": today.policy.version(), "calls": evidence.calls, "time": time, "changes": list,
                "conditions": arguments.rows.iter().map(covered_json).collect::<Vec<_>>(),
                "left": arguments.left.iter().map(|left| json!({ "target": left.target, "pointer": left.pointer, "why": left.why })).collect::<Vec<_>>(),
                "unreadable": arguments.unreadable, "today": counts(pairs.0), "then": counts(pairs.1), "apply": patch.command(), "patch": patch.text() })
        );
        return Ok(0);
    }
    print!("{}{}", told(&evidence, &changes, pairs), told_arguments(&arguments));
    if !patch.text().is_empty() {
        print!("# To apply it: {}\n{}", patch.command(), patch.text());
    }
    Ok(0)
}

/// What stood in the arguments of permitted calls, and which rows could ask for that.
fn seen(
    logs: &Logs,
    (since, until): (Option<i64>, Option<i64>),
    (today, candidate): (&Loaded, &Policy),
    used: &Used,
) -> Result<Arguments, Failure> {
    let is_used = |tool: &&Target| used.pairs.iter().any(|(_, target)| *target == *tool.policy_name);
    let (mut fields, mut unreadable) = (BTreeMap::new(), Vec::new());
    for tool in today.catalog.tools().iter().filter(is_used) {
        let definition: Value = serde_json::from_slice(&tool.listed).unwrap_or_default();
        let schema = definition.get("inputSchema").unwrap_or(&Value::Null);
        let plain = plain_fields(schema, &tool.fields);
        let names = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys);
        let pointers = names.map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")));
        let is_read =
            |pointer: &String| plain.iter().any(|plain| plain.pointer == *pointer || plain.pointer.starts_with(&format!("{pointer}/")));
        unreadable.extend(pointers.filter(|pointer| !is_read(pointer)).map(|pointer| format!("{pointer} of {}", tool.policy_name)));
        if !plain.is_empty() {
            fields.insert(tool.policy_name.to_string(), plain);
        }
    }
    let filter = Filter { since, until, ..Filter::default() };
    let filter = filter
        .and_any(Field::Decision, vec!["allow".to_owned(), "needs_approval".to_owned()])
        .and_any(Field::Target, fields.keys().cloned().collect());
    let mut seen = Seen::default();
    if !fields.is_empty() {
        let read = logs.each(&filter, |line| take(&mut seen, &fields, line));
        read.map_err(Failure::other)?;
    }
    let (rows, left) = candidate.covered(used, &seen, &fields);
    Ok(Arguments { rows, left, unreadable, refused: None })
}

fn take(seen: &mut Seen, fields: &BTreeMap<String, Vec<Plain>>, line: &[u8]) {
    let Some(stored) = Stored::parse(line) else { return };
    let record = &stored.record;
    if let (Some(principal), Some(target)) = (record.principal.as_deref(), record.target.as_deref())
        && let Some(plain) = fields.get(target)
    {
        let arguments: Option<Value> = record.args.as_deref().and_then(|text| serde_json::from_str(text).ok());
        seen.take(principal, target, arguments.as_ref(), plain);
    }
}

/// The files with the conditions, and the policy that they are; as they were where conditions.yaml takes no more, which is told.
fn with_conditions(
    config: &Config,
    today: &Loaded,
    (texts, policy): (Texts, Policy),
    arguments: &mut Arguments,
) -> Result<(Texts, Policy), Failure> {
    if arguments.rows.is_empty() {
        return Ok((texts, policy));
    }
    let written = written(&texts.rows, texts.conditions.as_deref(), &arguments.rows);
    let asked = written.and_then(|(rows, conditions)| {
        let more = Texts { rows, conditions: Some(conditions) };
        Some((candidate(config, today, &more).ok()?, more))
    });
    // Whatever else is in the file must say what it said.
    let keeps = |other: &Policy| {
        policy.conditions().all().all(|(_, condition)| {
            let same = other.conditions().id(&condition.name).and_then(|id| other.conditions().get(id));
            same.is_some_and(|same| same.canonical == condition.canonical)
        })
    };
    match asked.filter(|(other, _)| keeps(other)) {
        Some((other, more)) => Ok((more, other)),
        None => {
            *arguments =
                Arguments { refused: Some("conditions.yaml is written in a form that no line can be added to"), ..Arguments::default() };
            Ok((texts, policy))
        }
    }
}

impl Evidence {
    fn take(&mut self, decided: Decided, times: Times) {
        if decided.permitted {
            self.used.pairs.insert((decided.principal, decided.target));
            self.calls += times.count;
        }
        let (first, last) = self.time.unwrap_or((times.first, times.last));
        self.time = Some((first.min(times.first), last.max(times.last)));
    }
}

/// The file with other rows in the places of some.
fn edited(text: &str, changes: &[Narrowing<'_>]) -> String {
    let mut out = String::new();
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        match changes.iter().find(|change| change.line == number) {
            None => out.push_str(line),
            Some(change) => out.extend(change.rows.iter().flat_map(|row| [row, "\n"])),
        }
    }
    out
}

/// The policy that the edited files are, read as the gateway reads them.
fn candidate(config: &Config, today: &Loaded, texts: &Texts) -> Result<Policy, Failure> {
    let upstreams = today.catalog.sources().iter().map(|source| source.manifest.upstream.clone()).collect();
    let options = Options {
        upstreams,
        conditions: texts.conditions.clone().unwrap_or_default(),
        limits: today.limits.text().to_owned(),
        labels: today.catalog.tools().iter().map(|tool| tool.labels.clone()).collect(),
        brought: today.catalog.brought(),
        flow: Flow::of(&config.labels.toxic_flow),
        ..Options::default()
    };
    let file = config.policies.as_ref().join("policy.csv");
    Ok(Policy::parse(&file, &texts.rows, &crate::gateway::targets(&today.catalog), &options)?.0)
}

fn covered_json(row: &Covered) -> Value {
    let fields = row
        .covers
        .iter()
        .map(|cover| json!({ "pointer": cover.pointer, "test": cover.test, "calls": cover.calls, "values": cover.values }));
    json!({ "rule": row.rule.as_str(), "target": row.called.0, "agents": row.called.1, "condition": row.name, "before": row.was, "fields": fields.collect::<Vec<_>>() })
}

/// What is known of the arguments, in lines that a patch may have before its first file.
fn told_arguments(arguments: &Arguments) -> String {
    let mut out = String::new();
    for row in &arguments.rows {
        for Cover { pointer, test, calls, values } in &row.covers {
            let (rule, (target, agents)) = (&row.rule, &row.called);
            let _ = writeln!(
                out,
                "# {rule} asks for {test}: {calls} calls of {target} by {agents} agents had {values} different values in {}.",
                safe(pointer)
            );
        }
    }
    for Uncovered { target, pointer, why } in &arguments.left {
        let _ = writeln!(out, "# {} of {} is left as it is: {why}.", safe(pointer), safe(target));
    }
    if let Some(why) = arguments.refused {
        let _ = writeln!(out, "# Nothing is asked of arguments: {why}.");
    }
    if let Some((first, rest)) = arguments.unreadable.split_first() {
        let shown = std::iter::once(first).chain(rest.iter().take(MAX_TOLD - 1)).map(|name| safe(name)).collect::<Vec<_>>().join(", ");
        let more = arguments.unreadable.len().saturating_sub(MAX_TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(out, "# Records do not have these in clear, so nothing can be told of them: {shown}{more}.");
        let _ = writeln!(out, "# A field that is declared `plain` in its manifest can be read in the records from then on.");
    }
    out
}

/// Fields without clear values that are named one by one.
const MAX_TOLD: usize = 5;

fn told_json(change: &Narrowing<'_>) -> serde_json::Value {
    json!({ "line": change.line, "rule": change.rule.as_ref().map(|rule| rule.as_str()), "rows": change.rows,
        "agents": { "reached": change.agents.0, "used": change.agents.1 }, "targets": { "reached": change.targets.0, "used": change.targets.1 } })
}

/// The evidence, in lines that a patch may have before its first file.
fn told(evidence: &Evidence, changes: &[Narrowing<'_>], (today, then): (Pairs, Pairs)) -> String {
    let Some((first, last)) = evidence.time.filter(|_| evidence.calls > 0) else {
        return "# No permitted call is on record for this time: nothing can be told of what is used.\n".to_owned();
    };
    let mut out = format!("# {} permitted calls from {} to {}.\n", evidence.calls, rfc3339(first), rfc3339(last));
    if last - first < WEEK {
        out += "# That is less than a week: what is needed once a week or a month may not have been seen.\n";
    }
    for change in changes {
        let becomes = if change.rows.is_empty() { "goes" } else { "is narrowed" };
        let line = change.line;
        let _ = match &change.rule {
            None => writeln!(out, "# line {line}: the grant goes: nothing that the role permits was used through it."),
            Some(rule) if change.targets.1 == 0 => {
                writeln!(out, "# {rule} (line {line}) goes: none of its {} agents used it.", change.agents.0)
            }
            Some(rule) => {
                let ((agents, active), (targets, used)) = (change.agents, change.targets);
                writeln!(out, "# {rule} (line {line}) {becomes}: {active} of {agents} agents used {used} of {targets} targets of it.")
            }
        };
    }
    if changes.is_empty() {
        out += "# Every allow and every grant was used as far as it reaches.\n";
    }
    let _ = writeln!(
        out,
        "# Pairs of agent and tool: {} permitted today and {} with this, {} used.",
        today.permitted, then.permitted, today.used
    );
    out
}
