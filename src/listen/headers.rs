//! What HTTP headers must say before and beside the body: where a request may come from, and the standard headers of
//! 2026-07-28 (streamable HTTP, "Server Validation").
//!
//! INVARIANT: decisions are made on the body; a header that says otherwise refuses the request.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName};

use super::subscribe::SUBSCRIPTION;
use crate::config::Listen;
use crate::error::{Code, Error};
use crate::mcp::json::Node;
use crate::mcp::messages::{self, Meta, Method};
use crate::mcp::revision::Revision;

/// Headers by which a proxy says that it forwards for somebody else, beside all of `x-forwarded-`.
const FORWARDING: [&str; 3] = ["forwarded", "x-real-ip", "via"];
/// The revision of a message (2025-06-18 and later).
pub const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Ours for how long a client waits, for one that does not write `_meta` itself.
const TIMEOUT: HeaderName = HeaderName::from_static("doorward-timeout-ms");
/// Where in a trace the request is (W3C Trace Context).
const TRACE: HeaderName = HeaderName::from_static("traceparent");
/// Longest one that is looked at, in bytes: twice that of the first version.
const MAX_TRACE: usize = 110;
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const PARAM: &str = "mcp-param-";

/// Headers by the part of their name behind `Mcp-Param-`.
pub type ParamHeaders = Vec<(Box<str>, Box<str>)>;

/// The value of a header, where it occurs once and is visible ASCII.
pub fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value.trim_matches([' ', '\t']))
}

/// How long the client waits for its answer: a whole number of milliseconds. What is none counts for nothing.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    messages::timeout(text(headers, &TIMEOUT)?.parse().ok()?)
}

/// The `traceparent`, as long as one can be that is read.
pub fn trace(headers: &HeaderMap) -> Option<Box<str>> {
    text(headers, &TRACE).filter(|text| text.len() <= MAX_TRACE).map(Box::from)
}

/// The size of all headers as they came, in bytes.
pub fn bytes(headers: &HeaderMap) -> usize {
    // A colon, a space and a line break stand around each.
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Whether somebody forwards the request.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| FORWARDING.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-"))
}

/// Whether the request may come from where it says: the defence against web pages and DNS rebinding on loopback.
pub fn is_from_allowed_place(headers: &HeaderMap, listen: &Listen, local: SocketAddr) -> bool {
    // A header that is there and is not one readable value names no allowed place, whatever its first value says.
    let host = !headers.contains_key(HOST)
        || text(headers, &HOST).is_some_and(|host| {
            let named = listen.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
            // Beyond loopback TLS proves the name; on loopback only a loopback name is ours.
            named || !local.ip().to_canonical().is_loopback() || is_loopback_name(host)
        });
    let origin = !headers.contains_key(ORIGIN)
        || text(headers, &ORIGIN).is_some_and(|origin| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            // A browser writes an origin in one way, and the configuration takes no other: bytes tell scheme, host and port.
            listen.allowed_origins.iter().any(|allowed| allowed == origin) || authority.is_some_and(is_loopback_name)
        });
    host && origin
}

fn is_loopback_name(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    matches!(name.to_ascii_lowercase().as_str(), "localhost" | "127.0.0.1" | "[::1]")
}

/// Whether the body is declared to be JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    text(headers, &CONTENT_TYPE)
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")))
}

/// Whether the body is something else than its own bytes, such as compressed.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Whether the client takes this type of answer.
pub fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let family = kind.split('/').next().unwrap_or_default();
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|part| {
        let part = part.split(';').next().unwrap_or_default().trim();
        part == "*/*" || part.eq_ignore_ascii_case(kind) || part.strip_suffix("/*").is_some_and(|part| part.eq_ignore_ascii_case(family))
    })
}

