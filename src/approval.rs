//! Whether a person has to say yes. Gives the last proof that forwarding needs before the record: [`Cleared`].
//!
//! Owns: what a row's `approve:…` asks for, what an approval is bound to (`asked`), when enough people have said yes (`pending`), and what people
//! elsewhere are told (`webhook`). Leaves to others: who is a person (`identity`), the rows in the database (`state`), the records and the words for the agent (`gateway`).
//!
//! INVARIANT: an approval is good for one call: of the same principal with the same delegation, of the same target and reviewed definition,
//! with the same arguments, under the same policy. It is used up, in the database, before the call's intent.
//! INVARIANT: a dry run is never approved, so nothing of it can be cleared, recorded as an intent, and forwarded.
//! INVARIANT: a call that nobody has to approve takes no lock and asks no database.

mod asked;
mod pending;
mod shown;
pub mod webhook;

pub use self::asked::{Ask, Asked, Facts, Lack};
pub use self::pending::{Answer, Approvals, Given, Looked, Refused, Spent, USER, Waiting};
pub use self::shown::{Message, Shown};
use crate::error::{Code, Error};
use crate::invocation::Invocation;
use crate::limit::Admission;
use crate::policy::{Obligation, Permit};
use crate::replay::Fresh;

/// A call that policy permits, limits admit and nobody has to approve any more, but whose approval, where it needs one, is not used up yet.
#[derive(Debug)]
pub struct Approved<'d> {
    fresh: Fresh<'d>,
    given: Option<Given>,
}

/// The same once its approval is used up. Only [`Approved::cleared`] makes one:
///
/// ```compile_fail,E0451
/// fn forged(fresh: doorward::replay::Fresh<'_>) -> doorward::approval::Cleared<'_> {
///     doorward::approval::Cleared { fresh }
/// }
/// ```
#[derive(Debug)]
pub struct Cleared<'d> {
    fresh: Fresh<'d>,
}

/// Whether some row asks for a person's yes.
pub fn asks(admission: &Admission<'_>) -> bool {
    let obligations = admission.permit().obligations();
    obligations.iter().any(|obliged| matches!(obliged.obligation, Obligation::Approve { .. } | Obligation::ApproveUser))
}

/// Honours the obligations to ask: lets a call on that nobody asks about, or whose approval is there.
///
/// # Errors
/// `internal` where a person has to say yes and the approval is not there, or is another call's: [`asks`] tells before; and for a dry run,
/// which ends before.
pub fn approve(fresh: Fresh<'_>, given: Option<Given>) -> Result<Approved<'_>, Error> {
    let admission = fresh.admission();
    if admission.permit().is_dry_run() {
        return Err(Error::new(Code::Internal, "a dry run came as far as the approval"));
    }
    let is_given = given.as_ref().map_or(!asks(admission), |given| given.is_for(admission.invocation()));
    if is_given { Ok(Approved { fresh, given }) } else { Err(Error::new(Code::Internal, "nobody has approved the call")) }
}

impl<'d> Approved<'d> {
    /// The call that is approved.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.fresh.admission().invocation()
    }

    /// The permit of the policy.
    pub fn permit(&self) -> &Permit<'d> {
        self.fresh.admission().permit()
    }

    /// What is still to be used up before the record.
    pub fn unspent(&self) -> Option<&Given> {
        self.given.as_ref().filter(|given| !given.is_used())
    }

    /// The proof for the record, once nothing is left to use up.
    ///
    /// # Errors
    /// `internal` where something is, or it was used up for another call.
    pub fn cleared(self, spent: Option<&Spent>) -> Result<Cleared<'d>, Error> {
        let is_spent = self.unspent().is_none() || spent.is_some_and(|spent| spent.is_for(self.invocation()));
        if is_spent { Ok(Cleared { fresh: self.fresh }) } else { Err(Error::new(Code::Internal, "the approval is not used up")) }
    }
}

impl<'d> Cleared<'d> {
    /// The call that was cleared.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.fresh.admission().invocation()
    }

    /// The permit of the policy.
    pub fn permit(&self) -> &Permit<'d> {
        self.fresh.admission().permit()
    }

    /// Whether somebody had to approve it, so that nothing goes along that nobody was shown.
    pub fn was_approved(&self) -> bool {
        asks(self.fresh.admission())
    }

    /// Whether arguments and result are to be kept sealed.
    pub fn records_payload(&self) -> bool {
        let permit = self.fresh.admission().permit();
        self.invocation().target.record_payload
            || permit.obligations().iter().any(|obliged| obliged.obligation == Obligation::RecordPayload)
    }
}
