//! From files to a running gateway: what is opened once, what each snapshot is built from, and what upstreams report.
//!
//! Owns: the connections to upstreams, which carry over from snapshot to snapshot. Leaves to `cli` when to build and swap.
//!
//! INVARIANT: a fault in any file leaves the running snapshot as it is.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::change::{self, Change};
use super::compensating::Undoable;
use super::folders::bundles::{Bundles, Files};
use super::heard::heard;
use super::listing::Listings;
use super::recording::open_log;
use super::rounds::Rounds;
use super::starts::Starts;
use super::{Gateway, Shared};
use crate::approval::Approvals;
use crate::audit::anchor::Standings;
use crate::audit::kept::{Kept, Sort};
use crate::audit::log::{OpenError, Opened};
use crate::audit::payload::{Payloads, Unsealable};
use crate::audit::record::{Kind, Record};
use crate::audit::trail::Audit;
use crate::audit::values::ValueKeys;
use crate::catalog::lock::{Definition, changes};
use crate::catalog::{Catalog, Live, Source};
use crate::clock::Clock;
use crate::config::{Config, Fault};
use crate::freeze::Freezes;
use crate::identity::{Identity, People};
use crate::limit::Limits;
use crate::objective::Objectives;
use crate::policy::{Policy, TargetFacts, Warning};
use crate::replay::Replays;
use crate::run::Runs;
use crate::sandbox::Ground;
use crate::schema::Schemas;
use crate::seal::{self, Seal};
use crate::state::{State, StateError};
use crate::telemetry::Telemetry;
use crate::trace::Traces;
use crate::upstream::{Asking, BadTransport, Dialect, Event, Report, Spec, Upstream};

