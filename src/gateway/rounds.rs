//! Calls that need more than one request of the agent: the tool server asks, the agent answers by sending the request again.
//!
//! Owns: what a request that comes again goes on with, and what the agent is given to send it by. Leaves to `upstream` the
//! asking, and to `listen` agents that are asked in other ways.
//!
//! No tool server may ask yet, so every request begins a call of its own: what it brings with it is not looked at.

use super::Shared;
use crate::error::Error;
use crate::invocation::Invocation;
use crate::mcp::messages::Retry;
use crate::mcp::respond::Ending;
use crate::upstream::Resume;

/// What an earlier round left for this one. None has been opened yet.
#[derive(Debug)]
pub(super) enum Round {}

/// Opens the state that the request brings; boxed, since nearly every call has none. Stands before the decision: each round
/// is decided anew.
///
/// # Errors
/// `state_invalid`, whatever is wrong with it.
pub(super) fn open(_shared: &Shared, _invocation: &Invocation<'_>, _retry: Option<Retry<'_>>) -> Result<Option<Box<Round>>, Error> {
    Ok(None)
}

/// Uses the state up, so that nobody sends it a second time. Stands right before the record, so that a round which is
/// refused for want of room may be sent again.
///
/// # Errors
/// `state_invalid` when it has been used.
pub(super) fn spend(_shared: &Shared, _round: Option<&Round>) -> Result<(), Error> {
    Ok(())
}

/// What goes on to the tool server with the request: the answers, and the state that the server itself has given.
pub(super) fn resume<'r>(_round: Option<&'r Round>, _retry: Option<Retry<'r>>) -> Option<Resume<'r>> {
    None
}

/// Puts our own state into questions that go to the agent.
///
/// # Errors
/// `upstream_protocol_error` for questions that no agent may be asked.
pub(super) fn wrap(_shared: &Shared, _invocation: &Invocation<'_>, _round: Option<&Round>, ending: Ending) -> Result<Ending, Error> {
    Ok(ending)
}
