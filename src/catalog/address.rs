//! The URIs of resources as agents see them: `dw+UPSTREAM+ORIGINAL`, or the original where tools have no prefix either.
//!
//! The original follows as it is, so a template of the server is a template of ours, and any instance can route any URI:
//! nothing has to be learnt. An upstream's id has no `+`, so there is one way to split.
//! How a URI is spelled in rules is told in [`super::spelling`].

use std::borrow::Cow;

use super::manifest::Prefix;

/// How every public URI begins, except under `prefix: none`.
const SCHEME: &str = "dw+";

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
}
