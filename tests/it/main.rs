//! Doorward through its public surface: one file per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod audit_log;
mod demo_server;
mod json;
mod policy;
mod policy_pitfalls;
mod rates;
mod schema;
mod watch;
