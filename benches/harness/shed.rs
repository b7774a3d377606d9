//! What a call costs that is turned away by its head: the gateway holds as many bytes as it may, in two bodies that never end.

use std::{io::Write, time::Instant};

use super::{
    Era, Result,
    doorward::Setup,
    exchange::{Ask, Exchange, shown},
    link::Link,
    process::Spent,
    report::DOORWARD,
    run::{Pace, Server},
    scale, tools,
};

/// Fills the gateway, sends calls that it turns away, and prints what each cost.
pub fn run(pace: Pace, durability: &str) -> Result<()> {
    let upstream = Server::start(&["upstream"])?;
    let listen = format!(", max_buffered_bytes: {MOST}, buffered_share_percent: 100, body_timeout_ms: 600000");
    let folder = Setup::listening(upstream.peer.address, scale::SMALL, durability, &listen)?;
    let gateway = folder.start()?;
    // What a message has free is not counted, so it takes a second one to reach the bound.
    let _held = [unfinished(&gateway, MOST)?, unfinished(&gateway, 2 * FREE)?];
    until_full(&gateway)?;
    println!("{DOORWARD}, a call that is turned away; the budget is {BUDGET_US} us of CPU");
    for behind in [1, 16] {
        let mut link = Link::open(&gateway.peer)?;
        let mut exchange = Exchange::new(&gateway.peer, Era::Modern, Ask::Echo, None, tools::USUAL, FIRST);
        let (end, mut calls) = (Instant::now() + pace.window, 0_u32);
        let before = Spent::now(Some(gateway.running.id()), &[])?;
        while Instant::now() < end {
            let requests: Vec<u8> = (0..behind).flat_map(|_| exchange.request().to_vec()).collect();
            link.stream.write_all(&requests)?;
            for _ in 0..behind {
                link.receive(|answer| {
                    let is_shed = answer.line().starts_with(b"HTTP/1.1 503 ") && answer.field("retry-after").is_some();
                    if is_shed { Ok(()) } else { Err(shown("not turned away", answer).into()) }
                })?;
                calls += 1;
            }
        }
        let spent = Spent::now(Some(gateway.running.id()), &[])?.gateway - before.gateway;
        println!("  {behind:>2} behind each other {:>8.1} us each, {calls} calls", spent / 1e3 / f64::from(calls));
    }
    Ok(())
}

/// Asks until it is turned away: the bodies are there when the gateway has read them.
fn until_full(gateway: &Server) -> Result<()> {
    let (mut link, mut is_full) = (Link::open(&gateway.peer)?, false);
    let mut exchange = Exchange::new(&gateway.peer, Era::Modern, Ask::Echo, None, tools::USUAL, FIRST);
    for _ in 0..10_000 {
        link.stream.write_all(exchange.request())?;
        link.receive(|answer| {
            is_full = answer.line().starts_with(b"HTTP/1.1 503 ");
            Ok(())
        })?;
        if is_full {
            return Ok(());
        }
    }
    Err("the gateway never turned a call away".into())
}

/// A body of so many bytes whose last one never comes.
fn unfinished(gateway: &Server, bytes: usize) -> Result<Link> {
    let mut link = Link::open(&gateway.peer)?;
    let mut exchange = Exchange::new(&gateway.peer, Era::Modern, Ask::Echo, None, tools::USUAL, FIRST);
    let request = String::from_utf8(exchange.request().to_vec())?;
    let (head, _) = request.split_once("\r\n\r\n").ok_or("a request without a head")?;
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    link.stream.write_all(format!("{head}Content-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes - 1)).as_bytes())?;
    Ok(link)
}

/// The smallest bound of what is held, in bytes.
const MOST: usize = 1 << 20;
/// What a message of HTTP/1.1 may have without being counted.
const FREE: usize = 16 << 10;
const BUDGET_US: u32 = 20;
const FIRST: u64 = 1_000_000_000;
