//! HTTP/2 towards agents: the same answers as over HTTP/1.1, and bounds of its own. After each attack a good call is answered.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http2::{Http2, frame, preface, whole};
use crate::support::upstream::text;
use crate::support::{Ask, Does, Serving, Site, Upstream, soon, until};

async fn gateway(listen: &[&str]) -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    let site = listen.iter().fold(Site::of(&upstream), |site, member| site.listen(member));
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

fn echo(gateway: &Serving, text: &str) -> Ask {
    gateway.client().signed(&Ask::call("up__echo", json!({ "text": text })))
}

async fn a_good_call_is_answered(gateway: &Serving) {
    let over_two = Http2::begin(&gateway.client()).await.send(&echo(gateway, "good")).await.unwrap();
    assert_eq!(over_two.code(), "ok");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
}

async fn counted(gateway: &mut Serving, why: &str) {
    let line = format!("doorward_connections_ended_total{{why=\"{why}\"}} 1");
    until(&line, async || gateway.console("/metrics").await.1.contains(&line).then_some(())).await;
}

#[tokio::test]
async fn a_call_has_the_same_answer_and_record_over_either_protocol() {
    let (upstream, site, gateway) = gateway(&[]).await;
    let mut two = Http2::begin(&gateway.client()).await;

    let answer = two.send(&echo(&gateway, "hello")).await.unwrap();

    assert_eq!((answer.status, answer.code().as_str()), (200, "ok"));
    assert_eq!(upstream.calls()[0].json()["params"]["arguments"], json!({ "text": "hello" }));
    site.recorded("intent", "transport", "http").await;
    let wrong = two.send(&echo(&gateway, "x").body("{")).await.unwrap();
    assert_eq!(wrong.wire(), (400, -32700, "malformed_request".to_owned()));
    let keyless = two.send(&Ask::call("up__echo", json!({}))).await.unwrap();
    assert_eq!((keyless.status, keyless.code().as_str()), (401, "unauthenticated"));
    assert!(keyless.header("www-authenticate").is_some());
    let foreign = two.send(&echo(&gateway, "x").with("Origin", "https://evil.example")).await.unwrap();
    assert_eq!(foreign.wire(), (403, -31005, "origin_not_allowed".to_owned()));
    let other_host = two.send(&echo(&gateway, "x").with("Host", "rebound.example")).await.unwrap();
    assert_eq!((other_host.status, other_host.code().as_str()), (400, "malformed_request"), "`Host` says otherwise than `:authority`");
    assert_eq!(upstream.calls().len(), 1);
}

#[tokio::test]
async fn hanging_up_on_one_request_cancels_its_call_and_no_other() {
    let (upstream, site, gateway) = gateway(&[]).await;
    upstream.does("save", Does::Hangs);
    let mut two = Http2::begin(&gateway.client()).await;
    let hung = two.open(&gateway.client().signed(&Ask::call("up__save", json!({})))).await.unwrap();
    upstream.got(1).await;

    drop(hung);

    upstream.abandoned(1).await;
    assert_eq!(site.ends(1).await, ["cancelled unknown"]);
    assert_eq!(two.send(&echo(&gateway, "after")).await.unwrap().code(), "ok");
}

