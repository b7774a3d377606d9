//! What goes wrong with tool servers, in every way to one: what its callers are told, and that nobody else notices. One command prints the table:
//!
//! ```text
//! cargo test --test it upstream_faults -- --nocapture
//! ```
//! A row is a fault and a way. Behind one gateway each row has a server of its own that fails so, and all of them stand beside a healthy one that others
//! call all the time. The server's tool `look` is called once, which only reads and may be sent again, then `act` until it is left alone, or six
//! times. What has to hold:
//! - each call is told the code and the effect that the row says, and no other;
//! - the others go on, also with another tool of the same server where the fault leaves one process or stream to it;
//! - the breaker opens with the fifth failure that may pass and closes when the fault is over, and no other failure trips it;
//! - all places are free again, and nobody waits for one;
//! - what the server got has an intent each, and as many attempts at most as are on record; `act` is never sent twice;
//! - every intent has one end.
//!
//! `DOORWARD_FAULT_ROW` runs only the rows whose fault holds these words.

mod gate;
mod http;
mod old_sse;
mod pipes;
mod row;
mod world;

use row::{Breaker, Expected};

/// The ways to a server, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Streamable HTTP of 2026-07-28, whose answers are JSON or a stream of events.
    Modern { events: bool },
    /// Streamable HTTP of 2025-11-25, likewise.
    Legacy { events: bool },
    /// HTTP+SSE of 2024-11-05.
    OldSse,
    /// Pipes, of 2026-07-28 and of a revision with a handshake.
    Pipes { mode: &'static str },
}

const WAYS: [(&str, Way); 7] = [
    ("HTTP 2026-07-28, JSON", Way::Modern { events: false }),
    ("HTTP 2026-07-28, events", Way::Modern { events: true }),
    ("HTTP 2025-11-25, JSON", Way::Legacy { events: false }),
    ("HTTP 2025-11-25, events", Way::Legacy { events: true }),
    ("HTTP+SSE 2024-11-05", Way::OldSse),
    ("pipes 2026-07-28", Way::Pipes { mode: "modern" }),
    ("pipes 2025-06-18", Way::Pipes { mode: "legacy" }),
];

const fn opens(told: &'static str) -> Expected {
    Some((told, Breaker::Opens))
}

const fn stays(told: &'static str) -> Expected {
    Some((told, Breaker::Stays))
}

/// There is no such fault on this way.
const NO: Expected = None;
const FINE: Expected = stays("ok");
const LATE: Expected = opens("upstream_timeout unknown");
const LOST: Expected = opens("upstream_disconnected unknown");
const STRANGE: Expected = opens("upstream_protocol_error unknown");
/// A whole message whose result is of no use, and an answer all the same.
const ANSWER: Expected = stays("upstream_protocol_error unknown");
const LARGE: Expected = stays("result_too_large unknown");
const FAILED: Expected = opens("upstream_unavailable unknown");
const REFUSED: Expected = stays("upstream_unavailable none");
const GONE: Expected = Some(("upstream_unavailable none", Breaker::Left));
const BROKEN: Expected = stays("upstream_error unknown");
const SCHEMA: Expected = stays("result_invalid done");
/// An end that is none: the agent may send the call once more, with the state.
const ROUND: Expected = stays("input_required");
/// The agent has not said that it can be asked.
const UNABLE: Expected = stays("client_capability_missing unknown");
const SAID: Expected = stays("tool_error");

