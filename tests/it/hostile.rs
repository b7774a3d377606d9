//! Requests and definitions that are made to break something: a seed makes 100,000 of them. Nothing crashes, nothing is forwarded, each answer is
//! one of ours, memory stays, and a good call is answered after each batch.
//!
//! `DOORWARD_HOSTILE_CASES=1000000` makes more, `DOORWARD_HOSTILE_SEED=7` others.

mod bodies;
mod heads;
mod random;
mod schemas;
mod wire;

use std::collections::BTreeMap;

use doorward::catalog::lock::Definition;
use doorward::error::Code;
use doorward::mcp::json;
use doorward::schema::{Formats, Schema};
use serde_json::{Value, json};

use self::bodies::Case;
use self::random::Random;
use crate::support::{Answer, Ask, Client, Serving, Site, Upstream};

/// Cases that go over one connection before a good call does.
const BATCH: usize = 64;
/// How much more memory the gateway may hold at the end, in KiB.
const GROWTH_KIB: u64 = 64 << 10;
/// What the library says by itself of heads that are none: no body, and its status alone.
const OF_THE_LIBRARY: [u16; 6] = [400, 408, 414, 431, 501, 505];
/// What is said in words where no MCP message is expected.
const IN_WORDS: [u16; 3] = [400, 404, 405];
/// What is said to a notification that means nothing here.
const ACCEPTED: u16 = 202;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A part of all cases, in percent.
fn cases(percent: usize) -> usize {
    setting("DOORWARD_HOSTILE_CASES", 100_000) * percent / 100
}

fn seed(part: u64) -> Random {
    Random::new(u64::try_from(setting("DOORWARD_HOSTILE_SEED", 1)).unwrap() << 8 | part)
}

/// The gateway under attack, and what is known of it.
struct World {
    upstream: Upstream,
    _site: Site,
    gateway: Serving,
    good: usize,
    before: Option<u64>,
}

impl World {
    async fn new() -> Self {
        Self::of(&[]).await
    }

    /// With these members of `listen`.
    async fn of(listen: &[&str]) -> Self {
        let upstream = Upstream::start().await;
        let site = listen.iter().fold(Site::of(&upstream), |site, member| site.listen(member));
        let gateway = site.serve().await;
        Self { upstream, _site: site, gateway, good: 0, before: None }
    }

    /// Resident memory of the gateway, in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.process())).expect("the gateway is gone");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn good_call(&self) -> Ask {
        self.gateway.client().signed(&Ask::call("up__echo", json!({ "text": "good" })))
    }

    /// Sends the cases and a good call behind them, and checks every answer.
    async fn attack(&mut self, client: &Client, cases: &[Case]) {
        let mut left: Vec<(&str, Vec<u8>)> = cases.iter().map(|case| (case.fault, client.signed(&case.ask).on_wire(false))).collect();
        let mut alone = false;
        while !left.is_empty() {
            let many = if alone { 1 } else { left.len() };
            let sent: Vec<_> = left[..many].iter().map(|(_, bytes)| bytes.clone()).collect();
            let answers = wire::pipelined(self.gateway.address, &sent).await;
            assert!(!answers.is_empty() || !alone, "{}: no answer to {}", left[0].0, String::from_utf8_lossy(&left[0].1));
            for (answer, (fault, bytes)) in answers.iter().zip(&left) {
                is_refused(answer).unwrap_or_else(|wrong| {
                    panic!("{fault}: {wrong}\n{} {}\n{}", answer.status, answer.text(), String::from_utf8_lossy(bytes))
                });
            }
            // What closes its connection takes the answers behind it along: they are asked for again.
            alone = answers.is_empty();
            left.drain(..answers.len());
        }
        self.goes_on().await;
    }

    /// A good call is answered, and is all that the server has got.
    async fn goes_on(&mut self) {
        let answers = wire::pipelined(self.gateway.address, &[self.good_call().on_wire(true)]).await;
        assert_eq!(answers.first().map(Answer::code).as_deref(), Some("ok"));
        self.good += 1;
        let calls = self.upstream.calls();
        let last = calls.last().map(|call| call.body.clone()).unwrap_or_default();
        assert_eq!(calls.len(), self.good, "something was forwarded; the last was {last}");
        if self.good == 4 {
            self.before = Some(self.memory());
        }
    }

    fn ends(&self) {
        let (before, after) = (self.before.unwrap(), self.memory());
        println!("{} batches; resident memory {before} KiB, then {after} KiB", self.good);
        assert!(after < before + GROWTH_KIB, "{before} KiB have become {after} KiB");
        assert!(!self.gateway.said().contains("panicked"), "{}", self.gateway.said());
    }
}

