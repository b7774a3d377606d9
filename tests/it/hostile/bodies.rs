//! Bodies with one fault that is certain: each is a call that would be made without it.

use super::random::Random;
use crate::support::Ask;
use crate::support::client::MODERN;

/// A request, and what is wrong with it.
pub struct Case {
    pub fault: &'static str,
    pub ask: Ask,
}

/// The text of a call's parts, so that any of them can be replaced.
struct Parts {
    jsonrpc: String,
    id: String,
    method: String,
    name: String,
    arguments: String,
    meta: String,
    /// More members of the message, each with a comma behind it.
    more: String,
    /// More members of `params`, likewise.
    more_params: String,
}

impl Parts {
    fn sound(random: &mut Random) -> Self {
        let text = "x".repeat(random.size(0, 200));
        Self {
            jsonrpc: "\"2.0\"".to_owned(),
            id: random.below(1 << 30).to_string(),
            method: "\"tools/call\"".to_owned(),
            name: "\"up__echo\"".to_owned(),
            arguments: format!("{{\"text\":\"{text}\",\"amount\":{}}}", random.below(1_000)),
            meta: meta(MODERN, "{}"),
            more: String::new(),
            more_params: String::new(),
        }
    }

    fn text(&self) -> String {
        let Self { jsonrpc, id, method, name, arguments, meta, more, more_params } = self;
        format!(
            "{{\"jsonrpc\":{jsonrpc},\"id\":{id},{more}\"method\":{method},\"params\":{{\"name\":{name},{more_params}\"arguments\":{arguments},\"_meta\":{meta}}}}}"
        )
    }
}

fn meta(version: &str, capabilities: &str) -> String {
    format!("{{\"io.modelcontextprotocol/protocolVersion\":\"{version}\",\"io.modelcontextprotocol/clientCapabilities\":{capabilities}}}")
}

/// A call with the headers that belong to it.
pub fn ask(body: impl Into<Vec<u8>>) -> Ask {
    let ask = Ask::post(body).with("MCP-Protocol-Version", MODERN).with("Mcp-Method", "tools/call");
    ask.with("Mcp-Name", "up__echo")
}

/// The next case.
pub fn next(random: &mut Random) -> Case {
    let mut parts = Parts::sound(random);
    match random.below(10) {
        0..4 => grammar(random, &parts),
        4..7 => envelope(random, &mut parts),
        7 => arguments(random, &mut parts),
        8 => size(random, &mut parts),
        _ => encoding(random, &parts),
    }
}

/// What JSON does not allow.
fn grammar(random: &mut Random, parts: &Parts) -> Case {
    let text = parts.text();
    let (fault, body) = match random.below(11) {
        0 => ("cut off", text[..1 + random.below(text.len() - 1)].to_owned()),
        1 => ("more behind it", text.clone() + random.pick(&["}", "x", "{}", ",", "]", "null", "\"", "//", "\u{0}", &text])),
        2 => {
            let known = [
                "\"jsonrpc\":",
                "\"id\":",
                "\"method\":",
                "\"params\":",
                "\"name\":",
                "\"arguments\":",
                "\"_meta\":",
                "\"text\":",
                "\"amount\":",
            ];
            let at = text.find(random.pick(&known)).unwrap();
            let key = &text[at..=at + text[at..].find(':').unwrap()];
            // The second spelling of a letter makes no other name of it.
            let other = key.replacen(&key[1..2], &format!("\\u{:04x}", key.as_bytes()[1]), 1);
            let written = random.pick(&[key, other.as_str()]);
            let value = random.pick(&["null", "0", "\"\"", "{}", "\"up__pay\""]);
            ("a name twice", format!("{}{written}{value},{}", &text[..at], &text[at..]))
        }
        3 => (
            "no number",
            text.replacen(
                "\"amount\":",
                &format!("\"amount\":{}", random.pick(&["0", "+", ".", "0x1", "1e+-", "NaN", "Infinity", "1..", "--1", "1_0", "e1"])),
                1,
            ),
        ),
        4 => (
            "no literal",
            text.replacen(
                "\"amount\":",
                &format!("\"amount\":{} ,\"x\":", random.pick(&["True", "nul", "undefined", "'a'", "tru", "None", "`a`"])),
                1,
            ),
        ),
        5 => (
            "no escape",
            text.replacen(
                "\"text\":\"",
                &format!("\"text\":\"{}", random.pick(&["\\x", "\\u12", "\\u{1}", "\\'", "\\U0041", "\\", "\\0"])),
                1,
            ),
        ),
        6 => (
            "half a pair",
            text.replacen(
                "\"text\":\"",
                &format!("\"text\":\"{}", random.pick(&["\\ud800", "\\udfff", "\\udc00\\ud800", "\\ud83d\\u0041", "\\uD800\\uD800"])),
                1,
            ),
        ),
        7 => (
            "a bare control character",
            text.replacen("\"text\":\"", &format!("\"text\":\"{}", char::from(u8::try_from(random.below(32)).unwrap())), 1),
        ),
        8 => (
            "no such punctuation",
            text.replacen(random.pick(&[",\"", "\":"]), random.pick(&[";\"", "\"", ",,\"", "\"=", "\"::", "/**/;"]), 1),
        ),
        9 => ("another space", text.replacen(',', random.pick(&[",\u{a0}", ",\u{b}", ",\u{c}", ",\u{feff}", ",\u{2028}", ",\u{0}"]), 1)),
        _ => ("a comma at the end", text.replacen("}", ",}", 1)),
    };
    Case { fault, ask: ask(body) }
}

