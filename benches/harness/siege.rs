//! What good callers see while 2,000 hostile connections are held open, and others come as fast as they can.
//!
//! The hostile ones come from other addresses and, where they show a key, as another agent; they share the machine's cores with the gateway, so
//! a part of what good callers wait is theirs. An answer to a good caller that is not the right one ends the run.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tokio::net::TcpSocket;

use super::{
    Era, Result,
    doorward::{Setup, Size},
    exchange::{Ask, Exchange, Peer},
    report::DOORWARD,
    run::{self, Contestant, Pace, Server, Shape},
    scale, tools,
};

/// Measures good callers alone, beside what is held, and under attack.
pub fn run(pace: Pace, durability: &str) -> Result<()> {
    let upstream = Server::start(&["upstream"])?;
    let listen = format!(
        ", max_connections: {}, header_timeout_ms: 600000, idle_timeout_ms: 600000, body_timeout_ms: 600000, write_timeout_ms: 600000",
        2 * HELD
    );
    let folder = Setup::listening(upstream.peer.address, Size { agents: 1, ..scale::SMALL }, durability, &listen)?;
    let gateway = folder.start()?;
    let other = Peer { key: Some(folder.key_of("a0")?), ..gateway.peer.clone() };
    let contestant = gateway.contestant(DOORWARD, &upstream);
    println!("{DOORWARD}, good callers at {RATE} calls/s over {CALLERS} connections; the budget is {BUDGET_MS} ms more at p99");
    println!("  {:<44} {:>8} {:>8} {:>8} {:>8}", "", "calls/s", "p50 ms", "p99 ms", "MiB");
    let alone = told("alone", &contestant, &gateway, pace)?;
    let held = (0..HELD).map(|number| hold(&other, number)).collect::<Result<Vec<_>>>()?;
    told(&format!("beside {} that are held open", held.len()), &contestant, &gateway, pace)?;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let under_attack = thread::scope(|scope| {
        for number in 0..ATTACKERS {
            let (other, stop, done) = (&other, &stop, &done);
            scope.spawn(move || attack(other, number, stop, done));
        }
        let measured = told(&format!("and under attack by {ATTACKERS} more"), &contestant, &gateway, pace);
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    println!("  {} attacks; p99 is {:+.1} ms; every good call had the right answer", done.into_inner(), under_attack - alone);
    drop(held);
    Ok(())
}

/// Measures, prints, and gives the 99th percentile in milliseconds.
fn told(what: &str, contestant: &Contestant, gateway: &Server, pace: Pace) -> Result<f64> {
    let shape = Shape { era: Era::Modern, ask: Ask::Echo, connections: CALLERS, rate: Some(RATE) };
    let outcome = &run::measure(std::slice::from_ref(contestant), shape, pace)?[0];
    let (p50, p99) = (outcome.p50 / 1e3, outcome.p99 / 1e3);
    println!("  {what:<44} {:>8.0} {p50:>8.2} {p99:>8.2} {:>8.1}", outcome.rate, gateway.running.memory("VmRSS")?);
    Ok(p99)
}

/// A connection from one of eight addresses that good callers do not have.
fn connect(to: SocketAddr, number: usize) -> Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        // What nobody reads is to stay with the gateway, and not with the kernel.
        socket.set_recv_buffer_size(16 << 10)?;
        socket.bind(([127, 0, 0, u8::try_from(2 + number % 8).unwrap_or(2)], 0).into())?;
        socket.connect(to).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn listing(peer: &Peer) -> Vec<u8> {
    Exchange::new(peer, Era::Modern, Ask::List, None, tools::USUAL, 1).request().to_vec()
}

/// The head of a call whose body has so many bytes, and as many of them as given.
fn unfinished(peer: &Peer, length: usize, sent: usize) -> Vec<u8> {
    let request = Exchange::new(peer, Era::Modern, Ask::Echo, None, tools::USUAL, 1).request().to_vec();
    let text = String::from_utf8_lossy(&request).into_owned();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    format!("{head}Content-Length: {length}\r\n\r\n{}", "[".repeat(sent)).into_bytes()
}

/// A frame of HTTP/2: its type, flags and stream, and what is in it (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Streams of HTTP/2 that are begun, each with a part of a body or taken back at once.
fn streams(number: u32, is_taken_back: bool) -> Vec<u8> {
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    for stream in (1..2 * number).step_by(2) {
        // `:method: POST`, `:scheme: http`, `:path: /` of the static table.
        bytes.extend(frame(1, 4, stream, &[0x83, 0x86, 0x84]));
        bytes.extend(if is_taken_back { frame(3, 0, stream, &8_u32.to_be_bytes()) } else { frame(0, 0, stream, &[b'x'; 2_000]) });
    }
    bytes
}

/// Opens one of five kinds that give nothing and go on for ever. What it can no longer send, since nobody takes it, it leaves.
fn hold(other: &Peer, number: usize) -> Result<TcpStream> {
    let mut stream = connect(other.address, number)?;
    let said = match number % 5 {
        0 => Vec::new(),
        1 => format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(16_000)).into_bytes(),
        2 => unfinished(other, 2 << 20, 1 << 20),
        3 => listing(other).repeat(64),
        _ => streams(16, false),
    };
    let _ = stream.write_all(&said);
    Ok(stream)
}

/// Comes again and again until told to stop.
fn attack(other: &Peer, number: usize, stop: &AtomicBool, done: &AtomicU64) {
    let guess = Peer { key: Some("dw_bench_AAAAAAAA".to_owned()), ..other.clone() };
    let said = match number % 5 {
        0 => listing(&guess).repeat(8),
        1 => unfinished(other, 5 << 20, 4 << 20),
        2 => streams(300, true),
        3 => b"POST /mcp HTTP/1.1\r\nX: ".to_vec(),
        _ => unfinished(other, 100_000, 100_000),
    };
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = connect(other.address, number) else { continue };
        let _ = stream.write_all(&said);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 4096];
        while stream.read(&mut answer).is_ok_and(|read| read > 0) {}
        done.fetch_add(1, Ordering::Relaxed);
    }
}

const HELD: usize = 2_000;
const ATTACKERS: usize = 10;
const CALLERS: usize = 16;
const RATE: u32 = 500;
const BUDGET_MS: u32 = 50;
/// How long a hostile client waits for anything.
const PATIENCE: Duration = Duration::from_millis(500);
