//! Doorward: an MCP tool gateway. It stands between agents and tool servers, and every `tools/call` takes one path.
//!
//! # The map
//!
//! Modules stand in import order: each imports only what stands before it (`tests/it/architecture.rs` holds this).
//!
//! | module | what is decided there |
//! |---|---|
//! | [`error`] | every code that an agent may be told, in one table |
//! | [`clock`], [`telemetry`], [`config`], [`seal`], [`state`] | time, metrics, the operator's file, hashes and seals, the small database |
//! | [`trace`] | which calls a collector of traces is told of, and what of them |
//! | [`fetch`] | which addresses are fit for keys and credentials, and how small documents come from there |
//! | [`mcp`] | the wire: JSON, JSON-RPC, messages, how outcomes are written |
//! | [`schema`] | which schemas compile, and whether arguments match |
//! | [`catalog`] | which tools there are, how harmful, and whether they are as reviewed |
//! | [`sandbox`] | what the process of a tool server may open, reach and use up |
//! | [`identity`] | who is calling |
//! | [`run`] | what an agent has met and made before: labels and counts |
//! | [`objective`] | how often tools work, against how often they have to |
//! | [`policy`], [`freeze`], [`limit`], [`replay`], [`approval`] | may they, has a person stopped it, how often, was it made already, does a person have to say yes |
//! | [`audit`] | the record, before anything is done |
//! | [`upstream`], [`inspect`] | the tool server, and what it answered |
//! | [`gateway`] | the path itself, and the exit |
//! | [`listen`], [`cli`] | HTTP, stdio, the admin socket, the console; the command line |
//! | [`demo`] | a tool server to try things on |
//!
//! # The walk of one call
//!
//! 1. `listen/http.rs` checks where the request comes from, [`gateway::Gateway::authenticate`] who sent it, and only then the
//!    body is read. `mcp/json.rs` parses it once; `listen/dispatch.rs` finds a `tools/call` in it.
//! 2. `gateway.rs` begins a trail and runs the stages: resolve, sees, validate, decide, admit, replay, approve, reserve, still current,
//!    **store the intent** (and before it use the approval up), forward, inspect. Each refuses with an [`error::Error`], and none can be left out: what is
//!    forwarded is [`audit::trail::Recorded`], which only the stage before it makes.
//! 3. The trail is closed once: an outcome for an intent, a refusal otherwise. `mcp/respond.rs` writes the answer.
//!
//! # Invariants
//!
//! - No record, no call. One intent, one end.
//! - What was validated is what is forwarded: the bytes of the same span.
//! - A call with a key acts once: its repeat gets the stored result, or the truth.
//! - Without a rule the answer is no.
//! - A fault in a file leaves what is in force in force.

pub mod clock;
pub mod config;
pub mod error;
pub mod fetch;
pub mod seal;
pub mod state;
pub mod telemetry;
pub mod trace;

pub mod mcp;
pub mod schema;

pub mod catalog;
pub mod identity;
pub mod invocation;
pub mod objective;
pub mod run;
pub mod sandbox;

pub mod approval;
pub mod freeze;
pub mod limit;
pub mod policy;
pub mod replay;

pub mod audit;
pub mod gateway;
pub mod inspect;
pub mod upstream;

pub mod cli;
pub mod listen;

pub mod demo;
