//! What carries over from one snapshot of the gateway to the next.
//!
//! Owns: the list of it. Leaves to each part what it keeps.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::compensating::Undoable;
use super::rounds::Rounds;
use super::{Change, telling};
use crate::approval::Approvals;
use crate::audit::anchor::Standings;
use crate::audit::filler::Indexed;
use crate::audit::trail::Audit;
use crate::freeze::Freezes;
use crate::identity::Identity;
use crate::objective::Objectives;
use crate::replay::Replays;
use crate::run::Runs;
use crate::schema::Schemas;
use crate::seal::Seal;
use crate::telemetry::Telemetry;

/// What carries over from one snapshot to the next.
pub struct Shared {
    /// The log.
    pub audit: Audit,
    /// How the anchors of the audit log stand.
    pub anchored: Standings,
    /// How the index of the audit logs stands.
    pub indexed: Indexed,
    /// What people have stopped for a while.
    pub freezes: Freezes,
    /// What agents have met.
    pub runs: Arc<Runs>,
    /// Who is let in; swapped by itself, so that a revoked key is gone at once.
    pub identity: ArcSwap<Identity>,
    /// Compiled schemas.
    pub schemas: Schemas,
    /// How often tools fail, against how often they may.
    pub objectives: Objectives,
    /// Counters.
    pub telemetry: Telemetry,
    /// What is handed out and wanted back unchanged.
    pub seal: Arc<Seal>,
    /// Calls that go on with an agent's answers.
    pub rounds: Rounds,
    /// Calls that wait for a person's yes.
    pub approvals: Approvals,
    /// How the webhook stands that is told of them.
    pub told: telling::Standings,
    /// Calls with a key, whose repeats do not act again.
    pub replays: Arc<Replays>,
    /// Calls that their agents can take back.
    pub undoable: Undoable,
    /// Where changes of lists and resources are told; whoever listens subscribes.
    pub changes: broadcast::Sender<Change>,
}
