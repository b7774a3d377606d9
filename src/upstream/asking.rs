//! What a server asks of us while it works: a person's answer, a model's, the agent's folders.
//!
//! Nobody is asked yet: all but a `ping` is refused, and reported.

use super::shared::Shared;
use super::wire;
use crate::mcp::jsonrpc::Id;
use crate::mcp::revision::Era;

/// Takes a server's request that came while `call` was under way, where that is known. Gives what to send back.
pub(super) fn take(shared: &Shared, era: Era, id: &Id, method: &str, call: Option<u128>) -> Option<Vec<u8>> {
    if method != "ping" {
        shared.refused(method, call);
    }
    // A modern server asks nothing, and no client answers one (2026-07-28, basic).
    (era == Era::Legacy).then(|| wire::answer(id, method))
}
