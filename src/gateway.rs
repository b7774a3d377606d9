//! The request path: one `tools/call`, top to bottom. Nothing reaches a tool by any other way.
//!
//! Owns: the order of the stages, one of each of them, and the one exit. Leaves to each stage what it decides.
//!
//! INVARIANT: `forward` takes `Recorded`, which only `audit` makes from `Cleared`, which only `approval` makes from
//! `Admission`, which only `limit` makes from `Permit`, which only `policy` makes from an `Invocation`.
//! INVARIANT: a `Gateway` never changes. A reload builds another and swaps it; a call keeps the one it began with.

mod assembly;
mod listing;
mod status;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;

pub use self::assembly::{Assembly, Folders, Loaded, LogOrigin, Plan, StartError, carried, read, targets};
use crate::approval;
use crate::audit::trail::{Audit, Trail};
use crate::catalog::{Catalog, Standing, TargetIndex, Tool};
use crate::error::{Code, Effect, Error};
use crate::identity::{Credentials, Identity, Principal};
use crate::inspect::inspect;
use crate::invocation::{Arguments, Caller, Invocation};
use crate::limit::{self, Limits};
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{CallTool, Downstream, Meta};
use crate::mcp::respond::ToolResult;
use crate::policy::Policy;
use crate::schema::Schemas;
use crate::telemetry::Telemetry;
use crate::upstream::{Slot, Upstream};

/// One snapshot of everything that decides.
pub struct Gateway {
    catalog: Catalog,
    policy: Policy,
    limits: Arc<Limits>,
    upstreams: Vec<Upstream>,
    listings: listing::Listings,
    shared: Arc<Shared>,
}

/// What carries over from one snapshot to the next.
pub struct Shared {
    /// The log.
    pub audit: Audit,
    /// Who is let in; swapped by itself, so that a revoked key is gone at once.
    pub identity: ArcSwap<Identity>,
    /// Compiled schemas.
    pub schemas: Schemas,
    /// Counters.
    pub telemetry: Telemetry,
}

/// How a call ended, and under which id it is recorded.
pub struct Answer {
    /// The invocation's id.
    pub invocation: String,
    /// The tool's result, or why there is none.
    pub outcome: Result<ToolResult, Error>,
}

