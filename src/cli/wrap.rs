//! `doorward wrap`: the whole gateway in front of one server, with no file written by hand.
//!
//! Owns: what stands in for the files: a manifest whose tiers are what the server claims, a lock taken at first use, and rows
//! that allow what the flags leave. Nobody has reviewed anything, and every record and listing says so.

mod confinement;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::running::{Rounds, Running};
use super::serve::tell_opened;
use super::{Context, Failure, check, local, tools};
use crate::audit::record::{Kind, Record};
use crate::catalog::lock::{self, Definition, Lock};
use crate::catalog::manifest::{Ask, Defaults, Idempotency, Manifest, Offered, Prefix, ToolEntry};
use crate::catalog::tier::Tier;
use crate::catalog::transport::{Command, Endpoint, Inherit, Isolation, Sandbox, Transport, Variable};
use crate::catalog::{Catalog, Live, Source, claimed_labels, claimed_tier};
use crate::config::{Agent, Anonymous, Audit, Bound, Config, Durability, DurabilityByTier, Fault, Peers, Rate, check_name};
use crate::gateway::bundles::Files;
use crate::gateway::{Assembly, Loaded, LogOrigin, Plan, carried, targets};
use crate::identity::{People, Principal};
use crate::limit::{Limits, Time};
use crate::listen::http;
use crate::listen::workers::Workers;
use crate::policy::suggest::nearest;
use crate::policy::{Flow, Names, Obligation, Options, Policy};
use crate::sandbox::{Ground, Guarded};
use crate::schema::Schemas;
use crate::seal;

/// Arguments of `doorward wrap`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward wrap fs -- npx -y @modelcontextprotocol/server-filesystem .\n  doorward wrap fs --read-only --deny move_file -- npx -y @modelcontextprotocol/server-filesystem .\n  doorward wrap web --listen 127.0.0.1:8810 --url https://tools.example/mcp\n\nAs an entry of a client's mcp.json:\n  { \"command\": \"doorward\", \"args\": [\"wrap\", \"fs\", \"--\", \"npx\", \"-y\", \"@modelcontextprotocol/server-filesystem\", \".\"] }\n\nThe definitions are pinned at first use; a later change is withheld until the same command is run once with `--approve` behind NAME."
)]
pub struct Args {
    /// A name for the server; its tools are called NAME__TOOL.
    name: String,
    /// The command that starts the server, after `--`.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The server's streamable HTTP endpoint, in place of a command.
    #[arg(long, conflicts_with = "command")]
    url: Option<String>,
    /// Serve streamable HTTP at this address instead of standard input and output.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// `none` gives tools their own names, without NAME__.
    #[arg(long, value_parser = ["upstream", "none"], default_value = "upstream")]
    prefix: String,
    /// A tool that may not be called, by the server's own name; may be repeated.
    #[arg(long, value_name = "TOOL")]
    deny: Vec<String>,
    /// Only tools that claim to have no effect.
    #[arg(long)]
    read_only: bool,
    /// What a record must survive before its call is made: `write` the end of the process, `sync` the loss of power too.
    #[arg(long, value_parser = ["write", "sync"], default_value = "write")]
    durability: String,
    /// What the server may ask the client for while a call is under way: `all`, `none`, or some of `elicitation`, `sampling`,
    /// `roots`, with commas. The client is asked only for what it declares.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = asks, default_value = "all")]
    may_ask: Vec<Asks>,
    /// At most so many calls, such as `5/s` or `100/min`.
    #[arg(long, value_parser = rate)]
    rate: Option<String>,
    /// Where the log, the keys and the pinned definitions are kept. Default: $XDG_STATE_HOME/doorward or ~/.local/state/doorward.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// An environment variable that the server is given; may be repeated.
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Take the definitions that the server lists now as the reviewed ones.
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    confinement: confinement::Flags,
}

fn rate(text: &str) -> Result<String, String> {
    if Rate::parse(text).is_some() { Ok(text.to_owned()) } else { Err("write N/s, N/min or N/h, such as 5/s".to_owned()) }
}

/// A word of `--may-ask`, and what it lets the server ask for.
#[derive(Clone, Debug)]
struct Asks(Vec<Ask>);

