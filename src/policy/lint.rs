//! What is wrong or odd about rows that are well formed: names that do not exist, and rows that do nothing.
//!
//! An upstream that is not configured is a fault, because a misspelt deny is no deny. Everything else here is a warning, so
//! that an emergency `deny *` always loads, and a tool can be allowed before it is there - by name, never by silence.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use super::obligation::Obligation;
use super::read::upstream_and_name;
use super::roles::Roles;
use super::rule::{ANY, Pattern, Place, Rows, Rule, RuleEffect, TierBound};
use super::suggest::did_you_mean;
use super::table::TargetFacts;
use crate::catalog::tier::Tier;
use crate::config::Fault;

/// What kind of oddity a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lint {
    /// The row names one target that is not in the catalogue.
    UnknownTarget,
    /// The row's wildcard covers no target of the catalogue.
    CoversNothing,
    /// The row covers targets, but none of a tier it reaches.
    NoSuchTier,
    /// The row names an agent that is not configured.
    UnknownAgent,
    /// The row's role is given to nobody.
    UnusedRole,
    /// A deny takes back all that the row allows, or is about.
    Shadowed,
    /// A wider row of the same subject says the same.
    Redundant,
    /// The row allows everything, or gives everyone more than reading.
    OverBroad,
    /// A grant of `role:any`, which everyone has.
    GrantsAny,
    /// A comment that reads like a row.
    CommentedRow,
    /// No row allows anything.
    AllowsNothing,
    /// No row names the condition.
    UnusedCondition,
    /// One more element in an array of the arguments turns the row's condition to the unsafe side.
    TurnedByOneElement,
    /// The row's condition reads an argument that a tool has not.
    UnknownArgument,
    /// The row's condition asks for a label that nothing has.
    UnmetLabel,
    /// The condition compares a path as a text, of which it has many.
    PathAsText,
}

impl Lint {
    /// The name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownTarget => "unknown-target",
            Self::CoversNothing => "covers-nothing",
            Self::NoSuchTier => "no-such-tier",
            Self::UnknownAgent => "unknown-agent",
            Self::UnusedRole => "unused-role",
            Self::Shadowed => "shadowed",
            Self::Redundant => "redundant",
            Self::OverBroad => "over-broad",
            Self::GrantsAny => "grants-any",
            Self::CommentedRow => "commented-row",
            Self::AllowsNothing => "allows-nothing",
            Self::UnusedCondition => "unused-condition",
            Self::TurnedByOneElement => "turned-by-one-element",
            Self::UnknownArgument => "unknown-argument",
            Self::UnmetLabel => "unmet-label",
            Self::PathAsText => "path-as-text",
        }
    }
}

/// Something odd in a policy that loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Its kind.
    pub lint: Lint,
    /// The place and the words.
    pub fault: Fault,
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} [{}]", self.fault, self.lint.as_str())
    }
}

/// The names that rows may use.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The configured upstreams.
    pub upstreams: &'a [String],
    /// The agents known so far; `None` when nobody can say.
    pub agents: Option<&'a [String]>,
    /// The catalogue.
    pub targets: &'a [TargetFacts<'a>],
}

/// Refuses rows about upstreams that are not configured.
pub(super) fn unknown_upstreams(file: &Path, rows: &Rows, names: &Names<'_>) -> Vec<Fault> {
    let known: HashSet<&str> = names.upstreams.iter().map(String::as_str).collect();
    let faults = rows.rules.iter().filter_map(|rule| {
        let (upstream, _) = upstream_and_name(rule.pattern.stem())?;
        if known.contains(upstream) {
            return None;
        }
        let listed = names.upstreams.join("`, `");
        let otherwise = if listed.is_empty() { "no upstream is configured".to_owned() } else { format!("the upstreams are `{listed}`") };
        let help = did_you_mean(upstream, known.iter().copied(), otherwise);
        let message = format!("there is no upstream `{upstream}`");
        Some(Fault::at(file, rule.at.line.into(), rule.at.columns[3].into(), message).help(help))
    });
    faults.take(50).collect()
}