impl Gateway {
    /// Who shows these credentials. Stands before the body is read.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn authenticate(&self, shown: &Credentials<'_>) -> Result<Principal, Error> {
        self.shared.identity.load().authenticate(shown)
    }

    /// Spends a token of the agent's messages, before one is read.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn screen(&self, principal: &Principal) -> Result<(), Error> {
        limit::screen(&self.limits, principal)
    }

    /// Counts a failed credential against its address.
    ///
    /// # Errors
    /// `rate_limited` once it has failed too often.
    pub fn count_failure(&self, peer: IpAddr) -> Result<(), Error> {
        limit::count_failure(&self.limits, peer)
    }

    /// One `tools/call`, from its arguments' bytes in `message` to its result. Every call leaves here, and is recorded here.
    pub async fn call(&self, caller: &Caller, id: &Id, request: CallTool<'_, '_>, message: &[u8], downstream: &dyn Downstream) -> Answer {
        let mut trail = self.shared.audit.trail(caller, "tools/call", Some(id), request.meta, self.policy.version());
        let mut outcome = survive(pin!(self.run(&mut trail, caller, request, message, downstream))).await;
        if let Err(error) = &mut outcome
            && error.code() == Code::Internal
            && trail.is_recorded()
        {
            *error = error.clone().after_effect(Effect::Unknown, false);
        }
        self.shared.audit.close(&trail, &outcome).await;
        let ending = outcome.as_ref().map(|result| result.is_error).map_err(Error::code);
        self.shared.telemetry.call_ended(ending, trail.elapsed());
        Answer { invocation: trail.id_text().to_owned(), outcome }
    }

    async fn run<'d>(
        &'d self,
        trail: &mut Trail<'d>,
        caller: &'d Caller,
        request: CallTool<'d, 'd>,
        message: &'d [u8],
        downstream: &dyn Downstream,
    ) -> Result<ToolResult, Error> {
        // Which tool is meant, and may this agent know of it?
        trail.asked_for(request.name);
        let (target, tool) = self.resolve(&caller.principal, request.name)?;
        trail.resolved(tool, request.arguments);
        self.sees(&caller.principal, target, tool)?;
        // Do the arguments match the reviewed schema? Conditions of the policy read valid ones only.
        let schemas = tool.schemas(&self.shared.schemas).map_err(|standing| withheld(tool, &standing))?;
        let arguments = Arguments::validate(&schemas.input, request.arguments, message)?;
        let invocation = Invocation { id: trail.id(), principal: &caller.principal, target, tool, arguments };
        // May it be called by this agent, this often, without asking a person?
        let permit = self.policy.authorize(invocation)?;
        trail.permitted(permit.rules());
        let admission = limit::admit(&self.limits, permit)?;
        let cleared = approval::approve(admission);
        // Is there room at the tool server, and is everything still as it was when we looked?
        let (upstream, slot) = self.reserve(tool, invocation.principal).await?;
        self.still_current(&invocation)?;
        // The record first, then the call: `forward` takes nothing but what was recorded.
        let recorded = self.shared.audit.intent(trail, cleared).await?;
        let reply = upstream.forward(&recorded, slot, request.meta, message, downstream).await?;
        inspect(&reply, schemas.output.as_deref(), tool.is_idempotent())
    }

    fn resolve(&self, principal: &Principal, name: &str) -> Result<(TargetIndex, &Tool), Error> {
        let found = self.catalog.find(name).and_then(|target| Some((target, self.catalog.tool(target)?)));
        found.ok_or_else(|| {
            let unreviewed = self.catalog.unreviewed(name);
            if unreviewed.is_some_and(|target| self.policy.sees_by_name(self.policy.class(&principal.id), &target)) {
                return Error::new(Code::ToolWithheld, "the tool is new and nobody has reviewed it");
            }
            self.not_found(principal, name)
        })
    }

    /// Whoever does not see a tool is told what somebody with a wrong name is told.
    fn sees(&self, principal: &Principal, target: TargetIndex, tool: &Tool) -> Result<(), Error> {
        if !self.policy.sees(self.policy.class(&principal.id), target) {
            return Err(self.not_found(principal, &tool.name).operator("no rule lets this agent see the tool"));
        }
        match self.catalog.standing(tool) {
            Standing::Reviewed | Standing::Unconfirmed => Ok(()),
            standing => Err(withheld(tool, &standing)),
        }
    }

    fn not_found(&self, principal: &Principal, name: &str) -> Error {
        let error = Error::new(Code::ToolNotFound, "there is no such tool");
        match self.resembling(principal, name) {
            Some(listed) => error.suggest(format!("call `{listed}` if that is what you meant, or list the tools")),
            None => error,
        }
    }

    /// Waits a bounded time for the first connection, then takes a place in the upstream's bulkhead.
    async fn reserve(&self, tool: &Tool, principal: &Principal) -> Result<(&Upstream, Slot), Error> {
        let upstream = self.upstreams.get(tool.upstream);
        let upstream = upstream.ok_or_else(|| Error::new(Code::Internal, "the tool has no upstream"))?;
        upstream.ready(std::time::Duration::from_millis(tool.connect_grace_ms)).await?;
        let only_agent = self.shared.identity.load().has_one_agent();
        Ok((upstream, upstream.reserve(&principal.id, only_agent)?))
    }

    /// What may have changed while the call waited: the credential, and the live definition.
    fn still_current(&self, invocation: &Invocation<'_>) -> Result<(), Error> {
        if !self.shared.identity.load().holds(invocation.principal) {
            return Err(Error::new(Code::Unauthenticated, "the API key has been revoked"));
        }
        match self.catalog.standing(invocation.tool) {
            Standing::Reviewed => Ok(()),
            standing => Err(withheld(invocation.tool, &standing)),
        }
    }

    /// Records and returns the refusal of a message that is no call, or was refused before it became one.
    pub async fn refuse(&self, caller: &Caller, method: &str, id: Option<&Id>, error: Error) -> Answer {
        let trail = self.shared.audit.trail(caller, method, id, Meta::of(None), self.policy.version());
        self.shared.telemetry.refused(error.code());
        let outcome = Err(error);
        self.shared.audit.close(&trail, &outcome).await;
        Answer { invocation: trail.id_text().to_owned(), outcome }
    }
}

fn withheld(tool: &Tool, standing: &Standing) -> Error {
    Error::new(Code::ToolWithheld, format!("`{}` is {standing}", tool.name))
}

/// A panic in a stage ends its own call, with a record, and no other.
async fn survive<T>(mut stages: Pin<&mut impl Future<Output = Result<T, Error>>>) -> Result<T, Error> {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| stages.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(_) => Poll::Ready(Err(Error::new(Code::Internal, "the gateway failed on this call"))),
    })
    .await
}
