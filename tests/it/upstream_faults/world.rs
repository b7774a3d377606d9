//! The gateway in front of all servers of one way, the others who call a healthy one all the time, and what the records say in the end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::Way;
use super::row::{Breaker, Faulty, Line, Row, definitions};
use crate::support::records::ends;
use crate::support::{Client, Serving, Site, Upstream, soon, until};

/// Rows that are driven at once: most of a row is waiting.
const AT_ONCE: usize = 8;
/// How long an answer is waited for where it does not come, and where it does.
const TIMEOUTS: (u32, u32) = (300, 30_000);
/// How often each of the others calls.
const PACE: Duration = Duration::from_millis(40);

pub struct World {
    pub site: Site,
    pub gateway: Serving,
    pub others: Others,
}

impl World {
    pub async fn status(&self) -> Value {
        let done = self.site.run(&["status", "--json"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        done.json()
    }
}

/// Other agents that call the healthy server, one call after the other.
pub struct Others {
    /// How long each call took that went well, and what the rest were told.
    told: watch::Sender<(Vec<Duration>, Vec<String>)>,
    stop: CancellationToken,
}

impl Others {
    fn start(agents: impl IntoIterator<Item = Client>) -> Self {
        let others = Self { told: watch::Sender::new((Vec::new(), Vec::new())), stop: CancellationToken::new() };
        for agent in agents {
            let (told, stop) = (others.told.clone(), others.stop.clone());
            tokio::spawn(async move {
                let mut pace = interval(PACE);
                while !stop.is_cancelled() {
                    pace.tick().await;
                    let since = Instant::now();
                    let answer = agent.call("well__echo", json!({})).await;
                    told.send_modify(|(well, ill)| match answer.code().as_str() {
                        "ok" => well.push(since.elapsed()),
                        _ => ill.push(answer.text()),
                    });
                }
            });
        }
        others
    }

    /// How many calls went well.
    pub fn went(&self) -> usize {
        self.told.borrow().0.len()
    }

    /// Waits until so many have gone well.
    pub async fn go_on(&self, calls: usize) {
        let mut told = self.told.subscribe();
        drop(soon("a call of the others", told.wait_for(|(well, _)| well.len() >= calls)).await.unwrap());
    }

    /// Ends them; what was told to them that is not well.
    fn end(&self) -> Vec<String> {
        self.stop.cancel();
        self.told.borrow().1.clone()
    }

    /// The time in which half of the calls, and in which 99 of 100 were answered, in milliseconds.
    fn times(&self) -> (u128, u128) {
        let mut times = self.told.borrow().0.clone();
        times.sort_unstable();
        let at =
            |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).map_or(0, Duration::as_millis);
        (at(50), at(99))
    }
}

/// Drives all rows of a way and prints them; what does not hold.
pub async fn run(name: &str, way: Way, rows: &[(&'static str, (&'static str, Breaker))]) -> Vec<String> {
    let healthy = Upstream::start().await;
    let mut site = Site::empty().upstream("well", &healthy);
    let mut policy = "p, W, role:any, well__*, reversible, -, allow\n".to_owned();
    let mut servers = Vec::new();
    for (number, (fault, (told, breaker))) in rows.iter().enumerate() {
        let id = format!("f{number:02}");
        let server = Faulty::start(fault, way, site.path(&format!("kept/{id}"))).await;
        site = site.manifest(&id, &manifest(&server.transport(way), told, *breaker)).pinned(&id, &definitions());
        writeln!(policy, "p, R{number}, role:any, {id}__*, reversible, -, allow").unwrap();
        servers.push((id, server, *told, *breaker));
    }
    let site = site.policy(&policy);
    let gateway = site.serve().await;
    let others = Others::start([gateway.client(), gateway.other()]);
    let world = Arc::new(World { site, gateway, others });
    let (mut lines, mut wrong) = LocalSet::new().run_until(drive(&world, servers)).await;
    wrong.extend(world.others.end());
    until("all places are free", async || is_free(&world.status().await).then_some(())).await;
    wrong.extend(at_odds(&world.site, &lines).await);
    print(name, &mut lines, &world);
    wrong
}

