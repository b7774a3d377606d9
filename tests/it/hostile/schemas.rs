//! Definitions of tools by a server that wants the gateway to choke on them: size, depth, width, patterns, references and alternatives.

use super::random::Random;

/// A schema, and arguments that it might choke on.
pub struct Hostile {
    pub sort: &'static str,
    pub schema: String,
    pub arguments: String,
}

/// The next one. Most are small, so that many are tried.
pub fn next(random: &mut Random) -> Hostile {
    let (sort, inner, value) = match random.below(14) {
        0 => deep(random),
        1 => wide(random),
        2 => pattern(random),
        3 => loops(random),
        4 => alternatives(random),
        5 => ways_back(random),
        6 => numbers(random),
        7 => items(random),
        8 => names(random),
        9 => unevaluated(random),
        10 => dialects(random),
        11 => formats(random),
        12 => kinds(random),
        _ => noise(random),
    };
    let schema = format!("{{\"type\":\"object\",\"properties\":{{\"a\":{inner}}},\"required\":[\"a\"]}}");
    Hostile { sort, schema, arguments: format!("{{\"a\":{value}}}") }
}

type Made = (&'static str, String, String);

fn nested(open: &str, close: &str, depth: usize, inside: &str) -> String {
    [&open.repeat(depth), inside, &close.repeat(depth)].concat()
}

fn deep(random: &mut Random) -> Made {
    let depth = random.size(1, 90);
    let (open, close) = [
        ("{\"items\":", "}"),
        ("{\"not\":", "}"),
        ("{\"properties\":{\"a\":", "}}"),
        ("{\"allOf\":[", "]}"),
        ("{\"oneOf\":[{},", "]}"),
        ("{\"if\":", "}"),
        ("{\"additionalProperties\":", "}"),
    ][random.below(7)];
    ("deep", nested(open, close, depth, "{\"type\":\"string\"}"), nested("[", "]", random.size(1, 60), "1"))
}

fn wide(random: &mut Random) -> Made {
    let width = if random.rarely(60) { random.size(1, 15_000) } else { random.size(1, 120) };
    let members = |of: &dyn Fn(usize) -> String| (0..width).map(of).collect::<Vec<_>>().join(",");
    let schema = match random.below(4) {
        0 => format!("{{\"properties\":{{{}}}}}", members(&|at| format!("\"p{at}\":{{\"type\":\"integer\"}}"))),
        1 => format!("{{\"enum\":[{}]}}", members(&|at| format!("{{\"a\":[{at}]}}"))),
        2 => format!("{{\"anyOf\":[{}]}}", members(&|at| format!("{{\"const\":{at}}}"))),
        _ => format!("{{\"required\":[{}]}}", members(&|at| format!("\"r{at}\""))),
    };
    let values = (0..random.size(1, 200)).map(|at| format!("\"p{at}\":\"x\"")).collect::<Vec<_>>().join(",");
    ("wide", schema, format!("{{{values}}}"))
}

fn pattern(random: &mut Random) -> Made {
    let pattern = random.pick(&[
        "^(a+)+$",
        "^(a|aa)+$",
        "^(a|a?)+$",
        "(x+x+)+y",
        "^(a|aa)+\\\\1c",
        "^(?=(a+))\\\\1b",
        "(?<!a+)b",
        "((a{1,100}){1,100}){1,100}",
        "(a?){60}a{60}",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "\\\\p{L}{1,500}{1,500}",
        "[",
        "(",
        "(?P<n>a)(?P=n)",
        "\\\\k<n>",
        "(?R)",
        "(*FAIL)",
        "^(?:a(?:b(?:c)?)?)*$",
        "(.*)*(.*)*(.*)*x",
        "^(?!(a|a)*b)",
        "(?i)ſ{1,999}",
        "\\\\u{110000}",
        "a{99999999999}",
        "^(?=.*a)(?=.*b)(?=.*c)(a|b|c)*d$",
    ]);
    let value = format!("\"{}{}\"", random.pick(&["a", "x", "ab", "aA"]).repeat(random.size(1, 4_000)), random.pick(&["!", "b", "y", ""]));
    let schema = match random.below(3) {
        0 => format!("{{\"pattern\":\"{pattern}\"}}"),
        1 => format!("{{\"patternProperties\":{{\"{pattern}\":false}}}}"),
        _ => format!("{{\"propertyNames\":{{\"pattern\":\"{pattern}\"}}}}"),
    };
    let is_value = schema.starts_with("{\"pattern\"");
    ("pattern", schema, if is_value { value } else { format!("{{{value}:1}}") })
}

fn loops(random: &mut Random) -> Made {
    let length = random.size(1, 60);
    let chain: Vec<_> = (0..length)
        .map(|at| {
            let next = format!("{{\"$ref\":\"#/properties/a/$defs/d{}\"}}", (at + 1) % length);
            let through = match random.below(6) {
                0 => next,
                1 => format!("{{\"allOf\":[{next}]}}"),
                2 => format!("{{\"not\":{next}}}"),
                3 => format!("{{\"anyOf\":[{next},{next}]}}"),
                4 => format!("{{\"if\":{next},\"then\":{next},\"else\":{next}}}"),
                _ => format!("{{\"items\":{next}}}"),
            };
            format!("\"d{at}\":{through}")
        })
        .collect();
    let value = nested("[", "]", random.size(1, 50), "1");
    ("loops", format!("{{\"$ref\":\"#/properties/a/$defs/d0\",\"$defs\":{{{}}}}}", chain.join(",")), value)
}

fn alternatives(random: &mut Random) -> Made {
    let levels = random.size(1, 45);
    let word = random.pick(&["oneOf", "anyOf", "allOf"]);
    let arms = random.size(2, 4);
    let level = |at: usize| {
        let arm = format!("{{\"$ref\":\"#/properties/a/$defs/l{}\"}}", at + 1);
        format!("\"l{at}\":{{\"{word}\":[{}]}}", vec![arm; arms].join(","))
    };
    let all: Vec<_> = (0..levels).map(level).chain([format!("\"l{levels}\":{{\"type\":\"null\"}}")]).collect();
    ("alternatives", format!("{{\"$ref\":\"#/properties/a/$defs/l0\",\"$defs\":{{{}}}}}", all.join(",")), "7".to_owned())
}

fn ways_back(random: &mut Random) -> Made {
    let word = random.pick(&["anyOf", "oneOf", "allOf"]);
    let arm = random.pick(&[
        "{\"items\":{\"$ref\":\"#/properties/a\"}}",
        "{\"prefixItems\":[{\"$ref\":\"#/properties/a\"}]}",
        "{\"contains\":{\"$ref\":\"#/properties/a\"}}",
        "{\"additionalProperties\":{\"$ref\":\"#/properties/a\"}}",
        "{\"not\":{\"items\":{\"$ref\":\"#/properties/a\"}}}",
        "{\"unevaluatedItems\":{\"$ref\":\"#/properties/a\"}}",
    ]);
    let schema = format!("{{\"{word}\":[{}],\"type\":[\"array\",\"object\"]}}", vec![arm; random.size(2, 5)].join(","));
    let depth = random.size(1, 58);
    let value = if arm.contains("Properties") { nested("{\"k\":", "}", depth, "1") } else { nested("[", "]", depth, "1") };
    ("ways back", schema, value)
}

fn numbers(random: &mut Random) -> Made {
    let number = random.pick(&["0", "-1", "1e-300", "1e308", "18446744073709551616", "0.1", "9007199254740993", "1e400", "-0.0", "1E+2"]);
    let digits = "9".repeat(random.size(1, 400));
    let word = random.pick(&["multipleOf", "maximum", "exclusiveMinimum", "maxLength", "minItems", "maxProperties", "minContains"]);
    let written = if random.rarely(3) { digits.as_str() } else { number };
    let value = random.pick(&["1", "1e308", "-1e-308", "123456789012345678901234567890", "\"x\"", "[1,2]", "0.30000000000000004"]);
    ("numbers", format!("{{\"{word}\":{written}}}"), value.to_owned())
}

fn items(random: &mut Random) -> Made {
    let schema = random.pick(&[
        "{\"uniqueItems\":true}",
        "{\"contains\":{\"uniqueItems\":true},\"minContains\":999999999}",
        "{\"contains\":{\"contains\":{\"contains\":{\"const\":1}}}}",
        "{\"items\":{\"uniqueItems\":true},\"uniqueItems\":true}",
        "{\"prefixItems\":[true,false,true],\"items\":false,\"unevaluatedItems\":false}",
    ]);
    let item = random.pick(&["1,", "[1,2],", "{\"a\":{\"b\":1}},", "\"x\",", "[[[[1]]]],", "1.0,1,"]);
    let length = if random.rarely(30) { random.size(1, 8_000) } else { random.size(1, 300) };
    ("items", schema.to_owned(), format!("[{}0]", item.repeat(length)))
}

fn names(random: &mut Random) -> Made {
    let many = random.size(1, 60);
    let patterns: Vec<_> = (0..many).map(|at| format!("\"^p{at}.*{}$\":{{\"maxLength\":{at}}}", "a?".repeat(random.size(0, 20)))).collect();
    let dependent: Vec<_> = (0..many).map(|at| format!("\"p{at}\":{{\"required\":[\"p{}\"]}}", at + 1)).collect();
    let schema = format!(
        "{{\"patternProperties\":{{{}}},\"dependentSchemas\":{{{}}},\"propertyNames\":{{\"maxLength\":3}}}}",
        patterns.join(","),
        dependent.join(",")
    );
    let members: Vec<_> = (0..random.size(1, 300)).map(|at| format!("\"p{at}{}\":\"xx\"", "a".repeat(random.size(0, 30)))).collect();
    ("names", schema, format!("{{{}}}", members.join(",")))
}

fn unevaluated(random: &mut Random) -> Made {
    let arms: Vec<_> = (0..random.size(1, 30))
        .map(|at| format!("{{\"if\":{{\"required\":[\"p{at}\"]}},\"then\":{{\"properties\":{{\"p{at}\":true}}}}}}"))
        .collect();
    let schema = format!(
        "{{\"allOf\":[{}],\"unevaluatedProperties\":{}}}",
        arms.join(","),
        random.pick(&["false", "{\"$ref\":\"#/properties/a\"}"])
    );
    let members: Vec<_> = (0..random.size(1, 100)).map(|at| format!("\"p{at}\":{{}}")).collect();
    ("unevaluated", schema, format!("{{{}}}", members.join(",")))
}

fn dialects(random: &mut Random) -> Made {
    let schema = random.pick(&[
        "{\"$schema\":\"http://evil.example/dialect\"}",
        "{\"$schema\":\"http://json-schema.org/draft-03/schema#\",\"extends\":{\"$ref\":\"#\"}}",
        "{\"$schema\":\"http://json-schema.org/draft-04/schema#\",\"exclusiveMinimum\":true}",
        "{\"$id\":\"https://a.example/\",\"$ref\":\"b\",\"$defs\":{\"b\":{\"$id\":\"b\",\"$ref\":\"https://a.example/\"}}}",
        "{\"$ref\":\"file:///etc/passwd\"}",
        "{\"$ref\":\"http://127.0.0.1:1/\"}",
        "{\"$dynamicRef\":\"#n\",\"$dynamicAnchor\":\"n\"}",
        "{\"$recursiveRef\":\"#\",\"$recursiveAnchor\":true}",
        "{\"$anchor\":\"x\",\"allOf\":[{\"$anchor\":\"x\"},{\"$ref\":\"#x\"}]}",
        "{\"$vocabulary\":{\"https://evil.example/v\":true},\"$comment\":1}",
        "{\"$ref\":\"#/properties/~2\"}",
        "{\"$ref\":\"#/properties/a/$ref\"}",
        "{\"$ref\":\"\"}",
    ]);
    ("dialects", schema.to_owned(), nested("[", "]", random.size(1, 50), "1"))
}

fn formats(random: &mut Random) -> Made {
    let format = random.pick(&[
        "regex",
        "uri",
        "uri-template",
        "iri",
        "idn-hostname",
        "hostname",
        "email",
        "idn-email",
        "ipv6",
        "duration",
        "date-time",
        "json-pointer",
        "uuid",
        "no-such",
    ]);
    let letter = random.pick(&["a", "(", "{", ".", "-", ":", "@", "[", "%", "\u{430}", "\u{301}", "1", "/", "~"]);
    ("formats", format!("{{\"format\":\"{format}\"}}"), format!("\"{}\"", letter.repeat(random.size(1, 3_000))))
}

fn kinds(random: &mut Random) -> Made {
    let word = random.pick(&[
        "type",
        "properties",
        "items",
        "required",
        "enum",
        "oneOf",
        "pattern",
        "format",
        "$ref",
        "$defs",
        "minimum",
        "not",
        "dependentRequired",
        "additionalProperties",
        "$id",
        "$anchor",
    ]);
    let value =
        random.pick(&["null", "7", "-1", "true", "\"x\"", "[]", "{}", "[1]", "[{}]", "{\"a\":7}", "\"\"", "[\"a\",\"a\"]", "\"#\""]);
    ("kinds", format!("{{\"{word}\":{value}}}"), random.pick(&["1", "\"x\"", "[]", "{}", "null"]).to_owned())
}

fn noise(random: &mut Random) -> Made {
    let words = [
        "type",
        "properties",
        "items",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "$ref",
        "enum",
        "const",
        "pattern",
        "minimum",
        "required",
        "contains",
        "prefixItems",
        "unevaluatedItems",
        "dependentSchemas",
    ];
    ("noise", any(random, &words, 6), any(random, &["a", "b", "c"], 6))
}

/// Any value of words that mean something.
fn any(random: &mut Random, words: &[&str], depth: usize) -> String {
    let value = |random: &mut Random| any(random, words, depth - 1);
    match random.below(if depth == 0 { 4 } else { 7 }) {
        0 => random.pick(&["true", "false", "null"]).to_owned(),
        1 => random.below(100).to_string(),
        2 => format!("\"{}\"", random.pick(&["string", "array", "object", "#", "#/properties/a", "^a*$", "x"])),
        3 => "{}".to_owned(),
        4 => format!("[{}]", (0..random.below(4)).map(|_| value(random)).collect::<Vec<_>>().join(",")),
        _ => {
            let mut members: Vec<(&str, String)> = (0..random.below(5)).map(|_| (random.pick(words), value(random))).collect();
            members.sort();
            members.dedup_by(|one, other| one.0 == other.0);
            format!("{{{}}}", members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(","))
        }
    }
}
