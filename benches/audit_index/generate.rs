//! A log such as a busy gateway leaves: agents with habits, runs, refusals, errors, floods, restarts and policy changes, over days and nights.
//!
//! The lines are made by the project's own code, so what reads a real log reads this one.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use doorward::audit::chain::Chain;
use doorward::audit::redact::ValueKey;
use doorward::audit::{Kind, Record};
use doorward::clock::Moment;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The origin of a generated log.
pub const ORIGIN: &str = "main";
/// A value that a few calls have among their arguments, hashed.
pub const NEEDLE: &str = "mallory@evil.example";
/// What has the needle's run, too.
pub const AGENTS: u64 = 120;
const UPSTREAMS: [&str; 10] = ["files", "github", "mail", "crm", "pay", "search", "tickets", "wiki", "deploy", "sql"];
const TOOLS: [(&str, &str); 8] = [
    ("read", "read"),
    ("list", "read"),
    ("search", "read"),
    ("get", "read"),
    ("create", "reversible"),
    ("update", "reversible"),
    ("delete", "irreversible"),
    ("send", "irreversible"),
];
const SEGMENT_BYTES: u64 = 64 << 20;
const DAY: u64 = 86_400_000_000_000;

/// SplitMix64: small, and the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Once in `many`.
    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// Small numbers often, large ones rarely.
    fn skewed(&mut self, bound: u64) -> u64 {
        let first = self.below(bound) + 1;
        self.below(first)
    }
}

/// An agent and what it does at the moment.
struct Agent {
    name: String,
    principal: String,
    credential: String,
    person: Option<String>,
    tools: Vec<(usize, usize)>,
    session: String,
    run: String,
    trace: String,
    left: u64,
}

/// A call that has not ended.
struct Open {
    seq: u64,
    agent: usize,
    call: String,
    run: String,
    tool: (usize, usize),
    began: u64,
    policy: u64,
}

struct Out {
    folder: std::path::PathBuf,
    file: Option<BufWriter<File>>,
    written: u64,
    chain: Chain,
    seq: u64,
    line: Vec<u8>,
}

impl Out {
    fn write(&mut self, record: &Record<'_>, now: u64) -> Result<u64> {
        if self.file.is_none() || self.written > SEGMENT_BYTES {
            if let Some(mut file) = self.file.take() {
                file.flush()?;
            }
            let name = format!("{:020}.jsonl", self.seq);
            self.file = Some(BufWriter::with_capacity(1 << 20, File::create_new(self.folder.join(name))?));
            self.written = 0;
            let action = if self.seq == 1 { "start" } else { "rotate" };
            self.append(&Record { action: Some(action.into()), ..Record::new(Kind::Lifecycle) }, now)?;
        }
        self.append(record, now)
    }

    fn append(&mut self, record: &Record<'_>, now: u64) -> Result<u64> {
        let seq = self.seq;
        self.line.clear();
        (self.chain, _) = self.chain.seal(
            &record.encode(ORIGIN, Moment { unix_nanos: now as i64, boot_micros: now / 1_000, boot_id: None }),
            seq,
            &mut self.line,
        );
        self.file.as_mut().ok_or("no segment")?.write_all(&self.line)?;
        self.written += self.line.len() as u64;
        self.seq += 1;
        Ok(seq)
    }
}

/// Writes a log.
pub fn run(records: u64, days: u64, seed: u64, out: &Path) -> Result<()> {
    let since = Instant::now();
    let bytes = write(records, days, seed, out)?;
    let seconds = since.elapsed().as_secs_f64();
    println!("{records} records, {} MB, {seconds:.1} s, {:.0} a second, in {}", bytes >> 20, records as f64 / seconds, out.display());
    Ok(())
}

