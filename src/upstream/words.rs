//! What a tool server writes to standard error, on its way into the log.
//!
//! INVARIANT: nobody's endless words fill the log: lines are cut, and beyond a rate only counted.
//! INVARIANT: no value that the server was given as a secret, and nothing that has the form of a well-known token, gets into the log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use regex::Regex;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::time::Instant;

use crate::catalog::transport::{Command, Variable};

/// Longest line of standard error in the log, in bytes; the rest of it is left out.
const MAX_LOG_LINE: usize = 4096;
/// Lines of standard error in the log per second; the rest is counted.
const MAX_LOG_RATE: u32 = 20;
/// Shortest value of a variable that is taken for a secret, in bytes: of one that the manifest takes from ours by another name, and of others.
const MIN_SECRET: (usize, usize) = (4, 8);
/// What stands in the place of a secret.
const HIDDEN: &str = "[secret]";

/// Tokens that are known by their form: Doorward's own keys, those of code forges, clouds, chats and models, JSON Web Tokens, what stands behind
/// `Bearer`, and passwords in addresses.
static TOKENS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let forms = [
        r"dw_[A-Za-z0-9]{4,}_[A-Za-z0-9_-]{8,}",
        r"gh[pousr]_[A-Za-z0-9]{16,}",
        r"github_pat_[A-Za-z0-9_]{16,}",
        r"glpat-[A-Za-z0-9_-]{16,}",
        r"npm_[A-Za-z0-9]{16,}",
        r"pypi-[A-Za-z0-9_-]{16,}",
        r"xox[a-z]-[A-Za-z0-9-]{8,}",
        r"sk-[A-Za-z0-9_-]{16,}",
        r"(?:AKIA|ASIA)[0-9A-Z]{12,}",
        r"AIza[A-Za-z0-9_-]{30,}",
        r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*",
        r"(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}",
        r"://[^\s/:@]*:[^\s/@]+@",
    ];
    Regex::new(&forms.join("|")).ok()
});

/// What must not stand in a log of a server's words.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Of what a command is given in its environment. Short values, and paths, say nothing that is worth hiding, unless the manifest
    /// itself keeps them out of its text.
    pub(super) fn of(command: &Command, environment: &BTreeMap<String, OsString>) -> Self {
        let value = |(name, variable): (&String, &Variable)| {
            let value = environment.get(name)?.to_str()?;
            let is_secret = match variable {
                Variable::FromEnv(_) => value.len() >= MIN_SECRET.0,
                Variable::Inherit(_) | Variable::Literal(_) => value.len() >= MIN_SECRET.1 && !value.contains('/'),
            };
            is_secret.then(|| printable(value.as_bytes()))
        };
        let mut values: Vec<String> = command.env.iter().filter_map(value).collect();
        // One secret may be the beginning of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self(values)
    }

    /// The text without them.
    pub(super) fn scrubbed(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN));
        TOKENS.as_ref().map_or_else(|| HIDDEN.to_owned(), |tokens| tokens.replace_all(&text, HIDDEN).into_owned())
    }
}

/// Puts standard error into the log, line by line, until it ends.
pub(super) async fn log(upstream: Arc<str>, mut reader: BufReader<ChildStderr>, secrets: Secrets) {
    let (mut line, mut cut) = (Vec::new(), false);
    let mut rate = Rate { since: Instant::now(), lines: 0 };
    loop {
        let Ok(chunk) = reader.fill_buf().await else { return };
        if chunk.is_empty() {
            return;
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let text = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        let room = MAX_LOG_LINE.saturating_sub(line.len());
        line.extend(text.iter().take(room));
        cut |= text.len() > room;
        let taken = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(taken);
        if end.is_some() {
            rate.line(&upstream, &said(&line, cut, &secrets), cut);
            line.clear();
            cut = false;
        }
    }
}

/// What of a line goes into the log. Of one that was cut the last word goes too: it may be the first half of a secret.
fn said(line: &[u8], cut: bool, secrets: &Secrets) -> String {
    let whole = match line.iter().rposition(u8::is_ascii_whitespace) {
        _ if !cut => line,
        Some(end) => line.get(..end).unwrap_or_default(),
        None => b"",
    };
    secrets.scrubbed(&printable(whole))
}

struct Rate {
    since: Instant,
    lines: u32,
}

impl Rate {
    fn line(&mut self, upstream: &str, line: &str, cut: bool) {
        if self.since.elapsed() >= Duration::from_secs(1) {
            let left_out = self.lines.saturating_sub(MAX_LOG_RATE);
            if left_out > 0 {
                tracing::warn!(upstream, left_out, "lines of a tool server's standard error are left out");
            }
            *self = Self { since: Instant::now(), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= MAX_LOG_RATE {
            tracing::info!(upstream, cut, stderr = %line);
        }
    }
}

/// Text of a stranger with every control character escaped: it must not steer a terminal or forge a line of the log.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().flat_map(|char| if char.is_control() { char.escape_default().collect::<Vec<_>>() } else { vec![char] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_log() {
        assert_eq!(printable(b"a\x1b[2Jb\r\x00\xffc"), "a\\u{1b}[2Jb\\r\\u{0}\u{fffd}c");
    }

    #[test]
    fn secrets_do_not_reach_the_log() {
        let text = r#"{"command":"x","env":{"KEY":{"from_env":"K"},"SHORT":"info","WORD":"correct horse","PLACE":"/srv/notes/here"}}"#;
        let command: Command = serde_json::from_str(text).unwrap();
        let value = |(name, value): (&str, &str)| (name.to_owned(), OsString::from(value));
        let given = [("KEY", "k3y!"), ("SHORT", "info"), ("WORD", "correct horse"), ("PLACE", "/srv/notes/here")];
        let secrets = Secrets::of(&command, &given.into_iter().map(value).collect());
        assert_eq!(secrets.scrubbed("info: k3y! and correct horse in /srv/notes/here"), "info: [secret] and [secret] in /srv/notes/here");
        for (said, logged) in [
            ("key dw_abcd1234_ZmFrZXNlY3JldA given", "key [secret] given"),
            ("ghp_0123456789abcdefghij", "[secret]"),
            ("Authorization: Bearer abcdef0123456789", "Authorization: [secret]"),
            ("postgres://me:pass@host/db", "postgres[secret]host/db"),
            ("eyJhbGciOi.eyJzdWIiOi.c2ln", "[secret]"),
            ("nothing to hide: skip, bearer of news", "nothing to hide: skip, bearer of news"),
        ] {
            assert_eq!(secrets.scrubbed(said), logged);
        }
    }

    #[test]
    fn half_a_secret_at_the_end_of_a_cut_line_is_left_out() {
        let secrets = Secrets(vec!["abcdefghijkl".to_owned()]);
        assert_eq!(said(b"the key is abcdefg", true, &secrets), "the key is");
        assert_eq!(said(b"the key is abcdefghijkl", false, &secrets), "the key is [secret]");
        assert_eq!(said(b"abcdefgh", true, &secrets), "");
    }
}
