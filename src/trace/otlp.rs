//! The way to a collector: OTLP over HTTP with Protobuf, by the client that fetches small documents.
//!
//! INVARIANT: one POST at a time, each bounded; a collector that is slow, dead or lies costs the calls that it is not told of, and nothing else.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Stage, Told, Traces};
use crate::config::Otlp;
use crate::fetch;
use crate::telemetry::Exported;

/// Most calls in one POST: some 2 KiB each.
const MAX_BATCH: usize = 256;
/// How long calls are gathered for one POST.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// How often a POST is tried.
const TRIES: u32 = 3;
/// The pause before it is tried again, which doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// Tells a collector of calls, beside everything else.
pub struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// Whom, as whom, and how.
struct Collector {
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
    instance: String,
    counts: Exported,
}

impl Exporter {
    /// Begins to tell the collector what comes out of `traces`, as the gateway `instance`; `None` where that has none.
    ///
    /// # Errors
    /// What cannot be sent as it is configured, for the operator.
    pub fn start(otlp: &Otlp, traces: &Traces, instance: &str) -> Result<Option<Self>, String> {
        let Some((received, counts)) = traces.received() else { return Ok(None) };
        let mut headers = HeaderMap::new();
        for (name, value) in &otlp.headers {
            let told = |why: String| format!("`telemetry.otlp.headers.{name}`: {why}");
            let variable = &value.from_env;
            let text = std::env::var(variable).map_err(|_| told(format!("the environment variable `{variable}` is not set")))?;
            let name: HeaderName = name.parse().map_err(|_| told("it is no name of a header".to_owned()))?;
            let mut value =
                HeaderValue::from_str(&text).map_err(|_| told(format!("what `{variable}` holds cannot be sent in a header")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let timeout = Duration::from_millis(otlp.timeout_ms.value());
        let collector = Collector { url: fetch::parse(&otlp.endpoint)?, headers, timeout, instance: instance.to_owned(), counts };
        let stop = CancellationToken::new();
        Ok(Some(Self { task: tokio::spawn(collector.run(received, stop.clone())), stop }))
    }

    /// Tells what waits, within this time.
    pub async fn finish(self, within: Duration) {
        self.stop.cancel();
        let task = self.task.abort_handle();
        if timeout(within, self.task).await.is_err() {
            task.abort();
            tracing::warn!("the collector of traces did not take the last calls in time");
        }
    }
}

impl Collector {
    async fn run(self, mut received: mpsc::Receiver<Told>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = received.recv_many(&mut batch, MAX_BATCH) => {}
            }
            let full = Instant::now() + GATHERED_FOR;
            while batch.len() < MAX_BATCH {
                let room = MAX_BATCH - batch.len();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = sleep_until(full) => break,
                    _ = received.recv_many(&mut batch, room) => {}
                }
            }
            self.send(&mut batch).await;
        }
        while let Ok(told) = received.try_recv() {
            batch.push(told);
            if batch.len() == MAX_BATCH {
                self.send(&mut batch).await;
            }
        }
        self.send(&mut batch).await;
    }

    /// Sends them, or counts that they are lost.
    async fn send(&self, batch: &mut Vec<Told>) {
        if batch.is_empty() {
            return;
        }
        let calls = batch.len() as u64;
        let body = bytes::Bytes::from(self.request(batch.drain(..)).encode_to_vec());
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            let posted = timeout(self.timeout, fetch::post_protobuf(&self.url, self.headers.clone(), body.clone())).await;
            let (why, may_pass) = match posted {
                Ok(Ok(answer)) if answer.status.is_success() => {
                    self.counts.told.inc_by(calls);
                    return;
                }
                Ok(Ok(answer)) => (format!("it answers {}", answer.status), may_pass(answer.status)),
                Ok(Err(why)) => (why, true),
                Err(_) => (format!("no answer within {} ms", self.timeout.as_millis()), true),
            };
            if left == 0 || !may_pass {
                self.counts.failed.inc_by(calls);
                tracing::warn!(calls, why, "the collector of traces was not told of calls");
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn request(&self, batch: impl Iterator<Item = Told>) -> ExportTraceServiceRequest {
        let attributes =
            [("service.name", "doorward"), ("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", &self.instance)];
        let resource =
            Resource { attributes: attributes.map(|(key, text)| attribute(key, text.to_owned())).to_vec(), ..Resource::default() };
        let scope =
            InstrumentationScope { name: "doorward".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
        let scope_spans = ScopeSpans { scope: Some(scope), spans: batch.flat_map(spans).collect(), ..ScopeSpans::default() };
        let all = ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![all] }
    }
}

/// Whether the same POST may be taken a moment later (OTLP 1.x, "Failures").
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// The call's span, and those of its stages.
fn spans(told: Told) -> Vec<Span> {
    let Told { ids, name, time, attributes, error, failed, stages } = told;
    let is_remote = SpanFlags::ContextHasIsRemoteMask as u32 | if ids.parent.is_some() { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    let whole = Span {
        trace_id: ids.trace.to_be_bytes().to_vec(),
        span_id: ids.call.to_be_bytes().to_vec(),
        parent_span_id: ids.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: 1 | is_remote,
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: time.0,
        end_time_unix_nano: time.1,
        attributes: attributes.into_iter().map(|(key, text)| attribute(key, text)).collect(),
        status: status(error),
        ..Span::default()
    };
    let stages = stages.into_iter().map(|(stage, began, ended)| Span {
        trace_id: whole.trace_id.clone(),
        span_id: stage.id(ids.call).to_be_bytes().to_vec(),
        parent_span_id: whole.span_id.clone(),
        flags: 1 | SpanFlags::ContextHasIsRemoteMask as u32,
        name: stage.as_str().to_owned(),
        kind: if stage == Stage::Forward { SpanKind::Client } else { SpanKind::Internal }.into(),
        start_time_unix_nano: began,
        end_time_unix_nano: ended,
        status: status(error.filter(|_| failed == Some(stage))),
        ..Span::default()
    });
    let stages: Vec<Span> = stages.collect();
    std::iter::once(whole).chain(stages).collect()
}

fn status(error: Option<&'static str>) -> Option<Status> {
    error.map(|code| Status { code: SpanStatus::Error.into(), message: code.to_owned() })
}

fn attribute(key: &str, text: String) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }), ..KeyValue::default() }
}
