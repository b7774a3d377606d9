//! What a log's key signs: how large the log's tree is and its root, and at the end of a segment which key comes next. And what the operator's root
//! key signs: which key the log had at some record.
//!
//! The text of a checkpoint, of which the first three lines are those of a C2SP tlog-checkpoint:
//! ```text
//! doorward/main                    the log: NAME/ORIGIN, also the name of the key
//! 1234                             number of leaves of the tree
//! Base64(root)
//! first 57                         the record that is leaf 0; only when it is not record 1
//! segment 1001                     the first record of the segment that is being written
//! time 2026-11-21T10:00:00Z
//! next VKEY                        only in a seal, which ends a segment: the key of the next
//! ```
//! The text of a certificate:
//! ```text
//! doorward audit key
//! doorward/main                    the log
//! 1001                             the first record of the segment that the key signs
//! VKEY
//! ```
//!
//! Owns: both texts. Leaves to others: signatures (`note`), whether a root is true (`verify`).
//!
//! INVARIANT: one checkpoint has one text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::chain::MAX_SEQ;
use super::note::{MAX_NOTE_BYTES, VerifyingKey};
use super::tree::Hash;
use crate::clock::rfc3339;

/// A statement about a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log, as `NAME/ORIGIN`.
    pub name: String,
    /// How many leaves the tree has; the last of them is record `first + size - 1`.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The record that is leaf 0, from 1.
    pub first: u64,
    /// The first record of the segment that is being written.
    pub segment: u64,
    /// When, in seconds since 1970.
    pub time: i64,
    /// In a seal, the checkpoint that ends a segment: the key that signs the next segment.
    pub next: Option<VerifyingKey>,
}

impl Checkpoint {
    /// The text to sign.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.name, self.size, STANDARD.encode(self.root.0));
        if self.first != 1 {
            text.push_str(&format!("first {}\n", self.first));
        }
        let time = rfc3339(self.time.saturating_mul(1_000_000_000));
        text.push_str(&format!("segment {}\ntime {}Z\n", self.segment, time.get(..SECONDS).unwrap_or_default()));
        if let Some(next) = &self.next {
            text.push_str(&format!("next {next}\n"));
        }
        text
    }

    /// The checkpoint that has this text; `None` for every other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n').peekable();
        let name = lines.next()?.to_owned();
        let size = lines.next()?.parse().ok()?;
        let root = Hash::from_slice(&STANDARD.decode(lines.next()?).ok()?)?;
        let first = match lines.next_if(|line| line.starts_with("first ")) {
            Some(line) => line.strip_prefix("first ")?.parse().ok()?,
            None => 1,
        };
        let segment = lines.next()?.strip_prefix("segment ")?.parse().ok()?;
        let time = lines.next()?.strip_prefix("time ")?.parse::<Timestamp>().ok()?.as_second();
        let next = match lines.next_if(|line| line.starts_with("next ")) {
            Some(line) => Some(line.strip_prefix("next ")?.parse().ok()?),
            None => None,
        };
        let read = Self { name, size, root, first, segment, time, next };
        let is_number = [size, first, segment].iter().all(|number| *number <= MAX_SEQ);
        // Whatever else the text could be read as: one checkpoint has one text.
        (text.len() <= MAX_NOTE_BYTES && first > 0 && is_number && read.text() == text).then_some(read)
    }

    /// The last record that the tree covers; `None` when it covers none.
    pub fn last(&self) -> Option<u64> {
        self.first.checked_add(self.size)?.checked_sub(1).filter(|_| self.size > 0)
    }
}

/// The operator's word for a log's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The log, as `NAME/ORIGIN`.
    pub name: String,
    /// The first record of the segment that the key signs.
    pub segment: u64,
    /// The key.
    pub key: VerifyingKey,
}

impl Certificate {
    /// The text to sign.
    pub fn text(&self) -> String {
        format!("{CERTIFICATE}\n{}\n{}\n{}\n", self.name, self.segment, self.key)
    }

