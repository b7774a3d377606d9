//! `doorward serve`: start-up, what it prints, reload and stop.

mod listener;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::listener::bind;
pub(super) use self::listener::tls;
use super::{Context, Failure, approvals, check, descriptors, exposed, local, person, status};
use crate::audit::Opened;
use crate::audit::anchor::{Anchors, Source};
use crate::audit::filler::{self, Filler, SPARE_BYTES};
use crate::audit::record::{Kind, Record};
use crate::audit::retention::PruneError;
use crate::clock::Clock;
use crate::config::{Config, Fault};
use crate::gateway::{Assembly, Folders, Gateway, LogOrigin, Teller, Versions, config_version};
use crate::listen::admin::{Asked, Command, Socket};
use crate::listen::orphans::Orphans;
use crate::listen::workers::Workers;
use crate::listen::{Service, console, http};
use crate::policy::watch::{Watch, Watched};
use crate::sandbox::Ground;
use crate::upstream::Report;

/// How often counted refusals are stored.
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// How long anchors may take for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(2);
/// How long the webhook may take for the last messages.
pub(super) const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// How often the counts of error budgets are stored: a kill loses no more of them than this.
const STORED_EVERY: Duration = Duration::from_secs(60);
/// How long a collector of traces may take for the last calls.
#[cfg(feature = "otel")]
const LAST_TRACES: Duration = Duration::from_secs(2);
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

/// A gateway with everything that keeps it current.
pub(super) struct Running {
    /// What was opened once.
    pub assembly: Arc<Assembly>,
    /// What listeners share.
    pub service: Service,
    /// The configuration that the gateway began with.
    began: Config,
    config: Config,
    file: Option<PathBuf>,
    anchors: Anchors,
    teller: Option<Teller>,
    #[cfg(feature = "otel")]
    traces: Option<crate::trace::Exporter>,
}

impl Running {
    /// Makes the service for an assembly that has built its first snapshot.
    pub fn new(assembly: Assembly, gateway: Gateway, config: Config, file: Option<PathBuf>) -> Result<Self, Failure> {
        let seal = Arc::clone(&assembly.shared().seal);
        let service = Service::new(Arc::new(gateway), config.listen.clone(), seal, Clock::system());
        let audit = &assembly.shared().audit;
        let source = Source {
            newest: audit.log().checkpoints(),
            folder: AsRef::<std::path::Path>::as_ref(&config.audit.dir).join(audit.log().origin()),
            clock: Clock::system(),
            // Standard output carries MCP, or an answer, where no file is watched.
            may_print: file.is_some(),
            standings: assembly.shared().anchored.clone(),
        };
        let anchors = Anchors::start(&config.audit.anchors, &source);
        #[cfg(feature = "otel")]
        let traces = traces(&config, audit)?;
        let teller = Teller::start(assembly.shared(), config.audit.name.as_str());
        Ok(Self {
            assembly: Arc::new(assembly),
            service,
            began: config.clone(),
            config,
            file,
            anchors,
            teller,
            #[cfg(feature = "otel")]
            traces,
        })
    }

    /// Reads all files again and swaps the snapshot; with a fault anywhere the old one stays.
    pub async fn reload(&mut self, who: &str) -> Result<String, Vec<Fault>> {
        let before = self.assembly.shared().identity.load_full();
        let was = (self.versions(), config_version(&self.config));
        let outcome = self.rebuilt();
        let (action, mut note) = match &outcome {
            Ok(version) => ("reload", version.clone()),
            Err(faults) => ("reload_refused", faults.first().map(ToString::to_string).unwrap_or_default()),
        };
        // Keys are read even where a file has a fault, so either record may have to tell of it.
        let changes = self.assembly.shared().identity.load().changes_since(&before).join("; ");
        if !changes.is_empty() {
            tracing::warn!("who is let in has changed: {changes}");
            note = format!("{note}; {changes}");
        }
        let record = Record {
            actor: Some(who.into()),
            action: Some(action.into()),
            subject: (!changes.is_empty()).then(|| "identity".into()),
            before: Some(was.0.policy.clone().into()),
            after: outcome.as_ref().ok().map(|version| version.clone().into()),
            note: Some(note.into()),
            ..Record::new(Kind::PolicyChange)
        };
        let changed = self.changed(who, was);
        for record in changed.iter().chain([&record]) {
            if let Err(error) = self.assembly.shared().audit.event(record).await {
                tracing::error!(%error, "the reload could not be recorded");
            }
        }
        outcome
    }

    /// Removes, beside everything else, the segments of the log that are past their time.
    fn prune(&self) {
        let days = i64::try_from(self.config.audit.retention_days.value()).unwrap_or(i64::MAX);
        let before = Clock::system().unix_seconds().saturating_sub(days.saturating_mul(86_400));
        let mut anchored = self.assembly.shared().anchored.anchored();
        let log = self.assembly.shared().audit.log().clone();
        tokio::spawn(async move {
            match log.prune(before, &mut anchored).await {
                Ok(gone) => gone
                    .iter()
                    .for_each(|segment| tracing::info!(segment = segment.name, "a segment of the audit log is past its time, and removed")),
                Err(error @ PruneError::Unanchored(_)) => {
                    tracing::warn!(%error, "segments of the audit log that are past their time stay for now")
                }
                Err(error) => tracing::error!(%error, "old segments of the audit log stay"),
            }
        });
    }

