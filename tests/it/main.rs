//! Doorward through its public surface: one file per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod architecture;
mod arguments;
mod audit_log;
mod demo_server;
mod denies_by_default;
mod headers;
mod identity;
mod json;
mod policy;
mod policy_pitfalls;
mod rates;
mod schema;
mod sessions;
mod support;
mod watch;
