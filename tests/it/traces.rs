//! A collector of traces is told how calls went, and nothing of what was in them; no call waits for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Text;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::{Ask, Does, Serving, Site, Upstream, soon, until};

const CANARY: &str = "canary-trace-5521";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A collector: it takes OTLP over HTTP and keeps it.
struct Collector {
    address: SocketAddr,
    got: watch::Sender<Vec<(HeaderMap, Bytes)>>,
    answers: CancellationToken,
}

impl Collector {
    async fn start() -> Arc<Self> {
        let collector = Self::silent().await;
        collector.answers.cancel();
        collector
    }

    /// One that takes everything and answers nothing.
    async fn silent() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Arc::new(Self { address, got: watch::Sender::default(), answers: CancellationToken::new() });
        let serving = Arc::clone(&collector);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let collector = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&collector).take(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        collector
    }

    async fn take(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.got.send_modify(|got| got.push((head.headers, body)));
        self.answers.cancelled().await;
        Ok(Response::new(Full::default()))
    }

    fn config(&self, more: &str) -> String {
        format!("telemetry: {{ otlp: {{ endpoint: \"http://{}/v1/traces\", {more} }} }}", self.address)
    }

    fn messages(&self) -> Vec<ExportTraceServiceRequest> {
        self.got.borrow().iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    /// All spans that it was sent, in the order of their beginnings.
    fn spans(&self) -> Vec<Span> {
        let messages = self.messages();
        let of_resource = messages.iter().flat_map(|message| &message.resource_spans);
        let mut spans: Vec<Span> = of_resource.flat_map(|of| &of.scope_spans).flat_map(|of| of.spans.clone()).collect();
        spans.sort_by_key(|span| (span.start_time_unix_nano, std::cmp::Reverse(span.end_time_unix_nano)));
        spans
    }

    /// The spans of calls, without those of their stages.
    fn calls(&self) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.kind == SpanKind::Server as i32).collect()
    }

    /// Whether anything that it was sent has these bytes.
    fn has(&self, words: &str) -> bool {
        self.got.borrow().iter().any(|(_, body)| body.windows(words.len()).any(|window| window == words.as_bytes()))
    }
}

fn texts(attributes: &[KeyValue]) -> Value {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Text::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), Value::from(text(&attribute.value))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn hex(bytes: &[u8]) -> String {
    doorward::seal::hex(bytes)
}

fn failed(span: &Span) -> Option<String> {
    span.status.as_ref().filter(|status| status.code == 2).map(|status| status.message.clone())
}

/// The stages below a call's span, in their order.
fn stages(spans: &[Span], call: &Span) -> Vec<Span> {
    spans.iter().filter(|span| span.parent_span_id == call.span_id).cloned().collect()
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

fn traced(flags: &str, arguments: Value) -> Ask {
    let meta = json!({ "traceparent": format!("00-{TRACE}-{SPAN}-{flags}"), "tracestate": "a=1" });
    Ask::modern("tools/call", json!({ "name": "up__echo", "arguments": arguments, "_meta": meta }))
}

async fn stopped(gateway: Serving) -> String {
    let (status, said, _) = gateway.stop().await;
    assert!(status.success(), "{said}");
    said
}

#[tokio::test]
async fn a_call_is_one_span_with_one_below_it_for_each_stage() {
    let (upstream, collector) = (Upstream::start().await, Collector::start().await);
    let headers = "headers: { authorization: { from_env: OTLP_KEY } }";
    let site = Site::of(&upstream).config(&collector.config(headers)).env("OTLP_KEY", "Bearer of-collector");
    let gateway = site.serve().await;
    let ask = traced("01", json!({ "text": CANARY }));
    assert!(gateway.client().send(&ask).await.text().contains(CANARY));
    let sent = upstream.got(1).await[0].json()["params"]["_meta"].clone();
    // What waits is sent at the stop.
    stopped(gateway).await;

    let spans = collector.spans();
    let call = &spans[0];
    assert_eq!((call.name.as_str(), call.kind), ("tools/call up__echo", SpanKind::Server as i32));
    assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.to_owned(), SPAN.to_owned()));
    let intent = &site.of_kind("intent")[0];
    let told = texts(&call.attributes);
    for (key, value) in [
        ("mcp.method.name", json!("tools/call")),
        ("gen_ai.tool.name", json!("up__echo")),
        ("gen_ai.operation.name", json!("execute_tool")),
        ("jsonrpc.request.id", ask.id().to_string().into()),
        ("mcp.protocol.version", json!("2026-07-28")),
        ("network.transport", json!("tcp")),
        ("doorward.invocation", intent["call_id"].clone()),
        ("doorward.agent", json!("demo")),
        ("doorward.rules", json!("R1")),
        ("error.type", Value::Null),
    ] {
        assert_eq!(told[key], value, "{key} of {told}");
    }
    let below = stages(&spans, call);
    let all =
        ["resolve", "validate", "decide", "admit", "replay", "approve", "reserve", "gather", "intent", "forward", "inspect", "outcome"];
    assert_eq!((names(&below), spans.len()), (all.to_vec(), 13));
    assert!(below.windows(2).all(|pair| pair[0].end_time_unix_nano == pair[1].start_time_unix_nano), "{below:?}");
    assert!(below[0].start_time_unix_nano >= call.start_time_unix_nano && below[11].end_time_unix_nano == call.end_time_unix_nano);
    assert!(spans.iter().all(|span| failed(span).is_none() && span.trace_id == call.trace_id), "{spans:?}");

    // The server's spans stand below the stage that waits for it.
    let forward = &below[9];
    assert_eq!(forward.kind, SpanKind::Client as i32);
    assert_eq!((&sent["traceparent"], &sent["tracestate"]), (&json!(format!("00-{TRACE}-{}-01", hex(&forward.span_id))), &json!("a=1")));
    let resource = texts(&collector.messages()[0].resource_spans[0].resource.as_ref().unwrap().attributes);
    assert_eq!((&resource["service.name"], &resource["service.instance.id"]), (&json!("doorward"), &json!("doorward/main")));
    let (headers, _) = collector.got.borrow()[0].clone();
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["authorization"], "Bearer of-collector");
    assert!(!collector.has(CANARY));
}

