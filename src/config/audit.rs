//! The operator's choices for the audit log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Anchor, AuditDir, Bound, Folder, KeyText, LogName, Payloads};

/// The audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Folder of the log; mode 0700. Default `var/audit`.
    pub dir: Folder<AuditDir>,
    /// Whose log it is, in the names of its keys and checkpoints (`NAME/ORIGIN`): 1 to 64 of `A-Za-z0-9._-`. Default `doorward`.
    pub name: LogName,
    /// The operator's root key, as `doorward audit keygen` prints it; `doorward audit verify` asks for its word. Default: none.
    pub root_key: Option<KeyText>,
    /// What an intent waits for, by tier.
    pub durability: DurabilityByTier,
    /// Longest wait for a record to be stored, in milliseconds: 100 to 60000, default 2000. Then `audit_unavailable`.
    pub deadline_ms: Bound<2000, 100, 60_000>,
    /// A segment is sealed at this size in bytes: 65536 to 1073741824, default 67108864.
    pub segment_max_bytes: Bound<67_108_864, 65_536, 1_073_741_824>,
    /// A segment is sealed at this age in hours: 1 to 8760, default 24.
    pub segment_max_age_hours: Bound<24, 1, 8_760>,
    /// Space kept free so that running calls can end with a record, in bytes: 0 to 1073741824, default 67108864.
    pub reserve_bytes: Bound<67_108_864, 0, 1_073_741_824>,
    /// Where checkpoints go besides the log's own disk. Without one nobody can tell that the newest records were cut off, and nothing is removed.
    pub anchors: Vec<Anchor>,
    /// A sealed segment that an anchor covers is removed so many days after its seal: 1 to 36500, default 400.
    pub retention_days: Bound<400, 1, 36_500>,
    /// Arguments and results that are kept sealed, where a policy row or a manifest says `record_payload`.
    pub payloads: Payloads,
}

/// An intent's durability by the tier of its tool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DurabilityByTier {
    /// Tier `read` without the label `private`. Default `write`.
    pub read: Durability,
    /// Everything else. Default `sync`.
    pub other: Durability,
}

impl Default for DurabilityByTier {
    fn default() -> Self {
        Self { read: Durability::Write, other: Durability::Sync }
    }
}

/// What a stored record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The end of the process: one write to the file.
    Write,
    /// The loss of power too: a group `fdatasync`.
    Sync,
}
