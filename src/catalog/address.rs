//! The URIs of resources as agents see them: `dw+UPSTREAM+ORIGINAL`, or the original where tools have no prefix either.
//!
//! The original follows as it is, so a template of the server is a template of ours, and any instance can route any URI:
//! nothing has to be learnt. An upstream's id has no `+`, so there is one way to split.
//!
//! INVARIANT: a rule for everything that begins in one way cannot be walked out of: a URI with a step upwards, however it is
//! coded, is no URI here.

use std::borrow::Cow;

use super::manifest::Prefix;

/// How every public URI begins, except under `prefix: none`.
const SCHEME: &str = "dw+";
/// Longest URI of a server, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// How many times a URI may be percent-coded over; deeper coding is refused.
const MAX_CODINGS: usize = 3;

/// The public form of a server's own URI or URI template.
pub fn public<'u>(prefix: Prefix, upstream: &str, own: &'u str) -> Cow<'u, str> {
    match prefix {
        Prefix::None => Cow::Borrowed(own),
        Prefix::Upstream => Cow::Owned(format!("{SCHEME}{upstream}+{own}")),
    }
}

/// The upstream's id and its own URI, out of the public form with a prefix.
pub fn split(uri: &str) -> Option<(&str, &str)> {
    uri.strip_prefix(SCHEME)?.split_once('+')
}

/// Whether the URI of a server means what it begins with: it has no control characters, and no step of its path is `.` or
/// `..`.
pub fn is_straight(own: &str) -> bool {
    if own.is_empty() || own.len() > MAX_BYTES {
        return false;
    }
    let mut text = Cow::Borrowed(own.as_bytes());
    for _ in 0..=MAX_CODINGS {
        let is_step = |step: &[u8]| matches!(step, b"." | b"..");
        if text.iter().any(u8::is_ascii_control) || text.split(|byte| b"/\\?#&=;:".contains(byte)).any(is_step) {
            return false;
        }
        match decoded(&text) {
            Some(plain) => text = Cow::Owned(plain),
            None => return true,
        }
    }
    false
}

/// The text with its percent codes resolved; `None` where there are none.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest, mut coded) = (Vec::with_capacity(text.len()), text, false);
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| (*digit as char).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = after.get(2..).unwrap_or_default();
                coded = true;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    coded.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_uri_leads_back_to_its_server() {
        for own in ["file:///a b", "test://template/{id}/data", "dw+other+x:y", "a+b"] {
            assert_eq!(split(&public(Prefix::Upstream, "files", own)), Some(("files", own)));
            assert_eq!(public(Prefix::None, "files", own), own);
        }
        assert_eq!((split("file:///a"), split("dw+files")), (None, None));
    }

    #[test]
    fn a_step_upwards_is_found_however_it_is_coded() {
        let crooked = ["", "x:\n", "x:%0a", "x://a/../b", "x://a/%2e%2E/b", "x://a/..", "x:..", "x://a%2f..%2fb", "x://a/%252e%252e/b"];
        let worse = [r"x://a\..\b", "x://a/./b", "x://a?path=../b", "x:%25252525252e"];
        for own in crooked.into_iter().chain(worse) {
            assert!(!is_straight(own), "{own}");
        }
        for own in ["file:///a/..b/c...", "x://a/%20b/100%", "test://template/{id}/data", "x://a?b=c&d=%C3%A9"] {
            assert!(is_straight(own), "{own}");
        }
    }
}
