//! What sessions and open streams cost in memory: 10,000 idle sessions, then 1,000 streams that stay open.

use std::io::Write;

use super::{
    Era, Result,
    doorward::Setup,
    exchange::{Ask, Exchange, stream},
    link::Link,
    report::DOORWARD,
    run::Server,
    scale, tools,
};

/// Opens the sessions on one connection, then each stream on its own, and prints what the gateway holds after each.
pub fn run(durability: &str) -> Result<()> {
    let upstream = Server::start(&["upstream"])?;
    let folder = Setup::new(upstream.peer.address, scale::SMALL, durability)?;
    let gateway = folder.start()?;
    let peer = &gateway.peer;
    let held = |what: &str| -> Result<()> {
        let megabytes = |field| gateway.running.memory(field).map(|mib| mib * 1.048_576);
        println!("  {what:<28} {:>6.1} MB resident, {:>6.1} at most", megabytes("VmRSS")?, megabytes("VmHWM")?);
        Ok(())
    };
    println!("{DOORWARD}, memory; the budget is {BUDGET} MB with all of them");
    held("at rest")?;
    let mut link = Link::open(peer)?;
    let mut sessions = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        link.begin(peer)?;
        sessions.extend(link.session.take());
    }
    held(&format!("{} idle sessions", sessions.len()))?;
    let mut streams = Vec::with_capacity(STREAMS);
    for session in &sessions[..STREAMS] {
        let mut opened = Link::open(peer)?;
        opened.stream.write_all(&stream(peer, session))?;
        opened.begun()?;
        streams.push(opened);
    }
    held(&format!("and {} open streams", streams.len()))?;
    for session in &sessions {
        let mut exchange = Exchange::new(peer, Era::Legacy, Ask::Echo, Some(session), tools::USUAL, FIRST);
        link.stream.write_all(exchange.request())?;
        link.receive(|answer| exchange.check(answer))?;
    }
    held("and a call in each session")
}

const SESSIONS: usize = 10_000;
const STREAMS: usize = 1_000;
const BUDGET: u32 = 100;
const FIRST: u64 = 1_000_000_000;
