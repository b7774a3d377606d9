//! Who may do what, and what has to be done beside it: the decision point. Rows of `policies/policy.csv`, read strictly, compiled
//! into a table, and held against Casbin before they count.
//!
//! Owns: the files `model.conf`, `policy.csv` and `conditions.yaml`, the decision with its reasons, the policy's version.
//! Leaves to others: keeping obligations (the stages behind), what a refusal looks like (`gateway`), rates (`limit`), which tools there are (`catalog`).
//!
//! INVARIANT: without an allow the answer is no, and a deny wins over every allow.
//! INVARIANT: a policy never changes; a reload makes another, so a failed one leaves the old in force.

pub mod again;
mod authorize;
mod bundle;
pub mod compare;
pub mod condition;
pub mod cover;
mod decide;
mod equivalence;
mod explain;
mod flow;
mod index;
mod lint;
pub mod naive;
pub mod narrow;
mod obligation;
mod oracle;
mod outcome;
pub mod past;
mod read;
mod roles;
mod rule;
pub mod seen;
pub mod suggest;
mod table;
mod unmet;
pub mod watch;

use std::path::Path;
use std::time::Duration;

pub use authorize::{DEFAULT_DENY, DENIED_BY_RULE, Permit};
pub use bundle::written;
pub use condition::{Conditions, Facts, Truth, Unclear};
pub use equivalence::Equivalence;
pub use explain::{Call, Explanation, Finding, Standing};
pub use flow::{Flow, TOXIC_FLOW, is_guarded};
pub use index::{Lack, Near};
pub use lint::{Lint, Names, Warning};
pub use obligation::{Obligation, Obliged};
pub use oracle::Difference;
pub use outcome::Decision;
pub use read::{parse_pattern, upstream_and_name};
pub use rule::{ANY, Grant, Pattern, Place, Rows, Rule, RuleEffect, RuleId, TierBound, When};
pub use table::{ClassId, TargetFacts};

pub use crate::catalog::TargetIndex;

use crate::catalog::tier::Tier;
use crate::catalog::{Label, Target};
use crate::config::{Fault, read_text};
use index::Index;
use roles::Roles;
use table::Table;

/// The Casbin model that every policy has: what rows mean.
pub const MODEL: &str = include_str!("../../policies/model.conf");

/// What loading needs to know beside the folder.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configured upstreams.
    pub upstreams: Vec<String>,
    /// The agents known so far, for warnings; `None` when nobody can say.
    pub agents: Option<Vec<String>>,
    /// The names that each target's reviewed schema has for arguments, sorted, in the order of the targets; for warnings. Empty when nobody can
    /// say.
    pub arguments: Vec<Vec<Box<str>>>,
    /// The text of `conditions.yaml`; empty for none.
    pub conditions: String,
    /// The text of `limits.yaml`: part of the version, so that a record tells which limits were in force.
    pub limits: String,
    /// The labels of each target, in the order of the targets. Empty when nobody can say.
    pub labels: Vec<Vec<Label>>,
    /// Every label that something in the catalogue brings, prompts and resources too.
    pub brought: Vec<Label>,
    /// What the built-in rule does. Default deny.
    pub flow: Flow,
    /// How long the table is held against Casbin. Default 200 ms.
    pub budget: Duration,
    /// Where sampling starts when the budget is too small for everything; `None` takes it from the version.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            agents: None,
            arguments: Vec::new(),
            conditions: String::new(),
            limits: String::new(),
            labels: Vec::new(),
            brought: Vec::new(),
            flow: Flow::default(),
            budget: Duration::from_millis(200),
            seed: None,
        }
    }
}

/// One policy for one catalogue.
#[derive(Debug)]
pub struct Policy {
    rows: Rows,
    conditions: Conditions,
    roles: Roles,
    table: Table,
    index: Index,
    targets: Vec<(Box<str>, Tier)>,
    /// Target positions by name.
    sorted: Vec<u32>,
    /// The labels of each target; empty when nobody can say.
    labels: Vec<Vec<Label>>,
    brought: Vec<Label>,
    flow: Flow,
    /// The calls that conditions count, each pattern once.
    counted: Vec<Pattern>,
    version: String,
}

