//! One connection: which protocol it speaks, what it may cost, and how it ends.
//!
//! Owns: HTTP/1.1 and HTTP/2 as the library serves them, and what the library answers by itself. Leaves to others: each request (`http`).
//!
//! INVARIANT: a connection on which nothing moves ends: before a head, within one, between requests, and while its client takes nothing.
//! INVARIANT: both protocols come to [`Exchange::answer`]; nothing behind it asks which it was, save how its body is counted.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Service;
use super::conduct::{Conduct, Misconduct};
use super::http::{BrokenOff, Exchange, large_head};
use super::patience::{Patient, Stage};
use super::stream::Answer;
use crate::config::Listen;
use crate::error::{Code, Error};
use crate::telemetry::Ended;

/// Bytes of a head beyond the operator's bound that are read, so that it is refused in words.
const HEAD_ROOM: usize = 8_192;
/// How a connection of HTTP/2 begins (RFC 9113, 3.4): no method of HTTP/1.1 does.
const PREFACE: [u8; 4] = *b"PRI ";
/// The name of HTTP/2 in a TLS handshake.
pub const ALPN_HTTP2: &[u8] = b"h2";
/// How often it is looked whether a connection of HTTP/2 moves, in parts of the shorter of both patiences.
const LOOKS: u32 = 4;
/// How long a connection that is done with may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a connection is read from and written to.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for T {}

/// Serves a connection until it ends.
pub(super) async fn serve(service: Service, socket: TcpStream, tls: Option<TlsAcceptor>, peer: SocketAddr, local: SocketAddr) {
    let (bounds, began) = (service.bounds(), Duration::from_millis(service.bounds().header_timeout_ms.value()));
    let is_served = bounds.http2.serve;
    let exchange = Exchange::new(service.clone(), peer, local);
    match tls {
        None => match timeout(began, async { Ok::<_, io::Error>(is_served && speaks_http2(&socket).await?) }).await {
            Ok(Ok(true)) => many(exchange, socket).await,
            Ok(Ok(false)) => one_by_one(exchange, socket).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection ended early"),
            Err(_) => exchange.ended(Ended::Silent),
        },
        Some(tls) => match timeout(began, tls.accept(socket)).await {
            Ok(Ok(socket)) if socket.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) => many(exchange, socket).await,
            Ok(Ok(socket)) => one_by_one(exchange, socket).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => exchange.ended(Ended::Silent),
        },
    }
}

/// Whether a connection in plaintext begins as one of HTTP/2 does. Clients send the preface in one piece; one that does not is taken for a
/// client of HTTP/1.1.
async fn speaks_http2(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    Ok(socket.peek(&mut first).await? == PREFACE.len() && first == PREFACE)
}

/// HTTP/1.1: one request after the other.
async fn one_by_one(exchange: Exchange, socket: impl Socket) {
    let stopping = exchange.service.stopping().clone();
    let bounds = exchange.service.bounds();
    let socket = Patient::new(socket, bounds);
    let mut server = http1::Builder::new();
    // Room for a head that is somewhat too large, so that we and not the library refuse it. Deadlines are the socket's.
    server.header_read_timeout(None).max_buf_size(bounds.max_header_bytes.size() + HEAD_ROOM);
    let (stage, own, unread) = (socket.stage(), socket.stage(), exchange.clone());
    let respond = service_fn(move |request| {
        let (exchange, stage) = (exchange.clone(), Arc::clone(&stage));
        stage.enter(Stage::Busy);
        async move { Ok::<_, Infallible>(exchange.answer(request).await.map(|answer| answer.alone(stage))) }
    });
    let mut connection = server.serve_connection(TokioIo::new(socket), respond);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let error = match (own.now(), ended) {
        (Stage::WasIdle, _) => return unread.ended(Ended::Idle),
        // Of a head that never began there is nothing to refuse.
        (Stage::WasSlow, Ok(())) => return unread.ended(Ended::Silent),
        (Stage::WasSlow, Err(_)) => {
            unread.ended(Ended::SlowHead);
            let refusal = unread.stranger(&unread.service.gateway(), &HeaderMap::new(), slow_head()).await;
            return last_words(connection.into_parts().io.into_inner().into_inner(), refusal).await;
        }
        (_, Ok(())) => return,
        (_, Err(error)) => error,
    };
    tracing::debug!(peer = %unread.peer(), %error, "a connection ended early");
    let refused = if error.is_parse_too_large() {
        large_head()
    } else if error.is_parse() {
        Error::new(Code::MalformedRequest, "the head of the request is not one of HTTP/1.1")
    } else {
        if is_late(&error) {
            unread.ended(Ended::NotTaken);
        }
        return;
    };
    // The library has answered already, with the same status and no body.
    unread.stranger(&unread.service.gateway(), &HeaderMap::new(), refused).await;
}

