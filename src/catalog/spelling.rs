//! How the URIs of resources are spelled where rules meet them.
//!
//! A URI has many spellings: `%73` is `s`, a scheme and a host have no case, `file://localhost/` is `file:///`; and a server may
//! take for the same what RFC 3986 does not: `%2F` for `/`, two slashes for one, a file's URI with a query for one without.
//!
//! INVARIANT: rules are in one spelling only, the plain one, and the loader refuses them in another.
//! INVARIANT: a request is decided in its normal spelling and in its plain one, and needs the permit of both. So a deny cannot
//! be walked round by spelling a URI otherwise, and an allow does not reach what only a lenient server takes for its URI.

use std::borrow::Cow;

use fluent_uri::Uri;

use super::step;

/// Longest URI of a server, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// How many times a URI may be percent-coded over; deeper coding is refused.
const MAX_CODINGS: usize = 3;
/// How the URIs of files begin (RFC 8089, section 2).
const FILES: &str = "file:///";
/// What a cut URI is made whole with, to see how it is spelled.
const ENDINGS: [&str; 4] = ["x", "0", "/x", ""];

/// A URI as rules compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelling {
    /// Normalized by syntax and scheme (RFC 3986, sections 6.2.2 and 6.2.3): the same resource for everybody.
    pub normal: String,
    /// What a lenient server may take it for, where that differs: percent codes resolved over and over, slashes of any kind and
    /// number as one, without user, fragment, and the host and query of a file.
    pub plain: Option<String>,
}

impl Spelling {
    /// The spellings of a URI or a template; `None` for what is no URI, and for one whose path has a step `.` or `..`,
    /// however it is coded: nobody could say where that leads.
    pub fn of(own: &str) -> Option<Self> {
        if own.is_empty() || own.len() > MAX_BYTES || !is_straight(own.as_bytes()) {
            return None;
        }
        let kept = |byte: u8| is_unreserved(byte) || is_delimiter(byte) || b"/:?@%".contains(&byte);
        // Brackets belong to a host alone, and a `#` begins a fragment once.
        let (resource, fragment) = own.split_once('#').map_or((own, None), |(resource, fragment)| (resource, Some(fragment)));
        let host = resource.find("://").map_or(0, |at| at + 3);
        let end = resource.get(host..)?.find(['/', '?']).map_or(resource.len(), |at| host + at);
        let mut text = encoded(resource.get(..end)?.as_bytes(), |byte| kept(byte) || b"[]".contains(&byte));
        text.push_str(&encoded(resource.get(end..)?.as_bytes(), kept));
        if let Some(fragment) = fragment {
            text.push('#');
            text.push_str(&encoded(fragment.as_bytes(), kept));
        }
        let uri = Uri::parse(text.as_str()).ok()?.normalize();
        let (normal, plain) = (normal(&uri), plain(&uri));
        Some(Self { plain: (plain != normal).then_some(plain), normal })
    }

    /// The spelling that a rule must have.
    fn into_rule(self) -> String {
        self.plain.unwrap_or(self.normal)
    }
}

/// Whether a rule has its URI, or the beginning of one, in the plain spelling.
///
/// # Errors
/// The plain spelling; `None` when nothing that a request could name is spelled like it.
pub fn check_rule(stem: &str, is_wildcard: bool) -> Result<(), Option<String>> {
    if !is_wildcard {
        let plain = Spelling::of(stem).map(Spelling::into_rule);
        return if plain.as_deref() == Some(stem) { Ok(()) } else { Err(plain) };
    }
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    if FILES.starts_with(stem) || !stem.contains(':') && is_scheme(stem) {
        return Ok(());
    }
    // A percent code cut in two covers letters that are written without one.
    let cut = stem.bytes().rev().take(2).position(|byte| byte == b'%');
    if let Some(whole) = cut.and_then(|back| stem.get(..stem.len() - back - 1)) {
        return Err(Some(whole.to_owned()));
    }
    let mut spelled = None;
    for ending in ENDINGS {
        let Some(plain) = Spelling::of(&format!("{stem}{ending}")).map(Spelling::into_rule) else { continue };
        match plain.strip_prefix(stem).is_some_and(|rest| rest.starts_with(ending)) {
            true => return Ok(()),
            false => spelled = spelled.or_else(|| plain.strip_suffix(ending).map(str::to_owned)),
        }
    }
    Err(spelled)
}

