//! Doorward through its public surface: one file per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod answers;
mod architecture;
mod arguments;
mod audit_anchors;
mod audit_brought;
mod audit_evidence;
mod audit_export;
mod audit_index;
mod audit_log;
mod audit_record;
mod audit_root_key;
mod audit_verify_cli;
mod cli_answers;
mod connections;
mod demo_server;
mod denies_by_default;
mod disconnect;
mod errors_golden;
mod fault_table;
mod framing;
mod headers;
mod identity;
#[path = "../incidents/mod.rs"]
mod incidents;
mod interop_regressions;
mod json;
mod keys;
mod kill;
mod limits;
mod mcp_checklist;
mod one_end;
mod policy;
mod policy_live;
mod policy_pitfalls;
mod rates;
mod refused_heads;
mod reload;
mod samples_load;
mod schema;
mod secrets_stay_inside;
mod sessions;
mod shares;
mod start_stop;
mod stdio;
mod subscriptions;
mod support;
mod timeouts;
mod tokens;
mod tool_servers;
mod upstream_tokens;
mod watch;
mod withheld;
mod wrap;
