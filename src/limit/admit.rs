//! The stage *admit* of the path: a permit in, an [`Admission`] or the refusal out.

use std::net::IpAddr;

use super::{Charge, Coming, LimitRefusal, Limits, Spared};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::invocation::Invocation;
use crate::policy::Permit;

/// Proof that every limit, loop rule and budget admits a permitted call; its tokens are spent. Only [`admit`] makes one.
#[derive(Debug)]
pub struct Admission<'d>(Permit<'d>);

impl<'d> Admission<'d> {
    /// The call that is admitted.
    pub fn invocation(&self) -> &Invocation<'d> {
        self.0.invocation()
    }

    /// The permit of the policy.
    pub fn permit(&self) -> &Permit<'d> {
        &self.0
    }
}

/// What does not admit a call.
#[derive(Debug)]
pub enum Refusal {
    /// A rate: the error says all.
    Rate(Error),
    /// A loop rule or a budget.
    Spared(Spared),
}

/// Counts the call for every loop rule and budget that it is asked about, and spends a token of every limit that matches it; or does none of it.
/// What was counted is for [`Limits::ended`].
///
/// # Errors
/// The loop, the budget, or `rate_limited` with the limit's id and the exact wait.
pub fn admit<'d>(limits: &Limits, permit: Permit<'d>, coming: Coming<'_>) -> Result<(Admission<'d>, Option<Charge<'d>>), Refusal> {
    let invocation = permit.invocation();
    let agent = limits.agent(&invocation.caller.principal.id);
    let charge = limits.usage.enter(agent, invocation, coming, &limits.hasher).map_err(Refusal::Spared)?;
    let admitted = match invocation.target.index {
        Some(index) => limits.admit_obliged(agent, index, permit.obligations()),
        // By the plain name: another spelling does not come with tokens of its own.
        None => limits.admit_by_name(agent, invocation.target.policy_names().last().unwrap_or_default(), permit.obligations()),
    };
    if let Err(refusal) = admitted {
        charge.iter().for_each(|charge| limits.usage.take_back(charge));
        return Err(Refusal::Rate(limited(&refusal)));
    }
    Ok((Admission(permit), charge))
}

/// Spends a token of the agent's messages, before one is parsed.
///
/// # Errors
/// `rate_limited`.
pub fn screen(limits: &Limits, principal: &Principal) -> Result<(), Error> {
    limits.request(limits.agent(&principal.id)).map_err(|refusal| unread(&refusal))
}

/// Counts a failed credential against its address, and says whether the address has failed too often.
///
/// # Errors
/// `rate_limited`.
pub fn count_failure(limits: &Limits, peer: IpAddr) -> Result<(), Error> {
    let refused = limits.peer(peer);
    limits.peer_failed(peer);
    refused.map_err(|refusal| unread(&refusal))
}

/// No message was read, so there is none that could be answered with a success.
fn unread(refusal: &LimitRefusal) -> Error {
    limited(refusal).wire(Code::RateLimited.facts().jsonrpc, 429)
}

fn limited(refusal: &LimitRefusal) -> Error {
    let error = Error::new(Code::RateLimited, format!("limit `{}` is reached", refusal.limit_id));
    error.retry_after_ms(refusal.retry_after_ms).rules(vec![refusal.limit_id.to_string()])
}
