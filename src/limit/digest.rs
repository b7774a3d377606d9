//! What stands for a call where calls are compared: the same for the same target and arguments, in whatever order and spelling.
//!
//! Not the digest of records: that one is keyed for years, and ten times as dear. This one lives as long as the process.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::mcp::json::{Node, Value};

/// Of a target with its arguments; none are the empty object.
pub(super) fn call(hasher: &RandomState, target: u64, arguments: Option<&Node<'_>>) -> u64 {
    let arguments = arguments.map_or_else(|| object(hasher, std::iter::empty()), |node| value(hasher, node));
    tagged(hasher, b'c', |state| {
        state.write_u64(target);
        state.write_u64(arguments);
    })
}

fn value(hasher: &RandomState, node: &Node<'_>) -> u64 {
    match &node.value {
        Value::Null => tagged(hasher, b'n', |_| {}),
        Value::Bool(is_true) => tagged(hasher, b'b', |state| state.write_u8(u8::from(*is_true))),
        // By its digits, as they are forwarded.
        Value::Number(digits) => tagged(hasher, b'd', |state| state.write(digits.as_bytes())),
        Value::String(text) => tagged(hasher, b's', |state| state.write(text.as_bytes())),
        Value::Array(items) => tagged(hasher, b'a', |state| items.iter().for_each(|item| state.write_u64(value(hasher, item)))),
        Value::Object(members) => object(hasher, members.iter().map(|member| (&*member.key, &member.node))),
    }
}

/// The sum of its members, so that their order does not count and nothing is sorted.
fn object<'m, 'a: 'm>(hasher: &RandomState, members: impl Iterator<Item = (&'m str, &'m Node<'a>)>) -> u64 {
    let (mut sum, mut count) = (0_u64, 0_u64);
    for (key, node) in members {
        let member = tagged(hasher, b'm', |state| {
            state.write_u64(value(hasher, node));
            state.write(key.as_bytes());
        });
        (sum, count) = (sum.wrapping_add(member), count + 1);
    }
    tagged(hasher, b'o', |state| {
        state.write_u64(sum);
        state.write_u64(count);
    })
}

fn tagged(hasher: &RandomState, tag: u8, write: impl FnOnce(&mut dyn Hasher)) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u8(tag);
    write(&mut state);
    state.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mcp::canonical::write_canonical;
    use crate::mcp::json::{Limits, parse};

    fn of(hasher: &RandomState, text: &str) -> (u64, Vec<u8>) {
        let node = parse(text.as_bytes(), Limits::default()).unwrap();
        let mut canonical = Vec::new();
        write_canonical(&node, &mut canonical);
        (call(hasher, 7, Some(&node)), canonical)
    }

    fn texts() -> impl Strategy<Value = String> {
        let leaf = prop_oneof!["null|true|false|0|1|1\\.0|10|\"\"|\"a\"|\"1\"|\"\\\\u0061\"|\\[\\]|\\{\\}".prop_map(|text| text)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
                (inner.clone(), inner).prop_map(|(one, other)| format!("{{\"x\":{one},\"y\" : {other}}}")),
            ]
        })
    }

    #[test]
    fn order_and_spelling_do_not_count_and_digits_do() {
        let hasher = RandomState::new();
        let same = |one: &str, other: &str| of(&hasher, one).0 == of(&hasher, other).0;
        assert!(same(r#"{"a":1,"b":[true,null]}"#, r#"{ "b" : [true, null], "\u0061": 1 }"#));
        for (one, other) in
            [("1", "1.0"), ("[1,2]", "[2,1]"), (r#"{"a":"b"}"#, r#"{"b":"a"}"#), ("[[]]", "[]"), ("\"1\"", "1"), ("{}", "[]")]
        {
            assert!(!same(one, other), "{one} {other}");
        }
        assert_eq!(call(&hasher, 7, None), of(&hasher, "{}").0);
        assert_ne!(call(&hasher, 8, None), call(&hasher, 7, None));
    }

    proptest! {
        #[test]
        fn two_texts_are_the_same_call_exactly_when_their_canonical_forms_are(one in texts(), other in texts()) {
            let hasher = RandomState::new();
            let (one, other) = (of(&hasher, &one), of(&hasher, &other));
            prop_assert_eq!(one.0 == other.0, one.1 == other.1);
        }
    }
}