/// Which origin of the audit log a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOrigin {
    /// `main`, of which there is one: `serve`.
    Main {
        /// Go on after damage that no crash does; recorded.
        accept_damage: bool,
    },
    /// The first free of `local-1`, `local-2` …: everything that runs beside or without a server.
    FirstFree,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder.
    #[error("{0}")]
    State(#[from] StateError),
    /// A key, or a folder of the log.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
    /// The audit log.
    #[error("{0}")]
    Audit(#[from] OpenError),
    /// A file with keys of an authorization server.
    #[error("{0}")]
    Keys(#[from] Fault),
    /// Who opens payloads.
    #[error("{0}")]
    Openers(#[from] Unsealable),
    /// The cryptographic library.
    #[error("the cryptographic library does not work on this machine")]
    Crypto,
}

/// Everything that decides, read from files or made for `wrap`, and not yet running.
pub struct Loaded {
    /// The reviewed tools.
    pub catalog: Catalog,
    /// Who may do what.
    pub policy: Policy,
    /// The candidate that decides beside it without effect.
    pub shadow: Option<Policy>,
    /// How often.
    pub limits: Limits,
    /// What is odd, and no fault.
    pub warnings: Vec<Warning>,
    /// The files that the policy was read from; none for `wrap`.
    pub files: Files,
}

/// Where [`Loaded`] comes from.
pub trait Plan: Send + Sync {
    /// Reads everything anew. `live` gives each upstream's live state, so that it carries over; `people` are those who can approve now.
    ///
    /// # Errors
    /// All faults found.
    fn load(
        &self,
        live: &dyn Fn(&str) -> Arc<Live>,
        schemas: &Schemas,
        previous: Option<&Limits>,
        people: &People,
    ) -> Result<Loaded, Vec<Fault>>;
}

/// The catalog's tools as the policy's targets, in the order of their indices.
pub fn targets(catalog: &Catalog) -> Vec<TargetFacts<'_>> {
    catalog.tools().iter().map(|tool| TargetFacts { name: &tool.policy_name, tier: tool.tier }).collect()
}

/// Limits with the buckets of the previous ones, so that a reload forgives nothing.
pub fn carried(limits: Limits, previous: Option<&Limits>, targets: &[TargetFacts<'_>]) -> Limits {
    match previous {
        Some(previous) => limits.carrying(previous, targets),
        None => limits,
    }
}

/// What a process opens once.
pub struct Assembly {
    plan: Box<dyn Plan>,
    state: Arc<State>,
    shared: Arc<Shared>,
    kept: Kept,
    bundles: Bundles,
    ground: Arc<Ground>,
    lives: Mutex<HashMap<String, Arc<Live>>>,
    running: Mutex<HashMap<String, (String, Upstream)>>,
    drifted: Mutex<HashSet<String>>,
    pub(super) limits: Mutex<Option<Arc<Limits>>>,
    events: mpsc::Sender<Report>,
    starts: Starts,
    stop: CancellationToken,
}

impl Assembly {
    /// Opens state, keys and log. The events of upstreams come out of the receiver; hand them to [`Assembly::take`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(
        config: &Config,
        plan: Box<dyn Plan>,
        ground: Ground,
        origin: LogOrigin,
    ) -> Result<(Self, Opened, mpsc::Receiver<Report>), StartError> {
        let clock = Clock::system();
        let payloads = config.openers().map(Payloads::new).transpose()?;
        let state = Arc::new(State::open(config.state.as_ref())?);
        let (log, opened) = open_log(config, origin, &clock)?;
        let values = ValueKeys::open(&state.keys_folder(), clock.unix_nanos())?;
        let (identity, faults) = Identity::load(config, &state, None)?;
        if let Some(fault) = faults.into_iter().next() {
            return Err(fault.into());
        }
        let seal = Arc::new(Seal::new(&seal::key(&state.keys_folder(), "seal.key")?).ok_or(StartError::Crypto)?);
        let replays = Replays::open(Arc::clone(&state), Arc::clone(&seal), clock.clone(), config.idempotency.clone(), log.origin())?;
        let telemetry = Telemetry::default();
        let traces = Traces::new(config.telemetry.otlp.as_ref(), telemetry.exported());
        let shared = Shared {
            freezes: Freezes::load(&state, clock.clone())?,
            runs: Arc::new(Runs::open(&state, clock.clone(), config.labels.clone())?),
            approvals: Approvals::new(Arc::clone(&state), Arc::clone(&seal), clock.clone(), config.approvals.clone()),
            told: Default::default(),
            anchored: Standings::read(&AsRef::<Path>::as_ref(&config.audit.dir).join(log.origin()), log.health().records),
            indexed: crate::audit::filler::Indexed::default(),
            audit: Audit::new(log, values, config.audit.durability.clone(), clock.clone()).keeping(payloads).telling(traces),
            identity: ArcSwap::from_pointee(identity),
            schemas: Schemas::default(),
            objectives: Objectives::open(&state, clock.clone())?,
            telemetry,
            seal,
            rounds: Rounds::default(),
            replays: Arc::new(replays),
            undoable: Undoable::default(),
            changes: broadcast::Sender::new(change::MAX_BEHIND),
        };
        let (events, received) = mpsc::channel(256);
        let assembly = Self {
            plan,
            state,
            shared: Arc::new(shared),
            kept: Kept::in_dir(config.audit.dir.as_ref()),
            bundles: Bundles::in_state(config.state.as_ref()),
            ground: Arc::new(ground),
            lives: Mutex::default(),
            running: Mutex::default(),
            drifted: Mutex::default(),
            limits: Mutex::default(),
            events,
            starts: Starts::default(),
            stop: CancellationToken::new(),
        };
        Ok((assembly, opened, received))
    }

    /// What carries over between snapshots.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The state database.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The same, for whoever asks it where it may block.
    pub(super) fn state_for_later(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Builds a snapshot from the files as they are now, and starts, keeps or stops upstreams to match.
    ///
    /// # Errors
    /// All faults found; nothing has changed then.
    pub fn build(&self) -> Result<(Gateway, Vec<Warning>), Vec<Fault>> {
        let previous = lock(&self.limits).clone();
        let identity = self.shared.identity.load_full();
        let loaded = self.plan.load(&|id| self.live(id), &self.shared.schemas, previous.as_deref(), identity.people())?;
        let limits = Arc::new(self.restored(loaded.limits));
        let upstreams = self.connect(&loaded.catalog)?;
        *lock(&self.limits) = Some(Arc::clone(&limits));
        self.shared.audit.count_by(limits.floods());
        self.keep(&loaded.catalog, loaded.policy.bundle(limits.text()));
        self.keep_files(loaded.policy.version(), loaded.files);
        self.shared.approvals.decided_by(loaded.policy.version());
        let gateway = Gateway {
            catalog: loaded.catalog,
            policy: loaded.policy,
            shadow: loaded.shadow,
            limits,
            upstreams,
            listings: Listings::default(),
            shared: Arc::clone(&self.shared),
        };
        Ok((gateway, loaded.warnings))
    }

    /// Keeps what records will name by a hash, off the way of the start.
    fn keep(&self, catalog: &Catalog, policy: Vec<u8>) {
        let locks = catalog.sources().iter().flat_map(|source| source.lock.tools.values());
        let tools: Vec<Box<[u8]>> = locks.map(|definition| definition.text.clone()).collect();
        let kept = self.kept.clone();
        tokio::task::spawn_blocking(move || {
            let tools = tools.iter().map(|text| (Sort::Tool, &**text));
            for (sort, bytes) in [(Sort::Policy, &*policy)].into_iter().chain(tools) {
                if let Err(error) = kept.keep(sort, bytes) {
                    // The records stand without it; a responder has the folders of policies and locks, or their history.
                    return tracing::warn!(%error, "what records name by a hash could not be kept beside the audit log");
                }
            }
        });
    }

    /// Keeps the files of the policy for the way back, likewise.
    fn keep_files(&self, version: &str, files: Files) {
        let (bundles, version) = (self.bundles.clone(), version.to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = bundles.keep(&version, &files) {
                tracing::warn!(%error, "the files of the policy could not be kept: there is no `doorward policy rollback` to this version");
            }
        });
    }

    /// Reads the keys of agents anew, and those of authorization servers. What of the latter cannot be read is a fault, and lets nobody
    /// in; the rest is in force.
    ///
    /// # Errors
    /// The database's.
    pub fn reload_identity(&self, config: &Config) -> Result<Vec<Fault>, StateError> {
        let (identity, faults) = Identity::load(config, &self.state, Some(&self.shared.identity.load()))?;
        self.shared.identity.store(Arc::new(identity));
        Ok(faults)
    }

    /// Takes over freezes that another process has made or lifted, and records the end of those whose time is over. To be called every
    /// second or so.
    pub fn look_for_freezes(&self) {
        if let Err(error) = self.shared.freezes.look(&self.state) {
            tracing::error!(%error, "freezes could not be read again; those of before stay in force");
        }
        let ended = self.shared.freezes.expire();
        for freeze in &ended {
            let (actor, action, subject) = (Some("doorward".into()), Some("freeze_expired".into()), Some(freeze.as_str().into()));
            self.shared.audit.note(&Record { actor, action, subject, ..Record::new(Kind::Lifecycle) });
        }
    }

    fn live(&self, id: &str) -> Arc<Live> {
        Arc::clone(lock(&self.lives).entry(id.to_owned()).or_default())
    }

    /// An upstream that is reached as before goes on; another is stopped and begun anew.
    fn connect(&self, catalog: &Catalog) -> Result<Vec<Upstream>, Vec<Fault>> {
        let mut running = lock(&self.running);
        let (mut upstreams, mut begin, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for (at, source) in catalog.sources().iter().enumerate() {
            let id = &source.manifest.upstream;
            let print = fingerprint(source);
            if let Some((_, upstream)) = running.get(id).filter(|(known, _)| *known == print) {
                upstreams.push(upstream.clone());
                continue;
            }
            match self.spec(source, &print) {
                Ok(spec) => begin.push((at, id.clone(), print, spec)),
                Err(error) => faults.push(Fault::file(Path::new(&format!("{id}.yaml")), error.to_string())),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for (at, id, print, spec) in begin {
            let upstream = Upstream::start(spec, self.events.clone(), &self.stop);
            if let Some((_, old)) = running.insert(id, (print, upstream.clone())) {
                tokio::spawn(async move { old.stop().await });
            }
            upstreams.insert(at, upstream);
        }
        let kept: HashSet<&str> = catalog.sources().iter().map(|source| source.manifest.upstream.as_str()).collect();
        let gone: Vec<String> = running.keys().filter(|id| !kept.contains(id.as_str())).cloned().collect();
        for (_, old) in gone.iter().filter_map(|id| running.remove(id)) {
            tokio::spawn(async move { old.stop().await });
        }
        Ok(upstreams)
    }

    fn spec(&self, source: &Source, print: &str) -> Result<Spec, BadTransport> {
        let manifest = &source.manifest;
        let mut spec = Spec::new(&manifest.upstream, &manifest.transport, Arc::clone(&self.ground))?;
        spec.remembered = self.state.era(&manifest.upstream, print).and_then(|word| Dialect::parse(&word));
        spec.concurrency = manifest.defaults.concurrency.size();
        spec.per_agent = manifest.defaults.concurrency_per_agent.map(|share| share.size());
        spec.queue = manifest.defaults.queue.size();
        spec.queue_per_agent = manifest.defaults.queue_per_agent.map(|share| share.size());
        spec.connect_timeout_ms = manifest.defaults.connect_timeout_ms.value();
        spec.retry_percent = u32::try_from(manifest.defaults.retry_budget_percent.value()).unwrap_or(0);
        spec.may_ask = manifest.may_ask();
        Ok(spec)
    }

    /// Takes what an upstream reports; compares a listing with the locks of the snapshot that is in force.
    pub fn take(&self, report: Report, gateway: &Gateway) {
        let upstream = &*report.upstream;
        match report.event {
            Event::Listed { listing, compared } => {
                if let Some((print, _)) = lock(&self.running).get(upstream) {
                    let _ = self.state.remember_era(upstream, print, listing.dialect.as_str());
                }
                let version = listing.version;
                let listed = heard(*listing);
                for reason in &listed.unreadable {
                    tracing::warn!(upstream, reason, "a tool cannot be read and is left out");
                }
                tracing::info!(upstream, tools = listed.tools.len(), revision = version.as_str(), "connected");
                let live = self.live(upstream);
                let changed: Vec<_> = change::between(live.listing().as_deref(), &listed).collect();
                live.set(listed);
                self.note_drift(gateway);
                changed.into_iter().for_each(|feed| self.tell(Change::List(feed)));
                // From here on a call finds the live definitions, so the connection may carry calls.
                let _ = compared.send(());
            }
            // The log has it already, with the time of the next attempt.
            Event::Lost { .. } => {}
            Event::Late { calls } => {
                let (first, more) = calls.take();
                let note = "an answer came after its call had ended, and was dropped";
                first.iter().for_each(|call| self.did(upstream, "late answers", note, (Some(*call), 1)));
                self.did(upstream, "late answers", note, (None, more));
            }
            Event::Unasked { answers } => {
                let (first, more) = answers.take();
                let note = "the server answered a request that it was never sent, or long ago";
                self.did(upstream, "answers nobody asked for", note, (None, more + first.len() as u64));
            }
            Event::Started(started) => self.starts.note(&self.shared, &report.upstream, &started),
            Event::Updated { uri } => self.tell(Change::Updated { upstream: Arc::clone(&report.upstream), uri: uri.into() }),
            Event::Refused { requests } => {
                let (first, more) = requests.take();
                for Asking { method, call } in &first {
                    let note = format!("the server asked `{method}`, which this gateway did not offer");
                    self.did(upstream, "requests of a server", &note, (*call, 1));
                }
                self.did(upstream, "requests of a server", "the server asked what this gateway did not offer", (None, more));
            }
        }
    }

    /// Records what a server did unasked, so often, and of which call where that is known.
    fn did(&self, upstream: &str, sort: &'static str, note: &str, (call, times): (Option<u128>, u64)) {
        if times > 0 {
            let call_id = call.map(|tag| uuid::Uuid::from_u128(tag).to_string().into());
            let count = (times > 1).then_some(times);
            let (upstream, note) = (Some(upstream.into()), Some(note.into()));
            self.shared.audit.note_upstream(sort, &Record { call_id, upstream, note, count, ..Record::new(Kind::Late) });
        }
    }

    /// Tells whoever listens; nobody has to.
    fn tell(&self, change: Change) {
        let _ = self.shared.changes.send(change);
    }

    /// Records and logs each tool whose live definition has come to differ from the reviewed one, once for each change.
    pub fn note_drift(&self, gateway: &Gateway) {
        let mut known = lock(&self.drifted);
        for source in gateway.catalog().sources() {
            let Some(live) = source.live.listing() else { continue };
            for (name, reviewed) in &source.lock.tools {
                let Some(found) = live.tools.get(name) else { continue };
                let target = format!("{}__{name}", source.manifest.upstream);
                if found.hash == reviewed.hash {
                    known.remove(&target);
                } else if known.insert(target.clone()) {
                    self.record_drift(&target, reviewed, found);
                }
            }
        }
    }

    fn record_drift(&self, target: &str, reviewed: &Definition, found: &Definition) {
        let pointers = match (reviewed.node(), found.node()) {
            (Some(was), Some(is)) => changes(&was, &is).into_iter().map(|change| change.pointer).collect::<Vec<_>>().join(", "),
            _ => String::new(),
        };
        tracing::warn!(target, changed = pointers, "withheld: the definition differs from the reviewed one; see `doorward tools diff`");
        self.shared.audit.note(&Record {
            target: Some(target.into()),
            action: Some("drift".into()),
            before: Some(format!("sha256:{}", seal::hex(&reviewed.hash)).into()),
            after: Some(format!("sha256:{}", seal::hex(&found.hash)).into()),
            note: Some(pointers.chars().take(300).collect::<String>().into()),
            ..Record::new(Kind::CatalogChange)
        });
    }

    /// Leaves the processes of upstreams little time to end by themselves.
    pub fn hurry(&self) {
        lock(&self.running).values().for_each(|(_, upstream)| upstream.hurry());
    }

    /// Ends every call that waits for an answer, and then every upstream with its processes.
    pub async fn stop(&self) {
        self.shared.end_waiting().await;
        self.stop.cancel();
        let running: Vec<Upstream> = lock(&self.running).values().map(|(_, upstream)| upstream.clone()).collect();
        let stops = running.into_iter().map(|upstream| tokio::spawn(async move { upstream.stop().await }));
        for stop in stops.collect::<Vec<_>>() {
            let _ = stop.await;
        }
        self.starts.finish().await;
        self.keep_spent_now().await;
    }
}

/// Tells whether an upstream is still reached in the same way.
fn fingerprint(source: &Source) -> String {
    let (manifest, defaults) = (&source.manifest, &source.manifest.defaults);
    let places = (defaults.concurrency, defaults.concurrency_per_agent, defaults.queue, defaults.queue_per_agent);
    let bounds = (places, defaults.connect_timeout_ms, defaults.retry_budget_percent);
    // A legacy server is told at the handshake what it may ask.
    let reached = serde_json::to_vec(&(&manifest.transport, bounds, &manifest.may_ask)).unwrap_or_default();
    seal::hex(&seal::sha256(&reached))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
