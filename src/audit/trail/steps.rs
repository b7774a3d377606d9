//! What the clock brings: the steps that it makes itself, and the month's key for values.
//!
//! A step is somebody's who set it, or a leap second's. The order of records is told by `seq`; that their times jumped is told here.

use std::sync::atomic::{AtomicI64, Ordering};

use super::super::record::{Kind, Record};
use super::Audit;
use crate::clock::{Moment, rfc3339};

/// How far the wall clock may move against the time since boot until that is recorded, in microseconds. Both clocks are slewed together, so
/// what is left is steps; a leap second is more than this, and what one look at both clocks can differ by is far less.
const BOUND_US: i64 = 500_000;

/// By how much the wall clock is ahead of the time since boot, as last told, in microseconds.
#[derive(Debug)]
pub(super) struct Steps(AtomicI64);

impl Steps {
    pub(super) fn new(now: Moment) -> Self {
        Self(AtomicI64::new(ahead(now)))
    }

    /// By how much the clock was set since it was last told, in microseconds, if that is to be told.
    fn step(&self, now: Moment) -> Option<i64> {
        let step = ahead(now) - self.0.load(Ordering::Relaxed);
        // One that is undone right away is told twice, one that creeps is told when it has come far enough.
        (step.abs() > BOUND_US).then(|| self.0.store(ahead(now), Ordering::Relaxed)).map(|()| step)
    }
}

fn ahead(now: Moment) -> i64 {
    (now.unix_nanos / 1_000).saturating_sub(i64::try_from(now.boot_micros).unwrap_or(i64::MAX))
}

impl Audit {
    /// Records that the wall clock was set since the last look.
    pub(super) fn look_at_clock(&self) {
        let now = self.clock.now();
        let Some(step) = self.steps.step(now) else { return };
        let way = if step > 0 { "forward" } else { "back" };
        let note = format!("the wall clock was set {way} by {}.{:03} s", step.abs() / 1_000_000, step.abs() / 1_000 % 1_000);
        tracing::warn!("{note}");
        self.note(&Record {
            action: Some("clock_step".into()),
            before: Some(rfc3339(now.unix_nanos.saturating_sub(step.saturating_mul(1_000))).into()),
            after: Some(rfc3339(now.unix_nanos).into()),
            note: Some(note.into()),
            ..Record::new(Kind::Lifecycle)
        });
    }

    /// Takes the key of a new month, and records that.
    pub(super) fn turn_keys(&self) {
        match self.keys.turn(self.clock.unix_nanos()) {
            Ok(None) => {}
            Ok(Some(turned)) => self.note(&Record {
                action: Some("value_key".into()),
                subject: Some(turned.file.into()),
                before: Some(turned.before.into()),
                after: Some(turned.after.into()),
                note: Some("values are hashed under another key from here on".into()),
                ..Record::new(Kind::Lifecycle)
            }),
            Err(error) => tracing::error!(%error, "the month's key for values cannot be had: the one in use stays"),
        }
    }
}
