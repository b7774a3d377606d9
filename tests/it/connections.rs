//! Clients that hold on to connections: those that never read, those that say nothing, and those that open too many.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Open;
use crate::support::upstream::text;
use crate::support::{Ask, Does, Serving, Site, Upstream, soon, until};

/// Bytes of the large answer.
const SIZE: usize = 12 << 20;

/// A connection from an address of this machine.
async fn connect(gateway: &Serving, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    soon("a connection", socket.connect(gateway.address)).await.unwrap()
}

/// A gateway with one place, and a tool whose answer is larger than the buffers of two sockets.
async fn one_place() -> (Upstream, Site, Serving) {
    let upstream = Upstream::start().await;
    upstream.does("save", Does::Result(text(&"x".repeat(SIZE))));
    let site = Site::of(&upstream).defaults(&upstream, "max_result_bytes: 33554432");
    let site = site.listen("max_connections: 1").listen("write_timeout_ms: 500");
    let gateway = site.serve().await;
    (upstream, site, gateway)
}

/// A connection that asks for the large answer and takes little of it at a time.
async fn asking(gateway: &Serving) -> Open {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(128 << 10).unwrap();
    let socket = socket.connect(gateway.address).await.unwrap();
    gateway.client().open_on(socket, &Ask::call("up__save", json!({}))).await
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_connection() {
    let (upstream, _site, mut gateway) = one_place().await;
    let _deaf = asking(&gateway).await;
    upstream.got(1).await;

    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let line = "doorward_connections_ended_total{why=\"not_taken\"} 1";
    until(line, async || gateway.console("/metrics").await.1.contains(line).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_whole_answer() {
    let (_upstream, _site, gateway) = one_place().await;
    let mut slow = asking(&gateway).await;
    let (began, mut got) = (Instant::now(), 0);
    until("the whole answer", async || {
        let taken = slow.some(64 << 10).await;
        got += taken;
        (taken == 0).then_some(())
    })
    .await;
    assert!(got > SIZE && began.elapsed() > Duration::from_millis(500), "{got} bytes in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed_before_and_after_a_request() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("header_timeout_ms: 200").listen("idle_timeout_ms: 200");
    let gateway = site.serve().await;
    soon("the end", connect(&gateway, [127, 0, 0, 1]).await.read_to_end(&mut Vec::new())).await.unwrap();
    let mut open = gateway.nobody().say("GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((open.head().await.header("connection"), open.rest().await.is_empty()), (None, false));
}

#[tokio::test]
async fn one_address_holds_no_more_than_its_share_of_the_connections() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_connections: 5").listen("address_share_percent: 40").listen("header_timeout_ms: 600000");
    let gateway = site.serve().await;
    let held = [connect(&gateway, [127, 0, 0, 2]).await, connect(&gateway, [127, 0, 0, 2]).await];

    let mut third = connect(&gateway, [127, 0, 0, 2]).await;

    assert_eq!(soon("the end", third.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    drop(held);
    until("a place for the address again", async || {
        let socket = connect(&gateway, [127, 0, 0, 2]).await;
        let open = gateway.client().open_on(socket, &Ask::call("up__echo", json!({}))).await;
        String::from_utf8_lossy(&open.rest().await).starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_a_share_are_told_in_one_line_and_counted() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream).listen("max_connections: 5").listen("address_share_percent: 40").listen("header_timeout_ms: 600000");
    let mut gateway = site.serve().await;
    let _held = [connect(&gateway, [127, 0, 0, 2]).await, connect(&gateway, [127, 0, 0, 2]).await];

    for _ in 0..20 {
        let mut further = connect(&gateway, [127, 0, 0, 2]).await;
        assert_eq!(soon("the end", further.read(&mut [0])).await.unwrap(), 0);
    }

    let said = gateway.says("share of the connections").await;
    let lines: Vec<_> = said.lines().filter(|line| line.contains("share of the connections")).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("127.0.0.2"), "{lines:?}");
    let metrics = gateway.console("/metrics").await.1;
    assert!(metrics.contains("doorward_connections_refused_total 20"), "{metrics}");
}
