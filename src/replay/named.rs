//! What makes two calls the same.
//!
//! A manifest's `key:POINTER` counts before the caller's key, since it is the operator's word and what the server knows the call by; the
//! caller's key before `by_arguments`, since it tells apart what the agent means to do twice.
//!
//! INVARIANT: a name is one principal's with one delegation, for one target: nobody meets another's call by its key.

use std::sync::Arc;

use super::Replays;
use crate::catalog::Target;
use crate::catalog::manifest::Idempotency;
use crate::catalog::tier::Tier;
use crate::invocation::Invocation;
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::json::{Node, Value};
use crate::mcp::messages::{Method, Retry};
use crate::seal::sha256;

/// How long calls are known that are told apart by their arguments alone, in seconds, where the manifest does not say.
const BY_ARGUMENTS_S: u64 = 600;
/// The same of calls with a key.
const BY_KEY_S: u64 = 86_400;
/// How long after its timeout a call has ended for sure, in seconds.
const SLACK_S: i64 = 60;

/// By what a call is told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The caller's key.
    Caller,
    /// The argument that the manifest names.
    Argument,
    /// All its arguments.
    Arguments,
}

/// A call that has a name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The hash of whose call it is, of what, and by which key.
    pub(super) name: [u8; 32],
    /// The hash of what the key stands for.
    pub(super) contents: [u8; 32],
    /// By what it is told from others.
    pub by: By,
    /// Whether the manifest says that a repeat does no harm.
    pub is_harmless: bool,
    /// The invocation.
    pub call: Box<str>,
    /// Who calls.
    pub agent: Arc<str>,
    pub(super) target: Box<str>,
    pub(super) upstream: Box<str>,
    /// The rows that redact its result.
    pub(super) redactions: Vec<String>,
    /// Whether it brings answers, and no state that names the call which was asked.
    pub(super) answers: bool,
    pub(super) window_s: i64,
    /// How long it runs at most, in seconds.
    pub(super) lasts_s: i64,
    /// How long it waits for answers at most, in seconds.
    pub(super) asks_s: i64,
}

/// Whether a call has a name. Costs two comparisons where it has none.
pub fn is_named(invocation: &Invocation<'_>) -> bool {
    let has_key = invocation.key.is_some() || invocation.target.idempotency != Idempotency::None;
    has_key && of(invocation).is_some()
}

/// By what the call is told from others, and the canonical text of it where it is a key.
fn of(invocation: &Invocation<'_>) -> Option<(By, Vec<u8>)> {
    if invocation.method != Method::CallTool {
        return None;
    }
    let mut text = Vec::new();
    if let Idempotency::Key(pointer) = &invocation.target.idempotency
        && let Some(value) = invocation.arguments.node().and_then(|arguments| arguments.pointer(pointer)).filter(|value| says(value))
    {
        write_canonical(value, &mut text);
        return Some((By::Argument, text));
    }
    if let Some(key) = invocation.key {
        write_string(key, &mut text);
        return Some((By::Caller, text));
    }
    // A read is not worth a stored result: a repeat does nothing, and answers with what is there now.
    let is_worth = invocation.target.idempotency == Idempotency::ByArguments && invocation.target.tier != Tier::Read;
    is_worth.then_some((By::Arguments, text))
}

/// Whether an argument names anything. Calls without an order are not all the same call.
fn says(value: &Node<'_>) -> bool {
    !matches!(&value.value, Value::Null) && value.as_str() != Some("")
}

impl Named {
    /// The call's name; `None` where it has none. `redactions` are the rows that redact its result, and `retry` is what it answers.
    pub fn of(invocation: &Invocation<'_>, redactions: Vec<String>, retry: Option<Retry<'_>>) -> Option<Self> {
        let (by, key) = of(invocation)?;
        let (principal, target) = (&invocation.caller.principal, invocation.target);
        let mut name = Vec::new();
        let word = match by {
            By::Caller => "doorward replay 1 caller",
            By::Argument => "doorward replay 1 argument",
            By::Arguments => "doorward replay 1 arguments",
        };
        let token = principal.token.as_ref();
        let behalf = token.and_then(|token| token.on_behalf_of.as_deref()).unwrap_or_default();
        for part in [word, &principal.id, behalf, &target.upstream_id, &target.policy_name, &target.own_name] {
            write_string(part, &mut name);
        }
        name.push(b'[');
        token.iter().flat_map(|token| &token.actors).for_each(|actor| write_string(actor, &mut name));
        name.push(b']');
        let contents = contents(invocation, target);
        name.extend_from_slice(if by == By::Arguments { &contents } else { &key });
        let seconds = |milliseconds: u64| i64::try_from(milliseconds / 1_000).unwrap_or(i64::MAX);
        let window = target.idempotency_window_s.unwrap_or(if by == By::Arguments { BY_ARGUMENTS_S } else { BY_KEY_S });
        Some(Self {
            name: sha256(&name),
            contents,
            by,
            is_harmless: target.is_idempotent(),
            call: invocation.id.to_string().into(),
            agent: Arc::clone(&principal.id),
            target: target.policy_name.clone(),
            upstream: target.upstream_id.clone(),
            redactions,
            answers: retry.is_some_and(|retry| retry.responses.is_some() && retry.state.is_none()),
            window_s: window.cast_signed(),
            lasts_s: seconds(target.timeout_ms).saturating_add(SLACK_S),
            asks_s: seconds(target.interaction_timeout_ms).saturating_add(Replays::ANSWERS_S),
        })
    }
}

/// What a key stands for: the reviewed definition and the arguments, in whatever spelling.
fn contents(invocation: &Invocation<'_>, target: &Target) -> [u8; 32] {
    let mut text = target.hash.to_vec();
    match invocation.arguments.node() {
        Some(arguments) => write_canonical(arguments, &mut text),
        None => text.extend_from_slice(b"{}"),
    }
    sha256(&text)
}
