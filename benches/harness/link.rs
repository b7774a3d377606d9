//! A client's connection before it is under load: opening it, the legacy handshake, and blocking exchanges.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::{
    Era, Result,
    client::Job,
    exchange::{Ask, Exchange, Peer, delete, initialize, initialized, shown},
    wire::{Frame, find, frame},
};

/// A connection and what has arrived on it.
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    /// What has arrived and was not yet taken.
    pub input: Vec<u8>,
    /// The session that the legacy handshake gave.
    pub session: Option<String>,
}

impl Link {
    /// Connects.
    pub fn open(peer: &Peer) -> Result<Link> {
        let stream = TcpStream::connect(peer.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Link { stream, input: Vec::with_capacity(SPACE), session: None })
    }

    /// Opens the `index`th connection of a job, its handshake done.
    pub fn ready(job: &Job, index: usize) -> Result<(Link, Exchange)> {
        let mut link = Link::open(&job.peer)?;
        if job.era == Era::Legacy {
            link.begin(&job.peer)?;
        }
        let first = FIRST + index as u64 * 10_000_000;
        let exchange = Exchange::new(&job.peer, job.era, job.ask, link.session.as_deref(), job.tools, first);
        Ok((link, exchange))
    }

    /// The handshake of the legacy era.
    pub fn begin(&mut self, peer: &Peer) -> Result<()> {
        self.stream.write_all(&initialize(peer))?;
        let mut session = None;
        self.receive(|answer| {
            let named = answer.field("mcp-session-id").ok_or_else(|| shown("no session", answer))?;
            session = Some(String::from_utf8(named.to_vec())?);
            Ok(())
        })?;
        self.session = session;
        self.stream.write_all(&initialized(peer, self.session.as_deref()))?;
        self.receive(|answer| if answer.line().starts_with(b"HTTP/1.1 202 ") { Ok(()) } else { Err(shown("not 202", answer).into()) })
    }

    /// Waits for the head of an answer whose body does not end.
    pub fn begun(&mut self) -> Result<()> {
        let mut chunk = [0; 1024];
        while find(&self.input, b"\r\n\r\n").is_none() {
            match self.stream.read(&mut chunk)? {
                0 => return Err("the connection was closed".into()),
                read => self.input.extend_from_slice(&chunk[..read]),
            }
        }
        if self.input.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(String::from_utf8_lossy(&self.input).into()) }
    }

    /// Waits for one answer and has it checked.
    pub fn receive(&mut self, check: impl FnOnce(&Frame<'_>) -> Result<()>) -> Result<()> {
        let mut chunk = [0; SPACE];
        loop {
            if let Some(answer) = frame(&self.input)? {
                check(&answer)?;
                let used = answer.used;
                self.input.drain(..used);
                return Ok(());
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err("the connection was closed".into()),
                read => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

/// Asks once on a new connection, the modern way: no handshake, so the first answer is the answer to the call.
pub fn ask_once(peer: &Peer) -> Result<()> {
    let mut link = Link::open(peer)?;
    let mut exchange = Exchange::new(peer, Era::Modern, Ask::Echo, None, 0, FIRST);
    link.stream.write_all(exchange.request())?;
    link.receive(|answer| exchange.check(answer))
}

/// Ends sessions, so that those of one measurement are not a burden of the next. A server may refuse.
pub fn end(peer: &Peer, sessions: &[String]) -> Result<()> {
    let mut link = Link::open(peer)?;
    for session in sessions {
        link.stream.write_all(&delete(peer, session))?;
        link.receive(|_| Ok(()))?;
    }
    Ok(())
}

/// How long an answer may take before a run is given up.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Room for one read.
pub const SPACE: usize = 16 * 1024;
const FIRST: u64 = 1_000_000_000;
