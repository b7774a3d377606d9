//! Who may do what, and what has to be done beside it: the decision point. Rows of `policies/policy.csv`, read strictly, compiled
//! into a table, and held against Casbin before they count.
//!
//! Owns: the files `model.conf` and `policy.csv`, the decision with its reasons, the policy's version.
//! Leaves to others: keeping obligations (the stages behind), what a refusal looks like (`gateway`), rates (`limit`), which tools there are (`catalog`).
//!
//! INVARIANT: without an allow the answer is no, and a deny wins over every allow.
//! INVARIANT: a policy never changes; a reload makes another, so a failed one leaves the old in force.

mod authorize;
mod equivalence;
mod index;
mod lint;
pub mod naive;
mod obligation;
mod oracle;
mod outcome;
mod read;
mod roles;
mod rule;
pub mod suggest;
mod table;
pub mod watch;

use std::path::Path;
use std::time::Duration;

pub use authorize::{DEFAULT_DENY, DENIED_BY_RULE, Permit};
pub use equivalence::Equivalence;
pub use index::{Lack, Near};
pub use lint::{Lint, Names, Warning};
pub use obligation::{Obligation, Obliged};
pub use oracle::Difference;
pub use outcome::Decision;
pub use read::{parse_pattern, upstream_and_name};
pub use rule::{ANY, Grant, Pattern, Place, Rows, Rule, RuleEffect, RuleId, TierBound};
pub use table::{ClassId, TargetFacts};

pub use crate::catalog::TargetIndex;

use crate::catalog::tier::Tier;
use crate::config::{Fault, read_text};
use crate::mcp::canonical::write_string;
use crate::seal::{hex, sha256};
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
    /// The text of `limits.yaml`: part of the version, so that a record tells which limits were in force.
    pub limits: String,
    /// How long the table is held against Casbin. Default 200 ms.
    pub budget: Duration,
    /// Where sampling starts when the budget is too small for everything; `None` takes it from the version.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { upstreams: Vec::new(), agents: None, limits: String::new(), budget: Duration::from_millis(200), seed: None }
    }
}

