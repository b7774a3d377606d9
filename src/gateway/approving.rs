//! The stage *approve* of the path: what a call that needs a person's yes is told while it waits, and its records.
//!
//! Owns: the words for the agent and the records of each step. Leaves to `approval` what there is for a call, and to `deciding` the people.
//! INVARIANT: an approval is used up right before the intent, so that a refusal for want of room does not cost it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::rounds::{self, Round};
use super::{Gateway, Shared};
use crate::approval::webhook::Step;
use crate::approval::{self, Answer, Approvals, Approved, Asked, Cleared, Given, Waiting};
use crate::audit::trail::{Trail, approval_record};
use crate::clock::rfc3339;
use crate::error::{Code, Error};
use crate::identity::People;
use crate::invocation::Invocation;
use crate::limit::Admission;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Node};
use crate::mcp::messages::{Method, Retry};
use crate::mcp::plain::plain;
use crate::mcp::respond::Ending;
use crate::mcp::revision::Revision;
use crate::replay::Fresh;
use crate::state::StateError;
use crate::trace::Stage;

/// How soon a call that waits may be sent again, in milliseconds.
const AGAIN_MS: u64 = 5_000;

/// The call's approval, or what its user is asked.
type Approval<'d> = Result<Approved<'d>, Box<Ending>>;

impl Gateway {
    /// Lets a call on that nobody has to approve, or whose approval is there. Boxed where somebody has to, since it is rare.
    pub(super) async fn approve<'d>(
        &self,
        trail: &mut Trail<'d>,
        fresh: Fresh<'d>,
        round: Option<&Round>,
        retry: Option<Retry<'_>>,
    ) -> Result<Approval<'d>, Error> {
        trail.enters(Stage::Approve);
        match approval::asks(fresh.admission()) {
            false => {
                brings_no_answers(fresh.admission(), round, retry)?;
                approval::approve(fresh, None).map(Ok)
            }
            true => Box::pin(self.asked(trail, fresh, round, retry)).await,
        }
    }

    async fn asked<'d>(
        &self,
        trail: &mut Trail<'d>,
        fresh: Fresh<'d>,
        round: Option<&Round>,
        retry: Option<Retry<'_>>,
    ) -> Result<Approval<'d>, Error> {
        if round.is_none() && retry.is_some_and(|retry| retry.responses.is_some()) {
            // Answers to questions that nobody has asked would reach the server unseen by whoever approves.
            return Err(Error::new(Code::StateInvalid, "the call answers what nobody has asked"));
        }
        // What answers our own question is for the user's yes, and never leaves.
        let answers = retry.and_then(|retry| retry.responses).filter(|_| round.is_some_and(|round| round.approval.is_none()));
        let asked = Asked::of(fresh.admission(), self.policy.version(), round.is_some(), answers).ok_or_else(too_long)?;
        let asked = Arc::new(asked);
        let rules: Vec<String> = asked.asks.iter().map(|ask| ask.rule.clone()).collect();
        let mut answer = self.shared.answer(&asked).await?;
        // Whom the agent's user answers is this very call: the state that came with the answer says so.
        if let (Answer::Waits(waiting), Some(id)) = (&answer, round.and_then(|round| round.approval.as_deref()))
            && waiting.id == id
            && let Some(yes) = said(retry)
        {
            self.shared.relayed(id, yes).await?;
            answer = self.shared.answer(&asked).await?;
        }
        let invocation = *fresh.admission().invocation();
        let target = &invocation.target.name;
        match answer {
            Answer::Given(given) => {
                trail.approval(given.id());
                approval::approve(fresh, Some(given)).map(Ok)
            }
            Answer::Waits(waiting) => {
                trail.approval(&waiting.id);
                self.shared.requested(trail, &waiting).await?;
                let is_answered = round.is_some_and(|round| round.approval.as_deref() == Some(&waiting.id));
                if !is_answered && is_for_user(&waiting) && can_be_asked(&invocation) {
                    let question = question(&asked, &waiting.id);
                    let asked = rounds::ask(&self.shared, trail, &invocation, (&waiting.id, waiting.expires), question)?;
                    return Ok(Err(Box::new(asked)));
                }
                Err(required(target, &waiting).rules(rules))
            }
            Answer::Denied(id) => {
                trail.approval(&id);
                Err(Error::new(Code::ApprovalDenied, format!("approval `{id}` of `{target}` was denied"))
                    .rules(rules)
                    .data(MEMBER, of(&id)))
            }
            Answer::Expired(id, facts) => {
                trail.approval(&id);
                if let Some(facts) = facts {
                    self.shared.audit.note(&approval_record(&id, &facts, "expired"));
                }
                let message = format!("approval `{id}` of `{target}` came too late, or not at all");
                Err(Error::new(Code::ApprovalExpired, message).rules(rules).data(MEMBER, of(&id)))
            }
            Answer::Full => Err(Error::new(Code::Overloaded, "too many calls wait for an approval").rules(rules).retry_after_ms(AGAIN_MS)),
            Answer::FullForAgent => {
                let error = Error::new(Code::ConcurrencyLimited, "too many calls of this agent wait for an approval").rules(rules);
                Err(error.suggest("wait until some of them are decided, then send the same call again").retry_after_ms(AGAIN_MS))
            }
        }
    }

    /// Uses the approval up, where the call has one.
    ///
    /// # Errors
    /// `approval_required` where an identical call has just used it.
    pub(super) async fn spend<'d>(&self, trail: &Trail<'d>, approved: Approved<'d>) -> Result<Cleared<'d>, Error> {
        match approved.unspent().cloned() {
            None => approved.cleared(None),
            Some(given) => Box::pin(self.used(trail, approved, given)).await,
        }
    }

    async fn used<'d>(&self, trail: &Trail<'d>, approved: Approved<'d>, given: Given) -> Result<Cleared<'d>, Error> {
        let spent = self.shared.with_approvals(move |approvals, _| approvals.spend(&given)).await?.ok_or_else(gone)?;
        self.shared.audit.approval_used(trail);
        approved.cleared(Some(&spent))
    }
}

