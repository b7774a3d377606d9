//! What is turned away by its head alone, because there is too much to do already.
//!
//! Owns: when a message is not read, and what is said for want of room. Leaves to others: the bounds of each stage behind it.
//!
//! INVARIANT: a small message that may be no call is always read: the answer to a question, or a cancellation, makes room. The heads of the
//! handshake revisions do not say which it is; a small call of theirs is turned away when it has been parsed (`dispatch`).

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::SizeHint;

use super::buffers::FREE;
use super::{Service, headers};
use crate::error::{Code, Effect, Error};
use crate::limit::slots::Full;
use crate::mcp::respond::Ending;

/// When a call is tried again that found no place: places are free again as calls end.
const NEXT_PLACE_MS: u64 = 100;
/// When more can be held again: clients take their answers at their own pace.
const NEXT_ROOM_MS: u64 = 1_000;

impl Service {
    /// Whether a message of this agent is read.
    ///
    /// # Errors
    /// `overloaded`, or `concurrency_limited` where the agent itself holds too much.
    pub(super) fn admits(&self, agent: &Arc<str>, headers: &HeaderMap, size: &SizeHint) -> Result<(), Error> {
        let is_small = size.upper().is_some_and(|upper| upper <= FREE as u64);
        if is_small && !headers::is_call(headers) {
            return Ok(());
        }
        if self.0.calls.available_permits() == 0 {
            return Err(no_place());
        }
        self.buffers().room(agent).map_err(no_room)
    }
}

/// The refusal of a call for which there is no place.
pub(super) fn no_place() -> Error {
    Error::new(Code::Overloaded, "the gateway has as many calls under way as it takes").retry_after_ms(NEXT_PLACE_MS)
}

/// The refusal of a message for which there is no memory.
pub(super) fn no_room(full: Full) -> Error {
    let error = match full {
        Full::All => Error::new(Code::Overloaded, "the gateway holds as many bytes of messages as it takes"),
        Full::Agent => Error::new(Code::ConcurrencyLimited, "the agent's messages hold their share of the gateway's memory")
            .suggest("read the answers that are there, then send the same message again"),
    };
    error.retry_after_ms(NEXT_ROOM_MS)
}

/// What an agent is told of a call that has ended, when there is no memory for its result.
pub(super) fn undelivered(full: Full, ending: &Ending) -> Error {
    let message = match full {
        Full::All => "the result was dropped: the gateway holds as many bytes of answers as it takes",
        Full::Agent => "the result was dropped: answers that the agent has not read hold its share of the gateway's memory",
    };
    let effect = match ending {
        Ending::Complete(_) => Effect::Done,
        Ending::Asks(questions) if questions.own => Effect::None,
        Ending::Asks(_) => Effect::Unknown,
    };
    Error::new(Code::ResultTooLarge, message)
        .after_effect(effect, false)
        .suggest("read the answers that are there, and make fewer calls with large results at once; do not repeat a call that took effect")
}
