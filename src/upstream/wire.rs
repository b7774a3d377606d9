//! The messages that we send, as bytes.
//!
//! Owns: what a request of each era carries in `_meta`. Leaves to others: HTTP headers (`http`).
//! INVARIANT: a raw member is copied byte for byte; nothing of what an agent sent can end up outside of its member.

use super::request::{Exchange, Part, Resume};
use crate::mcp::canonical::write_string;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::jsonrpc::Id;
use crate::mcp::revision::{Era, Revision};

/// Who we say we are.
const CLIENT: &str = concat!(r#"{"name":"doorward","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What every modern request carries (2026-07-28, basic): version, who we are, and what we can be asked for, which follows.
const MODERN_META: &str = concat!(
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"doorward","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"io.modelcontextprotocol/clientCapabilities":"#
);

const PROTOCOL_PREFIX: &str = "io.modelcontextprotocol/";
const PROGRESS_TOKEN: &str = "progressToken";

/// The request of `exchange` under our `id`; the progress token is the id.
pub(super) fn request(exchange: &Exchange<'_>, id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(size(exchange));
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    write_number(id, &mut out);
    out.extend_from_slice(br#","method":"#);
    write_string(exchange.method, &mut out);
    let mut params = Members::open(br#","params":"#, &mut out);
    meta(exchange, id, &mut params);
    for (key, part) in exchange.members {
        params.name(key);
        match part {
            Part::Text(text) => write_string(text, params.out),
            Part::Raw(raw) => params.out.extend_from_slice(raw),
        }
    }
    for (key, raw) in exchange.retry.into_iter().flat_map(Resume::members) {
        params.name(key);
        params.out.extend_from_slice(raw);
    }
    params.close();
    out.push(b'}');
    out
}

fn meta(exchange: &Exchange<'_>, id: u64, params: &mut Members<'_>) {
    let start = params.out.len();
    let was_empty = params.empty;
    params.name("_meta");
    let mut meta = Members { out: &mut *params.out, empty: true };
    meta.out.push(b'{');
    if exchange.era == Era::Modern {
        meta.out.extend_from_slice(MODERN_META.as_bytes());
        exchange.capabilities.write(meta.out);
        meta.empty = false;
        if let Some(level) = exchange.log_level {
            meta.name("io.modelcontextprotocol/logLevel");
            write_string(level.as_str(), meta.out);
        }
    }
    if exchange.notices.is_some() {
        meta.name(PROGRESS_TOKEN);
        write_number(id, meta.out);
    }
    for (key, raw) in exchange.meta {
        if !key.starts_with(PROTOCOL_PREFIX) && *key != PROGRESS_TOKEN {
            meta.name(key);
            meta.out.extend_from_slice(raw);
        }
    }
    if meta.empty {
        // A legacy request without `_meta` is what legacy servers have seen most.
        params.out.truncate(start);
        params.empty = was_empty;
    } else {
        params.out.push(b'}');
    }
}

/// An object under way.
struct Members<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Members<'o> {
    fn open(before: &[u8], out: &'o mut Vec<u8>) -> Self {
        out.extend_from_slice(before);
        out.push(b'{');
        Self { out, empty: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        write_string(name, self.out);
        self.out.push(b':');
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

fn size(exchange: &Exchange<'_>) -> usize {
    let members: usize = exchange.members.iter().map(|(key, part)| key.len() + 8 + part.len()).sum();
    let meta: usize = exchange.meta.iter().map(|(key, raw)| key.len() + raw.len() + 4).sum();
    let retry: usize = exchange.retry.into_iter().flat_map(Resume::members).map(|(key, raw)| key.len() + raw.len() + 4).sum();
    members + meta + retry + MODERN_META.len() + 192
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Part::Text(text) => text.len(),
            Part::Raw(raw) => raw.len(),
        }
    }
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    // `u64` has at most 20 digits; a local buffer spares the call an allocation.
    let (mut digits, mut at, mut rest) = ([0_u8; 20], 20, number);
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        }
        rest /= 10;
        if rest == 0 {
            break out.extend_from_slice(digits.get(at..).unwrap_or_default());
        }
    }
}

/// The `ClientCapabilities` object that declares these.
pub(super) fn declared(capabilities: Capabilities) -> Vec<u8> {
    let mut out = Vec::new();
    capabilities.write(&mut out);
    out
}

/// The `initialize` members for a legacy server, with what it may ask us for.
pub(super) fn initialize_members(declared: &[u8]) -> [(&'static str, Part<'_>); 3] {
    [
        ("protocolVersion", Part::Text(Revision::NEWEST_LEGACY.as_str())),
        ("capabilities", Part::Raw(declared)),
        ("clientInfo", Part::Raw(CLIENT.as_bytes())),
    ]
}

/// `notifications/initialized`.
pub(super) const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// `notifications/cancelled` for the request that we sent under `id`.
pub(super) fn cancelled(id: u64) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"no longer wanted"}}}}"#)
        .into_bytes()
}

