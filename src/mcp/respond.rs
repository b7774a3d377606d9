//! Outcome to wire: the one place that knows how results and errors look in each revision.
//!
//! Written by splicing: a result's members are copied as the tool server sent them, between a head and a tail of ours.

use bytes::Bytes;

use super::canonical::write_string;
use super::jsonrpc::Id;
use super::revision::Revision;
use crate::error::Error;

/// Our name and version, as `Implementation`.
pub const SERVER_INFO: &str = concat!(r#"{"name":"doorward","title":"Doorward","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What a call ends in when it does not fail.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The result.
    Complete(CallResult),
    /// Questions, which the agent answers by sending the request again.
    Asks(Questions),
}

impl Ending {
    /// Whether the target itself says that it failed.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Complete(result) if result.is_error)
    }
}

/// What has to be answered before a call can go on.
#[derive(Clone, Debug)]
pub struct Questions {
    /// The JSON text of `inputRequests`: an object, empty when only the state is to come back.
    pub requests: Bytes,
    /// `requestState` as a JSON string with its quotes.
    pub state: Option<Bytes>,
    /// Whether the tool server's request has not ended: it waits for the answers.
    pub running: bool,
    /// Whether the gateway itself asks: no server has had the call.
    pub own: bool,
}

/// How long a result may be kept, and by whom (2026-07-28, caching).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// `ttlMs`.
    pub ttl_ms: u32,
    /// `cacheScope: public`; else `private`.
    pub public: bool,
}

/// The result of a tool, prompt, resource or completion, cut into what is relayed.
#[derive(Clone, Debug, Default)]
pub struct CallResult {
    /// The members of the result object but `_meta` and those that one revision adds, as JSON text without braces.
    pub members: Bytes,
    /// Members that only 2026-07-28 can say, in the same form.
    pub newer: Bytes,
    /// The members of `_meta` that are relayed, as JSON text without braces.
    pub meta: Bytes,
    /// Whether the tool itself says that it failed.
    pub is_error: bool,
    /// How long it may be kept, where the method has results that may.
    pub cache: Option<Cache>,
}

/// A JSON-RPC response with this result object's members.
pub fn result(id: &Id, members: &[&[u8]]) -> Bytes {
    let length: usize = members.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + id.as_json().len() + 40);
    head(id, &mut out);
    out.extend_from_slice(b"\"result\":{");
    members.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"}}");
    out.into()
}

/// The response to a list: `items` under `member`, the next page's cursor, and the tool servers whose entries are missing.
pub fn page(id: &Id, revision: Revision, member: &str, items: &[u8], next: Option<&str>, ttl_ms: u32, unavailable: &[String]) -> Bytes {
    let (mut tail, mut meta) = (Vec::new(), Vec::new());
    if let Some(cursor) = next {
        tail.extend_from_slice(b",\"nextCursor\":");
        write_string(cursor, &mut tail);
    }
    if revision.is_modern() {
        let cache = format!(",\"resultType\":\"complete\",\"ttlMs\":{ttl_ms},\"cacheScope\":\"private\"");
        tail.extend_from_slice(cache.as_bytes());
        meta.extend_from_slice(b"\"io.modelcontextprotocol/serverInfo\":");
        meta.extend_from_slice(SERVER_INFO.as_bytes());
    }
    if !unavailable.is_empty() && !meta.is_empty() {
        meta.push(b',');
    }
    list(b"\"dev.doorward/unavailable\":[", unavailable, &mut meta, |id, out| write_string(id, out));
    if !meta.is_empty() {
        tail.extend_from_slice(b",\"_meta\":{");
        tail.append(&mut meta);
        tail.push(b'}');
    }
    result(id, &[b"\"", member.as_bytes(), b"\":", items, &tail])
}

/// The response to a call that did not fail.
pub fn answer(id: &Id, revision: Revision, ending: &Ending) -> Bytes {
    match ending {
        Ending::Complete(result) => complete(id, revision, result),
        Ending::Asks(questions) => input_required(id, questions),
    }
}

/// Questions in the one revision that has them in results; agents of the others are asked by `listen` and never read this.
fn input_required(id: &Id, questions: &Questions) -> Bytes {
    let state = questions.state.as_deref().unwrap_or_default();
    let state_key: &[u8] = if state.is_empty() { b"" } else { b",\"requestState\":" };
    let info = SERVER_INFO.as_bytes();
    result(
        id,
        &[
            b"\"resultType\":\"input_required\",\"inputRequests\":",
            &questions.requests,
            state_key,
            state,
            b",\"_meta\":{\"io.modelcontextprotocol/serverInfo\":",
            info,
            b"}",
        ],
    )
}