/// Checks a modern request's `_meta` and standard headers against its body, in the order that the protocol's tests ask for.
///
/// # Errors
/// `malformed_request` (-32602), `header_mismatch` (-32020), `unsupported_version` (-32022), each with HTTP 400.
pub fn check_modern(headers: Option<&HeaderMap>, method: &str, params: Option<&Node<'_>>) -> Result<Revision, Error> {
    let refused = |message: &'static str| Error::new(Code::MalformedRequest, message).wire(-32602, 400);
    let meta = Meta::of(params);
    let version = meta
        .protocol_version()
        .ok_or_else(|| refused("`params._meta` lacks `io.modelcontextprotocol/protocolVersion`, which each request of 2026-07-28 has"))?;
    if !meta.get("io.modelcontextprotocol/clientCapabilities").is_some_and(Node::is_object) {
        return Err(refused("`params._meta` lacks `io.modelcontextprotocol/clientCapabilities`, which each request of 2026-07-28 has"));
    }
    if meta.get(SUBSCRIPTION).is_some() {
        // It ties a notification to the request that asked for it, so it only ever comes from this side.
        return Err(refused("`params._meta` has `io.modelcontextprotocol/subscriptionId`, which only a server's messages have"));
    }
    if let Some(headers) = headers {
        check_standard(headers, version, method, params)?;
    }
    Revision::parse(version).filter(|revision| revision.is_modern()).ok_or_else(|| unsupported(version))
}

/// The refusal of a revision, with those that are served.
pub fn unsupported(requested: &str) -> Error {
    let mut quoted = Vec::new();
    crate::mcp::canonical::write_string(&requested.chars().take(64).collect::<String>(), &mut quoted);
    Error::new(Code::UnsupportedVersion, "the protocol revision is not served here")
        .data("supported", format!("[\"{}\"]", Revision::NEWEST.as_str()))
        .data("requested", String::from_utf8_lossy(&quoted).into_owned())
}

fn check_standard(headers: &HeaderMap, version: &str, method: &str, params: Option<&Node<'_>>) -> Result<(), Error> {
    let mismatch = |message: &'static str| Error::new(Code::HeaderMismatch, message);
    if text(headers, &VERSION) != Some(version) {
        return Err(mismatch("the header `MCP-Protocol-Version` is missing or differs from `params._meta`"));
    }
    if text(headers, &METHOD) != Some(method) {
        return Err(mismatch("the header `Mcp-Method` is missing or differs from `method`"));
    }
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    let named = params.and_then(|params| params.get(member)).and_then(Node::as_str);
    let unsound = || mismatch("the header `Mcp-Name` is not sound Base64");
    let header = text(headers, &NAME).map(|name| decoded(name).ok_or_else(unsound)).transpose()?;
    // Without the member the parameters are refused for it, by the next stage.
    if named.is_some() && header.as_deref() != named {
        return Err(mismatch("the header `Mcp-Name` is missing or differs from the body"));
    }
    Ok(())
}

/// Whether the headers say that a target is asked for something, as those of 2026-07-28 do.
pub fn is_call(headers: &HeaderMap) -> bool {
    text(headers, &METHOD).is_some_and(|method| Method::parse(method).is_some())
}

/// The tool that the headers say is called.
pub fn tool(headers: &HeaderMap) -> Option<&str> {
    text(headers, &NAME).filter(|_| text(headers, &METHOD) == Some("tools/call"))
}

/// The `Mcp-Param-*` headers of a request of 2026-07-28: each NAME in lower case, with its decoded value.
///
/// # Errors
/// `header_mismatch` for one that stands twice, is not visible ASCII, or is not sound Base64.
pub fn params(headers: &HeaderMap) -> Result<ParamHeaders, Error> {
    let named = headers.keys().filter_map(|name| Some((name, name.as_str().strip_prefix(PARAM)?)));
    let decoded = named.map(|(name, param)| Some((param.into(), decoded(text(headers, name)?)?.into())));
    let unsound = || Error::new(Code::HeaderMismatch, "a header `Mcp-Param-*` stands twice or cannot be read");
    decoded.collect::<Option<_>>().ok_or_else(unsound)
}

/// A header value that may be wrapped in `=?base64?…?=`. Other spellings of the wrapper are literal values.
fn decoded(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(value.to_owned());
    };
    STANDARD.decode(inner).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}
