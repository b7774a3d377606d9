//! The revisions of the protocol, and the two eras that they fall into.

use std::fmt;

/// The revisions of MCP, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// HTTP+SSE and stdio.
    V2024_11_05,
    /// Streamable HTTP, batches.
    V2025_03_26,
    /// Structured results.
    V2025_06_18,
    /// The last with a handshake.
    V2025_11_25,
    /// Stateless.
    V2026_07_28,
}

impl Revision {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// The newest with a handshake.
    pub const NEWEST_LEGACY: Self = Self::V2025_11_25;
    /// The newest.
    pub const NEWEST: Self = Self::V2026_07_28;

    /// The revision of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == name)
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether every request describes itself, without a handshake.
    pub fn is_modern(self) -> bool {
        self >= Self::V2026_07_28
    }

    /// Its era.
    pub fn era(self) -> Era {
        if self.is_modern() { Era::Modern } else { Era::Legacy }
    }

    /// Whether an array of messages is one transmission (2025-03-26, basic, batching).
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Whether HTTP requests name the revision in a header (2025-06-18, transports).
    pub fn has_header(self) -> bool {
        self >= Self::V2025_06_18
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// How two peers keep state: the one thing that adapters differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2026-07-28: each request describes itself.
    Modern,
    /// 2025-11-25 and before: `initialize` opens a session.
    Legacy,
}
