//! The records of who watches what: one when it is permitted, one when that ends.
//!
//! INVARIANT: nothing is watched that is not on record before. What a killed process watched has no end there but the next
//! start, which says so.

use std::borrow::Cow;

use super::super::encode::Entry;
use super::super::record::{Kind, Record};
use super::{Audit, Trail, unavailable};
use crate::error::Error;

/// What an agent watches, as far as every record of it says the same.
#[derive(Debug)]
pub struct Watched(Record<'static>);

impl Audit {
    /// Stores that the trail's agent may be told of these from now on.
    ///
    /// # Errors
    /// `audit_unavailable` when it could not be stored in time: nothing may be told then.
    pub async fn watch(&self, trail: &Trail<'_>, targets: &[&str]) -> Result<Watched, Error> {
        let durability = super::durable(self.durability.read);
        self.log.append(self.watch_entry(trail, targets), durability).await.map_err(unavailable)?;
        Ok(Watched(trail.kept(Kind::Watch)))
    }

    fn watch_entry(&self, trail: &Trail<'_>, targets: &[&str]) -> Entry {
        let mut record = trail.full(Kind::Watch, &self.keys.current());
        record.decision = Some("allow".into());
        record.action = Some("begun".into());
        record.targets = texts(targets);
        self.log.encode(&record)
    }

    /// Hands over that the permission for these has `ended`, or has `begun` again, and why.
    pub fn note_watch(&self, watched: &Watched, action: &'static str, targets: &[&str], why: &'static str) {
        let record = Record { action: Some(action.into()), targets: texts(targets), note: Some(why.into()), ..watched.0.clone() };
        self.note(&record);
    }
}

fn texts<'t>(targets: &[&'t str]) -> Vec<Cow<'t, str>> {
    targets.iter().map(|target| Cow::Borrowed(super::beginning(target))).collect()
}