fn slow_head() -> Error {
    Error::new(Code::MalformedRequest, "the headers took too long").wire(-32600, 408)
}

/// Whether the kernel has given the connection up, because its client took nothing.
fn is_late(error: &hyper::Error) -> bool {
    error.source().and_then(|error| error.downcast_ref::<io::Error>()).is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Answers where no request was read to its end, so that the library has nobody to answer.
async fn last_words(mut socket: impl Socket, refusal: Response<Answer>) {
    let (head, body) = refusal.into_parts();
    let Ok(body) = body.collect().await.map(|body| body.to_bytes());
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut text =
        format!("HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status.as_u16(), body.len()).into_bytes();
    for (name, value) in &head.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&body);
    let _ = timeout(LAST_WORDS, async {
        socket.write_all(&text).await?;
        socket.shutdown().await
    })
    .await;
}

/// HTTP/2: many requests at once.
async fn many(exchange: Exchange, socket: impl Socket) {
    let stopping = exchange.service.stopping().clone();
    let service = exchange.service.clone();
    let bounds = service.bounds();
    let conduct = Arc::new(Conduct::new(bounds.http2.max_resets.size()));
    let (own, unread) = (Arc::clone(&conduct), exchange.clone());
    let respond = service_fn(move |request| {
        let (exchange, working) = (exchange.clone(), conduct.begin());
        async move {
            let answer = exchange.answer(request).await;
            let has_broken_off = answer.extensions().get::<BrokenOff>().is_some();
            let sending = if has_broken_off { working.broke_off() } else { working.answered() };
            Ok::<_, Infallible>(answer.map(|answer| answer.among(sending)))
        }
    });
    let mut connection = std::pin::pin!(server(bounds).serve_connection(TokioIo::new(socket), respond));
    let [idle, write, head] =
        [bounds.idle_timeout_ms.value(), bounds.write_timeout_ms.value(), bounds.header_timeout_ms.value()].map(Duration::from_millis);
    let mut looks = tokio::time::interval(idle.min(write) / LOOKS);
    let mut leaves = false;
    let why = loop {
        tokio::select! {
            ended = connection.as_mut() => match ended {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(peer = %unread.peer(), %error, "a connection ended early");
                    break if is_late(&error) { Ended::NotTaken } else { Ended::Protocol };
                }
            },
            () = stopping.cancelled(), if !leaves => {
                leaves = true;
                connection.as_mut().graceful_shutdown();
            }
            () = own.takes_back_too_much() => break Ended::TakenBack,
            _ = looks.tick() => match own.wrong(idle, write) {
                None => {}
                Some(Misconduct::Stuck) => break Ended::NotTaken,
                Some(Misconduct::Idle) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(head, connection.as_mut()).await;
                    break Ended::Idle;
                }
            },
        }
    };
    unread.ended(why);
}

fn server(bounds: &Listen) -> http2::Builder<TokioExecutor> {
    let own = &bounds.http2;
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(small(own.max_streams.value()))
        // As many as a client can have open may be taken back before we have looked at one.
        .max_pending_accept_reset_streams(own.max_streams.size())
        .max_local_error_reset_streams(own.max_resets.size())
        .max_header_list_size(small(bounds.max_header_bytes.value()) + HEAD_ROOM as u32)
        .initial_stream_window_size(small(own.window_bytes.value()))
        .initial_connection_window_size(small(own.window_bytes.value() * 4))
        .max_send_buf_size(super::conduct::PIECE)
        .keep_alive_interval(Duration::from_millis(own.ping_interval_ms.value()))
        .keep_alive_timeout(Duration::from_millis(own.ping_timeout_ms.value()));
    server
}
