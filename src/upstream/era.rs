//! The revisions of the protocol, their two eras, and the rules by which a server's era is found out.
//!
//! Owns: what follows from the answer to `server/discover`. Leaves to others: sending it, and what silence means (`handshake`).
//! INVARIANT: only silence on stdio, or an answer that no modern server gives, leads to `initialize`; a fault of the
//! way to the server (5xx, a timeout on HTTP, a redirect, a refused credential) says nothing about its era.

use crate::mcp::revision::{Era, Revision};

/// What a server was last found to speak: its era and, where that does not follow from the manifest, the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// 2026-07-28.
    Modern,
    /// 2025-11-25 and before.
    Legacy,
    /// 2025-11-25 and before on the transport of 2024-11-05, HTTP+SSE.
    LegacySse,
}

impl Dialect {
    /// The word in the state database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
            Self::LegacySse => "legacy_sse",
        }
    }

    /// The dialect of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Modern, Self::Legacy, Self::LegacySse].into_iter().find(|dialect| dialect.as_str() == word)
    }
}

/// What came back when `server/discover` was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// A `DiscoverResult` with these `supportedVersions`.
    Discovered(Vec<String>),
    /// A JSON-RPC error, with `data.supported` where it has one; whatever the HTTP status.
    Refused {
        /// The error's number.
        code: i64,
        /// The revisions that the server names.
        supported: Vec<String>,
    },
    /// A result of another shape, as of a server that answers whatever it is asked.
    Strange,
    /// An HTTP status and no JSON-RPC message with it.
    Status(u16),
}

/// What to do after a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The server is modern.
    Modern,
    /// Try `initialize`.
    Initialize,
    /// Neither: try again later. The text is for the operator.
    Fail(String),
}

/// Whether a server that refuses `initialize` so, with this error code where it names one, may speak HTTP+SSE (2026-07-28,
/// streamable HTTP, backward compatibility).
pub(super) fn may_be_old_sse(status: u16, code: Option<i64>) -> bool {
    matches!(status, 400 | 404 | 405) && !matches!(code, Some(HEADER_MISMATCH | CAPABILITY_MISSING | UNSUPPORTED_VERSION))
}

const METHOD_NOT_FOUND: i64 = -32601;
const HEADER_MISMATCH: i64 = -32020;
const CAPABILITY_MISSING: i64 = -32021;
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// Decides on the era after a probe over HTTP (2026-07-28, streamable HTTP, backward compatibility).
pub(super) fn after_http(probe: &Probe) -> Next {
    match probe {
        Probe::Status(401 | 403) => Next::Fail("the server refuses the gateway's credential".to_owned()),
        Probe::Status(status @ (300..=399)) => Next::Fail(format!("the server redirects (HTTP {status}), and redirects are not followed")),
        Probe::Status(status @ (429 | 500..=599)) => Next::Fail(format!("the server answers with HTTP {status}")),
        Probe::Status(_) => Next::Initialize,
        other => after_message(other),
    }
}

/// Decides on the era after an answer to a probe, where no HTTP status stands in the way (2026-07-28, stdio, backward
/// compatibility).
pub(super) fn after_message(probe: &Probe) -> Next {
    match probe {
        Probe::Discovered(supported) => pick(supported),
        Probe::Refused { code: UNSUPPORTED_VERSION, supported } => pick(supported),
        Probe::Refused { code: code @ (HEADER_MISMATCH | CAPABILITY_MISSING), .. } => {
            Next::Fail(format!("the server refuses `server/discover` with error {code}"))
        }
        // A modern server must know the method, so this is how a legacy one says no; the others are generic.
        Probe::Refused { code: METHOD_NOT_FOUND, .. } | Probe::Refused { .. } | Probe::Strange => Next::Initialize,
        Probe::Status(_) => Next::Initialize,
    }
}

fn pick(supported: &[String]) -> Next {
    let best = supported.iter().filter_map(|text| Revision::parse(text)).max();
    match best.map(Revision::era) {
        Some(Era::Modern) => Next::Modern,
        Some(Era::Legacy) => Next::Initialize,
        None => Next::Fail("the server speaks no revision of the protocol that we do".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64, supported: &[&str]) -> Probe {
        Probe::Refused { code, supported: supported.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn recognised_modern_errors_do_not_fall_back() {
        assert_eq!(after_http(&refused(UNSUPPORTED_VERSION, &["2026-07-28"])), Next::Modern);
        assert!(matches!(after_http(&refused(HEADER_MISMATCH, &[])), Next::Fail(_)));
        assert!(matches!(after_message(&refused(CAPABILITY_MISSING, &[])), Next::Fail(_)));
        assert!(matches!(after_message(&refused(UNSUPPORTED_VERSION, &["2031-01-01"])), Next::Fail(_)));
    }

    #[test]
    fn an_unknown_method_and_generic_errors_lead_to_initialize() {
        for code in [METHOD_NOT_FOUND, -32602, -32000, 0] {
            assert_eq!(after_http(&refused(code, &[])), Next::Initialize);
            assert_eq!(after_message(&refused(code, &[])), Next::Initialize);
        }
        assert_eq!(after_http(&Probe::Status(400)), Next::Initialize);
        assert_eq!(after_http(&Probe::Strange), Next::Initialize);
    }

    #[test]
    fn a_fault_of_the_way_says_nothing_about_the_era() {
        for status in [301, 308, 401, 403, 429, 500, 503] {
            assert!(matches!(after_http(&Probe::Status(status)), Next::Fail(_)), "{status}");
        }
    }

    #[test]
    fn a_discovered_server_without_a_modern_revision_is_initialized() {
        assert_eq!(after_http(&Probe::Discovered(vec!["2025-11-25".into()])), Next::Initialize);
        assert_eq!(after_http(&Probe::Discovered(vec!["2025-11-25".into(), "2026-07-28".into()])), Next::Modern);
    }
}
