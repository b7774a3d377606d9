//! One row: a server that fails, what its callers are told, and what the breaker does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::gate::Gate;
use super::pipes::Processes;
use super::world::World;
use super::{Way, http, old_sse};
use crate::mcp_checklist::upstreams::http_server::Server;
use crate::support::old_sse::OldServer;
use crate::support::until;

/// What a call is told, and what that does to the breaker; none where there is no such fault.
pub type Expected = Option<(&'static str, Breaker)>;

/// What the breaker makes of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// It opens with the fifth.
    Opens,
    /// Nothing.
    Stays,
    /// The server is not connected, and left alone for that reason if for no other.
    Left,
}

/// `act` changes something, `look` and `echo` do not; only `echo` always works.
pub fn definitions() -> [Value; 3] {
    let typed = json!({ "type": "object", "properties": { "n": { "type": "string" } } });
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" }, "outputSchema": typed });
    [json!({ "name": "echo", "inputSchema": { "type": "object" } }), tool("act"), tool("look")]
}

/// The result of a call with this `n`.
pub fn result(n: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": "done" }], "structuredContent": { "n": n } })
}

/// The result of a call that asks what nobody said may be asked.
pub fn questions() -> Value {
    let params = json!({ "mode": "form", "message": "sure?", "requestedSchema": { "type": "object", "properties": {} } });
    let question = json!({ "method": "elicitation/create", "params": params });
    json!({ "resultType": "input_required", "inputRequests": { "q": question }, "requestState": "mine" })
}

/// A server that fails.
pub struct Faulty {
    fault: &'static str,
    well: Arc<AtomicBool>,
    gate: Option<Gate>,
    server: Kind,
}

enum Kind {
    Http(Server),
    OldSse(OldServer),
    Pipes(Processes),
}

impl Faulty {
    pub async fn start(fault: &'static str, way: Way, kept: std::path::PathBuf) -> Self {
        let well = Arc::new(AtomicBool::new(false));
        let server = match way {
            Way::Modern { .. } | Way::Legacy { .. } => Kind::Http(http::server(fault, way, Arc::clone(&well)).await),
            Way::OldSse => Kind::OldSse(old_sse::server(fault, Arc::clone(&well)).await),
            Way::Pipes { .. } => Kind::Pipes(Processes::keeping(kept)),
        };
        let address = match &server {
            Kind::Http(server) => Some(server.address),
            Kind::OldSse(server) => Some(server.address()),
            Kind::Pipes(_) => None,
        };
        let gate = match address.filter(|_| fault == "refuses") {
            Some(address) => Some(Gate::open_to(address).await),
            None => None,
        };
        Self { fault, well, gate, server }
    }

    pub fn transport(&self, way: Way) -> Value {
        let at = |path: &str, address: SocketAddr| {
            let address = self.gate.as_ref().map_or(address, Gate::address);
            json!({ "http": { "url": format!("http://{address}{path}") } })
        };
        match (&self.server, way) {
            (Kind::Http(server), _) => at("/mcp", server.address),
            (Kind::OldSse(server), _) => at("/sse", server.address()),
            (Kind::Pipes(processes), Way::Pipes { mode }) => processes.transport(mode, self.fault),
            (Kind::Pipes(_), _) => unreachable!("on pipes"),
        }
    }

    /// How often it was called with each `n`.
    pub fn effects(&self) -> BTreeMap<String, usize> {
        let of = |call: &Value| call["params"]["arguments"]["n"].as_str().map(str::to_owned);
        let named: Vec<String> = match &self.server {
            Kind::Http(server) => server.calls().iter().filter_map(|asked| of(&asked.body)).collect(),
            Kind::OldSse(server) => server.calls().iter().filter_map(of).collect(),
            Kind::Pipes(processes) => processes.calls(),
        };
        let mut effects = BTreeMap::new();
        named.into_iter().for_each(|n| *effects.entry(n).or_default() += 1);
        effects
    }

