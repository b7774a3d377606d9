//! The stage *replay* of the path: a repeat of a named call gets the stored result, or the truth; whatever is no repeat holds its name until
//! its end.
//!
//! Owns: the wait for a call that is under way, the words for the agent, and what an outcome means for a repeat. Leaves to `replay` what a repeat
//! finds, and to `audit` the record.
//!
//! INVARIANT: it stands behind the decision and the limits: who may not make the call any more, or not so often, gets no stored result either. A
//! replay is a request and costs a token of the rates; it is no call, so conditions do not count it, and it needs no approval of its own.
//! INVARIANT: before a stored result is given, its agent has met what it brings, and it is on record who gets it.
//! INVARIANT: whatever becomes of a call whose row is there, `settle` says so to the row; where it cannot, nobody knows how the call ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::{Gateway, Shared};
use crate::approval::Approved;
use crate::audit::trail::Trail;
use crate::clock::rfc3339;
use crate::error::{Code, Effect, Error};
use crate::invocation::Caller;
use crate::limit::Admission;
use crate::limit::slots::Full;
use crate::mcp::messages::{Downstream, Request};
use crate::mcp::respond::{CallResult, Ending};
use crate::policy::Obligation;
use crate::replay::{self, By, Claim, Ended, Evidence, Found, Fresh, Held, Left, Named, Replays, Stored, Unkept};
use crate::state::StateError;
use crate::trace::Stage;

/// How soon a repeat of a call that is under way may be sent again, in milliseconds.
const AGAIN_MS: u64 = 1_000;

/// The call that is no repeat, or what its repeat is answered with.
type Repeat<'d> = Result<Fresh<'d>, Box<Ending>>;

