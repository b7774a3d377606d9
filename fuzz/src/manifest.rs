//! A manifest: a fault has a place in the text, and what is taken is the same once it was written again.

use std::path::Path;

use doorward::catalog::manifest::Manifest;

/// Checks a manifest, whose file is `up.yaml`.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("up.yaml");
    match Manifest::parse(file, text) {
        Ok(manifest) => {
            let written = serde_json::to_value(&manifest).expect("a manifest can be written");
            // JSON is YAML.
            let again = Manifest::parse(file, &written.to_string()).unwrap_or_else(|fault| panic!("{fault}: {written}"));
            assert_eq!(serde_json::to_value(&again).expect("a manifest can be written"), written);
        }
        Err(fault) => {
            // To YAML, a return ends a line too.
            let ends = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            assert!(fault.line <= 1 + ends as u64, "{fault}");
        }
    }
}