fn manifest(transport: &Value, told: &str, breaker: Breaker) -> String {
    let wait = if told.starts_with("upstream_timeout") { TIMEOUTS.0 } else { TIMEOUTS.1 };
    let grace = if breaker == Breaker::Left { 0 } else { 60_000 };
    let timeouts = format!("connect_grace_ms: {grace}, timeout_ms: {}", TIMEOUTS.1);
    let of = |tier: &str| format!("{{ tier: {tier}, timeout_ms: {wait}, fields: {{ /n: plain }} }}");
    let (act, look) = (of("reversible"), of("read"));
    let tools = format!("  act: {act}\n  look: {look}\n  echo: {{ tier: read, fields: {{ /n: plain }} }}\n");
    format!("transport: {transport}\ndefaults: {{ {timeouts}, concurrency: 4, queue: 4 }}\ntools:\n{tools}")
}

/// The rows are driven by one thread, which mostly waits; servers and clients have the others.
async fn drive(world: &Arc<World>, servers: Vec<(String, Faulty, &'static str, Breaker)>) -> (Vec<Line>, Vec<String>) {
    let (mut under_way, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (id, server, told, breaker) in servers {
        let row = Row { world: Arc::clone(world), id, told, breaker, server, calls: AtomicUsize::new(0) };
        let at_once = Arc::clone(&at_once);
        under_way.spawn_local(async move {
            let _one = at_once.acquire_owned().await.unwrap();
            row.run().await
        });
    }
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    while let Some(ended) = under_way.join_next().await {
        match ended {
            Ok(line) => lines.push(line),
            Err(panic) => wrong.push(panic.to_string()),
        }
    }
    (lines, wrong)
}

/// Whether no server has a call under way, or one that waits.
fn is_free(status: &Value) -> bool {
    status["upstreams"].as_array().unwrap().iter().all(|up| up["calls"] == 0 && up["waiting"] == 0)
}

/// Where the servers' own journals and the records do not agree.
async fn at_odds(site: &Site, lines: &[Line]) -> Vec<String> {
    let records = until("the end of every intent", async || {
        let records = site.records();
        ends(&records).values().all(|ends| !ends.is_empty()).then_some(records)
    })
    .await;
    let verified = site.run(&["audit", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let twice = ends(&records).into_iter().filter(|(_, ends)| ends.len() != 1);
    let mut wrong: Vec<String> = twice.map(|(intent, ends)| format!("the intent {intent:?} has the ends {ends:?}")).collect();
    // How often each call may have reached its server, as far as is on record.
    let mut attempts = BTreeMap::<String, usize>::new();
    let mut named = BTreeMap::<u64, String>::new();
    for record in &records {
        match (record["kind"].as_str(), record["args"]["n"].as_str()) {
            (Some("intent"), Some(n)) => {
                named.insert(record["seq"].as_u64().unwrap(), n.to_owned());
                *attempts.entry(n.to_owned()).or_default() += 1;
            }
            (Some("round"), _) if record["action"] == "resent" => {
                let n = record["intent_seq"].as_u64().and_then(|seq| named.get(&seq)).unwrap();
                *attempts.entry(n.clone()).or_default() += 1;
            }
            _ => {}
        }
    }
    for line in lines {
        for (n, times) in &line.effects {
            let recorded = attempts.get(n).copied().unwrap_or(0);
            if *times > recorded {
                wrong.push(format!("{}: {n} was received {times} times and is on record {recorded} times", line.fault));
            }
            if is_effect(n) && *times > 1 {
                wrong.push(format!("{}: {n} happened {times} times", line.fault));
            }
        }
    }
    wrong
}

/// Whether it named a call of the tool that changes something.
fn is_effect(n: &str) -> bool {
    n.contains(".act.")
}

fn print(name: &str, lines: &mut [Line], world: &World) {
    lines.sort_by(|one, other| one.id.cmp(&other.id));
    let (half, most) = world.others.times();
    let calls = world.others.went();
    let mut text = format!("\n{name}: the others made {calls} calls, half of them in {half} ms and 99 of 100 in {most} ms\n");
    let head = ["fault", "told", "breaker", "received", "twice", "others", "took"];
    writeln!(text, "{:<16} {:<34} {:<22} {:>8} {:>5} {:>6} {:>7}", head[0], head[1], head[2], head[3], head[4], head[5], head[6]).unwrap();
    for line in lines {
        let Line { fault, told, breaker, effects, others, seconds, .. } = line;
        let twice = effects.iter().filter(|(n, times)| is_effect(n) && **times > 1).count();
        let received: usize = effects.values().sum();
        writeln!(text, "{fault:<16} {told:<34} {breaker:<22} {received:>8} {twice:>5} {others:>6} {seconds:>5.1} s").unwrap();
    }
    println!("{text}");
}
