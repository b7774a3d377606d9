//! What was counted of a call: loops and budgets are told how it ended, its record of what they warned.

use std::time::Duration;

use super::Trail;
use crate::limit::Charge;

impl<'d> Trail<'d> {
    /// Notes what was counted of the call, and what its agent is warned of.
    pub fn charged(&mut self, charge: Option<Charge<'d>>) {
        self.warnings = charge.iter().flat_map(|charge| charge.warned()).map(ToString::to_string).collect();
        self.charge = charge;
    }

    /// What was counted of the call, once.
    pub fn take_charge(&mut self) -> Option<Charge<'d>> {
        self.charge.take()
    }

    /// The time that the server has had the call, if its intent is stored. What somebody took to answer it is none of its time.
    pub fn at_server(&self) -> Option<Duration> {
        self.intent.map(|(_, since)| since.max(self.started).elapsed())
    }
}