/// Writes a log; how many bytes it has.
pub fn write(records: u64, days: u64, seed: u64, out: &Path) -> Result<u64> {
    let folder = out.join("audit").join(ORIGIN).join("segments");
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(out.join("keys"))?;
    let key = [seed as u8; 32];
    fs::write(out.join("keys/values.key"), key)?;
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64 / DAY * DAY;
    let start = today - (days - 1) * DAY;
    let lines = Out { folder: folder.clone(), file: None, written: 0, chain: Chain::first(ORIGIN), seq: 1, line: Vec::new() };
    World::new(seed, ValueKey::new(&key), lines).run(records, start, days * DAY)?;
    fs::read_dir(folder)?.map(|file| Ok(file?.metadata()?.len())).sum()
}

struct World {
    dice: Dice,
    key: ValueKey,
    out: Out,
    agents: Vec<Agent>,
    open: VecDeque<Open>,
    policy: u64,
    now: u64,
}

impl World {
    fn new(seed: u64, key: ValueKey, out: Out) -> Self {
        let mut dice = Dice(seed);
        let agents = (0..AGENTS)
            .map(|number| Agent {
                name: format!("agent-{number:03}"),
                principal: format!("agent:agent-{number:03}"),
                credential: format!("key:{:08x}", dice.next() as u32),
                person: dice.one_in(3).then(|| format!("person-{:02}", dice.below(40))),
                tools: (0..3 + dice.below(8)).map(|_| (dice.below(10) as usize, dice.skewed(8) as usize)).collect(),
                session: String::new(),
                run: String::new(),
                trace: String::new(),
                left: 0,
            })
            .collect();
        Self { dice, key, out, agents, open: VecDeque::new(), policy: 1, now: 0 }
    }

    fn run(mut self, records: u64, start: u64, length: u64) -> Result<()> {
        self.now = start;
        let step = (length / records).max(1);
        while self.out.seq <= records {
            // Nights are quiet: the same records take four times as long.
            let hour = self.now / 3_600_000_000_000 % 24;
            let pace = if (8..19).contains(&hour) { step * 6 / 10 } else { step * 21 / 15 };
            self.now += 1 + self.dice.below(2 * pace.max(1));
            let due = self.open.len() > 24 || (self.open.len() > 4 && self.dice.one_in(2));
            match self.dice.below(20_000) {
                0 => self.person()?,
                1 => self.policy_change()?,
                2 => self.restart()?,
                3 => self.flood()?,
                4 => drop(self.call(true)?),
                5 => self.loop_of_calls()?,
                _ if due => self.end()?,
                number if number % 11 == 0 => self.refuse()?,
                _ => drop(self.call(false)?),
            }
        }
        if let Some(mut file) = self.out.file {
            file.flush()?;
        }
        Ok(())
    }

    /// Some agent, in some run: a few agents do most of the work.
    fn agent(&mut self) -> usize {
        let at = self.dice.skewed(AGENTS) as usize;
        let (left, run, trace, session) =
            (self.dice.below(40) + 2, self.dice.next(), (self.dice.next(), self.dice.next()), self.dice.next());
        let agent = &mut self.agents[at];
        if agent.left == 0 {
            agent.left = left;
            agent.run = format!("run-{run:016x}");
            agent.trace = format!("{:016x}{:016x}", trace.0, trace.1);
            if session % 8 == 0 || agent.session.is_empty() {
                agent.session = format!("s-{session:012x}");
            }
        }
        agent.left -= 1;
        at
    }

    fn id(&mut self) -> String {
        let (millis, random) = (self.now / 1_000_000, self.dice.next());
        let low = self.dice.next() & 0xffff_ffff_ffff;
        format!("{:08x}-{:04x}-7{:03x}-8{:03x}-{low:012x}", millis >> 16, millis & 0xffff, random & 0xfff, random >> 20 & 0xfff)
    }

