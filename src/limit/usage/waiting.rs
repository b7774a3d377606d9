//! A repeat that waits for the call it repeats: it is in no loop while it waits, since it may well never leave.

use super::{Charge, Spared, Usage, Warned, bits};

impl Usage {
    /// Takes a call out of the loops that it was counted for. Once more changes nothing.
    pub fn waits(&self, charge: &mut Charge<'_>) {
        let Some((call, entered)) = charge.call.filter(|_| !charge.waits) else { return };
        charge.waits = true;
        bits(charge.covering).for_each(|number| self.loops[number].take_back(call, entered));
        charge.warned.retain(|warned| !matches!(warned, Warned::Repeats(_)));
    }

    /// Counts one again that has waited, and goes on by itself.
    ///
    /// # Errors
    /// The loop that it would go on with.
    pub fn goes_on(&self, charge: &mut Charge<'_>) -> Result<(), Spared> {
        let Some((call, _)) = charge.call.filter(|_| charge.waits) else { return Ok(()) };
        charge.call = Some((call, self.timeline.now_ms()));
        // Where it is refused nothing of it is counted, so there is nothing to take back.
        self.enter_loops(charge)?;
        charge.waits = false;
        Ok(())
    }
}