/// One policy for one catalogue.
#[derive(Debug)]
pub struct Policy {
    rows: Rows,
    roles: Roles,
    table: Table,
    index: Index,
    targets: Vec<(Box<str>, Tier)>,
    /// Target positions by name.
    sorted: Vec<u32>,
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
        refuse_conditions(&folder.join("conditions.yaml")).map_err(|fault| vec![fault])?;
        let file = folder.join("policy.csv");
        let text = text_of(&file).map_err(|fault| vec![fault])?;
        let (policy, warnings) = Self::parse(&file, &text, targets, options)?;
        let seed = options.seed.unwrap_or_else(|| u64::from_str_radix(&policy.version["sha256:".len()..][..16], 16).unwrap_or(0));
        let checked = Equivalence::check(&policy, options.budget, seed);
        checked.map_err(|difference| vec![Fault::file(&file, difference.to_string())])?;
        Ok((policy, warnings))
    }

    /// Reads and compiles the text of a `policy.csv`, without asking Casbin.
    ///
    /// # Errors
    /// Every fault of the text with its place.
    pub fn parse(file: &Path, text: &str, targets: &[TargetFacts<'_>], options: &Options) -> Result<(Self, Vec<Warning>), Vec<Fault>> {
        let rows = read::read(file, text)?;
        let names = Names { upstreams: &options.upstreams, agents: options.agents.as_deref(), targets };
        let mut faults = lint::unknown_upstreams(file, &rows, &names);
        let roles = match Roles::build(file, &rows) {
            Ok(roles) => roles,
            Err(more) => {
                faults.extend(more);
                return Err(faults);
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let warnings = lint::warnings(file, text, &rows, &roles, &names);
        let policy = Self::compile(rows, roles, targets, &options.limits);
        Ok((policy.map_err(|message| vec![Fault::file(file, message)])?, warnings))
    }

    fn compile(rows: Rows, roles: Roles, targets: &[TargetFacts<'_>], limits: &str) -> Result<Self, &'static str> {
        let table = Table::compile(&rows.rules, &roles, targets);
        let table = table.map_err(|_| "the policy is too large: it needs more than a gigabyte for its decision table")?;
        let sorted = table::by_name(targets);
        let at = |position: &u32| (targets[*position as usize].name, targets[*position as usize].tier);
        Ok(Self {
            version: version(&bundle(&rows, sorted.iter().map(at), limits)),
            index: Index::new(&rows.rules, &roles),
            targets: targets.iter().map(|target| (target.name.into(), target.tier)).collect(),
            rows,
            roles,
            table,
            sorted,
        })
    }

    /// `sha256:` and the hash of all that decides: model, rows, limits, targets and their tiers.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All that decides, with the limits that the policy was loaded with: lines of canonical JSON whose SHA-256 is the version.
    pub fn bundle(&self, limits: &str) -> Vec<u8> {
        let targets = self.sorted.iter().filter_map(|position| self.targets.get(*position as usize));
        bundle(&self.rows, targets.map(|(name, tier)| (&**name, *tier)), limits)
    }

    /// The class of a principal, by its name in rows: `agent:NAME`. Ask at every call: another policy numbers otherwise.
    pub fn class(&self, principal: &str) -> ClassId {
        self.table.class_of(principal)
    }

    /// The decision for a target of the catalogue.
    pub fn decide(&self, class: ClassId, target: TargetIndex) -> Decision<'_> {
        self.table.decide(class, target)
    }

    /// The decision for a target that the catalogue does not list, such as one resource; slower.
    pub fn decide_by_name(&self, class: ClassId, target: &str, tier: Tier) -> Decision<'static> {
        let about = self.index.about(self.table.subjects(class), target);
        let rules = || about.iter().map(|number| &self.rows.rules[*number as usize]).filter(|rule| rule.bound.covers(tier));
        let ids = |effect| rules().filter(|rule| rule.effect == effect).map(|rule| rule.id.clone()).collect::<Vec<_>>();
        let obliged = |rule: &Rule| Some(Obliged { rule: rule.id.clone(), obligation: rule.effect.obligation()?.clone() });
        let obligations: Vec<Obliged> = rules().filter_map(obliged).collect();
        Decision::of(ids(RuleEffect::Allow).into(), ids(RuleEffect::Deny).into(), obligations.into())
    }

    /// [`Policy::decide_by_name`] for a target with more than one name: what one of them is denied, all are, and obligations add up.
    pub fn decide_by_names<'n>(&self, class: ClassId, names: impl IntoIterator<Item = &'n str>, tier: Tier) -> Decision<'static> {
        let decisions = names.into_iter().map(|name| self.decide_by_name(class, name, tier));
        decisions.reduce(Decision::and).unwrap_or(Decision::DEFAULT)
    }

    /// Whether some allow names the target for the class, whatever its tier: only then may it be told that it exists.
    pub fn sees(&self, class: ClassId, target: TargetIndex) -> bool {
        self.table.sees(class, target)
    }

    /// [`Policy::sees`] for a target that the catalogue does not list.
    pub fn sees_by_name(&self, class: ClassId, target: &str) -> bool {
        let about = self.index.about(self.table.subjects(class), target);
        about.iter().any(|number| self.rows.rules[*number as usize].effect == RuleEffect::Allow)
    }

    /// Whether a list shows the target: some arguments could be allowed.
    // Rows have no conditions yet, so this is the decision itself.
    pub fn lists(&self, class: ClassId, target: TargetIndex) -> bool {
        self.decide(class, target).is_permit()
    }

    /// Whether some target whose name begins with `stem` could be allowed: what a template of names may be shown for.
    pub fn lists_some(&self, class: ClassId, stem: &str, tier: Tier) -> bool {
        let subjects = self.table.subjects(class);
        let concerned = |rule: &&Rule| {
            let known = || self.roles.id(&rule.subject).is_some_and(|id| subjects.binary_search(&id).is_ok());
            rule.bound.covers(tier) && known()
        };
        let every = |rule: &&Rule| rule.pattern.is_wildcard() && stem.starts_with(rule.pattern.stem());
        let some = |rule: &&Rule| every(rule) || rule.pattern.stem().starts_with(stem);
        let mut allows = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Allow);
        let mut denies = self.rows.rules.iter().filter(|rule| rule.effect == RuleEffect::Deny);
        allows.any(|rule| some(&rule) && concerned(&rule)) && !denies.any(|rule| every(&rule) && concerned(&rule))
    }

    /// For a default deny: the class's allows that name the target and stop below its tier. May be told to the agent.
    pub fn nearest(&self, class: ClassId, target: TargetIndex) -> Vec<Near> {
        let Some((name, tier)) = self.targets.get(target.0 as usize) else { return Vec::new() };
        self.nearest_by_name(class, name, *tier)
    }

    /// [`Policy::nearest`] for a target that the catalogue need not list.
    pub fn nearest_by_name(&self, class: ClassId, target: &str, tier: Tier) -> Vec<Near> {
        self.index.short_of(&self.rows.rules, self.table.subjects(class), target, tier)
    }

    /// The first allows, at most `limit`, that let others use the target. For operators only.
    pub fn allowed_to_others(&self, class: ClassId, target: TargetIndex, limit: usize) -> Vec<Near> {
        let Some((name, tier)) = self.targets.get(target.0 as usize) else { return Vec::new() };
        self.index.for_others(&self.rows.rules, self.table.subjects(class), name, *tier, limit)
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
        let told = about.map(|rule| match rule.bound.covers(tier) {
            true => format!("{}:{}:{}", rule.id, rule.subject, rule.effect),
            false => format!("({}:{}:{} {})", rule.id, rule.subject, rule.effect, rule.bound.as_str()),
        });
        told.collect()
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

/// All that decides, as lines of canonical JSON: model, rows, targets by name with their tiers, limits. Its SHA-256 is the version.
fn bundle<'t>(rows: &Rows, targets: impl Iterator<Item = (&'t str, Tier)>, limits: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    let mut line = |parts: &[&str]| {
        for (index, part) in parts.iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            write_string(part, &mut out);
        }
        out.extend_from_slice(b"]\n");
    };
    line(&["doorward policy 2"]);
    line(&["model", MODEL]);
    for rule in &rows.rules {
        let [id, subject, target, tier, condition, effect] = rule.fields();
        line(&[rule.kind(), &id, &subject, &target, &tier, &condition, &effect]);
    }
    rows.grants.iter().for_each(|grant| line(&["g", &grant.member, &grant.role]));
    targets.for_each(|(name, tier)| line(&["target", name, tier.as_str()]));
    line(&["limits", limits]);
    out
}

fn version(bundle: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(bundle)))
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

fn refuse_conditions(file: &Path) -> Result<(), Fault> {
    if !file.exists() {
        return Ok(());
    }
    Err(Fault::file(file, "conditions come with a later release").help("remove the file, and write `-` in the rows' condition column"))
}
