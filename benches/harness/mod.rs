//! The parts of the benchmark. Each process of a run (upstream, floor, load) is this same program under another subcommand.

pub mod client;
pub mod doorward;
pub mod exchange;
pub mod floor;
pub mod link;
pub mod process;
pub mod report;
pub mod run;
pub mod scale;
pub mod sessions;
pub mod shed;
pub mod siege;
pub mod tools;
pub mod upstream;
pub mod wire;

/// What can go wrong ends the run with a sentence, so a boxed error says enough.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The two ways of speaking MCP over HTTP that a gateway must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
pub enum Era {
    /// 2025-11-25: a handshake, then a session header on every request.
    #[value(name = "2025")]
    Legacy,
    /// 2026-07-28: no state; every request describes itself in headers and `_meta`.
    #[value(name = "2026")]
    Modern,
}

impl Era {
    /// The protocol version as it travels.
    pub fn version(self) -> &'static str {
        match self {
            Era::Legacy => "2025-11-25",
            Era::Modern => "2026-07-28",
        }
    }

    /// The year alone, for tables.
    pub fn year(self) -> &'static str {
        &self.version()[..4]
    }
}
