//! What is wrong or odd about conditions: roles that nobody has, names that no row has, arguments that no tool has.

use std::collections::HashSet;
use std::path::Path;

use super::condition::Conditions;
use super::lint::{Lint, Warning};
use super::read::upstream_and_name;
use super::roles::Roles;
use super::rule::{Pattern, Rows, RuleEffect};
use super::suggest::did_you_mean;
use super::table::TargetFacts;
use crate::catalog::Label;
use crate::config::Fault;

/// Refuses conditions about roles that nobody can have.
pub(super) fn unknown_roles(file: &Path, conditions: &Conditions, roles: &Roles) -> Vec<Fault> {
    let asked = conditions.all().flat_map(|(_, condition)| condition.roles().into_iter().map(move |role| (condition, role)));
    let unknown = asked.filter(|(_, role)| roles.id(role).is_none()).map(|(condition, role)| {
        let known = roles.all().map(|(_, name)| name).filter(|name| name.starts_with("role:"));
        let help = did_you_mean(role, known, "give it to somebody with a `g` row of policy.csv");
        Fault::at(file, condition.at.0, condition.at.1, format!("`{}` asks for `{role}`, which no row names", condition.name)).help(help)
    });
    unknown.take(50).collect()
}

/// Refuses conditions that count calls of upstreams that are not configured: they would count none.
pub(super) fn unknown_upstreams(file: &Path, conditions: &Conditions, upstreams: &[String]) -> Vec<Fault> {
    let counted = conditions.all().flat_map(|(_, condition)| condition.counted().into_iter().map(move |of| (condition, of)));
    let unknown = counted.filter_map(|(condition, of)| {
        let (upstream, _) = upstream_and_name(of.stem()).filter(|(upstream, _)| upstreams.iter().all(|known| known != upstream))?;
        let help = did_you_mean(upstream, upstreams.iter().map(String::as_str), "name one that a manifest has");
        let message = format!("`{}` counts `{of}`, and there is no upstream `{upstream}`", condition.name);
        Some(Fault::at(file, condition.at.0, condition.at.1, message).help(help))
    });
    unknown.take(50).collect()
}

/// The calls that the conditions of these rows count, each pattern once.
pub(super) fn counted(rows: &Rows, conditions: &Conditions) -> Vec<Pattern> {
    let named = rows.rules.iter().filter_map(|rule| conditions.get(rule.when.as_ref()?.id));
    let mut counted: Vec<Pattern> = Vec::new();
    for of in named.flat_map(|condition| condition.counted()) {
        if !counted.contains(of) {
            counted.push(of.clone());
        }
    }
    counted
}

/// Rows whose conditions ask for a label that nothing in the catalogue brings: nobody ever meets it.
pub(super) fn unmet_labels(file: &Path, rows: &Rows, conditions: &Conditions, brought: &[Label]) -> Vec<Warning> {
    let mut found = Vec::new();
    for rule in &rows.rules {
        let Some(condition) = rule.when.as_ref().and_then(|when| conditions.get(when.id)) else { continue };
        for label in condition.labels().into_iter().filter(|label| !brought.contains(label)) {
            let message = format!("`{}` asks for the label `{label}`, which no manifest gives to anything", condition.name);
            let help =
                did_you_mean(label.as_str(), brought.iter().map(Label::as_str), "give it to what brings it with `labels` of a manifest");
            let fault = Fault::at(file, rule.at.line.into(), rule.at.columns[5].into(), message).help(help);
            found.push(Warning { lint: Lint::UnmetLabel, fault });
        }
    }
    found
}

/// What is odd about conditions, and about rows because of them.
pub(super) fn odd_conditions(rows_file: &Path, file: &Path, rows: &Rows, conditions: &Conditions) -> Vec<Warning> {
    let named: HashSet<&str> = rows.rules.iter().filter_map(|rule| Some(&*rule.when.as_ref()?.name)).collect();
    let unused = conditions.all().filter(|(_, condition)| !named.contains(&*condition.name)).map(|(_, condition)| {
        let fault = Fault::at(file, condition.at.0, condition.at.1, format!("no row names `{}`", condition.name));
        Warning { lint: Lint::UnusedCondition, fault: fault.help("name it in the fifth column of a row, or remove it") }
    });
    let texts = conditions.all().filter(|(_, condition)| condition.takes_path_for_text()).map(|(_, condition)| {
        let fault = Fault::at(file, condition.at.0, condition.at.1, format!("`{}` compares a path as a text", condition.name));
        let help = "write `path_within`, which reads it as servers do: `/srv/../etc` begins with `/srv/` too";
        Warning { lint: Lint::PathAsText, fault: fault.help(help) }
    });
    let turned = rows.rules.iter().filter_map(|rule| {
        let when = rule.when.as_ref()?;
        let is_allow = rule.effect == RuleEffect::Allow;
        if !conditions.get(when.id)?.turned_by_one_element(is_allow) {
            return None;
        }
        let (does, help) = match is_allow {
            true => ("makes it true whatever the others are", "write `elements: all`, so that each of them must pass"),
            false => ("makes it false whatever the others are", "write `elements: any`, so that one is enough"),
        };
        let message = format!("one more element in an array of the arguments {does}: `{}`", when.name);
        let fault = Fault::at(rows_file, rule.at.line.into(), rule.at.columns[5].into(), message).help(help);
        Some(Warning { lint: Lint::TurnedByOneElement, fault })
    });
    unused.chain(texts).chain(turned).collect()
}

/// Rows whose conditions read an argument that the reviewed schema of a tool they cover does not name, and do not say what a missing one
/// stands for: such an allow never holds, and such a deny always does.
pub(super) fn unknown_arguments(
    file: &Path,
    rows: &Rows,
    conditions: &Conditions,
    targets: &[TargetFacts<'_>],
    arguments: &[Vec<Box<str>>],
) -> Vec<Warning> {
    if arguments.len() != targets.len() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for rule in &rows.rules {
        let Some(condition) = rule.when.as_ref().and_then(|when| conditions.get(when.id)) else { continue };
        let covered = || targets.iter().zip(arguments).filter(|(target, _)| rule.covers(target.name, target.tier));
        for pointer in condition.needed_pointers() {
            let Some(name) = pointer.first() else { continue };
            let lacking: Vec<&str> = covered()
                .filter(|(_, known)| known.binary_search_by(|other| (**other).cmp(name)).is_err())
                .map(|(target, _)| target.name)
                .collect();
            let Some(first) = lacking.first() else { continue };
            let (others, them) = match lacking.len() {
                1 => (" has".to_owned(), "it"),
                more => (format!(" and {} more have", more - 1), "them"),
            };
            let does = match rule.effect {
                RuleEffect::Allow => "never allows",
                RuleEffect::Deny => "stops every call of",
                RuleEffect::Oblige(_) => "holds for every call of",
            };
            let message = format!("`{first}`{others} no argument `{pointer}`: the row {does} {them}");
            let known = covered().flat_map(|(_, known)| known).map(|name| &**name);
            let help = did_you_mean(name, known, "name fewer targets, or say what stands for a missing one with `missing`");
            let fault = Fault::at(file, rule.at.line.into(), rule.at.columns[5].into(), message).help(help);
            found.push(Warning { lint: Lint::UnknownArgument, fault });
        }
    }
    found
}
