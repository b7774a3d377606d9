//! Headers, before `=====`, beside a body's `params`: where a request may come from, and that a modern one says what its body says.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward::config::Listen;
use doorward::listen::headers;
use doorward::mcp::json::{Limits, Node, parse};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::halves;

const CALL: &str = "tools/call";
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// Checks a request's headers.
pub fn check(data: &[u8]) {
    let (head, body) = halves(data);
    let headers = read(head);
    let params = parse(body, Limits { depth: 16, nodes: 500 }).ok();
    let name = params.as_ref().and_then(|params| params.get("name")).and_then(Node::as_str);

    let bare = headers::check_modern(None, CALL, params.as_ref());
    if headers::check_modern(Some(&headers), CALL, params.as_ref()).is_ok() {
        assert!(bare.is_ok(), "headers make no body sound");
        assert_eq!(headers::text(&headers, &METHOD), Some(CALL));
        // A body without a name is refused by the next stage.
        if let Some(name) = name {
            assert!(headers::tool(&headers).is_some());
            let said = headers::text(&headers, &NAME).expect("a name");
            assert!(said == name || said == wrapped(name), "{said} is not {name}");
        }
    }
    if let Ok(revision) = &bare {
        let mut right = HeaderMap::new();
        right.insert(headers::VERSION, HeaderValue::from_static(revision.as_str()));
        right.insert(METHOD, HeaderValue::from_static(CALL));
        name.into_iter().for_each(|name| drop(right.insert(NAME, HeaderValue::from_str(&wrapped(name)).expect("Base64"))));
        assert!(headers::check_modern(Some(&right), CALL, params.as_ref()).is_ok(), "what says the same is taken");
    }
    comes_from_nowhere_else(&headers);
    params_are_read_once(&headers);
    let (_, _) = (headers::timeout(&headers), headers::is_forwarded(&headers));
    let (_, _) = (headers::is_json(&headers), headers::is_encoded(&headers));
    assert!(headers::bytes(&headers) >= 4 * headers.len());
    let _ = headers::accepts(&headers, "text/event-stream");
}

fn read(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(60) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn wrapped(name: &str) -> String {
    format!("=?base64?{}?=", STANDARD.encode(name))
}

/// Whatever else is said, a page of elsewhere is kept out, and so is one that names two places.
fn comes_from_nowhere_else(headers: &HeaderMap) {
    let (listen, local) = (Listen::default(), ([127, 0, 0, 1], 80).into());
    let (evil, own) = (HeaderValue::from_static("https://evil.example"), HeaderValue::from_static("http://localhost"));
    let mut foreign = headers.clone();
    foreign.insert(ORIGIN, evil);
    assert!(!headers::is_from_allowed_place(&foreign, &listen, local));
    foreign.append(ORIGIN, own);
    assert!(!headers::is_from_allowed_place(&foreign, &listen, local));
    let mut rebound = headers.clone();
    rebound.insert(HOST, HeaderValue::from_static("evil.example"));
    assert!(!headers::is_from_allowed_place(&rebound, &listen, local));
    if headers::is_from_allowed_place(headers, &listen, local) {
        let of = |name: &HeaderName| headers.get_all(name).iter().count();
        assert!(of(&ORIGIN) <= 1 && of(&HOST) <= 1, "{headers:?}");
    }
}

fn params_are_read_once(headers: &HeaderMap) {
    let there: BTreeSet<&str> = headers.keys().filter_map(|name| name.as_str().strip_prefix("mcp-param-")).collect();
    if let Ok(read) = headers::params(headers) {
        let names: BTreeSet<&str> = read.iter().map(|(name, _)| &**name).collect();
        assert_eq!((names.len(), &names), (read.len(), &there));
    }
}
