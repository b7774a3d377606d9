//! What JSON the gateway accepts, and what it refuses before anything else looks at it.

use doorward::mcp::canonical::write_canonical;
use doorward::mcp::json::{Fault, Limits, parse};
use proptest::prelude::*;

fn fault(text: &str) -> Option<Fault> {
    parse(text.as_bytes(), Limits::default()).err().map(|error| error.fault)
}

fn canonical(text: &str) -> String {
    let mut out = Vec::new();
    write_canonical(&parse(text.as_bytes(), Limits::default()).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn refuses_what_two_readers_could_read_differently() {
    for (text, expected) in [
        (r#"{"a":1,"a":2}"#, Fault::DuplicateKey),
        (r#"{"a":1,"\u0061":2}"#, Fault::DuplicateKey),
        (r#"{"x":{"a":1,"b":[{"c":0,"c":0}]}}"#, Fault::DuplicateKey),
        ("\u{feff}{}", Fault::Syntax),
        (r#""\ud800""#, Fault::Unicode),
        (r#""\ud800\u0041""#, Fault::Unicode),
        (r#""\udc00""#, Fault::Unicode),
        ("{} {}", Fault::Trailing),
        ("{}\0", Fault::Trailing),
        ("NaN", Fault::Syntax),
        ("Infinity", Fault::Syntax),
        ("-", Fault::Truncated),
        ("01", Fault::Trailing),
        ("1.", Fault::Truncated),
        (".5", Fault::Syntax),
        ("+1", Fault::Syntax),
        ("1e400", Fault::NumberRange),
        ("[1,]", Fault::Syntax),
        (r#"{"a":1,}"#, Fault::Syntax),
        ("{'a':1}", Fault::Syntax),
        ("// no\n1", Fault::Syntax),
        ("\"a\nb\"", Fault::Syntax),
        ("\"\\x41\"", Fault::Syntax),
        ("", Fault::Truncated),
        ("[1", Fault::Truncated),
    ] {
        assert_eq!(fault(text), Some(expected), "{text:?}");
    }
}

#[test]
fn refuses_bytes_that_are_not_utf_8() {
    for bytes in [b"\"\xff\"".as_slice(), b"\"\xc0\xaf\"", b"\"\xed\xa0\x80\"", b"\"\xf4\x90\x80\x80\""] {
        assert_eq!(parse(bytes, Limits::default()).map_err(|error| error.fault).err(), Some(Fault::Unicode));
    }
}

#[test]
fn nesting_and_values_have_bounds() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(fault(&nested(64)), None);
    assert_eq!(fault(&nested(65)), Some(Fault::Depth));
    assert_eq!(fault(&nested(100_000)), Some(Fault::Depth));
    let few = Limits { depth: 64, nodes: 3 };
    assert!(parse(b"[1,2]", few).is_ok());
    assert_eq!(parse(b"[1,2,3]", few).unwrap_err().fault, Fault::Nodes);
}

#[test]
fn digits_are_kept_as_they_were_written() {
    for digits in ["9007199254740993", "1e2", "1.0", "-0", "123456789012345678901234567890", "0.10"] {
        assert_eq!(canonical(digits), digits);
    }
}

#[test]
fn the_canonical_form_forgets_space_escapes_and_order_only() {
    assert_eq!(canonical(" { \"b\" : [ 1 , 2 ] , \"\\u0061\" : \"\\u00e9\\/\" } "), "{\"a\":\"é/\",\"b\":[1,2]}");
    // UTF-16 order puts the surrogate pair of U+1F600 before U+FB33.
    assert_eq!(canonical("{\"\u{fb33}\":1,\"\u{1f600}\":2}"), "{\"\u{1f600}\":2,\"\u{fb33}\":1}");
    assert_ne!(canonical("1"), canonical("1.0"));
}

#[test]
fn a_span_holds_exactly_the_bytes_of_its_value() {
    let text = br#"{"params": {"arguments" : { "a" : [1, 2 ] } , "x":1}}"#;
    let document = parse(text, Limits::default()).unwrap();
    let arguments = document.pointer("/params/arguments").unwrap();
    assert_eq!(arguments.text(text), br#"{ "a" : [1, 2 ] }"#);
    assert_eq!(document.pointer("/params/arguments/a/1").unwrap().as_u64(), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What we accept another parser reads as the same value; what it refuses we refuse.
    #[test]
    fn agrees_with_another_parser(text in r#"[\[\]{}:,"a\\u0-9.eE+\- tfn]{0,24}"#) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match parse(text.as_bytes(), Limits::default()) {
            Ok(node) => prop_assert_eq!(doorward::schema::owned(&node), theirs.expect("they refuse what we accept")),
            Err(error) => prop_assert!(theirs.is_err() || matches!(error.fault, Fault::DuplicateKey), "we refuse {text:?}: {error}"),
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Limits { depth: 8, nodes: 50 });
    }

    #[test]
    fn the_canonical_form_is_a_fixed_point(text in r#"\{("[a-c]{1,2}":(0|[1-9][0-9]{0,2})(,"[d-f]{1,2}":"[^"\\\x00-\x1f]{0,8}")?)?\}"#) {
        let once = canonical(&text);
        prop_assert_eq!(&canonical(&once), &once);
    }
}
