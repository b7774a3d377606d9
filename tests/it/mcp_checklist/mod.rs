//! The 69 items that a gateway is held to by the specification of MCP: each test is `nNN_WHAT_HOLDS`, NN the item's number.

mod auth;
mod bad_input;
mod discovery;
mod errors;
mod headers;
mod listens;
mod lists;
mod params;
mod rounds;
mod schemas;
mod sessions;
mod streams;
mod tasks;
pub mod upstreams;

/// The items.
const ITEMS: usize = 69;

#[test]
fn every_item_has_a_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mcp_checklist");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: String = files.collect();
    let has = |item: &usize| text.contains(&format!("fn n{item:02}_"));
    let missing: Vec<_> = (1..=ITEMS).filter(|item| !has(item)).collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
}
