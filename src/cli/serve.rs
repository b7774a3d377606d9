//! `doorward serve`: start-up, what it prints, reload and stop.

mod listener;

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::listener::bind;
pub(super) use self::listener::tls;
use super::running::{Rounds, Running};
use super::{Context, Failure, approvals, check, descriptors, exposed, person, status};
use crate::audit::Opened;
use crate::audit::filler::{self, Filler, SPARE_BYTES};
use crate::audit::record::{Kind, Record};
use crate::config::{Config, Fault};
use crate::gateway::{Assembly, Folders, Gateway, LogOrigin, config_version};
use crate::listen::admin::{Asked, Command, Socket};
use crate::listen::orphans::Orphans;
use crate::listen::workers::Workers;
use crate::listen::{console, http};
use crate::policy::watch::{Watch, Watched};
use crate::sandbox::Ground;
use crate::upstream::Report;

const PRUNED_EVERY: Duration = Duration::from_secs(3_600);

/// Arguments of `doorward serve`.
#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "Example:\n  doorward serve --config /etc/doorward/doorward.yaml\n\nSIGHUP reads all files again; SIGTERM lets running calls finish, a second one does not wait for them."
)]
pub struct Args {
    /// Start although the audit log is damaged before its end; what is damaged is recorded and stays named by `audit verify`.
    #[arg(long)]
    accept_damage: bool,
}

/// Arguments of `doorward demo-server`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward demo-server --folder ./notes")]
pub struct DemoArgs {
    /// The folder of notes; made with three notes when it is missing.
    #[arg(long, default_value = "var/notes")]
    pub(super) folder: PathBuf,
    /// The folder that shared copies go to.
    #[arg(long, default_value = "var/outbox")]
    pub(super) outbox: PathBuf,
}

/// Tells what a start found in the log.
pub(super) fn tell_opened(opened: &Opened, dir: &std::path::Path) {
    for torn in &opened.torn {
        tracing::warn!(file = torn.file, bytes = torn.bytes, "the audit log ended in half a record, which was set aside");
    }
    for damage in &opened.damage {
        tracing::warn!(damage, "damage of the audit log was accepted");
    }
    if !opened.unresolved.is_empty() {
        let calls = opened.unresolved.len();
        let dir = dir.display();
        tracing::warn!(calls, "calls were cut off by the last end of the process; see `doorward audit unresolved --dir {dir}`");
    }
}

/// Serves until a signal ends it.
pub async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let short_of_files = descriptors::raise(config.listen.max_connections.value());
    let tls = tls(&config.listen)?;
    check::sealable(&config)?;
    check::signing(&config)?;
    let plan = Box::new(Folders::of(&config));
    let opened = Assembly::open(&config, plan, Ground::of(&config), LogOrigin::Main { accept_damage: args.accept_damage })
        .map_err(Failure::other)?;
    let (assembly, opened, mut events) = opened;
    tell_opened(&opened, config.audit.dir.as_ref());
    let mut attended = Attended::begin(&config)?;
    let (gateway, warnings) = assembly.build()?;
    let listener = bind(&config).await?;
    let console = match config.console.http {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|error| Failure::Other(format!("console.http {address}: {error}")))?)
        }
        None => None,
    };
    let socket = Socket::bind(config.state.as_ref()).await.map_err(|error| Failure::Other(format!("the admin socket: {error}")))?;
    announce(context, &config, &gateway, &listener, console.as_ref());
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    short_of_files.iter().for_each(|warning| tracing::warn!("{warning}"));
    exposed::exposed(&config, gateway.catalog(), &Ground::of(&config).base).iter().for_each(|told| tracing::warn!("{told}"));
    if config.audit.anchors.is_empty() {
        tracing::warn!(
            "no anchor keeps checkpoints of the audit log: nobody can tell whether its newest records were cut off; see `audit.anchors`"
        );
    }
    let mut running = Running::new(assembly, gateway, config.clone(), Some(context.file.clone()))?;
    let catalog = running.versions().catalog();
    let in_force = format!("doorward {}; catalog {catalog}; config {}", env!("CARGO_PKG_VERSION"), config_version(&config));
    let start = Record {
        action: Some("start".into()),
        after: Some(running.service.gateway().policy().version().to_owned().into()),
        note: Some(in_force.into()),
        ..Record::new(Kind::Lifecycle)
    };
    running.assembly.shared().audit.event(&start).await.map_err(Failure::Refused)?;
    let _filler = fill_index(&running, &config);
    let (asked, mut questions) = mpsc::channel(16);
    tokio::spawn(http::serve(running.service.clone(), listener, tls, Workers::start()?));
    let admin = tokio::spawn(socket.serve(running.service.clone(), asked));
    let health = console.map(|listener| tokio::spawn(console::serve(running.service.clone(), listener)));
    let why = attend(&mut running, &mut attended, &mut events, &mut questions).await;
    tracing::info!(why, "stopping: running calls may finish");
    running.stop(why).await;
    attended.orphans.end();
    let _ = admin.await;
    health.inspect(tokio::task::JoinHandle::abort);
    Ok(0)
}

