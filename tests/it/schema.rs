//! Schemas as contracts: what compiles, what does not, and what a broken rule tells.

use doorward::mcp::json::{Limits, parse};
use doorward::schema::{Formats, Schema, Schemas};
use proptest::prelude::*;

fn compile(schema: &str) -> Result<Schema, String> {
    Schema::compile(schema.as_bytes(), Formats::Assert).map_err(|fault| fault.to_string())
}

fn accepts(schema: &str, value: &str) -> bool {
    compile(schema).unwrap().check(&parse(value.as_bytes(), Limits::default()).unwrap()).is_ok()
}

#[test]
fn nothing_is_fetched_by_a_reference() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    for reference in [format!("http://{address}/s.json"), "file:///etc/passwd".to_owned(), "other.json".to_owned()] {
        assert!(compile(&format!(r#"{{"type":"object","properties":{{"a":{{"$ref":"{reference}"}}}}}}"#)).is_err(), "{reference}");
    }
    assert!(compile(&format!(r#"{{"$schema":"http://{address}/dialect","type":"object"}}"#)).is_err());
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn references_inside_the_schema_work() {
    let schema = r##"{"type":"object","properties":{"tree":{"$ref":"#/$defs/tree"}},"$defs":{"tree":{"type":"array","items":{"$ref":"#/$defs/tree"}}}}"##;
    assert!(accepts(schema, r#"{"tree":[[],[[]]]}"#));
    assert!(!accepts(schema, r#"{"tree":[[1]]}"#));
}

#[test]
fn the_dialect_is_2020_12_unless_the_schema_names_another() {
    // `prefixItems` exists from 2020-12 on; in draft-07 the same is an array of `items`.
    assert!(!accepts(r#"{"prefixItems":[{"type":"string"}]}"#, "[1]"));
    assert!(accepts(r#"{"$schema":"http://json-schema.org/draft-07/schema#","prefixItems":[{"type":"string"}]}"#, "[1]"));
    assert!(!accepts(r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}]}"#, "[1]"));
}

#[test]
fn a_hostile_pattern_costs_little() {
    let value = format!("\"{}!\"", "a".repeat(5_000));
    for pattern in ["^(a+)+$", "^(a|aa)+$", "^(a|a?)+$", "(x+x+)+y", r"^(a|aa)+\\1c"] {
        assert!(!accepts(&format!(r#"{{"pattern":"{pattern}"}}"#), &value), "{pattern}");
    }
    assert!(compile(r#"{"pattern":"((a{1,100}){1,100}){1,100}"}"#).is_err());
}

#[test]
fn lookahead_is_served_by_the_bounded_engine() {
    let schema = compile(r#"{"pattern":"^(?!admin).*$"}"#).unwrap();
    assert!(schema.is_backtracking());
    assert!(schema.check(&parse(b"\"user\"", Limits::default()).unwrap()).is_ok());
    assert!(schema.check(&parse(b"\"administrator\"", Limits::default()).unwrap()).is_err());
}

#[test]
fn formats_are_asserted_unless_the_manifest_says_annotate() {
    let schema = br#"{"format":"ipv4"}"#;
    let value = parse(b"\"999.1.1.1\"", Limits::default()).unwrap();
    assert!(Schema::compile(schema, Formats::Assert).unwrap().check(&value).is_err());
    assert!(Schema::compile(schema, Formats::Annotate).unwrap().check(&value).is_ok());
}

#[test]
fn numbers_are_compared_by_their_digits() {
    assert!(!accepts(r#"{"const":9007199254740993}"#, "9007199254740992"));
    assert!(accepts(r#"{"type":"integer"}"#, "1.0"));
    assert!(!accepts(r#"{"type":"integer"}"#, "1.5"));
    assert!(accepts(r#"{"enum":[1]}"#, "1.0"));
    assert!(!accepts(r#"{"maximum":10}"#, "123456789012345678901234567890"));
}

#[test]
fn a_number_of_more_digits_than_can_be_compared_is_refused_with_its_place() {
    for (schema, value) in [
        (r#"{"properties":{"a/b":{"items":{"type":"integer"}}}}"#, r#"{"a/b":[1,3.0000000000000000000001]}"#),
        (r#"{"properties":{"a/b":{"items":{"maximum":100}}}}"#, r#"{"a/b":[1,100.00000000000000000001]}"#),
        (r#"{"properties":{"a/b":{"items":{"const":1}}}}"#, r#"{"a/b":[1,1.00000000000000000000001]}"#),
        ("{}", r#"{"a/b":[1,1e-400]}"#),
    ] {
        let Err(details) = compile(schema).unwrap().check(&parse(value.as_bytes(), Limits::default()).unwrap()) else { panic!("{value}") };
        assert_eq!((&*details[0].pointer, &*details[0].keyword), ("/a~1b/1", "type"), "{details:?}");
        assert_eq!(details[0].got, "a number with more digits than can be compared exactly");
    }
}

#[test]
fn a_schema_whose_numbers_cannot_be_compared_exactly_does_not_compile() {
    for schema in [
        r#"{"const":9007199254740993.5}"#,
        r#"{"enum":["a",{"n":[0.10000000000000000001]}]}"#,
        r#"{"minimum":123456789012345678901234567890}"#,
        r#"{"multipleOf":0.1000000000000000055511151231257827}"#,
        r#"{"const":1e-400}"#,
    ] {
        let fault = compile(schema).unwrap_err();
        assert!(fault.contains("more digits than can be compared exactly"), "{schema}: {fault}");
    }
    assert!(compile(r#"{"properties":{"a~/b":{"const":1.00000000000000000001}}}"#).unwrap_err().contains("`/properties/a~0~1b/const`"));
    for (schema, sound, broken) in [
        (r#"{"const":9007199254740993}"#, "9007199254740993", "9007199254740992"),
        (r#"{"enum":[18446744073709551615]}"#, "18446744073709551615", "18446744073709551614"),
        (r#"{"maximum":100000000000000000000}"#, "100000000000000000000", "100000000000000016384"),
        (r#"{"minimum":-9223372036854775808}"#, "-9223372036854775808", "-9223372036854776000"),
        (r#"{"const":0.1}"#, "0.1", "0.10000000000000002"),
        (r#"{"multipleOf":0.01}"#, "19.99", "19.995"),
    ] {
        assert!(accepts(schema, sound) && !accepts(schema, broken), "{schema}");
    }
}

#[test]
fn an_integer_beyond_64_bits_is_refused_where_it_would_be_compared_as_another() {
    let wide = "100000000000000000001";
    for schema in [
        r#"{"maximum":100000000000000000000}"#,
        r#"{"const":100000000000000000000}"#,
        r#"{"not":{"enum":[100000000000000000000]}}"#,
        r#"{"multipleOf":2}"#,
        r#"{"not":{"multipleOf":2}}"#,
    ] {
        let details = compile(schema).unwrap().check(&parse(wide.as_bytes(), Limits::default()).unwrap()).unwrap_err();
        assert_eq!(details[0].got, "a number with more digits than can be compared exactly", "{schema}");
    }
    // It cannot be taken for what it is compared with, and the digits go on as they are.
    assert!(accepts(r#"{"minimum":0,"maximum":200000000000000000000}"#, wide) && !accepts(r#"{"maximum":99}"#, wide));
    assert!(accepts(r#"{"type":"integer"}"#, wide) && accepts(r#"{"enum":["a"],"type":["string","integer"]}"#, r#""a""#));
}

/// As JavaScript prints a number (ECMA-262, Number::toString).
fn in_javascript(double: f64) -> String {
    if double == 0.0 || (1e-6..1e21).contains(&double.abs()) {
        double.to_string()
    } else {
        format!("{double:e}").replace('e', "e+").replace("e+-", "e-")
    }
}

proptest! {
    #[test]
    fn every_double_in_its_shortest_form_is_a_number(bits: u64, small in -1_000_000_000_000_i64..1_000_000_000_000) {
        for double in [f64::from_bits(bits), small as f64 / 1_000.0] {
            prop_assume!(double.is_finite());
            for text in [format!("{double:?}"), format!("{double}"), format!("{double:e}"), serde_json::to_string(&double).unwrap(), in_javascript(double)] {
                prop_assert!(accepts(r#"{"type":"number"}"#, &text), "{text}");
            }
        }
    }
}

#[test]
fn a_broken_rule_is_named_and_its_value_is_not() {
    let schema = compile(r#"{"type":"object","properties":{"pin":{"type":"string","maxLength":4}},"required":["name"]}"#).unwrap();
    let details = schema.check(&parse(br#"{"pin":"hunter2-secret"}"#, Limits::default()).unwrap()).unwrap_err();
    let mut keywords: Vec<_> = details.iter().map(|detail| (detail.pointer.as_str(), detail.keyword.as_str())).collect();
    keywords.sort_unstable();
    assert_eq!(keywords, [("", "required"), ("/pin", "maxLength")]);
    assert!(!format!("{details:?}").contains("hunter2"));
}

#[test]
fn a_broken_rule_says_what_is_expected_and_what_kind_of_value_came() {
    let long = "x".repeat(5_000);
    for (schema, value, told) in [
        (r#"{"type":"integer"}"#, r#""hunter2""#, "an integer; a string of 7 characters"),
        (r#"{"type":["integer","null"]}"#, "1.5", "null or an integer; a number that is not written as an integer"),
        (r#"{"minimum":1}"#, "0", "a number of at least 1; an integer"),
        (r#"{"exclusiveMaximum":1}"#, "1", "a number below 1; an integer"),
        (r#"{"maxLength":4}"#, r#""hunter2""#, "a string of at most 4 characters; a string of 7 characters"),
        (r#"{"enum":["a",2]}"#, "[1,2]", r#"one of ["a",2]; an array of 2 items"#),
        (r#"{"const":"a"}"#, "true", r#""a"; a boolean"#),
        (r#"{"pattern":"^a"}"#, r#""b""#, "a string that matches `^a`; a string of 1 character"),
        (r#"{"required":["a"]}"#, "{}", r#"a member "a"; no such member"#),
        (r#"{"properties":{"y":{}},"additionalProperties":false}"#, r#"{"x":1}"#, "no members but those that the schema names; `x`"),
        (r#"{"oneOf":[{},true]}"#, "1", "a value that exactly one of the schemas in `oneOf` admits; a value that several of them admit"),
        (r#"{"uniqueItems":true}"#, "[1,1]", "items that all differ; an array of 2 items"),
        (r#"{"not":{}}"#, "{}", "what `not` of the schema asks for; an object of 0 members"),
    ] {
        let details = compile(schema).unwrap().check(&parse(value.as_bytes(), Limits::default()).unwrap()).unwrap_err();
        assert_eq!(format!("{}; {}", details[0].expected, details[0].got), told, "{schema}");
    }
    let details = compile(&format!(r#"{{"enum":["{long}"]}}"#)).unwrap().check(&parse(b"1", Limits::default()).unwrap()).unwrap_err();
    assert!(details[0].expected.len() < 300, "{}", details[0].expected.len());
}

#[test]
fn a_huge_wrong_value_gets_one_detail() {
    let schema = compile(r#"{"items":{"type":"string"}}"#).unwrap();
    let value = format!("[{}]", vec!["1"; 50_000].join(","));
    assert_eq!(schema.check(&parse(value.as_bytes(), Limits::default()).unwrap()).unwrap_err().len(), 1);
}

#[test]
fn equal_schemas_share_one_validator() {
    let schemas = Schemas::default();
    let one = schemas.get([1; 32], b"{}", Formats::Assert).unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &schemas.get([1; 32], b"{}", Formats::Assert).unwrap()));
}

#[test]
fn a_filter_language_nested_deep_and_wrong_costs_little() {
    let expr = r##"{"oneOf":[
        {"type":"object","required":["op","args"],"properties":{"op":{"const":"and"},"args":{"type":"array","items":{"$ref":"#/$defs/expr"}}}},
        {"type":"object","required":["op","args"],"properties":{"op":{"const":"or"},"args":{"type":"array","items":{"$ref":"#/$defs/expr"}}}},
        {"type":"object","required":["field"],"properties":{"field":{"type":"string"}}}]}"##;
    let schema = compile(&format!(r##"{{"$ref":"#/$defs/expr","$defs":{{"expr":{expr}}}}}"##)).unwrap();
    let nested = |leaf: &str| (0..14).fold(leaf.to_owned(), |inner, _| format!(r#"{{"op":"and","args":[{inner}]}}"#));

    let (right, wrong) = (nested(r#"{"field":"a"}"#), nested(r#"{"field":7}"#));

    assert!(schema.check(&parse(right.as_bytes(), Limits::default()).unwrap()).is_ok());
    assert_eq!(schema.check(&parse(wrong.as_bytes(), Limits::default()).unwrap()).unwrap_err().len(), 1);
}

#[test]
fn a_schema_that_refers_to_itself_tells_where_it_is_broken() {
    let filter = r##"{"$ref":"#/$defs/expr","$defs":{"expr":{"oneOf":[
        {"type":"object","required":["and"],"properties":{"and":{"type":"array","items":{"$ref":"#/$defs/expr"}}}},
        {"type":"object","required":["field"],"properties":{"field":{"type":"string"}}}]}}}"##;
    let deep = (0..15).fold(r#"{"value":"x"}"#.to_owned(), |inner, _| format!(r#"{{"value":1,"next":{inner}}}"#));
    let deep_place = format!("{}/value", "/next".repeat(15));
    for (schema, value, pointer, keyword) in [
        (r##"{"properties":{"value":{"type":"integer"},"next":{"$ref":"#"}}}"##, deep.as_str(), deep_place.as_str(), "type"),
        (
            r##"{"$dynamicAnchor":"node","properties":{"value":{"type":"integer"},"of":{"items":{"$dynamicRef":"#node"}}}}"##,
            r#"{"of":[{"of":[{"value":1},{"value":"x"}]}]}"#,
            "/of/0/of/1/value",
            "type",
        ),
        (filter, r#"{"and":[{"field":"a"},{"and":[{"field":7}]}]}"#, "/and/1/and/0/field", "type"),
    ] {
        let details = compile(schema).unwrap().check(&parse(value.as_bytes(), Limits::default()).unwrap()).unwrap_err();
        assert_eq!((details[0].pointer.as_str(), details[0].keyword.as_str()), (pointer, keyword), "{details:?}");
    }
}

#[test]
fn a_chain_of_definitions_that_doubles_does_not_compile() {
    let links = (0..30).map(|link| format!(r##""d{link}":{{"anyOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##, link + 1));
    let chain = links.collect::<Vec<_>>().join(",");
    let schema = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{chain},"d30":{{"type":"string"}}}}}}"##);
    assert!(compile(&schema).unwrap_err().contains("unfolds"));
}
