//! The stages *reserve* and *forward* of the path: a place at the tool server; a recorded call out, what came of it back, ended where a
//! person stops it meanwhile, and sent once more where that is safe.
//!
//! INVARIANT: a call goes out a second time only where nothing of the first had left, or its target is declared idempotent; each further
//! attempt is decided anew with what its agent has met meanwhile and stored before it leaves, and none is made after the call's deadline or beyond the server's budget of retries.
//! INVARIANT: what is told of the effect is the most that any attempt may have done.
//! INVARIANT: a call whose agent gave it a key goes on when the connection is lost; it is bounded by its deadline.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::audit::trail::{Recorded, Trail};
use crate::error::{Code, Effect, Error};
use crate::invocation::Invocation;
use crate::mcp::messages::{Downstream, Kind, Method, Request};
use crate::mcp::revision::Revision;
use crate::trace::Stage;
use crate::upstream::{Asked, Backoff, Forwarded, Slot, Upstream, Wanted, may_pass};

/// The first and the longest pause before a call is sent again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Gateway {
    /// Waits a bounded time for a connection, then for a place in the upstream's bulkhead. Nobody waits for either to be told that the breaker
    /// is open.
    pub(super) async fn reserve(
        &self,
        call: &Invocation<'_>,
        request: &Request<'_, '_>,
        downstream: &dyn Downstream,
    ) -> Result<(&Upstream, Slot), Error> {
        let target = call.target;
        let upstream = self.upstreams.get(target.upstream);
        let upstream = upstream.ok_or_else(|| Error::new(Code::Internal, "the target has no upstream"))?;
        let (grace, wait) = (Duration::from_millis(target.connect_grace_ms), Duration::from_millis(target.queue_timeout_ms));
        let tool = (target.kind == Kind::Tool).then_some(&*target.own_name);
        if let Some(open) = Some(upstream).filter(|upstream| !upstream.takes_calls()).and_then(|upstream| upstream.refusal(tool)) {
            return Err(open);
        }
        upstream.ready(request.deadline.map_or(grace, |deadline| grace.min(deadline.saturating_duration_since(Instant::now())))).await?;
        let slot = upstream.reserve(Wanted {
            agent: &call.caller.principal.id,
            only_agent: self.shared.identity.load().has_one_agent(),
            tool,
            wait,
            deadline: request.deadline,
            cancel: downstream.cancelled(),
        });
        let slot = slot.await?.holding(self.shared.turn(target)?);
        if request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::new(Code::UpstreamTimeout, "the time that the agent gave the call was over before it was forwarded"));
        }
        Ok((upstream, slot))
    }

    /// Forwards a call to the server that it has a place at.
    pub(super) async fn forward(
        &self,
        trail: &mut Trail<'_>,
        recorded: &Recorded<'_>,
        (upstream, slot): (&Upstream, Slot),
        asked: Asked<'_, '_>,
    ) -> Result<Forwarded, Error> {
        let call = recorded.invocation();
        let lasting = outlives_its_connection(call).then(|| Lasting { downstream: asked.downstream, never: CancellationToken::new() });
        let asked = Asked { downstream: lasting.as_ref().map_or(asked.downstream, |lasting| lasting as &dyn Downstream), ..asked };
        upstream.earn_retry();
        let deadline = Instant::now() + Duration::from_millis(call.target.max_timeout_ms);
        let deadline = asked.request.deadline.map_or(deadline, |theirs| theirs.min(deadline));
        let forwarding = pin!(upstream.forward(recorded, slot, asked, deadline));
        let forwarded = match self.unless_frozen(call, asked.request, forwarding).await {
            // Boxed, since it is rare.
            Err(error) if may_pass(&error) => Box::pin(self.repeat(trail, recorded, asked, (upstream, deadline), error)).await,
            forwarded => forwarded,
        };
        let answered = unless_it_asks(recorded, upstream, forwarded)?;
        trail.enters(Stage::Inspect);
        Ok(answered)
    }

    /// Sends a call again that has failed, as often as it may be, or says how it failed.
    async fn repeat(
        &self,
        trail: &mut Trail<'_>,
        recorded: &Recorded<'_>,
        asked: Asked<'_, '_>,
        (upstream, deadline): (&Upstream, Instant),
        mut failed: Error,
    ) -> Result<Forwarded, Error> {
        let (target, mut backoff) = (recorded.invocation().target, Backoff::new(PAUSE.0, PAUSE.1));
        for _ in 0..target.retries {
            let pause = backoff.step();
            let is_late = Instant::now() + pause >= deadline;
            if is_late || !may_be_sent_again(recorded, asked, &failed) || !upstream.spend_retry() {
                break;
            }
            tokio::select! {
                () = asked.downstream.cancelled().cancelled() => break,
                () = sleep(pause) => {}
            }
            match self.resend(trail, recorded, asked, deadline, &failed).await {
                Ok(forwarded) => return Ok(forwarded),
                // What the earlier attempt may have done, it may have done whatever became of this one.
                Err(error) if error.effect() == Effect::None && failed.effect() != Effect::None => break,
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// One further attempt, with a place and a record of its own.
    async fn resend(
        &self,
        trail: &mut Trail<'_>,
        recorded: &Recorded<'_>,
        asked: Asked<'_, '_>,
        deadline: Instant,
        failed: &Error,
    ) -> Result<Forwarded, Error> {
        let call = recorded.invocation();
        let late = |_| failed.clone();
        let (upstream, slot) = timeout_at(deadline, self.reserve(call, asked.request, asked.downstream)).await.map_err(late)??;
        self.still_current(call, asked.request)?;
        self.still_permitted(recorded, asked.request)?;
        self.shared.audit.resent(trail, recorded, failed).await?;
        let forwarding = pin!(upstream.forward(recorded, slot, asked, deadline));
        self.unless_frozen(call, asked.request, forwarding).await
    }
}

/// Whether a call that failed so may be sent again without doing anything twice.
fn may_be_sent_again(recorded: &Recorded<'_>, asked: Asked<'_, '_>, failed: &Error) -> bool {
    let is_passing = may_pass(failed) && failed.code() != Code::UpstreamProtocolError;
    is_passing
        && match failed.effect() {
            Effect::None => true,
            // A server that has said when to come back is not asked sooner; answers and states are good once.
            Effect::Unknown => recorded.invocation().target.is_idempotent() && asked.resume.is_none() && failed.wait_ms().is_none(),
            Effect::Done => false,
        }
}

/// Whether a lost connection leaves the call alone: its agent has a key to ask for the result by. In this revision there is no other word for a
/// cancellation on HTTP than to hang up, and a key says which of the two it was.
fn outlives_its_connection(call: &Invocation<'_>) -> bool {
    call.key.is_some()
        && call.method == Method::CallTool
        && call.caller.transport == "http"
        && call.caller.revision.is_some_and(Revision::is_modern)
}

/// The agent of a call that nobody cancels.
struct Lasting<'a> {
    downstream: &'a dyn Downstream,
    never: CancellationToken,
}

impl Downstream for Lasting<'_> {
    fn notify(&self, method: &str, params: &[u8]) {
        self.downstream.notify(method, params);
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.never
    }
}

/// Ends a call that asks though its result is redacted: one that had been asked before there was such a row goes on, and may ask again.
fn unless_it_asks(recorded: &Recorded<'_>, upstream: &Upstream, forwarded: Result<Forwarded, Error>) -> Result<Forwarded, Error> {
    let (true, Ok(Forwarded::Parked(name, _))) = (recorded.permit().redacts(), &forwarded) else { return forwarded };
    upstream.end_parked(name);
    let error = Error::new(Code::ResultBlocked, "the tool server asks in a call whose result is redacted").from_upstream();
    Err(error.after_effect(Effect::Unknown, false))
}
