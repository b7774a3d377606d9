//! More than there is room for: what is turned away, how soon, and that the rest goes on.

use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::client::Open;
use crate::support::http2::{Http2, whole};
use crate::support::stream::Stream;
use crate::support::upstream::text;
use crate::support::{Answer, Ask, Does, Serving, Site, Upstream, until};

/// A gateway that takes one call at a time, and has one.
async fn full() -> (Upstream, Site, Serving, Open, CancellationToken) {
    let upstream = Upstream::start().await;
    let ends = CancellationToken::new();
    upstream.does("save", Does::Waits(ends.clone()));
    let site = Site::of(&upstream).listen("max_concurrent_calls: 1");
    let gateway = site.serve().await;
    let held = gateway.client().open(&Ask::call("up__save", json!({}))).await;
    upstream.got(1).await;
    (upstream, site, gateway, held, ends)
}

#[tokio::test]
async fn a_call_beyond_the_bound_is_turned_away_before_its_body_comes() {
    let (upstream, _site, mut gateway, _held, ends) = full().await;
    // None of the announced bytes is ever sent.
    let bodyless = Ask { body: Vec::new(), ..Ask::call("up__echo", json!({})).with("Content-Length", "1000") };

    let refused = gateway.client().send(&bodyless).await;

    assert_eq!(refused.wire(), (503, -31034, "overloaded".to_owned()));
    assert_eq!((refused.header("retry-after"), &refused.error()["retry_after_ms"]), (Some("1"), &json!(100)));
    assert_eq!(refused.error()["effect"], "none");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_calls_total{outcome=\"overloaded\"} 1"), "{metrics}");
    assert!(metrics.contains("doorward_calls_under_way 1"), "{metrics}");
    ends.cancel();
    until("a free place", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
    assert_eq!(upstream.calls().len(), 2);
}

#[tokio::test]
async fn a_flood_that_is_turned_away_is_recorded_by_its_number() {
    let (upstream, site, gateway, _held, _ends) = full().await;
    for _ in 0..40 {
        assert_eq!(gateway.client().call("up__echo", json!({})).await.status, 503);
    }
    until("40 refusals", async || {
        let counted: u64 = site.of_kind("coalesced").iter().filter_map(|record| record["count"].as_u64()).sum();
        (site.of_kind("refusal").len() as u64 + counted == 40 && counted > 20).then_some(())
    })
    .await;
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn a_full_gateway_still_hears_that_a_call_is_cancelled_and_answers_what_is_no_call() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Hangs);
    let site = Site::of(&upstream).listen("max_concurrent_calls: 1");
    let gateway = site.serve().await;
    let session = gateway.client().initialize("2025-11-25").await;
    let call = session.call("up__save", &json!({}));
    let _held = gateway.client().open(&call).await;
    upstream.got(1).await;
    assert_eq!(gateway.client().send(&session.call("up__echo", &json!({}))).await.code(), "overloaded");
    assert_eq!(session.send("ping", &json!({})).await.status, 200);
    assert!(gateway.client().tools().await.contains(&"up__echo".to_owned()));

    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call.id() } });
    assert_eq!(gateway.client().send(&session.post(&cancel)).await.status, 202);

    until("a free place", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
}

/// A body of which most is sent and the end is not.
async fn unfinished(gateway: &Serving, bytes: usize) -> Open {
    let ask = Ask::call("up__echo", json!({ "text": "x".repeat(bytes) }));
    let length = ask.body.len();
    let short = ask.body[..length - 10].to_vec();
    gateway.client().open(&ask.body(short).with("Content-Length", &length.to_string())).await
}

#[tokio::test]
async fn bodies_that_are_read_at_once_are_bounded_in_all_and_for_one_agent() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_buffered_bytes: 1048576").listen("body_timeout_ms: 600000");
    let mut gateway = site.serve().await;
    let first = unfinished(&gateway, 300_000).await;
    until("the first body", async || {
        let metrics = gateway.console("/metrics").await.1;
        let held = metrics.lines().find_map(|line| line.strip_prefix("doorward_buffered_bytes ")).unwrap().parse::<u64>().unwrap();
        (held > 280_000).then_some(())
    })
    .await;

    let second = unfinished(&gateway, 300_000).await.answer().await;

    assert_eq!(second.wire(), (503, -31033, "concurrency_limited".to_owned()));
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(gateway.client().call("up__echo", json!({ "text": "small" })).await.code(), "ok");
    let other = gateway.other().call("up__echo", json!({ "text": "x".repeat(300_000) })).await;
    assert_eq!(other.code(), "tool_not_found", "it was read and decided");
    drop(first);
    until("room again", async || {
        (gateway.client().call("up__echo", json!({ "text": "x".repeat(300_000) })).await.code() == "ok").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_takes_no_answer_gets_no_further_one() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(text(&"x".repeat(12 << 20))));
    let site = Site::of(&upstream).defaults(&upstream, "max_result_bytes: 33554432");
    let site = site.listen("max_buffered_bytes: 20971520");
    let gateway = site.serve().await;
    let held = gateway.client().open_on(deaf(&gateway).await, &Ask::call("up__save", json!({}))).await;

    let refused = until("the answer that nobody takes", async || {
        let answer = gateway.client().call("up__echo", json!({})).await;
        (answer.code() == "concurrency_limited").then_some(answer)
    })
    .await;

    assert_eq!(refused.wire(), (503, -31033, "concurrency_limited".to_owned()));
    assert_eq!(gateway.other().call("up__echo", json!({})).await.code(), "tool_not_found");
    drop(held);
    until("room again", async || (gateway.client().call("up__echo", json!({})).await.code() == "ok").then_some(())).await;
}

