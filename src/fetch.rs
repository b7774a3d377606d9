//! Small documents that the gateway fetches or leaves for itself over HTTP: key sets, metadata of authorization servers, tokens, messages.
//!
//! Owns: which URLs are fit for a credential or a key, the roots of trust, and the bounds of one exchange. Leaves to others: what a
//! document says, and the connections over which tools are called (`upstream::http`).
//!
//! INVARIANT: redirects are not followed; plaintext goes to loopback only; every answer is bounded in size and in time.
//! INVARIANT: a name is resolved once, and the connection goes to an address that was looked at: one named by somebody else than the operator
//! may be no further in than whoever named it.

mod reach;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::reach::Reach;

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
    /// From how far away it came.
    pub reach: Reach,
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
    exchange(url, Method::GET, HeaderMap::new(), Bytes::new(), Reach::Machine).await
}

/// Fetches a document with headers, which may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn get_with(url: &Uri, headers: HeaderMap) -> Result<Document, String> {
    exchange(url, Method::GET, headers, Bytes::new(), Reach::Machine).await
}

/// Puts a document at its address. The headers may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn put(url: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    exchange(url, Method::PUT, headers, body, Reach::Machine).await
}

/// Sends a form to an address that is at least so far out. The headers may hold a credential.
///
/// # Errors
/// As [`get`], and for a URL that leads further in.
pub async fn post_form(url: &Uri, mut headers: HeaderMap, form: String, least: Reach) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    exchange(url, Method::POST, headers, form.into(), least).await
}

/// Posts JSON to an address that the operator named. The headers may hold a signature.
///
/// # Errors
/// As [`get`].
pub async fn post_json(url: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    exchange(url, Method::POST, headers, body, Reach::Machine).await
}

/// Posts a Protobuf message to an address that the operator named. The headers may hold a credential.
///
/// # Errors
/// As [`get`].
pub async fn post_protobuf(url: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<Document, String> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    exchange(url, Method::POST, headers, body, Reach::Machine).await
}

async fn exchange(url: &Uri, method: Method, mut headers: HeaderMap, body: Bytes, least: Reach) -> Result<Document, String> {
    let authority = url.authority().ok_or("the URL names no host")?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| "the URL names no host")?;
    headers.insert(HOST, host);
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    let mut request = Request::new(Full::new(body));
    let target = url.path_and_query().map_or("/", |target| target.as_str()).parse().map_err(|_| "the URL has no path")?;
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, target, headers);
    let whole = async {
        let (stream, reach) = connect(url, least).await?;
        if url.scheme_str() != Some("https") {
            return over(TokioIo::new(stream), request, reach).await;
        }
        let name = bare(authority.host()).to_owned();
        let name = ServerName::try_from(name).map_err(|_| "the URL names no host that a certificate could name")?;
        let connector = TlsConnector::from(Arc::new(roots()?));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("the TLS handshake failed: {error}"))?;
        over(TokioIo::new(stream), request, reach).await
    };
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| Err(late()))
}

/// A connection to the first address of the URL's host that takes one, and how far out that is.
async fn connect(url: &Uri, least: Reach) -> Result<(TcpStream, Reach), String> {
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let host = bare(url.host().unwrap_or_default());
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("`{host}` cannot be resolved: {error}"))?;
    let (fit, inner): (Vec<SocketAddr>, Vec<SocketAddr>) = found.partition(|address| Reach::of(address.ip()) >= least);
    let mut why = match inner.is_empty() {
        true => format!("`{host}` has no address"),
        false => format!("`{host}` is an address further in than who names it"),
    };
    for address in fit {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, Reach::of(address.ip())));
            }
            Err(error) => why = format!("no connection: {error}"),
        }
    }
    Err(why)
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// One request and its answer over a connection that is used for nothing else: minutes lie between two of them.
async fn over<S>(stream: TokioIo<S>, request: Request<Full<Bytes>>, reach: Reach) -> Result<Document, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(stream).await.map_err(|error| chain(&error))?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await.map_err(|error| chain(&error))?.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|error| chain(&*error))?.to_bytes();
        Ok(Document { status: head.status, headers: head.headers, body, reach })
    };
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    let mut open = true;
    loop {
        // What the connection has read before it ended is still there for the answer.
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
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
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_address_further_in_than_who_names_it_gets_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Each is this machine, the last three by a name service or the C library's reading of numbers.
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "127.1", "2130706433"] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}:{port}/token").parse().unwrap();
                for least in [Reach::Network, Reach::World] {
                    let refused = post_form(&url, HeaderMap::new(), "client_secret=x".to_owned(), least).await.unwrap_err();
                    assert!(refused.contains("further in") || refused.contains("resolved"), "{url}: {refused}");
                }
            }
        }
        let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");
    }

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
