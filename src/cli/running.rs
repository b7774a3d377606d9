//! A gateway with everything that keeps it current: reload, what is done each second and each minute, and the stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, interval};

use super::{Failure, local};
use crate::audit::anchor::{Anchors, Source};
use crate::audit::record::{Kind, Record};
use crate::audit::retention::PruneError;
use crate::clock::Clock;
use crate::config::{Config, Fault};
use crate::gateway::{Assembly, Gateway, Teller, Versions, config_version};
use crate::listen::Service;
use crate::upstream::Report;

const SECOND: Duration = Duration::from_secs(1);
/// Also how much of the counts of error budgets a kill may lose.
const MINUTE: Duration = Duration::from_secs(60);
/// How long anchors may take for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(2);
/// How long the webhook may take for the last messages.
pub(super) const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// How long a collector of traces may take for the last calls.
#[cfg(feature = "otel")]
const LAST_TRACES: Duration = Duration::from_secs(2);

/// When the next round of what keeps a gateway current is due.
pub(super) struct Rounds {
    second: Interval,
    minute: Interval,
}

/// One round.
#[derive(Clone, Copy)]
pub(super) enum Round {
    Second,
    Minute,
}

impl Rounds {
    /// The first of each is due at once.
    pub fn begin() -> Self {
        Self { second: interval(SECOND), minute: interval(MINUTE) }
    }

    /// Waits for the next. May be dropped while it waits.
    pub async fn next(&mut self) -> Round {
        tokio::select! {
            _ = self.minute.tick() => Round::Minute,
            _ = self.second.tick() => Round::Second,
        }
    }
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
    pub fn prune(&self) {
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

    /// What keeps the gateway current while it runs.
    pub async fn go_round(&self, round: Round) {
        match round {
            Round::Second => {
                self.assembly.shared().audit.store_counted();
                self.assembly.look_for_freezes();
                self.assembly.keep_spent();
                self.expire().await;
                self.assembly.look_at_objectives(&self.service.gateway());
            }
            Round::Minute => {
                self.assembly.sweep_limits();
                self.assembly.store_objectives().await;
            }
        }
    }

    /// Ends calls that have waited too long for a person's yes, and forgets stored results whose time is over.
    async fn expire(&self) {
        if let Err(error) = self.assembly.shared().expire_approvals().await {
            tracing::error!(error = error.detail(), "approvals that are too late could not be ended");
        }
        if let Err(error) = self.assembly.shared().forget_replays().await {
            tracing::error!(error = error.detail(), "stored results whose time is over could not be forgotten");
        }
    }

    pub fn versions(&self) -> Versions {
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
        self.assembly.store_objectives().await;
    }
}

/// Begins to tell the collector of traces, where there is one.
#[cfg(feature = "otel")]
fn traces(config: &Config, audit: &crate::audit::trail::Audit) -> Result<Option<crate::trace::Exporter>, Failure> {
    let Some(otlp) = &config.telemetry.otlp else { return Ok(None) };
    let instance = format!("{}/{}", config.audit.name.as_str(), audit.log().origin());
    crate::trace::Exporter::start(otlp, audit.traces(), &instance).map_err(Failure::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_has_sixty_rounds_of_a_second_and_one_of_its_own() {
        let mut rounds = Rounds::begin();
        let began = tokio::time::Instant::now();
        let mut counts = [0, 0];
        loop {
            let round = rounds.next().await;
            // What is due at the start belongs to no minute.
            match began.elapsed() {
                Duration::ZERO => continue,
                passed if passed > MINUTE => break,
                _ => counts[round as usize] += 1,
            }
        }
        assert_eq!(counts, [60, 1]);
    }

    #[tokio::test]
    async fn each_minute_what_limits_need_no_more_is_forgotten() {
        let site = tempfile::tempdir().unwrap();
        for folder in ["policies", "tool-manifests"] {
            std::fs::create_dir(site.path().join(folder)).unwrap();
        }
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/model.conf");
        std::fs::copy(model, site.path().join("policies/model.conf")).unwrap();
        std::fs::write(site.path().join("policies/policy.csv"), "").unwrap();
        std::fs::write(site.path().join("policies/limits.yaml"), "requests: { per_agent: 1000/s }\n").unwrap();
        let file = site.path().join("doorward.yaml");
        std::fs::write(&file, "listen: { http: \"127.0.0.1:0\" }\n").unwrap();
        let (running, _events) = local::start(&Config::load(&file).unwrap()).await.unwrap();
        let gateway = running.service.gateway();
        gateway.limits().request(gateway.limits().agent("one")).unwrap();
        assert_eq!(gateway.limits().keys(), 1);
        while gateway.limits().keys() > 0 {
            running.go_round(Round::Minute).await;
        }
        running.stop("the test is over").await;
    }
}
