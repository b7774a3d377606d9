//! The bundle: all that decides, in one form of bytes, whose hash is the policy's version.

use super::MODEL;
use super::condition::Conditions;
use super::rule::{Rows, When};
use crate::catalog::Label;
use crate::catalog::tier::Tier;
use crate::mcp::canonical::write_string;
use crate::seal::{hex, sha256};

/// A target by its name, with all of it that decides.
pub(super) type Named<'t> = (&'t str, Tier, &'t [Label]);

/// All that decides, as lines of canonical JSON: model, rows, the conditions they name, targets by name with their tiers and labels, the
/// built-in rule, limits.
pub(super) fn bundle<'t>(
    rows: &Rows,
    conditions: &Conditions,
    targets: impl Iterator<Item = Named<'t>>,
    (flow, limits): (&str, &str),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    let mut line = |parts: &[&str]| {
        for (index, part) in parts.iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            write_string(part, &mut out);
        }
        out.extend_from_slice(b"]\n");
    };
    line(&["doorward policy 4"]);
    line(&["model", MODEL]);
    for rule in &rows.rules {
        let [id, subject, target, tier, condition, effect] = rule.fields();
        line(&[rule.kind(), &id, &subject, &target, &tier, &condition, &effect]);
    }
    let mut named: Vec<&When> = rows.rules.iter().filter_map(|rule| rule.when.as_ref()).collect();
    named.sort_unstable_by_key(|when| &when.name);
    named.dedup();
    for (when, condition) in named.iter().filter_map(|when| Some((when, conditions.get(when.id)?))) {
        line(&["condition", &when.name, &condition.canonical]);
    }
    rows.grants.iter().for_each(|grant| line(&["g", &grant.member, &grant.role]));
    for (name, tier, labels) in targets {
        line(&["target", name, tier.as_str()]);
        if !labels.is_empty() {
            line(&["labels", name].into_iter().chain(labels.iter().map(Label::as_str)).collect::<Vec<_>>());
        }
    }
    line(&["flow", flow]);
    line(&["limits", limits]);
    out
}

/// The version: `sha256:` and the hash of the bundle.
pub(super) fn version(bundle: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(bundle)))
}

/// What [`super::Policy::written`] says of the policy that has this bundle.
pub fn written(bundle: &[u8]) -> String {
    let is_of_others = |line: &&[u8]| [&b"[\"target\","[..], b"[\"labels\",", b"[\"flow\","].iter().any(|kind| line.starts_with(kind));
    let lines = bundle.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_of_others(line));
    version(&lines.flatten().copied().collect::<Vec<u8>>())
}