/// Everything odd about the rows.
pub(super) fn warnings(file: &Path, text: &str, rows: &Rows, roles: &Roles, names: &Names<'_>) -> Vec<Warning> {
    let mut lint = Linter { file, found: Vec::new(), guesses: MAX_GUESSES };
    lint.targets(rows, names.targets);
    lint.subjects(rows, roles, names.agents);
    lint.covered(rows);
    lint.comments(text);
    if !rows.rules.iter().any(|rule| rule.effect == RuleEffect::Allow) {
        lint.found.push(Warning { lint: Lint::AllowsNothing, fault: Fault::file(file, "no row allows anything: every call is refused") });
    }
    lint.found.sort_by_key(|warning| (warning.fault.line, warning.fault.column));
    lint.found
}

/// Did-you-mean is looked for this often: it compares with every name, and a file full of unknown ones must not take seconds.
const MAX_GUESSES: u32 = 20;

struct Linter<'a> {
    file: &'a Path,
    found: Vec<Warning>,
    guesses: u32,
}

impl Linter<'_> {
    fn warn(&mut self, lint: Lint, at: &Place, field: usize, message: String, help: impl Into<String>) {
        let fault = Fault::at(self.file, at.line.into(), at.columns[field].into(), message).help(help);
        self.found.push(Warning { lint, fault });
    }

    fn guess<'n>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'n str>, otherwise: String) -> String {
        self.guesses = self.guesses.saturating_sub(1);
        if self.guesses == 0 { otherwise } else { did_you_mean(word, candidates, otherwise) }
    }

    fn targets(&mut self, rows: &Rows, targets: &[TargetFacts<'_>]) {
        let names: BTreeSet<(&str, Tier)> = targets.iter().map(|target| (target.name, target.tier)).collect();
        for rule in &rows.rules {
            let stem = rule.pattern.stem();
            let (mut covered, mut reached) = (false, false);
            for (_, tier) in names.range((stem, Tier::Read)..).take_while(|(name, _)| rule.pattern.matches(name)) {
                covered = true;
                reached |= rule.bound.covers(*tier);
                if reached {
                    break;
                }
            }
            match (covered, reached, rule.pattern.is_wildcard()) {
                (true, true, _) => {}
                (true, false, _) => {
                    let message = format!("`{}` covers nothing of tier `{}`", rule.pattern, rule.bound.as_str());
                    self.warn(Lint::NoSuchTier, &rule.at, 4, message, "the manifest says which tier a tool has");
                }
                // A resource's address is the server's to give out, so the catalogue cannot know each.
                (false, _, true) if stem.starts_with("resource:") || stem.starts_with("prompt:") || stem.is_empty() => {}
                (false, _, false) if stem.starts_with("resource:") => {}
                (false, _, true) => {
                    self.warn(Lint::CoversNothing, &rule.at, 3, format!("`{}` covers no tool", rule.pattern), "the row waits for one")
                }
                (false, _, false) => {
                    let upstream = upstream_and_name(stem).map_or("", |(upstream, _)| upstream);
                    let siblings = names
                        .iter()
                        .map(|(name, _)| *name)
                        .filter(|name| upstream_and_name(name).is_some_and(|(other, _)| other == upstream));
                    let help = self.guess(stem, siblings, "the row waits for a target of this name".to_owned());
                    self.warn(Lint::UnknownTarget, &rule.at, 3, format!("there is no `{stem}`"), help);
                }
            }
        }
    }

    fn subjects(&mut self, rows: &Rows, roles: &Roles, agents: Option<&[String]>) {
        let given: HashSet<&str> = rows.grants.iter().map(|grant| &*grant.role).collect();
        let named = rows.rules.iter().map(|rule| (&*rule.subject, &rule.at, 2));
        let known: Option<HashSet<&str>> = agents.map(|agents| agents.iter().map(String::as_str).collect());
        let mut told = HashSet::new();
        for (name, at, field) in named.chain(rows.grants.iter().map(|grant| (&*grant.member, &grant.at, 1))) {
            if name.starts_with("role:") && name != ANY && !given.contains(name) && told.insert(name) {
                let help = self.guess(name, given.iter().copied(), "give it to an agent with a `g` row".to_owned());
                self.warn(Lint::UnusedRole, at, field, format!("nobody has `{name}`"), help);
            }
            let Some((known, agent)) = known.as_ref().zip(name.strip_prefix("agent:")) else { continue };
            if !known.contains(agent) && told.insert(name) {
                let help = self.guess(agent, known.iter().copied(), format!("`doorward agent add {agent}` makes it"));
                self.warn(Lint::UnknownAgent, at, field, format!("there is no agent `{agent}`"), help);
            }
        }
        for grant in rows.grants.iter().filter(|grant| roles.id(&grant.role) == Some(0)) {
            self.warn(Lint::GrantsAny, &grant.at, 2, format!("everyone has `{ANY}` already"), "remove the row");
        }
    }

    /// Rows that another row takes back or makes needless, and rows that reach too far.
    fn covered(&mut self, rows: &Rows) {
        let mut by_pattern: HashMap<(&str, &Pattern), Vec<&Rule>> = HashMap::new();
        for rule in &rows.rules {
            by_pattern.entry((&rule.subject, &rule.pattern)).or_default().push(rule);
        }
        let mut lengths: Vec<usize> =
            rows.rules.iter().filter(|rule| rule.pattern.is_wildcard()).map(|rule| rule.pattern.stem().len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for rule in &rows.rules {
            let stem = rule.pattern.stem();
            let shorter = lengths.iter().filter_map(|length| stem.get(..*length)).map(|stem| Pattern::new(&format!("{stem}*")));
            let wider: Vec<Pattern> = shorter.filter(|pattern| *pattern != rule.pattern).chain([rule.pattern.clone()]).collect();
            let mut subjects = vec![&*rule.subject, ANY];
            subjects.dedup();
            let over = wider.iter().flat_map(|pattern| subjects.iter().filter_map(|subject| by_pattern.get(&(*subject, pattern))));
            if let Some((kind, other)) = over.flatten().find_map(|other| covers(other, rule).map(|kind| (kind, *other))) {
                let (message, help) = match kind {
                    Lint::Shadowed => (
                        format!("`{}` denies all that the row {}", other.id, if rule.kind() == "p" { "allows" } else { "is about" }),
                        "remove one of the two",
                    ),
                    _ => (format!("`{}` in line {} says this already", other.id, other.at.line), "remove the row"),
                };
                self.warn(kind, &rule.at, 1, message, help);
            }
            if rule.effect.gives() && rule.pattern.is_wildcard() {
                let everyone = &*rule.subject == ANY && rule.bound != TierBound::UpTo(Tier::Read);
                if stem.is_empty() || everyone {
                    let whom = if everyone { "everyone" } else { &rule.subject };
                    let (does, what) = if rule.effect == RuleEffect::Allow { ("lets", "use") } else { ("lifts a built-in rule for", "at") };
                    let message = format!("`{}` {does} {whom} {what} `{}` up to `{}`", rule.id, rule.pattern, rule.bound.as_str());
                    self.warn(Lint::OverBroad, &rule.at, 3, message, "name the upstreams or tools that are needed");
                }
            }
        }
    }

    fn comments(&mut self, text: &str) {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.trim_start().starts_with('#')) {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let effect = |word: &&str| matches!(*word, "allow" | "deny") || Obligation::parse(word).is_ok();
            let rule = fields.len() >= 7 && fields.last().is_some_and(effect);
            let grant = fields.len() >= 3 && fields.last().is_some_and(|last| last.starts_with("role:"));
            if rule || grant {
                let at = Place { line: number, columns: [1, 0, 0, 0, 0, 0, 0] };
                self.warn(Lint::CommentedRow, &at, 0, "the comment reads like a row and has no effect".to_owned(), "remove it, or the `#`");
            }
        }
    }
}

/// What `other` makes of `rule`, when it covers all of it.
fn covers(other: &Rule, rule: &Rule) -> Option<Lint> {
    if std::ptr::eq(other, rule) || !other.pattern.contains(&rule.pattern) {
        return None;
    }
    // A row that counts sometimes covers none that counts otherwise.
    if other.when.is_some() && other.when != rule.when {
        return None;
    }
    let within = Tier::ALL.into_iter().all(|tier| !rule.bound.covers(tier) || other.bound.covers(tier));
    match (&other.effect, &rule.effect) {
        _ if !within => None,
        (RuleEffect::Deny, RuleEffect::Allow | RuleEffect::Oblige(_)) => Some(Lint::Shadowed),
        (same, effect) if same == effect => Some(Lint::Redundant),
        _ => None,
    }
}