/// Whether an answer refuses, in the words of the table of errors.
fn is_refused(answer: &Answer) -> Result<(), String> {
    let body: Value = match serde_json::from_slice(&answer.body) {
        Ok(body) => body,
        Err(_) if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) && IN_WORDS.contains(&answer.status) => {
            return Ok(());
        }
        Err(_) if answer.body.is_empty() && (OF_THE_LIBRARY.contains(&answer.status) || answer.status == ACCEPTED) => return Ok(()),
        Err(error) => return Err(format!("the answer is not ours: {error}")),
    };
    let error = body.pointer("/error/data").or_else(|| body.pointer("/result/_meta/dev.doorward~1error"));
    let error = error.ok_or("it was let through")?;
    let said = error["code"].as_str().ok_or("an error without a code")?;
    let code = Code::ALL.iter().find(|code| code.facts().code == said).ok_or(format!("the code `{said}` is not in the table"))?;
    if *code == Code::Internal {
        return Err("the gateway is at fault".to_owned());
    }
    if error["effect"] != "none" || !error["message"].is_string() || !error["suggestion"].is_string() || !error["invocation"].is_string() {
        return Err("a member of the error is missing or wrong".to_owned());
    }
    let known = code.facts().http == answer.status || code.other_statuses().iter().any(|(status, _)| *status == answer.status);
    let is_result = body.get("result").is_some() && answer.status == 200;
    if known || is_result || (answer.status == 400 && code.facts().http == 200) {
        Ok(())
    } else {
        Err(format!("`{said}` has no status {}", answer.status))
    }
}

/// Attacks with the cases in batches.
async fn attack(part: u64, cases: usize, next: impl Fn(&mut Random) -> Case) {
    let (mut world, mut random, mut faults) = (World::new().await, seed(part), BTreeMap::<&str, usize>::new());
    let client = world.gateway.client();
    for _ in 0..cases.div_ceil(BATCH) {
        let batch: Vec<_> = (0..BATCH).map(|_| next(&mut random)).collect();
        batch.iter().for_each(|case| *faults.entry(case.fault).or_default() += 1);
        world.attack(&client, &batch).await;
    }
    println!("{faults:?}");
    world.ends();
}

#[tokio::test]
async fn bodies_that_are_no_calls_are_refused() {
    attack(1, cases(66), bodies::next).await;
}

#[tokio::test]
async fn heads_that_say_otherwise_than_their_bodies_are_refused() {
    attack(2, cases(14), heads::next).await;
}

#[tokio::test]
async fn what_may_or_may_not_be_a_call_is_never_forwarded_for_who_may_call_nothing() {
    let (mut world, mut random) = (World::new().await, seed(3));
    let client = world.gateway.other();
    for _ in 0..cases(10).div_ceil(BATCH) {
        let batch: Vec<_> = (0..BATCH).map(|_| bodies::changed(&mut random)).collect();
        world.attack(&client, &batch).await;
    }
    world.ends();
}

