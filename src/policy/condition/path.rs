//! Paths of files: whether one is within a folder, in every way in which a server may read it.
//!
//! A server may decode percent codes or not, take a backslash for a slash or not, trim a name, end it at a `;` or `:`, take capital letters for
//! small ones, or bring the text into compatibility form. Only where all these readings agree is there an answer. Links are the file system's own
//! and cannot be seen from here, nor can what a shell makes of `*` and `{}`.

use super::value::{Case, agreed};
use super::{Truth, Unclear};
use crate::catalog::step::{compatible, has_long_code, is_backslash, is_dots, is_shapeless};

/// Longest path, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// How many times a path may be percent-coded over.
const MAX_CODINGS: usize = 3;

/// Folders that a path may be within.
#[derive(Debug)]
pub(super) struct Roots {
    /// Each as its steps.
    roots: Box<[Box<[Box<str>]>]>,
    /// The folder that a relative path begins in; without one, nobody can say where it leads.
    base: Option<Box<str>>,
    case: Case,
}

impl Roots {
    /// The folders of a file.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn new(roots: &[String], base: Option<&str>, case: Case) -> Result<Self, String> {
        let plain = |root: &str| {
            let steps = steps(root).map_err(|why| format!("`{}`: {why}", root.escape_default()))?;
            let whole: String = steps.iter().map(|step| format!("/{step}")).collect();
            let same = root == whole || root == "/" && whole.is_empty();
            if !same || readings(root)?.len() > 1 {
                return Err(format!("`{}` is not a plain absolute path: write it as `/a/b`", root.escape_default()));
            }
            Ok::<_, String>(steps.iter().map(|step| case.fold(step).into()).collect())
        };
        let base = match base {
            Some(base) => plain(base).map(|_: Box<[Box<str>]>| Some(base.into()))?,
            None => None,
        };
        Ok(Self { roots: roots.iter().map(|root| plain(root)).collect::<Result<_, _>>()?, base, case })
    }

    /// Whether the path leads to one of the folders, or into it.
    pub fn contain(&self, path: &str) -> Truth {
        agreed(readings(path).map_err(Unclear)?.iter().map(|reading| self.contains(reading)))
    }

    fn contains(&self, path: &str) -> Truth {
        let absolute = match (path.starts_with('/'), &self.base) {
            (true, _) => path.to_owned(),
            (false, _) if is_special(path) => return Err(Unclear("the argument is no path that can be followed")),
            (false, Some(base)) => format!("{base}/{path}"),
            (false, None) => return Err(Unclear("the argument is a relative path")),
        };
        // Two slashes in front may begin the name of a machine, and POSIX leaves it open (4.13, pathname resolution).
        if absolute.starts_with("//") {
            return Err(Unclear("the argument may be the path of another machine"));
        }
        let steps = steps(&absolute).map_err(Unclear)?;
        let steps: Vec<String> = steps.iter().map(|step| self.case.fold(step)).collect();
        let within = |same: fn(&str, &str) -> bool| {
            let within = |root: &[Box<str>]| root.len() <= steps.len() && root.iter().zip(&steps).all(|(root, step)| same(root, step));
            self.roots.iter().any(|root| within(root))
        };
        match within(|root, step| root == step) {
            false if within(|root, step| in_small(root) == in_small(step)) => {
                Err(Unclear("the argument is such a path but for capital letters"))
            }
            within => Ok(within),
        }
    }
}

/// In the letters that a file system without case compares.
fn in_small(step: &str) -> String {
    step.to_uppercase().to_lowercase()
}

/// What does not begin at `/` and is no plain relative path either: a home folder, a variable, a drive, a URI.
fn is_special(path: &str) -> bool {
    let scheme = path
        .split_once(':')
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)));
    path.is_empty() || path.starts_with(['~', '$', '%']) || scheme
}

/// The steps of an absolute path without `.`, `..` and empty ones.
fn steps(path: &str) -> Result<Vec<&str>, &'static str> {
    let path = path.strip_prefix('/').ok_or("it is not an absolute path")?;
    let mut steps = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            // Some file systems drop spaces at the end of a name.
            step if is_dots(step) => return Err("the argument has a step that may be read as `..`"),
            step => steps.push(step),
        }
    }
    Ok(steps)
}

/// The path as a server may read it.
fn readings(path: &str) -> Result<Vec<String>, &'static str> {
    if path.len() > MAX_BYTES {
        return Err("the argument is longer than a path can be");
    }
    // Nearly every path has one reading only.
    let is_plain = |step: &str| step.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !step.ends_with('.');
    if path.split('/').all(|step| matches!(step, "." | "..") || is_plain(step)) {
        return Ok(vec![path.to_owned()]);
    }
    if has_long_code(path) {
        return Err("the argument has percent codes of another kind");
    }
    let mut found: Vec<String> = vec![path.to_owned()];
    let mut last = path.to_owned();
    for coding in 0.. {
        let Some(decoded) = decoded(&last)? else { break };
        if coding == MAX_CODINGS {
            return Err("the argument is percent-coded over and over");
        }
        found.push(decoded.clone());
        last = decoded;
    }
    for change in [compatible, with_slashes, trimmed, cut, |path: &str| path.trim().to_owned()] {
        let more: Vec<String> = found.iter().map(|path| change(path)).collect();
        found.extend(more);
        found.sort_unstable();
        found.dedup();
    }
    if found.iter().any(|path| has_long_code(path) || path.chars().any(is_treacherous)) {
        return Err("the argument has a character that no path should have");
    }
    Ok(found)
}