impl Gateway {
    /// Lets a call on that is no repeat. Boxed where it has a name, since few have.
    pub(super) async fn replay<'d>(
        &self,
        trail: &mut Trail<'d>,
        admission: Admission<'d>,
        request: &Request<'_, '_>,
        downstream: &dyn Downstream,
    ) -> Result<Repeat<'d>, Error> {
        trail.enters(Stage::Replay);
        match replay::is_named(admission.invocation()) {
            false => replay::fresh(admission, None).map(Ok),
            true => Box::pin(self.named(trail, admission, request, downstream)).await,
        }
    }

    async fn named<'d>(
        &self,
        trail: &mut Trail<'d>,
        admission: Admission<'d>,
        request: &Request<'_, '_>,
        downstream: &dyn Downstream,
    ) -> Result<Repeat<'d>, Error> {
        let redactions = admission.permit().obligations().iter().filter(|obliged| matches!(obliged.obligation, Obligation::Redact(_)));
        let named = Named::of(admission.invocation(), redactions.map(ToString::to_string).collect(), request.retry);
        let named = Arc::new(named.ok_or_else(|| Error::new(Code::Internal, "the call has no name"))?);
        let until = Instant::now() + Duration::from_millis(self.shared.replays.bounds().wait_ms.value());
        let claimed = loop {
            match self.shared.replays.claim(&named) {
                Claim::Held(claimed) => break claimed,
                Claim::Other(call) => return Err(reused(&under_way(call))),
                Claim::Taken(call, mut over) => {
                    self.waits(trail);
                    let _place = match self.shared.replays.wait(&named.agent) {
                        Ok(place) if Instant::now() < until => place,
                        _ => return Err(runs(&under_way(call))),
                    };
                    tokio::select! {
                        biased;
                        // An error says that the other call has given its name up.
                        _ = over.changed() => {}
                        () = downstream.cancelled().cancelled() => return Err(Error::new(Code::Cancelled, "the repeat was cancelled while it waited")),
                        () = tokio::time::sleep_until(until) => return Err(runs(&under_way(call))),
                    }
                }
            }
        };
        let look = Arc::clone(&named);
        let found = self.shared.with_replays(move |replays| replays.look(&look)).await?;
        match found {
            Found::Free(free) => {
                self.goes_on(trail, &admission.invocation().target.name)?;
                trail.holds(Replays::hold(named, free, claimed));
                replay::fresh(admission, trail.held()).map(Ok)
            }
            Found::Done(stored) => {
                // The next repeat need not wait for this one's record.
                drop(claimed);
                self.give(trail, &admission, request, *stored).await.map(Err)
            }
            other => Err(told(&other, &named)),
        }
    }

    /// Answers a repeat with the stored result.
    async fn give(
        &self,
        trail: &mut Trail<'_>,
        admission: &Admission<'_>,
        request: &Request<'_, '_>,
        stored: Stored,
    ) -> Result<Box<Ending>, Error> {
        let invocation = admission.invocation();
        // It may have waited, and the credential and the freezes are as they are now.
        if !self.shared.identity.load().holds(&invocation.caller.principal) {
            return Err(Error::new(Code::Unauthenticated, "the credential does not hold any more"));
        }
        self.shared.freezes.check(invocation, request.meta.run())?;
        self.gather_again(trail, admission.permit(), request).await?;
        self.shared.audit.replayed(trail, invocation.target, &stored).await?;
        let Stored { evidence, mut result } = stored;
        let ended = evidence.ended.map(time);
        push_meta(&mut result, "dev.doorward/replayed", &json!({ "invocation": evidence.call, "ended": ended }).to_string());
        Ok(Box::new(Ending::Complete(result)))
    }

    /// Puts the row of a named call into the database, and voids what the call changes; nearly every call does neither.
    ///
    /// # Errors
    /// What a repeat is told, where another process has begun the same call meanwhile; `overloaded` and `concurrency_limited` where too many
    /// calls are known; `internal` where the database fails.
    pub(super) async fn leave(&self, trail: &mut Trail<'_>, approved: &Approved<'_>) -> Result<(), Error> {
        let target = approved.invocation().target;
        match trail.held().is_none() && !(target.voids_repeats && self.shared.replays.is_loose(&target.upstream_id)) {
            true => Ok(()),
            false => Box::pin(self.leaving(trail, approved)).await,
        }
    }

    async fn leaving(&self, trail: &mut Trail<'_>, approved: &Approved<'_>) -> Result<(), Error> {
        let target = approved.invocation().target;
        let held = trail.held().map(|held| (Arc::clone(held.named()), held.free().clone()));
        // One that is told apart by its arguments does it together with its own row.
        if target.voids_repeats && held.as_ref().is_none_or(|(named, _)| named.by != By::Arguments) {
            let upstream = target.upstream_id.clone();
            self.shared.with_replays(move |replays| if replays.is_loose(&upstream) { replays.void(&upstream) } else { Ok(()) }).await?;
        }
        let Some((named, free)) = held else { return Ok(()) };
        let leaving = Arc::clone(&named);
        match self.shared.with_replays(move |replays| replays.leave(&leaving, &free)).await? {
            Left::Gone => {
                trail.leaves();
                Ok(())
            }
            Left::Meanwhile(found) => Err(told(&found, &named)),
            Left::Full(full) => Err(no_place(full)),
        }
    }

    /// Says to the row of a named call how it ended, and to the agent what a repeat of it would come to and what it can take back.
    pub(super) async fn settle(&self, trail: &mut Trail<'_>, caller: &Caller, outcome: &mut Result<Ending, Error>) {
        trail.enters(Stage::Outcome);
        if let Some(held) = trail.release().filter(|held| held.has_left()) {
            Box::pin(self.settled(&held, outcome)).await;
        }
        // A stored result says nothing of how much its first agent could still spend.
        self.count_end(trail, outcome);
        self.compensate(trail, caller, outcome);
    }

    async fn settled(&self, held: &Held, outcome: &mut Result<Ending, Error>) {
        let ended = match outcome {
            Ok(Ending::Complete(result)) => Ended::Result(result.clone()),
            Ok(Ending::Asks(questions)) => Ended::Asks { with_state: questions.running || questions.state.is_some() },
            Err(error) => match (error.effect(), error.facts().code) {
                (Effect::None, _) => Ended::Nothing,
                // Who has hung up was told nothing.
                (Effect::Unknown, code) => Ended::Unknown(code, error.code() != Code::Cancelled),
                (Effect::Done, code) => Ended::Failed(code),
            },
        };
        let (named, free) = (Arc::clone(held.named()), held.free().clone());
        match self.shared.with_replays(move |replays| replays.end(&named, &free, &ended)).await {
            Ok(None) => {}
            Ok(Some(unkept)) => not_kept(held.named(), unkept, outcome),
            Err(error) => {
                tracing::error!(invocation = %held.named().call, error = error.detail(), "how the call ended could not be stored for its repeats");
            }
        }
    }
}

impl Shared {
    /// Forgets calls whose time is over. Costs one look at a number where there are none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_replays(&self) -> Result<(), Error> {
        if self.replays.is_due() { self.with_replays(Replays::forget).await } else { Ok(()) }
    }

    /// Says of a call that waited for its agent's answers that none came.
    pub(super) async fn lose(&self, call: String, code: Code) {
        if !self.replays.was_asking(&call) {
            return;
        }
        if let Err(error) = self.with_replays(move |replays| replays.lose(&call, code.facts().code)).await {
            tracing::error!(error = error.detail(), "how a call ended could not be stored for its repeats");
        }
    }

    /// Asks the database where it may block.
    async fn with_replays<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Replays) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, Error> {
        let replays = Arc::clone(&self.replays);
        let asked = tokio::task::spawn_blocking(move || ask(&replays)).await;
        let unknown = || Error::new(Code::Internal, "it cannot be told whether the call was made before, so nothing was done");
        asked.map_err(|_| unknown())?.map_err(|error| unknown().operator(error))
    }
}

