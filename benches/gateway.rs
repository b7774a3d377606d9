//! What a call through Doorward costs, beside the bare upstream and a bare pass-through proxy of the same run.
//!
//! `cargo bench --bench gateway -- --help` lists the options; `benches/README.md` explains the figures. A figure is never a failure;
//! a wrong answer is.

mod harness;

use std::{process::ExitCode, thread, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use harness::{
    Era, Result, client,
    doorward::Setup,
    exchange::Ask,
    floor, process,
    report::{self, DOORWARD, FLOOR, Footprint},
    run::{self, Contestant, Pace, Server, Shape},
    scale, sessions, shed, siege,
    upstream::{self, Upstream},
};

/// Measures Doorward beside a bare upstream and a bare pass-through proxy.
#[derive(Parser)]
#[command(name = "cargo bench --bench gateway --", args_conflicts_with_subcommands = true)]
struct Options {
    /// Short rounds: the whole table within a minute.
    #[arg(long)]
    quick: bool,
    /// Measurements of each contestant and shape; the median counts. [default: 3, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one measurement. [default: 3, quick: 0.7, profile: 60]
    #[arg(long)]
    seconds: Option<f64>,
    /// Only this contestant, and the bare upstream.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Only agents of this era. [default: both]
    #[arg(long, value_enum)]
    era: Option<Era>,
    /// Only closed-loop calls over so many connections. [default: 1,16,64, then the other shapes]
    #[arg(long, value_delimiter = ',')]
    conns: Option<Vec<usize>>,
    /// How Doorward stores the records of these calls.
    #[arg(long, default_value = "write", value_parser = ["write", "sync"])]
    durability: String,
    /// The newest era of the upstream.
    #[arg(long, value_enum, default_value = "2026")]
    upstream: Era,
    /// Compare Doorward with itself: many tools, rows and agents.
    #[arg(long)]
    scale: bool,
    /// What 10,000 idle sessions and 1,000 open streams hold in memory.
    #[arg(long)]
    sessions: bool,
    /// What a call costs that is turned away because there is too much to do.
    #[arg(long)]
    shed: bool,
    /// What good callers see beside 2,000 hostile connections and under attack.
    #[arg(long)]
    siege: bool,
    /// Print a process id and keep it under load, for a profiler.
    #[arg(long)]
    profile: bool,
    /// Given by `cargo bench`, and not by `cargo test`, which should not wait for this.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Doorward,
    Floor,
}

/// What this program is in the processes that it starts.
#[derive(Subcommand)]
#[command(hide = true)]
enum Part {
    /// The MCP server behind everything.
    #[command(hide = true)]
    Upstream(Upstream),
    /// The pass-through proxy.
    #[command(hide = true)]
    Floor { upstream: hyper::Uri },
    /// The load generator.
    #[command(hide = true)]
    Load,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.part {
        Some(part) => play(part),
        None if !options.bench => return ExitCode::SUCCESS,
        None if options.scale => scale::run(options.eras()[0], options.pace(), &options.durability),
        None if options.sessions => sessions::run(&options.durability),
        None if options.shed => shed::run(options.pace(), &options.durability),
        None if options.siege => siege::run(options.pace(), &options.durability),
        None => compare(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(part: &Part) -> Result<()> {
    process::follow_parent()?;
    match part {
        Part::Upstream(served) => upstream::serve(served),
        Part::Floor { upstream } => floor::serve(upstream),
        Part::Load => client::load(),
    }
}

impl Options {
    fn pace(&self) -> Pace {
        let seconds = self.seconds.unwrap_or(if self.profile {
            60.0
        } else if self.quick {
            0.7
        } else {
            3.0
        });
        let warm = Duration::from_millis(if self.quick { 200 } else { 700 });
        Pace { rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1), warm, window: Duration::from_secs_f64(seconds) }
    }

    fn eras(&self) -> Vec<Era> {
        self.era.map_or_else(|| vec![Era::Legacy, Era::Modern], |era| vec![era])
    }

    fn wants(&self, part: Only) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Everybody who is measured, and what must live as long.
struct Stage {
    contestants: Vec<Contestant>,
    gateways: Vec<(&'static str, Server, Footprint)>,
    upstream: Server,
    _folder: Option<Setup>,
}

fn compare(options: &Options) -> Result<()> {
    let stage = set(options)?;
    if options.profile {
        return profile(options, &stage);
    }
    report::heading();
    for shape in run::shapes(&options.eras(), options.conns.as_deref().unwrap_or(&[1, 16, 64]), options.conns.is_none()) {
        let outcomes = run::measure(&stage.contestants, shape, options.pace())?;
        report::shape(shape, &stage.contestants, &outcomes);
    }
    let whole =
        |(name, server, footprint): (_, Server, Footprint)| Ok((name, Footprint { peak: server.running.memory("VmHWM")?, ..footprint }));
    report::footprints(&stage.gateways.into_iter().map(whole).collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// Starts the upstream and those who stand before it.
fn set(options: &Options) -> Result<Stage> {
    let upstream = Server::start(&["upstream", "--newest", options.upstream.year()])?;
    let address = upstream.peer.address;
    let contestants = vec![upstream.contestant("direct", &upstream)];
    let mut stage = Stage { contestants, gateways: Vec::new(), upstream, _folder: None };
    if options.wants(Only::Floor) {
        let target = format!("http://{address}/mcp");
        stage.add(FLOOR, || Server::start(&["floor", &target]))?;
    }
    if options.wants(Only::Doorward) {
        let folder = Setup::new(address, scale::SMALL, &options.durability)?;
        stage.add(DOORWARD, || folder.start())?;
        stage._folder = Some(folder);
    }
    Ok(stage)
}

impl Stage {
    /// Starts a gateway a few times, one after the other, and keeps the last.
    fn add(&mut self, name: &'static str, start: impl Fn() -> Result<Server>) -> Result<()> {
        let mut took = Vec::new();
        for _ in 1..STARTS {
            took.push(start()?.first_answer);
        }
        let server = start()?;
        took.push(server.first_answer);
        took.sort();
        // A moment for what start-up leaves to do after the first answer.
        thread::sleep(Duration::from_millis(200));
        let footprint = Footprint { start: took[STARTS / 2].as_secs_f64() * 1e3, idle: server.running.memory("VmRSS")?, peak: 0.0 };
        self.contestants.push(server.contestant(name, &self.upstream));
        self.gateways.push((name, server, footprint));
        Ok(())
    }
}

/// Keeps the last contestant under load while a profiler looks.
fn profile(options: &Options, stage: &Stage) -> Result<()> {
    let contestant = stage.contestants.last().ok_or("nobody to profile")?;
    let connections = options.conns.as_ref().and_then(|given| given.first()).copied().unwrap_or(16);
    let shape = Shape { era: options.eras()[0], ask: Ask::Echo, connections, rate: None };
    let id = contestant.gateway.ok_or("the upstream itself is not profiled")?;
    println!("{} is process {id}, under {} for {:?}", contestant.name, shape.label(), options.pace().window);
    let outcome = run::once(contestant, shape, options.pace())?;
    report::heading();
    report::shape(shape, std::slice::from_ref(contestant), &[outcome]);
    Ok(())
}

const STARTS: usize = 5;
