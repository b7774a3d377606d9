//! The agents' listener: where it is, and what one connection, one message and all of them together may cost.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bound;

/// The agents' listener and its bounds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address and port; port 0 takes a free one. Beyond loopback `tls` is required. Default `127.0.0.1:8808`.
    pub http: SocketAddr,
    /// The MCP endpoint's path. Default `/mcp`.
    pub path: String,
    /// Values of `Origin` that are let in beside loopback ones, such as `https://app.example`; others get 403. Default none.
    pub allowed_origins: Vec<String>,
    /// Values of `Host` that are let in beside the listener's own address and loopback names. Default none.
    pub allowed_hosts: Vec<String>,
    /// Certificate and key; `null` for plaintext, which is refused beyond loopback.
    pub tls: Option<Tls>,
    /// HTTP/2, beside HTTP/1.1.
    pub http2: Http2,
    /// Largest request body in bytes: 1024 to 268435456, default 4194304. Then `payload_too_large`.
    pub max_body_bytes: Bound<4_194_304, 1_024, 268_435_456>,
    /// All headers of a request in bytes: 4096 to 1048576, default 32768. Then HTTP 431.
    pub max_header_bytes: Bound<32_768, 4_096, 1_048_576>,
    /// Headers of a request: 16 to 100, default 96. Then HTTP 431.
    pub max_headers: Bound<96, 16, 100>,
    /// Longest line on stdio in bytes: 1024 to 268435456, default 4194304. Then `payload_too_large`.
    pub max_line_bytes: Bound<4_194_304, 1_024, 268_435_456>,
    /// Deepest nesting of arrays and objects in a message: 8 to 128, default 64. Then `malformed_request`.
    pub max_depth: Bound<64, 8, 128>,
    /// Most JSON values in a message: 64 to 10000000, default 200000. Then `malformed_request`.
    pub max_nodes: Bound<200_000, 64, 10_000_000>,
    /// Bytes of all bodies that are read or worked on, and of answers that clients have not taken yet, those of a few KiB not counted:
    /// 1048576 to 68719476736, default 67108864. Then `overloaded`, before a body is read.
    pub max_buffered_bytes: Bound<67_108_864, 1_048_576, 68_719_476_736>,
    /// Part of `max_buffered_bytes` that one agent may hold, in percent: 1 to 100, default 50. Then `concurrency_limited`.
    pub buffered_share_percent: Bound<50, 1, 100>,
    /// Open connections: 1 to 65536, default 2048. Further ones wait to be accepted.
    pub max_connections: Bound<2_048, 1, 65_536>,
    /// Part of `max_connections` that one address (of IPv6: one /64) may hold, in percent, rounded up: 1 to 100, default 50.
    /// Further ones are closed at once.
    pub address_share_percent: Bound<50, 1, 100>,
    /// Calls under way in the whole gateway: 1 to 65536, default 1024. Then `overloaded`, by the headers where they say that it is a
    /// call.
    pub max_concurrent_calls: Bound<1_024, 1, 65_536>,
    /// Longest wait for a request's headers from their first byte on, and for a new connection's first byte, in milliseconds: 100 to
    /// 600000, default 10000. Then HTTP 408, and the connection is closed.
    pub header_timeout_ms: Bound<10_000, 100, 600_000>,
    /// Longest wait for the next request of a connection, in milliseconds: 100 to 3600000, default 60000. Then the connection is closed.
    pub idle_timeout_ms: Bound<60_000, 100, 3_600_000>,
    /// Longest wait for a request's body, in milliseconds: 100 to 600000, default 30000. Then HTTP 408.
    pub body_timeout_ms: Bound<30_000, 100, 600_000>,
    /// Longest time in which a client takes no byte of what is sent to it, in milliseconds: 100 to 600000, default 30000.
    /// Then the connection is closed.
    pub write_timeout_ms: Bound<30_000, 100, 600_000>,
    /// Longest wait for running calls at stop, in milliseconds: 0 to 600000, default 10000. Then they are cancelled.
    pub drain_timeout_ms: Bound<10_000, 0, 600_000>,
    /// How long a session of a handshake revision lasts, in seconds: 60 to 2592000, default 86400.
    pub session_seconds: Bound<86_400, 60, 2_592_000>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8808)),
            path: "/mcp".to_owned(),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tls: None,
            http2: Http2::default(),
            max_body_bytes: Bound::default(),
            max_header_bytes: Bound::default(),
            max_headers: Bound::default(),
            max_line_bytes: Bound::default(),
            max_depth: Bound::default(),
            max_nodes: Bound::default(),
            max_buffered_bytes: Bound::default(),
            buffered_share_percent: Bound::default(),
            max_connections: Bound::default(),
            address_share_percent: Bound::default(),
            max_concurrent_calls: Bound::default(),
            header_timeout_ms: Bound::default(),
            idle_timeout_ms: Bound::default(),
            body_timeout_ms: Bound::default(),
            write_timeout_ms: Bound::default(),
            drain_timeout_ms: Bound::default(),
            session_seconds: Bound::default(),
        }
    }
}

/// HTTP/2: over TLS for clients that ask for it (ALPN), in plaintext for those that begin with its preface. The bounds of `listen`
/// hold for it too; these are its own.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// Whether it is served. Default true.
    pub serve: bool,
    /// Requests under way on one connection: 1 to 1000, default 32. Further ones are refused by the protocol (`REFUSED_STREAM`).
    pub max_streams: Bound<32, 1, 1_000>,
    /// Requests of one connection that its client takes back, beyond those that it lets be answered: 1 to 10000, default 100. Then the
    /// connection is closed.
    pub max_resets: Bound<100, 1, 10_000>,
    /// Bytes of a request's body that a client may send before they are read: 16384 to 16777216, default 65536; four times as many for
    /// all requests of a connection.
    pub window_bytes: Bound<65_536, 16_384, 16_777_216>,
    /// How often a client is asked whether it is there, in milliseconds: 1000 to 600000, default 20000.
    pub ping_interval_ms: Bound<20_000, 1_000, 600_000>,
    /// Longest wait for its word, in milliseconds: 100 to 600000, default 10000. Then the connection is closed.
    pub ping_timeout_ms: Bound<10_000, 100, 600_000>,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            serve: true,
            max_streams: Bound::default(),
            max_resets: Bound::default(),
            window_bytes: Bound::default(),
            ping_interval_ms: Bound::default(),
            ping_timeout_ms: Bound::default(),
        }
    }
}

/// Files for the listener's TLS.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain, the listener's own first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}
