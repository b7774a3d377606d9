//! What is odd about manifests that are well formed: names that lead nowhere. None of it is a fault, so that a tool can be named before it is there.

use std::path::Path;

use crate::catalog::manifest::Idempotency;
use crate::catalog::tier::Tier;
use crate::catalog::{Catalog, Target};
use crate::config::{Config, Fault, fault_at, read_text};

/// Compensations that are no tool or undo nothing, and keys that are no argument; each at its place.
pub(super) fn odd(config: &Config, catalog: &Catalog) -> Vec<Fault> {
    let folder: &Path = config.manifests.as_ref();
    let named = catalog
        .tools()
        .iter()
        .filter(|tool| catalog.sources().get(tool.upstream).is_some_and(|source| source.manifest.tools.contains_key(&*tool.own_name)));
    let odd = named.flat_map(|tool| [compensation(catalog, tool), key(tool)]).flatten();
    odd.map(|(own_name, upstream, member, message, help)| {
        let file = folder.join(format!("{upstream}.yaml"));
        let text = read_text(&file).unwrap_or_default();
        fault_at(&file, &text, &["tools", own_name, member], message).help(help)
    })
    .collect()
}

/// The tool's own name, its upstream, the member, what is odd, and what to write.
type Odd<'c> = (&'c str, &'c str, &'static str, String, &'static str);

fn compensation<'c>(catalog: &'c Catalog, tool: &'c Target) -> Option<Odd<'c>> {
    let name = tool.compensation.as_deref()?;
    let found = catalog.find(name).and_then(|index| catalog.tool(index));
    let (message, help) = match found {
        None => (
            format!("`compensation: {name}` of `{}` names no tool, so no agent is told of it", tool.name),
            "write the public name, `UPSTREAM__TOOL`, of a tool that some manifest names",
        ),
        Some(found) if found.name == tool.name => (format!("`{name}` is named as its own compensation"), "name the tool that undoes it"),
        Some(found) if found.tier == Tier::Read => {
            (format!("`compensation: {name}` of `{}` only reads, so it undoes nothing", tool.name), "name a tool that changes something")
        }
        Some(_) => return None,
    };
    Some((&tool.own_name, &tool.upstream_id, "compensation", message, help))
}

fn key(tool: &Target) -> Option<Odd<'_>> {
    let Idempotency::Key(pointer) = &tool.idempotency else { return None };
    let is_reviewed = !tool.hash_text.is_empty();
    let is_known = pointer.split('/').skip(1).all(|part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        part.bytes().all(|byte| byte.is_ascii_digit()) || tool.argument_names.iter().any(|name| **name == *part)
    });
    if is_known || !is_reviewed {
        return None;
    }
    let message =
        format!("`idempotency: key:{pointer}` of `{}` is no argument of its reviewed schema, so its calls have no key", tool.name);
    Some((&tool.own_name, &tool.upstream_id, "idempotency", message, "name the argument that is the same in a repeat and in no other call"))
}