fn asks(word: &str) -> Result<Asks, String> {
    Ok(Asks(match word {
        "all" => vec![Ask::Elicitation, Ask::Sampling, Ask::Roots],
        "none" => Vec::new(),
        "elicitation" => vec![Ask::Elicitation],
        "sampling" => vec![Ask::Sampling],
        "roots" => vec![Ask::Roots],
        _ => return Err("write `all`, `none`, `elicitation`, `sampling` or `roots`".to_owned()),
    }))
}

/// Stands in for the folders of manifests and policies.
struct Wrapped {
    manifest: Manifest,
    deny: Vec<String>,
    read_only: bool,
    rate: Option<String>,
    lock: Mutex<Lock>,
}

impl Plan for Wrapped {
    fn load(
        &self,
        live: &dyn Fn(&str) -> Arc<Live>,
        schemas: &Schemas,
        previous: Option<&Limits>,
        _: &People,
    ) -> Result<Loaded, Vec<Fault>> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let source =
            Source { manifest: Arc::new(self.with_tools(&lock)), live: live(&self.manifest.upstream), lock: Arc::new(lock), claimed: true };
        let catalog = Catalog::new(vec![source], schemas);
        let file = Path::new("(flags of wrap)");
        let (upstreams, targets) = ([self.manifest.upstream.clone()], targets(&catalog));
        let names = Names { upstreams: &upstreams, agents: None, targets: &targets };
        let limits = carried(Limits::parse(file, &self.limits(), &names, &Time::machine())?, previous, &targets);
        let options = Options {
            upstreams: upstreams.to_vec(),
            limits: limits.text().to_owned(),
            labels: catalog.tools().iter().map(|tool| tool.labels.clone()).collect(),
            brought: catalog.brought(),
            // Whoever sits at the client is the only person there is.
            flow: Flow::Ask(Obligation::ApproveUser),
            ..Options::default()
        };
        let (policy, warnings) = Policy::parse(file, &self.rows(&catalog), &targets, &options)?;
        drop(targets);
        Ok(Loaded { catalog, policy, shadow: None, limits, warnings, files: Files::default() })
    }
}

impl Wrapped {
    /// The manifest with an entry for each pinned tool, at the tier that the server claims.
    fn with_tools(&self, lock: &Lock) -> Manifest {
        let entry = |definition: &Definition| ToolEntry {
            tier: definition.node().map_or(Tier::Irreversible, |node| claimed_tier(&node)),
            labels: Some(definition.node().map(|node| claimed_labels(&node)).unwrap_or_default()),
            fields: BTreeMap::new(),
            record_payload: false,
            idempotency: Idempotency::None,
            idempotency_window_s: None,
            compensation: None,
            scope: None,
            cost: Bound::default(),
            timeout_ms: None,
            max_timeout_ms: None,
            first_byte_timeout_ms: None,
            retries: None,
            max_result_bytes: None,
            formats: None,
            slo: None,
            slo_tool_errors: None,
            on_burn: None,
            burn: None,
        };
        let tools = lock.tools.iter().map(|(name, definition)| (name.clone(), entry(definition))).collect();
        Manifest { tools, ..self.manifest.clone() }
    }

    /// One row a tool, so that each decision names its own; a star would not reach irreversible tools.
    fn rows(&self, catalog: &Catalog) -> String {
        let ceiling = if self.read_only { Tier::Read } else { Tier::Irreversible };
        let mut rows = String::new();
        // The id is what a refusal tells the agent.
        let word = if self.read_only { "READ-ONLY-" } else { "W" };
        for (index, tool) in catalog.tools().iter().enumerate() {
            rows.push_str(&format!("p, {word}{}, role:any, {}, {ceiling}, -, allow\n", index + 1, tool.policy_name));
        }
        // Reading them has no effect, so `--read-only` keeps them.
        let upstream = &self.manifest.upstream;
        rows.push_str(&format!("p, PROMPTS, role:any, prompt:{upstream}__*, read, -, allow\n"));
        rows.push_str(&format!("p, RESOURCES, role:any, resource:{upstream}:*, read, -, allow\n"));
        for (index, tool) in self.deny.iter().enumerate() {
            rows.push_str(&format!("p, DENY{}, role:any, {}__{tool}, any, -, deny\n", index + 1, self.manifest.upstream));
        }
        rows
    }

    fn limits(&self) -> String {
        let rate = self.rate.as_ref().map(|rate| format!("{{ id: RATE, per: [], of: \"*\", rate: {rate} }}")).unwrap_or_default();
        format!("limits: [ {rate} ]\n{WARNINGS}requests: {{ per_agent: 100000/s, failures_per_peer: 5/s }}\n")
    }
}