    /// Whether another tool of the same process or stream works at the same time.
    fn spares_its_own(&self) -> bool {
        match &self.server {
            Kind::Http(_) => self.fault != "refuses",
            Kind::OldSse(_) => !["refuses", "resets midway", "drips", "huge", "exits", "exits after", "babbles"].contains(&self.fault),
            Kind::Pipes(_) => {
                let keeps = [
                    "answers never",
                    "wrong id",
                    "twice",
                    "no json",
                    "doubled",
                    "doubled inside",
                    "cut off",
                    "without result",
                    "deep",
                    "bad text",
                ];
                let goes_on =
                    ["leaves zombies", "banners", "floods", "progress after", "asks", "never ends", "state unasked", "off schema"];
                let asks = ["state in a result", "questions unasked"];
                let answers = ["no object", "error", "tool error"];
                [&keeps[..], &goes_on, &asks, &answers].concat().contains(&self.fault)
            }
        }
    }

    /// Whether another tool works afterwards, while the fault is still there.
    fn comes_back(&self) -> bool {
        !["refuses", "goes deaf"].contains(&self.fault)
    }

    /// How many processes or streams there were, where there is one after the other.
    fn lives(&self) -> usize {
        match &self.server {
            Kind::Http(_) => 0,
            Kind::OldSse(server) => server.seen().iter().filter(|what| *what == "GET /sse").count(),
            Kind::Pipes(processes) => processes.started(),
        }
    }

    async fn heal(&self) {
        self.well.store(true, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.open();
        }
        if let Kind::Pipes(processes) = &self.server {
            processes.heal();
            if self.fault == "goes deaf" {
                processes.kill();
            }
        }
    }
}

/// A row that is under way.
pub struct Row {
    pub world: Arc<World>,
    pub id: String,
    pub told: &'static str,
    pub breaker: Breaker,
    pub server: Faulty,
    pub calls: AtomicUsize,
}

/// A call, and what it was told.
struct Told {
    n: String,
    told: String,
    text: String,
}

/// What became of it.
pub struct Line {
    pub id: String,
    pub fault: &'static str,
    pub told: &'static str,
    pub breaker: String,
    /// How often its server was called with each `n`.
    pub effects: BTreeMap<String, usize>,
    pub others: usize,
    pub seconds: f32,
}

impl Row {
    /// Drives it to its end.
    ///
    /// # Panics
    /// When something does not hold.
    pub async fn run(self) -> Line {
        // It is connected from here on, and has a session with this agent where it has any.
        self.works("echo").await;
        let since = Instant::now();
        let before = self.world.others.went();
        let breaker = match self.breaker {
            Breaker::Left => self.left().await,
            Breaker::Opens => self.opens().await,
            Breaker::Stays => self.stays().await,
        };
        self.world.others.go_on(before + 3).await;
        let others = self.world.others.went() - before;
        self.server.heal().await;
        self.works("act").await;
        self.works("look").await;
        self.is_calm().await;
        let (effects, seconds) = (self.server.effects(), since.elapsed().as_secs_f32());
        Line { id: self.id, fault: self.server.fault, told: self.told, breaker, effects, others, seconds }
    }

    /// Calls until the call goes well.
    async fn works(&self, tool: &str) {
        until(&format!("`{tool}` works"), async || (self.call(tool).await.told == "ok").then_some(())).await;
    }

    async fn call(&self, tool: &str) -> Told {
        let n = format!("{}.{tool}.{}", self.id, self.calls.fetch_add(1, Ordering::Relaxed));
        let answer = self.world.gateway.client().call(&format!("{}__{tool}", self.id), json!({ "n": n })).await;
        let code = answer.code();
        let told = match code.as_str() {
            "ok" if answer.result()["resultType"] == "input_required" => "input_required".to_owned(),
            "ok" | "tool_error" => code,
            _ => answer.told(),
        };
        Told { n, told, text: answer.text() }
    }