impl Shared {
    /// Asks the database where it may block.
    pub(super) async fn with_approvals<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Approvals, &People) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            let identity = shared.identity.load_full();
            ask(&shared.approvals, identity.people())
        });
        let unknown = || Error::new(Code::Internal, "it cannot be told who has approved the call, so nothing was done");
        asked.await.map_err(|_| unknown())?.map_err(|error| unknown().operator(error))
    }

    async fn answer(self: &Arc<Self>, asked: &Arc<Asked>) -> Result<Answer, Error> {
        let asked = Arc::clone(asked);
        let answer = self.with_approvals(move |approvals, people| approvals.answer(&asked, people)).await?;
        answer.ok_or_else(|| Error::new(Code::Internal, "the machine gives no randomness"))
    }

    /// Records that a call begins to wait, and then has people told; one that cannot be recorded does not wait.
    async fn requested(self: &Arc<Self>, trail: &Trail<'_>, waiting: &Waiting) -> Result<(), Error> {
        if !waiting.is_new {
            return Ok(());
        }
        let recorded = self.audit.approval_requested(trail, &waits_for(waiting)).await;
        if recorded.is_err() {
            let id = waiting.id.clone();
            self.with_approvals(move |approvals, _| approvals.withdraw(&id)).await?;
        } else if self.approvals.webhook().is_some() {
            let id = waiting.id.clone();
            self.with_approvals(move |approvals, _| {
                approvals.owe(&id, Step::Requested);
                Ok(())
            })
            .await?;
        }
        recorded
    }
}

/// `waits for a person with the role …`, the words of records too.
pub(super) fn waits_for(waiting: &Waiting) -> String {
    let lacks: Vec<String> = waiting.lacks.iter().map(ToString::to_string).collect();
    format!("waits for {}", lacks.join(" and "))
}

