//! `idempotency` of `doorward.yaml`: how much is kept of calls so that a repeat of one does not act again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bound;

/// What is kept of calls that are told apart by a key or by their arguments.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    /// Longest wait of a repeat for the first call to end, in milliseconds: 0 to 60000, default 10000. Then `duplicate_in_flight`.
    pub wait_ms: Bound<10_000, 0, 60_000>,
    /// Repeats that wait so in the whole gateway: 1 to 65536, default 1024; a quarter of them may be one agent's. Then `duplicate_in_flight`.
    pub max_waiting: Bound<1_024, 1, 65_536>,
    /// Calls that are known in all: 16 to 10000000, default 200000. Then `overloaded`.
    pub max_calls: Bound<200_000, 16, 10_000_000>,
    /// Calls of one agent that are known: 1 to 10000000, default 20000. Then `concurrency_limited`.
    pub max_calls_per_agent: Bound<20_000, 1, 10_000_000>,
    /// Largest result that is kept, in bytes: 0 to 16777216, default 262144. What is larger is given once, and a repeat is told so.
    pub max_result_bytes: Bound<262_144, 0, 16_777_216>,
    /// Bytes of all results that are kept, as they are stored: 0 to 68719476736, default 268435456. Beyond it none is kept.
    pub max_bytes: Bound<268_435_456, 0, 68_719_476_736>,
    /// Bytes of one agent's results that are kept, as they are stored: 0 to 68719476736, default 67108864.
    pub max_bytes_per_agent: Bound<67_108_864, 0, 68_719_476_736>,
}
