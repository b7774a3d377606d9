//! The record of a refusal: what was decided, why, and what was wrong.
//!
//! INVARIANT: neither a value nor a name that nobody declared stands in it in clear, whatever a schema found.

use std::borrow::Cow;

use super::super::encode::Entry;
use super::super::record::Kind;
use super::{Audit, Trail, micros, truths};
use crate::catalog::Target;
use crate::error::{Category, Code, Detail, Error};
use crate::policy::DEFAULT_DENY;

/// Broken schema rules that a record tells; the first are what a reader needs.
const MAX_DETAILS: usize = 8;
/// What stands for a name that nobody declared.
const UNDECLARED: &str = "*";

impl Audit {
    pub(super) fn refusal_entry(&self, trail: &Trail<'_>, error: &Error, action: Option<&'static str>) -> Entry {
        let facts = error.facts();
        let mut record = trail.full(Kind::Refusal, &self.keys.current());
        record.action = action.map(Cow::Borrowed);
        record.decision = Some(decision(error).into());
        record.code = Some(facts.code.into());
        record.effect = Some(error.effect().as_str().into());
        record.reason = error.reason().map(Cow::Borrowed);
        record.retry_after_ms = error.wait_ms();
        record.details = details(error, trail.tool);
        if let Some(conditions) = truths(error.asked_conditions()) {
            record.conditions = Some(conditions.into());
        }
        let named = || error.rule_ids().iter().map(|rule| Cow::Borrowed(rule.as_str())).collect();
        match (error.code(), error.reason()) {
            // What permitted it stays beside what refused it.
            (Code::RateLimited | Code::BudgetExhausted | Code::LoopDetected, _) => {
                record.limit = error.rule_ids().first().map(|limit| Cow::Borrowed(limit.as_str()))
            }
            (_, Some(DEFAULT_DENY)) => record.near_rules = named(),
            // The rows that ask stand in `obligations`.
            (Code::DryRun | Code::ApprovalRequired | Code::ApprovalDenied | Code::ApprovalExpired, _) => {}
            _ => record.rule_ids = named(),
        }
        if let Some(message) = trail.unread {
            record.message_bytes = Some(message.len() as u64);
            record.message_hash = Some(self.keys.current().hash(message).into());
        }
        record.duration_us = Some(micros(trail.started));
        record.note = Some(error.detail().map_or_else(|| error.to_string(), str::to_owned).chars().take(300).collect::<String>().into());
        self.log.encode(&record)
    }
}

/// `KEYWORD POINTER` of each broken rule.
fn details<'e>(error: &'e Error, tool: Option<&Target>) -> Vec<Cow<'e, str>> {
    let declared = tool.map(|tool| &*tool.argument_names).unwrap_or_default();
    error.schema_details().iter().take(MAX_DETAILS).map(|detail| Cow::Owned(shown(detail, declared))).collect()
}

fn shown(detail: &Detail, declared: &[Box<str>]) -> String {
    let mut out = detail.keyword.clone();
    out.push(' ');
    for escaped in detail.pointer.split('/').skip(1) {
        let name = escaped.replace("~1", "/").replace("~0", "~");
        let is_place = (1..=4).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_digit());
        let is_declared = declared.binary_search_by(|known| (**known).cmp(&name)).is_ok();
        out.push('/');
        out.push_str(if is_place || is_declared { escaped } else { UNDECLARED });
    }
    out
}

/// How a call ended whose intent is stored.
pub(super) fn ending(code: Code) -> &'static str {
    match code {
        Code::UpstreamTimeout => "timed_out",
        // A person has stopped it while it ran.
        Code::Cancelled | Code::Frozen => "cancelled",
        Code::Internal => "failed",
        // Decided once more before a second try, of which nothing has left either.
        Code::PolicyDenied | Code::ToolWithheld => "not_forwarded",
        _ => "upstream_error",
    }
}

fn decision(error: &Error) -> &'static str {
    match (error.code(), error.facts().category) {
        (Code::RateLimited | Code::BudgetExhausted | Code::LoopDetected, _) => "limit",
        (Code::ApprovalRequired, _) => "needs_approval",
        // The policy's answer was yes; that nothing was done says the code.
        (Code::DryRun, _) => "allow",
        (_, Category::Policy | Category::Authentication | Category::Approval) | (Code::ToolNotFound, _) => "deny",
        (_, Category::Request) => "invalid",
        _ => "unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::DECISIONS;

    #[test]
    fn every_refusal_has_a_decision_that_can_be_asked_for() {
        for code in Code::ALL {
            assert!(DECISIONS.contains(&decision(&Error::new(*code, ""))), "{code:?}");
        }
    }

    #[test]
    fn what_a_schema_refused_is_told_without_names_that_nobody_declared() {
        let detail = |pointer: &str| Detail { pointer: pointer.into(), keyword: "type".into(), expected: "a".into(), got: "b".into() };
        let declared = ["a/b".into(), "to".into()];
        assert_eq!(shown(&detail("/to/3/sk-live-1"), &declared), "type /to/3/*");
        assert_eq!(shown(&detail("/a~1b"), &declared), "type /a~1b");
        assert_eq!(shown(&detail(""), &declared), "type ");
    }
}
