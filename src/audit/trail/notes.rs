//! What the stages of the path tell the trail of a call.

use tokio::time::Instant;

use super::Trail;
use crate::catalog::Target;
use crate::mcp::json::Node;
use crate::mcp::messages::Retry;
use crate::policy::Permit;
use crate::trace::Stage;

impl<'d> Trail<'d> {
    /// Notes the name that the agent asked for.
    pub fn asked_for(&mut self, name: &'d str) {
        self.named = Some(name);
    }

    /// Notes the tool that the name resolved to, and what it is called with.
    pub fn resolved(&mut self, tool: &'d Target, arguments: Option<&'d Node<'d>>) {
        self.enters(Stage::Validate);
        self.tool = Some(tool);
        self.arguments = arguments.map(|node| (node, node.span().len()));
    }

    /// Notes that the tool's schema accepts the arguments, and whether it `promises` a form of its results.
    pub fn validated(&mut self, promises: bool) {
        self.enters(Stage::Decide);
        (self.valid, self.promises) = (true, promises);
    }

    /// Notes that nothing speaks against the call, and that it may have to wait from here on.
    pub fn waits(&mut self) {
        self.enters(Stage::Reserve);
        self.waits = Some(Instant::now());
    }

    /// Notes a message that is refused before it is understood.
    pub fn unread(&mut self, message: &'d [u8]) {
        self.unread = Some(message);
    }

    /// Notes what the agent answers to what a server has asked.
    pub fn answered(&mut self, retry: Option<Retry<'d>>) {
        self.answers = retry.and_then(|retry| retry.responses);
    }

    /// Notes the rules that permitted it, and what they ask for beside it.
    pub fn permitted(&mut self, permit: &Permit<'_>) {
        self.enters(Stage::Admit);
        (self.rules, self.obligations) = (permit.rules().to_vec(), permit.obligations().to_vec());
        self.conditions = truths(permit.conditions());
    }

    /// Notes the labels that the agent had met before the call, and those that it has met with it.
    pub fn met(&mut self, before: Vec<String>, after: Vec<String>) {
        self.met = (before, after);
    }

    /// Notes what the policy that decides beside, without effect, says of the call.
    pub fn shadowed(&mut self, version: &str, answer: &str) {
        self.shadow = Some(format!("{version} {answer}"));
    }
}

/// The conditions of a record, in the order of their names.
pub(super) fn truths(conditions: &[(String, &'static str)]) -> Option<String> {
    let members = conditions.iter().map(|(name, truth)| format!("\"{name}\":\"{truth}\"")).collect::<Vec<_>>();
    (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
}
