//! What an agent has met: asked before a call is decided, and added to before the call leaves.
//!
//! Owns: the order of the two, and their part of the record. Leaves to `run` whose labels are whose, and to `policy` what follows from them.
//!
//! INVARIANT: what a call brings is met before its intent is stored, and that before it leaves. So no result, no error text and no message on
//! the way to it reaches an agent that does not have the labels yet, and of calls that race, none that was sent after has them not.

use std::sync::Arc;

use super::Gateway;
use crate::audit::trail::{Recorded, Trail};
use crate::error::{Code, Error};
use crate::invocation::Invocation;
use crate::mcp::messages::Request;
use crate::policy::Permit;
use crate::run::{Leaves, Noted};
use crate::state::Counting;
use crate::trace::Stage;

/// A count that a decision stands on changes it at most once, and few conditions count.
const MAX_TRIES: usize = 4;

impl Gateway {
    /// Decides, with what the agent has met before.
    pub(super) fn authorize<'d>(
        &self,
        trail: &mut Trail<'d>,
        invocation: Invocation<'d>,
        request: &Request<'_, '_>,
    ) -> Result<Permit<'d>, Error> {
        let identity = self.shared.identity.load();
        let is_agent = |id: &str| identity.has_agent(id);
        let before = self.shared.runs.before(&invocation.caller.principal, request.meta.run(), &is_agent);
        let permit = self.policy.authorize(invocation, &before, self.shared.audit.clock());
        if let Some(shadow) = &self.shadow {
            // What it asks of the past is not what the decision stands on.
            let before = self.shared.runs.before(&invocation.caller.principal, request.meta.run(), &is_agent);
            trail.shadowed(shadow.version(), &shadow.answer(invocation, &before, self.shared.audit.clock()));
        }
        if let Some(labels) = before.asked_labels() {
            trail.met(labels.to_vec(), Vec::new());
        }
        permit.map(|permit| self.burdened(permit)).inspect(|permit| trail.permitted(permit))
    }

    /// Adds what the call brings to what its agent has met, and counts it. Most calls bring nothing and are not counted.
    ///
    /// # Errors
    /// `internal` where it cannot be stored, so that nothing may be brought; `policy_denied` where another call was counted meanwhile.
    pub(super) async fn gather(&self, trail: &mut Trail<'_>, permit: &Permit<'_>, request: &Request<'_, '_>) -> Result<(), Error> {
        trail.enters(Stage::Gather);
        let target = permit.invocation().target;
        let brings_nothing = target.labels.is_empty() && permit.counts().0.is_empty() && !self.policy.guards(target);
        match self.shadow.as_ref().is_some_and(|shadow| shadow.counting(target).next().is_some()) {
            _ if !brings_nothing => Box::pin(self.gathered(trail, permit, request)).await,
            true => {
                Box::pin(self.counted_beside(permit, request)).await;
                Ok(())
            }
            false => Ok(()),
        }
    }

    /// Counts a call that the candidate alone counts. Nothing that befalls it may become the call's.
    async fn counted_beside(&self, permit: &Permit<'_>, request: &Request<'_, '_>) {
        if let Err(error) = self.note(self.leaves(permit, &[], request)).await {
            tracing::warn!(?error, "a call that the candidate of the policy counts could not be counted");
        }
    }

    /// Adds what a stored result brings, as the call did that had it. It is no call, and so not counted.
    ///
    /// # Errors
    /// `internal` where it cannot be stored, so that the result may not be given.
    pub(super) async fn gather_again(&self, trail: &mut Trail<'_>, permit: &Permit<'_>, request: &Request<'_, '_>) -> Result<(), Error> {
        let Invocation { caller, target, .. } = permit.invocation();
        if target.labels.is_empty() {
            return Ok(());
        }
        let leaves = {
            let identity = self.shared.identity.load();
            let whose = (&caller.principal, request.meta.run());
            self.shared.runs.leaves(whose, &|id| identity.has_agent(id), &target.labels, (&[], &[]))
        };
        let noted = match self.shared.runs.known(&leaves) {
            Some(noted) => noted,
            None => self.note(leaves).await?,
        };
        if let Noted::Labels(before, after) = noted {
            trail.met(before, after);
        }
        Ok(())
    }

    async fn gathered(&self, trail: &mut Trail<'_>, permit: &Permit<'_>, request: &Request<'_, '_>) -> Result<(), Error> {
        // What the agent has met while the call waited for its server counts too.
        let is_guarded = self.policy.guards(permit.invocation().target);
        let mut leaves = if is_guarded { self.again(permit, request, &[])? } else { self.leaves(permit, permit.counts().1, request) };
        for _ in 0..MAX_TRIES {
            let noted = match self.shared.runs.known(&leaves) {
                Some(noted) => noted,
                None => self.note(leaves.clone()).await?,
            };
            match noted {
                Noted::Labels(before, after) => {
                    trail.met(before, after);
                    return Ok(());
                }
                Noted::Changed => leaves = self.again(permit, request, &[])?,
            }
        }
        Err(Error::new(Code::Overloaded, "the agent's calls are counted faster than this one could be decided").retry_after_ms(100))
    }

    fn leaves(&self, permit: &Permit<'_>, stands_on: &[Counting], request: &Request<'_, '_>) -> Leaves {
        let identity = self.shared.identity.load();
        let Invocation { caller, target, .. } = permit.invocation();
        let whose = (&caller.principal, request.meta.run());
        let own = permit.counts().0;
        // What a candidate counts is counted beside, or its conditions would see no call; nothing stands on it.
        let beside = self.shadow.iter().flat_map(|shadow| shadow.counting(target)).map(|of| of.to_string().into_boxed_str());
        let beside = beside.filter(|of| !own.contains(of));
        let counted: Vec<Box<str>> = own.iter().cloned().chain(beside).collect();
        self.shared.runs.leaves(whose, &|id| identity.has_agent(id), &target.labels, (&counted, stands_on))
    }

    /// Decides once more about a recorded call that has waited for its server anew. What it has itself brought, and itself counts, is no news.
    ///
    /// # Errors
    /// As [`Self::gather`]; also where it cannot be told what the agent has met.
    pub(super) fn still_permitted(&self, recorded: &Recorded<'_>, request: &Request<'_, '_>) -> Result<(), Error> {
        let Invocation { caller, target, .. } = recorded.invocation();
        if !self.policy.guards(target) {
            return Ok(());
        }
        let identity = self.shared.identity.load();
        let is_agent = |id: &str| identity.has_agent(id);
        let now = self.shared.runs.before(&caller.principal, request.meta.run(), &is_agent);
        let is_news = |label: &String| !recorded.met().contains(label);
        match now.labels().is_ok_and(|labels| !labels.iter().any(is_news)) {
            true => Ok(()),
            false => self.again(recorded.permit(), request, recorded.permit().counts().0).map(drop),
        }
    }

    /// Decides anew where a count has changed since: what was asked for beside the call must not be another thing by now. The call itself stands
    /// in the counts of these patterns already.
    fn again(&self, was: &Permit<'_>, request: &Request<'_, '_>, own: &[Box<str>]) -> Result<Leaves, Error> {
        let identity = self.shared.identity.load();
        let is_agent = |id: &str| identity.has_agent(id);
        let invocation = *was.invocation();
        let before = self.shared.runs.before(&invocation.caller.principal, request.meta.run(), &is_agent).without(own);
        let permit = self.burdened(self.policy.authorize(invocation, &before, self.shared.audit.clock())?);
        if permit.obligations() != was.obligations() || permit.is_lifted_by_conditions() != was.is_lifted_by_conditions() {
            let error = Error::new(Code::Overloaded, "what the call needs beside it has changed while it was decided");
            return Err(error.suggest("send the same call again").retry_after_ms(0));
        }
        Ok(self.leaves(&permit, permit.counts().1, request))
    }

    async fn note(&self, leaves: Leaves) -> Result<Noted, Error> {
        let runs = Arc::clone(&self.shared.runs);
        let noted = tokio::task::spawn_blocking(move || runs.note(&leaves)).await;
        let unknown = || Error::new(Code::Internal, "it could not be stored what the agent meets by this call, so nothing was done");
        noted.map_err(|_| unknown())?.map_err(|error| unknown().operator(error))
    }
}
