//! The payloads of a call: what it is called with, and what it ends with, kept sealed beside its records.
//!
//! Owns: what is kept. Leaves to others: where and how (`payload`).
//!
//! INVARIANT: arguments that cannot be kept are not forwarded. A result that cannot be kept reaches its agent, and its record says so.

use zeroize::Zeroizing;

use super::super::log::AppendError;
use super::super::payload::{MISSING, Payloads, Place, StoreError};
use super::super::record::Kind;
use super::{Arc, Audit, Trail, unavailable};
use crate::error::{Code, Error};
use crate::invocation::Invocation;
use crate::mcp::respond::{CallResult, Ending};

impl Trail<'_> {
    /// Whose payload it is, and of which record.
    fn place(&self, kind: Kind) -> Place {
        let principal = &self.caller.principal;
        let behalf = principal.token.as_ref().and_then(|token| token.on_behalf_of.as_deref());
        Place { subject: behalf.unwrap_or(&principal.id).to_owned(), call_id: self.id_text.clone(), kind }
    }
}

impl Audit {
    /// Stores what the call is made with, before the record that will name it.
    ///
    /// # Errors
    /// `payload_too_large`, or `audit_unavailable`: the call must not be made.
    pub(super) async fn keep_arguments(&self, trail: &mut Trail<'_>, kind: Kind, invocation: &Invocation<'_>) -> Result<(), Error> {
        let mut plain = Zeroizing::new(b"{\"arguments\":".to_vec());
        plain.extend_from_slice(invocation.arguments.text());
        for (name, more) in [("answers", trail.answers), ("context", invocation.context)] {
            if let Some(more) = more {
                plain.extend_from_slice(format!(",\"{name}\":").as_bytes());
                plain.extend_from_slice(more);
            }
        }
        plain.push(b'}');
        let stored = self.payloads()?.store(&self.log, trail.place(kind), plain).await;
        let reference = stored.map_err(|error| match error {
            StoreError::TooLarge(_) => Error::new(Code::PayloadTooLarge, format!("the arguments have to be kept on record: {error}")),
            StoreError::Disk(error) => unavailable(error),
            StoreError::NoRandomness => not_kept().operator(error),
        })?;
        trail.payload = Some(reference.to_string().into());
        Ok(())
    }

    /// Stores what the call ended with; what the record of its end says of that. None where it ended with nothing.
    pub(super) async fn keep_ending(&self, trail: &Trail<'_>, outcome: &Result<Ending, Error>) -> Option<String> {
        trail.intent.as_ref()?;
        let plain = match outcome {
            Ok(Ending::Complete(result)) => whole(result),
            Ok(Ending::Asks(questions)) => Zeroizing::new([b"{\"questions\":", &questions.requests[..], b"}"].concat()),
            Err(_) => return None,
        };
        let kind = if trail.parked { Kind::Round } else { Kind::Outcome };
        let stored = self.payloads.as_ref()?.store(&self.log, trail.place(kind), plain).await;
        Some(stored.map(|reference| reference.to_string()).unwrap_or_else(|error| {
            tracing::error!(invocation = trail.id_text, %error, "the result is not kept beside the audit log, though it should be");
            format!("{MISSING} {}", error.word())
        }))
    }

    fn payloads(&self) -> Result<&Arc<Payloads>, Error> {
        self.payloads
            .as_ref()
            .ok_or_else(|| not_kept().operator("nobody is configured who could open payloads: see `audit.payloads.openers`"))
    }

    /// An intent was refused by the log. What was kept for it goes where no record can name it.
    pub(super) fn unrecorded(&self, trail: &mut Trail<'_>, error: AppendError) -> Error {
        let kept = trail.payload.take();
        let is_nowhere = matches!(error, AppendError::Closed | AppendError::NoSpace | AppendError::Backlog);
        if let (Some(payloads), Some(kept), true) = (&self.payloads, kept, is_nowhere) {
            payloads.discard(&self.log, &kept);
        }
        unavailable(error)
    }
}

/// A result with all that is relayed of it.
fn whole(result: &CallResult) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(b"{\"result\":{".to_vec());
    let meta = if result.meta.is_empty() { Vec::new() } else { [b"\"_meta\":{", &result.meta[..], b"}"].concat() };
    let parts = [&result.members[..], &result.newer, &meta];
    for (at, part) in parts.into_iter().filter(|part| !part.is_empty()).enumerate() {
        plain.extend_from_slice(if at == 0 { b"" } else { b"," });
        plain.extend_from_slice(part);
    }
    plain.extend_from_slice(b"}}");
    plain
}

fn not_kept() -> Error {
    Error::new(Code::AuditUnavailable, "the arguments could not be kept on record, so nothing was done").retry_after_ms(1_000)
}
