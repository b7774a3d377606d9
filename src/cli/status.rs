//! `doorward status`: how a running gateway stands, in one screen.
//!
//! Owns: what is asked of the gateway, and how it is shown. Leaves to others: the numbers themselves.

mod counted;
mod objectives;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::running::Running;
use super::{Context, Failure, table};
use crate::listen::admin::{self, Command};
use crate::upstream::{Load, Standing};

/// Arguments of `doorward status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  doorward status\n  doorward status --json | jq '.upstreams[] | select(.breaker.state != \"closed\")'")]
pub struct Args {}

/// How everything stands, as it goes over the socket and to programs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Status {
    policy_version: String,
    calls_under_way: usize,
    freezes: usize,
    audit: Audit,
    webhook: Option<Webhook>,
    upstreams: Vec<Upstream>,
    objectives: Vec<objectives::Objective>,
    /// What runs as a child, and how it is confined.
    processes: Vec<Value>,
    /// The loop rules, and what they have done.
    loops: Vec<counted::Loop>,
    /// What is spent of budgets, the fullest first.
    budgets: Vec<counted::Budget>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Audit {
    open: bool,
    records: u64,
    refused: u64,
    running: u64,
    covered: u64,
    indexed: u64,
    index_failing: Option<String>,
}

/// How the webhook stands that is told of calls which wait for people.
#[derive(Debug, Serialize, Deserialize)]
struct Webhook {
    host: String,
    waiting: u64,
    taken: u64,
    failed: u64,
    failing: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Upstream {
    upstream: String,
    state: String,
    calls: usize,
    places: usize,
    waiting: usize,
    queue: usize,
    breaker: Breaker,
    retries: Retries,
    /// Its tools that failed at their last call, by the names of policies.
    tools: Vec<Tool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tool {
    tool: String,
    breaker: Breaker,
}

#[derive(Debug, Serialize, Deserialize)]
struct Breaker {
    /// `closed`, `open` or `half_open`.
    state: String,
    /// Failures in a row that count, while it is closed.
    failures: u32,
    /// Until one call may try, while it is open.
    retry_in_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Retries {
    made: u64,
    refused: u64,
    left: u32,
}

/// Asks the running gateway and prints what it says.
pub async fn run(context: &Context, _: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let folder: &std::path::Path = config.state.as_ref();
    let Some(answer) = admin::ask(folder, &Command::Status).await? else {
        return Err(Failure::Other(format!("no gateway runs on {}; start one with `doorward serve`", folder.display())));
    };
    let not_ours = |_| Failure::Other(format!("the gateway answers: {}", table::safe(answer.trim())));
    let status: Status = serde_json::from_str(&answer).map_err(not_ours)?;
    if context.json {
        println!("{}", serde_json::to_string(&status).map_err(Failure::other)?);
    } else {
        print!("{}", shown(&status));
    }
    Ok(0)
}

fn shown(status: &Status) -> String {
    let (audit, mut out) = (&status.audit, String::new());
    let takes = if audit.open { "takes calls" } else { "TAKES NO CALLS" };
    out += &format!("policy     {}\n", table::safe(&status.policy_version));
    out += &format!("calls      {} under way, {} freezes in force\n", status.calls_under_way, status.freezes);
    out += &format!(
        "audit log  {takes}: {} records, {} covered by a checkpoint, {} in the index",
        audit.records, audit.covered, audit.indexed
    );
    out += &if audit.refused > 0 { format!(", {} COULD NOT BE STORED\n", audit.refused) } else { "\n".to_owned() };
    if let Some(why) = &audit.index_failing {
        out += &format!("           the index fails: {}\n", table::safe(why));
    }
    if let Some(Webhook { host, waiting, failed, failing, .. }) = &status.webhook {
        out += &format!("webhook    {}: {waiting} messages wait, {failed} attempts failed", table::safe(host));
        out += &failing.as_ref().map_or_else(String::new, |why| format!("; it fails: {}", table::safe(why)));
        out.push('\n');
    }
    out.push('\n');
    let rows: Vec<_> = status.upstreams.iter().map(row).collect();
    out += &table::render(&["UPSTREAM", "CALLS", "WAITING", "BREAKER", "RETRIES", "STATE"], &rows);
    let failing = status.upstreams.iter().flat_map(|upstream| &upstream.tools);
    let failing: Vec<_> = failing.map(|tool| vec![tool.tool.clone(), tool.breaker.shown()]).collect();
    if !failing.is_empty() {
        out.push('\n');
        out += &table::render(&["TOOL", "BREAKER"], &failing);
    }
    out += &objectives::shown(&status.objectives);
    let text = |value: &Value| table::safe(&value.as_str().map_or_else(|| value.to_string(), str::to_owned)).to_string();
    let process = |one: &Value| ["upstream", "program", "sandbox", "granted"].map(|field| text(&one[field])).to_vec();
    let processes: Vec<_> = status.processes.iter().map(process).collect();
    if !processes.is_empty() {
        out.push('\n');
        out += &table::render(&["PROCESS OF", "PROGRAM", "SANDBOX", "GRANTED"], &processes);
    }
    out + &*counted::shown(&status.loops, &status.budgets)
}

fn row(upstream: &Upstream) -> Vec<String> {
    let Retries { made, refused, left } = upstream.retries;
    let retries = if refused > 0 { format!("{made}, {refused} over budget, {left} left") } else { format!("{made}, {left} left") };
    vec![
        upstream.upstream.clone(),
        format!("{} of {}", upstream.calls, upstream.places),
        format!("{} of {}", upstream.waiting, upstream.queue),
        upstream.breaker.shown(),
        retries,
        upstream.state.clone(),
    ]
}

impl Breaker {
    fn of(standing: Standing) -> Self {
        let (failures, retry_in_ms) = match standing {
            Standing::Closed { failures } => (failures, None),
            Standing::Open { retry_in } => (0, Some(u64::try_from(retry_in.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))),
            Standing::HalfOpen => (0, None),
        };
        Self { state: standing.as_str().to_owned(), failures, retry_in_ms }
    }

    fn shown(&self) -> String {
        match (self.retry_in_ms, self.failures) {
            (Some(0), _) => format!("{}, the next call tries", self.state),
            (Some(wait), _) => format!("{} for {wait} ms", self.state),
            (None, 0) => self.state.clone(),
            (None, 1) => format!("{}, 1 failure", self.state),
            (None, failures) => format!("{}, {failures} failures in a row", self.state),
        }
    }
}

/// How the gateway of this process stands.
pub(super) fn of(running: &Running) -> Status {
    let gateway = running.service.gateway();
    let health = running.assembly.shared().audit.log().health();
    let webhook = gateway.shared().approvals.webhook().map(|to| {
        let told = gateway.shared().told.now();
        Webhook { host: to.host(), waiting: told.waiting, taken: told.taken, failed: told.failed, failing: told.failing }
    });
    let index = running.assembly.shared().indexed.standing().borrow().clone();
    let (loops, budgets) = counted::of(gateway.limits());
    Status {
        policy_version: gateway.policy().version().to_owned(),
        calls_under_way: running.service.calls_under_way(),
        freezes: gateway.shared().freezes.count(),
        audit: Audit {
            open: health.is_open,
            records: health.records,
            refused: health.refused,
            running: health.running,
            covered: health.covered,
            indexed: index.records,
            index_failing: index.failing,
        },
        webhook,
        upstreams: gateway.loads().into_iter().map(|(id, state, load)| upstream(&id, state.to_string(), load)).collect(),
        objectives: gateway.objectives().into_iter().map(Into::into).collect(),
        processes: gateway.processes(),
        loops,
        budgets,
    }
}

fn upstream(id: &str, state: String, load: Load) -> Upstream {
    let Load { calls, places, waiting, queue, breaker, tools, retries } = load;
    let tool = |(name, standing)| Tool { tool: format!("{id}__{name}"), breaker: Breaker::of(standing) };
    Upstream {
        upstream: id.to_owned(),
        state,
        calls,
        places,
        waiting,
        queue,
        breaker: Breaker::of(breaker),
        retries: Retries { made: retries.made, refused: retries.refused, left: retries.left },
        tools: tools.into_iter().map(tool).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_breaker_says_what_it_does_and_until_when() {
        let shown = |standing| Breaker::of(standing).shown();
        assert_eq!(shown(Standing::Closed { failures: 0 }), "closed");
        assert_eq!(shown(Standing::Closed { failures: 4 }), "closed, 4 failures in a row");
        assert_eq!(shown(Standing::Open { retry_in: Duration::from_micros(1_200_001) }), "open for 1201 ms");
        assert_eq!(shown(Standing::Open { retry_in: Duration::ZERO }), "open, the next call tries");
        assert_eq!(shown(Standing::HalfOpen), "half_open");
    }
}
