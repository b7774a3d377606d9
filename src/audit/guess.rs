//! How a value that somebody has in mind would stand in a record, so that it is found though it was never stored.
//!
//! A keyed value is found under every key that is still there. What a manifest says to `drop` or to keep only the `class` of cannot be found.
//!
//! Owns: the forms of a guess. Leaves to others: how values are stored (`redact`), and which keys there are (`values`).

use super::redact::ValueKey;
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::json::{Limits, Value, parse};

/// All forms in which `value`, read as a text and, where it is one, as JSON, may stand in a record.
pub fn forms(value: &str, keys: &[ValueKey]) -> Vec<String> {
    let mut clear = vec![value.to_owned()];
    // As a text, and as the name of a member, which is hashed without quotes.
    let mut canonical = vec![value.as_bytes().to_vec()];
    let mut quoted = Vec::new();
    write_string(value, &mut quoted);
    canonical.push(quoted);
    if let Ok(node) = parse(value.as_bytes(), Limits::default()) {
        if let Value::String(text) = &node.value {
            clear.push(text.clone().into_owned());
            canonical.push(text.as_bytes().to_vec());
        }
        let mut bytes = Vec::new();
        write_canonical(&node, &mut bytes);
        canonical.push(bytes);
    }
    clear.extend(keys.iter().flat_map(|key| canonical.iter().map(|bytes| key.hash(bytes))));
    clear.sort_unstable();
    clear.dedup();
    clear
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::redact::{Declared, view};

    #[test]
    fn a_guess_has_the_form_in_which_the_value_is_stored() {
        let (old, new) = (ValueKey::new(&[1; 32]), ValueKey::new(&[2; 32]));
        let names = ["amount".into(), "to".into()];
        let declared = Declared { fields: &[], names: &names, are_valid: true };
        for (arguments, guess) in [
            (r#"{"to":"alice"}"#, "alice"),
            (r#"{"to":"a\"b"}"#, "a\"b"),
            (r#"{"to":"alice"}"#, "\"alice\""),
            (r#"{"amount":1200.50}"#, "1200.50"),
            (r#"{"amount":"42"}"#, "42"),
            (r#"{"amount":null}"#, "null"),
            (r#"{"sk-live-1":{}}"#, "sk-live-1"),
        ] {
            let node = parse(arguments.as_bytes(), Limits::default()).unwrap();
            let stored = view(Some(&node), declared, &old).text;
            let guesses = forms(guess, &[ValueKey::new(&[1; 32]), ValueKey::new(&[2; 32])]);
            assert!(guesses.iter().any(|form| stored.contains(form.as_str())), "{guess} in {stored}");
            let digest = view(Some(&node), declared, &new).digest;
            assert!(forms(arguments, &[ValueKey::new(&[2; 32])]).contains(&digest), "{arguments}");
        }
    }
}
