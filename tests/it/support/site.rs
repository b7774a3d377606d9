//! An operator's folder: `doorward.yaml`, manifests with their locks, policies, limits, and two agents with keys.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use doorward::catalog::lock::{Definition, Lock};
use doorward::identity::new_key;
use doorward::mcp::json;
use doorward::seal::hex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Serving, Upstream, soon};

/// The repository.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// The output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A folder that is removed with its test.
pub struct Site {
    home: TempDir,
    keys: BTreeMap<&'static str, (String, String)>,
    listen: Vec<String>,
    more: Vec<String>,
    env: Vec<(String, String)>,
    /// Whether the records in it are the gateway's own.
    pub(super) is_judged: bool,
}

impl Site {
    /// No upstream, and no rule: nothing is allowed. `demo` and `other` have keys.
    pub fn empty() -> Self {
        let key = |name| {
            let (key, stored) = new_key(name, "2026-11-21T00:00:00Z".to_owned()).unwrap();
            (name, (key, hex(&stored.hash)))
        };
        let keys = BTreeMap::from([key("demo"), key("other")]);
        let home = tempfile::tempdir().unwrap();
        let site = Self { home, keys, listen: vec!["http: 127.0.0.1:0".to_owned()], more: Vec::new(), env: Vec::new(), is_judged: true };
        for folder in ["policies", "tool-manifests"] {
            fs::create_dir(site.path(folder)).unwrap();
        }
        let generous = "limits: []\nloops: []\nrequests: { per_agent: 100000/s, failures_per_peer: 1000/s }\n";
        site.written().policy("").limits(generous)
    }

    /// In front of this upstream, all of whose tools `demo` may call; the definitions are pinned as they are now.
    pub fn of(upstream: &Upstream) -> Self {
        let rows = "p, R1, agent:demo, up__*, reversible, -, allow\np, R2, agent:demo, up__pay, irreversible, -, allow\n";
        Self::empty().upstream("up", upstream).policy(rows)
    }

    /// In front of the built-in server, with the shipped manifest, lock and policy.
    pub fn of_demo() -> Self {
        let site = Self::empty();
        for file in ["tool-manifests/demo.yaml", "tool-manifests/demo.lock.json", "policies/policy.csv"] {
            fs::copy(shipped(file), site.path(file)).unwrap();
        }
        site
    }

    fn written(self) -> Self {
        let agent = |(name, (_, hash)): (&&str, &(String, String))| format!("  - {{ name: {name}, key_hash: \"sha256:{hash}\" }}\n");
        let agents: String = self.keys.iter().map(agent).collect();
        let (listen, more) = (self.listen.join(", "), self.more.join("\n"));
        self.write(
            "doorward.yaml",
            &format!("listen: {{ {listen} }}\nconsole: {{ http: 127.0.0.1:0 }}\nagents:\n{agents}  - name: local\n{more}\n"),
        );
        self
    }

    /// A member of `listen`, such as `max_body_bytes: 1024`.
    pub fn listen(mut self, member: &str) -> Self {
        self.listen.push(member.to_owned());
        self.written()
    }

    /// Another address to listen on than a free port of loopback.
    pub fn address(mut self, address: &str) -> Self {
        self.listen[0] = format!("http: {address}");
        self.written()
    }

    /// Lines of the configuration.
    pub fn config(mut self, lines: &str) -> Self {
        self.more.push(lines.to_owned());
        self.written()
    }

    /// A variable of the gateway's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The whole `policy.csv`.
    pub fn policy(self, rows: &str) -> Self {
        self.write("policies/policy.csv", rows);
        self
    }

    /// The whole `limits.yaml`.
    pub fn limits(self, text: &str) -> Self {
        self.write("policies/limits.yaml", text);
        self
    }

    /// A manifest and a lock for the upstream, under this id.
    pub fn upstream(self, id: &str, upstream: &Upstream) -> Self {
        self.unpinned(id, upstream, "").pinned(id, &upstream.tools())
    }

    /// A manifest without a lock; `defaults` are members of `defaults`.
    pub fn unpinned(self, id: &str, upstream: &Upstream, defaults: &str) -> Self {
        self.manifest(id, &format!("transport: {{ http: {{ url: \"{}\" }} }}\ndefaults: {{ {defaults} }}\n{TIERS}", upstream.url()))
    }

    /// A manifest, but for its first line.
    pub fn manifest(self, id: &str, rest: &str) -> Self {
        self.write(&format!("tool-manifests/{id}.yaml"), &format!("upstream: {id}\n{rest}"));
        self
    }

    /// A lock with these definitions.
    pub fn pinned(self, id: &str, tools: &[Value]) -> Self {
        let mut lock = Lock::default();
        for tool in tools {
            let text = tool.to_string();
            let definition = Definition::new(&json::parse(text.as_bytes(), json::Limits::default()).unwrap()).unwrap();
            lock.tools.insert(definition.name.clone(), definition);
        }
        lock.save(&self.path(&format!("tool-manifests/{id}.lock.json")), id).unwrap();
        self
    }

    /// Members of the `defaults` of the manifest of `up`.
    pub fn defaults(self, upstream: &Upstream, members: &str) -> Self {
        self.unpinned("up", upstream, members)
    }

    /// A path inside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// The files of the state folder that have these words in them.
    pub fn holding(&self, words: &str) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.path("var")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(words.len()).any(|window| window == words.as_bytes())) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Writes a file as an editor does: whole, or not at all.
    pub fn write(&self, path: &str, text: &str) {
        let partial = self.path("partial");
        fs::write(&partial, text).unwrap();
        fs::rename(partial, self.path(path)).unwrap();
    }

    /// Says that the test changes records, so that those in it at the end prove nothing.
    pub fn meddled_with(mut self) -> Self {
        self.is_judged = false;
        self
    }

    /// The agent's API key.
    pub fn key(&self, agent: &str) -> &str {
        &self.keys[agent].0
    }

    /// A command of the real binary on this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(args).current_dir(self.home.path()).envs(self.env.iter().cloned());
        command.env_remove("DOORWARD_CONFIG").env_remove("DOORWARD_LOG").env("XDG_STATE_HOME", self.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Done {
        let output = soon(&format!("doorward {args:?}"), self.command(args).output()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Starts `doorward serve` and waits until it listens.
    pub async fn serve(&self) -> Serving {
        Serving::start(self, self.command(&["serve"])).await
    }
}

/// The manifest's opinion of the tools of [`Upstream`].
const TIERS: &str =
    "tools:\n  echo: { tier: read }\n  save: { tier: reversible }\n  pay: { tier: irreversible }\n  typed: { tier: read }\n";