#[tokio::test]
async fn bytes_of_any_kind_end_no_more_than_their_connection() {
    // Who says half of something is not waited for, since nobody says the rest.
    let patience = ["header_timeout_ms: 150", "idle_timeout_ms: 150", "body_timeout_ms: 150"];
    let (mut world, mut random) = (World::of(&patience).await, seed(4));
    let client = world.gateway.client();
    for _ in 0..cases(6).div_ceil(BATCH) {
        let batch = (0..BATCH).map(|_| heads::framing(&mut random, &client));
        let batch = batch.map(|(fault, bytes)| (fault, bytes.clone(), tokio::spawn(wire::to_the_end(world.gateway.address, bytes))));
        for (fault, bytes, answers) in batch.collect::<Vec<_>>() {
            let (answers, said) = (answers.await.unwrap(), String::from_utf8_lossy(&bytes));
            assert!(!answers.is_empty() || fault == heads::ANOTHER_PROTOCOL, "{fault}: no answer to {said}");
            for answer in answers {
                is_refused(&answer).unwrap_or_else(|wrong| panic!("{fault}: {wrong}\n{} {}\n{said}", answer.status, answer.text()));
            }
        }
        world.goes_on().await;
    }
    world.ends();
}

#[test]
fn schemas_that_want_to_choke_the_gateway_are_taken_or_refused() {
    let (mut random, mut sorts) = (seed(5), BTreeMap::<&str, [usize; 3]>::new());
    for _ in 0..cases(4) {
        let hostile = schemas::next(&mut random);
        let counts = sorts.entry(hostile.sort).or_default();
        let definition = format!("{{\"name\":\"t\",\"inputSchema\":{}}}", hostile.schema);
        let defined = json::parse(definition.as_bytes(), json::Limits::default()).ok();
        let defined = defined.and_then(|node| Definition::new(&node).ok()).is_some();
        let compiled = Schema::compile(hostile.schema.as_bytes(), Formats::Assert).ok().filter(|_| defined);
        let arguments = json::parse(hostile.arguments.as_bytes(), json::Limits::default()).ok();
        let at = match (compiled, arguments) {
            (Some(schema), Some(arguments)) => usize::from(schema.check(&arguments).is_err()),
            _ => 2,
        };
        counts[at] += 1;
    }
    println!("admitted, refused, not compiled: {sorts:?}");
    let sum = |at: usize| sorts.values().map(|counts| counts[at]).sum::<usize>();
    assert!((0..3).all(|at| sum(at) > 0), "a generator that always ends the same way tests nothing: {sorts:?}");
}

#[tokio::test]
async fn a_server_with_hostile_definitions_costs_its_own_tools_only() {
    let (upstream, mut random) = (Upstream::start().await, seed(6));
    let mut hostile = Vec::new();
    while hostile.len() < 60 {
        let made = schemas::next(&mut random);
        if let Ok(schema) = serde_json::from_str::<Value>(&made.schema) {
            hostile.push((format!("h{}", hostile.len()), schema, made.arguments));
        }
    }
    upstream.redefine(|tools| tools.extend(hostile.iter().map(|(name, schema, _)| json!({ "name": name, "inputSchema": schema }))));
    let tools: String = hostile.iter().map(|(name, ..)| format!("  {name}: {{ tier: read }}\n")).collect();
    let manifest = format!("transport: {{ http: {{ url: \"{}\" }} }}\ntools:\n  echo: {{ tier: read }}\n{tools}", upstream.url());
    let site = Site::of(&upstream).manifest("up", &manifest).pinned("up", &upstream.tools());
    let gateway = site.serve().await;
    let (mut forwarded, mut refused) = (0, 0);
    for (name, _, arguments) in &hostile {
        let answer = gateway.client().send(&Ask::call_with_text(&format!("up__{name}"), arguments)).await;
        match answer.code().as_str() {
            "ok" => forwarded += 1,
            _ => {
                is_refused(&answer).unwrap_or_else(|wrong| panic!("{name}: {wrong}: {}", answer.text()));
                refused += 1;
            }
        }
        assert_eq!(gateway.client().call("up__echo", json!({ "text": "good" })).await.code(), "ok", "after {name}");
        forwarded += 1;
    }
    assert_eq!(upstream.calls().len(), forwarded);
    assert!(refused > 20, "{refused}");
}
