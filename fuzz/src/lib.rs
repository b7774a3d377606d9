//! What must hold of the readers of foreign bytes, whatever the bytes: one function for each, which panics where it does not hold.
//!
//! Used twice: by the targets of `cargo fuzz` beside this file, and by the test `fuzz_corpus`, which runs them over the kept inputs and over
//! changed ones with every `cargo test`.

pub mod headers;
pub mod json;
pub mod jsonrpc;
pub mod manifest;
pub mod policy;
pub mod seal;
pub mod segments;
pub mod sse;

/// A reader of bytes.
pub type Check = fn(&[u8]);

/// Each by the name of its target and of its folder in `corpus`.
pub const TARGETS: [(&str, Check); 8] = [
    ("headers", headers::check),
    ("json", json::check),
    ("jsonrpc", jsonrpc::check),
    ("manifest", manifest::check),
    ("policy", policy::check),
    ("seal", seal::check),
    ("segments", segments::check),
    ("sse", sse::check),
];

/// What stands before and behind the first line that is only `=====`; all of it and nothing where there is none.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    const LINE: &[u8] = b"\n=====\n";
    let at = data.windows(LINE.len()).position(|window| window == LINE);
    at.map_or((data, &[]), |at| (&data[..=at], &data[at + LINE.len()..]))
}
