//! The record of a further attempt: a call that failed in a way that may pass, and is sent once more under the intent that it has.

use super::super::encode::Entry;
use super::super::record::Kind;
use super::{Audit, Recorded, Trail, unavailable};
use crate::error::Error;

impl Audit {
    /// Stores that a call is sent again and how it `failed` before, as durably as its tier asks, and only then lets it go.
    ///
    /// # Errors
    /// `audit_unavailable` when it could not be stored in time: it is not sent again then.
    pub async fn resent(&self, trail: &mut Trail<'_>, recorded: &Recorded<'_>, failed: &Error) -> Result<(), Error> {
        let entry = self.resent_entry(trail, recorded.seq(), failed);
        let stored = self.log.append(entry, self.durability_of(recorded.invocation().target)).await;
        stored.map_err(unavailable)?;
        trail.attempt += 1;
        Ok(())
    }

    fn resent_entry(&self, trail: &Trail<'_>, seq: u64, failed: &Error) -> Entry {
        let mut record = trail.record(Kind::Round);
        record.intent_seq = Some(seq);
        record.action = Some("resent".into());
        record.attempt = Some(u64::from(trail.attempt) + 1);
        record.code = Some(failed.facts().code.into());
        record.effect = Some(failed.effect().as_str().into());
        record.note = Some(failed.detail().map_or_else(|| failed.to_string(), str::to_owned).chars().take(200).collect::<String>().into());
        self.log.encode(&record)
    }
}
