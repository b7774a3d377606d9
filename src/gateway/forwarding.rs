//! The stage *forward* of the path: a recorded call out, what came of it back; ended where a person stops it meanwhile.
//!
//! INVARIANT: a call goes out a second time only where nothing of the first had left, and with what its agent has met meanwhile decided anew.

use std::pin::pin;

use super::Gateway;
use crate::audit::trail::Recorded;
use crate::error::{Code, Effect, Error};
use crate::mcp::messages::{Downstream, Request};
use crate::upstream::{Forwarded, Resume, Slot, Upstream};

impl Gateway {
    /// Forwards a call to the server that it has a place at.
    pub(super) async fn forward(
        &self,
        recorded: &Recorded<'_>,
        (upstream, slot): (&Upstream, Slot),
        resume: Option<&Resume<'_>>,
        request: &Request<'_, '_>,
        message: &[u8],
        downstream: &dyn Downstream,
    ) -> Result<Forwarded, Error> {
        let call = recorded.invocation();
        let forwarding = pin!(upstream.forward(recorded, slot, resume, request, message, downstream));
        let forwarded = self.unless_frozen(call, request, forwarding).await;
        if !forwarded.as_ref().is_err_and(|error| was_just_lost(upstream, error)) {
            return unless_it_asks(recorded, upstream, forwarded);
        }
        // Nothing of the call had left, and a server that has just ended is mostly back in a moment. Boxed, since it is rare.
        Box::pin(async {
            let (upstream, slot) = self.reserve(call.target, &call.caller.principal).await?;
            self.still_current(call, request)?;
            self.still_permitted(recorded, request)?;
            let forwarding = pin!(upstream.forward(recorded, slot, resume, request, message, downstream));
            unless_it_asks(recorded, upstream, self.unless_frozen(call, request, forwarding).await)
        })
        .await
    }
}

/// Ends a call that asks though its result is redacted: one that had been asked before there was such a row goes on, and may ask again.
fn unless_it_asks(recorded: &Recorded<'_>, upstream: &Upstream, forwarded: Result<Forwarded, Error>) -> Result<Forwarded, Error> {
    let (true, Ok(Forwarded::Parked(name, _))) = (recorded.permit().redacts(), &forwarded) else { return forwarded };
    upstream.end_parked(name);
    let error = Error::new(Code::ResultBlocked, "the tool server asks in a call whose result is redacted").from_upstream();
    Err(error.after_effect(Effect::Unknown, false))
}

/// Whether a call found its connection gone before any of it was sent.
fn was_just_lost(upstream: &Upstream, error: &Error) -> bool {
    error.code() == Code::UpstreamUnavailable && error.effect() == Effect::None && !upstream.takes_calls()
}
