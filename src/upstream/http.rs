//! The HTTP client of one upstream: its address, its pool, its credential, and a body that knows when it leaves.
//!
//! Leaves to others: headers and answers of the protocol (`http_link`, `answer`).
//! INVARIANT: redirects are not followed; plaintext goes to loopback only; an agent's credential is never sent on.
//! INVARIANT: hyper sends a request again by itself only where it gave the connection nothing of it, not even its head.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{self, Builder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thread_local::ThreadLocal;

use super::oauth::Tokens;
use super::request::Sent;
use crate::catalog::transport::{Auth, Endpoint};
use crate::fetch;

/// How long an unused connection is kept. Node and uvicorn, which most tool servers run on, close theirs after 5 s, and a
/// call that crosses that close has an unknown effect.
const IDLE: Duration = Duration::from_secs(4);
/// Most headers of an answer.
const MAX_HEADERS: usize = 100;
/// Longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The address of a server, checked.
#[derive(Clone, Debug)]
pub(super) struct Address {
    uri: Uri,
    host: HeaderValue,
    secure: bool,
    /// The tokens that open it; carried over from connection to connection.
    tokens: Option<Arc<Tokens>>,
}

impl Address {
    /// Checks the URL of a manifest and how the gateway gets in there; files are of the folder `base`.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub(super) fn parse(endpoint: &Endpoint, base: &Path) -> Result<Self, String> {
        let url = &endpoint.url;
        let uri = fetch::parse(url)?;
        let secure = uri.scheme_str() == Some("https");
        let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = host.ok_or_else(|| format!("`{url}` names no host"))?;
        let tokens = match &endpoint.auth {
            Some(Auth::Oauth(settings)) => Some(Arc::new(Tokens::new(&uri, settings, base.to_owned())?)),
            Some(Auth::Bearer(_)) | None => None,
        };
        Ok(Self { uri, host, secure, tokens })
    }
}

/// A pooled client for one address.
#[derive(Debug)]
pub(super) struct Client {
    pool: Pool,
    uri: Uri,
    headers: HeaderMap,
    tokens: Option<Arc<Tokens>>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// The gateway has no credential for it; nothing has left.
    #[error("{0}")]
    NoToken(String),
    /// The connection.
    #[error(transparent)]
    Http(#[from] legacy::Error),
}

// Two types, so that a gateway whose servers are all on loopback never loads root certificates.
#[derive(Debug)]
enum Pool {
    Plain(Pools<HttpConnector>),
    Tls(Pools<HttpsConnector<HttpConnector>>),
}

/// A pool for each thread that sends: an answer then wakes the thread that waits for it, and no other.
#[derive(Debug)]
struct Pools<C: Send> {
    builder: Builder,
    connector: C,
    of_threads: ThreadLocal<legacy::Client<C, Once>>,
}

impl<C: Connect + Clone + Send + Sync + 'static> Pools<C> {
    fn new(builder: Builder, connector: C) -> Self {
        Self { builder, connector, of_threads: ThreadLocal::new() }
    }

    fn here(&self) -> &legacy::Client<C, Once> {
        self.of_threads.get_or(|| self.builder.build(self.connector.clone()))
    }
}

impl Client {
    /// A client that keeps at most `idle` unused connections.
    ///
    /// # Errors
    /// When the credential or the root certificates are missing; the text is for the operator.
    pub(super) fn new(address: &Address, endpoint: &Endpoint, connect_timeout: Duration, idle: usize) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.enforce_http(!address.secure);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(idle);
        builder.http1_max_headers(MAX_HEADERS).http1_max_buf_size(MAX_HEAD_BYTES);
        let pool = if address.secure { tls(builder, tcp)? } else { Pool::Plain(Pools::new(builder, tcp)) };
        Ok(Self { pool, uri: address.uri.clone(), headers: headers(address, endpoint)?, tokens: address.tokens.clone() })
    }

    /// What every POST carries: type, credential, host.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The configured address.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The tokens that open the server, where it is opened by such.
    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_deref()
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is none; [`Sent`] of the body tells whether anything had left.
    pub(super) async fn send(&self, method: Method, headers: HeaderMap, body: Once) -> Result<Response<Incoming>, Unanswered> {
        self.send_to(self.uri.clone(), method, headers, body).await
    }

    /// Sends one request to another address of the same origin.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub(super) async fn send_to(
        &self,
        uri: Uri,
        method: Method,
        mut headers: HeaderMap,
        body: Once,
    ) -> Result<Response<Incoming>, Unanswered> {
        if let Some(tokens) = self.tokens()
            && !headers.contains_key(AUTHORIZATION)
        {
            tokens.sign(&mut headers).await.map_err(Unanswered::NoToken)?;
        }
        Ok(self.request(uri, method, headers, body).await?)
    }

    fn request(&self, uri: Uri, method: Method, headers: HeaderMap, body: Once) -> legacy::ResponseFuture {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match &self.pool {
            Pool::Plain(pools) => pools.here().request(request),
            Pool::Tls(pools) => pools.here().request(request),
        }
    }
}

fn headers(address: &Address, endpoint: &Endpoint) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(HOST, address.host.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Some(Auth::Bearer(variable)) = &endpoint.auth {
        let token = super::child::variable_of_ours(&variable.from_env).map_err(|error| error.to_string())?;
        let value = token.to_str().and_then(|token| HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok());
        let mut value = value.ok_or_else(|| format!("the environment variable `{}` is not a token", variable.from_env))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn tls(builder: Builder, tcp: HttpConnector) -> Result<Pool, String> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(fetch::roots()?).https_only().enable_http1();
    Ok(Pool::Tls(Pools::new(builder, connector.wrap_connector(tcp))))
}

/// A body of at most one frame that marks its request as sent when the connection takes it.
#[derive(Debug, Default)]
pub(super) struct Once {
    data: Option<Bytes>,
    sent: Option<Sent>,
}

impl Once {
    /// A body whose leaving decides on the effect of a call.
    pub(super) fn marked(data: Vec<u8>, sent: &Sent) -> Self {
        Self { data: Some(data.into()), sent: Some(sent.clone()) }
    }

    /// A body that nobody asks after.
    pub(super) fn plain(data: Vec<u8>) -> Self {
        Self { data: Some(data.into()), sent: None }
    }
}

/// The request was withdrawn before its body was taken.
#[derive(Debug, thiserror::Error)]
#[error("the request was withdrawn")]
pub(super) struct Withdrawn;

impl Body for Once {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        let Some(data) = self.data.take() else { return Poll::Ready(None) };
        let may_leave = self.sent.as_ref().is_none_or(Sent::claim);
        Poll::Ready(Some(if may_leave { Ok(Frame::data(data)) } else { Err(Withdrawn) }))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))
    }
}
