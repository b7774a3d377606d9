//! The HTTP headers of the protocol, in both eras.
//!
//! INVARIANT: each is computed from the very values that go into the body; none is copied from an agent.

use base64::Engine;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::request::Exchange;
use super::session::Session;
use crate::error::{Code, Error};
use crate::mcp::revision::Revision;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The header that names a legacy session.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Those of a modern POST, on top of `base`.
///
/// # Errors
/// `internal` when a tool's schema names a header that is none.
pub(super) fn modern(base: &HeaderMap, exchange: &Exchange<'_>) -> Result<HeaderMap, Error> {
    let mut headers = base.clone();
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(Revision::NEWEST.as_str()));
    headers.insert(METHOD, value(exchange.method));
    if let Some(name) = exchange.name {
        headers.insert(NAME, value(name));
    }
    for (name, text) in exchange.headers {
        let name = HeaderName::from_bytes(format!("mcp-param-{name}").as_bytes())
            .map_err(|_| Error::new(Code::Internal, "a tool's schema names a header that is none"))?;
        headers.insert(name, value(text));
    }
    Ok(headers)
}

/// Those of a POST in a legacy session.
pub(super) fn legacy(base: &HeaderMap, session: &Session) -> HeaderMap {
    let mut headers = base.clone();
    if session.greeting.version.has_header() {
        headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(session.greeting.version.as_str()));
    }
    if let Some(id) = &session.id {
        headers.insert(SESSION_ID, id.clone());
    }
    headers
}

/// Those of the GET that opens a legacy session's own stream.
pub(super) fn legacy_stream(base: &HeaderMap, session: &Session) -> HeaderMap {
    let mut headers = legacy(base, session);
    headers.remove(CONTENT_TYPE);
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers
}

/// The value of a header, in Base64 where it cannot stand as it is (2026-07-28, streamable HTTP, value encoding).
fn value(text: &str) -> HeaderValue {
    let bytes = text.as_bytes();
    let printable = bytes.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e));
    let edges = [bytes.first(), bytes.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'));
    let marked = text.starts_with("=?base64?") && text.ends_with("?=");
    let plain = if printable && !edges && !marked { HeaderValue::from_str(text).ok() } else { None };
    plain.unwrap_or_else(|| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
        // Base64 and its markers are visible ASCII, so this cannot fail; an empty value would be refused by the server.
        HeaderValue::from_str(&format!("=?base64?{encoded}?=")).unwrap_or(HeaderValue::from_static(""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_stand_are_encoded() {
        for plain in ["", "read_file", "a b", "=?BASE64?x?=", "=?base64?x"] {
            assert_eq!(value(plain), plain);
        }
        for (text, encoded) in [
            (" a", "=?base64?IGE=?="),
            ("ü", "=?base64?w7w=?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
        ] {
            assert_eq!(value(text), encoded);
        }
    }
}