/// Clients that share one name repeat each other, so what goes round in circles is told of it and not stopped.
const WARNINGS: &str = "loops:
  - { id: P1, of: \"*\", when: same_call, warn: 3, window: 10min }
  - { id: P3, of: \"*\", tiers: [read], when: same_result, warn: 3, window: 10min }
  - { id: P4, of: \"*\", when: alternation, warn: 4, window: 10min }
  - { id: P5, of: \"*\", when: failures, warn: 3, window: 10min }
";

/// Wraps the server and serves until the client leaves or a signal comes.
pub async fn run(_: &Context, args: &Args) -> Result<u8, Failure> {
    let state = state_folder(args)?;
    let config = config(args, &state)?;
    let ground = Arc::new(Ground::new(&std::env::current_dir()?, vec![Guarded::state(&state)]));
    let manifest = manifest(args, &ground)?;
    let file = lock_file(&state, &manifest);
    let (lock, waived) = tokio::select! {
        pinned = pinned(args, &manifest, &file, &ground) => pinned?,
        () = local::terminated() => return Err(Failure::Other("told to end before the server had listed its tools".to_owned())),
    };
    let deny = denials(args, &lock)?;
    let confined = confinement::told(&manifest.transport);
    let plan = Wrapped { manifest, deny, read_only: args.read_only, rate: args.rate.clone(), lock: Mutex::new(lock) };
    let (assembly, opened, mut events) =
        Assembly::open(&config, Box::new(plan), (*ground).clone(), LogOrigin::FirstFree).map_err(Failure::other)?;
    tell_opened(&opened, config.audit.dir.as_ref());
    let (gateway, _) = assembly.build()?;
    eprint!("{}", check::overview(gateway.catalog(), gateway.policy(), Some("agent:local")));
    let audit: &Path = config.audit.dir.as_ref();
    eprint!("{confined}");
    eprintln!("tiers are what the server claims; what is called is told by `doorward audit tail --dir {}`", audit.display());
    let running = Running::new(assembly, gateway, config.clone(), None)?;
    if let Some(waiver) = waived {
        let record = Record {
            action: Some("pin".into()),
            subject: Some(args.name.clone().into()),
            waiver: Some(waiver.into()),
            ..Record::new(Kind::CatalogChange)
        };
        running.assembly.shared().audit.event(&record).await.map_err(Failure::Refused)?;
    }
    let ended = match args.listen {
        Some(address) => listen(&running, &mut events, address).await?,
        None => {
            let principal = Principal::local("local", "stdio");
            local::serve_stdio(&running, &mut events, principal).await
        }
    };
    running.stop(ended).await;
    Ok(0)
}

async fn listen(
    running: &Running,
    events: &mut mpsc::Receiver<crate::upstream::Report>,
    address: SocketAddr,
) -> Result<&'static str, Failure> {
    let listener = TcpListener::bind(address).await.map_err(|error| Failure::Other(format!("--listen {address}: {error}")))?;
    eprintln!("listening on http://{}{}", listener.local_addr()?, running.service.bounds().path);
    tokio::spawn(http::serve(running.service.clone(), listener, None, Workers::start()?));
    let mut rounds = Rounds::begin();
    let mut ended = std::pin::pin!(local::terminated());
    loop {
        tokio::select! {
            () = &mut ended => return Ok("SIGTERM"),
            Some(event) = events.recv() => running.take(event),
            round = rounds.next() => running.go_round(round).await,
        }
    }
}

fn manifest(args: &Args, ground: &Ground) -> Result<Manifest, Failure> {
    let sound = (1..=32).contains(&args.name.len()) && check_name(&args.name).is_ok();
    if !sound {
        return Err(Failure::Usage(format!(
            "`{}` is not a name for a server: write 1 to 32 of `a-z`, `0-9` and `-`",
            args.name.escape_default()
        )));
    }
    let transport = match (&args.url, args.command.split_first()) {
        (Some(url), _) => Transport::Http(Endpoint { url: url.clone(), auth: None }),
        (None, Some((command, rest))) => Transport::Stdio(Command {
            command: command.clone(),
            args: rest.to_vec(),
            env: args.env.iter().map(|name| (name.clone(), Variable::Inherit(Inherit::Inherit))).collect(),
            cwd: None,
            sandbox: {
                confinement::make_room(command);
                args.confinement.sandbox(ground).map_err(Failure::Usage)?
            },
            isolation: Isolation::Shared,
            max_processes: Bound::default(),
            idle_s: Bound::default(),
        }),
        (None, None) => return Err(Failure::Usage("name the server: `-- COMMAND` or `--url URL`".to_owned())),
    };
    let prefix = if args.prefix == "none" { Prefix::None } else { Prefix::Upstream };
    Ok(Manifest {
        upstream: args.name.clone(),
        transport,
        prefix,
        may_ask: args.may_ask.iter().flat_map(|asks| asks.0.iter().copied()).collect(),
        defaults: Defaults::default(),
        prompts: Offered::default(),
        resources: Offered::default(),
        tools: BTreeMap::new(),
    })
}

fn state_folder(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(folder) = &args.state {
        return Ok(folder.clone());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    home.map(|home| home.join("doorward"))
        .ok_or_else(|| Failure::Usage("there is no HOME to keep state in: name a folder with --state".to_owned()))
}

fn config(args: &Args, state: &Path) -> Result<Config, Failure> {
    let durability = if args.durability == "sync" { Durability::Sync } else { Durability::Write };
    let audit =
        Audit { dir: state.join("audit").into(), durability: DurabilityByTier { read: durability, other: durability }, ..Audit::default() };
    let agents = vec![Agent { name: "local".to_owned(), key_hash: None }];
    let mut config = Config { state: state.to_owned().into(), audit, agents, ..Config::default() };
    if let Some(address) = args.listen {
        if !address.ip().is_loopback() {
            let message = format!(
                "--listen {address} is reachable from other machines; run `doorward serve` with `listen.tls` and API keys for that"
            );
            return Err(Failure::Usage(message));
        }
        config.listen.http = address;
        config.identity.anonymous = Some(Anonymous { agent: "local".to_owned(), from: Peers::Loopback });
    }
    Ok(config)
}

/// The lock of this name and this way to the server: another command of the same name is another server.
fn lock_file(state: &Path, manifest: &Manifest) -> PathBuf {
    // However it is confined, it is the same server.
    let way = match &manifest.transport {
        Transport::Stdio(command) => Transport::Stdio(Command { sandbox: Sandbox::default(), ..command.clone() }),
        http @ Transport::Http(_) => http.clone(),
    };
    let reached = serde_json::to_vec(&way).unwrap_or_default();
    let print = seal::hex(&seal::sha256(&reached));
    lock::file(&state.join("wrap"), &format!("{}-{}", manifest.upstream, print.get(..12).unwrap_or_default()))
}

/// The pinned definitions; at first use what the server lists now, with the words that the record waives the review by.
async fn pinned(args: &Args, manifest: &Manifest, file: &Path, ground: &Arc<Ground>) -> Result<(Lock, Option<&'static str>), Failure> {
    let known = Lock::load(file)?;
    if let (Some(lock), false) = (&known, args.approve) {
        return Ok((lock.clone(), None));
    }
    let waiver = if known.is_some() { "approved_on_command_line" } else { "first_use" };
    let lock = Lock { tools: tools::definitions(manifest, ground).await?, waiver: Some(waiver.to_owned()) };
    // Another client of the same command may have been first meanwhile: what it took stands.
    if let (Some(first), false) = (Lock::load(file)?, args.approve) {
        return Ok((first, None));
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    lock.save(file, &manifest.upstream)?;
    eprintln!("pinned {} tools of {} in {}", lock.tools.len(), manifest.upstream, file.display());
    Ok((lock, Some(waiver)))
}

/// The denied tools by the server's own names. A denial that names no tool would silently deny nothing.
fn denials(args: &Args, lock: &Lock) -> Result<Vec<String>, Failure> {
    let mut denied = Vec::new();
    for name in &args.deny {
        // The public name is what the client shows.
        let bare = name.strip_prefix(args.name.as_str()).and_then(|rest| rest.strip_prefix("__")).unwrap_or(name);
        match [name, bare].into_iter().find(|own| lock.tools.contains_key(*own)) {
            Some(own) => denied.push(own.to_owned()),
            None => {
                let near = nearest(bare, lock.tools.keys().map(String::as_str));
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return Err(Failure::Usage(format!("--deny {}: the server has no such tool{near}", name.escape_default())));
            }
        }
    }
    denied.sort();
    denied.dedup();
    Ok(denied)
}