    /// The certificate that has this text; `None` for every other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(CERTIFICATE)?.strip_prefix('\n')?.split('\n');
        let read = Self { name: lines.next()?.to_owned(), segment: lines.next()?.parse().ok()?, key: lines.next()?.parse().ok()? };
        (read.text() == text).then_some(read)
    }
}

/// `2026-11-21T10:00:00`.
const SECONDS: usize = 19;
/// So that no other note can be taken for a certificate.
const CERTIFICATE: &str = "doorward audit key";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "doorward/main+646b1870+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";

    fn seal() -> Checkpoint {
        let next = VerifyingKey::new("doorward/main", [1; 32]).unwrap();
        Checkpoint {
            name: "doorward/main".to_owned(),
            size: 1234,
            root: Hash([7; 32]),
            first: 57,
            segment: 1001,
            time: 1_795_255_200,
            next: Some(next),
        }
    }

    #[test]
    fn the_texts_are_as_documented() {
        let text = format!(
            "doorward/main\n1234\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\nfirst 57\nsegment 1001\ntime 2026-11-21T10:00:00Z\nnext {KEY}\n"
        );
        assert_eq!((seal().text(), Checkpoint::parse(&text)), (text, Some(seal())));
        let plain = Checkpoint { first: 1, next: None, ..seal() };
        let text = "doorward/main\n1234\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\nsegment 1001\ntime 2026-11-21T10:00:00Z\n";
        assert_eq!((plain.text().as_str(), Checkpoint::parse(text)), (text, Some(plain)));
        let certificate = Certificate { name: "doorward/main".to_owned(), segment: 1001, key: KEY.parse().unwrap() };
        let text = format!("doorward audit key\ndoorward/main\n1001\n{KEY}\n");
        assert_eq!((certificate.text(), Certificate::parse(&text)), (text, Some(certificate)));
    }

    #[test]
    fn a_text_that_says_the_same_in_another_way_is_none() {
        let text = seal().text();
        for (from, to) in [
            ("1234", "9007199254740992"),
            ("1234", "01234"),
            ("1234", "+1234"),
            ("first 57", "first 1"),
            ("first 57", "first 0"),
            ("10:00:00Z", "10:00:00.0Z"),
            ("10:00:00Z", "11:00:00+01:00"),
            ("segment", "Segment"),
            ("\nnext", "\n\nnext"),
            ("\nnext", "\nfirst 57\nnext"),
            ("BwcHBwc", "BwcHBw"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert_eq!(Checkpoint::parse(&other), None, "{other}");
        }
        assert_eq!(Checkpoint::parse(&format!("{text}more\n")), None);
        assert_eq!(Checkpoint::parse(text.trim_end()), None);
        assert_eq!(Certificate::parse(&text), None);
    }

    #[test]
    fn the_last_record_is_counted_from_the_first() {
        assert_eq!(seal().last(), Some(1290));
        assert_eq!(Checkpoint { size: 0, ..seal() }.last(), None);
        assert_eq!(Checkpoint { size: u64::MAX, ..seal() }.last(), None);
    }

    proptest! {
        #[test]
        fn every_checkpoint_comes_back_from_its_text(
            size in 0..=MAX_SEQ, first in 1..=MAX_SEQ, segment in 0..=MAX_SEQ, time in 0..9_000_000_000_i64, is_seal in any::<bool>(),
        ) {
            let made = Checkpoint { size, first, segment, time, next: seal().next.filter(|_| is_seal), ..seal() };
            prop_assert_eq!(Checkpoint::parse(&made.text()), Some(made));
        }

        #[test]
        fn nothing_makes_the_reader_panic(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), text in "(\\PC|\n|first |segment |time |next ){0,40}",
        ) {
            let mut bytes = seal().text().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(Checkpoint::parse(&changed).is_none_or(|read| read.text() == changed));
            }
            prop_assert_eq!(Checkpoint::parse(&text), None);
            prop_assert_eq!(Certificate::parse(&text), None);
        }
    }
}