/// Our answer to a request of the server's: this result object.
pub(super) fn result(id: &Id, result: &[u8]) -> Vec<u8> {
    let mut out = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#).into_bytes();
    out.extend_from_slice(result);
    out.push(b'}');
    out
}

/// Our refusal of a request of the server's.
pub(super) fn refusal(id: &Id, code: i32, message: &'static str) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json;
    use crate::upstream::request::Sent;

    fn rendered(era: Era, meta: &[(&str, &[u8])], members: &[(&str, Part<'_>)]) -> String {
        let sent = Sent::default();
        let (notices, _kept) = tokio::sync::mpsc::channel(1);
        let exchange =
            Exchange { meta, notices: (!meta.is_empty()).then_some(&notices), ..Exchange::own(era, "tools/call", members, &sent) };
        let text = request(&exchange, 1205);
        json::parse(&text, json::Limits::default()).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_legacy_request_carries_no_key_of_the_protocol_and_arguments_byte_for_byte() {
        let meta: &[(&str, &[u8])] =
            &[("traceparent", b"\"00-1\""), ("io.modelcontextprotocol/logLevel", b"1"), ("progressToken", b"\"theirs\"")];
        let text = rendered(Era::Legacy, meta, &[("name", Part::Text("a\"b")), ("arguments", Part::Raw(b"{ \"n\": 1.0 }"))]);
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":1205,"method":"tools/call","params":{"_meta":{"progressToken":1205,"traceparent":"00-1"},"name":"a\"b","arguments":{ "n": 1.0 }}}"#
        );
        assert!(rendered(Era::Legacy, &[], &[]).ends_with(r#""params":{}}"#));
    }

    #[test]
    fn a_modern_request_describes_itself() {
        let text = rendered(Era::Modern, &[], &[("name", Part::Text("x"))]);
        assert!(text.contains(r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#), "{text}");
        assert!(text.ends_with(r#""io.modelcontextprotocol/clientCapabilities":{}},"name":"x"}}"#), "{text}");
    }

    #[test]
    fn answers_and_state_go_on_as_they_came() {
        let sent = Sent::default();
        let retry = Some(&Resume { responses: Some(br#"{ "q1":{"a":1.0} }"#), state: Some(br#""s\u0041""#), parked: None });
        let capabilities = Capabilities::ELICIT_FORM;
        let exchange = Exchange { retry, capabilities, ..Exchange::own(Era::Modern, "tools/call", &[("name", Part::Text("x"))], &sent) };
        let text = String::from_utf8(request(&exchange, 1)).unwrap();
        let end = r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}}}},"name":"x","inputResponses":{ "q1":{"a":1.0} },"requestState":"s\u0041"}}"#;
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, u64::MAX] {
            let mut out = Vec::new();
            write_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
