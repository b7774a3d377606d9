//! The tables, and the budgets that figures are held against. A budget is printed, never asserted.

use super::{
    client::Outcome,
    exchange::Ask,
    run::{Contestant, NOISY, Shape},
};

/// The name of the pass-through proxy.
pub const FLOOR: &str = "floor";
/// The name of the gateway under test.
pub const DOORWARD: &str = "doorward";

/// Prints the heading of the main table.
pub fn heading() {
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>6}  budget",
        "", "calls/s", "p50 us", "p99 us", "+p50 us", "+p99 us", "CPU us", "x floor", "noise"
    );
}

/// Prints one shape: a line for each contestant, the first of whom is the upstream itself.
pub fn shape(shape: Shape, contestants: &[Contestant], outcomes: &[Outcome]) {
    println!("{}", shape.label());
    let floor = contestants.iter().position(|contestant| contestant.name == FLOOR).map(|index| outcomes[index].cpu);
    for (contestant, outcome) in contestants.iter().zip(outcomes) {
        let direct = contestant.gateway.is_none();
        let figure = |figure: f64| if direct { String::new() } else { format!("{figure:.1}") };
        let (added50, added99) = (outcome.p50 - outcomes[0].p50, outcome.p99 - outcomes[0].p99);
        let ratio = floor.filter(|_| !direct).map(|floor| outcome.cpu / floor);
        let noisy = outcome.noise > NOISY || outcomes[0].noise > NOISY;
        let budget = match contestant.name.as_str() {
            _ if noisy && !direct => "too noisy to judge".into(),
            DOORWARD => budgets(shape, outcome, added50, added99, ratio),
            FLOOR => format!("{:.2} x the reference machine", outcome.cpu / reference(shape)),
            _ => String::new(),
        };
        println!(
            "  {:<8} {:>9.0} {:>9.1} {:>9.1} {:>9} {:>9} {:>8} {:>8} {:>6.2}  {budget}",
            contestant.name,
            outcome.rate,
            outcome.p50,
            outcome.p99,
            figure(added50),
            figure(added99),
            figure(outcome.cpu),
            ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            outcome.noise,
        );
    }
}

fn budgets(shape: Shape, outcome: &Outcome, added50: f64, added99: f64, ratio: Option<f64>) -> String {
    match (shape.ask, shape.rate, shape.connections) {
        (Ask::Echo, Some(_), _) => at_most("+p99 us", added99, 120.0),
        (Ask::Echo, None, 1) => [at_most("CPU us", outcome.cpu, 90.0), at_most("+p50 us", added50, 70.0)].join(", "),
        (Ask::Echo, None, 16) => ratio.map_or(String::new(), |ratio| at_most("x floor", ratio, 2.2)),
        (Ask::Echo, None, 64) if outcome.rate >= 35_000.0 => "calls/s >= 35000 met".into(),
        (Ask::Echo, None, 64) => "calls/s >= 35000 MISSED".into(),
        (Ask::List, ..) => at_most("CPU us", outcome.cpu, 100.0),
        _ => String::new(),
    }
}

/// What the floor cost on the machine that the budgets were set on, in CPU microseconds a call.
fn reference(shape: Shape) -> f64 {
    match (shape.ask, shape.rate, shape.connections) {
        (Ask::Echo, Some(_), _) => 59.0,
        (Ask::Echo, None, 1) => 57.0,
        (Ask::Echo, None, 64..) => 14.7,
        (Ask::Echo | Ask::Stream, ..) => 15.6,
        (Ask::List, ..) => 65.0,
        (Ask::Large, ..) => 28.0,
    }
}

/// What a process needs beside CPU time.
pub struct Footprint {
    /// From start to the first answered call, in milliseconds: the median of several starts.
    pub start: f64,
    /// Resident memory after the first call, in MiB.
    pub idle: f64,
    /// Resident memory at its peak over the whole run, in MiB.
    pub peak: f64,
}

/// Prints start-up and memory, a line each.
pub fn footprints(rows: &[(&str, Footprint)]) {
    println!("\n{:<10} {:>9} {:>9} {:>9}  budget", "", "start ms", "idle MiB", "peak MiB");
    for (name, row) in rows {
        let budget = [at_most("start ms", row.start, 20.0), at_most("idle MiB", row.idle, 15.0), at_most("peak MiB", row.peak, 30.0)];
        let budget = if *name == DOORWARD { budget.join(", ") } else { String::new() };
        println!("  {name:<8} {:>9.1} {:>9.1} {:>9.1}  {budget}", row.start, row.idle, row.peak);
    }
}

fn at_most(name: &str, figure: f64, most: f64) -> String {
    format!("{name} <= {most} {}", if figure <= most { "met" } else { "MISSED" })
}
