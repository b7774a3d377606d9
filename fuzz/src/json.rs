//! A document: what is taken is what another reader takes and reads alike, and the canonical form is one.

use doorward::mcp::canonical::write_canonical;
use doorward::mcp::json::{Fault, Limits, Node, Value, parse};
use serde_json::Value as Theirs;

const LIMITS: Limits = Limits { depth: 64, nodes: 5_000 };

/// Checks a document.
pub fn check(data: &[u8]) {
    match (parse(data, LIMITS), serde_json::from_slice::<Theirs>(data)) {
        (Ok(node), Ok(theirs)) => {
            assert!(is_same(&node, &theirs), "{node:?} and {theirs:?}");
            is_canonical(&node, data, &theirs);
        }
        // At the edge of what a double can hold the two round differently.
        (Ok(_), Err(error)) => assert!(error.to_string().starts_with("number out of range"), "only we take it: {error}"),
        (Err(error), Ok(_)) => {
            let stricter = [Fault::DuplicateKey, Fault::Depth, Fault::Nodes, Fault::NumberRange];
            assert!(stricter.contains(&error.fault) && error.offset <= data.len(), "only we refuse it: {error}");
        }
        (Err(error), Err(_)) => assert!(error.offset <= data.len(), "{error}"),
    }
}

fn is_same(node: &Node<'_>, theirs: &Theirs) -> bool {
    match (&node.value, theirs) {
        (Value::Null, Theirs::Null) => true,
        (Value::Bool(ours), Theirs::Bool(theirs)) => ours == theirs,
        // It does not round to the nearest double by default.
        (Value::Number(digits), Theirs::Number(theirs)) => match (digits.parse::<f64>(), theirs.as_f64()) {
            (Ok(ours), Some(theirs)) => (ours - theirs).abs() <= ours.abs() * 1e-14,
            _ => false,
        },
        (Value::String(ours), Theirs::String(theirs)) => ours == theirs,
        (Value::Array(ours), Theirs::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
        }
        (Value::Object(ours), Theirs::Object(theirs)) => {
            let known = |name: &str| theirs.get(name);
            ours.len() == theirs.len() && ours.iter().all(|ours| known(&ours.key).is_some_and(|theirs| is_same(&ours.node, theirs)))
        }
        _ => false,
    }
}

fn canonical(node: &Node<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_canonical(node, &mut out);
    out
}

/// The canonical form reads as the same value and is its own, and so does what a span cuts out.
fn is_canonical(node: &Node<'_>, data: &[u8], theirs: &Theirs) {
    let form = canonical(node);
    let again = parse(&form, LIMITS).expect("the canonical form is a document");
    assert!(is_same(&again, theirs));
    assert_eq!(canonical(&again), form, "the canonical form of a canonical form");
    let cut = node.text(data);
    assert_eq!(canonical(&parse(cut, LIMITS).expect("a value's own text is a document")), form);
    for inner in node.items().iter().chain(node.members().iter().map(|member| &member.node)) {
        let of_text = parse(inner.text(data), LIMITS).expect("an inner value's text is a document");
        assert_eq!(canonical(&of_text), canonical(inner));
    }
}