/// Without control characters and steps up, on the spot and after each decoding.
fn is_straight(own: &[u8]) -> bool {
    let mut text = Cow::Borrowed(own);
    for _ in 0..=MAX_CODINGS {
        if text.iter().any(u8::is_ascii_control) || has_dots(&String::from_utf8_lossy(&text)) {
            return false;
        }
        match decoded(&text) {
            Some(plain) => text = Cow::Owned(plain),
            None => return true,
        }
    }
    false
}

/// Whether a lenient reader finds a step `.` or `..` in the text, whatever it parts steps with.
fn has_dots(text: &str) -> bool {
    let shown: String = step::compatible(text).chars().filter(|letter| !step::is_shapeless(*letter)).collect();
    let parts = |letter: char| "/?#&=;:".contains(letter) || step::is_backslash(letter);
    shown.split(parts).any(step::is_dots) || step::has_long_code(text)
}

/// A file's host may be left out, or be this machine (RFC 8089, section 2); the path of a web page is never empty.
fn normal(uri: &Uri<String>) -> String {
    let host = uri.authority().map(|authority| authority.as_str());
    let path = uri.path().as_str();
    let (host, path) = match (uri.scheme().as_str(), host) {
        ("file", None | Some("localhost")) if path.starts_with('/') => (Some(""), path),
        ("http" | "https", Some(host)) if path.is_empty() => (Some(host), "/"),
        (_, host) => (host, path),
    };
    let query = uri.query().map(|query| query.as_str());
    written(uri.scheme().as_str(), host, path, query, uri.fragment().map(|fragment| fragment.as_str()))
}

fn plain(uri: &Uri<String>) -> String {
    let scheme = uri.scheme().as_str();
    let mut path = resolved(uri.path().as_str(), |byte| is_unreserved(byte) || is_delimiter(byte) || b"/:@\\".contains(&byte));
    path = path.replace('\\', "/");
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    if scheme == "file" && path.starts_with('/') {
        return written(scheme, Some(""), &path, None, None);
    }
    let host = uri.authority().map(|authority| {
        let port = authority.port().filter(|port| !port.is_empty());
        let host = authority.host().trim_end_matches('.');
        port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    });
    if matches!(scheme, "http" | "https") && host.is_some() && path.is_empty() {
        path.push('/');
    }
    let kept = |byte: u8| is_unreserved(byte) || is_delimiter(byte) || b"/:@?".contains(&byte);
    let query = uri.query().map(|query| resolved(query.as_str(), kept));
    written(scheme, host.as_deref(), &path, query.as_deref(), None)
}

fn written(scheme: &str, host: Option<&str>, path: &str, query: Option<&str>, fragment: Option<&str>) -> String {
    let mut out = format!("{scheme}:");
    for (mark, part) in [("//", host), ("", Some(path)), ("?", query), ("#", fragment)] {
        if let Some(part) = part {
            out.push_str(mark);
            out.push_str(part);
        }
    }
    out
}

/// The part decoded as often as it can be, and coded again where it must be.
fn resolved(part: &str, kept: impl Fn(u8) -> bool) -> String {
    let mut text = Cow::Borrowed(part.as_bytes());
    while let Some(plain) = decoded(&text) {
        text = Cow::Owned(plain);
    }
    encoded(&text, kept)
}

