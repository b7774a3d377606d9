//! What a tool server lists, as the catalog has it.

use crate::catalog::lock::{Definition, LIMITS};
use crate::catalog::{Item, Listing};
use crate::mcp::json;

/// The definitions that can be read, and why the others cannot.
fn read<'t>(tools: impl Iterator<Item = &'t bytes::Bytes>) -> Listing {
    let mut listing = Listing::default();
    for tool in tools {
        let read = json::parse(tool, LIMITS).map_err(|error| error.to_string());
        match read.and_then(|node| Definition::new(&node)) {
            Ok(definition) => {
                listing.tools.insert(definition.name.clone(), definition);
            }
            Err(reason) => listing.unreadable.push(reason),
        }
    }
    listing
}

/// Everything that a server has listed, as the catalog has it.
pub fn heard(listing: crate::upstream::Listing) -> Listing {
    let items = |listed: Vec<crate::upstream::Definition>| {
        listed.into_iter().map(|item| Item { own: item.name.into(), json: item.json }).collect::<Vec<_>>()
    };
    let tools = read(listing.tools.iter().map(|tool| &tool.json));
    Listing {
        prompts: items(listing.prompts),
        resources: items(listing.resources),
        templates: items(listing.templates),
        offers: listing.offers,
        ..tools
    }
}