impl Policy {
    /// Reads the folder, compiles the rows for these targets, and holds the table against Casbin. Blocks for as long as the
    /// budget: not for a runtime's worker.
    ///
    /// # Errors
    /// Every fault of the files with its place; one of the whole file when the table and Casbin disagree.
    pub fn load(folder: &Path, targets: &[TargetFacts<'_>], options: &Options) -> Result<(Self, Vec<Warning>), Vec<Fault>> {
        check_model(&folder.join("model.conf")).map_err(|fault| vec![fault])?;
        let conditions = conditions_of(&folder.join("conditions.yaml")).map_err(|fault| vec![fault])?;
        let file = folder.join("policy.csv");
        let text = text_of(&file).map_err(|fault| vec![fault])?;
        let options = &Options { conditions, ..options.clone() };
        let (policy, warnings) = Self::parse(&file, &text, targets, options)?;
        let seed = options.seed.unwrap_or_else(|| u64::from_str_radix(&policy.version["sha256:".len()..][..16], 16).unwrap_or(0));
        let checked = Equivalence::check(&policy, options.budget, seed);
        checked.map_err(|difference| vec![Fault::file(&file, difference.to_string())])?;
        Ok((policy, warnings))
    }

    /// Reads and compiles the text of a `policy.csv` and of the `conditions.yaml` beside it, without asking Casbin.
    ///
    /// # Errors
    /// Every fault of the texts with its place.
    pub fn parse(file: &Path, text: &str, targets: &[TargetFacts<'_>], options: &Options) -> Result<(Self, Vec<Warning>), Vec<Fault>> {
        let beside = file.with_file_name("conditions.yaml");
        let conditions = Conditions::parse(&beside, &options.conditions)?;
        let rows = read::read(file, text, &conditions)?;
        let names = Names { upstreams: &options.upstreams, agents: options.agents.as_deref(), targets };
        let mut faults = lint::unknown_upstreams(file, &rows, &names);
        let roles = match Roles::build(file, &rows) {
            Ok(roles) => roles,
            Err(more) => {
                faults.extend(more);
                return Err(faults);
            }
        };
        faults.extend(unmet::unknown_roles(&beside, &conditions, &roles));
        faults.extend(unmet::unknown_upstreams(&beside, &conditions, &options.upstreams));
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut warnings = lint::warnings(file, text, &rows, &roles, &names);
        warnings.extend(unmet::odd_conditions(file, &beside, &rows, &conditions));
        warnings.extend(unmet::unknown_arguments(file, &rows, &conditions, targets, &options.arguments));
        warnings.extend(unmet::unmet_labels(file, &rows, &conditions, &options.brought));
        let policy = Self::compile(rows, conditions, roles, targets, options);
        Ok((policy.map_err(|message| vec![Fault::file(file, message)])?, warnings))
    }

    fn compile(
        rows: Rows,
        conditions: Conditions,
        roles: Roles,
        targets: &[TargetFacts<'_>],
        options: &Options,
    ) -> Result<Self, &'static str> {
        let table = Table::compile(&rows.rules, &roles, targets);
        let table = table.map_err(|_| "the policy is too large: it needs more than a gigabyte for its decision table")?;
        let sorted = table::by_name(targets);
        let labels = |at: usize| options.labels.get(at).map_or(&[][..], Vec::as_slice);
        let at = |position: &u32| (targets[*position as usize].name, targets[*position as usize].tier, labels(*position as usize));
        let bundle = bundle::bundle(&rows, &conditions, sorted.iter().map(at), (&options.flow.told(), &options.limits));
        Ok(Self {
            version: bundle::version(&bundle),
            counted: unmet::counted(&rows, &conditions),
            labels: options.labels.clone(),
            brought: options.brought.clone(),
            flow: options.flow.clone(),
            index: Index::new(&rows.rules, &roles),
            targets: targets.iter().map(|target| (target.name.into(), target.tier)).collect(),
            rows,
            conditions,
            roles,
            table,
            sorted,
        })
    }

    /// `sha256:` and the hash of all that decides: model, rows, limits, targets with their tiers and labels, the built-in rule.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All that decides, with the limits that the policy was loaded with: lines of canonical JSON whose SHA-256 is the version.
    pub fn bundle(&self, limits: &str) -> Vec<u8> {
        let named = |position: &u32| {
            let (name, tier) = self.targets.get(*position as usize)?;
            Some((&**name, *tier, self.labels.get(*position as usize).map_or(&[][..], Vec::as_slice)))
        };
        bundle::bundle(&self.rows, &self.conditions, self.sorted.iter().filter_map(named), (&self.flow.told(), limits))
    }

    /// The hash of what people wrote of it, rows, conditions and limits: the version without the targets, and without
    /// the built-in rule, which the configuration sets. It is what signatures vouch for, since a
    /// tool that is added or reviewed is no edit of the policy.
    pub fn written(&self, limits: &str) -> String {
        bundle::written(&self.bundle(limits))
    }

    /// The class of a principal, by its name in rows: `agent:NAME`. Ask at every call: another policy numbers otherwise.
    pub fn class(&self, principal: &str) -> ClassId {
        self.table.class_of(principal)
    }

    /// The target's position, by its public name.
    pub fn target(&self, name: &str) -> Option<TargetIndex> {
        let found = self.sorted.binary_search_by(|position| (*self.targets[*position as usize].0).cmp(name));
        found.ok().map(|at| TargetIndex(self.sorted[at]))
    }

    /// Every rule that names the target, with what it says of whom: for people.
    pub fn rules_about(&self, target: TargetIndex) -> Vec<String> {
        self.targets.get(target.0 as usize).map(|(name, tier)| self.rules_about_name(name, *tier)).unwrap_or_default()
    }

    /// [`Policy::rules_about`] for a target that the catalogue need not list.
    pub fn rules_about_name(&self, name: &str, tier: Tier) -> Vec<String> {
        let about = self.rows.rules.iter().filter(|rule| rule.pattern.matches(name));
        let when = |rule: &Rule| rule.when.as_ref().map(|when| format!(" when {}", when.name)).unwrap_or_default();
        let told = about.map(|rule| match rule.bound.covers(tier) {
            true => format!("{}:{}:{}{}", rule.id, rule.subject, rule.effect, when(rule)),
            false => format!("({}:{}:{} {}{})", rule.id, rule.subject, rule.effect, rule.bound.as_str(), when(rule)),
        });
        told.collect()
    }

    /// The conditions that rows may name.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// The calls that conditions of rows count, each pattern once.
    pub fn counted(&self) -> impl Iterator<Item = &Pattern> {
        self.counted.iter()
    }

    /// Those of them that a call of this target is among.
    pub fn counting<'p>(&'p self, target: &'p Target) -> impl Iterator<Item = &'p Pattern> {
        self.counted.iter().filter(|of| target.policy_names().any(|name| of.matches(name)))
    }

    /// The rows that the policy was made of.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Bytes of the table's cells, and how many classes of principals there are.
    pub fn size(&self) -> (usize, usize) {
        (self.table.cell_bytes(), self.table.class_count())
    }
}

fn text_of(file: &Path) -> Result<String, Fault> {
    let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
    if !text.is_empty() && !text.ends_with('\n') {
        let fault = Fault::at(file, text.lines().count() as u64, 0, "the last line does not end");
        return Err(fault.help("end the file with a line break: without one it may be half written"));
    }
    Ok(text)
}

/// The table compiles one model only, so a folder with another one must not pass for it.
fn check_model(file: &Path) -> Result<(), Fault> {
    match read_text(file) {
        Ok(text) if text == MODEL => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Fault::file(file, format!("cannot be read: {error}"))),
        Ok(text) => {
            let line =
                (1..).zip(text.lines().zip(MODEL.lines())).find(|(_, (found, shipped))| found != shipped).map_or(0, |(line, _)| line);
            let message = "differs from the model that Doorward ships, and no other is supported";
            Err(Fault::at(file, line, 0, message).help("restore the shipped file, or remove it: the built-in one is the same"))
        }
    }
}

/// The text of `conditions.yaml`; empty where there is none.
fn conditions_of(file: &Path) -> Result<String, Fault> {
    match read_text(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Fault::file(file, format!("cannot be read: {error}"))),
    }
}
