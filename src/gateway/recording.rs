//! The log as a process opens it, and who can open what is kept beside it.
//!
//! Owns: the log's options, and that nothing demands payloads which nobody could open. Leaves to others: the log itself (`audit`).

use std::path::Path;
use std::sync::Arc;

use super::assembly::{LogOrigin, StartError};
use super::folders::Folders;
use crate::audit::disk::Disk;
use crate::audit::log::{Log, Opened, Options as LogOptions};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::{Config, Fault, fault_at, read_text};
use crate::policy::{Obligation, Policy};

/// Opens the log of this process.
pub(super) fn open_log(config: &Config, origin: LogOrigin, clock: &Clock) -> Result<(Log, Opened), StartError> {
    let options = LogOptions {
        clock: clock.clone(),
        name: config.audit.name.as_str().to_owned(),
        deadline_ms: config.audit.deadline_ms.value(),
        segment_max_bytes: config.audit.segment_max_bytes.value(),
        segment_max_age_ms: config.audit.segment_max_age_hours.value() * 3_600_000,
        reserve_bytes: config.audit.reserve_bytes.value(),
        ..LogOptions::default()
    };
    let (dir, keys): (&Path, _) = (config.audit.dir.as_ref(), config.log_keys());
    Ok(match origin {
        LogOrigin::Main { accept_damage } => {
            let disk = Disk::open(dir, &keys, "main")?;
            Log::open(LogOptions { origin: "main".to_owned(), accept_damage, ..options }, Arc::new(disk))?
        }
        LogOrigin::FirstFree => Log::open_first_free(&options, dir, &keys, "local")?,
    })
}

/// Refuses what demands that payloads be kept, where nobody is configured who could open them.
pub(super) fn opened_by_somebody(folders: &Folders, catalog: &Catalog, policy: &Policy) -> Result<(), Vec<Fault>> {
    if folders.has_openers {
        return Ok(());
    }
    let demand = |upstream: &str, tool: &str| {
        let file = folders.manifests.join(format!("{upstream}.yaml"));
        let text = read_text(&file).unwrap_or_default();
        let message = format!("`{tool}` is to be recorded with its payload, and {NOBODY}");
        fault_at(&file, &text, &["tools", tool, "record_payload"], message).help(NO_OPENERS)
    };
    let all = catalog.sources().iter().flat_map(|source| source.manifest.tools.iter().map(move |(tool, entry)| (source, tool, entry)));
    let entries = all.filter(|(_, _, entry)| entry.record_payload).map(|(source, tool, _)| demand(&source.manifest.upstream, tool));
    let rows = folders.policies.join("policy.csv");
    let rules = policy.rows().rules.iter().filter(|rule| rule.effect.obligation() == Some(&Obligation::RecordPayload));
    let rules = rules.map(|rule| {
        let message = format!("the row demands that payloads be recorded, and {NOBODY}");
        Fault::at(&rows, rule.at.line.into(), rule.at.columns[6].into(), message).help(NO_OPENERS)
    });
    let faults: Vec<_> = entries.chain(rules).take(MAX_FAULTS).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

const MAX_FAULTS: usize = 50;
const NOBODY: &str = "nobody is configured who could open one";
/// How payloads come to be kept.
const NO_OPENERS: &str = "make a key with `doorward audit keygen --opener NAME --out FILE`, add its `payload_key` to NAME in `people`, and name who \
                          opens payloads in `audit: { payloads: { openers: [NAME, …] } }` of doorward.yaml; or take `record_payload` out";