    /// The tool that fails, as it has to, and beside it or behind it another one of its server, which works.
    async fn fails(&self, tool: &str) {
        let lives = self.server.lives();
        if self.server.spares_its_own() {
            let (failing, other) = tokio::join!(self.call(tool), self.call("echo"));
            assert_eq!(other.told, "ok", "another tool of the same server: {}", other.text);
            return assert_eq!(failing.told, self.told, "{tool}: {}", failing.text);
        }
        let failing = self.call(tool).await;
        assert_eq!(failing.told, self.told, "{tool}: {}", failing.text);
        if self.server.fault == "exits after" {
            // A call that crosses its end may be lost with it, as is told then.
            until("the next life of the server", async || (self.server.lives() > lives).then_some(())).await;
        }
        if self.server.comes_back() {
            let other = self.call("echo").await;
            assert_eq!(other.told, "ok", "another tool of the same server, afterwards: {}", other.text);
        }
    }

    async fn opens(&self) -> String {
        // Each life of a server costs twice the wait of the one before: one such row is enough.
        if self.server.spares_its_own() || matches!((&self.server.server, self.server.fault), (Kind::Pipes(_), "exits")) {
            self.fails("look").await;
        }
        for _ in 0..4 {
            self.fails("act").await;
            assert!(!self.is_told_to_be_left_alone(), "sooner than with the fifth");
        }
        let fifth = self.call("act").await;
        assert_eq!(fifth.told, self.told, "{}", fifth.text);
        until("a breaker that opens with the fifth", async || self.is_told_to_be_left_alone().then_some(())).await;
        // One call may try, where this machine is so slow that the breaker's time is over already.
        for _ in 0..4 {
            let Told { n, told, text } = self.call("act").await;
            if told == "circuit_open none" {
                assert_eq!(self.server.effects().get(&n), None, "what is refused does not reach the server");
                return "opens with 5, closes".to_owned();
            }
            assert_eq!(told, self.told, "{text}");
        }
        panic!("nobody is told that the circuit is open");
    }

    /// Whether the gateway has said so of `act`.
    fn is_told_to_be_left_alone(&self) -> bool {
        let said = self.world.gateway.said();
        let is_it = |line: &str| line.contains("the tool keeps failing") && line.contains(&self.id) && line.contains("act");
        said.lines().any(is_it)
    }

    async fn stays(&self) -> String {
        if self.server.spares_its_own() {
            self.fails("look").await;
        }
        for _ in 0..6 {
            self.fails("act").await;
        }
        assert!(!self.is_told_to_be_left_alone());
        "stays closed".to_owned()
    }

    /// Calls of a server that cannot be reached.
    async fn left(&self) -> String {
        match (&self.server.server, &self.server.gate) {
            (Kind::Pipes(processes), _) => processes.away(),
            (_, Some(gate)) => gate.shut().await,
            (_, None) => unreachable!("there is a gate"),
        }
        if !matches!(self.server.server, Kind::Http(_)) {
            // A call that crosses the end may be lost with it, as is told then.
            let is_gone = async || !self.standing().await["state"].as_str().unwrap().starts_with("connected");
            until("the loss", async || is_gone().await.then_some(())).await;
        }
        for number in 1..=6 {
            let Told { n, told, .. } = self.call("act").await;
            assert!(told == self.told || (number > 1 && told == "circuit_open none"), "call {number}: {told}");
            assert_eq!(self.server.effects().get(&n), None, "`none` is the truth");
        }
        let up = self.standing().await;
        let is_left = up["breaker"]["state"] == "open" || !up["state"].as_str().unwrap().starts_with("connected");
        assert!(is_left, "{up}");
        "left alone, comes back".to_owned()
    }

    /// Waits until nothing of the fault is left: no call under way, none that waits, no breaker that is not closed.
    async fn is_calm(&self) {
        let mut last = Value::Null;
        for _ in 0..100 {
            last = self.standing().await;
            let is_free = last["calls"] == 0 && last["waiting"] == 0;
            if is_free && last["breaker"]["state"] == "closed" && last["breaker"]["failures"] == 0 && last["tools"] == json!([]) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("it does not come to rest: {last}");
    }

    async fn standing(&self) -> Value {
        let status = self.world.status().await;
        let all = status["upstreams"].as_array().unwrap();
        all.iter().find(|up| up["upstream"] == *self.id).unwrap().clone()
    }
}
