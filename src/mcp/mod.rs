//! The wire: JSON, JSON-RPC and MCP's messages in every revision, and how an outcome is written.
//!
//! Knows only `error`. What a message means to the gateway is decided elsewhere.

pub mod canonical;
pub mod capabilities;
pub mod decimal;
pub mod framing;
pub mod json;
pub mod jsonrpc;
pub mod log_level;
pub mod messages;
pub mod plain;
pub mod respond;
pub mod revision;
