//! What happened, stored before it happens: the durable, hash-chained log and the questions it answers.
//!
//! Owns: the record's form (`record`, `encode`, `schema`), the chain (`chain`), the tree and its proofs (`tree`, `proof`), what is signed and how
//! (`checkpoint`, `note`), all file work (`storage` and its two makers), the writer (`log`, `queue`, `writer`, `rounds`, `repair`), who vouches for what
//! it wrote (`notary`), what is past its time (`retention`), where checkpoints go (`anchor`), what a start does after a crash (`recovery`, `evidence`),
//! the check (`verify`), what records name by a hash (`kept`), the questions (`find`), the index that makes them fast (`index`, `filler`), what is
//! handed to somebody outside (`export`, `pack`), and what is kept sealed beside the records (`payload`).
//! Leaves to others: what a call is and when it is recorded.
//!
//! INVARIANT: what was acknowledged is in the chain, and what was refused is not, unless an end follows it.
//! INVARIANT: every intent has exactly one end, if need be an `unresolved` one.

mod ahead;
pub mod anchor;
pub mod anomalies;
pub mod chain;
pub mod checkpoint;
pub mod decisions;
pub mod disk;
pub mod encode;
mod evidence;
pub mod export;
pub mod filler;
pub mod filter;
pub mod find;
pub mod follow;
pub mod gaps;
pub mod guess;
pub mod index;
pub mod kept;
mod lines;
pub mod log;
mod notary;
pub mod note;
pub mod pack;
pub mod payload;
pub mod proof;
mod queue;
pub mod reach;
pub mod record;
pub mod recovery;
pub mod redact;
mod repair;
pub mod report;
pub mod retention;
mod rounds;
pub mod row;
pub mod schema;
pub mod simulated;
pub mod stats;
pub mod storage;
pub mod timeline;
pub mod trail;
pub mod tree;
pub mod trust;
pub mod values;
pub mod verify;
mod writer;

pub use encode::Entry;
pub use log::{AppendError, Durability, Health, Log, OpenError, Opened, Options, Position};
pub use record::{Kind, Record};
