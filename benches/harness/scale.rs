//! Does cost grow with what there is to decide about? CPU time a call with 52 tools, 10 rows and one agent, beside the same gateway
//! with 10,000 tools, with 10,000 rows, with 1,000 agents, and with all of them.

use super::{
    Era, Result,
    doorward::{Setup, Size},
    exchange::Ask,
    report::{self, DOORWARD, Footprint},
    run::{self, Pace, Server, Shape},
    tools,
};

/// Starts a gateway of each size and measures them in turn.
pub fn run(era: Era, pace: Pace, durability: &str) -> Result<()> {
    let sizes = [("small", SMALL), ("tools", TOOLS), ("rows", ROWS), ("agents", AGENTS), ("all", ALL)];
    let started = sizes.iter().map(|(_, size)| start(*size, durability)).collect::<Result<Vec<_>>>()?;
    let contestants: Vec<_> = sizes.iter().zip(&started).map(|((name, _), each)| each.gateway.contestant(name, &each.upstream)).collect();
    let shape = Shape { era, ask: Ask::Echo, connections: 16, rate: None };
    let outcomes = run::measure(&contestants, shape, pace)?;
    println!("{DOORWARD}, {}", shape.label());
    println!("  {:<8} {:>7} {:>7} {:>7} {:>8} {:>8} {:>6}", "", "tools", "rows", "agents", "CPU us", "x small", "noise");
    for ((name, size), outcome) in sizes.iter().zip(&outcomes) {
        let ratio = outcome.cpu / outcomes[0].cpu;
        let (tools, rows, agents) = (size.tools, size.rows, size.agents + 1);
        println!("  {name:<8} {tools:>7} {rows:>7} {agents:>7} {:>8.1} {ratio:>8.2} {:>6.2}", outcome.cpu, outcome.noise);
    }
    let footprint = |each: &Started| -> Result<Footprint> {
        let start = each.gateway.first_answer.as_secs_f64() * 1e3;
        Ok(Footprint { start, idle: each.idle, peak: each.gateway.running.memory("VmHWM")? })
    };
    let rows = sizes.iter().zip(&started).map(|((name, _), each)| Ok((*name, footprint(each)?)));
    report::footprints(&rows.collect::<Result<Vec<_>>>()?);
    Ok(())
}

struct Started {
    upstream: Server,
    gateway: Server,
    idle: f64,
    _folder: Setup,
}

fn start(size: Size, durability: &str) -> Result<Started> {
    let upstream = Server::start(&["upstream", "--tools", &size.tools.to_string()])?;
    let folder = Setup::new(upstream.peer.address, size, durability)?;
    let gateway = folder.start()?;
    let idle = gateway.running.memory("VmRSS")?;
    Ok(Started { upstream, gateway, idle, _folder: folder })
}

/// The usual size.
pub const SMALL: Size = Size { tools: tools::USUAL, rows: 10, agents: 0 };
const TOOLS: Size = Size { tools: 10_000, ..SMALL };
const ROWS: Size = Size { rows: 10_000, ..SMALL };
const AGENTS: Size = Size { agents: 999, ..SMALL };
const ALL: Size = Size { tools: 10_000, rows: 10_000, agents: 999 };
