//! The record of a repeat that is answered with a stored result, and the name that a call holds until its end.
//!
//! INVARIANT: who gets a stored result is on record before it is given, as durably as a call of the target is. It is no intent: nothing leaves.

use std::borrow::Cow;

use super::super::encode::Entry;
use super::super::record::Kind;
use super::super::redact::{self, ValueKey};
use super::{Audit, Trail, micros, unavailable};
use crate::catalog::Target;
use crate::catalog::manifest::Idempotency;
use crate::error::{Effect, Error};
use crate::mcp::canonical::write_string;
use crate::mcp::respond::CallResult;
use crate::replay::{Held, Stored};

impl<'d> Trail<'d> {
    /// Notes that the call holds its name.
    pub fn holds(&mut self, held: Held) {
        self.held = Some(Box::new(held));
    }

    /// The name that the call holds.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_deref()
    }

    /// Notes that the row of the call's name is in the database.
    pub fn leaves(&mut self) {
        if let Some(held) = self.held.as_deref_mut() {
            held.leaves();
        }
    }

    /// Gives the name up, to be ended.
    pub fn release(&mut self) -> Option<Box<Held>> {
        self.held.take()
    }

    /// The run that the agent says the call belongs to.
    pub fn run(&self) -> Option<&'d str> {
        self.run
    }

    /// What is called, as far as that is known.
    pub fn target(&self) -> Option<&'d Target> {
        self.tool
    }

    /// The keyed hash of what tells the call from others, where that is one value.
    pub(super) fn idempotency_key(&self, tool: &Target, key: &ValueKey) -> Option<String> {
        if let (Idempotency::Key(pointer), Some((arguments, _))) = (&tool.idempotency, self.arguments)
            && let Some(value) = arguments.pointer(pointer)
        {
            return Some(redact::hash(value, key));
        }
        let mut text = Vec::new();
        write_string(self.key?, &mut text);
        Some(key.hash(&text))
    }
}

impl Audit {
    /// Stores that a repeat is answered with the result of an earlier call.
    ///
    /// # Errors
    /// `audit_unavailable`: it must not be given then.
    pub async fn replayed(&self, trail: &Trail<'_>, target: &Target, stored: &Stored) -> Result<(), Error> {
        let entry = self.replay_entry(trail, &stored.evidence.call, &stored.result);
        self.log.append(entry, self.durability_of(target)).await.map(drop).map_err(unavailable)
    }

    fn replay_entry(&self, trail: &Trail<'_>, earlier: &str, result: &CallResult) -> Entry {
        let mut record = trail.full(Kind::Replay, &self.keys.current());
        record.decision = Some("allow".into());
        record.replay_of = Some(Cow::Borrowed(earlier));
        record.outcome = Some(if result.is_error { "tool_error" } else { "ok" }.into());
        record.effect = Some(Effect::None.as_str().into());
        record.result_bytes = Some(result.members.len() as u64);
        record.result_hash = Some(self.keys.current().hash(&result.members).into());
        record.duration_us = Some(micros(trail.started));
        self.log.encode(&record)
    }
}
