//! The records of a call that needs a person's yes, each under the id of its approval.
//!
//! INVARIANT: what a person decides is stored before it counts; that an approval is used up stands before the intent that it is used for.

use std::borrow::Cow;

use super::super::encode::Entry;
use super::super::log::Durability;
use super::super::record::{Kind, Record};
use super::{Audit, Trail, unavailable};
use crate::approval::Facts;
use crate::error::Error;
use crate::mcp::respond::Questions;

impl Trail<'_> {
    /// Notes the approval that the call waits for, or is made with.
    pub fn approval(&mut self, id: &str) {
        self.approval = Some(id.into());
    }
}

impl Audit {
    /// Stores that a call begins to wait.
    ///
    /// # Errors
    /// `audit_unavailable`: it must not wait then.
    pub async fn approval_requested(&self, trail: &Trail<'_>, lacks: &str) -> Result<(), Error> {
        let entry = self.approval_entry(trail, "requested", Some(lacks));
        self.log.append(entry, Durability::Sync).await.map(drop).map_err(unavailable)
    }

    /// Hands over that its approval is used up. The intent follows, and waits for both.
    pub fn approval_used(&self, trail: &Trail<'_>) {
        if let Err(error) = self.log.hand_over(self.approval_entry(trail, "used", None)) {
            tracing::warn!(%error, "a record could not be stored");
        }
    }

    /// Hands over that the agent's user is asked, and with which words.
    pub(super) fn note_asked(&self, trail: &Trail<'_>, questions: &Questions) {
        let mut record = trail.full(Kind::Approval, &self.keys.current());
        record.action = Some("asked".into());
        self.note_questions(&mut record, questions);
        self.note(&record);
    }

    fn approval_entry(&self, trail: &Trail<'_>, action: &'static str, after: Option<&str>) -> Entry {
        let mut record = trail.full(Kind::Approval, &self.keys.current());
        record.action = Some(action.into());
        record.after = after.map(|after| Cow::Owned(after.to_owned()));
        self.log.encode(&record)
    }
}

/// The record of something that is done about an approval by another than the call's own request.
pub fn approval_record<'a>(id: &'a str, facts: &'a Facts, action: &'static str) -> Record<'a> {
    let text = Cow::Borrowed::<str>;
    let texts = |all: &'a [String]| all.iter().map(|one| text(one)).collect();
    Record {
        approval_id: Some(text(id)),
        action: Some(text(action)),
        call_id: Some(text(&facts.call)),
        method: Some(text(&facts.method)),
        principal: Some(text(&facts.principal)),
        agent: Some(text(facts.agent())),
        on_behalf_of: facts.on_behalf_of.as_deref().map(text),
        actors: texts(&facts.actors),
        target: Some(text(&facts.target)),
        upstream: Some(text(&facts.upstream)),
        tier: Some(text(&facts.tier)),
        tool_def_hash: (!facts.definition.is_empty()).then(|| text(&facts.definition)),
        policy_version: Some(text(&facts.policy)),
        rule_ids: texts(&facts.rules),
        obligations: texts(&facts.asks),
        ..Record::new(Kind::Approval)
    }
}
