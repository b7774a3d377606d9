//! Paths of files: whether one is within a folder, in every way in which a server may read it.
//!
//! A server may decode percent codes or not, take a backslash for a slash or not, and trim a name or not. Only where all these readings
//! agree is there an answer. Links are the file system's own and cannot be seen from here.

use super::value::{Case, agreed};
use super::{Truth, Unclear};

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
        let steps = steps(&absolute).map_err(Unclear)?;
        let steps: Vec<String> = steps.iter().map(|step| self.case.fold(step)).collect();
        let within = |root: &[Box<str>]| root.len() <= steps.len() && root.iter().zip(&steps).all(|(root, step)| **root == **step);
        Ok(self.roots.iter().any(|root| within(root)))
    }
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
            step if matches!(step.trim(), "." | "..") => return Err("the argument has a step that may be read as `..`"),
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
    if path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)) {
        return Ok(vec![path.to_owned()]);
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
    for change in [|path: &str| path.replace('\\', "/"), |path: &str| path.trim().to_owned()] {
        let more: Vec<String> = found.iter().map(|path| change(path)).collect();
        found.extend(more);
    }
    if found.iter().any(|path| path.chars().any(is_treacherous)) {
        return Err("the argument has a character that no path should have");
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
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

/// Control characters, and what a lenient file system or library takes for a dot or a slash.
fn is_treacherous(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{2024}' | '\u{2025}' | '\u{2026}' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{fe52}' | '\u{fe68}'
                | '\u{ff0e}' | '\u{ff0f}' | '\u{ff3c}' | '\u{202a}'..='\u{202e}' | '\u{200b}'..='\u{200f}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{ad}'
        )
}
