//! The stages *resolve* and *sees* of the path: a name or URI in, the target that it means out, for those who may know of it.

use std::sync::OnceLock;

use super::Gateway;
use crate::audit::trail::Trail;
use crate::catalog::{Standing, Target};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::invocation::{Caller, Invocation};
use crate::mcp::canonical::write_string;
use crate::mcp::messages::{Kind, Method, Request};
use crate::mcp::revision::Revision;
use crate::policy::Policy;

/// Where a target stands that is made for one call; a tool needs none.
pub(super) type Made = OnceLock<Box<Target>>;

/// The reason of a refusal of a name that leads nowhere.
pub(super) const UNKNOWN: &str = "unknown_name";

impl Gateway {
    /// The target that the request names.
    pub(super) fn resolve<'d>(&'d self, made: &'d Made, caller: &Caller, request: &Request<'_, '_>) -> Result<&'d Target, Error> {
        let found = match request.kind {
            Kind::Tool => return self.tool(&caller.principal, request.name),
            Kind::Prompt => self.prompt(request),
            Kind::Resource => self.resource(request),
        };
        match found {
            Some(target) => Ok(made.get_or_init(|| Box::new(target))),
            None => Err(self.not_found(caller, request.kind, request.name)),
        }
    }

    fn tool(&self, principal: &Principal, name: &str) -> Result<&Target, Error> {
        self.catalog.find(name).and_then(|index| self.catalog.tool(index)).ok_or_else(|| {
            let unreviewed = self.catalog.unreviewed(name);
            if unreviewed.is_some_and(|target| self.policy.sees_by_name(self.policy.class(&principal.id), &target)) {
                return Error::new(Code::ToolWithheld, "the tool is new and nobody has reviewed it").because("not_reviewed");
            }
            self.no_tool(principal, name)
        })
    }

    fn prompt(&self, request: &Request<'_, '_>) -> Option<Target> {
        let (at, own) = self.catalog.prompt(request.name)?;
        let source = self.catalog.sources().get(at)?;
        let listing = source.live.listing();
        let definition = listing.as_ref().and_then(|listing| listing.prompt(&own));
        // Before the server has been heard of, the call may wait for it; after, it has no other prompts than it lists.
        let known = definition.is_some() || listing.is_none();
        known.then(|| Target::prompt(at, source, request.name, &own, definition, request.method))
    }

    /// A URI need not be listed: templates and links name others. A template to complete must be.
    fn resource(&self, request: &Request<'_, '_>) -> Option<Target> {
        let (at, own) = self.catalog.own_uri(request.name)?;
        let source = self.catalog.sources().get(at)?;
        let listing = source.live.listing();
        let mut templates = listing.iter().flat_map(|listing| &listing.templates);
        let known = request.method != Method::Complete || listing.is_none() || templates.any(|item| &*item.own == own);
        known.then(|| Target::resource(at, source, request.name, own, request.method))?
    }

    /// Whoever does not see a target is told what somebody with a wrong name is told.
    pub(super) fn sees(&self, trail: &mut Trail<'_>, caller: &Caller, target: &Target) -> Result<(), Error> {
        if !is_seen(&self.policy, caller, target) {
            if let Some(shadow) = self.shadow.as_ref().filter(|shadow| is_seen(shadow, caller, target)) {
                trail.shadowed(shadow.version(), "visible");
            }
            let reason = match target.kind {
                Kind::Tool => "no rule lets this agent see the tool",
                Kind::Prompt => "no rule lets this agent see the prompt",
                Kind::Resource => "no rule lets this agent see the resource",
            };
            return Err(self.not_found(caller, target.kind, &target.name).operator(reason).because("not_visible"));
        }
        match self.catalog.standing(target) {
            Standing::Reviewed | Standing::Unconfirmed => Ok(()),
            standing => Err(withheld(target, &standing)),
        }
    }

    /// What may have changed while the call waited: the credential, what people have stopped, and the live definition.
    pub(super) fn still_current(&self, call: &Invocation<'_>, request: &Request<'_, '_>) -> Result<(), Error> {
        let Invocation { caller, target, .. } = call;
        if !self.shared.identity.load().holds(&caller.principal) {
            return Err(Error::new(Code::Unauthenticated, "the credential does not hold any more"));
        }
        self.shared.freezes.check(call, request.meta.run())?;
        match (target.kind, self.catalog.standing(target)) {
            (_, Standing::Reviewed) => Ok(()),
            (Kind::Prompt, _) => Err(self.not_found(caller, target.kind, &target.name)),
            (_, standing) => Err(withheld(target, &standing)),
        }
    }

    fn not_found(&self, caller: &Caller, kind: Kind, name: &str) -> Error {
        match kind {
            Kind::Tool => self.no_tool(&caller.principal, name),
            Kind::Prompt => {
                let error = Error::new(Code::ToolNotFound, "there is no such prompt").because(UNKNOWN);
                error.suggest("list the prompts and get one of them by its exact name")
            }
            Kind::Resource => no_resource(caller.revision, name),
        }
    }

    fn no_tool(&self, principal: &Principal, name: &str) -> Error {
        let error = Error::new(Code::ToolNotFound, "there is no such tool").because(UNKNOWN);
        match self.resembling(principal, name) {
            Some(listed) => error.suggest(format!("call `{listed}` if that is what you meant, or list the tools")),
            None => error,
        }
    }
}

/// The protocol has a number of its own for this up to 2025-11-25, and has given it up since (resources, error handling).
fn no_resource(revision: Option<Revision>, uri: &str) -> Error {
    let number = if revision.is_some_and(|revision| !revision.is_modern()) { -32002 } else { -32602 };
    let mut quoted = Vec::new();
    write_string(uri, &mut quoted);
    let error = Error::new(Code::ToolNotFound, "there is no such resource").wire(number, 200).because(UNKNOWN);
    error.suggest("list the resources and their templates").data("uri", String::from_utf8_lossy(&quoted).into_owned())
}

pub(super) fn is_seen(policy: &Policy, caller: &Caller, target: &Target) -> bool {
    let class = policy.class(&caller.principal.id);
    match target.index {
        Some(index) => policy.sees(class, index),
        None => policy.sees_by_name(class, &target.policy_name),
    }
}

pub(super) fn withheld(target: &Target, standing: &Standing) -> Error {
    Error::new(Code::ToolWithheld, format!("`{}` is {standing}", target.name)).because(standing.reason())
}