/// What a repeat is told that gets no stored result.
fn told(found: &Found, named: &Named) -> Error {
    match found {
        Found::Runs(evidence) => runs(evidence),
        Found::Asks(evidence) => {
            let message = format!("the same call waits for answers to what its server has asked, as invocation `{}`", evidence.call);
            let error = Error::new(Code::DuplicateInFlight, message).retry_after_ms(AGAIN_MS).data(MEMBER, shown(evidence));
            error.suggest("answer with the `requestState` that came with the questions; the key belongs to the whole call")
        }
        Found::Unknown(evidence) => unknown(evidence, named),
        Found::Other(evidence) => reused(evidence),
        Found::Unkept(evidence) => unkept(evidence),
        Found::Redacted(evidence) => {
            let message =
                format!("the call was made, as invocation `{}`, and the policy lets less of its result out by now", evidence.call);
            Error::new(Code::ResultBlocked, message).after_effect(Effect::Done, false).data(MEMBER, shown(evidence))
        }
        // What another process has done meanwhile, the next repeat finds.
        Found::Free(_) | Found::Done(_) => Error::new(Code::Overloaded, "the same call has just ended").retry_after_ms(0),
    }
}

fn runs(evidence: &Evidence) -> Error {
    let message = format!("the same call is still running, as invocation `{}`", evidence.call);
    Error::new(Code::DuplicateInFlight, message).retry_after_ms(AGAIN_MS).data(MEMBER, shown(evidence))
}

fn reused(evidence: &Evidence) -> Error {
    let message = format!("the idempotency key stands for invocation `{}`, which has other arguments or another definition", evidence.call);
    Error::new(Code::IdempotencyKeyReused, message).data(MEMBER, shown(evidence))
}

/// The invocation that may have acted, when, and what is known of its end.
fn unknown(evidence: &Evidence, named: &Named) -> Error {
    let Evidence { call, began, code, .. } = evidence;
    let began = began.map(time).unwrap_or_default();
    let how = match code {
        Some(code) => format!("ended in `{code}`"),
        None => "has no known end, since the gateway stopped meanwhile".to_owned(),
    };
    let message = format!("the same call was made at {began}, as invocation `{call}`, and {how}");
    let error = Error::new(Code::OutcomeUnknown, message).after_effect(Effect::Unknown, named.is_harmless).data(MEMBER, shown(evidence));
    error.suggest(match named.is_harmless {
        true => "check whether the call took effect; sent once more it runs again, which the tool's manifest calls harmless".to_owned(),
        false => format!(
            "check whether the call took effect; where it did not, send it under another key, or ask an operator for `doorward replays release {call}`"
        ),
    })
}

fn unkept(evidence: &Evidence) -> Error {
    let Evidence { call, code, .. } = evidence;
    let told = |code, message: String| Error::new(code, message).after_effect(Effect::Done, false).data(MEMBER, shown(evidence));
    let failed = code.as_deref().and_then(|word| Code::ALL.iter().find(|code| code.facts().code == word));
    match failed {
        Some(failed) => told(*failed, format!("the same call was made, as invocation `{call}`, and ended in this error")),
        None => told(Code::ResultTooLarge, format!("the same call was made, as invocation `{call}`, and its result was not kept"))
            .suggest("do not make the call again; read what it did in another way"),
    }
}

fn no_place(full: Full) -> Error {
    let error = match full {
        Full::All => Error::new(Code::Overloaded, "too many calls with a key are known"),
        Full::Agent => Error::new(Code::ConcurrencyLimited, "too many calls of this agent with a key are known"),
    };
    error.suggest("wait until the time of some is over; a call without a key needs no place").retry_after_ms(AGAIN_MS * 60)
}

/// Tells the agent that a repeat will not get this result.
fn not_kept(named: &Named, why: Unkept, outcome: &mut Result<Ending, Error>) {
    if let (Ok(Ending::Complete(result)), false) = (outcome, named.by == By::Arguments) {
        push_meta(result, "dev.doorward/idempotency", &json!({ "kept": false, "why": why.as_str() }).to_string());
    }
}

/// Adds a member of ours to what is relayed of `_meta`.
pub(super) fn push_meta(result: &mut CallResult, key: &str, value: &str) {
    let mut meta = result.meta.to_vec();
    if !meta.is_empty() {
        meta.push(b',');
    }
    meta.extend_from_slice(format!("\"{key}\":{value}").as_bytes());
    result.meta = Bytes::from(meta);
}

fn under_way(call: Box<str>) -> Evidence {
    Evidence { call, began: None, ended: None, code: None }
}

fn shown(evidence: &Evidence) -> String {
    let Evidence { call, began, ended, code } = evidence;
    let mut shown = json!({ "invocation": call });
    for (member, value) in [("began", began.map(time)), ("ended", ended.map(time)), ("code", code.as_deref().map(str::to_owned))] {
        if let Some(value) = value {
            shown[member] = value.into();
        }
    }
    shown.to_string()
}

fn time(seconds: i64) -> String {
    rfc3339(seconds.saturating_mul(1_000_000_000))
}

/// The member of an error's data that names the call that a repeat is of.
const MEMBER: &str = "earlier";