#[tokio::test]
async fn it_is_not_served_where_the_operator_says_so() {
    let (_upstream, _site, gateway) = gateway(&["http2: { serve: false }"]).await;
    let mut socket = TcpStream::connect(gateway.client().address()).await.unwrap();
    socket.write_all(&preface()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", socket.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
}

#[tokio::test]
async fn a_client_that_takes_back_what_it_asks_loses_its_connection() {
    let (upstream, _site, mut gateway) = gateway(&["http2: { max_resets: 20 }"]).await;
    let mut two = Http2::begin(&gateway.client()).await;
    let ask = echo(&gateway, "x");

    // The body never comes: the request is taken back at once.
    let lost = until("the end of the connection", async || {
        for _ in 0..50 {
            match two.begin_ask(&ask).await {
                Ok(asked) => drop(asked),
                Err(error) => return Some(error),
            }
        }
        None
    })
    .await;

    assert!(lost.is_go_away() || lost.is_io(), "{lost}");
    assert!(upstream.calls().is_empty());
    a_good_call_is_answered(&gateway).await;
    let metrics = gateway.console("/metrics").await.1;
    let ended = |why: &str| metrics.contains(&format!("doorward_connections_ended_total{{why=\"{why}\"}} 1"));
    assert!(ended("taken_back") || ended("protocol"), "{metrics}");
}

#[tokio::test]
async fn what_is_taken_back_counts_less_what_is_answered() {
    let (upstream, _site, mut gateway) = gateway(&["http2: { max_resets: 3 }"]).await;
    upstream.does("save", Does::Hangs);
    let mut two = Http2::begin(&gateway.client()).await;
    let save = gateway.client().signed(&Ask::call("up__save", json!({})));
    let (mut sent, mut taken_back) = (0, 0);

    // Each has reached the server when it is taken back, so that no bound of the protocol's own counts it.
    for (takes_back, answered) in [(3, 2), (2, 0)] {
        for _ in 0..takes_back {
            let hung = two.open(&save).await.unwrap();
            sent += 1;
            upstream.got(sent).await;
            drop(hung);
            taken_back += 1;
            upstream.abandoned(taken_back).await;
        }
        for _ in 0..answered {
            assert_eq!(two.send(&echo(&gateway, "between")).await.unwrap().code(), "ok");
            sent += 1;
        }
    }
    let once_more = two.open(&save).await.unwrap();
    upstream.got(sent + 1).await;
    drop(once_more);

    counted(&mut gateway, "taken_back").await;
    assert!(two.send(&echo(&gateway, "after")).await.is_err());
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn a_request_that_breaks_off_in_its_body_is_taken_back() {
    let (upstream, _site, mut gateway) = gateway(&["http2: { max_resets: 3 }"]).await;
    let mut two = Http2::begin(&gateway.client()).await;
    let ask = echo(&gateway, "x");

    for _ in 0..4 {
        let (answer, mut body) = two.begin_ask(&ask).await.unwrap();
        body.send_data(vec![b' '; 40_000].into(), false).unwrap();
        // It is being read, so that no bound of the protocol's own counts it.
        holding(&mut gateway, |bytes| bytes > 0).await;
        drop((answer, body));
        holding(&mut gateway, |bytes| bytes == 0).await;
    }

    counted(&mut gateway, "taken_back").await;
    assert!(two.send(&ask).await.is_err());
    assert!(upstream.calls().is_empty());
    a_good_call_is_answered(&gateway).await;
}

/// Waits until so many bytes of messages are held.
async fn holding(gateway: &mut Serving, is_right: impl Fn(u64) -> bool) {
    until("bytes that are held", async || {
        let metrics = gateway.console("/metrics").await.1;
        let held = metrics.lines().find_map(|line| line.strip_prefix("doorward_buffered_bytes ")).unwrap().parse().unwrap();
        is_right(held).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rapid_reset_in_one_piece_ends_its_connection() {
    let (upstream, _site, mut gateway) = gateway(&[]).await;
    let mut socket = TcpStream::connect(gateway.client().address()).await.unwrap();
    let mut flood = preface();
    // `:method: POST`, `:scheme: http`, `:path: /` of the static table; then RST_STREAM with CANCEL.
    for stream in (1..20_001).step_by(2) {
        flood.extend(frame(1, 4, stream, &[0x83, 0x86, 0x84]));
        flood.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    let (mut read, mut write) = socket.split();
    let sent = async {
        let _ = write.write_all(&flood).await;
    };
    let mut answer = Vec::new();
    let (_, _) = soon("the end", async { tokio::join!(sent, read.read_to_end(&mut answer)) }).await;
    // GOAWAY is frame type 7.
    assert!(answer.windows(9).any(|head| head[3] == 7 && head[5..9] == [0; 4]), "{} bytes and no GOAWAY", answer.len());
    assert!(upstream.calls().is_empty());
    counted(&mut gateway, "protocol").await;
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn headers_that_go_on_and_on_end_their_connection() {
    let (_upstream, _site, mut gateway) = gateway(&[]).await;
    let mut socket = TcpStream::connect(gateway.client().address()).await.unwrap();
    let mut flood = preface();
    flood.extend(frame(1, 0, 1, &[0x83, 0x86, 0x84]));
    // A literal header of 2 bytes, over and over, in frames that never say END_HEADERS.
    let part: Vec<u8> = [0x00, 1, b'a', 1, b'b'].repeat(3_000);
    (0..2_000).for_each(|_| flood.extend(frame(9, 0, 1, &part)));
    let (mut read, mut write) = socket.split();
    let sent = async { write.write_all(&flood).await.is_err() };
    let mut answer = Vec::new();
    let (cut_off, _) = soon("the end", async { tokio::join!(sent, read.read_to_end(&mut answer)) }).await;
    assert!(cut_off, "30 MB of headers were taken");
    counted(&mut gateway, "protocol").await;
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so_in_words() {
    let (_upstream, site, gateway) = gateway(&["max_header_bytes: 8192", "max_headers: 40"]).await;
    let mut two = Http2::begin(&gateway.client()).await;
    let many = (0..60).fold(echo(&gateway, "x"), |ask, at| ask.with(&format!("X-{at}"), "1"));
    for ask in [echo(&gateway, "x").with("X-Big", &"x".repeat(9_000)), many] {
        let refused = two.send(&ask).await.unwrap();
        assert_eq!(refused.wire(), (431, -31004, "payload_too_large".to_owned()));
        site.recorded("refusal", "call_id", refused.error()["invocation"].as_str().unwrap()).await;
    }
    assert_eq!(two.send(&echo(&gateway, "x").with("X-Big", &"x".repeat(40_000))).await.unwrap().status, 431);
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn requests_beyond_the_bound_of_a_connection_are_refused_and_the_rest_answered() {
    let (upstream, _site, gateway) = gateway(&["http2: { max_streams: 4 }"]).await;
    upstream.does("save", Does::Hangs);
    let mut socket = TcpStream::connect(gateway.client().address()).await.unwrap();
    let mut flood = preface();
    // Requests without END_STREAM, more than are let in, by a client that does not wait for the settings.
    (1..201).step_by(2).for_each(|stream| flood.extend(frame(1, 4, stream, &[0x83, 0x86, 0x84])));
    socket.write_all(&flood).await.unwrap();
    let mut seen = Vec::new();
    let refused = until("refused streams", async || {
        let mut some = vec![0; 16 << 10];
        let length = soon("frames", socket.read(&mut some)).await.unwrap_or_default();
        seen.extend_from_slice(&some[..length]);
        // RST_STREAM (3) with REFUSED_STREAM (7).
        let resets = seen.windows(13).filter(|head| head[..5] == [0, 0, 4, 3, 0] && head[9..] == [0, 0, 0, 7]).count();
        (resets >= 50 || length == 0).then_some(resets)
    })
    .await;
    assert!(refused >= 50, "{refused}");
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn a_client_that_gives_no_room_for_its_answer_loses_its_connection() {
    let (upstream, _site, mut gateway) = gateway(&["write_timeout_ms: 300", "idle_timeout_ms: 600000"]).await;
    upstream.does("save", Does::Result(text(&"x".repeat(200_000))));
    let mut two = Http2::begin(&gateway.client()).await;
    let answer = two.open(&gateway.client().signed(&Ask::call("up__save", json!({})))).await.unwrap();
    // Its window is never opened again: the data is read and not released.
    let mut body = soon("the head", answer).await.unwrap().into_body();
    let ended = until("the end", async || match soon("data", body.data()).await {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error),
        None => panic!("all of it came"),
    })
    .await;
    assert!(ended.is_io() || ended.is_go_away() || ended.is_reset(), "{ended}");
    counted(&mut gateway, "not_taken").await;
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn a_client_that_asks_nothing_loses_its_connection() {
    let (_upstream, _site, mut gateway) = gateway(&["idle_timeout_ms: 200"]).await;
    let mut two = Http2::begin(&gateway.client()).await;
    assert_eq!(two.send(&echo(&gateway, "x")).await.unwrap().code(), "ok");
    counted(&mut gateway, "idle").await;
    let error = until("the end", async || two.open(&echo(&gateway, "x")).await.err()).await;
    assert!(error.is_go_away() || error.is_io(), "{error}");
    a_good_call_is_answered(&gateway).await;
}

#[tokio::test]
async fn a_large_answer_comes_whole_and_several_at_once() {
    let (upstream, _site, gateway) = gateway(&[]).await;
    upstream.does("save", Does::Result(text(&"x".repeat(700_000))));
    let mut two = Http2::begin(&gateway.client()).await;
    let ask = gateway.client().signed(&Ask::call("up__save", json!({})));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        // Read at once: one that is not read would take the room of the others.
        waiting.push(tokio::spawn(whole(two.open(&ask).await.unwrap())));
    }
    for answer in waiting {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.result()["content"][0]["text"].as_str().unwrap().len(), 700_000);
    }
}

#[tokio::test]
async fn a_quiet_stream_is_not_taken_for_a_client_that_takes_nothing() {
    let (upstream, _site, mut gateway) = gateway(&["write_timeout_ms: 200", "idle_timeout_ms: 200"]).await;
    let ends = tokio_util::sync::CancellationToken::new();
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "TOKEN", "progress": 1 } });
    upstream.does("save", Does::Tells(vec![note], ends.clone()));
    let mut two = Http2::begin(&gateway.client()).await;
    let ask = Ask::modern("tools/call", json!({ "name": "up__save", "arguments": {}, "_meta": { "progressToken": "p" } }));
    let answer = soon("the head", two.open(&gateway.client().signed(&ask)).await.unwrap()).await.unwrap();
    let mut body = answer.into_body();
    assert!(soon("progress", body.data()).await.unwrap().unwrap().starts_with(b"event: message"));
    // A connection that is as old and does nothing has gone by then.
    let _silent = Http2::begin(&gateway.client()).await;
    counted(&mut gateway, "idle").await;
    ends.cancel();
    let mut rest = Vec::new();
    while let Some(Ok(data)) = soon("the rest", body.data()).await {
        rest.extend_from_slice(&data);
    }
    assert!(String::from_utf8_lossy(&rest).contains("\"result\""), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn over_tls_it_is_spoken_with_clients_that_ask_for_it() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("tls: { certificate: cert.pem, key: key.pem }");
    site.write("cert.pem", &made.cert.pem());
    site.write("key.pem", &made.signing_key.serialize_pem());
    let gateway = site.serve().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    for (asked, spoken) in [(vec!["h2", "http/1.1"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)] {
        let mut config = config.clone();
        config.alpn_protocols = asked.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let socket = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
        assert_eq!(socket.get_ref().1.alpn_protocol(), spoken.map(str::as_bytes), "{asked:?}");
        let answer = match spoken {
            Some("h2") => Http2::begin_on(socket).await.send(&echo(&gateway, "x")).await.unwrap(),
            _ => {
                let mut open = gateway.client().open_on(socket, &echo(&gateway, "x")).await;
                let answer = open.next().await;
                // TLS tells the end in words, so that nobody on the way can cut an answer short: without them it is an error.
                assert_eq!(open.some(1).await, 0);
                answer
            }
        };
        assert_eq!(answer.code(), "ok", "{asked:?}");
    }
}