#[tokio::test]
async fn how_a_call_failed_stands_at_its_span_and_at_the_stage() {
    let (upstream, collector) = (Upstream::start().await, Collector::start().await);
    let site = Site::of(&upstream)
        .config(&collector.config(""))
        .defaults(&upstream, "retries: 0")
        .policy("p, R1, agent:demo, up__*, read, -, allow\np, D1, agent:demo, up__typed, any, -, deny\n");
    upstream.does("echo", Does::Disconnects);
    let gateway = site.serve().await;
    for (tool, code) in
        [("up__typed", "policy_denied"), ("up__save", "policy_denied"), (CANARY, "tool_not_found"), ("up__echo", "upstream_disconnected")]
    {
        assert_eq!(gateway.client().call(tool, json!({ "text": CANARY })).await.code(), code, "{tool}");
    }
    let mut failing = crate::support::upstream::text(CANARY);
    failing["isError"] = true.into();
    upstream.does("echo", Does::Result(failing));
    assert_eq!(gateway.client().call("up__echo", json!({ "text": CANARY })).await.code(), "tool_error");
    let resource = Ask::modern("resources/read", json!({ "uri": format!("up+file:///{CANARY}") }));
    assert_ne!(gateway.client().send(&resource).await.code(), "ok");
    stopped(gateway).await;

    let spans = collector.spans();
    let mut told = Vec::new();
    for call in collector.calls() {
        let below = stages(&spans, &call);
        let at: Vec<_> = below.iter().filter(|span| failed(span).is_some()).map(|span| span.name.as_str()).collect();
        assert_eq!(failed(&call).as_deref(), texts(&call.attributes)["error.type"].as_str());
        let rules = texts(&call.attributes)["doorward.rules"].as_str().unwrap_or_default().to_owned();
        told.push([call.name.clone(), failed(&call).unwrap(), at.join(","), rules]);
    }
    let expected = [
        ["tools/call up__typed", "policy_denied", "decide", "D1"],
        // R1 nearly permits it, which decides nothing.
        ["tools/call up__save", "policy_denied", "decide", ""],
        ["tools/call", "tool_not_found", "resolve", ""],
        ["tools/call up__echo", "upstream_disconnected", "forward", "R1"],
        ["tools/call up__echo", "tool_error", "forward", "R1"],
        ["resources/read", "method_not_found", "resolve", ""],
    ];
    assert_eq!(told, expected);
    assert!(!collector.has(CANARY));
}