    fn full<'a>(agent: &'a Agent, call: &'a str, tool: (usize, usize), policy: &'a str, kind: Kind) -> Record<'a> {
        let text = Cow::Borrowed::<'a, str>;
        Record {
            call_id: Some(text(call)),
            method: Some("tools/call".into()),
            principal: Some(text(&agent.principal)),
            agent: Some(text(&agent.name)),
            on_behalf_of: agent.person.as_deref().map(text),
            credential_id: Some(text(&agent.credential)),
            client: Some("sdk/1.4".into()),
            peer: Some("10.1.2.3:51234".into()),
            session: Some(text(&agent.session)),
            run: Some(text(&agent.run)),
            trace_id: Some(text(&agent.trace)),
            transport: Some("http".into()),
            protocol_version: Some("2026-07-28".into()),
            upstream: Some(UPSTREAMS[tool.0].into()),
            target: Some(format!("{}__{}", UPSTREAMS[tool.0], TOOLS[tool.1].0).into()),
            tier: Some(TOOLS[tool.1].1.into()),
            policy_version: Some(text(policy)),
            ..Record::new(kind)
        }
    }

    fn call(&mut self, is_odd: bool) -> Result<(usize, String)> {
        let at = self.agent();
        let (call, value) = (
            self.id(),
            if is_odd && self.dice.one_in(40) { NEEDLE.to_owned() } else { format!("person-{}@example.com", self.dice.skewed(200_000)) },
        );
        let agent = &self.agents[at];
        let tool = agent.tools[self.dice.below(agent.tools.len() as u64) as usize];
        self.intent(at, &call, tool, &value)?;
        Ok((at, value))
    }

    fn intent(&mut self, at: usize, call: &str, tool: (usize, usize), value: &str) -> Result<()> {
        let policy = format!("sha256:{:016x}", self.policy);
        let to = self.key.hash(format!("\"{value}\"").as_bytes());
        let digest = self.key.hash(format!("{{\"path\":\"/srv/data/{}\",\"to\":\"{value}\"}}", tool.1).as_bytes());
        let agent = &self.agents[at];
        let mut record = Self::full(agent, call, tool, &policy, Kind::Intent);
        record.jsonrpc_id = Some("17".into());
        record.args = Some(format!("{{\"path\":\"/srv/data/{}\",\"to\":\"{to}\"}}", tool.1).into());
        record.args_hash = Some(digest.into());
        record.args_bytes = Some(60 + value.len() as u64);
        record.tool_def_hash = Some("sha256:5f2d6c0e8f0d9a5b8c1e4a7d3b6f9c2e5d8a1b4c7f0e3d6a9b2c5f8e1d4a7b0c".into());
        record.decision = Some("allow".into());
        record.rule_ids = vec![format!("R{}", tool.0 + 1).into()];
        let run = agent.run.clone();
        let seq = self.out.write(&record, self.now)?;
        self.open.push_back(Open { seq, agent: at, call: call.to_owned(), run, tool, began: self.now, policy: self.policy });
        Ok(())
    }

    /// An agent that makes the same call again and again.
    fn loop_of_calls(&mut self) -> Result<()> {
        let (at, value) = self.call(false)?;
        let tool = self.agents[at].tools[0];
        for _ in 0..30 {
            let call = self.id();
            self.intent(at, &call, tool, &value)?;
            self.now += 200_000_000;
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.pop_front() else { return Ok(()) };
        let took = (self.now - open.began) / 1000 % 4_000_000 + 300;
        let (outcome, effect, code) = match self.dice.below(200) {
            0..6 => ("tool_error", "done", None),
            6..8 => ("timed_out", "unknown", Some("upstream_timeout")),
            8 => ("failed", "unknown", Some("upstream_disconnected")),
            _ => ("ok", "done", None),
        };
        self.outcome(&open, outcome, effect, code, took)
    }

    fn outcome(&mut self, open: &Open, outcome: &'static str, effect: &'static str, code: Option<&'static str>, took: u64) -> Result<()> {
        let agent = &self.agents[open.agent];
        let policy = format!("sha256:{:016x}", open.policy);
        let full = Self::full(agent, &open.call, open.tool, &policy, Kind::Outcome);
        let record = Record {
            call_id: full.call_id,
            principal: full.principal,
            agent: full.agent,
            upstream: full.upstream,
            target: full.target,
            tier: full.tier,
            run: Some(Cow::Borrowed(&open.run)),
            intent_seq: Some(open.seq),
            outcome: Some(outcome.into()),
            effect: Some(effect.into()),
            code: code.map(Cow::Borrowed),
            duration_us: Some(took),
            upstream_us: Some(took - took / 10),
            result_bytes: Some(took % 9_000),
            result_hash: Some(format!("hmac:ab12:{:032x}", u128::from(open.seq)).into()),
            ..Record::new(Kind::Outcome)
        };
        self.out.write(&record, self.now)?;
        Ok(())
    }

    fn refuse(&mut self) -> Result<()> {
        let (at, call, policy) = (self.agent(), self.id(), format!("sha256:{:016x}", self.policy));
        let tool = (self.dice.below(10) as usize, self.dice.below(8) as usize);
        let mut record = Self::full(&self.agents[at], &call, tool, &policy, Kind::Refusal);
        let (decision, code) = match self.dice.below(10) {
            0..5 => ("deny", "policy_denied"),
            5..7 => ("invalid", "invalid_arguments"),
            7 => ("invalid", "tool_not_found"),
            8 => ("limit", "rate_limited"),
            _ => ("unavailable", "circuit_open"),
        };
        (record.decision, record.code, record.effect) = (Some(decision.into()), Some(code.into()), Some("none".into()));
        match code {
            "policy_denied" => record.rule_ids = vec![format!("D{}", tool.1).into()],
            "rate_limited" => record.limit = Some("L1".into()),
            "tool_not_found" => record.target = Some(format!("made__up_{}", self.dice.below(50_000)).into()),
            _ => {}
        }
        self.out.write(&record, self.now)?;
        Ok(())
    }

    /// Refusals of one sort, counted.
    fn flood(&mut self) -> Result<()> {
        let (at, call, policy) = (self.agent(), self.id(), format!("sha256:{:016x}", self.policy));
        let mut record = Self::full(&self.agents[at], &call, (2, 7), &policy, Kind::Coalesced);
        (record.decision, record.code) = (Some("limit".into()), Some("rate_limited".into()));
        (record.count, record.window_us) = (Some(20 + self.dice.below(2_000)), Some(1_000_000));
        self.out.write(&record, self.now)?;
        Ok(())
    }

    fn person(&mut self) -> Result<()> {
        let action = ["pin", "agent_add", "agent_revoke", "reload"][self.dice.below(4) as usize];
        let actor = format!("person-{:02}", self.dice.below(40));
        let record =
            Record { actor: Some(actor.into()), action: Some(action.into()), subject: Some("files".into()), ..Record::new(Kind::Person) };
        self.out.write(&record, self.now)?;
        Ok(())
    }

    fn policy_change(&mut self) -> Result<()> {
        let version = |number: u64| Some(Cow::Owned(format!("sha256:{number:016x}")));
        let (before, after) = (version(self.policy), version(self.policy + 1));
        self.policy += 1;
        let record =
            Record { action: Some("reload".into()), actor: Some("watch".into()), before, after, ..Record::new(Kind::PolicyChange) };
        self.out.write(&record, self.now)?;
        Ok(())
    }

    /// The gateway is killed and started again: of the calls that ran nobody knows the end.
    fn restart(&mut self) -> Result<()> {
        self.now += Duration::from_secs(3).as_nanos() as u64;
        self.out.write(&Record { action: Some("start".into()), ..Record::new(Kind::Lifecycle) }, self.now)?;
        for open in std::mem::take(&mut self.open) {
            self.outcome(&open, "unresolved", "unknown", Some("outcome_unknown"), 0)?;
        }
        Ok(())
    }
}
