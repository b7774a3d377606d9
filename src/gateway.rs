//! The request path: one call, top to bottom. Nothing reaches a tool server by any other way.
//!
//! Owns: the order of the stages, one of each of them, and the one exit. Leaves to each stage what it decides.
//!
//! INVARIANT: `forward` takes `Recorded`, which only `audit` makes from `Cleared`, which only `approval` makes from
//! `Admission`, which only `limit` makes from `Permit`, which only `policy` makes from an `Invocation`.
//! INVARIANT: a `Gateway` never changes. A reload builds another and swaps it; a call keeps the one it began with.

mod approving;
mod assembly;
mod change;
mod compensating;
mod deciding;
mod dry_run;
mod ended;
mod entrance;
mod folders;
mod forwarding;
mod frozen;
mod gathering;
mod heard;
mod listing;
mod obligations;
mod recording;
mod replaying;
mod resolve;
mod rounds;
mod shared;
mod starts;
mod status;
mod survive;
mod telling;
mod usage;
mod versions;
mod watching;

use std::pin::pin;
use std::sync::Arc;

pub use self::assembly::{Assembly, Loaded, LogOrigin, Plan, StartError, carried, targets};
pub use self::change::Change;
pub use self::deciding::{Decided, Undone};
pub use self::entrance::needed_scopes;
pub use self::folders::{Folders, bundles, shadow, signed};
pub use self::heard::heard;
pub use self::listing::{Listed, Page};
use self::resolve::{Made, withheld};
pub use self::shared::Shared;
use self::survive::survive;
pub use self::telling::Teller;
pub use self::versions::{Versions, config_version};
pub use self::watching::{Topic, Watchable, Watching};
use crate::audit::trail::Trail;
use crate::catalog::{Catalog, param_header};
use crate::error::{Code, Effect, Error};
use crate::inspect::inspect;
use crate::invocation::{Arguments, Caller, Invocation};
use crate::limit::Limits;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Downstream, Request};
use crate::mcp::respond::Ending;
use crate::policy::Policy;
use crate::upstream::{Asked, Forwarded, Upstream};

/// One snapshot of everything that decides.
pub struct Gateway {
    catalog: Catalog,
    policy: Policy,
    /// Decides beside it, for the record alone.
    shadow: Option<Policy>,
    limits: Arc<Limits>,
    upstreams: Vec<Upstream>,
    listings: listing::Listings,
    shared: Arc<Shared>,
}

/// How a call ended, and under which id it is recorded.
pub struct Answer {
    /// The invocation's id.
    pub invocation: String,
    /// The result or the questions, or why there is neither.
    pub outcome: Result<Ending, Error>,
}

impl Gateway {
    /// One call, from its arguments' bytes in `message` to its result. Every call leaves here, and is recorded here.
    pub async fn call(&self, caller: &Caller, id: &Id, request: &Request<'_, '_>, message: &[u8], downstream: &dyn Downstream) -> Answer {
        // Prompts and resources are made targets here, and outlive the trail that names them.
        let made = Made::new();
        let mut trail = self.shared.audit.trail(caller, request.method.as_str(), Some(id), request.meta, self.policy.version());
        let mut outcome = survive(pin!(self.run(&mut trail, &made, caller, request, message, downstream))).await;
        if let Err(error) = &mut outcome
            && error.code() == Code::Internal
            && trail.is_recorded()
        {
            *error = error.clone().after_effect(Effect::Unknown, false);
        }
        self.settle(&mut trail, caller, &mut outcome).await;
        self.shared.audit.close(&trail, &outcome).await;
        self.shared.ended(&trail, &outcome);
        Answer { invocation: trail.id_text().to_owned(), outcome }
    }

    async fn run<'d>(
        &'d self,
        trail: &mut Trail<'d>,
        made: &'d Made,
        caller: &'d Caller,
        request: &'d Request<'d, 'd>,
        message: &'d [u8],
        downstream: &dyn Downstream,
    ) -> Result<Ending, Error> {
        // Which target is meant, and may this agent know of it?
        trail.asked_for(request.name);
        trail.answered(request.retry);
        let target = self.resolve(made, caller, request)?;
        trail.resolved(target, request.arguments);
        self.sees(trail, caller, target)?;
        entrance::has_scopes(&caller.principal, target.scope.as_deref())?;
        // Do the arguments match the reviewed schema? Conditions of the policy read valid ones only.
        let schemas = target.schemas(&self.shared.schemas).map_err(|standing| withheld(target, &standing))?;
        let arguments = Arguments::validate(&schemas.input, request.arguments, message)?;
        trail.validated(schemas.output.is_some());
        param_header::check(&target.headers, request)?;
        let context = request.context.map(|context| context.text(message));
        let key = request.meta.idempotency_key()?;
        let invocation = Invocation { id: trail.id(), caller, method: request.method, target, arguments, context, key };
        let round = rounds::open(&self.shared, &invocation, request.retry)?;
        let invocation = round.as_deref().map_or(invocation, |round| round.goes_on(trail, invocation));
        // Has a person stopped it? May it be called by this agent, after what it has met, this often, again, and so much?
        self.shared.freezes.check(&invocation, request.meta.run())?;
        let permit = self.authorize(trail, invocation, request)?;
        let admission = self.admit(trail, permit, request, round.as_deref())?;
        // Is it only to be seen whether it would be called? Nothing is done for it from here on.
        dry_run::ends(&admission)?;
        // Is it a repeat of a call that was made already, or is under way?
        let fresh = match self.replay(trail, admission, request, downstream).await? {
            Ok(fresh) => fresh,
            Err(stored) => return Ok(*stored),
        };
        let approved = match self.approve(trail, fresh, round.as_deref(), request.retry).await? {
            Ok(approved) => approved,
            Err(question) => return Ok(*question),
        };
        // Is there room at the tool server, and is everything still as it was when we looked?
        trail.waits();
        let (upstream, slot) = self.reserve(&invocation, request, downstream).await?;
        self.still_current(&invocation, request)?;
        // What the call brings, its agent has met from here on: before anything of it can come.
        self.gather(trail, approved.permit(), request).await?;
        // The record first, then the call: `forward` takes nothing but what was recorded. An approval is used up with it.
        self.leave(trail, &approved).await?;
        let cleared = self.spend(trail, approved).await?;
        let recorded = match rounds::spend(&self.shared, &caller.principal.id, round.as_deref())? {
            None => self.shared.audit.intent(trail, cleared).await?,
            Some(open) => Box::pin(self.shared.audit.round(trail, cleared, open)).await?,
        };
        let resume = rounds::resume(round.as_deref(), request.retry);
        let asked = Asked { request, message, resume: resume.as_ref(), downstream };
        let forwarded = self.forward(trail, &recorded, (upstream, slot), asked).await?;
        let ending = match forwarded {
            Forwarded::Answered(reply) => match rounds::pages(&recorded, &reply) {
                None => inspect(&reply, &recorded, schemas.output.as_deref())?,
                Some(questions) => Ending::Asks(questions),
            },
            Forwarded::Parked(name, asked) => return rounds::park(&self.shared, trail, &invocation, upstream, (name, asked)),
        };
        rounds::wrap(&self.shared, trail, &invocation, ending)
    }
}