/// Two agents that may call everything, and room for so many bytes.
fn shared(upstream: &Upstream, most: usize) -> Site {
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:other, up__*, reversible, -, allow\n";
    Site::of(upstream)
        .policy(rows)
        .defaults(upstream, "max_result_bytes: 33554432, concurrency: 16")
        .listen(&format!("max_buffered_bytes: {most}"))
        .listen("write_timeout_ms: 600000")
}

/// A connection of a client that reads nothing: more than the kernel holds for it stays with the gateway.
async fn deaf(gateway: &Serving) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(gateway.address).await.unwrap()
}

async fn gauge(gateway: &mut Serving, name: &str) -> usize {
    let metrics = gateway.console("/metrics").await.1;
    metrics.lines().find_map(|line| line.strip_prefix(&format!("doorward_{name} "))).unwrap().parse().unwrap()
}

/// Waits until the tool server had so many calls, and all have ended; how many bytes are held then.
async fn all_ended(gateway: &mut Serving, upstream: &Upstream, calls: usize) -> usize {
    upstream.got(calls).await;
    until("the ends of all", async || (gauge(gateway, "calls_under_way").await == 0).then_some(())).await;
    gauge(gateway, "buffered_bytes").await
}

/// The answers to calls of which one got its result: that it is whole, and that the others say why they have none and are recorded as they ended.
async fn one_of(answers: Vec<Answer>, site: &Site) {
    let (whole, dropped): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.code() == "ok");
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].result()["content"][0]["text"].as_str().unwrap().len(), 12 << 20);
    for answer in dropped {
        assert_eq!((answer.status, answer.told()), (200, "result_too_large done".to_owned()));
        assert_eq!(answer.error()["retryable"], false);
        let outcome = site.recorded("outcome", "call_id", answer.error()["invocation"].as_str().unwrap()).await;
        assert_eq!(outcome["outcome"], "ok", "{outcome}");
    }
}

#[tokio::test]
async fn results_that_an_agent_does_not_take_are_no_matter_of_the_others() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(text(&"x".repeat(12 << 20))));
    let site = shared(&upstream, 40 << 20);
    let mut gateway = site.serve().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(gateway.client().open_on(deaf(&gateway).await, &Ask::call("up__save", json!({}))).await);
    }

    let bytes = all_ended(&mut gateway, &upstream, 5).await;

    assert!(((12 << 20)..(20 << 20)).contains(&bytes), "{bytes}");
    let large = json!({ "text": "x".repeat(300_000) });
    assert_eq!(gateway.other().call("up__echo", large).await.code(), "ok");
    let mut answers = Vec::new();
    for open in held {
        answers.push(open.answer().await);
    }
    one_of(answers, &site).await;
    until("room again", async || (gauge(&mut gateway, "buffered_bytes").await == 0).then_some(())).await;
}

#[tokio::test]
async fn nor_over_http_2() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(text(&"x".repeat(12 << 20))));
    let site = shared(&upstream, 40 << 20);
    let mut gateway = site.serve().await;
    let mut two = Http2::begin(&gateway.client()).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        // The library grants a window by itself, and none beyond what is read.
        held.push(two.open(&gateway.client().signed(&Ask::call("up__save", json!({})))).await.unwrap());
    }

    let bytes = all_ended(&mut gateway, &upstream, 5).await;

    assert!(((12 << 20)..(20 << 20)).contains(&bytes), "{bytes}");
    assert_eq!(gateway.other().call("up__echo", json!({ "text": "x".repeat(300_000) })).await.code(), "ok");
    let reading: Vec<_> = held.into_iter().map(|answer| tokio::spawn(whole(answer))).collect();
    let mut answers = Vec::new();
    for answer in reading {
        answers.push(answer.await.unwrap().unwrap());
    }
    one_of(answers, &site).await;
}

