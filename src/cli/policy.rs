//! `doorward policy`: what the policy says of a call and why, and whether it says what its cases ask for.
//!
//! Leaves to `policy` every decision: what is asked here is decided by the code that decides on the path.

mod cases;
mod explain;
mod history;
mod lint;
mod patch;
mod recorded;
mod replay;
mod rights;
mod row;
mod scratch;
mod shadow;
mod sign;
mod suggest;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::audit::time;
use super::{Context, Failure};
use crate::audit::find::Logs;
use crate::catalog::tier::Tier;
use crate::catalog::{Catalog, Label, Live, Target};
use crate::config::Config;
use crate::gateway::{Folders, Loaded, Plan};
use crate::identity::People;
use crate::listen::admin::{self, Command};
use crate::policy::{Policy, Warning, upstream_and_name};
use crate::schema::Schemas;

/// What is asked of the policy.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Tell how a call would be decided, by which row, and what became of every other row about its target.
    Explain(explain::Args),
    /// Decide the cases of policies/tests/*.yaml, and tell which are decided otherwise and which rows no case reaches.
    Test(cases::Args),
    /// Tell which rows do nothing, reach too far, or name what is not there.
    Lint(lint::Args),
    /// Show who may do what: tools by roles.
    Matrix(rights::MatrixArgs),
    /// Tell who gains and who loses what by an edit, over every role, agent and tool.
    Diff(rights::DiffArgs),
    /// Tell which calls on record a candidate policy would decide otherwise.
    Replay(replay::Args),
    /// Have a candidate, or a single row, decide beside the policy in force, without effect, and tell what it says of the calls.
    Shadow(shadow::ShadowArgs),
    /// Put the candidate in the place of the policy in force.
    Promote(shadow::PromoteArgs),
    /// Print a patch that takes back what nobody used, by the calls on record.
    Suggest(suggest::Args),
    /// Show which policies were in force, since when and by whom.
    History(history::HistoryArgs),
    /// Put the files of a policy that was in force back, at once.
    Rollback(history::RollbackArgs),
    /// Make a key that signs policies.
    Keygen(sign::KeygenArgs),
    /// Sign what is in the folder of policies, for `policy.signed_by` of doorward.yaml.
    Sign(sign::SignArgs),
}

/// Answers.
pub fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Explain(args) => explain::run(context, args),
        Verb::Test(args) => cases::run(context, args),
        Verb::Lint(args) => lint::run(context, args),
        Verb::Matrix(args) => rights::matrix(context, args),
        Verb::Diff(args) => rights::diff(context, args),
        Verb::Replay(args) => replay::run(context, args),
        Verb::Shadow(args) => shadow::shadow(context, args),
        Verb::Promote(args) => shadow::promote(context, args),
        Verb::Suggest(args) => suggest::run(context, args),
        Verb::History(args) => history::history(context, args),
        Verb::Rollback(args) => history::rollback(context, args),
        Verb::Keygen(args) => sign::keygen(context, args),
        Verb::Sign(args) => sign::run(context, args),
    }
}

/// All that decides, with the policies of this folder in the place of the configured one.
fn loaded(config: &Config, policies: &Path) -> Result<Loaded, Failure> {
    let folders = Folders { policies: policies.to_owned(), ..Folders::of(config).unsigned() };
    Ok(folders.load(&|_| Arc::new(Live::default()), &Schemas::default(), None, &People::of(config))?)
}

/// The logs of the configuration, with their index where there is one.
fn logs(config: &Config) -> Result<Logs, Failure> {
    let dir: &Path = config.audit.dir.as_ref();
    let mut logs = Logs::in_dir(dir).map_err(|error| Failure::Other(format!("{}: {error}", dir.display())))?;
    if logs.is_worth_an_index(dir) {
        // The log alone has all answers.
        let _ = logs.with_index(dir, None, &mut |_| {});
    }
    Ok(logs)
}

/// Has a running gateway load the policy anew: the version in force then, or `None` where none runs.
async fn reload(config: &Config) -> Result<Option<String>, Failure> {
    let Some(answer) = admin::ask(config.state.as_ref(), &Command::Reload).await.map_err(Failure::other)? else { return Ok(None) };
    let told: Value = serde_json::from_str(&answer).unwrap_or_default();
    if let Some(version) = told.get("policy_version").and_then(Value::as_str) {
        return Ok(Some(version.to_owned()));
    }
    let faults = told.get("faults").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    Err(Failure::Other(format!("the files are in their place, and the running gateway does not take them up: {}", faults.join("; "))))
}

/// The time of these options, in nanoseconds since 1970.
fn span(since: Option<&str>, until: Option<&str>) -> Result<(Option<i64>, Option<i64>), Failure> {
    let now = Timestamp::now();
    let at = |text: Option<&str>| {
        let at = text.map(|text| time(text, now, &TimeZone::system())).transpose();
        at.map_err(|error| Failure::Usage(error.to_string()))
    };
    Ok((at(since)?, at(until)?))
}

/// The policy in force by the files, and the tools that it is about.
struct Files {
    catalog: Catalog,
    policy: Policy,
    schemas: Schemas,
    warnings: Vec<Warning>,
}

impl Files {
    fn load(context: &Context) -> Result<Self, Failure> {
        let config = context.config()?;
        let schemas = Schemas::default();
        let Loaded { catalog, policy, warnings, .. } =
            Folders::of(&config).unsigned().load(&|_| Arc::new(Live::default()), &schemas, None, &People::of(&config))?;
        Ok(Self { catalog, policy, schemas, warnings })
    }

    /// The tool of a public name or of a name in rows.
    fn tool(&self, name: &str) -> Option<&Target> {
        self.catalog.tools().iter().find(|tool| &*tool.policy_name == name || &*tool.name == name)
    }

    /// The name in rows, the tier and the labels of what is called.
    fn target<'n>(&'n self, name: &'n str) -> Option<(&'n str, Tier, &'n [Label])> {
        if let Some(tool) = self.tool(name) {
            return Some((&tool.policy_name, tool.tier, &tool.labels));
        }
        let is_prompt = name.starts_with("prompt:");
        let upstream = upstream_and_name(name).filter(|_| is_prompt || name.starts_with("resource:"))?.0;
        let source = self.catalog.sources().iter().find(|source| source.manifest.upstream == upstream);
        let labels = source.map(|source| if is_prompt { source.manifest.prompt_labels() } else { source.manifest.resource_labels() });
        Some((name, Tier::Read, labels.unwrap_or_default()))
    }
}
