//! A result as one text, to be sealed.

use bytes::Bytes;

use crate::mcp::respond::CallResult;

/// The first byte of a stored result.
const VERSION: u8 = 1;

/// A result as it is sealed, with the rows that had redacted it.
pub(super) fn packed(redactions: &str, result: &CallResult) -> Vec<u8> {
    let parts = [redactions.as_bytes(), &result.members, &result.newer, &result.meta];
    let mut out = vec![VERSION, u8::from(result.is_error)];
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// What [`packed`] wrote; `None` for anything else.
pub(super) fn unpacked(plain: &[u8]) -> Option<(String, CallResult)> {
    let (head, mut rest) = plain.split_at_checked(2)?;
    let [VERSION, is_error] = *head else { return None };
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (part, after) = after.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        rest = after;
        Some(Bytes::copy_from_slice(part))
    };
    let redactions = String::from_utf8(part()?.to_vec()).ok()?;
    let (members, newer, meta) = (part()?, part()?, part()?);
    Some((redactions, CallResult { members, newer, meta, is_error: is_error != 0, cache: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(words: &str) -> CallResult {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        CallResult { members: bytes(words), newer: bytes("\"structuredContent\":5"), meta: bytes(""), is_error: true, cache: None }
    }

    #[test]
    fn a_result_is_read_as_it_was_stored_and_nothing_else_is() {
        let packed = packed("O1 redact", &result("\"content\":[]"));
        let (redactions, read) = unpacked(&packed).unwrap();
        assert_eq!(
            (redactions.as_str(), &read.members[..], &read.newer[..], read.meta.len(), read.is_error),
            ("O1 redact", &b"\"content\":[]"[..], &b"\"structuredContent\":5"[..], 0, true)
        );
        for length in 0..packed.len() {
            assert!(unpacked(&packed[..length]).is_none(), "{length}");
        }
    }
}
