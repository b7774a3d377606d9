//! Small documents that the gateway fetches for itself over HTTP: key sets, metadata of authorization servers, tokens.
//!
//! Owns: which URLs are fit for a credential or a key, the roots of trust, and the bounds of one exchange. Leaves to others: what a
//! document says, and the connections over which tools are called (`upstream::http`).
//!
//! INVARIANT: redirects are not followed; plaintext goes to loopback only; every answer is bounded in size and in time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;

/// Longest time for one exchange, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest document: a key set with hundreds of keys.
const MAX_BYTES: usize = 256 * 1024;
/// Most headers of an answer.
const MAX_HEADERS: usize = 100;
/// Longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What came back, whatever its status.
#[derive(Clone, Debug)]
pub struct Document {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Checks a URL that a credential may be sent to, or a key taken from: https, or http on this machine.
///
/// # Errors
/// What is wrong with it, for the operator.
pub fn parse(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| format!("`{url}` names no host"))?;
    if authority.as_str().contains('@') {
        return Err("the URL contains a user name; name a credential under `auth`".to_owned());
    }
    // `Uri` drops fragments without a word.
    if url.contains('#') {
        return Err(format!("`{url}` has a fragment"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback(authority.host()) => Ok(uri),
        Some("http") => Err(format!("`{url}` is plaintext beyond this machine; use https")),
        _ => Err(format!("`{url}` is neither https nor http")),
    }
}

/// Whether a host of a URL is this machine, whatever a name service says.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Fetches a document.
///
/// # Errors
/// Why there is none; the text is for the operator.
pub async fn get(url: &Uri) -> Result<Document, String> {
    exchange(url, Method::GET, HeaderMap::new(), Bytes::new()).await
}

/// Fetches a document with headers, which may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn get_with(url: &Uri, headers: HeaderMap) -> Result<Document, String> {
    exchange(url, Method::GET, headers, Bytes::new()).await
}

/// Puts a document at its address. The headers may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn put(url: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    exchange(url, Method::PUT, headers, body).await
}

/// Sends a form. The headers may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn post_form(url: &Uri, mut headers: HeaderMap, form: String) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    exchange(url, Method::POST, headers, form.into()).await
}

async fn exchange(url: &Uri, method: Method, mut headers: HeaderMap, body: Bytes) -> Result<Document, String> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    // Minutes lie between two exchanges, so no connection is worth keeping.
    builder.pool_max_idle_per_host(0).http1_max_headers(MAX_HEADERS).http1_max_buf_size(MAX_HEAD_BYTES);
    let host = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()).ok_or("the URL names no host")?;
    headers.insert(HOST, host);
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    let mut request = Request::new(Full::new(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, url.clone(), headers);
    let whole = async {
        let response = if url.scheme_str() == Some("https") {
            tcp.enforce_http(false);
            let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(roots()?).https_only().enable_http1().wrap_connector(tcp);
            builder.build(tls).request(request).await
        } else {
            builder.build(tcp).request(request).await
        };
        let (head, body) = response.map_err(|error| chain(&error))?.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|error| chain(&*error))?.to_bytes();
        Ok(Document { status: head.status, headers: head.headers, body })
    };
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| Err(late()))
}

/// The system's roots of trust. Reading them takes milliseconds and a megabyte: once for the process, and not before a server
/// beyond this machine is spoken to.
///
/// # Errors
/// When they cannot be read; the text is for the operator.
pub fn roots() -> Result<ClientConfig, String> {
    static CONFIG: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        use hyper_rustls::ConfigBuilderExt;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let roots = versions.map_err(|error| error.to_string())?.with_native_roots();
        Ok(roots.map_err(|error| format!("the system's root certificates cannot be read: {error}"))?.with_no_client_auth())
    });
    config.clone()
}

/// An error and its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_beyond_loopback_user_names_and_other_schemes_are_refused() {
        for url in [
            "http://tools.example/mcp",
            "https://me:pass@tools.example/",
            "ftp://127.0.0.1/",
            "/mcp",
            "https://x.example/#a",
            "http://127.0.0.1.nip.io/",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        for url in ["https://tools.example/mcp", "http://127.0.0.1:9/mcp", "http://[::1]:9/mcp", "http://localhost/mcp"] {
            assert!(parse(url).is_ok(), "{url}");
        }
    }
}
