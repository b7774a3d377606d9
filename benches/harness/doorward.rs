//! Doorward as an operator would run it: a folder of configuration, reviewed tools, one key, every check on.
//!
//! Writes the files, lets the program itself pin the tools and issue the key, and starts it. The limits admit everything but are
//! evaluated for each call; some deny rows match the tool and the agent but not the tier, so they are evaluated too.

use std::{
    env,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    Result,
    process::{Running, finish},
    run::Server,
    tools,
};

/// How much there is to decide about, and how records are stored.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Tools of the upstream, all in the manifest.
    pub tools: usize,
    /// Policy rows.
    pub rows: usize,
    /// Agents beside the one that calls.
    pub agents: usize,
}

/// A folder that Doorward can be started in.
pub struct Setup {
    folder: TempDir,
    key: String,
}

impl Setup {
    /// Writes the folder, pins the tools of the upstream and has a key made.
    pub fn new(upstream: SocketAddr, size: Size, durability: &str) -> Result<Setup> {
        Setup::listening(upstream, size, durability, "")
    }

    /// The same with more members of `listen`, each with a comma before it.
    pub fn listening(upstream: SocketAddr, size: Size, durability: &str, listen: &str) -> Result<Setup> {
        let folder = tempfile::Builder::new().prefix("doorward-bench-").tempdir()?;
        let write = |name: &str, text: &str| -> Result<()> {
            let path = folder.path().join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            Ok(fs::write(path, text)?)
        };
        write("doorward.yaml", &configuration(size, durability, listen))?;
        write("tool-manifests/bench.yaml", &manifest(upstream, size))?;
        write("policies/policy.csv", &policy(size))?;
        write("policies/limits.yaml", LIMITS)?;
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/model.conf");
        if model.exists() {
            fs::copy(model, folder.path().join("policies/model.conf"))?;
        }
        let mut setup = Setup { folder, key: String::new() };
        finish(&mut setup.command(&["tools", "pin"]), PATIENCE)?;
        setup.key = setup.key_of("bench")?;
        Ok(setup)
    }

    /// Has a key made for an agent.
    pub fn key_of(&self, agent: &str) -> Result<String> {
        let printed = finish(&mut self.command(&["agent", "add", agent, "--json"]), PATIENCE)?;
        let made: serde_json::Value = serde_json::from_str(&printed)?;
        Ok(made["key"].as_str().ok_or("`doorward agent add --json` printed no `key`")?.into())
    }

    /// Starts the gateway and has it answer one call.
    pub fn start(&self) -> Result<Server> {
        let running = Running::start(&mut self.command(&["serve"]), PATIENCE)?;
        Server::new(running, Some(self.key.clone()), "bench__")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).arg("--config").arg(self.folder.path().join("doorward.yaml")).current_dir(self.folder.path());
        command
    }
}

/// The binary under test: `DOORWARD_BIN`, else the one cargo built beside this program.
pub fn program() -> PathBuf {
    env::var_os("DOORWARD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_doorward").into(), PathBuf::from)
}

fn configuration(size: Size, durability: &str, listen: &str) -> String {
    let mut text = format!(
        "listen: {{ http: 127.0.0.1:0{listen} }}\nconsole: {{ http: 127.0.0.1:0 }}\n\
         audit: {{ durability: {{ read: {durability}, other: sync }} }}\n"
    );
    if size.agents > 0 {
        text += "agents:\n";
    }
    for agent in 0..size.agents {
        let _ = writeln!(text, "  - {{ name: a{agent} }}");
    }
    text
}

fn manifest(upstream: SocketAddr, size: Size) -> String {
    let mut text = format!(
        "upstream: bench\ntransport: {{ http: {{ url: http://{upstream}/mcp }} }}\n\
         defaults: {{ timeout_ms: 10000, max_result_bytes: 1048576, concurrency: 256 }}\ntools:\n"
    );
    for tool in 0..size.tools {
        let _ = writeln!(text, "  {}: {{ tier: read }}", tools::name(tool));
    }
    text
}

/// The row that allows, the rows that might have refused, and the rows about others.
fn policy(size: Size) -> String {
    let mut text = String::from(
        "p, R1, role:caller, bench__*, read, -, allow\n\
         p, D1, role:caller, bench__*, irreversible, -, deny\n\
         p, D2, role:any, bench__echo, reversible, -, deny\n\
         p, D3, role:any, bench__*, irreversible, -, deny\n\
         g, agent:bench, role:caller\n",
    );
    for row in 4..size.rows {
        // Each pair of role and tool once: the loader refuses a row that says what another has said.
        let (role, tool) = (row / size.tools, tools::name(row % size.tools));
        let (tier, effect) = if row % 10 == 0 { ("irreversible", "deny") } else { ("read", "allow") };
        let _ = writeln!(text, "p, S{row}, role:team{role}, bench__{tool}, {tier}, -, {effect}");
    }
    for agent in 0..size.agents {
        let _ = writeln!(text, "g, agent:a{agent}, role:team{}", agent % 100);
    }
    text
}

const LIMITS: &str = "limits:
  - { id: L1, per: [agent], of: \"*\", rate: 1000000/s, burst: 1000000 }
  - { id: L2, per: [agent, target], of: \"bench__*\", rate: 1000000/s, burst: 1000000 }
  - { id: L3, per: [], of: \"*\", rate: 1000000/s, burst: 1000000 }
loops:
  - { id: P1, of: \"*\", when: same_call, warn: 1000000, window: 10min }
  - { id: P2, of: \"*\", tiers: [irreversible], when: same_call, block: 1000000, window: 10min }
  - { id: P3, of: \"*\", tiers: [read], when: same_result, block: 1000000, window: 10min }
  - { id: P4, of: \"*\", when: alternation, block: 1000000, window: 10min }
  - { id: P5, of: \"*\", when: failures, block: 1000000, window: 10min }
requests: { per_agent: 1000000/s, failures_per_peer: 5/s }
";
/// Ten thousand tools take a while to fetch and pin.
const PATIENCE: Duration = Duration::from_secs(60);
