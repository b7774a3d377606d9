//! Refusals in number: the first few of a sort are recorded one by one, the rest with their count.
//!
//! INVARIANT: what is counted is stored when its window ends, at a reload, and at the stop. A kill loses a count, and never that there was
//! one: the last record before it says `counted_from_here`, and no `coalesced` one follows.

use std::borrow::Cow;

use super::super::log::Durability;
use super::super::record::{Kind, Record};
use super::{Audit, Trail};
use crate::catalog;
use crate::error::{Code, Error};
use crate::limit::Floods;
use crate::limit::flood::{Coalesced, Source, Verdict};

impl Audit {
    pub(super) async fn refuse(&self, trail: &Trail<'_>, error: &Error) {
        // Names that the caller makes up are one flood, however many there are: so are the URIs of one server.
        let made_up = trail.tool.filter(|tool| tool.index.is_none()).map(|tool| match tool.kind {
            catalog::Kind::Resource => format!("resource:{}:*", tool.upstream_id),
            catalog::Kind::Prompt | catalog::Kind::Tool => format!("prompt:{}__*", tool.upstream_id),
        });
        let named = match (&made_up, trail.tool) {
            (Some(names), _) => names.as_str(),
            (None, Some(tool)) => &tool.policy_name,
            (None, None) => "(no tool of the catalog)",
        };
        let verdict = match error.code() {
            // It has passed the limits as a call that is made has, and people look for it as for one: each has its record.
            Code::DryRun => Verdict::Record,
            code => self.floods.note(self.clock.unix_nanos(), trail.caller.principal.name(), code, named, &trail.id_text),
        };
        if verdict == Verdict::Count {
            return;
        }
        let entry = self.refusal_entry(trail, error, counting(verdict));
        if let Err(error) = self.log.append(entry, Durability::Write).await {
            tracing::warn!(invocation = trail.id_text, %error, "a refusal could not be stored");
        }
    }

    /// Hands over a record of what a tool server did unasked; many of one sort become one with their number.
    pub fn note_upstream(&self, sort: &'static str, record: &Record<'_>) {
        let upstream = record.upstream.as_deref().unwrap_or_default();
        let call = record.call_id.as_deref().unwrap_or_default();
        let (now, count) = (self.clock.unix_nanos(), record.count.unwrap_or(1));
        let verdict = self.floods.note_many(now, Source::Upstream(upstream), (Code::UpstreamProtocolError, sort), call, count);
        match verdict {
            Verdict::Count => {}
            Verdict::Record => self.note(record),
            Verdict::Last => self.note(&Record { action: counting(verdict).map(Cow::Borrowed), ..record.clone() }),
        }
    }

    /// Stores the refusals that were counted in the windows that have ended, one record for each sort, and a step of the wall clock if there
    /// was one, and the turn of the key of values: what somebody has to look at once a second.
    pub fn store_counted(&self) {
        self.look_at_clock();
        self.turn_keys();
        self.payloads.as_ref().inspect(|payloads| payloads.forget(&self.log));
        self.store_counted_until(self.clock.unix_nanos());
    }

    /// Stores all that was counted: at the stop no window comes to its end any more.
    pub fn store_all_counted(&self) {
        self.store_counted_until(i64::MAX);
    }

    fn store_counted_until(&self, unix_nanos: i64) {
        self.floods.drain(unix_nanos).into_iter().for_each(|flood| self.note_flood(flood));
    }

    /// Counts refusals in another way from now on. What was counted is stored first.
    pub fn count_by(&self, floods: Floods) {
        self.floods.count_by(floods).into_iter().for_each(|flood| self.note_flood(flood));
    }

    fn note_flood(&self, flood: Coalesced) {
        let words = |text: &Option<Box<str>>| text.as_deref().map(|text| Cow::Owned(text.to_owned()));
        let record = Record {
            kind: Kind::Coalesced,
            agent: words(&flood.agent),
            upstream: words(&flood.upstream),
            target: words(&flood.target),
            code: flood.code.map(|code| code.facts().code.into()),
            count: Some(flood.count),
            window_us: u64::try_from((flood.to_unix_nanos - flood.from_unix_nanos) / 1_000).ok(),
            note: (!flood.first.is_empty()).then(|| format!("first counted invocation {}", flood.first).into()),
            ..Record::default()
        };
        let entry = self.log.encode(&record);
        if let Err(error) = self.log.hand_over(entry) {
            tracing::warn!(%error, count = flood.count, "a count of refusals could not be stored, and is kept for later");
            self.floods.put_back(flood);
        }
    }
}

/// The action of the last record before a count.
fn counting(verdict: Verdict) -> Option<&'static str> {
    (verdict == Verdict::Last).then_some("counted_from_here")
}
