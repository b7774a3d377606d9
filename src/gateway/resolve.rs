//! The stages *resolve* and *sees* of the path: a name in, the target that it means out, for those who may know of it.

use super::{Gateway, withheld};
use crate::catalog::{Standing, Target};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::mcp::messages::{Kind, Request};

impl Gateway {
    /// The target that the request names.
    // Prompts and resources are not served yet, so no request names one that exists.
    pub(super) fn resolve(&self, principal: &Principal, request: &Request<'_, '_>) -> Result<&Target, Error> {
        let name = Some(request.name).filter(|_| request.kind == Kind::Tool);
        let found = name.and_then(|name| self.catalog.tool(self.catalog.find(name)?));
        found.ok_or_else(|| {
            let unreviewed = name.and_then(|name| self.catalog.unreviewed(name));
            if unreviewed.is_some_and(|target| self.policy.sees_by_name(self.policy.class(&principal.id), &target)) {
                return Error::new(Code::ToolWithheld, "the tool is new and nobody has reviewed it");
            }
            self.not_found(principal, request.name)
        })
    }

    /// Whoever does not see a target is told what somebody with a wrong name is told.
    pub(super) fn sees(&self, principal: &Principal, target: &Target) -> Result<(), Error> {
        let class = self.policy.class(&principal.id);
        let seen = match target.index {
            Some(index) => self.policy.sees(class, index),
            None => self.policy.sees_by_name(class, &target.policy_name),
        };
        if !seen {
            return Err(self.not_found(principal, &target.name).operator("no rule lets this agent see the tool"));
        }
        match self.catalog.standing(target) {
            Standing::Reviewed | Standing::Unconfirmed => Ok(()),
            standing => Err(withheld(target, &standing)),
        }
    }

    fn not_found(&self, principal: &Principal, name: &str) -> Error {
        let error = Error::new(Code::ToolNotFound, "there is no such tool");
        match self.resembling(principal, name) {
            Some(listed) => error.suggest(format!("call `{listed}` if that is what you meant, or list the tools")),
            None => error,
        }
    }
}