fn with_slashes(path: &str) -> String {
    path.replace(is_backslash, "/")
}

/// Each step as Windows opens it: without spaces and dots at its end.
fn trimmed(path: &str) -> String {
    let step = |step| if is_dots(step) { step } else { step.trim_end_matches(|letter: char| letter == '.' || letter.is_whitespace()) };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}

/// Each step as far as web servers read it, which have parameters behind a `;`, or NTFS, which has streams behind a `:`.
fn cut(path: &str) -> String {
    path.split('/').map(|step| step.split([';', ':']).next().unwrap_or_default()).collect::<Vec<_>>().join("/")
}

/// With its percent codes resolved once; `None` where it has none.
fn decoded(path: &str) -> Result<Option<String>, &'static str> {
    let hex =
        |at: usize| path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')));
    let (mut bytes, mut at, mut any) = (Vec::with_capacity(path.len()), 0, false);
    while let Some(byte) = path.as_bytes().get(at) {
        match hex(at).filter(|_| *byte == b'%') {
            Some(code) => {
                bytes.push(code);
                (at, any) = (at + 3, true);
            }
            None => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    if !any {
        return Ok(None);
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "the argument has percent codes that are no text")
}

/// Control characters, letters without a shape, and what a lenient file system or library takes for a dot or a slash beyond compatibility form.
fn is_treacherous(letter: char) -> bool {
    letter.is_control()
        || is_shapeless(letter)
        || matches!(
            letter,
            '\u{2024}' | '\u{2025}' | '\u{2026}' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{fe52}' | '\u{fe68}'
                | '\u{ff0e}' | '\u{ff0f}' | '\u{ff3c}' | '\u{202a}'..='\u{202e}' | '\u{200b}'..='\u{200f}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(root: &str, path: &str) -> &'static str {
        let roots = Roots::new(&[root.to_owned()], None, Case::Counts).unwrap();
        crate::policy::condition::word(roots.contain(path))
    }

    #[test]
    fn a_step_up_in_other_letters_gets_no_yes() {
        for rest in [
            "../../etc/passwd",
            "..;/..;/etc/passwd",
            "%2e%2e/%2e%2e/etc/passwd",
            "%252e%252e/%252e%252e/etc",
            "%u002e%u002e/%u002e%u002e/etc/passwd",
            "\u{fe30}/\u{fe30}/etc/passwd",
            "..\u{a5}..\u{a5}etc",
            "..\u{20a9}..\u{20a9}etc",
            ".. ./.. ./etc",
            "..%20/etc",
            ".. /.. /etc",
            "..\\..\\etc",
            "\u{2024}\u{2024}/etc",
            "\u{2025}/etc",
            ".\u{34f}./etc",
            ".\u{2060}./etc",
            ".\u{180e}./etc",
            ".\u{3164}./etc",
            ".%00./etc",
            "%c0%ae%c0%ae/etc",
            "..:x/..:x/etc",
            "a\n",
        ] {
            assert_ne!(answer("/srv/workspace", &format!("/srv/workspace/{rest}")), "true", "{rest}");
        }
        for path in ["//srv/workspace/x", "/\\srv/workspace/x", "/SRV/workspace/x", "/srv/workspace2/x", " /srv/workspace/a"] {
            assert_ne!(answer("/srv/workspace", path), "true", "{path}");
        }
    }

    #[test]
    fn a_folder_in_other_letters_gets_no_no() {
        for path in [
            "/etc/passwd",
            "/ETC/passwd",
            "/Etc",
            "/srv/../etc/passwd",
            "//etc/passwd",
            "/./etc",
            "/%65tc/passwd",
            "/etc\u{200b}/x",
            "/etc.",
            "/etc./passwd",
            "/etc /passwd",
            "/etc. ./passwd",
            "/etc::$DATA/x",
            "/etc;a=b/passwd",
            "/et%u0063/passwd",
            "/srv/..;/etc/passwd",
            "/\u{ff45}\u{ff54}\u{ff43}/passwd",
            "/\u{ff45}tc/passwd",
            "/srv\u{a5}..\u{a5}etc",
        ] {
            assert_ne!(answer("/etc", path), "false", "{path}");
        }
    }

    #[test]
    fn ordinary_paths_keep_their_answer() {
        for name in [
            "a",
            "a b.txt",
            "./a//b",
            "a/../b",
            "...",
            "100%/a",
            "grüße.txt",
            "a.",
            "10:30.log",
            "a;b",
            "~/x",
            "[id].tsx",
            "日本語/報告.pdf",
        ] {
            assert_eq!(answer("/srv/workspace", &format!("/srv/workspace/{name}")), "true", "{name}");
            assert_eq!(answer("/etc", &format!("/srv/workspace/{name}")), "false", "{name}");
        }
    }
}