fn complete(id: &Id, revision: Revision, result: &CallResult) -> Bytes {
    let mut out = Vec::with_capacity(result.members.len() + result.meta.len() + SERVER_INFO.len() + 160);
    head(id, &mut out);
    out.extend_from_slice(b"\"result\":{");
    out.extend_from_slice(&result.members);
    let mut separate = !result.members.is_empty();
    if revision.is_modern() && !result.newer.is_empty() {
        if std::mem::replace(&mut separate, true) {
            out.push(b',');
        }
        out.extend_from_slice(&result.newer);
    }
    if revision.is_modern() {
        out.extend_from_slice(if separate { b",\"resultType\":\"complete\"" } else { b"\"resultType\":\"complete\"" });
        separate = true;
        if let Some(cache) = result.cache {
            let scope = if cache.public { "public" } else { "private" };
            out.extend_from_slice(format!(",\"ttlMs\":{},\"cacheScope\":\"{scope}\"", cache.ttl_ms).as_bytes());
        }
    }
    if revision.is_modern() || !result.meta.is_empty() {
        out.extend_from_slice(if separate { b",\"_meta\":{" } else { b"\"_meta\":{" });
        out.extend_from_slice(&result.meta);
        if revision.is_modern() {
            if !result.meta.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(b"\"io.modelcontextprotocol/serverInfo\":");
            out.extend_from_slice(SERVER_INFO.as_bytes());
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"}}");
    out.into()
}

/// The response to a `tools/call` that was refused or failed: a result with `isError`, which a model can act on.
pub fn tool_error(id: &Id, revision: Revision, error: &Error, invocation: &str) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    head(id, &mut out);
    out.extend_from_slice(b"\"result\":{\"content\":[{\"type\":\"text\",\"text\":");
    write_string(&sentence(error, invocation), &mut out);
    out.extend_from_slice(b"}],\"isError\":true");
    if revision.is_modern() {
        out.extend_from_slice(b",\"resultType\":\"complete\"");
    }
    out.extend_from_slice(b",\"_meta\":{\"dev.doorward/error\":");
    body(error, invocation, &mut out);
    if revision.is_modern() {
        out.extend_from_slice(b",\"io.modelcontextprotocol/serverInfo\":");
        out.extend_from_slice(SERVER_INFO.as_bytes());
    }
    out.extend_from_slice(b"}}}");
    out.into()
}

/// A JSON-RPC error response; without an id where the message's could not be read.
pub fn error(id: Option<&Id>, error: &Error, invocation: &str) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    match id {
        Some(id) => head(id, &mut out),
        None => out.extend_from_slice(b"{\"jsonrpc\":\"2.0\","),
    }
    out.extend_from_slice(format!("\"error\":{{\"code\":{},\"message\":", error.jsonrpc()).as_bytes());
    write_string(&error.to_string(), &mut out);
    out.extend_from_slice(b",\"data\":");
    body(error, invocation, &mut out);
    out.extend_from_slice(b"}}");
    out.into()
}

/// The body of every error, as a JSON object.
pub fn body(error: &Error, invocation: &str, out: &mut Vec<u8>) {
    let facts = error.facts();
    out.extend_from_slice(b"{\"code\":");
    write_string(facts.code, out);
    for (key, text) in [
        (",\"category\":", facts.category.as_str()),
        (",\"message\":", &error.to_string()),
        (",\"suggestion\":", error.suggestion()),
        (",\"effect\":", error.effect().as_str()),
        (",\"origin\":", error.origin().as_str()),
        (",\"invocation\":", invocation),
    ] {
        out.extend_from_slice(key.as_bytes());
        write_string(text, out);
    }
    out.extend_from_slice(format!(",\"retryable\":{}", error.is_retryable()).as_bytes());
    if let Some(wait) = error.wait_ms() {
        out.extend_from_slice(format!(",\"retry_after_ms\":{wait}").as_bytes());
    }
    list(b",\"rules\":[", error.rule_ids(), out, |rule, out| write_string(rule, out));
    list(b",\"details\":[", error.schema_details(), out, |detail, out| {
        for (key, text) in [
            ("{\"pointer\":", &detail.pointer),
            (",\"keyword\":", &detail.keyword),
            (",\"expected\":", &detail.expected),
            (",\"got\":", &detail.got),
        ] {
            out.extend_from_slice(key.as_bytes());
            write_string(text, out);
        }
        out.push(b'}');
    });
    for (member, json) in error.data_members() {
        out.extend_from_slice(format!(",\"{member}\":{json}").as_bytes());
    }
    out.extend_from_slice(format!(",\"docs\":\"docs/errors.md#{}\"}}", facts.code).as_bytes());
}

fn list<T>(head: &[u8], items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    if items.is_empty() {
        return;
    }
    out.extend_from_slice(head);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// What a model reads: what happened, what it may do, and whether anything was done.
pub fn sentence(error: &Error, invocation: &str) -> String {
    let facts = error.facts();
    let mut text = format!("{}: {error}.", facts.code);
    for detail in error.schema_details() {
        let place = if detail.pointer.is_empty() { "the arguments" } else { &detail.pointer };
        text.push_str(&format!("\n- {place}: expected {}, got {} ({})", detail.expected, detail.got, detail.keyword));
    }
    if !error.schema_details().is_empty() {
        text.push('\n');
    } else {
        text.push(' ');
    }
    let mut suggestion = error.suggestion().to_owned();
    if let Some(first) = suggestion.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push_str(&suggestion);
    text.push('.');
    text.push_str(match error.effect() {
        crate::error::Effect::None => " Nothing was done.",
        crate::error::Effect::Unknown => " It is not known whether the call took effect.",
        crate::error::Effect::Done => " The call took effect.",
    });
    if let Some(wait) = error.wait_ms() {
        text.push_str(&format!(" Retry after {wait} ms."));
    }
    text.push_str(&format!(" (invocation {invocation})"));
    text
}

fn head(id: &Id, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_json().as_bytes());
    out.push(b',');
}
