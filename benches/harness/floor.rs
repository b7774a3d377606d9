//! The floor: what moving the bytes costs, when hyper does both sides and nothing is decided.
//!
//! An HTTP/1.1 server and a pooled client on two worker threads. Bodies are collected and the JSON-RPC envelope is looked
//! at both ways without copying, as any MCP gateway must; everything else passes untouched.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};

use super::Result;

/// Serves until the process ends, passing everything to `upstream`; prints where.
pub fn serve(upstream: &Uri) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}/mcp", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream, client.clone(), upstream.clone()));
        }
    })
}

type Pool = Client<HttpConnector, Full<Bytes>>;

async fn connection(stream: TcpStream, pool: Pool, upstream: Uri) {
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(pass(&pool, &upstream, request).await.unwrap_or_else(|error| {
            let mut refused = Response::new(Full::from(error.to_string()));
            *refused.status_mut() = StatusCode::BAD_GATEWAY;
            refused
        }))
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        eprintln!("floor: {error}");
    }
}

async fn pass(pool: &Pool, upstream: &Uri, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    look(&parts.headers, &body)?;
    parts.uri = upstream.clone();
    parts.headers.remove(HOST);
    let answer = pool.request(Request::from_parts(parts, Full::new(body))).await?;
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    look(&parts.headers, &body)?;
    parts.headers.remove(TRANSFER_ENCODING);
    Ok(Response::from_parts(parts, Full::new(body)))
}

/// The envelope of a request or an answer, borrowed.
#[derive(Deserialize)]
#[expect(dead_code, reason = "reading the members is the cost; nothing is done with them")]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

fn look(headers: &HeaderMap, body: &[u8]) -> Result<()> {
    if headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        std::hint::black_box(serde_json::from_slice::<Envelope<'_>>(body)?);
    }
    Ok(())
}
