//! The stage *dry run* of the path: a call that the policy only tries out ends here, right before anything would be done for it.
//!
//! Owns: where it ends, and what its agent is told. Leaves to `approval` that nothing which is a dry run is ever cleared, and to `audit` its
//! record.
//!
//! INVARIANT: it stands behind all that a trial is to find out (schema, freeze, policy, limits), and before all that acts on somebody: no
//! person is asked, the agent meets and counts nothing, no server is waited for, and no intent is stored since nothing can leave.
//! INVARIANT: it ends in an error, whatever is called and in every revision: a made-up result would break the tool's output schema or be
//! taken for the real one, and nobody reads past an `isError`.

use serde_json::json;

use crate::error::{Code, Error};
use crate::limit::Admission;

/// Ends a dry run; lets any other call on.
///
/// # Errors
/// `dry_run`, with the rows that ask for it, and what would have been asked of which server.
pub(super) fn ends(admission: &Admission<'_>) -> Result<(), Error> {
    if !admission.permit().is_dry_run() { Ok(()) } else { Err(told(admission)) }
}

fn told(admission: &Admission<'_>) -> Error {
    let (invocation, permit) = (admission.invocation(), admission.permit());
    let target = invocation.target;
    let (dry, others): (Vec<_>, Vec<_>) = permit.obligations().iter().partition(|obliged| obliged.obligation.is_dry_run());
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    let error = Error::new(Code::DryRun, format!("`{}` was permitted, and not called: the policy makes a dry run of it", target.name));
    // Not the arguments: what is forwarded are the very bytes that the agent sent, and no public text repeats a value.
    let call = json!({
        "method": invocation.method.as_str(), "upstream": target.upstream_id, "name": target.own_name,
        "allowed_by": permit.rules().iter().map(ToString::to_string).collect::<Vec<_>>(), "obligations": others
    });
    error.rules(dry.iter().map(|obliged| obliged.rule.to_string()).collect()).data(MEMBER, call.to_string())
}

/// The member of an error's data that says what the call would have been.
const MEMBER: &str = "dry_run";
