//! Many clients that mean no good at once: what they hold is bounded, and others are served beside them.
//!
//! `DOORWARD_HOSTILE_CONNECTIONS=2000` makes it as many as the bound is promised for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use h2::SendStream;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Open;
use crate::support::http2::Http2;
use crate::support::upstream::text;
use crate::support::{Ask, Client, Does, Serving, Site, Upstream, soon, until};

/// Bytes of a large body, and of a large answer.
const LARGE: usize = 1 << 20;

fn connections() -> usize {
    std::env::var("DOORWARD_HOSTILE_CONNECTIONS").map_or(300, |number| number.parse().unwrap())
}

/// Both agents may call everything, and `demo` means well.
fn site(upstream: &Upstream, most: usize) -> Site {
    let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:other, up__*, reversible, -, allow\n";
    let site = Site::of(upstream)
        .policy(rows)
        .defaults(upstream, "max_result_bytes: 8388608, concurrency: 64, queue: 4096, queue_per_agent: 4096");
    let patience = ["header_timeout_ms: 600000", "idle_timeout_ms: 600000", "body_timeout_ms: 600000", "write_timeout_ms: 600000"];
    let site = patience.iter().fold(site, |site, member| site.listen(member));
    site.listen(&format!("max_connections: {most}")).listen("max_header_bytes: 16384").listen("max_buffered_bytes: 8388608")
}

/// A connection from one of some addresses of this machine, so that no share is reached.
async fn connect(gateway: &Serving, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // What nobody reads is to stay with the gateway, and not with the kernel.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind(([127, 0, 0, u8::try_from(2 + number % 8).unwrap()], 0).into()).unwrap();
    soon("a connection", socket.connect(gateway.address)).await.unwrap()
}

fn memory(gateway: &Serving) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// What a hostile client keeps open.
enum Held {
    One(#[expect(dead_code, reason = "held, not used")] Open),
    Many(
        #[expect(dead_code, reason = "held, not used")] Vec<(h2::client::ResponseFuture, SendStream<Bytes>)>,
        #[expect(dead_code, reason = "held, not used")] Http2,
    ),
}

async fn hold(gateway: &Serving, number: usize) -> Held {
    let (client, socket) = (gateway.other(), connect(gateway, number).await);
    let large = |ask: Ask| {
        let text = "x".repeat(LARGE);
        ask.body(text).with("Content-Length", &(2 * LARGE).to_string())
    };
    let call = Ask::call("up__echo", json!({}));
    match number % 5 {
        0 => Held::One(gateway.nobody().say_on(socket, "").await),
        1 => {
            Held::One(gateway.nobody().say_on(socket, &format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(16_000))).await)
        }
        2 => Held::One(client.open_on(socket, &large(call)).await),
        3 => Held::One(client.open_on(socket, &Ask::call("up__save", json!({}))).await),
        _ => {
            let mut connection = Http2::begin_on(socket).await;
            let mut streams = Vec::new();
            for _ in 0..16 {
                let (answer, mut body) = connection.begin_ask(&client.signed(&call)).await.unwrap();
                body.send_data(vec![b'x'; 4_000].into(), false).unwrap();
                streams.push((answer, body));
            }
            Held::Many(streams, connection)
        }
    }
}

#[tokio::test]
async fn what_hostile_connections_hold_is_bounded() {
    let (upstream, number) = (Upstream::start().await, connections());
    upstream.does("save", Does::Result(text(&"x".repeat(LARGE))));
    let site = site(&upstream, number + 64);
    let mut gateway = site.serve().await;
    for _ in 0..20 {
        assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    }
    let before = memory(&gateway);

    let mut held = Vec::new();
    for at in 0..number {
        held.push(hold(&gateway, at).await);
        if at % 50 == 0 {
            assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok", "beside {at} of them");
        }
    }
    until("most of them", async || {
        let metrics = gateway.console("/metrics").await.1;
        let open = metrics.lines().find_map(|line| line.strip_prefix("doorward_connections ")).unwrap().parse::<usize>().unwrap();
        (open >= number * 3 / 5).then_some(())
    })
    .await;

    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    let (after, each) = (memory(&gateway), (16 + 8 + 40) << 10);
    let most = before + number * each + 2 * (8 << 20) + (16 << 20);
    println!("{number} connections: {} KiB, then {} KiB; {} KiB at most", before >> 10, after >> 10, most >> 10);
    assert!(after < most, "{before} became {after}, more than {most}");
    drop(held);
}

/// What hostile clients do until they are told to stop.
async fn attack(gateway: &Serving, number: usize, stop: &AtomicBool, done: &AtomicUsize) {
    let (nobody, other) = (gateway.nobody(), gateway.other());
    let guess = |client: &Client| client.signed(&Ask::call("up__echo", json!({})).with("Authorization", "Bearer dw_demo_AAAAAAAA"));
    while !stop.load(Ordering::Relaxed) {
        let socket = connect(gateway, number).await;
        match number % 5 {
            0 => drop(nobody.open_on(socket, &guess(&nobody)).await.rest().await),
            1 => drop(other.open_on(socket, &Ask::call("up__echo", json!({ "text": "x".repeat(5 << 20) }))).await.rest().await),
            2 => {
                let mut connection = Http2::begin_on(socket).await;
                for _ in 0..300 {
                    let Ok(answer) = connection.open(&guess(&nobody)).await else { break };
                    drop(answer);
                }
            }
            3 => drop(nobody.say_on(socket, "POST /mcp HTTP/1.1\r\nX: ").await),
            _ => drop(other.open_on(socket, &Ask::call("up__echo", json!({})).body("[".repeat(100_000))).await.rest().await),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_callers_are_served_beside_hostile_ones() {
    let upstream = Upstream::start().await;
    let site = site(&upstream, 400);
    let gateway = Arc::new(site.serve().await);
    let mut slow = Vec::new();
    for number in 0..100 {
        slow.push(hold(&gateway, 5 * number + number % 2).await);
    }
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let attacks: Vec<_> = (0..10)
        .map(|number| {
            let (gateway, stop, done) = (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move { attack(&gateway, number, &stop, &done).await })
        })
        .collect();

    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, done) = (Arc::clone(&gateway), Arc::clone(&done));
            tokio::spawn(async move {
                let mut answered = 0;
                // As long as it takes for the attack to have been one.
                while answered < 50 || done.load(Ordering::Relaxed) < 300 {
                    let answer = gateway.client().call("up__echo", json!({ "text": "good" })).await;
                    assert_eq!(answer.code(), "ok", "{}", answer.text());
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for attack in attacks {
        attack.await.unwrap();
    }
    println!("{answered} good calls beside {} attacks", done.load(Ordering::Relaxed));
    let good = upstream.calls().iter().filter(|call| call.json()["params"]["arguments"] == json!({ "text": "good" })).count();
    assert_eq!((good, upstream.calls().len()), (answered, answered));
}
