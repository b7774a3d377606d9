//! Whether a person has to say yes. Gives the last proof that forwarding needs before the record: [`Cleared`].
//!
//! No row can ask for an approval yet: the policy's loader refuses `o` rows, so every admission is cleared. The stage stands
//! in the path because its proof does.

use crate::invocation::Invocation;
use crate::limit::Admission;
use crate::policy::Obligation;

/// A call that policy permits, limits admit and nobody has to approve any more. Only [`approve`] makes one:
///
/// ```compile_fail,E0423
/// fn forged(admission: doorward::limit::Admission<'_>) -> doorward::approval::Cleared<'_> {
///     doorward::approval::Cleared(admission)
/// }
/// ```
#[derive(Debug)]
pub struct Cleared<'d>(Admission<'d>);

/// Honours the obligations to ask.
pub fn approve(admission: Admission<'_>) -> Cleared<'_> {
    Cleared(admission)
}

impl<'d> Cleared<'d> {
    /// The call that was cleared.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.0.invocation()
    }

    /// Whether arguments and result are to be kept sealed.
    pub fn records_payload(&self) -> bool {
        let permit = self.0.permit();
        self.invocation().target.record_payload
            || permit.obligations().iter().any(|obliged| obliged.obligation == Obligation::RecordPayload)
    }
}