    /// Ends calls that have waited too long for a person's yes, and forgets stored results whose time is over.
    pub(super) async fn expire(&self) {
        if let Err(error) = self.assembly.shared().expire_approvals().await {
            tracing::error!(error = error.detail(), "approvals that are too late could not be ended");
        }
        if let Err(error) = self.assembly.shared().forget_replays().await {
            tracing::error!(error = error.detail(), "stored results whose time is over could not be forgotten");
        }
    }

    fn versions(&self) -> Versions {
        Versions::of(&self.service.gateway())
    }

    /// The records of what else than the policy is in force now, or will be after a restart.
    fn changed(&self, who: &str, (was, config): (Versions, String)) -> Vec<Record<'static>> {
        let versions = self.versions();
        let record = |kind, before: String, after: String, subject: String| Record {
            actor: Some(who.to_owned().into()),
            action: Some("reload".into()),
            before: Some(before.into()),
            after: Some(after.into()),
            subject: Some(subject.into()),
            ..Record::new(kind)
        };
        let mut records = Vec::new();
        let catalog = versions.catalog_changes(&was).join(", ");
        if !catalog.is_empty() {
            records.push(record(Kind::CatalogChange, was.catalog(), versions.catalog(), catalog));
        }
        if config_version(&self.config) != config {
            let file = self.file.as_ref().and_then(|file| file.file_name()).unwrap_or_default().to_string_lossy().into_owned();
            let waits = self.config.needs_restart(&self.began).join(", ");
            let note = (!waits.is_empty()).then(|| format!("in force only after a restart: {waits}").into());
            records.push(Record { note, ..record(Kind::ConfigChange, config, config_version(&self.config), file) });
        }
        records
    }

    fn rebuilt(&mut self) -> Result<String, Vec<Fault>> {
        if let Some(file) = &self.file {
            let loaded = Config::load(file);
            if let Ok(config) = &loaded {
                let names = config.needs_restart(&self.began).join(", ");
                if !names.is_empty() {
                    tracing::warn!("changed in {}, and in force only after a restart: {names}", file.display());
                }
                self.config = config.clone();
            }
            // Whatever the file has come to say, a key that was revoked is out.
            let reloaded = self.assembly.reload_identity(&self.config);
            let unread = reloaded.map_err(|error| vec![Fault::file(file, error.to_string())])?;
            loaded.map_err(|fault| vec![fault])?;
            if !unread.is_empty() {
                return Err(unread);
            }
        }
        let (gateway, warnings) = self.assembly.build()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let version = gateway.policy().version().to_owned();
        self.service.swap(Arc::new(gateway));
        Ok(version)
    }

    /// Takes what an upstream reports.
    pub fn take(&self, report: Report) {
        self.assembly.take(report, &self.service.gateway());
    }

    /// Lets running calls finish, ends the upstreams, and closes the log. Told to end once more, it waits for nobody.
    pub async fn stop(self, why: &str) {
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(self.service.bounds().drain_timeout_ms.value())) => {}
                () = local::terminated() => self.assembly.hurry(),
            }
        };
        self.service.drain(patience).await;
        let told = async {
            local::terminated().await;
            self.assembly.hurry();
            std::future::pending().await
        };
        tokio::select! {
            () = self.assembly.stop() => {}
            () = told => {}
        }
        if let Some(teller) = self.teller {
            teller.finish(LAST_MESSAGES).await;
        }
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.finish(LAST_TRACES).await;
        }
        let audit = &self.assembly.shared().audit;
        audit.store_all_counted();
        if let Err(error) = audit.log().clone().close(why).await {
            tracing::error!(%error, "the stop could not be recorded");
        }
        self.anchors.finish(LAST_CHECKPOINT).await;
    }
}

/// Begins to tell the collector of traces, where there is one.
#[cfg(feature = "otel")]
fn traces(config: &Config, audit: &crate::audit::trail::Audit) -> Result<Option<crate::trace::Exporter>, Failure> {
    let Some(otlp) = &config.telemetry.otlp else { return Ok(None) };
    let instance = format!("{}/{}", config.audit.name.as_str(), audit.log().origin());
    crate::trace::Exporter::start(otlp, audit.traces(), &instance).map_err(Failure::Other)
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
    let assembly = Arc::clone(&running.assembly);
    running.stop(why).await;
    assembly.store_objectives().await;
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
    let mut counted = tokio::time::interval(COUNTED_EVERY);
    let mut pruned = tokio::time::interval(PRUNED_EVERY);
    let mut stored = tokio::time::interval(STORED_EVERY);
    loop {
        tokio::select! {
            _ = attended.terminate.recv() => return "SIGTERM",
            _ = attended.interrupt.recv() => return "SIGINT",
            _ = attended.hangup.recv() => tell_reload(&running.reload("SIGHUP").await),
            Some(_) = attended.watch.changed() => tell_reload(&running.reload("a change of files").await),
            Some(event) = events.recv() => running.take(event),
            Some(asked) = questions.recv() => answer(running, asked).await,
            _ = pruned.tick() => running.prune(),
            _ = stored.tick() => running.assembly.store_objectives().await,
            _ = counted.tick() => {
                running.assembly.shared().audit.store_counted();
                running.assembly.look_for_freezes();
                running.assembly.keep_spent();
                running.expire().await;
                attended.orphans.reap();
                running.assembly.look_at_objectives(&running.service.gateway());
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
