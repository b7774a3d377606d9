//! The records of a call that waits for an agent's answers: it has one intent, a round for each time that it asks and is
//! answered, and one outcome, whoever brings it.
//!
//! INVARIANT: an [`Open`] is used up by what goes on with its intent, so that no intent ends twice.

use std::borrow::Cow;

use tokio::time::Instant;

use super::super::encode::Entry;
use super::super::record::{Kind, Record, Text};
use super::{Audit, Recorded, Trail, answers, ending, micros, unavailable};
use crate::approval::Cleared;
use crate::catalog::tier::Tier;
use crate::error::{Code, Effect, Error};
use crate::mcp::respond::Questions;
use crate::trace::Stage;

/// An intent that has no end yet while its call waits for an agent's answers. It ends with [`Audit::round`] or [`Audit::end`].
#[derive(Debug)]
pub struct Open {
    /// The outcome to come, as far as it is known.
    record: Record<'static>,
    seq: u64,
    since: Instant,
    is_irreversible: bool,
}

impl Trail<'_> {
    /// Leaves the intent open while the call waits for answers; `None` where none was stored. The trail's own end is then the
    /// record of what was asked.
    pub fn park(&mut self) -> Option<Open> {
        let (seq, since) = self.intent?;
        self.parked = true;
        let record = Record { intent_seq: Some(seq), ..self.kept(Kind::Outcome) };
        Some(Open { record, seq, since, is_irreversible: self.tool.is_some_and(|tool| tool.tier == Tier::Irreversible) })
    }

    /// What a later record of the same call says of it again.
    pub(super) fn kept(&self, kind: Kind) -> Record<'static> {
        let record = self.record(kind);
        let owned = |text: Text<'_>| text.map(|text| Cow::Owned(text.into_owned()));
        Record {
            call_id: owned(record.call_id),
            principal: owned(record.principal),
            agent: owned(record.agent),
            on_behalf_of: owned(record.on_behalf_of),
            target: owned(record.target),
            upstream: owned(record.upstream),
            tier: owned(record.tier),
            run: owned(record.run),
            ..Record::new(kind)
        }
    }
}

impl Audit {
    /// Stores that an agent has answered a call that waits, as durably as its tier asks. Its intent stays the one that it has.
    ///
    /// # Errors
    /// `audit_unavailable` when it could not be stored in time. The call itself may have done anything by then.
    pub async fn round<'d>(&self, trail: &mut Trail<'_>, cleared: Cleared<'d>, open: Open) -> Result<Recorded<'d>, Error> {
        trail.enters(Stage::Intent);
        trail.intent = Some((open.seq, open.since));
        if cleared.records_payload() {
            let kept = Box::pin(self.keep_arguments(trail, Kind::Round, cleared.invocation())).await;
            kept.map_err(|error| error.after_effect(Effect::Unknown, false))?;
        }
        let mut record = trail.full(Kind::Round, &self.keys.current());
        record.intent_seq = Some(open.seq);
        record.decision = Some("allow".into());
        record.action = Some("answered".into());
        let entry = self.log.encode(&record);
        let stored = self.log.append(entry, self.durability_of(cleared.invocation().target)).await;
        stored.map_err(|error| unavailable(error).after_effect(Effect::Unknown, false))?;
        trail.enters(Stage::Forward);
        Ok(Recorded { cleared, seq: open.seq, met: trail.met.1.clone(), trace: trail.onward() })
    }

    /// Stores the end of a call that nobody will take up any more.
    pub async fn end(&self, open: Open) {
        let call = open.record.call_id.clone().unwrap_or_default();
        let record = Record {
            outcome: Some(ending(Code::InteractionLost).into()),
            code: Some(Code::InteractionLost.facts().code.into()),
            effect: Some(Effect::Unknown.as_str().into()),
            duration_us: Some(micros(open.since)),
            ..open.record
        };
        if let Err(error) = self.store_end(self.log.encode(&record), open.is_irreversible).await {
            tracing::error!(invocation = %call, %error, "the outcome could not be stored");
        }
    }

    /// What was asked: which questions, by which methods, and the hash of the questions, whose text may say anything.
    pub(super) fn asked_entry(&self, trail: &Trail<'_>, seq: u64, questions: &Questions, payload: Option<String>) -> Entry {
        let mut record = trail.record(Kind::Round);
        record.intent_seq = Some(seq);
        record.action = Some("asked".into());
        record.payload = payload.map(Cow::Owned);
        self.note_questions(&mut record, questions);
        self.log.encode(&record)
    }

    pub(super) fn note_questions(&self, record: &mut Record<'_>, questions: &Questions) {
        record.note = answers::asked(&questions.requests, &self.keys.current()).map(|asked| format!("asks {asked}").into());
        record.result_bytes = Some(questions.requests.len() as u64);
        record.result_hash = Some(self.keys.current().hash(&questions.requests).into());
    }
}