#[tokio::test]
async fn an_agents_only_answer_comes_whole_and_holds_nobody_up() {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(text(&"x".repeat(12 << 20))));
    // Less than the answer has.
    let site = shared(&upstream, 1 << 20);
    let mut gateway = site.serve().await;
    let held = gateway.client().open_on(deaf(&gateway).await, &Ask::call("up__save", json!({}))).await;
    let bytes = all_ended(&mut gateway, &upstream, 1).await;
    assert!(bytes > 12 << 20, "{bytes}");

    assert_eq!(gateway.other().call("up__echo", json!({ "text": "x".repeat(200_000) })).await.code(), "ok");

    assert_eq!(held.answer().await.result()["content"][0]["text"].as_str().unwrap().len(), 12 << 20);
    let again =
        until("room again", async || Some(gateway.client().call("up__save", json!({})).await).filter(|answer| answer.status == 200));
    assert_eq!(again.await.result()["content"][0]["text"].as_str().unwrap().len(), 12 << 20);
}

#[tokio::test]
async fn a_result_at_the_end_of_a_stream_counts_as_any_other() {
    for modern in [true, false] {
        let (upstream, ends) = (Upstream::start().await, CancellationToken::new());
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1 } });
        upstream.does("echo", Does::Tells(vec![note], ends.clone()));
        upstream.does("save", Does::Result(text(&"x".repeat(7 << 20))));
        let site = shared(&upstream, 20 << 20);
        let mut gateway = site.serve().await;
        let params = json!({ "name": "up__echo", "arguments": { "text": "x".repeat(2 << 20) }, "_meta": { "progressToken": "p" } });
        let ask = match modern {
            true => Ask::modern("tools/call", params),
            false => gateway.client().initialize("2025-11-25").await.ask("tools/call", &params),
        };
        let mut streamed = Stream::open(&gateway.client(), &ask).await;
        upstream.got(1).await;
        let _held = gateway.client().open_on(deaf(&gateway).await, &Ask::call("up__save", json!({}))).await;
        until("the answer that nobody takes", async || (gauge(&mut gateway, "buffered_bytes").await > 8 << 20).then_some(())).await;

        // It would be 11 MiB of 10.
        ends.cancel();

        let mut last = None;
        while let Some(event) = streamed.event().await {
            last = Some(event);
        }
        let last = last.unwrap().json();
        let error = &last["result"]["_meta"]["dev.doorward/error"];
        assert_eq!((&error["code"], &error["effect"]), (&json!("result_too_large"), &json!("done")), "{error}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_told_so_on_record_and_counted() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("header_timeout_ms: 200");
    let mut gateway = site.serve().await;

    let answer = gateway.nobody().say("POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.answer().await;

    assert_eq!(answer.wire(), (408, -32600, "malformed_request".to_owned()));
    site.recorded("refusal", "call_id", answer.error()["invocation"].as_str().unwrap()).await;
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_connections_ended_total{why=\"slow_head\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_connection_has_its_own_time_between_two_requests() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("header_timeout_ms: 100").listen("idle_timeout_ms: 3600000");
    let mut gateway = site.serve().await;
    let call = gateway.client().signed(&Ask::call("up__echo", json!({}))).on_wire(false);
    let mut kept = gateway.nobody().say(&String::from_utf8(call.clone()).unwrap()).await;
    assert_eq!(kept.next().await.code(), "ok");
    // As long as a head may take, by the clock of the gateway: a head that never ends has come and gone.
    assert_eq!(gateway.nobody().say("POST /").await.answer().await.status, 408);
    assert_eq!(gateway.nobody().say("POST /").await.answer().await.status, 408);

    kept.say(&call).await;

    assert_eq!(kept.next().await.code(), "ok");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_connections_ended_total{why=\"idle\"} 0"), "{metrics}");
}

#[tokio::test]
async fn headers_are_bounded_by_their_number_too() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_headers: 20");
    let gateway = site.serve().await;
    let with = |number: usize| (0..number).fold(Ask::call("up__echo", json!({})), |ask, at| ask.with(&format!("X-{at}"), "1"));

    let refused = gateway.client().send(&with(20)).await;

    assert_eq!(refused.wire(), (431, -31004, "payload_too_large".to_owned()));
    assert_eq!(gateway.client().send(&with(8)).await.code(), "ok");
    // More than the library reads at all.
    assert_eq!(gateway.client().send(&with(200)).await.status, 431);
}

#[tokio::test]
async fn a_gateway_takes_the_open_files_that_its_connections_need_or_says_what_it_lacks() {
    let site = Site::empty().listen("max_connections: 3000");
    let limited = |limit: &str| {
        let mut shell = site.command(&["serve"]);
        let binary = shell.as_std().get_program().to_owned();
        let folder = site.path("");
        shell = tokio::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$0\" serve")]).arg(binary).current_dir(folder);
        shell
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        shell
    };
    let files = |gateway: &Serving| {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().to_owned()
    };

    let roomy = Serving::start(&site, limited("-S -n 256")).await;
    assert_eq!((files(&roomy).as_str(), roomy.said().contains("may open")), ("3512", false));
    roomy.stop().await;

    let mut short = Serving::start(&site, limited("-n 700")).await;
    assert_eq!(files(&short), "700");
    let said = short.says("may open 700 files").await;
    assert!(said.contains("listen.max_connections: 3000") && said.contains("3512"), "{said}");
}