/// What each fault is told as, by way: JSON and events of 2026-07-28, the same of 2025-11-25, HTTP+SSE, and pipes of both eras.
const TABLE: [(&str, [Expected; 7]); 40] = [
    ("refuses", [GONE, GONE, GONE, GONE, GONE, GONE, GONE]),
    ("hangs", [LATE, LATE, LATE, LATE, LATE, NO, NO]),
    ("answers never", [LATE, LATE, LATE, LATE, LATE, LATE, LATE]),
    ("resets", [LOST, LOST, LOST, LOST, LOST, NO, NO]),
    ("resets midway", [LOST, LOST, LOST, LOST, LOST, LOST, LOST]),
    ("drips", [LATE, LATE, LATE, LATE, LATE, LATE, LATE]),
    ("wrong id", [STRANGE, LOST, STRANGE, LOST, LATE, LATE, LATE]),
    ("twice", [STRANGE, FINE, STRANGE, FINE, FINE, FINE, FINE]),
    ("huge", [LARGE, LARGE, LARGE, LARGE, LOST, STRANGE, STRANGE]),
    ("no json", [STRANGE, STRANGE, STRANGE, STRANGE, LATE, LATE, LATE]),
    ("doubled inside", [ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER]),
    ("doubled", [STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE]),
    ("cut off", [STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE]),
    ("without result", [STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE]),
    ("deep", [STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE, STRANGE]),
    ("bad text", [NO, NO, NO, NO, NO, STRANGE, STRANGE]),
    ("exits", [NO, NO, NO, NO, LOST, LOST, LOST]),
    ("exits after", [NO, NO, NO, NO, FINE, FINE, FINE]),
    ("leaves an heir", [NO, NO, NO, NO, NO, LOST, LOST]),
    ("leaves zombies", [NO, NO, NO, NO, NO, FINE, FINE]),
    ("multiplies", [NO, NO, NO, NO, NO, LOST, LOST]),
    ("floods", [NO, FINE, NO, FINE, FINE, FINE, FINE]),
    ("progress after", [NO, FINE, NO, FINE, FINE, FINE, FINE]),
    ("asks", [NO, FINE, NO, FINE, FINE, FINE, FINE]),
    ("never ends", [LATE, LATE, LATE, LATE, LATE, LATE, LATE]),
    ("redirects", [ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, NO, NO]),
    ("fails", [FAILED, FAILED, FAILED, FAILED, FAILED, NO, NO]),
    ("too many", [REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, NO, NO]),
    ("wrong type", [STRANGE, STRANGE, STRANGE, STRANGE, NO, NO, NO]),
    ("huge head", [LOST, LOST, LOST, LOST, NO, NO, NO]),
    ("state unasked", [ROUND, ROUND, ANSWER, ANSWER, ANSWER, ROUND, ANSWER]),
    ("state in a result", [FINE, FINE, FINE, FINE, FINE, FINE, FINE]),
    ("questions unasked", [UNABLE, UNABLE, ANSWER, ANSWER, ANSWER, UNABLE, ANSWER]),
    ("off schema", [SCHEMA, SCHEMA, SCHEMA, SCHEMA, SCHEMA, SCHEMA, SCHEMA]),
    ("no object", [ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER]),
    ("error", [BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN]),
    ("tool error", [SAID, SAID, SAID, SAID, SAID, SAID, SAID]),
    ("banners", [NO, NO, NO, NO, NO, FINE, FINE]),
    ("babbles", [NO, NO, NO, NO, LOST, STRANGE, STRANGE]),
    ("goes deaf", [NO, NO, NO, NO, NO, LATE, LATE]),
];

async fn table(column: usize) {
    let wanted = std::env::var("DOORWARD_FAULT_ROW").unwrap_or_default();
    let rows = TABLE.iter().filter(|(fault, _)| fault.contains(&wanted));
    let rows: Vec<_> = rows.filter_map(|(fault, expected)| Some((*fault, expected[column]?))).collect();
    let (name, way) = WAYS[column];
    let wrong = world::run(name, way, &rows).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_on_http_of_2026_07_28_that_answer_in_json() {
    table(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_on_http_of_2026_07_28_that_answer_in_events() {
    table(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_on_http_of_2025_11_25_that_answer_in_json() {
    table(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_on_http_of_2025_11_25_that_answer_in_events() {
    table(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_on_http_and_sse() {
    table(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_modern_servers_on_pipes() {
    table(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_legacy_servers_on_pipes() {
    table(6).await;
}