#[tokio::test]
async fn the_agents_context_comes_in_a_header_or_in_the_message_and_its_flag_decides() {
    let (upstream, collector) = (Upstream::start().await, Collector::start().await);
    let site = Site::of(&upstream).config(&collector.config("ratio: 0"));
    let gateway = site.serve().await;
    let other = "1".repeat(32);
    let header = |ask: Ask, flags: &str| ask.with("traceparent", &format!("00-{other}-{SPAN}-{flags}"));
    for ask in [
        Ask::call("up__echo", json!({})),
        traced("00", json!({})),
        header(Ask::call("up__echo", json!({})), "01"),
        header(traced("01", json!({})), "00"),
    ] {
        assert_eq!(gateway.client().send(&ask).await.code(), "ok");
    }
    let sent: Vec<Value> = upstream.got(4).await.iter().map(|got| got.json()["params"]["_meta"]["traceparent"].clone()).collect();
    stopped(gateway).await;

    let traces: Vec<String> = collector.calls().iter().map(|call| hex(&call.trace_id)).collect();
    assert_eq!(traces, [other.as_str(), TRACE]);
    // Where nobody is told, the agent's context goes on as it came.
    assert_eq!((&sent[0], &sent[1]), (&Value::Null, &json!(format!("00-{TRACE}-{SPAN}-00"))));
    assert!(sent[2].as_str().is_some_and(|sent| sent.contains(&other)), "{sent:?}");
    let recorded: Vec<Value> = site.of_kind("intent").iter().map(|intent| intent["trace_id"].clone()).collect();
    assert_eq!(recorded, [Value::Null, TRACE.into(), other.into(), TRACE.into()]);
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_its_own_traces_alone() {
    let (upstream, collector) = (Upstream::start().await, Collector::silent().await);
    let site = Site::of(&upstream).config(&collector.config("timeout_ms: 10000, max_waiting: 3"));
    let mut gateway = site.serve().await;
    let call = async || assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    call().await;
    // The first is under way, and hangs there: of the rest three wait, and what is more is dropped.
    let mut got = collector.got.subscribe();
    drop(soon("the first call at the collector", got.wait_for(|got| !got.is_empty())).await.unwrap());
    for _ in 0..8 {
        call().await;
    }

    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_trace_calls_total{result=\"dropped\"} 5"), "{metrics}");
    assert!(stopped(gateway).await.contains("did not take the last calls in time"));
    assert_eq!(site.of_kind("outcome").len(), 9);
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_as_failed() {
    let (upstream, nobody) = (Upstream::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let site = Site::of(&upstream).config(&format!("telemetry: {{ otlp: {{ endpoint: \"http://{address}/v1/traces\" }} }}"));
    let mut gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    until("a failure", async || {
        let metrics = gateway.console("/metrics").await.1;
        metrics.contains("doorward_trace_calls_total{result=\"failed\"} 1").then_some(())
    })
    .await;
    assert!(stopped(gateway).await.contains("the collector of traces was not told of calls"));
}

#[tokio::test]
async fn a_collector_that_cannot_be_told_is_refused_with_the_place() {
    let upstream = Upstream::start().await;
    for (otlp, words) in [
        ("{ endpoint: \"http://collector.example:4318/v1/traces\" }", "is plaintext beyond this machine"),
        ("{ endpoint: \"https://c.example/v1/traces\", headers: { \"content-type\": { from_env: A } } }", "is no header that a POST"),
        ("{ endpoint: \"https://c.example/v1/traces\", ratio: 1.5 }", "1.5 is out of bounds: 0 to 1"),
        ("{ endpoint: \"https://c.example/v1/traces\", max_waiting: 0 }", "0 is out of bounds"),
        ("{ url: \"https://c.example/v1/traces\" }", "unknown field `url`"),
    ] {
        let done = Site::of(&upstream).config(&format!("telemetry: {{ otlp: {otlp} }}")).run(&["check"]).await;
        assert!(done.code == 2 && done.err.contains(words) && done.err.contains("doorward.yaml:7:"), "{otlp}: {done:?}");
    }
    let unset = "telemetry: { otlp: { endpoint: \"https://c.example/v1/traces\", headers: { a: { from_env: NO_SUCH_KEY } } } }";
    let done = Site::of(&upstream).config(unset).run(&["serve"]).await;
    assert!(
        done.code != 0 && done.err.contains("`telemetry.otlp.headers.a`: the environment variable `NO_SUCH_KEY` is not set"),
        "{done:?}"
    );
}
