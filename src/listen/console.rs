//! Health and metrics for operators, on loopback: `/healthz`, `/readyz`, `/metrics`.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Service, headers};

/// Operators' connections at once. One more ends the oldest: an answer takes no time, so whoever is there for long wants none.
const MAX_CONNECTIONS: usize = 32;

/// Serves until the service has stopped.
pub async fn serve(service: Service, listener: TcpListener) {
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            open.pop_front().inspect(JoinHandle::abort);
        }
        let service = service.clone();
        open.push_back(tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(answer(&service, &request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(5))
                .serve_connection(TokioIo::new(socket), answer);
            let _ = connection.await;
        }));
    }
}

fn answer(service: &Service, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    // A page in a browser on this machine must not read the metrics by a name that it made point here.
    let allowed = headers::is_from_allowed_place(request.headers(), service.bounds(), ([127, 0, 0, 1], 0).into());
    match (allowed, request.method(), request.uri().path()) {
        (false, ..) => text(StatusCode::FORBIDDEN, "the `Origin` or `Host` of the request is not one of those allowed\n".into()),
        (_, &Method::GET, "/healthz") => text(StatusCode::OK, "alive\n".into()),
        (_, &Method::GET, "/readyz") => match service.unready() {
            None => text(StatusCode::OK, "ready\n".into()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        (_, &Method::GET, "/metrics") => {
            let gateway = service.gateway();
            gateway.listens(service.load());
            let mut response = text(StatusCode::OK, gateway.metrics());
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