/// Keeps the index of the audit logs behind them, until the handle is dropped. Without it all questions are answered too.
fn fill_index(running: &Running, config: &Config) -> Option<Filler> {
    let log = running.assembly.shared().audit.log().clone();
    let source = filler::Source {
        dir: AsRef::<std::path::Path>::as_ref(&config.audit.dir).to_owned(),
        records: Box::new(move || log.health().records),
        indexed: running.assembly.shared().indexed.clone(),
        spare_bytes: SPARE_BYTES,
    };
    Filler::start(source).inspect_err(|error| tracing::warn!(%error, "the index of the audit log is left to those who ask")).ok()
}

/// What the gateway attends to from outside.
///
/// INVARIANT: begun before the files are read and before anything is announced, so that no edit and no signal is missed.
struct Attended {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    watch: Watch,
    orphans: Orphans,
}

impl Attended {
    fn begin(config: &Config) -> Result<Self, Failure> {
        let folders = vec![config.policies.as_ref().to_owned(), config.manifests.as_ref().to_owned()];
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            watch: Watch::start(Watched::folders(folders))?,
            orphans: Orphans::adopt()?,
        })
    }
}

/// Keeps the gateway current until something ends it.
async fn attend(
    running: &mut Running,
    attended: &mut Attended,
    events: &mut mpsc::Receiver<Report>,
    questions: &mut mpsc::Receiver<Asked>,
) -> &'static str {
    let mut rounds = Rounds::begin();
    let mut pruned = tokio::time::interval(PRUNED_EVERY);
    loop {
        tokio::select! {
            _ = attended.terminate.recv() => return "SIGTERM",
            _ = attended.interrupt.recv() => return "SIGINT",
            _ = attended.hangup.recv() => tell_reload(&running.reload("SIGHUP").await),
            Some(_) = attended.watch.changed() => tell_reload(&running.reload("a change of files").await),
            Some(event) = events.recv() => running.take(event),
            Some(asked) = questions.recv() => answer(running, asked).await,
            _ = pruned.tick() => running.prune(),
            round = rounds.next() => {
                running.go_round(round).await;
                attended.orphans.reap();
            }
        }
    }
}

fn tell_reload(outcome: &Result<String, Vec<Fault>>) {
    match outcome {
        Ok(version) => tracing::info!(version, "policy, limits, manifests and keys are read again"),
        Err(faults) => {
            faults.iter().for_each(|fault| tracing::error!("{fault}"));
            tracing::error!("the files have faults: what was in force before stays in force");
        }
    }
}

async fn answer(running: &mut Running, asked: Asked) {
    let who = format!("uid:{}", asked.uid);
    let answer = match asked.command {
        Command::Reload => match running.reload(&who).await {
            Ok(version) => serde_json::json!({ "policy_version": version }),
            Err(faults) => serde_json::json!({ "faults": faults.iter().map(ToString::to_string).collect::<Vec<_>>() }),
        },
        Command::Did(deed) => {
            // By itself: what waits for a signature is not to hold up a reload.
            let log = running.assembly.shared().audit.log().clone();
            tokio::spawn(async move {
                let _gone = asked.answer.send(person::store(&log, &deed, who).await.to_string());
            });
            return;
        }
        Command::Freezes { number } => freezes(running, number),
        Command::Status => serde_json::to_value(status::of(running)).unwrap_or_default(),
        question @ (Command::ApprovalsList { .. } | Command::ApprovalsShow { .. } | Command::ApprovalsDecide { .. }) => {
            let _ = asked.answer.send(approvals::answer(running.assembly.shared(), &question, &who).await);
            return;
        }
        // The listener takes this verb itself.
        Command::Mcp { .. } => serde_json::json!({ "error": "not a question" }),
    };
    let _ = asked.answer.send(answer.to_string());
}

/// Takes the freezes over, and says which tools one of them covers.
fn freezes(running: &Running, number: i64) -> serde_json::Value {
    running.assembly.look_for_freezes();
    let gateway = running.service.gateway();
    let names = gateway.catalog().tools().iter().map(|tool| &*tool.policy_name);
    let freezes = &gateway.shared().freezes;
    serde_json::json!({ "in_force": freezes.is_in_force(number), "tools": freezes.covered(number, names) })
}

fn announce(context: &Context, config: &Config, gateway: &Gateway, listener: &TcpListener, console: Option<&TcpListener>) {
    let scheme = if config.listen.tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().unwrap_or(config.listen.http);
    eprintln!("doorward {}", env!("CARGO_PKG_VERSION"));
    eprintln!("listening on {scheme}://{address}{}", config.listen.path);
    if let Some(address) = console.and_then(|console| console.local_addr().ok()) {
        eprintln!("health and metrics at http://{address}/healthz, /readyz, /metrics");
    }
    eprintln!("configuration {}, audit log {}", context.file.display(), AsRef::<std::path::Path>::as_ref(&config.audit.dir).display());
    eprint!("{}", check::overview(gateway.catalog(), gateway.policy(), None));
}