fn required(target: &str, waiting: &Waiting) -> Error {
    let Waiting { id, expires, .. } = waiting;
    let expires = rfc3339(expires.saturating_mul(1_000_000_000));
    let whom: Vec<String> = waiting.lacks.iter().map(ToString::to_string).collect();
    let error = Error::new(Code::ApprovalRequired, format!("`{target}` {}: approval `{id}`", waits_for(waiting)));
    let is_users = waiting.lacks.iter().all(|lack| lack.role.is_none());
    let error = error.suggest(match is_users {
        true => "send the same call from a client that can ask its user (it declares `elicitation`), and have the user answer".to_owned(),
        false => format!("wait for approval `{id}`, then send the very same call again, at the latest at {expires}"),
    });
    error.retry_after_ms(AGAIN_MS).data(MEMBER, json!({ "id": id, "expires": expires, "waits_for": whom }).to_string())
}

/// Refuses answers to a server's questions in a call for which a condition lifts the built-in rule: it has looked at the arguments alone.
fn brings_no_answers(admission: &Admission<'_>, round: Option<&Round>, retry: Option<Retry<'_>>) -> Result<(), Error> {
    let answers = retry.and_then(|retry| retry.responses).filter(|_| round.is_none_or(|round| round.approval.is_none()));
    if answers.is_none() || !admission.permit().is_lifted_by_conditions() {
        return Ok(());
    }
    let error =
        Error::new(Code::StateInvalid, "the call is permitted for its arguments alone, so answers to a server's questions do not go on");
    Err(error.suggest("make the call in a way in which the tool need not ask, with all that it needs among its arguments"))
}

fn is_for_user(waiting: &Waiting) -> bool {
    waiting.lacks.iter().any(|lack| lack.role.is_none())
}

/// Whether the agent's client can show its user a form. Completion is no request that questions may come back from (2026-07-28, mrtr).
fn can_be_asked(invocation: &Invocation<'_>) -> bool {
    let known = Capabilities::known_to(invocation.caller.revision.unwrap_or(Revision::NEWEST));
    invocation.method != Method::Complete && invocation.caller.capabilities.intersect(known).contains(Capabilities::ELICIT_FORM)
}

/// What the agent's user is asked: the words are ours, and the arguments are those that will run, with nothing that hides or turns them.
fn question(asked: &Asked, id: &str) -> Bytes {
    let facts = &asked.facts;
    let (principal, target, tier) = (plain(&facts.principal), plain(&facts.target), &facts.tier);
    let arguments = plain(&String::from_utf8_lossy(&asked.arguments));
    let message = format!("Doorward asks: may {principal} call {target} ({tier}) once with these arguments? {arguments} [{id}]");
    let form =
        json!({ "type": "object", "properties": { ANSWER: { "type": "boolean", "title": "Let the call run" } }, "required": [ANSWER] });
    let params = json!({ "mode": "form", "message": message, "requestedSchema": form });
    json!({ QUESTION: { "method": "elicitation/create", "params": params } }).to_string().into()
}

/// What the user has said, where that is a word: a form that was accepted says what the box in it does, and nothing where
/// there is none.
fn said(retry: Option<Retry<'_>>) -> Option<bool> {
    let responses = json::parse(retry?.responses?, json::Limits::default()).ok()?;
    let answer = responses.get(QUESTION)?;
    match answer.get("action").and_then(Node::as_str)? {
        "accept" => match answer.get("content").and_then(|content| content.get(ANSWER)).map(|node| &node.value) {
            Some(json::Value::Bool(yes)) => Some(*yes),
            _ => None,
        },
        "decline" => Some(false),
        _ => None,
    }
}

fn gone() -> Error {
    let error = Error::new(Code::ApprovalRequired, "the approval of this call has just been used by an identical one, or taken back");
    error.suggest("send the same call again where it is to be made once more; it needs an approval of its own")
}

fn too_long() -> Error {
    Error::new(Code::PayloadTooLarge, "the call needs an approval, and its arguments are longer than anybody reviews")
}

fn of(id: &str) -> String {
    json!({ "id": id }).to_string()
}

/// The key of our question, as records show questions of ours.
const QUESTION: &str = "q1";
/// The field of its form.
const ANSWER: &str = "approve";
/// The member of an error's data that names the approval.
const MEMBER: &str = "approval";
