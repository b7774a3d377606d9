//! The shape of the source: what may import what, how long files and functions are, and what must not occur.

use std::path::{Path, PathBuf};

/// The modules in import order: each imports only what stands before it.
const ORDER: [&str; 30] = [
    "error",
    "clock",
    "telemetry",
    "fetch",
    "config",
    "trace",
    "seal",
    "state",
    "mcp",
    "schema",
    "catalog",
    "sandbox",
    "identity",
    "invocation",
    "run",
    "objective",
    "policy",
    "freeze",
    "limit",
    "replay",
    "approval",
    "audit",
    "upstream",
    "inspect",
    "gateway",
    "listen",
    "cli",
    "demo",
    "lib",
    "main",
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    out
}

/// The top-level module that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn imports(text: &str) -> Vec<String> {
    text.match_indices("crate::")
        .map(|(at, _)| text[at + 7..].chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
        .collect()
}

/// The lines before the tests of a file.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

#[test]
fn a_module_imports_only_what_stands_before_it() {
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        let at = place(&own).unwrap_or_else(|| panic!("`{own}` is not in the order"));
        for import in imports(production(&text)) {
            if place(&import).is_some_and(|imported| imported > at) {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long = |(path, text): &(PathBuf, String)| (production(text).lines().count() > 500).then(|| path.display().to_string());
    let long: Vec<_> = sources().iter().filter_map(long).collect();
    assert!(long.is_empty(), "over 500 lines: {long:?}");
}

#[test]
fn the_request_path_fits_on_a_page() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway.rs")).unwrap();
    assert!(text.lines().count() < 220, "src/gateway.rs has {} lines", text.lines().count());
    let run = text.split("async fn run").nth(1).unwrap();
    let stages = [
        "resolve(",
        "sees(",
        "validate(",
        "authorize(",
        "admit(",
        "replay(",
        "approve(",
        "reserve(",
        "still_current(",
        "intent(",
        "forward(",
        "inspect(",
    ];
    let places: Vec<_> = stages.iter().map(|stage| run.find(stage).unwrap_or_else(|| panic!("no stage {stage}"))).collect();
    assert!(places.is_sorted(), "the stages stand in another order than the design's: {places:?}");
}

#[test]
fn a_panic_can_be_survived_and_casbin_is_never_switched_off() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("panic = \"abort\""));
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for (path, text) in sources() {
        assert!(!production(&text).contains("enable_enforce"), "{}", path.display());
        assert!(!text.contains("use crate::*"), "{}", path.display());
    }
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<_> =
        sources().iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path.display().to_string()).collect();
    assert!(silent.is_empty(), "no module doc: {silent:?}");
}