/// What JSON-RPC and MCP do not allow.
fn envelope(random: &mut Random, parts: &mut Parts) -> Case {
    let fault = match random.below(12) {
        0 => set(&mut parts.jsonrpc, random.pick(&["\"1.0\"", "2.0", "null", "\"2.00\"", "[]", "\"\""]), "no JSON-RPC 2.0"),
        1 => set(&mut parts.id, random.pick(&["null", "true", "[]", "{}", "[1]", "{\"a\":1}"]), "no id"),
        2 => set(&mut parts.method, random.pick(&["7", "null", "[]", "{}", "true", "[\"tools/call\"]"]), "no method"),
        3 => set(
            &mut parts.method,
            random.pick(&["\"tools/explode\"", "\"TOOLS/CALL\"", "\"tools/call \"", "\"\"", "\"rpc.call\"", "\"tools\\/cal\""]),
            "an unknown method",
        ),
        4 => set(&mut parts.name, random.pick(&["7", "null", "[]", "{}", "true", "[\"up__echo\"]"]), "no name"),
        5 => {
            let name = random.pick(&[
                "\"up__none\"",
                "\"up__\"",
                "\"__echo\"",
                "\"up__ECHO\"",
                "\"up__echo \"",
                "\"up__\\u0435cho\"",
                "\"\"",
                "\"../up__echo\"",
                "\"up__echo\\u0000\"",
            ]);
            set(&mut parts.name, name, "an unknown tool")
        }
        6 => set(&mut parts.arguments, random.pick(&["[]", "7", "\"{}\"", "true", "[{}]", "1e9"]), "no arguments"),
        7 => set(&mut parts.meta, random.pick(&["[]", "7", "\"\"", "true", "{}"]), "no `_meta`"),
        8 => {
            let version = random.pick(&["2099-01-01", "1999-01-01", "2026-07-27", "latest", "", "2026-07-28 "]);
            set(&mut parts.meta, &meta(version, "{}"), "an unknown revision")
        }
        9 => set(&mut parts.meta, &meta(MODERN, random.pick(&["[]", "null", "7", "\"all\""])), "no capabilities"),
        10 => set(
            &mut parts.more,
            random.pick(&["\"result\":{},", "\"error\":{\"code\":1,\"message\":\"m\"},", "\"result\":null,"]),
            "a request that is an answer",
        ),
        _ => set(
            &mut parts.more_params,
            random.pick(&["\"requestState\":\"AAAA\",", "\"requestState\":7,", "\"requestState\":null,", "\"requestState\":\"\","]),
            "a state that nobody gave",
        ),
    };
    if random.rarely(12) {
        let (fault, body) = whole(random, parts);
        return Case { fault, ask: ask(body) };
    }
    Case { fault, ask: named(parts) }
}