/// The text with all bytes but the kept ones percent-coded. A `%` is kept, where it may be, only as part of a code.
fn encoded(text: &[u8], kept: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, byte) in text.iter().enumerate() {
        let is_code = || text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if kept(*byte) && (*byte != b'%' || is_code()) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
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

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn is_delimiter(byte: u8) -> bool {
    b"!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(own: &str) -> (String, String) {
        let spelling = Spelling::of(own).unwrap_or_else(|| panic!("{own} is no URI"));
        (spelling.normal.clone(), spelling.into_rule())
    }

    #[test]
    fn a_step_upwards_is_found_however_it_is_coded() {
        let crooked = ["", "x:\n", "x:%0a", "x://a/../b", "x://a/%2e%2E/b", "x://a/..", "x:..", "x://a%2f..%2fb", "x://a/%252e%252e/b"];
        let worse = [r"x://a\..\b", "x://a/./b", "x://a?path=../b", "x:%25252525252e", "no-scheme", "/etc", "x://h:port/"];
        for own in crooked.into_iter().chain(worse) {
            assert_eq!(Spelling::of(own), None, "{own}");
        }
        for own in ["x://a/..;/b", "x://a/.. /b", "x://a/%u002e%u002e/b", "x://a/\u{fe30}/b", "x://a/%EF%B8%B0/b", "x://a/..\u{a5}b"] {
            assert_eq!(Spelling::of(own), None, "{own}");
        }
        for own in ["x://a/.\u{34f}./b", "x://a/.%20./b", "x://a/\u{ff0e}\u{ff0e}/b", "x://a/..\u{20a9}b", "x://a/.\u{2060}./b"] {
            assert_eq!(Spelling::of(own), None, "{own}");
        }
        for own in ["file:///a/..b/c...", "x://a/%20b/100%", "test://template/{id}/data", "x://a?b=c&d=%C3%A9", "x://[::1]/[a]"] {
            assert!(Spelling::of(own).is_some(), "{own}");
        }
    }

    #[test]
    fn spellings_that_mean_the_same_to_everybody_are_one() {
        for own in ["FILE:///a/%73ecret", "file://localhost/a/secret", "file:/a/secret", "file:///%61/secret", "file://LOCALHOST/a/secret"]
        {
            assert_eq!(spelled(own), ("file:///a/secret".into(), "file:///a/secret".into()), "{own}");
        }
        for own in ["HTTP://Example.ORG:80", "http://example.org/", "http://example.org:/", "http://EXAMPLE.org:080/"] {
            assert_eq!(spelled(own).0, "http://example.org/", "{own}");
        }
        assert_eq!(spelled("notes://a b/é%c3%a9").0, "notes://a%20b/%C3%A9%C3%A9");
        assert_eq!(spelled("x:/a/100%").0, "x:/a/100%25");
    }

    #[test]
    fn what_a_lenient_server_takes_for_the_same_has_the_same_plain_spelling() {
        let files = ["file:///a%2Fsecret", "file:////a//secret", "file://elsewhere/a/secret", "file://u@h/a/secret", r"file:///a\secret"];
        let more = ["file:///a/secret?x", "file:///a/secret#x", "file:///a/%2573ecret", "file:///a%255csecret"];
        for own in files.into_iter().chain(more) {
            assert_eq!(spelled(own).1, "file:///a/secret", "{own}");
            assert_ne!(spelled(own).0, "file:///a/secret", "{own}");
        }
        for own in ["x://u@h.:1/a//b#c", "x://h:1/a/b#", "x://h:1/a%2Fb"] {
            assert_eq!(spelled(own).1, "x://h:1/a/b", "{own}");
        }
        assert_eq!(spelled("x://h/a?b%3Dc%20d").1, "x://h/a?b=c%20d");
        assert_eq!(spelled("x://h/a%3Fb%23c").1, "x://h/a%3Fb%23c");
    }

    #[test]
    fn a_plain_spelling_is_its_own() {
        for own in ["file:///a%20b", "x://h/100%25", "http://h:8080/?a=%5B", "x:a:b", "urn:isbn:1", "x://[::1]/%5Ba%5D", "x://h/%C3%A9"] {
            assert_eq!(spelled(own), (own.to_owned(), own.to_owned()));
        }
    }

    #[test]
    fn a_rule_has_the_plain_spelling() {
        for stem in
            ["", "fi", "file:", "file:/", "file://", "file:///", "file:///srv/", "file:///a.", "test://template/", "http://h:80", "x+y"]
        {
            assert_eq!(check_rule(stem, true), Ok(()), "{stem}*");
        }
        let spelled = |stem: &str| check_rule(stem, true).unwrap_err();
        assert_eq!(spelled("FILE:///a/").as_deref(), Some("file:///a/"));
        assert_eq!(spelled("file:///%73").as_deref(), Some("file:///s"));
        assert_eq!(spelled("file:///a%2Fb").as_deref(), Some("file:///a/b"));
        assert_eq!(spelled("file:///a%2").as_deref(), Some("file:///a"));
        assert_eq!(spelled("file:///a%").as_deref(), Some("file:///a"));
        assert_eq!(spelled("file://localhost/a").as_deref(), Some("file:///a"));
        assert_eq!(spelled("x://a/../"), None);
        assert_eq!(check_rule("file:///a/secret", false), Ok(()));
        assert_eq!(check_rule("file:///a//secret", false).unwrap_err().as_deref(), Some("file:///a/secret"));
        assert_eq!(check_rule("secret", false), Err(None));
    }
}
