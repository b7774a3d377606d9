//! What is measured: the contestants of a run and the shapes of load, taken in turn.
//!
//! Rounds alternate between the contestants, so what the machine does meanwhile falls on all of them; a figure is the median
//! over the rounds. Each measurement is one load process.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    Era, Result,
    client::{Job, Outcome},
    exchange::{Ask, Peer},
    link,
    process::Running,
    tools,
};

/// Somebody who answers calls.
pub struct Contestant {
    /// As the table calls it.
    pub name: String,
    /// Where it is.
    pub peer: Peer,
    /// The root of the process tree that is charged; none for the upstream itself.
    pub gateway: Option<u32>,
    /// The upstream that serves it.
    pub upstream: u32,
}

/// A server that has answered a call.
pub struct Server {
    /// The process.
    pub running: Running,
    /// Where and as whom to call it.
    pub peer: Peer,
    /// From its start to its first answered call.
    pub first_answer: Duration,
}

impl Server {
    /// Has a server that just started answer one call.
    pub fn new(running: Running, key: Option<String>, prefix: &str) -> Result<Server> {
        let peer = Peer { address: running.address, key, prefix: prefix.into() };
        link::ask_once(&peer)?;
        Ok(Server { first_answer: running.begin.elapsed(), running, peer })
    }

    /// Starts this program again as one of its servers.
    pub fn start(words: &[&str]) -> Result<Server> {
        let running = Running::start(Command::new(env::current_exe()?).args(words), Duration::from_secs(10))?;
        Server::new(running, None, "")
    }

    /// This server before that upstream, as it enters a table.
    pub fn contestant(&self, name: &str, upstream: &Server) -> Contestant {
        let (gateway, upstream) = (self.running.id(), upstream.running.id());
        Contestant { name: name.into(), peer: self.peer.clone(), gateway: (gateway != upstream).then_some(gateway), upstream }
    }
}

/// One shape of load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How agents speak.
    pub era: Era,
    /// What they ask.
    pub ask: Ask,
    /// How many connections they keep.
    pub connections: usize,
    /// Calls a second, or as fast as answered.
    pub rate: Option<u32>,
}

impl Shape {
    /// In words, for the table.
    pub fn label(&self) -> String {
        let ask = match self.ask {
            Ask::Echo => "tools/call",
            Ask::Large => "16 KiB result",
            Ask::Stream => "event stream",
            Ask::List => "tools/list, 52 tools",
        };
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate}/s"));
        let plural = if self.connections == 1 { "" } else { "s" };
        format!("{ask}, {}, {} connection{plural}{rate}", self.era.year(), self.connections)
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Measurements of each contestant.
    pub rounds: usize,
    /// Load before each window.
    pub warm: Duration,
    /// The window.
    pub window: Duration,
}

/// The shapes of a usual run.
pub fn shapes(eras: &[Era], connections: &[usize], all: bool) -> Vec<Shape> {
    let usual = Shape { era: Era::Modern, ask: Ask::Echo, connections: 16, rate: None };
    let mut shapes = Vec::new();
    for era in eras {
        shapes.extend(connections.iter().map(|connections| Shape { era: *era, connections: *connections, ..usual }));
    }
    let Some(era) = eras.last().copied().filter(|_| all) else { return shapes };
    shapes.push(Shape { era, rate: Some(2000), ..usual });
    shapes.extend([Ask::List, Ask::Large, Ask::Stream].map(|ask| Shape { era, ask, ..usual }));
    shapes
}

/// Measures each contestant under one shape: medians over the rounds, in the order of `contestants`.
pub fn measure(contestants: &[Contestant], shape: Shape, pace: Pace) -> Result<Vec<Outcome>> {
    let mut rounds = vec![Vec::new(); contestants.len()];
    for _ in 0..pace.rounds {
        for (contestant, outcomes) in contestants.iter().zip(&mut rounds) {
            let once = || once(contestant, shape, pace).map_err(|error| format!("{}, {}: {error}", contestant.name, shape.label()));
            let outcome = once()?;
            // Somebody else was busy: once more, and the quieter of the two counts.
            let again = if outcome.noise > NOISY { once()? } else { outcome };
            outcomes.push(if again.noise < outcome.noise { again } else { outcome });
        }
    }
    Ok(rounds.iter().map(|outcomes| median(outcomes)).collect())
}

/// One load process, from start to outcome.
pub fn once(contestant: &Contestant, shape: Shape, pace: Pace) -> Result<Outcome> {
    let job = Job {
        peer: contestant.peer.clone(),
        era: shape.era,
        ask: shape.ask,
        tools: tools::USUAL,
        connections: shape.connections,
        rate: shape.rate,
        warm: pace.warm,
        window: pace.window,
        gateway: contestant.gateway,
        ours: vec![contestant.upstream, std::process::id()],
    };
    let mut load = Command::new(env::current_exe()?).arg("load").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // Dropped at once: the end of input is what the load waits for.
    load.stdin.take().ok_or("no standard input")?.write_all(&serde_json::to_vec(&job)?)?;
    let ended = load.wait_with_output()?;
    if !ended.status.success() {
        return Err("the load failed, as printed above".into());
    }
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// The median of each figure over the quiet rounds, or over all where none was.
fn median(outcomes: &[Outcome]) -> Outcome {
    let none_quiet = outcomes.iter().all(|outcome| outcome.noise > NOISY);
    let of = |figure: fn(&Outcome) -> f64| {
        let counted = outcomes.iter().filter(|outcome| none_quiet || outcome.noise <= NOISY);
        let mut figures: Vec<f64> = counted.map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Outcome { rate: of(|o| o.rate), p50: of(|o| o.p50), p99: of(|o| o.p99), cpu: of(|o| o.cpu), noise: of(|o| o.noise) }
}

/// Cores of other work above which a measurement is taken again, and a figure not judged.
pub const NOISY: f64 = 0.2;