/// Messages that are none.
fn whole(random: &mut Random, parts: &Parts) -> (&'static str, String) {
    match random.below(4) {
        0 => ("no object", random.pick(&["", " ", "null", "7", "\"x\"", "[]", "[1]", "[[]]", "true"]).to_owned()),
        1 => ("many at once", format!("[{0},{0}]", parts.text())),
        2 => ("an answer to nothing", format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", random.below(99))),
        _ => ("a call without an id", parts.text().replacen(&format!("\"id\":{},", parts.id), "", 1)),
    }
}

fn set(part: &mut String, text: &str, fault: &'static str) -> &'static str {
    text.clone_into(part);
    fault
}

/// The request with the headers that its body asks for, where headers can say it.
fn named(parts: &Parts) -> Ask {
    let value = |text: &str| serde_json::from_str::<String>(text).unwrap_or_default();
    let (method, name) = (value(&parts.method), value(&parts.name));
    let can_be_said = |text: &str| text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) && !text.is_empty();
    let mut ask = ask(parts.text());
    if can_be_said(&method) {
        ask = ask.having("Mcp-Method", &method);
    }
    if can_be_said(&name) {
        ask = ask.having("Mcp-Name", &name);
    }
    ask
}

/// What the tool's schema does not allow.
fn arguments(random: &mut Random, parts: &mut Parts) -> Case {
    let amount = random.pick(&["-1", "1.5", "\"1\"", "null", "[]", "{}", "true", "-99999999999999999999999", "1e-3", "0.1e0"]);
    let text = random.pick(&["7", "null", "[]", "{}", "true"]);
    parts.arguments = match random.below(3) {
        0 => format!("{{\"amount\":{amount}}}"),
        1 => format!("{{\"text\":{text}}}"),
        _ => format!("{{\"text\":{text},\"amount\":{amount},\"more\":[{}]}}", "7,".repeat(random.size(0, 50)) + "7"),
    };
    Case { fault: "arguments beside the schema", ask: named(parts) }
}

/// What is too much.
fn size(random: &mut Random, parts: &mut Parts) -> Case {
    let (fault, value) = match random.below(6) {
        0 => ("too deep", "[".repeat(random.size(70, 3_000))),
        1 => {
            let depth = random.size(70, 3_000);
            ("too deep and closed", ["[".repeat(depth), "]".repeat(depth)].concat())
        }
        2 => {
            let depth = random.size(70, 600);
            ("too deep in objects", ["{\"a\":".repeat(depth), "1".to_owned(), "}".repeat(depth)].concat())
        }
        3 if random.rarely(60) => ("too many values", format!("[{}0]", "0,".repeat(200_001))),
        4 => ("a number beyond all", random.pick(&["1e999", "-1e400", "1e99999999999999999999"]).to_owned()),
        _ => ("a long string that does not end", format!("\"{}", "x".repeat(random.size(1, 20_000)))),
    };
    parts.arguments = format!("{{\"text\":\"\",\"more\":{value}}}");
    Case { fault, ask: ask(parts.text()) }
}

/// Bytes that are no text.
fn encoding(random: &mut Random, parts: &Parts) -> Case {
    let text = parts.text();
    let (fault, body) = match random.below(4) {
        0 => ("a byte order mark", [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat()),
        1 => ("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        2 => {
            let wrong = random.pick(&[
                b"\xff".as_slice(),
                b"\xc0\xaf",
                b"\xed\xa0\x80",
                b"\xf5\x80\x80\x80",
                b"\x80",
                b"\xe2\x82",
                b"\xf0\x9f\x98",
            ]);
            let at = text.find("\"text\":\"").unwrap() + 8;
            ("no UTF-8", [&text.as_bytes()[..at], wrong, &text.as_bytes()[at..]].concat())
        }
        _ => {
            let length = random.size(1, 300);
            // None of them begins a JSON value.
            ("noise", [b"\x01".to_vec(), random.bytes(length)].concat())
        }
    };
    Case { fault, ask: ask(body) }
}

/// A sound call with a few bytes changed: whether it still is one nobody knows, so it is sent by an agent that may call nothing.
pub fn changed(random: &mut Random) -> Case {
    let mut body = Parts::sound(random).text().into_bytes();
    for _ in 0..random.size(1, 6) {
        let (at, with) = (
            random.below(body.len()),
            random.pick(&[b"{".as_slice(), b"}", b"[", b"]", b"\"", b",", b":", b"\\", b"0", b"e", b"-", b"\0", b"\xff", b" "]),
        );
        match random.below(3) {
            0 => body[at] = with[0],
            1 => body.insert(at, with[0]),
            _ => drop(body.remove(at)),
        }
    }
    Case { fault: "a few bytes changed", ask: ask(body) }
}
