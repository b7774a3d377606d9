//! The load: one process, told a [`Job`] on standard input, that prints an [`Outcome`].
//!
//! Closed loop: all connections on one thread, each sending when it was answered. Open loop: a thread a connection, each call due at its
//! own instant; one that is late because the answer before it was late counts from when it was due, so a stall is not hidden.
//! What the gateway's process tree spent is read at both ends of the window by this process, which knows when they are.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Era, Result,
    exchange::{Ask, Exchange, Peer},
    link::{self, Link, PATIENCE, SPACE},
    process::Spent,
    wire::frame,
};

/// What to ask of whom, how fast and how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The one who answers.
    pub peer: Peer,
    /// How it is spoken to.
    pub era: Era,
    /// What is asked.
    pub ask: Ask,
    /// How many tools a list must have.
    pub tools: usize,
    /// Connections, each with a session of its own in the legacy era.
    pub connections: usize,
    /// Calls a second in all; closed loop where absent.
    pub rate: Option<u32>,
    /// Load before the window.
    pub warm: Duration,
    /// The window that is measured.
    pub window: Duration,
    /// The process whose tree is charged for the calls; none when asking the upstream itself.
    pub gateway: Option<u32>,
    /// The other processes of the run, so that their work is not taken for noise.
    pub ours: Vec<u32>,
}

/// What the window showed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers a second.
    pub rate: f64,
    /// Median latency, in microseconds.
    pub p50: f64,
    /// Latency that one answer in a hundred exceeded.
    pub p99: f64,
    /// CPU time of the gateway's process tree a call, in microseconds.
    pub cpu: f64,
    /// Cores kept busy by what is no part of the run.
    pub noise: f64,
}

/// Runs the job that standard input describes.
pub fn load() -> Result<()> {
    let job: Job = serde_json::from_reader(std::io::stdin())?;
    let links = (0..job.connections).map(|index| Link::ready(&job, index)).collect::<Result<Vec<_>>>()?;
    let sessions: Vec<String> = links.iter().filter_map(|(link, _)| link.session.clone()).collect();
    let gate = Arc::new(Gate::default());
    let (ended, wait) = mpsc::channel();
    let (rate, gates) = (job.rate, gate.clone());
    thread::spawn(move || {
        ended.send(match rate {
            Some(rate) => open(links, rate, &gates),
            None => closed(links, &gates),
        })
    });
    thread::sleep(job.warm);
    gate.measuring.store(true, Relaxed);
    let (begin, before) = (Instant::now(), Spent::now(job.gateway, &job.ours)?);
    thread::sleep(job.window);
    let (seconds, after) = (begin.elapsed().as_secs_f64(), Spent::now(job.gateway, &job.ours)?);
    gate.measuring.store(false, Relaxed);
    gate.done.store(true, Relaxed);
    let mut took = wait.recv_timeout(PATIENCE).map_err(|_| "no answer within ten seconds")??;
    link::end(&job.peer, &sessions)?;
    let calls = took.len() as f64;
    let outcome = Outcome {
        rate: calls / seconds,
        p50: quantile(&mut took, 0.50)?,
        p99: quantile(&mut took, 0.99)?,
        cpu: (after.gateway - before.gateway) / 1e3 / calls,
        noise: ((after.others - before.others) / 1e9 / seconds).max(0.0),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Whether the window is open, and whether all is over.
#[derive(Default)]
struct Gate {
    measuring: AtomicBool,
    done: AtomicBool,
}

fn closed(links: Vec<(Link, Exchange)>, gate: &Arc<Gate>) -> Result<Vec<u32>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let loops: Vec<_> = links.into_iter().map(|(link, exchange)| tokio::spawn(repeat(link, exchange, gate.clone()))).collect();
        let mut took = Vec::new();
        for each in loops {
            took.extend(each.await??);
        }
        Ok(took)
    })
}

async fn repeat(link: Link, mut exchange: Exchange, gate: Arc<Gate>) -> Result<Vec<u32>> {
    let Link { stream, mut input, .. } = link;
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let mut took = Vec::with_capacity(1 << 16);
    while !gate.done.load(Relaxed) {
        let begin = Instant::now();
        stream.write_all(exchange.request()).await?;
        loop {
            if let Some(answer) = frame(&input)? {
                exchange.check(&answer)?;
                let used = answer.used;
                input.drain(..used);
                break;
            }
            input.reserve(SPACE);
            if stream.read_buf(&mut input).await? == 0 {
                return Err("the connection was closed".into());
            }
        }
        if gate.measuring.load(Relaxed) {
            took.push(nanoseconds(begin.elapsed()));
        }
    }
    Ok(took)
}

fn open(links: Vec<(Link, Exchange)>, rate: u32, gate: &Arc<Gate>) -> Result<Vec<u32>> {
    let (apart, connections) = (Duration::from_secs(1) / rate, links.len() as u32);
    let begin = Instant::now();
    let paced = links.into_iter().enumerate().map(|(index, (link, exchange))| {
        let (gate, due, every) = (gate.clone(), begin + apart * index as u32, apart * connections);
        thread::spawn(move || pace(link, exchange, &gate, due, every))
    });
    let paced: Vec<_> = paced.collect();
    let mut took = Vec::new();
    for each in paced {
        took.extend(each.join().map_err(|_| "a connection's thread panicked")??);
    }
    Ok(took)
}

fn pace(mut link: Link, mut exchange: Exchange, gate: &Gate, mut due: Instant, every: Duration) -> Result<Vec<u32>> {
    let mut took = Vec::new();
    while !gate.done.load(Relaxed) {
        // Oversleeping is this machine's timer, not the gateway: on time, the clock starts at the write.
        let early = due.checked_duration_since(Instant::now());
        let begin = early.map_or(due, |early| {
            thread::sleep(early);
            Instant::now()
        });
        link.stream.write_all(exchange.request())?;
        link.receive(|answer| exchange.check(answer))?;
        if gate.measuring.load(Relaxed) {
            took.push(nanoseconds(begin.elapsed()));
        }
        due += every;
    }
    Ok(took)
}

fn nanoseconds(elapsed: Duration) -> u32 {
    elapsed.as_nanos().try_into().unwrap_or(u32::MAX)
}

/// In microseconds.
fn quantile(took: &mut [u32], share: f64) -> Result<f64> {
    let index = (took.len() as f64 * share) as usize;
    if took.is_empty() {
        return Err("no answer within the window".into());
    }
    Ok(f64::from(*took.select_nth_unstable(index).1) / 1e3)
}
